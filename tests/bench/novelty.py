"""How long the novelty filter takes over a file of instructions: exact, ROUGE-L at most 0.7.

    python tests/bench/novelty.py instructions.jsonl

The file is .jsonl with "instruction" in each line, or .txt, one a line.

In the same run it times rouge_score's own scorer on a sample of the pairs, and compares the scores:
they must be equal. Beyond ASCII, where rouge_score sees nothing by itself, it is given this
project's tokens. The bounds are 60 s for 52,000 instructions, and 1,000 times less per pair than
rouge_score needs.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import sys
import time
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import self_instruct_workshop as workshop
from self_instruct_workshop import Config, InstructionPool, tokenize

SECONDS, TIMES, SAMPLE = 60.0, 1000.0, 2000


def read(path: Path) -> list[str]:
    lines = [line for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    return [json.loads(line)["instruction"] if path.suffix == ".jsonl" else line for line in lines]


def novel(instructions: list[str], threshold: float) -> tuple[InstructionPool, int]:
    """The greedy filter: each instruction against all kept before it. Return the pool and the
    number of pairs."""
    pool, pairs = InstructionPool(), 0
    for instruction, scores in workshop.in_blocks(pool, instructions):
        pairs += len(scores)
        if not len(scores) or scores.max() <= threshold:
            pool.add(instruction)
    return pool, pairs


class Tokens:
    """This project's tokens, in the shape that rouge_score takes."""

    def tokenize(self, text: str) -> list[str]:
        return tokenize(text)


def compare(pool: InstructionPool, instructions: list[str]) -> tuple[float, int, float]:
    """Return rouge_score's seconds per pair on a sample, how many pairs were ASCII, and the largest
    difference."""
    from rouge_score.rouge_scorer import RougeScorer

    its_own, with_ours = RougeScorer(["rougeL"]), RougeScorer(["rougeL"], tokenizer=Tokens())
    dice, seconds, differences, plain = random.Random(0), 0.0, [], 0
    for _ in range(SAMPLE):
        candidate, neighbour = dice.choice(instructions), dice.choice(pool.instructions)
        scorer = its_own if (candidate + neighbour).isascii() else with_ours
        plain += scorer is its_own
        begun = time.perf_counter()
        expected = scorer.score(neighbour, candidate)["rougeL"].fmeasure
        seconds += time.perf_counter() - begun
        one = InstructionPool()
        one.add(neighbour)
        differences.append(abs(float(one.similarities([candidate])[0, 0]) - expected))
    return seconds / SAMPLE, plain, max(differences)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", type=Path, help="instructions, as .jsonl or .txt")
    path = parser.parse_args().file
    packages = ", ".join(
        f"{name} {version(name)}" for name in ("rapidfuzz", "rouge-score", "numpy", "regex")
    )
    print(f"on {os.cpu_count()} CPUs, Python {platform.python_version()}, {packages}")
    instructions, threshold = read(path), Config().rouge_threshold
    novel(instructions[:100], threshold)  # imports are not what is measured
    begun, cpu = time.perf_counter(), time.process_time()
    pool, pairs = novel(instructions, threshold)
    seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
    print(
        f"{path.name}: {len(instructions)} instructions, {len(pool)} kept, "
        f"at most {threshold} alike"
    )
    print(
        f"{seconds:.1f} s ({cpu:.1f} s of CPU time), {pairs} pairs, "
        f"{pairs / seconds / 1e6:.1f} million a second"
    )
    theirs, plain, difference = compare(pool, instructions)
    ours = seconds / pairs
    ratio = theirs / ours
    print(
        f"a pair: {ours * 1e9:.1f} ns here, {theirs * 1e6:.1f} us with rouge_score: "
        f"{ratio:.0f} times less"
    )
    print(
        f"largest difference to rouge_score on {SAMPLE} pairs, {plain} of them ASCII: "
        f"{difference:.1e}"
    )
    good = seconds <= SECONDS and ratio >= TIMES and difference < 1e-12
    print(
        f"{'within' if good else 'NOT WITHIN'} the bounds of {SECONDS:.0f} s and {TIMES:.0f} times"
    )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
