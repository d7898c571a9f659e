"""Prompts out of files: JSON Lines, JSON, CSV, TSV and Parquet, and the fields that hold them."""

from __future__ import annotations

if __name__ == "__main__":  # a part, no program: said before an import fails
    raise SystemExit(
        "files.py is a part of scripts/overlap.py: run  python scripts/overlap.py --help"
    )

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.reading import records as reading
from scripts.reading.records import TABLES, Record
from scripts.reading.rows import TALKS
from self_instruct_workshop import WorkshopError, one_line

KINDS = (".jsonl", ".ndjson", ".json", *TABLES, ".parquet")


@dataclass(frozen=True)
class Prompt:
    """What a model is asked: a row of a dataset, or an item of an evaluation set."""

    number: int  # from 1
    place: str  # in its file: "line 3", "record 3"
    instruction: str
    input: str = ""

    @property
    def whole(self) -> str:
        return f"{self.instruction}\n{self.input}" if self.input else self.instruction

    @property
    def name_of_whole(self) -> str:
        return "both" if self.input else "instruction"


# --------------------------------------------------------------------------------------------------
# Records of a file, whatever its kind.


def records(path: Path, without_names: bool = False) -> list[Record]:
    """The records of a file. Raises WorkshopError, in one line, where it cannot be read.

    With `without_names`, the first row of a table is a record, and columns have numbers from 1.
    """
    # Evaluation sets come in files of many kinds: another one would be read as JSON.
    kind = path.suffix.lower()
    if kind not in KINDS:
        known = ", ".join(KINDS)
        raise WorkshopError(f"{path}: its name must end in one of {known}: rename or convert it")

    # A .json that is one object holds its records somewhere in it.
    found = reading.records(path, without_names=without_names)
    if kind == ".json" and len(found) == 1:
        found = records_of_document(path, *found[0])
    if not found:
        raise WorkshopError(f"{path} holds no record: name another file")
    return found


def records_of_document(path: Path, place: str, document: Any) -> list[Record]:
    """The records in the only value of a file. Raises WorkshopError where it is a number, say."""
    if isinstance(document, dict):
        inner = records_in(document)
        return [(f"record {number}", record) for number, record in enumerate(inner, 1)]
    if place == "line 1":  # no array was around it
        problem = "a JSON list of records is expected, or an object with one"
        raise WorkshopError(f"{path}: {problem}")
    return [(place, document)]


def records_in(document: dict) -> list[Any]:
    """The records in an object: its longest list of records that ask something, or its members.

    An object without any is one record itself, and so is one with an instruction.
    """
    if is_text(document.get("instruction")):
        return [document]
    members = [*document.values()]
    lists = [value for value in members if isinstance(value, list) and are_records(value)]
    if lists:
        return max(lists, key=lambda found: (asks(found[0]), len(found)))
    if len(members) > 1 and are_records(members):
        return members
    return [document]


def are_records(values: list[Any]) -> bool:
    return bool(values) and all(isinstance(value, dict) for value in values)


def asks(record: dict) -> bool:
    """Whether a record has a text where questions usually stand."""
    return any(texts_at(record, guess[0]) for guess in GUESSES)


# --------------------------------------------------------------------------------------------------
# The fields that hold what a model is asked.

# Names that are looked for, in this order. A dot leads into an object or a list. The names of one
# row are taken together: the first is the instruction, the others are the input.
GUESSES = [
    ("instruction", "instances.input"),  # the official shape of Self-Instruct
    ("instruction", "input"),
    ("instruction",),
    ("指令", "输入"),
    ("指令",),
    ("messages",),
    ("conversations",),
    ("conversation",),
    ("turns",),
    ("question.stem",),
    ("question",),
    ("问题",),
    ("题目",),
    ("problem",),
    ("prompt",),
    ("query",),
    ("goal",),
    ("text",),
    ("sentence",),
    ("ctx",),
    ("input",),
    ("inputs",),
]
USER = ("user", "human", "prompter")  # who asks, by the name of the role
ENOUGH = 0.5  # share of the records in which a guessed field must hold a text


