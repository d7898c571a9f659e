"""No stage waits for the slowest reply of another: free places are used ahead of time.

    python self_instruct.py --provider openai --num-instructions 3000 --concurrency 64

Stage 1 begins with one request, and at the end of every stage only the slowest replies are left.
Where fewer requests are in flight than may be, what stages 2 and 3 will ask about the tasks so far
is asked. The replies go into the journal, and when a stage comes to them they stand there. So the
same is asked as without it, and the same files come out, to the byte; only the lines of the journal
stand in another order.

Only what is certain to be asked is asked: nothing behind --until, no list of stage 2 before the
model is known to agree with people on seed tasks, and nothing at all with a limit on spending (its
money is for whole rows), in batches, in a replay, or where stages are answered by several models.
What fails is left for its stage, which asks again; where a server gives no answer, nothing more is
asked ahead of time.
"""

from __future__ import annotations

if __name__ == "__main__":  # a part, no program: said before an import fails
    raise SystemExit("ahead.py is a part of self_instruct.py: run  python self_instruct.py --help")

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any

import self_instruct_workshop as workshop
from scripts.asking import together
from self_instruct_workshop import STAGES, RequestFailed, Task

# What is asked, in the order in which stages come to it.
ORDER = ("generate", "probes", "first list", "lists", "classify", "instances")

Question = tuple[str, Any]  # one of ORDER, and the task or tasks that it is about


def can_ask_ahead(model: Any) -> bool:
    """Whether a LimitedModel may ask ahead of time."""
    config = model.config
    options = model.options
    limited = options.max_cost or options.max_tokens_total
    one_model = all(model.of(stage) is model for stage in STAGES[:3])
    is_live = bool(model.provider.base_url) and not config.responses and config.concurrency > 1
    is_run = model.stages == STAGES[:3] and config.until != "generate"
    return is_live and is_run and one_model and not limited and not options.batch


