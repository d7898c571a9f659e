"""Have people judge a sample of a dataset, as the paper did, and put their figures beside the
paper's.

    python scripts/review.py sample
                    a second; writes review.csv and review.html: fill in one of them
    python scripts/review.py score review-ana.csv
                    a second; the shares of yes, beside the paper's
    python scripts/review.py score review-ana.csv review-bo.csv
                    how far two people agree, too
    python scripts/review.py score review-ana.csv data/workshop/judged.jsonl
                    how far a judge of scripts/judge.py agrees with a person
    python scripts/review.py pairs --data data/workshop/step5_rewritten.jsonl
                    two answers side by side: which is better? Then `score`, as above

Section 3.3 of the paper: 200 instructions, one instance of each, three questions. The sample here
is in proportion to its kinds: classification or not, with or without input. Which tasks are
classification is read from step2 or step3 beside the data.

The HTML sheet needs no server; both sheets give the same CSV. In it, a text that a spreadsheet
would take for a formula begins with an apostrophe, and so does a text that began with one. The
same holds for what follows a semicolon or a line break, where other programs begin a cell.
"""

from __future__ import annotations

import argparse
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
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from hashlib import sha256
from pathlib import Path
from statistics import NormalDist
from string import Template
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import self_instruct_workshop as workshop
from scripts.asking.parser import Parser
from scripts.pages.frame import allowed, as_data
from scripts.reading import records as reading
from scripts.reading.records import value_or_none
from scripts.reading.rows import rows_of
from self_instruct_workshop import Config, UsageError, WorkshopError, one_line

# The paper's shares of yes in % of 200 instructions, table 2. The first three are the questions.
PAPER = {"valid_task": 92, "input_fits": 79, "output_right": 58, "all three": 54}
QUESTIONS = tuple(PAPER)[:3]
TEXTS = ("instruction", "input", "output")
UNKNOWN = "classification unknown"

# How a cell begins that a spreadsheet may run, or that looks as if it had been made harmless.
FORMULA = r"^\s*[=+\-@＝＋－＠']|^[\t\r\n]"

# Where a new cell begins for a spreadsheet that takes another separator, and may run it. To such
# a program the quotes around a cell are text, so a cell ends at the end of each line, too.
HIDDEN_FORMULA = r"""([;|\t\r\n])(?=(?:[^\S\r\n]|")*[=+\-@＝＋－＠'])"""

YES = ("yes", "y", "1", "true", "是", "对")
NO = ("no", "n", "0", "false", "否", "错")
ANSWERS = dict.fromkeys(YES, True) | dict.fromkeys(NO, False) | {"": None}

# A kappa above the number has this name (Landis and Koch, 1977).
AGREEMENT = {
    0: "slight",
    0.2: "fair",
    0.4: "moderate",
    0.6: "substantial",
    0.8: "almost perfect",
}
KAPPA = (
    "kappa is agreement beyond chance: 1 is full, "
    "0 is what dice with the same shares of answers would reach"
)
KAPPA_LIMITS = (
    "(words by Landis and Koch, 1977). "
    "Where nearly all answers are the same it says little: see `same`."
)
Z = NormalDist().inv_cdf(0.975)  # 1.96, for intervals of 95 %

PARTS = Path(__file__).resolve().parent / "reviewing"  # the sheet and its words, by language
WORDS = json.loads((PARTS / "words.json").read_text(encoding="utf-8"))

Words = dict[str, str]  # part of the sheet -> what it says
Pairs = list[tuple[Any, Any]]  # the answers of two people to one question
Interval = tuple[float, float]

# --------------------------------------------------------------------------------------------------
# sample: read the dataset.


def read_rows(path: Path) -> list[dict]:
    """The rows of a dataset, each with its id and its kind.

    It may have any shape that prepare_for_finetuning.py reads or writes. Raises WorkshopError
    where the file cannot be read, or a record in it is no row.
    """
    # A talk that is no row cannot be reviewed: it is counted.
    found = []
    for place, record in reading.records(path, "run self_instruct.py, or give --data"):
        found += rows_of(f"{path}, {place}", record, verbatim=True)
    left_out = Counter(row["rule"] for row in found if "rule" in row)
    if left_out:
        reasons = ", ".join(f"{rule} {count}" for rule, count in left_out.items())
        workshop.tell(f"notice: {path}: {left_out.total()} talks are left out ({reasons})")
    rows = [to_review(row) for row in found if "rule" not in row]
    if not rows:
        raise WorkshopError(f"{path} holds no row: there is nothing to review")

    # Its kind, as far as it is known: "classification, with input".
    labels = classification(path.parent)
    for row in rows:
        label = labels.get(row["instruction"], UNKNOWN) if labels else ""
        given = "with input" if row["input"].strip() else "no input"
        row["kind"] = f"{label}, {given}" if label else given
    return rows


