"""What merge_runs.py writes: the files of a run, made of those of many."""

from __future__ import annotations

if __name__ == "__main__":  # a part, no program: said before an import fails
    raise SystemExit(
        "merged.py is a part of scripts/merge_runs.py: run  python scripts/merge_runs.py --help"
    )

import json
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np

import self_instruct_workshop as workshop
from scripts.merging.sources import DATASET, Source, lines_of
from self_instruct_workshop import COLUMNS, RECIPES, STAGES, STEP_FILES, WorkshopError

PARQUET = "step4_final.parquet"
NEAREST = -1  # in `nearest`: this one is kept
BATCH = 10_000  # rows that are written to Parquet at once


@dataclass
class Merge:
    """The sources, what was decided about each of their instructions, and where the rows are.

    The arrays have an element for each instruction, in the order in which they were decided.
    """

    sources: list[Source]
    recipe: str
    whose: array  # number of the source
    which: array  # number of the instruction in it
    spool: BinaryIO
    nearest: array = field(default_factory=lambda: array("q"))  # NEAREST, or which was too similar
    scores: array = field(default_factory=lambda: array("d"))
    duplicates: list[tuple[int, dict]] = field(default_factory=list)  # (source, row)
    counts: list[dict] = field(default_factory=list)  # of each source, from `count` on
    flags: Counter = field(default_factory=Counter)  # of step 2

    def text(self, place: int) -> str:
        return self.sources[self.whose[place]].instructions[self.which[place]]

    def texts(self) -> list[str]:
        return [self.text(place) for place in range(len(self.whose))]

    def note(self, decision: tuple[int, float] | None) -> None:
        """Note what was decided about the next instruction."""
        place, score = decision or (NEAREST, 0.0)
        self.nearest.append(place)
        self.scores.append(score)

    def kept(self) -> Iterator[int]:
        return (place for place, near in enumerate(self.nearest) if near == NEAREST)

    @cached_property
    def kept_texts(self) -> list[set[str]]:
        """Of each source, the instructions that are kept."""
        found: list[set[str]] = [set() for _ in self.sources]
        for place in self.kept():
            found[self.whose[place]].add(self.text(place))
        return found

    @cached_property
    def rows_of_each(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Of each source: where its rows stand, sorted by instruction, and where each begins."""
        found = []
        for source in self.sources:
            owners = np.frombuffer(source.owners, np.int64)
            order = owners.argsort(kind="stable")
            starts = np.searchsorted(owners[order], range(len(source.instructions) + 1))
            found.append((np.frombuffer(source.rows, np.int64)[order], starts))
        return found

    def rows(self, place: int) -> Iterator[tuple[dict, bool]]:
        """The rows of an instruction, and whether a row before has the same instance."""
        rows, starts = self.rows_of_each[self.whose[place]]
        number = self.which[place]
        same = RECIPES[self.recipe].same_instance
        seen = set()
        for start in rows[starts[number] : starts[number + 1]]:
            self.spool.seek(int(start))
            row = json.loads(self.spool.readline())
            key = same(row["input"], row["output"])
            yield row, key in seen
            seen.add(key)


# --------------------------------------------------------------------------------------------------
# The dataset.


def write_dataset(merge: Merge, folder: Path, parquet: bool) -> None:
    """Write the rows of all that is kept, and count."""
    workshop.write_whole(folder / DATASET, map(workshop.to_json, dataset(merge)))
    count(merge)
    if parquet:
        write_parquet(folder / PARQUET, folder / DATASET)


def dataset(merge: Merge) -> Iterator[dict]:
    """The rows in order. Of two with the same instance the first one stays, as in stage 4."""
    merge.duplicates.clear()
    for place in merge.kept():
        for row, is_duplicate in merge.rows(place):
            if is_duplicate:
                merge.duplicates.append((merge.whose[place], row))
            else:
                yield row


def write_parquet(path: Path, dataset: Path) -> None:
    """The dataset once more, in three columns of texts. Never all rows are in memory."""
    import pyarrow
    from pyarrow.parquet import ParquetWriter

    schema = pyarrow.schema([(name, pyarrow.string()) for name in COLUMNS])
    rows = (row for _, row, _ in lines_of(dataset))
    with ParquetWriter(path, schema) as writer:
        while batch := list(islice(rows, BATCH)):
            columns = [pyarrow.array([row[name] for row in batch]) for name in COLUMNS]
            writer.write_table(pyarrow.Table.from_arrays(columns, schema=schema))


def count(merge: Merge) -> None:
    """Count instructions and rows of each source: in = kept + rejected by rule."""
    whose = np.frombuffer(merge.whose, np.dtype("l"))
    which = np.frombuffer(merge.which, np.dtype("l"))
    kept = np.frombuffer(merge.nearest, np.int64) == NEAREST
    duplicates = Counter(number for number, _ in merge.duplicates)
    merge.counts = []
    for number, source in enumerate(merge.sources):
        # How many rows each of its instructions has, in the order of the decisions.
        sizes = np.bincount(source.owners, minlength=len(source.instructions))
        mine = whose == number
        rows_kept = int(sizes[which[mine & kept]].sum())
        similar = {"too_similar": int((mine & ~kept).sum())}
        rules = {"too_similar": len(source.rows) - rows_kept, "duplicate": duplicates[number]}
        merge.counts.append(
            {
                "instructions": counted(len(source.instructions), similar),
                "rows": counted(len(source.rows), rules),
            }
        )


def counted(came: int, rules: dict[str, int]) -> dict:
    """in = kept + rejected, the rules that turned something away with their numbers."""
    rejected = {rule: n for rule, n in rules.items() if n}
    return {"in": came, "kept": came - sum(rejected.values()), "rejected": rejected}


def rejected_rows(merge: Merge) -> Iterator[dict]:
    """What is not taken: the source, the rule, and to what of which source it is too similar."""
    for place, near in enumerate(merge.nearest):
        if near != NEAREST:
            row = {"stage": "generate", "rule": "too_similar", "instruction": merge.text(place)}
            row |= {"input": "", "output": ""}
            row |= {"evidence": merge.text(near), "score": merge.scores[place]}
            row |= {"run": merge.sources[merge.whose[place]].name}
            yield row | {"evidence_run": merge.sources[merge.whose[near]].name}
    for number, row in merge.duplicates:
        of_rule = {"stage": "filter", "rule": "duplicate", **row, "evidence": "", "score": 0.0}
        yield of_rule | {"run": merge.sources[number].name, "evidence_run": ""}


# --------------------------------------------------------------------------------------------------
# The files of steps 1 to 3: the rows of the runs, for what is kept.


def write_steps(merge: Merge, folder: Path) -> None:
    """Write them. What has no row in its source gets a short one in steps 1 and 3."""
    steps = {
        "generate": generate_rows(merge),
        "classify": classify_rows(merge),
        "instances": instance_rows(merge),
    }
    for stage, rows in steps.items():
        path = folder / STEP_FILES[STAGES.index(stage)]
        workshop.write_whole(path, map(workshop.to_json, rows))
        if not path.stat().st_size:
            path.unlink()


def step_rows(merge: Merge, stage: str) -> Iterator[tuple[int, dict]]:
    """The place of each kept instruction with its row in a step file, {} where there is none."""
    name = STEP_FILES[STAGES.index(stage)]
    starts = [starts_of(merge, number, name) for number in range(len(merge.sources))]
    opened = [open(source.path / name, "rb") if starts[number] else None  # noqa: SIM115
              for number, source in enumerate(merge.sources)]  # fmt: skip
    try:
        for place in merge.kept():
            number = merge.whose[place]
            file = opened[number]
            start = starts[number].get(merge.text(place))
            if file is None or start is None:
                yield place, {}
            else:
                file.seek(start)
                yield place, json.loads(file.readline())
    finally:
        for file in filter(None, opened):
            file.close()


def starts_of(merge: Merge, number: int, name: str) -> dict[str, int]:
    """Where the rows of kept instructions begin in a source's step file; {} without the file."""
    source = merge.sources[number]
    if not source.is_run or not (source.path / name).is_file():
        return {}
    found: dict[str, int] = {}
    for where, row, start in lines_of(source.path / name):
        if not isinstance(row.get("instruction"), str):
            raise WorkshopError(f"{where} has no instruction: run its command again")
        if row["instruction"] in merge.kept_texts[number]:
            found.setdefault(row["instruction"], start)
    return found


def named(merge: Merge, place: int, row: dict) -> dict:
    """A row with an id that is unique among all sources, and with its source."""
    source = merge.sources[merge.whose[place]]
    old = row.get("id") or f"{merge.which[place] + 1}"
    first = {"id": f"{source.name}-{old}", "instruction": merge.text(place)}
    return first | {key: row[key] for key in row if key not in first} | {"run": source.name}


def generate_rows(merge: Merge) -> Iterator[dict]:
    """Step 1. Requests get numbers that are unique; the first row of each has its prompt."""
    prompts = [prompts_of(source) for source in merge.sources]
    first_number = []
    number = 0
    for found in prompts:
        first_number.append(number)
        number += max(found, default=-1) + 1
    seen = set()
    for place, row in step_rows(merge, "generate"):
        whose = merge.whose[place]
        request = row.get("request_idx")
        if isinstance(request, int) and isinstance(row.get("metadata"), dict):
            row["request_idx"] = first_number[whose] + request
            told = {key: value for key, value in row["metadata"].items() if key != "prompt"}
            is_first = (whose, request) not in seen
            start = prompts[whose].get(request)
            if is_first and start is not None:
                told = {"prompt": prompt_at(merge.sources[whose], start), **told}
            seen.add((whose, request))
            row["metadata"] = told
        yield named(merge, place, row)


def prompts_of(source: Source) -> dict[int, int]:
    """Of each request of stage 1: where the row begins in step 1 that has its prompt."""
    path = source.path / STEP_FILES[0]
    found: dict[int, int] = {}
    if source.is_run and path.is_file():
        for _, row, start in lines_of(path):
            request = row.get("request_idx")
            told = row.get("metadata")
            if isinstance(request, int) and isinstance(told, dict) and "prompt" in told:
                found.setdefault(request, start)
    return found


def prompt_at(source: Source, start: int) -> str | list:
    with open(source.path / STEP_FILES[0], "rb") as step_file:
        step_file.seek(start)
        return json.loads(step_file.readline())["metadata"]["prompt"]


def classify_rows(merge: Merge) -> Iterator[dict]:
    """Step 2, where a source has it. Counts the answers."""
    merge.flags.clear()
    for place, row in step_rows(merge, "classify"):
        flag = row.get("is_classification")
        merge.flags[flag] += 1
        if row:
            yield named(merge, place, row)


def instance_rows(merge: Merge) -> Iterator[dict]:
    """Step 3. Of a file of rows, the instances are the rows themselves."""
    for place, row in step_rows(merge, "instances"):
        if not row:
            pairs = [one for one, is_duplicate in merge.rows(place) if not is_duplicate]
            row = {"instances": [{name: one[name] for name in COLUMNS[1:]} for one in pairs]}
        yield named(merge, place, row)
