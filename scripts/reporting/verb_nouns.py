"""The root verb of an instruction and its object, as in Figure 3 of the paper: of "Write a short
poem." these are write and poem.

    python -m scripts.reporting.verb_nouns data/seed_tasks.jsonl
                                                a second; a line for each seed task
    python -m scripts.reporting.verb_nouns data/seed_tasks_zh.jsonl --language zh

The paper parses with the Berkeley Neural Parser, a download of its own. This module needs no more
than what pip installs. The parts of speech come from TextBlob's pattern tagger (English) or jieba
(Chinese). A few rules find the first command in them, and the noun that it is about. There is no
pair in a question, nor in a command without a noun ("Explain why.").

Checked by hand on the first 100 seed tasks of each language, which the rules were written with: of
70 English pairs 69 are right, of 72 Chinese ones 62; 3 and 7 pairs were missed. On 60 other tasks
of each, drawn at random from data/practice_tasks.jsonl: 40 of 43 English pairs are right, 24 of 30
Chinese ones.
"""

from __future__ import annotations

if not __package__:  # called as a file: its folder would hide Python's own module `numbers`
    raise SystemExit(
        "verb_nouns.py is a part of scripts/report.py; "
        "alone: python -m scripts.reporting.verb_nouns FILE"
    )

import argparse
import re
import sys
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from typing import Any

import self_instruct_workshop as workshop

Word = tuple[str, str]  # (word, part of speech)
Words = list[Word]
Pair = tuple[str, str]  # (verb, object)


def verb_and_object(text: str, language: str) -> Pair | None:
    """The first command of an instruction, as (verb, object); None where there is none."""
    return chinese(text) if language == "zh" else english(text)


# --------------------------------------------------------------------------------------------------
# English, parts of speech as in the Penn Treebank.

# Words that may stand before a command: "Please also write ...".
OPENERS = {
    *("please", "kindly", "now", "then", "and", "or", "also", "finally", "first", "next"),
    *("can", "could", "you"),
}

# Verbs that begin a question or a condition, not a command.
NO_COMMAND = re.compile(
    "be|do|have|is|are|does|did|was|were|has|will|would|should|may|suppose|imagine|let",
    re.IGNORECASE,
)

# Tags that make a word before "a verb's bare form" one: "List three ...", "Name the ...".
DETERMINED = ("DT", "PDT", "PRP$", "PRP", "WP", "WRB", "WDT", "CD", "TO", "IN")

# What may stand between the verb and its noun, by tag and by word.
BEFORE_A_NOUN = {
    *("DT", "PDT", "PRP$", "CD", "JJ", "JJR", "JJS", "VBN", "VBG", "POS"),
    *("``", "''", "(", ")"),
}
VAGUE = {
    *(",", "me", "us", "s", "or", "but", "and", "up", "out", "down"),
    *("only", "just", "exactly", "back"),
}
LONGEST = 1000  # characters of an English instruction that are looked at


def english(text: str) -> Pair | None:
    """The first command in the text, as (verb, object)."""
    for words in sentences(tag_english(text)):
        for clause in clauses(words):
            pair = command_of(clause)
            if pair:
                return pair
    return None


def tag_english(text: str) -> Words:
    """The words of a text with their parts of speech, without the signs of markup."""
    from textblob.en import parse

    # Lists, not the text that parse() else makes of them, take a fifth less time.
    plain = re.sub(r"<[^>]*>|[*_`#<>]+", " ", text)[:LONGEST]
    tagged = parse(plain, chunks=False, collapse=False)
    return [(word, tag) for sentence in tagged for word, tag in sentence]


def sentences(words: Words) -> Iterator[Words]:
    """Split at full stops; a question commands nothing, and is left out."""
    start = 0
    for i, (word, tag) in enumerate([*words, (".", ".")]):
        if tag == "." or word in (".", "?", "!"):
            is_question = word == "?" and not polite(words[start : start + 2])
            if i > start and not is_question:
                yield words[start:i]
            start = i + 1


def polite(words: Words) -> bool:
    """Whether a question is a request: "Can you ...?"."""
    begin = [word.lower() for word, _ in words]
    return begin in (["can", "you"], ["could", "you"], ["would", "you"])


def clauses(words: Words) -> Iterator[Words]:
    """The sentence from its first word, then from behind each comma, colon, or `and`.

    In "In two words, name ..." the command stands in the second one.
    """
    yield words
    for i, (word, _) in enumerate(words):
        if word in (",", ";", ":", "-", "–", "—") or word.lower() == "and":
            yield words[i + 1 :]


