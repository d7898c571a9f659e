"""Rate and spending limits: a Model that watches over what it sends. `self_instruct.py` hands it to `run`.

    python self_instruct.py --requests-per-minute 60 --tokens-per-minute 40000
    python self_instruct.py --max-cost 0.50 --price-in 0.10 --price-out 0.50        dollars per million tokens
    python self_instruct.py --max-tokens-total 200000                               exit 3 when it is reached

A limit on spending counts every reply of this provider and model in the folder's journal, what got lost on its way, and
what is in flight: a request reserves the bytes of its prompt and its whole max_tokens, and settles on what the server
says it used. So the limit is never passed. Once a request does not fit, none is sent, and the same command with a
higher limit goes on. Where a server answers 429, all requests slow down together, whether a limit is given or not,
to the rate that it bears; where 429s have another reason than the rate, the request just goes again.
"""

from __future__ import annotations

if __name__ == "__main__":  # a part, no program: said before an import fails
    raise SystemExit("limits.py is a part of self_instruct.py: run  python self_instruct.py --help")

import argparse
import json
import math
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import self_instruct_workshop as workshop
from scripts.asking import together
from scripts.asking.pace import Pace

FRAME = 16  # tokens that a chat's frame may add to those of a prompt
BYTES_PER_TOKEN = 4  # about, in English; a reservation counts every byte as a token
PRICES = workshop.DATA / "prices.json"
BILLED = r"(?!4(?!08)\d\d\b|5(?!04)\d\d\b|connection:.*(refused|establish|resol|getaddrinfo|unreachable))"  # perhaps


def add_flags(parser: argparse.ArgumentParser) -> None:
    add = partial(parser.add_argument_group("limits, by scripts/asking/limits.py").add_argument, metavar="X")
    add("--requests-per-minute", type=positive, help="send no more than this")
    add("--tokens-per-minute", type=positive, help="prompts and replies together")
    add("--max-cost", type=positive, help="stop before this many dollars; exit 3")
    add("--max-tokens-total", type=positive, help="stop before this many tokens; exit 3")
    add("--price-in", type=not_negative, help="dollars per million prompt tokens [prices.json]")
    add("--price-out", type=not_negative, help="dollars per million reply tokens [prices.json]")


def not_negative(text: str) -> float:
    if not 0 <= float(text) < math.inf:
        raise argparse.ArgumentTypeError(f"must be at least 0, not {text}")
    return float(text)


def positive(text: str) -> float:
    if not not_negative(text):
        raise argparse.ArgumentTypeError(f"must be more than 0, not {text}")
    return float(text)


def who(config: workshop.Config) -> tuple[str, str]:
    """The provider and the model whose replies a run uses, before anything is opened."""
    if config.responses:
        return tuple(workshop.first_record(config.responses)[name] for name in ("provider", "model"))
    name = workshop.provider_name(config)
    return name, workshop.model_name(config, name) or "the first model listed"


def price_of(provider: str, model: str, options: argparse.Namespace) -> tuple[float, float] | None:
    """Dollars per million tokens of prompts and of replies, as given or else as data/prices.json lists them; None: not
    known, which is a UsageError where --max-cost or one of the two needs it."""
    table = json.loads(PRICES.read_text(encoding="utf-8"))["dollars_per_million_tokens"]
    listed, given = table.get(provider, {}).get(model, (None, None)), (options.price_in, options.price_out)
    found = tuple(theirs if ours is None else ours for ours, theirs in zip(given, listed, strict=True))
    if None in found and (options.max_cost or given != (None, None)):
        raise workshop.UsageError(f"price not listed for {model}: give both --price-in and --price-out")
    return None if None in found else found


