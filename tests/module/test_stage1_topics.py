"""Stage 1 with --topics: the file, whose turn it is, shares, dry topics, what is asked again."""

from __future__ import annotations

import json
import math
import random
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.killing import complete, kills
from helpers.runs import check_counts, finish, local, prompts_of, quiet, rows, summary_of, views
from helpers.server import Server, scripted_model, storm
from hypothesis import given
from hypothesis import strategies as st

import self_instruct
from scripts.asking import estimate
from self_instruct_workshop import (
    DEFAULT_SEEDS,
    Config,
    Results,
    Turns,
    WorkshopError,
    instruction_prompt,
    load_seed_tasks,
    load_topics,
    question_shape,
    run,
    shares_of,
)

Settings = Callable[..., Config]
SEEDS = load_seed_tasks(DEFAULT_SEEDS["en"])
WEIGHTS = {"cooking": 2, "law": 1, "cooking for children": 1}


@pytest.fixture
def topics(tmp_path: Path) -> str:
    path = tmp_path / "topics.json"
    path.write_text(json.dumps(WEIGHTS), encoding="utf-8")
    return str(path)


def written(folder: Path, text: str | bytes, name: str = "topics.txt") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def by_topic(folder: Path) -> Counter:
    return Counter(row["topic"] for row in rows(folder, "step1_instructions.jsonl"))


def stage_1(server: Server) -> list[str]:
    """The prompts of stage 1 that the server was asked."""
    prompts = [request["prompt"] for request in server.requests if request["method"] == "POST"]
    return [prompt for prompt in prompts if re.search(r"\n\d+\.\Z", prompt)]


def topic_in(prompt: str) -> str:
    return re.search(r"\n- Every task is about (.*?), each about another side", prompt)[1]


# ----- the file


@pytest.mark.parametrize(
    "text",
    [
        "law\n\n  modern   art \r\n烹饪\n",
        "\ufefflaw\nmodern art\n烹饪",
        '["law", "modern art", "烹饪"]',
        '[{"topic": "law", "weight": 1}, {"topic": "modern art"}, "烹饪"]',
        '{"topic": "law"}\n{"topic": " modern  art", "weight": 1.0}\n{"topic": "烹饪"}\n',
        '"law"\n"modern art"\n"烹饪"',
        '{"law": 1, "modern art": 1, "烹饪": 1}',
    ],
)
def test_topics_are_read_in_every_shape(text: str, tmp_path: Path) -> None:
    quoted = text.startswith('"')
    found = load_topics(written(tmp_path, text if not quoted else f"[{text}]".replace("\n", ",")))
    assert found == {"law": 1, "modern art": 1, "烹饪": 1} and [*found] == [
        "law",
        "modern art",
        "烹饪",
    ]


