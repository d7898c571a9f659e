"""The scripted model of server.py with the two endpoints of batches, /v1/files and /v1/batches.

with BatchServer(scripted_model(), polls=2) as server:
    ...  # a job is done when it was looked at three times

Both OpenAI's address (`/v1`) and DashScope's compatible one (`/compatible-mode/v1`) are there. A
job goes from validating to in_progress, finalizing and completed, a state each time it is looked
at.
"""

from __future__ import annotations

import json
import random
import re
import time
from collections import Counter
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

from helpers.server import OPENAI_ERRORS, PAGE, Answer, Handler, Record, Server, failure

STEPS = (  # method, end of the path -> what it is
    ("POST", r"/v1/files", "upload"),
    ("GET", r"/v1/files/([\w-]+)/content", "content"),
    ("POST", r"/v1/batches", "create"),
    ("GET", r"/v1/batches", "list"),
    ("GET", r"/v1/batches/([\w-]+)", "retrieve"),
    ("POST", r"/v1/batches/([\w-]+)/cancel", "cancel"),
)
EXPIRED = "This request could not be executed before the completion window expired."
Fault = Callable[[str, int], str]  # (step, or prompt of a line; how often it came) -> fault
# What may go wrong with a step: before it is done, or, "lost", when it is done.
STEP_FAULTS = ("429", "500", "reset", "html-200", "cut", "lost")


def nothing(what: str, times: int) -> str:
    return ""


def by_chance(share: float, seed: int, names: tuple[str, ...]) -> Fault:
    """Faults for this share, decided by (seed, what, how often it came)."""

    def choose(what: str, times: int) -> str:
        dice = random.Random(f"{seed}/{what}/{times}")
        return dice.choice(names) if dice.random() < share else ""

    return choose


