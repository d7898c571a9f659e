"""One example of the paper's method, worked by hand. Read this test file first.

Self-Instruct (https://arxiv.org/abs/2212.10560) lets a language model write its own training tasks:

    seed tasks -> 1 generate instructions -> 2 classify -> 3 generate instances -> 4 filter

Part A takes two short sentences and works out how alike they are (ROUGE-L), and what the rule of
0.7 does with that. Part B follows one task through all four stages. The replies of the model are
written out here, so that you see what goes in and what comes out; nothing is random, and no network
is needed.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.server import Server

from self_instruct_workshop import (
    DEFAULT_SEEDS,
    Config,
    InstructionPool,
    filter_instances,
    instruction_problem,
    load_seed_tasks,
    parse_classification,
    parse_instances,
    parse_instructions,
    run,
    same_answer,
    tokenize,
)

# --------------------------------------------------------------------------------------------------
# Part A. How alike are two instructions? (Section 2.2 of the paper, "Filtering".)
#
# ROUGE-L looks at the longest common subsequence (LCS) of two sentences: the longest list of words
# that stand in both, in the same order, but with other words in between if need be.

KNOWN = "Name three large rivers in Europe."
ALIKE = "Name three long rivers in Europe."
OTHER = "List the rivers that flow through more than three countries in Europe."


def how_alike(one: str, other: str) -> float:
    """Their ROUGE-L score: 0 is nothing in common, 1 is the same words in the same order."""
    pool = InstructionPool()
    pool.add(one)
    [(_, score)] = pool.nearest(other, k=1)
    return score


def test_a_sentence_is_a_list_of_words_in_lower_case_without_punctuation() -> None:
    assert tokenize(KNOWN) == ["name", "three", "large", "rivers", "in", "europe"]


def test_rouge_l_of_two_sentences_that_differ_in_one_word() -> None:
    # KNOWN:  name three large rivers in europe      6 words
    # ALIKE:  name three long  rivers in europe      6 words
    # LCS:    name three       rivers in europe      5 words
    precision = 5 / 6  # the share of ALIKE that is in the LCS
    recall = 5 / 6  # the share of KNOWN that is in the LCS
    f1 = 2 * precision * recall / (precision + recall)

    # The same in one step: twice the LCS, divided by the words of both.
    assert f1 == pytest.approx(2 * 5 / (6 + 6))
    assert how_alike(KNOWN, ALIKE) == pytest.approx(f1)
    assert round(f1, 3) == 0.833


def test_rouge_l_counts_common_words_only_in_the_same_order() -> None:
    # KNOWN:  name three large rivers in europe                                           6 words
    # OTHER:  list the rivers that flow through more than three countries in europe      12 words
    #
    # Both have the words "three", "rivers", "in" and "europe". But in KNOWN "three" comes before
    # "rivers", and in OTHER it comes after. A common subsequence can hold only one of these two
    # words:
    #
    # LCS:    rivers in europe, or just as well: three in europe                          3 words
    assert how_alike(KNOWN, OTHER) == pytest.approx(2 * 3 / (6 + 12))


def test_the_rule_of_seven_tenths_keeps_what_is_new_and_drops_what_is_alike() -> None:
    """A new instruction may have at most 0.7 with every instruction that is there already."""
    limit = Config().rouge_threshold
    assert limit == 0.7
    assert how_alike(KNOWN, ALIKE) > limit  # 0.833: not new, it is dropped
    assert how_alike(KNOWN, OTHER) <= limit  # 0.333: new, it is kept


def test_a_score_of_exactly_seven_tenths_is_kept() -> None:
    one = "Write down seven words that begin with the letter b."
    other = "Write down seven cities that end with the letter m."

    # one:    write down seven words  that begin with the letter b      10 words
    # other:  write down seven cities that end   with the letter m      10 words
    # LCS:    write down seven        that       with the letter         7 words
    assert how_alike(one, other) == 2 * 7 / (10 + 10) == 0.7
    assert how_alike(one, other) <= Config().rouge_threshold


# --------------------------------------------------------------------------------------------------
# Part B. One task on its way through the four stages.
#
# These are the tasks that people wrote. A real run has 175 of them.

SEEDS = [
    "Name three large rivers in Europe.",
    "Translate the greeting into Japanese.",
    "Decide whether the review is positive or negative.",
    "Add up the numbers in the list.",
]

# Stage 1 shows the model these four as a numbered list that breaks off at "5.", and the model goes
# on with it.

REPLY_1 = """ Name three long rivers in Europe.
6. Sort it.
7. Rewrite the sentence so that it is about tomorrow.
8. Describe a sunset in two lines."""

TASK = "Rewrite the sentence so that it is about tomorrow."

# Stage 2 shows the model the task and asks: is it a classification task, one with a small set of
# answers?

REPLY_2 = "No."

# It is not. So stage 3 asks for the input first and for the output after it. (For a classification
# task it would ask for the label first: otherwise models nearly always take the same one.) Here it
# asks for three instances of the task.

REPLY_3 = """Input: Yesterday it rained.
Output: Tomorrow it will rain.

