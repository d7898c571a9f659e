"""What an answer is worth, and what the numbers allow to say.

    measured     the figures of one answer: ROUGE-L, the label, its length, and faults of form
    summary      the figures of one model over all questions
    judged       the verdict on two models: helped, gain, brevity, form, chance, few or worse

Every claim rests on a paired 95 % interval over the questions: each question is asked of both
models, so that what is easy or hard for both does not count.
"""

from __future__ import annotations

if __name__ == "__main__":  # a part, no program: said before an import fails
    raise SystemExit(
        "scores.py is a part of scripts/did_it_help.py: run  python scripts/did_it_help.py --help"
    )

import re
import unicodedata
from collections import Counter
from dataclasses import asdict, dataclass
from statistics import fmean, median

from scripts.helping.heldout import Question
from scripts.training.measure import LEAST, Interval, interval, paired, rouge_l
from self_instruct_workshop import Reply, breaks, tokenize

COPIED = 0.7  # ROUGE-L of an answer with its input from which on it counts as a copy
SMALL = 0.02  # ROUGE-L: a difference within this is said to be small
EDGES = " \t\r\n.,;:!?\"'`*()[]。，；：！？、“”‘’「」《》（）"  # what may stand around a label
ASIDE = 2  # tokens beside an option in a list, such as an article
STOP = re.compile(r"[;；:：.。?？!！]")  # no list goes on behind these
BETWEEN = re.compile(r"[,，、/“”\"]|\bor\b|\band\b|还是|或者|或|和")
CHINESE = re.compile(r"[\u3400-\u9fff]")
PIECE = re.compile(  # one character of Chinese, Japanese or Korean; or a word of another script
    r"\s*(?:[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3]"
    r"|[^\s\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3]+)"
)
NEXT = re.compile(r"\n\s*### (?:Instruction|Answer):")  # a base model goes on with a new question


@dataclass(frozen=True)
class Measured:
    """The figures of one answer. `exact` and `named` are None where no label is asked for."""

    rouge: float  # ROUGE-L F1 with the reference, 0 to 1
    exact: bool | None  # the answer is the label, and nothing else
    named: bool | None  # the label stands in the answer, and no other label of the task does
    tokens: int
    refusal: bool
    copy: bool
    empty: bool
    cut: bool  # at --max-new-tokens


def cleaned(text: str) -> str:
    """An answer up to where a base model begins a question of its own."""
    return NEXT.split(text, maxsplit=1)[0].strip()


def measured(question: Question, reply: Reply) -> Measured:
    """The figures of one reply. Its text must be cleaned already."""
    text = reply.text
    labels = question.labels
    return Measured(
        rouge=rouge_l(text, question.output),
        exact=bare(text) == bare(question.output) if labels else None,
        named=names_alone(text, question) if labels else None,
        tokens=len(tokenize(text)),
        refusal=breaks("refusal", text),
        copy=is_copy(text, question),
        empty=not text,
        cut=reply.finish_reason == "length",
    )


def bare(text: str) -> str:
    """A label without capitals, width of characters, and what stands around it."""
    return unicodedata.normalize("NFKC", text).casefold().strip(EDGES)


def names_alone(text: str, question: Question) -> bool:
    """Whether an answer names the right label, in any sentence, and none of the others.

    The others are those of the task's instances, and what the instruction lists beside the right
    one. A label within a longer label does not count as named by it.
    """
    said = tokenize(text)
    labels = {bare(label) for label in question.labels} | listed(question)
    found = {label for label in labels if holds(said, tokenize(label))}
    within = {
        short
        for short in found
        for long in found - {short}
        if holds(tokenize(long), tokenize(short))
    }
    return found - within == {bare(question.output)}


def listed(question: Question) -> set[str]:
    """The options that the instruction lists beside the right label, as far as they are seen.

    >>> sorted(listed(Question("1", "Is it a River, a Lake or a Desert?", "", "Lake", ("Lake",))))
    ['desert', 'lake', 'river']
    """
    label = tokenize(question.output)
    clauses = STOP.split(question.instruction) if label else []
    for clause in clauses:
        parts = [tokenize(part) for part in BETWEEN.split(clause)]
        parts = [part for part in parts if part]
        if label in [part[-len(label) :] for part in parts]:
            return {bare(text) for text in beside(label, parts, question.output)}
    return set()


def beside(label: list[str], parts: list[list[str]], text: str) -> set[str]:
    """The ends of the parts of a clause that stand in one list with the label.

    From the label on, to both sides: options are short, but the first may end a longer part.
    """
    size = len(label)
    ends = [part[-size:] for part in parts]
    place = ends.index(label)
    first = place
    while first > 0 and len(parts[first]) <= size + ASIDE:
        first -= 1
    last = place
    while last + 1 < len(parts) and len(parts[last + 1]) <= size + ASIDE:
        last += 1
    gap = "" if CHINESE.search(text) else " "
    return {gap.join(end) for end in ends[first : last + 1]}


def holds(tokens: list[str], part: list[str]) -> bool:
    """Whether some tokens stand in a list, one behind the other."""
    size = len(part)
    places = range(len(tokens) - size + 1)
    return bool(part) and any(tokens[i : i + size] == part for i in places)