def test_weights_are_read_from_an_object_and_from_records(tmp_path: Path) -> None:
    wanted = {"law": 2, "art": 0.5, "topic": 3}
    records = "".join(f'{{"topic": "{name}", "weight": {n}}}\n' for name, n in wanted.items())
    assert load_topics(written(tmp_path, json.dumps(wanted))) == wanted
    assert load_topics(written(tmp_path, records)) == wanted
    assert load_topics(written(tmp_path, '{"topic": "law", "weight": 4}\n')) == {"law": 4}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no topic: write one a line into it"),
        (" \n\n", "holds no topic"),
        ("[]", "holds no topic"),
        ("law\nart\nLaw\n", r"line 3: 'Law' is there twice"),
        ("law\nＬＡＷ\n", r"line 2: 'ＬＡＷ' is there twice"),
        ('{"law": 1, "art": 1, "law": 2}', "'law' is there twice"),
        ('{"law": 0}', "the weight of 'law' must be a number above 0, up to 1,000,000, not 0"),
        ('{"law": -1}', "weight of 'law' .* not -1"),
        ('{"law": true}', "weight of 'law' .* not True"),
        ('{"law": "2"}', "weight of 'law' .* not '2'"),
        ('{"law": NaN}', "weight of 'law' .* not nan"),
        ('{"law": 1e999}', "weight of 'law' .* not inf"),
        ('{"law": {"weight": 2}}', "weight of 'law' .* not {'weight': 2}"),
        (
            '[{"name": "law"}]',
            r"record 1: a topic is needed, as {\"topic\": \"law\", \"weight\": 2}",
        ),
        ('["law", 3]', "record 2: a topic is needed"),
        ('{"topic": "law"}\n{"topic": 3', "line 2: a topic is needed"),
        ('{"topic": "law"}\nart\n', "line 2: a topic is needed"),
        ('[""]', "record 1: a topic has from 1 to 200 characters"),
        ("x" * 201, "line 1: a topic has from 1 to 200 characters"),
        ("[" * 5000, "line 1: a topic is needed"),
        ("法律\n".encode("gbk") * 5, "is GBK, not UTF-8: save it as UTF-8"),
        ("law\n".encode("utf-16"), "is UTF-16, not UTF-8: save it as UTF-8"),
        (b"law\xff\n", "is not UTF-8 text: save it as UTF-8"),
    ],
)
def test_a_file_that_cannot_be_used_is_said_in_one_line(
    text: str | bytes, said: str, tmp_path: Path
) -> None:
    path = written(tmp_path, text)
    with pytest.raises(WorkshopError, match=said) as error:
        load_topics(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_a_bad_file_ends_the_program_before_anything_is_asked(
    settings: Settings, tmp_path: Path
) -> None:
    for name in ("missing.txt", ".", "x\0y"):
        with pytest.raises(WorkshopError, match="the file of topics"):
            load_topics(tmp_path / name)
    with Server(scripted_model()) as server:
        path = written(tmp_path, "law\nlaw\n")
        done = finish(settings(**local(server), topics=str(path)))
        assert server.requests == []
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"error: {path}, line 2: 'law' is there twice: leave one of them out\n"


def test_the_recipe_of_the_paper_has_no_topics(topics: str) -> None:
    with pytest.raises(WorkshopError, match="--topics is not for --recipe paper"):
        Config(topics=topics, recipe="paper")


def test_the_file_of_topics_is_never_written_over(
    settings: Settings, topics: str, tmp_path: Path
) -> None:
    before = Path(topics).read_bytes()
    with pytest.raises(WorkshopError, match=r"--output-path .* is a file that the run needs"):
        quiet(settings(provider="practice", topics=topics, output_path=topics, overwrite=True))
    own = tmp_path / "own"
    own.mkdir()
    path = written(own, before, "rejected.jsonl")
    with pytest.raises(WorkshopError, match=r"--topics .* is a file that the run itself writes"):
        quiet(settings(provider="practice", topics=str(path), work_dir=str(own)))
    assert Path(topics).read_bytes() == path.read_bytes() == before


@given(
    st.lists(st.floats(1e-6, 1e6) | st.integers(1, 100), min_size=1, max_size=30),
    st.integers(1, 60_000),
)
def test_shares_are_within_one_task_of_the_weights_and_add_up(
    weights: list[float], total: int
) -> None:
    shares = shares_of({str(n): weight for n, weight in enumerate(weights)}, total)
    assert sum(shares.values()) == total
    for n, weight in enumerate(weights):
        assert abs(shares[str(n)] - total * weight / math.fsum(weights)) < 1 + 1e-6


# ----- without the flag nothing changes


def test_without_topics_prompts_keys_and_rows_know_nothing_of_them(settings: Settings) -> None:
    config = settings()
    assert "topics" not in question_shape(config, SEEDS)
    plain = instruction_prompt(config, SEEDS, [], 0)
    assert (
        Turns(config).ahead(3) == [(0, ""), (1, ""), (2, "")] and "Every task is about" not in plain
    )
    with Server(scripted_model()) as server:
        summary = quiet(settings(**local(server), num_instructions=16))
    folder = Path(settings().work_dir)
    assert "topics" not in summary
    assert all("topic" not in row for row in rows(folder, "step1_instructions.jsonl"))
    assert all("topics" not in record for record in rows(folder, "responses.jsonl"))


def test_a_folder_may_hold_a_run_with_topics_and_one_without(
    settings: Settings, topics: str
) -> None:
    folder = Path(settings().work_dir)
    with Server(scripted_model()) as server:
        config = settings(**local(server), num_instructions=16)
        quiet(config)
        plain = views(folder)
        quiet(settings(**local(server), num_instructions=16, topics=topics))
        lines = (folder / "responses.jsonl").read_bytes()
        quiet(config)
        assert (folder / "responses.jsonl").read_bytes() == lines
    assert views(folder) == plain


# ----- shares and turns


@pytest.mark.parametrize(
    ("language", "names"), [("en", [*WEIGHTS]), ("zh", ["烹饪", "法律", "烹饪甜点"])]
)
def test_every_topic_gets_its_share_and_rows_name_it(
    language: str, names: list[str], settings: Settings, tmp_path: Path
) -> None:
    path = written(tmp_path, json.dumps(dict(zip(names, (2, 1, 1), strict=True))))
    folder = Path(settings().work_dir)
    with Server(scripted_model()) as server:
        config = settings(**local(server), topics=str(path), num_instructions=42, language=language)
        summary = quiet(config)
        prompts = stage_1(server)
    check_counts(folder, summary)
    assert by_topic(folder) == {names[0]: 21, names[1]: 11, names[2]: 10}

    # The prompt of a row names the row's topic, and counts are those of the rows.
    ends = {"en": ", each about another side", "zh": "”有关，"}[language]
    step = rows(folder, "step1_instructions.jsonl")
    for row, prompt in zip(step, prompts_of(step), strict=True):
        assert f"{row['topic']}{ends}" in prompt
    table = summary["topics"]
    assert {name: row["kept"] for name, row in table.items()} == by_topic(folder)
    assert sum(row["requests"] for row in table.values()) == len(prompts)
    turned_away = [row for row in rows(folder, "rejected.jsonl") if row["stage"] == "generate"]
    assert sum(row["rejected"] for row in table.values()) == len(turned_away)
    assert all(row["wanted"] == row["kept"] for row in table.values())


@pytest.mark.slow
def test_workers_faults_and_kills_do_not_change_the_files(
    settings: Settings, topics: str, tmp_path: Path
) -> None:
    def made(name: str, **how: object) -> dict[str, bytes]:
        quiet(settings(**how, topics=topics, num_instructions=40, work_dir=str(tmp_path / name)))
        return views(tmp_path / name)

    with Server(scripted_model()) as server:
        whole = made("one", **local(server), concurrency=1)
        assert made("many", **local(server), concurrency=32) == whole
    with Server(scripted_model(), faults=storm(0.3, 5)) as server:
        assert made("stormy", **local(server), max_attempts=50) == whole

    # A kill leaves the first lines of the journal, and no other file.
    lines = (tmp_path / "one" / "responses.jsonl").read_bytes().splitlines(keepends=True)
    with Server(scripted_model()) as server:
        for kept in range(0, 9):
            folder = tmp_path / f"killed{kept}"
            folder.mkdir()
            half = lines[kept][: len(lines[kept]) // 2]
            (folder / "responses.jsonl").write_bytes(b"".join(lines[:kept]) + half)
            assert made(folder.name, **local(server)) == whole


@pytest.mark.slow
def test_real_kills_change_nothing(tmp_path: Path, topics: str) -> None:
    flags = ("--num-instructions", "64", "--concurrency", "4", "--topics", topics)
    flags += ("--until", "generate")
    with Server(scripted_model(), delay=0.02) as server:
        whole = complete(server, tmp_path / "whole", *flags)
        asked = len({request["prompt"] for request in server.requests})
        found = list(
            kills(server, tmp_path / "work", ["start", *["generate"] * 4], random.Random(2), *flags)
        )
        assert complete(server, tmp_path / "work", *flags) == whole
        # Both runs had the same questions.
        assert len({request["prompt"] for request in server.requests}) == asked
    assert len(found) >= 3


def test_prompts_that_ask_for_classification_are_not_always_of_one_topic(
    settings: Settings, tmp_path: Path
) -> None:
    path = written(tmp_path, "law\nart\nmusic\nsport\n")
    with Server(scripted_model()) as server:
        quiet(settings(**local(server), topics=str(path), num_instructions=320, until="generate"))
        prompts = stage_1(server)
    labelled = Counter(topic_in(prompt) for prompt in prompts if "classification" in prompt)
    assert len(labelled) == 4 and max(labelled.values()) < 7


def test_more_than_the_share_of_a_topic_is_not_needed(settings: Settings, tmp_path: Path) -> None:
    path = written(tmp_path, '{"law": 3, "art": 13}')
    folder = Path(settings().work_dir)
    with Server(scripted_model()) as server:
        quiet(settings(**local(server), topics=str(path), num_instructions=16, until="generate"))
    assert by_topic(folder) == {"law": 3, "art": 13}
    rules = Counter(row["rule"] for row in rows(folder, "rejected.jsonl"))
    assert rules["not_needed"] == 5 + 3


# ----- a dry topic


def model_dry_on(name: str) -> Callable:
    model = scripted_model()

    def answer(prompt: str, body: dict) -> str:
        if re.search(r"\n\d+\.\Z", prompt) and topic_in(prompt) == name:
            return "1. Name the capital city of the country.\n2. Name the capital of the country."
        return model(prompt, body)

    return answer


def test_a_dry_topic_is_given_up_and_the_others_get_their_share(
    settings: Settings, topics: str
) -> None:
    folder = Path(settings().work_dir)
    said: list[str] = []
    with Server(model_dry_on("cooking")) as server:
        config = settings(**local(server), topics=topics, num_instructions=40, patience=3)
        summary = run(config, say=said.append)
        asked = [topic_in(prompt) for prompt in stage_1(server)]
        again = quiet(config)
        assert len(stage_1(server)) == len(asked)
    assert by_topic(folder) == {"cooking": 1, "law": 10, "cooking for children": 10}
    assert asked.count("cooking") == 1 + 3  # one found a task, and then patience ended
    row = {"wanted": 20, "kept": 1, "rejected": 7, "requests": 4}
    assert summary["topics"]["cooking"] == again["topics"]["cooking"] == row
    assert "cooking (1 of 20)" in said[-1] and "law" not in said[-1]
    assert summary["status"] == "complete"


def test_a_dry_topic_waits_until_the_others_had_their_turn(
    settings: Settings, tmp_path: Path
) -> None:
    path = written(tmp_path, "law\nart\nmusic\n")
    with Server(model_dry_on("art")) as server:
        config = settings(**local(server), topics=str(path), num_instructions=90, concurrency=1)
        config.until = "generate"
        quiet(config)
        asked = [topic_in(prompt) for prompt in stage_1(server)]
    # By the time of its third request, the others have had as many.
    third = [n for n, name in enumerate(asked) if name == "art"][2]
    assert min(asked[:third].count(name) for name in ("law", "music")) >= 2


def test_a_model_without_ideas_ends_stage_1_after_patience_on_each_topic(
    settings: Settings, tmp_path: Path
) -> None:
    path = written(tmp_path, "law\nart\n")
    with Server(lambda prompt, body: "Sure.") as server:
        summary = quiet(settings(**local(server), topics=str(path), patience=4))
        asked = Counter(topic_in(prompt) for prompt in stage_1(server))
    assert asked == {"law": 4, "art": 4}
    assert summary["counts"]["generate"]["out"] == 0


# ----- going on


def test_a_run_that_is_raised_asks_nothing_again(settings: Settings, topics: str) -> None:
    folder = Path(settings().work_dir)
    with Server(scripted_model()) as server:
        config = settings(**local(server), topics=topics, num_instructions=30, until="generate")
        quiet(config)
        first = len(stage_1(server))
        keys = [record["key"] for record in rows(folder, "responses.jsonl")]
        config.num_instructions = 60
        quiet(config)
        prompts = stage_1(server)
    records = rows(folder, "responses.jsonl")
    assert [record["key"] for record in records][: len(keys)] == keys
    assert len({record["key"] for record in records}) == len(records) == len(prompts)
    assert sorted(record["request_idx"] for record in records) == [*range(len(records))]
    assert len(prompts) > first
    assert by_topic(folder) == {"cooking": 30, "law": 15, "cooking for children": 15}


def test_other_weights_ask_nothing_again_and_other_topics_do(
    settings: Settings, tmp_path: Path
) -> None:
    folder = Path(settings().work_dir)
    path = written(tmp_path, '{"law": 1, "art": 1}')
    with Server(scripted_model()) as server:
        config = settings(**local(server), topics=str(path), num_instructions=48, until="generate")
        quiet(config)
        known = {record["key"] for record in rows(folder, "responses.jsonl")}
        # Other weights, in another order: a row still counts for the topic of its own prompt.
        written(tmp_path, '{"art": 1, "law": 2}')
        quiet(config)
        records = rows(folder, "responses.jsonl")
        assert known < {record["key"] for record in records}
        assert len({record["request_idx"] for record in records}) == len(records)
        assert by_topic(folder) == {"law": 32, "art": 16}
        step = rows(folder, "step1_instructions.jsonl")
        assert [topic_in(prompt) for prompt in prompts_of(step)] == [row["topic"] for row in step]
        # Another topic is another question.
        written(tmp_path, "law\nart\nmusic\n")
        asked = len(stage_1(server))
        quiet(config)
        assert len(stage_1(server)) >= asked + 6
    assert by_topic(folder) == {"law": 16, "art": 16, "music": 16}


def test_a_request_that_failed_for_good_is_asked_again_on_its_topic(
    settings: Settings, topics: str
) -> None:
    folder = Path(settings().work_dir)
    down = True

    def fault(index: int, prompt: str) -> str:
        return "500" if down and "Every task is about law, each" in prompt else ""

    with Server(scripted_model(), faults=fault) as server:
        config = settings(
            **local(server),
            topics=topics,
            num_instructions=24,
            until="generate",
            max_attempts=1,
            patience=3,
        )
        first = quiet(config)
        assert by_topic(folder) == {"cooking": 12, "cooking for children": 6}
        assert first["undone_because"] and first["topics"]["law"]["requests"] == 3
        down = False
        second = quiet(config)
    assert not second["undone_because"]
    assert by_topic(folder) == {"cooking": 12, "law": 6, "cooking for children": 6}


def test_the_longer_of_two_topics_that_begin_alike_is_told_from_the_other(
    settings: Settings, topics: str
) -> None:
    turns = Turns(settings(topics=topics))
    for name, lead in turns.leads.items():
        prompt = instruction_prompt(settings(topics=topics), SEEDS, [], 0, lead)
        assert turns.topic_of(prompt) == name and f"\n- Every task is about {name}, each" in prompt
    assert turns.topic_of(instruction_prompt(settings(), SEEDS, [], 0)) == ""
    assert turns.room(f"1. {turns.leads['law']}\n2.") == 0


def test_a_cell_of_a_notebook_that_runs_again_counts_anew(settings: Settings, topics: str) -> None:
    results = Results()
    config = settings(topics=topics, num_instructions=8)
    for _ in range(2):
        results.begin("generate", config)
        [(request_idx, _)] = results.turns.ahead(1)
        prompt = instruction_prompt(config, SEEDS, [], request_idx, results.turns.leads["law"])
        results.reject("generate", "too_short", "Sing.")
        # Of the others none was asked yet.
        assert results.turns.note(request_idx, prompt, 0, results) == 0
        row = results.turns.table()["law"]
        assert (row["requests"], row["rejected"], row["kept"]) == (1, 1, 0)


def test_the_estimate_counts_the_replies_of_these_topics_alone(
    settings: Settings, topics: str, tmp_path: Path
) -> None:
    other = written(tmp_path, "law\nart\n")
    options = self_instruct.command_line().parse_args([])
    with Server(scripted_model()) as server:
        config = settings(**local(server), model="m", topics=topics, num_instructions=24)
        quiet(config)

        def to_send(path: str) -> int:
            config.topics = path
            return estimate.estimate(config, options)["requests"]

        assert to_send(topics) == 0
        assert to_send("") > 20 and to_send(str(other)) > 20


# ----- the practice model


@pytest.mark.parametrize(
    ("language", "names"), [("en", ["cooking", "zeppelins"]), ("zh", ["学生", "量子围棋"])]
)
def test_the_practice_model_answers_on_the_topic_where_its_bank_allows_and_says_where_not(
    language: str, names: list[str], settings: Settings, tmp_path: Path
) -> None:
    path = written(tmp_path, "\n".join(names))
    said: list[str] = []
    config = settings(
        provider="practice",
        language=language,
        topics=str(path),
        num_instructions=10,
        tasks_asked=4,
        classification_every=0,
    )
    summary = run(config, say=said.append)
    assert names[1] in said[0] and names[0] not in said[0]
    assert {name: row["kept"] for name, row in summary["topics"].items()} == dict.fromkeys(names, 5)
    stem = {"en": "cook", "zh": "学生"}[language]
    bank = (json.loads(line) for line in BANK.read_text(encoding="utf-8").splitlines())
    texts = {row["instruction"]: json.dumps(row, ensure_ascii=False).lower() for row in bank}
    near = {instruction for instruction, text in texts.items() if stem in text}
    made = rows(Path(config.work_dir), "step1_instructions.jsonl")
    assert {row["instruction"] for row in made if row["topic"] == names[0]} <= near
    assert summary_of(Path(config.work_dir))["topics"] == summary["topics"]


BANK = Path(__file__).resolve().parents[2] / "data" / "practice_tasks.jsonl"
