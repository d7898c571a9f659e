"""The root verb of an instruction and its object, as in Figure 3 of the paper: "Write a short poem." -> write, poem.

    python -m scripts.reporting.verb_nouns data/seed_tasks.jsonl           a second; a line for each seed task
    python -m scripts.reporting.verb_nouns data/seed_tasks_zh.jsonl --language zh

The paper parses with the Berkeley Neural Parser, a download of its own. This needs no more than what pip installs: the
parts of speech come from TextBlob's pattern tagger (English) or jieba (Chinese), and a few rules find the first command
in them and the noun that it is about. Of a question, or of a command without a noun ("Explain why."), it says None.

Checked by hand on the first 100 seed tasks of each language, which the rules were written with: of 70 English pairs 69
are right, of 72 Chinese ones 62; 3 and 7 pairs were missed. On 60 other tasks of each, drawn at random from
data/practice_tasks.jsonl: 40 of 43 English pairs are right, 24 of 30 Chinese ones.
"""

from __future__ import annotations

if not __package__:  # called as a file: its folder would hide Python's own module `numbers`
    raise SystemExit("verb_nouns.py is a part of scripts/report.py; alone: python -m scripts.reporting.verb_nouns FILE")

import argparse
import re
import sys
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from typing import Any

import self_instruct_workshop as workshop

Words = list[tuple[str, str]]  # (word, part of speech)
Pair = tuple[str, str]  # (verb, object)

# ----------------------------------------------------------------------------------------------------------------------
# English, parts of speech as in the Penn Treebank.

OPENERS = {"please", "kindly", "now", "then", "and", "or", "also", "finally", "first", "next", "can", "could", "you"}
NO_COMMAND = re.compile(r"(?i)be|do|have|is|are|does|did|was|were|has|will|would|should|may|suppose|imagine|let")
BEFORE_A_NOUN = {"DT", "PDT", "PRP$", "CD", "JJ", "JJR", "JJS", "VBN", "VBG", "POS", "``", "''", "(", ")"}
VAGUE = {",", "me", "us", "s", "or", "but", "and", "up", "out", "down", "only", "just", "exactly", "back"}


def english(text: str) -> Pair | None:
    for words in sentences(tag_english(text)):
        for clause in clauses(words):
            start = next((i for i, (word, tag) in enumerate(clause) if not opener(word, tag)), len(clause))
            if is_command(clause[start : start + 2]) and (noun := object_of(clause[start + 1 :])):
                return clause[start][0].lower(), noun
    return None


def tag_english(text: str) -> Words:
    from textblob.en import tag

    return [(str(word), str(kind)) for word, kind in tag(re.sub(r"<[^>]*>|[*_`#<>]+", " ", text)[:1000])]


def sentences(words: Words) -> Iterator[Words]:
    """Split at full stops; a question commands nothing, and is left out."""
    start = 0
    for i, (word, tag) in enumerate([*words, (".", ".")]):
        if tag == "." or word in (".", "?", "!"):
            asked = word == "?" and words[start : start + 1] and not polite(words[start : start + 3])
            if i > start and not asked:
                yield words[start:i]
            start = i + 1


def polite(words: Words) -> bool:
    """Whether a question is a request: "Can you ...?"."""
    return [word.lower() for word, _ in words][:2] in (["can", "you"], ["could", "you"], ["would", "you"])


def clauses(words: Words) -> Iterator[Words]:
    """The sentence from its first word, then from behind each comma, colon, or `and`: "In two words, name ..."."""
    yield words
    for i, (word, _) in enumerate(words):
        if word in (",", ";", ":", "-", "–", "—") or word.lower() == "and":
            yield words[i + 1 :]


def opener(word: str, tag: str) -> bool:
    return word.lower() in OPENERS or tag in ("RB", "UH")


def is_command(words: Words) -> bool:
    """A verb's bare form; the tagger takes "List three ..." for a name, which what follows puts right."""
    if not words or NO_COMMAND.fullmatch(words[0][0]):
        return False
    (word, tag), after = words[0], words[1][1] if len(words) > 1 else ""
    determined = after in ("DT", "PDT", "PRP$", "PRP", "WP", "WRB", "WDT", "CD", "TO", "IN")
    return tag in ("VB", "VBP") or (tag in ("NN", "NNP", "JJ") and determined and not word.endswith("ing"))


def object_of(words: Words) -> str | None:
    """The last noun of the phrase behind the verb: "a short customer email to ..." -> email."""
    noun = None
    for word, tag in words:
        if tag.startswith("NN") and (clean := re.match(r"[^\W\d][\w-]*(?=\W*$)", word)):
            noun = singular(clean[0].lower(), tag)
        elif tag == "POS":  # "the customer's complaint" is about the complaint
            noun = None
        elif noun or (tag not in BEFORE_A_NOUN and word.lower() not in VAGUE):  # the phrase is over, or there is none
            break
    return noun


