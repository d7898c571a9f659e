"""Have people judge a sample of a dataset, as the paper did, and put their figures beside the paper's.

    python scripts/review.py sample                    a second; writes review.csv and review.html, fill in one of them
    python scripts/review.py score review-ana.csv                   a second; the shares of yes, beside the paper's
    python scripts/review.py score review-ana.csv review-bo.csv     how far two people agree, too

Section 3.3 of the paper: 200 instructions, one instance of each, three questions. The sample here is in proportion to
its kinds (classification or not, with or without input); the first of them is read from step2 or step3 beside the data.
The HTML sheet needs no server; both sheets give the same CSV. In it, a text that a spreadsheet would take for a formula
begins with an apostrophe, and so does a text that began with one.
"""

from __future__ import annotations

import argparse
import base64
import csv
import html
import io
import json
import math
import random
import re
import sys
import unicodedata
from collections import Counter, defaultdict
from contextlib import suppress
from functools import partial
from hashlib import sha256
from pathlib import Path
from statistics import NormalDist
from string import Template

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import self_instruct_workshop as workshop
from self_instruct_workshop import Config, UsageError, WorkshopError, one_line

PAPER = {"valid_task": 92, "input_fits": 79, "output_right": 58, "all three": 54}  # % of 200; table 2 of the paper
QUESTIONS = tuple(PAPER)[:3]
TEXTS = ("instruction", "input", "output")
FORMULA = r"^\s*[=+\-@＝＋－＠']|^[\t\r\n]"  # how a cell begins that a spreadsheet may run, or that looks defused
ANSWERS = {
    **dict.fromkeys(("yes", "y", "1", "true", "是", "对"), True),
    **dict.fromkeys(("no", "n", "0", "false", "否", "错"), False),
    "": None,
}
AGREEMENT = {0: "slight", 0.2: "fair", 0.4: "moderate", 0.6: "substantial", 0.8: "almost perfect"}  # kappa above it
Z = NormalDist().inv_cdf(0.975)  # 1.96, for intervals of 95 %

PARTS = Path(__file__).resolve().parent / "reviewing"
WORDS = json.loads((PARTS / "words.json").read_text(encoding="utf-8"))  # of the sheets, by language

# ----------------------------------------------------------------------------------------------------------------------
# sample: draw rows and write the sheets.


