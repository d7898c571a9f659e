"""The parsers, what they look at, and what holds of any text that they read."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import product
from typing import Any

from rouge_score.tokenize import tokenize as rouge_tokenize

import self_instruct_workshop as ours

# What the parsers look at, and what else a text may hold: a piece ends at a bar or with the line.
PIECES = """\
9.|10) |1、|1. |  5. b|⏎9. |⏎10.|（9）|９．|**11.** |Task 3: |- |* |• |**|__|```|```python⏎|`|~|---
⏎---⏎|***|#|### |>
"|“|”|「|」|(|（|[|<|{|\\|_|:|：|.|?|。|,| |⏎|⏎⏎|⏎ ⏎|\t|\r⏎|\0|\u2028|\x85|\ufeff|\u200f|\u0301
\ud800|🙂|ﷺ|ß|İ|ı|។
<think>|</think>|<thinking>|Sure! |Here are the tasks:|Let me know if you need more|a|b c|word|写诗
猫|9999999|0|٣|/
Input: |Input:|input|Output: |⏎Output 2: |Output|**Input:** |### Output⏎|Class label: |Class label
输入：|输出：|标签：
Example 1⏎|Example|⏎Example 2:|示例1：|例|⏎Task:⏎|Task: x⏎|任务：|Task|none|n/a|""
. input: |output: |yes|no|Yes.|No
是|不是|否|yes or |answer is |not a |这是|分类|is a classification|I'm sorry|I cannot help with
抱歉|无法|Draw |A: b|
Write a program|Name three rivers.|…|[your answer]|this picture|Input: x⏎|Output: y⏎|⏎9. a|a:⏎|a⏎
1. Input: z⏎|b:|    |I
Example 1⏎a⏎|__a b__|（a|(a|here is |Input: a⏎Output: b⏎|Class label: a⏎Input: b⏎|```⏎a⏎```⏎⏎|⏎1.⏎
. input: output:"""
PIECES = [piece.replace("⏎", "\n") for line in PIECES.split("\n") for piece in line.split("|")]
SAID = {
    True: r"yes|yep|true|是|对|属于|(is|its)an?classification|label|option|标签|选项",
    False: r"no|false|否|不|非分类",
}
PARSERS: dict[str, Callable[[str, str], Any]] = {  # of a text and a recipe
    "parse_instructions": lambda text, recipe: ours.parse_instructions(text, recipe=recipe),
    "parse_classification": lambda text, recipe: ours.parse_classification(text, recipe=recipe),
    "parse_instances": lambda text, recipe: ours.parse_instances(text, False, recipe=recipe),
    "parse_instances of labels": lambda text, recipe: ours.parse_instances(
        text, True, recipe=recipe
    ),
    "instruction_problem": lambda text, recipe: ours.instruction_problem(text, recipe=recipe),
    "filter_instances": lambda text, recipe: ours.filter_instances(
        text, [(text, "a"), ("a", text)], recipe=recipe
    ),
    "tokenize": lambda text, recipe: ours.tokenize(text, recipe=recipe),
    "helpers": lambda text, recipe: ours.tidy_instruction(text),
}
CALLS = [
    (name, recipe)
    for name in PARSERS
    for recipe in ours.RECIPES
    if name != "helpers" or recipe == "modern"
]


def in_order(parts: Iterable[str], text: str) -> bool:
    at = 0
    for part in parts:
        if (found := text.find(part, at)) < 0:
            return False
        at = found + len(part)
    return True


def visible(text: str, markup: str = "") -> str:
    """The text without whitespace, without these characters, and without the difference of
    cases."""
    return re.sub(f"[{markup}\\s]", "", text).upper().casefold()


def in_one_piece(tasks: Iterable[str], reply: str) -> bool:
    """Whether each stands in the reply, but for whitespace, `*`, backquotes, and lines of small
    talk in between."""
    lines = reply.split("\n")
    bare = [visible(line, "*`") for line in lines]
    whole = "".join(bare)
    return all(
        (want := visible(task, "*`")) in whole or in_pieces(want, lines, bare) for task in {*tasks}
    )


def in_pieces(want: str, lines: list[str], bare: list[str]) -> bool:
    """Whether it begins in one line, goes on with whole ones, less those of small talk, and ends in
    one."""
    reached: set[int] = set()  # how much of it the lines so far may have brought
    for line, brings in zip(lines, bare, strict=True):
        if any(brings.startswith(want[at:]) for at in reached):
            return True
        talk = any(ours.is_list_title(one) for one in (line, line.replace("```", "")))
        begun = {n for n in range(len(brings) + 1) if brings.endswith(want[:n])}
        whole = {at + len(brings) for at in reached if want.startswith(brings, at)}
        reached = whole | begun | (reached if talk else set())
    return len(want) in reached


