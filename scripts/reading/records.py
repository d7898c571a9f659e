"""Records out of files: JSON, JSON Lines, CSV, TSV and Parquet. One set of rules for all programs.

    text        UTF-8, with or without a mark at its start (BOM); any kind of line end
    JSON        what a file holds decides, not its name: an array of records, or a record a line.
                Blank lines count for nothing. NaN is refused: it is no JSON
    surrogates  lone ones, which no file in UTF-8 can hold, become question marks
    tables      .csv, .tsv: the first row names the columns; , ; or a tab separates the cells
    Parquet     .parquet: by pyarrow or pandas, where one of them is installed

What is wrong is one line, which names the file and the place in it.
"""

from __future__ import annotations

if __name__ == "__main__":  # a part, no program: said before an import fails
    raise SystemExit("records.py is a part of other programs: run  python scripts/review.py --help")

import csv
import io
import json
from pathlib import Path
from typing import Any

import self_instruct_workshop as workshop
from self_instruct_workshop import WorkshopError, one_line

Record = tuple[str, Any]  # where it stands, such as "line 3", and its value

TABLES = (".csv", ".tsv")
ANOTHER = "name another file"  # what to do where a file is not there


def records(path: Path, advice: str = ANOTHER, without_names: bool = False) -> list[Record]:
    """The records of a file, each with its place. `advice` is for a file that is not there.

    With `without_names`, the first row of a table is a record, and columns have numbers from 1.
    Raises WorkshopError where the file cannot be read.
    """
    kind = path.suffix.lower()
    if kind in TABLES:
        return table_rows(path, advice, without_names)
    if kind == ".parquet":
        return parquet_rows(path, advice)
    return json_records(path, text_of(path, advice))


def text_of(path: Path, advice: str = ANOTHER) -> str:
    """The text of a file, without a mark at its start, with plain line ends."""
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        why = getattr(error, "strerror", "") or str(error)
        raise WorkshopError(f"cannot read {path} ({why}): {advice}") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        name = workshop.other_encoding(data)
        found = f"{name}, not UTF-8" if name else "not UTF-8 text"
        raise WorkshopError(f"{path} is {found}: save it as UTF-8") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


# --------------------------------------------------------------------------------------------------
# JSON.


def object_in(path: Path) -> dict[str, Any]:
    """The JSON object in a file, such as a record that a program left; {} where there is none."""
    try:
        return as_object(value_of(path.read_bytes()))
    except (OSError, ValueError):
        return {}


def as_object(value: Any) -> dict[str, Any]:
    """A value that should be a JSON object; {} where it is another one."""
    return value if isinstance(value, dict) else {}


def json_records(path: Path, text: str) -> list[Record]:
    """The records of an array, or those of the lines.

    An object over several lines is one record. Raises WorkshopError where one is damaged.
    """
    # An array is the whole file.
    if text.lstrip().startswith("["):
        return [(f"record {n}", value) for n, value in enumerate(document(path, text), 1)]

    # Lines: the first one is a record of its own.
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    is_document = path.suffix.lower() == ".json" and lines and not is_json(lines[0][1])
    if is_document:
        return [("record 1", document(path, text))]
    return [(f"line {number}", decoded(line, f"{path}, line {number}")) for number, line in lines]


def document(path: Path, text: str) -> Any:
    """The value of a whole file. Raises WorkshopError, which names the line."""
    try:
        return value_of(text)
    except ValueError as error:
        line = getattr(error, "lineno", 1)
        raise no_json(f"{path}, line {line}", error) from None


def decoded(text: str, where: str) -> Any:
    """The value of a JSON text. Raises WorkshopError, which says where it stands."""
    try:
        return value_of(text)
    except ValueError as error:
        raise no_json(where, error) from None


def no_json(where: str, error: ValueError) -> WorkshopError:
    problem = one_line(str(error))
    return WorkshopError(f"{where} is no JSON ({problem}): mend or remove it")


def value_of(text: str | bytes) -> Any:
    """The value of a JSON text. Raises ValueError for anything that is no JSON.

    >>> value_of('{"input": NaN}')
    Traceback (most recent call last):
    ValueError: NaN, which no JSON has
    """
    # A thousand lists in each other are no data.
    text = text.decode("utf-8-sig") if isinstance(text, bytes) else text
    try:
        value = DECODER.decode(text)
    except RecursionError:
        raise ValueError("lists in lists, too deep") from None

    # Lone surrogates: write the value out and read it again.
    if "\\ud" in text or "\\uD" in text:
        value = json.loads(workshop.to_json(value).encode("utf-8", "replace"))
    return value


def refused(name: str) -> None:
    """NaN and Infinity, which Python would read. Raises ValueError."""
    raise ValueError(f"{name}, which no JSON has")


DECODER = json.JSONDecoder(parse_constant=refused)  # made once: a file has many lines


def value_or_none(text: str | bytes) -> Any:
    """The value of a JSON text, or None where it is no JSON."""
    try:
        return value_of(text)
    except ValueError:
        return None


def is_json(text: str) -> bool:
    try:
        value_of(text)
    except ValueError:
        return False
    return True


# --------------------------------------------------------------------------------------------------
# Tables.


def table_rows(path: Path, advice: str = ANOTHER, without_names: bool = False) -> list[Record]:
    """The rows of a CSV or TSV. Raises WorkshopError where this is no such table."""
    # Programs separate cells by a comma, a semicolon or a tab: the first line tells.
    text = text_of(path, advice)
    first = text.split("\n", 1)[0]
    separator = "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=first.count)
    csv.field_size_limit(2**31 - 1)  # bytes; the default ends at 131,072
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=separator))
    except csv.Error as error:
        problem = f"{path} is no CSV that can be read ({error})"
        raise WorkshopError(f"{problem}: save it as CSV UTF-8") from None

    # Each cell has the name of its column. Rows of empty cells are no records.
    numbered = [(f"row {number}", row) for number, row in enumerate(rows, 1) if any(row)]
    names = [str(number) for number in range(1, 1 + max(map(len, rows), default=0))]
    if not without_names and numbered:
        names = [name.strip() for name in numbered.pop(0)[1]]
    return [(place, dict(zip(names, row, strict=False))) for place, row in numbered]


def parquet_rows(path: Path, advice: str = ANOTHER) -> list[Record]:
    """The rows of a Parquet file, by pyarrow or pandas. Raises WorkshopError without either."""
    if not path.is_file():
        raise WorkshopError(f"cannot read {path} (No such file or directory): {advice}")
    try:
        rows = parquet_values(path)
    except ImportError:
        install = workshop.pip_install("pyarrow")
        raise WorkshopError(f"{path}: Parquet needs a package: run  {install}") from None
    except (ValueError, OSError) as error:
        problem = one_line(str(error))
        raise WorkshopError(f"{path} is no Parquet that can be read ({problem})") from None
    return [(f"record {number}", row) for number, row in enumerate(rows, 1)]


def parquet_values(path: Path) -> list[dict]:
    """The rows as dictionaries. Raises ImportError where neither package is there."""
    try:
        from pyarrow import parquet
    except ImportError:
        import pandas

        return json.loads(pandas.read_parquet(path).to_json(orient="records"))
    with open(path, "rb") as file:
        return parquet.read_table(file).to_pylist()
