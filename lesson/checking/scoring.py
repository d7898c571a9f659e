"""Exercise 9: let a model answer the pupil's prompt and a plain one, and compare both with people.

All replies go through the workshop's own door, so they are in a journal: the same check again
costs nothing, and an interrupted one goes on.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from lesson.checking.checks import SLOT, read_prompt
from lesson.checking.pupil import Verdict, right, words, wrong
from self_instruct_workshop import (
    DEFAULT_SEEDS,
    TRUSTED,
    Config,
    Model,
    Reply,
    Task,
    load_seed_tasks,
    one_line,
    parameters,
    probe_tasks,
    read_options,
)


def score_prompt(folder: Path, config: Config) -> Verdict:
    """Right: the model agrees with people on enough seed tasks, and more often than asked plainly.

    The seed tasks are those by which stage 2 itself learns whether it can trust a model.
    """
    prompt = read_prompt(folder, config.language)
    plain = words("9.plain", config.language, instruction=SLOT)
    tasks = probe_tasks(config, load_seed_tasks(DEFAULT_SEEDS[config.language]))
    with Model(config) as model:
        before = agreements(config, model, plain, tasks)
        after = agreements(config, model, prompt, tasks)
        model.journal.file.close()
        if model.undone:
            return wrong("9.unanswered", count=len(model.undone), why=one_line(model.undone[0][1]))

    # How often a model says yes matters as much: small ones say it to everything.
    labelled = [bool(task.is_classification) for task in tasks]
    slots = {"asked": len(tasks), "plain": sum(before), "same": sum(after)}
    slots["needed"] = round(TRUSTED * len(tasks))
    slots["each"] = sum(labelled)
    slots["on_labelled"] = sum(x for x, flag in zip(after, labelled, strict=True) if flag)
    slots["on_others"] = sum(after) - slots["on_labelled"]
    if sum(after) < slots["needed"]:
        return wrong("9.low", **slots)
    if sum(after) <= sum(before) and sum(after) < len(tasks):
        return wrong("9.no_better", **slots)
    return right("9.right", **slots)


def agreements(config: Config, model: Model, prompt: str, tasks: list[Task]) -> list[bool]:
    """For each task, whether the model says of it what people say."""
    found = []
    replies = model.ask_each("probes", partial(ask, config, model, prompt), tasks)
    for task, reply in replies:
        answer = None
        if reply:
            answer, _ = read_options(config, task.instruction, reply.text)
        found.append(answer is not None and answer == bool(task.is_classification))
    return found


def ask(config: Config, model: Model, prompt: str, task: Task) -> Reply:
    """Ask about one task, in the pupil's words."""
    text = prompt.replace(SLOT, task.instruction)
    question = {"instruction": task.instruction, "sample": 0, "prompt": text}
    return model.ask("classify", text, parameters(config, "classify"), question)
