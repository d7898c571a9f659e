"""The provider `replay`: a whole run from somebody's journal alone, byte for byte; nobody is asked,
it is only read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
from helpers.runs import FIELDS, ROOT, quiet, rows, summary_of
from helpers.server import Server, scripted_model

from self_instruct_workshop import (
    PROVIDERS,
    STEP_FILES,
    Config,
    Model,
    UsageError,
    WorkshopError,
    main,
)

Settings = Callable[..., Config]
MADE = {"num_instructions": 25}


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of every view, times included: those are the journal's."""
    return {name: (folder / name).read_bytes() for name in FIELDS}


def journal_of(config: Config) -> Path:
    return Path(config.work_dir) / "responses.jsonl"


@pytest.fixture
def original(settings: Settings, tmp_path: Path) -> Callable[..., Config]:
    """A run of the practice model that is over."""

    def make(**changes: object) -> Config:
        config = settings(
            **{"provider": "practice", "work_dir": str(tmp_path / "original"), **MADE, **changes}
        )
        quiet(config)
        return config

    return make


@pytest.fixture
def replay(settings: Settings, tmp_path: Path) -> Callable[..., Config]:
    """The settings of its replay in another folder."""

    def make(responses: object, **changes: object) -> Config:
        where = {"work_dir": str(tmp_path / "replay"), "responses": str(responses)}
        return settings(**{"provider": "replay", **where, **MADE, **changes})

    return make


def command(*arguments: object) -> subprocess.CompletedProcess:
    line = [sys.executable, str(ROOT / "self_instruct.py"), *map(str, arguments)]
    return subprocess.run(line, capture_output=True, encoding="utf-8", timeout=60)


# --------------------------------------------------------------------------------------------------
# The same dataset.