class AskingAhead:
    """What later stages will ask, and who asks it now."""

    def __init__(self, model: Any) -> None:
        self.model = model
        config = model.config
        self.results = workshop.Results()  # of the run, when its first stage has begun
        self.stage = ""  # the present one of ORDER
        self.threads = ThreadPoolExecutor(config.concurrency, "asking")
        self.lock = threading.RLock()
        self.waiting: deque[Question] = deque()
        self.most_waiting = 4 * config.concurrency  # about: more would only take memory
        # What is asked by now: (one of ORDER, an instruction) -> set when it is done.
        self.under_way: dict[tuple[str, str], threading.Event] = {}
        self.called = 0  # threads that have not begun yet
        self.failed = False  # the server is in trouble: nothing more is asked ahead of time

        # Of stage 1: which tasks have been looked at, and those of them to be asked about in a
        # list; the seed tasks asked about, with replies; and what follows from the replies.
        self.looking = threading.Lock()
        self.seen = 0
        self.unlisted: list[Task] = []
        self.probes: list[Task] = []
        self.said: dict[str, list[tuple]] = {"probes": [], "first list": []}
        self.step = self.ask_probes  # what to do next
        self.asks: dict[str, Callable] = {
            "probes": partial(workshop.ask_probe, config, model),
            "first list": partial(together.ask_probes, model),
            "lists": lambda tasks: together.ask_about(model, self.probes, tasks),
            "classify": partial(workshop.ask_options, config, model),
            "instances": partial(workshop.ask_instances, config, model),
        }

    def begin(self, stage: str, ask: Callable) -> Callable:
        """A stage begins; return its `ask` (see Model.ask_each), with what it has to do with this.

        What it will ask itself is no longer asked ahead of time.
        """
        with self.lock:
            self.stage = stage
            self.waiting = deque(one for one in self.waiting if self.is_later(one[0]))
        return partial(self.ask_now, stage, ask)

    def is_later(self, name: str) -> bool:
        """Whether the present stage is before this one, and the run comes to it."""
        comes = name != "instances" or self.model.config.until != "classify"
        return comes and ORDER.index(name) > ORDER.index(self.stage)

    def ask_now(self, stage: str, ask: Callable, item: Any) -> Any:
        """Ask a question of the present stage; if that is under way, wait: the journal has it."""
        with self.lock:
            other = self.under_way.get((stage, name_of(item)))
        if other:
            other.wait()
        reply = ask(item)
        self.take(stage, item, reply)
        return reply

    # ----------------------------------------------------------------------------------------------
    # Asking.

    def use_free_places(self) -> None:
        """Call threads for what waits, as many as there are free places."""
        if self.may_ask():
            self.look_at_tasks()
        if not (self.waiting and self.may_ask()):
            return
        window = self.model.window
        with self.lock:
            free = window.limit - window.in_flight.total()
            more = min(free, len(self.waiting)) - self.called
            self.called += max(0, more)
        for _ in range(more):
            future = self.threads.submit(self.work)
            self.model.ahead.add(future)
            future.add_done_callback(self.forget)

    def forget(self, future: Future) -> None:
        """It is done. One that ends the whole run is kept for Model.wait_for."""
        if future.cancelled() or not future.exception():
            self.model.ahead.discard(future)

    def may_ask(self) -> bool:
        """Whether what waits may be sent: there is a place, and the stage itself needs none."""
        model = self.model
        if self.failed or model.leave_by or model.stop.is_set() or model.window.waiting:
            return False
        if not model.window.limits:  # so far the journal had all replies
            return False
        with self.lock:
            name = self.waiting[0][0] if self.waiting else ""
        return model.window.has_place("instances" if name == "instances" else "classify")

    def work(self) -> None:
        """Ask one question after the other, as long as one may be sent."""
        self.model.here.ahead = True
        with self.lock:
            self.called -= 1
        while question := self.next_question():
            self.ask(*question)
            with suppress(RuntimeError):  # by now the run may have ended
                self.use_free_places()

    def next_question(self) -> Question | None:
        """The next one, if it may be sent now; it is under way then."""
        with self.lock:
            while self.waiting and self.may_ask():
                name, item = self.waiting.popleft()
                key = (name, name_of(item))
                if self.is_later(name) and key not in self.under_way:
                    self.under_way[key] = threading.Event()
                    return name, item
        return None

    def ask(self, name: str, item: Any) -> None:
        reply = None
        try:
            reply = self.asks[name](item)
        except RequestFailed:
            pass  # it is left for its stage
        finally:
            with self.lock:
                self.under_way.pop((name, name_of(item))).set()
        self.take(name, item, reply)

    # ----------------------------------------------------------------------------------------------
    # What follows from what is known.

    def take(self, name: str, item: Any, reply: Any) -> None:
        """A reply makes another question certain."""
        more: list[Question] = []
        if not reply or self.failed:
            return
        if name in self.said:
            self.said[name].append((item, reply))
        elif name == "lists":
            more = [("classify", task) for task in item]
        elif name == "classify":
            more = [("instances", self.classified(item, reply))]
        if len(self.waiting) < self.most_waiting:
            self.add(*more)

    def add(self, *questions: Question) -> None:
        """Let them wait, unless their stage is at work by now."""
        with self.lock:
            self.waiting += [one for one in questions if self.is_later(one[0])]

    def classified(self, task: Task, reply: workshop.Reply) -> Task:
        """The task as stage 3 will have it."""
        said = workshop.read_options(self.model.config, task.instruction, reply.text)
        notes = {"classify": {"labels": said[1]}}
        return Task(task.id, task.instruction, is_classification=said[0], notes=notes)

    def look_at_tasks(self) -> None:
        """In stage 1: what the tasks so far make certain. One thread at a time looks."""
        in_stage_1 = self.stage == "generate" and self.results.tasks
        if in_stage_1 and self.looking.acquire(blocking=False):
            try:
                before = None
                while self.step != before:
                    before = self.step
                    self.step()
            finally:
                self.looking.release()

    def ask_probes(self) -> None:
        """First, does the model agree with people? Seed tasks tell, as in stage 2."""
        config = self.model.config
        if workshop.RECIPES[config.recipe].checks_model:
            self.probes = workshop.probe_tasks(config, self.results.seeds)
        self.add(*[("probes", probe) for probe in self.probes])
        self.step = self.judge_probes

    def judge_probes(self) -> None:
        """Where it does, whatever the rest of the replies will be, lists may be asked about."""
        agreement = workshop.agreement_of(self.model.config, self.said["probes"])
        if agreement["same"] >= workshop.TRUSTED * len(self.probes):
            lists = self.model.together > 1
            self.step = self.ask_first_list if lists else self.ask_one_by_one

    def ask_first_list(self) -> None:
        """As soon as there is a list to ask about, ask whether lists are any good."""
        self.look_for_new()
        if len(self.unlisted) >= self.model.together:
            self.add(("first list", together.in_order(self.model, self.probes)))
            self.step = self.judge_list

    def judge_list(self) -> None:
        for probes, reply in self.said["first list"]:
            trusted = together.agreement_of(self.model, probes, reply)["trusted"]
            self.step = self.ask_in_lists if trusted else self.ask_one_by_one

    def ask_in_lists(self) -> None:
        """Whole lists only: the last one may grow yet."""
        self.look_for_new()
        size = self.model.together
        while len(self.unlisted) >= size and len(self.waiting) < self.most_waiting:
            self.add(("lists", self.unlisted[:size]))
            self.unlisted = self.unlisted[size:]

    def look_for_new(self) -> None:
        """Look at the tasks that came since: the journal may know some from an earlier run."""
        tasks = self.results.tasks[self.seen :]
        self.seen += len(tasks)
        # What is asked about a seed task is no part of a list, also before the journal has it.
        probed = {probe.instruction for probe in self.probes}
        for task in tasks:
            if together.key_of(self.model, task) in self.model.journal.starts:
                self.add(("classify", task))
            elif task.instruction not in probed:
                self.unlisted.append(task)

    def ask_one_by_one(self) -> None:
        self.look_for_new()
        room = max(0, self.most_waiting - len(self.waiting))
        self.add(*[("classify", task) for task in self.unlisted[:room]])
        self.unlisted = self.unlisted[room:]


def name_of(item: Any) -> str:
    """What tells an item from others of its kind: a task, a list of tasks; "" for stage 1."""
    first = item[0] if isinstance(item, list) else item
    return first.instruction if isinstance(first, Task) else ""
