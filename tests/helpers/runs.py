"""What several tests share: a run, its command line and its files, and a model that waits."""

from __future__ import annotations

import ctypes
import json
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, fields
from itertools import count
from pathlib import Path

import pytest

import self_instruct_workshop as workshop
from helpers.server import Server, scripted_model
from self_instruct_workshop import STAGES, STEP_FILES, Config, run

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = (
    120  # seconds until a test gives up on something that never happens; nothing is measured by it
)
FLAGS = ("--num-instructions", "32", "--concurrency", "4", "--classify-together", "2")
FIELDS = {
    "step1_instructions.jsonl": (
        "id instruction most_similar avg_similarity_score metadata request_idx"
    ),
    "step2_is_classification.jsonl": "id instruction is_classification labels response metadata",
    "step3_raw_instances.jsonl": (
        "id instruction is_classification instances first_problem second_answers response metadata"
    ),
    "step4_final.jsonl": "instruction input output",
    "rejected.jsonl": "stage rule instruction input output evidence score",
}


# --------------------------------------------------------------------------------------------------
# A run, and the files it writes.


def quiet(config: Config) -> dict:
    return run(config, say=lambda text: None)


def local(server: Server, **changes: object) -> dict:
    return {"provider": "local", "base_url": server.url + "/v1", **changes}


def command(config: Config) -> list[str]:
    """The command line of a run with these settings, and a request for each task in every stage."""
    typed = asdict(config)
    flags = []
    for setting in fields(Config):
        value = typed[setting.name]
        # A switch has no value: it is named where it is not as it is by default.
        if isinstance(value, bool):
            flags += [workshop.flag_of(setting)] if value != setting.default else []
        elif value != "":
            flags.append(f"{workshop.flag_of(setting)}={value}")
    return [sys.executable, str(ROOT / "self_instruct.py"), *flags, "--classify-together=1"]


def finish(config: Config, **how: object) -> subprocess.CompletedProcess:
    return subprocess.run(command(config), capture_output=True, encoding="utf-8", timeout=60, **how)


def rows(folder: Path, name: str) -> list[dict]:
    """The rows of a JSONL file, read as strictly as other tools do.

    A file without rows is not there, but for the dataset.
    """
    if not (folder / name).exists() and name != STEP_FILES[-1]:
        return []
    text = (folder / name).read_bytes().decode("utf-8")
    assert not text or text.endswith("\n")
    return [json.loads(line, parse_constant=pytest.fail) for line in text.split("\n")[:-1]]


def neighbours(row: dict) -> dict[str, float]:
    """The nearest instructions of a row of step 1, with their scores."""
    assert all(set(near) == {"instruction", "score"} for near in row["most_similar"])
    return {near["instruction"]: near["score"] for near in row["most_similar"]}


def views(folder: Path) -> dict[str, bytes]:
    """The bytes of every step file and of rejected.jsonl, but for the times in them."""
    found = [folder / name for name in FIELDS if (folder / name).exists()]
    return {path.name: re.sub(rb'"created_at": "[^"]*"', b"", path.read_bytes()) for path in found}


def prompts_of(rows: list[dict]) -> list[str]:
    """The prompt behind each row of step 1; only the first row of a request keeps it."""
    found: dict[int, str] = {}
    for row in rows:
        found.setdefault(row["request_idx"], row["metadata"].get("prompt", ""))
    return [found[row["request_idx"]] for row in rows]


def summary_of(folder: Path) -> dict:
    return json.loads((folder / "run.json").read_text(encoding="utf-8"))


# --------------------------------------------------------------------------------------------------
# What holds for the files of every run.


