"""Talks, the test part and the seam of prompts in the files of prepare_for_finetuning.py."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.prepared import PLAIN, TALK, caller
from helpers.runs import ROOT
from hypothesis import given
from hypothesis import strategies as st

from scripts.preparing.choose import split
from scripts.preparing.formats import FORMATS

sys.path.insert(0, str(ROOT / "scripts"))


@pytest.fixture
def call(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable:
    return caller(tmp_path, capsys)


def test_turns_are_kept_in_every_format_that_can_hold_them(call: Callable) -> None:
    (row,) = call([TALK], "--format", "messages")["train"]
    assert row == TALK
    (row,) = call([TALK], "--format", "chat-completion")["train"]
    assert row["prompt"] + row["completion"] == TALK["messages"] and len(row["completion"]) == 1
    (row,) = call([TALK], "--format", "sharegpt")["train"]
    assert [turn["from"] for turn in row["conversations"]] == [
        *("system", "human", "gpt", "human", "gpt")
    ]
    made = call([TALK, PLAIN], "--format", "alpaca")
    rows = {row["instruction"]: row for row in made["train"]}
    assert rows["Which one?"]["history"] == [["What is it?", "A river."]]
    assert rows["Name a sea."] == {**PLAIN, "system": "", "history": []}
    columns = made["dataset_info"]["self_instruct"]["columns"]
    assert columns["history"] == "history" and columns["system"] == "system"


def test_what_a_format_cannot_hold_is_counted_by_name(call: Callable) -> None:
    system = {**PLAIN, "instruction": "Name a lake.", "system": "Be short."}
    bad = {"messages": [{"role": "user", "content": "a?"}]}
    found = call([TALK, PLAIN, system, bad], "--format", "prompt-completion")
    assert len(found["train"]) == 1
    for rule in ("has_history", "has_system", "last_turn_unanswered"):
        (line,) = (line for line in found["said"].splitlines() if f"- {rule} " in line)
        assert line.split()[-1] == "1"
    only = call([TALK], "--format", "prompt-completion", code=1)
    assert "is left: has_history" in only["said"]


def test_one_instruction_behind_two_histories_is_no_conflict(call: Callable) -> None:
    talks = []
    for n in "ab":
        history = [[f"question {n}", f"answer {n}"]]
        talks.append(
            {"instruction": "And why?", "input": "x", "output": f"because {n}", "history": history}
        )
    assert len(call(talks, "--format", "messages")["train"]) == 2
    same = [{**talk, "history": talks[0]["history"]} for talk in talks]
    assert "conflicting_outputs" in call(same, "--format", "messages", code=1)["said"]


def test_the_parts_of_one_talk_are_never_on_both_sides(call: Callable) -> None:
    rows = []
    for n in range(20):
        turns = [[f"Question {n}?", f"answer {n}"]]
        rows.append({"instruction": f"Question {n}?", "output": f"answer {n}"})
        rows.append({"instruction": f"More of {n % 3}?", "output": f"m {n}", "history": turns})
    found = call(rows, "--format", "messages", "--split", "0.2", "--test-split", "0.3")
    begins = {}
    for part, size in (("train", 10), ("validation", 4), ("test", 6)):
        begins[part] = {row["messages"][0]["content"] for row in found[part]}
        assert len(begins[part]) == size and len(found[part]) == 2 * size
    assert len(set.union(*begins.values())) == 20


# The test part.


def test_a_test_part_changes_nothing_of_the_validation_part(call: Callable) -> None:
    rows = [{"instruction": f"Name it {n}.", "output": f"it {n}"} for n in range(40)]
    without = call(rows, "--split", "0.1")
    found = call(rows, "--split", "0.1", "--test-split", "0.25")
    assert found["validation"] == without["validation"]
    assert [len(found[part]) for part in ("train", "validation", "test")] == [26, 4, 10]
    assert "self_instruct_test" in found["dataset_info"]
    assert {row["instruction"] for row in rows} == {
        row["instruction"] for part in ("train", "validation", "test") for row in found[part]
    }
    assert "test" not in call(rows, "--split", "0.1"), "no file of an earlier call is left"


def test_fewer_instructions_than_parts_are_one_line(call: Callable) -> None:
    rows = [{"instruction": f"Name it {n}.", "output": "it"} for n in range(2)]
    said = call(rows, "--split", "0.1", "--test-split", "0.1", code=1)["said"]
    assert "one instruction cannot be on both sides: leave out --split and --test-split" in said
    assert "--test-split must be from 0 to 0.5" in call(rows, "--test-split", "0.7", code=2)["said"]


def test_shares_of_nothing_make_no_part() -> None:
    rows = [{"instruction": "a", "input": "", "output": "b"}]
    assert [*split(rows, {"validation": 0.0, "test": 0.0}, 1)] == ["train"]


@given(st.text(min_size=1, max_size=30), st.text(max_size=20), st.text(min_size=1, max_size=30))
def test_all_texts_stand_in_prompt_and_completion(one: str, two: str, three: str) -> None:
    row = {"instruction": one, "input": two, "output": three}
    for language in ("en", "zh", ""):
        made = FORMATS["prompt-completion"].encode(row, language, 1)
        assert one in made["prompt"] and two in made["prompt"]
        assert made["completion"] in (three, " " + three)


# Flags of tokens, where no package is there.


def test_flags_of_tokens_that_miss_something_are_one_line(
    call: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "--preview is for --tokenizer" in call([PLAIN], "--preview", code=2)["said"]
    assert "--max-length is for --tokenizer" in call([PLAIN], "--max-length", "9", code=2)["said"]
    monkeypatch.setitem(sys.modules, "transformers", None)
    said = call([PLAIN], "--tokenizer", "nowhere", code=1)["said"]
    assert "--tokenizer needs a package: run" in said and "install transformers" in said
    assert not (tmp_path / "out").exists()
