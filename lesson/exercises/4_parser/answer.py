"""Exercise 4: repair this parser. Check it with: python lesson/check.py 4

It reads the reply of stage 3 as the paper's code does. It works on plain replies, and it eats the
word "Example" wherever that stands.
"""

import re


def read_pairs(reply: str) -> list[tuple[str, str]]:
    """The (input, output) pairs of a reply."""
    pairs = []
    # TODO: this takes every "Example" for the header of the next pair. Which ones are headers?
    for piece in re.split(r"Example\s?\d*\.?", reply):
        if not piece.strip():
            continue
        source, mark, target = piece.partition("Output:")
        if not mark:
            source, target = "", piece
        source = source.strip().removeprefix("Input:")
        pairs.append((source.strip(), target.strip()))
    return pairs
