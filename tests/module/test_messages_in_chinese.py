"""Errors, notices and help texts in Chinese: all of them, whole, and nothing of the user's lost."""

from __future__ import annotations

import json
import os
import re
import string
import subprocess
import sys
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest
from helpers.messages import Source
from helpers.runs import ROOT

import self_instruct
import self_instruct_workshop as workshop
from lesson import check
from scripts.asking import estimate
from self_instruct_workshop import Config, in_chinese

FILES = [ROOT / "self_instruct_workshop.py", ROOT / "self_instruct.py"]
FILES += sorted((ROOT / "scripts" / "asking").glob("*.py"))
NAMED = "explain.py explaining/lookup.py report.py reporting/run.py review.py compare_recipes.py"
NAMED += " reviewing/pairs.py judge.py judging/trust.py rewrite.py provenance.py overlap.py"
NAMED += " training/rest_of_run.py"
NAMED += " gguf_to_folder.py reading/records.py reading/rows.py preparing/card.py"
NAMED += " preparing/choose.py preparing/ids.py preparing/origin.py preparing/preferences.py"
NAMED += " preparing/tokens.py"
NAMED += " overlapping/files.py overlapping/record.py prepare_for_finetuning.py did_it_help.py"
NAMED += " helping/data.py helping/heldout.py helping/record.py helping/trained.py"
NAMED += " scale/__init__.py"
NAMED += " merge_runs.py merging/sources.py merging/duckdb_engine.py merging/spark_engine.py"
FILES += [ROOT / "scripts" / name for name in NAMED.split()]
CATALOGUE = json.loads((ROOT / "data" / "messages.zh.json").read_text(encoding="utf-8"))
# What is a name in both languages: flags, files, formats, addresses, commands.
NAMES = r"[\w.]+/[\w./]+|--[\w-]+|https?://\S*|/v1\S*|[\w*]+(\.\w+)+|\.\w+|_\w+\b|\w+_\w+"
NAMES += (
    r"|\b(API|JSON|UTF-8|LF|Self-Instruct|ROUGE-L|Ctrl-C|NAME|N|replay|practice|local|openai)\b"
)
NAMES += r"|\b(true|false|input|output|choices|id|paper|python|None|modern|filter|instances|stop)\b"
NAMES += r"|\b(generate|classify|CSV|plotly|sample|pairs)\b"
NAMES += r"|\b(kappa|preference|Parquet|GGUF|transformers|llama-gguf-split)\b"
NAMES += r"|\bnumba\b"
NAMES += r"|\b(Java|Spark|spark)\b|\b\dGB\b"
NAMES += r"|\b(davinci-002|zh|instruction|http|en|y|arXiv|dashscope|DashScope)\b|/batches\b"
NAMES += r"|(?<=--form )(chat|plain)|messages 或 conversations|prompt 和 completion"
NAMES += r'|"\w+":'  # a name in a record
SLOT = "«.*?»[a-z-]*"  # with what it begins: «0»model is --model, or --classify-model


def sources() -> set[str]:
    return {text for path in FILES for text in Source(path).messages()}


def helps() -> set[str]:
    """The texts of --help, as they are given to argparse."""
    found = set()
    for parser in (self_instruct.command_line(), check.command_line()):
        found |= {group.title for group in parser._action_groups}
        found |= {action.help for action in parser._actions}
        found |= {parser.usage, parser.description, parser.epilog}
    return found - {None}


def faults(text: str) -> list[str]:
    """What is wrong with the Chinese of a message: a slot that is lost, or words still English."""
    said = in_chinese(text)
    lost = sorted(set(re.findall("«.*?»", text)) ^ set(re.findall("«.*?»", said)))
    left = re.findall("[A-Za-z]{2,}", re.sub(NAMES, "", re.sub(SLOT, "", said)))
    return lost + left


def test_every_error_and_notice_has_its_chinese_with_the_same_slots() -> None:
    found = sources()
    assert len(found) > 100
    assert {text: faults(text) for text in found if faults(text)} == {}


