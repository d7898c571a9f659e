"""What a run will take, before the first paid request: requests, tokens, time, and money where the price is known.

    python self_instruct.py --provider openai --num-instructions 1000 --estimate    prints it, asks nothing
    python self_instruct.py --provider openai --num-instructions 1000               prints it and asks; --yes goes on

Prompts are measured on those that the run would send. What replies hold is a guess, which is printed with the figures.
"""

from __future__ import annotations

if __name__ == "__main__":  # a part, no program: said before an import fails
    raise SystemExit("estimate.py is a part of self_instruct.py: run  python self_instruct.py --help")

import argparse
import io
import math
import sys
from collections import Counter
from contextlib import redirect_stderr
from typing import Any

import self_instruct_workshop as workshop
from scripts.asking import limits, together

KEPT = 0.8  # of the tasks in a stage-1 reply, those that are kept
TASK, VERDICT, INSTANCE = 25, 3, 150  # tokens in a new task, in Yes or No, in an instance
START, SPEED = 1.0, 60.0  # seconds until a reply begins, and its tokens a second


def add_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("before the first paid request, by scripts/asking/estimate.py")
    group.add_argument("--estimate", action="store_true", help="print requests, tokens, time, money; ask nothing")
    group.add_argument("--yes", action="store_true", help="do not ask whether to go on")


def estimate(config: workshop.Config, options: argparse.Namespace) -> dict:
    """What is still to be sent: requests and tokens by stage and in all, seconds, dollars; what the journal has."""
    provider, model = limits.who(config)
    size = together.group_size(config, workshop.provider_name(config), options.classify_together)
    price, prompts = limits.price_of(provider, model, options), first_prompts(config, size)
    in_journal, answered = journalled(config, provider, model)
    stages, total = {}, Counter(requests=0, prompt_tokens=0, reply_tokens=0)
    for stage in workshop.STAGES[: min(3, workshop.STAGES.index(config.until) + 1)]:
        questions, reply = guess(config, stage)
        enough = config.responses or (stage == "generate" and answered["classify"] >= config.num_instructions)
        several = size if stage == "classify" else 1
        n = 0 if enough else max(0, math.ceil((questions - answered[stage]) / several))
        reply *= several
        prompt = len(workshop.as_text(prompts[stage]).encode()) // limits.BYTES_PER_TOKEN
        stages[stage] = {"requests": n, "prompt_tokens": n * prompt, "reply_tokens": n * reply}
        total.update(stages[stage])
        stages[stage] |= {"in_journal": in_journal[stage], "prompt_size": prompt, "reply_size": reply}
    cost = limits.Purse(None, None, price).cost(total["prompt_tokens"], total["reply_tokens"])
    found = {"model": model, "stages": stages, **total, "in_journal": in_journal.total(), "cost": cost}
    return found | {"seconds": seconds(config, total, options)}


def guess(config: workshop.Config, stage: str) -> tuple[int, int]:
    """Questions of a stage, and the tokens in the answer to each."""
    most = workshop.parameters(config, stage)["max_tokens"]
    if stage == "generate":
        tasks = 7 if config.recipe == "paper" else config.tasks_asked
        return math.ceil(config.num_instructions / (KEPT * tasks)), min(most, TASK * tasks)
    tokens = VERDICT if stage == "classify" else INSTANCE * config.instances_per_instruction
    probes = workshop.PROBES if stage == "classify" and workshop.RECIPES[config.recipe].second_try else 0
    return config.num_instructions + probes, min(most, tokens)


