"""Call a function of a pupil's file, in a process of its own that can be ended.

    python lesson/checking/call.py ANSWER.py RESULT.json < request

The request is {"function": name, "calls": [[argument, ...], ...]}. The result has "values", up to
the first error, each of them {"type": name, "value": what JSON can hold, or null}, and "error":
what was raised, at which line of the file, and in which call (null: while the file was read).
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any


def load(path: Path) -> dict[str, Any]:
    """The names that the file defines. Raises whatever it raises."""
    names: dict[str, Any] = {"__name__": "answer", "__file__": str(path)}
    exec(compile(path.read_text(encoding="utf-8-sig"), str(path), "exec"), names)
    return names


def as_value(value: Any) -> dict[str, Any]:
    """A value with the name of its type, as it travels to the checker."""
    try:
        json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        return {"type": type(value).__name__, "value": None}
    return {"type": type(value).__name__, "value": value}


def error_of(error: BaseException, path: Path, call: int | None) -> dict[str, Any]:
    """What went wrong, and at which line of the pupil's file (0: none of its lines)."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__)]
    files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    ours = [line for line, file in zip(lines, files, strict=True) if file == str(path)]
    line = ours[-1] if ours else 0
    if isinstance(error, SyntaxError):
        line = error.lineno or 0
    text = str(error.msg if isinstance(error, SyntaxError) else error)
    return {"kind": type(error).__name__, "text": text, "line": line, "call": call}


def answers(path: Path, request: dict[str, Any]) -> dict[str, Any]:
    """Do all calls, up to the first error."""
    call = None
    values: list[dict[str, Any]] = []
    try:
        function: Callable | None = load(path).get(request["function"])
        if not callable(function):
            missing = {"kind": "missing", "text": "", "line": 0, "call": None}
            return {"values": [], "error": missing}
        for number, arguments in enumerate(request["calls"]):
            call = number
            values.append(as_value(function(*arguments)))
        return {"values": values, "error": None}
    except BaseException as error:  # sys.exit() in a pupil's file, too
        return {"values": values, "error": error_of(error, path, call)}


def main() -> None:
    """Read the request, do the calls, write the result."""
    path = Path(sys.argv[1])
    request = json.loads(sys.stdin.buffer.read())
    # What the pupil's code prints is nobody's answer.
    with (
        open(os.devnull, "w", encoding="utf-8") as nowhere,
        redirect_stdout(nowhere),
        redirect_stderr(nowhere),
    ):
        result = answers(path, request)
    Path(sys.argv[2]).write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()
