"""merge_runs.py: many finished runs and files of rows become one folder, as one run writes it."""

from __future__ import annotations

import csv
import json
import os
import random
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from helpers.runs import ROOT, quiet, rows, summary_of

from scripts import merge_runs, provenance
from scripts.merging import marks, rounds
from scripts.merging.decide import Decision, decide
from self_instruct_workshop import RECIPES, STEP_FILES, Config, rouge_l, tokenize

TEXTS = ("instruction", "input", "output")
FILES = (*STEP_FILES, "rejected.jsonl")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three finished runs."""
    folder = tmp_path_factory.mktemp("runs")
    for seed, name in enumerate(("run_a", "run_b", "run_c"), 1):
        more = {"seed": seed, "instances_per_instruction": 2, "num_instructions": 40 + 10 * seed}
        quiet(Config(provider="practice", work_dir=str(folder / name), **more))
    return folder


@pytest.fixture
def runs(made: Path, tmp_path: Path) -> Path:
    """A copy of them, which a test may damage. It is where we are."""
    shutil.copytree(made, tmp_path / "cwd", dirs_exist_ok=True)
    return tmp_path / "cwd"


def merge(*arguments: str | Path, out: str = "merged") -> int:
    return merge_runs.main([*map(str, arguments), "--out", out])


def problem(capsys: pytest.CaptureFixture, *arguments: str, out: str = "merged") -> tuple[int, str]:
    """The exit code and the one line of an error; nothing was written."""
    before = sorted(Path().rglob("*"))
    code = merge(*arguments, out=out)
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith("error: ")
    assert sorted(Path().rglob("*")) == before
    return code, said


def instructions(folder: Path) -> list[str]:
    """The instructions of a dataset, each once."""
    return list(dict.fromkeys(row["instruction"] for row in rows(folder, STEP_FILES[-1])))


def in_turns(lists: list[list[str]]) -> list[tuple[int, str]]:
    """The first of each list, then the second of each, with the number of the list."""
    longest = max(map(len, lists))
    return [
        (number, texts[turn])
        for turn in range(longest)
        for number, texts in enumerate(lists)
        if turn < len(texts)
    ]


def plain_choice(texts: list[str], limit: float = 0.7) -> dict[int, tuple[int, float]]:
    """What is too similar, to what, and how much: as the lesson says it, pair by pair."""
    tokens = [tokenize(text) for text in texts]
    kept: list[int] = []
    turned_away = {}
    for place, mine in enumerate(tokens):
        scores = [(rouge_l(mine, tokens[other]), -other) for other in kept]
        best = max(scores, default=(0.0, 0))
        if best[0] > limit + 1e-9:
            turned_away[place] = (-best[1], best[0])
        else:
            kept.append(place)
    return turned_away


# --------------------------------------------------------------------------------------------------
# What is kept.


def test_runs_take_turns_and_an_instruction_stays_that_is_novel_among_all(runs: Path) -> None:
    names = ["run_a", "run_b", "run_c"]
    assert merge(*names) == 0
    order = in_turns([instructions(runs / name) for name in names])
    away = plain_choice([text for _, text in order])
    assert len(away) > 5
    assert instructions(runs / "merged") == [
        text for place, (_, text) in enumerate(order) if place not in away
    ]
    found = rows(runs / "merged", "rejected.jsonl")
    assert [row["instruction"] for row in found] == [order[place][1] for place in away]
    for row, (place, (other, score)) in zip(found, away.items(), strict=True):
        assert (row["rule"], row["run"]) == ("too_similar", names[order[place][0]])
        assert (row["evidence"], row["evidence_run"]) == (order[other][1], names[order[other][0]])
        assert row["score"] == pytest.approx(score, abs=1e-12)


def test_rows_are_taken_as_they_are(runs: Path) -> None:
    assert merge("run_a", "run_b") == 0
    by_run = {name: rows(runs / name, STEP_FILES[-1]) for name in ("run_a", "run_b")}
    wanted = []
    for row in rows(runs / "merged", STEP_FILES[0]):
        own = by_run[row["run"]]
        wanted += [one for one in own if one["instruction"] == row["instruction"]]
    found = rows(runs / "merged", STEP_FILES[-1])
    assert found == wanted and len(found) > len(instructions(runs / "merged"))
    assert all(list(row) == [*TEXTS] for row in found)


def test_what_is_preferred_comes_first_and_whole(runs: Path) -> None:
    assert merge("run_a", "run_b", "run_c", "--prefer", "run_c") == 0
    kept = instructions(runs / "merged")
    theirs = instructions(runs / "run_c")
    assert kept[: len(theirs)] == theirs
    rest = in_turns([instructions(runs / name) for name in ("run_a", "run_b")])
    away = plain_choice([*theirs, *(text for _, text in rest)])
    assert len(kept) == len(theirs) + len(rest) - len(away)
    assert summary_of(runs / "merged")["merge"]["preferred"] == ["run_c"]


def test_counts_add_up_for_each_run_and_in_all(runs: Path, capsys: pytest.CaptureFixture) -> None:
    assert merge("run_a", "run_b", "run_c") == 0
    summary = summary_of(runs / "merged")
    rejected = Counter(row["run"] for row in rows(runs / "merged", "rejected.jsonl"))
    for told in summary["merge"]["runs"]:
        own = runs / told["name"]
        assert told["instructions"]["in"] == len(instructions(own))
        assert told["rows"]["in"] == len(rows(own, STEP_FILES[-1]))
        assert told["instructions"]["rejected"] == {"too_similar": rejected[told["name"]]}
        for of in (told["instructions"], told["rows"]):
            assert of["in"] == of["kept"] + sum(of["rejected"].values())
    for stage in ("generate", "classify", "instances", "filter"):
        of = summary["counts"][stage]
        assert of["in"] == of["out"] + sum(of["rejected"].values())
    assert summary["counts"]["generate"]["out"] == len(instructions(runs / "merged"))
    assert summary["counts"]["filter"]["out"] == len(rows(runs / "merged", STEP_FILES[-1]))
    assert summary["counts"]["generate"]["rejected"] == {"too_similar": rejected.total()}
    flags = Counter(row["is_classification"] for row in rows(runs / "merged", STEP_FILES[1]))
    assert summary["counts"]["classify"]["classification"] == flags[True] > 0
    assert summary["counts"]["classify"]["unknown"] == flags[None]
    shown = capsys.readouterr().out
    total = sum(told["instructions"]["in"] for told in summary["merge"]["runs"])
    assert f"in all{total:>14,}" in shown and "next, a page to look at:" in shown


def test_step_files_have_the_rows_of_the_runs_with_ids_of_their_own(runs: Path) -> None:
    assert merge("run_a", "run_b", "run_c") == 0
    kept = instructions(runs / "merged")
    for name in STEP_FILES[:3]:
        found = rows(runs / "merged", name)
        assert [row["instruction"] for row in found] == kept
        assert len({row["id"] for row in found}) == len(found)
        for row in found:
            own = {one["instruction"]: one for one in rows(runs / row["run"], name)}
            old = own[row["instruction"]]
            assert row["id"] == f"{row['run']}-{old['id']}"
            changed = {"id", "run", "request_idx", "metadata"}
            assert {key for key in row if row.get(key) != old.get(key)} <= changed
            assert list(row) == [*old, "run"]


def test_each_request_has_a_number_of_its_own_and_its_prompt_once(runs: Path) -> None:
    assert merge("run_a", "run_b", "run_c") == 0
    prompts: dict[tuple, str] = {}
    for name in ("run_a", "run_b", "run_c"):
        for row in rows(runs / name, STEP_FILES[0]):
            if "prompt" in row["metadata"]:
                prompts[name, row["request_idx"]] = row["metadata"]["prompt"]
    numbers: dict[int, tuple] = {}
    for row in rows(runs / "merged", STEP_FILES[0]):
        own = {one["instruction"]: one for one in rows(runs / row["run"], STEP_FILES[0])}
        source = (row["run"], own[row["instruction"]]["request_idx"])
        assert row["metadata"].get("prompt", prompts[source]) == prompts[source]
        assert ("prompt" in row["metadata"]) == (row["request_idx"] not in numbers)
        assert numbers.setdefault(row["request_idx"], source) == source
    assert len({*numbers.values()}) == len(numbers)


def test_a_prompt_is_kept_though_its_first_instruction_is_not(runs: Path) -> None:
    # All that run_b kept of its first request is too similar to run_a, but for the last.
    own = rows(runs / "run_b", STEP_FILES[0])
    first = [row for row in own if row["request_idx"] == own[0]["request_idx"]]
    known = {row["instruction"] for row in first[:-1]} & {*instructions(runs / "run_b")}
    lines = [{"instruction": text, "input": "", "output": "Yes."} for text in known]
    write(runs / "alike.jsonl", lines)
    assert known and merge("alike.jsonl", "run_b", "--prefer", "alike") == 0
    found = [row for row in rows(runs / "merged", STEP_FILES[0]) if row["run"] == "run_b"]
    assert found[0]["metadata"]["prompt"]


# --------------------------------------------------------------------------------------------------
# Files of rows.


def write(path: Path, lines: list[dict]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


ALPACA = [
    {"instruction": "Name the colours of the flag.", "input": "Italy", "output": "green"},
    {"instruction": "Say hello to somebody in Welsh.", "input": "", "output": "Helo."},
    {"instruction": "Name the colours of the flag.", "input": "Mali", "output": "红色, green"},
    {"instruction": "Name the colours of the flag.", "input": "Mali", "output": "Another."},
]


@pytest.mark.parametrize("ending", [".jsonl", ".json", ".csv", ".parquet"])
def test_files_of_rows_in_every_format_are_the_same_rows(runs: Path, ending: str) -> None:
    path = runs / f"alpaca{ending}"
    if ending == ".parquet":
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow.parquet import write_table

        write_table(pyarrow.Table.from_pylist(ALPACA), path)
    elif ending == ".csv":
        with open(path, "w", encoding="utf-8", newline="") as file:
            table = csv.DictWriter(file, TEXTS)
            table.writeheader()
            table.writerows(ALPACA)
    elif ending == ".json":
        path.write_text(json.dumps(ALPACA), encoding="utf-8")
    else:
        write(path, ALPACA)
    assert merge(path) == 0
    assert rows(runs / "merged", STEP_FILES[-1]) == [ALPACA[0], ALPACA[2], ALPACA[1]]
    assert [row["id"] for row in rows(runs / "merged", STEP_FILES[0])] == ["alpaca-1", "alpaca-2"]
    [away] = rows(runs / "merged", "rejected.jsonl")
    assert (away["rule"], away["output"], away["run"]) == ("duplicate", "Another.", "alpaca")
    [told] = summary_of(runs / "merged")["merge"]["runs"]
    assert told["rows"] == {"in": 4, "kept": 3, "rejected": {"duplicate": 1}}
    assert told["instructions"] == {"in": 2, "kept": 2, "rejected": {}}
    assert not (runs / "merged" / STEP_FILES[1]).exists()


def test_tasks_with_instances_are_rows_too_and_a_null_input_is_empty(runs: Path) -> None:
    pairs = [{"input": None, "output": "a"}, {"input": "x", "output": "b"}]
    write(runs / "tasks.jsonl", [{"id": "t", "instruction": "Do it.", "instances": pairs}])
    assert merge("tasks.jsonl") == 0
    row = {"instruction": "Do it."}
    wanted = [row | {"input": "", "output": "a"}, row | {"input": "x", "output": "b"}]
    assert rows(runs / "merged", STEP_FILES[-1]) == wanted


def test_columns_that_a_dataset_has_no_place_for_are_named(
    runs: Path, capsys: pytest.CaptureFixture
) -> None:
    write(runs / "talks.jsonl", [ALPACA[1] | {"history": [["Hi.", "Hi!"]], "system": ""}])
    assert merge("talks.jsonl") == 0
    assert "notice: talks.jsonl: no row of the dataset has history" in capsys.readouterr().err


def test_rows_that_were_judged_or_rewritten_are_not_taken_unseen(
    runs: Path, capsys: pytest.CaptureFixture
) -> None:
    write(runs / "run_a" / "step6_judged.jsonl", ALPACA[:1])
    assert merge("run_a", "run_b") == 0
    said = capsys.readouterr().err
    assert said.startswith("notice: step6_judged.jsonl in run_a is not taken")
    assert merge(runs / "run_a" / "step6_judged.jsonl", out="judged") == 0
    assert rows(runs / "judged", STEP_FILES[-1]) == ALPACA[:1]


def test_the_dataset_is_written_as_parquet_too(runs: Path) -> None:
    pytest.importorskip("pyarrow")
    from pyarrow.parquet import read_table

    assert merge("run_a", "run_b", "--parquet") == 0
    table = read_table(runs / "merged" / "step4_final.parquet")
    assert table.column_names == [*TEXTS]
    assert table.to_pylist() == rows(runs / "merged", STEP_FILES[-1])


def test_two_folders_of_one_name_get_names_of_their_own(runs: Path) -> None:
    for name in ("x", "y"):
        (runs / name).mkdir()
    shutil.move(runs / "run_a", runs / "x" / "run")
    shutil.move(runs / "run_b", runs / "y" / "run")
    assert merge("x/run", "y/run", "--prefer", "y/run") == 0
    summary = summary_of(runs / "merged")
    assert [told["name"] for told in summary["merge"]["runs"]] == ["run", "run_2"]
    assert summary["merge"]["preferred"] == ["run_2"]
    assert {row["run"] for row in rows(runs / "merged", STEP_FILES[0])} == {"run", "run_2"}


def test_settings_in_which_runs_differ_are_named_and_the_card_has_them(runs: Path) -> None:
    path = runs / "run_b" / "run.json"
    told = json.loads(path.read_text(encoding="utf-8"))
    told["settings"] |= {"model": "/home/ana/other-model.gguf", "temperature": 1.0}
    path.write_text(json.dumps(told), encoding="utf-8")
    assert merge("run_a", "run_b") == 0
    summary = summary_of(runs / "merged")
    differ = summary["merge"]["differ"]
    assert differ["seed"] == "1, 2" and differ["temperature"] == "0.7, 1.0"
    assert summary["settings"]["model"] == "data/practice_tasks.jsonl, other-model.gguf"
    command = [sys.executable, ROOT / "scripts" / "prepare_for_finetuning.py"]
    command += ["merged/step4_final.jsonl", "--output-dir", "train"]
    done = subprocess.run([*map(str, command)], capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    card = (runs / "train" / "README.md").read_text(encoding="utf-8")
    assert "| temperature | 0.7, 1.0 |" in card and "| seed | 1, 2 |" in card
    ours = (runs / "merged" / "README.md").read_text(encoding="utf-8")
    assert "| run\\_b | other-model.gguf | " in ours and "ana" not in ours + card


# --------------------------------------------------------------------------------------------------
# What cannot be merged, and what must not be replaced.


def change(path: str, **settings: object) -> None:
    """Change what run.json says of a run."""
    file = Path(path) / "run.json"
    told = json.loads(file.read_text(encoding="utf-8"))
    told["settings"] |= settings
    file.write_text(json.dumps(told), encoding="utf-8")


def unfinished() -> None:
    file = Path("run_b/run.json")
    text = file.read_text(encoding="utf-8").replace('"complete"', '"interrupted"')
    file.write_text(text, encoding="utf-8")


def damaged_row() -> None:
    file = Path("run_b") / STEP_FILES[-1]
    lines = file.read_text(encoding="utf-8").split("\n")
    file.write_text("\n".join([*lines[:2], lines[2][:30], *lines[3:]]), encoding="utf-8")


def no_text() -> None:
    row = {"instruction": "Sort.", "input": None, "output": "x"}
    write(Path("run_b") / STEP_FILES[-1], [row])


WRONG = [
    (unfinished, "run_b is not finished (status: interrupted): finish it by the command"),
    (
        lambda: change("run_b", language="zh"),
        "the runs differ in language (run_a: en, run_b: zh): merge each language",
    ),
    (
        lambda: change("run_b", recipe="paper"),
        "the runs differ in recipe (run_a: modern, run_b: paper): merge each recipe",
    ),
    (lambda: (Path("run_b") / "run.json").unlink(), "run_b is no run (no run.json): name"),
    (lambda: (Path("run_b") / "run.json").write_text("{"), "run_b is no run (run.json cannot be"),
    (lambda: (Path("run_b") / STEP_FILES[-1]).unlink(), "run_b is not finished"),
    (damaged_row, f"{Path('run_b') / STEP_FILES[-1]}, line 3 is damaged"),
    (no_text, f"{Path('run_b') / STEP_FILES[-1]}, line 1 is no row of a run"),
    (lambda: (Path("run_b") / STEP_FILES[2]).write_text("x\n"), "line 1 is damaged"),
    (lambda: shutil.rmtree("run_b"), "run_b"),
]


@pytest.mark.parametrize(("spoil", "said"), WRONG)
def test_a_run_that_cannot_be_merged_is_one_line(
    runs: Path, capsys: pytest.CaptureFixture, spoil: object, said: str
) -> None:
    spoil()
    assert problem(capsys, "run_a", "run_b") == (1, capsys_line(said))


class capsys_line(str):
    """A text that equals every line in which it stands."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and str.__str__(self) in other

    __hash__ = str.__hash__


