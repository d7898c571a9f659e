"""The map in the module's docstring is true, and Part I is short enough to be read in one
sitting."""

from __future__ import annotations

import doctest
import re

from helpers.runs import ROOT

import self_instruct_workshop as workshop
from self_instruct_workshop import InstructionPool, rouge_l, tokenize

LINES = (ROOT / "self_instruct_workshop.py").read_text(encoding="utf-8").splitlines()


def test_the_map_names_the_lines_of_both_parts() -> None:
    [banner] = [n for n, line in enumerate(LINES, 1) if line.startswith("# PART II,")]
    told = re.findall(r"lines (\d+)-(\d+)", workshop.__doc__)
    assert told == [("1", str(banner - 2)), (str(banner - 1), str(len(LINES)))]
    assert banner - 2 <= 650


def test_no_line_is_longer_than_100_columns() -> None:
    assert [line for line in LINES if len(line) > 100] == []


def test_the_worked_examples_in_the_docstrings_are_what_the_program_does() -> None:
    result = doctest.testmod(workshop)
    assert result.attempted > 15 and result.failed == 0


def test_the_pool_gives_the_scores_of_the_definition() -> None:
    texts = ["Name the big city.", "Name the city by night.", "用SQL查询", "查询SQL语句", "Sing."]
    pool = InstructionPool()
    for text in texts:
        pool.add(text)
    for i, row in enumerate(pool.similarities(texts)):
        for j, score in enumerate(row):
            assert abs(score - rouge_l(tokenize(texts[i]), tokenize(texts[j]))) < 1e-12
