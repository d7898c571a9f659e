"""What scripts/report.py reads: a run's folder, as far as it is there. Not a program of its own."""

from __future__ import annotations

if __name__ == "__main__":  # a part, no program: said before an import fails
    raise SystemExit("run.py is a part of scripts/report.py: run  python scripts/report.py --help")

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import self_instruct_workshop as workshop
from self_instruct_workshop import SHAPE, STAGES, STEP_FILES, Journal, Reply, Task, WorkshopError

WHO = ("provider", "model", "recipe")
TEXT = ("instruction",)  # what each row of a file has at least
NEEDED = {"filter": ("instruction", "input", "output"), "rejected": ("instruction", "stage", "rule")}


@dataclass
class Run:
    """A run's files. `steps` has the rows of those step files that are there, `notices` what a reader should know."""

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
        return self.settings.get("language", "en")

    @property
    def last(self) -> str:
        """The last stage that has come to something."""
        return [stage for stage in STAGES if stage in self.steps or stage == "generate"][-1]


def read_run(folder: Path) -> Run:
    """Raises WorkshopError where there is nothing to report on, or a file is damaged."""
    paths = {stage: folder / name for stage, name in zip(STAGES, STEP_FILES, strict=True)}
    steps = {stage: read_lines(path, NEEDED.get(stage, TEXT)) for stage, path in paths.items() if path.exists()}
    summary, notices, rejected = read_summary(folder / "run.json"), [], []
    journal = open_journal(folder, summary)
    if not (steps or summary or journal):
        raise WorkshopError(f"{folder} holds no run: run self_instruct.py first, or name its folder with --work-dir")
    if summary and (folder / "rejected.jsonl").exists():
        rejected = read_lines(folder / "rejected.jsonl", NEEDED["rejected"])
    settings = summary.get("settings") or newest_settings(journal)
    run = Run(folder, summary, settings, {}, steps, rejected, notices=notices, journal=journal)
    run.counts = summary.get("counts") or counted(run)
    if not summary:
        notices.append(("no_run_json",))
    if summary.get("status") == "interrupted":
        notices.append(("broken_off",))
    if not journal:
        notices.append(("no_journal",))
    if summary.get("undone_because"):
        notices.append(("undone", "; ".join(f"{n} × {why}" for why, n in summary["undone_because"].items())))
    run.seeds = read_seeds(run)
    return run


def read_summary(path: Path) -> dict:
    if not path.exists():
        return {}
    with suppress(ValueError, TypeError, KeyError):
        summary = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(summary["settings"], dict) and {*STAGES} <= summary["counts"].keys():
            return summary
    raise WorkshopError(f"{path} is no summary of a run: run the same self_instruct.py command again, it is rewritten")


def read_lines(path: Path, needed: tuple[str, ...]) -> list[dict]:
    rows = []
    with open(path, encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                rows.append(row | {name: "" + row[name] for name in needed})
            except (ValueError, KeyError, TypeError):
                problem = f"{path}, line {number} is not of a run: run the same self_instruct.py command again"
                raise WorkshopError(f"{problem}, which rewrites the file and pays for nothing twice") from None
    return rows


def open_journal(folder: Path, summary: dict) -> Journal | None:
    """The run's journal; of a replayed run, the one that it answered from."""
    path = Path((summary.get("settings") or {}).get("responses") or folder / "responses.jsonl")
    if not path.exists():
        return None
    journal = Journal(path, "rb")
    if not journal.starts:
        journal.file.close()
    return journal if journal.starts else None


def newest_settings(journal: Journal | None) -> dict:
    """Without run.json, what the newest reply of stage 1 was asked with."""
    for key in sorted(journal.starts, key=journal.starts.get, reverse=True) if journal else ():
        record = journal.get(key)
        if record.get("stage") == "generate":
            return {name: record[name] for name in (*SHAPE, *WHO, "temperature") if name in record}
    return {}


def counted(run: Run) -> dict:
    """The counts of run.json, made again of the step files."""
    results = SimpleNamespace(rejected=[], novelty=[], rows=lambda stage: run.steps.get(stage, []))
    return workshop.count(SimpleNamespace(results=results, undone=[]))


def read_seeds(run: Run) -> list[Task]:
    """The seed tasks; none, with a notice, where they are gone; another notice where they are not those of the run."""
    try:
        seeds = workshop.load_seed_tasks(run.settings.get("seed_file") or workshop.DEFAULT_SEEDS[run.language])
    except (WorkshopError, KeyError):
        run.notices.append(("no_seeds",))
        return []
    digest = workshop.digest(seeds)
    asked = [record for record in islice(records(run), 100) if record["stage"] == "generate" and run.journal]
    if not asked or any(record.get("seed_tasks") == digest for record in records(run)):
        run.digest = digest
    else:
        run.notices.append(("other_seeds",))
    return seeds


def records(run: Run) -> Iterator[dict]:
    """The replies that this run used, in the order in which they came; without a journal, what step files have."""
    if not run.journal:
        yield from views(run)
    wanted = {**run.settings, "seed_tasks": run.digest}
    keys = {start: key for key, start in run.journal.starts.items()} if run.journal else {}  # one of each reply's keys
    for start in sorted(keys):
        record = {"stage": "", **run.journal.get(keys[start])}
        asked = {"generate": (*WHO, *SHAPE, "temperature", "seed_tasks")}.get(record["stage"], WHO)
        if all(record.get(name) == wanted[name] for name in asked if wanted.get(name, "") != ""):
            yield record


def views(run: Run) -> Iterator[dict]:
    """What step files keep of the replies."""
    seen = set()
    for stage, rows in run.steps.items():
        for row in rows:
            metadata = row.get("metadata") or {}
            if stage == "generate" and row.get("request_idx") not in seen:
                seen.add(row.get("request_idx"))
                with suppress(KeyError, IndexError, TypeError):
                    choice = metadata["response"]["choices"][0]
                    yield {"stage": stage, "request_idx": row["request_idx"], "prompt": metadata["prompt"], **choice}
            elif stage in ("classify", "instances"):
                made = {"finish_reason": metadata.get("finish_reason", ""), "text": row.get("response", "")}
                yield {"stage": stage, "instruction": row["instruction"], **made}


def reply_of(record: dict, recipe: str) -> Reply:
    """A record's reply as the run read it."""
    reply = Reply(str(record["text"]), record.get("finish_reason", ""), prompt=record.get("prompt", ""))
    reply.stop_at(workshop.parameters(workshop.Config(recipe=recipe), record["stage"]).get("stop", []))
    return reply


def shareable(settings: dict) -> dict:
    """Settings as a report that is passed on may show them: of paths the last part, of addresses no name and key."""
    shown = {name: value for name, value in settings.items() if value != ""}
    for name in shown.keys() & {"work_dir", "seed_file", "output_path", "responses"}:
        shown[name] = re.split(r"[\\/]", str(shown[name]).rstrip("\\/"))[-1]
    if "base_url" in shown:
        shown["base_url"] = re.sub(r"(?<=//)[^/@]*@|\?.*", "", str(shown["base_url"]))
    return shown
