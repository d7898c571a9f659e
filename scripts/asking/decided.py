"""What a stage has decided is not decided again where all that it was decided from is the same.

    python self_instruct.py --num-instructions 50000        a second time: seconds

A run is a pure function of its seed tasks, its settings and the replies. So run.json has, under
`decided`, for each stage that ended with every reply: `inputs`, a digest of all that its decisions
came from, and digests of what it wrote. Where the next run finds the same inputs and the same
files, it takes the results of the stage from its step file. Whatever is another by one byte (a
reply, a seed task, a setting, a package, this program, a step file, a row of rejected.jsonl) makes
the stage decide anew, and all stages behind it.

Only self_instruct.py as a program of its own does this: what a notebook may have put in the place
of a function, no digest of a file tells.
"""

from __future__ import annotations

if __name__ == "__main__":  # a part, no program: said before an import fails
    raise SystemExit(
        "decided.py is a part of self_instruct.py: run  python self_instruct.py --help"
    )

import hashlib
import json
import sys
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, fields
from functools import cache
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import self_instruct_workshop as workshop
from scripts.asking import together
from self_instruct_workshop import STAGES, STEP_FILES, Results, Task

# Settings that change where files are, or how fast replies come, and no decision.
HOW = {"work_dir", "output_path", "overwrite", "until", "concurrency", "max_attempts"}
HOW |= {"request_timeout", "deadline", "first_wait"}
# Settings that say who is asked; `models` has whom they come to.
WHO = {f"{stage}{name}" for stage in ("", "classify_", "instances_") for name in workshop.WHO}
PACKAGES = ("numpy", "rapidfuzz", "regex", "rouge-score")
CODE = Path(__file__).resolve().parents[1]  # scripts/
TURNS = ("requests", "kept", "rejected")  # what `Turns` counts by topic


def recall(model: Any, stage: str, tasks: list[Task], results: Results) -> list | None:
    """What the stage returns, with its results filled in; None where it must decide.

    The stages before it must be in `model.decided`.
    """
    known = proved(model, stage, results)
    if not known or moves_files(model, stage, results):
        return None
    done = take(model, stage, tasks, results, known)
    # Where lists of stage 2 did well, or not, is said as if they were asked again.
    if stage == "classify" and results.agreement["trusted"]:
        model.of(stage).ask_about_lists([])
    if known["tokens"]:
        model.tokens[stage] = Counter(known["tokens"])
    return done


def proved(model: Any, stage: str, results: Results) -> dict:
    """What an earlier run noted of a stage that would decide the same again, and whose files are
    as it left them; {} where that is not so."""
    known = known_of(results.earlier, stage)
    if not known or known["inputs"] != inputs(model, stage, results):
        return {}
    if file_digest(step_file(model, stage)) != known["file"]:
        return {}
    return known if rows_digest(rejected_before(model, stage)) == known["rejected"] else {}


def moves_files(model: Any, stage: str, results: Results) -> bool:
    """Whether the run moves files of another one out of its way, and so writes all of its own."""
    last = stage == model.config.until
    behind = last and workshop.later_files(model.config, STAGES.index(stage))
    return bool(behind) or workshop.was_of_another(model, results, stage)


def take(model: Any, stage: str, tasks: list[Task], results: Results, known: dict) -> list:
    """Fill in the results of a stage that is proved; return what it returns.

    From here on, its step file is what it has come to.
    """
    results.files[stage] = step_file(model, stage)
    model.decided[stage] = known
    results.begin(stage, model.config if stage == "generate" else None)
    done = TAKE[stage](tasks, results, known)
    results.rejected += rejected_before(model, stage)
    return done


def step_file(model: Any, stage: str) -> Path:
    return Path(model.config.work_dir) / STEP_FILES[STAGES.index(stage)]


def rejected_before(model: Any, stage: str) -> list[dict]:
    """The rows of a stage in the rejected.jsonl of the run before; it is read once."""
    if model.rejected_before is None:
        model.rejected_before = defaultdict(list)
        for row in rejected_rows(Path(model.config.work_dir)):
            model.rejected_before[str(row.get("stage"))].append(row)
    return model.rejected_before[stage]


