"""What a pupil has written: read it, run it within limits, and say what is wrong with it."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from self_instruct_workshop import one_line

EXERCISES = Path(__file__).resolve().parent.parent / "exercises"
CALL = Path(__file__).resolve().with_name("call.py")
SECONDS = 5.0  # for all calls of one function; the right ones need a hundredth of one
RIGHT = "right"
WRONG = "wrong"
NOT_BEGUN = "not begun"
TODO = "TODO"  # what stands where nothing is filled in yet


@dataclass
class Verdict:
    """How an answer is: right, wrong or not begun, and the key of the words that say why.

    The words `what` are what is wrong, `what.hint` a hint, and `more` what --hint says.
    """

    state: str
    what: str
    more: str = ""
    slots: dict[str, Any] = field(default_factory=dict)


class AnswerError(Exception):
    """An answer that cannot be read or run at all; its verdict says why."""

    def __init__(self, what: str, state: str = WRONG, **slots: Any) -> None:
        super().__init__(what)
        self.verdict = Verdict(state, what, slots=slots)


def right(what: str, **slots: Any) -> Verdict:
    """The verdict on a right answer; `what` says what it shows."""
    return Verdict(RIGHT, what, slots=slots)


def wrong(what: str, more: str = "", **slots: Any) -> Verdict:
    """The verdict on a wrong answer. Without `more`, --hint says what the exercise has for all."""
    number = what.partition(".")[0]
    return Verdict(WRONG, what, more or f"{number}.more", slots)


@cache
def all_words() -> dict[str, dict[str, str]]:
    """What is said to pupils: key -> language -> words."""
    return json.loads(CALL.with_name("words.json").read_text(encoding="utf-8"))


def words(key: str, language: str, **slots: Any) -> str:
    """The words of a key, with what belongs into them; "" where there are none."""
    return all_words().get(key, {}).get(language, "").format(**slots)


# --------------------------------------------------------------------------------------------------
# Files.


def read_text(path: Path) -> str:
    """The text of an answer file. Raises AnswerError where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError:
        raise AnswerError("file.missing", file=path.name) from None
    except UnicodeDecodeError:
        raise AnswerError("file.encoding", file=path.name) from None


def read_json(path: Path) -> dict[str, Any]:
    """The object in an answer file. Raises AnswerError where there is none, or nothing in it."""
    text = read_text(path)
    try:
        answer = json.loads(text)
    except json.JSONDecodeError as error:
        raise AnswerError("file.json", file=path.name, line=error.lineno, why=error.msg) from None
    except (ValueError, RecursionError):
        raise AnswerError("file.json", file=path.name, line=1, why="?") from None
    if not isinstance(answer, dict):
        raise AnswerError("file.object", file=path.name)
    if places(answer) and all(place == TODO for place in places(answer)):
        raise AnswerError("file.not_begun", NOT_BEGUN, file=path.name)
    if TODO in places(answer):
        left = places(answer).count(TODO)
        raise AnswerError("file.todo", file=path.name, left=left)
    return answer


def places(value: Any) -> list[Any]:
    """All values inside of a JSON value, however deep."""
    if isinstance(value, dict):
        value = list(value.values())
    if not isinstance(value, list):
        return [value]
    return [place for part in value for place in places(part)]


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of ours, JSON Lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# --------------------------------------------------------------------------------------------------
# Code.


def call(path: Path, function: str, calls: list[list[Any]]) -> tuple[list[Any], AnswerError | None]:
    """What a function of the pupil's file returns for each list of arguments.

    Up to the first call that raises, or returns what JSON cannot hold: that is the second part of
    the result. Raises AnswerError where the function is missing or does not end.
    """
    read_text(path)
    request = json.dumps({"function": function, "calls": calls}).encode()
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        command = [sys.executable, "-I", "-X", "utf8", str(CALL), str(path), str(result)]
        try:
            quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            subprocess.run(command, input=request, timeout=SECONDS, check=False, **quiet)
        except subprocess.TimeoutExpired:
            slots = {"file": path.name, "function": function, "seconds": f"{SECONDS:g}"}
            raise AnswerError("code.endless", **slots) from None
        except BrokenPipeError:
            pass  # it ended before it read the request
        if not result.exists():
            raise AnswerError("code.ended", file=path.name)
        said = json.loads(result.read_text(encoding="utf-8"))
    # The values before the first one that is none.
    values = []
    for arguments, value in zip(calls, said["values"], strict=False):
        if value["value"] is None:
            slots = {"call": called(function, arguments), "type": value["type"]}
            return values, AnswerError("code.type", file=path.name, **slots)
        values.append(value["value"])
    if not said["error"]:
        return values, None
    problem = code_problem(path, function, calls, said["error"])
    if not values:
        raise problem
    return values, problem


def code_problem(
    path: Path, function: str, calls: list[list[Any]], error: dict[str, Any]
) -> AnswerError:
    """What the pupil is told about code that raised."""
    slots = {"file": path.name, "function": function, "line": error["line"]}
    if error["kind"] == "missing":
        return AnswerError("code.missing", **slots)
    if error["kind"] == "NotImplementedError" and TODO in error["text"]:
        return AnswerError("file.not_begun", NOT_BEGUN, **slots)
    slots["error"] = one_line(f"{error['kind']}: {error['text']}".rstrip(": "))
    if error["call"] is None:
        return AnswerError("code.unread", **slots)
    return AnswerError("code.raised", call=called(function, calls[error["call"]]), **slots)


def called(function: str, arguments: list[Any]) -> str:
    """A call as one writes it, cut where it is long."""
    return one_line(f"{function}({', '.join(map(repr, arguments))})", 90)
