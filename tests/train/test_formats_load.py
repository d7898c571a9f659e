"""The files of prepare_for_finetuning.py in the programs that they are for: datasets loads them,
TRL trains on them.

    python -m pytest tests/train    a quarter of a minute on two cores; no GPU and no network

Needs scripts/requirements-train.txt, and is skipped without it.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.runs import ROOT

os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
datasets = pytest.importorskip("datasets")
torch = pytest.importorskip("torch")
trl = pytest.importorskip("trl")
transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

from scripts.provenance import write_provenance  # noqa: E402
from self_instruct_workshop import Config, run  # noqa: E402

sys.path.insert(0, str(ROOT / "scripts"))
import prepare_for_finetuning as prepare  # noqa: E402

torch.set_num_threads(1)
SPLIT = (  # where words end in the tokenizers of Llama 3 and Qwen: "：答" is one
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT = (
    "{% for message in messages %}<{{ message.role }}>{{ message.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
both_languages = pytest.mark.parametrize("language", ["en", "zh"])


@pytest.fixture
def prepared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Path]:
    """The folder that is made of a practice run."""

    def make(language: str, form: str, *flags: str) -> Path:
        work, folder = tmp_path / "work", tmp_path / "a folder" / form
        config = Config(
            provider="practice", num_instructions=30, language=language, work_dir=str(work)
        )
        run(config, say=lambda text: None)
        if "--keep-id" in flags:
            write_provenance(work)
        arguments = [
            str(work / "step4_final.jsonl"),
            "--format",
            form,
            "--output-dir",
            str(folder),
            *flags,
        ]
        assert prepare.main(arguments) == 0, capsys.readouterr().err
        return folder

    return make


def read(path: Path) -> list[dict]:
    text = path.read_text(encoding="utf-8")
    return (
        json.loads(text)
        if path.suffix == ".json"
        else [json.loads(line) for line in text.strip("\n").split("\n")]
    )


def tokenizer_of(rows: list[dict]) -> Any:
    """A byte-level BPE tokenizer that knows these rows by heart."""
    bpe, split = tokenizers.Tokenizer(tokenizers.models.BPE()), tokenizers.pre_tokenizers
    words, letters = split.Split(tokenizers.Regex(SPLIT), "isolated"), split.ByteLevel.alphabet()
    bpe.pre_tokenizer = split.Sequence(
        [words, split.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    bpe.decoder = tokenizers.decoders.ByteLevel()
    special = ["</s>", "<pad>"]
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=4000, special_tokens=special, initial_alphabet=letters, show_progress=False
    )
    texts = [row for row in rows if isinstance(row.get("prompt"), str)]
    known = ["".join(row.values()) for row in texts] or map(str, rows)
    bpe.train_from_iterator(known, trainer)
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="</s>", pad_token="<pad>"
    )
    made.chat_template = CHAT
    return made


def tiny_model(tokenizer: Any) -> Any:
    torch.manual_seed(0)
    size = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    special = {
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(vocab_size=len(tokenizer), **size, **special)
    )


def one_step(folder: Path, tmp_path: Path) -> Any:
    """TRL's trainer after one step on the folder, which must have changed the model."""
    data = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    tokenizer = tokenizer_of(list(data["train"]))
    model = tiny_model(tokenizer)
    before = model.lm_head.weight.detach().clone()
    settings = {
        "max_steps": 1,
        "per_device_train_batch_size": 4,
        "max_length": 2048,
        "learning_rate": 0.01,
    }
    here = {"output_dir": str(tmp_path / "out"), "report_to": "none", "save_strategy": "no"}
    config = trl.SFTConfig(**settings, **here, use_cpu=True, bf16=False, disable_tqdm=True)
    sides = {"train_dataset": data["train"], "eval_dataset": data["validation"]}
    trainer = trl.SFTTrainer(model, config, **sides, processing_class=tokenizer)
    assert math.isfinite(trainer.train().training_loss)
    assert math.isfinite(trainer.evaluate()["eval_loss"])
    assert not torch.equal(before, model.lm_head.weight)
    return trainer


def trained_on(trainer: Any, row: dict) -> tuple[str, str]:
    """What a row is to the loss: the text it is not taken of, and the text it is."""
    batch = trainer.data_collator([row])
    pairs = list(zip(batch["input_ids"][0].tolist(), batch["labels"][0].tolist(), strict=True))
    decode = trainer.processing_class.decode
    return decode([i for i, label in pairs if label == -100]), decode(
        [i for i, label in pairs if label != -100]
    )