def replies(config: workshop.Config, provider: str, model: str) -> Iterator[dict]:
    """The journal's records of replies of this provider and model, as far as they can be read."""
    needed = {"provider", "model", "stage", "attempt", "prompt", "text", "max_tokens", "prompt_tokens", "reply_tokens"}
    path = Path(config.responses or Path(config.work_dir) / "responses.jsonl")
    with suppress(OSError), open(path, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            with suppress(ValueError, AttributeError):
                record = json.loads(line)
                ours = needed <= record.keys() and (record["provider"], record["model"]) == (provider, model)
                if ours and record["stage"] in workshop.STAGES[:3]:
                    yield from workshop.single_records(record)


class SlowDown(workshop.ParameterRefused):
    """A 429: the request is sent again, in its turn, and the time until then does not count."""


class Purse:
    """Tokens spent, by stage, and tokens reserved: each of prompts and of replies."""

    def __init__(self, max_tokens: float | None, max_cost: float | None, price: tuple[float, float] | None) -> None:
        self.max_tokens, self.max_cost, self.price = max_tokens or math.inf, max_cost or math.inf, price
        self.changed, self.reserved, self.full = threading.Condition(), (0, 0), ""  # full: the limit that was hit
        self.rows: dict[str, tuple[int, int, int]] = {}  # stage, or "lost" -> requests, tokens of prompts, of replies

    @property
    def spent(self) -> tuple[int, int]:
        return tuple(sum(row[i] for row in [*self.rows.values()]) for i in (1, 2))

    def cost(self, prompt: float, reply: float) -> float | None:
        """Dollars; None where the price is not known."""
        return (prompt * self.price[0] + reply * self.price[1]) / 1e6 if self.price else None

    def passes(self, prompt: int, reply: int) -> str:
        """The limit that a request of this size could pass, "" if none."""
        total = [sum(sizes) for sizes in zip(self.spent, self.reserved, (prompt, reply), strict=True)]
        if sum(total) > self.max_tokens:
            return f"--max-tokens-total ({self.max_tokens:,.0f})"
        return f"--max-cost (${self.max_cost:g})" if (self.cost(*total) or 0.0) > self.max_cost else ""

    def reserve(self, prompt: int, reply: int, stop: threading.Event) -> None:
        """Wait until it fits, as long as what is in flight may turn out to use less. Raises RequestFailed."""
        with self.changed:
            while (limit := self.passes(prompt, reply)) and any(self.reserved) and not (self.full or stop.is_set()):
                self.changed.wait(0.2)
            self.full = self.full or limit  # from now on nothing is sent, and a run with a higher limit goes on here
            if self.full:
                raise workshop.RequestFailed(f"the next request could pass {self.full}; a higher limit goes on")
            self.reserved = (self.reserved[0] + prompt, self.reserved[1] + reply)

    def settle(self, reserved: tuple[int, int], row: str, prompt: int, reply: int) -> None:
        with self.changed:
            self.reserved = (self.reserved[0] - reserved[0], self.reserved[1] - reserved[1])
            if prompt or reply:
                before = self.rows.get(row, (0, 0, 0))
                self.rows[row] = (before[0] + 1, before[1] + prompt, before[2] + reply)
            self.changed.notify_all()


class LimitedModel(workshop.Model):
    """A Model that keeps to limits: `run(config, model_class=partial(LimitedModel, options=...))`. `project`, as
    estimate.py has it, says about how many tokens of prompts and of replies the whole run will have spent."""

    def __init__(
        self, config: workshop.Config, options: argparse.Namespace, project: Callable | None = None,
        clock: Callable = time.monotonic,
    ) -> None:  # fmt: skip
        limits = (None, None) if config.responses else (options.max_tokens_total, options.max_cost)  # a replay is free
        self.purse = Purse(*limits, price_of(*who(config), options))
        self.pace, self.gate = Pace(options.requests_per_minute, options.tokens_per_minute, clock), threading.Lock()
        self.made = 0  # instructions so far
        self.stage, self.warned, self.project = "", False, project or (lambda model, ended: model.purse.spent)
        super().__init__(config)
        self.together = together.group_size(config, self.name, options.classify_together)
        self.count_earlier()

    def count_earlier(self) -> None:
        """What earlier runs have paid for: the journal's replies, and what got lost, as far as run.json says."""
        for record in replies(self.config, self.name, self.model):
            if "part_of" in record:  # its tokens are counted with the list's reply
                continue
            most = len(record["prompt"].encode()) + FRAME, record["max_tokens"]
            used = self.used(record["prompt_tokens"], record["reply_tokens"], most)
            self.purse.settle((0, 0), record["stage"], *used)
        with suppress(OSError, ValueError, LookupError, TypeError):
            run = json.loads((Path(self.config.work_dir) / "run.json").read_text(encoding="utf-8"))
            if (run["settings"]["provider"], run["settings"]["model"]) == (self.name, self.model):
                lost = run["spending"]["stages"]["lost"]
                self.purse.settle((0, 0), "lost", lost["prompt_tokens"], lost["reply_tokens"])

    def used(self, prompt: int, reply: int, most: tuple[int, int]) -> tuple[int, int]:
        """What a server says, or the most that it can be where it does not; the practice model always says."""
        return (prompt or most[0], reply or most[1]) if self.provider.base_url else (prompt, reply)

    def client(self, build: Callable[[workshop.Model], Any]) -> Any:
        return super().client(lambda model: listening(build(model), self.pace.hear))

    def size(self, prompt: str, sent: dict) -> tuple[int, int]:
        """The most tokens that a request can use."""
        cap = next((sent[name] for name in workshop.CAPS if name in sent), 0)
        if not cap and min(self.purse.max_tokens, self.purse.max_cost) < math.inf:
            self.stop.set()
            problem = f"{self.model} lets nobody limit the length of a reply, so that no limit on spending can be kept"
            raise workshop.WorkshopError(f"{problem}: leave out --max-cost and --max-tokens-total")
        return len(prompt.encode()) + FRAME, cap or self.config.max_tokens

    def admit(self, prompt: str, sent: dict) -> float:
        """Wait for a turn, one behind the other, and take it if the limits on spending allow."""
        started, (most, cap) = self.pace.clock(), self.size(prompt, sent)
        with self.gate:
            while (wait := self.pace.wait()) > 0 and not self.stop.is_set():
                self.sleep(min(wait, 0.2))  # by then it may be shorter
            if self.stop.is_set():
                raise workshop.RequestFailed("the run was stopped")
            self.purse.reserve(most, cap, self.stop)
            self.pace.take(most / BYTES_PER_TOKEN + cap)
        return self.pace.clock() - started

    def send_once(self, prompt: str, sent: dict, seconds: float) -> workshop.Reply:
        """Try once, and count what that used: of what got lost, the most that it can be."""
        sent_at, most, row, used = self.pace.clock(), self.size(prompt, sent), "lost", (0, 0)
        try:
            reply = super().send_once(prompt, sent, seconds)
            row, used = self.stage, self.used(reply.prompt_tokens, reply.reply_tokens, most)
            self.pace.answered(most[0] / BYTES_PER_TOKEN + most[1], sum(used))
            return reply
        except workshop.Transient as fault:
            used = most if re.match(BILLED, fault.args[0]) else (0, 0)
            if re.match(r"429\b|\d+ Throttling", fault.args[0]):
                raise self.throttled(sent_at, fault.what, fault.wait) from None
            raise
        finally:
            self.purse.settle(most, row, *used)

    def throttled(self, sent_at: float, said: str, wait: float) -> Exception:
        """What a 429 means: slow down, unless that would take longer than a request may."""
        if "too large" in said.lower():  # by itself more than is allowed in a minute
            return workshop.RequestFailed(said)
        if self.pace.refused_for() + wait > self.config.deadline:
            return workshop.Transient(said, math.inf)
        news = self.pace.throttled(sent_at, wait)
        with self.lock:
            self.faults["429, sent again in its turn"] += 1
            say, self.warned = news and (wait >= 10 or not self.warned), self.warned or news
        if say:
            how_long = f" for {wait:.0f} s, as it asks," if wait >= 1 else ""
            print(f"notice: {self.name} answers 429: all requests wait{how_long} and slow down", file=sys.stderr)
        return SlowDown("")

    def ask_each(self, stage: str, ask: Callable, items: list) -> Iterator[tuple]:
        """As before; in stage 2, lists are asked about first, and leave their answers in the journal."""
        if stage != "generate":
            self.made = len(items)
        if stage == "classify":
            together.ask_about_all(self, items, self.together)
        return super().ask_each(stage, ask, items)

    def refuse(self, name: str) -> None:
        if name:
            super().refuse(name)

    def ask_once(self, *question: Any) -> workshop.Reply:
        self.stage = question[0]  # one at a time
        if self.stage == "generate" and self.bar is not None:
            self.made = self.bar.n
        reply = super().ask_once(*question)
        if self.bar is not None:
            self.bar.set_postfix_str(self.status(), refresh=False)
        return reply

    def status(self) -> str:
        """Spent so far, of about how much in all."""
        spent, projected = self.purse.spent, self.project(self, False)
        text, cost = f"{sum(spent):,} of {sum(projected):,} tokens", self.purse.cost(*spent)
        return text if cost is None else f"{text}, ${cost:.4f} of ${self.purse.cost(*projected):.4f}"

    def spending(self, results: workshop.Results) -> dict:
        """What run.json says: by stage, of all replies in the journal, and of what got lost, by the most it can be."""
        purse, kept = self.purse, len(results.dataset)
        self.made = len(results.tasks)
        projected, rows = self.project(self, results.status != "interrupted"), dict(purse.rows)
        lost = rows.get("lost", (0, 0, 0))  # with what was in flight when the run broke off
        rows["lost"] = (lost[0], lost[1] + purse.reserved[0], lost[2] + purse.reserved[1])
        return {
            "currency": "USD",
            "price_per_million_tokens": list(purse.price) if purse.price else "price not listed",
            **bill(purse, *(sum(row[i] for row in rows.values()) for i in (1, 2))),
            "projected": bill(purse, *projected),
            "stages": {stage: bill(purse, *row[1:]) for stage, row in rows.items()},
            "tokens_per_kept_instance": round(sum(purse.spent) / kept, 1) if kept else None,
        }


def bill(purse: Purse, prompt: int, reply: int) -> dict:
    return {"prompt_tokens": prompt, "reply_tokens": reply, "cost": purse.cost(prompt, reply)}


def listening(client: Any, hear: Callable[[Any], None]) -> Any:
    """The same client, which tells of every answer."""
    if hasattr(client, "_client"):  # OpenAI's, around one of httpx
        client._client.event_hooks = {"response": [hear]}
    else:  # a requests.Session
        client.hooks["response"].append(lambda response, *_, **__: hear(response))
    return client
