"""Other programs beside this one, against the same server: plain requests, and a whole run.

    python tests/bench/others.py                            this program alone
    python tests/bench/others.py --curator VENV/bin/python --distilabel VENV/bin/python \
        --camel VENV/bin/python

Each program is in an environment of its own, as their packages do not go together:

    pip install bespokelabs-curator         curator
    pip install "distilabel[openai]" requests
    pip install camel-ai "mcp<2" rouge torch transformers       CAMEL's SelfInstructPipeline

Plain requests: 2,000 prompts, each with a reply of 320 characters at once, 64 in flight; each
program keeps what came as it does by itself. A whole run: 100 new instructions with their
instances, each program as it comes. curator has no pipeline of this kind: it gets the prompts of
our three stages, in three passes, and filters nothing. Seconds are with the start of the program.

curator and CAMEL load a tokenizer from the network; without one, TIKTOKEN_CACHE_DIR must name a
folder that has it, such as litellm/litellm_core_utils/tokenizers among curator's packages.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
IN_FLIGHT = 64
REQUESTS = 2000
WANTED = 100
PACKAGES = {"ours": "openai", "curator": "bespokelabs-curator", "distilabel": "distilabel"}
PACKAGES |= {"camel": "camel-ai"}


# Each of these runs in its program's own environment. It gets the server's address, a folder, and
# what to ask; whole runs return how many instructions they have.


def prompts() -> list[str]:
    return [
        f"Say something about the number {n}. " + "It is a fine number. " * 20
        for n in range(REQUESTS)
    ]


def plain_ours(address: str, folder: str) -> None:
    """By the door through which all stages ask, journal included."""
    sys.path.insert(0, str(ROOT))
    from self_instruct_workshop import Config, Model, parameters

    server = {"provider": "local", "model": "m", "base_url": address}
    config = Config(**server, work_dir=folder, concurrency=IN_FLIGHT)
    sampling = parameters(config, "instances")
    with Model(config) as model:

        def ask(prompt: str) -> Any:
            return model.ask("instances", prompt, sampling, {"prompt": prompt})

        assert all(reply for _, reply in model.ask_each("instances", ask, prompts()))


def curator_model(address: str) -> Any:
    from bespokelabs import curator

    class Passed(curator.LLM):
        """A prompt as it is, and its reply."""

        def prompt(self, row: dict) -> Any:
            return row["prompt"]

        def parse(self, row: dict, response: str) -> dict:
            return {"reply": response}

    limits = {"max_requests_per_minute": 10**7, "max_tokens_per_minute": 10**10}
    limits |= {"max_concurrent_requests": IN_FLIGHT, "base_url": address}
    return Passed(model_name="gpt-4o-mini", backend="openai", backend_params=limits)


def plain_curator(address: str, folder: str) -> None:
    answers = curator_model(address)([{"prompt": prompt} for prompt in prompts()])
    rows = getattr(answers, "dataset", answers)
    assert len(rows) == REQUESTS


def plain_distilabel(address: str, folder: str) -> None:
    from distilabel.models import OpenAILLM
    from distilabel.pipeline import Pipeline
    from distilabel.steps import LoadDataFromDicts
    from distilabel.steps.tasks import TextGeneration

    with Pipeline(cache_dir=folder) as pipeline:
        data = LoadDataFromDicts(data=[{"instruction": prompt} for prompt in prompts()])
        llm = OpenAILLM(model="m", base_url=address, api_key="none")
        data >> TextGeneration(llm=llm, input_batch_size=IN_FLIGHT)
    rows = pipeline.run(use_cache=False)["default"]["train"]
    assert len(rows) == REQUESTS


def run_ours(address: str, folder: str) -> int:
    """The command line, in this process."""
    sys.path.insert(0, str(ROOT))
    import self_instruct

    flags = ["--provider", "local", "--model", "m", "--base-url", address, "--work-dir", folder]
    flags += ["--num-instructions", str(WANTED), "--concurrency", str(IN_FLIGHT)]
    assert self_instruct.main(flags) == 0
    rows = (Path(folder) / "step4_final.jsonl").read_text(encoding="utf-8").splitlines()
    return len({json.loads(row)["instruction"] for row in rows})


def run_curator(address: str, folder: str) -> int:
    """The prompts of our stages, which BENCH_JOURNAL holds, in three passes."""
    passes: dict[str, list[dict]] = {"generate": [], "classify": [], "instances": []}
    for line in Path(os.environ["BENCH_JOURNAL"]).read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        if record["prompt"]:
            passes[record["stage"]].append({"prompt": record["prompt"]})
    rows = []
    for asked in passes.values():
        answers = curator_model(address)(asked)
        rows = getattr(answers, "dataset", answers)
    return len(rows)


def run_camel(address: str, folder: str) -> int:
    from camel.agents import ChatAgent
    from camel.datagen.self_instruct import SelfInstructPipeline
    from camel.models import ModelFactory
    from camel.types import ModelPlatformType

    platform = ModelPlatformType.OPENAI_COMPATIBLE_MODEL
    model = ModelFactory.create(platform, "m", url=address, api_key="none")
    out = Path(folder) / "camel.json"
    seeds = str(ROOT / "data" / "seed_tasks.jsonl")
    SelfInstructPipeline(ChatAgent(model=model), seeds, WANTED, str(out)).generate()
    return len(json.loads(out.read_text(encoding="utf-8")))


PLAIN: dict[str, Callable] = {"ours": plain_ours, "curator": plain_curator}
PLAIN |= {"distilabel": plain_distilabel}
RUNS: dict[str, Callable] = {"ours": run_ours, "curator": run_curator, "camel": run_camel}


# The bench itself.


def version_in(python: str, package: str) -> str:
    """The package's version in an environment; "" where it is not there."""
    code = f"from importlib.metadata import version; print(version({package!r}))"
    found = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    return found.stdout.strip()


