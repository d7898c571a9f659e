"""rewrite.py: a new output replaces the first one only where it is fit and says something else;
every row is accounted for, and no reply is asked for twice."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.runs import ROOT, quiet, rows, until
from helpers.server import Server, storm

from scripts import review, rewrite
from scripts.reviewing import pairs
from self_instruct_workshop import Config, Reply, as_text

FREE = {"instruction": "Name a river in Spain.", "input": "", "output": "Ebro", "labels": None}
ASKED = {
    "instruction": "Add the numbers.",
    "input": "2 and 3",
    "output": "It is six.",
    "labels": None,
}
MOOD = {
    "instruction": "Is the review positive or negative?",
    "input": "Cold soup.",
    "output": "positive",
    "labels": ["positive", "negative"],
}
CHINESE = {"instruction": "写一句问候。", "input": "", "output": "早上好。", "labels": None}


def answer(row: dict, text: str, finish: str = "stop") -> tuple[str, str]:
    return rewrite.read_answer(row, Reply(text, finish))


# --------------------------------------------------------------------------------------------------
# What is asked.


@pytest.mark.parametrize("row", [FREE, ASKED, MOOD, CHINESE], ids=["free", "asked", "mood", "zh"])
def test_the_task_stands_whole_at_the_end_as_a_user_would_ask_it(row: dict) -> None:
    (turn,) = rewrite.rewrite_prompt(row)
    parts = turn["content"].split("\n\n")
    assert turn["role"] == "user" and parts[1:] == [
        text for text in (row["instruction"], row["input"]) if text
    ]
    assert ("只写答案" in parts[0]) == (row is CHINESE)


def test_labels_are_named_where_stage_2_has_them() -> None:
    assert "exactly as written" in as_text(rewrite.rewrite_prompt(MOOD))
    assert "positive, negative" in as_text(rewrite.rewrite_prompt(MOOD))
    unknown = as_text(rewrite.rewrite_prompt({**MOOD, "labels": []}))
    assert "one label" in unknown and "positive, negative" not in unknown
    assert "label" not in as_text(rewrite.rewrite_prompt(FREE))
    chinese = {**CHINESE, "labels": ["好评", "差评"]}
    assert "好评、差评" in as_text(rewrite.rewrite_prompt(chinese))


# --------------------------------------------------------------------------------------------------
# What comes back.


@pytest.mark.parametrize(
    ("said", "left"),
    [
        ("5", "5"),
        ("Output: 5", "5"),
        ("**Output:** 5", "5"),
        ("**5**", "5"),
        ("```\n5\n```", "5"),
        ("```json\n{\n  5\n}\n```", "{\n  5\n}"),
        ("Sure! Here is the answer:\n\n5", "5"),
        ("Here is the sum:\n5", "5"),
        ("Here's the sum of the numbers:\n\n```\n5\n```", "5"),
        ("5\n\nLet me know if you need anything else!", "5"),
        ("5\n\n---\n\nI hope this helps!", "5"),
        ("Input: 2 and 3\nOutput: 5", "5"),
        ("2 and 3\n\nAnswer: 5", "5"),
        ("Add the numbers.\n\nOutput: 5", "5"),
        ("<think>2 + 3?</think>\n5<|im_end|>", "5"),
        ("当然，以下是答案：\n\n输出：5\n\n希望这对你有帮助！", "5"),
    ],
)
def test_what_stands_around_an_answer_is_taken_off(said: str, left: str) -> None:
    assert rewrite.tidy_answer(ASKED, said) == left


@pytest.mark.parametrize(
    "said",
    [
        "Input: 7\nOutput: 5",  # not the input of the task
        "Output: 5\nOutput: 6",  # two of them are the answer's own form
        "First find the sum.\n\nAnswer: 5",
        "Ingredients:\n\n- salt\n- water",
        "Here is my heart: it beats.",
        "**a** and **b**",
        "```python\nprint(5)\n```\n\nIt prints the sum.",
        "The sum is:\n5",
        "Name: Ann\nTask: adding",
    ],
)
def test_what_belongs_to_an_answer_stays(said: str) -> None:
    assert rewrite.tidy_answer(ASKED, said) == said


@pytest.mark.parametrize(
    ("row", "said", "rule"),
    [
        (FREE, "", "empty_output"),
        (FREE, "Name a river in Spain.", "copy_of_instruction"),
        (ASKED, "2 and 3", "output_equals_input"),
        (FREE, "The rivers are:", "unfinished"),
        (FREE, "...", "placeholder"),
        (FREE, "I'm sorry, but I can't help with that.", "refusal"),
        (ASKED, "Please provide the numbers you would like me to add.", "refusal"),
        (CHINESE, "抱歉，我无法完成这个请求。", "refusal"),
        ({**FREE, "instruction": "Write a Python function that adds."}, "Certainly", "no_code"),
        ({**FREE, "instruction": "What is 2 + 2? (4)"}, "4", "answer_in_instruction"),
        (FREE, rewrite.PROMPT["en"]["header"] + "\n\nTajo", "prompt_echo"),
        (ASKED, "2 and 3.", "output_equals_input"),
        (
            {**FREE, "instruction": "Task 10: A customer wants to swap an item for another one."},
            "The customer wants to swap an item for another one.",
            "copy_of_instruction",
        ),
        (FREE, "in the form that the task asks for", "prompt_echo"),
        ({**FREE, "output": "It is the river Ebro."}, "No.", "no_answer"),
        ({**FREE, "output": "It is the river Ebro."}, "No answer", "no_answer"),
        ({**CHINESE, "output": "祝您早上好，今天顺利。"}, "好的。", "no_answer"),
        (CHINESE, "Good morning to all of you.", "other_language"),
        (FREE, "西班牙的一条河是塔霍河。", "other_language"),
        (MOOD, "It is hard to say.", "not_a_label"),
        (MOOD, "not negative", "not_a_label"),
        (MOOD, "", "empty_output"),
        ({**MOOD, "labels": []}, "The review is negative because of the soup.", "not_a_label"),
    ],
)
def test_an_unfit_answer_breaks_a_rule_that_has_a_name(row: dict, said: str, rule: str) -> None:
    assert answer(row, said)[1] == rule


@pytest.mark.parametrize(
    ("row", "said", "output"),
    [
        (FREE, "The Tajo.", "The Tajo."),
        ({**FREE, "output": "Yes"}, "No", "No"),
        (
            {
                **FREE,
                "instruction": "Correct it: He go to the old school by bus and by train each day.",
                "output": "He went to the old school by bus and by train each day.",
            },
            "He goes to the old school by bus and by train each day.",
            "He goes to the old school by bus and by train each day.",
        ),
        ({**ASKED, "input": "i am ann", "output": "I am Ann"}, "I am Ann.", "I am Ann."),
        (MOOD, "Negative.", "negative"),
        (MOOD, "**negative**\n\nThe soup is cold.", "negative"),
        ({**MOOD, "labels": []}, "Negative", "Negative"),
        ({**CHINESE, "instruction": "把“早上好”译成英语。"}, "Good morning.", "Good morning."),
        (
            {**CHINESE, "instruction": "写一个加法函数。"},
            "def f(a, b): return a+b",
            "def f(a, b): return a+b",
        ),
        ({**FREE, "instruction": "Say good morning in Chinese."}, "早上好。", "早上好。"),
        ({**CHINESE, "instruction": "一年有几天？"}, "365", "365"),
    ],
)
def test_a_fit_answer_is_taken(row: dict, said: str, output: str) -> None:
    assert answer(row, said) == (output, "")


def test_an_answer_that_was_cut_off_is_unfit_however_good_it_looks() -> None:
    assert answer(FREE, "The Tajo", "length")[1] == "cut_off"
    assert answer(MOOD, "negative", "length")[1] == "cut_off"


@pytest.mark.parametrize(
    ("first", "new", "same"),
    [
        ("Ebro", "ebro", True),
        ("11", "The sum is 11.", True),
        ("The sum is 11.", "11", True),
        ("11", "12", False),
        ("Paris", "The capital of France is the city of Paris.", True),
        ("Rome", "The capital of France is the city of Paris.", False),
        ("not spam", "spam", False),
        ("The total is 20 dollars for all 10.", "In total 20 dollars for all 10 of them.", True),
        ("Mix 2 eggs with a cup of flour.", "He saw 2 dogs at the old mill.", False),
        # The same numbers in another order say another thing, and no numbers say nothing.
        (
            "The number 20 is far more significant than 10.",
            "The number 10 is far more than 20, or so.",
            False,
        ),
        ("A long answer without any number in it.", "Another one that has no number.", False),
        ("[(10, 20), (30, 40), (50, 60)], they are sorted.", "[[10, 60]]", False),
        ('{"date": "2021-09-15", "time": "14:00"}', '{"date": null, "time": null}', False),
        ("5", "word " * 40 + "5", False),
    ],
)
def test_two_answers_are_the_same_only_where_that_can_be_told(
    first: str, new: str, same: bool
) -> None:
    assert rewrite.says_the_same({"output": first, "labels": None}, new) is same


def test_labels_are_compared_as_labels() -> None:
    row = {"output": "Spam", "labels": ["spam", "not spam"]}
    assert rewrite.says_the_same(row, "spam")
    assert not rewrite.says_the_same(row, "not spam")


# --------------------------------------------------------------------------------------------------
# A whole dataset, against a server.

TASKS = 24


def write_data(folder: Path) -> Path:
    """Rows of a run: every fourth is a classification task, every third has an input."""
    folder.mkdir(parents=True, exist_ok=True)
    data, steps = [], []
    for n in range(TASKS):
        labelled = n % 4 == 0
        ends = "high or low" if labelled else "in words"
        instruction = f"Rate number {n} of the list, {ends}."
        data.append(
            {
                "instruction": instruction,
                "input": f"list {n}" if n % 3 == 0 else "",
                "output": "low" if labelled else f"first answer, of {n}",
            }
        )
        labels = ["high", "low"] if labelled else []
        steps.append({"instruction": instruction, "is_classification": labelled, "labels": labels})
    for name, records in (
        ("step4_final.jsonl", data),
        ("step2_is_classification.jsonl", steps),
    ):
        text = "".join(json.dumps(record) + "\n" for record in records)
        (folder / name).write_text(text, encoding="utf-8")
    settings = {"provider": "practice", "model": "small", "language": "en"}
    (folder / "run.json").write_text(json.dumps({"settings": settings}), encoding="utf-8")
    return folder / "step4_final.jsonl"


def number_in(prompt: str) -> int:
    return int(prompt.split("Rate number ")[1].split(" ")[0])


def writer(prompt: str, body: dict) -> str | tuple[str, str]:
    """Rows 1, 2, 3 modulo 8 get an unfit answer, 5 the first one; labels take turns."""
    n = number_in(prompt)
    if "high or low" in prompt:
        return "High." if n % 8 else "It depends."
    cut = ("A new answer of", "length")
    said = {1: "I'm sorry, but I can't help with that.", 2: "", 3: cut, 5: f"First answer, of {n}"}
    return said.get(n % 8, f"Sure! Here is the answer:\n\nRow {n}: {body['model']} says so.")


def call(data: Path, server: Server, *flags: str, model: str = "large") -> int:
    given = ["--data", str(data), "--provider", "local", "--base-url", server.url + "/v1"]
    patience = ["--first-wait", "0.01", "--max-attempts", "30"]
    named = ["--model", model] if model else []
    return rewrite.main([*given, *patience, *named, *flags])


def made(folder: Path) -> list[dict]:
    return rows(folder, "step5_rewritten.jsonl")


def asked(server: Server) -> list[str]:
    return [record["prompt"] for record in server.requests if record["method"] == "POST"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_data(tmp_path / "run")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What a run that nothing goes wrong with writes."""
    path = write_data(tmp_path_factory.mktemp("whole") / "run")
    with Server(writer) as server:
        assert call(path, server) == 0
    return path.with_name("step5_rewritten.jsonl").read_bytes()


