"""In a Chinese terminal the companions' help, and what they say of flags, are Chinese."""

from __future__ import annotations

import argparse
import importlib
import re
from pathlib import Path

import pytest
from helpers.runs import ROOT

from scripts import check_seeds
from scripts.asking.parser import Parser
from self_instruct_workshop import in_chinese

HAN = r"[\u4e00-\u9fff]"
PROGRAMS = [
    path.stem for path in sorted((ROOT / "scripts").glob("*.py")) if path.stem != "__init__"
]
# The four steps of backtranslation have many flags for training: their names are in both languages.
HELPED = [
    name
    for name in PROGRAMS
    if name.startswith(("check", "compare", "did", "explain", "judge", "overlap", "prov", "re"))
]


@pytest.fixture
def chinese(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LC_ALL", "LC_MESSAGES", "LANGUAGE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LANG", "zh_CN.UTF-8")


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_wrong_flag_is_answered_in_chinese(
    program: str, chinese: None, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(f"scripts.{program}").main(["--no-such-flag"])
    usage, *_, said = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2 and usage.startswith("用法：")
    assert "：错误：" in said and re.search(HAN, said.partition("：错误：")[2])


def helps_of(parser: Parser) -> set[str | None]:
    texts = {parser.description, parser.epilog} | {group.title for group in parser._action_groups}
    for action in parser._actions:
        texts |= {action.help} - {argparse.SUPPRESS}
        texts |= {choice.help for choice in getattr(action, "_choices_actions", [])}
    return texts - {None}


@pytest.mark.parametrize("program", HELPED)
def test_every_help_text_has_its_chinese(
    program: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    made: list[Parser] = []
    begin = Parser.__init__

    def note(self: Parser, *positional: object, **named: object) -> None:
        begin(self, *positional, **named)
        made.append(self)

    monkeypatch.setattr(Parser, "__init__", note)
    with pytest.raises(SystemExit):
        importlib.import_module(f"scripts.{program}").main(["--help"])
    found = set().union(*map(helps_of, made))
    assert len(found) >= 3
    words = {text for text in found if re.search("[a-z]{2}", text)}
    assert {text for text in words if not re.search(HAN, in_chinese(text))} == set()


TASKS = """\
{"id": "a", "instruction": "Name the colour of grass and sky in one word.", "instances": []}
{"id": "a", "instruction": "Name the colour of grass and snow in one word.", "instances": \
[{"input": "x", "output": ""}]}
{"id": "c", "instruction": "Is the text good, or fine?", "is_classification": true, "instances": \
[{"input": "x", "output": "good"}, {"input": "y", "output": "awful"}]}
{"id": "d", "instruction": "Draw a picture of a dog"}
{"id": "f", "instruction": "Explain how trains run in winter.", "flaw": "near_duplicate", \
"instances": [{"input": "", "output": "x", "flaw": "empty_output"}]}
{"id": "g", "instruction": "Name the colour of coal.", "flaw": "too_short"}
{"id": "h", "instruction": "Name the capital of the country."}
{"id": "i", "instruction": "Name the capital of this country."}
{"id": "j", "instruction": "Name the longest river in the far north."}
"""


def test_what_check_seeds_finds_is_said_in_chinese(
    chinese: None, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    file = tmp_path / "seeds.jsonl"
    file.write_text(TASKS, encoding="utf-8")
    assert check_seeds.main([str(file)]) == 1
    title, *lines = capsys.readouterr().out.splitlines()
    assert title == str(file) and lines[-1] == "7 个错误"
    assert sum("错误：" in line for line in lines) == 7
    assert sum("警告：" in line for line in lines) >= 4
    # What is left in Latin letters is the user's: ids, texts, labels, and names of rules.
    for line in lines:
        assert re.match(rf"\s*(\d+ )?{HAN}", line), line
        rest = re.sub(r"'[^']*'|near_duplicate|ROUGE-L| id ", "", line)
        assert not re.search("[a-z]{2}", rest), line
    assert check_seeds.main([str(tmp_path / "none.jsonl")]) == 1
    assert capsys.readouterr().err.startswith("错误：")
