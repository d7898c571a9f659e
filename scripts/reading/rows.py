"""Rows of datasets, whatever shape a file has: Alpaca, tasks, and talks in three forms.

    Alpaca      {"instruction": ..., "input": ..., "output": ..., "history": [[...]], "system": ...}
    tasks       {"instruction": ..., "instances": [{"input": ..., "output": ...}, ...]}
    messages    {"messages": [{"role": "user", "content": ...}, ...]}
    sharegpt    {"conversations": [{"from": "human", "value": ...}, ...], "system": ...}
    prompts     {"prompt": ..., "completion": ...}, or with `chosen`: texts, or lists of messages

A row has instruction, input and output. The last answer of a talk is the output, and what the
user said before it is the instruction. What was said earlier stands in `history`, as pairs of a
question and an answer, and what the system said in `system`; a row without them lacks the names.

A talk that is no such thing is a row with `rule`, which says why: it can be counted, but not used.
"""

from __future__ import annotations

if __name__ == "__main__":  # a part, no program: said before an import fails
    raise SystemExit("rows.py is a part of other programs: run  python scripts/review.py --help")

from collections.abc import Iterator
from typing import Any

import self_instruct_workshop as workshop
from scripts.reading.records import value_or_none
from self_instruct_workshop import WorkshopError

Row = dict[str, Any]  # instruction, input, output: texts; maybe system, history, rule
Turn = tuple[str, str]  # "system", "user" or "assistant", and what it said

TALKS = ("messages", "conversations", "conversation")
ROLES = {
    "system": ("system", "developer"),
    "user": ("user", "human", "prompter"),
    "assistant": ("assistant", "gpt", "bot", "chatgpt", "model"),
}
CONTEXT = ("system", "history")  # what a row may have beside its three texts
NEEDED = "a JSON record with instruction and output, or with instances, or a talk, is needed"


class NoTalk(Exception):
    """Why the turns are no talk that a row can be made of: the name of a rule."""


def rows_of(where: str, record: Any, verbatim: bool = False) -> list[Row]:
    """The rows of one record. Raises WorkshopError for a record of another shape.

    An input or output that is null is empty. So is, unless the texts are wanted `verbatim`, an
    input of spaces, or of words that stand for no input, such as "<noinput>".
    """
    if not is_task(record):
        if is_talk(record):
            return [row_of_talk(record)]
        raise WorkshopError(f"{where}: {NEEDED}")

    # In the Alpaca shape, the record is the instance.
    rows = []
    for pair in record.get("instances", [record]):
        row = {name: text or "" for name, text in texts_of(record, pair).items()}
        if not verbatim:
            row["instruction"] = row["instruction"].strip()
            given = row["input"].strip()
            row["input"] = "" if not given or workshop.breaks("no_input", given) else row["input"]
        rows.append(row | context_of_alpaca(record))
    return rows


def texts_of(record: Row, pair: Row) -> dict[str, str | None]:
    """The three texts of an instance."""
    texts = {"input": pair.get("input"), "output": pair["output"]}
    return {"instruction": record["instruction"], **texts}


def context_of(row: Row) -> Row:
    """What belongs to a row beside its three texts; {} for most."""
    return {name: row[name] for name in CONTEXT if name in row}


def first_question(row: Row) -> str:
    """With what a talk begins; of a row alone, its instruction."""
    return row["history"][0][0] if "history" in row else row["instruction"]


# --------------------------------------------------------------------------------------------------
# Alpaca and tasks.


def is_task(task: Any) -> bool:
    """Whether this is an instruction with one instance, or with a list of instances."""
    if not isinstance(task, dict):
        return False
    instruction = task.get("instruction")
    if not isinstance(instruction, str) or not instruction.strip():
        return False
    pairs = task.get("instances", [task])
    return isinstance(pairs, list) and all(is_instance(pair) for pair in pairs)


def is_instance(pair: Any) -> bool:
    """Whether this has an output, and perhaps an input: texts, or null."""
    if not isinstance(pair, dict) or "output" not in pair:
        return False
    texts = (pair.get("input"), pair["output"])
    return all(text is None or isinstance(text, str) for text in texts)


def context_of_alpaca(record: Row) -> Row:
    """The history and the system text of a record; where they are none, a rule that says so."""
    try:
        system = system_of(record)
        history = history_of(record)
    except NoTalk as why:
        return {"rule": str(why)}
    found: Row = {"system": system, "history": history}
    return {name: value for name, value in found.items() if value}


def system_of(record: Row) -> str:
    """The text of the system beside the texts of a record. Raises NoTalk where it is no text."""
    system = record.get("system") or ""
    if not isinstance(system, str):
        raise NoTalk("not_text")
    return system.strip()


