"""What a measurement leaves in its folder: results.json, answers.jsonl, the card and the page.

results.json holds all that the card and the page show. The texts of the answers stand in
answers.jsonl, and in the journal. No path of this machine stands in any of them.
"""

from __future__ import annotations

if __name__ == "__main__":  # a part, no program: said before an import fails
    raise SystemExit(
        "record.py is a part of scripts/did_it_help.py: run  python scripts/did_it_help.py --help"
    )

import json
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import self_instruct_workshop as workshop
from scripts.helping import data, page, said, scores, trained
from scripts.helping.scores import Measured
from scripts.reading.records import object_in
from scripts.training import shared
from self_instruct_workshop import Reply, UsageError

if TYPE_CHECKING:
    from scripts.did_it_help import Study

RESULTS = "results.json"
ANSWERS = "answers.jsonl"
CARD = "README.md"
PAGE = "did_it_help.html"
# What must be the same in every call on one folder. More seeds and a control may be added.
SETTINGS = ("steps", "lr", "lora_r", "max_length", "max_new_tokens", "batch_size", "dtype", "seed")


def identity(study: Study) -> dict[str, Any]:
    """What makes a measurement this one."""
    options = study.options
    asked = [[one.text, one.output] for one in study.held_out.questions]
    same = {"base": base_name(options.model), "form": "chat" if study.chat else "plain"}
    same |= {name: getattr(options, name) for name in SETTINGS}
    same["load_in_4bit"] = options.load_in_4bit
    same["data"] = [dataset.digest for dataset in study.datasets]
    same["questions"] = sha256(json.dumps(asked).encode()).hexdigest()
    return same


def base_name(model: str) -> str:
    """The name of a model without the folders above it."""
    return Path(model).name if Path(model).is_dir() else model


def check_same(study: Study) -> None:
    """Raise UsageError where the folder holds another measurement, or something else."""
    out = study.options.out
    if not out.is_dir() or not any(out.iterdir()):
        return
    advice = "give another --out, or delete that folder to measure anew"
    before = read(out)
    if not before and {path.name for path in out.iterdir()} - {"adapters", "answers_replies"}:
        raise UsageError(f"{out} holds other files: {advice}")
    wanted = json.loads(json.dumps(identity(study)))
    known = before.get("identity", wanted)
    changed = ", ".join(name for name in wanted if known.get(name) != wanted[name])
    if changed:
        raise UsageError(f"{out} holds a measurement with other settings ({changed}): {advice}")


def read(folder: Path) -> dict[str, Any]:
    """The results in a folder; {} where there are none that can be read."""
    return object_in(folder / RESULTS)


def write(study: Study) -> dict[str, Any]:
    """Write all files anew, with the models that are done; returns the results."""
    results = results_of(study)
    rows = answer_rows(study)
    out = study.options.out
    out.mkdir(parents=True, exist_ok=True)
    shown = {
        RESULTS: json.dumps(results, ensure_ascii=False, indent=1) + "\n",
        ANSWERS: "".join(map(workshop.to_json, rows)),
        CARD: page.card(results),
        PAGE: page.html_page(results, rows),
    }
    for name, text in shown.items():
        workshop.write_whole(out / name, [text])
    return results


def answer_rows(study: Study) -> list[dict[str, Any]]:
    """A row for each question: the reference, and what each model answered."""
    rows = []
    for number, one in enumerate(study.held_out.questions):
        row = {"id": one.id, "instruction": one.instruction, "input": one.input}
        row |= {"reference": one.output, "labels": list(one.labels), "answers": {}}
        for name, replies in study.replies.items():
            reply = replies[number]
            figures = asdict(scores.measured(one, reply))
            row["answers"][name] = {"text": reply.text, **figures}
        rows.append(row)
    return rows


# --------------------------------------------------------------------------------------------------
# The results.


def results_of(study: Study) -> dict[str, Any]:
    """All that the card and the page show."""
    options = study.options
    runs = measured_runs(study)
    todo = [one.name for one in study.learners if one.name not in study.replies]
    device, dtype = shared.device_and_dtype(options.dtype)
    results = {
        "program": "scripts/did_it_help.py",
        "status": "unfinished" if todo else "done",
        "todo": todo,
        "language": study.language,
        "identity": identity(study),
        "base": base_name(options.model),
        "form": "chat" if study.chat else "plain",
        "device": device,
        "dtype": dtype,
        "seeds": sorted({learner.seed for learner in study.learners}),
        "datasets": [told_of(study, group) for group in own_groups(study)],
        "held_out": told_of_questions(study),
        "versions": trained.versions(),
        "table": table(study, runs),
        "verdicts": verdicts(study, runs),
        "models": models(study),
        "curves": curves(study),
    }
    texts = {"paragraphs": said.paragraphs(results), "table": said.table(results)}
    return results | {"said": texts}


def own_groups(study: Study) -> list[str]:
    """The groups of models that learn from something, in the order of the table."""
    return list(dict.fromkeys(learner.group for learner in study.learners))