def command_of(clause: Words) -> Pair | None:
    """The verb that a clause begins with, after its openers, and the object of the verb."""
    # Skip "Please also".
    while clause and is_opener(clause[0]):
        clause = clause[1:]
    if not is_command(clause):
        return None
    noun = object_of(clause[1:])
    return (clause[0][0].lower(), noun) if noun else None


def is_opener(word: Word) -> bool:
    """Whether a command may follow this word."""
    text, tag = word
    return text.lower() in OPENERS or tag in ("RB", "UH")


def is_command(words: Words) -> bool:
    """Whether the first word is a verb's bare form.

    The tagger takes "List" in "List three ..." for a name; the word after it tells.
    """
    if not words or NO_COMMAND.fullmatch(words[0][0]):
        return False

    # A verb by its tag, or a noun that something follows as it follows a verb.
    word, tag = words[0]
    if tag in ("VB", "VBP"):
        return True
    after = words[1][1] if len(words) > 1 else ""
    return tag in ("NN", "NNP", "JJ") and after in DETERMINED and not word.endswith("ing")


def object_of(words: Words) -> str | None:
    """The last noun of the phrase behind the verb: "a short customer email to ..." gives email."""
    # Go on to the last noun of the phrase.
    noun = None
    for word, tag in words:
        found = noun_in(word) if tag.startswith("NN") else None
        if found:
            noun = singular(found, tag)
        elif tag == "POS":
            noun = None  # "the customer's complaint" is about the complaint
        elif noun or not may_precede(word, tag):
            break  # the phrase is over, or there is none
    return noun


def noun_in(word: str) -> str | None:
    """The word in lower case, without signs at its end; None where it is no word."""
    found = re.match(r"[^\W\d][\w-]*(?=\W*$)", word)
    return found[0].lower() if found else None


def may_precede(word: str, tag: str) -> bool:
    """Whether the noun may come after this word: "a", "short", "me"."""
    return tag in BEFORE_A_NOUN or word.lower() in VAGUE


@cache
def singular(noun: str, tag: str) -> str:
    """The singular of a noun that is tagged as a plural."""
    from textblob.en.inflect import singularize

    return singularize(noun) if tag in ("NNS", "NNPS") else noun


# --------------------------------------------------------------------------------------------------
# Chinese, parts of speech as jieba names them: v verb, n noun, p preposition, f place, m number,
# q measure.

# Verbs that command nothing: "请", "要", "能"...
NO_COMMAND_ZH = re.compile(
    "请|要|能|会|是|有|帮|没有|属于|假[如设]|已知|可以|需要|应该|不?超过|超出|包?含|带"
)
OPENERS_ZH = {"请", "请你", "帮", "帮我", "你", "我", "试"}
OBJECT_FIRST = {"把", "将"}  # "把这段话翻译成英语": the object comes before the verb

# A clause with one of these asks a question, or says when.
ASKS = re.compile("[什怎吗呢？?]|如何|为何|哪|多少|是否|是不是|还是|几[个种条]|[时后]$")
LONGEST_ZH = 300  # characters of a Chinese instruction that are looked at


def chinese(text: str) -> Pair | None:
    """The first command in the text, as (verb, object)."""
    for clause in re.findall(r"[^，。；：？！,;:?!\n]+[？?]?", text[:LONGEST_ZH]):
        # Skip "请你".
        words = tag_chinese(clause)
        while words and is_opener_zh(words[0]):
            words = words[1:]

        # A question commands nothing.
        if words and not ASKS.search(clause):
            found = command_zh(words)
            if found:
                return found
    return None


def is_opener_zh(word: Word) -> bool:
    """Whether a command may follow this word."""
    text, tag = word
    return text in OPENERS_ZH or (tag in ("d", "c", "t") and text not in OBJECT_FIRST)


def tag_chinese(text: str) -> Words:
    """jieba's words with their parts of speech, and some of its slips put right."""
    # A verb that jieba takes for a noun ("vn"), and "翻译成", are verbs.
    words = []
    for pair in jieba_tagger().cut(text):
        if pair.flag != "x" or pair.word == "、":
            is_verb = pair.flag == "vn" or pair.word.endswith("成")
            words.append((pair.word, "v" if is_verb else pair.flag))

    # So is the first word of "归纳几条", which jieba takes for a noun.
    if [tag[0] for _, tag in words[:2]] == ["n", "m"]:
        words[0] = (words[0][0], "v")
    return words