@both_languages
@pytest.mark.parametrize("form", sorted({*prepare.FORMATS} - {"preference"}))
def test_load_dataset_takes_the_folder_and_each_file(
    prepared: Callable[..., Path], tmp_path: Path, form: str, language: str
) -> None:
    folder, cache = prepared(language, form, "--split", "0.2"), str(tmp_path / "cache")
    whole = datasets.load_dataset(str(folder), cache_dir=cache)
    assert set(whole) == {"train", "validation"}
    for part, rows in whole.items():
        (path,) = folder.glob(part + ".json*")
        assert rows.to_list() == read(path) != []
        assert datasets.load_dataset("json", data_files=str(path), cache_dir=cache)[
            "train"
        ].to_list() == read(path)


def test_the_hub_can_read_the_card(prepared: Callable[..., Path]) -> None:
    hub = pytest.importorskip("huggingface_hub")
    card = hub.DatasetCard.load(
        prepared("zh", "alpaca", "--split", "0.2") / "README.md", ignore_metadata_errors=False
    )
    told = card.data.to_dict()
    assert (told["language"], told["license"], told["size_categories"]) == (
        ["zh"],
        "other",
        ["n<1K"],
    )
    paths = [{"split": part, "path": f"{part}.json"} for part in ("train", "validation")]
    assert told["configs"] == [{"config_name": "default", "data_files": paths}]


@both_languages
def test_trl_trains_on_completions_alone_and_adds_the_end_mark(
    prepared: Callable[..., Path], tmp_path: Path, language: str
) -> None:
    folder = prepared(language, "prompt-completion", "--split", "0.2")
    trainer, rows = one_step(folder, tmp_path), read(folder / "train.jsonl")
    assert len(trainer.train_dataset) == len(rows)
    for encoded, row in zip(trainer.train_dataset, rows, strict=True):
        asked, learnt = trained_on(trainer, encoded)
        assert (asked, learnt) == (row["prompt"], row["completion"] + "</s>")


def test_an_id_in_each_row_does_no_harm_to_trl(
    prepared: Callable[..., Path], tmp_path: Path
) -> None:
    folder = prepared("en", "prompt-completion", "--split", "0.2", "--keep-id")
    trainer, rows = one_step(folder, tmp_path), read(folder / "train.jsonl")
    assert all(row["id"] for row in rows)
    for encoded, row in zip(trainer.train_dataset, rows, strict=True):
        asked, learnt = trained_on(trainer, encoded)
        assert (asked, learnt) == (row["prompt"], row["completion"] + "</s>")


@both_languages
def test_trl_trains_on_messages(
    prepared: Callable[..., Path], tmp_path: Path, language: str
) -> None:
    folder = prepared(language, "messages", "--split", "0.2")
    trainer, rows = one_step(folder, tmp_path), read(folder / "train.jsonl")
    for encoded, row in zip(trainer.train_dataset, rows, strict=True):
        (_, learnt), (user, assistant) = trained_on(trainer, encoded), row["messages"]
        assert learnt == f"<user>{user['content']}</s><assistant>{assistant['content']}</s>"


@both_languages
def test_trl_trains_on_the_answers_of_a_chat_alone(
    prepared: Callable[..., Path], tmp_path: Path, language: str
) -> None:
    folder = prepared(language, "chat-completion", "--split", "0.2")
    trainer, rows = one_step(folder, tmp_path), read(folder / "train.jsonl")
    assert len(trainer.train_dataset) == len(rows)
    for encoded, row in zip(trainer.train_dataset, rows, strict=True):
        ((user,), (assistant,)) = row["prompt"], row["completion"]
        asked, learnt = trained_on(trainer, encoded)
        assert asked == f"<user>{user['content']}</s><assistant>"
        assert learnt == f"{assistant['content']}</s>"


