"""Make of a run's dataset the files that trainers take, with a dataset card beside them.

    python scripts/prepare_for_finetuning.py                              data/workshop/step4_final.jsonl; a second
    python scripts/prepare_for_finetuning.py FILE --format messages --split 0.05 --include-seed-tasks
    python scripts/prepare_for_finetuning.py FILE --num-instructions 1000         10 s for 50,000 rows; needs no GPU

FILE holds instruction, input and output (the Alpaca shape), or tasks with `instances`, as a JSON array or as JSON
Lines. It is filtered once more by the rules of stage 4: the run's own recipe, else `modern`. Formats:

    alpaca              [{"instruction": ..., "input": ..., "output": ...}, ...]              LLaMA-Factory, axolotl
    messages            {"messages": [{"role": "user", "content": ...}, ...]} a line         OpenAI, TRL, axolotl
    sharegpt            [{"conversations": [{"from": "human", "value": ...}, ...]}, ...]     LLaMA-Factory, FastChat
    prompt-completion   {"prompt": ..., "completion": ...} a line                             TRL, base models

prompt-completion draws one of 7 shapes for an instance with input, one of 6 without, as the paper did, so that a model
does not depend on one of them (its appendix on fine-tuning, and encode_instance in the official code); in Chinese
the field names are Chinese. There is no end mark: trainers add that of their tokenizer. Texts are never cut: the
official code removes, half of the time, what stands before an input's only colon, and makes "30 tomorrow" of
"at 10:30 tomorrow".

Draws depend on --seed and on the instruction alone: the instructions of a smaller --num-instructions are among those
of a larger one. The folder is one dataset: what an earlier call wrote there is replaced, so edit the card last.
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
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import self_instruct_workshop as workshop
from self_instruct_workshop import DATA, DEFAULT_SEEDS, RECIPES, UsageError, WorkshopError, one_line, to_json

Row = dict[str, str]  # instruction, input, output
BOUNDS = {"num_instructions": (1, math.inf), "max_instances": (1, math.inf), "split": (0, 0.5)}
OPENAI_LEAST = 10  # lines that OpenAI asks of a fine-tuning file
RUN_FACTS = ("provider", "model", "recipe", "language", "temperature", "seed")  # settings that the card names
SIZES = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M", math.inf: "n>1M"}


def notice(text: str) -> None:
    print("notice:", text, file=sys.stderr)


# What comes in.


def read_rows(path: Path) -> list[Row]:
    """The instances of a JSON array or of JSON Lines. Raises WorkshopError, naming the file and the place in it."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        whole = text.lstrip().startswith("[")
        found = json.loads(text) if whole else text.split("\n")
    except (OSError, ValueError, RecursionError) as error:
        why = getattr(error, "strerror", "") or one_line(str(error))
        raise WorkshopError(
            f"cannot read {path} as JSON in UTF-8 ({why}): run self_instruct.py, or name a file"
        ) from None
    places = [(f"{path}, {'record' if whole else 'line'} {n}", record) for n, record in enumerate(found, 1)]
    rows = [row for where, record in places if whole or record.strip() for row in instances(where, record)]
    if not rows:
        raise WorkshopError(f"{path} holds no instance: run all four stages, or name another file")
    return rows


def instances(where: str, record: Any) -> Iterator[Row]:
    """The rows of one record, or of the text of one; an input or output that is null is empty."""
    with suppress(ValueError, TypeError, KeyError, AttributeError, RecursionError):
        record = json.loads(record) if isinstance(record, str) else record
        record = json.loads(to_json(record).encode("utf-8", "replace"))  # lone surrogates become question marks
        for pair in record.get("instances", [record]):
            texts = [record["instruction"].strip(), pair.get("input"), pair["output"]]
            instruction, source, target = ("" if text is None else "" + text for text in texts)
            yield {"instruction": instruction, "input": source if source.strip() else "", "output": target}
        if record["instruction"].strip():
            return
    raise WorkshopError(f"{where}: a JSON record with instruction and output, or with instances, is needed")


def run_beside(path: Path) -> dict[str, str]:
    """What run.json beside the input says of the run; nothing where there is none."""
    place = path.parent / "run.json"
    try:
        told = json.loads(place.read_text(encoding="utf-8"))
        facts = {name: str(told["settings"][name]) for name in RUN_FACTS}
        return {**facts, "date": told["ended_at"][:10], "version": str(told["versions"]["self_instruct"])}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError):
        notice(f"{place} cannot be read: the card does not say who made the data")
        return {}