def test_the_same_run_twice_is_one_line(runs: Path, capsys: pytest.CaptureFixture) -> None:
    for other in ("run_a/", "./run_a", "run_b/../run_a", f"run_a/{STEP_FILES[-1]}"):
        code, said = problem(capsys, "run_a", "run_b", other)
        assert code == 2 and "are the same: name it once" in said


def test_runs_of_other_thresholds_need_one_that_is_typed(
    runs: Path, capsys: pytest.CaptureFixture
) -> None:
    change("run_b", rouge_threshold=0.8)
    code, said = problem(capsys, "run_a", "run_b", "run_c")
    assert code == 2 and "(run_a: 0.7, run_b: 0.8): give one by --threshold" in said
    assert merge("run_a", "run_b", "--threshold", "0.4") == 0
    texts = [text for _, text in in_turns([instructions(runs / n) for n in ("run_a", "run_b")])]
    assert len(rows(runs / "merged", "rejected.jsonl")) == len(plain_choice(texts, 0.4)) > 0
    assert summary_of(runs / "merged")["settings"]["rouge_threshold"] == 0.4


def test_runs_of_one_other_threshold_are_merged_by_it(runs: Path) -> None:
    for name in ("run_a", "run_b"):
        change(name, rouge_threshold=0.5)
    assert merge("run_a", "run_b") == 0
    assert summary_of(runs / "merged")["settings"]["rouge_threshold"] == 0.5


