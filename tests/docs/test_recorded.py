"""The recorded runs of a real model replay without a key or a network, as their page says."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from helpers.runs import ROOT, check_counts

import self_instruct
from self_instruct_workshop import STEP_FILES, Config, Task, copied_from

RECORDED = ROOT / "data" / "recorded"
PAGE = (RECORDED / "README.md").read_text(encoding="utf-8")
LANGUAGES = ("en", "zh")


def replay(language: str, work: Path) -> dict:
    """Run the command of the page in a folder of our own; return its run.json."""
    [command] = re.findall(rf"(?m)^python (self_instruct\.py .*recorded/{language}/.*)$", PAGE)
    words = shlex.split(command)[1:]
    words[words.index("--responses") + 1] = str(RECORDED / language / "responses.jsonl")
    words[words.index("--work-dir") + 1] = str(work)
    assert self_instruct.main(words) == 0
    return json.loads((work / "run.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_command_of_the_page_gives_the_counts_of_the_recorded_run(
    language: str, tmp_path: Path
) -> None:
    told = json.loads((RECORDED / language / "run.json").read_text(encoding="utf-8"))
    summary = replay(language, tmp_path / "work")
    assert summary["status"] == "complete" and not summary["undone_because"]
    assert summary["counts"] == told["counts"]
    assert sum(spent["asked_now"] for spent in summary["tokens"].values()) == 0
    assert summary["agreement"]["trusted"] and summary["agreement"]["asked"] == 16
    check_counts(tmp_path / "work", summary)


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_worked_example_is_a_row(language: str, tmp_path: Path) -> None:
    replay(language, tmp_path / "work")
    dataset = (tmp_path / "work" / STEP_FILES[3]).read_text(encoding="utf-8").splitlines()
    steps = (tmp_path / "work" / STEP_FILES[2]).read_text(encoding="utf-8").splitlines()
    flags = {row["instruction"]: row["is_classification"] for row in map(json.loads, steps)}
    config = Config(language=language, seed=1)
    for row in map(json.loads, dataset):
        task = Task("", row["instruction"], flags[row["instruction"]])
        assert not copied_from(config, task, (row["input"], row["output"]))


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_files_are_small_and_tell_nothing_of_a_machine(language: str) -> None:
    for name in ("responses.jsonl", "run.json"):
        path = RECORDED / language / name
        text = path.read_text(encoding="utf-8")
        assert path.stat().st_size < 1_000_000
        assert not re.search(r'"/(?:root|home|tmp|work|Users)\b|[A-Z]:\\\\Users|sk-\w{8}', text)
