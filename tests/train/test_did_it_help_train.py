"""scripts/did_it_help.py with torch, on a tiny random model: what helps, what does not, going
on."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.runs import PATIENCE, ROOT

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from scripts import did_it_help, inverse_sft  # noqa: E402
from scripts.helping import trained  # noqa: E402
from scripts.training import shared  # noqa: E402

torch.set_num_threads(1)

# A task that a tiny model can learn, and that its words alone do not give away: among words
# without a meaning stands one animal, and the answer is its sound.
TEXT = "river stone paper green quick seven cloud table under north bread light sound early"
TEXT += " glass field story metal plant round winter simple market bridge yellow letter silent"
WORDS = TEXT.split()
SOUNDS = {"dog": "it barks at night", "cat": "the soft meow", "cow": "moo moo moo"}


def sounds(number: int, seed: int) -> list[dict]:
    draw = random.Random(seed)
    rows = []
    for _ in range(number):
        animal = draw.choice([*SOUNDS])
        words = draw.sample(WORDS, 5)
        words.insert(draw.randrange(6), animal)
        rows.append({"instruction": " ".join(words), "input": "", "output": SOUNDS[animal]})
    return rows


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return inverse_sft.sample_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two datasets, of which the second teaches another sound, and an exam."""
    folder = tmp_path_factory.mktemp("files")
    wrong = [{**row, "output": "nothing to hear here"} for row in sounds(60, 1)]
    rows = {"right": sounds(160, 1), "wrong": wrong, "exam": sounds(24, 2)}
    for name, some in rows.items():
        (folder / f"{name}.json").write_text(json.dumps(some), encoding="utf-8")
    return {name: folder / f"{name}.json" for name in rows}


def flags(tiny: str, files: dict[str, Path], out: Path, *more: object) -> list[str]:
    fixed = {"--eval": files["exam"], "--model": tiny, "--out": out, "--lr": 0.01, "--num": 24}
    fixed |= {"--max-length": 128, "--max-new-tokens": 16, "--batch-size": 16}
    typed = [str(part) for pair in fixed.items() for part in pair]
    return [*typed, "--drop-overlap", *map(str, more)]


