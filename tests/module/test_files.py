"""Files of the user are never destroyed: those in the folder, and what --output-path names."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.runs import FIELDS, ROOT, local, quiet, rows, stage_of, summary_of
from helpers.server import Server, scripted_model

import self_instruct_workshop as workshop
from self_instruct_workshop import (
    STEP_FILES,
    Config,
    UsageError,
    WorkshopError,
    load_seed_tasks,
    main,
    run,
)

Settings = Callable[..., Config]
NOBODY = {"provider": "local", "model": "m", "base_url": "http://127.0.0.1:9/v1"}


@pytest.fixture
def finished(settings: Settings) -> Callable[..., Path]:
    """The folder of a finished practice run."""

    def make(**changes: object) -> Path:
        config = settings(provider="practice", **{"num_instructions": 12, **changes})
        quiet(config)
        return Path(config.work_dir)

    return make


def contents(folder: Path) -> dict[str, bytes]:
    """All files directly in a folder, but for the lock."""
    files = [path for path in folder.iterdir() if path.is_file() and path.name != ".lock"]
    return {path.name: path.read_bytes() for path in files}


def kept(folder: Path) -> list[Path]:
    """The folders with the files of earlier runs."""
    return sorted((folder / "earlier").iterdir()) if (folder / "earlier").exists() else []


# --------------------------------------------------------------------------------------------------
# What stands in the folder.


def test_a_run_that_gets_no_answer_leaves_every_file_as_it_is(
    finished: Callable, settings: Settings
) -> None:
    folder = finished()
    before = contents(folder)
    with pytest.raises(WorkshopError, match="no answer"):
        quiet(settings(**NOBODY, max_attempts=1))
    assert contents(folder) == before and not kept(folder)


@pytest.mark.parametrize(
    "other",
    [{"num_instructions": 4}, {"language": "zh"}, {"seed": 7}, {"until": "generate"},
     {"until": "instances"}, {"num_instructions": 4, "until": "classify"}],
    ids=str,
)  # fmt: skip
def test_files_that_a_run_would_replace_are_kept_in_a_dated_folder_that_the_last_line_names(
    finished: Callable, settings: Settings, other: dict
) -> None:
    folder = finished()
    before = contents(folder)
    said: list[str] = []
    run(settings(**{"provider": "practice", "num_instructions": 12, **other}), say=said.append)
    [place] = kept(folder)
    assert str(place) in said[-1].splitlines()[-1]
    assert "practice" in said[-1].splitlines()[-1]
    # Each row of the dataset is still somewhere, byte by byte.
    assert contents(place)["step4_final.jsonl"] == before["step4_final.jsonl"]
    assert contents(place)["run.json"] == before["run.json"]
    for name, data in contents(place).items():
        assert data == before[name]
    assert summary_of(folder)["kept_in"] == f"earlier/{place.name}"


@pytest.mark.parametrize(
    "damage", [b"not JSON\n", b"{}\n", b"5\n", b"\xff\n", b'{"instruction": []}\n']
)
def test_a_step_file_that_somebody_changes_in_the_midst_of_a_run_holds_nothing_of_an_earlier_one(
    damage: bytes, finished: Callable, settings: Settings
) -> None:
    folder = finished()
    before = contents(folder)

    def say(text: str) -> None:
        if text.startswith("\n3 instances"):
            (folder / STEP_FILES[0]).write_bytes(damage)

    summary = run(settings(provider="practice", num_instructions=16, seed=7), say=say)
    [place] = kept(folder)
    assert summary["status"] == "complete" and (folder / "rejected.jsonl").exists()
    assert contents(place)[STEP_FILES[0]] == before[STEP_FILES[0]]


def test_another_models_files_are_kept_though_the_rows_are_the_same(settings: Settings) -> None:
    with Server(scripted_model(), models=["a", "b"]) as server:
        quiet(settings(**local(server, num_instructions=8, model="a")))
        folder = Path(settings().work_dir)
        before = contents(folder)
        quiet(settings(**local(server, num_instructions=8, model="b")))
    [place] = kept(folder)
    assert contents(place)["step4_final.jsonl"] == before["step4_final.jsonl"]
    assert json.loads(contents(place)["run.json"])["settings"]["model"] == "a"
    assert summary_of(folder)["settings"]["model"] == "b"


def test_the_same_command_and_a_larger_count_keep_nothing_aside(
    finished: Callable, settings: Settings
) -> None:
    folder = finished()
    before = contents(folder)
    said: list[str] = []
    run(settings(provider="practice", num_instructions=12), say=said.append)
    after = contents(folder)
    assert {name: after[name] for name in FIELDS} == {name: before[name] for name in FIELDS}
    run(settings(provider="practice", num_instructions=20), say=said.append)
    assert not kept(folder) and not (folder / "earlier").exists()
    assert "replaces" not in "\n".join(said)
    old = [json.loads(line) for line in before["step4_final.jsonl"].splitlines()]
    assert all(row in rows(folder, "step4_final.jsonl") for row in old)


def test_a_larger_run_that_breaks_off_in_stage_3_has_lost_no_row(settings: Settings) -> None:
    broken = False

    def faults(index: int, prompt: str) -> str:
        return "401" if broken and stage_of(prompt) == "instances" else ""

    with Server(scripted_model(), faults=faults) as server:
        quiet(settings(**local(server, num_instructions=8)))
        folder = Path(settings().work_dir)
        before = contents(folder)["step4_final.jsonl"]
        broken = True
        with pytest.raises(WorkshopError, match="401"):
            quiet(settings(**local(server, num_instructions=20)))
    found = [path.read_bytes() for path in folder.rglob("step4_final.jsonl")]
    assert found == [before]
    assert len(rows(folder, STEP_FILES[0])) == 20
    assert summary_of(folder)["status"] == "interrupted"


def test_a_stage_that_breaks_off_leaves_a_file_with_more_rows(settings: Settings) -> None:
    def model(prompt: str, body: dict) -> str:
        return scripted_model(int(body["temperature"]))(prompt, body)

    answers = iter([])

    def faults(index: int, prompt: str) -> str:
        return next(answers, "")

    with Server(model, faults=faults) as server:
        quiet(settings(**local(server, num_instructions=4, concurrency=1)))
        folder = Path(settings().work_dir)
        before = contents(folder)
        # At another temperature all is asked anew, and the key dies in the midst of stage 1.
        config = settings(**local(server, num_instructions=100, temperature=1.5, concurrency=1))
        answers = iter(["", "", "", "401"])
        with pytest.raises(WorkshopError, match="401"):
            quiet(config)
    assert contents(folder).pop("responses.jsonl") > before.pop("responses.jsonl")
    assert {name: contents(folder)[name] for name in before} == before and not kept(folder)


def test_a_damaged_step_file_is_kept_and_not_read(finished: Callable, settings: Settings) -> None:
    folder = finished()
    (folder / STEP_FILES[3]).write_bytes(b"my own notes\n\xff\n[1]\n")
    quiet(settings(provider="practice", num_instructions=12))
    [place] = kept(folder)
    assert (place / STEP_FILES[3]).read_bytes() == b"my own notes\n\xff\n[1]\n"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"settings": 7}', '{"outputs": [1]}', "\0"])
def test_a_run_json_that_says_nothing_is_no_hindrance(
    finished: Callable, settings: Settings, text: str
) -> None:
    folder = finished()
    (folder / "run.json").write_text(text, encoding="utf-8")
    target = folder.parent / "out.jsonl"
    quiet(settings(provider="practice", num_instructions=12, output_path=str(target)))
    assert target.exists() and summary_of(folder)["status"] == "complete"


# --------------------------------------------------------------------------------------------------
# Going on past what fails for good.


@pytest.mark.parametrize("concurrency", [1, 8])
@pytest.mark.parametrize(
    ("fault", "share"), [("null-content", 1), ("500", 5), ("500", 15), ("reset", 3)], ids=str
)
def test_tasks_that_always_fail_are_undone_each_time_and_the_dataset_is_there_each_time(
    settings: Settings, tmp_path: Path, fault: str, share: int, concurrency: int
) -> None:
    """20 tasks; `share` of them never get an answer in stage 3, the first of them among them."""
    seen: list[str] = []
    failing = [*range(0, 20, 1 if share > 10 else 4)][:share] if share > 1 else [0]
    failing = [place + place // 7 for place in failing]  # never ten of them in a row

    def faults(index: int, prompt: str) -> str:
        if stage_of(prompt) != "instances":
            return ""
        if prompt not in seen:
            seen.append(prompt)
        return fault if seen.index(prompt) in failing else ""

    with Server(scripted_model(), faults=faults) as server:
        config = settings(
            **local(server, num_instructions=20, max_attempts=2, concurrency=concurrency)
        )
        for _ in range(2):
            assert main(config) == 3
            folder = Path(config.work_dir)
            summary = summary_of(folder)
            assert summary["status"] == "complete"
            assert summary["counts"]["instances"]["undone"] == share
            assert len(rows(folder, "step4_final.jsonl")) == 20 - share
        again = settings(
            provider="replay",
            responses=str(folder / "responses.jsonl"),
            work_dir=str(tmp_path / "replay"),
            num_instructions=20,
        )
        assert main(again) == 3
    ours = contents(tmp_path / "replay")
    assert {name: ours[name] for name in FIELDS} == {
        name: contents(folder)[name] for name in FIELDS
    }
    assert not kept(folder)


def test_a_null_answer_with_usage_is_paid_for_twice_and_then_never_again(
    settings: Settings,
) -> None:
    def faults(index: int, prompt: str) -> str:
        return "null-content" if stage_of(prompt) == "instances" else ""

    with Server(scripted_model(), faults=faults) as server:
        config = settings(**local(server, num_instructions=3))
        assert main(config) == 3
        asked = [stage_of(r["prompt"]) for r in server.requests if r["method"] == "POST"]
        assert asked.count("instances") == 6, "each was asked once, and once more"
        assert main(config) == 3
        again = [r for r in server.requests if r["method"] == "POST"]
        assert len(again) == len(asked)
    journal = rows(Path(config.work_dir), "responses.jsonl")
    assert [r["finish_reason"] for r in journal if r["stage"] == "instances"] == ["no_content"] * 6
    assert all(r["prompt_tokens"] for r in journal)


def test_a_server_that_goes_away_is_not_waited_for_by_each_of_the_tasks(
    settings: Settings,
) -> None:
    """Stage 3 has answers, then there is no server: what is left is undone, stage 4 is made."""
    limits = iter(range(10**6))

    def faults(index: int, prompt: str) -> str:
        return "reset" if stage_of(prompt) == "instances" and next(limits) > 4 else ""

    with Server(scripted_model(), faults=faults) as server:
        config = settings(
            **local(server, num_instructions=40, max_attempts=3, patience=3, concurrency=1)
        )
        assert main(config) == 3
        asked = [stage_of(r["prompt"]) for r in server.requests if r["method"] == "POST"]
    assert asked.count("instances") == 5 + 3 * 3, "after three failures in a row nothing is sent"
    assert len(rows(Path(config.work_dir), "step4_final.jsonl")) == 5


def test_a_replay_of_a_run_whose_last_task_got_no_class_gives_its_files(
    settings: Settings, tmp_path: Path
) -> None:
    people = {task.instruction: task for task in load_seed_tasks(workshop.DEFAULT_SEEDS["en"])}
    last = "no task yet"

    def model(prompt: str, body: dict) -> str:
        """A model that agrees with people about seed tasks, or stage 2 would not ask it."""
        instruction, *question = prompt.split("\n")[-2:]
        if question == [workshop.CLASSIFY_PROMPT["question"]]:
            seed = people.get(instruction)
            return "Options: yes, no" if seed and seed.is_classification else "Options: none"
        return scripted_model()(prompt, body)

    def faults(index: int, prompt: str) -> str:
        return "500" if prompt.split("\n")[-2] == last else ""

    with Server(model, faults=faults) as server:
        quiet(settings(**local(server, num_instructions=9, until="generate")))
        folder = Path(settings().work_dir)
        last = rows(folder, STEP_FILES[0])[-1]["instruction"]
        config = settings(**local(server, num_instructions=9, max_attempts=1))
        assert main(config) == 3
    where = {"responses": str(folder / "responses.jsonl"), "work_dir": str(tmp_path / "again")}
    assert main(settings(provider="replay", num_instructions=9, **where)) == 3
    ours = contents(tmp_path / "again")
    assert all(ours[name] == contents(folder)[name] for name in FIELDS)


# --------------------------------------------------------------------------------------------------
# The seed file.


@pytest.mark.parametrize("name", [*STEP_FILES, "rejected.jsonl"])
@pytest.mark.parametrize("how", ["itself", "link", "hard link"])
def test_a_seed_file_that_the_run_would_write_is_refused_and_left_alone(
    finished: Callable, settings: Settings, tmp_path: Path, name: str, how: str
) -> None:
    folder = finished()
    before = contents(folder)
    seeds = folder / name
    if how != "itself":
        seeds = tmp_path / "seeds.jsonl"
        seeds.symlink_to(folder / name) if how == "link" else seeds.hardlink_to(folder / name)
    with pytest.raises(UsageError, match="--seed-file"):
        quiet(settings(provider="practice", seed_file=str(seeds)))
    assert contents(folder) == before


def test_a_seed_file_of_ones_own_may_lie_in_the_folder(settings: Settings) -> None:
    seeds = Path(settings().work_dir) / "seeds.txt"
    seeds.parent.mkdir()
    seeds.write_text("Name a river.\nCount the words in the line.\n", encoding="utf-8")
    quiet(settings(provider="practice", num_instructions=5, seed_file=str(seeds)))
    quiet(settings(provider="practice", num_instructions=3, seed_file=str(seeds)))
    assert len(load_seed_tasks(seeds)) == 2


@pytest.mark.parametrize("name", ["run.json", "rejected.jsonl"])
@pytest.mark.parametrize("text", ['{"mine": 1}\n', "my notes"])
def test_files_of_the_user_with_the_names_of_ours_are_moved_aside(
    settings: Settings, capsys: pytest.CaptureFixture, name: str, text: str
) -> None:
    folder = Path(settings().work_dir)
    folder.mkdir()
    (folder / name).write_text(text, encoding="utf-8")
    quiet(settings(provider="practice", num_instructions=5))
    (place,) = kept(folder)
    assert (place / name).read_text(encoding="utf-8") == text
    assert f"no run wrote {name}: moved to {place}" in capsys.readouterr().err
    quiet(settings(provider="practice", num_instructions=5))
    assert kept(folder) == [place]


# --------------------------------------------------------------------------------------------------
# --output-path: what it may not replace.


def refused(config: Config, words: str) -> None:
    """The run is refused in one line, whatever --overwrite says."""
    for overwrite in (False, True):
        config.overwrite = overwrite
        with pytest.raises(UsageError, match=words) as error:
            quiet(config)
        assert len(str(error.value).splitlines()) == 1


def test_the_ledger_of_the_run_is_refused_before_it_is_there(settings: Settings) -> None:
    ledger = Path(settings().work_dir) / "spending.jsonl"
    refused(settings(provider="practice", output_path=str(ledger)), "that the run needs")


@pytest.mark.parametrize("name", ["responses.jsonl", *STEP_FILES, "rejected.jsonl", "run.json"])
@pytest.mark.parametrize("how", ["itself", "other case", "dots", "link", "hard link"])
def test_an_output_path_that_is_a_file_of_the_run_is_refused_by_what_it_is(
    finished: Callable, settings: Settings, tmp_path: Path, name: str, how: str
) -> None:
    folder = finished(num_instructions=3)
    before = contents(folder)
    path = {
        "itself": folder / name,
        "other case": folder / name.upper(),
        "dots": folder / ".." / folder.name / name,
    }.get(how, tmp_path / f"out{Path(name).suffix}")
    if how == "link":
        path.symlink_to(folder / name)
    if how == "hard link":
        path.hardlink_to(folder / name)
    refused(settings(provider="practice", output_path=str(path)), "that the run needs")
    assert contents(folder) == before


def test_a_journal_that_is_not_there_yet_is_refused_too(settings: Settings, tmp_path: Path) -> None:
    folder = Path(settings().work_dir)
    link = tmp_path / "out.jsonl"
    link.symlink_to(folder / "responses.jsonl")
    for path in (folder / "responses.jsonl", link):
        refused(settings(provider="practice", output_path=str(path)), "that the run needs")
    assert not folder.exists()


def test_the_seed_file_and_the_journal_that_is_replayed_are_refused(
    finished: Callable, settings: Settings, tmp_path: Path
) -> None:
    seeds = tmp_path / "seeds.jsonl"
    seeds.write_text('{"instruction": "Name a river of Asia."}\n', encoding="utf-8")
    link = tmp_path / "link.jsonl"
    link.symlink_to(seeds)
    config = settings(provider="practice", seed_file=str(seeds), output_path=str(link))
    refused(config, "that the run needs")
    default = str(workshop.DEFAULT_SEEDS["en"])
    refused(settings(provider="practice", output_path=default), "that the run needs")
    journal = finished(num_instructions=2).rename(tmp_path / "theirs") / "responses.jsonl"
    replay = {"provider": "replay", "responses": str(journal), "output_path": str(journal)}
    refused(settings(**replay), "that the run needs")
    assert seeds.read_text(encoding="utf-8") and journal.stat().st_size


def test_a_file_that_no_run_wrote_is_replaced_only_with_overwrite(
    settings: Settings, tmp_path: Path
) -> None:
    target = tmp_path / "out.jsonl"
    target.write_text("mine", encoding="utf-8")
    flags = {"provider": "practice", "num_instructions": 5, "output_path": str(target)}
    with pytest.raises(UsageError, match="--overwrite"):
        quiet(settings(**flags))
    assert target.read_text(encoding="utf-8") == "mine" and not Path(settings().work_dir).exists()
    quiet(settings(**flags, overwrite=True))
    assert target.read_bytes() == contents(Path(settings().work_dir))["step4_final.jsonl"]


def test_an_earlier_output_is_replaced_and_one_that_somebody_changed_is_not(
    settings: Settings, tmp_path: Path
) -> None:
    target = tmp_path / "out.json"
    flags = {"provider": "practice", "output_path": str(target)}
    quiet(settings(**flags, num_instructions=5))
    quiet(settings(provider="practice", num_instructions=6))  # remembers what was written
    quiet(settings(**flags, num_instructions=9))
    ours = target.read_bytes()
    assert json.loads(ours) == rows(Path(settings().work_dir), "step4_final.jsonl")
    target.write_bytes(ours + b"\n")
    with pytest.raises(UsageError, match="--overwrite"):
        quiet(settings(**flags, num_instructions=9))


def test_a_file_that_comes_to_stand_there_during_the_run_is_not_replaced(
    settings: Settings, tmp_path: Path
) -> None:
    target = tmp_path / "out.jsonl"

    def model(prompt: str, body: dict) -> str:
        target.write_text("mine", encoding="utf-8")
        return scripted_model()(prompt, body)

    with Server(model) as server, pytest.raises(UsageError, match="--overwrite"):
        quiet(settings(**local(server, num_instructions=3, output_path=str(target))))
    assert target.read_text(encoding="utf-8") == "mine"
    assert rows(Path(settings().work_dir), "step4_final.jsonl")


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_a_link_and_its_target_is_written(
    settings: Settings, tmp_path: Path, there: bool
) -> None:
    target = tmp_path / "far" / "data.jsonl"
    target.parent.mkdir()
    if there:
        target.write_text("old", encoding="utf-8")
    link = tmp_path / "out.jsonl"
    link.symlink_to(target)
    flags = {"provider": "practice", "num_instructions": 4, "output_path": str(link)}
    quiet(settings(**flags, overwrite=there))
    assert link.is_symlink()
    assert target.read_bytes() == contents(Path(settings().work_dir))["step4_final.jsonl"]
    assert [path.name for path in target.parent.iterdir()] == ["data.jsonl"]
    quiet(settings(**flags))


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_links_that_lead_to_each_other_are_left_alone(settings: Settings, tmp_path: Path) -> None:
    for one, other in (("a.jsonl", "b.jsonl"), ("b.jsonl", "a.jsonl")):
        (tmp_path / one).symlink_to(tmp_path / other)
    config = settings(provider="practice", output_path=str(tmp_path / "a.jsonl"))
    refused(config, "leads to none")
    assert (tmp_path / "a.jsonl").is_symlink()


@pytest.mark.parametrize("path", ["a\0b.jsonl", "."])
def test_what_is_no_file_is_refused(settings: Settings, path: str) -> None:
    with pytest.raises(UsageError, match="must be a file"):
        quiet(settings(provider="practice", output_path=path))


@pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="a matter of Linux")
def test_a_file_in_dev_shm_is_a_file_and_no_device(settings: Settings) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as place:
        target = Path(place) / "out.json"
        for n in (4, 5):
            quiet(settings(provider="practice", num_instructions=n, output_path=str(target)))
        assert json.loads(target.read_bytes()) == rows(
            Path(settings().work_dir), "step4_final.jsonl"
        )


@pytest.mark.skipif(os.name == "nt", reason="no named pipes there")
def test_a_pipe_is_written_to_and_stays_a_pipe(settings: Settings, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    quiet(settings(provider="practice", num_instructions=4, output_path=str(pipe)))
    reader.join(60)
    assert read == [contents(Path(settings().work_dir))["step4_final.jsonl"]]
    assert pipe.is_fifo()


@pytest.mark.skipif(os.name == "nt", reason="no such devices there")
def test_devices_are_written_to(settings: Settings, tmp_path: Path) -> None:
    assert workshop.is_stream("/dev/null")
    flags = ["--provider", "practice", "--num-instructions", "4", "--work-dir"]
    command = [sys.executable, str(ROOT / "self_instruct.py"), *flags, str(tmp_path / "work")]
    with open(tmp_path / "said.txt", "wb") as said:
        subprocess.run([*command, "--output-path", "/dev/stdout"], stdout=said, check=True)
    text = (tmp_path / "said.txt").read_bytes()
    assert contents(tmp_path / "work")["step4_final.jsonl"] in text
    assert text.startswith(b"Self-Instruct")
    quiet(settings(provider="practice", num_instructions=4, output_path=os.devnull))
    assert not Path(os.devnull).is_file()


# --------------------------------------------------------------------------------------------------
# --output-path: formats, and the last lines.


@pytest.mark.parametrize("name", ["out", "out.txt", "out.jsonl.gz", "out.", ".jsonl", "数据"])
def test_other_endings_are_refused_before_anything_is_asked(
    settings: Settings, tmp_path: Path, name: str
) -> None:
    with pytest.raises(UsageError, match=r"\.jsonl, \.json, \.csv, \.parquet"):
        quiet(settings(provider="practice", output_path=str(tmp_path / name)))
    assert not Path(settings().work_dir).exists()


@pytest.mark.parametrize("ending", [".jsonl", ".json", ".csv", ".JSONL", ".Csv"])
def test_the_ending_decides_the_format_and_the_end_names_the_file_with_its_rows(
    settings: Settings, tmp_path: Path, ending: str
) -> None:
    target = tmp_path / f"out{ending}"
    said: list[str] = []
    config = settings(
        provider="practice", language="zh", num_instructions=12, output_path=str(target)
    )
    run(config, say=said.append)
    wanted = rows(Path(config.work_dir), "step4_final.jsonl")
    text = target.read_bytes().decode()
    kind = ending.lower()
    if kind == ".csv":
        assert list(csv.DictReader(io.StringIO(text, newline=""))) == wanted
    else:
        found = json.loads(text) if kind == ".json" else map(json.loads, text.splitlines())
        assert list(found) == wanted
    assert f"数据集：{target}，共 {len(wanted)} 行" in said[-1].splitlines()


def test_parquet_is_written_where_its_package_is(settings: Settings, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    target = tmp_path / "out.parquet"
    quiet(settings(provider="practice", num_instructions=12, output_path=str(target)))
    wanted = rows(Path(settings().work_dir), "step4_final.jsonl")
    assert parquet.read_table(target).to_pylist() == wanted
    quiet(settings(provider="practice", num_instructions=14, output_path=str(target)))


def test_parquet_without_its_package_is_refused_in_one_line(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    target = tmp_path / "out.parquet"
    with pytest.raises(UsageError, match="pip install pyarrow"):
        quiet(settings(provider="practice", output_path=str(target)))


@pytest.mark.parametrize("ending", [".jsonl", ".json", ".csv"])
def test_texts_of_any_kind_come_through_every_format(ending: str) -> None:
    texts = ['a "quoted" one', "two\nlines\r\nand\ra third", ", ; \t", "", "\u2028\x85", "=1+1"]
    wanted = [{"instruction": text, "input": text, "output": text} for text in texts]
    text = workshop.rendered(wanted, f"x{ending}").decode()
    if ending == ".csv":
        assert list(csv.DictReader(io.StringIO(text, newline=""))) == wanted
    else:
        lines = text.split("\n")[:-1]
        assert (json.loads(text) if ending == ".json" else [*map(json.loads, lines)]) == wanted
    alone = [{"instruction": "\ud800", "input": "", "output": ""}]
    assert b"?" in workshop.rendered(alone, f"x{ending}")
    assert workshop.rendered([], f"x{ending}") is not None


def test_the_command_line_refuses_with_exit_2_and_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text("mine", encoding="utf-8")
    flags = ["--provider", "practice", "--work-dir", str(tmp_path / "work")]
    for path in (tmp_path / "mine.jsonl", tmp_path / "work" / "responses.jsonl"):
        command = [sys.executable, str(ROOT / "self_instruct.py"), *flags, "--output-path", path]
        done = subprocess.run(list(map(str, command)), capture_output=True, encoding="utf-8")
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "work").exists()
    assert (tmp_path / "mine.jsonl").read_text(encoding="utf-8") == "mine"
