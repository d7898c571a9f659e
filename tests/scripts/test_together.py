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
from helpers.runs import rows
from helpers.server import LISTS, Server, scripted_model
from hypothesis import given
from hypothesis import strategies as st

import self_instruct
from scripts import compare_recipes
from scripts.asking.limits import LimitedModel
from scripts.asking.together import numbered_answers, together_prompt
from self_instruct_workshop import (
    RECIPES,
    STEP_FILES,
    Config,
    Reply,
    as_text,
    parse_classification,
    run,
)

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


PROBES = 16  # seed tasks of which people's labels are known; they are asked about first
ONE = ("Among which options is the answer chosen?", "答案从哪些选项里选？")


def asked(server: Server, start: int = 0) -> tuple[int, int]:
    """How many prompts of stage 2 were about several tasks, and how many about one."""
    ends = [request["prompt"].split("\n")[-1] for request in server.requests[start:]]
    return sum(end in LISTS for end in ends), sum(end in ONE for end in ends)


def verdicts(folder: str | Path) -> dict[str, bool | None]:
    rows = map(json.loads, (Path(folder) / STEP_FILES[1]).read_text(encoding="utf-8").splitlines())
    return {row["instruction"]: row["is_classification"] for row in rows}


def spoilt(how: Callable[[str, int], str]) -> Callable:
    """The scripted model, whose lists of answers are changed; `how` gets the list and its
    number."""
    model, lists = scripted_model(), []

    def answer(prompt: str, body: dict) -> object:
        text = model(prompt, body)
        if prompt.endswith(LISTS):
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
            found[together] = ask(config, together), *asked(server)
    assert found[1][1:] == (0, PROBES + 25), "the seed tasks, then each task"
    assert found[10][1:] == (1 + 3, PROBES), "the seed tasks in a list and alone, then lists"
    assert (
        verdicts(tmp_path / "1") == verdicts(tmp_path / "10")
        and len(verdicts(tmp_path / "1")) == 25
    )
    assert {True, False} == set(verdicts(tmp_path / "10").values())
    one, ten = (found[together][0]["tokens"]["classify"] for together in (1, 10))
    assert ten["prompt"] < one["prompt"] * 0.55, "4 lists and 16 questions, not 41 questions"
    assert ten["replies"] == ten["asked_now"] == 4 + PROBES
    for summary, *_ in found.values():
        assert summary["agreement"]["asked"] == summary["agreement"]["same"] == PROBES


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
        assert asked(server) == (4, PROBES)


def test_the_part_that_never_changes_comes_first_and_examples_stand_in_another_order(
    settings: Settings,
) -> None:
    texts = (["Add 2 and 3."], ["Name a river.", "Is it so?"])
    one, two = (together_prompt(settings(), instructions) for instructions in texts)
    heads = [turns[0]["content"].split("\n\n")[0] for turns in (one, two)]
    assert heads[0] == heads[1] and heads[0].startswith("Some tasks ask to choose")
    assert one[0] != two[0] and one[1] != two[1], "no order of answers is the right one twice"
    assert [turn["role"] for turn in two] == ["user", "assistant", "user"]
    assert two[2]["content"].split("\n\n")[0] == "1. Name a river.\n2. Is it so?"


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_worked_list_has_an_answer_of_people_for_each_of_its_tasks(
    settings: Settings, language: str
) -> None:
    config = settings(language=language)
    task, answer, _ = (turn["content"] for turn in together_prompt(config, ["Add 2 and 3."]))
    shown = re.findall(r"(?m)^\d+\. (.*)$", task)
    said = numbered_answers(config, Reply(answer, "stop"), len(shown))
    shots = RECIPES["modern"].shots("classify", language)
    people = {" ".join(row["instruction"].split()): row["is_classification"] for row in shots}
    assert [people[text] for text in shown] == [*map(parse_classification, said)]


