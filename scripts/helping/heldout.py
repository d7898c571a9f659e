"""The tasks that a model is examined on: none of them may be in what it learns from.

A task is in the training when a row has its instruction (but for case, spaces and width) as lines
of its question, or one with ROUGE-L of at least 0.7 to it, or has one of its inputs. Of a task, one
instance is asked, so that no task counts more than another and each difference is independent of
the others.
"""

from __future__ import annotations

if __name__ == "__main__":  # a part, no program: said before an import fails
    raise SystemExit(
        "heldout.py is a part of scripts/did_it_help.py: run  python scripts/did_it_help.py --help"
    )

import random
import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from scripts.helping.data import Dataset
from scripts.training.shared import Row, question_of
from self_instruct_workshop import InstructionPool, Task, UsageError, WorkshopError, tokenize

TOO_SIMILAR = 0.7  # ROUGE-L of two instructions, as in stage 1
LEAST_INPUT = 8  # tokens: shorter inputs, such as a number, may be equal by chance
END = "\0"  # of a question, among many
SAME = "same instruction"
SIMILAR = "similar instruction"
SAME_INPUT = "same input"


@dataclass(frozen=True)
class Question:
    """One instance of a held-out task, and what people or the file answer."""

    id: str
    instruction: str
    input: str
    output: str
    labels: tuple[str, ...] = ()  # of classification: all answers that the task's instances have

    @property
    def text(self) -> str:
        """What the model is asked."""
        return question_of({"instruction": self.instruction, "input": self.input})


@dataclass
class HeldOut:
    """The questions, and how they were chosen."""

    file: str
    digest: str  # SHA-256 of the file
    questions: list[Question]
    tasks: int  # in the file
    overlap: Counter[str] = field(default_factory=Counter)  # why in the training -> tasks
    without: int = 0  # tasks that have no answer
    others: list[Task] = field(default_factory=list)  # tasks that are not asked and not overlapping


def choose(path: Path, tasks: list[Task], rows: list[Row], options: dict) -> HeldOut:
    """Choose the questions of a file.

    `options`: `num`, how many tasks; `seed` of the draw; `own`, whether the file is the
    project's own seeds; `drop`, whether overlap is left out. Overlap of another file is
    an error unless it is to be dropped. Raises WorkshopError for that, and where nothing is left.
    """
    # Tasks without an answer cannot be scored.
    usable = [task for task in tasks if any(pair["output"].strip() for pair in task.instances)]
    digest = sha256(path.read_bytes()).hexdigest()
    found = HeldOut(path.name, digest, [], len(tasks), without=len(tasks) - len(usable))

    # What is in the training is no exam.
    why = overlap(usable, rows)
    found.overlap.update(why.values())
    free = [task for task in usable if task.instruction not in why]
    if why and not (options["own"] or options["drop"]):
        raise WorkshopError(refusal(path, found, len(usable)))
    if not free:
        raise WorkshopError(nothing_left(path, found))

    # Draw the tasks, and one instance of each.
    chosen = drawn(free, options["num"], options["seed"])
    found.questions = [question(task, options["seed"]) for task in chosen]
    asked = {task.instruction for task in chosen}
    found.others = [task for task in free if task.instruction not in asked]
    return found


def refusal(path: Path, found: HeldOut, usable: int) -> str:
    """The error for an exam that is in the training."""
    count = found.overlap.total()
    kinds = ", ".join(f"{why} {number}" for why, number in found.overlap.items())
    problem = f"{count} of {usable} tasks of {path} are in the training data ({kinds})"
    return f"{problem}: leave them out with --drop-overlap, or name another file"


def nothing_left(path: Path, found: HeldOut) -> str:
    """The error where no task can be asked."""
    count = found.overlap.total()
    said = f"{count} are in the training data, {found.without} have no answer"
    problem = f"{path}: none of {found.tasks} tasks is left to ask ({said})"
    return f"{problem}: prepare the data without --include-seed-tasks, or name a file with --eval"


def drawn(tasks: list[Task], number: int, seed: int) -> list[Task]:
    """So many tasks, in their order. A larger number draws the same tasks and more."""
    ranks = {t.instruction: random.Random(f"{seed}/{t.instruction}").random() for t in tasks}
    first = sorted(ranks, key=ranks.__getitem__)[:number]
    return [task for task in tasks if task.instruction in first]


