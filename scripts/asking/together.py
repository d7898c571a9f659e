"""Stage 2 with several tasks in one request: the worked examples are sent once for all of them.

    python self_instruct.py --provider openai --classify-together 10    the default, with a server
    python self_instruct.py --provider openai --classify-together 1     each task by itself (paper)
    python self_instruct.py --provider practice --classify-together 4   lists without a key

Small models repeat the answers of the examples in a list, whatever the tasks. So the first list
asks about seed tasks, of which people's labels are known: lists are used only where the model
agrees with people there too. Every list has two more seed tasks among its own, and the examples
stand in another order. Of a list with a wrong answer to one of the two, or without exactly one
readable answer for each task, nothing is used: its tasks are asked about one by one.

What a reply says about each task stands in the journal under the key of the question about it
alone: whatever lists were sent, no task is asked about twice. The recipe `paper` asks one by one.
So does the practice model, which costs nothing, unless the flag is typed.
"""

from __future__ import annotations

if __name__ == "__main__":  # a part, no program: said before an import fails
    raise SystemExit(
        "together.py is a part of self_instruct.py: run  python self_instruct.py --help"
    )

import argparse
import random
import re
from contextlib import suppress
from functools import partial

import self_instruct_workshop as workshop
from self_instruct_workshop import Config, Model, Prompt, Reply, RequestFailed, Task

TOGETHER_PROMPT = {  # other languages: data/prompts.jsonl
    "header": """\
Some tasks ask to choose: the answer can only be one of a few fixed options. \
All other tasks have a free answer: a text, a list, a number, a name, code.
For each task of a list, write a numbered line: the options among which the answer is chosen, \
all of them, or none if the answer is free. Do not do the tasks themselves.""",
    "question": "Among which options is each answer chosen?",
}
SHOWN = 10  # worked examples in a list
TOGETHER = 10  # tasks of the run in a list, where nobody has said how many


def add_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("fewer tokens, by scripts/asking/together.py")
    group.add_argument(
        "--classify-together",
        type=int,
        choices=range(1, 51),
        metavar="N",
        help="tasks that a request of stage 2 asks about (paper, practice: 1) [10]",
    )


def group_size(config: Config, provider: str, wanted: int | None) -> int:
    """How many tasks a request of stage 2 asks about; None: nobody has said how many."""
    if workshop.RECIPES[config.recipe].continues_text:
        return 1
    # A shared journal may name a provider that this program does not have.
    row = workshop.PROVIDERS.get(provider)
    is_server = row is None or bool(row.base_url)
    return wanted or (TOGETHER if is_server else 1)


def ask_about_all(model: Model, tasks: list[Task], size: int, seeds: list[Task]) -> dict:
    """Ask about all tasks that the journal knows nothing of, and leave the answers there.

    Returns how well lists did on seed tasks, as agreement_with_people does for single questions.
    """
    if size < 2:
        return {}
    known = model.journal.keys()  # by now: lists that are asked ahead of time may come in
    new = [task for task in tasks if key_of(model, task) not in known]
    probes = workshop.probe_tasks(model.config, seeds)
    # A list about them that was paid for earlier is read again: it belongs to what was spent.
    if len(new) < 2 and list_key(model, in_order(model, probes)) not in model.journal.starts:
        return {}
    agreement = agreement_in_a_list(model, probes)
    if not agreement["trusted"]:
        # Without a reply there is nothing to say of lists.
        if agreement["asked"]:
            why = f"{agreement['same']} of {agreement['asked']} seed tasks right"
            notice = f"notice: in lists stage 2 gets {why}: it asks one by one"
            workshop.tell(notice, model.config.language)
        return agreement

    # Ask about all others.
    groups = [new[i : i + size] for i in range(0, len(new), size)]
    ask = partial(ask_about, model, probes)
    model.in_advance("lists", ask, groups)
    replies = model.in_order("lists", ask, groups)
    for _ in workshop.progress(model, f"2 classify, {size} at a time", len(groups), replies):
        pass
    return agreement


def key_of(model: Model, task: Task) -> str:
    """The journal's key of the question about one task alone; it is needed up to three times."""
    if task.instruction not in model.keys_of_tasks:
        sampling = workshop.parameters(model.config, "classify")
        question = workshop.classify_question(model.config, task)
        key = model.question_key("classify", 0, sampling, question)[0]
        model.keys_of_tasks[task.instruction] = key
    return model.keys_of_tasks[task.instruction]


def agreement_in_a_list(model: Model, probes: list[Task]) -> dict:
    """How often the answers of a list about seed tasks are those of people."""
    shuffled = in_order(model, probes)
    # Asked by a thread: Ctrl-C waits for it, so that no reply is lost.
    agreement = agreement_of(model, shuffled, None)
    for _, reply in model.in_order("first list", partial(ask_probes, model), [shuffled]):
        agreement = agreement_of(model, shuffled, reply)
    return agreement


