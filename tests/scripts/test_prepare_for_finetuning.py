"""prepare_for_finetuning.py: nothing is cut, nothing leaks between the sides of a split, and all
counts add up."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.runs import ROOT
from hypothesis import given
from hypothesis import strategies as st

from scripts import judge, overlap, rewrite
from scripts.preparing.choose import same
from scripts.provenance import write_provenance
from scripts.reading.rows import rows_of
from self_instruct_workshop import PROVENANCE, Config, filter_instances, load_seed_tasks, run

sys.path.insert(0, str(ROOT / "scripts"))
import prepare_for_finetuning as prepare

FORMATS = sorted({*prepare.FORMATS} - {"preference"})  # which has rows of its own
every_format = pytest.mark.parametrize("form", FORMATS)
MEETING = {
    "instruction": "When does it begin?",
    "input": "The meeting is at 10:30 tomorrow.",
    "output": "At 10:30.",
}
SITE = {
    "instruction": "Which protocol is it?",
    "input": "https://example.org:8080/a\n\nb",
    "output": "https",
}
CHINESE = {"instruction": "几点开会？", "input": "明天10:30开会。", "output": "10:30"}
BARE = {"instruction": "Name a river.", "input": "", "output": "The Nile"}
ROWS = [MEETING, SITE, CHINESE, BARE]


def write(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row) for row in rows]
    path.write_text(
        f"[{','.join(lines)}]" if path.suffix == ".json" else "\n".join(lines), encoding="utf-8"
    )
    return path


@pytest.fixture
def make(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., dict[str, list[dict]]]:
    """Prepare rows, or a file; return what was written, part by part."""

    def do(source: list[dict] | Path, *flags: str) -> dict[str, list[dict]]:
        path = source if isinstance(source, Path) else write(tmp_path / "in" / "rows.jsonl", source)
        code = prepare.main([str(path), "--output-dir", str(tmp_path / "out"), *flags])
        assert code == 0, capsys.readouterr().err
        return {path.stem: read(path) for path in (tmp_path / "out").glob("[tv][ra]*.json*")}

    return do


def read(path: Path) -> list[dict]:
    text = path.read_text(encoding="utf-8")
    return (
        json.loads(text)
        if path.suffix == ".json"
        else [json.loads(line) for line in text.strip("\n").split("\n")]
    )


def texts(row: dict) -> str:
    """All that a trainer sees of a row."""
    lists = [part for part in row.values() if isinstance(part, list)]
    turns = [turn for part in lists for turn in part]
    return "\n".join([text for turn in turns for text in turn.values()] if turns else row.values())


def counted(out: str) -> dict[str, int]:
    """The column of instances."""
    lines = [
        re.fullmatch(r"(?:read: |  - )?(\S+) .*? ([\d,]+)", line) for line in out.split("\n")[1:]
    ]
    return {found[1]: int(found[2].replace(",", "")) for found in lines if found}


# Formats.


def test_each_format_is_what_its_trainers_take(make: Callable) -> None:
    question = MEETING["instruction"] + "\n\n" + MEETING["input"]
    said = [("user", question), ("assistant", "At 10:30.")]
    assert make([MEETING], "--format", "alpaca") == {"train": [MEETING]}
    assert make([MEETING], "--format", "messages") == {
        "train": [{"messages": [{"role": role, "content": text} for role, text in said]}]
    }
    said = [("human", question), ("gpt", "At 10:30.")]
    assert make([MEETING], "--format", "sharegpt") == {
        "train": [{"conversations": [{"from": role, "value": text} for role, text in said]}]
    }
    asked = [{"role": "user", "content": question}]
    answered = [{"role": "assistant", "content": "At 10:30."}]
    assert make([MEETING], "--format", "chat-completion") == {
        "train": [{"prompt": asked, "completion": answered}]
    }
    (row,) = make([MEETING], "--format", "prompt-completion")["train"]
    assert list(row) == ["prompt", "completion"] and row["completion"].strip() == "At 10:30."


@every_format
def test_no_text_is_cut_at_a_colon_as_the_official_code_does(make: Callable, form: str) -> None:
    for seed in range(8):  # the official code does it half of the time
        shown = [texts(row) for row in make(ROWS, "--format", form, "--seed", str(seed))["train"]]
        for row in ROWS:
            assert any(all(text in one for text in row.values()) for one in shown), row


def test_messages_obey_the_rules_of_openai(
    make: Callable, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    rows = [{**MEETING, "instruction": f"第{n}场会几点开？"} for n in range(10)]
    make(rows, "--format", "messages")
    raw = (tmp_path / "out" / "train.jsonl").read_bytes()
    assert not raw.startswith(b"\xef\xbb\xbf") and b"\r" not in raw and raw.endswith(b"}\n")
    lines = raw.decode("utf-8").strip("\n").split("\n")
    assert len(lines) == 10 and "OpenAI" not in capsys.readouterr().err
    for line in lines:
        (turns,) = json.loads(line).values()
        assert [turn["role"] for turn in turns] == ["user", "assistant"]
        assert all(turn["content"].strip() and list(turn) == ["role", "content"] for turn in turns)
    make(rows[:9], "--format", "messages")
    assert (
        "notice: OpenAI asks for at least 10 lines, and train.jsonl has 9"
        in capsys.readouterr().err
    )


def shapes(rows: list[dict], source: str) -> Counter[str]:
    """The prompts with their texts taken out."""
    return Counter(
        re.sub(r"Name it \d+\.", "X", row["prompt"]).replace(source or "\0", "Y") for row in rows
    )


def test_prompts_have_the_7_and_the_6_shapes_of_the_paper_each_about_as_often(
    make: Callable,
) -> None:
    for source, wanted in (("the input", 7), ("", 6)):
        rows = [
            {"instruction": f"Name it {n}.", "input": source, "output": "done"} for n in range(700)
        ]
        made = make(rows, "--format", "prompt-completion")["train"]
        found = shapes(made, source)
        assert len(found) == wanted and min(found.values()) > 60, found
        for row in made:
            assert row["completion"] == " done"
            assert row["prompt"].endswith(("Output:", "\n"))
    assert {"X Output:", "X\nOutput:", "X\n\nOutput:", "X\n", "X\n\n", "Task: X\n\n"} == set(found)


def test_a_prompt_shape_belongs_to_its_instance_not_to_the_rows_around_it(make: Callable) -> None:
    rows = [{"instruction": f"Name it {n}.", "input": "a", "output": "b"} for n in range(30)]
    of_all = {row["prompt"] for row in make(rows, "--format", "prompt-completion")["train"]}
    of_some = {row["prompt"] for row in make(rows[10:], "--format", "prompt-completion")["train"]}
    other = {
        row["prompt"] for row in make(rows, "--format", "prompt-completion", "--seed", "1")["train"]
    }
    assert of_some < of_all and other != of_all


def test_chinese_prompts_have_chinese_field_names(make: Callable) -> None:
    rows = [{**CHINESE, "instruction": f"第{n}场会几点开？"} for n in range(60)]
    prompts = [row["prompt"] for row in make(rows, "--format", "prompt-completion")["train"]]
    assert not any(re.search("Input|Output|Task", prompt) for prompt in prompts)
    assert any(p.startswith("任务：") for p in prompts) and any(
        "\n输入：明天" in p for p in prompts
    )
    assert any(p.endswith("\n输出：\n") for p in prompts)


@given(
    st.lists(st.tuples(*[st.text(min_size=1, max_size=12)] * 3), min_size=1, max_size=8),
    st.sampled_from(FORMATS),
)
def test_any_text_stands_whole_in_every_format(
    triples: list[tuple[str, str, str]], form: str
) -> None:
    for triple in triples:
        row = dict(zip(("instruction", "input", "output"), triple, strict=True))
        shown = texts(prepare.FORMATS[form].encode(row, "en", 42))
        assert all(text in shown for text in triple)


# What comes in.


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "array_named.jsonl", "lines_named.json"])
@pytest.mark.parametrize("bom", ["", "\ufeff"])
def test_arrays_and_lines_are_told_apart_by_their_content(
    make: Callable, tmp_path: Path, name: str, bom: str
) -> None:
    lines = [json.dumps(row, ensure_ascii=name[0] == "a") for row in ROWS]
    array = name in ("a.json", "array_named.jsonl")
    text = bom + ("[\n" + ",\r\n".join(lines) + "]" if array else "\r\n".join([*lines, "", " "]))
    (tmp_path / name).write_text(text, encoding="utf-8", newline="")
    assert sorted(map(str, make(tmp_path / name)["train"])) == sorted(map(str, ROWS))


def test_tasks_with_instances_and_rows_without_input_are_read(make: Callable) -> None:
    task = {"id": "7", "instruction": " Add one. ", "is_classification": False, "instances": []}
    task["instances"] = [{"input": "1", "output": "2"}, {"input": None, "output": "one more"}]
    rows = make(
        [
            task,
            {"instruction": "Name a river.", "input": " \n", "output": "The Nile", "text": "..."},
        ]
    )["train"]
    found = {(row["instruction"], row["input"], row["output"]) for row in rows}
    assert found == {
        ("Add one.", "1", "2"),
        ("Add one.", "", "one more"),
        ("Name a river.", "", "The Nile"),
    }


def test_words_that_stand_for_no_input_are_none() -> None:
    words = ["<noinput>", "N/A", "(none)", "无", "无需输入", " "]
    records = [{"instruction": "Name it.", "input": word, "output": "a"} for word in words]
    read = [row["input"] for record in records for row in rows_of("line 1", record)]
    assert read == [""] * len(words)


def test_the_project_s_own_seed_files_are_read(make: Callable) -> None:
    for name in ("seed_tasks.jsonl", "seed_tasks_zh.jsonl"):
        tasks = load_seed_tasks(ROOT / "data" / name)
        rows = make(ROOT / "data" / name)["train"]
        assert len(rows) == sum(len(task.instances) for task in tasks)


def test_lone_surrogates_and_control_characters_do_no_harm(
    make: Callable, capsys: pytest.CaptureFixture
) -> None:
    rows = make(
        [{"instruction": "Say \ud800.", "input": "\x1b[31m", "output": "\x00\u2028"}],
        "--split",
        "0",
    )["train"]
    assert rows == [{"instruction": "Say ?.", "input": "\x1b[31m", "output": "\x00\u2028"}]
    assert "\x1b" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "cannot read .*No such file.*run self_instruct.py"),
        ("", "holds no instance"),
        ("[]", "holds no instance"),
        ('{"instruction": "a", "instances": []}', "holds no instance"),
        ('{"instruction": "a", "output": "b"}\n{"instruction": ', "line 2 is no JSON"),
        ('[{"instruction": "a", "output": "b"}, 5]', "record 2: a JSON record"),
        ("[1, 2", "line 1 is no JSON"),
        ("[" * 100_000, "is no JSON .*too deep"),
        ("null", "line 1: a JSON record"),
        ('{"instruction": "a", "output": 5}', "line 1: a JSON record"),
        ('{"instruction": " ", "output": "b"}', "line 1: a JSON record"),
        ('{"instruction": "a", "instances": [{"input": "b"}]}', "line 1: a JSON record"),
        ('{"messages": [{"role": "user", "content": "a"}]}', "is left: last_turn_unanswered"),
        ('{"messages": "hello"}', "line 1: a JSON record"),
        ('{"instruction": "a", "input": NaN, "output": "b"}', "line 1 is no JSON .NaN"),
        (b'{"instruction": "\xff", "output": "b"}', "save it as UTF-8"),
        ('{"instruction": "a", "output": ""}', "nothing of .* is left: empty_output"),
    ],
)
def test_what_people_can_put_right_is_one_line_on_stderr(
    tmp_path: Path, content: str | bytes | None, told: str, capsys: pytest.CaptureFixture
) -> None:
    path = tmp_path / "rows.jsonl"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert prepare.main([str(path), "--output-dir", str(tmp_path / "out")]) == 1
    said = capsys.readouterr()
    assert said.out == "" and re.fullmatch(rf"error: .*{told}.*\n", said.err), said.err
    assert not (tmp_path / "out").exists()


# What is kept.


def test_the_rules_of_stage_4_turn_rows_away_and_everything_is_counted(
    make: Callable, capsys: pytest.CaptureFixture
) -> None:
    bad = [
        {"instruction": "Spell it.", "input": "a", "output": ""},
        {"instruction": "Spell it.", "input": "b", "output": "b"},
        {"instruction": "Spell it.", "input": "c", "output": "The letters:"},
        {"instruction": "Spell it.", "input": "d", "output": "one"},
        {"instruction": "Spell it.", "input": "d", "output": "two"},
        dict(MEETING),
    ]
    assert len(make([*ROWS, *bad])["train"]) == len(ROWS)
    found = counted(capsys.readouterr().out)
    _, rejected = filter_instances("Spell it.", [(row["input"], row["output"]) for row in bad[:-1]])
    rules = Counter(rule for *_, rule in rejected) + Counter(["duplicate"])
    assert found == {"rows.jsonl": 10, **rules, "train.json": 4}


def test_counts_add_up_with_every_flag(make: Callable, capsys: pytest.CaptureFixture) -> None:
    rows = [
        {"instruction": f"Name it {n}.", "input": str(i), "output": f"it {i % 9}"}
        for n in range(40)
        for i in range(9)
    ]
    flags = [
        "--max-instances",
        "3",
        "--num-instructions",
        "30",
        "--include-seed-tasks",
        "--split",
        "0.2",
    ]
    made = make([*rows, *rows[:7]], *flags, "--format", "sharegpt")
    found = counted(capsys.readouterr().out)
    seeds = sum(len(task.instances) for task in load_seed_tasks(ROOT / "data" / "seed_tasks.jsonl"))
    assert found["rows.jsonl"] == 367 and found["seed_tasks.jsonl"] == seeds
    assert (
        found["duplicate"] == 7
        and found["not_drawn"] == 30
        and found["over_max_instances"] >= 40 * 6
    )
    assert found["train.json"] == len(made["train"]) and found["validation.json"] == len(
        made["validation"]
    )
    taken = {"duplicate", "not_drawn", "over_max_instances"}
    left = found["rows.jsonl"] + seeds - sum(found[rule] for rule in taken)
    assert set(found) == {"rows.jsonl", "seed_tasks.jsonl", "train.json", "validation.json"} | taken
    assert left == len(made["train"]) + len(made["validation"])


def test_a_smaller_number_of_instructions_is_part_of_a_larger_one_with_all_their_instances(
    make: Callable,
) -> None:
    rows = [
        {"instruction": f"Name it {n}.", "input": str(i), "output": f"it {i}"}
        for n in range(20)
        for i in "abc"
    ]
    small, large = (make(rows, "--num-instructions", n)["train"] for n in ("5", "12"))
    assert [len({row["instruction"] for row in part}) for part in (small, large)] == [5, 12]
    assert len(small) == 15 and len(large) == 36 and all(row in large for row in small)
    other = make(rows, "--num-instructions", "5", "--seed", "1")["train"]
    assert {row["instruction"] for row in other} != {row["instruction"] for row in small}


def test_too_few_instructions_are_noticed(make: Callable, capsys: pytest.CaptureFixture) -> None:
    make(ROWS, "--num-instructions", "9", "--include-seed-tasks")
    assert (
        "notice: 4 instructions are all there are, and --num-instructions asks for 9"
        in capsys.readouterr().err
    )


def test_seed_tasks_come_in_the_language_of_the_data_or_from_a_file(
    make: Callable, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    make([CHINESE], "--include-seed-tasks")
    assert "seed_tasks_zh.jsonl" in capsys.readouterr().out
    own = write(
        tmp_path / "own.jsonl", [{"instruction": "Name a sea.", "instances": [{"output": "Aral"}]}]
    )
    rows = make([CHINESE], "--include-seed-tasks", "--seed-file", str(own))["train"]
    assert sorted(row["instruction"] for row in rows) == ["Name a sea.", "几点开会？"]
    make([{**CHINESE, "instruction": "会議は何時に始まりますか。"}], "--include-seed-tasks")
    assert "seed_tasks.jsonl" in capsys.readouterr().out  # Japanese is not Chinese
    (tmp_path / "own.txt").write_text("Name a sea.\n", encoding="utf-8")
    capsys.readouterr()
    make([CHINESE], "--include-seed-tasks", "--seed-file", str(tmp_path / "own.txt"))
    assert "1 of 1 seed tasks have no instance" in capsys.readouterr().err


def test_a_row_that_is_a_seed_task_too_is_there_once(
    make: Callable, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    seed = {"instruction": BARE["instruction"], "instances": [{"output": BARE["output"]}]}
    own = write(tmp_path / "own.jsonl", [seed])
    assert make([BARE], "--include-seed-tasks", "--seed-file", str(own)) == {"train": [BARE]}
    assert counted(capsys.readouterr().out)["duplicate"] == 1


def test_rows_are_shuffled_the_same_way_each_time(make: Callable) -> None:
    rows = [{"instruction": f"Name it {n}.", "input": "", "output": "b"} for n in range(50)]
    once, again = make(rows)["train"], make(rows)["train"]
    assert once == again != rows and sorted(map(str, once)) == sorted(map(str, rows))


# The split.


def test_the_same_instruction_is_never_on_both_sides_however_it_is_written(make: Callable) -> None:
    spellings = ["Name it {}.", "NAME  it {}.", "ｎａｍｅ it\u3000{}.", "name\nit {}."]
    rows = [
        {"instruction": spelling.format(n), "input": f"{i}", "output": f"it {i}"}
        for n in range(50)
        for i, spelling in enumerate(spellings)
    ]
    for seed in range(5):
        made = make(rows, "--split", "0.3", "--seed", str(seed))
        train, validation = (
            {same(row["instruction"]) for row in made[part]} for part in sorted(made)
        )
        assert len(validation) == 15 and len(train) == 35 and not train & validation
        assert len(made["train"]) + len(made["validation"]) == len(rows)


def test_instructions_that_differ_in_more_than_writing_are_two() -> None:
    assert same("ＮＡＭＥ\u3000it\n") == same("name  IT")
    for one, other in (("a b", "ab"), ("Name it 1.", "Name it 2."), ("几点？", "几時？")):
        assert same(one) != same(other)


def test_the_split_is_by_instructions_not_by_instances(make: Callable) -> None:
    rows = [
        {"instruction": f"Name it {n}.", "input": str(i), "output": "x"}
        for n in range(20)
        for i in range(1 + n % 5)
    ]
    made = make(rows, "--split", "0.1")
    assert len({row["instruction"] for row in made["validation"]}) == 2
    assert len(make(rows[:3], "--split", "0.01")["validation"]) >= 1


def test_what_is_held_out_of_a_run_mostly_stays_held_out_when_it_grows(make: Callable) -> None:
    rows = [{"instruction": f"Name it {n}.", "input": "a", "output": "b"} for n in range(400)]
    before = {row["instruction"] for row in make(rows[:200], "--split", "0.1")["validation"]}
    after = {row["instruction"] for row in make(rows, "--split", "0.1")["train"]}
    assert len(before & after) < 8  # of 20; by chance it would be 18


def test_a_call_without_split_leaves_no_validation_file_of_an_earlier_one(make: Callable) -> None:
    assert set(make(ROWS, "--split", "0.5")) == {"train", "validation"}
    assert set(make(ROWS)) == {"train"}
    assert set(make(ROWS, "--format", "messages")) == {
        "train"
    }  # and no train.json of another format


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--split", "0.6"], "--split must be from 0 to 0.5, not 0.6"),
        (["--split", "nan"], "--split must be from 0 to 0.5"),
        (["--num-instructions", "0"], "--num-instructions must be at least 1, not 0"),
        (["--max-instances", "-1"], "--max-instances must be at least 1, not -1"),
        (["--seed-file", "a.jsonl"], "--seed-file is for --include-seed-tasks"),
        (["--output-dir", "in"], "--output-dir must be another folder"),
        (["--public"], "--public is for --push-to"),
        (["--push-to", "pairs"], "--push-to must be USER/NAME, not 'pairs'"),
        (["--push-to", "me/../x"], "--push-to must be USER/NAME"),
        (
            ["--keep-id", "--format", "messages"],
            "--keep-id is not for --format messages: OpenAI takes no further column",
        ),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    tmp_path: Path,
    flags: list[str],
    told: str,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = write(tmp_path / "in" / "rows.jsonl", ROWS)
    monkeypatch.chdir(tmp_path)
    assert prepare.main([str(path), *flags]) == 2
    assert re.fullmatch(rf"error: {told}.*\n", capsys.readouterr().err)
    assert [file.name for file in (tmp_path / "in").iterdir()] == ["rows.jsonl"]


def test_one_instruction_cannot_be_split(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = write(tmp_path / "rows.jsonl", [BARE])
    assert prepare.main([str(path), "--split", "0.1", "--output-dir", str(tmp_path / "out")]) == 1
    assert "leave out --split" in capsys.readouterr().err


# What goes out beside the data.


def front_matter(text: str) -> str:
    return re.match(r"---\n(.*?)\n---\n", text, re.S)[1]


@pytest.fixture
def practice(settings: Callable[..., Config]) -> Path:
    config = settings(num_instructions=30, provider="practice")
    run(config, say=lambda text: None)
    return Path(config.work_dir) / "step4_final.jsonl"


def test_the_card_names_the_files_the_sizes_and_the_run(
    make: Callable, practice: Path, tmp_path: Path
) -> None:
    made = make(practice, "--split", "0.1")
    text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    yaml = front_matter(text)
    for part, rows in made.items():
        assert f"- split: {part}\n    path: {part}.json\n" in yaml + "\n"
        n = len({row["instruction"] for row in rows})
        assert f"| {part} | `{part}.json` | {n} | {len(rows)} |" in text
    assert (
        "license: other" in yaml
        and "n<1K" in yaml
        and "language:\n- en" in yaml
        and "- self-instruct" in yaml
    )
    summary = json.loads((practice.parent / "run.json").read_text(encoding="utf-8"))
    for fact in (
        "| provider | practice |",
        "| recipe | modern |",
        f"| date | {summary['ended_at'][:10]} |",
    ):
        assert fact in text
    assert "terms of its provider" in text and "practice model is a bank" in text


def test_no_key_no_address_and_no_path_of_the_maker_is_in_any_file(
    make: Callable, practice: Path, tmp_path: Path
) -> None:
    place = practice.parent / "run.json"
    summary = json.loads(place.read_text(encoding="utf-8"))
    secret = {
        "base_url": "http://ana:sk-secret@10.0.0.7/v1",
        "model": "/home/ana/models/tiny|`x`.gguf",
    }
    summary["settings"] |= secret | {
        "responses": "/home/ana/r.jsonl",
        "seed_file": "/home/ana/s.jsonl",
    }
    place.write_text(json.dumps(summary), encoding="utf-8")
    seed = {"instruction": "Name a sea.", "instances": [{"output": "Aral"}]}
    write(Path("ana/own.jsonl"), [seed])
    make(practice, "--include-seed-tasks", "--seed-file", "ana/own.jsonl")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert r"| model | tiny\|\`x\`.gguf |" in card and "| seed tasks | own.jsonl |" in card
    for name in ("README.md", "dataset_info.json"):
        text = (tmp_path / "out" / name).read_text(encoding="utf-8")
        assert not re.search(r"ana\b|sk-secret|10\.0\.0\.7", text) and str(tmp_path) not in text


# Ids.


@pytest.mark.parametrize("form", [name for name in FORMATS if name != "messages"])
def test_an_id_is_one_more_column_and_changes_nothing_else(
    make: Callable, practice: Path, form: str
) -> None:
    write_provenance(practice.parent)
    flags = ["--format", form, "--split", "0.2", "--include-seed-tasks"]
    plain = make(practice, *flags)
    named = make(practice, *flags, "--keep-id")
    ids = {part: [row.pop("id") for row in rows] for part, rows in named.items()}
    assert named == plain
    everything = ids["train"] + ids["validation"]
    assert len({*everything}) == len(everything)
    beside = (practice.parent / PROVENANCE).read_text(encoding="utf-8").splitlines()
    known = {row["id"] for row in map(json.loads, beside)}
    assert {name for name in everything if name.startswith("machine_task")} <= known
    assert {name.rsplit("_", 1)[0] for name in everything} == {"machine_task", "seed_task"}


def test_each_id_is_that_of_its_row(make: Callable, practice: Path) -> None:
    path = write_provenance(practice.parent)
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    known = {row["id"]: [row[name] for name in ("instruction", "input", "output")] for row in rows}
    # The file itself may be named too.
    for source in (practice, path):
        for row in make(source, "--keep-id")["train"]:
            assert [row["instruction"], row["input"], row["output"]] == known[row["id"]]


def test_ids_that_are_not_there_or_of_another_dataset_are_one_line(
    practice: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    flags = [str(practice), "--keep-id", "--output-dir", str(tmp_path / "out")]
    assert prepare.main(flags) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    command = re.search(r"step4_final.jsonl has no ids: run  (.*?)  first", said)[1]
    # The command works as it is printed.
    done = subprocess.run(command, shell=True, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    lines = (practice.parent / PROVENANCE).read_text(encoding="utf-8").splitlines(keepends=True)
    (practice.parent / PROVENANCE).write_text("".join(lines[1:]), encoding="utf-8")
    assert prepare.main(flags) == 1
    said = capsys.readouterr().err
    assert f"step4_final.jsonl and {PROVENANCE} do not belong together: run  " in said
    assert said.count("\n") == 1 and not (tmp_path / "out").exists()


def test_an_upload_without_its_package_is_one_line_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    path = write(tmp_path / "rows.jsonl", ROWS)
    flags = [str(path), "--output-dir", str(tmp_path / "out"), "--push-to", "me/rows"]
    assert prepare.main(flags) == 1
    said = capsys.readouterr().err
    assert re.fullmatch(r"error: --push-to needs a package: run  .*huggingface_hub  first\n", said)
    assert not (tmp_path / "out").exists()


def test_dataset_info_names_the_files_that_are_there(make: Callable, tmp_path: Path) -> None:
    for form in FORMATS:
        make(ROWS, "--format", form, "--split", "0.5")
        if form == "chat-completion":  # which LLaMA-Factory does not take
            assert not (tmp_path / "out" / "dataset_info.json").exists()
            continue
        told = json.loads((tmp_path / "out" / "dataset_info.json").read_text(encoding="utf-8"))
        assert set(told) == {"self_instruct", "self_instruct_validation"}
        assert told["self_instruct"]["file_name"].startswith("train.")
        for entry in told.values():
            rows = read(tmp_path / "out" / entry["file_name"])
            columns = entry.get(
                "columns", dict.fromkeys(["instruction", "input", "output"], "instruction")
            )
            assert rows and set(columns.values()) <= set(rows[0])


def test_without_run_json_the_card_does_not_know_who_wrote_the_data(
    make: Callable, tmp_path: Path
) -> None:
    make(ROWS)
    assert "No run.json says" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("damage", ["{", "[]", "", '{"settings": {}}', '{"settings": []}'])
def test_a_damaged_run_json_is_noticed_and_costs_only_the_provenance(
    make: Callable, practice: Path, damage: str, capsys: pytest.CaptureFixture
) -> None:
    (practice.parent / "run.json").write_text(damage, encoding="utf-8")
    assert make(practice)["train"]
    assert "run.json cannot be read" in capsys.readouterr().err


def test_odd_values_in_run_json_do_no_harm(make: Callable, practice: Path, tmp_path: Path) -> None:
    place = practice.parent / "run.json"
    summary = json.loads(place.read_text(encoding="utf-8"))
    summary["settings"] |= {
        "language": [],
        "recipe": {},
        "model": "a | <b>\n\x1b[1m{c}",
        "seed": None,
    }
    place.write_text(json.dumps(summary), encoding="utf-8")
    assert make(practice)["train"]
    assert r"| model | a \| \<b\> \[1m{c} |" in (tmp_path / "out" / "README.md").read_text(
        encoding="utf-8"
    )


def test_a_run_of_the_recipe_paper_is_filtered_by_its_own_rules(
    make: Callable, practice: Path
) -> None:
    rows = [BARE, {**BARE, "output": "The Rhine"}]  # `modern` keeps one answer to one question
    write(practice, rows)
    assert len(make(practice)["train"]) == 1
    place = practice.parent / "run.json"
    place.write_text(
        place.read_text(encoding="utf-8").replace('"modern"', '"paper"'), encoding="utf-8"
    )
    assert len(make(practice)["train"]) == 2


@pytest.mark.parametrize("name", ["README.md", "dataset_info.json", "train.json"])
def test_files_of_somebody_else_are_not_replaced(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture
) -> None:
    path, folder = write(tmp_path / "in" / "rows.jsonl", ROWS), tmp_path / "out"
    folder.mkdir()
    (folder / name).write_text("mine", encoding="utf-8")
    assert prepare.main([str(path), "--output-dir", str(folder)]) == 2
    assert f"holds another {name}" in capsys.readouterr().err
    assert [file.name for file in folder.iterdir()] == [name] and (folder / name).read_text(
        "utf-8"
    ) == "mine"


def test_a_call_that_was_broken_off_can_be_made_again(
    make: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_whole(path: Path, lines: list[str]) -> None:
        if len([*path.parent.glob("*")]) == 2:
            raise KeyboardInterrupt(130)
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(lines), encoding="utf-8")

    path = write(tmp_path / "in" / "rows.jsonl", ROWS)
    with monkeypatch.context() as patch:
        patch.setattr(prepare.workshop, "write_whole", write_whole)
        assert prepare.main([str(path), "--output-dir", str(tmp_path / "out")]) == 130
    assert len(make(path)["train"]) == len(ROWS)


def test_the_same_call_writes_the_same_bytes(
    make: Callable, practice: Path, tmp_path: Path
) -> None:
    def files() -> dict[str, bytes]:
        make(practice, "--format", "prompt-completion", "--include-seed-tasks", "--split", "0.1")
        return {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}

    assert files() == files()


def test_the_output_that_the_page_shows_is_what_it_prints_after_the_default_practice_run(
    settings: Callable[..., Config], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    shown = (
        r"<!-- finetuning -->\n```bash\n.*?prepare_for_finetuning.py ([^\n#]*).*?```\n\n"
        r"```text\n(.*?)```"
    )
    block = re.search(shown, (ROOT / "scripts" / "README.md").read_text("utf-8"), re.S)
    assert block
    config = settings()
    run(config, say=lambda text: None)
    path, form = (
        Path(config.work_dir) / "step4_final.jsonl",
        block[1].split("--format ")[1].split()[0],
    )
    assert prepare.main([str(path), *block[1].split(), "--output-dir", str(tmp_path / "out")]) == 0
    assert (
        capsys.readouterr().out.replace(str(tmp_path / "out"), f"data/finetuning/{form}")
        == block[2]
    )


# The shell scripts.


@pytest.fixture
def shell(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess]:
    """Run a script of a copy of the project, with a space in its path, from another directory."""
    if not shutil.which("bash"):
        pytest.skip("no bash")
    copy = tmp_path / "a copy"
    for name in ("scripts", "data"):
        shutil.copytree(
            ROOT / name, copy / name, ignore=shutil.ignore_patterns("workshop", "finetuning")
        )
    for name in ("self_instruct.py", "self_instruct_workshop.py"):
        shutil.copy(ROOT / name, copy)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python3").write_text(
        f'#!/bin/sh\nexec "{sys.executable}" "$@"\n', encoding="utf-8"
    )
    (tmp_path / "bin" / "python3").chmod(stat.S_IRWXU)
    path = os.pathsep.join([str(tmp_path / "bin"), os.environ["PATH"]])

    def call(name: str, *arguments: str) -> subprocess.CompletedProcess:
        command = ["bash", str(copy / "scripts" / name), *arguments]
        return subprocess.run(
            command,
            env=os.environ | {"PATH": path},
            capture_output=True,
            encoding="utf-8",
            stdin=subprocess.DEVNULL,
        )

    return call


def test_the_shell_scripts_make_instructions_and_then_training_files(
    shell: Callable, tmp_path: Path
) -> None:
    work = tmp_path / "my work"
    done = shell("generate_instructions.sh", "--num-instructions", "7", "--work-dir", str(work))
    assert done.returncode == 0, done.stderr
    assert (
        len(read(work / "step1_instructions.jsonl")) == 7
        and not (work / "step4_final.jsonl").exists()
    )
    run(Config(provider="practice", num_instructions=7, work_dir=str(work)), say=lambda text: None)
    done = shell(
        "prepare_for_finetuning.sh", str(work / "step4_final.jsonl"), "--output-dir", "made"
    )
    assert done.returncode == 0, done.stderr
    made = tmp_path / "cwd" / "made"  # "$@" is seen from where the caller stands
    assert {"train.jsonl", "validation.jsonl"} <= {path.name for path in made.iterdir()}
    assert len(read(made / "train.jsonl")) > 200  # with the seed tasks
    assert shell("prepare_for_finetuning.sh", "nothing.jsonl").returncode == 1


def test_one_script_after_the_other_makes_training_files_of_the_instructions(
    shell: Callable, tmp_path: Path
) -> None:
    done = shell("generate_instructions.sh", "--num-instructions", "7", "--provider", "practice")
    assert done.returncode == 0, done.stderr
    made = tmp_path / "a copy" / "data" / "workshop"
    instructions = {row["instruction"] for row in read(made / "step1_instructions.jsonl")}
    done = shell("prepare_for_finetuning.sh", "--output-dir", str(tmp_path / "made"))
    assert done.returncode == 0, done.stderr
    dataset = read(made / "step4_final.jsonl")
    assert dataset and {row["instruction"] for row in dataset} <= instructions
    [before] = {path.stat().st_mtime_ns for path in made.glob("step4*")}

    # Once more: the run is complete, and is left alone.
    again = shell("prepare_for_finetuning.sh", "--output-dir", str(tmp_path / "made"))
    assert again.returncode == 0 and "requests now" not in again.stdout
    assert (made / "step4_final.jsonl").stat().st_mtime_ns == before


def test_without_the_packages_a_script_says_how_to_get_them(
    shell: Callable, tmp_path: Path
) -> None:
    for name in ("python3", "python"):
        fake = tmp_path / "bin" / name
        fake.write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")  # it can import nothing
        fake.chmod(stat.S_IRWXU)
    done = shell("generate_instructions.sh")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    place = str(tmp_path / "a copy")
    command = done.stderr.partition(": run  ")[2].partition("  first")[0]
    words = shlex.split(command)
    assert words[:3] == ["python3", "-m", "venv"] and words[3] == f"{place}/.venv"
    assert words[5] == f"{place}/.venv/bin/python" and words[-1] == f"{place}/requirements.txt"


def test_the_second_script_alone_says_the_command_that_works(
    shell: Callable, tmp_path: Path
) -> None:
    done = shell("prepare_for_finetuning.sh", str(tmp_path / "my work" / "step4_final.jsonl"))
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    command = shlex.split(done.stderr.partition(": run  ")[2].partition("  first")[0])
    subprocess.run([*command, "--num-instructions", "7"], check=True, capture_output=True)
    assert (tmp_path / "my work" / "step4_final.jsonl").exists()


@pytest.fixture
def stopped(tmp_path: Path) -> Callable[..., Path]:
    """The dataset that a run would have that stopped behind stage 1, with other settings told."""

    def make(**told: str) -> Path:
        work = tmp_path / "stopped here"
        settings = {"num_instructions": 6, "seed": 3, "second_try": False}
        config = Config(provider="practice", until="generate", work_dir=str(work), **settings)
        run(config, say=lambda text: None)
        record = json.loads((work / "run.json").read_text(encoding="utf-8"))
        record["settings"] |= told
        (work / "run.json").write_text(json.dumps(record), encoding="utf-8")
        return work / "step4_final.jsonl"

    return make


def test_what_costs_money_or_names_a_place_is_said_and_not_done(
    stopped: Callable, capsys: pytest.CaptureFixture
) -> None:
    address = "http://somewhere:9/v1"
    told = {
        "--provider openai": {"provider": "openai", "model": "gpt-6-luna"},
        "--classify-provider groq": {"classify_provider": "groq"},
        f"--provider local --base-url {address}": {"provider": "local", "base_url": address},
        "--seed-file other.txt": {"seed_file": "other.txt"},
    }
    for flags, settings in told.items():
        file = stopped(**settings)
        assert prepare.main([str(file), "--finish"]) == 1
        said = capsys.readouterr().err
        assert "to do them, run  " in said and said.count("\n") == 1, said
        command = shlex.split(said.partition("run  ")[2])
        assert set(flags.split()) < set(command)
        assert command[2:4] == ["--work-dir", str(file.parent)]
        assert {"--num-instructions", "6", "--seed", "3", "--no-second-try"} < set(command)
        assert not file.exists()


def test_an_older_dataset_is_taken_and_said_to_be_older_where_the_rest_costs_money(
    stopped: Callable, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    file = stopped(provider="openai", model="gpt-6-luna")
    row = {"instruction": "Name the colour of grass.", "input": "", "output": "Green."}
    file.write_text(json.dumps(row) + "\n", encoding="utf-8")
    arguments = [str(file), "--finish", "--output-dir", str(tmp_path / "made")]
    assert prepare.main(arguments) == 0
    said = capsys.readouterr().err
    assert "is of an earlier run" in said and "--provider openai" in said
    assert len(json.loads((tmp_path / "made" / "train.json").read_text(encoding="utf-8"))) == 1


def test_without_the_flag_nothing_is_run_and_the_command_finishes_the_run(
    stopped: Callable, capsys: pytest.CaptureFixture
) -> None:
    file = stopped()
    assert prepare.main([str(file)]) == 1
    command = shlex.split(capsys.readouterr().err.partition("run  ")[2])
    subprocess.run(command, check=True, capture_output=True)
    record = json.loads((file.parent / "run.json").read_text(encoding="utf-8"))
    assert record["status"] == "complete" and record["settings"]["seed"] == 3
    assert not any(spent["asked_now"] for spent in [record["tokens"]["generate"]])


def test_a_run_that_was_killed_in_stage_1_is_to_be_called_again(
    stopped: Callable, capsys: pytest.CaptureFixture
) -> None:
    file = stopped()
    (file.parent / "run.json").unlink()
    assert prepare.main([str(file), "--finish"]) == 1
    assert "give the command of the run again" in capsys.readouterr().err


def test_flags_of_the_official_scripts_are_answered_with_ours(
    shell: Callable, capsys: pytest.CaptureFixture
) -> None:
    typed = "--batch_dir d --num_instructions_to_generate 9 --seed_tasks_path s --engine davinci"
    secret = "sk-0123456789abcdef"
    done = shell("generate_instructions.sh", *typed.split(), "--api_key", secret)
    assert done.returncode == 2 and secret not in done.stderr
    hint = "did you mean --work-dir --num-instructions --seed-file --model OPENAI_API_KEY=... in"
    assert hint in done.stderr.splitlines()[-1]

    typed = "--instance_files a --classification_type_files b --output_dir c --include_seed_tasks"
    with pytest.raises(SystemExit):
        prepare.main([*typed.split(), "--seed_tasks_path", "d"])
    said = capsys.readouterr().err
    assert "did you mean FILE --output-dir --include-seed-tasks --seed-file?" in said
    assert said.count("\n") == 2  # how it is called, and what is wrong


# Preferences.


def pairs_of(folder: Path, answers: list[str]) -> tuple[Path, Path]:
    """A key of pairs, and a sheet filled with these answers: the good one is A in every other."""
    key, sheet = folder / "pairs-key.jsonl", folder / "pairs-ana.csv"
    folder.mkdir(parents=True, exist_ok=True)
    lines, cells = [], ["id,better: Which?\n"]
    for n, said in enumerate(answers):
        good = {"writer": "large", "output": f"good {n}"}
        bad = {"writer": "small", "output": f"bad {n}"}
        sides = {"A": good, "B": bad} if n % 2 == 0 else {"A": bad, "B": good}
        texts = {"instruction": f"Rate river {n}.", "input": f"river {n}"}
        lines.append(json.dumps({"id": f"p{n}", **texts, **sides}) + "\n")
        cells.append(f"p{n},{said}\n")
    key.write_text("".join(lines), encoding="utf-8")
    sheet.write_text("".join(cells), encoding="utf-8")
    return key, sheet


def answers_in(row: dict) -> tuple[str, str]:
    return row["chosen"][0]["content"], row["rejected"][0]["content"]


PREFER = ("--format", "preference")


def test_a_pair_that_a_person_decided_is_a_prompt_with_two_answers(
    make: Callable, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    key, sheet = pairs_of(tmp_path / "in", ["A", "a", "same", "", "B"])
    rows = make(key, *PREFER, "--sheet", str(sheet))["train"]
    assert sorted(map(answers_in, rows)) == [
        ("bad 1", "good 1"),
        ("bad 4", "good 4"),
        ("good 0", "bad 0"),
    ]
    (first,) = (row for row in rows if answers_in(row)[0] == "good 0")
    assert first == {
        "prompt": [{"role": "user", "content": "Rate river 0.\n\nriver 0"}],
        "chosen": [{"role": "assistant", "content": "good 0"}],
        "rejected": [{"role": "assistant", "content": "bad 0"}],
    }
    told = counted(capsys.readouterr().out)
    assert told == {
        "pairs-key.jsonl": 5, "as_good_as_each_other": 1, "not_rated": 1, "train.jsonl": 3,
    }  # fmt: skip
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "| preferred by | people, in filled sheets: 1 |" in card and "ana" not in card
    assert "Nobody has checked" not in card


def test_where_two_people_differ_nothing_is_preferred(
    make: Callable, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    key, ana = pairs_of(tmp_path / "in", ["A", "A", "B", "A"])
    _, bo = pairs_of(tmp_path / "bo", ["A", "B", "same", ""])
    rows = make(key, *PREFER, "--sheet", str(ana), str(bo))["train"]
    assert sorted(map(answers_in, rows)) == [("bad 3", "good 3"), ("good 0", "bad 0")]
    assert counted(capsys.readouterr().out)["raters_differ"] == 2


def judged(path: Path, rows: list[tuple[str, str, bool | None]], **more: object) -> Path:
    """A file of judge.py: (instruction, output, is it right?)."""
    names = ("instruction", "output", "output_right")
    known = {"id": "r1", "input": "", "valid_task": True, "input_fits": True, "rule": ""}
    return write(path, [{**known, **dict(zip(names, row, strict=True)), **more} for row in rows])


def test_a_judge_prefers_the_right_output_to_the_wrong_one_of_one_task(
    make: Callable, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    first = [("Name a river.", "Rome", False), ("Name a sea.", "Paris", False), ("Say.", "x", True)]
    second = [("Name a river.", "Ebro", True), ("Name a sea.", "Oslo", False), ("Say.", "y", None)]
    one = judged(tmp_path / "in" / "judged_first.jsonl", first)
    two = judged(tmp_path / "in" / "judged.jsonl", second)
    (row,) = make(one, str(two), *PREFER)["train"]
    assert answers_in(row) == ("Ebro", "Rome")
    told = counted(capsys.readouterr().out)
    assert told == {
        "judged_first.jsonl": 3, "judged.jsonl": 3,
        "not_in_a_pair": 4, "other_half_of_a_pair": 1, "train.jsonl": 1,
    }  # fmt: skip


def test_an_output_that_judges_see_differently_is_on_neither_side(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    one = judged(tmp_path / "a.jsonl", [("Say.", "x", True), ("Say.", "y", False)])
    two = judged(tmp_path / "b.jsonl", [("Say.", "x", False), ("Say.", "y", False)])
    assert prepare.main([str(one), str(two), *PREFER, "--output-dir", str(tmp_path / "o")]) == 1
    assert "was preferred to another" in capsys.readouterr().err


def test_a_judge_that_is_not_trusted_prefers_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    rows = [("Say.", "x", True), ("Say.", "y", False)]
    path = judged(tmp_path / "judged.jsonl", rows, rule=None)
    assert prepare.main([str(path), *PREFER, "--output-dir", str(tmp_path / "o")]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "no answer in" in said and not (tmp_path / "o").exists()


def test_an_answer_that_the_rules_of_form_turn_away_is_never_chosen(
    make: Callable, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    rows = [
        ("Say.", "", True),
        ("Say.", "y", False),
        ("Name it.", "z", True),
        ("Name it.", "", False),
    ]
    chosen = make(judged(tmp_path / "in" / "judged.jsonl", rows), *PREFER)["train"]
    assert [answers_in(row) for row in chosen] == [("z", "")]
    assert counted(capsys.readouterr().out)["empty_output"] == 1


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["{key}", "--sheet", "{sheet}"], "--sheet is for --format preference"),
        (["{key}", "{key}"], "several files are for --format preference"),
        (["{key}", *PREFER, "--sheet", "{sheet}", "--include-seed-tasks"], "one answer"),
        (["{key}", "{key}", *PREFER, "--sheet", "{sheet}"], "name one file"),
    ],
)
def test_flags_of_preferences_that_do_not_go_together_are_one_line(
    tmp_path: Path, flags: list[str], told: str, capsys: pytest.CaptureFixture
) -> None:
    key, sheet = pairs_of(tmp_path, ["A"])
    typed = [flag.format(key=key, sheet=sheet) for flag in flags]
    assert prepare.main([*typed, "--output-dir", str(tmp_path / "o")]) == 2
    said = capsys.readouterr().err
    assert told in said and said.count("\n") == 1


@pytest.mark.parametrize("name", ["rows.jsonl", "absent.jsonl"])
def test_data_without_any_judgement_are_one_line(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture
) -> None:
    write(tmp_path / "rows.jsonl", ROWS)
    flags = [*PREFER, "--output-dir", str(tmp_path / "o")]
    assert prepare.main([str(tmp_path / name), *flags]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and name in said and "judge.py" in said


def test_the_sides_of_a_split_share_no_instruction_in_preferences_too(
    make: Callable, tmp_path: Path
) -> None:
    key, sheet = pairs_of(tmp_path / "in", ["A"] * 20)
    parts = make(key, *PREFER, "--sheet", str(sheet), "--split", "0.2")
    prompts = {part: {row["prompt"][0]["content"] for row in parts[part]} for part in parts}
    assert len(prompts["validation"]) == 4 and len(prompts["train"]) == 16
    assert not prompts["train"] & prompts["validation"]
    assert not (tmp_path / "out" / "dataset_info.json").exists()


# Who wrote the outputs.


def test_the_card_names_who_wrote_the_outputs_again(make: Callable, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    rows = [{**row, "first_output": "x", "rewritten": True, "rule": ""} for row in ROWS]
    path = write(folder / "step5_rewritten.jsonl", rows)
    record = {"model": "large", "counts": {"rows": 4, "rewritten": 3}}
    record["files"] = {"step5_rewritten.jsonl": 4}
    write(folder / "rewrite.json", [record]).write_text(json.dumps(record), encoding="utf-8")
    said = "| outputs written again by | large: 3 of 4; the others as above |"
    make(path)
    assert said in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")

    # A judged file is made of it; another file beside it is not.
    made_of = {"data": "step5_rewritten.jsonl", "files": {"step6_judged.jsonl": 4}}
    (folder / "judge.json").write_text(json.dumps(made_of), encoding="utf-8")
    make(write(folder / "step6_judged.jsonl", ROWS))
    assert said in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    make(write(folder / "step4_final.jsonl", ROWS))
    assert "written again" not in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")


def behind(dataset: Path) -> Path:
    """A finished run, rewritten and judged by the practice model; returns the judged rows."""
    who = ["--provider", "practice", "--data"]
    assert rewrite.main([*who, str(dataset)]) == 0
    assert judge.main([*who, str(dataset.with_name("step5_rewritten.jsonl"))]) == 0
    return dataset.with_name("step6_judged.jsonl")


def card_of(tmp_path: Path) -> str:
    return (tmp_path / "out" / "README.md").read_text(encoding="utf-8")


def test_the_card_names_the_judge_also_of_rows_without_overlap(
    make: Callable, tmp_path: Path, practice: Path
) -> None:
    path = behind(practice)
    kept = len(read(path))
    rows = len(read(practice.with_name("step5_rewritten.jsonl")))
    named = f": {kept} of {rows} kept (valid\\_task, input\\_fits, output\\_right) |"
    make(path)
    assert "| rows judged by | data/practice\\_tasks.jsonl" + named in card_of(tmp_path)

    # What overlap.py left of them is of the same judge and the same writer.
    exam = write(tmp_path / "exam.jsonl", [{"question": "What colour is the sky on the moon?"}])
    assert overlap.main([str(exam), "--data", str(path), "--drop"]) == 0
    make(practice.with_name("step6_judged_without_overlap.jsonl"))
    assert named in card_of(tmp_path) and "| outputs written again by |" in card_of(tmp_path)
    make(practice)
    assert "judged by" not in card_of(tmp_path)


def test_rows_of_a_dataset_that_has_changed_since_are_noticed_and_not_called_its_own(
    make: Callable, tmp_path: Path, practice: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = behind(practice)
    rows = read(practice)
    write(practice, rows[:-1])
    capsys.readouterr()
    make(path)
    said = capsys.readouterr().err
    assert "step5_rewritten.jsonl was made of another step4_final.jsonl" in said
    assert "run rewrite.py again" in said
    card = card_of(tmp_path)
    assert "| provider |" not in card and "written again" not in card and "| rows judged" in card

    # And where the judged rows were rewritten since.
    write(practice.with_name("step5_rewritten.jsonl"), rows)
    make(path)
    assert "step6_judged.jsonl was made of another step5_rew" in capsys.readouterr().err
    make(write(tmp_path / "elsewhere" / "step6_judged.jsonl", rows))
    assert "another" not in capsys.readouterr().err


def test_a_row_whose_output_was_written_again_keeps_its_id(make: Callable, practice: Path) -> None:
    write_provenance(practice.parent)
    path = behind(practice)
    rows = read(practice.with_name("step5_rewritten.jsonl"))
    rows[0] |= {"output": "Another answer, which is right as well.", "rewritten": True}
    write(practice.with_name("step5_rewritten.jsonl"), rows)
    known = {
        (row["instruction"], row["input"], row["output"]): row["id"]
        for row in read(practice.with_name(PROVENANCE))
    }
    made = make(practice.with_name("step5_rewritten.jsonl"), "--keep-id")["train"]
    ids = {(row["instruction"], row["input"], row["output"]): row["id"] for row in made}
    first = rows[0]
    texts = (first["instruction"], first["input"])
    assert ids[(*texts, first["output"])] == known[(*texts, first["first_output"])]
    assert len(make(path, "--keep-id")["train"]) == len(read(path))


def test_the_command_for_missing_ids_works_as_printed_and_begins_no_run(
    tmp_path: Path, practice: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def advice(path: Path) -> list[str]:
        call = [str(path), "--keep-id", "--output-dir", str(tmp_path / "out")]
        assert prepare.main(call) == 1
        return shlex.split(re.search("run  (.*)  first", capsys.readouterr().err)[1])

    own = write(tmp_path / "mine" / "rows.jsonl", ROWS)
    assert subprocess.run(advice(own), capture_output=True).returncode == 1
    assert [path.name for path in own.parent.iterdir()] == [own.name]
    subprocess.run(advice(practice), check=True, capture_output=True)
    call = [str(practice), "--keep-id", "--output-dir", str(tmp_path / "out")]
    assert prepare.main(call) == 0
