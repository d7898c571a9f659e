"""Real runs of other people, replayed: `paper` makes of their raw replies what they made, `modern`
what readers did.

The replies lie in the folder SELF_INSTRUCT_REAL_RUNS and are no part of this project. Below them
stand made-up replies of the kinds that no real set has.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from itertools import chain, product
from pathlib import Path

import pytest
from helpers import labelled
from helpers.labelled import FOLDER, Score, real
from helpers.runs import neighbours, prompts_of
from helpers.server import Server
from rouge_score.rouge_scorer import RougeScorer

from self_instruct_workshop import (
    Config,
    InstructionPool,
    Reply,
    Results,
    Task,
    dangling_number,
    filter_instances,
    instruction_problem,
    parameters,
    parse_classification,
    parse_instances,
    parse_instructions,
    run,
    take_candidates,
)

Settings = Callable[..., Config]
SCORER = RougeScorer(["rougeL"], use_stemmer=False)
OFFICIAL = {  # set -> (replies, instructions accepted) of runs that began with the official seeds
    "davinci_maulik_a": (10, 54),
    "davinci_maulik_b": (14, 67),
    "davinci_eztable_b": (24, 114),
    "falcon7b_hanshanshan_head": (3, 5),
    "falcon7b_hanshanshan_50c4": (5, 15),
}
DIALOGUE = "davinci003_leadawon_dialogue_ee51"
FINAL = {
    "davinci_maulik_b": 78,
    "gpt35_1106_mxk": 41,
    DIALOGUE: 30,
}  # different instances in the final file
needs_real_runs = pytest.mark.skipif(
    not (FOLDER / "official_seed_instructions.jsonl").exists(),
    reason=f"no real runs in {FOLDER}: set SELF_INSTRUCT_REAL_RUNS to a folder that has them",
)


# --------------------------------------------------------------------------------------------------
# Stage 1: the instructions that a run accepted, in order.


def official_seeds() -> list[str]:
    return [row["instruction"] for row in real("official_seed_instructions")]


def replayed(name: str, seeds: list[str]) -> Iterator[tuple[list[str], list[Task]]]:
    """For each reply, the pool before it and the tasks that `paper` accepts of it."""
    config, pool, results = (
        Config(recipe="paper", num_instructions=10**6),
        InstructionPool("paper"),
        Results(),
    )
    for seed in seeds:
        pool.add(seed)
    for row in real(f"{name}.stage1"):
        before, known = len(results.tasks), list(pool.instructions)
        reply = Reply(row["response"], row["finish_reason"] or "stop", prompt=row["prompt"] or "")
        take_candidates(config, pool, reply, row["request_idx"], results)
        yield known, results.tasks[before:]


def accepted(name: str) -> list[list[str]]:
    return [row["accepted"] for row in real(f"{name}.stage1")]


def instructions(tasks: list[Task]) -> list[str]:
    return [task.instruction for task in tasks]


@needs_real_runs
@pytest.mark.parametrize("name", OFFICIAL)
def test_paper_accepts_of_each_real_reply_what_the_official_code_accepted(name: str) -> None:
    made = [instructions(tasks) for _, tasks in replayed(name, official_seeds())]
    assert made == accepted(name)
    assert (len(made), sum(map(len, made))) == OFFICIAL[name]


@needs_real_runs
def test_paper_accepts_what_a_run_with_seeds_of_its_own_accepted() -> None:
    machine = set(chain(*accepted(DIALOGUE)))
    prompts = "\n".join(row["prompt"] for row in real(f"{DIALOGUE}.stage1"))
    shown = dict.fromkeys(re.findall(r"^\d+\. (.*)$", prompts, re.M))
    seeds = [task for task in shown if task not in machine]
    assert [instructions(tasks) for _, tasks in replayed(DIALOGUE, seeds)] == accepted(DIALOGUE)


@needs_real_runs
@pytest.mark.parametrize("name", OFFICIAL)
def test_the_nearest_ten_have_the_scores_of_rouge_score(name: str) -> None:
    pairs = [(known, tasks[0]) for known, tasks in replayed(name, official_seeds())]
    for known, task in pairs[:: 1 + len(pairs) // 5]:
        notes = task.notes["generate"]
        scores = [SCORER.score(task.instruction, other)["rougeL"].fmeasure for other in known]
        own = {
            other: score
            for other, score in zip(known, scores, strict=True)
            if other in neighbours(notes)
        }
        assert neighbours(notes) == pytest.approx(own, abs=1e-9)
        assert list(neighbours(notes).values()) == pytest.approx(
            sorted(scores)[-1:-11:-1], abs=1e-9
        )
        assert notes["avg_similarity_score"] == pytest.approx(sum(scores) / len(scores), abs=1e-9)
        assert max(scores) <= 0.7


@needs_real_runs
@pytest.mark.parametrize("name", OFFICIAL)
def test_a_whole_run_against_a_server_that_gives_the_real_replies_accepts_the_same(
    name: str, settings: Settings, tmp_path: Path
) -> None:
    said = [(row["response"], row["finish_reason"] or "stop") for row in real(f"{name}.stage1")]
    left, expected = iter(said), list(chain(*accepted(name)))
    seeds = tmp_path / "seeds.jsonl"
    seeds.write_text(
        "\n".join(json.dumps({"instruction": text}) for text in official_seeds()), encoding="utf-8"
    )
    with Server(lambda prompt, body: next(left)) as server:
        address = {"provider": "local", "model": "m", "base_url": server.url + "/v1"}
        made = {
            "num_instructions": len(expected),
            "concurrency": 1,
            "until": "generate",
            "seed_file": str(seeds),
        }
        config = settings(recipe="paper", **address, **made)
        run(config, say=lambda text: None)
    assert {request["path"] for request in server.requests} == {"/v1/completions"}
    assert len(server.requests) == len(said)
    step = labelled.rows(Path(config.work_dir) / "step1_instructions.jsonl")
    assert [row["instruction"] for row in step] == expected
    assert all(dangling_number(prompt) == 9 for prompt in prompts_of(step))


@needs_real_runs
@pytest.mark.parametrize("name", OFFICIAL)
def test_no_stop_string_occurs_in_what_a_real_server_sent(name: str) -> None:
    """Or cutting at them on our side would change a run."""
    for row in real(f"{name}.stage1"):
        reply = Reply(row["response"], row["finish_reason"] or "stop")
        reply.stop_at(parameters(Config(recipe="paper"), "generate")["stop"])
        assert [reply.text] == [row["response"]]


# --------------------------------------------------------------------------------------------------
# Stages 2 to 4: labels and final instances.


@needs_real_runs
@pytest.mark.parametrize("name", [*FINAL, "falcon7b_hanshanshan_head"])
def test_paper_gives_each_real_answer_of_stage_2_its_label(name: str) -> None:
    rows = real(f"{name}.stage2")
    assert rows and all(
        parse_classification(row["response"], recipe="paper") is row["label"] for row in rows
    )


def final(row: dict, tidy: Callable[[str], str] = str) -> tuple[set, set]:
    """What `paper` keeps of a reply, and what that run's final file holds."""
    found = parse_instances(
        row["response"],
        row["is_classification"],
        truncated=row["finish_reason"] == "length",
        recipe="paper",
    )
    kept, _ = filter_instances(row["instruction"], found, recipe="paper")
    held = [(one["input"], one["output"]) for one in row["final_instances"]]
    return {(tidy(a), tidy(b)) for a, b in kept}, {(tidy(a), tidy(b)) for a, b in held}