def is_copy(text: str, question: Question) -> bool:
    """Whether an answer repeats its input, where the reference does not."""
    given = question.input or question.instruction
    repeats = rouge_l(text, given) >= COPIED
    return repeats and rouge_l(question.output, given) < COPIED


def cut_to(text: str, tokens: int) -> str:
    """The beginning of a text with about so many tokens; characters in Chinese, words elsewhere.

    >>> cut_to("It is a very long answer.", 3)
    'It is a'
    """
    kept = ""
    for piece in PIECE.findall(text):
        if len(tokenize(kept + piece)) > tokens:
            break
        kept += piece
    return kept.strip()


# --------------------------------------------------------------------------------------------------
# One model over all questions, and what costs nothing.


@dataclass(frozen=True)
class Summary:
    """A line of the table. Counts are over all questions; of several seeds, their mean."""

    rouge: Interval
    exact: float  # labels that are exactly right
    named: float
    labels: int  # questions that ask for a label
    tokens: float  # median length
    refusals: float
    copies: float
    empty: float
    cut: float


def summary(runs: list[list[Measured]]) -> Summary:
    """The figures of a model; of several seeds, `runs` has one list of answers for each."""
    mean = mean_rouge(runs)

    def average(name: str) -> float:
        return fmean(sum(bool(getattr(one, name)) for one in run) for run in runs)

    return Summary(
        rouge=interval(mean),
        exact=average("exact"),
        named=average("named"),
        labels=sum(one.exact is not None for one in runs[0]),
        tokens=median(one.tokens for run in runs for one in run),
        refusals=average("refusal"),
        copies=average("copy"),
        empty=average("empty"),
        cut=average("cut"),
    )


def mean_rouge(runs: list[list[Measured]]) -> list[float]:
    """ROUGE-L of each question, its mean over the seeds."""
    return [fmean(one.rouge for one in several) for several in zip(*runs, strict=True)]


def free_answers(questions: list[Question]) -> dict[str, list[str]]:
    """Answers that no model is needed for.

    The most frequent label is that of the held-out questions themselves, so it is the best
    that such an answer can be.
    """
    labels = Counter(one.output for one in questions if one.labels)
    frequent = labels.most_common(1)[0][0] if labels else ""
    return {
        "copy": [one.input or one.instruction for one in questions],
        "empty": ["" for _ in questions],
        "label": [frequent if one.labels else "" for one in questions],
    }


def measured_texts(questions: list[Question], texts: list[str]) -> list[Measured]:
    """The figures of texts that no model has written."""
    replies = [Reply(text, "stop") for text in texts]
    return [measured(one, reply) for one, reply in zip(questions, replies, strict=True)]


# --------------------------------------------------------------------------------------------------
# The verdict.


@dataclass(frozen=True)
class Verdict:
    """What can be said, and the differences that it rests on; None where one was not taken."""

    kind: str  # helped, gain, brevity, form, chance, small, few or worse
    gain: Interval  # after minus before
    brief: Interval | None = None  # after minus before, which is cut to the same length
    control: Interval | None = None  # after minus the control, which learnt shuffled answers
    spread: tuple[float, ...] = ()  # the gain of each seed

    def record(self) -> dict:
        """The verdict as JSON."""
        return asdict(self)


def judged(
    before: list[list[Measured]],
    after: list[list[Measured]],
    brief: list[list[Measured]] | None = None,
    control: list[list[Measured]] | None = None,
) -> Verdict:
    """The verdict on a model after its training.

    `brief` are the answers from before, each cut to the length of the one from after. `control`
    are the answers of a model that learnt the same with shuffled answers. Each is a list with
    one list a seed; `before` has only one.
    """
    base = mean_rouge(before)
    scores = mean_rouge(after)
    gain = paired(base, scores)
    over_brief = paired(mean_rouge(brief), scores) if brief else None
    over_control = paired(mean_rouge(control), scores) if control else None
    spread = tuple(fmean(one.rouge for one in run) - fmean(base) for run in after)
    kind = kind_of(gain, over_brief, over_control, len(base))
    if kind == "helped" and not over_control:
        kind = "gain"  # the form of the answers, or the template, may be all of it
    return Verdict(kind, gain, over_brief, over_control, spread)


def kind_of(gain: Interval, brief: Interval | None, control: Interval | None, asked: int) -> str:
    """One word for what the intervals over the questions that were asked allow to say.

    A gain that the control has as well is no gain of these pairs. One that goes away where the
    base's answers are cut is a gain of brevity.
    """
    if asked < LEAST:
        return "few"
    if gain.high < 0:
        return "worse"
    if gain.is_chance:
        return "small" if max(-gain.low, gain.high) <= SMALL else "chance"
    if control and control.low <= 0:
        return "form"
    if brief and brief.low <= 0:
        return "brevity"
    return "helped"


def compared(one: list[list[Measured]], other: list[list[Measured]]) -> Verdict:
    """Whether the second model is better than the first: two datasets on the same base."""
    first, second = mean_rouge(one), mean_rouge(other)
    gain = paired(first, second)
    pairs = zip(one, other, strict=True)
    spread = tuple(
        fmean(b.rouge for b in two) - fmean(a.rouge for a in first_run) for first_run, two in pairs
    )
    return Verdict(kind_of(gain, None, None, len(first)), gain, spread=spread)
