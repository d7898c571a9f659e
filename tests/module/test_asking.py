"""Asking: every fault that a server can answer with, on both wire formats, through the real
SDKs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count, product
from pathlib import Path
from threading import Thread

import pytest
from helpers.runs import PATIENCE, local, quiet, rows, stage_of, until
from helpers.server import TRANSIENT, Server, people_say, scripted_model, storm

import self_instruct
from self_instruct_workshop import (
    STAGES,
    STEP_FILES,
    Config,
    Model,
    Reply,
    RequestFailed,
    Task,
    WorkshopError,
    classify_instructions,
    main,
    parameters,
    run,
)

Settings = Callable[..., Config]
WIRES = ["openai", "dashscope"]
KEY = "sk-very-secret-0123456789"
QUESTION = "Among which options is the answer chosen?"


@pytest.fixture(params=WIRES)
def wire(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("DASHSCOPE_API_KEY", KEY)
    return request.param


def about(wire: str, url: str) -> dict[str, str]:
    return {
        "provider": wire,
        "base_url": url + {"openai": "/v1", "dashscope": "/api/v1"}[wire],
        "model": "m",
    }


def ask(model: Model, number: int = 0) -> Reply:
    return model.ask(
        "generate", f"question {number}", parameters(model.config, "generate"), {"number": number}
    )


def yes(prompt: str, body: dict) -> str:
    return "Yes"


def refusal(model: Model) -> str:
    """The one line with which the run stops."""
    with pytest.raises(WorkshopError) as stopped:
        ask(model)
    assert len(str(stopped.value).splitlines()) == 1 and str(stopped.value).isprintable()
    return str(stopped.value)


class Odd(ThreadingHTTPServer):
    """Says word for word what a test wants: (status, headers, body) in turn, the last one for
    ever."""

    daemon_threads, block_on_close = True, False

    def __init__(self, *answers: tuple[int, dict[str, str], object]) -> None:
        super().__init__(("127.0.0.1", 0), Oddly)
        self.answers, self.posts = list(answers), 0
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.thread = Thread(target=self.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> Odd:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class Oddly(BaseHTTPRequestHandler):
    server: Odd

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        status, headers, body = self.server.answers[
            min(self.server.posts, len(self.server.answers) - 1)
        ]
        self.server.posts += 1
        raw = (
            body
            if isinstance(body, bytes)
            else (body if isinstance(body, str) else json.dumps(body)).encode()
        )
        self.send_response(status)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(raw)),
            **headers,
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, format: str, *args: object) -> None:
        """Write nothing to stderr."""


def said(
    wire: str, message: object, code: object = None, status: int = 400, **headers: str
) -> tuple:
    """An error in the provider's own format."""
    error = {"message": message, "code": code, "type": None, "param": None}
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return (
        status,
        headers,
        {"error": error} if wire == "openai" else {"code": code, "message": message},
    )


def good(wire: str, text: object = "Yes", usage: object = None, **choice: object) -> tuple:
    """A reply with status 200, parts of it as the test wants them."""
    choice = {
        "index": 0,
        "finish_reason": "stop",
        "message": {"role": "assistant", "content": text},
    } | choice
    choices = [{name: value for name, value in choice.items() if value != "missing"}]
    document = {
        "id": "x",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": choices,
        "usage": usage,
    }
    return (
        200,
        {},
        document if wire == "openai" else {"output": {"choices": choices}, "usage": usage},
    )


# What is worth another try.


