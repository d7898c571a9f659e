"""Rate and spending limits: a Model that watches over what it sends.

    python self_instruct.py --requests-per-minute 60 --tokens-per-minute 40000
    python self_instruct.py --max-cost 0.50 --price-in 0.10 --price-out 0.50
    python self_instruct.py --max-tokens-total 200000

Prices are dollars per million tokens. A run that reaches a limit on spending ends with exit code 3.

A limit on spending counts every reply of this provider and model in the folder's journal, what got
lost on its way, and what is in flight. A request reserves the bytes of its prompt and its whole
max_tokens, and settles on what the server says it used. So the limit is never passed. Once a
request does not fit, none is sent, and the same command with a higher limit goes on. ledger.py
remembers what was in flight when a run was killed. Where a server counts more than was reserved,
the reservations grow, and only what was in flight by then can pass the limit.

Where a server answers 429, all requests slow down together, whether a limit is given or not, to
the rate that it bears. pace.py says how.
"""

from __future__ import annotations

if __name__ == "__main__":  # a part, no program: said before an import fails
    raise SystemExit("limits.py is a part of self_instruct.py: run  python self_instruct.py --help")

import argparse
import json
import math
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import self_instruct_workshop as workshop
from scripts.asking import decided, together
from scripts.asking.ahead import AskingAhead, can_ask_ahead
from scripts.asking.jobs import reserved_by_jobs
from scripts.asking.ledger import SIZES, Ledger
from scripts.asking.pace import Pace

FRAME = 16  # tokens that a chat's frame may add to those of a prompt
BYTES_PER_TOKEN = 4  # about, in English; a reservation counts every byte as a token
PRICES = workshop.DATA / "prices.json"

# What a lost request said, if it may have cost something: no error of the request (4xx other than
# 408) and no error of the server (5xx other than 504).
BILLED = r"(?!4(?!08)\d\d\b|5(?!04)\d\d\b)"
THROTTLED = r"429\b|\d+ Throttling"

