"""--batch: the journal is filled by the vendor's batches; files are those of a live run, and each
question is paid for once."""

from __future__ import annotations

import json
import random
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from helpers.batch_server import BatchServer, by_chance
from helpers.runs import rows, summary_of, views
from helpers.server import Server, scripted_model

import self_instruct
from scripts.asking import batch, endpoint, estimate, jobs
from scripts.asking.limits import LimitedModel
from self_instruct_workshop import (
    STEP_FILES,
    Config,
    RequestFailed,
    Transient,
    UsageError,
    WorkshopError,
    run,
)
from self_instruct_workshop import main as reported
from self_instruct_workshop import parameters as sampling

pytestmark = pytest.mark.slow

Settings = Callable[..., Config]
PLACES = {"openai": "/v1", "dashscope": "/api/v1", "local": "/v1"}
JOB_STEPS = ("upload", "create", "retrieve", "content")
PRICES = ("--price-in=1", "--price-out=4")


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test-of-a-key-that-is-long")
    monkeypatch.setenv("DASHSCOPE_API_KEY", "sk-test-of-a-key-that-is-long")


def uneven(prompt: str, body: dict) -> str:
    """Like the scripted model; some first replies cannot be used, and many outputs are short."""
    lines = prompt.rstrip().split("\n")
    dice = random.Random(prompt)
    if "Write only the answer" in prompt or "只写答案" in prompt:
        return str(dice.randint(1, 2))
    said = scripted_model()(prompt, body)
    target = "输出：" if "输出：" in said else "Output:"
    if target not in said or lines[-1].endswith(("?", "？")):
        return said
    if dice.random() < 0.25:
        return "I hope this helps!"
    return re.sub(f"{target}.*", f"{target} {dice.randint(1, 2)}", said)


def typed(*flags: str) -> Any:
    return self_instruct.command_line().parse_args([*flags])


def at(server: Server, wire: str = "openai") -> dict:
    return {"provider": wire, "model": "m", "base_url": server.url + PLACES[wire]}


def go(config: Config, *flags: str) -> dict:
    """A run with these flags, as the command line does it."""
    options = typed(*flags)
    to_come = partial(estimate.to_come, estimate.estimate(config, options)["stages"])
    chosen = partial(batch.model_class(config, options), options=options, to_come=to_come)
    return run(config, say=lambda text: None, model_class=chosen)


def in_batches(config: Config, *flags: str) -> dict:
    return go(config, "--batch", "--batch-min=2", *flags)


def live_files(settings: Settings, folder: Path, **changes: Any) -> dict[str, bytes]:
    """The files of a run that asks everything live, of a server of its own."""
    with Server(uneven) as server:
        config = settings(work_dir=str(folder), **at(server), **changes)
        go(config)
        return views(folder)


@pytest.fixture
def wanted(settings: Settings, tmp_path: Path) -> dict[str, bytes]:
    return live_files(settings, tmp_path / "live", num_instructions=24)


def check_paid_once(server: BatchServer) -> None:
    """Also of jobs that nobody waited for, since a vendor does them all the same."""
    server.finish_jobs()
    assert max(Counter(server.all_paid).values()) == 1
    assert server.paid


def live_prompts(server: BatchServer) -> list[str]:
    return [one["prompt"] for one in server.requests if one["method"] == "POST"]


# The same files, at half the price.


@pytest.mark.parametrize("wire", PLACES)
def test_files_are_those_of_a_live_run_and_only_stage_1_and_seed_tasks_are_asked_live(
    settings: Settings, tmp_path: Path, wanted: dict, wire: str
) -> None:
    with BatchServer(uneven) as server:
        config = settings(num_instructions=24, **at(server, wire))
        summary = in_batches(config, "--batch-min=1")
        check_paid_once(server)
    folder = Path(config.work_dir)
    assert views(folder) == wanted
    made = {row["instruction"] for row in rows(folder, STEP_FILES[0])}
    live = [prompt for prompt in live_prompts(server) if not prompt.rstrip().endswith(".")]
    assert not [prompt for prompt in live if any(text in prompt for text in made)]
    # Lists of stage 2, then first tries, then second tries and second answers.
    assert Counter(server.steps)["create"] == len(server.jobs) >= 3
    assert summary["undone_because"] == {}
    third = rows(folder, STEP_FILES[2])
    assert any(row["first_problem"] for row in third)
    assert any(any(row["second_answers"]) for row in third)
    # The folder holds no file of a job any more, and run.json counts all replies as of this run.
    assert not (folder / "batches").exists()
    asked = sum(tokens["asked_now"] for tokens in summary["tokens"].values())
    assert asked == len(server.all_paid)


def test_in_chinese_too(settings: Settings, tmp_path: Path) -> None:
    wanted = live_files(settings, tmp_path / "live", num_instructions=16, language="zh")
    with BatchServer(uneven) as server:
        config = settings(num_instructions=16, language="zh", **at(server, "dashscope"))
        in_batches(config)
        check_paid_once(server)
    assert views(Path(config.work_dir)) == wanted


