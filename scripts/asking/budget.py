"""A limit on spending is a budget: as many instructions as go the whole way, and no more.

    python self_instruct.py --provider openai --num-instructions 300 --max-cost 0.02

Without this the limit would be reached in stage 1 or 2, and hardly any instruction would become a
row. Here the run is made in rounds. The first one makes as many instructions as surely fit, by the
estimate; each further one makes more, by what the instructions so far took, until no more fit.
What a round has paid for stands in the journal, so the next one goes on from there.
"""

from __future__ import annotations

if __name__ == "__main__":  # a part, no program: said before an import fails
    raise SystemExit("budget.py is a part of self_instruct.py: run  python self_instruct.py --help")

import argparse
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import self_instruct_workshop as workshop
from scripts.asking import estimate, limits
from scripts.asking.jobs import WAITS, reserved_by_jobs
from scripts.asking.ledger import Ledger

SURE = 0.6  # of the budget: the estimate may be wrong by that much
NEXT = 0.9  # of what is left, in each further round
FEW = 0.02  # of the instructions so far: a round for fewer more is not worth it
ROUNDS = 8  # at most

Money = tuple[float, float]  # tokens and dollars


def has_limit(config: workshop.Config, options: argparse.Namespace) -> bool:
    """Whether a limit on spending is given, and anything is paid for."""
    given = options.max_cost or options.max_tokens_total
    return bool(given) and not config.responses


def limit_of(options: argparse.Namespace) -> Money:
    return options.max_tokens_total or math.inf, options.max_cost or math.inf


def as_words(options: argparse.Namespace, say: Callable[[str], str] = str) -> str:
    """The limits as they were given: "$0.02", "40,000 tokens". `say` makes English the screen's."""
    words = [f"${options.max_cost:g}"] if options.max_cost else []
    if options.max_tokens_total:
        words.append(f"{options.max_tokens_total:,.0f} {say('tokens')}")
    return say(" and ").join(words)


def spent_so_far(
    config: workshop.Config, options: argparse.Namespace, known: estimate.Known
) -> Money:
    """What all replies in the journal, and what got lost, took of the budget."""
    # Of each model of the run: its price, what got lost, and what a batch did for nothing.
    purses = {}
    ledger = Ledger(Path(config.work_dir) / limits.LimitedModel.ledger_name)
    whom = estimate.who_answers(config)
    for stage, who in whom.items():
        purses[who] = estimate.empty_purse(whom, stage, options)
        purses[who].count("lost", *ledger.lost(*who))
        purses[who].jobs = reserved_by_jobs(Path(config.work_dir), *who, ended=True)

    for (who, stage, in_batch), sizes in known.used.items():
        purses[who].count(stage, *sizes, in_batch=in_batch)
    sums = [purse.all_together() for purse in purses.values()]
    return sum(tokens for tokens, _ in sums), sum(dollars for _, dollars in sums)


def fitting(
    config: workshop.Config,
    options: argparse.Namespace,
    known: estimate.Known,
    share: float = 1.0,
) -> int:
    """How many of the wanted instructions fit into a share of what is left, by the estimate.

    They are to become rows, also where --until stops before.
    """
    most = limit_of(options)
    spent = spent_so_far(config, options, known)

    def fits(number: int) -> bool:
        part = replace(config, num_instructions=number, until="filter")
        found = estimate.estimate(part, options, known)
        tokens = found["prompt_tokens"] + found["reply_tokens"]
        cost = found["cost_in_batches" if options.batch else "cost"]
        needed = (tokens, cost or 0.0)
        return all(
            before + more / share <= limit
            for before, more, limit in zip(spent, needed, most, strict=True)
        )

    # The largest number that fits, by halves.
    low = 0
    high = config.num_instructions
    while low < high:
        middle = (low + high + 1) // 2
        if fits(middle):
            low = middle
        else:
            high = middle - 1
    return low


def fitting_text(
    config: workshop.Config, options: argparse.Namespace, known: estimate.Known
) -> str:
    """The line of the estimate that says how many instructions fit, "" where all do."""
    if not has_limit(config, options):
        return ""
    number = fitting(config, options, known)
    if number >= config.num_instructions:
        return ""
    say = partial(workshop.spoken, language=config.language)
    text = f"about {number:,} of {config.num_instructions:,} fit into {as_words(options, say)}"
    return "  " + workshop.spoken(f"{text}: the run makes as many as become rows", config.language)