def read_rows(path: Path) -> list[dict]:
    """The rows of a dataset, each with its id and its kind."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise WorkshopError(f"cannot read {path} ({error.strerror}): run self_instruct.py, or give --data") from None
    except UnicodeDecodeError:
        raise WorkshopError(f"{path} is not UTF-8 text: give a dataset as --data") from None
    rows, labelled = [], classification(path.parent)
    for number, line in enumerate(lines, 1):
        if line.strip():
            rows.append(read_row(line, f"{path}, line {number}"))
            label = labelled.get(rows[-1]["instruction"], "classification unknown" if labelled else "")
            given = "with input" if rows[-1]["input"].strip() else "no input"
            rows[-1]["kind"] = ", ".join(filter(None, [label, given]))
    if not rows:
        raise WorkshopError(f"{path} holds no row: there is nothing to review")
    return rows


def read_row(line: str, where: str) -> dict:
    with suppress(ValueError, TypeError, LookupError, RecursionError):
        row = json.loads(line)
        texts = [("" + row[name]).encode("utf-8", "replace").decode() for name in TEXTS]
        if texts[0].strip():
            digest = sha256(json.dumps(texts).encode()).hexdigest()[:12]  # behind an r: a spreadsheet would read 12e4
            return {"id": "r" + digest, **dict(zip(TEXTS, texts, strict=True))}
    raise WorkshopError(f"{where}: a JSON record with the texts instruction, input and output is needed")


def classification(folder: Path) -> dict[str, str]:
    """What stage 2 said of each instruction, from a step file beside the data; nothing where there is none."""
    names, found = {True: "classification", False: "not classification"}, {}
    for path in (folder / workshop.STEP_FILES[1], folder / workshop.STEP_FILES[2]):
        with suppress(OSError, ValueError, TypeError, LookupError):
            for line in path.read_text(encoding="utf-8").strip().split("\n"):
                row = json.loads(line)
                found[row["instruction"]] = names.get(row["is_classification"], "classification unknown")
    return found


def shares(sizes: dict[str, int], number: int) -> dict[str, int]:
    """How many to draw of each kind: in proportion, and of each at least one where the number allows."""
    number, total = min(number, sum(sizes.values())), sum(sizes.values())
    least = int(number >= len(sizes))
    drawn = {kind: max(least, number * size // total) for kind, size in sizes.items()}

    def too_many(kind: str) -> float:
        return drawn[kind] - number * sizes[kind] / total

    while sum(drawn.values()) < number:
        drawn[min(drawn, key=too_many)] += 1
    while sum(drawn.values()) > number:
        drawn[max((kind for kind in drawn if drawn[kind] > least), key=too_many)] -= 1
    return drawn


def draw(rows: list[dict], number: int, seed: int) -> tuple[list[dict], Counter]:
    """A sample in random order, one instance of an instruction; and how many instructions of each kind there are."""
    generator, instances, kinds = random.Random(seed), defaultdict(list), defaultdict(list)
    for row in rows:
        instances[row["instruction"]].append(row)
    for row in map(generator.choice, instances.values()):
        kinds[row["kind"]].append(row)
    sizes = Counter({kind: len(kinds[kind]) for kind in sorted(kinds)})
    sample = [row for kind, n in shares(sizes, number).items() for row in generator.sample(kinds[kind], n)]
    generator.shuffle(sample)
    return sample, sizes


def csv_line(cells: list[str]) -> str:
    buffer = io.StringIO(newline="")
    csv.writer(buffer).writerow("'" + cell if re.match(FORMULA, cell) else cell for cell in cells)
    return buffer.getvalue().removesuffix("\r\n")


def header(words: dict[str, str]) -> str:
    """The names of the columns; `score` reads what stands before the colon."""
    asked = [f"{question}: {words[question]} ({words['yes']}/{words['no']})" for question in QUESTIONS]
    return csv_line(["id", "kind", *TEXTS, *asked, f"notes: {words['notes']}"])


def csv_start(row: dict) -> str:
    """A row's line up to the answers."""
    return csv_line([row["id"], row["kind"], *(row[name] for name in TEXTS)])


def csv_sheet(sample: list[dict], words: dict[str, str]) -> list[str]:
    """The lines of the sheet; Excel takes it for UTF-8 by the mark at its start."""
    return ["\ufeff" + header(words) + "\r\n", *(f"{csv_start(row)},,,,\r\n" for row in sample)]


def card(row: dict, place: str, words: dict[str, str]) -> str:
    """One task and its questions as HTML; what the model wrote is text, never markup."""
    parts = [f'<article id="{row["id"]}"><h2>{place}</h2>']
    for name in TEXTS:
        kind, text = ("text", row[name]) if row[name].strip() else ("none", words["none"])
        parts.append(f'<h3>{words[name]}</h3><p class="{kind}" dir="auto">{html.escape(text)}</p>')
    for question in QUESTIONS:
        name = f'type="radio" name="{row["id"]}.{question}"'
        buttons = [f'<label><input {name} value="{value}">{words[value]}</label>' for value in ("yes", "no")]
        parts.append(f"<fieldset><legend>{words[question]}</legend>{''.join(buttons)}</fieldset>")
    notes = f'<textarea name="{row["id"]}.notes" rows="1"></textarea>'
    return "\n".join([*parts, f'<label class="notes">{words["notes"]}{notes}</label></article>'])


