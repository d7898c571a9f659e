"""The search for similar instructions, compiled by numba: for pools of over 20,000.

    from scripts.scale import speed_up
    speed_up(config.num_instructions)        # before workshop.run, or before `compared`

The answers are those of the module's own parts (tests compare them). Needs numba
(scripts/requirements-scale.txt), which nothing else imports: no smaller run waits for it. What it
compiles it keeps in __pycache__ beside this file: ten seconds or more at the first time, half a
second later.
"""

from __future__ import annotations

if __name__ == "__main__":  # a part, no program: said before an import fails
    raise SystemExit("compiled.py is a part of self_instruct.py: run  python self_instruct.py")

import math
import os
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numba import njit, uint64

from self_instruct_workshop import (
    FASTER,
    RECIPES,
    WORD,
    InstructionPool,
    Nearest,
    Recipe,
    numbers_of,
    token_holders,
)

# Where this folder cannot be written, numba would write into the user's: then it keeps nothing.
fast = njit(cache=os.access(Path(__file__).parent, os.W_OK))

ROOM = 2  # entries that a new list gets room for
# Classes of lengths, each up to 1.19 times as long as the one before; the last: from 215 on.
LENGTHS = 32
MOST = 0x7FFF  # an entry has 15 bits for a length: longer texts count as that long
PLACE = 0xFFFF_FFFF  # the 32 bits of an entry for the place
ALL_SET = uint64(0xFFFF_FFFF_FFFF_FFFF)
K = 10  # neighbours that step 1's file names


def use() -> None:
    """Let the module search by these parts from now on."""
    FASTER.update(index=CompiledIndex, neighbours=neighbours_of_many)


# --------------------------------------------------------------------------------------------------
# Which instructions are more like a text than the limit?


class Arrays(NamedTuple):
    """All that the index knows. Numbers in brackets: how many values, at least."""

    # Of each list [tokens * LENGTHS]: where its entries begin, how many they are, and for how
    # many there is room. A token has a list for each class of lengths.
    starts: Any
    counts: Any
    rooms: Any
    times: Any  # [tokens] how often each stands in the text that is searched for
    # Of each entry: 15 bits for the length of the instruction, 16 for the longest other text,
    # 32 for the place; and the signature.
    entries: Any
    signatures: Any
    used: Any  # [1] where the room behind the last entry begins
    # Of each instruction: where its tokens end, another signature, and the last text that it was
    # met for.
    ends: Any
    second: Any
    met_for: Any
    tokens: Any  # of all instructions, one behind the other