def told_of(study: Study, group: str) -> dict[str, Any]:
    """What a group of models learns from."""
    options = study.options
    dataset = next(one.dataset for one in study.learners if one.group == group)
    done = [study.figures[name] for name in names_of(study, group)]
    told = {"group": group, "name": dataset.name, "file": dataset.file, "sha256": dataset.digest}
    told |= {"rows": len(dataset.rows), "left_out": dict(dataset.left_out)}
    told["fingerprints"] = data.fingerprints(dataset.rows)
    if done:
        told["examples"] = done[0]["examples"]
        told["clipped"] = done[0]["clipped"]
        told["epochs"] = round(trained.epochs(options, done[0]["examples"]), 2)
        told["seconds"] = [one["seconds"] for one in done]
    return told


def names_of(study: Study, group: str) -> list[str]:
    """The models of a group that have answered, one a seed."""
    names = [learner.name for learner in study.learners if learner.group == group]
    return [name for name in names if name in study.replies]


def told_of_questions(study: Study) -> dict[str, Any]:
    """How the questions were chosen."""
    held_out = study.held_out
    return {
        "file": held_out.file,
        "sha256": held_out.digest,
        "tasks": held_out.tasks,
        "asked": len(held_out.questions),
        "labels": sum(bool(one.labels) for one in held_out.questions),
        "overlap": dict(held_out.overlap),
        "without_answer": held_out.without,
        "too_long": study.too_long,
    }


def measured_runs(study: Study) -> dict[str, list[list[Measured]]]:
    """The figures of all answers: line of the table -> seeds -> questions."""
    questions = study.held_out.questions
    groups = {"before": ["before"]}
    groups |= {group: names_of(study, group) for group in own_groups(study)}
    found = {}
    for group, names in groups.items():
        each = [measured_replies(study, study.replies[name]) for name in names]
        if each:
            found[group] = each
    for name, texts in scores.free_answers(questions).items():
        if any(texts) or name == "empty":
            found[name] = [scores.measured_texts(questions, texts)]
    return found


def measured_replies(study: Study, replies: list[Reply]) -> list[Measured]:
    """The figures of one model's answers."""
    pairs = zip(study.held_out.questions, replies, strict=True)
    return [scores.measured(one, reply) for one, reply in pairs]


def briefs(study: Study, group: str) -> list[list[Measured]]:
    """The base's answers, each cut to the length of the one that a model of the group gave."""
    before = study.replies["before"]
    found = []
    for name in names_of(study, group):
        pairs = zip(before, study.replies[name], strict=True)
        texts = [scores.cut_to(a.text, len(workshop.tokenize(b.text))) for a, b in pairs]
        found.append(scores.measured_texts(study.held_out.questions, texts))
    return found


def table(study: Study, runs: dict[str, list[list[Measured]]]) -> list[dict[str, Any]]:
    """The lines of the table, with the gain over the base."""
    before = scores.mean_rouge(runs["before"])
    lines = []
    for name, each in runs.items():
        gain = None
        if name not in ("before", "empty", "label"):
            gain = asdict(scores.paired(before, scores.mean_rouge(each)))
        line = {"name": name, "gain": gain, "loss": last_loss(study, name)}
        lines.append(line | asdict(scores.summary(each)))
    return lines


def last_loss(study: Study, name: str) -> float | None:
    """The held-out loss of a line of the table: of the base before the first step.

    Of several seeds it is their mean. None where no model stands behind the line.
    """
    losses = [figures.get("unseen_loss") for figures in study.figures.values()]
    if name == "before":
        return next((points[0][1] for points in losses if points), None)
    ends = [study.figures[one].get("unseen_loss") for one in names_of(study, name)]
    return fmean(points[-1][1] for points in ends) if ends and all(ends) else None


def verdicts(study: Study, runs: dict[str, list[list[Measured]]]) -> list[dict[str, Any]]:
    """The verdict on each dataset; of two, which one is better."""
    found = []
    for group in ("data", "a", "b", "people"):
        if group in runs:
            control = runs.get(f"shuffled-{group}")
            said = scores.judged(runs["before"], runs[group], briefs(study, group), control)
            found.append({"of": group, **said.record()})
    if "a" in runs and "b" in runs:
        both = min(len(runs["a"]), len(runs["b"]))
        said = scores.compared(runs["a"][:both], runs["b"][:both])
        found.append({"of": "a and b", **said.record()})
    return found


def models(study: Study) -> list[dict[str, Any]]:
    """The trained models that have answered, in the order of their training."""
    done = [one for one in study.learners if one.name in study.replies]
    return [{"name": one.name, "group": one.group, "seed": one.seed} for one in done]


def curves(study: Study) -> dict[str, list]:
    """The held-out loss of each model: name -> (step, loss)."""
    return {name: figures.get("unseen_loss", []) for name, figures in study.figures.items()}
