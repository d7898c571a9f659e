"""Servers as users meet them: shapes of errors, slow and loading ones, proxies, redirects, words
for the end of a reply."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from helpers.server import Server, scripted_model

import self_instruct
import self_instruct_workshop as workshop
from self_instruct_workshop import (
    Config,
    Model,
    Reply,
    RequestFailed,
    Window,
    WorkshopError,
    error_words,
    main,
    parameters,
    run,
)

Settings = Callable[..., Config]
Answer = tuple[int, dict[str, str], Any]
KEY = "sk-very-secret-0123456789"


class Says(ThreadingHTTPServer):
    """Answers each request as the function `answer` of the request says: (status, headers, body).

    `requests` holds what came: method, path, headers and body of each."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, answer: Callable[[dict], Answer]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer = answer
        self.requests: list[dict] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self) -> Says:
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    @property
    def posts(self) -> int:
        return sum(request["method"] == "POST" for request in self.requests)


class Handler(BaseHTTPRequestHandler):
    server: Says

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers.get("content-length", 0)))
        request = {"method": self.command, "path": self.path, "headers": dict(self.headers)}
        request["body"] = json.loads(raw or b"{}")
        self.server.requests.append(request)
        status, headers, body = self.server.answer(request)
        data = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status)
        kind = "text/html" if data.startswith(b"<") else "application/json"
        headers = {"Content-Type": kind, "Content-Length": str(len(data))} | headers
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST

    def log_message(self, format: str, *args: object) -> None:
        """Write nothing to stderr."""


def good(text: Any = "Yes", finish: Any = "stop", **message: Any) -> Answer:
    said = {"role": "assistant", "content": text, **message}
    choice = {"index": 0, "finish_reason": finish, "message": said}
    return 200, {}, {"id": "x", "object": "chat.completion", "choices": [choice]}


def in_turn(*answers: Answer) -> Callable[[dict], Answer]:
    """These answers one after the other; the last one for ever."""
    rest = list(answers)
    return lambda request: rest.pop(0) if len(rest) > 1 else rest[0]


def local(server: Any) -> dict[str, str]:
    return {"provider": "local", "base_url": server.url + "/v1", "model": "m"}


def ask(model: Model, number: int = 0, stage: str = "generate") -> Reply:
    sent = parameters(model.config, stage)
    return model.ask(stage, f"question {number}", sent, {"number": number})


def what_went_wrong(config: Config) -> str:
    """The one line with which a request, or the whole run, ends."""
    with pytest.raises((WorkshopError, RequestFailed)) as stopped, Model(config) as model:
        ask(model)
    assert str(stopped.value).isprintable()
    return str(stopped.value)


# The words of an error.

SHAPES = [
    {"error": "too hot"},
    {"error": {"message": "too hot", "code": "bad"}},
    [{"error": {"message": "too hot"}}],
    {"detail": "too hot"},
    {"detail": {"error": "too hot"}},
    {"message": "too hot"},
    {"msg": "too hot"},
    {"base_resp": {"status_code": 2013, "status_msg": "too hot"}},
    {"success": False, "message": "too hot", "data": None},
    {"success": False, "errors": [{"code": 7003, "message": "too hot"}]},
    {"error": {"message": '{"error": {"message": "too hot"}}'}},
    "too hot",
    '"too hot"',
    "<html><head><title>too hot</title></head><body>many words</body></html>",
]


@pytest.mark.parametrize("body", SHAPES, ids=lambda body: json.dumps(body)[:40])
def test_the_words_of_an_error_are_read_in_every_shape(settings: Settings, body: Any) -> None:
    assert error_words(body)["message"] == "too hot"
    for status in (200, 400, 500):
        with Says(lambda request, status=status: (status, {}, body)) as server:
            assert "too hot" in what_went_wrong(settings(**local(server), max_attempts=1))


