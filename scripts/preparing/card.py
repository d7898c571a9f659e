"""The dataset card: who made the data, and how."""

from __future__ import annotations

if __name__ == "__main__":  # a part, no program: said before an import fails
    raise SystemExit(
        "card.py is a part of scripts/prepare_for_finetuning.py: run"
        "  python scripts/prepare_for_finetuning.py --help"
    )

import argparse
import math
import re
from pathlib import Path, PureWindowsPath
from typing import Any

from scripts.overlapping import record as overlap
from scripts.preparing.choose import instructions
from scripts.preparing.formats import FORMATS
from scripts.preparing.origin import judge_beside, notice, outdated, writers_beside
from scripts.preparing.tokens import Tokens
from scripts.reading.records import object_in
from scripts.reading.rows import Row
from self_instruct_workshop import one_line

# A folder belongs to us if its card names this program. Other folders are not replaced.
MARK = "scripts/prepare_for_finetuning.py"

# The size as the Hugging Face hub names it: below so many rows -> its name.
SIZES = {
    1_000: "n<1K",
    10_000: "1K<n<10K",
    100_000: "10K<n<100K",
    1_000_000: "100K<n<1M",
    math.inf: "n>1M",
}
CARD = """---
{language}license: other
pretty_name: Self-Instruct dataset
size_categories:
- {size}
task_categories:
- text-generation
tags:
- instruction-tuning
- self-instruct
- synthetic
configs:
- config_name: default
  data_files:
{data_files}
---

# Self-Instruct dataset

Instructions with inputs and outputs, written by a language model that was shown seed tasks, as in
[Self-Instruct](https://arxiv.org/abs/2212.10560). \
{rated} The format is `{format}`, made by `{mark}`.

| split | file | instructions | instances |
|---|---|---|---|
{parts}

## Where it comes from

| | |
|---|---|
{origin}
{checked}
## Licence

`license: other` is a placeholder: \
decide before you publish this folder, and change it. What a model writes is under
the terms of its provider, some of which do not allow to train other models on it.{remarks}
"""


RATED = (  # a dataset, preferences
    "Nobody has checked each of them; of the paper's own, reviewers found\n"
    "54 in 100 right in every field.",
    "Of two answers, `chosen` was preferred to `rejected`: \nbetter, which is not yet right.",
)


def card(
    options: argparse.Namespace,
    run: dict[str, str],
    language: str,
    parts: dict[str, list[Row]],
    counted: Tokens | None = None,
) -> str:
    """README.md of the folder: YAML for `load_dataset` and the hub, then words for people."""
    # What is in each file.
    suffix = FORMATS[options.format].suffix
    files = []
    table_rows = []
    for name, rows in parts.items():
        file = f"{name}{suffix}"
        files.append(f"  - split: {name}\n    path: {file}")
        table_rows.append(f"| {name} | `{file}` | {instructions(rows)} | {len(rows)} |")

    # Who made it, and how large it is.
    total = sum(len(rows) for rows in parts.values())
    facts = origin(options, run)
    if counted:
        facts[f"tokens of {shown(counted.tokenizer)}"] = counted.facts()
    cells = [f"| {name} | {shown(value)} |" for name, value in facts.items()]

    # Fill in the card.
    return CARD.format(
        language=f"language:\n- {language}\n" if language else "",
        size=next(name for limit, name in SIZES.items() if total < limit),
        data_files="\n".join(files),
        rated=RATED[options.format == "preference"],
        format=options.format,
        mark=MARK,
        parts="\n".join(table_rows),
        origin="\n".join(cells),
        checked=checked(options),
        remarks="".join(f"\n\n{remark}" for remark in remarks(options, run)),
    )


