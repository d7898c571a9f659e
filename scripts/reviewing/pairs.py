"""Pairs of answers: which is better? People see A and B, and only the key says who wrote which.

    python scripts/review.py pairs --data data/workshop/step5_rewritten.jsonl
    python scripts/review.py score pairs-ana.csv

Three files: pairs.csv, pairs.html, and pairs-key.jsonl, which has a line for each pair:

    {"id": ..., "instruction": ..., "input": ...,
     "A": {"writer": "qwen-plus", "output": ...}, "B": {"writer": "gpt-6-luna", "output": ...}}
"""

from __future__ import annotations

if __name__ == "__main__":  # a part, no program: said before an import fails
    raise SystemExit(
        "pairs.py is a part of scripts/review.py: run  python scripts/review.py --help"
    )

import html
import json
import math
import random
import unicodedata
from collections import Counter
from hashlib import sha256
from pathlib import Path
from typing import Any

import self_instruct_workshop as workshop
from scripts import review
from scripts.reading import records as reading
from scripts.review import Say, Words, left, right
from self_instruct_workshop import WorkshopError, one_line

QUESTION = "better"
SIDES = ("A", "B")
CHOICES = (*SIDES, "same")
# What a cell may say, after folding.
SAID = {"a": "A", "b": "B", "": None} | dict.fromkeys(
    ("same", "equal", "tie", "=", "一样", "一样好", "相同", "平"), "same"
)

Pair = dict[str, Any]  # id, instruction, input, A and B: each a writer and an output
Sheet = dict[str, str | None]  # id -> "A", "B", "same", or None where it is open

# --------------------------------------------------------------------------------------------------
# Making the sheets.


def make_pair(row: dict, answers: dict[str, str], seed: int) -> Pair:
    """A pair of two writers' answers to a row, whose sides are drawn by the seed."""
    texts = {"instruction": row["instruction"], "input": row["input"]}
    digest = sha256(json.dumps([*texts.values(), sorted(answers.values())]).encode()).hexdigest()
    sides = [{"writer": writer, "output": output} for writer, output in answers.items()]
    random.Random(f"{seed}/{digest}").shuffle(sides)
    return {"id": "p" + digest[:12], **texts, **dict(zip(SIDES, sides, strict=True))}


def read_rewritten(path: Path) -> list[dict]:
    """The rows of step5_rewritten.jsonl whose output is another model's.

    Raises WorkshopError where the file is another one, or nothing in it was rewritten.
    """
    rows = []
    for place, record in reading.records(path, "run scripts/rewrite.py, or give --data"):
        rows.append(rewritten_row(record, f"{path}, {place}"))
    found = [row for row in rows if row["rewritten"]]
    if rows and not found:
        problem = f"of {path} no output was written again"
        raise WorkshopError(f"{problem}: run scripts/rewrite.py with another model")
    if not found:
        raise WorkshopError(f"{path} has no row with two answers: run scripts/rewrite.py")
    return found


def rewritten_row(record: Any, where: str) -> dict:
    """A row with both outputs. Raises WorkshopError where it lacks one."""
    names = ("instruction", "input", "output", "first_output")
    given = [record.get(name) for name in names] if isinstance(record, dict) else [None]
    if not all(isinstance(text, str) for text in given):
        needed = "a row of step5_rewritten.jsonl, with output and first_output, is needed"
        raise WorkshopError(f"{where}: {needed}")
    models = record.get("models")
    known = models if isinstance(models, dict) else {}
    writers = {side: str(known.get(side) or side) for side in ("first", "rewritten")}
    if len({*writers.values()}) == 1:  # a model that wrote its own outputs again
        writers = {side: f"{name} ({side})" for side, name in writers.items()}
    return {**record, "writers": writers, "rewritten": record.get("rewritten") is True}


def pairs_of(path: Path, number: int, seed: int) -> list[Pair]:
    """So many pairs of a first and a new output, of different instructions, in random order."""
    rows = read_rewritten(path)
    random.Random(seed).shuffle(rows)
    first_of = {row["instruction"]: row for row in reversed(rows)}
    chosen = [row for row in rows if first_of[row["instruction"]] is row][:number]
    pairs = []
    for row in chosen:
        writers = row["writers"]
        outputs = {writers["first"]: row["first_output"], writers["rewritten"]: row["output"]}
        pairs.append(make_pair(row, outputs, seed))
    return pairs


def paths_of(out: Path, form: str) -> dict[str, Path]:
    """The sheets and the key. Raises WorkshopError where one is there already."""
    paths = review.sheet_paths(out, form)
    stem = str(next(iter(paths.values())).with_suffix(""))
    key = Path(f"{stem}-key.jsonl")
    if key.exists():
        problem = f"{key} is there already: a filled sheet may need it"
        raise WorkshopError(f"{problem}: move it away, or give another --out")
    return {**paths, "key": key}