@pytest.mark.parametrize("fault", TRANSIENT)
def test_a_passing_fault_is_tried_again_and_counted(
    settings: Settings, wire: str, fault: str
) -> None:
    with Server(yes, faults=[fault]) as server:
        with Model(settings(**about(wire, server.url))) as model:
            assert ask(model).text == "Yes"
        assert len(server.requests) == 2
    assert model.faults.total() == 1 and not model.undone and not model.refused
    lines = (Path(settings().work_dir) / "responses.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["text"] for line in lines] == ["Yes"], "a fault is no reply"


@pytest.mark.parametrize("fault", [*TRANSIENT, "hang"])
def test_attempts_are_bounded(settings: Settings, wire: str, fault: str) -> None:
    with Server(yes, faults=lambda index, prompt: fault, hang_s=1) as server:
        config = settings(**about(wire, server.url), max_attempts=3, request_timeout=0.2)
        with Model(config, sleep=lambda seconds: None) as model:
            assert "--" in (line := refusal(model)) or "again" in line or "check" in line
        assert len(server.requests) == 3 and model.faults.total() == 3
    assert (Path(config.work_dir) / "responses.jsonl").read_bytes() == b""


def test_a_server_that_hangs_is_given_up_and_tried_again(settings: Settings, wire: str) -> None:
    with Server(yes, faults=["hang"], hang_s=PATIENCE) as server:
        with Model(settings(**about(wire, server.url), request_timeout=0.3)) as model:
            assert ask(model).text == "Yes"
        until(lambda: server.requests[0]["left"])
        assert len(server.requests) == 2


def test_a_slow_reply_that_keeps_coming_is_no_fault(settings: Settings, wire: str) -> None:
    with Server(yes, faults=["drip"], drip_s=1.0) as server:
        with Model(settings(**about(wire, server.url), request_timeout=0.4)) as model:
            assert ask(model).text == "Yes"
        assert len(server.requests) == 1 and not model.faults


def trouble_on_second_try(model: Model, server: Odd, first: tuple, second: tuple) -> str:
    """Let the server answer the next question in these two ways; say what went wrong, "" for
    nothing."""
    server.answers = [first, second]
    server.posts = 0
    try:
        text = ask(model, number=next(NUMBERS)).text
    except (WorkshopError, RequestFailed) as failure:
        return str(failure)
    return "" if (text, server.posts) == ("Yes", 2) else f"{text!r} after {server.posts} requests"


NUMBERS = count()
BUSY = [408, 409, 429, 500, 502, 503, 504, 529]
BUSY_BODIES = ["", "<html>busy</html>", "{", "null", "[]", '"busy"', '{"detail": "busy"}']


def test_a_busy_server_is_tried_again_whatever_its_body(settings: Settings, wire: str) -> None:
    wrong = []
    with Odd() as server, Model(settings(**about(wire, server.url))) as model:
        for status, body in product(BUSY, BUSY_BODIES):
            kind = {"Content-Type": "text/html" if body.startswith("<") else "application/json"}
            if trouble := trouble_on_second_try(model, server, (status, kind, body), good(wire)):
                wrong.append((status, body, trouble))
    assert wrong == []
    assert model.faults.total() == len(BUSY) * len(BUSY_BODIES)


BODIES = [
    "",
    "<html>hi</html>",
    "{",
    "null",
    "[]",
    "{}",
    "7",
    '"words"',
    "[1, 2]",
    '{"choices": null}',
    b"\xff\xfe",
]
BODIES += [
    '{"choices": [], "output": {"choices": []}}',
    '{"choices": {}, "output": {}}',
    '{"output": null}',
]
BODIES += [
    '{"choices": [null], "output": {"choices": [null]}}',
    '{"choices": "abc", "output": {"choices": "abc"}}',
]
BODIES += [
    '{"choices": [{}], "output": {"choices": [{}]}}',
    '{"output": "words"}',
    '{"output": []}',
]
BODIES += ['{"choices": [{"message": null}], "output": {"choices": [{"message": null}]}}']
BODIES += ['{"choices": [{"message": {}}], "output": {"choices": [{"message": {}}]}}']
BODIES += ['{"choices": [{"message": "hi"}], "output": {"choices": [{"message": "hi"}]}}']


BROKEN = ["null", "7", '{"output": null}', '{"output": "words"}', '{"output": []}']
BROKEN += [
    '{"choices": [null], "output": {"choices": [null]}}',
    '{"choices": "abc", "output": {"choices": "abc"}}',
]
BROKEN += ['{"choices": [{"message": "hi"}], "output": {"choices": [{"message": "hi"}]}}']


def test_a_200_that_holds_no_reply_is_tried_again(settings: Settings, wire: str) -> None:
    wrong = []
    with Odd() as server, Model(settings(**about(wire, server.url))) as model:
        for body in BODIES:
            if trouble := trouble_on_second_try(model, server, (200, {}, body), good(wire)):
                wrong.append((body, trouble))
    assert wrong == []


@pytest.mark.parametrize(
    "usage", [{}, None, {"prompt_tokens": None}, {"total_tokens": 3}, {"completion_tokens": 2}]
)
def test_a_reply_without_a_token_count_is_a_reply(
    settings: Settings, wire: str, usage: dict | None
) -> None:
    with (
        Odd(good(wire, usage=usage)) as server,
        Model(settings(**about(wire, server.url))) as model,
    ):
        reply = ask(model)
    assert (reply.text, reply.prompt_tokens, server.posts) == ("Yes", 0, 1)


@pytest.mark.parametrize("finish", [None, "missing", "eos", ""])
def test_a_reply_without_a_known_reason_to_end_is_a_reply(
    settings: Settings, wire: str, finish: object
) -> None:
    with (
        Odd(good(wire, finish_reason=finish)) as server,
        Model(settings(**about(wire, server.url))) as model,
    ):
        reply = ask(model)
    assert reply.text == "Yes" and not reply.cut


@pytest.mark.parametrize("content", [[{"type": "text", "text": "Yes"}], {"text": "Yes"}, 7, True])
def test_content_that_is_no_text_never_reaches_the_journal(
    settings: Settings, wire: str, content: object
) -> None:
    with (
        Odd(good(wire, content), good(wire)) as server,
        Model(settings(**about(wire, server.url))) as model,
    ):
        assert ask(model).text == "Yes"
    for line in (
        (Path(settings().work_dir) / "responses.jsonl").read_text(encoding="utf-8").splitlines()
    ):
        assert isinstance(json.loads(line)["text"], str)


def test_an_empty_reply_that_was_cut_is_a_cut_reply(settings: Settings, wire: str) -> None:
    with (
        Odd(good(wire, None, finish_reason="length")) as server,
        Model(settings(**about(wire, server.url))) as model,
    ):
        assert ask(model).cut and server.posts == 1


def test_an_error_code_that_is_a_number_is_understood(settings: Settings, wire: str) -> None:
    answers = (
        said(wire, "try later", 503, 503),
        good(wire),
        said(wire, "this prompt is too long", 400, 400),
    )
    with Odd(*answers) as server, Model(settings(**about(wire, server.url))) as model:
        assert ask(model).text == "Yes"
        with pytest.raises(RequestFailed, match="too long"):
            ask(model, 1)


# How long is waited.


def waits(settings: Settings, wire: str, answer: tuple, **changes: object) -> list[float]:
    """The seconds that would be slept between the attempts, if every one is answered like this."""
    slept: list[float] = []
    with (
        Odd(answer) as server,
        Model(settings(**about(wire, server.url), **changes), sleep=slept.append) as model,
    ):
        refusal(model)
        assert server.posts == len(slept) + 1
    return slept


@pytest.mark.parametrize(
    ("header", "value", "low", "high"),
    [
        ("Retry-After", "7", 7, 7.1),
        ("Retry-After", "1.5", 1.5, 1.6),
        ("Retry-After", 20.0, 18, 20.1),
        ("Retry-After", -20.0, 0, 0.1),  # a date that has passed
        ("Retry-After", "soon", 0, 0.1),
        ("Retry-After", "", 0, 0.1),
        ("Retry-After", ".", 0, 0.1),
        ("Retry-After", "1.2.3", 0, 0.1),
        ("Retry-After", "-5", 0, 0.1),
        ("Retry-After", "Wed, 99 Foo 2026 99:99:99 GMT", 0, 0.1),
        ("Retry-After", "Wed, 21 Oct 2015 07:28:00 -0000", 0, 0.1),
    ],
)
def test_retry_after_is_honoured_in_all_its_forms(
    settings: Settings, wire: str, header: str, value: str | float, low: float, high: float
) -> None:
    if isinstance(value, float):
        value = format_datetime(datetime.now(UTC) + timedelta(seconds=value), usegmt=True)
    (wait,) = waits(
        settings, wire, said(wire, "busy", None, 429, **{header: value}), max_attempts=2
    )
    assert low <= wait <= high


def test_a_wait_that_a_server_asks_for_is_waited_before_the_next_request(
    settings: Settings, wire: str
) -> None:
    slept: list[float] = []
    with Server(yes, faults=["429-retry-after"]) as server:
        with Model(settings(**about(wire, server.url)), sleep=slept.append) as model:
            ask(model)
        assert len(server.requests) == 2
    assert slept == [pytest.approx(0.2, abs=0.02)]


def test_a_wait_beyond_the_deadline_is_not_waited_at_all(settings: Settings, wire: str) -> None:
    assert waits(settings, wire, said(wire, "busy", None, 429, Retry_After="3600")) == []


def test_waits_double_with_some_chance_in_them_and_stop_growing_at_30_seconds(
    settings: Settings, wire: str
) -> None:
    slept = waits(
        settings,
        wire,
        said(wire, "busy", None, 500),
        max_attempts=10,
        first_wait=0.5,
        deadline=86400,
    )
    for n, seconds in enumerate(slept):
        full = min(30, 0.5 * 2**n)
        assert full / 2 <= seconds <= full
    assert (
        len(slept) == 9
        and len({seconds / min(30, 0.5 * 2**n) for n, seconds in enumerate(slept)}) > 1
    )


def test_the_deadline_ends_what_attempts_alone_would_not(settings: Settings, wire: str) -> None:
    """Its pauses, at least half of 0.01, 0.02, 0.04... s, come to more than a second after the
    eighth request."""
    with Server(yes, faults=lambda index, prompt: "500") as server:
        config = settings(**about(wire, server.url), max_attempts=12, deadline=1.0)
        with Model(config) as model:
            refusal(model)
        assert 1 <= len(server.requests) <= 9


@pytest.mark.parametrize(
    ("fault", "slow", "limits"),
    [
        (
            "hang",
            {"hang_s": PATIENCE},
            {"max_attempts": 50, "deadline": 0.5, "request_timeout": 0.2},
        ),
        ("drip", {"drip_s": 2}, {"max_attempts": 2, "deadline": 0.3, "request_timeout": 0.3}),
    ],
)
def test_the_deadline_ends_attempts_that_hang_and_a_reply_that_drips_on(
    settings: Settings, wire: str, fault: str, slow: dict, limits: dict
) -> None:
    server = Server(yes, faults=lambda index, prompt: fault, **slow)
    with server, Model(settings(**about(wire, server.url), **limits)) as model:
        refusal(model)
        assert len(server.requests) < 6


# What stops the run at once.


@pytest.mark.parametrize("fault", ["401", "404", "429-quota"])
def test_a_wrong_key_an_unknown_model_or_no_quota_stops_the_run_with_one_request(
    settings: Settings, wire: str, fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with Server(yes, faults=lambda index, prompt: fault) as server:
        config = settings(**about(wire, server.url))
        assert main(config) == 1
        assert len(server.requests) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert (
        line.startswith("error: ")
        and "_API_KEY" in line
        and "--model" in line
        and config.base_url in line
    )
    assert (
        json.loads((Path(config.work_dir) / "run.json").read_text(encoding="utf-8"))["status"]
        == "interrupted"
    )


def test_a_server_that_checks_the_key_refuses_the_wrong_one(settings: Settings, wire: str) -> None:
    with Server(yes, key="another") as server, Model(settings(**about(wire, server.url))) as model:
        assert KEY not in refusal(model)
    with Server(yes, key=KEY) as server, Model(settings(**about(wire, server.url))) as model:
        assert ask(model).text == "Yes"


def test_a_reply_that_echoes_the_key_brings_it_into_no_file(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "sk-" + "k" * 20
    monkeypatch.setenv("LOCAL_API_KEY", key)
    with Server(lambda *asked: f"{scripted_model()(*asked)} Authorization: {key}") as server:
        quiet(settings(**local(server), num_instructions=2))
    texts = [path.read_text() for path in Path(settings().work_dir).glob("*.json*")]
    assert "Authorization: [key]" in "".join(texts) and key not in "".join(texts)


def test_a_key_that_dies_in_the_middle_keeps_what_was_paid_for(
    settings: Settings, wire: str
) -> None:
    with Server(
        scripted_model(), faults=lambda index, prompt: "401" if index >= 5 else ""
    ) as server:
        config = settings(**about(wire, server.url), num_instructions=8, concurrency=1)
        assert main(config) == 1
        assert len(server.requests) in (6, 7), "a worker may have taken up one more by then"
        lines = (Path(config.work_dir) / "responses.jsonl").read_bytes().splitlines()
        assert len(lines) == 5
        step1 = (Path(config.work_dir) / STEP_FILES[0]).read_text(encoding="utf-8").splitlines()
        assert len(step1) == 8
        server.choose = lambda index, prompt: ""
        assert main(config) == 0
        prompts = Counter(request["prompt"] for request in server.requests if not request["fault"])
    assert prompts.total() <= len(prompts) + 1, (
        "one may still have been on its way when the first run ended"
    )


def test_a_run_that_is_refused_does_not_wait_for_requests_that_hang(
    settings: Settings, wire: str
) -> None:
    asked = count()

    def fault(index: int, prompt: str) -> str:
        if QUESTION not in prompt:
            return ""
        return "401" if next(asked) == 1 else "hang"

    with Server(scripted_model(), faults=fault, hang_s=PATIENCE) as server:
        arguments = (
            "--num-instructions",
            "8",
            "--concurrency",
            "8",
            "--request-timeout",
            "300",
            "--max-attempts",
            "1",
        )
        arguments += ("--classify-together", "1")
        done = cli(settings(**about(wire, server.url)), *arguments)
        assert done.returncode == 1 and "401" in done.stderr.splitlines()[-1]
        until(
            lambda: all(
                request["left"] for request in server.requests if request["fault"] == "hang"
            )
        )


def test_ten_failures_in_a_row_end_the_run(settings: Settings, wire: str) -> None:
    with Server(
        scripted_model(), faults=lambda index, prompt: "500" if QUESTION in prompt else ""
    ) as server:
        config = settings(
            **about(wire, server.url), num_instructions=40, max_attempts=1, concurrency=1
        )
        with pytest.raises(WorkshopError, match="same command") as stopped:
            run(config)
        failed = sum(QUESTION in request["prompt"] for request in server.requests)
    assert failed in (10, 11) and len(str(stopped.value).splitlines()) == 1


def test_nine_failures_in_a_row_do_not(settings: Settings, wire: str) -> None:
    seen = iter(range(1000))

    def fault(index: int, prompt: str) -> str:
        # Every tenth question is answered: one about a seed task, then two of the 20 tasks.
        return "500" if QUESTION in prompt and next(seen) % 10 != 9 else ""

    with Server(scripted_model(), faults=fault) as server:
        config = settings(
            **about(wire, server.url), num_instructions=20, max_attempts=1, concurrency=1
        )
        summary = run(config)
    assert summary["status"] == "complete" and summary["counts"]["classify"]["undone"] == 18


# What a content filter holds back.


@pytest.mark.parametrize("fault", ["filter", "filter-400"])
def test_a_filtered_reply_is_journalled_and_asked_once_more(
    settings: Settings, wire: str, fault: str
) -> None:
    with Server(yes, faults=[fault]) as server:
        with Model(settings(**about(wire, server.url))) as model:
            assert ask(model).text == "Yes"
        assert len(server.requests) == 2 and not model.faults
    lines = (Path(settings().work_dir) / "responses.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["finish_reason"] for line in lines] == ["content_filter", "stop"]


@pytest.mark.parametrize("fault", ["filter", "filter-400"])
def test_a_reply_filtered_twice_is_undone_and_never_asked_again(
    settings: Settings, wire: str, fault: str
) -> None:
    with Server(yes, faults=lambda index, prompt: fault) as server:
        for _ in range(2):
            with (
                Model(settings(**about(wire, server.url))) as model,
                pytest.raises(RequestFailed, match="filter"),
            ):
                ask(model)
        assert len(server.requests) == 2


def test_a_question_of_stage_2_filtered_twice_is_recorded_as_unknown(
    settings: Settings, wire: str
) -> None:
    tasks = [Task("a", "Name a river."), Task("b", "Name a forbidden lake.")]
    seeds = people_say()

    def options(prompt: str, body: dict) -> str:
        """What people say of seed tasks; that all others are classification."""
        return "Options: yes, no" if seeds.get(prompt.split("\n")[-2], True) else "Options: none"

    with Server(
        options, faults=lambda index, prompt: "filter" if "forbidden" in prompt else ""
    ) as server:
        config = settings(**about(wire, server.url))
        with Model(config) as model:
            through = classify_instructions(config, model, tasks)
    assert [(task.id, task.is_classification) for task in through] == [("a", True), ("b", None)]


def test_what_was_filtered_twice_is_not_promised_to_be_asked_again(
    settings: Settings, wire: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def fault(index: int, prompt: str) -> str:
        return "filter" if "worked example" in prompt.split("\n")[0] else ""

    with Server(scripted_model(), faults=fault) as server:
        config = settings(**about(wire, server.url), num_instructions=3)
        assert main(config) == 3
        capsys.readouterr()
        asked = len(server.requests)
        assert main(config) == 3
        assert len(server.requests) == asked
    assert "asks them again" not in capsys.readouterr().out


# What may be printed.

EVIL = "\x1b[31mred\x07 and\r\nnew line \u202e\u2028 turned \x9b2J"


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500, 200])
def test_a_server_that_quotes_the_key_or_sends_control_characters_cannot_make_us_print_them(
    settings: Settings, wire: str, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = said(wire, f"{EVIL} your key is {KEY}, really {KEY}", "odd", status)
    with Odd(good(wire, "9. Name one river in Asia."), answer) as server:
        config = settings(**about(wire, server.url), num_instructions=2, max_attempts=2)
        assert main(config) in (1, 3)
    captured = capsys.readouterr()
    shown = captured.out + captured.err
    assert "red" in shown or status == 200
    for sign in "\x1b\x07\r\u202e\u2028\x9b":
        assert sign not in shown
    for text in (
        shown,
        *(file.read_text(encoding="utf-8") for file in Path(config.work_dir).glob("*.json*")),
    ):
        assert KEY not in text


PAGES = [f"<html>{KEY} {EVIL}</html>", f'{{"error": "{KEY}"}}', f'"{KEY}"', f"{KEY}{{"]


def test_no_page_of_any_kind_brings_the_key_into_a_message(
    settings: Settings, wire: str, tmp_path: Path
) -> None:
    wrong = []
    for number, (page, status) in enumerate(product(PAGES, [200, 400, 403, 503])):
        kind = {"Content-Type": "text/html" if page.startswith("<") else "application/json"}
        folder = tmp_path / str(number)
        with (
            Odd((status, kind, page)) as server,
            Model(
                settings(**about(wire, server.url), max_attempts=2, work_dir=str(folder))
            ) as model,
            pytest.raises((WorkshopError, RequestFailed)) as stopped,
        ):
            ask(model)
        for text in (str(stopped.value), str(model.faults)):
            if KEY in text or not text.isprintable() or len(text) >= 500:
                wrong.append((status, page, text))
    assert wrong == []


def test_a_message_of_a_megabyte_is_cut_to_one_line(settings: Settings, wire: str) -> None:
    with (
        Odd(said(wire, "word\n" * 200_000, "odd", 401)) as server,
        Model(settings(**about(wire, server.url))) as model,
    ):
        assert len(refusal(model)) < 600


def test_a_message_that_is_no_text_is_no_traceback(
    settings: Settings, wire: str, tmp_path: Path
) -> None:
    wrong = []
    for number, (message, status) in enumerate(
        product([None, "", 7, ["a", "b"], {"a": "b"}], [400, 401, 500])
    ):
        folder = tmp_path / str(number)
        with (
            Odd(said(wire, message, None, status)) as server,
            Model(
                settings(**about(wire, server.url), max_attempts=2, work_dir=str(folder))
            ) as model,
            suppress(WorkshopError, RequestFailed),  # as it should be: they say what to do
        ):
            wrong.append((message, status, ask(model).text))
    assert wrong == []


def test_the_name_of_a_model_is_printed_without_control_characters(settings: Settings) -> None:
    told: list[str] = []
    with Server(scripted_model(), models=["evil\x1b[31m"]) as server:
        run(
            settings(base_url=server.url + "/v1", num_instructions=1, until="generate"),
            say=told.append,
        )
    assert "evil" in told[0] and "\x1b" not in told[0]


# How a run ends.


def cli(config: Config, *arguments: str) -> subprocess.CompletedProcess[str]:
    where = ["--provider", config.provider, "--base-url", config.base_url, "--model", config.model]
    where += ["--work-dir", config.work_dir, "--first-wait", "0.01"]
    command = [sys.executable, self_instruct.__file__, *where, *arguments]
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}  # a terminal that can show little
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, encoding="utf-8", timeout=60
    )


def test_the_exit_code_is_0_when_all_is_done_1_when_nothing_answers_and_3_when_some_is_undone(
    settings: Settings, wire: str
) -> None:
    with Server(scripted_model()) as server:
        config = settings(**about(wire, server.url))
        server.choose = lambda index, prompt: "404"
        first = cli(config, "--num-instructions", "4")
        server.choose = lambda index, prompt: "500" if QUESTION in prompt and index % 2 else ""
        second = cli(
            config,
            "--num-instructions",
            "4",
            "--max-attempts",
            "1",
            "--concurrency",
            "1",
            "--classify-together",
            "1",
        )
        server.choose = lambda index, prompt: ""
        third = cli(config, "--num-instructions", "4")
        asked = len(server.requests)
        fourth = cli(config, "--num-instructions", "4")
        assert len(server.requests) == asked
    assert [done.returncode for done in (first, second, third, fourth)] == [1, 3, 0, 0]
    assert len(first.stderr.splitlines()) == 1 and first.stderr.startswith("error: ")
    assert "undone" in second.stdout and "same command" in second.stdout
    assert second.stderr == third.stderr == fourth.stderr == ""
    assert "Already complete" in fourth.stdout and "Already complete" not in third.stdout


def test_one_request_is_called_1_request(
    settings: Settings, wire: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with Server(scripted_model()) as server:
        config = settings(**about(wire, server.url), num_instructions=1, until="generate")
        summary = run(config)
    assert summary["tokens"]["generate"]["asked_now"] is not True
    assert re.search(r"^1 requests? now", capsys.readouterr().out, re.M)


@pytest.fixture
def stormy(settings: Settings, wire: str) -> Iterator[tuple[dict, Path, Server]]:
    """A run in which a third of all requests fail, some for good, and some replies are cut."""
    weather = storm(0.35, 5, (*TRANSIENT, "filter", "filter-400", "length"))

    def faults(index: int, prompt: str) -> str:
        # Every reply of stage 1 is cut, and those to a sixth of the tasks in stage 3.
        kind, task = stage_of(prompt), prompt.rpartition("Task:\n")[2]
        long = kind == "generate" or (kind == "instances" and task.startswith("Explain"))
        return weather(index, prompt) or "length" * long

    with Server(scripted_model(), faults=faults) as server:
        config = settings(
            **about(wire, server.url),
            num_instructions=40,
            max_attempts=2,
            instances_per_instruction=2,
        )
        summary = run(config, say=lambda line: None)
        assert summary["agreement"]["trusted"], "or nothing would be asked in stage 2"
        yield summary, Path(config.work_dir), server


def test_after_a_storm_the_counts_add_up(stormy: tuple[dict, Path, Server]) -> None:
    summary, folder, server = stormy
    counts, rejected = summary["counts"], rows(folder, "rejected.jsonl")
    assert {"generate", "instances"} <= {row["stage"] for row in rejected}, "some were cut"
    for row in rejected:  # an instance that stage 3 cut off is counted where instances are
        row["counted"] = (
            "filter" if (row["stage"], row["rule"]) == ("instances", "cut_off") else row["stage"]
        )
    undone = Counter()
    for stage, name in zip(STAGES, STEP_FILES, strict=True):
        part = counts[stage]
        came = part["out"] + sum(part["rejected"].values()) + part["undone"] * (stage != "generate")
        assert part["in"] == came, stage
        rules = Counter(row["rule"] for row in rejected if row["counted"] == stage)
        assert rules == part["rejected"], stage
        undone[stage] = part["undone"]
        written = rows(folder, name)
        through = [row for row in written if row["instances"]] if stage == "instances" else written
        assert len(through) == part["out"], stage
    assert counts["classify"]["in"] == counts["generate"]["out"]
    assert counts["instances"]["in"] == counts["classify"]["out"]
    cut = sum(row["rule"] == "cut_off" for row in rejected if row["stage"] != "generate")
    assert counts["filter"]["in"] == cut + sum(
        len(row["instances"]) for row in rows(folder, STEP_FILES[2])
    )
    assert (
        sum(
            counts["classify"][name] for name in ("classification", "not_classification", "unknown")
        )
        == (counts["classify"]["out"])
    )
    assert sum(summary["undone_because"].values()) == undone.total() > 0
    assert (
        summary["faults"]
        and json.loads((folder / "run.json").read_text(encoding="utf-8"))["counts"] == counts
    )
    kinds = {request["fault"] for request in server.requests}
    assert len(kinds) > 8, "the storm had every kind of weather"


def test_after_a_storm_every_text_in_every_file_is_the_models_own(
    stormy: tuple[dict, Path, Server],
) -> None:
    _, folder, server = stormy
    said = {request["text"] for request in server.requests if request["delivered"]}
    everything = "\n".join(said)
    journal = rows(folder, "responses.jsonl")
    withheld = ("content_filter", "no_content")
    assert all(row["text"] in said or row["finish_reason"] in withheld for row in journal)
    for row in rows(folder, STEP_FILES[0]):
        assert row["instruction"] in everything
    for row in rows(folder, STEP_FILES[1]):
        assert row["response"] in {*said, ""}  # "": the filter held it back twice
        assert bool(row["is_classification"]) == (row["response"] == "Yes")
    for row in rows(folder, STEP_FILES[2]):
        assert row["response"] in said
    for row in rows(folder, STEP_FILES[3]):
        assert {*row} == {"instruction", "input", "output"}
        assert all(text in everything for text in row.values())


def test_after_a_storm_the_same_command_asks_only_what_is_undone(
    stormy: tuple[dict, Path, Server], settings: Settings, wire: str
) -> None:
    summary, folder, server = stormy
    asked, server.choose = len(server.requests), lambda index, prompt: ""
    config = settings(
        **about(wire, server.url), num_instructions=40, max_attempts=2, instances_per_instruction=2
    )
    keys = {row["key"] for row in rows(folder, "responses.jsonl")}
    again = run(config, say=lambda line: None)
    journal = rows(folder, "responses.jsonl")
    assert len(journal) - len({row["key"] for row in journal}) == 0, "no question is answered twice"
    assert (
        len(server.requests) - asked
        == len(journal) - len(keys)
        == sum(part["asked_now"] for part in again["tokens"].values())
    )
    left = {why for why in again["undone_because"] if "filter" not in why}
    assert (
        not left
        and again["counts"]["generate"]["out"] == summary["counts"]["generate"]["out"] == 40
    )


def test_a_storm_that_every_request_outlives_changes_no_byte(
    settings: Settings, wire: str, tmp_path: Path
) -> None:
    def without_times(folder: Path) -> list[str]:
        paths = [folder / name for name in (*STEP_FILES, "rejected.jsonl")]
        texts = [path.read_text(encoding="utf-8") for path in paths if path.exists()]
        return [re.sub(r'"created_at": "[^"]*"', "", text) for text in texts]

    for name, faults in (("calm", ()), ("storm", storm(0.4, 3, (*TRANSIENT, "reset")))):
        with Server(scripted_model(), faults=faults) as server:
            config = settings(
                **about(wire, server.url), num_instructions=24, work_dir=str(tmp_path / name)
            )
            summary = run(
                config.__class__(**vars(config) | {"max_attempts": 30}), say=lambda line: None
            )
        assert summary["status"] == "complete" and bool(summary["faults"]) == (name == "storm")
    assert without_times(tmp_path / "calm") == without_times(tmp_path / "storm")
