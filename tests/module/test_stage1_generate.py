"""Stage 1, generate: reading what chat models write, the rules of a candidate, the prompt, and who
is accounted for."""

from __future__ import annotations

import math
import random
import re
import threading
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from helpers.runs import local, neighbours, views
from helpers.server import Server, scripted_model
from hypothesis import given
from hypothesis import strategies as st

from self_instruct_workshop import (
    DEFAULT_SEEDS,
    RULES,
    Config,
    InstructionPool,
    Model,
    Reply,
    Results,
    Task,
    dangling_number,
    instruction_problem,
    instruction_prompt,
    load_seed_tasks,
    parse_instructions,
    read_data,
    requests_ahead,
    run,
    take_candidates,
)

A, B, C = (
    "Name three rivers in Spain.",
    "Translate NASA's report into French.",
    "Which word is longer, cat or mouse?",
)
ZA, ZB = "列出三条河流。", "把下面的句子译成英文，保留 NASA 一词。"
Settings = Callable[..., Config]


# ----- reading the replies of chat models


LIST_STYLES = [
    "{n}. {t}",
    "{n}.{t}",
    "{n}) {t}",
    "{n}: {t}",
    "({n}) {t}",
    "**{n}.** {t}",
    "**{n}**. {t}",
    "**{n})** {t}",
    "{n}. **{t}**",
    "{n}. __{t}__",
    '{n}. "{t}"',
    "{n}. “{t}”",
    "{n}. 「{t}」",
    "Task {n}: {t}",
    "task {n}. {t}",
    "**Task {n}:** {t}",
    "**Task {n}**: {t}",
    "### Task {n}: {t}",
    "### {n}. {t}",
    "Instruction {n}: {t}",
    "Question {n}: {t}",
    "- {n}. {t}",
    "* **{n}.** {t}",
    "> {n}. {t}",
    "  {n}. {t}",
    "{n}. Task: {t}",
    "{n}. Instruction: {t}",
    "{n}. **Rivers:** {t}",
    "{n}. **Rivers**: {t}",
    "{n}.   {t}  ",
    "{n}.\n{t}",
    "{n}.\n   {t}",
    "{n}、{t}",
    "（{n}）{t}",
    "{n}）{t}",
    "第{n}题：{t}",
    "任务{n}：{t}",
    "任务 {n}：{t}",
    "**{n}、**{t}",
    "指令{n}：{t}",
    "**{n}. {t}**",
    "{n}. **Rivers** - {t}",
    "{n}. **Rivers**\n   {t}",
    "{n}. **Rivers**\n\n   {t}",
    "   {n}. {t}",
    "{n}\\. {t}",
]


def test_a_list_is_read_in_every_style() -> None:
    wrong = []
    for style, gap in product(LIST_STYLES, ["\n", "\n\n"]):
        reply = gap.join(style.format(n=n, t=task) for n, task in enumerate([A, B, ZB], 9))
        if parse_instructions(reply) != [A, B, ZB]:
            wrong.append(reply)
    assert wrong == []


def full_width(number: int) -> str:
    return "".join(chr(ord(digit) + 0xFEE0) for digit in str(number))


@pytest.mark.parametrize("mark", ["．", ".", "、", "）"])
def test_full_width_numbers_are_read(mark: str) -> None:
    reply = "\n".join(f"{full_width(n)}{mark}{task}" for n, task in enumerate([ZA, ZB, A], 9))
    assert parse_instructions(reply) == [ZA, ZB, A]


@pytest.mark.parametrize("start", [1, 8, 9, 12, 99])
def test_a_list_may_restart_at_any_number(start: int) -> None:
    assert parse_instructions(f"Sure!\n\n{start}. {A}\n{start + 1}. {B}") == [A, B]


@pytest.mark.parametrize("gap", ["\n", "\n\n"])
def test_text_before_the_second_number_continues_the_dangling_first_one(gap: str) -> None:
    assert parse_instructions(f" {A}{gap}10. {B}{gap}11. {C}") == [A, B, C]
    assert parse_instructions(f" {A}{gap}6. {B}", first=5) == [A, B]


