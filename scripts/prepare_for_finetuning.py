"""Make of a run's dataset the files that trainers take, with a dataset card beside them.

    python scripts/prepare_for_finetuning.py
    python scripts/prepare_for_finetuning.py FILE --num-instructions 1000
    python scripts/prepare_for_finetuning.py FILE --format messages --split 0.05 \\
        --include-seed-tasks

The first command reads data/workshop/step4_final.jsonl and takes a second. 50,000 rows take
10 s. No GPU is needed.

FILE holds instruction, input and output (the Alpaca shape), or tasks with `instances`. It is a
JSON array or JSON Lines. The rules of stage 4 filter it once more: those of the run's own
recipe, else of `modern`. The formats, and who reads them:

    alpaca              LLaMA-Factory, axolotl
                        [{"instruction": ..., "input": ..., "output": ...}, ...]
    messages            OpenAI, TRL, axolotl
                        {"messages": [{"role": "user", "content": ...}, ...]} a line
    sharegpt            LLaMA-Factory, FastChat
                        [{"conversations": [{"from": "human", "value": ...}, ...]}, ...]
    prompt-completion   TRL, base models
                        {"prompt": ..., "completion": ...} a line
    preference          TRL's DPO
                        {"prompt": [{"role": "user", ...}], "chosen": [...], "rejected": [...]}

In prompt-completion, each prompt has a shape that is drawn: one of 7 with an input, one of 6
without. The paper did so, too, and so does encode_instance in the official code: a model then
does not depend on one shape (paper, appendix on fine-tuning). In Chinese, the field names are
Chinese. There is no end mark: trainers add the end mark of their tokenizer.

Texts are never cut. The official code removes, half of the time, what stands before an input's
only colon. It makes "30 tomorrow" of "at 10:30 tomorrow".

Of two answers, `preference` takes the one that a person or a judge preferred, and no others:

    python scripts/prepare_for_finetuning.py pairs-key.jsonl --format preference \\
        --sheet pairs-ana.csv
    python scripts/prepare_for_finetuning.py judged_first.jsonl judged.jsonl --format preference

The first reads sheets of scripts/review.py pairs. The second reads files of scripts/judge.py, and
takes an instruction and input of which one output is right and another one is wrong.

What is drawn depends on --seed and on the instruction alone. So the instructions of a smaller
--num-instructions are among those of a larger one. The folder is one dataset: a new call
replaces what an earlier call wrote there. So edit the card last.

--keep-id carries the id of each row, by which step4_provenance.jsonl says where it comes from
(`python scripts/provenance.py` writes that file). --push-to USER/NAME uploads the folder to
the Hugging Face hub, as a private dataset unless --public is given. Nothing is uploaded without it.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib import util
from pathlib import Path, PureWindowsPath
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import self_instruct_workshop as workshop
from scripts import review
from scripts.overlapping import record as overlap
from scripts.reviewing import pairs as pair_sheets
from scripts.training.shared import push
from self_instruct_workshop import (
    DATA,
    DEFAULT_SEEDS,
    PROVENANCE,
    RECIPES,
    UsageError,
    WorkshopError,
    one_line,
    to_json,
)

Row = dict[str, str]  # instruction, input, output
Ids = dict[tuple[str, str, str], str]  # (instruction, input, output) -> id

# What a setting may be: the lowest and the highest value.
BOUNDS = {
    "num_instructions": (1, math.inf),
    "max_instances": (1, math.inf),
    "split": (0, 0.5),
}
OPENAI_LEAST = 10  # lines that OpenAI asks of a fine-tuning file


def notice(text: str) -> None:
    workshop.tell(f"notice: {text}")


# --------------------------------------------------------------------------------------------------
# What comes in.


def read_rows(path: Path) -> list[Row]:
    """The instances of a JSON array or of JSON Lines.

    Raises WorkshopError, which names the file and the place in it.
    """
    rows = []
    for where, record in read_records(path):
        # A record can hold several instances.
        rows += instances(where, record)
    if not rows:
        problem = "holds no instance: run all four stages, or name another file"
        raise WorkshopError(f"{path} {problem}")
    return rows


def read_records(path: Path) -> list[tuple[str, Any]]:
    """The records of a JSON array, or the lines of JSON Lines, each with its place.

    Raises WorkshopError where the file cannot be read.
    """
    # One array is the whole file. Otherwise each line is a record.
    try:
        text = path.read_text(encoding="utf-8-sig")
        whole = text.lstrip().startswith("[")
        found = json.loads(text) if whole else text.split("\n")
    except (OSError, ValueError, RecursionError) as error:
        why = getattr(error, "strerror", "") or one_line(str(error))
        problem = f"cannot read {path} as JSON in UTF-8 ({why})"
        raise WorkshopError(f"{problem}: run self_instruct.py, or name a file") from None

    kind = "record" if whole else "line"
    numbered = enumerate(found, 1)
    return [(f"{path}, {kind} {n}", one) for n, one in numbered if whole or one.strip()]


def instances(where: str, record: Any) -> list[Row]:
    """The rows of one record, or of the line that holds it.

    An input or output that is null is empty, and so is an input of spaces, or of words that
    stand for no input, such as "<noinput>". Raises WorkshopError for a record of another shape.
    """
    # The record must have the right shape.
    task = decoded(record)
    if not is_task(task):
        needed = "a JSON record with instruction and output, or with instances"
        raise WorkshopError(f"{where}: {needed}, is needed")

    # Make a row of each instance. In the Alpaca shape, the record is the instance.
    rows = []
    instruction = task["instruction"].strip()
    for pair in task.get("instances", [task]):
        source = pair.get("input") or ""
        no_input = not source.strip() or workshop.breaks("no_input", source.strip())
        source = "" if no_input else source
        target = pair["output"] or ""
        rows.append({"instruction": instruction, "input": source, "output": target})
    return rows


def decoded(record: Any) -> Any:
    """The value of a record or of its line; None for a text that is not JSON.

    Lone surrogates become question marks: no file in UTF-8 can hold them.
    """
    with suppress(ValueError, RecursionError):  # recursion: lists in lists, a thousand deep
        value = json.loads(record) if isinstance(record, str) else record
        return json.loads(to_json(value).encode("utf-8", "replace"))
    return None


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


# --------------------------------------------------------------------------------------------------
# What comes in as preferences: a row has `chosen` and `rejected` in place of the output.


def preferred_rows(options: argparse.Namespace, dropped: Counter[str]) -> tuple[list[Row], dict]:
    """The rows in which an answer was preferred, and what was read, by title.

    Raises WorkshopError where a file is another one, or nothing was preferred.
    """
    if options.sheet:
        found, read = rows_of_sheets(options.file, options.sheet, dropped)
    else:
        found, read = rows_of_judges(options.files, dropped)

    # What people or a judge like may still be no answer.
    rows = []
    for row in found:
        rule = RECIPES["modern"].instance_problem(row["instruction"], row["input"], row["chosen"])
        dropped[rule] += bool(rule)
        if not rule:
            rows.append(row)
    if not rows:
        why = ", ".join(rule for rule, count in dropped.items() if count)
        problem = f"no answer in {options.file} was preferred to another ({why})"
        raise WorkshopError(f"{problem}: fill in more of a sheet, or judge both answers")
    return rows, read


def rows_of_sheets(
    key_file: Path, sheets: list[Path], dropped: Counter[str]
) -> tuple[list[Row], dict]:
    """The pairs of which all who rated them preferred the same side."""
    key = pair_sheets.read_key(key_file)
    said = [pair_sheets.read_sheet(path) for path in sheets]
    for path, sheet in zip(sheets, said, strict=True):
        pair_sheets.by_writer(sheet, key, path)  # or the key is another sheet's
    rows = []
    for pair_id, pair in key.items():
        answers = {sheet.get(pair_id) for sheet in said} - {None}
        if len(answers) == 1 and answers < {*pair_sheets.SIDES}:
            (side,) = answers
            other = "B" if side == "A" else "A"
            texts = {"chosen": pair[side]["output"], "rejected": pair[other]["output"]}
            rows.append({"instruction": pair["instruction"], "input": pair["input"], **texts})
        else:
            rules = {0: "not_rated", 1: "as_good_as_each_other"}
            dropped[rules.get(len(answers), "raters_differ")] += 1
    return rows, {title(key_file): list(key.values())}


def rows_of_judges(files: list[Path], dropped: Counter[str]) -> tuple[list[Row], dict]:
    """A right output with a wrong one of the same instruction and input; each is used once."""
    # What each file says: True is right, False is wrong.
    read = {}
    said: dict[tuple[str, str], dict[str, set]] = {}
    for path in files:
        read[title(path)] = judged_rows(path)
        for row in read[title(path)]:
            outputs = said.setdefault((row["instruction"], row["input"]), {})
            outputs.setdefault(row["output"], set()).add(row["right"])

    # An output that two judges see differently counts for neither side.
    rows = []
    for (instruction, source), outputs in said.items():
        right = [output for output, answers in outputs.items() if answers == {True}]
        wrong = [output for output, answers in outputs.items() if answers == {False}]
        for chosen, rejected in zip(right, wrong, strict=False):
            texts = {"chosen": chosen, "rejected": rejected}
            rows.append({"instruction": instruction, "input": source, **texts})

    # Two rows make a pair.
    dropped["other_half_of_a_pair"] += len(rows)
    dropped["not_in_a_pair"] += sum(map(len, read.values())) - 2 * len(rows)
    return rows, read


def judged_rows(path: Path) -> list[dict]:
    """The rows of a file of scripts/judge.py: texts, and whether the output is `right`.

    It is None where the judge gave no answer, or was not trusted.
    """
    rows = []
    for number, line in enumerate(review.data_lines(path, "name a file of judge.py"), 1):
        if not line.strip():
            continue
        record = review.parsed(line)
        texts = [record.get(name) for name in review.TEXTS] if isinstance(record, dict) else [None]
        if not all(isinstance(text, str) for text in texts) or "output_right" not in record:
            problem = f"{path}, line {number} is no row of judged.jsonl"
            raise WorkshopError(f"{problem}: name a file of scripts/judge.py, or give --sheet")
        decided = record.get("rule", "") is not None
        right = record["output_right"] if decided else None
        rows.append({**dict(zip(review.TEXTS, texts, strict=True)), "right": right})
    return rows


# The settings of a run that the card names.
RUN_FACTS = ("provider", "model", "recipe", "language", "temperature", "seed")
OF_STAGES = ("classify_provider", "classify_model", "instances_provider", "instances_model")


def run_beside(path: Path) -> dict[str, str]:
    """What run.json beside the input says of the run; empty where there is no run.json.

    Empty too where the input was made of rows that no longer stand there: they may be of another.
    """
    # Is it about these rows?
    why = outdated(path)
    if why:
        notice(f"{why} again; till then the card does not say who made the data")
        return {}

    # Read it.
    place = path.parent / "run.json"
    told = None
    try:
        told = json.loads(place.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError):
        pass  # the notice below says so

    # Take what the card names.
    facts = facts_of(told)
    if not facts:
        notice(f"{place} cannot be read: the card does not say who made the data")
    return facts


def facts_of(told: Any) -> dict[str, str]:
    """The facts in a run.json; empty where one of them is missing."""
    # Is everything there?
    if not isinstance(told, dict):
        return {}
    settings = told.get("settings")
    versions = told.get("versions")
    ended_at = told.get("ended_at")
    if not isinstance(settings, dict) or not isinstance(versions, dict):
        return {}
    known = settings.keys() >= set(RUN_FACTS) and "self_instruct" in versions
    if not known or not isinstance(ended_at, str):
        return {}

    # The date is the day on which the run ended.
    facts = {name: str(settings[name]) for name in RUN_FACTS}
    facts |= {name: str(settings[name]) for name in OF_STAGES if settings.get(name)}
    facts |= differing(told, facts)
    return {**facts, "date": ended_at[:10], "version": str(versions["self_instruct"])}


def differing(told: dict, facts: dict[str, str]) -> dict[str, str]:
    """The facts in which the runs of a merged folder differ, with the values of all of them."""
    merged = told.get("merge")
    differ = merged.get("differ") if isinstance(merged, dict) else None
    known = differ.items() if isinstance(differ, dict) else ()
    return {name: str(values) for name, values in known if name in facts}


# What programs behind stage 4 say of the data: the name of the record, its list of files, and how
# it names the data that they were made of.


def source_of(path: Path) -> str:
    """The name of a file; of one that overlap.py --drop left, the name of what it was made of."""
    claims, _ = overlap.claims(path)
    if claims.get("dropped") is None:
        return path.name
    return str(record_beside(path, overlap.NAME)["data"]["file"])


def made_of(path: Path, record_name: str, name: str) -> tuple[str, str]:
    """The data that a file beside `path` was made of, and its SHA-256; "" where no record tells."""
    record = record_beside(path, record_name)
    if name not in as_record(record.get("files")):
        return "", ""
    data = record.get("data")
    if isinstance(data, dict):  # rewrite.json
        return str(data.get("file") or ""), str(data.get("sha256") or "")
    return str(data or ""), str(record.get("data_sha256") or "")


def outdated(path: Path) -> str:
    """Why the records beside a file are not about it: made of other rows; "" where they are.

    A judged file may be made of a rewritten one, and that of the dataset.
    """
    name = source_of(path)
    for record_name, program in (("judge.json", "judge.py"), ("rewrite.json", "rewrite.py")):
        data, digest = made_of(path, record_name, name)
        place = path.parent / Path(data).name
        if data and digest and place.is_file() and overlap.digest_of(place) != digest:
            return f"{name} was made of another {data} than stands there now: run {program}"
        name = data or name
    return ""


def judge_beside(path: Path) -> str:
    """Who chose the rows, where they are those that scripts/judge.py kept; "" where not."""
    record = record_beside(path, "judge.json")
    counts = as_record(record.get("counts"))
    named = source_of(path) in as_record(record.get("files"))
    if not named or path.name == "judged.jsonl" or not {"rows", "kept"} <= counts.keys():
        return ""
    keep = record.get("keep")
    questions = ", ".join(map(str, keep)) if isinstance(keep, list) else ""
    return f"{record.get('model')}: {counts['kept']} of {counts['rows']} kept ({questions})"


def writers_beside(path: Path) -> str:
    """Who wrote the outputs, where scripts/rewrite.py had them written again; "" where not."""
    # A judged file is made of another one, which judge.json names.
    name = source_of(path)
    name = made_of(path, "judge.json", name)[0] or name

    # What rewrite.json says of that.
    record = record_beside(path, "rewrite.json")
    counts = as_record(record.get("counts"))
    if name not in as_record(record.get("files")) or not {"rows", "rewritten"} <= counts.keys():
        return ""
    return f"{record.get('model')}: {counts['rewritten']} of {counts['rows']}; the others as above"


def record_beside(path: Path, name: str) -> dict:
    """The JSON object in a file beside another one; {} where there is none."""
    with suppress(OSError, ValueError, RecursionError):
        return as_record(json.loads((path.parent / name).read_text(encoding="utf-8")))
    return {}


def as_record(value: Any) -> dict:
    return value if isinstance(value, dict) else {}


def language_of(run: dict[str, str], rows: list[Row]) -> str:
    """The language as run.json says it.

    Without run.json: "zh" where most letters of the instructions are Chinese, else "",
    which is unknown.
    """
    # What the run says.
    language = run.get("language")
    if language in DEFAULT_SEEDS:
        return language

    # Otherwise count letters.
    letters = 0
    chinese = 0
    for row in rows:
        for character in row["instruction"]:
            if character.isalpha():
                letters += 1
                chinese += "\u4e00" <= character <= "\u9fff"
    return "zh" if chinese > letters / 2 else ""


def seed_rows(path: Path) -> list[Row]:
    """The instances of the seed tasks. Seed tasks without an instance are counted."""
    # Say how many cannot be used.
    tasks = workshop.load_seed_tasks(path)
    without = sum(not task.instances for task in tasks)
    if without:
        notice(f"{path}: {without} of {len(tasks)} seed tasks have no instance to train on")

    # Make a row of each instance.
    rows = []
    for task in tasks:
        for instance in task.instances:
            rows.append({"instruction": task.instruction, **instance})
    return rows


# --------------------------------------------------------------------------------------------------
# Ids, with --keep-id. They stand beside the rows: nothing that is drawn depends on them.


def read_ids(path: Path, recipe: str) -> Ids:
    """The ids of the instances in a file, or in step4_provenance.jsonl beside it.

    Raises WorkshopError where neither has ids.
    """
    ids = ids_in(path, recipe)
    beside = path.parent / PROVENANCE
    if not ids and beside.exists():
        ids = ids_in(beside, recipe)
        rewritten = path.parent / "step5_rewritten.jsonl"
        if rewritten.exists() and writers_beside(path):
            ids = with_new_outputs(ids, rewritten, recipe)
    if not ids:
        raise WorkshopError(f"{path} has no ids: {advice_on_ids(path)}")
    return ids


def advice_on_ids(path: Path) -> str:
    """What to do to have ids."""
    folder = str(path.parent)
    command = workshop.program_command("scripts/provenance.py", "--work-dir", folder)
    return f"run  {command}  first, or leave out --keep-id"


def ids_in(path: Path, recipe: str) -> Ids:
    """The ids that the records of a file have.

    The instances of a record with several are numbered: "seed_task_0-1". Of equal instances the
    first one counts.
    """
    ids: Ids = {}
    tidy = RECIPES[recipe].tidy_input
    for where, record in read_records(path):
        task = decoded(record)
        name = task.get("id") if isinstance(task, dict) else None
        if isinstance(name, str) and name:
            for number, row in enumerate(instances(where, record), 1):
                source = tidy(row["instruction"], row["input"])
                one = f"{name}-{number}" if "instances" in task else name
                ids.setdefault((row["instruction"], source, row["output"]), one)
    return ids


def with_new_outputs(ids: Ids, path: Path, recipe: str) -> Ids:
    """The ids, and those of rows whose outputs were written again: a row keeps its id."""
    tidy = RECIPES[recipe].tidy_input
    names = ("instruction", "input", "output", "first_output")
    found: Ids = {}
    for _, record in read_records(path):
        row = as_record(decoded(record))
        texts = [row.get(name) for name in names]
        if all(isinstance(text, str) for text in texts):
            instruction, source, output, first = texts
            source = tidy(instruction, source)
            known = ids.get((instruction, source, first))
            if known:
                found.setdefault((instruction, source, output), known)
    return found | ids


def with_ids_of_seeds(ids: Ids, path: Path, recipe: str) -> Ids:
    """The ids, and those of the instances of seed tasks, which are no rows of a run."""
    seeds: Ids = {}
    tidy = RECIPES[recipe].tidy_input
    for task in workshop.load_seed_tasks(path):
        for number, instance in enumerate(task.instances, 1):
            source = tidy(task.instruction, instance["input"])
            key = (task.instruction, source, instance["output"])
            seeds.setdefault(key, f"{task.id}-{number}")
    return seeds | ids


def id_of(row: Row, ids: Ids, path: Path) -> str:
    """The id of a row. Raises WorkshopError where the ids are of another dataset."""
    found = ids.get((row["instruction"], row["input"], row["output"]))
    if found is None:
        raise WorkshopError(
            f"{path} and {PROVENANCE} do not belong together: {advice_on_ids(path)}"
        )
    return found


# --------------------------------------------------------------------------------------------------
# What is kept, and on which side of the split.


def sift(rows: list[Row], recipe: str, most: int, seed: int, dropped: Counter[str]) -> list[Row]:
    """The rows that the rules of stage 4 keep, and at most `most` of one instruction.

    What is left out is counted in `dropped`, by the name of its rule.
    """
    # Put the instances of an instruction together.
    tasks: dict[str, workshop.Pairs] = {}
    for row in rows:
        pairs = tasks.setdefault(row["instruction"], [])
        pairs.append((row["input"], row["output"]))

    # Filter them. Of too many, draw some; they stay in their order.
    kept = []
    for instruction, pairs in tasks.items():
        fine, rejected = workshop.filter_instances(instruction, pairs, recipe=recipe)
        count = min(most, len(fine))
        chosen = random.Random(f"{seed}/{instruction}").sample(range(len(fine)), count)
        for i in sorted(chosen):
            source, target = fine[i]
            kept.append({"instruction": instruction, "input": source, "output": target})

        # Count what is left out.
        dropped.update(rule for _, _, rule in rejected)
        if count < len(fine):
            dropped["over_max_instances"] += len(fine) - count
    return kept


def same(instruction: str) -> str:
    """One name for instructions that differ only in capitals, spaces or width of characters."""
    return " ".join(unicodedata.normalize("NFKC", instruction).casefold().split())


def draw(rows: list[Row], number: int, purpose: str) -> tuple[list[Row], list[Row]]:
    """All rows of `number` instructions, and all other rows.

    Each instruction has a random rank of its own, and the first ranks are drawn. So a
    larger number draws the same instructions and more.
    """
    # Rank the instructions.
    names = {same(row["instruction"]) for row in rows}
    ranks = {name: random.Random(f"{purpose}/{name}").random() for name in names}
    first = set(sorted(names, key=ranks.__getitem__)[:number])

    # Part the rows.
    drawn = []
    rest = []
    for row in rows:
        side = drawn if same(row["instruction"]) in first else rest
        side.append(row)
    return drawn, rest


def instructions(rows: list[Row]) -> int:
    """How many instructions the rows have."""
    return len({same(row["instruction"]) for row in rows})


def split(rows: list[Row], share: float, seed: int) -> dict[str, list[Row]]:
    """The part "train", and where a share is asked for "validation". Each is shuffled.

    No instruction is in both. Raises WorkshopError where there is only one instruction.
    """
    # Hold out the share.
    parts = {"train": list(rows)}
    if share:
        total = instructions(rows)
        if total < 2:
            problem = "one instruction cannot be on both sides"
            raise WorkshopError(f"{problem}: leave out --split")
        number = max(1, round(share * total))
        held_out, rest = draw(rows, number, f"{seed}/split")
        parts = {"train": rest, "validation": held_out}

    # Shuffle.
    for part in parts.values():
        random.Random(seed).shuffle(part)
    return parts


# --------------------------------------------------------------------------------------------------
# The formats: how an instance is written, and what LLaMA-Factory must be told about it.
# Each function takes a row, the language and the seed.


def alpaca(row: Row, language: str, seed: int) -> dict:
    return row


def messages(row: Row, language: str, seed: int) -> dict:
    asked = {"role": "user", "content": question(row)}
    said = {"role": "assistant", "content": row["output"]}
    return {"messages": [asked, said]}


def sharegpt(row: Row, language: str, seed: int) -> dict:
    asked = {"from": "human", "value": question(row)}
    said = {"from": "gpt", "value": row["output"]}
    return {"conversations": [asked, said]}


def preference(row: Row, language: str, seed: int) -> dict:
    """A prompt with two answers, as turns of a chat: the trainer adds the chat's template."""
    return {
        "prompt": [{"role": "user", "content": question(row)}],
        "chosen": [{"role": "assistant", "content": row["chosen"]}],
        "rejected": [{"role": "assistant", "content": row["rejected"]}],
    }


