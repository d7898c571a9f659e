"""What scripts/report.py reads: a run's folder, as far as it is there."""

from __future__ import annotations

if __name__ == "__main__":  # a part, no program: said before an import fails
    raise SystemExit("run.py is a part of scripts/report.py: run  python scripts/report.py --help")

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from functools import cache
from hashlib import sha256
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import self_instruct_workshop as workshop
from scripts.helping.data import fingerprint
from scripts.reading.records import value_or_none as parsed
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
Names = dict[str, tuple[str, ...]]  # stage, or "rejected" -> names in its rows
TEXT = ("instruction",)  # what each row of a file has at least
NEEDED = {
    "filter": ("instruction", "input", "output"),
    "rejected": ("instruction", "stage", "rule"),
}
SEEDS_ASKED = 100  # replies of a journal that are looked at for stage 1
AGAIN = "run the same self_instruct.py command again"
PATHS = ("work_dir", "seed_file", "topics", "output_path", "responses")  # settings that are paths

# What run.json holds, as far as the report reads it. A type, several types of which one fits, or
# a record with a shape for each of its names; "*" stands for all other names.
COUNT = "a whole number from 0 on"
NUMBER = "a number from 0 on"
COUNTS = {"in": COUNT, "out": COUNT, "undone": COUNT, "rejected": {"*": COUNT}, "*": NUMBER}
BILL = {"*": (NUMBER, None)}
SHAPES = {
    "settings": {"*": (str, bool, int, NUMBER)},
    "counts": {**dict.fromkeys(STAGES, COUNTS), "*": COUNT},
    "status": str,
    "ended_at": str,
    "seconds": NUMBER,
    "versions": {"*": str},
    "refused_parameters": {"*": str},
    "undone_because": {"*": COUNT},
    "agreement": {"asked": COUNT, "same": COUNT, "trusted": bool, "*": object},
    "faults": {"*": COUNT},
    "tokens": {"*": {"*": COUNT}},
    "topics": {"*": {"*": COUNT}},
    "spending": {
        "currency": str,
        "price_per_million_tokens": ([NUMBER], str),
        "projected": BILL,
        "stages": {"*": BILL},
        "*": (NUMBER, None),
    },
}
JUDGE = {  # judge.json of scripts/judge.py
    "data": str,
    "data_sha256": str,
    "model": str,
    "status": str,
    "keep": [str],
    "counts": {"rejected": {"*": COUNT}, "*": COUNT},
    "answers": {"*": {"*": COUNT}},
    "probes": {"p": NUMBER, "tells": bool, "*": COUNT},
    "*": object,
}
REWRITE = {  # rewrite.json of scripts/rewrite.py
    "data": {"file": str, "sha256": str, "*": object},
    "model": str,
    "counts": {"fell_back": {"*": COUNT}, "*": COUNT},
    "*": object,
}
HELPED = {  # did_it_help/results.json of scripts/did_it_help.py
    "said": {"paragraphs": [str], "table": [[str]], "*": object},
    "datasets": [{"fingerprints": [str], "*": object}],
    "*": object,
}
LARGEST = 10**15  # no number of a run is larger

# A path from the top of a disk, up to its last part.
LOCAL_PATH = r"""(?x)
    (?<![\w./])
    (?:file:/*|~?/(?:home|Users|root|mnt|media|data|opt|srv|tmp|var|private|Volumes|workspace)/|~/
    |[A-Za-z]:[\\/]|\\\\)
    (?:[^\s'"<>|;,:()\\/]*[\\/])*
"""


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
    judge: dict = field(default_factory=dict)  # judge.json; {} where it is not about these rows
    judged: list[dict] = field(default_factory=list)  # the rows with the judge's answers
    rewrite: dict = field(default_factory=dict)  # rewrite.json; {} where it is of other rows
    rewritten: list[dict] = field(default_factory=list)  # step 5, of that
    topics: str = ""  # the same of the topics; empty: there are none
    helped: dict = field(default_factory=dict)  # what a model learnt from these rows; or {}

    @property
    def language(self) -> str:
        """The language of the run's seed tasks and prompts."""
        return self.settings.get("language", "en")

    @property
    def last(self) -> str:
        """The last stage that has come to something."""
        return [stage for stage in STAGES if stage in self.steps or stage == "generate"][-1]

    def forget_rows(self) -> None:
        """Let go of the rows, once the page's own are made: both would be much memory."""
        self.steps = {stage: [] for stage in self.steps}
        self.rejected = []


