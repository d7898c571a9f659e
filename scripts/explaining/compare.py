"""Where two texts agree, and what a parser left of a reply: places to mark on the page."""

from __future__ import annotations

if __name__ == "__main__":  # a part, no program: said before an import fails
    raise SystemExit(
        "compare.py is a part of scripts/explain.py: run  python scripts/explain.py --help"
    )

import re
import unicodedata
from dataclasses import dataclass

import self_instruct_workshop as workshop

Span = tuple[int, int]  # characters of a text: from, to (not included)
# What always stands around a task or a field, so that cutting it away is no news: "10. ", "Input:".
EXPECTED = re.compile(r"\s*(?:(?:\d{1,3}\s?[.．、)）]|[^\W\d_][\w ]{0,20}[:：])\s*)*")


@dataclass
class Common:
    """What two texts have in common, in order."""

    here: list[Span]  # in the one text
    there: list[Span]  # in the other
    tokens: tuple[int, int]  # how many tokens each text has

    @property
    def length(self) -> int:
        """Tokens of the longest common subsequence."""
        return len(self.here)


def common(one: str, other: str, recipe: str) -> Common:
    """The longest common subsequence of two texts' tokens, as ROUGE-L counts it.

    >>> found = common("Name the big city.", "Name the city by night.", "modern")
    >>> found.length, found.tokens, found.there
    (3, (4, 5), [(0, 4), (5, 8), (9, 13)])
    """
    here = token_spans(one, recipe)
    there = token_spans(other, recipe)
    pairs = longest_common([token for token, _ in here], [token for token, _ in there])
    spans_here = [here[i][1] for i, _ in pairs]
    spans_there = [there[j][1] for _, j in pairs]
    return Common(spans_here, spans_there, (len(here), len(there)))


def token_spans(text: str, recipe: str) -> list[tuple[str, Span]]:
    """The tokens that ROUGE-L compares, each with its place in the text.

    >>> token_spans("Go, GO!", "modern")
    [('go', (0, 2)), ('go', (4, 6))]
    """
    # A tokenizer changes letters, here and there their number: note where each one came from.
    letters = []
    origin = []
    for place, letter in enumerate(text):
        for changed in unicodedata.normalize("NFKC", letter).lower():
            letters.append(changed)
            origin.append(place)
    changed_text = "".join(letters)

    # The tokens stand there in their order.
    spans = []
    at = 0
    for token in workshop.tokenize(text, recipe=recipe):
        start = changed_text.find(token, at)
        if start < 0:  # letters that only together become others
            spans.append((token, (len(text), len(text))))
            continue
        at = start + len(token)
        spans.append((token, (origin[start], origin[at - 1] + 1)))
    return spans


def longest_common(a: list[str], b: list[str]) -> list[tuple[int, int]]:
    """The longest common subsequence of two lists: pairs (place in a, place in b).

    >>> longest_common(list("xab"), list("ab"))
    [(1, 0), (2, 1)]
    """
    # lengths[i][j]: longest common subsequence of a from i on and b from j on
    lengths = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i in reversed(range(len(a))):
        for j in reversed(range(len(b))):
            if a[i] == b[j]:
                lengths[i][j] = lengths[i + 1][j + 1] + 1
            else:
                lengths[i][j] = max(lengths[i + 1][j], lengths[i][j + 1])

    # Walk through the table from its start, always where the most is left.
    pairs = []
    i = j = 0
    while i < len(a) and j < len(b):
        if a[i] == b[j]:
            pairs.append((i, j))
            i += 1
            j += 1
        elif lengths[i + 1][j] >= lengths[i][j + 1]:
            i += 1
        else:
            j += 1
    return pairs


@dataclass
class Piece:
    """A part of a reply: what the parser made one text of, and what it cut away around it."""

    raw: str
    cut: list[Span]  # characters of `raw` that the parser cut away
    text: str = ""  # what it took; empty: nothing of this

    @property
    def is_news(self) -> bool:
        """Whether more was cut away than the number or the field name that always is."""
        gone = [self.raw[start:end] for start, end in self.cut]
        return any(not EXPECTED.fullmatch(part) for part in gone)


def pieces(reply: str, texts: list[str]) -> list[Piece]:
    """Cut a reply behind each text that the parser took out of it, in order.

    What is left behind the last text is a piece with the text "". A text that stands nowhere in
    the reply as it is (the parser joined parts of it) has an empty `raw`.

    >>> [(p.raw, p.cut) for p in pieces("1. **Add** 2.\\nBye!", ["Add 2."])]
    [('1. **Add** 2.', [(0, 5), (8, 11)]), ('\\nBye!', [(0, 5)])]
    """
    # Where each text stands: from, to.
    places: list[Span | None] = []
    at = 0
    for text in texts:
        match = place_of(text, reply, at)
        places.append(match.span() if match else None)
        at = match.end() if match else at

    # A piece ends where the line of the next text begins.
    found = []
    at = 0
    for number, (text, place) in enumerate(zip(texts, places, strict=True)):
        if not place:
            found.append(Piece("", [], text))
            continue
        later = [start for start, _ in filter(None, places[number + 1 :])]
        end = place[1] + own_tail(reply[place[1] : (later or [len(reply)])[0]])
        raw = reply[at:end]
        found.append(Piece(raw, cut_away(raw, place[0] - at, text), text))
        at = end
    rest = reply[at:]
    if rest.strip():
        found.append(Piece(rest, [(0, len(rest))]))
    return found


def own_tail(gap: str) -> int:
    """How much of what stands between two texts belongs to the first: all but the last line.

    >>> gap = "**\\nOutput: 4\\n10. **"
    >>> gap[: own_tail(gap)]
    '**\\nOutput: 4'
    """
    places = [match.start() for match in re.finditer(r"\n(?=.*\w)", gap)]
    return places[-1] if places else len(gap) if not re.search(r"\w", gap) else 0


def place_of(text: str, reply: str, at: int) -> re.Match | None:
    """Where a text stands in a reply: with other spaces, or with marks of bold inside."""
    letters = [re.escape(letter) for letter in text if not letter.isspace()]
    if not letters:
        return None
    for between in (r"\s*+", r"[\s*_]*+"):
        # The recipe `paper` writes capital letters small.
        match = re.compile(between.join(letters), re.I).search(reply, at)
        if match:
            return match
    return None


def cut_away(raw: str, start: int, text: str) -> list[Span]:
    """The parts of a piece that are not in the text, which stands there from `start` on."""
    # Letter by letter: what lies between two letters of the text was cut away.
    spans = []
    begin = 0
    at = start
    for letter in text:
        if letter.isspace():
            continue
        while raw[at] != letter and (raw[at].isspace() or raw[at] in "*_"):
            at += 1
        spans.append((begin, at))
        at += 1
        begin = at
    spans.append((begin, len(raw)))
    # Spaces between words are no loss.
    return [(begin, end) for begin, end in spans if raw[begin:end].strip()]