def items(path: Path, named: list[str]) -> tuple[list[Prompt], tuple[str, ...], int]:
    """What an evaluation file asks, the fields that were taken, and how many records lack them.

    `named` are the fields that the user asked for; without them they are guessed. Raises
    WorkshopError where the file cannot be read, or no field holds a text.
    """
    # Which fields?
    found = records(path, without_names=bool(named) and all(map(str.isdigit, named)))
    values = [value for _, value in found]
    fields = named_fields(path, values, named) if named else guessed_fields(path, values)

    # Make a prompt of each text.
    prompts: list[Prompt] = []
    without = 0
    for place, value in found:
        pairs = pairs_of(value, fields)
        without += not pairs
        for instruction, source in pairs:
            prompts.append(Prompt(len(prompts) + 1, place, instruction, source))
    if not prompts:
        raise WorkshopError(f"{path} holds no text: {what_to_name(path, values)}")
    return prompts, fields, without


def named_fields(path: Path, values: list[Any], named: list[str]) -> tuple[str, ...]:
    """Those of the named fields that the file has. Raises WorkshopError where it has none."""
    fields = tuple(name for name in named if any(texts_at(value, name) for value in values))
    if not fields:
        wanted = " or ".join(named)
        raise WorkshopError(f"{path} has no text in {wanted}: {what_to_name(path, values)}")
    return fields


def guessed_fields(path: Path, values: list[Any]) -> tuple[str, ...]:
    """The first guess whose first field holds a text in most records.

    A further field must hold a text somewhere. Raises WorkshopError where none fits. A list of
    texts needs no field: the empty name stands for the record itself.
    """
    if all(isinstance(value, (str, int, float)) for value in values):
        return ("",)
    for guess in GUESSES:
        first, *others = guess
        held = sum(bool(texts_at(value, first)) for value in values)
        further = all(any(texts_at(value, name) for value in values) for name in others)
        if further and held >= ENOUGH * len(values):
            return guess
    problem = "the field that asks cannot be guessed"
    raise WorkshopError(f"{path}: {problem}: {what_to_name(path, values)}")


def what_to_name(path: Path, values: list[Any]) -> str:
    """What the user can do next: name one of the fields that are there."""
    names = dict.fromkeys(name for value in values[:100] for name in field_names(value))
    there = one_line(", ".join(names), 200) or "none"
    advice = f"name one by --field (there: {there})"
    if path.suffix.lower() in TABLES:
        advice += ", or a number, such as 1, in a table without names"
    return advice


def field_names(value: Any, before: str = "", depth: int = 4) -> list[str]:
    """The fields of a record that hold texts, those inside others with a dot."""
    if isinstance(value, list) and value:
        return field_names(value[0], before, depth)
    if not isinstance(value, dict) or not depth:
        return [before.removesuffix(".")] if before and plain_texts(value) else []
    found = []
    for name, inner in value.items():
        found += field_names(inner, f"{before}{name}.", depth - 1)
    return found


def pairs_of(value: Any, fields: tuple[str, ...]) -> list[tuple[str, str]]:
    """The (instruction, input) pairs of a record: one, or one for each instance of a list.

    A record without a text has none.
    """
    # Without a field that gives several texts, there is one pair.
    first, *others = (texts_at(value, name) for name in fields)
    if len(fields) == 1:
        if is_chat(fields[0]):
            turns = first[::2] if alternates(value, fields[0]) else first
            return [(turns[0], "\n".join(turns[1:]))] if turns else []
        return [(text, "") for text in first]

    # The texts of further fields belong to the instruction. Each instance makes a pair.
    if not first:
        first = next((texts for texts in others if texts), [])
        return [(text, "") for text in first]
    if len(others) == 1:
        return [(first[0], text) for text in others[0] or [""]]
    return [(first[0], "\n".join(text for texts in others for text in texts))]


def is_chat(field: str) -> bool:
    """Whether the texts of a field are the turns of one talk."""
    return field in ("messages", "conversations", "conversation", "turns")


