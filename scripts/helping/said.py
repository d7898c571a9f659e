"""What a measurement says, in words and as a table, in English or Chinese.

The screen, the card, the page and the run's report all take their sentences from here, so none
of them claims more than another.
"""

from __future__ import annotations

if __name__ == "__main__":  # a part, no program: said before an import fails
    raise SystemExit(
        "said.py is a part of scripts/did_it_help.py: run  python scripts/did_it_help.py --help"
    )

import json
from functools import cache
from pathlib import Path
from typing import Any

from self_instruct_workshop import columns

Results = dict[str, Any]
Words = dict[str, Any]

FEW_TASKS = 30  # below that, an interval of the bootstrap is rough
FEW_LABELS = 20
COUNTS = ("refusals", "copies", "empty", "cut")


@cache
def all_words() -> dict[str, Words]:
    """The words of the table and the page, by language."""
    path = Path(__file__).resolve().parent / "words.json"
    return json.loads(path.read_text(encoding="utf-8"))


def words_of(results: Results) -> Words:
    """The words in the language of the data."""
    known = all_words()
    return known.get(results["language"], known["en"])


def name_of(results: Results, name: str) -> str:
    """How a line of the table is called."""
    words = words_of(results)
    if name in ("before", "copy", "label", "people"):
        return words[name]
    if name == "empty":
        return words["nothing"]
    dataset = dataset_of(results, name)
    kind = "shuffled" if name.startswith("shuffled-") else "trained"
    return words[kind].format(name=dataset)


def dataset_of(results: Results, group: str) -> str:
    """The name of what a group of models learnt from."""
    if group == "people":
        return words_of(results)["people_name"]
    return next(one["name"] for one in results["datasets"] if one["group"] == group)


def with_ends(words: Words, interval: dict, sign: str = "") -> str:
    """A mean with the ends of its interval: "+0.088 (+0.041 to +0.137)"."""
    numbers = {name: f"{value:{sign}.3f}" for name, value in interval.items()}
    return words["to"].format(**numbers)


# --------------------------------------------------------------------------------------------------
# The table: a list of lines, each a list of texts.


def table(results: Results, heads: str = "heads") -> list[list[str]]:
    """The table, its headings first. `heads` are "heads" or "short_heads"."""
    words = words_of(results)
    labels = any(line["labels"] for line in results["table"])
    names = [n for n in words[heads] if labels or n not in ("exact", "named")]
    lines = [[words[heads][name] for name in names]]
    for line in results["table"]:
        cells = cells_of(results, line)
        lines.append([cells[name] for name in names])
    return lines


def cells_of(results: Results, line: dict) -> dict[str, str]:
    """The texts of a line of the table."""
    words = words_of(results)
    cells = {"name": name_of(results, line["name"])}
    cells["rouge"] = with_ends(words, line["rouge"])
    cells["gain"] = with_ends(words, line["gain"], "+") if line["gain"] else ""
    for name in ("exact", "named"):
        cells[name] = f"{count(line[name])}/{line['labels']}"
    cells["loss"] = f"{line['loss']:.2f}" if line["loss"] is not None else ""
    cells["tokens"] = count(line["tokens"])
    return cells | {name: count(line[name]) for name in COUNTS}


def count(number: float) -> str:
    """A count; the mean of several seeds may have one decimal."""
    return f"{number:.1f}".removesuffix(".0")


def as_text(results: Results) -> str:
    """The paragraph and the table for a terminal."""
    lines = table(results, "short_heads")
    widths = [max(columns(line[i]) for line in lines) for i in range(len(lines[0]))]
    drawn = []
    for line in lines:
        cells = [padded(line[i], width, i) for i, width in enumerate(widths)]
        drawn.append("  ".join(cells).rstrip())
    return "\n".join([*paragraphs(results), "", *drawn])


def padded(text: str, width: int, place: int) -> str:
    """A cell of the table: names on the left of their column, numbers on the right."""
    space = " " * (width - columns(text))
    return space + text if place else text + space


