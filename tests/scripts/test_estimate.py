"""The estimate before the first paid request, the question, and the prices."""

from __future__ import annotations

import json
import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date, timedelta
from functools import partial
from itertools import count
from pathlib import Path

import pytest
from helpers.runs import PATIENCE, ROOT
from helpers.server import LISTS, Server, scripted_model

import self_instruct
import self_instruct_workshop as workshop
from scripts.asking.estimate import as_text, estimate, old_prices
from scripts.asking.limits import PRICES, LimitedModel, price_of
from self_instruct_workshop import PROVIDERS, Config, UsageError, run

Settings = Callable[..., Config]
WIRES = ["openai", "dashscope"]


@pytest.fixture
def set_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    monkeypatch.setenv("DASHSCOPE_API_KEY", "sk-test")


@pytest.fixture(params=WIRES)
def wire(request: pytest.FixtureRequest, set_keys: None) -> str:
    return request.param


def options(*flags: str) -> object:
    return self_instruct.command_line().parse_args(flags)


def flags(wire: str, server: Server, folder: Path, *more: str) -> list[str]:
    url = server.url + {"openai": "/v1", "dashscope": "/api/v1", "local": "/v1"}[wire]
    where = [f"--provider={wire}", f"--base-url={url}", "--model=m", f"--work-dir={folder / 'w'}"]
    return [*where, "--num-instructions=3", *more]


# What it says.


def test_an_estimate_needs_no_key_sends_nothing_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Server(scripted_model()) as server:
        for wire in WIRES:
            assert self_instruct.main(flags(wire, server, tmp_path, "--estimate")) == 0
            said = capsys.readouterr()
            assert said.out.startswith("estimate for m ") and "in all" in said.out and not said.err
        assert not server.requests
    assert {path.name for path in tmp_path.iterdir()} == {"cwd"}


def test_the_total_is_the_sum_of_the_stages(settings: Settings) -> None:
    found = estimate(settings(provider="openai", num_instructions=1000), options())
    for name in ("requests", "prompt_tokens", "reply_tokens"):
        assert found[name] == sum(row[name] for row in found["stages"].values()) > 1000
    first = estimate(
        settings(provider="openai", num_instructions=1000, until="generate"), options()
    )
    assert list(first["stages"]) == ["generate"] and first["requests"] < found["requests"] / 3


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("instances", [1, 3])
def test_it_is_about_what_a_run_takes(settings: Settings, language: str, instances: int) -> None:
    """Requests to within a third, and prompts, which are measured, too."""
    shape = {"num_instructions": 200, "language": language, "instances_per_instruction": instances}
    config = settings(provider="practice", **shape)
    found = estimate(config, options())
    took = run(config, say=lambda text: None)["tokens"]
    for stage, row in found["stages"].items():
        if (stage, language) != ("generate", "zh"):  # of that, the practice model knows few tasks
            assert row["requests"] == pytest.approx(took[stage]["replies"], rel=0.34), stage
        characters = (
            took[stage]["prompt"] * 4 * (2.2 if language == "zh" else 1)
        )  # the practice model counts letters
        assert row["prompt_tokens"] * 4 == pytest.approx(characters, rel=0.5), stage


@pytest.mark.parametrize(
    ("size", "requests"),
    [(1, 16 + 40), (10, 16 + 1 + 4), (40, 16 + 1 + 1)],
    ids=["one by one", "lists of 10", "one list"],
)
def test_stage_2_asks_about_16_seed_tasks_and_about_these_in_a_list_too(
    settings: Settings, size: int, requests: int
) -> None:
    together = options(f"--classify-together={size}")
    with Server(scripted_model()) as server:
        where = {"provider": "local", "model": "m", "base_url": server.url + "/v1"}
        config = settings(num_instructions=40, **where)
        row = estimate(config, together)["stages"]["classify"]
        model_class = partial(LimitedModel, options=together)
        took = run(config, say=lambda text: None, model_class=model_class)["tokens"]["classify"]
    assert row["requests"] == took["replies"] == requests
    assert row["prompt_tokens"] == pytest.approx(took["prompt"], rel=0.12)


