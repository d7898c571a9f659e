"""Limits: no request too many, no token and no dollar too many, and what is allowed is used."""

from __future__ import annotations

import heapq
import json
import math
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import count, pairwise
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from helpers.limited import WIRES, Clock, about, ask, limited_run, limits, on_a_clock, same_files
from helpers.metered import Bucket, Metered
from helpers.runs import PATIENCE, until
from helpers.server import TRANSIENT, Server, scripted_model, storm
from hypothesis import example, given
from hypothesis import strategies as st

import self_instruct
from scripts.asking.limits import FRAME, LimitedModel
from scripts.asking.pace import Pace, seconds
from self_instruct_workshop import (
    STEP_FILES,
    Config,
    RequestFailed,
    UsageError,
    WorkshopError,
)

Settings = Callable[..., Config]
PROGRAM = self_instruct.__file__


@pytest.fixture(params=WIRES)
def wire(request: pytest.FixtureRequest, keys: None) -> str:
    return request.param


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    monkeypatch.setenv("DASHSCOPE_API_KEY", "sk-test")


# The rate.


def test_no_more_is_sent_in_a_minute_than_is_given(settings: Settings, wire: str) -> None:
    """On a clock that only waiting moves: 1,200 a minute are 20 a second."""
    with Metered(lambda *_: "Yes") as server:
        model, clock = on_a_clock(settings(**about(wire, server)), requests_per_minute=1200)
        with model:
            for number in range(41):
                ask(model, number)
        assert len(server.served) == 41 and clock.now == pytest.approx(2.0)


def test_tokens_a_minute_are_kept_and_used(settings: Settings, wire: str) -> None:
    """A request reserves far more than it uses; what it does not use is used by others. 240,000 are
    4,000 a second."""
    with Metered(lambda *_: "word " * 79) as server:
        model, clock = on_a_clock(settings(**about(wire, server)), tokens_per_minute=240_000)
        with model:
            for number in range(40):  # until it knows what replies use: 100 tokens, not 512
                ask(model, number)
            begun, before = clock.now, sum(model.purse.spent)
            for number in range(40, 80):
                ask(model, number)
            took, spent = clock.now - begun, sum(model.purse.spent) - before
    assert 0.8 * 4000 * took <= spent <= 1.25 * 4000 * took


def test_a_request_larger_than_the_tokens_of_a_minute_goes_alone(
    settings: Settings, wire: str
) -> None:
    with Metered(lambda *_: "word " * 400) as server:
        model, clock = on_a_clock(settings(**about(wire, server)), tokens_per_minute=300)
        with model:
            assert ask(model)
            assert clock.now == 0 and model.pace.wait() > 60, (
                "the next has to wait for more than a minute"
            )


def test_many_who_wait_all_get_their_turn(settings: Settings, keys: None) -> None:
    with Metered(lambda *_: "Yes") as server:
        model, clock = on_a_clock(
            settings(concurrency=100, **about("openai", server)), requests_per_minute=300
        )
        with model, ThreadPoolExecutor(100) as pool:
            assert [*pool.map(partial(ask, model), range(200))] == ["Yes"] * 200
        assert len(server.asked) == 200 and clock.now == pytest.approx(199 / 5)


# After a 429.


def spaced(pace: Pace, clock: Clock, turns: int) -> list[float]:
    """Take turns as soon as they come; return the seconds between them."""
    at = []
    for _ in range(turns):
        clock.now += max(0.0, pace.wait())
        pace.take(0)
        at.append(clock.now)
    return [later - earlier for earlier, later in pairwise(at)]


def test_all_slow_down_by_a_quarter_and_grow_again() -> None:
    """A request each 0.1 s is given. After a 429 it is one each 0.125 s, and five answers later
    one each 0.1 s again."""
    clock = Clock()
    pace = Pace(600, None, clock)
    assert spaced(pace, clock, 20) == pytest.approx([0.1] * 19)
    pace.throttled(clock.now, 0.0)
    assert spaced(pace, clock, 3) == pytest.approx([0.125] * 2)
    for _ in range(3):
        pace.answered(1, 1)
    assert 0.1 < spaced(pace, clock, 3)[-1] < 0.125
    for _ in range(3):
        pace.answered(1, 1)
    assert spaced(pace, clock, 3)[-1] == pytest.approx(0.1), "the one that is given, and no faster"


def test_without_a_limit_nothing_is_spaced_before_the_first_429() -> None:
    clock = Clock()
    pace = Pace(None, None, clock)
    assert spaced(pace, clock, 20) == [0] * 19
    pace.throttled(clock.now, 0.0)
    assert spaced(pace, clock, 3) == pytest.approx([0.025] * 2)


def test_a_429_to_the_first_request_after_a_429_makes_the_wait_longer_and_not_the_interval() -> (
    None
):
    clock = Clock()
    pace = Pace(None, None, clock)
    spaced(pace, clock, 20)
    waits = []
    for _ in range(8):
        pace.throttled(clock.now, 0.0)
        waits.append(pace.wait())
        clock.now += pace.wait()
        pace.take(0)
    assert waits == sorted(waits) and waits[0] < 0.2 and waits[-1] > 0.5
    pace.answered(1, 1)
    assert spaced(pace, clock, 3)[-1] <= 0.025


