"""How many planted faults a judge finds, kind by kind.

    python tests/bench/judge.py
                      the practice model, which is no judge and slips on purpose; a second
    python tests/bench/judge.py --base-url http://127.0.0.1:8101/v1 --num 12
                      24 rows, asked of a real model; minutes on a small machine
    python tests/bench/judge.py --base-url URL --model NAME --num 300
                      50 faults of each kind, and the same 300 rows unharmed

Rows of the practice bank, which people wrote, are harmed in six ways. Each of them is asked about
harmed and unharmed, so that both sides are of the same tasks:

    other output      the output of another row
    wrong label       another label of the same task
    wrong number      one number of the output is another
    cut text          the output ends in the middle
    wrong language    an output of the bank in the other language, also of another task
    empty answer      no output

Precision: of the rows of this kind, harmed or not, whose output the judge calls wrong, how many are
harmed. Recall: of the harmed ones, how many it calls wrong. An answer that cannot be read is no
"wrong"; rows without a reply are left out. All replies are kept in --folder: the same command goes
on where it stopped.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import self_instruct_workshop as workshop  # noqa: E402
from scripts import judge, review  # noqa: E402
from scripts.asking import per_row  # noqa: E402
from scripts.judging import trust  # noqa: E402

Row = dict[str, str]

# --------------------------------------------------------------------------------------------------
# The faults: each takes a row, all rows, those of the other language, and dice; None: not possible.


def other_output(row: Row, rows: list[Row], foreign: list[Row], rng: random.Random) -> str | None:
    other = rng.choice(rows)
    same = other["instruction"] == row["instruction"] or other["output"] in row["instruction"]
    return None if same else other["output"]


def wrong_label(row: Row, rows: list[Row], foreign: list[Row], rng: random.Random) -> str | None:
    labels = sorted(row["labels"] - {row["output"]})
    return rng.choice(labels) if labels else None


def wrong_number(row: Row, rows: list[Row], foreign: list[Row], rng: random.Random) -> str | None:
    found = list(re.finditer(r"(?<![\w.,])\d{1,6}(?![\w.,]*\d)", row["output"]))
    if not found or row["labels"]:
        return None
    number = rng.choice(found)
    wrong = int(number[0]) + rng.choice([1, 2, 3, 10])
    return row["output"][: number.start()] + str(wrong) + row["output"][number.end() :]


def cut_text(row: Row, rows: list[Row], foreign: list[Row], rng: random.Random) -> str | None:
    text = row["output"]
    at = int(len(text) * rng.uniform(0.3, 0.6))
    inside = at and text[at - 1].isalnum() and text[at].isalnum()
    long = len(text) >= (60 if text.isascii() else 20)
    return text[:at] if long and inside else None


def wrong_language(row: Row, rows: list[Row], foreign: list[Row], rng: random.Random) -> str | None:
    return rng.choice(foreign)["output"]


def empty_answer(row: Row, rows: list[Row], foreign: list[Row], rng: random.Random) -> str | None:
    return ""


KINDS: dict[str, Callable] = {
    "other output": other_output,
    "wrong label": wrong_label,
    "wrong number": wrong_number,
    "cut text": cut_text,
    "wrong language": wrong_language,
    "empty answer": empty_answer,
}


def bank(language: str) -> list[Row]:
    """The good rows of the practice bank, each with the labels of its task."""
    rows = []
    for task in workshop.read_data("practice_tasks", language):
        good = [pair for pair in task["instances"] if not pair.get("flaw")]
        labels = {pair["output"] for pair in good} if task["is_classification"] else set()
        for pair in [] if task.get("flaw") else good:
            texts = {"input": pair["input"], "output": pair["output"]}
            rows.append({"instruction": task["instruction"], **texts, "labels": labels})
    return rows


def planted(language: str, number: int, seed: int) -> list[tuple[str, Row, Row]]:
    """(kind, the row, the row harmed): as many of each kind, each of another row."""
    rng = random.Random(seed)
    rows = bank(language)
    foreign = bank("zh" if language == "en" else "en")
    rng.shuffle(rows)
    found = []
    # Labels and numbers first: not every row has them.
    for kind in sorted(KINDS, key=lambda kind: kind not in ("wrong label", "wrong number")):
        taken = 0
        for row in [*rows]:
            output = KINDS[kind](row, rows, foreign, rng) if taken < number else None
            if output is not None:
                found.append((kind, row, {**row, "output": output}))
                rows.remove(row)
                taken += 1
    return found


# --------------------------------------------------------------------------------------------------
# The judge, and the figures.


def texts_of(row: Row) -> dict[str, str]:
    return {name: row[name] for name in workshop.COLUMNS}


def measure(options: argparse.Namespace, _: object = None) -> int:
    """Ask about all rows, harmed and not, and print the figures."""
    # The rows as a dataset: their ids are those of the judge.
    faults = planted(options.language, -(-options.num // len(KINDS)), options.seed)
    folder = options.folder / options.language
    folder.mkdir(parents=True, exist_ok=True)
    both = [texts_of(row) for _, good, bad in faults for row in (good, bad)]
    options.data = folder / "planted.jsonl"
    workshop.write_whole(options.data, map(workshop.to_json, both))
    workshop.write_json(folder / "run.json", {"settings": {"language": options.language}})
    ids = [row["id"] for row in review.read_rows(options.data)]

    # Ask.
    with per_row.asking(options, judge.STAGE, judge.practise) as model:
        judge.say_who(model, options)
        questions = judge.questions_about(model, review.read_rows(options.data))
        verdicts = judge.verdicts_of(model, questions)
        name = workshop.one_line(model.model)

    # What it said of the outputs: (kind, harmed, answer). Rows without a reply are left out.
    answers = []
    for n, (kind, _, _) in enumerate(faults):
        for harmed in (0, 1):
            verdict = verdicts.get(ids[2 * n + harmed])
            if verdict:
                answers.append((kind, bool(harmed), verdict.answers[trust.OUTPUT]))
    workshop.show(figures(name, answers))
    return 3 if model.undone else 0


def figures(name: str, answers: list[tuple[str, bool, bool | None]]) -> str:
    """Precision and recall of "wrong" by kind, and of all kinds."""
    lines = [f"{name}: is the output called wrong?", head()]
    kinds = [kind for kind in KINDS if any(kind == one for one, _, _ in answers)]
    for kind in [*kinds, "all"]:
        own = [row for row in answers if kind in (row[0], "all")]
        found = sum(harmed and said is False for _, harmed, said in own)
        called = sum(said is False for _, _, said in own)
        harmed_rows = sum(harmed for _, harmed, _ in own)
        recall, precision = trust.share(found, harmed_rows), trust.share(found, called)
        lines.append(f"{kind:<16}{recall:<42}{precision}")
    unread = sum(said is None for _, _, said in answers)
    return "\n".join([*lines, f"not read: {unread} of {len(answers)}"])


def head() -> str:
    return f"{'':<16}{'recall (95 % interval)':<42}precision (95 % interval)"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    per_row.add_flags(parser, judge.LONGEST_REPLY)
    add = parser.add_argument
    add("--num", type=int, default=300, help="faults in all [300]")
    add("--language", choices=("en", "zh"), default="en", help="of the bank's rows [en]")
    add("--seed", type=int, default=42, help="random seed: which rows are harmed [42]")
    folder = Path(workshop.Config.work_dir) / "bench_judge"
    add("--folder", type=Path, default=folder, help="for the journals [below data/workshop]")
    options = parser.parse_args(arguments)
    if not options.base_url and not options.provider:
        options.provider = "practice"
    return workshop.main(None, partial(measure, options))


if __name__ == "__main__":
    workshop.leave(main())