@pytest.mark.parametrize(
    "preamble",
    [
        "Sure! Here are some more tasks:",
        "Certainly, here are eight new tasks:",
        "Here you go:",
        "好的，以下是更多任务：",
        "**New tasks**",
        "Tasks:",
        "Of course!\n\nHere are the tasks you asked for:",
        "当然！",
    ],
)
@pytest.mark.parametrize("first", [1, 9])
def test_a_preamble_is_no_task(preamble: str, first: int) -> None:
    assert parse_instructions(f"{preamble}\n\n{first}. {A}\n{first + 1}. {B}") == [A, B]


@pytest.mark.parametrize(
    "remark",
    [
        "\n\nLet me know if you need more!",
        "\nLet me know if you need more!",
        "\n\nI hope these tasks help.",
        "\n\n---",
        "\n---",
        "\n\nThese tasks cover many different topics.",
        "\n\n希望这些任务对你有帮助！",
        "\n希望这些任务对你有帮助！",
        "\n\nWould you like me to write more?",
        "\n\n---\n\nFeel free to ask for more.",
    ],
)
def test_a_closing_remark_is_no_part_of_the_last_task(remark: str) -> None:
    assert parse_instructions(f"9. {A}\n10. {B}{remark}") == [A, B]


@pytest.mark.parametrize(
    ("text", "task"),
    [
        (
            "Compare the two cities\nby size and by climate.",
            "Compare the two cities by size and by climate.",
        ),
        ("Compare:\n   - Rome\n   - Oslo", "Compare: - Rome - Oslo"),
        ("Order the steps:\n   1. Bake\n   2. Mix", "Order the steps: 1. Bake 2. Mix"),
        ("Order the steps:\n   a) Bake\n   b) Mix", "Order the steps: a) Bake b) Mix"),
        ("Sum up the story:\n\nA fox met a crow.", "Sum up the story: A fox met a crow."),
        ("概括这段话：\n\n狐狸遇见了乌鸦。", "概括这段话： 狐狸遇见了乌鸦。"),
        ("Add 3.5 to\n3.5 and round.", "Add 3.5 to 3.5 and round."),
        ("Say in words when it is\n10:30 in Rome.", "Say in words when it is 10:30 in Rome."),
        ("Who reigned in\n1066. or later?", "Who reigned in 1066. or later?"),
        ("2024 was a leap year. True?", "2024 was a leap year. True?"),
        ("3 + 4 = ? Explain.", "3 + 4 = ? Explain."),
        (
            "What does this print?\n```python\nprint(1)\n```",
            "What does this print? ```python print(1) ```",
        ),
        (
            "What does this print:\n\n```python\na = 1\n\nprint(a)\n```",
            "What does this print: ```python a = 1 print(a) ```",
        ),
        (
            "What does this print?\n\n```python\nprint(1)\n```",
            "What does this print? ```python print(1) ```",
        ),
        ("Order the steps:\n1. Bake\n2. Mix", "Order the steps: 1. Bake 2. Mix"),
    ],
)
def test_a_task_of_several_lines_becomes_one_line(text: str, task: str) -> None:
    assert parse_instructions(f"9. {text}\n10. {B}") == [task, B]


@pytest.mark.parametrize(
    "answer",
    [
        "\nInput: 5\nOutput: 6",
        "\n   Output: Ebro",
        "\n   **Input:** 5\n   **Output:** 6",
        "\n- Input: 5",
        "\n输入：五\n输出：六",
        "\n\nInput:\n\n5\n\nOutput:\n\n6",
        "\nAnswer: the Ebro",
        "\n答案：埃布罗河",
        "\nClass label: A",
        " Input: 5 Output: 6",
    ],
)
def test_an_input_or_answer_glued_to_a_task_is_cut_off(answer: str) -> None:
    assert parse_instructions(f"9. {A}{answer}\n10. {B}{answer}") == [A, B]