def test_every_row_is_accounted_for_and_no_unfit_answer_replaces_one(data: Path) -> None:
    with Server(writer) as server:
        assert call(data, server) == 0
    before = rows(data.parent, "step4_final.jsonl")
    after = made(data.parent)
    for old, new in zip(before, after, strict=True):
        assert list(new) == [
            *("instruction", "input", "output", "first_output", "rewritten", "rule", "models")
        ]
        assert (new["instruction"], new["input"]) == (old["instruction"], old["input"])
        assert new["first_output"] == old["output"]
        assert new["rewritten"] == (new["output"] != old["output"]) == (not new["rule"])
        assert new["models"] == {"first": "small", "rewritten": "large"}
    rules = Counter(row["rule"] for row in after)
    assert rules == {"": 9, "same_answer": 3, "refusal": 3, "cut_off": 3, "empty_output": 3,
                     "not_a_label": 3}  # fmt: skip

    # The record says the same, and adds up.
    record = json.loads((data.parent / "rewrite.json").read_text("utf-8"))
    counts = record["counts"]
    fell_back = sum(counts["fell_back"].values())
    total = counts["rewritten"] + counts["same"] + fell_back + counts["undone"]
    assert counts["rows"] == TASKS == total and counts["undone"] == 0
    assert counts["fell_back"] == {
        rule: n for rule, n in rules.items() if rule not in ("", "same_answer")
    }
    assert record["model"] == "large" and record["data"]["file"] == "step4_final.jsonl"

    # What was not taken stands beside what the run turned away.
    rejected = rows(data.parent, "rejected.jsonl")
    assert {row["stage"] for row in rejected} == {"rewrite"} and len(rejected) == fell_back
    refusals = [row["output"] for row in rejected if row["rule"] == "refusal"]
    assert refusals == ["I'm sorry, but I can't help with that."] * 3


