"""The journal and the other files: nothing paid for is lost, nothing is asked twice, nothing is
half written."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from helpers.server import Server, scripted_model

import self_instruct_workshop
from self_instruct_workshop import (
    Config,
    Journal,
    Model,
    Reply,
    WorkshopError,
    parameters,
    run,
    to_json,
    write_whole,
)

Settings = Callable[..., Config]
ROOT = Path(self_instruct_workshop.__file__).parent
LONG, SHORT = "a long story", "a short one"


def record(key: str, text: str = "hello") -> dict:
    rest = {"prompt": "go", "created_at": "", "finish_reason": "stop", "max_tokens": 512}
    return {"key": key, "text": text, **rest, "prompt_tokens": 0, "reply_tokens": 0}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A journal of three records."""
    journal = Journal(tmp_path / "responses.jsonl")
    for key in "abc":
        journal.append(record(key))
    return journal.path


def test_what_was_appended_is_found_at_once_and_after_reopening(path: Path) -> None:
    journal = Journal(path)
    journal.append(record("d", "第四 \u2028 😀 \n\r\0"))
    for opened in (journal, Journal(path)):
        assert opened.get("d") == record("d", "第四 \u2028 😀 \n\r\0")
        assert [opened.get(key) for key in "abc"] == [record(key) for key in "abc"]
        assert opened.get("e") is None


def test_a_record_is_on_disk_before_append_returns(path: Path) -> None:
    before = path.read_bytes()
    Journal(path).append(record("d"))
    assert path.read_bytes() == before + to_json(record("d")).encode()


def digests(journal: Journal) -> dict[str, str]:
    return {stage: found.hexdigest() for stage, found in journal.digests.items()}


def test_each_stage_has_one_digest_while_it_is_written_and_after_reopening(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "responses.jsonl")
    with ThreadPoolExecutor(8) as pool:
        for n in range(60):
            row = {"stage": ("generate", "classify")[n % 2], **record(f"key {n}", "long " * n)}
            pool.submit(journal.append, row)
    assert digests(journal) == digests(Journal(journal.path))
    assert sorted(digests(journal)) == ["classify", "generate"]

    # A byte of one stage is no matter of the other; a last line without its end is the same line.
    before = digests(journal)
    whole = journal.path.read_bytes()
    journal.path.write_bytes(whole[:-1])
    assert digests(Journal(journal.path)) == before
    at = whole.index(b'"classify"')
    at = whole.index(b'"hello"' if b'"hello"' in whole[at:] else b"long", at)
    journal.path.write_bytes(whole[:at] + b"L" + whole[at + 1 :])
    after = digests(Journal(journal.path))
    assert [stage for stage in before if before[stage] != after[stage]] == ["classify"]


def test_who_listens_hears_each_record_as_it_is_read_and_none_that_is_written(path: Path) -> None:
    heard: list[dict] = []
    journal = Journal(path, hear=heard.append)
    journal.append(record("d"))
    assert heard == [record(key) for key in "abc"]


def test_of_two_replies_to_one_question_the_newer_wins(path: Path) -> None:
    journal = Journal(path)
    journal.append(record("a", "newer"))
    assert journal.get("a") == Journal(path).get("a") == record("a", "newer")
    assert len(path.read_text(encoding="utf-8").splitlines()) == 4, "the older line is kept"


def test_many_threads_write_whole_lines(tmp_path: Path) -> None:
    journal, keys = Journal(tmp_path / "responses.jsonl"), [f"key {n}" for n in range(200)]
    with ThreadPoolExecutor(32) as executor:
        list(executor.map(lambda key: journal.append(record(key, key * 50)), keys))
        assert list(executor.map(journal.get, keys)) == [record(key, key * 50) for key in keys]
    assert {row["key"] for row in map(json.loads, journal.path.read_bytes().splitlines())} == {
        *keys
    }


@pytest.mark.parametrize(
    "torn", [b"{", b'{"key": "d", "te', '{"key": "d", "text": "第'.encode()[:-1], b"\0\0\0"]
)
def test_a_torn_last_line_is_cut_off_and_reported(path: Path, torn: bytes) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    journal = Journal(path)
    assert journal.torn and path.read_bytes() == whole
    journal.append(record("d"))
    reopened = Journal(path)
    assert not reopened.torn and [reopened.get(key) for key in "abcd"] == [
        record(key) for key in "abcd"
    ]