@pytest.mark.parametrize("tag", ["think", "thinking"])
@pytest.mark.parametrize(
    "text",
    ["{0}x\n1. Plan it well.\n2. Do.{1}\n", "x\n1. Plan it well.{1}", "{0}{1}", "\n{0}a{1}{0}b{1}"],
)
def test_thoughts_are_no_tasks(tag: str, text: str) -> None:
    thoughts = text.format(f"<{tag}>", f"</{tag}>")
    assert parse_instructions(f"{thoughts}9. {A}\n10. {B}") == [A, B]


def test_thoughts_that_never_end_hold_no_task() -> None:
    assert parse_instructions(f"<think>I could write\n1. {A}\n2. {B}") == []


def test_a_task_about_the_mark_of_thoughts_is_a_task() -> None:
    assert parse_instructions(f"9. Explain what <think> means in a reply.\n10. {B}")[-1] == B


@pytest.mark.parametrize("bullet", ["- ", "* ", "• ", "· ", "  - "])
@pytest.mark.parametrize(
    "around", ["{}", "Sure! Here are more tasks:\n\n{}\n\nLet me know if you need more!"]
)
def test_a_list_without_numbers_is_read_by_its_bullets(bullet: str, around: str) -> None:
    assert parse_instructions(around.format("\n".join(bullet + task for task in (A, B, C)))) == [
        A,
        B,
        C,
    ]


def test_without_numbers_and_bullets_a_line_is_a_task() -> None:
    assert parse_instructions(
        f"Sure! Here are more tasks:\n\n{A}\n\n{B}\n{C}\n\nLet me know if you need more!"
    ) == [
        A,
        B,
        C,
    ]


def test_a_list_in_a_code_block_is_a_list() -> None:
    assert parse_instructions(f"```\n9. {A}\n10. {B}\n```") == [A, B]


def test_line_ends_of_windows_are_line_ends() -> None:
    assert parse_instructions(f"9. {A}\r\n10. {B}\r\n\r\nLet me know if you need more!\r\n") == [
        A,
        B,
    ]


@pytest.mark.parametrize(
    "reply", ["", " \n\n ", "9.", "9. \n10.", "---", "Sure! Here are some more tasks:", "<think>"]
)
def test_a_reply_without_tasks_gives_none(reply: str) -> None:
    assert [task for task in parse_instructions(reply) if not instruction_problem(task)] == []


@pytest.mark.parametrize(
    "task",
    [
        "Compute 2 * 3 * 4 by hand.",
        "What is a ** b ** c in Python?",
        "Say when 10:30 is.",
        'Compare "a" and "b"',
        "Rate https://example.org/a_b_c from 1 to 5.",
        "Explain snake_case and _private names.",
        "Explain f(*args, **kwargs).",
        "Fill in: {name} is {age}.",
        "Why is 5 > 3 and 3 < 5?",
        "Is it A. Rome, B. Oslo or C. Kyiv?",
        "Explain what __init__ does.",
    ],
)
def test_signs_inside_a_task_are_left_alone(task: str) -> None:
    assert parse_instructions(f"9. {task}\n10. {B}") == [task, B]


def test_a_list_that_goes_on_at_two_behind_the_dangling_number_is_not_merged() -> None:
    assert parse_instructions(f"9. {A}\n2. {B}\n3. {C}") == [A, B, C]


def test_headings_between_lists_lose_no_task() -> None:
    assert parse_instructions(f"Verbs:\n1. {A}\n2. {B}\n\nNouns:\n1. {C}\n2. {ZA}") == [A, B, C, ZA]


def test_a_sentence_that_names_input_and_output_is_kept_whole() -> None:
    text = "Find a rule for which input: 3 gives output: 9."
    assert parse_instructions(f"9. {text}\n10. {B}") == [text, B]


