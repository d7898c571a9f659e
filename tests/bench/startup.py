"""How long the programs take to start: `--help` in 0.2 s, the whole practice run in ten.

    python tests/bench/startup.py

The practice run is that of a fresh copy of the project, without arguments and from another folder.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HELP = 0.2  # seconds, the best of five
PRACTICE = 10.0  # seconds


def seconds(command: list[str], folder: Path) -> float:
    """Run a program to its end in this folder; return how long that took."""
    begun = time.perf_counter()
    subprocess.run(command, cwd=folder, capture_output=True, check=True)
    return time.perf_counter() - begun


def main() -> int:
    print(f"on {os.cpu_count()} CPUs, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as top:
        # Copy what a run needs, so that it writes nothing into this checkout.
        copy = Path(top) / "copy"
        shutil.copytree(ROOT / "data", copy / "data", ignore=shutil.ignore_patterns("workshop"))
        shutil.copy(ROOT / "self_instruct_workshop.py", copy)

        # Measure both, and say whether they keep to their bounds.
        ask_for_help = [sys.executable, str(ROOT / "self_instruct.py"), "--help"]
        shown = min(seconds(ask_for_help, copy) for _ in range(5))
        practised = seconds([sys.executable, str(copy / "self_instruct_workshop.py")], Path(top))
    print(f"--help: {shown:.3f} s; the bound is {HELP} s")
    print(f"the practice run: {practised:.2f} s; the bound is {PRACTICE} s")
    return 0 if shown < HELP and practised < PRACTICE else 1


if __name__ == "__main__":
    sys.exit(main())
