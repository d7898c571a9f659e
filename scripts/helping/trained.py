"""The models that are compared: each one trained, or the base, and what each of them answers.

A model is an adapter in its own folder. Training and asking are those of scripts/training, with
their checkpoints and their journal: the same command goes on where it was interrupted.
"""

from __future__ import annotations

if __name__ == "__main__":  # a part, no program: said before an import fails
    raise SystemExit(
        "trained.py is a part of scripts/did_it_help.py: run  python scripts/did_it_help.py --help"
    )

import argparse
import math
import sys
import time
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from scripts.helping.data import Dataset
from scripts.helping.heldout import Question
from scripts.helping.scores import cleaned
from scripts.training import shared
from scripts.training.shared import Row
from self_instruct_workshop import Reply, UsageError, WorkshopError

ASKED_AT_ONCE = 16  # questions in a batch: for speed
PACKAGES = ("torch", "transformers", "trl", "peft")


@dataclass(frozen=True)
class Learner:
    """A model that is to be trained: on what, and with which random seed."""

    group: str  # data, a, b, shuffled, people...: a line of the table is a group
    seed: int
    dataset: Dataset

    @property
    def name(self) -> str:
        """The name of its folder."""
        return f"{self.group}-{self.seed}"


def chat_form(options: argparse.Namespace) -> bool:
    """Whether the model is asked, and trained, in its own chat template.

    A chat model knows it already, so learning it cannot pass as help. Raises UsageError where
    --form asks for a template that the model does not have.
    """
    has = bool(shared.load_tokenizer(options.model).chat_template)
    if options.form == "chat" and not has:
        problem = f"--form chat: {options.model} has no chat template"
        raise UsageError(f"{problem}: leave it out, or give --form plain")
    return has and options.form != "plain"


def settings(options: argparse.Namespace, **changes: Any) -> argparse.Namespace:
    """The settings of one training or of one questioning."""
    fixed = {"epochs": 1.0, "base_url": "", "provider": "", "top_p": 0.9, "seed": options.seed}
    return argparse.Namespace(**vars(options) | fixed | changes)


def train(
    options: argparse.Namespace, learner: Learner, questions: list[Question], chat: bool
) -> Row:
    """Train a learner's adapter, unless its folder has it. Returns what training.json says.

    The loss on the held-out answers is taken on the way, for the curve. They are not learnt.
    """
    unseen = [
        ({"instruction": one.text, "input": "", "output": one.output}, "") for one in questions
    ]
    folder = adapter(options, learner)
    folder.parent.mkdir(parents=True, exist_ok=True)
    own = settings(
        options,
        out=folder,
        seed=learner.seed,
        chat_form=chat,
        max_steps=options.steps,
        unseen=unseen,
    )
    rows = [(row, "") for row in learner.dataset.rows]
    with redirect_stdout(sys.stderr):
        return shared.train(own, rows, backward=False)


def adapter(options: argparse.Namespace, learner: Learner) -> Path:
    """The folder of a learner's adapter."""
    return Path(options.out) / "adapters" / learner.name


def answers(
    options: argparse.Namespace, model: str, questions: list[Question], chat: bool
) -> list[Reply]:
    """The likeliest answer of a model to each question, cleaned."""
    prompts = [one.text for one in questions]
    if not chat:
        prompts = [shared.forward_prompt(text) for text in prompts]
    own = settings(
        options,
        model=model,
        out=Path(options.out) / "answers",
        batch_size=ASKED_AT_ONCE,
        chat_form=chat,
    )
    replies = shared.generate(own, "answers", prompts, temperature=0.0, chat=chat)
    return [Reply(cleaned(reply.text), reply.finish_reason) for reply in replies]


def fitting(
    options: argparse.Namespace, questions: list[Question]
) -> tuple[list[Question], list[Question]]:
    """The questions that can be asked whole, and those that are too long.

    A question may take half of --max-length, as in the training, and its answer must have room.
    """
    tokenizer = shared.load_tokenizer(options.model)
    limit = min(options.max_length // 2, options.max_length - options.max_new_tokens)
    short = []
    long = []
    for one in questions:
        side = short if shared.size(tokenizer, one.text) <= limit else long
        side.append(one)
    if len(short) < 2:
        problem = f"{len(long)} of {len(questions)} held-out questions are too long"
        raise WorkshopError(f"{problem}: give a larger --max-length")
    return short, long


def versions() -> dict[str, str]:
    """The packages that the figures depend on."""
    return {name: version(name) for name in PACKAGES}


# --------------------------------------------------------------------------------------------------
# How long it will take: on a CPU this matters, and is said before anything is trained.

# Measured on one core with SmolLM2-135M: how many times the arithmetic of the model's matrices
# training and answering take, of what a large product of matrices takes on the same core.
OVERHEAD = {"train": 1.8, "answer": 2.5}


def expected_seconds(
    options: argparse.Namespace, learners: list[Learner], questions: list[Question]
) -> float | None:
    """About how much CPU time it takes on this machine.

    None on a GPU, where minutes are enough, and for a model that says nothing of its size; what is
    wrong with such a model is said where it is loaded.
    """
    device, _ = shared.device_and_dtype(options.dtype)
    if device != "cpu":
        return None
    tokenizer = shared.load_tokenizer(options.model)
    weights = weights_of(options.model)
    if not weights:
        return None
    rate = products_a_second()

    # What is read and written, in tokens. A training step reads forwards and backwards: 3 passes.
    asked = sum(shared.size(tokenizer, one.text) + options.max_new_tokens for one in questions)
    losses = 5 * sum(shared.size(tokenizer, one.text + one.output) for one in questions)
    learnt = sum(options.steps * shared.STEP * row_size(tokenizer, one) for one in learners)
    trained = 3 * learnt + losses * len(learners)
    answered = asked * (len(learners) + 1)
    work = OVERHEAD["train"] * trained + OVERHEAD["answer"] * answered
    return work * weights / rate


def row_size(tokenizer: Any, learner: Learner) -> float:
    """The mean length of a learner's rows, in tokens; of many, the first 200."""
    rows = learner.dataset.rows[:200]
    total = sum(shared.size(tokenizer, row["instruction"] + row["output"]) for row in rows)
    return total / len(rows) + 30  # about what a template adds


def weights_of(model: str) -> int:
    """How many weights a model has, without loading them; 0 where that cannot be known."""
    import torch
    import transformers

    config = shared.load("AutoConfig", model)
    with suppress(ValueError, KeyError), torch.device("meta"):
        return transformers.AutoModelForCausalLM.from_config(config).num_parameters()
    return 0


def products_a_second() -> float:
    """How many multiplications with an addition one core does in a second of its own time."""
    import torch

    size = 1024
    one = torch.rand(size, size)
    one @ one  # the first product also loads the library
    started = time.process_time()
    rounds = 0
    while time.process_time() - started < 0.5:
        one @ one
        rounds += 1
    return rounds * size**3 / (time.process_time() - started)


def epochs(options: argparse.Namespace, examples: int) -> float:
    """How many times the rows are seen in --steps."""
    return options.steps * shared.STEP / max(1, examples)


def rounded(seconds: float) -> int:
    """Minutes, rounded up."""
    return math.ceil(seconds / 60)