def test_a_listed_price_a_given_one_and_none() -> None:
    table = json.loads(PRICES.read_text(encoding="utf-8"))["dollars_per_million_tokens"]
    for provider, models in table.items():
        for model, prices in models.items():
            assert price_of(provider, model, options()) == tuple(prices)
            assert price_of(provider, model, options("--price-in=1", "--price-out=3")) == (1, 3)
            assert price_of(provider, model, options("--price-out=0")) == (prices[0], 0)
    assert price_of("openai", "unheard-of", options()) is None
    assert price_of("local", "gpt-6-luna", options()) is None, "another provider's price"
    assert price_of("openai", "unheard-of", options("--price-in=0", "--price-out=0")) == (0, 0)
    with pytest.raises(UsageError, match="give both --price-in and --price-out"):
        price_of("openai", "unheard-of", options("--price-in=1"))


def test_the_table_of_prices_is_dated_and_well_formed() -> None:
    table = json.loads(PRICES.read_text(encoding="utf-8"))
    assert re.fullmatch(r"20\d\d-\d\d-\d\d", table["date"]) and len(table["note"]) > 50
    assert set(table["dollars_per_million_tokens"]) <= set(PROVIDERS)
    for models in table["dollars_per_million_tokens"].values():
        assert all(len(pair) == 2 and min(pair) >= 0 for pair in models.values())


def test_money_is_said_where_the_price_is_known_and_only_there(settings: Settings) -> None:
    config = settings(provider="openai", model="unheard-of", num_instructions=1000)
    text = as_text(estimate(config, options()), config)
    assert "price not listed" in text and "$" not in text
    given = options("--price-in=2", "--price-out=10")
    found = estimate(config, given)
    assert found["cost"] == pytest.approx(
        (2 * found["prompt_tokens"] + 10 * found["reply_tokens"]) / 1e6
    )
    assert f"about ${found['cost']:.2f}" in as_text(found, config)


def test_the_table_in_chinese_has_the_same_figures_in_the_same_columns(
    settings: Settings,
) -> None:
    config = settings(provider="openai", num_instructions=1000)
    found = estimate(config, options())
    english = as_text(found, config).split("\n")
    chinese = as_text(found, settings(provider="openai", language="zh")).split("\n")
    assert len(english) == len(chinese)
    for one, other in zip(english[:5], chinese[:5], strict=True):
        assert re.findall(r"[\d,]+$", one) == re.findall(r"[\d,]+$", other)
        assert workshop.columns(other) == 80 == len(one)
    names = "|".join(["gpt-6-luna", "--batch", *workshop.STAGES])
    assert re.findall("[A-Za-z]{2,}", re.sub(names, "", "\n".join(chinese))) == []


def test_limits_on_the_rate_and_concurrency_make_the_time(settings: Settings) -> None:
    config = settings(provider="openai", num_instructions=1000)
    found = estimate(config, options())
    slow = estimate(config, options("--requests-per-minute=60"))
    assert (
        slow["seconds"] == pytest.approx(found["requests"]) and slow["seconds"] > found["seconds"]
    )
    tokens = found["prompt_tokens"] + found["reply_tokens"]
    assert estimate(config, options("--tokens-per-minute=6000"))["seconds"] == pytest.approx(
        tokens / 100
    )
    wide = settings(provider="openai", num_instructions=1000, concurrency=32)
    assert estimate(wide, options())["seconds"] == pytest.approx(found["seconds"] / 4)


def test_what_the_journal_has_is_not_counted_again(settings: Settings, wire: str) -> None:
    with Server(scripted_model()) as server:
        where = {
            "provider": wire,
            "model": "m",
            "base_url": server.url + ("/v1" if wire == "openai" else "/api/v1"),
        }
        run(settings(num_instructions=20, **where), say=lambda text: None)
    done = estimate(settings(num_instructions=20, **where), options())
    assert done["requests"] == 0 and done["in_journal"] >= 42
    assert "are in the journal" in as_text(done, settings(**where))
    more = estimate(settings(num_instructions=40, **where), options())
    assert (
        40
        <= estimate(settings(num_instructions=40, **where), options("--classify-together=1"))[
            "requests"
        ]
        <= 46 + 9  # 9: short answers of 20 tasks
    )
    assert 22 <= more["requests"] <= 28 + 9
    for other in ({"seed": 7}, {"model": "n"}, {"temperature": 0.1}):
        found = estimate(settings(num_instructions=20, **{**where, **other}), options())
        assert found["in_journal"] == 0 and found["requests"] >= 25, other


