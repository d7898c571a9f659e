"""The judge: what it asks and reads, what it keeps, and when nobody should believe it."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import unicodedata
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from itertools import combinations
from pathlib import Path

import pytest
from helpers.batch_server import BatchServer
from helpers.runs import PATIENCE, ROOT, until
from helpers.server import Server, storm
from hypothesis import given
from hypothesis import strategies as st

import self_instruct_workshop as workshop
from scripts import judge, review
from scripts.judging import asked, trust
from scripts.judging.asked import read_reply
from scripts.reporting.run import read_judge
from scripts.review import QUESTIONS

PROGRAM = ROOT / "scripts" / "judge.py"
Answer = Callable[[str, dict], str]

# --------------------------------------------------------------------------------------------------
# A dataset of sums, and judges of it.


def sums(count: int, wrong: int = 0) -> list[dict]:
    """Rows "What is 7 + 1?"; the last `wrong` ones have a wrong sum."""
    rows = []
    for n in range(count):
        off = 1 if n >= count - wrong else 0
        text = f"{n} and 1 make {n + 1 + off}."
        rows.append({"instruction": f"What is {n} + 1?", "input": "", "output": text})
    return rows


def dataset(folder: Path, rows: list[dict], name: str = "step4_final.jsonl") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text("".join(map(workshop.to_json, rows)), encoding="utf-8")
    return path


def said(valid: str = "yes", fits: str = "yes", right: str = "yes") -> str:
    reply = {"task": "It is clear what to do.", "valid_task": valid}
    reply |= {"input": "All it needs is there.", "input_fits": fits}
    reply |= {"output": f"That is my reason to say {right}.", "output_right": right}
    return json.dumps(reply)


def is_right(body: dict) -> bool:
    """Whether the sum in a question is right, which is what a good judge finds."""
    text = body["messages"][-1]["content"]
    first, total = re.search(r"What is (\d+) \+ 1\?[\s\S]*make (\d+)\.", text).groups()
    return int(first) + 1 == int(total)


def good_judge(prompt: str, body: dict) -> str:
    return said(right="yes" if is_right(body) else "no")


def call(server: Server | None, data: Path, *flags: str) -> int:
    who = ["--provider", "practice"]
    if server:
        who = ["--provider", "local", "--model", "m", "--base-url", server.url + "/v1"]
    return judge.main([*who, "--data", str(data), "--first-wait", "0.01", *flags])


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def record(data: Path) -> dict:
    return json.loads(data.with_name("judge.json").read_text(encoding="utf-8"))


def sheet(path: Path, rows: list[dict], right: Callable[[int], bool]) -> Path:
    """A person's sheet of these rows: valid, fitting, and the output right or not."""
    with path.open("w", encoding="utf-8", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["id", *QUESTIONS])
        for n, row in enumerate(rows):
            known = review.to_review(row)
            lines.writerow([known["id"], "yes", "yes", "yes" if right(n) else "no"])
    return path


# --------------------------------------------------------------------------------------------------
# Replies.

YYN = (True, True, False)
NONE = (None, None, None)
REPLIES = [
    (said(right="no"), YYN),
    (f"```json\n{said(right='no')}\n```", YYN),
    (f"Here it is:\n{said(right='no')}\nI hope this helps.", YYN),
    (f"<think>valid_task: no</think>{said(right='no')}", YYN),
    ('{"valid_task": true, "input_fits": true, "output_right": false}', YYN),
    ('{"Valid task": "Yes.", "INPUT_FITS": "**yes**", "output_right": "NO"}', YYN),
    (
        '{"valid_task": {"reason": "a", "answer": "yes"}, "input_fits": {"answer": "yes"}, '
        '"output_right": {"reason": "b", "answer": "no"}}',
        YYN,
    ),
    ('[{"valid_task": "yes"}, {"input_fits": "yes"}, {"output_right": "no"}]', YYN),
    (
        '{"task": "a", "valid_task": "yes", "input": "b", "input_fits": "yes", "outp',
        (*YYN[:2], None),
    ),
    ("valid_task: yes\ninput_fits: yes\noutput_right: no", YYN),
    ("**Valid task:** Yes\n**Input fits:** Yes\n**Output right:** No.", YYN),
    ("task: it is one\nvalid_task: yes\n- input_fits: yes\n- output_right: no", YYN),
    ("1. The task is clear. Yes\n2. No input is needed. Yes.\n3. It is 5. No", YYN),
    ("1) Yes, a task.\n2) Yes: none is needed.\n3) No — the sum is 5.", YYN),
    ("1. A task.\nAnswer: yes\n2. It fits.\nAnswer: **yes**\n3. Wrong sum.\nAnswer: no", YYN),
    ("1. 任务明确。是\n2. 不需要输入。是。\n3. 得数错了。否", YYN),
    ("1、理由：任务明确。答案：是\n2、理由：合适。答案：是\n3、理由：算错了。答案：否", YYN),
    ("有效任务：是\n输入合适：是\n输出正确：否", YYN),
    ("**任务是否有效**：是\n**输入是否合适**：是\n**输出是否正确**：不正确", YYN),
    ('{"valid_task": "是", "input_fits": "是。", "output_right": "否"}', YYN),
    ('{"valid_task": "不是", "input_fits": "对", "output_right": "不对"}', (False, True, False)),
    ('{"valid_task": "yes/no", "input_fits": "not sure", "output_right": "partly"}', NONE),
    ('{"valid_task": "yes or no", "input_fits": "yes, no", "output_right": "是否"}', NONE),
    ('{"valid_task": "", "input_fits": null, "output_right": 1}', NONE),
    ('{"output_right": "yes"} {"output_right": "no"}', NONE),
    ("output_right: yes\noutput_right: no", NONE),
    ("Yes.", NONE),
    ("是", NONE),
    ("1. Yes, but no.\n2. Perhaps\n3. 不好说", NONE),
    ("1. Yes\n2. Yes", NONE),
    ("I cannot judge this.", NONE),
    ("", NONE),
]


