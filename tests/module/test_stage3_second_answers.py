"""Stage 3, the second answer: which answers are asked for again, how, and what it costs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import self_instruct
import self_instruct_workshop as workshop
from scripts.asking.estimate import estimate
from self_instruct_workshop import Config, Model, Results, Task, generate_instances
from tests.helpers.runs import local, quiet
from tests.helpers.server import Server

Settings = Callable[..., Config]
AGAIN = workshop.ANSWER_PROMPT["header"]
AGAIN_ZH = "请完成任务，只写答案，越短越好。"
ADD = Task("machine_task_0", "Add the numbers.", False)
MOOD = Task("machine_task_1", "Is the review positive or negative?", True)
MOOD.notes["classify"] = {"labels": ["positive", "negative"]}
LONG = "one two three four five six"


class Writer:
    """Answers stage 3 with a reply, and the task by itself with another one; notes what it saw."""

    def __init__(self, reply: str, again: str) -> None:
        self.reply = reply
        self.again = again
        self.asked: list[str] = []

    def __call__(self, prompt: str, body: dict) -> str:
        if not prompt.startswith((AGAIN, AGAIN_ZH)):
            return self.reply
        self.asked.append(prompt)
        return self.again


def made(config: Config, task: Task) -> tuple[Task, Results, Model]:
    task = Task(task.id, task.instruction, task.is_classification, notes={**task.notes})
    results = Results(tasks=[task])
    with Model(config) as model:
        generate_instances(config, model, [task], results)
    return task, results, model


def test_a_short_answer_is_asked_for_again_by_itself(settings: Settings) -> None:
    writer = Writer("Input: 2 and 3\nOutput: 5", "It is 5.")
    with Server(writer) as server:
        task, _, _ = made(settings(**local(server, model="m")), ADD)
    assert writer.asked == [f"{AGAIN}\n\nAdd the numbers.\n\n2 and 3"]
    assert task.notes["instances"]["second_answers"] == ["It is 5."]


def test_the_labels_of_stage_2_are_named_and_the_first_answer_is_not(settings: Settings) -> None:
    writer = Writer("Class label: negative\nInput: Too salty.", "<think>Hm.</think>Negative")
    with Server(writer) as server:
        task, _, _ = made(settings(**local(server, model="m")), MOOD)
    wanted = (
        f"{AGAIN}\nChoose one of these: positive, negative.\n\n{MOOD.instruction}\n\nToo salty."
    )
    assert writer.asked == [wanted]
    assert task.notes["instances"]["second_answers"] == ["Negative"]


def test_chinese_is_asked_in_chinese(settings: Settings) -> None:
    writer = Writer("输入：\n输出：巴黎", "巴黎")
    task = Task("1", "法国的首都是哪里？", False)
    with Server(writer) as server:
        made(settings(**local(server, model="m", language="zh")), task)
    assert writer.asked == [f"{AGAIN_ZH}\n\n法国的首都是哪里？"]


@pytest.mark.parametrize(
    ("reply", "changes"),
    [
        (f"Input: 2\nOutput: {LONG}", {}),  # too long to be compared, and without numbers
        (f"Input: 2\nOutput: 7 {'and more ' * 20}", {}),
        ("Input: 2\nOutput: 2", {}),  # it is out already, output_equals_input
        ("Input: 2\nOutput: TODO", {}),
        ("No idea.", {"second_try": False}),  # no instance at all
        ("Input: 2 and 3\nOutput: 5", {"second_answer": False}),
    ],
)
def test_nothing_is_asked_again_where_it_would_decide_nothing(
    settings: Settings, reply: str, changes: dict
) -> None:
    writer = Writer(reply, "5")
    with Server(writer) as server:
        task, _, _ = made(settings(**local(server, model="m", **changes)), ADD)
    assert writer.asked == [] and not any(task.notes["instances"]["second_answers"])


def test_each_instance_has_its_own_second_answer(settings: Settings) -> None:
    pairs = [("2 and 3", "5"), ("the words", LONG), ("4 and 4", "8")]
    reply = "\n\n".join(f"Input: {source}\nOutput: {target}" for source, target in pairs)
    writer = Writer(reply, "8")
    with Server(writer) as server:
        config = settings(**local(server, model="m", instances_per_instruction=3))
        task, results, _ = made(config, ADD)
    assert [prompt.split("\n\n")[-1] for prompt in writer.asked] == ["2 and 3", "4 and 4"]
    assert task.notes["instances"]["second_answers"] == ["8", "", "8"]
    rows = workshop.filter_and_dedupe(config, None, [task], results)
    assert [row["output"] for row in rows] == [LONG, "8"]
    [rejected] = results.rejected
    assert (rejected["rule"], rejected["output"], rejected["evidence"]) == (
        "answers_differ",
        "5",
        "8",
    )


def test_a_second_answer_is_paid_for_once(settings: Settings) -> None:
    writer = Writer("Input: 2 and 3\nOutput: 5", "5")
    with Server(writer) as server:
        config = settings(**local(server, model="m"))
        for _ in range(2):
            task, _, _ = made(config, ADD)
            assert task.notes["instances"]["second_answers"] == ["5"]
        assert len(server.requests) == 2


def test_a_second_answer_that_never_comes_leaves_the_task_undone(settings: Settings) -> None:
    """It is no row, and no rejection: the next call goes on with the reply that is there."""
    writer = Writer("Input: 2 and 3\nOutput: 5", "5")
    broken = ["500"]

    def fault(number: int, prompt: str) -> str:
        return broken[0] if prompt.startswith(AGAIN) else ""

    with Server(writer, faults=fault) as server:
        config = settings(**local(server, model="m", max_attempts=2))
        task, results, model = made(config, ADD)
        assert (task.instances, results.rejected) == ([], [])
        assert [stage for stage, _ in model.undone] == ["instances"]
        broken[0] = ""
        sent = len(server.requests)
        task, _, _ = made(config, ADD)
        assert len(server.requests) == sent + 1
    assert task.instances == [{"input": "2 and 3", "output": "5"}]


def test_a_second_answer_that_is_refused_for_good_decides_nothing(settings: Settings) -> None:
    def fault(number: int, prompt: str) -> str:
        return "filter-400" if prompt.startswith(AGAIN) else ""

    with Server(Writer("Input: 2 and 3\nOutput: 5", "5"), faults=fault) as server:
        config = settings(**local(server, model="m"))
        task, results, model = made(config, ADD)
    assert model.undone == [] and task.notes["instances"]["second_answers"] == [""]
    assert len(workshop.filter_and_dedupe(config, None, [task], results)) == 1


def test_a_run_without_second_answers_replays_as_it_was(settings: Settings, tmp_path: Path) -> None:
    first = settings(provider="practice", num_instructions=30, second_answer=False)
    rows = quiet(first)["counts"]["filter"]["out"]
    journal = f"{first.work_dir}/responses.jsonl"
    replay = {"provider": "replay", "responses": journal, "work_dir": str(tmp_path / "again")}
    summary = quiet(Config(num_instructions=30, **replay))
    assert not summary["undone_because"] and summary["counts"]["filter"]["out"] == rows
    # With a model that can be asked, the estimate says that second answers are still to come.
    flags = self_instruct.command_line().parse_args([])
    asked = estimate(settings(provider="practice", num_instructions=30), flags)
    assert asked["stages"]["instances"]["requests"] > 5


def test_a_second_answer_that_is_cut_off_decides_nothing(settings: Settings) -> None:
    def reply(prompt: str, body: dict) -> str:
        return "word " * 40 if prompt.startswith(AGAIN) else "Input: 2 and 3\nOutput: 5"

    with Server(reply) as server:
        config = settings(**local(server, model="m", max_tokens=12))
        task, results, _ = made(config, ADD)
    assert task.notes["instances"]["second_answers"] == [""]
    assert len(workshop.filter_and_dedupe(config, None, [task], results)) == 1
