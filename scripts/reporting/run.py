"""What scripts/report.py reads: a run's folder, as far as it is there."""

from __future__ import annotations

if __name__ == "__main__":  # a part, no program: said before an import fails
    raise SystemExit("run.py is a part of scripts/report.py: run  python scripts/report.py --help")

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import self_instruct_workshop as workshop
from self_instruct_workshop import (
    SHAPE,
    STAGES,
    STEP_FILES,
    Journal,
    Reply,
    Task,
    WorkshopError,
)

WHO = ("provider", "model", "recipe")
TEXT = ("instruction",)  # what each row of a file has at least
NEEDED = {
    "filter": ("instruction", "input", "output"),
    "rejected": ("instruction", "stage", "rule"),
}
SEEDS_ASKED = 100  # replies of a journal that are looked at for stage 1
AGAIN = "run the same self_instruct.py command again"
PATHS = ("work_dir", "seed_file", "output_path", "responses")  # settings that are paths


@dataclass
class Run:
    """A run's files. `steps` has the rows of those step files that are there."""

    folder: Path
    summary: dict
    settings: dict
    counts: dict
    steps: dict[str, list[dict]]  # stage -> rows
    rejected: list[dict]
    seeds: list[Task] = field(default_factory=list)
    notices: list[tuple] = field(default_factory=list)  # (name in words.json, what it speaks of)
    journal: Journal | None = None
    digest: str = ""  # of the seed tasks, as the journal has it; empty: not known

    @property
    def language(self) -> str:
        """The language of the run's seed tasks and prompts."""
        return self.settings.get("language", "en")

    @property
    def last(self) -> str:
        """The last stage that has come to something."""
        return [stage for stage in STAGES if stage in self.steps or stage == "generate"][-1]


def read_run(folder: Path) -> Run:
    """Read what a run has left.

    Raises WorkshopError where nothing is there, or a file is damaged.
    """
    # Each of these files may be missing, but not all of them.
    steps = read_steps(folder)
    summary = read_summary(folder / "run.json")
    journal = open_journal(folder, summary, steps)
    if not (steps or summary or journal):
        problem = f"{folder} holds no run: run self_instruct.py first"
        raise WorkshopError(f"{problem}, or name its folder with --work-dir")

    # Without run.json nobody knows which run rejected.jsonl is of.
    rejected = []
    if summary and (folder / "rejected.jsonl").exists():
        rejected = read_lines(folder / "rejected.jsonl", NEEDED["rejected"])

    # Without run.json, settings come from the journal and counts from the step files.
    settings = summary.get("settings") or newest_settings(journal)
    run = Run(folder, summary, settings, {}, steps, rejected, journal=journal)
    run.counts = summary.get("counts") or counted(run)
    run.notices = first_notices(run)
    run.seeds = read_seeds(run)
    return run


def read_steps(folder: Path) -> dict[str, list[dict]]:
    """The rows of each step file that is there, by stage."""
    steps = {}
    for stage, name in zip(STAGES, STEP_FILES, strict=True):
        if (folder / name).exists():
            steps[stage] = read_lines(folder / name, NEEDED.get(stage, TEXT))
    return steps


def read_summary(path: Path) -> dict:
    """The content of run.json; {} where there is none.

    Raises WorkshopError where it is no summary of a run.
    """
    if not path.exists():
        return {}
    summary = parsed(path.read_bytes())
    if not is_summary(summary):
        raise WorkshopError(f"{path} is no summary of a run: {AGAIN}, it is rewritten")
    return summary


def is_summary(value: Any) -> bool:
    """Whether this has settings, and the counts of all stages."""
    if not isinstance(value, dict):
        return False
    settings = value.get("settings")
    counts = value.get("counts")
    return isinstance(settings, dict) and isinstance(counts, dict) and {*STAGES} <= counts.keys()


def parsed(text: str | bytes) -> Any:
    """The value of a JSON text, or None where it is no JSON."""
    try:
        return json.loads(text)
    except ValueError:
        return None


