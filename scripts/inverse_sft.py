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

from scripts.training import shared as backtranslation
from scripts.training.shared import DATA, SAMPLE, SAMPLE_OUT, Row
from self_instruct_workshop import leave, one_line, tokenize

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
        sample_model(SAMPLE_OUT / "tiny")
    rows, unseen = backtranslation.read_rows(options.data), backtranslation.read_rows(options.eval_data)
    figures = backtranslation.train(options, [(row, "") for row in rows], backward=True)
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
    prompts = backtranslation.prompts_for(options, rows, lambda row, answer: backtranslation.backward_prompt(answer))
    return [reply.text for reply in backtranslation.generate(options, "held-out", prompts, temperature=0.0)]


def rouge_l(one: str, other: str) -> float:
    """ROUGE-L F1 in the tokens of self_instruct_workshop, so that Chinese counts like English."""
    from rapidfuzz.distance import Indel

    texts = tokenize(one), tokenize(other)
    return Indel.normalized_similarity(*texts) if any(texts) else 0.0


def score(name: str, rows: list[Row], written: list[str]) -> tuple[float, float]:
    """Mean ROUGE-L F1 with what people asked, and the share of exact copies."""
    pairs = [(row["instruction"], text) for row, text in zip(rows, written, strict=False)]
    rouge = sum(rouge_l(*pair) for pair in pairs) / len(pairs)
    exact = sum(one == other for one, other in pairs) / len(pairs)
    print(f"{name}: {len(pairs)} rows, ROUGE-L {rouge:.3f}, exact {exact:.3f}")
    return rouge, exact


def sample_model(folder: Path) -> str:
    """Build the model of --sample, once: a random Llama of 200,000 weights with a tokenizer made of our own texts."""
    import tokenizers
    import transformers

    if (folder / "model.safetensors").exists():
        return str(folder)
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    texts = [path.read_text(encoding="utf-8") for path in sorted(SAMPLE.glob("*.json*"))]
    pieces = tokenizers.ByteLevelBPETokenizer()
    pieces.train_from_iterator(texts, vocab_size=1200, special_tokens=[*special.values()], show_progress=False)
    core = tokenizers.Tokenizer.from_str(pieces.to_str())
    begin = {"single": "<s> $A", "special_tokens": [("<s>", 1)]}
    core.post_processor = tokenizers.processors.TemplateProcessing(**begin)
    transformers.logging.disable_progress_bar()
    transformers.PreTrainedTokenizerFast(tokenizer_object=core, **special).save_pretrained(folder)
    transformers.set_seed(42)
    config = transformers.LlamaConfig(
        vocab_size=core.get_vocab_size(), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=4096, initializer_range=0.2, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    data, unseen, out = DATA / "guanaco_inverse.json", DATA / "guanaco_inverse_test.json", Path("out/backward")
    add = backtranslation.add_flags(parser, "meta-llama/Llama-2-7b-hf", data, out, batch=4, epochs=2)
    add("--eval-data", type=Path, default=unseen, help="held-out rows [Guanaco's test split]")
    add("--eval-rows", type=backtranslation.positive, default=518, metavar="N", help="how many of them [518: all]")
    return backtranslation.main(parser, arguments, FOR_SAMPLE, inverse_sft)


if __name__ == "__main__":
    leave(main())
