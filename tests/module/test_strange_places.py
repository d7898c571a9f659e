"""Strange places: full disks, folders that vanish, other users' folders, odd journals: one line,
and nothing lost."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from helpers.killing import command, complete, read_journal, settle, stage_of
from helpers.runs import FLAGS, PATIENCE, ROOT, Gate, obey_permissions
from helpers.server import Server, scripted_model

from self_instruct_workshop import (
    DEFAULT_SEEDS,
    PROBES,
    STAGES,
    STEP_FILES,
    Config,
    Journal,
    WorkshopError,
    as_text,
    load_seed_tasks,
    probe_tasks,
    run,
)

pytestmark = pytest.mark.slow

posix = pytest.mark.skipif(sys.platform == "win32", reason="a matter of POSIX")


def refused(arguments: list[str], place: Path | str = "", **how: object) -> str:
    """Run what has to fail: with one line, which names the place, and exit code 1."""
    done = subprocess.run(arguments, capture_output=True, encoding="utf-8", timeout=60, **how)
    assert (
        done.returncode == 1 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    ), done.stderr
    assert str(place) in done.stderr
    return done.stderr


def goes_on(server: Server, folder: Path, whole: dict[str, bytes]) -> None:
    """Once put right, the same command asks for nothing that the journal holds, and comes to the
    same end."""
    held, mark = read_journal(folder)[1], len(server.requests)
    assert complete(server, folder, *FLAGS) == whole
    assert not held & {request["prompt"] for request in server.requests[mark:]}


def snapshot(folder: Path) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes()
        for path in folder.iterdir()
        if path.is_file() and path.name != ".lock"
    }


# Disks that are full.


@contextmanager
def full_disk(folder: Path, kilobytes: int) -> Iterator[Callable[[], None]]:
    """A disk of this size at `folder`; what it yields makes the disk larger."""
    folder.mkdir()
    made = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    if sys.platform != "linux" or subprocess.run(made, capture_output=True).returncode:
        pytest.skip("only who may mount a disk can fill one")
    try:
        yield lambda: subprocess.run(
            ["mount", "-o", "remount,size=9m", str(folder)], check=True, capture_output=True
        )
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize(
    ("kilobytes", "last", "files"),
    [(8, "generate", 0), (40, "generate", 0), (200, "classify", 1), (270, "instances", 2)],
    ids=["stage 1", "step file", "stage 2", "stage 3"],
)
def test_a_full_disk_is_one_line_costs_what_was_in_flight_and_with_room_the_run_goes_on(
    kilobytes: int, last: str, files: int, tmp_path: Path, whole: dict
) -> None:
    folder = tmp_path / "disk"
    with full_disk(folder, kilobytes) as enlarge, Server(scripted_model()) as server:
        assert os.strerror(errno.ENOSPC) in refused(command(server, folder, *FLAGS))
        settle(server)
        delivered = {request["prompt"] for request in server.requests if request["delivered"]}
        before = (folder / "responses.jsonl").read_bytes()
        records = [json.loads(line) for line in before.split(b"\n")[:-1]]
        kept = {as_text(record["prompt"]) for record in records}
        # The disk was full where the name of this test says, or a request was ahead of its stage.
        assert STAGES.index(records[-1]["stage"]) >= STAGES.index(last)
        assert len([name for name in STEP_FILES if (folder / name).exists()]) <= files
        enlarge()
        goes_on(server, folder, whole)
        assert (
            (folder / "responses.jsonl").read_bytes().startswith(before[: before.rfind(b"\n") + 1])
        )
    assert len(delivered - kept) <= 4


@posix
@pytest.mark.parametrize("size", [2_000, 30_000], ids=["journal", "step file"])
def test_a_file_that_may_not_grow_is_one_line_that_names_the_place_and_the_run_goes_on(
    size: int, tmp_path: Path, whole: dict
) -> None:
    import resource

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    folder = tmp_path / "work"
    with Server(scripted_model()) as server:
        assert os.strerror(errno.EFBIG) in refused(
            command(server, folder, *FLAGS), folder, preexec_fn=limit
        )
        goes_on(server, folder, whole)


def test_once_a_reply_cannot_be_written_down_no_more_are_asked_for(
    settings: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the first reply of the stage, which is waited for first, is slow to come."""
    append, seen = Journal.append, []
    first = probe_tasks(Config(), load_seed_tasks(DEFAULT_SEEDS["en"]))[0].instruction

    def full(journal: Journal, record: dict) -> None:
        if record["stage"] == "classify":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        append(journal, record)

    def answer(prompt: str, body: dict) -> str:
        if stage_of(prompt) == "classify":
            seen.append(prompt.split("\n")[-2])
            time.sleep(1.0 if seen[-1] == first else 0.01)
        return scripted_model()(prompt, body)

    monkeypatch.setattr(Journal, "append", full)
    with Server(answer) as server:
        url = f"{server.url}/v1"
        config = settings(
            provider="local", base_url=url, model="m", num_instructions=32, concurrency=2
        )
        with pytest.raises((OSError, WorkshopError), match="space"):
            run(config, say=lambda text: None)
    assert first in seen and len(seen) <= 4


