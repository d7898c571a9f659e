"""Fuzz every parser: no exception, right shapes, nothing invented, time that grows with length.

    python -m venv .venv
    .venv/bin/pip install -r requirements.txt -r tests/requirements.txt atheris
    .venv/bin/python tests/bench/fuzz_parsers.py -max_total_time=300

On Linux; five minutes on one core.

The checks are those of tests/helpers/any_text.py, as in tests/module/test_parser_robustness.py. A
finding ends it with exit code 77, and prints the text and what failed. Further arguments are
libFuzzer's: a folder keeps the texts that reach something new, and a file crash-..., which a
finding leaves behind, is tried again.
"""

from __future__ import annotations

import random
import sys
from contextlib import nullcontext
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[n]) for n in (1, 2)]
if __name__ == "__main__":
    import atheris
with (
    atheris.instrument_imports(["self_instruct_workshop"])
    if __name__ == "__main__"
    else nullcontext()
):
    from helpers.any_text import CALLS, CHECKS, PIECES
    from parser_speed import seconds


def fuzz(data: bytes) -> None:
    """Make one check of a text. A byte of it is a piece that parsers look at, or a character; one
    may come often."""
    given = atheris.FuzzedDataProvider(data)
    call, first, often = (
        given.PickValueInList(CALLS),
        given.ConsumeIntInRange(0, 20),
        given.ConsumeIntInRange(0, 31),
    )
    if often == 31:
        parts = [*given.ConsumeUnicode(len(data))]
    else:
        parts = [
            PIECES[byte % len(PIECES)] if byte < 240 else chr(byte)
            for byte in given.ConsumeBytes(len(data))
        ]
    if often < min(4, len(parts)):
        parts[often] *= 10_000 // max(1, len(parts[often]))
    text = "".join(parts)
    try:
        CHECKS[call[0]](text, call[1], first)
        limit = 0.05 + len(text) * 10e-6  # seconds; counting branches takes its time, too
        assert len(text) < 1_000 or seconds(call, text, limit) < limit
    except BaseException:
        print(f"{call}, first={first}, {len(text)} characters:\n{text!a}", file=sys.stderr)
        raise


def mutate(data: bytes, size: int, seed: int) -> bytes:
    """Every second time something new, of few pieces: most branches, those of regular expressions,
    are not seen."""
    dice = random.Random(seed)
    new = bytes(dice.choices(dice.randbytes(dice.randint(2, 9)), k=dice.randint(4, 40)))
    return new[:size] if seed % 2 else atheris.Mutate(data, size)


if __name__ == "__main__":
    options = ["-len_control=0", "-max_len=100"]
    atheris.Setup([sys.argv[0], *options, *sys.argv[1:]], fuzz, custom_mutator=mutate)
    atheris.Fuzz()
