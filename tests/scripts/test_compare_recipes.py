"""compare_recipes.py: what each recipe makes of the replies of one run, counted exactly, asking and
writing nothing."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest
from helpers.runs import ROOT
from helpers.server import Server, scripted_model

import self_instruct
import self_instruct_workshop as workshop
from self_instruct_workshop import Config, run

sys.path.insert(0, str(ROOT / "scripts"))
import compare_recipes

ANSWERS = ("classification", "not classification", "unknown")
Table = dict[str, tuple[int, int]]  # row -> modern, paper
SEEDS = ["Add up the numbers in the list.", "Say whether the review is positive or negative."]
FIRST = """ Explain the plot of Hamlet in two sentences.
10. Translate the report of NASA into French.
11. Reverse a string.
12. Draw a cat on a sunny roof."""
SECOND = """Here are some more tasks:
9. Name three rivers that flow north.
10. Translate the report of NASA into French."""
ASKED = [  # instruction, replies of stage 2, replies of stage 3
    (
        "Explain the plot of Hamlet in two sentences.",
        ["No"],
        ["Output: Here is one. Example sentence: I like cats."],
    ),
    (
        "Translate the report of NASA into French.",
        ["Options: none"],
        ["Input: It landed.\nOutput: Il a atterri."],
    ),
    (
        "Reverse a string.",
        ["...", "Yes."],
        ["I hope this helps!", "Class label: palindrome\nInput: anna"],
    ),
    (
        "Name three rivers that flow north.",
        ["Options: yes, no"],
        ["Class label: long\nInput: the Nile"],
    ),
    ("Give two synonyms of the word brave.", ["Yes"], ["Class label: positive\nbold, daring"]),
]


def record(stage: str, text: str, **more: object) -> dict:
    reply = {
        "text": text,
        "finish_reason": "stop",
        "prompt_tokens": 0,
        "reply_tokens": 0,
        "prompt": "8. Spell it.\n9.",
    }
    asked = {
        "stage": stage,
        "attempt": 0,
        "provider": "local",
        "model": "m",
        "temperature": 0.7,
        "recipe": "modern",
    }
    if stage == "generate":
        digest = sha256("\n".join(SEEDS).encode()).hexdigest()[:16]
        asked |= {"seed": 42, "language": "en", "seed_tasks": digest}
    return {"version": 1, **asked, **reply, "created_at": "", "max_tokens": 512, **more}


def by_hand() -> list[dict]:
    """A journal with known differences: a request of stage 1 each, and the questions that
    followed."""
    records = [record("generate", FIRST, request_idx=0), record("generate", SECOND, request_idx=1)]
    cut = "9. Give two synonyms of the word brave.\n10. Count the vow"
    records.append(record("generate", cut, request_idx=2, finish_reason="length"))
    for instruction, answers, instances in ASKED:
        records += [
            record("classify", a, instruction=instruction, attempt=n) for n, a in enumerate(answers)
        ]
        records += [
            record("instances", text, instruction=instruction, sample=n)
            for n, text in enumerate(instances)
        ]
    return records


def write(folder: Path, records: list[dict]) -> Path:
    folder.mkdir(exist_ok=True)
    lines = [json.dumps({"key": f"key {n}", **row}) + "\n" for n, row in enumerate(records)]
    (folder / "responses.jsonl").write_text("".join(lines), encoding="utf-8")
    (folder / "seeds.txt").write_text("\n".join(SEEDS), encoding="utf-8")
    return folder


def compare(folder: Path, capsys: pytest.CaptureFixture, seeds: str = "") -> str:
    capsys.readouterr()
    assert compare_recipes.main([str(folder), *(["--seed-file", seeds] if seeds else [])]) == 0
    return capsys.readouterr().out


def tables(text: str) -> list[Table]:
    """The rows of the three tables."""
    found = [
        block.split("\n")[1:]
        for block in text.split("\n\n")
        if re.search(r" modern +paper\Z", block.split("\n")[0])
    ]
    rows = [
        [re.fullmatch(r" *(?:- )?(.*?) +(\d+) +(\d+)", line).groups() for line in lines]
        for lines in found
    ]
    assert len(rows) == 3
    return [{name: (int(modern), int(paper)) for name, modern, paper in lines} for lines in rows]


def rejected(table: Table) -> Table:
    """The rows behind `kept`."""
    names = list(table)
    return {name: table[name] for name in names[names.index("kept") + 1 :]}


def assert_adds_up(text: str) -> None:
    generate, classify, instances = tables(text)
    for column in (0, 1):
        for table, whole in ((generate, "candidates"), (instances, "instances")):
            parts = [table["kept"][column], *(n[column] for n in rejected(table).values())]
            assert table[whole][column] == sum(parts)
        assert classify["replies"][column] == sum(classify[name][column] for name in ANSWERS)


def assert_is_what_the_run_counted(text: str, counts: dict, column: int) -> None:
    generate, classify, instances = tables(text)
    for table, whole, stage in (
        (generate, "candidates", "generate"),
        (instances, "instances", "filter"),
    ):
        assert table[whole][column] == counts[stage]["in"]
        assert table["kept"][column] == counts[stage]["out"]
        assert {name: n[column] for name, n in rejected(table).items() if n[column]} == counts[
            stage
        ]["rejected"]
    answers = [
        counts["classify"][name] for name in ("classification", "not_classification", "unknown")
    ]
    assert [classify[name][column] for name in ANSWERS] == answers
    missing = instances["replies without an instance"][column]
    assert missing == counts["instances"]["rejected"].get("no_instance", 0)
    assert instances["replies"][column] - missing == counts["instances"]["out"]
    assert instances["no reply"][column] == counts["instances"]["undone"]


def test_the_output_that_the_page_shows_is_what_it_prints_after_the_default_practice_run(
    settings: Callable[..., Config], capsys: pytest.CaptureFixture
) -> None:
    block = re.search(
        r"<!-- compare -->\n```bash\n.*?```\n\n```text\n(.*?)```",
        (ROOT / "scripts" / "README.md").read_text("utf-8"),
        re.S,
    )
    assert block
    config = settings()
    run(config, say=lambda text: None)
    text = compare(Path(config.work_dir), capsys)
    shown = block[1].strip("\n").split("\n[...]\n")
    assert len(shown) == 2 and all(
        part.strip("\n") in text for part in [shown[0], *shown[1].split("\n\n")]
    )


@pytest.mark.parametrize("language", ["en", "zh"])
def test_modern_column_of_a_practice_run_is_what_the_run_itself_counted(
    settings: Callable[..., Config], language: str, capsys: pytest.CaptureFixture
) -> None:
    config = settings(num_instructions=60, language=language)
    counts = run(config, say=lambda text: None)["counts"]
    text = compare(Path(config.work_dir), capsys)
    assert_is_what_the_run_counted(text, counts, 0)
    assert_adds_up(text)
    assert (
        text.count("\n    reply ") == text.count("\n    modern ") == text.count("\n    paper ") == 5
    )
    assert text == compare(Path(config.work_dir), capsys)


def test_paper_column_of_a_run_of_the_recipe_paper_is_what_that_run_counted(
    settings: Callable[..., Config], capsys: pytest.CaptureFixture
) -> None:
    config = settings(num_instructions=40, recipe="paper")
    counts = run(config, say=lambda text: None)["counts"]
    text = compare(Path(config.work_dir), capsys)
    assert "to the prompts of the recipe paper" in text
    assert_is_what_the_run_counted(text, counts, 1)
    assert_adds_up(text)


def test_the_page_in_chinese_has_the_same_figures_and_no_english_word_of_its_own(
    settings: Callable[..., Config], capsys: pytest.CaptureFixture
) -> None:
    config = settings(num_instructions=30, language="zh")
    run(config, say=lambda text: None)
    pages = {}
    for language in ("en", "zh"):
        assert compare_recipes.main([config.work_dir, "--language", language]) == 0
        pages[language] = capsys.readouterr().out
    tables = {name: text.split("\n\n")[1:4] for name, text in pages.items()}
    figures = {
        name: re.findall(r"(\d+) +(\d+)$", "".join(parts), re.M) for name, parts in tables.items()
    }
    assert figures["en"] == figures["zh"]
    names = r"\w+_\w+|ROUGE-L|modern|paper|refusal|duplicate|placeholder"
    left = re.findall("[A-Za-z]{2,}", re.sub(names, "", "".join(tables["zh"])))
    assert left == []
    wide = [workshop.columns(line) for part in tables["zh"] for line in part.split("\n")]
    assert set(wide) == {50}
    assert "不同之处：" in pages["zh"] and "differences" not in pages["zh"]


def test_paper_loses_nearly_all_of_a_chinese_run(
    settings: Callable[..., Config], capsys: pytest.CaptureFixture
) -> None:
    config = settings(num_instructions=60, language="zh")
    run(config, say=lambda text: None)
    generate, classify, instances = tables(compare(Path(config.work_dir), capsys))
    assert generate["kept"][0] == 60 and generate["kept"][1] <= 6
    assert classify["classification"][1] == instances["kept"][1] == 0
    assert classify["classification"][0] > 0


def test_a_journal_with_known_differences_is_counted_exactly(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = write(tmp_path / "run", by_hand())
    text = compare(folder, capsys, str(folder / "seeds.txt"))
    generate, classify, instances = tables(text)
    assert generate == {
        "replies": (3, 3),
        "cut at max_tokens": (1, 1),
        "no reply": (0, 0),
        "candidates": (8, 9),  # `Here are` is one
        "kept": (5, 3),
        "needs_more_than_text": (1, 0),
        "too_similar": (1, 1),
        "cut_off": (1, 2),  # paper drops the whole reply
        "keyword": (0, 2),  # the plot of Hamlet is one
        "too_short": (0, 1),
    }
    assert {name: n for name, n in classify.items() if any(n)} == {
        "replies": (5, 5),
        "classification": (3, 1),
        "not classification": (2, 4),  # `...` and what names options are no Yes
    }
    assert {name: n for name, n in instances.items() if any(n)} == {
        "replies": (5, 5),
        "replies without an instance": (0, 2),  # labels first; no second try
        "instances": (5, 4),
        "kept": (5, 4),  # the word Example makes two of one
    }
    assert_adds_up(text)


def test_examples_show_a_kind_from_each_stage_by_turns(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = write(tmp_path / "run", by_hand())
    text = compare(folder, capsys, str(folder / "seeds.txt"))
    total, *examples = text.split("\n\n")[4:]
    assert total == "differences: 13, of 13 kinds (modern | paper); 5 of them:"
    stages = ["Stage 1", "Stage 2", "Stages 3 and 4", "Stage 1", "Stage 2"]
    assert [example.split(",")[0] for example in examples] == stages
    assert len({example.split("\n")[0] for example in examples}) == 5
    assert examples[1].split("\n") == [
        "Stage 2, classification | not asked again (1 such)",
        "    reply   Yes.",
        "    modern  classification",
        "    paper   not asked again",
    ]
    assert examples[4].rstrip("\n").split("\n") == [
        "Stage 2, asked again | not classification (1 such)",
        "    reply   ...",
        "    modern  asked again",
        "    paper   not classification",
    ]


def test_a_second_try_of_stage_3_is_read_by_modern_alone_and_where_it_is_missing_by_neither(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    records = [row for row in by_hand() if not row.get("sample")]
    folder = write(tmp_path / "run", records)
    instances = tables(compare(folder, capsys, str(folder / "seeds.txt")))[2]
    assert instances["replies"] == (5, 5) and instances["no reply"] == (0, 0)
    assert instances["replies without an instance"] == (1, 2), "the string's only reply"
    assert instances["kept"] == (4, 4)


@pytest.mark.parametrize(("right", "trusted"), [(11, False), (12, True)])
def test_where_the_run_did_not_trust_its_model_modern_has_no_answers(
    tmp_path: Path, capsys: pytest.CaptureFixture, right: int, trusted: bool
) -> None:
    """The model is right on so many of the 16 seed tasks; 12 are three quarters."""
    records = by_hand()
    for n, probe in enumerate(workshop.probe_tasks(Config(), [])):
        chooses = probe.is_classification is (n < right)
        said = "Options: yes, no" if chooses else "Options: none"
        records.append(record("classify", said, instruction=probe.instruction))
    folder = write(tmp_path / "run", records)
    classify = tables(compare(folder, capsys, str(folder / "seeds.txt")))[1]
    answers = [classify[name] for name in ("replies", *ANSWERS)]
    if trusted:
        assert answers == [(5, 5), (3, 1), (2, 4), (0, 0)]
    else:
        assert answers == [(0, 5), (0, 1), (0, 4), (5, 0)]
    assert classify["seed tasks asked about"] == (16, 0)
    assert classify["as people say"] == (right, 0)


def test_one_kind_of_difference_is_shown_where_it_is_and_what_the_model_said_is_harmless(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    said = (
        f" Say in {'very ' * 20}few words \x1b[31mwhat NASA does today.\n"
        "10. Count the vowels of the word."
    )
    folder = write(tmp_path / "run", [record("generate", said, request_idx=0)])
    text = compare(folder, capsys, str(folder / "seeds.txt"))
    assert "\x1b" not in text
    assert (
        "differences: 1, of 1 kinds" in text and "kept | kept, with other capitals (1 such)" in text
    )
    assert re.search(r"\n    reply   ….*what NASA does today", text)
    assert re.search(
        r"\n    modern  kept: ….*what NASA does today\.\n"
        r"    paper   kept: ….*what nasa does today\.",
        text,
    )


def test_a_stop_string_of_the_paper_hides_what_comes_after_it(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    said = " Count the vowels of the word.\n\n10. Name the seven colours of the rainbow."
    folder = write(tmp_path / "run", [record("generate", said, request_idx=0)])
    text = compare(folder, capsys, str(folder / "seeds.txt"))
    assert tables(text)[0]["candidates"] == (2, 1)
    assert "kept | behind a stop (1 such)" in text


def test_nothing_is_asked_and_nothing_is_written(
    settings: Callable[..., Config], capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(num_instructions=20)
    run(config, say=lambda text: None)

    def files() -> dict[str, tuple[int, bytes]]:
        here = sorted(Path(config.work_dir).parent.rglob("*"))
        return {
            str(path): (path.stat().st_mtime_ns, path.read_bytes())
            for path in here
            if path.is_file()
        }

    def fail(*_: object) -> None:
        raise AssertionError("asked")

    before = files()
    monkeypatch.setattr(workshop.Model, "send", fail)
    monkeypatch.setattr(workshop, "open_journal", fail)
    compare(Path(config.work_dir), capsys)
    assert files() == before


def test_without_run_json_all_that_is_fit_and_novel_is_kept(
    settings: Callable[..., Config], capsys: pytest.CaptureFixture
) -> None:
    config = settings(num_instructions=20)
    counts = run(config, say=lambda text: None)["counts"]["generate"]
    (Path(config.work_dir) / "run.json").unlink()
    generate = tables(compare(Path(config.work_dir), capsys))[0]
    assert generate["candidates"][0] == counts["in"] and "not_needed" not in generate
    assert counts["rejected"]["not_needed"] > 0
    assert generate["kept"][0] == counts["out"] + counts["rejected"]["not_needed"]


def test_of_several_runs_in_a_journal_the_newest_counts(
    settings: Callable[..., Config], capsys: pytest.CaptureFixture
) -> None:
    run(settings(num_instructions=30), say=lambda text: None)
    config = settings(num_instructions=20, seed=1)
    counts = run(config, say=lambda text: None)["counts"]
    assert_is_what_the_run_counted(compare(Path(config.work_dir), capsys), counts, 0)


def test_other_seed_tasks_than_the_run_s_are_noticed(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = write(tmp_path / "run", by_hand())
    assert compare_recipes.main([str(folder), "--seed-file", str(folder / "seeds.txt")]) == 0
    assert capsys.readouterr().err == ""
    assert compare_recipes.main([str(folder)]) == 0
    assert re.fullmatch(
        r"notice: the run had other seed tasks.*--seed-file.*\n", capsys.readouterr().err
    )


def test_a_last_line_torn_by_a_kill_is_passed_over(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = write(tmp_path / "run", by_hand())
    whole = compare(folder, capsys)
    with open(folder / "responses.jsonl", "a", encoding="utf-8") as file:
        file.write('{"key": "torn')
    assert compare(folder, capsys) == whole


# What the run has decided is not decided again where that is proved to come to the same.

MODERN, PAPER, BOTH = {"modern"}, {"paper"}, {"modern", "paper"}


class Compared:
    """A run of the command line in one folder, and what compare_recipes.py says of it."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture, *flags: str) -> None:
        self.folder = folder
        self.capsys = capsys
        self.flags = ["--work-dir", str(folder), "--first-wait", "0.01", "--yes", *flags]
        self.run()

    def run(self, *more: str) -> None:
        assert self_instruct.main([*self.flags, *more], is_program=True) == 0

    def decides(self, *flags: str, is_program: bool = True) -> set[str]:
        """The recipes that decide stage 1 again. What is printed is what both would decide."""
        recipes = set()
        take = workshop.take_candidates

        def noted(config: Config, *rest: object) -> int:
            recipes.add(config.recipe)
            return take(config, *rest)

        pages = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(workshop, "take_candidates", noted)
            for taking in (False, is_program):
                recipes.clear()
                self.capsys.readouterr()
                assert compare_recipes.main([str(self.folder), *flags], is_program=taking) == 0
                pages.append(self.capsys.readouterr())
        assert pages[0] == pages[1]
        return recipes


