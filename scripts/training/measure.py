"""How near a model's answers come to the references, and whether a difference is more than chance.

    rouge_l        ROUGE-L F1 of two texts, from 0 to 1: the metric of the paper (section 4.1)
    interval       the mean of some scores, and its 95 % interval
    paired         the same for the differences of two lists, item by item

An interval comes from the bootstrap: the items are drawn anew, with replacement, many times,
and the middle 95 % of the means are the interval. An interval on both sides of 0 is a
difference that cannot be told from chance.
"""

from __future__ import annotations

if __name__ == "__main__":  # a part, no program: said before an import fails
    raise SystemExit(
        "measure.py is a part of the training programs: run  python scripts/inverse_sft.py --help"
    )

from dataclasses import dataclass

import numpy as np
from rapidfuzz.distance import Indel

from self_instruct_workshop import tokenize

DRAWS = 10_000
# Of fewer items no difference is told: the bootstrap's interval is too narrow then. Of two items
# that both went up, it never holds 0.
LEAST = 10


def rouge_l(one: str, other: str) -> float:
    """ROUGE-L F1 in the tokens of self_instruct_workshop: Chinese counts like English."""
    texts = (tokenize(one), tokenize(other))
    return Indel.normalized_similarity(*texts) if any(texts) else 0.0


@dataclass(frozen=True)
class Interval:
    """A mean and the ends of its 95 % interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:+.3f} ({self.low:+.3f} to {self.high:+.3f})"

    @property
    def is_chance(self) -> bool:
        """Whether 0 lies in the interval: nothing can be told."""
        return self.low <= 0 <= self.high


def interval(scores: list[float], seed: int = 0) -> Interval:
    """The mean of `scores` and its 95 % interval, by the bootstrap.

    The same scores and seed give the same interval. Raises ValueError for an empty list.
    """
    if not scores:
        raise ValueError("no scores: an interval needs at least one")
    values = np.array(scores, dtype=float)
    random = np.random.default_rng(seed)
    means = [random.choice(values, len(values)).mean() for _ in range(DRAWS)]
    low, high = np.percentile(means, [2.5, 97.5])
    return Interval(float(values.mean()), float(low), float(high))


def paired(before: list[float], after: list[float], seed: int = 0) -> Interval:
    """How much larger `after` is than `before`, item by item, with its interval.

    Raises ValueError where the lists differ in length, or are empty.
    """
    return interval([b - a for a, b in zip(before, after, strict=True)], seed)
