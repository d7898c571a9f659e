"""How right the program is with real models: stage 2 on labelled tasks, and one whole run.

    python tests/bench/real_models.py --base-url http://127.0.0.1:8101/v1
                      half an hour with a model of 1.5B on one core; no key, no part of CI
    python tests/bench/real_models.py --base-url URL --tasks 60 --parts stage2
                      a few minutes: stage 2 on a sample
    python tests/bench/real_models.py --base-url URL --recipe paper --parts run
                      a base model, which has no stage 2 in turns of a chat

Any OpenAI-compatible server does. Several --base-url are measured one after the other. Every reply
is kept in the journals below --folder, so the same command goes on where it stopped. What is
printed is also written below --folder as figures.md; figures that count go into real_models.md.

Stage 2 is asked about the seed tasks and about 200 tasks of the practice bank, all of which have
labels by people. Macro F1 is the mean of the F1 of both labels; an answer that cannot be read is
wrong. The run of 60 instructions is the program itself, and its rows are judged by people:
`python scripts/review.py score SHEET`, with the sheets that this program writes.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import self_instruct  # noqa: E402
import self_instruct_workshop as workshop  # noqa: E402
from scripts import review  # noqa: E402
from scripts.asking import together  # noqa: E402
from self_instruct_workshop import Config, Model, Task  # noqa: E402

BANK = 200  # tasks of the practice bank, in proportion to its languages
LIST = 10  # tasks in a list, as --classify-together has it
LANGUAGES = ("en", "zh")


# --------------------------------------------------------------------------------------------------
# Stage 2.


def labelled_tasks(language: str, most: int) -> dict[str, list[Task]]:
    """Tasks with people's labels: the seeds, and a part of the bank."""
    rng = random.Random(1)
    seeds = workshop.load_seed_tasks(workshop.DEFAULT_SEEDS[language])
    rows = workshop.read_data("practice_tasks", language)
    bank = [Task(row["id"], row["instruction"], row["is_classification"]) for row in rows]
    share = BANK * len(bank) // len(workshop.read_data("practice_tasks"))
    drawn = rng.sample(bank, min(share, len(bank)))
    sets = {}
    for name, tasks in (("seeds", seeds), ("of the bank", drawn)):
        chosen = rng.sample(tasks, min(most or len(tasks), len(tasks)))
        sets[f"{len(chosen)} {name}, {language}"] = chosen
    return sets


def one_by_one(config: Config, model: Model, tasks: list[Task]) -> list[bool | None]:
    """What stage 2 says when it asks about each task alone."""
    replies = model.ask_each("probes", partial(workshop.ask_probe, config, model), tasks)
    return [
        workshop.read_options(config, task.instruction, reply.text)[0] if reply else None
        for task, reply in replies
    ]


def in_lists(config: Config, model: Model, tasks: list[Task]) -> list[bool | None]:
    """What stage 2 says when it asks about ten tasks at a time."""
    groups = [tasks[i : i + LIST] for i in range(0, len(tasks), LIST)]
    said: list[bool | None] = []
    for group, reply in model.ask_each("probes", partial(together.ask_probes, model), groups):
        answers = [""] * len(group)
        if reply:
            answers = together.numbered_answers(config, reply, len(group))
        texts = [task.instruction for task in group]
        read = map(partial(workshop.read_options, config), texts, answers)
        said += [answer for answer, _ in read]
    return said


def score(tasks: list[Task], said: list[bool | None]) -> str:
    """Accuracy, macro F1, share of classification, share unread: cells of a table."""
    pairs = Counter(zip((bool(task.is_classification) for task in tasks), said, strict=True))
    right = pairs[True, True] + pairs[False, False]
    f1 = []
    for label in (True, False):
        hit = pairs[label, label]
        wrong = pairs[not label, label]
        missed = pairs[label, not label] + pairs[label, None]
        f1.append(2 * hit / (2 * hit + wrong + missed) if hit else 0.0)
    yes = sum(answer is True for answer in said)
    unread = sum(answer is None for answer in said)
    shares = (right, yes, unread)
    accuracy, yes_share, unread_share = (f"{n / len(said):.3f}" for n in shares)
    return f"{accuracy} | {sum(f1) / 2:.3f} | {yes_share} | {unread_share}"


def stage_2(options: argparse.Namespace, url: str, folder: Path) -> Iterator[str]:
    """A line of the table for each set of tasks and each way to ask."""
    yield "| stage 2 | asked | accuracy | macro F1 | share of Yes | unread |"
    yield "|---|---|---|---|---|---|"
    ways = {"one": ("one by one", one_by_one), "lists": (f"in lists of {LIST}", in_lists)}
    for language in options.languages:
        for way, ask in (ways[name] for name in options.ways):
            for name, tasks in labelled_tasks(language, options.tasks).items():
                config = settings(options, url, folder / f"stage2_{language}", language)
                with Model(config) as model:
                    said = ask(config, model, tasks)
                yield f"| {name} | {way} | {score(tasks, said)} |"


# --------------------------------------------------------------------------------------------------
# A whole run.


def whole_run(options: argparse.Namespace, url: str, folder: Path) -> Iterator[str]:
    """A line of the table for the run of each language, and its sheet for review.py."""
    yield "| run | exit | requests | tokens a row | kept; rejected | labels | copied | rows |"
    yield "|---|---|---|---|---|---|---|---|"
    for language in options.languages:
        work = folder / f"run_{language}"
        config = settings(options, url, work, language)
        code = self_instruct.main(flags(config))
        summary = json.loads((work / "run.json").read_text(encoding="utf-8"))
        yield f"| {language} | {code} | {cells_of(summary, rows_of(work, 3), language)} |"
        if rows_of(work, 3):
            sheet = ["--data", str(work / workshop.STEP_FILES[3]), "--out", str(work / "review")]
            review.main(["sample", *sheet, "--num", str(options.num), "--language", language])