def question(row: Row) -> str:
    if row["input"]:
        return f"{row['instruction']}\n\n{row['input']}"
    return row["instruction"]


# The shapes of a prompt: what stands before the instruction, between it and the input,
# and behind the input.
WITH_INPUT = [
    ("", "\nInput: ", "\nOutput:"),
    ("Task: ", "\nInput: ", "\nOutput:"),
    ("", "\n\n", "\n\nOutput:"),
    ("", "\n\nInput: ", "\n\nOutput:"),
    ("", "\n\n", "\n\n"),
    ("Task: ", "\n\n", "\n\n"),
    ("", "\n", "\n\n"),
]
WITHOUT_INPUT = [
    ("", "", " Output:"),
    ("", "", "\nOutput:"),
    ("", "", "\n\nOutput:"),
    ("", "", "\n"),
    ("", "", "\n\n"),
    ("Task: ", "", "\n\n"),
]

# "：" and the character behind it may be one token; "：\n" ends one.
CHINESE = {"Task: ": "任务：", "Input: ": "输入：", "Output:": "输出：\n"}


def prompt_completion(row: Row, language: str, seed: int) -> dict:
    """An instance in one of the shapes, which is drawn for it alone.

    Other rows change nothing.
    """
    # Draw the shape.
    drawn = random.Random("/".join([str(seed), *row.values()]))
    shape = drawn.choice(WITH_INPUT if row["input"] else WITHOUT_INPUT)
    if language == "zh":
        shape = tuple(in_chinese(part) for part in shape)
    before, between, after = shape

    # Behind a colon, the completion begins with a space.
    prompt = before + row["instruction"] + between + row["input"] + after
    space = " " if prompt.endswith(":") else ""
    return {"prompt": prompt, "completion": space + row["output"]}


