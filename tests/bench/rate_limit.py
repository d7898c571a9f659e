"""How much of what a server allows is used: this pace, and another one beside it.

    python tests/bench/rate_limit.py                             about 4 minutes
    python tests/bench/rate_limit.py --old /somewhere/pace.py    both at once, and their ratio

Every case gives each pace a server of its own, of the same kind, at the same time: limits of a
minute and of a second (with and without Retry-After and rate headers), strict servers that save
up nothing, every seventh request refused, and four faults by chance. The exit code is 1 if a
request is undone, or if this pace is more than 15 % slower than the other somewhere.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from helpers.metered import Bucket, Metered, Window
from helpers.server import storm

import self_instruct
import self_instruct_workshop as workshop
from scripts.asking import limits

FAULTS = ["reset", "json-cut-200", "cut", "429"]  # dropped, malformed, disconnected, refused


def seventh(index: int, prompt: str) -> str:
    """Refuse every seventh request."""
    return "429" if index % 7 == 3 else ""


@dataclass
class Case:
    """A kind of server, and who asks it."""

    meter: Callable[[], Any] = lambda: None
    says: dict = field(default_factory=dict)  # what the server tells: arguments of Metered
    faults: Any = ()
    workers: int = 8
    latency: float = 1.0  # seconds until an answer


TOLD = {"retry_after": True}
HEADERS = {"headers": True}
MINUTES = {
    "60/min, burst 10": Case(lambda: Bucket(1, 10)),
    "60/min, burst 10, Retry-After": Case(lambda: Bucket(1, 10), TOLD),
    "60/min, burst 10, headers": Case(lambda: Bucket(1, 10), HEADERS),
    "60/min, strict": Case(lambda: Bucket(1, 1)),
    "60/min, strict, Retry-After": Case(lambda: Bucket(1, 1), TOLD),
    "60 in each minute": Case(lambda: Window(60, 60.0)),
    "60 in each minute, Retry-After": Case(lambda: Window(60, 60.0), TOLD),
    "60 in each minute, headers": Case(lambda: Window(60, 60.0), HEADERS),
    "20/min, burst 5": Case(lambda: Bucket(1 / 3, 5)),
}
SECONDS = {
    "10/s, burst 10": Case(lambda: Bucket(10, 10), workers=16),
    "10/s, strict": Case(lambda: Bucket(10, 1), workers=16),
    "20 in each 2 s": Case(lambda: Window(20, 2.0), workers=16),
    "every 7th refused": Case(faults=seventh),
    "every 7th refused, fast replies": Case(faults=seventh, latency=0.3),
    "15 % of four faults": Case(faults=storm(0.15, 1, FAULTS)),
    "no limit, no fault": Case(),
}


def pace_of(path: str) -> type:
    """The class Pace of a file."""
    spec = importlib.util.spec_from_file_location("other_pace", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Pace


def limited_model(pace: type, url: str, folder: str, workers: int) -> limits.LimitedModel:
    """A model without limits of its own, which goes at this pace."""
    limits.Pace = pace
    address = ["--provider=local", f"--base-url={url}/v1", "--model=m"]
    options = self_instruct.command_line().parse_args(address)
    config = workshop.Config(
        provider="local", base_url=f"{url}/v1", model="m", work_dir=folder, concurrency=workers
    )
    return limits.LimitedModel(config, options)


def keep_asking(model: limits.LimitedModel, workers: int, seconds: float) -> int:
    """Ask for so long; return how many requests failed for good."""
    numbers = count()
    failed = []
    parameters = workshop.parameters(model.config, "generate")

    def work() -> None:
        while not model.stop.is_set():
            number = next(numbers)
            try:
                model.ask("generate", f"question {number}", parameters, {"number": number})
            except workshop.RequestFailed as failure:
                failed.append(str(failure))

    # Stop when the time is over; what is in flight then counts for nothing.
    with ThreadPoolExecutor(workers) as pool:
        for _ in range(workers):
            pool.submit(work)
        time.sleep(seconds)
        model.stop.set()
    return sum(why != "the run was stopped" for why in failed)


def measure(case: Case, pace: type, seconds: float) -> tuple[float, float, int]:
    """Requests a second that were answered, refused ones for each of them, and those undone."""

    def answer(prompt: str, body: dict) -> str:
        time.sleep(case.latency)
        return "Yes"

    server = Metered(answer, case.meter(), faults=case.faults, **case.says)
    with server, tempfile.TemporaryDirectory() as folder:
        with limited_model(pace, server.url, folder, case.workers) as model:
            undone = keep_asking(model, case.workers, seconds)
        served = len(server.served)
        return served / seconds, len(server.refused) / max(1, served), undone


def compare(cases: dict[str, Case], paces: list[type], seconds: float) -> dict[str, list[tuple]]:
    """Measure all cases and paces at the same time: name -> what was found, a pace each."""
    with ThreadPoolExecutor(len(cases) * len(paces)) as pool:
        running = {}
        for name, case in cases.items():
            running[name] = []
            for pace in paces:
                running[name].append(pool.submit(measure, case, pace, seconds))
                time.sleep(0.3)  # one is built at a time
        return {name: [one.result() for one in found] for name, found in running.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=180, help="for limits of a minute")
    parser.add_argument("--old", default="", help="a file with another class Pace")
    options = parser.parse_args()
    paces = [limits.Pace] + ([pace_of(options.old)] if options.old else [])
    bad = False

    # A line for each case: answered a second and refused for each answer, this pace first.
    print(f"{'server':<34}{'answered/s, refused/answered, undone; this, other':<50} ratio")
    for cases, seconds in ((MINUTES, options.seconds), (SECONDS, options.seconds / 4)):
        for name, found in compare(cases, paces, seconds).items():
            ratio = found[0][0] / found[-1][0]
            bad = bad or ratio < 0.85 or found[0][2] > 0
            said = "".join(f"{a:>9.3f}{r:>6.2f}{undone:>4}" for a, r, undone in found)
            print(f"{name:<34}{said:<50}{ratio:>6.2f}", flush=True)
    return int(bad)


if __name__ == "__main__":
    raise SystemExit(main())