class CompiledIndex:
    """Finds what `SimilarIndex` finds, by the same rules, and leaves less to be compared.

    1. A token's number says when it was first seen: the higher, the rarer, nearly always. So a
       text's tokens are sorted by it, the rarest first, and the first few (`few`) are looked up:
       two texts that are alike share one of these (prefix filter, Bayardo et al. 2007). The proof
       holds for a token that comes twice, too: it is looked up once.
    2. A token has a list of instructions for each class of lengths, so what is too short or too
       long is not even read.
    3. An entry says how long the other text may be if they share no rarer token (positions, Xiao
       et al. 2008), and it holds the signature.
    4. What is left is met once, whatever tokens led there. A second signature is looked at, and
       then the tokens are counted that both have.

    All this is done in whatever order the tokens stand. The few instructions that are left are
    compared by rapidfuzz, as ever.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.share = max(limit, 1e-9)
        self.count = 0  # instructions that the index knows
        self.texts = 0  # that were searched for
        kinds = {"starts": np.int32, "counts": np.int32, "rooms": np.int32, "times": np.int32}
        kinds |= {"entries": np.int64, "signatures": np.uint64, "used": np.int64}
        kinds |= {"ends": np.int64, "second": np.uint64, "met_for": np.int64, "tokens": np.int32}
        self.arrays = Arrays(**{name: np.zeros(1, kind) for name, kind in kinds.items()})

    def take(self, coded: list[str]) -> None:
        """Learn the instructions of the pool that are new to the index."""
        if len(coded) == self.count:
            return
        tokens, ends = self.numbered(coded[self.count :])
        known = int(self.arrays.ends[self.count - 1]) if self.count else 0
        total = len(coded)
        self.make_room(ends=total, second=total, met_for=total, tokens=known + len(tokens))
        self.arrays.ends[self.count : len(coded)] = ends + known
        self.arrays.tokens[known : known + len(tokens)] = tokens
        self.arrays = hold_texts(self.arrays, tokens, ends, self.count, self.share)
        self.count = len(coded)

    def possible(self, coded: list[str]) -> list[list[int]]:
        """As `SimilarIndex.possible`."""
        tokens, ends = self.numbered(coded)
        found, found_ends = search_texts(
            self.arrays, tokens, ends, self.count, self.texts, self.share
        )
        self.texts += len(coded)
        places = found.tolist()
        return [sorted(places[a:b]) for a, b in pairwise([0, *found_ends.tolist()])]

    def numbered(self, coded: list[str]) -> tuple[Any, Any]:
        """The tokens of all texts, one behind the other, and where each text ends."""
        tokens = numbers_of(coded).astype(np.int32)
        different = int(tokens.max(initial=-1)) + 1
        lists = different * LENGTHS
        self.make_room(starts=lists, counts=lists, rooms=lists, times=different)
        return tokens, np.array([len(text) for text in coded], np.int64).cumsum()

    def make_room(self, **sizes: int) -> None:
        """Longer arrays, where these are too short: at least twice as long, so it is rare."""
        for name, size in sizes.items():
            values = getattr(self.arrays, name)
            if size > len(values):
                self.arrays = self.arrays._replace(
                    **{name: longer(values, max(size, 2 * len(values)))}
                )


@fast
def longer(values, size):
    """The array, of this size, with zeros in what is new."""
    larger = np.zeros(size, values.dtype)
    larger[: len(values)] = values
    return larger


@fast
def few(m: int, share: float) -> int:
    """As `SimilarIndex.few`."""
    needed = math.ceil(share * (m + shortest(m, share)) / 2 - 1e-6)
    return m - max(1, needed) + 1 if m else 0


@fast
def shortest(m: int, share: float) -> int:
    """How short another text may be: if all of it is in common, that is just enough."""
    return math.ceil(m * share / (2 - share) - 1e-6)


@fast
def longest(m: int, i: int, share: float) -> int:
    """As `SimilarIndex.longest`."""
    return int(min(2 * (m - i) / share - m + 1e-6, MOST))


@fast
def signature(tokens: Any) -> int:
    """As in the module: 64 bits, those of the tokens set."""
    bits = uint64(0)
    for token in tokens:
        bits |= uint64(1) << uint64(token & 63)
    return bits


@fast
def second_signature(tokens: Any) -> int:
    """64 other bits, spread by a product: tokens that share a bit in one seldom do in both."""
    bits = uint64(0)
    for token in tokens:
        bits |= uint64(1) << (uint64(token) * uint64(0x9E3779B97F4A7C15) >> uint64(58))
    return bits


@fast
def ones(bits: int) -> int:
    """How many bits are set (compilers know this as one instruction of the processor)."""
    bits = bits - ((bits >> uint64(1)) & uint64(0x5555555555555555))
    pairs = (bits >> uint64(2)) & uint64(0x3333333333333333)
    bits = (bits & uint64(0x3333333333333333)) + pairs
    bits = (bits + (bits >> uint64(4))) & uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((bits * uint64(0x0101010101010101)) >> uint64(56))


@fast
def hold_texts(arrays, tokens, ends, place, share):
    """Note texts, the first of them at this place of the pool."""
    begin = 0
    for end in ends:
        m = end - begin
        bits = signature(tokens[begin:end])
        arrays.second[place] = second_signature(tokens[begin:end])
        rarest = np.sort(tokens[begin:end])[::-1]
        for i in range(few(m, share)):
            if i and rarest[i] == rarest[i - 1]:
                continue
            entry = min(m, MOST) << 48 | longest(m, i, share) << 32 | place
            arrays = hold_entry(arrays, rarest[i] * LENGTHS + length_class(m), entry, bits)
        begin = end
        place += 1
    return arrays


@fast
def length_class(m: int) -> int:
    return min(int(4 * math.log2(max(m, 1))), LENGTHS - 1)


@fast
def hold_entry(arrays, number, entry, bits):
    """Put an entry at the end of the list with this number."""
    if arrays.counts[number] == arrays.rooms[number]:
        arrays = moved(arrays, number)
    at = arrays.starts[number] + arrays.counts[number]
    arrays.entries[at] = entry
    arrays.signatures[at] = bits
    arrays.counts[number] += 1
    return arrays


@fast
def moved(arrays, number):
    """Give a list twice the room, behind all entries; the arrays grow where they are full."""
    room = max(ROOM, 2 * arrays.rooms[number])
    used = arrays.used[0]
    size = used + room
    entries = arrays.entries
    signatures = arrays.signatures
    if size > len(entries):
        size = max(size, len(entries) * 3 // 2)
        entries = longer(entries, size)
        signatures = longer(signatures, size)
    start = arrays.starts[number]
    for i in range(arrays.counts[number]):
        entries[used + i] = entries[start + i]
        signatures[used + i] = signatures[start + i]
    arrays.starts[number] = used
    arrays.rooms[number] = room
    arrays.used[0] = used + room
    return Arrays(
        arrays.starts, arrays.counts, arrays.rooms, arrays.times, entries, signatures,
        arrays.used, arrays.ends, arrays.second, arrays.met_for, arrays.tokens,
    )  # fmt: skip


@fast
def search_texts(arrays, tokens, ends, count, texts, share):
    """What is more like each text than the limit, and where that of each text ends: places, and
    behind the last place (`count`) the numbers of the texts before it. `texts` counts all texts."""
    found = np.zeros(256, np.int64)
    found_ends = np.zeros(len(ends), np.int64)
    size = 0
    for text in range(len(ends)):
        ours = tokens_of(tokens, ends, text)
        for token in ours:
            arrays.times[token] += 1
        found, size = search_pool(arrays, ours, texts + text + 1, share, found, size)
        found, size = search_block(arrays, tokens, ends, text, count, share, found, size)
        for token in ours:
            arrays.times[token] = 0
        found_ends[text] = size
    return found[:size], found_ends


@fast
def tokens_of(tokens, ends, text):
    return tokens[ends[text - 1] if text else 0 : ends[text]]


@fast
def search_pool(arrays, ours, number, share, found, size):
    """Note the places of instructions that are more like a text than the limit."""
    m = len(ours)
    second = second_signature(ours)
    for place in likely(arrays, ours, share):
        # Each once.
        if arrays.met_for[place] == number:
            continue
        arrays.met_for[place] = number
        begin = arrays.ends[place - 1] if place else 0
        end = arrays.ends[place]
        if not enough(m, second, end - begin, arrays.second[place], share):
            continue
        if alike(m, arrays.times, arrays.tokens, begin, end, share):
            found, size = noted(found, size, place)
    return found, size


@fast
def likely(arrays, ours, share):
    """The places of instructions that fit by what the entries say."""
    m = len(ours)
    bits = signature(ours)
    rarest = np.sort(ours)[::-1]
    first_class = length_class(shortest(m, share))
    places = np.zeros(64, np.int64)
    size = 0
    for i in range(few(m, share)):
        if i and rarest[i] == rarest[i - 1]:
            continue
        most = longest(m, i, share)
        lists = rarest[i] * LENGTHS
        for one in range(lists + first_class, lists + length_class(most) + 1):
            start = arrays.starts[one]
            stop = start + arrays.counts[one]
            if size + stop - start > len(places):
                places = longer(places, 2 * (size + stop - start))
            for at in range(start, stop):
                entry = arrays.entries[at]
                places[size] = entry & PLACE
                size += fits(m, bits, most, entry, arrays.signatures[at], share)
    return places[:size]


@fast
def fits(m, bits, most, entry, their_bits, share):
    """Whether neither text is too long for the other, and their signatures leave enough.

    All is computed, and `&` joins it: to guess at each "and" takes a processor longer."""
    n = entry >> 48
    of_use = (n <= most) & ((entry >> 32 & MOST) >= min(m, MOST))
    return of_use & enough(m, bits, n, their_bits, share)


@fast
def search_block(arrays, tokens, ends, text, count, share, found, size):
    """Note the texts of this block before a text that are more like it than the limit."""
    begin = 0
    m = ends[text] - (ends[text - 1] if text else 0)
    for other in range(text):
        if alike(m, arrays.times, tokens, begin, ends[other], share):
            found, size = noted(found, size, count + other)
        begin = ends[other]
    return found, size


@fast
def noted(found, size, place):
    if size == len(found):
        found = longer(found, 2 * size)
    found[size] = place
    return found, size + 1


@fast
def enough(m, bits, n, their_bits, share):
    """Whether the signatures of two texts leave enough tokens in common: a bit that only one text
    has is a token that the other lacks."""
    common = min(m - ones(bits & ~their_bits), n - ones(their_bits & ~bits))
    return (common >= share * (m + n) / 2 - 1e-6) | (n == MOST)


@fast
def alike(m, times, tokens, begin, end, share):
    """Whether enough tokens are in common, wherever they stand; the other's are begin to end."""
    needed = share * (m + end - begin) / 2 - 1e-6
    if min(m, end - begin) < needed:
        return False
    common = 0
    for at in range(begin, end):
        common += times[tokens[at]] > 0
        times[tokens[at]] -= 1
    for at in range(begin, end):
        times[tokens[at]] += 1
    return common >= needed