def to_review(row: dict) -> dict:
    """The texts of a row, with its id. What was said before stands above the instruction."""
    # Of a talk, people must see all of it.
    before = [("system", row["system"])] if "system" in row else []
    for asked, said in row.get("history", []):
        before += [("user", asked), ("assistant", said)]
    instruction = row["instruction"]
    if before:
        turns = [*before, ("user", instruction)]
        instruction = "\n\n".join(f"{role}: {text}" for role, text in turns)
    texts = [instruction, row["input"], row["output"]]

    # The id begins with a letter: a spreadsheet would read 12e4 as a number.
    digest = sha256(json.dumps(texts).encode()).hexdigest()[:12]
    return {"id": "r" + digest, **dict(zip(TEXTS, texts, strict=True))}


def classification(folder: Path) -> dict[str, str]:
    """What stage 2 said of each instruction, from the step files beside the data.

    Nothing where there are none. A file is read up to its first damaged line.
    """
    # Step 2 wins where both know an instruction: it alone tells what could not be read.
    names = {True: "classification", False: "not classification"}
    found = {}
    for name in workshop.STEP_FILES[1:3]:
        for line in step_lines(folder / name):
            row = value_or_none(line)
            if not (isinstance(row, dict) and {"instruction", "is_classification"} <= row.keys()):
                break
            flag = row["is_classification"]
            kind = names[flag] if isinstance(flag, bool) else UNKNOWN
            found.setdefault(row["instruction"], kind)
    return found


def step_lines(path: Path) -> list[str]:
    """The lines of a step file; none where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8").strip().split("\n")
    except (OSError, UnicodeDecodeError):
        return []


# --------------------------------------------------------------------------------------------------
# sample: draw rows.


def draw(rows: list[dict], number: int, seed: int) -> tuple[list[dict], Counter]:
    """A sample in random order, one instance of an instruction, and the size of each kind.

    The size of a kind is the number of its instructions in the whole dataset.
    """
    # Of each instruction, choose one instance.
    generator = random.Random(seed)
    instances = defaultdict(list)
    for row in rows:
        instances[row["instruction"]].append(row)
    chosen = [generator.choice(group) for group in instances.values()]

    # Sort them by kind.
    kinds = defaultdict(list)
    for row in chosen:
        kinds[row["kind"]].append(row)
    sizes = Counter({kind: len(kinds[kind]) for kind in sorted(kinds)})

    # Draw from each kind, and mix.
    sample = []
    for kind, count in shares(sizes, number).items():
        sample += generator.sample(kinds[kind], count)
    generator.shuffle(sample)
    return sample, sizes


def shares(sizes: dict[str, int], number: int) -> dict[str, int]:
    """How many to draw of each kind: in proportion to the sizes.

    Of each kind at least one is drawn, where the number allows.
    """
    # Begin with the whole part of each share.
    total = sum(sizes.values())
    number = min(number, total)
    least = 1 if number >= len(sizes) else 0
    drawn = {kind: max(least, number * size // total) for kind, size in sizes.items()}

    def too_many(kind: str) -> float:
        return drawn[kind] - number * sizes[kind] / total

    # Where some are missing, the kind that got too few takes one more; and the other way round.
    while sum(drawn.values()) < number:
        drawn[min(drawn, key=too_many)] += 1
    while sum(drawn.values()) > number:
        spare = [kind for kind in drawn if drawn[kind] > least]
        drawn[max(spare, key=too_many)] -= 1
    return drawn


# --------------------------------------------------------------------------------------------------
# sample: the sheets.


def csv_line(cells: list[str]) -> str:
    """A line of CSV, in which no cell is a formula, whatever separates the cells."""
    safe = ["'" + cell if re.match(FORMULA, cell) else cell for cell in cells]
    safe = [re.sub(HIDDEN_FORMULA, r"\1'", cell) for cell in safe]
    buffer = io.StringIO(newline="")
    csv.writer(buffer).writerow(safe)
    return buffer.getvalue().removesuffix("\r\n")


def header(words: Words) -> str:
    """The names of the columns; `score` reads what stands before the colon."""
    choice = f"({words['yes']}/{words['no']})"
    asked = [f"{question}: {words[question]} {choice}" for question in QUESTIONS]
    return csv_line(["id", "kind", *TEXTS, *asked, f"notes: {words['notes']}"])


def csv_start(row: dict) -> str:
    """A row's line up to the answers."""
    return csv_line([row["id"], row["kind"], *(row[name] for name in TEXTS)])