def practice_lists(config: Config, *flags: str) -> tuple[dict, list[dict], list[dict]]:
    """A practice run: its summary, the lists it sent, and the answers of those not used."""
    options = self_instruct.command_line().parse_args(flags)
    summary = run(config, say=lambda text: None, model_class=partial(LimitedModel, options=options))
    records = rows(Path(config.work_dir), "responses.jsonl")
    lists = [row for row in records if "instructions" in row and row["stage"] == "classify"]
    unused = [row for row in records if "part_of" in row and not row["text"]]
    return summary, lists, unused


def test_a_run_without_the_limits_or_with_the_practice_model_asks_one_by_one(
    settings: Settings,
) -> None:
    config = settings(provider="practice", num_instructions=20)
    summary, lists, _ = practice_lists(config)
    assert summary["tokens"]["classify"]["replies"] >= 20 + PROBES
    assert lists == []


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_practice_model_answers_lists_where_that_is_typed(
    settings: Settings, tmp_path: Path, language: str
) -> None:
    config = settings(provider="practice", num_instructions=60, language=language)
    _, lists, _ = practice_lists(config, "--classify-together", "4")
    assert len(lists) >= 60 / 4 + 1
    # What it says of a task in a list is what it says of it alone, where both can be read.
    alone = settings(
        provider="practice",
        num_instructions=60,
        language=language,
        work_dir=str(tmp_path / "alone"),
    )
    practice_lists(alone)
    label = {}
    for place in (config, alone):
        for row in rows(Path(place.work_dir), STEP_FILES[1]):
            label.setdefault(row["instruction"], set()).add(row["is_classification"])
    assert all(len(flags - {None}) <= 1 for flags in label.values())
    assert sum(len(flags - {None}) for flags in label.values()) > 50


def test_of_the_practice_model_s_lists_some_cannot_be_read_and_their_tasks_are_asked_alone(
    settings: Settings,
) -> None:
    """The one unreadable line of such a list is of the same style as its single answers."""
    config = settings(provider="practice", num_instructions=100, seed=2)
    summary, lists, unused = practice_lists(config, "--classify-together", "4")
    assert unused and len(unused) < 20
    spoilt = {row["part_of"] for row in unused}
    texts = [row["text"] for row in lists if row["key"] in spoilt]
    assert all(re.search(r"(?m)^\d+\. \.\.\.$", text) for text in texts)
    asked = summary["tokens"]["classify"]["replies"]
    assert asked >= len(lists) + len(unused)
    steps = rows(Path(config.work_dir), STEP_FILES[1])
    assert {row["instruction"] for row in unused} <= {row["instruction"] for row in steps}


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("one is missing", lambda text: text.split("\n", 1)[1]),
        ("one stands twice", lambda text: text + "\n10. yes, no"),
        ("one is unreadable", lambda text: re.sub(r"(?m)^4\..*", "4. It depends.", text)),
        ("one too many", lambda text: text + "\n13. yes, no"),
        ("wrong on a seed task", lambda text: "\n".join(f"{n}. none" for n in range(1, 13))),
        ("wrong on the other", lambda text: "\n".join(f"{n}. yes, no" for n in range(1, 13))),
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
        assert asked(server) == (4, PROBES + 10)
        assert verdicts(config.work_dir) == verdicts(tmp_path / "calm")
        assert not summary["undone_because"]
        mark = len(server.requests)
        again = ask(config, 10)
        assert len(server.requests) == mark
        assert again["tokens"]["classify"]["replies"] == 4 + PROBES + 10
        more = settings(**local(server, tmp_path / "w"), max_tokens=2000)
        assert ask(more, 10)["counts"] == summary["counts"]
        assert asked(server, mark) == (0, 0), "a longer reply would bring nothing new"


