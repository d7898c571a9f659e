"""What the judge is asked about a row, how its reply is read, and the practice model's replies.

One request asks the paper's three questions. For each of them the judge writes a reason in one
sentence, and then yes or no. Worked examples are turns of the chat: where they stood in one text
with the question, a small model copied their reasons word for word.
"""

from __future__ import annotations

if __name__ == "__main__":  # a part, no program: said before an import fails
    raise SystemExit("asked.py is a part of judge.py: run  python scripts/judge.py --help")

import json
import random
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import self_instruct_workshop as workshop
from scripts.review import QUESTIONS
from self_instruct_workshop import Config, Prompt

JUDGE_PROMPT = {  # other languages: data/prompts.jsonl
    "header": """\
A dataset holds tasks: an instruction, an input (some tasks need none) and an output. \
Check one task as strictly as a person who looks for mistakes.
- task: does the instruction describe a valid task?
- input: is the input appropriate for the instruction?
- output: is the output a correct and complete response to the instruction and the input?
For each, write the reason in one sentence, and then yes or no. Write JSON, as in the examples.""",
    "fields": ["Instruction: ", "Input: ", "Output: "],
    "none": "(none)",
    "answers": ["yes", "no"],
    "again": """\
This cannot be read. Write only the JSON, with a reason of your own and yes or no for each: \
task, valid_task, input, input_fits, output, output_right.""",
}
REASONS = dict(zip(QUESTIONS, ("task", "input", "output"), strict=True))  # question -> its reason

Row = dict[str, Any]


@dataclass
class Verdict:
    """What the judge said of a row: yes, no, or None where it could not be read."""

    answers: dict[str, bool | None] = field(default_factory=lambda: dict.fromkeys(QUESTIONS))
    reasons: dict[str, str] = field(default_factory=dict)
    copied: int = 0  # reasons that are a worked example's, word for word
    said: str = ""  # how the reply begins

    @property
    def is_whole(self) -> bool:
        """Whether all three answers could be read."""
        return None not in self.answers.values()

    def complete(self, second: Verdict) -> None:
        """Take from a second reply what could not be read in the first."""
        for question, yes in self.answers.items():
            if yes is None:
                self.answers[question] = second.answers[question]
                self.reasons[question] = second.reasons.get(question, "")
        self.copied += second.copied


# --------------------------------------------------------------------------------------------------
# The question.


@cache
def words_of(language: str) -> dict:
    """The words of the prompt."""
    return workshop.wording(Config(language=language), "judge", JUDGE_PROMPT)


@cache
def shots_of(language: str) -> list[dict]:
    """The worked examples: right rows, and rows that are wrong in each way."""
    return workshop.read_data("judge_shots", language)


def judge_prompt(row: Row, language: str) -> Prompt:
    """The three questions about a row, as the last turn of a chat."""
    words = words_of(language)
    turns = [(task_text(shot, words), shot_reply(shot)) for shot in shots_of(language)]
    return workshop.modern_join(words["header"], turns, task_text(row, words))


def task_text(row: Row, words: dict) -> str:
    """A row as the judge sees it."""
    texts = (row["instruction"], row["input"], row["output"])
    lines = zip(words["fields"], texts, strict=True)
    return "\n".join(f"{name}{text.strip() or words['none']}" for name, text in lines)


def shot_reply(shot: dict) -> str:
    """The reply to a worked example: each reason before its answer."""
    said = {}
    for question in QUESTIONS:
        said[REASONS[question]], said[question] = shot[question]
    return json.dumps(said, ensure_ascii=False)


def second_prompt(prompt: Prompt, reply: str, language: str) -> Prompt:
    """The same chat, and behind it that the reply could not be read."""
    again = {"role": "user", "content": words_of(language)["again"]}
    return [*prompt, {"role": "assistant", "content": reply or "-"}, again]


def reply_shape(language: str) -> dict:
    """The parameter that makes a server write this JSON, where it can."""
    answer = {"type": "string", "enum": words_of(language)["answers"]}
    parts = {}
    for question in QUESTIONS:
        parts |= {REASONS[question]: {"type": "string"}, question: answer}
    shape = {"type": "object", "properties": parts, "required": [*parts]}
    shape["additionalProperties"] = False
    named = {"name": "judgement", "strict": True, "schema": shape}
    return {"response_format": {"type": "json_schema", "json_schema": named}}


# --------------------------------------------------------------------------------------------------
# The reply: JSON, or lines with the names of the questions, or a list numbered from 1 to 3.