def test_an_answer_is_tidied_and_a_label_written_as_the_task_has_it(data: Path) -> None:
    with Server(writer) as server:
        assert call(data, server) == 0
    outputs = {row["output"] for row in made(data.parent) if row["rewritten"]}
    assert "Row 6: large says so." in outputs and "high" in outputs
    assert not any("Sure" in output for output in outputs)


def test_the_same_command_asks_nothing_again_and_writes_the_same_bytes(
    data: Path, whole: bytes
) -> None:
    with Server(writer) as server:
        assert call(data, server) == 0 and call(data, server) == 0
        prompts = Counter(asked(server))
    # An empty reply is asked for once more, once.
    twice = {number_in(prompt) for prompt, times in prompts.items() if times == 2}
    assert len(prompts) == TASKS and twice == {2, 10, 18} and max(prompts.values()) == 2
    assert data.with_name("step5_rewritten.jsonl").read_bytes() == whole
    assert len(rows(data.parent, "rejected.jsonl")) == 12, "and rejects nothing twice"


def test_faults_at_30_per_cent_change_nothing(data: Path, whole: bytes) -> None:
    with Server(writer, faults=storm(0.3, 7)) as server:
        assert call(data, server, "--concurrency", "8") == 0
        assert any(record["fault"] for record in server.requests)
    assert data.with_name("step5_rewritten.jsonl").read_bytes() == whole