def history_of(record: Row) -> list[list[str]]:
    """What was said before, in pairs. Raises NoTalk where that is of another shape."""
    history = as_value(record.get("history")) or []
    if not isinstance(history, list) or not all(is_pair(pair) for pair in history):
        raise NoTalk("history_unreadable")
    if not all(text.strip() for pair in history for text in pair):
        raise NoTalk("empty_turn")
    return [list(pair) for pair in history]


def is_pair(pair: Any) -> bool:
    """Whether this is a question with its answer."""
    is_two = isinstance(pair, (list, tuple)) and len(pair) == 2
    return is_two and all(isinstance(text, str) for text in pair)


def as_value(value: Any) -> Any:
    """A value as it is, or the list that a cell of a table holds as JSON."""
    held = value_or_none(value) if isinstance(value, str) else None
    return held if isinstance(held, list) else value


def as_list(value: Any) -> list:
    return value if isinstance(value, list) else []


# --------------------------------------------------------------------------------------------------
# Talks.


def is_talk(record: Any) -> bool:
    """Whether a record is a talk, or a prompt with its completion."""
    if not isinstance(record, dict):
        return False
    listed = any(isinstance(as_value(record.get(name)), list) for name in TALKS)
    asked = isinstance(record.get("prompt"), (str, list))
    return listed or (asked and ("completion" in record or "chosen" in record))


def row_of_talk(record: Row) -> Row:
    """The row of a talk. What is no talk has a `rule`."""
    try:
        return row_of_turns(list(turns_of(record)))
    except NoTalk as why:
        return {"instruction": "", "input": "", "output": "", "rule": str(why)}


def turns_of(record: Row) -> Iterator[Turn]:
    """Who says what, in order. Raises NoTalk."""
    # Some files keep the system's text beside the turns.
    if system_of(record):
        yield "system", system_of(record)

    # A talk is one list.
    for name in TALKS:
        said = as_value(record.get(name))
        if isinstance(said, list):
            yield from turns_of_list(said, "user")
            return

    # A prompt and a completion are two texts, or two lists.
    answer = record.get("completion", record.get("chosen"))
    for said, role in ((record["prompt"], "user"), (answer, "assistant")):
        yield from turns_of_list([said] if isinstance(said, str) else said, role)


def turns_of_list(said: Any, role: str) -> Iterator[Turn]:
    """The turns of a list of messages, or of plain texts, by turns: `role` has the first one."""
    if not isinstance(said, list):
        raise NoTalk("not_text")
    others = {"user": "assistant", "assistant": "user"}
    for turn in said:
        if isinstance(turn, str):
            yield role, turn
        else:
            yield role_of(turn), text_of(turn)
        role = others[role]


def role_of(turn: Any) -> str:
    """Who speaks. Raises NoTalk for a tool, say."""
    named = turn.get("role", turn.get("from")) if isinstance(turn, dict) else None
    for role, names in ROLES.items():
        if isinstance(named, str) and named.casefold() in names:
            return role
    raise NoTalk("other_role")


def text_of(turn: Row) -> str:
    """What is said. Content can be a list of parts. Raises NoTalk where one of them is no text."""
    content = turn.get("content", turn.get("value"))
    if isinstance(content, str):
        return content
    parts = [part.get("text") if isinstance(part, dict) else None for part in as_list(content)]
    if not parts or not all(isinstance(part, str) for part in parts):
        raise NoTalk("not_text")
    return "".join(parts)


def row_of_turns(turns: list[Turn]) -> Row:
    """The row of turns: maybe the system, then user and assistant by turns. Raises NoTalk."""
    # The system speaks first, or not at all.
    system = turns[0][1] if turns and turns[0][0] == "system" else ""
    talk = turns[1:] if turns and turns[0][0] == "system" else turns

    # Then they take turns, and the assistant has the last word.
    roles = [role for role, _ in talk]
    if roles and roles[-1] == "user":
        raise NoTalk("last_turn_unanswered")
    if not roles or roles != ["user", "assistant"] * (len(roles) // 2):
        raise NoTalk("turns_out_of_order")
    texts = [text for _, text in talk]
    if not all(text.strip() for text in texts[:-1]):
        raise NoTalk("empty_turn")

    # The last two make the row.
    row: Row = {"instruction": texts[-2].strip(), "input": "", "output": texts[-1]}
    if system.strip():
        row["system"] = system.strip()
    if len(texts) > 2:
        row["history"] = [texts[i : i + 2] for i in range(0, len(texts) - 2, 2)]
    return row
