"""One task through all four stages, as a page for the terminal.

    python scripts/explain.py                     one request of each stage, from data/workshop
    python scripts/explain.py 7                   the task machine_task_7
    python scripts/explain.py "Explain rhyme."    a text, kept or rejected, or how one begins
    python scripts/explain.py --work-dir MY_RUN --language zh 7

Of each stage: the prompt, its fixed part folded; the raw reply; each candidate with what the parser
cut away; its nearest neighbour, with the longest common subsequence marked; the rule that decided,
with its number beside its limit; and the row as it ends. It reads the folder of a run, asks nothing
and writes nothing. `self_instruct.py --explain` does the same, and makes a run where there is none.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import self_instruct_workshop as workshop
from scripts.asking.parser import Parser
from scripts.explaining.lookup import has_run, tell
from scripts.reporting.run import read_run
from self_instruct_workshop import Config, WorkshopError

PARTS = Path(__file__).resolve().parent / "explaining"
RULES = PARTS.parent / "reporting" / "words.json"  # rules in words, as the report has them
# What is read of each row of step 1; of the other steps it is all.
READ = {"generate": ("id", "instruction", "request_idx", "most_similar")}


def explain(config: Config, wanted: str, run_first: Callable[[Config], dict | int | None]) -> int:
    """Show a task of the run in the work folder; where that holds none, say so and make a run.

    Returns the exit code: 3 where that run left something undone. Raises WorkshopError where there
    is no such task or text.
    """
    folder = Path(config.work_dir)
    code = 0
    if not has_run(folder):
        who = workshop.provider_name(config)
        notice = f"notice: {folder} holds no run: one by {who} is made there first"
        workshop.tell(notice, config.language)
        done = run_first(config)
        # Nothing was to be run (--estimate), or nobody agreed to pay.
        if not isinstance(done, dict):
            return done or 0
        code = 3 if done["undone_because"] else 0
        print()
    typed = config.language != Config.language
    show_page(folder, wanted, config.language if typed else "")
    return code


def show_page(folder: Path, wanted: str = "", language: str = "") -> None:
    """Print the page of a task. `language` is that of its words; "": the run's own.

    Raises WorkshopError where the folder holds no run, or no such task or text.
    """
    from scripts.explaining.page import has_colour

    colour = has_colour()
    text = page_of(folder, wanted, language, colour=colour)
    if not colour:
        workshop.show(text.rstrip("\n"))
        return
    print(text, end="", flush=True)


def page_of(
    folder: Path, wanted: str = "", language: str = "", *, width: int = 0, colour: bool = False
) -> str:
    """The page as text, `width` columns wide (0: as the terminal is)."""
    from scripts.explaining.page import Page, terminal_width
    from scripts.explaining.stages import Teller

    # Look everything up before a word of the page is made.
    run = read_run(folder, READ)
    try:
        story = tell(run, wanted)
    finally:
        if run.journal:
            run.journal.file.close()

    # Take the words of the language asked for, else of the run's, else the English ones.
    known = json.loads((PARTS / "words.json").read_text(encoding="utf-8"))
    language = next(name for name in (language, run.language, "en") if name in known)
    words = known[language]
    rules = json.loads(RULES.read_text(encoding="utf-8"))[language]["rules"]
    page = Page(words["labels"], width or terminal_width(), colour)

    # A text that stage 1 turned away came no further.
    teller = Teller(story, page, words, rules)
    teller.top()
    teller.stage_1(every=not wanted)
    if story.candidate.task:
        teller.stage_2()
        teller.stage_3()
        teller.stage_4()
    return page.text()


def command_line() -> argparse.ArgumentParser:
    """What is shown, and of which run."""
    parser = Parser(description=(__doc__ or "").split("\n\n")[0])
    default = Path(Config.work_dir)
    languages = tuple(workshop.DEFAULT_SEEDS)
    add = parser.add_argument
    add("wanted", nargs="?", default="", metavar="ID", help="an id, or how a text begins")
    add("--work-dir", type=Path, default=default, help="folder of the run")
    add("--language", choices=languages, default="", help="of the page's words [the run's]")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Show a page, and return the exit code."""
    options = command_line().parse_args(arguments)

    def show(_: Config | None) -> None:
        if not has_run(options.work_dir):
            problem = f"{options.work_dir} holds no run: run self_instruct.py first"
            raise WorkshopError(f"{problem}, or name its folder with --work-dir")
        show_page(options.work_dir, options.wanted, options.language)

    return workshop.main(None, show, options.language)


if __name__ == "__main__":
    sys.exit(main())