@pytest.mark.slow
def test_a_killed_run_goes_on_and_asks_for_no_reply_twice(data: Path, whole: bytes) -> None:
    with Server(writer, delay=0.02) as server:
        command = [sys.executable, str(ROOT / "scripts" / "rewrite.py"), "--data", str(data)]
        command += ["--provider", "local", "--base-url", f"{server.url}/v1", "--model", "large"]
        running = subprocess.Popen(
            [*command, "--concurrency", "2"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until(lambda: len(asked(server)) >= 8)
        running.kill()
        running.wait()
        journal = (data.parent / "responses.jsonl").read_text("utf-8").rpartition("\n")[0]
        kept = {as_text(json.loads(line)["prompt"]) for line in journal.splitlines()}
        assert 0 < len(kept) < TASKS and not data.with_name("step5_rewritten.jsonl").exists()

        mark = len(server.requests)
        assert call(data, server) == 0
        again = Counter(record["prompt"] for record in server.requests[mark:])
    # Only a kept empty reply may be asked for once more.
    assert {number_in(prompt) % 8 for prompt in kept if prompt in again} <= {2}
    assert data.with_name("step5_rewritten.jsonl").read_bytes() == whole


def test_a_row_without_a_reply_keeps_its_first_output_and_the_next_call_asks_for_it_alone(
    data: Path, whole: bytes, capsys: pytest.CaptureFixture
) -> None:
    def refuse(index: int, prompt: str) -> str:
        return "500" if "number 7 " in prompt else ""

    with Server(writer, faults=refuse) as server:
        assert call(data, server, "--concurrency", "1", "--max-attempts", "2") == 3
    left = [row for row in made(data.parent) if row["rule"] == "undone"]
    assert [(row["output"], row["rewritten"]) for row in left] == [("first answer, of 7", False)]
    assert json.loads((data.parent / "rewrite.json").read_text("utf-8"))["counts"]["undone"] == 1

    with Server(writer) as server:
        assert call(data, server) == 0
        assert [number_in(prompt) for prompt in asked(server)] == [7]
    assert data.with_name("step5_rewritten.jsonl").read_bytes() == whole


def test_rows_that_share_instruction_and_input_are_asked_about_once(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    row = {"instruction": "Rate number 6 of the list, in words.", "input": "", "output": "a"}
    both = [row, {**row, "output": "b"}]
    path.write_text("".join(json.dumps(one) + "\n" for one in both), encoding="utf-8")
    with Server(writer) as server:
        assert call(path, server) == 0 and len(asked(server)) == 1
    assert [one["first_output"] for one in made(tmp_path)] == ["a", "b"]
    assert {one["models"]["first"] for one in made(tmp_path)} == {"unknown"}


# --------------------------------------------------------------------------------------------------
# What it costs, and what is in the way.


def test_an_estimate_asks_nothing_and_writes_nothing(
    data: Path, capsys: pytest.CaptureFixture
) -> None:
    with Server(writer) as server:
        assert call(data, server, "--estimate") == 0 and asked(server) == []
    assert "24 requests" in capsys.readouterr().out
    assert not data.with_name("step5_rewritten.jsonl").exists()


def test_a_limit_leaves_rows_undone_and_a_higher_one_goes_on(data: Path, whole: bytes) -> None:
    with Server(writer) as server:
        few = ("--max-tokens", "64", "--max-tokens-total", "1200")
        assert call(data, server, *few) == 3
        first = len(asked(server))
        assert 0 < first < TASKS
        undone = [row for row in made(data.parent) if row["rule"] == "undone"]
        assert undone and all(row["output"] == row["first_output"] for row in undone)
        assert call(data, server, "--max-tokens", "64") == 0
    assert data.with_name("step5_rewritten.jsonl").read_bytes() == whole


def test_where_nothing_is_answered_an_earlier_result_stays(data: Path) -> None:
    with Server(writer) as server:
        assert call(data, server) == 0
        before = data.with_name("step5_rewritten.jsonl").read_bytes()
        assert call(data, server, "--max-tokens-total", "1", model="another") == 3
    assert data.with_name("step5_rewritten.jsonl").read_bytes() == before


def error(capsys: pytest.CaptureFixture) -> str:
    said = capsys.readouterr()
    assert said.err.count("\n") == 1 and said.err.startswith("error: ")
    return said.err


@pytest.mark.parametrize("name", ["step5_rewritten.jsonl", "rewrite.json"])
def test_no_file_of_the_user_is_overwritten(
    data: Path, name: str, capsys: pytest.CaptureFixture
) -> None:
    data.with_name(name).write_text('{"mine": 1}\n', encoding="utf-8")
    with Server(writer) as server:
        assert call(data, server) == 2 and asked(server) == []
    assert name in error(capsys)
    assert data.with_name(name).read_text("utf-8") == '{"mine": 1}\n'


def test_a_number_of_rows_without_a_comparison_pays_for_nothing(
    data: Path, capsys: pytest.CaptureFixture
) -> None:
    with Server(lambda prompt, body: "It is 5.") as server, pytest.raises(SystemExit) as stop:
        address = ["--base-url", server.url + "/v1", "--model", "m"]
        rewrite.main(["--provider", "local", *address, "--data", str(data), "--num", "3"])
    assert stop.value.code == 2 and not server.requests
    assert "--num is for --compare" in capsys.readouterr().err
    assert not data.with_name("step5_rewritten.jsonl").exists()


def test_its_own_output_is_no_data_for_it(data: Path, capsys: pytest.CaptureFixture) -> None:
    with Server(writer) as server:
        assert call(data, server) == 0
        capsys.readouterr()
        assert call(data.with_name("step5_rewritten.jsonl"), server) == 2
    assert "give step4_final.jsonl" in error(capsys)


def test_a_model_that_rewrites_its_own_outputs_is_noticed(
    data: Path, capsys: pytest.CaptureFixture
) -> None:
    with Server(writer) as server:
        assert call(data, server, model="small") == 0
    assert "notice: small wrote these outputs" in capsys.readouterr().err


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_practice_run_is_rewritten_by_the_practice_model(
    settings: Callable[..., Config], language: str, capsys: pytest.CaptureFixture
) -> None:
    config = settings(num_instructions=60, language=language)
    quiet(config)
    folder = Path(config.work_dir)
    given = ["--data", str(folder / "step4_final.jsonl"), "--provider", "practice"]
    assert rewrite.main(given) == 0
    counts = json.loads((folder / "rewrite.json").read_text("utf-8"))["counts"]
    assert counts["rows"] == len(made(folder)) == len(rows(folder, "step4_final.jsonl"))
    # It has no better answers than the run: nearly all are the same, and its slips fall back.
    assert counts["same"] > 0.6 * counts["rows"] and counts["fell_back"]
    assert all("Let me know" not in row["output"] for row in made(folder))


def test_the_output_that_the_page_shows_is_what_it_prints_after_the_default_practice_run(
    settings: Callable[..., Config], capsys: pytest.CaptureFixture
) -> None:
    shown = r"<!-- rewrite -->\n```bash\n.*?```\n\n```text\n(.*?)```"
    block = re.search(shown, (ROOT / "scripts" / "README.md").read_text("utf-8"), re.S)
    config = settings()
    quiet(config)
    data = Path(config.work_dir) / "step4_final.jsonl"
    assert rewrite.main(["--provider", "practice", "--data", str(data)]) == 0
    assert capsys.readouterr().out.replace(config.work_dir, "data/workshop") == block[1]


# --------------------------------------------------------------------------------------------------
# --compare.


def compare(data: Path, server: Server, out: Path, *flags: str) -> int:
    return call(data, server, "--compare", "one", "two", "--out", str(out), *flags, model="")


def key_of(out: Path) -> list[dict]:
    return [*pairs.read_key(Path(f"{out}-key.jsonl")).values()]


def test_two_writers_become_blind_pairs_of_what_is_fit_and_differs(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    with Server(writer) as server:
        assert compare(data, server, tmp_path / "pairs", "--num", str(TASKS)) == 0
    found = key_of(tmp_path / "pairs")
    # Rows 6 and 7 modulo 8 have a fit answer that names its model; the others are unfit or alike.
    assert sorted(number_in(pair["instruction"]) for pair in found) == [6, 7, 14, 15, 22, 23]
    for pair in found:
        for side in pairs.SIDES:
            assert f": {pair[side]['writer']} says" in pair[side]["output"]
    assert {pair["A"]["writer"] for pair in found} == {"one", "two"}, "sides take turns"
    said = capsys.readouterr().out
    assert "one: 24 answers, unfit by form: " in said and "fit and differ: 6" in said

    # Nothing but the key says who wrote what.
    for kind in ("csv", "html"):
        text = (tmp_path / f"pairs.{kind}").read_text("utf-8")
        assert "writer" not in text and all(pair["id"] in text for pair in found)


def test_a_sample_that_was_paid_for_is_not_asked_again(data: Path, tmp_path: Path) -> None:
    with Server(writer) as server:
        assert compare(data, server, tmp_path / "pairs", "--num", "6") == 0
        sample = set(asked(server))
        mark = len(server.requests)
        assert call(data, server, model="two") == 0
        assert len(sample) == 6
        assert not sample & {record["prompt"] for record in server.requests[mark:]}


def test_a_limit_of_a_comparison_holds_for_both_together(data: Path, tmp_path: Path) -> None:
    flags = ("--num", "10", "--max-tokens", "64", "--max-tokens-total", "900")
    with Server(writer) as server:
        assert compare(data, server, tmp_path / "pairs", *flags) == 3
    lines = (data.parent / "responses.jsonl").read_text("utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    spent = sum(record["prompt_tokens"] + record["reply_tokens"] for record in records)
    assert 0 < spent <= 900


def test_a_comparison_writes_over_no_sheet_and_is_told_before_it_asks(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "pairs-key.jsonl").write_text("mine", encoding="utf-8")
    with Server(writer) as server:
        assert compare(data, server, tmp_path / "pairs") == 1 and asked(server) == []
    assert "pairs-key.jsonl is there already" in error(capsys)


def test_an_estimate_of_a_comparison_is_about_both(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    with Server(writer) as server:
        assert compare(data, server, tmp_path / "pairs", "--num", "9", "--estimate") == 0
        assert asked(server) == []
    assert capsys.readouterr().out.count("9 requests") == 2
    assert not (tmp_path / "pairs.csv").exists()


def test_the_second_writer_may_be_at_another_address(data: Path, tmp_path: Path) -> None:
    with Server(writer) as here, Server(writer) as there:
        flags = ("--num", "8", "--base-url-b", there.url + "/v1")
        assert compare(data, here, tmp_path / "pairs", *flags) == 0
        models = [{record["body"]["model"] for record in s.requests} for s in (here, there)]
    assert models == [{"one"}, {"two"}]


def test_what_was_rewritten_becomes_pairs_with_the_first_outputs(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    with Server(writer) as server:
        assert call(data, server) == 0
    capsys.readouterr()
    arguments = ["--data", str(data.with_name("step5_rewritten.jsonl")), "--num", "5"]
    assert review.main(["pairs", *arguments, "--out", str(tmp_path / "both")]) == 0
    changed = {
        row["instruction"]: {row["first_output"], row["output"]}
        for row in made(data.parent)
        if row["rewritten"]
    }
    found = key_of(tmp_path / "both")
    assert len(found) == 5
    for pair in found:
        assert {pair[side]["output"] for side in pairs.SIDES} == changed[pair["instruction"]]
        assert {pair[side]["writer"] for side in pairs.SIDES} == {"small", "large"}