@pytest.mark.parametrize("size", ["1", "5"])
def test_stage_2_goes_one_by_one_or_in_lists_as_it_was_told(settings: Settings, size: str) -> None:
    with BatchServer(uneven) as server:
        config = settings(num_instructions=20, until="classify", **at(server))
        in_batches(config, f"--classify-together={size}")
        assert len(server.paid) == 20 // int(size)
    assert len(rows(Path(config.work_dir), STEP_FILES[1])) == 20


def test_all_second_answers_of_a_task_go_into_one_batch(settings: Settings, tmp_path: Path) -> None:
    several = {"num_instructions": 16, "instances_per_instruction": 3}
    wanted = live_files(settings, tmp_path / "live", **several)
    with BatchServer(uneven) as server:
        config = settings(**several, **at(server))
        in_batches(config, "--batch-min=1")
        check_paid_once(server)
        assert len(server.jobs) <= 4
    assert views(Path(config.work_dir)) == wanted
    answers = [row["second_answers"] for row in rows(Path(config.work_dir), STEP_FILES[2])]
    assert any(len([answer for answer in three if answer]) > 1 for three in answers)


def test_what_the_journal_says_of_a_reply_is_what_it_says_of_a_live_one(
    settings: Settings, tmp_path: Path
) -> None:
    records = {}
    for name in ("live", "batch"):
        with BatchServer(uneven) as server:
            folder = tmp_path / name
            config = settings(num_instructions=12, work_dir=str(folder), **at(server))
            in_batches(config) if name == "batch" else go(config)
        lines = rows(folder, "responses.jsonl")
        records[name] = {line["key"]: line for line in lines}
    batched = [line for line in records["batch"].values() if "batch" in line]
    assert batched and records["live"].keys() == records["batch"].keys()
    for line in records["batch"].values():
        changing = ("created_at", "base_url", "batch")
        own = {name: value for name, value in line.items() if name not in changing}
        other = records["live"][line["key"]]
        assert own == {name: value for name, value in other.items() if name not in changing}


def test_a_reply_out_of_a_batch_costs_half(settings: Settings, tmp_path: Path) -> None:
    costs = {}
    for name in ("live", "batch"):
        with BatchServer(uneven) as server:
            config = settings(num_instructions=24, work_dir=str(tmp_path / name), **at(server))
            told = (in_batches if name == "batch" else go)(config, *PRICES)["spending"]
            again = (in_batches if name == "batch" else go)(config, *PRICES)["spending"]
            assert again["cost"] == pytest.approx(told["cost"]), "the journal tells the same"
            costs[name] = told
    full, half = costs["live"], costs["batch"]
    assert half["stages"]["generate"] == full["stages"]["generate"]
    assert half["stages"]["instances"]["cost"] == pytest.approx(
        full["stages"]["instances"]["cost"] / 2
    )
    assert half["prompt_tokens"] == full["prompt_tokens"]
    assert half["cost"] == pytest.approx(sum(row["cost"] for row in half["stages"].values()))


def test_the_estimate_shows_both_prices(settings: Settings, keys: None) -> None:
    config = settings(provider="openai", num_instructions=1000)
    found = estimate.estimate(config, typed())
    first = found["stages"]["generate"]
    generate = (first["prompt_tokens"] * 0.10 + first["reply_tokens"] * 0.50) / 1e6
    assert found["cost_in_batches"] == pytest.approx((found["cost"] + generate) / 2)
    text = estimate.as_text(found, config)
    assert f"  about ${found['cost']:.2f}; about" in text
    assert f"  with --batch about ${found['cost_in_batches']:.2f}, each batch" in text
    groq = settings(provider="groq", num_instructions=1000)
    assert "--batch" not in estimate.as_text(
        estimate.estimate(groq, typed("--price-in=1", "--price-out=1")), groq
    )


# Waiting, and going on.


def test_the_wait_ends_with_exit_3_and_the_same_command_fetches(
    settings: Settings, wanted: dict, capsys: pytest.CaptureFixture
) -> None:
    with BatchServer(uneven, polls=10**6) as server:
        config = settings(num_instructions=24, **at(server))
        wait = partial(in_batches, config, "--batch-wait=0.1")
        assert reported(config, lambda _: wait()) == 3
        summary = summary_of(Path(config.work_dir))
        assert all("waits for batch_" in why for why in summary["undone_because"])
        assert summary["spending"]["at_most_in_open_batches"]["prompt_tokens"] > 0
        before = (len(server.jobs), len(live_prompts(server)))
        assert reported(config, lambda _: wait()) == 3
        assert (len(server.jobs), len(live_prompts(server))) == before, "it only looks"
        for job in server.jobs.values():
            job["polls"] = 0
        server.polls = 1
        assert reported(config, lambda _: in_batches(config)) == 0
        check_paid_once(server)
    assert views(Path(config.work_dir)) == wanted