@pytest.mark.parametrize(
    ("reply", "tasks"),
    [
        (f"9. {A}\n10. {B}\n11. Trans", [A, B]),
        (f"{A}\n10. {B}\n11. Trans", [A, B]),
        (f"- {A}\n- {B}\n- Trans", [A, B]),
        (f"9. {A}", []),
        ("", []),
        (f"9. {A}\n10. {B}\n11.", [A, B]),
    ],
)
def test_a_reply_cut_by_the_limit_loses_only_its_last_task(reply: str, tasks: list[str]) -> None:
    assert parse_instructions(reply, truncated=True) == tasks


@given(
    st.lists(
        st.sampled_from(
            [
                "9. ",
                "10) ",
                "1、",
                "**",
                "\n",
                "\n\n",
                "- ",
                "Task 3: ",
                "```",
                "Input: ",
                "<think>",
                "</think>",
                "“",
                "”",
                '"',
                " ",
                "word",
                "写诗",
                ":",
                "：",
                "（",
                "*",
                "#",
                "\r",
                "\u2028",
                "\ud800",
                "\0",
                "Sure! ",
            ]
        ),
        max_size=25,
    ).map("".join)
)
def test_any_reply_is_read_and_nothing_is_invented(reply: str) -> None:
    for task in parse_instructions(reply):
        assert task == " ".join(task.split()) != ""
        rest = iter(reply)
        assert all(char == " " or char in rest for char in task)


# ----- rules of a candidate


SOUND = [
    A,
    B,
    C,
    ZA,
    ZB,
    "Define gravity briefly.",
    "写一首诗",
    "川を三つ挙げてください。",
    "강 세 개의 이름을 말하세요.",
    "¿Qué es un río?",
    "Назови три реки в Испании.",
    "ตั้งชื่อแม่น้ำสามสาย",
    "स्पेन की तीन नदियों के नाम बताओ।",
    "اذكر ثلاثة أنهار في إسبانيا.",
    '"To be": who said it?',
    "“天下为公”是什么意思？",
    "《红楼梦》的作者是谁？",
    "$5 plus $6 is what?",
    "(a) or (b): which is prime?",
    "3 plus 4 is what?",
    "Write a program that sorts numbers.",
    "Explain what a map function does.",
    "Explain to a minor which laws protect them.",
    "解释未成年人保护法的作用。",
    "用“画蛇添足”造一个句子。",
    "Sort the file names by length.",
    "«Le Petit Prince» : résumez ce livre.",
    "„Faust“ in drei Sätzen zusammenfassen.",
    "`len` returns what in Python?",
    "如果你需要请假，怎么写邮件？",
    "Explain trends in the audio industry.",
]


def test_a_sound_instruction_breaks_no_rule() -> None:
    found = {text: instruction_problem(text) for text in SOUND}
    assert {text: rule for text, rule in found.items() if rule != ""} == {}


UNFIT = [
    ("", "empty"),
    ("...", "empty"),
    ("**", "empty"),
    ("。！", "empty"),
    ("Sort", "too_short"),
    ("Sort it.", "too_short"),
    ("写诗", "too_short"),
    ("写诗！", "too_short"),
    ("word " * 151, "too_long"),
    ("字" * 301, "too_long"),
    ("- Sort the words.", "leading_punctuation"),
    ("* Sort the words.", "leading_punctuation"),
    (") Sort the words.", "leading_punctuation"),
    ("：写一首诗", "leading_punctuation"),
    ("、写一首诗", "leading_punctuation"),
    ("Sure! Here are some more tasks:", "small_talk"),
    ("好的，以下是更多任务：", "small_talk"),
    ("I'm sorry, but I can't help with that.", "refusal"),
    ("抱歉，我无法完成这个请求。", "refusal"),
    ("Draw a cat on a roof.", "needs_more_than_text"),
    ("Describe the picture below.", "needs_more_than_text"),
    ("画一张猫的图片。", "needs_more_than_text"),
    ("根据这张照片写一段话。", "needs_more_than_text"),
]


def test_each_rule_turns_away_what_it_names() -> None:
    found = [(text, instruction_problem(text)) for text, _ in UNFIT]
    assert found == UNFIT


