"""Faults of the reference programs, one test each: ours does not have them.

The official code of Self-Instruct, Alpaca's one-call version of it, and an earlier teaching script.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers.runs import ROOT, prompts_of, stage_of
from helpers.server import Server, people_say, scripted_model

import self_instruct
import self_instruct_workshop as workshop
from self_instruct_workshop import (
    DEFAULT_SEEDS,
    PROBES,
    STEP_FILES,
    Config,
    InstructionPool,
    Model,
    Reply,
    Results,
    Task,
    WorkshopError,
    filter_instances,
    generate_instructions,
    instruction_problem,
    load_seed_tasks,
    parse_classification,
    parse_instances,
    parse_instructions,
    run,
    take_candidates,
)

Settings = Callable[..., Config]


def rows(config: Config, name: str) -> list[dict]:
    return [
        json.loads(line)
        for line in (Path(config.work_dir) / name).read_text(encoding="utf-8").splitlines()
    ]


@pytest.fixture
def against(settings: Settings) -> Callable[..., SimpleNamespace]:
    """Run against a server; return its requests, the summary or the error, and the config."""

    def go(
        answer: Callable[[str, dict], str],
        faults: object = (),
        key: str | None = None,
        **changes: object,
    ) -> SimpleNamespace:
        with Server(answer, faults=faults, key=key) as server:
            config = settings(
                **{"provider": "local", "model": "m", "base_url": server.url + "/v1", **changes}
            )
            summary, error = None, None
            try:
                summary = run(config, lambda text: None)
            except WorkshopError as problem:
                error = problem
            return SimpleNamespace(
                requests=server.requests, summary=summary, error=error, config=config
            )

    return go


# ----- the official code, 1 to 14


@pytest.mark.parametrize(
    "text",
    ["Translate NASA's report from English to French", "Select A, B, C or D", "把 JSON 转成 YAML"],
)
def test_official_1_capitals_after_the_first_letter_are_kept(text: str) -> None:
    assert parse_instructions(f"9. {text}\n10. x y z")[0] == text


def test_official_2_the_word_example_in_a_text_splits_nothing() -> None:
    reply = "Input: cats\nOutput: Here is one. Example sentence: I like cats."
    assert parse_instances(reply, False) == [
        ("cats", "Here is one. Example sentence: I like cats.")
    ]


def test_official_2_a_reply_without_output_becomes_no_row() -> None:
    kept, _ = filter_instances(
        "Name it now.", parse_instances("Example 1\nParagraph: Cats sleep.\nExample 2\nMore", False)
    )
    assert kept == []


@pytest.mark.parametrize(
    "text",
    [
        "The meeting is at 10:30 tomorrow.",
        "See https://example.org/x first.",
        "Note: see below.\n\nEnd",
    ],
)
@pytest.mark.parametrize("labelled", [True, False])
def test_official_3_colons_and_blank_lines_in_inputs_are_kept(text: str, labelled: bool) -> None:
    reply = f"Class label: a\nInput: {text}" if labelled else f"Input: {text}\nOutput: a"
    pairs = parse_instances(reply, labelled)
    assert filter_instances("Name it now.", pairs)[0] == [(text, "a")]


def test_official_4_what_is_sampled_does_not_depend_on_the_hash_seed(tmp_path: Path) -> None:
    code = (
        "import sys, self_instruct_workshop as w\n"
        "c = w.Config(provider='practice', work_dir=sys.argv[1])\n"
        "pairs = [{'input': str(n), 'output': f'out {n}'} for n in range(12)]\n"
        "with w.Model(c) as m: print(w.filter_and_dedupe(c, m,"
        " [w.Task('t', 'Name it now.', False, pairs)]))\n"
        "print(w.instruction_prompt(c, w.load_seed_tasks(w.DEFAULT_SEEDS['en']), [], 0))\n"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "work")],
            capture_output=True,
            text=True,
            check=True,
            cwd=tmp_path,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "PYTHONHASHSEED": seed,
                "PYTHONIOENCODING": "utf-8",
            },
        ).stdout
        for seed in ("1", "2")
    }
    assert len(printed) == 1


@pytest.mark.parametrize("model", ["davinci", "org/other-model:7b"])
def test_official_5_no_file_is_named_after_a_model(
    against: Callable[..., SimpleNamespace], model: str
) -> None:
    done = against(scripted_model(1), num_instructions=8, model=model)
    assert done.summary["status"] == "complete"
    assert set(STEP_FILES) <= set(os.listdir(done.config.work_dir))
    assert rows(done.config, STEP_FILES[3])


@pytest.mark.parametrize("reply", ["Yes.", "yes, it is", "是", "是的。", "**Yes**"])
def test_official_6_a_yes_in_other_words_is_a_yes(reply: str) -> None:
    assert parse_classification(reply) is True


def test_official_7_preambles_and_other_numberings_are_understood() -> None:
    reply = "Here are some more tasks:\n\n9) Name a river.\n10) Name a lake.\n**11.** Name a hill."
    assert parse_instructions(reply) == ["Name a river.", "Name a lake.", "Name a hill."]


@pytest.mark.parametrize(
    "text", ["Who won the cup in 2016. Say how.", "Is $16. a fair price for a book?"]
)
def test_official_7_numbers_that_look_like_the_next_task_cut_nothing(
    against: Callable[..., SimpleNamespace], text: str
) -> None:
    done = against(
        lambda prompt, body: f" {text}\n10. Name a lake in Peru.",
        num_instructions=2,
        until="generate",
    )
    assert [row["instruction"] for row in rows(done.config, STEP_FILES[0])] == [
        text,
        "Name a lake in Peru.",
    ]
    assert "stop" not in done.requests[0]["body"]


def test_official_8_a_model_that_repeats_itself_ends_the_search(
    against: Callable[..., SimpleNamespace],
) -> None:
    done = against(
        lambda prompt, body: "9. Name a river in Spain.",
        num_instructions=50,
        patience=4,
        until="generate",
    )
    assert done.summary["counts"]["generate"]["out"] == 1
    assert len(done.requests) == 5


@pytest.mark.parametrize(
    ("reply", "searches"),
    [
        ("", 3 * 2),  # what is empty is asked for once more
        ("I'm sorry, but I can't help with that.", 3),
        ("no list here", 1 + 3),  # the first one is taken for a task
    ],
)
def test_official_8_a_model_that_writes_nothing_useful_ends_the_search(
    against: Callable[..., SimpleNamespace], reply: str, searches: int
) -> None:
    done = against(lambda prompt, body: reply, num_instructions=50, patience=3)
    tasks = done.summary["counts"]["generate"]["out"]
    assert tasks == (reply == "no list here")
    asked = Counter(stage_of(request["prompt"]) for request in done.requests)
    assert asked["generate"] == searches
    # No later stage asks more than twice, and without a task none asks at all.
    assert asked["classify"] <= 2 * (PROBES + 1) * tasks
    assert asked["instances"] <= 2 * tasks


def test_official_8_a_bad_key_ends_the_run_after_one_request(
    against: Callable[..., SimpleNamespace], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "wrong-key")
    done = against(scripted_model(), provider="openai", key="right-key")
    assert "OPENAI_API_KEY" in str(done.error)
    assert len(done.requests) == 1


def test_official_9_comparing_with_a_large_pool_takes_no_processes() -> None:
    pool = InstructionPool()
    for n in range(5_000):
        pool.add(" ".join(f"w{(n * k) % 997}" for k in range(1, 15)))
    candidates = [" ".join(f"w{(n * k + 1) % 997}" for k in range(1, 15)) for n in range(100)]
    for candidate, _ in workshop.in_blocks(pool, candidates):
        pool.add(candidate)
    assert len(pool) == 5_100
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("text", ["写一首关于春天的诗", "ตั้งชื่อแม่น้ำสามสาย", "川を三つ挙げてください"])
def test_official_10_a_task_in_another_script_is_fit_and_its_copy_is_seen(
    text: str, settings: Settings
) -> None:
    pool, results = InstructionPool(), Results()
    pool.add("列出三种水果。")
    take_candidates(
        settings(), pool, Reply(f"9. {text}\n10. {text}。", "stop", prompt="h\n9."), 0, results
    )
    assert [task.instruction for task in results.tasks] == [text]
    assert [(row["rule"], row["evidence"]) for row in results.rejected] == [("too_similar", text)]


def test_official_11_a_torn_last_line_is_cut_off_and_the_run_goes_on(settings: Settings) -> None:
    config = settings(provider="practice", num_instructions=12)
    run(config, lambda text: None)
    whole = {name: (Path(config.work_dir) / name).read_bytes() for name in STEP_FILES[3:]}
    journal = Path(config.work_dir) / "responses.jsonl"
    journal.write_bytes(journal.read_bytes()[:-30])
    assert run(config, lambda text: None)["status"] == "complete"
    assert {name: (Path(config.work_dir) / name).read_bytes() for name in whole} == whole


def test_official_11_step_files_can_be_lost_without_losing_a_reply(settings: Settings) -> None:
    config = settings(provider="practice", num_instructions=12)
    run(config, lambda text: None)
    before = (Path(config.work_dir) / STEP_FILES[3]).read_bytes()
    for name in STEP_FILES:
        (Path(config.work_dir) / name).write_bytes(b'{"torn')
    summary = run(config, lambda text: None)
    assert sum(spent["asked_now"] for spent in summary["tokens"].values()) == 0
    assert (Path(config.work_dir) / STEP_FILES[3]).read_bytes() == before


def test_official_12_plain_text_goes_in(tmp_path: Path) -> None:
    (tmp_path / "seeds.txt").write_text("Name a river.\nName a lake.\n", encoding="utf-8")
    assert [task.instruction for task in load_seed_tasks(tmp_path / "seeds.txt")] == [
        "Name a river.",
        "Name a lake.",
    ]


def test_official_13_the_current_sdk_and_its_chat_endpoint_are_used(
    against: Callable[..., SimpleNamespace],
) -> None:
    done = against(scripted_model(2), num_instructions=4)
    assert {request["path"] for request in done.requests} == {"/v1/chat/completions"}


def test_official_14_no_flag_is_required() -> None:
    assert self_instruct.settings(self_instruct.command_line().parse_args([])) == Config()


@pytest.mark.parametrize("flag", ["--num-instr", "--max_instances_to_gen", "--seed-f"])
def test_official_14_an_abbreviated_or_unknown_flag_is_a_usage_error(
    flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        self_instruct.main([flag, "5"])
    assert stopped.value.code == 2
    assert flag in capsys.readouterr().err


# ----- also official


def test_official_one_conflict_costs_only_the_instances_that_conflict() -> None:
    assert filter_instances("Name it now.", [("a", "x"), ("a", "y"), ("b", "z")])[0] == [("b", "z")]


def test_official_a_failed_request_is_neither_no_nor_empty_and_is_asked_again(
    against: Callable[..., SimpleNamespace],
) -> None:
    def faults(index: int, prompt: str) -> str:
        return "500" if stage_of(prompt) == "classify" and index % 3 == 0 else ""

    done = against(scripted_model(3), faults, num_instructions=12, max_attempts=1, patience=50)
    failed = {request["prompt"] for request in done.requests if request["fault"]}
    undone = done.summary["counts"]["classify"]["undone"]
    # Some of what failed were questions about seed tasks, which leave no task undone.
    assert undone == sum(prompt.split("\n")[-2] not in people_say() for prompt in failed) > 0
    assert sum(done.summary["undone_because"].values()) == undone
    classified = rows(done.config, STEP_FILES[1])
    assert len(classified) == 12 - undone
    assert all(row["response"] in ("Yes", "No") for row in classified)
    with Server(scripted_model(3)) as server:
        done.config.base_url = server.url + "/v1"
        summary = run(done.config, lambda text: None)
        again = [r["prompt"] for r in server.requests if stage_of(r["prompt"]) == "classify"]
        assert len(again) == len(failed) and set(again) == failed
    assert summary["counts"]["classify"]["undone"] == 0


# ----- Alpaca


@pytest.mark.parametrize("mark", ["##", "###", "#"])
def test_alpaca_a_different_heading_merges_no_tasks(mark: str) -> None:
    reply = f"{mark} 9. Name a river.\n{mark} 10. Name a lake.\n## 11. Name a hill."
    assert parse_instructions(reply) == ["Name a river.", "Name a lake.", "Name a hill."]


@pytest.mark.parametrize("numbers", [(1, 2, 3), (9, 1, 2), (9, 9, 9), (4, 7, 30)])
def test_alpaca_a_list_that_restarts_or_jumps_loses_nothing(numbers: tuple[int, ...]) -> None:
    tasks = ["Name a river.", "Name a lake.", "Name a hill."]
    assert (
        parse_instructions(
            "\n".join(f"{n}. {task}" for n, task in zip(numbers, tasks, strict=True))
        )
        == tasks
    )


@pytest.mark.parametrize("marker", ["<noinput>", "N/A", "No input", "none", "（无）"])
def test_alpaca_a_text_that_says_no_input_is_no_input(marker: str) -> None:
    assert parse_instances(f"Input: {marker}\nOutput: Lima", False) == [("", "Lima")]


@pytest.mark.parametrize(
    "target",
    [
        "",
        "Lima?",
        "<nooutput>",
        "N/A",
    ],
)
def test_alpaca_an_output_that_is_none_is_dropped(target: str) -> None:
    assert filter_instances("Name it now.", [("Lima?", target)])[0] == []


def test_alpaca_what_a_text_model_cannot_do_is_dropped_in_either_language() -> None:
    for text in (
        "Describe the video below.",
        "Create a flowchart or a diagram.",
        "Listen to the music.",
        "画一张图表。",
    ):
        assert instruction_problem(text) == "needs_more_than_text", text


def test_alpaca_the_tokens_of_a_request_are_counted_once(
    against: Callable[..., SimpleNamespace],
) -> None:
    done = against(scripted_model(4), num_instructions=9)
    sent, came = (
        sum(-(-len(request[part]) // 4) for request in done.requests) for part in ("prompt", "text")
    )
    spent = done.summary["tokens"].values()
    assert (sum(one["prompt"] for one in spent), sum(one["reply"] for one in spent)) == (sent, came)


def test_alpaca_what_was_too_similar_is_kept_with_its_neighbour_and_score(
    settings: Settings,
) -> None:
    config = settings(provider="practice", num_instructions=60)
    run(config, lambda text: None)
    similar = [row for row in rows(config, "rejected.jsonl") if row["rule"] == "too_similar"]
    assert similar
    assert all(row["evidence"] and 0.7 < row["score"] <= 1 for row in similar)


# ----- the teaching script


def test_lesson_machine_tasks_are_shown_in_later_prompts(
    against: Callable[..., SimpleNamespace],
) -> None:
    done = against(scripted_model(5), num_instructions=40, until="generate")
    made = [row["instruction"] for row in rows(done.config, STEP_FILES[0])]
    prompts = prompts_of(rows(done.config, STEP_FILES[0]))
    assert any(one.rstrip(":：") in prompts[-1] for one in made)
    assert len(set(prompts)) == len(done.requests) > 2


@pytest.mark.parametrize(
    "fault", ["429", "500", "html-200", "error-200", "filter", "null-content", "no-choices"]
)
def test_lesson_an_error_never_becomes_training_data(
    against: Callable[..., SimpleNamespace], fault: str
) -> None:
    def faults(index: int, prompt: str) -> str:
        return fault if index and index % 2 else ""

    done = against(scripted_model(6), faults, num_instructions=8, max_attempts=1, patience=50)
    assert done.error is None
    text = "".join(
        (Path(done.config.work_dir) / name).read_text(encoding="utf-8") for name in STEP_FILES
    )
    assert not any(
        word in text for word in ("Rate limit", "rate_limit", "nginx", "server had an error")
    )
    written = {line for request in done.requests for line in request["text"].split("\n")}
    for row in rows(done.config, STEP_FILES[3]):
        assert any(row["output"] in line for line in written)


@pytest.mark.parametrize("label", ["对", "是", "A", "1"])
def test_lesson_an_answer_of_one_character_is_kept(label: str) -> None:
    pairs = parse_instances(f"类别标签：{label}\n输入：猫会飞吗？", True)
    assert filter_instances("判断对错。", pairs) == ([("猫会飞吗？", label)], [])


@pytest.mark.parametrize(
    "labels",
    [
        ("Input：", "Output："),
        ("输入:", "输出:"),
        ("输入：", "输出："),
        ("**Input:**", "**Output:**"),
    ],
)
def test_lesson_every_form_of_a_label_is_understood(labels: tuple[str, str]) -> None:
    assert parse_instances(f"{labels[0]} 2\n{labels[1]} 3", False) == [("2", "3")]


def test_lesson_a_reply_without_labels_is_no_output() -> None:
    assert parse_instances("Some text without any label", False) == []


def test_lesson_numbers_do_not_stay_in_instructions() -> None:
    assert parse_instructions("1. 列出三条河流。\n2、写一首诗。\n３．解释重力。") == [
        "列出三条河流。",
        "写一首诗。",
        "解释重力。",
    ]


def test_lesson_a_task_about_minors_is_no_forbidden_task() -> None:
    assert instruction_problem("解释保护未成年人的法律。") == ""


def test_lesson_a_cut_reply_is_noticed(against: Callable[..., SimpleNamespace]) -> None:
    def faults(index: int, prompt: str) -> str:
        return "length" if "worked example" in prompt else ""

    done = against(scripted_model(7), faults, num_instructions=6)
    assert rows(done.config, STEP_FILES[3]) == []
    rules = {
        row["rule"] for row in rows(done.config, "rejected.jsonl") if row["stage"] != "generate"
    }
    assert rules <= {"cut_off", "no_instance"}
    assert rules


def test_lesson_what_was_paid_for_is_on_disk_before_a_stage_ends(settings: Settings) -> None:
    seen: list[int] = []
    with Server(lambda prompt, body: scripted_model(8)(prompt, body)) as server:
        config = settings(
            provider="local", model="m", base_url=server.url + "/v1", num_instructions=30
        )
        with Model(config) as model:
            count = model.journal.append
            model.journal.append = lambda record: (
                count(record),
                seen.append(len(rows(config, "responses.jsonl"))),
            )[0]
            generate_instructions(config, model, load_seed_tasks(DEFAULT_SEEDS["en"]))
    assert seen and seen[0] == 1
    assert max(seen) == len(seen)


# ----- similarity and Chinese


def nearest(one: str, other: str) -> float:
    pool = InstructionPool()
    pool.add(other)
    return pool.nearest(one)[0][1]


def test_chinese_identical_texts_are_identical() -> None:
    assert nearest("把下面的句子翻译成英文。", "把下面的句子翻译成英文。") == 1


def test_chinese_one_shared_latin_word_makes_no_duplicate() -> None:
    assert nearest("使用Python编写SQL查询", "用Python解释SQL语句") < 0.7


def test_chinese_a_full_stop_more_changes_nothing() -> None:
    assert nearest("列出三种水果", "列出三种水果。") == 1


def test_chinese_a_task_without_punctuation_is_fit() -> None:
    assert instruction_problem("列出三种常见的水果") == ""


def test_chinese_all_shipped_seeds_keep_the_rules_and_none_is_blind_to_its_copy() -> None:
    seeds = [task.instruction for task in load_seed_tasks(DEFAULT_SEEDS["zh"])]
    pool = InstructionPool()
    for candidate, scores in workshop.in_blocks(pool, seeds):
        assert instruction_problem(candidate) == ""
        assert scores.max(initial=0) <= 0.7
        pool.add(candidate)
    assert pool.similarities(seeds).diagonal().tolist() == [1.0] * len(seeds)


def test_chinese_machine_tasks_are_compared_with_each_other(settings: Settings) -> None:
    pool, results = InstructionPool(), Results([Task("machine_task_0", "x")])
    pool.add("列出三种水果。")
    take_candidates(
        settings(),
        pool,
        Reply("9. 解释重力是什么。\n10. 解释重力是什么", "stop", prompt="h\n9."),
        0,
        results,
    )
    assert len(results.tasks) == 2
    assert [row["evidence"] for row in results.rejected] == ["解释重力是什么。"]


def test_accents_are_letters() -> None:
    assert nearest("Où est la forêt", "Ou est la foret") == 0.5
