"""Ids, with --keep-id. They stand beside the rows: nothing that is drawn depends on them."""

from __future__ import annotations

if __name__ == "__main__":  # a part, no program: said before an import fails
    raise SystemExit(
        "ids.py is a part of scripts/prepare_for_finetuning.py: run"
        "  python scripts/prepare_for_finetuning.py --help"
    )

from pathlib import Path

import self_instruct_workshop as workshop
from scripts.preparing.origin import writers_beside
from scripts.reading import records as reading
from scripts.reading.rows import Row, context_of, rows_of
from self_instruct_workshop import PROVENANCE, RECIPES, WorkshopError

Ids = dict[tuple[str, ...], str]  # what makes a row -> its id


def read_ids(path: Path, recipe: str) -> Ids:
    """The ids of the instances in a file, or in step4_provenance.jsonl beside it.

    Raises WorkshopError where neither has ids.
    """
    ids = ids_in(path, recipe)
    beside = path.parent / PROVENANCE
    if not ids and beside.exists():
        ids = ids_in(beside, recipe)
        rewritten = path.parent / "step5_rewritten.jsonl"
        if rewritten.exists() and writers_beside(path):
            ids = with_new_outputs(ids, rewritten, recipe)
    if not ids:
        raise WorkshopError(f"{path} has no ids: {advice_on_ids(path)}")
    return ids


def advice_on_ids(path: Path) -> str:
    """What to do to have ids."""
    folder = str(path.parent)
    command = workshop.program_command("scripts/provenance.py", "--work-dir", folder)
    return f"run  {command}  first, or leave out --keep-id"


def ids_in(path: Path, recipe: str) -> Ids:
    """The ids that the records of a file have.

    The instances of a record with several are numbered: "seed_task_0-1". Of equal instances the
    first one counts.
    """
    ids: Ids = {}
    for place, record in reading.records(path):
        name = record.get("id") if isinstance(record, dict) else None
        if isinstance(name, str) and name:
            for number, row in enumerate(rows_of(f"{path}, {place}", record), 1):
                one = f"{name}-{number}" if "instances" in record else name
                ids.setdefault(identity(row, recipe), one)
    return ids


def identity(row: Row, recipe: str) -> tuple[str, ...]:
    """What makes a row: its texts, as stage 4 tidies them, and what was said before."""
    source = RECIPES[recipe].tidy_input(row["instruction"], row["input"])
    return row["instruction"], source, row["output"], workshop.to_json(context_of(row))


def with_new_outputs(ids: Ids, path: Path, recipe: str) -> Ids:
    """The ids, and those of rows whose outputs were written again: a row keeps its id."""
    names = ("instruction", "input", "output", "first_output")
    found: Ids = {}
    for _, record in reading.records(path):
        row = reading.as_object(record)
        if all(isinstance(row.get(name), str) for name in names):
            first = {**row, "output": row["first_output"]}
            known = ids.get(identity(first, recipe))
            if known:
                found.setdefault(identity(row, recipe), known)
    return found | ids


def with_ids_of_seeds(ids: Ids, path: Path, recipe: str) -> Ids:
    """The ids, and those of the instances of seed tasks, which are no rows of a run."""
    seeds: Ids = {}
    for task in workshop.load_seed_tasks(path):
        for number, instance in enumerate(task.instances, 1):
            row = {"instruction": task.instruction, **instance}
            seeds.setdefault(identity(row, recipe), f"{task.id}-{number}")
    return seeds | ids


def id_of(row: Row, ids: Ids, path: Path, recipe: str) -> str:
    """The id of a row. Raises WorkshopError where the ids are of another dataset."""
    found = ids.get(identity(row, recipe))
    if found is None:
        raise WorkshopError(
            f"{path} and {PROVENANCE} do not belong together: {advice_on_ids(path)}"
        )
    return found
