"""What it costs to find out which instructions are novel: ROUGE-L at most 0.7 with all before them.

    python tests/bench/novelty.py instructions.jsonl
    python tests/bench/novelty.py instructions.jsonl --sizes 13000 52000 139000 --ways decisions
    python tests/bench/novelty.py instructions.jsonl --ways all_pairs lsh processes

The file is .jsonl with "instruction" in each line, or .txt, one a line. A size above that of the
file is filled with recombined instructions: the first half of one, the second half of another
(tests/helpers/many_texts.py). Every way runs in a process of its own, on one core; what is given
is its CPU time and the most memory it held. "start" is what imports, compiled parts (made once,
then read from a file) and the first 1,500 texts take: it comes on top. Ways:

    decisions   which are kept, and the evidence of the others, as `compared` finds them
    run         the same as a run does it, by replies of eight, with ten nearest and mean
    compiled, compiled_run   the two with scripts/scale (scripts/requirements-scale.txt)
    all_pairs, all_pairs_run every pair, in blocks: the way of the lesson, to compare with
    rouge_score its own scorer, over a sample of the pairs
    processes   the official code: one process per core, all pairs of a candidate shared among them
    lsh         MinHash LSH (datasketch), with what it misses and what it drops wrongly

The scores of the sample must be those of rouge_score. Beyond ASCII, where it sees nothing by
itself, it is given this project's tokens.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from helpers.many_texts import recombined

import self_instruct_workshop as workshop
from self_instruct_workshop import Config, InstructionPool, Reply, Results, tokenize

SAMPLE = 2000  # pairs, for rouge_score
CANDIDATES = 3  # for the official way: each takes seconds
BOUNDS = {  # seconds of CPU time for a size: where a way takes longer, the bench fails
    ("decisions", 52_000): 6.0,
    ("compiled", 52_000): 3.0,
    ("compiled", 139_000): 10.0,
    ("compiled", 1_000_000): 150.0,
    ("compiled_run", 52_000): 15.0,
}


def read(path: Path) -> list[str]:
    lines = [line for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    return [json.loads(line)["instruction"] if path.suffix == ".jsonl" else line for line in lines]


# --------------------------------------------------------------------------------------------------
# The ways. Each takes instructions and a threshold, and returns the pool and a number, or figures.


def novel(instructions: list[str], threshold: float) -> tuple[InstructionPool, int]:
    """The greedy choice: each instruction against all kept before it. Return the pool and the
    number of pairs that this decides about."""
    pool, pairs = InstructionPool(), 0
    limit = workshop.RECIPES[pool.recipe].highest_score(threshold)
    for instruction, nearest in workshop.compared(pool, instructions, limit):
        pairs += len(pool)
        if nearest is None:
            pool.add(instruction)
    return pool, pairs


def as_a_run(instructions: list[str], threshold: float) -> tuple[InstructionPool, int]:
    """By `take_candidates`, eight a reply; its rules of form are left out: all are candidates."""
    config = Config(10**9, provider="practice", rouge_threshold=threshold)
    pool, results = InstructionPool(), Results()
    pool.add("A seed task.")
    plain = workshop.replace(workshop.RECIPES["modern"], instruction_problem=lambda text: "")
    workshop.RECIPES["modern"] = plain
    with workshop.neighbours_in_bulk(pool, results):
        for start in range(0, len(instructions), 8):
            reply = Reply("", "stop", prompt="1. A seed task.\n2.")
            workshop.read_candidates = partial(listed, instructions[start : start + 8])
            workshop.take_candidates(config, pool, reply, start // 8, results)
    return pool, len(results.rejected)


def listed(instructions: list[str], recipe: object, reply: Reply) -> tuple[list[str], list[str]]:
    """As `read_candidates`: the candidates of a reply, and none that was cut off."""
    return instructions, []


def compiled(instructions: list[str], threshold: float) -> tuple[InstructionPool, int]:
    return with_parts(novel, instructions, threshold)


def compiled_run(instructions: list[str], threshold: float) -> tuple[InstructionPool, int]:
    return with_parts(as_a_run, instructions, threshold)


def with_parts(way: Callable, instructions: list[str], threshold: float) -> tuple:
    from scripts.scale import compiled as parts

    parts.use()
    return way(instructions, threshold)


def all_pairs(instructions: list[str], threshold: float) -> tuple[InstructionPool, int]:
    """Every pair, in blocks of 64."""
    pool, pairs = InstructionPool(), 0
    limit = workshop.RECIPES[pool.recipe].highest_score(threshold)
    for instruction, scores in workshop.in_blocks(pool, instructions):
        pairs += len(scores)
        if not len(scores) or scores.max() <= limit:
            pool.add(instruction)
    return pool, pairs


def all_pairs_run(instructions: list[str], threshold: float) -> tuple[InstructionPool, int]:
    """Every pair, in blocks of a reply, with ten nearest and mean of each that is kept."""
    pool, kept = InstructionPool(), 0
    limit = workshop.RECIPES[pool.recipe].highest_score(threshold)
    for start in range(0, len(instructions), 8):
        for instruction, scores in workshop.in_blocks(pool, instructions[start : start + 8]):
            near = pool.top(scores)
            if not near or near[0][1] <= limit:
                kept += bool(near) and scores.mean() >= 0
                pool.add(instruction)
    return pool, kept


class Tokens:
    """This project's tokens, in the shape that rouge_score takes."""

    def tokenize(self, text: str) -> list[str]:
        return tokenize(text)


