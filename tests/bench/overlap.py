"""How long scripts/overlap.py takes, how much memory, and what it finds of what is planted.

    python tests/bench/overlap.py instructions.jsonl
    python tests/bench/overlap.py instructions.jsonl --rows 50000 --items 10000

The file is .jsonl with "instruction" in each line. The last --items of them are the evaluation
set. The others make the rows, again from the start where there are too few: every second row has
another instruction as its input, so that it has three parts. Planted are, in rows drawn at random,
300 items: 100 as they are but for case and punctuation, 100 in the middle of another text, and
100 with one word in eight changed. The second and third kind take items of 20 to 200 tokens.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import re
import sys
import time
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from scripts.overlapping import measures
from scripts.overlapping.files import Prompt
from self_instruct_workshop import tokenize

EACH = 100  # planted rows of each kind


def read(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line)["instruction"] for line in lines if line.strip()]


def rows_of(texts: list[str], number: int) -> list[Prompt]:
    """Rows, every second one with an input."""
    rows = []
    for place in range(number):
        source = texts[(7 * place + 3) % len(texts)] if place % 2 else ""
        rows.append(Prompt(place + 1, f"line {place + 1}", texts[place % len(texts)], source))
    return rows


def plant(rows: list[Prompt], items: list[str], dice: random.Random) -> dict[str, list[int]]:
    """Put items into rows; return the places of these rows by kind."""
    whole = [text for text in items if 4 <= len(tokenize(text)) <= 200]
    long = [text for text in whole if len(tokenize(text)) >= 20]
    places = dice.sample(range(len(rows)), 3 * EACH)
    kinds = {
        "as they are": (whole, as_it_is),
        "inside a text": (long, inside),
        "one word in eight changed": (long, changed),
    }
    planted = {}
    for name, (source, make) in kinds.items():
        planted[name] = [places.pop() for _ in range(EACH)]
        for place in planted[name]:
            text = make(dice.choice(source))
            rows[place] = Prompt(place + 1, f"line {place + 1}", text)
    return planted


def as_it_is(text: str) -> str:
    return re.sub(r"\.(?=\s|$)", " !", text.upper())


def inside(text: str) -> str:
    before = "Somebody wrote to us yesterday and wanted to know what we think of this question: "
    return before + text + " Please give a short answer in the style of an old newspaper."


def changed(text: str) -> str:
    """Every eighth word, or Chinese character, is another one."""
    pieces = re.findall(r"[\u4e00-\u9fff]|[^\s\u4e00-\u9fff]+|\s+", text)
    words = [place for place, piece in enumerate(pieces) if piece.strip()]
    for place in words[::8]:
        pieces[place] = "甲" if "\u4e00" <= pieces[place] <= "\u9fff" else "another"
    return "".join(pieces)


def peak_memory() -> str:
    """The most memory that this process has had."""
    try:
        import resource
    except ImportError:
        return "not known on this system"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return f"{peak / (2**20 if sys.platform == 'darwin' else 2**10):,.0f} MB"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", type=Path, help="instructions, as .jsonl")
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--items", type=int, default=10_000)
    options = parser.parse_args()

    # What it is measured on.
    names = ("rapidfuzz", "rouge-score", "numpy", "regex")
    packages = ", ".join(f"{name} {version(name)}" for name in names)
    print(f"{platform.platform()}, {platform.machine()}, {os.cpu_count()} cores, one is used")
    print(f"Python {platform.python_version()}, {packages}")

    # The rows, the items, and what is planted.
    texts = read(options.file)
    number = min(options.items, len(texts) // 2)
    items = [Prompt(n, "", text) for n, text in enumerate(texts[-number:], 1)]
    rows = rows_of(texts[:-number], options.rows)
    planted = plant(rows, [item.whole for item in items], random.Random(0))
    words = [len(tokenize(prompt.whole)) for prompt in (*rows, *items)]
    print(f"{len(rows):,} rows against {number:,} items of {options.file.name}")
    print(f"tokens: {sum(words) / len(words):.1f} on average, {max(words):,} at most")

    # The three tests.
    tests = {
        "exact": lambda: measures.exact(rows, items, 10),
        "13-gram": lambda: measures.shared_ngrams(rows, items, 13, 10),
        "ROUGE-L > 0.7": lambda: measures.rouge(rows, items, 0.7),
    }
    print(f"\n{'':<16}{'seconds':>9}{'rows':>9}" + "".join(f"{name:>28}" for name in planted))
    for name, test in tests.items():
        begun = time.perf_counter()
        hits = test().hits
        seconds = time.perf_counter() - begun
        found = [
            f"{sum(place in hits for place in places)} of {EACH}" for places in planted.values()
        ]
        print(
            f"{name:<16}{seconds:>9.1f}{len(hits):>9,}" + "".join(f"{cell:>28}" for cell in found)
        )
    print(f"\nmost memory: {peak_memory()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
