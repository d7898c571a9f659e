"""What the files beside a dataset say of it: its run, who wrote again, who judged."""

from __future__ import annotations

if __name__ == "__main__":  # a part, no program: said before an import fails
    raise SystemExit(
        "origin.py is a part of scripts/prepare_for_finetuning.py: run"
        "  python scripts/prepare_for_finetuning.py --help"
    )

from pathlib import Path

from scripts.overlapping import record as overlap
from scripts.reading.records import as_object, object_in
from scripts.reading.rows import Row
from self_instruct_workshop import DEFAULT_SEEDS, tell


def notice(text: str) -> None:
    tell(f"notice: {text}")


# The settings of a run that the card names.
RUN_FACTS = ("provider", "model", "recipe", "language", "temperature", "seed")
OF_STAGES = ("classify_provider", "classify_model", "instances_provider", "instances_model")


def run_beside(path: Path) -> dict[str, str]:
    """What run.json beside the input says of the run; empty where there is no run.json.

    Empty too where the input was made of rows that no longer stand there: they may be of another.
    """
    # Is it about these rows?
    why = outdated(path)
    if why:
        notice(f"{why} again; till then the card does not say who made the data")
        return {}

    # Read it.
    place = path.parent / "run.json"
    if not place.exists():
        return {}
    facts = facts_of(object_in(place))
    if not facts:
        notice(f"{place} cannot be read: the card does not say who made the data")
    return facts


def facts_of(told: dict) -> dict[str, str]:
    """The facts in a run.json; empty where one of them is missing."""
    # Is everything there?
    settings = told.get("settings")
    versions = told.get("versions")
    ended_at = told.get("ended_at")
    if not isinstance(settings, dict) or not isinstance(versions, dict):
        return {}
    known = settings.keys() >= set(RUN_FACTS) and "self_instruct" in versions
    if not known or not isinstance(ended_at, str):
        return {}

    # The date is the day on which the run ended.
    facts = {name: str(settings[name]) for name in RUN_FACTS}
    facts |= {name: str(settings[name]) for name in OF_STAGES if settings.get(name)}
    facts |= differing(told, facts)
    return {**facts, "date": ended_at[:10], "version": str(versions["self_instruct"])}


def differing(told: dict, facts: dict[str, str]) -> dict[str, str]:
    """The facts in which the runs of a merged folder differ, with the values of all of them."""
    merged = told.get("merge")
    differ = merged.get("differ") if isinstance(merged, dict) else None
    known = differ.items() if isinstance(differ, dict) else ()
    return {name: str(values) for name, values in known if name in facts}


# What programs behind stage 4 say of the data: the name of the record, its list of files, and how
# it names the data that they were made of.


def source_of(path: Path) -> str:
    """The name of a file; of one that overlap.py --drop left, the name of what it was made of."""
    claims, _ = overlap.claims(path)
    if claims.get("dropped") is None:
        return path.name
    return str(object_in(path.parent / overlap.NAME)["data"]["file"])


def made_of(path: Path, record_name: str, name: str) -> tuple[str, str]:
    """The data that a file beside `path` was made of, and its SHA-256; "" where no record tells."""
    record = object_in(path.parent / record_name)
    if name not in as_object(record.get("files")):
        return "", ""
    data = record.get("data")
    if isinstance(data, dict):  # rewrite.json
        return str(data.get("file") or ""), str(data.get("sha256") or "")
    return str(data or ""), str(record.get("data_sha256") or "")


def outdated(path: Path) -> str:
    """Why the records beside a file are not about it: made of other rows; "" where they are.

    A judged file may be made of a rewritten one, and that of the dataset.
    """
    name = source_of(path)
    for record_name, program in (("judge.json", "judge.py"), ("rewrite.json", "rewrite.py")):
        data, digest = made_of(path, record_name, name)
        place = path.parent / Path(data).name
        if data and digest and place.is_file() and overlap.digest_of(place) != digest:
            return f"{name} was made of another {data} than stands there now: run {program}"
        name = data or name
    return ""


def judge_beside(path: Path) -> str:
    """Who chose the rows, where they are those that scripts/judge.py kept; "" where not."""
    record = object_in(path.parent / "judge.json")
    counts = as_object(record.get("counts"))
    named = source_of(path) in as_object(record.get("files"))
    if not named or path.name == "judged.jsonl" or not {"rows", "kept"} <= counts.keys():
        return ""
    keep = record.get("keep")
    questions = ", ".join(map(str, keep)) if isinstance(keep, list) else ""
    return f"{record.get('model')}: {counts['kept']} of {counts['rows']} kept ({questions})"


def writers_beside(path: Path) -> str:
    """Who wrote the outputs, where scripts/rewrite.py had them written again; "" where not."""
    # A judged file is made of another one, which judge.json names.
    name = source_of(path)
    name = made_of(path, "judge.json", name)[0] or name

    # What rewrite.json says of that.
    record = object_in(path.parent / "rewrite.json")
    counts = as_object(record.get("counts"))
    if name not in as_object(record.get("files")) or not {"rows", "rewritten"} <= counts.keys():
        return ""
    return f"{record.get('model')}: {counts['rewritten']} of {counts['rows']}; the others as above"


def language_of(run: dict[str, str], rows: list[Row]) -> str:
    """The language as run.json says it.

    Without run.json: "zh" where most letters of the instructions are Chinese, else "",
    which is unknown.
    """
    # What the run says.
    language = run.get("language")
    if language in DEFAULT_SEEDS:
        return language

    # Otherwise count letters.
    letters = 0
    chinese = 0
    for row in rows:
        for character in row["instruction"]:
            if character.isalpha():
                letters += 1
                chinese += "\u4e00" <= character <= "\u9fff"
    return "zh" if chinese > letters / 2 else ""