def test_wherever_the_last_line_is_torn_the_others_stay(path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    for length in range(1, len(lines[2]) - 1):
        path.write_bytes(lines[0] + lines[1] + lines[2][:length])
        journal = Journal(path)
        assert journal.torn and journal.get("b") == record("b") and journal.get("c") is None


def test_a_run_says_that_the_last_line_was_torn(settings: Settings) -> None:
    config, said = settings(provider="practice", num_instructions=3, until="generate"), []
    run(config)
    journal = Path(config.work_dir) / "responses.jsonl"
    journal.write_bytes(journal.read_bytes()[:-5])
    run(config, say=said.append)
    assert "torn" in said[0] and "notice" in said[0]


@pytest.mark.parametrize(
    "damage",
    [
        b"half a li\n",
        b"\n",
        b'{"text": "no key"}\n',
        b"[1, 2]\n",
        b"7\n",
        b"null\n",
        b"\xff\xfe\n",
        b"\0\0\n",
        b'{"key": ["a"]}\n',
        b'{"key": "b", "text": "\xe4"}\n',
        b'{"key": "b", "text": 5}\n',
        b'{"key": "b", "text": "", "answers": {"c": null}}\n',
        b'{"key": "b", "text": "", "answers": ["c"]}\n',
    ],
)
def test_a_damaged_line_is_named_by_its_number_and_left_alone(path: Path, damage: bytes) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(before := lines[0] + damage + lines[2])
    with pytest.raises(WorkshopError) as refused:
        Journal(path)
    assert "line 2 " in str(refused.value) and str(path) in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1
    assert path.read_bytes() == before


def test_deleting_the_damaged_line_as_told_asks_only_that_question_again(
    settings: Settings,
) -> None:
    with Server(scripted_model()) as server:
        config = settings(
            provider="local", base_url=server.url + "/v1", model="m", num_instructions=4
        )
        run(config)
        journal = Path(config.work_dir) / "responses.jsonl"
        lines = journal.read_bytes().splitlines(keepends=True)
        journal.write_bytes(b"".join([*lines[:3], b"{damaged}\n", *lines[4:]]))
        with pytest.raises(WorkshopError, match="line 4 is damaged"):
            run(config)
        journal.write_bytes(b"".join([*lines[:3], *lines[4:]]))
        asked = len(server.requests)
        assert run(config)["status"] == "complete"
        assert len(server.requests) == asked + 1


def test_after_a_damaged_journal_the_folder_is_free_again(settings: Settings) -> None:
    config = settings(provider="practice")
    folder = Path(config.work_dir)
    folder.mkdir()
    (folder / "responses.jsonl").write_bytes(b"damaged\n")
    with pytest.raises(
        WorkshopError, match="damaged"
    ) as kept:  # as a notebook keeps the last error
        Model(config)
    (folder / "responses.jsonl").write_bytes(b"")
    with Model(config):
        assert kept.value


def test_lone_surrogates_are_scrubbed_from_every_file(tmp_path: Path) -> None:
    row = record("a", "a\ud83d b\udc00 😀 中文")
    Journal(tmp_path / "responses.jsonl").append(row)
    write_whole(tmp_path / "rows.jsonl", [to_json(row)])
    for name in ("responses.jsonl", "rows.jsonl"):
        assert (tmp_path / name).read_text(encoding="utf-8") == to_json(
            record("a", "a? b? 😀 中文")
        )


def test_a_reply_with_a_lone_surrogate_reads_the_same_now_and_from_the_journal(
    settings: Settings,
) -> None:
    with Server(lambda prompt, body: "half of an emoji: \ud83d") as server:
        config = settings(provider="local", base_url=server.url + "/v1", model="m")
        replies = []
        for _ in range(2):
            with Model(config) as model:
                replies.append(
                    model.ask(
                        "generate", "go", parameters(config, "generate"), {"request_idx": 0}
                    ).text
                )
    assert replies[0] == replies[1] == "half of an emoji: ?"


def test_a_lone_surrogate_in_a_journal_of_another_program_is_a_question_mark(path: Path) -> None:
    # Python's own json writes it as an escape, and reads it as what no file in UTF-8 can hold.
    line = json.dumps(record("x", "Name a colour. \ud83d")) + "\n"
    path.write_bytes(path.read_bytes() + line.encode("ascii"))
    text = Journal(path).get("x")["text"]
    assert text == "Name a colour. ?" and text.encode()


def test_a_model_that_writes_lone_surrogates_does_not_break_the_run(settings: Settings) -> None:
    write = scripted_model()
    with Server(lambda prompt, body: write(prompt, body).replace("\n", " \ud83d\n")) as server:
        config = settings(
            provider="local", base_url=server.url + "/v1", model="m", num_instructions=4
        )
        assert run(config)["status"] == "complete"
        asked = len(server.requests)
        run(config)
        assert len(server.requests) == asked
    for file in Path(config.work_dir).glob("*.jsonl"):
        assert "\\ud83d" not in file.read_text(
            encoding="utf-8"
        )  # nor the character, which cannot be decoded


def test_write_whole_writes_all_lines_and_makes_the_folder(tmp_path: Path) -> None:
    write_whole(tmp_path / "new" / "rows.jsonl", ["a\n", "中\r\u2028\n"])
    assert (tmp_path / "new" / "rows.jsonl").read_bytes() == "a\n中\r\u2028\n".encode()
    assert os.listdir(tmp_path / "new") == ["rows.jsonl"]


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_write_whole_follows_no_link_under_its_temporary_name(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("other")
    (tmp_path / "rows.jsonl.tmp").symlink_to(tmp_path / "other")
    write_whole(tmp_path / "rows.jsonl", ["new\n"])
    assert (tmp_path / "other").read_text() == "other"
    assert (tmp_path / "rows.jsonl").read_text() == "new\n"
    assert not (tmp_path / "rows.jsonl").is_symlink()


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_the_lock_follows_no_link(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "other").write_text("other")
    config = settings(provider="practice")
    Path(config.work_dir).mkdir()
    (Path(config.work_dir) / ".lock").symlink_to(tmp_path / "other")
    with pytest.raises(WorkshopError, match="--work-dir"):
        Model(config)
    assert (tmp_path / "other").read_text() == "other"


def test_one_fsync_serves_all_who_wait_and_none_returns_before_its_own(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal, sizes, fsync = Journal(path), [], os.fsync

    def slow_fsync(handle: int) -> None:
        size = path.stat().st_size
        time.sleep(0.05)
        fsync(handle)
        sizes.append(size)  # so much is on disk from now on

    def append(number: int) -> bool:
        key = f"k{number}"
        journal.append(record(key))
        end = path.read_bytes().index(b"\n", path.read_bytes().index(f'"{key}"'.encode())) + 1
        return end <= max(sizes)

    monkeypatch.setattr(os, "fsync", slow_fsync)
    with ThreadPoolExecutor(32) as threads:
        assert all(threads.map(append, range(64)))
    assert len(sizes) < 40  # of 64, whatever the machine is busy with
    assert len(Journal(path).starts) == 3 + 64


def test_after_a_failed_fsync_nothing_counts_as_written(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal, faults = Journal(path), iter([OSError(5, "Input/output error")])

    def fails_once(handle: int) -> None:
        for fault in faults:
            raise fault

    monkeypatch.setattr(os, "fsync", fails_once)
    for key in "de":
        with pytest.raises(OSError, match="Input/output"):
            journal.append(record(key))
        assert journal.get(key) is None
    assert journal.get("a") == record("a")


def test_write_whole_is_on_disk_before_it_takes_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda *names: done.append("fsync") or fsync(*names))
    monkeypatch.setattr(os, "replace", lambda *names: done.append("rename") or replace(*names))
    write_whole(tmp_path / "rows.jsonl", ["a\n"])
    assert done == ["fsync", "rename"]


@pytest.mark.parametrize("existing", [None, "old\n"])
def test_write_whole_leaves_no_half_file(tmp_path: Path, existing: str | None) -> None:
    path = tmp_path / "rows.jsonl"
    if existing:
        path.write_text(existing, encoding="utf-8")

    def lines() -> Iterator[str]:
        yield "one\n" * 10_000
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        write_whole(path, lines())
    assert (path.read_text(encoding="utf-8") if path.exists() else None) == existing
    assert not path.with_name("rows.jsonl.tmp").exists()


FULL_DISK = f"""
import json, resource, signal, sys
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}]
from pathlib import Path
from module.test_journal import record
from self_instruct_workshop import Journal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
path = Path("responses.jsonl")
path.unlink(missing_ok=True)
journal = Journal(path)
journal.append(record("a", "x" * 1000))
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
try:
    journal.append(record("b", "y" * int(sys.argv[1])))
except OSError:
    print("OSError")
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(journal.get("b"), len(journal.get("a")["text"]))
journal.append(record("c", "z"))
print(journal.get("c")["text"])
"""


@pytest.mark.skipif(os.name == "nt", reason="file size limits are a matter of Unix")
@pytest.mark.parametrize("size", [900, 1500, 4096, 8192, 20_000, 200_000])
def test_a_full_disk_costs_at_most_the_reply_that_did_not_fit(tmp_path: Path, size: int) -> None:
    """Of whatever size: no buffer may keep a part of it that is written when there is room."""
    command = [sys.executable, "-c", FULL_DISK, str(size)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["OSError", "None", "1000", "z"], done.stderr
    wanted = to_json(record("a", "x" * 1000)) + to_json(record("c", "z"))
    assert (tmp_path / "responses.jsonl").read_text(encoding="utf-8") == wanted


def test_a_half_line_that_cannot_be_cut_off_does_not_spoil_the_next(path: Path) -> None:
    """The disk takes a part of a line, and then neither the rest nor a truncation."""
    journal = Journal(path)
    disk = journal.file
    journal.file = FailingFile(disk)
    with pytest.raises(OSError, match="Input/output"):
        journal.append(record("d"))
    journal.file = disk
    journal.append(record("e"))
    assert journal.get("e") == record("e")
    with pytest.raises(WorkshopError, match="line 4 is damaged"):
        Journal(path)


class FailingFile:
    """Half of what is written arrives; then the disk fails."""

    def __init__(self, file: object) -> None:
        self.file = file
        self.failing = False

    def __getattr__(self, name: str) -> object:
        return getattr(self.file, name)

    def write(self, data: bytes) -> int:
        if self.failing:
            raise OSError(5, "Input/output error")
        self.failing = True
        return self.file.write(data[: len(data) // 2])

    def truncate(self, size: int) -> None:
        raise OSError(5, "Input/output error")


# What others did to the file.


def test_a_last_line_without_its_newline_is_kept(path: Path) -> None:
    """As some editors leave it. It was paid for."""
    path.write_bytes(path.read_bytes()[:-1])
    journal = Journal(path)
    assert not journal.torn and journal.get("c") == record("c")
    journal.append(record("d"))
    reopened = Journal(path)
    assert [reopened.get(key) for key in "abcd"] == [record(key) for key in "abcd"]
    assert len(path.read_bytes().splitlines()) == 4


@pytest.mark.parametrize("end", [b"", b"\r"])
def test_line_ends_of_windows_are_read(path: Path, end: bytes) -> None:
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n").removesuffix(b"\r\n") + end)
    journal = Journal(path)
    journal.append(record("d"))
    assert [Journal(path).get(key) for key in "abcd"] == [record(key) for key in "abcd"]


def in_one_line(whole: bytes) -> dict[str, bytes]:
    rows = [json.loads(line) for line in whole.splitlines()]
    return {
        "CR": whole.replace(b"\n", b"\r"),
        "CR, then LF": whole.replace(b"\n", b"\r") + b"\n",
        "CR, torn": whole.replace(b"\n", b"\r")[:-20],
        "nothing between": whole.replace(b"\n", b""),
        "spaces between": whole.replace(b"\n", b" ") + b"\n",
        "an array": json.dumps(rows).encode(),
        "an array and a newline": json.dumps(rows).encode() + b"\n",
    }


@pytest.mark.parametrize("how", in_one_line(b""))
def test_a_journal_in_one_line_is_refused_and_left_alone(path: Path, how: str) -> None:
    path.write_bytes(before := in_one_line(path.read_bytes())[how])
    with pytest.raises(WorkshopError, match="a line of its own") as refused:
        Journal(path)
    assert "line 1 " in str(refused.value) and "delete" not in str(refused.value)
    assert path.read_bytes() == before


def test_what_was_cut_off_is_saved_beside_the_journal(path: Path) -> None:
    whole = path.read_bytes()
    for torn in (b'{"key": "d", "te', b"\0\0\0"):
        path.write_bytes(whole + torn)
        assert Journal(path).torn and path.read_bytes() == whole
    assert path.with_suffix(".torn").read_bytes() == b'{"key": "d", "te\n\0\0\0\n'


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_a_link_to_somebodys_text_cuts_nothing_off_it(tmp_path: Path) -> None:
    """A text without a newline looks as torn as a record without one."""
    other = tmp_path / "token.txt"
    other.write_text("a text of one line", encoding="utf-8")
    link = tmp_path / "responses.jsonl"
    link.symlink_to(other)
    with pytest.raises(WorkshopError, match="line 1 is damaged"):
        Journal(link)
    assert other.read_text(encoding="utf-8") == "a text of one line"


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_what_cannot_be_saved_is_not_cut_off(path: Path, tmp_path: Path) -> None:
    """A link may lead to anybody's file."""
    (tmp_path / "other").write_bytes(b"other")
    path.with_suffix(".torn").symlink_to(tmp_path / "other")
    path.write_bytes(whole := path.read_bytes() + b"{")
    with pytest.raises(OSError):
        Journal(path)
    assert path.read_bytes() == whole and (tmp_path / "other").read_bytes() == b"other"


def odd_records() -> dict[str, bytes]:
    """Lines that are JSON, and no record."""
    whole = record("b")
    lines = {f"no {name}": {k: v for k, v in whole.items() if k != name} for name in whole}
    texts = ("key", "text", "finish_reason", "prompt", "created_at", "max_tokens")
    lines |= {f"{name} is a list": {**whole, name: ["x"]} for name in texts}
    lines |= {f"{name} is null": {**whole, name: None} for name in texts}
    whose = ("stage", "provider", "model")
    lines |= {f"{name} is a list": {**whole, name: ["x"]} for name in whose}
    lines |= {f"{name} is an object": {**whole, name: {"x": 1}} for name in whose}
    limits = {"below 0": -(10**9), "0": 0, "no number of tokens": 10**400}
    lines |= {f"max_tokens is {how}": {**whole, "max_tokens": n} for how, n in limits.items()}
    lines["fewer instructions"] = {**whole, "answers": {"x": "Yes"}, "instructions": []}
    lines["a number"] = {**whole, "answers": {"x": "Yes"}, "instructions": [1]}
    lines["a list without its stage"] = {**whole, "answers": {"x": "Yes"}, "instructions": ["y"]}
    found = {name: to_json(line).encode() for name, line in lines.items()}
    found["deep"] = b'{"key": "b", "text": ' + b"[" * 200_000 + b"]" * 200_000 + b"}\n"
    found["deep from the start"] = b"[" * 200_000 + b"\n"
    found["a number of 5,000 digits"] = b'{"key": "b", "text": ' + b"1" * 5000 + b"}\n"
    return found


@pytest.mark.parametrize("how", odd_records())
def test_a_record_that_is_not_whole_is_damaged(path: Path, how: str) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + odd_records()[how] + lines[2])
    with pytest.raises(WorkshopError, match="line 2 is damaged"):
        Journal(path)


@pytest.mark.parametrize("said", [-5, "7", None, [1], {"a": 1}, True, 0.5, 1e400, float("nan")])
def test_a_logged_count_of_tokens_that_is_none_is_not_known(path: Path, said: object) -> None:
    """An older program wrote down whatever the server said; its reply is still good."""
    Journal(path).append({**record("d"), "prompt_tokens": said, "reply_tokens": 12.0})
    found = Journal(path).get("d")
    assert (found["prompt_tokens"], found["reply_tokens"]) == (0, 12)


@pytest.mark.skipif(os.name == "nt", reason="an open file cannot be moved there")
@pytest.mark.parametrize("how", ["renamed", "removed", "another in its place"])
def test_a_folder_that_is_moved_during_the_run_ends_it(
    settings: Settings, tmp_path: Path, how: str
) -> None:
    """No folder is made anew: its journal would be empty, and all would be paid for again."""
    write, asked = scripted_model(), []
    folder, moved = tmp_path / "work", tmp_path / "moved"

    def answer(prompt: str, body: dict) -> str:
        asked.append(prompt)
        if len(asked) == 5:
            folder.rename(moved)
            if how == "removed":
                shutil.rmtree(moved)
            if how == "another in its place":
                folder.mkdir()
                (folder / "responses.jsonl").touch()
        return write(prompt, body)

    with Server(answer) as server:
        config = settings(
            provider="local", base_url=f"{server.url}/v1", num_instructions=8, concurrency=1
        )
        with pytest.raises(WorkshopError, match="moved or deleted while the run was on"):
            run(config)
        sent = len(asked)
        if how == "renamed":
            assert not folder.exists() and len(asked) == 5
            assert len(Journal(moved / "responses.jsonl").starts) == 5, "what came is kept there"
            moved.rename(folder)
            run(config)
            assert len(set(asked)) == len(asked) > sent, "nothing was asked twice"


HOLDER = f"""
import sys, time
sys.path.insert(0, {str(ROOT)!r})
from self_instruct_workshop import Config, Model
model = Model(Config(provider="practice", work_dir=sys.argv[1]))
print("locked", flush=True)
time.sleep(60)
"""


def test_a_second_process_is_refused_in_one_line_and_the_lock_dies_with_its_owner(
    settings: Settings,
) -> None:
    config = settings(provider="practice", num_instructions=3, until="generate")
    command = [sys.executable, "-c", HOLDER, config.work_dir]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout.readline() == "locked\n"
            with pytest.raises(WorkshopError, match="another run") as refused:
                run(config)
            assert (
                config.work_dir in str(refused.value) and len(str(refused.value).splitlines()) == 1
            )
            assert "--work-dir" in str(refused.value)
            assert [p.name for p in Path(config.work_dir).glob("*.json*")] == ["responses.jsonl"]
        finally:
            os.kill(holder.pid, getattr(signal, "SIGKILL", signal.SIGTERM))
            holder.wait()
    assert run(config)["status"] == "stopped after generate"


def test_two_runs_in_two_folders_do_not_disturb_each_other(
    settings: Settings, tmp_path: Path
) -> None:
    with (
        Model(settings(provider="practice")),
        Model(settings(provider="practice", work_dir=str(tmp_path / "b"))),
    ):
        pass


def test_a_folder_that_cannot_be_made_is_one_line(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WorkshopError, match="--work-dir"):
        Model(settings(provider="practice", work_dir=str(tmp_path / "file" / "work")))


# What is asked again, and what is not. A long story has 200 tokens, a short one has one.


class Asked:
    """Asks through the one door, each time with a new Model on the same folder, and counts what the
    server sees."""

    def __init__(self, settings: Settings, server: Server) -> None:
        self.settings, self.server = settings, server

    def __call__(
        self, prompt: str, temperature: float = 0.7, number: int = 0, **changes: object
    ) -> tuple[Reply, int]:
        before = len(self.server.requests)
        about = {
            "provider": "local",
            "base_url": self.server.url + "/v1",
            "model": "m",
            "max_tokens": 50,
        }
        with Model(self.settings(**about | {"temperature": temperature} | changes)) as model:
            reply = model.ask(
                "generate", prompt, parameters(model.config, "generate"), {"request_idx": number}
            )
        return reply, len(self.server.requests) - before


@pytest.fixture
def ask(settings: Settings) -> Iterator[Asked]:
    with Server(lambda prompt, body: "word" * (200 if LONG in prompt else 1)) as server:
        yield Asked(settings, server)


def test_a_journalled_question_is_not_asked_again_whatever_it_is_worded_like(ask: Asked) -> None:
    reply, sent = ask(SHORT)
    assert sent == 1 and reply.text == "word"
    again, sent = ask("other words")
    assert sent == 0 and again == reply and again.prompt == SHORT


@pytest.mark.parametrize(
    "change",
    [
        {"rouge_threshold": 0.2},
        {"concurrency": 64},
        {"max_attempts": 1},
        {"deadline": 7.0},
        {"request_timeout": 7.0},
        {"num_instructions": 3},
        {"max_tokens": 4000},
        {"max_tokens": 5},
        {"patience": 2},
        {"output_path": "x.csv"},
    ],
    ids=str,
)
def test_a_setting_that_changes_no_question_asks_nothing(ask: Asked, change: dict) -> None:
    ask(SHORT)
    assert ask(SHORT, **change)[1] == 0


@pytest.mark.parametrize("change", [{"temperature": 0.8}, {"model": "n"}, {"number": 1}], ids=str)
def test_another_temperature_model_or_question_is_asked_anew(ask: Asked, change: dict) -> None:
    ask(SHORT)
    assert ask(SHORT, **change)[1] == 1
    assert ask(SHORT, **change)[1] == 0
    assert ask(SHORT)[1] == 0, "the older reply is still there"


def test_another_provider_is_asked_anew(ask: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GROQ_API_KEY", "k")
    ask(SHORT)
    assert ask(SHORT, provider="groq")[1] == 1


def test_more_tokens_ask_again_what_was_cut_and_with_the_logged_prompt(ask: Asked) -> None:
    cut, _ = ask(LONG, number=1)
    ask(SHORT, number=2)
    assert cut.cut and len(cut.text) == 200
    assert ask(SHORT, number=2, max_tokens=300)[1] == 0
    whole, sent = ask("a prompt sampled from another pool", number=1, max_tokens=300)
    assert (sent, whole.cut, len(whole.text), whole.prompt) == (1, False, 800, LONG)
    assert ask.server.requests[-1]["prompt"] == LONG


def test_fewer_tokens_ask_nothing_and_return_the_longer_reply(ask: Asked) -> None:
    ask(LONG, max_tokens=100)
    reply, sent = ask(LONG, max_tokens=50)
    assert sent == 0 and len(reply.text) == 400


def test_a_reply_that_stays_cut_is_asked_again_only_for_a_still_larger_limit(ask: Asked) -> None:
    assert [ask(LONG, max_tokens=limit)[1] for limit in (50, 60, 60, 50, 70)] == [1, 1, 0, 0, 1]


def test_the_journal_says_how_each_reply_was_asked_for(ask: Asked, settings: Settings) -> None:
    reply, _ = ask(LONG)
    (line,) = (
        (Path(settings().work_dir) / "responses.jsonl").read_text(encoding="utf-8").splitlines()
    )
    row = json.loads(line)
    wanted = {
        "stage": "generate",
        "provider": "local",
        "model": "m",
        "temperature": 0.7,
        "finish_reason": "length",
    }
    assert wanted.items() <= row.items()
    assert row["prompt"] == LONG and row["text"] == reply.text and row["max_tokens"] == 50
    assert (
        row["parameters"] == {"max_tokens": 50, "temperature": 0.7}
        and row["base_url"] == ask.server.url + "/v1"
    )
    assert row["prompt_tokens"] == 3 and row["reply_tokens"] == 50


def test_a_whole_run_is_repeated_from_the_journal_alone(settings: Settings) -> None:
    with Server(scripted_model()) as server:
        config = settings(
            provider="local", base_url=server.url + "/v1", model="m", num_instructions=6
        )
        run(config)
        folder, asked = Path(config.work_dir), len(server.requests)
        first = {file.name: file.read_bytes() for file in folder.glob("*.jsonl")}
        for name in first:
            if name != "responses.jsonl":
                (folder / name).unlink()
        summary = run(config)
        assert len(server.requests) == asked
    assert {file.name: file.read_bytes() for file in folder.glob("*.jsonl")} == first
    assert summary["status"] == "complete"


@pytest.mark.parametrize(
    "change", [{"rouge_threshold": 0.69}, {"max_tokens": 600}, {"concurrency": 2}], ids=str
)
def test_a_whole_run_with_another_threshold_asks_nothing(settings: Settings, change: dict) -> None:
    with Server(scripted_model()) as server:
        about = {
            "provider": "local",
            "base_url": server.url + "/v1",
            "model": "m",
            "num_instructions": 6,
        }
        run(settings(**about))
        asked = len(server.requests)
        run(settings(**about | change))
        assert len(server.requests) == asked


def test_another_temperature_asks_stage_1_anew_and_not_stages_2_and_3(settings: Settings) -> None:
    write = scripted_model()
    with Server(write) as server:
        about = {
            "provider": "local",
            "base_url": server.url + "/v1",
            "model": "m",
            "num_instructions": 6,
        }
        run(settings(**about))
        asked = len(server.requests)
        run(settings(**about, temperature=0.9))
        new = server.requests[asked:]
    assert {request["body"]["temperature"] for request in new} == {0.9} and len(new) == 1
