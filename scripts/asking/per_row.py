"""A question about each row of a dataset, over the journal of the run that made it.

rewrite.py and judge.py ask by this part. What holds for a run holds for them: a reply is on disk
before it is used, the same command goes on after an interruption and pays nothing twice, and
limits, estimate and question are those of self_instruct.py. The flags say who answers.

    options = parser.parse_args()              # of a parser that has add_flags(parser)
    rows = read_rows(options.data)             # instruction, input, output, id, kind
    with asking(options, "judge", practice_reply) as model:
        if not go_on(model, options, questions, reply=80):
            return 0                           # --estimate, or "no" at the terminal
        replies = ask(model, questions, readable)
        again = ask(model, others, readable)   # a second round; its questions depend on replies
    record = paid(model)                       # tokens and dollars, for the program's own record

A question is one row's: `Question(prompt, instruction, sample)`. Its key in the journal is made of
these, of the stage, the provider, the model and the temperature, as it is in stages 2 and 3.
"""

from __future__ import annotations

if __name__ == "__main__":  # a part, no program: said before an import fails
    raise SystemExit("per_row.py is a part of judge.py: run  python scripts/judge.py --help")

import argparse
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import self_instruct_workshop as workshop
from scripts.asking import batch, estimate, limits
from scripts.asking.parser import add_setting
from scripts.review import read_rows as read_rows
from self_instruct_workshop import Config, Prompt, Reply, UsageError, WorkshopError

# The settings of a run that say who answers and how requests go: here they mean the same.
WHO = "provider model base_url"
HOW = "concurrency max_attempts request_timeout deadline first_wait"


@dataclass(frozen=True)
class Question:
    """What is asked about a row. `sample` tells several questions about one row apart."""

    prompt: Prompt
    instruction: str
    sample: int = 0

    def identity(self) -> dict:
        """What makes the key in the journal, beside the settings."""
        return {"instruction": self.instruction, "sample": self.sample, "prompt": self.prompt}


class RowModel(limits.LimitedModel):
    """A model within limits that asks one stage behind the fourth, about rows.

    `practice(rng, prompt)` writes the reply of the practice model, and has no part in others.
    """

    def __init__(
        self,
        config: Config,
        options: argparse.Namespace,
        stage: str,
        practice: Callable | None = None,
    ) -> None:
        self.stages = (stage,)
        self.ledger_name = f"spending-{stage}.jsonl"
        self.settings = settings_of(options)
        self.asked = 0  # questions of all rounds so far
        super().__init__(config, options, to_come)
        if practice and not self.provider.base_url:
            self.provider = replace(self.provider, send=partial(send_practice, practice))

    def missing(self, questions: list[Question]) -> list[Question]:
        """The questions to which the journal has no reply."""
        found = []
        for question in questions:
            key, _ = self.question_key(self.stages[0], 0, self.settings, question.identity())
            record = self.journal.get(key)
            limit = self.settings["max_tokens"]
            if record is None or workshop.was_cut_shorter(record, limit):
                found.append(question)
        return found


class BatchRowModel(batch.Batches, RowModel):
    """The same through the vendor's batches, at half the price."""


def settings_of(options: argparse.Namespace) -> dict:
    """What is sent beside a prompt. The temperature is a part of the question's key."""
    extra = getattr(options, "parameters", {})
    return {"max_tokens": options.max_tokens, "temperature": options.temperature, **extra}


def to_come(model: RowModel) -> dict[str, tuple[int, int]]:
    """About how many tokens of prompts and of replies the questions so far will still take."""
    stage = model.stages[0]
    requests, prompts, replies = model.purse.rows.get(stage, (0, 0, 0))
    if not requests:
        return {stage: (0, 0)}
    left = max(0, model.asked - requests)
    return {stage: (round(left * prompts / requests), round(left * replies / requests))}


