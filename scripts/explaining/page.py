"""A page of labelled, wrapped lines for a terminal, with colour where it has some."""

from __future__ import annotations

if __name__ == "__main__":  # a part, no program: said before an import fails
    raise SystemExit("page.py is a part of scripts/explain.py: run  python scripts/explain.py -h")

import os
import re
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from io import StringIO

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

import self_instruct_workshop as workshop
from scripts.explaining.compare import Span

NARROWEST = 40  # columns; below that nothing can be read
# How things look in colour. Without it, marks stand in a line below the text.
SAME = "bold green underline"
CUT = "red strike"
KEPT = "green"
REJECTED = "red"
ASIDE = "dim italic"
LABEL = "cyan"
HEADING = "bold reverse"
MARKS = {SAME: "=", CUT: "x"}

# Where a line may break: at spaces, and around characters of scripts that have none.
WIDE = "\u1100-\u115f\u2e80-\ua4cf\ua960-\ua97f\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe4f\uff01-\uff60"
WIDE += "\uffe0-\uffe6\U0001f300-\U0001faff\U00020000-\U0003fffd"
OPENING = "（「『《【〈“‘"
CLOSING = "，。！？；：、）」』》】〉”’…,.!?;:)"
UNIT = re.compile(rf"\s+|[{OPENING}]*[{WIDE}][{CLOSING}]*|[^\s{WIDE}]+[{CLOSING}]*")


@dataclass
class Page:
    """Lines that are put below each other. `labels` are the words of the left column."""

    labels: dict[str, str]
    width: int
    colour: bool
    lines: list[Text] = field(default_factory=list)

    @property
    def indent(self) -> int:
        """Columns of the left column."""
        return max(map(cell_len, self.labels.values())) + 2

    @property
    def room(self) -> int:
        """Columns that are left for texts."""
        return self.width - self.indent

    def title(self, text: str) -> None:
        """A line in bold, without a label."""
        self.lines += wrap(Text(safe(text), "bold"), self.width)

    def blank(self) -> None:
        """An empty line."""
        self.lines.append(Text(""))

    def heading(self, text: str) -> None:
        """A blank line and the name of a stage."""
        self.blank()
        line = f"== {safe(text)} "
        self.lines.append(Text(line + "=" * (self.width - cell_len(line)), "bold"))

    def put(self, label: str, text: str | Text, style: str = "", hang: int = 0) -> None:
        """A text beside its label ("": none), wrapped; below it the marks, where no colour is.

        All lines but the first stand `hang` columns further in.
        """
        if isinstance(text, str):
            text = Text(safe(text), style)
        for number, line in enumerate(wrap(text, self.room - hang)):
            name = self.labels[label] if label and not number else ""
            space = " " * (self.indent - cell_len(name) + (hang if number else 0))
            self.lines.append(Text.assemble((name, LABEL), space, line))
            below = "" if self.colour else marks_below(line)
            if below:
                self.lines.append(Text(space + " " * cell_len(name) + below))

    def put_all(self, label: str, texts: Iterable[str | Text], hang: int = 0) -> None:
        """Several texts, of which the first stands beside the label."""
        for text in texts:
            self.put(label, text, hang=hang)
            label = ""

    def text(self) -> str:
        """The whole page, with escape codes where it is in colour."""
        out = StringIO()
        # The lines are wrapped already: a wide console leaves them as they are.
        console = Console(
            file=out,
            width=10_000,
            force_terminal=self.colour,
            color_system="standard" if self.colour else None,
            highlight=False,
            legacy_windows=False,
        )
        for line in self.lines:
            console.print(line, no_wrap=True, crop=False, end="\n")
        return out.getvalue()


def safe(text: str) -> str:
    """Text from outside, safe to print: what could steer a terminal is written out."""
    return workshop.printable(text.expandtabs(4))


def terminal_width() -> int:
    """Columns of the terminal, or what COLUMNS says; 80 where the page goes into a pipe."""
    return max(NARROWEST, shutil.get_terminal_size((80, 24)).columns)


def has_colour() -> bool:
    """Whether the output is a terminal that shows colours, and nobody asked for none."""
    if os.environ.get("NO_COLOR"):
        return False
    console = Console(file=sys.stdout)
    return console.is_terminal and console.color_system is not None


