"""review.py: sheets that hold the data unharmed and harmless, and figures that are those of the
textbooks."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
import sys
from collections import Counter
from collections.abc import Callable
from hashlib import sha256
from itertools import product
from pathlib import Path

import pytest
from helpers.runs import ROOT
from hypothesis import example, given
from hypothesis import strategies as st

from self_instruct_workshop import Config, run

sys.path.insert(0, str(ROOT / "scripts"))
import review

from scripts.reviewing import pairs

TASKS = [  # instruction, is_classification, instances
    (
        "Say whether the review is positive or negative.",
        True,
        [("Loved it.", "positive"), ("Never again.", "negative")],
    ),
    ("Name the colour of the sky.", True, [("", "blue")]),
    ("Add up the numbers.", False, [("1, 2", "3"), ("4, 5", "9")]),
    ("Write a haiku about tea.", False, [("", "steam over the cup")]),
    ("把句子翻译成英语。", False, [("我喜欢茶。", "I like tea.")]),
    ("Give a synonym of brave.", None, [("", "bold")]),
]
MARKUP = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
HEADER = (
    "id,kind,instruction,input,output,valid_task: A valid task?,input_fits,output_right,notes\n"
)


def write_data(
    folder: Path, tasks: list[tuple] = TASKS, step: str = "step2_is_classification.jsonl"
) -> Path:
    rows = [{"instruction": t, "input": i, "output": o} for t, _, pairs in tasks for i, o in pairs]
    path = folder / "step4_final.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    flags = [{"instruction": text, "is_classification": flag} for text, flag, _ in tasks]
    if step:
        (folder / step).write_text(
            "".join(json.dumps(row) + "\n" for row in flags), encoding="utf-8"
        )
    return path


def sample(data: Path, out: Path, *more: str, code: int = 0) -> None:
    assert review.main(["sample", "--data", str(data), "--out", str(out), *more]) == code


def cells(path: Path) -> list[list[str]]:
    text = path.read_bytes().decode("utf-8-sig")
    return list(csv.reader(io.StringIO(text, newline="")))


def plain(cell: str) -> str:
    """A text as it was before it was defused."""
    hidden = r"""([;|\t\r\n])'(?=(?:[^\S\r\n]|")*[=+\-@＝＋－＠'])"""
    return re.sub(hidden, r"\1", cell).removeprefix("'")


def filled(path: Path, answers: list[str]) -> Path:
    """A sheet whose n-th row has the three answers of the n-th word, say yn-."""
    names = {"y": "yes", "n": "no", "-": ""}
    lines = [
        f"r{n},k,Do it {n}.,,done,{','.join(names[one] for one in word)},\n"
        for n, word in enumerate(answers)
    ]
    path.write_text(HEADER + "".join(lines), encoding="utf-8")
    return path


def score(capsys: pytest.CaptureFixture, *paths: Path) -> str:
    capsys.readouterr()
    assert review.main(["score", *map(str, paths)]) == 0
    return capsys.readouterr().out


def error(capsys: pytest.CaptureFixture, *arguments: str, code: int = 1) -> str:
    """The one line that a command ends with."""
    capsys.readouterr()
    assert review.main(list(arguments)) == code
    said = capsys.readouterr()
    assert said.out == "" and re.fullmatch(r"error: .*\n", said.err)
    return said.err


# --------------------------------------------------------------------------------------------------
# What is drawn.


def test_the_same_seed_draws_the_same_sheets_and_another_seed_draws_others(tmp_path: Path) -> None:
    data = write_data(
        tmp_path, [(f"Count to {n}.", n % 3 == 0, [("", "x"), ("y", "z")]) for n in range(90)]
    )
    for name, seed in (("a", "42"), ("b", "42"), ("c", "7")):
        sample(data, tmp_path / name, "--num", "30", "--seed", seed)
    for kind in ("csv", "html"):
        a, b, c = (
            (tmp_path / f"{n}.{kind}").read_text("utf-8").replace(f'"file": "{n}"', "")
            for n in ("a", "b", "c")
        )
        assert a == b != c


def test_an_instruction_is_drawn_once_with_one_of_its_instances(tmp_path: Path) -> None:
    sample(write_data(tmp_path), tmp_path / "all", "--num", "6")
    drawn = [tuple(map(plain, row[2:5])) for row in cells(tmp_path / "all.csv")[1:]]
    assert sorted(instruction for instruction, _, _ in drawn) == sorted(
        text for text, _, _ in TASKS
    )
    pairs = {text: instances for text, _, instances in TASKS}
    assert all((source, target) in pairs[text] for text, source, target in drawn)


def test_which_instance_of_an_instruction_is_drawn_is_left_to_chance(tmp_path: Path) -> None:
    tasks = [
        (f"Count to {n}.", False, [("", "first"), ("", "second"), ("", "third")]) for n in range(60)
    ]
    sample(write_data(tmp_path, tasks), tmp_path / "r", "--num", "60")
    found = Counter(row[4] for row in cells(tmp_path / "r.csv")[1:])
    assert found.total() == 60 and min(found[name] for name in ("first", "second", "third")) >= 8


@pytest.mark.parametrize(
    ("sizes", "number", "drawn"),
    [
        ({"a": 60, "b": 30, "c": 10}, 10, {"a": 6, "b": 3, "c": 1}),
        ({"a": 997, "b": 2, "c": 1}, 10, {"a": 8, "b": 1, "c": 1}),  # the small ones are there
        ({"a": 997, "b": 2, "c": 1}, 2, {"a": 2, "b": 0, "c": 0}),  # fewer than kinds
        ({"a": 5, "b": 5, "c": 5}, 7, {"a": 3, "b": 2, "c": 2}),
        ({"a": 3, "b": 1}, 200, {"a": 3, "b": 1}),
    ],
)
def test_kinds_are_drawn_in_proportion(sizes: dict, number: int, drawn: dict) -> None:
    assert review.shares(sizes, number) == drawn


@given(
    st.dictionaries(st.text(max_size=3), st.integers(1, 5000), min_size=1, max_size=6),
    st.integers(1, 6000),
)
def test_any_number_is_met_from_any_kinds_with_one_of_each_where_it_allows(
    sizes: dict, number: int
) -> None:
    drawn, total = review.shares(sizes, number), sum(sizes.values())
    assert sum(drawn.values()) == min(number, total)
    assert all(drawn[kind] <= sizes[kind] for kind in sizes)
    assert number < len(sizes) or min(drawn.values()) >= 1
    assert all(drawn[kind] <= max(1, number * sizes[kind] / total + 1) for kind in sizes)


@pytest.mark.parametrize("step", ["step2_is_classification.jsonl", "step3_raw_instances.jsonl"])
def test_classification_is_looked_up_in_the_step_files_beside_the_data(
    tmp_path: Path, step: str
) -> None:
    sample(write_data(tmp_path, step=step), tmp_path / "r", "--num", "6", "--format", "csv")
    kinds = {plain(row[2]): row[1] for row in cells(tmp_path / "r.csv")[1:]}
    assert [kinds[text] for text, _, _ in TASKS] == [
        "classification, with input",
        "classification, no input",
        "not classification, with input",
        "not classification, no input",
        "not classification, with input",
        "classification unknown, no input",
    ]


def test_without_step_files_the_kinds_are_with_and_without_input(tmp_path: Path) -> None:
    sample(write_data(tmp_path, step=""), tmp_path / "r", "--format", "csv")
    assert Counter(row[1] for row in cells(tmp_path / "r.csv")[1:]) == {
        "with input": 3,
        "no input": 3,
    }


def test_more_than_there_are_is_all_of_them_with_a_notice(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    sample(write_data(tmp_path), tmp_path / "r", "--num", "7")
    said = capsys.readouterr()
    assert (
        "6 of 6 instructions" in said.out
        and said.err == "notice: 7 were asked for, and there are no more\n"
    )


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_practice_run_is_sampled_filled_and_scored(
    settings: Callable[..., Config], tmp_path: Path, language: str, capsys: pytest.CaptureFixture
) -> None:
    config = settings(num_instructions=30, language=language)
    run(config, say=lambda text: None)
    sample(
        Path(config.work_dir) / "step4_final.jsonl",
        tmp_path / "r",
        "--num",
        "20",
        "--language",
        language,
    )
    rows = cells(tmp_path / "r.csv")
    assert [cell.split(":")[0] for cell in rows[0][5:]] == [*review.QUESTIONS, "notes"] and len(
        rows
    ) == 21
    yes, no = ("是", "否") if language == "zh" else ("Yes", "No")
    assert f"({yes}/{no})" in rows[0][5]
    done = [
        rows[0],
        *([*row[:5], yes, yes, no if n % 4 == 0 else yes, ""] for n, row in enumerate(rows[1:])),
    ]
    with open(tmp_path / "done.csv", "w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file).writerows(done)
    text = score(capsys, tmp_path / "done.csv")
    assert re.search(r"Is the output .* 15 +20 +75\.0 %", text) and re.search(
        r"valid task\? +20 +20 +100\.0 %", text
    )


def test_the_scores_in_chinese_are_the_same_and_stand_in_the_same_columns(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    head = ["id", "kind", "instruction", "input", "output", *review.QUESTIONS, "notes"]
    for name, said in (("ana", ["yes", "no", ""]), ("bo", ["no", "no", "yes"])):
        lines = [head]
        for n in range(6):
            kind = "classification, with input" if n % 2 else "not classification, no input"
            lines.append([f"r{n}", kind, f"Task {n}", "", "out", "yes", said[n % 3], said[0], ""])
        with open(tmp_path / f"{name}.csv", "w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows(lines)
    sheets = [str(tmp_path / f"{name}.csv") for name in ("ana", "bo")]
    pages = {}
    for language in ("en", "zh"):
        assert review.main(["score", *sheets, "--language", language]) == 0
        pages[language] = capsys.readouterr().out.replace(str(tmp_path), "")
    tables = {name: re.findall(r"(?m)^.* \d+ .*%.*$", text) for name, text in pages.items()}
    assert len(tables["en"]) == len(tables["zh"]) > 10
    for english, chinese in zip(tables["en"], tables["zh"], strict=True):
        assert re.findall(r"[\d.]+", english) == re.findall(r"[\d.]+", chinese)
    said = re.sub(r"\w+\.csv|r\d|Task \d|\w+_\w+|kappa|Landis|Koch", "", pages["zh"])
    assert re.findall("[A-Za-z]{2,}", said) == []


# --------------------------------------------------------------------------------------------------
# The sheets.


@given(
    st.lists(
        st.text() | st.from_regex(r"[\s'=+@-]*[a-z]\n?\"", fullmatch=True), min_size=1, max_size=4
    )
)
def test_any_text_comes_back_from_a_line_and_none_begins_as_a_formula_does(
    texts: list[str],
) -> None:
    read = next(csv.reader(io.StringIO(review.csv_line(texts) + "\r\n", newline="")))
    assert [plain(cell) for cell in read] == texts
    assert not any(re.match(r"\s*[=+\-@＝＋－＠]|[\t\r\n]", cell) for cell in read)


@pytest.mark.parametrize(
    "text", ["=1+1", "+1", "-1", "@SUM(A1)", " =1", "＝1", "'=1", "'tis", "\tx", "\nx"]
)
def test_what_a_spreadsheet_may_run_begins_with_an_apostrophe(text: str) -> None:
    assert next(csv.reader(io.StringIO(review.csv_line([text]), newline=""))) == ["'" + text]


@given(st.lists(st.text(alphabet=";,\t|\r\n \"'=+-@＝ax", max_size=12), min_size=1, max_size=4))
@example(["Sum up; =1+1", 'a";=1', ';"=1"', ';""=1', "a\n- b\n\n=c", "a\t@b", '"\n"=1'])
def test_no_cell_is_a_formula_whatever_the_program_takes_for_the_separator(
    texts: list[str],
) -> None:
    line = review.csv_line(["r1", *texts])
    for delimiter in ",;\t|":
        for cells_read in csv.reader(io.StringIO(line, newline=""), delimiter=delimiter):
            assert not any(re.match(r"\s*[=+\-@＝＋－＠]", cell) for cell in cells_read)


def test_the_csv_begins_with_the_mark_by_which_excel_knows_utf_8(tmp_path: Path) -> None:
    sample(write_data(tmp_path), tmp_path / "r", "--format", "csv")
    data = (tmp_path / "r.csv").read_bytes()
    assert data.startswith(b"\xef\xbb\xbfid,kind,") and "把句子翻译成英语。".encode() in data
    assert not (tmp_path / "r.html").exists()


def test_texts_of_many_lines_and_lone_surrogates_do_not_break_a_sheet(tmp_path: Path) -> None:
    tasks = [('Say this.\r\nThen \ud800 that, "please".', False, [("a\rb\n\nc", "=d;\t,\0")])]
    sample(write_data(tmp_path, tasks), tmp_path / "r")
    assert [plain(cell) for cell in cells(tmp_path / "r.csv")[1][2:5]] == [
        'Say this.\r\nThen ? that, "please".',
        "a\rb\n\nc",
        "=d;\t,\0",
    ]


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_html_shows_markup_as_text_and_lets_only_its_own_script_and_style_act(
    tmp_path: Path, language: str
) -> None:
    tasks = [(f"Explain {MARKUP} $sheet", False, [(MARKUP, f'" onclick="{MARKUP}')])]
    sample(write_data(tmp_path, tasks), tmp_path / "r", "--language", language)
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert (
        text.count("<script") == text.count("</script>") == 2
        and "<img" not in text
        and "$sheet" in text
    )
    assert not re.search(r"https?://|\burl\(|@import", text)
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text)[1]
    for tag in ("script", "style"):
        digest = sha256(re.search(rf"<{tag}>(.*?)</{tag}>", text, re.S)[1].encode()).digest()
        assert f"{tag}-src 'sha256-{base64.b64encode(digest).decode()}'" in policy
    assert policy.startswith("default-src 'none';") and "unsafe" not in policy


def test_both_sheets_have_the_same_ids(tmp_path: Path) -> None:
    sample(write_data(tmp_path), tmp_path / "r")
    ids = [row[0] for row in cells(tmp_path / "r.csv")[1:]]
    assert (
        re.findall(r'<article id="(\w+)">', (tmp_path / "r.html").read_text(encoding="utf-8"))
        == ids
    )
    assert len(set(ids)) == 6


def test_the_words_of_both_languages_are_the_same_parts() -> None:
    assert review.WORDS["en"].keys() == review.WORDS["zh"].keys()


@pytest.mark.parametrize("ending", ["csv", "html"])
def test_a_sheet_that_is_there_is_never_overwritten(
    tmp_path: Path, ending: str, capsys: pytest.CaptureFixture
) -> None:
    data = write_data(tmp_path)
    (tmp_path / f"r.{ending}").write_text("hours of work", encoding="utf-8")
    assert "is there already" in error(
        capsys, "sample", "--data", str(data), "--out", str(tmp_path / "r")
    )
    assert (tmp_path / f"r.{ending}").read_text(encoding="utf-8") == "hours of work"
    assert len([*tmp_path.glob("r.*")]) == 1


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "cannot read .*step4_final.jsonl .*--data"),
        (b"", "holds no row"),
        (b"\xff\xfe\x00", "not UTF-8: save it as UTF-8"),
        (
            b'{"instruction": "a", "input": "", "output": "b"}\n{"instruction": "a"}\n',
            "line 2: a JSON record",
        ),
        (b'{"instruction": "a", "input": 5, "output": "b"}\n', "line 1: a JSON record"),
        (b"[]\n", "holds no row"),
        (b"not JSON\n", "line 1 is no JSON"),
        (b"[" * 100_000, "is no JSON .*too deep"),
    ],
)
def test_data_that_cannot_be_used_is_one_line(
    tmp_path: Path, content: bytes | None, told: str, capsys: pytest.CaptureFixture
) -> None:
    path = tmp_path / "step4_final.jsonl"
    if content is not None:
        path.write_bytes(content)
    assert re.search(
        told, error(capsys, "sample", "--data", str(path), "--out", str(tmp_path / "r"))
    )
    assert not [*tmp_path.glob("r.*")]


def test_a_place_that_cannot_be_written_and_a_number_that_cannot_be_drawn_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    data = str(write_data(tmp_path))
    assert "cannot write" in error(capsys, "sample", "--data", data, "--out", f"{data}/r")
    assert "--num must be at least 1" in error(
        capsys, "sample", "--data", data, "--num", "0", code=2
    )


# --------------------------------------------------------------------------------------------------
# The figures. Those of known examples are scikit-learn's (kappa) and statsmodels' (intervals).


@pytest.mark.parametrize(
    ("yes", "n", "low", "high"),
    [
        (116, 200, 0.5107207, 0.6462640),
        (184, 200, 0.8740105, 0.9501594),
        (0, 10, 0.0, 0.2775328),
        (10, 10, 0.7224672, 1.0),
        (1, 1, 0.2065493, 1.0),
    ],
)
def test_intervals_are_wilson_s(yes: int, n: int, low: float, high: float) -> None:
    assert review.wilson(yes, n) == pytest.approx((low, high), abs=1e-7)


@pytest.mark.parametrize(
    ("table", "expected"),  # yes yes, yes no, no yes, no no
    [
        ((20, 5, 10, 15), (0.4, 0.1510923, 0.6489077)),
        ((45, 15, 25, 15), (0.1304348, -0.0629383, 0.3238078)),
        ((61, 2, 5, 25), (0.8231459, 0.6977822, 0.9485096)),
        ((0, 10, 10, 0), (-1.0, -1.0, -1.0)),
        ((30, 0, 0, 5), (1.0, 1.0, 1.0)),
        ((31, 3, 0, 0), (0.0, 0.0, 0.0)),
    ],
)
def test_kappa_and_its_interval_are_those_of_known_examples(table: tuple, expected: tuple) -> None:
    cells = ((True, True), (True, False), (False, True), (False, False))
    pairs = [pair for pair, times in zip(cells, table, strict=True) for _ in range(times)]
    assert review.kappa(pairs) == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("said", [True, False])
def test_kappa_of_one_and_the_same_answer_is_undefined(said: bool) -> None:
    assert review.kappa([(said, said)] * 7) is None
    assert "undefined: both said " + ("yes" if said else "no") in review.kappa_cells(
        [(said, said)] * 7
    )


def test_a_known_sheet_is_counted_exactly(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    text = score(
        capsys, filled(tmp_path / "a.csv", ["yyy"] * 5 + ["yyn"] * 2 + ["ynn", "nnn", "yy-", "n--"])
    )
    found = re.findall(
        r"^(.{50}) +(\d+) +(\d+) +([\d.]+) % +([\d.]+) % to ([\d.]+) % +(\d+) %$", text, re.M
    )
    assert [row[1:] for row in found] == [
        ("9", "11", "81.8", "52.3", "94.9", "92"),
        ("8", "10", "80.0", "49.0", "94.3", "79"),
        ("5", "9", "55.6", "26.7", "81.1", "58"),
        ("5", "9", "55.6", "26.7", "81.1", "54"),
    ]
    assert "not rated: 3 of 33 answers" in text and "11 rows" in text


def test_shares_of_each_kind_stand_below(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = filled(tmp_path / "a.csv", ["yyy", "yyn", "nyy", "---"])
    path.write_text(
        path.read_text("utf-8").replace("r0,k", "r0,other").replace("r3,k", "r3,open"),
        encoding="utf-8",
    )
    text = score(capsys, path)
    assert re.search(r"^k +2 +50\.0 % +100\.0 % +50\.0 % +0\.0 %$", text, re.M)
    assert re.search(r"^other +1 +100\.0 % +100\.0 % +100\.0 % +100\.0 %$", text, re.M)
    assert re.search(r"^open +1 +- +- +- +-$", text, re.M)


def test_a_question_that_nobody_answered_has_no_share(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    text = score(capsys, filled(tmp_path / "a.csv", ["yy-", "ny-"]))
    assert re.search(r"acceptable response\? +0 +0 +58 %$", text, re.M) and re.search(
        r"^all three +0 +0 +54 %$", text, re.M
    )


def test_two_sheets_are_compared_on_the_rows_they_share(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    one = filled(tmp_path / "a.csv", ["yyy"] * 20 + ["yyn"] * 25 + ["yyy"] * 5 + ["yyy"] * 2)
    other = filled(tmp_path / "b.csv", ["yyy"] * 20 + ["yyy"] * 10 + ["yyn"] * 20)
    other.write_text(
        other.read_text(encoding="utf-8") + "extra,k,x,,y,yes,yes,,\n", encoding="utf-8"
    )
    text = score(capsys, one, other)
    assert "agreement on 50 rows" in text
    assert re.search(
        r"valid task\? +50 +100\.0 % +-   undefined: both said yes everywhere$", text, re.M
    )
    assert re.search(
        r"acceptable response\? +50 +70\.0 % +0\.40   0\.15 to 0\.65, fair$", text, re.M
    )
    assert (
        f"rows only in {one}: 2, r50, r51\n" in text and f"rows only in {other}: 1, extra\n" in text
    )
    assert (
        "they differ on 15 rows" in text
        and "r20  output_right: Do it 20." in text
        and "nan" not in text
    )


def judged(path: Path, answers: list[str]) -> Path:
    """A judge's file with the ids of `filled`; "-" is what could not be read."""
    said = {"y": True, "n": False, "-": None}
    rows = []
    for n, word in enumerate(answers):
        told = dict(zip(review.QUESTIONS, map(said.get, word), strict=True))
        rows.append({"id": f"r{n}", "instruction": f"Do it {n}.", "input": "", **told})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_judge_is_a_rater_whose_yes_and_no_are_held_against_a_person_s(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Of 20 wrong rows the judge finds 15, and calls 10 of 40 right ones wrong."""
    person = filled(tmp_path / "ana.csv", ["yyn"] * 20 + ["yyy"] * 40 + ["yyy"])
    said = ["yyn"] * 15 + ["yyy"] * 5 + ["yyn"] * 10 + ["yyy"] * 30 + ["yy-"]
    judge = judged(tmp_path / "judged.jsonl", said)
    text = score(capsys, judge, person)  # the person is first, whatever the order
    assert text == score(capsys, person, judge)
    assert text.index(f"{person}: 61 rows") < text.index(f"{judge}: 61 rows")
    assert "not rated: 1 of 183 answers" in text
    assert re.search(r"acceptable response\? +60 +75\.0 % +0\.47 ", text)
    table = text.split("acceptable response?")[-1].split("all three")[0]
    lines = re.findall(r"(precision|recall): .*? (\d+) of +(\d+) +([\d.]+) %   ([\d.]+) %", table)
    assert lines == [
        ("precision", "15", "25", "60.0", "40.7"),
        ("recall", "15", "20", "75.0", "53.1"),
        ("precision", "30", "35", "85.7", "70.6"),
        ("recall", "30", "40", "75.0", "59.8"),
    ]


def test_a_judge_is_held_against_a_person_in_chinese_with_the_same_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    person = filled(tmp_path / "ana.csv", ["yyn"] * 4 + ["yyy"] * 6)
    judge = judged(tmp_path / "judged.jsonl", ["yyn"] * 3 + ["yyy"] * 5 + ["yyn"] * 2)
    english = score(capsys, person, judge).split(" beside ")[1]
    chinese = score(capsys, person, judge, "--language", "zh").split("，对照 ")[1]
    figures = r"(?m) (\d+) (?:of|/) +(\d+) +([\d.]+ %|-)"
    assert re.findall(figures, english) == re.findall(figures, chinese)
    assert len(re.findall(figures, chinese)) == 16
    said = re.sub(r"\w+\.csv|\w+_\w+", "", chinese.partition("\n")[2])
    assert re.findall("[A-Za-z]{2,}", said) == []


def test_a_judge_alone_and_two_judges_are_scored_without_a_person(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    one = judged(tmp_path / "one.jsonl", ["yyy", "yyn", "nyn"])
    other = judged(tmp_path / "other.jsonl", ["yyy", "yyy", "nyn"])
    assert f"{one}: 3 rows" in score(capsys, one)
    text = score(capsys, one, other)
    assert "agreement on 3 rows" in text and "precision" not in text


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"id": "r0", "valid_task": true, "input_fits": true}', "line 1 is no row"),
        ('{"id": 7, "valid_task": true, "input_fits": true, "output_right": true}', "no row"),
        ('{"id": "r0", "valid_task": 1, "input_fits": 1, "output_right": "yes"}', "no row"),
        ("{", "line 1 is no JSON"),
        (
            '{"id": "r0", "valid_task": null, "input_fits": null, "output_right": null}',
            "no answer that can be read",
        ),
    ],
)
def test_a_file_that_is_no_judge_s_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture, line: str, told: str
) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(line + "\n", encoding="utf-8")
    assert told in error(capsys, "score", str(path))
    assert "cannot read" in error(capsys, "score", str(tmp_path / "none.jsonl"))


@pytest.mark.parametrize(
    ("pairs", "told"),
    [
        ([(True, True), (False, False)], "no interval: they agree everywhere"),
        ([(True, True), (True, False)], "no interval: one said the same everywhere"),
        ([(True, True)] * 40 + [(False, False)] * 40 + [(True, False)] * 2, "almost perfect"),
        ([(True, False), (False, True)] * 3 + [(True, True)], "none beyond chance"),
    ],
)
def test_kappa_is_said_in_plain_words(pairs: list, told: str) -> None:
    assert told in review.kappa_cells(pairs)


# --------------------------------------------------------------------------------------------------
# Filled sheets as people and spreadsheet programs leave them.


def test_answers_may_be_spelt_in_many_ways(tmp_path: Path) -> None:
    wrong, path = [], tmp_path / "a.csv"
    for yes, no in product(
        ["yes", "Y", "1", "TRUE", "是", "对", " Yes ", "ＹＥＳ"],
        ["no", "N", "0", "False", "否", "错"],
    ):
        path.write_text(f"{HEADER}r1,k,x,,y,{yes},{no}, ,\n", encoding="utf-8")
        row = review.read_sheet(path)["r1"]
        if [row[name] for name in review.PAPER] != [True, False, None, None]:
            wrong.append((yes, no))
    assert wrong == []


@pytest.mark.parametrize(
    ("delimiter", "encoding", "end"),
    [
        (";", "utf-8-sig", "\r\n"),
        ("\t", "utf-8", "\n"),
        (",", "gbk", "\r\n"),
        (",", "cp1252", "\r"),
        (",", "utf-8", "\n"),
    ],
)
def test_sheets_are_read_as_spreadsheet_programs_save_them(
    tmp_path: Path, delimiter: str, encoding: str, end: str
) -> None:
    yes, text = ("是", "一") if encoding == "gbk" else ("yes", "é")
    rows = [
        HEADER.strip().split(","),
        ["r1", "k", text, "", "a, b; c", yes, yes, "no", text],
        [""] * 9,
    ]
    with open(tmp_path / "a.csv", "w", encoding=encoding, newline="") as file:
        csv.writer(file, delimiter=delimiter, lineterminator=end).writerows(rows)
    sheet = review.read_sheet(tmp_path / "a.csv")
    assert [sheet["r1"][name] for name in review.PAPER] == [True, True, False, False] and len(
        sheet
    ) == 1


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, r"cannot read .*a\.csv"),
        (b"", "no column id"),
        (b"id,valid_task,output_right\nr1,yes,yes\n", "no column input_fits"),
        (b"<!doctype html>\n", "no column id"),
        (b"PK\x03\x04", "is a workbook: save it as CSV"),
        (
            HEADER.encode() + b'r1,k,"x\n\ny",,y,yes,no,no,\nr2,k,x,,y,yes,may\x1b[31mbe,,\n',
            "row 3, column input_fits: 'may",
        ),
        (
            HEADER.encode() + b"r1,k,x,,y,yes,no,no,\nr1,k,x,,y,yes,no,no,\n",
            "row 3, column id: the id 'r1' stands twice",
        ),
        (HEADER.encode() + b",k,x,,y,yes,no,no,\n", "row 2, column id: there is no id"),
        (HEADER.encode() + b"r1,k,x,,y,,,,\n", "has no answer yet"),
        (HEADER.encode(), "has no answer yet"),
    ],
)
def test_a_sheet_that_cannot_be_read_is_one_line_naming_the_place(
    tmp_path: Path, content: bytes | None, told: str, capsys: pytest.CaptureFixture
) -> None:
    if content is not None:
        (tmp_path / "a.csv").write_bytes(content)
    said = error(capsys, "score", str(tmp_path / "a.csv"))
    assert re.search(told, said) and "a.csv" in said and "\x1b" not in said


def test_sheets_of_two_samples_have_nothing_to_compare(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    one, other = filled(tmp_path / "a.csv", ["yyy"]), tmp_path / "b.csv"
    other.write_text(one.read_text(encoding="utf-8").replace("r0,", "q0,"), encoding="utf-8")
    assert "no row in common" in error(capsys, "score", str(one), str(other))


def test_three_sheets_are_one_too_many(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as left:
        review.main(["score", "a.csv", "b.csv", "c.csv"])
    assert left.value.code == 2


def test_what_a_model_wrote_is_printed_without_its_control_characters(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    one, other = filled(tmp_path / "a.csv", ["yyy"]), filled(tmp_path / "b.csv", ["nyy"])
    for path in (one, other):
        path.write_text(
            path.read_text("utf-8").replace("Do it 0.", "Do\x1b[2Jit").replace(",k,", ",\x1b]0;k,"),
            "utf-8",
        )
    text = score(capsys, one, other)
    assert "\x1b" not in text and "valid_task: Do [2Jit" in text


# --------------------------------------------------------------------------------------------------
# Pairs of answers.


def write_rewritten(folder: Path, number: int = 12) -> Path:
    """Rows as rewrite.py writes them; every third kept its first output."""
    path = folder / "step5_rewritten.jsonl"
    models = {"first": "small", "rewritten": "large"}
    lines = []
    for n in range(number):
        row = {"instruction": f"Count to {n}.", "input": "", "output": f"=new {n}"}
        row |= {"first_output": f"old {n}", "rewritten": n % 3 > 0, "rule": "", "models": models}
        lines.append(json.dumps(row) + "\n")
    path.write_text("".join(lines), encoding="utf-8")
    return path


def draw_pairs(folder: Path, *more: str, code: int = 0) -> Path:
    out = folder / "pairs"
    data = ["--data", str(write_rewritten(folder)), "--out", str(out)]
    assert review.main(["pairs", *data, *more]) == code
    return out


def fill_pairs(out: Path, who: str, answers: list[str]) -> Path:
    """The sheet with these answers, as a spreadsheet program that likes semicolons saves it."""
    lines = cells(Path(f"{out}.csv"))
    path = Path(f"{out}-{who}.csv")
    for line, said in zip(lines[1:], answers, strict=False):
        line[5] = said
    with open(path, "w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file, delimiter=";").writerows(lines)
    return path


def sides_of(out: Path, writer: str) -> list[str]:
    """On which side a writer stands, pair by pair."""
    lines = Path(f"{out}-key.jsonl").read_text(encoding="utf-8").splitlines()
    found = map(json.loads, lines)
    return ["A" if pair["A"]["writer"] == writer else "B" for pair in found]


def test_pairs_are_those_rows_that_were_rewritten_and_the_sides_are_shuffled(
    tmp_path: Path,
) -> None:
    out = draw_pairs(tmp_path)
    rows = cells(Path(f"{out}.csv"))
    assert [cell.split(":")[0] for cell in rows[0]] == [
        *("id", "instruction", "input", "answer_A", "answer_B", "better", "notes")
    ]
    assert sorted(int(row[1][9:-1]) for row in rows[1:]) == [1, 2, 4, 5, 7, 8, 10, 11]
    for row in rows[1:]:
        assert sorted(map(plain, row[3:5])) == [f"=new {row[1][9:-1]}", f"old {row[1][9:-1]}"]
    assert {*sides_of(out, "large")} == {"A", "B"}
    text = Path(f"{out}.html").read_text("utf-8") + Path(f"{out}.csv").read_text("utf-8")
    assert "large" not in text and "small" not in text


def test_pairs_of_one_seed_are_the_same_and_of_another_others(tmp_path: Path) -> None:
    keys = []
    for seed in ("1", "1", "2"):
        folder = tmp_path / str(len(keys))
        folder.mkdir()
        out = draw_pairs(folder, "--seed", seed, "--num", "5")
        keys.append(Path(f"{out}-key.jsonl").read_bytes())
    assert keys[0] == keys[1] != keys[2] and keys[0].count(b"\n") == 5


def test_wins_are_counted_by_writer_whatever_the_side(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = draw_pairs(tmp_path)
    sides = sides_of(out, "large")
    other = {"A": "B", "B": "A"}
    # Of eight pairs: large wins five, small one; one is equal, and one is open.
    said = [*sides[:5], other[sides[5]].lower(), "一样", ""]
    told = score(capsys, fill_pairs(out, "ana", said))
    assert re.search(r"(?m)^large +5 +83\.3 %   43\.6 % to 97\.0 %$", told)
    assert re.search(r"(?m)^small +1 +16\.7 %   3\.0 % to 56\.4 %$", told)
    assert "8 pairs, 7 rated" in told and re.search(r"as good as each other +1\n", told)
    assert "p = 0.219, that may be chance" in told


@pytest.mark.parametrize(
    ("one", "other", "p"),
    [(5, 5, 1.0), (9, 1, 0.0215), (1, 9, 0.0215), (0, 5, 0.0625), (15, 5, 0.0414), (0, 0, 1.0)],
)
def test_the_sign_test_is_the_textbook_s(one: int, other: int, p: float) -> None:
    assert pairs.sign_test(one, other) == pytest.approx(p, abs=1e-4)


def test_two_people_are_compared_by_whom_they_prefer(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = draw_pairs(tmp_path)
    sides = sides_of(out, "large")
    ana = fill_pairs(out, "ana", [*sides[:6], "same", "same"])
    bo = fill_pairs(out, "bo", [*sides[:4], "same", "same", "same", ""])
    told = score(capsys, ana, bo)
    # Of seven pairs five the same; by chance (6 * 4 + 1 * 3) / 49.
    assert re.search(r"Which answer is better\? +7 +71\.4 % +0\.36 ", told)
    assert told.count("sign test") == 2


LAST = {"ana": ["same", "same"], "bo": ["A", "same", ""]}  # what each said of the last pairs


def test_the_scores_of_pairs_in_chinese_are_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = draw_pairs(tmp_path, "--language", "zh")
    assert "8 对回答，指令各不相同" in capsys.readouterr().out
    sides = sides_of(out, "large")
    sheets = [fill_pairs(out, who, [*sides[:5], *said]) for who, said in LAST.items()]
    english = score(capsys, *sheets).replace(str(tmp_path), "")
    chinese = score(capsys, *sheets, "--language", "zh").replace(str(tmp_path), "")
    pages = (english.split("\nkappa")[0], chinese.split("\nkappa")[0])
    assert len({tuple(re.findall(r"\d+\.\d+", page)) for page in pages}) == 1
    said = re.sub(r"[\w-]+\.csv|large|small|kappa|Landis|Koch", "", chinese)
    assert re.findall("[A-Za-z]{2,}", said) == []


def test_kappa_of_three_answers_is_cohen_s() -> None:
    """The table of Cohen (1960): 200 cases, three answers, kappa 0.49 with shares .50 .30 .20."""
    table = {
        ("a", "a"): 88, ("a", "b"): 14, ("a", "c"): 18,
        ("b", "a"): 10, ("b", "b"): 40, ("b", "c"): 10,
        ("c", "a"): 2, ("c", "b"): 6, ("c", "c"): 12,
    }  # fmt: skip
    answers = [pair for pair, times in table.items() for _ in range(times)]
    value, low, high = review.kappa(answers)
    assert value == pytest.approx(0.492, abs=0.001) and low < value < high


def test_the_key_is_found_beside_a_sheet_or_named(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = draw_pairs(tmp_path)
    sheet = fill_pairs(out, "ana-maria", ["A"])
    assert "8 pairs, 1 rated" in score(capsys, sheet)
    elsewhere = tmp_path / "elsewhere.csv"
    sheet.rename(elsewhere)
    assert "give the file that `pairs` wrote, by --key" in error(capsys, "score", str(elsewhere))
    assert review.main(["score", str(elsewhere), "--key", f"{out}-key.jsonl"]) == 0


@pytest.mark.parametrize(
    ("answers", "told"),
    [([], "no answer yet"), (["C"], "row 2, column better: 'C' is neither A, B nor same")],
)
def test_a_pair_sheet_that_cannot_be_read_is_one_line(
    tmp_path: Path, answers: list[str], told: str, capsys: pytest.CaptureFixture
) -> None:
    out = draw_pairs(tmp_path)
    assert told in error(capsys, "score", str(fill_pairs(out, "ana", answers)))


def test_a_key_of_another_sheet_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = draw_pairs(tmp_path)
    sheet = fill_pairs(out, "ana", ["A"])
    (tmp_path / "other").mkdir()
    other = draw_pairs(tmp_path / "other", "--seed", "3", "--num", "1")
    said = error(capsys, "score", str(sheet), "--key", f"{other}-key.jsonl")
    assert "the key has no pair" in said and "by --key" in said
    assert "no line of a pairs-key" in error(
        capsys, "score", str(sheet), "--key", str(tmp_path / "step5_rewritten.jsonl")
    )


def test_no_sheet_of_pairs_is_written_over_and_data_without_pairs_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = draw_pairs(tmp_path)
    data = str(tmp_path / "step5_rewritten.jsonl")
    for kind in ("csv", "html", "key"):
        assert "is there already" in error(capsys, "pairs", "--data", data, "--out", str(out))
        Path(f"{out}-key.jsonl" if kind == "key" else f"{out}.{kind}").unlink()
    absent = str(tmp_path / "absent.jsonl")
    assert "run scripts/rewrite.py" in error(capsys, "pairs", "--data", absent, "--out", str(out))
    plain_rows = write_data(tmp_path)
    said = error(capsys, "pairs", "--data", str(plain_rows), "--out", str(out))
    assert "line 1: a row of step5_rewritten.jsonl" in said
    same = dict.fromkeys(("instruction", "input", "output", "first_output"), "x")
    path = tmp_path / "same.jsonl"
    path.write_text(json.dumps(same | {"rewritten": False}), encoding="utf-8")
    said = error(capsys, "pairs", "--data", str(path), "--out", str(out))
    assert "no output was written again: run scripts/rewrite.py with another model" in said


def test_the_page_of_pairs_shows_markup_as_text_and_has_its_own_keys(tmp_path: Path) -> None:
    path = tmp_path / "step5_rewritten.jsonl"
    row = {"instruction": MARKUP, "input": MARKUP, "output": MARKUP, "first_output": "x" + MARKUP}
    path.write_text(json.dumps({**row, "rewritten": True}) + "\n", encoding="utf-8")
    given = ["--data", str(path), "--out", str(tmp_path / "p"), "--language", "zh"]
    assert review.main(["pairs", *given]) == 0
    page = (tmp_path / "p.html").read_text(encoding="utf-8")
    assert page.count("<script>") == 1 and "<img" not in page
    assert '"keys": {"a": "A", "b": "B", "s": "same"}' in page
    assert "哪个回答更好？" in page and "回答 A" in page
