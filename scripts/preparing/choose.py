"""What is kept, how much of it is drawn, and on which side of the split it stands."""

from __future__ import annotations

if __name__ == "__main__":  # a part, no program: said before an import fails
    raise SystemExit(
        "choose.py is a part of scripts/prepare_for_finetuning.py: run"
        "  python scripts/prepare_for_finetuning.py --help"
    )

import random
import unicodedata
from collections import Counter

import self_instruct_workshop as workshop
from scripts.reading.rows import Row, context_of, first_question
from self_instruct_workshop import WorkshopError


def usable(rows: list[Row], dropped: Counter[str]) -> list[Row]:
    """The rows but for those that no row can be made of: they are counted, by their rule."""
    dropped.update(row["rule"] for row in rows if "rule" in row)
    return [row for row in rows if "rule" not in row]


def without_context(rows: list[Row], dropped: Counter[str]) -> list[Row]:
    """The rows that are no part of a talk. The others are counted: the format cannot hold them."""
    kept = []
    for row in rows:
        context = context_of(row)
        dropped["has_history"] += "history" in context
        dropped["has_system"] += [*context] == ["system"]
        if not context:
            kept.append(row)
    return kept


def sift(rows: list[Row], recipe: str, most: int, seed: int, dropped: Counter[str]) -> list[Row]:
    """The rows that the rules of stage 4 keep, and at most `most` of one instruction.

    What is left out is counted in `dropped`, by the name of its rule. An instruction behind
    another history is another one.
    """
    # Put the instances of an instruction together.
    tasks: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        before = workshop.to_json(context_of(row))
        tasks.setdefault((row["instruction"], before), []).append(row)

    # Filter them. Of too many, draw some; they stay in their order.
    kept = []
    for (instruction, _), found in tasks.items():
        pairs = [(row["input"], row["output"]) for row in found]
        fine, rejected = workshop.filter_instances(instruction, pairs, recipe=recipe)
        count = min(most, len(fine))
        chosen = random.Random(f"{seed}/{instruction}").sample(range(len(fine)), count)
        for i in sorted(chosen):
            texts = dict(zip(("input", "output"), fine[i], strict=True))
            kept.append({"instruction": instruction, **texts, **context_of(found[0])})

        # Count what is left out.
        dropped.update(rule for _, _, rule in rejected)
        if count < len(fine):
            dropped["over_max_instances"] += len(fine) - count
    return kept


def same(instruction: str) -> str:
    """One name for instructions that differ only in capitals, spaces or width of characters."""
    return " ".join(unicodedata.normalize("NFKC", instruction).casefold().split())


def name_of(row: Row) -> str:
    """By what a row is drawn: its instruction, or how its talk begins.

    So the parts of one talk stay together.
    """
    return same(first_question(row))


def instructions(rows: list[Row]) -> int:
    """How many instructions the rows have."""
    return len({name_of(row) for row in rows if "rule" not in row})


def draw(rows: list[Row], number: int, purpose: str) -> tuple[list[Row], list[Row]]:
    """All rows of `number` instructions, and all other rows.

    Each instruction has a random rank of its own, and the first ranks are drawn. So a
    larger number draws the same instructions and more.
    """
    # Rank the instructions.
    names = {name_of(row) for row in rows}
    ranks = {name: random.Random(f"{purpose}/{name}").random() for name in names}
    first = set(sorted(names, key=ranks.__getitem__)[:number])

    # Part the rows.
    drawn = []
    rest = []
    for row in rows:
        side = drawn if name_of(row) in first else rest
        side.append(row)
    return drawn, rest


def split(rows: list[Row], shares: dict[str, float], seed: int) -> dict[str, list[Row]]:
    """The part "train", and a part for each share of `shares` above 0. Each is shuffled.

    No instruction is in two of them. A further part changes none before it, only "train". Raises
    WorkshopError where there are fewer instructions than parts.
    """
    # Is there an instruction for each?
    total = instructions(rows)
    asked = {name: share for name, share in shares.items() if share}
    if total <= len(asked) and asked:
        problem = "one instruction cannot be on both sides"
        raise WorkshopError(f"{problem}: leave out {' and '.join(FLAGS[name] for name in asked)}")

    # Hold out the shares.
    held_out = {}
    rest = list(rows)
    for name, share in asked.items():
        number = max(1, round(share * total))
        held_out[name], rest = draw(rest, number, f"{seed}/{PURPOSES[name]}")

    # Shuffle.
    parts = {"train": rest, **held_out}
    for part in parts.values():
        random.Random(seed).shuffle(part)
    return parts


FLAGS = {"validation": "--split", "test": "--test-split"}
PURPOSES = {"validation": "split", "test": "test"}  # of the draw: part of its random seed
