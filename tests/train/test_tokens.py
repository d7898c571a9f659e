"""Files of prepare_for_finetuning.py as tokens: the seam of prompt and completion, and the counts.

    python -m pytest tests/train/test_tokens.py      a minute; no GPU and no network

Tokenizers of the kinds of GPT-2, Qwen and SentencePiece are trained here. With
SELF_INSTRUCT_TOKENIZERS=FOLDER,FOLDER the real ones in these folders are tried, too.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from helpers.prepared import PLAIN, TALK, caller
from helpers.runs import ROOT

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
tokenizers = pytest.importorskip("tokenizers")
transformers = pytest.importorskip("transformers")

from scripts.preparing import tokens  # noqa: E402
from scripts.preparing.formats import FORMATS, SHAPES, encode_parts  # noqa: E402
from scripts.reading.rows import rows_of  # noqa: E402
from self_instruct_workshop import Config, load_seed_tasks, run  # noqa: E402

sys.path.insert(0, str(ROOT / "scripts"))

QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
real = [name for name in os.environ.get("SELF_INSTRUCT_TOKENIZERS", "").split(",") if name]


@cache
def seed_rows(language: str) -> list[dict]:
    name = "seed_tasks_zh.jsonl" if language == "zh" else "seed_tasks.jsonl"
    rows = []
    for task in load_seed_tasks(ROOT / "data" / name):
        for instance in task.instances:
            rows.append({"instruction": task.instruction, **instance})
    return rows


@cache
def tokenizer(kind: str) -> Any:
    """A small tokenizer of a kind, or a real one. It knows texts of both languages by heart."""
    if kind in real:
        return tokenizers.Tokenizer.from_file(str(Path(kind) / "tokenizer.json"))
    split_at, models = tokenizers.pre_tokenizers, tokenizers.models
    made = tokenizers.Tokenizer(models.BPE(byte_fallback=False))
    how = {"vocab_size": 6000, "show_progress": False, "special_tokens": ["</s>"]}
    if kind == "GPT-2":
        made.pre_tokenizer = split_at.ByteLevel(add_prefix_space=False)
    elif kind == "Qwen":
        words = split_at.Split(tokenizers.Regex(QWEN), "isolated")
        letters = split_at.ByteLevel(add_prefix_space=False, use_regex=False)
        made.pre_tokenizer = split_at.Sequence([words, letters])
    else:  # as Gemma has it: spaces become a mark at which a piece begins
        made.normalizer = tokenizers.normalizers.Replace(" ", "▁")
        made.pre_tokenizer = split_at.Split(tokenizers.Regex("▁+[^▁\n]*|\n+|[^▁\n]+"), "isolated")
    if kind != "SentencePiece":
        how["initial_alphabet"] = split_at.ByteLevel.alphabet()
    made.train_from_iterator(texts_to_learn(), tokenizers.trainers.BpeTrainer(**how))
    return made


def texts_to_learn() -> list[str]:
    """Rows in all shapes, joined anyhow, so that tokens over a seam would be learnt."""
    found = ["什么？输出：答案"] * 50  # Qwen's split lets "：答" be one token
    for language, (with_input, without) in SHAPES.items():
        for n, row in enumerate(seed_rows(language)):
            shapes = with_input if row["input"] else without
            before, between, after = shapes[n % len(shapes)]
            whole = before + row["instruction"] + between + row["input"] + after
            found += [whole + row["output"], f"{row['output']}\n\n{row['output']}"]
    return found


def torn(kind: str, row: dict) -> bool:
    """Whether the prompt's tokens are not the first ones of prompt and completion."""
    encode = tokenizer(kind).encode
    prompt = encode(row["prompt"], add_special_tokens=False).ids
    whole = encode(row["prompt"] + row["completion"], add_special_tokens=False).ids
    return whole[: len(prompt)] != prompt


every_kind = pytest.mark.parametrize("kind", ["GPT-2", "Qwen", "SentencePiece", *real])


def in_every_shape(row: dict, language: str) -> list[dict]:
    """A row as --seed 0 to 39 write it: each shape is among them."""
    encode = FORMATS["prompt-completion"].encode
    return [encode(row, language, seed) for seed in range(40)]


@every_kind
@pytest.mark.parametrize("language", ["en", "zh"])
def test_no_token_reaches_from_the_prompt_into_the_completion(kind: str, language: str) -> None:
    for row in seed_rows(language):
        for made in in_every_shape(row, language):
            assert not torn(kind, made), made


@every_kind
@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize(
    "output", ["  two", "\ttab", "\nline", "\n\n  code", " 答", "\u3000答", "?", "1"]
)
@pytest.mark.parametrize("source", ["", "x", "x ", "x\n", "行。\n\n", "什么？"])
def test_spaces_at_the_seam_are_no_exception(
    kind: str, language: str, output: str, source: str
) -> None:
    row = {"instruction": "Say it：", "input": source, "output": output}
    for made in in_every_shape(row, language):
        assert not torn(kind, made), made
        assert made["completion"].endswith(output), "nothing of the answer is lost"