@pytest.mark.parametrize("text", ["word " * 150, "字" * 300, "одно " * 150, "한" * 300])
def test_an_instruction_may_have_150_words(text: str) -> None:
    assert instruction_problem(text) == ""


def test_a_candidate_of_any_letters_has_a_verdict() -> None:
    @given(st.text(min_size=0, max_size=40))
    def check(text: str) -> None:
        assert re.fullmatch(r"[a-z_]*", instruction_problem(text))

    check()


EXAMPLES = [
    (row["rule"], row["why"], row["pattern"], kind, text)
    for row in read_data("patterns")
    for kind in ("hits", "misses")
    for text in row[kind]
]


def test_each_pattern_does_what_its_examples_say() -> None:
    wrong = []
    for rule, why, pattern, kind, text in EXAMPLES:
        if bool(re.search(pattern, text, re.I)) != (kind == "hits"):
            wrong.append((rule, why, kind, text))
    assert wrong == []


def test_each_pattern_has_examples_of_both_kinds() -> None:
    rules = {*RULES, "undecided", "verdict", "statement", "no_input", "placeholder"}
    rules |= {"speaks_of_an_input", "asks_for_code", "code", "asks_for_reasons"}
    rules |= {
        "speaks_of_tasks",
        "next_task",
        "talk_of_examples",
        "list_title",
        "points_below",
        "offer",
        "merged_tasks",
        "only_a_link",
        "about_links",
    }
    patterns = read_data("patterns")
    assert [row for row in patterns if not (row["hits"] and row["misses"] and row["why"])] == []
    assert [row["rule"] for row in patterns if row["rule"] not in rules] == []


# ----- the prompt

SEEDS = [
    Task(f"seed_task_{n}", f"Seed number {n}: sort {{these}} words.", n % 4 == 0) for n in range(40)
]
MACHINE = [Task(f"machine_task_{n}", f"Machine number {n}: count words.") for n in range(9)]


def shown(prompt: str) -> list[str]:
    return re.findall(r"^\d+\. (.*)$", prompt, re.M)


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("index", [0, 3])
def test_a_prompt_numbers_eight_tasks_and_breaks_off_at_the_ninth(
    settings: Settings, language: str, index: int
) -> None:
    prompt = instruction_prompt(settings(language=language), SEEDS, [], index)
    assert re.findall(r"^(\d+)\.", prompt, re.M) == list("123456789")
    assert prompt.endswith("\n9.")
    assert dangling_number(prompt) == 9
    assert "{" not in prompt.split("\n1. ")[0]


@pytest.mark.parametrize(("made", "expected"), [(0, 0), (1, 1), (2, 2), (9, 2)])
def test_at_most_two_of_the_tasks_shown_are_machine_tasks(
    settings: Settings, made: int, expected: int
) -> None:
    for index in range(12):
        tasks = shown(instruction_prompt(settings(), SEEDS, MACHINE[:made], index))
        assert len(tasks) == len(set(tasks)) == 8
        assert sum(task.startswith("Machine") for task in tasks) == expected


def test_machine_tasks_stand_anywhere_among_the_seeds(settings: Settings) -> None:
    prompts = [shown(instruction_prompt(settings(), SEEDS, MACHINE, index)) for index in range(40)]
    assert {
        i for tasks in prompts for i, task in enumerate(tasks) if task.startswith("Machine")
    } == set(range(8))


@pytest.mark.parametrize(("tasks_shown", "machine"), [(1, 0), (1, 5), (3, 50), (20, 2), (8, 0)])
def test_how_many_tasks_are_shown_is_a_setting(
    settings: Settings, tasks_shown: int, machine: int
) -> None:
    config = settings(tasks_shown=tasks_shown, machine_tasks_shown=machine)
    prompt = instruction_prompt(config, SEEDS, MACHINE, 0)
    assert len(shown(prompt)) == tasks_shown == dangling_number(prompt) - 1
    assert sum(task.startswith("Machine") for task in shown(prompt)) == min(
        machine, tasks_shown, len(MACHINE)
    )


