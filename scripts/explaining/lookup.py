"""What a run has left about one task, or about one text that a rule turned away."""

from __future__ import annotations

if __name__ == "__main__":  # a part, no program: said before an import fails
    raise SystemExit(
        "lookup.py is a part of scripts/explain.py: run  python scripts/explain.py --help"
    )

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import self_instruct_workshop as workshop
from scripts.reporting.run import Run, records, reply_of
from self_instruct_workshop import Config, InstructionPool, Reply, WorkshopError, one_line

OTHERS = 20  # prompts of a stage that are compared to find what is the same in all of them
SETTINGS = (  # of a run: those that its rules and prompts depend on
    *workshop.SHAPE,
    "recipe",
    "rouge_threshold",
    "num_instructions",
    "max_tokens",
    "instances_per_instruction",
)


@dataclass
class Candidate:
    """A text that the parser read out of a reply of stage 1, and what became of it."""

    text: str
    request: int | None  # the number of the request; None: its reply is not kept
    rule: str = ""  # what turned it away; empty: nothing did
    near: str = ""  # the most similar text of the pool
    score: float | None = None  # ROUGE-L with that; None: not known
    task: dict = field(default_factory=dict)  # its row of step 1, where it was kept

    @property
    def is_known(self) -> bool:
        """Whether the run's files say what became of it."""
        return bool(self.task or self.rule)


@dataclass
class Story:
    """All that the page tells: a candidate, its request, and the records of the later stages."""

    run: Run
    config: Config
    candidate: Candidate
    request: dict  # the journal's record of stage 1; {}: it is not kept
    brothers: list[Candidate]  # all candidates of the request
    asked: dict[str, list[dict]]  # stage 2 and 3 -> records about this instruction, oldest first
    others: dict[str, list[str]]  # stage -> other prompts of the run, as text

    def row(self, stage: str) -> dict:
        """The task's row of a step file, {} where it has none."""
        rows = self.run.steps.get(stage, [])
        return next((row for row in rows if row["instruction"] == self.candidate.text), {})

    @property
    def rows(self) -> list[dict]:
        """The task's rows of the dataset."""
        rows = self.run.steps.get("filter", [])
        return [row for row in rows if row["instruction"] == self.candidate.text]

    def rejected(self, stage: str) -> list[dict]:
        """What a stage turned away of this task."""
        rows = self.run.rejected
        own = self.candidate.text
        return [row for row in rows if row["stage"] == stage and row["instruction"] == own]


def config_of(run: Run) -> Config:
    """The settings of the run, as far as its rules and prompts depend on them."""
    known = {name: run.settings[name] for name in SETTINGS if name in run.settings}
    return Config(**known)


def tell(run: Run, wanted: str) -> Story:
    """Look up one task or text; "" takes a telling one.

    Raises WorkshopError where there is none, or several.
    """
    config = config_of(run)
    requests = {}
    for record in records(run):
        if record["stage"] == "generate" and isinstance(record.get("request_idx"), int):
            requests[record["request_idx"]] = record
    judged = judge(run, config, requests)

    # What stands in a step file, but in no reply that is kept, counts too.
    found = [candidate for group in judged.values() for candidate in group]
    known = {(candidate.text, bool(candidate.task)) for candidate in found}
    for candidate in [*kept_ones(run), *rejected_ones(run)]:
        if (candidate.text, bool(candidate.task)) not in known:
            found.append(candidate)
    chosen = choose(run, found, wanted) if wanted else most_telling(run, judged, found)

    # The request it came from, and what was asked about it later.
    request = requests.get(chosen.request, {})
    asked, others = later_records(run, chosen.text)
    prompts = (workshop.as_text(record["prompt"]) for record in requests.values())
    others["generate"] = list(islice(prompts, OTHERS))
    brothers = judged.get(chosen.request, [])
    find_nearest(run, config, [*brothers, chosen])
    return Story(run, config, chosen, request, brothers, asked, others)


def judge(run: Run, config: Config, requests: dict[int, dict]) -> dict[int, list[Candidate]]:
    """The candidates of every request of stage 1, each with what became of it."""
    recipe = workshop.RECIPES[config.recipe]
    kept = {(one.request, one.text): one for one in kept_ones(run)}
    # A text may be turned away several times: the rows stand in the order of the requests.
    rows: dict[str, deque[Candidate]] = {}
    for one in rejected_ones(run):
        rows.setdefault(one.text, deque()).append(one)

    judged = {}
    for number, record in sorted(requests.items()):
        whole, cut_off = workshop.read_candidates(recipe, stage_reply(record, config))
        group = []
        for text in [*whole, *cut_off]:
            found = kept.pop((number, text), None)
            if not found and rows.get(text):
                found = rows[text].popleft()
            found = found or Candidate(text, number)
            found.request = number
            group.append(found)
        judged[number] = group
    return judged


def stage_reply(record: dict, config: Config) -> Reply:
    """A record's reply as the run read it."""
    return reply_of(record, config.recipe)