def in_chinese(text: str) -> str:
    for english, chinese in CHINESE.items():
        text = text.replace(english, chinese)
    return text


@dataclass(frozen=True)
class Format:
    suffix: str  # .json: one array; .jsonl: a line for each instance
    encode: Callable[[Row, str, int], dict]  # of a row, the language and the seed
    # To LLaMA-Factory, in dataset_info.json: columns, where they are not Alpaca's; None: it takes
    # another shape.
    told: dict | None
    refuses_more: str = ""  # who takes no column beside these, an id say; empty: nobody


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
    "sharegpt": Format(".json", sharegpt, SHAREGPT),
    "prompt-completion": Format(".jsonl", prompt_completion, PROMPT),
    "preference": Format(".jsonl", preference, None),
}


# --------------------------------------------------------------------------------------------------
# The card: who made the data, and how.

# A folder belongs to us if its card names this program. Other folders are not replaced.
MARK = "scripts/prepare_for_finetuning.py"

# The size as the Hugging Face hub names it: below so many rows -> its name.
SIZES = {
    1_000: "n<1K",
    10_000: "1K<n<10K",
    100_000: "10K<n<100K",
    1_000_000: "100K<n<1M",
    math.inf: "n>1M",
}
CARD = """---
{language}license: other
pretty_name: Self-Instruct dataset
size_categories:
- {size}
task_categories:
- text-generation
tags:
- instruction-tuning
- self-instruct
- synthetic
configs:
- config_name: default
  data_files:
{data_files}
---

# Self-Instruct dataset

Instructions with inputs and outputs, written by a language model that was shown seed tasks, as in
[Self-Instruct](https://arxiv.org/abs/2212.10560). \
{rated} The format is `{format}`, made by `{mark}`.

| split | file | instructions | instances |
|---|---|---|---|
{parts}

## Where it comes from

| | |
|---|---|
{origin}
{checked}
## Licence

`license: other` is a placeholder: \
decide before you publish this folder, and change it. What a model writes is under
the terms of its provider, some of which do not allow to train other models on it.{remarks}
"""