@needs_real_runs
@pytest.mark.parametrize("name", FINAL)
def test_paper_keeps_the_instances_that_the_official_code_kept(name: str) -> None:
    total = 0
    for row in real(f"{name}.stage3"):
        kept, held = final(row)
        assert held == kept if len(kept) <= 5 else (held <= kept and len(held) == 5), row[
            "instruction"
        ]
        total += len(held)
    assert total == FINAL[name]


@needs_real_runs
def test_paper_keeps_the_instances_of_a_lesson_but_for_blanks_at_the_ends_of_lines() -> None:
    """That run came through a stage 4 of its own, which takes such blanks away."""
    rows = real("workshop_zh.stage3")
    for row in rows:
        kept, held = final(row, lambda text: re.sub(r"[ \t]+\n", "\n", text))
        assert kept == held != set(), row["instruction"]


# --------------------------------------------------------------------------------------------------
# Readers' labels.


def total(kind: str, recipe: str) -> Score:
    return sum(labelled.SCORES[kind](recipe).values(), Score())


@needs_real_runs
@pytest.mark.parametrize("kind", ["instructions", "instances"])
def test_modern_keeps_what_readers_keep_and_hardly_anything_else(kind: str) -> None:
    score = total(kind, "modern")
    assert score.replies > 80 and score.right > 100
    assert score.precision >= 0.98 and score.recall >= 0.98, labelled.table()


