"""The report of a run, read as a program reads it; tests/browser/test_report_browser.py looks at it
in a browser."""

from __future__ import annotations

import base64
import gc
import gzip
import json
import random
import re
import sys
import tracemalloc
from collections import Counter
from collections.abc import Callable
from hashlib import sha256
from itertools import chain, pairwise
from pathlib import Path

import pytest
from helpers.report_runs import HOSTILE, Page, big_run, hostile_run, joined
from helpers.runs import ROOT, stage_of
from helpers.server import Server, scripted_model

import self_instruct
import self_instruct_workshop as workshop
from self_instruct_workshop import STAGES, STEP_FILES, Config, InstructionPool, WorkshopError

for package in ("plotly", "textblob", "jieba"):
    pytest.importorskip(package)

from plotly.offline import get_plotlyjs  # noqa: E402

from scripts import judge, report, rewrite  # noqa: E402
from scripts.helping.data import fingerprints, read_dataset  # noqa: E402
from scripts.report import write_report  # noqa: E402
from scripts.reporting import rows as report_rows  # noqa: E402
from scripts.reporting import verb_nouns  # noqa: E402
from scripts.reporting.numbers import histogram, words  # noqa: E402
from scripts.reporting.run import newest_replies  # noqa: E402

KINDS = {
    "en": {"num_instructions": 60},
    "zh": {"num_instructions": 60, "language": "zh"},
    "paper": {"num_instructions": 60, "recipe": "paper"},
    "cut": {"num_instructions": 60, "max_tokens": 45},
    **{f"until {stage}": {"num_instructions": 24, "until": stage} for stage in STAGES[:3]},
}
MOST_OF_A_TASK = 4000  # bytes of memory that a report takes for each task of a run
RUNS: dict[str, tuple[Path, dict]] = {}


@pytest.fixture
def practice(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, dict]]:
    """The folder and the summary of a practice run; each kind is made once, so leave it as it
    is."""

    def make(kind: str) -> tuple[Path, dict]:
        if kind not in RUNS:
            folder = tmp_path_factory.mktemp("run") / "work"
            config = Config(provider="practice", work_dir=str(folder), **KINDS[kind])
            RUNS[kind] = folder, workshop.run(config, say=lambda text: None)
        return RUNS[kind]

    return make


def read(folder: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (folder / name).read_text(encoding="utf-8").splitlines()]


def copy(folder: Path, to: Path, *without: str) -> Path:
    to.mkdir()
    for path in folder.iterdir():
        if path.name not in (*without, ".lock", "report.html"):
            (to / path.name).write_bytes(path.read_bytes())
    return to


def page_of(folder: Path, tmp_path: Path, language: str = "") -> Page:
    return Page(write_report(folder, tmp_path / "page.html", language))


every_kind = pytest.mark.parametrize("kind", KINDS)


# --------------------------------------------------------------------------------------------------
# Numbers.


@every_kind
def test_counts_tokens_and_settings_are_those_of_run_json(
    kind: str, practice: Callable, tmp_path: Path
) -> None:
    folder, _ = practice(kind)
    summary = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    numbers = page_of(folder, tmp_path).numbers
    assert numbers["counts"] == summary["counts"]
    assert numbers["tokens"] == summary["tokens"]
    assert numbers["spending"] == summary["spending"]
    assert numbers["run"]["status"] == summary["status"]
    shown = numbers["run"]["settings"]
    hidden = {"work_dir"} | {name for name, value in summary["settings"].items() if value == ""}
    assert {k: v for k, v in shown.items() if k not in hidden} == {
        k: v for k, v in summary["settings"].items() if k not in hidden
    }


@every_kind
def test_there_is_a_row_for_everything_that_run_json_counts(
    kind: str, practice: Callable, tmp_path: Path
) -> None:
    folder, summary = practice(kind)
    page, counts = page_of(folder, tmp_path), summary["counts"]
    last = STAGES[STAGES.index(summary["settings"]["until"])]
    kept = (
        [i for row in read(folder, STEP_FILES[2]) for i in row["instances"]]
        if last == "instances"
        else None
    )
    assert len(page.of(status="kept")) == (len(kept) if kept is not None else counts[last]["out"])
    rejected = Counter((row["stage"], row["rule"]) for row in page.of(status="rejected"))
    assert rejected == {
        (stage, rule): n for stage in STAGES for rule, n in counts[stage]["rejected"].items()
    }
    assert len(page.of(status="undone")) == sum(summary["undone_because"].values())
    assert page.numbers["rows"] == len(page.rows)


def test_table_1_is_counted_in_the_files_and_the_papers_column_is_the_papers(
    practice: Callable, tmp_path: Path
) -> None:
    folder, _ = practice("en")
    table, dataset = page_of(folder, tmp_path).numbers["table1"], read(folder, STEP_FILES[3])
    ours, flags = (
        table["ours"],
        Counter(row["is_classification"] for row in read(folder, STEP_FILES[1])),
    )
    assert (ours["classification"], ours["not_classification"], ours["unknown"]) == (
        flags[True],
        flags[False],
        flags[None],
    )
    assert ours["instructions"] == len(read(folder, STEP_FILES[0]))
    assert ours["instances"] == len(dataset)
    assert ours["empty_inputs"] == sum(row["input"] == "" for row in dataset)
    lengths = [len(row["output"].split()) for row in dataset]
    assert ours["output_length"] == round(sum(lengths) / len(lengths), 1)
    inputs = [len(row["input"].split()) for row in dataset if row["input"]]
    assert ours["input_length"] == round(sum(inputs) / len(inputs), 1)
    assert list(table["paper"].values()) == [52445, 11584, 40861, 82439, 35878, 15.9, 12.7, 18.9]


def test_what_a_run_has_not_come_to_is_left_open(practice: Callable, tmp_path: Path) -> None:
    ours = page_of(practice("until generate")[0], tmp_path).numbers["table1"]["ours"]
    assert ours["instructions"] == 24
    assert [
        ours[name] for name in ("classification", "instances", "empty_inputs", "output_length")
    ] == [None] * 4


def test_a_chinese_character_is_half_a_word_and_a_run_of_letters_is_one() -> None:
    assert words("用SQL查询三张表。", "zh") == 6 / 2 + 1
    assert words("Sort these words.", "zh") == words("Sort these words.", "en") == 3


def test_each_histogram_holds_every_text_once(practice: Callable, tmp_path: Path) -> None:
    folder, summary = practice("en")
    page, dataset = page_of(folder, tmp_path), read(folder, STEP_FILES[3])
    bars = {name: sum(data["bars"]) for name, data in page.numbers["histograms"].items()}
    inputs = sum(row["input"] != "" for row in dataset)
    made = summary["counts"]["generate"]["out"]
    assert bars == {"seed": made, "instruction": made, "input": inputs, "output": len(dataset)}