RATED = (  # a dataset, preferences
    "Nobody has checked each of them; of the paper's own, reviewers found\n"
    "54 in 100 right in every field.",
    "Of two answers, `chosen` was preferred to `rejected`: \nbetter, which is not yet right.",
)


def card(
    options: argparse.Namespace,
    run: dict[str, str],
    language: str,
    parts: dict[str, list[Row]],
) -> str:
    """README.md of the folder: YAML for `load_dataset` and the hub, then words for people."""
    # What is in each file.
    suffix = FORMATS[options.format].suffix
    files = []
    table_rows = []
    for name, rows in parts.items():
        file = f"{name}{suffix}"
        files.append(f"  - split: {name}\n    path: {file}")
        table_rows.append(f"| {name} | `{file}` | {instructions(rows)} | {len(rows)} |")

    # Who made it, and how large it is.
    total = sum(len(rows) for rows in parts.values())
    facts = origin(options, run)
    cells = [f"| {name} | {shown(value)} |" for name, value in facts.items()]

    # Fill in the card.
    return CARD.format(
        language=f"language:\n- {language}\n" if language else "",
        size=next(name for limit, name in SIZES.items() if total < limit),
        data_files="\n".join(files),
        rated=RATED[options.format == "preference"],
        format=options.format,
        mark=MARK,
        parts="\n".join(table_rows),
        origin="\n".join(cells),
        checked=checked(options),
        remarks="".join(f"\n\n{remark}" for remark in remarks(options, run)),
    )