class BatchServer(Server):
    """The server. `steps` has (step, id) of each call, `paid` each prompt that a job answered.

    `hold(step)` is called when a step is done, before its answer goes out.
    """

    def __init__(
        self, answer: Answer, *, polls: int = 2, step_fault: Fault = nothing,
        line_fault: Fault = nothing, done: Callable[[int], float] = lambda number: 1.0,
        room: int = 10**9, hold: Callable[[str], None] = lambda step: None,
        extra_lines: tuple[Record, ...] = (), batches: bool = True, seed: int = 0, **others: Any,
    ) -> None:  # fmt: skip
        self.files: dict[str, bytes] = {}
        self.jobs: dict[str, Record] = {}  # in the order of their creation
        self.steps: list[str] = []
        self.paid: list[str] = []
        self.lines: Counter[str] = Counter()  # prompt -> how often a job had it
        self.seen: Counter[str] = Counter()  # step -> how often it came
        self.polls, self.step_fault, self.line_fault = polls, step_fault, line_fault
        self.done, self.room, self.hold, self.extra_lines = done, room, hold, extra_lines
        self.batches, self.dice = batches, random.Random(seed)
        super().__init__(answer, **others)
        self.RequestHandlerClass = BatchHandler

    @property
    def all_paid(self) -> list[str]:
        """The prompts of all replies, live and of batches."""
        live = [one["prompt"] for one in self.requests if one["method"] == "POST" and one["text"]]
        return [*live, *self.paid]

    def finish_jobs(self) -> None:
        """A vendor does what it was given, whether anybody looks or not."""
        with self.lock:
            for job in self.jobs.values():
                job["polls"] = 0
                for _ in range(4):
                    self.go_on(job)

    # The steps; each returns a status and what is sent.

    def take_step(self, step: str, name: str, raw: bytes, record: Record) -> tuple[int, Any]:
        doing = {"upload": self.upload, "create": self.create, "list": self.listed}
        doing |= {"retrieve": self.retrieve, "content": self.content, "cancel": self.cancel}
        with self.lock:
            return doing[step](name, raw, record)

    def upload(self, name: str, raw: bytes, record: Record) -> tuple[int, Any]:
        boundary = re.search("boundary=([^;]+)", record["headers"]["content-type"])[1]
        parts = {}
        for part in raw.split(b"--" + boundary.strip('"').encode())[1:-1]:
            head, _, body = part.partition(b"\r\n\r\n")
            parts[re.search(rb'\bname="([^"]+)"', head)[1]] = body[:-2]
        if parts.get(b"purpose") != b"batch":
            return self.refuse_it(400, "Invalid value for purpose.")
        file_id = f"file-{uuid4().hex}"
        self.files[file_id] = parts[b"file"]
        told = {"bytes": len(parts[b"file"]), "created_at": int(time.time()), "purpose": "batch"}
        return 200, {"id": file_id, "object": "file", "filename": "f.jsonl", **told}

    def create(self, name: str, raw: bytes, record: Record) -> tuple[int, Any]:
        asked = json.loads(raw)
        if asked["input_file_id"] not in self.files or asked["completion_window"] != "24h":
            return self.refuse_it(400, "Invalid file ID or completion window.")
        wanted = asked.get("metadata") or {}
        assert all(isinstance(value, str) and len(value) <= 512 for value in wanted.values())
        job = {
            "id": f"batch_{uuid4().hex}", "object": "batch", "endpoint": asked["endpoint"],
            "errors": None, "input_file_id": asked["input_file_id"], "completion_window": "24h",
            "status": "validating", "output_file_id": None, "error_file_id": None,
            "created_at": int(time.time()), "metadata": wanted, "polls": self.polls,
            "request_counts": {"total": 0, "completed": 0, "failed": 0},
        }  # fmt: skip
        self.jobs[job["id"]] = job
        return 200, job

    def retrieve(self, name: str, raw: bytes, record: Record) -> tuple[int, Any]:
        if name not in self.jobs:
            return self.refuse_it(404, f"No batch found with id '{name}'.")
        told = json.loads(json.dumps(self.jobs[name]))
        self.go_on(self.jobs[name])
        return 200, told

    def listed(self, name: str, raw: bytes, record: Record) -> tuple[int, Any]:
        query = parse_qs(urlsplit(record["path"]).query)
        newest = [*reversed(self.jobs.values())]
        after = query.get("after", [""])[0]
        ids = [job["id"] for job in newest]
        start = ids.index(after) + 1 if after else 0
        shown = newest[start : start + int(query.get("limit", ["20"])[0])]
        more = start + len(shown) < len(newest)
        return 200, {"object": "list", "data": shown, "has_more": more}

    def content(self, name: str, raw: bytes, record: Record) -> tuple[int, Any]:
        if name not in self.files:
            return self.refuse_it(404, f"No such File object: {name}")
        return 200, self.files[name]

    def cancel(self, name: str, raw: bytes, record: Record) -> tuple[int, Any]:
        self.jobs[name]["status"] = "cancelling"
        return 200, self.jobs[name]

    def refuse_it(self, status: int, message: str) -> tuple[int, Any]:
        kind = "invalid_request_error"
        return status, {"error": {"message": message, "type": kind, "param": None, "code": None}}

    # What a job does.

    def go_on(self, job: Record) -> None:
        """To the next state, when it was looked at often enough."""
        if job["status"] == "validating":
            errors = self.problems(job)
            job["errors"] = {"object": "list", "data": errors} if errors else None
            job["status"] = "failed" if errors else "in_progress"
            job["request_counts"]["total"] = len(self.requests_of(job))
        elif job["status"] == "in_progress":
            job["polls"] -= 1
            if job["polls"] <= 0:
                self.execute(job)
                job["status"] = "finalizing"
        elif job["status"] in ("finalizing", "cancelling"):
            ended = {"finalizing": "completed", "cancelling": "cancelled"}[job["status"]]
            job["status"] = "expired" if job.get("expired") else ended

    def requests_of(self, job: Record) -> list[Record]:
        return [json.loads(line) for line in self.files[job["input_file_id"]].splitlines() if line]

    def problems(self, job: Record) -> list[Record]:
        """What a vendor finds wrong with a file before it does anything."""
        lines = self.requests_of(job)
        queued = sum(len(self.requests_of(other)) for other in self.jobs.values()
                     if other["status"] in ("validating", "in_progress"))  # fmt: skip
        if queued > self.room:
            said = f"Enqueued token limit reached for {lines[0]['body']['model']}."
            return [{"code": "token_limit_exceeded", "message": said, "line": None, "param": None}]
        ids = [line["custom_id"] for line in lines]
        found = []
        for number, line in enumerate(lines, 1):
            message = ""
            if ids.count(line["custom_id"]) > 1:
                message = "The custom_id for this request is a duplicate of another request."
            elif line["url"] != job["endpoint"] or line["method"] != "POST":
                message = "The URL provided for this request does not match the batch endpoint."
            elif line["body"]["model"] not in (*self.models, "m"):
                message = "The provided model is not supported by the Batch API."
            if message:
                found.append({"code": "invalid", "message": message, "line": number, "param": None})
        return found

    def execute(self, job: Record) -> None:
        """Answer the requests; those that come too late expire."""
        lines = self.requests_of(job)
        share = self.done([*self.jobs].index(job["id"]))
        in_time = round(share * len(lines))
        job["expired"] = in_time < len(lines)
        output, errors = [], []
        for number, line in enumerate(lines):
            if number < in_time:
                (errors if self.answer_line(line, output) else []).append(output[-1])
                if errors and errors[-1] is output[-1]:
                    output.pop()
            else:
                error = {"code": "batch_expired", "message": EXPIRED}
                errors.append(result(line["custom_id"], None, error))
        output += [*self.extra_lines]
        counts = {"total": len(lines), "completed": len(output), "failed": len(errors)}
        job["request_counts"] = counts
        for name, found in (("output_file_id", output), ("error_file_id", errors)):
            self.dice.shuffle(found)
            if found:
                job[name] = f"file-{uuid4().hex}"
                text = "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in found)
                self.files[job[name]] = text.encode()

    def answer_line(self, line: Record, output: list[Record]) -> bool:
        """Add the result of a line; return whether it is an error."""
        body = line["body"]
        turns = [turn["content"] for turn in body.get("messages", [])]
        prompt = "\n\n".join(turns) or body.get("prompt", "")
        self.lines[prompt] += 1
        record = {
            "method": "POST", "path": line["url"], "headers": {}, "body": body, "prompt": prompt,
            "parameters": body, "key": self.key or "", "text": "",
            "wire": "chat" if turns else "completion",
            "fault": self.line_fault(prompt, self.lines[prompt]),
        }  # fmt: skip
        status, raw, text = self.reply(record)
        if status == 200 and text is not None:
            self.paid.append(prompt)
        response = {"status_code": status, "request_id": uuid4().hex, "body": json.loads(raw)}
        output.append(result(line["custom_id"], response, None))
        return status != 200


