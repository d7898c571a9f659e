"""What the README and the pages behind it say is so: flags, files, links, settings, commands."""

from __future__ import annotations

import ast
import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest
from helpers.batch_server import BatchServer
from helpers.runs import ROOT
from helpers.server import scripted_model

import self_instruct
import self_instruct_workshop as workshop
from scripts import judge, rewrite
from scripts.asking import together
from scripts.helping import record as helping
from scripts.provenance import write_provenance
from self_instruct_workshop import Config, run

sys.path.insert(0, str(ROOT / "scripts"))
import overlap
import prepare_for_finetuning

README, CHINESE = ROOT / "README.md", ROOT / "README.zh-CN.md"
REFERENCE = ROOT / "lesson" / "reference.md"  # every setting, flag and file
DIFFERENCES = ROOT / "lesson" / "differences.md"
COMPANIONS = ROOT / "scripts" / "README.md"
READMES = [README, CHINESE]
PAGES = [*READMES, REFERENCE, DIFFERENCES, COMPANIONS]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


every_readme = pytest.mark.parametrize("readme", READMES, ids=name_of)
every_page = pytest.mark.parametrize("readme", PAGES, ids=name_of)


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


def flags_of_companions() -> set[str]:
    """The flags that the companions add to their own command lines."""
    sources = (ROOT / "scripts").rglob("*.py")
    return {
        flag
        for path in sources
        for flag in re.findall(r'"(--[a-z][\w-]*)"', path.read_text(encoding="utf-8"))
    }


def own_names(readme: Path) -> str:
    """A page without the names of other programs, the first column under "Names that you know"."""
    head, title, names = readme.read_text(encoding="utf-8").partition("\n## Names that you know\n")
    return head + title + re.sub(r"(?m)^\| .*? \| ", "| ", names)


@every_page
def test_every_flag_that_the_readme_names_is_one_of_the_command_line(readme: Path) -> None:
    text = own_names(readme)
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
    others = flags_of_companions() if readme == COMPANIONS else set()
    companions = re.findall(r"scripts/\w+\.py(?: sample)?((?: --[a-z][\w-]*)+)", "\n".join(spans))
    own = {flag for flags in companions for flag in flags.split()}
    assert own - flags_of_companions() == set()
    assert {*named} - own - known_flags() - others == set()


@every_page
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


@every_page
def test_every_file_that_the_readme_names_exists_or_is_made_by_a_run(
    readme: Path, tmp_path: Path
) -> None:
    # On the command line and with a server, so that there are files about spending and batches.
    with BatchServer(scripted_model(), polls=1) as server:
        flags = ["--provider", "local", "--base-url", f"{server.url}/v1", "--model", "m"]
        flags += ["--num-instructions", "3", "--work-dir", str(tmp_path / "work")]
        flags += ["--batch", "--batch-min", "1", "--first-wait", "0.01"]
        assert self_instruct.main([*flags, "--provenance"]) == 0
    source, folder = str(tmp_path / "work" / "step4_final.jsonl"), str(tmp_path / "files")
    seen = tmp_path / "seen.jsonl"
    seen.write_text(Path(source).read_text(encoding="utf-8").split("\n")[0], encoding="utf-8")
    assert overlap.main([str(seen), "--data", source, "--drop", "--threshold", "1"]) == 0
    judge.main(["--provider", "practice", "--data", source, "--anyway"])
    assert (
        prepare_for_finetuning.main(
            [source, "--format", "messages", "--split", "0.5", "--output-dir", folder]
        )
        == 0
    )
    assert rewrite.main(["--provider", "practice", "--data", source]) == 0
    made = {path.name for name in ("work", "files") for path in (tmp_path / name).iterdir()}
    text = re.sub(r"https?://\S+", " ", own_names(readme))
    text = re.sub(r"--(output-path|seed-file|out|data)[ =]\S+", " ", text)  # the reader's own
    text = re.sub(
        r"\b(review|pairs)(-\w+)?\.(csv|html|jsonl)\b|\S+ score FILLED\.csv"
        r"|\bjudged_first\.jsonl",
        " ",
        text,
    )  # sheets that the reader makes
    names = re.findall(
        r"(?<![\w/.])[\w./-]*\w\.(?:py|jsonl|json|txt|md|toml|example|csv|html|ipynb|sh)\b", text
    )
    wanted = {"requirements.txt", "self_instruct_workshop.py"} if readme in READMES else set()
    assert names and wanted <= {*names}
    made |= {helping.RESULTS, helping.ANSWERS, helping.PAGE}  # by did_it_help.py, with torch
    made |= {"report.html"} | {
        path.name for path in (ROOT / "data").iterdir()
    }  # named without folder
    there = {
        name
        for name in names
        if (ROOT / name).exists()
        or (readme.parent / name).exists()
        or (readme == COMPANIONS and (readme.parent / "training" / name).exists())
        or name.removeprefix("data/workshop/") in made
    }
    assert {*names} - there == set()


