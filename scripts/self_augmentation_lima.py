"""Step 2 of instruction backtranslation: write an instruction for each of 150 answers of LIMA with the backward model.

    python scripts/self_augmentation_lima.py --sample          after inverse_sft.py --sample: 10 s on any CPU
    python scripts/self_augmentation_lima.py                   out/backward on LIMA; minutes on a GPU
    vllm serve meta-llama/Llama-2-7b-hf --enable-lora --lora-modules backward=out/backward
    python scripts/self_augmentation_lima.py --base-url http://localhost:8000/v1 --model backward

Multi-turn rows are left out; a file of answers alone, {"output": ...} a line, does as well. Each row of --out keeps
LIMA's row number, `id`, and its question, `original`, beside the `instruction` that the model wrote. Empty instructions
are left out; duplicates, copies from the answer and overlong ones are counted and stay: whether they are good is for
step 3 to say. Every reply is on disk as soon as it is there, so the same command goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts.training import shared as backtranslation
from scripts.training.shared import DATA, SAMPLE, SAMPLE_OUT, Row
from self_instruct_workshop import Reply, UsageError, WorkshopError, leave, one_line

FOR_SAMPLE = {"model": SAMPLE_OUT / "backward", "data": SAMPLE / "lima_train.jsonl", "count": 20}
FOR_SAMPLE |= {"out": SAMPLE_OUT / "self_augmented.json", "max_new_tokens": 48, "max_length": 256}
LONG = 800  # characters; of 150 instructions sampled at temperature 1.2 by others, 5 were longer than 1,000


def augment(options: argparse.Namespace) -> int:
    if backtranslation.trained(options.model).get("direction") == "forward":
        raise UsageError(f"--model {options.model} was trained to answer: give the backward model of inverse_sft.py")
    rows = backtranslation.read_rows(options.data, answers_do=True)
    if len(rows) < options.count:
        print(f"notice: only {len(rows)} rows to draw from, not {options.count}", file=sys.stderr)
    rows = random.Random(options.seed).sample(rows, min(options.count, len(rows)))
    prompts = backtranslation.prompts_for(options, rows, lambda row, answer: backtranslation.backward_prompt(answer))
    replies = backtranslation.generate(options, "augment", prompts, options.temperature)
    made = [(with_instruction(row, reply), reply) for row, reply in zip(rows, replies, strict=True) if reply]
    kept = [row for row, _ in made if row["instruction"]]
    report(made, kept)
    if not kept:
        raise WorkshopError(f"{options.model} wrote no instruction at all: is it the model of inverse_sft.py?")
    backtranslation.write(options.out, kept)
    print(f"{len(kept)} rows in {options.out}")
    backtranslation.push(options, "dataset", options.out.parent, [options.out.name], backtranslation.LIMA_CARD)
    return 3 if None in replies else 0


def with_instruction(row: Row, reply: Reply) -> Row:
    return {**row, "instruction": reply.text.strip(), "input": "", "original": backtranslation.question_of(row)}


def problems(row: Row, reply: Reply, often: Counter[str]) -> list[str]:
    """What is odd about an instruction; a copy is found whatever its capitals and spaces."""
    text = plain(row["instruction"])
    found = {
        "empty": not text,
        "duplicate": bool(text) and often[text] > 1,
        "copied from the answer": bool(text) and text in plain(row["output"]),
        f"over {LONG} characters, or cut": len(row["instruction"]) > LONG or reply.cut,
        "what the person asked": bool(text) and text == plain(row["original"]),
    }
    return [name for name, is_so in found.items() if is_so]


def plain(text: str) -> str:
    return " ".join(text.casefold().split())


def report(made: list[tuple[Row, Reply]], kept: list[Row]) -> None:
    often = Counter(plain(row["instruction"]) for row, _ in made)
    names = Counter(name for row, reply in made for name in problems(row, reply, often))
    print(f"{len(made)} instructions: " + ", ".join(f"{n} {name}" for name, n in names.most_common()))
    for row in kept[:5]:
        print(f"  asked    {one_line(row['original'])}\n  written  {one_line(row['instruction'])}")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    data, out = DATA / "lima_single_turn.json", DATA / "self_augmented.json"
    add = backtranslation.add_flags(parser, "out/backward", data, out, batch=16)
    add("--count", type=backtranslation.positive, default=150, metavar="N", help="answers to draw [150]")
    add("--temperature", type=float, default=0.7, metavar="X", help="0: the likeliest (paper: 0.7) [0.7]")
    add("--base-url", default="", metavar="URL", help="a server of /v1/completions that has the backward model")
    return backtranslation.main(parser, arguments, FOR_SAMPLE, augment)


if __name__ == "__main__":
    leave(main())