def agreement_of(model: Model, probes: list[Task], reply: Reply | None) -> dict:
    """The same of the reply to a list of seed tasks; None is no answer."""
    asked = same = 0
    if reply:
        answers = numbered_answers(model.config, reply, len(probes))
        asked = len(probes)
        same = sum(map(partial(agrees, model.config), probes, answers))
    trusted = asked > 0 and same >= workshop.TRUSTED * asked
    return {"asked": asked, "same": same, "trusted": trusted}


def ask_probes(model: Model, probes: list[Task]) -> Reply | None:
    """Ask the list of seed tasks; None where it gets no reply."""
    with suppress(RequestFailed):
        return ask_list(model, probes)
    return None


def in_order(model: Model, probes: list[Task]) -> list[Task]:
    """The order in which the first list has them, drawn by --seed."""
    rng = random.Random(f"{model.config.seed}/list of probes")
    return rng.sample(probes, len(probes))


def agrees(config: Config, probe: Task, answer: str) -> bool:
    """Whether an answer is what people say of a seed task."""
    said, _ = workshop.read_options(config, probe.instruction, answer)
    return said is probe.is_classification


def ask_about(model: Model, probes: list[Task], tasks: list[Task]) -> bool:
    """Ask about a group and two seed tasks among it; a group without a reply stays as it is."""
    rng = random.Random(f"{model.config.seed}/{tasks[0].instruction}")
    half = len(probes) // 2
    own = {task.instruction for task in tasks}
    planted = [rng.choice(probes[:half]), rng.choice(probes[half:])]
    planted = [probe for probe in planted if probe.instruction not in own]
    listed = rng.sample([*tasks, *planted], len(tasks) + len(planted))

    def derive(record: dict) -> list[dict]:
        answers = numbered_answers(model.config, workshop.reply_of(record), len(listed))
        said = dict(zip([task.instruction for task in listed], answers, strict=True))
        right = all(agrees(model.config, probe, said[probe.instruction]) for probe in planted)
        return [
            workshop.derived_record(
                record,
                key_of(model, task),
                task.instruction,
                said[task.instruction] if right else "",
            )
            for task in tasks
        ]

    with suppress(RequestFailed):
        ask_list(model, listed, derive)
        return True
    return False


def ask_list(model: Model, tasks: list[Task], derive: workshop.Callable | None = None) -> Reply:
    """Send one list, unless the journal has its reply."""
    question = list_question(model, tasks)
    sampling = workshop.parameters(model.config, "classify")
    return model.ask_once("classify", 0, question["prompt"], sampling, question, derive)


def list_question(model: Model, tasks: list[Task]) -> dict:
    """What the journal's key of a list is made of: all its instructions."""
    instructions = [task.instruction for task in tasks]
    prompt = together_prompt(model.config, instructions)
    return {"instructions": instructions, "sample": 0, "prompt": prompt}


def list_key(model: Model, tasks: list[Task]) -> str:
    """The journal's key of a list."""
    sampling = workshop.parameters(model.config, "classify")
    return model.question_key("classify", 0, sampling, list_question(model, tasks))[0]


def together_prompt(config: Config, instructions: list[str]) -> Prompt:
    """What is asked, a worked list with its answers, and then a list without."""
    words = workshop.wording(config, "together", TOGETHER_PROMPT)
    single = workshop.wording(config, "classify", workshop.CLASSIFY_PROMPT)
    rng = random.Random(f"{config.seed}/{instructions[0]}")
    shots = rng.sample(single["shots"], SHOWN)
    none = single["answer"][0].split(":" if ":" in single["answer"][0] else "：")[1].strip()
    answers = [single["between"].join(shot["labels"]) or none for shot in shots]
    shown = numbered([shot["instruction"] for shot in shots])
    asked = numbered(instructions)
    question = words["question"]
    shot = (f"{shown}\n\n{question}", numbered(answers))
    return workshop.modern_join(words["header"], [shot], f"{asked}\n\n{question}")


def numbered(texts: list[str]) -> str:
    return "\n".join(f"{n}. {' '.join(text.split())}" for n, text in enumerate(texts, 1))


def numbered_answers(config: Config, reply: Reply, n: int) -> list[str]:
    """The n answers of a reply, each as the answer to a single question.

    All are empty unless there is exactly one for each number, and each can be read.
    """
    text = workshop.without_thinking(reply.text)
    marks = list(workshop.MARKER.finditer(text))
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    found = [text[mark.end() : end].strip() for mark, end in zip(marks, ends, strict=bool(marks))]
    single = workshop.wording(config, "classify", workshop.CLASSIFY_PROMPT)
    label = re.match(r"\w+[:：]", single["answer"][0])[0]
    answers = [one if workshop.OPTIONS.search(one) else f"{label} {one}" for one in found]
    readable = all(workshop.parse_classification(answer) is not None for answer in answers)
    ended = reply.finish_reason not in ("length", "content_filter")
    whole = [int(mark[2]) for mark in marks] == [*range(1, n + 1)]
    return answers if whole and readable and ended else [""] * n