@pytest.mark.parametrize(
    "body",
    [
        None,
        7,
        True,
        [],
        {},
        [None],
        {"error": None},
        {"error": []},
        {"error": True},
        [[[]]],
        "",
        "{",
    ],
)
def test_a_body_without_words_is_no_traceback(settings: Settings, body: Any) -> None:
    assert set(error_words(body)) == {"message", "code", "type", "param"}
    with Says(lambda request: (500, {}, body)) as server:
        assert "500" in what_went_wrong(settings(**local(server), max_attempts=1))


def test_a_body_of_great_depth_is_no_traceback() -> None:
    for depth in (900, 200_000):
        assert error_words('{"error":' * depth + '"x"' + "}" * depth)
        assert error_words("[" * depth + "]" * depth)


def test_a_check_shows_the_servers_words(capsys: pytest.CaptureFixture[str]) -> None:
    with Says(lambda request: (422, {}, {"detail": "the moon is full"})) as server:
        flags = ["--provider=local", f"--base-url={server.url}/v1", "--model=m"]
        assert self_instruct.main(["--check", *flags]) == 1
    assert "the moon is full" in capsys.readouterr().out


# Parameters.

POSITIVE = [
    {"detail": [{"loc": ["body", "temperature"], "msg": "Input should be greater than 0"}]},
    {"error": "Input validation error: `temperature` must be strictly positive"},
    {"success": False, "message": "temperature must be > 0"},
    "temperature has to be positive",
]


@pytest.mark.parametrize("body", POSITIVE, ids=["detail", "error", "success", "text"])
def test_a_temperature_of_0_that_is_refused_is_nearly_0_and_other_stages_keep_theirs(
    settings: Settings, body: Any
) -> None:
    model = scripted_model()
    temperatures = set()

    def answer(request: dict) -> Answer:
        asked = request["body"]
        if asked["temperature"] == 0:
            return 422, {}, body
        temperatures.add(asked["temperature"])
        return good(model(asked["messages"][-1]["content"], asked))

    with Says(answer) as server:
        summary = run(settings(**local(server), num_instructions=3), say=lambda text: None)
    assert summary["status"] == "complete" and not summary["undone_because"]
    assert summary["refused_parameters"] == {"temperature 0": "sent as 0.01"}
    assert temperatures == {0.01, 0.7}


def test_a_temperature_that_is_refused_at_0_and_nearly_0_is_left_out_there_alone(
    settings: Settings,
) -> None:
    def answer(request: dict) -> Answer:
        cold = request["body"].get("temperature", 1) < 0.5
        return (422, {}, {"error": "temperature is too low"}) if cold else good()

    with Says(answer) as server, Model(settings(**local(server))) as model:
        assert ask(model, 0, "classify").text == ask(model, 1).text == "Yes"
        sent = [request["body"].get("temperature") for request in server.requests]
    assert sent == [0, 0.01, None, 0.7]


NO_SHAPE = {  # how servers say that they write no JSON of a given shape
    "openai": (
        400,
        {
            "error": {
                "message": "Invalid parameter: 'response_format' of type 'json_schema' is not "
                "supported with this model.",
                "type": "invalid_request_error",
                "param": None,
                "code": None,
            }
        },
    ),
    "groq": (
        400,
        {
            "error": {
                "message": "This model does not support response format `json_schema`.",
                "type": "invalid_request_error",
            }
        },
    ),
    "groq, no JSON came": (
        400,
        {
            "error": {
                "message": "Failed to generate JSON. Please adjust your prompt.",
                "code": "json_validate_failed",
            }
        },
    ),
    "vllm": (400, {"message": "The provided JSON schema contains unsupported features"}),
    "ollama": (400, {"error": {"message": "invalid response_format: json_schema"}}),
    "llama_cpp.server": (
        500,
        {
            "error": {
                "message": "1 validation error:\n  {'type': 'literal_error', 'loc': ('body', "
                "'response_format', 'type'), 'msg': \"Input should be 'text' or 'json_object'\"}",
                "type": "internal_server_error",
                "param": None,
                "code": None,
            }
        },
    ),
}