def origin(options: argparse.Namespace, run: dict[str, str]) -> dict[str, Any]:
    """Who made the data and how. No address of a server is in it."""
    facts = {"made of": ", ".join(path.name for path in options.files), **run}
    rewritten = "" if outdated(options.file) else writers_beside(options.file)
    if rewritten:
        facts["outputs written again by"] = rewritten
    judge = judge_beside(options.file)
    if judge:
        facts["rows judged by"] = judge
    if options.include_seed_tasks:
        facts["seed tasks"] = Path(options.seed_file).name or "this project's own"
    if options.format == "preference":
        facts["preferred by"] = preferred_by(options)
    else:
        facts["most instances of an instruction"] = options.max_instances
    facts["seed of the draws"] = options.seed
    return facts


def preferred_by(options: argparse.Namespace) -> str:
    """Who preferred the chosen answers. The names of sheets, which may be people's, stay out."""
    if options.sheet:
        return f"people, in filled sheets: {len(options.sheet)}"
    return str(record_beside(options.file, "judge.json").get("model") or "a judge, a model")


# How a path or an address begins: "/", "~", "../", "C:\", "https://".
PATH = re.compile(r"[/~\\]|\.{1,2}[/\\]|[A-Za-z]:[/\\]|\w+://")


def shown(value: Any) -> str:
    """A fact as a cell of a table. Nothing in it is read as Markdown.

    Of a path on the maker's disk, only the name is shown.
    """
    text = one_line(str(value))
    if PATH.match(text):
        text = PureWindowsPath(text).name
    return re.sub(r"([\\`|<>*_\[\]])", r"\\\1", text)


