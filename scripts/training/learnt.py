"""What the loss is taken on, shown before a training begins.

A training with the direction swapped, or on the whole text, lowers its loss just as well. So one
example is decoded: what is read, and what is learnt.
"""

from __future__ import annotations

if __name__ == "__main__":  # a part, no program: said before an import fails
    raise SystemExit("learnt.py is a part: run  python scripts/inverse_sft.py --help")

import sys
from typing import Any

from self_instruct_workshop import one_line

Row = dict[str, Any]

NO_LOSS = -100  # the label of a token that is read and not learnt


def show(trainer: Any, tokenizer: Any, examples: list[Row]) -> None:
    """Print the first example, and say where its labels are not the completion alone."""
    # TRL leaves out in silence what has no token to learn.
    rows = trainer.train_dataset
    if len(rows) < len(examples):
        lost = len(examples) - len(rows)
        said = f"{lost} examples have no token to learn within --max-length"
        print(f"notice: {said}: they are not trained on", file=sys.stderr)
    if not len(rows):
        return

    # Which tokens carry the loss?
    labels = trainer.data_collator([rows[0]])["labels"][0]
    is_learnt = labels != NO_LOSS
    tokens = rows[0]["input_ids"]
    learnt = tokenizer.decode(labels[is_learnt])
    read = tokenizer.decode(
        [t for t, one in zip(tokens, is_learnt.tolist(), strict=False) if not one]
    )
    count = f"{int(is_learnt.sum())} of {len(tokens)} tokens carry the loss"
    print(f"the first of {len(rows)} examples ({count}):")
    print(f"  read    {both_ends(read)}")
    print(f"  learnt  {both_ends(learnt)}")
    wanted = text_of(examples[0]["completion"])
    if not is_of(learnt, wanted) and len(rows) == len(examples):
        said = "what is learnt is not the text behind the prompt"
        print(f"notice: {said}: this tokenizer needs another look", file=sys.stderr)


def text_of(completion: str | list[Row]) -> str:
    """The text of a completion, which is a text, or a list of turns of a chat."""
    if isinstance(completion, str):
        return completion
    return "".join(turn["content"] for turn in completion)


def is_of(learnt: str, completion: str) -> bool:
    """Whether the labels are the completion, perhaps clipped, and no more than an end mark."""
    one = "".join(learnt.rstrip("\ufffd").split())  # half a character at a clipped end
    other = "".join(completion.split())
    return one.startswith(other) or other.startswith(one)


def both_ends(text: str, width: int = 90) -> str:
    """The beginning and the end of a text in one line."""
    line = one_line(text, len(text) + 1)
    if len(line) <= width:
        return line
    half = width // 2
    return f"{line[:half]} [...] {line[-half:]}"
