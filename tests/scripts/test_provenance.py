"""provenance.py: the rows of the dataset, and of each the request, replies and models behind it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.runs import FLAGS, ROOT, local, quiet, rows, views
from helpers.server import Server, scripted_model

import self_instruct
from scripts import provenance
from self_instruct_workshop import PROVENANCE, Config, Journal, WorkshopError, locked, run

Settings = Callable[..., Config]
ROW = ("instruction", "input", "output")


@pytest.fixture
def practice(settings: Settings) -> Path:
    config = settings(num_instructions=30, provider="practice", instances_per_instruction=2)
    run(config, say=lambda text: None)
    return Path(config.work_dir)


def row_of(row: dict) -> dict:
    return {name: row[name] for name in ROW}


def call(*arguments: str | Path) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "self_instruct.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, encoding="utf-8")


def check(folder: Path) -> list[dict]:
    """The rows are those of the dataset, and what they name is in the run's files."""
    found = rows(folder, PROVENANCE)
    assert [row_of(row) for row in found] == rows(folder, "step4_final.jsonl")
    tasks = {row["id"]: row for row in rows(folder, "step3_raw_instances.jsonl")}
    first = {row["id"]: row for row in rows(folder, "step1_instructions.jsonl")}
    assert len({row["id"] for row in found}) == len(found)
    journal = Journal(folder / "responses.jsonl", "rb")
    for row in found:
        task, number = row["id"].rsplit("-", 1)
        assert tasks[task]["instruction"] == row["instruction"]
        assert tasks[task]["instances"][int(number) - 1]["output"] == row["output"]
        assert row["request"]["request_idx"] == first[task]["request_idx"]
        keys = row["request"]["keys"]
        for stage in ("generate", "classify", "instances"):
            record = journal.get(keys[stage])
            assert record["stage"] == stage
            assert record.get("instruction", row["instruction"]) == row["instruction"]
            assert row["models"][stage] == {name: record[name] for name in ("provider", "model")}
        assert row["instruction"] in journal.get(keys["generate"])["text"] or "practice" not in str(
            row["models"]
        )
        assert row["output"] in journal.get(keys["instances"])["text"]
        assert row["seed"] == journal.get(keys["generate"])["seed"]
        said = tasks[task]["second_answers"][int(number) - 1]
        assert bool(keys["second_answer"]) == bool(said)
        assert not said or said in journal.get(keys["second_answer"])["text"]
    journal.file.close()
    return found


def test_each_row_names_its_task_its_replies_and_who_wrote_them(practice: Path) -> None:
    before = views(practice)
    path = provenance.write_provenance(practice)
    found = check(practice)
    assert path == practice / PROVENANCE and len(found) > 20
    assert any(row["request"]["keys"]["second_answer"] for row in found)
    assert any(row["id"].endswith("-2") for row in found)
    assert all("topic" not in row and "judged" not in row for row in found)
    assert views(practice) == before


def test_lists_of_stage_2_and_topics_are_followed_too(settings: Settings, tmp_path: Path) -> None:
    topics = tmp_path / "topics.txt"
    topics.write_text("law\nart\n", encoding="utf-8")
    folder = Path(settings().work_dir)
    with Server(scripted_model()) as server:
        flags = ["--provider", "local", "--base-url", f"{server.url}/v1", "--topics", topics]
        done = call(*flags, *FLAGS, "--work-dir", folder, "--provenance")
        assert done.returncode == 0, done.stderr
        asked = len(server.requests)
        again = call("--work-dir", folder, "--provenance")
        assert len(server.requests) == asked
    assert again.stdout == f"provenance: {folder / PROVENANCE}\n" and again.stderr == ""
    assert done.stdout.endswith(again.stdout)
    found = check(folder)
    first = {row["instruction"]: row["topic"] for row in rows(folder, "step1_instructions.jsonl")}
    assert all(row["topic"] == first[row["instruction"]] for row in found)
    assert {row["topic"] for row in found} == {"law", "art"}


def test_models_are_those_of_the_records_not_of_the_settings(practice: Path) -> None:
    # As a run writes it in which each stage had another model, one of them a file of its own.
    names = {"generate": "writer", "classify": "sorter", "instances": "/home/ana/tiny.gguf"}
    records = rows(practice, "responses.jsonl")
    for record in records:
        record |= {"provider": "local", "model": names[record["stage"]]}
    text = "".join(json.dumps(record) + "\n" for record in records)
    (practice / "responses.jsonl").write_text(text, encoding="utf-8")
    provenance.write_provenance(practice)
    for row in rows(practice, PROVENANCE):
        assert {stage: who["model"] for stage, who in row["models"].items()} == {
            "generate": "writer",
            "classify": "sorter",
            "instances": "tiny.gguf",
        }


def test_what_judges_say_of_a_row_stands_in_it(practice: Path) -> None:
    dataset = rows(practice, "step4_final.jsonl")
    said = {"valid_task": True, "input_fits": None, "output_right": False, "model": "judge-1"}
    lines = [dataset[0] | said, dataset[0] | said | {"model": "judge-2"}, dataset[3] | said]
    # Another output of the same instruction is another row.
    lines.append(dataset[5] | said | {"output": "something else"})
    text = "".join(json.dumps(line | {"reason": "Because."}) + "\n" for line in lines)
    (practice / "judged.jsonl").write_text(text, encoding="utf-8")
    provenance.write_provenance(practice)
    found = [row["judged"] for row in check(practice)]
    assert found[0] == [said, said | {"model": "judge-2"}] and found[3] == [said]
    assert all(one == [] for n, one in enumerate(found) if n not in (0, 3))


