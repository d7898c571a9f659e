"""Stage 3, habits of chat models: invented replies of each kind, with what is to be read in
them."""

from __future__ import annotations

from self_instruct_workshop import parse_instances

Case = tuple[str, bool, list[tuple[str, str]]]  # a reply, whether labels are asked for, pairs


def misread(cases: list[Case]) -> list[tuple[str, list[tuple[str, str]]]]:
    """The replies that are read in another way, each with what is read."""
    found = [(reply, parse_instances(reply, labelled)) for reply, labelled, _ in cases]
    return [one for one, (_, _, pairs) in zip(found, cases, strict=True) if one[1] != pairs]


A_DIGIT_IS_NO_HEADER: list[Case] = [
    ("Input: 4\n7\nOutput: 11", False, [("4\n7", "11")]),
    (
        "Input: 2 + 2\nOutput:\n4\n\nInput: 3 + 6\nOutput:\n9",
        False,
        [("2 + 2", "4"), ("3 + 6", "9")],
    ),
    ("Class label:\n3\nInput: great", True, [("great", "3")]),
    ("3\nInput: great", True, [("great", "3")]),
    ("1\nInput: x\nClass label: a\n\n2\nInput: y\nClass label: b", True, [("x", "a"), ("y", "b")]),
    ("1\nInput: a\nOutput: b\n\n2\nInput: c\nOutput: d", False, [("a", "b"), ("c", "d")]),
    ("Input: a\nOutput: b\n\n2.\nInput: c\nOutput: d", False, [("a", "b"), ("c", "d")]),
    ("输入：1\n2\n3\n输出：6", False, [("1\n2\n3", "6")]),
    (
        "Input: 5\nOutput: 1\n5\n\nInput: 6\nOutput: 1\n2\n3\n6",
        False,
        [("5", "1\n5"), ("6", "1\n2\n3\n6")],
    ),
    ("类别标签：\n5\n输入：很好", True, [("很好", "5")]),
    ("Input: 1\nOutput:\n2.\n\nInput: 2\nOutput:\n3.", False, [("1", "2."), ("2", "3.")]),
]


def test_a_line_that_is_only_a_digit_is_a_header_only_where_it_counts() -> None:
    assert misread(A_DIGIT_IS_NO_HEADER) == []


INPUTS_WITHOUT_THEIR_NAME: list[Case] = [
    (
        "Sentence: The soup was cold.\nOutput: negative",
        False,
        [("Sentence: The soup was cold.", "negative")],
    ),
    ("文本：汤凉了。\n输出：差评", False, [("文本：汤凉了。", "差评")]),
    ("Example: Input: [3, 1]\nOutput: [1, 3]", False, [("[3, 1]", "[1, 3]")]),
    (
        "Sentence: A b.\nOutput: x\n\nSentence: C d.\nOutput: y",
        False,
        [("Sentence: A b.", "x"), ("Sentence: C d.", "y")],
    ),
    (
        "Premise: a\nHypothesis: b\nOutput: yes\n\nPremise: c\nHypothesis: d\nOutput: no",
        False,
        [("Premise: a\nHypothesis: b", "yes"), ("Premise: c\nHypothesis: d", "no")],
    ),
    (
        "Sentence: A b.\nClass label: x\n\nSentence: C d.\nClass label: y",
        True,
        [("Sentence: A b.", "x"), ("Sentence: C d.", "y")],
    ),
    ("The soup was cold.\nOutput: negative", False, [("The soup was cold.", "negative")]),
    (
        "Sure! Here is one:\n\nSentence: The soup was cold.\nOutput: negative",
        False,
        [("Sentence: The soup was cold.", "negative")],
    ),
    ("Task: Name it.\nOutput: b", False, [("", "b")]),
    ("Task:\nName it.\nOutput: b", False, [("", "b")]),
    ("Here you go:\nOutput: b", False, [("", "b")]),
    ("This task needs no input.\n\nOutput: b", False, [("", "b")]),
    ("例：输入：a\n输出：b", False, [("a", "b")]),
]


def test_what_stands_before_the_first_output_is_its_input() -> None:
    assert misread(INPUTS_WITHOUT_THEIR_NAME) == []


BOLD: list[Case] = [
    ("输入：法国\n输出：**巴黎**", False, [("法国", "巴黎")]),
    ("Input: France\nOutput: **Paris**", False, [("France", "**Paris**")]),
    ("Input: France\nOutput:**Paris**", False, [("France", "Paris")]),
    ("输出：* 表示乘法", False, [("", "* 表示乘法")]),
    ("**输出：** 巴黎", False, [("", "巴黎")]),
    ("**输出**：**巴黎**", False, [("", "巴黎")]),
    ("输出：**巴黎**是首都", False, [("", "**巴黎**是首都")]),
    ("输出：__init__ 方法", False, [("", "__init__ 方法")]),
    ("Class label: **spam**\nInput: Buy", True, [("Buy", "spam")]),
]


def test_bold_behind_a_colon_is_markup_and_other_stars_are_text() -> None:
    assert misread(BOLD) == []