SHAPES = [
    {},
    {"language": "zh"},
    {"temperature": 1.3},
    {"temperature": 0},
    {"recipe": "paper"},
    {"recipe": "paper", "temperature": 1.0, "classification_every": 0},
    {"seed": 7},
    {"tasks_shown": 3, "machine_tasks_shown": 1, "tasks_asked": 4},
    {"classification_every": 2},
    {"max_tokens": 60},
    {"concurrency": 1},
]
TOLD_AGAIN = [  # settings that no reply in a journal names
    {"instances_per_instruction": 3},
    {"instances_per_instruction": 5, "language": "zh"},
    {"instances_per_instruction": 2, "recipe": "paper"},
    {"rouge_threshold": 0.4},
    {"until": "classify"},
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_journal_alone_gives_the_same_bytes_without_a_word_about_the_settings(
    original: Callable, replay: Callable, shape: dict
) -> None:
    first = original(**shape)
    again = replay(journal_of(first))
    summary = quiet(again)
    assert contents(Path(again.work_dir)) == contents(Path(first.work_dir))
    assert rows(Path(again.work_dir), "step4_final.jsonl")
    assert summary["counts"] == summary_of(Path(first.work_dir))["counts"]


@pytest.mark.parametrize("shape", TOLD_AGAIN, ids=str)
def test_with_the_settings_that_no_reply_names_told_again_the_bytes_are_the_same_too(
    original: Callable, replay: Callable, shape: dict
) -> None:
    first = original(**shape)
    again = replay(journal_of(first), **shape)
    quiet(again)
    for name in FIELDS:
        ours, theirs = Path(again.work_dir) / name, Path(first.work_dir) / name
        assert ours.exists() == theirs.exists()
        assert not ours.exists() or ours.read_bytes() == theirs.read_bytes()


def test_the_command_line_replays_a_run_of_the_default_size(tmp_path: Path) -> None:
    first, again = tmp_path / "first", tmp_path / "again"
    done = command("--provider", "practice", "--work-dir", first)
    redone = command(
        "--provider", "replay", "--responses", first / "responses.jsonl", "--work-dir", again
    )
    assert (done.returncode, redone.returncode) == (0, 0), redone.stderr
    assert contents(first) == contents(again)
    assert "0 requests now" in redone.stdout


def test_the_summary_names_who_answered_once_and_that_nothing_was_asked_now(
    original: Callable, replay: Callable
) -> None:
    first = original()
    summary = quiet(replay(journal_of(first)))
    theirs = summary_of(Path(first.work_dir))
    names = ("provider", "model", "temperature", "recipe", "language", "seed", "max_tokens")
    assert [summary["settings"][name] for name in names] == [
        theirs["settings"][name] for name in names
    ]
    assert {spent["asked_now"] for spent in summary["tokens"].values()} == {0}
    for stage, spent in summary["tokens"].items():
        assert {**spent, "asked_now": 0} == {**theirs["tokens"][stage], "asked_now": 0}
    assert (summary["status"], summary["faults"], summary["undone_because"]) == ("complete", {}, {})


@pytest.mark.parametrize("wanted", [1, 8, 24])
@pytest.mark.parametrize("recipe", ["modern", "paper"])
def test_fewer_instructions_are_the_first_of_the_run(
    original: Callable, replay: Callable, wanted: int, recipe: str
) -> None:
    first = original(recipe=recipe)
    again = replay(journal_of(first), num_instructions=wanted)
    assert quiet(again)["status"] == "complete"
    tasks, all_tasks = (rows(Path(config.work_dir), STEP_FILES[0]) for config in (again, first))
    assert tasks == all_tasks[:wanted]
    final = rows(Path(again.work_dir), STEP_FILES[3])
    assert final == rows(Path(first.work_dir), STEP_FILES[3])[: len(final)] != []


@pytest.mark.parametrize("asked", [1, 2, 5])
@pytest.mark.parametrize("seed", range(2))
def test_any_smaller_number_works_where_replies_bring_more_or_less_than_was_asked(
    settings: Settings, replay: Callable, tmp_path: Path, asked: int, seed: int
) -> None:
    def uneven(prompt: str, body: dict) -> str:
        lines = scripted_model(seed)(prompt, body).split("\n")
        return (
            "\n".join(lines[: 1 + sum(map(ord, prompt)) % 8])
            if prompt.endswith(".")
            else "\n".join(lines)
        )

    with Server(uneven) as server:
        address = {"provider": "local", "model": "m", "base_url": server.url + "/v1"}
        made = {"until": "generate", "tasks_asked": asked, "num_instructions": 30}
        first = settings(**address, **made, work_dir=str(tmp_path / "original"))
        quiet(first)
    all_tasks = rows(Path(first.work_dir), STEP_FILES[0])
    for wanted in range(1, 31, 2):
        again = replay(journal_of(first), num_instructions=wanted, until="generate")
        quiet(again)
        assert rows(Path(again.work_dir), STEP_FILES[0]) == all_tasks[:wanted]


def test_another_threshold_asks_nothing_of_stage_1_that_the_journal_has(
    original: Callable, replay: Callable
) -> None:
    first = original(rouge_threshold=0.4)
    again = replay(journal_of(first), rouge_threshold=0.7, until="generate", num_instructions=15)
    assert quiet(again)["counts"]["generate"]["out"] == 15


def test_a_run_over_the_wire_is_replayed_with_its_own_seeds(
    settings: Settings, replay: Callable, tmp_path: Path
) -> None:
    seeds = tmp_path / "seeds.txt"
    seeds.write_text("Sort these words by length.\nName three rivers in Spain.\n", encoding="utf-8")
    faults = ["500", "length", "", "filter"]
    with Server(scripted_model(), faults=faults) as server:
        address = {"provider": "local", "base_url": server.url + "/v1"}
        first = settings(
            **address, **MADE, seed_file=str(seeds), work_dir=str(tmp_path / "original")
        )
        quiet(first)
    again = replay(journal_of(first), seed_file=str(seeds))
    quiet(again)
    assert contents(Path(again.work_dir)) == contents(Path(first.work_dir))


# --------------------------------------------------------------------------------------------------
# Nobody is asked, and the journal is read and nothing else.


@pytest.mark.parametrize("keys", [True, False], ids=["with keys", "without"])
def test_nothing_is_sent_and_no_key_is_needed(
    settings: Settings,
    replay: Callable,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    keys: bool,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    with Server(scripted_model()) as server:
        address = {"provider": "openai", "model": "m", "base_url": server.url + "/v1"}
        first = settings(**address, **MADE, work_dir=str(tmp_path / "original"))
        quiet(first)
        asked = len(server.requests)
        for row in PROVIDERS.values():
            for name, value in ((row.key, "k"), (row.url_variable, server.url + "/v1")):
                if name:
                    monkeypatch.setenv(name, value) if keys else monkeypatch.delenv(
                        name, raising=False
                    )
        again = replay(journal_of(first))
        quiet(again)
        quiet(
            replay(
                journal_of(first),
                base_url=server.url + "/v1",
                work_dir=str(tmp_path / "with address"),
            )
        )
        with pytest.raises(WorkshopError):
            quiet(replay(journal_of(first), num_instructions=500, base_url=server.url + "/v1"))
        assert len(server.requests) == asked > 0
    assert contents(Path(first.work_dir)) == contents(tmp_path / "with address")


def test_a_replay_opens_no_connection_at_all(
    original: Callable, replay: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = replay(journal_of(original()))
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("somebody was called"))
    monkeypatch.setattr(
        "socket.getaddrinfo", lambda *_, **__: pytest.fail("somebody was looked up")
    )
    assert quiet(again)["status"] == "complete"


@pytest.mark.parametrize("wanted", [25, 500])
def test_the_journal_keeps_its_bytes_and_its_time_and_no_other_is_written(
    original: Callable, replay: Callable, wanted: int
) -> None:
    journal = journal_of(original())
    os.utime(journal, ns=(10**18, 10**18))
    journal.chmod(0o444)
    before = journal.read_bytes(), journal.stat().st_mtime_ns, sorted(journal.parent.iterdir())
    again = replay(journal, num_instructions=wanted)
    assert main(again) == (0 if wanted == 25 else 1)
    assert (
        journal.read_bytes(),
        journal.stat().st_mtime_ns,
        sorted(journal.parent.iterdir()),
    ) == before
    assert not journal_of(again).exists()


def test_a_replay_into_the_folder_of_the_run_itself_leaves_its_journal_alone(
    original: Callable, replay: Callable
) -> None:
    first = original()
    journal, before = journal_of(first), contents(Path(first.work_dir))
    saved = journal.read_bytes(), journal.stat().st_mtime_ns
    quiet(replay(journal, work_dir=first.work_dir))
    assert (journal.read_bytes(), journal.stat().st_mtime_ns) == saved
    assert contents(Path(first.work_dir)) == before


@pytest.mark.parametrize("torn", [b"{", b'{"key": "d", "te', b"\0\0\0", "第".encode()[:-1]])
def test_a_torn_last_line_is_passed_over_and_left_as_it_is(
    original: Callable, replay: Callable, torn: bytes
) -> None:
    first = original()
    journal = journal_of(first)
    journal.write_bytes(whole := journal.read_bytes() + torn)
    again = replay(journal)
    assert main(again) == 0
    assert journal.read_bytes() == whole
    assert contents(Path(again.work_dir)) == contents(Path(first.work_dir))


def test_a_journal_that_another_run_is_writing_can_be_replayed(
    original: Callable, replay: Callable
) -> None:
    first = original()
    with Model(Config(**asdict(first))):
        assert main(replay(journal_of(first))) == 0


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_a_journal_may_be_a_link_and_its_name_may_hold_any_letters(
    original: Callable, replay: Callable, tmp_path: Path
) -> None:
    (tmp_path / "回答 {0} %s.txt").symlink_to(journal_of(original()))
    assert main(replay(tmp_path / "回答 {0} %s.txt")) == 0


# --------------------------------------------------------------------------------------------------
# What the journal does not hold.


def one_line(capsys: pytest.CaptureFixture) -> str:
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and "Traceback" not in line
    return line


@pytest.mark.parametrize(
    "changes",
    [
        {"num_instructions": 500},
        {"num_instructions": 26},
        {"instances_per_instruction": 2},
        {"rouge_threshold": 0.1},
    ],
    ids=str,
)
def test_a_question_that_was_never_asked_ends_the_replay_in_one_line(
    original: Callable, replay: Callable, capsys: pytest.CaptureFixture, changes: dict
) -> None:
    journal = journal_of(original())
    capsys.readouterr()
    assert main(replay(journal, **changes)) == 1
    assert str(journal) in one_line(capsys)


def test_other_seed_tasks_end_the_replay_in_one_line_that_says_so(
    original: Callable, replay: Callable, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    journal, seeds = journal_of(original()), tmp_path / "seeds.txt"
    seeds.write_text("Sort these words by length.\n", encoding="utf-8")
    capsys.readouterr()
    assert main(replay(journal, seed_file=str(seeds))) == 1
    assert "seed" in one_line(capsys)


@pytest.mark.parametrize("line", [3, -1])
def test_a_reply_that_somebody_deleted_is_undone_or_ends_the_replay_in_one_line(
    original: Callable, replay: Callable, capsys: pytest.CaptureFixture, line: int
) -> None:
    """In stage 3 a task without a reply looks as one that got none; in stage 1 it was the last."""
    journal = journal_of(original())
    lines = journal.read_bytes().splitlines(keepends=True)
    stage = json.loads(lines.pop(line))["stage"]
    journal.write_bytes(b"".join(lines))
    capsys.readouterr()
    assert main(replay(journal)) == {"generate": 1, "instances": 3}[stage]
    if stage == "generate":
        assert "no reply" in one_line(capsys)
    else:
        assert "1 undone (without a reply in the run that is replayed" in capsys.readouterr().out


def test_the_real_process_leaves_with_1_and_one_line(original: Callable, tmp_path: Path) -> None:
    done = command(
        "--provider",
        "replay",
        "--responses",
        journal_of(original()),
        "--work-dir",
        tmp_path / "again",
    )
    assert done.returncode == 1, "the journal has 25 instructions and 100 are wanted"
    assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith("error: ")


def test_a_damaged_line_in_the_middle_is_named_by_its_number(
    original: Callable, replay: Callable, capsys: pytest.CaptureFixture
) -> None:
    journal = journal_of(original())
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(damaged := b"".join([*lines[:3], b"{half a line\n", *lines[4:]]))
    capsys.readouterr()
    assert main(replay(journal)) == 1
    assert "line 4" in one_line(capsys)
    assert journal.read_bytes() == damaged


# --------------------------------------------------------------------------------------------------
# What is no journal.

NO_JOURNAL = {
    "empty": b"",
    "blank": b"\n\n",
    "text": b"hello\n",
    "not UTF-8": b"\xff\xfe\x00",
    "zeros": b"\0" * 50,
    "array": b"[1, 2]\n",
    "number": b"7\n",
    "null": b"null\n",
    "string": b'"provider model"\n',
    "torn": b'{"provider": "practice", "mod',
    "seed tasks": b'{"id": "seed_task_0", "instruction": "Sort."}\n',
    "nested deeply": b"[" * 200_000 + b"\n",
    "no model": b'{"key": "a", "provider": "practice"}\n',
    "model null": b'{"key": "a", "provider": "practice", "model": null}\n',
    "model a number": b'{"key": "a", "provider": "practice", "model": 7}\n',
    "another temperature": b'{"key": "a", "provider": "p", "model": "m", "temperature": "hot"}\n',
    "another recipe": b'{"key": "a", "provider": "p", "model": "m", "recipe": "ours"}\n',
    "another language": b'{"key": "a", "provider": "p", "model": "m", "language": ["en"]}\n',
    "a count too low": b'{"key": "a", "provider": "p", "model": "m", "tasks_shown": 0}\n',
}


@pytest.mark.parametrize("kind", NO_JOURNAL)
def test_a_file_that_is_no_journal_is_a_usage_error_in_one_line(tmp_path: Path, kind: str) -> None:
    (tmp_path / "file.jsonl").write_bytes(NO_JOURNAL[kind])
    with pytest.raises(UsageError) as refused:
        Config(
            provider="replay",
            responses=str(tmp_path / "file.jsonl"),
            work_dir=str(tmp_path / "work"),
        )
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("responses", ["", None, "no such file", ".", "a\0b"], ids=repr)
def test_without_a_journal_there_is_no_replay(responses: str | None) -> None:
    with pytest.raises(UsageError, match="--responses"):
        Config(provider="replay", responses=responses)


@pytest.mark.parametrize("content", [None, b"", b"hello\n"], ids=["missing", "empty", "text"])
def test_the_command_line_says_so_with_exit_2(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "file.jsonl"
    file.write_bytes(content) if content is not None else None
    done = command("--provider", "replay", "--responses", file, "--work-dir", tmp_path / "work")
    assert (done.returncode, done.stdout) == (2, "")
    usage, said = done.stderr.splitlines()
    assert usage.startswith("usage: ") and "--responses" in said and str(file) in said
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("provider", ["", *(name for name in PROVIDERS if name != "replay")])
def test_a_journal_to_answer_from_is_for_replay_alone(original: Callable, provider: str) -> None:
    with pytest.raises(UsageError, match="--responses is for --provider replay"):
        Config(provider=provider, responses=str(journal_of(original(num_instructions=1))))


def test_a_path_is_taken_as_a_notebook_gives_it(original: Callable) -> None:
    journal = journal_of(original(language="zh", num_instructions=1))
    config = Config(provider="replay", responses=journal)
    assert (config.responses, config.language) == (str(journal), "zh")
    assert config == Config(**asdict(config))


def test_help_names_the_provider_and_the_flag() -> None:
    shown = command("--help").stdout
    assert "replay" in shown and "--responses" in shown
    assert json.dumps(list(PROVIDERS)).count("replay") == 1