def csv_sheet(sample: list[dict], words: Words) -> list[str]:
    """The lines of the sheet; Excel takes it for UTF-8 by the mark at its start."""
    rows = [f"{csv_start(row)},,,,\r\n" for row in sample]
    return ["\ufeff" + header(words) + "\r\n", *rows]


def html_sheet(sample: list[dict], words: Words, name: str) -> str:
    """The sheet as a page. What is filled in there can be saved as `name`.csv."""
    total = len(sample)
    cards = [card(row, f"{n} / {total}", words) for n, row in enumerate(sample, 1)]
    sheet = {
        "file": name,
        "questions": QUESTIONS,
        "keys": {"y": "yes", "n": "no"},
        "header": header(words),
        "rows": [(row["id"], csv_start(row)) for row in sample],
    }
    return html_page(sheet, cards, words)


def html_page(sheet: dict, cards: list[str], words: Words) -> str:
    """A page with a card for each row, which runs nothing but its own script.

    `sheet` says what the script must know: its rows, questions, and the keys that answer them.
    """
    # The browser keeps the answers under the key, so another sample needs another one.
    ids = "".join(row_id for row_id, _ in sheet["rows"])
    sheet = {
        "key": "review-" + sha256(ids.encode()).hexdigest()[:12],
        "formula": FORMULA,
        **sheet,
        "words": {part: words[part] for part in ("status", "kept", "lost", "sure")},
    }
    template = (PARTS / "sheet.html").read_text(encoding="utf-8")
    return Template(template).substitute(
        words,
        script_hash=content_hash(template, "script"),
        style_hash=content_hash(template, "style"),
        cards="\n".join(cards),
        sheet=as_data(sheet),
    )


def card(row: dict, place: str, words: Words) -> str:
    """One task and its questions as HTML; what the model wrote is text, never markup."""
    # The task.
    parts = [f'<article id="{row["id"]}"><h2>{place}</h2>']
    for name in TEXTS:
        parts.append(shown_text(words[name], row[name], words))

    # The questions, and a place for notes.
    choices = {"yes": words["yes"], "no": words["no"]}
    for question in QUESTIONS:
        parts.append(question_buttons(row["id"], question, words, choices))
    parts.append(notes_field(row["id"], words))
    return "\n".join(parts)


def shown_text(title: str, text: str, words: Words) -> str:
    """A text under its title."""
    is_empty = not text.strip()
    kind = "none" if is_empty else "text"
    shown = html.escape(words["none"] if is_empty else text)
    return f'<h3>{title}</h3><p class="{kind}" dir="auto">{shown}</p>'


def question_buttons(row_id: str, question: str, words: Words, choices: dict[str, str]) -> str:
    """A question with a button for each choice: what the sheet says of it -> what is shown."""
    name = f'type="radio" name="{row_id}.{question}"'
    buttons = ""
    for value, shown in choices.items():
        buttons += f'<label><input {name} value="{value}">{shown}</label>'
    return f"<fieldset><legend>{words[question]}</legend>{buttons}</fieldset>"


def notes_field(row_id: str, words: Words) -> str:
    """A place for notes, and the end of a card."""
    notes = f'<textarea name="{row_id}.notes" rows="1"></textarea>'
    return f'<label class="notes">{words["notes"]}{notes}</label></article>'


def content_hash(template: str, tag: str) -> str:
    """What the Content-Security-Policy says of the one script, or style, that may act."""
    content = re.search(rf"<{tag}>(.*?)</{tag}>", template, re.S)[1]
    return allowed(content)


def sample_command(options: argparse.Namespace, _: Config) -> None:
    """Draw rows, write the sheets, and say what was drawn."""
    if options.num < 1:
        raise UsageError(f"--num must be at least 1, not {options.num}")
    paths = sheet_paths(options.out, options.format)
    rows = read_rows(options.data)
    sample, sizes = draw(rows, options.num, options.seed)
    write_sheets(paths, sample, WORDS[options.language])

    # Each kind: how many were drawn, and how many there are.
    say = partial(workshop.spoken, language=options.language)
    drawn = Counter(row["kind"] for row in sample)
    print(say(f"{len(sample)} of {sizes.total()} instructions, one instance of each"))
    for kind, size in sizes.items():
        name = say(kind)
        space = " " * (36 - workshop.columns(name))
        print(f"  {name}{space}{drawn[kind]:>6}{say(' of ')}{size:>6}")

    # What is missing, and what comes next.
    if len(sample) < options.num:
        told = f"notice: {options.num} were asked for, and there are no more"
        workshop.tell(told, options.language)
    written = ", ".join(map(str, paths.values()))
    command = workshop.program_command("scripts/review.py", "score", "FILLED.csv")
    print(say(f"written: {written}; fill in one, then: {command}"))


