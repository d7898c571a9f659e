"""What a killed run loses: SIGKILL in every stage, the same command again, until it is done; over and over.

    python tests/bench/kill_harness.py                      100 kills: two to three minutes
    python tests/bench/kill_harness.py --faults 0.2         the same from a server a fifth of whose replies are no good

The promises: a kill costs at most the requests in flight; the journal only grows, and all its lines but a torn last one
can be read; what it holds is never asked again; the files are, but for times, those of a run that nobody killed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from server import Server, scripted_model, storm

PROGRAM = Path(__file__).resolve().parents[2] / "self_instruct.py"
STAGES = ("start", "generate", "classify", "instances", "filter")
FILES = ("step1_instructions", "step2_is_classification", "step3_raw_instances", "step4_final", "rejected")


class Kill(NamedTuple):
    """One SIGKILL: in which stage it hit, and how much of what had been asked by then the journal does not hold."""

    stage: str
    lost: int  # replies that the server had delivered whole
    unanswered: int  # requests without one
    torn: bool


def command(server: Server, folder: Path, *flags: str) -> list[str]:
    asked = ["--provider", "local", "--base-url", f"{server.url}/v1", "--model", "m", "--work-dir", str(folder)]
    return [sys.executable, str(PROGRAM), *asked, "--first-wait", "0.01", "--max-attempts", "50", *flags]


def start(server: Server, folder: Path, *flags: str) -> subprocess.Popen[bytes]:
    """The run as a process; what it prints goes at once to a file beside the folder."""
    with open(f"{folder}.log", "wb") as log:
        shell = os.environ | {"PYTHONUNBUFFERED": "1"}
        return subprocess.Popen(command(server, folder, *flags), stdout=log, stderr=log, env=shell)


def stage_of(prompt: str) -> str:
    return "generate" if re.search(r"\n\d+\.\Z", prompt) else "instances" if "Input:" in prompt else "classify"


def stage_printed(folder: Path) -> int:
    """The number of the last stage that the run has announced."""
    return int((re.findall(rb"(?m)^Stage (\d)", Path(f"{folder}.log").read_bytes()) or [b"0"])[-1])


def settle(server: Server) -> None:
    """Wait until the server has noticed that its client is gone."""
    while server.connections:
        time.sleep(0.001)


def read_journal(folder: Path) -> tuple[list[bytes], set[str], bytes]:
    """The lines of the journal, the prompts in them, and a torn last line; ValueError where any other is no reply."""
    path = folder / "responses.jsonl"
    *lines, torn = path.read_bytes().split(b"\n") if path.exists() else [b""]
    records = [json.loads(line) for line in lines]
    if len(records) > len({record["key"] for record in records}):
        raise ValueError("the journal holds a reply twice")
    return lines, {record["prompt"] for record in records}, torn


def complete(server: Server, folder: Path, *flags: str) -> dict[str, bytes]:
    """Run to the end, and return all that it made of the journal, but for the times."""
    code = start(server, folder, *flags).wait()
    settle(server)
    if code:
        raise ValueError(f"the run failed: {Path(f'{folder}.log').read_text(encoding='utf-8').splitlines()[-1]}")
    return {n: re.sub(rb'"created_at": "[^"]*"', b"", (folder / f"{n}.jsonl").read_bytes()) for n in FILES}


def kills(
    server: Server, folder: Path, aims: Iterable[str], dice: random.Random, *flags: str, apart: int = 40
) -> Iterator[Kill]:
    """Kill the run in one stage after the other, at most `apart` new requests later; stage 4, which asks nothing, and
    the start some moments later. Ends where a run is done before it is hit, or after the last aim."""
    before, known = read_journal(folder)[:2]
    for aim in aims:
        mark, stage = len(server.requests), STAGES.index(aim)
        wanted = dice.randint(1, min(apart, {"generate": 4, "classify": 8}.get(aim, apart)))
        pause = dice.uniform(0, {"start": 0.5, "filter": 0.004}.get(aim, 0.01))
        running = start(server, folder, *flags)
        while aim != "start" and running.poll() is None:
            asked = sum(stage_of(request["prompt"]) == aim for request in server.requests[mark:])
            if asked >= wanted or stage_printed(folder) >= stage + (aim != "filter"):
                break
            time.sleep(0.0005)
        time.sleep(pause)
        running.kill()
        done = running.wait() == 0
        settle(server)
        (lines, held, torn), new = read_journal(folder), server.requests[mark:]
        asked_for = {request["prompt"] for request in new}
        if lines[: len(before)] != before or known & asked_for:
            raise ValueError("the journal has lost a line, or what it holds was asked for again")
        if done:
            return
        before, known = lines, held
        lost = {request["prompt"] for request in new if request["delivered"]} - held
        yield Kill(STAGES[stage_printed(folder)], len(lost), len(asked_for - held - lost), bool(torn))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--faults", type=float, default=0.0, help="share of replies that are no good, 0 to 0.9")
    chosen, found, asked, runs = parser.parse_args(), [], Counter[str](), 0
    print(f"on {os.cpu_count()} CPUs, Python {platform.python_version()}, {platform.system()}; {chosen}")
    flags = ("--num-instructions", "100", "--concurrency", str(chosen.concurrency))
    dice, begun, broken = random.Random(chosen.seed), time.perf_counter(), Counter[str]()
    with tempfile.TemporaryDirectory() as top:
        with Server(scripted_model(), faults=storm(chosen.faults, 0)) as server:
            whole, needed = complete(server, Path(top) / "whole", *flags), len(server.requests)
        while len(found) < chosen.kills:
            here, runs, faults = Path(top) / f"run {runs}", runs + 1, storm(chosen.faults, 0)
            aims = sorted(dice.choices(STAGES, k=min(10, chosen.kills - len(found))), key=STAGES.index)
            with Server(scripted_model(), faults=faults, delay=dice.choice([0, 0.02])) as server:
                try:
                    found.extend(kills(server, here, aims, dice, *flags))
                    broken["runs whose files differ"] += complete(server, here, *flags) != whole
                except (ValueError, KeyError) as problem:
                    broken[f"times: {problem}"] += 1
            delivered = [request["prompt"] for request in server.requests if request["delivered"]]
            asked.update(all=len(server.requests), again=len(delivered) - len({*delivered}))
    lost, hit = [kill.lost for kill in found], Counter(kill.stage for kill in found)
    broken["kills that cost more than was in flight"] = sum(k.lost + k.unanswered > chosen.concurrency for k in found)
    broken["replies asked for again though not lost"] = max(0, asked["again"] - sum(lost))
    broken["stages never hit"] = sum(not hit[stage] for stage in STAGES[1:])
    print(f"{len(found)} kills of {runs} runs in {time.perf_counter() - begun:.0f} s;", end=" ")
    print("by stage: " + ", ".join(f"{stage} {hit[stage]}" for stage in STAGES))
    print(f"replies delivered, lost and asked for again: {sum(lost) / len(lost):.2f} per kill, at most {max(lost)}")
    print(f"requests cut short: {sum(k.unanswered for k in found)}; torn last lines: {sum(k.torn for k in found)}")
    print(f"requests: {asked['all']}; uninterrupted, {needed} for each run: {asked['all'] - needed * runs} more")
    problems = [f"{n} {name}" for name, n in broken.items() if n]
    print(f"BROKEN: {'; '.join(problems)}" if problems else "every promise was kept; all files as if uninterrupted")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