def as_markdown(results: Results) -> str:
    """The table for a card."""
    lines = [f"| {' | '.join(line)} |" for line in table(results)]
    return "\n".join([lines[0], "|---" * len(table(results)[0]) + "|", *lines[1:]])


# --------------------------------------------------------------------------------------------------
# The paragraph: what may be claimed, then what it rests on, then what stands against it.


def paragraphs(results: Results) -> list[str]:
    """A paragraph for each verdict, one for what holds for all, one for what is not done."""
    words = words_of(results)
    found = []
    for verdict in results["verdicts"]:
        say = of_two if verdict["of"] == "a and b" else of_one
        found.append(words["stop"].join(say(results, verdict)))
    if found:
        found.append(words["stop"].join(of_all(results)))
    if results["todo"]:
        todo = words["and"].join(results["todo"])
        found.append(words["unfinished"].format(todo=todo))
    return found


def of_one(results: Results, verdict: dict) -> list[str]:
    """The sentences about a dataset."""
    words = words_of(results)
    lines = {line["name"]: line for line in results["table"]}
    before, after = lines["before"], lines[verdict["of"]]
    asked = results["held_out"]["asked"]
    said = [words[verdict["kind"]].format(name=dataset_of(results, verdict["of"]))]
    numbers = {"before": f"{before['rouge']['mean']:.3f}", "after": f"{after['rouge']['mean']:.3f}"}
    gain = with_ends(words, verdict["gain"], "+")
    said.append(words["figures"].format(**numbers, n=asked, gain=gain))
    said += against(words, verdict)
    copy = lines["copy"]["rouge"]["mean"]
    if copy >= after["rouge"]["mean"]:
        said.append(words["copy_wins"].format(copy=f"{copy:.3f}"))
    return said + of_labels(words, before, after) + of_seeds(words, verdict)


def against(words: Words, verdict: dict) -> list[str]:
    """What else could explain a gain."""
    said = []
    for name in ("brief", "control"):
        if verdict[name]:
            difference = with_ends(words, verdict[name], "+")
            said.append(words[f"of_{name}"].format(**{name: difference}))
    unknown = not verdict["control"] and verdict["gain"]["low"] > 0
    return said + ([words["no_control"]] if unknown and verdict["of"] != "people" else [])


def of_labels(words: Words, before: dict, after: dict) -> list[str]:
    """What became of labels, where some are asked for."""
    if not before["labels"]:
        return []
    numbers = {"n": before["labels"], "before": count(before["exact"])}
    numbers |= {"after": count(after["exact"])}
    numbers |= {"named_before": count(before["named"]), "named_after": count(after["named"])}
    return [words["labels_said"].format(**numbers)]


def of_seeds(words: Words, verdict: dict) -> list[str]:
    """From where to where the difference goes, where there are several random seeds."""
    spread = verdict["spread"]
    if len(spread) < 2:
        return []
    ends = {"low": f"{min(spread):+.3f}", "high": f"{max(spread):+.3f}"}
    return [words["spread"].format(n=len(spread), **ends)]


def of_all(results: Results) -> list[str]:
    """How far the numbers carry: the template, and how many labels, tasks and random seeds."""
    words = words_of(results)
    labels = results["table"][0]["labels"]
    asked = results["held_out"]["asked"]
    said = [words[results["form"]]]
    if 0 < labels < FEW_LABELS:
        said.append(words["few_labels"].format(n=labels))
    if asked < FEW_TASKS:
        said.append(words["few_tasks"].format(n=asked))
    if len(results["seeds"]) < 2:
        said.append(words["one_seed"])
    return said


def of_two(results: Results, verdict: dict) -> list[str]:
    """The sentences about two datasets."""
    words = words_of(results)
    names = {group: dataset_of(results, group) for group in ("a", "b")}
    kinds = {"helped": "better", "worse": "worse_than"}
    said = [words[kinds.get(verdict["kind"], "no_better")].format(**names)]
    gain = with_ends(words, verdict["gain"], "+")
    said.append(words["compared"].format(gain=gain))
    return said + of_seeds(words, verdict)