def slugs(text: str) -> set[str]:
    """The anchors that GitHub makes of the headings."""
    found = re.findall(r"^#+ (.+?)\s*$", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


@every_page
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


@pytest.mark.parametrize("mark", ["tests", "companions", "spark"])
@every_readme
def test_the_test_commands_of_the_readme_are_what_ci_runs(readme: Path, mark: str) -> None:
    """Ask .ci/run itself: its own function that reads a README, with an `echo` for a shell."""
    text = readme.read_text(encoding="utf-8")
    block = re.search(rf"<!-- {mark} -->\n```\w+\n(.*?)^```$", text, re.M | re.S)
    assert block and "pytest" in block[1] and "requirements" in block[1]
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    function = re.search(r"^run_block\(\) \{.*?^\}$", ci, re.M | re.S)
    assert function and re.search(rf"^run_block {mark}$", ci, re.M)
    script = f'bash() {{ shift; shift; printf "%s" "$2"; }}\n{function[0]}\nrun_block {mark}'
    script = script.replace("README.md", readme.name)
    said = subprocess.run(
        ["bash", "-c", script], cwd=ROOT, capture_output=True, encoding="utf-8", check=True
    ).stdout
    assert said == f"+ {block[1].strip()}\n{block[1].strip()}"


def table_behind(page: Path, mark: str) -> list[list[str]]:
    """The cells of the table that follows a mark, row by row, without its head."""
    text = page.read_text(encoding="utf-8")
    lines = re.search(rf"<!-- {mark} -->\n((?:\|.*\n)+)", text)[1].strip().split("\n")
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def settings_as_shown() -> list[list[str]]:
    """Flag, default and help of every setting, as a table of settings has them."""
    shown = []
    for f in fields(Config):
        default = str(f.default).replace(f"{ROOT}/", "")
        what = f.metadata["help"]
        if isinstance(f.default, bool):
            # A switch is off; that of a setting that is on turns it off.
            default = "off"
            what = f"do not: {what}" if f.default else what
        shown.append([workshop.flag_of(f), default, what])
    return shown


def test_the_table_of_settings_is_config() -> None:
    cells = table_behind(REFERENCE, "settings")
    told = [[row[0].strip("`"), row[1].strip("`"), row[2]] for row in cells]
    assert told == settings_as_shown()


def test_a_flag_that_is_no_setting_is_in_the_table_of_the_command_line() -> None:
    rows = table_behind(REFERENCE, "command line")
    told = {flag.strip("`"): default for flag, default, _ in rows}
    ours = {flag for flag, _, _ in settings_as_shown()}
    assert len(told) == len(rows)
    assert {*told} == known_flags() - {"-h", "--help"} - ours
    assert told["--classify-together"] == str(together.TOGETHER)


def rules_of_the_code() -> set[str]:
    """What stands as a rule in rejected.jsonl: in dicts of rules, returned, or given to reject."""
    problems = (
        workshop.modern_instruction_problem,
        workshop.modern_echo_problem,
        workshop.modern_instance_problem,
        workshop.form_problem,
        workshop.paper_instruction_problem,
        workshop.paper_instance_problem,
    )
    found = {*workshop.RULES, "over_five"}
    for problem in problems:
        found |= {*re.findall(r'(?m)(?:return |^ +)"(\w+)"', inspect.getsource(problem))}
    module = Path(workshop.__file__).read_text(encoding="utf-8")
    found |= {*re.findall(r'\.reject\(\s*"\w+", "(\w+)"', module)}
    return found | {*re.findall(r'rule = "(\w+)"', module)}


def test_the_table_of_rules_has_every_rule_and_no_other() -> None:
    rows = table_behind(REFERENCE, "rules")
    named = [row[0].strip("`") for row in rows]
    assert len(named) == len(set(named))
    assert {*named} == rules_of_the_code()
    assert all(re.search("[\u4e00-\u9fff]", row[3]) and row[2].isascii() for row in rows)


def test_a_rule_turns_away_in_the_stage_that_the_table_says(
    settings: Callable[..., Config],
) -> None:
    stages = {row[0].strip("`"): row[1] for row in table_behind(REFERENCE, "rules")}
    config = settings(provider="practice", num_instructions=200)
    run(config, say=lambda text: None)
    lines = (Path(config.work_dir) / "rejected.jsonl").read_text("utf-8").splitlines()
    seen = {(row["rule"], row["stage"]) for row in map(json.loads, lines)}
    assert len(seen) > 10
    for rule, stage in seen:
        assert str(workshop.STAGES.index(stage) + 1) in stages[rule], rule


@every_readme
def test_the_ten_settings_have_the_defaults_of_config(readme: Path) -> None:
    told = [[row[0].strip("`"), row[1]] for row in table_behind(readme, "ten")]
    assert len(told) == 10
    assert all(row in [shown[:2] for shown in settings_as_shown()] for row in told)


@every_readme
def test_the_map_names_what_part_one_defines_in_its_order(readme: Path) -> None:
    source = (ROOT / "self_instruct_workshop.py").read_text(encoding="utf-8")
    first, second = source.split("# PART II", 1)
    lines = int(re.search(r"(?:first|前) (\d+) (?:lines|行)", readme.read_text("utf-8"))[1])
    assert lines == round(first.count("\n"), -1) and second
    cells = ", ".join(row[2] for row in table_behind(readme, "map"))
    names = cells.split("`")[1::2]
    places = [re.search(rf"^(?:def|class) {name}\b", first, re.M) for name in names]
    assert all(places) and len(places) > 10
    starts = [place.start() for place in places]
    assert starts == sorted(starts)


@pytest.mark.parametrize("readme", [*READMES, REFERENCE], ids=name_of)
def test_the_table_of_providers_is_that_of_the_module(readme: Path) -> None:
    rows = re.findall(r"^\| `(\w+)` \|(.*)\|$", readme.read_text(encoding="utf-8"), re.M)
    told = {name: cells for name, cells in rows if name in workshop.PROVIDERS}
    assert list(told) == list(workshop.PROVIDERS)
    in_words = {"practice", "replay"} if readme == CHINESE else {"practice"}  # not a model's name
    for name, row in workshop.PROVIDERS.items():
        assert not row.key or f"`{row.key}`" in told[name]
        assert name in in_words or row.model in told[name]


@every_page
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
    assert found
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


def test_each_field_that_the_reference_ascribes_to_a_step_file_is_in_it(tmp_path: Path) -> None:
    run(
        Config(provider="practice", num_instructions=3, work_dir=str(tmp_path / "work")),
        say=lambda text: None,
    )
    table = re.findall(
        r"^\| `(step\d_\w+\.jsonl|rejected\.jsonl)` \| (.*) \|$", REFERENCE.read_text("utf-8"), re.M
    )
    write_provenance(tmp_path / "work")
    assert len(table) == 6
    for name, told in table:
        first = (tmp_path / "work" / name).read_text(encoding="utf-8").split("\n")[0]
        values = {"null", "too_similar", "copied_example", "answers_differ"}
        values |= {"topic", "judged"}  # which only some runs have
        assert set(re.findall(r"`(\w+)`", told)) <= {*json.loads(first), *values}, name


def test_the_dot_env_example_names_every_key_and_address_and_holds_none() -> None:
    lines = (ROOT / ".env.example").read_text(encoding="utf-8").split("\n")
    named = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    wanted = {
        name for row in workshop.PROVIDERS.values() for name in (row.key, row.url_variable) if name
    }
    assert set(named) == wanted and set(named.values()) == {""}


@pytest.mark.parametrize("page, language", [(README, "en"), (CHINESE, "zh")], ids=["en", "zh"])
def test_the_output_that_the_readme_shows_is_what_a_run_prints(
    settings: Callable[..., Config], page: Path, language: str
) -> None:
    shown = re.search(r"```text\n(.*?)```", page.read_text(encoding="utf-8"), re.S)[1].strip("\n")
    assert 20 < len(shown.split("\n")) <= 40
    said: list[str] = []
    run(settings(language=language), say=said.append)
    # How long it took, and where, is not the same everywhere.
    printed = re.sub(r"\d+\.\d(?= s$| 秒$)", "0.6", "\n".join(said), flags=re.M)
    command = r"(?m)^    .*(self_instruct\.py --report).*$"
    printed = re.sub(command, r"    .venv/bin/python \1", printed)
    first, last = shown.split("\n[...]\n")
    assert printed.startswith(first + "\n") and printed.endswith("\n" + last)


@every_readme
def test_the_estimate_in_the_readme_is_what_the_command_prints(
    readme: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = readme.read_text(encoding="utf-8")
    command = re.search(r"self_instruct\.py (--provider.*--estimate)", text)[1]
    assert self_instruct.main(command.split()) == 0
    printed = capsys.readouterr().out.splitlines()
    block = re.search(r"```text\n(estimate for .*?)```", text, re.S)[1]
    assert set(block.splitlines()) <= set(printed)


def test_the_reference_names_every_flag_of_the_command_line() -> None:
    named = re.findall(r"(?<![\w-])--[a-z][\w-]*", REFERENCE.read_text(encoding="utf-8"))
    assert known_flags() - {"-h", "--help"} - {*named} == set()


def test_every_rule_that_the_differences_name_is_in_the_module() -> None:
    text = DIFFERENCES.read_text(encoding="utf-8")
    code = "".join(
        (ROOT / name).read_text(encoding="utf-8")
        for name in ("self_instruct_workshop.py", "data/patterns.jsonl")
    )
    rules = {*re.findall(r"`([a-z]+_[a-z_]+)`", text)} - {"best_of"}
    assert len(rules) >= 8 and [rule for rule in rules if f'"{rule}"' not in code] == []
    rows = re.findall(r"^\|.*\|$", text, re.M)
    assert len(rows) > 40 and {row.count("|") for row in rows} == {4}


# The README in two languages


def shape(readme: Path) -> dict[str, list]:
    """What both READMEs have in common: levels of headings, tables, code, links and flags."""
    text = readme.read_text(encoding="utf-8").replace(".zh-CN.", ".")
    outside = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    text = text.replace("self_instruct.py --language zh\n", "self_instruct_workshop.py\n", 1)
    text = re.sub(r"(lesson/check\.py.*?) --language zh", r"\1", text)
    code = blocks(text)
    return {
        "headings": re.findall(r"^#+(?= )", outside, re.M),
        "code": [
            (kind, re.sub(r" +#.*$", "", body, flags=re.M)) for kind, body in [code[0], *code[2:]]
        ],
        "rows": [line.count("|") for line in outside.split("\n") if line.startswith("|")],
        "names": [re.findall(r"^\| (`\S+`)", outside, re.M)],
        "marks": re.findall(r"^<!-- .* -->$", outside, re.M),
        "links": re.findall(r"\]\(([^)\s]+)\)", outside),
        "flags": sorted({*re.findall(r"(?<![\w-])--[a-z][\w-]*", outside)}),
    }


def test_the_readme_is_the_same_in_both_languages() -> None:
    english, chinese = shape(README), shape(CHINESE)
    assert chinese == english
    assert blocks(README.read_text("utf-8"))[1][0] == blocks(CHINESE.read_text("utf-8"))[1][0]


@every_readme
def test_the_readme_is_read_in_ten_minutes(readme: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", readme.read_text(encoding="utf-8"), flags=re.M | re.S)
    text = re.sub(r"^\|.*$", "", text, flags=re.M)
    characters = len(re.findall(r"[\u4e00-\u9fff]", text))
    assert characters < 2600 if readme == CHINESE else len(text.split()) < 1800