def test_every_help_text_and_heading_has_its_chinese() -> None:
    found = helps()
    assert len(found) > 55
    assert {text: faults(text) for text in found if faults(text)} == {}


# What cannot be followed: words from tables, and what comes by another way than a name.
OTHERS = [f"«0» {what}: name another with --model, or check «1»" for _, what in workshop.NO_MODEL]
OTHERS += [
    "requests",
    "tokens in",
    "tokens out",
    "tokens",
    "in all",
    "no reply",
    "notice: «0»",
    "error: «0»",
]
OTHERS += [
    " and ",
    "error: argument «0»: expected one argument",
    "error: «0», record 7 is damaged",
    "error: «0»: did you mean «1»?",
]
OTHERS += [f"{why}, twice: it stays so with this model" for why in workshop.WITHHELD.values()]
OTHERS += [
    workshop.named_run({}),
    workshop.named_run(
        {"settings": dict.fromkeys(("provider", "model", "num_instructions", "language"), "«0»")}
    ),
    "stage «0», «1»: «2» of «3» done, «4» left",
]


OTHERS += [
    "cannot read «0» (No such file or directory): " + advice
    for advice in (
        "name another file",
        "run self_instruct.py, or give --data",
        "run self_instruct.py, or name a file",
        "run scripts/rewrite.py, or give --data",
        "give the judged.jsonl of judge.py",
        "give the pairs-key.jsonl that `pairs` wrote",
        "name a file of judge.py",
        "do the step before, name another file, or try --sample",
    )
]
for what in ("the seed file", "the file of topics"):
    OTHERS += [f"{what} «0» is «1», not UTF-8: save it as UTF-8"]
    OTHERS += [f"{what} «0» is not UTF-8 text: save it as UTF-8", f"{what} «0»: «1»"]
OTHERS += [f"{stage} by «0»" for stage in ("classify", "instances")]
OTHERS += estimate.old_prices(date(2100, 1, 1))
GOES_ON = "the batch goes on at the vendor"
OTHERS += [GOES_ON, f"{GOES_ON}; stage «0», «1»: «2» of «3» done, «4» left"]
OTHERS += ["waits for «0», «1» done, which --batch fetches", "parameter refused"]
OTHERS += ["notice: no answer from «0»/batches («1»): trying on"]
OTHERS += [
    "notice: «0»: 7 replies",
    "notice: «0»: 7 replies, «1» requests without one («2»)",
    "notice: «0»: 7 replies, «1» lines that nobody asked for",
    "notice: «0»: 7 replies, «1» requests without one («2»), «3» lines that nobody asked for",
    "«0» said «1»: run the same command to try again",
    "no answer from «0»/batches («1»): nothing is lost, the same command goes on",
    "with --batch about $«0», each batch within 24 h",
]


def test_what_is_made_of_tables_has_its_chinese() -> None:
    assert {text: faults(text) for text in OTHERS if faults(text)} == {}


def test_the_slots_are_the_same_on_both_sides_and_in_order() -> None:
    def slots(text: str) -> list[str]:
        return [slot for _, slot, *_ in string.Formatter().parse(text) if slot is not None]

    for part in CATALOGUE.values():
        for english, chinese in part.items():
            assert sorted(slots(english)) == sorted(slots(chinese)), english
            numbers = [slot for slot in slots(english) if slot.isdecimal()]
            assert numbers == [str(n) for n in range(len(numbers))], english


class Counted(str):
    """A Chinese text that notes when it is taken."""

    taken: ClassVar[set[str]] = set()

    def format(self, *texts: str, **parts: str) -> str:
        self.taken.add(self)
        return super().format(*texts, **parts)


