"""Have another model write the outputs of a dataset again, and keep its answer where it is fit.

    python scripts/rewrite.py --provider openai --model gpt-6-luna
                    asks before it pays; a second for each of so many rows at once
    python scripts/rewrite.py --provider openai --model gpt-6-luna --estimate
                    what it will take; asks nothing
    python scripts/rewrite.py --provider openai --compare MODEL_A MODEL_B --num 50
                    two writers on a sample, as blind pairs for scripts/review.py

A better writer of outputs raised the best rating of the paper's reviewers from 44 to 54 %
(section 4.5: the outputs of 252 tasks were written again by a larger model, and GPT-3 was tuned
on them). Instruction and input stay; each row is asked about once. Beside the data are written:

    step5_rewritten.jsonl   instruction, input, output, first_output, rewritten, rule, models
    rewrite.json            who wrote, what it took, and counts that add up to the rows

The new answer becomes the output unless it is unfit: cut off, a refusal, a placeholder, a label
that the task does not have, or whatever else the rules of stage 4 turn away. Then the first
output stays, `rule` says why, and the new answer stands in rejected.jsonl. It stays too where both
say the same (`same_answer`): what two models say is more often right. Whether an answer that is
fit is also better, no rule can tell: judge pairs (scripts/review.py pairs) before you train.

Every reply is on disk before it is used: the same command goes on after an interruption, and pays
nothing twice. A row without a reply keeps its first output and is `undone` (exit code 3).
"""

from __future__ import annotations

import argparse
import copy
import random
import re
import sys
from collections import Counter
from functools import cache, partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import self_instruct_workshop as workshop
from scripts import review
from scripts.asking import estimate, limits, per_row
from scripts.asking.parser import Parser
from scripts.asking.per_row import Question, RowModel
from scripts.reading.records import value_or_none
from scripts.reviewing import pairs
from self_instruct_workshop import Prompt, Reply, UsageError, one_line

STAGE = "rewrite"
OUTPUT = "step5_rewritten.jsonl"
RECORD = "rewrite.json"
MAX_TOKENS = 1024  # of a new answer
COPY = 0.8  # ROUGE-L with the instruction above which an answer merely repeats it
ALIKE = 0.5  # ROUGE-L above which two sentences with the same numbers say the same

# What stands in front of a task, by the language of its instruction. It says what to write: small
# models answered "no" to words such as "no greeting, no title".
PROMPT = {
    "en": {
        "header": "Do the task below. Write the complete, correct answer itself, in the form that "
        "the task asks for, and only that.",
        "labels": "Answer with one of these labels, exactly as written, and nothing else: {}",
        "label": "Answer with one label, exactly as the task writes it, and nothing else.",
        "between": ", ",
    },
    "zh": {
        "header": "请完成下面的任务。只写答案本身，要完整、正确，形式符合任务的要求。",
        "labels": "请从这些标签中选一个，照原样写出，不要写别的：{}",
        "label": "只写一个标签，写法与任务中的完全一致，不要写别的。",
        "between": "、",
    },
}

# A first line that only announces the answer: "Here is the corrected sentence:".
OPENING = re.compile(
    r"(?i)(?:(?:sure|certainly|of course|absolutely)[!,.]\s*)?"
    r"(?:here(?:['’]s| is| are)|below (?:is|are)|the following (?:is|are)|以下是|下面是|这是)"
    r"[^\n]{0,100}[:：]"
)

# What is no answer where the first one has more than three words.
NO_ANSWER = re.compile(
    r"(?i)\W*(?:yes|no|none|nothing|ok(?:ay)?|done|sure|n/?a|no answer|no (?:output|response)"
    r"|是的?|不?是|否|无|没有|好的?|无答案|没有答案)\W*"
)