# Folders.


@posix
@pytest.mark.parametrize("stage", ["generate", "instances"])
def test_a_folder_deleted_in_the_midst_of_a_run_ends_it_with_one_line(
    stage: str, tmp_path: Path, whole: dict
) -> None:
    folder, seen = tmp_path / "work", []

    def answer(prompt: str, body: dict) -> str:
        if stage_of(prompt) == stage:
            seen.append(prompt)
            shutil.rmtree(folder) if len(seen) == 2 else None
        return scripted_model()(prompt, body)

    with Server(answer) as server:
        refused(command(server, folder, *FLAGS), folder)
        seen += [""] * 2
        assert complete(server, folder, *FLAGS) == whole


def test_a_second_run_disturbs_nothing_asks_nothing_and_takes_over_when_the_first_is_killed(
    tmp_path: Path, whole: dict
) -> None:
    folder, gate = tmp_path / "work", Gate("classify", 10)
    with Server(gate) as server:
        arguments = command(server, folder, *FLAGS)
        running = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            assert gate.reached.wait(PATIENCE)
            time.sleep(0.3)  # until all four wait at the gate
            before, asked = snapshot(folder), len(server.requests)
            assert "another run" in refused(arguments, folder)
            assert (snapshot(folder), len(server.requests), running.poll()) == (before, asked, None)
        finally:
            running.kill()
            running.wait()
        gate.opened.set()
        settle(server)
        goes_on(server, folder, whole)


AS_NOBODY = f"""
import os, sys
sys.path.insert(0, {str(ROOT)!r})
# nobody may not read a superuser's Python
import dotenv, email.parser, encodings.utf_8_sig, filelock, self_instruct
os.setgroups([]), os.setgid(65534), os.setuid(65534)
self_instruct.workshop.leave(self_instruct.main(sys.argv[1:]))
"""


@posix
def test_the_folder_of_another_user_is_one_line_and_nothing_is_asked() -> None:
    if not hasattr(os, "geteuid") or os.geteuid():
        pytest.skip("only the superuser can become another user")
    if not all(place.stat().st_mode & 0o001 for place in ROOT.parents):
        pytest.skip("another user could not even read the program here")
    with tempfile.TemporaryDirectory() as top, Server(scripted_model()) as server:
        os.chmod(top, 0o755)
        folder = Path(top) / "work"
        complete(server, folder, "--num-instructions", "2")
        before, asked = snapshot(folder), len(server.requests)
        arguments = [sys.executable, "-c", AS_NOBODY, *command(server, folder, *FLAGS)[2:]]
        assert "--work-dir" in refused(arguments, folder, cwd=top)
        assert (snapshot(folder), len(server.requests)) == (before, asked)


@posix
def test_a_journal_that_is_read_only_is_one_line_and_nothing_is_asked(tmp_path: Path) -> None:
    folder = tmp_path / "work"
    with Server(scripted_model()) as server:
        complete(server, folder, "--num-instructions", "2")
        (folder / "responses.jsonl").chmod(0o444)
        probe = [sys.executable, "-c", f"open({str(folder / 'responses.jsonl')!r}, 'ab')"]
        if not subprocess.run(probe, capture_output=True, preexec_fn=obey_permissions).returncode:
            pytest.skip("this user may write everywhere")
        before, asked = snapshot(folder), len(server.requests)
        refused(command(server, folder, *FLAGS), folder, preexec_fn=obey_permissions)
        assert (snapshot(folder), len(server.requests)) == (before, asked)


