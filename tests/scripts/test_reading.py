"""scripts/reading: one set of rules for all files that companions read, and rows of every shape."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from helpers.runs import ROOT
from hypothesis import given
from hypothesis import strategies as st

from scripts import overlap, prepare_for_finetuning, review
from scripts.overlapping import files
from scripts.reading import records as reading
from scripts.reading.rows import first_question, rows_of
from scripts.reviewing import pairs
from scripts.training import shared
from self_instruct_workshop import WorkshopError

ROW = {"instruction": "Name a river.", "input": "", "output": "The Nile"}
LINE = json.dumps(ROW)


def put(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


# Records.


@pytest.mark.parametrize("bom", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl", "rows.txt"])
def test_an_array_and_lines_are_told_apart_by_what_they_hold(
    tmp_path: Path, name: str, end: str, bom: str
) -> None:
    lines = end.join(["", LINE, " ", LINE, ""])
    array = f"[{end}{LINE},{end}{LINE}]{end}"
    found = reading.records(put(tmp_path, name, bom + lines))
    assert found == [("line 2", ROW), ("line 4", ROW)]
    found = reading.records(put(tmp_path, name, bom + array))
    assert found == [("record 1", ROW), ("record 2", ROW)]


def test_a_json_over_several_lines_is_one_record(tmp_path: Path) -> None:
    path = put(tmp_path, "one.json", json.dumps(ROW, indent=1))
    assert reading.records(path) == [("record 1", ROW)]


DAMAGED = {
    "half a line": (f"{LINE}\n{LINE[:20]}", "rows.jsonl, line 2 is no JSON"),
    "half an array": (f"[{LINE},\n{LINE},\n", "rows.jsonl, line 3 is no JSON"),
    "NaN in a line": (f'{LINE}\n{{"a": NaN}}', "line 2 is no JSON .NaN, which no JSON has"),
    "Infinity in an array": ('[{"a": -Infinity}]', "is no JSON .-Infinity"),
    "lists in lists": ("[" * 100_000, "is no JSON .lists in lists, too deep"),
    "UTF-16": ("\ufeff[]".encode("utf-16"), "is UTF-16, not UTF-8: save it as UTF-8"),
    "GBK": ("这是一条中文指令，请回答。".encode("gbk"), "is GBK, not UTF-8"),
    "bytes": (b"\xff\x00\x81", "is not UTF-8 text"),
}
READERS = {
    "prepare": prepare_for_finetuning.read_rows,
    "review": review.read_rows,
    "pairs of two writers": pairs.read_rewritten,
    "a key of pairs": pairs.read_key,
    "a judge": review.read_judged,
    "overlap": files.rows,
    "an evaluation set": lambda path: files.items(path, []),
    "backtranslation": shared.read_rows,
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("fault", DAMAGED)
def test_every_program_says_the_same_of_a_damaged_file(
    tmp_path: Path, fault: str, reader: str
) -> None:
    content, said = DAMAGED[fault]
    path = put(tmp_path, "rows.jsonl", content)
    with pytest.raises(WorkshopError, match=said) as caught:
        READERS[reader](path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(WorkshopError, match=r"cannot read .*none.jsonl .No such file"):
        READERS[reader](tmp_path / "none.jsonl")


@pytest.mark.parametrize("reader", ["prepare", "review", "overlap", "backtranslation"])
@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl", "rows.csv", "rows.tsv"])
def test_every_program_reads_every_kind_of_file(tmp_path: Path, name: str, reader: str) -> None:
    content = {"rows.json": f"[{LINE}]", "rows.jsonl": f"\ufeff{LINE}\r\n"}.get(name, "")
    if not content:
        buffer = io.StringIO(newline="")
        writer = csv.DictWriter(buffer, ROW, delimiter="\t" if name.endswith("tsv") else ";")
        writer.writeheader()
        writer.writerow(ROW)
        content = buffer.getvalue()
    found = READERS[reader](put(tmp_path, name, content))
    first = found[1][0] if reader == "overlap" else found[0]
    assert {part: first[part] for part in ROW} == ROW


def test_parquet_is_read_where_its_package_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put(tmp_path, "rows.parquet", b"PAR1 nothing")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(WorkshopError, match=r"Parquet needs a package: run .* install pyarrow"):
        reading.records(path)
    monkeypatch.undo()
    pyarrow = pytest.importorskip("pyarrow")
    with pytest.raises(WorkshopError, match="is no Parquet that can be read"):
        reading.records(path)
    talk = {"messages": [{"role": "user", "content": "a?"}, {"role": "assistant", "content": "b"}]}
    table = pyarrow.Table.from_pylist([talk])
    __import__("pyarrow.parquet").parquet.write_table(table, path)
    assert prepare_for_finetuning.read_rows(path) == [
        {"instruction": "a?", "input": "", "output": "b"}
    ]


def test_lone_surrogates_become_question_marks_and_pairs_stay(tmp_path: Path) -> None:
    path = put(tmp_path, "rows.jsonl", '{"a": "\\ud800 \\ud83d\\ude00", "b": "\\\\ud800"}')
    assert reading.records(path) == [("line 1", {"a": "? 😀", "b": "\\ud800"})]


@given(st.text(st.characters(codec="utf-8"), max_size=40))
def test_any_text_is_a_value_or_a_value_error_and_nothing_else(text: str) -> None:
    assert reading.value_or_none(json.dumps(text)) == text
    try:
        reading.value_of(text)
    except ValueError:
        assert reading.value_or_none(text) is None


# Rows.

ASK, SAY, MORE = "What is it?", "A river.", "Which one?"
SHAPES: dict[str, Any] = {
    "messages": {
        "messages": [
            {"role": "system", "content": "Be short."},
            {"role": "user", "content": ASK},
            {"role": "assistant", "content": SAY},
            {"role": "user", "content": [{"type": "text", "text": MORE}]},
            {"role": "assistant", "content": "The Nile"},
        ]
    },
    "sharegpt": {
        "system": "Be short.",
        "conversations": [
            {"from": "human", "value": ASK},
            {"from": "gpt", "value": SAY},
            {"from": "human", "value": MORE},
            {"from": "gpt", "value": "The Nile"},
        ],
    },
    "lima": {"system": "Be short.", "conversations": [ASK, SAY, MORE, "The Nile"]},
    "alpaca": {
        "instruction": MORE,
        "input": None,
        "output": "The Nile",
        "history": [[ASK, SAY]],
        "system": " Be short. ",
    },
    "cells of a table": {
        "instruction": MORE,
        "output": "The Nile",
        "history": json.dumps([[ASK, SAY]]),
        "system": "Be short.",
    },
    "prompts": {
        "prompt": [
            {"role": "system", "content": "Be short."},
            {"role": "user", "content": ASK},
            {"role": "assistant", "content": SAY},
            {"role": "user", "content": MORE},
        ],
        "completion": [{"role": "assistant", "content": "The Nile"}],
    },
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_talk_of_any_shape_is_the_same_row(shape: str) -> None:
    (row,) = rows_of("line 1", SHAPES[shape])
    assert row == {
        "instruction": MORE,
        "input": "",
        "output": "The Nile",
        "system": "Be short.",
        "history": [[ASK, SAY]],
    }
    assert first_question(row) == ASK


def turn(role: str, content: Any) -> dict:
    return {"role": role, "content": content}


@pytest.mark.parametrize(
    ("record", "rule"),
    [
        ({"messages": [turn("user", ASK)]}, "last_turn_unanswered"),
        ({"messages": []}, "turns_out_of_order"),
        ({"messages": [turn("assistant", SAY)]}, "turns_out_of_order"),
        ({"messages": [turn("user", ASK)] * 2 + [turn("assistant", SAY)]}, "turns_out_of_order"),
        ({"messages": [turn("user", ASK), turn("tool", SAY)]}, "other_role"),
        ({"messages": [turn("user", ASK), turn("assistant", None)]}, "not_text"),
        ({"messages": [turn("user", [{"type": "image"}]), turn("assistant", SAY)]}, "not_text"),
        ({"messages": [turn("user", " "), turn("assistant", SAY)]}, "empty_turn"),
        ({"prompt": ASK, "completion": 5}, "not_text"),
        ({**ROW, "history": [["a"]]}, "history_unreadable"),
        ({**ROW, "history": "earlier"}, "history_unreadable"),
        ({**ROW, "history": [["a", " "]]}, "empty_turn"),
        ({**ROW, "system": ["Be short."]}, "not_text"),
        ({"system": 5, "conversations": [ASK, SAY]}, "not_text"),
    ],
)
def test_what_is_no_talk_is_rejected_by_name(record: dict, rule: str) -> None:
    (row,) = rows_of("line 1", record)
    assert row["rule"] == rule


def test_a_row_without_history_is_as_it_was() -> None:
    for nothing in (None, "", [], "[]"):
        assert rows_of("line 1", {**ROW, "history": nothing, "system": " "}) == [ROW]


# review.py reads what prepare_for_finetuning.py writes.


@pytest.mark.parametrize("form", sorted({*prepare_for_finetuning.FORMATS} - {"preference"}))
def test_every_format_can_be_reviewed(
    tmp_path: Path, form: str, capsys: pytest.CaptureFixture
) -> None:
    rows = [{**ROW, "instruction": f"Name river {n}.", "output": f"R{n}"} for n in range(12)]
    data = put(tmp_path, "rows.json", json.dumps(rows))
    made = ["--format", form, "--output-dir", str(tmp_path / "made")]
    assert prepare_for_finetuning.main([str(data), *made]) == 0
    (train,) = (tmp_path / "made").glob("train.json*")
    out = tmp_path / "sheet"
    assert review.main(["sample", "--data", str(train), "--out", str(out), "--format", "csv"]) == 0
    assert "12 of 12 instructions" in capsys.readouterr().out
    sheet = out.with_suffix(".csv").read_text(encoding="utf-8")
    assert all(f"R{n}" in sheet and f"Name river {n}." in sheet for n in range(12))


def test_a_preference_is_reviewed_by_its_chosen_answer(tmp_path: Path) -> None:
    record = {"prompt": [turn("user", ASK)], "chosen": [turn("assistant", SAY)], "rejected": []}
    (row,) = review.read_rows(put(tmp_path, "rows.jsonl", json.dumps(record)))
    assert (row["instruction"], row["output"]) == (ASK, SAY)


def test_people_see_a_whole_talk_and_what_is_none_is_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    lines = [json.dumps(SHAPES["sharegpt"]), json.dumps({"messages": [turn("user", ASK)]})]
    (row,) = review.read_rows(put(tmp_path, "rows.jsonl", "\n".join(lines)))
    whole = f"system: Be short.\n\nuser: {ASK}\n\nassistant: {SAY}\n\nuser: {MORE}"
    assert row["instruction"] == whole
    assert "1 talks are left out (last_turn_unanswered 1)" in capsys.readouterr().err


def test_overlap_takes_lines_of_nan_for_a_fault_and_not_for_data(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    exam = put(tmp_path, "exam.jsonl", '{"question": "a b c", "score": NaN}\n')
    data = put(tmp_path, "rows.jsonl", LINE)
    assert overlap.main([str(exam), "--data", str(data)]) == 1
    assert "line 1 is no JSON (NaN" in capsys.readouterr().err


def test_no_program_has_a_json_reader_of_its_own() -> None:
    """What reads a user's file of rows goes through one door."""
    allowed = {"asking", "training", "reading", "explaining"}  # journals, records of their own
    found = []
    for path in (ROOT / "scripts").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if path.parent.name not in allowed and "json.loads(line" in text:
            found.append(path.name)
    assert found == []