def sheet_paths(out: Path, form: str) -> dict[str, Path]:
    """The files to write, by format. Raises WorkshopError where one is there already."""
    # `out` may have the ending of a sheet, or none.
    formats = ("csv", "html") if form == "both" else (form,)
    stem = out.with_suffix("") if out.suffix in (".csv", ".html") else out
    paths = {kind: Path(f"{stem}.{kind}") for kind in formats}
    for path in paths.values():
        if path.exists():
            problem = f"{path} is there already, maybe filled in"
            raise WorkshopError(f"{problem}: move it away, or give another --out")
    return paths


def write_sheets(paths: dict[str, Path], sample: list[dict], words: Words) -> None:
    """Write each sheet. Raises WorkshopError where that is not possible."""
    texts = {}
    for kind, path in paths.items():
        texts[path] = csv_sheet(sample, words)
        if kind == "html":
            texts[path] = [html_sheet(sample, words, path.name.removesuffix(".html"))]
    write_texts(texts)


def write_texts(texts: dict[Path, list[str]]) -> None:
    """Write the lines of each file. Raises WorkshopError where that is not possible."""
    # Each sheet is written whole, so that a full disk leaves no half one.
    for path, lines in texts.items():
        try:
            workshop.write_whole(path, lines)
        except OSError as error:
            problem = f"cannot write {path} ({error.strerror})"
            raise WorkshopError(f"{problem}: give another --out") from None


# --------------------------------------------------------------------------------------------------
# score: read filled sheets.

# id -> the row: its cells, and its answers and `all three` as True, False, or None where open
Sheet = dict[str, dict]


def read_sheet(path: Path) -> Sheet:
    """The answers of a sheet, as a spreadsheet program may have saved it.

    Raises WorkshopError where the sheet cannot be read, or holds no answer.
    """
    # A sheet that nobody has filled in says nothing.
    sheet = sheet_rows(path, csv_lines(path))
    if all(said is None for said in all_answers(sheet)):
        raise WorkshopError(f"{path} has no answer yet: fill it in, with yes or no")
    return sheet


def csv_lines(path: Path) -> Iterator[list[str]]:
    """The cells of each line. Raises WorkshopError where the sheet cannot be read."""
    # Programs separate cells by a comma, a semicolon or a tab: the first line tells.
    text = sheet_text(path)
    first = re.split(r"[\r\n]", text, maxsplit=1)[0]
    delimiter = max(",;\t", key=first.count)
    csv.field_size_limit(2**31 - 1)  # bytes; the default ends at 131,072
    try:
        yield from csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    except csv.Error as error:
        problem = f"{path} is no CSV that can be read ({error})"
        raise WorkshopError(f"{problem}: save it as CSV UTF-8") from None


def column_names(cells: list[str]) -> list[str]:
    """The names of the columns, which stand before a colon."""
    return [cell.split(":")[0].strip().casefold() for cell in cells]


def sheet_text(path: Path) -> str:
    """The text of a sheet. Raises WorkshopError where it cannot be read."""
    try:
        data = path.read_bytes()
    except OSError as error:
        problem = f"cannot read {path} ({error.strerror})"
        raise WorkshopError(f"{problem}: give a filled CSV sheet") from None
    if data.startswith(b"PK"):
        raise WorkshopError(f"{path} is a workbook: save it as CSV UTF-8")

    # Older Excel writes in the system's encoding, mostly GBK where answers are not ASCII.
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("gb18030", "replace")


def sheet_rows(path: Path, lines: Iterable[list[str]]) -> Sheet:
    """The rows of a sheet by id. Raises WorkshopError at the first row that is wrong."""
    rows = rows_with_id(path, lines, QUESTIONS, "sample")
    return {row_id: row | row_answers(row, where) for where, row_id, row in rows}


def rows_with_id(
    path: Path, lines: Iterable[list[str]], columns: Iterable[str], command: str
) -> Iterator[tuple[str, str, dict[str, str]]]:
    """(where it stands, its id, its cells by column) of each row of a sheet that `command` made.

    Raises WorkshopError where a column is missing, or an id is wrong.
    """
    # The first line has the names of the columns.
    lines = iter(lines)
    names = column_names(next(lines, []))
    missing = [name for name in ("id", *columns) if name not in names]
    if missing:
        problem = f"{path} has no column {missing[0]}"
        raise WorkshopError(f"{problem}: give a sheet that `{command}` made")

    # A line may be shorter than the first one, or empty.
    known: set[str] = set()
    for number, cells in enumerate(lines, 2):
        if any(cells):
            row = dict(zip(names, cells, strict=False))
            where = f"{path}, row {number}"
            row_id = checked_id(row.get("id", "").strip(), known, where)
            known.add(row_id)
            yield where, row_id, row