A_NEXT_TASK: list[Case] = [
    ("**Output:** **x** and", False, [("", "**x** and")]),
    ("Input: 3 4\nOutput: 7\nTask: Name a colour.", False, [("3 4", "7")]),
    ("输入：3 4\n输出：7\n任务：说出一种颜色。", False, [("3 4", "7")]),
    ("Input: 3 4\nOutput: 7\n\n**Task 2:** Name a colour.\nOutput: red", False, [("3 4", "7")]),
    (
        "Input: x\nOutput: Name: Ann\nTask: Write the report\nDue: Friday",
        False,
        [("x", "Name: Ann\nTask: Write the report\nDue: Friday")],
    ),
    ("Input: Project A\nTask: clean\nOutput: ok", False, [("Project A\nTask: clean", "ok")]),
    (
        "Class label: positive\nInput: I loved it.\nTask: Name a colour.",
        True,
        [("I loved it.", "positive")],
    ),
    ("Class label: positive\nTask: Name a colour.", True, [("", "positive")]),
    (
        "Class label: positive\nInput: I loved it.\n\nDecide whether the email is spam.\n"
        "Class label: spam\nInput: Buy now",
        True,
        [("I loved it.", "positive")],
    ),
    (
        "类别标签：好评\n输入：很好吃。\n\n判断下面的邮件是否是垃圾邮件。\n类别标签：是\n输入：买",
        True,
        [("很好吃。", "好评")],
    ),
    (
        "Task: Add.\nInput: 1 2\nOutput: 3\n\nTask: Add.\nInput: 2 2\nOutput: 4",
        False,
        [("1 2", "3"), ("2 2", "4")],
    ),
    (
        "Class label: urgent\nInput: Sender: Bob\nTask: fix it",
        True,
        [("Sender: Bob\nTask: fix it", "urgent")],
    ),
]


def test_a_task_with_which_the_model_goes_on_is_no_part_of_an_example() -> None:
    assert misread(A_NEXT_TASK) == []


NAMES_IN_CODE: list[Case] = [
    ("Input: x\nOutput: print(4)\n# Output: 4", False, [("x", "print(4)\n# Output: 4")]),
    ("# Input: x\n# Output: y", False, [("x", "y")]),
    (
        "Input: add\nOutput: def f(a):\n    '''\n    Input: a\n    Output: b\n    '''",
        False,
        [("add", "def f(a):\n    '''\n    Input: a\n    Output: b\n    '''")],
    ),
    (
        "Input: print(2)\n# Output: 2\nOutput: It prints 2.",
        False,
        [("print(2)\n# Output: 2", "It prints 2.")],
    ),
]


def test_names_of_fields_in_comments_and_docstrings_are_code() -> None:
    assert misread(NAMES_IN_CODE) == []


OTHER_NAMES: list[Case] = [
    ("Input: a\nAnswer: b", False, [("a", "b")]),
    ("输入：a\n答案：b", False, [("a", "b")]),
    ("Input: a\nExpected Output: b", False, [("a", "b")]),
    ("Sample Input: a\nSample Output: b", False, [("a", "b")]),
    ("Input\na\nOutput\nb", False, [("a", "b")]),
    ("Input: a\nOutput\nb", False, [("a", "b")]),
    ("样例输入：a\n样例输出：b", False, [("a", "b")]),
    ("**Answer:** b", False, [("", "b")]),
    (
        "Input: Question: 2+2?\nAnswer: 5\nOutput: wrong",
        False,
        [("Question: 2+2?\nAnswer: 5", "wrong")],
    ),
    ("Input: 2+2\nOutput: I add.\nAnswer: 4", False, [("2+2", "I add.\nAnswer: 4")]),
    (
        "Input: Sum.\nSample Input: 1 2\nSample Output: 3\nOutput: code",
        False,
        [("Sum.\nSample Input: 1 2\nSample Output: 3", "code")],
    ),
    (
        "Question: a?\nAnswer: b\n\nQuestion: c?\nAnswer: d",
        False,
        [("Question: a?", "b"), ("Question: c?", "d")],
    ),
]


def test_other_names_of_fields_count_where_the_plain_ones_are_missing() -> None:
    assert misread(OTHER_NAMES) == []


MARKS_OF_TEMPLATES: list[Case] = [
    ("Input: a\nOutput: b<|im_end|>\n<|im_start|>user\nHi", False, [("a", "b")]),
    ("Input: a\nOutput: b</s>", False, [("a", "b")]),
    ("Input: a\nOutput: <s>b</s> c", False, [("a", "<s>b</s> c")]),
    (
        "<|channel|>analysis<|message|>Input: z\nOutput: q<|end|>"
        "<|start|>assistant<|channel|>final<|message|>Input: a\nOutput: b<|return|>",
        False,
        [("a", "b")],
    ),
    (
        "Input: What does <|im_end|> mean?\nOutput: The mark `<|im_end|>` ends a turn.",
        False,
        [("What does <|im_end|> mean?", "The mark `<|im_end|>` ends a turn.")],
    ),
    ("[THINK]Input: z[/THINK]Input: a\nOutput: b", False, [("a", "b")]),
    (
        "<seed:think>Input: z</seed:think>\nInput: a\nOutput: b<|endoftext|>Human: x",
        False,
        [("a", "b")],
    ),
    ("<start_of_turn>model\nInput: a\nOutput: b<end_of_turn>", False, [("a", "b")]),
    ("analysisWe need it.assistantfinalInput: a\nOutput: b", False, [("a", "b")]),
    ("<|channel|>analysis<|message|>Input: a\nOutput: b", False, []),
]


def test_marks_of_chat_templates_and_thoughts_are_no_part_of_an_example() -> None:
    assert misread(MARKS_OF_TEMPLATES) == []