def html_sheet(sample: list[dict], words: dict[str, str], name: str) -> str:
    template = (PARTS / "sheet.html").read_text(encoding="utf-8")
    ids = [row["id"] for row in sample]
    sheet = {
        "key": "review-" + sha256("".join(ids).encode()).hexdigest()[:12],  # its place in the browser's memory
        "file": name,
        "questions": QUESTIONS,
        "formula": FORMULA,
        "header": header(words),
        "rows": [(row["id"], csv_start(row)) for row in sample],
        "words": {part: words[part] for part in ("status", "kept", "lost", "sure")},
    }
    hashes = {f"{tag}_hash": content_hash(template, tag) for tag in ("script", "style")}
    cards = "\n".join(card(row, f"{n} / {len(sample)}", words) for n, row in enumerate(sample, 1))
    data = json.dumps(sheet, ensure_ascii=False).replace("<", "\\u003c")
    return Template(template).substitute(words, **hashes, cards=cards, sheet=data)


def content_hash(template: str, tag: str) -> str:
    """What the Content-Security-Policy says of the one script, or style, that may act."""
    content = re.search(rf"<{tag}>(.*?)</{tag}>", template, re.S)[1]
    return "sha256-" + base64.b64encode(sha256(content.encode()).digest()).decode()


def sample_command(options: argparse.Namespace, _: Config) -> None:
    if options.num < 1:
        raise UsageError(f"--num must be at least 1, not {options.num}")
    formats = ("csv", "html") if options.format == "both" else (options.format,)
    out = options.out.with_suffix("") if options.out.suffix in (".csv", ".html") else options.out
    paths = {kind: Path(f"{out}.{kind}") for kind in formats}
    for path in paths.values():
        if path.exists():
            raise WorkshopError(f"{path} is there already, maybe filled in: move it away, or give another --out")
    words, (sample, sizes) = WORDS[options.language], draw(read_rows(options.data), options.num, options.seed)
    try:
        for kind, path in paths.items():
            lines = csv_sheet(sample, words) if kind == "csv" else [html_sheet(sample, words, out.name)]
            workshop.write_whole(path, lines)
    except OSError as error:
        raise WorkshopError(f"cannot write {path} ({error.strerror}): give another --out") from None
    drawn = Counter(row["kind"] for row in sample)
    print(f"{len(sample)} of {sizes.total()} instructions, one instance of each")
    print("\n".join(f"  {kind:<36}{drawn[kind]:>6} of {size:>6}" for kind, size in sizes.items()))
    if len(sample) < options.num:
        print(f"notice: {options.num} were asked for, and there are no more", file=sys.stderr)
    print(f"written: {', '.join(map(str, paths.values()))}; fill in one, then: {Path(__file__).name} score FILLED.csv")


# ----------------------------------------------------------------------------------------------------------------------
# score: read filled sheets; shares with their intervals, and how far two people agree.

Sheet = dict[str, dict]  # id -> the row, its answers and `all three` True, False, or None where it is open


def read_sheet(path: Path) -> Sheet:
    """The answers of a sheet, as a spreadsheet program may have saved it."""
    text, sheet = sheet_text(path), {}
    first = re.split(r"[\r\n]", text, maxsplit=1)[0]
    csv.field_size_limit(2**31 - 1)  # bytes; the default ends at 131,072
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=first.count))
    try:
        names = [cell.split(":")[0].strip().casefold() for cell in next(lines, [])]
        if missing := [name for name in ("id", *QUESTIONS) if name not in names]:
            raise WorkshopError(f"{path} has no column {missing[0]}: give a sheet that `sample` made")
        for number, cells in enumerate(lines, 2):
            row = dict(zip(names, cells, strict=False))
            if any(cells):
                where, which = f"{path}, row {number}", row.get("id", "").strip()
                if not which or which in sheet:
                    problem = f"the id {one_line(which)!r} stands twice" if which else "there is no id"
                    raise WorkshopError(f"{where}, column id: {problem}: take that row out")
                said = {name: answer(row.get(name, ""), f"{where}, column {name}") for name in QUESTIONS}
                whole = None if None in said.values() else all(said.values())  # open where one is, be another a no
                sheet[which] = row | said | {"all three": whole}
    except csv.Error as error:
        raise WorkshopError(f"{path} is no CSV that can be read ({error}): save it as CSV UTF-8") from None
    if not any(row[name] is not None for row in sheet.values() for name in QUESTIONS):
        raise WorkshopError(f"{path} has no answer yet: fill it in, with yes or no")
    return sheet


