"""Look over a file of seed tasks before a run pays for anything built on it.

    python scripts/check_seeds.py data/seed_tasks.jsonl
                                        a second; exit code 1 on errors, 0 with warnings only

Errors: a record that cannot be read, a doubled id, an exact duplicate, a task that the pipeline's
own rules would turn away, an instance that its filter would drop, a classification label that the
instruction does not name (only where the instruction names the other labels).

Warnings: near duplicates (ROUGE-L above --near), few tasks, lopsided labels, nothing or everything
without input, one verb or one length for all.

A row with a `flaw` field, as in data/practice_tasks.jsonl, is bad on purpose. Of such a row, the
program checks that the flaw is really there.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from statistics import mean, median

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts.asking.parser import Parser
from self_instruct_workshop import (
    InstructionPool,
    WorkshopError,
    columns,
    filter_instances,
    instruction_problem,
    load_seed_tasks,
    seed_records,
    seed_task,
    show,
    spoken,
    tell,
    tokenize,
)

Finding = tuple[str, str]  # (task id, what was found)
Near = tuple[float, dict, dict]  # (ROUGE-L, older row, newer row)

COPY = 0.7  # ROUGE-L above which stage 1 takes a task for a near duplicate
FEW = 20  # tasks; fewer than these are few
SHARES = (0.05, 0.6)  # of classification tasks that raise no doubt

# --------------------------------------------------------------------------------------------------
# Reading.


def read(path: Path) -> tuple[list[dict], list[Finding]]:
    """The records of a seed file as full rows, and which ids and instructions stand twice.

    Raises WorkshopError where the file, or a record in it, cannot be read.
    """
    load_seed_tasks(path)  # for its errors, which name file and line
    rows: list[dict] = []
    errors: list[Finding] = []
    ids: set[str] = set()
    texts: dict[str, str] = {}  # instruction -> the first id that has it
    for index, (where, record) in enumerate(seed_records(path)):
        # The task has the id and the instruction in their final form.
        task = seed_task(where, record, index)
        row = {"instances": task.instances} | record
        row |= {"id": task.id, "instruction": task.instruction}
        row["is_classification"] = task.is_classification
        rows.append(row)

        # Compare it with the tasks above it.
        if task.id in ids:
            errors.append((task.id, "this id stands twice"))
        if task.instruction in texts:
            errors.append((task.id, f"exact duplicate of {texts[task.instruction]}"))
        ids.add(task.id)
        texts.setdefault(task.instruction, task.id)
    return rows, errors


def good_ones(rows: list[dict]) -> list[dict]:
    """The rows, or instances, that are not bad on purpose."""
    return [row for row in rows if not row.get("flaw")]


# --------------------------------------------------------------------------------------------------
# Errors.


def near_duplicates(rows: list[dict], limit: float) -> list[Near]:
    """Pairs of rows above the limit, the most similar first."""
    # Each instruction is compared with those above it.
    pool = InstructionPool()
    pairs: list[Near] = []
    for row in rows:
        scores = pool.similarities([row["instruction"]])[0]
        for index in (scores > limit).nonzero()[0]:
            pairs.append((float(scores[index]), rows[index], row))
        pool.add(row["instruction"])
    return sorted(pairs, key=lambda pair: -pair[0])


def check_instruction(row: dict) -> list[Finding]:
    """Where stage 1 and a row disagree about its instruction."""
    # A near duplicate breaks no rule by itself: check_copies looks at those.
    flaw = row.get("flaw", "")
    expected = "" if flaw == "near_duplicate" else flaw
    rule = instruction_problem(row["instruction"])
    if rule == expected:
        return []
    marked = f"marked {flaw!r}, " if flaw else ""
    return [(row["id"], f"{marked}stage 1 says {rule or 'fine'!r}")]


def check_instances(row: dict) -> list[Finding]:
    """Where stage 4 and a row disagree about its instances."""
    # What is marked, and what the filter of stage 4 says, by (input, output).
    flaws = {}
    for instance in row["instances"]:
        pair = (instance.get("input", ""), instance["output"])
        flaws[pair] = instance.get("flaw", "")
    _, rejected = filter_instances(row["instruction"], list(flaws))
    rules = {(source, target): rule for source, target, rule in rejected}

    # Of two instances that contradict each other, one is marked and both are rejected.
    errors = []
    has_conflict = "conflicting_outputs" in flaws.values()
    for pair, flaw in flaws.items():
        rule = rules.get(pair, "")
        is_other_half = has_conflict and rule == "conflicting_outputs"
        if rule != flaw and not is_other_half:
            said = f"stage 4 says {rule!r}"
            if flaw:
                said = f"marked {flaw!r}, stage 4 says {rule or 'fine'!r}"
            errors.append((row["id"], f"output {pair[1][:40]!r}: {said}"))
    return errors


def check_labels(row: dict) -> list[Finding]:
    """Labels that the instruction of a classification task leaves out, though it names others."""
    if not row["is_classification"]:
        return []

    # An instruction that names none of its labels leaves them open on purpose.
    asked = row["instruction"].casefold()
    outputs = [instance["output"] for instance in good_ones(row["instances"])]
    labels = list(dict.fromkeys(outputs))
    missing = [label for label in labels if label.casefold() not in asked]
    if len(missing) == len(labels):
        return []
    return [(row["id"], f"the instruction does not name the label {label!r}") for label in missing]


def check_copies(rows: list[dict], pairs: list[Near]) -> list[Finding]:
    """Rows that are marked as near duplicates and are none."""
    # Both rows of a pair are copies of each other.
    copies = set()
    for score, older, newer in pairs:
        if score > COPY:
            copies |= {older["id"], newer["id"]}
    marked = [row["id"] for row in rows if row.get("flaw") == "near_duplicate"]
    return [
        (name, "is marked near_duplicate, and is none") for name in marked if name not in copies
    ]


# --------------------------------------------------------------------------------------------------
# Figures and warnings.


def table(rows: list[dict]) -> list[tuple[str, str]]:
    """The figures of a seed set, one per line, as (name, value)."""
    good = good_ones(rows)
    flaws = Counter(row["flaw"] for row in rows if row.get("flaw"))
    bad = f", and {flaws.total()} bad on purpose {dict(flaws)}" if flaws else ""

    # Every instance of a classification task has a label as its output.
    classification = [row for row in good if row["is_classification"]]
    labels: Counter[str] = Counter()
    for row in classification:
        labels.update(instance["output"] for instance in row["instances"])
    share = f"{percent(len(classification), len(good))}, {len(labels)} labels"

    # Inputs, instances, lengths in tokens, and first words.
    empty = sum(is_without_input(row) for row in good)
    instances = sum(len(good_ones(row["instances"])) for row in good)
    tokens = [tokenize(row["instruction"]) for row in good]
    lengths = [len(words) for words in tokens]
    verbs = Counter(words[0] for words in tokens)
    middle = f"median {median(lengths):.0f}, mean {mean(lengths):.1f}"
    return [
        ("tasks", f"{len(good)}{bad}"),
        ("classification", f"{len(classification)} ({share}), most used {labels.most_common(3)}"),
        ("without input", f"{empty} ({percent(empty, len(good))})"),
        ("instances", f"{instances}, {instances / len(good):.2f} for each task"),
        ("tokens", f"{min(lengths)} to {max(lengths)}, {middle}"),
        ("first words", f"{len(verbs)} different, most used {verbs.most_common(5)}"),
    ]


def percent(part: int, whole: int) -> str:
    """A share without decimals: "15 %"."""
    return f"{100 * part / whole:.0f} %"


def is_without_input(row: dict) -> bool:
    """Whether a row has instances, and none of them has an input."""
    instances = row["instances"]
    return bool(instances) and not any(instance.get("input") for instance in instances)


def warnings(rows: list[dict], pairs: list[Near]) -> list[str]:
    """What is not wrong but worth a second look."""
    # Pairs that are similar, and not on purpose.
    found = []
    for score, older, newer in pairs:
        if not (older.get("flaw") or newer.get("flaw")):
            found.append(f"near duplicates, {score:.2f}: {shown(older)} ~ {shown(newer)}")

    # Few tasks, and too few or too many of one kind.
    good = good_ones(rows)
    if len(good) < FEW:
        problem = "tasks are few: a prompt shows 8, and new tasks resemble what is shown"
        found.append(f"{len(good)} {problem}")
    classification = sum(bool(row["is_classification"]) for row in good)
    is_labelled = any(row["is_classification"] is not None for row in good)
    if is_labelled and not SHARES[0] <= classification / len(good) <= SHARES[1]:
        share = percent(classification, len(good))
        found.append(f"{share} are classification tasks: the model will imitate that")

    # One verb for many tasks.
    verbs = Counter(tokenize(row["instruction"])[0] for row in good)
    word, count = verbs.most_common(1)[0]
    if count > max(3, len(good) / 5):
        found.append(f"{count} of {len(good)} tasks begin with {word!r}")
    return found


def shown(row: dict) -> str:
    """A row's id and the beginning of its instruction."""
    return f"{row['id']} {row['instruction'][:50]!r}"


