"""Free places are used for what later stages will ask: the same questions, the same files."""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from hashlib import sha256
from pathlib import Path

import pytest
from helpers.runs import local
from helpers.server import LISTS, Server, scripted_model

import self_instruct
from scripts.asking import limits
from scripts.asking.limits import LimitedModel
from self_instruct_workshop import (
    DEFAULT_SEEDS,
    STEP_FILES,
    Config,
    Results,
    Task,
    UsageError,
    WorkshopError,
    ask_options,
    generate_instructions,
    load_seed_tasks,
    run,
    summary_of,
    write_whole,
)

Settings = Callable[..., Config]
ONE = ("Among which options is the answer chosen?", "答案从哪些选项里选？")
FILES = [*STEP_FILES, "rejected.jsonl"]


def ask(config: Config, *flags: str) -> dict:
    options = self_instruct.command_line().parse_args(["--yes", *flags])
    return run(config, say=lambda text: None, model_class=partial(LimitedModel, options=options))


@contextmanager
def asked(settings: Settings) -> Iterator[tuple[LimitedModel, Server]]:
    """A model of a run that may ask ahead of time, and its server."""
    with Server(scripted_model()) as server:
        config = settings(**local(server, num_instructions=40, concurrency=8))
        options = self_instruct.command_line().parse_args([])
        with LimitedModel(config, options) as model:
            yield model, server


def stage_of(prompt: str) -> str:
    if re.search(r"\n\d+\.\Z", prompt):
        return "generate"
    return "classify" if prompt.endswith((*ONE, *LISTS)) else "instances"


def prompts(server: Server) -> list[dict]:
    return [request for request in server.requests if request["method"] == "POST"]


def stages(server: Server) -> list[str]:
    """The stage of each request, in the order in which they came."""
    return [stage_of(request["prompt"]) for request in prompts(server)]


def first_of(server: Server, stage: str) -> float:
    """When the first request of a stage came."""
    return min(one["at"] for one in prompts(server) if stage_of(one["prompt"]) == stage)


def end_of_stage_1(server: Server) -> float:
    """When its last reply left."""
    of_stage = [one for one in prompts(server) if stage_of(one["prompt"]) == "generate"]
    return max(one["at"] + one["delay"] for one in of_stage)


def questions(server: Server) -> Counter[tuple[str, float]]:
    """How often each was asked."""
    return Counter((one["prompt"], one["body"].get("temperature")) for one in prompts(server))


def files(folder: str | Path) -> dict[str, str]:
    """The files of a run, without the times of its replies."""
    texts = {}
    for name in FILES:
        path = Path(folder) / name
        if path.exists():
            text = path.read_text(encoding="utf-8")
            texts[name] = re.sub(r'"created_at": "[^"]*"', "", text)
    return texts


def changed(how: Callable[[str, str, int], str]) -> Callable:
    """The scripted model with other answers: `how` gets the prompt, the text, and a number."""
    model = scripted_model()
    seen: Counter[str] = Counter()

    def answer(prompt: str, body: dict) -> str:
        seen[prompt] += 1
        text = model(prompt, body)
        return how(prompt, text if isinstance(text, str) else text[0], seen[prompt])

    return answer


def number_of(prompt: str) -> int:
    """The same for the same prompt: which of them get another answer."""
    return sum(map(ord, prompt)) % 3


def seconds(prompt: str) -> float:
    """Stage 1 is slow, so that there is time for the others."""
    slow = 0.15 if stage_of(prompt) == "generate" else 0.0
    return slow + 0.01 + 0.02 * number_of(prompt)


def as_it_is(prompt: str, text: str, times: int) -> str:
    return text


def bad_lists(prompt: str, text: str, times: int) -> str:
    """Some lists lack an answer, others have one that is not people's."""
    if not prompt.endswith(LISTS):
        return text
    lines = text.splitlines()
    return "\n".join([lines, lines[:-1], lines[::-1]][number_of(prompt)])


def no_lists(prompt: str, text: str, times: int) -> str:
    return "I cannot say." if prompt.endswith(LISTS) else text


def unread_at_first(prompt: str, text: str, times: int) -> str:
    """Some single questions of stage 2 get an answer that can be read only when asked again."""
    unread = prompt.endswith(ONE) and number_of(prompt) == 0 and times == 1
    return "Well, it depends." if unread else text


