"""Step 4 of instruction backtranslation: finetune the base model on the pairs that were kept, and
see it answer.

    python scripts/finetune_model.py --sample        after the steps before: 20 s on any CPU
    python scripts/finetune_model.py                 Llama-2-7B; a GPU with 24 GB
    python scripts/finetune_model.py --seed-data data/guanaco_inverse.json
    python scripts/finetune_model.py --data data/finetuning/messages --model MODEL

The third command trains on what people wrote as well, the last one on a folder that
prepare_for_finetuning.py has written.

It trains a LoRA adapter, and takes the loss on the answer alone. It always begins with the
base model.

With --seed-data, each row of both kinds carries one of the paper's two tags, a sentence behind
the instruction. Later, a question carries both tags, as in the paper.

At the end, the new model and its base answer questions of --prompts that are not in the
training. To rate all pairs again with the new model, as the paper does in its second
iteration, run self_curation.py with --model out/final.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts.asking.parser import Parser
from scripts.training import cards, shapes
from scripts.training import shared as backtranslation
from scripts.training.shared import DATA, SAMPLE, SAMPLE_OUT, SEED_TAG, WEB_TAG, Row
from self_instruct_workshop import leave, one_line

PROMPTS = DATA / "lima_single_turn.json"  # where --prompts and a held-out part are missing
FOR_SAMPLE = {
    "model": SAMPLE_OUT / "tiny",
    "data": SAMPLE_OUT / "curated_dataset.json",
    "out": SAMPLE_OUT / "final",
    "seed_data": SAMPLE / "guanaco_train.jsonl",
    "prompts": SAMPLE / "lima_train.jsonl",
    "lr": 1e-2,
    "epochs": 5,
    "max_length": 256,
    "max_new_tokens": 32,
    "batch_size": 16,
}


def finetune(options: argparse.Namespace) -> None:
    # The pairs of step 3, with --seed-data the pairs that people wrote, and what is to be shown.
    rows = backtranslation.read_rows(options.data)
    seed = backtranslation.read_rows(options.seed_data) if options.seed_data else []
    web_tag = WEB_TAG if seed else ""
    both = f"{SEED_TAG} {WEB_TAG}" if seed else ""
    lessons = [(row, web_tag) for row in rows] + [(row, SEED_TAG) for row in seed]
    new = not_trained_on(options, rows + seed)

    # Train, and show answers to questions that are new to the model.
    figures = backtranslation.train(options, lessons, backward=False)
    show(options, new[: options.show], both)
    print(f"the adapter is in {options.out}")

    # Upload the adapter where --push-to says.
    sets = [(cards.about(shapes.train_file(options.data)), rows)]
    if seed:
        sets.append((cards.about(shapes.train_file(options.seed_data)), seed))
    prompt = backtranslation.forward_prompt("(the instruction)", both)
    said = [f"The prompt:\n\n```text\n{prompt}```"]
    card = cards.model_card(figures, sets, "A model that answers instructions", said)
    backtranslation.push(options, "model", options.out, cards.ADAPTER, card)


def prompts_file(options: argparse.Namespace) -> Path | None:
    """Where questions to show come from: --prompts, a folder's held-out part, or LIMA.

    None, with a notice, where there is neither. It is said before the training.
    """
    if options.prompts:
        return options.prompts
    held_out = shapes.held_out_file(options.data)
    if held_out or PROMPTS.is_file():
        return held_out or PROMPTS
    said = f"{PROMPTS} is not there: no answers are shown at the end"
    print(f"notice: {said}; --prompts FILE names questions", file=sys.stderr)
    return None


def not_trained_on(options: argparse.Namespace, rows: list[Row]) -> list[Row]:
    """The rows of --prompts of which neither question nor answer is in the training."""
    # All texts of the training.
    seen = set()
    for row in rows:
        seen |= {row["instruction"], row["original"], row["output"]}

    # The rows without one of these texts.
    path = prompts_file(options)
    if path is None:
        return []
    found = []
    for row in backtranslation.read_rows(path):
        if not seen & {row["instruction"], row["output"]}:
            found.append(row)
    if not found:
        said = f"every question of {path} is in the training"
        print(f"notice: {said}: none is left to show", file=sys.stderr)
    return found


def show(options: argparse.Namespace, rows: list[Row], tag: str) -> None:
    """Print answers of the new model beside answers of its base."""
    if not rows:
        return

    # Clip the questions. 64 tokens are enough for the template and the tags.
    tokenizer = backtranslation.load_tokenizer(options.model)
    room = options.max_length - options.max_new_tokens - 64
    prompts = []
    for row in rows:
        question = backtranslation.question_of(row)
        clipped = backtranslation.clip(tokenizer, question, room)
        prompts.append(backtranslation.forward_prompt(clipped, tag))

    # Ask both models, one after the other.
    answers = []
    for model in (str(options.out), options.model):
        asked = argparse.Namespace(**vars(options) | {"model": model})
        replies = backtranslation.generate(asked, "show", prompts, temperature=0.0)
        answers.append(replies)

    # Print.
    for row, ours, base in zip(rows, *answers, strict=True):
        print(f"not trained on: {one_line(row['instruction'])}")
        print(f"  finetuned  {one_line(ours.text)}")
        print(f"  base       {one_line(base.text)}")


def main(arguments: list[str] | None = None) -> int:
    # The flags that all four steps have.
    parser = Parser(description=(__doc__ or "").split("\n\n")[0])
    base = "meta-llama/Llama-2-7b-hf"
    data = DATA / "curated_dataset.json"
    out = Path("out/final")
    add = backtranslation.add_flags(parser, base, data, out, batch=4, epochs=3)

    # The flags of this step.
    count = backtranslation.positive
    seed_text = "pairs that people wrote, to train on as well [none]"
    add("--seed-data", type=Path, help=seed_text)
    shown = f"questions to show answers to [a folder's held-out part, or {PROMPTS.name}]"
    add("--prompts", type=Path, help=shown)
    add("--show", type=count, default=5, metavar="N", help="how many of them [5]")
    return backtranslation.main(parser, arguments, FOR_SAMPLE, finetune)


if __name__ == "__main__":
    leave(main())