@pytest.mark.parametrize("kind", ["GPT-2", "Qwen"])
def test_the_fault_would_be_found(kind: str) -> None:
    """As shapes ended before: what this file tests for does happen."""
    ends = {"GPT-2": ("Name it.\n\n", "The Nile"), "Qwen": ("什么？输出：", "答案")}
    prompt, completion = ends[kind]
    assert torn(kind, {"prompt": prompt, "completion": completion})


# What is counted and shown.


@pytest.fixture
def call(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable:
    return caller(tmp_path, capsys)


TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """The folder of a tokenizer of a kind, with or without a chat template."""

    def make(kind: str, template: str | None = TEMPLATE) -> str:
        made = transformers.PreTrainedTokenizerFast(
            tokenizer_object=tokenizer(kind), eos_token="</s>"
        )
        made.chat_template = template
        place = tmp_path_factory.mktemp(kind)
        made.save_pretrained(place)
        return str(place)

    return make


def test_tokens_are_counted_and_stand_on_the_card(
    call: Callable, folder: Callable, tmp_path: Path
) -> None:
    place = folder("Qwen")
    rows = [{**PLAIN, "instruction": f"Name {'one more ' * n}sea."} for n in range(20)]
    flags = ["--format", "chat-completion", "--tokenizer", place, "--max-length", "40"]
    said = call(rows, *flags, "--split", "0.2")["said"]

    # The same by hand.
    lengths = []
    for n in range(20):
        text = f"<|user|>\nName {'one more ' * n}sea.\n\nin Asia<|end|>\n"
        text += "<|assistant|>\nAral<|end|>\n"
        lengths.append(len(tokenizer("Qwen").encode(text).ids))
    over = sum(length > 40 for length in lengths)
    assert 0 < over < 20
    name = Path(place).name
    mean = f"{sum(lengths) / 20:,.0f}"
    whole = f"{sum(lengths):,} tokens of {name}: {mean} a row, {max(lengths):,} the longest"
    assert whole in said
    assert f"longer than --max-length 40: {over} of 20 ({over / 20:.1%})" in said
    assert "inside a token" not in said
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert f"{sum(lengths):,}; longest row {max(lengths):,}; rows longer than 40: {over} of 20" in (
        card
    )
    assert str(Path(place).parent) not in card


def test_a_completion_gets_its_end_mark_and_a_torn_prompt_is_said(folder: Callable) -> None:
    loaded = tokens.load(folder("GPT-2", None))
    good = {"prompt": "Name it.\n\n", "completion": " The Nile"}
    bad = {"prompt": "Name it.\n\n", "completion": "The Nile"}
    rows = [{"instruction": "Name it.", "input": "", "output": "The Nile"}] * 2
    found = tokens.count("a", loaded, 1024, "prompt-completion", rows, [good, bad])
    assert found.torn == 1
    whole = tokenizer("GPT-2").encode(good["prompt"] + good["completion"]).ids
    assert found.lengths[0] == len(whole) + 1
    assert "ends inside a token: 1 of 2 rows" in tokens.report(found, "prompt-completion")


@pytest.mark.parametrize("form", ["alpaca", "messages", "sharegpt", "chat-completion"])
def test_a_preview_shows_three_rows_in_the_words_of_the_template(
    call: Callable, folder: Callable, form: str
) -> None:
    rows = [TALK, *[{**PLAIN, "instruction": f"Name sea {n}."} for n in range(5)]]
    said = call(rows, "--format", form, "--tokenizer", folder("Qwen"), "--preview")["said"]
    assert said.count("--- row ") == 3
    assert said.count("<|assistant|>\n") >= 3 and said.count("<|user|>\nName sea ") >= 2
    alone = form == "chat-completion"
    assert said.count("--- from here on it is learnt\n") == (3 if alone else 0)


def test_a_tokenizer_without_a_template_counts_plain_text_and_says_so(
    call: Callable, folder: Callable
) -> None:
    place = folder("SentencePiece", None)
    said = call([PLAIN], "--format", "messages", "--tokenizer", place)["said"]
    assert "has no chat template: rows are counted as plain text" in said


def test_a_template_that_refuses_a_row_is_one_line_and_nothing_is_written(
    call: Callable, folder: Callable, tmp_path: Path
) -> None:
    refuses = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    place = folder("Qwen", refuses)
    said = call([TALK], "--format", "messages", "--tokenizer", place, code=1)["said"]
    assert "the chat template refuses a row (no system)" in said and said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_without_a_tokenizer_is_one_line(call: Callable, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    said = call([PLAIN], "--tokenizer", str(tmp_path / "empty"), code=1)["said"]
    assert "empty cannot be loaded" in said and said.count("\n") == 1


# Whole runs, with real tokenizers where they are named.


@pytest.mark.skipif(not real, reason="SELF_INSTRUCT_TOKENIZERS names no folder")
@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_practice_run_has_no_torn_row_with_real_tokenizers(language: str, tmp_path: Path) -> None:
    config = Config(
        provider="practice", num_instructions=300, language=language, work_dir=str(tmp_path)
    )
    run(config, say=lambda text: None)
    rows = []
    for line in (tmp_path / "step4_final.jsonl").read_text(encoding="utf-8").splitlines():
        rows += rows_of("line", json.loads(line))
    made = encode_parts("prompt-completion", {"train": rows}, language, 42)["train"]
    assert {kind: sum(torn(kind, row) for row in made) for kind in real} == dict.fromkeys(real, 0)