def first_prompts(config: workshop.Config, size: int) -> dict[str, str]:
    """A prompt of each stage, made from the seed tasks."""
    with redirect_stderr(io.StringIO()):  # the run will say it
        seeds = workshop.load_seed_tasks(config.seed_file or workshop.DEFAULT_SEEDS[config.language])
    task = sorted((seed.instruction for seed in seeds), key=len)[len(seeds) // 2]
    several = together.together_prompt(config, [task] * min(size, config.num_instructions))
    return {
        "generate": workshop.instruction_prompt(config, seeds, [], 0),
        "classify": several if size > 1 else workshop.classify_prompt(config, task),
        "instances": workshop.instances_prompt(config, workshop.Task("", task)),
    }


def journalled(config: workshop.Config, provider: str, model: str) -> tuple[Counter[str], Counter[str]]:
    """By stage: replies to questions of these settings in the journal, and how many questions they answer."""
    found, answered = Counter(), {stage: set() for stage in workshop.STAGES}
    names = ("recipe", "seed", "language", "tasks_shown", "machine_tasks_shown", "tasks_asked")
    for record in limits.replies(config, provider, model):
        wanted = {name: getattr(config, name) for name in names}
        wanted["temperature"] = workshop.parameters(config, record["stage"])["temperature"]
        if {**wanted, **record}.items() >= wanted.items():
            found[record["stage"]] += not record["attempt"] and "part_of" not in record
            which = record.get("instruction", record.get("request_idx"))
            if isinstance(which, (str, int)) and (record["text"] or "part_of" not in record):
                answered[record["stage"]].add(which)
    sizes = Counter({stage: len(questions) for stage, questions in answered.items()})
    return (found, sizes) if found["generate"] else (Counter(), Counter())  # later stages ask about what this made


def projected(stages: dict, model: Any, ended: bool) -> tuple[int, int]:
    """About how many tokens of prompts and of replies the whole run will have spent: what it has, and the requests to
    come, each at the mean of its stage so far."""
    total = [*model.purse.spent]
    for stage, row in stages.items() if model.undone or not ended else ():
        n, *sizes = model.purse.rows.get(stage, (1, row["prompt_size"], row["reply_size"]))
        used = model.tokens.get(stage, {}).get("replies", 0)
        to_come = max(0.0, needed(model, stage, used, row) - max(used, row["in_journal"]))
        total = [before + to_come * size / n for before, size in zip(total, sizes, strict=True)]
    return round(total[0]), round(total[1])


def needed(model: Any, stage: str, used: int, row: dict) -> float:
    """About how many replies a stage takes in all."""
    made, wanted, grown = model.made, model.config.num_instructions, "classify" in model.tokens
    if stage != "generate":
        tasks = made if grown else wanted
        groups = math.ceil(tasks / model.together) if stage == "classify" else tasks
        return tasks if used > groups else groups  # more: they are asked about one by one
    return used if grown else used * wanted / made if made else row["requests"] + row["in_journal"]


def seconds(config: workshop.Config, total: dict, options: argparse.Namespace) -> float:
    """By the speed of replies and the requests in flight, or by the limits on the rate, whichever takes longer."""
    talking = START * total["requests"] + total["reply_tokens"] / SPEED
    limits = [
        60 * total["requests"] / (options.requests_per_minute or math.inf),
        60 * (total["prompt_tokens"] + total["reply_tokens"]) / (options.tokens_per_minute or math.inf),
    ]
    return max(talking / config.concurrency, *limits)


def as_text(found: dict, config: workshop.Config) -> str:
    """The estimate as a table, with what it assumes."""
    title = "estimate for " + workshop.one_line(found["model"], 32)
    lines = [f"{title:<46}{'requests':>10}{'tokens in':>12}{'tokens out':>12}"]
    for stage, row in {**found["stages"], "in all": found}.items():
        lines.append(f"  {stage:<44}{row['requests']:>10,}{row['prompt_tokens']:>12,}{row['reply_tokens']:>12,}")
    money = "price not listed (--price-in, --price-out)" if found["cost"] is None else f"about ${found['cost']:.2f}"
    minutes = max(1, math.ceil(found["seconds"] / 60))
    lines.append(f"  {money}; about {minutes} min with {config.concurrency} requests in flight")
    lines.append(f"  guessed: {KEPT:.0%} of new tasks are kept, a task has {TASK} tokens, an instance {INSTANCE}")
    if found["in_journal"]:
        lines.append(f"  {found['in_journal']:,} replies are in the journal: paid for, and not asked again")
    return "\n".join(lines)


def agreed(text: str, options: argparse.Namespace) -> bool:
    """Show what it will take and ask; where nobody sits at a terminal, or with --yes, go on."""
    if options.yes or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return True
    print(text, "Go on? [y/N] ", sep="\n", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().casefold() in ("y", "yes", "是", "好")
