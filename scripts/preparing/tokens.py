"""The rows as tokens of a model: how many, what is too long, and how some of them look.

A format of turns is written out by the tokenizer's chat template, as trainers do it.
"""

from __future__ import annotations

if __name__ == "__main__":  # a part, no program: said before an import fails
    raise SystemExit(
        "tokens.py is a part of scripts/prepare_for_finetuning.py: run"
        "  python scripts/prepare_for_finetuning.py --help"
    )

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import self_instruct_workshop as workshop
from scripts.preparing.formats import answer, asked, whole_question
from scripts.reading.rows import Row
from self_instruct_workshop import WorkshopError, one_line

MAX_LENGTH = 1024  # tokens; what TRL cuts at unless it is told otherwise
ALONE = ("prompt-completion", "chat-completion", "preference")  # the answer alone is learnt


@dataclass
class Shown:
    """A row as the trainer sees it."""

    prompt: str  # what stands before the answer
    answers: list[str]  # one, or the chosen and the rejected one: prompt and answer together


@dataclass
class Tokens:
    """What a tokenizer makes of all rows."""

    tokenizer: str  # its name, or its folder
    limit: int  # tokens
    lengths: list[int] = field(default_factory=list)  # tokens of each row, its end mark included
    torn: int = 0  # rows in which the prompt ends inside a token
    has_template: bool = True

    @property
    def too_long(self) -> int:
        return sum(length > self.limit for length in self.lengths)

    def facts(self) -> str:
        """For the card."""
        return (
            f"{sum(self.lengths):,}; longest row {max(self.lengths):,}; "
            f"rows longer than {self.limit:,}: {self.too_long} of {len(self.lengths)}"
        )


def load(name: str) -> Any:
    """A tokenizer, from a folder or the hub. Raises WorkshopError where there is none."""
    try:
        import transformers
    except ImportError:
        install = workshop.pip_install("transformers", "jinja2")
        raise WorkshopError(f"--tokenizer needs a package: run  {install}  first") from None
    transformers.utils.logging.set_verbosity_error()
    try:
        return transformers.AutoTokenizer.from_pretrained(name)
    except Exception as error:  # the hub's client passes on errors of its HTTP library
        problem = f"--tokenizer {name} cannot be loaded ({one_line(str(error), 150)})"
        raise WorkshopError(f"{problem}: name a folder with tokenizer.json, or a model") from None


def count(
    name: str, tokenizer: Any, limit: int, form: str, rows: list[Row], made: list[dict]
) -> Tokens:
    """Count the tokens of rows, and of what was `made` of them in the format."""
    found = Tokens(name, limit, has_template=bool(tokenizer.chat_template))
    for shown in shown_rows(tokenizer, form, rows, made):
        start = ids_of(tokenizer, shown.prompt, form)
        whole = [ids_of(tokenizer, text, form) for text in shown.answers]
        found.lengths.append(max(map(len, whole)) + (form == "prompt-completion"))  # the end mark
        found.torn += any(ids[: len(start)] != start for ids in whole)
    return found


def shown_rows(tokenizer: Any, form: str, rows: list[Row], made: list[dict]) -> Iterator[Shown]:
    """The rows as texts, one after the other."""
    for row, record in zip(rows, made, strict=True):
        if form == "prompt-completion":
            yield Shown(record["prompt"], [record["prompt"] + record["completion"]])
        else:
            said = [row[name] for name in ("chosen", "rejected") if name in row]
            yield turns_shown(tokenizer, row, said or [row["output"]])


def turns_shown(tokenizer: Any, row: Row, said: list[str]) -> Shown:
    """A row in the words of the chat template; as plain text where there is none.

    Raises WorkshopError where the template refuses the turns.
    """
    if not tokenizer.chat_template:
        question = whole_question(row) + "\n\n"
        return Shown(question, [question + text for text in said])
    turns = asked(row)
    how: dict[str, Any] = {"tokenize": False}
    try:
        prompt = tokenizer.apply_chat_template(turns, add_generation_prompt=True, **how)
        whole = [tokenizer.apply_chat_template([*turns, answer(text)], **how) for text in said]
    except Exception as error:  # of Jinja, or of the template itself: no system text, say
        problem = f"the chat template refuses a row ({one_line(str(error), 150)})"
        raise WorkshopError(f"{problem}: name another --tokenizer") from None
    return Shown(prompt, whole)


def ids_of(tokenizer: Any, text: str, form: str) -> list[int]:
    """The tokens of a text. A chat template writes its marks itself."""
    marks = form == "prompt-completion" or not tokenizer.chat_template
    return tokenizer(text, add_special_tokens=marks)["input_ids"]


# --------------------------------------------------------------------------------------------------
# What is said of it.


def report(found: Tokens, form: str) -> str:
    """The counts as lines for the screen."""
    # How many.
    say = workshop.spoken
    number = len(found.lengths)
    total = sum(found.lengths)
    mean = total / number
    share = found.too_long / number
    name = Path(found.tokenizer).name
    lines = [
        say(f"{total:,} tokens of {name}: {mean:,.0f} a row, {max(found.lengths):,} the longest"),
        say(f"longer than --max-length {found.limit}: {found.too_long} of {number} ({share:.1%})"),
    ]

    # What a trainer would do with them that nobody expects.
    if found.torn and form in ALONE:
        lines.append(say(f"the prompt ends inside a token: {found.torn} of {number} rows"))
    if not found.has_template and form != "prompt-completion":
        lines.append(say(f"{name} has no chat template: rows are counted as plain text"))
    return "\n".join(lines)


def preview(tokenizer: Any, form: str, rows: list[Row], made: list[dict], number: int = 3) -> str:
    """The first rows as the trainer sees them, and from where on it learns."""
    say = workshop.spoken
    parts = []
    shown = shown_rows(tokenizer, form, rows[:number], made[:number])
    for n, one in enumerate(shown, 1):
        whole = one.answers[0]
        parts.append(say(f"--- row {n}"))
        if form in ALONE and whole.startswith(one.prompt):
            parts += [one.prompt, say("--- from here on it is learnt"), whole[len(one.prompt) :]]
        else:
            parts.append(whole)
    return "\n".join(parts)
