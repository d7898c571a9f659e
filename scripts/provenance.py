"""The dataset of a run once more, each row with where it comes from. Asks nothing.

    python scripts/provenance.py              of data/workshop; a second; 10 s for 50,000 rows
    python scripts/provenance.py --work-dir MY_RUN

`step4_final.jsonl` has exactly instruction, input and output. `step4_provenance.jsonl` has the same
rows in the same order, and in each of them further:

    id        the task and the number of its instance in step 3: "machine_task_7-1"
    source    "machine": a model wrote it; seed tasks are no rows of a run
    models    by stage, the provider and the model whose reply was used
    request   the number of the request of stage 1, and the keys of the replies in the journal
    seed      the random seed of stage 1
    topic     where the run had topics
    run       of a folder of merge_runs.py: from which run; its models are those that run.json names
    judged    where judged.jsonl is there: the answers of each judge about exactly this row

The models are those of the records in responses.jsonl, whatever the settings say: each stage may
have another one. A run that changes the dataset removes the file, so that it never is of another
run. `self_instruct.py --provenance` does the same behind a run.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import self_instruct_workshop as workshop
from scripts.asking.parser import Parser
from scripts.reporting.run import (
    AGAIN,
    Run,
    completion,
    has_texts,
    parsed,
    read_run,
    record_of,
    reply_of,
    without_folders,
)
from self_instruct_workshop import PROVENANCE, RECIPES, STAGES, STEP_FILES, Config, WorkshopError

ASKED = STAGES[:3]
ROW = ("instruction", "input", "output")
ANSWERS = ("valid_task", "input_fits", "output_right", "model")  # of a judge
JUDGED = "judged.jsonl"

# What is read of each row of the first three stages; of the dataset it is all.
REPLY = ("instruction", "response", "metadata")
READ = {
    "generate": ("id", "request_idx", "topic", "run", *REPLY),
    "classify": ("is_classification", *REPLY),
    "instances": ("instances", "second_answers", *REPLY),
}

Key = tuple[str, Any]  # a stage, and the instruction or the number of the request


@dataclass
class Source:
    """What is kept in memory of a reply in the journal."""

    key: str
    who: dict[str, str]  # provider and model
    sample: int  # 0 and 1: tries of stage 3; from workshop.ANSWERS on, second answers
    created_at: str
    text: str  # as the run read it
    seed: int | None


def write_provenance(folder: Path) -> Path:
    """Write the file for the run in this folder; return its path.

    Raises WorkshopError where there is no finished run, where its files do not belong together,
    and where a run is writing there.
    """
    if not (folder / STEP_FILES[-1]).exists():
        problem = f"{folder} holds no dataset: run self_instruct.py first"
        raise WorkshopError(f"{problem}, or name its folder with --work-dir")
    if is_foreign(folder / PROVENANCE):
        foreign = f"{folder / PROVENANCE} was not written by this program"
        raise WorkshopError(f"{foreign}: move it away, then run the same command")
    lock = workshop.locked(folder)
    try:
        run = read_run(folder, READ)
        try:
            rows = provenance_rows(run)
        finally:
            if run.journal:
                run.journal.file.close()
        workshop.write_rows(folder / PROVENANCE, rows)
    finally:
        lock.release()
    return folder / PROVENANCE


def is_foreign(path: Path) -> bool:
    """Whether a file of this name is there whose first line is no row of ours."""
    if not path.is_file() or not path.stat().st_size:
        return False
    with open(path, encoding="utf-8", errors="replace") as lines:
        row = workshop.json_or_none(lines.readline())
    return not (isinstance(row, dict) and row.keys() >= {"id", "source", "models"})


def provenance_rows(run: Run) -> list[dict]:
    """The rows of the dataset in their order, each with where it comes from."""
    sources = read_sources(run)
    if not run.journal:
        lack = "no replies" if merged_runs(run) else "no models and no replies"
        workshop.tell(f"notice: {run.folder} has no journal: the rows name {lack}")
    steps = {stage: by_instruction(run.steps.get(stage, [])) for stage in ASKED}
    judged = read_judged(run.folder / JUDGED)
    places = instances_of(run)
    merged = merged_runs(run)

    rows = []
    for row in run.steps["filter"]:
        # Where two instances are the same, the first one became the row.
        found = places.get(identity(row))
        if not found:
            problem = f"{run.folder / STEP_FILES[-1]} has a row that {STEP_FILES[2]} lacks"
            raise WorkshopError(f"{problem}: {AGAIN}, which writes both")
        number = found.pop(0)
        task = {stage: rows_of[row["instruction"]] for stage, rows_of in steps.items()}
        more = origin(task, number, sources) | of_merged_run(task["generate"], merged)
        if judged is not None:
            more["judged"] = judged.get(identity(row), [])
        rows.append({**row, **more})
    return rows


def by_instruction(rows: list[dict]) -> dict[str, dict]:
    """The rows of a step file by their instruction; {} for one that is not there."""
    found: dict[str, dict] = defaultdict(dict)
    for row in rows:
        found.setdefault(row["instruction"], row)
    return found


def identity(row: dict) -> tuple[str, str, str]:
    """What tells one row of the dataset from another."""
    return (row["instruction"], row["input"], row["output"])


def instances_of(run: Run) -> dict[tuple[str, str, str], list[int]]:
    """The numbers, from 0, of the instances of step 3 of which a row of the dataset can be."""
    tidy = RECIPES[run.settings.get("recipe", "modern")].tidy_input
    places: dict[tuple[str, str, str], list[int]] = {}
    for row in run.steps.get("instances", []):
        for number, instance in enumerate(row.get("instances") or []):
            if has_texts(instance, ("input", "output")):
                source = tidy(row["instruction"], instance["input"])
                pair = (row["instruction"], source, instance["output"])
                places.setdefault(pair, []).append(number)
    return places


def origin(task: dict[str, dict], number: int, sources: dict[Key, list[Source]]) -> dict:
    """Where an instance comes from; `task` has the rows of its task by stage."""
    first = task["generate"]
    request = first.get("request_idx")
    # What is not known is "": a reader that sees only nulls at first does not know the type.
    replies = {"generate": reply_behind(first, sources.get(("generate", request), []))}
    for stage in ASKED[1:]:
        about = sources.get((stage, first.get("instruction")), [])
        tries = [one for one in about if one.sample < workshop.ANSWERS]
        replies[stage] = reply_behind(task[stage], tries)
    answers = sources.get(("instances", first.get("instruction")), [])
    again = second_answer(task["instances"], number, answers)

    keys = {stage: reply.key if reply else "" for stage, reply in replies.items()}
    keys["second_answer"] = again.key if again else ""
    nobody = {"provider": "", "model": ""}
    more = {
        "id": f"{first.get('id', '')}-{number + 1}",
        "source": "machine",
        "models": {stage: reply.who if reply else nobody for stage, reply in replies.items()},
        "request": {"request_idx": request, "keys": keys},
        "seed": replies["generate"].seed if replies["generate"] else None,
    }
    return more | ({"topic": first["topic"]} if "topic" in first else {})


def merged_runs(run: Run) -> dict[str, dict]:
    """What run.json says of each run in a folder of merge_runs.py, by its name; {} elsewhere."""
    runs = record_of(run.summary.get("merge")).get("runs")
    found = [record_of(told) for told in runs] if isinstance(runs, list) else []
    return {told["name"]: told for told in found if has_texts(told, ("name", "kind"))}


def of_merged_run(row: dict, merged: dict[str, dict]) -> dict:
    """From which run a row of step 1 is, and who answered there; {} where nothing was merged."""
    told = merged.get(str(row.get("run", "")))
    if not told:
        return {}
    more: dict[str, Any] = {"run": told["name"]}
    if told["kind"] != "run":
        return more | {"source": "file"}
    return more | {"models": record_of(told.get("models")), "seed": told.get("seed")}


def reply_behind(row: dict, sources: list[Source]) -> Source | None:
    """The reply of which a row of a step file was made: its time and its text are in the row."""
    metadata = record_of(row.get("metadata"))
    text = row.get("response")
    for record in completion(row):  # stage 1 keeps it so
        text = record.get("text")
    at_its_time = [one for one in sources if one.created_at == metadata.get("created_at")]
    same = [one for one in at_its_time if one.text == text]
    return ([*at_its_time, *same] or [None])[-1]


def second_answer(row: dict, number: int, sources: list[Source]) -> Source | None:
    """The reply that answered an instance's input once more, None where none was asked for."""
    said = row.get("second_answers") or []
    if number >= len(said) or not said[number]:
        return None
    for one in sources:
        answer = workshop.without_thinking(one.text).strip()
        if one.sample >= workshop.ANSWERS and answer == said[number]:
            return one
    return None


