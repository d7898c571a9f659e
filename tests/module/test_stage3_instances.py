"""Stage 3, instances: reading worked examples, whatever the layout, and the prompt that asks for
them."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest
from helpers.runs import stage_3_prompt
from hypothesis import given
from hypothesis import strategies as st

import self_instruct_workshop as workshop
from self_instruct_workshop import (
    Config,
    Reply,
    Results,
    Task,
    parse_instances,
    take_instances,
)

Settings = Callable[..., Config]


# ----- names of fields


FIELD_STYLES = [
    "{}: ",
    "{}:",
    "{}：",
    "{} : ",
    "**{}:** ",
    "**{}**: ",
    "**{}：**",
    "__{}:__ ",
    "{}:\n",
    "{}:\n\n",
    "### {}:\n",
    "## {}: ",
    "- {}: ",
    "* **{}:** ",
    "> {}: ",
    "  {}: ",
    "1. {}: ",
    "**{} 1:** ",
    "{} 1: ",
    "### {}\n",
    "**{}**\n",
    "*{}:* ",
]
FIELD_NAMES = [("Input", "Output"), ("input", "OUTPUT"), ("输入", "输出")]


def test_fields_are_read_in_every_style() -> None:
    wrong = []
    for style, names in product(FIELD_STYLES, FIELD_NAMES):
        reply = f"{style.format(names[0])}2 + 2\n\n{style.format(names[1])}four\nof them"
        if parse_instances(reply, False) != [("2 + 2", "four\nof them")]:
            wrong.append(reply)
    assert wrong == []


LABEL_STYLES = [
    "{}: ",
    "{}：",
    "**{}:** ",
    "**{}**: ",
    "### {}: ",
    "- {}: ",
    "{}:\n",
    "**{}:**\n\n",
]
LABEL_NAMES = [
    ("Class label", "Input"),
    ("CLASS LABEL", "input"),
    ("类别标签", "输入"),
    ("标签", "输入"),
]


def test_a_label_comes_first_in_every_style() -> None:
    wrong = []
    for style, names in product(LABEL_STYLES, LABEL_NAMES):
        reply = f"{style.format(names[0])}spam\n{style.format(names[1])}Buy now!\nToday only."
        if parse_instances(reply, True) != [("Buy now!\nToday only.", "spam")]:
            wrong.append(reply)
    assert wrong == []


@pytest.mark.parametrize(
    ("reply", "pairs"),
    [
        ("Class label: a\nInput: x\n\nClass label: b\nInput: y", [("x", "a"), ("y", "b")]),
        ("Input: x\nClass label: a\n\nInput: y\nClass label: b", [("x", "a"), ("y", "b")]),
        ("Output: a\nInput: x", [("x", "a")]),
        ("Input: x\nOutput: a", [("x", "a")]),
        ("Class label: a", [("", "a")]),
        ("Class label: spam\nEmail: Buy now!\nFrom: Bob", [("Email: Buy now!\nFrom: Bob", "spam")]),
        (
            "Class label: spam\n\nEmail: Buy.\n\nClass label: ham\n\nEmail: Hi.",
            [("Email: Buy.", "spam"), ("Email: Hi.", "ham")],
        ),
        (
            "类别标签：垃圾\n邮件：马上买！\n发件人：小王",
            [("邮件：马上买！\n发件人：小王", "垃圾")],
        ),
        (
            "Class label: bug\n```python\n1 / 0\n\nInput: 3\n```",
            [("```python\n1 / 0\n\nInput: 3\n```", "bug")],
        ),
        ("spam\nInput: Buy now!", [("Buy now!", "spam")]),
        ("Sure! Here is one:\n\nClass label: a\nInput: x", [("x", "a")]),
        pytest.param("Label: spam\nInput: Buy!", [("Buy!", "spam")]),
        pytest.param("Sure!\nInput: Buy!", [("Buy!", "")]),
        pytest.param("Input: x\nClass label: a\nBecause of x.\nReally.", [("x", "a")]),
    ],
)
def test_classification_replies_are_read(reply: str, pairs: list[tuple[str, str]]) -> None:
    assert parse_instances(reply, True) == pairs


# ----- several examples


@pytest.mark.parametrize(
    "layout",
    [
        "Input: a\nOutput: b\nInput: c\nOutput: d",
        "Input: a\nOutput: b\n\nInput: c\nOutput: d",
        "Input 1: a\nOutput 1: b\nInput 2: c\nOutput 2: d",
        "Example 1\nInput: a\nOutput: b\n\nExample 2\nInput: c\nOutput: d",
        "**Example 1:**\nInput: a\nOutput: b\n\n**Example 2:**\nInput: c\nOutput: d",
        (
            "### Example 1\n\nInput: a\n\nOutput: b\n\n---\n\n"
            "### Example 2\n\nInput: c\n\nOutput: d\n\n---"
        ),
        "1. Input: a\n   Output: b\n2. Input: c\n   Output: d",
        "Sure! Here are two:\n\nInput: a\nOutput: b\n***\nInput: c\nOutput: d",
        "示例1：\n输入：a\n输出：b\n\n示例2：\n输入：c\n输出：d",
        "示例一\n输入：a\n输出：b\n\n示例二\n输入：c\n输出：d",
        "例1\n输入：a\n输出：b\n例2\n输入：c\n输出：d",
        "```\nInput: a\nOutput: b\n\nInput: c\nOutput: d\n```",
        "Input: a\r\nOutput: b\r\n\r\nInput: c\r\nOutput: d\r\n",
        "<think>Input: z\nOutput: z</think>Input: a\nOutput: b\nInput: c\nOutput: d",
        "Input: z</think>\nInput: a\nOutput: b\nInput: c\nOutput: d",
        pytest.param("1.\nInput: a\nOutput: b\n\n2.\nInput: c\nOutput: d"),
        pytest.param("Example 1: Input: a\nOutput: b\nExample 2: Input: c\nOutput: d"),
    ],
)
def test_several_examples_are_kept_apart(layout: str) -> None:
    assert parse_instances(layout, False) == [("a", "b"), ("c", "d")]


def test_an_example_without_input_does_not_take_the_next_one() -> None:
    assert parse_instances("Example 1\nOutput: a\n\nExample 2\nInput: b\nOutput: c", False) == [
        ("", "a"),
        ("b", "c"),
    ]


@pytest.mark.parametrize(
    ("reply", "pairs"),
    [
        (
            "Input: a\nOutput: One. Example sentence: I like cats.",
            [("a", "One. Example sentence: I like cats.")],
        ),
        (
            "Input: a\nOutput: One.\nExample: I like cats.\nEnd",
            [("a", "One.\nExample: I like cats.\nEnd")],
        ),
        ("Input: Example 2 is odd\nOutput: b", [("Example 2 is odd", "b")]),
        ("输入：举例\n输出：例如猫。\n示例：猫睡觉。", [("举例", "例如猫。\n示例：猫睡觉。")]),
        pytest.param(
            "Input: a\nOutput: Use sorted().\n\nExample:\nsorted([2, 1])",
            [("a", "Use sorted().\n\nExample:\nsorted([2, 1])")],
        ),
        pytest.param(
            "输入：a\n输出：用排序。\n\n示例：\n从小到大", [("a", "用排序。\n\n示例：\n从小到大")]
        ),
        ("Input: a\nOutput: The Input: of a pump.", [("a", "The Input: of a pump.")]),
        ("Input: What is\nan Output: of 3?\nOutput: b", [("What is\nan Output: of 3?", "b")]),
        ("Input: a\nOutput: 10:30\nhttps://example.org/x", [("a", "10:30\nhttps://example.org/x")]),
        ("Input: a\nOutput: b\nExplanation: c", [("a", "b\nExplanation: c")]),
        ("Input: Name: Ann\nAge: 3\nOutput: b", [("Name: Ann\nAge: 3", "b")]),
        pytest.param("输入：名称：苹果\n类别：食品\n输出：好", [("名称：苹果\n类别：食品", "好")]),
        pytest.param("Input 1: a\nInput 2: b\nOutput: c", [("a\nb", "c")]),
        pytest.param(
            "Input: a\nOutput: b\n\nTask:\nName it now.\nInput: c\nOutput: d", [("a", "b")]
        ),
        (
            "Input: a\nOutput: The tag <think> opens thoughts.",
            [("a", "The tag <think> opens thoughts.")],
        ),
    ],
)
def test_words_inside_a_text_are_no_fields(reply: str, pairs: list[tuple[str, str]]) -> None:
    assert parse_instances(reply, False) == pairs


# ----- code blocks

CODE = "```python\ndef add(a, b):\n\n    # Example 1\n    return a + b\n\nInput: 3\nOutput: 4\n```"


def test_code_blocks_keep_their_blank_lines_and_what_looks_like_fields() -> None:
    reply = f"Input: add\n\nOutput:\n\n{CODE}\n\nThat is all.\n\nInput:\n{CODE}\nOutput: sums"
    assert parse_instances(reply, False) == [("add", f"{CODE}\n\nThat is all."), (CODE, "sums")]


def test_a_code_block_may_begin_behind_the_name_of_the_field() -> None:
    assert parse_instances(f"Input: add\nOutput: {CODE}\nInput: c\nOutput: d", False) == [
        ("add", CODE),
        ("c", "d"),
    ]


def test_the_indentation_of_an_answer_is_kept_from_its_second_line_on() -> None:
    assert parse_instances("Input: a\nOutput: for x in y:\n    print(x)\n\n    done", False)[0][
        1
    ] == ("for x in y:\n    print(x)\n\n    done")


def test_a_reply_in_one_code_block_with_code_inside_keeps_the_inner_block() -> None:
    assert parse_instances("Input: a\nOutput:\n```\nx\n```", False) == [("a", "```\nx\n```")]


def test_backticks_inside_a_line_open_no_code_block() -> None:
    assert parse_instances("Input: what does ``` mean?\nOutput: code", False) == [
        ("what does ``` mean?", "code")
    ]


# ----- no input, nothing, cut off


@pytest.mark.parametrize(
    "marker",
    [
        "",
        "none",
        "None.",
        "N/A",
        "n/a",
        "(none)",
        "<noinput>",
        "<no input>",
        "No input",
        "No input needed.",
        "No input required",
        "(empty)",
        "Not applicable",
        "无",
        "（无）",
        "空",
        "无需输入",
        "**None**",
        "[no input]",
        "None required",
        "(leave empty)",
        "不需要输入",
        "无输入",
    ],
)
def test_a_marker_for_no_input_is_no_input(marker: str) -> None:
    assert parse_instances(f"Input: {marker}\nOutput: b", False) == [("", "b")]


@pytest.mark.parametrize(
    "text",
    ["none of them came", "No input was given, she said", "无人机", "空气", "a", "0", "-1", "an/a"],
)
def test_a_text_that_begins_like_a_marker_is_an_input(text: str) -> None:
    assert parse_instances(f"Input: {text}\nOutput: b", False) == [(text, "b")]


def test_an_output_alone_has_an_empty_input() -> None:
    assert parse_instances("Output: b", False) == parse_instances("输出：b", False) == [("", "b")]


def test_an_output_that_says_none_is_left_alone() -> None:
    assert parse_instances("Input: a\nOutput: None", False) == [("a", "None")]


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "\n",
        "Paris.",
        "I'm sorry, but I can't help with that.",
        "Example 1",
        "```",
        "<think>Input: a",
    ],
)
@pytest.mark.parametrize("labelled", [True, False])
def test_a_reply_without_fields_has_no_instance(reply: str, labelled: bool) -> None:
    assert parse_instances(reply, labelled) == []


@pytest.mark.parametrize(
    ("reply", "pairs"),
    [
        ("Input: a\nOutput: b\n\nInput: c\nOutput: d and", [("a", "b")]),
        ("Input: a\nOutput: b\n\nInput: c", [("a", "b")]),
        ("Input: a\nOutput: b", []),
        ("Input: a", []),
        ("", []),
        ("Input: a\nOutput:\n```\ncode\n\nInput: x", []),
        pytest.param("Input: a\nOutput: b\n\nExample 2\n", [("a", "b")]),
    ],
)
def test_a_reply_cut_by_the_limit_loses_only_its_last_instance(
    reply: str, pairs: list[tuple[str, str]]
) -> None:
    assert parse_instances(reply, False, truncated=True) == pairs


PIECES = [
    "Input: ",
    "Output:",
    "**Class label:** ",
    "输入：",
    "输出：",
    "标签：",
    "Example 1",
    "\n",
    "\n\n",
    "```",
    "a",
    "写诗",
    "none",
    "---",
    "<think>",
    "</think>",
    " ",
    "\r",
    "***",
    "1. ",
    "\u2028",
    "\ud800",
    "Email: ",
]


@given(st.lists(st.sampled_from(PIECES), max_size=25).map("".join), st.booleans(), st.booleans())
def test_any_reply_is_read_and_nothing_is_invented(reply: str, labelled: bool, cut: bool) -> None:
    pairs = parse_instances(reply, labelled, truncated=cut)
    lines = reply.replace("\r", "").split("\n")
    for text in (text for pair in pairs for text in pair):
        assert text == text.strip()
        assert all(any(part in line for line in lines) for part in text.split("\n"))


@given(
    st.lists(
        st.tuples(*[st.text("ab \n:*猫", min_size=1, max_size=9).map(str.strip).filter(bool)] * 2),
        min_size=1,
        max_size=4,
    )
)
def test_what_is_written_in_our_own_layout_comes_back_unchanged(
    pairs: list[tuple[str, str]],
) -> None:
    divider = re.compile(r"(\A|\n)\s*\*{3,}\s*\Z")
    pairs = [pair for pair in pairs if not any(divider.search(text) for text in pair)]
    assert (
        parse_instances("\n\n".join(f"Input: {a}\nOutput: {b}" for a, b in pairs), False) == pairs
    )


# ----- prompt and accounting


@pytest.mark.parametrize(
    ("language", "plain", "label"),
    [("en", ["Input:", "Output:"], "Class label:"), ("zh", ["输入：", "输出："], "类别标签：")],
)
def test_a_prompt_shows_the_fields_in_the_order_that_it_asks_for(
    settings: Settings, language: str, plain: list[str], label: str
) -> None:
    config = settings(language=language)
    first, labelled = (stage_3_prompt(config, "Name it now.", flag) for flag in (False, True))
    assert label not in first
    assert plain[1] not in labelled
    assert first.index(plain[0]) < first.index(plain[1])
    assert labelled.index(label) < labelled.index(plain[0])


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("instruction", ["Sort {these} words.", "用 50% 的字数概括。", "a\\1{0}"])
def test_the_task_stands_whole_on_a_line_near_the_end(
    settings: Settings, labelled: bool, instruction: str
) -> None:
    assert instruction in stage_3_prompt(settings(), instruction, labelled).split("\n")[-2:]


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_prompt_asks_for_as_many_examples_as_the_setting_says(
    settings: Settings, language: str, labelled: bool
) -> None:
    config = settings(instances_per_instruction=4, language=language)
    assert re.findall(r"\d+", stage_3_prompt(config, "Name it now.", labelled).split("\n")[0]) == [
        "4"
    ]


def test_over_many_tasks_either_label_comes_first_about_as_often(settings: Settings) -> None:
    lines = [
        stage_3_prompt(settings(), f"Task number {n}.", True).split("\n")[-1] for n in range(200)
    ]
    assert len(set(lines)) == 2
    assert 70 < lines.count(lines[0]) < 130


def test_our_own_demonstrations_are_read_by_our_parser(settings: Settings) -> None:
    for language, task in (("en", "Task:"), ("zh", "任务：")):
        for labelled in (True, False):
            blocks = stage_3_prompt(settings(language=language), "Name it now.", labelled).split(
                f"\n\n{task}\n"
            )[1:-1]
            assert blocks
            for block in blocks:
                [(_, target)] = parse_instances(block.split("\n", 1)[1], labelled)
                assert target


def taken(
    settings: Settings, text: str, finish: str = "stop", flag: bool | None = False
) -> tuple[Task, list[dict]]:
    task, results = Task("machine_task_0", "Name it now.", flag), Results()
    take_instances(settings(), task, Reply(text, finish), results)
    return task, results.rejected


def test_the_instance_that_the_limit_cut_is_rejected_as_cut_off(settings: Settings) -> None:
    task, [row] = taken(settings, "Input: a\nOutput: b\n\nInput: c\nOutput: d", "length")
    assert task.instances == [{"input": "a", "output": "b"}]
    assert (row["rule"], row["input"], row["output"]) == ("cut_off", "c", "d")


def test_a_reply_without_instance_is_rejected_with_its_text_and_never_becomes_an_output(
    settings: Settings,
) -> None:
    task, [row] = taken(settings, "Paris.")
    assert task.instances == []
    assert (row["stage"], row["rule"], row["output"]) == ("instances", "no_instance", "Paris.")


def test_an_unknown_task_is_read_as_no_classification(settings: Settings) -> None:
    task, rejected = taken(settings, "Input: a\nOutput: b\nand more", flag=None)
    assert (task.instances, rejected) == ([{"input": "a", "output": "b\nand more"}], [])


@pytest.mark.parametrize(
    ("given", "copied"), [("{}", True), ("Peru\n{}\nJapan", False), ("other", False)]
)
def test_a_short_input_of_an_example_may_be_a_line_of_a_longer_input(
    given: str, copied: bool
) -> None:
    task = Task("1", "Name the continent of the country.", is_classification=True)
    config = Config(provider="practice")
    shots = workshop.instance_shots(config, task)
    inputs = [instance["input"] for shot in shots for instance in shot["instances"]]
    short = next(text for text in inputs if text and not workshop.is_long(text))
    assert bool(workshop.copied_from(config, task, (given.format(short), "Africa"))) == copied


def test_a_cell_that_changes_how_replies_are_read_changes_what_is_read(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(provider="practice", num_instructions=4)
    before = workshop.run(config, say=lambda text: None)["counts"]["instances"]
    assert before["out"] == 4
    monkeypatch.setattr(workshop, "as_pair", lambda example: ("shown", "the same for all"))
    workshop.run(config, say=lambda text: None)
    rows = list(workshop.read_rows(Path(config.work_dir) / workshop.STEP_FILES[2]))
    found = {pair["input"] for row in rows for pair in row["instances"]}
    assert found == {"shown"}
