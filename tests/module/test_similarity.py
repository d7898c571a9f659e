"""Similarity: the tokens of any script, scores equal to rouge_score's own, and the pool of all
instructions."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenize import tokenize as rouge_tokenize

import self_instruct_workshop as workshop
from self_instruct_workshop import (
    Config,
    InstructionPool,
    Reply,
    Results,
    Task,
    take_candidates,
    tokenize,
)

ASCII = st.text(st.characters(max_codepoint=127), max_size=60)
FEW_WORDS = st.lists(
    st.sampled_from(["a", "b", "c", "Sort", "the", "WORDS,", "x-y", "3.5", "_", "!", "it's"]),
    max_size=14,
).map(" ".join)
ANY_SCRIPT = st.text(st.sampled_from("ab SQL.,用写诗。のカーสวัส한국дАéः😀न\u0301Ａ９"), max_size=24)
SCORER = RougeScorer(["rougeL"], use_stemmer=False)


def pool_of(*instructions: str) -> InstructionPool:
    pool = InstructionPool()
    for instruction in instructions:
        pool.add(instruction)
    return pool


def score(one: str, other: str) -> float:
    return float(pool_of(other).similarities([one])[0, 0])


def longest_common(one: list[str], other: list[str]) -> int:
    """The length of the longest common subsequence, by the textbook."""
    row = [0] * (len(other) + 1)
    for token in one:
        before = row[:]
        for i, match in enumerate(other):
            row[i + 1] = before[i] + 1 if token == match else max(before[i + 1], row[i])
    return row[-1]


# ----- tokens


@given(ASCII)
def test_ascii_text_gets_the_tokens_of_rouge_score(text: str) -> None:
    assert tokenize(text) == rouge_tokenize(text, None)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("用SQL查询", ["用", "sql", "查", "询"]),
        ("写一首诗。", list("写一首诗")),
        ("第3题，共10题", ["第", "3", "题", "共", "10", "题"]),
        ("ひらがなとカタカナ", list("ひらがなとカタカナ")),
        ("コーヒー", list("コーヒー")),
        ("人々", list("人々")),
        ("ㄅㄆㄇ", list("ㄅㄆㄇ")),
        ("한국어 문장", list("한국어문장")),
        ("สวัสดี", list("สวัสดี")),
        ("Привет, МИР!", ["привет", "мир"]),
        ("हिन्दी की किताब", ["हिन्दी", "की", "किताब"]),
        ("ما عاصمة مصر؟", ["ما", "عاصمة", "مصر"]),
        ("Crème brûlée", ["crème", "brûlée"]),
        ("don’t stop", ["don", "t", "stop"]),
        ("ＳＱＬ　９", ["sql", "9"]),
        ("naïve_name", ["naïve", "name"]),
        ("😀 é", ["é"]),
    ],
)
def test_every_script_has_tokens(text: str, tokens: list[str]) -> None:
    assert tokenize(text) == tokens


@given(ANY_SCRIPT)
def test_composed_decomposed_and_full_width_letters_are_the_same_tokens(text: str) -> None:
    decomposed = unicodedata.normalize("NFD", "é" + text)
    assert (
        tokenize("é" + text)
        == tokenize(decomposed)
        == tokenize(unicodedata.normalize("NFKC", decomposed))
    )


@given(ANY_SCRIPT)
def test_tokens_hold_nothing_but_letters_digits_and_marks(text: str) -> None:
    assert all(unicodedata.category(char)[0] in "LMN" for token in tokenize(text) for char in token)


@pytest.mark.parametrize("text", ["", " ", "...", "。！？", "😀😀", "_", "\u200b"])
def test_what_has_no_letter_or_digit_has_no_token(text: str) -> None:
    assert tokenize(text) == []


# ----- scores


@settings(max_examples=300)
@given(st.one_of(ASCII, FEW_WORDS), st.one_of(ASCII, FEW_WORDS))
def test_the_score_of_ascii_pairs_is_rouge_l_of_rouge_score(one: str, other: str) -> None:
    assert score(one, other) == pytest.approx(SCORER.score(other, one)["rougeL"].fmeasure, abs=1e-9)


@given(ANY_SCRIPT, ANY_SCRIPT)
def test_the_score_of_any_pair_is_twice_the_common_subsequence_by_the_lengths(
    one: str, other: str
) -> None:
    m, n = tokenize(one), tokenize(other)
    expected = 2 * longest_common(m, n) / (len(m) + len(n)) if m and n else 0
    assert score(one, other) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("把下面的句子翻译成英文。", "把下面的句子翻译成英文", 1),
        ("把下面的句子翻译成英文", "把下面的句子翻译成法文", 20 / 22),
        ("使用Python编写SQL查询", "用Python解释SQL语句", 6 / 15),
        ("写一首关于春天的诗", "列出三种水果", 0),
        ("ตั้งชื่อแม่น้ำสามสาย", "ตั้งชื่อแม่น้ำสามสาย", 1),
        ("川を三つ挙げる", "山を三つ挙げる", 12 / 14),
        ("강 세 개의 이름", "산 세 개의 이름", 10 / 12),
        ("Назови три реки", "назови ТРИ озера", 4 / 6),
        ("तीन नदियों के नाम", "तीन पहाड़ों के नाम", 6 / 8),
        ("写诗", "write", 0),
    ],
)
def test_the_score_is_right_beyond_ascii(one: str, other: str, expected: float) -> None:
    assert score(one, other) == score(other, one) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("one", "other"), [("", ""), ("...", "..."), ("。", "。"), ("", "Name it."), ("写诗", "！")]
)
def test_no_tokens_means_nothing_in_common(one: str, other: str) -> None:
    assert score(one, other) == score(other, one) == 0


# ----- pool


def test_similarities_are_float64_a_row_for_each_candidate_a_column_for_each_instruction() -> None:
    scores = pool_of("a b c", "x y z", "写一首诗").similarities(["a b c", "写一首歌"])
    assert scores.dtype == np.float64
    assert scores.tolist() == [[1, 0, 0], [0, 0, 0.75]]


@pytest.mark.parametrize(("candidates", "known"), [([], ["a b"]), (["a b"], []), ([], [])])
def test_similarities_of_nothing_have_the_right_shape(
    candidates: list[str], known: list[str]
) -> None:
    assert pool_of(*known).similarities(candidates).shape == (len(candidates), len(known))


def test_the_length_of_the_pool_is_the_number_of_its_instructions() -> None:
    assert (len(pool_of()), len(pool_of("a", "a", ""))) == (0, 3)


def test_nearest_puts_the_most_similar_first_and_of_equals_the_older() -> None:
    pool = pool_of("x y z", "a b x", "a b c", "a b y")
    assert pool.nearest("a b c", 3) == [
        ("a b c", 1),
        ("a b x", pytest.approx(2 / 3)),
        ("a b y", pytest.approx(2 / 3)),
    ]


def test_nearest_gives_ten_unless_told_and_all_of_a_small_pool() -> None:
    assert len(pool_of(*map(str, range(12))).nearest("a")) == 10
    assert len(pool_of("a", "b").nearest("a", 5)) == 2
    assert pool_of().nearest("a") == []


def test_more_tokens_than_there_are_characters_below_the_surrogates_are_kept_apart() -> None:
    pool = pool_of(
        *(f"w{n}" for n in range(0xD7F0, 0xE810)), " ".join(f"w{n}" for n in range(0xD7F0))
    )
    scores = pool.similarities(["w55295", "w55296", "w57343", "w57344"])
    assert (scores == 1).sum(axis=1).tolist() == [1, 1, 1, 1]


def one_by_one(pool: InstructionPool, candidates: list[str], limit: float) -> list[list[float]]:
    rows = []
    for candidate in candidates:
        rows.append(pool.similarities([candidate])[0].tolist())
        if max(rows[-1], default=0) <= limit:
            pool.add(candidate)
    return rows


@given(st.lists(FEW_WORDS, max_size=12), st.lists(FEW_WORDS, max_size=3), st.integers(1, 13))
def test_a_scan_while_the_caller_adds_equals_scoring_one_by_one(
    news: list[str], known: list[str], block: int
) -> None:
    pool, rows = pool_of(*known), []
    for candidate, scores in workshop.in_blocks(pool, news, block):
        rows.append(scores.tolist())
        if max(rows[-1], default=0) <= 0.5:
            pool.add(candidate)
    expected = pool_of(*known)
    assert rows == one_by_one(expected, news, 0.5)
    assert pool.instructions == expected.instructions


# ----- threshold


@pytest.fixture
def accepted(settings: Callable[..., Config]) -> Callable[..., list[str]]:
    def take(known: str, new: str, **changes: object) -> list[str]:
        results = Results()
        prompt = f"header\n\n1. {known}\n9."
        take_candidates(
            settings(**changes),
            pool_of(known),
            Reply(f"9. {new}", "stop", prompt=prompt),
            0,
            results,
        )
        assert len(results.tasks) + len(results.rejected) == 1
        return [task.instruction for task in results.tasks]

    return take


SAME, FIRST, SECOND = "one two three four five six seven", "red green blue", "salt sugar flour"


@pytest.mark.parametrize("times", range(1, 8))
def test_a_score_of_exactly_the_threshold_stays(
    accepted: Callable[..., list[str]], times: int
) -> None:
    known, new = (" ".join([f"{SAME} {rest}"] * times) for rest in (FIRST, SECOND))
    assert accepted(known, new) == [new]


@pytest.mark.parametrize("percent", range(5, 100, 5))
def test_any_threshold_keeps_what_equals_it_and_drops_what_is_above(
    accepted: Callable[..., list[str]], percent: int
) -> None:
    shared, old, fresh = ([f"{kind}{n}" for n in range(20)] for kind in "abc")
    known, same = (
        shared[: percent // 5] + old[percent // 5 :],
        shared[: percent // 5] + fresh[percent // 5 :],
    )
    assert accepted(" ".join(known), " ".join(same), rouge_threshold=percent / 100)
    assert not accepted(" ".join(known), " ".join(same), rouge_threshold=percent / 100 - 0.001)


def test_an_exact_copy_is_always_turned_away_with_its_neighbour_and_score(
    settings: Callable[..., Config],
) -> None:
    results = Results([Task("machine_task_0", "写一首诗。")])
    take_candidates(
        settings(), pool_of("写一首诗。"), Reply("9. 写一首诗", "stop", prompt="h\n9."), 0, results
    )
    [row] = results.rejected
    assert (row["rule"], row["evidence"], row["score"]) == ("too_similar", "写一首诗。", 1.0)