def flags(config: Config) -> list[str]:
    """The command line of a run with these settings."""
    names = ("provider", "base_url", "model", "recipe", "language", "num_instructions", "seed")
    names += ("concurrency", "request_timeout", "deadline", "work_dir")
    given = [("--" + name.replace("_", "-"), str(getattr(config, name))) for name in names]
    return [text for flag, value in given if value for text in (flag, value)] + ["--yes"]


def cells_of(summary: dict, rows: list[dict], language: str) -> str:
    """The figures of a run."""
    spent = sum(map(Counter, summary["tokens"].values()), Counter())
    made, classified = (summary["counts"].get(stage, {}) for stage in ("generate", "classify"))
    turned_away = ", ".join(f"{rule} {n}" for rule, n in made["rejected"].items()) or "none"
    names = ("classification", "not_classification", "unknown")
    labels = " / ".join(str(classified.get(name, "–")) for name in names)
    agreement = summary.get("agreement") or {}
    labels += f" ({agreement.get('same', 0)} of {agreement.get('asked', 0)} seeds)"
    copied = sum(is_copied(row, language) for row in rows)
    tokens = round((spent["prompt"] + spent["reply"]) / max(1, len(rows)))
    cells = (spent["replies"], tokens, f"{made['out']}; {turned_away}", labels, copied, len(rows))
    return " | ".join(map(str, cells))


def is_copied(row: dict, language: str) -> bool:
    """Whether a row has the input or a long output of any worked example, in its prompt or not."""
    shots = workshop.RECIPES["modern"].shots("instances", language)
    examples = [instance for shot in shots for instance in shot["instances"]]
    inputs = {workshop.folded(example["input"]) for example in examples}
    outputs = {
        workshop.folded(example["output"]) for example in examples if len(example["output"]) > 20
    }
    return (
        workshop.folded(row["input"]) in inputs - {""} or workshop.folded(row["output"]) in outputs
    )


def rows_of(folder: Path, stage: int) -> list[dict]:
    """The rows of a step file; none where it is not there."""
    path = folder / workshop.STEP_FILES[stage]
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# --------------------------------------------------------------------------------------------------
# The program.


def settings(options: argparse.Namespace, url: str, work: Path, language: str) -> Config:
    """The settings of a run, all at their defaults but for the time that a slow server may take."""
    return Config(
        provider="local",
        base_url=url,
        model=options.model,
        recipe=options.recipe,
        language=language,
        num_instructions=options.num,
        seed=1,
        concurrency=1,
        request_timeout=900.0,
        deadline=3000.0,
        work_dir=str(work),
    )


def measured_on(url: str, model: str) -> str:
    """When, on which commit, on what, and which model: the title of a block of figures."""
    commit = "unknown commit"
    with suppress(OSError, subprocess.CalledProcessError):
        told = subprocess.check_output(["git", "-C", str(ROOT), "describe", "--always", "--dirty"])
        commit = told.decode().strip()
    day = datetime.now(UTC).date()
    return f"### {model}, {day}, {commit}, Python {platform.python_version()}"


def measure(options: argparse.Namespace, url: str) -> None:
    """Measure one server; print its figures, and write them down as they come."""
    with Model(settings(options, url, options.folder / "name", "en")) as model:
        name = model.model
    safe = "".join(letter if letter.isalnum() or letter in ".-" else "_" for letter in name)
    folder = options.folder / f"{safe}_{options.recipe}"
    folder.mkdir(parents=True, exist_ok=True)
    title = measured_on(url, name)
    title += f", recipe {options.recipe}" if options.recipe != "modern" else ""

    # What was measured is on disk before the next part begins.
    with open(folder / "figures.md", "a", encoding="utf-8") as file:
        for part in options.parts:
            figures = {"stage2": stage_2, "run": whole_run}[part](options, url, folder)
            for line in ["", title, "", *figures]:
                workshop.show(line)
                file.write(line + "\n")
            file.flush()


def main(arguments: list[str] | None = None) -> int:
    """Measure each server in turn; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    add = parser.add_argument
    add(
        "--base-url",
        action="append",
        required=True,
        metavar="URL",
        help="a server; may be repeated",
    )
    add("--model", default="", help="its model [the first that the server lists]")
    add("--recipe", choices=tuple(workshop.RECIPES), default="modern", help="[modern]")
    add("--parts", nargs="+", choices=("stage2", "run"), default=["stage2", "run"], help="[both]")
    add("--ways", nargs="+", choices=("one", "lists"), default=["one", "lists"], help="[both]")
    add("--languages", nargs="+", choices=LANGUAGES, default=list(LANGUAGES), help="[en zh]")
    add("--tasks", type=int, default=0, help="labelled tasks of each set [0: all]")
    add("--num", type=int, default=60, help="instructions of the run [60]")
    add(
        "--folder",
        type=Path,
        default=Path("real_models"),
        help="journals and figures [real_models]",
    )
    options = parser.parse_args(arguments)
    for url in options.base_url:
        measure(options, url)
    return 0


if __name__ == "__main__":
    sys.exit(main())