@needs_real_runs
def test_modern_reads_each_verdict_as_readers_do() -> None:
    score = total("verdicts", "modern")
    assert (score.right, score.wrong, score.missed) == (score.replies, 0, 0) and score.replies > 100


@needs_real_runs
def test_modern_agrees_with_readers_better_than_paper() -> None:
    for kind in ("instructions", "instances"):
        modern, paper = total(kind, "modern"), total(kind, "paper")
        assert modern.precision > paper.precision and modern.recall > paper.recall


def offsets(label: dict) -> Iterator[list[int]]:
    """Where each labelled text begins and ends."""
    for one in chain(*(part for part in label.values() if isinstance(part, list))):
        yield from filter(None, [one] if isinstance(one, list) else one.values())


@needs_real_runs
@pytest.mark.parametrize("stage", [1, 3])
def test_every_label_lies_inside_its_reply_and_cuts_no_word(stage: int) -> None:
    """Else the labels belong to other replies than these."""
    for label, row in labelled.labelled(stage):
        for start, end in offsets(label):
            text = row["response"]
            assert 0 <= start < end <= len(text) and text[start:end] == text[start:end].strip()
            assert not start or not (text[start - 1].isalpha() and text[start].isalpha()), (
                label["set"],
                label["row"],
            )


# --------------------------------------------------------------------------------------------------
# Replies of kinds that no real set has, made up: other scripts, odd headings, thoughts without end,
# refusals.

LISTS = {
    "ko": [
        "스페인의 강 세 개를 말하세요.",
        "다음 문장을 영어로 번역하세요.",
        "봄에 관한 짧은 시를 쓰세요.",
    ],
    "ja": [
        "スペインの川を三つ挙げてください。",
        "次の文を英語に訳してください。",
        "春の短い詩を書いてください。",
    ],
    "ru": [
        "Назови три реки в Испании.",
        "Переведи предложение на английский.",
        "Напиши короткий стих о весне.",
    ],
    "ar": [
        "اذكر ثلاثة أنهار في إسبانيا.",
        "ترجم الجملة التالية إلى الإنجليزية.",
        "اكتب قصيدة قصيرة عن الربيع.",
    ],
    "th": ["บอกชื่อแม่น้ำสามสายในสเปน", "แปลประโยคต่อไปนี้เป็นภาษาอังกฤษ", "เขียนบทกวีสั้น ๆ เกี่ยวกับฤดูใบไม้ผลิ"],
    "hi": [
        "स्पेन की तीन नदियों के नाम बताओ।",
        "अगले वाक्य का अंग्रेज़ी में अनुवाद करो।",
        "वसंत पर एक छोटी कविता लिखो।",
    ],
    "he": ["ציין שלושה נהרות בספרד.", "תרגם את המשפט הבא לאנגלית.", "כתוב שיר קצר על האביב."],
}


NUMBERED = ["{}. {}", "{}) {}", "**{}.** {}", "{}. **{}**", "{}．{}", "{}、{}"]


def test_a_list_in_any_script_is_read_and_breaks_no_rule() -> None:
    wrong = []
    for style, tasks in product(NUMBERED, LISTS.values()):
        reply = "\n".join(style.format(n, task) for n, task in enumerate(tasks, 9))
        if parse_instructions(reply) != tasks:
            wrong.append(reply)
        wrong += [task for task in tasks if instruction_problem(task) != ""]
    assert wrong == []


