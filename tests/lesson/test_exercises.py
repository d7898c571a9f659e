"""The exercises of the lesson: right answers pass, wrong ones fail with the hint that fits."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import string
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers.runs import ROOT
from helpers.server import Server, people_say

from lesson import check
from lesson.checking import checks, pupil
from self_instruct_workshop import DEFAULT_SEEDS, Config, load_seed_tasks, probe_tasks

EXERCISES = ROOT / "lesson" / "exercises"
NUMBERS = range(1, 10)
LANGUAGES = ("en", "zh")
every_exercise = pytest.mark.parametrize("number", NUMBERS)
Checked = tuple[int, str]  # exit code, what was printed


@pytest.fixture(autouse=True)
def english(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever language this machine speaks."""
    monkeypatch.setenv("LC_ALL", "en_US.UTF-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the exercises, to be filled in."""
    return Path(shutil.copytree(EXERCISES, tmp_path / "exercises"))


@pytest.fixture
def checked(folder: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Checked]:
    """Check an exercise of the copy."""

    def go(*arguments: object) -> Checked:
        code = check.main([str(argument) for argument in arguments], folder)
        return code, capsys.readouterr().out

    return go


def file_of(number: int, folder: Path) -> Path:
    """The file that a pupil fills in."""
    [path] = folder.glob(f"{number}_*/answer.*")
    return path


def reference_of(number: int, folder: Path = EXERCISES) -> str:
    """The right answer that --answer shows."""
    path = file_of(number, folder)
    return (folder / "answers" / f"{number}{path.suffix}").read_text(encoding="utf-8")


def fill(number: int, folder: Path, text: str) -> None:
    """Write an answer."""
    file_of(number, folder).write_text(text, encoding="utf-8")


def change(number: int, folder: Path, **values: object) -> None:
    """Write the right answer with other values in some of its fields ("a__b" is b inside of a)."""
    answer = json.loads(reference_of(number))
    for name, value in values.items():
        place = answer
        *outer, last = name.split("__")
        for part in outer:
            place = place[part]
        place[last] = value
    fill(number, folder, json.dumps(answer, ensure_ascii=False))


def hint(key: str, language: str = "en") -> str:
    """The hint of a mistake, up to the first thing that is filled in."""
    return pupil.all_words()[f"{key}.hint"][language].partition("{")[0]


# --------------------------------------------------------------------------------------------------
# Each exercise: not begun, right.


@every_exercise
def test_an_exercise_that_is_not_begun_says_so_and_what_to_do(
    number: int, checked: Callable[..., Checked]
) -> None:
    code, said = checked(number)
    assert code == 1
    first, second = said.splitlines()
    assert first.startswith(f"{number} not begun: ")
    assert second.startswith("  hint: ")


@pytest.mark.parametrize("number", range(1, 9))
def test_the_reference_answer_is_right(
    number: int, folder: Path, checked: Callable[..., Checked]
) -> None:
    fill(number, folder, reference_of(number))
    for language in LANGUAGES:
        code, said = checked(number, "--language", language)
        assert (code, said.count("\n")) == (0, 1)
        assert said.startswith(f"{number} {'right' if language == 'en' else '正确'}")


@every_exercise
def test_the_answer_is_shown_on_request_only(
    number: int, folder: Path, checked: Callable[..., Checked]
) -> None:
    answer = reference_of(number)
    assert checked(number, "--answer") == (0, answer.rstrip() + "\n")
    # What tells a right answer from the file as it was handed out, line by line.
    unfilled = file_of(number, folder).read_text(encoding="utf-8")
    secret = {line.strip() for line in answer.splitlines()} - {
        line.strip() for line in unfilled.splitlines()
    }
    page = file_of(number, folder).with_name("README.md").read_text(encoding="utf-8")
    secret = {line for line in secret if len(line) > 8 and line not in page}
    _, said = checked(number, "--hint")
    assert secret and not [line for line in secret if line in said]


def test_the_overview_names_every_exercise_with_its_state(
    folder: Path, checked: Callable[..., Checked]
) -> None:
    fill(1, folder, reference_of(1))
    change(7, folder, same_command=[8])
    fill(9, folder, reference_of(9))
    code, said = checked()
    states = [line.split("  ")[1].strip() for line in said.splitlines()[:9]]
    wanted = ["right", *["not begun"] * 5, "wrong", "not begun", "needs a model"]
    assert (code, states) == (0, wanted)
    assert "还没做" in checked("--language", "zh")[1]


# --------------------------------------------------------------------------------------------------
# Typical wrong answers, and the hint that each of them gets.

ROUGE_L = """
def rouge_l(a, b):
    {}
"""
WRONG_CODE = [  # (exercise, what was written, the key of the mistake)
    (1, ROUGE_L.format("return 1.0"), "1.gaps"),
    (1, ROUGE_L.format("return 2 * len(set(a) & set(b)) / (len(a) + len(b) or 1)"), "1.order"),
    (1, ROUGE_L.format("return len([t for t in b if t in a]) / len(b)"), "1.gaps"),
    (1, ROUGE_L.format("return 'high'"), "1.type"),
    (1, ROUGE_L.format("return float('nan')"), "1.type"),
    (1, ROUGE_L.format("return 10 ** 400"), "1.type"),
    (1, "from rouge_score import rouge_scorer\n" + ROUGE_L.format("return 0"), "1.borrowed"),
    (1, "def other(a, b):\n    return 0\n", "code.missing"),
    (1, ROUGE_L.format("pass"), "code.type"),
    (1, ROUGE_L.format("return {1}"), "code.type"),
    (1, ROUGE_L.format("return (("), "code.unread"),
    (1, ROUGE_L.format("return a[99]"), "code.raised"),
    (1, ROUGE_L.format("raise SystemExit(0)"), "code.raised"),
    (1, ROUGE_L.format("return input()"), "code.raised"),
    (1, "import os\nos._exit(0)\n", "code.ended"),
]


def contiguous_rouge() -> str:
    """A right answer but that it wants the common tokens side by side."""
    body = """
    best = 0
    for i in range(len(a)):
        for j in range(len(b)):
            n = 0
            while a[i + n : i + n + 1] == b[j + n : j + n + 1] != []:
                n += 1
            best = max(best, n)
    return 2 * best / (len(a) + len(b)) if best else 0"""
    return f"def rouge_l(a, b):{body}\n"


PLAIN = 're.split(r"(?m)^Example \\d+\\.?$", reply)'
WRONG_CODE += [
    (1, contiguous_rouge(), "1.gaps"),
    (1, reference_of(1).replace(" if row[-1] else 0.0", ""), "code.raised"),  # two empty lists
    (4, reference_of(4).replace(PLAIN, 're.split(r"(?m)^Example", reply)'), "4.plain"),
    (4, reference_of(4).replace(PLAIN, 're.split(r"Example \\d+\\.?", reply)'), "4.number"),
    (4, reference_of(4).replace(PLAIN, 're.split(r"(?m)^Example ?\\d*", reply)'), "4.line"),
    (4, reference_of(4).replace(PLAIN, "[reply]"), "4.plain"),
    (4, reference_of(4).replace(r"\.?$", "$"), "4.input"),
    (4, reference_of(4).replace("return pairs", "return dict(pairs)"), "4.type"),
    (5, reference_of(5).replace("old.isupper() and old != new", "old != new"), "5.first"),
    (5, reference_of(5).replace("if any(", "if word[0].isupper() and any("), "5.first"),
    (5, reference_of(5).replace("return spoiled\n", "return spoiled[:1]\n"), "5.plain"),
    (5, reference_of(5).replace("return spoiled\n", "return len(spoiled)\n"), "5.type"),
    (5, reference_of(5).replace("sum(bool(", "sum(len("), "5.words"),
    (5, reference_of(5).replace("return sum(", "return 1 + sum("), "5.count"),
]


@pytest.mark.parametrize(("number", "code", "key"), WRONG_CODE)
def test_wrong_code_gets_one_line_and_the_hint_that_fits(
    number: int, code: str, key: str, folder: Path, checked: Callable[..., Checked]
) -> None:
    fill(number, folder, code)
    exit_code, said = checked(number)
    first, second = said.splitlines()
    assert exit_code == 1 and first.startswith(f"{number} wrong: ")
    assert hint(key) in second
    assert "Traceback" not in said


ENDLESS = [
    "while True:\n    pass\n",
    ROUGE_L.format("while True: print('x')"),
    # Right, but each step calls itself twice: fine for short lists only.
    """
def lcs(a, b):
    if not a or not b:
        return 0
    if a[-1] == b[-1]:
        return 1 + lcs(a[:-1], b[:-1])
    return max(lcs(a[:-1], b), lcs(a, b[:-1]))


def rouge_l(a, b):
    n = lcs(a, b)
    return 2 * n / (len(a) + len(b)) if n else 0
""",
]


@pytest.mark.parametrize("code", ENDLESS, ids=["at import", "in the function", "exponential"])
def test_code_without_an_end_is_ended_and_gets_one_line(
    code: str,
    folder: Path,
    checked: Callable[..., Checked],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pupil, "SECONDS", 1.0)
    fill(1, folder, code)
    exit_code, said = checked(1)
    first, second = said.splitlines()
    assert exit_code == 1
    assert first == "1 wrong: answer.py: rouge_l() did not end within 1 seconds."
    assert hint("code.endless") in second


def test_what_the_code_prints_is_no_answer(folder: Path, checked: Callable[..., Checked]) -> None:
    fill(1, folder, "print('{\"values\": []}')\n" + reference_of(1))
    assert checked(1)[0] == 0


WRONG_VALUES = [  # (exercise, fields with other values, the key of the mistake)
    (2, {"5": "kept"}, "2.wrong"),
    (2, {"12": "kept"}, "2.wrong"),  # like a candidate that was kept before it
    (2, {"8": "too_similar"}, "2.wrong"),
    (2, {"8": True}, "2.word"),
    (3, {"A": 7}, "3.shape"),
    (3, {"A__tokens": [12, 13]}, "3.tokens"),  # "don't" as one token
    (3, {"A__lcs": 13}, "3.lcs"),  # common words in any order
    (3, {"B__score": 1.6}, "3.score"),
    (3, {"B__score": "0.8"}, "3.score"),
    (3, {"A__lowest_threshold": 0.51}, "3.too_low"),
    (3, {"B__lowest_threshold": 0.81}, "3.too_high"),  # equal to the score is enough
    (3, {"B__lowest_threshold": None}, "3.threshold"),
    (3, {checks.SEPARATES: True}, "3.separates"),
    (6, {"input_first": 12}, "6.shape"),
    (6, {"input_first__negative": 1}, "6.sum"),
    (6, {"input_first__fact": 4, "input_first__opinion": 0}, "6.count"),
    (6, {"label_first__urgent": 3, "label_first__not urgent": 1}, "6.count"),  # put right
    (6, {"more_even": "input_first"}, "6.even"),
    (6, {"wrong_label": 1}, "6.fits"),
    (7, {"same_command": "7, 8"}, "7.shape"),
    (7, {"same_command": [8]}, "7.missing"),  # the text of the torn line looks whole
    (7, {"same_command": [6, 7, 8]}, "7.too_many"),
    (7, {"max_tokens_96": [7, 8]}, "7.missing"),
    (7, {"rouge_threshold_0.6": [1, 7, 8]}, "7.too_many"),
    (7, {"other_model": [7, 8]}, "7.missing"),
    (8, {"good": "a task"}, "8.shape"),
    (8, {"good__is_classification": "false"}, "8.shape"),
    (8, {"good__instances": []}, "8.shape"),
    (8, {"good__instruction": "Knit it."}, "8.errors"),
    (8, {"good__instances": [{"input": "", "output": ""}]}, "8.errors"),
    (8, {"bad__instances": [{"input": "Cuff: grey.", "output": "- grey wool"}]}, "8.other_rule"),
    (8, {"rule": "too_long"}, "8.other_rule"),
]


@pytest.mark.parametrize(("number", "values", "key"), WRONG_VALUES, ids=str)
def test_wrong_values_get_one_line_and_the_hint_that_fits(
    number: int, values: dict, key: str, folder: Path, checked: Callable[..., Checked]
) -> None:
    change(number, folder, **values)
    exit_code, said = checked(number, "--hint")
    lines = said.splitlines()
    assert exit_code == 1 and lines[0].startswith(f"{number} wrong: ") and len(lines) == 3
    assert hint(key) in lines[1]
    # The same in Chinese.
    assert hint(key, "zh") in checked(number, "--language", "zh")[1]


def test_a_copied_seed_task_and_a_bad_task_without_a_fault_are_told(
    folder: Path, checked: Callable[..., Checked]
) -> None:
    seed = load_seed_tasks(DEFAULT_SEEDS["zh"])[0]
    task = {"instruction": seed.instruction, "is_classification": seed.is_classification}
    change(8, folder, good=task | {"instances": seed.instances})
    assert hint("8.copy") in checked(8)[1]
    fine = {"instruction": "Name a tree whose wood is good for violins.", "instances": []}
    fine |= {"is_classification": False, "instances": [{"input": "", "output": "Spruce"}]}
    change(8, folder, bad=fine)
    assert hint("8.fine") in checked(8)[1]


ODD = [None, True, -1, 1e400, float("nan"), 10**400, "", "\ud800{x}", [], [[]], {}, {"a": {}}]


def leaves(value: object, path: tuple = ()) -> Iterator[tuple]:
    """The paths to all parts of a JSON value, the whole one not among them."""
    parts = value.items() if isinstance(value, dict) else []
    parts = enumerate(value) if isinstance(value, list) else parts
    for name, part in parts:
        yield (*path, name)
        yield from leaves(part, (*path, name))


@pytest.mark.parametrize("number", [2, 3, 6, 7, 8])
def test_whatever_stands_in_a_field_is_told_in_a_line(
    number: int, folder: Path, checked: Callable[..., Checked]
) -> None:
    right = json.loads(reference_of(number))
    places = list(leaves(right))
    for turn, odd in enumerate(ODD * 3):
        answer = json.loads(reference_of(number))
        *outer, last = places[turn % len(places)]
        place = answer
        for part in outer:
            place = place[part]
        place[last] = odd
        fill(number, folder, json.dumps(answer))
        code, said = checked(number, "--hint")
        assert said.count("\n") == (3 if code else 1), (places[turn % len(places)], odd)
        assert code == 1 or number == 8  # an input may be anything that is text


@pytest.mark.parametrize("number", [2, 3, 6, 7, 8])
def test_files_that_cannot_be_read_are_told_in_one_line(
    number: int, folder: Path, checked: Callable[..., Checked]
) -> None:
    path = file_of(number, folder)
    half = path.read_text(encoding="utf-8").replace('"TODO"', "1", 1)
    broken = {"file.todo": half, "file.json": "{", "file.object": "[1]"}
    for key, text in broken.items():
        path.write_text(text, encoding="utf-8")
        code, said = checked(number, "--hint")
        assert code == 1 and hint(key) in said and said.count("\n") == 3
    path.write_bytes("{\"1\": \"键\"}".encode("gb18030"))  # fmt: skip
    assert hint("file.encoding") in checked(number)[1]
    path.unlink()
    assert hint("file.missing") in checked(number)[1]


# --------------------------------------------------------------------------------------------------
# Exercise 9: a scripted model, which says yes to everything unless it is asked for options.


def yes_sayer(prompt: str, body: dict) -> str:
    """What small models do."""
    if "option" not in prompt.casefold() and "选项" not in prompt:
        return "是" if "任务" in prompt else "Yes"
    [flag] = [said for task, said in people_say().items() if task in prompt]
    if "选项" in prompt:
        return "选项：是、否" if flag else "选项：无"
    return "Options: yes, no" if flag else "Options: none"


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(yes_sayer) as server:
        yield server


def score(checked: Callable[..., Checked], server: Server, folder: Path, *more: str) -> Checked:
    """Check exercise 9 against a server."""
    work = folder.parent / "replies"
    url = server.url + "/v1"
    return checked(9, "--base-url", url, "--model", "m", "--work-dir", work, *more)


def test_a_prompt_that_asks_for_options_is_right(
    folder: Path, checked: Callable[..., Checked], server: Server
) -> None:
    fill(9, folder, reference_of(9))
    code, said = score(checked, server, folder)
    assert code == 0, said
    assert "on 16 of 16 tasks; asked plainly, on 8." in said
    assert len(server.requests) == 32
    # The replies are kept: checking once more costs nothing, another prompt 16 questions.
    assert score(checked, server, folder)[0] == 0
    assert len(server.requests) == 32
    fill(9, folder, "Name the options.\n{instruction}")
    score(checked, server, folder)
    assert len(server.requests) == 48


def test_the_chinese_reference_prompt_is_right_with_chinese_seeds(
    folder: Path, checked: Callable[..., Checked], server: Server
) -> None:
    answer = (folder / "answers" / "9.zh.txt").read_text(encoding="utf-8")
    assert checked(9, "--answer", "--language", "zh")[1] == answer.rstrip() + "\n"
    fill(9, folder, answer)
    code, said = score(checked, server, folder, "--language", "zh")
    assert code == 0 and "16" in said, said


def test_a_prompt_that_gets_yes_to_everything_is_wrong(
    folder: Path, checked: Callable[..., Checked], server: Server
) -> None:
    fill(9, folder, "Look at this task:\n{instruction}\nIs it a matter of classes? Yes or No?")
    code, said = score(checked, server, folder)
    assert code == 1 and hint("9.low") in said
    assert "on 8 of 16 tasks, 12 are needed" in said
    assert "(Classification: 8 of 8; others: 0 of 8.)" in said


def test_a_prompt_that_is_no_better_than_the_plain_question_is_wrong(
    folder: Path, checked: Callable[..., Checked]
) -> None:
    # Of 16 tasks it is wrong on two, however it is asked.
    probes = probe_tasks(Config(provider="practice"), load_seed_tasks(DEFAULT_SEEDS["en"]))
    labelled = [task.instruction for task in probes if task.is_classification]

    def mostly_right(prompt: str, body: dict) -> str:
        return "Yes" if any(task in prompt for task in labelled[2:]) else "No"

    fill(9, folder, "Classification or not? Yes or No.\n{instruction}")
    with Server(mostly_right) as server:
        code, said = score(checked, server, folder)
    assert code == 1 and hint("9.no_better") in said


def test_a_server_that_fails_is_told_in_one_line(
    folder: Path, checked: Callable[..., Checked]
) -> None:
    fill(9, folder, reference_of(9))
    task = probe_tasks(Config(provider="practice"), load_seed_tasks(DEFAULT_SEEDS["en"]))[0]

    def withhold(index: int, prompt: str) -> str:
        return "null-content" if task.instruction in prompt else ""

    with Server(yes_sayer, faults=withhold) as server:
        code, said = score(checked, server, folder)
    assert code == 1 and hint("9.unanswered") in said and said.count("\n") == 2


def test_a_server_that_refuses_is_told_in_one_line(
    folder: Path, checked: Callable[..., Checked], capsys: pytest.CaptureFixture[str]
) -> None:
    fill(9, folder, reference_of(9))
    work = str(folder.parent / "replies")
    with Server(yes_sayer, key="another") as server:
        url = server.url + "/v1"
        flags = ["--base-url", url, "--model", "m", "--work-dir", work]
        code = check.main(["9", *flags], folder)
    said = capsys.readouterr()
    assert (code, said.out) == (1, "") and said.err.startswith("error: ")
    assert "Traceback" not in said.err


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("What is it?", "9.slot"),
        ("{instruction} {instruction}", "9.slot"),
        ("{instruction}\n" + load_seed_tasks(DEFAULT_SEEDS["en"])[3].instruction, "9.copied"),
        ("Fine: {instruction}", "9.needs_server"),
    ],
)
def test_the_form_of_a_prompt_is_checked_without_a_server(
    text: str, key: str, folder: Path, checked: Callable[..., Checked]
) -> None:
    fill(9, folder, text)
    code, said = checked(9)
    assert code == 1 and said.startswith("9 wrong: ") and hint(key) in said


