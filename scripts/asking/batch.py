"""Half the price where there is time: stages 2 and 3 ask through the vendor's batches.

    python self_instruct.py --provider openai --num-instructions 1000 --batch
    python self_instruct.py --provider openai --num-instructions 1000 --batch --batch-wait 600

A batch only fills the journal in advance. First a stage is run without sending: whatever question
the journal does not answer is noted. The noted questions go to the vendor as a file; what comes
back is written into the journal as if it had been asked live; then the stage runs as always. Second
tries, second answers and lines that failed make the next batch, or, where they are fewer than
`--batch-min`, are asked live. Stage 1 is always live, since each of its prompts shows what came
before, and so are the seed tasks that stage 2 asks about, since they decide whether it is trusted.

The command waits. After `--batch-wait` seconds, or Ctrl-C, the vendor goes on without it, and the
same command later waits again or fetches. jobs.py says how a killed run pays for nothing twice.

Limits on spending hold: a batch reserves what all its requests can use at most, at the price of
batches, and where not all fit, as many are sent as do.
"""

from __future__ import annotations

if __name__ == "__main__":  # a part, no program: said before an import fails
    raise SystemExit("batch.py is a part of self_instruct.py: run  python self_instruct.py --help")

import argparse
import math
import secrets
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import self_instruct_workshop as workshop
from scripts.asking import limits
from scripts.asking.endpoint import FINAL, Endpoint, NotFound, Unreachable, check_provider, url_of
from scripts.asking.jobs import WAITS, Job, Jobs, json_lines, read_jobs