def check_instructions(reply: str, recipe: str, first: int) -> None:
    tasks = ours.parse_instructions(reply, recipe=recipe, first=first)
    cut = ours.parse_instructions(reply, truncated=True, recipe=recipe, first=first)
    without_first = ours.parse_instructions(
        reply, recipe=recipe, first=-2
    )  # no list goes on with the number -1
    assert tasks == ours.parse_instructions(reply, recipe=recipe, first=first)
    assert all(task == " ".join(task.split()) != "" for task in tasks)
    if (
        recipe == "paper"
    ):  # passages of the reply, in order, with whitespace squeezed and str.capitalize()
        assert (cut, without_first) == ([], tasks)
        assert in_order(map(visible, tasks), visible(reply))
    else:
        reply = reply.replace("\r", "")
        assert cut in (tasks, tasks[:-1])
        assert without_first in (tasks, tasks[1:])
        assert in_order("".join(tasks).replace(" ", ""), reply)
        assert in_one_piece(tasks, reply)


def check_classification(reply: str, recipe: str) -> None:
    """A verdict of `modern` stands in the reply, less markup."""
    verdict = ours.parse_classification(reply, recipe=recipe)
    assert verdict is ours.parse_classification(reply, recipe=recipe)
    if recipe == "paper":
        assert verdict is (reply.strip() in ("Yes", "yes", "YES"))
    else:
        assert verdict is None or re.search(
            SAID[verdict], re.sub(r"```json|[\W_]", "", reply.lower())
        )


def check_instances(reply: str, recipe: str, labelled: bool) -> None:
    pairs = ours.parse_instances(reply, labelled, recipe=recipe)
    cut = ours.parse_instances(reply, labelled, truncated=True, recipe=recipe)
    assert pairs == ours.parse_instances(reply, labelled, recipe=recipe)
    assert cut == pairs[:-1] or (recipe == "modern" and cut == pairs)
    reply = reply.replace("\r", "") if recipe == "modern" else reply
    for source, target in pairs:
        assert (source, target) == (source.strip(), target.strip())
        assert target in reply
        # "Input 1: a" and "Input 2: b" become one input of two lines
        assert source in reply or (recipe == "modern" and in_order(source.split("\n"), reply))
    used = Counter("".join(text for pair in pairs for text in pair).replace("\n", ""))
    assert used <= Counter(reply)  # nothing twice


def check_filter(instruction: str, pairs: list[tuple[str, str]], recipe: str) -> None:
    kept, rejected = ours.filter_instances(instruction, pairs, recipe=recipe)
    if recipe == "modern":  # an input that repeats the instruction is none
        asked = " ".join(instruction.split()).casefold()
        pairs = [
            ("" if " ".join(source.split()).casefold() == asked else source, target)
            for source, target in pairs
        ]
    assert Counter(kept) + Counter((source, target) for source, target, _ in rejected) == Counter(
        pairs
    )
    assert len({pair if recipe == "paper" else pair[0] for pair in kept}) == len(kept)
    assert all(re.fullmatch(r"[a-z_]+", rule) for *_, rule in rejected)
    assert ours.filter_instances(instruction, kept, recipe=recipe) == (kept, [])


def check_similarity(text: str, recipe: str) -> None:
    tokens, pool = ours.tokenize(text, recipe=recipe), ours.InstructionPool(recipe)
    if text.isascii() or recipe == "paper":
        assert tokens == rouge_tokenize(text, None)
    else:
        assert all(
            re.match("[LMN]|Cn", unicodedata.category(char)) for char in "".join(tokens)
        )  # Cn: too new
        assert "" not in tokens
        assert in_order(tokens, unicodedata.normalize("NFKC", text).lower())
    pool.add(text)
    [(nearest, score)] = pool.nearest(text)
    assert (nearest, round(score, 9)) == (text, 1 if tokens else 0)


def check_problem(text: str, recipe: str) -> None:
    rule = ours.instruction_problem(text, recipe=recipe)
    assert rule == ours.instruction_problem(text, recipe=recipe)
    assert re.fullmatch(
        r"[a-z_]*" if len(text.split()) > 3 or recipe == "modern" else "too_short", rule
    )


def check_helpers(text: str) -> None:
    rest, task = ours.without_thinking(text), ours.tidy_instruction(text.replace("\r", ""))
    assert rest in text.replace("\r", "")
    assert task == " ".join(task.split())
    assert in_one_piece([task], text.replace("\r", ""))
    for labelled in (False, True):
        names, texts = zip(*ours.split_fields(text, labelled), strict=True)
        assert names[0] == ""
        assert {*names[1:]} <= {"input", "output", "example"}
        assert in_order(texts, text)


CHECKS: dict[
    str, Callable[[str, str, int], None]
] = {  # of a text, a recipe, and the prompt's last number
    "parse_instructions": check_instructions,
    "parse_classification": lambda text, recipe, first: check_classification(text, recipe),
    "parse_instances": lambda text, recipe, first: check_instances(text, recipe, False),
    "parse_instances of labels": lambda text, recipe, first: check_instances(text, recipe, True),
    "instruction_problem": lambda text, recipe, first: check_problem(text, recipe),
    "filter_instances": lambda text, recipe, first: check_filter(
        text, [*product((text, "a", ""), repeat=2)], recipe
    ),
    "tokenize": lambda text, recipe, first: check_similarity(text, recipe),
    "helpers": lambda text, recipe, first: check_helpers(text),
}