def checked_id(row_id: str, known: set[str], where: str) -> str:
    """The id itself. Raises WorkshopError where it is empty, or one of those that are known."""
    if not row_id:
        raise WorkshopError(f"{where}, column id: there is no id: take that row out")
    if row_id in known:
        problem = f"the id {one_line(row_id)!r} stands twice"
        raise WorkshopError(f"{where}, column id: {problem}: take that row out")
    return row_id


def row_answers(row: dict[str, str], where: str) -> dict[str, bool | None]:
    """The answers of a row, and `all three`."""
    said = {}
    for name in QUESTIONS:
        said[name] = answer(row.get(name, ""), f"{where}, column {name}")
    return with_all_three(said)


def all_answers(sheet: Sheet) -> list[bool | None]:
    """The answers of all rows to all questions."""
    answers = []
    for row in sheet.values():
        answers += [row[name] for name in QUESTIONS]
    return answers


def answer(cell: str, where: str) -> bool | None:
    """Yes, no or nothing. Raises WorkshopError for anything else."""
    said = unicodedata.normalize("NFKC", cell).strip().casefold()
    if said not in ANSWERS:
        problem = f"{one_line(cell, 40)!r} is neither yes nor no"
        raise WorkshopError(f"{where}: {problem}: write yes, no, or nothing")
    return ANSWERS[said]


# --------------------------------------------------------------------------------------------------
# score: a judge as a rater.


def is_judge(path: Path) -> bool:
    """Whether this is a file of scripts/judge.py; all other files are sheets of people."""
    return path.suffix.casefold() == ".jsonl"


def read_rater(path: Path) -> Sheet:
    """The answers of a person or of a judge. Raises WorkshopError."""
    return read_judged(path) if is_judge(path) else read_sheet(path)


def read_judged(path: Path) -> Sheet:
    """The answers of a judge, as judge.py wrote them; None where an answer could not be read.

    Raises WorkshopError where the file cannot be read, or is another one.
    """
    # A row that stands in a dataset twice has one id, and the same answers.
    sheet: Sheet = {}
    for place, record in reading.records(path, "give the judged.jsonl of judge.py"):
        if not is_judged(record):
            problem = f"{path}, {place} is no row that a judge has answered"
            raise WorkshopError(f"{problem}: give the judged.jsonl of scripts/judge.py")
        sheet.setdefault(record["id"], record | with_all_three(record))

    # A judge without an answer says nothing.
    if all(said is None for said in all_answers(sheet)):
        raise WorkshopError(f"{path} has no answer that can be read: take another judge")
    return sheet


def is_judged(record: Any) -> bool:
    """Whether this is a row of judged.jsonl: an id, and yes, no or null to each question."""
    if not isinstance(record, dict) or not isinstance(record.get("id"), str):
        return False
    return all(isinstance(record.get(name, ""), bool | None) for name in QUESTIONS)


def with_all_three(said: dict[str, bool | None]) -> dict[str, bool | None]:
    """The three answers and `all three`: open where one answer is, even beside a no."""
    answers = {name: said[name] for name in QUESTIONS}
    is_open = None in answers.values()
    return answers | {"all three": None if is_open else all(answers.values())}


def both_answers(one: Sheet, other: Sheet, name: str) -> Pairs:
    """What both said to a question, of the rows that both have answered."""
    pairs = [(one[row][name], other[row][name]) for row in one if row in other]
    return [pair for pair in pairs if None not in pair]


def found_by_judge(person: Sheet, judge: Sheet, paths: list[Path], say: Say = str) -> str:
    """How far a judge finds what a person found: its no and its yes, question by question."""
    share = right(say("share"), 9) + "   " + left(say("95 % interval"), 18)
    lines = [say(f"{one_line(str(paths[1]), 40)} beside {one_line(str(paths[0]), 40)}")]
    for name in PAPER:
        lines += ["", f"{title_of(name, say)}{'':>11}{share}"]
        for side, word in ((False, "no"), (True, "yes")):
            lines += side_lines(both_answers(person, judge, name), side, word, say)
    return "\n".join(lines)


