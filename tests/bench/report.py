"""What the report of a large run takes: CPU seconds, the most memory, and bytes of the page.

    python tests/bench/report.py RUN --texts FILE.jsonl     make a run of 50,000 first: 10 minutes
    python tests/bench/report.py RUN                        of a run that is there, twice
    python tests/bench/report.py RUN --program OTHER/scripts/report.py      of another checkout

RUN is a folder. A run is made against a scripted server on this machine, whose texts are real:
instructions are those of the file, recombined where they are too few, and inputs and outputs are
pieces of them, an output 450 characters long on average. The file has an `instruction` a line.
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
from bench.resume import DELAY, PROGRAM, measured
from helpers.many_texts import recombined
from helpers.server import Answer, Server, scripted_model

REPORT = PROGRAM.parent / "scripts" / "report.py"
LONG = (5, 30, 60, 60, 180)  # words of an output, each as often as another; a word has 6 or 7 letters
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
    parser.add_argument("--texts", type=Path, help="make the run, of the instructions in this file")
    parser.add_argument("--num-instructions", type=int, default=50_000)
    parser.add_argument("--program", type=Path, default=REPORT, help="report.py to measure")
    options = parser.parse_args()

    print("| what | CPU s | s | MB |\n|---|---|---|---|")
    if options.texts:
        number = options.num_instructions
        texts = real_texts(options.texts, 3 * number)
        with Server(model_of(texts), delay=DELAY) as server:
            command = [sys.executable, str(PROGRAM), "--provider", "local", "--model", "m"]
            command += ["--base-url", server.url + "/v1", "--num-instructions", str(number)]
            command += ["--concurrency", "16", "--work-dir", str(options.run), "--yes"]
            measured("the run", command)
    with tempfile.TemporaryDirectory() as place:
        page = Path(place) / "report.html"
        command = [sys.executable, str(options.program), "--work-dir", str(options.run)]
        for name in ("the report", "the same again"):
            measured(name, [*command, "--out", str(page)])
        print(f"{page.stat().st_size:,} bytes of HTML")


if __name__ == "__main__":
    main()
