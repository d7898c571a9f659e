"""Rate and spending limits: a Model that watches over what it sends. `self_instruct.py` hands it to `run`.

    python self_instruct.py --requests-per-minute 60 --tokens-per-minute 40000
    python self_instruct.py --max-cost 0.50 --price-in 0.10 --price-out 0.50        dollars per million tokens
    python self_instruct.py --max-tokens-total 200000                               exit 3 when it is reached

A limit on spending counts every reply of this provider and model in the folder's journal, and what is in flight: a
request reserves the bytes of its prompt and its whole max_tokens, and settles on what the server says it used. So the
limit is never overshot, and the same command with a higher limit goes on. Where a server answers 429, all requests slow
down together, whether a limit is given or not.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import self_instruct_workshop as workshop

FRAME = 16  # tokens that a chat's frame may add to those of a prompt
BYTES_PER_TOKEN = 4  # about, in English; a reservation counts every byte as a token
RECOVERY, PLATEAU = 5.0, 20.0  # seconds after a 429: back to the rate that was measured; from then on, more
WINDOW = 15.0  # seconds over which the rate of answers is measured
PRICES = workshop.DATA / "prices.json"


def add_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("limits, by scripts/limits.py")
    group.add_argument("--requests-per-minute", type=positive, metavar="X", help="send no more than this")
    group.add_argument("--tokens-per-minute", type=positive, metavar="X", help="prompts and replies together")
    group.add_argument("--max-cost", type=positive, metavar="X", help="stop before this many dollars; exit 3")
    group.add_argument("--max-tokens-total", type=positive, metavar="X", help="stop before this many tokens; exit 3")
    group.add_argument("--price-in", type=price, metavar="X", help="dollars per million prompt tokens [prices.json]")
    group.add_argument("--price-out", type=price, metavar="X", help="dollars per million reply tokens [prices.json]")


def price(text: str) -> float:
    if not 0 <= float(text) < math.inf:
        raise argparse.ArgumentTypeError(f"must be at least 0, not {text}")
    return float(text)


def positive(text: str) -> float:
    if not 0 < float(text) < math.inf:
        raise argparse.ArgumentTypeError(f"must be more than 0, not {text}")
    return float(text)


def price_of(model: str, options: argparse.Namespace) -> tuple[float, float] | None:
    """Dollars per million tokens of prompts and of replies, as given or as data/prices.json lists them, else None."""
    listed = json.loads(PRICES.read_text(encoding="utf-8"))["dollars_per_million_tokens"].get(model)
    given = (options.price_in, options.price_out)
    return given if None not in given else tuple(listed) if listed and given == (None, None) else None


class Pace:
    """When the next request may go: evenly spaced, below the limits. After a 429 all requests slow down together: they
    wait for as long as the server says, go on at half the rate at which it has been answering, are back at that rate
    within seconds, stay there for a while, and then try a little more."""

    def __init__(self, requests_per_minute: float | None, tokens_per_minute: float | None, clock: Callable) -> None:
        self.clock, self.lock = clock, threading.Lock()
        self.most = requests_per_minute / 60 if requests_per_minute else math.inf  # requests a second
        self.tokens = tokens_per_minute / 60 if tokens_per_minute else math.inf  # tokens a second
        self.next_at, self.paused_until, self.answers = -math.inf, -math.inf, deque[float]()
        self.throttled_at, self.measured = -math.inf, math.inf  # the last 429; requests a second until then

    def rate(self, now: float) -> float:
        """Requests a second that may be sent now."""
        since = now - self.throttled_at
        share = min(1.0, 0.5 + 0.5 * since / RECOVERY) * 1.05 ** min(max(0.0, since - PLATEAU), 600.0)
        return min(self.most, self.measured * share)

    def take_turn(self, tokens: float) -> float:
        """Take the next turn; return how many seconds it is away."""
        with self.lock:
            now = self.clock()
            start = max(now, self.next_at, self.paused_until)
            self.next_at = start + max(1 / self.rate(start), tokens / self.tokens)
            return start - now

    def answered(self, expected: float, used: float) -> None:
        """An answer came; what it used less than expected is free for the next."""
        with self.lock:
            self.answers.append(self.clock())
            while self.answers[0] < self.answers[-1] - WINDOW:
                self.answers.popleft()
            self.next_at -= max(0.0, expected - used) / self.tokens

    def alive(self) -> bool:
        """Whether the server has answered somebody within the last minute."""
        with self.lock:
            return bool(self.answers) and self.clock() - self.answers[-1] < 60

    def throttled(self, sent_at: float, wait: float) -> None:
        """A 429 came. One that was sent before the last 429 says no more than that one did."""
        with self.lock:
            now = self.clock()
            self.paused_until = max(self.paused_until, now + wait)
            if sent_at >= self.throttled_at:
                span = max(1.0, now - self.answers[0]) if self.answers else 1.0
                self.measured, self.throttled_at = min(self.measured, max(1, len(self.answers)) / span), now
                self.next_at = max(self.next_at, now)

    def hear(self, headers: Any) -> None:
        """Rate headers, where a server sends them: if nothing is left, wait for the reset."""
        for kind in ("requests", "tokens"):
            if headers.get(f"x-ratelimit-remaining-{kind}") == "0":
                wait = min(60.0, seconds(headers.get(f"x-ratelimit-reset-{kind}") or ""))
                with self.lock:
                    self.paused_until = max(self.paused_until, self.clock() + wait)


def seconds(text: str) -> float:
    """'1s' -> 1, '6m0s' -> 360, '20ms' -> 0.02, '7' -> 7, anything else -> 0."""
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    units = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
    return sum(float(n) * units[unit] for n, unit in re.findall(r"(\d+(?:\.\d+)?)(ms|h|m|s)", text))


class Purse:
    """Tokens spent and tokens reserved, as [of prompts, of replies]."""

    def __init__(self, max_tokens: float | None, max_cost: float | None, price: tuple[float, float] | None) -> None:
        self.max_tokens, self.max_cost, self.price = max_tokens or math.inf, max_cost or math.inf, price
        self.changed, self.spent, self.reserved, self.now = threading.Condition(), [0, 0], [0, 0], [0, 0]

    def cost(self, prompt: float, reply: float) -> float | None:
        """Dollars; None where the price is not known."""
        return (prompt * self.price[0] + reply * self.price[1]) / 1e6 if self.price else None

    def fits(self, prompt: int, reply: int) -> bool:
        total = (self.spent[0] + self.reserved[0] + prompt, self.spent[1] + self.reserved[1] + reply)
        return sum(total) <= self.max_tokens and (self.cost(*total) or 0.0) <= self.max_cost

    def reserve(self, prompt: int, reply: int, stop: threading.Event) -> None:
        """Wait until it fits, as long as what is in flight may turn out to use less. Raises RequestFailed."""
        with self.changed:
            while not self.fits(prompt, reply):
                if not any(self.reserved) or stop.is_set():
                    tokens = f"--max-tokens-total {self.max_tokens:.0f}"
                    limit = f"--max-cost {self.max_cost:g}" if self.max_cost < math.inf else tokens
                    raise workshop.RequestFailed(f"the next request could pass {limit}; a higher limit goes on")
                self.changed.wait(0.2)
            self.reserved = [self.reserved[0] + prompt, self.reserved[1] + reply]

    def settle(self, reserved: tuple[int, int], used: tuple[int, int]) -> None:
        with self.changed:
            self.reserved = [before - size for before, size in zip(self.reserved, reserved, strict=True)]
            self.spent = [before + size for before, size in zip(self.spent, used, strict=True)]
            self.changed.notify_all()


class LimitedModel(workshop.Model):
    """A Model that keeps to limits: `run(config, model_class=partial(LimitedModel, options=...))`."""

    def __init__(self, config: workshop.Config, options: argparse.Namespace, clock: Callable = time.monotonic) -> None:
        self.pace = Pace(options.requests_per_minute, options.tokens_per_minute, clock)
        super().__init__(config)
        try:
            self.purse = Purse(options.max_tokens_total, options.max_cost, price_of(self.model, options))
            if options.max_cost and not self.purse.price:
                problem = f"--max-cost needs --price-in and --price-out: price not listed for {self.model}"
                raise workshop.UsageError(problem)
            self.count_journal()
        except BaseException:
            self.__exit__()
            raise

    def count_journal(self) -> None:
        """What the journal's replies of this provider and model have used: paid for, though perhaps long ago."""
        with open(self.journal.path, encoding="utf-8") as lines:
            for record in map(json.loads, lines):
                if (record["provider"], record["model"]) == (self.name, self.model):
                    most = len(record["prompt"].encode()) + FRAME, len(record["text"].encode())
                    used = (record["prompt_tokens"] or most[0], record["reply_tokens"] or most[1])
                    self.purse.settle((0, 0), used)

    def client(self, build: Callable[[workshop.Model], Any]) -> Any:
        return super().client(lambda model: listening(build(model), self.pace.hear))

    def size(self, prompt: str, sent: dict) -> tuple[int, int]:
        """The most tokens that a request can use."""
        return len(prompt.encode()) + FRAME, max(sent.get(name, 0) for name in workshop.CAPS)

    def admit(self, prompt: str, sent: dict) -> float:
        started, (most, cap) = self.pace.clock(), self.size(prompt, sent)
        self.purse.reserve(most, cap, self.stop)
        self.sleep(self.pace.take_turn(most / BYTES_PER_TOKEN + cap))
        return self.pace.clock() - started

    def send_once(self, prompt: str, sent: dict, seconds: float) -> workshop.Reply:
        """Try once; a 429 is no try as long as the server answers others."""
        while True:
            sent_at, most, used = self.pace.clock(), self.size(prompt, sent), (0, 0)
            try:
                reply = super().send_once(prompt, sent, seconds)
                used = (reply.prompt_tokens or most[0], reply.reply_tokens or most[1])
                self.pace.answered(most[0] / BYTES_PER_TOKEN + most[1], sum(used))
                return reply
            except workshop.Transient as fault:
                used = (0, 0) if re.match(r"[45]\d\d\b", fault.args[0]) else most  # what got lost may be billed
                if not fault.args[0].startswith("429"):
                    raise
                self.pace.throttled(sent_at, (*fault.args, 0.0)[1])
                seconds -= self.pace.clock() - sent_at
                if not self.pace.alive() or seconds <= 0 or self.stop.is_set():
                    raise
                with self.lock:
                    self.faults["429, all slowed down"] += 1
            finally:
                self.purse.settle(most, used)
            self.admit(prompt, sent)

    def ask_once(self, *question: Any) -> workshop.Reply:
        reply = super().ask_once(*question)
        if self.bar is not None:
            self.bar.set_postfix_str(self.status(), refresh=False)
        return reply

    def status(self) -> str:
        """Spent so far, and about how much it will be in all."""
        tokens, cost = sum(self.purse.spent), self.purse.cost(*self.purse.spent)
        return f"{tokens:,} tokens" + (f", ${cost:.4f}" if cost is not None else "")

    def spending(self) -> dict:
        purse, stages = self.purse, {}
        for stage, spent in self.tokens.items():
            stages[stage] = purse.cost(spent["prompt"], spent["reply"])
        return {
            "currency": "USD",
            "price_per_million_tokens": list(purse.price) if purse.price else "price not listed",
            "prompt_tokens": purse.spent[0],
            "reply_tokens": purse.spent[1],
            "cost": purse.cost(*purse.spent),
            "cost_of_stages": stages,
        }


def listening(client: Any, hear: Callable[[Any], None]) -> Any:
    """The same client, which tells of the headers of every answer."""
    import openai

    def tell(response: Any, *_: Any, **__: Any) -> None:
        hear(response.headers)

    if isinstance(client, openai.OpenAI):
        return client.with_options(http_client=openai.DefaultHttpxClient(event_hooks={"response": [tell]}))
    client.hooks["response"].append(tell)  # a requests.Session
    return client
