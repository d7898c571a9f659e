"""What a run will take, before the first paid request: requests, tokens, time, and money.

    python self_instruct.py --provider openai --num-instructions 1000 --estimate
    python self_instruct.py --provider openai --num-instructions 1000

The first command prints it and asks nothing; the second prints it and asks whether to go on
(`--yes` goes on). Money is named where the price is known. Prompts are measured on those that the
run would send. What replies hold is a guess, which is printed with the figures.
"""

from __future__ import annotations

if __name__ == "__main__":  # a part, no program: said before an import fails
    raise SystemExit(
        "estimate.py is a part of self_instruct.py: run  python self_instruct.py --help"
    )

import argparse
import io
import math
import sys
from collections import Counter
from contextlib import redirect_stderr
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, NamedTuple

import self_instruct_workshop as workshop
from scripts.asking import limits, together

KEPT = 0.8  # of the tasks in a stage-1 reply, those that are kept
TASK, OPTIONS, INSTANCE = 25, 6, 150  # tokens in a task, in its options, in an instance
AGAIN, ANSWER = 0.45, 8  # of the instances, those whose answer is asked for again; tokens in it
OLD = 90  # days after which a list of prices may be wrong
START, SPEED = 1.0, 60.0  # seconds until a reply begins, and its tokens a second


Used = dict[tuple[tuple[str, str], str, bool], tuple[int, int]]


class Known(NamedTuple):
    """What the journal says at the start. Who needs it gets it handed on: it is read once."""

    replies: Counter[str]  # by stage: to questions of these settings
    answered: Counter[str]  # by stage: their questions
    # (who, stage, whether in a batch) -> tokens of prompts and of replies, whatever the settings
    used: Used


