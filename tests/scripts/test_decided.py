"""What is taken from the files of a finished run is what would be decided anew."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.runs import summary_of
from helpers.server import LISTS, Server, scripted_model

import self_instruct
import self_instruct_workshop as workshop
from scripts.asking import decided
from scripts.asking.limits import LimitedModel
from self_instruct_workshop import STAGES, STEP_FILES, Prompt, RequestFailed

Say = pytest.CaptureFixture[str]
TIMES = ("seconds", "ended_at", "kept_in")
PRACTICE = ("--provider", "practice", "--num-instructions", "24")


class Run:
    """One command line in one folder, as often as wanted."""

    def __init__(self, folder: Path, capsys: Say, *flags: str) -> None:
        self.folder = folder
        self.capsys = capsys
        self.flags = ["--work-dir", str(folder), "--first-wait", "0.01", *flags]

    def __call__(self, *more: str, is_program: bool = True) -> tuple:
        """Exit code, what was said, the files, and run.json, but for times."""
        code = self_instruct.main([*self.flags, *more], is_program=is_program)
        said = self.capsys.readouterr()
        times = r"\b\d+\.\d (s|秒)|\d{4}-\d\d-\d\d_\d{6}"
        texts = [re.sub(times, "", text) for text in (said.out, said.err)]
        summary = {k: v for k, v in summary_of(self.folder).items() if k not in TIMES}
        files = {path.name: path.read_bytes() for path in self.folder.glob("*.jsonl")}
        if any(row["asked_now"] for row in summary["tokens"].values()):
            # New replies have times of their own, and come in any order.
            summary.pop("decided", None)
            made = rb'"created_at": "[^"]*"'
            files = {name: re.sub(made, b"", text) for name, text in files.items()}
            journal = files["responses.jsonl"].splitlines(keepends=True)
            files["responses.jsonl"] = b"".join(sorted(journal))
        return code, texts, files, summary

    def places(self) -> list[int]:
        """Where the step files are on the disk: one that is written again is another file."""
        paths = [self.folder / name for name in STEP_FILES]
        return [path.stat().st_ino if path.exists() else 0 for path in paths]

    def decides(self, *more: str, is_program: bool = True) -> list[str]:
        """Run; return the stages that decided, and did not take what stands in their file."""
        before = [self.folder / name for name in STEP_FILES]
        kept = [path.open("rb") for path in before if path.exists()]  # no number is used again
        places = self.places()
        self(*more, is_program=is_program)
        for file in kept:
            file.close()
        pairs = zip(STAGES, places, self.places(), strict=True)
        return [stage for stage, old, new in pairs if new and old != new]

    def forget(self) -> None:
        """Let the next run decide anew."""
        summary = summary_of(self.folder)
        del summary["decided"]
        workshop.write_json(self.folder / "run.json", summary)


def equal_to_anew(run: Run, tmp_path: Path, *more: str) -> None:
    """A run that takes what it can is, to the byte, one that decides all of it anew."""
    shutil.rmtree(tmp_path / "as it was", ignore_errors=True)
    shutil.copytree(run.folder, tmp_path / "as it was")
    taken = run(*more)
    shutil.rmtree(run.folder)
    shutil.copytree(tmp_path / "as it was", run.folder)
    run.forget()
    assert_same(taken, run(*more))


def assert_same(taken: tuple, anew: tuple) -> None:
    assert taken[:2] == anew[:2]
    for one, other in zip(taken[2:], anew[2:], strict=True):
        differ = [name for name in {**one, **other} if one.get(name) != other.get(name)]
        assert not differ, [(one.get(name), other.get(name)) for name in differ]


@pytest.mark.parametrize(
    "flags",
    [
        (),
        ("--language", "zh"),
        ("--recipe", "paper"),
        ("--until", "classify"),
        ("--classify-together", "4"),
        ("--instances-per-instruction", "3", "--seed", "7"),
        ("--topics", "topics.json"),
        ("--max-tokens-total", "25000"),
    ],
    ids=lambda flags: " ".join(flags) or "default",
)
def test_a_finished_run_again_says_and_writes_what_it_would_if_it_decided_anew(
    flags: tuple, tmp_path: Path, capsys: Say
) -> None:
    Path("topics.json").write_text('{"law": 2, "cooking": 1, "animals": 1}', encoding="utf-8")
    run = Run(tmp_path / "work", capsys, *PRACTICE, *flags)
    run()
    assert run.decides() == []
    equal_to_anew(run, tmp_path)


def test_a_run_that_stopped_early_takes_what_it_has_and_goes_on(
    tmp_path: Path, capsys: Say
) -> None:
    run = Run(tmp_path / "work", capsys, *PRACTICE)
    run("--until", "classify")
    shutil.copytree(run.folder, tmp_path / "copy")
    assert run.decides() == ["instances", "filter"]
    shutil.rmtree(run.folder)
    shutil.move(tmp_path / "copy", run.folder)
    equal_to_anew(run, tmp_path)

    # Back to the second stage: the files behind it are moved away, as if it were decided anew.
    equal_to_anew(run, tmp_path, "--until", "classify")
    assert not (run.folder / STEP_FILES[3]).exists()


@pytest.mark.parametrize("wrong", [False, True], ids=["trusted", "not trusted"])
def test_lists_of_stage_2_are_told_of_though_nothing_is_asked(
    wrong: bool, tmp_path: Path, capsys: Say
) -> None:
    model = scripted_model()

    def answer(prompt: str, body: dict) -> str:
        text = model(prompt, body)
        is_list = prompt.rstrip().split("\n")[-1] in LISTS
        return text.replace("yes, no", "none") if wrong and is_list else text

    with Server(answer) as server:
        where = ("--provider", "local", "--base-url", server.url + "/v1", "--model", "m")
        run = Run(tmp_path / "work", capsys, *where, "--num-instructions", "24")
        first = run()
        assert ("notice: in lists" in first[1][1]) == wrong
        sent = len(server.requests)
        assert run.decides() == []
        equal_to_anew(run, tmp_path)
        assert len(server.requests) == sent
    assert ("in_lists" in first[3]["agreement"]) is True


# What is not the same.


@pytest.fixture
def finished(tmp_path: Path, capsys: Say) -> Run:
    run = Run(tmp_path / "work", capsys, *PRACTICE)
    run()
    return run


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8", newline="\n")


@pytest.mark.parametrize("number", range(4))
def test_a_step_file_that_somebody_has_changed_is_decided_anew(
    number: int, finished: Run, tmp_path: Path
) -> None:
    edit(finished.folder / STEP_FILES[number], '"instruction": "', '"instruction": "X')
    equal_to_anew(finished, tmp_path)
    edit(finished.folder / STEP_FILES[number], '"instruction": "', '"instruction": "X')
    assert STAGES[number] in finished.decides()


@pytest.mark.parametrize("number", range(4))
def test_a_step_file_that_is_torn_or_gone_is_decided_anew(
    number: int, finished: Run, tmp_path: Path
) -> None:
    path = finished.folder / STEP_FILES[number]
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    equal_to_anew(finished, tmp_path)
    path.unlink()
    assert STAGES[number] in finished.decides() and path.read_bytes() == whole


def test_a_row_that_is_missing_in_rejected_jsonl_is_decided_anew(
    finished: Run, tmp_path: Path
) -> None:
    path = finished.folder / "rejected.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    rest = [line for line in lines if '"stage": "filter"' not in line]
    assert len(rest) < len(lines)
    path.write_text("".join(rest), encoding="utf-8", newline="\n")
    assert finished.decides() == ["filter"]
    path.unlink()
    equal_to_anew(finished, tmp_path)
    assert path.read_text(encoding="utf-8") == "".join(lines)


def test_what_a_judge_has_turned_away_later_changes_no_decision(
    finished: Run, tmp_path: Path
) -> None:
    path = finished.folder / "rejected.jsonl"
    later = workshop.to_json({"stage": "judge", "rule": "wrong", "instruction": "a"})
    path.write_text(path.read_text(encoding="utf-8") + later, encoding="utf-8", newline="\n")
    assert finished.decides() == [] and later in path.read_text(encoding="utf-8")
    equal_to_anew(finished, tmp_path)


@pytest.mark.parametrize(
    ("stage", "anew"), [("generate", STAGES), ("classify", STAGES[1:]), ("instances", STAGES[2:])]
)
def test_a_reply_that_somebody_has_changed_is_decided_anew_and_what_comes_of_it(
    stage: str, anew: tuple, finished: Run, tmp_path: Path
) -> None:
    path = finished.folder / "responses.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    last = max(i for i, line in enumerate(lines) if json.loads(line)["stage"] == stage)
    record = json.loads(lines[last])
    record["text"] = "I will not say."
    lines[last] = workshop.to_json(record)
    path.write_text("".join(lines), encoding="utf-8", newline="\n")
    equal_to_anew(finished, tmp_path)
    record["text"] = "Nor will I now."
    lines[last] = workshop.to_json(record)
    path.write_text("".join(lines), encoding="utf-8", newline="\n")
    assert finished.decides() == list(anew)


@pytest.mark.parametrize(
    "changed",
    [
        ("--rouge-threshold", "0.5"),
        ("--num-instructions", "16"),
        ("--num-instructions", "32"),
        ("--seed", "43"),
        ("--max-tokens", "600"),
        ("--recipe", "paper"),
        ("--seed-file", "mine.jsonl"),
    ],
    ids=" ".join,
)
def test_another_setting_is_decided_anew(changed: tuple, finished: Run, tmp_path: Path) -> None:
    seeds = workshop.DEFAULT_SEEDS["en"].read_text(encoding="utf-8").splitlines(keepends=True)
    Path("mine.jsonl").write_text("".join(seeds[:-1]), encoding="utf-8")
    equal_to_anew(finished, tmp_path, *changed)
    assert finished.decides() == list(STAGES)


def test_how_requests_go_is_no_decision(finished: Run, tmp_path: Path) -> None:
    how = ("--concurrency", "2", "--output-path", str(tmp_path / "out.json"))
    how += ("--max-attempts", "3", "--request-timeout", "9")
    assert finished.decides(*how) == [] and (tmp_path / "out.json").exists()
    equal_to_anew(finished, tmp_path, *how)


def test_another_address_of_the_same_model_is_no_decision(tmp_path: Path, capsys: Say) -> None:
    with Server(scripted_model()) as server:
        where = ("--provider", "local", "--model", "m", "--num-instructions", "24")
        run = Run(tmp_path / "work", capsys, *where, "--base-url", server.url + "/v1")
        run()
    moved = ("--base-url", "http://localhost:1/v1")
    assert run.decides(*moved) == []
    equal_to_anew(run, tmp_path, *moved)


def test_rejected_jsonl_is_read_once_for_all_stages(
    finished: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = decided.rejected_rows
    folders = []

    def noted(folder: Path) -> list[dict]:
        folders.append(folder)
        return read(folder)

    monkeypatch.setattr(decided, "rejected_rows", noted)
    assert finished.decides() == [] and folders == [finished.folder]


def test_shorter_lists_of_stage_2_are_told_of_as_if_decided_anew(
    tmp_path: Path, capsys: Say
) -> None:
    # One by one, the reply to a list of seed tasks is none of the run.
    with Server(scripted_model()) as server:
        where = ("--provider", "local", "--base-url", server.url + "/v1", "--model", "m")
        run = Run(tmp_path / "work", capsys, *where, "--num-instructions", "24", "--yes")
        run("--classify-together", "5")
        asked = len(server.requests)
        equal_to_anew(run, tmp_path, "--classify-together", "1")
        assert len(server.requests) == asked


def test_another_topics_file_is_decided_anew(tmp_path: Path, capsys: Say) -> None:
    topics = Path("topics.json")
    topics.write_text('{"law": 1, "cooking": 1}', encoding="utf-8")
    run = Run(tmp_path / "work", capsys, *PRACTICE, "--topics", "topics.json")
    run()
    topics.write_text('{"law": 3, "cooking": 1}', encoding="utf-8")
    assert run.decides() == list(STAGES)


def test_topics_that_somebody_changes_in_the_midst_of_a_run_are_decided_anew(
    tmp_path: Path, capsys: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    topics = Path("topics.json")
    topics.write_text('{"law": 1, "cooking": 1}', encoding="utf-8")
    run = Run(tmp_path / "work", capsys, *PRACTICE, "--topics", "topics.json")
    send = LimitedModel.send

    def changing(model: LimitedModel, prompt: Prompt, *rest: Any) -> tuple:
        topics.write_text('{"law": 3, "cooking": 1}', encoding="utf-8")
        return send(model, prompt, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(LimitedModel, "send", changing)
        run()
    assert run.decides() == list(STAGES)


def test_a_program_that_is_renewed_in_the_midst_of_a_run_decides_anew(
    finished: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(finished.folder)
    send = LimitedModel.send

    def renewing(model: LimitedModel, prompt: Prompt, *rest: Any) -> tuple:
        monkeypatch.setattr(decided, "program", lambda: "that of next week")
        return send(model, prompt, *rest)

    monkeypatch.setattr(LimitedModel, "send", renewing)
    finished()
    assert finished.decides() == list(STAGES)


def test_another_program_decides_anew(finished: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decided, "program", lambda: "that of next week")
    assert finished.decides() == list(STAGES) and finished.decides() == []
    monkeypatch.setattr(decided, "program", lambda: "")  # not known
    assert finished.decides() == list(STAGES) == finished.decides()


@pytest.mark.parametrize("what", ["module", "part", "data", "package"])
def test_code_data_and_packages_are_the_program(
    what: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = decided.program.__wrapped__()
    if what == "module":
        code = Path(workshop.__file__).read_text(encoding="utf-8")
        (tmp_path / "self_instruct_workshop.py").write_text(code + "#", encoding="utf-8")
        monkeypatch.setattr(workshop, "__file__", str(tmp_path / "self_instruct_workshop.py"))
    elif what == "part":  # of two files of one name, each counts
        shutil.copytree(decided.CODE / "asking", tmp_path / "scripts" / "asking")
        shutil.copytree(decided.CODE / "scale", tmp_path / "scripts" / "scale")
        monkeypatch.setattr(decided, "CODE", tmp_path / "scripts")
        assert decided.program.__wrapped__() == before
        (tmp_path / "scripts" / "asking" / "__init__.py").write_text("#", encoding="utf-8")
    elif what == "data":
        ignored = shutil.ignore_patterns("workshop", "recorded")
        shutil.copytree(workshop.DATA, tmp_path / "data", ignore=ignored)
        monkeypatch.setattr(workshop, "DATA", tmp_path / "data")
        assert decided.program.__wrapped__() == before
        (tmp_path / "data" / "patterns.jsonl").write_text("{}\n", encoding="utf-8")
    else:
        version = decided.metadata.version
        monkeypatch.setattr(
            decided.metadata, "version", lambda name: version(name) + "+" * (name == "rapidfuzz")
        )
    assert decided.program.__wrapped__() != before


@pytest.mark.parametrize(
    "damage",
    [
        lambda entry: entry["tokens"].update(replies=1),
        lambda entry: entry.update(novelty=[99]),
        lambda entry: entry.pop("turns"),
        lambda entry: entry.clear(),
    ],
)
def test_an_entry_that_somebody_has_changed_proves_nothing(damage: Callable, finished: Run) -> None:
    summary = summary_of(finished.folder)
    damage(summary["decided"]["generate"])
    workshop.write_json(finished.folder / "run.json", summary)
    assert "generate" in finished.decides() and finished.decides() == []


@pytest.mark.parametrize("said", ["", "[]", "{", '{"decided": []}', '{"decided": {"generate": 1}}'])
def test_a_run_json_that_says_nothing_of_it_is_no_hindrance(said: str, finished: Run) -> None:
    (finished.folder / "run.json").write_text(said, encoding="utf-8")
    assert finished.decides() == list(STAGES) and finished.decides() == []


def test_a_text_that_no_file_can_hold_has_no_digest() -> None:
    assert decided.rows_digest([{"output": "a"}]) and decided.digest("a")
    assert decided.rows_digest([{"output": "\ud800"}]) == "" == decided.digest("\ud800")


# Whose decisions are taken, and of whom they are not.


def test_a_program_that_may_be_changed_in_memory_decides_always(finished: Run) -> None:
    assert finished.decides(is_program=False) == list(STAGES)
    assert "decided" not in summary_of(finished.folder)


def test_a_question_that_never_gets_a_reply_is_asked_again_each_time(
    finished: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = []
    send = LimitedModel.send

    def refusing(model: LimitedModel, prompt: Prompt, *rest: Any) -> tuple:
        if "Do the task. Write only the answer" in workshop.as_text(prompt):
            refused.append(prompt)
            raise RequestFailed("413 too large")
        return send(model, prompt, *rest)

    # Nothing is undone by that: a second answer is missing.
    shutil.rmtree(finished.folder)
    monkeypatch.setattr(LimitedModel, "send", refusing)
    assert finished()[0] == 0
    asked = len(refused)
    assert asked and finished.decides() == ["instances", "filter"]
    assert len(refused) == 2 * asked


def test_a_run_that_broke_off_in_stage_3_takes_the_first_two_and_goes_on(
    tmp_path: Path, capsys: Say
) -> None:
    broken = [True]

    def fault(index: int, prompt: str) -> str:
        return "500" if broken[0] and "Write worked examples" in prompt and index % 2 else ""

    with Server(scripted_model(), faults=fault) as server:
        where = ("--provider", "local", "--base-url", server.url + "/v1", "--model", "m")
        where += ("--num-instructions", "24", "--max-attempts", "1", "--concurrency", "1")
        run = Run(tmp_path / "work", capsys, *where)
        assert run()[0] == 3
        broken[0] = False
        equal_to_anew(run, tmp_path)
        assert run.decides() == []
    assert summary_of(run.folder)["undone_because"] == {}