Input: She sang.
Output: She sang.

Input: They left.
Output: ..."""

# A short answer may be a guess. So it is asked for once more, without all that stood around it: a
# model that guesses seldom says the same twice. Longer answers nobody can compare so easily.

REPLY_4 = "It will rain tomorrow? Tomorrow it will rain."

# Stage 4 asks nothing. It drops instances that nobody should learn from.


def test_stage_1_the_reply_is_read_as_a_list_of_instructions() -> None:
    candidates = parse_instructions(REPLY_1, first=5)
    assert candidates == [
        "Name three long rivers in Europe.",
        "Sort it.",
        TASK,
        "Describe a sunset in two lines.",
    ]


def test_stage_1_each_candidate_has_to_be_fit_and_new() -> None:
    # "Name three long rivers in Europe." is too much like a seed task: 0.833, see part A.
    assert how_alike(SEEDS[0], "Name three long rivers in Europe.") > 0.7

    # "Sort it." is too short to be a task.
    assert instruction_problem("Sort it.") == "too_short"

    # The next one breaks no rule, and no seed task is much like it.
    assert instruction_problem(TASK) == ""
    assert max(how_alike(seed, TASK) for seed in SEEDS) < 0.3


def test_stage_2_the_answer_says_that_it_is_no_classification_task() -> None:
    assert parse_classification(REPLY_2) is False


def test_stage_3_the_reply_is_read_as_pairs_of_input_and_output() -> None:
    assert parse_instances(REPLY_3, is_classification=False) == [
        ("Yesterday it rained.", "Tomorrow it will rain."),
        ("She sang.", "She sang."),
        ("They left.", "..."),
    ]


def test_stage_3_a_short_answer_that_differs_the_second_time_is_a_guess() -> None:
    assert same_answer("Tomorrow it will rain.", REPLY_4, labels=[])
    assert not same_answer("It rained.", REPLY_4, labels=[])


def test_stage_4_one_pair_is_kept_and_two_are_dropped_each_by_a_rule_with_a_name() -> None:
    pairs = parse_instances(REPLY_3, is_classification=False)
    kept, rejected = filter_instances(TASK, pairs)
    assert kept == [("Yesterday it rained.", "Tomorrow it will rain.")]
    assert rejected == [
        ("She sang.", "She sang.", "output_equals_input"),  # the output only repeats the input
        ("They left.", "...", "placeholder"),  # the output stands for an answer and is none
    ]


def scripted_reply(prompt: str, body: dict) -> str:
    """What the model says. You can tell the stages apart by the end of the prompt."""
    if prompt.endswith("\n5."):
        return REPLY_1
    if prompt.endswith("Among which options is the answer chosen?"):
        instruction = prompt.split("\n")[-2]
        return REPLY_2 if instruction == TASK else what_people_say(instruction)
    if prompt.startswith("Do the task. Write only the answer"):
        return REPLY_4
    return REPLY_3


def what_people_say(instruction: str) -> str:
    """Stage 2 first asks about 16 seed tasks, to learn whether the model agrees with people."""
    [task] = [
        seed for seed in load_seed_tasks(DEFAULT_SEEDS["en"]) if seed.instruction == instruction
    ]
    return "Options: yes, no" if task.is_classification else "Options: none"


def read_rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_whole_run_does_the_same_in_one_go(tmp_path: Path) -> None:
    seeds = tmp_path / "seeds.txt"
    seeds.write_text("\n".join(SEEDS), encoding="utf-8")
    folder = tmp_path / "run"

    # A small server on this machine takes the place of the model. The run asks for one new
    # instruction.
    with Server(scripted_reply) as server:
        config = Config(
            provider="local",
            base_url=server.url + "/v1",
            model="a model that reads from a script",
            seed_file=str(seeds),
            num_instructions=1,
            instances_per_instruction=3,
            work_dir=str(folder),
        )
        run(config)
        # One request in each of the stages 1, 2 and 3, 16 about seed tasks, and one for the one
        # short answer that no other rule turns away.
        assert len(server.requests) == 3 + 16 + 1

    # Each stage leaves a file. The last one is the dataset.
    [generated] = read_rows(folder / "step1_instructions.jsonl")
    [classified] = read_rows(folder / "step2_is_classification.jsonl")
    [raw] = read_rows(folder / "step3_raw_instances.jsonl")
    assert generated["instruction"] == TASK
    assert classified["is_classification"] is False
    assert len(raw["instances"]) == 3
    assert read_rows(folder / "step4_final.jsonl") == [
        {"instruction": TASK, "input": "Yesterday it rained.", "output": "Tomorrow it will rain."}
    ]

    # Nothing is dropped unseen: another file says what was turned away, by which rule.
    rejected = [(row["stage"], row["rule"]) for row in read_rows(folder / "rejected.jsonl")]
    assert rejected == [
        ("generate", "too_similar"),
        ("generate", "too_short"),
        ("generate", "not_needed"),  # the sunset: only one instruction was asked for
        ("filter", "output_equals_input"),
        ("filter", "placeholder"),
    ]