def command(server: BatchServer, folder: Path, *flags: str) -> list[str]:
    place = ["--provider=openai", "--model=m", f"--base-url={server.url}/v1"]
    run_flags = ["--num-instructions=24", f"--work-dir={folder}", "--first-wait=0.01"]
    batches = ["--batch", "--batch-min=2", *flags]
    return [sys.executable, self_instruct.__file__, *place, *run_flags, *batches]


def finish(server: BatchServer, folder: Path, *flags: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(server, folder, *flags), capture_output=True, encoding="utf-8", timeout=120
    )


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
def test_ctrl_c_says_that_the_batch_goes_on(tmp_path: Path, wanted: dict) -> None:
    running: list[subprocess.Popen] = []

    def stop(step: str) -> None:
        if step == "retrieve" and running:
            running.pop().send_signal(signal.SIGINT)

    with BatchServer(uneven, hold=stop, polls=50) as server:
        work = tmp_path / "work"
        log = tmp_path / "log"
        with open(log, "wb") as file:
            process = subprocess.Popen(command(server, work), stdout=file, stderr=file)
            running.append(process)
            assert process.wait(60) == 130
        said = log.read_text(encoding="utf-8")
        assert "the batch goes on at the vendor" in said and "go on with: " in said
        server.polls = 1
        for job in server.jobs.values():
            job["polls"] = 1
        assert finish(server, work).returncode == 0
        check_paid_once(server)
    assert views(work) == wanted


def killing(server: BatchServer, folder: Path, step: str, number: int) -> int:
    """Run, and kill the run when the server has done a step so often; return its exit code."""
    times = 0

    def kill(done: str) -> None:
        nonlocal times
        times += done == step
        if done == step and times == number:
            process.send_signal(signal.SIGKILL)
            process.wait()

    server.hold = kill
    with open(f"{folder}.log", "ab") as log:
        process = subprocess.Popen(command(server, folder), stdout=log, stderr=log)
    process.wait(120)
    server.hold = lambda step: None
    return process.returncode


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
@pytest.mark.parametrize("step", JOB_STEPS)
def test_killed_at_any_step_and_resumed_it_pays_once(
    tmp_path: Path, wanted: dict, step: str
) -> None:
    """Killed when the vendor has done the step and the run does not know that yet."""
    work = tmp_path / "work"
    with BatchServer(uneven, polls=1) as server:
        for number in (1, 2):
            assert killing(server, work, step, number) == -signal.SIGKILL
        done = finish(server, work)
        assert done.returncode == 0, done.stderr
        check_paid_once(server)
    assert views(work) == wanted
    assert not (work / "batches").exists()


