"""Which pairs of texts can be similar at all: those that share one of their rarest tokens.

Two texts of m and n tokens with a ROUGE-L above the limit have more than limit * (m + n) / 2 tokens
in common (their LCS is at most that many). A mark is a token with the number of its occurrence in
the text: the second "the" is another mark than the first. So that many marks are in common, too.

Sort the marks of all texts in one order, from rare to common. The first one that two texts share
stands at place i in the one and at j in the other (from 0); before it they share none, so at most
min(m - i, n - j) are shared. That says for each mark of a text with which lengths of other texts it
can be the first shared one. Each text says so twice:

    as the longer one    a key (mark, n) for each length n <= m that the shorter one may have
    as the shorter one   a key (mark, n), n its own length

Two texts that can be similar have a key in common, one as the longer and one as the shorter. A
join on the keys finds them. A token that every third text has is among the rarest marks of few, and
then it has few lengths: it makes no long lists. (Prefix filter with positions: Bayardo et al. 2007,
Xiao et al. 2008.)

With each key goes a signature of its text: 64 bits, those of its marks set. A bit that only one of
two texts has is a mark that the other lacks. So a join sees of most pairs that they share too few.
"""

from __future__ import annotations

if __name__ == "__main__":  # a part, no program: said before an import fails
    raise SystemExit(
        "marks.py is a part of scripts/merge_runs.py: run  python scripts/merge_runs.py --help"
    )

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from self_instruct_workshop import RECIPES, InstructionPool

OCCURRENCES = 2**20  # a mark is token * OCCURRENCES + how often the token stood before it
LENGTHS = 2**20  # a key is the rank of the mark * LENGTHS + a length
ROUNDING = 1e-6  # a sum of floats is no reason to miss a pair
CHUNK = 10_000  # texts of which marks are made at once

Columns = dict[str, Any]  # name -> numpy array, all of one length


@dataclass(frozen=True)
class Order:
    """The marks of all texts in one order; the rank of a rare one is low."""

    marks: np.ndarray  # sorted
    ranks: np.ndarray  # of each of them

    def rank(self, marks: np.ndarray) -> np.ndarray:
        return self.ranks[np.searchsorted(self.marks, marks)]


def coded_texts(texts: Iterable[str], recipe: str) -> list[str]:
    """Each text with one character for each token, as the pool codes it."""
    pool = InstructionPool(recipe)
    return [pool.code(text) for text in texts]


def chunks(count: int) -> Iterator[slice]:
    return (slice(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK))


def marks_of(coded: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """The marks of texts, one behind the other, and of each the number of its text, from 0."""
    tokens = np.frombuffer("".join(coded).encode("utf-32-le"), np.uint32).astype(np.int64)
    owners = np.repeat(np.arange(len(coded)), [len(text) for text in coded])
    # Put equal tokens of a text side by side, and count them off.
    order = np.lexsort((tokens, owners))
    tokens = tokens[order]
    owners = owners[order]
    place = np.arange(len(tokens))
    new = np.ones(len(tokens), bool)
    new[1:] = (tokens[1:] != tokens[:-1]) | (owners[1:] != owners[:-1])
    first = np.maximum.accumulate(np.where(new, place, 0))
    return tokens * OCCURRENCES + (place - first), owners


def order_of_marks(coded: list[str]) -> Order:
    """How rare each mark is among all texts."""
    marks = np.empty(0, np.int64)
    counts = np.empty(0, np.int64)
    for chunk in chunks(len(coded)):
        new, times = np.unique(marks_of(coded[chunk])[0], return_counts=True)
        both, where = np.unique(np.concatenate([marks, new]), return_inverse=True)
        counts = np.bincount(where, np.concatenate([counts, times])).astype(np.int64)
        marks = both
    ranks = np.empty(len(marks), np.int64)
    ranks[np.lexsort((marks, counts))] = np.arange(len(marks))
    return Order(marks, ranks)


def keys_of(ids: np.ndarray, coded: list[str], order: Order, limit: float) -> tuple[Columns, ...]:
    """The keys of texts as the longer ones and as the shorter ones.

    Columns `key`, `id`, `size` (tokens of the text), `place` (of the mark among its marks) and
    `bits` (the text's signature).
    """
    share = max(limit, 1e-9)
    marks, owners = marks_of(coded)
    ranks = order.rank(marks)
    sorting = np.lexsort((ranks, owners))
    ranks = ranks[sorting]
    owners = owners[sorting]
    sizes = np.array([len(text) for text in coded], np.int64)
    places = np.arange(len(ranks)) - np.repeat(sizes.cumsum() - sizes, sizes)
    m = sizes[owners]
    bits = signatures(ranks, owners, len(coded))

    # The longest other text that can share this mark and those behind it, and no more.
    longest = np.floor(2 * (m - places) / share - m + ROUNDING).astype(np.int64)
    shortest = np.ceil(m * share / (2 - share) - ROUNDING).astype(np.int64)

    # As the shorter one: the other is at least as long.
    can = longest >= m
    short = {"key": ranks[can] * LENGTHS + m[can], "id": ids[owners[can]]}
    short |= {"size": m[can], "place": places[can], "bits": bits[owners[can]]}

    # As the longer one: a key for each length from the shortest to the longest, at most its own.
    times = np.maximum(np.minimum(longest, m) - np.maximum(shortest, 1) + 1, 0)
    ranks, m, owners, places = (np.repeat(a, times) for a in (ranks, m, owners, places))
    shortest = np.repeat(np.maximum(shortest, 1), times)
    step = np.arange(len(ranks)) - np.repeat(times.cumsum() - times, times)
    long = {"key": ranks * LENGTHS + shortest + step, "id": ids[owners], "size": m}
    return long | {"place": places, "bits": bits[owners]}, short


def signatures(ranks: np.ndarray, owners: np.ndarray, count: int) -> np.ndarray:
    """64 bits for each of `count` texts: those of its marks are set, by their ranks."""
    bits = np.zeros(count, np.uint64)
    np.bitwise_or.at(bits, owners, np.uint64(1) << (ranks % 64).astype(np.uint64))
    return bits.view(np.int64)


def scores_of(ours: list[str], theirs: list[str], recipe: str) -> np.ndarray:
    """ROUGE-L of coded texts, pair by pair: exactly the numbers of the recipe's `scores`."""
    from rapidfuzz.distance import Indel
    from rapidfuzz.process import cpdist

    scores = cpdist(ours, theirs, scorer=Indel.normalized_similarity, dtype=np.float64)
    if recipe == "modern":
        return scores
    # The recipe has a float of its own. It differs by rounding alone.
    m = np.array([len(text) for text in ours])
    n = np.array([len(text) for text in theirs])
    return RECIPES[recipe].score(np.rint(scores * (m + n) / 2), m, n)
