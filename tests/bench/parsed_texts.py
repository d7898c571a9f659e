"""Print, a line for each text and recipe, what a version's parsers and rules make of many texts.

    python tests/bench/parsed_texts.py CHECKOUT > parsed.jsonl          ten seconds

The texts: examples of the rules' patterns, tasks, the raw replies of real models with what readers
marked in them (where SELF_INSTRUCT_REAL_RUNS names their folder), and edited copies of all these.
The texts come from this checkout, so that two versions can be compared.
"""

from __future__ import annotations

import json
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
DATA = TESTS.parent / "data"
REAL_RUNS = Path(os.environ.get("SELF_INSTRUCT_REAL_RUNS") or TESTS.parents[1] / "shared/real_runs")
PIECES = [
    "Input: ",
    "**Output:** ",
    "### Input\n",
    "- 输入：",
    "输出：",
    "Class label: ",
    "类别标签：",
]
PIECES += [
    "Example 2\n",
    "\n",
    "\n\n",
    "```\n",
    "<think>so</think>",
    "9. ",
    "10) ",
    "**11.** ",
    "- ",
]
PIECES += [
    "Task: ",
    "Task:\n",
    "**Title:** ",
    "Yes",
    "No",
    "不是",
    "Sure! Here are more:\n",
    ": ",
    '"',
]
PIECES += [
    "\n\nLet me know if you need more!",
    "---\n",
    "N/A",
    "1. ",
    "（2）",
    "Input 2: ",
    "Answer:",
]

FIELDS = [  # what may stand at the start of a line of a stage-3 reply: one of each
    ["", "", "- ", "* ", "> ", "1. ", "2）", "Example 1: ", "示例 2：", "  "],
    ["", "", "**", "## ", "__", "*"],
    [
        "Input",
        "Output",
        "output",
        "输入",
        "输出",
        "Class label",
        "label",
        "类别标签",
        "标签",
        "Example",
        "例",
    ],
    ["", "", " 2", "3", "二"],
    [":", "：", ": ", ":**", "**:", "** ", "", "__:", " :", "."],
]
NUMBERS = [  # the same for a line of a list, in stages 1 and 2
    ["", "", "  ", "- ", "### ", "**", "> ", "Sure!\n"],
    ["", "", "", "Task ", "Instruction ", "Question ", "任务", "第", "("],
    ["1", "2", "3", "9", "10", "11", "12", "９", "100"],
    [". ", ") ", "、", "．", ".** ", "**. ", ": ", "）", "题 ", "\\. ", ".", " - "],
    ["", "", "**Title:** ", "**Rivers** - ", "Yes", "No", "不是。", "Task: ", '"', "```"],
]
LINES = [
    "Sort these words by length:",
    "pear, fig",
    "把下面的句子改写得更礼貌。",
    "True",
    "",
    "---",
    "1. Add 2.",
]


def json_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def real_rows(pattern: str) -> list[dict]:
    """The rows of all real runs' files of this name; none where the folder is absent."""
    paths = sorted(REAL_RUNS.glob(f"{pattern}.jsonl"))
    return [row for path in paths for row in json_lines(path)]


def all_texts() -> list[str]:
    """Instructions and replies, each once, then edited copies of them."""
    # What this project brings along.
    texts = [text for row in json_lines(DATA / "patterns.jsonl") for text in row["hits"]]
    texts += [text for row in json_lines(DATA / "patterns.jsonl") for text in row["misses"]]
    texts += [instruction for instruction, _ in all_instances()]
    # What real models replied, and what readers marked in it.
    for row in real_rows("*"):
        texts += [row[name] for name in ("response", "instruction") if name in row]
        texts += row.get("accepted", [])
    texts += marked_texts()
    # Edited copies; most of texts with several lines, which offer more to a parser.
    texts = list(dict.fromkeys(texts))
    longer = [text for text in texts if "\n" in text]
    return [*texts, *edited(longer * 4), *edited(texts), *made_up(FIELDS), *made_up(NUMBERS)]


def all_instances() -> list[tuple[str, list[tuple[str, str]]]]:
    """(instruction, its instances as pairs of input and output) of tasks and of real runs."""
    rows = [row for path in sorted(DATA.glob("*_tasks*.jsonl")) for row in json_lines(path)]
    found = []
    for row in [*rows, *real_rows("*.stage3")]:
        instances = row.get("instances") or row.get("final_instances") or []
        pairs = [(one["input"], one["output"]) for one in instances]
        found.append((row["instruction"], pairs))
    return found


def marked_texts() -> list[str]:
    """The parts of real replies that the labels in tests/labelled_stage*.jsonl point at."""
    texts = []
    for path in sorted(TESTS.rglob("labelled_stage[13].jsonl")):
        stage = path.stem.removeprefix("labelled_")
        for label in json_lines(path):
            rows = real_rows(f"{label['set']}.{stage}")
            spans = label.get("spans", []) + label.get("duplicates", [])
            for instance in label.get("instances", []):
                spans += filter(None, instance.values())
            texts += [rows[label["row"]]["response"][start:end] for start, end in spans if rows]
    return texts


def edited(texts: list[str]) -> Iterator[str]:
    """Each text with lines dropped or doubled and marks put in; the same in each call."""
    dice = random.Random(0)
    for text in texts:
        lines = text.split("\n")
        for _ in range(dice.randint(1, 3)):
            at, piece = dice.randrange(len(lines)), dice.choice(PIECES)
            line = lines[at]
            edits = [[line, line], [piece + line], [line + piece], [piece, line]]
            edits += [[]] if len(lines) > 1 else []
            lines[at : at + 1] = dice.choice(edits)
        yield "\n".join(lines)


def made_up(parts: list[list[str]]) -> Iterator[str]:
    """Replies of up to six lines whose beginnings are put together from such parts."""
    dice = random.Random(0)
    for _ in range(2000):
        lines = []
        for _ in range(dice.randint(1, 6)):
            start = "".join(map(dice.choice, parts)) if dice.random() < 0.7 else ""
            lines.append(start + dice.choice(LINES))
        yield "\n".join(lines)


def read_text(workshop: Any, text: str, recipe: str) -> list:
    """What the parsers find in a text, and what the rules say of that."""
    results = [workshop.instruction_problem(text, recipe=recipe)]
    results += [workshop.parse_classification(text, recipe=recipe)]
    results += [workshop.tokenize(text, recipe=recipe)]
    for truncated in (False, True):
        candidates = workshop.parse_instructions(text, truncated=truncated, recipe=recipe)
        results.append(candidates)
        results.append([workshop.instruction_problem(one, recipe=recipe) for one in candidates])
        for labelled in (False, True):
            pairs = workshop.parse_instances(text, labelled, truncated=truncated, recipe=recipe)
            results.append(pairs)
            results.append(workshop.filter_instances(text[:60], pairs, recipe=recipe))
    return results


def main(checkout: str) -> None:
    sys.path.insert(0, checkout)
    import self_instruct_workshop as workshop

    sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
    texts, instances = all_texts(), all_instances()
    for recipe in ("modern", "paper"):
        for text in texts:
            print(json.dumps([recipe, *read_text(workshop, text, recipe), text]))
        # All instances, and the nearest of the instructions before.
        pool = workshop.InstructionPool(recipe=recipe)
        for instruction, pairs in instances:
            found = workshop.filter_instances(instruction, pairs, recipe=recipe)
            nearest = pool.nearest(instruction) if len(pool) else []
            pool.add(instruction)
            print(json.dumps([recipe, found, nearest, instruction]))


if __name__ == "__main__":
    main(sys.argv[1])