class Talk:
    """What the rounds say: the greeting at once, and of the rest that of the last round."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.greeted = False

    def begin(self) -> None:
        self.lines = []

    def say(self, text: str) -> None:
        if not self.greeted:
            print(text)
            self.greeted = True
        else:
            self.lines.append(text)

    def end(self) -> None:
        for line in self.lines:
            print(line)


def run_within(
    config: workshop.Config,
    options: argparse.Namespace,
    model_class: Callable,
    known: estimate.Known,
) -> dict:
    """Run in rounds within the budget; return the summary of the last one, with `budget` in it.

    `known` may be a little old by now: it only says how many instructions to begin with.
    """
    wanted = config.num_instructions
    number = first_number(config, options, known)
    kept_back = largest_request(config, options)
    talk = Talk()
    summary: dict = {}
    kept: dict = {}  # where the files of an earlier run are, and of which one
    for _ in range(ROUNDS):
        # At least one: that no request fits, the run itself says.
        part = replace(config, num_instructions=max(1, number))
        talk.begin()
        summary = workshop.run(part, talk.say, model_class)
        more = how_many_more(summary, options, wanted, kept_back)
        if not kept and summary["kept_in"]:
            kept = {name: summary[name] for name in ("kept_in", "replaces")}
        if not more:
            break
        # Of what the rounds say, only the last one's is shown: this must not be missed.
        if summary["kept_in"]:
            print(workshop.printable(workshop.replaced_line(part, summary)))
        number = part.num_instructions + more
    talk.end()
    return with_budget(config, options, {**summary, **kept})


def first_number(
    config: workshop.Config, options: argparse.Namespace, known: estimate.Known
) -> int:
    """How many instructions the first round makes: an earlier run goes on from what it has."""
    done, made = so_far(config)
    if not made:
        return fitting(config, options, known, SURE)
    # Some may lack replies, of a batch say. They go on as far as they fit, and no others begin.
    more = min(made, fitting(config, options, known, NEXT))
    return min(config.num_instructions, max(done, more))


def so_far(config: workshop.Config) -> tuple[int, int]:
    """How many instructions of an earlier run of these models went the whole way, and all."""
    summary = workshop.earlier_run(Path(config.work_dir))
    who = estimate.who_answers(config)
    if any(workshop.who_answered(summary, stage) != who[stage] for stage in who):
        return 0, 0
    counts = summary.get("counts")
    rows = [counts.get(stage) if isinstance(counts, dict) else 0 for stage in workshop.STAGES[:3]]
    if not all(isinstance(row, dict) for row in rows):
        return 0, 0
    numbers = [rows[2].get("in"), rows[2].get("undone"), rows[0].get("out")]
    if not all(type(number) is int for number in numbers):
        return 0, 0
    return numbers[0] - numbers[1], numbers[2]


def largest_request(config: workshop.Config, options: argparse.Namespace) -> Money:
    """What the limits reserve for the largest request: it must fit until the end."""
    found = estimate.estimate(config, options, estimate.Known(Counter(), Counter(), {}))
    whom = estimate.who_answers(config)
    tokens = 0
    dollars = 0.0
    for stage, row in found["stages"].items():
        prompt = row["prompt_size"] * limits.BYTES_PER_TOKEN + limits.FRAME
        reply = workshop.parameters(config, stage)["max_tokens"]
        purse = estimate.empty_purse(whom, stage, options)
        tokens = max(tokens, prompt + reply)
        dollars = max(dollars, purse.cost(prompt, reply) or 0.0)
    return tokens, dollars


def how_many_more(summary: dict, options: argparse.Namespace, wanted: int, kept_back: Money) -> int:
    """How many more instructions what is left is for, by what those so far took."""
    made = summary["counts"]["generate"]["out"]
    asked_for = summary["counts"]["wanted"]
    # What the stages behind --until take is not known yet.
    if summary["status"] != "complete":
        return 0
    # Something failed, or nothing new is found: more would not help.
    if summary["undone_because"] or made < asked_for or made >= wanted:
        return 0
    spending = summary["spending"]
    spent = (spending["prompt_tokens"] + spending["reply_tokens"], spending["cost"] or 0.0)
    sums = zip(limit_of(options), spent, kept_back, strict=True)
    left = [limit - used - kept for limit, used, kept in sums]
    rates = [used / made for used in spent]
    more = [NEXT * rest / rate for rest, rate in zip(left, rates, strict=True) if rate > 0]
    number = min([wanted - made, *(math.floor(n) for n in more if math.isfinite(n))])
    return number if number > FEW * made else 0


def with_budget(config: workshop.Config, options: argparse.Namespace, summary: dict) -> dict:
    """Say what the budget came to where it was not enough; run.json says it too."""
    made = summary["counts"]["generate"]["out"]
    wanted = config.num_instructions
    short = made >= summary["counts"]["wanted"] and made < wanted
    reasons = summary["undone_because"]
    # While a batch is under way, nobody knows yet what the budget is enough for.
    waits = any(why.startswith(WAITS) for why in reasons)
    limited = any("could pass --max-" in why for why in reasons)
    if waits or not (short or limited):
        return summary
    rows = summary["counts"]["filter"]["out"]
    said = {"wanted": wanted, "instructions": made, "rows": rows, "limit": as_words(options)}
    summary = {**summary, "budget": said}
    workshop.write_json(Path(config.work_dir) / "run.json", summary)
    if short:
        say = partial(workshop.spoken, language=config.language)
        enough = f"{as_words(options, say)} was enough for {made:,} of {wanted:,} instructions"
        text = f"{enough}, {rows:,} rows; the same command with a higher limit goes on"
        if summary["status"] != "complete":  # by --until
            text = f"{enough}; the same command with a higher limit goes on"
        print(workshop.spoken(text, config.language))
        summary["undone_because"] = summary["undone_because"] or {"the budget": wanted - made}
    return summary