@pytest.mark.parametrize(("text", "answers"), REPLIES)
def test_a_reply_is_read_as_a_person_would(text: str, answers: tuple) -> None:
    found = read_reply(text, "en").answers
    assert tuple(found[question] for question in QUESTIONS) == answers


def test_the_reason_stands_beside_the_answer() -> None:
    found = read_reply(said(right="no"), "en")
    assert found.reasons["output_right"] == "That is my reason to say no."
    assert read_reply("1. Clear. Yes\n2. Fits. Yes\n3. It is 5. No", "en").reasons == {
        "valid_task": "Clear.",
        "input_fits": "Fits.",
        "output_right": "It is 5.",
    }


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_worked_example_is_read_but_its_reason_as_a_reply_says_nothing(language: str) -> None:
    shots = asked.shots_of(language)
    words = asked.words_of(language)
    assert len(shots) >= 5
    for shot in shots:
        copied = read_reply(asked.shot_reply(shot), language)
        assert copied.copied == 3 and set(copied.answers.values()) == {None}
        own = {question: ["Mine alone.", shot[question][1]] for question in QUESTIONS}
        answers = read_reply(asked.shot_reply({**shot, **own}), language).answers
        wanted = {question: shot[question][1] == words["answers"][0] for question in QUESTIONS}
        assert answers == wanted


@pytest.mark.parametrize("language", ["en", "zh"])
def test_worked_examples_are_right_rows_and_rows_that_are_wrong_in_each_way(language: str) -> None:
    yes = asked.words_of(language)["answers"][0]
    kinds = {
        tuple(shot[question][1] == yes for question in QUESTIONS)
        for shot in asked.shots_of(language)
    }
    assert {(True,) * 3, (True, True, False), (True, False, True)} <= kinds
    assert any(not valid for valid, _, _ in kinds)


def test_worked_examples_are_turns_and_the_row_is_the_last_one() -> None:
    row = {"instruction": "Add.", "input": "", "output": "2"}
    turns = asked.judge_prompt(row, "en")
    assert [turn["role"] for turn in turns[:2]] == ["user", "assistant"]
    assert turns[-1]["content"] == "Instruction: Add.\nInput: (none)\nOutput: 2"
    assert len(turns) == 2 * len(asked.shots_of("en")) + 1


PIECES = [*("yes", "no", "是", "否", "maybe", "1.", "2.", "3.", "Answer:", "：", "\n", " ")]
PIECES += ['{"valid_task":', '"', "}", "output_right", "input", ":", ",", "**", "<think>"]
replies = st.text(max_size=200) | st.lists(st.sampled_from(PIECES)).map("".join)


@given(replies)
def test_any_reply_is_read_and_without_a_yes_there_is_none(text: str) -> None:
    answers = read_reply(text, "en").answers
    assert {*answers} == {*QUESTIONS} and {*answers.values()} <= {True, False, None}
    folded = unicodedata.normalize("NFKC", text).casefold()
    if not re.search(asked.YES, folded):
        assert True not in answers.values()


# --------------------------------------------------------------------------------------------------
# What is kept.


