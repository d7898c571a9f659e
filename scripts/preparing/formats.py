"""The formats: how a row is written, and what LLaMA-Factory must be told about it."""

from __future__ import annotations

if __name__ == "__main__":  # a part, no program: said before an import fails
    raise SystemExit(
        "formats.py is a part of scripts/prepare_for_finetuning.py: run"
        "  python scripts/prepare_for_finetuning.py --help"
    )

import random
from collections.abc import Callable
from dataclasses import dataclass

from scripts.reading.rows import CONTEXT, Row, context_of

Message = dict[str, str]  # role and content

# Each format takes a row, the language and the seed.


def alpaca(row: Row, language: str, seed: int) -> dict:
    return row


def messages(row: Row, language: str, seed: int) -> dict:
    return {"messages": [*asked(row), answer(row["output"])]}


def chat_completion(row: Row, language: str, seed: int) -> dict:
    """The last answer apart from all that was said before it: the trainer learns it alone."""
    return {"prompt": asked(row), "completion": [answer(row["output"])]}


def sharegpt(row: Row, language: str, seed: int) -> dict:
    names = {"system": "system", "user": "human", "assistant": "gpt"}
    turns = [*asked(row), answer(row["output"])]
    said = [{"from": names[turn["role"]], "value": turn["content"]} for turn in turns]
    return {"conversations": said}


def preference(row: Row, language: str, seed: int) -> dict:
    """A prompt with two answers, as turns of a chat: the trainer adds the chat's template."""
    return {
        "prompt": asked(row),
        "chosen": [answer(row["chosen"])],
        "rejected": [answer(row["rejected"])],
    }


def asked(row: Row) -> list[Message]:
    """The turns before the answer: the system, the history, and the question."""
    turns = []
    if "system" in row:
        turns.append({"role": "system", "content": row["system"]})
    for question, said in row.get("history", []):
        turns += [{"role": "user", "content": question}, answer(said)]
    return [*turns, {"role": "user", "content": whole_question(row)}]


def answer(text: str) -> Message:
    return {"role": "assistant", "content": text}


def whole_question(row: Row) -> str:
    if row["input"]:
        return f"{row['instruction']}\n\n{row['input']}"
    return row["instruction"]


# The shapes of a prompt: what stands before the instruction, between it and the input, and behind
# the input.
#
# A trainer makes tokens of the prompt, and of prompt and completion together; where the end of
# the prompt lies inside a token, it learns answers behind a context that never comes. So no token
# may reach from one into the other, whatever the tokenizer:
#   - English: the completion begins with a space, as in the official code. A space begins a token
#     (GPT-2, Qwen, SentencePiece), so that line ends before it stay together.
#   - Chinese has no such space. The prompt ends in one line break, never in two: GPT-2 makes one
#     token of two at an end, and two tokens where a text follows. Behind "：" there must be a line
#     break, for Qwen makes one token of "：答".
SHAPES = {
    "en": (
        [
            ("", "\nInput: ", "\nOutput:"),
            ("Task: ", "\nInput: ", "\nOutput:"),
            ("", "\n\n", "\n\nOutput:"),
            ("", "\n\nInput: ", "\n\nOutput:"),
            ("", "\n\n", "\n\n"),
            ("Task: ", "\n\n", "\n\n"),
            ("", "\n", "\n\n"),
        ],
        [
            ("", "", " Output:"),
            ("", "", "\nOutput:"),
            ("", "", "\n\nOutput:"),
            ("", "", "\n"),
            ("", "", "\n\n"),
            ("Task: ", "", "\n\n"),
        ],
    ),
    "zh": (
        [
            ("", "\n输入：", "\n输出：\n"),
            ("任务：", "\n输入：", "\n输出：\n"),
            ("", "\n\n", "\n\n输出：\n"),
            ("", "\n\n输入：", "\n\n输出：\n"),
            ("", "\n\n", "\n"),
            ("任务：", "\n\n", "\n"),
            ("", "\n", "\n"),
        ],
        [
            ("", "", " 输出：\n"),
            ("", "", "\n输出：\n"),
            ("", "", "\n\n输出：\n"),
            ("任务：", "", "\n\n输出：\n"),
            ("", "", "\n"),
            ("任务：", "", "\n"),
        ],
    ),
}
FIELDS = {"en": "\n\nOutput:", "zh": "\n\n输出："}  # before an answer that begins with a space