def sampled(instructions: list[str]) -> Iterator[tuple[str, str]]:
    dice = random.Random(0)
    for _ in range(SAMPLE):
        yield dice.choice(instructions), dice.choice(instructions)


def rouge_score(instructions: list[str], threshold: float) -> dict:
    """What its loop would take for all pairs, from a sample, and the largest difference to it."""
    from rouge_score.rouge_scorer import RougeScorer

    its_own, with_ours = RougeScorer(["rougeL"]), RougeScorer(["rougeL"], tokenizer=Tokens())
    seconds, differences = 0.0, []
    for candidate, neighbour in sampled(instructions):
        scorer = its_own if (candidate + neighbour).isascii() else with_ours
        begun = time.process_time()
        expected = scorer.score(neighbour, candidate)["rougeL"].fmeasure
        seconds += time.process_time() - begun
        one = InstructionPool()
        one.add(neighbour)
        differences.append(abs(float(one.similarities([candidate])[0, 0]) - expected))
    pairs = len(instructions) ** 2 / 2
    return {"seconds": seconds / SAMPLE * pairs, "difference": max(differences)}


def processes(instructions: list[str], threshold: float) -> dict:
    """The official code's way, for a few candidates at the end: CPU seconds a candidate."""
    from multiprocessing import Pool

    from rouge_score.rouge_scorer import _score_lcs

    known = [tokenize(text, recipe="paper") for text in instructions]
    begun = sum(os.times()[:4])  # with those of the processes that ended
    for tokens in known[-CANDIDATES:]:
        with Pool(os.cpu_count()) as workers:
            workers.map(partial(_score_lcs, tokens), known)
            workers.close()
            workers.join()
    return {"seconds_a_candidate": (sum(os.times()[:4]) - begun) / CANDIDATES}


def lsh(instructions: list[str], threshold: float) -> dict:
    """MinHash of 128 numbers. ROUGE-L above 0.7 makes a Jaccard of tokens above 0.538, so that is
    its threshold, and what it finds is not compared further: that is how it is used."""
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(threshold=threshold / (2 - threshold), num_perm=128)
    dropped = set()
    begun = time.process_time()
    for place, text in enumerate(instructions):
        sketch = MinHash(num_perm=128)
        sketch.update_batch([token.encode() for token in set(tokenize(text))])
        if index.query(sketch):
            dropped.add(place)
        else:
            index.insert(place, sketch)
    seconds = time.process_time() - begun

    pool, away = InstructionPool(), set()
    limit = workshop.RECIPES["modern"].highest_score(threshold)
    for place, (text, nearest) in enumerate(workshop.compared(pool, instructions, limit)):
        if nearest:
            away.add(place)
        else:
            pool.add(text)
    wrongly = {"missed": len(away - dropped), "dropped_wrongly": len(dropped - away)}
    return {"seconds": seconds, "kept": len(instructions) - len(dropped)} | wrongly