@pytest.mark.parametrize("seeds", [1, 3, 7])
def test_fewer_seeds_than_tasks_to_show_are_all_shown(settings: Settings, seeds: int) -> None:
    prompt = instruction_prompt(settings(), SEEDS[:seeds], [], 0)
    assert sorted(shown(prompt)) == sorted(task.instruction for task in SEEDS[:seeds])
    assert prompt.endswith(f"\n{seeds + 1}.")


@pytest.mark.parametrize(
    ("every", "labelled"), [(4, {3, 7, 11}), (1, set(range(12))), (0, set()), (5, {4, 9})]
)
def test_every_nth_prompt_asks_for_classification_tasks(
    settings: Settings, every: int, labelled: set[int]
) -> None:
    config = settings(classification_every=every)
    prompts = [instruction_prompt(config, SEEDS, [], index) for index in range(12)]
    assert {
        i for i, prompt in enumerate(prompts) if "classification" in prompt.split("\n")[0]
    } == labelled
    labels = {task.instruction for task in SEEDS if task.is_classification}
    assert {i for i, prompt in enumerate(prompts) if set(shown(prompt)) <= labels} == labelled


def test_the_classification_prompt_takes_any_seeds_where_none_is_classification(
    settings: Settings,
) -> None:
    seeds = [Task("seed_task_0", A), Task("seed_task_1", B, False)]
    assert sorted(shown(instruction_prompt(settings(), seeds, [], 3))) == [A, B]


@pytest.mark.parametrize("text", ["{0} and {name} and {{x}}", "100% of %s", "a \\1 b", "{", "}{"])
def test_braces_and_other_signs_of_a_seed_are_shown_as_they_are(
    settings: Settings, text: str
) -> None:
    assert shown(instruction_prompt(settings(), [Task("s", text)], [], 0)) == [text]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("Sort\n these  words:", "Sort these words"),
        ("写一首诗：", "写一首诗"),
        ("At 10:30 go.", "At 10:30 go."),
    ],
)
def test_a_task_is_shown_on_one_line_without_its_last_colon(
    settings: Settings, text: str, line: str
) -> None:
    assert shown(instruction_prompt(settings(), [Task("s", text)], [], 0)) == [line]


def test_a_prompt_depends_on_the_seed_and_the_request_and_on_nothing_else(
    settings: Settings,
) -> None:
    prompt = instruction_prompt(settings(), SEEDS, MACHINE, 5)
    random.seed(7)
    assert instruction_prompt(settings(concurrency=1, max_tokens=9), SEEDS, MACHINE, 5) == prompt
    assert instruction_prompt(settings(seed=43), SEEDS, MACHINE, 5) != prompt
    assert instruction_prompt(settings(), SEEDS, MACHINE, 6) != prompt


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_shipped_seeds_make_prompts_in_their_language(
    settings: Settings, language: str
) -> None:
    seeds = load_seed_tasks(DEFAULT_SEEDS[language])
    header = instruction_prompt(settings(language=language, tasks_asked=13), seeds, [], 0).split(
        "\n1. "
    )[0]
    assert "13" in header
    assert bool(re.search("[一-鿿]", header)) == (language == "zh")


# ----- when requests are planned


@given(
    st.integers(1, 500),
    st.integers(0, 499),
    st.integers(1, 50),
    st.integers(1, 30),
    st.integers(0, 60),
    st.data(),
)
def test_what_is_on_its_way_is_never_more_than_the_need_or_than_patience(
    wanted: int, accepted: int, asked: int, patience: int, in_flight: int, data: st.DataObject
) -> None:
    accepted, dry = min(accepted, wanted - 1), data.draw(st.integers(0, patience - 1))
    config = Config(num_instructions=wanted, tasks_asked=asked, patience=patience)
    ahead = requests_ahead(config, accepted, dry, in_flight)
    most = math.ceil((wanted - accepted) / asked)
    assert ahead >= (in_flight == 0)  # it never stops before it is done
    assert ahead == 0 or in_flight + ahead <= most
    assert ahead == 0 or not dry or in_flight + ahead <= patience - dry
    assert requests_ahead(config, wanted, dry, in_flight) == 0
    assert requests_ahead(config, accepted, patience, in_flight) == 0