def test_rows_are_kept_and_dropped_with_the_judge_s_reason(tmp_path: Path) -> None:
    rows = sums(30, wrong=5)
    data = dataset(tmp_path / "run", rows)
    with Server(good_judge) as server:
        assert call(server, data) == 0
        assert len(server.requests) == 50  # 30 rows and 20 planted faults
    assert read(data.with_name("step6_judged.jsonl")) == rows[:25]
    rejected = read(data.with_name("rejected.jsonl"))
    assert [{name: row[name] for name in rows[0]} for row in rejected] == rows[25:]
    assert {row["rule"] for row in rejected} == {"judge_output_wrong"}
    assert {row["evidence"] for row in rejected} == {"That is my reason to say no."}
    assert [row["stage"] for row in rejected] == ["judge"] * 5
    judged = read(data.with_name("judged.jsonl"))
    assert [row["id"] for row in judged] == [row["id"] for row in review.read_rows(data)]
    told = record(data)
    assert told["probes"] == {
        "planted": 20,
        "planted_called_wrong": 20,
        "rows": 30,
        "rows_called_wrong": 5,
        "p": pytest.approx(told["probes"]["p"]),
        "tells": True,
    }
    counts = told["counts"]
    parts = [counts[name] for name in ("kept", "undone", "not_asked", "not_decided")]
    assert counts["rows"] == sum(parts) + sum(counts["rejected"].values()) == 30
    assert told["answers"]["output_right"] == {"yes": 25, "no": 5, "unread": 0}


def test_the_run_again_takes_away_nothing_that_the_judge_said_of_the_same_rows(
    tmp_path: Path,
) -> None:
    def run(number: int) -> Path:
        folder = str(tmp_path / "run")
        workshop.run(workshop.Config(provider="practice", num_instructions=number, work_dir=folder))
        return tmp_path / "run" / "rejected.jsonl"

    rejected = run(30)
    alone = rejected.read_bytes()
    data = rejected.with_name("step4_final.jsonl")
    assert call(None, data) == 0
    with_judge = rejected.read_bytes()
    assert with_judge.startswith(alone) and with_judge.count(b'"judge"') > 0
    assert run(30).read_bytes() == with_judge
    data.unlink()
    assert run(30).read_bytes() == alone  # nobody knows whether it is the dataset that was judged
    assert call(None, data) == 0
    assert b'"judge"' not in run(40).read_bytes()


@pytest.mark.parametrize("sign", ["\u2028", "\u2029", "\x85", "\x0c", "\x1c"])
def test_a_sign_that_ends_lines_elsewhere_ends_no_row(tmp_path: Path, sign: str) -> None:
    rows = sums(30, wrong=5)
    rows[-1]["output"] += f"{sign}That is all."
    data = dataset(tmp_path / "run", rows)
    with Server(good_judge) as server:
        assert call(server, data) == 0
        assert call(server, data, "--keep", "output") == 0
    text = data.with_name("rejected.jsonl").read_text(encoding="utf-8")
    rejected = [json.loads(line) for line in text.split("\n") if line]
    assert [row["output"] for row in rejected] == [row["output"] for row in rows[25:]]
    told, judged = read_judge(data.parent)
    assert told["counts"]["kept"] == 25 and len(judged) == 30


def test_a_damaged_line_among_the_rejected_stays_and_stops_nobody(tmp_path: Path) -> None:
    data = dataset(tmp_path / "run", sums(30, wrong=5))
    path = data.with_name("rejected.jsonl")
    lines = [workshop.to_json({"stage": "filter", "rule": "refusal"}), "[1]\n", '{"stage": "ju']
    path.write_text("".join(lines), encoding="utf-8")
    with Server(good_judge) as server:
        assert call(server, data) == 0
        assert call(server, data) == 0
    written = path.read_text(encoding="utf-8")
    assert written.startswith("".join(lines) + "\n") and written.count('"judge"') == 5


def test_each_question_of_keep_has_its_rule_and_others_drop_nothing(tmp_path: Path) -> None:
    replies = {0: said(valid="no"), 1: said(fits="no"), 2: said(valid="no", right="no")}

    def picky(prompt: str, body: dict) -> str:
        number = int(re.search(r"What is (\d+)", body["messages"][-1]["content"])[1])
        if not is_right(body):
            return said(right="no")
        return replies.get(number, said())

    data = dataset(tmp_path / "run", sums(20, wrong=2))
    with Server(picky) as server:
        assert call(server, data) == 0
        rules = Counter(row["rule"] for row in read(data.with_name("rejected.jsonl")))
        assert rules == {"judge_invalid_task": 2, "judge_input_unfit": 1, "judge_output_wrong": 2}
        asked_before = len(server.requests)
        assert call(server, data, "--keep", "input") == 0
        assert len(server.requests) == asked_before  # another choice asks nothing again
    rules = Counter(row["rule"] for row in read(data.with_name("rejected.jsonl")))
    assert rules == {"judge_input_unfit": 1}
    assert len(read(data.with_name("step6_judged.jsonl"))) == 19