def marked(text: str, spans: Iterable[Span], style: str) -> Text:
    """A text with some of its characters in a style. The text must be safe already."""
    found = Text(text)
    for start, end in spans:
        found.stylize(style, start, end)
    return found


def trimmed(text: Text) -> Text:
    """The text without spaces and line ends around it."""
    plain = text.plain
    start = len(plain) - len(plain.lstrip())
    return text[start : max(start, len(plain.rstrip()))] if plain.strip() else Text("")


def wrap(text: Text, width: int) -> list[Text]:
    """Lines of at most `width` columns, broken between words or Chinese characters.

    Only a word that is wider than the whole line is cut.

    >>> [line.plain for line in wrap(Text("Name the 首都。"), 8)]
    ['Name the', '首都。']
    """
    lines: list[Text] = []
    for line in text.split("\n", allow_blank=True):
        parts = line.divide(breaks(line.plain, width))
        for part in parts:
            part.rstrip()
        lines += parts or [Text("")]
    return lines


def breaks(line: str, width: int) -> list[int]:
    """The places where a line must be broken."""
    places = []
    used = 0
    for unit in UNIT.finditer(line):
        wide = cell_len(unit[0])
        if unit[0].isspace():
            used += wide
            continue
        if used and used + wide > width:
            places.append(unit.start())
            used = 0
        # A word that fits in no line is cut, letter by letter.
        for place, letter in enumerate(unit[0] if wide > width else ""):
            if used + cell_len(letter) > width:
                places.append(unit.start() + place)
                used = 0
            used += cell_len(letter)
        used += 0 if wide > width else wide
    return places


def marks_below(line: Text) -> str:
    """A line of signs below the marked characters, "" where none is marked.

    >>> marks_below(marked("Go 首都", [(3, 5)], SAME))
    '   ===='
    """
    signs = [" "] * len(line.plain)
    for span in line.spans:
        for place in range(span.start, min(span.end, len(signs))):
            signs[place] = MARKS.get(str(span.style), signs[place])
    wide = [sign * cell_len(letter) for sign, letter in zip(signs, line.plain, strict=True)]
    return "".join(wide).rstrip()


def first_line(text: Text, width: int) -> Text:
    """The text on one line, with an ellipsis where words were left out."""
    flat = Text(" ").join(text.split("\n"))
    lines = wrap(flat, width)
    if len(lines) > 1:
        lines = wrap(flat, width - 2)
        return lines[0] + Text(" …")
    return lines[0]


def folded_lines(lines: list[str], fixed: set[str], words: dict[str, str]) -> list[Text]:
    """Lines without the blank ones; those in a row that stand in every prompt become one."""
    found: list[Text] = []
    run: list[str] = []
    for line in [*lines, None]:
        if line is not None and not line.strip():
            continue
        if line is not None and line in fixed:
            run.append(line)
            continue
        # One line is as short as what would stand in its place.
        if len(run) > 1:
            found.append(Text(words["fixed"].format(n=len(run)), ASIDE))
        else:
            found += [Text(safe(one)) for one in run]
        run = []
        if line is not None:
            found.append(Text(safe(line)))
    return found


def capped(lines: list[Text], most: int, keep: int, words: dict[str, str]) -> list[Text]:
    """At most about `most` of the lines, the one with the number `keep` among them."""
    if len(lines) <= most:
        return lines
    start = max(0, min(keep - most // 2, len(lines) - most))
    end = start + most
    # A single line is as short as what would stand in its place.
    start -= start == 1
    end += end == len(lines) - 1
    before = [Text(words["more"].format(n=start), ASIDE)] if start else []
    left = len(lines) - end
    after = [Text(words["more"].format(n=left), ASIDE)] if left else []
    return [*before, *lines[start:end], *after]


def both_ends(lines: list[Text], head: int, tail: int, words: dict[str, str]) -> list[Text]:
    """The first and the last of the lines, with the number of those between them."""
    left = len(lines) - head - tail
    if left < 2:
        return lines
    return [*lines[:head], Text(words["more"].format(n=left), ASIDE), *lines[-tail:]]