def no_judge(prompt: str, text: str, times: int) -> str:
    """A model that calls nothing classification is not trusted on seed tasks."""
    none = "选项：无" if prompt.endswith(ONE[1]) else "Options: none"
    return none if prompt.endswith(ONE) else text


def second_tries(prompt: str, text: str, times: int) -> str:
    """Some instances break a rule of form, so stage 3 asks a second time."""
    unfit = stage_of(prompt) == "instances" and number_of(prompt) == 0
    return "I hope this helps!" if unfit else text


CASES = {
    "as they are": (as_it_is, {}, ()),
    "in Chinese": (as_it_is, {"language": "zh"}, ()),
    "the paper's way": (as_it_is, {"recipe": "paper"}, ()),
    "one by one": (as_it_is, {}, ("--classify-together", "1")),
    "lists of three": (bad_lists, {}, ("--classify-together", "3")),
    "lists are no good": (no_lists, {}, ()),
    "unread at first": (unread_at_first, {}, ("--classify-together", "1")),
    "not trusted": (no_judge, {}, ()),
    "not trusted, in Chinese": (no_judge, {"language": "zh"}, ()),
    "second tries": (second_tries, {}, ()),
    "stage 1 alone": (as_it_is, {"until": "generate"}, ()),
    "until stage 2": (as_it_is, {"until": "classify"}, ()),
    "until stage 3": (as_it_is, {"until": "instances"}, ()),
    "two examples of each": (as_it_is, {"instances_per_instruction": 2}, ()),
}


