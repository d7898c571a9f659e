"""Exercise 4: a header is the word alone on its line, with its number."""

import re


def read_pairs(reply: str) -> list[tuple[str, str]]:
    """The (input, output) pairs of a reply."""
    pairs = []
    # (?m): ^ and $ stand for the ends of each line. So a header has a line of its own.
    for piece in re.split(r"(?m)^Example \d+\.?$", reply):
        if not piece.strip():
            continue
        source, mark, target = piece.partition("Output:")
        if not mark:
            source, target = "", piece
        source = source.strip().removeprefix("Input:")
        pairs.append((source.strip(), target.strip()))
    return pairs
