"""More instructions than there are: the first half of a real one with the second half of another.

So words, lengths and how often a beginning comes again are those of real instructions. Texts that
are nearly the same come about, too: two that begin alike, with ends that are alike.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

DATA = Path(__file__).resolve().parents[2] / "data"


def recombined(texts: list[str], total: int, seed: int = 0) -> list[str]:
    """The texts, and recombined ones until there are so many."""
    dice = random.Random(seed)
    found = list(texts)
    while len(found) < total:
        head, tail = dice.choice(texts), dice.choice(texts)
        found.append(first_half(head) + second_half(tail))
    return found[:total]


def middle(text: str) -> int:
    """Where the second half begins: at a word; in Chinese at any character."""
    half = len(text) // 2
    return text.find(" ", half) + 1 or half


def first_half(text: str) -> str:
    return text[: middle(text)]


def second_half(text: str) -> str:
    return text[middle(text) :]


def own_texts(language: str) -> list[str]:
    """The instructions that come with the project: seed tasks and the practice bank."""
    names = [
        "practice_tasks.jsonl",
        "seed_tasks.jsonl" if language == "en" else "seed_tasks_zh.jsonl",
    ]
    rows = []
    for name in names:
        lines = (DATA / name).read_text(encoding="utf-8").splitlines()
        rows += [json.loads(line) for line in lines if line.strip()]
    texts = [row["instruction"] for row in rows]
    return [text for text in texts if text.isascii() == (language == "en")]


def many(language: str, total: int) -> list[str]:
    """So many instructions, "en", "zh" or "mixed", in an order that is always the same."""
    languages = ("en", "zh") if language == "mixed" else (language,)
    share = -(-total // len(languages))
    texts = []
    for one in languages:
        texts += recombined(own_texts(one), share)
    random.Random(1).shuffle(texts)
    return texts[:total]
