"""What the README says is so: its flags, files, links, settings and commands."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest
from helpers.runs import ROOT
from helpers.server import Server, scripted_model

import self_instruct
import self_instruct_workshop as workshop
from self_instruct_workshop import Config, run

sys.path.insert(0, str(ROOT / "scripts"))
import prepare_for_finetuning

READMES = [path for path in (ROOT / "README.md", ROOT / "README.zh-CN.md") if path.exists()]
every_readme = pytest.mark.parametrize("readme", READMES, ids=lambda path: path.name)


def blocks(text: str) -> list[tuple[str, str]]:
    """The (language, content) of every fenced code block."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S)


def commands(text: str) -> list[str]:
    """Every single command of the shell blocks, without comments."""
    code = "\n".join(
        content
        for language, content in blocks(text)
        if language in ("bash", "sh", "shell", "console")
    )
    lines = re.sub(r"(^|\s)#.*$", "", code.replace("\\\n", " "), flags=re.M)
    return [part.strip() for part in re.split(r"&&|;|\n", lines) if part.strip()]


def prose(text: str) -> str:
    """The text around the code blocks, without the addresses of links."""
    return re.sub(
        r"\]\([^)]*\)|https?://\S+", "]", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    )


def known_flags() -> set[str]:
    return {
        flag for action in self_instruct.command_line()._actions for flag in action.option_strings
    }


@every_readme
def test_every_flag_that_the_readme_names_is_one_of_the_command_line(readme: Path) -> None:
    text = readme.read_text(encoding="utf-8")
    ours = [command for command in commands(text) if "self_instruct.py" in command]
    spans = [
        span
        for span in re.findall(r"`([^`\n]+)`", prose(text))
        if not re.match(r"(pip|git|uv) ", span)
    ]
    without_code = re.sub(r"`[^`\n]+`", " ", prose(text))
    named = re.findall(
        r"(?<![\w-])--[a-z][\w-]*",
        re.sub(r"<!--|-->", " ", "\n".join([*ours, *spans, without_code])),
    )
    assert named
    assert set(named) - known_flags() == set()


@every_readme
def test_every_command_line_of_the_readme_is_accepted(
    readme: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)  # the commands name files of the project
    ours = [
        command
        for command in commands(readme.read_text(encoding="utf-8"))
        if "self_instruct.py" in command
    ]
    assert ours
    for command in ours:
        arguments = command.split("self_instruct.py", 1)[1].split()
        self_instruct.settings(self_instruct.command_line().parse_args(arguments))


@every_readme
def test_every_file_that_the_readme_names_exists_or_is_made_by_a_run(
    readme: Path, tmp_path: Path
) -> None:
    # On the command line and with a server, so that there is a file for the limits on spending.
    with Server(scripted_model()) as server:
        flags = ["--provider", "local", "--base-url", f"{server.url}/v1", "--model", "m"]
        flags += ["--num-instructions", "3", "--work-dir", str(tmp_path / "work")]
        assert self_instruct.main(flags) == 0
    source, folder = str(tmp_path / "work" / "step4_final.jsonl"), str(tmp_path / "files")
    assert (
        prepare_for_finetuning.main(
            [source, "--format", "messages", "--split", "0.5", "--output-dir", folder]
        )
        == 0
    )
    made = {path.name for name in ("work", "files") for path in (tmp_path / name).iterdir()}
    text = re.sub(r"https?://\S+", " ", readme.read_text(encoding="utf-8"))
    text = re.sub(r"--(output-path|seed-file|out|data)[ =]\S+", " ", text)  # the reader's own
    text = re.sub(
        r"\breview(-\w+)?\.(csv|html)\b|\S+ score FILLED\.csv", " ", text
    )  # sheets that the reader makes
    names = re.findall(
        r"(?<![\w/.])[\w./-]*\w\.(?:py|jsonl|json|txt|md|toml|example|csv|html|ipynb|sh)\b", text
    )
    assert {"requirements.txt", "self_instruct_workshop.py"} <= {*names}
    made |= {"report.html"} | {
        path.name for path in (ROOT / "data").iterdir()
    }  # named without folder
    there = {
        name
        for name in names
        if (ROOT / name).exists() or name.removeprefix("data/workshop/") in made
    }
    assert {*names} - there == set()


def slugs(text: str) -> set[str]:
    """The anchors that GitHub makes of the headings."""
    found = re.findall(r"^#+ (.+?)\s*$", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


@every_readme
def test_every_relative_link_resolves(readme: Path) -> None:
    text = readme.read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)\s]+)[^)]*\)|(?:src|href)=\"([^\"]+)\"", text)
    broken = []
    for target in (one or other for one, other in targets):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = readme.parent / path if path else readme
        if not file.exists() or (anchor and anchor not in slugs(file.read_text(encoding="utf-8"))):
            broken.append(target)
    assert targets and broken == []


