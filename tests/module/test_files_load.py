"""Files that other programs load: `datasets.load_dataset` reads whatever a run writes, at any
size."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.runs import quiet, rows

from self_instruct_workshop import (
    STEP_FILES,
    Config,
    Reply,
    Results,
    Task,
    candidate_notes,
    funnel,
    shown_of,
    take_instances,
    write_rows,
)

Settings = Callable[..., Config]
ROWS = 3000  # of each kind: more than a chunk
WHEN = "2026-01-01T12:00:00.000+00:00"
CHUNK = 1 << 14  # bytes that load_dataset looks at to tell types; by default 10 MB


def load(path: Path, chunk: int = CHUNK) -> list[dict]:
    """All rows of a file, as load_dataset has them, which must be those that stand there."""
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    cache = str(path.parent / "cache")
    sizes = {"chunksize": chunk, "cache_dir": cache}
    loaded = datasets.load_dataset("json", data_files=str(path), split="train", **sizes)
    return loaded.to_list()


def written(folder: Path, results: Results) -> Path:
    write_rows(folder / "rejected.jsonl", results.rejected)
    return folder / "rejected.jsonl"


def two_kinds(size: int) -> Results:
    """Rejected rows: first those without an instance and a neighbour, then those with."""
    results = Results()
    for n in range(size):
        results.reject("generate", "too_short", f"Task {n}")
    for n in range(size):
        results.reject("generate", "too_similar", f"Task {n}", why=("A neighbour", 0.75))
        results.reject("filter", "empty_output", f"Task {n}", pair=("an input", ""))
        results.reject("instances", "no_instance", f"Task {n}", pair=(None, "a reply"))
    return results


def tasks(size: int) -> list[Task]:
    """Tasks of which the first are unclear and without an instance."""
    found = []
    for n in range(2 * size):
        nearest = [(f"Neighbour {n} and {k}", 0.5) for k in range(10)]
        reply = Reply(f"{n}. A reply", "stop", prompt="A prompt", created_at=WHEN)
        task = Task(f"machine_task_{n}", f"Task {n}", None if n < size else n % 2 == 0)
        task.notes["generate"] = candidate_notes(reply, n, nearest, 0.5)
        text = "Nothing." if n < size else "Input: a\nOutput: b"
        reply = Reply(text, "stop", created_at=WHEN)
        take_instances(Config(), task, reply, Results())
        found.append(task)
    return found


def test_rejected_rows_load_though_the_first_have_no_instance_and_no_score(tmp_path: Path) -> None:
    results = two_kinds(ROWS)
    path = written(tmp_path, results)
    assert load(path) == rows(tmp_path, path.name) == results.rejected
    assert {type(value) for row in results.rejected for value in row.values()} == {str, float}


@pytest.mark.parametrize("stage", ["generate", "instances"])
def test_step_files_load_though_the_first_tasks_are_unclear(tmp_path: Path, stage: str) -> None:
    results = Results(tasks=tasks(ROWS))
    path = tmp_path / "step.jsonl"
    write_rows(path, results.rows(stage))
    loaded = load(path)
    assert loaded == rows(tmp_path, path.name) == results.rows(stage)
    assert {row["id"] for row in loaded} == {task.id for task in results.tasks}
    assert len(loaded) == len(results.tasks)


def test_step_3_has_tasks_without_an_instance_last_and_the_others_in_order() -> None:
    found = [row["id"] for row in Results(tasks=tasks(3)).rows("instances")]
    assert found == [f"machine_task_{n}" for n in (3, 4, 5, 0, 1, 2)]


def test_step_3_says_how_it_asked_and_step_2_alone_what_was_unclear() -> None:
    results = Results(tasks=tasks(1))
    for task in results.tasks:
        task.notes["classify"] = {"response": "?"}
    assert [row["is_classification"] for row in results.rows("classify")] == [None, False]
    assert [row["is_classification"] for row in results.rows("instances")] == [False, False]
    assert results.tasks[0].is_classification is None


def test_all_files_of_a_run_load(settings: Settings) -> None:
    config = settings(provider="practice", num_instructions=40)
    quiet(config)
    folder = Path(config.work_dir)
    for name in (*STEP_FILES, "rejected.jsonl"):
        assert load(folder / name, 1 << 12) == rows(folder, name) != []


def test_without_rows_there_is_no_file_but_for_the_dataset(settings: Settings) -> None:
    config = settings(provider="practice", num_instructions=1, until="generate")
    folder = Path(config.work_dir)
    folder.mkdir()
    for name in ("rejected.jsonl", STEP_FILES[0], STEP_FILES[3]):
        (folder / name).write_text("{}\n", encoding="utf-8")
        write_rows(folder / name, [])
    assert [path.name for path in folder.iterdir()] == [STEP_FILES[3]]
    assert rows(folder, STEP_FILES[3]) == []


def test_the_end_of_a_run_names_only_files_that_are_there(settings: Settings) -> None:
    config = settings(provider="practice", num_instructions=1, until="generate")
    summary = quiet(config)
    (Path(config.work_dir) / "rejected.jsonl").unlink()
    said = " ".join(funnel(config, summary).split())
    assert f"{config.work_dir}: {STEP_FILES[0]}, run.json To go on" in said


def test_the_screen_shows_no_instance_of_a_task_that_has_none() -> None:
    results = Results(tasks=tasks(2))
    assert [row["instruction"] for row in shown_of("instances", results)] == ["Task 2"]


@pytest.mark.parametrize("stage", ["generate", "instances"])
def test_rows_that_were_left_to_their_file_are_the_same_rows(tmp_path: Path, stage: str) -> None:
    results = Results(tasks=tasks(3))
    known = results.rows(stage)
    shown = shown_of(stage, results)
    write_rows(tmp_path / "step.jsonl", known)
    results.leave_to_file(stage, tmp_path / "step.jsonl")
    assert results.rows(stage) == list(results.each_row(stage)) == known
    assert shown_of(stage, results) == shown and len(results.through(stage)) == 6

    # In memory is what later stages read.
    kept = {name for task in results.tasks for name in task.notes[stage]}
    assert kept == ({"second_answers"} if stage == "instances" else set())
    (tmp_path / "step.jsonl").unlink()
    assert results.rows(stage) == []