def read_run(folder: Path, only: Names | None = None) -> Run:
    """Read what a run has left.

    `only` names what is kept of the rows of a stage, to save memory: 50,000 whole rows take 500
    MB. Raises WorkshopError where nothing is there, or a file is damaged.
    """
    # Each of these files may be missing, but not all of them.
    only = only or {}
    steps = read_steps(folder, only)
    summary = read_summary(folder / "run.json")
    journal = open_journal(folder, summary)
    if not (steps or summary or journal):
        problem = f"{folder} holds no run: run self_instruct.py first"
        raise WorkshopError(f"{problem}, or name its folder with --work-dir")

    # Without run.json nobody knows which run rejected.jsonl is of.
    rejected = []
    if summary and (folder / "rejected.jsonl").exists():
        names = only.get("rejected", ())
        rejected = read_lines(folder / "rejected.jsonl", NEEDED["rejected"], names)

    # Without run.json, settings come from the journal and counts from the step files.
    settings = summary.get("settings") or newest_settings(journal)
    run = Run(folder, summary, settings, {}, steps, rejected, journal=journal)
    run.counts = summary.get("counts") or counted(run)
    run.notices = first_notices(run)
    run.topics = digest_of_topics(run)
    run.seeds = read_seeds(run)
    run.judge, run.judged = read_judge(folder)
    run.rewrite, run.rewritten = read_rewrite(folder)
    run.helped = read_helped(folder, steps.get(STAGES[-1], []))
    return run


def read_helped(folder: Path, rows: list[dict]) -> dict:
    """Whether the data helped a model: what did_it_help.py said, where it lies beside the run.

    Nothing where there is none, or where it is about other rows: less than half of the questions
    that it names are the run's.
    """
    try:
        record = parsed((folder / "did_it_help" / "results.json").read_bytes())
    except OSError:
        return {}
    known = isinstance(record, dict) and record.keys() >= HELPED.keys() - {"*"}
    if not known or not fits(record, HELPED):
        return {}
    ours = {fingerprint(f"{row['instruction']} {row['input']}") for row in rows}
    for dataset in record["datasets"]:
        named = dataset.get("fingerprints", [])
        if named and sum(one in ours for one in named) * 2 >= len(named):
            return record["said"]
    return {}


def read_judge(folder: Path) -> tuple[dict, list[dict]]:
    """What a judge said of the dataset: its record, and the rows with its answers.

    Nothing where there is none, or where it is about other rows than those that stand there now.
    """
    try:
        record = parsed((folder / "judge.json").read_bytes())
        known = isinstance(record, dict) and record.keys() >= JUDGE.keys() - {"*"}
        if not known or not fits(record, JUDGE) or Path(record["data"]).name != record["data"]:
            return {}, []
        data = (folder / record["data"]).read_bytes()
        rows = rows_in(folder / "judged.jsonl")
    except (OSError, ValueError):
        return {}, []
    whole = all(has_texts(row, NEEDED["filter"]) and "rule" in row for row in rows)
    if sha256(data).hexdigest() != record["data_sha256"] or not whole:
        return {}, []
    return record, rows


def rows_in(path: Path) -> list[Any]:
    """The values of the lines of a file. A text may hold U+2028, which ends no line here."""
    text = path.read_text(encoding="utf-8")
    return [parsed(line) for line in text.split("\n") if line]


