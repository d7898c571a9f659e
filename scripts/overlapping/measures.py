"""The three tests: exact after folding, shared n-grams, and ROUGE-L.

All three compare prompts of a dataset (rows) with prompts of an evaluation set (items). A prompt
has up to three parts: its instruction, its input, and both together. The whole prompt is "both",
or the instruction where there is no input. Two rules keep chance out of the tests:

- A part that is not the whole prompt counts from PART tokens on. "Paris" or "3 + 4" as an input
  stands in many prompts, and says nothing.
- What more than `common` items, or instructions of the dataset, have in common is boilerplate,
  such as "Choose the best answer from the options below". GPT-3's authors ignored 13-grams that
  were in more than 10 documents of their training data.

The n-grams follow Brown et al., 2020 (GPT-3, https://arxiv.org/abs/2005.14165), appendix C: 13
words without case and punctuation; a text that is shorter has no n-gram. Of 8 they say that fewer
words collide by chance.
"""

from __future__ import annotations

if __name__ == "__main__":  # a part, no program: said before an import fails
    raise SystemExit(
        "measures.py is a part of scripts/overlap.py: run  python scripts/overlap.py --help"
    )

import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import self_instruct_workshop as workshop
from scripts.overlapping.files import Prompt
from self_instruct_workshop import InstructionPool, tokenize

PART = 8  # tokens; a part that is shorter does not count alone (GPT-3's lower limit)
SHORT = 3  # tokens; ROUGE-L of whole prompts that are no longer says nothing: "3 + 4", "3 - 4"
CELLS = 4_000_000  # scores that are in memory at once (8 bytes each: 32 MB)


@dataclass(frozen=True)
class Part:
    """A part of a prompt, with the place of the prompt in its list."""

    owner: int
    name: str  # "instruction", "input" or "both"
    text: str
    whole: bool


@dataclass(frozen=True)
class Hit:
    """The best evidence of one test for one row. `row` and `item` are places in their lists."""

    row: int
    item: int
    part: str
    item_part: str
    score: float  # exact: 1; n-grams: the row's share that is in the file; ROUGE-L: F1
    shared: str = ""  # of n-grams: the longest run of words that both have


@dataclass
class Found:
    """What one test found: the hits by row, and the boilerplate by text, with its rows."""

    hits: dict[int, Hit] = field(default_factory=dict)
    common: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))


def parts(prompts: list[Prompt]) -> list[Part]:
    """The parts of all prompts, the whole of each first."""
    found = []
    for owner, prompt in enumerate(prompts):
        if prompt.input:
            found.append(Part(owner, "both", prompt.whole, True))
            found.append(Part(owner, "instruction", prompt.instruction, False))
            found.append(Part(owner, "input", prompt.input, False))
        else:
            found.append(Part(owner, "instruction", prompt.instruction, True))
    return found


# --------------------------------------------------------------------------------------------------
# (a) Exact: the same text, but for case, spaces, width of characters and punctuation.


@cache
def folding() -> Any:
    """What folding keeps: tokens, symbols such as + and =, and signs that change a number.

    The sign is an operator before a digit ("7 - 2" is not "7 / 2"), or stands inside a number.
    """
    import regex

    token = workshop.token_pattern().pattern
    inside = r"(?<=\d)[.,:](?=\d)"
    operator = r"(?<=[\p{L}\p{N})]\s?)[-*/%](?=\s?[\p{N}(])"
    return regex.compile(rf"{token}|[\p{{S}}--[`]]|{inside}|{operator}")


def fold(text: str) -> str:
    """A text without what does not change its meaning; "" where nothing is left.

    >>> fold("What is “3 + 4”？") == fold("what  is 3+4?")
    True
    """
    plain = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(folding().findall(plain))


def exact(rows: list[Prompt], items: list[Prompt], common: int) -> Found:
    """Rows of which a part is a part of an item, too: both whole, or both of PART tokens.

    A part that more than `common` items have is boilerplate, unless it is whole in both.
    """
    # The items' parts by their folded texts.
    index = defaultdict(list)
    for part in parts(items):
        index[fold(part.text)].append(part)
    index.pop("", None)

    # The first part of a row that an item has decides.
    found = Found()
    for part in parts(rows):
        same = index.get(fold(part.text), [])
        if not same or part.owner in found.hits:
            continue
        item = counted(part, same)
        shared_by = len({other.owner for other in same})
        if item and not (part.whole and item.whole) and 0 < common < shared_by:
            found.common[part.text].add(part.owner)
        elif item:
            found.hits[part.owner] = Hit(part.owner, item.owner, part.name, item.name, 1.0)
    return found


