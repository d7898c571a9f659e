"""A limit on spending is a budget: what is made goes the whole way, and the rest is not begun."""

from __future__ import annotations

import argparse
import builtins
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers.runs import check_counts, rows, summary_of
from helpers.server import TRANSIENT, Server, scripted_model

import self_instruct
import self_instruct_workshop as workshop
from scripts.asking import budget, estimate
from self_instruct_workshop import STEP_FILES, Config

Command = Callable[..., int]


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(scripted_model()) as server:
        yield server


@pytest.fixture
def command(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """The command line with a provider that has a price: 300 instructions, in `folder`."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")

    def call(*flags: str, folder: str = "work") -> int:
        where = ["--provider=openai", "--model=gpt-6-luna", f"--base-url={server.url}/v1"]
        where += ["--first-wait=0.01", f"--work-dir={tmp_path / folder}"]
        return self_instruct.main([*where, "--num-instructions=300", *flags])

    return call


@pytest.mark.parametrize(
    "limit", ["--max-cost=0.003", "--max-cost=0.01", "--max-tokens-total=40000"]
)
def test_what_fits_becomes_rows(
    command: Command, server: Server, tmp_path: Path, capsys: pytest.CaptureFixture, limit: str
) -> None:
    assert command(limit) == 3
    summary = summary_of(tmp_path / "work")
    counts = summary["counts"]
    made = counts["generate"]["out"]
    # Before, all of the money went into stages 1 and 2.
    assert 20 < made < 300
    finished = counts["instances"]["in"] - counts["instances"]["undone"]
    assert finished >= 0.95 * made
    assert len(rows(tmp_path / "work", STEP_FILES[3])) >= 0.95 * made
    spending = summary["spending"]
    tokens = spending["prompt_tokens"] + spending["reply_tokens"]
    name, value = limit[2:].split("=")
    used = {"max-cost": spending["cost"], "max-tokens-total": tokens}[name] / float(value)
    assert 0.8 < used <= 1
    said = capsys.readouterr().out
    assert f"was enough for {made} of 300 instructions, {made} rows" in said
    assert said.count("1 generate: ") == 1  # one page, whatever the number of rounds
    assert summary["budget"]["wanted"] == 300


def test_the_same_command_asks_nothing_more_and_a_higher_limit_goes_on(
    command: Command, server: Server, tmp_path: Path
) -> None:
    command("--max-cost=0.005")
    paid = len(server.requests)
    first = rows(tmp_path / "work", STEP_FILES[3])
    command("--max-cost=0.005")
    assert len(server.requests) == paid
    assert rows(tmp_path / "work", STEP_FILES[3]) == first
    assert command("--max-cost=1") == 0
    assert rows(tmp_path / "work", STEP_FILES[3])[: len(first)] == first
    asked = [request["prompt"] for request in server.requests]
    assert len(asked) == len(set(asked)), "nothing was paid twice"
    check_counts(tmp_path / "work", summary_of(tmp_path / "work"))


def test_the_journal_is_read_once_before_a_run_and_once_for_each_round(
    command: Command, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    rounds = []
    open_file = builtins.open
    run = workshop.run

    def noted(file: object, *how: object, **more: object) -> object:
        if isinstance(file, (str, Path)) and Path(file).name == "responses.jsonl":
            opened.append(file)
        return open_file(file, *how, **more)

    def counted(*settings: object) -> dict:
        rounds.append(settings)
        return run(*settings)

    command("--max-cost=0.005")
    monkeypatch.setattr(builtins, "open", noted)
    monkeypatch.setattr(workshop, "run", counted)
    command("--max-cost=0.005", "--estimate")
    assert len(opened) == 1 and not rounds
    for limit in ("--max-cost=0.005", "--max-cost=0.02", "--max-cost=9"):
        opened.clear()
        rounds.clear()
        command(limit)
        assert rounds and len(opened) == 1 + len(rounds)


def test_a_budget_that_is_enough_changes_nothing(
    command: Command, server: Server, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert command("--max-cost=5", "--num-instructions=30") == 0
    assert "was enough" not in capsys.readouterr().out
    assert "budget" not in summary_of(tmp_path / "work")
    assert summary_of(tmp_path / "work")["counts"]["generate"]["out"] == 30


def test_a_budget_for_nothing_says_so(command: Command, server: Server, tmp_path: Path) -> None:
    assert command("--max-cost=0.000001") in (1, 3)
    assert not server.requests


def test_any_number_of_workers_makes_the_same(
    command: Command, server: Server, tmp_path: Path
) -> None:
    for folder, workers in (("one", 1), ("many", 16)):
        command("--max-tokens-total=30000", f"--concurrency={workers}", folder=folder)
    one, many = (
        [row["instruction"] for row in rows(tmp_path / folder, STEP_FILES[3])]
        for folder in ("one", "many")
    )
    assert one == many


def test_faults_cost_money_and_the_limit_holds(
    command: Command, server: Server, tmp_path: Path
) -> None:
    server.choose = lambda number, prompt: TRANSIENT[number % 5] if number % 3 == 0 else ""
    command("--max-cost=0.01")
    summary = summary_of(tmp_path / "work")
    assert summary["spending"]["cost"] <= 0.01
    assert summary["counts"]["filter"]["out"] > 20


def test_the_estimate_says_how_many_fit(
    command: Command, server: Server, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert command("--max-cost=0.01", "--estimate") == 0
    said = capsys.readouterr().out
    assert "of 300 fit into $0.01: the run makes as many as become rows" in said
    assert not server.requests and not (tmp_path / "work").exists()
    command("--max-cost=0.01", "--max-tokens-total=90000", "--estimate", "--language=zh")
    assert re.search(
        r"  预算（\$0\.01 和 90,000 词元）约够 300 个中的 \d+ 个：", capsys.readouterr().out
    )
    command("--max-cost=9", "--estimate")
    assert "fit into" not in capsys.readouterr().out


def test_a_killed_run_within_a_budget_counts_what_it_paid(
    command: Command, server: Server, tmp_path: Path
) -> None:
    command("--max-cost=0.005")
    (tmp_path / "work" / "run.json").unlink()  # as after a kill: the journal alone tells
    options = self_instruct.command_line().parse_args(["--max-cost=0.005"])
    config = Config(provider="openai", model="gpt-6-luna", work_dir=str(tmp_path / "work"))
    _, dollars = budget.spent_so_far(config, options, estimate.known_replies(config))
    lines = (tmp_path / "work" / "responses.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    tokens = [sum(record[name] for record in records) for name in ("prompt_tokens", "reply_tokens")]
    assert dollars == pytest.approx((tokens[0] * 0.1 + tokens[1] * 0.5) / 1e6)
    paid = len(server.requests)
    command("--max-cost=0.005")
    assert len(server.requests) - paid < 10
    assert summary_of(tmp_path / "work")["spending"]["cost"] <= 0.005


def test_until_keeps_money_for_the_stages_behind_it(
    command: Command, server: Server, tmp_path: Path
) -> None:
    for until in ("generate", "generate", "classify"):
        assert command("--max-cost=0.004", f"--until={until}") == 3
    made = rows(tmp_path / "work", STEP_FILES[1])
    assert command("--max-cost=0.004") == 3
    final = rows(tmp_path / "work", STEP_FILES[3])
    assert {row["instruction"] for row in made} <= {row["instruction"] for row in final}
    counts = summary_of(tmp_path / "work")["counts"]
    assert len(final) > 20 and counts["instances"]["undone"] == 0
    assert not (tmp_path / "work" / "earlier").exists()


def test_a_model_without_a_name_goes_on_from_its_own_run(server: Server, tmp_path: Path) -> None:
    flags = ["--provider=local", f"--base-url={server.url}/v1", f"--work-dir={tmp_path / 'work'}"]
    flags += ["--first-wait=0.01", "--num-instructions=300", "--max-tokens-total=40000"]
    assert self_instruct.main(flags) == 3
    first = rows(tmp_path / "work", STEP_FILES[3])
    assert self_instruct.main(flags) == 3
    assert rows(tmp_path / "work", STEP_FILES[3]) == first
    assert not (tmp_path / "work" / "earlier").exists()


def test_where_files_of_an_earlier_run_are_is_said_whatever_the_rounds(
    command: Command, server: Server, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    command("--model=gpt-5.4-mini", "--num-instructions=30")
    first = rows(tmp_path / "work", STEP_FILES[3])
    capsys.readouterr()
    command("--max-cost=0.01")
    [kept] = (tmp_path / "work" / "earlier").iterdir()
    said = capsys.readouterr().out
    assert said.count(f"whose files are kept in {kept}") == 1 and "gpt-5.4-mini" in said
    assert summary_of(tmp_path / "work")["kept_in"] == f"earlier/{kept.name}"
    assert rows(kept, STEP_FILES[3]) == first


def test_a_notebook_has_the_same_limits(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    where = {"base_url": server.url + "/v1", "work_dir": str(tmp_path / "work")}
    config = Config(300, provider="openai", model="gpt-6-luna", **where)
    summary = self_instruct.run_within(config, max_cost=0.005)
    assert summary["spending"]["cost"] <= 0.005
    assert summary["budget"]["rows"] == summary["counts"]["filter"]["out"] > 20


@pytest.mark.parametrize("broken", [[], {"counts": 3}, {"counts": {"instances": {"in": "x"}}}])
def test_a_damaged_run_json_decides_nothing(tmp_path: Path, broken: object) -> None:
    (tmp_path / "run.json").write_text(json.dumps(broken), encoding="utf-8")
    config = Config(provider="openai", model="m", work_dir=str(tmp_path))
    assert budget.so_far(config) == (0, 0)
    assert budget.has_limit(config, argparse.Namespace(max_cost=None, max_tokens_total=5))