def send_practice(
    practice: Callable, model: workshop.Model, prompt: Prompt, parameters: dict
) -> Reply:
    """The practice model's reply: the same prompt and --seed give the same."""
    text = workshop.as_text(prompt)
    said = practice(random.Random(f"{model.config.seed}/{text}"), prompt)
    return Reply(said, "stop", len(text) // 4, len(said) // 4)


# --------------------------------------------------------------------------------------------------
# The flags, and the settings that they make.


def add_flags(parser: argparse.ArgumentParser, max_tokens: int) -> None:
    """Add the flags of this part: the data, who answers, limits, and the question before it."""
    data = Path(Config.work_dir) / workshop.STEP_FILES[3]
    parser.add_argument("--data", type=Path, default=data, help="the dataset [step4_final.jsonl]")
    add_settings(parser, "who answers", WHO)
    group = parser.add_argument_group("what it may say")
    group.add_argument("--temperature", type=limits.not_negative, default=0.0, help="[0]")
    text = f"longest reply, in tokens [{max_tokens}]"
    group.add_argument("--max-tokens", type=int, default=max_tokens, metavar="N", help=text)
    add_settings(parser, "how requests go", HOW)
    estimate.add_flags(parser)
    limits.add_flags(parser)
    batch.add_flags(parser)
    parser.set_defaults(classify_together=1)  # lists are for stage 2


def add_settings(parser: argparse.ArgumentParser, title: str, names: str) -> None:
    """Flags of the settings with these names, as self_instruct.py has them."""
    group = parser.add_argument_group(title)
    known = {setting.name: setting for setting in fields(Config)}
    for name in names.split():
        add_setting(group, known[name])


def config_of(options: argparse.Namespace) -> Config:
    """The settings as a run has them; the folder is that of the data. Raises UsageError."""
    if options.provider == "replay":
        raise UsageError("--provider replay is for self_instruct.py: the journal is used anyway")
    names = (*WHO.split(), *HOW.split())
    typed = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    typed["max_tokens"] = options.max_tokens
    folder = options.data.parent
    return Config(**typed, work_dir=str(folder), language=language_of(folder))


def language_of(folder: Path) -> str:
    """The language of the run in this folder, English where none is known."""
    settings = workshop.earlier_run(folder).get("settings")
    language = settings.get("language") if isinstance(settings, dict) else None
    return language if language in workshop.choices("language") else Config.language


# --------------------------------------------------------------------------------------------------
# Asking.


def asking(options: argparse.Namespace, stage: str, practice: Callable) -> RowModel:
    """The model, to be used as `with asking(...) as model`. Raises WorkshopError."""
    chosen = BatchRowModel if options.batch else RowModel
    return chosen(config_of(options), options, stage, practice)


def go_on(
    model: RowModel, options: argparse.Namespace, questions: list[Question], reply: int
) -> bool:
    """Say what the questions will take, and ask before anything is paid; False: not to be asked.

    `reply` is a guess: the tokens in a reply.
    """
    missing = model.missing(questions)
    text = estimate_text(model, missing, len(questions), reply)
    if options.estimate:
        workshop.show(text)
        return False
    paid_for = model.provider.key and missing
    if paid_for and not estimate.agreed(text, options):
        print(workshop.spoken("nothing was asked, nothing was paid"))
        return False
    return True


def estimate_text(model: RowModel, missing: list[Question], total: int, reply: int) -> str:
    """Requests, tokens and money of the questions that are not in the journal."""
    sizes = [limits.bytes_of(question.prompt) // limits.BYTES_PER_TOKEN for question in missing]
    prompts = sum(sizes)
    replies = reply * len(missing)
    cost = model.purse.cost(prompts, replies)
    money = "price not listed (--price-in, --price-out)" if cost is None else f"about ${cost:.2f}"
    named = f"estimate for {workshop.one_line(model.model, 32)}"
    sizes_of = f"{len(missing):,} requests, {prompts:,} tokens in, {replies:,} out"
    lines = [workshop.spoken(f"{named}: {sizes_of}; {money}")]
    share = limits.batch_share(model.name)
    if cost and share < 1:
        half = f"with --batch about ${share * cost:.2f}, each batch within 24 h"
        lines.append("  " + workshop.spoken(half))
    if len(missing) < total:
        paid_already = "replies are in the journal: paid for, and not asked again"
        lines.append("  " + workshop.spoken(f"{total - len(missing):,} {paid_already}"))
    return "\n".join(lines)


def ask(
    model: RowModel, questions: list[Question], readable: Callable[[str], Any] = bool
) -> list[Reply | None]:
    """The reply to each question; None, and noted in `model.undone`, where there is none.

    A reply that is not `readable` is asked for once more.
    """
    stage = model.stages[0]
    model.asked += len(questions)

    def one(question: Question) -> Reply:
        parts = (question.prompt, model.settings, question.identity(), readable)
        return model.ask(stage, *parts)

    answers = model.ask_each(stage, one, questions)
    shown = workshop.progress(model, stage, len(questions), answers)
    return [reply for _, reply in shown]


def paid(model: RowModel) -> dict:
    """Who answered, what it took in all and what is undone: for the program's own record."""
    prompts, replies = model.purse.spent
    price = model.purse.price
    return {
        "provider": model.name,
        "model": model.model,
        "base_url": model.base_url,
        "temperature": model.settings["temperature"],
        "max_tokens": model.settings["max_tokens"],
        "tokens": model.tokens.get(model.stages[0], {}),
        "spending": model.purse.bill(prompts, replies),
        "price_per_million_tokens": list(price) if price else "price not listed",
        "undone_because": Counter(why for _, why in model.undone),
        "faults": model.faults,
        "refused_parameters": model.refused,
    }


# --------------------------------------------------------------------------------------------------
# What is written beside the data. Each program keeps a record, judge.json or rewrite.json, which
# names the files that it wrote: those it may write again, and no others.


def digest_of(path: Path) -> str:
    """The sha256 of a file, which tells whether it is still the one that was read."""
    return sha256(path.read_bytes()).hexdigest()


def our_files(record: Path) -> dict:
    """The files that a record names; none where there is no record, or a foreign one."""
    files = workshop.read_record(record).get("files")
    return files if isinstance(files, dict) else {}


def check_outputs(record: Path, names: list[str]) -> None:
    """Raise UsageError where a file that would be written is not one that the record names."""
    ours = our_files(record)
    foreign = [record.with_name(name) for name in names if name not in ours]
    if record.exists() and not ours:
        foreign.append(record)
    foreign += [path for path in workshop.foreign_views(record.parent) if path.name != "run.json"]
    for path in foreign:
        if path.exists():
            problem = f"{path} was not written by this program"
            raise UsageError(f"{problem}: move it away, or give --data in another folder")


def write_files(record: Path, files: dict[str, list[dict]], said: dict) -> None:
    """Write rows by file name, and last the record, which says so. Raises OSError.

    First the record claims the names: after a kill between two files they are still ours.
    """
    ours = {**our_files(record), **dict.fromkeys(files)}
    workshop.write_json(record, {"status": "these files are being written", "files": ours})
    for name, rows in files.items():
        workshop.write_whole(record.with_name(name), map(workshop.to_json, rows))
    workshop.write_json(
        record, {**said, "files": {name: len(rows) for name, rows in files.items()}}
    )


def replace_rejected(folder: Path, stage: str, rejected: list[dict]) -> None:
    """Put a stage's rows behind those of the run in rejected.jsonl, in place of older ones.

    Raises WorkshopError where the file there is not a run's.
    """
    path = folder / "rejected.jsonl"
    if path in workshop.foreign_views(folder):
        raise WorkshopError(f"{path} is no run's file: move it away, then run the same command")
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    # Not splitlines: a text may hold U+2028, where that would break the line.
    lines = [line for line in text.split("\n") if line and stage_of(line) != stage]
    if lines or rejected:
        kept = [line + "\n" for line in lines]
        workshop.write_whole(path, [*kept, *map(workshop.to_json, rejected)])
    else:
        path.unlink(missing_ok=True)


def stage_of(line: str) -> str | None:
    """The stage of a row of rejected.jsonl; None where the line is damaged, and stays as it is."""
    row = workshop.json_or_none(line)
    return row.get("stage") if isinstance(row, dict) else None
