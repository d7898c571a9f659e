"""Interruptions: kills in every stage, Ctrl-C and SIGTERM at awkward moments, and a reader of the
output who leaves."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.killing import command, complete, kills, read_journal, settle
from helpers.runs import FLAGS, PATIENCE, ROOT, Gate, rows, summary_of, until
from helpers.server import Server, scripted_model

from self_instruct_workshop import PROBES, STEP_FILES

pytestmark = pytest.mark.slow

posix = pytest.mark.skipif(
    sys.platform == "win32", reason="Windows sends no signals to other processes"
)


def begin(arguments: list[str], **how: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8", **how
    )


def leaves(running: subprocess.Popen[str], sent: signal.Signals) -> str:
    """Interrupt a run, which has to leave though its replies never come; return what it said on
    stderr."""
    running.send_signal(sent)
    try:
        _, errors = running.communicate(timeout=PATIENCE / 2)
    finally:
        running.kill()
    assert running.returncode == 128 + sent, errors
    assert "Traceback" not in errors and "interrupted" in errors
    return errors


def goes_on(server: Server, folder: Path, whole: dict[str, bytes]) -> None:
    """The same command asks for nothing that the journal holds, and comes to the same end."""
    settle(server)
    lines, held, torn = read_journal(folder)
    mark = len(server.requests)
    server.choose, server.delay = lambda index, prompt: "", 0.0
    assert complete(server, folder, *FLAGS) == whole
    assert read_journal(folder)[0][: len(lines)] == lines and not torn
    assert not held & {request["prompt"] for request in server.requests[mark:]}


# Kills.


def test_kills_in_every_stage_lose_at_most_what_was_in_flight_and_change_nothing(
    tmp_path: Path, whole: dict
) -> None:
    folder, aims = (
        tmp_path / "work",
        # Stage 2 asks of 16 seed tasks first, then in lists: it is hit among both.
        ["start", "generate", *["classify"] * 4, "instances", "filter"],
    )
    with Server(scripted_model(), delay=0.02) as server:
        found = list(kills(server, folder, aims, random.Random(3), *FLAGS, apart=10))
        assert complete(server, folder, *FLAGS) == whole
        delivered = [request["prompt"] for request in server.requests if request["delivered"]]
    assert len(found) >= 5 and {"generate", "classify", "instances"} <= {
        kill.stage for kill in found
    }
    assert max(kill.lost + kill.unanswered for kill in found) <= 4
    assert len(delivered) - len({*delivered}) <= sum(kill.lost for kill in found)


# Ctrl-C, and SIGTERM, which container and batch systems send.


@posix
@pytest.mark.parametrize(
    ("sent", "how", "after"),
    [(signal.SIGINT, "hang", 26), (signal.SIGTERM, "slow", 45)],  # in lists, and in stage 3
    ids=["hang", "slow"],
)
def test_an_interrupt_is_obeyed_in_time_though_the_server_hangs_or_is_slow(
    sent: signal.Signals, how: str, after: int, tmp_path: Path, whole: dict
) -> None:
    folder = tmp_path / "work"
    with Server(
        scripted_model(),
        faults=lambda index, prompt: "hang" if how == "hang" and index > after else "",
        hang_s=PATIENCE,
    ) as server:
        running = begin(command(server, folder, *FLAGS))
        until(lambda: len(server.requests) > after)
        server.delay = PATIENCE if how == "slow" else 0.0
        until(lambda: len(server.busy) == 4)
        leaves(running, sent)
        assert summary_of(folder)["status"] == "interrupted"
        goes_on(server, folder, whole)


@posix
def test_an_interrupt_during_the_very_first_request_is_obeyed(tmp_path: Path, whole: dict) -> None:
    folder, gate = tmp_path / "work", Gate("generate", 0)
    with Server(gate) as server:
        running = begin(command(server, folder, *FLAGS))
        assert gate.reached.wait(PATIENCE)
        leaves(running, signal.SIGINT)
        gate.opened.set()
        assert (folder / "responses.jsonl").read_bytes() == b""
        goes_on(server, folder, whole)


@posix
def test_an_interrupt_during_the_pause_before_a_retry_is_obeyed(
    tmp_path: Path, whole: dict
) -> None:
    folder = tmp_path / "work"
    with Server(
        scripted_model(), faults=lambda index, prompt: "500" if index >= 12 else ""
    ) as server:
        running = begin(command(server, folder, *FLAGS, "--first-wait", "30"))
        until(lambda: sum(request["fault"] == "500" for request in server.requests) == 4)
        time.sleep(0.2)  # until all four wait for their retry, which comes in 15 s at the earliest
        asked = len(server.requests)
        leaves(running, signal.SIGINT)
        assert len(server.requests) == asked, "it left without the retry"
        assert summary_of(folder)["undone_because"] == {}, "what was interrupted has not failed"
        goes_on(server, folder, whole)


@posix
def test_an_interrupt_before_the_first_prompt_is_obeyed(tmp_path: Path) -> None:
    """The server is asked for its models, and does not answer."""
    with socket.create_server(("127.0.0.1", 0)) as silent, Server(scripted_model()) as server:
        silent.settimeout(20)
        flags = ("--base-url", f"http://127.0.0.1:{silent.getsockname()[1]}/v1", "--model", "")
        running = begin(command(server, tmp_path / "work", *FLAGS, *flags))
        with silent.accept()[0]:
            leaves(running, signal.SIGINT)
    assert not (tmp_path / "work").exists()


SLOW_FILTER = f"""
import sys, time
sys.path.insert(0, {str(ROOT)!r})
import self_instruct, self_instruct_workshop as workshop
quick = workshop.filter_instances
workshop.filter_instances = lambda *texts, **how: time.sleep(0.1) or quick(*texts, **how)
workshop.leave(self_instruct.main(sys.argv[1:]))
"""


@posix
def test_an_interrupt_in_stage_4_is_obeyed_and_its_files_are_whole(
    tmp_path: Path, whole: dict
) -> None:
    folder = tmp_path / "work"
    with Server(scripted_model()) as server:
        shell = os.environ | {"PYTHONUNBUFFERED": "1"}
        running = begin(
            [sys.executable, "-c", SLOW_FILTER, *command(server, folder, *FLAGS)[2:]], env=shell
        )
        while not running.stdout.readline().startswith("4 filter"):
            assert running.poll() is None
        time.sleep(0.5)
        leaves(running, signal.SIGINT)
        assert summary_of(folder)["status"] == "interrupted"
        begun = (folder / "step4_final.jsonl").read_bytes()
        assert whole["step4_final"].startswith(begun) and 0 < len(begun) < len(whole["step4_final"])
        asked = len(server.requests)
        goes_on(server, folder, whole)
        assert len(server.requests) == asked


@posix
@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_the_run_at_once(
    second: signal.Signals, tmp_path: Path, whole: dict
) -> None:
    folder, gate = tmp_path / "work", Gate("classify", 10)
    with Server(gate) as server:
        running = begin(command(server, folder, *FLAGS))
        assert gate.reached.wait(PATIENCE)
        running.send_signal(signal.SIGINT)
        time.sleep(0.2)  # it is now waiting for what may still arrive
        running.send_signal(second)
        _, errors = running.communicate(timeout=PATIENCE / 2)
        assert running.returncode in (-second, 128 + second)
        assert "Traceback" not in errors
        gate.opened.set()
        goes_on(server, folder, whole)


@posix
def test_an_interrupted_run_says_in_one_line_what_is_done_what_is_left_and_how_to_go_on(
    tmp_path: Path,
) -> None:
    folder, gate = tmp_path / "my work", Gate("classify", PROBES + 10)
    with Server(gate) as server:
        running = begin(command(server, folder, *FLAGS, "--classify-together", "1"))
        assert gate.reached.wait(PATIENCE)
        time.sleep(0.1)
        (line,) = leaves(running, signal.SIGINT).strip().splitlines()
        gate.opened.set()
        done = len(rows(folder, STEP_FILES[1]))
        said, python, rest = line.partition(sys.executable)
        numbers = {int(number) for number in re.findall(r"\d+", said)}
        assert 0 < done <= 10 and done in numbers and numbers & {32, 32 - done}, line
        assert (
            subprocess.run(python + rest, shell=True, capture_output=True, timeout=60).returncode
            == 0
        ), line
    assert summary_of(folder)["status"] == "complete"


# A reader who leaves, as `| head -1` does.


@posix
@pytest.mark.parametrize("buffered", [False, True])
def test_a_reader_of_the_output_who_leaves_costs_no_reply(
    buffered: bool, tmp_path: Path, whole: dict
) -> None:
    folder, shell = (
        tmp_path / "work",
        {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"},
    )
    with Server(scripted_model()) as server:
        running = begin(
            command(server, folder, *FLAGS),
            env=shell | ({} if buffered else {"PYTHONUNBUFFERED": "1"}),
        )
        if not buffered:
            while not running.stdout.readline().startswith("2 classify"):
                assert running.poll() is None
        running.stdout.close()
        errors = running.stderr.read()
        running.wait(20)
        assert (
            "Traceback" not in errors
            and "Exception ignored" not in errors
            and errors.count("\n") <= 1
        )
        settle(server)
        lost = {
            request["prompt"] for request in server.requests if request["delivered"]
        } - read_journal(folder)[1]
        assert len(lost) <= (0 if buffered else 4)
        goes_on(server, folder, whole)


@posix
@pytest.mark.parametrize("stream", ["1", "2"])
def test_a_run_whose_output_was_closed_before_it_began_does_its_work(
    stream: str, tmp_path: Path
) -> None:
    folder = tmp_path / "work"
    with Server(scripted_model()) as server:
        arguments = [
            "sh",
            "-c",
            f'exec "$@" {stream}>&-',
            "sh",
            *command(server, folder, "--num-instructions", "2"),
        ]
        done = subprocess.run(arguments, capture_output=True, encoding="utf-8", timeout=60)
    assert summary_of(folder)["status"] == "complete"
    assert (done.returncode, done.stderr) == (0, "")
    assert all(
        json.loads(line)
        for line in (folder / STEP_FILES[3]).read_text(encoding="utf-8").splitlines()
    )
