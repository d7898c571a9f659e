"""A large pool: the index and the rows of many give what comparing every pair gives, to the bit."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from helpers.many_texts import many
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

import self_instruct_workshop as workshop
from self_instruct_workshop import (
    RECIPES,
    Config,
    InstructionPool,
    Reply,
    Results,
    compared,
    in_blocks,
    known_inside,
    modern_echo_problem,
    neighbours,
    run,
    take_candidates,
    tokenize,
)

FEW_WORDS = st.lists(
    st.sampled_from(["a", "b", "c", "d", "e", "the", "Sort", "写", "诗", "."]), max_size=16
).map(" ".join)
ODD_TEXTS = st.text(
    st.characters() | st.sampled_from(["\ud800", "\udfff", "\x00", "\u0301", "ﬁ", "𠀀", "ก"]),
    max_size=12,
)  # any characters at all, halves of surrogate pairs among them
Decision = tuple[str, tuple[str, float] | None]


@pytest.fixture(params=["plain", pytest.param("compiled", marks=pytest.mark.slow)])
def parts(request: pytest.FixtureRequest) -> Iterator[str]:
    """The parts of the module, then those of scripts/scale."""
    if request.param == "compiled":
        pytest.importorskip("numba")
        from scripts.scale import compiled

        compiled.use()
    yield request.param
    workshop.FASTER.clear()


def every_pair(texts: list[str], limit: float, recipe: str) -> Iterator[Decision]:
    """The greedy choice by the scores of all pairs."""
    pool = InstructionPool(recipe)
    for text, scores in in_blocks(pool, texts):
        near = pool.top(scores)[0] if len(pool) else ("", 0.0)
        novel = near[1] <= limit
        if novel:
            pool.add(text)
        yield text, None if novel else near


@cache
def all_decisions(language: str, recipe: str, threshold: float) -> list[Decision]:
    return list(every_pair(many(language, 5000), limit_of(recipe, threshold), recipe))


def by_index(pool: InstructionPool, texts: list[str], limit: float) -> Iterator[Decision]:
    for text, nearest in compared(pool, texts, limit):
        if nearest is None:
            pool.add(text)
        yield text, nearest


def limit_of(recipe: str, threshold: float) -> float:
    return RECIPES[recipe].highest_score(threshold)


# ----- decisions and their evidence


@pytest.mark.parametrize("recipe", ["modern", "paper"])
@pytest.mark.parametrize("language", ["en", "zh", "mixed"])
@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7, 0.95])
def test_of_5000_instructions_each_decision_and_its_evidence_is_that_of_all_pairs(
    parts: str, language: str, threshold: float, recipe: str
) -> None:
    decisions = all_decisions(language, recipe, threshold)
    texts = many(language, 5000)
    assert list(by_index(InstructionPool(recipe), texts, limit_of(recipe, threshold))) == decisions
    turned_away = sum(nearest is not None for _, nearest in decisions)
    assert 10 < turned_away < 5000


FIXTURE_KEPT = settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)  # `parts` is the same for all examples


@FIXTURE_KEPT
@given(
    st.lists(FEW_WORDS | ODD_TEXTS, max_size=30),
    st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.6, 0.7, 0.8, 0.95, 1.0]),
    st.sampled_from(["modern", "paper"]),
)
def test_of_any_few_texts_too(parts: str, texts: list[str], threshold: float, recipe: str) -> None:
    limit = limit_of(recipe, threshold)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workshop, "SMALL", 0)
        patch.setattr(workshop, "BLOCK", 4)
        found = list(by_index(InstructionPool(recipe), texts, limit))
    assert found == list(every_pair(texts, limit, recipe))


@pytest.mark.parametrize("seed", range(8))
def test_of_300_near_copies_with_few_words_too(
    parts: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    dice = random.Random(seed)
    words = [f"w{n}" for n in range(dice.choice([3, 12, 60]))]
    texts = [" ".join(dice.choices(words, k=dice.randint(0, 90))) for _ in range(60)]
    while len(texts) < 300:
        copy = dice.choice(texts).split()
        copy[dice.randint(0, len(copy)) :] = dice.choices(words, k=dice.randint(0, 6))
        texts.append(" ".join(copy))
    monkeypatch.setattr(workshop, "SMALL", 0)
    for threshold in (0.3, 0.5, 0.7, 0.95):
        for recipe in ("modern", "paper"):
            limit = limit_of(recipe, threshold)
            found = list(by_index(InstructionPool(recipe), texts, limit))
            assert found == list(every_pair(texts, limit, recipe))


def test_what_else_joins_in_between_is_compared_too(parts: str) -> None:
    texts = many("en", 2000)
    pool = InstructionPool()
    for text in texts:
        pool.add(text)
    candidates = ["Fold a zeppelin out of blue tin.", "Fold a small zeppelin out of blue tin."]
    found = compared(pool, candidates, limit_of("modern", 0.7))
    assert next(found) == (candidates[0], None)
    pool.add("Fold a small zeppelin out of blue tin!")
    assert next(found) == (candidates[1], ("Fold a small zeppelin out of blue tin!", 1.0))


def test_replies_in_pieces_make_no_difference() -> None:
    texts = many("mixed", 3000)
    limit = limit_of("modern", 0.7)
    pool = InstructionPool()
    dice = random.Random(0)
    found = []
    while len(found) < len(texts):
        piece = texts[len(found) : len(found) + dice.randint(1, 12)]
        found += by_index(pool, piece, limit)
    assert found == list(by_index(InstructionPool(), texts, limit))


def test_another_limit_and_instructions_that_joined_elsewhere_are_noticed(parts: str) -> None:
    texts = many("en", 2600)
    pool = InstructionPool()
    for text in texts[:2000]:
        pool.add(text)
    for threshold in (0.7, 0.4, 0.8):
        limit = limit_of("modern", threshold)
        for text, nearest in compared(pool, texts[2000:2200], limit):
            best = pool.nearest(text, 1)[0]
            assert nearest == (best if best[1] > limit else None)
        for text in texts[2200:]:
            pool.add(text)


def test_a_sample_of_decisions_is_that_of_rouge_score_itself(parts: str) -> None:
    scorer = RougeScorer(["rougeL"])
    texts = many("en", 2500)
    pool = InstructionPool("paper")
    away = 0
    for place, (text, nearest) in enumerate(by_index(pool, texts, 0.7)):
        if nearest:
            assert nearest[1] == scorer.score(text, nearest[0])["rougeL"].fmeasure > 0.7
        if place % 50 == 0:
            known = pool.instructions if nearest else pool.instructions[:-1]
            scores = [scorer.score(text, other)["rougeL"].fmeasure for other in known[-200:]]
            assert max(scores, default=0) <= (nearest[1] if nearest else 0.7)
        away += nearest is not None
    assert away > 50


def test_texts_without_tokens_long_texts_and_copies_are_as_ever(parts: str) -> None:
    long = " ".join(f"w{n % 700}" for n in range(70_000))
    texts = ["...", "", "。", long, long + " end", "写诗", "写诗。", *many("en", 1500), "...", long]
    limit = limit_of("modern", 0.7)
    assert list(by_index(InstructionPool(), texts, limit)) == list(
        every_pair(texts, limit, "modern")
    )


def test_a_token_in_all_texts_and_many_near_copies_are_few_pairs(
    parts: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored = []
    plain = RECIPES["modern"].scores

    def counted(candidates: list[str], pool: list[str]) -> object:
        scored.append(len(candidates) * len(pool))
        return plain(candidates, pool)

    texts = [f"please {text} please" for text in many("en", 3000)]
    texts += [f"please describe the harbour of town {n % 9} please" for n in range(2000)]
    fast = workshop.replace(RECIPES["modern"], scores=counted)
    monkeypatch.setitem(workshop.RECIPES, "modern", fast)
    decisions = list(by_index(InstructionPool(), texts, limit_of("modern", 0.7)))
    pairs = sum(scored)
    scored.clear()
    assert list(every_pair(texts, limit_of("modern", 0.7), "modern")) == decisions
    assert pairs < sum(scored) / 5


# ----- the ten nearest and the mean


def assert_neighbours(pool: InstructionPool, places: list[int]) -> None:
    for place, (nearest, mean) in zip(places, neighbours(pool, places), strict=True):
        plain = InstructionPool(pool.recipe)
        plain.codes = pool.codes
        plain.instructions, plain.coded = pool.instructions[:place], pool.coded[:place]
        scores = plain.similarities([pool.instructions[place]])[0]
        order = sorted(range(place), key=lambda i: (-scores[i], i))[:10]
        assert nearest == [(plain.instructions[i], scores[i]) for i in order]
        assert mean == scores.mean()


@pytest.mark.parametrize("recipe", ["modern", "paper"])
@pytest.mark.parametrize("language", ["en", "zh", "mixed"])
def test_ten_nearest_and_mean_of_many_are_those_of_one_after_the_other(
    parts: str, language: str, recipe: str
) -> None:
    pool = InstructionPool(recipe)
    long = " ".join(f"w{n}" for n in range(90))
    for text in [*many(language, 4995), "...", "", long, long + " end", "the end"]:
        pool.add(text)
    assert_neighbours(pool, [*range(7, 4990, 60), *range(4990, 5000)])


@FIXTURE_KEPT
@given(st.lists(FEW_WORDS, min_size=2, max_size=80), st.sampled_from(["modern", "paper"]))
def test_ten_nearest_and_mean_of_any_texts_too(parts: str, texts: list[str], recipe: str) -> None:
    pool = InstructionPool(recipe)
    for text in texts:
        pool.add(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workshop, "BLOCK", 1)
        assert_neighbours(pool, list(range(1, len(texts))))


@given(
    st.lists(st.sampled_from([0.0, 0.1, 0.25, 0.3, 0.4, 0.5, 1.0]), max_size=60),
    st.integers(1, 12),
)
def test_the_highest_scores_are_found_with_the_older_of_equals_first(
    scores: list[float], k: int
) -> None:
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:k]
    assert workshop.highest(np.array(scores), k).tolist() == order


# ----- known tasks with an answer behind them


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                "Name a river.",
                "Sort it",
                "Tell which team has won the match.",
                "写一首关于春天的五言绝句诗歌",
                "写诗",
                "the  Longest river of   the world is it",
            ]
        ),
        min_size=1,
        max_size=6,
    ),
    st.sampled_from(["", "Please. ", "x ", "请"]),
    st.sampled_from(["", " Answer: the Rhine", ": it", " - a list", "答案：黄河", "\nExample: b"]),
    st.integers(0, 5),
)
def test_what_answers_itself_is_found_by_the_texts_inside_as_by_the_ten_nearest(
    known: list[str], before: str, behind: str, chosen: int
) -> None:
    pool = InstructionPool()
    for text in known:
        pool.add(text)
    candidate = before + known[chosen % len(known)] + behind
    expected = modern_echo_problem(candidate, set(), pool.nearest(candidate))
    assert modern_echo_problem(candidate, set(), known_inside(pool, candidate)) == expected


@settings(max_examples=500)
@given(st.from_regex(workshop.ANSWERED) | st.text(), st.text(max_size=5))
def test_where_an_answer_may_begin_there_is_a_sign_of_it(text: str, before: str) -> None:
    said = " ".join((before + text).casefold().split())
    answers = [place for place in range(len(said)) if workshop.ANSWERED.match(said, place)]
    assert not answers or workshop.SIGN_OF_ANSWER.search(said)


def test_known_inside_asks_for_the_nearest_only_where_one_stands_in_the_candidate() -> None:
    pool = InstructionPool()
    pool.add("Name the capital of the country.")
    assert list(known_inside(pool, "Name the capital of a country. Answer: Rome")) == []
    [(text, _)] = known_inside(pool, "Name the  CAPITAL of the country. Answer: Rome")
    assert text == "Name the capital of the country."


# ----- in a run


def test_notes_in_bulk_are_those_of_one_reply_after_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(workshop, "SMALL", 50)
    texts = many("en", 600)
    replies = []
    for start in range(0, len(texts), 8):
        listed = [" ".join(text.split()) for text in texts[start : start + 8]]
        text = "\n".join(f"{n}. {one}" for n, one in enumerate(listed, 9))
        replies.append(Reply(text, "stop", prompt="header\n9."))

    def taken(in_bulk: bool) -> Results:
        pool, results = InstructionPool(), Results()
        pool.add("Name three rivers.")
        with workshop.neighbours_in_bulk(pool, results):
            results.at_once = 150 if in_bulk else 1
            for i, reply in enumerate(replies):
                take_candidates(Config(1000), pool, reply, i, results)
        return results

    whole, single = taken(True), taken(False)
    assert whole.rows("generate") == single.rows("generate")
    assert whole.rejected == single.rejected
    assert len(whole.tasks) > 300


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


class Stop(Exception):
    """Something that ends stage 1."""


def test_where_stage_1_breaks_off_no_row_lacks_its_neighbours() -> None:
    pool, results = InstructionPool(), Results()
    pool.add("Name three rivers.")
    reply = Reply(
        "9. Describe a bridge to a child.\n10. Count all the cups here.", "stop", prompt="h\n9."
    )
    with pytest.raises(Stop), workshop.neighbours_in_bulk(pool, results):
        take_candidates(Config(9), pool, reply, 0, results)
        assert (len(results.tasks), results.rows("generate")) == (2, [])
        raise Stop
    assert [len(row["most_similar"]) for row in results.rows("generate")] == [1, 2]


def test_a_run_writes_the_same_files_with_the_index_as_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {}
    for name, small in (("all pairs", 10**9), ("index", 0)):
        monkeypatch.setattr(workshop, "SMALL", small)
        monkeypatch.setattr(workshop, "MANY", 1 if small else 70)
        folder = tmp_path / name
        run(Config(150, provider="practice", work_dir=str(folder)), say=lambda text: None)
        rows = rows_of(folder / "step1_instructions.jsonl")
        for row in rows:
            del row["metadata"]["created_at"]
        files[name] = rows, rows_of(folder / "rejected.jsonl")
    assert files["all pairs"] == files["index"]
    assert len(files["index"][0]) == 150


def test_tokens_are_made_once_for_a_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def noted(text: str) -> list[str]:
        made.append(text)
        return tokenize(text, recipe="paper")

    monkeypatch.setattr(workshop, "SMALL", 0)
    monkeypatch.setitem(
        workshop.RECIPES, "modern", workshop.replace(RECIPES["modern"], tokenize=noted)
    )
    texts = list(dict.fromkeys(many("en", 200)))
    list(by_index(InstructionPool(), texts, limit_of("modern", 0.7)))
    assert sorted(made) == sorted(texts)
