"""Instruction backtranslation without torch: rows, templates, ratings, the command lines, and
rating over HTTP."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from argparse import Namespace
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from helpers.runs import ROOT
from helpers.server import Server

sys.path.insert(0, str(ROOT))
from scripts import (
    finetune_model,
    inverse_sft,
    self_augmentation_lima,
    self_curation,
)
from scripts.training import anchors, cards, learnt, progress, rating, shapes
from scripts.training import shared as backtranslation
from scripts.training.rating import parse_rating
from scripts.training.shared import (
    COLUMNS,
    SAMPLE,
    WEB_TAG,
    clip,
    first_turn,
    read_rows,
)
from self_instruct_workshop import DATA, UsageError, WorkshopError

SCRIPTS = (inverse_sft, self_augmentation_lima, self_curation, finetune_model)
COMMON = {
    "--model",
    "--data",
    "--out",
    "--max-length",
    "--batch-size",
    "--dtype",
    "--load-in-4bit",
    "--seed",
}
COMMON |= {"--push-to", "--public", "--sample"}


class Letters:
    """A tokenizer that takes each character for a token."""

    def __call__(
        self, text: str, add_special_tokens: bool = True, return_offsets_mapping: bool = False
    ) -> dict:
        return {"input_ids": [*text], "offset_mapping": [(i, i + 1) for i in range(len(text))]}


def save(path: Path, rows: list) -> Path:
    path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    return path


def load(path: Path) -> list:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Nine rows as step 2 writes them; their numbers say which they are."""
    rows = [
        (f"Explain the number {i}.", f"The number {i} is what follows {i - 1}. 数字{i}。")
        for i in range(9)
    ]
    whole = [
        {"id": 10 + i, "instruction": a, "output": b, "original": f"What is {i}?"}
        for i, (a, b) in enumerate(rows)
    ]
    return save(tmp_path / "self_augmented.json", whole)


# Rows


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("### Human: Hi?### Assistant: Ho.", ("Hi?", "Ho.")),
        ("### Human: Hi?### Assistant: Ho.### Human: And?### Assistant: So.", ("Hi?", "Ho.")),
        ("### Human: Hi?### Assistant: Ho.### Human: bye", ("Hi?", "Ho.")),
        ("### Human: a\nb\n### Assistant: c\n\nd\n", ("a\nb", "c\n\nd")),
        ("### Human: 你好吗？### Assistant: 很好！", ("你好吗？", "很好！")),
        (
            "### Human: what is `### x`?### Assistant: ### a heading",
            ("what is `### x`?", "### a heading"),
        ),
        ("\n### Human: Hi?### Assistant: Ho.", ("Hi?", "Ho.")),
        ("### Human: Hi?", None),
        ("### Human: Hi?### Assistant:", None),
        ("### Human: ### Assistant: Ho.", None),
        ("### Human: Hi?### Assistant: ### Human: again", None),
        ("### Assistant: Ho.", None),
        ("", None),
    ],
)
def test_the_first_turn_of_a_guanaco_text_is_found_or_none_is(text: str, wanted: Any) -> None:
    assert first_turn(text) == wanted


