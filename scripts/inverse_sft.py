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
on, and for as many rows of its training. It prints ROUGE-L with what people asked beside that of
the untrained model, of a copy of the answer and, with --control, of a model that was trained the
other way round (a second training, as long as the first). It says whether the model learnt.

It uses one GPU: the first, unless CUDA_VISIBLE_DEVICES names another.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts.asking.parser import Parser
from scripts.training import anchors, cards, shapes
from scripts.training import shared as backtranslation
from scripts.training.anchors import Table
from scripts.training.measure import rouge_l
from scripts.training.shared import DATA, SAMPLE, SAMPLE_OUT, Row
from self_instruct_workshop import UsageError, leave, one_line

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


def inverse_sft(options: argparse.Namespace) -> None:
    # Read everything before the long work. --sample first builds its tiny model.
    if options.sample:
        sample_model(SAMPLE_OUT / "tiny")
    rows = backtranslation.read_rows(options.data)
    unseen = backtranslation.read_rows(options.eval_data)[: options.eval_rows]
    check_instructions(options.data, rows)
    unseen = not_trained_on(options, rows, unseen)

    # Train, and with --control a second time, the other way round.
    lessons = [(row, "") for row in rows]
    figures = backtranslation.train(options, lessons, backward=True)
    if options.control:
        print(f"the control, trained the other way round, in {control_of(options).out}:")
        backtranslation.train(control_of(options), lessons, backward=False)

    # Write instructions for new rows and for as many known rows, and score all.
    table, written = measure(options, unseen)
    score("trained on", rows, write_instructions(options, str(options.out), rows[: len(unseen)]))
    print("\n".join(table.lines()))
    show(unseen[:5], written[:5])
    say(options, table)

    # Keep the figures with the adapter, and upload it where --push-to says.
    backtranslation.write(options.out / "training.json", figures | {"held_out": table.record()})
    print(f"the adapter is in {options.out}")
    card = card_of(options, figures, rows, table)
    backtranslation.push(options, "model", options.out, cards.ADAPTER, card)


def check_instructions(path: Path, rows: list[Row]) -> None:
    """Raise UsageError where all rows have the same instruction: it says nothing of its answer."""
    if len(rows) > 1 and len({row["instruction"] for row in rows}) == 1:
        problem = f"{path}: all {len(rows)} rows have the same instruction"
        advice = "put the question into `instruction` and the answer into `output`"
        raise UsageError(f"{problem}, so that nothing can be learnt: {advice}")


def not_trained_on(options: argparse.Namespace, rows: list[Row], unseen: list[Row]) -> list[Row]:
    """The rows of --eval-data of which neither question nor answer is in --data.

    A question that was learnt behind another answer is no test, either. Raises UsageError where
    none is left.
    """
    seen = {text for row in rows for text in (row["output"], backtranslation.question_of(row))}
    new = [row for row in unseen if not seen & {row["output"], backtranslation.question_of(row)}]
    if not new:
        problem = f"every question or answer of --eval-data {options.eval_data} is in --data"
        raise UsageError(f"{problem}: give rows that it is not trained on")
    if len(new) < len(unseen):
        said = f"{len(unseen) - len(new)} of {len(unseen)} rows of --eval-data are in --data"
        print(f"notice: {said}: they are left out", file=sys.stderr)
    return new


def control_of(options: argparse.Namespace) -> argparse.Namespace:
    """The same options for the training with the direction swapped."""
    out = options.out.with_name(f"{options.out.name}_control")
    return argparse.Namespace(**vars(options) | {"out": out})


def measure(options: argparse.Namespace, rows: list[Row]) -> tuple[Table, list[str]]:
    """The scores of the trained model and of all that it is compared with; its own texts."""
    table = Table([backtranslation.question_of(row) for row in rows])
    written = write_instructions(options, str(options.out), rows)
    table.add(anchors.TRAINED, written)
    table.add(anchors.UNTRAINED, write_instructions(options, options.model, rows))
    tokenizer = backtranslation.load_tokenizer(options.model)
    longest = options.max_new_tokens
    copies = [backtranslation.clip(tokenizer, row["output"], longest) for row in rows]
    table.add(anchors.COPY, copies)
    if options.control:
        control = str(control_of(options).out)
        table.add(anchors.CONTROL, write_instructions(options, control, rows))
    return table, written


def write_instructions(options: argparse.Namespace, model: str, rows: list[Row]) -> list[str]:
    """The likeliest instruction for each answer, as a model writes it."""
    asked = argparse.Namespace(**{**vars(options), "model": model})
    prompts = backtranslation.prompts_for(asked, rows, prompt_of)
    replies = backtranslation.generate(asked, "held-out", prompts, temperature=0.0)
    return [reply.text for reply in replies]


def prompt_of(row: Row, answer: str) -> str:
    return backtranslation.backward_prompt(answer)


def score(name: str, rows: list[Row], written: list[str]) -> tuple[float, float]:
    """Mean ROUGE-L F1 with what people asked (the text to learn), and the share of exact copies."""
    asked = [backtranslation.question_of(row) for row in rows]
    pairs = list(zip(asked, written, strict=False))
    rouge = sum(rouge_l(*pair) for pair in pairs) / len(pairs)
    exact = sum(one == other for one, other in pairs) / len(pairs)
    print(f"{name}: {len(pairs)} rows, ROUGE-L {rouge:.3f}, exact {exact:.3f}")
    return rouge, exact


def say(options: argparse.Namespace, table: Table) -> None:
    """The sentence, on stderr where it is no good news."""
    if table.learnt:
        print(table.sentence())
        return
    advice = "step 2 may write no better instructions than the base model"
    more = "more pairs, more --epochs, a higher --lr or a larger --model may help"
    print(f"notice: {table.sentence()}; {advice}: {more}", file=sys.stderr)
    if options.sample:
        print("notice: with the tiny random model of --sample that is as expected", file=sys.stderr)


def show(rows: list[Row], written: list[str]) -> None:
    for row, text in zip(rows, written, strict=False):
        print(f"  asked    {one_line(backtranslation.question_of(row))}")
        print(f"  written  {one_line(text)}")


def card_of(options: argparse.Namespace, figures: Row, rows: list[Row], table: Table) -> str:
    """What it was trained on, and how it did on what it was not trained on."""
    kind = "A backward model, which writes the instruction to an answer"
    scores = "\n".join(["Held-out rows:", "", "```text", *table.lines(), "```"])
    prompt = backtranslation.backward_prompt("(the answer)")
    said = [table.sentence(), f"The prompt:\n\n```text\n{prompt}```"]
    sets = [(cards.about(shapes.train_file(options.data)), rows)]
    return cards.model_card(figures, sets, kind, said) + f"\n{scores}\n"


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
    control = "train a second model the other way round, to compare: twice as long"
    add("--control", action="store_true", help=control)
    return backtranslation.main(parser, arguments, FOR_SAMPLE, inverse_sft)


if __name__ == "__main__":
    leave(main())