@pytest.mark.parametrize("case", CASES)
def test_the_same_is_asked_once_and_the_same_comes_out(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    how, changes, flags = CASES[case]
    found = {}
    for ahead in (True, False):
        if not ahead:
            monkeypatch.setattr(limits, "can_ask_ahead", lambda model: False)
        with Server(changed(how), delay=seconds) as server:
            folder = tmp_path / str(ahead)
            where = local(server, work_dir=str(folder), num_instructions=60, concurrency=8)
            summary = ask(settings(**{**where, **changes}), *flags)
            assert not summary["undone_because"]
            assert server.max_in_flight <= 8
            found[ahead] = (questions(server), files(folder), summary["counts"], summary["tokens"])
            if case in ("as they are", "in Chinese", "one by one", "the paper's way") and ahead:
                assert first_of(server, "instances") < end_of_stage_1(server)
    assert found[True] == found[False]


def test_with_one_request_at_a_time_stages_ask_in_turn(settings: Settings) -> None:
    with Server(scripted_model()) as server:
        ask(settings(**local(server, num_instructions=20, concurrency=1)))
    order = stages(server)
    assert order == sorted(order, key=["generate", "classify", "instances"].index)


@pytest.mark.parametrize("flags", [("--max-tokens-total", "9000000"), ("--max-cost", "9")])
def test_with_a_limit_on_spending_no_stage_is_asked_ahead_of_time(
    settings: Settings, flags: tuple[str, str]
) -> None:
    flags += ("--price-in", "0.1", "--price-out", "0.1")
    with Server(scripted_model(), delay=0.01) as server:
        ask(settings(**local(server, num_instructions=40, concurrency=8)), *flags)
    order = stages(server)
    assert order == sorted(order, key=["generate", "classify", "instances"].index)


def test_a_model_of_its_own_is_asked_by_its_stage_alone(settings: Settings) -> None:
    with Server(scripted_model(), delay=0.01) as server:
        where = local(server, model="one", instances_model="other", num_instructions=40)
        ask(settings(**where, concurrency=8))
    order = stages(server)
    assert order == sorted(order, key=["generate", "classify", "instances"].index)


def test_a_second_run_pays_for_nothing_twice(settings: Settings, tmp_path: Path) -> None:
    """Nor does one that goes on behind stage 1, or wants more instructions."""
    work = settings(work_dir=str(tmp_path / "w"), num_instructions=40, concurrency=8)
    with Server(scripted_model(), delay=0.01) as server:
        for number, until in ((40, "generate"), (40, "filter"), (40, "filter"), (90, "filter")):
            changes = local(server, num_instructions=number, until=until)
            ask(settings(**{**vars(work), **changes}))
        assert max(questions(server).values()) == 1
        # A run that wants so many from the start makes the same ones.
        once = settings(**{**vars(work), **changes, "work_dir": str(tmp_path / "once")})
        ask(once)
    # Lists hold other tasks, since the first run had a last one that was not full.
    names = [name for name in FILES if name != STEP_FILES[1]]
    both = [files(folder) for folder in (work.work_dir, once.work_dir)]
    assert [both[0][name] for name in names] == [both[1][name] for name in names]


def test_what_fails_ahead_of_time_is_asked_by_its_stage(settings: Settings) -> None:
    """And it neither ends the run, nor is anything more asked ahead of time."""
    refused: list[str] = []

    def faults(index: int, prompt: str) -> str:
        """Each of the first three questions of stage 2 fails for good, when asked at first."""
        if stage_of(prompt) == "classify" and prompt not in refused and len(refused) < 3:
            refused.append(prompt)
            return "filter-400"
        return ""

    with Server(scripted_model(), delay=0.02, faults=faults) as server:
        config = settings(**local(server, num_instructions=60, concurrency=8, max_attempts=1))
        options = self_instruct.command_line().parse_args([])
        options.is_program = True
        summary = run(
            config, say=lambda text: None, model_class=partial(LimitedModel, options=options)
        )
    assert len(refused) == 3
    assert summary["status"] == "complete" and not summary["undone_because"]
    assert summary["agreement"]["asked"] == 16
    # Stage 2 has all its replies, so it need not be decided again.
    assert set(summary["decided"]) == {"generate", "classify", "instances", "filter"}
    assert first_of(server, "instances") > end_of_stage_1(server)


def test_a_stage_that_gets_no_answer_ends_as_ever(settings: Settings, tmp_path: Path) -> None:
    """What is asked ahead of time counts as no failure: stage 1 has all its rows."""

    def faults(index: int, prompt: str) -> str:
        return "500" if stage_of(prompt) == "classify" else ""

    found = []
    for concurrency in (1, 8):
        with Server(scripted_model(), delay=0.01, faults=faults) as server:
            folder = tmp_path / str(concurrency)
            where = local(server, num_instructions=40, work_dir=str(folder))
            with pytest.raises(WorkshopError, match="no answer from local") as error:
                ask(settings(**where, concurrency=concurrency, max_attempts=1))
        assert "instances" not in stages(server)
        found.append((re.sub(r":\d+/", "", str(error.value)), files(folder)))
    assert found[0] == found[1]
    assert [*found[0][1]] == [STEP_FILES[0]] and found[0][1][STEP_FILES[0]].count("\n") == 40


def test_a_refused_key_ends_the_run_wherever_it_is_met(settings: Settings) -> None:
    def faults(index: int, prompt: str) -> str:
        return "401" if stage_of(prompt) == "classify" else ""

    with Server(scripted_model(), delay=0.01, faults=faults) as server:
        config = settings(**local(server, num_instructions=40, concurrency=8))
        with pytest.raises(WorkshopError, match="said 401"):
            ask(config)
        asked = len(server.requests)
        time.sleep(0.2)
        assert len(server.requests) == asked


def test_behind_an_interruption_nothing_more_is_asked(settings: Settings) -> None:
    """What was on its way may have a second; the journal has all that came, and nothing twice."""
    with Server(scripted_model(), delay=0.05) as server:
        config = settings(**local(server, num_instructions=80, concurrency=8))

        def stop_in_stage_2(text: str) -> None:
            if "2 classify" in text:
                raise KeyboardInterrupt

        options = self_instruct.command_line().parse_args([])
        with pytest.raises(KeyboardInterrupt):
            run(config, stop_in_stage_2, partial(LimitedModel, options=options))
        asked = len(server.requests)
        time.sleep(0.3)
        assert len(server.requests) == asked
        # The next run asks what this one has not, and nothing else.
        ask(config)
        assert max(questions(server).values()) == 1


def test_an_interrupted_cell_of_a_notebook_can_run_again(settings: Settings) -> None:
    with Server(scripted_model(), delay=0.01) as server:
        config = settings(**local(server, num_instructions=40, concurrency=4))
        seeds = load_seed_tasks(DEFAULT_SEEDS["en"])
        options = self_instruct.command_line().parse_args([])
        with LimitedModel(config, options) as model:
            asking = model.ask_each("classify", partial(ask_options, config, model), seeds)
            next(asking)
            asking.close()
            tasks = generate_instructions(config, model, seeds)
            assert len(tasks) == 40 and not model.undone


def test_a_place_in_flight_is_for_the_stage_at_work_first(settings: Settings) -> None:
    with Server(scripted_model(), delay=0.01) as server:
        config = settings(**local(server, num_instructions=40, concurrency=8))
        options = self_instruct.command_line().parse_args([])
        with LimitedModel(config, options) as model:
            ahead = model.asking_ahead
            model.window.set_limit("generate", 8)
            ahead.begin("generate", print)
            ahead.waiting.append(("classify", Task("machine_task_0", "Name a river.")))
            assert ahead.may_ask()
            model.window.waiting = 1  # a request of the stage has no place
            assert not ahead.may_ask() and ahead.next_question() is None
            model.window.waiting = 0
            assert ahead.next_question()[0] == "classify"
            # Who is asked about it by now waits for that.
            assert ("classify", "Name a river.") in ahead.under_way
            # What its stage asks itself is no longer asked ahead of time.
            ahead.waiting.append(("classify", Task("machine_task_1", "Name a lake.")))
            ahead.begin("classify", print)
            assert not ahead.waiting


def test_settings_that_cannot_be_are_refused_before_anything_is_asked(settings: Settings) -> None:
    with Server(scripted_model()) as server, pytest.raises(UsageError):
        ask(settings(**local(server, num_instructions=40)), "--max-cost", "1")
    assert not server.requests


def test_what_is_added_while_a_stage_begins_is_neither_lost_nor_an_error(
    settings: Settings,
) -> None:
    """The main thread begins a stage, while another one looks for more to ask."""
    task = Task("machine_task_0", "Name a river.")
    with asked(settings) as (model, _):
        ahead = model.asking_ahead
        ahead.begin("generate", print)
        ahead.add(("probes", task), ("classify", task))
        others: list[threading.Thread] = []
        is_later = ahead.is_later

        def slowly(name: str) -> bool:
            if threading.current_thread() is threading.main_thread():
                others.append(threading.Thread(target=ahead.add, args=[("instances", task)]))
                others[-1].start()
                others[-1].join(0.1)
            return is_later(name)

        ahead.is_later = slowly
        ahead.begin("probes", print)
        for other in others:
            other.join()
        assert [name for name, _ in ahead.waiting] == ["classify", "instances", "instances"]


def test_what_is_counted_meanwhile_does_not_change_a_summary(settings: Settings) -> None:
    """It is written when a stage ends, and by then others may ask ahead of time."""
    with asked(settings) as (model, _):
        model.tokens["generate"] = Counter(replies=1)
        model.faults["500"] = 1
        summary = summary_of(model.config, model, Results())
        model.tokens["generate"]["replies"] = 2
        model.tokens["classify"] = Counter(replies=1)
        model.faults["cut"] = 1
        assert summary["tokens"] == {"generate": {"replies": 1}}
        assert summary["faults"] == {"500": 1}


@pytest.mark.parametrize("text", ["plain", "文字 é", "a lone \ud800", "文字 \ud800"])
def test_the_digest_of_a_file_is_that_of_its_text_or_there_is_none(
    text: str, tmp_path: Path
) -> None:
    found = write_whole(tmp_path / "file.jsonl", ["{}\n", text + "\n"])
    written = (tmp_path / "file.jsonl").read_bytes()
    as_it_is = "\ud800" not in text
    assert found == (sha256(written).hexdigest() if as_it_is else "")


def test_a_task_that_is_a_probe_too_is_in_no_list(settings: Settings) -> None:
    """With seed tasks of one's own, a model may write one of those that stage 2 asks about."""
    river = Task("machine_task_0", "Name a river.")
    lake = Task("machine_task_1", "Name a lake.")
    with asked(settings) as (model, _):
        model.asking_ahead.probes = [Task("seed_task_0", "Name a river.")]
        model.asking_ahead.results = Results(tasks=[river, lake])
        model.asking_ahead.look_for_new()
        assert model.asking_ahead.unlisted == [lake]


def test_a_reply_that_another_thread_reads_at_once_counts_once(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stands in the journal before who has asked for it comes to count it."""
    task = Task("machine_task_0", "Name a river.")
    with asked(settings) as (model, server):
        append = model.journal.append

        def read_at_once(*records: dict) -> None:
            append(*records)
            with monkeypatch.context() as patch:
                patch.setattr(model.journal, "append", append)
                ask_options(model.config, model, task)

        monkeypatch.setattr(model.journal, "append", read_at_once)
        ask_options(model.config, model, task)
        assert len(prompts(server)) == 1
        assert model.tokens["classify"]["replies"] == 1
        assert model.tokens["classify"]["asked_now"] == 1