def test_one_request_begins_and_their_number_grows_with_the_pool() -> None:
    config = Config(num_instructions=1000)
    ahead = [requests_ahead(config, accepted, 0) for accepted in (0, 7, 8, 80, 400, 990, 999)]
    assert ahead == [1, 3, 4, 31, 75, 2, 1]


def test_requests_are_planned_while_others_are_on_their_way(settings: Settings) -> None:
    """Request 1 is answered only when request 3 is out, which is planned after request 0."""
    third = threading.Event()

    def ask(item: int) -> int:
        if item == 3:
            third.set()
        return item if item != 1 else item + third.wait(timeout=20)

    planned = iter([[0, 1, 2], [3], [], [4]])
    on_their_way = []

    def plan(in_flight: int) -> list[int]:
        on_their_way.append(in_flight)
        return next(planned, [])

    with Model(settings(provider="practice", concurrency=3)) as model:
        assert list(model.ask_each("generate", ask, plan)) == [
            (0, 0), (1, 1 + True), (2, 2), (3, 3), (4, 4)
        ]  # fmt: skip
    assert on_their_way == [0, 2, 2, 1, 1, 0]


class InRounds(Model):
    """A model as earlier programs had it: stage 1 waits for all replies, then it plans more."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.journal.in_rounds = True


def test_the_journal_of_an_earlier_program_gives_the_files_it_gave(settings: Settings) -> None:
    with Server(scripted_model()) as server:
        config = settings(**local(server), num_instructions=120)
        run(config, say=lambda text: None, model_class=InRounds)
        folder = Path(config.work_dir)
        before = views(folder)
        lines = (folder / "responses.jsonl").read_bytes()
        assert b'"plan"' not in lines

        asked = len(server.requests)
        run(config, say=lambda text: None)
        assert views(folder) == before
        assert (folder / "responses.jsonl").read_bytes() == lines
        assert all(request["method"] == "GET" for request in server.requests[asked:])

        # What is asked on top of it goes on in rounds, so the next call gives the same once more.
        more = replace(config, num_instructions=200)
        run(more, say=lambda text: None)
        after = views(folder)
        assert b'"plan"' not in (folder / "responses.jsonl").read_bytes()
        run(more, say=lambda text: None)
        assert views(folder) == after


# ----- every candidate has its place

PROMPT = f"Come up with 8 new tasks.\n- Write one task on each line.\n\n1. {A}\n9."


def take(
    config: Config, text: str, finish: str = "stop", results: Results | None = None
) -> Results:
    results, pool = results or Results(), InstructionPool()
    pool.add(A)
    before = len(results.tasks)
    assert (
        take_candidates(config, pool, Reply(text, finish, prompt=PROMPT), 7, results)
        == len(results.tasks) - before
    )
    return results


def test_each_candidate_is_accepted_or_rejected_by_a_named_rule(settings: Settings) -> None:
    listed = [
        A,
        B,
        "Sort it.",
        "Draw a cat on a roof.",
        B,
        "Write one task on each line.",
        "...",
        C,
    ]
    results = take(settings(), "\n".join(f"{n}. {text}" for n, text in enumerate(listed, 9)))
    assert [task.instruction for task in results.tasks] == [B, C]
    assert {(row["rule"], row["instruction"]) for row in results.rejected} == {
        ("too_similar", A),
        ("too_short", "Sort it."),
        ("needs_more_than_text", "Draw a cat on a roof."),
        ("too_similar", B),
        ("prompt_echo", "Write one task on each line."),
        ("empty", "..."),
    }
    assert {row["stage"] for row in results.rejected} == {"generate"}


def test_what_was_rejected_as_similar_names_its_neighbour_and_the_score(settings: Settings) -> None:
    [row] = take(settings(), "9. Name three rivers in France.").rejected
    assert (row["rule"], row["evidence"], row["score"]) == ("too_similar", A, pytest.approx(0.8))


def test_the_task_that_the_limit_cut_is_rejected_as_cut_off(settings: Settings) -> None:
    results = take(settings(), f"9. {B}\n10. {C}\n11. Trans", "length")
    assert [task.instruction for task in results.tasks] == [B, C]
    assert [(row["rule"], row["instruction"]) for row in results.rejected] == [("cut_off", "Trans")]


def test_what_comes_after_the_count_is_reached_is_not_needed(settings: Settings) -> None:
    results = take(settings(num_instructions=1), f"9. {A}\n10. {B}\n11. {C}")
    assert [task.instruction for task in results.tasks] == [B]
    assert [(row["rule"], row["instruction"]) for row in results.rejected] == [
        ("too_similar", A),
        ("not_needed", C),
    ]


def test_an_accepted_task_knows_its_neighbours_its_request_and_its_reply(
    settings: Settings,
) -> None:
    text = f"9. {B}\n10. Name two famous bridges."
    first, second = take(settings(), text).tasks
    notes = second.notes["generate"]
    assert [first.id, second.id] == ["machine_task_0", "machine_task_1"]
    assert list(neighbours(notes)) == [A, B]
    assert notes["avg_similarity_score"] == pytest.approx(sum(neighbours(notes).values()) / 2)
    assert notes["request_idx"] == 7
    assert notes["metadata"]["prompt"] == PROMPT
    assert notes["metadata"]["response"] == {"choices": [{"text": text, "finish_reason": "stop"}]}


def test_ten_neighbours_are_kept_and_the_mean_is_over_the_whole_pool(settings: Settings) -> None:
    pool, results = InstructionPool(), Results()
    for n in range(30):
        pool.add(f"w{n} x{n} y{n}")
    pool.add("w0 far away off")
    take_candidates(settings(), pool, Reply("9. w0 new old odd", "stop", prompt=PROMPT), 0, results)
    notes = results.tasks[0].notes["generate"]
    assert len(notes["most_similar"]) == 10
    assert notes["avg_similarity_score"] == pytest.approx((2 / 7 + 2 / 8) / 31)


@given(
    st.lists(
        st.sampled_from([A, B, C, ZA, ZB, "Sort it.", "...", "Draw a cat.", "Sure! Go on."]),
        max_size=9,
    ),
    st.sampled_from(["stop", "length"]),
    st.integers(1, 4),
)
def test_no_candidate_is_lost_or_counted_twice(listed: list[str], finish: str, wanted: int) -> None:
    config, text = (
        Config(num_instructions=wanted),
        "\n".join(f"{n}. {task}" for n, task in enumerate(listed, 9)),
    )
    results = take(config, text, finish)
    placed = [task.instruction for task in results.tasks] + [
        row["instruction"] for row in results.rejected
    ]
    assert sorted(placed) == sorted(parse_instructions(text))
    assert len(results.tasks) <= wanted


def test_capitals_inside_a_task_are_never_changed(settings: Settings) -> None:
    tasks = [
        "translate NASA's REPORT for McDonald.",
        "Is an iPhone an iOS device, A or B?",
        "解释 JSON 与 HTML 的区别。",
    ]
    assert [
        task.instruction
        for task in take(settings(), "\n".join(f"- {task}" for task in tasks)).tasks
    ] == tasks


@pytest.mark.parametrize("style", ["{}、{}", "{}．{}", "{}){}", "{}. {}", "第{}题：{}"])
def test_a_task_that_begins_with_a_digit_is_read(style: str) -> None:
    tasks = ["5个苹果分给3个孩子，每人几个？", "2024年有多少天？", "写一首诗吧朋友。"]
    assert (
        parse_instructions("\n".join(style.format(n, task) for n, task in enumerate(tasks, 9)))
        == tasks
    )