def alternates(value: Any, field: str) -> bool:
    """Whether plain texts are questions and answers by turns, as LIMA has them.

    In `turns`, MT-Bench's name, only the user speaks.
    """
    turns = value.get(field) if isinstance(value, dict) else None
    is_talk = field in ("conversations", "conversation") and isinstance(turns, list)
    return is_talk and all(isinstance(turn, str) for turn in turns)


def texts_at(value: Any, field: str) -> list[str]:
    """The texts that a field of a record holds; a dot in its name leads further in.

    Of a list of messages, only what the user says counts. Numbers count as texts; null, true,
    false and texts of spaces do not.
    """
    if field and not (isinstance(value, dict) and field in value):
        if isinstance(value, list):
            return [text for part in value for text in texts_at(part, field)]
        head, _, rest = field.partition(".")
        inner = of_name(value, head)
        return texts_at(inner, rest) if inner is not None else []
    return plain_texts(value[field] if field else value)


def of_name(value: Any, name: str) -> Any:
    """The member of an object, by its name in capitals or not; None where it is not there."""
    if not isinstance(value, dict):
        return None
    if name in value:
        return value[name]
    same = [key for key in value if key.casefold() == name.casefold()]
    return value[same[0]] if same else None


def plain_texts(value: Any) -> list[str]:
    """A value as texts: itself, or those of a list."""
    if isinstance(value, list):
        return [text for part in value for text in plain_texts(part)]
    if isinstance(value, dict):
        return said_by_user(value)
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return []
    text = str(value).strip()
    return [text] if text else []


def said_by_user(message: dict) -> list[str]:
    """What a message of a user says, in the form of OpenAI or of ShareGPT; else nothing.

    The content of a message can be a list of parts, of which those with a text count.
    """
    role = message.get("role", message.get("from", message.get("type")))
    if role == "text":
        return plain_texts(message.get("text"))
    if not isinstance(role, str) or role.casefold() not in USER:
        return []
    return plain_texts(message.get("content", message.get("value")))


# --------------------------------------------------------------------------------------------------
# The dataset.


def rows(path: Path) -> tuple[list[Prompt], list[dict]]:
    """The prompts of a dataset, and its records, one for each of them.

    A task with `instances` gives a row in the Alpaca shape for each. Of a talk, what the user says
    is compared. Raises WorkshopError for a record without an instruction.
    """
    prompts = []
    kept = []
    for place, value in records(path):
        for instruction, source, record in asked_of(value, f"{path}, {place}"):
            prompts.append(Prompt(len(prompts) + 1, place, instruction, source))
            kept.append(record)
    return prompts, kept


def asked_of(value: Any, where: str) -> list[tuple[str, str, dict]]:
    """(instruction, input, record) of each row in a record of a dataset. Raises WorkshopError."""
    # A talk is one row.
    has_instruction = isinstance(value, dict) and is_text(value.get("instruction"))
    if isinstance(value, dict) and not has_instruction:
        said = said_in_talk(value)
        if said:
            return [(said[0], "\n".join(said[1:]), value)]

    # A task has a row for each instance.
    if not has_instruction:
        problem = f"{where}: a record with the text instruction is needed"
        raise WorkshopError(f"{problem}: give a dataset as --data")
    instruction = value["instruction"].strip()
    found = []
    for record in with_one_input(value):
        found.append((instruction, "\n".join(plain_texts(record.get("input"))), record))
    return found


def said_in_talk(record: dict) -> list[str]:
    """What the user says in a talk, turn by turn; nothing where the record is none."""
    for field in (*TALKS, "prompt"):
        for first, others in pairs_of(record, (field,)):
            more = texts_at(record, field)[1:] if field == "prompt" else [others]
            return [first, *filter(None, more)]
    return []


def is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def with_one_input(record: dict) -> list[dict]:
    """A record in the Alpaca shape as it is; one with instances as a record for each."""
    instances = record.get("instances")
    if not isinstance(instances, list) or not all(isinstance(one, dict) for one in instances):
        return [record]
    given = []
    for one in instances or [{}]:
        texts = {"input": one.get("input") or "", "output": one.get("output") or ""}
        given.append({"instruction": record["instruction"], **texts})
    return given