def read_lines(path: Path, needed: tuple[str, ...]) -> list[dict]:
    """The rows of a JSON Lines file.

    Raises WorkshopError at the first line that is no record with the texts that are needed.
    """
    # Bytes that are no UTF-8 become the replacement sign: one of them spoils no report.
    rows = []
    with open(path, encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            row = parsed(line)
            if not has_texts(row, needed):
                problem = f"{path}, line {number} is not of a run: {AGAIN}"
                raise WorkshopError(
                    f"{problem}, which rewrites the file and pays for nothing twice"
                )
            rows.append(row)
    return rows


def has_texts(row: Any, names: tuple[str, ...]) -> bool:
    """Whether this is a record in which each of these names is a text."""
    return isinstance(row, dict) and all(isinstance(row.get(name), str) for name in names)


def open_journal(folder: Path, summary: dict, steps: dict) -> Journal | None:
    """The run's journal, or None where there is none or an empty one.

    Of a replayed run it is the journal that the run answered from.
    """
    # `responses` names the journal of a replayed run.
    elsewhere = summary.get("settings", {}).get("responses")
    if not isinstance(elsewhere, str):
        elsewhere = ""
    path = Path(elsewhere or folder / "responses.jsonl")
    if not path.is_file():
        return None

    # A journal without replies is as good as none. One in another place must be the run's: a
    # run.json that somebody else wrote may name any file, and a report shows all of it.
    journal = Journal(path, "rb")
    fits = not elsewhere or has_first_reply(journal, steps)
    if not journal.starts or not fits:
        journal.file.close()
        return None
    return journal


def has_first_reply(journal: Journal, steps: dict) -> bool:
    """Whether a journal has the reply from which the run's first instruction comes."""
    # The step file has its text and its time, which nobody knows who has not read the journal.
    rows = steps.get("generate", [])
    metadata = record_of(rows[0].get("metadata")) if rows else {}
    choices = record_of(metadata.get("response")).get("choices")
    first = record_of(choices[0]) if isinstance(choices, list) and choices else {}
    wanted = (first.get("text"), metadata.get("created_at"))
    found = map(journal.get, journal.starts)
    return any((record["text"], record.get("created_at")) == wanted for record in found)


def newest_settings(journal: Journal | None) -> dict:
    """Without run.json, what the newest reply of stage 1 was asked with."""
    if not journal:
        return {}

    # The later a reply begins in the file, the newer it is.
    for key in sorted(journal.starts, key=journal.starts.get, reverse=True):
        record = journal.get(key)
        if record.get("stage") == "generate":
            names = (*SHAPE, *WHO, "temperature")
            return {name: record[name] for name in names if name in record}
    return {}


def counted(run: Run) -> dict:
    """The counts of run.json, made again of the step files."""

    def rows(stage: str) -> list[dict]:
        return run.steps.get(stage, [])

    results = SimpleNamespace(rejected=[], novelty=[], rows=rows)
    return workshop.count(SimpleNamespace(undone=[]), results)


def first_notices(run: Run) -> list[tuple]:
    """What a reader should know before the figures: what is missing, and what is not finished."""
    notices: list[tuple] = []
    if not run.summary:
        notices.append(("no_run_json",))
    if run.summary.get("status") == "interrupted":
        notices.append(("broken_off",))
    if not run.journal:
        notices.append(("no_journal",))

    # Each reason stands with the number of its requests.
    undone = run.summary.get("undone_because")
    if undone:
        reasons = "; ".join(f"{number} × {why}" for why, number in undone.items())
        notices.append(("undone", reasons))
    return notices


def read_seeds(run: Run) -> list[Task]:
    """The run's seed tasks, and the digest by which the journal knows them.

    A notice says where they are gone (then there are none) and where they are not those of the run.
    """
    # A language that has no seed tasks of its own is of a later program.
    path = run.settings.get("seed_file") or workshop.DEFAULT_SEEDS.get(run.language)
    seeds = load_seeds(path) if path else []
    if not seeds:
        run.notices.append(("no_seeds",))
        return []

    # Where the journal has no reply of stage 1, nothing tells other seed tasks apart.
    digest = workshop.digest(seeds)
    first = islice(records(run), SEEDS_ASKED)
    asked = bool(run.journal) and any(record["stage"] == "generate" for record in first)
    if asked and all(record.get("seed_tasks") != digest for record in records(run)):
        run.notices.append(("other_seeds",))
    else:
        run.digest = digest
    return seeds


def load_seeds(path: str | Path) -> list[Task]:
    """The tasks of a seed file; none where it cannot be read."""
    try:
        return workshop.load_seed_tasks(path)
    except WorkshopError:
        return []


def records(run: Run) -> Iterator[dict]:
    """The replies that this run used, in the order in which they came.

    Without a journal, what the step files keep of them.
    """
    if not run.journal:
        yield from views(run)
        return

    # What the reply to a list says to a single task is a part of that reply.
    starts = run.journal.starts
    wanted = {**run.settings, "seed_tasks": run.digest}
    for key in sorted(starts, key=starts.get):
        record = {"stage": "", **run.journal.get(key)}
        if "part_of" not in record and is_of_run(record, wanted):
            yield record


def is_of_run(record: dict, wanted: dict) -> bool:
    """Whether a reply was asked for with these settings; a setting that is not known fits."""
    names = WHO
    if record["stage"] == "generate":
        names = (*WHO, *SHAPE, "temperature", "seed_tasks")
    known = [name for name in names if wanted.get(name, "") != ""]
    return all(record.get(name) == wanted[name] for name in known)


def views(run: Run) -> Iterator[dict]:
    """What step files keep of the replies, as records of a journal."""
    # Several instructions of stage 1 come from one request: take its reply once.
    seen = set()
    for row in run.steps.get("generate", []):
        request = row.get("request_idx")
        if request not in seen:
            seen.add(request)
            yield from completion(row)

    # Each task of stages 2 and 3 has a reply of its own.
    for stage in ("classify", "instances"):
        for row in run.steps.get(stage, []):
            metadata = row.get("metadata") or {}
            yield {
                "stage": stage,
                "instruction": row["instruction"],
                "finish_reason": metadata.get("finish_reason", ""),
                "text": row.get("response", ""),
            }


def completion(row: dict) -> Iterator[dict]:
    """The reply of stage 1 that a row of the recipe `paper` keeps, where it keeps one."""
    # The shape is that of a completion: metadata -> response -> choices -> the first one.
    metadata = record_of(row.get("metadata"))
    choices = record_of(metadata.get("response")).get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    if isinstance(first, dict) and "prompt" in metadata and "request_idx" in row:
        yield {
            "stage": "generate",
            "request_idx": row["request_idx"],
            "prompt": metadata["prompt"],
            **first,
        }


def record_of(value: Any) -> dict:
    """The value itself where it is a record, else an empty one."""
    return value if isinstance(value, dict) else {}


def reply_of(record: dict, recipe: str) -> Reply:
    """A record's reply as the run read it."""
    text = str(record["text"])
    reply = Reply(text, record.get("finish_reason", ""), prompt=record.get("prompt", ""))
    sampling = workshop.parameters(workshop.Config(recipe=recipe), record["stage"])
    reply.stop_at(sampling.get("stop", []))
    return reply


def shareable(settings: dict) -> dict:
    """Settings as a report that is passed on may show them.

    Of paths it shows the last part; of addresses it shows no user's name and no key.
    """
    shown = {name: value for name, value in settings.items() if value != ""}
    for name in shown.keys() & {*PATHS}:
        shown[name] = re.split(r"[\\/]", str(shown[name]).rstrip("\\/"))[-1]

    # An address: what stands before an @ is a name, and what follows a ? may be a key.
    if "base_url" in shown:
        shown["base_url"] = re.sub(r"(?<=//)[^/@]*@|\?.*", "", str(shown["base_url"]))
    return shown