def write(paths: dict[str, Path], pairs: list[Pair], words: Words) -> None:
    """Write the key first: a sheet without one says nothing."""
    texts = {paths["key"]: [workshop.to_json(pair) for pair in pairs]}
    if "csv" in paths:
        texts[paths["csv"]] = csv_sheet(pairs, words)
    if "html" in paths:
        path = paths["html"]
        texts[path] = [html_sheet(pairs, words, path.name.removesuffix(".html"))]
    review.write_texts(texts)


def what_was_written(paths: dict[str, Path], pairs: list[Pair], say: Say = str) -> str:
    """How many pairs, in which files, and what comes next."""
    written = ", ".join(map(str, paths.values()))
    command = workshop.program_command("scripts/review.py", "score", "FILLED.csv")
    return "\n".join(
        [
            say(f"{len(pairs)} pairs of answers, of different instructions, in random order"),
            say(f"written: {written}"),
            say(f"fill in a sheet without a look at the key, then, beside the key: {command}"),
        ]
    )


def header(words: Words) -> str:
    """The names of the columns; `score` reads what stands before the colon."""
    choice = "(A/B/same)"
    asked = f"{QUESTION}: {words[QUESTION]} {choice}"
    names = ["id", "instruction", "input", "answer_A", "answer_B"]
    return review.csv_line([*names, asked, f"notes: {words['notes']}"])


def csv_start(pair: Pair) -> str:
    """A pair's line up to the answer."""
    answers = [pair[side]["output"] for side in SIDES]
    return review.csv_line([pair["id"], pair["instruction"], pair["input"], *answers])


def csv_sheet(pairs: list[Pair], words: Words) -> list[str]:
    rows = [f"{csv_start(pair)},,\r\n" for pair in pairs]
    return ["\ufeff" + header(words) + "\r\n", *rows]


def html_sheet(pairs: list[Pair], words: Words, name: str) -> str:
    """The sheet as a page: a and b choose a side, s says that both are as good."""
    total = len(pairs)
    cards = [card(pair, f"{n} / {total}", words) for n, pair in enumerate(pairs, 1)]
    sheet = {
        "file": name,
        "questions": [QUESTION],
        "keys": {"a": "A", "b": "B", "s": "same"},
        "header": header(words),
        "rows": [(pair["id"], csv_start(pair)) for pair in pairs],
    }
    titles = {"title": words["pair_title"], "intro": words["pair_intro"]}
    return review.html_page(sheet, cards, words | titles)


def card(pair: Pair, place: str, words: Words) -> str:
    """A task and two answers as HTML; what a model wrote is text, never markup."""
    parts = [f'<article id="{pair["id"]}"><h2>{place}</h2>']
    texts = {words[name]: pair[name] for name in ("instruction", "input")}
    texts |= {f"{words['answer']} {side}": pair[side]["output"] for side in SIDES}
    parts += [review.shown_text(html.escape(title), text, words) for title, text in texts.items()]
    choices = {"A": "A", "B": "B", "same": words["same"]}
    parts.append(review.question_buttons(pair["id"], QUESTION, words, choices))
    parts.append(review.notes_field(pair["id"], words))
    return "\n".join(parts)


# --------------------------------------------------------------------------------------------------
# Reading the filled sheets.


def is_pair_sheet(path: Path) -> bool:
    """Whether the first line of a sheet has the question about pairs."""
    return QUESTION in review.column_names(next(review.csv_lines(path), []))


def read_sheet(path: Path) -> Sheet:
    """Which answer a person found better, by pair.

    Raises WorkshopError where the sheet cannot be read, or holds no answer.
    """
    sheet: Sheet = {}
    for where, pair_id, row in review.rows_with_id(
        path, review.csv_lines(path), [QUESTION], "pairs"
    ):
        sheet[pair_id] = choice(row.get(QUESTION, ""), f"{where}, column {QUESTION}")
    if not any(sheet.values()):
        raise WorkshopError(f"{path} has no answer yet: fill it in, with A, B or same")
    return sheet


def choice(cell: str, where: str) -> str | None:
    """A, B, same or nothing. Raises WorkshopError for anything else."""
    said = unicodedata.normalize("NFKC", cell).strip().casefold()
    if said not in SAID:
        problem = f"{one_line(cell, 40)!r} is neither A, B nor same"
        raise WorkshopError(f"{where}: {problem}: write one of them, or nothing")
    return SAID[said]


def key_beside(sheet: Path) -> Path:
    """The key of a sheet: pairs-key.jsonl for pairs.csv, and for pairs-ana.csv beside it.

    Raises WorkshopError where there is none.
    """
    stems = [sheet.stem]
    while "-" in stems[-1]:
        stems.append(stems[-1].rpartition("-")[0])
    for stem in stems:
        path = sheet.with_name(f"{stem}-key.jsonl")
        if path.exists():
            return path
    problem = f"the key of {sheet} is not beside it"
    raise WorkshopError(f"{problem}: give the file that `pairs` wrote, by --key")