CHECKED = """
## Checked for overlap

Instructions and inputs of {file} were compared with these evaluation sets by `{mark}`: \
the same text but for
case, spaces and punctuation, {n} tokens in a row, and ROUGE-L above {threshold}. \
Of {rows} rows, {outcome}.{seeds}

| evaluation set | items | exact | {n}-gram | ROUGE-L | rows | SHA-256 |
|---|---|---|---|---|---|---|
{sets}
"""


def checked(options: argparse.Namespace) -> str:
    """Against which evaluation sets the rows were checked; empty where the record does not say.

    The record is of scripts/overlap.py, and stands beside the data.
    """
    # What does it say of this file?
    claims, problem = overlap.claims(options.file)
    if problem:
        notice(problem)
    if not claims:
        return ""

    # A line for each evaluation set.
    sets = []
    for file in claims["checked"]:
        found = [file["rows"][test] for test in overlap.COUNTS]
        name = PureWindowsPath(file["file"]).name
        cells = [shown(name), file["items"], *found, f"`{shown(file['sha256'])}`"]
        sets.append("| " + " | ".join(map(str, cells)) + " |")

    # What came of it.
    outcome = f"{claims['rows_found']} overlap with one of them; none was left out for that"
    if claims["dropped"] is not None:
        outcome = f"{claims['dropped']} overlapped with one of them and were left out"
    seeds = " The seed tasks were not compared." if options.include_seed_tasks else ""
    return CHECKED.format(
        file=shown(options.file.name),
        mark=overlap.MARK,
        n=claims["tests"]["ngram"]["n"],
        threshold=claims["tests"]["rouge_l"]["threshold"],
        rows=claims["rows"],
        outcome=outcome,
        seeds=seeds,
        sets="\n".join(sets),
    )


def remarks(options: argparse.Namespace, run: dict[str, str]) -> list[str]:
    """What else people must know before they publish the data."""
    # Who wrote it?
    found = []
    if not run:
        missing = "No run.json says who or what wrote the data"
        found.append(f"{missing}: correct what this card says of it.")
    if run.get("provider") == "practice":
        bank = "a bank of written tasks (CC BY 4.0), no language model"
        found.append(f"The practice model is {bank}: for trying out a trainer.")

    # Whose are the seed tasks?
    if options.include_seed_tasks:
        licence = "mind their licence." if options.seed_file else "CC BY 4.0."
        found.append(f"People wrote the seed tasks: {licence}")
    return found


