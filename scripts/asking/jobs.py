"""batches.jsonl: each batch job is written down before it is created, so a kill pays none twice.

The lines of one job, in their order:

    {"job": "20261128T101500-5f3a9c01", "provider": "openai", "model": "m", "file": "file-1", ...}
    {"job": "20261128T101500-5f3a9c01", "batch": "batch_1"}
    {"job": "20261128T101500-5f3a9c01", "ended": "completed", "prompt_tokens": 0, "reply_tokens": 0}

The first stands there before the vendor is asked to create the job, with the most tokens that it
can use. Without the second line the job may exist or not: the vendor's list tells. The third stands
there once its replies are in the journal; its tokens are those of replies that are not, because no
question of the present settings asks for them. They wait in `batches/NAME.results.jsonl`.

Beside it, `batches/NAME.requests.jsonl` is the file that was uploaded. Both go when they are of no
more use.
"""

from __future__ import annotations

if __name__ == "__main__":  # a part, no program: said before an import fails
    raise SystemExit("jobs.py is a part of self_instruct.py: run  python self_instruct.py --help")

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import self_instruct_workshop as workshop

WAITS = "waits for"  # how the reason begins why a task is undone whose batch is not done


@dataclass
class Job:
    """One batch: a file of requests, and what became of it."""

    job: str  # our name for it, which the vendor keeps in its metadata
    provider: str
    model: str
    base_url: str
    file: str  # the vendor's id of the uploaded file
    requests: int
    prompt_tokens: int  # the most that it can use; of a job that ended, what is in no journal
    reply_tokens: int
    created_at: int  # seconds since 1970
    batch: str = ""  # the vendor's id of the job; "": it may exist or not
    ended: str = ""  # the vendor's word for how; "": it is open


class Jobs:
    """The jobs of one folder. Raises WorkshopError where a line other than a torn last one is bad.

    Only a run that has locked the folder may open it.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "batches.jsonl"
        self.files = folder / "batches"
        self.all: dict[str, Job] = read_jobs(self.path)
        self.keys: dict[str, set[str]] = {}  # job -> the keys of its requests
        if self.path.exists():
            self.cut_torn_line()

    def cut_torn_line(self) -> None:
        """A line that a kill broke off says nothing: what it was about can be asked again."""
        data = self.path.read_bytes()
        end = data.rfind(b"\n") + 1
        if end < len(data):
            with open(self.path, "r+b") as file:
                file.truncate(end)

    def begin(self, job: Job) -> None:
        """Write down a job that is about to be created. Raises OSError."""
        record = {field.name: getattr(job, field.name) for field in fields(Job)[:-2]}
        self.write(record)
        self.all[job.job] = job

    def created(self, job: Job, batch: str) -> None:
        """Write down what the vendor calls it. Raises OSError."""
        self.write({"job": job.job, "batch": batch})
        job.batch = batch

    def end(self, job: Job, ended: str, prompt: int = 0, reply: int = 0) -> None:
        """Write down how it ended, and the tokens of replies that no journal has."""
        self.write({"job": job.job, "ended": ended, "prompt_tokens": prompt, "reply_tokens": reply})
        job.ended = ended
        job.prompt_tokens = prompt
        job.reply_tokens = reply

    def write(self, record: dict) -> None:
        """Append a line, which is on disk before this returns."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a+b", buffering=0) as file:
            workshop.append_whole(file, workshop.to_json(record).encode("utf-8", "replace"))

    def requests_file(self, job: Job) -> Path:
        """The file that is uploaded."""
        return self.files / f"{job.job}.requests.jsonl"

    def results_file(self, job: Job) -> Path:
        """The vendor's output and its errors, in one file; it is there once the job is done."""
        return self.files / f"{job.job}.results.jsonl"

    def requests(self, job: Job) -> Iterator[dict]:
        """The requests of a job, as its file has them."""
        yield from json_lines(self.requests_file(job))

    def keys_of(self, job: Job) -> set[str]:
        """The keys that a job asks for."""
        if job.job not in self.keys:
            self.keys[job.job] = {line["custom_id"] for line in self.requests(job)}
        return self.keys[job.job]

    def open_with(self, keys: set[str]) -> list[Job]:
        """The open jobs that ask for one of these keys, or whose file of requests was lost."""
        if not keys:
            return []
        found = [job for job in self.all.values() if not job.ended]
        lost = [job for job in found if not self.requests_file(job).exists()]
        return [job for job in found if job in lost or keys & self.keys_of(job)]

    def with_results(self, keys: set[str]) -> list[Job]:
        """The jobs whose replies are on disk, where one of these keys may be among them."""
        found = [job for job in self.all.values() if self.results_file(job).exists()]
        return [job for job in found if keys & self.keys_of(job)]

    def forget_files(self, job: Job) -> None:
        """Remove the files of a job that are of no more use."""
        for path in (self.requests_file(job), self.results_file(job)):
            path.unlink(missing_ok=True)
        self.keys.pop(job.job, None)
        with suppress(OSError):  # files of other jobs are in there
            self.files.rmdir()

    def forget_orphans(self) -> None:
        """Remove what a kill left: files half written, and requests of jobs that never were."""
        for path in self.files.glob("*.jsonl*"):
            if path.suffix == ".tmp" or path.name.partition(".")[0] not in self.all:
                path.unlink()


def json_lines(path: Path) -> Iterator[Any]:
    """What the lines of a file say; a line that is no JSON object is {}."""
    with suppress(FileNotFoundError), open(path, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            record = workshop.json_or_none(line)
            yield record if isinstance(record, dict) else {}


def read_jobs(path: Path) -> dict[str, Job]:
    """The jobs in the file, by name. Raises WorkshopError that names a damaged line."""
    with suppress(FileNotFoundError):
        *lines, _ = path.read_bytes().split(b"\n")
        jobs: dict[str, Job] = {}
        for number, line in enumerate(lines, 1):
            if not take_line(jobs, line):
                problem = f"{path}, line {number} is damaged"
                hint = "delete the lines of its job, whose replies are then paid for again"
                raise workshop.WorkshopError(f"{problem}: {hint}")
        return jobs
    return {}


def take_line(jobs: dict[str, Job], line: bytes) -> bool:
    """Add what a line says of a job; return whether it could be read."""
    try:
        record = json.loads(line)
        if record["job"] not in jobs:
            jobs[record["job"]] = Job(**record)
            return True
        job = jobs[record["job"]]
        for name, value in record.items():
            if type(value) is not type(getattr(job, name)):
                return False
            setattr(job, name, value)
        return True
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return False


def reserved_by_jobs(
    folder: Path, provider: str, model: str, ended: bool = False
) -> dict[str, tuple[int, int]]:
    """Tokens of prompts and replies that jobs of a model can still use, or that no journal has.

    With `ended`, only the latter.
    """
    jobs = read_jobs(folder / "batches.jsonl").values()
    jobs = [job for job in jobs if job.ended or not ended]
    ours = [job for job in jobs if (job.provider, job.model) == (provider, model)]
    reserved = {job.job: (job.prompt_tokens, job.reply_tokens) for job in ours}
    return {name: tokens for name, tokens in reserved.items() if any(tokens)}
