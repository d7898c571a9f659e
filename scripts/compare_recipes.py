"""Read the replies of a run once more by both recipes, `modern` and `paper`, and show what each makes of them.

    python scripts/compare_recipes.py                                a second; data/workshop, after any run
    python scripts/compare_recipes.py WORK_DIR --seed-file FILE      a minute for 50,000 replies

Asks nothing and writes nothing: the journal, responses.jsonl, has it all; of several runs in it, the newest counts. In
stage 1 each recipe has a pool of its own, which begins with the seed tasks. Stages 2 to 4 are about the instructions
that the run itself kept. Both columns read replies to the run's own prompts, `paper` up to its stop strings; what the
prompts of the other recipe would have brought, no journal can say. How many instructions were wanted, and how novel,
is in run.json; without it every candidate that is fit, and novel at 0.7, is kept.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, fields
from itertools import zip_longest
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import self_instruct_workshop as workshop
from self_instruct_workshop import RECIPES, Config, Journal, Model, Reply, RequestFailed, Results, Task, one_line

Outcome = tuple[str, tuple[str, ...]]  # the verdict, "kept" or a rule, and on what: (task,) or (input, output)
REPLY = {f.name for f in fields(Reply)}
NOT_THE_RUN = {"version", "key", "attempt", "request_idx", "max_tokens", "parameters", "base_url", *REPLY}
NEEDED = {"stage", "attempt", "provider", "model", "recipe", *REPLY}
NEEDED_TOO = {"generate": {"request_idx", "seed", "language", "seed_tasks"}}
TITLES = {"generate": "Stage 1, candidates", "classify": "Stage 2, answers", "instances": "Stages 3 and 4, instances"}
ANSWERS = {True: "Yes", False: "No", None: "unread"}


class Recorded(Model):
    """A model that answers from a journal, whichever recipe asks; where a second try is not there, with the first."""

    def __init__(self, config: Config, journal: Journal, keys: dict[tuple, str]) -> None:
        self.config, self.journal, self.keys = config, journal, keys
        self.results, self.undone, self.stop = Results(), [], threading.Event()
        self.read: dict[tuple, tuple[str, dict[str, Outcome]]] = {}  # (stage, which) -> reply, text -> its outcome
        self.cut: Counter[str] = Counter()  # stage -> replies that max_tokens cut
        self.columns: dict[str, dict[str, int]] = {}  # stage -> this recipe's figures, row by row

    def ask_once(self, stage: str, attempt: int, prompt: str, parameters: dict, question: dict) -> Reply:
        which = question.get("request_idx", question.get("instruction"))
        key = next(filter(None, (self.keys.get((stage, which, n)) for n in (attempt, 0, 1))), None)
        if not key:
            raise RequestFailed("not in the journal")
        record = self.journal.get(key)
        reply = Reply(**{name: record[name] for name in REPLY} | several(record, key))
        reply.stop_at(parameters.get("stop", []))
        return reply

    def note(self, stage: str, which: Any, reply: str, finish_reason: str, made: list[Outcome]) -> None:
        """Keep what became of a reply; texts that differ in capitals or space are one text."""
        self.cut[stage] += finish_reason == "length"
        outcomes: dict[str, Outcome] = {}
        for verdict, texts in made:
            outcomes.setdefault(" ".join(" ".join(texts).casefold().split()), (verdict, texts))
        self.read[stage, which] = reply, outcomes


@dataclass
class Difference:
    """A candidate, an answer or an instance of which the recipes make two things."""

    stage: str
    reply: str
    modern: Outcome
    paper: Outcome

    @property
    def kind(self) -> tuple[str, str]:
        """The stage and the two verdicts; where both keep something, in what it differs."""
        (ours, one), (theirs, other) = self.modern, self.paper
        how = "with other capitals" if [*map(str.casefold, one)] == [*map(str.casefold, other)] else "with another text"
        return self.stage, f"{ours} | {theirs}" + f", {how}" * (ours == theirs)


def open_run(path: Path) -> tuple[Journal, dict, dict[tuple, str]]:
    """The journal, what all questions of its newest run share, and the key of each reply: (stage, which, attempt)."""
    try:
        journal = Journal(path, "rb")
    except OSError as error:
        raise workshop.WorkshopError(f"cannot read {path} ({error.strerror}): give the folder of a run") from None
    newest_first, run = sorted(journal.starts, key=lambda key: -journal.starts[key]), {}
    for key in newest_first:
        record = journal.get(key)
        needed = {"instructions" if "answers" in record else "instruction"}
        complete = NEEDED | NEEDED_TOO.get(record.get("stage"), needed) <= record.keys()
        if not complete or len(record.get("instructions", ())) != len(record.get("answers", ())):
            raise workshop.WorkshopError(f"{path}: the line with the key {one_line(key)} is no reply: delete that line")
        if record["stage"] == "generate" and not run:
            run = {name: value for name, value in record.items() if name not in NOT_THE_RUN}
    if not run:
        raise workshop.WorkshopError(f"{path} holds no reply of stage 1: run self_instruct.py first")
    keys: dict[tuple, str] = {}
    for record in map(journal.get, newest_first):
        shared = run if record["stage"] == "generate" else ("provider", "model", "recipe")
        if all(record.get(name) == run[name] for name in shared):
            answers = record.get("answers", {})
            asked = zip(record.get("instructions", ()), answers, strict=True)
            alone = (record.get("request_idx", record.get("instruction")), record["key"])
            for which, key in [*asked] or [alone]:
                if answers.get(key) != "":  # of a list that could not be read; its tasks were asked about one by one
                    keys.setdefault((record["stage"], which, record["attempt"]), key)
    return journal, run, keys


def several(record: dict, key: str) -> dict:
    """Of a reply to several questions, what it says to one."""
    return {"text": record["answers"][key], "finish_reason": "stop"} if key in record.get("answers", {}) else {}


def limits(folder: Path, run: dict) -> dict:
    """What the journal does not say: how many instructions were wanted, and how novel; from the same run's run.json."""
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        told = json.loads((folder / "run.json").read_text(encoding="utf-8"))["settings"]
        if all(told[name] == run[name] for name in told.keys() & run.keys()):
            return {name: told[name] for name in ("num_instructions", "rouge_threshold")}
    return {"num_instructions": sys.maxsize}


