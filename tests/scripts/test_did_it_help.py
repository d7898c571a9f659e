"""scripts/did_it_help.py without a model: its data, its questions, its scores and its words."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from hashlib import sha256
from pathlib import Path

import pytest
from helpers.runs import ROOT

from scripts import prepare_for_finetuning
from scripts.helping import data, heldout, page, said, scores
from scripts.helping.heldout import Question
from scripts.preparing.formats import FORMATS
from self_instruct_workshop import (
    DEFAULT_SEEDS,
    Reply,
    Task,
    UsageError,
    WorkshopError,
    load_seed_tasks,
)

ROWS = [
    {"instruction": "Add the numbers.", "input": "2, 3", "output": "5"},
    {"instruction": "Name a river in Egypt.", "input": "", "output": "The Nile."},
    {"instruction": "Is the word a noun or a verb?", "input": "bread", "output": "noun"},
]
CHINESE = [
    {"instruction": "把两个数相加。", "input": "二和三", "output": "五"},
    {"instruction": "说出埃及的一条河。", "input": "", "output": "尼罗河。"},
    {"instruction": "这句话是褒义还是贬义？", "input": "他真勤快", "output": "褒义"},
]
QUESTION = Question("q", "Is it a noun or a verb?", "bread", "noun", ("noun", "verb"))


def written(path: Path, rows: list) -> Path:
    path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    return path


def task(instruction: str, source: str = "", output: str = "yes", label: bool = False) -> Task:
    return Task(instruction, instruction, label, [{"input": source, "output": output}])


def learnt(*questions: str) -> list[dict]:
    return [{"instruction": text, "input": "", "output": "x"} for text in questions]


# The data


@pytest.mark.parametrize("rows", [ROWS, CHINESE], ids=["en", "zh"])
@pytest.mark.parametrize("form", ["alpaca", "messages", "sharegpt", "prompt-completion"])
def test_every_format_of_prepare_for_finetuning_teaches_the_same(
    tmp_path: Path, rows: list[dict], form: str
) -> None:
    source = written(tmp_path / "rows.json", rows)
    command = [str(source), "--format", form, "--output-dir", str(tmp_path / "out")]
    assert prepare_for_finetuning.main(command) == 0
    found = data.read_dataset(tmp_path / "out")
    wanted = {(data.joined((row["instruction"], row["input"])), row["output"]) for row in rows}
    assert {(row["instruction"], row["output"]) for row in found.rows} == wanted
    assert len(found.rows) == 3 and not found.left_out
    assert data.is_chinese(found.rows) == (rows is CHINESE)


def test_what_is_no_single_question_and_answer_is_counted(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    rows = [
        {"messages": turns},
        {"messages": [{"role": "system", "content": "Be brief."}, *turns]},
        {"messages": turns * 2},
        {"prompt": turns[:1], "completion": turns[1:]},
        {"instruction": "Hi", "output": "", "input": None},
        {"instruction": "Hi", "output": "x", "history": [["a", "b"]]},
    ]
    found = data.read_dataset(written(tmp_path / "chats.json", rows))
    assert [row["instruction"] for row in found.rows] == ["Hi", "Be brief.\n\nHi", "Hi"]
    assert found.left_out == {data.SEVERAL: 2, data.EMPTY: 1}


@pytest.mark.parametrize("record", [{"text": "a"}, 7, {"instruction": "a"}, {"prompt": "a"}])
def test_a_record_of_another_shape_is_named(tmp_path: Path, record: object) -> None:
    with pytest.raises(WorkshopError, match=r"rows.json, record 2 has none of these"):
        data.read_dataset(written(tmp_path / "rows.json", [ROWS[0], record]))


def test_a_chat_in_parts_is_read_and_what_is_no_text_is_left_out(tmp_path: Path) -> None:
    red = {"role": "assistant", "content": "Red."}
    parts = {"role": "user", "content": [{"type": "text", "text": "Name a colour."}]}
    image = {"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}
    sharegpt = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]
    rows = [
        {"messages": [parts, red]},
        {"messages": [image, red]},
        {"messages": [{"role": "tool", "content": "x"}, red]},
        {"conversations": sharegpt, "system": "Be brief."},
    ]
    found = data.read_dataset(written(tmp_path / "chats.json", rows))
    asked = [row["instruction"] for row in found.rows]
    assert asked == ["Name a colour.", "Be brief.\n\nHi"]
    assert found.left_out == {data.UNREAD: 2}
    empty = [{"instruction": "", "output": "x"}, {"instruction": "Name it.", "instances": []}]
    found = data.read_dataset(written(tmp_path / "some.json", [*empty, rows[0]]))
    assert len(found.rows) == 1 and found.left_out == {data.EMPTY: 2}
    chosen = {"prompt": [parts], "chosen": [red], "rejected": [red]}
    with pytest.raises(WorkshopError, match="has none of these"):
        data.read_dataset(written(tmp_path / "pairs.json", [chosen]))


def test_why_rows_are_left_out_is_said_in_the_language_of_the_data() -> None:
    told = results("chance", "zh")
    counts = dict.fromkeys((data.SEVERAL, data.EMPTY, data.UNREAD), 2)
    text = page.of_dataset(told, {**told["datasets"][0], "left_out": counts})
    assert "；其中未用：2 行（不止一问一答）" in text
    assert not re.search("[a-z]{4}", text.replace("train.jsonl", ""))


def test_a_folder_without_a_dataset_and_a_file_without_rows_are_errors(tmp_path: Path) -> None:
    with pytest.raises(WorkshopError, match=r"neither train\.json nor train\.jsonl"):
        data.read_dataset(tmp_path)
    with pytest.raises(WorkshopError, match="no question with an answer"):
        data.read_dataset(written(tmp_path / "rows.json", []))


def test_shuffled_answers_are_the_same_answers_and_none_stays_at_its_question() -> None:
    rows = [{"instruction": f"q{i}", "input": "", "output": f"a{i}"} for i in range(50)]
    found = data.shuffled(data.Dataset("d", "0", rows), seed=3)
    assert [row["instruction"] for row in found.rows] == [row["instruction"] for row in rows]
    assert Counter(r["output"] for r in found.rows) == Counter(r["output"] for r in rows)
    assert not any(row["instruction"][1:] == row["output"][1:] for row in found.rows)
    assert found.digest != "0"
    with pytest.raises(WorkshopError, match="leave out --shuffled"):
        data.shuffled(data.Dataset("d", "0", rows[:1]), seed=3)


# The questions


@pytest.mark.parametrize(
    ("question", "why"),
    [
        ("Name a  RIVER in Egypt.", heldout.SAME),
        ("Name a river in Egypt.\n\nUse one word.", heldout.SAME),
        ("Name a long river in Egypt.", heldout.SIMILAR),
        ("Shorten it.\n\nThe old man walked down to the sea every day.", heldout.SAME_INPUT),
        ("Say why rivers flow to the sea.", ""),
    ],
)
def test_a_task_is_in_the_training_by_its_text_its_likeness_or_its_input(
    question: str, why: str
) -> None:
    tasks = [task("Name a river in Egypt.", "the old man walked down to the sea every day.")]
    found = heldout.overlap(tasks, learnt(question))
    assert [*found.values()] == ([why] if why else [])


SYSTEM = (
    "You are a careful assistant, who answers the questions of people in plain words, in short."
)


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("form", [name for name in FORMATS if name != "preference"])
def test_a_seed_task_is_found_in_every_format_and_shape_behind_a_system_text_too(
    form: str, language: str
) -> None:
    tasks = [one for one in load_seed_tasks(DEFAULT_SEEDS[language], language) if one.instances]
    talks = FORMATS[form].holds_talks
    rows = []
    for number, one in enumerate(tasks):
        row = {"instruction": one.instruction, **one.instances[0]}
        row |= {"system": SYSTEM} if talks and number % 2 else {}
        found = data.pairs_of("row", FORMATS[form].encode(row, language, 1))
        rows += learnt(*(question for question, _ in found))
    assert len(heldout.overlap(tasks, rows)) == len(tasks)


def test_an_instruction_like_a_seed_task_is_found_behind_a_system_text() -> None:
    found = heldout.overlap(
        [task("Name a river in Egypt.")], learnt(f"{SYSTEM}\n\nName a long river in Egypt.")
    )
    assert [*found.values()] == [heldout.SIMILAR]


def test_a_short_input_may_be_equal_by_chance() -> None:
    assert not heldout.overlap([task("Double it.", "7")], learnt("Say whether it is even.\n\n7"))


def choose(tmp_path: Path, tasks: list[Task], rows: list[dict], **changes: object) -> object:
    path = written(tmp_path / "exam.json", [])
    how = {"num": 10, "seed": 1, "own": False, "drop": False}
    return heldout.choose(path, tasks, rows, how | changes)


def test_overlap_of_a_named_file_is_refused_with_its_number_or_dropped(tmp_path: Path) -> None:
    tasks = [task("Name a river in Egypt."), task("Add the numbers."), task("Why is it cold?")]
    rows = learnt("Name a river in Egypt.", "add the numbers.")
    with pytest.raises(WorkshopError, match=r"2 of 3 tasks .*--drop-overlap"):
        choose(tmp_path, tasks, rows)
    for how in ({"drop": True}, {"own": True}):
        found = choose(tmp_path, tasks, rows, **how)
        assert [one.instruction for one in found.questions] == ["Why is it cold?"]
        assert found.overlap == {heldout.SAME: 2}


def test_where_all_seed_tasks_were_learnt_nothing_is_left(tmp_path: Path) -> None:
    tasks = load_seed_tasks(ROOT / "data" / "seed_tasks.jsonl")
    rows = [
        {"instruction": one.instruction, "input": pair["input"], "output": pair["output"]}
        for one in tasks
        for pair in one.instances
    ]
    with pytest.raises(WorkshopError, match=r"none of 175 tasks is left.*--include-seed-tasks"):
        choose(tmp_path, tasks, rows, own=True)


def test_a_larger_number_asks_the_same_tasks_and_more_and_one_instance_of_each() -> None:
    tasks = load_seed_tasks(ROOT / "data" / "seed_tasks.jsonl")
    few, many = heldout.drawn(tasks, 20, 7), heldout.drawn(tasks, 60, 7)
    assert len(few) == 20 and len(many) == 60
    assert {one.id for one in few} < {one.id for one in many}
    for one in many:
        asked = heldout.question(one, 7)
        assert {"input": asked.input, "output": asked.output} in [
            {name: text.strip() for name, text in pair.items()} for pair in one.instances
        ]
        assert bool(asked.labels) == bool(one.is_classification)


def test_the_published_shape_of_the_paper_s_252_tasks_is_read_as_it_is(tmp_path: Path) -> None:
    rows = [
        {
            "id": f"user_oriented_task_{i}",
            "motivation_app": "Grammarly",
            "instruction": text,
            "instances": [{"input": "Some text.", "output": "An answer."}],
        }
        for i, text in enumerate(["Find the passive verbs.", "Say what tone the letter has."])
    ]
    path = tmp_path / "user_oriented_instructions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found = choose(tmp_path, load_seed_tasks(path), learnt("Add the numbers."))
    assert [(one.id, one.input, one.output, one.labels) for one in found.questions] == [
        ("user_oriented_task_0", "Some text.", "An answer.", ()),
        ("user_oriented_task_1", "Some text.", "An answer.", ()),
    ]


def test_what_people_wrote_holds_nothing_that_is_asked(tmp_path: Path) -> None:
    tasks = load_seed_tasks(ROOT / "data" / "seed_tasks.jsonl")
    held_out = choose(tmp_path, tasks, learnt("Add the numbers."), own=True, num=60)
    dataset = heldout.people(held_out)
    assert len(dataset.rows) > 100
    asked = [task(one.instruction, one.input) for one in held_out.questions]
    assert heldout.overlap(asked, dataset.rows) == {}


def test_without_a_task_that_is_not_asked_there_is_no_upper_bound(tmp_path: Path) -> None:
    held_out = choose(tmp_path, [task("Why is it cold?"), task("Add them.")], [])
    with pytest.raises(UsageError, match=r"--upper-bound.*smaller --num"):
        heldout.people(held_out)


# The scores


def figures(text: str, question: Question = QUESTION) -> scores.Measured:
    return scores.measured(question, Reply(text, "stop"))


@pytest.mark.parametrize(
    ("text", "exact", "named"),
    [
        ("noun", True, True),
        (" Noun. ", True, True),
        ("The word is a noun.", False, True),
        ("It is a noun or a verb.", False, False),
        ("verb", False, False),
        ("nouns", False, False),
        ("", False, False),
    ],
)
def test_a_label_is_right_alone_or_named_alone(text: str, exact: bool, named: bool) -> None:
    found = figures(text)
    assert (found.exact, found.named) == (exact, named)


def test_a_label_within_another_label_is_not_named_by_it() -> None:
    asked = Question("q", "Does it match?", "x", "match", ("match", "no match"))
    assert not figures("There is no match.", asked).named
    assert figures("It is a match.", asked).named
    mixed = Question("q", "Does it match?", "x", "Yes", ("Yes", "yes.", "No"))
    assert figures("Yes, it does.", mixed).named


@pytest.mark.parametrize(
    ("instruction", "label", "options"),
    [
        ("Is it a River, a Lake or a Desert?", "Desert", "desert lake river"),
        ("Is the activity Finished, Ongoing or Planned?", "Ongoing", "finished ongoing planned"),
        ("Check the text, and respond with valid or invalid.", "valid", "invalid valid"),
        ("说出成语的感情色彩，答案限于褒义、贬义、中性。", "贬义", "中性 褒义 贬义"),
        ("Name the capital.", "Paris", ""),
    ],
)
def test_the_options_that_an_instruction_lists_are_rivals_of_the_label(
    instruction: str, label: str, options: str
) -> None:
    asked = Question("q", instruction, "x", label, (label,))
    assert {*options.split()} <= scores.listed(asked)
    all_of_them = " or ".join(options.split())
    assert figures(label, asked).named
    assert not options or not figures(all_of_them, asked).named


def test_chinese_labels_lose_their_marks_and_count_by_character() -> None:
    asked = Question("q", "褒义还是贬义？", "他真勤快", "褒义", ("褒义", "贬义"))
    assert figures("“褒义”。", asked).exact
    assert figures("这是一个褒义词。", asked).named
    assert figures("褒义", asked).tokens == 2
    assert figures("很抱歉，作为人工智能，我无法回答这个问题。", asked).refusal


def test_faults_of_form_are_seen() -> None:
    long = Question("q", "Correct it.", "He have two brother and one cat.", "He has two brothers.")
    assert figures("He have two brother and one cat!", long).copy
    assert not figures("Two brothers are there.", long).copy
    assert figures("", long).empty
    assert figures("I'm sorry, but I cannot help with that.", long).refusal
    assert scores.measured(long, Reply("He", "length")).cut
    near = Question("q", "Correct it.", "He have two cats.", "He has two cats.")
    assert not figures("He have two cats.", near).copy  # the reference is as near


@pytest.mark.parametrize(
    ("text", "tokens", "kept"),
    [
        ("It is a very long answer.", 3, "It is a"),
        ("Yes.", 5, "Yes."),
        ("因为天气很冷。", 4, "因为天气"),
        ("用 Python 写一个函数", 3, "用 Python 写"),
        ("a b", 0, ""),
    ],
)
def test_an_answer_is_cut_to_a_length(text: str, tokens: int, kept: str) -> None:
    assert scores.cut_to(text, tokens) == kept


def test_an_answer_ends_where_a_base_model_asks_the_next_question() -> None:
    assert scores.cleaned(" Yes.\n\n### Instruction:\nWhat now?") == "Yes."


def run(*rouge: float) -> list[list[scores.Measured]]:
    """The figures of one seed, with these scores."""
    one = figures("noun")
    return [[scores.Measured(**{**vars(one), "rouge": score}) for score in rouge * 10]]


LOW, HIGH = (0.1, 0.2, 0.15), (0.4, 0.5, 0.6)


@pytest.mark.parametrize(
    ("before", "after", "others", "kind"),
    [
        (LOW, HIGH, {}, "gain"),
        (LOW, HIGH, {"brief": run(*LOW)}, "gain"),
        (LOW, HIGH, {"control": run(*LOW)}, "helped"),
        (LOW, HIGH, {"brief": run(*LOW), "control": run(*LOW)}, "helped"),
        (LOW, HIGH, {"control": run(*HIGH)}, "form"),
        (LOW, HIGH, {"brief": run(*HIGH)}, "brevity"),
        (HIGH, LOW, {}, "worse"),
        (LOW, LOW, {}, "small"),
        ((0.1, 0.9), (0.9, 0.1), {}, "chance"),
    ],
)
def test_the_verdict_claims_what_its_intervals_allow(
    before: tuple, after: tuple, others: dict, kind: str
) -> None:
    assert scores.judged(run(*before), run(*after), **others).kind == kind


def test_several_seeds_count_as_their_mean_and_their_spread_is_told() -> None:
    after = run(*HIGH) + run(*(score + 0.1 for score in HIGH))
    found = scores.judged(run(*LOW), after)
    assert found.gain.mean == pytest.approx(0.40)
    assert found.spread == pytest.approx((0.35, 0.45))


def test_what_costs_nothing_is_scored_beside_the_models() -> None:
    other = Question("r", "Say it again.", "the long words of it", "the long words")
    free = scores.free_answers([QUESTION, other])
    assert free["copy"] == ["bread", "the long words of it"]
    assert free["label"] == ["noun", ""]
    assert [one.exact for one in scores.measured_texts([QUESTION, other], free["label"])] == [
        True,
        None,
    ]


# The words


def results(kind: str, language: str = "en", **changes: object) -> dict:
    """The results of a measurement in which `kind` was found."""
    low, high = run(*LOW), run(*HIGH)
    before, after = (high, low) if kind == "worse" else (low, high)
    if kind == "chance":
        before, after = run(0.1, 0.9), run(0.9, 0.1)
    if kind == "small":
        after = before
    control = {"helped": before, "form": after}.get(kind)
    if kind == "few":
        before, after, control = ([run[0][:9]] for run in (before, after, before))
    others = {"brief": after} if kind == "brevity" else {}
    others |= {"control": control} if control else {}
    verdict = scores.judged(before, after, **others)
    assert verdict.kind == kind
    lines = {"before": before, "data": after, "copy": low, "empty": run(0.0)}
    table = [
        {"name": name, "gain": None, "loss": None, **scores_of(each)}
        for name, each in lines.items()
    ]
    dataset = {"group": "data", "name": "mine", "file": "train.jsonl", "sha256": "0", "rows": 3}
    told = {"language": language, "form": "chat", "todo": [], "table": table, "base": "model"}
    told |= {"verdicts": [{"of": "data", **verdict.record()}], "seeds": [42], "curves": {}}
    told |= {"held_out": {"asked": 60}, "datasets": [{**dataset, "left_out": {}}]}
    return told | changes


def scores_of(each: list) -> dict:
    return json.loads(json.dumps(scores.summary(each), default=vars))


SAYS = {
    "helped": ("mine helped.", "mine 有用。"),
    "gain": ("cannot be told without a control", "没有对照"),
    "few": ("too few tasks were asked", "任务太少"),
    "brevity": ("shorter", "变短"),
    "form": ("no help can be told", "分不清"),
    "chance": ("no difference that can be told from chance", "看不出与偶然有别"),
    "small": ("smaller than 0.02", "小于 0.02"),
    "worse": ("did harm", "有害"),
}


@pytest.mark.parametrize("kind", SAYS)
def test_each_verdict_is_said_as_what_it_is_in_both_languages(kind: str) -> None:
    for language, words in zip(("en", "zh"), SAYS[kind], strict=True):
        paragraph, _ = said.paragraphs(results(kind, language))
        assert words in paragraph
        helped = ("mine helped", "mine 有用")
        assert any(text in paragraph for text in helped) == (kind == "helped")
        assert not re.search(r"[{}]", paragraph)


def test_a_gain_below_a_copy_of_the_input_and_few_labels_are_said() -> None:
    told = results("gain")
    told["table"][2]["rouge"]["mean"] = 0.9
    text = " ".join(said.paragraphs(told))
    assert "A copy of the input scores 0.900, no less than the model" in text
    assert "30 of 30 before" in text and "too few" not in text
    assert "One random seed" in text and "--shuffled adds the control" in text
    told = results("helped", form="plain")
    told["table"][0]["labels"] = 9
    plain = said.paragraphs(told)[-1]
    assert "9 labels are too few" in plain
    assert "which only the trained model has seen" in plain


def test_an_unfinished_measurement_says_so() -> None:
    text = said.paragraphs(results("helped", todo=["shuffled-data-42"]))[-1]
    assert "shuffled-data-42 still to be trained" in text


def test_both_languages_have_the_same_words() -> None:
    words = said.all_words()
    slots = {
        language: {name: sorted(re.findall(r"{\w+}", str(text))) for name, text in one.items()}
        for language, one in words.items()
    }
    assert slots["en"] == slots["zh"]
    assert words["en"]["heads"].keys() == words["zh"]["heads"].keys()


def test_the_table_has_a_column_for_labels_only_where_labels_are_asked_for() -> None:
    told = results("helped")
    assert "labels exactly right" in said.table(told)[0]
    for line in told["table"]:
        line["labels"] = 0
    assert "labels exactly right" not in said.table(told)[0]
    assert "named" not in said.as_text(told)


# The page


def test_what_a_model_wrote_is_text_on_the_page_and_nothing_is_fetched() -> None:
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
    told = results("helped", models=[], identity=dict.fromkeys("abc"))
    told["datasets"][0]["name"] = evil
    told["base"] = evil
    told |= {"versions": {}, "device": "cpu", "dtype": "float32"}
    told["held_out"] = dict.fromkeys(("file", "sha256", "labels", "tasks"), 1) | {
        "asked": 60,
        "overlap": {},
        "without_answer": 0,
        "too_long": 0,
    }
    names = ("steps", "lora_r", "lr", "max_length", "max_new_tokens")
    told["identity"] = dict.fromkeys(names, 1)
    row = {"id": evil, "instruction": evil, "input": evil, "reference": evil, "answers": {}}
    html = page.html_page(told, [row])
    assert "<img" not in html and "<script>alert" not in html
    assert html.count("</script>") == 2
    assert not re.search(r"<[^>]*(?:src|href)\s*=|url\(|@import|https?://", html)
    scripts = re.findall(r"<script>(.*?)</script>", html, re.S)
    assert all(page.allowed(text) in html for text in scripts) and len(scripts) == 1


def test_a_curve_falls_from_left_to_right() -> None:
    told = results("helped", curves={"data-42": [[0, 4.0], [12, 3.0], [24, 2.0]]})
    told["models"] = [{"name": "data-42", "group": "data", "seed": 42}]
    drawn = page.curves(told)
    (points,) = re.findall(r'points="([^"]*)"', drawn)
    places = [tuple(map(float, point.split(","))) for point in points.split()]
    assert places == sorted(places) and places[0][1] < places[1][1] < places[2][1]
    assert "4.00 → 2.00" in drawn


# The command line


def call(*arguments: str | Path) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "scripts" / "did_it_help.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, encoding="utf-8", timeout=120)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, "name one dataset, or two behind --compare"),
        (["a.json", "--compare", "b.json", "c.json"], 2, "name one dataset"),
        (["a.json", "--drop-overlap"], 2, "--drop-overlap goes with --eval"),
        (["a.json", "--num", "1"], 2, "--num must be at least 2"),
        (["a.json"], 1, "cannot read a.json (No such file"),
        (["a.json", "--steps", "0"], 2, "must be at least 1"),
    ],
)
def test_a_wrong_command_is_one_line_that_says_what_to_do(
    arguments: list[str], code: int, words: str
) -> None:
    done = call(*arguments)
    assert done.returncode == code and words in done.stderr
    assert "Traceback" not in done.stderr


def test_an_exam_in_the_training_is_refused_before_a_model_is_loaded(tmp_path: Path) -> None:
    file = written(tmp_path / "rows.json", ROWS)
    done = call(file, "--eval", file, "--model", tmp_path)
    assert done.returncode == 1 and "3 of 3 tasks" in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_digest_of_the_data_is_that_of_its_file(tmp_path: Path) -> None:
    file = written(tmp_path / "rows.json", ROWS)
    assert data.read_dataset(file).digest == sha256(file.read_bytes()).hexdigest()
