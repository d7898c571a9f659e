"""By a real clock: a run leaves in time, and no request outlasts its limits.

    python -m pytest tests/bench/bench_waiting.py    a minute, on a machine that does nothing else

The normal test run does not collect this file: on a busy machine seconds are no measure. There,
tests/module shows the same by what happens: which requests come, and who gives up first.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from helpers.killing import command
from helpers.runs import FLAGS, ROOT, Gate, stage_of
from helpers.server import Server, scripted_model

from scripts import self_curation
from self_instruct_workshop import Config, Model, WorkshopError, parameters

Settings = Callable[..., Config]
LEAVES = 2.0  # seconds within which a run leaves
posix = pytest.mark.skipif(
    sys.platform == "win32", reason="Windows sends no signals to other processes"
)


@contextmanager
def in_less_than(seconds: float) -> Iterator[None]:
    begun = time.monotonic()
    yield
    assert time.monotonic() - begun < seconds


@pytest.fixture(params=["openai", "dashscope"])
def wire(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    monkeypatch.setenv("DASHSCOPE_API_KEY", "sk-test")
    return request.param


def yes(prompt: str, body: dict) -> str:
    return "Yes"


def about(wire: str, server: Server) -> dict[str, str]:
    path = {"openai": "/v1", "dashscope": "/api/v1"}[wire]
    return {"provider": wire, "base_url": server.url + path, "model": "m"}


def ask(model: Model) -> str:
    return model.ask(
        "generate", "question", parameters(model.config, "generate"), {"number": 0}
    ).text


# --------------------------------------------------------------------------------------------------
# Requests.


def test_a_server_that_hangs_is_given_up_after_the_timeout(settings: Settings, wire: str) -> None:
    with (
        Server(yes, faults=["hang"], hang_s=5) as server,
        in_less_than(2),
        Model(settings(**about(wire, server), request_timeout=0.3)) as model,
    ):
        assert ask(model) == "Yes"


def test_a_wait_that_a_server_asks_for_is_really_waited(settings: Settings, wire: str) -> None:
    with Server(yes, faults=["429-retry-after"]) as server:
        with Model(settings(**about(wire, server))) as model:
            ask(model)
        first, second = server.requests
    assert 0.19 <= second["at"] - first["at"] < 1


@pytest.mark.parametrize(
    ("fault", "slow", "limits"),
    [
        ("500", {}, {"max_attempts": 10_000, "deadline": 0.5}),
        ("hang", {"hang_s": 1}, {"max_attempts": 50, "deadline": 0.5, "request_timeout": 0.2}),
        ("drip", {"drip_s": 2}, {"max_attempts": 2, "deadline": 0.3, "request_timeout": 0.3}),
    ],
)
def test_the_deadline_of_a_request_is_kept(
    settings: Settings, wire: str, fault: str, slow: dict, limits: dict
) -> None:
    server = Server(yes, faults=lambda index, prompt: fault, **slow)
    with (
        server,
        in_less_than(1.5),
        Model(settings(**about(wire, server), **limits)) as model,
        pytest.raises(WorkshopError),
    ):
        ask(model)


def test_a_check_of_a_provider_that_never_answers_ends_at_its_deadline(tmp_path: Path) -> None:
    with Server(yes, faults=["hang"]) as server, in_less_than(4):
        where = ["--check", "--provider=local", f"--base-url={server.url}/v1", "--deadline=1"]
        done = subprocess.run(
            [sys.executable, str(ROOT / "self_instruct.py"), *where], cwd=tmp_path
        )
    assert done.returncode == 1


def test_a_report_on_many_pairs_is_quick(capsys: pytest.CaptureFixture) -> None:
    row = {"instruction": "a", "output": "b", "evaluation": "c"}
    rows = [row | {"id": n, "rating": n % 5 + 1} for n in range(40_000)]
    with in_less_than(5):
        self_curation.report(
            Namespace(threshold=4), rows, [row for row in rows if row["rating"] >= 4]
        )


# --------------------------------------------------------------------------------------------------
# Leaving.


def begin(server: Server, folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command(server, folder, *FLAGS), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


@posix
@pytest.mark.parametrize(("stage", "after"), [("generate", 0), ("classify", 10), ("instances", 10)])
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_at_once(
    tmp_path: Path, sent: signal.Signals, stage: str, after: int
) -> None:
    gate = Gate(stage, after)
    with Server(gate) as server:
        running = begin(server, tmp_path / "work")
        gate.reached.wait(20)
        time.sleep(0.1)
        with in_less_than(LEAVES):
            running.send_signal(sent)
            running.communicate(timeout=20)
        gate.opened.set()
    assert running.returncode == 128 + sent


@posix
@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_is_not_waited_for(tmp_path: Path, second: signal.Signals) -> None:
    gate = Gate("classify", 10)
    with Server(gate) as server:
        running = begin(server, tmp_path / "work")
        gate.reached.wait(20)
        running.send_signal(signal.SIGINT)
        time.sleep(0.2)  # it is now waiting for what may still arrive
        with in_less_than(0.7):
            running.send_signal(second)
            running.communicate(timeout=20)
        gate.opened.set()


def test_a_run_that_is_refused_does_not_wait_for_requests_that_hang(tmp_path: Path) -> None:
    def fault(index: int, prompt: str) -> str:
        if stage_of(prompt) != "classify":
            return ""
        return "401" if index == 8 else "hang"

    flags = [
        "--num-instructions",
        "8",
        "--concurrency",
        "8",
        "--classify-together",
        "1",
        "--request-timeout",
        "3",
    ]
    with Server(scripted_model(), faults=fault, hang_s=4) as server:
        done = subprocess.run(
            command(server, tmp_path / "work", *flags), capture_output=True, env=os.environ
        )
        ended = time.monotonic()
        refused = next(request["at"] for request in server.requests if request["fault"] == "401")
    assert done.returncode == 1 and ended - refused < LEAVES
