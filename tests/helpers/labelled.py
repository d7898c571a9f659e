"""Careful readers' labels of real replies, and how many of the labelled texts each recipe keeps.

    python tests/helpers/labelled.py            precision and recall per recipe and per set

The labels are offsets into the raw replies of other people's runs, which are no part of this
project: they lie in the folder SELF_INSTRUCT_REAL_RUNS. Stage 1: `spans` are tasks to keep;
`duplicates`, which the prompt or an earlier reply has, and `either` may be kept or not. Stage 3:
`instances` are pairs to keep, `either` other ways to read the same.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))

from self_instruct_workshop import (  # noqa: E402
    RECIPES,
    filter_instances,
    instruction_problem,
    parse_classification,
    parse_instances,
    parse_instructions,
)

FOLDER = Path(os.environ.get("SELF_INSTRUCT_REAL_RUNS") or ROOT.parent / "shared" / "real_runs")
Pair = tuple[str, str]
TASKS, PAIRS = ("spans", "duplicates", "either"), ("instances", "either")


@dataclass
class Score:
    """What was kept and labelled, kept and not labelled, labelled and not kept, in so many
    replies."""

    right: int = 0
    wrong: int = 0
    missed: int = 0
    replies: int = 0

    @property
    def precision(self) -> float:
        return self.right / kept if (kept := self.right + self.wrong) else math.nan

    @property
    def recall(self) -> float:
        return self.right / gold if (gold := self.right + self.missed) else math.nan

    def __add__(self, other: Score) -> Score:
        mine, theirs = vars(self).values(), vars(other).values()
        return Score(*(a + b for a, b in zip(mine, theirs, strict=True)))

    def compare(self, kept: list, gold: list, known_as: Callable = lambda item, left: item) -> None:
        """Count one reply; `known_as` names the gold item that a kept one stands for, or None to
        leave it out."""
        left = Counter(gold)
        for item in kept:
            name = known_as(item, left)
            self.right += name is not None and left[name] > 0
            self.wrong += name is not None and left[name] <= 0
            left[name] -= left[name] > 0
        self.missed += left.total()
        self.replies += 1


def real(name: str) -> list[dict]:
    """The rows of a real run's file."""
    return rows(FOLDER / f"{name}.jsonl")


@cache
def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def labelled(stage: int) -> Iterator[tuple[dict, dict]]:
    """Each label with the row of the real run that it is about."""
    for label in rows(HERE / f"labelled_stage{stage}.jsonl"):
        yield label, real(f"{label['set']}.stage{stage}")[label["row"]]


def squeezed(text: str) -> str:
    return " ".join(text.split())


def plain(text: str) -> str:
    return squeezed(text).casefold().rstrip(":")


def cut(row: dict) -> bool:
    return row["finish_reason"] == "length"


def score_instructions(recipe: str) -> dict[str, Score]:
    """Set -> how the fit candidates of its replies agree with the labels. A copy of what is known
    counts nowhere; how novel a task is otherwise plays no part. `paper` writes small letters, and
    is read without regard to them."""
    scores: dict[str, Score] = {}
    seeds = {plain(row["instruction"]) for row in real("official_seed_instructions")}
    known: dict[str, set[str]] = {}
    form = str.casefold if recipe == "paper" else str
    for label, row in labelled(1):
        seen = known.setdefault(label["set"], set(seeds))
        shown = {plain(line.split(". ", 1)[-1]) for line in (row["prompt"] or "").split("\n")}
        kept = []
        for text in parse_instructions(row["response"], truncated=cut(row), recipe=recipe):
            if not instruction_problem(text, recipe=recipe) and plain(text) not in shown | seen:
                seen.add(plain(text))
                kept.append(form(text))
        gold, duplicates, either = (
            [squeezed(row["response"][a:b]) for a, b in label[name]] for name in TASKS
        )
        open_to_all = [plain(text) for text in duplicates + either]

        def known_as(text: str, left: Counter, open_to_all: list[str] = open_to_all) -> str | None:
            may = left[text] <= 0 and any(other.startswith(plain(text)) for other in open_to_all)
            return None if may else text

        scores.setdefault(label["set"], Score()).compare(
            kept, [form(text) for text in gold], known_as
        )
    return scores


def score_verdicts(recipe: str) -> dict[str, Score]:
    """Set -> how many stage-2 replies are read as their readers read them."""
    scores: dict[str, Score] = {}
    for label, row in labelled(2):
        verdict = parse_classification(row["response"], recipe=recipe)
        scores.setdefault(label["set"], Score()).compare([verdict], [label["label"]])
    return scores


def score_instances(recipe: str) -> dict[str, Score]:
    """Set -> how the instances that pass the rules of stage 4 agree with the labels."""
    scores: dict[str, Score] = {}
    for label, row in labelled(3):
        found = parse_instances(
            row["response"], row["is_classification"], truncated=cut(row), recipe=recipe
        )
        kept, rejected = filter_instances(row["instruction"], found, recipe=recipe)
        # The readers said what is an instance, not whether it is what was asked for.
        kept += [(a, b) for a, b, rule in rejected if rule in ("no_code", "input_missing")]
        gold, either = ([spans(row["response"], one) for one in label[name]] for name in PAIRS)

        def known_as(
            pair: Pair, left: Counter, gold: list[Pair] = gold, either: list[Pair] = either
        ) -> Pair | None:
            if left[pair] > 0 or pair not in either:
                return pair
            twins = [
                one for one in gold if one[1] in pair[1] or pair[1] in one[1]
            ]  # the same, read another way
            return next((one for one in twins if left[one] > 0), None)

        pairs = [(squeezed(source), squeezed(target)) for source, target in kept]
        scores.setdefault(label["set"], Score()).compare(pairs, gold, known_as)
    return scores


def spans(reply: str, label: dict) -> Pair:
    """(input, output) of a labelled instance."""
    source, target = (
        squeezed(reply[slice(*label[name])]) if label[name] else "" for name in ("input", "output")
    )
    return source, target


SCORES = {
    "instructions": score_instructions,
    "verdicts": score_verdicts,
    "instances": score_instances,
}


def table() -> str:
    """Precision and recall of both recipes, set by set, and of all sets together."""
    lines = [f"{'':<50} {'':>7} " + " ".join(f"{recipe:^17}" for recipe in RECIPES)]
    lines += [f"{'kept':<50} {'replies':>7} " + " ".join(["precision  recall"] * len(RECIPES))]
    for what, score in SCORES.items():
        by_recipe = [score(recipe) for recipe in RECIPES]
        for name in [*by_recipe[0], ""]:
            found = [
                scores[name] if name else sum(scores.values(), Score()) for scores in by_recipe
            ]
            parts = [
                f"{one.precision:>9.3f}  {one.recall:>6.3f}".replace("nan", "  -") for one in found
            ]
            lines.append(
                f"{what + ', ' + (name or 'all sets'):<50} {found[0].replies:>7} " + " ".join(parts)
            )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(
        print(table())
        if FOLDER.is_dir()
        else f"error: no folder {FOLDER}: set SELF_INSTRUCT_REAL_RUNS to one"
    )