def language_of(run: dict[str, str], rows: list[Row]) -> str:
    """As run.json says; without it "zh" where most letters of the instructions are Chinese, else unknown, ""."""
    if run.get("language") in DEFAULT_SEEDS:
        return run["language"]
    letters = [c for row in rows for c in row["instruction"] if c.isalpha()]
    return "zh" if sum("\u4e00" <= c <= "\u9fff" for c in letters) > len(letters) / 2 else ""


def seed_rows(path: Path) -> list[Row]:
    """The instances of the seed tasks."""
    tasks = workshop.load_seed_tasks(path)
    if without := sum(not task.instances for task in tasks):
        notice(f"{path}: {without} of {len(tasks)} seed tasks have no instance to train on")
    return [{"instruction": task.instruction, **instance} for task in tasks for instance in task.instances]


# What is kept, and on which side of the split.


def sift(rows: list[Row], recipe: str, most: int, seed: int, dropped: Counter[str]) -> list[Row]:
    """Leave out what the rules of stage 4 turn away, counted by name, and what is over `most` of one instruction."""
    tasks: dict[str, workshop.Pairs] = {}
    for row in rows:
        tasks.setdefault(row["instruction"], []).append((row["input"], row["output"]))
    kept = []
    for instruction, pairs in tasks.items():
        fine, out = workshop.filter_instances(instruction, pairs, recipe=recipe)
        chosen = random.Random(f"{seed}/{instruction}").sample(range(len(fine)), min(most, len(fine)))
        dropped.update([rule for *_, rule in out] + ["over_max_instances"] * (len(fine) - len(chosen)))
        kept += [{"instruction": instruction, "input": fine[i][0], "output": fine[i][1]} for i in sorted(chosen)]
    return kept


def same(instruction: str) -> str:
    """One name for instructions that differ only in capitals, spaces or the width of characters."""
    return " ".join(unicodedata.normalize("NFKC", instruction).casefold().split())


def draw(rows: list[Row], number: int, purpose: str) -> tuple[list[Row], list[Row]]:
    """All rows of `number` instructions, and the others. A larger number draws the same ones and more."""
    names = {same(row["instruction"]) for row in rows}
    first = set(sorted(names, key=lambda name: random.Random(f"{purpose}/{name}").random())[:number])
    drawn, rest = [], []
    for row in rows:
        (drawn if same(row["instruction"]) in first else rest).append(row)
    return drawn, rest


def instructions(rows: list[Row]) -> int:
    return len({same(row["instruction"]) for row in rows})


def split(rows: list[Row], share: float, seed: int) -> dict[str, list[Row]]:
    """Train, and where a share is asked for validation; no instruction is on both sides. Each is shuffled."""
    n = instructions(rows)
    if share and n < 2:
        raise WorkshopError("one instruction cannot be on both sides: leave out --split")
    held_out, rest = draw(rows, max(1, round(share * n)) if share else 0, f"{seed}/split")
    parts = {"train": rest, "validation": held_out} if share else {"train": rest}
    for part in parts.values():
        random.Random(seed).shuffle(part)
    return parts


# The formats: how an instance is written, and what LLaMA-Factory must be told about it.


def question(row: Row) -> str:
    return "\n\n".join(filter(None, [row["instruction"], row["input"]]))


