"""Settings: their bounds, and the command line that is made from them."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from dataclasses import MISSING, fields
from pathlib import Path

import pytest
from helpers.server import Server

import self_instruct
import self_instruct_workshop as workshop
from self_instruct_workshop import (
    DEFAULT_SEEDS,
    PROVIDERS,
    STAGES,
    Config,
    UsageError,
    __version__,
    load_seed_tasks,
)

SETTINGS = fields(Config)
NUMBERS = [f for f in SETTINGS if not isinstance(f.default, (str, bool))]
CLI = Path(self_instruct.__file__)


def flag(name: str) -> str:
    return workshop.flag_of(next(setting for setting in SETTINGS if setting.name == name))


def cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(CLI), *arguments]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=60)


def usage_error(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The last line that a wrong command line writes; it must end with exit code 2 and be one
    line."""
    with pytest.raises(SystemExit) as stopped:
        self_instruct.main(list(arguments))
    assert stopped.value.code == 2
    usage, *rest = capsys.readouterr().err.splitlines()
    assert usage.startswith("usage: ") and len(rest) == 1, "one usage line and one error line"
    assert ": error: " in rest[0]
    return rest[0]


@pytest.mark.parametrize(
    "setting", [f for f in NUMBERS if not math.isinf(f.metadata["low"])], ids=lambda f: f.name
)
def test_the_lowest_value_is_allowed_and_less_is_not(setting) -> None:
    low, step = setting.metadata["low"], 1 if isinstance(setting.default, int) else 0.001
    assert getattr(Config(**{setting.name: low}), setting.name) == low
    with pytest.raises(UsageError, match=rf"^{flag(setting.name)} must be (at least|from) {low}\b"):
        Config(**{setting.name: low - step})


@pytest.mark.parametrize(
    "setting", [f for f in NUMBERS if not math.isinf(f.metadata["high"])], ids=lambda f: f.name
)
def test_the_highest_value_is_allowed_and_more_is_not(setting) -> None:
    high, step = setting.metadata["high"], 1 if isinstance(setting.default, int) else 0.001
    assert getattr(Config(**{setting.name: high}), setting.name) == high
    with pytest.raises(UsageError, match=rf"^{flag(setting.name)} must be from .* to {high}\b"):
        Config(**{setting.name: high + step})


@pytest.mark.parametrize(
    "setting", [f for f in NUMBERS if isinstance(f.default, float)], ids=lambda f: f.name
)
def test_nan_is_no_number_for_any_setting(setting) -> None:
    with pytest.raises(UsageError, match=flag(setting.name)):
        Config(**{setting.name: math.nan})


@pytest.mark.parametrize(
    "setting", [f for f in SETTINGS if workshop.choices(f.name) and f.default], ids=lambda f: f.name
)
def test_a_choice_outside_the_list_is_answered_with_the_list(setting) -> None:
    for choice in workshop.choices(setting.name):
        Config(**{setting.name: choice})
    with pytest.raises(UsageError, match=", ".join(workshop.choices(setting.name))):
        Config(**{setting.name: "esperanto"})


def test_an_unknown_provider_is_answered_with_all_known_ones() -> None:
    with pytest.raises(UsageError, match=", ".join(PROVIDERS)):
        Config(provider="acme")


@pytest.mark.parametrize(
    "address", ["localhost:8000/v1", "ftp://host/v1", "http://", "https:///v1", "/v1"]
)
def test_an_address_without_scheme_or_host_is_a_usage_error(address: str) -> None:
    with pytest.raises(UsageError, match=r"--base-url must .*http://"):
        Config(base_url=address)


