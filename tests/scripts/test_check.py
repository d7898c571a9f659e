"""--check: one tiny request to each provider with a key, one line each."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.runs import PATIENCE
from helpers.server import Server

import self_instruct
from self_instruct_workshop import PROVIDERS

KEYS = {"openai": "OPENAI_API_KEY", "dashscope": "DASHSCOPE_API_KEY"}
KEY = "sk-very-secret-0123456789"
Check = Callable[..., tuple[int, dict[str, str]]]


@pytest.fixture
def check(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Check:
    """Do it; return the exit code, and the line of each provider. Nothing is left on the disk."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))

    def go(*flags: str) -> tuple[int, dict[str, str]]:
        code, said = (
            self_instruct.main(["--check", f"--work-dir={tmp_path / 'w'}", *flags]),
            capsys.readouterr(),
        )
        assert not said.err and KEY not in said.out
        assert {path.name for path in tmp_path.iterdir()} == {"cwd", "tmp"} and not [
            *(tmp_path / "tmp").iterdir()
        ]
        return code, dict(re.split(" +", line, maxsplit=1) for line in said.out.splitlines())

    return go


def keyed(monkeypatch: pytest.MonkeyPatch, **servers: Server) -> None:
    """A key, and the address of a server, for these providers."""
    for name, server in servers.items():
        monkeypatch.setenv(KEYS[name], KEY)
        monkeypatch.setenv(
            PROVIDERS[name].url_variable, server.url + ("/v1" if name == "openai" else "/api/v1")
        )


def hello(prompt: str, body: dict) -> str:
    return "Hello\nthere"


def test_each_provider_with_a_key_is_asked_once(
    check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Server(hello, key=KEY) as one, Server(hello, key=KEY) as other:
        keyed(monkeypatch, openai=one, dashscope=other)
        code, lines = check()
        assert code == 0 and set(lines) == {name for name, row in PROVIDERS.items() if row.key}
        for name, server in (("openai", one), ("dashscope", other)):
            pattern = rf"ok: {PROVIDERS[name].model} answered 'Hello there' in \d+\.\d s"
            assert re.fullmatch(pattern, lines[name]), lines[name]
            (request,) = server.requests
            cap = (
                request["parameters"].get("max_tokens")
                or request["parameters"]["max_completion_tokens"]
            )
            assert len(request["prompt"]) < 50 and cap <= 16, "a tiny request"
        assert all(
            lines[name] == f"no key: {PROVIDERS[name].key} is not set"
            for name in ("groq", "huggingface")
        )


def test_what_was_adapted_is_said(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        Server(hello, refuse=("temperature", "max_completion_tokens")) as one,
        Server(hello, refuse=("temperature",)) as two,
    ):
        keyed(monkeypatch, openai=one, dashscope=two)
        code, lines = check()
    assert (
        code == 0
        and "; temperature 0.01: left out" in lines["openai"]
        and "; temperature 0.01: left out" in lines["dashscope"]
    )
    assert "; max_completion_tokens: sent as max_tokens" in lines["openai"]


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("401", "401"),
        ("404", "404"),
        ("429-quota", "API_KEY"),
        ("500", "500"),
        ("html-200", "no answer"),
        ("reset", "connection"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    check: Check, monkeypatch: pytest.MonkeyPatch, fault: str, said: str
) -> None:
    """The others are asked all the same."""
    with Server(hello, faults=lambda index, prompt: fault) as bad, Server(hello) as good:
        keyed(monkeypatch, openai=bad, dashscope=good)
        code, lines = check()
        assert code == 1 and lines["openai"].startswith("failed: ") and said in lines["openai"]
        assert lines["dashscope"].startswith("ok: ") and len(bad.requests) == 1
        keyed(monkeypatch, openai=good, dashscope=bad)
        code, lines = check()
        assert (
            code == 1
            and lines["dashscope"].startswith("failed: ")
            and lines["openai"].startswith("ok: ")
        )


def test_nobody_there(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    with Server(hello) as gone:
        pass
    keyed(monkeypatch, openai=gone, dashscope=gone)
    code, lines = check()
    assert code == 1 and all(re.match("failed: .*connection", lines[name]) for name in KEYS)


def test_a_server_that_never_answers_is_not_waited_for(
    check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Server(hello, faults=["hang"], hang_s=PATIENCE) as silent:
        keyed(monkeypatch, openai=silent)
        code, lines = check("--deadline", "1")
        assert code == 1 and lines["openai"].startswith("failed: ")


def test_without_a_key_it_says_what_to_do(check: Check) -> None:
    code, lines = check()
    assert code == 1 and "put one into .env" in " ".join(lines.values())


def test_a_named_provider_needs_no_other_key(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    with Server(hello, models=["tiny"]) as server, Server(hello) as other:
        keyed(monkeypatch, openai=other)
        code, lines = check("--provider=local", f"--base-url={server.url}/v1")
        assert (
            code == 0 and set(lines) == {"local"} and lines["local"].startswith("ok: tiny answered")
        )
        code, lines = check("--provider=dashscope")
        assert code == 1 and "DASHSCOPE_API_KEY is not set" in lines["dashscope"]
        assert not other.requests


def test_no_key_is_sent_to_an_address_that_is_not_its_own(
    check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a run, an address belongs to the first provider with a key, and to no other."""
    with Server(hello) as server, Server(hello) as own:
        keyed(monkeypatch, openai=own, dashscope=own)
        monkeypatch.setenv("DASHSCOPE_API_KEY", "sk-of-dashscope")
        code, lines = check(f"--base-url={server.url}/v1")
        assert code == 0 and set(lines) == {"openai"} and not own.requests
        assert {record["key"] for record in server.requests} == {KEY}


def test_practice_is_there_without_any_key(check: Check) -> None:
    code, lines = check("--provider=practice")
    assert code == 0 and lines["practice"].startswith("ok: ")
