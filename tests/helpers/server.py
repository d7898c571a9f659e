"""A scripted model behind real wire formats on 127.0.0.1: OpenAI's, and DashScope's own.

with Server(lambda prompt, body: "Yes", faults=["429", "cut"]) as server:
    # DashScope: server.url + "/api/v1"
    openai.OpenAI(base_url=server.url + "/v1", api_key="k", max_retries=0)
"""

from __future__ import annotations

import json
import random
import re
import selectors
import socket
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from http.client import responses
from http.server import BaseHTTPRequestHandler
from itertools import count
from pathlib import Path
from socketserver import ThreadingTCPServer
from typing import Any
from uuid import uuid4

LISTS = ("Among which options is each answer chosen?", "每个任务的答案从哪些选项里选？")
Record = dict[str, Any]
Answer = Callable[
    [str, Record], "str | tuple[str, str]"
]  # (prompt, body) -> text, or (text, finish_reason)
Chooser = Callable[
    [int, str], str
]  # (number of the POST request, from 0; prompt) -> a name out of FAULTS, or ""
Reply = tuple[
    int, bytes, "str | None"
]  # HTTP status, body, the model's text in it (None: not to be read)

TRANSIENT = (
    "429",
    "429-retry-after",
    "500",
    "503-html",
    "reset",
    "cut",
    "html-200",
    "json-cut-200",
    "empty-200",
    "error-200",
    "no-choices",
)
SHAPED = (
    "length",
    "filter",
    "no-choices",
    "null-content",
    "drip",
)  # a refused request gets its refusal instead
FAULTS = (
    *TRANSIENT,
    "null-content",
    "429-quota",
    "401",
    "404",
    "length",
    "filter",
    "filter-400",
    "hang",
    "drip",
)
WIRES = {"/chat/completions": "chat", "/completions": "completion", "/models": "models",
         "/services/aigc/text-generation/generation": "dashscope"}  # fmt: skip
PAGE = b"<html><head><title>nginx</title></head><body><center><h1>%s</h1></center></body></html>"
PAGES = {
    "503-html": (503, PAGE % b"503 Service Unavailable"),
    "html-200": (200, PAGE % b"Hi"),
    "empty-200": (200, b""),
}
INVALID = "invalid_request_error"
FILTERED = (
    "The response was filtered due to the prompt triggering "
    "Azure OpenAI's content management policy."
)
BUSY = "The server had an error while processing your request. Sorry about that!"
NO_KEY = "Incorrect API key provided: {key}. You can find your API key at https://platform.openai.com/account/api-keys."
NO_MODEL = "The model `{body[model]}` does not exist or you do not have access to it."
OPENAI_ERRORS = {  # fault: (status, code, message, type, param)
    "429": (
        429,
        "rate_limit_exceeded",
        "Rate limit reached for {body[model]} on requests per min.",
        "requests",
    ),
    "429-quota": (
        429,
        "insufficient_quota",
        "You exceeded your current quota.",
        "insufficient_quota",
    ),
    "500": (500, None, BUSY, "server_error"),
    "error-200": (200, None, BUSY, "server_error"),
    "401": (401, "invalid_api_key", NO_KEY, INVALID),
    "404": (404, "model_not_found", NO_MODEL, INVALID),
    "filter-400": (400, "content_filter", FILTERED, None, "prompt"),
    "": (404, None, "Invalid URL ({method} {path})", INVALID),
}
DASHSCOPE_ERRORS = {  # fault: (status, code, message)
    "429": (429, "Throttling.RateQuota", "Requests rate limit exceeded, please try again later."),
    "429-quota": (
        400,
        "Arrearage",
        "Access denied, please make sure your account is in good standing.",
    ),
    "500": (500, "InternalError", "An internal error has occured, please try again later."),
    "error-200": (200, "InternalError", "An internal error has occured, please try again later."),
    "401": (401, "InvalidApiKey", "Invalid API-key provided."),
    "404": (404, "ModelNotFound", "Model can not be found."),
    "filter": (400, "DataInspectionFailed", "Output data may contain inappropriate content."),
    "filter-400": (200, "DataInspectionFailed", "Output data may contain inappropriate content."),
}