def test_a_record_without_an_instruction_or_an_output_is_one_line(
    runs: Path, capsys: pytest.CaptureFixture
) -> None:
    for record, what in (
        ({"input": "x", "output": "y"}, "line 2 has no instruction"),
        ({"instruction": " ", "output": "y"}, "line 2 has no instruction"),
        ({"instruction": "Sort.", "input": "y"}, "line 2 has no output"),
        ({"instruction": "Sort.", "output": 3}, "line 2 has no output"),
        ({"instruction": "Sort.", "instances": [3]}, "line 2 has no output"),
        ([], "line 2 is damaged"),
    ):
        write(runs / "own.jsonl", [ALPACA[0], record])
        code, said = problem(capsys, "run_a", "own.jsonl")
        assert code == 1 and what in said


def test_a_name_that_prefer_does_not_know_is_one_line(
    runs: Path, capsys: pytest.CaptureFixture
) -> None:
    code, said = problem(capsys, "run_a", "run_b", "--prefer", "run_x")
    assert code == 2 and "name one of run_a, run_b" in said


def test_nothing_is_written_over(runs: Path, capsys: pytest.CaptureFixture) -> None:
    before = {path: path.read_bytes() for path in runs.rglob("*") if path.is_file()}
    for out, said in (
        ("run_c", "--out run_c is not empty"),
        ("run_a", "--out run_a is merged itself"),
        (f"run_a/{STEP_FILES[-1]}", "is merged itself"),
        ("run_c/run.json", "--out run_c/run.json is a file"),
    ):
        code, line = problem(capsys, "run_a", "run_b", out=out)
        assert code == 2 and said in line
    code, line = problem(capsys, "run_a", "run_b", "--overwrite", out="run_c")
    assert code == 2 and "--overwrite replaces a merged folder only" in line
    assert {path: path.read_bytes() for path in before} == before