def read_seeds(path: str, run: dict) -> list[Task]:
    seeds = workshop.load_seed_tasks(path or workshop.DEFAULT_SEEDS.get(run["language"], workshop.DEFAULT_SEEDS["en"]))
    if workshop.digest(seeds) != run["seed_tasks"]:
        print("notice: the run had other seed tasks: give them as --seed-file, or novelty may differ", file=sys.stderr)
    return seeds


def generate(model: Recorded, seeds: list[Task]) -> None:
    """Stage 1 over again, in request order, with a pool of this recipe's own."""
    config, results, pool = model.config, model.results, workshop.InstructionPool(model.config.recipe)
    for task in seeds:
        pool.add(task.instruction)
    for i in sorted({which for stage, which, _ in model.keys if stage == "generate"}):
        accepted, rejected = len(results.tasks), len(results.rejected)
        try:
            reply = model.ask("generate", "", workshop.parameters(config, "generate"), {"request_idx": i})
        except RequestFailed as failure:
            model.undone.append(("generate", str(failure)))
            continue
        workshop.take_candidates(config, pool, reply, i, results)
        made = [("kept", (task.instruction,)) for task in results.tasks[accepted:]]
        made += [(row["rule"], (row["instruction"],)) for row in results.rejected[rejected:]]
        model.note("generate", i, reply.text, reply.finish_reason, made)
    model.columns["generate"] = column(model, "generate")


def answer(model: Recorded, instructions: list[str]) -> None:
    """Stages 2, 3 and 4 over again."""
    results, made = model.results, defaultdict(list)
    results.tasks = tasks = [Task(str(n), text) for n, text in enumerate(instructions)]
    for stage in workshop.STAGE_FUNCTIONS[1:]:
        tasks = stage(model.config, model, tasks)
    for row in results.dataset:
        made[row["instruction"]].append(("kept", (row["input"], row["output"])))
    for row in results.rejected:
        if row["stage"] in ("instances", "filter"):
            pair = () if row["rule"] == "no_instance" else (row["input"], row["output"])
            made[row["instruction"]].append((row["rule"], pair))
    for task in results.tasks:
        for stage, notes in task.notes.items():
            outcomes = [(ANSWERS[task.is_classification], ())] if stage == "classify" else made[task.instruction]
            finish_reason = notes["metadata"].get("finish_reason", "stop")
            model.note(stage, task.instruction, notes["response"], finish_reason, outcomes)
    model.columns |= {stage: column(model, stage) for stage in ("classify", "instances")}


def column(model: Recorded, stage: str) -> dict[str, int]:
    """The figures of a stage, as the pipeline itself counts them."""
    counts, rows = workshop.count(model), {"replies": sum(name == stage for name, _ in model.read)}
    rows |= {"  cut at max_tokens": model.cut[stage], "no reply": counts[stage]["undone"]}
    if stage == "classify":
        names = ("classification", "not_classification", "unknown")
        return rows | {answer: counts[stage][name] for answer, name in zip(ANSWERS.values(), names, strict=True)}
    if stage == "instances":
        rows["replies without an instance"] = counts[stage]["rejected"].get("no_instance", 0)
    part = counts["filter" if stage == "instances" else stage]
    rows |= {"instances" if stage == "instances" else "candidates": part["in"], "kept": part["out"]}
    return rows | {f"  - {rule}": n for rule, n in part["rejected"].items()}