def test_a_list_that_could_not_be_read_leaves_nothing_to_be_sent(settings: Settings) -> None:
    model, lists = scripted_model(), count()

    def answer(prompt: str, body: dict) -> str:
        return "Yes" if prompt.endswith(LISTS) and next(lists) == 1 else model(prompt, body)

    with Server(answer) as server:
        where = {
            "provider": "local",
            "model": "m",
            "base_url": server.url + "/v1",
            "num_instructions": 25,
        }
        run(
            settings(**where),
            say=lambda text: None,
            model_class=partial(LimitedModel, options=options()),
        )
    assert estimate(settings(**where), options())["requests"] == 0
    with open(Path(settings().work_dir) / "responses.jsonl", "r+", encoding="utf-8") as journal:
        damaged = next(
            record for record in map(json.loads, journal.readlines()) if "part_of" in record
        )
        journal.write(json.dumps(damaged | {"instruction": None}) + "\n")
    assert estimate(settings(**where), options())["requests"] == 0


def test_a_damaged_journal_is_no_matter_of_the_estimate(settings: Settings) -> None:
    config = settings(provider="practice", num_instructions=10)
    run(config, say=lambda text: None)
    with open(Path(config.work_dir) / "responses.jsonl", "ab") as journal:
        journal.write(b'{"key": 1}\n[1]\nnull\n}\n\xff\n{"torn')
    assert estimate(config, options())["requests"] == 0


@pytest.mark.parametrize("said", ["x", 3, [1]])
def test_settings_that_are_none_are_no_matter_of_the_estimate(
    said: object, settings: Settings
) -> None:
    config = settings(provider="practice", num_instructions=10)
    run(config, say=lambda text: None)
    path = Path(config.work_dir) / "run.json"
    workshop.write_json(path, {})
    without = estimate(config, options())
    workshop.write_json(path, {"settings": said})
    assert estimate(config, options()) == without


def test_a_replay_sends_nothing(settings: Settings, tmp_path: Path) -> None:
    config = settings(provider="practice", num_instructions=10)
    run(config, say=lambda text: None)
    journal = str(Path(config.work_dir) / "responses.jsonl")
    again = settings(
        provider="replay", responses=journal, work_dir=str(tmp_path / "other"), num_instructions=10
    )
    assert estimate(again, options())["requests"] == 0


@pytest.mark.parametrize(
    "flag",
    [
        "--max-cost=0",
        "--max-cost=nan",
        "--price-in=-1",
        "--price-in=inf",
        "--requests-per-minute=0",
        "--max-cost=x",
    ],
)
def test_numbers_that_make_no_sense_are_usage_errors(
    flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        self_instruct.main([flag])
    assert stopped.value.code == 2 and flag.split("=")[0] in capsys.readouterr().err


@pytest.mark.parametrize(
    "more", [["--max-cost=1"], ["--price-in=1"], ["--max-cost=1", "--estimate"]]
)
def test_a_price_that_is_needed_and_not_listed_is_exit_code_2(
    tmp_path: Path, wire: str, more: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with Server(scripted_model()) as server:
        assert self_instruct.main(flags(wire, server, tmp_path, *more)) == 2
        assert not server.requests
    said = capsys.readouterr()
    hint = "give both --price-in and --price-out (see https://"
    assert said.err.startswith(f"error: price not listed for m: {hint}")
    assert said.err.count("\n") == 1 and not said.out
    assert not (tmp_path / "w").exists()


# The question.


def at_terminal(
    arguments: list[str], keys: bytes, script: str = self_instruct.__file__, **variables: str
) -> tuple[int, str]:
    """Run the command line at a terminal of its own, and type these keys once it asks; return code
    and screen."""
    import pty

    ours, theirs = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "dumb", **variables}
    command = [sys.executable, script, *arguments]
    running = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True
    )
    os.close(theirs)
    screen, typed, end = b"", False, time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if select.select([ours], [], [], 0.1)[0]:
            try:
                screen += os.read(ours, 65536)
            except OSError:  # it has ended
                break
        if b"Go on? [y/N] " in screen and not typed:
            typed = os.write(ours, keys) > 0
    os.close(ours)
    return running.wait(10), screen.decode("utf-8", "replace")


on_unix = pytest.mark.skipif(os.name == "nt", reason="pseudo-terminals are a matter of Unix")


