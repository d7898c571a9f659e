"""Seed files: every shape that people write, and a clear word about every shape that cannot be
read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from self_instruct_workshop import (
    DEFAULT_SEEDS,
    Config,
    Task,
    WorkshopError,
    load_seed_tasks,
    run,
)

OFFICIAL = {
    "id": "seed_task_7",
    "instruction": "Count the vowels of the word.",
    "instances": [{"input": "banana", "output": "3"}],
    "is_classification": False,
}
TWO = [{"instruction": "Name a river."}, {"instruction": "Name a lake."}]


def seeds(path: Path, text: str | bytes) -> list[Task]:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_seed_tasks(path)


def words(tasks: list[Task]) -> list[str]:
    return [task.instruction for task in tasks]


def complaint(path: Path, text: str | bytes | None = None) -> str:
    """The one line that a seed file is refused with."""
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(WorkshopError) as refused:
        load_seed_tasks(path)
    assert len(str(refused.value).splitlines()) == 1 and path.name in str(refused.value)
    return str(refused.value)


def test_an_official_record_keeps_all_its_fields(tmp_path: Path) -> None:
    (task,) = seeds(tmp_path / "seeds.jsonl", json.dumps(OFFICIAL | {"name": "vowel_count"}) + "\n")
    assert {name: getattr(task, name) for name in OFFICIAL} == OFFICIAL


def test_jsonl_json_and_txt_hold_the_same_tasks(tmp_path: Path) -> None:
    lines = seeds(tmp_path / "a.jsonl", "\n".join(map(json.dumps, TWO)))
    array = seeds(tmp_path / "a.json", json.dumps(TWO, indent=2))
    text = seeds(tmp_path / "a.txt", "Name a river.\nName a lake.")
    assert words(lines) == words(array) == words(text) == ["Name a river.", "Name a lake."]
    assert lines == array == text


@pytest.mark.parametrize("key", ["instruction", "Instruction", "task", "Task"])
@pytest.mark.parametrize("kind", ["jsonl", "json"])
def test_four_names_of_the_instruction_are_understood(tmp_path: Path, key: str, kind: str) -> None:
    record = json.dumps({key: "Name a river."})
    assert words(seeds(tmp_path / f"a.{kind}", f"[{record}]" if kind == "json" else record)) == [
        "Name a river."
    ]


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "BOM"])
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["LF", "CRLF"])
@pytest.mark.parametrize("kind", ["jsonl", "json", "txt"])
def test_byte_order_marks_and_windows_line_ends_leave_no_trace(
    tmp_path: Path, kind: str, end: str, mark: bytes
) -> None:
    text = {
        "jsonl": "\n".join(map(json.dumps, TWO)),
        "json": json.dumps(TWO, indent=1),
        "txt": "{0}\n\n{1}\n",
    }[kind]
    text = text.replace("{0}", "Name a river.").replace("{1}", "Name a lake.").replace("\n", end)
    assert words(seeds(tmp_path / f"a.{kind}", mark + text.encode())) == [
        "Name a river.",
        "Name a lake.",
    ]


@pytest.mark.parametrize("sign", ["\u2028", "\u2029", "\x85"], ids=ascii)
def test_only_a_newline_ends_a_record(tmp_path: Path, sign: str) -> None:
    instruction = f"Join the two{sign}halves."
    record = json.dumps({"instruction": instruction}, ensure_ascii=False)
    assert words(seeds(tmp_path / "a.jsonl", f"{record}\n")) == [instruction]
    assert words(seeds(tmp_path / "a.txt", f"{instruction}\nName a lake.\n")) == [
        instruction,
        "Name a lake.",
    ]


def test_exact_duplicates_are_merged_with_a_notice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks = seeds(
        tmp_path / "a.txt", "Name a river.\nName a lake.\n  Name a river.  \nname a river.\n"
    )
    assert words(tasks) == ["Name a river.", "Name a lake.", "name a river."]
    said = capsys.readouterr()
    assert (
        said.out == ""
        and "notice" in said.err
        and "1 duplicate" in said.err
        and "a.txt" in said.err
    )


def test_of_duplicates_the_first_stays_and_ids_stay_distinct(tmp_path: Path) -> None:
    rows = [{"instruction": "Sort.", "is_classification": True}, {"instruction": "Sort."}, *TWO]
    tasks = seeds(tmp_path / "a.json", json.dumps(rows))
    assert (
        tasks[0].is_classification is True and len({task.id for task in tasks}) == len(tasks) == 3
    )


def test_without_duplicates_nothing_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seeds(tmp_path / "a.json", json.dumps(TWO))
    assert capsys.readouterr() == ("", "")


def test_inputs_may_be_empty_or_missing_or_a_number(tmp_path: Path) -> None:
    pairs = [
        {"input": "", "output": "a"},
        {"output": "b"},
        {"input": None, "output": "c"},
        {"input": 5, "output": "d"},
    ]
    (task,) = seeds(
        tmp_path / "a.json", json.dumps([{"instruction": "Say it.", "instances": pairs}])
    )
    assert [pair["input"] for pair in task.instances] == ["", "", "", "5"]
    assert [pair["output"] for pair in task.instances] == ["a", "b", "c", "d"]


def test_a_record_without_a_flag_is_not_called_classification(tmp_path: Path) -> None:
    assert [task.is_classification for task in seeds(tmp_path / "a.json", json.dumps(TWO))] == [
        None,
        None,
    ]


@pytest.mark.parametrize(
    ("kind", "text", "says"),
    [
        ("jsonl", '{"instruction": "Sort."}\n\n{"instruction": "Sing"\n', "line 3"),
        ("jsonl", '{"instruction": "Sort."}\r\nplain words\r\n', "line 2"),
        ("json", '[\n {"instruction": "Sort."},\n {"instruction" "Sing."}\n]', "line 3"),
        ("json", '{"instruction": "Sort."}\n{"instruction": "Sing"', "line 2"),
        ("json", "7", "array"),
        ("json", "null", "array"),
        ("jsonl", '[{"instruction": "Sort."}]', "line 1"),
        ("json", '{\n"instruction": "Sort."\n}', "a JSON array of records is expected"),
        ("json", "[" * 100_000, "array"),
        ("jsonl", "[" * 100_000, "line 1"),
        ("json", '["Sort."]', "record 1"),
        ("json", '[{"instruction": "Sort."}, {"name": "x"}]', "record 2"),
        ("jsonl", '{"instruction": "Sort."}\n{"name": "x"}\n', "line 2"),
        ("jsonl", '{"instruction": ""}\n', "line 1"),
        ("jsonl", '{"instruction": "  \\n "}\n', "line 1"),
        ("jsonl", '{"instruction": 5}\n', "line 1"),
        ("jsonl", '{"instruction": null}\n', "line 1"),
        ("jsonl", "null\n", "line 1"),
        ("jsonl", '{"instruction": "Sort.", "is_classification": "yes"}', "line 1"),
        ("jsonl", '{"instruction": "Sort.", "instances": {"input": "a", "output": "b"}}', "line 1"),
        ("jsonl", '{"instruction": "Sort.", "instances": [{"input": "a"}]}', "line 1"),
        ("jsonl", '{"instruction": "Sort.", "instances": ["a"]}', "line 1"),
        ("jsonl", '{"instruction": "Sort.", "instances": "a"}', "line 1"),
        ("jsonl", '{"instruction": "Sort.", "instances": [{"input": "a", "output": 5}]}', "line 1"),
    ],
)
def test_a_record_that_cannot_be_used_is_refused_by_its_place(
    tmp_path: Path, kind: str, text: str, says: str
) -> None:
    assert says in complaint(tmp_path / f"a.{kind}", text)


@pytest.mark.parametrize("kind", ["jsonl", "json", "txt"])
@pytest.mark.parametrize(
    "text", ["", " \r\n\n", "\ufeff"], ids=["nothing", "blank lines", "BOM alone"]
)
def test_an_empty_file_is_refused(tmp_path: Path, kind: str, text: str) -> None:
    complaint(tmp_path / f"a.{kind}", text)


def test_an_empty_array_is_refused(tmp_path: Path) -> None:
    assert "no seed task" in complaint(tmp_path / "a.json", "[]")


@pytest.mark.parametrize("kind", ["jsonl", "json", "txt"])
@pytest.mark.parametrize(
    "raw", ["Zähle.".encode("latin-1"), "Name a river.".encode("utf-16")], ids=["latin-1", "16"]
)
def test_a_file_that_is_not_utf_8_is_refused(tmp_path: Path, kind: str, raw: bytes) -> None:
    assert "not UTF-8" in complaint(tmp_path / f"a.{kind}", raw)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    assert "none.jsonl: No such file" in complaint(tmp_path / "none.jsonl")
    (tmp_path / "folder.jsonl").mkdir()
    assert "folder.jsonl: " in complaint(tmp_path / "folder.jsonl")


def test_a_run_with_a_bad_seed_file_never_falls_back_to_the_default_seeds(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    for name in ("none.txt", "empty.txt"):
        with pytest.raises(WorkshopError, match=name):
            run(
                Config(
                    seed_file=str(tmp_path / name),
                    work_dir=str(tmp_path / "work"),
                    provider="practice",
                )
            )
    assert not (tmp_path / "work").exists()


def test_a_lone_surrogate_in_a_seed_does_not_break_the_run(tmp_path: Path) -> None:
    record = {"instruction": "Explain \ud83d in words.", "instances": [{"output": "\ud83d"}]}
    tasks = seeds(tmp_path / "a.jsonl", json.dumps(record))
    for text in (tasks[0].instruction, tasks[0].instances[0]["output"]):
        assert text.encode("utf-8")


def test_the_suffix_may_be_written_in_capitals(tmp_path: Path) -> None:
    assert words(seeds(tmp_path / "SEEDS.TXT", "Name a river.\n")) == ["Name a river."]
    assert words(seeds(tmp_path / "SEEDS.JSON", json.dumps(TWO))) == words(
        seeds(tmp_path / "a.json", json.dumps(TWO))
    )


@pytest.mark.parametrize("language", DEFAULT_SEEDS)
def test_the_default_seeds_are_whole_and_hold_classification_tasks(language: str) -> None:
    tasks = load_seed_tasks(DEFAULT_SEEDS[language])
    assert len(tasks) >= 40 and len({task.id for task in tasks}) == len(tasks)
    assert all(task.instances and task.is_classification is not None for task in tasks)
    share = sum(bool(task.is_classification) for task in tasks) / len(tasks)
    assert 0.1 <= share <= 0.3
    assert any(not pair["input"] for task in tasks for pair in task.instances)


def test_a_file_with_another_ending_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "seeds.csv").write_text("instruction\nSort the words.\n", encoding="utf-8")
    assert "seeds.csv must be .jsonl, .json or .txt" in complaint(tmp_path / "seeds.csv")


# --------------------------------------------------------------------------------------------------
# Files as people have them.


def test_json_lines_in_a_file_called_json_are_read(tmp_path: Path) -> None:
    lines = "\n".join(map(json.dumps, TWO)) + "\n"
    assert words(seeds(tmp_path / "a.json", lines)) == ["Name a river.", "Name a lake."]
    assert words(seeds(tmp_path / "b.json", json.dumps(TWO[0]))) == ["Name a river."]


@pytest.mark.parametrize("kind", ["json", "jsonl"])
def test_an_alpaca_row_keeps_its_input_and_output_as_an_instance(tmp_path: Path, kind: str) -> None:
    found = [
        {"instruction": "Translate it.", "input": "chat", "output": "cat"},
        {"instruction": "Say hello.", "input": "", "output": "Hello!"},
        {"instruction": "Count.", "input": None, "output": "1, 2"},
        {"instruction": "Sing.", "input": "", "output": ""},
    ]
    text = json.dumps(found) if kind == "json" else "\n".join(map(json.dumps, found))
    tasks = seeds(tmp_path / f"a.{kind}", text)
    assert [task.instances for task in tasks] == [
        [{"input": "chat", "output": "cat"}],
        [{"input": "", "output": "Hello!"}],
        [{"input": "", "output": "1, 2"}],
        [],
    ]


def test_an_instruction_that_stands_twice_keeps_the_instances_of_both(tmp_path: Path) -> None:
    found = [{"instruction": "Double it.", "input": n, "output": str(2 * n)} for n in (1, 2, 1)]
    [task] = seeds(tmp_path / "a.json", json.dumps(found))
    assert [pair["input"] for pair in task.instances] == ["1", "2"]


@pytest.mark.parametrize(
    "mark", ["1. ", "12. ", "3) ", "(4) ", "- ", "* ", "• ", "  - ", "1、", "（2）", "３．"]
)
def test_the_mark_of_a_list_is_no_text(tmp_path: Path, mark: str) -> None:
    tasks = seeds(tmp_path / "a.txt", f"{mark}Name a river.\n{mark}Name a lake.\n")
    assert words(tasks) == ["Name a river.", "Name a lake."]


@pytest.mark.parametrize(
    "text",
    ["3.5 percent of what is 7?", "-5 + 3 is what?", "1984: who wrote it?", "*args: what is it?"],
)
def test_a_number_that_is_no_mark_stays(tmp_path: Path, text: str) -> None:
    assert words(seeds(tmp_path / "a.txt", text + "\n")) == [text]


def test_a_line_that_holds_only_a_mark_is_left_out(tmp_path: Path) -> None:
    assert words(seeds(tmp_path / "a.txt", "1. Name a river.\n2. \n3.\n- \n")) == ["Name a river."]


@pytest.mark.parametrize("mark", ["[classification] ", "[Classification]", "【分类】", "[分类] "])
def test_a_txt_marks_classification_tasks(tmp_path: Path, mark: str) -> None:
    tasks = seeds(tmp_path / "a.txt", f"1. {mark}Is it spam or not?\n2. Name a lake.\n")
    assert words(tasks) == ["Is it spam or not?", "Name a lake."]
    assert [task.is_classification for task in tasks] == [True, False]


def test_a_txt_without_marks_says_nothing_about_classification(tmp_path: Path) -> None:
    tasks = seeds(tmp_path / "a.txt", "Is it spam or not?\nName a lake.\n")
    assert [task.is_classification for task in tasks] == [None, None]


@pytest.mark.parametrize("kind", ["jsonl", "json", "txt"])
def test_gbk_and_utf_16_are_named_and_latin_1_is_not_taken_for_gbk(
    tmp_path: Path, kind: str
) -> None:
    path = tmp_path / f"a.{kind}"
    assert "is GBK, not UTF-8: save it as UTF-8" in complaint(path, "写一首诗。".encode("gbk"))
    assert "is UTF-16, not UTF-8" in complaint(path, "写一首诗。".encode("utf-16"))
    for text in ("Zähle für mich.", "Où est le café ?", "Mañana, ¿qué día?"):
        assert "is not UTF-8 text" in complaint(path, text.encode("latin-1"))


@pytest.mark.parametrize(
    ("language", "text", "said"),
    [
        ("en", "写一首关于雨的诗。\n把这句话译成英文。\nName a lake.", "are Chinese"),
        ("zh", "Name a river.\nName a lake.\n写诗。", "大多不是中文"),
        ("en", "Name a river.\nName a lake.\n写诗。", ""),
        ("zh", "写一首关于雨的诗。\nName a lake.\n写诗。", ""),
        ("en", "日本語で詩を書いてください。", ""),
    ],
)
def test_seeds_in_another_language_than_the_prompts_get_a_notice(
    tmp_path: Path, language: str, text: str, said: str
) -> None:
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    talk: list[str] = []
    config = Config(
        seed_file=str(tmp_path / "a.txt"),
        language=language,
        work_dir=str(tmp_path / "work"),
        provider="practice",
        num_instructions=1,
        until="generate",
    )
    run(config, say=talk.append)
    mark = {"en": "notice: most seed", "zh": "注意：种子任务大多"}[language]
    notices = [line for line in talk[0].split("\n") if mark in line]
    assert len(notices) == bool(said)
    if said:
        fits = {"en": "--language zh has prompts", "zh": "--language en 有合适的提示词"}[language]
        assert said in notices[0] and fits in notices[0]