def side_lines(pairs: Pairs, side: bool, word: str, say: Say) -> list[str]:
    """Precision and recall of the judge's no, or of its yes. A pair is (person, judge)."""
    same = pairs.count((side, side))
    judge = sum(said == side for _, said in pairs)
    person = sum(said == side for said, _ in pairs)
    return [
        share_line(f"  precision: of the judge's {word}, also the person's", same, judge, say),
        share_line(f"  recall: of the person's {word}, also the judge's", same, person, say),
    ]


def share_line(title: str, part: int, whole: int, say: Say) -> str:
    """A part of a whole with its interval; a dash where there is nothing to divide."""
    counts = left(say(title), 50) + right(f"{part:>4}{say(' of ')}{whole:>3}", 11)
    if not whole:
        return f"{counts}{'-':>9}"
    low, high = wilson(part, whole)
    return f"{counts}{percent(part / whole):>9}   {say(f'{percent(low)} to {percent(high)}')}"


# --------------------------------------------------------------------------------------------------
# score: shares of yes, with their intervals. `say` makes English words those of the screen.

Say = Callable[[str], str]


def left(text: str, width: int) -> str:
    """The text with blanks behind it; a Chinese character takes two columns."""
    return text + " " * (width - workshop.columns(text))


def right(text: str, width: int) -> str:
    """The text with blanks before it."""
    return " " * (width - workshop.columns(text)) + text


def title_of(name: str, say: Say) -> str:
    """A question in words, 50 columns wide."""
    return left(say(WORDS["en"].get(name, name)), 50)


def results(path: Path, sheet: Sheet, say: Say) -> str:
    """The shares of yes of one sheet, and below them those of each kind of task."""
    # A line for each question, and one for all three.
    heads = right(say("yes"), 6) + right(say("rated"), 7) + right(say("share"), 9)
    interval = left(say("95 % interval"), 18)
    lines = [
        say(f"{path}: {len(sheet)} rows"),
        f"{'':<50}{heads}   {interval}{say('paper')}",
    ]
    for name in PAPER:
        lines.append(result_line(name, [row[name] for row in sheet.values()], say))

    # How much is open.
    blank = all_answers(sheet).count(None)
    if blank:
        open_rows = "`all three` counts rows where nothing is open"
        lines.append(say(f"not rated: {blank} of {3 * len(sheet)} answers; {open_rows}"))

    # The kinds, where there are several.
    kinds = defaultdict(list)
    for row in sheet.values():
        kinds[row.get("kind", "")].append(row)
    if len(kinds) > 1:
        names = "".join(right(say(name), 14) for name in PAPER)
        lines += ["", left(say("share of yes"), 36) + right(say("rows"), 6) + names]
        lines += [kind_line(kind, kinds[kind], say) for kind in sorted(kinds)]
    return "\n".join(lines)


def result_line(name: str, answers: list[bool | None], say: Say) -> str:
    """The share of yes among the answers to a question, beside the paper's."""
    # Where nobody has answered, there is no share.
    yes = answers.count(True)
    rated = len(answers) - answers.count(None)
    shown = f"{'':<30}"
    if rated:
        low, high = wilson(yes, rated)
        interval = left(say(f"{percent(low)} to {percent(high)}"), 18)
        shown = f"{percent(yes / rated):>9}   {interval}"
    return f"{title_of(name, say)}{yes:>6}{rated:>7}{shown}{PAPER[name]:>3} %"


def wilson(yes: int, n: int) -> Interval:
    """The 95 % interval of a share by Wilson's score.

    It holds for few answers too, and for shares near 0 and 1.
    """
    middle = yes / n + Z * Z / (2 * n)
    width = Z * math.sqrt(yes * (n - yes) / n**3 + Z * Z / (4 * n * n))
    scale = 1 + Z * Z / n
    return max(0.0, (middle - width) / scale), min(1.0, (middle + width) / scale)


def percent(share: float) -> str:
    """A share with one decimal: "12.5 %"."""
    return f"{100 * share:.1f} %"


def kind_line(kind: str, rows: list[dict], say: Say) -> str:
    """The shares of yes among the rows of one kind, question by question."""
    cells = ""
    for name in PAPER:
        said = [row[name] for row in rows if row[name] is not None]
        cell = percent(sum(said) / len(said)) if said else "-"
        cells += f"{cell:>14}"
    return f"{left(say(one_line(kind, 34)), 36)}{len(rows):>6}{cells}"


# --------------------------------------------------------------------------------------------------
# score: how far two people agree.


