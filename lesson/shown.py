"""Check what the pages of the lesson show, or write it anew.

    python lesson/shown.py            say which blocks differ from what the program gives
    python lesson/shown.py --write    put into the pages what the program gives: half a minute

A block stands between two marks, `<!-- shown: NAME -->` and `<!-- /shown -->`. NAME says where it
comes from:

    output              what the code block above prints; a command runs as a reader would type it
    output; START       of that, the lines from the one that begins with START to the next gap;
                        "A|B" is A or B
    output; START; N    of these, the first N
    error               the line with which the command above ends, and must end
    row; FOLDER; START  the row of that folder's dataset whose instruction begins with START
    lines NAME...       where these functions and prompts stand in Part I
    anything else       a function of the table MADE below

Commands of a page run one after the other, in a folder that stands for `data/workshop` and is
thrown away. Nothing is asked of a network.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import self_instruct_workshop as workshop
from self_instruct_workshop import Config, Reply, fitted

ROOT = Path(__file__).resolve().parent.parent
PAGES = {"en": ROOT / "lesson" / "README.md", "zh": ROOT / "lesson" / "README.zh-CN.md"}
MARK = re.compile(r"(<!-- shown: (.+?) -->\n).*?(<!-- /shown -->)", re.S)
CODE = re.compile(r"^```(bash|python)\n(.*?)^```$", re.M | re.S)
WIDTH = 100  # columns of the tables below
LEFT_OUT = "[...]"


class NotShown(Exception):
    """A block that cannot be made: the page must change, or the recorded run."""


# --------------------------------------------------------------------------------------------------
# A page: each block between marks is made anew.


def renewed(language: str) -> str:
    """The page as it should be, with each block as the program gives it now."""
    page = PAGES[language].read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        reader = Reader(language, Path(folder))
        done, at = [], 0
        for mark in MARK.finditer(page):
            text = block(reader, mark[2], page[: mark.start()])
            done += [page[at : mark.start()], mark[1], text, "\n", mark[3]]
            at = mark.end()
    return "".join([*done, page[at:]])


def block(reader: Reader, name: str, before: str) -> str:
    """One block; `before` is the page up to it."""
    kind, *more = name.split("; ")
    if kind == "output":
        return fenced(chosen(reader.output(last_code(before)), *more))
    if kind == "error":
        return fenced(reader.output(last_code(before), code=1))
    if kind.startswith("lines "):
        return places(kind.split()[1:])
    if kind not in MADE:
        raise NotShown(f"no block is called {name!r}")
    return fenced(MADE[kind](reader, *more))


def fenced(text: str) -> str:
    """A block of text; the fence is longer than any inside."""
    inside = re.findall(r"`{3,}", text)
    fence = "`" * (max(map(len, inside), default=2) + 1)
    return f"{fence}text\n{text.strip(chr(10))}\n{fence}"


def last_code(before: str) -> tuple[str, str]:
    """The language and the lines of the last code block of a text."""
    return CODE.findall(before)[-1]


def chosen(output: str, start: str = "", count: str = "") -> str:
    """Of each paragraph, what follows from the line that begins with `start`, `count` lines."""
    if not start:
        return output
    found = []
    starts = tuple(start.split("|"))
    for paragraph in output.split("\n\n"):
        lines = paragraph.strip("\n").split("\n")
        first = [i for i, line in enumerate(lines) if line.strip().startswith(starts)]
        if first:
            wanted = lines[first[0] :]
            cut = [LEFT_OUT] if count and len(wanted) > int(count) else []
            found.append("\n".join([*(wanted[: int(count)] if count else wanted), *cut]))
    if not found:
        raise NotShown(f"no line of the output begins with {start!r}:\n{output}")
    return "\n\n".join(found)


# --------------------------------------------------------------------------------------------------
# A reader, who types what a page says.


class Reader:
    """Types the code blocks of a page. Its `folder` stands for data/workshop."""

    def __init__(self, language: str, folder: Path) -> None:
        self.language = language
        self.folder = folder
        self.typed: dict[str, str] = {}  # code -> what it printed

    def output(self, block: tuple[str, str], code: int = 0) -> str:
        """What a code block prints. A block that was typed before is not typed again."""
        language, text = block
        if text not in self.typed:
            commands = [["-c", text]] if language == "python" else list(self.commands(text))
            self.typed[text] = "".join(self.type(words, code) for words in commands)
        return self.typed[text]

    def commands(self, text: str) -> Iterator[list[str]]:
        """The words behind `python` of each command, with our folder in place of the reader's."""
        for line in text.strip().split("\n"):
            program, *words = shlex.split(line, comments=True)
            if program != "python":
                raise NotShown(
                    f"only commands that begin with python have a checked output: {line}"
                )
            yield [word.replace("data/workshop", self.folder.as_posix()) for word in words]

    def type(self, words: list[str], code: int) -> str:
        """Run Python with these words; return what it prints, or with code 1 why it failed."""
        # Nothing of this machine may decide: no keys, no addresses, no width of a window.
        kept = ("PATH", "SYSTEMROOT", "TEMP", "TMP", "TMPDIR")
        environment = {name: os.environ[name] for name in kept if name in os.environ}
        environment |= {"PYTHONUTF8": "1", "HOME": str(self.folder), "PYTHONPATH": str(ROOT)}
        environment |= {"LC_ALL": "C"}  # only --language zh makes it speak Chinese
        done = subprocess.run(
            [sys.executable, *words], cwd=ROOT, env=environment, capture_output=True,
            encoding="utf-8",
        )  # fmt: skip
        if done.returncode != code or "Traceback" in done.stderr:
            raise NotShown(f"python {shlex.join(words)}\n{done.stdout}{done.stderr}")
        said = done.stderr if code else done.stdout
        said = said.replace(self.folder.as_posix(), "data/workshop")
        return said.replace(sys.executable, "python")

    def rows(self, name: str, folder: str = "lesson") -> list[dict]:
        """The records of a file of a run; the class's own is data/workshop/lesson."""
        path = self.folder / folder / name
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]

    def replies(self, stage: str) -> list[dict]:
        """What the journal holds of a stage, in the order of the questions, not of the answers."""
        found = [row for row in self.rows("responses.jsonl") if row["stage"] == stage]
        order = ("request_idx", "attempt", "sample")
        return sorted(found, key=lambda row: [row.get(name, 0) for name in order])