@every_readme
def test_the_test_command_of_the_readme_is_what_ci_runs(readme: Path) -> None:
    """Ask .ci/run itself: its own line that reads the README, run in a shell."""
    text = readme.read_text(encoding="utf-8")
    if "<!-- tests -->" not in text or not (ROOT / ".ci" / "run").exists():
        pytest.skip("no test command yet")
    block = re.search(r"<!-- tests -->\n```\w+\n(.*?)^```$", text, re.M | re.S)
    assert block and "pytest" in block[1] and "requirements.txt" in block[1]
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    reading = re.search(r"^command=\$\(.*\)$", ci, re.M)
    assert reading and re.search(r'^(bash .*-c|eval) "\$command"$', ci, re.M)
    script = f'{reading[0]}\nprintf "%s" "$command"'
    said = subprocess.run(
        ["bash", "-c", script], cwd=ROOT, capture_output=True, encoding="utf-8", check=True
    ).stdout
    assert said.strip() == block[1].strip()


@every_readme
def test_the_table_of_settings_is_config(readme: Path) -> None:
    text = readme.read_text(encoding="utf-8")
    table = re.search(r"<!-- settings -->\n(.*?)<!-- /settings -->", text, re.S)
    if not table:
        pytest.skip("no table of settings yet")
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in table[1].strip().split("\n")[2:]
    ]
    shown = []
    for f in fields(Config):
        default = str(f.default).replace(f"{ROOT}/", "")
        what = f.metadata["help"]
        if isinstance(f.default, bool):
            # A switch is off; that of a setting that is on turns it off.
            default = "off"
            what = f"do not: {what}" if f.default else what
        shown.append([workshop.flag_of(f), default, what])
    told = [[row[0].strip("`"), row[1].strip("`"), row[2]] for row in cells]
    wanted = 3 if readme.name == "README.md" else 2  # what it does is said in the reader's language
    assert [row[:wanted] for row in told] == [row[:wanted] for row in shown]


@every_readme
def test_the_table_of_providers_is_that_of_the_module(readme: Path) -> None:
    rows = re.findall(r"^\| `(\w+)` \|(.*)\|$", readme.read_text(encoding="utf-8"), re.M)
    told = {name: cells for name, cells in rows if name in workshop.PROVIDERS}
    assert list(told) == list(workshop.PROVIDERS)
    for name, row in workshop.PROVIDERS.items():
        assert not row.key or f"`{row.key}`" in told[name]
        assert name == "practice" or row.model in told[name]


@every_readme
def test_python_blocks_name_what_the_module_has(readme: Path) -> None:
    for language, content in blocks(readme.read_text(encoding="utf-8")):
        tree = ast.parse(content) if language == "python" else ast.parse("")
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module == "self_instruct_workshop":
                assert [
                    alias.name for alias in node.names if not hasattr(workshop, alias.name)
                ] == []


@every_readme
def test_python_blocks_run_as_they_stand(readme: Path, tmp_path: Path) -> None:
    found = [
        content
        for language, content in blocks(readme.read_text(encoding="utf-8"))
        if language == "python"
    ]
    if not found:
        pytest.skip("no Python in it yet")
    (tmp_path / "cwd" / "data").symlink_to(ROOT / "data")  # the reader stands in the checkout
    show = (
        "\nimport json\n"
        "print(json.dumps([name for name in ('summary', 'dataset') if globals().get(name)]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(found) + show],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.strip().split("\n")[-1])


@every_readme
def test_each_field_that_the_readme_ascribes_to_a_step_file_is_in_it(
    readme: Path, tmp_path: Path
) -> None:
    run(
        Config(provider="practice", num_instructions=3, work_dir=str(tmp_path / "work")),
        say=lambda text: None,
    )
    table = re.findall(
        r"^\| `(step\d_\w+\.jsonl|rejected\.jsonl)` \| (.*) \|$", readme.read_text("utf-8"), re.M
    )
    assert len(table) == 5
    for name, told in table:
        first = (tmp_path / "work" / name).read_text(encoding="utf-8").split("\n")[0]
        values = {"null", "too_similar", "copied_example", "answers_differ"}
        assert set(re.findall(r"`(\w+)`", told)) <= {*json.loads(first), *values}, name


def test_the_dot_env_example_names_every_key_and_address_and_holds_none() -> None:
    lines = (ROOT / ".env.example").read_text(encoding="utf-8").split("\n")
    named = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    wanted = {
        name for row in workshop.PROVIDERS.values() for name in (row.key, row.url_variable) if name
    }
    assert set(named) == wanted and set(named.values()) == {""}


def test_the_output_that_the_readme_shows_is_what_a_run_prints(
    settings: Callable[..., Config],
) -> None:
    first_output_block = re.search(
        r"```text\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S
    )[1]
    said: list[str] = []
    run(settings(), say=said.append)
    printed = "\n".join(said).split("\n")
    assert all(
        line in printed for line in first_output_block.strip("\n").split("\n") if line != "[...]"
    )


def test_the_estimate_in_the_readme_is_what_the_command_prints(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    command = re.search(r"self_instruct\.py (.*--estimate)", text)[1]
    assert self_instruct.main(command.split()) == 0
    printed = capsys.readouterr().out.splitlines()
    block = re.search(r"```text\n(estimate for .*?)```", text, re.S)[1]
    assert set(block.splitlines()) <= set(printed)


@every_readme
def test_the_readme_names_every_flag_of_the_command_line(readme: Path) -> None:
    named = re.findall(r"(?<![\w-])--[a-z][\w-]*", readme.read_text(encoding="utf-8"))
    assert known_flags() - {"-h", "--help"} - {*named} == set()
