"""Any text: no parser of either recipe raises, invents, or hangs. tests/bench/fuzz_parsers.py asks
the same."""

from __future__ import annotations

import pytest
from helpers.any_text import (
    CALLS,
    PARSERS,
    PIECES,
    check_classification,
    check_filter,
    check_helpers,
    check_instances,
    check_instructions,
    check_problem,
    check_similarity,
)
from helpers.long_texts import LONG
from hypothesis import example, given, settings
from hypothesis import strategies as st

import self_instruct_workshop as ours

ANY = st.text(st.characters())  # lone surrogates as well
MARKED = st.lists(
    st.one_of(st.sampled_from(PIECES), st.text(st.characters(), max_size=3)), max_size=30
).map("".join)
FEW = st.lists(
    st.sampled_from(PIECES), min_size=2, max_size=6
).flatmap(  # the same again, and side by side
    lambda pieces: st.lists(st.sampled_from(pieces), max_size=20).map("".join)
)
TEXT = st.one_of(ANY, MARKED, FEW)
FIRST = st.one_of(st.sampled_from([9, 0, 8, 10]), st.integers())
both_recipes = pytest.mark.parametrize("recipe", ours.RECIPES)


# ----- any text


@both_recipes
@settings(max_examples=500)
@given(reply=TEXT, first=FIRST)
@example(reply="__ a__", first=9)
def test_tasks_are_passages_of_the_reply_in_its_order_and_a_cut_reply_loses_the_last_or_all(
    recipe: str, reply: str, first: int
) -> None:
    check_instructions(reply, recipe, first)


@both_recipes
@settings(max_examples=500)
@given(reply=TEXT)
def test_a_verdict_stands_in_the_reply(recipe: str, reply: str) -> None:
    check_classification(reply, recipe)


@both_recipes
@pytest.mark.parametrize("labelled", [False, True])
@settings(max_examples=500)
@given(reply=TEXT)
def test_inputs_and_outputs_are_passages_of_the_reply_and_none_is_used_twice(
    recipe: str, labelled: bool, reply: str
) -> None:
    check_instances(reply, recipe, labelled)


@both_recipes
@given(instruction=TEXT, texts=st.lists(TEXT, min_size=1, max_size=4), data=st.data())
def test_every_instance_is_kept_once_or_rejected_by_a_rule(
    recipe: str, instruction: str, texts: list[str], data: st.DataObject
) -> None:
    one = st.sampled_from([*texts, instruction, ""])
    check_filter(instruction, data.draw(st.lists(st.tuples(one, one), max_size=8)), recipe)


@both_recipes
@given(text=TEXT)
def test_a_problem_is_named_by_one_rule(recipe: str, text: str) -> None:
    check_problem(text, recipe)


@both_recipes
@given(text=TEXT)
@example(text="។")
def test_tokens_are_those_of_rouge_score_or_letters_digits_and_marks_of_the_text(
    recipe: str, text: str
) -> None:
    check_similarity(text, recipe)


@given(TEXT)
def test_the_helpers_of_the_parsers_invent_nothing(text: str) -> None:
    check_helpers(text)


# ----- long texts


def test_every_parser_comes_back_from_every_long_text() -> None:
    """Each is a piece again and again, as models write when they are stuck: what takes the square
    of the length, or more, shows here at the latest. tests/bench/parser_speed.py makes them a
    megabyte long and measures seconds."""
    failed = []
    for name, make in LONG.items():
        text = make(5_000)
        for parser, recipe in CALLS:
            try:
                PARSERS[parser](text, recipe)
            except Exception as error:
                failed.append(f"{parser}, {recipe}, of {name}: {error!r}")
    assert failed == []