# Tasks whose answer may be in another language than their instruction.
ANY_LANGUAGE = re.compile(
    r"(?i)translat|chinese|mandarin|cantonese|japanese|language|[语文译]"
    r"|\b(?:code|python|sql|json|html|regex|formula)\b|代码|函数|程序|脚本|公式|正则|命令|符号|缩写"
)

Row = dict[str, Any]  # instruction, input, output, id, kind; labels: a list, or None if free

# --------------------------------------------------------------------------------------------------
# The rows, and what is asked about each.


def read_rows(path: Path) -> list[Row]:
    """The rows of the dataset; those of classification tasks have their `labels`.

    [] means that the labels are not known. Raises WorkshopError where the file cannot be read.
    """
    rows = per_row.read_rows(path)
    labels = labels_beside(path.parent)
    for row in rows:
        is_classification = row["kind"].startswith("classification, ")
        row["labels"] = labels.get(row["instruction"], []) if is_classification else None
    return rows


def labels_beside(folder: Path) -> dict[str, list[str]]:
    """The labels that stage 2 found, by instruction, as far as the step file can be read."""
    found = {}
    for line in review.step_lines(folder / workshop.STEP_FILES[1]):
        row = value_or_none(line)
        if isinstance(row, dict) and isinstance(row.get("instruction"), str):
            named = row.get("labels")
            texts = named if isinstance(named, list) else []
            found[row["instruction"]] = [text for text in texts if isinstance(text, str)]
    return found


def rewrite_prompt(row: Row) -> Prompt:
    """How to answer, then the task as a user would ask it: the instruction, and its input below.

    >>> row = {"instruction": "Add the numbers.", "input": "2, 3", "labels": None}
    >>> rewrite_prompt(row)[0]["content"].split("\\n\\n")[1:]
    ['Add the numbers.', '2, 3']
    """
    words = PROMPT["zh" if is_chinese(row["instruction"]) else "en"]
    lines = [words["header"]]
    if row["labels"]:
        lines.append(words["labels"].format(words["between"].join(row["labels"])))
    elif row["labels"] is not None:
        lines.append(words["label"])
    task = workshop.with_input(row["instruction"], row["input"])
    return workshop.modern_join("\n".join(lines), [], task)


def is_chinese(text: str) -> bool:
    """Whether most letters of a text are Chinese characters."""
    letters = [character for character in text if character.isalpha()]
    chinese = [character for character in letters if "\u4e00" <= character <= "\u9fff"]
    return len(chinese) > len(letters) / 2


def questions_about(rows: list[Row]) -> dict[tuple[str, str], Question]:
    """The question about each instruction and input: two rows that share them share it."""
    return {pair_of(row): Question(rewrite_prompt(row), row["instruction"]) for row in rows}


def pair_of(row: Row) -> tuple[str, str]:
    return row["instruction"], row["input"]


def asking(options: argparse.Namespace, rows: list[Row]) -> RowModel:
    """The model that writes, to be used as `with asking(...) as model`."""
    return per_row.asking(options, STAGE, partial(practice_reply, rows))


def ask_about(model: RowModel, rows: list[Row]) -> list[tuple[Row, Reply | None]]:
    """Each row with the reply about it; None where there is none."""
    questions = questions_about(rows)
    replies = per_row.ask(model, [*questions.values()])
    answers = dict(zip(questions, replies, strict=True))
    return [(row, answers[pair_of(row)]) for row in rows]


# --------------------------------------------------------------------------------------------------
# Reading a reply. Only what stands around an answer is taken off: of an answer itself, nothing.


def read_answer(row: Row, reply: Reply) -> tuple[str, str]:
    """The new answer, and the rule that it breaks, "" if it is fit.

    For classification the answer is a label as stage 2 has it, where it is one.
    """
    text = tidy_answer(row, reply.text)
    if reply.cut:
        return text, "cut_off"
    if row["labels"] is not None and text:
        label = label_in(text, row["labels"])
        return label or text, "" if label else "not_a_label"
    return text, problem_of(row, text)


