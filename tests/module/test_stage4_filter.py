"""Stage 4, filter: each rule of an instance, conflicts and duplicates, the cap of five, and the
counts that add up."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from self_instruct_workshop import (
    Config,
    Results,
    Task,
    filter_and_dedupe,
    filter_instances,
    same_answer,
)

TASK = "Say it in other words."
Settings = Callable[..., Config]


def rule_of(source: str, target: str, instruction: str = TASK) -> str:
    kept, rejected = filter_instances(instruction, [(source, target)])
    assert len(kept) + len(rejected) == 1
    return "" if kept else rejected[0][2]


# ----- one rule at a time


TURNED_AWAY = [
    ("a", "", "empty_output"),
    ("a", " \n", "empty_output"),
    ("", "", "empty_output"),
    ("a cat", "a cat", "output_equals_input"),
    ("a cat", " a cat\n", "output_equals_input"),
    ("猫", "猫", "output_equals_input"),
    ("a", TASK, "copy_of_instruction"),
    ("a", TASK.upper(), "copy_of_instruction"),
    ("", TASK.replace(" ", "\n"), "copy_of_instruction"),
    ("a", "The steps are:", "unfinished"),
    ("a", "步骤如下：", "unfinished"),
    ("The list is:", "a", "unfinished"),
    ("a", "...", "placeholder"),
    ("a", "…", "placeholder"),
    ("a", "[your answer here]", "placeholder"),
    ("a", "<output>", "placeholder"),
    ("a", "[输出]", "placeholder"),
    ("a", "I'm sorry, but I can't help with that.", "refusal"),
    ("a", "I’m sorry, but I can’t assist with this request.", "refusal"),
    ("a", "As an AI language model, I cannot access the internet.", "refusal"),
    ("a", "Unfortunately, I am unable to view images.", "refusal"),
    ("a", "抱歉，我无法完成这个请求。", "refusal"),
    ("a", "TODO", "placeholder"),
    ("a", "【请在此填写你的答案】", "placeholder"),
    ("a", "作为一个语言模型，我不能提供实时信息。", "refusal"),
]


def test_each_rule_turns_away_what_it_names() -> None:
    found = [(source, target, rule_of(source, target)) for source, target, _ in TURNED_AWAY]
    assert found == TURNED_AWAY


@pytest.mark.parametrize(
    "target", ["是", "对", "A", "7", "x", "+", "é", "🙂", "0", "-1", "Na", "no", "?", "。"]
)
def test_an_answer_of_one_or_two_characters_is_fine(target: str) -> None:
    assert rule_of("a longer input", target) == rule_of("", target) == ""


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("the old man", "The Old Man"),
        ("a cat", "a cat."),
        ("a cat", "The sentence `a cat` is fine as it is."),
        ("", f"{TASK} That is what you asked me to do."),
        ("Note: a: b", "It is 10:30"),
        ("a", "https://example.org/x"),
        ("3 1 2", "[1, 2, 3]"),
        ("", "<b>"),
        ("", "[]"),
        ("", "{'a': 1}"),
        ("", "Wait... what?"),
        ("", "Outputs differ."),
        ("", "I can see your point."),
        pytest.param("a  cat", "a cat"),
    ],
)
def test_a_sound_instance_breaks_no_rule(source: str, target: str) -> None:
    assert rule_of(source, target) == ""


@pytest.mark.parametrize(
    "target",
    [
        "I'm sorry that your parcel was late. We have sent a new one.",
        "Dear Ms Lee,\n\nI am sorry for the mistake. We cannot undo it, but here is a voucher.",
        "Sorry, but I can't come on Friday.",
        "I apologize for the delay and thank you for your patience.",
        "Unfortunately, the train was late.",
        "抱歉，快递晚到了两天。",
        "对不起，我明天不能来上课。",
        "She said: “I can't help you.”",
        "I can't wait!",
        "I can't see anything.",
        "I can't help falling in love.",
        "I am sorry that we cannot process your refund today.",
    ],
)
def test_an_apology_is_no_refusal(target: str) -> None:
    assert rule_of("a", target) == ""


FORMS = [
    ("Name a river. ## Translate the sentence into French.", "", "merged_tasks"),
    ("列出三条河流。##把下面的句子译成英文，保留人名。", "", "merged_tasks"),
    ("Summarize the article.", "https://example.org/news", "needs_more_than_text"),
    ("概括这篇文章。", "https://example.org/news", "needs_more_than_text"),
    ("Extract the domain from the URL.", "https://example.org/news", ""),
    ("提取网址中的域名。", "https://example.org/news", ""),
    ("Turn the heading into HTML.", "## Plan", ""),
]


# What the instruction speaks of has to be there.
NOT_THERE = [
    ("Summarize the given passage.", "", "It is about bees.", "input_missing"),
    ("Summarize the given passage.", "Bees dance.", "Bees dance to tell.", ""),
    ("Filter the list to include only names of rivers.", "", "Rhine", "input_missing"),
    ("Translate this sentence into French: Good day.", "", "Bonjour.", ""),
    ("把下面的句子改成被动句。", "", "门被推开了。", "input_missing"),
    ("把下面的句子改成被动句：风推开了门。", "", "门被推开了。", ""),
    ("Write a Python function that adds two numbers.", "", "5", "no_code"),
    ("Write a Python function that adds two numbers.", "", "def f(a, b): return a + b", ""),
    ("Write a function that counts the words in a given text.", "a b", "2", "no_code"),
    ("Write a function that counts the words in a given text.", "", "f = len", ""),
    ("写一个函数，求列表里的最大值。", "[1, 2]", "二", "no_code"),
    ("What type of bird is the parrot? (Parrot)", "", "parrot.", "answer_in_instruction"),
    ("Which of these is a fish? (shark, whale)", "", "shark", ""),
    ("法国的首都是哪里？（巴黎）", "", "巴黎", "answer_in_instruction"),
    ("Convert 3 feet into metres (m).", "", "m", ""),
    ("Which letter comes first, (A) or (B)?", "", "B", ""),
]


def test_what_the_instruction_speaks_of_has_to_be_there() -> None:
    found = [(task, x, y, rule_of(x, y, task)) for task, x, y, _ in NOT_THERE]
    assert found == NOT_THERE


# ----- the second answer

ANSWERED_AGAIN = [
    ("11", "The sum is 11.", [], True),
    ("11", "The sum is 12.", [], False),
    ("The sum is 11.", "11", [], True),
    ("Paris", "paris.", [], True),
    ("1,000", "1000", [], True),
    ("5", "2.5", [], False),
    ("negative", "Positive", ["positive", "negative"], False),
    ("spam", "This is not spam.", ["spam", "not spam"], False),
    ("not spam", "This is not spam.", ["spam", "not spam"], True),
    ("spam", "It is not spam.", [], False),
    ("positive", "positive or negative", ["positive", "negative"], False),
    ("Positive sentiment", "Positive.", ["positive", "negative"], True),
    ("none of them", "positive", ["positive", "negative"], False),
    ("对", "不对", [], False),
    ("不对", "不对。", ["对", "不对"], True),
    ("巴黎", "首都是巴黎。", [], True),
    ("🙂", "🙂", [], True),
    ("🙂", "🙁", [], False),
    ("Parrot", "I'm sorry, I cannot tell.", [], False),
    ("The area is about 78.54 square centimetres in all.", "78.5398 cm²", [], True),
    ("77.00", "77 degrees", [], True),
    ("2.5", "25", [], False),
    ("$1.50", "$150", [], False),
    ("1912", "1915", [], False),
    ("March 3", "April 3", [], False),
    ("3 PM", "3 AM", [], False),
    ("CO2", "H2O", [], False),
    ("5 km", "5 miles", [], False),
    ("1/2", "2/1", [], False),
    ("2024-01-02", "2024-02-01", [], False),
    ("-5", "5", [], False),
    (">", ">=", [], False),
    ("一月", "十一月", [], False),
    ("三", "二十三", [], False),
    ("four", "twenty-four", [], False),
    ("spam", "It isn't spam.", ["spam", "ham"], False),
    ("spam", "This is not a spam message.", [], False),
    ("垃圾短信", "这不是垃圾短信。", ["垃圾短信", "正常短信"], False),
    ("完成", "未完成", [], False),
    ("增加5%", "减少5%", [], False),
    ("fiction", "non-fiction", [], False),
    ("red, blue", "red, blue", ["red", "blue", "green"], True),
    ("Yes", "Yes, because no water is left.", ["Yes", "No"], True),
    ("B", "B) A dog", ["A", "B", "C"], True),
    ("The sum of 2 and 3 is equal to 6.", "The sum of 2 and 3 is clearly 5.", [], False),
    ("3 hours", "6 days", [], False),
    ("There are 7 days in a week, so 12 hours.", "168 and 12", [], False),
    ("The sum of the first ten squares is 385.", "385", [], True),
    ("There are about 10,000 stars in the night sky.", "10000 stars", [], True),
    ("The town had 500 people in the year 1900.", "about six hundred", [], True),  # no numbers
    ("一个星期有七天，也就是说一共有168个小时。", "168", [], True),
    ("一个星期有七天，也就是说一共有160个小时。", "168小时", [], False),
]


def test_two_answers_agree_or_not() -> None:
    found = [(a, b, labels, same_answer(a, b, labels)) for a, b, labels, _ in ANSWERED_AGAIN]
    assert found == ANSWERED_AGAIN


def test_an_answer_that_differs_the_second_time_is_rejected_with_the_other_as_evidence() -> None:
    pairs = [("2 + 2", "4"), ("2 + 3", "6"), ("9", "")]
    task = Task("1", "Do the sum.", False, [{"input": a, "output": b} for a, b in pairs])
    task.notes["instances"] = {"second_answers": ["It is 4.", "5", ""]}
    results = Results(tasks=[task])
    assert [row["output"] for row in filter_and_dedupe(Config(), None, [task], results)] == ["4"]
    found = [(row["rule"], row["input"], row["evidence"]) for row in results.rejected]
    assert found == [("answers_differ", "2 + 3", "5"), ("empty_output", "9", "")]


def test_two_tasks_in_one_and_an_input_that_is_only_a_link_are_turned_away() -> None:
    found = [(task, source, rule_of(source, "An answer.", task)) for task, source, _ in FORMS]
    assert found == FORMS


# ----- rules between instances


def test_one_input_with_two_answers_loses_both_and_the_others_stay() -> None:
    kept, rejected = filter_instances(TASK, [("a", "x"), ("b", "z"), ("a", "y"), ("c", "z")])
    assert kept == [("b", "z"), ("c", "z")]
    assert rejected == [("a", "x", "conflicting_outputs"), ("a", "y", "conflicting_outputs")]


def test_exact_duplicates_are_one() -> None:
    assert filter_instances(TASK, [("a", "x"), ("a", "x")]) == (
        [("a", "x")],
        [("a", "x", "duplicate")],
    )


def test_without_input_the_first_answer_stays() -> None:
    assert filter_instances(TASK, [("", "x"), ("", "y"), ("", "x")]) == (
        [("", "x")],
        [("", "y", "duplicate"), ("", "x", "duplicate")],
    )


def test_a_flawed_answer_is_no_conflict() -> None:
    kept, rejected = filter_instances(TASK, [("a", ""), ("a", "x"), ("a", "...")])
    assert kept == [("a", "x")]
    assert [rule for *_, rule in rejected] == ["empty_output", "placeholder"]


def test_no_instance_is_cut_by_a_cap_here() -> None:
    pairs = [(f"input {n}", f"output {n}") for n in range(20)]
    assert filter_instances(TASK, pairs) == (pairs, [])


def test_texts_are_kept_as_they_are() -> None:
    pair = ("Line one\n\n  Line two", "```python\nx = {1: 2}\n```\n10:30")
    assert filter_instances(TASK, [pair])[0] == [pair]


def test_instances_may_come_from_a_generator() -> None:
    assert filter_instances(TASK, (pair for pair in [("a", "b"), ("c", "d")]))[0] == [
        ("a", "b"),
        ("c", "d"),
    ]


TEXT = st.sampled_from(
    ["", "a", "b", "A", TASK, "x:", "...", "I cannot provide that.", "是", " ", "a\n"]
)


@given(st.lists(st.tuples(TEXT, TEXT), max_size=12))
def test_each_instance_is_kept_or_rejected_once(pairs: list[tuple[str, str]]) -> None:
    kept, rejected = filter_instances(TASK, pairs)
    given = Counter((source.replace(TASK, ""), target) for source, target in pairs)
    assert Counter(kept) + Counter((source, target) for source, target, _ in rejected) == given
    assert len({source for source, _ in kept}) == len(kept)
    assert all(rule for *_, rule in rejected)
    assert filter_instances(TASK, kept) == (kept, [])


# ----- the whole stage


def filtered(config: Config, *tasks: Task) -> tuple[list[dict], list[dict]]:
    """The dataset, and what was rejected on the way."""
    results = Results()
    return filter_and_dedupe(config, None, list(tasks), results), results.rejected


def task(instruction: str, *pairs: tuple[str, str]) -> Task:
    instances = [{"input": source, "output": target} for source, target in pairs]
    return Task("machine_task_0", instruction, False, instances)


MANY = [(f"input {n}", f"output {n}") for n in range(9)]


def test_rows_have_exactly_instruction_input_and_output(settings: Settings) -> None:
    rows, rejected = filtered(settings(provider="practice"), task(TASK, ("a", "b"), ("", "c")))
    assert [list(row.items()) for row in rows] == [
        [("instruction", TASK), ("input", "a"), ("output", "b")],
        [("instruction", TASK), ("input", ""), ("output", "c")],
    ]
    assert rejected == []


def test_at_most_five_instances_of_a_task_stay_in_their_order(settings: Settings) -> None:
    rows, rejected = filtered(settings(provider="practice"), task(TASK, *MANY))
    inputs = [row["input"] for row in rows]
    assert len(inputs) == 5
    assert inputs == sorted(inputs)
    assert {row["rule"] for row in rejected} == {"over_five"}
    assert sorted(inputs + [row["input"] for row in rejected]) == [source for source, _ in MANY]


def test_which_five_stay_depends_on_the_seed_and_the_task_alone(settings: Settings) -> None:
    def chosen(seed: int, *before: Task) -> list[str]:
        random.seed(len(before))
        rows, _ = filtered(settings(provider="practice", seed=seed), *before, task(TASK, *MANY))
        return [row["input"] for row in rows if row["instruction"] == TASK]

    assert chosen(1) == chosen(1, task("Another one.", *MANY)) == chosen(1)
    assert len({tuple(chosen(seed)) for seed in range(8)}) > 2


def test_flawed_instances_do_not_use_up_the_five(settings: Settings) -> None:
    flawed = [(f"input {n}", "") for n in range(10, 20)]
    rows, _ = filtered(settings(provider="practice"), task(TASK, *flawed, *MANY[:5]))
    assert [(row["input"], row["output"]) for row in rows] == MANY[:5]


def test_the_same_instruction_and_input_of_two_tasks_is_one_row(settings: Settings) -> None:
    rows, rejected = filtered(
        settings(provider="practice"), task(TASK, ("a", "b")), task(TASK, ("a", "c"), ("d", "e"))
    )
    assert [(row["input"], row["output"]) for row in rows] == [("a", "b"), ("d", "e")]
    assert [(row["rule"], row["output"]) for row in rejected] == [("duplicate", "c")]


def test_what_is_rejected_is_written_down_with_stage_rule_and_text(settings: Settings) -> None:
    _, [row] = filtered(settings(provider="practice"), task(TASK, ("a", "The steps are:")))
    assert {name: row[name] for name in ("stage", "rule", "instruction", "input", "output")} == {
        "stage": "filter",
        "rule": "unfinished",
        "instruction": TASK,
        "input": "a",
        "output": "The steps are:",
    }


def test_rows_and_rejected_add_up_to_all_instances(settings: Settings) -> None:
    dice = random.Random(1)
    texts = ["", "a", "b", "c", "d", "e", "f", "g", "x:", "...", TASK]
    tasks = [
        task(
            dice.choice([TASK, "Name it.", "Do it."]),
            *((dice.choice(texts), dice.choice(texts)) for _ in range(12)),
        )
        for _ in range(60)
    ]
    rows, rejected = filtered(settings(provider="practice"), *tasks)
    assert len(rows) + len(rejected) == 720
    assert len({(row["instruction"], row["input"]) for row in rows}) == len(rows)


def test_a_task_without_instances_gives_no_row(settings: Settings) -> None:
    assert filtered(settings(provider="practice"), task(TASK)) == ([], [])
