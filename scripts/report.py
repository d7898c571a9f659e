"""A run as one HTML file to look at: funnel, Table 1, histograms, verbs, tokens, and every row with
its raw replies.

    pip install -r scripts/requirements-report.txt
    python scripts/report.py                    of data/workshop; seconds; a double click opens it
    python scripts/report.py --work-dir MY_RUN --language zh --out my_run.html
                                                a quarter of a minute for 50,000 rows

The file needs no network and no server: plotly's script and the data stand in it, packed. It has
at most 25 MB: where rows or replies are too many for that, the page says how many it holds, and
where all of them are. Counts and pictures are of all of them. What a model
wrote is data: it is shown as text. The page's Content-Security-Policy lets nothing run but the
page's own scripts, by their hashes. Figures that run.json has are taken from there.
`self_instruct.py --report` does the same.
"""

from __future__ import annotations

import argparse
import gc
import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from string import Template
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import self_instruct_workshop as workshop
from scripts.asking.parser import Parser
from scripts.pages.frame import as_data, html_head
from scripts.reporting.numbers import numbers
from scripts.reporting.rows import (
    REPLIES,
    Rows,
    pack_text,
    packed_replies,
    packed_rows,
    read_replies,
    size,
)
from scripts.reporting.run import Run, read_run
from self_instruct_workshop import Config, WorkshopError, one_line

PARTS = Path(__file__).resolve().parent / "reporting"  # the template, its style, script and words

# What the report needs of each row. With all that a run writes, 50,000 rows take 500 MB more.
READ = {
    "generate": ("id", "instruction", "request_idx", "topic"),
    "classify": ("instruction", "is_classification", "response"),
    "instances": ("instruction", "is_classification", "instances", "response"),
    "filter": ("instruction", "input", "output"),
    "rejected": ("stage", "rule", "instruction", "input", "output", "evidence", "score"),
}

Pieces = dict[str, list[str]]  # "rows" and "replies" -> their packed pieces


def write_report(folder: Path, out: Path | None = None, language: str = "") -> Path:
    """Write the report of a run's folder, and return where it is.

    `language` is that of the labels: "en", "zh", or "" for the run's own.
    Raises WorkshopError where a package is missing, the folder holds no run or a damaged file,
    or the report cannot be written.
    """
    # Without the packages there is no report, so look for them before the run is read.
    path = out or folder / "report.html"
    if path.is_file() and not is_page(path):
        problem = f"{path} is there, and is no report"
        raise WorkshopError(f"{problem}: name another file by scripts/report.py --out")
    settings = workshop.earlier_run(folder).get("settings")
    chinese = isinstance(settings, dict) and settings.get("language") == "zh"
    plotly = plotly_script("jieba" if chinese else "textblob")
    with collector_off():
        run = read_run(folder, READ)
        try:
            shown, pieces = contents(run)
        finally:
            if run.journal:
                run.journal.file.close()

    # Take the labels of the language asked for, else of the run's, else the English ones.
    known = json.loads(part("words.json"))
    language = next(name for name in (language, run.language, "en") if name in known)
    words = known[language]
    title = f"{words['title']}: {one_line(shown['run']['folder'], 60)}"

    # Write the file whole, so that a half one never stands there.
    text = page(title, language, {"words": words, **shown}, pieces, plotly)
    try:
        workshop.write_whole(path, text)
    except OSError as error:
        problem = f"cannot write {path} ({error.strerror})"
        raise WorkshopError(f"{problem}: name another file by scripts/report.py --out") from None
    return path