@pytest.mark.parametrize("refusal", NO_SHAPE.values(), ids=NO_SHAPE.keys())
def test_a_server_that_writes_no_json_of_a_shape_is_asked_without(
    settings: Settings, refusal: tuple[int, dict]
) -> None:
    status, body = refusal

    def answer(request: dict) -> Answer:
        return (status, {}, body) if "response_format" in request["body"] else good()

    with Says(answer) as server, Model(settings(**local(server))) as model:
        sent = parameters(model.config, "classify") | {"response_format": {"type": "json_schema"}}
        for number in range(2):
            assert model.ask("judge", f"question {number}", sent, {"number": number}).text == "Yes"
        assert model.refused == {"response_format": "left out"} and not model.faults
    assert server.posts == 3


def test_an_error_of_a_server_that_passes_is_none_about_the_shape(settings: Settings) -> None:
    busy = (500, {}, {"error": {"message": "json schema engine crashed, try again"}})
    with Says(in_turn(busy, good())) as server, Model(settings(**local(server))) as model:
        sent = parameters(model.config, "classify") | {"response_format": {"type": "json_schema"}}
        assert model.ask("judge", "question", sent, {"number": 0}).text == "Yes"
        assert not model.refused
    assert ["response_format" in request["body"] for request in server.requests] == [True, True]


# What will not get better.

NO_MONEY = [
    (429, {"error": {"code": "1113", "message": "余额不足或无可用资源包"}}),
    (429, {"error": {"code": "insufficient_balance", "message": "no"}}),
    (
        429,
        {"error": {"type": "exceeded_current_quota_error", "message": "Your account is suspended"}},
    ),
    (429, {"error": {"type": "insufficient_quota", "message": "quota", "code": None}}),
    (402, {"error": {"message": "Insufficient Balance"}}),
    (403, {"code": 30001, "message": "Sorry, your account balance is insufficient"}),
    (200, {"base_resp": {"status_code": 1008, "status_msg": "insufficient balance"}}),
    (200, {"error": {"code": 402, "message": "needs credits"}}),
]


@pytest.mark.parametrize(("status", "body"), NO_MONEY)
def test_an_account_without_money_ends_the_run_with_the_servers_words(
    settings: Settings, status: int, body: dict
) -> None:
    with Says(lambda request: (status, {}, body)) as server:
        line = what_went_wrong(settings(**local(server)))
        assert server.posts == 1
    assert "no money" in line and error_words(body)["message"] in line


MODELS = [
    (400, {"error": {"message": "The model `m` has been decommissioned", "code": "x"}}, "is gone"),
    (410, {"error": "gone"}, "--model"),
    (400, {"error": {"message": "This model only support stream mode, please enable the stream"
                     " parameter to access the model."}}, "only streams"),
    (400, {"error": {"message": '"nomic-embed-text" does not support chat'}}, "writes no text"),
    (501, {"error": {"message": "This server does not support completions."}}, "writes no text"),
]  # fmt: skip