def counted(part: Part, same: list[Part]) -> Part | None:
    """The first of the items' parts that counts as the same: a whole one, if there is one."""
    whole = [other for other in same if other.whole]
    if part.whole and whole:
        return whole[0]
    return same[0] if len(tokenize(part.text)) >= PART else None


# --------------------------------------------------------------------------------------------------
# (b) n-grams: n tokens in a row that both have.


UNKNOWN = chr(0x10FFFF)  # stands for all tokens that no item has


class Coder:
    """Texts with one character for each token, as the pool has them, and the way back.

    The items' tokens have characters of their own. All others have one together: they match
    nothing.
    """

    def __init__(self, texts: list[str]) -> None:
        pool = InstructionPool()
        self.coded = [pool.code(text) for text in texts]
        self.codes = pool.codes
        self.tokens = {character: token for token, character in pool.codes.items()}

    def code(self, text: str) -> str:
        return "".join(self.codes.get(token, UNKNOWN) for token in tokenize(text))

    def words(self, coded: str) -> str:
        """The tokens of a coded text; no space between Chinese characters."""
        text = " ".join(self.tokens[character] for character in coded)
        return re.sub(rf"(?<=[{workshop.WIDE}]) (?=[{workshop.WIDE}])", "", text)


def grams(coded: str, n: int) -> list[str]:
    """All runs of n tokens of a coded text, in their order; none of a shorter text."""
    return [coded[start : start + n] for start in range(len(coded) - n + 1)]


def shared_ngrams(rows: list[Prompt], items: list[Prompt], n: int, common: int) -> Found:
    """Rows that share n tokens in a row with an item.

    An n-gram in more than `common` items, or in rows of more than `common` instructions, is
    boilerplate. With `common` 0 nothing is.
    """
    # The items' n-grams, and the rows that have one of them.
    coder = Coder([item.whole for item in items])
    first, times = index_of(coder.coded, n)
    coded = {}
    asked = defaultdict(set)  # n-gram -> the instructions of the rows that have it
    for place, row in enumerate(rows):
        text = coder.code(row.whole)
        known = [gram for gram in grams(text, n) if gram in first]
        if known:
            coded[place] = text
        for gram in known:
            asked[gram].add(row.instruction)
    counts = {gram: max(times[gram], len(texts)) for gram, texts in asked.items()}
    boilerplate = {gram for gram, count in counts.items() if 0 < common < count}

    # The evidence of each row: the longest run of tokens that it shares with one item.
    found = Found()
    for place, text in coded.items():
        owners, covered = items_of_ngrams(text, first, boilerplate, n)
        low, high, own = longest_run(owners, covered, n)
        if own >= min(n, PART):
            item = owners[low]
            names = (rows[place].name_of_whole, items[item].name_of_whole)
            share = 1 - owners.count(None) / len(owners)
            shared = coder.words(text[low:high])
            found.hits[place] = Hit(place, item, *names, share, shared)
        else:
            gram = next(gram for gram in grams(text, n) if gram in boilerplate)
            found.common[coder.words(gram)].add(place)
    return found


def index_of(coded_items: list[str], n: int) -> tuple[dict[str, int], Counter[str]]:
    """Of each n-gram of the items: the first item that has it, and how many have it."""
    first: dict[str, int] = {}
    times: Counter[str] = Counter()
    for place, coded in enumerate(coded_items):
        for gram in dict.fromkeys(grams(coded, n)):
            first.setdefault(gram, place)
            times[gram] += 1
    return first, times


def items_of_ngrams(
    text: str, first: dict[str, int], boilerplate: set[str], n: int
) -> tuple[list[int | None], set[int]]:
    """The item of each n-gram of a coded text, and which tokens stand in boilerplate.

    An n-gram that is boilerplate, or that no item has, has None.
    """
    owners = []
    covered: set[int] = set()
    for place, gram in enumerate(grams(text, n)):
        is_boilerplate = gram in boilerplate
        owners.append(None if is_boilerplate else first.get(gram))
        if is_boilerplate:
            covered.update(range(place, place + n))
    return owners, covered


def longest_run(owners: list[int | None], covered: set[int], n: int) -> tuple[int, int, int]:
    """The longest run of tokens whose n-grams are of one item: its first token, and its end.

    The third number is its length without the tokens that stand in boilerplate. That decides:
    otherwise any word that follows a fixed text would make a new n-gram of it.
    """
    best = (0, 0, 0)
    start = 0
    own = 0
    for place, owner in enumerate(owners):
        # A run begins with a whole n-gram, and each further n-gram adds its last token.
        if owner is None:
            continue
        end = place + n
        if place == 0 or owner != owners[place - 1]:
            start = place
            own = sum(token not in covered for token in range(start, end))
        elif end - 1 not in covered:
            own += 1
        if own > best[2]:
            best = (start, end, own)
    return best


