"""A run as one HTML file to look at: funnel, Table 1, histograms, verbs, tokens, and every row with its raw replies.

    pip install -r scripts/requirements-report.txt
    python scripts/report.py                                       of data/workshop; seconds; a double click opens it
    python scripts/report.py --work-dir MY_RUN --language zh --out my_run.html      half a minute for 50,000 rows

The file needs no network and no server: plotly's script and the data stand in it. What a model wrote is data: it is
shown as text, and the page's Content-Security-Policy lets nothing run but the page's own scripts, by their hashes.
Figures that run.json has are taken from there. `self_instruct.py --report` does the same.
"""

from __future__ import annotations

import argparse
import base64
import html
import json
import re
import sys
from hashlib import sha256
from pathlib import Path
from string import Template

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import self_instruct_workshop as workshop
from scripts.reporting import numbers as report_numbers
from scripts.reporting import rows as report_rows
from scripts.reporting import run as report_run
from self_instruct_workshop import Config, WorkshopError, one_line

PARTS = Path(__file__).resolve().parent / "reporting"
NEEDED = "plotly", "textblob", "jieba"


def write_report(folder: Path, out: Path | None = None, language: str = "") -> Path:
    """Write the report of a run's folder; return where. Raises WorkshopError for what the user can put right."""
    plotly, run = plotly_script(), report_run.read_run(folder)
    try:
        replies = report_rows.read_replies(run)
        numbers = report_numbers.numbers(run, max(replies.candidates, default=-1) + 1)
        rows = list(report_rows.Rows(run, replies).all())
    finally:
        if run.journal:
            run.journal.file.close()
    known = json.loads((PARTS / "words.json").read_text(encoding="utf-8"))
    language = next(name for name in (language, run.language, "en") if name in known)
    words = known[language]
    shown = numbers | {"rows": len(rows), "replies_in_a_piece": report_rows.REPLIES}
    pieces = {"rows": report_rows.packed(rows, report_rows.ROWS), "replies": replies.pieces}
    title = f"{words['title']}: {one_line(numbers['run']['folder'], 60)}"
    path = out or folder / "report.html"
    try:
        workshop.write_whole(path, [page(title, language, {"words": words, **shown}, pieces, plotly), "\n"])
    except OSError as error:
        problem = f"cannot write {path} ({error.strerror}): name another file by scripts/report.py --out"
        raise WorkshopError(problem) from None
    return path


def plotly_script() -> str:
    try:
        import jieba  # noqa: F401
        import textblob  # noqa: F401
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        needed = f"{sys.executable} -m pip install -r scripts/requirements-report.txt"
        raise WorkshopError(f"the report needs {error.name or ', '.join(NEEDED)}: run  {needed}  first") from None
    return get_plotlyjs()


def page(title: str, language: str, numbers: dict, pieces: dict, plotly: str) -> str:
    """Fill in the template. Of the scripts and the styles in it, those run that the policy names by their hashes."""
    style, script = ((PARTS / f"page.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    plotly, script, charts = (text.replace("</script", r"<\/script") for text in (plotly, script, "charts();"))
    policy = {
        "default-src": "'none'",
        "script-src": " ".join(map(allowed, (script, plotly, charts))),
        "style-src": f"{allowed(style)} {allowed('')}",  # plotly fills an empty <style> by script
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    template = Template((PARTS / "page.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=html.escape(title),
        language={"zh": "zh-CN"}.get(language, language),
        policy="; ".join(f"{name} {value}" for name, value in policy.items()),
        style=style,
        unused="".join(f'<template id="{name}"></template>' for name in map_styles(plotly)),
        numbers=json.dumps(numbers, ensure_ascii=False).replace("<", r"\u003c"),
        script=script,
        plotly=plotly,
        charts=charts,
        pieces="\n".join(
            f'<script type="text/plain" id="{name}-{n}">{piece}</script>'
            for name, packed in pieces.items()
            for n, piece in enumerate(packed)
        ),
    )


def map_styles(plotly: str) -> set[str]:
    """Ids of styles for maps, which plotly puts into the page unless they are there. Here are no maps."""
    return set(re.findall(r'getElementById\("([0-9a-f]{32,})"\)', plotly))


def allowed(text: str) -> str:
    """The source expression that allows a script or a style with exactly this text."""
    return f"'sha256-{base64.b64encode(sha256(text.encode()).digest()).decode()}'"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work-dir", type=Path, default=Path(Config.work_dir), help="folder of the run")
    parser.add_argument("--out", type=Path, help="the file to write [report.html in that folder]")
    parser.add_argument("--language", choices=tuple(workshop.DEFAULT_SEEDS), default="", help="of labels [the run's]")
    options = parser.parse_args(arguments)
    return workshop.main(None, lambda _: print(write_report(options.work_dir, options.out, options.language)))


if __name__ == "__main__":
    sys.exit(main())