# --------------------------------------------------------------------------------------------------
# The ten nearest, and the mean of all scores.


def neighbours_of_many(
    pool: InstructionPool, places: list[int]
) -> Iterator[tuple[list[Nearest], float]]:
    """As `neighbours` in the module."""
    recipe = RECIPES[pool.recipe]
    coded = pool.coded[: places[-1] + 1]
    sizes = np.array([len(text) for text in coded])
    starts, holders, masks = token_holders(coded, sizes)
    long = LongTexts(recipe, coded, sizes)
    sizes[long.places] = 0
    tables: dict[int, Any] = {}
    rows = np.zeros(len(coded), np.uint64)
    scores = np.zeros(len(coded))
    for place in places:
        tokens = numbers_of([coded[place]])
        if len(tokens) not in tables:
            tables[len(tokens)] = score_table(recipe, len(tokens))
        row = scores[:place]
        score_row(tokens, starts, holders, masks, rows, sizes, tables[len(tokens)], row)
        long.score(row, coded[place], tokens)
        nearest = [(pool.instructions[i], float(row[i])) for i in highest(row)]
        yield nearest, float(row.mean())


class LongTexts:
    """Instructions of over 64 tokens: their rows do not fit into a machine word. So the text that
    they are compared with has its bits in one, or rapidfuzz compares them."""

    def __init__(self, recipe: Recipe, coded: list[str], sizes: Any) -> None:
        self.recipe = recipe
        self.places = (sizes > WORD).nonzero()[0]
        self.sizes = sizes[self.places]
        self.coded = [coded[place] for place in self.places]
        self.tokens = numbers_of(self.coded)
        different = max(map(max, filter(None, coded)), default="")  # the highest number of a token
        self.masks = np.zeros(ord(different or "\0") + 1, np.uint64)

    def score(self, row: Any, coded: str, tokens: Any) -> None:
        """Put the scores of a text with those before it into its row."""
        count = int(np.searchsorted(self.places, len(row)))
        sizes = self.sizes[:count]
        if len(tokens) > WORD:
            found = self.recipe.scores([coded], self.coded[:count])[0]
        else:
            common = common_with_each(self.masks, tokens, self.tokens, sizes)
            found = self.recipe.score(common, len(tokens), sizes)
        row[self.places[:count]] = found


