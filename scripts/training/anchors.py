"""Beside what a backward model writes: what costs nothing, and whether it learnt.

A ROUGE-L of 0.157 alone says nothing. An untrained model and a copy of the answer have one, too,
and so has a model that was trained the other way round (the control). `Table` holds the scores of
all of them on the same rows, the differences row by row, and a sentence.
"""

from __future__ import annotations

if __name__ == "__main__":  # a part, no program: said before an import fails
    raise SystemExit("anchors.py is a part: run  python scripts/inverse_sft.py --help")

from dataclasses import dataclass, field
from typing import Any

from scripts.training.measure import LEAST, Interval, interval, paired, rouge_l

Row = dict[str, Any]

TRAINED = "trained"
UNTRAINED = "untrained"
COPY = "a copy of the answer"
CONTROL = "control, swapped"
FEW = 20  # below so many rows an interval of the bootstrap is too narrow


@dataclass
class Table:
    """ROUGE-L of each text with what people asked, by who wrote it."""

    asked: list[str]
    scores: dict[str, list[float]] = field(default_factory=dict)
    exact: dict[str, int] = field(default_factory=dict)

    def add(self, name: str, written: list[str]) -> None:
        pairs = list(zip(self.asked, written, strict=True))
        self.scores[name] = [rouge_l(*pair) for pair in pairs]
        self.exact[name] = sum(one.strip() == other.strip() for one, other in pairs)

    def mean(self, name: str) -> Interval:
        return interval(self.scores[name])

    def gain(self, name: str) -> Interval:
        """How much more the trained model scores than another, row by row."""
        return paired(self.scores[name], self.scores[TRAINED])

    @property
    def others(self) -> list[str]:
        return [name for name in self.scores if name != TRAINED]

    @property
    def learnt(self) -> bool:
        """Whether it is above the untrained model by more than chance; not told of few rows."""
        return len(self.asked) >= LEAST and self.gain(UNTRAINED).low > 0

    def lines(self) -> list[str]:
        """The table, for people."""
        total = len(self.asked)
        head = f"not trained on: {total} rows, ROUGE-L with what people asked (95 % interval)"
        lines = [f"{head:<72}{'exact':>6}  trained minus this one"]
        for name in self.scores:
            found = self.mean(name)
            score = f"{found.mean:.3f} ({found.low:.3f} to {found.high:.3f})"
            gain = "" if name == TRAINED else str(self.gain(name))
            lines.append(f"  {name:<24}{score:<46}{self.exact[name]:>6}  {gain}".rstrip())
        return lines

    def sentence(self) -> str:
        """What they say, and no more."""
        more = f"{self.gain(UNTRAINED)} ROUGE-L on {len(self.asked)} rows"
        if self.gain(UNTRAINED).low <= 0:
            return f"it cannot be told from the untrained model: {more}"
        if not self.learnt:
            return f"so few rows do not tell it from the untrained model: {more}"
        below = [name for name in self.others if self.gain(name).low <= 0]
        few = f"; {len(self.asked)} rows are few for an interval" if len(self.asked) < FEW else ""
        if below:
            return (
                f"it is above the untrained model ({more}), but not above {', '.join(below)}{few}"
            )
        return f"it learnt: it is above {', '.join(self.others)} by more than chance{few}"

    def record(self) -> Row:
        """For training.json: means with their intervals, and the differences."""
        means = {name: numbers(self.mean(name)) for name in self.scores}
        gains = {name: numbers(self.gain(name)) for name in self.others}
        said = {"rows": len(self.asked), "rouge_l": means, "trained_minus": gains}
        return said | {"exact": self.exact, "learnt": self.learnt}


def numbers(found: Interval) -> list[float]:
    return [round(value, 4) for value in (found.mean, found.low, found.high)]


def near_to_question(asked: list[str], written: list[str], answers: list[str]) -> str:
    """What can be said of written instructions without another model, in a sentence.

    Each stands beside as many characters of its answer: whoever copies is no nearer.
    """
    copies = [answer[: len(text)] for text, answer in zip(written, answers, strict=True)]
    near = [rouge_l(*pair) for pair in zip(asked, written, strict=True)]
    copied = [rouge_l(*pair) for pair in zip(asked, copies, strict=True)]
    gain = paired(copied, near)
    said = f"ROUGE-L with what the person asked {interval(near).mean:.3f}"
    said += f", a copy of as much of the answer {interval(copied).mean:.3f}: {gain}"
    if gain.low > 0:
        return said
    return f"{said}; the instructions are no nearer to the questions than a copy"
