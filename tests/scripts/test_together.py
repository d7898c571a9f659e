"""Several tasks in one request of stage 2: the same answers for fewer tokens, and one by one
wherever that fails."""

from __future__ import annotations

import _thread
import json
import re
import signal
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from helpers.server import Server, scripted_model
from hypothesis import given
from hypothesis import strategies as st

import self_instruct
from scripts import compare_recipes
from scripts.asking.limits import LimitedModel
from scripts.asking.together import numbered_answers, together_prompt
from self_instruct_workshop import STEP_FILES, Config, Reply, parse_classification, run

Settings = Callable[..., Config]


def ask(config: Config, together: int) -> dict:
    options = self_instruct.command_line().parse_args([f"--classify-together={together}"])
    return run(config, say=lambda text: None, model_class=partial(LimitedModel, options=options))


def local(server: Server, folder: Path, **changes: object) -> dict:
    where = {
        "provider": "local",
        "base_url": server.url + "/v1",
        "model": "m",
        "work_dir": str(folder),
    }
    return {"num_instructions": 25, **where, **changes}


def asked(server: Server, start: int = 0) -> tuple[list[str], list[str]]:
    """The prompts of stage 2: about several tasks, and about one."""
    prompts = [request["prompt"].rstrip().split("\n")[-1] for request in server.requests[start:]]
    several = [end for end in prompts if end in ("Answers:", "答案：")]
    return several, [
        end for end in prompts if end in ("Is it a classification task?", "这是分类任务吗？")
    ]


def verdicts(folder: str | Path) -> dict[str, bool | None]:
    rows = map(json.loads, (Path(folder) / STEP_FILES[1]).read_text(encoding="utf-8").splitlines())
    return {row["instruction"]: row["is_classification"] for row in rows}


def spoilt(how: Callable[[str, int], str]) -> Callable:
    """The scripted model, whose lists of answers are changed; `how` gets the list and its
    number."""
    model, lists = scripted_model(), []

    def answer(prompt: str, body: dict) -> object:
        text = model(prompt, body)
        if prompt.rstrip().endswith(("\nAnswers:", "\n答案：")):
            lists.append(text)
            return how(text, len(lists))
        return text

    return answer


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_answers_are_those_of_one_request_each(
    settings: Settings, tmp_path: Path, language: str
) -> None:
    found = {}
    for together in (1, 10):
        with Server(scripted_model()) as server:
            config = settings(**local(server, tmp_path / str(together), language=language))
            found[together] = ask(config, together), *map(len, asked(server))
    assert found[1][1:] == (0, 25) and found[10][1:] == (3, 0)
    assert (
        verdicts(tmp_path / "1") == verdicts(tmp_path / "10")
        and len(verdicts(tmp_path / "1")) == 25
    )
    assert {True, False} == set(verdicts(tmp_path / "10").values())
    one, ten = (found[together][0]["tokens"]["classify"] for together in (1, 10))
    assert ten["prompt"] < one["prompt"] / 4 and (ten["replies"], ten["asked_now"]) == (3, 3)


def test_on_dashscope_too(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DASHSCOPE_API_KEY", "k")
    with Server(scripted_model()) as server:
        where = local(server, tmp_path / "w") | {
            "provider": "dashscope",
            "base_url": server.url + "/api/v1",
        }
        assert ask(settings(**where), 10)["status"] == "complete"
        assert [*map(len, asked(server))] == [3, 0]


def test_the_part_that_never_changes_comes_first(settings: Settings) -> None:
    one, two = (
        together_prompt(settings(), texts)
        for texts in (["Add 2 and 3."], ["Name a river.", "Is it so?"])
    )
    same = one[: next(n for n, (a, b) in enumerate(zip(one, two, strict=False)) if a != b)]
    assert same.endswith("10. No\n\nTask 1:\n") and len(same) > 0.9 * len(one)
    for text in ("Name a river.", "Is it so?"):
        assert text in two.split("\n")[-5:], "whole, on a line of its own, near the end"


def test_a_run_without_the_limits_or_with_the_practice_model_asks_one_by_one(
    settings: Settings,
) -> None:
    tokens = ask(settings(provider="practice", num_instructions=20), 10)["tokens"]
    assert tokens["classify"]["replies"] >= 20


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("one is missing", lambda text: text.split("\n", 1)[1]),
        ("one stands twice", lambda text: text + "\n10. Yes"),
        ("one is unreadable", lambda text: re.sub(r"(?m)^4\..*", "4. It depends.", text)),
        ("one too many", lambda text: text + "\n11. Yes"),
        ("no numbers", lambda text: re.sub(r"(?m)^\d+\. ", "", text)),
        ("cut", lambda text: (text[:-3], "length")),
        ("filtered", lambda text: ("", "content_filter")),
        ("nothing", lambda text: " "),
    ],
)
def test_a_reply_without_exactly_one_readable_answer_each_is_asked_again_task_by_task(
    settings: Settings, tmp_path: Path, name: str, how: Callable[[str], str]
) -> None:
    with Server(scripted_model()) as server:
        config = settings(**local(server, tmp_path / "calm"))
        ask(config, 1)
    with Server(spoilt(lambda text, number: how(text) if number == 2 else text)) as server:
        config = settings(**local(server, tmp_path / "w"), concurrency=1)
        summary = ask(config, 10)
        assert [*map(len, asked(server))] == [3, 10]
        assert (
            verdicts(config.work_dir) == verdicts(tmp_path / "calm")
            and not summary["undone_because"]
        )
        mark = len(server.requests)
        again = ask(config, 10)
        assert len(server.requests) == mark and again["tokens"]["classify"]["replies"] == 13
        more = settings(**local(server, tmp_path / "w"), max_tokens=2000)
        assert ask(more, 10)["counts"] == summary["counts"]
        assert not any(map(len, asked(server, mark))), "a longer reply would bring nothing new"


