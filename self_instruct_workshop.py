"""Self-Instruct in one file: grow a few seed tasks into an instruction dataset, as in https://arxiv.org/abs/2212.10560.

                     .------ what is new joins the pool ------.
                     v                                        |
    seed tasks -> 1 generate instructions -> like another? -> out
                     |
                     '-> 2 classification or not -> 3 generate instances -> 4 filter and dedupe -> dataset

    python self_instruct_workshop.py                   the whole workshop on the practice model: no key, a few seconds
    python self_instruct.py --provider openai          the same with a real model: minutes, and cents

Vocabulary, as in the paper:
    instruction   what to do, in words: "Sort these words by length."
    instance      one worked example of an instruction: an input (may be empty) and its output
    task          an instruction with its instances; people write *seed tasks*, the model writes *machine tasks*
    pool          every instruction so far, seed and machine; a *novel* one is unlike all of it (ROUGE-L at most 0.7)
    input-first   an instance is written as input, then output; *output-first*, for classification, the label first
"""

from __future__ import annotations

import json
import math
import os
import random
import re
import shlex
import signal
import string
import sys
import threading
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache, partial
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from statistics import fmean
from typing import Any

try:
    import regex
    from rouge_score.tokenize import tokenize as rouge_tokenize
except ImportError as error:
    raise SystemExit(f"error: {error}: run  {sys.executable} -m pip install -r requirements.txt  first") from None

__version__ = "0.1.0"

DATA = Path(__file__).resolve().parent / "data"
Pairs = list[tuple[str, str]]  # (input, output) of instances
RECIPES = ("modern", "paper")
VERSION = 1  # of the journal's records
STAGES = ("generate", "classify", "instances", "filter")
STEP_FILES = ["step1_instructions.jsonl", "step2_is_classification.jsonl"]
STEP_FILES += ["step3_raw_instances.jsonl", "step4_final.jsonl"]
ADDRESS = r"https?://(?:[^\s/@]+@)?(?:[\w.-]+|\[[\da-fA-F:.]+\])(?::\d{1,5})?(?:/\S*)?"
DEFAULT_SEEDS = {"en": DATA / "seed_tasks.jsonl", "zh": DATA / "seed_tasks_zh.jsonl"}


class WorkshopError(Exception):
    """Something the user can put right: one line that says what, where, and what to do next (exit 1)."""


class UsageError(WorkshopError):
    """A setting that cannot be used (exit 2)."""


class RequestFailed(Exception):
    """One request got no usable reply: its task stays undone, is counted, and is asked again by the next run."""


# ----------------------------------------------------------------------------------------------------------------------
# Settings. Each number stands here once, with unit and source; the command line and run.json are made from these lines.


def setting(default: Any, help: str, low: float = -math.inf, high: float = math.inf, choices: tuple = ()) -> Any:
    """A dataclass field that knows its help text and its bounds (both ends allowed)."""
    return field(default=default, metadata={"help": help, "low": low, "high": high, "choices": choices})


@dataclass
class Config:
    """All settings of a run. Raises UsageError for a value out of bounds."""

    # What it costs: about 2.2 requests for each instruction, each reply at most max_tokens long.
    num_instructions: int = setting(100, "machine tasks to make (the paper made 52,445)", 1)
    max_tokens: int = setting(512, "longest reply, in tokens; a reply cut here loses only its last task or instance", 1)
    instances_per_instruction: int = setting(1, "instances asked for per task, in one request", 1, 5)
    # Who answers.
    provider: str = setting("", "who answers; default: the first provider whose key is set, else the practice model")
    model: str = setting("", "model name; default: the provider's")
    base_url: str = setting("", "address of the server; default: the provider's")
    responses: str = setting("", "the journal that --provider replay answers from, say somebody's responses.jsonl")
    temperature: float = setting(0.7, "sampling temperature of stages 1 and 3; 0 in stage 2 (paper: 0.7, 0, 0)", 0, 2)
    # What goes in, and where it comes out.
    seed_file: str = setting("", "seed tasks, as .jsonl, .json or .txt; default: this project's")
    language: str = setting("en", "language of the prompts and of the default seed tasks", choices=tuple(DEFAULT_SEEDS))
    work_dir: str = setting(str(DATA / "workshop"), "folder for everything a run writes")
    output_path: str = setting("", "write the final dataset to this file as well")
    until: str = setting("filter", "stop after this stage; the next call goes on", choices=STAGES)
    # How stage 1 looks for new tasks.
    rouge_threshold: float = setting(0.7, "highest ROUGE-L with any other instruction (paper: 0.7)", 0, 1)
    tasks_shown: int = setting(8, "tasks shown in a prompt (paper: 8)", 1, 50)
    machine_tasks_shown: int = setting(2, "how many of those may be machine tasks (paper: 2)", 0, 50)
    tasks_asked: int = setting(8, "new tasks asked for in a prompt (paper: about 8)", 1, 50)
    classification_every: int = setting(4, "every n-th prompt asks for classification tasks; 0: none does", 0)
    patience: int = setting(10, "requests in a row without anything new, after which stage 1 ends", 1)
    seed: int = setting(42, "random seed: which tasks a prompt shows, and what the practice model says")
    # How requests are sent.
    concurrency: int = setting(8, "requests in flight at once: changes how fast, never what", 1, 256)
    max_attempts: int = setting(6, "times a request is sent before its task is left undone", 1)
    request_timeout: float = setting(60.0, "seconds of silence after which a request counts as lost", 0.1, 86400)
    deadline: float = setting(300.0, "seconds that one request may take with all its retries", 0.1, 86400)
    first_wait: float = setting(0.5, "seconds before the first retry; doubles each time, up to 30", 0, 30)
    recipe: str = setting("modern", "prompts and rules; paper: the official code's, for base models", choices=RECIPES)

    def __post_init__(self) -> None:
        if self.provider == "replay":  # its questions are asked as they were
            first = first_record(self.responses)
            for name in {f.name for f in fields(self)} & first.keys() - {"provider", "model", "base_url"}:
                setattr(self, name, first[name])
        for f in fields(self):
            flag, value, kind = "--" + f.name.replace("_", "-"), getattr(self, f.name), type(f.default)
            value = f.default if value is None else str(value) if isinstance(value, Path) else value
            value = float(value) if kind is float and type(value) is int else value  # 1 and 1.0 are the same question
            if type(value) is not kind:
                raise UsageError(f"{flag} must be of type {kind.__name__}, not {value!r}")
            setattr(self, f.name, value)
            choices = tuple(PROVIDERS) if f.name == "provider" and value else f.metadata["choices"]
            low, high = f.metadata["low"], f.metadata["high"]
            if choices and value not in choices:
                raise UsageError(f"{flag} must be one of {', '.join(choices)}, not {value!r}")
            if kind is not str and not low <= value <= high:
                allowed = f"at least {low}" if math.isinf(high) else f"from {low} to {high}"
                raise UsageError(f"{flag} must be {allowed}, not {value}")
        if self.responses and self.provider != "replay":
            raise UsageError("--responses is for --provider replay")
        if self.recipe == "paper" and self.language != "en":
            raise UsageError("--recipe paper is for --language en: its rules turn away all others")
        if Path(self.output_path or "a.jsonl").is_dir():
            raise UsageError(f"--output-path must be a file, and {self.output_path} is a folder")
        if self.base_url and not re.fullmatch(ADDRESS, self.base_url):
            raise UsageError(f"--base-url must be like http://localhost:8000/v1, not {self.base_url!r}")


def first_record(journal: str) -> dict:
    """The first reply of somebody's journal, which says what was asked, of whom, and with which settings."""
    try:
        with open(journal, encoding="utf-8") as file:
            record = json.loads(file.readline())
        return {**record, "provider": "" + record["provider"], "model": "" + record["model"]}
    except (OSError, ValueError, KeyError, TypeError):
        raise UsageError(f"--provider replay needs --responses FILE, a journal, and {journal!r} is none") from None


# ----------------------------------------------------------------------------------------------------------------------
# A task: the record that the workshop reads, grows and writes; the schema of the official seed file.


@dataclass
class Task:
    """An instruction with its instances. Every stage fills in one more field."""

    id: str
    instruction: str
    is_classification: bool | None = None  # None: not asked yet, or the answer could not be read
    instances: list[dict[str, str]] = field(default_factory=list)  # each {"input": str, "output": str}
    notes: dict[str, dict] = field(default_factory=dict)  # stage -> what its step file says beside the fields above


@dataclass
class Results:
    """What a run has made so far; the stages add to it, so that nothing is lost where one breaks off."""

    tasks: list[Task] = field(default_factory=list)
    rejected: list[dict] = field(default_factory=list)
    dataset: list[dict] = field(default_factory=list)
    novelty: list[int] = field(default_factory=list)  # how many new instructions each request of stage 1 brought
    status: str = "interrupted"

    def reject(self, stage: str, rule: str, *texts: str, pair: tuple = (None, None), why: tuple = ("", None)) -> None:
        """Note which instructions, or which instance `pair` of one, a rule turned away, and why (neighbour, score)."""
        for text in texts:
            row = {"stage": stage, "rule": rule, "instruction": text, "input": pair[0], "output": pair[1]}
            self.rejected.append(row | {"evidence": why[0], "score": why[1]})

    def begin(self, stage: str) -> None:
        """Forget what an earlier call of a stage has left here, as when a notebook's cell is run again."""
        self.rejected = [row for row in self.rejected if row["stage"] != stage]
        self.dataset = []
        if stage == "generate":
            self.tasks, self.novelty = [], []

    def rows(self, stage: str) -> list[dict]:
        """The rows of a stage's step file: a view of the tasks that have come through it."""
        if stage == "filter":
            return self.dataset
        names = ["id", "instruction", "is_classification", "instances"][: STAGES.index(stage) + 2]
        through = [task for task in self.tasks if stage in task.notes]
        return [{name: getattr(task, name) for name in names} | task.notes[stage] for task in through]


# ----------------------------------------------------------------------------------------------------------------------
# Files. A paid reply is on disk, in responses.jsonl, before anything is made of it; all other files are views of that.


