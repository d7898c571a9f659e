"""Look for overlap of a dataset with evaluation sets: what a model is trained on must not be in
its exam.

    python scripts/overlap.py data/seed_tasks.jsonl
                        a second; data/workshop/step4_final.jsonl against the seed tasks
    python scripts/overlap.py gsm8k.jsonl mmlu.csv --field question --data my_data.jsonl
                        50,000 rows against 10,000 items: half a minute, 225 MB
    python scripts/overlap.py gsm8k.jsonl --drop
                        writes the rows without overlap into a new file

No model is asked and nothing is downloaded. Instructions and inputs are compared; outputs are not.
A row is found by three tests, and each of them says why:

    exact       the same text, but for case, spaces, width of characters and punctuation
    13-gram     13 tokens in a row that both have, as in appendix C of the GPT-3 paper
                (https://arxiv.org/abs/2005.14165); a Chinese character is a token
    ROUGE-L     F1 above --threshold, as in stage 1

A part of a prompt (an instruction without its input, an input alone) counts from 8 tokens on:
"Paris" or "3 + 4" as an input says nothing. What more than --common items share is boilerplate.

Evaluation files: .jsonl, .json, .csv, .tsv, .parquet. Which field they ask is guessed, and said;
--field names it (question.stem leads further in; 1 is the first column of a table without names).

overlap.jsonl has the evidence, and overlap.json says what was checked. prepare_for_finetuning.py
puts that on the card of the dataset, as long as the dataset has not changed.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections import Counter
from dataclasses import dataclass
from datetime import date
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import self_instruct_workshop as workshop
from scripts.asking.parser import Parser
from scripts.overlapping import files, measures, record
from scripts.overlapping.files import Prompt
from scripts.overlapping.measures import Found
from self_instruct_workshop import Config, UsageError, WorkshopError, fitted, one_line

WORDS = json.loads((Path(record.__file__).parent / "words.json").read_text(encoding="utf-8"))
TESTS = record.COUNTS[:3]

# What a setting may be: the lowest and the highest value.
BOUNDS = {"threshold": (0, 1), "ngram": (1, math.inf), "common": (0, math.inf)}


@dataclass
class Checked:
    """An evaluation file, and what each test found in the dataset."""

    name: str
    digest: str
    items: list[Prompt]
    fields: tuple[str, ...]
    without: int  # records without a text in these fields
    found: dict[str, Found]  # by test

    def rows(self) -> set[int]:
        """The places of the rows that any test found."""
        return {row for found in self.found.values() for row in found.hits}


def notice(text: str) -> None:
    workshop.tell(f"notice: {text}")


# --------------------------------------------------------------------------------------------------
# Compare.


def compare(rows: list[Prompt], options: argparse.Namespace) -> list[Checked]:
    """Each evaluation file, with what was found. Raises WorkshopError where one is unreadable."""
    from tqdm import tqdm

    # Read all of them before the work begins: an error is said at once.
    read = []
    for path in options.files:
        name = label(path, options.files)
        digest = record.digest_of(path)
        items, fields, without = files.items(path, options.field or [])
        read.append(Checked(name, digest, items, fields, without, {}))
        if without:
            notice(f"{path}: records without a text in {fields_of(fields)}: {without:,}")

    # The three tests.
    for checked in tqdm(read, desc="overlap", disable=None, leave=False):
        items = checked.items
        checked.found = {
            "exact": measures.exact(rows, items, options.common),
            "ngram": measures.shared_ngrams(rows, items, options.ngram, options.common),
            "rouge_l": measures.rouge(rows, items, options.threshold),
        }
    return read


def label(path: Path, paths: list[Path]) -> str:
    """The name of a file; as it was typed where two files have this name."""
    names = Counter(other.name for other in paths)
    return path.name if names[path.name] == 1 else str(path)


def fields_of(fields: tuple[str, ...], itself: str = "the record itself") -> str:
    return ", ".join(name or itself for name in fields)


def evidence(rows: list[Prompt], checked: list[Checked]) -> list[dict]:
    """A line for each row, file and test, in the order of the rows."""
    lines = []
    for file in checked:
        for test in TESTS:
            for hit in file.found[test].hits.values():
                row = rows[hit.row]
                item = file.items[hit.item]
                lines.append(
                    {
                        "row": row.number,
                        "place": row.place,
                        "instruction": row.instruction,
                        "input": row.input,
                        "file": file.name,
                        "item": item.number,
                        "item_place": item.place,
                        "item_text": item.whole,
                        "test": test,
                        "part": hit.part,
                        "item_part": hit.item_part,
                        "score": round(hit.score, 4),
                        "shared": hit.shared,
                    }
                )
    return sorted(lines, key=lambda line: line["row"])


# --------------------------------------------------------------------------------------------------
# Files.


@dataclass(frozen=True)
class Places:
    """Where everything is written: side by side."""

    evidence: Path
    record: Path
    kept: Path  # with --drop: the rows without overlap


def places(options: argparse.Namespace) -> Places:
    """Where to write. Raises UsageError or WorkshopError where something else stands there."""
    # The names.
    out = options.out or options.data.parent / "overlap.jsonl"
    if out.suffix != ".jsonl" or out.is_dir():
        raise UsageError(f"--out must be the name of a .jsonl file, not {out}")
    kept = out.parent / f"{options.data.stem}_without_overlap.jsonl"
    found = Places(out, out.with_suffix(".json"), kept)

    # None of them may be what is read, nor a file that no check wrote.
    earlier = record.read(found.record)
    if found.record.exists() and not earlier:
        refuse_unless(options.overwrite, found.record)
    targets = [found.evidence, found.kept] if options.drop else [found.evidence]
    for path in (*targets, found.record):
        if any(path.exists() and path.samefile(source) for source in sources(options)):
            raise UsageError(f"{path} is read, and would be replaced: give another --out")
    for path in targets:
        if path.exists() and not record.is_ours(path, earlier):
            refuse_unless(options.overwrite, path)
    return found


def refuse_unless(overwrite: bool, path: Path) -> None:
    """Raise WorkshopError unless a file of somebody else may be replaced."""
    if not overwrite or path.is_dir():
        problem = f"{path} is there already, and no check wrote it, or it was changed since"
        raise WorkshopError(f"{problem}: move it away, give another --out, or give --overwrite")


def sources(options: argparse.Namespace) -> list[Path]:
    return [options.data, *options.files]


def facts(
    data: dict, checked: list[Checked], kept: list[str] | None, options: argparse.Namespace
) -> dict:
    """What the record says. `kept` are the lines of the file without overlap, if one is made."""
    found = found_rows(checked)
    told: dict = {
        "checked_on": date.today().isoformat(),
        "data": data,
        "tests": {
            "exact": {"shortest_part": measures.PART, "common": options.common},
            "ngram": {"n": options.ngram, "common": options.common},
            "rouge_l": {"threshold": options.threshold},
        },
        "checked": [file_facts(file) for file in checked],
        "rows_found": len(found),
        "kept": None,
    }
    if kept:
        digest = record.digest_of_lines(kept)
        told["kept"] = {"sha256": digest, "rows": len(kept), "dropped": len(found)}
    return told


def file_facts(file: Checked) -> dict:
    counts = {test: len(file.found[test].hits) for test in TESTS}
    return {
        "file": file.name,
        "sha256": file.digest,
        "items": len(file.items),
        "fields": list(file.fields),
        "records_without_text": file.without,
        "rows": {**counts, "any": len(file.rows())},
    }


def found_rows(checked: list[Checked]) -> set[int]:
    return {row for file in checked for row in file.rows()}


def as_line(value: dict) -> str:
    """A line of JSON; a date, or another value that JSON lacks, is written as a text."""
    return json.dumps(value, ensure_ascii=False, default=str) + "\n"


# --------------------------------------------------------------------------------------------------
# What is shown.


def summary(rows: list[Prompt], checked: list[Checked], options: argparse.Namespace) -> str:
    """The table: of each file its items, the rows that each test found, and their share."""
    # The head, a line for each file, and one for all of them.
    words = WORDS[options.language]
    names = ("items", *TESTS, "any", "share")
    head = [words[name].format(n=options.ngram) for name in names]
    table = [("", *head)]
    for file in checked:
        counts = file_facts(file)["rows"]
        numbers = [len(file.items), *(counts[test] for test in TESTS)]
        cells = [f"{number:,}" for number in numbers]
        table.append((one_line(file.name, 34), *cells, *with_share(counts["any"], len(rows))))
    if len(checked) > 1:
        total = with_share(len(found_rows(checked)), len(rows))
        table.append((words["all"], "", "", "", "", *total))

    # What stands around it.
    lines = [words["data"].format(file=one_line(options.data.name), rows=len(rows)), ""]
    lines += [table_line(cells) for cells in table]
    lines.append("")
    for file in checked:
        fields = fields_of(file.fields, words["record"])
        lines.append(words["fields"].format(file=one_line(file.name), fields=fields))
    return "\n".join([*lines, *boilerplate(checked, options)])


def with_share(count: int, total: int) -> tuple[str, str]:
    share = f"{100 * count / total:.1f} %"
    if count and share == "0.0 %":
        share = "< 0.1 %"
    return f"{count:,}", share


def table_line(cells: tuple[str, ...]) -> str:
    """The first cell is at the left, the others are at the right of their columns."""
    first, *others = cells
    line = first + " " * (34 - workshop.columns(first))
    for cell in others:
        line += " " * max(1, 9 - workshop.columns(cell)) + cell
    return line.rstrip()


def boilerplate(checked: list[Checked], options: argparse.Namespace) -> list[str]:
    """What was left out of the tests, so that nothing is left out unseen."""
    # The texts, and the rows in which nothing else was found.
    texts: Counter[str] = Counter()
    rows: set[int] = set()
    for file in checked:
        for found in file.found.values():
            for text, its_rows in found.common.items():
                texts[text] += len(its_rows)
                rows |= its_rows
    if not texts:
        return []

    # What they are like, and how much depends on them.
    words = WORDS[options.language]
    return [
        words["common"].format(count=len(texts), limit=options.common),
        fitted(texts.most_common(1)[0][0], "  "),
        words["common_rows"].format(rows=len(rows - found_rows(checked))),
    ]


def outcome(
    lines: list[dict], kept: list[str] | None, found: int, where: Places, words: dict
) -> str:
    """What was written, and what can be done next."""
    if not lines and kept is None:
        return words["none"]
    said = [words["none"]]
    if lines:
        said = [words["list"].format(path=shown(where.evidence), lines=len(lines))]
    if kept is None:
        said.append(words["hint"])
    elif kept:
        path = shown(where.kept)
        said.append(words["kept"].format(kept=len(kept), path=path, dropped=found))
    else:
        said.append(words["all_dropped"].format(dropped=found))
    return "\n".join(said)


def shown(path: Path) -> Path:
    """A path from the folder where we are, where it leads there."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