# --------------------------------------------------------------------------------------------------
# (c) ROUGE-L, by the block version of the pool.


@dataclass
class Texts:
    """Parts in order of length, the same ones once: block by block they are compared."""

    coded: list[str] = field(default_factory=list)
    whole: list[bool] = field(default_factory=list)
    parts: list[list[Part]] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)  # in tokens


def texts_to_compare(found_parts: list[Part], coded_parts: Iterable[str]) -> Texts:
    """The parts that ROUGE-L compares: whole prompts of more than SHORT tokens, others of PART."""
    # The same text as a whole prompt and as a part are two things.
    groups = defaultdict(list)
    for part, coded in zip(found_parts, coded_parts, strict=True):
        if len(coded) >= PART or (part.whole and len(coded) > SHORT):
            groups[coded, part.whole].append(part)

    # Short ones first; of equal ones, the older first.
    found = Texts()
    for coded, whole in sorted(groups, key=lambda key: len(key[0])):
        found.coded.append(coded)
        found.whole.append(whole)
        found.parts.append(groups[coded, whole])
        found.lengths.append(len(coded))
    return found


def rouge(rows: list[Prompt], items: list[Prompt], threshold: float, cells: int = CELLS) -> Found:
    """Rows of which a part has a ROUGE-L F1 above the threshold with a part of an item.

    Whole prompts are compared with whole prompts; with parts from PART tokens on. No more than
    `cells` scores are in memory at once, or one row of them.
    """
    item_parts = parts(items)
    coder = Coder([part.text for part in item_parts])
    theirs = texts_to_compare(item_parts, coder.coded)
    row_parts = parts(rows)
    ours = texts_to_compare(row_parts, (coder.code(part.text) for part in row_parts))

    # The nearest item of each row. Parts that are the same were compared once.
    found = Found()
    for place, other, score in best_pairs(ours, theirs, threshold, cells):
        item = theirs.parts[other][0]
        for part in ours.parts[place]:
            known = found.hits.get(part.owner)
            if known is None or score >= known.score:  # of equal ones, the longer text
                hit = Hit(part.owner, item.owner, part.name, item.name, score)
                found.hits[part.owner] = hit
    return found


def best_pairs(
    ours: Texts, theirs: Texts, threshold: float, cells: int
) -> Iterator[tuple[int, int, float]]:
    """Of each of our texts above the threshold: its place, that of its nearest, and the score."""
    import numpy as np

    if not theirs.coded:
        return
    our_lengths = np.array(ours.lengths)
    our_wholes = np.array(ours.whole)
    their_lengths = np.array(theirs.lengths)
    their_wholes = np.array(theirs.whole)
    for low, high, start, stop in blocks(ours.lengths, theirs.lengths, threshold, cells):
        scores = workshop.modern_scores(ours.coded[low:high], theirs.coded[start:stop])

        # Short texts are compared as whole prompts alone.
        long = np.outer(our_lengths[low:high] >= PART, their_lengths[start:stop] >= PART)
        whole = np.outer(our_wholes[low:high], their_wholes[start:stop])
        scores[~(long | whole)] = 0.0

        # The nearest text of each. Rounding must not lift a score above the threshold.
        nearest = scores.argmax(axis=1)
        best = scores[np.arange(high - low), nearest]
        for row in (best > threshold + 1e-9).nonzero()[0]:
            yield low + int(row), start + int(nearest[row]), float(best[row])


def blocks(
    ours: list[int], theirs: list[int], threshold: float, cells: int
) -> Iterator[tuple[int, int, int, int]]:
    """Which of our texts to compare with which of theirs: low, high, start, stop.

    Both are given by their lengths, in order. The longest common subsequence is at most the
    shorter text, so F1 is at most 2 * shorter / (shorter + longer): texts of too different
    lengths need not be compared.
    """
    size = max(1, min(1024, cells // max(1, len(theirs))))
    ratio = threshold / (2 - threshold)  # shorter / longer, at F1 = threshold
    for low in range(0, len(ours), size):
        high = min(low + size, len(ours))
        start = bisect_left(theirs, ours[low] * ratio)
        stop = len(theirs)
        if ratio:
            stop = bisect_right(theirs, ours[high - 1] / ratio)
        if start < stop:
            yield low, high, start, stop