def to_json(row: dict) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def write_whole(path: Path, lines: Iterable[str]) -> None:
    """Write all lines or none, by one rename; lone surrogates, which other readers refuse, become question marks."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "w", encoding="utf-8", errors="replace", newline="\n") as file:
        file.writelines(lines)
    os.replace(temporary, path)


@dataclass
class Reply:
    """What a model answered, as the journal keeps it."""

    text: str
    finish_reason: str  # "stop", "length" (cut by max_tokens) or "content_filter"
    prompt_tokens: int = 0  # 0: the server did not say
    reply_tokens: int = 0
    prompt: str = ""
    created_at: str = ""  # UTC, ISO 8601

    @property
    def cut(self) -> bool:
        return self.finish_reason == "length"

    def stop_at(self, stops: list[str]) -> None:
        """Leave out the prompt, which some servers repeat, and what follows a stop string that the server ignored."""
        self.text = self.text.removeprefix(self.prompt)
        if found := [at for stop in stops if (at := self.text.find(stop)) >= 0]:
            self.text, self.finish_reason = self.text[: min(found)], "stop"


class Journal:
    """responses.jsonl: a line per reply, appended, flushed, fsynced. Memory holds only where each line starts. A last
    line torn by a kill is cut off: nothing was made of it yet. Raises WorkshopError where another line is damaged.
    A reply to several questions has, beside its own key, `answers`: the key of each of them -> what it says there."""

    def __init__(self, path: Path, mode: str = "a+b") -> None:
        self.path, self.lock, self.torn = path, threading.Lock(), False
        self.starts: dict[str, int] = {}  # key -> offset in bytes of the newest reply to that question
        self.file = open(path, mode)  # noqa: SIM115
        start = self.file.seek(0)
        for number, line in enumerate(self.file, 1):
            if not line.endswith(b"\n"):
                if self.file.writable():
                    self.torn = self.file.truncate(start) == start
                break
            try:
                record = {"version": VERSION, **json.loads(line)}
                self.starts |= dict.fromkeys([record["key"], *record.get("answers", {}).keys()], start)
                "".join([record["text"], *record.get("answers", {}).values()] if record["version"] == VERSION else [])
            except (ValueError, KeyError, TypeError, AttributeError):
                problem = f"{path}, line {number} is damaged: delete that line; only its reply is asked for again"
                raise WorkshopError(problem) from None
            if record["version"] != VERSION:
                problem = f"{path}, line {number} is of version {record['version']}, this program's is {VERSION}"
                raise WorkshopError(f"{problem}: use the program that wrote it, or another --work-dir")
            start += len(line)

    def get(self, key: str) -> dict | None:
        with self.lock:
            if key not in self.starts:
                return None
            self.file.seek(self.starts[key])
            return json.loads(self.file.readline())

    def append(self, record: dict) -> None:
        with self.lock:
            start = self.file.seek(0, os.SEEK_END)
            try:
                if not os.fstat(self.file.fileno()).st_nlink:
                    raise FileNotFoundError(2, "it was deleted")
                self.file.write(to_json(record).encode("utf-8", "replace"))
                self.file.flush()
                os.fsync(self.file.fileno())
            except OSError:  # a full disk: leave no half line behind
                self.file.truncate(start)
                raise
            self.starts |= dict.fromkeys([record["key"], *record.get("answers", {})], start)


def open_journal(folder: Path, responses: str) -> tuple[Any, Journal]:
    """Make and lock the folder, and open its journal, or another one to read only. The lock dies with this process."""
    import filelock

    lock = filelock.FileLock(folder / ".lock", timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
        return lock, Journal(Path(responses), "rb") if responses else Journal(folder / "responses.jsonl")
    except filelock.Timeout:
        raise WorkshopError(f"another run is writing to {folder}: wait for it, or choose another --work-dir") from None
    except (OSError, WorkshopError) as error:
        lock.release()  # whoever keeps the error, as a notebook does, would keep the lock with it
        if isinstance(error, WorkshopError):
            raise
        raise WorkshopError(f"cannot write to {folder} ({error.strerror}): choose another --work-dir") from None


# ----------------------------------------------------------------------------------------------------------------------
# Seed tasks: all that people write of the dataset (paper, section 2.1: 175 tasks, 25 of them classification).


def load_seed_tasks(path: str | Path) -> list[Task]:
    """Read .jsonl or .json (records of the official schema, at least {"instruction": ...}) or .txt (one instruction a
    line). Exact duplicates are merged with a notice. Raises WorkshopError, naming file and line."""
    records, tasks = seed_records(Path(path)), {}
    for where, record in records:
        task = seed_task(where, record, len(tasks))
        tasks.setdefault(task.instruction, task)
    if not tasks:
        raise WorkshopError(f"{path} holds no seed task: write at least one instruction into it")
    if merged := len(records) - len(tasks):
        print(f"notice: {path}: {merged} duplicates merged", file=sys.stderr)
    return list(tasks.values())


def seed_records(path: Path) -> list[tuple[str, Any]]:
    """What a seed file holds, as (where it stands, record); a record of a .jsonl file is still text."""
    kind = path.suffix.lower()
    if kind not in (".jsonl", ".json", ".txt"):
        raise WorkshopError(f"the seed file {path} must be .jsonl, .json or .txt")
    try:
        text = path.read_text(encoding="utf-8-sig")
        if kind == ".json":
            return [(f"{path}, record {n}", record) for n, record in enumerate(json.loads(text)[:], 1)]
        lines = [(f"{path}, line {n}", line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
        return lines if kind == ".jsonl" else [(where, {"task": line}) for where, line in lines]
    except OSError as error:
        problem = f": {error.strerror}"
    except UnicodeDecodeError:
        problem = " is not UTF-8 text, save it as such"
    except (ValueError, TypeError, KeyError) as error:  # KeyError: an object, which cannot be sliced like an array
        problem = f", line {getattr(error, 'lineno', 1)} is malformed: a JSON array of records is expected"
    raise WorkshopError(f"the seed file {path}{problem}")


def seed_task(where: str, record: Any, index: int) -> Task:
    """Make a Task of one record, or of the text of one."""
    with suppress(ValueError, TypeError, LookupError, AttributeError, StopIteration):
        record = json.loads(record) if isinstance(record, str) else record
        record = json.loads(to_json(record).encode("utf-8", "replace"))  # lone surrogates become question marks
        texts, flag = map(record.get, ("instruction", "Instruction", "task", "Task")), record.get("is_classification")
        pairs = [(pair.get("input") or "", "" + pair["output"]) for pair in record.get("instances") or []]
        instances = [{"input": str(source), "output": target} for source, target in pairs]
        if (instruction := next(filter(None, texts)).strip()) and flag in (None, True, False):
            return Task(str(record.get("id") or f"seed_task_{index}"), instruction, flag, instances)
    needed = 'a JSON record with at least {"instruction": "..."} is needed'
    raise WorkshopError(f"{where}: {needed}; is_classification is true or false, instances a list of input and output")


@cache
def read_data(name: str, language: str = "") -> list[dict]:
    """The rows of data/NAME.jsonl, of one language or all."""
    lines = (DATA / f"{name}.jsonl").read_text(encoding="utf-8").strip().split("\n")
    return [row for row in map(json.loads, lines) if language in ("", row.get("language"))]


# ----------------------------------------------------------------------------------------------------------------------
# Providers: rows of one table. A function per wire format makes a Reply of a prompt, or raises what the answer means.

CAPS = ("max_tokens", "max_completion_tokens")  # two names of one limit; many models take only one of them
FATAL = ["insufficient_quota", "billing_hard_limit_reached", "model_not_found"]
FATAL += ["InvalidApiKey", "Arrearage", "AccessDenied", "Model.NotExist"]
FILTERED = ["content_filter", "content_policy_violation", "DataInspectionFailed", "data_inspection_failed"]


class Transient(Exception):
    """Worth another try. args: what happened and, where the server says so, how many seconds to wait before it."""


class ParameterRefused(Exception):
    """The model does not take a parameter, args[0]."""


def judge_error(model: Model, status: int, code: Any, message: str, headers: Any, sent: dict, named: str) -> Exception:
    """What a server's error means: try again, stop the run, adapt a parameter, or leave this one task undone."""
    code = "" if code in (None, status, str(status)) else str(code)
    said = model.clean(f"{status} {code} {message}")
    if code.startswith("Throttling") or (status in (408, 409, 429) and code not in FATAL) or status >= 500:
        return Transient(said, retry_after(headers))
    if status in (401, 402, 403, 404) or code in FATAL:
        model.stop.set()  # nobody sends any more
        check = f"check {model.provider.key or 'the server'}, --model ({model.model}) and the address"
        check += "; --recipe paper needs its /v1/completions" if model.config.recipe == "paper" else ""
        return WorkshopError(f"{model.name} at {model.base_url} said {said}: {check}")
    name = named or next((name for name in sent if re.search(rf"\b{name}\b", message)), "")
    unknown = re.search(r"(?i)not support|unsupport|unrecogni|unknown|unexpect|not (permitt|allow)ed|instead", message)
    return ParameterRefused(name) if name in sent and (unknown or name not in CAPS) else RequestFailed(said)


def retry_after(headers: Any) -> float:
    """Seconds that the header `Retry-After`, a number or an HTTP date, asks us to wait; 0: the server did not say."""
    value = next((value for name, value in headers.items() if name.lower() == "retry-after"), "0")
    with suppress(ValueError, TypeError):
        at = None if value[:1].isdigit() else parsedate_to_datetime(value)
        return (at - datetime.now(UTC)).total_seconds() if at else float(value)
    return 0.0


def openai_client(model: Model) -> Any:
    import openai

    timeout = model.config.request_timeout
    client = openai.OpenAI(api_key=model.key, base_url=model.base_url, max_retries=0, timeout=timeout)
    if model.name != "openai":  # the SDK reads these from the shell and would send them to any host
        client.organization, client.project, client._custom_headers = None, None, {}
    return client


def send_openai(model: Model, prompt: str, parameters: dict) -> Reply:
    """Ask an OpenAI-compatible endpoint once: chat, or in the recipe `paper` a completion of the text."""
    import openai

    client, asked = model.client(openai_client), {"model": model.model, "extra_body": parameters}
    try:
        if model.config.recipe == "paper":
            answer = client.completions.create(**asked, prompt=prompt)
        else:
            answer = client.chat.completions.create(**asked, messages=[{"role": "user", "content": prompt}])
    except openai.APIStatusError as error:
        if error.code in FILTERED:
            return Reply("", "content_filter")
        message = error.body.get("message") if isinstance(error.body, dict) else None
        said = (error.code, str(message or error.message), error.response.headers)
        raise judge_error(model, error.status_code, *said, parameters, error.param or "") from None
    except openai.APIConnectionError as error:
        raise Transient(model.clean(f"connection: {error.__cause__ or error}")) from None
    document = answer.to_dict(warnings=False)  # HTML, which arrives as a string, has none
    return read_answer(model, document, document.get("usage") or {}, "prompt_tokens", "completion_tokens")


def read_answer(model: Model, document: dict, usage: dict, *counts: str) -> Reply:
    """The Reply in the `choices` of an answer, which look the same in both wire formats, with its counts of tokens."""
    choice = (document.get("choices") or [{}])[0]
    said = choice.get("message") or {"content": choice.get("text")}  # a chat's, or a completion's
    finish, text = choice.get("finish_reason") or "stop", said.get("content")
    if not isinstance(text, str) and finish not in ("length", "content_filter"):
        raise Transient(model.clean(f"200 without choices or content: {document.get('error', '')}"))
    return Reply(text if isinstance(text, str) else "", finish, *(usage.get(name) or 0 for name in counts))


