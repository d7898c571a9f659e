"""How well a run keeps its requests in flight, on servers of three kinds.

    python tests/bench/latency.py                  all cases: about 8 minutes
    python tests/bench/latency.py --only 1s/64     one of them
    python tests/bench/latency.py --program OTHER/self_instruct.py        of another checkout
    python tests/bench/latency.py --only 1s/64 --waste     where the time went, stage by stage

The ideal time is the sum of all delays of the server, divided by the requests in flight. What
comes on top is the start of the program, its own work, and waiting: stage 1 begins with one
request, and at the end of a stage only the slowest are left. Also printed: CPU seconds of the
program for each request, and the most memory it held.

A server of 20 ms with 8 in flight would answer 400 requests a second, with 64 in flight 3,200:
there the client's own work is the limit, and the ratio says how far that is from the ideal.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from quick_server import asked_of, quick_server

PROGRAM = Path(__file__).resolve().parents[2] / "self_instruct.py"
DELAYS = {"20ms": "0.02", "200ms": "0.2", "1s": "about_1s"}
# Delay, requests in flight, instructions: ideal times of over 10 s, or as many requests as a
# client on two cores sends in half a minute.
CASES = {
    "20ms/8": ("20ms", 8, 4000),
    "20ms/64": ("20ms", 64, 8000),
    "20ms/256": ("20ms", 256, 8000),
    "200ms/8": ("200ms", 8, 1500),
    "200ms/64": ("200ms", 64, 8000),
    "200ms/256": ("200ms", 256, 8000),
    "1s/8": ("1s", 8, 400),
    "1s/64": ("1s", 64, 3000),
    "1s/256": ("1s", 256, 12000),
}


@dataclass
class Measured:
    """What a run took: seconds, CPU seconds, megabytes at most, requests, and the ideal time."""

    seconds: float
    cpu: float
    megabytes: float
    rows: int
    asked: list[tuple[float, float, str]]  # when, delay, stage
    concurrency: int

    @property
    def requests(self) -> int:
        return len(self.asked)

    @property
    def ideal(self) -> float:
        return math.fsum(delay for _, delay, _ in self.asked) / self.concurrency

    @property
    def ratio(self) -> float:
        return self.seconds / self.ideal

    def waste(self) -> str:
        """Stage by stage: its requests, when the first was sent and the last was answered."""
        lines = []
        for stage in ("generate", "classify", "instances"):
            requests = [request for request in self.asked if request[2] == stage]
            first = requests[0][0]
            last = max(at + delay for at, delay, _ in requests)
            ideal = math.fsum(delay for _, delay, _ in requests) / self.concurrency
            slowest = max(delay for _, delay, _ in requests)
            times = f"ideal {ideal:.1f} s, slowest reply {slowest:.1f} s"
            lines.append(
                f"    {stage}: {len(requests)} requests, {first:.1f}-{last:.1f} s, {times}"
            )
        return "\n".join(lines)


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
    flags += ["--provider", "local", "--model", "m"]
    with quick_server(DELAYS[delay]) as address, tempfile.TemporaryDirectory() as folder:
        flags += ["--base-url", address, "--work-dir", folder]
        took = run([sys.executable, str(program), *flags])
        counts = json.loads((Path(folder) / "run.json").read_text(encoding="utf-8"))["counts"]
        return Measured(*took, counts["filter"]["out"], asked_of(address), concurrency)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", choices=CASES, nargs="+", default=list(CASES))
    parser.add_argument("--instructions", type=int, help="another number of them")
    parser.add_argument("--program", type=Path, default=PROGRAM)
    parser.add_argument("--waste", action="store_true", help="stage by stage")
    chosen = parser.parse_args()
    packages = ", ".join(f"{name} {version(name)}" for name in ("openai", "rapidfuzz", "numpy"))
    print(f"on {os.cpu_count()} CPUs, Python {platform.python_version()}, {packages}")
    print(
        "| server/in flight | instructions | requests | ideal | took | ratio | CPU ms each | MB |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name in chosen.only:
        delay, concurrency, wanted = CASES[name]
        wanted = chosen.instructions or wanted
        it = measure(chosen.program, delay, concurrency, wanted)
        times = f"{it.ideal:.1f} s | {it.seconds:.1f} s | {it.ratio:.2f}"
        each = f"{1000 * it.cpu / it.requests:.2f}"
        said = f"| {name} | {wanted} | {it.requests} | {times} | {each} | {it.megabytes:.0f} |"
        print(said, flush=True)
        if chosen.waste:
            print(it.waste(), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