def storm(share: float, seed: int, names: Iterable[str] = TRANSIENT) -> Chooser:
    """Faults for this share of requests, decided by (seed, prompt, how often it came): thread
    timing plays no part."""
    names, seen, lock = tuple(names), Counter[str](), threading.Lock()

    def choose(index: int, prompt: str) -> str:
        with lock:
            seen[prompt] += 1
            dice = random.Random(f"{seed}/{seen[prompt]}/{prompt}")
        return dice.choice(names) if dice.random() < share else ""

    return choose


class Server(ThreadingTCPServer):
    """The server, as a context manager. With `null_param`, refusals name the parameter in their
    message only.

    Each of `requests` has method, path, headers (names in lower case), body, wire, prompt, key,
    parameters, at, fault, text (the model's, as far as the client can read it), delivered: whether
    a reply with such a text (for models: the list) went out whole to a client that was still there,
    and left: whether the client gave up before an answer. What `answer` or `faults` raise closes
    the connection, and is raised again at the end of the block.
    """

    allow_reuse_address, daemon_threads, block_on_close, request_queue_size = (
        True,
        True,
        False,
        1024,
    )

    def __init__(
        self, answer: Answer, *, faults: Iterable[str] | Chooser = (),
        delay: float | Callable[[str], float] = 0.0,  # seconds, or a function of the prompt
        models: Iterable[str] = ("test-model",), refuse: Iterable[str] = (), key: str | None = None,
        null_param: bool = False, hang_s: float = 30.0, drip_s: float = 2.0,
    ) -> None:  # fmt: skip
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.answer, self.delay, self.hang_s, self.drip_s, self.key = (
            answer,
            delay,
            hang_s,
            drip_s,
            key,
        )
        self.models, self.refuse, self.null_param = tuple(models), tuple(refuse), null_param
        rest = iter(()) if callable(faults) else iter(faults)
        self.choose: Chooser = faults if callable(faults) else lambda index, prompt: next(rest, "")
        self.requests: list[Record] = []
        self.errors: list[BaseException] = []
        self.max_in_flight, self.posts, self.lock = 0, count(), threading.Lock()
        self.connections: set[socket.socket] = set()
        self.busy: set[socket.socket] = (
            set()
        )  # those with a POST request whose answer is not out yet
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self.shutdown()
        self.server_close()
        end = time.monotonic() + 2
        while self.connections and time.monotonic() < end:
            for connection in list(self.connections):
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)  # wakes up whatever waits on it
            time.sleep(0.002)
        if self.errors:
            raise self.errors[0] from error

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.busy.discard(request)
        super().shutdown_request(request)
        self.connections.discard(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if (error := sys.exception()) and not isinstance(
            error, ConnectionError
        ):  # clients come and go as they like
            self.errors.append(error)

    def begin(self, record: Record, connection: socket.socket) -> None:
        """Write a request down and choose its fault. Requests that a client has given up are not in
        flight."""
        with self.lock:
            self.requests.append(record)
            if record["method"] == "GET":
                return
            self.busy.add(connection)
            if len(self.busy) > self.max_in_flight:
                self.busy -= leaving(list(self.busy))
                self.max_in_flight = max(self.max_in_flight, len(self.busy))
            record["fault"] = self.choose(next(self.posts), record["prompt"]) or ""
        assert record["fault"] in ("", *FAULTS), f"no such fault: {record['fault']!r}"

    def delay_of(self, record: Record) -> float:
        """How many seconds the answer to this request takes."""
        delay = self.delay
        record["delay"] = delay(record["prompt"]) if callable(delay) else delay
        return record["delay"]

    def reply(self, record: Record) -> Reply:
        """Say what a request gets back."""
        fault, wire = record["fault"].removesuffix("-retry-after"), record["wire"]
        errors: dict[str, tuple[Any, ...]] = (
            DASHSCOPE_ERRORS if wire == "dashscope" else OPENAI_ERRORS
        )
        if fault in PAGES:
            return *PAGES[fault], None
        if not fault or fault in SHAPED:
            if self.key not in (None, record["key"]):
                return failure(record, *errors["401"])
            for name in self.refuse:
                if refusal := refused(record, name, self.null_param):
                    return refusal
        if not wire or (fault and fault in errors):
            return failure(record, *errors[fault if wire else ""])
        if wire == "models":
            listed = [
                {"id": model, "object": "model", "created": 0, "owned_by": "test"}
                for model in self.models
            ]
            return 200, json.dumps({"object": "list", "data": listed}).encode(), ""
        return answered(record, self.answer(record["prompt"], record["body"]))


class Handler(BaseHTTPRequestHandler):
    """One connection of a client."""

    protocol_version, disable_nagle_algorithm = "HTTP/1.1", True
    server: Server

    def log_message(self, *args: Any) -> None:
        """Write nothing to stderr."""

    def do_POST(self) -> None:
        record = self.receive()
        self.server.begin(record, self.connection)
        hang = record["fault"] == "hang"
        delay = self.server.delay_of(record) if self.command == "POST" else 0.0
        record["left"] = bool(leaving([self.connection], self.server.hang_s if hang else delay))
        if record["left"] or hang:
            self.close_connection = True
        elif record["fault"] == "reset":
            self.reset()
        else:
            self.send(record, *self.server.reply(record))

    do_GET = do_POST

    def receive(self) -> Record:
        headers = {name.lower(): value for name, value in self.headers.items()}
        raw = self.rfile.read(length := int(headers.get("content-length", 0)))
        if self.command == "POST" and len(raw) < max(1, length):
            raise ConnectionError("the client was killed while it sent this request")
        body, path = json.loads(raw or "{}"), self.path.split("?")[0]
        wire = next((wire for end, wire in WIRES.items() if path.endswith(end)), "")
        asked = body.get("input", {}) if wire == "dashscope" else body
        return {
            "method": self.command,
            "path": self.path,
            "headers": headers,
            "body": body,
            "wire": wire,
            "fault": "",
            "key": headers.get("authorization", "").removeprefix("Bearer "),
            "delivered": False,
            "left": False,
            "text": "",
            "prompt": "\n\n".join(message["content"] for message in asked.get("messages", []))
            or asked.get("prompt", ""),
            "parameters": body.get("parameters", {}) if wire == "dashscope" else body,
            "at": time.monotonic(),
        }

    def reset(self) -> None:
        """Close with an RST: no FIN may go first, and no second handle may keep the socket open."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.server.busy.discard(self.connection)
        self.rfile.close()
        self.connection.close()
        self.close_connection = True

    def send(self, record: Record, status: int, body: bytes, text: str | None) -> None:
        """Send a reply. How that ends is noted before the last byte leaves: who has read the reply
        finds it noted."""
        fault, kind = record["fault"], "text/html" if body.startswith(b"<") else "application/json"
        head = (
            f"HTTP/1.1 {status} {responses[status]}\r\n"
            f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
        )
        whole = (
            head + "Retry-After: 0.2\r\n" * (fault == "429-retry-after") + "\r\n"
        ).encode() + body
        if fault == "cut":
            whole, self.close_connection = whole[: -len(body) // 2], True
        step = len(whole) // 50 if fault == "drip" else len(whole)
        try:
            for start in range(0, len(whole), step):
                if leaving([self.connection], self.server.drip_s / 50 if start else 0.0):
                    raise ConnectionError
                if start + step >= len(whole):
                    self.server.busy.discard(self.connection)
                    record.update(text=text or "", delivered=text is not None)
                self.connection.sendall(whole[start : start + step])
        except OSError:
            self.close_connection = True
            record.update(text="", delivered=False)


def leaving(connections: Iterable[socket.socket], seconds: float = 0.0) -> set[Any]:
    """Those whose client leaves within this time; while it waits for an answer it has nothing else
    to send."""
    with selectors.DefaultSelector() as watch:
        for connection in connections:
            with suppress(ValueError, KeyError, OSError):  # closed just now by its own thread
                watch.register(connection, selectors.EVENT_READ)
        return {ready.fileobj for ready, _ in watch.select(seconds)}


def failure(
    record: Record, status: int, code: str | None, message: str, *openai: str | None
) -> Reply:
    """An error as the provider writes it; `openai` is (type, param)."""
    kind, param = (*openai, None, None)[:2]
    message = message.format_map(record)
    flat = {"code": code, "message": message, "request_id": str(uuid4())}
    nested = {"error": {"message": message, "type": kind, "param": param, "code": code}}
    return status, json.dumps(flat if record["wire"] == "dashscope" else nested).encode(), None


def refused(record: Record, name: str, null_param: bool) -> Reply | None:
    """The refusal of a parameter in the provider's own words; None if the request does not set
    it."""
    value = record["parameters"].get(name)
    if value is None or (name == "temperature" and value == 1):
        return None
    if record["wire"] == "dashscope":
        message = (
            "<400> InternalError.Algo.InvalidParameter: "
            f"The {name} parameter is not supported by this model."
        )
        return failure(record, 400, "InvalidParameter", message)
    code, message = (
        "unsupported_parameter",
        f"Unsupported parameter: '{name}' is not supported with this model.",
    )
    if name == "max_tokens":
        message += " Use 'max_completion_tokens' instead."
    if name == "temperature":
        code, message = (
            "unsupported_value",
            f"Unsupported value: '{name}' does not support {value} with this model.",
        )
        message += " Only the default (1) value is supported."
    return failure(record, 400, code, message, INVALID, None if null_param else name)


def shortened(text: str, finish: str, wanted: Record) -> tuple[str, str]:
    """Cut a text where a model would stop: at a stop string, or at the token limit (a token is 4
    characters)."""
    stops = [wanted["stop"]] if isinstance(wanted.get("stop"), str) else wanted.get("stop") or []
    if ends := [text.index(stop) for stop in stops if stop in text]:
        text, finish = text[: min(ends)], "stop"
    limit = 4 * min(
        wanted.get(cap) or sys.maxsize for cap in ("max_tokens", "max_completion_tokens")
    )
    return (text[:limit], "length") if len(text) > limit else (text, finish)


def answered(record: Record, said: str | tuple[str, str]) -> Reply:
    """The model's answer as it goes over the wire, out of shape where the fault says so."""
    fault, (text, finish) = record["fault"], (said, "stop") if isinstance(said, str) else said
    text, finish = shortened(text, finish, record["parameters"])
    if fault == "length":
        text, finish = text[: len(text) // 2], "length"
    if fault in ("filter", "null-content"):
        finish = "content_filter" if fault == "filter" else "stop"
    content = None if fault in ("filter", "null-content") else text
    body = json.dumps(document(record, content, finish)).encode()
    readable = fault not in ("cut", "json-cut-200", "no-choices")
    return (
        200,
        body[: len(body) // 2] if fault == "json-cut-200" else body,
        content if readable else None,
    )


def document(record: Record, text: str | None, finish: str) -> Record:
    """The JSON that carries an answer."""
    asked, spent = (-(-len(part) // 4) for part in (record["prompt"], text or ""))
    choice: Record = {"finish_reason": finish, "message": {"role": "assistant", "content": text}}
    choices = [] if record["fault"] == "no-choices" else [choice]
    if record["wire"] == "dashscope":
        usage = {"input_tokens": asked, "output_tokens": spent, "total_tokens": asked + spent}
        return {"request_id": str(uuid4()), "output": {"choices": choices}, "usage": usage}
    choice |= {"index": 0, "logprobs": None}
    if record["wire"] == "completion":
        choice["text"] = choice.pop("message")["content"]
    kind = "chat.completion" if record["wire"] == "chat" else "text_completion"
    usage = {"prompt_tokens": asked, "completion_tokens": spent, "total_tokens": asked + spent}
    return {
        "id": f"chatcmpl-{uuid4().hex}",
        "object": kind,
        "created": int(time.time()),
        "usage": usage,
        "model": record["body"]["model"],
        "choices": choices,
    }


VERBS = {
    "Describe": "描述",
    "Explain": "解释",
    "Compare": "比较",
    "Rewrite": "改写",
    "List": "列举",
    "Order": "排列",
}
WORDS = [
    a + b
    for a in re.findall("..", "bacedifoguhajekilomunaperisotuvewizobrcldrflyaxo")
    for b in re.findall("...", "bekcordalfimgoslurmavnexpolridsuntamvokwemzatbindelfetganket")
]
SIGNS = "春夏秋冬山水风云花草树木河湖江石金银铜铁日月星辰米面茶酒衣食住行红黄蓝绿黑白父母兄弟姐妹"
SIGNS += "东西南北左右前后高低长短新旧冷热快慢轻重早晚读写听说学教问答买卖借还"
SIGNS += "来去进出上下开关哭笑爱恨诗歌"


def words(dice: random.Random, chinese: bool, verb: bool = False) -> str:
    """Words that share little with any others; with a verb, an instruction."""
    chosen = dice.choice([*VERBS.items()])[chinese] if verb else ""
    if chinese:
        return chosen + "".join(dice.sample(SIGNS, 20)) + "。"
    return f"{chosen} {' '.join(dice.sample(WORDS, dice.randint(9, 12)))}.".lstrip()


def people_say() -> dict[str, bool]:
    """Every seed task of this project, and whether people say that it is classification."""
    data = Path(__file__).resolve().parents[2] / "data"
    said = {}
    for name in ("seed_tasks.jsonl", "seed_tasks_zh.jsonl"):
        for line in (data / name).read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            said[row["instruction"]] = row["is_classification"]
    return said


def scripted_model(seed: int = 0) -> Answer:
    """A model for the tool's prompts: new tasks after a dangling number, Yes or No to a question or
    to each of a list, else instances."""

    seeds = people_say()

    def verdict(task: str, chinese: bool) -> str:
        yes = seeds.get(task, random.Random(f"{seed}/{task}").random() < 0.5)
        return "否是"[yes] if chinese else ("No", "Yes")[yes]

    def options(task: str, chinese: bool) -> str:
        """The same verdict, as a list of options."""
        yes = verdict(task, chinese) in ("Yes", "是")
        return ("是、否" if yes else "无") if chinese else ("yes, no" if yes else "none")

    def answer(prompt: str, body: Record) -> str:
        lines, dice = prompt.rstrip().split("\n"), random.Random(f"{seed}/{prompt}")
        chinese = "输入：" in prompt or bool(re.search("[一-鿿]", lines[0]))
        source, target, label = (
            ("输入：", "输出：", "类别标签：") if chinese else ("Input:", "Output:", "Class label:")
        )
        number = re.search(r"\d+", lines[0])
        if dangling := re.fullmatch(r"\s*(\d+)[.．、]\s*", lines[-1]):
            return "\n".join(
                f"{int(dangling[1]) + n}. {words(dice, chinese, True)}" for n in range(8)
            )
        if lines[-1] in LISTS:
            asked = [line.split(". ", 1)[1] for line in prompt.split("\n\n")[-2].split("\n")]
            return "\n".join(f"{n}. {options(task, chinese)}" for n, task in enumerate(asked, 1))
        if lines[-1].endswith(("?", "？")) and not (number and source in prompt):
            return verdict(lines[-2], chinese)
        first, second = (label, source) if label in prompt else (source, target)
        pairs = (
            (words(dice, chinese), words(dice, chinese))
            for _ in range(int(number[0]) if number else 1)
        )
        return "\n\n".join(f"{first} {one}\n{second} {two}" for one, two in pairs)

    return answer
