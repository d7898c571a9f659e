"""run.json and the card of a merged folder, and what is shown on the screen."""

from __future__ import annotations

if __name__ == "__main__":  # a part, no program: said before an import fails
    raise SystemExit(
        "summary.py is a part of scripts/merge_runs.py: run  python scripts/merge_runs.py --help"
    )

import sys
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

import self_instruct_workshop as workshop
from scripts.merging.merged import Merge
from scripts.merging.sources import language_of
from self_instruct_workshop import Config, one_line

OURS = ("work_dir", "num_instructions", "rouge_threshold", "recipe", "language")
OF_ONE_RUN = ("output_path", "overwrite", "responses", "topics")  # mean nothing for several
NO_SEEDS = "not known"  # the seed tasks of a file of rows


def summary_of(merge: Merge, threshold: float, preferred: list[str], out: str, how: dict) -> dict:
    """What run.json says of the merge, in the shape of a run's own.

    `counts` are those of a run whose stage 1 got the instructions of all sources. `merge` has the
    counts of each source. `how` is what does not change the other files: the engine, seconds.
    """
    totals = {
        what: {name: sum(one[what][name] for one in merge.counts) for name in ("in", "kept")}
        for what in ("instructions", "rows")
    }
    kept = totals["instructions"]["kept"]
    similar = totals["instructions"]["in"] - kept
    duplicates = len(merge.duplicates)
    rows = totals["rows"]["kept"]
    counts = {
        "seed_tasks": 0,
        "wanted": totals["instructions"]["in"],
        "generate": stage_count(kept, {"too_similar": similar}) | {"new_per_request": 0.0},
        "classify": stage_count(kept, {}) | flags_of(merge),
        "instances": stage_count(kept, {}),
        "filter": stage_count(rows, {"duplicate": duplicates}),
    }
    settings, differ = settings_of(merge)
    ours = {"work_dir": out, "num_instructions": max(1, kept), "rouge_threshold": threshold}
    ours |= {"recipe": merge.recipe, "language": language_of(merge.sources)}
    return {
        "status": "complete",
        "settings": settings | ours,
        "versions": versions(),
        "counts": counts,
        "undone_because": {},
        "seconds": how["seconds"],
        "ended_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "merge": {
            "order": "round robin",
            "preferred": preferred,
            "engine": how["engine"],
            "differ": differ,
            "runs": [told_of(merge, number) for number in range(len(merge.sources))],
        },
    }


def stage_count(out: int, rules: dict[str, int]) -> dict:
    """in = out + rejected, as a run counts it."""
    rejected = {rule: n for rule, n in rules.items() if n}
    return {"in": out + sum(rejected.values()), "rejected": rejected, "undone": 0, "out": out}


def flags_of(merge: Merge) -> dict[str, int]:
    """What step 2 says of the tasks; of a file of rows nothing is known."""
    return {
        "classification": merge.flags[True],
        "not_classification": merge.flags[False],
        "unknown": merge.flags[None],
    }


def versions() -> dict[str, str]:
    found = {"self_instruct": workshop.__version__, "python": sys.version.split()[0]}
    return found | {name: metadata.version(name) for name in ("rapidfuzz", "rouge-score")}


def settings_of(merge: Merge) -> tuple[dict, dict[str, str]]:
    """The settings that all runs share, and those in which they differ: name -> values in words.

    A text that differs is all texts in one. A number that differs is that of the first run here:
    whoever shows it looks into the second record.
    """
    runs = [source.settings for source in merge.sources if source.is_run]
    settings: dict[str, Any] = asdict(Config())
    if not runs:
        settings |= {"provider": "", "model": ""}
    differ = {}
    for name in dict.fromkeys(name for run in runs for name in run):
        known = [run.get(name, settings.get(name, "")) for run in runs]
        values = list({str(value): value for value in known}.values())
        settings[name] = values[0]
        if len(values) > 1 and name not in (*OURS, *OF_ONE_RUN):
            differ[name] = ", ".join(without_folders(str(one)) or "default" for one in values)
            if isinstance(values[0], str):
                settings[name] = differ[name]
    if len(runs) < len(merge.sources):
        settings["seed_file"] = NO_SEEDS
    return settings | {name: getattr(Config(), name) for name in OF_ONE_RUN}, differ