# --------------------------------------------------------------------------------------------------
# The program.


def overlap(options: argparse.Namespace) -> None:
    # Read, and compare.
    check(options)
    where = places(options)
    digest = record.digest_of(options.data)  # before it is read: it may change meanwhile
    rows, records = files.rows(options.data)
    data = {"file": options.data.name, "sha256": digest, "rows": len(rows)}
    checked = compare(rows, options)
    found = found_rows(checked)

    # The files: the evidence, and the rows without overlap.
    lines = evidence(rows, checked)
    kept = None
    written = {where.evidence: [as_line(line) for line in lines]}
    if options.drop:
        kept = [as_line(one) for place, one in enumerate(records) if place not in found]
        written[where.kept] = kept
    try:
        record.write(where.record, facts(data, checked, kept, options), written)
    except OSError as error:
        problem = f"cannot write {error.filename or where.evidence} ({error.strerror})"
        raise WorkshopError(f"{problem}: give another --out") from None

    # What came of it.
    words = WORDS[options.language]
    last = outcome(lines, kept, len(found), where, words)
    workshop.show(f"{summary(rows, checked, options)}\n\n{last}")


def check(options: argparse.Namespace) -> None:
    """Fill in the language. Raises UsageError for what cannot be: a bound, a file named twice."""
    # Numbers within their bounds.
    for name, (low, high) in BOUNDS.items():
        value = getattr(options, name)
        if not low <= value <= high:
            allowed = f"at least {low}" if math.isinf(high) else f"from {low} to {high}"
            raise UsageError(f"--{name} must be {allowed}, not {value}")

    # Files that are there, each named once.
    if not options.data.is_file():
        problem = f"{options.data} is not there, or no file"
        raise WorkshopError(f"{problem}: run self_instruct.py, or give a dataset as --data")
    known = [options.data]
    for path in options.files:
        if not path.is_file():
            raise WorkshopError(f"{path} is not there, or no file: name an evaluation file")
        if any(path.samefile(other) for other in known):
            raise UsageError(f"{path} is named twice: name each file once, other than the data")
        known.append(path)

    # The language of the terminal.
    if not options.language:
        chinese = workshop.screen(Config()) == workshop.screen_words("zh")
        options.language = "zh" if chinese else "en"