def test_a_merged_folder_is_replaced_when_asked_and_what_is_the_users_stays(
    runs: Path, capsys: pytest.CaptureFixture
) -> None:
    (runs / "merged").mkdir()  # an empty folder is as good as none
    assert merge("run_a", "run_b", "--overwrite") == 0
    first = instructions(runs / "merged")
    (runs / "merged" / "notes.txt").write_text("mine", encoding="utf-8")
    provenance.write_provenance(runs / "merged")
    capsys.readouterr()
    code, said = problem(capsys, "run_a", "run_c")
    assert code == 2 and "is not empty: name a new folder, or add --overwrite" in said
    assert merge("run_a", "run_c", "--overwrite") == 0
    assert instructions(runs / "merged") != first
    assert (runs / "merged" / "notes.txt").read_text(encoding="utf-8") == "mine"
    assert not (runs / "merged" / "step4_provenance.jsonl").exists()
    assert not [path for path in runs.iterdir() if path.name.startswith(".merged")]


def test_merged_folders_can_be_merged_again(runs: Path) -> None:
    assert merge("run_a", "run_b") == 0
    assert merge("merged", "run_c", out="more") == 0
    found = rows(runs / "more", STEP_FILES[0])
    assert {row["run"] for row in found} == {"merged", "run_c"}
    assert len({row["id"] for row in found}) == len(found)


