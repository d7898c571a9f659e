"""Stages 1 and 2, habits of chat models: invented replies of each kind, and what they say."""

from __future__ import annotations

import pytest

from self_instruct_workshop import (
    Config,
    InstructionPool,
    Reply,
    Results,
    instruction_problem,
    modern_echo_problem,
    parse_classification,
    parse_instructions,
    take_candidates,
)

Case = tuple[str, list[str]]  # a reply, and its tasks


def misread(cases: list[Case]) -> list[Case]:
    """The replies that are read in another way, each with what is read."""
    return [
        (reply, found) for reply, tasks in cases if (found := parse_instructions(reply)) != tasks
    ]


A_TASK_WITH_BULLETS: list[Case] = [
    (
        "Sort these animals by size:\n- cat\n- elephant",
        ["Sort these animals by size: - cat - elephant"],
    ),
    (
        "Name three rivers in Spain.\n\nRank these by size:\n- a\n- b\n\n"
        "Translate NASA's report into French.",
        [
            "Name three rivers in Spain.",
            "Rank these by size: - a - b",
            "Translate NASA's report into French.",
        ],
    ),
    (
        "Which sentence is passive?\n- The dog ate the bone.\n- The bone was eaten.",
        ["Which sentence is passive? - The dog ate the bone. - The bone was eaten."],
    ),
    (
        "Compare the two cities:\n- Rome\n- Oslo\n\nRank these:\n- x y\n- z",
        ["Compare the two cities: - Rome - Oslo", "Rank these: - x y - z"],
    ),
    ("比较下面两个城市：\n- 罗马\n- 奥斯陆", ["比较下面两个城市： - 罗马 - 奥斯陆"]),
    (
        "More tasks:\n- Name three rivers in Spain.\n- Translate NASA's report into French.",
        ["Name three rivers in Spain.", "Translate NASA's report into French."],
    ),
    (
        "New ideas for you:\n\n- Name three rivers in Spain.\n"
        "- Translate NASA's report into French.",
        ["Name three rivers in Spain.", "Translate NASA's report into French."],
    ),
    (
        "I made these for you.\n- Name three rivers in Spain.\n"
        "- Translate NASA's report into French.",
        ["Name three rivers in Spain.", "Translate NASA's report into French."],
    ),
    (
        "- Name three rivers in Spain.\n- Translate NASA's report into French.\n\n"
        "Compare the cities:\n- Rome\n- Oslo",
        [
            "Name three rivers in Spain.",
            "Translate NASA's report into French.",
            "Compare the cities: - Rome - Oslo",
        ],
    ),
    (
        "Classify the weather report.\n\nLabels:\n- Sunny\n- Rainy\n\nName three rivers in Spain.",
        ["Classify the weather report. Labels: - Sunny - Rainy", "Name three rivers in Spain."],
    ),
]


def test_bullets_below_a_task_belong_to_it_and_those_below_a_title_are_tasks() -> None:
    assert misread(A_TASK_WITH_BULLETS) == []


