"""How far a judge can be trusted: planted faults, which it must find, and people's sheets."""

from __future__ import annotations

if __name__ == "__main__":  # a part, no program: said before an import fails
    raise SystemExit("trust.py is a part of judge.py: run  python scripts/judge.py --help")

import math
import random
from dataclasses import dataclass
from pathlib import Path

from scripts.judging.asked import Row, Verdict
from scripts.review import (
    PAPER,
    Pairs,
    Say,
    Sheet,
    agreement,
    both_answers,
    found_by_judge,
    kappa,
    left,
    percent,
    wilson,
    with_all_three,
)
from self_instruct_workshop import folded

SURE = 0.05  # the highest p of Fisher's test at which a judge tells faults from rows
MISSED = 0.2  # of planted faults: who misses more of faults so gross decides nothing
FAIR = 0.4  # a kappa below is warned of
POOR = 0.2  # a kappa below drops no row
OUTPUT = "output_right"  # the question that planted faults are about

# --------------------------------------------------------------------------------------------------
# Planted faults: rows with the output of another row.


def plant(rows: list[Row], number: int, seed: int) -> list[Row]:
    """Up to `number` rows whose output is another row's, and so wrong.

    An output that may be right all the same is not taken: a label that the instruction names, and
    an output that the dataset has for the same instruction.
    """
    rng = random.Random(f"{seed}/planted")
    hosts = rng.sample(rows, min(number, len(rows)))
    outputs: dict[str, set[str]] = {}
    for row in rows:
        outputs.setdefault(row["instruction"], set()).add(folded(row["output"]))

    # Look at a few others for each: in a strange dataset none may fit.
    planted = []
    for host in hosts:
        for other in rng.sample(rows, min(20, len(rows))):
            text = folded(other["output"])
            own = outputs[host["instruction"]]
            if text and text not in own and text not in folded(host["instruction"]):
                wrong = {**host, "output": other["output"], "of": other["id"]}
                planted.append({**wrong, "id": f"planted_{len(planted)}"})
                break
    return planted


@dataclass
class Probes:
    """How often the judge called planted outputs wrong, and the others; unread ones left out."""

    found: int
    planted: int
    wrong: int
    rows: int

    @property
    def p(self) -> float:
        """How likely so many planted ones are found, or more, where the judge sees no difference.

        Fisher's exact test, one-sided.
        """
        return fisher(self.found, self.planted, self.wrong, self.rows)

    @property
    def side(self) -> str:
        """What it says to every output, "yes" or "no"; "" where it says both."""
        called = self.found + self.wrong
        answered = self.planted + self.rows
        return {0: "yes", answered: "no"}.get(called, "") if answered else ""

    @property
    def tells(self) -> bool:
        """Whether the judge finds most planted faults, clearly more often than others."""
        return self.p < SURE and not self.misses_many

    @property
    def misses_many(self) -> bool:
        """Whether it misses more of the planted faults than a judge of real ones may."""
        return self.planted - self.found > MISSED * self.planted

    def record(self) -> dict:
        """For judge.json."""
        counts = {"planted": self.planted, "planted_called_wrong": self.found}
        counts |= {"rows": self.rows, "rows_called_wrong": self.wrong}
        return counts | {"p": self.p, "tells": self.tells}

    def lines(self, say: Say = str) -> list[str]:
        """The figures, and what they say, as lines of a table."""
        says = "tells" if self.tells else "does not tell"
        return [
            left(say("planted faults called wrong"), 50) + share(self.found, self.planted, say),
            left(say("rows called wrong"), 50) + share(self.wrong, self.rows, say),
            say(f"Fisher's p {self.p:.2g}: the judge {says} planted faults from rows"),
        ]

    def __str__(self) -> str:
        found = share(self.found, self.planted)
        others = share(self.wrong, self.rows)
        return f"calls {found} planted faults wrong, and {others} rows, Fisher's p {self.p:.2g}"


def probes_of(planted: list[bool | None], rows: list[bool | None]) -> Probes:
    """The answers to "output right?", of planted rows and of the others."""
    sides = []
    for answers in (planted, rows):
        sides += [answers.count(False), len(answers) - answers.count(None)]
    return Probes(*sides)


def fisher(found: int, planted: int, wrong: int, rows: int) -> float:
    """The chance of `found` or more of `planted` among all that are called wrong.

    All are drawn from planted + rows, of which found + wrong are called wrong.
    """
    called = found + wrong
    highest = min(planted, called)
    ways = [math.comb(planted, n) * math.comb(rows, called - n) for n in range(found, highest + 1)]
    return sum(ways) / math.comb(planted + rows, called)


def share(part: int, whole: int, say: Say = str) -> str:
    """ "18 of 20 (90.0 %, 69.9 % to 97.2 %)": with the 95 % interval."""
    if not whole:
        return "0 of 0"
    low, high = wilson(part, whole)
    interval = say(f"{percent(low)} to {percent(high)}")
    return f"{part}{say(' of ')}{whole} ({percent(part / whole)}, {interval})"


# --------------------------------------------------------------------------------------------------
# People's sheets.


@dataclass
class Calibration:
    """How far the judge agrees with a person on the question that decides what is kept."""

    path: Path
    person: Sheet
    judge: Sheet
    keep: tuple[str, ...]

    @property
    def kept(self) -> Pairs:
        """(person, judge): whether the row would be kept, where both tell."""
        pairs = []
        for row in self.person.keys() & self.judge.keys():
            sides = [keeps(side[row], self.keep) for side in (self.person, self.judge)]
            if None not in sides:
                pairs.append(tuple(sides))
        return sorted(pairs)

    @property
    def kappa(self) -> float | None:
        """Kappa of `kept`; None where it is undefined, or no row has two answers."""
        found = kappa(self.kept) if self.kept else None
        return round(found[0], 6) if found else None  # 0.2 is no 0.19999

    def record(self) -> dict:
        """For judge.json: the sheet's name and, by question, pairs and kappa."""
        questions = {}
        for name in PAPER:
            pairs = both_answers(self.person, self.judge, name)
            found = kappa(pairs) if pairs else None
            same = sum(one == other for one, other in pairs)
            questions[name] = {"both": len(pairs), "same": same, "kappa": rounded(found)}
        return {"sheet": self.path.name, "kappa": self.kappa, "questions": questions}

    def text(self, say: Say = str) -> str:
        """The figures as review.py prints them."""
        paths = [self.path, Path(say("the judge"))]
        parts = [agreement(self.person, self.judge, paths, say)]
        parts.append(found_by_judge(self.person, self.judge, paths, say))
        return "\n\n".join(parts)


def rounded(found: tuple[float, float, float] | None) -> list[float] | None:
    """Kappa and its interval with three decimals."""
    return [round(value, 3) for value in found] if found else None


def keeps(said: dict, keep: tuple[str, ...]) -> bool | None:
    """Whether a row with these answers is kept; None: not known. One no is enough."""
    answers = [said[name] for name in keep]
    if False in answers:
        return False
    return None if None in answers else True


def judge_sheet(verdicts: dict[str, Verdict], rows: list[Row]) -> Sheet:
    """The judge's answers as a sheet, of the rows that it has answered."""
    sheet: Sheet = {}
    for row in rows:
        if row["id"] in verdicts:
            sheet[row["id"]] = row | with_all_three(verdicts[row["id"]].answers)
    return sheet
