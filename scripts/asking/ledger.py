"""spending.jsonl: each request is written down before it is sent, so that a kill forgets none.

A line is a reservation, or says how much of one was lost:

    {"reserved": 7, "provider": "openai", "model": "m", "prompt_tokens": 412, "reply_tokens": 512}
    {"settled": 7, "prompt_tokens": 0, "reply_tokens": 0}

Nothing is lost of a request whose reply stands in the journal. A reservation without its second
line was in flight when its run was killed: all of it counts as lost.
"""

from __future__ import annotations

if __name__ == "__main__":  # a part, no program: said before an import fails
    raise SystemExit("ledger.py is a part of self_instruct.py: run  python self_instruct.py --help")

import json
import threading
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import self_instruct_workshop as workshop

NAMES = ("provider", "model")
SIZES = ("prompt_tokens", "reply_tokens")


class Ledger:
    """The file of one program in a folder. Whom it asks is a provider and a model.

    Raises WorkshopError where a line other than a torn last one cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock = threading.Lock()
        self.file: Any = None  # opened by the first reservation
        # (provider, model) -> tokens of prompts and of replies that got lost in earlier runs.
        self.earlier = self.read()
        self.number = len(self.earlier)  # of the next reservation

    def read(self) -> dict[tuple[str, str], Counter]:
        """What got lost, by provider and model."""
        # A torn last line is a reservation that was not sent, or one that stays unsettled.
        with suppress(FileNotFoundError):
            *lines, _ = self.path.read_bytes().split(b"\n")
            return self.lost_in(lines)
        return {}

    def lost_in(self, lines: list[bytes]) -> dict[tuple[str, str], Counter]:
        """Of each reservation, what was not settled."""
        reserved: dict[int, dict] = {}
        for number, line in enumerate(lines, 1):
            record = checked(line)
            if not record:
                problem = f"{self.path}, line {number} is damaged"
                raise workshop.WorkshopError(f"{problem}: delete that line; it says what got lost")
            if "reserved" in record:
                reserved[record["reserved"]] = record
            elif record["settled"] in reserved:
                reserved[record["settled"]] |= {name: record[name] for name in SIZES}

        # Add them up.
        lost: dict[tuple[str, str], Counter] = {}
        for record in reserved.values():
            if any(record[name] for name in SIZES):
                total = lost.setdefault((record["provider"], record["model"]), Counter())
                total.update({name: record[name] for name in SIZES})
        return lost

    def lost(self, provider: str, model: str) -> tuple[int, int]:
        """Tokens of prompts and of replies that got lost in earlier runs with this model."""
        total = self.earlier.get((provider, model), Counter())
        return total["prompt_tokens"], total["reply_tokens"]

    def reserve(self, who: tuple[str, str], prompt: int, reply: int) -> int:
        """Write down a request that is about to be sent; return its number. Raises OSError."""
        with self.lock:
            self.open()
            self.number += 1
            sizes = {"prompt_tokens": prompt, "reply_tokens": reply}
            asked = dict(zip(NAMES, who, strict=True))
            self.write({"reserved": self.number, **asked, **sizes})
            return self.number

    def settle(self, number: int, prompt: int, reply: int) -> None:
        """Write down how much of a request got lost. Where that fails, all of it counts."""
        with self.lock, suppress(OSError):
            self.write({"settled": number, "prompt_tokens": prompt, "reply_tokens": reply})

    def open(self) -> None:
        """Begin with what earlier runs have lost: one line for each provider and model."""
        if self.file is not None:
            return
        lines = []
        for number, (who, total) in enumerate(self.earlier.items(), 1):
            record = {"reserved": number, **dict(zip(NAMES, who, strict=True)), **total}
            lines.append(workshop.to_json(record))
        workshop.write_whole(self.path, lines)
        self.file = open(self.path, "a+b", buffering=0)  # noqa: SIM115

    def write(self, record: dict) -> None:
        """A kill of the program leaves what is written; so nothing waits for the disk here."""
        line = workshop.to_json(record).encode("utf-8", "replace")
        workshop.append_whole(self.file, line, sync=False)


def checked(line: bytes) -> dict | None:
    """A line as a record, a reservation or what became of one; None where it is neither."""
    record = None
    with suppress(ValueError, RecursionError):
        record = json.loads(line)
    if not isinstance(record, dict):
        return None
    kind = "reserved" if "reserved" in record else "settled"
    numbers = [record.get(name) for name in (kind, *SIZES)]
    if not all(type(number) is int and 0 <= number < 10**15 for number in numbers):
        return None
    names = NAMES if kind == "reserved" else ()
    return record if all(isinstance(record.get(name), str) for name in names) else None