def test_more_of_the_same_429_slows_down_no_further() -> None:
    clock = Clock()
    pace = Pace(600, None, clock)
    spaced(pace, clock, 20)
    sent_at = clock.now
    clock.now += 0.01
    assert pace.throttled(sent_at, 0.0)
    clock.now += 0.01
    before = pace.interval, pace.wait(), pace.slowed_at
    assert [pace.throttled(sent_at, 0.0) for _ in range(3)] == [False] * 3
    assert (pace.interval, pace.wait(), pace.slowed_at) == before


def simulated(
    allows: Callable[[float], bool], workers: int, latency: float, seconds: float, wanted: int
) -> tuple:
    """So many workers without a pause, on a clock of their own; return the seconds they took,
    answers and refusals."""
    clock, counts, tie, dice = Clock(), Counter(), count(), random.Random(0)
    pace, events, waiting = Pace(None, None, clock), [(0.0, 0, "look", 0.0)], workers

    def later(by: float, what: str) -> None:
        heapq.heappush(events, (clock.now + by, next(tie), what, clock.now))

    while clock.now < seconds and counts["answered"] < wanted:
        clock.now, _, what, sent_at = heapq.heappop(events)
        if what == "refused":
            pace.throttled(sent_at, 0.0)
        if what == "answered":
            pace.answered(1, 1)
        if what != "look":
            counts[what] += 1
            waiting += 1
        elif waiting and pace.wait() <= 0:
            pace.take(0)
            waiting -= 1
            good = allows(clock.now)
            later(
                (latency if good else 0.005) * dice.uniform(0.8, 1.2),
                "answered" if good else "refused",
            )
        if what == "look":
            later(min(0.2, max(0.001, pace.wait())), "look")
    return clock.now, counts["answered"], counts["refused"]


def bucket(per_second: float, burst: float) -> Callable[[float], bool]:
    level, at = burst, 0.0

    def allows(now: float) -> bool:
        nonlocal level, at
        level, at = min(burst, level + (now - at) * per_second), now
        level -= (allowed := level >= 1)
        return allowed

    return allows


def window(requests: int, seconds: float, sliding: bool = False) -> Callable[[float], bool]:
    passed: list[float] = []

    def allows(now: float) -> bool:
        since = now - seconds if sliding else now // seconds * seconds
        passed[:] = [at for at in passed if at >= since]
        passed.extend([now] * (allowed := len(passed) < requests))
        return allowed

    return allows


@pytest.mark.parametrize(
    ("allows", "workers", "per_second", "share"),
    [
        (lambda: bucket(1, 10), 8, 1, 0.9),
        (lambda: bucket(1, 1), 8, 1, 0.75),
        (lambda: bucket(1, 60), 32, 1, 0.9),
        (lambda: bucket(10, 10), 12, 10, 0.9),
        (lambda: bucket(10, 1), 32, 10, 0.75),
        (lambda: window(60, 60), 8, 1, 0.9),
        (lambda: window(60, 60, sliding=True), 8, 1, 0.9),
        (lambda: window(10, 1), 32, 10, 0.9),
    ],
    ids=["bucket", "steady", "large", "just above", "steady 10", "window", "sliding", "short"],
)
def test_no_kind_of_limit_is_taken_for_chance(
    allows: Callable, workers: int, per_second: float, share: float
) -> None:
    """Ten minutes without Retry-After: nine tenths and more are used, and three quarters of a
    limit that saves up nothing. A closed window is asked now and then whether it is open."""
    seconds, answered, refused = simulated(allows(), workers, 1.0, 600, 10**6)
    assert answered >= share * per_second * seconds
    assert refused <= 1.2 * answered


def by_chance(share: str | float, numbers: Iterator[int], dice: random.Random, now: float) -> bool:
    return next(numbers) % 7 != 3 if share == "every seventh" else dice.random() > share


@pytest.mark.parametrize("share", ["every seventh", 0.03, 0.05, 0.1, 0.15])
def test_429s_that_come_at_random_slow_a_run_down_for_a_short_time_only(share: str | float) -> None:
    for seed in range(5):
        numbers, dice = count(), random.Random(seed)
        calm, _, _ = simulated(lambda now: True, 8, 1.0, 10**6, 500)
        took, _, _ = simulated(partial(by_chance, share, numbers, dice), 8, 1.0, 10**6, 500)
        assert took <= 2 * calm + 2, seed


def test_when_most_is_refused_after_that_all_slow_down_again() -> None:
    """First every seventh is refused, and from the 100th second on all that come faster than one a
    second."""
    numbers, limit = count(), bucket(1, 10)
    changing = lambda now: next(numbers) % 7 != 3 if now < 100 else limit(now)  # noqa: E731
    _, early, _ = simulated(lambda now: next(numbers) % 7 != 3, 8, 1.0, 100, 10**6)
    _, answered, refused = simulated(changing, 8, 1.0, 400, 10**6)
    assert early >= 0.75 * 8 * 100, "at the full rate"
    assert 0.9 * 300 <= answered - early <= 1.1 * 300 + 20
    assert refused <= 100 / 7 * 8 + 300


def test_retry_after_holds_for_all() -> None:
    clock = Clock()
    pace = Pace(None, None, clock)
    pace.take(0)
    clock.now += 0.01
    pace.throttled(0.0, 20.0)
    assert pace.wait() == pytest.approx(20.0), "whoever asks"
    clock.now += 20.0
    assert pace.wait() <= 0


def test_a_server_that_refuses_at_random_gets_all_its_requests(
    settings: Settings, wire: str
) -> None:
    """Every seventh is refused; how little time that costs, the simulations above say."""
    with Server(lambda *_: "Yes", faults=lambda index, prompt: "429" * (index % 7 == 3)) as server:
        model, _ = on_a_clock(settings(concurrency=8, **about(wire, server)))
        with model, ThreadPoolExecutor(8) as pool:
            assert [*pool.map(partial(ask, model), range(100))] == ["Yes"] * 100
        assert model.faults.total() > 10