def read_rewrite(folder: Path) -> tuple[dict, list[dict]]:
    """What rewrite.py did with the dataset: its record, and the rows with both outputs.

    Nothing where there is none, or where it is of other rows than those that stand there now.
    """
    try:
        record = parsed((folder / "rewrite.json").read_bytes())
        known = isinstance(record, dict) and record.keys() >= REWRITE.keys() - {"*"}
        if not known or not fits(record, REWRITE):
            return {}, []
        data = (folder / STEP_FILES[-1]).read_bytes()
        rows = rows_in(folder / "step5_rewritten.jsonl")
    except (OSError, ValueError):
        return {}, []
    whole = all(has_texts(row, (*NEEDED["filter"], "first_output", "rule")) for row in rows)
    made_of = record["data"]
    same = (made_of.get("file"), made_of.get("sha256")) == (
        STEP_FILES[-1],
        sha256(data).hexdigest(),
    )
    return (record, rows) if same and whole else ({}, [])


def read_steps(folder: Path, only: Names) -> dict[str, list[dict]]:
    """The rows of each step file that is there, by stage."""
    steps = {}
    for stage, name in zip(STAGES, STEP_FILES, strict=True):
        if (folder / name).exists():
            needed = NEEDED.get(stage, TEXT)
            steps[stage] = read_lines(folder / name, needed, only.get(stage, ()))
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
    """Whether this has settings, and the counts of all stages, and all in the shape of a run's."""
    # The report cannot do without these.
    if not isinstance(value, dict) or not {"settings", "counts"} <= value.keys():
        return False
    if not fits(value, {**SHAPES, "*": object}):
        return False
    for stage in STAGES:
        if not {"in", "out", "rejected"} <= value["counts"].get(stage, {}).keys():
            return False

    # Settings have the types that they have in Config.
    settings = value["settings"]
    for setting in fields(workshop.Config):
        told = settings.get(setting.name, setting.default)
        if isinstance(told, str) != isinstance(setting.default, str):
            return False
    return settings.get("recipe", "modern") in workshop.RECIPES


def fits(value: Any, shape: Any) -> bool:
    """Whether a value of a JSON file has a shape, as SHAPES writes them."""
    if isinstance(shape, tuple):
        return any(fits(value, one) for one in shape)
    if isinstance(shape, list):
        return isinstance(value, list) and all(fits(one, shape[0]) for one in value)
    if isinstance(shape, dict):
        known = isinstance(value, dict)
        return known and all(fits(one, shape.get(name, shape["*"])) for name, one in value.items())
    if shape in (COUNT, NUMBER):
        return is_number(value, whole=shape == COUNT)
    return value is None if shape is None else isinstance(value, shape)


def is_number(value: Any, whole: bool) -> bool:
    """Whether this is a number that a run can come to."""
    kinds = int if whole else (int, float)
    is_one = isinstance(value, kinds) and not isinstance(value, bool)
    return is_one and 0 <= value <= LARGEST  # NaN is not


def read_lines(
    path: Path, needed: tuple[str, ...], names: tuple[str, ...] = ()
) -> list[dict[str, Any]]:
    """The rows of a JSON Lines file, with these names alone where some are given."""
    rows = each_line(path, needed)
    return [slim(row, names) for row in rows] if names else list(rows)


def slim(row: dict, names: tuple[str, ...]) -> dict:
    """A row with these names alone, its texts shared with other rows."""
    return {name: shared(row[name]) for name in names if name in row}


def shared(value: Any) -> Any:
    """The same value; a text in it that other rows have too is in memory once."""
    if isinstance(value, str):
        return sys.intern(value)
    if isinstance(value, dict):
        return {name: shared(one) for name, one in value.items()}
    return [shared(one) for one in value] if isinstance(value, list) else value


