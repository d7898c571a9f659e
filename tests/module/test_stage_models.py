"""A model for each stage: stages 2 and 3 may ask another one, over the same journal."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers.limited import limited_run
from helpers.runs import check_counts, quiet, rows, views
from helpers.server import Server, scripted_model

import self_instruct
from scripts.asking import estimate
from self_instruct_workshop import (
    STEP_FILES,
    Config,
    Model,
    UsageError,
    WorkshopError,
    classify_instructions,
    generate_instances,
    generate_instructions,
    load_seed_tasks,
    run,
)

Settings = Callable[..., Config]
MADE = {"num_instructions": 12}
SMALL, LARGE = "small-model", "large-model"


@pytest.fixture
def two() -> Iterator[tuple[Server, Server]]:
    """Two servers; the second says other things."""
    with Server(scripted_model()) as one, Server(scripted_model(seed=1)) as other:
        yield one, other


@pytest.fixture
def config(settings: Settings, two: tuple[Server, Server]) -> Callable[..., Config]:
    """A run at the first server."""

    def make(**changes: object) -> Config:
        here = {"provider": "local", "base_url": two[0].url + "/v1", "model": SMALL}
        return settings(**{**here, **MADE, **changes})

    return make


def at(server: Server, stage: str, model: str = LARGE) -> dict[str, str]:
    """The settings that make a stage ask a model of this server."""
    return {f"{stage}_base_url": server.url + "/v1", f"{stage}_model": model}


def asked(server: Server) -> Counter[str]:
    """How many requests each model of a server got."""
    return Counter(request["body"]["model"] for request in server.requests)


def answered(folder: Path) -> set[tuple[str, str]]:
    """Stage and model of each reply in the journal."""
    lines = (folder / "responses.jsonl").read_text(encoding="utf-8").splitlines()
    return {(record["stage"], record["model"]) for record in map(json.loads, lines)}


def test_each_stage_asks_its_own_model_and_run_json_names_them(
    config: Callable, two: tuple[Server, Server]
) -> None:
    made = config(**at(two[1], "instances"), classify_model="middle-model")
    summary = quiet(made)
    folder = Path(made.work_dir)
    check_counts(folder, summary)
    pairs = {("generate", SMALL), ("classify", "middle-model"), ("instances", LARGE)}
    assert answered(folder) == pairs
    assert asked(two[0]).keys() == {SMALL, "middle-model"} and asked(two[1]).keys() == {LARGE}
    settings = summary["settings"]
    names = ("model", "classify_model", "instances_model")
    assert [settings[name] for name in names] == [SMALL, "middle-model", LARGE]
    assert settings["instances_base_url"] == two[1].url + "/v1"
    assert summary["counts"]["filter"]["out"] > 0


def test_without_these_settings_nothing_changes(config: Callable, settings: Settings) -> None:
    plain = config(work_dir="plain")
    same = config(work_dir="same", classify_model=SMALL, instances_model=SMALL)
    quiet(plain)
    summary = quiet(same)
    assert views(Path("plain")) == views(Path("same"))
    assert {model for _, model in answered(Path("same"))} == {SMALL}
    assert summary["undone_because"] == {}


def test_a_stages_provider_that_is_the_runs_has_the_runs_model_and_address(
    config: Callable, two: tuple[Server, Server]
) -> None:
    made = config(classify_provider="local")
    quiet(made)
    assert {model for _, model in answered(Path(made.work_dir))} == {SMALL}
    assert two[0].requests and not two[1].requests


def test_raising_one_stages_model_asks_that_stage_alone_again(
    config: Callable, two: tuple[Server, Server]
) -> None:
    made = config()
    quiet(made)
    folder = Path(made.work_dir)
    before = rows(folder, STEP_FILES[2])
    two[0].requests.clear()

    # A larger model for stage 3: stages 1 and 2 are read from the journal.
    summary = quiet(config(**at(two[1], "instances")))
    assert not two[0].requests and asked(two[1]).keys() == {LARGE}
    assert {name: n["asked_now"] for name, n in summary["tokens"].items() if n["asked_now"]} == {
        "instances": len(two[1].requests)
    }
    assert [row["response"] for row in rows(folder, STEP_FILES[2])] != [
        row["response"] for row in before
    ]

    # The files of the run before are kept aside, and named.
    [kept] = (folder / "earlier").iterdir()
    assert rows(kept, STEP_FILES[2]) == before
    assert summary["kept_in"] == f"earlier/{kept.name}"
    assert not (kept / STEP_FILES[0]).exists(), "stages 1 and 2 are the same"

    # And back again: everything was paid for.
    two[1].requests.clear()
    quiet(config())
    assert rows(folder, STEP_FILES[2]) == before
    assert not two[0].requests and not two[1].requests


def test_stage_by_stage_asks_the_same_models_as_a_whole_run(
    config: Callable, two: tuple[Server, Server]
) -> None:
    whole = config(work_dir="whole", **at(two[1], "instances"))
    quiet(whole)
    by_hand = config(work_dir="by hand", **at(two[1], "instances"))
    with Model(by_hand) as model:
        seeds = load_seed_tasks(self_instruct.workshop.DEFAULT_SEEDS["en"])
        tasks = generate_instructions(by_hand, model, seeds)
        tasks = generate_instances(by_hand, model, classify_instructions(by_hand, model, tasks))
    assert answered(Path("by hand")) == answered(Path("whole"))
    made = [row["instances"] for row in rows(Path("whole"), STEP_FILES[2]) if row["instances"]]
    assert [task.instances for task in tasks] == made


def test_a_replay_answers_each_stage_from_its_own_model(
    config: Callable, settings: Settings, two: tuple[Server, Server]
) -> None:
    made = config(**at(two[1], "instances"))
    quiet(config())  # the journal holds stage 3 of the small model, too
    quiet(made)
    two[0].requests.clear()
    two[1].requests.clear()
    journal = str(Path(made.work_dir) / "responses.jsonl")
    again = settings(provider="replay", responses=journal, work_dir="replay", **MADE)
    summary = quiet(again)
    assert not two[0].requests and not two[1].requests
    assert views(Path("replay")) == views(Path(made.work_dir))
    assert summary["settings"]["instances_model"] == LARGE


def test_a_killed_run_goes_on_and_each_model_is_asked_once(
    config: Callable, two: tuple[Server, Server]
) -> None:
    whole = config(work_dir="whole", **at(two[1], "instances"))
    quiet(whole)
    requests = len(two[0].requests), len(two[1].requests)
    two[0].requests.clear()
    two[1].requests.clear()
    parts = config(work_dir="parts", **at(two[1], "instances"))
    for until in ("generate", "classify", "filter"):
        parts.until = until
        quiet(parts)
    assert (len(two[0].requests), len(two[1].requests)) == requests
    assert views(Path("parts")) == views(Path("whole"))


# --------------------------------------------------------------------------------------------------
# Keys, addresses, errors.


def test_no_key_goes_to_the_address_of_another_stages_server(
    settings: Settings, two: tuple[Server, Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-openai-alone-123456")
    there = {"provider": "openai", "base_url": two[0].url + "/v1", "model": SMALL}
    made = settings(**there, **MADE, **at(two[1], "instances"))
    quiet(made)
    keys = {headers["authorization"] for headers in headers_of(two[0])}
    assert keys == {"Bearer sk-of-openai-alone-123456"}
    assert not any("sk-of-openai" in str(headers) for headers in headers_of(two[1]))


def headers_of(server: Server) -> list[dict]:
    return [request["headers"] for request in server.requests]


def test_a_missing_key_of_a_stage_is_said_before_stage_1_is_paid_for(
    config: Callable, two: tuple[Server, Server]
) -> None:
    problem = "DASHSCOPE_API_KEY is not set: .*, or use --instances-provider local or practice"
    with pytest.raises(WorkshopError, match=problem):
        quiet(config(instances_provider="dashscope"))
    assert not two[0].requests
    quiet(config(work_dir="free"))  # the folder's lock was given back
    problem = "DASHSCOPE_API_KEY is not set: .*, or use --classify-provider local or practice"
    with pytest.raises(WorkshopError, match=problem):
        quiet(config(work_dir="other", classify_provider="dashscope"))


def test_an_unknown_model_of_a_stage_names_its_own_flag(
    config: Callable, two: tuple[Server, Server]
) -> None:
    two[1].choose = lambda number, prompt: "404"
    with pytest.raises(WorkshopError, match="name another with --instances-model"):
        quiet(config(**at(two[1], "instances")))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classify_provider": "replay"}, "--classify-provider must be one of"),
        ({"instances_provider": "nobody"}, "--instances-provider must be one of"),
        ({"classify_base_url": "localhost"}, "--classify-base-url must be like http"),
    ],
)
def test_settings_of_a_stage_are_checked(
    config: Callable, changes: dict[str, str], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        config(**changes)


# --------------------------------------------------------------------------------------------------
# Money: each model has its own price, and the limits are for all together.

PRICES = {"local": {SMALL: [1.0, 2.0], LARGE: [10.0, 20.0]}}


@pytest.fixture
def prices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "prices.json"
    path.write_text(json.dumps({"date": "2026-01-01", "dollars_per_million_tokens": PRICES}))
    monkeypatch.setattr("scripts.asking.limits.PRICES", path)


def test_the_cost_is_that_of_each_stages_model(
    config: Callable, two: tuple[Server, Server], prices: None
) -> None:
    summary = limited_run(config(**at(two[1], "instances")))
    stages = summary["spending"]["stages"]
    for stage, price in [("generate", (1, 2)), ("classify", (1, 2)), ("instances", (10, 20))]:
        row = stages[stage]
        cost = (row["prompt_tokens"] * price[0] + row["reply_tokens"] * price[1]) / 1e6
        assert row["cost"] == pytest.approx(cost), stage
    assert summary["spending"]["cost"] == pytest.approx(sum(row["cost"] for row in stages.values()))


def test_a_replay_says_what_the_run_has_cost(
    config: Callable, settings: Settings, two: tuple[Server, Server], prices: None
) -> None:
    made = config(**at(two[1], "instances"))
    cost = limited_run(made)["spending"]["cost"]
    journal = str(Path(made.work_dir) / "responses.jsonl")
    again = settings(provider="replay", responses=journal, work_dir="replay", **MADE)
    assert limited_run(again)["spending"]["cost"] == pytest.approx(cost)


def test_a_limit_on_spending_counts_all_models_together(
    config: Callable, two: tuple[Server, Server], prices: None
) -> None:
    whole = limited_run(config(work_dir="whole", **at(two[1], "instances")))
    limit = 0.6 * whole["spending"]["cost"]
    summary = limited_run(config(**at(two[1], "instances")), max_cost=limit)
    assert summary["undone_because"] and summary["spending"]["cost"] <= limit
    tokens = whole["spending"]["prompt_tokens"] + whole["spending"]["reply_tokens"]
    summary = limited_run(
        config(work_dir="third", **at(two[1], "instances")), max_tokens_total=int(0.7 * tokens)
    )
    spent = summary["spending"]["prompt_tokens"] + summary["spending"]["reply_tokens"]
    assert summary["undone_because"] and spent <= 0.7 * tokens


def test_a_price_that_is_missing_for_a_stage_is_said(
    config: Callable, two: tuple[Server, Server], prices: None
) -> None:
    with pytest.raises(UsageError, match="price not listed for unlisted"):
        limited_run(config(**at(two[1], "instances", "unlisted")), max_cost=1.0)
    assert not two[0].requests


def test_the_estimate_names_the_models_and_adds_their_prices(
    config: Callable, two: tuple[Server, Server], prices: None
) -> None:
    options = self_instruct.command_line().parse_args([])
    plain = estimate.estimate(config(), options)
    both = estimate.estimate(config(**at(two[1], "instances")), options)
    assert {name: both[name] for name in ("requests", "prompt_tokens", "reply_tokens")} == {
        name: plain[name] for name in ("requests", "prompt_tokens", "reply_tokens")
    }
    row = both["stages"]["instances"]
    dearer = (9 * row["prompt_tokens"] + 18 * row["reply_tokens"]) / 1e6
    assert both["cost"] == pytest.approx(plain["cost"] + dearer)
    assert "instances by large-model" in estimate.as_text(both, config())


def test_run_json_names_who_answered_whatever_was_typed(settings: Settings) -> None:
    made = settings(
        provider="practice", classify_model="not-the-practice-model", num_instructions=4
    )
    said = quiet(made)["settings"]
    assert said["classify_model"] == said["model"] == "data/practice_tasks.jsonl"
    # So the same command finds its own files, and moves none of them away.
    assert quiet(made)["kept_in"] == ""
    assert not (Path(made.work_dir) / "earlier").exists()


def test_the_greeting_names_each_address_behind_its_own_model(
    config: Callable, two: tuple[Server, Server]
) -> None:
    said: list[str] = []
    run(config(until="generate", **at(two[1], "instances")), say=said.append)
    here, there = (server.url + "/v1" for server in two)
    assert f"by local, {SMALL} at {here}; stage 3 by local, {LARGE} at {there}" in said[0]


def test_a_price_that_no_flag_can_tell_says_where_it_belongs(
    config: Callable, prices: None
) -> None:
    options = self_instruct.command_line().parse_args(["--price-in=1", "--price-out=2"])
    made = config(instances_model="unlisted")
    said = estimate.as_text(estimate.estimate(made, options), made)
    assert "price not listed for unlisted: add it to" in said and "--price-in" not in said


def test_a_price_is_that_of_the_runs_model_at_any_address(
    config: Callable, two: tuple[Server, Server]
) -> None:
    there = config(**at(two[1], "instances", SMALL))
    summary = limited_run(there, max_cost=1.0, price_in=1, price_out=2)
    spending = summary["spending"]
    tokens = spending["prompt_tokens"] + 2 * spending["reply_tokens"]
    assert spending["cost"] == pytest.approx(tokens / 1e6)