def table(models: list[Recorded], stage: str) -> str:
    lines = [f"{TITLES[stage]:<32}" + "".join(f"{model.config.recipe:>9}" for model in models)]
    for name in dict.fromkeys(name for model in models for name in model.columns[stage]):
        lines.append(f"{name:<32}" + "".join(f"{model.columns[stage].get(name, 0):>9}" for model in models))
    return "\n".join(lines)


def differences(modern: Recorded, paper: Recorded) -> Iterator[Difference]:
    """What the recipes judge in two ways, or keep as two texts; `not_needed` is no judgement."""
    for (stage, which), (reply, ours) in modern.read.items():
        heard, theirs = paper.read.get((stage, which), ("", {}))
        pairs = [(one, theirs.get(same(text, theirs), missed(text, reply, heard))) for text, one in ours.items()]
        pairs += [(("not found", ()), other) for text, other in theirs.items() if same(text, ours) is None]
        for one, other in pairs:
            verdicts = {one[0], other[0]}
            if one != other and (verdicts == {"kept"} or len(verdicts - {"not_needed"}) > 1):
                yield Difference(stage, reply, one, other)


def same(text: str, others: Collection[str]) -> str | None:
    """The one of `others` that is the text, holds it, or is held by it, as where one recipe splits what is whole."""
    near = [text] * (text in others) or [one for one in others if one and (one in text or text in one)]
    return near[0] if near else "" if "" in others else None


def missed(text: str, reply: str, heard: str) -> Outcome:
    """Why `paper` did not find a text: mostly, a stop string came before it."""
    stopped = len(heard) < len(reply) and text not in " ".join(heard.casefold().split())
    return "behind a stop" if stopped else "not found", ()


def by_kind(found: list[Difference]) -> dict[tuple, list[Difference]]:
    """The kinds of difference, by turns from each stage, its frequent ones first."""
    kinds = defaultdict(list)
    for difference in found:
        kinds[difference.kind].append(difference)
    often = sorted(kinds, key=lambda kind: -len(kinds[kind]))
    turns = zip_longest(*([kind for kind in often if kind[0] == stage] for stage in TITLES))
    return {kind: kinds[kind] for turn in turns for kind in turn if kind}


def example(difference: Difference, often: int) -> str:
    """What the reply said, and what each recipe made of it; long texts from where they differ."""
    outcomes, reply = (difference.modern, difference.paper), " ".join(difference.reply.split())
    starts = [start_of(*texts) for texts in zip_longest(*(texts for _, texts in outcomes), fillvalue="")]
    shown = [["…" * bool(at) + text[at:] for text, at in zip(texts, starts, strict=False)] for _, texts in outcomes]
    at = max(0, reply.find(" ".join((shown[0] or shown[1] or [""])[0].strip("…").split())[:20]) - 20)
    lines = [f"{TITLES[difference.stage].split(',')[0]}, {difference.kind[1]} ({often} such)"]
    lines.append(f"    reply   {'…' * bool(at)}{one_line(reply[at:])}")
    for recipe, (verdict, _), texts in zip(RECIPES, outcomes, shown, strict=True):
        parts = " -> ".join(one_line(text, 96 // len(texts)) or "(empty)" for text in texts)
        lines.append(f"    {recipe:<8}{verdict}{': ' * bool(parts)}{parts}")
    return "\n".join(lines)


def start_of(one: str, other: str) -> int:
    """Where to begin so that the place at which two texts part is seen."""
    at = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), 0)
    return at - 20 if at > 40 else 0


def compare(folder: Path, seed_file: str) -> str:
    """All tables, and five examples."""
    journal, run, keys = open_run(folder / "responses.jsonl")
    told, seeds = limits(folder, run), read_seeds(seed_file, run)
    models = [Recorded(Config(recipe=recipe, seed=run["seed"], **told), journal, keys) for recipe in RECIPES]
    for model in models:
        generate(model, seeds)
    kept = [task.instruction for task in models[RECIPES.index(run["recipe"])].results.tasks]
    for model in models:
        answer(model, kept)
    journal.file.close()
    kinds = by_kind(list(differences(*models)))
    chosen = [difference for turn in zip_longest(*kinds.values()) for difference in turn if difference][:5]
    n = len({journal.starts[key] for key in keys.values()})
    head = f"{n} replies of {one_line(run['model'])} to the prompts of the recipe {run['recipe']}, read by both"
    total = f"differences: {sum(map(len, kinds.values()))}, of {len(kinds)} kinds (modern | paper); "
    total += f"{len(chosen)} of them:"
    examples = [example(difference, len(kinds[difference.kind])) for difference in chosen]
    return "\n\n".join([head, *(table(models, stage) for stage in TITLES), total, *examples])


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work_dir", nargs="?", type=Path, default=Path(Config.work_dir), help="folder of the run")
    parser.add_argument("--seed-file", default="", help="its seed tasks [the project's own, in the run's language]")
    options = parser.parse_args(arguments)
    return workshop.main(None, lambda _: print(compare(options.work_dir, options.seed_file)))


if __name__ == "__main__":
    sys.exit(main())