YES = "yes|y|true|correct|right|valid|是的?|对|正确|有效|合适"
NO = "no|n|false|incorrect|wrong|invalid|不是|否|不对|错误?|不正确|无效|不合适"
MARKS = r"[\s\"'`*_“”‘’「」<>()（）]*"  # what may stand around an answer
ANSWER = re.compile(rf"(?i){MARKS}(?:(?P<yes>{YES})|(?P<no>{NO})){MARKS}(?P<rest>.*)", re.S)
BOTH = re.compile(r"(?i)\b(?:yes|no|true|false|not)\b|是|否|不|错")  # what no answer goes on with
LABEL = re.compile(  # "Answer: yes", "答案：是", at the end of a part
    rf"(?i)(?:answer|verdict|答案|回答|结论|判断){MARKS}[:：]{MARKS}(?P<said>[^\n]*)"
)
NAMES = {  # how a question is called in a reply that is no JSON
    "valid_task": r"valid[ _-]?task|task[ _]valid|(?:指令|任务)(?:是否)?有效|有效任务",
    "input_fits": r"input[ _-]?fits|input[ _]appropriate|输入(?:是否)?(?:合适|恰当)",
    "output_right": r"output[ _-]?right|output[ _]correct|输出(?:是否)?正确",
}
NUMBERED = re.compile(r"(?m)^[ \t>#*_(（-]*([123])[.)）．、:：][*_ \t]*")


def read_reply(text: str, language: str) -> Verdict:
    """What a reply says to each question; None where that is not clear.

    A reason that is a worked example's, word for word, was copied, and its answer says nothing.
    """
    text = workshop.without_thinking(text)
    narrow = unicodedata.normalize("NFKC", text)
    found = json_parts(text) or labelled_parts(narrow) or numbered_parts(narrow)

    # Each question by itself: one may be clear where another is not.
    verdict = Verdict(said=workshop.one_line(text, 200))
    known = shot_reasons(language)
    for question, (reason, answer) in found.items():
        is_copy = plain(reason) in known
        verdict.copied += is_copy
        verdict.reasons[question] = " ".join(reason.split())
        verdict.answers[question] = None if is_copy else read_answer(answer)
    return verdict


def plain(text: str) -> str:
    """The words of a text alone: without case, spaces, marks and wide signs."""
    return re.sub(r"\W+", "", unicodedata.normalize("NFKC", text)).casefold()


@cache
def shot_reasons(language: str) -> set[str]:
    """The reasons of the worked examples, folded."""
    reasons = [shot[question][0] for shot in shots_of(language) for question in QUESTIONS]
    return {plain(reason) for reason in reasons}


Parts = dict[str, tuple[str, Any]]  # question -> (reason, answer as it stands there)


def json_parts(text: str) -> Parts:
    """The reasons and answers of the JSON objects in a text. Of two that differ, none counts."""
    parts: Parts = {}
    for found in objects_in(text):
        names = {str(name).strip().casefold().replace(" ", "_"): name for name in found}
        for question in QUESTIONS:
            if question not in names:
                continue
            reason, answer = found.get(names.get(REASONS[question])), found[names[question]]
            if isinstance(answer, dict):  # {"valid_task": {"reason": ..., "answer": ...}}
                reason, answer = answer.get("reason"), answer.get("answer")
            if question in parts and read_answer(parts[question][1]) is not read_answer(answer):
                answer = None
            parts[question] = (reason if isinstance(reason, str) else "", answer)
    return parts


def objects_in(text: str) -> Iterator[dict]:
    """The JSON objects of a text, from left to right, also of an array or in a code block."""
    decoder = json.JSONDecoder(strict=False)
    at = text.find("{")
    while at >= 0:
        try:
            found, at = decoder.raw_decode(text, at)
            yield found
        except (ValueError, RecursionError):
            at += 1
        at = text.find("{", at)


def labelled_parts(text: str) -> Parts:
    """Answers behind the names of the questions: "**valid_task**: yes", "输出正确：否"."""
    parts: Parts = {}
    for question, names in NAMES.items():
        label = re.compile(rf"(?i)(?:{names}){MARKS}(?:\?{MARKS})?[:=]{MARKS}(?P<said>[^\n,]*)")
        said = {read_answer(found["said"]) for found in label.finditer(text)} - {None}
        if len(said) == 1:
            reason = re.search(
                rf"(?im)^{MARKS}{REASONS[question]}{MARKS}:{MARKS}(?P<said>.*?)[\"',]*$", text
            )
            parts[question] = (reason["said"] if reason else "", said.pop())
    return parts


