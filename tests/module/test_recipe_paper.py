"""The recipe `paper`: the official code's prompts, requests, parsing and filtering, rule by rule,
oddities included."""

from __future__ import annotations

import json
import os
import random
import re
import string
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from helpers.runs import (
    ROOT,
    check_counts,
    neighbours,
    quiet,
    rows,
    stage_3_prompt,
    summary_of,
    views,
)
from helpers.server import Server, words
from hypothesis import given
from hypothesis import settings as explore
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

import self_instruct_workshop as workshop
from self_instruct_workshop import (
    PROVIDERS,
    Config,
    InstructionPool,
    Model,
    Reply,
    Results,
    Task,
    UsageError,
    classify_prompt,
    filter_and_dedupe,
    filter_instances,
    instruction_prompt,
    main,
    parse_classification,
    parse_instances,
    parse_instructions,
    take_candidates,
)

Settings = Callable[..., Config]
SCORER = RougeScorer(["rougeL"], use_stemmer=False)
SEEDS = [
    Task(f"seed_task_{n}", f"Seed number {n}: sort these words.", n % 4 == 0) for n in range(40)
]
MACHINE = [Task(f"machine_task_{n}", f"Machine number {n}: count words.") for n in range(9)]
KEYWORDS = (
    "image",
    "images",
    "graph",
    "graphs",
    "picture",
    "pictures",
    "file",
    "files",
    "map",
    "maps",
    "draw",
    "plot",
    "go to",
)
TASK = "Say it in other words."


@pytest.fixture
def paper(settings: Settings) -> Settings:
    return lambda **changes: settings(**{"recipe": "paper", "provider": "practice", **changes})


# --------------------------------------------------------------------------------------------------
# Stage 1, the prompt.


def numbered(prompt: str) -> list[str]:
    return re.findall(r"^\d+\. (.*)$", prompt, re.M)


@pytest.mark.parametrize("index", [0, 3])
def test_a_prompt_is_a_header_eight_tasks_and_a_dangling_9(paper: Settings, index: int) -> None:
    lines = instruction_prompt(paper(), SEEDS, MACHINE, index).split("\n")
    assert len(lines) == 10 and lines[0].endswith(":") and not re.search(r"\d", lines[0])
    assert [line.partition(" ")[0] for line in lines[1:9]] == [f"{n}." for n in range(1, 9)]
    assert lines[9] == "9.", "nothing behind it, not even a space"


@pytest.mark.parametrize(("made", "machine"), [(0, 0), (1, 1), (2, 2), (3, 2), (9, 2)])
def test_six_tasks_are_of_people_and_two_of_the_machine_once_there_are_so_many(
    paper: Settings, made: int, machine: int
) -> None:
    for index in range(12):
        tasks = numbered(instruction_prompt(paper(), SEEDS, MACHINE[:made], index))
        kinds = Counter(task.split()[0] for task in tasks)
        assert kinds == Counter(Seed=8 - machine, Machine=machine) and len(set(tasks)) == 8


def test_machine_tasks_stand_at_any_place(paper: Settings) -> None:
    prompts = [numbered(instruction_prompt(paper(), SEEDS, MACHINE, index)) for index in range(40)]
    assert {
        i for tasks in prompts for i, task in enumerate(tasks) if task.startswith("Machine")
    } == set(range(8))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("Sort\n these\t\tnew  words", "Sort these new words"),
        ("\u00a0Sort\u3000these \r\n words\x0b", "Sort these words"),
        ("Sort these words:", "Sort these words"),
        ("Sort these words:::", "Sort these words"),
        ("Sort these words: ", "Sort these words"),
        ("Sort these words :", "Sort these words "),
        ("At 10:30: go.", "At 10:30: go."),
        ("Sort these words.", "Sort these words."),
        ("Sort these words：", "Sort these words："),
    ],
)
def test_whitespace_is_squeezed_and_colons_at_the_end_are_taken_off(
    paper: Settings, text: str, line: str
) -> None:
    assert numbered(instruction_prompt(paper(), [Task("s", text)], [], 0)) == [line]


def test_there_are_two_headers_and_the_second_asks_for_labels_and_shows_only_classification_seeds(
    paper: Settings,
) -> None:
    prompts = [instruction_prompt(paper(), SEEDS, MACHINE, index) for index in range(8)]
    headers = [prompt.split("\n")[0] for prompt in prompts]
    assert (
        headers[:4] == headers[4:]
        and len(set(headers)) == 2
        and headers[0] == headers[1] == headers[2]
    )
    assert (
        "classification" in headers[3]
        and "label" in headers[3]
        and "classification" not in headers[0]
    )
    flagged = {task.instruction for task in SEEDS if task.is_classification}
    for index in (3, 7):
        people = {task for task in numbered(prompts[index]) if task.startswith("Seed")}
        assert len(people) == 6 and people <= flagged, "the other two are machine tasks of any kind"


@pytest.mark.parametrize(("every", "labelled"), [(1, set(range(8))), (0, set())])
def test_the_classification_only_mode_is_a_setting(
    paper: Settings, every: int, labelled: set[int]
) -> None:
    config = paper(classification_every=every)
    headers = [instruction_prompt(config, SEEDS, [], index).split("\n")[0] for index in range(8)]
    assert {index for index, header in enumerate(headers) if "classification" in header} == labelled


# --------------------------------------------------------------------------------------------------
# Stages 2 and 3, the prompts.


def test_the_classification_prompt_shows_31_tasks_12_of_them_yes_and_19_no(paper: Settings) -> None:
    header, *blocks = classify_prompt(paper(), TASK).split("\n\n")
    question = blocks[-1].split("\n")[-1]
    answers = Counter(block.split("\n")[-1].removeprefix(question) for block in blocks[:-1])
    assert answers == {" Yes": 12, " No": 19}
    assert blocks[-1].split("\n") == ["Task:", TASK, question] and question.endswith("?")
    assert all(block.startswith("Task:\n") and block.count("\n") == 2 for block in blocks)
    assert "Task:" not in header