@pytest.mark.parametrize("address", ["http://localhost:port/v1", "http://[::1/v1"])
@pytest.mark.parametrize(
    "provider",
    [
        "local",
        "dashscope",
    ],
)
def test_an_address_that_cannot_be_parsed_ends_in_one_line(
    address: str, provider: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DASHSCOPE_API_KEY", "k")
    where = (
        "--provider",
        provider,
        "--base-url",
        address,
        "--model",
        "m",
        "--work-dir",
        str(tmp_path / "w"),
    )
    done = cli(*where, "--first-wait", "0", "--max-attempts", "1")
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr and done.stderr.splitlines()[-1].count("error: ") == 1


def test_every_setting_says_what_it_is_for() -> None:
    for setting in SETTINGS:
        assert len(setting.metadata["help"]) > 10, setting.name
        assert setting.default is not MISSING, setting.name


def test_the_command_line_has_exactly_the_settings_of_config() -> None:
    actions = {action.dest: action for action in self_instruct.command_line()._actions}
    others = {
        "help",
        "version",
        "show_prompts",
        "check",
        "estimate",
        "yes",
        "requests_per_minute",
        "tokens_per_minute",
    }
    others |= {
        "max_cost",
        "max_tokens_total",
        "price_in",
        "price_out",
        "classify_together",
        "batch",
        "batch_wait",
        "batch_min",
        "report",
        "explain",
        "provenance",
    }
    assert set(actions) == {f.name for f in SETTINGS} | others
    for setting in SETTINGS:
        action = actions[setting.name]
        assert action.option_strings == [flag(setting.name)]
        kind = type(setting.default)
        assert action.default is None and action.type is (None if kind is bool else kind)
        assert tuple(action.choices or ()) == workshop.choices(setting.name)


def test_a_command_line_without_flags_gives_the_defaults() -> None:
    assert self_instruct.settings(self_instruct.command_line().parse_args([])) == Config()


def test_every_number_given_on_the_command_line_arrives() -> None:
    arguments = [part for f in NUMBERS for part in (flag(f.name), str(f.default))]
    given = vars(self_instruct.command_line().parse_args(arguments))
    assert {f.name: given[f.name] for f in NUMBERS} == {f.name: f.default for f in NUMBERS}


@pytest.mark.parametrize(
    ("arguments", "allowed"),
    [
        (["--num-instructions", "-3"], "at least 1"),
        (["--num-instructions", "many"], "int"),
        (["--num-instructions", "2.5"], "int"),
        (["--temperature", "9"], "from 0 to 2"),
        (["--temperature", "nan"], "from 0 to 2"),
        (["--temperature", "inf"], "from 0 to 2"),
        (["--rouge-threshold", "1.5"], "from 0 to 1"),
        (["--instances-per-instruction", "6"], "from 1 to 5"),
        (["--concurrency", "0"], "from 1 to 256"),
        (["--provider", "acme"], "dashscope"),
        (["--provider", ""], "dashscope"),
        (["--language", "fr"], "'?en'?, '?zh'?"),
        (["--until", "lunch"], ", ".join(f"'?{stage}'?" for stage in STAGES)),
        (["--base-url", "localhost:8000"], "http://"),
        (["--colour", "red"], "--colour"),
        (
            ["--num", "5"],
            "--num",
        ),  # no abbreviations: a flag added later would change what they mean
        (["--temperature"], "--temperature"),
        (["--show-prompts", "--temperature", "9"], "from 0 to 2"),
        (["--output", "x.jsonl"], r"did you mean --output-path\?$"),
        (["--num_instructions", "5"], r"did you mean --num-instructions\?$"),
        (["--provider", "opanai"], r"did you mean openai\?$"),
        (["--until", "filters"], r"did you mean filter\?$"),
        (["--frobnicate"], r"unrecognized arguments: --frobnicate$"),
    ],
    ids=" ".join,
)
def test_a_usage_error_exits_2_and_says_in_one_line_what_is_allowed(
    arguments: list[str], allowed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert re.search(allowed, usage_error(capsys, *arguments))


def test_a_usage_error_of_a_real_process_writes_nothing_to_stdout(tmp_path: Path) -> None:
    done = cli("--work-dir", str(tmp_path / "work"), "--temperature", "9")
    assert (done.returncode, done.stdout) == (2, "")
    assert not (tmp_path / "work").exists()


def test_every_setting_stands_under_one_heading_of_the_help() -> None:
    grouped = [name for names in self_instruct.GROUPS.values() for name in names.split()]
    assert sorted(grouped) == sorted(setting.name for setting in SETTINGS)
    shown = cli("--help").stdout
    assert all(f"{title}:" in shown for title in self_instruct.GROUPS)


def test_help_names_every_flag_its_default_and_the_exit_codes() -> None:
    shown = " ".join(cli("--help").stdout.split())
    for setting in SETTINGS:
        assert flag(setting.name) in shown
        what = " ".join(setting.metadata["help"].split())
        if isinstance(setting.default, bool):
            # A switch has no value: its flag turns it on, or off what is on.
            told = f"do not: {what}" if setting.default else what
            assert f"{flag(setting.name)} {told}" in shown
            continue
        assert what in shown
        assert isinstance(setting.default, str) or f"[{setting.default}]" in shown
    assert "--show-prompts" in shown and "--version" in shown
    for code in ("0", "1", "2", "3", "130"):
        assert re.search(rf"\b{code} \w+", shown.partition("exit codes")[2])


def test_help_loads_no_slow_package() -> None:
    """tests/bench/startup.py measures how long it takes."""
    program = (
        "import sys, self_instruct\ntry: self_instruct.main(['--help'])\nexcept SystemExit: pass\n"
    )
    program += (
        "print([name for name in ('openai', 'dashscope', 'rapidfuzz', 'numpy', 'httpx')"
        " if name in sys.modules])"
    )
    environment = os.environ | {"PYTHONPATH": str(CLI.parent)}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, encoding="utf-8", env=environment
    )
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_version_is_the_modules_own() -> None:
    assert cli("--version").stdout == f"self-instruct {__version__}\n"


def shown_prompts(*arguments: str) -> dict[str, str]:
    """Title -> prompt, as --show-prompts prints them."""
    done = cli("--show-prompts", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    parts = re.split(r"^===== (.*) =====\n", done.stdout.rstrip("\n"), flags=re.M)
    return {
        title: prompt.rstrip("\n") for title, prompt in zip(parts[1::2], parts[2::2], strict=True)
    }


@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("language", ["en", "zh"])
def test_show_prompts_shows_what_every_stage_sends(language: str, stage: int) -> None:
    prompts = shown_prompts("--language", language)
    shown = [prompt for title, prompt in prompts.items() if title.startswith(f"stage {stage}")]
    assert len(shown) == (3 if stage == 3 else 2)
    seeds = [
        " ".join(task.instruction.split()) for task in load_seed_tasks(DEFAULT_SEEDS[language])
    ]
    for prompt in shown:
        lines = prompt.split("\n")
        if stage == 1:
            assert lines[-1] == "9." and "8. " in prompt and "\n1. " in prompt
        else:  # the instruction stands whole on a line of its own, near the end
            last = {re.sub(r"^\d+\. ", "", line) for line in lines[-6:]}
            assert last & set(seeds)
    names = (
        ("Input:", "Output:", "Class label:")
        if language == "en"
        else ("输入：", "输出：", "类别标签：")
    )
    if stage == 3:
        input_first, output_first, again = shown
        assert again.startswith(("Do the task.", "请完成任务"))
        assert names[0] in input_first and names[1] in input_first
        assert names[0] in output_first and names[2] in output_first


def test_show_prompts_numbers_as_many_tasks_as_are_shown() -> None:
    prompts = shown_prompts("--tasks-shown", "3", "--classification-every", "0")
    assert [title for title in prompts if title.startswith("stage 1")] == ["stage 1"]
    assert prompts["stage 1"].split("\n")[-1] == "4."


def test_show_prompts_asks_nothing_and_writes_nothing(tmp_path: Path) -> None:
    with Server(lambda prompt, body: "Yes") as server:
        shown_prompts(
            "--provider",
            "local",
            "--base-url",
            server.url + "/v1",
            "--work-dir",
            str(tmp_path / "work"),
        )
    assert server.requests == []
    assert not (tmp_path / "work").exists()


def test_show_prompts_needs_no_key() -> None:
    assert shown_prompts("--provider", "openai") == shown_prompts("--provider", "practice")


def test_show_prompts_reads_the_seed_file_that_a_run_would_read(tmp_path: Path) -> None:
    (tmp_path / "seeds.txt").write_text("Count the vowels of a word.\n", encoding="utf-8")
    for title, prompt in shown_prompts("--seed-file", str(tmp_path / "seeds.txt")).items():
        assert "Count the vowels of a word." in prompt, title
    done = cli("--show-prompts", "--seed-file", str(tmp_path / "none.txt"))
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and "none.txt" in done.stderr


@pytest.mark.parametrize("place", [".", ".."])
def test_an_output_path_that_is_a_folder_ends_in_one_line_and_keeps_the_summary(
    place: str, tmp_path: Path
) -> None:
    where = (
        "--work-dir",
        str(tmp_path / "work"),
        "--output-path",
        place,
        "--num-instructions",
        "2",
    )
    done = cli("--provider", "practice", *where)
    assert done.returncode in (1, 2) and len(done.stderr.splitlines()) <= 2
    assert done.stderr.splitlines()[-1].count("error: ") == 1
    assert done.returncode == 2 or (tmp_path / "work" / "run.json").exists()


@pytest.mark.skipif(
    sys.platform in ("win32", "darwin"), reason="names of files are always text there"
)
def test_a_folder_whose_name_is_not_utf_8_can_be_worked_in(tmp_path: Path) -> None:
    work = str(tmp_path / "work\udcff")
    done = cli("--provider", "practice", "--work-dir", work, "--num-instructions", "2")
    assert done.returncode == 0, done.stderr
    assert (Path(work) / "run.json").exists()


def test_paths_and_none_are_taken_as_a_notebook_gives_them(tmp_path: Path) -> None:
    config = Config(
        work_dir=tmp_path,
        seed_file=tmp_path / "seeds.txt",
        output_path=None,
        model=None,
        temperature=1,
    )
    assert (config.work_dir, config.seed_file) == (str(tmp_path), str(tmp_path / "seeds.txt"))
    assert (config.output_path, config.model) == ("", "")
    assert config == Config(work_dir=tmp_path, seed_file=tmp_path / "seeds.txt", temperature=1.0)
    assert type(config.temperature) is float, (
        "or the journal would take 1 and 1.0 for two questions"
    )


@pytest.mark.parametrize(
    "wrong",
    [{"num_instructions": "20"}, {"num_instructions": 2.5}, {"model": 7}, {"patience": True}],
)
def test_a_value_of_another_type_is_a_usage_error(wrong: dict) -> None:
    with pytest.raises(UsageError, match="must be of type"):
        Config(**wrong)