# --------------------------------------------------------------------------------------------------
# The program.


@pytest.mark.parametrize(
    "arguments",
    [["0"], ["10"], ["one"], ["--answer"], ["--hint"], ["3", "--model", "m"], ["1", "2"]],
    ids=" ".join,
)
def test_wrong_usage_has_the_exit_code_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        check.main(arguments)
    assert left.value.code == 2
    assert "error: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("variables", "language"),
    [
        ({"LC_ALL": "zh_CN.UTF-8"}, "zh"),
        ({"LC_ALL": "", "LANG": "zh_TW.UTF-8"}, "zh"),
        ({"LC_ALL": "de_DE.UTF-8", "LANG": "zh_CN.UTF-8"}, "en"),
        ({"LC_ALL": "C"}, "en"),
    ],
)
def test_it_speaks_chinese_where_the_system_does(
    variables: dict, language: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LC_MESSAGES", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert check.own_language() == language


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["3", "--hnt"], "did you mean --hint?"),
        (["3", "--hnt", "--language", "zh"], "错误：不认识的参数：--hnt：是不是想写 --hint？"),
        (["--hint", "--language", "zh"], "错误：请写上练习的编号：lesson/check.py 3 --hint"),
        (["3", "--language", "zz"], "invalid choice: 'zz'"),
    ],
)
def test_a_mistyped_flag_is_told_what_was_meant(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        check.main(arguments)
    assert left.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "gbk"])
