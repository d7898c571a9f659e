"""Providers: who is chosen, with which key, what goes over the wire, and what happens to parameters
a model refuses."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from helpers.runs import stage_of
from helpers.server import Server, people_say, scripted_model

import self_instruct_workshop as workshop
from self_instruct_workshop import (
    PROVIDERS,
    Config,
    Model,
    RequestFailed,
    WorkshopError,
    environment,
    main,
    parameters,
    run,
)

Settings = Callable[..., Config]
KEYS = {name: row.key for name, row in PROVIDERS.items() if row.key}
WIRES = ["local", "openai", "dashscope"]


@pytest.fixture
def env(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def put(**variables: str) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return put


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(lambda prompt, body: "Yes") as running:
        yield running


def about(provider: str, server: Server) -> dict[str, str]:
    """Settings that lead a provider to the test server."""
    return {
        "provider": provider,
        "base_url": server.url + ("/api/v1" if provider == "dashscope" else "/v1"),
    }


def chosen(config: Config) -> str:
    with Model(config) as model:
        return model.name


def refusal(config: Config) -> str:
    with pytest.raises(WorkshopError) as refused:
        Model(config)
    assert len(str(refused.value).splitlines()) == 1
    return str(refused.value)


def ask(model: Model, prompt: str = "hello", stage: str = "generate", number: int = 0) -> str:
    return model.ask(stage, prompt, parameters(model.config, stage), {"number": number}).text


# Who answers.


def test_without_any_key_the_practice_model_answers(settings: Settings) -> None:
    assert chosen(settings()) == "practice"


def test_an_address_alone_means_a_local_server(settings: Settings, server: Server) -> None:
    assert chosen(settings(base_url=server.url + "/v1")) == "local"


def test_a_sole_dashscope_key_chooses_dashscope(settings: Settings, env: Callable) -> None:
    env(DASHSCOPE_API_KEY="k")
    assert chosen(settings()) == "dashscope"


@pytest.mark.parametrize("first", range(len(KEYS)))
def test_the_first_provider_whose_key_is_set_is_chosen(
    settings: Settings, env: Callable, first: int
) -> None:
    env(**dict.fromkeys(list(KEYS.values())[first:], "k"))
    assert chosen(settings()) == list(KEYS)[first]


def test_a_named_provider_goes_before_every_key(settings: Settings, env: Callable) -> None:
    env(**dict.fromkeys(KEYS.values(), "k"))
    for name in set(PROVIDERS) - {"replay"}:
        with Model(settings(provider=name, model="m")) as model:
            assert model.name == name


@pytest.mark.parametrize("empty", ["", "  ", "\t"])
def test_an_empty_key_counts_as_unset(settings: Settings, env: Callable, empty: str) -> None:
    env(OPENAI_API_KEY=empty)
    assert chosen(settings()) == "practice"
    assert "OPENAI_API_KEY is not set" in refusal(settings(provider="openai"))


@pytest.mark.parametrize("name", KEYS)
def test_a_missing_key_is_one_line_that_names_the_variable_and_the_env_file(
    settings: Settings, name: str
) -> None:
    said = refusal(settings(provider=name))
    assert KEYS[name] in said and ".env" in said
    assert not Path(settings().work_dir).exists()


@pytest.mark.parametrize(
    "key",
    ["sk-sécret", "\u201csk-secret\u201d"]
    + [
        pytest.param(f"sk-{key}")
        for key in ("secret\nA=1", "secret\\\x07x", "my secret", "secret\x7f")
    ],
)
def test_a_key_that_no_header_can_carry_is_refused_without_being_shown(
    settings: Settings, env: Callable, key: str, server: Server
) -> None:
    env(OPENAI_API_KEY=key)
    said = refusal(settings(**about("openai", server)))
    assert "OPENAI_API_KEY" in said and "secret" not in said and "cret" not in said


def test_the_env_file_is_found_from_the_current_folder_upwards(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text("GROQ_API_KEY=from-file\nHF_TOKEN=\n", encoding="utf-8")
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b")
    with Model(settings()) as model:
        assert (model.name, model.key) == ("groq", "from-file")


def test_the_nearest_env_file_hides_those_above_it(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("GROQ_API_KEY=far\n", encoding="utf-8")
    Path(".env").write_text("HF_TOKEN=near\n", encoding="utf-8")
    with Model(settings()) as model:
        assert (model.name, model.key) == ("huggingface", "near")


def test_the_shell_wins_over_the_env_file_unless_it_is_empty(env: Callable) -> None:
    Path(".env").write_text("GROQ_API_KEY=file\nHF_TOKEN=file\nOPENAI_API_KEY=\n", encoding="utf-8")
    env(GROQ_API_KEY="shell", HF_TOKEN=" ", OPENAI_API_KEY="")
    found = environment()
    assert (found["GROQ_API_KEY"], found["HF_TOKEN"]) == ("shell", "file")
    assert "OPENAI_API_KEY" not in found


def test_the_env_file_does_not_leak_into_the_process() -> None:
    Path(".env").write_text("GROQ_API_KEY=file\n", encoding="utf-8")
    assert environment()["GROQ_API_KEY"] == "file" and "GROQ_API_KEY" not in os.environ


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_an_env_file_with_quotes_comments_and_windows_line_ends_is_understood(
    encoding: str,
) -> None:
    text = (
        "OPENAI_API_KEY='sk-a'\r\nexport GROQ_API_KEY=\"sk-b\"  # note\r\n"
        "HF_TOKEN= sk-c \r\nnonsense\r\n"
    )
    Path(".env").write_bytes(text.encode(encoding))
    found = environment()
    assert [found.get(name) for name in ("OPENAI_API_KEY", "GROQ_API_KEY", "HF_TOKEN")] == [
        "sk-a",
        "sk-b",
        "sk-c",
    ]


def test_an_env_file_that_is_not_utf_8_ends_in_one_line(settings: Settings) -> None:
    Path(".env").write_bytes(
        "GROQ_API_KEY=k\r\n".encode("utf-16")
    )  # as Windows' own shell writes it
    assert ".env" in refusal(settings())


@pytest.mark.parametrize("name", ["openai", "dashscope"])
def test_the_providers_own_variable_names_another_address(
    settings: Settings, env: Callable, name: str
) -> None:
    row = PROVIDERS[name]
    env(**{row.key: "k", row.url_variable: "http://127.0.0.1:9/other"})
    with Model(settings(provider=name)) as model:
        assert model.base_url == "http://127.0.0.1:9/other"
    with Model(settings(provider=name, base_url="http://127.0.0.1:9/flag")) as model:
        assert model.base_url == "http://127.0.0.1:9/flag", "the flag goes before the variable"


@pytest.mark.parametrize("name", ["groq", "huggingface", "local"])
def test_no_other_provider_follows_the_address_of_openai(
    settings: Settings, env: Callable, name: str
) -> None:
    env(OPENAI_BASE_URL="http://127.0.0.1:9/other", **dict.fromkeys(KEYS.values(), "k"))
    with Model(settings(provider=name, model="m")) as model:
        assert model.base_url == PROVIDERS[name].base_url


# Whose key goes where.


@pytest.mark.parametrize("provider", ["groq", "huggingface", "local", "dashscope"])
def test_what_belongs_to_openai_reaches_no_other_host(
    settings: Settings, env: Callable, server: Server, provider: str
) -> None:
    env(**{variable: f"own-{variable}" for variable in KEYS.values()})
    env(OPENAI_API_KEY="leak-key", OPENAI_ORG_ID="leak-org", OPENAI_PROJECT_ID="leak-project")
    env(OPENAI_CUSTOM_HEADERS="X-Leak: leak-header", OPENAI_ADMIN_KEY="leak-admin")
    env(OPENAI_WEBHOOK_SECRET="leak-hook")
    with Model(settings(**about(provider, server))) as model:
        assert ask(model) == "Yes"
    own = f"own-{KEYS[provider]}" if provider in KEYS else "none"
    assert {request["key"] for request in server.requests} == {own}
    everything = json.dumps(
        [[request[part] for part in ("headers", "body", "path")] for request in server.requests]
    )
    assert "leak" not in everything.lower()
    assert not [
        variable
        for variable in KEYS.values()
        if variable != KEYS.get(provider) and variable in everything
    ]


def test_a_login_in_netrc_does_not_take_the_place_of_the_key(
    settings: Settings, env: Callable, server: Server, tmp_path: Path
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password leak\n", encoding="utf-8")
    (tmp_path / "netrc").chmod(0o600)
    env(NETRC=str(tmp_path / "netrc"), DASHSCOPE_API_KEY="k")
    with Model(settings(**about("dashscope", server))) as model:
        ask(model)
    assert server.requests[0]["key"] == "k"


def test_openai_itself_gets_its_key_and_its_organization(
    settings: Settings, env: Callable, server: Server
) -> None:
    env(OPENAI_API_KEY="sk-own", OPENAI_ORG_ID="org-own")
    with Model(settings(**about("openai", server))) as model:
        ask(model)
    (request,) = server.requests
    assert request["key"] == "sk-own" and request["headers"]["openai-organization"] == "org-own"


# What goes over the wire.


@pytest.mark.parametrize(
    ("provider", "path", "parameters"),
    [
        (
            "openai",
            "/v1/chat/completions",
            {"max_completion_tokens": 99, "reasoning_effort": "none"},
        ),
        ("groq", "/v1/chat/completions", {"max_tokens": 99, "reasoning_effort": "low"}),
        ("huggingface", "/v1/chat/completions", {"max_tokens": 99, "reasoning_effort": "low"}),
        ("local", "/v1/chat/completions", {"max_tokens": 99}),
        (
            "dashscope",
            "/api/v1/services/aigc/text-generation/generation",
            {"max_tokens": 99, "enable_thinking": False, "result_format": "message"},
        ),
    ],
)
def test_each_provider_is_sent_what_its_row_says_and_nothing_else(
    settings: Settings, env: Callable, server: Server, provider: str, path: str, parameters: dict
) -> None:
    env(**dict.fromkeys(KEYS.values(), "k"))
    with Model(settings(**about(provider, server), max_tokens=99)) as model:
        ask(model, "你好 \u2028 hello")
    request = server.requests[-1]
    assert request["path"] == path
    messages = [{"role": "user", "content": "你好 \u2028 hello"}]
    wanted = parameters | {"temperature": 0.7}
    if provider == "dashscope":
        assert request["body"] == {
            "model": "qwen-plus",
            "input": {"messages": messages},
            "parameters": wanted,
        }
    else:
        name = PROVIDERS[provider].model or "test-model"
        assert request["body"] == {"model": name, "messages": messages, **wanted}


def test_stage_1_is_asked_at_the_temperature_set_and_the_others_at_0(settings: Settings) -> None:
    with Server(scripted_model()) as server:
        run(
            settings(
                **about("local", server), num_instructions=4, temperature=1.1, until="instances"
            )
        )
    asked = {
        (stage_of(request["prompt"]), request["body"]["temperature"])
        for request in server.requests
        if request["method"] == "POST"
    }
    assert asked == {("generate", 1.1), ("classify", 0.0), ("instances", 0.0)}


def test_a_local_server_answers_with_the_first_model_it_lists(settings: Settings) -> None:
    with Server(lambda prompt, body: "Yes", models=["first", "second"]) as server:
        with Model(settings(base_url=server.url + "/v1")) as model:
            assert model.model == "first"
            ask(model)
        assert server.requests[-1]["body"]["model"] == "first"
        with Model(settings(base_url=server.url + "/v1", model="second")) as model:
            ask(model)
        assert server.requests[-1]["body"]["model"] == "second"
        assert sum(request["method"] == "GET" for request in server.requests) == 1, (
            "a named model is not looked up"
        )


def test_a_local_server_without_models_asks_for_the_models_name(settings: Settings) -> None:
    with Server(lambda prompt, body: "Yes", models=[]) as server:
        said = refusal(settings(base_url=server.url + "/v1"))
        assert "--model" in said and server.url in said


def test_a_local_server_that_is_not_there_is_one_line(settings: Settings) -> None:
    said = refusal(settings(provider="local", base_url="http://127.0.0.1:9/v1"))
    assert "http://127.0.0.1:9/v1" in said and "--model" in said


class Listing(Server):
    """Lists its models in a way of its own."""

    listing = ""

    def reply(self, record: dict) -> tuple:
        return (
            (200, self.listing.encode(), None)
            if record["wire"] == "models"
            else super().reply(record)
        )


@pytest.mark.parametrize(
    "listing",
    [
        *("<html>hello</html>", "{}", "[]", "null", '{"data": null}', '{"data": [null]}', "{"),
        pytest.param('{"data": [{}]}'),
    ],
)
def test_a_list_of_models_that_is_none_asks_for_the_models_name(
    settings: Settings, listing: str
) -> None:
    with Listing(lambda prompt, body: "Yes") as server:
        server.listing = listing
        assert "--model" in refusal(settings(base_url=server.url + "/v1"))


def test_a_failed_look_up_of_models_leaves_the_folder_free(settings: Settings) -> None:
    with Listing(lambda prompt, body: "Yes") as server:
        server.listing = "{}"
        with pytest.raises(WorkshopError) as kept:  # as a notebook keeps the last error
            Model(settings(base_url=server.url + "/v1"))
        with Model(settings(base_url=server.url + "/v1", model="m")):
            assert kept.value


# Parameters that a model refuses.

REFUSALS = [
    ("local", ["temperature"], {"temperature": "left out"}),
    ("local", ["max_tokens"], {"max_tokens": "sent as max_completion_tokens"}),
    ("openai", ["max_completion_tokens"], {"max_completion_tokens": "sent as max_tokens"}),
    ("openai", ["reasoning_effort"], {"reasoning_effort": "left out"}),
    (
        "openai",
        ["reasoning_effort", "temperature"],
        {"reasoning_effort": "left out", "temperature": "left out"},
    ),
    ("dashscope", ["enable_thinking"], {"enable_thinking": "left out"}),
    (
        "dashscope",
        ["enable_thinking", "temperature"],
        {"enable_thinking": "left out", "temperature": "left out"},
    ),
]


@pytest.mark.parametrize("null_param", [False, True], ids=["named", "in words only"])
@pytest.mark.parametrize(
    ("provider", "refuse", "noted"), REFUSALS, ids=lambda value: "-".join(value)
)
def test_a_refused_parameter_is_adapted_once_and_remembered(
    settings: Settings,
    env: Callable,
    capsys: pytest.CaptureFixture,
    provider: str,
    refuse: list,
    noted: dict,
    null_param: bool,
) -> None:
    env(**dict.fromkeys(KEYS.values(), "k"))
    with Server(lambda prompt, body: "Yes", refuse=refuse, null_param=null_param) as server:
        with Model(settings(**about(provider, server), model="m")) as model:
            assert [ask(model, f"question {n}", number=n) for n in range(4)] == ["Yes"] * 4
        assert model.refused == noted and not model.undone and not model.faults
        assert len(server.requests) == 4 + len(refuse)
        sent = server.requests[-1]["parameters"]
    assert not {*refuse} & {*sent}
    assert any(name in sent for name in ("max_tokens", "max_completion_tokens")), (
        "the limit is never lost"
    )
    notices = capsys.readouterr().err.splitlines()
    assert len(notices) == len(refuse) and all("notice" in line for line in notices)


@pytest.mark.parametrize("null_param", [False, True], ids=["named", "in words only"])
@pytest.mark.parametrize(
    ("provider", "refuse", "noted"), REFUSALS, ids=lambda value: "-".join(value)
)
def test_32_threads_that_are_refused_at_once_adapt_together(
    settings: Settings,
    env: Callable,
    capsys: pytest.CaptureFixture,
    provider: str,
    refuse: list,
    noted: dict,
    null_param: bool,
) -> None:
    env(**dict.fromkeys(KEYS.values(), "k"))
    start = Barrier(32)
    with Server(
        lambda prompt, body: "Yes", refuse=refuse, null_param=null_param, delay=0.05
    ) as server:
        with Model(settings(**about(provider, server), model="m", concurrency=32)) as model:

            def one(number: int) -> str:
                start.wait()
                return ask(model, f"question {number}", number=number)

            with ThreadPoolExecutor(32) as executor:
                assert list(executor.map(one, range(32))) == ["Yes"] * 32
        assert model.refused == noted and not model.undone
        assert 32 < len(server.requests) <= 32 * (1 + len(refuse))
    assert len(capsys.readouterr().err.splitlines()) == len(refuse)


def test_run_json_and_the_journal_record_what_was_refused(settings: Settings) -> None:
    with Server(scripted_model(), refuse=["temperature", "max_tokens"]) as server:
        config = settings(**about("local", server), num_instructions=4)
        summary = run(config)
    written = json.loads((Path(config.work_dir) / "run.json").read_text(encoding="utf-8"))
    noted = {"max_tokens": "sent as max_completion_tokens", "temperature": "left out"}
    assert summary["refused_parameters"] == written["refused_parameters"] == noted
    assert summary["status"] == "complete" and not summary["undone_because"]
    lines = (Path(config.work_dir) / "responses.jsonl").read_text(encoding="utf-8").splitlines()
    assert {json.dumps(json.loads(line)["parameters"]) for line in lines} == {
        '{"max_completion_tokens": 512}'
    }


def test_a_refused_parameter_asks_no_reply_again(settings: Settings) -> None:
    with Server(lambda prompt, body: "Yes", refuse=["temperature"]) as server:
        for _ in range(2):
            with Model(settings(**about("local", server), model="m")) as model:
                ask(model)
        assert len(server.requests) == 2


class Refusing(Server):
    """Refuses with 400 and words of its own whatever `when` says of the request."""

    message, code, param, when = "", None, None, staticmethod(lambda record: True)

    def reply(self, record: dict) -> tuple:
        if record["wire"] == "models" or not self.when(record):
            return super().reply(record)
        error = {
            "code": self.code,
            "message": self.message,
            "param": self.param,
            "type": "invalid_request_error",
        }
        return (
            400,
            json.dumps(error if record["wire"] == "dashscope" else {"error": error}).encode(),
            None,
        )


TOO_LONG = (
    "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens"
    " (4488 in the messages, 512 in the completion)."
)
NO_PARAMETER = [
    (TOO_LONG, "messages"),
    (TOO_LONG, None),
    ("Invalid prompt: it mentions weapons.", None),
    ("Input should be shorter.", "messages"),
    ("", None),
]
QUOTED = (
    "Invalid 'messages[0].content': 'Convert the temperature of 20 degrees.' is not supported.",
    "messages",
)


@pytest.mark.parametrize("provider", ["local", "openai"])
def test_a_refusal_that_names_the_messages_and_quotes_them_changes_no_parameter(
    settings: Settings, env: Callable, provider: str
) -> None:
    test_a_refusal_that_is_about_no_parameter_changes_none(settings, env, provider, *QUOTED)


@pytest.mark.parametrize("provider", WIRES)
@pytest.mark.parametrize(("message", "param"), NO_PARAMETER)
def test_a_refusal_that_is_about_no_parameter_changes_none(
    settings: Settings, env: Callable, provider: str, message: str, param: str | None
) -> None:
    env(**dict.fromkeys(KEYS.values(), "k"))
    with Refusing(lambda prompt, body: "Yes") as server:
        server.message, server.param, server.code = message, param, "invalid_value"
        with (
            Model(settings(**about(provider, server), model="m")) as model,
            pytest.raises(RequestFailed),
        ):
            ask(model)
        assert len(server.requests) == 1 and not model.refused


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(
            "max_tokens is too large: 5000. This model supports at most 4096 completion tokens."
        ),
        "max_tokens is too large. The largest value allowed is 4096.",
        "`max_tokens` must be less than or equal to `4096`, the maximum value for `max_tokens`.",
        "Range of max_tokens should be [1, 4096]",
    ],
)
@pytest.mark.parametrize("param", ["max_tokens", None])
def test_a_limit_that_is_too_large_is_not_taken_off(
    settings: Settings, message: str, param: str | None
) -> None:
    with Refusing(lambda prompt, body: "Yes") as server:
        server.message, server.param = message, param
        server.when = lambda record: record["body"].get("max_tokens", 0) > 4096
        config = settings(**about("local", server), model="m", max_tokens=5000)
        with Model(config) as model, contextlib.suppress(RequestFailed, WorkshopError):
            ask(model)
        posts = [request for request in server.requests if request["method"] == "POST"]
    assert all({"max_tokens", "max_completion_tokens"} & {*request["body"]} for request in posts)
    assert not model.refused


def test_one_refused_prompt_leaves_one_task_undone_and_the_next_run_asks_only_that(
    settings: Settings, capsys: pytest.CaptureFixture
) -> None:
    marked: list[str] = []
    seeds = people_say()

    def refuses(record: dict) -> bool:
        # The first question of stage 2 that is about a task of the run.
        prompt = record["prompt"]
        if stage_of(prompt) == "classify" and prompt.split("\n")[-2] not in seeds and not marked:
            marked.append(prompt)
        return prompt in marked

    with Refusing(scripted_model()) as server:
        server.message, server.when = "This prompt is not for me.", refuses
        config = settings(**about("local", server), num_instructions=6, concurrency=1)
        assert main(config) == 3
        counts = json.loads((Path(config.work_dir) / "run.json").read_text(encoding="utf-8"))[
            "counts"
        ]
        assert (
            counts["classify"]["in"] == 6
            and counts["classify"]["undone"] == 1
            and counts["filter"]["out"] == 5
        )
        assert "This prompt is not for me." in capsys.readouterr().out
        asked, server.when = len(server.requests), lambda record: False
        assert main(config) == 0
        new = [
            request["prompt"] for request in server.requests[asked:] if request["method"] == "POST"
        ]
    assert len(new) == 2 and new[0] == marked[0], (
        "the question of stage 2, then stage 3 of that one task"
    )


# The practice model.


def without_times(folder: Path) -> dict[str, str]:
    names = (
        "step1_instructions",
        "step2_is_classification",
        "step3_raw_instances",
        "step4_final",
        "rejected",
    )
    times = {"created_at"}

    def strip(value: object) -> object:
        if isinstance(value, dict):
            return {name: strip(part) for name, part in value.items() if name not in times}
        return [strip(part) for part in value] if isinstance(value, list) else value

    texts = {name: (folder / f"{name}.jsonl").read_text(encoding="utf-8") for name in names}
    return {
        name: json.dumps([strip(json.loads(line)) for line in text.splitlines()])
        for name, text in texts.items()
    }


def practice(settings: Settings, folder: Path, **changes: object) -> dict[str, str]:
    with contextlib.redirect_stdout(io.StringIO()):
        run(settings(work_dir=str(folder), num_instructions=30, **changes))
    return without_times(folder)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_practice_says_the_same_for_the_same_seed_and_something_else_for_another(
    settings: Settings, tmp_path: Path, language: str
) -> None:
    first = practice(settings, tmp_path / "a", language=language)
    assert first == practice(settings, tmp_path / "b", language=language, concurrency=1)
    other = practice(settings, tmp_path / "c", language=language, seed=7)
    assert first["step1_instructions"] != other["step1_instructions"]


def test_practice_reads_the_seed_tasks_in_silence_and_leaves_stderr_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Several requests may be the first that needs them."""
    seeds = tmp_path / "seeds.txt"
    seeds.write_text("Name the capital.\nName the capital.\n", encoding="utf-8")
    read, stderr, seen = workshop.seed_records, sys.stderr, []
    both = Barrier(2)

    def slowly(path: Path) -> list:
        both.wait(timeout=10)
        seen.append(sys.stderr)
        return read(path)

    monkeypatch.setattr(workshop, "seed_records", slowly)
    with ThreadPoolExecutor(2) as threads:
        known = list(threads.map(workshop.practice_seeds, [str(seeds)] * 2))
    assert [len(tasks) for tasks in known] == [1, 1]
    assert all(stream is stderr for stream in (*seen, sys.stderr))
    assert capsys.readouterr().err == ""


def test_practice_never_needs_a_key_and_never_uses_one(
    settings: Settings, env: Callable, tmp_path: Path, server: Server
) -> None:
    without = practice(settings, tmp_path / "a", provider="practice")
    env(
        **dict.fromkeys(KEYS.values(), "k"),
        OPENAI_BASE_URL=server.url,
        DASHSCOPE_HTTP_BASE_URL=server.url,
    )
    assert without == practice(settings, tmp_path / "b", provider="practice")
    assert server.requests == []


def test_practice_says_plainly_that_it_is_no_language_model(settings: Settings) -> None:
    said: list[str] = []
    run(settings(num_instructions=1), say=said.append)
    assert "NOT a language model" in said[0] and ".env" in said[0]