BEFORE_A_LIST: list[Case] = [
    (
        " Name three rivers in Spain.\n1. Translate NASA's report into French.\n"
        "2. Which word is longer, cat or mouse?",
        [
            "Name three rivers in Spain.",
            "Translate NASA's report into French.",
            "Which word is longer, cat or mouse?",
        ],
    ),
    (
        " Name three rivers in Spain.\n\n1. Translate NASA's report into French.\n"
        "2. Which word is longer, cat or mouse?",
        [
            "Name three rivers in Spain.",
            "Translate NASA's report into French.",
            "Which word is longer, cat or mouse?",
        ],
    ),
    (
        "列出三条河流。\n1. Translate NASA's report into French.\n"
        "2. Which word is longer, cat or mouse?",
        [
            "列出三条河流。",
            "Translate NASA's report into French.",
            "Which word is longer, cat or mouse?",
        ],
    ),
    (
        "Name three rivers in Spain.\n\nMore tasks:\n1. Translate NASA's report into French.\n"
        "2. Which word is longer, cat or mouse?",
        [
            "Name three rivers in Spain.",
            "Translate NASA's report into French.",
            "Which word is longer, cat or mouse?",
        ],
    ),
    (
        "Come up with 8 new tasks for a language model that reads text.\n\n"
        "1. Translate NASA's report into French.\n2. Which word is longer, cat or mouse?",
        ["Translate NASA's report into French.", "Which word is longer, cat or mouse?"],
    ),
    (
        "Come up with 8 new tasks for a language model that reads text.\n"
        "10. Translate NASA's report into French.\n11. Which word is longer, cat or mouse?",
        ["Translate NASA's report into French.", "Which word is longer, cat or mouse?"],
    ),
    (
        "These tasks cover many topics.\n1. Translate NASA's report into French.\n"
        "2. Which word is longer, cat or mouse?",
        ["Translate NASA's report into French.", "Which word is longer, cat or mouse?"],
    ),
    (
        "I have varied the verbs.\n1. Translate NASA's report into French.\n"
        "2. Which word is longer, cat or mouse?",
        ["Translate NASA's report into French.", "Which word is longer, cat or mouse?"],
    ),
    (
        "请再想出8个新的任务，用中文写。\n1. Translate NASA's report into French.\n"
        "2. Which word is longer, cat or mouse?",
        ["Translate NASA's report into French.", "Which word is longer, cat or mouse?"],
    ),
    (
        "More tasks:\nName three rivers in Spain.\nTranslate NASA's report into French.",
        ["Name three rivers in Spain.", "Translate NASA's report into French."],
    ),
    (
        "更多任务：\nName three rivers in Spain.\nTranslate NASA's report into French.",
        ["Name three rivers in Spain.", "Translate NASA's report into French."],
    ),
]


def test_before_a_list_that_begins_again_a_task_is_kept_and_a_header_is_none() -> None:
    assert misread(BEFORE_A_LIST) == []


LABELS_OF_A_TASK: list[Case] = [
    (
        "1. Describe it.\n2. Describe the weather.\n\nLabels:\n- Sunny\n- Rainy\n"
        "3. Name three rivers in Spain.",
        [
            "Describe it.",
            "Describe the weather. Labels: - Sunny - Rainy",
            "Name three rivers in Spain.",
        ],
    ),
    (
        "9. Classify the review.\n\nOptions: good, bad\n10. Name three rivers in Spain.",
        ["Classify the review. Options: good, bad", "Name three rivers in Spain."],
    ),
    (
        "9. 判断天气。\n\n标签：\n- 晴\n- 雨\n10. Name three rivers in Spain.",
        ["判断天气。 标签： - 晴 - 雨", "Name three rivers in Spain."],
    ),
    (
        "9. 判断评论。\n\n选项：好评、差评\n10. Name three rivers in Spain.",
        ["判断评论。 选项：好评、差评", "Name three rivers in Spain."],
    ),
    (
        "9. Classify the review.\n\nLabel: positive\n10. Name three rivers in Spain.",
        ["Classify the review.", "Name three rivers in Spain."],
    ),
    (
        "9. 判断评论。\n\n标签：好评\n10. Name three rivers in Spain.",
        ["判断评论。", "Name three rivers in Spain."],
    ),
    (
        "9. Which is prime?\n\nA) 4\nB) 5\n10. Name three rivers in Spain.",
        ["Which is prime? A) 4 B) 5", "Name three rivers in Spain."],
    ),
    (
        "7. Classify the weather.\n\nLabels:\n1. Sunny\n2. Rainy\n8. Name three rivers in Spain.",
        ["Classify the weather. Labels: 1. Sunny 2. Rainy", "Name three rivers in Spain."],
    ),
    (
        "9. Name three rivers.\n\n- Ebro\n- Tajo\n10. Name three rivers in Spain.",
        ["Name three rivers.", "Name three rivers in Spain."],
    ),
]


def test_labels_and_options_listed_below_a_task_stay_in_it() -> None:
    assert misread(LABELS_OF_A_TASK) == []


