"""Look over a file of seed tasks before a run pays for anything built on it.

    python scripts/check_seeds.py data/seed_tasks.jsonl        a second; exit code 1 on errors, 0 with warnings only

Errors: a record that cannot be read, a doubled id, an exact duplicate, a task that the pipeline's own rules would turn
away, an instance that its filter would drop, a classification label that the instruction does not name (only where the
instruction names the other labels). Warnings: near duplicates (ROUGE-L above --near), few tasks, lopsided labels,
nothing or everything without input, one verb or one length for all. A row with a `flaw` field, as in
data/practice_tasks.jsonl, is bad on purpose: that the flaw is really there is what is checked.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path
from statistics import mean, median

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from self_instruct_workshop import (
    InstructionPool,
    WorkshopError,
    filter_instances,
    instruction_problem,
    load_seed_tasks,
    seed_records,
    seed_task,
    tokenize,
)

Finding = tuple[str, str]  # (task id, what was found)


def read(path: Path) -> tuple[list[dict], list[Finding]]:
    """The records of a seed file as full rows, and what is wrong with their shape."""
    load_seed_tasks(path)  # for its errors, which name file and line
    rows, errors, seen, texts = [], [], set(), {}
    for index, (where, record) in enumerate(seed_records(path)):
        task = seed_task(where, record, index)
        record = json.loads(record) if isinstance(record, str) else record
        record = record if "instances" in record else {**record, "instances": []}
        row = {**record, "id": task.id, "instruction": task.instruction, "is_classification": task.is_classification}
        if task.id in seen:
            errors.append((task.id, "this id stands twice"))
        if task.instruction in texts:
            errors.append((task.id, f"exact duplicate of {texts[task.instruction]}"))
        seen.add(task.id)
        texts.setdefault(task.instruction, task.id)
        rows.append(row)
    return rows, errors


def near_duplicates(rows: list[dict], limit: float) -> list[tuple[float, dict, dict]]:
    """Pairs above the limit, the most similar first, as (ROUGE-L, older row, newer row)."""
    pool, pairs = InstructionPool(), []
    for (text, scores), row in zip(pool.scan([row["instruction"] for row in rows], block=1), rows, strict=True):
        pairs += [(float(scores[i]), rows[i], row) for i in (scores > limit).nonzero()[0]]
        pool.add(text)
    return sorted(pairs, key=lambda pair: -pair[0])


def check_rules(row: dict) -> list[Finding]:
    """Where the pipeline's own rules and a row disagree."""
    errors, flaw = [], row.get("flaw", "")
    rule = instruction_problem(row["instruction"])
    if rule != (flaw if flaw != "near_duplicate" else ""):
        marked = f"marked {flaw!r}, " if flaw else ""
        errors.append((row["id"], f"{marked}stage 1 says {rule or 'fine'!r}"))
    flaws = {(i.get("input", ""), i["output"]): i.get("flaw", "") for i in row["instances"]}
    _, rejected = filter_instances(row["instruction"], list(flaws))
    rules = {(source, target): rule for source, target, rule in rejected}
    for pair, flaw in flaws.items():
        rule = rules.get(pair, "")
        if rule == "conflicting_outputs" and "conflicting_outputs" in flaws.values():
            continue  # of two that contradict each other, one is marked
        if rule != flaw:
            said = f"marked {flaw!r}, stage 4 says {rule or 'fine'!r}" if flaw else f"stage 4 says {rule!r}"
            errors.append((row["id"], f"output {pair[1][:40]!r}: {said}"))
    return errors


def check_labels(row: dict) -> list[Finding]:
    """Labels of a classification task that its instruction does not name, though it names another one."""
    asked = row["instruction"].casefold()
    labels = {i["output"] for i in row["instances"] if not i.get("flaw")} if row["is_classification"] else set()
    missing = [label for label in labels if label.casefold() not in asked]
    missing = missing if len(missing) < len(labels) else []
    return [(row["id"], f"the instruction does not name the label {label!r}") for label in missing]