def find_nearest(run: Run, config: Config, candidates: list[Candidate]) -> None:
    """Fill in the nearest neighbour where a run notes none: another rule decided before it.

    The pool is what it was then: the seed tasks, and the tasks of earlier replies.
    """
    missing = [one for one in candidates if not one.near and one.request is not None]
    if not missing or not run.seeds:
        return
    pool = InstructionPool(config.recipe)
    for task in run.seeds:
        pool.add(task.instruction)
    requests = [one.request for one in missing]
    for one in kept_ones(run):
        if one.request is not None and one.request < min(requests):
            pool.add(one.text)
    for one in missing:
        one.near, one.score = pool.nearest(one.text, 1)[0]


def kept_ones(run: Run) -> Iterable[Candidate]:
    """What step 1 has."""
    for row in run.steps.get("generate", []):
        # The official code's own files have this in another shape.
        similar = row.get("most_similar")
        nearest = similar[0] if isinstance(similar, list) and similar else {}
        request = row.get("request_idx")
        yield Candidate(
            row["instruction"],
            request if isinstance(request, int) else None,
            near=str(nearest.get("instruction", "")),
            score=nearest.get("score"),
            task=row,
        )


def rejected_ones(run: Run) -> Iterable[Candidate]:
    """What stage 1 turned away."""
    for row in run.rejected:
        if row["stage"] == "generate":
            near = row.get("evidence") or ""
            score = row.get("score") if near else None
            yield Candidate(row["instruction"], None, row["rule"], near, score)


def choose(run: Run, found: list[Candidate], wanted: str) -> Candidate:
    """The candidate with this id, or with this text, or the only one that begins with it.

    Raises WorkshopError where there is none, or more than one.
    """
    # An id of the step files, or its number alone.
    ids = {str(one.task["id"]): one for one in found if "id" in one.task}
    for name in (wanted.strip(), f"machine_task_{wanted.strip()}"):
        if name in ids:
            return ids[name]

    # A text: what was kept goes before what was turned away.
    begins = workshop.folded(wanted)
    fitting = [one for one in found if workshop.folded(one.text).startswith(begins)]
    whole = [one for one in fitting if workshop.folded(one.text) == begins]
    fitting = sorted(whole or fitting, key=lambda one: not one.task)
    texts = list(dict.fromkeys(one.text for one in fitting))
    if len(texts) == 1 or whole:
        return fitting[0]
    shown = f"{one_line(wanted, 60)!r}"
    if texts:
        several = f"{len(texts)} texts in {run.folder} begin with {shown}"
        raise WorkshopError(f"{several}: give more of one, as {one_line(texts[0], 60)!r}")
    problem = f"no task in {run.folder} has the id {shown}, and no text begins so"
    example = next(iter(ids), "machine_task_0")
    where = "step1_instructions.jsonl and rejected.jsonl"
    raise WorkshopError(f"{problem}: ids are like {example}; all of them stand in {where}")


def most_telling(run: Run, judged: dict[int, list[Candidate]], found: list[Candidate]) -> Candidate:
    """A task of the request whose candidates met the most different ends.

    Raises WorkshopError where the run has no candidate at all.
    """
    ends = {number: {one.rule for one in group} for number, group in judged.items()}
    numbers = sorted(judged, key=lambda number: -len(ends[number]))
    groups = [[one for one in judged[number] if one.task] for number in numbers]
    groups = [group for group in groups if group] or [found]
    if not groups[0]:
        problem = f"{run.folder} has no candidate of stage 1 yet"
        raise WorkshopError(f"{problem}: run the same self_instruct.py command again")

    # Of its tasks one that went the whole way, and was asked about twice.
    complete = {row["instruction"] for row in run.steps.get("filter", [])}
    steps = run.steps.get("instances", [])
    twice = {row["instruction"] for row in steps if any(row.get("second_answers") or [])}
    return max(groups[0], key=lambda one: (one.text in complete) + (one.text in twice))


def later_records(run: Run, instruction: str) -> tuple[dict, dict]:
    """What stages 2 and 3 were asked about an instruction, and some of their other prompts."""
    asked: dict[str, list[dict]] = {"classify": [], "instances": []}
    others: dict[str, list[str]] = {"classify": [], "instances": [], "lists": [], "again": []}
    for record in records(run):
        stage = record["stage"]
        if stage not in asked:
            continue
        listed = record.get("instructions") or []
        if record.get("instruction") == instruction or instruction in listed:
            asked[stage].append(record)

        # Prompts of one kind are compared: a list, a second answer, and a first question.
        is_answer = (record.get("sample") or 0) > 0
        kind = "lists" if listed else "again" if is_answer else stage
        if len(others[kind]) < OTHERS and record.get("prompt"):
            others[kind].append(workshop.as_text(record["prompt"]))
    return asked, others


def has_run(folder: Path) -> bool:
    """Whether a folder holds something of a run."""
    names = ("run.json", "responses.jsonl", *workshop.STEP_FILES)
    files = [folder / name for name in names]
    return any(path.is_file() and path.stat().st_size > 0 for path in files)
