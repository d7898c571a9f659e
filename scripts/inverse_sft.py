"""Step 1 of instruction backtranslation: train a base model to write the instruction that
an answer answers.

    python scripts/inverse_sft.py --sample      a tiny random model, our own rows: 20 s on any CPU
    python scripts/inverse_sft.py               Llama-2-7B on Guanaco; a GPU with 24 GB
    python scripts/inverse_sft.py --model Qwen/Qwen3-0.6B-Base --out out/qwen       any base model

It trains a LoRA adapter, and takes the loss on the instruction alone.

--data    the first turns of OpenAssistant-Guanaco; data/preprocessing.ipynb makes this file.
          A file of Guanaco's own shape works, too.
--out     the adapter. A run that was killed goes on from its last checkpoint.

At the end the model writes instructions for the rows of --eval-data, which it was not trained
on, and for as many rows of its training. It prints ROUGE-L with what people asked, and the
share of exact matches.

It uses one GPU: the first, unless CUDA_VISIBLE_DEVICES names another.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts.asking.parser import Parser
from scripts.training import shared as backtranslation
from scripts.training.measure import rouge_l
from scripts.training.shared import DATA, SAMPLE, SAMPLE_OUT, Row
from self_instruct_workshop import leave, one_line

FOR_SAMPLE = {
    "model": SAMPLE_OUT / "tiny",
    "data": SAMPLE / "guanaco_train.jsonl",
    "out": SAMPLE_OUT / "backward",
    "eval_data": SAMPLE / "guanaco_test.jsonl",
    "lr": 1e-2,
    "epochs": 24,
    "max_new_tokens": 48,
    "max_length": 256,
    "batch_size": 16,
}
CARD = """---
base_model: {base}
library_name: peft
datasets: [timdettmers/openassistant-guanaco]
---
A backward model: it writes the instruction to an answer \
(instruction backtranslation, https://arxiv.org/abs/2308.06259).
A LoRA adapter of {base}, trained by scripts/inverse_sft.py on {examples} pairs, \
loss on the instruction only.

Held-out rows: ROUGE-L {rouge:.3f}, exact {exact:.3f}. The prompt:

{prompt}
"""


def inverse_sft(options: argparse.Namespace) -> None:
    # Train. --sample first builds its tiny model.
    if options.sample:
        sample_model(SAMPLE_OUT / "tiny")
    rows = backtranslation.read_rows(options.data)
    unseen = backtranslation.read_rows(options.eval_data)[: options.eval_rows]
    figures = backtranslation.train(options, [(row, "") for row in rows], backward=True)

    # Write instructions for new rows and for as many known rows, and score both.
    written = write_instructions(options, unseen + rows[: len(unseen)])
    rouge, exact = score("not trained on", unseen, written[: len(unseen)])
    score("trained on", rows, written[len(unseen) :])
    show(unseen[:5], written[:5])
    print(f"the adapter is in {options.out}")

    # Upload the adapter where --push-to says.
    prompt = backtranslation.backward_prompt("(the answer)")
    card = CARD.format(**figures, rouge=rouge, exact=exact, prompt=prompt)
    names = ["adapter_*", "*token*", "chat_template*"]
    backtranslation.push(options, "model", options.out, names, card)


def write_instructions(options: argparse.Namespace, rows: list[Row]) -> list[str]:
    """The likeliest instruction for each answer, from the model just trained."""
    options = argparse.Namespace(**{**vars(options), "model": str(options.out)})
    prompts = backtranslation.prompts_for(options, rows, prompt_of)
    replies = backtranslation.generate(options, "held-out", prompts, temperature=0.0)
    return [reply.text for reply in replies]


def prompt_of(row: Row, answer: str) -> str:
    return backtranslation.backward_prompt(answer)


def score(name: str, rows: list[Row], written: list[str]) -> tuple[float, float]:
    """Mean ROUGE-L F1 with what people asked, and the share of exact copies."""
    pairs = [(row["instruction"], text) for row, text in zip(rows, written, strict=False)]
    rouge = sum(rouge_l(*pair) for pair in pairs) / len(pairs)
    exact = sum(one == other for one, other in pairs) / len(pairs)
    print(f"{name}: {len(pairs)} rows, ROUGE-L {rouge:.3f}, exact {exact:.3f}")
    return rouge, exact


def show(rows: list[Row], written: list[str]) -> None:
    for row, text in zip(rows, written, strict=False):
        print(f"  asked    {one_line(row['instruction'])}")
        print(f"  written  {one_line(text)}")


# --------------------------------------------------------------------------------------------------
# The model of --sample: a Llama of 200,000 random weights.

SPECIAL_TOKENS = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}


def sample_model(folder: Path) -> str:
    """Build the model of --sample, unless it is there already. Returns its folder."""
    import transformers

    # The weights are written last.
    if (folder / "model.safetensors").exists():
        return str(folder)

    # Save the tokenizer, then the weights.
    transformers.logging.disable_progress_bar()
    core = sample_tokenizer()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=core, **SPECIAL_TOKENS)
    tokenizer.save_pretrained(folder)
    transformers.set_seed(42)
    config = transformers.LlamaConfig(
        vocab_size=core.get_vocab_size(),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=4096,
        initializer_range=0.2,
        bos_token_id=1,
        eos_token_id=2,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)


def sample_tokenizer() -> Any:
    """A tokenizer that learns its pieces from our own texts. Each text begins with <s>."""
    import tokenizers

    # Learn the pieces.
    paths = sorted(SAMPLE.glob("*.json*"))
    texts = [path.read_text(encoding="utf-8") for path in paths]
    special = list(SPECIAL_TOKENS.values())
    pieces = tokenizers.ByteLevelBPETokenizer()
    pieces.train_from_iterator(texts, vocab_size=1200, special_tokens=special, show_progress=False)

    # Add the <s>.
    core = tokenizers.Tokenizer.from_str(pieces.to_str())
    core.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return core


def main(arguments: list[str] | None = None) -> int:
    # The flags that all four steps have.
    parser = Parser(description=(__doc__ or "").split("\n\n")[0])
    base = "meta-llama/Llama-2-7b-hf"
    data = DATA / "guanaco_inverse.json"
    out = Path("out/backward")
    add = backtranslation.add_flags(parser, base, data, out, batch=4, epochs=2)

    # The flags of this step.
    unseen = DATA / "guanaco_inverse_test.json"
    add("--eval-data", type=Path, default=unseen, help="held-out rows [Guanaco's test split]")
    count = backtranslation.positive
    text = "how many of them [518: all]"
    add("--eval-rows", type=count, default=518, metavar="N", help=text)
    return backtranslation.main(parser, arguments, FOR_SAMPLE, inverse_sft)


if __name__ == "__main__":
    leave(main())
