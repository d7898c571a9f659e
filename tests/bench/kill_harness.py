"""What a killed run loses: SIGKILL in every stage, the same command again, until it is done.

    python tests/bench/kill_harness.py                 100 kills: two to three minutes
    python tests/bench/kill_harness.py --faults 0.2    the same; a fifth of the replies are no good

The promises: a kill costs at most the requests in flight; the journal only grows, and all its lines
but a torn last one can be read; what it holds is never asked again; the files are, but for times,
those of a run that nobody killed.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from helpers.killing import STAGES, complete, kills
from helpers.server import Server, scripted_model, storm


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--faults", type=float, default=0.0, help="share of replies that are no good, 0 to 0.9"
    )
    chosen, found, asked, runs = parser.parse_args(), [], Counter[str](), 0
    print(
        f"on {os.cpu_count()} CPUs, Python {platform.python_version()}, {platform.system()}; "
        f"{chosen}"
    )
    flags = ("--num-instructions", "100", "--concurrency", str(chosen.concurrency))
    dice, begun, broken = random.Random(chosen.seed), time.perf_counter(), Counter[str]()
    with tempfile.TemporaryDirectory() as top:
        with Server(scripted_model(), faults=storm(chosen.faults, 0)) as server:
            whole, needed = complete(server, Path(top) / "whole", *flags), len(server.requests)
        while len(found) < chosen.kills:
            here, runs, faults = Path(top) / f"run {runs}", runs + 1, storm(chosen.faults, 0)
            aims = sorted(
                dice.choices(STAGES, k=min(10, chosen.kills - len(found))), key=STAGES.index
            )
            with Server(scripted_model(), faults=faults, delay=dice.choice([0, 0.02])) as server:
                try:
                    found.extend(kills(server, here, aims, dice, *flags))
                    broken["runs whose files differ"] += complete(server, here, *flags) != whole
                except (ValueError, KeyError) as problem:
                    broken[f"times: {problem}"] += 1
            delivered = [request["prompt"] for request in server.requests if request["delivered"]]
            asked.update(all=len(server.requests), again=len(delivered) - len({*delivered}))
    lost, hit = [kill.lost for kill in found], Counter(kill.stage for kill in found)
    broken["kills that cost more than was in flight"] = sum(
        k.lost + k.unanswered > chosen.concurrency for k in found
    )
    broken["replies asked for again though not lost"] = max(0, asked["again"] - sum(lost))
    broken["stages never hit"] = sum(not hit[stage] for stage in STAGES[1:])
    print(f"{len(found)} kills of {runs} runs in {time.perf_counter() - begun:.0f} s;", end=" ")
    print("by stage: " + ", ".join(f"{stage} {hit[stage]}" for stage in STAGES))
    print(
        f"replies delivered, lost and asked for again: {sum(lost) / len(lost):.2f} per kill, "
        f"at most {max(lost)}"
    )
    print(
        f"requests cut short: {sum(k.unanswered for k in found)}; "
        f"torn last lines: {sum(k.torn for k in found)}"
    )
    print(
        f"requests: {asked['all']}; uninterrupted, {needed} for each run: "
        f"{asked['all'] - needed * runs} more"
    )
    problems = [f"{n} {name}" for name, n in broken.items() if n]
    print(
        f"BROKEN: {'; '.join(problems)}"
        if problems
        else "every promise was kept; all files as if uninterrupted"
    )
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
