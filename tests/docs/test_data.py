"""The files in data/: what is written there must hold, and a practice run must meet every rule at a
realistic rate."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Callable

import pytest
from helpers.runs import ROOT

from self_instruct_workshop import Config, InstructionPool, read_data, run

sys.path.insert(0, str(ROOT / "scripts"))
import check_seeds


def rows_of(name: str) -> list[dict]:
    return [
        json.loads(line)
        for line in (ROOT / "data" / name).read_text(encoding="utf-8").strip().split("\n")
    ]


@pytest.mark.parametrize(
    "name", ["seed_tasks.jsonl", "seed_tasks_zh.jsonl", "practice_tasks.jsonl"]
)
def test_our_own_files_pass_the_check_that_users_run(
    name: str, capsys: pytest.CaptureFixture
) -> None:
    assert check_seeds.main([str(ROOT / "data" / name)]) == 0
    assert "warning" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "tasks", "classification", "script"),
    [
        ("seed_tasks.jsonl", 175, (25, 30), r"[a-z]"),
        ("seed_tasks_zh.jsonl", 100, (15, 25), r"[一-鿿]"),
    ],
)
def test_seed_sets_have_the_size_and_balance_they_claim(
    name: str, tasks: int, classification: tuple[int, int], script: str
) -> None:
    rows = rows_of(name)
    assert len(rows) == tasks
    assert classification[0] <= sum(row["is_classification"] for row in rows) <= classification[1]
    assert 0.25 <= sum(not any(i["input"] for i in row["instances"]) for row in rows) / tasks <= 0.4
    assert all(
        set(row) == {"id", "name", "instruction", "instances", "is_classification"} for row in rows
    )
    assert len({row["name"] for row in rows}) == tasks
    assert all(
        re.fullmatch(r"[a-z0-9_]+", row["name"]) and re.search(script, row["instruction"])
        for row in rows
    )
    assert all(row["instances"] for row in rows)


def test_practice_bank_has_the_size_it_claims_in_both_languages() -> None:
    for language, least in (("en", 500), ("zh", 200)):
        good = [row for row in read_data("practice_tasks", language) if not row.get("flaw")]
        assert len(good) >= least
        assert all(
            1 <= len([i for i in row["instances"] if not i.get("flaw")]) <= 3 for row in good
        )


def test_practice_bank_and_seeds_are_disjoint_but_for_marked_near_duplicates() -> None:
    pool = InstructionPool()
    for row in rows_of("seed_tasks.jsonl") + rows_of("seed_tasks_zh.jsonl"):
        pool.add(row["instruction"])
    for row in rows_of("practice_tasks.jsonl"):
        if not row.get("flaw"):
            neighbour, score = pool.nearest(row["instruction"], 1)[0]
            assert score <= 0.7, (row["instruction"], neighbour)
            pool.add(row["instruction"])


def test_practice_run_of_300_meets_every_rule_at_a_realistic_rate(
    settings: Callable[..., Config],
) -> None:
    counts = run(settings(num_instructions=300), say=lambda text: None)["counts"]
    generate = counts["generate"]
    assert generate["out"] == 300
    assert 0.25 <= sum(generate["rejected"].values()) / generate["in"] <= 0.40
    rules = {
        "too_similar",
        "needs_more_than_text",
        "too_short",
        "too_long",
        "prompt_echo",
    }
    assert rules | {"small_talk"} <= {*generate["rejected"]}
    rules = {
        "empty_output",
        "output_equals_input",
        "copy_of_instruction",
        "unfinished",
        "placeholder",
        "refusal",
    }
    rules |= {"duplicate", "conflicting_outputs"}
    assert rules <= {*counts["filter"]["rejected"]}
    assert 0.03 <= sum(counts["filter"]["rejected"].values()) / counts["filter"]["in"] <= 0.2
    assert counts["classify"]["unknown"] > 0


def test_prompts_of_other_languages_have_the_fields_of_the_english_ones() -> None:
    import self_instruct_workshop as workshop
    from scripts.asking.together import TOGETHER_PROMPT
    from scripts.judging.asked import JUDGE_PROMPT

    english = {
        "generate": workshop.GENERATE_PROMPT,
        "classify": workshop.CLASSIFY_PROMPT,
        "together": TOGETHER_PROMPT,
        "instances": workshop.INSTANCE_PROMPT,
        "again": workshop.SECOND_PROMPT,
        "answer": workshop.ANSWER_PROMPT,
        "judge": JUDGE_PROMPT,
    }
    rows = [row for row in read_data("prompts") if row["recipe"] == "modern"]
    assert {(row["language"], row["stage"]) for row in rows} == {
        (language, stage)
        for language in workshop.DEFAULT_SEEDS
        if language != "en"
        for stage in english
    }
    for row in rows:
        assert {*english[row["stage"]]} == {*row} - {"language", "recipe", "stage"}
        for name, words in english[row["stage"]].items():
            assert type(row[name]) is type(words) and len(row[name]) > 0
            if isinstance(words, list):
                assert len(row[name]) == len(words)
            slots = [sorted(re.findall(r"\{\w+\}", str(text))) for text in (row[name], words)]
            assert slots[0] == slots[1]


def test_the_paper_s_wording_has_the_modern_one_s_fields_and_as_many_demonstrations() -> None:
    import self_instruct_workshop as workshop

    english = {
        "generate": workshop.GENERATE_PROMPT,
        "classify": workshop.CLASSIFY_PROMPT,
        "instances": workshop.INSTANCE_PROMPT,
    }
    rows = {row["stage"]: row for row in read_data("prompts") if row.get("recipe") == "paper"}
    unknown = {"again", "wanted", "label", "topic"}  # to the paper: second tries, topics
    assert {stage: {*row} - {"language", "recipe", "stage"} for stage, row in rows.items()} == {
        stage: {*words} - unknown for stage, words in english.items()
    }
    shots = Counter(
        (row["stage"], row["is_classification"]) for row in read_data("paper_demonstrations")
    )
    assert shots == {  # as many as in the official prompts
        ("classify", True): 12,
        ("classify", False): 19,
        ("instances", True): 16,
        ("instances", False): 11,
    }


def test_data_readme_counts_what_is_there() -> None:
    text = (ROOT / "data" / "README.md").read_text(encoding="utf-8")
    for good, bad in (("640 English", "87"), ("242 Chinese", "32")):
        rows = read_data("practice_tasks", {"English": "en", "Chinese": "zh"}[good.split()[1]])
        assert good in text and bad in text
        assert sum(not row.get("flaw") for row in rows) == int(good.split()[0])
        assert sum(bool(row.get("flaw")) for row in rows) == int(bad)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_report_has_words_for_every_rule(language: str) -> None:
    """Those of stage 1 stand in RULES; the others are all that the module names."""
    import self_instruct_workshop as workshop

    words = json.loads((ROOT / "scripts" / "reporting" / "words.json").read_text("utf-8"))
    named = words[language]["rules"]
    module = (ROOT / "self_instruct_workshop.py").read_text("utf-8")
    rules = {*re.findall(r'\.reject\(\s*"\w+", "(\w+)"', module), *workshop.RULES}
    rules |= {*re.findall(r'rule = "(\w+)"', module), "merged_tasks", "over_five", "duplicate"}
    judge = (ROOT / "scripts" / "judge.py").read_text("utf-8")
    rules |= {*re.findall(r'"(judge_\w+)"', judge)}
    rules |= {"not_a_label", "prompt_echo", "no_answer", "other_language"}  # of rewrite.py
    assert {"too_similar", "cut_off", "copied_example", "conflicting_outputs"} <= rules
    assert {"judge_output_wrong", "judge_unread"} <= rules
    assert rules - {*named} == set()
    assert all(named.values())