def test_a_model_that_cannot_answer_a_list_is_asked_one_by_one_at_once(
    settings: Settings, tmp_path: Path
) -> None:
    with Server(spoilt(lambda text, number: "Yes")) as server:
        config = settings(**local(server, tmp_path / "w"))
        ask(config, 10)
        assert [*map(len, asked(server))] == [1, 25]
        mark = len(server.requests)
        ask(settings(**local(server, tmp_path / "w", num_instructions=40)), 10)
        assert [*map(len, asked(server, mark))] == [0, 15]


@pytest.mark.parametrize("seconds", [0.3, 4.0], ids=["it arrives", "it is lost"])
def test_ctrl_c_during_the_first_list_keeps_its_reply_or_counts_it(
    settings: Settings, tmp_path: Path, seconds: float
) -> None:
    model, lists = scripted_model(), []

    def answer(prompt: str, body: dict) -> str:
        if prompt.endswith("\nAnswers:"):
            lists.append(prompt)
            _thread.interrupt_main()
            time.sleep(seconds)
        return model(prompt, body)

    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # another test's main may have set its own
    with Server(answer) as server:
        with pytest.raises(KeyboardInterrupt):
            ask(settings(**local(server, tmp_path / "w")), 10)
        assert len(lists) == 1
    records = map(
        json.loads, (tmp_path / "w" / "responses.jsonl").read_text(encoding="utf-8").splitlines()
    )
    asked = [record for record in records if record["stage"] == "classify"]
    kept = [record["prompt"] for record in asked if "part_of" not in record]
    lost = json.loads((tmp_path / "w" / "run.json").read_text(encoding="utf-8"))["spending"][
        "stages"
    ]["lost"]
    assert (kept == lists and not lost["prompt_tokens"]) or (
        not kept and lost["prompt_tokens"] > len(lists[0])
    )


def test_a_list_that_gets_no_reply_is_asked_one_by_one(settings: Settings, tmp_path: Path) -> None:
    faults = iter(range(10_000))

    def choose(index: int, prompt: str) -> str:
        return "500" if prompt.endswith("Answers:") and next(faults) < 2 else ""

    with Server(scripted_model(), faults=choose) as server:
        summary = ask(settings(**local(server, tmp_path / "w"), max_attempts=2, patience=20), 10)
        assert summary["status"] == "complete" and not summary["undone_because"]
        assert [*map(len, asked(server))] == [2, 25]


def test_more_instructions_or_another_threshold_ask_about_nothing_twice(
    settings: Settings, tmp_path: Path
) -> None:
    with Server(scripted_model()) as server:
        ask(settings(**local(server, tmp_path / "w")), 10)
        mark = len(server.requests)
        ask(settings(**local(server, tmp_path / "w", num_instructions=40)), 10)
        assert [*map(len, asked(server, mark))] == [2, 0], "5 of the third ten and 10 of the fourth"
        mark = len(server.requests)
        for together, threshold in ((10, 0.3), (7, 0.7), (1, 0.7)):
            ask(
                settings(
                    **local(server, tmp_path / "w", num_instructions=40), rouge_threshold=threshold
                ),
                together,
            )
        new = [request["prompt"] for request in server.requests[mark:]]
        assert not [
            prompt for prompt in new if set(prompt.split("\n")) & {*verdicts(tmp_path / "w")}
        ]


