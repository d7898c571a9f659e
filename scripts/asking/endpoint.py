"""The two endpoints of a vendor's batches: /v1/files and /v1/batches, through the openai SDK.

OpenAI and DashScope (at its compatible address) speak the same two. What differs: DashScope's files
may have 500 MB instead of 200 MB, it takes fewer models, and it shows a job by the name `ds_name`.
"""

from __future__ import annotations

if __name__ == "__main__":  # a part, no program: said before an import fails
    name = "endpoint.py is a part of self_instruct.py"
    raise SystemExit(f"{name}: run  python self_instruct.py --help")

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import self_instruct_workshop as workshop
from scripts.asking.jobs import Job

WINDOW = "24h"  # OpenAI knows no other; DashScope takes up to 336h
FINAL = ("completed", "expired", "cancelled", "failed")  # states that a job stays in
NO_ENDPOINT = (404, 405, 501)  # how a server without batches answers
NAMED = ("openai", "dashscope", "local")  # others need a --base-url
PLAIN = "it needs openai, dashscope, or a server that answers /v1/batches"


class Unreachable(workshop.WorkshopError):
    """The vendor gave no answer that can be used, however often it was asked."""


class NotFound(workshop.WorkshopError):
    """The vendor does not know what was asked for."""


def check_provider(config: workshop.Config) -> None:
    """Raise UsageError where a provider has no batches."""
    name = workshop.provider_name(config)
    if config.responses or not workshop.PROVIDERS[name].base_url:
        raise workshop.UsageError(f"--batch: nothing is sent here; {PLAIN}")
    if name not in NAMED and not config.base_url:
        raise workshop.UsageError(f"--batch: {name} has no batches here; {PLAIN}")


def address_of(model: workshop.Model) -> str:
    """Where the files and batches of a model's vendor are. Raises UsageError."""
    address = model.address.rstrip("/")
    if model.provider.send is not workshop.send_dashscope:
        return address
    if not address.endswith("/api/v1"):
        problem = f"--batch: no batches are known at {model.base_url}"
        raise workshop.UsageError(f"{problem}; DashScope's address ends in /api/v1")
    return address.removesuffix("/api/v1") + "/compatible-mode/v1"