PRACTICE = ("--provider", "practice", "--num-instructions", "24")


@pytest.mark.parametrize(
    ("flags", "decide"),
    [
        ((), PAPER),
        (("--language", "zh"), PAPER),
        (("--num-instructions", "150"), PAPER),
        (("--recipe", "paper"), MODERN),
        (("--instances-per-instruction", "3", "--seed", "7", "--tasks-shown", "5"), PAPER),
        (("--rouge-threshold", "0.4", "--no-second-try"), BOTH),
        (("--no-second-answer",), BOTH),
        (("--topics", "topics.json"), BOTH),
        (("--until", "instances"), BOTH),
    ],
    ids=lambda value: " ".join(sorted(value)) or "default",
)
def test_of_a_finished_run_only_the_other_recipe_decides_and_all_is_as_if_both_did(
    flags: tuple, decide: set, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    Path("topics.json").write_text('{"law": 2, "cooking": 1}', encoding="utf-8")
    run = Compared(tmp_path / "work", capsys, *PRACTICE, *flags)
    assert run.decides("--language", "en") == decide
    assert run.decides("--language", "zh") == decide
    assert run.decides(is_program=False) == BOTH


@pytest.mark.parametrize("size", ["", "4"])
def test_a_run_with_lists_of_stage_2_is_taken_if_they_are_as_long_as_they_are_by_default(
    size: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    with Server(scripted_model()) as server:
        where = ("--provider", "local", "--base-url", server.url + "/v1", "--model", "m")
        flags = (*where, "--num-instructions", "40", *(["--classify-together", size] * bool(size)))
        run = Compared(tmp_path / "work", capsys, *flags)
    assert run.decides() == (BOTH if size else PAPER)


@pytest.mark.parametrize("name", [*workshop.STEP_FILES, "rejected.jsonl", "run.json"])
def test_where_a_file_of_the_run_is_gone_both_decide(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run = Compared(tmp_path / "work", capsys, *PRACTICE)
    (run.folder / name).unlink()
    assert run.decides() == BOTH


def test_with_other_seed_tasks_than_the_run_s_both_decide(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run = Compared(tmp_path / "work", capsys, *PRACTICE)
    (tmp_path / "seeds.txt").write_text("\n".join(SEEDS), encoding="utf-8")
    assert run.decides("--seed-file", str(tmp_path / "seeds.txt")) == BOTH


def test_a_run_that_did_not_need_all_replies_of_its_journal_is_decided_again(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run = Compared(tmp_path / "work", capsys, *PRACTICE, "--num-instructions", "60")
    run.run("--num-instructions", "20")
    assert run.decides() == BOTH


def test_where_a_question_was_asked_in_two_ways_both_decide(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run = Compared(tmp_path / "work", capsys, *PRACTICE)
    path = run.folder / "responses.jsonl"
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    asked = next(row for row in records if row["stage"] == "instances")
    other = {**asked, "key": "of another prompt", "text": "Input: the sea\nOutput: a wave"}
    with open(path, "a", encoding="utf-8", newline="\n") as file:
        file.write(workshop.to_json(other))
    run.run()  # which knows the other key of its question
    assert run.decides() == BOTH


WITHOUT_STAGE = (
    '{"key": "a", "text": "", "finish_reason": "stop", "prompt": "", "created_at": "", '
    '"max_tokens": 1, "prompt_tokens": 0, "reply_tokens": 0}\n'
)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "cannot read .*responses.jsonl"),
        ("", "holds no reply of stage 1"),
        (WITHOUT_STAGE + "not JSON\n", "line 2 is damaged"),
        ('{"key": "a", "text": ""}\n', "line 1 is damaged"),
        (WITHOUT_STAGE, "the line with the key a is no reply"),
        (
            json.dumps({"key": "b", **record("classify", "Yes", instruction="x")}) + "\n",
            "holds no reply of stage 1",
        ),
    ],
)
def test_what_people_can_put_right_is_one_line_on_stderr(
    tmp_path: Path, content: str | None, told: str, capsys: pytest.CaptureFixture
) -> None:
    if content is not None:
        (tmp_path / "responses.jsonl").write_text(content, encoding="utf-8")
    assert compare_recipes.main([str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert said.out == "" and re.fullmatch(rf"error: .*{told}.*\n", said.err)