def test_no_entry_of_the_catalogue_is_left_over(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = [(pattern, Counted(chinese)) for pattern, chinese in workshop.messages()]
    monkeypatch.setattr(workshop, "messages", lambda: counted)
    for text in sources() | helps() | set(OTHERS):
        in_chinese(text)
    ours = ("openings", "frames", "messages", "estimate", "help")
    known = {chinese for name in ours for chinese in CATALOGUE[name].values()}
    assert known - Counted.taken == set()


def test_what_the_catalogue_lacks_stays_english_whole() -> None:
    assert in_chinese("something nobody wrote: do it") == "something nobody wrote: do it"
    assert in_chinese("error: something else: do it") == "错误：something else: do it"


def test_an_error_that_ends_as_others_do_is_chinese_whole() -> None:
    said = in_chinese("error: --output-path a.parquet needs a package: run  pip install x  first")
    assert said == "错误：--output-path a.parquet 还缺一个软件包：请先运行  pip install x"
    said = in_chinese("error: No module named 'openai': run  pip install x  first")
    assert said == "错误：缺少模块 'openai'：请先运行  pip install x"


def test_a_path_that_reads_like_a_message_stays_as_it_is() -> None:
    path = "no reply: 3 of 5 done/another run.jsonl"
    assert path in in_chinese(f"{path} holds no seed task: write at least one instruction into it")
    assert "the run was stopped" in in_chinese(
        "cannot write to the run was stopped (x): choose another --work-dir"
    )


@pytest.mark.parametrize(
    ("number", "chinese"), [(0x0804, True), (0x0404, True), (0x0409, False), (0x0411, False)]
)
def test_windows_is_asked_where_no_variable_names_a_language(
    monkeypatch: pytest.MonkeyPatch, number: int, chinese: bool
) -> None:
    kernel = SimpleNamespace(GetUserDefaultUILanguage=lambda: number)
    monkeypatch.setattr("ctypes.windll", SimpleNamespace(kernel32=kernel), raising=False)
    monkeypatch.setattr(sys, "platform", "win32")
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    assert workshop.is_chinese() is chinese
    monkeypatch.setenv("LANG", "en_US.UTF-8")
    assert not workshop.is_chinese()


# --------------------------------------------------------------------------------------------------
# Commands, as they are typed.


def call(*arguments: str, folder: Path, **variables: str) -> subprocess.CompletedProcess:
    import os

    env = {
        name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG"))
    }
    command = [sys.executable, str(ROOT / "self_instruct.py"), *arguments]
    return subprocess.run(
        command, cwd=folder, env=env | variables, capture_output=True, encoding="utf-8"
    )


ZH = ("--language", "zh")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (
            ("--output", "x.jsonl", *ZH),
            2,
            "错误：不认识的参数：--output x.jsonl：是不是想写 --output-path？",
        ),
        (("--provider", "opnai", *ZH), 2, "是不是想写 openai？"),
        (("--num-instructions", "0", *ZH), 2, "错误：--num-instructions 至少为 1，不能是 0"),
        (("--num-instructions", *ZH), 2, "错误：参数 --num-instructions：缺少值"),
        (("--max-cost", "0", *ZH), 2, "错误：参数 --max-cost：必须大于 0，而这里是 0"),
        (("--seed-file", "none.jsonl", *ZH), 1, "错误：种子文件 none.jsonl：没有这个文件或文件夹"),
        (
            ("--provider", "openai", "--yes", *ZH),
            1,
            "错误：没有设置 OPENAI_API_KEY：请把它写进 .env",
        ),
        (("--output-path", ".", *ZH), 2, "错误：--output-path 必须是文件，而 . 是文件夹"),
    ],
)
def test_an_error_is_chinese_and_its_exit_code_the_same(
    tmp_path: Path, arguments: tuple, code: int, said: str
) -> None:
    place = ("--work-dir", str(tmp_path / "run"))
    done = call(*arguments, *place, folder=tmp_path)
    assert done.returncode == code
    assert said in done.stderr
    assert "error" not in done.stderr and "usage" not in done.stderr
    # In a Chinese terminal it is the same without the flag, and in an English one it is English.
    english = [word for word in arguments if word not in ZH]
    chinese = call(*english, *place, folder=tmp_path, LANG="zh_CN.UTF-8")
    assert (chinese.returncode, said in chinese.stderr) == (code, True)
    other = call(*english, *place, folder=tmp_path, LANG="en_US.UTF-8")
    assert other.returncode == code
    assert other.stderr.isascii() and "error: " in other.stderr