# The settings that shape a question.
SHAPING = ("recipe", "seed", "language", "tasks_shown", "machine_tasks_shown", "tasks_asked")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this file."""
    title = "before the first paid request, by scripts/asking/estimate.py"
    group = parser.add_argument_group(title)
    text = "print requests, tokens, time, money; ask nothing"
    group.add_argument("--estimate", action="store_true", help=text)
    group.add_argument("--yes", action="store_true", help="do not ask whether to go on")


def estimate(
    config: workshop.Config, options: argparse.Namespace, known: Known | None = None
) -> dict:
    """What is still to be sent: requests and tokens by stage and in all, seconds, dollars.

    With it stands how many replies the journal has; who has read it already gives that as `known`.
    Raises UsageError where a price is missing.
    """
    # Who answers each stage, at which price, and what is there already.
    stages = workshop.STAGES[: min(3, workshop.STAGES.index(config.until) + 1)]
    whom = who_answers(config)
    classifier = workshop.provider_name(workshop.config_of_stage(config, "classify"))
    size = together.group_size(config, classifier, options.classify_together)
    prompts = first_prompts(config, size)
    in_journal, answered, _ = known or known_replies(config)

    # A row for each stage that asks, as far as the run goes.
    rows = {}
    total = Counter(requests=0, prompt_tokens=0, reply_tokens=0)
    bills = []
    in_batches = []
    for stage in stages:
        row = Counter(requests=0, prompt_tokens=0, reply_tokens=0)
        for kind, n, reply in to_send(config, stage, answered, size):
            prompt = limits.bytes_of(prompts[kind]) // limits.BYTES_PER_TOKEN
            row.update(requests=n, prompt_tokens=n * prompt, reply_tokens=n * reply)
            sizes = {"prompt_size": prompt, "reply_size": reply}
        total.update(row)
        purse = empty_purse(whom, stage, options)
        bill = purse.bill(row["prompt_tokens"], row["reply_tokens"])
        bills.append(bill)
        share = 1.0 if stage == "generate" else purse.share
        in_batches.append({**bill, "cost": bill["cost"] and share * bill["cost"]})
        rows[stage] = {**row, "cost": bill["cost"], "in_journal": in_journal[stage], **sizes}

    # All stages together; stage 1 never goes in batches.
    return {
        "models": {stage: whom[stage][1] for stage in stages},
        "stages": rows,
        **total,
        "in_journal": in_journal.total(),
        "cost": limits.sum_of(bills)["cost"],
        "cost_in_batches": limits.sum_of(in_batches)["cost"],
        "seconds": seconds(config, total, options),
    }


def empty_purse(
    whom: dict[str, tuple[str, str]], stage: str, options: argparse.Namespace
) -> limits.Purse:
    """A purse at the prices of the model that answers a stage. Raises UsageError."""
    who = whom[stage]
    price = limits.price_of(*who, options, of_run=who == whom["generate"])
    purse = limits.Purse(None, None, price)
    purse.share = limits.batch_share(who[0])
    return purse


def to_send(
    config: workshop.Config, stage: str, answered: Counter[str], size: int
) -> list[tuple[str, int, int]]:
    """Requests that a stage still sends: of which kind, how many, and the tokens in each reply."""
    # A replay sends nothing; once stage 2 knows all its tasks, stage 1 is over.
    known = answered[stage]
    probes = probes_of(config) if stage == "classify" else 0
    questions, reply = guess(config, stage)
    all_made = stage == "generate" and answered["classify"] >= config.num_instructions
    if config.responses or all_made:
        return [(stage, 0, reply)]

    # Stage 2 asks about seed tasks one by one, and about others in lists.
    left = max(0, questions - max(0, known - probes))
    probes = max(0, probes - known)
    if stage == "instances":
        # Where an earlier run asked for no second answers, they are still to come.
        earlier = workshop.earlier_run(Path(config.work_dir)).get("settings")
        had_second = isinstance(earlier, dict) and earlier.get("second_answer")
        again = left if had_second or not known else questions
        return [("answers", answers_to(config, again), ANSWER), (stage, left, reply)]
    if stage != "classify" or size == 1:
        return [(stage, probes + left, reply)]
    lists = lists_for(left, size) if left else 0
    return [(stage, probes, reply), ("lists", lists, reply * size)]


def probes_of(config: workshop.Config) -> int:
    """The seed tasks that stage 2 asks about."""
    return workshop.PROBES if workshop.RECIPES[config.recipe].checks_model else 0


def answers_to(config: workshop.Config, tasks: float) -> int:
    """The short answers of so many tasks, which are asked for twice."""
    checked = config.second_answer and workshop.RECIPES[config.recipe].checks_model
    return round(AGAIN * tasks * config.instances_per_instruction) if checked else 0


def lists_for(tasks: int, size: int) -> int:
    """The lists for so many tasks, and one more, of seed tasks."""
    return math.ceil(tasks / size) + 1


def guess(config: workshop.Config, stage: str) -> tuple[int, int]:
    """Questions of a stage, but for those about seed tasks, and the tokens in each answer."""
    most = workshop.parameters(config, stage)["max_tokens"]
    if stage == "generate":
        tasks = 7 if config.recipe == "paper" else config.tasks_asked
        return math.ceil(config.num_instructions / (KEPT * tasks)), min(most, TASK * tasks)
    if stage == "instances":
        tokens = INSTANCE * config.instances_per_instruction
        return config.num_instructions, min(most, tokens)
    return config.num_instructions, min(most, OPTIONS)


def first_prompts(config: workshop.Config, size: int) -> dict[str, str]:
    """A prompt of each kind, made from the seed tasks; lists of stage 2 have `size` tasks."""
    # What is odd about the seeds, the run will say.
    with redirect_stderr(io.StringIO()):
        seeds = workshop.load_seed_tasks(workshop.seed_path(config))

    # With topics, the first turn. A task of middle length stands for all.
    lead = workshop.Turns(config).ahead(1)[0][1]
    task = sorted((seed.instruction for seed in seeds), key=len)[len(seeds) // 2]
    prompts = {
        "generate": workshop.instruction_prompt(config, seeds, [], 0, lead),
        "classify": workshop.classify_prompt(config, task),
        "instances": workshop.instances_prompt(config, workshop.Task("", task)),
        "answers": workshop.answer_prompt(config, workshop.Task("", task), task),
    }
    if size > 1:
        # Two seed tasks stand among those of a list.
        listed = [task] * (min(size, config.num_instructions) + 2)
        prompts["lists"] = together.together_prompt(config, listed)
    return prompts


def who_answers(config: workshop.Config) -> dict[str, tuple[str, str]]:
    """The provider and the model of each stage that asks.

    A model without a name is taken to be that of the earlier run.
    """
    summary = workshop.earlier_run(Path(config.work_dir))
    found = {}
    for stage in workshop.STAGES[:3]:
        who = limits.who(workshop.config_of_stage(config, stage))
        earlier = workshop.who_answered(summary, stage)
        same = who[1] == limits.UNNAMED and earlier[0] == who[0]
        found[stage] = earlier if same and all(isinstance(part, str) for part in earlier) else who
    return found


def known_replies(config: workshop.Config) -> Known:
    """What the journal holds of the models of these settings.

    An answer out of a list is no reply of its own, and where it could not be read, no answer.
    """
    # Count replies, and collect the questions: of some there is more than one reply.
    whom = who_answers(config)
    found = Counter()
    answered = {stage: set() for stage in workshop.STAGES}
    used: Used = {}
    for record in limits.records(config):
        who = (record["provider"], record["model"])
        if who in whom.values() and record["stage"] in whom:
            count_used(used, who, record)
        if whom.get(record["stage"]) == who and is_ours(config, record):
            in_list = "part_of" in record
            found[record["stage"]] += not record["attempt"] and not in_list
            which = record.get("instruction", record.get("request_idx"))
            if isinstance(which, (str, int)) and (record["text"] or not in_list):
                answered[record["stage"]].add(which)

    # Later stages ask about what stage 1 made: without it, theirs are of no use.
    if not found["generate"]:
        return Known(Counter(), Counter(), used)
    numbers = Counter({stage: len(questions) for stage, questions in answered.items()})
    return Known(found, numbers, used)


def count_used(used: Used, who: tuple[str, str], record: dict) -> None:
    """Count the tokens of a reply; those of one answer out of a list stand in the list's record.

    Where a server did not say how many they are, the length of a text tells about how many.
    """
    if "part_of" in record:
        return
    texts = (record["prompt"], record["text"])
    told = [workshop.token_count(record[name]) for name in limits.SIZES]
    sizes = [n or limits.bytes_of(text) // 4 for n, text in zip(told, texts, strict=True)]
    row = (who, record["stage"], "batch" in record)
    before = used.get(row, (0, 0))
    used[row] = (before[0] + sizes[0], before[1] + sizes[1])


def is_ours(config: workshop.Config, record: dict) -> bool:
    """Has a reply's question these settings? A setting that it does not name is no difference."""
    wanted = {name: getattr(config, name) for name in SHAPING}
    wanted["temperature"] = workshop.parameters(config, record["stage"])["temperature"]
    if record["stage"] == "generate":
        record = {"topics": "", **record}  # of a run without topics
        wanted["topics"] = topics_of(config)
    return all(record.get(name, value) == value for name, value in wanted.items())