def singular(noun: str, tag: str) -> str:
    from textblob.en.inflect import singularize

    return singularize(noun) if tag in ("NNS", "NNPS") else noun


# ----------------------------------------------------------------------------------------------------------------------
# Chinese, parts of speech as jieba names them: v verb, n noun, p preposition, f place, m and q number and measure.

NO_COMMAND_ZH = re.compile("请|要|能|会|是|有|帮|没有|属于|假[如设]|已知|可以|需要|应该|不?超过|超出|包?含|带")
OPENERS_ZH = {"请", "请你", "帮", "帮我", "你", "我", "试"}
OBJECT_FIRST = {"把", "将"}
ASKS = re.compile(r"[什怎吗呢？?]|如何|为何|哪|多少|是否|是不是|还是|几[个种条]|[时后]$")


def chinese(text: str) -> Pair | None:
    for clause in re.findall(r"[^，。；：？！,;:?!\n]+[？?]?", text[:300]):
        words = tag_chinese(clause)
        while words and opener_zh(*words[0]):
            words = words[1:]
        if words and not ASKS.search(clause) and (found := command_zh(words)):
            return found
    return None


def opener_zh(word: str, tag: str) -> bool:
    return word in OPENERS_ZH or (tag in ("d", "c", "t") and word not in OBJECT_FIRST)


def tag_chinese(text: str) -> Words:
    """jieba's words, with its slips put right at the start, where a command's verb stands, and at "翻译成"."""
    words = [(pair.word, pair.flag) for pair in jieba_tagger().cut(text) if pair.flag != "x" or pair.word == "、"]
    words = [(word, "v" if tag == "vn" or word.endswith("成") else tag) for word, tag in words]
    if [tag[0] for _, tag in words[:2]] == ["n", "m"]:  # "归纳几条"
        words[0] = (words[0][0], "v")
    return words


@cache
def jieba_tagger() -> Any:
    import jieba.posseg

    jieba.setLogLevel("ERROR")
    return jieba.posseg


def command_zh(words: Words) -> Pair | None:
    """A clause that begins with a verb; or with 把 and the object; or with another preposition: then its last verb."""
    verbs = [i for i, (word, tag) in enumerate(words) if tag == "v" and not NO_COMMAND_ZH.fullmatch(word)]
    if words[0][0] in OBJECT_FIRST:
        return turned_zh(words)
    if not verbs or not (words[0][1] == "p" or verbs[0] == 0):
        return None
    at = last_command(words, verbs) if words[0][1] == "p" else 0
    noun = noun_zh(words[at + 1 :])
    return (words[at][0].removesuffix("成"), noun) if noun else None


def turned_zh(words: Words) -> Pair | None:
    """ "把这段介绍压缩成一句话" -> 压缩, 介绍: what stands before the first verb, or preposition, behind it."""
    noun, over = None, False
    for (word, tag), (after, _) in pairwise([*words[1:], ("", "")]):
        if tag == "v" and noun and after != "的":
            return (word.removesuffix("成"), noun) if word != "成" else None
        over = over or (tag == "p" and noun is not None)
        noun = word if not over and (tag[0] in "nv" or tag in ("l", "i", "eng")) else noun
    return None


def last_command(words: Words, verbs: list[int]) -> int:
    """The last verb before a number ("写一首诗"); else the last that has an object and describes none ("适合…的")."""
    after, of = [tag for _, tag in words[1:]] + [""], last_of(words)
    verbs = [i for i in verbs if words[i - 1][1] != "v"] or verbs  # "算出", in two words, is one
    numbered = [i for i in verbs if after[i] == "m"]
    free = [i for i in verbs if after[i] not in ("", "x", "c", "uj") and (i > of or i + 2 < of)]
    return (numbered or free or verbs)[-1]


def last_of(words: Words) -> int:
    return max((i for i, (word, _) in enumerate(words) if word == "的"), default=-1)


def noun_zh(words: Words) -> str | None:
    """The last noun of the phrase behind the last 的 of the clause, up to the first `and`; behind 的, a verb is one."""
    noun, start = None, last_of(words) + 1
    for i, (word, tag) in enumerate(words[start:]):
        if tag[0] == "n" or tag in ("vn", "an", "eng", "l", "i") or (tag == "v" and start and not i):
            noun = word
        elif noun and (tag in ("c", "x", "v", "p") or word == "的"):
            break
    return noun


def verb_and_object(text: str, language: str) -> Pair | None:
    return (chinese if language == "zh" else english)(text)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", help="seed tasks: .jsonl, .json or .txt")
    parser.add_argument("--language", choices=tuple(workshop.DEFAULT_SEEDS), default="en")
    options = parser.parse_args(arguments)

    def show(_: workshop.Config) -> None:
        for task in workshop.load_seed_tasks(options.file):
            found = verb_and_object(task.instruction, options.language)
            print(f"{' '.join(found) if found else '-':<28} {workshop.one_line(task.instruction)}")

    return workshop.main(None, show)


if __name__ == "__main__":
    sys.exit(main())