def said(status: int, kind: str, left: str, **others: str) -> SimpleNamespace:
    """An answer with rate headers: nothing or something left, and 2 s until the reset."""
    headers = {
        f"x-ratelimit-remaining-{kind}": left,
        f"x-ratelimit-reset-{kind}": "2s",
        f"x-ratelimit-limit-{kind}": "20",
    }
    return SimpleNamespace(status_code=status, headers=headers | others)


@pytest.mark.parametrize("kind", ["requests", "tokens"])
def test_a_429_whose_headers_say_that_nothing_is_left_waits_for_the_reset(kind: str) -> None:
    clock = Clock()
    pace = Pace(None, None, clock)
    for other in (
        said(200, kind, "0"),
        said(429, kind, "5"),
        said(429, kind, "0", **{"retry-after": "1"}),
    ):
        pace.hear(other)
        assert pace.wait() <= 0
    pace.hear(said(429, kind, "0"))
    assert pace.wait() == pytest.approx(2)
    clock.now += 2
    assert pace.wait() <= 0, "that was then"


def test_while_it_is_refused_one_asks_now_and_then() -> None:
    """A server that refuses all for a minute is asked 10 to 50 times, and once more at most 5 s
    after that."""
    clock = Clock()
    pace = Pace(None, None, clock)
    asked = []
    while not asked or asked[-1] < 60:
        clock.now += max(0.0, pace.wait())
        pace.take(0)
        asked.append(clock.now)
        clock.now += 0.05
        pace.throttled(asked[-1], 0.0)
    assert 10 <= len(asked) <= 50 and asked[-1] <= 65.2


@pytest.mark.parametrize(
    ("wire", "retry_after", "concurrency"),
    [("openai", 0.0, 1), ("dashscope", 0.0, 32), ("openai", 0.4, 32), ("dashscope", 600.0, 8)],
)
def test_a_server_that_always_says_429_ends_the_run_in_one_line(
    settings: Settings, keys: None, wire: str, retry_after: float, concurrency: int
) -> None:
    config = {"deadline": 1.0, "concurrency": concurrency, "num_instructions": 100}
    with Metered(lambda *_: "Yes", Bucket(1e-9, burst=0), retry_after=retry_after) as server:
        with pytest.raises(
            WorkshopError, match=r"no answer from .*429.* the same command"
        ) as stopped:
            limited_run(settings(**config, **about(wire, server)))
        assert len(str(stopped.value).splitlines()) == 1
        assert len(server.asked) < 40


def test_a_longer_wait_than_a_request_may_take_leaves_only_that_one_undone(
    settings: Settings, wire: str
) -> None:
    refused = Metered(lambda *_: "Yes", faults=["", "429"], retry_after=900.0)
    with refused as server, LimitedModel(settings(**about(wire, server)), limits()) as model:
        server.meter = type(
            "", (), {"allows": lambda self: len(server.asked) != 2, "wait": None, "headers": None}
        )()
        server.choose = lambda index, prompt: ""
        assert ask(model, 1) == "Yes"
        with pytest.raises(RequestFailed, match="429"):
            ask(model, 2)
        assert ask(model, 3) == "Yes"


def test_an_empty_account_ends_the_run_at_once(settings: Settings, wire: str) -> None:
    faults = lambda index, prompt: "429-quota"  # noqa: E731
    with Server(lambda *_: "Yes", faults=faults) as server:
        with pytest.raises(WorkshopError, match=r"check .*_API_KEY"):
            limited_run(settings(**about(wire, server)))
        assert len(server.requests) == 1


def test_a_request_that_is_too_large_for_a_minute_is_left_undone(
    settings: Settings, keys: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from helpers import server as wires

    text = "Request too large for m on tokens per min (TPM): Limit 100, Requested 500."
    monkeypatch.setitem(wires.OPENAI_ERRORS, "429", (429, "rate_limit_exceeded", text, "tokens"))
    with (
        Server(lambda *_: "Yes", faults=["429"]) as server,
        LimitedModel(settings(**about("openai", server)), limits()) as model,
    ):
        with pytest.raises(RequestFailed, match="too large"):
            ask(model, 1)
        assert ask(model, 2) == "Yes" and len(server.requests) == 2


def test_waiting_for_a_turn_does_not_use_up_the_deadline(settings: Settings, wire: str) -> None:
    """Four requests, four turns a second, each of which may take 1 s; three are first answered
    500."""
    faults = {1: "500", 3: "500", 5: "500"}
    with (
        Server(lambda *_: "Yes", faults=lambda index, prompt: faults.get(index, "")) as server,
        LimitedModel(
            settings(deadline=1.0, **about(wire, server)), limits(requests_per_minute=240)
        ) as model,
    ):
        ask(model)
        with ThreadPoolExecutor(4) as pool:
            assert [*pool.map(partial(ask, model), range(1, 5))] == ["Yes"] * 4
        assert model.faults.total() == 3


def test_headers_that_the_shell_asks_for_do_not_go_to_other_hosts(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "org-secret")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "project-secret")
    with (
        Server(lambda *_: "Yes") as server,
        LimitedModel(settings(provider="local", base_url=server.url + "/v1"), limits()) as model,
    ):
        ask(model)
        assert "secret" not in json.dumps([record["headers"] for record in server.requests])


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("1s", 1),
        ("6m0s", 360),
        ("20ms", 0.02),
        ("1h2m3s", 3723),
        ("7", 7),
        ("0.5", 0.5),
        ("", 0),
        ("soon", 0),
    ],
)
def test_times_in_headers(text: str, wanted: float) -> None:
    assert seconds(text) == pytest.approx(wanted)


