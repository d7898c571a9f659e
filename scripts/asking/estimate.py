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
from pathlib import Path
from typing import Any

import self_instruct_workshop as workshop
from scripts.asking import limits, together

KEPT = 0.8  # of the tasks in a stage-1 reply, those that are kept
TASK, OPTIONS, INSTANCE = 25, 6, 150  # tokens in a task, in its options, in an instance
AGAIN, ANSWER = 0.45, 8  # of the instances, those whose answer is asked for again; tokens in it
START, SPEED = 1.0, 60.0  # seconds until a reply begins, and its tokens a second

# The settings that shape a question.
SHAPING = ("recipe", "seed", "language", "tasks_shown", "machine_tasks_shown", "tasks_asked")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this file."""
    title = "before the first paid request, by scripts/asking/estimate.py"
    group = parser.add_argument_group(title)
    text = "print requests, tokens, time, money; ask nothing"
    group.add_argument("--estimate", action="store_true", help=text)
    group.add_argument("--yes", action="store_true", help="do not ask whether to go on")


def estimate(config: workshop.Config, options: argparse.Namespace) -> dict:
    """What is still to be sent: requests and tokens by stage and in all, seconds, dollars.

    With it stands how many replies the journal has. Raises UsageError where a price is missing.
    """
    # Who answers, at which price, and what is there already.
    provider, model = limits.who(config)
    size = together.group_size(config, workshop.provider_name(config), options.classify_together)
    price = limits.price_of(provider, model, options)
    prompts = first_prompts(config, size)
    in_journal, answered = journalled(config, provider, model)

    # A row for each stage that asks, as far as the run goes.
    stages = {}
    total = Counter(requests=0, prompt_tokens=0, reply_tokens=0)
    for stage in workshop.STAGES[: min(3, workshop.STAGES.index(config.until) + 1)]:
        row = Counter(requests=0, prompt_tokens=0, reply_tokens=0)
        for kind, n, reply in to_send(config, stage, answered, size):
            prompt = limits.bytes_of(prompts[kind]) // limits.BYTES_PER_TOKEN
            row.update(requests=n, prompt_tokens=n * prompt, reply_tokens=n * reply)
            sizes = {"prompt_size": prompt, "reply_size": reply}
        total.update(row)
        stages[stage] = {**row, "in_journal": in_journal[stage], **sizes}

    # All stages together; stage 1 never goes in batches.
    purse = limits.Purse(None, None, price)
    share = limits.batch_share(provider)
    live = [stages["generate"][name] for name in ("prompt_tokens", "reply_tokens")]
    both = [total[name] for name in ("prompt_tokens", "reply_tokens")]
    mixed = [share * one + (1 - share) * other for one, other in zip(both, live, strict=True)]
    return {
        "model": model,
        "stages": stages,
        **total,
        "in_journal": in_journal.total(),
        "cost": purse.cost(*both),
        "cost_in_batches": purse.cost(*mixed),
        "seconds": seconds(config, total, options),
    }


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
        earlier = workshop.earlier_run(Path(config.work_dir)).get("settings") or {}
        again = left if earlier.get("second_answer") or not known else questions
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
    path = config.seed_file or workshop.DEFAULT_SEEDS[config.language]
    with redirect_stderr(io.StringIO()):
        seeds = workshop.load_seed_tasks(path)

    # A task of middle length stands for all.
    task = sorted((seed.instruction for seed in seeds), key=len)[len(seeds) // 2]
    prompts = {
        "generate": workshop.instruction_prompt(config, seeds, [], 0),
        "classify": workshop.classify_prompt(config, task),
        "instances": workshop.instances_prompt(config, workshop.Task("", task)),
        "answers": workshop.answer_prompt(config, workshop.Task("", task), task),
    }
    if size > 1:
        # Two seed tasks stand among those of a list.
        listed = [task] * (min(size, config.num_instructions) + 2)
        prompts["lists"] = together.together_prompt(config, listed)
    return prompts


def journalled(
    config: workshop.Config, provider: str, model: str
) -> tuple[Counter[str], Counter[str]]:
    """By stage: replies in the journal to questions of these settings, and questions answered.

    An answer out of a list is no reply of its own, and where it could not be read, no answer.
    """
    # Count replies, and collect the questions: of some there is more than one reply.
    found = Counter()
    answered = {stage: set() for stage in workshop.STAGES}
    for record in limits.replies(config, provider, model):
        if is_ours(config, record):
            in_list = "part_of" in record
            found[record["stage"]] += not record["attempt"] and not in_list
            which = record.get("instruction", record.get("request_idx"))
            if isinstance(which, (str, int)) and (record["text"] or not in_list):
                answered[record["stage"]].add(which)

    # Later stages ask about what stage 1 made: without it, theirs are of no use.
    if not found["generate"]:
        return Counter(), Counter()
    return found, Counter({stage: len(questions) for stage, questions in answered.items()})


def is_ours(config: workshop.Config, record: dict) -> bool:
    """Has a reply's question these settings? A setting that it does not name is no difference."""
    wanted = {name: getattr(config, name) for name in SHAPING}
    wanted["temperature"] = workshop.parameters(config, record["stage"])["temperature"]
    return all(record.get(name, value) == value for name, value in wanted.items())