# --------------------------------------------------------------------------------------------------
# The program.


def check(rows: list[dict], near: float) -> tuple[list[tuple[str, str]], list[str], list[Finding]]:
    """The table, the warnings and the errors of rows in one language.

    `near` is the ROUGE-L above which a pair is shown as a warning.
    """
    pairs = near_duplicates(rows, near)
    errors = []
    for row in rows:
        errors += check_instruction(row) + check_instances(row) + check_labels(row)
    errors += check_copies(rows, pairs)
    return table(rows), warnings(rows, pairs), errors


def main(arguments: list[str] | None = None) -> int:
    """Print what was found in a seed file; return 1 where there are errors, else 0."""
    # Read the flags and the file.
    parser = Parser(description=(__doc__ or "").split("\n\n")[0])
    shown_above = "ROUGE-L above which a pair is shown [0.6]"
    parser.add_argument("file", type=Path, help="seed tasks: .jsonl, .json or .txt")
    parser.add_argument("--near", type=float, default=0.6, help=shown_above)
    options = parser.parse_args(arguments)
    try:
        rows, errors = read(options.file)
    except WorkshopError as error:
        tell(f"error: {error}")
        return 1

    # Each language by itself: a translation is no duplicate.
    lines: list[str] = []
    for language in dict.fromkeys(row.get("language", "") for row in rows):
        of_language = [row for row in rows if row.get("language", "") == language]
        figures, doubts, found = check(of_language, options.near)
        errors += found
        lines.append(f"{options.file} {language}".strip())
        lines += [figure(name, value) for name, value in figures]
        lines += ["  " + spoken(f"warning: {doubt}") for doubt in doubts]

    # Errors come last, where they are seen.
    lines += ["  " + spoken(f"error: {where}: {problem}") for where, problem in errors]
    show("\n".join([*lines, spoken(f"{len(errors)} errors")]))
    return 1 if errors else 0


def figure(name: str, value: str) -> str:
    """A line of the table; a Chinese character takes two columns."""
    name = spoken(name)
    return f"  {name}{' ' * (18 - columns(name))} {spoken(value)}"


if __name__ == "__main__":
    sys.exit(main())