def test_a_kill_while_replies_are_written_down_loses_none(
    settings: Settings, wanted: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    with BatchServer(uneven) as server:
        config = settings(num_instructions=24, **at(server))
        write_down = batch.Batches.write_down
        left = [7]

        def dies(model: batch.Batches, *records: dict) -> None:
            if model.answer is not None:
                left[0] -= 1
                if not left[0]:
                    raise KeyboardInterrupt(130)
            write_down(model, *records)

        monkeypatch.setattr(batch.Batches, "write_down", dies)
        with pytest.raises(KeyboardInterrupt):
            in_batches(config)
        fetched = server.seen["content"]
        assert list((Path(config.work_dir) / "batches").glob("*.results.jsonl"))
        monkeypatch.setattr(batch.Batches, "write_down", write_down)
        in_batches(config)
        assert server.steps.count("content") > fetched
        check_paid_once(server)
    assert views(Path(config.work_dir)) == wanted


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
@pytest.mark.parametrize("seed", range(2))
def test_killed_again_and_again_among_faults_it_pays_once(
    tmp_path: Path, wanted: dict, seed: int
) -> None:
    work = tmp_path / "work"
    dice = random.Random(seed)
    names = ("429", "500", "reset", "html-200", "cut", "lost")
    with BatchServer(uneven, polls=1, step_fault=by_chance(0.3, seed, names)) as server:
        for _ in range(4):
            killing(server, work, dice.choice(JOB_STEPS), dice.randint(1, 3))
        done = finish(server, work, "--max-attempts=30")
        assert done.returncode == 0, done.stderr
        check_paid_once(server)
    assert views(work) == wanted


# What goes wrong.


@pytest.mark.parametrize("seed", range(3))
def test_faults_at_every_third_step_and_line_change_nothing(
    settings: Settings, wanted: dict, seed: int
) -> None:
    names = ("429", "500", "reset", "html-200", "cut", "lost")
    with BatchServer(
        uneven,
        step_fault=by_chance(0.3, seed, names),
        line_fault=by_chance(0.3, seed, ("429", "500", "no-choices")),
        faults=lambda index, prompt: "500" if index % 3 == 1 else "",
    ) as server:
        config = settings(num_instructions=24, max_attempts=30, **at(server))
        summary = in_batches(config)
        created = len(server.jobs)
    assert views(Path(config.work_dir)) == wanted
    assert summary["undone_because"] == {}
    kept = rows(Path(config.work_dir), "batches.jsonl")
    assert created == sum("batch" in line for line in kept), "no job was created twice"
    assert max(Counter(server.paid).values()) == 1


@pytest.mark.parametrize("fault", ["lost", "cut", "html-200", "500"])
def test_a_job_whose_creation_got_no_answer_is_looked_for_and_not_created_again(
    settings: Settings, fault: str
) -> None:
    with BatchServer(
        uneven, step_fault=lambda step, n: fault if (step, n) == ("create", 1) else ""
    ) as server:
        config = settings(num_instructions=12, until="classify", **at(server))
        in_batches(config, "--classify-together=1")
        assert len(server.jobs) == 1
        assert server.seen["create"] == 1 + (fault in ("html-200", "500"))


def test_an_expired_batch_gives_what_it_has_and_the_rest_goes_into_the_next(
    settings: Settings, wanted: dict
) -> None:
    with BatchServer(uneven, done=lambda number: 0.4 if number < 3 else 1.0) as server:
        config = settings(num_instructions=24, **at(server))
        in_batches(config)
        check_paid_once(server)
        states = Counter(job["status"] for job in server.jobs.values())
    assert states["expired"] == 3 and states["completed"] >= 2
    assert views(Path(config.work_dir)) == wanted


def test_a_line_that_fails_twice_is_asked_live(settings: Settings, wanted: dict) -> None:
    bad: list[str] = []

    def fails(prompt: str, times: int) -> str:
        bad.append(prompt) if len(bad) < 3 and prompt not in bad else None
        return "500" if prompt in bad else ""

    with BatchServer(uneven, line_fault=fails) as server:
        config = settings(num_instructions=24, **at(server))
        in_batches(config, "--batch-min=1")
        assert {server.lines[prompt] for prompt in bad} == {batch.TRIES}
        assert set(bad) <= set(live_prompts(server))
        check_paid_once(server)
    assert views(Path(config.work_dir)) == wanted


def test_fewer_than_batch_min_are_asked_live(settings: Settings, wanted: dict) -> None:
    with BatchServer(uneven) as server:
        config = settings(num_instructions=24, **at(server))
        in_batches(config, "--batch-min=24")
        assert len(server.jobs) == 1 and len(server.paid) == 24
        check_paid_once(server)
    assert views(Path(config.work_dir)) == wanted


def test_strange_lines_are_counted_and_a_second_reply_to_one_question_is_ignored(
    settings: Settings, capsys: pytest.CaptureFixture, wanted: dict
) -> None:
    strange = ({"custom_id": "nobody", "response": None, "error": None}, {"id": "x"})
    with BatchServer(uneven, extra_lines=strange) as server:
        execute = server.execute

        def twice(job: dict) -> None:
            execute(job)
            name = job["output_file_id"]
            server.files[name] += server.files[name].replace(b'"content": "', b'"content": "no ')

        server.execute = twice
        config = settings(num_instructions=24, **at(server))
        in_batches(config)
    assert views(Path(config.work_dir)) == wanted
    assert "lines that nobody asked for" in capsys.readouterr().err


def test_a_file_that_the_vendor_does_not_take_is_one_line(settings: Settings) -> None:
    with BatchServer(uneven) as server:
        server.problems = lambda job: [
            {"code": "model_not_found", "message": "No batches of m.", "line": 3, "param": None}
        ]
        config = settings(num_instructions=24, **at(server))
        with pytest.raises(WorkshopError, match=r"did not take batch_.*No batches of m.*line 3"):
            in_batches(config)
        del server.problems
        in_batches(config)
        check_paid_once(server)


def test_an_account_without_money_is_one_line_and_the_next_command_goes_on(
    settings: Settings, wanted: dict
) -> None:
    with BatchServer(
        uneven, step_fault=lambda step, n: "429-quota" if (step, n) == ("create", 1) else ""
    ) as server:
        config = settings(num_instructions=24, **at(server))
        with pytest.raises(WorkshopError, match="no money is left"):
            in_batches(config)
        assert not server.jobs
        in_batches(config)
        check_paid_once(server)
    assert views(Path(config.work_dir)) == wanted


def test_where_the_queue_has_no_room_smaller_jobs_go_one_after_the_other(
    settings: Settings, wanted: dict
) -> None:
    with BatchServer(uneven, room=9) as server:
        config = settings(num_instructions=24, **at(server))
        in_batches(config)
        states = Counter(job["status"] for job in server.jobs.values())
        assert states["failed"] == 2, "24 requests, 12, and then 6 at a time"
        check_paid_once(server)
    assert views(Path(config.work_dir)) == wanted


def test_a_wrong_key_ends_the_run_before_a_batch(settings: Settings) -> None:
    with BatchServer(uneven, key="another") as server:
        config = settings(num_instructions=24, **at(server))
        with pytest.raises(WorkshopError, match="check OPENAI_API_KEY"):
            in_batches(config)
        assert not server.files and not server.paid


def test_a_vendor_that_forgot_a_job_leaves_it_to_the_user(settings: Settings) -> None:
    with BatchServer(uneven, polls=10**6) as server:
        config = settings(num_instructions=24, **at(server))
        in_batches(config, "--batch-wait=0.05")
        server.jobs.clear()
        with pytest.raises(WorkshopError, match="check the key; deleting the lines of "):
            in_batches(config)
        assert not server.jobs, "nothing is paid for twice unasked"


def test_a_vendor_that_is_away_for_a_while_is_waited_for(
    settings: Settings, wanted: dict, capsys: pytest.CaptureFixture
) -> None:
    """Twelve looks without an answer are more than a request is sent again."""

    def away(step: str, times: int) -> str:
        return "reset" if step == "retrieve" and times <= 12 else ""

    with BatchServer(uneven, step_fault=away) as server:
        config = settings(num_instructions=24, max_attempts=2, **at(server))
        in_batches(config)
        check_paid_once(server)
    assert views(Path(config.work_dir)) == wanted
    assert "trying on" in capsys.readouterr().err


def test_a_refused_parameter_is_learnt_before_a_batch_is_sent(settings: Settings) -> None:
    """In a second call everything of stage 2 is in the journal, so the first question of stage 3
    goes live."""
    with BatchServer(uneven, refuse=("temperature",)) as server:
        config = settings(num_instructions=12, until="classify", **at(server))
        go(config)
        config.until = "filter"
        in_batches(config)
        lines = [json.loads(line) for data in server.files.values() for line in data.splitlines()]
        sent = [line["body"] for line in lines if "body" in line]
        assert sent and all("temperature" not in body for body in sent)
        assert not [step for step in server.steps if "400" in step]
        check_paid_once(server)


# Limits.


@pytest.mark.parametrize("budget", [0.0006, 0.0012, 0.0016, 0.002])
def test_no_limit_on_dollars_is_passed_and_what_fits_is_used(
    settings: Settings, budget: float
) -> None:
    """All of it costs $0.0019. Where a batch must be cut, others follow with what it left."""
    with BatchServer(uneven) as server:
        config = settings(num_instructions=24, max_tokens=64, **at(server))
        prices = ("--price-in=0.1", "--price-out=0.5", f"--max-cost={budget}")
        summary = in_batches(config, *prices)
    assert 0.7 * min(budget, 0.0019) < summary["spending"]["cost"] <= budget
    assert all("--max-cost" in why for why in summary["undone_because"])
    assert bool(summary["undone_because"]) == (budget < 0.0019)


def test_of_a_batch_that_does_not_fit_as_many_lines_go_as_fit(
    settings: Settings, capsys: pytest.CaptureFixture
) -> None:
    with BatchServer(uneven, polls=10**6) as server:
        config = settings(num_instructions=24, until="generate", **at(server))
        go(config)
        spent = sum(summary_of(Path(config.work_dir))["tokens"]["generate"][n]
                    for n in ("prompt", "reply"))  # fmt: skip
        config.until = "classify"
        flags = ("--classify-together=1", f"--max-tokens-total={spent + 60_000}")
        in_batches(config, *flags, "--batch-wait=0.05")
        job = next(iter(server.jobs.values()))
        assert 2 <= len(server.requests_of(job)) < 24
        kept = rows(Path(config.work_dir), "batches.jsonl")[0]
        assert kept["prompt_tokens"] + kept["reply_tokens"] <= 60_000
    assert "go into a batch first" in capsys.readouterr().err


def test_an_open_batch_counts_in_a_run_without_batches_and_is_named(
    settings: Settings, capsys: pytest.CaptureFixture
) -> None:
    with BatchServer(uneven, polls=10**6) as server:
        config = settings(num_instructions=24, **at(server))
        in_batches(config, "--batch-wait=0.05")
        kept = rows(Path(config.work_dir), "batches.jsonl")[0]
        options = typed()
        with LimitedModel(config, options=options) as model:
            assert model.purse.in_jobs == (kept["prompt_tokens"], kept["reply_tokens"])
        assert batch.model_class(config, options) is LimitedModel
    assert "paid for twice" in capsys.readouterr().err


# Large runs.


def test_a_large_run_is_several_jobs_in_flight_together(
    settings: Settings, wanted: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "MOST_REQUESTS", 10)
    monkeypatch.setattr(batch, "MOST_BYTES", 20_000)
    with BatchServer(uneven) as server:
        config = settings(num_instructions=24, **at(server))
        in_batches(config)
        lengths = [len(server.requests_of(job)) for job in server.jobs.values()]
        sizes = [len(server.files[job["input_file_id"]]) for job in server.jobs.values()]
        assert max(lengths) <= 10 and max(sizes) <= 20_000 and len(lengths) > 5
        assert "create upload create upload create retrieve" in " ".join(server.steps)
        check_paid_once(server)
    assert views(Path(config.work_dir)) == wanted


# Who has batches.


@pytest.mark.parametrize("changes", [
    {"provider": "practice"}, {"provider": "groq"}, {"provider": "huggingface"},
])  # fmt: skip
def test_a_provider_without_batches_is_refused_in_one_line(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, changes: dict
) -> None:
    monkeypatch.setenv("GROQ_API_KEY", "k")
    monkeypatch.setenv("HF_TOKEN", "k")
    with pytest.raises(UsageError, match=r"--batch: .*openai, dashscope, or a server"):
        in_batches(settings(**changes))


def test_a_replay_has_nothing_to_batch(settings: Settings, tmp_path: Path) -> None:
    with Server(uneven) as server:
        go(settings(num_instructions=8, **at(server)))
    config = Config(provider="replay", responses=str(tmp_path / "work" / "responses.jsonl"),
                    work_dir=str(tmp_path / "again"))  # fmt: skip
    with pytest.raises(UsageError, match="nothing is sent here"):
        in_batches(config)


def test_a_server_without_batches_is_refused_before_anything_is_paid(settings: Settings) -> None:
    with BatchServer(uneven, batches=False) as server:
        config = settings(num_instructions=8, **at(server, "local"))
        with pytest.raises(UsageError, match="/v1/batches is not there"):
            in_batches(config)
        assert not live_prompts(server)


def test_a_model_that_continues_texts_is_asked_at_its_own_endpoint(
    settings: Settings, tmp_path: Path
) -> None:
    files = {}
    for name in ("live", "batch"):
        with BatchServer(uneven) as server:
            place = {"recipe": "paper", "work_dir": str(tmp_path / name), **at(server, "local")}
            config = settings(num_instructions=12, **place)
            in_batches(config) if name == "batch" else go(config)
            files[name] = views(tmp_path / name)
    assert files["batch"] == files["live"]
    assert {job["endpoint"] for job in server.jobs.values()} == {"/v1/completions"}
    check_paid_once(server)


def test_dashscope_is_asked_at_its_compatible_address(settings: Settings) -> None:
    with BatchServer(uneven) as server:
        config = settings(num_instructions=12, until="classify", **at(server, "dashscope"))
        in_batches(config, "--classify-together=1")
        bodies = [json.loads(line)["body"] for line in server.files[
            next(iter(server.jobs.values()))["input_file_id"]].splitlines()]  # fmt: skip
        job = next(iter(server.jobs.values()))
    sent = {"enable_thinking": False, "temperature": 0.0, "max_tokens": 512, "model": "m"}
    assert all({name: body[name] for name in sent} == sent for body in bodies)
    assert job["metadata"]["ds_name"] == job["metadata"]["self_instruct"]


# Settings that change while a batch is on its way.


def test_replies_that_no_question_asks_for_are_kept_and_used_when_one_does(
    settings: Settings, wanted: dict
) -> None:
    with BatchServer(uneven, polls=1) as server:
        config = settings(num_instructions=24, until="classify", **at(server))
        in_batches(config, "--classify-together=1", "--batch-wait=0")
        fewer = settings(num_instructions=10, until="classify", **at(server))
        in_batches(fewer, "--classify-together=1")
        folder = Path(config.work_dir)
        assert len(rows(folder, STEP_FILES[1])) == 10
        assert list((folder / "batches").iterdir()), "14 replies wait"
        with LimitedModel(config, options=typed()) as model:
            assert sum(model.purse.in_jobs) > 0, "they are paid for, and count"
        in_batches(config, "--classify-together=1")
        assert len(rows(folder, STEP_FILES[1])) == 24
        assert len(server.jobs) == 1 and not (folder / "batches").exists()
        check_paid_once(server)


def test_a_reply_keeps_the_limit_that_it_was_asked_with(settings: Settings) -> None:
    """A batch of replies of 4 tokens at most, fetched by a run that allows 512."""
    with BatchServer(uneven, polls=1) as server:
        config = settings(num_instructions=8, until="classify", **at(server))
        go(config)
        config.until = "instances"
        config.max_tokens = 4
        in_batches(config, "--batch-wait=0")
        assert server.jobs
        config.max_tokens = 512
        in_batches(config)
    kept = [line for line in rows(Path(config.work_dir), "responses.jsonl") if "batch" in line]
    short = [line for line in kept if line["max_tokens"] == 4]
    assert short and all(len(line["text"]) <= 16 for line in short)
    last = {line["key"]: line for line in kept}
    assert not [line for line in last.values() if line["finish_reason"] == "length"]


def test_without_the_folder_of_requests_an_open_batch_is_fetched_all_the_same(
    settings: Settings, wanted: dict
) -> None:
    with BatchServer(uneven, polls=1) as server:
        config = settings(num_instructions=24, **at(server))
        in_batches(config, "--batch-wait=0")
        shutil.rmtree(Path(config.work_dir) / "batches")
        in_batches(config)
        check_paid_once(server)
    assert views(Path(config.work_dir)) == wanted


def test_a_finished_run_needs_no_file_of_its_batches(settings: Settings, wanted: dict) -> None:
    with BatchServer(uneven) as server:
        config = settings(num_instructions=24, **at(server))
        in_batches(config)
        (Path(config.work_dir) / "batches.jsonl").unlink()
        asked = (len(live_prompts(server)), len(server.jobs))
        in_batches(config)
        assert (len(live_prompts(server)), len(server.jobs)) == asked
    assert views(Path(config.work_dir)) == wanted


def test_a_batch_at_another_address_is_named_and_not_paid_for_again(settings: Settings) -> None:
    with BatchServer(uneven, polls=1) as first, BatchServer(uneven) as other:
        in_batches(settings(num_instructions=24, **at(first)), "--batch-wait=0")
        with pytest.raises(WorkshopError, match=r"is a batch at http.*fetch it with that"):
            in_batches(settings(num_instructions=24, **at(other)))
        assert not other.jobs


# For companions.


def test_whatever_asks_through_a_model_can_be_asked_in_batches(settings: Settings) -> None:
    with BatchServer(lambda prompt, body: f"said to {prompt}") as server:
        config = settings(**at(server))
        options = typed("--batch", "--batch-min=1")

        with batch.BatchModel(config, options=options) as model:

            def ask(text: str) -> str:
                question = {"instruction": text, "sample": 0, "prompt": text}
                first = model.ask("judge", text, sampling(config, "instances"), question)
                again = question | {"sample": 1, "prompt": text * 2}
                return (
                    first.text
                    + model.ask("judge", text * 2, sampling(config, "instances"), again).text
                )

            texts = ["one", "two", "three", "four"]
            got = dict(model.ask_each("judge", ask, texts))
        assert got == {text: f"said to {text}said to {text * 2}" for text in texts}
        assert [len(server.requests_of(job)) for job in server.jobs.values()] == [4, 3]
        check_paid_once(server)


ANSWER = {"choices": [{"message": {"content": "a"}, "finish_reason": "stop"}]}
LINES = [  # a line of results -> the reply's finish reason, or what it means
    ({"response": {"status_code": 200, "body": ANSWER}, "error": None}, "stop"),
    ({"response": {"status_code": 200, "body": {"choices": []}}}, Transient),
    ({"response": {"status_code": 200, "body": "a page"}}, Transient),
    ({"response": {"status_code": 200, "body": None}}, Transient),
    ({"response": {"status_code": 429, "body": {"error": {"message": "busy"}}}}, Transient),
    ({"response": {"status_code": 400, "body": {"error": {"message": "no"}}}}, RequestFailed),
    ({"response": {"status_code": 400, "body": {"error": {"code": "content_filter"}}}},
     "content_filter"),
    ({"response": None, "error": {"code": "data_inspection_failed"}}, "content_filter"),
    ({"response": None, "error": {"code": "batch_expired", "message": "late"}}, Transient),
    ({"response": None, "error": "words"}, Transient),
    ({}, Transient),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(LINES)))
