"""Kill runs as real processes and see what they lose; tests/bench/kill_harness.py does it often."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from helpers.server import Server
from self_instruct_workshop import as_text

PROGRAM = Path(__file__).resolve().parents[2] / "self_instruct.py"
STAGES = ("start", "generate", "classify", "instances", "filter")
FILES = (
    "step1_instructions",
    "step2_is_classification",
    "step3_raw_instances",
    "step4_final",
    "rejected",
)


class Kill(NamedTuple):
    """One SIGKILL: in which stage it hit, and how much of what had been asked by then the journal
    does not hold."""

    stage: str
    lost: int  # replies that the server had delivered whole
    unanswered: int  # requests without one
    torn: bool


def command(server: Server, folder: Path, *flags: str) -> list[str]:
    asked = [
        "--provider",
        "local",
        "--base-url",
        f"{server.url}/v1",
        "--model",
        "m",
        "--work-dir",
        str(folder),
    ]
    return [
        sys.executable,
        str(PROGRAM),
        *asked,
        "--first-wait",
        "0.01",
        "--max-attempts",
        "50",
        *flags,
    ]


def start(server: Server, folder: Path, *flags: str) -> subprocess.Popen[bytes]:
    """The run as a process; what it prints goes at once to a file beside the folder."""
    with open(f"{folder}.log", "wb") as log:
        shell = os.environ | {"PYTHONUNBUFFERED": "1"}
        return subprocess.Popen(command(server, folder, *flags), stdout=log, stderr=log, env=shell)


def stage_of(prompt: str) -> str:
    return (
        "generate"
        if re.search(r"\n\d+\.\Z", prompt)
        else "instances"
        if "Input:" in prompt
        else "classify"
    )


def stage_printed(folder: Path) -> int:
    """The number of the last stage that the run has announced."""
    return int(
        (
            re.findall(
                rb"(?m)^(\d) (?:generate|classify|instances|filter)",
                Path(f"{folder}.log").read_bytes(),
            )
            or [b"0"]
        )[-1]
    )


def settle(server: Server) -> None:
    """Wait until the server has noticed that its client is gone."""
    while server.connections:
        time.sleep(0.001)


def read_journal(folder: Path) -> tuple[list[bytes], set[str], bytes]:
    """The lines of the journal, the prompts in them, and a torn last line; ValueError where any
    other is no reply."""
    path = folder / "responses.jsonl"
    *lines, torn = path.read_bytes().split(b"\n") if path.exists() else [b""]
    records = [json.loads(line) for line in lines]
    if len(records) > len({record["key"] for record in records}):
        raise ValueError("the journal holds a reply twice")
    return lines, {as_text(record["prompt"]) for record in records}, torn


def complete(server: Server, folder: Path, *flags: str) -> dict[str, bytes]:
    """Run to the end, and return all that it made of the journal, but for the times."""
    code = start(server, folder, *flags).wait()
    settle(server)
    if code:
        raise ValueError(
            f"the run failed: {Path(f'{folder}.log').read_text(encoding='utf-8').splitlines()[-1]}"
        )
    # A file without rows is not there.
    paths = {name: folder / f"{name}.jsonl" for name in FILES}
    texts = {name: path.read_bytes() for name, path in paths.items() if path.exists()}
    return {n: re.sub(rb'"created_at": "[^"]*"', b"", text) for n, text in texts.items()}


def kills(
    server: Server,
    folder: Path,
    aims: Iterable[str],
    dice: random.Random,
    *flags: str,
    apart: int = 40,
) -> Iterator[Kill]:
    """Kill the run in one stage after the other, at most `apart` new requests later; stage 4, which
    asks nothing, and the start some moments later. Ends where a run is done before it is hit, or
    after the last aim."""
    before, known = read_journal(folder)[:2]
    for aim in aims:
        mark, stage = len(server.requests), STAGES.index(aim)
        wanted = dice.randint(1, min(apart, {"generate": 4, "classify": 8}.get(aim, apart)))
        pause = dice.uniform(0, {"start": 0.5, "filter": 0.004}.get(aim, 0.01))
        running = start(server, folder, *flags)
        while aim != "start" and running.poll() is None:
            asked = sum(stage_of(request["prompt"]) == aim for request in server.requests[mark:])
            # Some requests of a stage are sent ahead of time, before it is announced.
            at = stage_printed(folder)
            if (at >= stage and asked >= wanted) or at >= stage + (aim != "filter"):
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
        yield Kill(
            STAGES[stage_printed(folder)], len(lost), len(asked_for - held - lost), bool(torn)
        )
