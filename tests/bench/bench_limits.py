"""By a real clock: what a server allows is used, and nothing waits for too long.

    python -m pytest tests/bench/bench_limits.py    two minutes, on a machine that does nothing else

The normal test run does not collect this file: on a busy machine seconds are no measure.
tests/scripts/test_limits.py shows the same on a clock of its own.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path

import pytest
from helpers.limited import WIRES, about, ask, limits
from helpers.metered import Bucket, Metered, Window
from helpers.runs import ROOT, until
from helpers.server import Server, scripted_model, storm

from scripts.asking.limits import LimitedModel
from self_instruct_workshop import Config, RequestFailed

Settings = Callable[..., Config]


@pytest.fixture(params=WIRES)
def wire(request: pytest.FixtureRequest, keys: None) -> str:
    return request.param


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    monkeypatch.setenv("DASHSCOPE_API_KEY", "sk-test")


@pytest.fixture(scope="module", autouse=True)
def imported() -> None:
    """The SDKs, whose import takes a second, which no test is to measure."""
    import dashscope  # noqa: F401
    import openai  # noqa: F401


def drive(model: LimitedModel, workers: int, wanted: float) -> tuple[float, list[str]]:
    """Ask with so many workers for so long; return the seconds since the first request, and what
    failed for good."""
    numbers, failed, begun = count(), [], time.monotonic()

    def work() -> None:
        while time.monotonic() < begun + wanted:
            try:
                ask(model, next(numbers))
            except RequestFailed as failure:
                failed.append(str(failure))

    with ThreadPoolExecutor(workers) as pool:
        working = [pool.submit(work) for _ in range(workers)]
        time.sleep(max(0.0, begun + wanted - time.monotonic()))
        took = time.monotonic() - begun
        model.stop.set()
    for done in working:
        done.result()
    return took, [why for why in failed if why != "the run was stopped"]


SERVERS = {
    "bucket": (lambda: Bucket(10, burst=10), {}),
    "bucket, Retry-After": (lambda: Bucket(10, burst=10), {"retry_after": True}),
    "window": (lambda: Window(20, 2.0), {}),
    "window, Retry-After": (lambda: Window(20, 2.0), {"retry_after": True}),
}


HEADERS = {
    "bucket, headers": (lambda: Bucket(10, burst=10), {"headers": True}),
    "window, headers": (lambda: Window(20, 2.0), {"headers": True}),
}


def all_at_once(
    settings: Settings, servers: dict, wanted: float, turn: int, **given: float
) -> dict[str, tuple]:
    """Drive a model at each of these servers: name -> seconds, served, refused, undone."""

    def measure(name: str, wire: str, folder: str) -> tuple:
        meter, others = servers[name]
        with Metered(lambda *_: time.sleep(0.2) or "Yes", **others) as server:
            config = settings(concurrency=16, **about(wire, server))
            with LimitedModel(
                replace(config, work_dir=f"{config.work_dir}{turn}{folder}"), limits(**given)
            ) as model:
                ask(model, -1)  # imports the SDK
                server.meter = meter()
                already = len(server.served)
                took, failed = drive(model, 16, wanted)
                return took, len(server.served) - already, len(server.refused), failed

    with ThreadPoolExecutor(len(servers)) as pool:
        wires = [WIRES[n % 2] for n in range(len(servers))]
        return dict(zip(servers, pool.map(measure, servers, wires, "abcdef"), strict=False))


@pytest.mark.parametrize("given", [True, False], ids=["given", "unknown"])
def test_what_a_server_allows_is_used(settings: Settings, keys: None, given: bool) -> None:
    """600 requests a minute: nine tenths of them at least are used, few are refused, and none is
    undone. Where a window is as short as here, and nothing says so, it takes a part of it to notice
    that the next has begun. On a busy machine seconds are no measure: where less is used, it is
    measured again, twice at most."""
    given_limit, slow = (
        {"requests_per_minute": 600} if given else {},
        SERVERS if given else SERVERS | HEADERS,
    )
    for turn in range(3):
        found, short = all_at_once(settings, slow, 4.2 if given else 6.2, turn, **given_limit), {}
        for name, (took, served, refused, failed) in found.items():
            assert not failed, name
            assert refused <= (5 if given else 90), f"{name}: {refused} refused"
            if served < (0.85 if name == "window" and not given else 0.9) * 10 * took:
                short[name] = f"{served} in {took:.1f} s"
        if not short:
            break
        slow = {name: slow[name] for name in short}
    assert not short


def test_no_more_is_sent_in_a_minute_than_is_given(settings: Settings, wire: str) -> None:
    concurrency = {"openai": 1, "dashscope": 32}[wire]
    with (
        Metered(lambda *_: "Yes") as server,
        LimitedModel(
            settings(concurrency=32, **about(wire, server)), limits(requests_per_minute=1200)
        ) as model,
    ):
        took, failed = drive(model, concurrency, 0.8)
        assert not failed and 0.8 * 20 * took <= len(server.served) <= 20 * took + 4


def test_tokens_a_minute_are_kept_and_used(settings: Settings, wire: str) -> None:
    """A request reserves far more than it uses; what it does not use is used by others."""
    with (
        Metered(lambda *_: "word " * 79) as server,
        LimitedModel(
            settings(concurrency=8, **about(wire, server)), limits(tokens_per_minute=240_000)
        ) as model,
    ):
        ask(model)  # 100 tokens, not 512
        for number in range(1, 20):  # until it knows what replies use
            ask(model, number)
        before = sum(model.purse.spent)
        took, failed = drive(model, 8, 1.0)
        spent = sum(model.purse.spent) - before
    assert not failed and 0.8 * 4000 * took <= spent <= 1.25 * 4000 * took


def test_a_request_larger_than_the_tokens_of_a_minute_goes_alone(
    settings: Settings, wire: str
) -> None:
    with (
        Metered(lambda *_: "word " * 400) as server,
        LimitedModel(settings(**about(wire, server)), limits(tokens_per_minute=300)) as model,
    ):
        begun = time.monotonic()
        assert ask(model)
        assert time.monotonic() - begun < 2
        drive(model, 4, 0.5)
        assert len(server.asked) == 1, "the next has to wait for more than a minute"


def test_many_who_wait_take_no_time_of_the_machine(settings: Settings, keys: None) -> None:
    with (
        Metered(lambda *_: "Yes") as server,
        LimitedModel(settings(**about("openai", server)), limits(requests_per_minute=300)) as model,
    ):
        ask(model, -1)
        before = time.process_time()
        begun = time.monotonic()
        took, failed = drive(model, 2000, 1.5)
        assert time.monotonic() - begun < took + 2, "they all leave within two seconds"
        assert time.process_time() - before < 2 and not failed
        assert len(server.asked) >= 0.8 * 5 * took


@pytest.mark.parametrize("share", ["every seventh", 0.15])
def test_a_server_that_refuses_at_random_is_no_slow_server(
    settings: Settings, wire: str, share: str | float, tmp_path: Path
) -> None:
    """150 requests, 8 at a time, whose answers take 0.3 s, and their refusals none."""
    took = {}
    chance = (
        (lambda index, prompt: "429" * (index % 7 == 3))
        if share == "every seventh"
        else storm(share, 1, ["429"])
    )
    for name, faults in (("calm", ()), ("random", chance)):
        config = settings(concurrency=8, work_dir=str(tmp_path / name))
        with Server(lambda *_: time.sleep(0.3) or "Yes", faults=faults) as server:
            config = replace(config, **about(wire, server))
            with LimitedModel(config, limits()) as model, ThreadPoolExecutor(8) as pool:
                begun = time.monotonic()
                assert [*pool.map(partial(ask, model), range(150))] == ["Yes"] * 150
                took[name] = time.monotonic() - begun
                assert name == "calm" or model.faults.total() > 15
    assert took["random"] <= 2 * took["calm"] + 2


def test_retry_after_holds_for_all_and_does_not_use_up_the_deadline(
    settings: Settings, wire: str
) -> None:
    """One request a second, and eight that want to go: each may take 1.3 s, and waits for much
    longer."""
    with (
        Metered(lambda *_: "Yes", Bucket(1, burst=1), retry_after=True) as server,
        LimitedModel(
            settings(deadline=1.3, max_attempts=1, **about(wire, server)), limits()
        ) as model,
    ):
        _, failed = drive(model, 8, 2.6)
        posts = list(server.asked)
    assert not failed and len(server.served) >= 2
    first = next(post for post in posts if post["fault"])
    until = first["at"] + float(first["says"]["Retry-After"])
    early = [post for post in posts if first["at"] + 0.3 < post["at"] < until - 0.05]
    assert until - first["at"] > 0.8 and not early


@pytest.mark.skipif(os.name == "nt", reason="signals are a matter of Unix")
def test_ctrl_c_leaves_at_once_while_requests_wait_for_their_turn(tmp_path: Path) -> None:
    with Metered(scripted_model()) as server:
        where = ["--provider=local", f"--base-url={server.url}/v1", f"--work-dir={tmp_path / 'w'}"]
        running = subprocess.Popen(
            [
                sys.executable,
                str(ROOT / "self_instruct.py"),
                *where,
                "--num-instructions=50",
                "--requests-per-minute=1",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        until(lambda: server.asked)
        time.sleep(0.3)
        running.send_signal(signal.SIGINT)
        begun = time.monotonic()
        _, said = running.communicate(timeout=20)
        assert time.monotonic() - begun < 2.5 and running.returncode == 130
        assert b"interrupted" in said and b"Traceback" not in said and len(server.asked) == 1