def test_another_run_that_writes_is_said_in_chinese(tmp_path: Path) -> None:
    lock, journal = workshop.open_journal(tmp_path / "run", "")
    try:
        done = call(*ZH, "--work-dir", "run", folder=tmp_path)
    finally:
        journal.file.close()
        lock.release()
    assert done.returncode == 1
    assert done.stderr == "错误：另一个运行正在写 run：请等它结束，或用 --work-dir 换一个文件夹\n"


def test_the_help_is_chinese_and_no_line_is_wider_than_the_terminal(tmp_path: Path) -> None:
    done = call("--help", *ZH, folder=tmp_path, COLUMNS="80")
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.startswith("用法：python self_instruct.py")
    assert "\n选项：\n" in done.stdout and "\n生成什么：\n" in done.stdout
    assert max(map(workshop.columns, done.stdout.splitlines())) <= 80
    english = call("--help", folder=tmp_path, COLUMNS="80")
    flags = {flag for one in self_instruct.command_line()._actions for flag in one.option_strings}
    assert flags <= set(re.findall(r"--?[\w-]+", done.stdout))
    assert english.stdout.isascii() and "\noptions:\n" in english.stdout


def test_a_notice_of_the_module_is_chinese(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seeds = tmp_path / "seeds.txt"
    seeds.write_text("Sort the words.\nSort the words.\n", encoding="utf-8")
    workshop.load_seed_tasks(seeds, "zh")
    assert capsys.readouterr().err == f"注意：{seeds}：合并了 1 个重复的任务\n"


def test_a_run_that_replaces_another_names_it_in_chinese(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = {"provider": "practice", "num_instructions": 3, "work_dir": str(tmp_path / "run")}
    workshop.run(Config(**small))
    capsys.readouterr()
    workshop.run(Config(**small, language="zh"))
    said = capsys.readouterr().out
    assert (
        "本次运行替换了以前的一次运行（practice，data/practice_tasks.jsonl，3 个指令，en）" in said
    )
    assert "an earlier run" not in said


def test_the_module_as_a_program_speaks_chinese(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    assert workshop.alone(["--num-instructions", "5"]) == 2
    assert "错误：这个文件不接受参数：请用  python self_instruct.py --num-instructions 5" in (
        capsys.readouterr().err
    )
    assert workshop.alone(["--help"]) == 0
    assert "运行整个流程" in capsys.readouterr().out


def test_programs_behind_a_run_speak_the_language_of_the_terminal(tmp_path: Path) -> None:
    who = {"provider": "practice", "num_instructions": 20, "language": "zh"}
    workshop.run(Config(**who, work_dir=str(tmp_path)), say=lambda text: None)
    data = str(tmp_path / "step4_final.jsonl")
    said = ""
    for command in (
        ["provenance.py", "--work-dir", str(tmp_path)],
        ["rewrite.py", "--provider", "practice", "--data", data, "--estimate"],
        ["rewrite.py", "--provider", "practice", "--data", data],
        ["judge.py", "--provider", "practice", "--data", data],
        ["judge.py", "--provider", "practice", "--data", data, "--probes", "0"],
        ["prepare_for_finetuning.py", data, "--output-dir", str(tmp_path / "1")],
    ):
        script = [sys.executable, str(ROOT / "scripts" / command[0]), *command[1:]]
        done = subprocess.run(
            script, capture_output=True, text=True, encoding="utf-8",
            env=os.environ | {"LC_ALL": "zh_CN.UTF-8"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        said += done.stdout + re.sub(r"(?m)^.*\r", "", done.stderr)
    # Names stay as they are: of files, rules, models, and of a test in statistics.
    said = said.replace(sys.executable, "").replace(str(tmp_path), "").replace("Fisher", "")
    rules = r"\b(refusal|not_a_label|answers?|duplicate)\b"
    left = re.findall("[A-Za-z]{2,}", re.sub(rules, "", re.sub(NAMES, "", said)))
    assert left == [], said
    assert "植入的错误，判为错" in said and "下一步：" in said and "实例" in said