WAYS = {
    "decisions": novel,
    "run": as_a_run,
    "compiled": compiled,
    "compiled_run": compiled_run,
    "all_pairs": all_pairs,
    "all_pairs_run": all_pairs_run,
    "rouge_score": rouge_score,
    "processes": processes,
    "lsh": lsh,
}


# --------------------------------------------------------------------------------------------------
# Measuring.


def measure(name: str, instructions: list[str], threshold: float) -> dict:
    """One way in this process."""
    way = WAYS[name]
    if name in ("rouge_score", "processes", "lsh"):
        found = way(instructions, threshold)
    else:
        begun = cpu_seconds()
        way(instructions[:1500], threshold)  # imports and compiling are measured by themselves
        ready = cpu_seconds()
        pool, number = way(instructions, threshold)
        found = {"seconds": cpu_seconds() - ready, "kept": len(pool), "number": number}
        found["start"] = ready - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return found | {"megabytes": round(peak / (2**20 if sys.platform == "darwin" else 2**10))}


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def in_own_process(name: str, path: Path, size: int, threshold: float) -> dict:
    command = [sys.executable, __file__, str(path), "--sizes", str(size), "--ways", name]
    command += ["--threshold", str(threshold), "--here"]
    one_core = dict.fromkeys(("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
    done = subprocess.run(
        command, env=os.environ | one_core, stdout=subprocess.PIPE, check=True, encoding="utf-8"
    )
    return json.loads(done.stdout)


def faults(name: str, size: int, found: dict) -> list[str]:
    """What is not as it must be."""
    bound = BOUNDS.get((name, size), math.inf)
    seconds = found.get("seconds", 0.0)
    wrong = [f"{name}: over {bound:.0f} s for {size}"] if seconds > bound else []
    if found.get("difference", 0.0) > 1e-12:
        wrong.append(f"{name}: not the scores of rouge_score")
    return wrong


def packages() -> str:
    names = []
    for name in ("numpy", "rapidfuzz", "rouge-score", "numba", "datasketch"):
        try:
            names.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            names.append(f"no {name}")
    return ", ".join(names)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", type=Path, help="instructions, as .jsonl or .txt")
    parser.add_argument("--sizes", type=int, nargs="+", help="numbers of instructions")
    ways = ["decisions", "run", "rouge_score"]
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=ways, help="see above")
    parser.add_argument("--threshold", type=float, default=Config().rouge_threshold)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    texts = read(options.file)
    sizes = options.sizes or [len(texts)]
    if options.here:
        instructions = recombined(texts, sizes[0])
        print(json.dumps(measure(options.ways[0], instructions, options.threshold)))
        return 0

    print(f"on {os.cpu_count()} CPUs, Python {platform.python_version()}, {packages()}")
    wrong = []
    for name in options.ways:
        seconds = []
        for size in sizes:
            found = in_own_process(name, options.file, size, options.threshold)
            shown = {key: round(value, 16) for key, value in found.items()}
            print(f"{name:13} {size:9,}  {json.dumps(shown)}", flush=True)
            seconds.append(found.get("seconds", 0.0))
            wrong += faults(name, size, found)
        if len(sizes) > 1 and seconds[0]:
            exponent = math.log(seconds[-1] / seconds[0]) / math.log(sizes[-1] / sizes[0])
            print(f"{name:13} grows by the size to the power of {exponent:.2f}", flush=True)
    print("\n".join(wrong) or "within the bounds")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