def read_key(path: Path) -> dict[str, Pair]:
    """The pairs by id. Raises WorkshopError where the file is no key."""
    pairs = {}
    for place, pair in reading.records(path, "give the pairs-key.jsonl that `pairs` wrote"):
        if not is_pair(pair):
            raise WorkshopError(f"{path}, {place}: this is no line of a pairs-key.jsonl")
        pairs[pair["id"]] = pair
    return pairs


def is_pair(pair: Any) -> bool:
    """Whether this is a pair, as make_pair makes it."""
    if not isinstance(pair, dict) or not all(isinstance(pair.get(side), dict) for side in SIDES):
        return False
    texts = [pair.get(name) for name in ("id", "instruction", "input")]
    texts += [pair[side].get(name) for side in SIDES for name in ("writer", "output")]
    return all(isinstance(text, str) for text in texts)


def by_writer(sheet: Sheet, key: dict[str, Pair], path: Path) -> Sheet:
    """Whom a person preferred, by pair: the writer's name in place of the side.

    Raises WorkshopError where the key lacks a pair of the sheet.
    """
    unknown = [pair_id for pair_id in sheet if pair_id not in key]
    if unknown:
        problem = f"the key has no pair {one_line(unknown[0])}"
        raise WorkshopError(f"{path}: {problem}: give the key of this sheet by --key")
    found: Sheet = {}
    for pair_id, side in sheet.items():
        found[pair_id] = key[pair_id][side]["writer"] if side in SIDES else side
    return found


# --------------------------------------------------------------------------------------------------
# Who wins. `say` makes English words those of the screen.


def score(paths: list[Path], key_path: Path | None, say: Say = str) -> str:
    """The wins of each writer in one sheet or two, and how far two people agree."""
    key = read_key(key_path or key_beside(paths[0]))
    preferred = [by_writer(read_sheet(path), key, path) for path in paths]
    writers = sorted({pair[side]["writer"] for pair in key.values() for side in SIDES})
    sheets = zip(paths, preferred, strict=True)
    parts = [results(path, said, writers, say) for path, said in sheets]
    if len(paths) == 2:
        parts.append(agreement(*preferred, paths, say))
    return "\n\n".join(parts)


def results(path: Path, said: Sheet, writers: list[str], say: Say = str) -> str:
    """How often each writer was preferred, as a share of what was decided, and a sign test."""
    counts = Counter(said.values())
    decided = sum(counts[writer] for writer in writers)
    heads = right(say("better"), 8) + right(say("share"), 9)
    lines = [
        say(f"{path}: {len(said)} pairs, {len(said) - counts[None]} rated"),
        f"{'':<40}{heads}   {say(f'95 % interval, of {decided} that are decided')}",
    ]
    for writer in writers:
        shown = ""
        if decided:
            low, high = review.wilson(counts[writer], decided)
            share = review.percent(counts[writer] / decided)
            interval = f"{review.percent(low)} to {review.percent(high)}"
            shown = f"{share:>9}   {say(interval)}"
        lines.append(f"{one_line(writer, 38):<40}{counts[writer]:>8}{shown}")
    lines.append(f"{left(say('as good as each other'), 40)}{counts['same']:>8}")

    # Would a coin do as well?
    p = sign_test(*[counts[writer] for writer in writers])
    verdict = "one is better" if p < 0.05 else "that may be chance"
    lines.append(say(f"sign test, two-sided, without the equal ones: p = {p:.3f}, {verdict}"))
    return "\n".join(lines)


def sign_test(one: int, other: int = 0) -> float:
    """How likely a fair coin is to fall at least as unevenly as this, one way or the other."""
    n = one + other
    tail = sum(math.comb(n, k) for k in range(min(one, other) + 1))
    return min(1.0, 2 * tail / 2**n)


def agreement(one: Sheet, other: Sheet, paths: list[Path], say: Say = str) -> str:
    """How often two people chose the same, and kappa of the three answers.

    Raises WorkshopError where the sheets have no pair in common.
    """
    common = [pair for pair in one if pair in other]
    if not common:
        problem = f"{paths[0]} and {paths[1]} have no pair in common"
        raise WorkshopError(f"{problem}: give two sheets of one sample")
    both = [(one[pair], other[pair]) for pair in common]
    title = left(say(f"agreement on {len(common)} pairs"), 44)
    heads = right(say("both rated"), 12) + right(say("same"), 9) + f"{'kappa':>8}"
    lines = [f"{title}{heads}   {say('95 % interval')}"]
    name = "Which answer is better?"
    lines.append(review.agreement_line(name, [pair for pair in both if None not in pair], say))
    lines += [say(review.KAPPA), say(review.KAPPA_LIMITS)]
    return "\n".join(lines)
