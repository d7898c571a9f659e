"""The search for similar instructions, compiled by numba: for pools of over 20,000.

    from scripts.scale import speed_up
    speed_up(config.num_instructions)        # before workshop.run, or before `compared`

The answers are those of `SimilarIndex` and `common_in_order` in the module (tests compare them).
Needs numba (scripts/requirements-scale.txt); what it compiles it keeps beside this file, in
__pycache__: half a minute at the first time, half a second later.
"""

from __future__ import annotations

if __name__ == "__main__":  # a part, no program: said before an import fails
    raise SystemExit("compiled.py is a part of self_instruct.py: run  python self_instruct.py")

import math
from itertools import chain
from typing import Any

import numpy as np
from numba import njit, uint64

from self_instruct_workshop import FASTER, SimilarIndex

ROOM = 4  # entries that a new mark gets room for


def use() -> None:
    """Let the module search by these parts from now on."""
    FASTER.update(index=CompiledIndex, common_tokens=common_in_order)


class CompiledIndex(SimilarIndex):
    """`SimilarIndex` with all entries in one array.

    The entries of a mark stand from starts[mark] on, counts[mark] of them, with rooms[mark] places
    for them. Where the room is too small they move to the end of the array, with twice the room.
    """

    def __init__(self, limit: float) -> None:
        super().__init__(limit)
        self.starts = np.zeros(1024, np.int64)
        self.counts = np.zeros(1024, np.int32)
        self.rooms = np.zeros(1024, np.int32)
        self.all_entries = np.zeros(1 << 16, np.int64)
        self.used = 0
        self.bits = np.zeros(1024, np.uint64)  # the signature of each instruction
        self.lengths = np.zeros(1024, np.int32)  # its tokens
        self.found_for = np.zeros(1024, np.int64)  # the last text that it was found for
        self.texts = 0  # that were searched for

    def hold(self, block: list[list[int]]) -> None:
        """Note new instructions."""
        marks, ends = flat(block)
        total = self.count + len(block)
        for name in ("bits", "lengths", "found_for"):
            setattr(self, name, grown(getattr(self, name), total))
        self.make_room()
        self.all_entries, self.used = hold_texts(
            marks, ends, self.count, self.share, self.starts, self.counts, self.rooms,
            self.all_entries, self.used, self.bits, self.lengths,
        )  # fmt: skip

    def search(self, block: list[list[int]]) -> list[list[int]]:
        """For each text, the places of what may be above the limit, in the order of the pool."""
        marks, ends = flat(block)
        self.make_room()
        found, found_ends = search_texts(
            marks, ends, self.texts, self.share, self.starts, self.counts,
            self.all_entries, self.bits, self.lengths, self.found_for,
        )  # fmt: skip
        self.texts += len(block)
        return [sorted(part.tolist()) for part in np.split(found, found_ends[:-1])]

    def make_room(self) -> None:
        """Longer arrays, where there are new marks."""
        for name in ("starts", "counts", "rooms"):
            setattr(self, name, grown(getattr(self, name), len(self.marks)))


def flat(block: list[list[int]]) -> tuple[Any, Any]:
    """The marks of all texts, one behind the other, and where each text ends."""
    ends = np.array([len(marks) for marks in block], np.int64).cumsum()
    return np.fromiter(chain.from_iterable(block), np.int64), ends


def grown(values: Any, size: int) -> Any:
    """The array, with room for so many values, and zeros in what is new."""
    if size <= len(values):
        return values
    larger = np.zeros(max(size, 2 * len(values)), values.dtype)
    larger[: len(values)] = values
    return larger


@njit(cache=True)
def few(m: int, share: float) -> int:
    """As `SimilarIndex.few`."""
    shortest = math.ceil(m * share / (2 - share) - 1e-6)
    needed = math.ceil(share * (m + shortest) / 2 - 1e-6)
    return m - max(1, needed) + 1


@njit(cache=True)
def longest(m: int, i: int, share: float) -> int:
    """As `SimilarIndex.longest`."""
    return int(min(2 * (m - i) / share - m + 1e-6, 65535.0))