def test_a_damaged_file_of_a_judge_is_one_line(
    practice: Path, capsys: pytest.CaptureFixture
) -> None:
    (practice / "judged.jsonl").write_text('{"valid_task": true}\n', encoding="utf-8")
    assert provenance.main(["--work-dir", str(practice)]) == 1
    said = capsys.readouterr().err
    assert "judged.jsonl, line 1 has no instruction, input and output" in said
    assert said.count("\n") == 1 and not (practice / PROVENANCE).exists()


def test_without_a_journal_rows_name_no_model_and_that_is_said(
    practice: Path, capsys: pytest.CaptureFixture
) -> None:
    (practice / "responses.jsonl").unlink()
    provenance.write_provenance(practice)
    assert "has no journal: the rows name no models and no replies" in capsys.readouterr().err
    found = rows(practice, PROVENANCE)
    assert [row_of(row) for row in found] == rows(practice, "step4_final.jsonl")
    assert {row["models"]["instances"]["model"] for row in found} == {""}


@pytest.mark.parametrize("flags", [(), ("--until", "instances")], ids=["nothing", "half"])
def test_a_folder_without_a_dataset_is_one_line(
    flags: tuple[str, ...], settings: Settings, capsys: pytest.CaptureFixture
) -> None:
    folder = Path(settings().work_dir)
    if flags:
        quiet(settings(provider="practice", num_instructions=8, until="instances"))
    assert provenance.main(["--work-dir", str(folder)]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: {folder} holds no dataset: run self_instruct.py first")
    assert said.count("\n") == 1


def test_files_that_do_not_belong_together_are_one_line(
    practice: Path, capsys: pytest.CaptureFixture
) -> None:
    path = practice / "step4_final.jsonl"
    row = {"instruction": "Sing.", "input": "", "output": "La la la."}
    path.write_text(path.read_text(encoding="utf-8") + json.dumps(row) + "\n", encoding="utf-8")
    assert provenance.main(["--work-dir", str(practice)]) == 1
    said = capsys.readouterr().err
    assert "has a row that step3_raw_instances.jsonl lacks: run the same" in said


def test_a_run_that_is_going_on_is_waited_for_by_a_person(practice: Path) -> None:
    lock = locked(practice)
    try:
        done = call("--work-dir", practice, "--provenance")
    finally:
        lock.release()
    assert done.returncode == 1 and "another run is writing to" in done.stderr


# ----- during a run


def test_behind_a_run_it_is_written_and_settings_that_are_typed_count(
    settings: Settings, capsys: pytest.CaptureFixture
) -> None:
    folder = Path(settings().work_dir)
    where = ["--work-dir", str(folder), "--provider", "practice", "--provenance"]
    assert self_instruct.main([*where, "--num-instructions", "8"]) == 0
    few = len(check(folder))
    # A number that is typed is a run of that many, not a look at the old one.
    assert self_instruct.main([*where, "--num-instructions", "24"]) == 0
    assert len(check(folder)) > few
    said = capsys.readouterr().out.splitlines()
    assert said.count(f"provenance: {folder / PROVENANCE}") == 2


def test_an_estimate_or_a_run_that_stops_earlier_writes_none(settings: Settings) -> None:
    folder = Path(settings().work_dir)
    where = ["--work-dir", str(folder), "--provider", "practice", "--provenance"]
    assert self_instruct.main([*where, "--estimate"]) == 0
    assert self_instruct.main([*where, "--num-instructions", "8", "--until", "generate"]) == 0
    assert not (folder / PROVENANCE).exists()


def test_the_file_is_never_of_another_run(settings: Settings, practice: Path) -> None:
    provenance.write_provenance(practice)
    before = (practice / PROVENANCE).read_bytes()
    config = settings(num_instructions=30, provider="practice", instances_per_instruction=2)
    quiet(config)  # the same run again changes nothing
    assert (practice / PROVENANCE).read_bytes() == before
    # More rows: it is gone. Another run: it is kept aside with the other files of the old one.
    quiet(settings(num_instructions=40, provider="practice", instances_per_instruction=2))
    assert not (practice / PROVENANCE).exists()
    provenance.write_provenance(practice)
    quiet(settings(num_instructions=8, provider="practice", seed=7))
    assert not (practice / PROVENANCE).exists()
    assert len([*practice.glob(f"earlier/*/{PROVENANCE}")]) == 1


def test_a_run_that_was_killed_and_resumed_has_the_same_rows(
    settings: Settings, tmp_path: Path
) -> None:
    def made(name: str, **how: object) -> list[dict]:
        config = settings(**how, model="m", num_instructions=16, work_dir=str(tmp_path / name))
        quiet(config)
        provenance.write_provenance(tmp_path / name)
        return check(tmp_path / name)

    with Server(scripted_model()) as server:
        whole = made("whole", **local(server))
        lines = (tmp_path / "whole" / "responses.jsonl").read_bytes().splitlines(keepends=True)
        for kept in (1, len(lines) // 2, len(lines) - 1):
            folder = tmp_path / f"killed{kept}"
            folder.mkdir()
            (folder / "responses.jsonl").write_bytes(b"".join(lines[:kept]) + lines[kept][:50])
            assert made(folder.name, **local(server)) == whole


def test_a_file_of_the_user_with_this_name_is_left_alone(practice: Path) -> None:
    mine = practice / PROVENANCE
    mine.write_text('{"mine": 1}\n', encoding="utf-8")
    with pytest.raises(WorkshopError, match="was not written by this program: move it away"):
        provenance.write_provenance(practice)
    assert mine.read_text(encoding="utf-8") == '{"mine": 1}\n'
    mine.unlink()
    provenance.write_provenance(practice)
    assert provenance.write_provenance(practice) == mine  # its own file it writes again
