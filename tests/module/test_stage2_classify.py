"""Stage 2, classify: what counts as Yes, as No and as neither, and the question itself."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from helpers.runs import stage_2_prompt
from helpers.server import Server, scripted_model
from hypothesis import given
from hypothesis import strategies as st

import self_instruct_workshop as workshop
from self_instruct_workshop import (
    Config,
    Model,
    Task,
    classify_instructions,
    parse_classification,
)

Settings = Callable[..., Config]


YES = [
    "Yes",
    "yes",
    "YES!",
    "Yes.",
    " Yes\n",
    "**Yes**",
    "*Yes.*",
    '"Yes"',
    "`Yes`",
    "- Yes",
    "True",
    "Yes, it is.",
    "Yes, not a generation task but a classification.",
    "Yes\n\nThe labels are A and B.",
    "Answer: Yes",
    "**Answer:** Yes",
    "Classification: Yes",
    "Is it a classification task? Yes",
    "Task: Sort.\nAnswer: Yes",
    "It has labels.\n\nYes",
    "It is a classification task.",
    "This is a classification task, since it has labels.",
    '{"answer": "Yes"}',
    '```json\n{"answer": "Yes"}\n```',
    '```json\n{"is_classification": true}\n```',
    "<think>No?</think>Yes",
    "No?</think>\nYes",
    "是",
    "是。",
    "是的，这是分类任务。",
    "**是**",
    "“是”",
    "「是」",
    "答案：是",
    "回答: 是的",
    "对",
    "属于分类任务",
    "这是一个分类任务。",
    "该任务属于分类任务。",
    "Yes; the label set is fixed.",
    "The answer is Yes.",
]


def test_yes_is_read() -> None:
    found = {reply: parse_classification(reply) for reply in YES}
    assert {reply: verdict for reply, verdict in found.items() if verdict is not True} == {}


NO = [
    "No",
    "no",
    "NO!",
    "No.",
    "**No**",
    "**No.**",
    '"No"',
    "`no`",
    "- No",
    "False",
    "No, it is not.",
    "No, yes would be wrong.",
    "No\n\nIt asks for a poem.",
    "Answer: No",
    "Is it a classification task? No.",
    "It writes a poem.\n\nNo",
    "Not a classification task.",
    "It is not a classification task.",
    "This is not a classification task.",
    '{"answer": "No"}',
    '```json\n{"answer": "No"}\n```',
    '{"is_classification": false}',
    "<think>Yes!</think>No",
    "Yes!</think>No",
    "否",
    "否。",
    "不是",
    "不是的。",
    "不是，这是写作任务。",
    "**不是**",
    "答案：否",
    "回答: 不是",
    "非分类任务",
    "不属于分类任务",
    "这不是分类任务。",
    "这并不是一个分类任务。",
    "该任务不是分类任务。",
    "该任务不属于分类任务。",
    "The answer is No.",
    "It's not a classification task.",
    "This isn't a classification task.",
    "This is a generation task, not a classification task.",
]


def test_no_is_read() -> None:
    found = {reply: parse_classification(reply) for reply in NO}
    assert {reply: verdict for reply, verdict in found.items() if verdict is not False} == {}


NEITHER = [
    "",
    " \n",
    "...",
    "```",
    "It depends.",
    "Maybe",
    "Hard to say",
    "I don't know.",
    "Yes or No",
    "yes/no",
    "Yes and no",
    "是或否",
    "是/否",
    "是否",
    "是不是分类任务很难说",
    "无法判断",
    "<think>Yes",
    "Sort these words.",
    "Notes",
    "Nothing",
    "Yesterday",
    "Not sure.",
    "not sure",
    "Not enough information.",
    "No idea.",
    "No clear answer.",
    "不确定",
    "不清楚",
    "不知道",
    "非常难说",
    "对不起，我无法判断。",
    "对于这个任务，很难判断。",
]


def test_what_is_neither_is_never_guessed() -> None:
    found = {reply: parse_classification(reply) for reply in NEITHER}
    assert {reply: verdict for reply, verdict in found.items() if verdict is not None} == {}


@given(
    st.lists(
        st.sampled_from(
            [
                "yes",
                "no",
                "not",
                "是",
                "不",
                "否",
                " ",
                ":",
                "？",
                "\n",
                "**",
                "or",
                "{",
                "<think>",
                "```",
                "\ud800",
            ]
        )
    ).map("".join)
)
def test_any_reply_has_a_verdict_or_none(reply: str) -> None:
    assert parse_classification(reply) in (True, False, None)


@given(st.text(st.characters(exclude_categories=["L", "N"]), max_size=40))
def test_a_reply_without_letters_is_never_an_answer(reply: str) -> None:
    assert parse_classification(reply) is None


# ----- the question


@pytest.mark.parametrize(
    ("language", "question"),
    [("en", "Among which options is the answer chosen?"), ("zh", "答案从哪些选项里选？")],
)
@pytest.mark.parametrize("instruction", ["Sort {these} words.", "用 50% 的字数概括。", "a\\1{0}"])
def test_the_task_stands_whole_on_its_line_and_the_question_last(
    settings: Settings, language: str, question: str, instruction: str
) -> None:
    assert stage_2_prompt(settings(language=language), instruction).split("\n")[-2:] == [
        instruction,
        question,
    ]


@pytest.mark.parametrize(("language", "none"), [("en", "Options: none"), ("zh", "选项：无")])
def test_the_worked_examples_show_both_answers_and_our_parser_reads_them(
    settings: Settings, language: str, none: str
) -> None:
    prompt = workshop.classify_prompt(settings(language=language), "Name it now.")
    shown = [turn["content"] for turn in prompt if turn["role"] == "assistant"]
    verdicts = [parse_classification(answer) for answer in shown]
    assert verdicts.count(True) == verdicts.count(False) == {"en": 6, "zh": 12}[language]
    assert all(
        (answer == none) is (verdict is False)
        for answer, verdict in zip(shown, verdicts, strict=True)
    )


def test_all_questions_share_their_beginning_so_that_servers_can_cache_it(
    settings: Settings,
) -> None:
    one, other = (
        workshop.classify_prompt(settings(), text) for text in ("Name it now.", "Sort these words.")
    )
    assert one[:-1] == other[:-1] and len(one) == 2 * 12 + 1
    assert one[-1] != other[-1]


def classified(config: Config, *replies: str) -> tuple[list[dict], list[Task], list]:
    """Ask about one task, with these replies in turn."""
    left = list(replies)
    people = scripted_model()

    def answer(prompt: str, body: dict) -> str:
        return left.pop(0) if "\nName it now.\n" in prompt else people(prompt, body)

    with Server(answer) as server:
        config.base_url = server.url + "/v1"
        with Model(config) as model:
            tasks = classify_instructions(config, model, [Task("machine_task_0", "Name it now.")])
            asked = [one for one in server.requests if "\nName it now.\n" in one["prompt"]]
            return asked, tasks, model.undone


def test_what_cannot_be_read_is_asked_once_more(settings: Settings) -> None:
    requests, [task], _ = classified(settings(provider="local", model="m"), "It depends.", "**No**")
    assert (len(requests), task.is_classification) == (2, False)
    assert task.notes["classify"]["response"] == "**No**"


def test_what_cannot_be_read_twice_is_unknown_and_no_failure(settings: Settings) -> None:
    requests, [task], undone = classified(
        settings(provider="local", model="m"), "It depends.", "Hm, hard to say"
    )
    assert (len(requests), task.is_classification, undone) == (2, None, [])


def test_the_question_is_asked_at_temperature_zero(settings: Settings) -> None:
    requests, [task], _ = classified(settings(provider="local", model="m", temperature=1.5), "Yes")
    assert [request["body"]["temperature"] for request in requests] == [0]
    assert task.is_classification is True


@pytest.mark.parametrize(
    ("instruction", "reply", "found"),
    [
        ("What is the capital of Australia?", "Options: Sydney, Perth, Canberra", (None, [])),
        ("What is the purpose of a dictionary?", "Options: dictionary, book, map", (None, [])),
        ("How often should I exercise?", "Options: daily, weekly, monthly", (None, [])),
        ("Is the mail spam?", "Options: spam, not spam", (True, ["spam", "not spam"])),
        ("Is the text Formal or casual?", "Options: formal, Casual", (True, ["formal", "Casual"])),
        ("Does it rain?", "Options: yes, no", (True, ["yes", "no"])),
        ("Rate it from 1 to 5.", "Options: 1, 2, 3, 4, 5", (True, ["1", "2", "3", "4", "5"])),
        ("Name a river.", "Options: none", (False, [])),
        ("What is the difference between a frog and a toad?", "Options: frog, toad", (False, [])),
        ("Is it fair? Give your reasons.", "Options: yes, no", (False, [])),
        ("青蛙和蟾蜍有什么区别？", "选项：青蛙、蟾蜍", (False, [])),
        ("Name a river.", "Yes", (True, [])),
        ("Name a river.", "The Nile.", (None, [])),
        ("澳大利亚的首都是哪里？", "选项：悉尼、珀斯、堪培拉", (None, [])),
        ("判断评论是好评还是差评。", "选项：好评、差评", (True, ["好评", "差评"])),
        ("这句话有语病吗？", "选项：有、没有", (True, ["有", "没有"])),
    ],
)
def test_options_that_the_task_does_not_name_are_guesses(
    settings: Settings, instruction: str, reply: str, found: tuple
) -> None:
    assert workshop.read_options(settings(), instruction, reply) == found