def read_or_undone(row: Row, reply: Reply | None) -> tuple[str, str]:
    return read_answer(row, reply) if reply else ("", "undone")


def tidy_answer(row: Row, text: str) -> str:
    """A reply without thoughts, a fence around it, talk before and behind it, and labels.

    >>> row = {"instruction": "Add the numbers.", "input": "2, 3"}
    >>> tidy_answer(row, "Sure!\\n\\nOutput: 5\\n\\nLet me know if you need anything else!")
    '5'
    """
    text = workshop.own_part(workshop.without_thinking(text).strip()).strip()
    text = without_opening(row, text)
    text = without_name(row, text)
    for _ in range(2):  # a rule, and talk above or below it
        text = workshop.without_closing(text)
    text = workshop.own_part(text).strip()
    bold = workshop.BOLD.fullmatch(text)
    return bold[1].strip() if bold else text


def without_opening(row: Row, text: str) -> str:
    """A reply without the task again, and without "Sure! Here is the answer:", before it."""
    asked = workshop.folded(row["instruction"])
    for _ in range(2):
        head, _, rest = text.partition("\n")
        announces = OPENING.fullmatch(head.strip()) or workshop.breaks("small_talk", head.strip())
        if rest.strip() and (announces or workshop.folded(head.strip("*# ")) == asked):
            text = rest.strip()
    return text


def without_name(row: Row, text: str) -> str:
    """A reply without "Output:" before it, and without the input of the task before that.

    Where an answer has such a name twice, the names are a part of it.
    """
    lines = text.split("\n")
    code = workshop.lines_in_code(lines)
    names = workshop.field_lines(lines, code, True)
    outputs = [n for n, found in names.items() if workshop.field_name(found) == "output"]
    if len(outputs) != 1:
        return text
    (n,) = outputs
    before = "\n".join(lines[:n]).strip()
    if before and not repeats_input(row, before):
        return text
    first = workshop.behind_name(lines[n], names[n], lines[n + 1 : n + 2])
    return "\n".join([first, *lines[n + 1 :]]).strip()


def repeats_input(row: Row, text: str) -> bool:
    """Whether a text is the input of the task, with or without "Input:" before it."""
    name = workshop.FIELD.match(text)
    given = text[name.end() :] if name else text
    return workshop.folded(given) == workshop.folded(row["input"])


def label_in(text: str, labels: list[str]) -> str:
    """The label that an answer is, as it is written in the task; "" if it is none.

    The answer may go on in further lines. Where no labels are known, a short line is one.

    >>> label_in("**Positive**.\\n\\nThe guest praises the soup.", ["positive", "negative"])
    'positive'
    >>> label_in("It is rather positive.", ["positive", "negative"])
    ''
    """
    first = text.split("\n")[0].strip(" \t*_`\"'“”‘’「」.。!！")
    if not labels:
        short = 0 < workshop.count_words(workshop.tokenize(first)) <= workshop.SHORT
        return first if short else ""
    written = {workshop.folded(label): label for label in labels}
    return written.get(workshop.folded(first), "")


def problem_of(row: Row, text: str) -> str:
    """The rule that a free answer breaks, "" if none: those of stage 4, and more."""
    rule = workshop.RECIPES["modern"].instance_problem(row["instruction"], row["input"], text)
    if rule:
        return rule
    tokens = workshop.tokenize(text)
    asked = workshop.tokenize(row["instruction"])
    # Where the first output repeats them, too, the task is to correct a text.
    given, first = workshop.tokenize(row["input"]), workshop.tokenize(row["output"])
    rules = {
        "output_equals_input": tokens == given != first,
        "copy_of_instruction": workshop.rouge_l(tokens, asked)
        > COPY
        >= workshop.rouge_l(first, asked),
        "prompt_echo": repeats_prompt(row, text),
        "no_answer": NO_ANSWER.fullmatch(text) and workshop.is_long(row["output"]),
        "other_language": is_in_another_language(row, text),
    }
    return workshop.first_broken(rules)


