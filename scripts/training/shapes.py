"""Other shapes of pairs, read as ours: a prepared folder, chats, and the files of a course.

a folder          its train.json or train.jsonl, as prepare_for_finetuning.py writes it
messages          [{"role": "user", "content": ...}, ...], also as `prompt` and `completion`
conversations     [{"from": "human", "value": ...}, ...]
guanaco_inverse   {"instruction": the same sentence in each row, "input": answer,
                  "output": question}: the other way round
human, assistant; generated_instruction, response: the same columns by other names
"""

from __future__ import annotations

if __name__ == "__main__":  # a part, no program: said before an import fails
    raise SystemExit("shapes.py is a part: run  python scripts/finetune_model.py --help")

import re
import sys
from itertools import chain
from pathlib import Path
from typing import Any

from scripts.reading.rows import NoTalk, turns_of
from self_instruct_workshop import WorkshopError

TRAIN = ("train.json", "train.jsonl")
HELD_OUT = ("validation.json", "validation.jsonl", "test.json", "test.jsonl")
NAMES = {  # a course's names of our columns
    "human": "instruction",
    "assistant": "output",
    "generated_instruction": "instruction",
    "response": "output",
    "original_question": "original",
    "original_idx": "id",
    "quality_score": "rating",
}
# The sentence that all rows of a course's inverse file share speaks of what is to be written.
ASKS = re.compile(r"(?i)instruction|question|prompt|query|ask|指令|问题|提问|提示")


def train_file(path: Path) -> Path:
    """The training file of a prepared folder; a path to a file is returned as it is.

    Raises WorkshopError for a folder without such a file.
    """
    return part_of(path, TRAIN) if path.is_dir() else path


def held_out_file(path: Path) -> Path | None:
    """The held-out file of a prepared folder; None without one, and for a file."""
    here = path.is_dir() and any((path / name).is_file() for name in HELD_OUT)
    return part_of(path, HELD_OUT) if here else None


def part_of(folder: Path, names: tuple[str, ...]) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    problem = f"the folder {folder} has neither {' nor '.join(names)}"
    raise WorkshopError(f"{problem}: run scripts/prepare_for_finetuning.py, or name a file")


def as_ours(path: Path, records: list[Any]) -> list[Any]:
    """The records in a shape that read_rows knows; what is unknown stays as it is.

    Raises WorkshopError for a file of preferences, which has no single answer.
    """
    if is_inverse(records):
        swapped = "its `output` is read as the question and its `input` as the answer"
        same = "each row has the same instruction"
        print(f"notice: {path.name}: {same}, so {swapped}", file=sys.stderr)
        return [turned_round(record) for record in records]
    return [one_record(path, record) for record in records]


def is_inverse(records: list[Any]) -> bool:
    """Whether it is a course's file for the backward model, with the columns swapped."""
    if len(records) < 2 or not all(isinstance(record, dict) for record in records):
        return False
    instructions = {str(record.get("instruction", "")) for record in records}
    both = all(record.get("input") and record.get("output") for record in records)
    if not both or len(instructions) != 1 or not ASKS.search(instructions.pop()):
        return False
    # Labels come again and again, questions do not: "Is this question open or closed?"
    return len({str(record["output"]) for record in records}) > len(records) / 2


def turned_round(record: dict) -> dict:
    answer, question = record["input"], record["output"]
    return {**record, "instruction": question, "input": "", "output": answer}


def one_record(path: Path, record: Any) -> Any:
    """One record in a shape that read_rows knows."""
    if not isinstance(record, dict):
        return record
    if "chosen" in record:
        advice = "prepare the data again with --format messages"
        raise WorkshopError(f"{path} holds preferences, not answers to learn: {advice}")
    chat = chat_of(record)
    if chat is not None:
        return {"conversations": chat, **{name: record[name] for name in ("id",) if name in record}}
    if isinstance(record.get("prompt"), str) and isinstance(record.get("completion"), str):
        return {**record, "instruction": record["prompt"], "output": record["completion"]}
    names = {NAMES[name]: value for name, value in record.items() if name in NAMES}
    return behind_system(names | record)


def behind_system(record: dict) -> dict:
    """A record whose instruction stands behind the text of its system, where it has one."""
    texts = [record.get("system"), record.get("instruction")]
    if all(isinstance(text, str) and text.strip() for text in texts):
        return {**record, "instruction": "\n\n".join(texts)}
    return record


def chat_of(record: dict) -> list[Any] | None:
    """The turns of a chat as texts, its system text before the first; None for no chat.

    Without a turn where user and assistant do not take turns, or another role speaks.
    """
    # Where do the turns stand?
    turns = record.get("messages", record.get("conversations"))
    if isinstance(record.get("prompt"), list) and isinstance(record.get("completion"), list):
        turns = record["prompt"] + record["completion"]
    if record.get("history") and isinstance(record["history"], list):
        question = f"{record.get('instruction', '')}\n\n{record.get('input', '')}".strip()
        return [*chain(*record["history"]), question, record.get("output")]
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        return None

    # What do they say, and who?
    try:
        says = list(turns_of(record))
    except NoTalk:
        return []
    system = [text for role, text in says if role == "system"]
    roles = [role for role, _ in says if role != "system"]
    texts = [text for role, text in says if role != "system"]
    if roles != (["user", "assistant"] * len(roles))[: len(roles)]:
        return []
    if system and texts:
        texts[0] = "\n\n".join([*system, texts[0]])
    return texts
