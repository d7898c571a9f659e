"""Make of a run's dataset the files that trainers take, with a dataset card beside them.

    python scripts/prepare_for_finetuning.py
    python scripts/prepare_for_finetuning.py FILE --num-instructions 1000
    python scripts/prepare_for_finetuning.py FILE --format messages --split 0.05 \\
        --include-seed-tasks

The first command reads data/workshop/step4_final.jsonl and takes a second. 50,000 rows take
10 s. No GPU is needed.

FILE is JSON, JSON Lines, CSV or Parquet. Its rows have instruction, input and output (the Alpaca
shape, maybe with history and system), are tasks with `instances`, or are talks: `messages`,
`conversations`, or a prompt with its completion. The rules of stage 4 filter it once more: those
of the run's own recipe, else of `modern`. The formats, and who reads them:

    alpaca              LLaMA-Factory, axolotl
                        [{"instruction": ..., "input": ..., "output": ...}, ...]
    messages            OpenAI, TRL, axolotl
                        {"messages": [{"role": "user", "content": ...}, ...]} a line
    chat-completion     TRL, chat models
                        {"prompt": [{"role": "user", ...}], "completion": [{...}]} a line
    sharegpt            LLaMA-Factory, FastChat
                        [{"conversations": [{"from": "human", "value": ...}, ...]}, ...]
    prompt-completion   TRL, base models
                        {"prompt": ..., "completion": ...} a line
    preference          TRL's DPO
                        {"prompt": [{"role": "user", ...}], "chosen": [...], "rejected": [...]}

On messages, TRL learns the questions and the system's text as well; on chat-completion it learns
the answers alone, with any chat template. Take that for a chat model trained by TRL.

A talk keeps its turns; prompt-completion has no place for earlier ones, and says how many rows it
leaves out for that (has_history, has_system).

In prompt-completion, each prompt has a shape that is drawn: one of 7 with an input, one of 6
without. The paper did so, too, and so does encode_instance in the official code: a model then
does not depend on one shape (paper, appendix on fine-tuning). In Chinese, the field names are
Chinese. There is no end mark: trainers add the end mark of their tokenizer. No token reaches from
the prompt into the completion, so that a model learns answers behind the prompts that it will see.

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

--finish does the missing stages of a run that stopped before stage 4, as after --until generate,
where they cost nothing. Where they are paid for, it says the command.

--tokenizer NAME counts tokens by a model's own tokenizer, a folder or a name on the hub, and says
how many rows are longer than --max-length; --preview shows three rows as the trainer sees them:

    python scripts/prepare_for_finetuning.py --format chat-completion --tokenizer FOLDER --preview

--keep-id carries the id of each row, by which step4_provenance.jsonl says where it comes from
(`python scripts/provenance.py` writes that file). --push-to USER/NAME uploads the folder to
the Hugging Face hub, as a private dataset unless --public is given. Nothing is uploaded without it.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections import Counter
from contextlib import suppress
from importlib import util
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import self_instruct_workshop as workshop
from scripts import review
from scripts.asking.parser import Parser
from scripts.preparing import choose, tokens
from scripts.preparing.card import MARK, card
from scripts.preparing.choose import instructions
from scripts.preparing.formats import FORMATS, MORE_COLUMNS, encode_parts
from scripts.preparing.ids import Ids, id_of, read_ids, with_ids_of_seeds
from scripts.preparing.origin import language_of, notice, run_beside
from scripts.preparing.preferences import preferred_rows
from scripts.reading import records as reading
from scripts.reading.rows import CONTEXT, Row, rows_of
from scripts.training import rest_of_run
from scripts.training.shared import push
from self_instruct_workshop import (
    DATA,
    DEFAULT_SEEDS,
    RECIPES,
    UsageError,
    WorkshopError,
    one_line,
    to_json,
)

# What a setting may be: the lowest and the highest value.
BOUNDS = {
    "num_instructions": (1, math.inf),
    "max_instances": (1, math.inf),
    "split": (0, 0.5),
    "test_split": (0, 0.5),
    "max_length": (1, math.inf),
}
OPENAI_LEAST = 10  # lines that OpenAI asks of a fine-tuning file
PARTS = {
    "train": "self_instruct",
    "validation": "self_instruct_validation",
    "test": "self_instruct_test",
}  # part of the data -> its name in dataset_info.json


# --------------------------------------------------------------------------------------------------
# What comes in.


def read_rows(path: Path) -> list[Row]:
    """The rows of a file; those that cannot be used say so. Raises WorkshopError."""
    rows = []
    for place, record in reading.records(path, "run self_instruct.py, or name a file"):
        # A record can hold several instances.
        rows += rows_of(f"{path}, {place}", record)
    if not rows:
        problem = "holds no instance: run all four stages, or name another file"
        raise WorkshopError(f"{path} {problem}")
    return rows


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
# What goes out.

SUFFIXES = (".json", ".jsonl")
OURS = [part + suffix for part in PARTS for suffix in SUFFIXES]
OURS += ["dataset_info.json", "README.md"]


def data_files(
    options: argparse.Namespace, parts: dict[str, list[Row]], made: dict[str, list[dict]], ids: Ids
) -> dict[str, list[str]]:
    """The files of data, and what LLaMA-Factory is told of them: their names and lines."""
    # The data, with an id in each row where it is asked for.
    form = FORMATS[options.format]
    files = {}
    described = {}
    for part, records in made.items():
        name = part + form.suffix
        lines = []
        for row, record in zip(parts[part], records, strict=True):
            more = {"id": id_of(row, ids, options.file, options.recipe)} if options.keep_id else {}
            lines.append(to_json(record | more))
        files[name] = lines if form.suffix == ".jsonl" else as_array(lines)
        described[PARTS[part]] = {"file_name": name, **told(options, records)}

    # What describes them.
    if form.told is not None:
        files["dataset_info.json"] = [json.dumps(described, indent=2), "\n"]
    return files


def told(options: argparse.Namespace, records: list[dict]) -> dict:
    """What LLaMA-Factory must know about the columns."""
    more = options.format == "alpaca" and any(name in records[0] for name in CONTEXT)
    return {"columns": MORE_COLUMNS} if more else (FORMATS[options.format].told or {})


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


def finish_and_prepare(options: argparse.Namespace) -> int:
    """Do the stages that the run lacks, then write the files; return the exit code."""
    check(options)
    code = 0 if options.format == "preference" else rest_of_run.finish(options.file, options.finish)
    if code in (0, 3):  # 3: some tasks are undone, the dataset is there
        prepare(options)
    return code


def prepare(options: argparse.Namespace) -> None:
    # Read the dataset, and what is known about its run.
    tokenizer = tokens.load(options.tokenizer) if options.tokenizer else None
    dropped: Counter[str] = Counter()
    run = run_beside(options.file)
    options.recipe = run["recipe"] if run.get("recipe") in RECIPES else "modern"
    rows, read, language = read_and_sift(options, run, dropped)
    ids = read_ids(options.file, options.recipe) if options.keep_id else {}

    # Choose the rows.
    if options.num_instructions:
        rows = draw_some(rows, options, dropped)
    if options.include_seed_tasks:
        path = Path(options.seed_file or DEFAULT_SEEDS[language or "en"])
        seeds = seed_rows(path)
        read[title(path)] = seeds
        rows = sift(rows + seeds, options, dropped)
        ids = with_ids_of_seeds(ids, path, options.recipe) if options.keep_id else {}
    if not rows:
        rules = [rule for rule, number in dropped.items() if number]
        raise WorkshopError(f"nothing of {options.file} is left: {', '.join(rules)}")

    # Make the files.
    shares = {"validation": options.split, "test": options.test_split}
    parts = choose.split(rows, shares, options.seed)
    made = encode_parts(options.format, parts, language, options.seed)
    files = data_files(options, parts, made, ids)
    counted = count_tokens(options, tokenizer, parts, made)
    files["README.md"] = [card(options, run, language, parts, counted)]

    # Write them, and say what is in them.
    write(options.output_dir, files)
    print(table(read, dropped, dict(zip(files, parts.values(), strict=False))))
    print("\n" + workshop.spoken(f"Files in {options.output_dir}: {', '.join(files)}"))
    if counted:
        workshop.show("\n" + tokens.report(counted, options.format))
    if options.preview:
        shown = tokens.preview(tokenizer, options.format, parts["train"], made["train"])
        workshop.show("\n" + shown)
    give_notice(options, run, len(parts["train"]))

    # Upload them where --push-to says.
    names = [name for name in files if name != "README.md"]
    push(options, "dataset", options.output_dir, names, "".join(files["README.md"]))


def read_and_sift(
    options: argparse.Namespace, run: dict[str, str], dropped: Counter[str]
) -> tuple[list[Row], dict[str, list[Row]], str]:
    """The rows that can be used, those that were read, by title, and their language."""
    if options.format == "preference":
        rows, found = preferred_rows(options, dropped)
        read = {title(path): of_file for path, of_file in found.items()}
        return rows, read, language_of(run, rows)
    rows = read_rows(options.file)
    language = language_of(run, rows)
    return sift(rows, options, dropped), {title(options.file): rows}, language


def sift(rows: list[Row], options: argparse.Namespace, dropped: Counter[str]) -> list[Row]:
    """The rows that can be used in the format, and that the rules of stage 4 keep."""
    rows = choose.usable(rows, dropped)
    if not FORMATS[options.format].holds_talks:
        rows = choose.without_context(rows, dropped)
    return choose.sift(rows, options.recipe, options.max_instances, options.seed, dropped)


def count_tokens(
    options: argparse.Namespace,
    tokenizer: Any,
    parts: dict[str, list[Row]],
    made: dict[str, list[dict]],
) -> tokens.Tokens | None:
    """The tokens of all parts; None without a tokenizer."""
    if tokenizer is None:
        return None
    rows = [row for part in parts.values() for row in part]
    records = [record for part in made.values() for record in part]
    limit = options.max_length or tokens.MAX_LENGTH
    return tokens.count(options.tokenizer, tokenizer, limit, options.format, rows, records)


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
    for flag in ("preview", "max_length"):
        if getattr(options, flag) and not options.tokenizer:
            raise UsageError(f"--{flag.replace('_', '-')} is for --tokenizer")

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
    drawn, others = choose.draw(rows, wanted, f"{options.seed}/instructions")
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


USAGE = "python scripts/prepare_for_finetuning.py [FILE ...] [--format NAME] [any other flag below]"


def main(arguments: list[str] | None = None) -> int:
    # What goes in, and what comes out.
    about = (__doc__ or "").split("\n\n")[0]
    parser = Parser(usage=USAGE, description=about, allow_abbrev=False)
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
    test = "share of instructions for a test part [0: none]"
    number = "draw so many, with all their instances [all]"
    most = "most instances of one instruction (paper: 5) [5]"
    seeds = "add the seed tasks, as the paper did"
    seed_file = "those [the project's own, in the language of the run]"
    add("--split", type=float, default=0.0, help=share)
    add("--test-split", type=float, default=0.0, metavar="SHARE", help=test)
    add("--num-instructions", type=int, help=number)
    add("--max-instances", type=int, default=5, help=most)
    add("--include-seed-tasks", action="store_true", help=seeds)
    add("--seed-file", default="", help=seed_file)
    add("--seed", type=int, default=42, help="random seed of all draws [42]")
    add("--keep-id", action="store_true", help="an id in each row; not in messages")
    add("--finish", action="store_true", help="first do the stages that the run lacks, if free")

    # The tokens.
    named = "count tokens: a folder, or a name on the hub"
    most_tokens = f"tokens of a row that the trainer takes [{tokens.MAX_LENGTH:,}, TRL's]"
    add("--tokenizer", default="", metavar="NAME", help=named)
    add("--max-length", type=int, metavar="N", help=most_tokens)
    add("--preview", action="store_true", help="show three rows as the trainer sees them")

    # The upload.
    hub = "upload the folder to the hub; log in by: hf auth login"
    add("--push-to", default="", metavar="USER/NAME", help=hub)
    add("--public", action="store_true", help="let all see what is uploaded [private]")

    # Do it.
    options = parser.parse_intermixed_args(arguments)
    options.files = options.files or [default]
    options.file = options.files[0]
    return workshop.main(None, lambda _: finish_and_prepare(options))


if __name__ == "__main__":
    sys.exit(main())
