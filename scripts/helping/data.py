"""The dataset that a model is finetuned on, in any shape that prepare_for_finetuning.py writes.

    alpaca              instruction, input, output; or tasks with `instances`
    messages            turns with role and content
    sharegpt            turns with from and value
    prompt-completion   two texts, or two lists of turns

Every row becomes a question and its answer. The shapes of prompt-completion ("Task: ...",
"Output:") are taken off again, so that the same rows teach the same in each format.
"""

from __future__ import annotations

if __name__ == "__main__":  # a part, no program: said before an import fails
    raise SystemExit(
        "data.py is a part of scripts/did_it_help.py: run  python scripts/did_it_help.py --help"
    )

import random
import re
from collections import Counter
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from scripts.reading.rows import rows_of
from scripts.training import shapes, shared
from scripts.training.shared import Row
from self_instruct_workshop import WorkshopError

SEVERAL = "more than one question and answer"
EMPTY = "without a question or an answer"
UNREAD = "a turn that is no text, or of another role"
WHY = {  # a rule that rows_of names
    "not_text": UNREAD,
    "other_role": UNREAD,
    "history_unreadable": UNREAD,
    "empty_turn": EMPTY,
    "last_turn_unanswered": EMPTY,
}


@dataclass
class Dataset:
    """Rows to learn: each has instruction (the whole question), input (empty) and output."""

    name: str
    digest: str  # SHA-256 of the file
    rows: list[Row]
    left_out: Counter[str] = field(default_factory=Counter)  # why -> rows
    file: str = ""  # its name, without the folders above it


def read_dataset(path: Path) -> Dataset:
    """Read a folder of prepare_for_finetuning.py, or one file.

    Of a folder, only the part to train on is read. Raises WorkshopError where there is no such
    file, a record has another shape, or no row is left.
    """
    file = shapes.train_file(path)
    dataset = Dataset(path.stem, "", [], file=file.name)
    for number, record in enumerate(shared.read(file), 1):
        for pair in pairs_of(f"{file}, record {number}", record):
            add(dataset, pair)
    if not dataset.rows:
        raise WorkshopError(f"{file} holds no question with an answer: name another file")
    dataset.digest = sha256(file.read_bytes()).hexdigest()
    return dataset


def add(dataset: Dataset, pair: tuple[str, str] | str) -> None:
    """Add a question with its answer, or count why there is none."""
    if isinstance(pair, str):
        dataset.left_out[pair] += 1
        return
    question, answer = pair[0].strip(), pair[1].strip()
    if question and answer:
        dataset.rows.append({"instruction": question, "input": "", "output": answer})
    else:
        dataset.left_out[EMPTY] += 1


def pairs_of(where: str, record: Any) -> list[tuple[str, str] | str]:
    """The questions and answers of a record; in place of one, the reason why it is left out.

    Raises WorkshopError where a record has none of the known shapes.
    """
    record = record if isinstance(record, dict) else {}
    if record.get("instruction") == "":
        return [EMPTY]
    try:
        rows = None if "chosen" in record else rows_of(where, record)
    except WorkshopError:
        rows = None
    if rows is None:
        known = "instruction and output, messages, conversations, or prompt and completion"
        problem = f"{where} has none of these: {known}"
        raise WorkshopError(f"{problem}: is it the right file?")
    return [pair_of(row, isinstance(record.get("prompt"), str)) for row in rows] or [EMPTY]


def pair_of(row: Row, is_shaped: bool) -> tuple[str, str] | str:
    """The question and the answer of a row, or why it is left out. A system text comes first."""
    if "rule" in row or "history" in row:
        return WHY.get(row.get("rule"), SEVERAL)
    question = without_shape(row["instruction"]) if is_shaped else row["instruction"]
    return joined((row.get("system"), question, row["input"])), row["output"]


def joined(parts: tuple) -> str:
    """The texts that are there, with a blank line between them."""
    return "\n\n".join(part.strip() for part in parts if isinstance(part, str) and part.strip())


def without_shape(prompt: str) -> str:
    """The question in a prompt of prompt-completion.

    >>> without_shape("Task: Add the numbers.\\nInput: 2, 3\\nOutput:")
    'Add the numbers.\\n\\n2, 3'
    """
    text = re.sub(r"^(?:Task: |任务：\s*)", "", prompt)
    text = re.sub(r"\s*(?:Output:|输出：)\s*$", "", text)
    return re.sub(r"\n+(?:Input:[ \n]|输入：\s*)", "\n\n", text, count=1).strip()


def shuffled(dataset: Dataset, seed: int) -> Dataset:
    """The same questions and the same answers, each answer at another question.

    A model that learns from these can only learn what answers look like. Raises WorkshopError
    for a single row, whose answer can go nowhere.
    """
    count = len(dataset.rows)
    if count < 2:
        raise WorkshopError("one row cannot be shuffled: leave out --shuffled")
    order = list(range(count))
    random.Random(seed).shuffle(order)

    # Each row gets the answer of the row behind it in a random circle: never its own.
    rows = [dict(row) for row in dataset.rows]
    for place, i in enumerate(order):
        giver = order[(place + 1) % count]
        rows[i]["output"] = dataset.rows[giver]["output"]
    digest = sha256(f"{dataset.digest}/{seed}".encode()).hexdigest()
    return Dataset(dataset.name, digest, rows, file=dataset.file)


def fingerprints(rows: list[Row]) -> list[str]:
    """Digests of the questions of up to 20 rows, drawn: by them a report knows its own rows."""
    chosen = random.Random(0).sample(rows, min(20, len(rows)))
    return [fingerprint(row["instruction"]) for row in chosen]


def fingerprint(question: str) -> str:
    """A digest of a question, whatever the spaces in it are."""
    return sha256(" ".join(question.split()).encode("utf-8", "replace")).hexdigest()[:16]


def is_chinese(rows: list[Row]) -> bool:
    """Whether more than half of the letters in the questions are Chinese."""
    letters = [c for row in rows for c in row["instruction"] if c.isalpha()]
    return sum("\u4e00" <= c <= "\u9fff" for c in letters) > len(letters) / 2