@pytest.mark.parametrize(("labelled", "tasks"), [(False, 11), (True, 16)])
def test_the_instance_prompts_show_11_tasks_input_first_or_16_output_first(
    paper: Settings, labelled: bool, tasks: int
) -> None:
    prompt = stage_3_prompt(paper(), TASK, labelled)
    blocks = re.split(r"^Task:\n", prompt, flags=re.M)
    assert len(blocks) == 1 + tasks + 1
    given = {
        row["instruction"]: row["instances"] for row in workshop.read_data("paper_demonstrations")
    }
    for block in blocks[1:-1]:
        instruction, rest = block.split("\n", 1)
        pairs = parse_instances(rest, labelled, recipe="paper")
        assert pairs == [(one["input"], one["output"]) for one in given[instruction][:5]] != []
    assert blocks[-1].strip() == TASK


def test_input_first_examples_are_numbered_and_those_without_input_begin_with_output(
    paper: Settings,
) -> None:
    blocks = re.split(r"^Task:\n", stage_3_prompt(paper(), TASK, False), flags=re.M)[1:-1]
    starts = Counter(
        re.sub(r"\d", "n", block.split("\n")[1]).split(" ")[0].rstrip(":") for block in blocks
    )
    assert set(starts) == {"Example", "Output"} and min(starts.values()) > 1
    for block in blocks:
        numbers = re.findall(r"^Example (\d)$", block, re.M)
        assert numbers == [str(n) for n in range(1, len(numbers) + 1)]
        assert "Class label:" not in block and "Input:" not in block, (
            "fields have names of their own"
        )


def test_output_first_examples_begin_with_their_class_label(paper: Settings) -> None:
    blocks = re.split(r"^Task:\n", stage_3_prompt(paper(), TASK, True), flags=re.M)[1:-1]
    for block in blocks:
        assert block.split("\n")[1].startswith("Class label: ")
        assert "Output:" not in block and "Example" not in block and "Input:" not in block


@pytest.mark.parametrize("labelled", [False, True])
def test_a_stage_3_prompt_ends_behind_the_line_of_the_task(paper: Settings, labelled: bool) -> None:
    """Where the line does not end, a base model goes on with the instruction."""
    assert stage_3_prompt(paper(), TASK, labelled).endswith(f"\n{TASK}\n")


@pytest.mark.parametrize(
    ("stage", "stops"), [("classify", ["Task"]), ("instances", ["Example 6", "Task:"])]
)
def test_no_demonstration_holds_a_stop_string(stage: str, stops: list[str]) -> None:
    shots = [row for row in workshop.read_data("paper_demonstrations") if row["stage"] == stage]
    assert len(shots) > 20
    assert not [stop for stop in stops if stop in json.dumps(shots)]


# --------------------------------------------------------------------------------------------------
# What goes over the wire.


def base_model(prompt: str, body: dict) -> str:
    """Go on with a prompt as a base model does: on and on, until a stop string ends it."""
    dice, lines = random.Random(prompt), prompt.rstrip("\n").split("\n")
    if re.fullmatch(r"\d+\.", lines[-1]):
        return " " + "\n".join(
            [words(dice, False, True), *(f"{n}. {words(dice, False, True)}" for n in range(10, 90))]
        )
    if lines[-1].endswith("?"):
        return dice.choice([" Yes", " No"]) + "\n\nTask:\nSort."
    if "Class label:" in prompt:
        pairs = [f"Class label: {n}\nText: {words(dice, False)}" for n in range(3)]
    else:
        pairs = [
            f"Example {n}\nText: {words(dice, False)}\nOutput: {words(dice, False)}"
            for n in range(1, 9)
        ]
    return "\n".join(pairs) + "\n\nTask:\nAnother one.\nOutput: no"


def stage_of(body: dict) -> str:
    return next(stage for stage, sent in EXPECTED.items() if sent["stop"] == body["stop"])


EXPECTED = {
    "generate": {"temperature": 0.7, "top_p": 0.5, "presence_penalty": 2, "max_tokens": 1024}
    | {"stop": ["\n\n", "\n16", "16.", "16 ."]},
    "classify": {"temperature": 0, "top_p": 0, "max_tokens": 3, "stop": ["\n", "Task"]},
    "instances": {
        "temperature": 0,
        "top_p": 0,
        "presence_penalty": 1.5,
        "stop": ["Example 6", "Task:"],
    },
}