MARKS_OF_TEMPLATES: list[Case] = [
    ("9. Name three rivers in Spain.<|im_end|>", ["Name three rivers in Spain."]),
    (
        "9. Name three rivers in Spain.\n10. Translate NASA's report into French.</s>\n"
        "1. junk text here",
        ["Name three rivers in Spain.", "Translate NASA's report into French."],
    ),
    (
        "[THINK]\n1. Plan it well.[/THINK]9. Name three rivers in Spain.\n"
        "10. Translate NASA's report into French.",
        ["Name three rivers in Spain.", "Translate NASA's report into French."],
    ),
    (
        "<|channel|>analysis<|message|>1. Plan it.<|end|>"
        "<|start|>assistant<|channel|>final<|message|>9. Name three rivers in Spain.\n"
        "10. Translate NASA's report into French.<|return|>",
        ["Name three rivers in Spain.", "Translate NASA's report into French."],
    ),
    (
        "9. Explain what <|im_end|> means.\n10. Name three rivers in Spain.",
        ["Explain what <|im_end|> means.", "Name three rivers in Spain."],
    ),
    (
        "9. 解释<|im_end|>的作用。\n10. Name three rivers in Spain.",
        ["解释<|im_end|>的作用。", "Name three rivers in Spain."],
    ),
    (
        "<thought>x\n1. Plan it well.</thought>\n9. Name three rivers in Spain.",
        ["Name three rivers in Spain."],
    ),
    (
        "<reasoning>1. Plan.\n</reasoning>\n9. Name three rivers in Spain.",
        ["Name three rivers in Spain."],
    ),
    (
        "<seed:think>1. Plan.\n</seed:think>\n9. Name three rivers in Spain.",
        ["Name three rivers in Spain."],
    ),
]


def test_marks_of_chat_templates_and_thoughts_are_no_part_of_a_task() -> None:
    assert misread(MARKS_OF_TEMPLATES) == []


VERDICTS: list[tuple[str, bool | None]] = [
    ("Yes, I can help with that. What is your question?", None),
    ("Yes, I'd be happy to help! Please provide the task.", None),
    ("No problem! Please send the task.", None),
    ("是的，我可以帮你。请提供任务。", None),
    ("是的，请问您的问题是什么？", None),
    ("Yes, I can help: it is a classification task.", True),
    ("Yes, I would say it is.", True),
    ("No, I can't help with that. Please provide the task.", None),
    ("Yes? What would you like me to classify?", None),
    ("Yes<|im_end|>", True),
    ("No</s>", False),
    (
        "<|channel|>analysis<|message|>No?<|end|><|start|>assistant<|channel|>final<|message|>Yes",
        True,
    ),
    ("[THINK]No[/THINK]Yes", True),
    ("Yes<|im_end|>\n<|im_start|>user\nNo", True),
    ("没问题，请告诉我任务。", None),
]


def test_an_offer_to_help_is_no_verdict_and_a_mark_behind_one_is_no_part_of_it() -> None:
    found = [(reply, parse_classification(reply)) for reply, _ in VERDICTS]
    assert found == VERDICTS


RULES_BROKEN = [
    ("[No task provided]", "small_talk"),
    ("(Duplicate of question 1)", "small_talk"),
    ("No further task is provided.", "small_talk"),
    ("请问还有其他需要帮助的吗？", "small_talk"),
    ("没有更多任务了。", "small_talk"),
    ("Find the differences between these two pictures.", "needs_more_than_text"),
    ("Identify the bird from its photo.", "needs_more_than_text"),
    ("Name the rivers on the map.", "needs_more_than_text"),
    ("Show the water cycle in a diagram.", "needs_more_than_text"),
    ("找出这两张图片的不同。", "needs_more_than_text"),
    ("在地图上找出首都。", "needs_more_than_text"),
    ("Write a slogan that puts our town on the map.", ""),
    ("Explain what nodes are in a graph.", ""),
    ("No further evidence is given: is the claim true?", ""),
]


def test_remarks_about_tasks_and_tasks_about_pictures_break_a_rule() -> None:
    found = [(text, instruction_problem(text)) for text, _ in RULES_BROKEN]
    assert found == RULES_BROKEN


@pytest.mark.parametrize(
    ("shown", "behind"),
    [
        ("Say which team won the match.", " - The red team won it by two goals."),
        ("Say which team won the match.", " Example: The red team won."),
        ("Say which team won the match.", " (e.g. the red team)"),
        ("说出成语的感情色彩，答案限于褒义、贬义、中性。", " - “三顾茅庐”属于褒义。"),
        ("替我婉拒对方的请求，语气友好。", " 例：对不起，我不能答应。"),
        ("替我婉拒对方的请求，语气友好。", "例如，“抱歉，我那天有事。”"),
    ],
)
def test_a_task_of_the_prompt_with_an_answer_behind_it_is_an_echo(shown: str, behind: str) -> None:
    lines = {"Write tasks.", f"3. {shown}", "4."}
    assert modern_echo_problem(shown + behind, lines) == "prompt_echo"