def told_of(merge: Merge, number: int) -> dict:
    """What is said of a source: its name, its data, who answered, and its counts. No path."""
    source = merge.sources[number]
    told = {"name": source.name, "kind": "run" if source.is_run else "file"}
    told |= {"file": source.data.name, "sha256": source.digest, **merge.counts[number]}
    if source.is_run:
        who = {stage: workshop.who_answered(source.summary, stage) for stage in workshop.STAGES[:3]}
        told["models"] = {
            stage: {"provider": str(names[0]), "model": without_folders(str(names[1]))}
            for stage, names in who.items()
        }
        told["seed"] = source.settings.get("seed")
        told["ended_at"] = source.summary.get("ended_at", "")
    return told


def without_folders(model: str) -> str:
    """The name of a model; of a file on somebody's disk, its last part."""
    is_path = model.startswith(("/", "~", ".")) or "\\" in model
    return model.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1] if is_path else model


# --------------------------------------------------------------------------------------------------
# For people.

SIZES = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M"}
CARD = """---
language:
- {language}
license: other
size_categories:
- {size}
tags:
- instruction-tuning
- self-instruct
- synthetic
configs:
- config_name: default
  data_files: step4_final.jsonl
---

# Self-Instruct dataset, merged of {sources}

{rows} rows of {kept} instructions, merged by `scripts/merge_runs.py` of the runs and files below. \
Each instruction
is novel among all: its ROUGE-L with every other one is at most {threshold} (recipe `{recipe}`).

| merged | asked | instructions | kept | rejected | rows kept |
|---|---|---|---|---|---|
{table}

{order} What was rejected stands in `rejected.jsonl`, with the
instruction that it is too similar to and the run of that. The seed tasks of the runs were not
compared. Nobody has checked each row.

## Licence

`license: other` is a placeholder: decide before you publish this folder, and change it. What a
model writes is under the terms of its provider.
"""
TURNS = "The runs took turns, so that none is favoured."


def card(summary: dict) -> str:
    """README.md of the folder."""
    counts = summary["counts"]
    rows = counts["filter"]["out"]
    merged = summary["merge"]
    first = ", ".join(merged["preferred"])
    return CARD.format(
        language=summary["settings"]["language"],
        size=next((name for limit, name in SIZES.items() if rows < limit), "n>1M"),
        sources=len(merged["runs"]),
        rows=f"{rows:,}",
        kept=f"{counts['generate']['out']:,}",
        threshold=summary["settings"]["rouge_threshold"],
        recipe=summary["settings"]["recipe"],
        table="\n".join(card_line(run) for run in merged["runs"]),
        order=f"First came {cell(first)}; the others took turns." if first else TURNS,
    )


def card_line(run: dict) -> str:
    """A line of the table: a source, who answered, and what became of its instructions."""
    who = dict.fromkeys(cell(told["model"]) for told in run.get("models", {}).values())
    of = run["instructions"]
    cells = [cell(run["name"]), ", ".join(who) or "not known", of["in"], of["kept"]]
    cells += [rules_in_words(of["rejected"]), run["rows"]["kept"]]
    return "| " + " | ".join(map(str, cells)) + " |"


def cell(text: str) -> str:
    """A text in a table: nothing in it is read as Markdown."""
    return "".join(f"\\{c}" if c in "\\`|<>*_[]" else c for c in one_line(text))


def rules_in_words(rejected: dict[str, int]) -> str:
    return ", ".join(f"{rule} {n}" for rule, n in rejected.items()) or "0"


HEADS = ("instructions", "kept", "too_similar", "rows", "kept")


def table(summary: dict) -> str:
    """What is shown at the end: a line for each source, then all of them."""
    # The figures of each, and their sums.
    lines = [(one_line(run["name"], 30), figures(run)) for run in summary["merge"]["runs"]]
    sums = [sum(column) for column in zip(*(numbers for _, numbers in lines), strict=True)]
    every = [*lines, (workshop.spoken("in all"), sums)]

    # Names on the left, figures on the right.
    width = max(workshop.columns(name) for name, _ in every)
    heads = [workshop.spoken(head) for head in HEADS]
    shown = [" " * width + "".join(right(head, head) for head in heads)]
    for name, numbers in every:
        cells = [right(f"{n:,}", head) for n, head in zip(numbers, heads, strict=True)]
        shown.append(name + " " * (width - workshop.columns(name)) + "".join(cells))
    return "\n".join(shown)


def figures(run: dict) -> list[int]:
    """Of a source: instructions that came, stayed, were too similar; rows that came, and stayed."""
    of = run["instructions"]
    similar = of["rejected"].get("too_similar", 0)
    return [of["in"], of["kept"], similar, run["rows"]["in"], run["rows"]["kept"]]


def right(text: str, head: str) -> str:
    """A cell of the table under its head, which is in another language perhaps."""
    width = max(12, workshop.columns(head) + 2)
    return " " * (width - workshop.columns(text)) + text
