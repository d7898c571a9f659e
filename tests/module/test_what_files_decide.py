"""What files that come from elsewhere decide: a journal, run.json, a .env. Never a path, an address
or a limit, never where a key goes, and nothing over a flag that was typed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path

import pytest
from helpers.runs import quiet, rows
from helpers.server import Server, scripted_model

import self_instruct
import self_instruct_workshop as workshop
from scripts.asking import limits
from scripts.reporting.run import read_run
from self_instruct_workshop import Config, Model, UsageError, WorkshopError, greeting, main

Settings = Callable[..., Config]
FREE = ("seed", "language", "tasks_shown", "machine_tasks_shown", "tasks_asked",
        "classification_every", "temperature", "recipe", "max_tokens")  # fmt: skip
OTHER = {
    "num_instructions": 7,
    "max_tokens": 77,
    "instances_per_instruction": 3,
    "base_url": "http://127.0.0.1:9/theirs",
    "responses": "/theirs/journal.jsonl",
    "temperature": 0.3,
    "seed_file": "/theirs/seeds.jsonl",
    "language": "zh",
    "work_dir": "/theirs/work",
    "output_path": "/theirs/out.jsonl",
    "overwrite": True,
    "until": "generate",
    "rouge_threshold": 0.1,
    "tasks_shown": 3,
    "machine_tasks_shown": 1,
    "tasks_asked": 4,
    "classification_every": 2,
    "patience": 3,
    "seed": 9,
    "topics": "/theirs/topics.txt",
    "concurrency": 200,
    "max_attempts": 99,
    "request_timeout": 86000.0,
    "deadline": 86000.0,
    "classify_model": "theirs",
    "classify_provider": "openai",
    "classify_base_url": "http://203.0.113.9/v1",
    "instances_model": "theirs",
    "instances_provider": "openai",
    "instances_base_url": "http://203.0.113.9/v1",
    "first_wait": 30.0,
    "second_try": False,
    "second_answer": False,
    "recipe": "paper",
}


def journal_with(path: Path, **settings: object) -> Path:
    """A journal whose first record names these settings."""
    record = {"key": "k", "text": "", "provider": "practice", "model": "m", **settings}
    path.write_text(json.dumps(record) + "\n", encoding="utf-8")
    return path


# --------------------------------------------------------------------------------------------------
# A journal that somebody shares.


@pytest.mark.parametrize("setting", [f.name for f in fields(Config) if f.name in OTHER])
def test_a_journal_decides_what_shapes_questions_and_nothing_else(
    tmp_path: Path, setting: str
) -> None:
    journal = str(journal_with(tmp_path / "theirs.jsonl", **{setting: OTHER[setting]}))
    config = Config(provider="replay", responses=journal)
    default = {f.name: f.default for f in fields(Config)} | {"responses": journal}
    taken = OTHER[setting] if setting in FREE else default[setting]
    assert getattr(config, setting) == taken
    assert config.provider == "replay"


def test_every_setting_is_looked_at_here() -> None:
    assert {f.name for f in fields(Config)} == OTHER.keys() | {"provider", "model"}


def test_a_journal_that_names_paths_leaves_the_users_files_alone(
    settings: Settings, tmp_path: Path
) -> None:
    """The first record of a shared journal names a file of the user as output_path."""
    victim = tmp_path / ".bashrc"
    victim.write_text("export A=1\n", encoding="utf-8")
    made = settings(provider="practice", num_instructions=5, work_dir=str(tmp_path / "made"))
    quiet(made)
    journal = tmp_path / "made" / "responses.jsonl"
    first, *rest = journal.read_text(encoding="utf-8").splitlines(keepends=True)
    theirs = {"output_path": str(victim), "work_dir": str(tmp_path / "elsewhere")}
    theirs |= {"base_url": "http://127.0.0.1:9/v1", "overwrite": True, "seed_file": "/x.txt"}
    first = json.dumps({**json.loads(first), **theirs}) + "\n"
    journal.write_text("".join([first, *rest]), encoding="utf-8")
    quiet(settings(provider="replay", responses=str(journal), num_instructions=5))
    assert victim.read_text(encoding="utf-8") == "export A=1\n"
    assert not (tmp_path / "elsewhere").exists()
    assert rows(Path(settings().work_dir), "step4_final.jsonl")


@pytest.mark.parametrize("setting", FREE)
def test_a_typed_flag_wins_over_the_journal_though_it_is_the_default(
    tmp_path: Path, setting: str
) -> None:
    journal = str(journal_with(tmp_path / "theirs.jsonl", **{setting: OTHER[setting]}))
    default = getattr(Config, setting)
    flags = ["--provider", "replay", "--responses", journal]
    flags += [f"--{setting.replace('_', '-')}", str(default)]
    parsed = self_instruct.command_line().parse_args(flags)
    assert getattr(self_instruct.settings(parsed), setting) == default
    untyped = self_instruct.command_line().parse_args(flags[:4])
    assert getattr(self_instruct.settings(untyped), setting) == OTHER[setting]


# --------------------------------------------------------------------------------------------------
# run.json: the outputs that it lists are the only files that --output-path replaces.


def test_a_run_json_cannot_make_a_run_replace_a_file_that_nobody_named(
    settings: Settings, tmp_path: Path
) -> None:
    victim = tmp_path / "notes.jsonl"
    victim.write_text("mine\n", encoding="utf-8")
    folder = Path(settings().work_dir)
    folder.mkdir()
    theirs = {"settings": {"output_path": str(victim), "work_dir": "/theirs", "overwrite": True,
                           "responses": str(victim), "seed_file": str(victim)},
              "outputs": {str(victim): ["0" * 64, 7, None]}, "kept_in": "../../x"}  # fmt: skip
    (folder / "run.json").write_text(json.dumps(theirs), encoding="utf-8")
    quiet(settings(provider="practice", num_instructions=4))
    with pytest.raises(UsageError, match="--overwrite"):
        quiet(settings(provider="practice", num_instructions=4, output_path=str(victim)))
    assert victim.read_text(encoding="utf-8") == "mine\n"


# --------------------------------------------------------------------------------------------------
# A .env that somebody else wrote.


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(scripted_model()) as running:
        yield running


VARIABLES = {"openai": "/v1", "dashscope": "/api/v1"}


def write_env(**variables: str) -> Path:
    """The .env of the current folder."""
    lines = [f"{name}={value}\n" for name, value in variables.items()]
    Path(".env").write_text("".join(lines), encoding="utf-8")
    return Path(".env").resolve()


@pytest.mark.parametrize("name", VARIABLES)
def test_an_address_out_of_a_env_gets_no_key_of_the_shell(
    settings: Settings, server: Server, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    row = workshop.PROVIDERS[name]
    file = write_env(**{row.url_variable: server.url + VARIABLES[name]})
    monkeypatch.setenv(row.key, "secret-of-the-shell")
    for config in (settings(num_instructions=1), settings(provider=name, num_instructions=1)):
        with pytest.raises(WorkshopError) as refused:
            quiet(config)
        line = str(refused.value)
        assert row.url_variable in line and str(file) in line and len(line.splitlines()) == 1
        assert "secret" not in line
    assert not server.requests


@pytest.mark.parametrize("name", VARIABLES)
def test_an_address_and_a_key_of_one_env_belong_together_and_the_greeting_shows_the_address(
    settings: Settings, server: Server, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    row = workshop.PROVIDERS[name]
    address = server.url + VARIABLES[name]
    file = write_env(**{row.url_variable: address, row.key: "of-the-file"})
    monkeypatch.setenv(row.key, "of-the-shell")
    for variable in ("OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.setenv(variable, "of-the-shell")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Gate: of-the-shell")
    said: list[str] = []
    workshop.run(settings(provider=name, model="m", num_instructions=1), say=said.append)
    assert address in said[0] and str(file) in said[0]
    assert {request["key"] for request in server.requests} == {"of-the-file"}
    assert "of-the-shell" not in str([request["headers"] for request in server.requests])


@pytest.mark.parametrize("name", VARIABLES)
def test_an_address_that_was_typed_or_set_in_the_shell_gets_the_key_from_anywhere(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    row = workshop.PROVIDERS[name]
    write_env(**{row.url_variable: "http://127.0.0.1:9/file", row.key: "of-the-file"})
    with Model(settings(provider=name, base_url="http://127.0.0.1:9/typed")) as model:
        assert (model.base_url, model.key) == ("http://127.0.0.1:9/typed", "of-the-file")
    monkeypatch.setenv(row.url_variable, "http://127.0.0.1:9/shell")
    with Model(settings(provider=name)) as model:
        assert (model.base_url, model.key) == ("http://127.0.0.1:9/shell", "of-the-file")
        assert "/file" not in greeting(model.config, model, workshop.Results())


def test_the_providers_own_address_in_a_env_changes_nothing(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_env(OPENAI_BASE_URL="https://api.openai.com/v1/")
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    with Model(settings()) as model:
        assert (model.name, model.key) == ("openai", "k")
        assert ".env" not in greeting(model.config, model, workshop.Results())


def test_a_env_decides_no_setting(settings: Settings, tmp_path: Path) -> None:
    names = [f.name.upper() for f in fields(Config)]
    theirs = {name: str(tmp_path / "theirs.jsonl") for name in names}
    write_env(**theirs, **{f"SELF_INSTRUCT_{name}": value for name, value in theirs.items()})
    before = dict(os.environ)
    quiet(settings(num_instructions=3))
    assert dict(os.environ) == before and not (tmp_path / "theirs.jsonl").exists()


# --------------------------------------------------------------------------------------------------
# Whose name stands at the rows.


def test_a_model_without_a_key_and_a_provider_is_an_error_not_a_name_for_the_practice_model(
    settings: Settings, capsys: pytest.CaptureFixture
) -> None:
    assert main(settings(model="gpt-6-luna", num_instructions=3)) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "--model gpt-6-luna" in line and "key" in line
    assert not Path(settings().work_dir).exists()


def test_the_practice_model_keeps_its_own_name(settings: Settings) -> None:
    config = settings(provider="practice", model="gpt-6-luna", num_instructions=3)
    summary = quiet(config)
    assert summary["settings"]["model"] == "data/practice_tasks.jsonl"
    journal = rows(Path(config.work_dir), "responses.jsonl")
    assert {record["model"] for record in journal} == {"data/practice_tasks.jsonl"}


# --------------------------------------------------------------------------------------------------
# run.json, as the companions read it.


def test_a_report_follows_run_json_to_the_journal_of_a_replay_and_to_no_other(
    settings: Settings, tmp_path: Path
) -> None:
    made = settings(provider="practice", num_instructions=5, work_dir=str(tmp_path / "made"))
    quiet(made)
    journal = tmp_path / "made" / "responses.jsonl"
    quiet(settings(provider="replay", responses=str(journal), num_instructions=5))
    folder = Path(settings().work_dir)
    run = read_run(folder)
    assert run.journal and run.journal.path == journal
    run.journal.file.close()
    # Another run.json names a journal of the user, to have it shown in a report.
    private = settings(
        provider="practice", seed=3, num_instructions=5, work_dir=str(tmp_path / "p")
    )
    quiet(private)
    summary = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    for theirs in (str(tmp_path / "p" / "responses.jsonl"), str(tmp_path)):
        summary["settings"]["responses"] = theirs
        (folder / "run.json").write_text(json.dumps(summary), encoding="utf-8")
        assert read_run(folder).journal is None


@pytest.mark.parametrize("lost", [-(10**9), float("nan"), "7", [1], None, True])
def test_a_run_json_cannot_raise_a_limit(settings: Settings, lost: object) -> None:
    config = settings(provider="practice", num_instructions=5)
    quiet(config)
    path = Path(config.work_dir) / "run.json"
    summary = json.loads(path.read_text(encoding="utf-8"))
    row = {"prompt_tokens": lost, "reply_tokens": lost}
    summary["spending"] = {"stages": {"lost": row}}
    path.write_text(json.dumps(summary), encoding="utf-8")
    options = self_instruct.command_line().parse_args(["--max-tokens-total", "1000"])
    with limits.LimitedModel(config, options) as model:
        assert model.purse.rows.get("lost", (0, 0, 0))[1:] == (0, 0)