def test_what_cannot_be_read_is_asked_once_more_and_then_null_and_never_kept(
    tmp_path: Path,
) -> None:
    def mumbles(prompt: str, body: dict) -> str:
        last = body["messages"][-1]["content"]
        if last.startswith("This cannot be read"):
            number = int(re.search(r"What is (\d+)", body["messages"][-3]["content"])[1])
            return said() if number == 0 else "Well."
        number = int(re.search(r"What is (\d+)", last)[1])
        return "Hard to say." if number < 3 and is_right(body) else good_judge(prompt, body)

    data = dataset(tmp_path / "run", sums(20))
    with Server(mumbles) as server:
        assert call(server, data) == 0
        seconds = [
            request["body"]["messages"][-2]["content"]
            for request in server.requests
            if request["body"]["messages"][-1]["content"].startswith("This cannot be read")
        ]
    assert seconds == ["Hard to say."] * 3
    judged = read(data.with_name("judged.jsonl"))
    assert [row["output_right"] for row in judged[:3]] == [True, None, None]
    rejected = read(data.with_name("rejected.jsonl"))
    assert [(row["rule"], row["evidence"]) for row in rejected] == [
        ("judge_unread", "Hard to say.")
    ] * 2
    assert len(read(data.with_name("step6_judged.jsonl"))) == 18


def test_a_row_without_a_reply_is_undone_and_neither_kept_nor_dropped(tmp_path: Path) -> None:
    def busy(index: int, prompt: str) -> str:
        return (
            "500"
            if prompt.endswith("What is 3 + 1?\nInput: (none)\nOutput: 3 and 1 make 4.")
            else ""
        )

    data = dataset(tmp_path / "run", sums(20))
    with Server(good_judge, faults=busy) as server:
        assert call(server, data, "--max-attempts", "1", "--concurrency", "1") == 3
    counts = record(data)["counts"]
    assert (counts["kept"], counts["undone"], counts["rejected"]) == (19, 1, {})
    with Server(good_judge) as server:
        assert call(server, data) == 0
    assert record(data)["counts"]["kept"] == 20


def test_rows_that_stand_there_twice_are_asked_about_once(tmp_path: Path) -> None:
    data = dataset(tmp_path / "run", sums(15) * 2)
    with Server(good_judge) as server:
        assert call(server, data) == 0
        prompts = [request["prompt"] for request in server.requests]
    assert len(prompts) == len({*prompts}) <= 35
    assert record(data)["counts"]["kept"] == 30


# --------------------------------------------------------------------------------------------------
# Planted faults.


def test_fisher_s_test_counts_the_ways() -> None:
    """Against drawing by hand: which of 8 cards are called wrong, when 4 are planted."""
    for called in range(9):
        draws = [sum(card < 4 for card in draw) for draw in combinations(range(8), called)]
        for found in range(max(0, called - 4), min(4, called) + 1):
            share = Fraction(sum(hit >= found for hit in draws), len(draws))
            assert trust.fisher(found, 4, called - found, 4) == pytest.approx(float(share))
    assert trust.fisher(0, 0, 3, 9) == 1
    assert trust.fisher(20, 20, 40_000, 50_000) < 0.05  # large numbers, too


def test_planted_outputs_are_of_other_rows_and_wrong_for_sure(tmp_path: Path) -> None:
    labels = [
        {"instruction": f"Text {n}: is it good or bad?", "input": "", "output": "good"}
        for n in range(5)
    ]
    rows = review.read_rows(dataset(tmp_path, [*sums(10), *labels]))
    planted = trust.plant(rows, 20, 42)
    assert planted == trust.plant(rows, 20, 42) != trust.plant(rows, 20, 43)
    assert len(planted) == 15
    outputs = {row["id"]: row["output"] for row in rows}
    own = {(row["instruction"], row["output"]) for row in rows}
    for row in planted:
        assert row["output"] == outputs[row["of"]]
        assert (row["instruction"], row["output"]) not in own
        assert row["output"] not in row["instruction"]
    assert trust.plant(rows[:1], 20, 42) == trust.plant(rows, 0, 42) == []


@pytest.mark.parametrize("word", ["yes", "no"])
def test_a_judge_that_always_says_the_same_keeps_and_drops_nothing(
    tmp_path: Path, word: str, capsys: pytest.CaptureFixture
) -> None:
    data = dataset(tmp_path / "run", sums(20))
    with Server(lambda prompt, body: said(right=word)) as server:
        assert call(server, data) == 1
        said_so = capsys.readouterr().err.strip().splitlines()[-1]
        assert f"it says {word} to every output" in said_so and "--anyway" in said_so
        names = {path.name for path in data.parent.iterdir()}
        assert "step6_judged.jsonl" not in names and "rejected.jsonl" not in names
        counts = record(data)["counts"]
        assert (counts["kept"], counts["rejected"], counts["not_decided"]) == (0, {}, 20)
        assert {row["rule"] for row in read(data.with_name("judged.jsonl"))} == {None}

        # --anyway asks nothing again.
        asked_before = len(server.requests)
        assert call(server, data, "--anyway") == 0
        assert len(server.requests) == asked_before
    assert record(data)["counts"]["kept"] == (20 if word == "yes" else 0)