def test_trl_trains_on_the_last_answer_of_a_talk(tmp_path: Path) -> None:
    talks = []
    for n in range(12):
        history = [[f"Question {n}?", f"First {n}."]]
        row = {"instruction": f"More {n}?", "output": f"Last {n}.", "system": "Be short."}
        talks.append({**row, "history": history})
    path = tmp_path / "talks.json"
    path.write_text(json.dumps(talks), encoding="utf-8")
    for form in ("chat-completion", "alpaca"):
        folder = tmp_path / form
        flags = ["--format", form, "--split", "0.2", "--output-dir", str(folder)]
        assert prepare.main([str(path), *flags]) == 0
    trainer = one_step(tmp_path / "chat-completion", tmp_path)
    rows = read(tmp_path / "chat-completion" / "train.jsonl")
    for encoded, row in zip(trainer.train_dataset, rows, strict=True):
        n = row["completion"][0]["content"].removeprefix("Last ")
        before = f"<system>Be short.</s><user>Question {n[:-1]}?</s><assistant>First {n}</s>"
        asked = f"{before}<user>More {n[:-1]}?</s><assistant>"
        assert trained_on(trainer, encoded) == (asked, f"Last {n}</s>")

    # Alpaca's columns are the same in all rows, as datasets wants them.
    loaded = datasets.load_dataset(str(tmp_path / "alpaca"), cache_dir=str(tmp_path / "cache"))
    assert loaded["train"].to_list() == read(tmp_path / "alpaca" / "train.json")
    assert loaded["train"][0]["history"][0][1].startswith("First ")


@both_languages
def test_trl_takes_a_step_of_dpo_on_preferences(tmp_path: Path, language: str) -> None:
    key, sheet = write_pairs(tmp_path, language)
    folder = tmp_path / "preference"
    given = ["--format", "preference", "--sheet", str(sheet), "--split", "0.25"]
    assert prepare.main([str(key), *given, "--output-dir", str(folder)]) == 0

    # The model learns, and prefers what was chosen more than before.
    data = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    assert set(data["train"].column_names) == {"prompt", "chosen", "rejected"}
    tokenizer = tokenizer_of([{"text": str(row)} for row in data["train"]])
    model, reference = tiny_model(tokenizer), tiny_model(tokenizer)
    before = model.lm_head.weight.detach().clone()
    here = {"output_dir": str(tmp_path / "out"), "report_to": "none", "save_strategy": "no"}
    settings = {"max_steps": 8, "per_device_train_batch_size": 6, "learning_rate": 0.01}
    config = trl.DPOConfig(**settings, **here, use_cpu=True, bf16=False, disable_tqdm=True)
    sides = {"train_dataset": data["train"], "eval_dataset": data["validation"]}
    trainer = trl.DPOTrainer(model, reference, config, **sides, processing_class=tokenizer)
    first = trainer.evaluate(data["train"])["eval_loss"]
    assert first == pytest.approx(math.log(2), abs=0.01), "it is its own reference"
    assert math.isfinite(trainer.train().training_loss)
    assert trainer.evaluate(data["train"])["eval_loss"] < first - 0.05
    assert not torch.equal(before, model.lm_head.weight)

    # A row is the chat of the question and of one of the answers.
    row = read(folder / "train.jsonl")[0]
    shown = trainer.train_dataset[0]
    for side in ("chosen", "rejected"):
        ids = shown["prompt_ids"] + shown[f"{side}_ids"]
        turns = [*row["prompt"], *row[side]]
        assert tokenizer.decode(ids) == tokenizer.apply_chat_template(turns, tokenize=False)


def write_pairs(folder: Path, language: str) -> tuple[Path, Path]:
    """Eight pairs and a filled sheet; the answer that names the number is the better one."""
    task, good, bad = {
        "en": ("Name number {}.", "It is number {}.", "I do not know, {} or so."),
        "zh": ("说出第{}个数。", "这是第{}个数。", "大概是{}吧，不清楚。"),
    }[language]
    lines, cells = [], ["id,better\n"]
    for n in range(8):
        sides = [{"writer": "m", "output": text.format(n)} for text in (good, bad)]
        pair = {"id": f"p{n}", "instruction": task.format(n), "input": ""}
        pair |= dict(zip("AB" if n % 2 else "BA", sides, strict=True))
        lines.append(json.dumps(pair) + "\n")
        cells.append(f"p{n},{'A' if n % 2 else 'B'}\n")
    key, sheet = folder / "pairs-key.jsonl", folder / "pairs.csv"
    key.write_text("".join(lines), encoding="utf-8")
    sheet.write_text("".join(cells), encoding="utf-8")
    return key, sheet