def numbered_parts(text: str) -> Parts:
    """The three items of a list that is numbered from 1 to 3, each with its answer."""
    marks = list(NUMBERED.finditer(text))
    if [mark[1] for mark in marks] != ["1", "2", "3"]:
        return {}
    ends = [*(mark.start() for mark in marks[1:]), len(text)]
    parts: Parts = {}
    for question, mark, end in zip(QUESTIONS, marks, ends, strict=True):
        item = text[mark.end() : end].strip()
        parts[question] = (without_answer(item), answer_in(item))
    return parts


def answer_in(item: str) -> bool | None:
    """The answer of an item: behind "Answer:", at its end, or at its beginning."""
    labels = [read_answer(found["said"]) for found in LABEL.finditer(item)]
    if labels:
        return labels[-1]
    # The first word may be turned round by what follows, the last one closes the item.
    parts = re.split(r"[.。!！:：;；,，\n—-]", item.rstrip(" \t\n.。!！*_\"'"))
    first, last = read_answer(parts[0]), read_answer(parts[-1])
    if {first, last} == {True, False}:
        return None
    return read_answer(item) if last is None else last


def without_answer(item: str) -> str:
    """An item without its yes or no: the reason."""
    item = LABEL.sub("", item)
    item = re.sub(rf"(?i)^{MARKS}(?:{YES}|{NO})\b[\s.,:;。，：；—-]*", "", item)
    return re.sub(rf"(?i)(?<=[.。\n:：])\s*{MARKS}(?:{YES}|{NO}){MARKS}[.。]?$", "", item).strip()


def read_answer(said: Any) -> bool | None:
    """Yes or no. None where it is neither, or both: "yes/no", "not sure", "partly"."""
    if isinstance(said, bool) or said is None:
        return said
    text = unicodedata.normalize("NFKC", said) if isinstance(said, str) else ""
    found = ANSWER.fullmatch(text)
    if not found:
        return None

    # Behind the word there may be a remark, but no word that could turn it round.
    rest = found["rest"]
    if rest and (not re.match(r"[.,:;!。，：；！—-]", rest) or BOTH.search(rest)):
        return None
    return found["yes"] is not None


# --------------------------------------------------------------------------------------------------
# The practice model as a judge: it looks rows up in the bank, and slips on purpose.

SLIPS = 0.1  # of its answers about outputs, those that are turned round
UNREADABLE = 0.03  # of its replies, those without an answer


def practice_reply(language: str, rng: random.Random, prompt: Prompt) -> str:
    """What the practice model says of a row. It is no judge: it knows the bank by heart."""
    words = words_of(language)
    asked = [turn["content"] for turn in prompt if turn["role"] == "user"]
    is_second = asked[-1] == words["again"]
    if not is_second and rng.random() < UNREADABLE:
        return {"en": "I would rather not say.", "zh": "这个我说不好。"}[language]
    names = "(.*)\n".join(map(re.escape, words["fields"])) + "(.*)"
    found = re.search(names, asked[-2 if is_second else -1], re.S)
    row = [text.strip().replace(words["none"], "") for text in found.groups()]
    known = practice_bank(language).get(row[0], {})
    right = known.get((row[1], row[2]), False)
    fits = not known or row[1] in {source for source, _ in known}
    if rng.random() < SLIPS:
        right = not right
    return practice_json(words, {"valid_task": True, "input_fits": fits, "output_right": right})


def practice_json(words: dict, said: dict[str, bool]) -> str:
    """A reply of the practice model: its reasons say where they come from."""
    bank = {"yes": "The bank has it so.", "no": "The bank has it otherwise."}
    bank |= {"是": "题库里就是这样。", "否": "题库里不是这样。"}
    reply = {}
    for question, yes in said.items():
        word = words["answers"][0 if yes else 1]
        reply |= {REASONS[question]: bank[word], question: word}
    return json.dumps(reply, ensure_ascii=False)


@cache
def practice_bank(language: str) -> dict[str, dict[tuple[str, str], bool]]:
    """instruction -> (input, output) -> whether the bank calls it right."""
    bank: dict[str, dict[tuple[str, str], bool]] = {}
    for task in workshop.read_data("practice_tasks", language):
        known = bank.setdefault(task["instruction"], {})
        for pair in task["instances"]:
            texts = (pair["input"].strip(), pair["output"].strip())
            known[texts] = not (task.get("flaw") or pair.get("flaw"))
    return bank