UNNAMED = "the first model listed"  # of a server whose list nobody has read yet
WHOSE = {"provider", "model", "stage", "attempt"}  # what a record says beside the reply itself


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this file."""
    group = parser.add_argument_group("limits, by scripts/asking/limits.py")
    add = partial(group.add_argument, metavar="X")
    add("--requests-per-minute", type=positive, help="send no more than this")
    add("--tokens-per-minute", type=positive, help="prompts and replies together")
    add("--max-cost", type=positive, help="a budget in dollars, never passed; exit 3")
    add("--max-tokens-total", type=positive, help="a budget in tokens, never passed; exit 3")
    add("--price-in", type=not_negative, help="dollars per million prompt tokens [prices.json]")
    add("--price-out", type=not_negative, help="dollars per million reply tokens [prices.json]")


def not_negative(text: str) -> float:
    """The number. Raises ArgumentTypeError where it is below 0 or infinite."""
    if not 0 <= float(text) < math.inf:
        raise argparse.ArgumentTypeError(f"must be at least 0, not {text}")
    return float(text)


def positive(text: str) -> float:
    """The number. Raises ArgumentTypeError where it is 0 or below, or infinite."""
    if not not_negative(text):
        raise argparse.ArgumentTypeError(f"must be more than 0, not {text}")
    return float(text)


def who(config: workshop.Config) -> tuple[str, str]:
    """The provider and the model whose replies a run uses, before anything is opened."""
    if config.responses:
        record = workshop.first_record(config.responses)
        return record["provider"], record["model"]
    name = workshop.provider_name(config)
    return name, workshop.model_name(config, name) or UNNAMED


def price_of(
    provider: str, model: str, options: argparse.Namespace, of_run: bool = True
) -> tuple[float, float] | None:
    """Dollars per million tokens of prompts and of replies; None: not known.

    A price that is given is that of the run's model, and counts; else the one of
    data/prices.json. Raises UsageError where the price is not known and --max-cost, or one price
    of the two, needs it.
    """
    # Look both up.
    table = price_list()["dollars_per_million_tokens"]
    listed_in, listed_out = table.get(provider, {}).get(model, (None, None))
    if not of_run:
        return other_price(model, listed_in, listed_out, options)
    price_in = listed_in if options.price_in is None else options.price_in
    price_out = listed_out if options.price_out is None else options.price_out
    if price_in is not None and price_out is not None:
        return price_in, price_out

    # One is missing: does anybody need it?
    one_given = options.price_in is not None or options.price_out is not None
    if options.max_cost or one_given:
        problem = f"price not listed for {model}"
        hint = f"give both --price-in and --price-out{see_page(provider)}"
        raise workshop.UsageError(f"{problem}: {hint}")
    return None


def batch_share(provider: str) -> float:
    """What a request costs in a batch, as a share of the listed price; 1: no less, or not known."""
    return price_list().get("batch", {}).get(provider, 1.0)


def price_list() -> dict:
    """What data/prices.json says: date, pages of the providers, dollars per million tokens."""
    return read_prices(PRICES)


@cache
def read_prices(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def see_page(provider: str) -> str:
    """Where a provider lists its prices, as the end of a sentence; "" where that is not known."""
    page = price_list().get("pages", {}).get(provider)
    return f" (see {page})" if page else ""


def other_price(
    model: str, price_in: float | None, price_out: float | None, options: argparse.Namespace
) -> tuple[float, float] | None:
    """The listed price of a model that answers one stage. Raises UsageError as price_of does."""
    if price_in is not None and price_out is not None:
        return price_in, price_out
    if options.max_cost:
        problem = f"price not listed for {model}"
        raise workshop.UsageError(f"{problem}: add it to {PRICES}, or limit --max-tokens-total")
    return None


def records(config: workshop.Config) -> Iterator[dict]:
    """The journal's records of replies that can be read; of an old list, one for each answer."""
    path = Path(config.responses or Path(config.work_dir) / "responses.jsonl")
    with suppress(OSError), open(path, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            record = workshop.json_or_none(line)
            if is_reply(record):
                yield from workshop.single_records(record)


def is_reply(record: Any) -> bool:
    """Does a line of the journal hold a reply that says whose it is, and in which stage?"""
    return workshop.is_record(record) and record.keys() >= WHOSE


def bytes_of(prompt: Any) -> int:
    """The bytes of a prompt, which is a text or messages."""
    return len(workshop.as_text(prompt).encode())


class SlowDown(workshop.ParameterRefused):
    """A 429: the request is sent again, in its turn, and the time until then does not count."""


class Purse:
    """Tokens of one model: spent, by stage, and reserved; each of prompts and of replies.

    `family` has the purses of all models of a run: the limits are those of all together.
    """

    def __init__(
        self,
        max_tokens: float | None,
        max_cost: float | None,
        price: tuple[float, float] | None,
        family: list[Purse] | None = None,
    ) -> None:
        self.max_tokens = max_tokens or math.inf
        self.max_cost = max_cost or math.inf  # dollars
        self.price = price  # dollars per million tokens of prompts and of replies
        self.family = [] if family is None else family
        self.family.append(self)
        self.changed = threading.Condition()
        self.in_flight = 0
        self.sizes = (0, 0)  # of what is in flight, by its prompts and max_tokens
        self.surplus = (0, 0)  # how much more than that the server has counted for a request
        self.full = ""  # the limit that was hit
        # A stage, or "lost" -> requests, tokens of their prompts, tokens of their replies.
        self.rows: dict[str, tuple[int, int, int]] = {}
        self.share = 1.0  # of the price, what a request costs in a batch
        self.saved: Counter[str] = Counter()  # the same rows -> dollars that batches saved
        # Open batch jobs -> tokens of prompts and of replies that they can use.
        self.jobs: dict[str, tuple[int, int]] = {}

    @property
    def spent(self) -> tuple[int, int]:
        """Tokens of prompts and of replies."""
        rows = list(self.rows.values())
        return sum(row[1] for row in rows), sum(row[2] for row in rows)

    @property
    def reserved(self) -> tuple[int, int]:
        """Tokens of prompts and of replies that what is in flight can use."""
        return self.worst(self.sizes, self.in_flight)

    @property
    def in_jobs(self) -> tuple[int, int]:
        """Tokens of prompts and of replies that open batch jobs can use."""
        jobs = list(self.jobs.values())
        return sum(job[0] for job in jobs), sum(job[1] for job in jobs)

    def worst(self, sizes: tuple[int, int], requests: int = 1) -> tuple[int, int]:
        """The most that requests of these sizes in all can use, as the server counts."""
        more = self.surplus
        return sizes[0] + requests * more[0], sizes[1] + requests * more[1]

    def learn(self, size: tuple[int, int], used: tuple[int, int]) -> bool:
        """Note what the server counted for a request of this size; return whether it was more."""
        with self.changed:
            before = self.surplus
            prompt = max(before[0], used[0] - size[0])
            reply = max(before[1], used[1] - size[1])
            self.surplus = (prompt, reply)
            return self.surplus != before

    def passed(self) -> str:
        """The limit that was passed, and by how much; "" if none."""
        tokens, spent = self.all_together(with_reserved=False)
        over = tokens - self.max_tokens
        if over > 0:
            return f"--max-tokens-total ({self.max_tokens:,.0f}) was passed by {over:,.0f} tokens"
        dollars = spent - self.max_cost
        return f"--max-cost (${self.max_cost:g}) was passed by ${dollars:.4f}" * (dollars > 0)

    def cost(self, prompt: float, reply: float) -> float | None:
        """Dollars for so many tokens; None where the price is not known."""
        if self.price is None:
            return None
        return (prompt * self.price[0] + reply * self.price[1]) / 1e6

    def all_together(self, with_reserved: bool = True) -> tuple[int, float]:
        """Tokens and dollars that all models of the run have spent, and reserved."""
        tokens = 0
        dollars = 0.0
        for purse in self.family:
            # Of each: tokens, at which share of the price.
            sizes = [(purse.spent, 1.0)]
            if with_reserved:
                sizes += [(purse.reserved, 1.0), (purse.in_jobs, purse.share)]
            for size, share in sizes:
                tokens += sum(size)
                dollars += share * (purse.cost(*size) or 0.0)
            dollars -= purse.saved.total()
        return tokens, dollars

    def passes(self, prompt: int, reply: int, requests: int = 1, in_batch: bool = False) -> str:
        """The limit that requests of this size in all could pass, "" if none."""
        most = self.worst((prompt, reply), requests)
        share = self.share if in_batch else 1.0
        tokens, dollars = self.all_together()
        if tokens + sum(most) > self.max_tokens:
            return f"--max-tokens-total ({self.max_tokens:,.0f})"
        if dollars + share * (self.cost(*most) or 0.0) > self.max_cost:
            return f"--max-cost (${self.max_cost:g})"
        return ""

    def reserve(self, prompt: int, reply: int, stop: threading.Event) -> None:
        """Reserve so many tokens. Raises RequestFailed where they do not fit.

        What is in flight may turn out to use less: as long as there is some, wait for it.
        """
        with self.changed:
            # Wait until it fits, or nothing is left to wait for.
            limit = self.passes(prompt, reply)
            while limit and self.in_flight and not self.full and not stop.is_set():
                self.changed.wait(0.2)
                limit = self.passes(prompt, reply)

            # Once it does not fit, nothing is sent: a run with a higher limit goes on here.
            self.full = self.full or limit
            if self.full:
                problem = f"the next request could pass {self.full}"
                raise workshop.RequestFailed(f"{problem}; a higher limit goes on")
            self.sizes = (self.sizes[0] + prompt, self.sizes[1] + reply)
            self.in_flight += 1

    def settle(self, size: tuple[int, int], row: str, prompt: int, reply: int) -> None:
        """Give the reservation of a request back, and count what was used in its place."""
        with self.changed:
            self.sizes = (self.sizes[0] - size[0], self.sizes[1] - size[1])
            self.in_flight -= 1
            self.count(row, prompt, reply)
            self.changed.notify_all()

    def count(self, row: str, prompt: int, reply: int, in_batch: bool = False) -> None:
        """Count what a request used."""
        if prompt or reply:
            before = self.rows.get(row, (0, 0, 0))
            self.rows[row] = (before[0] + 1, before[1] + prompt, before[2] + reply)
            if in_batch:
                self.saved[row] += (1 - self.share) * (self.cost(prompt, reply) or 0.0)

    def bill(self, prompt: int, reply: int, saved: float = 0.0) -> dict:
        """So many tokens as run.json has them, with their cost in dollars."""
        cost = self.cost(prompt, reply)
        cost = cost if cost is None else cost - saved
        return {"prompt_tokens": prompt, "reply_tokens": reply, "cost": cost}


class Paid(NamedTuple):
    """A reply that was paid for, by its tokens of the prompt and of the reply."""

    who: tuple[str, str]
    stage: str
    most: tuple[int, int]  # what was reserved
    told: tuple[int, int]  # what the server says; 0: nothing
    in_batch: bool


class LimitedModel(workshop.Model):
    """A Model that keeps to limits: `run(config, model_class=partial(LimitedModel, options=...))`.

    `to_come(model)`, as estimate.py has it, says about how many tokens of prompts and of replies
    each stage will still take. Each model of a run has its own pace; limits on spending are for
    all together.
    """

    stages = workshop.STAGES[:3]  # whose replies count as spent
    ledger_name = "spending.jsonl"

    def __init__(
        self,
        config: workshop.Config,
        options: argparse.Namespace,
        to_come: Callable[[Any], dict] | None = None,
        clock: Callable = time.monotonic,
    ) -> None:
        self.options = options
        self.clock = clock
        self.to_come = to_come or (lambda model: {})
        self.family: list[Purse] = []
        self.gate = threading.Lock()  # of those who wait for a turn, one looks at the clock
        # Instructions so far, whether these are all, and how well lists of stage 2 did on seed
        # tasks.
        self.so_far = SimpleNamespace(made=0, all_made=False, in_lists={})
        self.paid: list[Paid] = []  # what the journal holds when it is opened
        self.asking_ahead: AskingAhead | None = None
        # Whether the program that runs is that of its files; then, what they were at the start.
        self.is_program = getattr(options, "is_program", False)
        self.read_at_start = decided.read_at_start(config) if self.is_program else {}
        self.rejected_before: dict | None = None  # stage -> rows that stand there; None: not read

        # The names of all models are known from here on.
        super().__init__(config)
        try:
            self.ledger = Ledger(Path(config.work_dir) / self.ledger_name)
        except workshop.WorkshopError:
            self.__exit__()
            raise
        for model in self.everyone():
            model.ledger = self.ledger
            model.purse.share = batch_share(model.name)
            size = options.classify_together
            model.together = together.group_size(config, model.name, size)
        # At two addresses, what one model was asked counts once.
        self.models = {(one.name, one.model): one for one in reversed(self.everyone())}
        for who_is_asked, model in self.models.items():
            model.purse.jobs = reserved_by_jobs(Path(config.work_dir), *who_is_asked)
        self.count_earlier()
        if can_ask_ahead(self):
            self.asking_ahead = AskingAhead(self)

    def introduce(self, config: workshop.Config, stage: str = "") -> None:
        """As before; each model has its own price and pace. A replay is free."""
        super().introduce(config, stage)
        options = self.options
        max_tokens = None if config.responses else options.max_tokens_total
        max_cost = None if config.responses else options.max_cost
        # A price that is given is that of the run's model, also where another address has it.
        of_run = not stage or who(config) == who(self.first.config)
        price = price_of(*who(config), options, of_run)
        self.purse = Purse(max_tokens, max_cost, price, self.family)
        self.pace = Pace(options.requests_per_minute, options.tokens_per_minute, self.clock)
        self.warned = False
        self.keys_of_tasks: dict[str, str] = {}  # instruction -> its key in stage 2

    def like(self, who: tuple[str, str], stage: str) -> workshop.Model:
        """As before; it costs what its own model does."""
        other = super().like(who, stage)
        if other is not self:
            other.purse.price = price_of(*who, self.options, of_run=False)
        return other

    def hear(self, record: dict) -> None:
        """Note the size of a reply that the journal holds."""
        # The tokens of one answer out of a list are counted with the list's reply.
        is_whole = record.keys() >= WHOSE and "part_of" not in record
        if is_whole and record["stage"] in self.stages:
            who_was_asked = (record["provider"], record["model"])
            most = (bytes_of(record["prompt"]) + FRAME, record["max_tokens"])
            prompt, reply = (workshop.token_count(record[name]) for name in SIZES)
            told = (prompt, reply)
            self.paid.append(Paid(who_was_asked, record["stage"], most, told, "batch" in record))

    def count_earlier(self) -> None:
        """Count what earlier runs have paid for: the journal's replies, and what got lost."""
        for paid in self.paid:
            model = self.models.get(paid.who)
            if model:
                used = model.used(*paid.told, paid.most)
                model.purse.learn(paid.most, used)
                model.purse.count(paid.stage, *used, in_batch=paid.in_batch)
        self.paid = []

        # Of what got lost, the ledger knows.
        for who_was_asked, model in self.models.items():
            model.purse.count("lost", *self.ledger.lost(*who_was_asked))
        self.earlier = self.purse.all_together()[0]

    def used(self, prompt: int, reply: int, most: tuple[int, int]) -> tuple[int, int]:
        """What a server says, or the most that it can be where the server does not say.

        The practice model always says.
        """
        if not self.provider.base_url:
            return prompt, reply
        most = self.purse.worst(most)
        return prompt or most[0], reply or most[1]

    def client(self, build: Callable[[workshop.Model], Any]) -> Any:
        """As before; the pace hears of every answer."""
        return super().client(lambda model: listening(build(model), self.pace.hear))

    def size(self, prompt: str, sent: dict) -> tuple[int, int]:
        """The most tokens that a request can use, of its prompt and of its reply.

        Raises WorkshopError where a limit on spending is given and nothing limits the reply.
        """
        cap = next((sent[name] for name in workshop.CAPS if name in sent), 0)
        if not cap and min(self.purse.max_tokens, self.purse.max_cost) < math.inf:
            self.stop.set()
            problem = f"{self.model} lets nobody limit the length of a reply"
            why = "so that no limit on spending can be kept"
            advice = "leave out --max-cost and --max-tokens-total"
            raise workshop.WorkshopError(f"{problem}, {why}: {advice}")
        return bytes_of(prompt) + FRAME, cap or self.config.max_tokens

    def admit(self, prompt: str, sent: dict) -> float:
        """Wait for a turn, one behind the other, and take it; return the seconds that took.

        Raises RequestFailed where the run was stopped, or a limit on spending could be passed.
        """
        started = self.pace.clock()
        most, cap = self.size(prompt, sent)
        with self.gate:
            # Wait in small steps: by then the rest may be shorter.
            wait = self.pace.wait()
            while wait > 0 and not self.stop.is_set():
                self.sleep(min(wait, 0.2))
                wait = self.pace.wait()
            if self.stop.is_set():
                raise workshop.RequestFailed("the run was stopped")

            # It is this request's turn.
            self.purse.reserve(most, cap, self.stop)
            self.note_in_ledger(*self.purse.worst((most, cap)))
            self.pace.take(most / BYTES_PER_TOKEN + cap)
        return self.pace.clock() - started

    def note_in_ledger(self, prompt: int, reply: int) -> None:
        """Write down what is about to be sent. Raises WorkshopError. Practice costs nothing."""
        if not self.provider.base_url:
            return
        self.check_folder()
        try:
            self.here.number = self.ledger.reserve((self.name, self.model), prompt, reply)
        except OSError as error:
            raise self.unwritable(self.ledger.path, str(error.strerror)) from None

    def settle(self, row: str, used: tuple[int, int]) -> None:
        """Count what this thread's request used, in `row`, and give its reservation back.

        First the ledger has it: what another request reserves must not stand there twice.
        """
        if self.provider.base_url:
            lost = used if row == "lost" else (0, 0)
            self.ledger.settle(self.here.number, *lost)
        self.purse.settle(self.here.size, row, *used)

    def write_down(self, *records: dict) -> None:
        """As before; once a reply is in the journal, nothing of its request is lost."""
        super().write_down(*records)
        self.settle(self.here.stage, self.here.used)

    def send_once(self, prompt: str, sent: dict, seconds: float) -> workshop.Reply:
        """Try once, and count what that used: of what got lost, the most that it can be."""
        sent_at = self.pace.clock()
        size = self.here.size = self.size(prompt, sent)
        lost = (0, 0)

        # A reply is settled when it is in the journal, anything else at once.
        try:
            reply = super().send_once(prompt, sent, seconds)
            used = self.used(reply.prompt_tokens, reply.reply_tokens, size)
            self.compare(size, used)
            self.pace.answered(size[0] / BYTES_PER_TOKEN + size[1], sum(used))
            self.here.used = used
            return reply
        except workshop.Transient as fault:
            if fault.sent and re.match(BILLED, fault.what):
                lost = self.purse.worst(size)
            self.settle("lost", lost)
            if re.match(THROTTLED, fault.what):
                raise self.throttled(sent_at, fault.what, fault.wait) from None
            raise
        except BaseException:
            self.settle("lost", lost)
            raise

    def compare(self, most: tuple[int, int], used: tuple[int, int]) -> None:
        """Where the server counts more than was reserved, reserve more, and say so once."""
        first = self.purse.surplus == (0, 0)
        limited = min(self.purse.max_tokens, self.purse.max_cost) < math.inf
        if self.purse.learn(most, used) and first and limited:
            more = sum(self.purse.surplus)
            text = f"{self.name} counts {more:,} tokens more than a request was thought to take"
            notice = f"notice: {text}: from now on more is reserved"
            workshop.tell(notice, self.config.language)

    def throttled(self, sent_at: float, said: str, wait: float) -> Exception:
        """What a 429 means: slow down, unless that would take longer than a request may."""
        # By itself it is more than a minute allows, or the server has refused for too long.
        if "too large" in said.lower():
            return workshop.RequestFailed(said)
        if self.pace.refused_for() + wait > self.config.deadline:
            return workshop.Transient(said, math.inf)

        # Count it, and say it once; a long wait is always said.
        news = self.pace.throttled(sent_at, wait)
        with self.lock:
            self.faults["429, sent again in its turn"] += 1
            say = news and (wait >= 10 or not self.warned)
            self.warned = self.warned or news
        if say:
            how_long = f" for {wait:.0f} s, as it asks," if wait >= 1 else ""
            text = f"notice: {self.name} answers 429: all requests wait{how_long} and slow down"
            workshop.tell(text, self.config.language)
        return SlowDown("")

    def ask_each(self, stage: str, ask: Callable, items: list) -> Iterator[tuple]:
        """As before; in stage 2, ask about lists first, whose answers then stand in the journal."""
        if stage in workshop.STAGES[1:]:
            self.so_far.made = len(items)
            self.so_far.all_made = True
        if stage == "classify":
            self.ask_about_lists(items)
        self.in_advance(stage, ask, items)
        return self.in_order(stage, ask, items)

    def in_order(self, stage: str, ask: Callable, items: list | Callable) -> Iterator[tuple]:
        """Ask what a stage asks, in order, and nothing before it."""
        if self.asking_ahead:
            ask = self.asking_ahead.begin(stage, ask)
        return super().ask_each(stage, ask, items)

    def ask_ahead(self) -> None:
        """As ahead.py has it."""
        if self.asking_ahead:
            self.asking_ahead.use_free_places()

    def __exit__(self, *error: Any) -> None:
        if self.asking_ahead:
            self.asking_ahead.threads.shutdown(wait=False, cancel_futures=True)
        super().__exit__(*error)

    def note_fault(self, what: str, last: bool) -> None:
        """As before; what was asked ahead of time will be asked again."""
        if last and self.here.ahead:
            self.give_up(what)
        super().note_fault(what, last)

    def give_up(self, what: str) -> None:
        """As before; what was asked ahead of time ends no run."""
        if self.here.ahead:
            self.asking_ahead.failed = True
            raise workshop.RequestFailed(what)
        super().give_up(what)

    def ask_about_lists(self, tasks: list) -> None:
        """Ask about the tasks in lists, as far as the journal does not know them."""
        seeds = workshop.load_seed_tasks(workshop.seed_path(self.config), self.config.language)
        self.so_far.in_lists = together.ask_about_all(self, tasks, self.together, seeds)

    def in_advance(self, stage: str, ask: Callable, items: list) -> None:
        """What is done before a stage asks; batch.py has its questions answered in batches."""

    def recall(self, stage: str, tasks: list, results: workshop.Results) -> list | None:
        """As decided.py has it, where the program that runs is that of its files."""
        if self.asking_ahead:
            self.asking_ahead.results = results
        if self.is_program:
            return decided.recall(self, stage, tasks, results)
        return None

    def remember(self, stage: str, results: workshop.Results) -> None:
        if self.is_program:
            decided.remember(self, stage, results)

    def refuse(self, name: str) -> None:
        """As before; a SlowDown, which is no refusal, has no name."""
        if name:
            super().refuse(name)

    def ask_once(self, *question: Any) -> workshop.Reply:
        """As before; the bar shows what is spent."""
        if question[0] == "generate" and self.bar is not None:
            self.so_far.made = self.bar.n
        reply = super().ask_once(*question)
        if self.bar is not None and not self.bar.disable:
            self.bar.set_postfix_str(self.status(), refresh=False)
        return reply

    def status(self) -> str:
        """Spent so far, of about how much in all."""
        tokens, dollars = self.purse.all_together(with_reserved=False)
        in_all = self.projected()
        text = f"{tokens:,} of {in_all['prompt_tokens'] + in_all['reply_tokens']:,} tokens"
        text = workshop.spoken(text, self.config.language)
        if in_all["cost"] is None:
            return text
        money = f"${dollars:.4f} of ${in_all['cost']:.4f}"
        return f"{text}, {workshop.spoken(money, self.config.language)}"

    def projected(self, ended: bool = False) -> dict:
        """About what the whole run will have spent, as run.json has it.

        A run that ended with nothing undone sends nothing more.
        """
        bills = [purse.bill(*purse.spent, purse.saved.total()) for purse in self.family]
        if not (ended and not self.undone):
            for stage, sizes in self.to_come(self).items():
                bills.append(self.of(stage).purse.bill(*sizes))
        return sum_of(bills)

    def spending(self, results: workshop.Results) -> dict:
        """What run.json says: by stage, of all replies in the journal, and of what got lost."""
        # What was in flight when the run broke off is lost too, as the most that it can be.
        rows: dict[str, list[dict]] = {}
        for purse in self.family:
            requests, prompt, reply = purse.rows.get("lost", (0, 0, 0))
            lost = (requests, prompt + purse.reserved[0], reply + purse.reserved[1])
            for stage, row in {**purse.rows, "lost": lost}.items():
                bill = purse.bill(*row[1:], purse.saved[stage])
                rows.setdefault(stage, []).append(bill)

        # What lists of stage 2 did on seed tasks stands beside what single questions did.
        if self.so_far.in_lists:
            results.agreement["in_lists"] = self.so_far.in_lists
        # What this run has spent above a limit is said.
        passed = self.purse.passed()
        tokens = self.purse.all_together(with_reserved=False)[0]
        if passed and tokens > self.earlier:
            text = f"notice: {passed}: {self.name} counts more than was reserved"
            workshop.tell(text, self.config.language)

        # What the whole run takes, and what came of it.
        kept = len(results.dataset)
        self.so_far.made = len(results.tasks)
        stages = {stage: sum_of(bills) for stage, bills in rows.items()}
        price = self.purse.price
        return {
            "currency": "USD",
            "price_per_million_tokens": list(price) if price else "price not listed",
            **sum_of(list(stages.values())),
            "projected": self.projected(results.status != "interrupted"),
            "stages": stages,
            "tokens_per_kept_instance": round(tokens / kept, 1) if kept else None,
        }


def sum_of(bills: list[dict]) -> dict:
    """Bills in one; its cost is None where one of them has tokens without a known price."""
    total = {name: sum(bill[name] for bill in bills) for name in SIZES}
    costs = [bill["cost"] for bill in bills if any(bill[name] for name in SIZES)]
    known = [cost for cost in costs if cost is not None]
    return {**total, "cost": sum(known) if len(known) == len(costs) else None}


def listening(client: Any, hear: Callable[[Any], None]) -> Any:
    """The same client, which tells of every answer."""
    if hasattr(client, "_client"):  # OpenAI's, around one of httpx
        client._client.event_hooks = {"response": [hear]}
    else:  # a requests.Session
        client.hooks["response"].append(lambda response, *_, **__: hear(response))
    return client