def test_a_line_means_what_the_same_live_answer_does(settings: Settings, number: int) -> None:
    line, meaning = LINES[number]
    with Server(uneven) as server, LimitedModel(settings(**at(server)), options=typed()) as model:
        if isinstance(meaning, str):
            assert batch.reply_in(model, line, {}).finish_reason == meaning
        else:
            with pytest.raises(meaning):
                batch.reply_in(model, line, {})


# What is written down.


def test_the_key_is_in_no_file(settings: Settings) -> None:
    def echo(prompt: str, body: dict) -> str:
        return uneven(prompt, body) + " sk-test-of-a-key-that-is-long"

    with BatchServer(echo, polls=1) as server:
        config = settings(num_instructions=12, **at(server))
        in_batches(config)
    for path in Path(config.work_dir).rglob("*"):
        assert not path.is_file() or b"sk-test-of" not in path.read_bytes(), path


def job_lines(folder: Path) -> Iterator[dict]:
    record = {"job": "a", "provider": "p", "model": "m", "base_url": "u", "file": "f"}
    record |= {"requests": 3, "prompt_tokens": 10, "reply_tokens": 20, "created_at": 1}
    yield record
    yield {"job": "a", "batch": "batch_1"}
    yield {"job": "a", "ended": "completed", "prompt_tokens": 0, "reply_tokens": 0}


