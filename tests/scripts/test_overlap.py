"""overlap.py: each test finds what it should and no more, each file is read or refused in one
line, and nothing of anybody else's is replaced."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
from helpers.runs import ROOT
from hypothesis import given
from hypothesis import settings as how
from hypothesis import strategies as st

from self_instruct_workshop import Config, WorkshopError, rouge_l, run, tokenize

sys.path.insert(0, str(ROOT / "scripts"))
import overlap
import prepare_for_finetuning as prepare

from scripts.overlapping import files, measures
from scripts.overlapping.files import Prompt

CAPITAL = "What is the capital of France?"
LONG = (
    "A train leaves the station at noon and another one leaves an hour later on the same track; "
    "when does the second train catch up with the first one?"
)
CHINESE = "小明有三个苹果，小红有五个苹果，他们一共有多少个苹果？"
needs_pyarrow = pytest.mark.skipif(not find_spec("pyarrow"), reason="pyarrow is not installed")


def row(instruction: str, source: str = "", output: str = "-") -> dict:
    return {"instruction": instruction, "input": source, "output": output}


def write(path: Path, records: list) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
    path.write_text("".join(lines), encoding="utf-8")
    return path


def read(path: Path) -> list[dict]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def prompts(*texts: str | tuple[str, str]) -> list[Prompt]:
    pairs = [(text, "") if isinstance(text, str) else text for text in texts]
    return [Prompt(n, f"line {n}", *pair) for n, pair in enumerate(pairs, 1)]


@pytest.fixture
def check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., list[dict]]:
    """Compare rows with evaluation files; return the evidence."""

    def do(rows: list[dict], items: list | Path, *flags: str, code: int = 0) -> list[dict]:
        data = write(tmp_path / "work" / "data.jsonl", rows)
        path = items if isinstance(items, Path) else write(tmp_path / "eval.jsonl", items)
        assert overlap.main([str(path), "--data", str(data), *flags]) == code
        said = capsys.readouterr()
        do.out, do.err = said
        if code:
            assert not said.out and len(said.err.strip().splitlines()) == 1, said
        return read(tmp_path / "work" / "overlap.jsonl")

    return do


def found_by(lines: list[dict]) -> dict[int, set[str]]:
    """Which tests found each row."""
    found: dict[int, set[str]] = {}
    for line in lines:
        found.setdefault(line["row"], set()).add(line["test"])
    return found


# --------------------------------------------------------------------------------------------------
# (a) Exact.


@pytest.mark.parametrize(
    "one, other",
    [
        (CAPITAL, "what is  the CAPITAL of france"),
        ("用 Python 写一个函数。", "用python写一个函数"),
        ("ＳＱＬ是什么？", "SQL是什么?"),
        ("What is 3+4?", "What is “3 + 4”？"),
        ("Straße in **Köln**", "STRASSE IN KÖLN"),
    ],
)
def test_folding_takes_away_case_spaces_width_and_punctuation(one: str, other: str) -> None:
    assert measures.fold(one) == measures.fold(other) != ""


@pytest.mark.parametrize(
    "one, other",
    [
        ("What is 3 + 4?", "What is 3 - 4?"),
        ("What is 7 * 2?", "What is 7 / 2?"),
        ("Is 3.5 a number?", "Is 35 a number?"),
        ("Is it x < 2?", "Is it x > 2?"),
        ("对", "错"),
        ("What does 😀 mean?", "What does 😡 mean?"),
    ],
)
def test_folding_keeps_what_makes_another_question(one: str, other: str) -> None:
    assert measures.fold(one) != measures.fold(other)


def test_a_whole_prompt_is_found_at_any_length_and_a_short_part_is_not(check: Callable) -> None:
    rows = [
        row("Add the numbers.", "3 + 4"),
        row("Say where it is.", "Paris"),
        row("你好"),
        row("判断对错。", "对"),
        row("Answer the question.", CAPITAL),
    ]
    items = ["3 + 4", "Paris", "你好！", "对", CAPITAL]
    lines = check(rows, [{"question": text} for text in items])
    assert found_by(lines) == {3: {"exact"}, 5: {"rouge_l"}}  # the last: 0.8 as a whole
    assert (lines[0]["item"], lines[0]["item_text"], lines[0]["score"]) == (3, "你好！", 1.0)


def test_an_input_alone_counts_from_eight_tokens_on() -> None:
    seven = "one two three four five six seven"
    for text, expected in ((seven, set()), (seven + " eight", {0})):
        found = measures.exact(prompts(("Repeat this.", text)), prompts(text), common=10)
        assert {*found.hits} == expected
    seven, eight = "一二三四五六七", "一二三四五六七八"
    for text, expected in ((seven, set()), (eight, {0})):
        found = measures.exact(prompts(("重复一遍。", text)), prompts(text), common=10)
        assert {*found.hits} == expected


def test_the_evidence_says_which_parts_are_the_same(check: Callable) -> None:
    items = [{"instruction": "Answer with a number and nothing else, please.", "input": LONG}]
    rows = [
        row("Answer with a number and nothing else, please!", LONG),
        row("Answer with a number and nothing else, please.", "How old is the moon?"),
        row("Solve this.", LONG),
        row(items[0]["instruction"] + " " + LONG),
    ]
    exact = [line for line in check(rows, items) if line["test"] == "exact"]
    parts = {line["row"]: (line["part"], line["item_part"]) for line in exact}
    assert parts == {
        1: ("both", "both"),
        2: ("instruction", "instruction"),
        3: ("input", "input"),
        4: ("instruction", "both"),
    }


def test_a_part_that_many_items_share_is_boilerplate_and_said(check: Callable) -> None:
    template = "Choose the best answer from the options given below, and say why."
    items = [{"instruction": template, "input": f"Option {n}"} for n in range(11)]
    rows = [row(template, "Something else entirely")]
    assert "exact" not in {line["test"] for line in check(rows, items)}
    assert "not counted: 1 texts that more than 10 items" in check.out and template in check.out
    assert "rows that share nothing else with a file: 0\n" in check.out  # ROUGE-L found it
    assert "exact" in {line["test"] for line in check(rows, items[:10])}
    assert "exact" in {line["test"] for line in check(rows, items, "--common", "0")}
    assert "boilerplate" not in check.out


def test_a_whole_prompt_is_no_boilerplate() -> None:
    found = measures.exact(prompts("你好"), prompts(*["你好。"] * 30), common=10)
    assert found.hits and not found.common


# --------------------------------------------------------------------------------------------------
# (b) n-grams.


def words(n: int, start: int = 0) -> str:
    return " ".join(f"w{i}" for i in range(start, start + n))


def test_thirteen_tokens_in_a_row_are_found_and_twelve_are_not() -> None:
    item = prompts(f"begin {words(20)} end")
    thirteen = f"other text {words(13)} goes on elsewhere"
    twelve = f"other text {words(12)} goes on elsewhere"
    found = measures.shared_ngrams(prompts(twelve, thirteen), item, n=13, common=10)
    assert {*found.hits} == {1} and not found.common
    hit = found.hits[1]
    tokens = len(tokenize(thirteen))
    assert hit.shared == words(13) and hit.score == pytest.approx(1 / (tokens - 12))


def test_chinese_characters_are_tokens_of_an_ngram() -> None:
    item = prompts(f"请看题目：{CHINESE}")
    row_of = "另一道题，小明有三个苹果，小红有五个苹果，请问谁多？"
    found = measures.shared_ngrams(prompts(row_of), item, n=13, common=10)
    assert found.hits[0].shared == "小明有三个苹果小红有五个苹果"
    assert not measures.shared_ngrams(prompts(row_of), item, n=15, common=10).hits


def test_a_text_that_is_shorter_than_n_is_compared_by_the_other_tests_alone() -> None:
    found = measures.shared_ngrams(prompts(CAPITAL), prompts(CAPITAL), n=13, common=10)
    assert not found.hits
    assert measures.exact(prompts(CAPITAL), prompts(CAPITAL), common=10).hits


@pytest.mark.parametrize("side", ["items", "rows"])
def test_an_ngram_that_many_items_or_instructions_share_is_boilerplate(side: str) -> None:
    texts = [f"{words(15)} and then {n} more" for n in range(11)]
    rows = prompts(*texts) if side == "rows" else prompts(f"{words(15)} but nothing else")
    items = prompts(*texts) if side == "items" else prompts(f"{words(15)} and so on")
    found = measures.shared_ngrams(rows, items, n=13, common=10)
    assert not found.hits
    assert {place for its_rows in found.common.values() for place in its_rows} == {
        *range(len(rows))
    }
    fewer = rows[:10] if side == "rows" else rows
    others = items[:10] if side == "items" else items
    assert len(measures.shared_ngrams(fewer, others, n=13, common=10).hits) == len(fewer)


def test_seven_words_behind_boilerplate_make_no_overlap_but_eight_do() -> None:
    texts = [f"{words(15)} number{n}" for n in range(11)]
    texts.append(f"{words(15)} {words(14, 100)}")
    for length, expected in ((1, set()), (7, set()), (8, {0}), (14, {0})):
        row_of = prompts(f"{words(15)} {words(length, 100)} is what matters")
        found = measures.shared_ngrams(row_of, prompts(*texts), n=13, common=10)
        assert {*found.hits} == expected and bool(found.common) == (not expected)
    assert found.hits[0].item == 11 and found.hits[0].shared.endswith(words(14, 100))


def test_the_longest_run_with_one_item_is_the_evidence() -> None:
    items = prompts(f"{words(14)} and {words(13, 50)}", f"{words(30, 100)}")
    row_of = prompts(f"{words(14)} so {words(13, 50)} or {words(20, 105)}")
    hit = measures.shared_ngrams(row_of, items, n=13, common=10).hits[0]
    assert (hit.item, hit.shared) == (1, words(20, 105))


# --------------------------------------------------------------------------------------------------
# (c) ROUGE-L.


def test_rouge_above_the_threshold_is_found_and_at_the_threshold_is_not() -> None:
    item = prompts(words(10))
    above = f"{words(8)} x y"  # 8 of 10 and 10 tokens: F1 0.8
    at = f"{words(7)} x y z"  # 0.7
    found = measures.rouge(prompts(above, at), item, threshold=0.7)
    assert {place: hit.score for place, hit in found.hits.items()} == {0: pytest.approx(0.8)}
    assert {*measures.rouge(prompts(above, at), item, threshold=0.69).hits} == {0, 1}
    assert not measures.rouge(prompts(above), item, threshold=0.8).hits
    assert measures.rouge(prompts(words(10)), item, threshold=0.99).hits[0].score == 1.0


def test_rouge_reads_chinese_and_mixed_texts() -> None:
    rows = prompts("用Python写一个函数，计算两个数的和。", "请介绍一下北京的历史。")
    items = prompts("用 Python 写一个函数来计算两个数之和", "介绍上海的美食")
    found = measures.rouge(rows, items, threshold=0.7)
    assert {place: hit.item for place, hit in found.hits.items()} == {0: 0}


def test_of_equal_scores_the_longer_text_is_the_evidence() -> None:
    pair = ("Answer with a number and nothing else, please.", LONG)
    hit = measures.rouge(prompts(pair), prompts(pair), threshold=0.7).hits[0]
    assert (hit.part, hit.item_part, hit.score) == ("both", "both", 1.0)


def test_rouge_leaves_short_prompts_to_the_exact_test() -> None:
    rows = prompts(
        "3 + 4", "Name a big river.", ("Say this aloud to the class:", "Name a big river.")
    )
    items = prompts("3 - 4", "Name a big river!")
    assert {*measures.rouge(rows, items, threshold=0.7).hits} == {1}


WORDS = ["the", "big", "small", "city", "river", "name", "of", "by", "night", "day", "3", "7", "x"]
TEXT = st.lists(st.sampled_from(WORDS), min_size=4, max_size=12).map(" ".join)


@how(max_examples=60, deadline=None)
@given(st.lists(TEXT, min_size=1, max_size=6), st.lists(TEXT, min_size=1, max_size=6))
def test_rouge_finds_what_rouge_score_finds(ours: list[str], theirs: list[str]) -> None:
    rouge_scorer = pytest.importorskip("rouge_score.rouge_scorer")
    scorer = rouge_scorer.RougeScorer(["rougeL"])
    for threshold in (0.0, 0.5, 0.7):
        found = measures.rouge(prompts(*ours), prompts(*theirs), threshold).hits
        for place, text in enumerate(ours):
            best = max(scorer.score(other, text)["rougeL"].fmeasure for other in theirs)
            if best > threshold + 1e-6:
                assert found[place].score == pytest.approx(best)
            elif best < threshold - 1e-6:
                assert place not in found


@how(max_examples=60, deadline=None)
@given(
    st.lists(st.text("ab 三四c.", max_size=40), max_size=12),
    st.lists(st.text("ab 三四c.", max_size=40), max_size=12),
    st.sampled_from([0.0, 0.3, 0.7, 1.0]),
)
def test_blocks_of_one_row_find_the_same_as_all_at_once(
    ours: list[str], theirs: list[str], threshold: float
) -> None:
    rows, items = prompts(*ours), prompts(*theirs)
    whole = measures.rouge(rows, items, threshold, cells=10**9).hits
    for cells in (1, 5, 24):
        blocks = measures.rouge(rows, items, threshold, cells=cells).hits
        assert {place: hit.score for place, hit in blocks.items()} == {
            place: hit.score for place, hit in whole.items()
        }
    for place, hit in whole.items():
        pair = tokenize(ours[place]), tokenize(theirs[hit.item])
        assert hit.score == pytest.approx(rouge_l(*pair)) and hit.score > threshold


def test_a_block_holds_no_more_scores_than_it_is_given() -> None:
    ours, theirs = sorted(range(8, 60)), sorted(range(8, 300))
    for cells in (300, 1000, 5000):
        seen = 0
        for low, high, start, stop in measures.blocks(ours, theirs, 0.7, cells):
            assert (high - low) * (stop - start) <= cells
            seen += high - low
        assert seen == len(ours)


# --------------------------------------------------------------------------------------------------
# Evaluation files.

KINDS = {
    "Alpaca": ([row(CAPITAL)], "instruction", (CAPITAL, "")),
    "Alpaca with input": ([row("Add.", "3 + 4")], "instruction, input", ("Add.", "3 + 4")),
    "official": (
        [{"instruction": "Add.", "instances": [{"input": "1", "output": ""}, {"input": "2"}]}],
        "instruction, instances.input",
        ("Add.", "2"),
    ),
    "question": ([{"id": 7, "question": CAPITAL, "answer": "P"}], "question", (CAPITAL, "")),
    "Question": ([{"Question": CAPITAL}], "question", (CAPITAL, "")),
    "ARC": ([{"question": {"stem": CAPITAL, "choices": []}}], "question.stem", (CAPITAL, "")),
    "problem": ([{"problem": LONG, "level": "5"}], "problem", (LONG, "")),
    "prompt": ([{"task_id": "x/0", "prompt": LONG}], "prompt", (LONG, "")),
    "query": ([{"query": LONG}], "query", (LONG, "")),
    "text": ([{"text": LONG, "label": 1}], "text", (LONG, "")),
    "题目": ([{"题目": CHINESE}], "题目", (CHINESE, "")),
    "MT-Bench": ([{"turns": [CAPITAL, "And its river?"]}], "turns", (CAPITAL, "And its river?")),
    "messages": (
        [
            {
                "messages": [
                    {"role": "system", "content": "Be kind."},
                    {"role": "user", "content": [{"type": "text", "text": CAPITAL}]},
                    {"role": "assistant", "content": "Paris"},
                    {"role": "user", "content": "And its river?"},
                ]
            }
        ],
        "messages",
        (CAPITAL, "And its river?"),
    ),
    "ShareGPT": (
        [{"conversations": [{"from": "human", "value": CAPITAL}, {"from": "gpt", "value": "P"}]}],
        "conversations",
        (CAPITAL, ""),
    ),
    "LIMA": ([{"conversations": [CAPITAL, "P", "Why?", "-"]}], "conversations", (CAPITAL, "Why?")),
    "numbers": ([{"question": 42}, {"question": 7.5}], "question", ("7.5", "")),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_field_that_is_asked_is_guessed_and_said(kind: str, check: Callable) -> None:
    records, said, last = KINDS[kind]
    check([row("Something else.")], records)
    assert f"read of eval.jsonl: {said}\n" in check.out
    items, _, _ = files.items(Path("eval.jsonl").resolve(), [])
    assert (items[-1].instruction, items[-1].input) == last


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)


CSV = f'id,question,answer\r\n1,"{CAPITAL}",Paris\r\n2,"{CHINESE}",8\r\n'
SHAPES = {
    "a.jsonl": json.dumps({"question": CAPITAL}) + "\r\n\r\n" + json.dumps({"question": CHINESE}),
    "b.ndjson": "".join(json.dumps({"question": text}) + "\n" for text in (CAPITAL, CHINESE)),
    "c.json": json.dumps([{"question": CAPITAL}, {"question": CHINESE}]),
    "d.json": json.dumps(
        {"v": 1, "data": [{"question": CAPITAL}, {"question": CHINESE}]}, indent=1
    ),
    "e.json": json.dumps({"question": CAPITAL}) + "\n" + json.dumps({"question": CHINESE}),
    "f.json": json.dumps([CAPITAL, CHINESE]),
    "two lists.json": json.dumps(
        {"about": [{"a": 1}] * 3, "examples": [{"input": CAPITAL}, {"input": CHINESE}]}
    ),
    "by id.json": json.dumps({"1": {"question": CAPITAL}, "2": {"question": CHINESE}}),
    "one.json": json.dumps({"instruction": CAPITAL, "instances": [{"input": ""}, {"input": "a"}]}),
    "g.csv": CSV,
    "h.csv": CSV.replace(",", ";"),
    "i.tsv": f"question\tanswer\n{CAPITAL}\tParis\n{CHINESE}\t8\n",
    "评测 集 1.csv": "\ufeff" + CSV,
    "mark.jsonl": "\ufeff" + json.dumps({"question": CAPITAL}) + "\n" + json.dumps(CHINESE),
}


@pytest.mark.parametrize("name", SHAPES)
def test_each_kind_of_file_is_read(name: str, tmp_path: Path, check: Callable) -> None:
    folder = tmp_path / "评测 with spaces"
    folder.mkdir()
    path = folder / name
    path.write_text(SHAPES[name], encoding="utf-8", newline="")
    lines = check([row("Unlike."), row(CAPITAL), row(CHINESE)], path)
    expected = {"mark.jsonl": {2}, "one.json": set()}.get(name, {2, 3})
    assert {line["row"] for line in lines if line["test"] == "exact"} == expected
    assert {line["file"] for line in lines} <= {name}


@needs_pyarrow
def test_parquet_is_read(tmp_path: Path, check: Callable) -> None:
    import pyarrow
    from pyarrow import parquet

    path = tmp_path / "评测.parquet"
    parquet.write_table(pyarrow.table({"question": [CAPITAL, None, CHINESE]}), path)
    lines = check([row(CHINESE)], path)
    assert [line["item_place"] for line in lines if line["test"] == "exact"] == ["record 3"]
    assert "records without a text in question: 1" in check.err
    path.write_bytes(b"PAR1 is not enough")
    check([row(CHINESE)], path, code=1)
    assert "no Parquet that can be read" in check.err


def test_without_a_package_for_parquet_one_line_says_what_to_install(
    tmp_path: Path, check: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("pyarrow", "pandas"):
        monkeypatch.setitem(sys.modules, name, None)  # an import of it fails
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    check([row(CAPITAL)], tmp_path / "a.parquet", code=1)
    assert "pip install pyarrow" in check.err


def test_a_field_can_be_named_also_several_and_inside_and_in_a_table_without_names(
    tmp_path: Path, check: Callable
) -> None:
    nested = {"data": [{"paragraphs": [{"context": LONG, "qas": [{"ask": CAPITAL}]}]}]}
    path = tmp_path / "squad.json"
    path.write_text(json.dumps(nested), encoding="utf-8")
    assert found_by(check([row(CAPITAL)], path, "--field", "paragraphs.qas.ask"))[1] >= {"exact"}
    two = [{"context": LONG, "ask": CAPITAL}]
    lines = check([row(CAPITAL, LONG)], two, "--field", "ask", "--field", "context")
    assert lines[0]["part"] == lines[0]["item_part"] == "both"
    mmlu = tmp_path / "mmlu.csv"
    mmlu.write_text(f"{LONG},A,B\n{CAPITAL},Paris,Rome\n", encoding="utf-8")
    lines = check([row(CAPITAL), row(LONG)], mmlu, "--field", "1")
    assert {line["row"]: line["item"] for line in lines} == {1: 2, 2: 1}
    check([row(CAPITAL)], mmlu, code=1)
    assert "cannot be guessed" in check.err and "--field" in check.err


def test_records_without_a_text_are_counted_and_said(check: Callable) -> None:
    records = [{"question": CAPITAL}, {"question": None}, {"question": "  "}, {"question": True}]
    records += [{"question": CHINESE}, {"question": LONG}]
    lines = check([row(CAPITAL)], records)
    assert "records without a text in question: 3" in check.err
    assert lines[0]["item"] == 1 and re.search(r"eval\.jsonl +3 ", check.out)


DEEP = "[" * 100_000
DAMAGED = {
    "broken.jsonl": ('{"question": "a b c"}\n{"question": ', "line 2 is no JSON"),
    "deep.jsonl": (DEEP, "line 1"),
    "deep.json": (DEEP, "too deep"),
    "broken.json": ("[1, 2", "is no JSON"),
    "number.json": ("7", "a JSON list of records is expected"),
    "null.jsonl": ("null\nnull\n", "cannot be guessed"),
    "empty.jsonl": ("", "holds no record"),
    "blank.json": (" \n\n", "holds no record"),
    "list.json": ("[]", "holds no record"),
    "empty.csv": ("", "holds no record"),
    "head.csv": ("question,answer\n", "holds no record"),
    "strings.json": ('["", " "]', "holds no text"),
    "other.jsonl": ('{"colour": "blue"}', "there: colour)"),
    "inside.json": ('{"a": {"b": [{"c": "one two"}], "n": null}}', "there: a.b.c)"),
    "other.csv": ("colour,form\nblue,round", "there: colour, form), or a number"),
    "pairs.json": ('[["a", "b"]]', "cannot be guessed"),
    "old.txt": ("a", "must end in one of"),
    "gbk.jsonl": (json.dumps({"question": CHINESE}, ensure_ascii=False).encode("gbk"), "GBK"),
    "binary.csv": (b"\xff\xfe\x00\x01\x80", "UTF-16"),
    "no.parquet": (b"", "arquet"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_one_line(name: str, tmp_path: Path, check: Callable) -> None:
    content, said = DAMAGED[name]
    content = content.encode() if isinstance(content, str) else content
    (tmp_path / name).write_bytes(content)
    check([row(CAPITAL)], tmp_path / name, code=1)
    assert name in check.err and said in check.err
    assert not (tmp_path / "work" / "overlap.json").exists()


def test_a_missing_file_or_folder_is_one_line(tmp_path: Path, check: Callable) -> None:
    check([row(CAPITAL)], tmp_path / "none.jsonl", code=1)
    check([row(CAPITAL)], tmp_path, code=1)
    check([row(CAPITAL)], [row(CAPITAL)], "--data", "nowhere.jsonl", code=1)
    assert "give a dataset as --data" in check.err


@pytest.mark.parametrize(
    "line", ['{"output": "a"}', '{"instruction": ""}', '{"instruction": 7}', "[]", "7", "{"]
)
def test_a_dataset_without_an_instruction_is_one_line(
    line: str, tmp_path: Path, check: Callable
) -> None:
    (tmp_path / "d.jsonl").write_text(json.dumps(row("A")) + "\n" + line, encoding="utf-8")
    check([], [row(CAPITAL)], "--data", "d.jsonl", code=1)
    assert "d.jsonl, line 2" in check.err


@pytest.mark.parametrize(
    "flags",
    [
        ("--threshold", "1.5"),
        ("--threshold", "nan"),
        ("--ngram", "0"),
        ("--common", "-1"),
        ("--out", "list.txt"),
        ("--out", "."),
    ],
)
def test_a_setting_out_of_bounds_is_one_line(flags: tuple[str, str], check: Callable) -> None:
    check([row(CAPITAL)], [row(CAPITAL)], *flags, code=2)
    assert flags[0] in check.err


def test_a_line_of_a_megabyte_and_lone_surrogates_are_no_trouble(
    tmp_path: Path, check: Callable
) -> None:
    huge = " ".join(f"w{n % 977}" for n in range(150_000)) + "这是" * 10_000
    items = [{"question": huge + " more"}, {"question": "\ud800 " + LONG}]
    path = tmp_path / "huge.json"
    path.write_text(json.dumps(items), encoding="utf-8")
    lines = check([row("Unlike."), row(LONG), row(huge)], path)
    assert found_by(lines) == {2: {"exact", "ngram", "rouge_l"}, 3: {"ngram", "rouge_l"}}
    assert [line["item_text"] for line in lines if line["row"] == 2] == ["? " + LONG] * 3


# --------------------------------------------------------------------------------------------------
# What is written.

ROWS = [row(CAPITAL, output="Paris"), row("Write a poem about a lamp."), row(CHINESE), row(LONG)]
ITEMS = [{"question": CAPITAL}, {"question": CHINESE}]


def test_rows_are_dropped_into_a_new_file_and_the_counts_add_up(
    tmp_path: Path, check: Callable
) -> None:
    lines = check(ROWS, ITEMS, "--drop")
    assert read(tmp_path / "work" / "data.jsonl") == ROWS
    kept = read(tmp_path / "work" / "data_without_overlap.jsonl")
    assert kept == [ROWS[1], ROWS[3]]
    dropped = {line["row"] for line in lines}
    assert len(kept) + len(dropped) == len(ROWS) and dropped == {1, 3}
    assert "rows kept: 2 in work/data_without_overlap.jsonl; dropped: 2" in check.out
    told = json.loads((tmp_path / "work" / "overlap.json").read_text(encoding="utf-8"))
    counts = told["checked"][0]["rows"]
    for test in ("exact", "ngram", "rouge_l"):
        assert counts[test] == sum(line["test"] == test for line in lines)
    assert counts["any"] == told["rows_found"] == told["kept"]["dropped"] == 2
    numbers = [counts[name] for name in ("exact", "ngram", "rouge_l", "any")]
    cells = " +".join(map(str, [len(ITEMS), *numbers]))
    assert re.search(rf"^eval\.jsonl +{cells} +50\.0 %$", check.out, re.M)


def test_several_files_are_counted_together_once(tmp_path: Path, check: Callable) -> None:
    other = write(tmp_path / "b" / "eval.jsonl", ITEMS[:1])
    lines = check(ROWS, ITEMS, str(other))
    assert {line["file"] for line in lines} == {str(tmp_path / "eval.jsonl"), str(other)}
    assert re.search(r"^all files +2 +50\.0 %$", check.out, re.M)


def test_without_drop_no_dataset_is_written_and_without_overlap_no_evidence(
    tmp_path: Path, check: Callable
) -> None:
    check(ROWS, ITEMS)
    names = {path.name for path in (tmp_path / "work").iterdir()}
    assert names == {"data.jsonl", "overlap.jsonl", "overlap.json"}
    check(ROWS, [{"question": "Nothing of the kind."}])
    assert not (tmp_path / "work" / "overlap.jsonl").exists() and "no overlap" in check.out


def test_all_rows_dropped_leaves_no_file(tmp_path: Path, check: Callable) -> None:
    check(ROWS, ITEMS, "--drop")
    check(ROWS[:1], ITEMS, "--drop")
    assert "rows dropped: 1, which is all of them" in check.out
    assert not (tmp_path / "work" / "data_without_overlap.jsonl").exists()


def test_own_files_are_replaced_and_no_others(tmp_path: Path, check: Callable) -> None:
    check(ROWS, ITEMS, "--drop")
    check(ROWS, ITEMS[:1])
    check(ROWS, ITEMS, "--drop")  # the file of the first call is still ours
    for name in ("overlap.jsonl", "data_without_overlap.jsonl"):
        path = tmp_path / "work" / name
        path.write_text(path.read_text(encoding="utf-8") + "\n", encoding="utf-8")
        before = path.read_bytes()
        check(ROWS, ITEMS, "--drop", code=1)
        assert path.read_bytes() == before and name in check.err and "--overwrite" in check.err
        check(ROWS, ITEMS, "--drop", "--overwrite")
        assert path.read_bytes() != before


@pytest.mark.parametrize("name", ["overlap.jsonl", "overlap.json", "data_without_overlap.jsonl"])
def test_a_file_of_somebody_else_stays(name: str, tmp_path: Path, check: Callable) -> None:
    path = tmp_path / "work" / name
    path.parent.mkdir()
    path.write_text("{}", encoding="utf-8")
    check(ROWS, ITEMS, "--drop", code=1)
    assert path.read_text(encoding="utf-8") == "{}" and name in check.err
    assert len([*path.parent.iterdir()]) == 2


@pytest.mark.parametrize("name", ["work/data.jsonl", "eval.jsonl"])
def test_what_is_read_is_never_replaced(name: str, tmp_path: Path, check: Callable) -> None:
    check(ROWS, ITEMS, "--out", name, "--overwrite", code=2)
    assert read(tmp_path / "work" / "data.jsonl") == ROWS
    assert read(tmp_path / "eval.jsonl") == ITEMS


def test_a_file_named_twice_or_the_dataset_itself_is_refused(
    tmp_path: Path, check: Callable
) -> None:
    check(ROWS, ITEMS, "./eval.jsonl", code=2)
    check(ROWS, tmp_path / "work" / "data.jsonl", code=2)


def test_a_check_that_was_killed_while_writing_can_be_repeated(
    tmp_path: Path, check: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    check(ROWS, ITEMS, "--drop")
    whole = overlap.workshop.write_whole

    def killed(path: Path, lines: list[str]) -> None:
        if path.name == "overlap.jsonl":
            raise OSError(28, "No space left on device", str(path))
        whole(path, lines)

    monkeypatch.setattr(overlap.workshop, "write_whole", killed)
    check(ROWS, ITEMS[:1], "--drop", code=1)
    assert "No space left" in check.err
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert {line["row"] for line in check(ROWS, ITEMS[:1], "--drop")} == {1}


def test_other_shapes_of_a_dataset_keep_what_they_hold(tmp_path: Path, check: Callable) -> None:
    extra = {**row(CAPITAL), "id": 1}, {**row("Name a sea."), "id": 2, "note": None}
    (tmp_path / "d.json").write_text(json.dumps(extra), encoding="utf-8")
    check([], ITEMS, "--data", "d.json", "--drop")
    assert read(tmp_path / "d_without_overlap.jsonl") == [extra[1]]
    (tmp_path / "e.csv").write_text(
        f"instruction,input,output\n{CAPITAL},,P\nName a sea.,,Aral\n", encoding="utf-8"
    )
    check([], ITEMS, "--data", "e.csv", "--drop", "--out", "e.jsonl")
    assert read(tmp_path / "e_without_overlap.jsonl") == [row("Name a sea.", "", "Aral")]
    pairs = [{"input": CAPITAL + " Say it in a word.", "output": "P"}, {"input": "", "output": "x"}]
    write(tmp_path / "t.jsonl", [{"instruction": "Answer.", "instances": pairs}])
    items = write(tmp_path / "i.jsonl", [{"question": pairs[0]["input"]}])
    check([], items, "--data", "t.jsonl", "--drop", "--out", "t2.jsonl")
    assert read(tmp_path / "t_without_overlap.jsonl") == [row("Answer.", "", "x")]


def test_the_words_can_be_chinese(check: Callable) -> None:
    check(ROWS, ITEMS, "--drop", "--language", "zh")
    assert "data.jsonl：4 行" in check.out and "保留 2 行" in check.out
    english, chinese = overlap.WORDS["en"], overlap.WORDS["zh"]
    for name in english:
        assert {*re.findall(r"\{\w+", english[name])} == {*re.findall(r"\{\w+", chinese[name])}


def test_the_page_shows_what_the_command_prints(
    settings: Callable[..., Config], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (ROOT / "scripts" / "README.md").read_text(encoding="utf-8")
    shown = re.search(r"<!-- overlap -->\n```bash\n(.*?)```\n\n```text\n(.*?)```", page, re.S)
    command, output = shown[1].split("overlap.py ", 1)[1], shown[2]
    run(settings(work_dir="data/workshop"), say=lambda text: None)
    named = [str(ROOT / name) for name in command.split()]
    assert overlap.main([*named, "--data", str(tmp_path / "data/workshop/step4_final.jsonl")]) == 0
    assert capsys.readouterr().out == output


# --------------------------------------------------------------------------------------------------
# The card of a prepared folder.


@pytest.fixture
def card(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def do(name: str, *flags: str) -> str:
        source = str(tmp_path / "work" / name)
        assert prepare.main([source, "--output-dir", str(tmp_path / "out"), *flags]) == 0
        do.err = capsys.readouterr().err
        return (tmp_path / "out" / "README.md").read_text(encoding="utf-8")

    return do


def test_the_card_names_what_was_checked(tmp_path: Path, check: Callable, card: Callable) -> None:
    path = write(tmp_path / "private place" / "评测_1.jsonl", ITEMS)
    check(ROWS, path)
    text = card("data.jsonl")
    digest = overlap.record.digest_of(path)
    assert rf"| 评测\_1.jsonl | 2 | 2 | 1 | 2 | 2 | `{digest}` |" in text
    assert "Of 4 rows, 2 overlap with one of them; none was left out" in text
    assert "private place" not in text and "The seed tasks were not compared" not in text
    assert "The seed tasks were not compared" in card("data.jsonl", "--include-seed-tasks")


def test_the_card_of_what_is_left_says_what_was_dropped(check: Callable, card: Callable) -> None:
    check(ROWS, ITEMS, "--drop")
    assert "Of 4 rows, 2 overlapped with one of them and were left out" in card(
        "data_without_overlap.jsonl"
    )
    assert "none was left out" in card("data.jsonl")


@pytest.mark.parametrize("damage", ["data", "record", "other", "fields"])
def test_the_card_claims_nothing_where_data_or_record_have_changed(
    damage: str, tmp_path: Path, check: Callable, card: Callable
) -> None:
    check(ROWS, ITEMS)
    place = tmp_path / "work" / "overlap.json"
    told = json.loads(place.read_text(encoding="utf-8"))
    if damage == "data":
        write(tmp_path / "work" / "data.jsonl", ROWS[:3])
    elif damage == "fields":
        told["checked"][0]["rows"]["exact"] = "<b>all</b>"
        place.write_text(json.dumps(told), encoding="utf-8")
    else:
        place.write_text({"record": "{", "other": "[]"}[damage], encoding="utf-8")
    assert "Checked for overlap" not in card("data.jsonl")
    assert "the card does not say against what was checked" in card.err


def test_without_a_record_the_card_is_silent(tmp_path: Path, card: Callable) -> None:
    write(tmp_path / "work" / "data.jsonl", ROWS)
    assert "overlap" not in card("data.jsonl").lower() and "overlap" not in card.err


def test_what_users_say_in_a_prepared_dataset_is_compared(tmp_path: Path) -> None:
    asked, said = {"role": "user", "content": CAPITAL}, {"role": "assistant", "content": "Paris"}
    more = {"role": "user", "content": "And of Spain?"}
    human = {"from": "human", "value": CAPITAL}
    records = [
        {"messages": [asked, said]},
        {"conversations": [human, {"from": "gpt", "value": "Paris"}]},
        {"prompt": [asked], "completion": [said]},
        {"prompt": CAPITAL, "completion": " Paris"},
        {"messages": [asked, said, more, said]},
        {"prompt": [asked, said, more], "completion": [said]},
    ]
    prompts, kept = files.rows(write(tmp_path / "talks.jsonl", records))
    assert kept == records
    assert [prompt.instruction for prompt in prompts] == [CAPITAL] * 6
    assert [prompt.input for prompt in prompts] == [""] * 4 + ["And of Spain?"] * 2


def test_a_shape_of_errors(tmp_path: Path) -> None:
    with pytest.raises(WorkshopError, match="No such file"):
        files.records(tmp_path / "none.parquet")
