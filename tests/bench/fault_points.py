"""A run at the mercy of its disk: killed, refused or cut short at every call that changes a file.

    python tests/bench/fault_points.py                     all of it: about 15 minutes
    python tests/bench/fault_points.py kills --every 3     every third call only
    python tests/bench/fault_points.py errors shorts storms

kills: SIGKILL before each call, and in the midst of it. errors: ENOSPC, EDQUOT and EIO, once or
from there on. shorts: a write that takes half. storms: 30 % of all replies are faults, at a
concurrency of 1 to 256. faulty_disk.c says what a call is. Needs Linux and a C compiler (cc).

The promises: the same command goes on, and its files are those of a run that nothing happened to;
what the journal holds is not asked for again; at most what was in flight is; the limit's books,
spending.jsonl, never say less than what the server worked for; an error is one line.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1])]
from helpers.killing import command, complete, read_journal, settle  # noqa: E402
from helpers.server import Server, scripted_model, storm  # noqa: E402

CONCURRENCY = 4
FLAGS = ("--num-instructions", "8", "--classify-together", "2")
AT_4 = (*FLAGS, "--concurrency", str(CONCURRENCY))
KINDS = ("kills", "errors", "shorts", "storms")


class Fault(NamedTuple):
    """What happens at which call."""

    at: int
    how: str  # "kill", "half", "short", or an errno
    stays: bool = False

    def __str__(self) -> str:
        how = errno.errorcode[int(self.how)] if self.how.isdigit() else self.how
        return f"{how}{' from here on' * self.stays} at call {self.at}"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("--every", type=int, default=1, metavar="N", help="every n-th call [1]")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs at a time [CPUs]")
    options = parser.parse_args()
    if not set(options.kinds) <= {*KINDS}:
        parser.error(f"kinds are {', '.join(KINDS)}")

    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as top:
        problems = check(Path(top), options)
    print(f"{time.perf_counter() - begun:.0f} s")
    for problem in problems:
        print(f"BROKEN: {problem}")
    print(f"{len(problems)} promises were broken" if problems else "every promise was kept")
    return 1 if problems else 0


def check(top: Path, options: argparse.Namespace) -> list[str]:
    """Do it all in this folder; return what went wrong."""
    # A run that nothing happens to says what is right, and how many calls there are.
    library = compiled(top)
    calls, whole = undisturbed(top, library)
    print(f"{len(calls)} calls: " + ", ".join(f"{n} {name}" for name, n in named(calls).items()))

    # Let each fault happen to a run of its own.
    kinds = options.kinds or KINDS
    problems = []
    with ThreadPoolExecutor(options.jobs) as pool:
        for kind in kinds:
            if kind == "storms":
                continue
            faults = list(faults_of(kind, range(1, len(calls) + 1, options.every)))
            found = pool.map(partial(try_fault, top, library, whole), faults)
            broken = [problem for several in found for problem in several]
            print(f"{kind}: {len(faults)} runs, {len(broken)} problems", flush=True)
            problems += [f"{kind}: {problem}" for problem in broken]
    if "storms" in kinds:
        problems += storms(top)
    return problems


def compiled(top: Path) -> Path:
    """faulty_disk.c as a library."""
    library = top / "faulty_disk.so"
    flags = ["-shared", "-fPIC", "-O1", "-o", str(library), str(HERE / "faulty_disk.c")]
    subprocess.run([os.environ.get("CC", "cc"), *flags, "-ldl", "-lpthread"], check=True)
    return library


def undisturbed(top: Path, library: Path) -> tuple[list[str], dict[str, bytes]]:
    """The lines of the log of calls, and the files of a run that nothing happens to."""
    with Server(scripted_model()) as server:
        code, said = disturbed(server, top / "whole", library, {"FAULT_LOG": str(top / "calls")})
        if code:
            raise SystemExit(f"the run without faults failed: {said}")
        return (top / "calls").read_text().splitlines(), complete(server, top / "whole", *AT_4)


def named(calls: list[str]) -> Counter:
    return Counter(line.split()[1] for line in calls)


def faults_of(kind: str, places: range) -> Iterator[Fault]:
    """The faults of a kind at these calls."""
    for at in places:
        if kind == "kills":
            yield Fault(at, "kill")
            yield Fault(at, "half")
        elif kind == "shorts":
            yield Fault(at, "short")
        else:
            # One of the three, once, and another that stays.
            numbers = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
            yield Fault(at, str(numbers[at % 3]))
            yield Fault(at, str(numbers[(at + 1) % 3]), stays=True)


def disturbed(server: Server, folder: Path, library: Path, how: dict[str, str]) -> tuple[int, str]:
    """A run with a fault; return its exit code and what it said on stderr."""
    shell = os.environ | {"LD_PRELOAD": str(library), "FAULT_FOLDER": str(folder)} | how
    done = subprocess.run(
        command(server, folder, *AT_4), env=shell, capture_output=True, text=True, timeout=120
    )
    settle(server)
    return done.returncode, done.stderr


def try_fault(top: Path, library: Path, whole: dict[str, bytes], fault: Fault) -> list[str]:
    """Let it happen to a run, then go on without it; return what went wrong."""
    folder = Path(tempfile.mkdtemp(dir=top)) / "work"
    how = {"FAULT_AT": str(fault.at), "FAULT_HOW": fault.how}
    if fault.stays:
        how["FAULT_STAYS"] = "1"
    with Server(scripted_model()) as server:
        code, said = disturbed(server, folder, library, how)
        problems = judged(fault, code, said)
        try:
            problems += gone_on(server, folder, whole)
        except (ValueError, OSError) as error:
            problems.append(str(error))
    return [f"{fault}: {problem}" for problem in problems]


def judged(fault: Fault, code: int, said: str) -> list[str]:
    """What is wrong with how the disturbed run ended."""
    problems = ["a traceback"] if "Traceback" in said else []
    if fault.how == "short" and code:
        problems.append(f"exit {code} after a short write: {said.strip()}")
    if fault.how.isdigit() and code not in (0, 1):
        problems.append(f"exit {code}")
    if fault.how.isdigit() and code == 1 and said.count("error: ") != 1:
        problems.append(f"not one error in one line: {said.strip()}")
    return problems


def gone_on(server: Server, folder: Path, whole: dict[str, bytes]) -> list[str]:
    """Run to the end without a fault; return what is wrong with that."""
    lines, held = [], set()
    if folder.exists():
        lines, held, _ = read_journal(folder)
    before = server.requests[:]
    problems = []
    if complete(server, folder, *AT_4) != whole:
        problems.append("other files")

    # What the journal held is still there, and was not asked for again.
    new = server.requests[len(before) :]
    if read_journal(folder)[0][: len(lines)] != lines:
        problems.append("the journal has lost a line")
    if held & {request["prompt"] for request in new}:
        problems.append("what the journal holds was asked for again")
    again = Counter(request["prompt"] for request in server.requests)
    if sum(again.values()) - len(again) > CONCURRENCY:
        problems.append(f"{sum(again.values()) - len(again)} requests twice")

    # The books say at least what the server has worked for.
    worked = sum(-(-len(request["prompt"]) // 4) for request in server.requests)
    spending = json.loads((folder / "run.json").read_text(encoding="utf-8"))["spending"]
    if spending["prompt_tokens"] < worked:
        problems.append(f"{spending['prompt_tokens']} tokens in the books, {worked} paid for")
    left = [path.name for path in folder.iterdir() if path.name.endswith(".tmp")]
    return problems + [f"{name} was left behind" for name in left]


def storms(top: Path) -> list[str]:
    """Three of ten replies are faults of all kinds: the files are the same at any concurrency."""
    flags = ("--num-instructions", "40", "--classify-together", "1", "--request-timeout", "0.5")
    with Server(scripted_model()) as server:
        whole = complete(server, top / "calm", *flags)
    problems = []
    for concurrency in (1, 4, 16, 64, 256):
        with Server(scripted_model(), faults=storm(0.3, concurrency), hang_s=2) as server:
            folder = top / f"storm {concurrency}"
            found = complete(server, folder, *flags, "--concurrency", str(concurrency))
        faults = sum(request["fault"] != "" for request in server.requests)
        print(f"storms: {faults} faults at a concurrency of {concurrency}", flush=True)
        if found != whole:
            problems.append(f"storms: other files at a concurrency of {concurrency}")
    return problems


if __name__ == "__main__":
    sys.exit(main())