def dashscope_client(model: Model) -> Any:
    """A connection pool as wide as the run, which sends nothing twice by itself and sees errors with status 200."""
    import logging

    import requests

    logging.getLogger("dashscope").addHandler(logging.NullHandler())  # or each fault prints a traceback

    class Session(requests.Session):
        def send(self, *args: Any, **kwargs: Any) -> Any:
            try:
                response = super().send(*args, **kwargs)
            except requests.RequestException as error:  # the SDK would send some again, and pay again
                raise Transient(model.clean(f"connection: {error}")) from None
            if response.status_code == 200 and b'"output"' not in response.content:
                response.status_code = 400 if b'"code"' in response.content else 502
            return response

    session = Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, requests.adapters.HTTPAdapter(pool_maxsize=model.config.concurrency))
    session.auth = lambda request: request  # or a ~/.netrc replaces the key
    return session


def send_dashscope(model: Model, prompt: str, parameters: dict) -> Reply:
    """Ask DashScope's own endpoint once. Its SDK returns most errors instead of raising them."""
    import dashscope

    where = {"api_key": model.key, "base_address": model.base_url, "session": model.client(dashscope_client)}
    asked = {"model": model.model, "messages": [{"role": "user", "content": prompt}], "result_format": "message"}
    answer = dashscope.Generation.call(**asked, **where, request_timeout=model.config.request_timeout, **parameters)
    if answer.code in FILTERED:
        return Reply("", "content_filter")
    if answer.status_code != 200:
        status = 503 if answer.code in ("InternalError", "ServiceUnavailable") else answer.status_code
        raise judge_error(model, status, answer.code, str(answer.message), answer.headers or {}, parameters, "")
    return read_answer(model, answer.output or {}, answer.usage or {}, "input_tokens", "output_tokens")


@dataclass(frozen=True)
class Provider:
    """A row of the table: how to speak to a provider, where, with which key, and its default model."""

    send: Callable[[Model, str, dict], Reply]
    base_url: str
    key: str  # environment variable that holds the API key; empty: none needed
    model: str  # empty: the first that the server lists
    extra: dict = field(default_factory=dict)  # parameters sent with every request
    cap: str = "max_tokens"
    url_variable: str = ""  # environment variable that may name another address


def send_practice(model: Model, prompt: str, parameters: dict) -> Reply:
    """Look up an answer in a bank of written tasks, some bad on purpose, and write it as chat models do. It is NOT a
    language model: the same prompt and --seed give the same reply."""
    config, lines, rng = model.config, prompt.split("\n"), random.Random(f"{model.config.seed}/{prompt}")
    bank, paper = read_data("practice_tasks", config.language), config.recipe == "paper"
    asked = {line.casefold() for line in lines[-3:]}  # the recipe `paper` changes capitals
    task = next((row for row in bank if row["instruction"].casefold() in asked), None)
    text = ""
    if number := dangling_number(prompt):
        text = practice_list(config, rng, bank, number, lines)
    elif task and lines[-1] == (words := wording(config, "classify", CLASSIFY_PROMPT))["question"]:
        answer = words["answers"][task["is_classification"]]
        text = rng.choice([answer] * 25 + [f"{answer}.", f"**{answer}**", "..."])
    elif task and task["instances"]:
        chosen = rng.sample(task["instances"], min(config.instances_per_instruction, len(task["instances"])))
        if rng.random() < 0.1:  # a slip: nothing, the input again, the instruction again, a placeholder, a mere start
            refusal = next(row["hits"][0] for row in read_data("patterns", config.language) if row["rule"] == "refusal")
            slips = ["", chosen[0]["input"], task["instruction"], "...", f"{task['name']}:", refusal]
            chosen[0] = {**chosen[0], "output": rng.choice(slips)}
        if rng.random() < 0.04:  # another: one example too many, a copy or a contradiction
            chosen.append(rng.choice([chosen[0], {**chosen[0], "output": task["name"]}]))
        fields, labelled = wording(config, "instances", INSTANCE_PROMPT)["fields"], task["is_classification"]
        examples = [example_text(one, fields, labelled, n * paper) for n, one in enumerate(chosen, 1)]
        text = ("\n" if paper else "\n\n").join(examples)
    limit = 4 * parameters["max_tokens"]  # about four letters to a token
    said, finish = text[:limit], "length" if len(text) > limit else "stop"
    return Reply(said, finish, *(math.ceil(len(part) / 4) for part in (prompt, said)))


def practice_list(config: Config, rng: random.Random, bank: list[dict], number: int, lines: list[str]) -> str:
    """Tasks of the bank as base models go on, or in the styles of chat models; now and then a copy, or small talk."""
    labelled = "classification" in lines[0] or "分类" in lines[0]
    fitting = [row["instruction"] for row in bank if row["is_classification"] or not labelled]
    tasks = rng.sample(fitting, min(config.tasks_asked, len(fitting)))
    if rng.random() < 0.2:
        tasks[-1] = re.sub(r"^(\d+\.|-) ", "", rng.choice([lines[1], lines[-2]]))  # models repeat what they are shown
    styles = ["{}. {}", "{}. {}", "{}) {}", "**{}.** {}", "{}. **{}**", "{}．{}"]
    style = styles[0] if config.recipe == "paper" else rng.choice(styles)
    listed = [style.format(n, task) for n, task in enumerate(tasks, number)]
    if config.recipe == "paper" or rng.random() < 0.4:  # go on right behind the dangling number
        return "\n".join([tasks[0], *listed[1:]])
    return rng.choice(["", "Sure! Here are some more tasks:\n\n"]) + "\n".join(listed)


def send_replay(model: Model, prompt: str, parameters: dict) -> Reply:
    """Every reply is in the journal; a question that is not there has none."""
    hint = "give --seed-file, --num-instructions and the other settings of that run, as its run.json has them"
    raise WorkshopError(f"{model.config.responses} holds no reply to {one_line(prompt[-60:])!r}: {hint}")


LITTLE = {"reasoning_effort": "low"}  # thinking costs tokens, and these tasks need little of it
PROVIDERS = {
    "openai": Provider(send_openai, "https://api.openai.com/v1", "OPENAI_API_KEY", "gpt-6-luna",
                       {"reasoning_effort": "none"}, "max_completion_tokens", "OPENAI_BASE_URL"),
    "dashscope": Provider(send_dashscope, "https://dashscope.aliyuncs.com/api/v1", "DASHSCOPE_API_KEY", "qwen-plus",
                          {"enable_thinking": False}, "max_tokens", "DASHSCOPE_HTTP_BASE_URL"),
    "groq": Provider(send_openai, "https://api.groq.com/openai/v1", "GROQ_API_KEY", "openai/gpt-oss-20b", LITTLE),
    "huggingface": Provider(send_openai, "https://router.huggingface.co/v1", "HF_TOKEN", "openai/gpt-oss-20b", LITTLE),
    "local": Provider(send_openai, "http://localhost:11434/v1", "", ""),  # Ollama's port
    "practice": Provider(send_practice, "", "", "data/practice_tasks.jsonl"),
    "replay": Provider(send_replay, "", "", "the journal's"),
}  # fmt: skip


def environment() -> dict[str, str]:
    """The variables of the nearest .env from here upwards, and the shell's, which win; empty ones count as unset."""
    from dotenv import dotenv_values, find_dotenv

    file = find_dotenv(usecwd=True)
    try:
        variables = dotenv_values(file, interpolate=False) | {k: v for k, v in os.environ.items() if v.strip()}
    except UnicodeDecodeError:
        raise WorkshopError(f"{file} is not UTF-8 text: save it as UTF-8") from None
    return {name: value.strip() for name, value in variables.items() if value and value.strip()}


def provider_name(config: Config) -> str:
    """The provider that is named, else the first whose key is set, else the practice model."""
    variables = environment()
    keyed = [name for name, row in PROVIDERS.items() if row.key and row.key in variables]
    return config.provider or [*keyed, "local" if config.base_url else "practice"][0]


# ----------------------------------------------------------------------------------------------------------------------
# Asking: one door to a model. Look into the journal; else send, with the one layer of retries; write down; return.