@on_unix
@pytest.mark.parametrize(
    "keys", [b"n\n", b"\n", b"\x04", b"yes, but\n"], ids=["n", "return", "end", "other"]
)
def test_no_is_no(tmp_path: Path, wire: str, keys: bytes) -> None:
    with Server(scripted_model()) as server:
        code, screen = at_terminal(flags(wire, server, tmp_path), keys)
        assert not server.requests
    assert code == 1 and "estimate for m " in screen and "price not listed" in screen
    assert "nothing was asked, nothing was paid" in screen and "Traceback" not in screen
    assert not (tmp_path / "w").exists()


@on_unix
def test_the_workshop_by_itself_asks_before_it_pays_too() -> None:
    variables = {"OPENAI_API_KEY": "sk-test", "OPENAI_BASE_URL": "http://127.0.0.1:9/v1"}
    script = str(ROOT / "self_instruct_workshop.py")
    code, screen = at_terminal([], b"n\n", script, **variables)
    assert code == 1 and "estimate for gpt-6-luna" in screen
    assert "nothing was asked, nothing was paid" in screen


@on_unix
@pytest.mark.parametrize(("wire", "keys"), [("openai", b"y\n"), ("dashscope", "是\n".encode())])
def test_yes_goes_on_and_then_there_is_nothing_to_ask(
    tmp_path: Path, set_keys: None, wire: str, keys: bytes
) -> None:
    with Server(scripted_model()) as server:
        code, screen = at_terminal(flags(wire, server, tmp_path), keys)
        assert code == 0 and screen.count("Go on?") == 1 and len(server.requests) >= 5
        code, screen = at_terminal(flags(wire, server, tmp_path), b"n\n")
        assert code == 0 and "Go on?" not in screen and "Already complete" in screen


@on_unix
def test_the_flag_yes_is_an_answer(tmp_path: Path, wire: str) -> None:
    with Server(scripted_model()) as server:
        code, screen = at_terminal(flags(wire, server, tmp_path, "--yes"), b"n\n")
        assert code == 0 and "Go on?" not in screen and len(server.requests) >= 5


@on_unix
def test_what_costs_nothing_is_not_asked_about(tmp_path: Path) -> None:
    with Server(scripted_model()) as server:
        code, screen = at_terminal(flags("local", server, tmp_path), b"n\n")
        assert code == 0 and "Go on?" not in screen and len(server.requests) >= 5
    practice = ["--provider=practice", f"--work-dir={tmp_path / 'p'}", "--num-instructions=3"]
    assert at_terminal(practice, b"n\n")[0] == 0


@pytest.mark.parametrize(
    ("wire", "stdin"), [("openai", subprocess.DEVNULL), ("dashscope", subprocess.PIPE)]
)
def test_without_a_terminal_there_is_no_question(
    tmp_path: Path, set_keys: None, wire: str, stdin: int
) -> None:
    with Server(scripted_model()) as server:
        command = [sys.executable, self_instruct.__file__, *flags(wire, server, tmp_path)]
        running = subprocess.Popen(
            command, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        said, _ = running.communicate(timeout=60)
        assert running.returncode == 0 and b"Go on?" not in said and len(server.requests) >= 5


# --------------------------------------------------------------------------------------------------
# The list of prices.


def test_every_default_model_has_a_price_and_every_provider_a_page() -> None:
    listed = json.loads(PRICES.read_text(encoding="utf-8"))
    for name, row in PROVIDERS.items():
        if row.key:
            assert row.model in listed["dollars_per_million_tokens"][name], name
            assert listed["pages"][name].startswith("https://"), name
    # The models of the lesson that this one began from.
    table = listed["dollars_per_million_tokens"]
    assert "gpt-4o-mini" in table["openai"] and "qwen-plus" in table["dashscope"]


def test_a_list_that_is_old_says_so() -> None:
    listed = date.fromisoformat(json.loads(PRICES.read_text(encoding="utf-8"))["date"])
    assert old_prices(listed + timedelta(days=90)) == []
    [line] = old_prices(listed + timedelta(days=91))
    assert f"prices are of {listed}, 91 days ago" in line


def test_a_price_that_is_not_known_says_where_to_look() -> None:
    options = self_instruct.command_line().parse_args(["--max-cost=1"])
    with pytest.raises(UsageError, match=r"price not listed for new-model.*see https://groq"):
        price_of("groq", "new-model", options)