# --------------------------------------------------------------------------------------------------
# Part I: where a function stands.


def standing() -> dict[str, tuple[int, int]]:
    """The first and the last line of each function, class and prompt of the module."""
    tree = ast.parse(Path(workshop.__file__).read_text(encoding="utf-8"))
    found = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            first = min([node.lineno, *(line.lineno for line in node.decorator_list)])
            found[node.name] = (first, node.end_lineno or first)
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found[node.targets[0].id] = (node.lineno, node.end_lineno or node.lineno)
    return found


def places(names: list[str]) -> str:
    """A list of links, one for each name, with its lines."""
    links = []
    for name in names:
        if name not in standing():
            raise NotShown(f"the module has no {name}")
        first, last = standing()[name]
        path = f"../{Path(workshop.__file__).name}#L{first}-L{last}"
        links.append(f"- [`{name}`]({path}), {first}-{last}")
    return "\n".join(links)


# --------------------------------------------------------------------------------------------------
# Stage 1: one request of the class's run, which brings something new and something too similar.


def candidates_of(record: dict) -> list[str]:
    """What the parser makes of a reply of stage 1."""
    known = {name: record[name] for name in ("text", "finish_reason", "prompt")}
    return workshop.read_candidates(workshop.RECIPES["modern"], Reply(**known))[0]


def generated(reader: Reader) -> dict:
    """The first request with machine tasks in its prompt and a near copy in its reply."""
    near = {row["instruction"] for row in reader.rows("rejected.jsonl") if 0.7 < row["score"] < 1}
    for record in reader.replies("generate"):
        if record["request_idx"] and near & {*candidates_of(record)}:
            return record
    raise NotShown("no reply of the class's run holds a near copy")


def verdicts(reader: Reader) -> str:
    """Each candidate of that reply: kept or rejected, with the number that decided."""
    record = generated(reader)
    kept = {}
    for row in reader.rows("step1_instructions.jsonl"):
        if row["request_idx"] == record["request_idx"]:
            kept[row["instruction"]] = row["most_similar"][0]["score"]
    out = {}
    for row in reader.rows("rejected.jsonl"):
        out.setdefault(row["instruction"], row)
    lines = []
    for text in candidates_of(record):
        if text in kept:
            lines.append(fitted(text, f" + {kept[text]:.2f}  ", WIDTH))
        else:
            row = out[text]
            score = f"{row['score']:.2f}" if row["score"] else "    "
            lines.append(fitted(text, f" - {score}  ", WIDTH))
            why = f": {row['evidence']}" if row["evidence"] else ""
            lines.append(fitted(row["rule"] + why, " " * 9, WIDTH))
    return "\n".join(lines)