@pytest.mark.parametrize(
    "how",
    [
        lambda text, number: "Yes",
        lambda text, number: re.sub(r"\. .*", ". none", text),
        lambda text, number: re.sub(r"\. .*", ". yes, no", text),
    ],
    ids=["no list", "always none", "always options"],
)
def test_a_model_whose_lists_disagree_with_people_is_asked_one_by_one_at_once(
    settings: Settings, tmp_path: Path, how: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    with Server(spoilt(how)) as server:
        config = settings(**local(server, tmp_path / "w"))
        summary = ask(config, 10)
        assert asked(server) == (1, PROBES + 25)
        assert "in lists stage 2 gets" in capsys.readouterr().err
        assert summary["agreement"]["same"] == PROBES, "one by one it agrees"
        mark = len(server.requests)
        ask(settings(**local(server, tmp_path / "w", num_instructions=40)), 10)
        assert asked(server, mark) == (0, 15)


@pytest.mark.parametrize("seconds", [0.3, 4.0], ids=["it arrives", "it is lost"])
def test_ctrl_c_during_the_first_list_keeps_its_reply_or_counts_it(
    settings: Settings, tmp_path: Path, seconds: float
) -> None:
    model, lists = scripted_model(), []

    def answer(prompt: str, body: dict) -> str:
        if prompt.endswith(LISTS):
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
    kept = [as_text(record["prompt"]) for record in records if "instructions" in record]
    lost = json.loads((tmp_path / "w" / "run.json").read_text(encoding="utf-8"))["spending"][
        "stages"
    ]["lost"]
    assert (kept == lists and not lost["prompt_tokens"]) or (
        not kept and lost["prompt_tokens"] > len(lists[0])
    )


def test_a_list_that_gets_no_reply_is_asked_one_by_one(settings: Settings, tmp_path: Path) -> None:
    faults = iter(range(10_000))

    def choose(index: int, prompt: str) -> str:
        return "500" if prompt.endswith(LISTS) and next(faults) < 2 else ""

    with Server(scripted_model(), faults=choose) as server:
        # One at a time: nothing is asked ahead of its stage, and so none of it a second time.
        where = local(server, tmp_path / "w", concurrency=1)
        summary = ask(settings(**where, max_attempts=2, patience=20), 10)
        assert summary["status"] == "complete" and not summary["undone_because"]
        assert asked(server) == (2, PROBES + 25)


def test_more_instructions_or_another_threshold_ask_about_nothing_twice(
    settings: Settings, tmp_path: Path
) -> None:
    with Server(scripted_model()) as server:
        ask(settings(**local(server, tmp_path / "w")), 10)
        mark = len(server.requests)
        ask(settings(**local(server, tmp_path / "w", num_instructions=40)), 10)
        assert asked(server, mark) == (2, 0), "15 new tasks, in lists of 10"
        mark = len(server.requests)
        for together, threshold in ((10, 0.3), (7, 0.7), (1, 0.7)):
            ask(
                settings(
                    **local(server, tmp_path / "w", num_instructions=40), rouge_threshold=threshold
                ),
                together,
            )
        new = [request["prompt"] for request in server.requests[mark:]]
        known = {*verdicts(tmp_path / "w")}
        stage_2 = [prompt.split("\n") for prompt in new if prompt.endswith((*LISTS, *ONE))]
        assert not [
            lines for lines in stage_2 if {re.sub(r"^\d+\. ", "", x) for x in lines} & known
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
    parts = [record for record in records if "part_of" in record]
    assert (len(lists), len(parts), len(records)) == (1 + 3, 25, 1 + 3 + 25 + PROBES)
    assert {record["part_of"] for record in parts} == {record["key"] for record in lists[1:]}
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
    stage_2 = shown.split("Stage 2, answers")[1]
    assert re.search(r"(?m)^replies +25 +25$", stage_2), shown


def test_both_recipes_read_what_was_asked_one_by_one_where_a_list_could_not_be_read(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Server(spoilt(lambda text, number: "Yes" if number == 3 else text)) as server:
        ask(settings(**local(server, tmp_path / "w")), 10)
    journal = tmp_path / "w" / "responses.jsonl"
    assert compare_recipes.main([str(tmp_path / "w")]) == 0
    shown, counts = capsys.readouterr().out, Counter(verdicts(tmp_path / "w").values())
    lines = journal.read_text(encoding="utf-8").splitlines()
    replies = [line for line in lines if '"part_of"' not in line]

    # `paper` knows Yes and No alone, as this model says it to a single question.
    asked = {row["instruction"] for row in map(json.loads, lines) if row["stage"] == "instances"}
    single = [row for row in map(json.loads, replies) if row.get("instruction") in asked]
    yes = sum(row["text"] == "Yes" for row in single if row["stage"] == "classify")
    rows = {"replies": (25, 25), "classification": (counts[True], yes)}
    rows["not classification"] = (counts[False], 25 - yes)
    for row, (modern, paper) in rows.items():
        assert re.search(rf"(?m)^{row} +{modern} +{paper}$", shown.split("Stage 2, answers")[1])
    assert 0 < yes < counts[True]
    assert shown.startswith(f"{len(replies) - 2} replies of m "), (
        "all but the list of seed tasks, and the list that could not be read"
    )
    damaged = json.loads(next(line for line in lines if '"part_of"' in line))
    del damaged["instruction"]
    journal.write_text("\n".join([*lines, json.dumps(damaged)]) + "\n", encoding="utf-8")
    assert compare_recipes.main([str(tmp_path / "w")]) == 1
    assert "is no reply: delete that line" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    [
        "1. good, bad\n2. none",
        "1) good, bad\n2) None\n",
        "**1.** good, bad\n**2.** none",
        "1. **good**, **bad**\n2. **None.**",
        "Answers:\n1. yes, no\n2. none",
        "1. Options: yes, no\n2. Options: none",
        "Task 1: yes, no\nTask 2: none",
        "1. yes / no / maybe\n2. N/A",
        "1. good, bad\n\n2. none\n\nThat is all.",
        "<think>1. none 2. none</think>1. good, bad\n2. none",
        "1. 好、坏\n2. 无",
        "1、好，坏\n2、没有",
        "任务1：好、坏\n任务2：无",
        "1. 选项：好、坏\n2. 选项：无",
    ],
)
@pytest.mark.parametrize("language", ["en", "zh"])
def test_lists_of_answers_are_read(text: str, language: str) -> None:
    answers = numbered_answers(Config(language=language), Reply(text, "stop"), 2)
    assert [*map(parse_classification, answers)] == [True, False]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "good, bad\nnone",
        "1. good, bad",
        "2. none\n1. good, bad",
        "1. good, bad\n1. none",
        "1. good, bad\n2. none\n3. none",
        "1. good, bad\n3. none",
        "1. good\n2. none",  # the first task was done, not described
        "1. Yes\n2. No",
        "1. good, bad\n2.",
        "0. good, bad\n1. none",
    ],
)
def test_other_replies_are_not(text: str) -> None:
    assert numbered_answers(Config(), Reply(text, "stop"), 2) == ["", ""]


@pytest.mark.parametrize(
    ("finish", "read"), [("eos_token", True), ("length", False), ("content_filter", False)]
)
def test_only_a_reply_that_broke_off_is_not_whole(finish: str, read: bool) -> None:
    answers = numbered_answers(Config(), Reply("1. good, bad\n2. none", finish), 2)
    assert answers == (["Options: good, bad", "Options: none"] if read else ["", ""])


@given(
    st.text("12. 无abnoe,、\n:*)", max_size=60),
    st.integers(1, 12),
    st.sampled_from(["stop", "length"]),
)
def test_there_are_as_many_answers_as_questions_and_all_or_none_can_be_read(
    text: str, n: int, finish: str
) -> None:
    answers = numbered_answers(Config(), Reply(text, finish), n)
    unread = {parse_classification(answer) is None for answer in answers}
    assert len(answers) == n and len(unread) == 1