def test_the_same_command_writes_the_same_bytes(runs: Path) -> None:
    for out in ("one", "two"):
        assert merge("run_a", "run_b", "run_c", out=out) == 0
    for name in (*FILES, "README.md"):
        assert (runs / "one" / name).read_bytes() == (runs / "two" / name).read_bytes()


# --------------------------------------------------------------------------------------------------
# Who reads it.


def call(program: str, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "scripts" / program), *arguments]
    return subprocess.run(command, capture_output=True, encoding="utf-8")


@pytest.mark.parametrize("more", [[], ["own.jsonl"]])
def test_the_companions_read_a_merged_folder_as_they_read_a_run(
    runs: Path, more: list[str]
) -> None:
    write(runs / "own.jsonl", ALPACA)
    assert merge("run_a", "run_b", *more) == 0
    data = f"merged/{STEP_FILES[-1]}"
    for command in (
        ["explain.py", "--work-dir", "merged", "run_b-machine_task_1"],
        ["review.py", "sample", "--data", data, "--out", "sheet.csv"],
        ["prepare_for_finetuning.py", data, "--output-dir", "train"],
        ["overlap.py", "run_c/step4_final.jsonl", "--data", data, "--out", "overlap.jsonl"],
        ["rewrite.py", "--provider", "practice", "--data", data],
        ["judge.py", "--provider", "practice", "--data", data],
    ):
        done = call(*command)
        assert done.returncode == 0 and "Traceback" not in done.stderr, (command, done.stderr)
    assert len(rows(runs / "merged", STEP_FILES[-1])) == len(
        json.loads((runs / "train" / "train.json").read_text(encoding="utf-8"))
    )


