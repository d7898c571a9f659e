"""overlap.json: against what a dataset was checked, how, and what came of it.

The card of a prepared folder reads it. It also says which files a check wrote, by their SHA-256:
only these may a later check replace.
"""

from __future__ import annotations

if __name__ == "__main__":  # a part, no program: said before an import fails
    raise SystemExit(
        "record.py is a part of scripts/overlap.py: run  python scripts/overlap.py --help"
    )

import hashlib
import json
from pathlib import Path
from typing import Any

import self_instruct_workshop as workshop
from scripts.reading.records import as_object, object_in

MARK = "scripts/overlap.py"
NAME = "overlap.json"
COUNTS = ("exact", "ngram", "rouge_l", "any")  # rows that each test found, and that any found


def digest_of(path: Path) -> str:
    """The SHA-256 of a file. Raises OSError."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of_lines(lines: list[str]) -> str:
    """The SHA-256 that a file of these lines has."""
    return hashlib.sha256("".join(lines).encode("utf-8", "replace")).hexdigest()


def read(path: Path) -> dict:
    """The record of a check; empty where there is none, or the file is not ours."""
    value = object_in(path)
    return value if value.get("made_by") == MARK else {}


def written_by(record: dict, name: str) -> list[str]:
    """The digests that a file of this name may have, if a check wrote it."""
    digests = as_object(record.get("written")).get(name)
    return digests if isinstance(digests, list) else []


def is_ours(path: Path, record: dict) -> bool:
    """Whether a check wrote this file, and nobody has changed it since."""
    return path.is_file() and digest_of(path) in written_by(record, path.name)


def write(path: Path, facts: dict, files: dict[Path, list[str]]) -> None:
    """Write the record, then the files. A file without lines is not written, but removed.

    The digest of what a file held before stays in the record, for a check that is killed in
    between. Raises OSError.
    """
    # The record says which files are ours before they are written.
    earlier = read(path)
    names = earlier.get("written")
    written = dict(names) if isinstance(names, dict) else {}
    for file, lines in files.items():
        before = written_by(earlier, file.name)[:1]
        written[file.name] = [digest_of_lines(lines), *before]
    record = {"made_by": MARK, **facts, "written": written}
    workshop.write_whole(path, [json.dumps(record, ensure_ascii=False, indent=2), "\n"])

    # The files.
    for file, lines in files.items():
        if lines:
            workshop.write_whole(file, lines)
        else:
            file.unlink(missing_ok=True)


# --------------------------------------------------------------------------------------------------
# What the card of a dataset may say.


def claims(data: Path) -> tuple[dict, str]:
    """What the record beside a dataset says of it, and a notice where it says nothing of it.

    The dataset must be, byte for byte, the one that was checked, or what the check left of it.
    The claims: checked (a list), tests, rows_found, rows, dropped (None: nothing was dropped).
    """
    # Is there a record, and is it whole?
    place = data.parent / NAME
    if not place.exists():
        return {}, ""
    record = read(place)
    if not is_whole(record):
        return {}, f"{place} cannot be read: the card does not say against what was checked"

    # Is it about this file?
    digest = digest_of(data)
    kept = record["kept"]
    claimed = {name: record[name] for name in ("checked", "tests", "rows_found")}
    claimed["rows"] = record["data"]["rows"]
    claimed["dropped"] = None
    if kept and digest == kept["sha256"]:
        return claimed | {"dropped": kept["dropped"]}, ""
    if digest == record["data"]["sha256"]:
        return claimed, ""
    again = "the card does not say against what was checked; run scripts/overlap.py again"
    return {}, f"{place} is not about {data.name} as it is now: {again}"


def is_whole(record: dict) -> bool:
    """Whether a record has all that a card says. It can be somebody else's, or damaged."""
    try:
        whole = {
            int: [record["rows_found"], record["data"]["rows"], record["tests"]["ngram"]["n"]],
            str: [record["data"]["sha256"]],
            float: [record["tests"]["rouge_l"]["threshold"]],
        }
        for entry in record["checked"]:
            whole[str] += [entry["file"], entry["sha256"]]
            counts = entry["rows"]
            whole[int] += [entry["items"], *(counts[name] for name in COUNTS)]
        if record["kept"]:
            whole[str].append(record["kept"]["sha256"])
            whole[int].append(record["kept"]["dropped"])
    except (KeyError, TypeError, AttributeError):
        return False
    return all(is_a(value, kind) for kind, values in whole.items() for value in values)


def is_a(value: Any, kind: type) -> bool:
    kinds = (int, float) if kind is float else kind
    return isinstance(value, kinds) and not isinstance(value, bool)