def sheet_text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise WorkshopError(f"cannot read {path} ({error.strerror}): give a filled CSV sheet") from None
    if data.startswith(b"PK"):
        raise WorkshopError(f"{path} is a workbook: save it as CSV UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:  # older Excel: the system's encoding, mostly GBK where answers are not ASCII
        return data.decode("gb18030", "replace")


def answer(cell: str, where: str) -> bool | None:
    with suppress(KeyError):
        return ANSWERS[unicodedata.normalize("NFKC", cell).strip().casefold()]
    raise WorkshopError(f"{where}: {one_line(cell, 40)!r} is neither yes nor no: write yes, no, or nothing")


def wilson(yes: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a share by Wilson's score, which holds for few answers and near 0 and 1."""
    middle, width = yes / n + Z * Z / (2 * n), Z * math.sqrt(yes * (n - yes) / n**3 + Z * Z / (4 * n * n))
    return max(0.0, (middle - width) / (1 + Z * Z / n)), min(1.0, (middle + width) / (1 + Z * Z / n))


def kappa(pairs: list[tuple[bool, bool]]) -> tuple[float, float, float] | None:
    """Cohen's kappa with its 95 % interval (Fleiss, Cohen and Everitt, 1969); None where it is undefined, as both
    gave one and the same answer everywhere."""
    n, cells = len(pairs), Counter(pairs)
    first, second = ({side: sum(pair[i] == side for pair in pairs) / n for side in (True, False)} for i in (0, 1))
    same, chance = (cells[True, True] + cells[False, False]) / n, sum(first[side] * second[side] for side in first)
    if chance == 1:
        return None
    value, spread = (same - chance) / (1 - chance), 0.0
    for (one, other), times in cells.items():
        off = (1 - value) * (second[one] + first[other])
        spread += times / n * ((1 - off) ** 2 if one == other else off**2)
    error = math.sqrt(max(0.0, spread - (value - chance * (1 - value)) ** 2) / n) / (1 - chance)
    return value, max(-1.0, value - Z * error), min(1.0, value + Z * error)


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def results(path: Path, sheet: Sheet) -> str:
    """The shares of yes of one sheet, and below them those of each kind of task."""
    lines = [f"{path}: {len(sheet)} rows", f"{'':<50}{'yes':>6}{'rated':>7}{'share':>9}   {'95 % interval':<18}paper"]
    for name, paper in PAPER.items():
        given = [row[name] for row in sheet.values()]
        yes, n = given.count(True), len(given) - given.count(None)
        low, high = wilson(yes, n) if n else (0, 1)
        shown = f"{percent(yes / n):>9}   {percent(low) + ' to ' + percent(high):<18}" if n else f"{'':<30}"
        lines.append(f"{WORDS['en'].get(name, name):<50}{yes:>6}{n:>7}{shown}{paper:>3} %")
    if blank := sum(row[name] is None for row in sheet.values() for name in QUESTIONS):
        lines.append(f"not rated: {blank} of {3 * len(sheet)} answers; `all three` counts rows where nothing is open")
    kinds = sorted({row.get("kind", "") for row in sheet.values()})
    if len(kinds) > 1:
        lines += ["", f"{'share of yes':<36}{'rows':>6}" + "".join(f"{name:>14}" for name in PAPER)]
        lines += [kind_line(kind, [row for row in sheet.values() if row.get("kind", "") == kind]) for kind in kinds]
    return "\n".join(lines)


def kind_line(kind: str, rows: list[dict]) -> str:
    given = [[row[name] for row in rows if row[name] is not None] for name in PAPER]
    cells = [percent(sum(said) / len(said)) if said else "-" for said in given]
    return f"{one_line(kind, 34):<36}{len(rows):>6}" + "".join(f"{cell:>14}" for cell in cells)


def agreement(one: Sheet, other: Sheet, paths: list[Path]) -> str:
    """How far two people agree on each question, in per cent and beyond chance, and where they do not."""
    common = [row for row in one if row in other]
    if not common:
        raise WorkshopError(f"{paths[0]} and {paths[1]} have no row in common: give two sheets of one sample")
    title = f"agreement on {len(common)} rows"
    lines = [f"{title:<44}{'both rated':>12}{'same':>9}{'kappa':>8}   95 % interval"]
    for name in PAPER:
        pairs = [(one[row][name], other[row][name]) for row in common]
        pairs = [pair for pair in pairs if None not in pair]
        same = percent(sum(a == b for a, b in pairs) / len(pairs)) if pairs else "-"
        lines.append(f"{WORDS['en'].get(name, name):<50}{len(pairs):>6}{same:>9}{kappa_cells(pairs)}")
    lines.append("kappa is agreement beyond chance: 1 is full, 0 is what dice with the same shares of yes would reach")
    lines.append("(words by Landis and Koch, 1977). Where nearly all answers are the same it says little: see `same`.")
    for path, mine, theirs in ((paths[0], one, other), (paths[1], other, one)):
        if alone := [row for row in mine if row not in theirs]:
            lines.append(f"rows only in {path}: {len(alone)}, {one_line(', '.join(alone), 200)}")
    return "\n".join([*lines, *disagreements(one, other, common)])


def kappa_cells(pairs: list[tuple[bool, bool]]) -> str:
    if not pairs:
        return ""
    if not (found := kappa(pairs)):
        return f"{'-':>8}   undefined: both said {'yes' if pairs[0][0] else 'no'} everywhere"
    value, low, high = found
    word = next((word for limit, word in reversed(AGREEMENT.items()) if value > limit), "none beyond chance")
    interval = f"{low:.2f} to {high:.2f}, {word}"
    if high - low < 1e-6:  # the formula knows no spread here, however few the rows
        interval = "no interval: they agree everywhere" if value > 0.5 else "no interval: one said the same everywhere"
    return f"{value:>8.2f}   {interval}"


def disagreements(one: Sheet, other: Sheet, common: list[str]) -> list[str]:
    """The first rows to talk about."""
    found = []
    for row in common:
        split = [name for name in QUESTIONS if {one[row][name], other[row][name]} == {True, False}]
        if split:
            text = one[row].get("instruction", "").removeprefix("'")
            found.append(f"  {row}  {', '.join(split)}: {one_line(text, 60)}")
    return [f"they differ on {len(found)} rows, of which the first:", *found[:10]] if found else []


def score_command(options: argparse.Namespace, _: Config) -> None:
    sheets = [read_sheet(path) for path in options.sheets]
    parts = [results(path, sheet) for path, sheet in zip(options.sheets, sheets, strict=True)]
    if len(sheets) == 2:
        parts.append(agreement(*sheets, options.sheets))
    print("\n\n".join(parts))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    sample = commands.add_parser("sample", help="draw rows and write the sheets to fill in")
    default = Path(Config.work_dir) / workshop.STEP_FILES[3]
    sample.add_argument("--data", type=Path, default=default, help="the dataset [data/workshop/step4_final.jsonl]")
    sample.add_argument("--num", type=int, default=200, help="instructions to draw (paper: 200) [200]")
    sample.add_argument("--seed", type=int, default=42, help="random seed: which rows are drawn [42]")
    sample.add_argument("--out", type=Path, default=Path("review"), help="name of the sheets, without ending [review]")
    sample.add_argument("--format", choices=("csv", "html", "both"), default="both", help="[both]")
    sample.add_argument("--language", choices=tuple(WORDS), default="en", help="language of the questions [en]")
    sample.set_defaults(command=sample_command)
    score = commands.add_parser("score", help="read one or two filled sheets")
    score.add_argument("sheets", nargs="+", type=Path, metavar="SHEET", help="a filled CSV; two: agreement as well")
    score.set_defaults(command=score_command)
    options = parser.parse_args(arguments)
    if len(getattr(options, "sheets", [])) > 2:
        parser.error("score takes one sheet or two")
    return workshop.main(None, partial(options.command, options))


if __name__ == "__main__":
    sys.exit(main())