def messages(row: Row, *_: Any) -> dict:
    said = [("user", question(row)), ("assistant", row["output"])]
    return {"messages": [{"role": role, "content": text} for role, text in said]}


def sharegpt(row: Row, *_: Any) -> dict:
    said = [("human", question(row)), ("gpt", row["output"])]
    return {"conversations": [{"from": role, "value": text} for role, text in said]}


WITH_INPUT = [  # what stands before the instruction, between it and the input, and behind that
    *[(task, "\nInput: ", "\nOutput:") for task in ("", "Task: ")],
    *[("", f"\n\n{field}", "\n\nOutput:") for field in ("", "Input: ")],
    *[(task, "\n\n", "\n\n") for task in ("", "Task: ")],
    ("", "\n", "\n\n"),
]
WITHOUT_INPUT = [  # the same, with nothing between
    *[("", "", gap + "Output:") for gap in (" ", "\n", "\n\n")],
    *[("", "", gap) for gap in ("\n", "\n\n")],
    ("Task: ", "", "\n\n"),
]
CHINESE = {"Task: ": "任务：", "Input: ": "输入：", "Output:": "输出：\n"}  # "：答" may be one token, "：\n" ends one


def prompt_completion(row: Row, language: str, seed: int) -> dict:
    """One of the shapes, drawn for this instance alone: other rows change nothing."""
    drawn = random.Random("/".join([str(seed), *row.values()]))
    before, between, after = drawn.choice(WITH_INPUT if row["input"] else WITHOUT_INPUT)
    for english, chinese in CHINESE.items() if language == "zh" else ():
        before, between, after = (part.replace(english, chinese) for part in (before, between, after))
    prompt = before + row["instruction"] + between + row["input"] + after
    return {"prompt": prompt, "completion": " " * prompt.endswith(":") + row["output"]}


@dataclass(frozen=True)
class Format:
    suffix: str  # .json: one array; .jsonl: a line for each instance
    encode: Callable[[Row, str, int], dict]  # of a row, the language and the seed
    told: dict  # to LLaMA-Factory, in dataset_info.json: columns, where they are not Alpaca's


ROLES = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
CHAT = {"formatting": "sharegpt", "columns": {"messages": "messages"}, "tags": ROLES | {"system_tag": "system"}}
PROMPT = {"prompt": "prompt", "response": "completion"}
FORMATS = {
    "alpaca": Format(".json", lambda row, *_: row, {}),
    "messages": Format(".jsonl", messages, CHAT),
    "sharegpt": Format(".json", sharegpt, {"formatting": "sharegpt", "columns": {"messages": "conversations"}}),
    "prompt-completion": Format(".jsonl", prompt_completion, {"columns": PROMPT}),
}


# What goes out.