class Model(AbstractContextManager):
    """A provider's model as one run asks it: `with Model(config) as model: ...`. Holds the journal, and the lock of the
    folder. Raises WorkshopError where a key or a model name is missing, or the folder cannot be used."""

    def __init__(self, config: Config, sleep: Callable[[float], Any] | None = None) -> None:
        self.config, variables = config, environment()
        self.name = provider_name(config)
        self.provider = PROVIDERS[self.name]
        if config.recipe == "paper":
            self.provider = replace(self.provider, cap="max_tokens", extra={})
            if self.provider.send is send_dashscope or (self.provider.key and not config.model):
                problem = "--recipe paper needs a model that continues texts, at an endpoint /v1/completions"
                raise WorkshopError(f"{problem}: --provider local, or --provider openai --model davinci-002")
        self.key = variables.get(self.provider.key or "LOCAL_API_KEY", "" if self.provider.key else "none")
        if not re.fullmatch(r"[!-~]+", self.key):
            problem = "holds a character that no key has: copy it again" if self.key else "is not set: put it"
            raise WorkshopError(f"{self.provider.key} {problem} into .env, or use --provider local or practice")
        self.base_url = config.base_url or variables.get(self.provider.url_variable) or self.provider.base_url
        if self.base_url and not re.fullmatch(ADDRESS, self.base_url):
            raise WorkshopError(f"{self.provider.url_variable} is no address of a server: {self.base_url!r}")
        self.lock, self.stop, self.senders = threading.Lock(), threading.Event(), ThreadPoolExecutor(512, "asking")
        self.sleep = sleep or self.stop.wait
        self.results = Results()
        self.names = {"max_tokens": self.provider.cap}  # parameter -> its name at this provider; "": it is not sent
        self.refused: dict[str, str] = {}  # parameter -> what we do instead
        self.faults: Counter[str] = Counter()  # what went wrong and was tried again
        self.undone: list[tuple[str, str]] = []  # (stage, why) of every request that failed for good
        self.tokens: dict[str, Counter[str]] = {}  # stage -> replies used, asked now, tokens
        self.counted: set[str] = set()  # the keys of these replies
        self.failed_in_a_row = config.patience - 1  # before the first answer, one failure is enough to stop the run
        self._client: Any = None
        self.bar: Any = None  # the progress bar of the present stage
        self.model = config.model or self.provider.model or self.first_listed()
        self.folder_lock, self.journal = open_journal(Path(config.work_dir), config.responses)
        if config.responses:
            self.name, self.model = (first_record(config.responses)[name] for name in ("provider", "model"))

    def __exit__(self, *_: Any) -> None:
        self.stop.set()
        self.senders.shutdown(wait=False, cancel_futures=True)
        self.folder_lock.release()

    def spending(self) -> dict:
        """What run.json says about money and limits."""
        return {}

    def before_classify(self, tasks: list[Task]) -> None:
        """Here, nothing; scripts/together.py asks about several tasks in one request, and `ask` finds the answers."""
        return None

    def client(self, build: Callable[[Model], Any]) -> Any:
        """The SDK's client: one for all threads, built when the first request goes out."""
        with self.lock:
            self._client = self._client or build(self)
            return self._client

    def first_listed(self) -> str:
        import openai

        try:
            return "" + self.client(openai_client).models.list().data[0].id
        except (openai.OpenAIError, ValueError, LookupError, TypeError, AttributeError) as error:
            why = one_line(str(error)) if isinstance(error, openai.OpenAIError) else "another kind of answer"
            problem = f"{self.base_url} lists no model ({why}): start a server there, or name the model with --model"
            raise WorkshopError(problem) from None

    def ask(self, stage: str, prompt: str, parameters: dict, question: dict, readable: Callable = bool) -> Reply:
        """Return the reply to a question, from the journal if it is there. One that was filtered, or is not `readable`,
        is asked for once more. `question` says what is asked beside the settings. Raises RequestFailed."""
        for attempt in (0, 1):
            reply = self.ask_once(stage, attempt, prompt, parameters, question)
            filtered = reply.finish_reason == "content_filter"
            if not filtered and (reply.cut or readable(reply.text)):
                return reply
        if filtered and stage != "classify":  # there it counts as an answer that cannot be read
            raise RequestFailed("held back by the content filter, twice: it stays so with this model")
        return reply

    def question_key(self, stage: str, attempt: int, parameters: dict, question: dict) -> tuple[str, dict]:
        """The journal's key of a question, and what it is made of: the question, whom it is asked, how often before."""
        identity = {"stage": stage, "attempt": attempt, "provider": self.name, "model": self.model}
        identity |= {"temperature": parameters["temperature"], "recipe": self.config.recipe, **question}
        return sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32], identity

    def ask_once(
        self, stage: str, attempt: int, prompt: str, parameters: dict, question: dict, split: Callable | None = None
    ) -> Reply:
        """`split` says of a reply to several questions what `answers` it has: key -> text."""
        limit, (key, identity) = parameters["max_tokens"], self.question_key(stage, attempt, parameters, question)
        record = self.journal.get(key)
        several = record["answers"] if record and record["key"] != key else {}  # of one reply to several questions
        cut = record and record["finish_reason"] == "length" and record["max_tokens"] < limit
        asked_now = record is None or (cut and not several)
        if asked_now:
            prompt = record["prompt"] if record else prompt  # a logged request keeps its prompt
            reply, sent = self.send(prompt, {**parameters, **self.provider.extra})
            reply.text = reply.text.encode("utf-8", "replace").decode()  # as it will be read from the disk
            reply.prompt, reply.created_at = prompt, datetime.now(UTC).isoformat(timespec="milliseconds")
            record = {"version": VERSION, "key": key, **identity, **asdict(reply), "max_tokens": limit}
            record |= {"answers": split(reply)} if split else {}
            try:
                self.journal.append(record | {"parameters": sent, "base_url": self.base_url})
            except OSError as error:
                self.stop.set()  # nobody sends any more: what comes back could not be kept
                problem = f"cannot write to {self.journal.path} ({error.strerror})"
                raise WorkshopError(f"{problem}: put it right, then run the same command to go on") from None
        reply = Reply(**{f.name: record[f.name] for f in fields(Reply)})
        reply.stop_at(parameters.get("stop", []))
        with self.lock:
            if asked_now or record["key"] not in self.counted:  # count it once
                self.counted.add(record["key"])
                spent = self.tokens.setdefault(stage, Counter())
                spent.update(replies=1, asked_now=int(asked_now), cut=int(reply.cut))
                spent.update(prompt=reply.prompt_tokens, reply=reply.reply_tokens)
        return replace(reply, text=several[key], finish_reason="stop") if several else reply

    def send(self, prompt: str, parameters: dict) -> tuple[Reply, dict]:
        """Send until a reply comes or `max_attempts` or `deadline` is used up; return it with the parameters sent."""
        first, ends = self.config.first_wait, time.monotonic() + self.config.deadline
        waits = (min(30.0, first * 2 ** min(n, 64)) for n in range(self.config.max_attempts - 1))
        while not self.stop.is_set():
            sent = {self.names.get(name, name): value for name, value in parameters.items()}
            sent.pop("", None)  # what the model refuses
            ends += self.admit(prompt, sent)
            try:
                reply = self.send_once(prompt, sent, ends - time.monotonic())
                self.failed_in_a_row = 0
                return reply, sent
            except ParameterRefused as refusal:
                self.refuse(refusal.args[0])
            except Transient as fault:
                what, asked = (*fault.args, 0.0)[:2]
                pause = max(next(waits, math.inf) * random.uniform(0.5, 1.0), asked)  # inf: no attempt is left
                last = time.monotonic() + pause >= ends
                with self.lock:
                    self.faults[re.split(r"[:{<]", what)[0].strip()[:40]] += 1
                    self.failed_in_a_row += last
                if last and self.failed_in_a_row < self.config.patience:
                    raise RequestFailed(what) from None
                if last:
                    self.stop.set()  # nobody sends any more
                    problem = f"no answer from {self.name} at {self.base_url} ({what})"
                    raise WorkshopError(f"{problem}: check it, then run the same command to go on") from None
                self.sleep(pause)
        raise RequestFailed("the run was stopped")

    def admit(self, prompt: str, sent: dict) -> float:
        """Wait until a request may go; return the seconds that took. Here none waits; scripts/limits.py has limits."""
        return 0.0

    def send_once(self, prompt: str, sent: dict, seconds: float) -> Reply:
        """One try; a reply that still drips in after so many seconds is left to itself."""
        try:
            return self.senders.submit(self.provider.send, self, prompt, sent).result(max(0.0, seconds))
        except TimeoutError:
            raise Transient("no whole reply before the deadline") from None
        except (AttributeError, LookupError, TypeError, ValueError):
            raise Transient("200 with a body that is no answer") from None

    def refuse(self, name: str) -> None:
        """Send the limit of tokens under its other name from now on, any other parameter not at all."""
        with self.lock:
            if name not in self.refused:
                other = next((cap for cap in CAPS if name in CAPS and cap not in (name, *self.refused)), "")
                self.names["max_tokens" if name in CAPS else name] = other
                self.refused[name] = f"sent as {other}" if other else "left out"
                print(f"notice: {self.model} refuses {name}: {self.refused[name]} from now on", file=sys.stderr)

    def clean(self, message: str) -> str:
        """A server's words in one printable line, without the key."""
        return one_line(message.replace(self.key, "[key]") if self.key != "none" else message, 300)


def one_line(text: str, length: int = 100) -> str:
    """Text from outside, safe to print: on one line, no control characters, cut at `length`."""
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return text if len(text) <= length else text[: length - 1] + "…"


def in_parallel(model: Model, stage: str, ask: Callable, items: list) -> Iterator[tuple]:
    """Yield (item, its reply) in the order of the items; None, noted in `model.undone`, where the request failed."""
    executor = ThreadPoolExecutor(min(model.config.concurrency, len(items) or 1), "asking")
    try:
        futures = [executor.submit(ask, item) for item in items]
        for item, future in zip(items, futures, strict=True):
            while not future.done():
                wait([future], timeout=0.5)  # Ctrl-C does not reach a wait without end on Windows
                if model.stop.is_set():  # what ends the run, ends it now
                    future = next((f for f in futures if f.done() and isinstance(f.exception(), WorkshopError)), future)
            try:
                yield item, future.result()
            except RequestFailed as failure:
                model.undone.append((stage, str(failure)))
                yield item, None
    finally:
        executor.shutdown(wait=False, cancel_futures=True)
        wait(futures, timeout=1.0)  # what arrives by then is kept


def progress(model: Model, what: str, total: int, steps: Iterator | None = None) -> Any:
    """A bar on stderr, which moves with the steps; none where stderr is not a terminal."""
    from tqdm import tqdm

    model.bar = tqdm(steps, total=total, desc=what, disable=None if sys.stderr else True, leave=False)
    return model.bar


# ----------------------------------------------------------------------------------------------------------------------
# Similarity. ROUGE-L F1 of two token lists, 2 * LCS / (m + n), is rapidfuzz's normalized Indel similarity: with each
# token coded as a character, whole blocks are scored at once, over 1,000 times faster per pair.


def tokenize(text: str, *, recipe: str = "modern") -> list[str]:
    """Split text into the tokens that ROUGE-L compares. ASCII exactly as rouge_score does; of scripts that it does not
    see, a CJK or Thai character, or a run of other letters, digits and marks: "用SQL查询" -> 用 sql 查 询."""
    if text.isascii() or recipe == "paper":
        return rouge_tokenize(text, None)
    return TOKEN.findall(unicodedata.normalize("NFKC", text).lower())


SINGLE = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}\p{Hangul}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
TOKEN = regex.compile(rf"(?V1)[[{SINGLE}]&&[\p{{L}}\p{{M}}\p{{N}}]]|[[\p{{L}}\p{{M}}\p{{N}}]--[{SINGLE}]]+")


class InstructionPool:
    """All instructions so far, each kept as a string with a character for each token, so that blocks can be scored."""

    def __init__(self, recipe: str = "modern") -> None:
        self.recipe = recipe
        self.instructions: list[str] = []
        self._coded: list[str] = []
        self._codes: dict[str, str] = {}  # token -> its character

    def __len__(self) -> int:
        return len(self.instructions)

    def add(self, instruction: str) -> None:
        self.instructions.append(instruction)
        self._coded.append(self._code(instruction))

    def similarities(self, candidates: list[str]) -> Any:
        """ROUGE-L F1 of every candidate with every instruction: a float64 array (len(candidates), len(pool))."""
        return self._scores(list(map(self._code, candidates)), self._coded)

    def nearest(self, instruction: str, k: int = 10) -> list[tuple[str, float]]:
        """The k most similar instructions with their scores, the most similar first; of equals, the older."""
        return self.top(self.similarities([instruction])[0], k)

    def top(self, scores: Any, k: int = 10) -> list[tuple[str, float]]:
        import numpy as np

        close = (scores >= np.partition(scores, -k)[-k]).nonzero()[0] if len(scores) > k else np.arange(len(scores))
        order = close[(-scores[close]).argsort(kind="stable")][:k]
        return [(self.instructions[i], float(scores[i])) for i in order]

    def scan(self, candidates: list[str], block: int = 64) -> Iterator[tuple[str, Any]]:
        """Yield each candidate with its scores against the pool as it stands by then: the caller may add in between."""
        import numpy as np

        for start in range(0, len(candidates), block):
            known, texts = len(self), candidates[start : start + block]
            for text, scores in zip(texts, self.similarities(texts), strict=True):
                newer = self._scores([self._code(text)], self._coded[known:])  # added since the block was scored
                yield text, np.append(scores, newer)

    def _code(self, text: str) -> str:
        for token in (tokens := tokenize(text, recipe=self.recipe)):
            n = len(self._codes)
            self._codes.setdefault(token, chr(n if n < 0xD800 else n + 0x800))  # surrogates are no characters
        return "".join(self._codes[token] for token in tokens)

    def _scores(self, candidates: list[str], pool: list[str]) -> Any:
        import numpy as np
        from rapidfuzz.distance import Indel
        from rapidfuzz.process import cdist

        scores = np.zeros((len(candidates), len(pool)))
        if scores.size:
            scores = cdist(candidates, pool, scorer=Indel.normalized_similarity, dtype=np.float64)
            scores[[i for i, text in enumerate(candidates) if not text]] = 0.0  # no tokens: nothing in common
        if self.recipe == "paper":  # rouge_score's own float: for many an exact 0.7 it is 0.7000000000000001
            m, n = (np.array([max(1, len(text)) for text in texts]) for texts in (candidates, pool))
            lcs = np.rint(scores * np.add.outer(m, n) / 2)
            p, r = lcs / m[:, None], lcs / n
            scores = np.divide(2 * p * r, p + r, out=np.zeros_like(p), where=lcs > 0)
        return scores