def origin(options: argparse.Namespace, run: dict[str, str]) -> dict[str, Any]:
    """Who made the data and how. No address of a server is in it."""
    facts = {"made of": ", ".join(path.name for path in options.files), **run}
    rewritten = "" if outdated(options.file) else writers_beside(options.file)
    if rewritten:
        facts["outputs written again by"] = rewritten
    judge = judge_beside(options.file)
    if judge:
        facts["rows judged by"] = judge
    if options.include_seed_tasks:
        facts["seed tasks"] = Path(options.seed_file).name or "this project's own"
    if options.format == "preference":
        facts["preferred by"] = preferred_by(options)
    else:
        facts["most instances of an instruction"] = options.max_instances
    facts["seed of the draws"] = options.seed
    return facts


def preferred_by(options: argparse.Namespace) -> str:
    """Who preferred the chosen answers. The names of sheets, which may be people's, stay out."""
    if options.sheet:
        return f"people, in filled sheets: {len(options.sheet)}"
    return str(object_in(options.file.parent / "judge.json").get("model") or "a judge, a model")


# How a path or an address begins: "/", "~", "../", "C:\", "https://".
PATH = re.compile(r"[/~\\]|\.{1,2}[/\\]|[A-Za-z]:[/\\]|\w+://")


def shown(value: Any) -> str:
    """A fact as a cell of a table. Nothing in it is read as Markdown.

    Of a path on the maker's disk, only the name is shown.
    """
    text = one_line(str(value))
    if PATH.match(text):
        text = PureWindowsPath(text).name
    return re.sub(r"([\\`|<>*_\[\]])", r"\\\1", text)


CHECKED = """
## Checked for overlap

Instructions and inputs of {file} were compared with these evaluation sets by `{mark}`: \
the same text but for
case, spaces and punctuation, {n} tokens in a row, and ROUGE-L above {threshold}. \
Of {rows} rows, {outcome}.{seeds}

| evaluation set | items | exact | {n}-gram | ROUGE-L | rows | SHA-256 |
|---|---|---|---|---|---|---|
{sets}
"""


def checked(options: argparse.Namespace) -> str:
    """Against which evaluation sets the rows were checked; empty where the record does not say.

    The record is of scripts/overlap.py, and stands beside the data.
    """
    # What does it say of this file?
    claims, problem = overlap.claims(options.file)
    if problem:
        notice(problem)
    if not claims:
        return ""

    # A line for each evaluation set.
    sets = []
    for file in claims["checked"]:
        found = [file["rows"][test] for test in overlap.COUNTS]
        name = PureWindowsPath(file["file"]).name
        cells = [shown(name), file["items"], *found, f"`{shown(file['sha256'])}`"]
        sets.append("| " + " | ".join(map(str, cells)) + " |")

    # What came of it.
    outcome = f"{claims['rows_found']} overlap with one of them; none was left out for that"
    if claims["dropped"] is not None:
        outcome = f"{claims['dropped']} overlapped with one of them and were left out"
    seeds = " The seed tasks were not compared." if options.include_seed_tasks else ""
    return CHECKED.format(
        file=shown(options.file.name),
        mark=overlap.MARK,
        n=claims["tests"]["ngram"]["n"],
        threshold=claims["tests"]["rouge_l"]["threshold"],
        rows=claims["rows"],
        outcome=outcome,
        seeds=seeds,
        sets="\n".join(sets),
    )


def remarks(options: argparse.Namespace, run: dict[str, str]) -> list[str]:
    """What else people must know before they publish the data."""
    # Who wrote it?
    found = []
    if not run:
        missing = "No run.json says who or what wrote the data"
        found.append(f"{missing}: correct what this card says of it.")
    if run.get("provider") == "practice":
        bank = "a bank of written tasks (CC BY 4.0), no language model"
        found.append(f"The practice model is {bank}: for trying out a trainer.")

    # Whose are the seed tasks?
    if options.include_seed_tasks:
        licence = "mind their licence." if options.seed_file else "CC BY 4.0."
        found.append(f"People wrote the seed tasks: {licence}")
    return found
