"""What a run will take, before the first paid request: requests, tokens, time, and money where the price is known.

    python self_instruct.py --provider openai --num-instructions 1000 --estimate    prints it, asks nothing
    python self_instruct.py --provider openai --num-instructions 1000               prints it and asks; --yes goes on

Prompts are measured on those that the run would send. What replies hold is a guess, which is printed with the figures.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections import Counter
from pathlib import Path

import self_instruct_workshop as workshop
from scripts.limits import BYTES_PER_TOKEN, price_of

KEPT = 0.8  # of the tasks in a stage-1 reply, those that are kept
TASK, VERDICT, INSTANCE = 25, 3, 150  # tokens in a new task, in Yes or No, in an instance
START, SPEED = 1.0, 60.0  # seconds until a reply begins, and its tokens a second


def add_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("before the first paid request, by scripts/estimate.py")
    group.add_argument(
        "--estimate", action="store_true", help="print requests, tokens, time, money; ask nothing"
    )
    group.add_argument("--yes", action="store_true", help="do not ask whether to go on")


def estimate(config: workshop.Config, provider: str, model: str, options: argparse.Namespace) -> dict:
    """Requests and tokens of a whole run, by stage and in all, what the journal has of them, seconds, dollars."""
    prompts, tasks = first_prompts(config), 7 if config.recipe == "paper" else config.tasks_asked
    wanted = config.num_instructions
    requests = {"generate": math.ceil(wanted / (KEPT * tasks)), "classify": wanted, "instances": wanted}
    replies = {"generate": TASK * tasks, "classify": VERDICT, "instances": INSTANCE * config.instances_per_instruction}
    stages, in_journal = {}, journalled(config, provider, model)
    for stage in workshop.STAGES[: min(3, workshop.STAGES.index(config.until) + 1)]:
        n = max(0, requests[stage] - in_journal[stage])
        reply = min(replies[stage], workshop.parameters(config, stage)["max_tokens"])
        size = len(prompts[stage].encode()) // BYTES_PER_TOKEN
        stages[stage] = {"requests": n, "prompt_tokens": n * size, "reply_tokens": n * reply}
    total = dict(sum(map(Counter, stages.values()), Counter(requests=0, prompt_tokens=0, reply_tokens=0)))
    total = {name: total.get(name, 0) for name in ("requests", "prompt_tokens", "reply_tokens")}
    price = price_of(model, options)
    cost = (total["prompt_tokens"] * price[0] + total["reply_tokens"] * price[1]) / 1e6 if price else None
    found = {"stages": stages, **total, "in_journal": in_journal.total(), "cost": cost}
    return found | {"seconds": seconds(config, total, options)}


def first_prompts(config: workshop.Config) -> dict[str, str]:
    """A prompt of each stage, made from the seed tasks."""
    seeds = workshop.load_seed_tasks(config.seed_file or workshop.DEFAULT_SEEDS[config.language])
    task = sorted((seed.instruction for seed in seeds), key=len)[len(seeds) // 2]
    return {
        "generate": workshop.instruction_prompt(config, seeds, [], 0),
        "classify": workshop.classify_prompt(config, task),
        "instances": workshop.instances_prompt(config, task, False),
    }


def journalled(config: workshop.Config, provider: str, model: str) -> Counter[str]:
    """How many replies of this provider and model the journal holds, by stage."""
    path, found = Path(config.work_dir) / "responses.jsonl", Counter()
    if path.exists():
        for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
            record = json.loads(line) if line.endswith("}") else {}
            if (record.get("provider"), record.get("model")) == (provider, model) and not record["attempt"]:
                found[record["stage"]] += 1
    return found


def seconds(config: workshop.Config, total: dict, options: argparse.Namespace) -> float:
    """By the speed of replies and the requests in flight, or by the limits on the rate, whichever takes longer."""
    talking = START * total["requests"] + total["reply_tokens"] / SPEED
    limits = [
        60 * total["requests"] / (options.requests_per_minute or math.inf),
        60 * (total["prompt_tokens"] + total["reply_tokens"]) / (options.tokens_per_minute or math.inf),
    ]
    return max(talking / config.concurrency, *limits)


def as_text(found: dict, config: workshop.Config, model: str) -> str:
    """The estimate as a table, with what it assumes."""
    lines = [f"{'estimate for ' + workshop.one_line(model, 40):<46}{'requests':>10}{'tokens in':>12}{'tokens out':>12}"]
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
    print(text, file=sys.stderr)
    return input("Go on? [y/N] ").strip().casefold() in ("y", "yes", "是", "好")
