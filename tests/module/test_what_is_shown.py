"""What reaches the screen: no escapes that steer a terminal, no traceback where a line will do."""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.runs import ROOT, local, quiet
from helpers.server import Server, scripted_model

import self_instruct_workshop as workshop
from self_instruct_workshop import (
    Config,
    Model,
    WorkshopError,
    columns,
    fitted,
    main,
    printable,
    run,
    wrapped,
)

Settings = Callable[..., Config]
EVIL = "x\x1b]0;owned\x07\x1b[2J\x9b31m\u202eevil\r"
posix = pytest.mark.skipif(sys.platform == "win32", reason="a matter of POSIX")


def program(*arguments: str, **how: object) -> subprocess.CompletedProcess:
    """A program of the project in a process of its own."""
    arguments = (str(ROOT / arguments[0]), *arguments[1:])
    how = {"capture_output": True, "encoding": "utf-8", "timeout": 120, **how}
    return subprocess.run([sys.executable, *arguments], **how)


def harmless(text: str) -> bool:
    return not set(text) & set("\x00\x07\x1b\x9b\r\u202e")


# --------------------------------------------------------------------------------------------------
# Escapes.


def test_what_steers_a_terminal_is_written_out_and_the_rest_stays() -> None:
    assert printable(EVIL) == "x\\x1b]0;owned\\x07\\x1b[2J\\x9b31m\\u202eevil\\r"
    text = "Two lines,\n\ta tab, 全角　空格, é, 👩‍👩‍👧 and a no-break\u00a0space."
    assert printable(text) == text


def test_the_prompts_that_are_shown_hold_no_escape_of_a_seed(tmp_path: Path) -> None:
    seeds = tmp_path / "seeds.jsonl"
    record = {"instruction": EVIL, "is_classification": True}
    seeds.write_text(json.dumps(record) + "\n", encoding="utf-8")
    done = program("self_instruct.py", "--show-prompts", "--seed-file", str(seeds))
    assert done.returncode == 0, done.stderr
    assert harmless(done.stdout) and done.stdout.count("\\x1b[2J") >= 4