class Endpoint:
    """Files and batches of one model's vendor. Requests are sent again where a fault may pass."""

    def __init__(self, model: workshop.Model) -> None:
        self.model = model
        self.address = address_of(model)
        self.sdk: Any = None

    @property
    def client(self) -> Any:
        """The SDK's client. Raises WorkshopError where the surroundings allow none."""
        if self.sdk is None:
            model = self.model
            model.check_key()
            problem = workshop.surroundings_problem(model)
            if problem:
                raise workshop.WorkshopError(problem)
            known = ("key", "config", "name", "address_file")
            there = SimpleNamespace(**{name: getattr(model, name) for name in known})
            there.address = self.address
            self.sdk = workshop.openai_client(there)
        return self.sdk

    def check(self) -> None:
        """Raise UsageError where the server knows no batches."""
        try:
            self.call(lambda: self.client.batches.list(limit=1), "data")
        except NotFound:
            problem = f"{workshop.without_login(self.address)}/batches is not there"
            raise workshop.UsageError(f"--batch: {problem}; {PLAIN}") from None

    def upload(self, path: Path) -> str:
        """Upload a file of requests; return its id."""
        with open(path, "rb") as file:
            data = file.read()  # sent again as a whole where a fault passes
        what = (path.name, data, "application/jsonl")
        return self.call(lambda: self.client.files.create(file=what, purpose="batch")).id

    def create(self, job: Job) -> str:
        """Create a job; return its id. It is never created twice: after a fault the list tells."""
        pauses = workshop.retry_pauses(self.model.config)
        while True:
            try:
                return checked(self.client.batches.create(**request_for(self.model, job))).id
            except Exception as error:
                fault = self.meaning(error)
            self.wait_after(fault, pauses)
            found = self.find(job)
            if found:
                return found

    def find(self, job: Job) -> str:
        """The id of a job by our name for it, or by its file; "" where the vendor has none."""
        for _ in range(2):
            # A job may take a moment to be listed.
            self.model.sleep(min(2.0, 4 * self.model.config.first_wait))
            found = self.call(lambda: self.look_for(job), "id", none=True)
            if found:
                return found.id
        return ""

    def look_for(self, job: Job) -> Any:
        """The listed job, None where there is none. The newest are listed first."""
        for listed in self.client.batches.list(limit=100):
            named = (listed.metadata or {}).get("self_instruct") == job.job
            if named or listed.input_file_id == job.file:
                return listed
            if listed.created_at < job.created_at - 86400:  # clocks differ
                break
        return None

    def retrieve(self, job: Job) -> Any:
        """The job as the vendor has it."""
        return self.call(lambda: self.client.batches.retrieve(job.batch), "status")

    def download(self, ids: list[str], path: Path) -> None:
        """Write the contents of files into one, which is there whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(path.name + ".tmp")
        with open(temporary, "wb") as file:
            for file_id in ids:
                data = self.call(lambda name=file_id: self.content(name), "data").data
                file.write(data.rstrip(b"\n") + b"\n" if data else b"")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)

    def content(self, file_id: str) -> Any:
        """The bytes of a file. Raises ValueError where they are a page of something else."""
        data = self.client.files.content(file_id).content
        first = data.lstrip().partition(b"\n")[0].decode("utf-8", "replace")
        if first and not isinstance(workshop.json_or_none(first), dict):
            raise ValueError("no line of JSON")
        return SimpleNamespace(data=data)

    def call(self, send: Callable[[], Any], field: str = "id", none: bool = False) -> Any:
        """Send until there is an answer with this field. Raises Unreachable and WorkshopError."""
        pauses = workshop.retry_pauses(self.model.config)
        while True:
            try:
                answer = send()
                return None if answer is None and none else checked(answer, field)
            except Exception as error:
                fault = self.meaning(error)
            self.wait_after(fault, pauses)

    def wait_after(self, fault: workshop.Transient, pauses: Any) -> None:
        """Wait before the next try. Raises Unreachable where there is none."""
        pause = self.model.pause_after(fault, pauses)
        if pause == float("inf") or self.model.stop.is_set():
            place = workshop.without_login(self.address)
            problem = f"no answer from {place}/batches ({fault.what})"
            raise Unreachable(f"{problem}: nothing is lost, the same command goes on")
        self.model.sleep(pause)

    def meaning(self, error: Exception) -> workshop.Transient:
        """A fault that may pass. Raises WorkshopError for all others, and what is no fault."""
        import openai

        model = self.model
        if isinstance(error, openai.APIStatusError):
            fault = workshop.openai_fault(error)
            said = model.clean(f"{fault.status} {fault.code} {fault.message or fault.kind}")
            if fault.status in NO_ENDPOINT:
                place = workshop.without_login(self.address)
                raise NotFound(f"{place} said {said}: run the same command to try again")
            judged = workshop.judge_error(model, fault, {})
            if isinstance(judged, workshop.Transient):
                return judged
            if isinstance(judged, workshop.WorkshopError):
                raise judged
            raise workshop.WorkshopError(f"{model.name} takes no such batch: {said}")
        if isinstance(error, openai.APITimeoutError):
            return workshop.no_answer(model)
        if isinstance(error, openai.APIConnectionError):
            return workshop.connection_fault(model, error.__cause__ or error)
        if isinstance(error, AttributeError | LookupError | TypeError | ValueError):
            return workshop.Transient("200 with a body that is no answer")
        raise error


def checked(answer: Any, field: str = "id") -> Any:
    """An answer that has this field. Raises ValueError: the SDK passes on whatever came."""
    if getattr(answer, field, None) is None:
        raise ValueError(f"no {field}")
    return answer


def request_for(model: workshop.Model, job: Job) -> dict:
    """What a job is created with. Our name in its metadata finds it again."""
    metadata = {"self_instruct": job.job}
    if model.provider.send is workshop.send_dashscope:
        metadata["ds_name"] = job.job
    return {
        "input_file_id": job.file,
        "endpoint": url_of(model),
        "completion_window": WINDOW,
        "metadata": metadata,
    }


def url_of(model: workshop.Model) -> str:
    """The endpoint that a batch's requests go to."""
    continues = workshop.RECIPES[model.config.recipe].continues_text
    return "/v1/completions" if continues else "/v1/chat/completions"