def topics_of(config: workshop.Config) -> str:
    """By what the journal knows the topics of a run, "" where it has none."""
    if not config.topics:
        return ""
    return workshop.digest_of_topics(workshop.load_topics(config.topics))


def to_come(stages: dict, model: Any) -> dict[str, tuple[int, int]]:
    """About how many tokens of prompts and of replies each stage will still take.

    Each request is as large as those of its stage so far were.
    """
    sizes = {}
    for stage, row in stages.items():
        asked = model.of(stage)
        guessed = (1, row["prompt_size"], row["reply_size"])
        n, prompt, reply = asked.purse.rows.get(stage, guessed)
        used = model.tokens.get(stage, {}).get("replies", 0)
        left = max(0.0, needed(model, stage, used, row) - max(used, row["in_journal"]))
        sizes[stage] = (round(left * prompt / n), round(left * reply / n))
    return sizes


def needed(model: Any, stage: str, used: int, row: dict) -> float:
    """About how many replies a stage takes in all."""
    # Until stage 1 is over, it goes on as it has so far.
    all_made = model.so_far.all_made
    wanted = model.config.num_instructions
    made = model.so_far.made
    if stage == "generate" and all_made:
        return used
    if stage == "generate":
        return used * wanted / made if made else row["requests"] + row["in_journal"]

    tasks = made if all_made else wanted
    if stage == "instances":
        return tasks + answers_to(model.config, tasks)

    # Where stage 2 used more replies than lists take, tasks are asked about one by one.
    probes = probes_of(model.config)
    size = model.of("classify").together
    in_lists = probes + lists_for(tasks, size)
    lists = model.so_far.in_lists
    refused = lists.get("asked", 0) > 0 and not lists["trusted"]
    one_by_one = size == 1 or refused or used > in_lists
    return probes + tasks if one_by_one else in_lists