def projected(stages: dict, model: Any, ended: bool) -> tuple[int, int]:
    """About how many tokens of prompts and of replies the whole run will have spent.

    That is what it has spent, and the requests to come, each at the mean of its stage so far.
    """
    # A run that ended with nothing undone sends nothing more.
    prompts, replies = model.purse.spent
    if ended and not model.undone:
        return prompts, replies

    # Add what each stage still sends.
    for stage, row in stages.items():
        guessed = (1, row["prompt_size"], row["reply_size"])
        n, prompt, reply = model.purse.rows.get(stage, guessed)
        used = model.tokens.get(stage, {}).get("replies", 0)
        to_come = max(0.0, needed(model, stage, used, row) - max(used, row["in_journal"]))
        prompts += to_come * prompt / n
        replies += to_come * reply / n
    return round(prompts), round(replies)


def needed(model: Any, stage: str, used: int, row: dict) -> float:
    """About how many replies a stage takes in all."""
    # Stage 1 is over once stage 2 has begun; before, it goes on as it has so far.
    all_made = "classify" in model.tokens
    wanted = model.config.num_instructions
    if stage == "generate" and all_made:
        return used
    if stage == "generate":
        return used * wanted / model.made if model.made else row["requests"] + row["in_journal"]

    tasks = model.made if all_made else wanted
    if stage == "instances":
        return tasks + answers_to(model.config, tasks)

    # Where stage 2 used more replies than lists take, tasks are asked about one by one.
    probes = probes_of(model.config)
    in_lists = probes + lists_for(tasks, model.together)
    refused = model.in_lists.get("asked", 0) > 0 and not model.in_lists["trusted"]
    one_by_one = model.together == 1 or refused or used > in_lists
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
    # A row for each stage, and one for all.
    title = "estimate for " + workshop.one_line(found["model"], 32)
    lines = [f"{title:<46}{'requests':>10}{'tokens in':>12}{'tokens out':>12}"]
    for stage, row in {**found["stages"], "in all": found}.items():
        counts = f"{row['requests']:>10,}{row['prompt_tokens']:>12,}{row['reply_tokens']:>12,}"
        lines.append(f"  {stage:<44}{counts}")

    # Money and time, what was guessed, and what is there already.
    money = "price not listed (--price-in, --price-out)"
    if found["cost"] is not None:
        money = f"about ${found['cost']:.2f}"
    minutes = max(1, math.ceil(found["seconds"] / 60))
    lines.append(f"  {money}; about {minutes} min with {config.concurrency} requests in flight")
    if found["cost_in_batches"] != found["cost"]:
        lines.append(
            f"  with --batch about ${found['cost_in_batches']:.2f}, each batch within 24 h"
        )
    guessed = f"{KEPT:.0%} of new tasks are kept"
    guessed += f", a task has {TASK} tokens, an instance {INSTANCE}"
    lines.append(f"  guessed: {guessed}")
    if found["in_journal"]:
        paid = "replies are in the journal: paid for, and not asked again"
        lines.append(f"  {found['in_journal']:,} {paid}")
    return "\n".join(lines)


def agreed(text: str, options: argparse.Namespace) -> bool:
    """Show what it will take and ask; where nobody sits at a terminal, or with --yes, go on."""
    # A stream that was closed is None.
    talking = all(stream and stream.isatty() for stream in (sys.stdin, sys.stderr))
    if options.yes or not talking:
        return True
    print(text, "Go on? [y/N] ", sep="\n", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().casefold() in ("y", "yes", "是", "好")