# ----------------------------------------------------------------------------------------------------------------------
# Stage 1, generate instructions (paper, section 2.2): show eight tasks, ask for new ones, keep what is fit and novel.

GENERATE_PROMPT = {  # other languages: data/prompts.jsonl
    "header": """\
Come up with {asked} new {kind} for a language model that reads and writes nothing but text.
- Make them differ from each other and from the tasks below: other verbs, other topics, other kinds of work.
- {hint}
- A task must be clear on its own. Leave out whatever needs pictures, sound, files or the web.
- Write one task on each line, go on with the numbering, and write nothing else.
""",
    "kinds": [  # of most prompts, and of those that ask for classification tasks
        ["tasks", "Mix commands and questions, everyday and expert subjects, shorter and longer ones."],
        ["classification tasks", "Each is answered by one label of a small set; name all the labels in the task."],
    ],
}


def generate_instructions(config: Config, model: Model, seed_tasks: list[Task]) -> list[Task]:
    """Stage 1, generate: show the model tasks of the pool, ask for new ones, keep those that are fit and novel.
    Requests go out in rounds, their prompts sampled from the pool as it stands, and replies are taken in request order:
    `concurrency` changes nothing. Returns at most `num_instructions` tasks, fewer when `patience` is used up."""
    if not seed_tasks:
        raise WorkshopError("stage 1 needs at least one seed task")
    results, pool = model.results, InstructionPool(config.recipe)
    results.begin("generate")
    for task in seed_tasks:
        pool.add(task.instruction)
    shape = {name: getattr(config, name) for name in SHAPE} | {"seed_tasks": digest(seed_tasks)}
    asked, dry = 0, 0  # requests so far; of them in a row that brought nothing new

    def ask(request: tuple[int, str]) -> Reply:
        question = shape | {"request_idx": request[0]}
        return model.ask("generate", request[1], parameters(config, "generate"), question)

    with progress(model, "1 generate", config.num_instructions) as bar:
        while len(results.tasks) < config.num_instructions and dry < config.patience:
            ahead = range(asked, asked + requests_ahead(config, len(results.tasks), dry))
            requests = [(i, instruction_prompt(config, seed_tasks, results.tasks, i)) for i in ahead]
            for (i, _), reply in in_parallel(model, "generate", ask, requests):
                new = take_candidates(config, pool, reply, i, results) if reply else 0
                asked, dry = i + 1, 0 if new else dry + 1
                results.novelty.append(new)
                bar.set_description(f"1 generate, {fmean(results.novelty[-10:]):.1f} new per request", refresh=False)
                bar.update(new)
    return results.tasks


SHAPE = ("seed", "language", "tasks_shown", "machine_tasks_shown", "tasks_asked", "classification_every")


def digest(seed_tasks: list[Task]) -> str:
    """Tells one set of seed tasks from another in the key of a request; SHAPE names the settings that stand there."""
    return sha256("\n".join(task.instruction for task in seed_tasks).encode()).hexdigest()[:16]