def each_line(path: Path, needed: tuple[str, ...]) -> Iterator[dict]:
    """The rows of a JSON Lines file, one by one.

    Raises WorkshopError at the first line that is no record with the texts that are needed.
    """
    # Bytes that are no UTF-8 become the replacement sign: one of them spoils no report.
    with open(path, encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            row = parsed(line)
            if not has_texts(row, needed):
                problem = f"{path}, line {number} is not of a run: {AGAIN}"
                raise WorkshopError(
                    f"{problem}, which rewrites the file and pays for nothing twice"
                )
            yield row


def has_texts(row: Any, names: tuple[str, ...]) -> bool:
    """Whether this is a record in which each of these names is a text."""
    return isinstance(row, dict) and all(isinstance(row.get(name), str) for name in names)


def open_journal(folder: Path, summary: dict) -> Journal | None:
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
    fits = not elsewhere or has_first_reply(journal, folder)
    if not journal.starts or not fits:
        journal.file.close()
        return None
    return journal


def has_first_reply(journal: Journal, folder: Path) -> bool:
    """Whether a journal has the reply from which the run's first instruction comes."""
    # The step file has its text and its time, which nobody knows who has not read the journal.
    path = folder / STEP_FILES[0]
    first_row = next(each_line(path, TEXT), {}) if path.exists() else {}
    metadata = record_of(first_row.get("metadata"))
    choices = record_of(metadata.get("response")).get("choices")
    first = record_of(choices[0]) if isinstance(choices, list) and choices else {}
    wanted = (first.get("text"), metadata.get("created_at"))
    found = newest_replies(journal)
    return any((record["text"], record.get("created_at")) == wanted for record in found)


def newest_settings(journal: Journal | None) -> dict:
    """Without run.json, what the newest reply of stage 1 was asked with."""
    record = newest_of_stage_1(journal)
    return {name: record[name] for name in (*SHAPE, *WHO, "temperature") if name in record}


def newest_of_stage_1(journal: Journal | None) -> dict:
    """The record of the newest reply of stage 1; {} where there is none."""
    if not journal:
        return {}

    # The later a reply begins in the file, the newer it is.
    for key in sorted(journal.starts, key=journal.starts.get, reverse=True):
        record = journal.get(key)
        if record.get("stage") == "generate":
            return record
    return {}


def digest_of_topics(run: Run) -> str:
    """By what the journal knows the topics of a run; "" where it has none."""
    if run.summary:
        names = run.summary.get("topics", {})
        return workshop.digest_of_topics(names) if names else ""
    return str(newest_of_stage_1(run.journal).get("topics", ""))


def counted(run: Run) -> dict:
    """The counts of run.json, made again of the step files."""

    def through(stage: str) -> list[SimpleNamespace]:
        names = ("instances", "is_classification")
        rows = run.steps.get(stage, [])
        return [SimpleNamespace(**{name: row.get(name) for name in names}) for row in rows]

    dataset = run.steps.get("filter", [])
    results = SimpleNamespace(rejected=[], novelty=[], dataset=dataset, through=through)
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

    # What stage 2 says counts only where the model agrees with people on seed tasks.
    agreement = run.summary.get("agreement", {})
    if agreement.get("trusted") is False:
        notices.append(("untrusted", agreement.get("same", 0), agreement.get("asked", 0)))

    # Each reason stands with the number of its requests.
    undone = run.summary.get("undone_because")
    if undone:
        reasons = "; ".join(f"{number} × {why}" for why, number in without_paths(undone).items())
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
    wanted = {**run.settings, "seed_tasks": run.digest, "topics": run.topics}
    of_stage = cache(lambda stage: settings_of(stage, wanted))
    for record in newest_replies(run.journal):
        record.setdefault("stage", "")
        if "part_of" not in record and is_of_run(record, of_stage(record["stage"])):
            yield record


def newest_replies(journal: Journal) -> Iterator[dict]:
    """The newest reply to each question, in the order in which they came.

    The file is read once from start to end, which is faster than to look up each reply. What the
    journal has not read itself, such as a line that a run is writing now, is left out.
    """
    start = 0
    with open(journal.path, "rb") as lines:
        for line in lines:
            record = record_of(workshop.json_or_none(line))
            if journal.starts.get(record.get("key", "")) == start:
                yield workshop.as_read(record)
            start += len(line)


def settings_of(stage: str, wanted: dict) -> dict[str, Any]:
    """What a stage's replies were asked for with; a setting that is not known is left out."""
    names = WHO
    if stage == "generate":
        names = (*WHO, *SHAPE, "temperature", "seed_tasks")
    elif {"provider", "model"} <= wanted.keys():
        # A stage may have a model of its own.
        named = workshop.who_answered({"settings": wanted}, stage)
        wanted = {**wanted, "provider": named[0], "model": named[1]}
    known = {name: wanted[name] for name in names if wanted.get(name, "") != ""}
    if stage == "generate":
        known["topics"] = wanted["topics"]  # "": there must be none
    return known


def is_of_run(record: dict, wanted: dict[str, Any]) -> bool:
    """Whether a reply was asked for with these settings. What a record lacks is ""."""
    return all(record.get(name, "") == value for name, value in wanted.items())


def views(run: Run) -> Iterator[dict]:
    """What step files keep of the replies, as records of a journal."""
    # The rows in memory may lack what is asked for here: read the files again. Several
    # instructions of stage 1 come from one request: take its reply once.
    seen = set()
    for row in whole_rows(run, "generate"):
        request = row.get("request_idx")
        if request not in seen:
            seen.add(request)
            yield from completion(row)

    # Each task of stages 2 and 3 has a reply of its own.
    for stage in ("classify", "instances"):
        for row in whole_rows(run, stage):
            metadata = row.get("metadata") or {}
            yield {
                "stage": stage,
                "instruction": row["instruction"],
                "finish_reason": metadata.get("finish_reason", ""),
                "text": row.get("response", ""),
            }


def whole_rows(run: Run, stage: str) -> Iterator[dict]:
    """The rows of a step file with all that they have, read once more; none where it is not."""
    path = run.folder / STEP_FILES[STAGES.index(stage)]
    if stage in run.steps:
        yield from each_line(path, TEXT)


def completion(row: dict) -> Iterator[dict]:
    """The reply of stage 1 that a row keeps, where it keeps one; the first row has its prompt."""
    # The shape is that of a completion: metadata -> response -> choices -> the first one.
    metadata = record_of(row.get("metadata"))
    choices = record_of(metadata.get("response")).get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    if isinstance(first, dict) and "request_idx" in row:
        yield {
            "stage": "generate",
            "request_idx": row["request_idx"],
            "prompt": metadata.get("prompt", ""),
            **first,
        }


def record_of(value: Any) -> dict:
    """The value itself where it is a record, else an empty one."""
    return value if isinstance(value, dict) else {}


def reply_of(record: dict, recipe: str) -> Reply:
    """A record's reply as the run read it."""
    text = str(record["text"])
    reply = Reply(text, record.get("finish_reason", ""), prompt=record.get("prompt", ""))
    reply.stop_at([*stops(recipe, record["stage"])])
    return reply


@cache
def stops(recipe: str, stage: str) -> tuple[str, ...]:
    """The texts at which a stage's replies end."""
    sampling = workshop.parameters(workshop.Config(recipe=recipe), stage)
    return tuple(sampling.get("stop", []))


def shareable(settings: dict) -> dict:
    """Settings as a report that is passed on may show them.

    Of paths it shows the last part; of addresses it shows no user's name and no key.
    """
    shown = {name: value for name, value in settings.items() if value != ""}
    for name in shown.keys() & {*PATHS}:
        shown[name] = re.split(r"[\\/]", str(shown[name]).rstrip("\\/"))[-1]

    # A server may call a model by its file.
    for name in [name for name in shown if name == "model" or name.endswith("_model")]:
        shown[name] = without_folders(str(shown[name]))

    # An address: what stands before an @ is a name, and what follows a ? may be a key.
    for name in [name for name in shown if name.endswith("base_url")]:
        shown[name] = re.sub(r"(?<=//)[^/@]*@|\?.*", "", str(shown[name]))
    return shown


def without_folders(model: str) -> str:
    """A model's name; of a path from the top of a disk only the last part."""
    if re.match(r"[\\/~]|[A-Za-z]:[\\/]|file:", model):
        return re.split(r"[\\/]", model.rstrip("\\/"))[-1]
    return model


def without_paths(value: Any) -> Any:
    """The same text, or record, with local paths cut to their last part.

    Servers tell their own paths in what they say about an error.
    """
    if isinstance(value, str):
        return re.sub(LOCAL_PATH, "", value)
    if not isinstance(value, dict):
        return value

    # Two names that become one count together.
    shown: dict[str, Any] = {}
    for name, one in value.items():
        name = without_paths(name)
        both = (shown.get(name), one)
        is_count = all(isinstance(number, int) for number in both)
        shown[name] = sum(both) if is_count else without_paths(one)
    return shown