def test_provenance_names_the_run_of_each_row_and_its_models(
    runs: Path, capsys: pytest.CaptureFixture
) -> None:
    change("run_b", model="other-model")
    write(runs / "own.jsonl", ALPACA)
    assert merge("run_a", "own.jsonl", "run_b") == 0
    provenance.write_provenance(runs / "merged")
    assert "has no journal: the rows name no replies" in capsys.readouterr().err
    found = rows(runs / "merged", "step4_provenance.jsonl")
    texts = [{name: row[name] for name in TEXTS} for row in found]
    assert texts == rows(runs / "merged", STEP_FILES[-1])
    models = {row["run"]: row["models"]["generate"]["model"] for row in found}
    assert models == {"run_a": "data/practice_tasks.jsonl", "own": "", "run_b": "other-model"}
    assert {row["run"]: row["source"] for row in found} == {
        "run_a": "machine",
        "own": "file",
        "run_b": "machine",
    }
    assert {row["seed"] for row in found if row["run"] == "run_b"} == {2}


def test_compare_recipes_says_that_the_journals_are_in_the_runs(runs: Path) -> None:
    assert merge("run_a", "run_b") == 0
    done = call("compare_recipes.py", "merged")
    assert done.returncode == 1 and done.stderr.count("\n") == 1


@pytest.mark.parametrize("more", [[], ["own.jsonl"]])
def test_the_report_shows_a_merged_folder(runs: Path, more: list[str]) -> None:
    for package in ("plotly", "textblob"):
        pytest.importorskip(package)
    write(runs / "own.jsonl", ALPACA)
    assert merge("run_a", "run_b", *more) == 0
    done = call("report.py", "--work-dir", "merged")
    assert done.returncode == 0, done.stderr
    assert (runs / "merged" / "report.html").stat().st_size > 100_000


# --------------------------------------------------------------------------------------------------
# The engines: all say what the plain choice says.


