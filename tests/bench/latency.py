"""How well a run keeps its requests in flight, on servers of three kinds.

    python tests/bench/latency.py                  all cases: about 20 minutes
    python tests/bench/latency.py --only 1s/64     one of them
    python tests/bench/latency.py --program OTHER/self_instruct.py        of another checkout

The ideal time is the sum of all delays of the server, divided by the requests in flight. What
comes on top is the start of the program, its own work, and waiting: stage 1 begins with one
request, and at the end of a stage only the slowest are left. Also printed: CPU seconds of the
program for each request, and the most memory it held.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from helpers.server import Server, scripted_model

PROGRAM = Path(__file__).resolve().parents[2] / "self_instruct.py"
SPREAD = 0.6  # of the logarithm: one reply of 20 takes over 2.2 times as long as the mean


def about_1s(prompt: str) -> float:
    """Seconds for a reply: lognormal with mean 1, the same for the same prompt."""
    return random.Random(prompt).lognormvariate(-SPREAD * SPREAD / 2, SPREAD)


DELAYS: dict[str, float | Callable[[str], float]] = {"20ms": 0.02, "200ms": 0.2, "1s": about_1s}
# Delay, requests in flight, instructions: ideal times of 10 s and more.
CASES = {
    "20ms/8": ("20ms", 8, 1500),
    "200ms/8": ("200ms", 8, 300),
    "200ms/64": ("200ms", 64, 2500),
    "1s/8": ("1s", 8, 100),
    "1s/64": ("1s", 64, 1000),
    "1s/256": ("1s", 256, 4000),
}


@dataclass
class Measured:
    """What a run took: seconds, CPU seconds, megabytes at most, requests, and the ideal time."""

    seconds: float
    cpu: float
    megabytes: float
    requests: int
    rows: int
    ideal: float

    @property
    def ratio(self) -> float:
        return self.seconds / self.ideal


def run(command: list[str]) -> tuple[float, float, float]:
    """Run a command; return its seconds, CPU seconds, and the most memory, in megabytes."""
    begun = time.perf_counter()
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(running.pid, 0)
    seconds = time.perf_counter() - begun
    if code := os.waitstatus_to_exitcode(status):
        raise SystemExit(f"the run ended with exit code {code}")
    unit = 1 if sys.platform == "darwin" else 1024
    return seconds, used.ru_utime + used.ru_stime, used.ru_maxrss * unit / 1e6


def measure(program: Path, delay: str, concurrency: int, wanted: int) -> Measured:
    """One run against a server of its own."""
    flags = ["--num-instructions", str(wanted), "--concurrency", str(concurrency)]
    with (
        Server(scripted_model(), delay=DELAYS[delay]) as server,
        tempfile.TemporaryDirectory() as folder,
    ):
        flags += ["--provider", "local", "--base-url", f"{server.url}/v1", "--work-dir", folder]
        took = run([sys.executable, str(program), *flags])
        posts = [request for request in server.requests if request["method"] == "POST"]
        counts = json.loads((Path(folder) / "run.json").read_text(encoding="utf-8"))["counts"]
    ideal = math.fsum(post["delay"] for post in posts) / concurrency
    return Measured(*took, len(posts), counts["filter"]["out"], ideal)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", choices=CASES, nargs="+", default=list(CASES))
    parser.add_argument("--program", type=Path, default=PROGRAM)
    chosen = parser.parse_args()
    packages = ", ".join(f"{name} {version(name)}" for name in ("openai", "rapidfuzz", "numpy"))
    print(f"on {os.cpu_count()} CPUs, Python {platform.python_version()}, {packages}")
    print(
        "| server/in flight | instructions | requests | ideal | took | ratio | CPU ms each | MB |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name in chosen.only:
        delay, concurrency, wanted = CASES[name]
        it = measure(chosen.program, delay, concurrency, wanted)
        times = f"{it.ideal:.1f} s | {it.seconds:.1f} s | {it.ratio:.2f}"
        each = f"{1000 * it.cpu / it.requests:.2f}"
        said = f"| {name} | {wanted} | {it.requests} | {times} | {each} | {it.megabytes:.0f} |"
        print(said, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
