"""How well a limit of 60 requests a minute is used, by servers that allow no more.

    python tests/bench/rate_limit.py --seconds 150

A bucket that saves up 10 requests, and a window of a minute; each with and without Retry-After, and
with and without --requests-per-minute 60. The bounds: at least 90 % of what is allowed is used, and
no request is undone.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from helpers.metered import Bucket, Metered, Window
from helpers.server import scripted_model

PROGRAM, METERS = Path(__file__).resolve().parents[2] / "self_instruct.py", ("bucket", "window")


def measure(
    case: tuple[str, bool, bool], seconds: float, concurrency: int
) -> tuple[float, int, int, int]:
    """Run until the time is over; return the share of the limit that was used, what was refused,
    and what is undone."""
    (meter, retry_after, given), answer = case, scripted_model()
    allowing = Bucket(1, burst=10) if meter == "bucket" else Window(60, 60.0)

    def slow(prompt: str, body: dict) -> str:
        time.sleep(1.0)
        return answer(prompt, body)

    with (
        Metered(slow, allowing, retry_after=retry_after) as server,
        tempfile.TemporaryDirectory() as folder,
    ):
        flags = [
            "--provider=local",
            f"--base-url={server.url}/v1",
            "--num-instructions=1000",
            f"--work-dir={folder}/w",
        ]
        flags += ["--requests-per-minute=60"] * given + [f"--concurrency={concurrency}"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        running = subprocess.Popen([sys.executable, str(PROGRAM), *flags], **quiet)
        while not server.served:
            time.sleep(0.01)
        begun = server.served[0]["at"]
        time.sleep(seconds)
        served, refused = len(server.served), len(server.refused)
        seconds = time.monotonic() - begun
        running.terminate()
        running.wait()
        summary = json.loads(Path(folder, "w", "run.json").read_text(encoding="utf-8"))
    return served / seconds, served, refused, sum(summary["undone_because"].values())


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=150)
    parser.add_argument("--concurrency", type=int, default=8)
    options = parser.parse_args()
    cases = list(product(METERS, (True, False), (True, False)))
    with ThreadPoolExecutor(len(cases)) as pool:
        found = list(
            pool.map(lambda case: measure(case, options.seconds, options.concurrency), cases)
        )
    print(
        f"{'server':<10}{'Retry-After':<14}{'limit given':<14}{'used':>7}{'served':>9}{'refused':>9}{'undone':>8}"
    )
    for (meter, retry_after, given), (used, served, refused, undone) in zip(
        cases, found, strict=True
    ):
        said = (
            f"{meter:<10}{'sent' if retry_after else 'not sent':<14}{'yes' if given else 'no':<14}"
        )
        print(f"{said}{used:>7.0%}{served:>9}{refused:>9}{undone:>8}")
    return int(any(used < 0.9 or undone for used, _, _, undone in found))


if __name__ == "__main__":
    raise SystemExit(main())