@pytest.mark.parametrize(("status", "body", "hint"), MODELS)
def test_a_model_that_cannot_answer_is_named_at_the_first_answer(
    settings: Settings, status: int, body: dict, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with Says(lambda request: (status, {}, body)) as server:
        assert main(settings(**local(server))) == 1
        assert server.posts == 1
    line = capsys.readouterr().err
    assert hint in line and "--model" in line and "same command" not in line


def test_a_hint_never_says_that_the_same_command_helps_where_the_server_refuses(
    settings: Settings,
) -> None:
    model = scripted_model()

    def answer(request: dict) -> Answer:
        if request["body"]["temperature"] == 0:  # stage 2
            return 400, {}, {"error": "no such thing"}
        return good(model(request["body"]["messages"][-1]["content"], {}))

    said: list[str] = []
    with Says(answer) as server:
        run(settings(**local(server), num_instructions=2), say=said.append)
    assert "no such thing" in said[-1] and "asks again" not in said[-1]


# This machine's own settings.

FAR = {"provider": "openai", "model": "m", "base_url": "https://api.example.invalid/v1"}
OWN = [
    ("ALL_PROXY", "socks5://127.0.0.1:9", "pip install"),
    ("ALL_PROXY", "socks://user:secret@127.0.0.1:9", "socks://"),
    ("HTTPS_PROXY", "ftp://127.0.0.1:9", "ftp://"),
    ("HTTPS_PROXY", "http://127.0.0.1:port", "no address of a proxy"),
    ("HTTPS_PROXY", "127.0.0.1:9", "connection"),
    ("OPENAI_ORG_ID", "org-é", "header"),
    ("SSL_CERT_FILE", "/nowhere/ca.pem", "/nowhere/ca.pem"),
    ("HTTPS_PROXY", "http://user:secret@127.0.0.1:9", "connection"),
]


@pytest.mark.parametrize("provider", ["openai", "dashscope"])
@pytest.mark.parametrize(("name", "value", "word"), OWN)
def test_a_fault_of_this_machines_settings_is_one_line_that_names_the_variable(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    name: str, value: str, word: str, provider: str,
) -> None:  # fmt: skip
    if provider == "dashscope" and name == "OPENAI_ORG_ID":
        return  # goes to OpenAI alone
    if provider == "dashscope" and name == "SSL_CERT_FILE":
        name = "REQUESTS_CA_BUNDLE"
    real = workshop.util.find_spec
    missing = ("socks", "socksio")
    monkeypatch.setattr(workshop.util, "find_spec", lambda n: None if n in missing else real(n))
    monkeypatch.setenv("NO_PROXY", "other.example")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("DASHSCOPE_API_KEY", KEY)
    monkeypatch.setenv(name, value)
    config = settings(**FAR | {"provider": provider}, max_attempts=1)
    assert main(config) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert name in line or name.lower() in line
    assert word in line and "secret" not in line and "work" not in line.split("error")[0]


def test_without_the_sdk_its_own_name_is_said_and_how_to_install_it(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("openai", "httpx2"):  # the second comes with the first
        monkeypatch.setitem(sys.modules, name, None)
    assert main(settings(**FAR | {"provider": "local"}, max_attempts=1)) == 1
    said = capsys.readouterr().err
    assert "import of openai" in said and "pip install -r" in said


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ALL_PROXY", "socks5://127.0.0.1:9"),
        ("ALL_PROXY", "socks://127.0.0.1:9"),
        ("HTTP_PROXY", "http://127.0.0.1:9"),
        ("SSL_CERT_FILE", "/nowhere/ca.pem"),
    ],
)
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@pytest.mark.parametrize("provider", ["local", "dashscope"])
def test_a_local_address_goes_past_proxies(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, name: str, value: str, host: str,
    provider: str,
) -> None:  # fmt: skip
    monkeypatch.setenv("NO_PROXY", "other.example")
    monkeypatch.setenv("DASHSCOPE_API_KEY", KEY)
    monkeypatch.setenv(name, value)
    with Server(lambda prompt, body: "Yes") as server:
        path = "/api/v1" if provider == "dashscope" else "/v1"
        address = server.url.replace("127.0.0.1", host) + path
        with Model(settings(provider=provider, base_url=address, model="m")) as model:
            assert ask(model).text == "Yes"