def test_a_model_that_the_server_lists_prints_no_escape(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    with Server(scripted_model(), models=(EVIL,)) as server:
        config = settings(**local(server, num_instructions=2))
        talk: list[str] = []
        summary = run(config, say=talk.append)
        assert summary["settings"]["model"] == EVIL
        assert harmless("".join(talk))

        # The notice of a parameter that is refused, and --check, name the model too.
        with Model(config) as model:
            model.refuse("temperature")
            model.notice_once(f"{model.model} gave no answer")
            model.notice_once("m" * 3000 + " gave no answer")
        done = program(
            "self_instruct.py", "--check", "--provider", "local", "--base-url", server.url + "/v1"
        )
    said = capsys.readouterr().err
    assert harmless(said) and max(map(len, said.split("\n"))) < 400
    assert "ok: x" in done.stdout and harmless(done.stdout + done.stderr)


def test_a_journal_of_somebody_else_prints_no_escape(settings: Settings, tmp_path: Path) -> None:
    config = settings(provider="practice", num_instructions=2)
    quiet(config)
    journal = tmp_path / "shared.jsonl"
    text = (Path(config.work_dir) / "responses.jsonl").read_text(encoding="utf-8")
    text = text.replace('"provider": "practice"', json.dumps({"provider": EVIL})[1:-1])
    text = text.replace('"model": "data/practice_tasks.jsonl"', json.dumps({"model": EVIL})[1:-1])
    journal.write_text(text, encoding="utf-8")
    work = ("--work-dir", str(tmp_path / "other"))
    done = program("self_instruct.py", "--provider", "replay", "--responses", str(journal), *work)
    assert "Self-Instruct" in done.stdout and harmless(done.stdout + done.stderr)


def test_the_next_command_makes_the_page_of_this_run(settings: Settings, tmp_path: Path) -> None:
    config = settings(provider="practice", num_instructions=2, work_dir=str(tmp_path / "my run"))
    talk: list[str] = []
    run(config, say=talk.append)
    command = talk[-1].split("Next, a page to look at")[1].split("\n")[1]
    assert shlex.split(command)[2:] == ["--report", "--work-dir", config.work_dir]
    assert Path(shlex.split(command)[1]).is_file()


def test_a_model_that_is_not_trusted_in_stage_2_is_named_at_the_end(settings: Settings) -> None:
    def model(prompt: str, body: dict) -> str:
        asked = prompt.endswith("Among which options is the answer chosen?")
        return "Options: left, right" if asked else scripted_model()(prompt, body)

    talk: list[str] = []
    with Server(model) as server:
        run(settings(**local(server, num_instructions=3)), say=talk.append)
    assert "notice: in stage 2 the model labels 8 of 16 seed tasks as people do" in talk[-1]


# --------------------------------------------------------------------------------------------------
# The screen as a page of the lesson.


def page(tmp_path: Path, *flags: str, **variables: str) -> list[str]:
    env = {**os.environ, "LC_ALL": "C.UTF-8", **variables}
    done = program("self_instruct.py", "--work-dir", "w", *flags, env=env, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.rstrip("\n").split("\n")


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_run_is_a_page_of_40_lines_of_80_columns(tmp_path: Path, language: str) -> None:
    lines = page(tmp_path, "--language", language)
    assert len(lines) <= 40
    command = [line for line in lines if "--report" in line]
    assert [line for line in lines if columns(line) > 80 and line not in command] == []


def test_what_is_too_long_for_a_line_ends_at_a_word() -> None:
    text = "word " * 30
    assert fitted(text, " + ") == " + " + ("word " * 15).rstrip() + "…"
    assert fitted("字" * 60, "   ") == "   " + "字" * 38 + "…"
    assert fitted("short", " - ") == " - short"
    assert columns(fitted("x" * 300)) == 80, "a single word is cut"
    assert columns(fitted("ไทย" * 60)) <= 80 and len(fitted("한국어" * 40)) > 30


def test_lines_break_between_words_and_before_no_chinese_stop() -> None:
    assert wrapped("one two three", 1, width=9) == [" one two", " three"]
    assert wrapped("一二三四，五六", 0, width=8) == ["一二三四，", "五六"]


def test_the_number_that_decided_stands_beside_its_limit(tmp_path: Path) -> None:
    text = "\n".join(page(tmp_path))
    assert re.search(r"ROUGE-L 0\.\d\d with the nearest, allowed up to 0\.7: \w", text)
    assert re.search(r"too_similar: ROUGE-L [01]\.\d\d with the nearest, allowed up to 0\.7:", text)
    assert re.search(r"kept 100 of \d+ candidates; out: too_similar \d", text)


def test_a_finished_row_is_on_the_page_and_in_the_dataset(tmp_path: Path) -> None:
    text = " ".join(" ".join(page(tmp_path)).split())
    [row] = re.findall(r"One row of the dataset: ({.*?}) \d+ requests", text)
    rows = (tmp_path / "w" / "step4_final.jsonl").read_text(encoding="utf-8").splitlines()
    assert row in [" ".join(line.split()) for line in rows]


@pytest.mark.parametrize(
    ("variables", "flags", "chinese"),
    [
        ({}, (), False),
        ({"LC_ALL": "zh_CN.UTF-8"}, (), True),
        ({}, ("--language", "zh"), True),
        ({"LC_ALL": "", "LC_MESSAGES": "", "LANG": "zh_TW.UTF-8"}, (), True),
        ({"LC_ALL": "en_US.UTF-8", "LANG": "zh_CN.UTF-8"}, (), False),
    ],
)
def test_the_page_is_chinese_where_the_run_or_the_terminal_is(
    tmp_path: Path, variables: dict, flags: tuple, chinese: bool
) -> None:
    lines = page(tmp_path, "--num-instructions", "3", *flags, **variables)
    assert ("种子" in lines[0]) is chinese and ("seed tasks" in lines[0]) is not chinese


def test_both_languages_have_the_same_words_with_the_same_slots() -> None:
    def slots(words: dict) -> dict:
        flat = {}
        for name, text in words.items():
            if isinstance(text, dict):
                flat |= {f"{name}/{key}": value for key, value in slots(text).items()}
            else:
                flat[name] = sorted(re.findall(r"{(\w+)", text))
        return flat

    assert slots(workshop.screen_words("en")) == slots(workshop.screen_words("zh"))


def test_when_the_bank_is_used_up_that_is_what_is_said(tmp_path: Path) -> None:
    text = " ".join(" ".join(page(tmp_path, "--num-instructions", "900")).split())
    assert re.search(r"notice: \d+ of 900 instructions.*The practice bank has \d+ tasks", text)
    assert "--temperature 1" not in text


@pytest.mark.parametrize("name", ["self_instruct.py", "self_instruct_workshop.py"])
def test_an_older_python_gets_one_line(name: str) -> None:
    older = (
        "import runpy, sys; sys.version_info = (3, 10, 12); sys.version = '3.10.12 (main)'; "
        f"runpy.run_path({str(ROOT / name)!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", older], capture_output=True, encoding="utf-8")
    told = "Python 3.11 or newer is needed, and this is 3.10.12\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", told)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--help"], 0, "It takes no arguments."),
        (["-h"], 0, "python self_instruct.py --help"),
        (
            ["--num-instructions", "5"],
            2,
            "error: this file takes no settings: use  python self_instruct.py --num-instructions 5",
        ),
    ],
)
def test_the_file_by_itself_says_where_settings_go(
    arguments: list[str], code: int, said: str
) -> None:
    done = program("self_instruct_workshop.py", *arguments)
    assert done.returncode == code and said in done.stdout + done.stderr


