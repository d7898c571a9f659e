"""Check the exercises of the lesson: say what is right, or what is wrong and a hint.

    python lesson/check.py                how far you are; seconds
    python lesson/check.py 3              check exercise 3
    python lesson/check.py 3 --hint       the same, with a more concrete hint
    python lesson/check.py 3 --answer     show a right answer
    python lesson/check.py 9 --base-url http://localhost:8000/v1 --model NAME
                                          exercise 9 asks a real model 32 short questions

Each exercise is a folder in lesson/exercises: a page to read and a file to fill in. What you write
is run in a process of its own, for five seconds at most. Exit code: 0 right, 1 wrong or not begun,
2 wrong usage.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lesson.checking.checks import CHECKS
from lesson.checking.pupil import EXERCISES, RIGHT, AnswerError, Verdict, words
from lesson.checking.scoring import score_prompt
from scripts.asking.parser import Parser
from self_instruct_workshop import (
    DATA,
    Config,
    UsageError,
    WorkshopError,
    columns,
    is_chinese,
    leave,
    pip_install,
    prepare_terminal,
    show,
    spoken,
    tell,
)

SCORED = len(CHECKS)  # the exercise that a model answers
# Short answers, from a server that may be slow and answer one request at a time.
PATIENT = {"max_tokens": 128, "concurrency": 4, "request_timeout": 300.0, "deadline": 1800.0}


def command_line() -> argparse.ArgumentParser:
    """The flags."""
    parser = Parser(
        prog="lesson/check.py",
        description=(__doc__ or "").split("\n\n")[0],
        epilog="Without a number: how far you are.",
    )
    numbers = range(1, len(CHECKS) + 1)
    parser.add_argument("number", type=int, nargs="?", choices=numbers, help="of the exercise")
    parser.add_argument("--hint", action="store_true", help="a more concrete hint")
    parser.add_argument("--answer", action="store_true", help="show a right answer")
    parser.add_argument("--language", choices=["en", "zh"], help="of what is said")
    parser.add_argument("--base-url", help="exercise 9: the address of a server, up to /v1")
    parser.add_argument("--model", help="exercise 9: the name of its model")
    work_dir = str(DATA / "workshop" / "exercise_9")
    parser.add_argument("--work-dir", default=work_dir, help="exercise 9: where replies are kept")
    return parser


def own_language() -> str:
    """Chinese where the terminal speaks it, else English."""
    return "zh" if is_chinese() else "en"


def usage_problem(options: argparse.Namespace) -> str:
    """What is wrong with the flags, "" if nothing."""
    if options.number is None and (options.answer or options.hint):
        return "name an exercise: lesson/check.py 3 --hint"
    asks = options.base_url or options.model
    if asks and options.number != SCORED:
        return f"only exercise {SCORED} asks a model: --base-url and --model belong to it"
    return ""


# --------------------------------------------------------------------------------------------------
# Checking.


def verdict_of(number: int, folder: Path, config: Config | None = None) -> Verdict:
    """Check one exercise; with a config, exercise 9 asks its model."""
    try:
        if config:
            return score_prompt(folder, config)
        return CHECKS[number - 1](folder)
    except AnswerError as error:
        return error.verdict


def server_config(options: argparse.Namespace, language: str) -> Config | None:
    """The settings of exercise 9, None where no server is named. Raises UsageError."""
    if not (options.base_url or options.model):
        return None
    server = {"base_url": options.base_url or "", "model": options.model or ""}
    return Config(
        provider="local", language=language, work_dir=options.work_dir, **server, **PATIENT
    )


def told(number: int, verdict: Verdict, language: str, hint: bool) -> str:
    """A verdict in words: one line, a hint, and the more concrete one where it is asked for."""
    state = words(f"state.{verdict.state}", language)
    what = words(verdict.what, language, **verdict.slots)
    lines = [words("line", language, number=number, state=state, what=what)]
    first = words(f"{verdict.what}.hint", language, **verdict.slots)
    more = words(verdict.more or f"{number}.more", language, **verdict.slots)
    if verdict.state == RIGHT:
        return lines[0]
    if first:
        lines.append(words("hint", language, hint=first))
    if hint:
        lines.append(words("hint", language, hint=more or words("no_more", language)))
    return "\n".join(lines)


def overview(folder: Path, language: str) -> str:
    """Every exercise with its state and its page."""
    pages = {path.name.partition("_")[0]: path.name for path in folder.iterdir() if path.is_dir()}
    lines = []
    for number in range(1, len(CHECKS) + 1):
        verdict = verdict_of(number, folder)
        state = words(f"state.{verdict.state}", language)
        if verdict.what == "9.needs_server":
            state = words("state.needs_server", language)
        title = words(f"{number}.title", language)
        lines.append(f"{number}  {padded(state, 12)}  {padded(title, 44)}  {pages[str(number)]}")
    return "\n".join([*lines, words("next", language)])


def padded(text: str, width: int) -> str:
    """The text with blanks behind it. On a terminal a Chinese character is two columns wide."""
    return text + " " * (width - columns(text))


def reference(number: int, folder: Path, language: str) -> str:
    """A right answer to an exercise, in the reader's language where there is such a one."""
    found = sorted((folder / "answers").glob(f"{number}.*"))
    own = [path for path in found if f".{language}." in path.name]
    return (own or found)[0].read_text(encoding="utf-8").rstrip()


def main(arguments: list[str] | None = None, folder: Path = EXERCISES) -> int:
    """Check what is asked for; return 0 where it is right, 1 where not, 2 for a wrong usage."""
    parser = command_line()
    options = parser.parse_args(arguments)
    problem = usage_problem(options)
    if problem:
        parser.error(problem)
    language = options.language or own_language()
    try:
        return answered(options, language, folder)
    except WorkshopError as error:
        problem = str(error)
        code = 2 if isinstance(error, UsageError) else 1
    except ModuleNotFoundError as error:
        problem = f"{error}: run  {pip_install('-r', 'requirements.txt')}  first"
        code = 1
    tell(f"error: {problem}", language)
    return code


def answered(options: argparse.Namespace, language: str, folder: Path) -> int:
    """Show what is asked for. Raises WorkshopError."""
    if options.answer:
        show(reference(options.number, folder, language))
        return 0
    if options.number is None:
        show(overview(folder, language))
        return 0
    verdict = verdict_of(options.number, folder, server_config(options, language))
    show(told(options.number, verdict, language, options.hint))
    return 0 if verdict.state == RIGHT else 1


if __name__ == "__main__":
    prepare_terminal()
    try:
        code = main()
    except KeyboardInterrupt as interrupted:
        code = interrupted.args[0] if interrupted.args else 130
        print("\n" + spoken("interrupted: replies so far are kept"), file=sys.stderr)
    leave(code)  # requests in flight are not waited for