def repeats_prompt(row: Row, text: str) -> bool:
    """Whether an answer holds what stands before the task, or is a part of that."""
    told = PROMPT["zh" if is_chinese(row["instruction"]) else "en"]["header"]
    header, answer = workshop.folded(told), workshop.folded(text)
    return header in answer or (answer in header and workshop.is_long(text))


def is_in_another_language(row: Row, text: str) -> bool:
    """Whether an answer is in a language that neither the task nor the first output is in.

    Chinese is told from others. Code and translations may be in any.
    """
    if ANY_LANGUAGE.search(row["instruction"]) or not has_letters(text):
        return False
    known = {is_chinese(row[name]) for name in review.TEXTS if has_letters(row[name])}
    return is_chinese(text) not in known


def has_letters(text: str) -> bool:
    return any(character.isalpha() for character in text)


def says_the_same(row: Row, answer: str) -> bool:
    """Whether two answers agree, as far as that can be told; strictly, for both must be right.

    >>> row = {"output": "11", "labels": None}
    >>> says_the_same(row, "The sum is 11."), says_the_same(row, "The sum is 12.")
    (True, False)
    """
    first = row["output"]
    if workshop.folded(first) == workshop.folded(answer):
        return True
    sizes = [workshop.count_words(workshop.tokenize(text)) for text in (first, answer)]
    if max(sizes) > workshop.SENTENCE:
        return False

    # One is short: each must agree with the other.
    labels = row["labels"] or []
    if min(sizes) <= workshop.SHORT:
        agrees = partial(workshop.same_answer, labels=labels)
        return agrees(first, answer) and agrees(answer, first)

    # Two sentences: the same numbers in the same order, and mostly the same words.
    one, other = workshop.numbers_in(first), workshop.numbers_in(answer)
    same_numbers = len(one) == len(other) > 0 and all(map(workshop.is_close, one, other))
    tokens = [workshop.tokenize(text) for text in (first, answer)]
    return same_numbers and workshop.rouge_l(*tokens) > ALIKE


# --------------------------------------------------------------------------------------------------
# The new dataset.


def new_row(row: Row, reply: Reply | None, models: dict[str, str]) -> tuple[Row, str]:
    """The row with the output that stays, and the answer that it did not take, "" if none.

    `rule` is "" where it was rewritten, else why not: "undone", "same_answer", or what is unfit.
    """
    answer, rule = read_or_undone(row, reply)
    if not rule and says_the_same(row, answer):
        rule = "same_answer"
    made = {
        "instruction": row["instruction"],
        "input": row["input"],
        "output": row["output"] if rule else answer,
        "first_output": row["output"],
        "rewritten": not rule,
        "rule": rule,
        "models": models,
    }
    return made, answer if rule else ""


def counts_of(made: list[Row]) -> dict:
    """How many rows came out how; they add up to `rows`."""
    rules = Counter(row["rule"] for row in made)
    known = ("", "same_answer", "undone")
    return {
        "rows": len(made),
        "rewritten": rules[""],
        "same": rules["same_answer"],
        "fell_back": {rule: n for rule, n in rules.most_common() if rule not in known},
        "undone": rules["undone"],
    }


def rejected_row(row: Row, answer: str) -> dict:
    """An unfit new answer as rejected.jsonl has it, beside those of the run."""
    why = {"evidence": one_line(row["first_output"]), "score": 0.0}
    texts = {"instruction": row["instruction"], "input": row["input"], "output": answer}
    return {"stage": STAGE, "rule": row["rule"], **texts, **why}


def first_writer(folder: Path) -> str:
    """The model that the run in this folder asked, "unknown" where no run.json says it."""
    settings = workshop.earlier_run(folder).get("settings")
    model = settings.get("model") if isinstance(settings, dict) else None
    return model if isinstance(model, str) and model else "unknown"