@pytest.mark.parametrize("lines", [1, 2, 3])
def test_jobs_are_what_their_lines_say_and_a_torn_last_line_is_none(
    tmp_path: Path, lines: int
) -> None:
    whole = [json.dumps(line).encode() + b"\n" for line in job_lines(tmp_path)]
    for cut in range(len(whole[lines - 1])):
        torn = b"".join(whole[: lines - 1]) + whole[lines - 1][:cut]
        (tmp_path / "batches.jsonl").write_bytes(torn)
        found = jobs.Jobs(tmp_path)
        open_jobs = [job for job in found.all.values() if not job.ended]
        assert len(open_jobs) == (lines > 1)
        assert [job.batch for job in open_jobs] == [""] * (lines == 2) + ["batch_1"] * (lines == 3)
        found.write(
            {"job": "b", **{k: v for k, v in next(job_lines(tmp_path)).items() if k != "job"}}
        )
        assert "b" in jobs.read_jobs(tmp_path / "batches.jsonl")


def test_tokens_of_open_jobs_count_and_a_damaged_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "batches.jsonl"
    lines = [json.dumps(line) for line in job_lines(tmp_path)]
    path.write_text("\n".join(lines[:2]) + "\n", encoding="utf-8")
    assert jobs.reserved_by_jobs(tmp_path, "p", "m") == {"a": (10, 20)}
    assert jobs.reserved_by_jobs(tmp_path, "p", "other") == {}
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert jobs.reserved_by_jobs(tmp_path, "p", "m") == {}
    for damage in ('{"job": "b"}', "[]", "x", '{"job": "a", "batch": 3}', '{"job": "a", "x": ""}'):
        path.write_text(f"{lines[0]}\n{damage}\n", encoding="utf-8")
        with pytest.raises(WorkshopError, match="line 2 is damaged"):
            jobs.Jobs(tmp_path)


