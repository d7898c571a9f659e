"""Step 1 of instruction backtranslation: train a base model to write the instruction that an answer answers.

    python scripts/inverse_sft.py --sample                     a tiny random model on our own rows: 20 s on any CPU
    python scripts/inverse_sft.py                              Llama-2-7B on Guanaco; a GPU with 24 GB
    python scripts/inverse_sft.py --model Qwen/Qwen3-0.6B-Base --out out/qwen       any base model

LoRA, loss on the instruction alone. Reads the first turns of OpenAssistant-Guanaco, which data/preprocessing.ipynb puts
into --data (a file of Guanaco's own shape does as well), and writes an adapter to --out. A run that was killed goes on
from its last checkpoint. At the end the model writes instructions for --eval-data, which it was not trained on, and for
as many rows of its training: ROUGE-L with what people asked, and exact matches. Works on one GPU, the first unless
CUDA_VISIBLE_DEVICES names another.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts import backtranslation, backtranslation_models
from scripts.backtranslation import DATA, SAMPLE, SAMPLE_OUT, Row, rouge_l
from self_instruct_workshop import leave, one_line

FOR_SAMPLE = {"model": SAMPLE_OUT / "tiny", "data": SAMPLE / "guanaco_train.jsonl", "out": SAMPLE_OUT / "backward"}
FOR_SAMPLE |= {"eval_data": SAMPLE / "guanaco_test.jsonl", "lr": 1e-2, "epochs": 24, "max_new_tokens": 48}
FOR_SAMPLE |= {"max_length": 256, "batch_size": 16}
CARD = """---
base_model: {base}
library_name: peft
datasets: [timdettmers/openassistant-guanaco]
---
A backward model: it writes the instruction to an answer (instruction backtranslation, https://arxiv.org/abs/2308.06259).
A LoRA adapter of {base}, trained by scripts/inverse_sft.py on {examples} pairs, loss on the instruction only.

Held-out rows: ROUGE-L {rouge:.3f}, exact {exact:.3f}. The prompt:

{prompt}
"""


def inverse_sft(options: argparse.Namespace) -> None:
    if options.sample:
        backtranslation_models.sample_model()
    rows, unseen = backtranslation.read_rows(options.data), backtranslation.read_rows(options.eval_data)
    figures = backtranslation_models.train(options, [(row, "") for row in rows], backward=True)
    unseen = unseen[: options.eval_rows]
    written = write_instructions(options, unseen + rows[: len(unseen)])
    rouge, exact = score("not trained on", unseen, written[: len(unseen)])
    score("trained on", rows, written[len(unseen) :])
    for row, text in list(zip(unseen, written, strict=False))[:5]:
        print(f"  asked    {one_line(row['instruction'])}\n  written  {one_line(text)}")
    print(f"the adapter is in {options.out}")
    card = CARD.format(**figures, rouge=rouge, exact=exact, prompt=backtranslation.backward_prompt("(the answer)"))
    backtranslation.push(options, "model", options.out, ["adapter_*", "*token*", "chat_template*"], card)


def write_instructions(options: argparse.Namespace, rows: list[Row]) -> list[str]:
    """The likeliest instruction for each answer, from the model just trained."""
    options = argparse.Namespace(**{**vars(options), "model": str(options.out)})
    prompts = backtranslation_models.backward_prompts(options, rows)
    return [reply.text for reply in backtranslation_models.generate(options, "held-out", prompts, temperature=0.0)]


def score(name: str, rows: list[Row], written: list[str]) -> tuple[float, float]:
    """Mean ROUGE-L F1 with what people asked, and the share of exact copies."""
    pairs = [(row["instruction"], text) for row, text in zip(rows, written, strict=False)]
    rouge = sum(rouge_l(*pair) for pair in pairs) / len(pairs)
    exact = sum(one == other for one, other in pairs) / len(pairs)
    print(f"{name}: {len(pairs)} rows, ROUGE-L {rouge:.3f}, exact {exact:.3f}")
    return rouge, exact


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = backtranslation.add_flags(
        parser, "meta-llama/Llama-2-7b-hf", DATA / "guanaco_inverse.json", Path("out/backward"), batch=4
    )
    backtranslation.add_training_flags(add, epochs=2)
    add(
        "--eval-data",
        type=Path,
        default=DATA / "guanaco_inverse_test.json",
        help="held-out rows [Guanaco's test split]",
    )
    add("--eval-rows", type=backtranslation.at_least(1), default=518, metavar="N", help="how many of them [518: all]")
    return backtranslation.main(parser, arguments, FOR_SAMPLE, inverse_sft)


if __name__ == "__main__":
    leave(main())
