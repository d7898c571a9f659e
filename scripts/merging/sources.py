"""What merge_runs.py reads: folders of finished runs, and files of rows."""

from __future__ import annotations

if __name__ == "__main__":  # a part, no program: said before an import fails
    raise SystemExit(
        "sources.py is a part of scripts/merge_runs.py: run  python scripts/merge_runs.py --help"
    )

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

import self_instruct_workshop as workshop
from scripts.overlapping import files
from self_instruct_workshop import COLUMNS, STEP_FILES, UsageError, WorkshopError

DATASET = STEP_FILES[-1]
BEHIND = ("step5_rewritten.jsonl", "step6_judged.jsonl")  # of rewrite.py and judge.py
MUST_AGREE = ("language", "recipe")  # settings that make instructions comparable


@dataclass
class Source:
    """A run's folder, or a file of rows. The rows themselves stay on the disk."""

    name: str  # unique among the sources
    path: Path
    data: Path  # the file with the rows
    summary: dict  # run.json; {} of a file
    digest: str = ""  # SHA-256 of the data
    instructions: list[str] = field(default_factory=list)  # each once, in order
    rows: array = field(default_factory=lambda: array("q"))  # where each row begins in the spool
    owners: array = field(default_factory=lambda: array("q"))  # to which instruction it belongs

    @property
    def is_run(self) -> bool:
        return bool(self.summary)

    @property
    def settings(self) -> dict:
        return self.summary.get("settings", {})


# --------------------------------------------------------------------------------------------------
# Which sources there are, and whether they can be merged.


def named_sources(paths: list[Path]) -> list[Source]:
    """The sources at these paths, not yet read.

    Raises UsageError where one is there twice, and WorkshopError where one is no finished run.
    """
    sources: list[Source] = []
    for path in paths:
        data = path / DATASET if path.is_dir() else path
        for other in sources:
            if workshop.same_file(data, other.data):
                raise UsageError(f"{path} and {other.path} are the same: name it once")
        summary = finished(path) if path.is_dir() else {}
        sources.append(Source(free_name(path, sources), path, data, summary))
    check_agreement(sources)
    return sources


def free_name(path: Path, sources: list[Source]) -> str:
    """The last part of a path; where another source has that, with a number."""
    taken = {source.name for source in sources}
    name = path.resolve().name if path.is_dir() else path.stem
    number = 1
    found = name
    while found in taken:
        number += 1
        found = f"{name}_{number}"
    return found


def finished(folder: Path) -> dict:
    """run.json of a finished run. Raises WorkshopError where there is none in the folder."""
    summary = workshop.earlier_run(folder)
    if not isinstance(summary.get("settings"), dict):
        what = "run.json cannot be read" if (folder / "run.json").exists() else "no run.json"
        advice = f"name the folder of a run, or a file of rows such as {DATASET}"
        raise WorkshopError(f"{folder} is no run ({what}): {advice}")
    if summary.get("status") != "complete" or not (folder / DATASET).is_file():
        status = workshop.one_line(str(summary.get("status")))
        todo = "finish it by the command that began it, or leave it out"
        raise WorkshopError(f"{folder} is not finished (status: {status}): {todo}")
    return summary


def check_agreement(sources: list[Source]) -> None:
    """Raise WorkshopError where two runs differ in what makes their instructions comparable."""
    runs = [source for source in sources if source.is_run]
    for name in MUST_AGREE:
        first = runs[0].settings.get(name) if runs else None
        for source in runs:
            if source.settings.get(name) != first:
                other = source.settings.get(name)
                values = f"{runs[0].path}: {first}, {source.path}: {other}"
                todo = f"merge each {name} by itself, or name a {DATASET} instead of its folder"
                raise WorkshopError(f"the runs differ in {name} ({values}): {todo}")
    recipe = runs[0].settings.get("recipe") if runs else "modern"
    if recipe not in workshop.RECIPES:
        known = ", ".join(workshop.RECIPES)
        raise WorkshopError(f"{runs[0].path} has the recipe {recipe!r}: known are {known}")


def recipe_of(sources: list[Source]) -> str:
    """The recipe of the runs; files alone are compared as `modern` does it."""
    return next((source.settings["recipe"] for source in sources if source.is_run), "modern")


def threshold_of(sources: list[Source], typed: float | None) -> float:
    """The highest ROUGE-L that is novel: the typed one, else that of the runs.

    Raises UsageError where the runs differ, and none was typed.
    """
    if typed is not None:
        return typed
    known = {
        source.settings["rouge_threshold"]: source
        for source in reversed(sources)
        if isinstance(source.settings.get("rouge_threshold"), (int, float))
    }
    if len(known) > 1:
        values = ", ".join(f"{known[value].path}: {value}" for value in sorted(known))
        raise UsageError(f"the runs differ in their threshold ({values}): give one by --threshold")
    return next(iter(known), workshop.Config.rouge_threshold)


def language_of(sources: list[Source]) -> str:
    """The language of the runs; of files alone, what most of the first letters say."""
    for source in sources:
        if source.is_run:
            return source.settings.get("language", "en")
    letters = [c for source in sources for text in source.instructions[:1000] for c in text]
    letters = [c for c in letters if c.isalpha()]
    chinese = sum("\u4e00" <= c <= "\u9fff" for c in letters)
    return "zh" if chinese > len(letters) / 2 else "en"


# --------------------------------------------------------------------------------------------------
# Reading rows. They are copied to one file, the spool, and found there again by their place.