@njit(cache=True)
def signature(marks: Any) -> int:
    """As in the module: 64 bits, those of the marks set."""
    bits = uint64(0)
    for mark in marks:
        bits |= uint64(1) << uint64(mark & 63)
    return bits


@njit(cache=True)
def ones(bits: int) -> int:
    """How many bits are set (compilers know this as one instruction of the processor)."""
    bits = bits - ((bits >> uint64(1)) & uint64(0x5555555555555555))
    pairs = (bits >> uint64(2)) & uint64(0x3333333333333333)
    bits = (bits & uint64(0x3333333333333333)) + pairs
    bits = (bits + (bits >> uint64(4))) & uint64(0x0F0F0F0F0F0F0F0F)
    return (bits * uint64(0x0101010101010101)) >> uint64(56)


@njit(cache=True)
def hold_texts(
    marks, ends, place, share, starts, counts, rooms, entries, used, bits, lengths
):  # fmt: skip
    """Note texts, the first of them at this place of the pool; return the entries and their end."""
    begin = 0
    for end in ends:
        m = end - begin
        bits[place] = signature(marks[begin:end])
        lengths[place] = m
        for i in range(few(m, share) if m else 0):
            mark = marks[begin + i]
            if counts[mark] == rooms[mark]:
                entries, used = move(mark, starts, counts, rooms, entries, used)
            entry = place << 32 | min(m, 65535) << 16 | longest(m, i, share)
            entries[starts[mark] + counts[mark]] = entry
            counts[mark] += 1
        begin = end
        place += 1
    return entries, used


@njit(cache=True)
def move(mark, starts, counts, rooms, entries, used):
    """Give a mark twice the room, at the end of the entries; these grow where they are full."""
    room = max(ROOM, 2 * rooms[mark])
    if used + room > len(entries):
        larger = np.zeros(max(used + room, len(entries) * 3 // 2), np.int64)
        larger[:used] = entries[:used]
        entries = larger
    start = starts[mark]
    for i in range(counts[mark]):
        entries[used + i] = entries[start + i]
    starts[mark] = used
    rooms[mark] = room
    return entries, used + room


@njit(cache=True)
def search_texts(
    marks, ends, number, share, starts, counts, entries, bits, lengths, found_for
):  # fmt: skip
    """What may be above the limit: the places for all texts, and where those of each text end.

    `number` counts the texts of all searches: a place is found once for each.
    """
    found = np.zeros(256, np.int64)
    found_ends = np.zeros(len(ends), np.int64)
    size = 0
    begin = 0
    for text in range(len(ends)):
        end = ends[text]
        m = end - begin
        ours = signature(marks[begin:end])
        number += 1
        for i in range(few(m, share) if m else 0):
            mark = marks[begin + i]
            longest_other = longest(m, i, share)
            for at in range(starts[mark], starts[mark] + counts[mark]):
                entry = entries[at]
                if (entry >> 16 & 65535) > longest_other or (entry & 65535) < min(m, 65535):
                    continue
                place = entry >> 32
                if found_for[place] == number:
                    continue
                n = lengths[place]
                theirs = bits[place]
                common = min(m - ones(ours & ~theirs), n - ones(theirs & ~ours))
                if common < share * (m + n) / 2 - 1e-6:
                    continue
                found_for[place] = number
                if size == len(found):
                    found = np.concatenate((found, np.zeros_like(found)))
                found[size] = place
                size += 1
        found_ends[text] = size
        begin = end
    return found[:size], found_ends


@njit(cache=True)
def common_in_order(tokens, starts, places, masks, count):
    """As in the module: the longest common subsequence with each instruction, in tokens."""
    rows = np.full(count, ~uint64(0), np.uint64)
    for token in tokens:
        for at in range(starts[token], starts[token + 1]):
            old = rows[places[at]]
            hit = old & masks[at]
            rows[places[at]] = (old + hit) | (old - hit)
    common = np.zeros(count, np.int64)
    for place in range(count):
        common[place] = ones(~rows[place])
    return common
