"""Do our finetuning files go through LLaMA-Factory's own dataset loader as they stand?

    python tests/bench/llama_factory.py F
        installs into F/venv first: 5 minutes, 7 GB
    python tests/bench/llama_factory.py F --python venv/bin/python
        an installation of yours; half a minute

LLaMA-Factory pins old versions of what scripts/requirements-train.txt asks for: it needs an
environment of its own. Of each format and language, the project's seed tasks are prepared and
loaded by way of their dataset_info.json. Of every row, what is decoded from the labels must be the
output and an end mark, and what stands before them must hold the instruction and the input. Needs
no GPU and, but for the installation, no network. Exit code 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import importlib.machinery
import io
import json
import os
import subprocess
import sys
import time
import types
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGES = ["llamafactory==0.9.5"]
SEEDS = {"en": "seed_tasks.jsonl", "zh": "seed_tasks_zh.jsonl"}
FORMATS = ["alpaca", "sharegpt", "messages", "prompt-completion"]
NAMES = {"train": "self_instruct", "validation": "self_instruct_validation"}


def installed(folder: Path) -> Path:
    """The Python of an environment that has LLaMA-Factory."""
    python = folder / "venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
    subprocess.run([str(python), "-m", "pip", "install", "-q", *PACKAGES], check=True)
    return python


def prepare(form: str, language: str, folder: Path) -> None:
    """The seed tasks in one format; beside that the same rows as they were, for comparison."""
    command = [
        sys.executable,
        str(ROOT / "scripts" / "prepare_for_finetuning.py"),
        str(ROOT / "data" / SEEDS[language]),
    ]
    for wanted, place in ((form, folder), ("alpaca", folder / "plain")):
        flags = ["--format", wanted, "--split", "0.1", "--output-dir", str(place)]
        subprocess.run([*command, *flags], check=True, stdout=subprocess.DEVNULL)


# What follows runs in LLaMA-Factory's environment.


def without_sound_and_pictures() -> None:
    """LLaMA-Factory imports torchaudio and torchvision, whose builds for CUDA break on a torch for
    the CPU."""
    sound = types.ModuleType("torchaudio")
    sound.__spec__ = importlib.machinery.ModuleSpec("torchaudio", None)
    sys.modules |= {"torchaudio": sound, "torchvision": None}


def byte_tokenizer() -> Any:
    """A token for each byte: decoding gives back every text."""
    import tokenizers
    import transformers

    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    bpe = tokenizers.Tokenizer(
        tokenizers.models.BPE({letter: n for n, letter in enumerate(alphabet)}, [])
    )
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.decoder = tokenizers.decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="</s>", pad_token="<pad>"
    )


def load(folder: Path) -> tuple[Any, dict[str, Any]]:
    """The tokenizer, and what LLaMA-Factory's loader makes of a folder."""
    from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
    from llamafactory.hparams import get_train_args

    settings = {
        "stage": "sft",
        "do_train": True,
        "use_cpu": True,
        "cutoff_len": 1 << 14,
        "template": "default",
    }
    data = {
        "dataset_dir": str(folder),
        "dataset": NAMES["train"],
        "eval_dataset": NAMES["validation"],
    }
    paths = {"model_name_or_path": "none", "output_dir": str(folder / "out"), "report_to": "none"}
    model, data, training, *_ = get_train_args(
        {**settings, **data, **paths, "overwrite_cache": True}
    )
    tokenizer = byte_tokenizer()
    template = get_template_and_fix_tokenizer(tokenizer, data)
    with redirect_stdout(io.StringIO()):  # it prints a whole row
        return tokenizer, get_dataset(
            template, model, data, training, stage="sft", tokenizer=tokenizer
        )


def wrong(tokenizer: Any, loaded: Any, rows: list[dict]) -> int:
    """How many rows are not learnt as they were written. Both are in the same order."""
    bad = abs(len(loaded) - len(rows))
    for encoded, row in zip(loaded, rows, strict=False):
        labels = encoded["labels"]
        start = next(n for n, label in enumerate(labels) if label != -100)
        asked, learnt = (
            tokenizer.decode(encoded["input_ids"][:start]),
            tokenizer.decode(labels[start:]),
        )
        whole = row["instruction"] in asked and row["input"] in asked
        bad += not (whole and learnt.strip() == row["output"] + "</s>")
    return bad


def check(folder: Path, title: str) -> int:
    tokenizer, loaded = load(folder)
    cells, bad = [], 0
    for part in NAMES:
        rows = json.loads((folder / "plain" / f"{part}.json").read_text(encoding="utf-8"))
        found = loaded["train_dataset" if part == "train" else "eval_dataset"]
        n = wrong(tokenizer, found, rows)
        cells.append(f"{len(found):>6} rows, {n} wrong")
        bad += n
    print(f"{title:<24}{'  '.join(cells)}", flush=True)
    return bad


def inside(folder: Path) -> int:
    without_sound_and_pictures()
    import datasets
    import llamafactory.extras.env as env
    import torch
    import transformers

    print(
        f"LLaMA-Factory {env.VERSION}, transformers {transformers.__version__},",
        f"datasets {datasets.__version__}, torch {torch.__version__}, {os.cpu_count()} cores",
    )
    print(f"{'':<24}{'train':<20}  validation")
    cases = [(form, language) for form in FORMATS for language in SEEDS]
    return (
        1
        if sum(check(folder / form / language, f"{form}, {language}") for form, language in cases)
        else 0
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the installation and the files go")
    parser.add_argument(
        "--python", type=Path, help="Python of an environment that has LLaMA-Factory"
    )
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    folder = options.folder.resolve()
    if options.inside:
        return inside(folder)
    python = options.python or installed(folder)
    for form in FORMATS:
        for language in SEEDS:
            prepare(form, language, folder / form / language)
    begun, offline = time.monotonic(), {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "cache")}
    offline |= {"HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "LLAMAFACTORY_VERBOSITY": "ERROR"}
    command = [str(python), __file__, str(folder), "--inside"]
    code = subprocess.run(command, env=os.environ | offline, cwd=folder).returncode
    print(f"{time.monotonic() - begun:.0f} s")
    return code


if __name__ == "__main__":
    sys.exit(main())
