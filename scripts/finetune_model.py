"""Step 4 of instruction backtranslation: finetune the base model on the pairs that were kept, and see it answer.

    python scripts/finetune_model.py --sample                  after the steps before: 20 s on any CPU
    python scripts/finetune_model.py                           Llama-2-7B; a GPU with 24 GB
    python scripts/finetune_model.py --seed-data data/guanaco_inverse.json      jointly with what people wrote

LoRA, loss on the answer alone, always from the base. With --seed-data both kinds of rows carry the paper's tags, a
sentence behind the instruction; asked later, the model gets both tags, as in the paper. At the end, questions of
--prompts that are not in the training are answered by the new model and by the base. To rate all pairs again with the
new model, the paper's second iteration, run self_curation.py with --model out/final.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts.training import shared as backtranslation
from scripts.training.shared import DATA, SAMPLE, SAMPLE_OUT, SEED_TAG, WEB_TAG, Row
from self_instruct_workshop import leave, one_line

FOR_SAMPLE = {"model": SAMPLE_OUT / "tiny", "data": SAMPLE_OUT / "curated_dataset.json", "out": SAMPLE_OUT / "final"}
FOR_SAMPLE |= {"seed_data": SAMPLE / "guanaco_train.jsonl", "prompts": SAMPLE / "lima_train.jsonl", "lr": 1e-2}
FOR_SAMPLE |= {"epochs": 5, "max_length": 256, "max_new_tokens": 32, "batch_size": 16}
CARD = """---
base_model: {base}
library_name: peft
license: cc-by-nc-sa-4.0
---
A LoRA adapter of {base}, trained on {examples} pairs made by instruction backtranslation (https://arxiv.org/abs/2308.06259)
from the answers of LIMA, whose licence is CC BY-NC-SA or stricter. The prompt:

{prompt}
"""


def finetune(options: argparse.Namespace) -> None:
    rows = backtranslation.read_rows(options.data)
    seed = backtranslation.read_rows(options.seed_data) if options.seed_data else []
    tags = (WEB_TAG, SEED_TAG) if seed else ("", "")
    lessons = [(row, tags[0]) for row in rows] + [(row, tags[1]) for row in seed]
    figures = backtranslation.train(options, lessons, backward=False)
    tag = f"{SEED_TAG} {WEB_TAG}" if seed else ""
    show(options, not_trained_on(options, rows + seed)[: options.show], tag)
    print(f"the adapter is in {options.out}")
    card = CARD.format(**figures, prompt=backtranslation.forward_prompt("(the instruction)", tag))
    backtranslation.push(options, "model", options.out, ["adapter_*", "*token*", "chat_template*"], card)


def not_trained_on(options: argparse.Namespace, rows: list[Row]) -> list[Row]:
    """The rows of --prompts of which neither the question nor the answer is in the training."""
    seen = {row[name] for row in rows for name in ("instruction", "original", "output")}
    found = [
        row for row in backtranslation.read_rows(options.prompts) if not seen & {row["instruction"], row["output"]}
    ]
    if not found:
        print(f"notice: every question of {options.prompts} was in the training: none is left to show", file=sys.stderr)
    return found


def show(options: argparse.Namespace, rows: list[Row], tag: str) -> None:
    """Answers of the new model beside those of its base."""
    tokenizer, room = backtranslation.load_tokenizer(options.model), options.max_length - options.max_new_tokens
    questions = [backtranslation.clip(tokenizer, backtranslation.question_of(row), room - 64) for row in rows]
    prompts = [backtranslation.forward_prompt(question, tag) for question in questions]
    answers = []
    for model in (str(options.out), options.model):
        asked = argparse.Namespace(**vars(options) | {"model": model})
        answers.append(backtranslation.generate(asked, "show", prompts, temperature=0.0))
    for row, ours, base in zip(rows, *answers, strict=True):
        print(f"not trained on: {one_line(row['instruction'])}")
        print(f"  finetuned  {one_line(ours.text)}\n  base       {one_line(base.text)}")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    data, out = DATA / "curated_dataset.json", Path("out/final")
    add = backtranslation.add_flags(parser, "meta-llama/Llama-2-7b-hf", data, out, batch=4, epochs=3)
    add("--seed-data", type=Path, help="pairs that people wrote, to train on as well [none]")
    add("--prompts", type=Path, default=DATA / "lima_single_turn.json", help="questions to show answers to")
    add("--show", type=backtranslation.positive, default=5, metavar="N", help="how many of them [5]")
    return backtranslation.main(parser, arguments, FOR_SAMPLE, finetune)


if __name__ == "__main__":
    leave(main())