def agreement(one: Sheet, other: Sheet, paths: list[Path], say: Say = str) -> str:
    """How far two people agree on each question, and the rows to talk about.

    Raises WorkshopError where the sheets have no row in common.
    """
    common = [row for row in one if row in other]
    if not common:
        problem = f"{paths[0]} and {paths[1]} have no row in common"
        raise WorkshopError(f"{problem}: give two sheets of one sample")

    # A line for each question, and one for all three.
    title = left(say(f"agreement on {len(common)} rows"), 44)
    heads = right(say("both rated"), 12) + right(say("same"), 9) + f"{'kappa':>8}"
    lines = [f"{title}{heads}   {say('95 % interval')}"]
    for name in PAPER:
        lines.append(agreement_line(name, both_answers(one, other, name), say))
    lines += [say(KAPPA), say(KAPPA_LIMITS)]

    # Rows that one of them has alone, and rows on which they differ.
    lines += alone(paths[0], one, other, say)
    lines += alone(paths[1], other, one, say)
    lines += disagreements(one, other, common, say)
    return "\n".join(lines)


def agreement_line(name: str, pairs: Pairs, say: Say = str) -> str:
    """How often two people gave the same answer to a question, and kappa."""
    same = "-"
    if pairs:
        same = percent(sum(mine == theirs for mine, theirs in pairs) / len(pairs))
    return f"{title_of(name, say)}{len(pairs):>6}{same:>9}{kappa_cells(pairs, say)}"


def kappa_cells(pairs: Pairs, say: Say = str) -> str:
    """Kappa, its interval and its name as cells of the table."""
    if not pairs:
        return ""
    found = kappa(pairs)
    if not found:
        side = {True: "yes", False: "no"}.get(pairs[0][0], pairs[0][0])
        return f"{'-':>8}   {say(f'undefined: both said {side} everywhere')}"

    # The formula gives no interval where the answers do not spread, however few they are.
    value, low, high = found
    interval = f"{low:.2f} to {high:.2f}, {kappa_name(value)}"
    if high - low < 1e-6:
        reason = "they agree everywhere" if value > 0.5 else "one said the same everywhere"
        interval = f"no interval: {reason}"
    return f"{value:>8.2f}   {say(interval)}"


def kappa_name(value: float) -> str:
    """What Landis and Koch call a kappa of this size."""
    name = "none beyond chance"
    for limit, word in AGREEMENT.items():
        if value > limit:
            name = word
    return name


def kappa(pairs: Pairs) -> tuple[float, float, float] | None:
    """Cohen's kappa and the two ends of its 95 % interval (Fleiss, Cohen and Everitt, 1969).

    None where it is undefined, because both gave one and the same answer everywhere.
    """
    # How often each of them gave each answer.
    n = len(pairs)
    cells = Counter(pairs)
    first = shares_of([one for one, _ in pairs])
    second = shares_of([other for _, other in pairs])

    # How often they gave the same answer, and how often dice would.
    same = sum(times for (one, other), times in cells.items() if one == other) / n
    chance = sum(first[answer] * second[answer] for answer in first)
    if chance == 1:
        return None
    value = (same - chance) / (1 - chance)

    # The standard error: how far each cell of the table moves kappa.
    spread = 0.0
    for (one, other), times in cells.items():
        off = (1 - value) * (second[one] + first[other])
        spread += times / n * ((1 - off) ** 2 if one == other else off**2)
    variance = max(0.0, spread - (value - chance * (1 - value)) ** 2) / n
    error = math.sqrt(variance) / (1 - chance)
    return value, max(-1.0, value - Z * error), min(1.0, value + Z * error)


def shares_of(answers: list) -> Counter:
    """The share of each answer, yes and no or others; 0 for one that nobody gave."""
    return Counter({side: answers.count(side) / len(answers) for side in answers})


def alone(path: Path, mine: Sheet, theirs: Sheet, say: Say) -> list[str]:
    """A line about the rows that only this sheet has, if there are any."""
    rows = [row for row in mine if row not in theirs]
    if not rows:
        return []
    return [say(f"rows only in {path}: {len(rows)}, {one_line(', '.join(rows), 200)}")]


def disagreements(one: Sheet, other: Sheet, common: list[str], say: Say) -> list[str]:
    """The first rows to talk about: one said yes, and the other no."""
    # An answer that is open disagrees with nothing.
    found = []
    for row in common:
        split = [name for name in QUESTIONS if {one[row][name], other[row][name]} == {True, False}]
        if split:
            text = one[row].get("instruction", "").removeprefix("'")
            found.append(f"  {row}  {', '.join(split)}: {one_line(text, 60)}")
    if not found:
        return []
    return [say(f"they differ on {len(found)} rows, of which the first:"), *found[:10]]