# --------------------------------------------------------------------------------------------------
# What goes out.

OURS = [
    "train.json",
    "train.jsonl",
    "validation.json",
    "validation.jsonl",
    "dataset_info.json",
    "README.md",
]


def contents(
    options: argparse.Namespace,
    run: dict[str, str],
    language: str,
    parts: dict[str, list[Row]],
    ids: Ids,
) -> dict[str, list[str]]:
    """The files: their names and lines. The data come first, the card comes last."""
    # The data, and what LLaMA-Factory is told of them.
    form = FORMATS[options.format]
    files = {}
    described = {}
    for part, rows in parts.items():
        name = part + form.suffix
        lines = []
        for row in rows:
            made = form.encode(row, language, options.seed)
            more = {"id": id_of(row, ids, options.file)} if options.keep_id else {}
            lines.append(to_json(made | more))
        files[name] = lines if form.suffix == ".jsonl" else as_array(lines)
        title = "self_instruct" if part == "train" else "self_instruct_validation"
        described[title] = {"file_name": name, **(form.told or {})}

    # What describes them.
    if form.told is not None:
        files["dataset_info.json"] = [json.dumps(described, indent=2), "\n"]
    files["README.md"] = [card(options, run, language, parts)]
    return files


def as_array(lines: list[str]) -> list[str]:
    """Lines of JSON as one array, still a line for each."""
    inner = ",\n".join(line.removesuffix("\n") for line in lines)
    return ["[\n", inner, "\n]\n"]


def write(folder: Path, files: dict[str, list[str]]) -> None:
    """Write the files, in place of those of an earlier call.

    Files of another format, or of an old split, must not stay beside the new files.
    Raises UsageError where the folder is not ours, and WorkshopError where it cannot be
    written to.
    """
    try:
        # Is the folder ours?
        there = [name for name in OURS if (folder / name).exists()]
        if there and not has_our_card(folder):
            advice = "name another folder by --output-dir"
            raise UsageError(f"{folder} holds another {there[-1]}: {advice}")

        # Remove the old data, then write the card first. If this call is broken off, the
        # card says that the folder is ours.
        for name in there:
            if name != "README.md":
                (folder / name).unlink()
        for name in reversed(files):
            workshop.write_whole(folder / name, files[name])
    except OSError as error:
        problem = f"cannot write to {folder} ({error.strerror})"
        raise WorkshopError(f"{problem}: name another by --output-dir") from None


def has_our_card(folder: Path) -> bool:
    path = folder / "README.md"
    return path.exists() and MARK in path.read_text("utf-8", "replace")


def table(read: dict[str, list[Row]], dropped: Counter[str], files: dict[str, list[Row]]) -> str:
    """What came in, what each rule took, and what is left. The instances add up."""
    heads = [review.right(workshop.spoken("instructions"), 12)]
    heads.append(review.right(workshop.spoken("instances"), 10))
    lines = [f"{'':<40} {' '.join(heads)}"]
    lines += [line(name, rows) for name, rows in read.items()]
    for rule, count in dropped.most_common():
        if count:
            lines.append(f"  - {rule:<36} {'':>12} {count:>10,}")
    lines += [line(name, rows) for name, rows in files.items()]
    return "\n".join(lines)


def line(name: str, rows: list[Row]) -> str:
    return f"{review.left(name, 40)} {instructions(rows):>12,} {len(rows):>10,}"


# --------------------------------------------------------------------------------------------------
# The program.


def prepare(options: argparse.Namespace) -> None:
    # Read the dataset, and what is known about its run.
    check(options)
    dropped: Counter[str] = Counter()
    run = run_beside(options.file)
    recipe = run["recipe"] if run.get("recipe") in RECIPES else "modern"
    if options.format == "preference":
        rows, read = preferred_rows(options, dropped)
        language = language_of(run, rows)
    else:
        rows = read_rows(options.file)
        read = {title(options.file): rows}
        language = language_of(run, rows)
        rows = sift(rows, recipe, options.max_instances, options.seed, dropped)

    ids = read_ids(options.file, recipe) if options.keep_id else {}

    # Choose the rows.
    if options.num_instructions:
        rows = draw_some(rows, options, dropped)
    if options.include_seed_tasks:
        path = Path(options.seed_file or DEFAULT_SEEDS[language or "en"])
        seeds = seed_rows(path)
        read[title(path)] = seeds
        rows = sift(rows + seeds, recipe, options.max_instances, options.seed, dropped)
        ids = with_ids_of_seeds(ids, path, recipe) if options.keep_id else {}
    if not rows:
        raise WorkshopError(f"nothing of {options.file} is left: {', '.join(dropped)}")

    # Write the files, and say what is in them.
    parts = split(rows, options.split, options.seed)
    files = contents(options, run, language, parts, ids)
    write(options.output_dir, files)
    print(table(read, dropped, dict(zip(files, parts.values(), strict=False))))
    print("\n" + workshop.spoken(f"Files in {options.output_dir}: {', '.join(files)}"))
    give_notice(options, run, len(parts["train"]))

    # Upload them where --push-to says.
    names = [name for name in files if name != "README.md"]
    push(options, "dataset", options.output_dir, names, "".join(files["README.md"]))