def read_sources(run: Run) -> dict[Key, list[Source]]:
    """The replies of the journal by what they answer, in the order in which they came."""
    found: dict[Key, list[Source]] = {}
    recipe = run.settings.get("recipe", "modern")
    for record in journalled(run):
        # A list of stage 2 has no instruction: each of its answers has a record of its own.
        about = record.get("request_idx", record.get("instruction"))
        source = Source(
            record["key"],
            {"provider": record["provider"], "model": without_folders(record["model"])},
            record.get("sample") or 0,
            record["created_at"],
            reply_of(record, recipe).text,
            record.get("seed"),
        )
        found.setdefault((record["stage"], about), []).append(source)
    return found


def journalled(run: Run) -> Iterator[dict]:
    """The records of the journal that say who answered in which stage."""
    starts = run.journal.starts if run.journal else {}
    for key in sorted(starts, key=starts.__getitem__):
        record = run.journal.get(key)
        if has_texts(record, ("stage", "provider", "model")) and record["stage"] in ASKED:
            yield record


def read_judged(path: Path) -> dict[tuple[str, str, str], list[dict]] | None:
    """What judges say of each row; None where there is no such file.

    Raises WorkshopError at a line that is no answer of a judge.
    """
    if not path.exists():
        return None
    found: dict[tuple[str, str, str], list[dict]] = {}
    with open(path, encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            record = parsed(line)
            if not has_texts(record, ROW):
                problem = f"{path}, line {number} has no instruction, input and output"
                raise WorkshopError(f"{problem}: run scripts/judge.py again, or move the file away")
            answers = {name: record.get(name) for name in ANSWERS}
            found.setdefault(identity(record), []).append(answers)
    return found


# --------------------------------------------------------------------------------------------------
# The program.


def show(folder: Path) -> None:
    """Write the file, and say where it is."""
    print(workshop.spoken(f"provenance: {write_provenance(folder)}"))


def is_finished(folder: Path) -> bool:
    """Whether a run in this folder came to its dataset."""
    complete = workshop.earlier_run(folder).get("status") == "complete"
    return complete and (folder / STEP_FILES[-1]).exists()


def main(arguments: list[str] | None = None) -> int:
    parser = Parser(description=(__doc__ or "").split("\n\n")[0])
    folder = Path(Config.work_dir)
    parser.add_argument("--work-dir", type=Path, default=folder, help="folder of the run")
    options = parser.parse_args(arguments)
    return workshop.main(None, lambda _: show(options.work_dir))


if __name__ == "__main__":
    sys.exit(main())
