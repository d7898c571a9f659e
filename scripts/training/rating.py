"""What a rater says of a pair: the number, whether its reason is its own, and whether its ratings
tell anything.

A small model copies the reason of a worked example, or rates all pairs alike. So pairs with the
instruction of another row are mixed in (planted), and rated as blind as the others. Unless the
rater turns four in five of them away, and clearly more often than the others, its ratings tell
nothing. judge.py does the same with the same test.
"""

from __future__ import annotations

if __name__ == "__main__":  # a part, no program: said before an import fails
    raise SystemExit("rating.py is a part: run  python scripts/self_curation.py --help")

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from typing import Any

from scripts.judging import trust

Row = dict[str, Any]

NEXT = "\n\nInstruction:"  # here a base model that rates a pair begins a pair of its own
READ = 0.5  # of the planted pairs, the least share with a rating that can be read

# --------------------------------------------------------------------------------------------------
# The number. First a line that begins with "Score", then a score anywhere in the text.

NAME = r"(?:score|rating|grade|评分|得分|分数|打分)"
BEFORE = r"(?:(?:the|my|your|a|an|final|overall|total|so|最终|最后|总体|综合|我的|总)[ :：]*)*"
SCALE = r"(?:\s*\(?\s*(?:(?:from )?1\s*(?:-|–|to|至|到)|out of|max\.?|of)\s*5\s*\)?)?"  # "(1-5)"
NUMBER = r"(?<![:=]-)(?<![:=] -)(?P<number>\d[\d.,]*)(?![\d%])"  # "4", "4.", "4.0"; not "-1"
OTHER = r"(?:/|out of|of|to|or|(?:[-–~]|至|到)(?!\s*\d+\s+[a-z]))\s*(?:\d+|ten\b|a hundred\b)"
OF = r"(?:[ \t*_()\]>]*(?:points?|stars?|marks?)?[ \t]*"  # "4 points out of 10"
OF += rf"(?P<of>{OTHER}|on (?:a|the) scale (?:of|from) (?:0|1)\s*(?:-|–|to)\s*\d+))?"
# "a score of 5 would need sources": a number that is not given
IF = r"(?![ \t*_]*(?:would\b|could\b|might\b|needs?\b|requires?\b|means\b|is for\b|if\b|需要))"
SCORE = re.compile(
    rf"(?i)(?<![a-z]){NAME}{SCALE}"  # not in the middle of a word, such as "underscore"
    rf"(?:\W|_|is|of|was|为|是){{0,9}}?"  # ": ", "：", " is ", ":** <"
    rf"{NUMBER}{OF}{IF}"
)
# A line such as "**Final score** for this answer (1 to 5): 4".
LINE = re.compile(
    rf"(?im)^[^\w\n]{{0,12}}{BEFORE}(?<![a-z]){NAME}(?![a-z])"
    rf"(?:{SCALE}(?!\W{{0,6}}of)(?:\W|_|is|was|为|是){{0,9}}?|(?P<head>[^\n:=]{{0,60}})[:=]\W{{0,9}}?)"
    rf"{NUMBER}{OF}{IF}(?P<rest>.*)"
)
SAID = re.compile(  # "I would rate this answer 4", "I give it a 4", "我给 4 分"
    r"(?i)(?:\bI(?:'d| would| will)? (?:rate|give) (?:this|it|the)(?: \w+){0,3}?:?(?: an?| as)?"
    rf"|[给打得](?:出|了|它|这个回答)*)\s*{NUMBER}(?:\s*分)?{OF}{IF}"
)
AGAIN = re.compile(rf"(?i){NAME}\W{{0,4}}[:=]\W{{0,4}}(?P<number>\d[\d.,]*)")  # in the same line
WHOLE = re.compile(r"([1-5])(?:\.0+)?[.,]*")  # "4", "4.", "4.0"; not "4.5" or "45"
OF_FIVE = re.compile(r"(?i)(?:/|(?:out )?of)\s*5|on .*\D5")  # "/5", "out of 5"; not "or 5", "/10"


def parse_rating(reply: str) -> int | None:
    """The score of a reply, a whole number from 1 to 5; None where none is clear.

    The last line that begins with "Score" counts, and its first number: "Score: 4. It would have
    been a 5 with sources." Without such a line it is the last score in the text.
    """
    # What the model writes about a next pair does not count.
    ours = unicodedata.normalize("NFKC", reply.split(NEXT)[0])
    lines = list(LINE.finditer(ours))
    if lines:
        return number_of_line(lines[-1])
    scores = list(SCORE.finditer(ours)) or list(SAID.finditer(ours))
    return whole_of_five(scores[-1]) if scores else None