def score_table(recipe: Recipe, m: int) -> Any:
    """The scores of a text of m tokens: an array [tokens of the other, tokens in common]."""
    numbers = np.arange(WORD + 1)
    n = np.repeat(numbers, WORD + 1)
    common = np.tile(numbers, WORD + 1)
    return recipe.score(common, m, n).reshape(WORD + 1, WORD + 1)


@fast
def score_row(tokens, starts, holders, masks, rows, sizes, table, scores):
    """The scores of a text with all instructions before it, by `common_in_order` of the module."""
    count = len(scores)
    rows[:count] = ALL_SET
    for token in tokens:
        for at in range(starts[token], starts[token + 1]):
            place = holders[at]
            if place >= count:
                break
            old = rows[place]
            hit = old & masks[at]
            rows[place] = (old + hit) | (old - hit)
    for place in range(count):
        scores[place] = table[sizes[place], ones(~rows[place])]


@fast
def common_with_each(masks, ours, tokens, sizes):
    """The tokens in common with each of some texts, whose tokens stand one behind the other."""
    common = np.zeros(len(sizes), np.int64)
    for i in range(len(ours)):
        masks[ours[i]] |= uint64(1) << uint64(i)
    begin = 0
    for text in range(len(sizes)):
        row = ALL_SET
        for at in range(begin, begin + sizes[text]):
            hit = row & masks[tokens[at]]
            row = (row + hit) | (row - hit)
        common[text] = ones(~row)
        begin += sizes[text]
    masks[ours] = 0
    return common


@fast
def highest(scores):
    """The places of the highest scores, the highest first; of equal ones, the older first."""
    best = np.zeros(K, np.int64)
    count = 0
    for place in range(len(scores)):
        if count == K and scores[place] <= scores[best[K - 1]]:
            continue
        # Those that are lower move down; the last one falls out.
        at = min(count, K - 1)
        while at and scores[best[at - 1]] < scores[place]:
            best[at] = best[at - 1]
            at -= 1
        best[at] = place
        count = min(count + 1, K)
    return best[:count]
