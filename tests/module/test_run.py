"""The whole workshop: the practice run, its files, stopping and going on, kills, signals, odd
places, a notebook."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from helpers.runs import (
    FIELDS,
    PATIENCE,
    ROOT,
    Gate,
    check_counts,
    check_pairs,
    command,
    finish,
    local,
    neighbours,
    obey_permissions,
    quiet,
    rows,
    stage_of,
    summary_of,
    until,
    views,
)
from helpers.server import Server, scripted_model, storm

import self_instruct_workshop as workshop
from self_instruct_workshop import STAGES, STEP_FILES, Config, Model, Task, WorkshopError, run

Settings = Callable[..., Config]


# --------------------------------------------------------------------------------------------------
# The practice run.


@pytest.fixture(params=["en", "zh"])
def practised(request: pytest.FixtureRequest, settings: Settings) -> tuple[Config, dict, list[str]]:
    config, said = settings(provider="practice", language=request.param, num_instructions=60), []
    return config, run(config, say=said.append), said


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_practice_command_run_twice_is_complete_and_the_second_asks_nothing(
    language: str, tmp_path: Path
) -> None:
    where = tmp_path / "work"
    arguments = ["--provider", "practice", "--language", language, "--work-dir", str(where)]
    first, second = (
        subprocess.run(
            [sys.executable, ROOT / "self_instruct.py", *arguments],
            capture_output=True,
            encoding="utf-8",
        )
        for _ in range(2)
    )
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    complete = workshop.screen_words(language)["complete"]
    assert complete not in first.stdout and complete in second.stdout
    assert summary_of(where)["status"] == "complete"
    assert summary_of(where)["counts"]["generate"]["out"] == 100
    assert {spent["asked_now"] for spent in summary_of(where)["tokens"].values()} == {0}


def test_a_second_practice_run_leaves_every_byte_and_the_journal_as_they_are(
    practised: tuple,
) -> None:
    config, first, _ = practised
    names = [*FIELDS, "responses.jsonl"]
    before = {name: (Path(config.work_dir) / name).read_bytes() for name in names}
    second = quiet(config)
    assert {name: (Path(config.work_dir) / name).read_bytes() for name in names} == before
    assert second["counts"] == first["counts"]
    assert sum(spent["asked_now"] for spent in second["tokens"].values()) == 0


def test_the_same_practice_run_in_another_folder_gives_the_same_bytes(
    practised: tuple, tmp_path: Path
) -> None:
    config, _, _ = practised
    quiet(Config(**asdict(config) | {"work_dir": str(tmp_path / "other")}))
    assert views(tmp_path / "other") == views(Path(config.work_dir))


def test_another_seed_gives_another_practice_dataset(settings: Settings, tmp_path: Path) -> None:
    folders = [str(tmp_path / name) for name in "ab"]
    for seed, folder in enumerate(folders):
        quiet(settings(provider="practice", num_instructions=10, work_dir=folder, seed=seed))
    first, second = (rows(Path(folder), "step4_final.jsonl") for folder in folders)
    assert first != second


def test_step_files_are_complete_jsonl_with_exactly_the_documented_fields(practised: tuple) -> None:
    folder = Path(practised[0].work_dir)
    for name, names in FIELDS.items():
        found = {tuple(sorted(row)) for row in rows(folder, name)}
        assert found == {tuple(sorted(names.split()))}, name


def test_files_keep_letters_beyond_ascii_unescaped_and_have_no_carriage_return(
    practised: tuple,
) -> None:
    for path in Path(practised[0].work_dir).glob("*.json*"):
        raw = path.read_bytes()
        assert b"\r" not in raw and not re.search(rb"\\u[0-9a-fA-F]{4}", raw), path


def test_the_folder_holds_the_documented_files_and_nothing_else(practised: tuple) -> None:
    names = {path.name for path in Path(practised[0].work_dir).iterdir()}
    assert names == {*FIELDS, "responses.jsonl", "run.json", ".lock"}


def test_counts_add_up_per_stage_and_equal_the_files(practised: tuple) -> None:
    check_counts(Path(practised[0].work_dir), practised[1])


def test_the_practice_run_gives_several_rules_work_and_leaves_some_answers_unread(
    settings: Settings,
) -> None:
    counts = quiet(settings(provider="practice", num_instructions=200))["counts"]
    assert {"too_similar", "needs_more_than_text"} <= {*counts["generate"]["rejected"]}
    assert len(counts["generate"]["rejected"]) >= 4
    assert counts["filter"]["rejected"]
    assert (
        counts["classify"]["classification"] > 20 and counts["classify"]["not_classification"] > 50
    )


def test_an_accepted_record_tells_its_neighbours_its_mean_score_and_where_it_came_from(
    practised: tuple,
) -> None:
    config, _, _ = practised
    pool = workshop.InstructionPool()
    for task in workshop.load_seed_tasks(workshop.DEFAULT_SEEDS[config.language]):
        pool.add(task.instruction)
    records = rows(Path(config.work_dir), "step1_instructions.jsonl")
    seen = set()
    for record in records:
        scores = list(neighbours(record).values())
        assert len(scores) == 10 and scores == sorted(scores, reverse=True) and scores[0] <= 0.7
        assert neighbours(record) == dict(pool.nearest(record["instruction"]))
        mean = pool.similarities([record["instruction"]])[0].mean()
        assert record["avg_similarity_score"] == pytest.approx(mean, abs=1e-12)
        pool.add(record["instruction"])
        choice = record["metadata"]["response"]["choices"][0]
        # Only the first row of a request keeps its prompt.
        first = {"prompt"} if record["request_idx"] not in seen else set()
        assert set(record["metadata"]) == {"response", "created_at"} | first
        seen.add(record["request_idx"])
        assert set(choice) == {"text", "finish_reason"}
        assert re.fullmatch(
            r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", record["metadata"]["created_at"]
        )
        words = " ".join(re.sub(r"[*\n]", " ", choice["text"]).split())
        assert record["instruction"] in words
    order = [record["request_idx"] for record in records]
    assert order == sorted(order) and order[0] == 0
    assert [record["id"] for record in records] == [
        f"machine_task_{n}" for n in range(len(records))
    ]


def test_final_rows_are_pairs_of_the_bank_and_none_comes_twice(practised: tuple) -> None:
    config, _, _ = practised
    pairs = {
        row["instruction"]: row["instances"]
        for row in workshop.read_data("practice_tasks", config.language)
    }
    bank = {
        task: [{"input": i["input"], "output": i["output"]} for i in given]
        for task, given in pairs.items()
    }
    final = rows(Path(config.work_dir), "step4_final.jsonl")
    assert len(final) > 45
    assert all(
        {"input": row["input"], "output": row["output"]} in bank[row["instruction"]]
        for row in final
    )
    assert len({(row["instruction"], row["input"]) for row in final}) == len(final)
    assert all(row["output"].strip() for row in final)


@pytest.mark.parametrize("wanted", [1, 5])
def test_several_instances_for_a_task_stay_with_their_task(wanted: int, settings: Settings) -> None:
    with Server(scripted_model()) as server:
        config = settings(**local(server, num_instructions=12, instances_per_instruction=wanted))
        check_counts(Path(config.work_dir), quiet(config))
    check_pairs(config)
    final = Counter(row["instruction"] for row in rows(Path(config.work_dir), "step4_final.jsonl"))
    assert set(final.values()) == {wanted} and len(final) == 12


# --------------------------------------------------------------------------------------------------
# Stopping after a stage, going on, and a changed count.


def test_until_stops_after_each_stage_and_the_next_call_goes_on_without_asking_again(
    settings: Settings,
) -> None:
    with Server(scripted_model()) as server:
        config = settings(**local(server, num_instructions=12))
        folder = Path(config.work_dir)
        for number, stage in enumerate(STAGES):
            before = len(server.requests)
            summary = quiet(settings(**local(server, num_instructions=12, until=stage)))
            assert [name for name in STEP_FILES if (folder / name).exists()] == STEP_FILES[
                : number + 1
            ]
            assert summary["status"] == (
                "complete" if stage == "filter" else f"stopped after {stage}"
            )
            asked = {
                stage_of(r["prompt"]) for r in server.requests[before:] if r["method"] == "POST"
            }
            assert asked == ({stage} if stage != "filter" else set())
        prompts = Counter(r["prompt"] for r in server.requests if r["method"] == "POST")
        assert max(prompts.values()) == 1
        in_steps = views(folder)
        quiet(
            settings(**local(server, num_instructions=12, work_dir=str(folder.parent / "at once")))
        )
    assert in_steps == views(folder.parent / "at once")


@pytest.mark.parametrize("until", STAGES[:3])
def test_files_of_an_earlier_run_that_are_no_view_of_this_one_are_removed(
    until: str, settings: Settings
) -> None:
    quiet(config := settings(provider="practice", num_instructions=10))
    quiet(settings(provider="practice", num_instructions=10, until=until))
    left = [name for name in STEP_FILES if (Path(config.work_dir) / name).exists()]
    assert left == STEP_FILES[: STAGES.index(until) + 1]
    assert not any(
        row["stage"] == "filter" for row in rows(Path(config.work_dir), "rejected.jsonl")
    )


def test_an_output_path_gets_the_final_dataset_and_its_folder_is_made(
    settings: Settings, tmp_path: Path
) -> None:
    target = tmp_path / "new folder" / "数据.jsonl"
    config = settings(provider="practice", num_instructions=10, output_path=str(target))
    quiet(config)
    assert target.read_bytes() == (Path(config.work_dir) / "step4_final.jsonl").read_bytes() != b""
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_a_run_that_stops_early_writes_no_output_path(settings: Settings, tmp_path: Path) -> None:
    quiet(
        settings(
            provider="practice",
            num_instructions=5,
            until="instances",
            output_path=str(tmp_path / "out.jsonl"),
        )
    )
    assert not (tmp_path / "out.jsonl").exists()


def test_a_raised_count_goes_on_and_asks_nothing_it_has(settings: Settings) -> None:
    with Server(scripted_model()) as server:
        quiet(config := settings(**local(server, num_instructions=20)))
        small = rows(Path(config.work_dir), "step1_instructions.jsonl")
        summary = quiet(settings(**local(server, num_instructions=45)))
        prompts = Counter(r["prompt"] for r in server.requests if r["method"] == "POST")
    large = rows(Path(config.work_dir), "step1_instructions.jsonl")
    keys = [row["key"] for row in rows(Path(config.work_dir), "responses.jsonl")]
    assert large[:20] == small and len(large) == 45 == summary["counts"]["filter"]["out"]
    assert len(keys) == len(set(keys)) == sum(prompts.values()) and max(prompts.values()) == 1


def test_a_lowered_count_asks_nothing_and_keeps_the_first_tasks(settings: Settings) -> None:
    large = quiet(config := settings(provider="practice", num_instructions=40))
    tasks = rows(Path(config.work_dir), "step1_instructions.jsonl")
    small = quiet(settings(provider="practice", num_instructions=15))
    assert rows(Path(config.work_dir), "step1_instructions.jsonl") == tasks[:15]
    assert large["counts"]["generate"]["out"] == 40
    assert sum(spent["asked_now"] for spent in small["tokens"].values()) == 0


def test_a_larger_limit_of_tokens_asks_again_only_for_what_was_cut(settings: Settings) -> None:
    model = scripted_model()

    def short_of_breath(prompt: str, body: dict) -> str | tuple[str, str]:
        text = model(prompt, body)
        long = stage_of(prompt) == "instances" and len(prompt) % 3 == 0
        return (text[:20], "length") if long and body["max_tokens"] < 2000 else text

    with Server(short_of_breath) as server:
        config = settings(**local(server, num_instructions=30, max_tokens=1000))
        before = quiet(config)
        asked = len(server.requests)
        journal = rows(Path(config.work_dir), "responses.jsonl")
        # What was cut was asked for once more, and some of these replies were cut, too.
        replies = [row for row in journal if row["finish_reason"] == "length"]
        cut = sum(row["sample"] == 0 for row in replies)
        assert before["tokens"]["instances"]["cut"] == len(replies) > cut
        after = quiet(replace(config, max_tokens=3000))
        again = [request for request in server.requests[asked:] if request["method"] == "POST"]
    assert 3 < cut < 27
    assert {stage_of(request["prompt"]) for request in again} == {"instances"} and len(again) == cut
    assert after["tokens"]["instances"]["cut"] == 0
    assert after["counts"]["filter"]["out"] > before["counts"]["filter"]["out"]


def test_a_changed_threshold_asks_nothing_again_in_stage_1(settings: Settings) -> None:
    quiet(settings(provider="practice", num_instructions=30))
    strict = quiet(
        config := settings(provider="practice", num_instructions=20, rouge_threshold=0.4)
    )
    scores = [
        max(neighbours(r).values()) for r in rows(Path(config.work_dir), "step1_instructions.jsonl")
    ]
    assert max(scores) <= 0.4
    assert strict["tokens"]["generate"]["asked_now"] <= 1


# --------------------------------------------------------------------------------------------------
# When novelty dries up.


def test_novelty_that_dries_up_ends_with_a_notice_and_exit_0(settings: Settings) -> None:
    config = settings(provider="practice", num_instructions=2000, language="zh")
    done = finish(config)
    made = summary_of(Path(config.work_dir))["counts"]["generate"]["out"]
    assert done.returncode == 0 and 100 < made < 2000
    assert re.search(
        rf"要 2000 个指令，只有 {made} 个，连续 10 次请求没有新指令",
        "".join(done.stdout.split("\n")),
    )
    check_counts(Path(config.work_dir), summary_of(Path(config.work_dir)))


@pytest.mark.parametrize("concurrency", [1, 16])
@pytest.mark.parametrize(
    ("said", "made"),
    [
        (
            "9. Sort these words by their length.\n"
            "10. Name three rivers of Europe that reach the sea.",
            2,
        ),
        ("", 0),
        ("I'm sorry, but I can't help with that request.", 0),
    ],
)
def test_a_server_that_always_repeats_itself_is_left_after_its_patience_is_used_up(
    said: str, made: int, concurrency: int, settings: Settings
) -> None:
    def parrot(prompt: str, body: dict) -> str:
        return said if stage_of(prompt) == "generate" else scripted_model()(prompt, body)

    with Server(parrot) as server:
        config = settings(
            **local(server, num_instructions=500, concurrency=concurrency, patience=7)
        )
        text: list[str] = []
        summary = run(config, say=text.append)
        asked = [
            r
            for r in server.requests
            if r["method"] == "POST" and stage_of(r["prompt"]) == "generate"
        ]
    assert len(asked) == bool(made) + 7 * (
        1 if said else 2
    )  # an empty reply is asked for once more
    assert (
        summary["counts"]["generate"]["out"]
        == len(rows(Path(config.work_dir), "step4_final.jsonl"))
        == made
    )
    assert re.search(
        rf"\nnotice: .*\b{made} of 500 instructions\W.*\b7 requests in a row", "\n".join(text)
    )
    check_counts(Path(config.work_dir), summary)


def test_how_many_new_instructions_a_request_brings_is_counted_and_few_come_with_a_hint(
    settings: Settings,
) -> None:
    written = iter(range(10**6))

    def drying_up(prompt: str, body: dict) -> str:
        """Eight new tasks in the first five requests, then one in every third, and a copy
        otherwise."""
        if stage_of(prompt) != "generate":
            return scripted_model()(prompt, body)
        number = next(written)
        wanted = 8 if number < 5 else number % 3 == 0
        words = [f"{number * 8 + n:05d}" for n in range(wanted)]
        if not words:
            return "9. Sort these words by their length."
        return "\n".join(
            f"{n}. Spell {word} as {word[::-1]} and {word * 2}." for n, word in enumerate(words, 9)
        )

    with Server(drying_up) as server:
        config, text = settings(**local(server, num_instructions=48, concurrency=1)), []
        summary = run(config, say=text.append)
    new = Counter(row["request_idx"] for row in rows(Path(config.work_dir), STEP_FILES[0]))
    asked = max(new) + 1
    last_ten = sum(new[i] for i in range(asked - 10, asked)) / 10
    assert summary["counts"]["generate"]["out"] == 48
    assert (
        summary["counts"]["generate"]["new_per_request"] == pytest.approx(last_ten, abs=0.051)
        and last_ten < 1
    )
    assert re.search(
        r"notice: 48 of 48 instructions, few new.*--machine-tasks-shown",
        " ".join("\n".join(text).split()),
    )


def test_a_run_that_finds_enough_gives_no_hint(settings: Settings) -> None:
    said: list[str] = []
    summary = run(settings(provider="practice", num_instructions=40), say=said.append)
    assert summary["counts"]["generate"]["new_per_request"] > 3
    assert "machine-tasks-shown" not in "\n".join(said)


def test_stage_1_never_sends_more_requests_than_the_need(settings: Settings) -> None:
    with Server(scripted_model()) as server:
        quiet(settings(**local(server, num_instructions=64, concurrency=32, until="generate")))
        assert len([r for r in server.requests if r["method"] == "POST"]) == 64 // 8


# --------------------------------------------------------------------------------------------------
# Speed changes nothing, nor do faults.


def test_results_do_not_depend_on_concurrency(settings: Settings, tmp_path: Path) -> None:
    def dawdle(prompt: str, body: dict) -> str:
        time.sleep(0.02 + random.random() * 0.04)
        return scripted_model()(prompt, body)

    found, busiest = [], []
    for concurrency in (1, 8, 32):
        with Server(dawdle) as server:
            folder = tmp_path / str(concurrency)
            quiet(
                settings(
                    **local(
                        server, num_instructions=24, concurrency=concurrency, work_dir=str(folder)
                    )
                )
            )
            found.append(views(folder))
            busiest.append(server.max_in_flight)
    assert found[0] == found[1] == found[2] and set(found[0]) == set(STEP_FILES)
    assert busiest[0] == 1 and 1 < busiest[1] <= 8 < busiest[2] <= 32


@pytest.mark.slow
def test_a_storm_of_faults_changes_nothing_in_a_run_of_100_instructions(
    settings: Settings, tmp_path: Path
) -> None:
    with Server(scripted_model()) as server:
        calm = settings(
            **local(server, num_instructions=100, concurrency=16, work_dir=str(tmp_path / "calm"))
        )
        quiet(calm)
    with Server(scripted_model(), faults=storm(0.3, 1)) as server:
        config = settings(**local(server, num_instructions=100, concurrency=16, max_attempts=15))
        summary = quiet(config)
        faults = {r["fault"] for r in server.requests}
    assert len(faults) > 8 and sum(summary["faults"].values()) > 50
    assert summary["status"] == "complete" and summary["undone_because"] == {}
    assert summary["counts"]["filter"]["out"] == 100
    assert views(Path(config.work_dir)) == views(tmp_path / "calm")
    check_counts(Path(config.work_dir), summary)
    check_pairs(config)


def test_requests_that_fail_for_good_are_counted_and_the_next_run_asks_them_alone(
    settings: Settings,
) -> None:
    asked: Counter[str] = Counter()

    def faults(index: int, prompt: str) -> str:
        stage = stage_of(prompt)
        asked[stage] += 1
        # Of stage 2, the questions about seed tasks come first.
        failing = {"classify": range(17, 20), "instances": range(1, 3)}.get(stage, ())
        return "500" if asked[stage] in failing else ""

    with Server(scripted_model(), faults=faults) as server:
        config = settings(**local(server, num_instructions=16, max_attempts=1, concurrency=1))
        first = finish(config)
        assert first.returncode == 3 and "5 undone (" in first.stdout, first.stderr
        half = summary_of(Path(config.work_dir))
        assert [half["counts"][stage]["undone"] for stage in STAGES] == [0, 3, 2, 0]
        check_counts(Path(config.work_dir), half)
        before = len(server.requests)
        assert quiet(config)["counts"]["filter"]["out"] == 16
        posts = [stage_of(r["prompt"]) for r in server.requests[before:] if r["method"] == "POST"]
    assert Counter(posts) == {"classify": 3, "instances": 5}
    check_pairs(config)


def test_what_the_content_filter_holds_back_is_not_promised_to_the_next_run(
    settings: Settings,
) -> None:
    """A held-back reply is in the journal, so that the same command never asks it again: it must
    not say it does."""

    def faults(index: int, prompt: str) -> str:
        return "filter" if stage_of(prompt) == "instances" else ""

    with Server(scripted_model(), faults=faults) as server:
        config = settings(**local(server, num_instructions=2))
        said: list[str] = []
        for _ in range(2):
            before = len(server.requests)
            run(config, say=said.append)
        asked_again = [r for r in server.requests[before:] if r["method"] == "POST"]
    assert bool(asked_again) == ("asks them again" in said[-1])


def test_a_question_of_stage_2_that_the_content_filter_holds_back_leaves_null_and_the_task_goes_on(
    settings: Settings,
) -> None:
    def faults(index: int, prompt: str) -> str:
        return "filter" if stage_of(prompt) == "classify" else ""

    with Server(scripted_model(), faults=faults) as server:
        counts = quiet(config := settings(**local(server, num_instructions=2)))["counts"]
    assert [row["is_classification"] for row in rows(Path(config.work_dir), STEP_FILES[1])] == [
        None
    ] * 2
    assert counts["classify"]["unknown"] == counts["filter"]["out"] == 2


# --------------------------------------------------------------------------------------------------
# Runs that are killed or interrupted, as real processes.


KILLED = {"num_instructions": 64, "concurrency": 4}


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("uninterrupted") / "whole"
    with Server(scripted_model()) as server:
        quiet(Config(**local(server, work_dir=str(folder), **KILLED)))
    return views(folder)


def start(config: Config) -> subprocess.Popen:
    return subprocess.Popen(
        command(config), stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8"
    )


@pytest.mark.parametrize("stage", STAGES[:3])
def test_a_run_killed_in_any_stage_and_resumed_gives_the_bytes_of_an_uninterrupted_one(
    stage: str, settings: Settings, uninterrupted: dict
) -> None:
    gate = Gate(stage, 5 if stage == "generate" else 30)
    with Server(gate) as server:
        config = settings(**local(server, **KILLED))
        running = start(config)
        assert gate.reached.wait(PATIENCE)
        running.kill()
        running.communicate()
        gate.opened.set()
        assert running.returncode == -signal.SIGKILL
        folder = Path(config.work_dir)
        # Requests of a stage may be sent ahead of time, while an earlier one is at work.
        ended = [name for name in STEP_FILES if (folder / name).exists()]
        assert ended == STEP_FILES[: len(ended)] and len(ended) <= STAGES.index(stage)
        kept = rows(folder, "responses.jsonl")
        assert len(kept) >= 3
        delivered = len(server.requests)
        assert quiet(config)["status"] == "complete"
        asked = [r["prompt"] for r in server.requests[delivered:] if r["method"] == "POST"]
    assert views(folder) == uninterrupted
    assert not {workshop.as_text(row["prompt"]) for row in kept} & {*asked}


def test_a_run_killed_while_it_writes_stage_4_and_resumed_gives_the_same_bytes(
    settings: Settings, uninterrupted: dict
) -> None:
    with Server(scripted_model()) as server:
        config = settings(**local(server, **KILLED))
        folder = Path(config.work_dir)
        folder.mkdir()
        os.mkfifo(
            folder / "step4_final.jsonl.tmp"
        )  # nobody reads it: the writer waits in the midst of stage 4
        running = start(config)
        until((folder / "step3_raw_instances.jsonl").exists)
        running.kill()
        running.communicate()
        assert running.returncode == -signal.SIGKILL and not (folder / "step4_final.jsonl").exists()
        (folder / "step4_final.jsonl.tmp").unlink()
        before = len([r for r in server.requests if r["method"] == "POST"])
        quiet(config)
        assert len([r for r in server.requests if r["method"] == "POST"]) == before
    assert views(folder) == uninterrupted


@pytest.mark.slow
def test_a_run_killed_again_and_again_comes_to_the_same_end(
    settings: Settings, uninterrupted: dict
) -> None:
    dice = random.Random(7)
    with Server(lambda prompt, body: time.sleep(0.01) or scripted_model()(prompt, body)) as server:
        config = settings(**local(server, **KILLED))
        for _ in range(3):
            running, goal = start(config), len(server.requests) + dice.randint(5, 30)
            while len(server.requests) < goal and running.poll() is None:
                time.sleep(0.001)
            running.kill()
            running.communicate()
            with open(Path(config.work_dir) / "responses.jsonl", "ab") as journal:
                journal.write(b'{"version": 1, "key": "ab' if dice.random() < 0.5 else b"")
        quiet(config)
        answered = [r["prompt"] for r in server.requests if r["method"] == "POST"]
    assert views(Path(config.work_dir)) == uninterrupted
    assert (
        len(answered) <= len({*answered}) + 3 * KILLED["concurrency"]
    )  # at most what was in flight is asked again


def test_a_kill_leaves_no_later_file_of_an_earlier_run(settings: Settings) -> None:
    """A class that looks into the folder must not take another run's dataset for this one's."""
    gate = Gate("classify", 16 + 8)  # 16 seed tasks and 8 tasks of the first run
    with Server(gate) as server:
        config = settings(**local(server, num_instructions=8))
        quiet(config)
        # One at a time: nothing is asked ahead of its stage.
        running = start(settings(**local(server, num_instructions=24, concurrency=1)))
        assert gate.reached.wait(PATIENCE)
        running.kill()
        running.communicate()
        gate.opened.set()
    folder = Path(config.work_dir)
    assert len(rows(folder, STEP_FILES[0])) == 24
    assert [name for name in STEP_FILES if (folder / name).exists()] == STEP_FILES[:1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sent", "stage"),
    [(signal.SIGINT, "generate"), (signal.SIGTERM, "classify"), (signal.SIGINT, "instances")],
)
def test_an_interrupted_run_leaves_valid_files_without_its_last_replies_and_the_next_completes(
    sent: signal.Signals, stage: str, settings: Settings, uninterrupted: dict
) -> None:
    gate = Gate(stage, 4 if stage == "generate" else 30)
    with Server(gate) as server:
        config = settings(**local(server, **KILLED))
        running = start(config)
        assert gate.reached.wait(PATIENCE)
        time.sleep(0.1)  # so that replies before the gate have been taken in
        running.send_signal(sent)
        _, errors = running.communicate(
            timeout=PATIENCE / 2
        )  # the gate is closed: the replies do not come
        assert running.returncode == 128 + sent
        assert "interrupted: every reply so far is kept" in errors and "Traceback" not in errors
        # Requests of a stage may be sent ahead of time, while an earlier one is at work.
        folder, here = Path(config.work_dir), STAGES.index(stage)
        written = [name for name in STEP_FILES if (folder / name).exists()]
        assert written == STEP_FILES[: len(written)] and 1 <= len(written) <= here + 1
        for name in written:
            found = rows(folder, name)
            assert {tuple(sorted(row)) for row in found} == {tuple(sorted(FIELDS[name].split()))}
            assert uninterrupted[name].startswith(views(folder)[name])
        assert 0 < len(found) <= 64  # all of them where the stage before it was just ending
        assert summary_of(folder)["status"] == "interrupted"
        check_counts_of_a_part(folder)
        gate.opened.set()
        done = finish(config)
    assert done.returncode == 0, done.stderr
    assert views(folder) == uninterrupted and summary_of(folder)["status"] == "complete"


def check_counts_of_a_part(folder: Path) -> None:
    for stage, name in zip(STAGES, STEP_FILES, strict=True):
        if (folder / name).exists():
            assert summary_of(folder)["counts"][stage]["out"] == len(rows(folder, name))


def test_an_interrupt_while_a_server_hangs_on_the_first_request_is_obeyed(
    settings: Settings,
) -> None:
    gate = Gate("generate", 0)
    with Server(gate) as server:
        running = start(settings(**local(server, num_instructions=8)))
        assert gate.reached.wait(PATIENCE)
        running.send_signal(signal.SIGINT)
        running.communicate(timeout=PATIENCE / 2)
        assert running.returncode == 130
        gate.opened.set()


def test_a_fatal_error_ends_the_process_though_slow_replies_are_in_flight(
    settings: Settings,
) -> None:
    gate = Gate("classify", 1)

    def faults(index: int, prompt: str) -> str:
        if stage_of(prompt) == "classify" and gate.reached.is_set():
            time.sleep(0.2)
            return "401"
        return ""

    with Server(gate, faults=faults) as server:
        running = start(settings(**local(server, num_instructions=8, concurrency=4)))
        assert gate.reached.wait(PATIENCE)
        try:
            _, errors = running.communicate(timeout=PATIENCE / 2)  # the gate is closed
        finally:
            running.kill()
            gate.opened.set()
    assert errors.startswith("error: local at") and errors.count("\n") == 1
    assert running.returncode == 1


# --------------------------------------------------------------------------------------------------
# Places: odd paths, a read-only folder, a copied checkout.


def test_a_work_dir_with_spaces_and_chinese_characters_works(
    settings: Settings, tmp_path: Path
) -> None:
    folder = tmp_path / "my 数据 folder" / "第 1 次"
    done = finish(settings(provider="practice", num_instructions=8, work_dir=str(folder)))
    assert done.returncode == 0, done.stderr
    assert len(rows(folder, "step1_instructions.jsonl")) == 8 and str(folder) in done.stdout
    assert summary_of(folder)["settings"]["work_dir"] == str(folder)


def test_a_work_dir_whose_name_is_not_utf8_works_too(settings: Settings, tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + "/数据".encode("gbk")))
    done = finish(
        settings(provider="practice", num_instructions=3, work_dir=str(folder)), errors="replace"
    )
    assert done.returncode == 0, done.stderr
    assert summary_of(folder)["status"] == "complete"


@pytest.mark.parametrize("made_before", [False, True])
def test_a_read_only_folder_is_one_line_and_exit_1(
    made_before: bool, settings: Settings, tmp_path: Path
) -> None:
    folder = tmp_path / "closed"
    config = settings(
        provider="practice",
        num_instructions=3,
        work_dir=str(folder if made_before else folder / "w"),
    )
    folder.mkdir()
    if made_before:
        quiet(config)
    folder.chmod(0o555)
    probe = [sys.executable, "-c", f"open({str(folder / 'probe')!r}, 'w')"]
    if subprocess.run(probe, capture_output=True, preexec_fn=obey_permissions).returncode == 0:
        pytest.skip("this user may write everywhere")
    done = finish(config, preexec_fn=obey_permissions)
    folder.chmod(0o755)
    assert done.returncode == 1
    assert (
        done.stderr.startswith("error: ")
        and done.stderr.count("\n") == 1
        and str(folder) in done.stderr
    )


def test_a_work_dir_that_is_a_file_is_one_line_and_exit_1(
    settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    done = finish(settings(provider="practice", work_dir=str(tmp_path / "file")))
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "--work-dir" in done.stderr
    assert (tmp_path / "file").read_text() == "mine"


def test_an_output_path_that_is_a_folder_is_refused_before_anything_is_asked(
    tmp_path: Path,
) -> None:
    (tmp_path / "folder").mkdir()
    flags = [
        "--provider",
        "practice",
        "--work-dir",
        str(tmp_path / "work"),
        "--output-path",
        str(tmp_path / "folder"),
    ]
    done = subprocess.run(
        [sys.executable, str(ROOT / "self_instruct.py"), *flags], capture_output=True, text=True
    )
    assert done.returncode == 2 and "error: --output-path must be a file" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cwd", "folder"]


def test_a_copied_checkout_runs_without_arguments_from_another_folder(tmp_path: Path) -> None:
    checkout = tmp_path / "a copy 副本"
    shutil.copytree(ROOT / "data", checkout / "data", ignore=shutil.ignore_patterns("workshop"))
    shutil.copy(ROOT / "self_instruct_workshop.py", checkout)
    done = subprocess.run(
        [sys.executable, checkout / "self_instruct_workshop.py"],
        capture_output=True,
        encoding="utf-8",
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(rows(checkout / "data" / "workshop", "step1_instructions.jsonl")) == 100
    assert list((tmp_path / "cwd").iterdir()) == [tmp_path / "cwd" / ".env"]
    assert (
        "not a language model" in done.stdout.lower()
        and "API key" in done.stdout
        and ".env" in done.stdout
    )
    assert [f"\n{n} {stage}: " in done.stdout for n, stage in enumerate(STAGES, 1)] == [True] * 4
    assert re.search(r"too_similar: ROUGE-L \d\.\d\d with the nearest, allowed", done.stdout)
    assert re.search(r"\n kept \d+ of \d+ instances", done.stdout) and "Next, " in done.stdout


# --------------------------------------------------------------------------------------------------
# Each stage by itself, as a notebook uses them.


@pytest.fixture
def seeds() -> list[Task]:
    return workshop.load_seed_tasks(workshop.DEFAULT_SEEDS["en"])


def test_the_four_stages_called_one_by_one_give_what_a_run_gives(
    settings: Settings, seeds: list[Task], tmp_path: Path
) -> None:
    quiet(settings(provider="practice", num_instructions=30, work_dir=str(tmp_path / "run")))
    config = settings(provider="practice", num_instructions=30)
    with Model(config) as model:
        tasks = workshop.generate_instructions(config, model, seeds)
        assert [task.instruction for task in tasks] == [
            row["instruction"] for row in rows(tmp_path / "run", "step1_instructions.jsonl")
        ]
        tasks = workshop.classify_instructions(config, model, tasks)
        tasks = workshop.generate_instances(config, model, tasks)
        dataset = workshop.filter_and_dedupe(config, model, tasks)
    assert dataset == rows(tmp_path / "run", "step4_final.jsonl")


def test_classification_and_instances_can_be_asked_for_instructions_of_ones_own(
    settings: Settings,
) -> None:
    tasks = [
        Task("mine", "Sort these words by length."),
        Task("二", "判断这句话的情感：积极或消极。"),
    ]
    with Server(scripted_model()) as server, Model(config := settings(**local(server))) as model:
        assert workshop.classify_instructions(config, model, tasks) == tasks
        assert all(task.is_classification in (True, False) for task in tasks)
        assert workshop.generate_instances(config, model, tasks) == tasks
        assert [len(task.instances) for task in tasks] == [1, 1]
        assert len(workshop.filter_and_dedupe(config, model, tasks)) == 2


def test_the_seed_tasks_themselves_pass_through_the_filter(
    settings: Settings, seeds: list[Task]
) -> None:
    config = settings(provider="practice")
    with Model(config) as model:
        dataset = workshop.filter_and_dedupe(config, model, seeds)
    assert len(dataset) >= 0.95 * sum(len(task.instances) for task in seeds)
    assert {tuple(row) for row in dataset} == {("instruction", "input", "output")}


def test_a_stage_without_tasks_gives_none_and_asks_nothing(settings: Settings) -> None:
    config = settings(provider="practice")
    with Model(config) as model:
        assert workshop.classify_instructions(config, model, []) == []
        assert workshop.generate_instances(config, model, []) == []
        assert workshop.filter_and_dedupe(config, model, []) == []
    assert (Path(config.work_dir) / "responses.jsonl").read_bytes() == b""


def test_stage_1_without_any_seed_task_says_so(settings: Settings) -> None:
    config = settings(provider="practice", num_instructions=5)
    with Model(config) as model, pytest.raises(WorkshopError, match="seed"):
        workshop.generate_instructions(config, model, [])


def test_a_cell_run_twice_gives_the_same_tasks_and_asks_nothing(
    settings: Settings, seeds: list[Task]
) -> None:
    config = settings(provider="practice", num_instructions=10)
    with Model(config) as model:
        tasks = list(workshop.generate_instructions(config, model, seeds))
        assert workshop.generate_instructions(config, model, seeds) == tasks
        for stage in (workshop.classify_instructions, workshop.generate_instances):
            first = stage(config, model, tasks)
            assert stage(config, model, tasks) == first
    assert len(
        keys := [row["key"] for row in rows(Path(config.work_dir), "responses.jsonl")]
    ) == len({*keys})


def test_the_filter_cell_run_twice_gives_no_row_twice(
    settings: Settings, seeds: list[Task]
) -> None:
    config = settings(provider="practice")
    with Model(config) as model:
        first = list(workshop.filter_and_dedupe(config, model, seeds))
        assert workshop.filter_and_dedupe(config, model, seeds) == first


def test_the_first_cell_run_again_with_a_larger_count_gives_no_instruction_twice(
    settings: Settings, seeds: list[Task]
) -> None:
    with Model(settings(provider="practice")) as model:
        for wanted in (10, 30):
            config = settings(provider="practice", num_instructions=wanted)
            tasks = workshop.generate_instructions(config, model, seeds)
    assert len(tasks) == 30 == len({task.instruction for task in tasks})


def test_a_cell_that_failed_does_not_lock_the_folder_for_the_next(settings: Settings) -> None:
    kept = []  # as a notebook keeps the last traceback
    for _ in range(2):
        with pytest.raises(WorkshopError) as failure:
            Model(settings(provider="local", base_url="http://127.0.0.1:9/v1"))
        kept.append(failure)
        assert "lists no model" in str(failure.value)


def test_two_runs_at_once_in_one_folder_are_refused_and_a_finished_one_gives_it_free(
    settings: Settings,
) -> None:
    config = settings(provider="practice", num_instructions=3)
    with Model(config):
        done = finish(config)
        assert (
            done.returncode == 1
            and "another run is writing to" in done.stderr
            and done.stderr.count("\n") == 1
        )
    assert finish(config).returncode == 0


def test_a_threshold_of_one_lets_everything_in_but_exact_copies(settings: Settings) -> None:
    config = settings(
        provider="practice", num_instructions=150, rouge_threshold=1.0, until="generate"
    )
    quiet(config)
    records = rows(Path(config.work_dir), "step1_instructions.jsonl")
    assert len({record["instruction"] for record in records}) == len(records)
    assert {len(record["most_similar"]) for record in records} == {10}


def test_cut_replies_are_named_with_what_helps(settings: Settings) -> None:
    said: list[str] = []
    run(settings(provider="practice", num_instructions=30, max_tokens=30), say=said.append)
    assert re.search(r"notice: \d+ replies were cut at --max-tokens 30; more asks again", said[-1])


def test_the_files_named_at_the_end_are_there(settings: Settings) -> None:
    said: list[str] = []
    config = settings(provider="practice", num_instructions=8, until="classify")
    run(config, say=said.append)
    files = re.search(r"Files in \S+: (.*) To go on", " ".join(said[-1].split()))[1].split(", ")
    assert files[:2] == list(STEP_FILES[:2]) and all(
        (Path(config.work_dir) / name).exists() for name in files
    )


def test_a_run_without_a_single_instruction_says_so_even_where_requests_failed(
    settings: Settings,
) -> None:
    said: list[str] = []
    with Server(scripted_model(), faults=lambda index, prompt: "filter") as server:
        run(settings(**local(server, num_instructions=20)), say=said.append)
    assert (
        "notice: 0 of 20 instructions" in said[-1] and "held back by the content filter" in said[-1]
    )
