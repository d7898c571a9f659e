"""One task through all four stages: what the page shows, and that it asks and writes nothing."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from statistics import median

import pytest
from helpers.runs import ROOT, local, quiet
from helpers.server import LISTS, Server, people_say, scripted_model
from rich.cells import cell_len
from rich.text import Text

import self_instruct
from scripts.explain import page_of
from scripts.explaining.compare import common, pieces
from scripts.explaining.page import wrap
from scripts.reporting.rows import Rows, read_replies
from scripts.reporting.run import read_run
from self_instruct_workshop import STEP_FILES, Config, WorkshopError, rouge_l, tokenize

RHYME = "Explain rhyme in one sentence."
CAPITAL = "Name the capital city of the country named."
NEAR = "Name the capital city of the country given."  # 7 of 8 tokens: ROUGE-L 0.88
DRAWING = "Draw a cat that sleeps on a roof."
YES = "Answer yes or no: does the \x1b[31mplant\x1b[0m grow?"
LIST = f"Sure!\n1. **{RHYME}**\n2. {CAPITAL}\n3. {NEAR}\n4. {DRAWING}\n5. Go.\n6. {YES}"
STAGES = ["Stage 1, generate", "Stage 2, class", "Stage 3, instances", "Stage 4, filter"]


def model(prompt: str, body: dict) -> str:
    """Says LIST in stage 1; of the rhyme nothing usable at first; another capital each time."""
    lines = prompt.split("\n")
    if re.fullmatch(r"\d+\.", lines[-1]):
        return LIST
    if lines[-1] in LISTS:
        seeds = people_say()
        listed = re.findall(r"(?m)^\d+\. (.*)$", prompt.split("\n\n")[-2])
        said = [seeds.get(task, task.startswith("Answer yes")) for task in listed]
        return "\n".join(
            f"{n}. {'yes, no' if yes else 'none'}" for n, yes in enumerate(said, start=1)
        )
    if "Do the task. Write only the answer" in prompt:
        return "Lyon" if CAPITAL in prompt else "Yes, it is yes."
    if prompt.endswith(RHYME):
        again = "That has no" in prompt
        return (
            "Input:\nOutput: Words rhyme where their ends sound alike."
            if again
            else "I hope this helps!"
        )
    if prompt.endswith(CAPITAL):
        return "Of course.\n\nInput: France\nOutput: Paris"
    if "Answer yes or no" in prompt:
        return "Class label: yes\nInput: a rose in the sun"
    return scripted_model()(prompt, body)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(model) as server:
        yield server


def flags(server: Server, folder: Path) -> list[str]:
    where = ["--provider=local", f"--base-url={server.url}/v1", "--model=m"]
    return [*where, f"--work-dir={folder}", "--num-instructions=3"]


@pytest.fixture(scope="module")
def scripted(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the scripted model, with stage 2 in lists."""
    folder = tmp_path_factory.mktemp("scripted") / "run"
    assert self_instruct.main(flags(server, folder)) == 0
    return folder