@pytest.mark.parametrize("word", ["yes", "no"])
def test_without_planted_faults_too_the_same_answer_everywhere_tells_nothing(
    tmp_path: Path, word: str, capsys: pytest.CaptureFixture
) -> None:
    data = dataset(tmp_path / "run", sums(6))
    with Server(lambda prompt, body: said(right=word)) as server:
        assert call(server, data, "--probes", "0") == 1
        assert f"it says {word} to every output" in capsys.readouterr().err
        assert call(server, data, "--probes", "0", "--anyway") == 0


def test_a_copied_reason_is_found_whatever_its_marks_and_capitals() -> None:
    shot = asked.shots_of("en")[0]
    reasons = {
        question: [shot[question][0].upper().rstrip(".") + " ", "yes"] for question in QUESTIONS
    }
    assert read_reply(asked.shot_reply({**shot, **reasons}), "en").copied == 3


def test_a_judge_that_nobody_can_read_keeps_and_drops_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    data = dataset(tmp_path / "run", sums(10))
    with Server(lambda prompt, body: "Hm.") as server:
        assert call(server, data) == 1
        assert len(server.requests) == 40  # each question twice
    assert "no answer about an output can be read" in capsys.readouterr().err
    assert record(data)["answers"]["output_right"] == {"yes": 0, "no": 0, "unread": 10}
    assert not data.with_name("step6_judged.jsonl").exists()


def test_a_judge_that_no_longer_tells_takes_its_rows_back(tmp_path: Path) -> None:
    data = dataset(tmp_path / "run", sums(20, wrong=1))
    earlier = {"stage": "filter", "rule": "duplicate", **sums(1)[0], "evidence": "", "score": None}
    dataset(data.parent, [earlier], "rejected.jsonl")
    with Server(good_judge) as server:
        assert call(server, data) == 0
    assert len(read(data.with_name("rejected.jsonl"))) == 2
    with Server(lambda prompt, body: said()) as server:
        assert call(server, data, "--model", "other") == 1
    assert not data.with_name("step6_judged.jsonl").exists()
    assert read(data.with_name("rejected.jsonl")) == [earlier]


def test_a_judge_that_misses_many_planted_faults_decides_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    def half_blind(prompt: str, body: dict) -> str:
        blind = sum(map(ord, body["messages"][-1]["content"])) % 2
        return said() if blind else good_judge(prompt, body)

    data = dataset(tmp_path / "run", sums(30))
    with Server(half_blind) as server:
        assert call(server, data) == 1
        probes = record(data)["probes"]
        # It could be told from chance; faults so gross must nearly all be found.
        assert 4 <= probes["planted_called_wrong"] < 16 and probes["p"] < 0.05
        assert "the judge misses " in capsys.readouterr().err
        assert not data.with_name("step6_judged.jsonl").exists()
        assert call(server, data, "--anyway") == 0


def test_a_judge_that_guesses_tells_nothing(tmp_path: Path) -> None:
    def dice(prompt: str, body: dict) -> str:
        return said(right="yes" if sum(map(ord, body["messages"][-1]["content"])) % 2 else "no")

    data = dataset(tmp_path / "run", sums(30))
    with Server(dice) as server:
        assert call(server, data) == 1
    probes = record(data)["probes"]
    assert not probes["tells"] and probes["p"] > 0.05 and 0 < probes["rows_called_wrong"] < 30


@pytest.mark.parametrize("count", [1, 12])
def test_where_no_fault_can_be_planted_the_rows_are_named_and_not_the_judge(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], count: int
) -> None:
    data = dataset(tmp_path / "run", [sums(1)[0]] * count)
    with Server(good_judge) as server:
        assert call(server, data) == 1
        said = capsys.readouterr().err
        assert "no fault could be planted" in said and "another judge" not in said
        assert not data.with_name("step6_judged.jsonl").exists()
        assert call(server, data, "--anyway") == 0


def test_where_nothing_is_kept_no_next_command_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = dataset(tmp_path / "run", sums(30))
    with Server(lambda prompt, body: "Hard to say.") as server:
        assert call(server, data, "--anyway") == 0
    out = capsys.readouterr().out
    assert "kept 0" in out and "next:" not in out and "no fault was planted" not in out


