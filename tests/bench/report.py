"""What the report of a large run takes: CPU seconds, the most memory, and bytes of the page.

    python tests/bench/report.py RUN --texts FILE.jsonl     make a run of 50,000: 4 minutes
    python tests/bench/report.py RUN                        its report, twice
    python tests/bench/report.py RUN --program OTHER/scripts/report.py      of another checkout

RUN is a folder. A run is made against a scripted server on this machine, whose texts are real:
instructions are those of the file, recombined where they are too few, and inputs and outputs are
pieces of them, an output of about 430 characters on average. The file has an `instruction` a line.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from helpers.many_texts import recombined
from helpers.server import Answer, Server, scripted_model
from resume import DELAY, PROGRAM, measured

REPORT = PROGRAM.parent / "scripts" / "report.py"
LONG = (5, 30, 60, 60, 180)  # words of an output, each as often as another
SHORT = 10  # words of an input; of a classification task, of its label
LINE = 40  # words in a line of it


def model_of(texts: list[str]) -> Answer:
    """A model that brings these texts as new tasks, eight at a time, and long answers to them."""
    scripted = scripted_model()
    words = " ".join(texts).split()
    left = iter(texts)

    def piece(dice: random.Random, length: int) -> str:
        """So many words that follow each other, in lines."""
        start = dice.randrange(len(words) - length)
        ends = range(start, start + length, LINE)
        return "\n".join(" ".join(words[n : min(n + LINE, start + length)]) for n in ends)

    def answer(prompt: str, body: dict) -> str:
        dice = random.Random(prompt)
        dangling = re.search(r"(\d+)\.$", prompt.rstrip())
        if dangling:
            first = int(dangling[1])
            return "\n".join(f"{first + n}. {next(left)}" for n in range(8))
        if "and write nothing else" not in prompt:
            return scripted(prompt, body)
        source, target = piece(dice, SHORT), piece(dice, dice.choice(LONG))
        if "Class label:" in prompt:
            return f"Class label: {source}\nInput: {target}"
        return f"Input: {source}\nOutput: {target}"

    return answer


def real_texts(path: Path, number: int) -> list[str]:
    """So many instructions of a file, each on one line; recombined ones where they are too few."""
    with open(path, encoding="utf-8") as lines:
        found = [" ".join(json.loads(line)["instruction"].split()) for line in lines]
    return recombined(list(dict.fromkeys(found)), number)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="the run's folder")
    parser.add_argument("--texts", type=Path, help="make the run, of these instructions")
    parser.add_argument("--num-instructions", type=int, default=50_000)
    parser.add_argument("--program", type=Path, default=REPORT, help="report.py to measure")
    options = parser.parse_args()

    print("| what | CPU s | s | MB |\n|---|---|---|---|")
    if options.texts:
        make_run(options.run, options.texts, options.num_instructions)
    else:
        measure_report(options.run, options.program)


def make_run(folder: Path, texts: Path, number: int) -> None:
    """Make a run of so many instructions; three times as many texts are there for it."""
    with Server(model_of(real_texts(texts, 3 * number)), delay=DELAY) as server:
        command = [sys.executable, str(PROGRAM), "--provider", "local", "--model", "m"]
        command += ["--base-url", server.url + "/v1", "--num-instructions", str(number)]
        command += ["--concurrency", "16", "--work-dir", str(folder), "--yes"]
        measured("the run (MB: at least what the server has)", command)


def measure_report(folder: Path, program: Path) -> None:
    """Write the report of a run twice, and print what it took."""
    with tempfile.TemporaryDirectory() as place:
        page = Path(place) / "report.html"
        command = [sys.executable, str(program), "--work-dir", str(folder), "--out", str(page)]
        for name in ("the report", "the same again"):
            measured(name, command)
        print(f"{page.stat().st_size:,} bytes of HTML")


if __name__ == "__main__":
    main()