# --------------------------------------------------------------------------------------------------
# Stages 2 and 3: one task of each kind.


def turns(record: dict) -> str:
    """A prompt of a chat: what is asked first, and the task at its end."""
    prompt = record["prompt"]
    if isinstance(prompt, str):
        return prompt
    return f"{prompt[0]['content']}\n\n{LEFT_OUT}\n\n{prompt[-1]['content']}"


def classified(reader: Reader) -> dict:
    """The first task with labels."""
    rows = reader.rows("step2_is_classification.jsonl")
    return next(row for row in rows if row["is_classification"])


def answers(reader: Reader) -> str:
    """A reply of each kind and what the parser makes of it."""
    rows = reader.rows("step2_is_classification.jsonl")
    lines = []
    for verdict in (True, False, None):
        for row in [row for row in rows if row["is_classification"] is verdict][:1]:
            reply = " ".join(row["response"].split())
            lines.append(f"{verdict!s:<6} {reply}")
            lines.append(fitted(row["instruction"], "       ", WIDTH))
    return "\n".join(lines)


def asked(reader: Reader, stage: str, instruction: str) -> dict:
    """The first reply of a stage about an instruction."""
    for record in reader.replies(stage):
        if record.get("instruction") == instruction:
            return record
    raise NotShown(f"stage {stage} was not asked about {instruction!r}")


def labelled(reader: Reader) -> dict:
    """The first task with labels that gave the same answer twice."""
    for row in reader.rows("step3_raw_instances.jsonl"):
        outputs = [instance["output"] for instance in row["instances"]]
        if row["is_classification"] and outputs == row["second_answers"]:
            return row
    raise NotShown("no task with labels gave the same answer twice")


def said_twice(reader: Reader) -> str:
    """An instance that is kept, and one whose second answer was another one."""
    kept = labelled(reader)
    instance = kept["instances"][0]
    lines = answer_lines("+", instance["input"], instance["output"], kept["second_answers"][0])
    for row in reader.rows("step3_raw_instances.jsonl"):
        # Stage 4 itself says which answers differ.
        task = workshop.Task(row["id"], row["instruction"], row["is_classification"])
        task.instances, task.notes = row["instances"], {"instances": row}
        results = workshop.Results()
        workshop.said_twice(Config(language=reader.language), task, results)
        for out in results.rejected[:1]:
            found = answer_lines("-", out["input"], out["output"], out["evidence"])
            return "\n".join([*lines, *found, f"   {out['rule']}"])
    raise NotShown("the class's run has no answer that differed")


def answer_lines(sign: str, source: str, first: str, second: str) -> list[str]:
    return [fitted(source, f" {sign} ", WIDTH), f"   1. {first}", f"   2. {second}"]


def one_row(reader: Reader, folder: str, start: str) -> str:
    """A row of the dataset of a run."""
    for row in reader.rows("step4_final.jsonl", folder):
        if row["instruction"].startswith(start):
            return "\n".join(f"{name}: {row[name] or '-'}" for name in row)
    raise NotShown(f"no instruction of {folder} begins with {start!r}: choose another row")


MADE: dict[str, Callable[..., str]] = {
    "stage-1-prompt": lambda reader: generated(reader)["prompt"],
    "stage-1-reply": lambda reader: generated(reader)["text"],
    "stage-1-verdicts": verdicts,
    "row": one_row,
    "stage-2-prompt": lambda reader: turns(
        asked(reader, "classify", classified(reader)["instruction"])
    ),
    "stage-2-replies": answers,
    "stage-3-prompt": lambda reader: turns(
        asked(reader, "instances", labelled(reader)["instruction"])
    ),
    "stage-3-reply": lambda reader: asked(reader, "instances", labelled(reader)["instruction"])[
        "text"
    ],
    "stage-3-answers": said_twice,
}


# --------------------------------------------------------------------------------------------------
# The program.


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--write", action="store_true", help="put the blocks into the pages")
    write = parser.parse_args(arguments).write
    differ = 0
    for language, path in PAGES.items():
        try:
            new = renewed(language)
        except NotShown as error:
            print(f"{path.name}: {error}", file=sys.stderr)
            differ += 1
            continue
        old = path.read_text(encoding="utf-8")
        for ours, theirs in zip(MARK.finditer(old), MARK.finditer(new), strict=True):
            if ours[0] != theirs[0]:
                differ += not write
                print(f"{path.name}: {'written' if write else 'differs'}: {ours[2]}")
        if write:
            path.write_text(new, encoding="utf-8", newline="\n")
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