@given(st.text(max_size=12))
@example("1e999")
@example("٣s")
def test_no_header_breaks_a_run(text: str) -> None:
    pace = Pace(None, None, Clock())
    for kind in ("requests", "tokens"):
        for left in ("0", "1", text):
            said = {"limit": text, "remaining": left, "reset": text}
            headers = {f"x-ratelimit-{name}-{kind}": value for name, value in said.items()}
            pace.hear(SimpleNamespace(status_code=429, headers=headers))
    pace.take(100)
    assert 0 <= max(0.0, pace.wait()) < math.inf


# Leaving.


@pytest.mark.skipif(os.name == "nt", reason="signals are a matter of Unix")
def test_ctrl_c_leaves_though_requests_wait_for_their_turn(tmp_path: Path) -> None:
    """One request a minute: the others wait for most of an hour."""
    with Metered(scripted_model()) as server:
        where = ["--provider=local", f"--base-url={server.url}/v1", f"--work-dir={tmp_path / 'w'}"]
        running = subprocess.Popen(
            [sys.executable, PROGRAM, *where, "--num-instructions=50", "--requests-per-minute=1"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        until(lambda: server.asked)
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=PATIENCE)
        assert running.returncode == 130
        assert b"interrupted" in said and b"Traceback" not in said and len(server.asked) == 1


def suppressed(model: LimitedModel, number: int) -> None:
    with suppress(RequestFailed):
        ask(model, number)


def test_stop_ends_the_wait_for_what_is_in_flight(settings: Settings, keys: None) -> None:
    released = threading.Event()
    with (
        Server(lambda *_: "Yes" if released.wait(PATIENCE) else "") as server,
        LimitedModel(settings(**about("openai", server)), limits(max_tokens_total=700)) as model,
    ):
        threads = [threading.Thread(target=lambda n=n: suppressed(model, n)) for n in (1, 2)]
        for thread in threads:
            thread.start()
        until(lambda: len(server.requests) == 1)
        model.stop.set()
        until(lambda: sum(thread.is_alive() for thread in threads) == 1)
        assert len(server.requests) == 1
        released.set()
        [thread.join() for thread in threads]


# Spending.


def billed(seed: int, bill: Counter, worst: bool = False) -> Callable:
    """A model that writes down what its provider would have us pay, for replies that got lost
    too."""
    answer, lock = scripted_model(seed), threading.Lock()

    def billing(prompt: str, body: dict) -> str:
        text, given = answer(prompt, body), body.get("parameters", body)
        cap = given.get("max_tokens") or given["max_completion_tokens"]
        with lock:
            bill["prompt"] += len(prompt.encode()) + FRAME if worst else -(-len(prompt) // 4)
            bill["reply"] += cap if worst else min(cap, -(-len(text) // 4))
        time.sleep(random.random() * 0.01)
        return text

    return billing


LOST = [fault for fault in TRANSIENT if not fault.startswith("429")]


@pytest.mark.parametrize("concurrency", [1, 8, 32])
@pytest.mark.parametrize("seed", range(4))
def test_a_limit_on_tokens_is_never_passed(
    settings: Settings, keys: None, seed: int, concurrency: int
) -> None:
    """Whatever gets lost on the way, and however often the run is begun again, with the same limit
    or a higher one."""
    bill, wire, usage = Counter(), WIRES[seed % 2], ("", "worst")[seed // 2]
    with Metered(
        billed(seed, bill, usage == "worst"), faults=storm(0.2, seed, LOST), usage=usage
    ) as server:
        for limit in (random.Random(seed).randint(3000, 9000), 12_000, 12_000, 25_000):
            config = settings(concurrency=concurrency, num_instructions=40, **about(wire, server))
            summary = limited_run(config, max_tokens_total=limit)
            spending = summary["spending"]
            assert bill.total() <= spending["prompt_tokens"] + spending["reply_tokens"] <= limit
            assert summary["undone_because"], "a higher limit goes on"
            assert bill.total() > 0


@pytest.mark.parametrize("concurrency", [1, 32])
def test_a_limit_on_tokens_is_used(settings: Settings, wire: str, concurrency: int) -> None:
    """Without faults, what is left is less than a request can take."""
    bill = Counter()
    with Metered(billed(0, bill)) as server:
        config = settings(concurrency=concurrency, num_instructions=60, **about(wire, server))
        summary = limited_run(config, max_tokens_total=20_000)
        spent = bill.total()
        sent = len(server.requests)
        # The same run without a limit sends those that did not fit.
        assert not limited_run(config)["undone_because"]
    to_come = [len(request["prompt"].encode()) + FRAME + 512 for request in server.requests[sent:]]
    assert 20_000 - max(to_come) < spent <= 20_000 and max(to_come) < 2_500
    assert set(summary["undone_because"]) == {
        "the next request could pass --max-tokens-total (20,000); a higher limit goes on"
    }


@pytest.mark.parametrize("usage", ["none", "zero"])
def test_usage_that_is_not_reported_counts_as_the_most_it_can_be(
    settings: Settings, wire: str, usage: str
) -> None:
    bill = Counter()
    with Metered(billed(0, bill, worst=True), usage=usage) as server:
        for limit in (9_000, 18_000):
            summary = limited_run(
                settings(num_instructions=40, **about(wire, server)), max_tokens_total=limit
            )
            spending = summary["spending"]
            assert bill.total() == spending["prompt_tokens"] + spending["reply_tokens"] <= limit
    assert bill.total() > 12_000


@pytest.mark.parametrize(("wire", "concurrency"), [("openai", 1), ("dashscope", 8), ("openai", 32)])
def test_a_limit_on_dollars_is_never_passed_and_a_higher_one_goes_on(
    settings: Settings, keys: None, wire: str, concurrency: int, tmp_path: Path
) -> None:
    """In the end it has the dataset of a run without limits, and has asked nothing twice."""
    prices, bill, free = {"price_in": 2.0, "price_out": 10.0}, Counter(), Counter()
    with Metered(billed(1, free)) as server:
        limited_run(
            settings(num_instructions=30, work_dir=str(tmp_path / "free"), **about(wire, server))
        )
    with Metered(billed(1, bill)) as server:
        config = settings(concurrency=concurrency, num_instructions=30, **about(wire, server))
        for limit in (0.02, 0.03):
            summary = limited_run(config, max_cost=limit, **prices)
            cost = (bill["prompt"] * 2 + bill["reply"] * 10) / 1e6
            assert cost == pytest.approx(summary["spending"]["cost"]) and 0 < cost <= limit
            assert summary["undone_because"]
        summary = limited_run(config, max_cost=5, **prices)
    assert not summary["undone_because"] and bill == free
    assert same_files(tmp_path / "free", Path(config.work_dir))


def test_exit_code_3_at_a_limit_and_0_when_it_is_raised(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Server(scripted_model()) as server:
        where = ["--provider=local", f"--base-url={server.url}/v1", f"--work-dir={tmp_path / 'w'}"]
        command = [*where, "--num-instructions=10", "--max-tokens-total"]
        assert self_instruct.main([*command, "4000"]) == 3
        assert "--max-tokens-total (4,000); a higher limit goes on" in capsys.readouterr().out
        assert self_instruct.main([*command, "4000"]) == 3
        assert self_instruct.main([*command, "400000"]) == 0


def test_once_a_request_did_not_fit_no_smaller_one_goes_before_it(
    settings: Settings, wire: str
) -> None:
    with (
        Server(lambda *_: "Yes") as server,
        LimitedModel(settings(**about(wire, server)), limits(max_tokens_total=700)) as model,
    ):
        assert ask(model, 1) == "Yes"
        for words in (200, 1):
            with pytest.raises(RequestFailed, match="--max-tokens-total"):
                ask(model, 2, words)
        assert len(server.requests) == 1


def test_only_replies_of_this_provider_and_model_count(settings: Settings, wire: str) -> None:
    with Server(scripted_model()) as server:
        config = settings(num_instructions=10, **about(wire, server))
        first = limited_run(config)["spending"]
        other = settings(num_instructions=10, **{**about(wire, server), "model": "other"})
        with LimitedModel(other, limits(max_tokens_total=100)) as model:
            assert sum(model.purse.spent) == 0
            with pytest.raises(RequestFailed, match="--max-tokens-total"):
                ask(model)
        with LimitedModel(config, limits()) as model:
            assert model.purse.spent == (first["prompt_tokens"], first["reply_tokens"])


def test_a_model_that_takes_no_limit_on_its_replies_gets_no_limit_on_spending(
    settings: Settings, keys: None
) -> None:
    refuse = ("max_tokens", "max_completion_tokens")
    with Server(lambda *_: "Yes", refuse=refuse) as server:
        with LimitedModel(settings(**about("openai", server)), limits()) as model:
            assert ask(model) == "Yes"
        with (
            LimitedModel(
                settings(**about("openai", server)), limits(max_tokens_total=1e6)
            ) as model,
            pytest.raises(WorkshopError, match="leave out --max-cost and --max-tokens-total"),
        ):
            ask(model, 2)
        assert (
            len([one for one in server.requests if not one["parameters"].keys() & set(refuse)]) == 1
        )


def test_what_could_not_have_been_sent_costs_nothing(settings: Settings, wire: str) -> None:
    with Server(lambda *_: "Yes") as server:
        where = about(wire, server)
    config = settings(max_attempts=3, **where)  # nobody is there any more
    with LimitedModel(config, limits(max_tokens_total=10_000)) as model:
        with pytest.raises(WorkshopError, match="no answer"):
            ask(model)
        assert sum(model.purse.spent) == 0 == sum(model.purse.reserved)


@pytest.mark.parametrize(
    "fault", [socket.gaierror(-2, "Name or service not known"), OSError(24, "Too many open files")]
)
def test_a_failed_look_up_and_a_full_file_table_cost_nothing(
    settings: Settings, keys: None, wire: str, monkeypatch: pytest.MonkeyPatch, fault: OSError
) -> None:
    with Server(lambda *_: "Yes") as server:
        config = settings(max_attempts=3, **about(wire, server))
        with LimitedModel(config, limits(max_tokens_total=10_000)) as model:
            ask(model, 1, 300)  # whatever is imported and opened by the first request is there
            spent = sum(model.purse.spent)
            model.sdk_clients.clear()
            monkeypatch.setattr(socket, "getaddrinfo", Mock(side_effect=fault))
            with pytest.raises(RequestFailed, match=r"connection: .*" + fault.strerror):
                ask(model, 2, 300)
            assert sum(model.purse.spent) == spent and not sum(model.purse.reserved)


ODD_COUNTS = [-500, math.nan, [1], {"a": 1}, "7", 0.5, 1e300, True, None]


@pytest.mark.parametrize("said", ODD_COUNTS, ids=str)
def test_usage_that_is_no_count_counts_as_the_most_it_can_be(
    settings: Settings, wire: str, said: object
) -> None:
    def usage(worst: dict) -> object:
        return dict.fromkeys(worst, said)

    with Metered(lambda *_: "Yes", usage=usage) as server:
        with LimitedModel(settings(**about(wire, server)), limits()) as model:
            ask(model)
            assert model.purse.spent == (len(b"question 0") + FRAME, 512)
        with LimitedModel(settings(**about(wire, server)), limits()) as model:
            assert model.purse.spent == (len(b"question 0") + FRAME, 512)
        assert len(server.asked) == 1


@pytest.mark.parametrize("said", [[1, 2], "many", 7])
def test_usage_that_is_no_object_costs_no_second_request(
    settings: Settings, keys: None, said: object
) -> None:
    with (
        Metered(lambda *_: "Yes", usage=lambda worst: said) as server,
        LimitedModel(settings(**about("openai", server)), limits()) as model,
    ):
        assert ask(model) == "Yes"
        assert len(server.asked) == 1 and sum(model.purse.spent) > 512


@pytest.mark.parametrize("concurrency", [1, 8])
def test_a_server_that_counts_more_than_was_reserved_is_noticed_at_the_first_reply(
    settings: Settings, wire: str, concurrency: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """It puts 3,000 tokens before each prompt, and thinks for 1,000 more than it may."""

    def usage(worst: dict) -> dict:
        prompt, reply = worst
        return {prompt: worst[prompt] + 3000, reply: worst[reply] + 1000}

    with Metered(scripted_model(), usage=usage) as server:
        config = settings(num_instructions=60, concurrency=concurrency, **about(wire, server))
        spending = limited_run(config, max_tokens_total=60_000)["spending"]
        spent = spending["prompt_tokens"] + spending["reply_tokens"]
        said = capsys.readouterr().err
        assert said.count("counts 4,000 tokens more than a request was thought to take") == 1

        # What is in flight before the first reply can pass the limit; then there is no more of it.
        most = 60_000 + concurrency * 4000
        assert 40_000 < spent <= most and len(server.asked) >= 8
        assert ("was passed by" in said) == (spent > 60_000)
        sent = len(server.asked)
        limited_run(config, max_tokens_total=60_000)
        assert len(server.asked) == sent, "the next run knows it from the journal"
        assert "passed by" not in capsys.readouterr().err


def test_what_passes_a_limit_is_said(
    settings: Settings, wire: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The very first request takes more than the whole limit."""

    def usage(worst: dict) -> dict:
        return dict.fromkeys(worst, 5000)

    with Metered(scripted_model(), usage=usage) as server:
        summary = limited_run(settings(**about(wire, server)), max_tokens_total=9_000)
        assert "--max-tokens-total (9,000) was passed by 1,000 tokens" in capsys.readouterr().err
        assert summary["undone_because"] and len(server.asked) == 1


# Spending under kills: what is in flight stands in spending.jsonl before it is sent.


def killed_run(server: Server, folder: Path, limit: int, after: int) -> None:
    """A run on the command line that is killed once the server has so many requests more."""
    where = ["--provider=local", f"--base-url={server.url}/v1", "--model=m", f"--work-dir={folder}"]
    flags = ["--num-instructions=200", "--concurrency=8", f"--max-tokens-total={limit}"]
    wanted = len(server.requests) + after
    with open(os.devnull, "wb") as nowhere:
        command = [sys.executable, PROGRAM, *where, *flags]
        running = subprocess.Popen(command, stdout=nowhere, stderr=nowhere)
    until(lambda: len(server.requests) >= wanted or running.poll() is not None)
    running.kill()
    running.wait()
    until(lambda: not server.connections)


@pytest.mark.slow
def test_a_limit_is_kept_though_the_run_is_killed_again_and_again(
    settings: Settings, tmp_path: Path
) -> None:
    """The server works for every request it has got, whoever is there to hear the reply."""
    bill, dice = Counter(), random.Random(0)
    work = billed(0, bill, worst=True)

    def answer(prompt: str, body: dict) -> str:
        text = work(prompt, body)
        time.sleep(0.05)  # in which the run may be killed
        return text

    with Metered(answer, usage="worst") as server:
        folder = tmp_path / "work"
        for _ in range(5):
            killed_run(server, folder, 200_000, dice.randint(5, 12))
        where = {"provider": "local", "base_url": f"{server.url}/v1", "model": "m"}
        config = settings(num_instructions=200, work_dir=str(folder), **where)
        spending = limited_run(config, max_tokens_total=200_000)["spending"]
    spent = spending["prompt_tokens"] + spending["reply_tokens"]
    assert spending["stages"]["lost"]["reply_tokens"] > 0
    assert 150_000 < bill.total() <= spent <= 200_000


def test_what_got_lost_counts_in_every_later_run_without_run_json(
    settings: Settings, wire: str
) -> None:
    with Server(lambda *_: "Yes", faults=["reset", "reset"]) as server:
        config = settings(**about(wire, server))
        with LimitedModel(config, limits()) as model:
            ask(model)
            lost = model.purse.rows["lost"]
        assert lost == (2, 2 * (len(b"question 0") + FRAME), 2 * 512)
        for number in (1, 2):
            with LimitedModel(config, limits()) as model:
                assert model.purse.rows["lost"][1:] == lost[1:]
                ask(model, number)
        with LimitedModel(settings(**about(wire, server) | {"model": "n"}), limits()) as other:
            assert "lost" not in other.purse.rows
            ask(other)
        with LimitedModel(config, limits()) as model:
            assert model.purse.rows["lost"][1:] == lost[1:], "another model's run forgets nothing"
        assert not (Path(config.work_dir) / "run.json").exists()


def ledger_lines(config: Config) -> list[dict]:
    text = (Path(config.work_dir) / "spending.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_a_request_is_written_down_before_it_is_sent(settings: Settings, wire: str) -> None:
    seen = []

    def answer(prompt: str, body: dict) -> str:
        seen.append(ledger_lines(config))
        return "Yes"

    with Server(answer) as server:
        config = settings(**about(wire, server))
        with LimitedModel(config, limits()) as model:
            ask(model)
    sizes = {"prompt_tokens": len(b"question 0") + FRAME, "reply_tokens": 512}
    (before,) = seen
    assert before == [{"reserved": 1, "provider": wire, "model": "m", **sizes}]
    settled = {"settled": 1, "prompt_tokens": 0, "reply_tokens": 0}
    assert ledger_lines(config) == [*before, settled]


def test_a_reply_that_could_not_be_kept_is_lost(
    settings: Settings, wire: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was paid for, and the next run pays for it again."""
    with Server(lambda *_: "Yes") as server:
        config = settings(**about(wire, server))
        with LimitedModel(config, limits()) as model:
            monkeypatch.setattr(model.journal, "append", Mock(side_effect=OSError(28, "full")))
            with pytest.raises(WorkshopError, match=r"cannot write to .*responses.jsonl"):
                ask(model)
        with LimitedModel(config, limits()) as model:
            assert model.purse.spent == (len(b"question 0") + FRAME, 512)


def test_what_cannot_be_written_down_is_not_sent(settings: Settings, wire: str) -> None:
    with Server(lambda *_: "Yes") as server:
        config = settings(**about(wire, server))
        with LimitedModel(config, limits()) as model:
            model.ledger.reserve = Mock(side_effect=OSError(28, "No space left on device"))
            with pytest.raises(WorkshopError, match=r"spending.jsonl \(No space left"):
                ask(model)
        assert not server.requests


@pytest.mark.skipif(os.name == "nt", reason="an open file cannot be moved there")
def test_in_a_folder_that_was_moved_nothing_more_is_sent(
    settings: Settings, wire: str, tmp_path: Path
) -> None:
    """Moved back, the run goes on, and nothing was paid for twice."""
    write, work, moved = scripted_model(), tmp_path / "work", tmp_path / "moved"

    def answer(prompt: str, body: dict) -> str:
        with server.lock:
            if len(server.requests) >= 12 and work.exists() and not moved.exists():
                work.rename(moved)
        return write(prompt, body)

    with Server(answer) as server:
        config = settings(num_instructions=60, concurrency=8, **about(wire, server))
        with pytest.raises(WorkshopError, match="moved or deleted while the run was on"):
            limited_run(config, max_tokens_total=10**6)
        assert not work.exists() and len(server.requests) <= 12 + 8
        moved.rename(work)
        moved.mkdir()  # so that it is not moved again
        summary = limited_run(config, max_tokens_total=10**6)
        assert summary["status"] == "complete"
        prompts = [request["prompt"] for request in server.requests]
        assert len({*prompts}) == len(prompts)


def test_a_torn_last_line_of_the_ledger_is_passed_over_and_another_is_named(
    settings: Settings, wire: str
) -> None:
    with Server(lambda *_: "Yes", faults=["reset"]) as server:
        config = settings(**about(wire, server))
        with LimitedModel(config, limits()) as model:
            ask(model)
            spent = model.purse.spent
        ledger = Path(config.work_dir) / "spending.jsonl"
        whole = ledger.read_bytes()
        ledger.write_bytes(whole + b'{"reserved": 3, "prov')
        with LimitedModel(config, limits()) as model:
            assert model.purse.spent == spent
        huge = whole.split(b"\n")[0].replace(b'"reply_tokens": ', b'"reply_tokens": ' + b"9" * 400)
        negative = b'{"reserved": 4, "prompt_tokens": -1}'
        for damage in (b"x", b"[1]", b'{"settled": "1"}', negative, huge):
            ledger.write_bytes(damage + b"\n" + whole)
            with pytest.raises(WorkshopError, match=r"spending.jsonl, line 1 is damaged"):
                LimitedModel(config, limits())
        ledger.write_bytes(whole)
        with LimitedModel(config, limits()):
            pass  # the folder is free again


def test_practice_and_replay_under_limits(settings: Settings, tmp_path: Path) -> None:
    """The practice model keeps to them, at no price; a replay sends nothing, so that nothing can
    stop it."""
    config = settings(num_instructions=10, provider="practice")
    assert limited_run(config, max_tokens_total=3000)["undone_because"]
    whole = limited_run(config, max_cost=0.01)
    assert not whole["undone_because"] and whole["spending"]["cost"] == 0
    journal = tmp_path / "journal.jsonl"
    journal.write_bytes((Path(config.work_dir) / "responses.jsonl").read_bytes())
    again = settings(
        num_instructions=10,
        provider="replay",
        responses=str(journal),
        work_dir=str(tmp_path / "replayed"),
    )
    replayed = limited_run(again, max_tokens_total=1, requests_per_minute=1)
    assert not replayed["undone_because"] and same_files(
        Path(config.work_dir), tmp_path / "replayed"
    )


def test_max_cost_without_a_price_is_a_usage_error_before_anything_is_done(
    settings: Settings, wire: str
) -> None:
    with Server(scripted_model()) as server:
        config = settings(**about(wire, server))
        with pytest.raises(
            UsageError, match="price not listed for m: give both --price-in and --price-out"
        ):
            LimitedModel(config, limits(max_cost=1))
        assert not server.requests and not Path(config.work_dir).exists()


def test_what_run_json_says_about_spending(settings: Settings, wire: str) -> None:
    with Server(scripted_model()) as server:
        config = settings(num_instructions=30, **about(wire, server))
        # Stopped among the seed tasks of stage 2, then among the tasks of stage 3.
        early = limited_run(config, max_tokens_total=7_000, price_in=1, price_out=4)["spending"]
        stopped = limited_run(config, max_tokens_total=15_000, price_in=1, price_out=4)["spending"]
        summary = limited_run(config, price_in=1, price_out=4)
    written = json.loads((Path(config.work_dir) / "run.json").read_text(encoding="utf-8"))[
        "spending"
    ]
    assert written == summary["spending"]
    lines = (Path(config.work_dir) / "responses.jsonl").read_text(encoding="utf-8").splitlines()
    by_stage: dict[str, Counter] = {}
    for record in map(json.loads, lines):
        counts = Counter(prompt=record["prompt_tokens"], reply=record["reply_tokens"])
        by_stage.setdefault(record["stage"], Counter()).update(counts)
    for stage, tokens in by_stage.items():
        row = written["stages"][stage]
        assert (row["prompt_tokens"], row["reply_tokens"]) == (tokens["prompt"], tokens["reply"])
        assert row["cost"] == pytest.approx((tokens["prompt"] + 4 * tokens["reply"]) / 1e6)
    total = sum(by_stage.values(), Counter())
    assert (written["prompt_tokens"], written["reply_tokens"]) == (total["prompt"], total["reply"])
    assert written["cost"] == pytest.approx(sum(row["cost"] for row in written["stages"].values()))
    assert written["projected"] == {
        name: written[name] for name in ("prompt_tokens", "reply_tokens", "cost")
    }
    kept = len((Path(config.work_dir) / STEP_FILES[-1]).read_text(encoding="utf-8").splitlines())
    assert written["tokens_per_kept_instance"] == pytest.approx(total.total() / kept, abs=0.1)
    assert stopped["projected"]["cost"] == pytest.approx(written["cost"], rel=0.5), (
        "guessed when it was stopped"
    )
    assert early["cost"] < stopped["cost"] < stopped["projected"]["cost"]
    assert early["projected"]["prompt_tokens"] == pytest.approx(written["prompt_tokens"], rel=0.2)


def test_an_unknown_price_is_not_0(settings: Settings, wire: str) -> None:
    with Server(scripted_model()) as server:
        spending = limited_run(settings(num_instructions=3, **about(wire, server)))["spending"]
    assert spending["price_per_million_tokens"] == "price not listed"
    assert (
        spending["cost"]
        is spending["projected"]["cost"]
        is spending["stages"]["classify"]["cost"]
        is None
    )


@pytest.mark.parametrize("disabled", [False, True])
def test_the_bar_tells_what_is_spent_and_what_it_will_be(
    settings: Settings, wire: str, disabled: bool
) -> None:
    class Bar:
        said: list[str] = []  # noqa: RUF012
        n = 0
        disable = disabled

        def set_postfix_str(self, text: str, refresh: bool) -> None:
            self.said.append(text)

    with (
        Server(lambda *_: "Yes") as server,
        LimitedModel(
            settings(**about(wire, server)),
            limits(price_in=1, price_out=1),
            lambda model: {"instances": (900, 100)},
        ) as model,
    ):
        model.bar = Bar()
        ask(model)
    spent = sum(model.purse.spent)
    in_all = spent + 1000
    said = f"{spent} of {in_all:,} tokens, ${spent / 1e6:.4f} of ${in_all / 1e6:.4f}"
    assert Bar.said == ([] if disabled else [said])  # nobody sees one that is off


# Everything at once.


@pytest.mark.slow
def test_a_storm_of_faults_changes_nothing(tmp_path: Path, keys: None) -> None:
    """The command line, three of ten replies faults of all kinds: the dataset is that of a run
    without them."""

    def command(wire: str, name: str, server: Server) -> Path:
        where = [f"--{key.replace('_', '-')}={value}" for key, value in about(wire, server).items()]
        where += [
            f"--work-dir={tmp_path / wire / name}",
            "--num-instructions=40",
            "--concurrency=16",
        ]
        assert (
            self_instruct.main(
                [*where, "--first-wait=0.01", "--request-timeout=0.5", "--max-attempts=12"]
            )
            == 0
        )
        return tmp_path / wire / name

    def compare(wire: str) -> None:
        with Server(scripted_model()) as server:
            calm = command(wire, "calm", server)
        with Server(
            scripted_model(), faults=storm(0.3, 7, [*TRANSIENT, "hang"]), hang_s=5
        ) as server:
            stormy = command(wire, "storm", server)
        assert (
            sum(json.loads((stormy / "run.json").read_text(encoding="utf-8"))["faults"].values())
            > 15
        )
        assert same_files(calm, stormy)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(compare, WIRES))
