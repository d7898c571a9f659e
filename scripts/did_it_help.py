"""Did my data help? Finetune a model on a dataset, ask it before and after, and say what changed.

    python scripts/did_it_help.py data/finetuning/messages --model MODEL
    python scripts/did_it_help.py --compare data/finetuning/a data/finetuning/b --repeat 3
    python scripts/did_it_help.py --sample          a tiny random model: a minute on any CPU

It is the paper's last step (section 4). DATA is a folder of prepare_for_finetuning.py, or a file
in the Alpaca shape. MODEL is a name on the hub or a folder: any causal language model, without
it SmolLM2-135M-Instruct. With that, the first command takes about 13 minutes of one CPU core;
how long it takes is said before it starts.

The model answers held-out tasks: seed tasks that the data does not hold, or those of --eval FILE
(Alpaca, or the official shape, as the paper's 252 user-oriented tasks have it). A task that is in
the data, by its text or by ROUGE-L of at least 0.7, is never asked. Then a LoRA adapter learns
from the data, and answers the same tasks.

What could pass as help and is none:

- A chat model is asked, before and after, in its own chat template, and is trained in it. So it
  cannot gain by learning a template. A model without one gets a plain template, which it has to
  learn: there, --shuffled tells what that alone brings.
- --shuffled trains one more model on the same rows, each answer at another question. It learns
  what answers look like, and nothing of what they say. Without it, a gain is not called help.
- Short answers score higher. So the answers from before are also cut to the length of those
  from after, and compared once more.

--upper-bound trains one more model on the tasks of the held-out file that are not asked: what
people wrote. --repeat 3 trains with three random seeds.

Everything is in --out: README.md (the card, with the table), results.json, answers.jsonl, a page
did_it_help.html to look at, the adapters and the journal of the answers. An interrupted call goes
on by the same command. Nothing is uploaded.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts.asking.parser import Parser
from scripts.helping import data, heldout, record, said, trained
from scripts.helping.data import Dataset
from scripts.helping.heldout import HeldOut
from scripts.helping.trained import Learner
from scripts.training import shared
from self_instruct_workshop import (
    DATA,
    DEFAULT_SEEDS,
    Reply,
    UsageError,
    leave,
    load_seed_tasks,
    tell,
)

OUT = DATA / "workshop" / "did_it_help"
DEFAULT_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
FOR_SAMPLE = {
    "model": DATA / "workshop" / "did_it_help_tiny",
    "data": DATA / "practice_tasks.jsonl",
    "out": DATA / "workshop" / "did_it_help_sample",
    "lr": 1e-2,
    "steps": 40,
    "num": 24,
    "max_length": 256,
    "max_new_tokens": 32,
    "shuffled": True,
}


@dataclass
class Study:
    """A measurement: what is compared on which questions, and the answers so far."""

    options: argparse.Namespace
    datasets: list[Dataset]
    held_out: HeldOut
    language: str
    chat: bool
    learners: list[Learner]
    too_long: int = 0  # questions
    replies: dict[str, list[Reply]] = field(default_factory=dict)  # model -> its answers
    figures: dict[str, dict] = field(default_factory=dict)  # model -> its training.json


def did_it_help(options: argparse.Namespace) -> int:
    """Measure, and write the folder. It is written anew after every model, so nothing waits."""
    # What is to be done? A measurement with other settings is not touched.
    study = planned(options)
    record.check_same(study)
    with_what_is_there(options)
    study.learners = learners_of(study)
    say_plan(study)

    # Ask the base, then train and ask one model after the other.
    questions = study.held_out.questions
    study.replies["before"] = trained.answers(options, options.model, questions, study.chat)
    for learner in study.learners:
        study.figures[learner.name] = trained.train(options, learner, questions, study.chat)
        model = str(trained.adapter(options, learner))
        study.replies[learner.name] = trained.answers(options, model, questions, study.chat)
        written = record.write(study)

    # Say it.
    print(said.as_text(written))
    print(f"\n{options.out / record.PAGE}")
    return 0


def planned(options: argparse.Namespace) -> Study:
    """Read the data, and choose the questions."""
    # The data, and the questions that are not in it.
    if options.sample:
        from scripts.inverse_sft import sample_model

        sample_model(Path(options.model))
    paths = options.compare or [options.data]
    datasets = [data.read_dataset(path) for path in paths]
    if len(datasets) == 2 and datasets[0].name == datasets[1].name:
        name_by_folder(datasets, paths)
    rows = [row for dataset in datasets for row in dataset.rows]
    language = "zh" if data.is_chinese(rows) else "en"
    own = options.eval is None
    file = DEFAULT_SEEDS[language] if own else options.eval
    how = {"num": options.num, "seed": options.seed, "own": own, "drop": options.drop_overlap}
    held_out = heldout.choose(Path(file), load_seed_tasks(file, language), rows, how)

    # How the model is asked, and what fits.
    chat = trained.chat_form(options)
    short, long = trained.fitting(options, held_out.questions)
    held_out.questions = short
    return Study(options, datasets, held_out, language, chat, [], too_long=len(long))


def with_what_is_there(options: argparse.Namespace) -> None:
    """The models of the folder stay in its table, though no flag asks for them now."""
    results = record.read(options.out)
    groups = {dataset["group"] for dataset in results.get("datasets", [])}
    options.upper_bound |= "people" in groups
    options.shuffled |= any(group.startswith("shuffled-") for group in groups)
    options.repeat = max(options.repeat, len(results.get("seeds", [])))


def name_by_folder(datasets: list[Dataset], paths: list[Path]) -> None:
    """Two datasets of one name get the names of their folders, too."""
    for dataset, path in zip(datasets, paths, strict=True):
        dataset.name = f"{path.resolve().parent.name}/{path.stem}"


def learners_of(study: Study) -> list[Learner]:
    """The models to train; those of the first random seed come first."""
    options = study.options
    groups: dict[str, Dataset] = {}
    names = ["a", "b"] if options.compare else ["data"]
    groups |= dict(zip(names, study.datasets, strict=True))
    if options.upper_bound:
        groups["people"] = heldout.people(study.held_out)
    if options.shuffled:
        for name, dataset in zip(names, study.datasets, strict=True):
            groups[f"shuffled-{name}"] = data.shuffled(dataset, options.seed)
    seeds = range(options.seed, options.seed + options.repeat)
    return [Learner(group, seed, groups[group]) for seed in seeds for group in groups]


def say_plan(study: Study) -> None:
    """Say on stderr what will be done, and how long it takes on a CPU."""
    # The data and the questions.
    options = study.options
    held_out = study.held_out
    words = said.all_words()[study.language]
    lines = []
    for dataset in study.datasets:
        lines.append(words["plan_rows"].format(name=dataset.name, rows=len(dataset.rows)))
        for reason, count in dataset.left_out.items():
            why = words["whys"].get(reason, reason)
            tell(f"notice: {dataset.file}: {count} rows left out: {why}", study.language)
    numbers = {"asked": len(held_out.questions), "tasks": held_out.tasks, "file": held_out.file}
    numbers |= {"overlap": held_out.overlap.total(), "long": study.too_long}
    lines.append(words["plan_asked"].format(**numbers))

    # The work.
    lines.append(words["plan_models"].format(n=len(study.learners), steps=options.steps))
    seconds = trained.expected_seconds(options, study.learners, held_out.questions)
    if seconds:
        lines.append(words["plan_time"].format(minutes=trained.rounded(seconds)))
    print("\n".join(lines), file=sys.stderr)


def command_line() -> argparse.ArgumentParser:
    """The flags."""
    parser = Parser(description=(__doc__ or "").split("\n\n")[0])
    add = parser.add_argument
    count = partial(add, type=shared.positive, metavar="N")

    # What is compared.
    add("data", nargs="?", type=Path, help="folder of prepare_for_finetuning.py, or a file")
    two = "two datasets on the same base, questions, random seeds and steps"
    add("--compare", nargs=2, type=Path, metavar=("A", "B"), help=two)
    add("--model", default="", help=f"name on the hub, or a folder [{DEFAULT_MODEL}]")
    control = "a control: the same rows, each answer at another question"
    add("--shuffled", action="store_true", help=control)
    upper = "and a model that learns the tasks of the held-out file that are not asked"
    add("--upper-bound", action="store_true", help=upper)

    # The questions.
    exam = "Alpaca or official shape [the seed tasks in the language of the data]"
    add("--eval", type=Path, metavar="FILE", help=exam)
    add("--drop-overlap", action="store_true", help="leave out tasks of it that are in the data")
    count("--num", default=60, help="held-out tasks, one instance of each [%(default)s]")

    # How it is learnt. The length of a step is fixed: 16 rows.
    count("--steps", default=24, help="training steps of 16 rows [%(default)s]")
    count("--repeat", default=1, help="random seeds [%(default)s]")
    shapes = ("auto", "chat", "plain")
    form = "template of training and asking [auto: the model's own chat template, else plain]"
    add("--form", choices=shapes, default="auto", help=form)
    add("--out", type=Path, default=OUT, help="folder for all that comes out [%(default)s]")
    add_sizes(parser)
    return parser


def add_sizes(parser: argparse.ArgumentParser) -> None:
    """The flags of training that finetune_model.py has too, with defaults for a small model."""
    add = parser.add_argument
    count = partial(add, type=shared.positive, metavar="N")
    count("--max-length", default=384, help="tokens of question and answer [%(default)s]")
    count("--max-new-tokens", default=96, help="longest answer [%(default)s]")
    count("--batch-size", default=4, help="rows at once, for speed [%(default)s]")
    rate = "learning rate [%(default)s]"
    add("--lr", type=float, default=2e-4, metavar="X", help=rate)
    count("--lora-r", default=16, help="rank of the adapter [%(default)s]")
    shared.add_loading_flags(add)
    add("--seed", type=int, default=42, metavar="N", help="random seed [%(default)s]")
    sample = "our own data and a tiny random model: a minute, on any CPU"
    add("--sample", action="store_true", help=sample)
    parser.set_defaults(default_model=DEFAULT_MODEL, base_url="", provider="")


def checked(options: argparse.Namespace) -> argparse.Namespace:
    """The options, if they go together. Raises UsageError where they do not."""
    if bool(options.data) == bool(options.compare):
        problem = "name one dataset, or two behind --compare"
        raise UsageError(f"{problem}: scripts/did_it_help.py --help shows both")
    if options.drop_overlap and not options.eval:
        alone = "--drop-overlap goes with --eval"
        raise UsageError(f"{alone}: seed tasks that are in the data are left out anyway")
    heldout.check_number(options.num)
    return options


def main(arguments: list[str] | None = None) -> int:
    """Read the flags, measure, and return the exit code."""
    parser = command_line()
    return shared.main(parser, arguments, FOR_SAMPLE, lambda options: did_it_help(checked(options)))


if __name__ == "__main__":
    leave(main())