def test_without_enough_replies_nothing_is_said_of_the_judge(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    data = dataset(tmp_path / "run", sums(20))
    with Server(good_judge) as server:
        assert call(server, data, "--max-tokens-total", "5000", "--concurrency", "1") == 3
        assert 0 < len(server.requests) < 40
    assert "no reply: too little to go by" in capsys.readouterr().err
    assert not data.with_name("step6_judged.jsonl").exists()


# --------------------------------------------------------------------------------------------------
# People's sheets.


def test_a_judge_that_disagrees_with_people_is_paid_for_no_other_row(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    rows = sums(30, wrong=10)
    data = dataset(tmp_path / "run", rows)
    filled = sheet(
        tmp_path / "ana.csv", rows[10:30], lambda n: n % 2 == 0
    )  # nothing like the judge
    with Server(good_judge) as server:
        assert call(server, data, "--calibrate", str(filled)) == 1
        assert len(server.requests) == 20
    done = capsys.readouterr()
    assert "kappa" in done.out and "precision: of the judge's no" in done.out
    assert re.search(r"ana\.csv at kappa -?0\.0\d.*--anyway", done.err)
    assert not data.with_name("step6_judged.jsonl").exists()
    counts = record(data)["counts"]
    assert (counts["not_asked"], counts["not_decided"], counts["undone"]) == (10, 20, 0)
    with Server(good_judge) as server:
        assert call(server, data, "--calibrate", str(filled), "--anyway") == 0
        assert len(server.requests) == 30  # the other 10 rows, and 20 planted faults
    assert record(data)["counts"]["kept"] == 20


@pytest.mark.parametrize(
    ("off", "kappa", "warned"), [(0, 1.0, False), (4, 0.6, False), (6, 0.4, False), (8, 0.2, True)]
)
def test_a_judge_that_agrees_is_used_and_a_poor_kappa_is_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture, off: int, kappa: float, warned: bool
) -> None:
    """Of 20 rows, half of them right, the person differs on `off`: at the limits, none refuses."""
    rows = sums(40, wrong=10)
    data = dataset(tmp_path / "run", rows)
    filled = sheet(tmp_path / "ana.csv", rows[20:], lambda n: (n < 10) != (n % 10 < off / 2))
    with Server(good_judge) as server:
        assert call(server, data, "--calibrate", str(filled)) == 0
    told = record(data)["calibration"][0]
    assert (told["sheet"], told["kappa"]) == ("ana.csv", kappa)
    assert ("warning: kappa with ana.csv" in capsys.readouterr().err) == warned


def test_a_sheet_of_another_dataset_asks_nothing_and_says_how_to_make_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = dataset(tmp_path / "run", sums(10))
    filled = sheet(tmp_path / "ana.csv", sums(30)[20:], lambda n: True)
    with Server(good_judge) as server:
        assert call(server, data, "--calibrate", str(filled)) == 2
        assert not server.requests
    command = shlex.split(capsys.readouterr().err.split(" is made by  ")[1])
    subprocess.run([*command, "--out", tmp_path / "bo"], check=True, capture_output=True)
    ids = {row["id"] for row in review.read_rows(data)}
    with (tmp_path / "bo.csv").open(encoding="utf-8-sig", newline="") as file:
        assert {row["id"] for row in csv.DictReader(file)} == ids


# --------------------------------------------------------------------------------------------------
# Files, and whose they are.


@pytest.mark.parametrize(
    "name", ["judged.jsonl", "step6_judged.jsonl", "judge.json", "rejected.jsonl"]
)
def test_a_file_of_the_user_s_is_never_replaced(tmp_path: Path, name: str) -> None:
    data = dataset(tmp_path / "run", sums(10))
    data.with_name(name).write_text("mine\n", encoding="utf-8")
    with Server(good_judge) as server:
        assert call(server, data) == 2
        assert not server.requests
    assert data.with_name(name).read_text(encoding="utf-8") == "mine\n"


def test_a_dataset_is_not_judged_into_itself(tmp_path: Path) -> None:
    data = dataset(tmp_path / "run", sums(10), "step6_judged.jsonl")
    assert call(None, data) == 2
    assert len(read(data)) == 10


def test_a_kill_between_two_files_locks_nobody_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = dataset(tmp_path / "run", sums(20))
    write = workshop.write_whole

    def torn(path: Path, lines: object) -> None:
        if path.name == "step6_judged.jsonl":
            raise OSError(28, "No space left on device", str(path))
        write(path, lines)

    with Server(good_judge) as server:
        monkeypatch.setattr(workshop, "write_whole", torn)
        assert call(server, data) == 1
        monkeypatch.undo()
        asked_before = len(server.requests)
        assert call(server, data) == 0
        assert len(server.requests) == asked_before
    assert record(data)["status"] == "complete"


def test_the_rewritten_dataset_is_judged_where_it_is_not_older(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    folder = tmp_path / "run"
    first = dataset(folder, sums(12))
    second = dataset(folder, sums(11), "step5_rewritten.jsonl")
    monkeypatch.setattr(judge.Config, "work_dir", str(folder))
    assert judge.newest_data(folder) == second
    assert "step5_rewritten.jsonl is judged" in capsys.readouterr().err
    os.utime(second, (1, 1))
    assert judge.newest_data(folder) == first
    assert "is older than step4_final.jsonl" in capsys.readouterr().err

    # Where rewrite.json says what was rewritten, the times of the files do not count.
    made_of = {"data": {"file": first.name, "sha256": judge.per_row.digest_of(first)}}
    first.with_name("rewrite.json").write_text(json.dumps(made_of), encoding="utf-8")
    assert judge.newest_data(folder) == second
    dataset(folder, sums(13))
    os.utime(second, (2**31, 2**31))
    assert judge.newest_data(folder) == first
    second.unlink()
    capsys.readouterr()
    assert judge.newest_data(folder) == first and not capsys.readouterr().err


def test_a_judge_that_wrote_the_rows_is_noticed(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    data = dataset(tmp_path / "run", sums(10))
    run = {"settings": {"provider": "local", "model": "m"}, "counts": {}}
    data.with_name("run.json").write_text(json.dumps(run), encoding="utf-8")
    with Server(good_judge) as server:
        assert call(server, data) == 0
        assert "m wrote these rows, too" in capsys.readouterr().err
        assert call(server, data, "--model", "other") == 0
        assert "wrote these rows" not in capsys.readouterr().err


# --------------------------------------------------------------------------------------------------
# Asking.


def test_an_estimate_asks_nothing_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    data = dataset(tmp_path / "run", sums(30))
    with Server(good_judge) as server:
        assert call(server, data, "--estimate") == 0
        assert not server.requests
    assert "50 requests" in capsys.readouterr().out
    assert not data.with_name("judged.jsonl").exists()


def test_json_is_asked_for_where_the_server_can_and_not_where_it_refuses(tmp_path: Path) -> None:
    data = dataset(tmp_path / "run", sums(10))
    with Server(good_judge) as server:
        assert call(server, data) == 0
        shapes = [request["body"]["response_format"] for request in server.requests]
    shape = shapes[0]["json_schema"]["schema"]
    assert [*shape["properties"]] == shape["required"]
    order = ["task", "valid_task", "input", "input_fits", "output", "output_right"]
    assert shape["required"] == order  # each reason before its answer
    other = dataset(tmp_path / "other", sums(10))
    with Server(good_judge, refuse=["response_format"]) as server:
        assert call(server, other) == 0
    assert record(other)["refused_parameters"] == {"response_format": "left out"}
    assert (
        other.with_name("judged.jsonl").read_bytes() == data.with_name("judged.jsonl").read_bytes()
    )


def test_dashscope_s_own_endpoint_gets_no_shape(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DASHSCOPE_API_KEY", "sk-test")
    data = dataset(tmp_path / "run", sums(10))

    def answer(prompt: str, body: dict) -> str:
        return good_judge(prompt, body["input"])

    with Server(answer) as server:
        address = ["--provider", "dashscope", "--base-url", server.url + "/api/v1"]
        assert judge.main([*address, "--data", str(data), "--yes"]) == 0
        assert all("response_format" not in request["parameters"] for request in server.requests)


def test_a_chinese_run_is_judged_in_chinese(tmp_path: Path) -> None:
    rows = [
        {"instruction": f"写出{n}的下一个数。", "input": "", "output": f"答：{n + 1}。"}
        for n in range(20)
    ]
    data = dataset(tmp_path / "run", rows)
    run = {"settings": {"language": "zh", "model": "other"}}
    data.with_name("run.json").write_text(json.dumps(run), encoding="utf-8")

    def answer(prompt: str, body: dict) -> str:
        text = body["messages"][-1]["content"]
        first, last = re.fullmatch(
            r"指令：写出(\d+)的下一个数。\n输入：（无）\n输出：答：(\d+)。", text
        ).groups()
        assert (
            "是"
            in body["response_format"]["json_schema"]["schema"]["properties"]["valid_task"]["enum"]
        )
        yes = "是" if int(first) + 1 == int(last) else "否"
        return f"1、任务明确。答案：是\n2、不需要输入。答案：是\n3、我算过了。答案：{yes}"

    with Server(answer) as server:
        assert call(server, data) == 0
    assert read(data.with_name("step6_judged.jsonl")) == rows
    assert record(data)["probes"]["planted_called_wrong"] == 20


FILES = ("judged.jsonl", "step6_judged.jsonl", "rejected.jsonl")


def files_of(data: Path) -> list[bytes]:
    return [data.with_name(name).read_bytes() for name in FILES]


@pytest.mark.slow
def test_killed_and_with_faults_it_comes_to_the_same_bytes_and_asks_nothing_twice(
    tmp_path: Path,
) -> None:
    rows = sums(40, wrong=5)
    data = dataset(tmp_path / "whole", rows)
    with Server(good_judge) as server:
        assert call(server, data) == 0
    wanted = files_of(data)

    killed = dataset(tmp_path / "killed", rows)
    with Server(good_judge, faults=storm(0.3, 1), delay=0.02) as server:
        who = ["--provider", "local", "--model", "m", "--base-url", server.url + "/v1"]
        more = ["--first-wait", "0.01", "--max-attempts", "50", "--data", str(killed)]
        command = [sys.executable, str(PROGRAM), *who, *more]
        for posts in (10, 40):
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
            until(lambda posts=posts: len(server.requests) >= posts)
            process.send_signal(signal.SIGKILL if os.name != "nt" else signal.SIGTERM)
            process.wait(PATIENCE)
            time.sleep(0.1)
        in_journal = {row["key"] for row in whole_lines(killed.with_name("responses.jsonl"))}
        asked_by_then = len(server.requests)
        assert subprocess.run(command, stdout=subprocess.DEVNULL).returncode == 0
        journal = read(killed.with_name("responses.jsonl"))
        delivered = [request for request in server.requests[asked_by_then:] if request["delivered"]]
    assert files_of(killed) == wanted
    assert len(journal) == len({row["key"] for row in journal}) == 60
    assert 0 < len(in_journal) < 60 and len(delivered) == 60 - len(in_journal)


def whole_lines(path: Path) -> list[dict]:
    """The records of a journal whose last line may be torn."""
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_practice_model_says_that_it_is_no_judge(
    tmp_path: Path, language: str, capsys: pytest.CaptureFixture
) -> None:
    folder = tmp_path / "run"
    config = workshop.Config(
        provider="practice", work_dir=str(folder), num_instructions=30, language=language
    )
    workshop.run(config, say=lambda text: None)
    assert call(None, folder / "step4_final.jsonl") == 0
    done = capsys.readouterr()
    assert "is no judge" in done.err
    command = shlex.split(re.search(r"next: (.*)\n", done.out)[1])
    ready = subprocess.run([*command, "--output-dir", tmp_path / "out"], capture_output=True)
    assert ready.returncode == 0 and (tmp_path / "out" / "README.md").exists(), ready.stderr
    told = record(folder / "step4_final.jsonl")
    assert told["probes"]["tells"]
    # Its slips are about one in ten.
    assert (
        0 <= told["counts"]["rejected"].get("judge_output_wrong", 0) <= told["counts"]["rows"] / 3
    )
    words = {"en": "The bank has it so.", "zh": "题库里就是这样。"}
    judged = read(folder / "judged.jsonl")
    assert words[language] in {row["reasons"]["output_right"] for row in judged}


def test_the_page_shows_what_the_program_prints(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    text = (ROOT / "scripts" / "README.md").read_text(encoding="utf-8")
    shown = re.search(r"<!-- judge -->\n```bash\n.*?```\n\n```text\n(.*?)```", text, re.S)[1]
    config = workshop.Config(provider="practice", work_dir=str(tmp_path / "run"))
    workshop.run(config, say=lambda text: None)
    capsys.readouterr()
    assert call(None, tmp_path / "run" / "step4_final.jsonl") == 0
    assert capsys.readouterr().out.startswith(shown)


def test_through_batches_it_comes_to_the_same_files_at_half_the_price(tmp_path: Path) -> None:
    rows = sums(30, wrong=5)
    live = dataset(tmp_path / "live", rows)
    halved = dataset(tmp_path / "halved", rows)
    with BatchServer(good_judge, polls=1) as server:
        assert call(server, live) == 0
        server.requests.clear()
        assert call(server, halved, "--batch") == 0
        asked = [one for one in server.requests if one["path"].endswith("/chat/completions")]
        assert len(asked) == 1, "one is asked live, so that a wrong key is known at once"
        assert len(server.paid) == 49  # 30 rows and 20 planted faults, but for that one
        server.requests.clear()
        assert call(server, halved, "--batch") == 0
        assert not server.requests, "all is in the journal"
    for name in ("judged.jsonl", "step6_judged.jsonl", "rejected.jsonl"):
        assert live.with_name(name).read_bytes() == halved.with_name(name).read_bytes(), name


def test_the_practice_model_has_nothing_to_batch(tmp_path: Path) -> None:
    assert call(None, dataset(tmp_path / "run", sums(5)), "--batch") == 2
