"""What a large run takes, what the same command takes when it is finished, and compare_recipes.

    python tests/bench/resume.py                               50,000 instructions: 8 minutes
    python tests/bench/resume.py --num-instructions 5000       a minute
    python tests/bench/resume.py --program OTHER/self_instruct.py      of another checkout

The run asks a scripted server on this machine, which waits 3 ms before each reply. Every program
is a process of its own; its CPU seconds and the most memory it held are the system's figures. The
finished run is resumed twice. After each of them the step files must be those of the run, to the
byte.
"""

from __future__ import annotations

import argparse
import hashlib
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

PROGRAM = Path(__file__).resolve().parents[2] / "self_instruct.py"
DELAY = 0.003  # seconds before each reply
PACKAGES = ("numpy", "rapidfuzz", "openai")


def measured(name: str, command: list[str]) -> None:
    """Run a program to its end, and print what it took. Raises CalledProcessError."""
    started = time.monotonic()
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(running.pid, 0)
    running.returncode = os.waitstatus_to_exitcode(status)
    if running.returncode:
        raise subprocess.CalledProcessError(running.returncode, command)
    cpu = used.ru_utime + used.ru_stime
    kilobytes = used.ru_maxrss / (1024 if sys.platform == "darwin" else 1)
    seconds = time.monotonic() - started
    print(f"| {name} | {cpu:.1f} | {seconds:.0f} | {kilobytes / 1024:.0f} |", flush=True)


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each step file."""
    found = sorted(folder.glob("step?_*.jsonl"))
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--num-instructions", type=int, default=50_000)
    parser.add_argument("--program", type=Path, default=PROGRAM, help="self_instruct.py to measure")
    options = parser.parse_args()

    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    print(f"Python {platform.python_version()}, {packages}, {os.cpu_count()} CPUs")
    print("| what | CPU s | s | MB |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as place, Server(scripted_model(), delay=DELAY) as server:
        folder = Path(place) / "run"
        command = [sys.executable, str(options.program), "--provider", "local", "--model", "m"]
        command += [
            "--base-url",
            server.url + "/v1",
            "--num-instructions",
            str(options.num_instructions),
        ]
        command += ["--concurrency", "16", "--work-dir", str(folder), "--yes"]
        measured("the run", command)
        whole = digests(folder)
        for name in ("resumed", "resumed again"):
            measured(name, command)
            assert digests(folder) == whole, "the same replies came to other files"
        compare = options.program.resolve().parent / "scripts" / "compare_recipes.py"
        measured("compare_recipes", [sys.executable, str(compare), str(folder)])


if __name__ == "__main__":
    main()
