"""Long texts that make a careless parser slow: LONG, name -> a function of the size in bytes."""

from __future__ import annotations

import random
from collections.abc import Callable

from helpers.any_text import PIECES


def repeated(before: str, piece: str, after: str = "") -> Callable[[int], str]:
    """A text of about so many bytes: the piece again and again, between the two others."""
    return lambda size: (
        before + piece * (size // len(piece.encode("utf-8", "surrogatepass"))) + after
    )


def mixed(seed: int, least: int, most: int) -> Callable[[int], str]:
    """A text of up to so many bytes: pieces drawn by chance, each a number of times drawn by
    chance."""

    def make(size: int) -> str:
        dice, parts = random.Random(seed), []
        while size > 0:
            parts.append(dice.choice(PIECES) * min(dice.randint(least, most), size))
            size -= 1 + len(parts[-1].encode("utf-8", "surrogatepass"))
        return "".join(parts)

    return make


WORDS = [
    "Input",
    "Output",
    "Example",
    "Class label",
    "Task",
    "yes",
    "no",
    "是",
    "9",
    "9. a\n10",
    "#",
    "-",
    "**a**",
]
STUCK = [
    "*",
    "** ",
    "**a ",
    " ",
    "\n",
    "\n ",
    ":",
    "\n9. ",
    "9",
    "<think>",
    "</think>",
    "```\n",
    "- ",
    "-",
    "Input:\n",
    "Input: x\n",
    "Class label: x\n",
    "输入：\n",
    "“",
    "_",
]
FRAMED = [(word, space, "x") for word in WORDS for space in " \n"]
FRAMED += [
    ("yes", "/", "x"),
    ("是", "/", "x"),
    ("Output: Input", " ", "x"),
    ("Input", " ", "x Output:"),
    ("__", "a ", "b"),
    ("__", "a ", "b__"),
    ("1. a\n", "   5. b\n", ""),
    ("1. a:\n", "   1. b\n   3. c\n", ""),
    ("Input: 🙂\n", "Input: aaaaaaaaaaaaaaaaaaaa\n", ""),
    ("Example 1\nb: c\n", "Example 2\na\n", ""),
    ("<think>", "a", ""),
    ("", "a", "</think>"),
    ("```\n", "Input: a\n", "```"),
    ("9. ```\n", "a\n\n", "```\n10. b"),
    ("here are ", "a ", "b"),
    ("come up with 1 ", "new ", "x"),
    ("I ", "a ", "cannot help"),
    ("I'm sorry", " ", "cannot"),
    ("open the ", "a", "b"),
    ("[your ", "a ", "b"),
    ("a. input: ", "b", "output"),
    ("**", "a ", "**"),
    ("“", "a ", "”"),
    ("", "a", ":"),
]
FRAMED += [
    ("9. Do it ", piece, " now.\n10. Which word is longer, cat or mouse?") for piece in STUCK
]
FRAMED += [("Input: x", piece, "x\nOutput: y") for piece in STUCK]
FRAMED += [("Output: y", piece, "y\nInput: x") for piece in STUCK]
LONG = {
    repr(piece): repeated("", piece) for piece in PIECES if piece not in ("", "ﷺ")
}  # NFKC makes 18 of a ﷺ
LONG |= {" ".join(map(repr, frame)): repeated(*frame) for frame in FRAMED}
LONG |= {
    f"mix {n}": mixed(n, *times)
    for n, times in enumerate([(1, 1)] * 4 + [(1, 50)] * 4 + [(1000, 20_000)] * 4)
}
LONG["50,000 tasks"] = lambda size: "".join(
    f"{n}. Name lake {n:05}.\n" for n in range(9, 9 + size // 20)
)
LONG["all lines differ"] = lambda size: "".join(
    f"{n:x}\n" for n in range(0xA000, 0xA000 + size // 5)
)
LONG["one line of words"] = lambda size: " ".join(
    f"{n:x}" for n in range(0xA000, 0xA000 + size // 5)
)
