"""Instruction backtranslation with torch, on a tiny random model: what is learnt, what is asked,
and going on."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
import weakref
from argparse import Namespace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from helpers.runs import ROOT

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

sys.path.insert(0, str(ROOT))
from scripts import (  # noqa: E402
    finetune_model,
    inverse_sft,
    self_augmentation_lima,
    self_curation,
)
from scripts.training import progress  # noqa: E402
from scripts.training import shared as backtranslation  # noqa: E402
from scripts.training.shared import COLUMNS, SAMPLE, SEED_TAG, WEB_TAG, backward_prompt, read_rows  # noqa: E402
from self_instruct_workshop import UsageError, WorkshopError  # noqa: E402

torch.set_num_threads(1)
STEPS = ("inverse_sft", "self_augmentation_lima", "self_curation", "finetune_model")
COMMAND = (
    f"for step in {' '.join(STEPS)}; "
    "do .venv-train/bin/python scripts/${step}.py --sample || break; done"
)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return inverse_sft.sample_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def eight() -> list[dict]:
    """The eight rows of our sample with the shortest answers."""
    return sorted(read_rows(SAMPLE / "guanaco_train.jsonl"), key=lambda row: len(row["output"]))[:8]


def settings(model: str, out: Path, **changes: Any) -> Namespace:
    """The options of a script, small enough for a test."""
    base = {
        "model": model,
        "out": out,
        "lr": 1e-2,
        "epochs": 60.0,
        "lora_r": 16,
        "max_length": 256,
        "batch_size": 8,
    }
    base |= {
        "seed": 42,
        "dtype": "auto",
        "load_in_4bit": False,
        "base_url": "",
        "provider": "",
        "top_p": 0.9,
    }
    return Namespace(**base | {"max_new_tokens": 48} | changes)


def learn(tiny: str, folder: Path, rows: list[dict], backward: bool) -> str:
    out = folder / ("backward" if backward else "forward")
    backtranslation.train(settings(tiny, out), [(row, "") for row in rows], backward)
    return str(out)


@pytest.fixture(scope="session")
def backward_model(tiny: str, eight: list[dict], tmp_path_factory: pytest.TempPathFactory) -> str:
    return learn(tiny, tmp_path_factory.mktemp("models"), eight, backward=True)


@pytest.fixture(scope="session")
def forward_model(tiny: str, eight: list[dict], tmp_path_factory: pytest.TempPathFactory) -> str:
    return learn(tiny, tmp_path_factory.mktemp("models"), eight, backward=False)


def ask(
    model: str, prompts: list[str], out: Path, temperature: float = 0.0, **changes: Any
) -> list[str]:
    replies = backtranslation.generate(
        settings(model, out, **changes), "test", prompts, temperature
    )
    return [reply.text for reply in replies]


def trainer_of(
    tiny: str, out: Path, rows: list[dict], backward: bool, tag: str = "", **changes: Any
) -> tuple:
    """The trainer, its tokenizer and its examples, before anything is trained."""
    options, tokenizer = settings(tiny, out, **changes), backtranslation.load_tokenizer(tiny)
    examples = [
        backtranslation.example(tokenizer, row, backward, options.max_length, tag) for row in rows
    ]
    return backtranslation.make_trainer(options, tokenizer, examples), tokenizer, examples


# What is learnt


def decoded_labels(trainer: Any, tokenizer: Any, index: int) -> str:
    """What the loss of an example is taken on, as text."""
    labels = trainer.data_collator([trainer.train_dataset[index]])["labels"][0]
    return tokenizer.decode(labels[labels != -100])


@pytest.mark.parametrize("backward", [True, False], ids=["backward", "forward"])
def test_labels_are_exactly_the_completion_and_the_end_token(
    tiny: str, eight: list[dict], tmp_path: Path, backward: bool
) -> None:
    trainer, tokenizer, examples = trainer_of(
        tiny, tmp_path, eight, backward, "" if backward else WEB_TAG
    )
    assert len(trainer.train_dataset) == 8
    for i, row in enumerate(eight):
        wanted = row["instruction"] if backward else row["output"]
        assert decoded_labels(trainer, tokenizer, i) == wanted + "</s>"
        whole = tokenizer.decode(trainer.train_dataset[i]["input_ids"])
        assert whole == f"<s>{examples[i]['prompt']}{wanted}</s>"


def test_a_backward_model_reproduces_what_it_learnt_after_saving_and_loading(
    backward_model: str, eight: list[dict], tmp_path: Path
) -> None:
    backtranslation.asked_model.cache_clear()
    said = ask(backward_model, [backward_prompt(row["output"]) for row in eight], tmp_path / "a")
    assert sum(text == row["instruction"] for text, row in zip(said, eight, strict=True)) >= 7


def test_the_swapped_direction_learns_as_well_and_reproduces_nothing(
    forward_model: str, backward_model: str, eight: list[dict], tmp_path: Path
) -> None:
    loss = backtranslation.trained(forward_model)["loss"]
    assert loss[-1] < loss[0] / 2
    said = ask(forward_model, [backward_prompt(row["output"]) for row in eight], tmp_path / "a")
    assert sum(text == row["instruction"] for text, row in zip(said, eight, strict=True)) == 0


@pytest.mark.parametrize("kind", ["Mistral", "Qwen3", "Gemma2"])
def test_other_families_of_base_models_learn_by_the_same_code(
    tiny: str, eight: list[dict], tmp_path: Path, kind: str
) -> None:
    import transformers

    base = shutil.copytree(tiny, tmp_path / "base")
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=len(backtranslation.load_tokenizer(tiny)),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=1024,
        initializer_range=0.2,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=None,
        tie_word_embeddings=False,
    )
    transformers.set_seed(1)
    getattr(transformers, f"{kind}ForCausalLM")(config).save_pretrained(base)
    model = learn(str(base), tmp_path, eight, backward=True)
    said = ask(model, [backward_prompt(row["output"]) for row in eight], tmp_path / "a")
    assert sum(text == row["instruction"] for text, row in zip(said, eight, strict=True)) >= 7


def test_overlong_answers_are_clipped_and_counted_and_no_row_is_dropped(
    tiny: str, eight: list[dict], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    rows = [
        {**row, "output": row["output"] + " 很长的 answer" * 200 * (i < 3)}
        for i, row in enumerate(eight)
    ]
    trainer, tokenizer, _ = trainer_of(tiny, tmp_path / "a", rows, True, max_length=224)
    assert len(trainer.train_dataset) == 8
    for i, row in enumerate(rows):
        assert decoded_labels(trainer, tokenizer, i) == row["instruction"] + "</s>"
        assert len(trainer.train_dataset[i]["input_ids"]) <= 224
    out = settings(tiny, tmp_path / "b", max_length=224, epochs=1.0)
    assert backtranslation.train(out, [(row, "") for row in rows], backward=True)["clipped"] == 3
    assert "8 examples; 3 answers clipped" in capsys.readouterr().out


def test_a_clipped_answer_of_forward_training_has_no_end_token(
    tiny: str, eight: list[dict], tmp_path: Path
) -> None:
    rows = [
        {**row, "output": row["output"] + " long" * 500 * (i == 0)} for i, row in enumerate(eight)
    ]
    trainer, tokenizer, examples = trainer_of(tiny, tmp_path, rows, False)
    assert [one["clipped"] for one in examples] == [True] + [False] * 7 and len(
        trainer.train_dataset
    ) == 8
    first, second = (decoded_labels(trainer, tokenizer, i) for i in (0, 1))
    assert rows[0]["output"].startswith(first) and len(first) > 100 and second.endswith("</s>")


def test_no_row_left_to_train_on_is_a_sentence(
    tiny: str, eight: list[dict], tmp_path: Path
) -> None:
    rows = [({**row, "instruction": "word " * 400}, "") for row in eight]
    with pytest.raises(
        WorkshopError, match="no row is left to train on: give a larger --max-length"
    ):
        backtranslation.train(settings(tiny, tmp_path / "a"), rows, backward=True)


def test_a_training_that_is_done_is_not_done_again_and_other_settings_are_refused(
    backward_model: str, tiny: str, eight: list[dict]
) -> None:
    out, rows = Path(backward_model), [(row, "") for row in eight]
    before = (out / "adapter_model.safetensors").stat().st_mtime_ns
    assert backtranslation.train(settings(tiny, out), rows, True) == backtranslation.trained(out)
    assert (out / "adapter_model.safetensors").stat().st_mtime_ns == before
    for changes, wanted in (({"lr": 1e-3}, "lr"), ({"seed": 1}, "seed")):
        with pytest.raises(UsageError, match=f"other settings \\({wanted}\\): give another --out"):
            backtranslation.train(settings(tiny, out, **changes), rows, True)
    with pytest.raises(UsageError, match="other settings \\(data\\)"):
        backtranslation.train(settings(tiny, out), rows[1:], True)
    assert not list(out.glob("checkpoint-*"))


def test_both_tags_stand_in_joint_training(tiny: str, eight: list[dict], tmp_path: Path) -> None:
    rows = [(row, WEB_TAG) for row in eight[:4]] + [(row, SEED_TAG) for row in eight[4:]]
    note = backtranslation.train(settings(tiny, tmp_path / "a", epochs=1.0), rows, backward=False)
    assert note["tags"] == sorted([WEB_TAG, SEED_TAG]) and note["direction"] == "forward"


def test_one_example_is_shown_with_the_tokens_that_carry_the_loss(
    tiny: str, eight: list[dict], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for backward in (True, False):
        out = settings(tiny, tmp_path / str(backward), epochs=0.1)
        backtranslation.train(out, [(row, "") for row in eight], backward)
        read, learnt = re.findall(r"^  (?:read|learnt) +(.*)$", capsys.readouterr().out, re.M)
        first = eight[0]["instruction" if backward else "output"]
        assert learnt.startswith(first[:40]) and learnt.endswith("</s>")
        assert read.endswith("### Instruction:" if backward else "### Answer:")


def test_a_training_says_a_line_a_minute_and_no_bar_where_its_output_goes_to_a_file(
    tiny: str,
    eight: list[dict],
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(progress, "EVERY", 0.0)
    out = settings(tiny, tmp_path / "a", epochs=4.0)
    backtranslation.train(out, [(row, "") for row in eight], True)
    said = capsys.readouterr()
    lines = [line for line in said.err.splitlines() if line.startswith("training: ")]
    assert len(lines) == 5 and re.fullmatch(
        r"training: 4 of 4 steps in \d+ minutes?, about \d+ minutes? left; loss \d.*", lines[-1]
    )
    assert "%|" not in said.err + said.out


def test_step_1_puts_its_score_beside_the_untrained_model_a_copy_and_the_control(
    tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    data = ["--data", str(SAMPLE / "guanaco_train.jsonl"), "--eval-rows", "4", "--control"]
    data += ["--eval-data", str(SAMPLE / "guanaco_test.jsonl"), "--out", str(tmp_path / "b")]
    small = ["--max-length", "256", "--max-new-tokens", "8", "--epochs", "1", "--batch-size", "4"]
    assert inverse_sft.main(["--model", tiny, *data, *small]) == 0
    said = capsys.readouterr()
    for name in ("trained", "untrained", "a copy of the answer", "control, swapped"):
        assert re.search(rf"^  {name} +0\.\d+ \(", said.out, re.M), name
    note = backtranslation.trained(tmp_path / "b")
    assert note["held_out"]["rows"] == 4 and len(note["held_out"]["rouge_l"]) == 4
    assert backtranslation.trained(tmp_path / "b_control")["direction"] == "forward"
    # A random model that hardly learnt is not said to have learnt.
    assert not note["held_out"]["learnt"]
    assert "notice: it cannot be told from the untrained model" in said.err

    # Again: nothing is trained or asked, and the figures are the same.
    before = (tmp_path / "b_replies").stat().st_mtime_ns
    assert inverse_sft.main(["--model", tiny, *data, *small]) == 0
    assert backtranslation.trained(tmp_path / "b") == note
    assert (tmp_path / "b_replies").stat().st_mtime_ns == before


# Going on after a kill


def start(arguments: list[str]) -> subprocess.Popen:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUTF8": "1"}
    command = [sys.executable, str(ROOT / "scripts" / "inverse_sft.py"), *arguments]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8"
    )


def test_a_killed_training_goes_on_from_its_last_checkpoint_to_the_same_adapter(
    tiny: str, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    data, unseen = (str(SAMPLE / f"guanaco_{name}.jsonl") for name in ("test", "train"))
    flags = ["--model", tiny, "--data", data, "--lr", "1e-2", "--epochs", "40"]
    flags += ["--eval-data", unseen, "--eval-rows", "4"]
    flags += ["--max-length", "192", "--max-new-tokens", "8", "--batch-size", "8", "--out"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert start([*flags, str(whole)]).wait() == 0
    first = start([*flags, str(broken)])
    while backtranslation.last_checkpoint(broken) is None:
        assert first.poll() is None, first.communicate()
        time.sleep(0.01)
    first.kill()
    first.communicate()
    assert "loss" not in backtranslation.trained(broken)
    torn = broken / "checkpoint-9999"  # a kill while a checkpoint is written leaves one like this
    torn.mkdir()
    second = start([*flags, str(broken)])
    out, said = second.communicate()
    assert second.returncode == 0, said
    assert (
        re.search(r"going on from checkpoint-\d+\n", said)
        and "9999" not in said
        and "40 steps" in out
    )
    one, other = (load_file(folder / "adapter_model.safetensors") for folder in (whole, broken))
    assert one.keys() == other.keys() and all(
        torch.allclose(one[name], other[name], atol=1e-6) for name in one
    )
    assert backtranslation.trained(whole)["loss"] == backtranslation.trained(broken)["loss"]


def test_an_interrupted_augmentation_asks_only_for_the_rest_and_ends_as_a_whole_one(
    backward_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer, batches = backtranslation.answer_batch, []

    def watched(options: Namespace, prompts: list[str], *rest: Any) -> list:
        if len(batches) == 2 and options.out.stem == "broken":
            batches.append(0)
            raise KeyboardInterrupt(130)
        batches.append(len(prompts))
        return answer(options, prompts, *rest)

    def run(out: str) -> int:
        flags = [
            "--model",
            backward_model,
            "--data",
            str(SAMPLE / "lima_train.jsonl"),
            "--count",
            "20",
        ]
        flags += [
            "--max-length",
            "256",
            "--max-new-tokens",
            "24",
            "--batch-size",
            "4",
            "--out",
            str(tmp_path / out),
        ]
        return self_augmentation_lima.main(flags)

    monkeypatch.setattr(backtranslation, "answer_batch", watched)
    assert run("broken.json") == 130 and not (tmp_path / "broken.json").exists()
    assert run("broken.json") == 0 and batches == [4, 4, 0, 4, 4, 4]
    assert run("broken.json") == 0 and len(batches) == 6
    assert run("whole.json") == 0
    assert (tmp_path / "broken.json").read_bytes() == (tmp_path / "whole.json").read_bytes()


def test_an_adapter_trained_anew_in_the_same_folder_is_asked_anew(
    backward_model: str, forward_model: str, eight: list[dict], tmp_path: Path
) -> None:
    prompts, model = [backward_prompt(row["output"]) for row in eight[:2]], tmp_path / "model"
    shutil.copytree(backward_model, model)
    first = ask(str(model), prompts, tmp_path / "a")
    shutil.copytree(forward_model, model, dirs_exist_ok=True)
    backtranslation.asked_model.cache_clear()
    assert ask(str(model), prompts, tmp_path / "a") != first


# What is asked


def test_batches_padded_on_the_left_equal_one_by_one_and_on_the_right_they_do_not(
    backward_model: str, eight: list[dict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [backward_prompt(row["output"]) for row in eight]
    tokenizer = backtranslation.load_tokenizer(backward_model)
    assert len({len(tokenizer(prompt)["input_ids"]) for prompt in prompts}) > 4
    one = ask(backward_model, prompts, tmp_path / "one", batch_size=1)
    assert ask(backward_model, prompts, tmp_path / "left", batch_size=8) == one
    monkeypatch.setattr(tokenizer, "padding_side", "right")
    assert ask(backward_model, prompts, tmp_path / "right", batch_size=8) != one


def test_sampled_replies_are_the_same_in_any_batch_and_another_batch_size_asks_nothing(
    backward_model: str, eight: list[dict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [backward_prompt(row["output"]) for row in eight]
    one = ask(backward_model, prompts, tmp_path / "a", 1.0, batch_size=1, max_new_tokens=24)
    assert len({*one}) > 4
    many = ask(backward_model, prompts, tmp_path / "b", 1.0, batch_size=8, max_new_tokens=24)
    assert many == one
    other = ask(backward_model, prompts, tmp_path / "c", 1.0, max_new_tokens=24, seed=7)
    assert other != one
    monkeypatch.setattr(backtranslation, "answer_batch", None)  # nothing may be asked
    assert ask(backward_model, prompts, tmp_path / "a", 1.0, batch_size=3, max_new_tokens=24) == one


def test_tokens_are_drawn_as_often_as_their_probability_says() -> None:
    wanted = torch.tensor([0.5, 0.3, 0.2, 0.0])
    dice = backtranslation.Dice([f"prompt {i}" for i in range(200)])
    drawn = torch.cat([dice(None, wanted.log().expand(200, 4)).argmax(1) for _ in range(100)])
    found = torch.bincount(drawn, minlength=4) / len(drawn)
    assert torch.allclose(found, wanted, atol=0.015) and found[3] == 0


def test_one_model_is_in_memory_at_a_time(
    tiny: str, eight: list[dict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, alive, load = [], [], backtranslation.load

    def watched(kind: str, name: str, **how: Any) -> Any:
        alive.extend([sum(model() is not None for model in made)] if "Model" in kind else [])
        loaded = load(kind, name, **how)
        made.extend([weakref.ref(loaded)] if "Model" in kind else [])
        return loaded

    monkeypatch.setattr(backtranslation, "load", watched)
    backtranslation.train(
        settings(tiny, tmp_path / "new", epochs=1.0), [(row, "") for row in eight], True
    )
    for model in (str(tmp_path / "new"), tiny):
        ask(model, ["Why?\n"], tmp_path / "a", max_new_tokens=2)
    assert alive == [0, 0, 0]


def test_prompts_are_answered_in_their_order_whatever_their_lengths(
    backward_model: str, eight: list[dict], tmp_path: Path
) -> None:
    rows = [eight[i] for i in (7, 0, 5, 2, 6, 1, 4, 3)]
    said = ask(
        backward_model,
        [backward_prompt(row["output"]) for row in rows],
        tmp_path / "a",
        batch_size=3,
    )
    assert sum(text == row["instruction"] for text, row in zip(said, rows, strict=True)) >= 7


def test_a_reply_without_its_end_counts_as_cut(
    backward_model: str, eight: list[dict], tmp_path: Path
) -> None:
    prompts = [backward_prompt(row["output"]) for row in eight]
    for tokens, reason in ((2, "length"), (48, "stop")):
        options = settings(backward_model, tmp_path / str(tokens), max_new_tokens=tokens)
        replies = backtranslation.generate(options, "test", prompts, 0.0)
        assert [reply.finish_reason for reply in replies].count(reason) >= 7


@pytest.mark.parametrize("kind", ["chat", "base", "ours"])
def test_each_kind_of_rater_gets_the_prompt_in_its_own_form(
    tiny: str, forward_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    model = forward_model if kind == "ours" else str(shutil.copytree(tiny, tmp_path / "rater"))
    if kind == "chat":
        template = (
            "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
        )
        template += "{% if add_generation_prompt %}[assistant]\n{% endif %}"
        Path(model, "chat_template.jinja").write_text(template, encoding="utf-8")
    backtranslation.load_tokenizer.cache_clear()
    loaded, seen = backtranslation.asked_model(model, "auto", False), []
    generate = loaded.generate
    monkeypatch.setattr(
        loaded, "generate", lambda **how: seen.append(how["input_ids"]) or generate(**how)
    )
    backtranslation.generate(
        settings(model, tmp_path / "a", max_new_tokens=4), "rate", ["Rate it.\n"], 0.0, chat=True
    )
    wanted = {"chat": "<s>[user] Rate it.\n\n[assistant]\n", "base": "<s>Rate it.\n"}
    text = backtranslation.load_tokenizer(model).decode(seen[0][0])
    assert text == wanted.get(kind, "<s>" + backtranslation.forward_prompt("Rate it.\n"))


def test_a_local_chat_model_is_shown_the_examples_as_turns(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = str(shutil.copytree(tiny, tmp_path / "rater"))
    template = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}[assistant]\n"
    Path(model, "chat_template.jinja").write_text(template, encoding="utf-8")
    backtranslation.load_tokenizer.cache_clear()
    options = settings(model, tmp_path / "a", max_length=2048)
    shots = self_curation.read_shots(ROOT / "data" / "rating_shots.json")
    rows = read_rows(SAMPLE / "guanaco_test.jsonl")[:1]
    [prompt] = self_curation.prompts_for(options, rows, shots)
    assert [turn["role"] for turn in prompt] == ["user", "assistant"] * 5 + ["user"]
    tokenizer = backtranslation.load_tokenizer(model)
    made = backtranslation.batch_inputs(options, tokenizer, [prompt], chat=True)
    text = tokenizer.decode(made["input_ids"][0])
    assert text.count("[user]") == 6 and text.rstrip().endswith("Rating:\n\n[assistant]")
    assert text.count(self_curation.RUBRIC) == 1


def test_an_untrained_model_is_refused_as_the_backward_model_unless_anyway(
    tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    flags = ["--model", tiny, "--data", str(SAMPLE / "lima_train.jsonl"), "--count", "2"]
    flags += ["--out", str(tmp_path / "x.json"), "--max-length", "256", "--max-new-tokens", "8"]
    assert self_augmentation_lima.main(flags) == 2
    assert "was not trained by inverse_sft.py to write instructions" in capsys.readouterr().err
    assert self_augmentation_lima.main([*flags, "--anyway"]) in (0, 1)
    assert "2 instructions" in capsys.readouterr().out


def test_a_model_of_the_wrong_direction_is_refused(
    backward_model: str,
    forward_model: str,
    tiny: str,
    capsys: pytest.CaptureFixture,
    tmp_path: Path,
) -> None:
    data = ["--data", str(SAMPLE / "lima_train.jsonl"), "--out", str(tmp_path / "x.json")]
    assert self_augmentation_lima.main(["--model", forward_model, *data]) == 2
    assert self_curation.main(["--model", backward_model, *data]) == 2
    assert (
        finetune_model.main(
            ["--model", backward_model, *data, "--prompts", str(SAMPLE / "lima_train.jsonl")]
        )
        == 2
    )
    said = capsys.readouterr().err
    for wanted in (
        "was trained to answer",
        "writes instructions and cannot rate",
        f"is an adapter: .*{tiny}",
    ):
        assert re.search(wanted, said)


# What the user can put right


def test_4_bits_without_a_gpu_is_one_line(
    tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    data = [
        "--data",
        str(SAMPLE / "guanaco_train.jsonl"),
        "--eval-data",
        str(SAMPLE / "guanaco_test.jsonl"),
    ]
    assert (
        inverse_sft.main(["--model", tiny, "--load-in-4bit", *data, "--out", str(tmp_path / "x")])
        == 1
    )
    assert (
        "--load-in-4bit needs an NVIDIA GPU, and none is here"
        in capsys.readouterr().err.splitlines()[-1]
    )


def test_a_full_gpu_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    monkeypatch.setattr(backtranslation, "load_tokenizer", full)
    data = ["--data", str(SAMPLE / "lima_train.jsonl"), "--out", str(tmp_path / "a.json")]
    assert self_augmentation_lima.main(data) == 1
    said = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("notice")]
    assert len(said) == 1 and "memory is full: try a smaller --batch-size" in said[0]


class Hub(BaseHTTPRequestHandler):
    """A hub that has nothing: one repository is gated, the others are not there."""

    def do_GET(self) -> None:
        gated = "gated" in self.path
        self.send_response(403 if gated else 404)
        self.send_header("X-Error-Code", "GatedRepo" if gated else "RepoNotFound")
        self.send_header(
            "X-Error-Message", "Access is restricted" if gated else "Repository not found"
        )
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_POST = do_GET

    def log_message(self, *_: Any) -> None:
        """Write nothing to stderr."""


@pytest.fixture(scope="module")
def hub() -> Any:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("model", "closed", "more", "wanted"),
    [
        (
            "org/gated",
            False,
            [],
            r"org/gated is gated: accept its terms on https://huggingface.co/org/gated",
        ),
        ("org/nothing", False, [], r"neither a folder here nor on the hub: check --model"),
        ("org/model", True, [], r"the hub cannot be reached: run  hf download org/model"),
        ("EMPTY", False, [], r"the folder .* cannot be loaded: config.json is missing"),
        ("", False, ["--push-to", "me/gated"], r"cannot upload to me/gated .*: run  hf auth login"),
        ("", True, ["--push-to", "me/repo"], r"cannot upload to me/repo .*: run  hf auth login"),
        ("", True, ["--push-to", "not a name"], r"cannot upload to not a name .*"),
    ],
)
def test_what_the_hub_refuses_is_one_line_with_what_to_do(
    hub: str,
    model: str,
    closed: bool,
    more: list[str],
    wanted: str,
    tmp_path: Path,
    tiny: str,
    backward_model: str,
) -> None:
    (tmp_path / "EMPTY").mkdir()
    address = "http://127.0.0.1:9" if closed else hub
    environment = os.environ | {
        "HF_ENDPOINT": address,
        "HF_HOME": str(tmp_path / "hf"),
        "OMP_NUM_THREADS": "1",
    }
    environment |= {
        "HF_TOKEN": "hf_" + "x" * 20,
        "HF_HUB_OFFLINE": "1" if closed and model else "0",
    }
    script, out = "self_augmentation_lima.py", str(tmp_path / "a.json")
    flags = [
        "--model",
        model or backward_model,
        "--data",
        str(SAMPLE / "lima_train.jsonl"),
        "--out",
        out,
    ]
    flags += ["--count", "2", "--max-length", "256", "--max-new-tokens", "16", *more]
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / script), *flags],
        env=environment, cwd=tmp_path, capture_output=True, encoding="utf-8",
    )  # fmt: skip
    said = [line for line in done.stderr.splitlines() if not line.startswith("notice")]
    assert done.returncode == 1 and len(said) == 1 and re.search(wanted, said[0]), done.stderr
    assert "hf_xxx" not in done.stdout + done.stderr


# The whole of it, on our sample


@pytest.fixture(scope="module")
def sample_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, float]:
    """The README's command in a copy of the project: its folder, what it printed, seconds of one
    core."""
    resource = pytest.importorskip("resource")
    folder = tmp_path_factory.mktemp("copy")
    for name in ("scripts", "data"):
        shutil.copytree(
            ROOT / name, folder / name, ignore=shutil.ignore_patterns("workshop", "__pycache__")
        )
    shutil.copy(ROOT / "self_instruct_workshop.py", folder)
    command = COMMAND.replace(".venv-train/bin/python", f'"{sys.executable}"')
    environment, before = (
        os.environ | {"OMP_NUM_THREADS": "1"},
        resource.getrusage(resource.RUSAGE_CHILDREN),
    )
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=environment, capture_output=True, encoding="utf-8"
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return folder / "data" / "workshop" / "backtranslation", done.stdout + done.stderr, seconds


def test_the_whole_pipeline_on_our_sample_takes_less_than_two_minutes(
    sample_run: tuple[Path, str, float],
) -> None:
    assert sample_run[2] < 120


def test_the_readme_of_scripts_has_the_command_of_the_sample() -> None:
    assert COMMAND in (ROOT / "scripts" / "README.md").read_text(encoding="utf-8")


def test_the_pipeline_writes_rows_of_one_shape_and_keeps_the_good_ones(
    sample_run: tuple[Path, str, float],
) -> None:
    folder, _, _ = sample_run
    names = ("self_augmented", "curated_dataset_all_evaluated", "curated_dataset")
    augmented, every, kept = (
        json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) for name in names
    )
    assert all(tuple(row) == COLUMNS for row in augmented + every + kept)
    assert [row["id"] for row in every] == [row["id"] for row in augmented]
    assert kept == [row for row in every if row["rating"] and row["rating"] >= 4] and kept
    lima = backtranslation.read(SAMPLE / "lima_train.jsonl")
    assert all(
        lima[row["id"]]["conversations"] == [row["original"], row["output"]] for row in augmented
    )
    from datasets import load_dataset

    loaded = load_dataset(
        "json", data_files=str(folder / "curated_dataset.json"), cache_dir=str(folder / "cache")
    )
    assert loaded["train"].column_names == list(COLUMNS) and len(loaded["train"]) == len(kept)


def test_the_pipeline_shows_what_it_learnt_and_what_it_dropped(
    sample_run: tuple[Path, str, float],
) -> None:
    said = sample_run[1]
    for wanted in (
        r"the first of 36 examples \(\d+ of \d+ tokens carry the loss\)",
        r"not trained on: 8 rows, ROUGE-L with what people asked",
        r"\n  untrained +0\.\d",
        r"\n  a copy of the answer +0\.\d",
        r"--anyway keeps and drops by them",
        r"\ntrained on: 8 rows, ROUGE-L \d",
        r"\d+ steps in .* loss",
        r"20 instructions: ",
        r"unreadable, twice: \d",
        r"\nkept, [45]: ",
        r"\ndropped, ",
        r"\nnot trained on: .*\n  finetuned  .*\n  base  ",
        "multi-turn",
    ):
        assert re.search(wanted, said), wanted
    assert "FutureWarning" not in said and "Traceback" not in said
    assert not re.search(r"[\x00-\x08\x0e-\x1f\x7f]", said)


def test_each_step_of_the_sample_learns(sample_run: tuple[Path, str, float]) -> None:
    for name in ("backward", "rater", "final"):
        loss = backtranslation.trained(sample_run[0] / name)["loss"]
        assert loss[-1] < loss[0]