def read_rows(source: Source, spool: BinaryIO) -> None:
    """Note a source's instructions, and write its rows to the spool.

    Raises WorkshopError where the file cannot be read, or a record in it is no row.
    """
    known: dict[str, int] = {}
    left_out: set[str] = set()
    place = spool.seek(0, 2)
    for where, record in records(source):
        for row in rows_of(source, where, record):
            owner = known.setdefault(row["instruction"], len(known))
            data = workshop.to_json(row).encode("utf-8", "replace")
            spool.write(data)
            source.rows.append(place)
            source.owners.append(owner)
            place += len(data)
        left_out |= {name for name in ("history", "system") if record.get(name)}
    source.instructions = list(known)
    source.digest = digest_of(source.data)
    if left_out:
        names = ", ".join(sorted(left_out))
        workshop.tell(f"notice: {source.path}: no row of the dataset has {names}: left out")


def digest_of(path: Path) -> str:
    """The SHA-256 of a file, read piece by piece."""
    found = sha256()
    with open(path, "rb") as file:
        while piece := file.read(2**20):
            found.update(piece)
    return found.hexdigest()


def records(source: Source) -> Iterator[tuple[str, Any]]:
    """The records of a source with their places. JSON Lines, which may be long, come one by one."""
    if source.data.suffix.lower() == ".jsonl" and source.data.is_file():
        for where, record, _ in lines_of(source.data):
            yield where, record
    else:
        for where, record in files.records(source.data):
            yield f"{source.data}, {where}", record


def lines_of(path: Path) -> Iterator[tuple[str, dict, int]]:
    """The records of a JSON Lines file, each with its place in words and in bytes.

    Raises WorkshopError at a line that is no record.
    """
    start = 0
    with open(path, "rb") as lines:
        for number, line in enumerate(lines, 1):
            where = f"{path}, line {number}"
            if line.strip():
                yield where, record_of(line.removeprefix(b"\xef\xbb\xbf"), where), start
            start += len(line)


def record_of(line: bytes, where: str) -> dict:
    try:
        record = workshop.json_or_none(line.decode("utf-8"))
    except UnicodeDecodeError:
        raise WorkshopError(f"{where} is not UTF-8 text: save the file as UTF-8") from None
    if not isinstance(record, dict):
        raise WorkshopError(f"{where} is damaged: mend it, or leave this source out")
    return record


def rows_of(source: Source, where: str, record: Any) -> Iterator[dict]:
    """The rows of a record: of the Alpaca shape one, of a task one for each instance.

    A run's own rows have exactly three texts. Elsewhere what is null or missing is empty, but an
    instruction and an output must be there.
    """
    if not isinstance(record, dict) or not is_text(record.get("instruction")):
        raise WorkshopError(f"{where} has no instruction: mend it, or leave this source out")
    if source.is_run and not all(isinstance(record.get(name), str) for name in COLUMNS):
        raise WorkshopError(f"{where} is no row of a run: run its command again, or leave it out")
    pairs = record.get("instances", [record])
    for pair in pairs if isinstance(pairs, list) else [None]:
        if not isinstance(pair, dict) or "output" not in pair or not are_texts(pair):
            raise WorkshopError(f"{where} has no output: mend it, or leave this source out")
        row = {"instruction": record["instruction"]}
        yield row | {name: pair.get(name) or "" for name in COLUMNS[1:]}


def is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def are_texts(pair: dict) -> bool:
    return all(isinstance(pair.get(name), (str, type(None))) for name in COLUMNS[1:])


def behind_the_dataset(source: Source) -> list[str]:
    """Files of a run's folder with better rows, which a merge does not look for."""
    return [name for name in BEHIND if source.is_run and (source.path / name).is_file()]


# --------------------------------------------------------------------------------------------------
# The order in which instructions are looked at: the one that comes first stays.


def order_of(sources: list[Source], preferred: list[str]) -> tuple[array, array]:
    """The order: two arrays, the number of the source and that of its instruction.

    What is preferred comes first, whole, in the order in which it was named. The others take
    turns: the first instruction of each, then the second of each.

    >>> a, b = (Source(name, Path(), Path(), {}, instructions=["1", "2"]) for name in "ab")
    >>> [array.tolist() for array in order_of([a, b], [])]
    [[0, 1, 0, 1], [0, 0, 1, 1]]
    """
    numbers = {source.name: number for number, source in enumerate(sources)}
    whose = array("l")
    which = array("l")
    for name in preferred:
        count = len(sources[numbers[name]].instructions)
        whose.extend([numbers[name]] * count)
        which.extend(range(count))
    rest = [number for name, number in numbers.items() if name not in preferred]
    longest = max((len(sources[number].instructions) for number in rest), default=0)
    for turn in range(longest):
        for number in rest:
            if turn < len(sources[number].instructions):
                whose.append(number)
                which.append(turn)
    return whose, which


def preferred_names(sources: list[Source], typed: list[str]) -> list[str]:
    """The names of the sources that --prefer names, by name or by path. Raises UsageError."""
    found = []
    for text in typed:
        fits = [
            source.name
            for source in sources
            if text == source.name or workshop.same_file(text, source.path)
        ]
        if not fits:
            known = ", ".join(source.name for source in sources)
            raise UsageError(f"--prefer {text} is none of what is merged: name one of {known}")
        found += [name for name in fits if name not in found]
    return found