@cache
def jieba_tagger() -> Any:
    """jieba's tagger, which says nothing about its dictionary."""
    import jieba.posseg

    jieba.setLogLevel("ERROR")
    return jieba.posseg


def command_zh(words: Words) -> Pair | None:
    """The verb and the object of a clause.

    The clause begins with a verb; or with 把 and the object; or with another preposition, and then
    its last verb counts.
    """
    # With 把, the object comes first.
    word, tag = words[0]
    if word in OBJECT_FIRST:
        return turned_zh(words)

    # Else the clause must begin with a verb or a preposition.
    verbs = [i for i, pair in enumerate(words) if is_verb_zh(pair)]
    begins_with_preposition = tag == "p"
    if not verbs or not (begins_with_preposition or verbs[0] == 0):
        return None

    # The object stands behind the verb.
    at = last_command(words, verbs) if begins_with_preposition else 0
    noun = noun_zh(words[at + 1 :])
    return (words[at][0].removesuffix("成"), noun) if noun else None


def is_verb_zh(word: Word) -> bool:
    """Whether this is a verb that can command something."""
    text, tag = word
    return tag == "v" and not NO_COMMAND_ZH.fullmatch(text)


def turned_zh(words: Words) -> Pair | None:
    """The verb and the object of a clause with 把: "把这段介绍压缩成一句话" gives 压缩 and 介绍.

    The object is the last noun before the first verb, or preposition, behind it.
    """
    noun = None
    is_over = False  # behind a preposition no noun is the object
    for (word, tag), (after, _) in pairwise([*words[1:], ("", "")]):
        # A verb before 的 describes something: it is no command.
        if tag == "v" and noun and after != "的":
            return (word.removesuffix("成"), noun) if word != "成" else None
        if tag == "p" and noun is not None:
            is_over = True
        if not is_over and (tag[0] in "nv" or tag in ("l", "i", "eng")):
            noun = word
    return None


def last_command(words: Words, verbs: list[int]) -> int:
    """Which of the verbs, given by their places, is the command.

    The last verb before a number ("写一首诗"); else the last one that has an object and describes
    none ("适合…的"); else the last one.
    """
    # "算出", which jieba takes for two verbs, is one: its first half counts.
    verbs = [i for i in verbs if words[i - 1][1] != "v"] or verbs

    # The part of speech behind each word, and the place of the last 的.
    after = [tag for _, tag in words[1:]] + [""]
    of = last_of(words)
    numbered = [i for i in verbs if after[i] == "m"]
    with_object = [i for i in verbs if after[i] not in ("", "x", "c", "uj")]
    free = [i for i in with_object if i > of or i + 2 < of]
    return (numbered or free or verbs)[-1]


def last_of(words: Words) -> int:
    """The place of the last 的, or -1."""
    places = [i for i, (word, _) in enumerate(words) if word == "的"]
    return places[-1] if places else -1


def noun_zh(words: Words) -> str | None:
    """The last noun of the phrase behind the last 的, up to the first `and`.

    Directly behind 的, a verb is a noun.
    """
    # What stands before 的 only describes the noun.
    noun = None
    start = last_of(words) + 1
    for i, (word, tag) in enumerate(words[start:]):
        is_noun = tag[0] == "n" or tag in ("vn", "an", "eng", "l", "i")
        if is_noun or (tag == "v" and start > 0 and i == 0):
            noun = word
        elif noun and (tag in ("c", "x", "v", "p") or word == "的"):
            break
    return noun


# --------------------------------------------------------------------------------------------------
# The pairs of a seed file, to look at.


def main(arguments: list[str] | None = None) -> int:
    """Print the pair of each task of a seed file, and return the exit code."""
    languages = tuple(workshop.DEFAULT_SEEDS)
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("file", help="seed tasks: .jsonl, .json or .txt")
    parser.add_argument("--language", choices=languages, default="en")
    options = parser.parse_args(arguments)

    # A line for each task; "-" where it has no pair.
    def show(_: workshop.Config | None) -> None:
        for task in workshop.load_seed_tasks(options.file):
            found = verb_and_object(task.instruction, options.language)
            pair = " ".join(found) if found else "-"
            print(f"{pair:<28} {workshop.one_line(task.instruction)}")

    return workshop.main(None, show)


if __name__ == "__main__":
    sys.exit(main())