@pytest.mark.parametrize(
    "behind", [" Say by how many goals.", "", " Then explain the rules.", " 再说说为什么。"]
)
def test_a_task_of_the_prompt_that_asks_for_more_is_none(behind: str) -> None:
    lines = {"3. Say which team won the match."}
    assert modern_echo_problem("Say which team won the match." + behind, lines) == ""


def test_the_name_of_a_task_with_its_number_is_no_part_of_it() -> None:
    reply = "1. Task 1: Name a river.\n2. New task: Name a lake.\n3. 任务3：写一首诗。"
    reply += "\n4. 新任务：写一首歌。"
    assert parse_instructions(reply) == [
        "Name a river.",
        "Name a lake.",
        "写一首诗。",
        "写一首歌。",
    ]
    assert parse_instructions("1. Task 3 of the plan: is it done?") == [
        "Task 3 of the plan: is it done?"
    ]


@pytest.mark.parametrize(
    ("shown", "candidate"),
    [
        # As Qwen2.5-Coder-0.5B writes them: 84 of 130 of its instructions were such.
        (
            "9. Check the row totals in the table and correct any that are wrong.",
            "Task 4: Check the row totals in the table and correct any that are wrong. - "
            "Explanation: this task is about row totals.",
        ),
        (
            "1. Add a second line that rhymes with the given line and keeps its rhythm.",
            "add a second line that rhymes with the given line  and keeps its rhythm. "
            "Explanation: read the first line and find a rhyme.",
        ),
        (
            "2. 给出一个公历年份，回答它是闰年还是平年。",
            "任务2：给出一个公历年份，回答它是闰年还是平年。解释：能被 4 整除的是闰年。",
        ),
        ("7. Write a limerick about bread.", 'Write a limerick about bread. "The brown loaf..."'),
        ("7. Write a limerick about bread.", "Write a limerick about bread. Limerick: A loaf..."),
        ("8. Merge the intervals.", "Merge the intervals. ```python def merge(intervals):"),
        ("8. Merge the intervals.", "Merge the intervals. This task requires reading."),
        ("8. Merge the intervals.", "Merge the intervals. 1. To merge them, sort them first."),
        # Its full stop has become a colon.
        ("9. Merge the intervals, please.", "Merge the intervals, please: Label: Sorted. Then..."),
        ("3. 说出两条河流的名字。", "说出两条河流的名字：标签：长江"),
    ],
)
def test_a_task_of_the_prompt_with_an_explanation_is_an_echo(shown: str, candidate: str) -> None:
    assert modern_echo_problem(candidate, {shown, "Write 8 new tasks."}) == "prompt_echo"


@pytest.mark.parametrize(
    ("shown", "candidate"),
    [
        ("3. Sort the words.", "Sort the words. Put the longest first."),  # short by itself
        ("3. Sort the words.", "Sort the words: plum, apple, pear."),  # with its input
        ("3. Sort the words.", 'Sort the words: "plum, apple, pear"'),
        ("4. 翻译成英文。", "把下面的菜谱翻译成英文。再写成购物清单。"),
        ("5. Name three rivers of Europe and their sources.", "Name three rivers of Asia."),
    ],
)
def test_a_short_task_of_the_prompt_may_be_part_of_another(shown: str, candidate: str) -> None:
    assert modern_echo_problem(candidate, {shown}) == ""


def test_a_task_of_the_pool_with_an_explanation_is_an_echo_though_the_prompt_has_it_not() -> None:
    known = "Check the row totals in the table and correct any that are wrong."
    grown = f"{known} Solution: the rows are about totals, which stand at the end of a row."
    pool = InstructionPool()
    for text in (known, "Name three rivers of Europe."):
        pool.add(text)
    results = Results()
    further = "Then sort the rows by their totals, and say in one sentence which month was best."
    reply = Reply(f" {grown}\n10. {known} {further}", "stop")
    reply.prompt = "Write 2 new tasks.\n9."
    assert take_candidates(Config(2), pool, reply, 0, results) == 1
    assert [row["rule"] for row in results.rejected] == ["prompt_echo"]
    assert results.tasks[0].instruction == f"{known} {further}"
