"""The bench on real models counts rightly. What it measures is no part of the tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from helpers.runs import ROOT
from helpers.server import Server, scripted_model

from self_instruct_workshop import Task, read_data

sys.path.insert(0, str(ROOT / "tests" / "bench"))

import real_models

YES = Task("a", "Is it so?", True)
NO = Task("b", "Write a poem.", False)


@pytest.mark.parametrize(
    ("said", "cells"),
    [
        ([True, True, False, False], "1.000 | 1.000 | 0.500 | 0.000"),
        ([True, True, True, True], "0.500 | 0.333 | 1.000 | 0.000"),  # F1 2/3 and 0
        ([True, None, False, None], "0.500 | 0.667 | 0.250 | 0.500"),  # F1 2/3 and 2/3
        ([None] * 4, "0.000 | 0.000 | 0.000 | 1.000"),
    ],
)
def test_an_answer_that_cannot_be_read_is_wrong(said: list, cells: str) -> None:
    assert real_models.score([YES, YES, NO, NO], said) == cells


def test_labelled_tasks_are_all_seeds_and_200_of_the_bank() -> None:
    names = [name for lang in ("en", "zh") for name in real_models.labelled_tasks(lang, 0)]
    counts = [int(name.split()[0]) for name in names]
    assert counts[0] + counts[2] == 275 and 198 <= counts[1] + counts[3] <= 200
    assert [len(tasks) for tasks in real_models.labelled_tasks("en", 7).values()] == [7, 7]


@pytest.mark.parametrize(("field", "copied"), [("input", True), ("output", True), ("", False)])
def test_a_copied_worked_example_is_found_in_any_row(field: str, copied: bool) -> None:
    shots = [row for row in read_data("demonstrations", "en") if row["stage"] == "instances"]
    pairs = [pair for shot in shots for pair in shot["instances"]]
    example = next(pair for pair in pairs if pair["input"] and len(pair["output"]) > 20)
    row = {"instruction": "Do it.", "input": "mine", "output": "all mine"}
    if field:
        row[field] = " " + example[field].upper()
    assert real_models.is_copied(row, "en") is copied


def test_the_figures_of_a_server_are_printed_and_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--languages", "en", "--tasks", "20", "--num", "10", "--folder", str(tmp_path)]
    with Server(scripted_model()) as server:
        assert real_models.main(["--base-url", server.url + "/v1", "--model", "m", *flags]) == 0
    figures = (tmp_path / "m_modern" / "figures.md").read_text(encoding="utf-8")
    assert "| 20 seeds, en | one by one | 1.000 | 1.000 |" in figures
    assert "| 20 seeds, en | in lists of 10 | 1.000 | 1.000 |" in figures
    assert "(16 of 16 seeds) | 0 | 10 |" in figures
    assert (tmp_path / "m_modern" / "run_en" / "review.csv").exists()
    assert {*figures.splitlines()} <= {*capsys.readouterr().out.splitlines()}
