"""Rows in which an answer was preferred, by people in sheets or by a judge.

Such a row has `chosen` and `rejected` in place of the output.
"""

from __future__ import annotations

if __name__ == "__main__":  # a part, no program: said before an import fails
    raise SystemExit(
        "preferences.py is a part of scripts/prepare_for_finetuning.py: run"
        "  python scripts/prepare_for_finetuning.py --help"
    )

import argparse
from collections import Counter
from pathlib import Path

from scripts import review
from scripts.reading import records as reading
from scripts.reviewing import pairs as pair_sheets
from self_instruct_workshop import RECIPES, WorkshopError

Row = dict[str, str]  # instruction, input, chosen, rejected


def preferred_rows(options: argparse.Namespace, dropped: Counter[str]) -> tuple[list[Row], dict]:
    """The rows in which an answer was preferred, and what was read, by file.

    Raises WorkshopError where a file is another one, or nothing was preferred.
    """
    if options.sheet:
        found, read = rows_of_sheets(options.file, options.sheet, dropped)
    else:
        found, read = rows_of_judges(options.files, dropped)

    # What people or a judge like may still be no answer.
    rows = []
    for row in found:
        rule = RECIPES["modern"].instance_problem(row["instruction"], row["input"], row["chosen"])
        dropped[rule] += bool(rule)
        if not rule:
            rows.append(row)
    if not rows:
        why = ", ".join(rule for rule, count in dropped.items() if count)
        problem = f"no answer in {options.file} was preferred to another ({why})"
        raise WorkshopError(f"{problem}: fill in more of a sheet, or judge both answers")
    return rows, read


def rows_of_sheets(
    key_file: Path, sheets: list[Path], dropped: Counter[str]
) -> tuple[list[Row], dict]:
    """The pairs of which all who rated them preferred the same side."""
    key = pair_sheets.read_key(key_file)
    said = [pair_sheets.read_sheet(path) for path in sheets]
    for path, sheet in zip(sheets, said, strict=True):
        pair_sheets.by_writer(sheet, key, path)  # or the key is another sheet's
    rows = []
    for pair_id, pair in key.items():
        answers = {sheet.get(pair_id) for sheet in said} - {None}
        if len(answers) == 1 and answers < {*pair_sheets.SIDES}:
            (side,) = answers
            other = "B" if side == "A" else "A"
            texts = {"chosen": pair[side]["output"], "rejected": pair[other]["output"]}
            rows.append({"instruction": pair["instruction"], "input": pair["input"], **texts})
        else:
            rules = {0: "not_rated", 1: "as_good_as_each_other"}
            dropped[rules.get(len(answers), "raters_differ")] += 1
    return rows, {key_file: list(key.values())}


def rows_of_judges(files: list[Path], dropped: Counter[str]) -> tuple[list[Row], dict]:
    """A right output with a wrong one of the same instruction and input; each is used once."""
    # What each file says: True is right, False is wrong.
    read = {}
    said: dict[tuple[str, str], dict[str, set]] = {}
    for path in files:
        read[path] = judged_rows(path)
        for row in read[path]:
            outputs = said.setdefault((row["instruction"], row["input"]), {})
            outputs.setdefault(row["output"], set()).add(row["right"])

    # An output that two judges see differently counts for neither side.
    rows = []
    for (instruction, source), outputs in said.items():
        right = [output for output, answers in outputs.items() if answers == {True}]
        wrong = [output for output, answers in outputs.items() if answers == {False}]
        for chosen, rejected in zip(right, wrong, strict=False):
            texts = {"chosen": chosen, "rejected": rejected}
            rows.append({"instruction": instruction, "input": source, **texts})

    # Two rows make a pair.
    dropped["other_half_of_a_pair"] += len(rows)
    dropped["not_in_a_pair"] += sum(map(len, read.values())) - 2 * len(rows)
    return rows, read


def judged_rows(path: Path) -> list[dict]:
    """The rows of a file of scripts/judge.py: texts, and whether the output is `right`.

    It is None where the judge gave no answer, or was not trusted.
    """
    rows = []
    for place, record in reading.records(path, "name a file of judge.py"):
        texts = [record.get(name) for name in review.TEXTS] if isinstance(record, dict) else [None]
        if not all(isinstance(text, str) for text in texts) or "output_right" not in record:
            problem = f"{path}, {place} is no row of judged.jsonl"
            raise WorkshopError(f"{problem}: name a file of scripts/judge.py, or give --sheet")
        decided = record.get("rule", "") is not None
        right = record["output_right"] if decided else None
        rows.append({**dict(zip(review.TEXTS, texts, strict=True)), "right": right})
    return rows