def remember(model: Any, stage: str, results: Results) -> None:
    """Note in `model.decided` what a stage that has ended was decided from, if that is known.

    A question without a reply, which may get one next time, is none of it.
    """
    undone = {failed for failed, _ in model.undone} | model.unanswered
    if stage in model.decided or stage in undone:
        return
    rejected = [row for row in results.rejected if row["stage"] == stage]
    tokens = model.tokens.get(stage)
    used = {**tokens, "asked_now": 0} if tokens else {}  # as the next run counts
    entry = {
        "inputs": inputs(model, stage, results),
        "file": results.digests[stage],
        "rejected": rows_digest(rejected),
        "tokens": used,
    }
    if stage == "generate":
        entry["novelty"] = results.novelty[-10:]
        entry["turns"] = {name: dict(getattr(results.turns, name)) for name in TURNS}
    if stage == "classify":
        entry["agreement"] = dict(results.agreement)
    # "": what it came from cannot be told.
    if all(entry[name] for name in ("inputs", "file", "rejected")):
        model.decided[stage] = entry | {"sum": digest(entry)}


def known_of(earlier: dict, stage: str) -> dict:
    """What an earlier run noted of a stage; {} where it did not, or somebody has changed it."""
    decided = earlier.get("decided")
    entry = decided.get(stage) if isinstance(decided, dict) else None
    if not isinstance(entry, dict):
        return {}
    said = {name: value for name, value in entry.items() if name != "sum"}
    return entry if entry.get("sum") == digest(said) else {}


def inputs(model: Any, stage: str, results: Results) -> str:
    """A digest of all that a stage decides from; "" where that cannot be told.

    What the stages before it came to is part of that.
    """
    config = model.config
    before = [model.decided.get(name, {}) for name in STAGES[: STAGES.index(stage)]]
    if config.responses or not model.read_at_start["program"] or not all(before):
        return ""
    left_out = HOW | WHO
    settings = {name: value for name, value in asdict(config).items() if name not in left_out}
    told = {
        **model.read_at_start,
        "settings": settings,
        "models": [(one.name, one.model) for one in map(model.of, STAGES[:3])],
        "seeds": [asdict(task) for task in results.seeds],
        "list": model.together if stage == "classify" else 0,  # tasks that a request asks about
        "replies": model.journal.digests[stage].hexdigest(),
        "before": [(entry["file"], entry["rejected"]) for entry in before],
    }
    return digest(told)


def read_at_start(config: workshop.Config) -> dict[str, str]:
    """Digests of the files that a run goes by, before it begins: they may change while it runs."""
    topics = file_digest(Path(config.topics)) if config.topics else ""
    return {"program": program(), "topics": topics}


@cache
def program() -> str:
    """A digest of what decides: the code, the data it reads, what it stands on; "": not known."""
    paths = [Path(workshop.__file__), *CODE.glob("asking/*.py"), *CODE.glob("scale/*.py")]
    paths += workshop.DATA.glob("*.json*")
    try:
        versions = {name: metadata.version(name) for name in PACKAGES}
    except metadata.PackageNotFoundError:
        return ""
    versions |= {"python": sys.version, "unicode": unicodedata.unidata_version}
    # Not a dict: there is an __init__.py in more than one folder.
    named = sorted((path.name, file_digest(path)) for path in paths)
    return digest([named, versions])


def digest(value: Any) -> str:
    """SHA-256 of a value as JSON; "" where it holds text that no file can (lone surrogates)."""
    try:
        text = json.dumps(value, ensure_ascii=False, sort_keys=True).encode()
    except UnicodeEncodeError:
        return ""
    return hashlib.sha256(text).hexdigest()