def rewrite(options: argparse.Namespace) -> int:
    """Ask about all rows, and write the new dataset; return the exit code."""
    check_data(options.data)
    rows = read_rows(options.data)
    with asking(options, rows) as model:
        # What it will take, before anything is paid.
        models = {"first": first_writer(options.data.parent), "rewritten": model.model}
        if models["first"] == model.model:
            workshop.tell(f"notice: {model.model} wrote these outputs: take another one")
        questions = [*questions_about(rows).values()]
        if not per_row.go_on(model, options, questions, reply_guess(rows, options.max_tokens)):
            return 0 if options.estimate else 1

        # Ask, and sort what comes back.
        written = [new_row(row, reply, models) for row, reply in ask_about(model, rows)]
        made = [row for row, _ in written]
        counts = counts_of(made)
        if counts["undone"] < len(rows):
            said = {"data": data_facts(options.data), "counts": counts, **per_row.paid(model)}
            write(options.data.parent, written, said)
    workshop.show(result(options, made, counts, model))
    return 3 if counts["undone"] else 0


def check_data(data: Path) -> None:
    """Raise UsageError where this program would write over the data, or over a user's file."""
    if data.name == OUTPUT:
        named = f"--data {data} is what this program writes"
        raise UsageError(f"{named}: give {workshop.STEP_FILES[-1]}, whose outputs it rewrites")
    per_row.check_outputs(data.with_name(RECORD), [OUTPUT])


def data_facts(data: Path) -> dict:
    return {"file": data.name, "sha256": per_row.digest_of(data)}