def test_tokens_and_money_are_counted_once(settings: Settings, tmp_path: Path) -> None:
    with Server(scripted_model()) as server:
        config = settings(**local(server, tmp_path / "w"))
        first, second = ask(config, 10), ask(config, 10)
    journal = (tmp_path / "w" / "responses.jsonl").read_text(encoding="utf-8")
    records = [
        record for record in map(json.loads, journal.splitlines()) if record["stage"] == "classify"
    ]
    lists = [record for record in records if "instructions" in record]
    assert len(lists) == 3 and len(records) == 3 + 25
    assert {record["part_of"] for record in records if record not in lists} == {
        record["key"] for record in lists
    }
    for summary in (first, second):
        row = summary["spending"]["stages"]["classify"]
        for name in ("prompt", "reply"):
            paid = sum(record[f"{name}_tokens"] for record in records)
            assert summary["tokens"]["classify"][name] == row[f"{name}_tokens"] == paid
    assert second["tokens"]["classify"]["asked_now"] == 0


def test_the_journal_replays_and_both_recipes_read_it(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Server(scripted_model()) as server:
        ask(settings(**local(server, tmp_path / "w")), 10)
    journal = str(tmp_path / "w" / "responses.jsonl")
    run(settings(provider="replay", responses=journal, num_instructions=25), say=lambda text: None)
    assert verdicts(settings().work_dir) == verdicts(tmp_path / "w")
    assert compare_recipes.main([str(tmp_path / "w")]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"(?m)^Stage 2, answers.*\n.*\n?(.*\n)*?replies +25 +25$", shown), shown


def test_both_recipes_read_what_was_asked_one_by_one_where_a_list_could_not_be_read(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Server(spoilt(lambda text, number: "Yes" if number == 2 else text)) as server:
        ask(settings(**local(server, tmp_path / "w")), 10)
    journal = tmp_path / "w" / "responses.jsonl"
    assert compare_recipes.main([str(tmp_path / "w")]) == 0
    shown, counts = capsys.readouterr().out, Counter(verdicts(tmp_path / "w").values())
    for row, n in (("replies", 25), ("Yes", counts[True]), ("No", counts[False])):
        assert re.search(rf"(?m)^{row} +{n} +{n}$", shown.split("Stage 2, answers")[1]), shown
    lines = journal.read_text(encoding="utf-8").splitlines()
    replies = [line for line in lines if '"part_of"' not in line]
    assert shown.startswith(f"{len(replies) - 1} replies of m "), (
        "all but the list that could not be read"
    )
    damaged = json.loads(next(line for line in lines if '"part_of"' in line))
    del damaged["instruction"]
    journal.write_text("\n".join([*lines, json.dumps(damaged)]) + "\n", encoding="utf-8")
    assert compare_recipes.main([str(tmp_path / "w")]) == 1
    assert "is no reply: delete that line" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    [
        "1. Yes\n2. No",
        "1) yes\n2) no\n",
        "**1.** Yes\n**2.** No",
        "1. **Yes**\n2. **No.**",
        "Answers:\n1. Yes\n2. No",
        "Task 1: Yes\nTask 2: No",
        "1. Yes, the labels are named.\n2. No, it asks for a text.",
        "1. Yes\n\n2. No\n\nThat is all.",
        "<think>1. No 2. No</think>1. Yes\n2. No",
        "1. 是\n2. 否",
        "1、是\n2、不是",
        "任务1：是\n任务2：否",
        "1. True\n2. False",
    ],
)
def test_lists_of_answers_are_read(text: str) -> None:
    answers = numbered_answers(Reply(text, "stop"), 2)
    assert [*map(parse_classification, answers)] == [True, False]


@pytest.mark.parametrize(
    "text",
    ["", "Yes\nNo", "1. Yes", "2. No\n1. Yes", "1. Yes\n1. No", "1. Yes\n2. No\n3. No", "1. Yes\n3. No",
     "1. Yes or No\n2. No", "1. Yes\n2.", "1. Yes, 2. No", "0. Yes\n1. No"],
)  # fmt: skip
def test_other_replies_are_not(text: str) -> None:
    assert numbered_answers(Reply(text, "stop"), 2) == ["", ""]


@pytest.mark.parametrize(
    ("finish", "read"), [("eos_token", True), ("length", False), ("content_filter", False)]
)
def test_only_a_reply_that_broke_off_is_not_whole(finish: str, read: bool) -> None:
    assert numbered_answers(Reply("1. Yes\n2. No", finish), 2) == (
        ["Yes", "No"] if read else ["", ""]
    )


@given(
    st.text("12. 是否YesNo\n:*)", max_size=60),
    st.integers(1, 12),
    st.sampled_from(["stop", "length"]),
)
def test_there_are_as_many_answers_as_questions_and_all_or_none_can_be_read(
    text: str, n: int, finish: str
) -> None:
    answers = numbered_answers(Reply(text, finish), n)
    assert (
        len(answers) == n and len({parse_classification(answer) is None for answer in answers}) == 1
    )