@pytest.mark.parametrize("name", ["local", "openai", "groq", "huggingface"])
def test_each_stage_sends_exactly_the_official_parameters_to_the_completions_endpoint(
    paper: Settings, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(PROVIDERS[name].key or "UNUSED", "k")
    with Server(base_model) as server:
        summary = quiet(
            paper(provider=name, model="m", base_url=server.url + "/v1", num_instructions=12)
        )
    assert (
        summary["status"] == "complete"
        and not summary["faults"]
        and not summary["refused_parameters"]
    )
    assert {request["path"] for request in server.requests} == {"/v1/completions"}
    limits = Counter()
    for request in server.requests:
        body, prompt = dict(request["body"]), request["prompt"]
        stage = stage_of(body)
        if stage == "instances":
            limits[limit := body.pop("max_tokens")] += 1
            assert limit == (300 if "Class label:" in prompt else 350)
        assert body == {"model": "m", "prompt": prompt, **EXPECTED[stage]}
        assert isinstance(prompt, str) and prompt
    assert set(limits) == {300, 350} and limits.total() == 12


def test_a_chosen_temperature_is_that_of_stage_1_alone(paper: Settings) -> None:
    with Server(base_model) as server:
        quiet(
            paper(
                provider="local",
                model="m",
                base_url=server.url + "/v1",
                num_instructions=4,
                temperature=1.5,
            )
        )
    sent = {
        (stage_of(request["body"]), request["body"]["temperature"]) for request in server.requests
    }
    assert sent == {("generate", 1.5), ("classify", 0), ("instances", 0)}


class Deaf(Server):
    """A server that takes stop strings and does not stop at them."""

    def reply(self, record: dict) -> tuple:
        sent = {name: value for name, value in record["parameters"].items() if name != "stop"}
        return super().reply({**record, "parameters": sent})


def test_a_server_that_ignores_stop_strings_brings_the_same_dataset(
    paper: Settings, tmp_path: Path
) -> None:
    for kind in (Server, Deaf):
        with kind(base_model) as server:
            address = {"provider": "local", "model": "m", "base_url": server.url + "/v1"}
            quiet(paper(**address, num_instructions=12, work_dir=str(tmp_path / kind.__name__)))
    kept, deaf = (rows(tmp_path / kind, "step4_final.jsonl") for kind in ("Server", "Deaf"))
    assert kept == deaf and len(kept) > 12
    assert views(tmp_path / "Server") == views(tmp_path / "Deaf")
    raw = [
        row["finish_reason"]
        for row in rows(tmp_path / "Deaf", "responses.jsonl")
        if row["stage"] == "generate"
    ]
    assert "length" in raw, "the journal keeps what the server said"


@pytest.mark.parametrize(
    ("stops", "text", "left"),
    [
        (["\n\n", "\n16", "16.", "16 ."], "a\n\nb", "a"),
        (["\n\n", "\n16", "16.", "16 ."], "a\n15. b\n16. c\n\nd", "a\n15. b"),
        (["\n\n", "\n16", "16.", "16 ."], "a\n160 men", "a"),
        (["\n\n", "\n16", "16.", "16 ."], "It was 2016. Yes", "It was 20"),
        (["\n\n", "\n16", "16.", "16 ."], "It was 2016 . Yes", "It was 20"),
        (["\n\n", "\n16", "16.", "16 ."], "\n\na", ""),
        (["\n", "Task"], " Yes\nTask", " Yes"),
        (["\n", "Task"], " No Task: a", " No "),
        (["\n", "Task"], "\nYes", ""),
        (["Example 6", "Task:"], "Example 5\nb\nExample 60", "Example 5\nb\n"),
        (["Example 6", "Task:"], "a\nTask: Example 6", "a\n"),
    ],
)
def test_a_reply_ends_at_the_first_stop_string_and_is_then_not_cut(
    stops: list[str], text: str, left: str
) -> None:
    reply = Reply(text, "length")
    reply.stop_at(stops)
    assert (reply.text, reply.finish_reason, reply.cut) == (left, "stop", False)


@pytest.mark.parametrize("text", ["", "a", "a\nb", "Task"])
def test_a_reply_without_stop_string_stays_as_it_is(text: str) -> None:
    reply = Reply(text, "length")
    reply.stop_at(["\n\n", "16."])
    assert (reply.text, reply.cut) == (text, True)


def test_the_reply_of_a_server_that_repeats_the_prompt_is_read_without_it(paper: Settings) -> None:
    with Deaf(lambda prompt, body: prompt + base_model(prompt, body)) as server:
        config = paper(provider="local", model="m", base_url=server.url + "/v1")
        with Model(config) as model:
            reply = model.ask(
                "generate", "9.", workshop.parameters(config, "generate"), {"number": 0}
            )
    assert reply.text == base_model("9.", {}).split("\n16")[0]


@pytest.mark.parametrize("nested", [True, False], ids=["error", "flat"])
@pytest.mark.parametrize("param", [None, "top_p"])
def test_a_server_that_takes_no_top_p_of_0_is_asked_without_it(
    paper: Settings, capsys: pytest.CaptureFixture, nested: bool, param: str | None
) -> None:
    class Strict(Server):
        def reply(self, record: dict) -> tuple:
            if record["body"].get("top_p", 1) > 0:
                return super().reply(record)
            said = {
                "message": "top_p must be in (0, 1], got 0.0.",
                "type": "BadRequestError",
                "param": param,
            }
            said |= {"code": 400, **({} if nested else {"object": "error"})}
            return 400, json.dumps({"error": said} if nested else said).encode(), None

    with Strict(base_model) as server:
        address = {"provider": "local", "model": "m", "base_url": server.url + "/v1"}
        small = quiet(paper(**address, num_instructions=8))
        large = quiet(paper(**address, num_instructions=20))
    assert small["status"] == large["status"] == "complete" and not large["undone_because"]
    assert small["refused_parameters"] == {"top_p": "left out"}
    sent = {
        (stage_of(r["body"]), r["body"].get("top_p")) for r in server.requests if r["delivered"]
    }
    assert sent == {("generate", 0.5), ("classify", None), ("instances", None)}
    assert len([line for line in capsys.readouterr().err.splitlines() if "notice" in line]) == 2, (
        "one for each run"
    )


# --------------------------------------------------------------------------------------------------
# Stage 1, candidates.


def accepted_candidates(reply: str, finish: str = "stop") -> list[str]:
    """By this project: the candidates of a reply that break no rule."""
    found = parse_instructions(reply, truncated=finish == "length", recipe="paper")
    return [text for text in found if not workshop.instruction_problem(text, recipe="paper")]


def official_candidates(reply: str, finish: str = "stop") -> list[str]:
    """The same by the rules as the notes on the official code list them."""
    fit, rest = [], "" if finish == "length" else reply
    while rest is not None:
        mark = re.search(r"\n\d+\s?\. ", rest)
        piece, rest = (rest[: mark.start()], rest[mark.end() :]) if mark else (rest, None)
        text = " ".join(piece.split()).capitalize()
        hits = [word for word in KEYWORDS if re.search(rf"\b{word}\b", text, re.IGNORECASE)]
        if 4 <= len(text.split()) <= 150 and not hits and text[:15] != "Write a program":
            fit += [text] if ord(text[0]) < 128 and text[0] not in string.punctuation else []
    return fit


MARKS = [
    "\n10. ",
    "\n11 . ",
    "\n12.",
    "\n13) ",
    "\n9\u00a0. ",
    "\n١٠. ",
    "\n",
    "\n\n",
    " ",
    "  ",
    "10. ",
    "\t",
    "16.",
]
STARTS = [
    "write a program that",
    "Write a programme",
    "Name three NASA words",
    "ﬁles of",
    "ı",
    "İ",
    "é",
    "ß",
    "ǆ",
    "Σ",
]
HITS = [
    "go to",
    "go\nto",
    "file_name",
    "imageſ",
    "MAP",
    "maps,",
    "(draw)",
    "plot-",
    "picture's",
    "graph9",
    "词 map",
    "画map",
]
LONG = ["word " * 147, "a b c d", "\u2028", "\x1c"]
PARTS = st.sampled_from([*MARKS, *STARTS, *HITS, *LONG, *string.punctuation])
REPLY = st.lists(st.one_of(PARTS, st.text(max_size=6)), max_size=12).map("".join)


@explore(max_examples=400)
@given(REPLY, st.sampled_from(["stop", "length", "content_filter"]))
def test_of_any_reply_the_same_candidates_are_fit_as_by_the_official_rules(
    reply: str, finish: str
) -> None:
    assert accepted_candidates(reply, finish) == official_candidates(reply, finish)


def test_a_reply_cut_by_the_limit_is_dropped_whole_and_accounted_for(paper: Settings) -> None:
    text = "Name three long rivers.\n10. Spell this word backwards.\n11. Tell me what"
    assert parse_instructions(text, truncated=True, recipe="paper") == []
    with Server(lambda prompt, body: (text, "length")) as server:
        address = {"provider": "local", "model": "m", "base_url": server.url + "/v1"}
        summary = quiet(paper(**address, num_instructions=5, patience=2))
    generate = summary["counts"]["generate"]
    assert (generate["rejected"], generate["undone"], generate["out"]) == ({"cut_off": 6}, 0, 0)


@pytest.mark.parametrize(
    ("reply", "texts"),
    [
        ("a b\n10. c d", ["A b", "C d"]),
        ("a b\n10 . c d", ["A b", "C d"]),
        ("a b\n10\t. c d", ["A b", "C d"]),
        ("a b\n10\n. c d", ["A b", "C d"]),
        ("a b\n123. c d\n1. e f", ["A b", "C d", "E f"]),
        ("a b\n10  . c d", ["A b 10 . c d"]),
        ("a b\n10.c d", ["A b 10.c d"]),
        ("a b\n10) c d", ["A b 10) c d"]),
        ("a b\n10.\nc d", ["A b 10. c d"]),
        ("a b\n 10. c d", ["A b 10. c d"]),
        ("a b\n**10.** c d", ["A b **10.** c d"]),
        ("a b\nTask 10. c d", ["A b task 10. c d"]),
        ("9. a b\n10. c d", ["9. a b", "C d"]),
        ("\n9. a b", ["A b"]),
        ("Sure! Here you go:\n\n9. a b", ["Sure! here you go:", "A b"]),
        ("a b\n10. \n11. c d", ["A b", "C d"]),
        ("a\n\n b\t c\n10. c d", ["A b c", "C d"]),
        ("", []),
        (" \n ", []),
    ],
)
def test_a_reply_is_split_at_line_number_dot_and_space_only(reply: str, texts: list[str]) -> None:
    assert parse_instructions(reply, recipe="paper") == texts


@pytest.mark.parametrize(
    ("text", "capitalized"),
    [
        ("translate NASA's report from English", "Translate nasa's report from english"),
        ("Select A, B, C or D.", "Select a, b, c or d."),
        ("é dirait OUI", "É dirait oui"),
        ("ﬁnd the Word", "Find the word"),
    ],
)
def test_all_letters_but_the_first_become_small(text: str, capitalized: str) -> None:
    assert parse_instructions(text, recipe="paper") == [capitalized]


@pytest.mark.parametrize(
    ("words_in", "rule"),
    [(1, "too_short"), (3, "too_short"), (4, ""), (150, ""), (151, "too_long")],
)
def test_a_task_has_4_to_150_words(words_in: int, rule: str) -> None:
    assert workshop.instruction_problem(" ".join(["Word"] * words_in), recipe="paper") == rule
    assert workshop.instruction_problem(" ".join(["写"] * words_in), recipe="paper") == (
        rule or "not_ascii"
    )


AROUND = [
    "Now {} it all.",
    "Now ({}), it is.",
    "Now it is {}",
    "Now {}-like it is.",
    "Now {}!! 3 4",
]


def test_a_keyword_is_a_whole_word_in_any_case() -> None:
    wrong = []
    for keyword, around in product(KEYWORDS, AROUND):
        named = [keyword, keyword.upper(), keyword.capitalize()]
        others = [f"{keyword}_x", f"x{keyword}", f"{keyword}9", f"画{keyword}"]
        for word in named + others:
            text, rule = around.format(word), "keyword" if word in named else ""
            if workshop.instruction_problem(text, recipe="paper") != rule:
                wrong.append(text)
    assert wrong == []


@pytest.mark.parametrize(
    "text",
    [
        "Describe the imagery of it",
        "Going to the shop today",
        "Draws and plots of it",
        "Tell me what profiles are",
        "Drawing and mapping and plotting",
        "Show a photo or video",
        "Listen to this audio clip",
        "Goto the next line",
    ],
)
def test_a_word_that_is_none_of_the_13_is_no_keyword(text: str) -> None:
    assert workshop.instruction_problem(text, recipe="paper") == ""


@pytest.mark.parametrize(
    ("reply", "rule"),
    [
        ("write a PROGRAM that sorts.", "write_a_program"),
        ("Write a programme of events.", "write_a_program"),
        ("Please write a program that sorts.", ""),
        ("Write  a\nprogram that sorts.", "write_a_program"),
        ("Write a python program that sorts.", ""),
    ],
)
def test_a_task_must_not_begin_with_write_a_program(reply: str, rule: str) -> None:
    [text] = parse_instructions(reply, recipe="paper")
    assert workshop.instruction_problem(text, recipe="paper") == rule


def test_a_task_must_not_begin_with_ascii_punctuation() -> None:
    found = {
        mark: workshop.instruction_problem(f"{mark}a b c d", recipe="paper")
        for mark in string.punctuation
    }
    assert found == dict.fromkeys(string.punctuation, "leading_punctuation")


@pytest.mark.parametrize("first", ["É", "写", "“", "¿", "«", "…", "５", "И"])
def test_a_task_must_begin_with_an_ascii_character(first: str) -> None:
    assert workshop.instruction_problem(f"{first}a b c d", recipe="paper") == "not_ascii"
    assert workshop.instruction_problem(f"A{first} b c d", recipe="paper") == ""


# --------------------------------------------------------------------------------------------------
# Stage 1, novelty: rouge_score's own float, above 0.7.


def pool_of(*instructions: str, recipe: str = "paper") -> InstructionPool:
    pool = InstructionPool(recipe)
    for instruction in instructions:
        pool.add(instruction)
    return pool


WORDS = st.lists(
    st.sampled_from(["a", "b", "C", "the", "Sort,", "x-y", "3.5", "_", "é", "词", "it's"]),
    max_size=40,
)


@explore(max_examples=300)
@given(
    st.one_of(WORDS.map(" ".join), st.text(max_size=60)),
    st.one_of(WORDS.map(" ".join), st.text(max_size=60)),
)
def test_a_score_is_the_very_float_of_rouge_score(candidate: str, known: str) -> None:
    expected = SCORER.score(candidate, known)["rougeL"].fmeasure
    assert pool_of(known).similarities([candidate])[0, 0] == expected
    assert pool_of(known).nearest(candidate)[0][1] == expected
    [(_, scores)] = workshop.in_blocks(pool_of(known), [candidate])
    assert scores.tolist() == [expected]


def of_length(shared: int, length: int, kind: str) -> str:
    """A text of so many tokens, so many of which it shares with texts of another kind."""
    return " ".join(
        [f"s{n}" for n in range(shared)] + [f"{kind}{n}" for n in range(length - shared)]
    )


def rouge_float(lcs: int, m: int, n: int) -> float:
    """As rouge_score computes it: precision by the known text, recall by the candidate."""
    precision, recall = lcs / n, lcs / m
    return 2 * precision * recall / (precision + recall)


def test_the_float_is_right_for_all_lengths_to_36() -> None:
    shapes = [(lcs, length) for length in range(1, 37) for lcs in range(1, length + 1)]
    pool = pool_of(*(of_length(*shape, "k") for shape in shapes))
    scores = pool.similarities([of_length(*shape, "c") for shape in shapes])
    expected = [[rouge_float(min(a, b), m, n) for b, n in shapes] for a, m in shapes]
    assert np.array_equal(scores, np.array(expected))


SEVEN_TENTHS = [
    (lcs, m, n)
    for m in range(4, 60)
    for n in range(4, 60)
    for lcs in range(1, min(m, n) + 1)
    if Fraction(2 * lcs, m + n) == Fraction(7, 10)
]
ABOVE = [shape for shape in SEVEN_TENTHS if rouge_float(*shape) > 0.7]
NOT_ABOVE = [shape for shape in SEVEN_TENTHS if rouge_float(*shape) <= 0.7]


def test_both_kinds_of_an_exact_seven_tenths_are_common() -> None:
    assert min(len(ABOVE), len(NOT_ABOVE)) > 20
    assert 0.7000000000000001 in {rouge_float(*shape) for shape in ABOVE}


def kept(known: str, text: str, recipe: str) -> bool:
    results, pool = Results(), pool_of(known, recipe=recipe)
    reply = Reply(f" {text}\n10." if recipe == "modern" else text, "stop", prompt="header\n9.")
    take_candidates(Config(recipe=recipe), pool, reply, 0, results)
    assert {row["rule"] for row in results.rejected} <= {"too_similar"}
    return bool(results.tasks)


@pytest.mark.parametrize("shape", [ABOVE[0], ABOVE[-1], *ABOVE[7 :: len(ABOVE) // 5]], ids=str)
def test_paper_drops_an_exact_seven_tenths_that_rouge_score_calls_more_and_modern_keeps_it(
    shape: tuple,
) -> None:
    lcs, m, n = shape
    known, text = of_length(lcs, n, "k"), of_length(lcs, m, "c").capitalize()
    assert 0.7 < SCORER.score(text, known)["rougeL"].fmeasure < 0.7 + 1e-15
    assert (kept(known, text, "paper"), kept(known, text, "modern")) == (False, True)


@pytest.mark.parametrize(
    "shape", [NOT_ABOVE[0], NOT_ABOVE[-1], *NOT_ABOVE[7 :: len(NOT_ABOVE) // 5]], ids=str
)
def test_both_recipes_keep_an_exact_seven_tenths_that_rouge_score_does_not_call_more(
    shape: tuple,
) -> None:
    lcs, m, n = shape
    known, text = of_length(lcs, n, "k"), of_length(lcs, m, "c").capitalize()
    assert SCORER.score(text, known)["rougeL"].fmeasure <= 0.7
    assert kept(known, text, "paper") and kept(known, text, "modern")


def test_candidates_of_one_reply_are_compared_with_each_other_too(paper: Settings) -> None:
    results, same = Results(), "Name three rivers in Spain."
    reply = Reply(f"{same}\n10. {same}\n11. NAME three rivers in spain", "stop", prompt="h\n9.")
    assert take_candidates(paper(), pool_of(TASK), reply, 0, results) == 1
    assert [row["rule"] for row in results.rejected] == ["too_similar"] * 2


def test_scripts_that_rouge_score_does_not_see_are_never_alike(paper: Settings) -> None:
    results, text = Results(), "A 写 一 首 诗"
    assert (
        take_candidates(
            paper(), pool_of("Б 写 一 首 诗"), Reply(text, "stop", prompt="h\n9."), 0, results
        )
        == 1
    )


def test_only_likeness_to_the_pool_counts_and_a_line_of_the_prompt_may_be_a_task(
    paper: Settings,
) -> None:
    results, header = Results(), "Think up a long list of tasks:"
    assert (
        take_candidates(
            paper(), pool_of(TASK), Reply(header, "stop", prompt=f"{header}\n9."), 0, results
        )
        == 1
    )


def test_ten_neighbours_and_the_mean_are_stored_with_prompt_and_reply(paper: Settings) -> None:
    pool, results = (
        pool_of(*(of_length(n, 12, "k") for n in range(1, 8)), *(f"y{n} z{n}" for n in range(20))),
        Results(),
    )
    text = of_length(6, 12, "c").capitalize()
    take_candidates(paper(), pool, Reply(text, "stop", prompt="h\n9."), 4, results)
    notes, known = results.tasks[0].notes["generate"], pool.instructions[:-1]
    scores = [SCORER.score(text, other)["rougeL"].fmeasure for other in known]
    assert list(neighbours(notes).values()) == sorted(scores, reverse=True)[:10]
    assert notes["avg_similarity_score"] == pytest.approx(sum(scores) / len(scores), abs=1e-12)
    assert (notes["request_idx"], notes["metadata"]["prompt"]) == (4, "h\n9.")
    assert notes["metadata"]["response"]["choices"] == [{"text": text, "finish_reason": "stop"}]


# --------------------------------------------------------------------------------------------------
# Stage 2.


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("Yes", True),
        ("yes", True),
        ("YES", True),
        (" Yes\n", True),
        ("\u00a0yes ", True),
        ("yEs", False),
    ]
    + [
        (text, False)
        for text in (
            "Yes.",
            "Yes, it is",
            "**Yes**",
            "是",
            "true",
            "Y",
            "No",
            "no",
            "",
            "?",
            "Yes Yes",
        )
    ],
)
def test_only_yes_in_three_spellings_is_a_yes_and_everything_else_a_no(
    reply: str, verdict: bool
) -> None:
    assert parse_classification(reply, recipe="paper") is verdict


def test_an_empty_answer_is_a_no_and_is_not_asked_again(paper: Settings) -> None:
    def answer(prompt: str, body: dict) -> str:
        return "" if body["max_tokens"] == 3 else base_model(prompt, body)

    with Server(answer) as server:
        address = {"provider": "local", "model": "m", "base_url": server.url + "/v1"}
        counts = quiet(paper(**address, num_instructions=6))["counts"]
    assert counts["classify"]["not_classification"] == 6
    assert sum(request["body"]["max_tokens"] == 3 for request in server.requests) == 6


# --------------------------------------------------------------------------------------------------
# Stages 3 and 4, instances.


INPUT_FIRST = [
    (
        "Example 1\nWord: a\nOutput: b\n\nExample 2\nWord: c\nOutput: d",
        [("Word: a", "b"), ("Word: c", "d")],
    ),
    ("Example 1\nInput: a\nOutput: b", [("a", "b")]),
    ("Example 1\nInput 1: a\nOutput 1: b", [("a", "b")]),
    ("Example 1\nInput  2 : a\nOutput 2 : b", [("a", "b")]),
    ("Example1.a\nOutput: b\nExample2.c\nOutput: d", [("a", "b"), ("c", "d")]),
    ("Example: a\nOutput: b", [(": a", "b")]),
    ("Example\n1\nOutput: b", [("", "b")]),
    (
        "Output: Here is one. Example sentence: I like cats.",
        [("", "Here is one."), ("", "sentence: I like cats.")],
    ),
    ("Examples are:\nOutput: b", [("s are:", "b")]),
    ("The Examples\nOutput: b", [("", "The"), ("s", "b")]),
    ("example 1\nOutput: b", [("example 1", "b")]),
    ("Example 1\nJust a text", [("", "Just a text")]),
    ("Lead\nExample 1\na\nOutput: b", [("", "Lead"), ("a", "b")]),
    ("Example 1\na\nOutput: b\nOutput: c", [("a", "b")]),
    ("Example 1\na\nOutput 1: b\nOutput 2: c", [("a", "b")]),
    ("Example 1\na\nOutput: b\nInput: c", [("a", "b")]),
    ("Example 1\na\nOutput: b\nInput: c\nOutput: d", [("a", "b")]),
    ("Example 1\nInput: c", [("", "")]),
    ("Example 1\na\nInput: c\nOutput: d", [("a\nInput: c", "d")]),
    ("Example 1\nInput: Input: c\nOutput: d", [("Input: c", "d")]),
    ("Example 1\n\nExample 2\nOutput: d", [("", "d")]),
    ("Output: b", [("", "b")]),
    ("Input: a\nOutput: b\n\nInput: c\nOutput: d", [("a", "b")]),
    ("a\nOutput: b", [("a", "b")]),
    ("a\noutput: b", []),
    ("a\nOutput : b", [("a", "b")]),
    ("a\nOutputs: b", []),
    ("Just a text", []),
    ("", []),
    ("Output:", [("", "")]),
    ("Example 10\na\nOutput: 10:30", [("a", "10:30")]),
]


def test_input_first_replies_are_read_with_all_oddities() -> None:
    read = partial(parse_instances, is_classification=False, recipe="paper")
    assert [(reply, read(reply)) for reply, _ in INPUT_FIRST] == INPUT_FIRST
    assert [(reply, read(f"\n {reply}\n\n")) for reply, _ in INPUT_FIRST] == INPUT_FIRST
    cut = [(reply, pairs[:-1]) for reply, pairs in INPUT_FIRST]
    assert [(reply, read(reply, truncated=True)) for reply, _ in INPUT_FIRST] == cut


@pytest.mark.parametrize(
    ("reply", "pairs"),
    [
        ("Class label: a\nText: x\nClass label: b\nText: y", [("Text: x", "a"), ("Text: y", "b")]),
        ("Class label: a", [("", "a")]),
        ("Class label: a\n\n", [("", "a")]),
        ("Class label:\n\na\nx\n\ny", [("x\n\ny", "a")]),
        ("Class label: a Class label: b\nx", [("", "a"), ("x", "b")]),
        ("Sure!\nClass label: a\nx", [("x", "a")]),
        ("class label: a\nx", []),
        ("Class label : a\nx", []),
        ("Label: a\nx", []),
        ("Class label:", [("", "")]),
        (
            "Class label: a\nOutput: x\nExample 2\nInput: y",
            [("Output: x\nExample 2\nInput: y", "a")],
        ),
        ("", []),
    ],
)
def test_output_first_replies_are_read_with_all_oddities(reply: str, pairs: list) -> None:
    assert parse_instances(reply, True, recipe="paper") == pairs
    assert parse_instances(reply, True, truncated=True, recipe="paper") == pairs[:-1]


def official_instances(reply: str, labelled: bool, cut: bool) -> set[tuple[str, str]]:
    """What the official stage 4 makes of a reply, by the rules as the notes list them."""
    found: list[tuple[str, str]] = []
    if labelled:
        for piece in reply.split("Class label:")[1:]:
            label, *rest = piece.strip().split("\n", 1)
            found.append(("".join(rest).strip(), label.strip()))
    else:
        marks = [mark.span() for mark in re.finditer(r"Example\s?\d*\.?", reply)]
        edges = [0, *(edge for span in marks for edge in span), len(reply)]
        pieces = [reply[start:end] for start, end in zip(edges[::2], edges[1::2], strict=True)]
        for piece in (piece.strip() for piece in pieces):
            outputs = [mark.span() for mark in re.finditer(r"Output\s*\d*\s*:", piece)]
            if not piece or not (marks or outputs):
                continue
            start, end = outputs[0] if outputs else (0, 0)
            answer = piece[end : outputs[1][0] if len(outputs) > 1 else None].strip()
            inner = re.search(r"Input\s*\d*\s*:", answer)
            answer = answer[: inner.start()].strip() if inner else answer
            given = piece[:start].strip()
            named = re.match(r"Input\s*\d*\s*:", given)
            found.append((given[named.end() :].strip() if named else given, answer))
    fit = [
        (a, b) for a, b in found[: -1 if cut else None] if b not in ("", a) and not a.endswith(":")
    ]
    fit = [(a, b) for a, b in fit if not b.endswith(":")]
    answers: dict[str, set[str]] = {}
    for given, answer in fit:
        answers.setdefault(given, set()).add(answer)
    return set() if any(given and len(known) > 1 for given, known in answers.items()) else set(fit)


PIECES = [
    "Example",
    "Example 1",
    "Example 2.",
    "Examples",
    "\n",
    "\n\n",
    " ",
    "Input:",
    "Input 1:",
    "Input : ",
    "1",
    ".",
]
PIECES += [
    "Output:",
    "Output 2:",
    "Output\n: ",
    "Outputs:",
    "Class label:",
    "Class label: ",
    "a",
    "b",
    "a",
    ":",
    "写诗",
]
PIECES += ["Text: a", "\u00a0", "\u2028", "Example\n3", "Output1 :", "٣"]


@explore(max_examples=600)
@given(st.lists(st.sampled_from(PIECES), max_size=25).map("".join), st.booleans(), st.booleans())
def test_of_any_reply_the_same_instances_are_kept_as_by_the_official_rules(
    reply: str, labelled: bool, cut: bool
) -> None:
    found = parse_instances(reply, labelled, truncated=cut, recipe="paper")
    pairs, out = filter_instances(TASK, found, recipe="paper")
    assert len(set(pairs)) == len(pairs) and len(pairs) + len(out) == len(found)
    assert set(pairs) == official_instances(reply, labelled, cut)


@pytest.mark.parametrize(
    ("source", "target", "rule"),
    [
        ("a", "a", "output_equals_input"),
        ("", "", "output_equals_input"),
        ("a", "", "empty_output"),
        ("a", "b:", "unfinished"),
        ("a:", "b", "unfinished"),
        ("", "b:", "unfinished"),
        ("a", "b：", ""),
        ("a", "A", ""),
        ("a", TASK, ""),
        ("a", "...", ""),
        ("a", "N/A", ""),
        ("a", "I'm sorry, but I can't help with that.", ""),
        ("", "b", ""),
        (TASK, "b", ""),
    ],
)
def test_an_instance_breaks_the_official_rules_and_no_other(
    source: str, target: str, rule: str
) -> None:
    pairs, out = filter_instances(TASK, [(source, target)], recipe="paper")
    assert (pairs, out) == (([], [(source, target, rule)]) if rule else ([(source, target)], []))


def test_one_input_with_two_answers_loses_all_instances_of_the_task() -> None:
    given = [("a", "x"), ("b", "z"), ("a", "y"), ("", "w"), ("c", "")]
    pairs, out = filter_instances(TASK, given, recipe="paper")
    assert pairs == []
    assert [rule for *_, rule in out] == ["conflicting_outputs"] * 4 + ["empty_output"]


def test_empty_inputs_and_flawed_answers_are_no_conflict() -> None:
    given = [("", "x"), ("", "y"), ("a", ""), ("a", "x"), ("a", "b:"), ("a", "a")]
    assert filter_instances(TASK, given, recipe="paper")[0] == [("", "x"), ("", "y"), ("a", "x")]


def test_only_the_same_input_and_output_are_a_duplicate() -> None:
    given = [("a", "x"), ("", "x"), ("a", "x"), ("", "y"), ("", "x")]
    pairs, out = filter_instances(TASK, given, recipe="paper")
    assert pairs == [("a", "x"), ("", "x"), ("", "y")]
    assert out == [("a", "x", "duplicate"), ("", "x", "duplicate")]


MANY = [{"input": f"input {n}", "output": f"output {n}"} for n in range(12)]


def test_at_most_five_instances_of_a_task_are_kept_and_the_seed_says_which(paper: Settings) -> None:
    flawed = [{"input": "a", "output": ""}] * 9 + MANY[:1] * 3
    chosen = {}
    for seed in range(8):
        results = Results()
        task = Task("machine_task_0", TASK, False, [*flawed, *MANY])
        other = Task("machine_task_1", "Name it now.", False, MANY[:5])
        data = filter_and_dedupe(paper(seed=seed), None, [task, other], results)
        rules = Counter(row["rule"] for row in results.rejected)
        assert rules == {"empty_output": 9, "duplicate": 3, "over_five": 7}
        assert Counter(row["instruction"] for row in data) == {TASK: 5, "Name it now.": 5}
        chosen[seed] = tuple(row["input"] for row in data[:5])
        assert len(set(chosen[seed])) == 5
    assert len(set(chosen.values())) > 2


def test_several_answers_without_input_are_several_rows(paper: Settings) -> None:
    with Model(paper()) as model:
        pairs = [{"input": "", "output": text} for text in "xyx"]
        data = filter_and_dedupe(model.config, model, [Task("machine_task_0", TASK, False, pairs)])
    assert [row["output"] for row in data] == ["x", "y"]


# --------------------------------------------------------------------------------------------------
# What cannot be, and whole runs.


def command(*arguments: str, hash_seed: str = "0") -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    line = [sys.executable, str(ROOT / "self_instruct.py"), "--recipe", "paper", *arguments]
    return subprocess.run(line, capture_output=True, encoding="utf-8", timeout=60, env=environment)


def test_chinese_is_refused_with_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="paper"):
        Config(recipe="paper", language="zh")
    done = command("--language", "zh", "--work-dir", str(tmp_path / "work"))
    assert (done.returncode, done.stdout) == (2, "")
    assert "--recipe paper" in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize(
    ("name", "changes"),
    [(name, {}) for name, row in PROVIDERS.items() if row.key] + [("dashscope", {"model": "m"})],
)
@pytest.mark.parametrize("named", [True, False], ids=["named", "by its key"])
def test_a_provider_without_a_model_that_continues_texts_is_refused_in_one_line(
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    name: str,
    changes: dict,
    named: bool,
) -> None:
    monkeypatch.setenv(PROVIDERS[name].key, "k")
    config = settings(recipe="paper", **changes, **({"provider": name} if named else {}))
    assert main(config) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: --recipe paper") and "/v1/completions" in line
    assert not Path(config.work_dir).exists()


@pytest.mark.parametrize("hash_seed", ["0", "1"])
def test_the_practice_model_runs_end_to_end_and_a_second_run_asks_nothing(
    tmp_path: Path, hash_seed: str
) -> None:
    work = tmp_path / "work"
    arguments = ("--provider", "practice", "--work-dir", str(work), "--num-instructions", "60")
    first = command(*arguments, hash_seed=hash_seed)
    before = {path.name: path.read_bytes() for path in work.glob("*.jsonl")}
    second = command(*arguments, hash_seed=hash_seed)
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert {path.name: path.read_bytes() for path in work.glob("*.jsonl")} == before
    assert "Already complete" in second.stdout
    summary = summary_of(work)
    check_counts(work, summary)
    assert summary["status"] == "complete" and summary["counts"]["generate"]["out"] == 60
    assert {spent["asked_now"] for spent in summary["tokens"].values()} == {0}
    final = rows(work, "step4_final.jsonl")
    assert len(final) > 40 and all(
        row["instruction"] == row["instruction"].capitalize() for row in final
    )


def test_a_run_is_the_same_under_any_hash_seed(tmp_path: Path) -> None:
    code = (
        "import sys, self_instruct_workshop as w\n"
        "c = w.Config(provider='practice', recipe='paper', work_dir=sys.argv[1],"
        " num_instructions=30)\n"
        "w.run(c, say=lambda text: None)\n"
        "pairs = [{'input': str(n), 'output': f'out {n}'} for n in range(12)]\n"
        "with w.Model(c) as m: print(w.filter_and_dedupe(c, m,"
        " [w.Task('t', 'Name it now.', False, pairs)]))\n"
    )
    printed = set()
    for seed in "01":
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": seed}
        line = [sys.executable, "-c", code, str(tmp_path / seed)]
        printed.add(
            subprocess.run(line, capture_output=True, text=True, check=True, env=environment).stdout
        )
    assert len(printed) == 1
    assert views(tmp_path / "0") == views(tmp_path / "1")


def test_a_notice_about_cut_replies_names_no_setting_that_changes_nothing(paper: Settings) -> None:
    """The limits of tokens are the official ones here, whatever --max-tokens says."""
    said: list[str] = []

    def wordy(prompt: str, body: dict) -> str:
        return "Yes it is, I think." if body["max_tokens"] == 3 else base_model(prompt, body)

    with Server(wordy) as server:
        address = {"provider": "local", "model": "m", "base_url": server.url + "/v1"}
        summary = workshop.run(paper(**address, num_instructions=4, max_tokens=9), say=said.append)
    assert summary["tokens"]["classify"]["cut"] == 4
    assert {request["body"]["max_tokens"] for request in server.requests} <= {1024, 3, 300, 350}
    assert "--max-tokens" not in "\n".join(said)


@pytest.mark.parametrize("workers", [1, 16])
def test_the_number_of_workers_changes_nothing(
    paper: Settings, tmp_path: Path, workers: int
) -> None:
    for name, concurrency in (("one", 1), ("many", workers)):
        with Server(base_model) as server:
            address = {"provider": "local", "model": "m", "base_url": server.url + "/v1"}
            quiet(
                paper(
                    **address,
                    num_instructions=20,
                    concurrency=concurrency,
                    work_dir=str(tmp_path / name),
                )
            )
    assert views(tmp_path / "one") == views(tmp_path / "many")


def test_replies_of_one_recipe_are_no_replies_to_the_other(paper: Settings) -> None:
    quiet(paper(num_instructions=5))
    summary = quiet(paper(num_instructions=5, recipe="modern"))
    assert all(spent["asked_now"] == spent["replies"] for spent in summary["tokens"].values())