def engine_texts(kind: str, count: int) -> list[str]:
    """Texts that are hard for a join: real ones, near copies, one token in many, few tokens."""
    dice = random.Random(kind)
    name = "practice_tasks.jsonl"
    lines = (ROOT / "data" / name).read_text(encoding="utf-8").splitlines()
    real = [json.loads(line)["instruction"] for line in lines]
    if kind == "real":  # English and Chinese, in turns, some twice
        return real[:count] + real[: count // 10] + ["???", "", "!!!", ""]
    if kind == "near copies":
        words = real[0].split()
        found = real[: count // 3]
        while len(found) < count:
            changed = list(words)
            for place in dice.sample(range(len(words)), dice.choice((1, 2, 5))):
                changed[place] = dice.choice(real).split()[0]
            found.append(" ".join(changed))
        return found
    if kind == "one token in many":
        return [f"please {text}" if n % 3 else text for n, text in enumerate(real[:count])]
    tokens = [f"w{number}" for number in range(12)]
    return [" ".join(dice.choices(tokens, k=dice.randint(1, 14))) for _ in range(count)]


KINDS = ("real", "near copies", "one token in many", "few tokens")


def reference(texts: list[str], limit: float, recipe: str) -> list[Decision]:
    """Each text with all that are kept, pair by pair, by the recipe's own scores."""
    coded = marks.coded_texts(texts, recipe)
    kept: list[int] = []
    found: list[Decision] = []
    for place, text in enumerate(coded):
        scores = RECIPES[recipe].scores([text], [coded[other] for other in kept])[0]
        best = int(scores.argmax()) if len(kept) else 0
        if len(kept) and scores[best] > limit:
            found.append((kept[best], float(scores[best])))
        else:
            kept.append(place)
            found.append(None)
    return found


def sizes(first: int, pairs: int = 10**9) -> rounds.Sizes:
    return rounds.Sizes(first, 2, 10**6, pairs, pairs)


def chosen(joins: Plain, count: int, of: rounds.Sizes) -> list[Decision]:
    return list(rounds.choose(joins, count, lambda done: None, of))


class Plain:
    """rounds.Joins on sets, to test the keys and the rounds without any engine."""

    def __init__(self, texts: list[str], limit: float, recipe: str) -> None:
        self.coded = marks.coded_texts(texts, recipe)
        self.order = marks.order_of_marks(self.coded)
        self.limit = limit
        self.recipe = recipe
        self.kept: set[int] = set()
        self.looked_at = 0

    def keys(self, numbers: list[int]) -> list[dict]:
        ids = np.array(sorted(numbers), np.int64)
        part = [self.coded[number] for number in ids]
        found = []
        for columns in marks.keys_of(ids, part, self.order, self.limit):
            by_key = defaultdict(set)
            for key, number in zip(columns["key"], columns["id"], strict=True):
                by_key[int(key)].add(int(number))
            found.append(by_key)
        return found

    def load(self, low: int, high: int) -> None:
        self.block = set(range(low, high))

    def cost(self, among: str, numbers: np.ndarray | None = None) -> int:
        return 0

    def pairs(self, among: str, numbers: np.ndarray | None = None) -> list:
        part = {*map(int, numbers)} if numbers is not None else set()
        ours, theirs = {
            "old": (self.block, self.kept),
            "new": (part, part),
            "late": (self.block - part, part),
        }[among]
        long, short = self.keys([*ours]), self.keys([*theirs])
        found = set()
        for one, other in ((long[0], short[1]), (long[1], short[0])):
            for key in one.keys() & other.keys():
                found |= {(min(a, b), max(a, b)) for a in one[key] for b in other[key] if a != b}
        self.looked_at += len(found)
        older = [self.coded[a] for a, _ in found]
        newer = [self.coded[b] for _, b in found]
        scores = marks.scores_of(newer, older, self.recipe) if found else []
        return [
            (a, b, float(score))
            for (a, b), score in zip(found, scores, strict=True)
            if score > self.limit
        ]

    def keep(self, numbers: np.ndarray) -> None:
        self.kept |= {*map(int, numbers)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("threshold", "recipe"),
    [(0.7, "modern"), (0.7, "paper"), (0.3, "modern"), (0.95, "modern"), (1.0, "paper")],
)
def test_the_joins_miss_no_pair_and_the_rounds_choose_as_one_by_one(
    kind: str, threshold: float, recipe: str
) -> None:
    texts = engine_texts(kind, 240)
    limit = RECIPES[recipe].highest_score(threshold)
    wanted = reference(texts, limit, recipe)
    # However many texts a round has.
    for first in (len(texts), 17):
        found = chosen(Plain(texts, limit, recipe), len(texts), sizes(first))
        assert found == wanted
    assert list(decide(texts, threshold, recipe)) == wanted
    assert threshold > 0.7 or any(wanted)


def test_near_copies_are_compared_with_the_one_that_stays_and_not_with_each_other() -> None:
    base = [f"word{number}" for number in range(20)]
    texts = [" ".join([*base[:10], f"other{number}", *base[11:]]) for number in range(2000)]
    joins = Plain(texts, 0.7, "modern")
    found = chosen(joins, len(texts), sizes(100))
    assert found[0] is None and all(one and one[0] == 0 for one in found[1:])
    assert joins.looked_at < 100 * 100 + 2 * len(texts)


def test_a_round_with_too_many_pairs_is_tried_again_with_fewer_texts() -> None:
    tried = []

    class Costly(Plain):
        def cost(self, among: str, numbers: np.ndarray | None = None) -> int:
            tried.append(len(self.block))
            return len(self.block) ** 2 * 100

    texts = engine_texts("few tokens", 1200)
    limit = 0.7 + 1e-9
    found = chosen(Costly(texts, limit, "modern"), len(texts), sizes(1200, 10**8))
    assert found == reference(texts, limit, "modern")
    assert tried[0] == 1200 and len(tried) < 5


# What needs a package that the core has not is slow: it is tested with the companions.
@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_duckdb_says_the_same(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("duckdb")
    texts = engine_texts(kind, 1500)
    for threshold, recipe in ((0.7, "modern"), (0.7, "paper"), (0.4, "modern")):
        wanted = list(decide(texts, threshold, recipe))
        folder = tmp_path / f"{threshold}{recipe}"
        folder.mkdir()
        of_engine = {"folder": str(folder), "memory": "500MB"}
        assert list(decide(texts, threshold, recipe, "duckdb", **of_engine)) == wanted


def same_files(one: Path, other: Path) -> bool:
    names = [name for name in (*FILES, "README.md") if (one / name).exists()]
    assert {path.name for path in one.iterdir()} == {path.name for path in other.iterdir()}
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in names)


@pytest.mark.slow
def test_duckdb_writes_the_same_bytes(runs: Path) -> None:
    pytest.importorskip("duckdb")
    assert merge("run_a", "run_b", "run_c", out="one") == 0
    assert merge("run_a", "run_b", "run_c", "--engine", "duckdb", out="two") == 0
    assert same_files(runs / "one", runs / "two")
    assert summary_of(runs / "two")["merge"]["engine"] == "duckdb"
    one, two = (summary_of(runs / out) for out in ("one", "two"))
    assert one["counts"] == two["counts"] and one["merge"]["runs"] == two["merge"]["runs"]


@pytest.mark.slow
def test_spark_writes_the_same_bytes(runs: Path) -> None:
    pytest.importorskip("pyspark")
    if not (shutil.which("java") or os.environ.get("JAVA_HOME")):
        pytest.skip("no Java")
    for kind in KINDS:
        lines = [{"instruction": text, "output": "x"} for text in engine_texts(kind, 200) if text]
        write(runs / f"{kind}.jsonl".replace(" ", "_"), lines)
    names = ["run_a", *sorted(str(path) for path in Path().glob("*.jsonl"))]
    assert merge(*names, out="one") == 0
    # In a process of its own: a session of Spark cannot be started twice with other settings.
    more = ["--out", "two", "--engine", "spark", "--master", "local[2]"]
    done = call("merge_runs.py", *names, *more)
    assert done.returncode == 0, done.stderr[-2000:]
    assert same_files(runs / "one", runs / "two")


@pytest.mark.parametrize("engine", ["duckdb", "spark"])
def test_an_engine_that_is_not_installed_says_what_to_install(
    runs: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert merge("run_a", "run_b", "--engine", engine) == 1
    said = capsys.readouterr().err
    assert f"scripts/requirements-{engine}.txt" in said and said.count("\n") == 1
    assert not (runs / "merged").exists()


@pytest.mark.slow
def test_a_size_of_memory_that_is_none_is_one_line(
    runs: Path, capsys: pytest.CaptureFixture
) -> None:
    pytest.importorskip("duckdb")
    code = merge("run_a", "run_b", "--engine", "duckdb", "--memory", "much")
    said = capsys.readouterr().err
    assert code == 2 and "--memory much is no size" in said and said.count("\n") == 1
    assert not (runs / "merged").exists()