def test_multi_turn_rows_are_left_out_and_counted_and_the_others_keep_limas_row_number(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    turns = [["q0", "a0"], ["q1", "a1", "q", "a"], ["q2", "a2"], ["q3"], ["q4", "a4", ""]]
    path = save(tmp_path / "lima.json", [{"conversations": one, "source": "x"} for one in turns])
    rows = read_rows(path)
    assert [(row["id"], row["instruction"], row["output"]) for row in rows] == [
        (0, "q0", "a0"),
        (2, "q2", "a2"),
        (4, "q4", "a4"),
    ]
    said = capsys.readouterr().err
    assert (
        "1 rows left out: multi-turn" in said
        and "1 rows left out: without a question or an answer" in said
    )


def test_every_shape_becomes_the_same_columns_in_the_same_order(tmp_path: Path) -> None:
    shapes = [
        {"text": "### Human: q### Assistant: a"},
        {"conversations": ["q", "a"]},
        {"instruction": "q", "output": "a"},
    ]
    rows = read_rows(save(tmp_path / "rows.json", shapes))
    assert [tuple(row) for row in rows] == [COLUMNS] * 3
    assert [{**row, "id": 0} for row in rows] == [{**rows[0], "id": 0}] * 3


def test_a_row_of_ours_survives_writing_and_reading(tmp_path: Path) -> None:
    row = {
        "id": 7,
        "instruction": "问\u2028题",
        "input": "i",
        "output": "答",
        "original": "o",
        "evaluation": "e",
        "rating": 4,
    }
    backtranslation.write(tmp_path / "a.json", [row])
    assert read_rows(tmp_path / "a.json") == [row]
    (tmp_path / "a.jsonl").write_text(
        json.dumps(row, ensure_ascii=False) + "\n\n", encoding="utf-8"
    )
    assert read_rows(tmp_path / "a.jsonl") == [row]


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (None, "do the step before"),
        (b"", "holds no pair"),
        (b"[]", "holds no pair"),
        (b'{"text": "### Human: a### Assistant: b"}\n{"text": ', "line 2 is no JSON"),
        (b'[{"text": "x"},\n', "line 2 is no JSON"),
        (b"\xff\xfe", "save it as UTF-8"),
        (b'{"question": "a", "answer": "b"}', "row 0 has neither"),
        (b'["a", "b"]', "row 0 has neither"),
        (b'{"instruction": 3, "output": "b"}', "row 0 has neither"),
        (b'{"conversations": [["a", "b"]]}', "row 0 has neither"),
        (b'{"text": "only text"}', "holds no pair"),
    ],
)
def test_a_wrong_file_is_one_line_that_names_it(
    tmp_path: Path, content: bytes | None, wanted: str, capsys: pytest.CaptureFixture
) -> None:
    path = tmp_path / "data.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(WorkshopError, match=wanted) as caught:
        read_rows(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    for script in (self_augmentation_lima, self_curation):
        capsys.readouterr()
        assert (
            script.main(
                ["--data", str(path), "--base-url", "http://127.0.0.1:9/v1", "--model", "m"]
            )
            == 1
        )
        said = [
            line for line in capsys.readouterr().err.splitlines() if not line.startswith("notice")
        ]
        assert len(said) == 1 and re.search(wanted, said[0])


def test_answers_without_a_question_are_rows_where_answers_do(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text(
        '{"output": "Boil it."}\n{"output": " "}\n{"instruction": "Why?", "output": "So."}\n',
        "utf-8",
    )
    rows = read_rows(path, answers_do=True)
    assert [(row["instruction"], row["output"]) for row in rows] == [
        ("", "Boil it."),
        ("Why?", "So."),
    ]
    with pytest.raises(WorkshopError, match="row 0 has neither"):
        read_rows(path)


# Our own sample


def test_the_sample_holds_more_than_sixty_pairs_some_chinese_some_long_some_with_more_turns() -> (
    None
):
    files = {
        name: read_rows(SAMPLE / f"{name}.jsonl")
        for name in ("guanaco_train", "guanaco_test", "lima_train")
    }
    rows = [row for part in files.values() for row in part]
    assert len(rows) >= 60
    assert (
        len({row["instruction"] for row in rows})
        == len({row["output"] for row in rows})
        == len(rows)
    )
    assert sum(bool(re.search("[一-鿿]", row["instruction"])) for row in rows) >= 8
    assert sum(len(row["output"]) > 1000 for row in rows) >= 5
    lima = backtranslation.read(SAMPLE / "lima_train.jsonl")
    assert {tuple(sorted(row)) for row in lima} == {("conversations", "source")}
    assert Counter(len(row["conversations"]) > 2 for row in lima) == {False: 24, True: 6}
    assert all(set(row) == {"text"} for row in backtranslation.read(SAMPLE / "guanaco_train.jsonl"))


def test_our_examples_of_ratings_have_one_of_each_and_can_be_read_back() -> None:
    shots = self_curation.read_shots(ROOT / "data" / "rating_shots.json")
    assert sorted(shot["rating"] for shot in shots) == [1, 2, 3, 4, 5]
    for n, shot in enumerate(shots):
        prompt = self_curation.rating_prompt(shots[: n + 1], {"instruction": "q", "input": ""}, "a")
        assert (
            parse_rating(prompt.rpartition("\n\nInstruction:")[0].rpartition("Rating:")[2])
            == shot["rating"]
        )


def test_no_question_of_the_sample_can_be_told_from_its_examples_of_ratings() -> None:
    asked = {
        row["instruction"]
        for name in ("guanaco_test", "lima_train")
        for row in read_rows(SAMPLE / f"{name}.jsonl")
    }
    assert not asked & {
        shot["instruction"]
        for shot in self_curation.read_shots(ROOT / "data" / "rating_shots.json")
    }


@pytest.mark.parametrize(
    "wrong",
    [[{"instruction": "a"}], ["a"], [{**dict.fromkeys(self_curation.SHOT, "a"), "rating": 6}]],
)
def test_a_wrong_file_of_examples_is_one_line(tmp_path: Path, wrong: list) -> None:
    with pytest.raises(
        WorkshopError, match="each example needs evaluation, instruction, output, rating"
    ):
        self_curation.read_shots(save(tmp_path / "shots.json", wrong))


# Templates and clipping


def test_templates_end_in_a_line_break_and_take_any_text() -> None:
    odd = 'braces {0} {} and "quotes" %s 中文\n### Instruction:'
    for prompt in (
        backtranslation.backward_prompt(odd),
        backtranslation.forward_prompt(odd, WEB_TAG),
    ):
        assert odd in prompt and prompt.endswith(":\n")
    assert f"{odd} {WEB_TAG}\n" in backtranslation.forward_prompt(odd, WEB_TAG)
    assert f"{odd}\n\n### Answer" in backtranslation.forward_prompt(odd)


def test_a_text_is_clipped_to_whole_characters_and_not_at_all_where_it_fits() -> None:
    assert clip(Letters(), "abcdef", 6) == "abcdef" and clip(Letters(), "abcdef", 4) == "abcd"
    assert clip(Letters(), "abcdef", 0) == clip(Letters(), "abcdef", -5) == ""
    assert (
        clip(None, "中文字", 2) == "中文"
        and clip(None, "é" * 3, 1) == "é"
        and clip(None, "abc", -1) == ""
    )


@pytest.mark.parametrize("tokenizer", [None, Letters()])
def test_a_prompt_fits_with_its_room_to_spare_and_keeps_its_end(tokenizer: Any) -> None:
    for limit in (150, 200, 400):
        prompt = backtranslation.fit(tokenizer, backtranslation.backward_prompt, "长" * 1000, limit)
        assert backtranslation.size(tokenizer, prompt) <= limit and prompt.endswith(
            "### Instruction:\n"
        )
    assert backtranslation.fit(
        tokenizer, backtranslation.backward_prompt, "x", 999
    ) == backtranslation.backward_prompt("x")


def test_no_answer_is_clipped_to_nothing(
    pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(WorkshopError, match="--max-length leaves no room for an answer"):
        backtranslation.fit(Letters(), backtranslation.backward_prompt, "a", 80)
    with Server(lambda prompt, body: "Score: 4") as server:
        assert (
            curate(server, pairs, "--max-length", "900") == 1
        )  # the rubric and its examples take all of it
        with pytest.raises(SystemExit):
            augment(server, tmp_path / "a.json", "--max-length", "256")
    said = capsys.readouterr().err
    assert (
        "--max-length leaves no room" in said
        and "--max-length must be at least 64 more than --max-new-tokens 256" in said
    )


def test_backward_training_clips_the_answer_and_never_the_instruction() -> None:
    row = {"instruction": "What is it?", "input": "this", "output": "long " * 200}
    made = backtranslation.example(Letters(), row, True, 200)
    assert made["completion"] == "What is it?\n\nthis" and made["clipped"]
    assert len(made["prompt"] + made["completion"]) <= 200 and made["prompt"].endswith(
        "### Instruction:\n"
    )
    assert not backtranslation.example(Letters(), {**row, "output": "short"}, True, 200)["clipped"]


def test_forward_training_has_the_tag_in_the_prompt_and_the_whole_answer_to_learn() -> None:
    row = {"instruction": "What is it?", "input": "", "output": "long " * 200}
    made = backtranslation.example(Letters(), row, False, 200, WEB_TAG)
    assert (
        made["completion"] == row["output"]
        and made["clipped"]
        and f"it? {WEB_TAG}" in made["prompt"]
    )


@pytest.mark.parametrize("backward", [True, False])
def test_a_row_whose_instruction_alone_takes_more_than_half_is_none(backward: bool) -> None:
    row = {"instruction": "x" * 101, "input": "", "output": "y"}
    assert backtranslation.example(Letters(), row, backward, 200) is None
    assert backtranslation.example(Letters(), {**row, "instruction": "x" * 100}, backward, 200)


# Ratings


RATED = [
    ("It is fine.\nScore: 4", 4),
    ("**Score: 4**", 4),
    ("**Score:** 4", 4),
    ("Score: 4/5", 4),
    ("Score: 4 / 5.", 4),
    ("Score: 4 out of 5", 4),
    ("I give this a score of 3 out of 5.", 3),
    ("Score: 4.", 4),
    ("score - 4", 4),
    ("SCORE 2", 2),
    ("Score: <4>", 4),
    ("<score>5</score>", 5),
    ("Score: [[5]]", 5),
    ("Score (1-5): 3", 3),
    ("Score: 4.0", 4),
    ("Score:\n\n4", 4),
    ('{"reason": "good", "score": 5}', 5),
    ("Final rating: 2", 2),
    ("评分：4分", 4),
    ("理由充分。\n得分：５", 5),
    ("分数为 3", 3),
    ("To get Score: 5 it needs sources.\nScore: 3", 3),
    ("Score: 5\n\nInstruction:\nnext\n\nRating:\nScore: 1", 5),
    ("It scores 3 goals. Score: 2", 2),
    ("1. clear 2. short 3. correct", None),
    ("It lists 3 ways and 2 tips", None),
    ("Score: 10", None),
    ("Score: 45", None),
    ("Score: 8", None),
    ("Score: 0", None),
    ("Score: 4.5", None),
    ("Score: 4,5", None),
    ("Score: 4-5", None),
    ("Score: 3 or 4", None),
    ("Score: 4/10", None),
    ("Score: **4**/10", None),
    ("Score: 4 (out of 10)", None),
    ("Score: **4** / 5", 4),
    ("Score (out of 5): 4", 4),
    ("打分：4", 4),
    ("Score: 4\n- 2 slips", 4),
    ("Score: 8 out of 10", None),
    ("Score: 3. No: Score: 9", None),
    ("Score: four", None),
    ("Score: N/A, 3 problems", None),
    ("Score:", None),
    ("the underscore 4", None),
    ("4/5", None),
    ("", None),
    # A line that begins with "Score" counts, and its first number.
    ("Score: 4. It would have been a 5 if it had sources.", 4),
    ("Score: 4. A score of 5 would need sources.", 4),
    ("Score: 4\nA score of 5 would need sources.", 4),
    ("Score: 4\nI would have given a rating of 5 with sources.", 4),
    ("Score: 3\nExplanation: on this scale a rating of 4 means little to improve.", 3),
    ("Score: 2/5 (the game ended with a score of 3-1)", 2),
    ("Score: 4 because it misses the score of 2 to 1 in the final.", 4),
    ("The score is 4. To get a score of 5, add sources.", 4),
    ("评分:4分，如果有例子可以评分5分", 4),
    ("评分：4，要得5分需要更多例子。", 4),
    ("score: 4\nreason: score: 5 needs more", 4),
    ("Score: 4, 5 would need sources", 4),
    ("Score: 4\n\nScore:", 4),
    ("- Score: 4\n- Reason: 3 of 5 points", 4),
    # A remark behind the number is no scale.
    ("Score: 3 - 2 slips in the text", 3),
    ("Score: 4 – 2 of 3 questions answered", 4),
    ("Score: 4 points out of 5", 4),
    ("Score: 4 out of five", 4),
    # Scales that do not end at 5.
    ("Score: 4 out of ten", None),
    ("Score: 4 points out of 10", None),
    ("Score: 4 on a scale of 1 to 10", None),
    ("Score: 4 (on a scale of 1 to 5)", 4),
    ("Score (1-10): 4", None),
    ("Score on a scale of 1 to 10: 4", None),
    ("Score: 80%", None),
    ("Score: 4%", None),
    ("Score: -1", None),
    ("得分：8/10", None),
    # Other words around the number.
    ("Score for this answer: 4", 4),
    ("Score (from 1 to 5): 4", 4),
    ("Score on a scale of 1 to 5: 4", 4),
    ("> **Final Score:** 4", 4),
    ("Overall score: 4/5", 4),
    ("1. Reason: fine\n2. Score: 4", 4),
    ("Grade: 4", 4),
    ("I would rate this answer 4 out of 5.", 4),
    ("I'd rate it a 4.", 4),
    ("I would rate this a 5 if it had sources.", None),
    ("A score of 5 would need sources. I rate this answer 3.", 3),
    ("最终评分：4（满分5分）", 4),
    ("我给这个回答打4分。", 4),
    ("我给它 3 分", 3),
]


def test_a_rating_is_the_last_whole_score_from_1_to_5_or_none() -> None:
    assert [(reply, parse_rating(reply)) for reply, _ in RATED] == RATED


def test_a_long_reply_without_a_score_is_read_at_once() -> None:
    long = ["score: " * 100_000, "Score: " + "1" * 300_000 + "x", "score " + ": " * 300_000]
    long += ["score\n" * 50_000, "the " * 100_000, "I give it " * 50_000, "给出" * 100_000]
    for reply in long:
        assert parse_rating(reply) is None


# Is the reason the rater's own?

SHOTS = [
    {"instruction": "a", "output": "b", "rating": 5,
     "evaluation": "It does what was asked. Nothing is missing."},
    {"instruction": "c", "output": "d", "evaluation": "原因和办法都说到了，语气像一位助手。",
     "rating": 4},
]  # fmt: skip


@pytest.mark.parametrize(
    ("reply", "copied"),
    [
        ("It does what was asked. Nothing is missing.\nScore: 5", True),
        ("it does what was  asked; nothing is missing!\n\n**Score:** 3", True),
        ("Reason: It does what was asked. Nothing is missing. Score: 5", True),
        ("Nothing is missing.\nScore: 5", True),
        ("原因和办法都说到了, 语气像一位助手。\n评分：4", True),
        ("Score: 4\nIt does what was asked. Nothing is missing.", True),
        ("It does what was asked. Nothing is missing, but the dates are wrong.\nScore: 3", False),
        ("The dates are wrong.\nScore: 2", False),
        ("Score: 4", False),
        ("", False),
    ],
)
def test_a_reason_is_copied_where_all_its_sentences_stand_in_the_examples(
    reply: str, copied: bool
) -> None:
    assert rating.is_copied(reply, SHOTS) is copied


def test_rouge_l_sees_chinese_and_gives_nothing_for_nothing() -> None:
    assert inverse_sft.rouge_l("解释什么是光合作用", "解释什么是光合作用") == 1.0
    assert inverse_sft.rouge_l("a b c d", "a b x y") == 0.5
    assert inverse_sft.rouge_l("", "") == inverse_sft.rouge_l("...", "!") == 0.0


# The command line


# No flag takes a login; these are about tokens of text.
LENGTHS_AND_LIMITS = {"--max-new-tokens", "--tokens-per-minute", "--max-tokens-total"}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__.split(".")[-1])
def test_help_needs_no_torch_and_names_the_flags_that_all_share(
    script: Any, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("torch", "transformers", "trl", "peft", "datasets"):
        monkeypatch.setitem(sys.modules, package, None)  # importing it fails
    with pytest.raises(SystemExit) as left:
        script.main(["--help"])
    named = set(re.findall(r"--[a-z][\w-]*", capsys.readouterr().out))
    assert (
        left.value.code == 0
        and named >= COMMON
        and not any("token" in flag for flag in named - LENGTHS_AND_LIMITS)
    )
    if script in (inverse_sft, finetune_model):
        assert named >= {"--lora-r", "--lr", "--epochs"}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__.split(".")[-1])
def test_a_flag_that_cannot_be_used_is_exit_2(script: Any) -> None:
    for wrong in (
        ["--max-length", "12"],
        ["--batch-size", "0"],
        ["--dtype", "int3"],
        ["--hf-token", "x"],
    ):
        with pytest.raises(SystemExit) as left:
            script.main(wrong)
        assert left.value.code == 2


def test_a_folder_is_named_in_full_and_a_servers_model_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")  # stays as it is
    (tmp_path / "base").mkdir()
    monkeypatch.chdir(tmp_path)
    for more in ([], ["--base-url", "http://127.0.0.1:9/v1"]):
        parser = argparse.ArgumentParser()
        add = backtranslation.add_flags(parser, "the/default", Path("in.json"), Path("out.json"), 4)
        add("--base-url", default="")
        for model in (["--model", "base"], ["--model", "org/name"], []):
            backtranslation.main(
                parser, model + more, {}, lambda options: seen.append(options.model)
            )
    assert seen == [str(tmp_path / "base"), "org/name", "the/default", "base", "org/name", ""]
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3"


def test_the_sample_works_in_one_thread_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for given, flags, wanted in (("", ["--sample"], "1"), ("3", ["--sample"], "3"), ("", [], None)):
        monkeypatch.setenv("OMP_NUM_THREADS", given)  # is put back after the test
        if not given:
            monkeypatch.delenv("OMP_NUM_THREADS")
        parser = argparse.ArgumentParser()
        backtranslation.add_flags(parser, "the/default", Path("in.json"), Path("out.json"), 4)
        assert backtranslation.main(parser, flags, {}, lambda options: 0) == 0
        assert os.environ.get("OMP_NUM_THREADS") == wanted


def test_the_first_of_several_gpus_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert self_curation.main(["--data", "nowhere.json"]) == 1
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"


def test_missing_packages_are_one_line_that_says_what_to_install(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("torch", "transformers"):
        monkeypatch.setitem(sys.modules, package, None)
    data = [
        "--data",
        str(SAMPLE / "guanaco_train.jsonl"),
        "--eval-data",
        str(SAMPLE / "guanaco_test.jsonl"),
    ]
    backtranslation.load_tokenizer.cache_clear()
    assert inverse_sft.main([*data, "--out", str(tmp_path / "out")]) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    said = [line for line in lines if not line.startswith("notice")]
    assert len(said) == 1 and re.search(
        r"pip install -r \S*scripts/requirements-train.txt", said[0]
    )


# Rating over HTTP


def curate(server: Server, pairs: Path, *more: str) -> int:
    """Step 3 without planted pairs, which takes ratings that are all the same."""
    return curate_strictly(server, pairs, "--probes", "0", "--anyway", *more)


def curate_strictly(server: Server, pairs: Path, *more: str) -> int:
    where = [
        "--base-url",
        server.url + "/v1",
        "--data",
        str(pairs),
        "--out",
        str(pairs.parent / "curated.json"),
    ]
    return self_curation.main([*where, *more])


def number_in(prompt: str) -> int:
    """Which of the nine pairs a prompt is about."""
    return int(re.findall(r"Explain the number (\d)", prompt)[-1])


def test_pairs_are_rated_in_order_and_only_good_ones_are_kept(
    pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    faults = ["429", "", "500", "", "cut"]
    with Server(
        lambda prompt, body: f"Because.\nScore: {number_in(prompt) % 5 + 1}", faults=faults
    ) as server:
        assert curate(server, pairs) == 0
    every, kept = load(tmp_path / "curated_all_evaluated.json"), load(tmp_path / "curated.json")
    assert [row["id"] for row in every] == [*range(10, 19)]
    assert [row["rating"] for row in every] == [1, 2, 3, 4, 5, 1, 2, 3, 4]
    assert [row["id"] for row in kept] == [13, 14, 18] and kept == [
        row for row in every if row["rating"] >= 4
    ]
    assert all(tuple(row) == COLUMNS and row["evaluation"].startswith("Because.") for row in every)
    assert kept[0]["original"] == "What is 3?"
    said = capsys.readouterr().out
    assert (
        re.search(r"  4 +2  #", said)
        and "unreadable, twice: 0" in said
        and "3 of 9 pairs kept" in said
    )
    assert said.count("kept, ") >= 3 and said.count("dropped, ") == 5


def test_the_prompt_is_a_chat_of_rubric_examples_and_the_pair_asked_at_temperature_0(
    pairs: Path,
) -> None:
    with Server(lambda prompt, body: "Score: 4") as server:
        curate(server, pairs, "--model", "judge")
    request = server.requests[0]
    assert (
        request["wire"] == "chat"
        and [turn["role"] for turn in request["body"]["messages"]]
        == ["user", "assistant"] * 5 + ["user"]
        and request["body"]["model"] == "judge"
    )
    assert request["body"]["temperature"] == 0 and request["prompt"].startswith(
        self_curation.RUBRIC
    )
    assert len(re.findall(r"^Score: \d$", request["prompt"], re.M)) == 5 and request[
        "prompt"
    ].endswith("Rating:\n")


def test_an_unreadable_rating_is_asked_once_more_warmer_and_then_null_and_never_kept(
    pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    def answer(prompt: str, body: dict) -> str:
        odd = number_in(prompt) in (2, 5)
        return (
            "no idea" if odd and (number_in(prompt) == 5 or not body["temperature"]) else "Score: 5"
        )

    with Server(answer) as server:
        assert curate(server, pairs, "--threshold", "1") == 0
    asked = Counter(
        (number_in(one["prompt"]), one["body"]["temperature"])
        for one in server.requests
        if one["prompt"]
    )
    assert asked == {**{(i, 0.0): 1 for i in range(9)}, (2, 0.7): 1, (5, 0.7): 1}
    every = load(tmp_path / "curated_all_evaluated.json")
    assert [row["rating"] for row in every] == [5, 5, 5, 5, 5, None, 5, 5, 5] and every[5][
        "evaluation"
    ] == "no idea"
    assert 15 not in [row["id"] for row in load(tmp_path / "curated.json")]
    assert "unreadable, twice: 1" in capsys.readouterr().out


def test_a_rating_is_asked_and_paid_for_once(pairs: Path, tmp_path: Path) -> None:
    with Server(lambda prompt, body: "odd" if number_in(prompt) == 1 else "Score: 4") as server:
        assert curate(server, pairs) == 0
        first, asked = (
            (tmp_path / "curated.json").read_bytes(),
            sum(one["method"] == "POST" for one in server.requests),
        )
        (tmp_path / "curated.json").unlink()
        assert curate(server, pairs) == 0 and curate(server, pairs, "--threshold", "3") == 0
        assert sum(one["method"] == "POST" for one in server.requests) == asked == 10
    assert (tmp_path / "curated.json").read_bytes() == first


def test_a_curation_that_broke_off_asks_only_for_what_it_lacks(pairs: Path, tmp_path: Path) -> None:
    with Server(lambda prompt, body: "Score: 4", faults=[*[""] * 4, "404"]) as server:
        assert curate(server, pairs, "--batch-size", "1", "--model", "m") == 1
    assert not (tmp_path / "curated.json").exists()
    with Server(lambda prompt, body: "Score: 4") as again:
        assert curate(again, pairs, "--batch-size", "1", "--model", "m") == 0
    assert len(again.requests) == 5 and len(load(tmp_path / "curated.json")) == 9


def test_pairs_without_a_reply_are_absent_and_exit_3_and_the_next_call_asks_for_them(
    pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    with Server(
        lambda prompt, body: "Score: 4", faults=lambda n, p: "filter" if number_in(p) == 3 else ""
    ) as server:
        assert curate(server, pairs) == 3
    assert "1 without a reply" in capsys.readouterr().err
    assert [row["id"] for row in load(tmp_path / "curated_all_evaluated.json")] == [
        10,
        11,
        12,
        14,
        15,
        16,
        17,
        18,
    ]


def test_nothing_kept_is_a_sentence_and_all_ratings_are_on_disk(
    pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    with Server(lambda prompt, body: "Score: 2") as server:
        assert curate(server, pairs) == 1
    said = capsys.readouterr().err
    assert "nothing was rated 4 or better: lower --threshold" in said and "Traceback" not in said
    assert (
        len(load(tmp_path / "curated_all_evaluated.json")) == 9
        and load(tmp_path / "curated.json") == []
    )
    arguments = ["--data", str(tmp_path / "curated.json"), "--out", str(tmp_path / "final")]
    assert finetune_model.main(arguments) == 1
    assert "holds no pair" in capsys.readouterr().err


def test_dashscope_rates_too_by_its_own_wire(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DASHSCOPE_API_KEY", "sk-test")
    with Server(lambda prompt, body: "理由。\n评分：5", key="sk-test") as server:
        monkeypatch.setenv("DASHSCOPE_HTTP_BASE_URL", server.url + "/api/v1")
        out = ["--data", str(pairs), "--out", str(tmp_path / "c.json")]
        assert self_curation.main(["--provider", "dashscope", "--anyway", *out]) == 0
    assert len(load(tmp_path / "c.json")) == 9
    assert {one["wire"] for one in server.requests} == {"dashscope"}
    assert {one["body"]["model"] for one in server.requests} == {"qwen-plus"}


def test_a_provider_without_its_key_is_one_line(
    pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = ["--data", str(pairs), "--out", str(tmp_path / "c.json")]
    assert self_curation.main(["--provider", "openai", *out]) == 1
    assert "OPENAI_API_KEY is not set" in capsys.readouterr().err.strip().splitlines()[-1]


def test_an_overlong_answer_is_clipped_for_the_rater_and_counted(
    pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    rows = load(pairs)
    rows[4]["output"] += "长" * 9000
    with Server(lambda prompt, body: "Score: 4") as server:
        curate(server, save(pairs, rows))
    assert "9 answers in prompts; 1 clipped" in capsys.readouterr().out
    assert max(len(one["prompt"].encode()) for one in server.requests) <= 3 * (4096 - 256)
    assert (
        load(tmp_path / "curated.json")[4]["output"] == rows[4]["output"]
    )  # the file keeps all of it


def test_control_characters_of_a_model_are_not_printed(
    pairs: Path, capsys: pytest.CaptureFixture
) -> None:
    with Server(lambda prompt, body: "\x1b[31mred\x07\nScore: 5") as server:
        curate(server, pairs)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", capsys.readouterr().out)


def test_many_pairs_are_reported_on(capsys: pytest.CaptureFixture) -> None:
    rows = [
        {"id": i, "instruction": "a", "output": "b", "evaluation": "c", "rating": i % 5 + 1}
        for i in range(40_000)
    ]
    self_curation.report(Namespace(threshold=4), rows, [row for row in rows if row["rating"] >= 4])
    assert capsys.readouterr().out.count("dropped, ") == 5


# What it may cost


def test_a_server_is_asked_within_limits_and_after_an_estimate(
    pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    with Server(lambda prompt, body: "Because.\nScore: 4") as server:
        named = ["--model", "judge", "--batch-size", "1"]
        assert curate(server, pairs, *named, "--estimate") == 0
        said = capsys.readouterr().out
        assert "estimate for judge: 9 requests" in said and not server.requests
        assert not (tmp_path / "curated.json").exists()

        # The limit is for what is sent: some pairs are rated, and none is sent above it.
        whole = 9 * (len(server_prompt(pairs)) + 256)
        assert curate(server, pairs, *named, f"--max-tokens-total={whole // 5}") in (1, 3)
        paid = len(server.requests)
        assert 0 < paid < 9
        assert "could pass --max-tokens-total" in capsys.readouterr().err

        # A higher limit goes on.
        assert curate(server, pairs, *named, "--max-tokens-total=1000000") == 0
        assert len(server.requests) == 9


def server_prompt(pairs: Path) -> str:
    """A prompt about as long as those of the nine pairs."""
    shots = self_curation.read_shots(DATA / "rating_shots.json")
    row = {"input": "", **load(pairs)[0]}
    return self_curation.rating_prompt(shots, row, row["output"])


# Instructions from a server that has the backward model


def augment(server: Server, out: Path, *more: str) -> int:
    where = [
        "--base-url",
        server.url + "/v1",
        "--model",
        "backward",
        "--data",
        str(SAMPLE / "lima_train.jsonl"),
    ]
    return self_augmentation_lima.main([*where, "--out", str(out), *more])


def test_instructions_are_drawn_with_their_row_and_question_from_completions_of_the_one_template(
    tmp_path: Path,
) -> None:
    with Server(lambda prompt, body: f" About {len(prompt)} {prompt[60:70]!r}\n") as server:
        assert augment(server, tmp_path / "a.json", "--count", "10") == 0
    lima, rows = backtranslation.read(SAMPLE / "lima_train.jsonl"), load(tmp_path / "a.json")
    assert len(rows) == 10 and all(tuple(row) == COLUMNS for row in rows)
    for row in rows:
        assert lima[row["id"]]["conversations"] == [row["original"], row["output"]]
        prompt = backtranslation.backward_prompt(row["output"])
        assert row["instruction"] == f"About {len(prompt)} {prompt[60:70]!r}"
    assert {one["wire"] for one in server.requests} == {"completion"}
    assert {(one["body"]["temperature"], one["body"]["top_p"]) for one in server.requests} == {
        (0.7, 0.9)
    }


def test_a_written_instruction_stands_alone_and_the_question_keeps_its_input(
    tmp_path: Path,
) -> None:
    data = save(tmp_path / "d.json", [{"instruction": "Add up.", "input": "1 2", "output": "3"}])
    with Server(lambda prompt, body: "What is 1 + 2?") as server:
        assert augment(server, tmp_path / "a.json", "--data", str(data)) == 0
    row = load(tmp_path / "a.json")[0]
    assert (row["instruction"], row["input"], row["original"]) == (
        "What is 1 + 2?",
        "",
        "Add up.\n\n1 2",
    )


def test_outputs_that_differ_after_a_dot_have_journals_of_their_own() -> None:
    names = [
        backtranslation.replies_of(Namespace(out=Path(name))).name
        for name in ("out/m2.5", "out/m2.7", "a.json")
    ]
    assert names == ["m2.5_replies", "m2.7_replies", "a_replies"]


def test_the_same_seed_draws_the_same_rows_and_another_seed_others(tmp_path: Path) -> None:
    drawn = []
    with Server(lambda prompt, body: "An instruction") as server:
        for seed in ("1", "1", "2"):
            assert augment(server, tmp_path / "a.json", "--count", "10", "--seed", seed) == 0
            drawn.append([row["id"] for row in load(tmp_path / "a.json")])
    assert drawn[0] == drawn[1] != drawn[2] and len(server.requests) == 20


def test_empty_duplicate_copied_and_overlong_instructions_are_counted_and_only_empty_ones_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    said = iter(
        [
            "",
            " ",
            "Twice",
            "TWICE",
            "long " * 170,
            "COPY",
            "Fine?",
            *(f"Number {i}" for i in range(20)),
        ]
    )

    def answer(prompt: str, body: dict) -> tuple[str, str]:
        text = next(said)
        return (prompt.split("### Answer:\n")[1][:25].upper() if text == "COPY" else text), "stop"

    with Server(answer) as server:
        assert (
            augment(server, tmp_path / "a.json", "--batch-size", "1", "--max-new-tokens", "999")
            == 0
        )
    out = capsys.readouterr().out
    for wanted in (
        "24 instructions",
        "2 empty",
        "2 duplicate",
        "1 copied from the answer",
        "1 over 800 characters",
    ):
        assert wanted in out
    rows = load(tmp_path / "a.json")
    assert (
        len(rows) == 22 and all(row["instruction"] for row in rows) and out.count("  asked ") == 5
    )


def test_only_empty_instructions_are_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    with Server(lambda prompt, body: "") as server:
        assert augment(server, tmp_path / "a.json") == 1
    assert (
        "wrote no instruction at all" in capsys.readouterr().err
        and not (tmp_path / "a.json").exists()
    )


def test_a_server_that_is_not_there_is_one_line(
    pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    with Server(lambda prompt, body: "") as server:
        pass
    assert curate(server, pairs) == 1
    assert "lists no model" in capsys.readouterr().err.strip().splitlines()[-1]
    assert not (tmp_path / "curated.json").exists()


# What is judged


def test_questions_shown_at_the_end_share_no_question_and_no_answer_with_the_training() -> None:
    options = Namespace(prompts=SAMPLE / "lima_train.jsonl")
    rows = read_rows(SAMPLE / "lima_train.jsonl")
    used = [
        {**rows[0], "instruction": "by a model", "original": rows[0]["instruction"]},
        {**rows[1], "original": ""},
    ]
    used.append({**rows[2], "instruction": "other", "original": ""})
    assert [row["id"] for row in finetune_model.not_trained_on(options, used)] == [
        row["id"] for row in rows[3:]
    ]


def test_the_score_is_the_mean_of_rouge_l_and_the_share_of_copies(
    capsys: pytest.CaptureFixture,
) -> None:
    rows = [{"instruction": "a b", "input": "c d"}, {"instruction": "解释一下", "input": ""}]
    assert inverse_sft.score("held out", rows, ["a b x y", "解释一下"]) == (0.75, 0.5)
    assert "held out: 2 rows, ROUGE-L 0.750, exact 0.500" in capsys.readouterr().out
    # The text that is learnt holds the input.
    assert inverse_sft.score("held out", rows[:1], ["a b\n\nc d"]) == (1.0, 1.0)


def test_push_to_uploads_the_result_and_its_card_and_nothing_beside_it(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, dict]] = []

    class Hub:
        def __getattr__(self, name: str) -> Any:
            return lambda **how: calls.append((name, how))

    monkeypatch.setitem(sys.modules, "huggingface_hub", Namespace(HfApi=Hub))
    with Server(lambda prompt, body: "Score: 4") as server:
        assert curate(server, pairs, "--push-to", "me/pairs") == 0
    assert calls.pop(0)[0] == "repo_exists"
    assert [name for name, _ in calls] == ["create_repo", "upload_folder", "upload_file"]
    assert calls[0][1]["private"] is True
    assert all(how["repo_id"] == "me/pairs" and how["repo_type"] == "dataset" for _, how in calls)
    assert calls[1][1]["allow_patterns"] == ["curated.json", "curated_all_evaluated.json"]
    assert calls[2][1]["path_in_repo"] == "README.md" and calls[2][1]["path_or_fileobj"].startswith(
        b'---\nconfigs:\n- config_name: curated\n  data_files: "curated.json"\n  default: true\n'
    )


# Do the ratings tell anything?


def planted_in(prompt: str) -> bool:
    """Whether the last pair of a prompt has the answer of another number."""
    asked, answered = re.findall(r"Explain the number (\d)\.|The number (\d) is what", prompt)[-2:]
    return asked[0] != answered[1]


def test_a_rater_that_turns_planted_pairs_away_is_believed_and_none_of_them_is_a_row(
    pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    def honest(prompt: str, body: dict) -> str:
        return "Off the topic.\nScore: 1" if planted_in(prompt) else "It fits.\nScore: 5"

    with Server(honest) as server:
        assert curate_strictly(server, pairs) == 0
        asked = [one["prompt"] for one in server.requests if one["method"] == "POST"]
    assert Counter(map(planted_in, asked)) == {True: 9, False: 9}
    # They stand anywhere among the others.
    assert len({*map(planted_in, asked[:9])}) == 2
    every, kept = load(tmp_path / "curated_all_evaluated.json"), load(tmp_path / "curated.json")
    assert [row["id"] for row in every] == [*range(10, 19)] == [row["id"] for row in kept]
    assert all(tuple(row) == COLUMNS for row in every + kept)
    said = capsys.readouterr().out
    assert "rated below 4: 9 of 9" in said and "and 0 of 9" in said
    about = cards.about(tmp_path / "curated.json")
    assert about["trial"]["planted"] == {"1": 9} and about["trial"]["doubt"] == ""


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        (lambda prompt, body: "Good.\nScore: 4", "tell nothing: all 18 are 4"),
        (
            lambda prompt, body: f"So so.\nScore: {4 if number_in(prompt) % 2 else 5}",
            "tell nothing: 9 of 9 planted pairs are rated 4 or better",
        ),
        (
            lambda prompt, body: f"So so.\nScore: {2 + (number_in(prompt) == 3)}",
            "do not tell planted pairs from the others (Fisher's p 1)",
        ),
        (lambda prompt, body: "no idea", "no rating can be read"),
    ],
    ids=["all the same", "all kept", "no difference", "unreadable"],
)
def test_ratings_that_tell_nothing_keep_and_drop_nothing_unless_anyway(
    answer: Any, wanted: str, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    with Server(answer) as server:
        assert curate_strictly(server, pairs) == 1
        said = capsys.readouterr().err.splitlines()[-1]
        assert wanted in said and said.endswith("use a better model, or --anyway")
        assert not (tmp_path / "curated.json").exists()
        assert len(load(tmp_path / "curated_all_evaluated.json")) == 9

        # An earlier result stays, and is named as what it is.
        (tmp_path / "curated.json").write_text("[]", encoding="utf-8")
        assert curate_strictly(server, pairs) == 1
        assert "the one that is there is of another run" in capsys.readouterr().err
        assert (tmp_path / "curated.json").read_text(encoding="utf-8") == "[]"

        curate_strictly(server, pairs, "--anyway", "--threshold", "2")
        assert "--anyway keeps and drops by them" in capsys.readouterr().err
    assert len(load(tmp_path / "curated.json")) == (0 if "can be read" in wanted else 9)


def test_without_all_replies_doubtful_ratings_are_not_decided_and_the_next_call_asks(
    pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    with Server(
        lambda prompt, body: "Score: 4", faults=lambda n, p: "filter" if number_in(p) == 3 else ""
    ) as server:
        assert curate_strictly(server, pairs) == 3
    assert "not decided: the ratings tell nothing" in capsys.readouterr().err
    assert not (tmp_path / "curated.json").exists()


def test_copied_reasons_are_not_read_whatever_the_number(
    pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    shot = self_curation.read_shots(DATA / "rating_shots.json")[0]
    with Server(lambda prompt, body: f"{shot['evaluation']}\nScore: 5") as server:
        assert curate(server, pairs) == 1
    assert {row["rating"] for row in load(tmp_path / "curated_all_evaluated.json")} == {None}
    assert "9 of 9 reasons are a worked example's word for word" in capsys.readouterr().err


def test_other_seeds_plant_other_pairs_and_the_same_seed_the_same(pairs: Path) -> None:
    rows = read_rows(pairs)
    planted = [rating.plant(rows, 4, seed) for seed in (1, 1, 2)]
    assert planted[0] == planted[1] != planted[2] and len(planted[0]) == 4
    own = {(row["instruction"], row["output"]) for row in rows}
    assert not own & {(row["instruction"], row["output"]) for row in planted[0]}


def test_another_batch_size_asks_a_server_nothing_again(pairs: Path) -> None:
    with Server(lambda prompt, body: "Score: 4") as server:
        for size in ("1", "4", "9"):
            assert curate(server, pairs, "--batch-size", size, "--model", "m") == 0
        assert sum(one["method"] == "POST" for one in server.requests) == 9


def test_how_requests_go_can_be_set_as_for_a_run(pairs: Path, tmp_path: Path) -> None:
    options = Namespace(out=tmp_path / "a.json", batch_size=8, provider="", base_url="", model="m")
    assert backtranslation.server_config(options, chat=True).concurrency == 8
    slow = Namespace(**vars(options), concurrency=1, request_timeout=300.0)
    config = backtranslation.server_config(slow, chat=True)
    assert (config.concurrency, config.request_timeout) == (1, 300.0)
    with Server(lambda prompt, body: "Score: 4") as server:
        assert curate(server, pairs, "--concurrency", "1", "--request-timeout", "300") == 0


# Whether a backward model learnt


def table_of(trained: list[str], untrained: list[str]) -> anchors.Table:
    asked = [f"What is the number {i}?" for i in range(len(trained))]
    table = anchors.Table(asked)
    table.add(anchors.TRAINED, trained)
    table.add(anchors.UNTRAINED, untrained)
    table.add(anchors.COPY, ["It is a number, such as others."] * len(asked))
    return table


def test_a_model_above_all_anchors_learnt_and_one_below_is_said_to_be_untold() -> None:
    good = [f"What is the number {i}?" for i in range(24)]
    bad = ["Write an essay."] * 24
    assert table_of(good, bad).sentence() == (
        "it learnt: it is above untrained, a copy of the answer by more than chance"
    )
    same = table_of(bad, bad)
    assert not same.learnt and "cannot be told from the untrained model" in same.sentence()
    assert not table_of(bad, good).learnt
    # Above the untrained model, but not above a copy.
    copies = ["It is a number, such as others."] * 24
    assert "but not above a copy of the answer" in table_of(copies, bad).sentence()
    assert "12 rows are few" in table_of(good[:12], bad[:12]).sentence()
    # One row that went up is no proof.
    few = table_of(good[:1], bad[:1])
    assert not few.learnt and "so few rows do not tell" in few.sentence()
    record = table_of(good, bad).record()
    assert record["learnt"] and record["rouge_l"]["trained"] == [1.0, 1.0, 1.0]
    assert "  a copy of the answer" in "\n".join(table_of(good, bad).lines())


def test_instructions_no_nearer_to_the_questions_than_a_copy_are_said_to_be_so() -> None:
    asked = [f"How do I grow {name} at home?" for name in ("tomatoes", "basil", "beans")]
    answers = [f"Take a pot for number {i}, and water it." for i in range(3)]
    assert anchors.near_to_question(asked, asked, answers).endswith(")")
    assert "no nearer to the questions than a copy" in anchors.near_to_question(
        asked, answers, answers
    )


def test_a_model_that_is_no_backward_model_is_refused_where_it_can_be_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    notes: dict[str, Any] = {"direction": "backward", "held_out": {"learnt": False}}
    monkeypatch.setattr(backtranslation, "trained", lambda model: notes)
    options = Namespace(model="m", base_url="", provider="", anyway=False)
    self_augmentation_lima.check_trained(options)
    assert "step 1 could not tell m from its untrained base" in capsys.readouterr().err
    notes = {}
    with pytest.raises(UsageError, match=r"was not trained by inverse_sft.py .* or --anyway"):
        self_augmentation_lima.check_trained(options)
    self_augmentation_lima.check_trained(Namespace(**vars(options) | {"anyway": True}))
    self_augmentation_lima.check_trained(Namespace(**vars(options) | {"base_url": "http://x"}))


# Other shapes of data


CHAT = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]


@pytest.mark.parametrize(
    "record",
    [
        {"messages": CHAT},
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
        {"prompt": CHAT[:1], "completion": CHAT[1:]},
        {"prompt": "q", "completion": "a"},
        {"human": "q", "assistant": "a"},
        {"generated_instruction": "q", "response": "a"},
    ],
)
def test_other_shapes_are_the_same_pair(record: dict, tmp_path: Path) -> None:
    [row] = read_rows(save(tmp_path / "rows.json", [record]))
    assert (row["instruction"], row["output"]) == ("q", "a")


def test_a_system_text_stands_before_the_question_and_longer_chats_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    system = {"role": "system", "content": "Be short."}
    old = {"instruction": "q", "input": "", "output": "a", "history": [["x", "y"]]}
    rows = [{"messages": [system, *CHAT]}, {"messages": CHAT * 2}, old]
    [row] = read_rows(save(tmp_path / "rows.json", rows))
    assert row["instruction"] == "Be short.\n\nq"
    assert "2 rows left out: multi-turn" in capsys.readouterr().err


def test_an_alpaca_system_text_stands_before_the_question_too(tmp_path: Path) -> None:
    alpaca = {"instruction": "q", "output": "a", "system": "Be short."}
    sharegpt = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    rows = [alpaca, {"conversations": sharegpt, "system": "Be short."}, {**alpaca, "system": ""}]
    read = read_rows(save(tmp_path / "rows.json", rows))
    assert [row["instruction"] for row in read] == ["Be short.\n\nq"] * 2 + ["q"]


def test_turns_in_another_order_and_of_a_tool_are_no_pair(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    tool = [CHAT[0], {"role": "tool", "content": "12"}]
    rows = [{"messages": CHAT}, {"messages": CHAT[::-1]}, {"messages": tool}]
    [row] = read_rows(save(tmp_path / "rows.json", rows))
    assert (row["instruction"], row["output"]) == ("q", "a")
    assert "2 rows left out" in capsys.readouterr().err


def test_labels_for_one_instruction_are_not_turned_round(tmp_path: Path) -> None:
    task = "Is this question open or closed?"
    labels = ["open", "closed"] * 3
    rows = [{"instruction": task, "input": f"q{i}", "output": o} for i, o in enumerate(labels)]
    read = read_rows(save(tmp_path / "rows.json", rows))
    assert [row["output"] for row in read] == labels


def test_preferences_are_no_pairs(tmp_path: Path) -> None:
    path = save(tmp_path / "p.json", [{"prompt": "q", "chosen": "a", "rejected": "b"}])
    with pytest.raises(WorkshopError, match=r"holds preferences, .* --format messages"):
        read_rows(path)


def test_a_prepared_folder_is_read_and_its_held_out_part_is_shown(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text(json.dumps({"messages": CHAT}) + "\n", encoding="utf-8")
    [row] = read_rows(tmp_path)
    assert row["output"] == "a"
    options = Namespace(prompts=None, data=tmp_path)
    assert shapes.held_out_file(tmp_path) is None
    held_out = save(tmp_path / "validation.json", [{"instruction": "new", "output": "b"}])
    assert finetune_model.prompts_file(options) == held_out
    assert [row["instruction"] for row in finetune_model.not_trained_on(options, [])] == ["new"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(WorkshopError, match=r"neither train.json nor train.jsonl"):
        read_rows(tmp_path / "empty")


def test_a_courses_inverse_file_is_turned_round_and_said_so(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    task = "Predict the user’s instruction from the answer."
    rows = [
        {"instruction": task, "input": f"answer {i}", "output": f"question {i}"} for i in (1, 2)
    ]
    read = read_rows(save(tmp_path / "guanaco_inverse.json", rows))
    assert [(row["instruction"], row["input"], row["output"]) for row in read] == [
        ("question 1", "", "answer 1"),
        ("question 2", "", "answer 2"),
    ]
    assert "guanaco_inverse.json: each row has the same instruction" in capsys.readouterr().err


def test_the_same_instruction_in_all_rows_is_refused_by_step_1(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    rows = [{"instruction": "Translate.", "input": f"a{i}", "output": f"b{i}"} for i in (1, 2)]
    data = str(save(tmp_path / "d.json", rows))
    flags = ["--data", data, "--eval-data", str(SAMPLE / "guanaco_test.jsonl")]
    assert inverse_sft.main([*flags, "--out", str(tmp_path / "o")]) == 2
    said = capsys.readouterr().err
    assert "all 2 rows have the same instruction, so that nothing can be learnt" in said


def test_rows_of_the_training_are_not_held_out(capsys: pytest.CaptureFixture) -> None:
    rows = read_rows(SAMPLE / "guanaco_test.jsonl")
    options = Namespace(eval_data=Path("x.json"))
    assert inverse_sft.not_trained_on(options, rows[:2], rows) == rows[2:]
    # The same question behind another answer was learnt, too.
    asked = [{**rows[2], "output": "Something else."}]
    assert inverse_sft.not_trained_on(options, [*rows[:2], *asked], rows) == rows[3:]
    assert "2 of 8 rows of --eval-data are in --data" in capsys.readouterr().err
    with pytest.raises(UsageError, match=r"every question or answer of --eval-data x.json"):
        inverse_sft.not_trained_on(options, rows, rows)


def test_what_is_to_be_shown_is_looked_for_before_the_training(
    pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_late(*_: Any, **__: Any) -> None:
        raise AssertionError("the training has begun")

    monkeypatch.setattr(backtranslation, "train", too_late)
    flags = ["--data", str(pairs), "--out", str(tmp_path / "f"), "--prompts"]
    assert finetune_model.main([*flags, str(tmp_path / "nowhere.json")]) == 1
    assert "nowhere.json (No such file" in capsys.readouterr().err


# Cards


def test_a_card_claims_a_licence_only_for_known_sources_and_counts_who_wrote_what(
    pairs: Path, tmp_path: Path
) -> None:
    rows = read_rows(pairs)
    unknown = cards.dataset_card({"a": "a.json"}, cards.about(pairs), rows, [])
    assert "license" not in unknown and "LIMA" not in unknown
    assert "the file self_augmented.json; its licence is not known here" in unknown
    assert "a model wrote 9" in unknown

    cards.note(pairs, sources=["GAIR/lima"], instructions="model")
    known = cards.dataset_card({"a": "a.json"}, cards.about(pairs), rows, [])
    assert known.startswith("---\nlicense: cc-by-nc-sa-4.0\nconfigs:\n")
    # A file that has changed since is not what the record is about.
    pairs.write_text(pairs.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    assert cards.about(pairs)["sources"] == []


def test_the_card_of_a_model_tells_pairs_of_people_from_those_of_a_model(
    pairs: Path, tmp_path: Path
) -> None:
    rows = read_rows(pairs)
    sample = SAMPLE / "guanaco_train.jsonl"
    sets = [(cards.about(pairs), rows), (cards.about(sample), read_rows(sample))]
    base = tmp_path / "my models" / "smol"
    base.mkdir(parents=True)
    card = cards.model_card({"base": str(base), "examples": 45}, sets, "A model", [])
    assert "a model wrote 9" in card and "people wrote 36" in card
    assert str(tmp_path) not in card and "base_model" not in card and "of smol" in card
    assert "license" not in card
    named = cards.model_card({"base": "org/base", "examples": 45}, sets, "A model", [])
    assert "base_model: org/base" in named


def test_only_whole_files_of_the_notebook_in_data_are_known_by_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cards, "DATA", tmp_path)
    path = tmp_path / "lima_single_turn.json"
    for count, wanted in ((24, []), (1000, ["GAIR/lima"])):
        save(path, [{"instruction": "q", "output": "a"}] * count)
        assert cards.about(path)["sources"] == wanted
    (tmp_path / "mine").mkdir()
    other = tmp_path / "mine" / path.name
    other.write_bytes(path.read_bytes())
    assert cards.about(other)["sources"] == []


def test_no_path_of_this_machine_is_in_what_is_uploaded(tmp_path: Path) -> None:
    folder, copy = tmp_path / "adapter", tmp_path / "copy"
    folder.mkdir()
    copy.mkdir()
    local = str(tmp_path / "models" / "smol")
    for name, key in (
        ("adapter_config.json", "base_model_name_or_path"),
        ("training.json", "base"),
    ):
        save(folder / name, {key: local, "r": 16})
    save(folder / "training_args.json", {"out": local})
    cards.copy_for_others(folder, ["adapter_*", "training.json"], copy)
    assert sorted(path.name for path in copy.iterdir()) == ["adapter_config.json", "training.json"]
    assert load(copy / "adapter_config.json") == {"base_model_name_or_path": "smol", "r": 16}
    assert load(copy / "training.json")["base"] == "smol"
    assert load(folder / "training.json")["base"] == local
    assert cards.public_name(r"C:\\models\\smol") == "smol"
    assert cards.public_name("org/name") == "org/name"


def test_no_file_of_keys_and_no_path_of_a_tokenizer_is_uploaded(tmp_path: Path) -> None:
    folder, copy = tmp_path / "out", tmp_path / "copy"
    folder.mkdir()
    copy.mkdir()
    (folder / "hf_token.txt").write_text("hf_secret", encoding="utf-8")
    (folder / "tokenizer.json").write_text("{}", encoding="utf-8")
    save(folder / "tokenizer_config.json", {"tokenizer_file": str(folder / "tokenizer.json")})
    cards.copy_for_others(folder, cards.ADAPTER, copy)
    assert {path.name for path in copy.iterdir()} == {"tokenizer.json", "tokenizer_config.json"}
    assert load(copy / "tokenizer_config.json") == {"tokenizer_file": "tokenizer.json"}


def test_what_is_learnt_is_the_completion_perhaps_clipped_and_an_end_mark() -> None:
    assert learnt.is_of("What is it?</s>", "What is it?")
    assert learnt.is_of("What  is it\n", "What is it? And why?")
    assert learnt.is_of("检\ufffd", "检查一下")  # clipped within a character
    assert not learnt.is_of("Write the instruction. What is it?</s>", "What is it?")
    turns = [{"role": "assistant", "content": "What is it?"}]
    assert learnt.is_of("What is it?</s>", learnt.text_of(turns))  # in a chat template
    assert learnt.text_of("What is it?") == "What is it?"


# A line a minute


def test_a_long_work_says_a_line_a_minute_where_no_terminal_is(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 0.0, 30.0, 61.0, 90.0, 121.5])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    lines = progress.Lines("training", "steps")
    for done in (10, 15, 20, 25, 30):
        lines.say(done, 50, "; loss 2.31")
    assert capsys.readouterr().err.splitlines() == [
        "training: 20 of 50 steps in 1 minute, about 3 minutes left; loss 2.31",
        "training: 30 of 50 steps in 2 minutes, about 2 minutes left; loss 2.31",
    ]