def test_the_window_and_the_limits_are_the_vendors(settings: Settings) -> None:
    """OpenAI takes no other window than 24h, 50,000 requests and 200 MB."""
    assert endpoint.WINDOW == "24h"
    assert (batch.MOST_REQUESTS, batch.MOST_BYTES) == (50_000, 200_000_000)


def test_a_replay_says_what_batches_have_cost(settings: Settings) -> None:
    with BatchServer(uneven) as server:
        made = settings(num_instructions=24, **at(server))
        cost = in_batches(made, *PRICES)["spending"]["cost"]
    journal = str(Path(made.work_dir) / "responses.jsonl")
    again = settings(provider="replay", responses=journal, work_dir="again", num_instructions=24)
    assert go(again, *PRICES)["spending"]["cost"] == pytest.approx(cost)


def test_a_budget_whose_batch_is_under_way_begins_no_further_instructions(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    with BatchServer(scripted_model(), polls=10**6) as server:
        flags = ["--provider=openai", "--model=m", f"--base-url={server.url}/v1", *PRICES]
        flags += ["--first-wait=0.01", f"--work-dir={tmp_path / 'work'}", "--max-cost=0.2"]
        flags += ["--num-instructions=300", "--batch"]
        assert self_instruct.main([*flags, "--batch-wait=0"]) == 3
        made = rows(tmp_path / "work", STEP_FILES[0])
        live = len(live_prompts(server))
        assert self_instruct.main([*flags, "--batch-wait=0"]) == 3
        assert rows(tmp_path / "work", STEP_FILES[0]) == made
        assert len(live_prompts(server)) == live and len(server.jobs) == 1
        assert "was enough" not in capsys.readouterr().out
        server.polls = 1
        server.finish_jobs()
        assert self_instruct.main(flags) == 0
        check_paid_once(server)
    assert len(rows(tmp_path / "work", STEP_FILES[3])) == 300
    assert not (tmp_path / "work" / "earlier").exists()


def test_a_job_whose_replies_are_all_in_the_journal_is_closed_after_a_kill(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt(130)

    with BatchServer(scripted_model()) as server:
        config = settings(num_instructions=24, **at(server))
        with monkeypatch.context() as patch:
            patch.setattr(batch.Batches, "close", killed)
            with pytest.raises(KeyboardInterrupt):
                in_batches(config, *PRICES)
        summary = in_batches(config, *PRICES)
    # Nothing of it is reserved any more, nothing is left to fetch, and its files are gone.
    assert "at_most_in_open_batches" not in summary["spending"]
    assert not (Path(config.work_dir) / "batches").exists()
    capsys.readouterr()
    assert batch.model_class(config, typed()) is LimitedModel
    assert "not fetched yet" not in capsys.readouterr().err


def test_the_servers_of_stages_2_and_3_are_checked_before_stage_1_is_paid_for(
    settings: Settings,
) -> None:
    with BatchServer(uneven) as server, BatchServer(uneven, batches=False) as without:
        there = {"instances_base_url": without.url + "/v1", "instances_model": "m"}
        with pytest.raises(UsageError, match="/batches is not there"):
            in_batches(settings(num_instructions=24, **at(server), **there))
        assert not live_prompts(server)


def test_stage_1_may_be_asked_where_no_batches_are(settings: Settings) -> None:
    with BatchServer(uneven) as server:
        there = {f"{stage}_{name}": value for stage in ("classify", "instances")
                 for name, value in at(server).items()}  # fmt: skip
        made = settings(num_instructions=8, provider="practice", **there)
        assert in_batches(made, "--batch-min=1")["counts"]["filter"]["out"] > 0
        assert server.paid


def test_an_open_batch_of_a_model_at_two_addresses_is_reserved_once(settings: Settings) -> None:
    with BatchServer(uneven, polls=10**6) as one, BatchServer(uneven, polls=10**6) as other:
        there = {"instances_base_url": other.url + "/v1", "instances_model": "m"}
        made = settings(num_instructions=24, **at(one, "local"), **there)
        flags = ("--batch-wait=0", *PRICES)
        first = in_batches(made, *flags)["spending"]["at_most_in_open_batches"]
        assert in_batches(made, *flags)["spending"]["at_most_in_open_batches"] == first
        for server in (one, other):
            server.polls = 1
            server.finish_jobs()
        done = in_batches(made, *PRICES)
        assert "at_most_in_open_batches" not in done["spending"] and not done["undone_because"]