@pytest.fixture(scope="module", params=["en", "zh"])
def practice(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the practice model."""
    folder = tmp_path_factory.mktemp(request.param) / "run"
    quiet(
        Config(
            provider="practice",
            language=request.param,
            work_dir=str(folder),
            num_instructions=30,
        )
    )
    return folder


def rows(folder: Path, name: str) -> list[dict]:
    text = (folder / name).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def part(page: str, stage: int) -> str:
    """What the page says of a stage, from 1."""
    return page.split("\n== ")[stage]


# What the page shows.


def test_a_task_is_shown_through_all_four_stages(scripted: Path) -> None:
    page = page_of(scripted, CAPITAL, width=100)
    places = [page.find(title) for title in STAGES]
    assert -1 not in places and places == sorted(places)
    for stage in (1, 2, 3):
        assert re.search("(?m)^prompt ", part(page, stage)), stage
        assert re.search("(?m)^reply ", part(page, stage)), stage
    first = part(page, 1)
    for text in (RHYME, CAPITAL, NEAR, DRAWING):
        assert text in first
    assert "> 2. " + CAPITAL in first
    assert "Input: France" in part(page, 3) and "Output: Paris" in part(page, 3)


def test_every_candidate_is_shown_with_its_rule_and_its_nearest_neighbour(scripted: Path) -> None:
    first = part(page_of(scripted, width=100), 1)
    assert len(re.findall("(?m)^candidate ", first)) == 6
    assert len(re.findall("(?m)^nearest ", first)) == 6
    assert len(re.findall("(?m)^decision +kept", first)) == 3
    assert len(re.findall("(?m)^decision +rejected", first)) == 3


def test_what_the_parser_cut_away_is_marked_below_the_reply(scripted: Path) -> None:
    lines = part(page_of(scripted, RHYME, width=100), 1).split("\n")
    place = lines.index(next(line for line in lines if "**" + RHYME in line))
    assert "> Sure!" in lines[place - 2]
    assert lines[place - 1].strip() == "xxxxx"
    marked = {lines[place][n] for n, sign in enumerate(lines[place + 1]) if sign == "x"}
    assert marked == set("1.*") | {" "}
    # In stage 3, talk before the first field was cut away as well.
    third = part(page_of(scripted, CAPITAL, width=100), 3).split("\n")
    talk = third.index(next(line for line in third if "Of course." in line))
    assert third[talk + 1].strip() == "x" * len("Of course.")


def test_a_second_try_and_the_list_of_stage_2_are_shown(scripted: Path) -> None:
    page = page_of(scripted, RHYME, width=100)
    assert "asked in a list of" in part(page, 2)
    assert re.search(r"\d+\. none", part(page, 2))
    assert f". {RHYME}" in part(page, 2)
    third = part(page, 3)
    assert third.index("I hope this helps!") < third.index("(no_instance)")
    assert third.index("That has no") < third.index(
        "Output: Words rhyme where their ends sound alike."
    )
    assert "output: Words rhyme where their ends sound alike." in part(page, 4)


def test_a_second_answer_is_shown_beside_the_first(scripted: Path) -> None:
    differs = page_of(scripted, CAPITAL, width=100)
    assert "second answer: “Lyon”: another one" in " ".join(part(differs, 3).split())
    assert "(answers_differ); beside “Lyon”" in part(differs, 4)
    agrees = page_of(scripted, "Answer yes", width=100)
    assert "“Yes, it is yes.”: the same" in " ".join(part(agrees, 3).split())
    assert "output: yes" in part(agrees, 4)


def test_the_fixed_part_of_a_prompt_is_one_line(practice: Path) -> None:
    page = page_of(practice, "7", width=100)
    fold = r"\[the same in every prompt: \d+ lines\]|\[每条提示词都相同：\d+ 行\]"
    for stage in (1, 2, 3):
        assert re.search(fold, part(page, stage)), stage
    begin = rows(practice, STEP_FILES[0])[7]["instruction"][:10]
    for stage in (2, 3):
        prompt = re.search(r"(?ms)^(?:prompt|提示词) .*?^(?:reply|回复) ", part(page, stage))
        assert begin in prompt[0]


def test_a_row_of_the_dataset_ends_its_page(practice: Path) -> None:
    row = rows(practice, STEP_FILES[3])[3]
    end = "".join(part(page_of(practice, row["instruction"], width=120), 4).split())
    for name in ("instruction", "input", "output"):
        shown = "".join(row[name].split())[:40]
        assert f"{name}:{shown}" in end


# The common subsequence.


def test_the_longest_common_subsequence_is_marked_in_both_texts(scripted: Path) -> None:
    lines = page_of(scripted, NEAR, width=100).split("\n")
    place = lines.index(next(line for line in lines if line.startswith("nearest")))
    shared = "==== === ======= ==== == === ======="
    assert lines[place - 1].strip() == lines[place + 1].strip() == shared
    assert lines[place].index("Name") == lines[place + 1].index("=")
    assert "0.88 = 2 x 7 / (8 + 8)" in lines[place + 2]


@pytest.mark.parametrize("recipe", ["modern", "paper"])
def test_the_common_tokens_are_those_that_rouge_l_counts(recipe: str) -> None:
    pairs = [
        ("Name the big city.", "Name the city, by NIGHT."),
        ("b a b a c", "a b a c b"),
        ("Add 2 and 3.", "Nothing alike"),
    ]
    if recipe == "modern":
        pairs.append(("用SQL查询首都。", "查询ＳＱＬ的首都"))
        pairs.append(("Der Fluß fließt", "der Fluss FLIESST"))
    for one, other in pairs:
        found = common(one, other, recipe)
        a, b = (tokenize(text, recipe=recipe) for text in (one, other))
        score = 2 * found.length / sum(found.tokens) if found.length else 0.0
        assert score == pytest.approx(rouge_l(a, b))
        here = ["".join(tokenize(one[i:j], recipe=recipe)) for i, j in found.here]
        there = ["".join(tokenize(other[i:j], recipe=recipe)) for i, j in found.there]
        assert here == there and len(here) == found.length


def test_pieces_hold_the_whole_reply_and_say_what_was_cut_out_of_it() -> None:
    reply = "Sure!\n9. **Add** 2 and\n  3.\nInput: 4\n10. Spell it.\n\nLet me know!"
    found = pieces(reply, ["Add 2 and 3.", "Spell it."])
    assert "".join(piece.raw for piece in found) == reply
    cut = ["".join(piece.raw[i:j] for i, j in piece.cut).split() for piece in found]
    assert cut[0] == ["Sure!", "9.", "****", "Input:", "4"] and cut[1][0] == "10."
    assert "Let me know!" in " ".join([*cut[1], *cut[-1]])
    assert [piece.is_news for piece in pieces("1. Add 2.\n2. Go on.", ["Add 2.", "Go on."])] == [
        False,
        False,
    ]


# A text that a rule turned away.


@pytest.mark.parametrize(
    ("wanted", "rule", "how_near"),
    [
        (NEAR, "too_similar", "0.88, allowed up to 0.7"),
        ("Go.", "too_short", "1, at least 3"),
        (DRAWING[:12], "needs_more_than_text", "because of “Draw"),
    ],
)
def test_a_rejected_text_names_its_rule_and_how_near_it_was(
    scripted: Path, wanted: str, rule: str, how_near: str
) -> None:
    page = page_of(scripted, wanted, width=120)
    decision = re.search(r"(?ms)^decision +rejected.*", page)[0]
    ends = re.search(r"(?m)^ends as .*", page)[0]
    assert f"({rule})" in decision and f"({rule})" in ends
    assert how_near in ends
    assert "Stage 2" not in page


def test_what_stage_1_did_not_need_has_a_neighbour_too(practice: Path) -> None:
    spare = [row for row in rows(practice, "rejected.jsonl") if row["rule"] == "not_needed"]
    page = page_of(practice, spare[0]["instruction"], width=120)
    assert "(not_needed)" in page
    assert re.search(r"(?m)^(score|得分) +0\.\d\d = 2 x \d+ / ", page)


# It asks nothing and writes nothing.


def state(folder: Path) -> dict[str, tuple[bytes, int]]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def test_a_finished_folder_is_explained_without_a_request_or_a_change(
    scripted: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    before = state(scripted), len(server.requests), scripted.stat().st_mtime_ns
    # Raised numbers would be asked for by a run.
    typed = [flag for flag in flags(server, scripted) if "num-instr" not in flag]
    for wanted in (["--explain"], ["--explain", "1"], ["--explain", NEAR]):
        assert self_instruct.main([*typed, "--num-instructions=50", *wanted]) == 0
        assert "Stage 1" in capsys.readouterr().out
    assert (state(scripted), len(server.requests), scripted.stat().st_mtime_ns) == before


def test_a_folder_without_a_run_gets_one_first(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sent = len(server.requests)
    assert self_instruct.main([*flags(server, tmp_path / "new"), "--explain", "1"]) == 0
    assert len(server.requests) > sent
    said = capsys.readouterr().out
    assert said.index("Files in") < said.index("One task through all four stages: machine_task_1")


def test_nothing_is_paid_or_shown_where_nobody_agrees(
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    terminal = StringIO("n\n")
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr("sys.stdin", terminal)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    sent = len(server.requests)
    typed = ["--provider=openai", *flags(server, tmp_path / "new")[1:], "--explain"]
    assert self_instruct.main(typed) != 0
    assert self_instruct.main([*typed, "--estimate"]) == 0
    assert len(server.requests) == sent
    assert "Stage 1, generate: request" not in capsys.readouterr().out


# Runs that lack something.


def test_without_a_journal_the_step_files_tell_what_they_have(
    scripted: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(scripted, copy)
    (copy / "responses.jsonl").unlink()
    page = page_of(copy, CAPITAL, width=100)
    assert "> 2. " + CAPITAL in part(page, 1)
    assert "not kept: the journal" in part(page, 2) and "not kept: the journal" in part(page, 3)
    assert "Output: Paris" in part(page, 3)
    assert "(answers_differ)" in part(page, 4)


def test_a_run_that_stopped_after_stage_1_says_so(tmp_path: Path) -> None:
    quiet(Config(provider="practice", work_dir=str(tmp_path), num_instructions=4, until="generate"))
    page = page_of(tmp_path, "2", width=100)
    assert "kept: no rule" in part(page, 1)
    assert "not reached" in part(page, 2) and "not reached" in part(page, 3)
    assert "no instance" in part(page, 4)


def test_a_journal_alone_shows_what_was_asked_and_no_verdict(
    scripted: Path, tmp_path: Path
) -> None:
    shutil.copy(scripted / "responses.jsonl", tmp_path)
    page = page_of(tmp_path, CAPITAL, width=100)
    assert "> 2. " + CAPITAL in part(page, 1)
    assert "the run did not come so far" in part(page, 1)


@pytest.mark.parametrize(
    ("wanted", "problem"),
    [("99", "no task in"), ("Nothing alike", "no task in"), ("n", "2 texts")],
)
def test_an_unknown_id_is_one_line_with_the_place_and_the_next_step(
    scripted: Path, wanted: str, problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = ["--provider=practice", f"--work-dir={scripted}", "--explain", wanted]
    assert self_instruct.main(typed) == 1
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1
    assert said.err.startswith(f"error: {problem}")
    assert str(scripted) in said.err and repr(wanted) in said.err
    assert ": give more" in said.err or "ids are like machine_task_" in said.err


def test_the_companion_by_itself_makes_no_run(tmp_path: Path) -> None:
    done = called(["scripts/explain.py", "--work-dir", str(tmp_path / "none")])
    assert done.returncode == 1 and done.stdout == ""
    assert "holds no run" in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("language", "said"),
    [
        ("en", "notice: {} holds no run: one by practice is made there first\n"),
        ("zh", "注意：{} 里还没有运行：先用 practice 在那里运行一次\n"),
    ],
)
def test_where_no_run_is_explain_says_that_it_makes_one(
    tmp_path: Path, language: str, said: str
) -> None:
    folder = str(tmp_path / "none")
    flags = ["--work-dir", folder, "--num-instructions", "4", "--language", language]
    first = called(["self_instruct.py", "--explain", *flags])
    assert (first.returncode, first.stderr) == (0, said.format(folder))
    again = called(["self_instruct.py", "--explain", *flags])
    assert (again.returncode, again.stderr) == (0, "")


def test_an_id_its_number_and_its_text_are_the_same_task(practice: Path) -> None:
    row = rows(practice, STEP_FILES[0])[5]
    names = [row["id"], "5", row["instruction"], row["instruction"].upper()]
    assert len({page_of(practice, name, width=80) for name in names}) == 1


def test_a_row_of_the_report_names_the_id_that_shows_it(scripted: Path) -> None:
    run = read_run(scripted)
    with run.journal.file:
        told = [(row[3], row[2], row[-1]) for row in Rows(run, read_replies(run)).all()]
    ids = {row["instruction"]: row["id"] for row in rows(scripted, STEP_FILES[0])}
    tasks = {(text, name) for text, _, name in told if name}
    assert tasks == set(ids.items())
    assert {rule for _, rule, name in told if not name} == {
        "too_similar",
        "too_short",
        "needs_more_than_text",
    }
    for text, name in tasks:
        assert text.replace("\x1b", r"\x1b")[:30] in page_of(scripted, name, width=120)


# Languages and recipes.


def test_the_words_are_those_of_the_run_or_of_the_language_asked_for(practice: Path) -> None:
    chinese = page_of(practice, "3", "zh", width=80)
    english = page_of(practice, "3", "en", width=80)
    assert "第 1 阶段" in chinese and "Stage 1" not in chinese
    assert "Stage 1" in english and "第 1 阶段" not in english
    assert page_of(practice, "3", width=80) in (chinese, english)
    own = page_of(practice, "3", width=80) == chinese
    run = json.loads((practice / "run.json").read_text(encoding="utf-8"))
    assert own == (run["settings"]["language"] == "zh")


def test_both_languages_have_the_same_words_with_the_same_places() -> None:
    known = json.loads((ROOT / "scripts/explaining/words.json").read_text(encoding="utf-8"))

    def places(words: dict) -> dict:
        flat = {**words, **words["labels"]}
        del flat["labels"]
        return {name: sorted(re.findall(r"\{\w+\}", text)) for name, text in flat.items()}

    assert places(known["en"]) == places(known["zh"])


def test_the_recipe_paper_is_shown(tmp_path: Path) -> None:
    quiet(Config(provider="practice", recipe="paper", work_dir=str(tmp_path), num_instructions=12))
    for number in range(12):
        page = page_of(tmp_path, str(number), width=80)
        assert all(title in page for title in STAGES)
        assert "recipe paper" in page


# The terminal.


def called(command: list[str], **variables: str) -> subprocess.CompletedProcess:
    clean = {name: value for name, value in os.environ.items() if name not in COLOURS}
    return subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env=clean | variables,
        capture_output=True,
        encoding="utf-8",
        timeout=60,
    )


COLOURS = ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "TERM", "COLORTERM", "TTY_COMPATIBLE")


def on_a_terminal(command: list[str], **variables: str) -> str:
    """What a program writes to a terminal of its own."""
    pty = pytest.importorskip("pty")
    master, slave = pty.openpty()
    clean = {name: value for name, value in os.environ.items() if name not in COLOURS}
    with subprocess.Popen(
        [sys.executable, *command], cwd=ROOT, env=clean | variables, stdout=slave
    ) as program:
        os.close(slave)
        found = b""
        while True:
            try:
                read = os.read(master, 65536)
            except OSError:  # the program has ended
                break
            if not read:
                break
            found += read
        os.close(master)
    assert program.returncode == 0
    return found.decode("utf-8").replace("\r\n", "\n")


def test_colour_is_for_a_terminal_that_wants_it(scripted: Path) -> None:
    command = ["self_instruct.py", "--explain", NEAR, "--work-dir", str(scripted)]
    bright = on_a_terminal(command, TERM="xterm-256color", COLUMNS="90")
    assert "\x1b[" in bright and "====" not in bright.split("nearest")[1]
    # The texts are the same; only codes and marks tell the two apart.
    plain = on_a_terminal(command, TERM="xterm-256color", COLUMNS="90", NO_COLOR="1")
    assert "\x1b" not in plain and "==== ===" in plain.split("nearest")[1]
    piped = called(command, TERM="xterm-256color", COLUMNS="90")
    assert piped.stdout == plain
    assert "\x1b" not in on_a_terminal(command, TERM="dumb")


def test_a_pipe_is_80_columns_wide(scripted: Path) -> None:
    done = called(["scripts/explain.py", "--work-dir", str(scripted)])
    assert done.returncode == 0
    assert done.stdout.rstrip("\n") == page_of(scripted, width=80).rstrip("\n")


def test_what_a_reply_says_cannot_steer_the_terminal(scripted: Path) -> None:
    for wanted in ("", "Answer yes"):
        page = page_of(scripted, wanted, width=80)
        assert "\x1b" not in page and r"\x1b[31mplant" in page
        bright = page_of(scripted, wanted, width=80, colour=True)
        # In colour, each code is one of the page's own, and none is that of the reply.
        assert r"\x1b[31mplant" in re.sub(r"\x1b\[[\d;]*m", "", bright)
        assert not re.search(r"\x1b(?!\[[\d;]*m)", bright)


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("colour", [False, True])
def test_no_line_is_wider_than_the_terminal(practice: Path, width: int, colour: bool) -> None:
    texts = [row["instruction"] for row in rows(practice, "rejected.jsonl")]
    for wanted in ("", *map(str, range(30)), *texts):
        page = page_of(practice, wanted, width=width, colour=colour)
        lines = re.sub(r"\x1b\[[\d;]*m", "", page).split("\n")
        assert max(map(cell_len, lines)) <= width
    # The room is used, too.
    assert max(map(cell_len, lines)) > width - 12


def test_a_task_fits_on_a_page(practice: Path) -> None:
    lengths = [len(page_of(practice, str(n), width=80).splitlines()) for n in range(30)]
    assert median(lengths) <= 65 and max(lengths) <= 85


def test_no_word_is_cut_and_wide_characters_are_two_columns() -> None:
    text = "Name the capital, 用JavaScript写一个函数，把“温度”换算成Fahrenheit。 " * 3
    for width in (20, 33, 80):
        lines = [line.plain for line in wrap(Text(text.strip()), width)]
        assert max(map(cell_len, lines)) <= width
        assert "".join("".join(lines).split()) == "".join(text.split())
        for word in ("JavaScript", "Fahrenheit", "capital"):
            assert sum(word in line for line in lines) >= 1
            assert "".join(lines).count(word) == sum(line.count(word) for line in lines)
        assert not any(line[0] in "，。”" for line in lines)
    # Only a word that no line can hold is cut.
    assert [line.plain for line in wrap(Text("a" * 25), 10)] == ["a" * 10, "a" * 10, "a" * 5]


def test_the_error_of_the_companion_is_that_of_the_command_line(scripted: Path) -> None:
    with pytest.raises(WorkshopError, match="no task in"):
        page_of(scripted, "99", width=80)
    done = called(["scripts/explain.py", "99", "--work-dir", str(scripted)])
    assert (done.returncode, done.stdout) == (1, "")


def test_the_scripted_run_is_what_these_tests_take_it_for(scripted: Path, server: Server) -> None:
    assert local(server)["provider"] == "local"
    kept = [row["instruction"] for row in rows(scripted, STEP_FILES[0])]
    assert kept == [RHYME, CAPITAL, YES]
    rules = [row["rule"] for row in rows(scripted, "rejected.jsonl")]
    assert sorted(rules) == sorted(
        ["too_similar", "needs_more_than_text", "too_short", "answers_differ"]
    )