@pytest.mark.parametrize("language", LISTS)
def test_a_list_in_any_script_goes_on_behind_the_dangling_number(language: str) -> None:
    first, second, third = LISTS[language]
    assert parse_instructions(f" {first}\n10. {second}\n11. {third}") == [first, second, third]


@pytest.mark.parametrize("language", LISTS)
def test_paper_turns_away_every_task_that_begins_beyond_ascii(language: str) -> None:
    tasks = parse_instructions("\n10. ".join(LISTS[language]), recipe="paper")
    assert tasks and {instruction_problem(task, recipe="paper") for task in tasks} <= {
        "not_ascii",
        "too_short",
    }


@pytest.mark.parametrize(
    "reply",
    [
        "示例 1\n输入：五\n输出：六\n\n示例 2\n输入：七\n输出：八",
        "示例 1：\n输入：五\n输出：六\n示例 2：\n输入：七\n输出：八",
        "**示例 1**\n\n**输入：** 五\n**输出：** 六\n\n**示例 2**\n\n**输入：** 七\n**输出：** 八",
        "### 示例 1\n- 输入：五\n- 输出：六\n\n### 示例 2\n- 输入：七\n- 输出：八",
        "好的，以下是示例：\n\n示例 1\n输入：五\n输出：六\n\n示例 2\n输入：七\n输出：八",
    ],
)
def test_chinese_examples_under_headings_are_kept_apart(reply: str) -> None:
    assert parse_instances(reply, False) == [("五", "六"), ("七", "八")]


@pytest.mark.parametrize(
    "remark",
    [
        "希望这些示例对你有帮助！",
        "希望以上内容对您有所帮助。",
        "希望对你有帮助！",
        "如需更多示例，请告诉我。",
    ],
)
def test_a_chinese_closing_remark_is_no_part_of_the_last_answer(remark: str) -> None:
    assert parse_instances(f"输入：五\n输出：六\n\n输入：七\n输出：八\n\n{remark}", False) == [
        ("五", "六"),
        ("七", "八"),
    ]


@pytest.mark.parametrize("open_tag", ["<think>", "<thinking>", "<think>\n", "\n<think>\n"])
def test_thoughts_without_end_hold_nothing_at_any_stage(open_tag: str) -> None:
    thoughts = (
        f"{open_tag}Yes, this is a classification task.\n9. Name three rivers.\nInput: a\nOutput: b"
    )
    assert parse_instructions(thoughts) == []
    assert parse_classification(thoughts) is None
    assert parse_instances(thoughts, False) == parse_instances(thoughts, True) == []


REFUSALS = [
    "I'm sorry, but I can't help with that.",
    "I’m sorry, but I cannot assist with this request.",
    "As an AI language model, I cannot do that.",
    "抱歉，我无法完成这个请求。",
    "很抱歉，我无法完成这个请求。",
    "对不起，我不能协助您。",
]


@pytest.mark.parametrize("reply", REFUSALS)
def test_a_refusal_is_no_task_no_verdict_and_no_instance(reply: str) -> None:
    assert [text for text in parse_instructions(reply) if not instruction_problem(text)] == []
    assert parse_classification(reply) is None
    for labelled_task in (False, True):
        assert filter_instances("Name it now.", parse_instances(reply, labelled_task))[0] == []


@pytest.mark.parametrize("reply", REFUSALS)
@pytest.mark.parametrize(
    "layout", ["Input: a\nOutput: {}", "Example 1\nInput: a\nOutput: {}", "输入：a\n输出：{}"]
)
def test_a_refusal_in_the_place_of_an_output_is_turned_away(layout: str, reply: str) -> None:
    _, [(_, _, rule)] = filter_instances(
        "Name it now.", parse_instances(layout.format(reply), False)
    )
    assert rule == "refusal"


@pytest.mark.parametrize(
    "reply", ["Yes.", "yes.", "YES.", "Yes!", "**Yes.**", " Yes.\n", "Yes. It has labels."]
)
def test_a_yes_with_its_full_stop_is_a_yes_but_not_in_paper(reply: str) -> None:
    assert parse_classification(reply) is True
    assert parse_classification(reply, recipe="paper") is False