def requests_ahead(config: Config, accepted: int, dry: int) -> int:
    """How many requests the next round sends: one at first, so that machine tasks soon feed back, more as the pool
    grows; never more than are needed, nor, once one brought nothing, than patience allows."""
    need = math.ceil((config.num_instructions - accepted) / config.tasks_asked)
    return min(need, 1 + 2 * accepted // config.tasks_asked, config.patience - dry if dry else need)


def instruction_prompt(config: Config, seed_tasks: list[Task], accepted: list[Task], request_idx: int) -> str:
    """Tasks numbered and shuffled, up to two of them machine tasks; it ends with the dangling next number."""
    rng, every = random.Random(f"{config.seed}/{request_idx}"), config.classification_every
    labelled = bool(every) and request_idx % every == every - 1
    seeds = [task for task in seed_tasks if task.is_classification or not labelled] or seed_tasks
    shown = rng.sample(accepted, min(config.machine_tasks_shown, config.tasks_shown, len(accepted)))
    shown += rng.sample(seeds, min(config.tasks_shown - len(shown), len(seeds)))
    rng.shuffle(shown)
    words = wording(config, "generate", GENERATE_PROMPT)
    kind, hint = words["kinds"][labelled]
    header = words["header"].format(asked=config.tasks_asked, kind=kind, hint=hint)
    colons = ":" if config.recipe == "paper" else ":："
    lines = [f"{n}. {' '.join(task.instruction.split()).rstrip(colons)}" for n, task in enumerate(shown, 1)]
    return "\n".join([header, *lines, f"{len(lines) + 1}."])


def wording(config: Config, stage: str, english: dict) -> dict:
    """The words of a stage's prompt, English ones from this file, the rest from data/; its worked examples, `shots`."""
    rows = [row for row in read_data("prompts", config.language) if row.get("recipe", "modern") == config.recipe]
    words = next((row for row in rows if row["stage"] == stage), english)
    paper = [row for row in read_data("paper_demonstrations") if row["stage"] == stage]
    return {**words, "shots": read_data("demonstrations", config.language) if config.recipe == "modern" else paper}


def dangling_number(prompt: str) -> int:
    """The number at which a stage-1 prompt breaks off; 0 for other prompts."""
    match = re.search(r"\n(\d+)\.\Z", prompt)
    return int(match[1]) if match else 0


def take_candidates(config: Config, pool: InstructionPool, reply: Reply, request_idx: int, results: Results) -> int:
    """Accept or reject, with a rule's name, each candidate of one reply, in order; return how many were accepted."""
    before, first, prompt_lines = len(results.tasks), dangling_number(reply.prompt), set(reply.prompt.split("\n"))
    modern, limit = config.recipe == "modern", config.rouge_threshold
    limit = min(limit + 1e-9, 1 - 1e-9) if modern else limit  # an exact copy is never novel
    found = parse_instructions(reply.text, recipe=config.recipe, first=first)
    whole = parse_instructions(reply.text, truncated=True, recipe=config.recipe, first=first) if reply.cut else found
    results.reject("generate", "cut_off", *found[len(whole) :])
    choices = [{"text": reply.text, "finish_reason": reply.finish_reason}]
    metadata = {"prompt": reply.prompt, "response": {"choices": choices}, "created_at": reply.created_at}
    for candidate, scores in pool.scan(whole):
        echo = "prompt_echo" if modern and {candidate, f"- {candidate}"} & prompt_lines else ""
        if rule := instruction_problem(candidate, recipe=config.recipe) or echo:
            results.reject("generate", rule, candidate)
        elif scores.max() > limit:
            results.reject("generate", "too_similar", candidate, why=pool.top(scores, 1)[0])
        elif len(results.tasks) >= config.num_instructions:
            results.reject("generate", "not_needed", candidate)
        else:
            notes = {"most_similar": dict(pool.top(scores)), "avg_similarity_score": float(scores.mean())}
            pool.add(candidate)
            notes |= {"metadata": metadata, "request_idx": request_idx}
            results.tasks.append(Task(f"machine_task_{len(results.tasks)}", candidate, notes={"generate": notes}))
    return len(results.tasks) - before


MARKER = re.compile(  # "9. ", "9) ", "**9.** ", "Task 9: ", "### 9. ", "９．", "9、", "（9）"; not "3.5" or "10:30"
    r"(?im)^([ \t]*)(?:[-*#>]+ +)?[*_]{0,2}(?:(?:task|instruction|question|任务|指令|题目|第) ?)?[(（]?(\d{1,3})"
    r"(?:\\?(?:[.:](?!\d)|[)）．、：题])|[*_]{2} ?[.:：)])[.:：]?[*_]{0,2}[ \t]*"
)
COLON = re.compile(r"\s*+[^\n]*[:：]\s*")
BULLET = re.compile(r"(?m)^ {0,2}[-*•·] +")
LABEL = r"(?:input|output|answer|class label|输入|输出|答案|类别标签)"
ANSWER = re.compile(rf"(?im)^[^\w\n]*{LABEL}[^\w\n]*[:：]|(?<=[.?!。？！]) *input *[:：].{{0,500}}?\boutput *[:：]")
BOLD = re.compile(r"(?<![\w*])\*\*(?=\S)([^*\n]+)(?<=\S)\*\*(?![\w*])")
TITLE = re.compile(  # "**Rivers:** ", "**Rivers** - ", "**Rivers**" on a line of its own, "Task: "
    r"(?i)\A(?:\*\*[^*\n]{1,60}[:：]\*\*\s*|\*\*[^*\n]{0,60}[^*\n.?!。？！]\*\*\s*(?:[:：–—-]|\n)\s*"
    r"|(?:task|instruction|任务|指令)\s*[:：]\s*)(?=\S)"
)


def without_thinking(reply: str) -> str:
    """The reply less the <think>...</think> that it begins with, also where one of the two marks is missing."""
    reply = re.sub(r"\A(?:\s*<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z))+", "", reply.replace("\r", ""), flags=re.S)
    return reply if "<think" in reply else re.split(r"</think(?:ing)?>", reply)[-1]


def list_marks(reply: str) -> list[re.Match]:
    """The numbers of a list, without those of a list inside one of its items: further in, or from 1 behind a colon."""
    marks: list[re.Match] = []
    inner = 0  # last number of the list inside the present item
    for mark in MARKER.finditer(reply):
        indent, number = len(mark[1]), int(mark[2])
        if marks and number != int(marks[-1][2]) + 1:
            begins = number == 1 and not inner and COLON.fullmatch(reply, marks[-1].end(), mark.start())
            if begins or (inner and number == inner + 1) or indent > len(marks[0][1]) + 1:
                inner = number or 1000
                continue
        marks.append(mark)
        inner = 0
    return marks


def parse_instructions(reply: str, *, truncated: bool = False, recipe: str = "modern", first: int = 9) -> list[str]:
    """Read the numbered tasks out of a stage-1 reply; a truncated one loses its last.
    Text before the first number continues the prompt's dangling number (`first`) if the list goes on with the next
    one; else it is small talk. "Sure!\\n1. Add 2 and 3.\\n2. Spell it." -> ["Add 2 and 3.", "Spell it."]"""
    if recipe == "paper":
        return paper_instructions(reply, truncated)
    reply = without_thinking(reply)
    if marks := list_marks(reply):
        reply = re.sub(rf"\n{int(marks[-1][2]) + 1}\s*\Z", "", reply)  # cut off in the next number
        ends = [mark.start() for mark in marks[1:]] + [len(reply)]
        items = [reply[mark.end() : end] for mark, end in zip(marks, ends, strict=True)]
        if int(marks[0][2]) == first + 1:
            items.insert(0, reply[: marks[0].start()])
    else:
        reply = "\n".join(line for line in reply.split("\n") if not breaks("small_talk", line.strip()))
        items = BULLET.split(reply)[1:] or regex.split(r"(?m)(?<!^.{15,}[:：])\n", reply)  # "Add these numbers:\n1, 2"
    items = items[:-1] if truncated else items
    return [text for text in map(cache(tidy_instruction), items) if text]


def tidy_instruction(item: str) -> str:
    """One task on one line: without a title, markup, an answer glued to it, or closing remarks."""
    text = TITLE.sub("", re.sub(r"\A[.)、]\s+", "", ANSWER.split(item, 1)[0].strip()))
    if text.count("```") > 1:
        text = text[: text.rindex("```") + 3]
    else:  # a blank line ends a task, but behind a colon comes what it is about
        paragraphs = re.split(r"\n\s*\n", text.replace("```", "").strip())
        text = "\n".join(paragraphs[: 2 if paragraphs[0].rstrip().endswith((":", "：")) else 1])
    lines = [line for i, line in enumerate(text.split("\n")) if i == 0 or not breaks("small_talk", line.strip())]
    text = BOLD.sub(lambda bold: bold[1], " ".join(" ".join(lines).split()))
    text = re.sub(r"^\*\*|\*\*$|(?:^| )-{3,}$", "", text).strip()
    if text.startswith("__") and text.endswith("__") and " " in text[2:-2]:
        text = text[2:-2].strip()
    quoted = len(text) > 2 and text[0] + text[-1] in ('""', "“”", "「」") and text[0] not in text[1:-1]
    return text[1:-1].strip() if quoted else text


def instruction_problem(text: str, *, recipe: str = "modern") -> str:
    """Name the rule that a candidate instruction breaks, "" if it is fine. (Novelty is the pool's business.)"""
    if recipe == "paper":
        return paper_instruction_problem(text)
    tokens = tokenize(text)
    words = count_words(tokens)
    if len(tokens) < 3:
        return "too_short" if tokens else "empty"
    if words > 150:  # as in the official code, which also drops everything up to three words
        return "too_long"
    if not text[0].isalnum() and text[0] not in "\"'`“”‘„«「『《【（([<¿¡$€£¥√#@.":
        return "leading_punctuation"
    return next((rule for rule in RULES if breaks(rule, text)), "")


def count_words(tokens: list[str]) -> float:
    """How many words tokens are; two Chinese characters are one."""
    return len(tokens) - sum(len(token) == 1 and not token.isascii() for token in tokens) / 2


RULES = ("small_talk", "refusal", "needs_more_than_text", "unfinished")


def breaks(rule: str, text: str) -> bool:
    """Whether one of the rule's patterns in data/patterns.jsonl, where each stands with examples, finds something."""
    return bool(patterns(rule).search(text))


@cache
def patterns(rule: str) -> re.Pattern:
    return re.compile("|".join(f"(?:{row['pattern']})" for row in read_data("patterns") if row["rule"] == rule), re.I)


# ----------------------------------------------------------------------------------------------------------------------
# Stage 2, which are classification tasks? (paper, section 2.2) The answer decides in which order stage 3 writes.

CLASSIFY_PROMPT = {
    "header": """\
A classification task is answered by one label out of a small, known set of labels.
Say of the last task below whether it is one. Answer with one word, Yes or No.""",
    "task": "Task:",
    "question": "Is it a classification task?",
    "answers": ["No", "Yes"],
}


def classify_instructions(config: Config, model: Model, tasks: list[Task]) -> list[Task]:
    """Stage 2, classify: ask of every instruction whether it is a classification task, which decides how stage 3 asks.
    Returns the tasks that got an answer. One that cannot be read, twice, leaves `is_classification` None (unknown)."""

    read, sampling = partial(parse_classification, recipe=config.recipe), parameters(config, "classify")

    def ask(task: Task) -> Reply:
        question = classify_question(config, task)
        return model.ask("classify", question["prompt"], sampling, question, lambda text: read(text) is not None)

    model.before_classify(tasks)
    for task, reply in progress(model, "2 classify", len(tasks), in_parallel(model, "classify", ask, tasks)):
        if reply:
            task.is_classification = read(reply.text)
            task.notes["classify"] = {"response": reply.text, "metadata": {"created_at": reply.created_at}}
    return [task for task in tasks if "classify" in task.notes]


def classify_question(config: Config, task: Task) -> dict:
    return {"instruction": task.instruction, "sample": 0, "prompt": classify_prompt(config, task.instruction)}


def classify_prompt(config: Config, instruction: str) -> str:
    """What is asked, worked examples, and then, behind this part that never changes (servers cache it), the task."""
    words = wording(config, "classify", CLASSIFY_PROMPT)
    blocks = [words["header"]]
    for shot in words["shots"]:
        answer = f"{words['question']} {words['answers'][shot['is_classification']]}"
        blocks.append("\n".join([words["task"], shot["instruction"], answer]))
    return "\n\n".join([*blocks, "\n".join([words["task"], instruction, words["question"]])])


def parse_classification(reply: str, *, recipe: str = "modern") -> bool | None:
    """Read Yes or No out of a stage-2 reply; None: could not tell. "**No.**" -> False, "是的，…" -> True."""
    if recipe == "paper":
        return reply.strip() in ("Yes", "yes", "YES")
    text = re.sub(r"```(?:json)?|[*_`\"'“”‘’{}\[\]]", "", without_thinking(reply)).strip().lower()
    verdict, last_line = patterns("verdict"), text.rsplit("\n", 1)[-1]
    found = verdict.search(text) or verdict.search(last_line) or patterns("statement").search(text)
    return found["yes"] is not None if found and not breaks("undecided", text) else None


# ----------------------------------------------------------------------------------------------------------------------
# Stage 3, generate instances (paper, section 2.2): for classification the label first, or it mostly is the same label.

INSTANCE_PROMPT = {
    "header": [  # input-first, output-first
        "Write worked examples of the last task below, {count} in number: an input that it could be given, and the "
        "complete, correct output.\nBegin them with `Input:` and `Output:`, and write nothing else. If the task needs "
        "no input, leave it empty.",
        "Write worked examples of the last classification task below, {count} in number: first the label, then an "
        "input that has it.\nBegin them with `Class label:` and `Input:`, and write nothing else. Take another label "
        "each time.",
    ],
    "start": ["Begin with the label that is named first.", "Begin with the label that is named last."],
    "task": "Task:",
    "fields": ["Input:", "Output:", "Class label:"],
}


def generate_instances(config: Config, model: Model, tasks: list[Task]) -> list[Task]:
    """Stage 3, instances: ask for worked examples; for classification the label first, so that labels come out even.
    Returns the tasks that got at least one, `instances` filled in."""

    def ask(task: Task) -> Reply:
        labelled = bool(task.is_classification)
        prompt = instances_prompt(config, task.instruction, labelled)
        question = {"instruction": task.instruction, "sample": 0, "prompt": prompt}
        return model.ask("instances", prompt, parameters(config, "instances", labelled), question)

    model.results.begin("instances")
    for task, reply in progress(model, "3 instances", len(tasks), in_parallel(model, "instances", ask, tasks)):
        if reply:
            take_instances(config, task, reply, model.results)
    return [task for task in tasks if task.instances]


def take_instances(config: Config, task: Task, reply: Reply, results: Results) -> None:
    """Fill in the instances that a reply holds, and reject what was cut off, or a reply without any."""
    labelled = bool(task.is_classification)
    found = parse_instances(reply.text, labelled, recipe=config.recipe)
    whole = parse_instances(reply.text, labelled, truncated=True, recipe=config.recipe) if reply.cut else found
    for pair in found[len(whole) :]:
        results.reject("instances", "cut_off", task.instruction, pair=pair)
    if not whole:
        results.reject("instances", "no_instance", task.instruction, pair=(None, reply.text))
    task.instances = [{"input": source, "output": target} for source, target in whole]
    metadata = {"finish_reason": reply.finish_reason, "created_at": reply.created_at}
    task.notes["instances"] = {"response": reply.text, "metadata": metadata}


def instances_prompt(config: Config, instruction: str, labelled: bool) -> str:
    """What is asked, worked examples, then the task. Which label comes first alternates from task to task."""
    words, paper = wording(config, "instances", INSTANCE_PROMPT), config.recipe == "paper"
    blocks = [words["header"][labelled].format(count=config.instances_per_instruction)]
    for shot in words["shots"]:
        if shot["is_classification"] == labelled and shot["instances"]:
            shown = enumerate(shot["instances"][: 5 if paper else 1], 1)
            examples = [example_text(one, words["fields"], labelled, number * paper) for number, one in shown]
            blocks.append("\n".join([words["task"], shot["instruction"], *examples]))
    start = words["start"][sha256(instruction.encode()).digest()[0] % 2] if labelled else ""
    asked = "\n".join(filter(None, [words["task"], instruction, start]))
    return "\n\n".join([*blocks, asked]) + "\n" * paper  # base models go on writing: here, on the next line


def example_text(instance: dict[str, str], fields: list[str], labelled: bool, number: int = 0) -> str:
    """One instance with its field names, for classification the label first; with a number, as `Example 1`."""
    space = "" if fields[1].endswith("：") else " "
    source, target = f"{fields[0]}{space}{instance['input']}".strip(), f"{space}{instance['output']}"
    lines = [fields[2] + target, source] if labelled else [source, fields[1] + target]
    return "\n".join(filter(None, [f"Example {number}" if number and source and not labelled else "", *lines]))


FIELD = re.compile(  # a field's name at the start of a line: "Input:", "**Output 2:**", "### Input", "- 输入："
    r"(?i)[ \t]*(?:[-*>][ \t]+|\d+[.)、][ \t]*|(?:example|示例) ?\d+[:：][ \t]*)?(?P<mark>#+ *|\*{1,2}|__)?"
    r"(?:(?P<input>input|输入)|output|输出|(?P<label>(?:class[ _])?label|类别标签|标签|类别))"
    r"[ \t]*+\d*(?:\*{1,2}|__)?[ \t]*(?:[:：](?:\*{1,2}|__)?[ \t]*|(?(mark)\Z|(?!)))"
)
EXAMPLE = re.compile(r"(?i)\W*(?:(?:example|instance|示例|例子|样例|例)[ \t]*+(?P<sure>[\d一二三四五])?|\d)\W*")
NAMED = re.compile(r"\w+(?: \w+){0,2}[:：] *\S")  # "Word: happy", a field of an input


def parse_instances(reply: str, is_classification: bool, *, truncated: bool = False, recipe: str = "modern") -> Pairs:
    """Read (input, output) pairs out of a stage-3 reply; a truncated one loses its last.
    A field's name counts at the start of a line, outside code blocks. "Input: 2+2\\nOutput: 4" -> [("2+2", "4")]"""
    if recipe == "paper":
        return paper_instances(reply, is_classification, truncated)
    text = without_thinking(reply).strip()
    tasks = re.split(r"\n(?:Task|任务)[:：]", text)
    if len(tasks) > 3 and not any(map(FIELD.match, tasks[0].split("\n"))):  # the whole prompt again: what comes then?
        text = tasks[-1].partition("\n")[2].strip()
    text = re.split(r"\n(?:Task|任务)[:：][ \t]*\n", text)[0]  # the model went on with a task of its own
    if re.match(r"```\w*\n", text) and text.endswith("```") and text.count("```") == 2:
        text = text.split("\n", 1)[1][:-3]  # the whole reply stands in a code block
    (_, lead), *found = split_fields(text, is_classification)
    examples: list[dict[str, list[str]]] = [{}]
    for name, body in found:
        last = examples[-1]
        if name == "input" and "input" in last and "output" not in last:  # "Input 1: ...", "Input 2: ..."
            last["input"].append(body)
            continue
        if name == "example" or name in last:
            examples.append({})
        if name == "output" and is_classification and "\n" in body:  # a label is one line; what follows is its input
            body, rest = body.split("\n", 1)
            examples[-1].setdefault("input", [rest.strip()])
        if body or name != "example":
            examples[-1]["input" if name == "example" else name] = [body.strip()]
    if not is_classification and {name for name, _ in found} <= {"example"}:  # answers, or inputs, without a name
        texts = [body for _, body in found if body] or [lead] * ("\n" in lead and not breaks("small_talk", lead))
        name = "input" if any(map(NAMED.match, texts)) else "output"
        examples = [{name: [text]} for text in texts]
    if is_classification and list(examples[0]) == ["input"] and "\n" not in lead and not breaks("small_talk", lead):
        examples[0]["output"] = [lead]  # the reply went on behind a dangling "Class label:"
    whole = [example for example in examples[: -1 if truncated else None] if example]
    pairs = [["\n".join(filter(None, one.get(name, []))) for name in ("input", "output")] for one in whole]
    return [("" if breaks("no_input", source) else source, target) for source, target in pairs]


def split_fields(text: str, labelled: bool) -> list[tuple[str, str]]:
    """Cut a reply at the names of its fields: (name, text) pairs; what stands before the first has the name ""."""
    parts: list[tuple[str, list[str]]] = [("", [])]
    in_code, lines = False, text.split("\n")
    for n, line in enumerate(lines):
        field_name, header = (None, None) if in_code else (FIELD.match(line), EXAMPLE.fullmatch(line))
        if field_name and (labelled or not field_name["label"]):
            parts.append(("input" if field_name["input"] else "output", []))
            line = line[field_name.end() :]
        elif header and (header["sure"] or FIELD.match(next(filter(str.strip, lines[n + 1 : n + 4]), ""))):
            parts.append(("example", []))
            line = ""
        parts[-1][1].append(line)
        in_code ^= line.count("```") % 2 == 1 and (in_code or line.lstrip().startswith("```"))
    fields = []
    for name, body in parts:  # without a rule below it, or a last paragraph such as "Let me know if you need more!"
        text = re.sub(r"\n[ \t]*[-*]{3,}\Z", "", "\n".join(body).strip()).strip()
        head, _, tail = text.rpartition("\n\n")
        fields.append((name, head.rstrip() if head and breaks("small_talk", tail) else text))
    return fields


# ----------------------------------------------------------------------------------------------------------------------
# Stage 4, filter and dedupe (paper, section 2.2, "Filtering and Postprocessing").


def filter_and_dedupe(config: Config, model: Model, tasks: list[Task]) -> list[dict]:
    """Stage 4, filter: drop empty, copied, contradictory, unfinished and duplicate instances; the rest is the dataset.
    Returns rows of exactly instruction, input and output, at most 5 for a task, as in the paper. Asks nothing."""
    results, seen = model.results, set()
    results.begin("filter")
    for task in tasks:
        pairs = [(instance["input"], instance["output"]) for instance in task.instances]
        kept, out = filter_instances(task.instruction, pairs, recipe=config.recipe)
        chosen = random.Random(f"{config.seed}/{task.instruction}").sample(range(len(kept)), min(5, len(kept)))
        for i, (source, target) in enumerate(kept):
            key = (task.instruction, source, target if config.recipe == "paper" else "")
            if i not in chosen or key in seen:
                out.append((source, target, "over_five" if i not in chosen else "duplicate"))
            else:
                seen.add(key)
                results.dataset.append({"instruction": task.instruction, "input": source, "output": target})
        for source, target, rule in out:
            results.reject("filter", rule, task.instruction, pair=(source, target))
    return results.dataset


def filter_instances(instruction: str, instances: Pairs, *, recipe: str = "modern") -> tuple[Pairs, list[tuple]]:
    """Sort the instances of one task into kept (input, output) and rejected (input, output, rule)."""
    if recipe == "modern":  # an input that merely repeats the instruction is none
        asked = " ".join(instruction.split()).casefold()
        instances = [("" if " ".join(s.split()).casefold() == asked else s, target) for s, target in instances]
    judged = [(source, target, instance_problem(instruction, source, target, recipe)) for source, target in instances]
    outputs = Counter(source for source, _ in {(source, target) for source, target, rule in judged if not rule})
    clash = {source for source, n in outputs.items() if source and n > 1}
    kept, rejected = {}, []
    for source, target, rule in judged:
        if not rule and (source in clash or (clash and recipe == "paper")):
            rule = "conflicting_outputs"
        key = (source, target if recipe == "paper" else "")  # two instances with the same are duplicates
        if rule or key in kept:
            rejected.append((source, target, rule or "duplicate"))
        else:
            kept[key] = (source, target)
    return list(kept.values()), rejected


def instance_problem(instruction: str, source: str, target: str, recipe: str = "modern") -> str:
    """Name the rule that an instance breaks by itself, "" if it is fine. One character is a fine answer."""
    asked, given, answer = (" ".join(text.split()) for text in (instruction, source, target))
    modern = {
        "empty_output": not answer,
        "output_equals_input": source.strip() == target.strip(),
        "copy_of_instruction": asked.casefold() == answer.casefold(),
        "unfinished": given.endswith((":", "：")) or answer.endswith((":", "：")),
        "placeholder": breaks("placeholder", answer),
        "refusal": breaks("refusal", target),
    }
    paper = {
        "output_equals_input": source == target,
        "empty_output": not target,
        "unfinished": given.endswith(":") or answer.endswith(":"),
    }
    return first_broken(paper if recipe == "paper" else modern)


def first_broken(rules: dict[str, bool]) -> str:
    return next((rule for rule, broken in rules.items() if broken), "")


# ----------------------------------------------------------------------------------------------------------------------
# The recipe `paper`: what the official code sends and how it reads a reply, its oddities included, so that the raw
# replies of a real run give that run's own results. It speaks to a text-completion endpoint: base models go on writing.

PAPER = {  # beside temperature; stage -> sampling parameters
    "generate": {"max_tokens": 1024, "top_p": 0.5, "presence_penalty": 2, "stop": ["\n\n", "\n16", "16.", "16 ."]},
    "classify": {"max_tokens": 3, "top_p": 0, "stop": ["\n", "Task"]},
    "instances": {"max_tokens": 350, "top_p": 0, "presence_penalty": 1.5, "stop": ["Example 6", "Task:"]},
}


def parameters(config: Config, stage: str, labelled: bool = False) -> dict:
    """What a stage sends beside the prompt. Stage 2 takes the likeliest answer, and so does stage 3 in `paper`."""
    if config.recipe == "modern":
        return {"max_tokens": config.max_tokens, "temperature": 0.0 if stage == "classify" else config.temperature}
    temperature = config.temperature if stage == "generate" else 0.0
    return {"temperature": temperature, **PAPER[stage]} | ({"max_tokens": 300} if labelled else {})


def paper_instructions(reply: str, truncated: bool) -> list[str]:
    """Candidates of a stage-1 reply; a truncated one is dropped whole. "add 2. \\n10. NASA is?" -> Add 2., Nasa is?"""
    items = [] if truncated else re.split(r"\n\d+\s?\. ", reply)
    return [text for item in items if (text := " ".join(item.split()).capitalize())]


def paper_instruction_problem(text: str) -> str:
    words = len(text.split())
    rules = {
        "too_short": words <= 3,
        "too_long": words > 150,
        "keyword": bool(re.search(r"(?i)\b(images?|graphs?|pictures?|files?|maps?|draw|plot|go to)\b", text)),
        "write_a_program": text.startswith("Write a program"),
        "leading_punctuation": text[:1] in string.punctuation,
        "not_ascii": not text[:1].isascii(),
    }
    return first_broken(rules)


def paper_instances(reply: str, is_classification: bool, truncated: bool) -> Pairs:
    """Instances are what stands between the words `Class label:`, or else `Example`, wherever they occur."""
    if is_classification:
        pieces = [piece.strip().partition("\n") for piece in reply.split("Class label:")[1:]]
        pairs = [(rest.strip(), label.strip()) for label, _, rest in pieces]
    elif re.search(r"Example\s?\d*\.?", reply):
        pairs = [paper_pair(piece) for piece in re.split(r"Example\s?\d*\.?", reply) if piece.strip()]
    else:
        pairs = [paper_pair(reply)] if re.search(r"Output\s*+\d*\s*:", reply) else []
    return pairs[:-1] if truncated else pairs


def paper_pair(piece: str) -> tuple[str, str]:
    """(input, output): the output ends at the next `Output:` or `Input:`; without `Output:` all of it is the output."""
    source, *targets = re.split(r"Output\s*+\d*\s*:", piece)
    source, target = (source, targets[0]) if targets else ("", piece)
    target = re.split(r"Input\s*+\d*\s*:", target.strip())[0]
    return re.sub(r"^Input\s*+\d*\s*:", "", source.strip()).strip(), target.strip()


# ----------------------------------------------------------------------------------------------------------------------
# The whole workshop: the four stages in turn, what they write, and what a class sees of it.

STAGE_FUNCTIONS = (generate_instructions, classify_instructions, generate_instances, filter_and_dedupe)


def run(config: Config, say: Callable[[str], Any] = print, model_class: type[Model] = Model) -> dict:
    """Do the workshop; return its summary, as in run.json. A step file is written when its stage ends or breaks off.
    `model_class` may watch over what is sent, as scripts/limits.py does. Raises WorkshopError for what the user can put
    right; the same call then goes on with what the journal has."""
    ready = seed_tasks = load_seed_tasks(config.seed_file or DEFAULT_SEEDS[config.language])
    started, folder = time.monotonic(), Path(config.work_dir)
    with model_class(config) as model:
        say(greeting(config, model, len(seed_tasks)))
        for name in (*STEP_FILES, "run.json"):  # of an earlier run: no views of this one
            (folder / name).unlink(missing_ok=True)
        try:
            for number, stage in enumerate(STAGES[: STAGES.index(config.until) + 1]):
                say("\n" + STAGE_FUNCTIONS[number].__doc__.split("\n")[0])
                try:
                    ready = STAGE_FUNCTIONS[number](config, model, ready)
                finally:
                    write_whole(folder / STEP_FILES[number], map(to_json, model.results.rows(stage)))
                say("\n".join(examples(stage, model.results)))
            model.results.status = "complete" if stage == "filter" else f"stopped after {stage}"
        except KeyboardInterrupt as stop:
            n = len(model.results.rows(stage))
            total = config.num_instructions if number == 0 else len(model.results.tasks)
            stop.args += (f"stage {number + 1}, {stage}: {n} of {total} done, {total - n} left",)
            raise
        finally:
            summary = write_summary(config, model, len(seed_tasks), time.monotonic() - started)
    say(funnel(config, summary))
    return summary


def greeting(config: Config, model: Model, seeds: int) -> str:
    text = f"Self-Instruct: {seeds} seed tasks, {config.num_instructions} new by {model.name}, {one_line(model.model)}"
    text += f" at {model.base_url}" if config.base_url else ""
    if model.name == "practice":
        text += "\nThis is a bank of written tasks, NOT a language model: free, to learn with."
        text += "" if config.provider else " No API key was found: to go live, put one into .env (see .env.example)."
    return text + "\nnotice: the last line of responses.jsonl was torn by a kill; it was cut off." * model.journal.torn


def examples(stage: str, results: Results) -> list[str]:
    """Two things that the stage has just made, and two that it turned away and why: those at the ends of an order."""
    made = sorted(results.rows(stage), key=lambda row: not row.get("is_classification"))  # one of each kind
    out = [row for row in results.rejected if row["stage"] == stage and row["rule"] != "not_needed"]
    out.sort(key=lambda row: (not row["evidence"], row["score"] == 1.0, row["rule"]))  # a copy teaches less
    lines = []
    for row in made[:1] + made[1:][-1:]:
        lines.append(f"  + {one_line(row['instruction'])}")
        for neighbour, score in [*row.get("most_similar", {}).items()][:1]:
            lines.append(f"      accepted; the nearest, at {score:.2f}: {one_line(neighbour, 70)}")
        facts = row | (row.get("instances") or [{}])[0]
        names = [name for name in ("is_classification", "input", "output") if name in facts]
        lines += [f"      {name}: {one_line(str(facts[name]))}" for name in names]
    for row in out[:1] + out[1:][-1:]:
        why = f", at {row['score']:.2f}: {one_line(row['evidence'], 70)}" if row["evidence"] else ""
        why += f", for the output {one_line(row['output'], 60)!r}" if row["output"] is not None else ""
        lines += [f"  - {one_line(row['instruction'])}", f"      rejected: {row['rule']}{why}"]
    return lines


def write_summary(config: Config, model: Model, seeds: int, seconds: float) -> dict:
    """Write what was rejected, a complete run's dataset to `output_path`, and the summary; return the summary."""
    folder, results = Path(config.work_dir), model.results
    write_whole(folder / "rejected.jsonl", map(to_json, results.rejected))
    if config.output_path and results.status == "complete":
        write_whole(Path(config.output_path), map(to_json, results.dataset))
    packages = {package: metadata.version(package) for package in ("openai", "dashscope", "rapidfuzz", "rouge-score")}
    summary = {
        "status": results.status,
        "settings": asdict(config) | {"provider": model.name, "model": model.model, "base_url": model.base_url},
        "versions": {"self_instruct": __version__, "python": sys.version.split()[0], **packages},
        "counts": {"seed_tasks": seeds, "wanted": config.num_instructions, **count(model)},
        "undone_because": Counter(re.sub(r"(?<=\w )\d+", "N", why) for _, why in model.undone),  # sizes differ
        "faults": model.faults,
        "refused_parameters": model.refused,
        "tokens": model.tokens,
        "spending": model.spending(),
        "seconds": round(seconds, 1),
        "ended_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    write_whole(folder / "run.json", [json.dumps(summary, ensure_ascii=False, indent=2), "\n"])
    return summary


def count(model: Model) -> dict[str, dict]:
    """What came into each stage and where it went: in = out + rejected + undone (which in stage 1 are requests)."""
    counts, rules = {}, {stage: Counter() for stage in STAGES}
    for row in model.results.rejected:
        cut_instance = (row["stage"], row["rule"]) == ("instances", "cut_off")  # instances are counted in stage 4
        rules["filter" if cut_instance else row["stage"]][row["rule"]] += 1
    for stage, rejected in rules.items():
        out = sum(row.get("instances") != [] for row in model.results.rows(stage))  # without any, a task ends here
        undone = sum(failed == stage for failed, _ in model.undone)
        came = out + rejected.total() + (undone if stage != "generate" else 0)
        counts[stage] = {"in": came, "rejected": dict(rejected.most_common()), "undone": undone, "out": out}
    counts["generate"]["new_per_request"] = round(fmean(model.results.novelty[-10:] or [0]), 1)  # of the last ten
    flags = Counter(row["is_classification"] for row in model.results.rows("classify"))
    counts["classify"] |= {"classification": flags[True], "not_classification": flags[False], "unknown": flags[None]}
    return counts


def funnel(config: Config, summary: dict) -> str:
    """The table at the end: what came in, what each rule took, what is left; then what it cost and what to do next."""
    counts, done, lines = summary["counts"], STAGES.index(config.until) + 1, [""]
    units = ("candidate instructions", "instructions", "tasks", "instances")
    for stage, unit in zip(STAGES[:done], units, strict=False):
        rows = {f"{stage}: {unit}": counts[stage]["in"]} | {f"  - {k}": n for k, n in counts[stage]["rejected"].items()}
        rows |= {f"    {k}": n for k, n in counts[stage].items() if k not in ("in", "rejected", "out") and n}
        lines += [f"{name:<40} {n:>7}" for name, n in rows.items()]
    lines += [f"{'left':<40} {counts[config.until]['out']:>7}", ""]
    made, wanted, undone = counts["generate"]["out"], config.num_instructions, sum(summary["undone_because"].values())
    if made < wanted or counts["generate"]["new_per_request"] < 1:
        rule = next(iter(counts["generate"]["rejected"]), "no reply")
        ended = f"{config.patience} requests in a row found nothing new" if made < wanted else "few new ones by now"
        lines.append(f"notice: {made} of {wanted} instructions, {ended}, most often {rule}.")
        more = " Seed tasks that vary more help, or --temperature 1, or --machine-tasks-shown 4."
        lines[-1] += "" if counts["generate"]["undone"] else more
    spent = sum(map(Counter, summary["tokens"].values()), Counter())
    now, cost = spent["asked_now"], f"{spent['prompt']} + {spent['reply']} tokens in all; {summary['seconds']} s"
    cost += f"; ${dollars:.4f}" if (dollars := summary["spending"].get("cost")) else ""
    lines.append(f"{now} requests now, {spent['replies'] - now} replies from the journal; {cost}")
    if spent["cut"]:
        paper, more = config.recipe == "paper", f"--max-tokens {config.max_tokens}; more asks again"
        lines.append(f"notice: {spent['cut']} replies were cut at {'the limit of the paper' if paper else more}.")
    lines += [] if now or undone else ["Already complete: nothing was asked, nothing was paid."]
    lines.append(f"Files in {config.work_dir}: {', '.join([*STEP_FILES[:done], 'rejected.jsonl', 'run.json'])}")
    hint = f"Next: {sys.executable} self_instruct.py --report, a page to look at (or --show-prompts, or --help)"
    hint = hint if config.until == "filter" else "To go on: the same command without --until."
    why = next(iter(summary["undone_because"]), "")
    hint = f"{undone} undone ({why}). The same command asks again for what got no reply." if undone else hint
    return "\n".join([*lines, hint])


def main(config: Config | None = None, action: Callable[[Config], Any] = run) -> int:
    """Do it, and return the exit code (3 when something is undone, 130 or 143 when interrupted)."""

    def interrupt(number: int, _: Any) -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second one leaves at once
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise KeyboardInterrupt(128 + number)

    with suppress(ValueError):  # not the main thread: a notebook handles signals itself
        signal.signal(signal.SIGINT, interrupt)
        signal.signal(signal.SIGTERM, interrupt)
    with suppress(AttributeError):  # neither are its streams a terminal's
        sys.stdout.reconfigure(encoding="utf-8", errors="replace")
        sys.stderr.reconfigure(encoding="utf-8", errors="replace")
    try:
        config = config or Config()
        result = action(config)
        return result if isinstance(result, int) else 3 if result and result["undone_because"] else 0
    except WorkshopError as error:
        problem, code = str(error), 2 if isinstance(error, UsageError) else 1
    except OSError as error:
        place = error.filename or ("the output" if isinstance(error, BrokenPipeError) else config.work_dir)
        problem = f"{place}: {error.strerror}; every reply so far is kept, the same command goes on"
        code = 1
    except KeyboardInterrupt as interrupted:
        done = "; ".join(["interrupted: every reply so far is kept", *interrupted.args[1:]])
        print(f"\n{done}; go on with: {shlex.join([sys.executable, *sys.argv])}", file=sys.stderr)
        return interrupted.args[0]
    print(f"error: {problem}", file=sys.stderr)
    return code


def leave(code: int) -> None:
    """End this process without waiting for requests that are still in flight."""
    with suppress(OSError, AttributeError):  # nobody may be reading any more
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    leave(main())