def score_command(options: argparse.Namespace, _: Config) -> None:
    """Print the results of each sheet, and of two sheets how far they agree.

    Of a person and a judge, say how far the judge finds what the person found, too.
    """
    say = partial(workshop.spoken, language=options.language)
    if pairs_part().is_pair_sheet(options.sheets[0]):
        workshop.show(pairs_part().score(options.sheets, options.key, say))
        return
    paths = sorted(options.sheets, key=is_judge)  # the person first
    sheets = [read_rater(path) for path in paths]
    parts = [results(path, sheet, say) for path, sheet in zip(paths, sheets, strict=True)]
    if len(sheets) == 2:
        parts.append(agreement(*sheets, paths, say))
    if [is_judge(path) for path in paths] == [False, True]:
        parts.append(found_by_judge(*sheets, paths, say))
    workshop.show("\n\n".join(parts))


# --------------------------------------------------------------------------------------------------
# pairs: two answers to one task.


def pairs_part() -> Any:
    """scripts/reviewing/pairs.py, which stands on this file: so it is imported when it is used."""
    from scripts.reviewing import pairs

    return pairs


def pairs_command(options: argparse.Namespace, _: Config) -> None:
    """Draw rows that were rewritten, and write the sheets and the key."""
    if options.num < 1:
        raise UsageError(f"--num must be at least 1, not {options.num}")
    part = pairs_part()
    paths = part.paths_of(options.out, options.format)
    found = part.pairs_of(options.data, options.num, options.seed)
    part.write(paths, found, WORDS[options.language])
    say = partial(workshop.spoken, language=options.language)
    print(part.what_was_written(paths, found, say))


# --------------------------------------------------------------------------------------------------
# The program.


def command_line() -> argparse.ArgumentParser:
    """The three commands and their flags."""
    parser = Parser(description=(__doc__ or "").split("\n\n")[0])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    sample = commands.add_parser("sample", help="draw rows and write the sheets to fill in")
    sample.set_defaults(command=sample_command)
    add_sample_flags(sample)

    # One sheet, or two.
    score = commands.add_parser("score", help="read one or two filled sheets, or a judge's file")
    score.set_defaults(command=score_command)
    sheets = "a filled CSV, or a judge's judged.jsonl; two: agreement as well"
    score.add_argument("sheets", nargs="+", type=Path, metavar="SHEET", help=sheets)
    score.add_argument("--key", type=Path, help="who wrote what, for pairs [beside the sheet]")
    languages = tuple(WORDS)
    score.add_argument(
        "--language", choices=languages, default="", help="of what is printed [the terminal's]"
    )

    # Two answers side by side.
    pairs = commands.add_parser(
        "pairs", help="write sheets that ask which of two answers is better"
    )
    pairs.set_defaults(command=pairs_command)
    data = Path(Config.work_dir) / "step5_rewritten.jsonl"
    data_help = "what scripts/rewrite.py wrote [data/workshop/step5_rewritten.jsonl]"
    pairs.add_argument("--data", type=Path, default=data, help=data_help)
    add_sheet_flags(pairs, 50, "pairs")
    return parser


def add_sample_flags(parser: argparse.ArgumentParser) -> None:
    """What is drawn, and which sheets are written."""
    data = Path(Config.work_dir) / workshop.STEP_FILES[3]
    data_help = "the dataset [data/workshop/step4_final.jsonl]"
    parser.add_argument("--data", type=Path, default=data, help=data_help)
    add_sheet_flags(parser, 200, "review", " (paper: 200)")


def add_sheet_flags(parser: argparse.ArgumentParser, number: int, name: str, why: str = "") -> None:
    """How many rows are drawn, and which sheets are written."""
    # The defaults stand in the help texts, in square brackets.
    num_help = f"instructions to draw{why} [{number}]"
    out_help = f"name of the sheets, without ending [{name}]"
    language_help = "language of the questions [en]"
    languages = tuple(WORDS)
    add = parser.add_argument
    add("--num", type=int, default=number, help=num_help)
    add("--seed", type=int, default=42, help="random seed: which rows are drawn [42]")
    add("--out", type=Path, default=Path(name), help=out_help)
    add("--format", choices=("csv", "html", "both"), default="both", help="[both]")
    add("--language", choices=languages, default="en", help=language_help)


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit code."""
    parser = command_line()
    options = parser.parse_args(arguments)
    if len(getattr(options, "sheets", [])) > 2:
        parser.error("score takes one sheet or two")
    return workshop.main(None, partial(options.command, options), options.language)


if __name__ == "__main__":
    sys.exit(main())
