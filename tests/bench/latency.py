"""How well a run keeps its requests in flight: 300 instructions, 200 ms for each reply.

    python tests/bench/latency.py

The bounds: 1.3 times (requests x delay / concurrency) plus 2 s, start of the process included, and
150 MB of memory.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from helpers.server import Server, scripted_model

PROGRAM, MEGABYTES = Path(__file__).resolve().parents[2] / "self_instruct.py", 150


def measure(arguments: list[str]) -> tuple[float, float]:
    """Run the command line; return its seconds and the most memory it held, in megabytes."""
    begun = time.perf_counter()
    running = subprocess.Popen(
        [sys.executable, str(PROGRAM), *arguments], stdout=subprocess.DEVNULL
    )
    _, status, used = os.wait4(running.pid, 0)
    seconds = time.perf_counter() - begun
    if code := os.waitstatus_to_exitcode(status):
        raise SystemExit(f"the run ended with exit code {code}")
    return seconds, used.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--num-instructions", type=int, default=300)
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--delay", type=float, default=0.2, help="seconds for each reply")
    chosen = parser.parse_args()
    packages = ", ".join(f"{name} {version(name)}" for name in ("openai", "rapidfuzz", "numpy"))
    print(f"on {os.cpu_count()} CPUs, Python {platform.python_version()}, {packages}")
    with (
        Server(scripted_model(), delay=chosen.delay) as server,
        tempfile.TemporaryDirectory() as folder,
    ):
        arguments = ["--provider", "local", "--base-url", f"{server.url}/v1", "--work-dir", folder]
        arguments += [
            "--num-instructions",
            str(chosen.num_instructions),
            "--concurrency",
            str(chosen.concurrency),
        ]
        seconds, memory = measure(arguments)
        requests = sum(request["method"] == "POST" for request in server.requests)
        busiest = server.max_in_flight
        rows = json.loads((Path(folder) / "run.json").read_text(encoding="utf-8"))["counts"][
            "filter"
        ]["out"]
    ideal = requests * chosen.delay / chosen.concurrency
    bound = 1.3 * ideal + 2
    print(
        f"{chosen.num_instructions} instructions, {rows} rows, {requests} requests, "
        f"{busiest} at once at most"
    )
    print(
        f"{seconds:.2f} s; the bound is 1.3 * {ideal:.2f} + 2 = {bound:.2f} s; "
        f"ratio {seconds / bound:.2f}"
    )
    print(f"{memory:.0f} MB at most; the bound is {MEGABYTES} MB")
    good = seconds <= bound and memory <= MEGABYTES and rows == chosen.num_instructions
    print("within the bounds" if good else "NOT WITHIN the bounds")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