def rows_digest(rows: Iterable[dict]) -> str:
    """SHA-256 of rows as a file has them; "" where a file cannot have them as they are."""
    found = hashlib.sha256()
    try:
        for row in rows:
            found.update(workshop.to_json(row).encode())
    except UnicodeEncodeError:
        return ""
    return found.hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file; "" where it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def rejected_rows(folder: Path) -> list[dict]:
    """The rows of rejected.jsonl that can be read."""
    try:
        return list(workshop.read_rows(folder / "rejected.jsonl"))
    except OSError:
        return []


# --------------------------------------------------------------------------------------------------
# A whole run that has ended, for a companion that reads it and asks nothing.


class Ended:
    """Of the run that its run.json names, what `proved` and `take` must know of a model."""

    def __init__(self, config: workshop.Config, summary: dict, digests: dict[str, Any]) -> None:
        self.config = config
        self.summary = summary
        self.journal = SimpleNamespace(digests=digests)
        self.read_at_start = read_at_start(config)
        self.decided: dict[str, dict] = {}
        self.rejected_before: dict | None = None
        self.together = together.group_size(config, self.of("classify").name, None)

    def of(self, stage: str) -> SimpleNamespace:
        name, model = workshop.who_answered(self.summary, stage)
        return SimpleNamespace(name=name, model=model)


def results_of(
    folder: Path, seeds: list[Task], digests: dict[str, Any]
) -> tuple[workshop.Config, Results] | None:
    """The settings of the run in a folder, and its results out of its step files; None where
    a stage is not proved to decide the same again.

    `digests` are those of its journal: stage -> of its lines.
    """
    summary = workshop.earlier_run(folder)
    config = config_of(summary, folder)
    if config is None:
        return None
    run = Ended(config, summary, digests)
    results = Results(seeds=seeds, earlier=summary)
    tasks: list = []
    for stage in STAGES:
        known = proved(run, stage, results)
        if not known:
            return None
        tasks = take(run, stage, tasks, results, known)
    return config, results


def config_of(summary: dict, folder: Path) -> workshop.Config | None:
    """The settings of a run by its run.json; None where it does not say them."""
    said = summary.get("settings")
    names = [setting.name for setting in fields(workshop.Config)]
    if not isinstance(said, dict) or not said.keys() >= {*names}:
        return None
    try:
        config = workshop.Config(**{name: said[name] for name in names})
    except workshop.WorkshopError:  # this program knows no such settings
        return None
    config.work_dir = str(folder)
    return config


# --------------------------------------------------------------------------------------------------
# What each stage leaves in its tasks and results, out of the rows of its step file.


def take_instructions(_: list[Task], results: Results, known: dict) -> list[Task]:
    for row in results.each_row("generate"):
        results.tasks.append(Task(row["id"], row["instruction"], notes={"generate": {}}))
    results.novelty = known["novelty"]
    for name in TURNS:
        setattr(results.turns, name, Counter(known["turns"][name]))
    return results.tasks


def tasks_with_rows(stage: str, tasks: list[Task], results: Results) -> Iterator[tuple[Task, dict]]:
    """Each row of a step file, with its task."""
    by_id = {task.id: task for task in tasks}
    for row in results.each_row(stage):
        yield by_id[row["id"]], row


def take_classes(tasks: list[Task], results: Results, known: dict) -> list[Task]:
    for task, row in tasks_with_rows("classify", tasks, results):
        task.is_classification = row["is_classification"]
        task.notes["classify"] = {"labels": row["labels"]}
    results.agreement = dict(known["agreement"])
    return [task for task in tasks if "classify" in task.notes]


def take_instances(tasks: list[Task], results: Results, _: dict) -> list[Task]:
    for task, row in tasks_with_rows("instances", tasks, results):
        task.instances = row["instances"]
        task.notes["instances"] = {"second_answers": row["second_answers"]}
    return [task for task in tasks if task.instances]


def take_dataset(_: list[Task], results: Results, known: dict) -> list[dict]:
    results.dataset = list(results.each_row("filter"))
    return results.dataset


TAKE = {
    "generate": take_instructions,
    "classify": take_classes,
    "instances": take_instances,
    "filter": take_dataset,
}