def result(custom_id: str, response: Record | None, error: Record | None) -> Record:
    """A line of an output or error file."""
    name = f"batch_req_{uuid4().hex}"
    return {"id": name, "custom_id": custom_id, "response": response, "error": error}


class BatchHandler(Handler):
    """One connection of a client."""

    server: BatchServer

    def do_POST(self) -> None:
        path = self.path.split("?")[0]
        for method, pattern, step in STEPS if self.server.batches else ():
            found = re.fullmatch(f"(?:/compatible-mode)?{pattern}", path)
            if found and method == self.command:
                self.do_step(step, found[1] if found.groups() else "")
                return
        if self.server.batches or "/files" not in path:
            super().do_POST()

    do_GET = do_POST

    def do_step(self, step: str, name: str) -> None:
        """Do one step, unless a fault comes in between."""
        server = self.server
        raw = self.rfile.read(int(self.headers.get("content-length", 0)))
        headers = {key.lower(): value for key, value in self.headers.items()}
        record: Record = {"path": self.path, "headers": headers, "method": self.command}
        record |= {
            "body": {"model": "m"},
            "wire": "batch",
            "key": headers.get("authorization", "")[7:],
        }
        with server.lock:
            server.seen[step] += 1
            fault = server.step_fault(step, server.seen[step])
            server.steps.append(f"{step} {fault}".strip())
        if server.key not in (None, record["key"]):
            status, body, _ = failure(record, *OPENAI_ERRORS["401"])
        elif fault in OPENAI_ERRORS and fault:
            status, body, _ = failure(record, *OPENAI_ERRORS[fault])
        elif fault == "html-200":
            status, body = 200, PAGE % b"Hi"
        elif fault == "reset":
            self.reset()
            return
        else:
            status, told = server.take_step(step, name, raw, record)
            body = told if isinstance(told, bytes) else json.dumps(told).encode()
            server.hold(step)
        if fault == "lost":
            self.reset()
            return
        self.answer_with(status, body, fault == "cut")

    def answer_with(self, status: int, body: bytes, cut: bool) -> None:
        kind = "text/html" if body.startswith(b"<") else "application/json"
        head = f"HTTP/1.1 {status} said\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}"
        whole = head.encode() + b"\r\n\r\n" + body
        try:
            self.connection.sendall(whole[: len(whole) - len(body) // 2 - 1] if cut else whole)
        except OSError:
            cut = True
        self.close_connection = cut