@pytest.mark.parametrize("name", ["responses.jsonl", "step2_is_classification.jsonl"])
def test_a_file_of_the_run_that_is_a_folder_is_one_line_and_is_left_alone(
    name: str, tmp_path: Path, whole: dict
) -> None:
    folder = tmp_path / "work"
    (folder / name / "mine").mkdir(parents=True)
    with Server(scripted_model()) as server:
        refused(command(server, folder, *FLAGS), folder)
        assert not server.requests
        (folder / name / "mine").rmdir()
        (folder / name).rmdir()
        goes_on(server, folder, whole)


def test_a_run_whose_every_path_has_spaces_and_chinese_characters_works(tmp_path: Path) -> None:
    here = tmp_path / "我的 数据"
    here.mkdir()
    (here / "种子 1.txt").write_text(
        "Name a river of Asia.\n写一首关于秋天的短诗。\n", encoding="utf-8"
    )
    flags = [
        "--seed-file",
        "种子 1.txt",
        "--work-dir",
        "工作 目录/1",
        "--output-path",
        "结果 集.jsonl",
    ]
    with Server(scripted_model()) as server:
        arguments = command(server, here, *flags, "--num-instructions", "4")
        done = subprocess.run(
            arguments, capture_output=True, encoding="utf-8", timeout=60, cwd=here
        )
    assert (done.returncode, done.stderr) == (0, "")
    assert (
        (here / "结果 集.jsonl").read_bytes()
        == (here / "工作 目录/1/step4_final.jsonl").read_bytes()
        != b""
    )


def test_an_output_path_that_cannot_be_written_is_one_line_and_another_one_asks_nothing(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").touch()
    with Server(scripted_model()) as server:
        flags = ("--num-instructions", "4", "--output-path")
        refused(
            command(server, tmp_path / "work", *flags, str(tmp_path / "file" / "out.jsonl")),
            tmp_path / "file",
        )
        asked = len(server.requests)
        complete(server, tmp_path / "work", *flags, str(tmp_path / "out.jsonl"))
        assert len(server.requests) == asked and (tmp_path / "out.jsonl").read_bytes()


# Odd journals.


def other_shape(record: dict) -> dict:
    return {"version": 2, "key": record["key"], "reply": {"text": record["text"]}}


@pytest.fixture
def done(tmp_path: Path) -> Iterator[tuple[Server, list[str], Path]]:
    """A complete run, each of whose 25 requests asks one thing: its server, command and journal."""
    flags = ("--num-instructions", "4", "--classify-together", "1")
    with Server(scripted_model()) as server:
        complete(server, tmp_path / "work", *flags)
        assert len(server.requests) == 1 + PROBES + 4 + 4
        yield server, command(server, tmp_path / "work", *flags), tmp_path / "work/responses.jsonl"


@pytest.mark.parametrize(
    "newer", [lambda record: record | {"version": 2}, other_shape], ids=["alike", "other shape"]
)
def test_a_journal_of_another_version_is_one_line_that_says_so_and_is_left_alone(
    newer: Callable[[dict], dict], done: tuple[Server, list[str], Path]
) -> None:
    server, arguments, path = done
    records = [newer(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    before, asked = path.read_bytes(), len(server.requests)
    assert "version" in refused(arguments, path)
    assert path.read_bytes() == before and len(server.requests) == asked


@pytest.mark.parametrize("place", [6, 22], ids=["of a seed task", "of stage 3"])
def test_a_line_that_holds_no_reply_is_named_by_its_number_and_deleting_it_costs_one_request(
    place: int, done: tuple[Server, list[str], Path]
) -> None:
    server, arguments, path = done
    lines, asked = path.read_bytes().splitlines(keepends=True), len(server.requests)
    record = {name: value for name, value in json.loads(lines[place]).items() if name != "text"}
    damaged = json.dumps(record).encode() + b"\n"
    path.write_bytes(b"".join([*lines[:place], damaged, *lines[place + 1 :]]))
    said = refused(arguments, path)
    assert f"line {place + 1} " in said and "delete that line" in said
    assert len(server.requests) == asked
    path.write_bytes(b"".join(lines[:place] + lines[place + 1 :]))
    assert subprocess.run(arguments, capture_output=True, timeout=60).returncode == 0
    assert len(server.requests) == asked + 1