def seconds(config: workshop.Config, total: dict, options: argparse.Namespace) -> float:
    """By the speed of replies, or by the limits on the rate, whichever takes longer."""
    tokens = total["prompt_tokens"] + total["reply_tokens"]
    talking = START * total["requests"] + total["reply_tokens"] / SPEED
    return max(
        talking / config.concurrency,
        60 * total["requests"] / (options.requests_per_minute or math.inf),
        60 * tokens / (options.tokens_per_minute or math.inf),
    )


def as_text(found: dict, config: workshop.Config) -> str:
    """The estimate as a table, with what it assumes."""

    def spoken(text: str) -> str:
        return workshop.spoken(text, config.language)

    # A row for each stage, and one for all.
    models = found["models"]
    title = spoken("estimate for " + workshop.one_line(models["generate"], 32))
    lines = [row_of(title, *map(spoken, ("requests", "tokens in", "tokens out")))]
    for stage, row in {**found["stages"], spoken("in all"): found}.items():
        if models.get(stage, models["generate"]) != models["generate"]:
            stage = spoken(f"{stage} by {workshop.one_line(models[stage], 30)}")
        counts = [f"{row[name]:,}" for name in ("requests", "prompt_tokens", "reply_tokens")]
        lines.append(row_of(f"  {stage}", *counts))

    # Money and time, what was guessed, and what is there already.
    money = f"about ${found['cost']:.2f}" if found["cost"] is not None else no_price(found, config)
    minutes = max(1, math.ceil(found["seconds"] / 60))
    time = spoken(f"{money}; about {minutes} min with {config.concurrency} requests in flight")
    lines.append(f"  {time}")
    if found["cost_in_batches"] != found["cost"]:
        dollars = f"${found['cost_in_batches']:.2f}"
        lines.append("  " + spoken(f"with --batch about {dollars}, each batch within 24 h"))
    sizes = f"a task has {TASK} tokens, an instance {INSTANCE}"
    lines.append("  " + spoken(f"guessed: {KEPT:.0%} of new tasks are kept, {sizes}"))
    if found["cost"]:
        lines += map(spoken, old_prices(datetime.now(UTC).date()))
    if found["in_journal"]:
        paid = "replies are in the journal: paid for, and not asked again"
        lines.append("  " + spoken(f"{found['in_journal']:,} {paid}"))
    return "\n".join(lines)


def no_price(found: dict, config: workshop.Config) -> str:
    """Where to tell the price that is not known: flags have that of the run's model alone."""
    models = found["models"]
    unknown = [models[stage] for stage, row in found["stages"].items() if row["cost"] is None]
    if models["generate"] in unknown:
        page = limits.see_page(workshop.provider_name(config))
        return f"price not listed: --price-in and --price-out tell it{page}"
    problem = f"price not listed for {workshop.one_line(unknown[0], 32)}"
    return f"{problem}: add it to {limits.PRICES}, or limit --max-tokens-total"


def old_prices(today: date) -> list[str]:
    """A line where the list of prices is older than 90 days."""
    listed = date.fromisoformat(limits.price_list()["date"])
    days = (today - listed).days
    if days <= OLD:
        return []
    hint = "check them, or pass --price-in and --price-out"
    return [f"  prices are of {listed}, {days} days ago: {hint}"]


def row_of(title: str, *cells: str) -> str:
    """A row of the table; a Chinese character takes two columns."""
    line = title
    for cell, end in zip(cells, (56, 68, 80), strict=True):
        line += " " * (end - workshop.columns(line) - workshop.columns(cell)) + cell
    return line


def agreed(text: str, options: argparse.Namespace, language: str = "") -> bool:
    """Show what it will take and ask; where nobody sits at a terminal, or with --yes, go on."""
    # A stream that was closed is None.
    talking = all(stream and stream.isatty() for stream in (sys.stdin, sys.stderr))
    if options.yes or not talking:
        return True
    question = workshop.spoken("Go on? [y/N] ", language)
    print(text, question, sep="\n", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().casefold() in ("y", "yes", "是", "好")