def command_line() -> argparse.ArgumentParser:
    """The flags; defaults stand in square brackets."""
    parser = Parser(description=(__doc__ or "").split("\n\n")[0], allow_abbrev=False)
    add = parser.add_argument
    data = Path(Config.work_dir) / workshop.STEP_FILES[3]
    add("files", nargs="+", type=Path, metavar="FILE", help="evaluation sets")
    add("--data", type=Path, default=data, help="dataset [data/workshop/step4_final.jsonl]")
    field = "field of the evaluation files that is asked; more of them join [guessed]"
    add("--field", action="append", metavar="NAME", help=field)

    # How to compare.
    threshold = "ROUGE-L F1 above this is overlap [0.7]"
    ngram = "tokens in a row that make an overlap [13]"
    common = "what more items or instructions share is boilerplate; 0: nothing is [10]"
    add("--threshold", type=float, default=0.7, metavar="F1", help=threshold)
    add("--ngram", type=int, default=13, metavar="N", help=ngram)
    add("--common", type=int, default=10, metavar="N", help=common)

    # What to write.
    drop = "write the rows without overlap into ..._without_overlap.jsonl"
    out = "the evidence; other files go beside it [overlap.jsonl beside the data]"
    add("--drop", action="store_true", help=drop)
    add("--out", type=Path, metavar="FILE", help=out)
    add("--overwrite", action="store_true", help="replace files that no check wrote")
    add("--language", choices=tuple(WORDS), default="", help="of the words [the terminal's]")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Compare, and return the exit code: 0, whether there is overlap or not."""
    options = command_line().parse_intermixed_args(arguments)
    return workshop.main(None, lambda _: overlap(options))


if __name__ == "__main__":
    sys.exit(main())