def measure(python: str, name: str, whole: bool, delay: str = "0", journal: str = "") -> str:
    """Run one program against a server of its own; return a row of the table."""
    from quick_server import asked_of, quick_server

    variables = os.environ | {"OPENAI_API_KEY": "none", "OPENAI_BASE_URL": ""}
    variables |= {"TELEMETRY_ENABLED": "false", "CURATOR_VIEWER": "0", "BENCH_JOURNAL": journal}
    variables |= {"HF_HUB_OFFLINE": "1", "DISTILABEL_LOG_LEVEL": "ERROR"}
    with quick_server(delay, plain=not whole) as address, tempfile.TemporaryDirectory() as folder:
        variables |= {"CURATOR_CACHE_DIR": folder, "HF_HOME": folder}
        variables["OPENAI_BASE_URL"] = address
        command = [python, __file__, "--child", name, address, folder, *["whole"] * whole]
        with open(Path(folder) / "said.txt", "w+b") as said:
            begun = time.perf_counter()
            running = subprocess.Popen(command, stdout=said, stderr=said, env=variables)
            _, status, used = os.wait4(running.pid, 0)
            seconds = time.perf_counter() - begun
            said.seek(0)
            text = said.read().decode("utf-8", "replace")
        if os.waitstatus_to_exitcode(status):
            return f"failed: {' '.join(text.split())[-200:]}"
        asked = asked_of(address)
        last = text.strip().splitlines()[-1] if whole else ""
        if whole and name == "ours" and journal:
            data = (Path(folder) / "responses.jsonl").read_bytes()
            Path(journal).write_bytes(data)
    cpu = used.ru_utime + used.ru_stime
    span = asked[-1][0] - asked[0][0]
    rate = f"{len(asked) / span:.0f}"
    return f"{last} | {len(asked)} | {seconds:.1f} s | {rate} | {1000 * cpu / len(asked):.1f}"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name in ("curator", "distilabel", "camel"):
        parser.add_argument(f"--{name}", metavar="PYTHON", default=sys.executable)
    parser.add_argument("--delay", default="0", metavar="SECONDS", help="until a reply [0]")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.child:
        name, address, folder, *whole = chosen.child
        made = (RUNS if whole else PLAIN)[name](address, folder)
        print(made)
        return 0

    sys.path.insert(0, str(Path(__file__).resolve().parent))
    head = "| program | instructions | requests | seconds | requests a second | CPU ms each |"
    with tempfile.TemporaryDirectory() as folder:
        journal = str(Path(folder) / "journal.jsonl")
        for title, programs in (("plain requests", PLAIN), ("a whole run", RUNS)):
            print(f"\n{title}\n\n{head}\n|---|---|---|---|---|---|", flush=True)
            for name in programs:
                python = getattr(chosen, name, sys.executable)
                version = version_in(python, PACKAGES[name])
                if not version:
                    print(f"| {name} | not installed: pip install {PACKAGES[name]}", flush=True)
                    continue
                row = measure(python, name, programs is RUNS, chosen.delay, journal)
                print(f"| {name} ({PACKAGES[name]} {version}) | {row} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