def test_the_program_runs_from_anywhere_and_with_any_terminal(
    encoding: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "lesson" / "check.py", "1", "--language", "zh"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONIOENCODING": encoding},
        capture_output=True,
        encoding="utf-8",
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.startswith("1 还没做：answer.py 里还是 TODO。\n")


def test_a_missing_package_is_told_in_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "rapidfuzz", None)
    monkeypatch.setitem(sys.modules, "rapidfuzz.process", None)
    fill(2, folder, reference_of(2))
    assert check.main(["2"], folder) == 1
    said = capsys.readouterr()
    assert said.out == "" and "pip install -r" in said.err and said.err.count("\n") == 1


# --------------------------------------------------------------------------------------------------
# The words and the pages, in two languages.


def slots(text: str) -> set[str]:
    """The names in braces."""
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def test_all_words_are_there_in_both_languages_with_the_same_slots() -> None:
    for key, said in pupil.all_words().items():
        assert set(said) == set(LANGUAGES) and all(said.values()), key
        assert slots(said["en"]) == slots(said["zh"]), key
        own = key.removesuffix(".hint")
        assert slots(said["en"]) <= slots(said["en"]) | slots(pupil.all_words()[own]["en"])


def test_every_key_that_the_checks_name_has_words_and_a_hint() -> None:
    for path in (ROOT / "lesson" / "checking").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args:
                key = node.args[0]
                named = isinstance(key, ast.Constant) and isinstance(key.value, str)
                if node.func.id in ("wrong", "AnswerError") and named:
                    assert {key.value, f"{key.value}.hint"} <= set(pupil.all_words())
    hints = {f"1.{row[0]}" for row in checks.LISTS} | {f"4.{row[0]}" for row in checks.REPLIES}
    hints |= {f"5.{row[0]}" for row in checks.INSTRUCTIONS}
    hints |= {f"{number}.title" for number in NUMBERS}
    assert hints <= set(pupil.all_words())