def results(out: Path) -> dict:
    return json.loads((out / "results.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def measured(tiny: str, files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the tool says of data that does help, with the control."""
    out = tmp_path_factory.mktemp("measured") / "out"
    more = (files["right"], "--steps", 150, "--shuffled")
    assert did_it_help.main(flags(tiny, files, out, *more)) == 0
    return out


def test_data_that_helps_is_told_from_the_same_data_with_shuffled_answers(measured: Path) -> None:
    told = results(measured)
    (verdict,) = told["verdicts"]
    assert verdict["kind"] == "helped"
    assert verdict["gain"]["low"] > 0.2 and verdict["control"]["low"] > 0.2
    lines = {line["name"]: line for line in told["table"]}
    assert lines["data"]["rouge"]["mean"] > 0.7
    # The base says nothing of use, and one sound for all questions fits a third of them.
    assert lines["before"]["rouge"]["mean"] < 0.1
    assert lines["shuffled-data"]["rouge"]["mean"] < 0.5


def test_the_folder_holds_card_answers_and_page_and_no_path_of_this_machine(
    measured: Path, tiny: str
) -> None:
    card = (measured / "README.md").read_text(encoding="utf-8")
    page = (measured / "did_it_help.html").read_text(encoding="utf-8")
    answers = (measured / "answers.jsonl").read_text(encoding="utf-8")
    whole = (measured / "results.json").read_text(encoding="utf-8")
    told = results(measured)
    assert told["status"] == "done" and told["held_out"]["sha256"] in card
    assert "right helped." in card and "| the base model |" in card
    for text in (card, page, answers, whole):
        assert str(measured.parent) not in text and str(Path(tiny).parent) not in text
    rows = [json.loads(line) for line in answers.split("\n")[:-1]]
    assert len(rows) == 24
    assert set(rows[0]["answers"]) == {"before", "data-42", "shuffled-data-42"}


def test_the_held_out_loss_is_taken_from_the_base_to_the_last_step(measured: Path) -> None:
    curve = results(measured)["curves"]["data-42"]
    assert [curve[0][0], curve[-1][0]] == [0, 150] and len(curve) == 5
    assert curve[-1][1] < curve[0][1] / 2


# A control that was measured stays, though it is not asked for again.
@pytest.mark.parametrize("control", [["--shuffled"], []], ids=str)
def test_the_same_command_again_trains_and_asks_nothing(
    measured: Path,
    tiny: str,
    files: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    control: list[str],
) -> None:
    before = results(measured)
    monkeypatch.setattr(shared, "fit_adapter", None)
    monkeypatch.setattr(shared, "answer_batch", None)
    more = (files["right"], "--steps", 150, *control)
    assert did_it_help.main(flags(tiny, files, measured, *more)) == 0
    assert results(measured) == before


@pytest.mark.parametrize("changed", [["--steps", "3"], ["--lr", "0.1"], ["--num", "20"]])
def test_another_measurement_never_goes_into_the_same_folder(
    measured: Path,
    tiny: str,
    files: dict[str, Path],
    changed: list[str],
    capsys: pytest.CaptureFixture,
) -> None:
    before = (measured / "results.json").read_bytes()
    more = [files["right"], "--steps", 150, *changed]
    assert did_it_help.main(flags(tiny, files, measured, *more)) == 2
    assert "holds a measurement with other settings" in capsys.readouterr().err
    assert (measured / "results.json").read_bytes() == before


def test_a_folder_with_other_files_is_left_alone(
    tiny: str, files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "mine"
    out.mkdir()
    (out / "README.md").write_text("my notes", encoding="utf-8")
    assert did_it_help.main(flags(tiny, files, out, files["right"])) == 2
    assert "holds other files" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == ["README.md"]


def test_two_datasets_are_compared_over_seeds_on_the_same_questions(
    tiny: str, files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "out"
    more = ["--compare", files["right"], files["wrong"], "--steps", 60, "--repeat", 2]
    assert did_it_help.main(flags(tiny, files, out, *more)) == 0
    told = results(out)
    both = next(one for one in told["verdicts"] if one["of"] == "a and b")
    assert both["kind"] == "worse" and len(both["spread"]) == 2
    assert "wrong is worse than right." in capsys.readouterr().out
    assert [one["epochs"] for one in told["datasets"]] == [6.0, 16.0]
    assert [model["name"] for model in told["models"]] == ["a-42", "b-42", "a-43", "b-43"]


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to another process there")
def test_an_interrupted_training_goes_on_from_its_checkpoint(
    tiny: str, files: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = [sys.executable, str(ROOT / "scripts" / "did_it_help.py")]
    command += flags(tiny, files, out, files["right"], "--steps", "100")
    quiet = {"env": os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}}
    started = subprocess.Popen(command, stderr=subprocess.PIPE, encoding="utf-8", **quiet)
    deadline = time.monotonic() + PATIENCE
    while not list(out.glob("adapters/data-42/checkpoint-*/trainer_state.json")):
        assert time.monotonic() < deadline and started.poll() is None
        time.sleep(0.1)
    started.send_signal(signal.SIGINT)
    _, said = started.communicate(timeout=PATIENCE)
    assert started.returncode == 130 and "go on with: " in said
    assert not (out / "results.json").exists()
    done = subprocess.run(command, capture_output=True, encoding="utf-8", **quiet)
    assert done.returncode == 0, done.stderr
    assert "going on from checkpoint-" in done.stderr
    assert results(out)["models"] == [{"name": "data-42", "group": "data", "seed": 42}]


# A model with a chat template


TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.fixture(scope="session")
def chatty(tiny: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("models") / "chatty"
    shutil.copytree(tiny, folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    return str(folder)


def test_a_chat_model_is_asked_and_trained_in_its_own_template(
    chatty: str, files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    kept = shared.batch_inputs

    def spy(options: object, tokenizer: object, prompts: list[str], chat: bool) -> object:
        made = kept(options, tokenizer, prompts, chat)
        asked.append(tokenizer.decode(made["input_ids"][-1], skip_special_tokens=False))
        return made

    monkeypatch.setattr(shared, "batch_inputs", spy)
    out = tmp_path / "out"
    assert did_it_help.main(flags(chatty, files, out, files["right"], "--steps", "10")) == 0
    assert len(asked) == 4  # two batches before, two after
    for text in asked:
        assert text.count("<|user|>") == 1 and text.endswith("<|assistant|>")
        assert "### Instruction" not in text
    assert results(out)["form"] == "chat"
    assert shared.trained(out / "adapters" / "data-42")["chat_form"] is True


def test_the_loss_in_chat_form_is_taken_on_the_answer_alone(chatty: str, tmp_path: Path) -> None:
    options = trained.settings(
        did_it_help.command_line().parse_args([]), model=chatty, out=tmp_path, chat_form=True
    )
    tokenizer = shared.load_tokenizer(chatty)
    rows = [(row, "") for row in sounds(4, 1)]
    examples = shared.make_examples(options, tokenizer, rows, backward=False)
    trainer = shared.make_trainer(options, tokenizer, examples)
    for i, (row, _) in enumerate(rows):
        labels = trainer.data_collator([trainer.train_dataset[i]])["labels"][0]
        assert tokenizer.decode(labels[labels != -100]) == row["output"] + "</s>"


def test_an_adapter_of_one_form_is_not_taken_for_the_other(
    tiny: str, chatty: str, files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "out"
    assert did_it_help.main(flags(chatty, files, out, files["right"], "--steps", "3")) == 0
    (out / "results.json").unlink()
    for name in ("README.md", "answers.jsonl", "did_it_help.html"):
        (out / name).unlink()
    more = (files["right"], "--steps", "3", "--form", "plain")
    assert did_it_help.main(flags(chatty, files, out, *more)) == 2
    assert "trained with other settings (chat_form)" in capsys.readouterr().err
    more = (files["right"], "--form", "chat")
    assert did_it_help.main(flags(tiny, files, tmp_path / "b", *more)) == 2
    assert "has no chat template" in capsys.readouterr().err


def test_the_sample_runs_to_its_end(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "did_it_help.py"), "--sample"]
    command += ["--out", str(tmp_path / "out"), "--steps", "10"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert "CPU time in all: about" in done.stderr
    assert "an empty answer" in done.stdout