MARK = "scripts/prepare_for_finetuning.py"  # a folder whose card does not name it is not ours to replace
OURS = ["train.json", "train.jsonl", "validation.json", "validation.jsonl", "dataset_info.json", "README.md"]
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
[Self-Instruct](https://arxiv.org/abs/2212.10560). Nobody has checked each of them; of the paper's own, reviewers found
54 in 100 right in every field. The format is `{format}`, made by `{mark}`.

| split | file | instructions | instances |
|---|---|---|---|
{parts}

## Where it comes from

| | |
|---|---|
{origin}

## Licence

`license: other` is a placeholder: decide before you publish this folder, and change it. What a model writes is under
the terms of its provider, some of which do not allow to train other models on it.{remarks}
"""


def card(options: argparse.Namespace, run: dict[str, str], language: str, parts: dict[str, list[Row]]) -> str:
    """README.md of the folder: YAML for `load_dataset` and the Hugging Face hub, then words for people."""
    suffix, total = FORMATS[options.format].suffix, sum(map(len, parts.values()))
    sizes = {name: (f"`{name}{suffix}`", instructions(rows), len(rows)) for name, rows in parts.items()}
    return CARD.format(
        language=f"language:\n- {language}\n" * bool(language),
        size=next(name for limit, name in SIZES.items() if total < limit),
        data_files="\n".join(f"  - split: {name}\n    path: {name}{suffix}" for name in parts),
        format=options.format,
        mark=MARK,
        parts="\n".join(f"| {name} | {file} | {tasks} | {n} |" for name, (file, tasks, n) in sizes.items()),
        origin="\n".join(f"| {name} | {shown(value)} |" for name, value in origin(options, run).items()),
        remarks="".join(f"\n\n{remark}" for remark in remarks(options, run)),
    )


def origin(options: argparse.Namespace, run: dict[str, str]) -> dict[str, Any]:
    """Who made the data and how. No address of a server is in it."""
    seeds = Path(options.seed_file).name or "this project's own"
    drawn = {"seed tasks": seeds} if options.include_seed_tasks else {}
    drawn |= {"most instances of an instruction": options.max_instances, "seed of the draws": options.seed}
    return {"made of": options.file.name, **run, **drawn}


def shown(value: Any) -> str:
    """A fact as a cell of a table: of a path on the maker's disk only the name, and nothing that is Markdown."""
    text = one_line(str(value))
    text = PureWindowsPath(text).name if re.match(r"[/~\\]|\.{1,2}[/\\]|[A-Za-z]:[/\\]|\w+://", text) else text
    return re.sub(r"([\\`|<>*_\[\]])", r"\\\1", text)


def remarks(options: argparse.Namespace, run: dict[str, str]) -> Iterator[str]:
    """What else whoever publishes the data must know."""
    if not run:
        yield "No run.json says who or what wrote the data: correct what this card says of it."
    if run.get("provider") == "practice":
        yield "The practice model is a bank of written tasks (CC BY 4.0), no language model: for trying out a trainer."
    if options.include_seed_tasks:
        yield "People wrote the seed tasks: " + ("mind their licence." if options.seed_file else "CC BY 4.0.")


def contents(options: argparse.Namespace, run: dict, language: str, parts: dict) -> dict[str, list[str]]:
    """Name and lines of each file: data, LLaMA-Factory's description of it, and last the card."""
    form, files, described = FORMATS[options.format], {}, {}
    for part, rows in parts.items():
        name = part + form.suffix
        lines = [to_json(form.encode(row, language, options.seed)) for row in rows]
        files[name] = lines if form.suffix == ".jsonl" else ["[\n", ",\n".join(line[:-1] for line in lines), "\n]\n"]
        described["self_instruct" + "_validation" * (part != "train")] = {"file_name": name, **form.told}
    files["dataset_info.json"] = [json.dumps(described, indent=2), "\n"]
    return files | {"README.md": [card(options, run, language, parts)]}


def write(folder: Path, files: dict[str, list[str]]) -> None:
    """Replace what an earlier call wrote there. Another format or an old split must not stay beside the new files."""
    there = [name for name in OURS if (folder / name).exists()]
    try:
        if there and (there[-1] != "README.md" or MARK not in (folder / "README.md").read_text("utf-8", "replace")):
            raise UsageError(f"{folder} holds another {there[-1]}: name another folder by --output-dir")
        for name in set(there) - {"README.md"}:
            (folder / name).unlink()
        for name in reversed(files):  # the card first: what a call that is broken off leaves is ours to replace
            workshop.write_whole(folder / name, files[name])
    except OSError as error:
        raise WorkshopError(f"cannot write to {folder} ({error.strerror}): name another by --output-dir") from None


def table(read: dict[str, list[Row]], dropped: Counter[str], files: dict[str, list[Row]]) -> str:
    """What came in, what each rule took, and what is left; the instances add up."""
    lines = [f"{'':<40} {'instructions':>12} {'instances':>10}"]
    lines += [f"{name:<40} {instructions(rows):>12,} {len(rows):>10,}" for name, rows in read.items()]
    lines += [f"  - {rule:<36} {'':>12} {n:>10,}" for rule, n in dropped.most_common() if n]
    return "\n".join(lines + [f"{name:<40} {instructions(rows):>12,} {len(rows):>10,}" for name, rows in files.items()])


def check(options: argparse.Namespace) -> None:
    """Fill in the folder. Raises UsageError for a setting out of bounds, as Config does."""
    for name, (low, high) in BOUNDS.items():
        value, flag = getattr(options, name), "--" + name.replace("_", "-")
        if value is not None and not low <= value <= high:
            allowed = f"at least {low}" if math.isinf(high) else f"from {low} to {high}"
            raise UsageError(f"{flag} must be {allowed}, not {value}")
    if options.seed_file and not options.include_seed_tasks:
        raise UsageError("--seed-file is for --include-seed-tasks")
    options.output_dir = options.output_dir or DATA / "finetuning" / options.format
    if options.file.resolve().parent == options.output_dir.resolve():
        raise UsageError(f"--output-dir must be another folder than that of {options.file}, which it would replace")


def prepare(options: argparse.Namespace) -> None:
    check(options)
    rows, run, dropped = read_rows(options.file), run_beside(options.file), Counter()
    language, recipe = language_of(run, rows), run["recipe"] if run.get("recipe") in RECIPES else "modern"
    read = {f"read: {one_line(options.file.name, 34)}": rows}
    rows = sift(rows, recipe, options.max_instances, options.seed, dropped)
    if options.num_instructions:
        if (n := instructions(rows)) < options.num_instructions:
            notice(f"{n} instructions are all there are, and --num-instructions asks for {options.num_instructions}")
        rows, others = draw(rows, options.num_instructions, f"{options.seed}/instructions")
        dropped["not_drawn"] += len(others)
    if options.include_seed_tasks:
        path = Path(options.seed_file or DEFAULT_SEEDS[language or "en"])
        read[f"read: {one_line(path.name, 34)}"] = seeds = seed_rows(path)
        rows = sift(rows + seeds, recipe, options.max_instances, options.seed, dropped)
    if not rows:
        raise WorkshopError(f"nothing of {options.file} is left: {', '.join(dropped)}")
    parts = split(rows, options.split, options.seed)
    files = contents(options, run, language, parts)
    write(options.output_dir, files)
    print(table(read, dropped, dict(zip(files, parts.values(), strict=False))))
    print(f"\nFiles in {options.output_dir}: {', '.join(files)}")
    if options.format == "messages" and (n := len(parts["train"])) < OPENAI_LEAST:
        notice(f"OpenAI asks for at least {OPENAI_LEAST} lines, and train.jsonl has {n}")
    if run.get("provider") == "practice":
        notice("the practice model is no language model: use this to try out a trainer, not to teach a model")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    default = Path(workshop.Config.work_dir) / "step4_final.jsonl"
    parser.add_argument("file", nargs="?", type=Path, default=default, help="[data/workshop/step4_final.jsonl]")
    parser.add_argument("--format", choices=FORMATS, default="alpaca", help="what the trainer takes [alpaca]")
    parser.add_argument("--output-dir", type=Path, help="folder for the files [data/finetuning/FORMAT]")
    parser.add_argument("--split", type=float, default=0.0, help="share of instructions for validation [0: none]")
    parser.add_argument("--num-instructions", type=int, help="draw so many, with all their instances [all]")
    parser.add_argument("--max-instances", type=int, default=5, help="most instances of one instruction (paper: 5) [5]")
    parser.add_argument("--include-seed-tasks", action="store_true", help="add the seed tasks, as the paper did")
    parser.add_argument("--seed-file", default="", help="those [the project's own, in the language of the run]")
    parser.add_argument("--seed", type=int, default=42, help="random seed of all draws [42]")
    options = parser.parse_args(arguments)
    return workshop.main(None, lambda _: prepare(options))


if __name__ == "__main__":
    sys.exit(main())