def shape(text: str) -> dict[str, object]:
    """What both languages of a page have in common."""
    code = re.findall(r"^```(\w+)\n(.*?)^```$", text, re.M | re.S)
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    return {
        "headings": re.findall(r"^#+", prose, re.M),
        "blocks": [language for language, _ in code],
        "commands": [
            content.replace(" --language zh", "")
            for language, content in code
            if language in ("bash", "python")
        ],
        "table rows": len(re.findall(r"^\|", prose, re.M)),
        "list items": len(re.findall(r"^- ", prose, re.M)),
        "words in code": sorted(set(re.findall(r"`[^`\n]+`", prose)) - {"`--language zh`"}),
    }


PAGES = sorted(path.parent for path in EXERCISES.glob("**/README.md"))


@pytest.mark.parametrize("place", PAGES, ids=lambda path: path.name)
def test_a_page_is_the_same_in_both_languages(place: Path) -> None:
    english = (place / "README.md").read_text(encoding="utf-8")
    chinese = (place / "README.zh-CN.md").read_text(encoding="utf-8")
    assert shape(english) == shape(chinese)
    assert 15 <= len(chinese.splitlines()) <= len(english.splitlines()) + 2 <= 50


def test_the_pages_name_files_flags_and_rules_that_there_are() -> None:
    flags = {flag for action in check.command_line()._actions for flag in action.option_strings}
    for place in PAGES:
        text = (place / "README.md").read_text(encoding="utf-8")
        for command in re.findall(r"^python lesson/check.py(.*)$", text, re.M):
            check.command_line().parse_args(command.split())
            assert set(re.findall(r"--[\w-]+", command)) <= flags
        for name in re.findall(r"`((?:lesson|scripts|data)/[\w./]+\.\w+)`", text):
            assert (ROOT / name).exists(), name
    index = (EXERCISES / "README.md").read_text(encoding="utf-8")
    titles = [pupil.words(f"{number}.title", "en") for number in NUMBERS]
    assert re.findall(r"\| \[(.*?)\]\(\w+/README\.md\)", index) == titles


def test_the_journal_of_exercise_7_is_one_that_the_program_reads() -> None:
    """Its keys are those of the program, and its last line is torn."""
    place = EXERCISES / "7_journal"
    assert not (place / "responses.jsonl").read_bytes().endswith(b"\n")
    assert checks.asked_again(place, {}) == [7, 8]
    assert not (place / "responses.torn").exists()


def test_no_answer_is_a_task_or_reply_of_the_projects_own_data() -> None:
    seeds = {task.instruction for path in DEFAULT_SEEDS.values() for task in load_seed_tasks(path)}
    told = [row["candidate"] for row in checks.fates(EXERCISES / "2_survivors").values()]
    rows = pupil.read_rows(EXERCISES / "6_label_first" / "replies.jsonl")
    told += [row["instruction"] for row in rows]
    assert not seeds & set(told)
