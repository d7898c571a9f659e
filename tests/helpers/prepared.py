"""prepare_for_finetuning.py called on records: a talk, a plain row, and a caller for a fixture."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
import prepare_for_finetuning as prepare

TALK = {
    "messages": [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "What is it?"},
        {"role": "assistant", "content": "A river."},
        {"role": "user", "content": "Which one?"},
        {"role": "assistant", "content": "The Nile"},
    ]
}
PLAIN = {"instruction": "Name a sea.", "input": "in Asia", "output": "Aral"}


def caller(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """Prepare records; what was written, by part, and what was said."""

    def do(records: list[dict], *flags: str, code: int = 0) -> dict[str, Any]:
        path = tmp_path / "rows.jsonl"
        path.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
        folder = tmp_path / "out"
        assert prepare.main([str(path), "--output-dir", str(folder), *flags]) == code
        found: dict[str, Any] = {"said": "".join(capsys.readouterr())}
        for file in folder.glob("*.json*"):
            text = file.read_text(encoding="utf-8")
            lines = file.suffix == ".jsonl"
            found[file.stem] = [*map(json.loads, text.splitlines())] if lines else json.loads(text)
        return found

    return do