def test_one_giant_does_not_squeeze_a_histogram() -> None:
    data = histogram([*range(1, 21)] * 20 + [100_000])
    assert sum(data["bars"]) == 401 and data["open"] and data["bars"][-1] == 1
    assert len(data["bars"]) < 30 and data["width"] == 1


def test_rouge_l_is_that_of_the_nearest_seed_task(practice: Callable, tmp_path: Path) -> None:
    folder, _ = practice("en")
    pool = InstructionPool()
    for task in workshop.load_seed_tasks(workshop.DEFAULT_SEEDS["en"]):
        pool.add(task.instruction)
    scores = [pool.nearest(row["instruction"], 1)[0][1] for row in read(folder, STEP_FILES[0])]
    data = page_of(folder, tmp_path).numbers["histograms"]["seed"]
    assert data["mean"] == round(sum(scores) / len(scores), 2)
    assert data["bars"][5] == sum(0.25 <= score + 1e-9 < 0.3 for score in scores) > 0


def test_novelty_adds_up_to_the_new_instructions(practice: Callable, tmp_path: Path) -> None:
    folder, summary = practice("en")
    data = page_of(folder, tmp_path).numbers["novelty"]
    assert (
        data["width"] == 1
        and len(data["means"]) == data["requests"] == summary["tokens"]["generate"]["replies"]
    )
    assert sum(data["means"]) == summary["counts"]["generate"]["out"]
    assert data["last_ten"] == summary["counts"]["generate"]["new_per_request"]


def test_labels_are_the_outputs_of_classification_tasks(practice: Callable, tmp_path: Path) -> None:
    folder, _ = practice("en")
    flags = {row["instruction"]: row["is_classification"] for row in read(folder, STEP_FILES[1])}
    outputs = [row["output"] for row in read(folder, STEP_FILES[3]) if flags[row["instruction"]]]
    data = page_of(folder, tmp_path).numbers["labels"]
    assert data["all"] == len(outputs) > 0
    assert {label for label, _ in data["rows"]} <= set(outputs)


# --------------------------------------------------------------------------------------------------
# Rows and their raw replies.


@pytest.mark.parametrize("kind", ["en", "zh", "paper", "cut"])
def test_every_row_leads_to_the_replies_that_it_came_from(
    kind: str, practice: Callable, tmp_path: Path
) -> None:
    folder, summary = practice(kind)
    page, recipe = page_of(folder, tmp_path), summary["settings"]["recipe"]
    said = {stage: {row["instruction"]: row["response"] for row in read(folder, STEP_FILES[n])}
            for n, stage in ((1, "classify"), (2, "instances"))}  # fmt: skip
    stops = workshop.parameters(Config(recipe=recipe), "generate").get("stop", [])
    for row in page.of(status="kept") + page.of(status="rejected"):
        replies = [page.reply(number) for number in row["replies"]]
        first = workshop.Reply(replies[0]["text"], "stop", prompt=replies[0]["prompt"])
        first.stop_at(stops)
        number = workshop.dangling_number(first.prompt)
        assert row["instruction"] in workshop.parse_instructions(
            first.text, recipe=recipe, first=number
        )
        for stage in STAGES[1 : STAGES.index(row["stage"]) + 1][:2]:
            # In stage 3 a second answer may stand behind the reply with the instances.
            asked = [reply for reply in replies if reply["stage"] == stage]
            text = said[stage][row["instruction"]]
            assert all(row["instruction"] in reply["prompt"] for reply in asked)
            assert any(reply["text"].startswith(text) for reply in asked)


@every_kind
def test_the_replies_of_the_page_are_those_of_the_journal_to_the_letter(
    kind: str, practice: Callable, tmp_path: Path
) -> None:
    folder, _ = practice(kind)
    page = page_of(folder, tmp_path)
    journal = [one for one in read(folder, "responses.jsonl") if "part_of" not in one]
    wanted = [(workshop.as_text(one["prompt"]), one["text"]) for one in journal]
    assert [(reply[8], reply[9]) for reply in page.replies] == wanted != []


@pytest.mark.parametrize("kind", ["en", "zh"])
def test_a_reply_does_not_repeat_what_its_rows_show(
    kind: str, practice: Callable, tmp_path: Path
) -> None:
    page = page_of(practice(kind)[0], tmp_path)
    packed = [reply for piece in page.pieces("replies") for reply in piece]
    checked = 0
    for row in page.of(status="kept"):
        for number in row["replies"]:
            texts = json.dumps(packed[number][8:], ensure_ascii=False)
            for text in (row["instruction"], row["output"]):
                if len(text) >= report_rows.SHORTEST and not {*text} & {*'\n"\\'}:
                    assert text not in texts
                    checked += text in page.reply(number)["text"]
    assert checked >= len(page.of(status="kept"))


def test_texts_in_parts_are_the_same_texts_again() -> None:
    dice = random.Random(5)
    for _ in range(300):
        text = ["".join(dice.choices("ab\n\r\u2028 ", k=dice.randrange(40))) for _ in range(6)]
        rows = [[*"...", *dice.choices(text, k=3), None, dice.choice(text)] for _ in range(2)]
        rows[1][4] = None
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(report_rows, "SHORTEST", 1)
            known = report_rows.texts_of(rows, [0, 1])
        replies = [
            [*range(8), "".join(dice.choices(text, k=3)), dice.choice([*text, None])]
            for _ in range(4)
        ]
        parts = [
            [*facts, *(report_rows.in_parts(one, known) for one in two)]
            for *facts, two in ((*reply[:8], reply[8:]) for reply in replies)
        ]
        packed, seen = json.loads(json.dumps(report_rows.numbered(parts))), []
        again = [[*one[:8], *(joined(part, seen, rows) for part in one[8:])] for one in packed]
        assert again == replies


def test_a_rejected_row_names_the_neighbour_that_caused_it(
    practice: Callable, tmp_path: Path
) -> None:
    folder, _ = practice("en")
    wanted = [
        (r["instruction"], r["evidence"], r["score"])
        for r in read(folder, "rejected.jsonl")
        if r["rule"] == "too_similar"
    ]
    shown = page_of(folder, tmp_path).of(rule="too_similar")
    assert [(row["instruction"], row["evidence"], row["score"]) for row in shown] == wanted != []


def test_copies_in_two_replies_lead_to_their_own(tmp_path: Path) -> None:
    text = "Name three rivers of Europe and their lengths."

    def answer(prompt: str, body: dict) -> str:
        return f"9. {text}\n10. Sum up request {len(prompt)} {hash(prompt)} in a line."

    with Server(answer) as server:
        config = {
            "provider": "local",
            "base_url": server.url,
            "model": "m",
            "work_dir": str(tmp_path / "work"),
        }
        config |= {
            "num_instructions": 6,
            "patience": 3,
            "until": "generate",
            "machine_tasks_shown": 0,
        }
        workshop.run(Config(**config), say=lambda text: None)
    page = page_of(tmp_path / "work", tmp_path)
    numbers = [row["replies"][0] for row in page.of(instruction=text)]
    assert len(numbers) > 2 and len({*numbers}) == len(numbers)


