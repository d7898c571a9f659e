"""Pairs that people wrote, for a measurement of the four steps with a real model.

    python tests/bench/backtranslation.py --out data/workshop/bench_backtranslation

It writes train.json (320 pairs) and test.json (40) in the shape of the steps. The held-out pairs
are seed tasks; the others are the rest of the seed tasks and rows of the practice bank, as many as
are missing. Nobody can guess the instruction to "positive", so answers have at least 60
characters. No instruction of train.json is like one of test.json (ROUGE-L at most 0.7, as in
section 2.3 of the Self-Instruct paper). tests/bench/backtranslation.md has the commands that
follow, and what came of them.
"""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import self_instruct_workshop as workshop
from scripts.training import shared
from scripts.training.measure import rouge_l

Row = dict[str, str]

SHORTEST = 60  # characters of an answer
NEAR = 0.7  # ROUGE-L: from here on two instructions are as good as the same


def pairs_of(tasks: list[dict], first_only: bool = False) -> list[Row]:
    """The good, long enough pairs of English tasks; of a task of the bank only the first."""
    rows = []
    for task in tasks:
        good = [pair for pair in task["instances"] if is_good(task, pair)]
        for pair in good[: 1 if first_only else None]:
            texts = {"input": pair["input"], "output": pair["output"]}
            rows.append({"instruction": task["instruction"], **texts})
    return rows


def is_good(task: dict, pair: dict) -> bool:
    return len(pair["output"]) >= SHORTEST and not (task.get("flaw") or pair.get("flaw"))


def split(held_out: int, training: int, seed: int) -> tuple[list[Row], list[Row]]:
    """(training, held out)."""
    # Whole tasks are held out, so that no instruction is on both sides.
    rng = random.Random(seed)
    seeds = workshop.read_data("seed_tasks")
    rng.shuffle(seeds)
    long = [task for task in seeds if pairs_of([task])]
    test = pairs_of(long[:held_out], first_only=True)
    train = pairs_of(long[held_out:])

    # What is missing comes from the bank.
    bank = workshop.read_data("practice_tasks", "en")
    rng.shuffle(bank)
    for row in pairs_of(bank, first_only=True):
        if len(train) < training and is_new(row, test):
            train.append(row)
    return [row for row in train if is_new(row, test)], test


def is_new(row: Row, test: list[Row]) -> bool:
    """Whether no held-out instruction is like the one of this row."""
    return all(rouge_l(row["instruction"], other["instruction"]) <= NEAR for other in test)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder for train.json and test.json")
    add("--held-out", type=int, default=40, help="pairs for test.json [40]")
    add("--training", type=int, default=320, help="pairs for train.json [320]")
    add("--seed", type=int, default=42, help="random seed: which pairs are held out [42]")
    options = parser.parse_args(arguments)
    train, test = split(options.held_out, options.training, options.seed)
    for name, rows in (("train", train), ("test", test)):
        path = options.out / f"{name}.json"
        shared.write(path, rows)
        print(f"{len(rows)} pairs in {path}")
    return 0


if __name__ == "__main__":
    workshop.leave(main())