def test_an_error_prints_no_escape(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(_: Config) -> None:
        raise WorkshopError(EVIL)

    assert main(Config(), fail) == 1
    assert harmless(capsys.readouterr().err)


def test_the_checks_of_seeds_print_no_escape(tmp_path: Path) -> None:
    seeds = tmp_path / "seeds.json"
    record = {"id": EVIL, "instruction": EVIL, "language": EVIL}
    seeds.write_text(json.dumps([record, record]), encoding="utf-8")
    done = program("scripts/check_seeds.py", str(seeds))
    assert done.returncode == 1 and harmless(done.stdout + done.stderr)


# --------------------------------------------------------------------------------------------------
# One line, or it simply works.


@posix
def test_show_prompts_into_head_is_quiet() -> None:
    # A reader that is gone before the first byte.
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, str(ROOT / "self_instruct.py"), "--show-prompts"],
        stdout=write,
        stderr=subprocess.PIPE,
        timeout=60,
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")


SCRIPTS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "scripts").glob("*.py"))
PROGRAMS = ["self_instruct.py", *(path for path in SCRIPTS if not path.endswith("__init__.py"))]


@pytest.mark.parametrize("level", ["", "2"], ids=["plain", "without docstrings"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_help_works_with_and_without_docstrings(name: str, level: str) -> None:
    done = program(name, "--help", env=os.environ | {"PYTHONOPTIMIZE": level})
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert done.stdout.startswith("usage: ")


def test_a_run_works_without_docstrings(tmp_path: Path) -> None:
    flags = ("--num-instructions", "5", "--work-dir", str(tmp_path / "work"))
    env = os.environ | {"PYTHONOPTIMIZE": "2"}
    done = program("self_instruct.py", *flags, env=env)
    assert done.returncode == 0 and "Already complete" not in done.stdout, done.stderr
    shown = program("self_instruct.py", "--show-prompts", env=env)
    assert shown.returncode == 0 and "None" not in shown.stdout
    compared = program("scripts/compare_recipes.py", str(tmp_path / "work"), env=env)
    assert compared.returncode == 0, compared.stderr


@posix
@pytest.mark.parametrize("closed", [(0,), (0, 2), (0, 1, 2)], ids=str)
def test_a_paid_provider_with_closed_streams_goes_on(tmp_path: Path, closed: tuple) -> None:
    with Server(scripted_model()) as server:
        flags = [
            "--provider",
            "openai",
            "--base-url",
            server.url + "/v1",
            "--num-instructions",
            "2",
        ]
        flags += ["--work-dir", str(tmp_path / "work"), "--classify-together", "1"]

        def close() -> None:
            for number in closed:
                os.close(number)

        done = program(
            "self_instruct.py",
            *flags,
            env=os.environ | {"OPENAI_API_KEY": "sk-test"},
            preexec_fn=close,
        )
    assert done.returncode == 0 and "Traceback" not in done.stdout + done.stderr, done.stderr
    summary = json.loads((tmp_path / "work" / "run.json").read_text(encoding="utf-8"))
    assert summary["status"] == "complete"


@pytest.mark.parametrize("after", [0, 1, 3])
def test_no_more_threads_is_one_line(
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    after: int,
) -> None:
    import threading

    started = []
    start = threading.Thread.start

    def limited(thread: threading.Thread) -> None:
        if thread.name.startswith("asking"):
            started.append(thread)
            if len(started) > after:
                raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)
    config = settings(provider="practice", num_instructions=4)
    assert main(config, lambda config: run(config, say=lambda text: None)) == 1
    said = capsys.readouterr().err
    assert "error: can't start new thread: " in said and "--concurrency" in said
    assert said.count("\n") == 1


def test_an_installed_package_called_scripts_is_no_trouble(tmp_path: Path) -> None:
    package = tmp_path / "scripts"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('the wrong one')", encoding="utf-8")
    env = os.environ | {"PYTHONPATH": str(tmp_path)}
    for name in PROGRAMS:
        done = program(name, "--help", env=env, cwd=tmp_path)
        assert done.returncode == 0 and "wrong one" not in done.stderr, name


# --------------------------------------------------------------------------------------------------
# Drives without locks.


@posix
@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK])
def test_where_the_drive_knows_no_locks_a_file_is_the_lock(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    import fcntl

    def no_locks(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    config = settings(provider="practice", num_instructions=2)
    mark = Path(config.work_dir) / workshop.LOCK_FILE
    with Model(config):
        assert mark.exists()
        with pytest.raises(WorkshopError, match=f"another run .* delete .*{mark.name}"):
            Model(config)
        assert mark.exists()
    assert not mark.exists()
    assert quiet(config)["status"] == "complete"
    assert not mark.exists()


@posix
def test_other_troubles_with_the_lock_are_the_folders(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", broken)
    with pytest.raises(WorkshopError, match=r"cannot write to .* .Input/output error."):
        Model(settings(provider="practice"))


def test_the_command_that_installs_works_as_printed_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workshop.sys, "executable", "/my folder/python")
    monkeypatch.chdir(tmp_path)
    words = shlex.split(workshop.pip_install("-r", "scripts/requirements-report.txt"))
    assert words[:4] == ["/my folder/python", "-m", "pip", "install"]
    assert Path(words[5]).exists()
    monkeypatch.chdir(workshop.DATA.parent)
    assert workshop.pip_install("pyarrow") == "'/my folder/python' -m pip install pyarrow"
    assert workshop.pip_install("-r", "a.txt").endswith(" -r a.txt")