def test_truncated_rows_are_marked(practice: Callable, tmp_path: Path) -> None:
    folder, summary = practice("cut")
    page = page_of(folder, tmp_path)
    assert sum(stage["cut"] for stage in summary["tokens"].values()) > 0
    cut = {n for n, reply in enumerate(page.replies) if reply[2] == "length"}
    for row in page.of():
        assert row["cut"] == int(row["rule"] == "cut_off" or row["replies"][-1] in cut)
    assert {row["cut"] for row in page.of(status="kept")} == {0, 1}


def test_a_second_try_is_shown_beside_the_first(practice: Callable, tmp_path: Path) -> None:
    folder, _ = practice("zh")
    page = page_of(folder, tmp_path)
    twice = [
        row for row in page.of() if any(page.reply(number)["attempt"] for number in row["replies"])
    ]
    assert twice
    for row in twice:
        stages = [page.reply(number)["stage"] for number in row["replies"]]
        assert max(Counter(stages).values()) == 2


def test_a_reply_to_several_instructions_is_the_reply_of_each_and_stands_there_once(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "work"
    with Server(scripted_model()) as server:
        settings = [
            "--provider",
            "local",
            "--base-url",
            server.url,
            "--num-instructions",
            "24",
            "--yes",
        ]
        assert self_instruct.main([*settings, "--work-dir", str(folder)]) == 0
    page, said = (
        page_of(folder, tmp_path),
        {row["instruction"]: row for row in read(folder, STEP_FILES[1])},
    )
    tokens = json.loads((folder / "run.json").read_text(encoding="utf-8"))["tokens"]
    assert tokens["classify"]["replies"] == 1 + 16 + 3, "seed tasks in a list and alone, 3 lists"
    assert Counter(reply[0] for reply in page.replies) == {
        stage: spent["replies"] for stage, spent in tokens.items()
    }
    for row in page.of(status="kept"):
        [reply] = [
            page.reply(number)
            for number in row["replies"]
            if page.reply(number)["stage"] == "classify"
        ]
        tasks = [line.split(". ", 1)[1] for line in reply["prompt"].split("\n\n")[-2].split("\n")]
        answer = reply["text"].split("\n")[tasks.index(row["instruction"])].split(". ", 1)[1]
        assert said[row["instruction"]]["response"] == f"Options: {answer}"


def test_replies_of_another_run_in_the_folder_are_left_out(tmp_path: Path) -> None:
    config = {"provider": "practice", "num_instructions": 16, "work_dir": str(tmp_path / "work")}
    workshop.run(Config(**config, seed=1), say=lambda text: None)
    workshop.run(Config(**config, seed=2), say=lambda text: None)
    page = page_of(tmp_path / "work", tmp_path)
    told = json.loads((tmp_path / "work" / "run.json").read_text(encoding="utf-8"))["tokens"]
    assert sum(reply[0] == "generate" for reply in page.replies) == told["generate"]["replies"]


TOPICS = {"cooking": 2, "<script>window.hacked = 1</script>": 1, "法律": 1}


def run_with_topics(tmp_path: Path, name: str = "work", **settings: object) -> tuple[Path, dict]:
    path = tmp_path / "topics.json"
    path.write_text(json.dumps(TOPICS), encoding="utf-8")
    folder = tmp_path / name
    config = Config(
        provider="practice",
        num_instructions=24,
        topics=str(path),
        work_dir=str(folder),
        **settings,
    )
    return folder, workshop.run(config, say=lambda text: None)


def test_each_topic_has_a_row_that_adds_up_with_the_files(tmp_path: Path) -> None:
    folder, summary = run_with_topics(tmp_path)
    page = page_of(folder, tmp_path)
    shown = page.numbers["topics"]
    columns = ("wanted", "kept", "rejected", "requests")
    assert shown == [[name, *map(row.get, columns)] for name, row in summary["topics"].items()]
    assert {name: wanted for name, wanted, *_ in shown} == dict(
        zip(TOPICS, (12, 6, 6), strict=True)
    )
    kept = Counter(row["topic"] for row in read(folder, "step1_instructions.jsonl"))
    assert {name: kept for name, _, kept, *_ in shown} == kept
    counts = summary["counts"]["generate"]
    assert sum(row[3] for row in shown) == sum(counts["rejected"].values())
    assert sum(row[4] for row in shown) == page.numbers["novelty"]["requests"]
    # A topic is text, and the folder of its file is nobody's business.
    assert "<script>window.hacked" not in page.text
    assert page.numbers["run"]["settings"]["topics"] == "topics.json"
    assert (
        "每次请求带来的新指令数" in page_of(folder, tmp_path, "zh").numbers["words"]["topics_note"]
    )


def test_without_run_json_only_what_was_kept_of_a_topic_is_known(tmp_path: Path) -> None:
    folder, summary = run_with_topics(tmp_path)
    page = page_of(copy(folder, tmp_path / "killed", "run.json"), tmp_path)
    kept = {name: row["kept"] for name, row in summary["topics"].items()}
    assert {row[0]: row[1:] for row in page.numbers["topics"]} == {
        name: [None, n, None, None] for name, n in kept.items()
    }
    assert all(row["replies"] for row in page.of(status="kept"))


def test_a_run_without_topics_has_no_such_table(practice: Callable, tmp_path: Path) -> None:
    assert page_of(practice("en")[0], tmp_path).numbers["topics"] == []


def test_replies_of_a_run_without_these_topics_are_left_out(tmp_path: Path) -> None:
    folder, _ = run_with_topics(tmp_path)
    for topics in (str(tmp_path / "topics.json"), ""):
        config = Config(
            provider="practice", num_instructions=24, topics=topics, work_dir=str(folder)
        )
        summary = workshop.run(config, say=lambda text: None)
        page = page_of(folder, tmp_path)
        told = summary["tokens"]["generate"]["replies"]
        assert sum(reply[0] == "generate" for reply in page.replies) == told
        asked = [reply for reply in page.replies if reply[0] == "generate"]
        assert all(("Every task is about" in str(reply)) == bool(topics) for reply in asked)


def test_what_is_undone_is_shown(tmp_path: Path) -> None:
    """Held back for good: one request of stage 1, and three tasks of stage 3."""
    model, asked, stages = scripted_model(), Counter(), {"generate": 1, "instances": 3}

    def faults(index: int, prompt: str) -> str:
        stage = stage_of(prompt)
        asked[stage] += 1
        # A question that is held back is asked twice.
        return "filter" if 1 < asked[stage] <= 1 + 2 * stages.get(stage, 0) else ""

    with Server(model, faults=faults) as server:
        config = Config(
            provider="local",
            base_url=server.url,
            model="m",
            num_instructions=16,
            concurrency=1,
            work_dir=str(tmp_path / "work"),
            first_wait=0.01,
        )
        summary = workshop.run(config, say=lambda text: None)
    page = page_of(tmp_path / "work", tmp_path)
    undone = Counter(row["stage"] for row in page.of(status="undone"))
    wanted = {stage: n for stage in STAGES if (n := summary["counts"][stage]["undone"])}
    assert undone == wanted == stages
    assert sum(summary["undone_because"].values()) == 1 + 3
    assert [notice[0] for notice in page.numbers["notices"]] == ["undone"]
    filtered = [
        page.reply(row["replies"][-1]) for row in page.of(status="undone", stage="instances")
    ]
    assert {reply["finish_reason"] for reply in filtered} == {"content_filter"}


# --------------------------------------------------------------------------------------------------
# What is not there.


def test_without_run_json_figures_come_from_the_step_files(
    practice: Callable, tmp_path: Path
) -> None:
    folder, summary = practice("en")
    page = page_of(copy(folder, tmp_path / "killed", "run.json"), tmp_path)
    assert [notice[0] for notice in page.numbers["notices"]] == ["no_run_json"]
    assert page.numbers["counts"]["generate"]["out"] == summary["counts"]["generate"]["out"]
    assert len(page.of(status="kept")) == summary["counts"]["filter"]["out"]
    assert all(row["replies"] for row in page.of(status="kept"))


def test_without_a_journal_the_step_files_say_what_they_have(
    practice: Callable, tmp_path: Path
) -> None:
    folder, _ = practice("en")
    page = page_of(copy(folder, tmp_path / "no journal", "responses.jsonl"), tmp_path)
    assert [notice[0] for notice in page.numbers["notices"]] == ["no_journal"]
    for row in page.of(status="kept"):
        stage1, *later = (page.reply(number) for number in row["replies"])
        assert (
            stage1["prompt"]
            and stage1["text"]
            and [reply["stage"] for reply in later] == ["classify", "instances"]
        )


def test_of_a_journal_alone_there_is_a_report_too(practice: Callable, tmp_path: Path) -> None:
    folder = tmp_path / "journal"
    folder.mkdir()
    (folder / "responses.jsonl").write_bytes((practice("en")[0] / "responses.jsonl").read_bytes())
    page = page_of(folder, tmp_path)
    assert page.rows == [] and page.numbers["counts"]["generate"]["out"] == 0
    assert (
        page.numbers["novelty"] is None
    )  # not "0 new instructions": nobody has read the replies yet


def test_an_interrupted_run_shows_what_it_has(practice: Callable, tmp_path: Path) -> None:
    folder = copy(practice("en")[0], tmp_path / "broken off", STEP_FILES[2], STEP_FILES[3])
    summary = json.loads((folder / "run.json").read_text(encoding="utf-8")) | {
        "status": "interrupted"
    }
    (folder / "run.json").write_text(json.dumps(summary), encoding="utf-8")
    rows = read(folder, STEP_FILES[1])[:20]
    workshop.write_whole(folder / STEP_FILES[1], map(workshop.to_json, rows))
    page = page_of(folder, tmp_path)
    assert ["broken_off"] in page.numbers["notices"]
    assert len(page.of(status="kept")) == 20
    assert (
        len(page.of(status="undone", stage="classify")) == summary["counts"]["generate"]["out"] - 20
    )


def test_a_model_that_is_not_trusted_in_stage_2_is_named(
    practice: Callable, tmp_path: Path
) -> None:
    folder = copy(practice("en")[0], tmp_path / "untrusted")
    summary = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    summary["agreement"] = {"asked": 16, "same": 8, "trusted": False}
    (folder / "run.json").write_text(json.dumps(summary), encoding="utf-8")
    assert ["untrusted", 8, 16] in page_of(folder, tmp_path).numbers["notices"]


@pytest.mark.parametrize("name", ["responses.jsonl", "notes.html"])
def test_a_report_replaces_nothing_but_a_report(
    practice: Callable, tmp_path: Path, name: str
) -> None:
    folder = copy(practice("en")[0], tmp_path / "run")
    path = folder / name
    path.write_text("<html>mine</html>", encoding="utf-8")
    assert report.main(["--work-dir", str(folder), "--out", str(path)]) == 1
    assert path.read_text(encoding="utf-8") == "<html>mine</html>"


def test_a_run_that_kept_nothing_has_a_report(tmp_path: Path) -> None:
    with Server(lambda prompt, body: "I cannot help with that.") as server:
        config = Config(
            provider="local",
            base_url=server.url,
            model="m",
            work_dir=str(tmp_path / "work"),
            patience=2,
        )
        workshop.run(config, say=lambda text: None)
    numbers = page_of(tmp_path / "work", tmp_path).numbers
    assert numbers["counts"]["generate"]["out"] == 0
    assert numbers["verbs"]["rows"] == [] and numbers["histograms"]["instruction"] is None


def test_a_seed_file_that_is_gone_or_has_changed_is_said(
    practice: Callable, tmp_path: Path
) -> None:
    folder = copy(practice("en")[0], tmp_path / "moved")
    summary = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    for seeds, notice in (
        (tmp_path / "gone.txt", "no_seeds"),
        (tmp_path / "other.txt", "other_seeds"),
    ):
        (tmp_path / "other.txt").write_text("Name a river that flows north.\n", encoding="utf-8")
        summary["settings"]["seed_file"] = str(seeds)
        (folder / "run.json").write_text(json.dumps(summary), encoding="utf-8")
        page = page_of(folder, tmp_path)
        assert [name for name, *_ in page.numbers["notices"]] == [notice]
        assert all(row["replies"] for row in page.of(status="kept"))
        assert (page.numbers["histograms"]["seed"] is None) == (notice == "no_seeds")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("run.json", "{", "is no summary of a run"),
        ("run.json", "[]", "is no summary of a run"),
        (STEP_FILES[0], '{"id": 1}\n', "line 1 is not of a run"),
        (
            STEP_FILES[3],
            '{"instruction": "a", "input": "", "output": "b"}\n[1]\n',
            "line 2 is not of a run",
        ),
        ("rejected.jsonl", "no json\n", "line 1 is not of a run"),
        ("responses.jsonl", "no json\n", "line 1 is damaged"),
    ],
)
def test_a_damaged_file_is_one_line_that_names_it(
    name: str,
    content: str,
    said: str,
    practice: Callable,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    folder = copy(practice("en")[0], tmp_path / "damaged")
    (folder / name).write_text(content, encoding="utf-8")
    assert report.main(["--work-dir", str(folder)]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and said in err and name in err


@pytest.mark.parametrize(
    "make", [lambda path: None, lambda path: path.mkdir()], ids=["absent", "empty"]
)
def test_a_folder_without_a_run_is_one_line(
    make: Callable, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    make(tmp_path / "none")
    assert report.main(["--work-dir", str(tmp_path / "none")]) == 1
    out, err = capsys.readouterr()
    assert (
        out == "" and err.startswith("error: ") and "holds no run" in err and err.count("\n") == 1
    )


def test_a_place_that_cannot_be_written_is_one_line_that_names_the_flag(
    practice: Callable, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "file").touch()
    assert (
        report.main(
            ["--work-dir", str(practice("en")[0]), "--out", str(tmp_path / "file" / "report.html")]
        )
        == 1
    )
    err = capsys.readouterr().err
    assert err.startswith("error: cannot write ") and "--out" in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("package", "language"), [("plotly", "en"), ("textblob", "en"), ("jieba", "zh")]
)
def test_a_missing_package_is_one_line_with_the_command_to_install_it(
    package: str,
    language: str,
    practice: Callable,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.setitem(sys.modules, name, None)
    assert self_instruct.main(["--report", "--work-dir", str(practice(language)[0])]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and re.search(
        r"pip install -r \S*scripts/requirements-report.txt", err
    )


def test_an_english_report_needs_no_chinese_word_splitter(
    practice: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy(practice("en")[0], tmp_path / "work")
    for name in [name for name in sys.modules if name.partition(".")[0] == "jieba"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "jieba", None)
    assert self_instruct.main(["--report", "--work-dir", str(folder)]) == 0


# --------------------------------------------------------------------------------------------------
# The file.


def test_both_commands_write_the_file_and_say_where(
    practice: Callable, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = copy(practice("en")[0], tmp_path / "work")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert self_instruct.main(["--report", "--work-dir", str(folder)]) == 0
    assert str(folder / "report.html") in capsys.readouterr().out
    assert report.main(["--work-dir", str(folder), "--out", str(tmp_path / "other.html")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'other.html'}\n"
    assert (folder / "report.html").read_bytes() == (tmp_path / "other.html").read_bytes()
    assert {
        path.name: path.read_bytes() for path in folder.iterdir() if path.name in before
    } == before


def test_labels_are_in_the_language_of_the_run_or_in_the_one_asked_for(
    practice: Callable, tmp_path: Path
) -> None:
    folder, _ = practice("zh")
    assert '<html lang="zh-CN">' in page_of(folder, tmp_path).text
    assert (
        self_instruct.main(["--report", "--language", "zh", "--work-dir", str(practice("en")[0])])
        == 0
    )
    assert '<html lang="zh-CN">' in (practice("en")[0] / "report.html").read_text(encoding="utf-8")
    page = page_of(folder, tmp_path, "en")
    assert (
        '<html lang="en">' in page.text
        and page.numbers["words"]["funnel"] == "From candidates to dataset"
    )


def test_the_two_languages_have_the_same_words_and_every_rule_has_a_name(
    practice: Callable,
) -> None:
    en, zh = json.loads(
        (ROOT / "scripts" / "reporting" / "words.json").read_text(encoding="utf-8")
    ).values()
    assert en.keys() == zh.keys() and en["rules"].keys() == zh["rules"].keys()
    for name in en.keys() - {"rules", "funnel_steps"}:
        assert {*re.findall(r"\{\w+\}", en[name])} == {*re.findall(r"\{\w+\}", zh[name])}, name
    used = {
        rule
        for kind in KINDS
        for stage in STAGES
        for rule in practice(kind)[1]["counts"][stage]["rejected"]
    }
    module = (ROOT / "self_instruct_workshop.py").read_text(encoding="utf-8")
    named = {
        *re.findall(r'"(\w+)": (?:not |breaks|bool|words|text|given|asked|source|len)', module)
    } | {*workshop.RULES}
    assert (
        used <= en["rules"].keys()
        and {"too_similar", "keyword", "no_instance", "over_five"} <= en["rules"].keys()
    )
    assert {rule for rule in named if f'"{rule}"' in module} & en["rules"].keys()


def hashes(kind: str, text: str) -> list[str]:
    """What a browser computes of each inline script or style that it would run."""
    found = re.findall(rf"<{kind}>(.*?)</{kind}>", text, re.S)
    return [f"'sha256-{base64.b64encode(sha256(one.encode()).digest()).decode()}'" for one in found]


def test_the_policy_allows_the_pages_own_scripts_and_nothing_else(
    practice: Callable, tmp_path: Path
) -> None:
    text = page_of(practice("en")[0], tmp_path).text
    policy = re.search(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)">', text)[1]
    rules = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    plotly = re.search(r'<script type="text/plain" id="plotly-0">([^<]*)</script>', text)[1]
    unpacked = gzip.decompress(base64.b64decode(plotly)).decode()
    assert unpacked == get_plotlyjs()
    scripts = [*hashes("script", text), *hashes("script", f"<script>{unpacked}</script>")]
    assert rules["script-src"].split() == scripts and len(scripts) == 2
    assert set(hashes("style", text)) < {*rules["style-src"].split()}
    assert "unsafe" not in policy and "http:" not in policy and "connect" not in policy
    assert text.index("Content-Security-Policy") < text.index("<style") < text.index("<script")


def test_the_file_loads_nothing(practice: Callable, tmp_path: Path) -> None:
    text = page_of(practice("en")[0], tmp_path).text
    markup = re.sub(r"<(script|style)\b.*?</\1>", "", text, flags=re.S)
    assert not re.search(
        r"\s(src|srcset|on\w+|action|style)=|<(link|iframe|img|base|object)\b|url\(", markup
    )
    assert {*re.findall(r'href="([^"]*)"', markup)} == {"#samples"}


def test_hostile_text_stands_in_the_file_as_data_alone(tmp_path: Path) -> None:
    summary = hostile_run(tmp_path / "<b>&work")
    page = page_of(tmp_path / "<b>&work", tmp_path)
    page_scripts = re.findall(r"<script>(.*?)</script>", page.text, re.S)
    assert len(page_scripts) == 1 and "hacked" not in page_scripts[0]
    around = re.sub(r"<script\b.*?</script>", "", page.text, flags=re.S)
    assert (
        "hacked" not in around
        and "<title>Self-Instruct report: &lt;b&gt;&amp;work</title>" in around
    )
    assert page.text.count("<script") == page.text.count("</script>")
    assert summary["counts"]["generate"]["out"] >= 7
    assert {row["instruction"] for row in page.of()} == {" ".join(text.split()) for text in HOSTILE}


def test_names_passwords_and_paths_in_settings_are_not_passed_on(
    practice: Callable, tmp_path: Path
) -> None:
    folder = copy(practice("en")[0], tmp_path / "work")
    summary = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    summary["settings"] |= {
        "base_url": "https://anna:s3cret@host.example/v1?key=s3cret",
        "work_dir": "/home/anna/runs/one",
    }
    (folder / "run.json").write_text(json.dumps(summary), encoding="utf-8")
    page = page_of(folder, tmp_path)
    assert page.numbers["run"]["settings"]["base_url"] == "https://host.example/v1"
    assert page.numbers["run"]["settings"]["work_dir"] == "one"
    assert "s3cret" not in page.text and "anna" not in page.text


@pytest.mark.parametrize(
    ("model", "shown"),
    [
        ("/home/ana/models/x.gguf", "x.gguf"),
        ("C:\\Users\\ana\\x.gguf", "x.gguf"),
        ("~/models/x.gguf", "x.gguf"),
        ("file:///home/ana/x.gguf", "x.gguf"),
        ("openai/gpt-oss-20b", "openai/gpt-oss-20b"),
        ("data/practice_tasks.jsonl", "data/practice_tasks.jsonl"),
    ],
)
def test_of_a_model_that_is_a_file_the_report_has_the_name_alone(
    practice: Callable, tmp_path: Path, model: str, shown: str
) -> None:
    folder = copy(practice("until generate")[0], tmp_path / "work")
    summary = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    summary["settings"]["model"] = model
    summary["undone_because"] = {f"404 model '{model}' at http://h/home/v1 is gone": 2}
    (folder / "run.json").write_text(json.dumps(summary), encoding="utf-8")
    page = page_of(folder, tmp_path)
    assert page.numbers["run"]["settings"]["model"] == shown
    said = {f"404 model '{shown}' at http://h/home/v1 is gone": 2}
    assert page.numbers["run"]["undone_because"] == said
    assert "ana" not in json.dumps([page.numbers["run"], page.numbers["notices"]])


# --------------------------------------------------------------------------------------------------
# Edited files.

LINK = '<a href="https://evil.example/">click</a>'
EDITS = [None, True, -1, 0.5, 10**12, 10**400, LINK, "", [], [LINK], {}, {"a": LINK}, {"a": None}]


def places(value: object, path: tuple = ()) -> list[tuple]:
    """The places of all values in a JSON value."""
    found = [path] if path else []
    for name, one in value.items() if isinstance(value, dict) else ():
        found += places(one, (*path, name))
    return found


def edited(summary: dict, path: tuple, new: object) -> dict:
    """A copy with one value changed; an ellipsis takes it out."""
    copied = json.loads(json.dumps(summary))
    record = copied
    for name in path[:-1]:
        record = record[name]
    record[path[-1]] = new
    if new is ...:
        del record[path[-1]]
    return copied


def numbers_in(value: object) -> list:
    if isinstance(value, dict):
        return [n for one in value.values() for n in numbers_in(one)]
    return [value]


def test_no_single_edit_of_run_json_breaks_the_report_or_gives_a_text_for_a_number(
    tmp_path: Path,
) -> None:
    config = Config(provider="practice", work_dir=str(tmp_path / "work"), num_instructions=3)
    options = self_instruct.command_line().parse_args(["--price-in", "1", "--price-out", "2"])
    self_instruct.limited_run(config, options)
    path = tmp_path / "work" / "run.json"
    summary = json.loads(path.read_text(encoding="utf-8"))
    summary["undone_because"] = {"no answer": 1}
    refused = 0
    for place in places(summary):
        for new in (*EDITS, ...):
            path.write_text(json.dumps(edited(summary, place, new)), encoding="utf-8")
            try:
                shown, _ = report.contents(report.read_run(path.parent))
            except WorkshopError as error:
                refused += 1
                assert "is no summary of a run" in str(error) or place[1:] == ("responses",), place
            else:
                counts = [numbers_in(one) for one in shown["counts"].values()]
                assert all(isinstance(n, (int, float)) for n in chain(*counts)), (place, new)
                plotted = [shown["counts"], shown["novelty"], shown["tokens"], shown["table1"]]
                assert "evil" not in json.dumps(plotted), (place, new)
    assert refused > 300


def test_numbers_that_are_no_json_are_refused(practice: Callable, tmp_path: Path) -> None:
    folder = copy(practice("until generate")[0], tmp_path / "work")
    text = (folder / "run.json").read_text(encoding="utf-8")
    for number in ("NaN", "Infinity", "1e999", "[" * 100_000):
        changed = re.sub(r'"seconds": [\d.]+', f'"seconds": {number}', text)
        (folder / "run.json").write_text(changed, encoding="utf-8")
        with pytest.raises(WorkshopError, match="is no summary of a run"):
            report.read_run(folder)


# --------------------------------------------------------------------------------------------------
# Root verbs and their objects.


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Write a short, polite email to a landlord.", ("write", "email")),
        ("List three ways of saving water.", ("list", "way")),
        (
            "In no more than 50 words, explain the difference between weather and climate.",
            ("explain", "difference"),
        ),
        ("Answer the customer's complaint with an apology.", ("answer", "complaint")),
        ("Does the pattern match? Give one reason.", ("give", "reason")),
        ("Can you summarize the main points?", ("summarize", "point")),
        ("What is the capital of France?", None),
        ("Explain why it rains.", None),
        ("", None),
        ("<script>alert(1)</script> !!!", None),
    ],
)
def test_the_first_command_and_its_noun_are_found(text: str, wanted: tuple | None) -> None:
    assert verb_nouns.verb_and_object(text, "en") == wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("写一首描写秋天的小诗。", ("写", "小诗")),
        ("把这段介绍压缩成一句话。", ("压缩", "介绍")),
        ("从收货信息中抽取姓名、电话、地址。", ("抽取", "姓名")),
        ("番茄炒蛋怎么做？写出用料和步骤。", ("写出", "用料")),
        ("长江和黄河有什么不同？", None),
        ("", None),
    ],
)
def test_the_first_chinese_command_and_its_noun_are_found(text: str, wanted: tuple | None) -> None:
    assert verb_nouns.verb_and_object(text, "zh") == wanted


def test_the_sunburst_counts_what_was_read(practice: Callable, tmp_path: Path) -> None:
    folder, _ = practice("en")
    data = page_of(folder, tmp_path).numbers["verbs"]
    pairs = [
        verb_nouns.verb_and_object(row["instruction"], "en") for row in read(folder, STEP_FILES[0])
    ]
    counts = Counter(pair for pair in pairs if pair)
    assert data["read"] == counts.total() and data["all"] == len(pairs)
    for verb, count, objects in data["rows"]:
        assert count == sum(n for (one, _), n in counts.items() if one == verb)
        assert all(counts[verb, noun] == n for noun, n in objects) and len(objects) <= 4


def test_a_report_of_nothing_raises_one_error(tmp_path: Path) -> None:
    with pytest.raises(WorkshopError, match="holds no run"):
        write_report(tmp_path)


# --------------------------------------------------------------------------------------------------
# A judge behind the run.


def judged_copy(folder: Path, to: Path) -> Path:
    """A run that the practice model has judged."""
    copied = copy(folder, to)
    data = copied / STEP_FILES[3]
    assert judge.main(["--provider", "practice", "--data", str(data)]) == 0
    return copied


@pytest.mark.parametrize("kind", ["en", "zh"])
def test_the_rows_that_a_judge_kept_and_those_it_rejected_stand_there_with_its_reason(
    kind: str, practice: Callable, tmp_path: Path
) -> None:
    folder = judged_copy(practice(kind)[0], tmp_path / "judged")
    page = page_of(folder, tmp_path)
    told = json.loads((folder / "judge.json").read_text(encoding="utf-8"))
    shown = page.numbers["judge"]
    assert shown["answers"] == told["answers"] and shown["counts"] == told["counts"]
    kept = read(folder, "step6_judged.jsonl")
    texts = [(row["instruction"], row["output"]) for row in page.of(status="kept")]
    assert texts == [(row["instruction"], row["output"]) for row in kept]
    assert {row["stage"] for row in page.of(status="kept")} == {"judge"}
    rejected = [row for row in read(folder, "rejected.jsonl") if row["stage"] == "judge"]
    rows = page.of(status="rejected", stage="judge")
    assert rejected and [(row["rule"], row["evidence"]) for row in rows] == [
        (row["rule"], row["evidence"]) for row in rejected
    ]
    assert all(row["replies"] for row in rows)
    words = page.numbers["words"]
    assert all(words["rules"][row["rule"]] for row in rows)


def test_a_line_separator_in_a_judge_s_reason_hides_nothing(
    practice: Callable, tmp_path: Path
) -> None:
    folder = judged_copy(practice("en")[0], tmp_path / "judged")
    path = folder / "judged.jsonl"
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    rows = [json.loads(line) for line in lines]
    rows[0]["reasons"] = dict.fromkeys(rows[0]["reasons"], "one\u2028two")
    path.write_text("".join(map(workshop.to_json, rows)), encoding="utf-8")
    assert page_of(folder, tmp_path).numbers["judge"]


@pytest.mark.parametrize("change", ["other rows", "damaged", "elsewhere", "none"])
def test_a_judge_of_other_rows_is_not_shown(
    change: str, practice: Callable, tmp_path: Path
) -> None:
    folder = judged_copy(practice("en")[0], tmp_path / "judged")
    record = folder / "judge.json"
    if change == "other rows":
        lines = (folder / STEP_FILES[3]).read_bytes().splitlines(keepends=True)
        (folder / STEP_FILES[3]).write_bytes(b"".join(lines[1:]))
    elif change == "damaged":
        record.write_text("[1]", encoding="utf-8")
    elif change == "elsewhere":
        told = json.loads(record.read_text(encoding="utf-8"))
        record.write_text(json.dumps(told | {"data": "../secret.jsonl"}), encoding="utf-8")
    else:
        record.unlink()
    page = page_of(folder, tmp_path)
    assert page.numbers["judge"] == {}
    assert len(page.of(status="kept", stage="filter")) == len(read(folder, STEP_FILES[3]))
    assert not page.of(stage="judge")


def test_a_row_that_the_judge_has_not_answered_is_not_lost_behind_its_instruction(
    practice: Callable, tmp_path: Path
) -> None:
    folder = copy(practice("en")[0], tmp_path / "judged")
    rows = read(folder, STEP_FILES[3])
    rows.append({**rows[0], "input": "another one", "output": "another answer"})
    data = folder / STEP_FILES[3]
    data.write_text("".join(map(workshop.to_json, rows)), encoding="utf-8")
    assert judge.main(["--provider", "practice", "--data", str(data)]) == 0
    answered = read(folder, "judged.jsonl")[:-1]  # the last one is undone
    text = "".join(map(workshop.to_json, answered))
    (folder / "judged.jsonl").write_text(text, encoding="utf-8")
    page = page_of(folder, tmp_path)
    (left,) = page.of(status="kept", stage="filter")
    assert (left["instruction"], left["output"]) == (rows[0]["instruction"], "another answer")
    assert len(page.of(stage="judge")) == len(answered)


def test_a_judge_that_was_not_trusted_has_kept_and_rejected_nothing(
    practice: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy(practice("en")[0], tmp_path / "judged")
    said = {"valid_task": "yes", "input_fits": "yes", "output_right": "yes"}
    monkeypatch.setattr(judge, "practise", lambda rng, prompt: json.dumps(said))
    assert judge.main(["--provider", "practice", "--data", str(folder / STEP_FILES[3])]) == 1
    page = page_of(folder, tmp_path)
    assert page.numbers["judge"]["counts"]["kept"] == 0
    assert "tells nothing" in page.numbers["judge"]["status"]
    assert len(page.of(status="kept", stage="filter")) == len(read(folder, STEP_FILES[3]))
    assert not page.of(stage="judge")


# --------------------------------------------------------------------------------------------------
# Outputs that another model wrote again.


def rewritten_copy(folder: Path, to: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run whose outputs were written again, by a writer that adds a word to free answers."""

    def write_again(known: list, rng: object, prompt: list) -> str:
        (row,) = [row for row in known if rewrite.rewrite_prompt(row) == prompt]
        return f"{row['output']} 好" if row["labels"] is None else "?"

    copied = copy(folder, to)
    monkeypatch.setattr(rewrite, "practice_reply", write_again)
    data = copied / STEP_FILES[3]
    assert rewrite.main(["--provider", "practice", "--data", str(data)]) == 0
    return copied


@pytest.mark.parametrize("kind", ["en", "zh"])
def test_a_row_shows_its_new_output_and_the_first_one(
    kind: str, practice: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = rewritten_copy(practice(kind)[0], tmp_path / "rewritten", monkeypatch)
    page = page_of(folder, tmp_path)
    rows = read(folder, "step5_rewritten.jsonl")
    told = json.loads((folder / "rewrite.json").read_text(encoding="utf-8"))
    assert page.numbers["rewrite"]["counts"] == told["counts"]
    assert [(row["instruction"], row["output"]) for row in page.of(status="kept")] == [
        (row["instruction"], row["output"]) for row in rows
    ]
    shown = [(row["output"], row["evidence"]) for row in page.of(status="kept", stage="rewrite")]
    assert shown and shown == [
        (row["output"], row["first_output"]) for row in rows if row["rewritten"]
    ]
    others = page.of(status="kept", stage="filter")
    assert others and {row["evidence"] for row in others} == {""}
    words = page.numbers["words"]
    assert all(words["rules"][rule] for rule in told["counts"]["fell_back"])


@pytest.mark.parametrize("change", ["other rows", "damaged", "none"])
def test_a_rewriting_of_other_rows_is_not_shown(
    change: str, practice: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = rewritten_copy(practice("en")[0], tmp_path / "rewritten", monkeypatch)
    if change == "other rows":
        lines = (folder / STEP_FILES[3]).read_bytes().splitlines(keepends=True)
        (folder / STEP_FILES[3]).write_bytes(b"".join(lines[1:]))
    elif change == "damaged":
        (folder / "step5_rewritten.jsonl").write_text("[1]\n", encoding="utf-8")
    else:
        (folder / "rewrite.json").unlink()
    page = page_of(folder, tmp_path)
    assert page.numbers["rewrite"] == {} and not page.of(stage="rewrite")
    assert len(page.of(status="kept", stage="filter")) == len(read(folder, STEP_FILES[3]))


# --------------------------------------------------------------------------------------------------
# Did the data help a model?


def helped_copy(folder: Path, to: Path, of: str, text: str = "The data helped.") -> Path:
    """A run beside which did_it_help.py left its results: `of` "these" rows or of others."""
    copied = copy(folder, to)
    dataset = read_dataset(folder / STEP_FILES[3])
    names = fingerprints(dataset.rows) if of == "these" else ["0" * 16]
    said = {"paragraphs": [text], "table": [["who", "ROUGE-L"], ["before", "0.1"]]}
    record = {"said": said, "datasets": [{"fingerprints": names}]}
    (copied / "did_it_help").mkdir()
    told = json.dumps(record) if of != "damaged" else '{"said": 3}'
    (copied / "did_it_help" / "results.json").write_text(told, encoding="utf-8")
    return copied


@pytest.mark.parametrize("of", ["these", "others", "damaged"])
@pytest.mark.parametrize("kind", ["en", "zh"])
def test_what_a_model_learnt_is_shown_where_it_learnt_from_these_rows(
    kind: str, of: str, practice: Callable, tmp_path: Path
) -> None:
    page = page_of(helped_copy(practice(kind)[0], tmp_path / "helped", of), tmp_path)
    shown = page.numbers["helped"]
    assert bool(shown) == (of == "these")
    if shown:
        assert shown["paragraphs"] == ["The data helped."]
        assert shown["table"][1] == ["before", "0.1"]


# --------------------------------------------------------------------------------------------------
# Long runs.


@every_kind
def test_what_is_not_read_of_a_row_is_not_shown(
    kind: str, practice: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = practice(kind)
    page = page_of(folder, tmp_path).text
    monkeypatch.setattr(report, "READ", {})  # whole rows
    assert page_of(folder, tmp_path).text == page


def test_of_a_journal_the_newest_reply_to_each_question_is_read(
    practice: Callable, tmp_path: Path
) -> None:
    folder = copy(practice("en")[0], tmp_path / "work")
    path = folder / "responses.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    again = json.loads(lines[3]) | {"text": "said again"}
    newer = json.dumps(again, ensure_ascii=False) + "\n"
    path.write_text("".join([*lines, newer, lines[5][:40]]), encoding="utf-8", newline="\n")
    journal = workshop.Journal(path, "rb")
    try:
        found = list(newest_replies(journal))
        keys = sorted(journal.starts, key=journal.starts.__getitem__)
        assert found == [journal.get(key) for key in keys]
    finally:
        journal.file.close()
    assert found[-1]["text"] == "said again" and len(found) == len(lines)


ROOM = {"LARGEST": 40_000, "REST": 10_000, "MOST_ROWS": 6_000, "ROWS": 10, "REPLIES": 5}


@pytest.mark.parametrize("kind", ["en", "zh"])
def test_where_rows_and_replies_are_too_many_the_page_holds_a_part_and_says_so(
    kind: str, practice: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = practice(kind)
    whole = page_of(folder, tmp_path)
    monkeypatch.setattr(report, "REPLIES", ROOM["REPLIES"])
    for name, number in ROOM.items():
        monkeypatch.setattr(report_rows, name, number)
    page = page_of(folder, tmp_path)

    # What the page says of itself is so.
    told = page.numbers
    assert told["rows"] == len(page.rows) < told["all_rows"] == len(whole.rows)
    assert told["replies"] == len(page.replies) < told["all_replies"] == len(whole.replies)

    # Rows of every kind, an even share of each; and the first replies.
    assert {tuple(row[:3]) for row in page.rows} == {tuple(row[:3]) for row in whole.rows}
    left = iter(whole.rows)
    assert all(row in left for row in page.rows)
    most = Counter(row[0] for row in whole.rows)["kept"]
    places = [n for n, row in enumerate(whole.rows[:most]) if row in page.rows]
    gaps = [after - before for before, after in pairwise(places)]
    assert max(gaps) - min(gaps) <= 1
    assert page.replies == whole.replies[: len(page.replies)]

    # It keeps to its limit, and its counts and pictures are of all rows.
    packed = re.findall(r'id="(?:rows|replies)-\d+">([^<]*)<', page.text)
    assert sum(map(len, packed)) <= ROOM["LARGEST"] - ROOM["REST"]
    parts = {"rows", "replies", "replies_in_a_piece"}
    for name in told.keys() - parts:
        assert told[name] == whole.numbers[name], name


def test_a_page_that_has_room_holds_everything(practice: Callable, tmp_path: Path) -> None:
    told = page_of(practice("en")[0], tmp_path).numbers
    assert told["rows"] == told["all_rows"] > 0 and told["replies"] == told["all_replies"] > 0


def test_rows_that_are_all_of_a_kind_of_their_own_end_the_search_for_fewer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(report_rows, "MOST_ROWS", 100)
    rows = [["rejected", "generate", f"rule {n}", "a text"] for n in range(50)]
    assert report_rows.packed_rows(rows)[0] == rows


def test_the_largest_page_has_25_megabytes_with_its_plotly_and_its_style(
    practice: Callable, tmp_path: Path
) -> None:
    page = page_of(practice("en")[0], tmp_path)
    packed = re.findall(r'id="(?:rows|replies)-\d+">([^<]*)<', page.text)
    rest = len(page.text.encode()) - sum(map(len, packed))
    tags = 100 * 1000  # bytes of the elements around the pieces, of which there are few hundred
    assert rest + tags < report_rows.REST and report_rows.LARGEST == 25e6


@pytest.mark.parametrize("on", [True, False])
def test_python_looks_for_cycles_afterwards_as_before(
    on: bool, practice: Callable, tmp_path: Path
) -> None:
    folder = copy(practice("en")[0], tmp_path / "work")
    (gc.enable if on else gc.disable)()
    try:
        write_report(folder)
        assert gc.isenabled() is on
        (folder / STEP_FILES[0]).write_text("no row\n", encoding="utf-8")
        with pytest.raises(WorkshopError):
            write_report(folder)
        assert gc.isenabled() is on
    finally:
        gc.enable()


def test_a_long_run_is_not_held_whole_in_memory(tmp_path: Path) -> None:
    peaks = {}
    for tasks in (200, 2200):
        folder = tmp_path / str(tasks)
        folder.mkdir()
        big_run(folder, tasks)
        with_neighbours(folder)
        write_report(folder)  # what is loaded once is no part of the measurement
        tracemalloc.start()
        try:
            write_report(folder)
            peaks[tasks] = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    each = (peaks[2200] - peaks[200]) / 2000
    assert each < MOST_OF_A_TASK, f"{each:.0f} bytes a task"


def with_neighbours(folder: Path) -> None:
    """Add to step 1 what a run notes beside each instruction: ten neighbours and the reply."""
    path = folder / STEP_FILES[0]
    rows = read(folder, STEP_FILES[0])
    for number, row in enumerate(rows):
        near = [{"instruction": f"{number} {n} " + "near " * 20, "score": 0.1} for n in range(10)]
        text = f"{number} " + "said " * 200
        row["most_similar"] = near
        row["metadata"] = {"response": {"choices": [{"text": text}]}}
    workshop.write_whole(path, map(workshop.to_json, rows))