MOST_REQUESTS = 50_000  # in a file, of OpenAI and of DashScope
MOST_BYTES = 200 * 10**6  # of a file; OpenAI's limit, DashScope takes more
TRIES = 2  # batches that a question is sent in; after that it is asked live
LONGEST_PAUSE = 60.0  # seconds between two looks at a job
OUTAGE = 3600.0  # seconds without an answer about a job that end the wait
# "held back" lets stage 3 note all second answers of a task at once: it goes on behind a refusal.
NOTED = "held back for a batch"
WAITING = ("token_limit_exceeded", "enqueued")  # words of a job for which the queue has no room


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this file."""
    group = parser.add_argument_group("half the price within a day, by scripts/asking/batch.py")
    text = "ask through the vendor's batches (openai, dashscope): of a run, stages 2 and 3"
    group.add_argument("--batch", action="store_true", help=text)
    group.add_argument(
        "--batch-wait",
        type=limits.not_negative,
        default=math.inf,
        metavar="X",
        help="seconds to wait for batches; the same command goes on [until they are done]",
    )
    group.add_argument(
        "--batch-min",
        type=int,
        default=20,
        choices=range(1, MOST_REQUESTS + 1),
        metavar="N",
        help="fewer questions than this are asked live [20]",
    )


def model_class(config: workshop.Config, options: argparse.Namespace) -> type:
    """The class of Model that a run asks with. Raises UsageError where --batch cannot be."""
    if options.batch:
        check_providers(config)
        return BatchModel
    names = []
    with suppress(OSError):  # a folder that cannot be used: the model will say so
        jobs = read_jobs(Path(config.work_dir) / "batches.jsonl").values()
        names = [job.batch or job.job for job in jobs if not job.ended]
    if names and not config.responses:
        text = f"{names[0]} is a batch of this folder that is not fetched yet: --batch goes on"
        twice = "Without it, questions are paid for twice; deleting batches.jsonl forgets it"
        workshop.tell(f"notice: {text}. {twice}", config.language)
    return limits.LimitedModel


def check_providers(config: workshop.Config) -> None:
    """Raise UsageError where a stage that asks in batches has a provider without any."""
    for stage in workshop.STAGES[1:3]:
        check_provider(workshop.config_of_stage(config, stage))


class Question(NamedTuple):
    """What `ask_once` was to ask."""

    stage: str
    attempt: int
    prompt: workshop.Prompt
    parameters: dict
    question: dict
    derive: Callable[[dict], list[dict]] | None


class Answer(NamedTuple):
    """What a batch says to a question, on its way into the journal."""

    reply: workshop.Reply
    sent: dict  # the parameters
    batch: str  # the vendor's id of the job


class Batches:
    """Batches for a LimitedModel: `class MyModel(Batches, LimitedModel)`.

    Whatever asks through `model.ask_each(stage, ask, items)` is asked in batches first, but for
    the stages in `live`. `ask(item)` may be called many times: it must ask only
    through `model.ask` or `ask_once`, and change nothing.
    """

    live: tuple[str, ...] = ("generate", "probes")  # stages that are never asked in a batch

    def __init__(
        self, config: workshop.Config, options: argparse.Namespace, *others: Any, **named: Any
    ) -> None:
        check_providers(config)
        super().__init__(config, options, *others, **named)
        try:
            jobs = Jobs(Path(config.work_dir))
            jobs.forget_orphans()
            for model in self.everyone():
                model.begin_batches(options, jobs)
                model.close_what_is_filled()
        except workshop.WorkshopError:
            self.__exit__()
            raise

    def begin_batches(self, options: argparse.Namespace, jobs: Jobs) -> None:
        """Each model of the run has batches of its own; their files are in one folder."""
        self.least = options.batch_min
        self.batch_wait = options.batch_wait
        self.wait_ends = math.inf  # on the clock of time.monotonic, once the first wait began
        self.heard = 0.0  # on the same clock, when the vendor last answered
        self.read: dict[str, set[str]] = {}  # job -> keys that were looked for in its results
        self.noted: dict[str, Question] | None = None  # None: questions are asked, not noted
        self.left = ""  # why nothing more is sent: the wait is over
        self.most_requests = MOST_REQUESTS
        self.one_at_a_time = False  # where the vendor's queue has no room for more
        self.tries: Counter[str] = Counter()  # key -> batches that brought no reply to it
        self.checked = False  # the endpoint is there, and one question was asked live
        self.sent_live = False
        self.endpoint = Endpoint(self)
        self.jobs = jobs

    def close_what_is_filled(self) -> None:
        """Close jobs that a kill has left open when all their replies were in the journal."""
        for job in [*self.jobs.all.values()]:
            fetched = not job.ended and self.jobs.results_file(job).exists()
            keys = self.jobs.keys_of(job) if fetched and self.is_ours(job) else set()
            records = [self.journal.get(key) or {} for key in keys]
            # One that was asked live meanwhile is paid for twice: its job stays reserved.
            if keys and all(record.get("batch") == job.batch for record in records):
                self.close(job, "completed", {})

    def is_ours(self, job: Job) -> bool:
        """Whether a job of the folder is of this model."""
        return (job.provider, job.model) == (self.name, self.model)

    def spending(self, results: workshop.Results) -> dict:
        """As before, with what open batches can still use."""
        told = super().spending(results)
        bills = []
        for purse in self.family:
            saved = (1 - purse.share) * (purse.cost(*purse.in_jobs) or 0.0)
            bills.append(purse.bill(*purse.in_jobs, saved))
        open_jobs = any(purse.jobs for purse in self.family)
        return told | ({"at_most_in_open_batches": limits.sum_of(bills)} if open_jobs else {})

    def in_advance(self, stage: str, ask: Callable, items: list) -> None:
        """Before a stage asks, have its questions answered in batches."""
        if stage not in self.live:
            run_in_batches(self, ask, items)
        elif not self.journal.starts:
            # Before anything is paid for: do the servers have batches?
            for name in workshop.STAGES[1:3]:
                self.of(name).check_endpoint()

    def check_endpoint(self) -> None:
        """Raise UsageError, at the first time, where the server knows no batches."""
        if not self.checked:
            self.endpoint.check()
            self.checked = True

    # Noting and filling: both go through ask_once, so that a record is what it would be live.

    def note(self, ask: Callable, items: list) -> dict[str, Question]:
        """The questions that `ask` would send, by their keys in the journal."""
        self.noted = noted = {}
        try:
            for item in items:
                with suppress(workshop.RequestFailed):
                    ask(item)
        finally:
            self.noted = None
        return noted

    def ask_once(self, *asked: Any) -> workshop.Reply:
        """As before; a question without a logged reply is noted, or left undone."""
        waits = self.noted is not None or self.left
        if waits and self.answer is None:
            key, question = self.new_question(*asked)
            if question and self.noted is not None:
                self.noted[key] = question
                raise workshop.RequestFailed(NOTED)
            if question:
                raise workshop.RequestFailed(self.left)
        return super().ask_once(*asked)

    def new_question(
        self, stage: str, attempt: int, prompt: Any, parameters: dict, question: dict,
        derive: Callable | None = None,
    ) -> tuple[str, Question | None]:  # fmt: skip
        """The key of a question, and the question where the journal has no reply to it."""
        key, _ = self.question_key(stage, attempt, parameters, question)
        record = self.journal.get(key)
        if record and not workshop.was_cut_shorter(record, parameters["max_tokens"]):
            return key, None
        prompt = record["prompt"] if record else prompt
        return key, Question(stage, attempt, prompt, parameters, question, derive)

    @property
    def answer(self) -> Answer | None:
        """What a batch says to the question that this thread asks."""
        return getattr(self.here, "answer", None)

    def send(self, prompt: str, parameters: dict, place: ExitStack) -> tuple[workshop.Reply, dict]:
        """As before; where a batch has answered, that is the reply."""
        if self.answer is not None:
            return self.answer.reply, self.answer.sent
        self.sent_live = True
        return super().send(prompt, parameters, place)

    def write_down(self, *records: dict) -> None:
        """As before; of a batch's reply, note the batch, and count it at the price of batches."""
        if self.answer is None:
            super().write_down(*records)
            return
        record = records[0] | {"batch": self.answer.batch}
        workshop.Model.write_down(self, record, *records[1:])
        size = self.size(record["prompt"], self.answer.sent)
        used = self.used(record["prompt_tokens"], record["reply_tokens"], size)
        self.compare(size, used)
        self.purse.count(record["stage"], *used, in_batch=True)

    # Sending.

    def sent_for(self, question: Question) -> dict:
        """The parameters that go to the vendor with a question."""
        return self.adapted({**question.parameters, **self.provider.extra})

    def affordable(self, noted: dict[str, Question]) -> dict[str, Question]:
        """The first of these questions, as many as fit into the limits on spending."""
        prompt, reply = 0, 0
        chosen: dict[str, Question] = {}
        for key, question in noted.items():
            size = self.size(question.prompt, self.sent_for(question))
            prompt, reply = prompt + size[0], reply + size[1]
            limit = self.purse.passes(prompt, reply, len(chosen) + 1, in_batch=True)
            if limit:
                text = f"{len(chosen)} of {len(noted)} questions fit into {limit} for certain"
                self.notice_once(f"{text}: these go into a batch first")
                break
            chosen[key] = question
        return chosen

    def scout(self, noted: dict[str, Question]) -> bool:
        """Ask one question live, if this program has sent none: a batch takes long to fail.

        Return whether one was asked. A wrong key, an unknown model or a refused parameter is known
        at once by that.
        """
        if self.sent_live:
            return False
        self.check_endpoint()
        question = next(iter(noted.values()))
        for _ in workshop.Model.ask_each(self, "scout", self.ask_quietly, [question]):
            self.sent_live = True
        return True

    def ask_quietly(self, question: Question) -> None:
        """Ask; where that fails for good, the stage itself will say so."""
        with suppress(workshop.RequestFailed):
            super().ask_once(*question)

    def submit(self, noted: dict[str, Question]) -> None:
        """Send questions as one job or several."""
        lines: list[str] = []
        sizes: list[tuple[int, int]] = []
        length = 0
        for key, question in noted.items():
            sent = self.sent_for(question)
            line = request_line(self, key, question.prompt, sent)
            more = len(line.encode("utf-8", "replace"))
            if lines and (len(lines) >= self.most_requests or length + more > MOST_BYTES):
                self.start(lines, sizes)
                lines, sizes, length = [], [], 0
                if self.one_at_a_time:
                    return
            lines.append(line)
            sizes.append(self.size(question.prompt, sent))
            length += more
        self.start(lines, sizes)

    def start(self, lines: list[str], sizes: list[tuple[int, int]]) -> None:
        """Upload requests and create a job, which is written down before and after."""
        sums = (sum(size[0] for size in sizes), sum(size[1] for size in sizes))
        most = self.purse.worst(sums, len(lines))
        name = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(4)}"
        who = (self.name, self.model, self.base_url)
        job = Job(name, *who, "", len(lines), *most, int(time.time()))
        try:
            workshop.write_whole(self.jobs.requests_file(job), lines)
            job.file = self.endpoint.upload(self.jobs.requests_file(job))
            self.purse.jobs[name] = most
            self.jobs.begin(job)
            self.jobs.created(job, self.create(job))
        except OSError as error:
            raise self.unwritable(self.jobs.path, str(error.strerror)) from None

    def create(self, job: Job) -> str:
        """Create the job; one that the vendor refuses is over. Raises WorkshopError."""
        try:
            return self.endpoint.create(job)
        except Unreachable:
            raise  # it may exist
        except workshop.WorkshopError:
            self.close(job, "refused")
            raise

    # Waiting and fetching.

    def wait_for_jobs(self, jobs: list[Job], noted: dict[str, Question]) -> None:
        """Wait until all are done, and take what came back; or until the wait is over."""
        self.wait_ends = min(self.wait_ends, time.monotonic() + self.batch_wait)
        self.heard = time.monotonic()
        jobs = [job for job in jobs if self.is_there(job)]
        done = dict.fromkeys((job.job for job in jobs), 0)
        pause = self.config.first_wait
        with workshop.progress(self, "in batches", sum(job.requests for job in jobs)) as bar:
            while jobs:
                for job in jobs:
                    done[job.job] = self.visit(job, noted, done[job.job])
                bar.update(sum(done.values()) - bar.n)
                jobs = [job for job in jobs if not job.ended]
                if not jobs or self.over(jobs, done):
                    return
                self.sleep(min(pause, max(0.0, self.wait_ends - time.monotonic())))
                pause = min(LONGEST_PAUSE, 1.5 * pause)

    def visit(self, job: Job, noted: dict[str, Question], done: int) -> int:
        """Look at a job, and take what came back once it is done; return how far it is."""
        state = self.look_at(job)
        if state is None:
            return done
        self.heard = time.monotonic()
        if state.status in FINAL:
            self.take(job, state, noted)
            return job.requests
        counts = state.request_counts
        return counts.completed + counts.failed if counts else done

    def is_there(self, job: Job) -> bool:
        """Whether the vendor has a job; one that a kill may have prevented is looked for."""
        if job.base_url != self.base_url:
            problem = f"{job.batch or job.job} is a batch at {job.base_url}"
            raise workshop.WorkshopError(f"{problem}: fetch it with that --base-url")
        if not job.batch:
            batch = self.endpoint.find(job)
            if not batch:
                self.close(job, "never created")
                return False
            self.jobs.created(job, batch)
        text = f"{job.batch} at {self.name}, {job.requests} questions"
        self.notice_once(text, "waiting for it, up to a day; the same command goes on")
        return True

    def look_at(self, job: Job) -> Any:
        """The state of a job; None where the vendor cannot be reached, which may pass."""
        try:
            return self.endpoint.retrieve(job)
        except NotFound as error:
            raise self.unknown(job, str(error).rpartition(": ")[0]) from None
        except Unreachable as error:
            if time.monotonic() - self.heard > OUTAGE or self.stop.is_set():
                raise
            self.notice_once(str(error).partition(": nothing")[0], "trying on")
            return None

    def unknown(self, job: Job, said: str) -> workshop.WorkshopError:
        """The vendor does not know a job or its files: asking again is for the user to decide."""
        problem = f"{job.batch} or its files are not there ({said})"
        hint = f"check the key; deleting the lines of {job.job} in {self.jobs.path} pays again"
        return workshop.WorkshopError(f"{problem}: {hint}")

    def over(self, jobs: list[Job], done: dict[str, int]) -> bool:
        """Whether the wait is over; then what waits is left undone, with the reason."""
        if time.monotonic() < self.wait_ends:
            return False
        total = sum(job.requests for job in jobs)
        so_far = sum(done[job.job] for job in jobs)
        self.left = f"{WAITS} {jobs[0].batch}, {so_far}/{total} done, which --batch fetches"
        return True

    def take(self, job: Job, state: Any, noted: dict[str, Question]) -> None:
        """Fetch what came back, write it into the journal, and close the job."""
        path = self.jobs.results_file(job)
        if not path.exists():
            ids = [name for name in (state.output_file_id, state.error_file_id) if name]
            try:
                self.endpoint.download(ids, path)
            except NotFound as error:
                raise self.unknown(job, str(error).rpartition(": ")[0]) from None
        if state.status == "failed" and not path.stat().st_size:
            self.refused_by_vendor(job, state)
            return
        fatal = self.fill(job, noted)
        self.close(job, state.status, noted)
        if fatal:
            raise fatal

    def refused_by_vendor(self, job: Job, state: Any) -> None:
        """Nothing was done: send less where the queue is full, else raise WorkshopError."""
        self.close(job, "failed")
        errors = getattr(state.errors, "data", None) or []
        said = [f"{error.code} {error.message}" for error in errors]
        what = self.clean(said[0] if said else "without a reason")
        if not any(word in what.casefold() for word in WAITING):
            line = f", line {errors[0].line} of its file" if said and errors[0].line else ""
            problem = f"{self.name} did not take {job.batch} ({what}{line})"
            raise workshop.WorkshopError(f"{problem}: without --batch the same is asked live")
        self.one_at_a_time = True
        self.most_requests = max(1, job.requests // 2)
        if self.most_requests < self.least:
            self.least = math.inf
        self.notice_once(f"{self.name} has no room for {job.requests} requests", what)

    def fill(self, job: Job, noted: dict[str, Question]) -> Exception | None:
        """Write the replies of a job into the journal; return what ends the run, if anything."""
        keys = self.jobs.keys_of(job) or {*noted}
        sent = {line["custom_id"]: sent_in(line) for line in self.jobs.requests(job)}
        filled: set[str] = set()
        failed: dict[str, Exception] = {}
        strangers = 0
        for line in json_lines(self.jobs.results_file(job)):
            key = line.get("custom_id")
            if key not in keys:
                strangers += 1
            elif key in noted and key not in filled:
                problem = self.fill_one(job, noted[key], line, sent.get(key))
                if problem:
                    failed[key] = problem
                else:
                    filled.add(key)
        for key in filled:
            failed.pop(key, None)
        self.tries.update(key for key in keys & noted.keys() if key not in filled)
        self.tell(job, len(filled), [*failed.values()], strangers)
        self.read.setdefault(job.job, set()).update(keys & noted.keys())
        fatal = [one for one in failed.values() if isinstance(one, workshop.WorkshopError)]
        return next(iter(fatal), None)

    def fill_from_disk(self, noted: dict[str, Question]) -> bool:
        """Use replies that a killed run, or one with other settings, has fetched and not used."""
        found = False
        for job in self.jobs.with_results({*noted}):
            new = noted.keys() & self.jobs.keys_of(job) - self.read.get(job.job, set())
            if job.ended and new:
                self.fill(job, {key: noted[key] for key in new})
                self.close(job, job.ended, noted)
                found = True
        return found

    def fill_one(
        self, job: Job, question: Question, line: dict, sent: dict | None
    ) -> Exception | None:
        """Write one reply into the journal; return what is wrong where there is none."""
        sent = self.sent_for(question) if sent is None else sent
        try:
            reply = reply_in(self, line, sent)
        except workshop.ParameterRefused as refusal:
            self.refuse(refusal.args[0])
            return refusal
        except (workshop.Transient, workshop.RequestFailed, workshop.WorkshopError) as problem:
            return problem
        except (AttributeError, LookupError, TypeError, ValueError):
            return workshop.Transient("200 with a body that is no answer")
        # A limit on the reply that has changed meanwhile is noted as it was sent.
        cap = next((sent[name] for name in workshop.CAPS if name in sent), None)
        asked = question.parameters | ({"max_tokens": cap} if cap else {})
        self.here.answer = Answer(reply, sent, job.batch)
        try:
            self.ask_once(*question._replace(parameters=asked))
        finally:
            self.here.answer = None
        return None

    def tell(self, job: Job, filled: int, failed: list[Exception], strangers: int) -> None:
        """Say what came back."""
        text = f"{job.batch}: {filled} replies"
        if failed:
            why = workshop.one_line(str(failed[0]) or "parameter refused")
            text += f", {len(failed)} requests without one ({why})"
        text += f", {strangers} lines that nobody asked for" if strangers else ""
        workshop.tell(f"notice: {text}", self.config.language)

    def close(self, job: Job, how: str, noted: dict[str, Question] | None = None) -> None:
        """Write down that a job is over, and remove its files where all is in the journal."""
        wasted = (0, 0)
        if noted is not None:
            wasted = self.not_in_journal(job, how)
        try:
            self.jobs.end(job, how, *wasted)
        except OSError as error:
            raise self.unwritable(self.jobs.path, str(error.strerror)) from None
        for purse in self.family:
            purse.jobs.pop(job.job, None)
        if any(wasted):
            self.purse.jobs[job.job] = wasted
        else:
            self.jobs.forget_files(job)

    def not_in_journal(self, job: Job, how: str) -> tuple[int, int]:
        """Tokens that a job used, and that no record of the journal has.

        That is of replies to questions of other settings, and of a completed job's requests of
        which nothing came back: the most that they can be.
        """
        prompt, reply = 0, 0
        missing = self.jobs.keys_of(job) - self.journal.starts.keys()
        for line in json_lines(self.jobs.results_file(job)):
            key = line.get("custom_id")
            if key in missing:
                missing.discard(key)
                used = usage_in(line)
                prompt, reply = prompt + used[0], reply + used[1]
        for line in self.jobs.requests(job):
            if how == "completed" and line["custom_id"] in missing:
                size = self.size(prompt_in(line), sent_in(line))
                prompt, reply = prompt + size[0], reply + size[1]
        return prompt, reply


class BatchModel(Batches, limits.LimitedModel):
    """A model that keeps to limits, and asks in batches what can wait."""


def run_in_batches(model: Batches, ask: Callable, items: list) -> None:
    """Have the questions that `ask` puts to each item answered in the journal, batch by batch.

    `ask(item)` is called again and again, until fewer than `--batch-min` of its questions lack a
    reply: those, and whatever failed twice, are left to be asked live. With `--batch-wait` over,
    what lacks a reply fails from now on (RequestFailed) without being sent. Raises WorkshopError.
    """
    while not model.left:
        noted = model.note(ask, items)
        if model.fill_from_disk(noted):
            continue
        waiting = [job for job in model.jobs.open_with({*noted}) if model.is_ours(job)]
        if waiting:
            with_hint(partial(model.wait_for_jobs, waiting, noted))
            continue
        todo = {key: question for key, question in noted.items() if model.tries[key] < TRIES}
        if len(todo) < model.least:
            return
        if model.scout(todo):
            continue
        todo = model.affordable(todo)
        if len(todo) < model.least:
            return
        model.submit(todo)


def with_hint(wait: Callable[[], None]) -> None:
    """Wait; Ctrl-C says that the vendor goes on."""
    try:
        wait()
    except KeyboardInterrupt as stop:
        stop.args += ("the batch goes on at the vendor",)
        raise


def request_line(model: workshop.Model, key: str, prompt: workshop.Prompt, sent: dict) -> str:
    """A line of the file of requests; `custom_id` is the journal's key."""
    body = {"model": model.model}
    if workshop.RECIPES[model.config.recipe].continues_text:
        body["prompt"] = prompt
    else:
        body["messages"] = workshop.as_turns(prompt)
    head = {"custom_id": key, "method": "POST", "url": url_of(model)}
    return workshop.to_json(head | {"body": body | sent})


def sent_in(line: dict) -> dict:
    """The parameters in a line of requests."""
    return {k: v for k, v in line["body"].items() if k not in ("model", "messages", "prompt")}


def prompt_in(line: dict) -> workshop.Prompt:
    """The prompt in a line of requests."""
    body = line["body"]
    return body["messages"] if "messages" in body else body["prompt"]


def usage_in(line: dict) -> tuple[int, int]:
    """Tokens of the prompt and of the reply that a line of results says."""
    body = (line.get("response") or {}).get("body") or {}
    usage = body.get("usage") if isinstance(body, dict) else None
    told = usage if isinstance(usage, dict) else {}
    counts = [workshop.token_count(told.get(n)) for n in ("prompt_tokens", "completion_tokens")]
    return counts[0], counts[1]


def reply_in(model: workshop.Model, line: dict, sent: dict) -> workshop.Reply:
    """The Reply in a line of results. Raises what an error in it means, as a live one does."""
    response = line.get("response")
    if not isinstance(response, dict):
        error = workshop.error_words(line.get("error"))
        if error["code"] in workshop.FILTERED:
            return workshop.Reply("", "content_filter")
        said = model.clean(f"{error['code']} {error['message']}")
        raise workshop.Transient(said or "a line without a response")
    status = response.get("status_code", 200)
    body = response.get("body")
    if status != 200 or not isinstance(body, dict) or not body.get("choices"):
        return workshop.held_back(model, workshop.fault_of(status, body, {}), sent)
    usage = body.get("usage") or {}
    return workshop.read_answer(model, body, usage, "prompt_tokens", "completion_tokens")
