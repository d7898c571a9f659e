"""Step 2 of instruction backtranslation: write an instruction for each of 150 answers of LIMA
with the backward model.

    python scripts/self_augmentation_lima.py --sample    after step 1 --sample: 10 s on any CPU
    python scripts/self_augmentation_lima.py             out/backward on LIMA; minutes on a GPU

With a server, in two shells:

    vllm serve meta-llama/Llama-2-7b-hf --enable-lora --lora-modules backward=out/backward
    python scripts/self_augmentation_lima.py --base-url http://localhost:8000/v1 --model backward

Multi-turn rows are left out. A file of answers alone, {"output": ...} a line, works, too.
Each row of --out has the `instruction` that the model wrote. It keeps LIMA's row number, `id`,
and LIMA's question, `original`.

The model must be one of step 1: another one is refused, unless --anyway says that you mean it. Of a
server's model nobody knows what it is; so what it writes is put beside a copy of the answer.

Empty instructions are left out. Duplicates, copies from the answer and very long instructions
are counted and stay: step 3 says whether they are good.

Every reply is on disk as soon as it is there. After an interruption, the same command goes on.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts.asking.parser import Parser
from scripts.training import anchors, cards, shapes
from scripts.training import shared as backtranslation
from scripts.training.shared import DATA, SAMPLE, SAMPLE_OUT, Row
from self_instruct_workshop import Reply, UsageError, WorkshopError, leave, one_line

FOR_SAMPLE = {
    "model": SAMPLE_OUT / "backward",
    "data": SAMPLE / "lima_train.jsonl",
    "count": 20,
    "out": SAMPLE_OUT / "self_augmented.json",
    "max_new_tokens": 48,
    "max_length": 256,
}

# Characters. Others sampled 150 instructions at temperature 1.2: 5 were longer than 1,000.
LONG = 800
SIDES = ("original", "instruction", "output")


def augment(options: argparse.Namespace) -> int:
    # Write an instruction for each answer that is drawn.
    check_direction(options.model)
    rows = draw(options)
    prompts = backtranslation.prompts_for(options, rows, prompt_of)
    check_trained(options)
    replies = backtranslation.generate(options, "augment", prompts, options.temperature)

    # Put the pairs together. An answer without a reply is left out.
    pairs = zip(rows, replies, strict=True)
    made = [(with_instruction(row, reply), reply) for row, reply in pairs if reply]
    kept = [row for row, _ in made if row["instruction"]]
    report(made, kept)
    if not kept:
        problem = f"{options.model} wrote no instruction at all"
        raise WorkshopError(f"{problem}: is it the model of inverse_sft.py?")

    # Write them, and upload them where --push-to says.
    backtranslation.write(options.out, kept)
    known = cards.about(shapes.train_file(options.data))
    writer = cards.public_name(options.model or "a server's model")
    cards.note(options.out, sources=known["sources"], instructions="model", writer=writer)
    print(f"{len(kept)} rows in {options.out}")
    names = [options.out.name]
    backtranslation.push(options, "dataset", options.out.parent, names, card_of(options, kept))
    return 3 if None in replies else 0


def card_of(options: argparse.Namespace, rows: list[Row]) -> str:
    """What was drawn from where, and who wrote the instructions."""
    known = cards.about(options.out) | {"file": options.data.name}
    said = [f"The instructions were written by {known['writer']}; nobody has rated them yet."]
    return cards.dataset_card({"augmented": options.out.name}, known, rows, said)


def check_direction(model: str) -> None:
    """Raise UsageError for a model that was trained to answer."""
    if backtranslation.trained(model).get("direction") == "forward":
        advice = "give the backward model of inverse_sft.py"
        raise UsageError(f"--model {model} was trained to answer: {advice}")


def check_trained(options: argparse.Namespace) -> None:
    """Raise UsageError for a model that is no backward model; say where it has learnt nothing.

    Nothing is known of a server's model.
    """
    note = backtranslation.trained(options.model)
    if backtranslation.served(options):
        return
    if note.get("direction") != "backward" and not options.anyway:
        problem = f"--model {options.model} was not trained by inverse_sft.py to write instructions"
        raise UsageError(f"{problem}: give its --out, or --anyway to ask this one as it is")
    held_out = note.get("held_out")
    if held_out and not held_out["learnt"]:
        said = f"step 1 could not tell {options.model} from its untrained base"
        print(f"notice: {said}: its instructions may say nothing of the answers", file=sys.stderr)


def draw(options: argparse.Namespace) -> list[Row]:
    """--count rows of --data, at random."""
    rows = backtranslation.read_rows(options.data, answers_do=True)
    if len(rows) < options.count:
        said = f"only {len(rows)} rows to draw from, not {options.count}"
        print(f"notice: {said}", file=sys.stderr)
    count = min(options.count, len(rows))
    return random.Random(options.seed).sample(rows, count)


def prompt_of(row: Row, answer: str) -> str:
    return backtranslation.backward_prompt(answer)


def with_instruction(row: Row, reply: Reply) -> Row:
    """The row with the new instruction. What a person asked is kept as `original`."""
    new = {"instruction": reply.text.strip(), "input": ""}
    return {**row, **new, "original": backtranslation.question_of(row)}


def report(made: list[tuple[Row, Reply]], kept: list[Row]) -> None:
    """Count what is odd about the instructions, and show some of them."""
    # How often does each instruction, and each problem, occur?
    often = Counter(plain(row["instruction"]) for row, _ in made)
    found: Counter[str] = Counter()
    for row, reply in made:
        found.update(problems(row, reply, often))

    # Print the counts and five pairs.
    counts = [f"{count} {name}" for name, count in found.most_common()]
    print(f"{len(made)} instructions: " + ", ".join(counts))
    for row in kept[:5]:
        print(f"  asked    {one_line(row['original'])}")
        print(f"  written  {one_line(row['instruction'])}")
    with_question = [row for row in kept if row["original"]]
    if len(with_question) > 1:
        parts = [[row[name] for row in with_question] for name in SIDES]
        print(anchors.near_to_question(*parts))


def problems(row: Row, reply: Reply, often: Counter[str]) -> list[str]:
    """What is odd about an instruction. A copy is found whatever its capitals and spaces."""
    # What is wrong with an empty text is that it is empty, and nothing else.
    text = plain(row["instruction"])
    some = bool(text)
    long = len(row["instruction"]) > LONG or reply.cut
    found = {
        "empty": not some,
        "duplicate": some and often[text] > 1,
        "copied from the answer": some and text in plain(row["output"]),
        f"over {LONG} characters, or cut": long,
        "what the person asked": some and text == plain(row["original"]),
    }
    return [name for name, is_so in found.items() if is_so]


def plain(text: str) -> str:
    return " ".join(text.casefold().split())


def main(arguments: list[str] | None = None) -> int:
    # The flags that all four steps have.
    parser = Parser(description=(__doc__ or "").split("\n\n")[0])
    data = DATA / "lima_single_turn.json"
    out = DATA / "self_augmented.json"
    add = backtranslation.add_flags(parser, "out/backward", data, out, batch=16)

    # The flags of this step.
    count = backtranslation.positive
    likeliest = "0: the likeliest (paper: 0.7) [0.7]"
    server = "a server of /v1/completions that has the backward model"
    add("--count", type=count, default=150, metavar="N", help="answers to draw [150]")
    add("--temperature", type=float, default=0.7, metavar="X", help=likeliest)
    anyway = "ask a model that is not known to be a backward model"
    add("--anyway", action="store_true", help=anyway)
    backtranslation.add_server_flags(parser, server)
    return backtranslation.main(parser, arguments, FOR_SAMPLE, augment)


if __name__ == "__main__":
    leave(main())
