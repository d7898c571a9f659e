"""The greedy choice on the graph of similar pairs, round by round. For engines that join.

A round takes the next texts, in their order, and asks the engine for pairs above the limit:

    1. of these texts with all that was kept before: what has one is not novel
    2. of the others with each other: a graph, from which the first stays, and what is like it goes
    3. of those turned away by 1 with what 2 has kept: a nearer one may be among it

So near copies of one text, be they a million, are compared with the one that stays, and not with
each other. A round in which step 2 would have too many pairs is tried again with fewer texts.
"""

from __future__ import annotations

if __name__ == "__main__":  # a part, no program: said before an import fails
    raise SystemExit(
        "rounds.py is a part of scripts/merge_runs.py: run  python scripts/merge_runs.py --help"
    )

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, Protocol

import numpy as np

from scripts.merging.decide import Decision

Pairs = Iterable[tuple[int, int, float]]  # two numbers of texts, the lower first, and the score

FEWEST = 500  # texts: so few are never too many


class Sizes(NamedTuple):
    """How large the rounds of an engine are."""

    first: int  # texts in the first round
    growth: int  # how many times as many are in the next one
    most: int  # texts in a round
    old_pairs: int  # pairs that step 1 may look at; nothing of them stays
    new_pairs: int  # pairs that step 2 may look at; those above the limit are kept in memory


class Joins(Protocol):
    """What an engine can do. Texts have numbers from 0, in their order."""

    def load(self, low: int, high: int) -> None:
        """Make a block of the texts from low to high."""

    def cost(self, among: str, numbers: np.ndarray | None = None) -> int:
        """About how many pairs `pairs` would look at."""

    def pairs(self, among: str, numbers: np.ndarray | None = None) -> Pairs:
        """Pairs above the limit.

        `among` is "old": of the block with what was kept; "new": of `numbers`, a part of the block,
        with each other; "late": of the rest of the block with `numbers`.
        """

    def keep(self, numbers: np.ndarray) -> None:
        """Keep these texts of the block for the rounds behind this one."""


def choose(
    joins: Joins,
    count: int,
    show: Callable[[int], None],
    sizes: Sizes,
) -> Iterator[Decision]:
    """Yield a decision for each of `count` texts, in their order."""
    low = 0
    size = sizes.first
    while low < count:
        high = min(low + size, count)
        joins.load(low, high)
        best = None
        if high - low <= FEWEST or low == 0 or joins.cost("old") <= sizes.old_pairs:
            best = one_round(joins, low, high, sizes.new_pairs)
        if best is None:
            size = max(FEWEST, (high - low) // 4)
            continue
        for number in range(low, high):
            yield best.get(number)
        low = high
        size = min(sizes.growth * size, sizes.most)
        show(low)


def one_round(joins: Joins, low: int, high: int, most: int) -> dict[int, tuple[int, float]] | None:
    """What is turned away of a block, and why. None where step 2 would look at too many pairs."""
    # 1. What is like something that was kept before?
    best: dict[int, tuple[int, float]] = {}
    for older, newer, score in joins.pairs("old") if low else ():
        note(best, older, newer, score)

    # 2. Of the others, what is like one of them that stays?
    free = np.array([number for number in range(low, high) if number not in best], np.int64)
    if high - low > FEWEST and joins.cost("new", free) > most:
        return None
    turned_away = greedy(joins.pairs("new", free))
    kept = np.array([number for number in free if number not in turned_away], np.int64)

    # 3. What 1 has turned away may be more like one of these.
    if best and len(kept):
        for older, newer, score in joins.pairs("late", kept):
            if newer in best:
                note(best, older, newer, score)
    joins.keep(kept)
    return best | turned_away


def note(best: dict[int, tuple[int, float]], older: int, newer: int, score: float) -> None:
    """Remember the most similar one; of equal ones, the older."""
    known = best.get(newer)
    if known is None or (-score, older) < (-known[1], known[0]):
        best[newer] = (older, score)


def greedy(pairs: Pairs) -> dict[int, tuple[int, float]]:
    """Who goes: each that is like an older one that stays; with the most similar of those."""
    like = defaultdict(list)
    for older, newer, score in pairs:
        like[newer].append((-score, older))
    away: dict[int, tuple[int, float]] = {}
    for newer in sorted(like):
        staying = [one for one in like[newer] if one[1] not in away]
        if staying:
            score, older = min(staying)
            away[newer] = (older, -score)
    return away