def check(options: argparse.Namespace) -> None:
    """Fill in the folder. Raises UsageError for a setting out of bounds, as Config does."""
    # Numbers within their bounds.
    for name, (low, high) in BOUNDS.items():
        value = getattr(options, name)
        if value is not None and not low <= value <= high:
            flag = "--" + name.replace("_", "-")
            allowed = f"at least {low}" if math.isinf(high) else f"from {low} to {high}"
            raise UsageError(f"{flag} must be {allowed}, not {value}")

    # Flags that go together.
    check_preference(options)
    if options.seed_file and not options.include_seed_tasks:
        raise UsageError("--seed-file is for --include-seed-tasks")
    refuses = FORMATS[options.format].refuses_more
    if options.keep_id and refuses:
        problem = f"--keep-id is not for --format {options.format}"
        raise UsageError(f"{problem}: {refuses} takes no further column")
    check_upload(options)

    # A folder for the files, not the folder of the run.
    options.output_dir = options.output_dir or DATA / "finetuning" / options.format
    if options.file.resolve().parent == options.output_dir.resolve():
        folder = f"--output-dir must be another folder than that of {options.file}"
        raise UsageError(f"{folder}, which it would replace")


def check_preference(options: argparse.Namespace) -> None:
    """Raise UsageError where files and flags are not those of the format."""
    if options.format != "preference":
        if options.sheet:
            raise UsageError("--sheet is for --format preference")
        if len(options.files) > 1:
            raise UsageError("several files are for --format preference: name one")
    elif options.include_seed_tasks:
        raise UsageError(
            "--include-seed-tasks is not for --format preference: they have one answer"
        )
    elif options.sheet and len(options.files) > 1:
        raise UsageError("with --sheet name one file, the pairs-key.jsonl of the sheets")


def check_upload(options: argparse.Namespace) -> None:
    """Raises UsageError for a name that cannot be, and WorkshopError for a missing package."""
    if options.public and not options.push_to:
        raise UsageError("--public is for --push-to")
    if options.push_to and not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", options.push_to):
        raise UsageError(f"--push-to must be USER/NAME, not {options.push_to!r}")
    if options.push_to and not has_package("huggingface_hub"):
        install = workshop.pip_install("huggingface_hub")
        raise WorkshopError(f"--push-to needs a package: run  {install}  first")


def has_package(name: str) -> bool:
    with suppress(ValueError):  # what stands in its place is no package
        return util.find_spec(name) is not None
    return False


def title(path: Path) -> str:
    return workshop.spoken(f"read: {one_line(path.name, 34)}")


def draw_some(rows: list[Row], options: argparse.Namespace, dropped: Counter[str]) -> list[Row]:
    """The rows of --num-instructions instructions. The other rows are counted."""
    # Are there enough?
    wanted = options.num_instructions
    there = instructions(rows)
    if there < wanted:
        said = f"{there} instructions are all there are"
        notice(f"{said}, and --num-instructions asks for {wanted}")

    # Draw them.
    drawn, others = draw(rows, wanted, f"{options.seed}/instructions")
    dropped["not_drawn"] += len(others)
    return drawn


def give_notice(options: argparse.Namespace, run: dict[str, str], lines: int) -> None:
    """Say where the files are not fit to train with."""
    if options.format == "messages" and lines < OPENAI_LEAST:
        least = f"OpenAI asks for at least {OPENAI_LEAST} lines"
        notice(f"{least}, and train.jsonl has {lines}")
    if run.get("provider") == "practice":
        use = "use this to try out a trainer, not to teach a model"
        notice(f"the practice model is no language model: {use}")


def main(arguments: list[str] | None = None) -> int:
    # What goes in, and what comes out.
    about = (__doc__ or "").split("\n\n")[0]
    parser = argparse.ArgumentParser(description=about, allow_abbrev=False)
    add = parser.add_argument
    default = Path(workshop.Config.work_dir) / "step4_final.jsonl"
    folder = "folder for the files [data/finetuning/FORMAT]"
    form = "what the trainer takes [alpaca]"
    several = "[data/workshop/step4_final.jsonl]; of preference: a key of pairs, or judged files"
    add("files", nargs="*", type=Path, metavar="FILE", help=several)
    add("--format", choices=FORMATS, default="alpaca", help=form)
    add("--output-dir", type=Path, help=folder)
    sheet = "preference: filled sheets of review.py pairs"
    add("--sheet", nargs="+", type=Path, default=[], help=sheet)

    # Which rows.
    share = "share of instructions for validation [0: none]"
    number = "draw so many, with all their instances [all]"
    most = "most instances of one instruction (paper: 5) [5]"
    seeds = "add the seed tasks, as the paper did"
    seed_file = "those [the project's own, in the language of the run]"
    add("--split", type=float, default=0.0, help=share)
    add("--num-instructions", type=int, help=number)
    add("--max-instances", type=int, default=5, help=most)
    add("--include-seed-tasks", action="store_true", help=seeds)
    add("--seed-file", default="", help=seed_file)
    add("--seed", type=int, default=42, help="random seed of all draws [42]")
    add("--keep-id", action="store_true", help="an id in each row; not in messages")

    # The upload.
    hub = "upload the folder to the hub; log in by: hf auth login"
    add("--push-to", default="", metavar="USER/NAME", help=hub)
    add("--public", action="store_true", help="let all see what is uploaded [private]")

    # Do it.
    options = parser.parse_intermixed_args(arguments)
    options.files = options.files or [default]
    options.file = options.files[0]
    return workshop.main(None, lambda _: prepare(options))


if __name__ == "__main__":
    sys.exit(main())