@contextmanager
def collector_off() -> Iterator[None]:
    """Without Python's search for cycles, which goes through all rows again and again.

    A report makes none that count; what nobody needs is freed all the same.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def is_page(path: Path) -> bool:
    """Whether a file begins as a report does, or is empty: only such a file is replaced."""
    with open(path, encoding="utf-8", errors="replace") as file:
        start = file.read(200)
    ours = start.startswith("<!DOCTYPE html>") and "Content-Security-Policy" in start
    return ours or not start


def plotly_script(tagger: str) -> str:
    """Plotly's JavaScript. Raises WorkshopError where a package of the report is missing.

    `tagger` finds parts of speech: jieba in Chinese runs, textblob in others.
    """
    # The numbers need it, but only after the run was read: ask for it now.
    try:
        import_module(tagger)
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        missing = error.name or f"plotly, {tagger}"
        command = workshop.pip_install("-r", "scripts/requirements-report.txt")
        raise WorkshopError(f"the report needs {missing}: run  {command}  first") from None
    return get_plotlyjs()


def contents(run: Run) -> tuple[dict[str, Any], Pieces]:
    """All that the page shows of a run: its numbers, and its rows and replies in packed pieces."""
    # The requests of stage 1 are numbered from 0: the highest number tells how many were sent.
    replies = read_replies(run)
    requests = max(replies.candidates, default=-1) + 1
    shown = numbers(run, requests)

    # The page must know how many rows there are, and in which piece a reply stands.
    rows = list(Rows(run, replies).all())
    run.forget_rows()
    held, row_pieces = packed_rows(rows)
    reply_pieces = packed_replies(run, held, size(row_pieces))
    shown |= {"rows": len(held), "all_rows": len(rows)}
    shown |= {"replies": min(replies.count, REPLIES * len(reply_pieces))}
    shown |= {"all_replies": replies.count, "replies_in_a_piece": REPLIES}
    return shown, {"rows": row_pieces, "replies": reply_pieces}


def part(name: str) -> str:
    """The text of a file in scripts/reporting/."""
    return (PARTS / name).read_text(encoding="utf-8")


def page(title: str, language: str, shown: dict, pieces: Pieces, plotly: str) -> Iterator[str]:
    """Fill in the template; the page comes in parts, as a long one is too large to copy.

    Of the scripts and the styles in it, those run that the policy names by their hashes. Plotly's
    script lies packed in it, as a third of its size; the page's own script unpacks it.
    """
    # A "</script" within a script would end it too early.
    script = part("page.js").replace("</script", r"<\/script")
    before, after = part("page.html").split("$pieces")

    # Every name here is a place in page.html.
    in_html = {"zh": "zh-CN"}.get(language, language)
    yield Template(before).substitute(
        head=html_head(title, in_html, [script, plotly], part("page.css")),
        unused=unused_styles(plotly),
        numbers=as_data(shown),
        script=script,
    )
    yield from piece_tags({"plotly": [pack_text(plotly)], **pieces})
    yield after


def unused_styles(plotly: str) -> str:
    """Empty elements with the ids of plotly's styles for maps.

    Plotly puts these styles into the page unless an element with their id is there, and the
    policy would forbid them. A report has no maps.
    """
    ids = re.findall(r'getElementById\("([0-9a-f]{32,})"\)', plotly)
    return "".join(f'<template id="{name}"></template>' for name in sorted(set(ids)))


def piece_tags(pieces: Pieces) -> Iterator[str]:
    """An element for each packed piece, which the page's script unpacks."""
    for name, texts in pieces.items():
        for number, text in enumerate(texts):
            yield f'<script type="text/plain" id="{name}-{number}">{text}</script>\n'


def command_line() -> argparse.ArgumentParser:
    """The flags of the report."""
    # Without flags: the run in data/workshop, with labels in its own language.
    parser = Parser(description=(__doc__ or "").split("\n\n")[0])
    default = Path(Config.work_dir)
    languages = tuple(workshop.DEFAULT_SEEDS)
    add = parser.add_argument
    add("--work-dir", type=Path, default=default, help="folder of the run")
    add("--out", type=Path, help="the file to write [report.html in that folder]")
    add("--language", choices=languages, default="", help="of labels [the run's]")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Write a report, print where it is, and return the exit code."""
    options = command_line().parse_args(arguments)

    def write(_: Config | None) -> None:
        print(write_report(options.work_dir, options.out, options.language))

    return workshop.main(None, write)


if __name__ == "__main__":
    sys.exit(main())