def prompt_completion(row: Row, language: str, seed: int) -> dict:
    """An instance in one of the shapes, which is drawn for it alone.

    Other rows change nothing.
    """
    # Draw the shape.
    known = language if language in SHAPES else "en"
    with_input, without_input = SHAPES[known]
    drawn = random.Random("/".join([str(seed), *row.values()]))
    before, between, after = drawn.choice(with_input if row["input"] else without_input)

    # Spaces at the seam would run together: then the prompt ends in the name of the field.
    begins_with_space = row["output"][:1].isspace()
    if begins_with_space or (known == "zh" and ends_in_two_breaks(row, after)):
        after = FIELDS[known] if begins_with_space else f"{FIELDS[known]}\n"

    # In English, and before spaces, the completion begins with a space.
    prompt = before + row["instruction"] + between + row["input"] + after
    space = "" if prompt.endswith("\n") and known == "zh" else " "
    return {"prompt": prompt, "completion": space + row["output"]}


def ends_in_two_breaks(row: Row, after: str) -> bool:
    """Whether the text before a single line break ends in a space or a break of its own."""
    return after == "\n" and (row["input"] or row["instruction"])[-1:].isspace()


@dataclass(frozen=True)
class Format:
    suffix: str  # .json: one array; .jsonl: a line for each instance
    encode: Callable[[Row, str, int], dict]  # of a row, the language and the seed
    # To LLaMA-Factory, in dataset_info.json: columns, where they are not Alpaca's; None: it takes
    # another shape.
    told: dict | None
    refuses_more: str = ""  # who takes no column beside these, an id say; empty: nobody
    holds_talks: bool = True  # what the system said, and earlier turns


CHAT = {
    "formatting": "sharegpt",
    "columns": {"messages": "messages"},
    "tags": {
        "role_tag": "role",
        "content_tag": "content",
        "user_tag": "user",
        "assistant_tag": "assistant",
        "system_tag": "system",
    },
}
SHAREGPT = {"formatting": "sharegpt", "columns": {"messages": "conversations"}}
PROMPT = {"columns": {"prompt": "prompt", "response": "completion"}}
FORMATS = {
    "alpaca": Format(".json", alpaca, {}),
    "messages": Format(".jsonl", messages, CHAT, "OpenAI"),
    "chat-completion": Format(".jsonl", chat_completion, None),
    "sharegpt": Format(".json", sharegpt, SHAREGPT),
    "prompt-completion": Format(".jsonl", prompt_completion, PROMPT, holds_talks=False),
    "preference": Format(".jsonl", preference, None),
}

# Alpaca's columns to LLaMA-Factory, where rows have more than the three that it expects.
MORE_COLUMNS = {
    "prompt": "instruction",
    "query": "input",
    "response": "output",
    "system": "system",
    "history": "history",
}


def encode_parts(
    form: str, parts: dict[str, list[Row]], language: str, seed: int
) -> dict[str, list[dict]]:
    """The rows of each part in the format. Where one Alpaca row has more columns, all have."""
    every = [row for rows in parts.values() for row in rows]
    more = form == "alpaca" and any(name in row for row in every for name in CONTEXT)
    empty: Row = {"system": "", "history": []} if more else {}
    encode = FORMATS[form].encode
    made = {}
    for part, rows in parts.items():
        made[part] = [encode(row, language, seed) for row in rows]
        if more:
            made[part] = [{**record, **empty, **context_of(record)} for record in made[part]]
    return made