def question(task: Task, seed: int) -> Question:
    """One instance of a task, drawn; it has an answer."""
    full = [pair for pair in task.instances if pair["output"].strip()]
    pair = random.Random(f"{seed}/instance/{task.instruction}").choice(full)
    labels: tuple[str, ...] = ()
    if task.is_classification:
        labels = tuple(dict.fromkeys(one["output"].strip() for one in full))
    texts = (task.instruction, pair["input"].strip(), pair["output"].strip())
    return Question(str(task.id), *texts, labels)


# --------------------------------------------------------------------------------------------------
# Overlap. A prepared row is one question. Its instruction and its input are parted by a blank line,
# in some shapes of prompt-completion by a line end; a system's text may stand before them.


@dataclass
class Learnt:
    """What the training asks, in three forms."""

    pool: InstructionPool  # what may be an instruction: for likeness
    names: set[str]  # the same by name
    text: str  # all questions, line by line, each with END behind it


def same(text: str) -> str:
    """One name for texts that differ only in capitals, spaces or width of characters."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def in_lines(text: str) -> str:
    """The lines of a text by name, each between two line ends; empty ones count for nothing."""
    names = [same(line) for line in text.splitlines()]
    return "\n" + "".join(f"{name}\n" for name in names if name)


def parts(question: str) -> list[str]:
    """What may be the instruction of a question.

    >>> parts("Be brief.\\n\\nAdd the numbers.\\n2, 3")[-2:]
    ['Add the numbers.\\n2, 3', 'Add the numbers.']
    """
    pieces = question.split("\n\n")
    starts = [pieces, pieces[1:]]  # with a system's text the instruction is the second piece
    found = []
    for some in starts:
        found += ["\n\n".join(some[:i]) for i in (1, 2, 3)]
        found += ["\n\n".join(some), "".join(some[:1]).partition("\n")[0]]
    return [text for text in dict.fromkeys(found) if text.strip()]


def learnt_from(rows: list[Row]) -> Learnt:
    """What the rows of the training ask."""
    heads: dict[str, None] = {}
    texts = []
    for row in rows:
        question = question_of(row)
        heads |= dict.fromkeys(parts(question))
        texts.append(in_lines(question) + END)
    found = Learnt(InstructionPool(), {same(head) for head in heads}, "".join(texts))
    for head in heads:
        found.pool.add(head)
    return found


def overlap(tasks: list[Task], rows: list[Row]) -> dict[str, str]:
    """The tasks that are in the training: instruction -> why."""
    learnt = learnt_from(rows)
    found = {}
    for task in tasks:
        why = why_overlap(task, learnt)
        if why:
            found[task.instruction] = why
    return found


def why_overlap(task: Task, learnt: Learnt) -> str:
    """Why a task is in the training; "" where it is not."""
    if same(task.instruction) in learnt.names or in_lines(task.instruction) in learnt.text:
        return SAME
    long = [pair["input"] for pair in task.instances if len(tokenize(pair["input"])) >= LEAST_INPUT]
    if any(in_lines(text) + END in learnt.text for text in long):
        return SAME_INPUT
    nearest = learnt.pool.similarities([task.instruction]).max(initial=0.0)
    return SIMILAR if nearest >= TOO_SIMILAR else ""


def check_number(number: int) -> None:
    """Raise UsageError where so few tasks are asked for that no interval has a meaning."""
    if number < 2:
        raise UsageError("--num must be at least 2: one task has no spread")


def people(held_out: HeldOut) -> Dataset:
    """What people wrote for the tasks that are not asked, as a dataset: an upper bound.

    Tasks that are too similar to a question are left out. Raises WorkshopError where none is left.
    """
    asked = [{"instruction": one.instruction, "input": one.input} for one in held_out.questions]
    near = overlap(held_out.others, asked)
    rows = []
    for task in held_out.others:
        for pair in task.instances if task.instruction not in near else []:
            if pair["output"].strip():
                text = question_of({"instruction": task.instruction, "input": pair["input"]})
                rows.append({"instruction": text, "input": "", "output": pair["output"]})
    if not rows:
        problem = f"--upper-bound: {held_out.file} has no task that is not asked"
        raise UsageError(f"{problem}: give a smaller --num")
    return Dataset("people", held_out.digest, rows, file=held_out.file)
