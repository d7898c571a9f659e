"""gguf_to_folder.py: a GGUF file that is made here of a tiny model comes back as that model.

    python -m pytest tests/train/test_gguf_to_folder.py      half a minute; no GPU, no network

With SELF_INSTRUCT_GGUF=FILE, a real chat model that knows the capital of France is read, too.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from helpers.runs import ROOT

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
torch = pytest.importorskip("torch")
gguf = pytest.importorskip("gguf")
transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

sys.path.insert(0, str(ROOT))
from scripts import gguf_to_folder  # noqa: E402

torch.set_num_threads(1)
HEADS, KV_HEADS, LAYERS = 4, 2, 2
TEXT = "How are you? I'm fine, thank you. Count: 1, 22, 333.\n\n明天10:30开会。好的，我会去。"
MARKS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tiny_tokenizer() -> Any:
    """A byte-level BPE as GPT-2 has it, which knows TEXT by heart, and three marks."""
    made = tokenizers.ByteLevelBPETokenizer()
    made.train_from_iterator([TEXT] * 3, vocab_size=420, special_tokens=MARKS, show_progress=False)
    return json.loads(made.to_str())["model"]


def tiny_model(vocabulary: int) -> Any:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        rope_theta=10_000.0,
        tie_word_embeddings=True,
    )
    return transformers.LlamaForCausalLM(config).eval()


def as_llama_cpp_has_it(name: str, weight: Any) -> Any:
    """A weight of attention, whose halves of each head llama.cpp keeps by turns."""
    if name.endswith(("q_proj.weight", "k_proj.weight")):
        heads = HEADS if "q_proj" in name else KV_HEADS
        halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, weight.shape[1])
        return halves.swapaxes(1, 2).reshape(weight.shape)
    return weight


def write_tokenizer(writer: Any, template: bool) -> None:
    model = tiny_tokenizer()
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    kinds = gguf.TokenType
    writer.add_token_types([kinds.CONTROL if t in MARKS else kinds.NORMAL for t in tokens])
    writer.add_token_merges([" ".join(pair) for pair in model["merges"]])
    writer.add_bos_token_id(tokens.index(MARKS[0]))
    writer.add_eos_token_id(tokens.index(MARKS[0]))
    writer.add_eot_token_id(tokens.index(MARKS[2]))
    if template:
        writer.add_chat_template(TEMPLATE)


def write_gguf(
    path: Path,
    architecture: str = "llama",
    template: bool = True,
    leave_out: str = "",
    spoil: bool = False,
    parts: int = 0,
    bits: Any = None,
) -> Any:
    """Write a tiny model as a GGUF file, by the package of llama.cpp's own people; return it."""
    model = tiny_model(len(tiny_tokenizer()["vocab"]))
    config = model.config
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("Tiny")
    writer.add_license("apache-2.0")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(10_000.0)
    if parts:
        writer.add_uint16("split.count", parts)
    write_tokenizer(writer, template)

    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, LAYERS)
    for name, weight in model.state_dict().items():
        known = names.get_name(name, try_suffixes=(".weight",))
        if name == "lm_head.weight" or known == leave_out:
            continue
        data = as_llama_cpp_has_it(name, weight.numpy())
        if spoil and known == "blk.0.ffn_up.weight":
            data = data * float("nan")
        if bits and data.ndim == 2:
            writer.add_tensor(known, gguf.quants.quantize(data, bits), raw_dtype=bits)
        else:
            writer.add_tensor(known, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Call the program; its exit code, and what it says."""

    def call(*arguments: str | Path) -> tuple[int, str]:
        bars_of_others = os.environ.get("TQDM_DISABLE")
        code = gguf_to_folder.main([*map(str, arguments)])
        assert os.environ.get("TQDM_DISABLE") == bars_of_others
        out, err = capsys.readouterr()
        bars = re.compile(r"^.*\r.*\n", re.M)  # of a library that other tests loaded
        return code, out + bars.sub("", err)

    return call


def logits(model: Any, tokenizer: Any) -> Any:
    with torch.no_grad():
        return model(**tokenizer(TEXT, return_tensors="pt")).logits


def test_the_folder_is_the_model_of_the_file(tmp_path: Path, said: Callable) -> None:
    file, folder = tmp_path / "tiny.gguf", tmp_path / "new" / "tiny"
    original = write_gguf(file)
    code, text = said(file, folder)
    assert code == 0, text
    assert "LlamaForCausalLM: 0.1 million parameters, float32" in text
    assert "with a chat template" in text and "licence in the file: apache-2.0" in text
    assert [path.name for path in folder.parent.iterdir()] == ["tiny"], "nothing half is left"

    # It loads as any folder, and predicts what the original predicts.
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    assert torch.allclose(logits(model, tokenizer), logits(original, tokenizer), atol=1e-5)
    assert model.dtype == torch.float32 and not hasattr(model.config, "quantization_config")
    assert len(tokenizer) == len(tiny_tokenizer()["vocab"])
    assert tokenizer.decode(tokenizer(TEXT)["input_ids"]) == TEXT

    # The marks of the template are single tokens, and a turn's end ends a reply as well as eos.
    turns = [{"role": "user", "content": "How are you?"}]
    asked = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    assert asked == "<|im_start|>user\nHow are you?<|im_end|>\n<|im_start|>assistant\n"
    ids = tokenizer(asked, add_special_tokens=False)["input_ids"]
    marks = tokenizer.convert_tokens_to_ids(MARKS)
    assert [i for i in ids if i in marks] == [marks[1], marks[2], marks[1]]
    assert model.generation_config.eos_token_id == [marks[0], marks[2]]


def test_weights_of_eight_bits_become_numbers_near_the_original(
    tmp_path: Path, said: Callable
) -> None:
    original = write_gguf(tmp_path / "q8.gguf", bits=gguf.GGMLQuantizationType.Q8_0, template=False)
    code, text = said(tmp_path / "q8.gguf", tmp_path / "q8", "--dtype", "bfloat16")
    assert code == 0 and "no chat template" in text and "bfloat16" in text
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "q8")
    assert not tokenizer.chat_template
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "q8")
    assert model.dtype == torch.bfloat16
    off = (logits(model.float(), tokenizer) - logits(original, tokenizer)).abs().max()
    assert 0 < off < 0.1 * logits(original, tokenizer).abs().max()


def test_a_trainer_trains_what_was_written(tmp_path: Path, said: Callable) -> None:
    trl = pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")
    write_gguf(tmp_path / "tiny.gguf")
    assert said(tmp_path / "tiny.gguf", tmp_path / "tiny")[0] == 0
    rows = [{"prompt": "How are you?", "completion": " I'm fine."}] * 4
    config = trl.SFTConfig(
        output_dir=str(tmp_path / "out"), max_steps=5, learning_rate=0.01, report_to="none",
        save_strategy="no", use_cpu=True, bf16=False, disable_tqdm=True, logging_steps=1,
    )  # fmt: skip
    data = datasets.Dataset.from_list(rows)
    trainer = trl.SFTTrainer(str(tmp_path / "tiny"), config, train_dataset=data)
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("spoilt", "expected"),
    [
        ({"leave_out": "blk.1.ffn_down.weight"}, "lacks 1 weights, such as model.layers.1.mlp"),
        ({"spoil": True}, "has weights that are no numbers"),
        ({"parts": 3}, "is one of 3 parts"),
        ({"architecture": "clip"}, "transformers cannot read"),
        ({"architecture": "nobody-knows"}, "transformers cannot read"),
    ],
)
def test_a_file_that_makes_no_model_is_one_line(
    tmp_path: Path, said: Callable, spoilt: dict, expected: str
) -> None:
    write_gguf(tmp_path / "bad.gguf", **spoilt)
    code, text = said(tmp_path / "bad.gguf", tmp_path / "folder")
    assert code == 1 and text.count("\n") == 1 and text.startswith("error: "), text
    assert expected in text
    assert {path.name for path in tmp_path.iterdir()} - {"cwd"} == {"bad.gguf"}


def test_a_file_that_is_cut_off_anywhere_is_one_line(tmp_path: Path, said: Callable) -> None:
    write_gguf(tmp_path / "whole.gguf")
    whole = (tmp_path / "whole.gguf").read_bytes()
    for size in (5, 24, 1000, len(whole) // 2, len(whole) - 1000):
        (tmp_path / "cut.gguf").write_bytes(whole[:size])
        code, text = said(tmp_path / "cut.gguf", tmp_path / "folder")
        assert code == 1 and "get it anew" in text and text.count("\n") == 1, (size, text)
    (tmp_path / "cut.gguf").write_bytes(b"PK\x03\x04")
    code, text = said(tmp_path / "cut.gguf", tmp_path / "folder")
    assert code == 1 and "is no GGUF file" in text
    code, text = said(tmp_path / "none.gguf", tmp_path / "folder")
    assert code == 1 and "is not there" in text
    assert not (tmp_path / "folder").exists()


def test_packages_that_are_missing_or_too_old_are_one_line(
    tmp_path: Path, said: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_gguf(tmp_path / "tiny.gguf")
    old = ModuleType("transformers")
    old.__spec__ = ModuleSpec("transformers", None)
    old.__version__ = "5.3.0"
    old.utils = transformers.utils
    monkeypatch.setitem(sys.modules, "transformers", old)
    code, text = said(tmp_path / "tiny.gguf", tmp_path / "folder")
    assert code == 1 and "transformers 5.3.0 is too old for this: run" in text
    monkeypatch.setattr(gguf_to_folder, "PACKAGES", ("torch", "no_such_package"))
    code, text = said(tmp_path / "tiny.gguf", tmp_path / "folder")
    assert code == 1 and "this needs no_such_package: run" in text
    assert "requirements-train.txt" in text and text.count("\n") == 1


def test_what_is_there_stays(tmp_path: Path, said: Callable) -> None:
    write_gguf(tmp_path / "tiny.gguf")
    kept = tmp_path / "folder" / "mine.txt"
    kept.parent.mkdir()
    kept.write_text("mine")
    code, text = said(tmp_path / "tiny.gguf", tmp_path / "folder")
    assert code == 2 and "is there already: name a new folder" in text
    assert kept.read_text() == "mine" and len([*kept.parent.iterdir()]) == 1


def test_a_call_that_fails_while_it_writes_leaves_nothing(
    tmp_path: Path, said: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    write_gguf(tmp_path / "tiny.gguf")
    monkeypatch.setattr(transformers.PreTrainedTokenizerBase, "save_pretrained", full)
    code, text = said(tmp_path / "tiny.gguf", tmp_path / "folder")
    assert code == 1 and "cannot write" in text and "No space left" in text
    assert {path.name for path in tmp_path.iterdir()} - {"cwd"} == {"tiny.gguf"}


def test_a_real_chat_model_still_knows_what_it_knew(tmp_path: Path, said: Callable) -> None:
    file = os.environ.get("SELF_INSTRUCT_GGUF")
    if not file:
        pytest.skip("SELF_INSTRUCT_GGUF names no GGUF file of a chat model")
    code, text = said(file, tmp_path / "real")
    assert code == 0, text
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "real")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "real")
    turns = [{"role": "user", "content": "What is the capital of France?"}]
    how = {"add_generation_prompt": True, "return_tensors": "pt", "return_dict": True}
    asked = tokenizer.apply_chat_template(turns, **how)
    made = model.generate(**asked, max_new_tokens=20, do_sample=False)
    assert "Paris" in tokenizer.decode(made[0][asked["input_ids"].shape[1] :])