def check_counts(folder: Path, summary: dict) -> None:
    assert json.loads(json.dumps(summary)) == summary_of(folder)
    counts = summary["counts"]
    lines = [len(rows(folder, name)) for name in STEP_FILES]
    rejected = Counter((row["stage"], row["rule"]) for row in rows(folder, "rejected.jsonl"))
    assert rejected == {
        (stage, rule): n for stage in STAGES for rule, n in counts[stage]["rejected"].items()
    }
    for stage in STAGES[1:]:
        parts = counts[stage]
        assert parts["in"] == parts["out"] + sum(parts["rejected"].values()) + parts["undone"], (
            stage
        )
    assert counts["generate"]["in"] == lines[0] + sum(counts["generate"]["rejected"].values())
    assert counts["generate"]["out"] == counts["classify"]["in"] == lines[0]
    assert counts["classify"]["out"] == counts["instances"]["in"] == lines[1]
    assert counts["instances"]["out"] == sum(
        bool(row["instances"]) for row in rows(folder, STEP_FILES[2])
    )
    assert lines[2] == lines[1] - counts["instances"]["undone"]
    pairs = sum(len(row["instances"]) for row in rows(folder, STEP_FILES[2]))
    stage_3 = ("cut_off", "copied_example")
    turned_away = sum(counts["filter"]["rejected"].get(rule, 0) for rule in stage_3)
    assert counts["filter"]["in"] == pairs + turned_away
    assert counts["filter"]["out"] == lines[3]
    flags = Counter(row["is_classification"] for row in rows(folder, STEP_FILES[1]))
    named = {True: "classification", False: "not_classification", None: "unknown"}
    assert {name: flags[flag] for flag, name in named.items()} == {
        n: counts["classify"][n] for n in named.values()
    }


def stage_2_prompt(config: Config, instruction: str) -> str:
    """A prompt of stage 2 as one text."""
    return workshop.as_text(workshop.classify_prompt(config, instruction))


def stage_3_prompt(config: Config, instruction: str, labelled: bool) -> str:
    """A prompt of stage 3 as one text."""
    task = workshop.Task("", instruction, labelled)
    return workshop.as_text(workshop.instances_prompt(config, task))


def check_pairs(config: Config) -> None:
    """Every final row is what the model said to its own instruction, and no (instruction, input)
    comes twice."""
    folder, said, model = Path(config.work_dir), {}, scripted_model()
    labels = {row["id"]: row["labels"] for row in rows(folder, "step2_is_classification.jsonl")}
    for task in rows(folder, "step3_raw_instances.jsonl"):
        asked = workshop.Task("", task["instruction"], task["is_classification"])
        asked.notes["classify"] = {"labels": labels[task["id"]]}
        prompt = workshop.instances_prompt(config, asked)
        reply = model(workshop.as_text(prompt), {})
        assert task["response"] == reply
        said[task["instruction"]] = workshop.parse_instances(reply, bool(task["is_classification"]))
    final = rows(folder, "step4_final.jsonl")
    assert all((row["input"], row["output"]) in said[row["instruction"]] for row in final)
    assert len({(row["instruction"], row["input"]) for row in final}) == len(final)


# --------------------------------------------------------------------------------------------------
# A model that waits, waiting for what it does, and a process without special rights.


def until(true: Callable[[], object]) -> None:
    """Wait until something has happened."""
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, "this never happened"
        time.sleep(0.005)


def stage_of(prompt: str) -> str:
    """Which stage a prompt belongs to, by what stands in a prompt."""
    if re.search(r"\n\d+\.\Z", prompt):
        return "generate"
    return "instances" if "Input:" in prompt else "classify"


class Gate:
    """A scripted model that falls silent in the midst of a stage: `reached` is set, and replies
    wait until `opened`."""

    def __init__(self, stage: str, after: int) -> None:
        self.stage, self.after, self.seen, self.model = stage, after, count(), scripted_model()
        self.reached, self.opened = threading.Event(), threading.Event()

    def __call__(self, prompt: str, body: dict) -> str:
        if stage_of(prompt) == self.stage and next(self.seen) >= self.after:
            self.reached.set()
            self.opened.wait(PATIENCE)
        return self.model(prompt, body)


def obey_permissions() -> None:
    """Give up the superuser's right to write everywhere (CAP_DAC_OVERRIDE), if this process has
    it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(24, 1, 0, 0, 0)
