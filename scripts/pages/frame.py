"""The head of a page that companions write, and how data stands in it.

What a model wrote is data: it stands in the page as JSON, and the page's script shows it as text.
The Content-Security-Policy lets nothing run or load but the page's own scripts and styles, by
their hashes.
"""

from __future__ import annotations

if __name__ == "__main__":  # a part, no program: said before an import fails
    raise SystemExit(
        "frame.py is a part of scripts/report.py: run  python scripts/report.py --help"
    )

import base64
import html
import json
from hashlib import sha256
from pathlib import Path
from string import Template
from typing import Any

PARTS = Path(__file__).resolve().parent


def html_head(title: str, language: str, scripts: list[str], style: str) -> str:
    """A page up to its body. Nothing runs in it but these scripts.

    `language` is that of the words, as HTML names it. `style` comes behind the common one, which
    has the colours of both themes.
    """
    style = part("common.css") + style
    return Template(part("head.html")).substitute(
        title=html.escape(title), language=language, policy=policy(scripts, style), style=style
    )


def part(name: str) -> str:
    """The text of a file in scripts/pages/."""
    return (PARTS / name).read_text(encoding="utf-8")


def policy(scripts: list[str], style: str) -> str:
    """The Content-Security-Policy of a page with these scripts and this style."""
    # Nothing is allowed, except what is listed here by the hash of its text.
    rules = {
        "default-src": "'none'",
        "script-src": " ".join(allowed(script) for script in scripts),
        "style-src": f"{allowed(style)} {allowed('')}",  # plotly fills an empty <style> by script
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in rules.items())


def allowed(text: str) -> str:
    """The source expression that allows a script or a style with exactly this text."""
    digest = sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def as_data(value: Any) -> str:
    """JSON that can stand in a page: no tag can begin in it."""
    return json.dumps(value, ensure_ascii=False).replace("<", r"\u003c")
