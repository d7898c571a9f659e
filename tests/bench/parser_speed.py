"""How long each parser takes over a megabyte of text that makes a careless one slow.

    python tests/bench/parser_speed.py                     all texts: ten seconds on a quiet core
    python tests/bench/parser_speed.py --only "Input"      those with this in their name
    python tests/bench/parser_speed.py --full              every call of every text up to a megabyte

For each text one line: the call that was slowest, at which size, in how many seconds of this
process's own time. A text grows from 8,000 bytes on, for each call only as far as needed: where it
is clear that a megabyte takes little, it stops.
"""

from __future__ import annotations

import argparse
import gc
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from helpers.any_text import CALLS, PARSERS
from helpers.long_texts import LONG

MEGABYTE = 1_000_000
SIZES = (8_000, 40_000, 200_000, MEGABYTE)  # bytes
BOUND = 2.0  # seconds for a megabyte
ENOUGH = 0.6  # seconds; below, a call is never slow, whatever the size
CLEARLY = (
    1.0  # seconds that a megabyte is foreseen to take, below which a call is not measured further
)

Call = tuple[str, str]  # a name in PARSERS, and a recipe


def seconds(call: Call, text: str, enough: float) -> float:
    """CPU seconds of one call, which do not count what else the machine does; the better of two
    above `enough`."""
    taken: list[float] = []
    while not taken or (len(taken) == 1 and taken[0] > enough):
        begun = time.process_time()
        PARSERS[call[0]](text, call[1])
        taken.append(time.process_time() - begun)
    return min(taken)


def foreseen(size: int, taken: float, shorter: int, less: float) -> float:
    """Seconds for a megabyte, if the time is a * size + b * size ** 2; `less` is seconds a byte at
    the shorter size."""
    square = max(0.0, taken / size - less) / (size - shorter)
    return (taken / size + square * MEGABYTE) * MEGABYTE


def measure(make: Callable[[int], str], full: bool) -> tuple[list[str], tuple[float, int, Call]]:
    """Let every call read a text that grows; return what was too slow, and the slowest: seconds,
    bytes, call."""
    slow = []
    slowest = (0.0, 0, CALLS[0])
    known = dict.fromkeys(CALLS, (0, 1.0))  # call -> the size before, and seconds a byte there

    for size in SIZES:
        text = make(size)
        limit = max(ENOUGH, BOUND * size / MEGABYTE)
        for call in list(known):
            # Measure, and forget the call where it is slow already, or clearly fast.
            taken = seconds(call, text, limit)
            slowest = max(slowest, (taken, size, call))
            expected = foreseen(size, taken, *known[call])
            known[call] = (size, taken / size)
            if taken > limit:
                slow.append(f"{', '.join(call)}: {taken:.2f} s for {size} bytes")
            if taken > limit or (size > SIZES[0] and expected <= CLEARLY and not full):
                del known[call]
    return slow, slowest


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", help="measure the texts with this in their name")
    parser.add_argument("--full", action="store_true", help="leave out no size")
    chosen = parser.parse_args()
    print(
        f"on {os.cpu_count()} CPUs, Python {platform.python_version()}; "
        f"the bound is {BOUND} s for a megabyte"
    )
    gc.freeze()  # what the imports left is not searched for garbage while a parser is timed

    # Measure text by text, so that a hanging one is known by the last line.
    problems = []
    for name, make in LONG.items():
        if chosen.only in name:
            print(f"{name:<50}", end="", flush=True)
            slow, (taken, size, call) = measure(make, chosen.full)
            print(f"{taken:>7.3f} s {size:>9,} bytes  {', '.join(call)}")
            problems += [f"{name}: {what}" for what in slow]
    print("\n".join(problems) or "within the bound")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