def reply_guess(rows: list[Row], most: int) -> int:
    """Tokens of a new answer, as a guess: twice those of a first one."""
    size = sum(limits.bytes_of(row["output"]) for row in rows) // len(rows)
    return min(most, max(estimate.ANSWER, 2 * size // limits.BYTES_PER_TOKEN))


def write(folder: Path, made: list[tuple[Row, str]], said: dict) -> None:
    """Write the dataset, the unfit answers, and last the record."""
    unfit = []
    for row, answer in made:
        if row["rule"] not in ("", "same_answer", "undone"):
            unfit.append(rejected_row(row, answer))
    per_row.replace_rejected(folder, STAGE, unfit)
    per_row.write_files(folder / RECORD, {OUTPUT: [row for row, _ in made]}, said)


def result(options: argparse.Namespace, made: list[Row], counts: dict, model: RowModel) -> str:
    """What came out, three rows that changed, and what to do next."""
    say = workshop.spoken
    fell_back = counts["fell_back"]
    names = ", ".join(f"{rule} {n}" for rule, n in fell_back.items())
    numbers = {"rewritten": counts["rewritten"], "same answer": counts["same"]}
    numbers |= {"first one kept": sum(fell_back.values()), "undone": counts["undone"]}
    lines = [say(f"{counts['rows']} rows, asked {model.model}")]
    for name, number in numbers.items():
        rules = f"  {names}" if name == "first one kept" and names else ""
        lines.append(f"  {review.left(say(name), 15)}{number:>7,}{rules}")
    if counts["undone"] == counts["rows"]:
        return "\n".join([*lines, say("nothing was written: no row has a reply")])

    # Some rows to look at.
    for row in [row for row in made if row["rewritten"]][:3]:
        lines.append(f"{one_line(row['instruction'], 90)}")
        for name, text in (("first", row["first_output"]), ("new", row["output"])):
            lines.append(f"  {review.left(say(name), 6)}{one_line(text, 90)}")
    place = options.data.parent / OUTPUT
    lines.append(say(f"written: {place}, {RECORD}"))
    if counts["rewritten"]:
        command = workshop.program_command("scripts/review.py", "pairs", "--data", str(place))
        lines.append(say(f"are they better? {command}"))
    return "\n".join(lines)


# --------------------------------------------------------------------------------------------------
# --compare: two writers on a sample, as pairs that do not say who wrote what.

Read = list[tuple[str, str]]  # of each row the answer and the rule that it breaks


def compare(options: argparse.Namespace) -> int:
    """Ask both about the same rows, and write the sheets; return the exit code."""
    if options.num < 1:
        raise UsageError(f"--num must be at least 1, not {options.num}")
    paths = pairs.paths_of(options.out, options.format)
    sample, _ = review.draw(read_rows(options.data), options.num, options.seed)
    writers = two_writers(options)
    names = agreed_on_both(options, writers, sample)
    if not names:
        return 0 if options.estimate else 1

    # Ask one after the other; what the first one spends is not there for the second.
    answers: dict[str, Read] = {}
    for name, writer in zip(names, writers, strict=True):
        with asking(writer, sample) as model:
            answers[name] = [read_or_undone(row, said) for row, said in ask_about(model, sample)]
            spend(writers[1], model)

    # Pairs of fit answers that differ are for people.
    found = differing(sample, answers, options.seed)
    workshop.show(compared(answers, len(found)))
    if found:
        pairs.write(paths, found, review.WORDS[options.language])
        print(pairs.what_was_written(paths, found, workshop.spoken))
    undone = sum(rule == "undone" for read in answers.values() for _, rule in read)
    return 3 if undone else 0


def two_writers(options: argparse.Namespace) -> list[argparse.Namespace]:
    """The options for each of the two models; the second may be another provider's."""
    first, second = copy.copy(options), copy.copy(options)
    first.model, second.model = options.compare
    second.provider = options.provider_b or options.provider
    second.base_url = options.base_url_b or options.base_url
    if options.provider_b and not options.base_url_b:
        second.base_url = None  # the address of the first one is no address of another provider
    return [first, second]


def agreed_on_both(
    options: argparse.Namespace, writers: list[argparse.Namespace], sample: list[Row]
) -> list[str]:
    """Say what both will take, and ask once; the names of both, [] if nobody is to be asked."""
    texts = []
    names = []
    paid_for = False
    questions = [*questions_about(sample).values()]
    for writer in writers:
        with asking(writer, sample) as model:
            missing = model.missing(questions)
            reply = reply_guess(sample, options.max_tokens)
            texts.append(per_row.estimate_text(model, missing, len(questions), reply))
            names.append(model.model)
            paid_for = paid_for or bool(model.provider.key and missing)
    if options.estimate:
        workshop.show("\n".join(texts))
        return []
    if paid_for and not estimate.agreed("\n".join(texts), options):
        print(workshop.spoken("nothing was asked, nothing was paid"))
        return []
    # Two servers may give their models one name.
    return names if names[0] != names[1] else [f"{names[0]} (first)", f"{names[0]} (second)"]


def spend(options: argparse.Namespace, model: RowModel) -> None:
    """Take what a model has spent off the limits of the next one. (A limit of 0 would be none.)"""
    spent = model.purse.spent
    if options.max_cost:
        options.max_cost = max(1e-9, options.max_cost - (model.purse.cost(*spent) or 0.0))
    if options.max_tokens_total:
        options.max_tokens_total = max(1e-9, options.max_tokens_total - sum(spent))


def differing(sample: list[Row], answers: dict[str, Read], seed: int) -> list[pairs.Pair]:
    """The pairs in which both answers are fit, and say different things."""
    one, other = answers.values()
    found = []
    for row, (first, rule), (second, other_rule) in zip(sample, one, other, strict=True):
        differ = not says_the_same({**row, "output": first}, second)
        if not rule and not other_rule and differ:
            said = dict(zip(answers, (first, second), strict=True))
            found.append(pairs.make_pair(row, said, seed))
    return found


def compared(answers: dict[str, Read], left: int) -> str:
    """How many answers of each are unfit, by rule, and how many pairs are left to judge."""
    say = workshop.spoken
    lines = []
    for name, read in answers.items():
        unfit = Counter(rule for _, rule in read if rule)
        shown = ", ".join(f"{rule} {n}" for rule, n in unfit.most_common()) or say("none")
        lines.append(say(f"{one_line(name, 40)}: {len(read)} answers, unfit by form: {shown}"))
    lines.append(say(f"pairs that are fit and differ: {left}; which is better, people say"))
    return "\n".join(lines)


# --------------------------------------------------------------------------------------------------
# The practice model: it looks answers up in its bank, and is NOT a language model.


def practice_reply(rows: list[Row], rng: random.Random, prompt: Prompt) -> str:
    """What the bank has for the task, now and then with the talk and the slips of chat models."""
    text = workshop.as_text(prompt)
    row = next((row for row in rows if workshop.as_text(rewrite_prompt(row)) == text), None)
    language = "zh" if row and is_chinese(row["instruction"]) else "en"
    known = practice_answers(language).get(pair_of(row), "") if row else ""
    dice = rng.random()
    if dice < 0.06:
        return PRACTICE_SLIPS[language]
    opening, closing = PRACTICE_TALK[language]
    return f"{opening}\n\n{known}\n\n{closing}" if dice < 0.3 else known


PRACTICE_SLIPS = {
    "en": "I'm sorry, but I can't help with that.",
    "zh": "抱歉，我无法完成这个请求。",
}
PRACTICE_TALK = {
    "en": ("Sure! Here is the answer:", "Let me know if you need anything else!"),
    "zh": ("当然，以下是答案：", "希望这对你有帮助！"),
}


@cache
def practice_answers(language: str) -> dict[tuple[str, str], str]:
    """(instruction, input) -> output, of all tasks in the bank."""
    found = {}
    for task in workshop.read_data("practice_tasks", language):
        for instance in task["instances"]:
            found[task["instruction"], instance["input"]] = instance["output"]
    return found


# --------------------------------------------------------------------------------------------------
# The program.


def command_line() -> argparse.ArgumentParser:
    """The flags of questions about rows, and those of --compare."""
    about = (__doc__ or "").split("\n\n")[0]
    parser = Parser(description=about, allow_abbrev=False)
    per_row.add_flags(parser, MAX_TOKENS)
    group = parser.add_argument_group("two writers on a sample, before the money is spent")
    add = group.add_argument
    both = "ask both about the same rows; write blind pairs for review.py "
    both += "(--price-in and --price-out hold for both)"
    add("--compare", nargs=2, metavar=("MODEL_A", "MODEL_B"), help=both)
    add("--provider-b", choices=workshop.choices("provider"), help="of MODEL_B [--provider]")
    add("--base-url-b", metavar="TEXT", help="of MODEL_B [--base-url]")
    add("--num", type=int, help="rows to ask about [50]")
    add("--seed", type=int, default=42, help="which rows, and which side is A [42]")
    add("--out", type=Path, default=Path("pairs"), help="name of the sheets [pairs]")
    add("--format", choices=("csv", "html", "both"), default="both", help="[both]")
    add("--language", choices=tuple(review.WORDS), default="en", help="of the sheets [en]")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Rewrite the dataset, or compare two writers; return the exit code."""
    parser = command_line()
    options = parser.parse_args(arguments)
    if options.compare and options.model:
        parser.error("--compare names both models: leave out --model")
    if not options.compare and (options.provider_b or options.base_url_b):
        parser.error("--provider-b and --base-url-b are for --compare")
    if not options.compare and options.num is not None:
        parser.error("--num is for --compare: without it all rows are rewritten")
    options.num = 50 if options.num is None else options.num
    action = compare if options.compare else rewrite
    return workshop.main(None, lambda _: action(options))


if __name__ == "__main__":
    workshop.leave(main())
