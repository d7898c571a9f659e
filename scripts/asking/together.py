"""Stage 2 with several tasks in one request: the header and the worked examples, most of its prompt, are sent once.

    python self_instruct.py --provider openai --classify-together 10       the default with a real model
    python self_instruct.py --provider openai --classify-together 1        each task by itself, as in the paper

The tasks stand in a list, the answers come as one. Of a reply that does not hold exactly one readable answer for each
task nothing is used, and its tasks are asked about one by one. Where that happens to the very first, all tasks are.
What a reply says about each task stands in the journal, under the key that the question about it alone has: whatever
lists were sent, no task is asked about twice. The recipe `paper` and the practice model, which costs nothing, ask one
by one.
"""

from __future__ import annotations

if __name__ == "__main__":  # a part, no program: said before an import fails
    raise SystemExit("together.py is a part of self_instruct.py: run  python self_instruct.py --help")

import argparse
from contextlib import suppress
from typing import Any

import self_instruct_workshop as workshop
from self_instruct_workshop import Config, Reply, RequestFailed, Task

TOGETHER_PROMPT = {  # other languages: data/prompts.jsonl
    "header": """\
A classification task is answered by one label out of a small, known set of labels.
Say of each task in the last list below whether it is one. Answer with a numbered line for each, Yes or No.""",
    "task": "Task {}:",
    "answers_follow": "Answers:",
    "answers": ["No", "Yes"],
}


def add_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("fewer tokens, by scripts/asking/together.py")
    text = "tasks that a request of stage 2 asks about (paper: 1) [10]"
    group.add_argument("--classify-together", type=int, default=10, choices=range(1, 51), metavar="N", help=text)


def group_size(config: Config, provider: str, wanted: int) -> int:
    """How many tasks a request of stage 2 asks about."""
    # A shared journal may name a provider that this program does not have.
    row = workshop.PROVIDERS.get(provider)
    is_server = row is None or bool(row.base_url)
    return wanted if is_server and config.recipe == "modern" else 1


def ask_about_all(model: workshop.Model, tasks: list[Task], size: int) -> None:
    """Ask about all tasks that the journal knows nothing of, and leave the answers there."""
    groups = [tasks[i : i + size] for i in range(0, len(tasks), size)] if size > 1 else []

    def ask(group: list[Task]) -> Any:
        with suppress(RequestFailed):  # each of them is asked about by itself
            return ask_about(model, group)

    first = [readable for _, readable in workshop.Model.ask_each(model, "classify", ask, groups[:1])]
    if any(first):
        replies = workshop.Model.ask_each(model, "classify", ask, groups[1:])
        for _ in workshop.progress(model, f"2 classify, {size} at a time", len(groups) - 1, replies):
            pass


def ask_about(model: workshop.Model, tasks: list[Task]) -> bool:
    """Ask about those of a group that the journal does not know; return whether the first has a readable answer."""
    config, sampling = model.config, workshop.parameters(model.config, "classify")
    questions = [workshop.classify_question(config, task) for task in tasks]
    keys = {question["instruction"]: model.question_key("classify", 0, sampling, question)[0] for question in questions}
    new = {text: key for text, key in keys.items() if key not in model.journal.starts}

    def derive(record: dict) -> list[dict]:
        answers = numbered_answers(workshop.reply_of(record), len(new))
        return [
            workshop.derived_record(record, key, text, answer)
            for (text, key), answer in zip(new.items(), answers, strict=True)
        ]

    if len(new) > 1:
        prompt = together_prompt(config, [*new])
        question = {"instructions": [*new], "sample": 0, "prompt": prompt}
        model.ask_once("classify", 0, prompt, sampling, question, derive)
    first = model.journal.get(keys[tasks[0].instruction])
    return not first or first["text"] != ""


def together_prompt(config: Config, instructions: list[str]) -> str:
    """What is asked, the worked examples as a list with its answers, and then a list without."""
    words = workshop.wording(config, "together", TOGETHER_PROMPT)
    answers = [f"{n}. {words['answers'][shot['is_classification']]}" for n, shot in enumerate(words["shots"], 1)]
    lists = [[shot["instruction"] for shot in words["shots"]], instructions]
    blocks = [[f"{words['task'].format(n)}\n{text}" for n, text in enumerate(texts, 1)] for texts in lists]
    shown, asked = ("\n".join([*block, words["answers_follow"]]) for block in blocks)
    return "\n\n".join([words["header"], "\n".join([shown, *answers]), asked])


def numbered_answers(reply: Reply, n: int) -> list[str]:
    """The n answers of a reply, each empty unless there is exactly one for each number, and each says Yes or No."""
    text = workshop.without_thinking(reply.text)
    marks = list(workshop.MARKER.finditer(text))
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    answers = [text[mark.end() : end].strip() for mark, end in zip(marks, ends, strict=bool(marks))]
    readable = all(workshop.parse_classification(answer) is not None for answer in answers)
    ended = reply.finish_reason not in ("length", "content_filter")  # "stop", or a server's own word for it
    whole = readable and ended and [int(mark[2]) for mark in marks] == [*range(1, n + 1)]
    return answers if whole else [""] * n