def table(rows: list[dict]) -> list[tuple[str, str]]:
    """The figures of a seed set, one per line."""
    good = [row for row in rows if not row.get("flaw")]
    lengths = [len(tokenize(row["instruction"])) for row in good]
    instances = [i for row in good for i in row["instances"] if not i.get("flaw")]
    classification = [row for row in good if row["is_classification"]]
    labels = Counter(i["output"] for row in classification for i in row["instances"])
    empty = sum(bool(row["instances"]) and not any(i.get("input") for i in row["instances"]) for row in good)
    verbs = Counter(tokenize(row["instruction"])[0] for row in good)
    flaws = Counter(row["flaw"] for row in rows if row.get("flaw"))
    share = f"{100 * len(classification) / len(good):.0f} %, {len(labels)} labels"
    bad = f", and {flaws.total()} bad on purpose {dict(flaws)}" if flaws else ""
    return [
        ("tasks", f"{len(good)}{bad}"),
        ("classification", f"{len(classification)} ({share}), most used {labels.most_common(3)}"),
        ("without input", f"{empty} ({100 * empty / len(good):.0f} %)"),
        ("instances", f"{len(instances)}, {len(instances) / len(good):.2f} a task"),
        ("tokens", f"{min(lengths)} to {max(lengths)}, median {median(lengths):.0f}, mean {mean(lengths):.1f}"),
        ("first words", f"{len(verbs)} different, most used {verbs.most_common(5)}"),
    ]


def warnings(rows: list[dict], pairs: list[tuple[float, dict, dict]]) -> list[str]:
    """What is not wrong but worth a second look."""
    good = [row for row in rows if not row.get("flaw")]
    found = [
        f"near duplicates, {score:.2f}: {a['id']} {a['instruction'][:50]!r} ~ {b['id']} {b['instruction'][:50]!r}"
        for score, a, b in pairs
        if not (a.get("flaw") or b.get("flaw"))
    ]
    if len(good) < 20:
        found.append(f"{len(good)} tasks are few: a prompt shows 8, and new tasks resemble what is shown")
    share = sum(bool(row["is_classification"]) for row in good) / len(good)
    if any(row["is_classification"] is not None for row in good) and not 0.05 <= share <= 0.6:
        found.append(f"{100 * share:.0f} % are classification tasks: the model will imitate that")
    word, count = Counter(tokenize(row["instruction"])[0] for row in good).most_common(1)[0]
    if count > max(3, len(good) / 5):
        found.append(f"{count} of {len(good)} tasks begin with {word!r}")
    return found


def check(rows: list[dict], near: float) -> tuple[list[tuple[str, str]], list[str], list[Finding]]:
    """The table, the warnings and the errors of rows in one language."""
    pairs = near_duplicates(rows, near)
    errors = [finding for row in rows for finding in check_rules(row) + check_labels(row)]
    copies = {row["id"] for score, *pair in pairs for row in pair if score > 0.7}
    errors += [
        (row["id"], "is marked near_duplicate, and is none")
        for row in rows
        if row.get("flaw") == "near_duplicate" and row["id"] not in copies
    ]
    return table(rows), warnings(rows, pairs), errors


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, help="seed tasks: .jsonl, .json or .txt")
    parser.add_argument("--near", type=float, default=0.6, help="ROUGE-L above which a pair is shown [0.6]")
    options = parser.parse_args(arguments)
    try:
        rows, all_errors = read(options.file)
    except WorkshopError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for language in dict.fromkeys(row.get("language", "") for row in rows):
        figures, doubts, errors = check([row for row in rows if row.get("language", "") == language], options.near)
        all_errors += errors
        print(f"{options.file} {language}".strip())
        for name, value in figures:
            print(f"  {name:<18} {value}")
        for doubt in doubts:
            print(f"  warning: {doubt}")
    for where, problem in all_errors:
        print(f"  error: {where}: {problem}")
    print(f"{len(all_errors)} errors")
    return 1 if all_errors else 0


if __name__ == "__main__":
    sys.exit(main())