def number_of_line(line: re.Match) -> int | None:
    """The number of a line that begins with "Score"; None where the line names two."""
    head = re.findall(r"\d+", line["head"] or "")
    if head and head[-1] != "5":  # "Score (1-10): 4"
        return None
    number = whole_of_five(line)
    others = {whole_number(again["number"]) for again in AGAIN.finditer(line["rest"])}
    return number if others <= {number} else None


def whole_of_five(score: re.Match) -> int | None:
    """A whole number, on a scale that ends at 5; else None."""
    other_scale = score["of"] and not OF_FIVE.fullmatch(score["of"])
    return None if other_scale else whole_number(score["number"])


def whole_number(text: str) -> int | None:
    whole = WHOLE.fullmatch(text)
    return int(whole[1]) if whole else None


# --------------------------------------------------------------------------------------------------
# The reason: is it the rater's own?

ENDS = re.compile(r"[.!?;。！？；\n]+")
LABEL = re.compile(r"(?i)^\W*(?:reason|reasoning|evaluation|explanation|理由|原因|评价)\W*[:：]\s*")


def is_copied(reply: str, shots: list[Row]) -> bool:
    """Whether all sentences of the reason stand word for word in the worked examples.

    A reply without a reason copies nothing.
    """
    known = {part for shot in shots for part in sentences(shot["evaluation"])}
    own = sentences(reason_of(reply))
    return bool(own) and own <= known


def reason_of(reply: str) -> str:
    """A reply without the lines that begin with "Score"."""
    ours = unicodedata.normalize("NFKC", reply.split(NEXT)[0])
    first = LINE.search(ours)
    return LABEL.sub("", ours[: first.start()] if first and ours[: first.start()].strip() else ours)


def sentences(text: str) -> set[str]:
    """The sentences of a text, without case, marks and spaces, and without a score."""
    parts = ENDS.split(unicodedata.normalize("NFKC", text))
    words = {re.sub(r"\W", "", part).casefold() for part in parts if not LINE.match(part)}
    return words - {""}


# --------------------------------------------------------------------------------------------------
# Do the ratings tell anything?


def plant(rows: list[Row], number: int, seed: int) -> list[Row]:
    """Up to `number` pairs of which the answer is another row's."""
    return trust.plant(rows, number, seed)


@dataclass
class Trial:
    """What the ratings say of planted pairs and of the others."""

    planted: list[int | None]
    rows: list[int | None]
    threshold: int

    @property
    def probes(self) -> trust.Probes:
        """How many of both are rated below the threshold; unread ones are left out."""
        return trust.probes_of(*(self.good(side) for side in (self.planted, self.rows)))

    def good(self, ratings: list[int | None]) -> list[bool | None]:
        return [None if one is None else one >= self.threshold for one in ratings]

    @property
    def doubt(self) -> str:
        """Why the ratings tell nothing; "" where they tell planted pairs from the others."""
        both = [one for one in (*self.planted, *self.rows) if one is not None]
        if not both:
            return "no rating can be read"
        if len(both) > 1 and len({*both}) == 1:
            return f"the ratings tell nothing: all {len(both)} are {both[0]}"
        return self.doubt_of_planted() if self.planted else ""

    def doubt_of_planted(self) -> str:
        """The same, from the planted pairs."""
        probes = self.probes
        total = len(self.planted)
        if probes.planted < READ * total:
            return f"the ratings tell nothing: {probes.planted} of {total} planted pairs have one"
        if probes.tells:
            return ""
        kept = probes.planted - probes.found
        if probes.misses_many:
            least = f"{kept} of {probes.planted} planted pairs are rated {self.threshold} or better"
            return f"the ratings tell nothing: {least}"
        p = f"Fisher's p {probes.p:.2g}"
        return f"the ratings do not tell planted pairs from the others ({p})"

    def lines(self) -> list[str]:
        """The figures, for people."""
        probes = self.probes
        planted = trust.share(probes.found, probes.planted)
        lines = [f"rated below {self.threshold}: {planted} of the planted pairs"]
        lines.append(f"    and {trust.share(probes.wrong, probes.rows)} of the others")
        means = f"mean rating {mean(self.planted)} and {mean(self.rows)}"
        lines.append(f"    Fisher's p {probes.p:.2g}; {means}")
        return lines

    def record(self) -> dict:
        """For the record beside the ratings, and for the card."""
        counts = [Counter(map(str, side)) for side in (self.planted, self.rows)]
        probes = self.probes
        said = {"below": [probes.found, probes.wrong], "read": [probes.planted, probes.rows]}
        return {"planted": counts[0], "rows": counts[1], **said, "p": probes.p, "doubt": self.doubt}


def mean(ratings: list[int | None]) -> str:
    """The mean of what can be read: "3.2"."""
    read = [one for one in ratings if one is not None]
    return f"{sum(read) / len(read):.1f}" if read else "-"