def test_an_empty_no_proxy_sends_local_addresses_through_the_proxy_too(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Says(lambda request: good("by proxy")) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("NO_PROXY", "")
        monkeypatch.delenv("no_proxy", raising=False)
        config = settings(provider="local", base_url="http://127.0.0.1:9/v1", model="m")
        with Model(config) as model:
            assert ask(model).text == "by proxy"


# Redirects and logins.


@pytest.mark.parametrize("provider", ["local", "dashscope"])
@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_prompt_follows_no_redirect_to_another_host(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, provider: str, status: int
) -> None:
    monkeypatch.setenv("DASHSCOPE_API_KEY", KEY)
    with Says(lambda request: good()) as other:
        there = other.url.replace("127.0.0.1", "localhost")
        moved = (status, {"Location": there + "/v1/chat/completions"}, "")
        with Says(lambda request: moved) as server:
            line = what_went_wrong(settings(**local(server) | {"provider": provider}))
            assert server.posts == 1
        assert other.requests == []
    assert "redirect" in line and "--base-url" in line


def test_a_redirect_on_the_same_host_is_followed(settings: Settings) -> None:
    def answer(request: dict) -> Answer:
        moved = request["path"] == "/v1/chat/completions"
        return (308, {"Location": "/new/chat/completions"}, "") if moved else good()

    with Says(answer) as server, Model(settings(**local(server))) as model:
        assert ask(model).text == "Yes"
        assert [request["body"]["model"] for request in server.requests] == ["m", "m"]


@pytest.mark.parametrize("status", [200, 401, 500])
def test_a_login_in_the_address_stands_in_no_file_and_on_no_screen(
    settings: Settings, capsys: pytest.CaptureFixture[str], status: int
) -> None:
    model = scripted_model()

    def answer(request: dict) -> Answer:
        if status != 200:
            return status, {}, {"error": f"who is at {server.url}?"}
        return good(model(request["body"]["messages"][-1]["content"], {}))

    with Says(answer) as server:
        address = server.url.replace("//", "//ana:s3cret@") + "/v1"
        config = settings(
            **local(server) | {"base_url": address}, num_instructions=2, max_attempts=1
        )
        main(config)
        assert all("Basic" in request["headers"]["Authorization"] for request in server.requests)
    shown = capsys.readouterr()
    texts = [path.read_text(encoding="utf-8") for path in Path(config.work_dir).rglob("*.json*")]
    assert texts and not any("s3cret" in text for text in [*texts, shown.out, shown.err])


def test_a_file_without_certificates_is_named(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "ca.pem").write_text("no certificate", encoding="utf-8")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert "SSL_CERT_FILE" in what_went_wrong(settings(**FAR, max_attempts=1))


def test_the_command_that_goes_on_after_ctrl_c_shows_no_login(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(config: Config) -> None:
        raise KeyboardInterrupt(130)

    monkeypatch.setattr("sys.argv", ["x", "--base-url", "http://ana:s3cret@host/v1"])
    assert main(settings(), interrupted) == 130
    said = capsys.readouterr().err
    assert "http://host/v1" in said and "s3cret" not in said


@pytest.mark.parametrize("start", ["http://", "", "http:\n/"])
def test_a_login_in_a_wrong_address_is_not_shown(start: str) -> None:
    with pytest.raises(WorkshopError) as refused:
        Config(base_url=start + "ana:s3/cr@et@host name/v1")
    assert "cr" not in str(refused.value).replace("http", "")


# Servers that load, and servers that are slow.

LOADING = [
    {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}},
    {"error": "Model m is currently loading", "estimated_time": 20.0},
]


@pytest.mark.parametrize("body", LOADING, ids=["llama", "hub"])
def test_a_server_that_loads_its_model_is_waited_for_beyond_all_attempts(
    settings: Settings, body: dict, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = [(503, {}, body)] * 30
    with Says(in_turn(*answers, good())) as server:
        slept: list[float] = []
        config = settings(**local(server), max_attempts=2)
        with Model(config, sleep=slept.append) as model:
            assert ask(model).text == "Yes"
        assert server.posts == 31 == len(slept) + 1
    assert capsys.readouterr().err.count("loading its model") == 1


def test_a_loading_server_is_waited_for_within_the_deadline_only(settings: Settings) -> None:
    with Says(lambda request: (503, {}, LOADING[0])) as server:
        line = what_went_wrong(settings(**local(server), deadline=2.0))
    assert "Loading model" in line and "--deadline" in line


def test_a_loading_server_is_waited_for_before_its_models_are_listed(settings: Settings) -> None:
    listed = (200, {}, {"object": "list", "data": [{"id": "tiny", "object": "model"}]})
    with Says(in_turn(*[(503, {}, LOADING[0])] * 3, listed)) as server:
        with Model(settings(provider="local", base_url=server.url + "/v1")) as model:
            assert model.model == "tiny"
        assert len(server.requests) == 4


def test_a_503_for_another_reason_uses_up_attempts(settings: Settings) -> None:
    with Says(lambda request: (503, {}, {"error": "overloaded"})) as server:
        what_went_wrong(settings(**local(server), max_attempts=3))
        assert server.posts == 3


@pytest.fixture(params=[0.1, 0.01])
def one_at_a_time(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server that takes a while for each request, another while for one of stage 2, and works on
    them one after the other, on those whose client has left too."""
    at_work = threading.Lock()
    model = scripted_model()

    def answer(prompt: str, body: dict) -> str:
        with at_work:
            time.sleep(0.1 if body["temperature"] else request.param)
        return model(prompt, body)

    with Server(answer) as server:
        yield server


def test_a_slow_server_that_answers_one_at_a_time_throws_hardly_a_request_away(
    settings: Settings, one_at_a_time: Server
) -> None:
    config = settings(**local(one_at_a_time), num_instructions=20, request_timeout=0.6, deadline=3)
    summary = run(config, say=lambda text: None)
    assert summary["status"] == "complete" and not summary["undone_because"]
    lost = sum(not request["delivered"] for request in one_at_a_time.requests)
    assert lost <= 0.05 * len(one_at_a_time.requests)


def test_a_timeout_lets_fewer_requests_be_in_flight_and_names_the_flags(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    with (
        Server(lambda prompt, body: "Yes", faults=["", "hang"], hang_s=5) as server,
        Model(settings(**local(server), request_timeout=0.3)) as model,
    ):
        ask(model, 0)
        model.window.set_limit("generate", 8)
        ask(model, 1)
        assert model.window.limit == 4
        assert model.faults == {"no answer in time": 1}
    notice = capsys.readouterr().err
    assert "--concurrency" in notice and "--request-timeout" in notice


def window(**changes: Any) -> Window:
    return Window(Config(**{"concurrency": 8, "request_timeout": 60.0, **changes}))


def test_the_first_answer_says_how_many_requests_may_be_in_flight() -> None:
    for seconds, limit in ((0.5, 8), (8.0, 3), (29.0, 1), (50.0, 1)):
        one = window()
        assert one.limit == 1
        one.answered("generate", seconds)
        assert one.limit == limit, seconds


def test_more_requests_are_in_flight_when_it_goes_well_and_half_as_many_after_a_timeout() -> None:
    one = window()
    one.answered("generate", 8.0)
    for _ in range(40):
        one.answered("generate", 8.0)
    assert one.limit == 8
    sent_at = time.monotonic()
    assert one.timed_out("generate", sent_at) and one.limit == 4
    assert not one.timed_out("generate", sent_at) and one.limit == 4, "the others of the same round"
    for _ in range(40):
        one.answered("generate", 50.0)
    assert one.limit == 1


def test_after_fast_answers_so_many_go_out_that_half_the_timeout_is_enough() -> None:
    one = window(concurrency=256)
    one.answered("generate", 1.0)
    assert one.limit == 30
    for _ in range(30):
        one.answered("generate", 3.0)
    assert one.limit == 256, "30 in 3 s: 300 would take 30 s at worst"

    one = window(concurrency=256)
    one.answered("generate", 1.0)
    for _ in range(30):
        one.answered("generate", 10.0)
    assert one.limit == 90


def test_many_requests_in_flight_share_a_few_clients(settings: Settings) -> None:
    with (
        Server(lambda prompt, body: f"Yes to {prompt}", delay=0.02) as server,
        Model(settings(**local(server), concurrency=40)) as model,
    ):
        ask(model, 0)
        assert len(model.sdk_clients) == 1
        model.window.set_limit("generate", 40)
        replies = [*model.ask_each("instances", partial(ask, model), [*range(1, 120)])]
        assert all(str(number) in reply.text for number, reply in replies)
        assert len(model.sdk_clients) == 3
        assert server.max_in_flight <= 40

        # One is as good as another for a server that wants few at once.
        model.window.set_limit("generate", 8)
        client = model.client(workshop.openai_client)
        assert all(model.client(workshop.openai_client) is client for _ in range(9))


def test_where_one_at_a_time_is_too_slow_the_timeout_grows_up_to_the_deadline() -> None:
    one = window(deadline=200.0)
    timeouts = []
    for _ in range(3):
        one.timed_out("generate", time.monotonic())
        timeouts.append(one.timeout)
    assert (timeouts, one.limit) == ([120.0, 200.0, 200.0], 1)


# How a reply ended, and in what shape it comes.


@pytest.mark.parametrize("word", ["length", "max_tokens", "MAX_TOKENS", "model_length",
                                  "model_context_window_exceeded"])  # fmt: skip
def test_words_that_mean_cut(settings: Settings, word: str) -> None:
    with (
        Says(lambda request: good("Ye", word)) as server,
        Model(settings(**local(server))) as model,
    ):
        assert ask(model).cut and server.posts == 1


@pytest.mark.parametrize("word", ["content_filter", "sensitive", "recitation", "safety", "SAFETY"])
def test_words_that_mean_filtered(settings: Settings, word: str) -> None:
    with (
        Says(in_turn(good("half a rep", word), good())) as server,
        Model(settings(**local(server))) as model,
    ):
        assert ask(model).text == "Yes" and server.posts == 2
    lines = (Path(settings().work_dir) / "responses.jsonl").read_text(encoding="utf-8")
    reasons = [json.loads(line)["finish_reason"] for line in lines.splitlines()]
    assert reasons == ["content_filter", "stop"]


@pytest.mark.parametrize(
    "word", ["error", "network_error", "insufficient_system_resource", "abort", "brand_new_word"]
)
def test_a_reply_that_broke_off_is_tried_again_and_its_word_counted(
    settings: Settings, word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with (
        Says(in_turn(good("half a rep", word), good())) as server,
        Model(settings(**local(server))) as model,
    ):
        assert ask(model).text == "Yes" and server.posts == 2
        (fault,) = model.faults
    assert word[:20] in fault
    assert (word in capsys.readouterr().err) == (word == "brand_new_word")


def test_a_server_with_only_a_word_of_its_own_for_the_end_can_be_used(settings: Settings) -> None:
    with Says(lambda request: good("Yes", "done_by_us")) as server:
        with Model(settings(**local(server))) as model:
            assert [ask(model, n).text for n in range(3)] == ["Yes"] * 3
        assert server.posts == 5


PARTS = [
    [{"type": "text", "text": "Yes"}],
    [{"type": "thinking", "thinking": [{"text": "Hm"}]}, {"type": "text", "text": "Yes"}],
    [{"text": "Y"}, {"text": "es"}],
]


@pytest.mark.parametrize("content", PARTS)
def test_a_content_of_parts_is_read(settings: Settings, content: list) -> None:
    with (
        Says(lambda request: good(content)) as server,
        Model(settings(**local(server))) as model,
    ):
        assert ask(model).text == "Yes" and server.posts == 1


@pytest.mark.parametrize("content", ["", None])
@pytest.mark.parametrize("finish", ["stop", "length"])
def test_a_reply_that_is_all_thinking_says_what_helps(
    settings: Settings, content: str | None, finish: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with (
        Says(lambda request: good(content, finish, reasoning_content="Let me see")) as server,
        Model(settings(**local(server))) as model,
    ):
        assert ask(model).text == "" and not model.faults
    (line,) = capsys.readouterr().err.splitlines()
    assert "thinking" in line and "--max-tokens" in line
