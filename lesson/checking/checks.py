"""The nine exercises: each compares an answer with what the workshop itself says.

A check takes the folder of the exercises and returns a Verdict. It raises AnswerError where there
is nothing that it could judge.
"""

from __future__ import annotations

import ast
import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from lesson.checking.pupil import (
    NOT_BEGUN,
    TODO,
    AnswerError,
    Verdict,
    call,
    read_json,
    read_rows,
    read_text,
    right,
    wrong,
)
from scripts import check_seeds
from self_instruct_workshop import (
    DEFAULT_SEEDS,
    RECIPES,
    Config,
    InstructionPool,
    Model,
    Reply,
    Results,
    WorkshopError,
    filter_instances,
    instruction_problem,
    load_seed_tasks,
    one_line,
    parse_instances,
    parse_instructions,
    rouge_l,
    take_candidates,
    tokenize,
    was_cut_shorter,
)


def is_number(value: Any) -> bool:
    """Whether this is a number that one can reckon with: not NaN, nor True, which is one too."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return -1e9 < value < 1e9


# --------------------------------------------------------------------------------------------------
# 1. Write ROUGE-L.

LISTS = [  # (which hint, a, b): each pair finds another mistake
    ("same", "count the vowels", "count the vowels"),
    ("gaps", "name the big city", "name the city by night"),
    ("lengths", "sort the list", "sort the long list of names by length"),
    ("order", "cats chase dogs", "dogs chase cats"),
    ("greedy", "now count the old coins", "count the coins now"),
    ("repeated", "to be or not to be", "be to be to"),
    ("nothing", "write a poem", "sum up both numbers"),
    ("empty", "", "write a poem"),
    ("empty", "", ""),
    ("long", "a b c d e f g " * 8, "g f e d c b a " * 8),
]
BORROWED = {"self_instruct_workshop", "rouge_score", "rapidfuzz", "difflib"}


def check_rouge_l(folder: Path) -> Verdict:
    """Compare the pupil's function with the workshop's, pair by pair."""
    path = folder / "1_rouge_l" / "answer.py"
    borrowed = sorted(imports(read_text(path)) & BORROWED)
    if borrowed:
        return wrong("1.borrowed", name=borrowed[0])
    pairs = [(a.split(), b.split()) for _, a, b in LISTS]
    values, problem = call(path, "rouge_l", [[a, b] for a, b in pairs])
    for (hint, *texts), (a, b), value in zip(LISTS, pairs, values, strict=False):
        slots = {"a": one_line(texts[0], 40), "b": one_line(texts[1], 40), "value": value}
        if not is_number(value):
            return wrong("1.type", **slots)
        wanted = rouge_l(a, b)
        if abs(value - wanted) > 1e-6:
            slots |= {"value": f"{value:.3f}", "wanted": f"{wanted:.3f}"}
            return wrong(f"1.{hint}", **slots)
    if problem:
        raise problem
    return right("1.right")


def imports(code: str) -> set[str]:
    """The packages that a program imports; none where it cannot be read."""
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError):
        return set()
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names.append(node.module or "")
    return {name.partition(".")[0] for name in names}


# --------------------------------------------------------------------------------------------------
# 2. Which of ten candidates survive stage 1?

FATES = ["kept", "too_short", "needs_more_than_text", "about_the_answerer", "small_talk"]
FATES += ["too_similar"]


def check_survivors(folder: Path) -> Verdict:
    """Compare the predictions with what stage 1 does with the same reply."""
    place = folder / "2_survivors"
    answer = read_json(place / "answer.json")
    candidates = fates(place)
    for number in candidates:
        said = answer.get(number)
        if said not in FATES:
            return wrong("2.word", number=number, said=one_line(str(said), 30), fates=FATES)
    missed = [number for number, row in candidates.items() if answer[number] != row["fate"]]
    if not missed:
        kept = sum(row["fate"] == "kept" for row in candidates.values())
        return right("2.right", kept=kept)
    correct = len(candidates) - len(missed)
    slots = {"correct": correct, "number": missed[0], **candidates[missed[0]]}
    return wrong("2.wrong", "2.nearest", **slots)


def fates(place: Path) -> dict[str, dict[str, Any]]:
    """What stage 1 does with each candidate, and what it looks at; by its number in the reply."""
    seeds = (place / "pool.txt").read_text(encoding="utf-8").split("\n")
    seeds = [text for text in seeds if text]
    text = (place / "reply.txt").read_text(encoding="utf-8").rstrip()
    first = len(seeds) + 1

    # The stage itself decides.
    pool = InstructionPool()
    for seed in seeds:
        pool.add(seed)
    results = Results()
    reply = Reply(text, "stop", prompt=f"\n{first}.")
    take_candidates(Config(provider="practice"), pool, reply, 0, results)
    rules = {row["instruction"]: row["rule"] for row in results.rejected}

    # What a candidate was compared with: the seeds, and the candidates kept before it.
    found = {}
    pool = InstructionPool()
    for seed in seeds:
        pool.add(seed)
    for number, candidate in enumerate(parse_instructions(text, first=first), first):
        nearest, score = pool.nearest(candidate, 1)[0]
        row = {"candidate": candidate, "fate": rules.get(candidate, "kept")}
        row |= {"tokens": len(tokenize(candidate)), "nearest": nearest, "score": f"{score:.3f}"}
        found[str(number)] = row
        if row["fate"] == "kept":
            pool.add(candidate)
    return found


# --------------------------------------------------------------------------------------------------
# 3. At which threshold does a pair fall?

SEPARATES = "one_threshold_drops_A_and_keeps_B"


def check_threshold(folder: Path) -> Verdict:
    """Check the numbers of both pairs, in the order in which one works them out."""
    place = folder / "3_threshold"
    answer = read_json(place / "answer.json")
    pairs = json.loads((place / "pairs.json").read_text(encoding="utf-8"))
    scores = {}
    for name, texts in pairs.items():
        a, b = (tokenize(text) for text in texts)
        scores[name] = rouge_l(a, b)
        problem = pair_problem(answer.get(name), a, b)
        if problem:
            return wrong(f"3.{problem}", name=name)
    # A threshold drops what is above it.
    possible = scores["A"] > scores["B"]
    if answer.get(SEPARATES) is not possible:
        return wrong("3.separates", field=SEPARATES)
    return right("3.right", **{name: f"{score:.3f}" for name, score in scores.items()})


def pair_problem(said: Any, a: list[str], b: list[str]) -> str:
    """Which number of a pair is wrong, "" if none."""
    if not isinstance(said, dict):
        return "shape"
    score = rouge_l(a, b)
    if said.get("tokens") != [len(a), len(b)]:
        return "tokens"
    if said.get("lcs") != round(score * (len(a) + len(b)) / 2):
        return "lcs"
    if not is_number(said.get("score")) or abs(said["score"] - score) > 0.0051:
        return "score"
    threshold = said.get("lowest_threshold")
    if not is_number(threshold):
        return "threshold"
    if not keeps(threshold, score):
        return "too_low"
    return "too_high" if keeps(round(threshold - 0.01, 9), score) else ""


def keeps(threshold: float, score: float) -> bool:
    """Whether a candidate with this score survives, as stage 1 compares them."""
    return score <= RECIPES["modern"].highest_score(threshold)


# --------------------------------------------------------------------------------------------------
# 4. Repair a parser that eats the word "Example".

REPLIES = [  # (which hint, reply)
    ("plain", "Example 1\nInput: 4, 9\nOutput: 13\n\nExample 2\nInput: 20, 5\nOutput: 25"),
    ("plain", "Input: cats\nOutput: Cats sleep a lot."),
    ("word", "Input: cats\nOutput: Here is one. Example sentence: I like cats."),
    ("number", "Input: moss\nOutput: It needs no soil. Compare Example 2 in the book."),
    (
        "line",
        "Example 1\nInput: enclose\nOutput: to put into the same letter\n"
        "Example sentence: I enclose a photo.\n\n"
        "Example 2\nInput: rust\nOutput: what becomes of wet iron",
    ),
    ("line", "Input: Ada\nOutput: Dear Ada,\nExamples of my work are enclosed.\nKim"),
    ("input", "Example 1.\nInput: Ask whether Example 3 is wrong.\nOutput: Is Example 3 wrong?"),
]


def check_parser(folder: Path) -> Verdict:
    """Compare the pupil's parser with the workshop's, reply by reply."""
    path = folder / "4_parser" / "answer.py"
    values, problem = call(path, "read_pairs", [[reply] for _, reply in REPLIES])
    found = [as_pairs(value) for value in values]
    expected = [parse_instances(reply, False) for _, reply in REPLIES]
    # As it was handed out, it reads the plain replies and none of the others.
    read = {hint for (hint, _), x, y in zip(REPLIES, found, expected, strict=False) if x == y}
    if read == {"plain"} and not problem:
        return Verdict(NOT_BEGUN, "4.as_before")
    for (hint, reply), value, wanted in zip(REPLIES, values, expected, strict=False):
        pairs = as_pairs(value)
        slots = {"reply": one_line(reply.replace("\n", " / "), 120)}
        if pairs is None:
            return wrong("4.type", value=one_line(repr(value)), **slots)
        if pairs != wanted:
            return wrong(f"4.{hint}", count=len(pairs), wanted=len(wanted), **slots)
    if problem:
        raise problem
    return right("4.right", count=len(REPLIES))


def as_pairs(value: Any) -> list[tuple[str, str]] | None:
    """A list of pairs as it travelled; None where it is something else."""
    if not isinstance(value, list):
        return None
    if not all(isinstance(pair, list) and len(pair) == 2 for pair in value):
        return None
    return [(pair[0], pair[1]) for pair in value]


# --------------------------------------------------------------------------------------------------
# 5. What capitalize() did to the paper's instructions.

INSTRUCTIONS = [  # (which hint, instruction)
    ("plain", "Write SQL for NASA."),
    ("none", "List three rivers."),
    ("first", "translate the word OK into French"),
    ("first", "iPhone or Android: which came first?"),
    ("inside", "Explain what iOS is to my aunt Ruth."),
    ("quoted", '"Hamlet" is a play by whom?'),
    ("none", "name a bird that cannot fly"),
    ("plain", "Is it 5 PM in Oslo?"),
]


def check_capitalize(folder: Path) -> Verdict:
    """Compare both functions with what the recipe `paper` makes of each instruction."""
    path = folder / "5_capitalize" / "answer.py"
    values, problem = call(path, "spoiled_words", [[text] for _, text in INSTRUCTIONS])
    for (hint, text), value in zip(INSTRUCTIONS, values, strict=False):
        if not isinstance(value, list):
            return wrong("5.type", value=one_line(repr(value)), text=text)
        if value != spoiled(text):
            said = ", ".join(map(str, value)) or "-"
            return wrong(f"5.{hint}", text=text, after=capitalized(text), said=one_line(said))

    if problem:
        raise problem
    return check_count(path)


def check_count(path: Path) -> Verdict:
    """Check the second function: the count is over instructions, not over words."""
    texts = [text for _, text in INSTRUCTIONS]
    values, problem = call(path, "count_spoiled", [[texts]])
    if problem:
        raise problem
    count = values[0]
    wanted = sum(bool(spoiled(text)) for text in texts)
    if count != wanted or not is_number(count):
        words = sum(len(spoiled(text)) for text in texts)
        key = "5.words" if count == words else "5.count"
        return wrong(key, said=one_line(repr(count)), total=len(texts))
    seeds = [task.instruction for task in load_seed_tasks(DEFAULT_SEEDS["en"])]
    lost = sum(bool(spoiled(text)) for text in seeds)
    return right("5.right", lost=lost, total=len(seeds))


def capitalized(text: str) -> str:
    """What the paper's code makes of an instruction."""
    return parse_instructions(text, recipe="paper")[0]


def spoiled(text: str) -> list[str]:
    """The words in which the paper's code lowers a letter."""
    lost = []
    for word, after in zip(text.split(), capitalized(text).split(), strict=True):
        lowered = [old for old, new in zip(word, after, strict=True) if old.lower() == new != old]
        if lowered:
            lost.append(word)
    return lost


# --------------------------------------------------------------------------------------------------
# 6. Label first or input first: count the labels.

ORDERS = {"input_first": False, "label_first": True}


def check_labels(folder: Path) -> Verdict:
    """Compare the counts with those of the replies as stage 3 reads them."""
    place = folder / "6_label_first"
    answer = read_json(place / "answer.json")
    rows = read_rows(place / "replies.jsonl")
    counts = {order: label_counts(rows, order) for order in ORDERS}
    for order, wanted in counts.items():
        said = answer.get(order)
        if not isinstance(said, dict) or not all(map(is_number, said.values())):
            return wrong("6.shape", order=order)
        if sum(said.values()) != len(rows):
            return wrong("6.sum", order=order, total=sum(said.values()), wanted=len(rows))
        missed = [label for label in wanted if said.get(label) != wanted[label]]
        if missed:
            return wrong("6.count", order=order, label=missed[0])

    # Even: the most frequent label has a smaller share.
    even = min(counts, key=lambda order: max(counts[order].values()))
    if answer.get("more_even") != even:
        return wrong("6.even", orders=list(ORDERS))
    # Whether a label fits a text, no parser can say: this stands with the reference answer.
    reference = read_json(folder / "answers" / "6.json")
    if answer.get("wrong_label") != reference["wrong_label"]:
        return wrong("6.fits")
    top = {order: max(count.values()) for order, count in counts.items()}
    return right("6.right", **top)


def label_counts(rows: list[dict[str, Any]], order: str) -> dict[str, int]:
    """How often each label stands in the replies of one order; labels that never do have a 0."""
    counts = Counter({label: 0 for row in rows for label in row["labels"]})
    for row in rows:
        for _, label in parse_instances(row[order], ORDERS[order]):
            counts[label] += 1
    return dict(counts)


# --------------------------------------------------------------------------------------------------
# 7. Read a journal: what does a killed run pay again?

KILLED = {"provider": "local", "base_url": "http://127.0.0.1:9/v1", "model": "small-model"}
KILLED |= {"max_tokens": 48}
NEXT_RUNS = {  # field of the answer -> the setting that the next run changes
    "same_command": {},
    "max_tokens_96": {"max_tokens": 96},
    "rouge_threshold_0.6": {"rouge_threshold": 0.6},
    "other_model": {"model": "large-model"},
}


def check_journal(folder: Path) -> Verdict:
    """Compare the numbers with what the workshop's own journal has no answer to."""
    place = folder / "7_journal"
    answer = read_json(place / "answer.json")
    for name, changes in NEXT_RUNS.items():
        said = answer.get(name)
        if not isinstance(said, list) or not all(map(is_number, said)):
            return wrong("7.shape", name=name)
        wanted = asked_again(place, changes)
        if set(said) != set(wanted):
            key = "missing" if set(wanted) - set(said) else "too_many"
            return wrong(f"7.{key}", f"7.{name}", name=name, said=len(set(said)))
    return right("7.right")


def asked_again(place: Path, changes: dict[str, Any]) -> list[int]:
    """The numbers of the questions that a run with these changes would send."""
    again = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as work:
        # A run cuts the torn line off, so it gets a copy.
        shutil.copyfile(place / "responses.jsonl", Path(work) / "responses.jsonl")
        config = replace(Config(**KILLED, work_dir=work), **changes)
        with Model(config) as model:
            for row in read_rows(place / "questions.jsonl"):
                sampling = {"temperature": row["temperature"]}
                key, _ = model.question_key(row["stage"], 0, sampling, row["question"])
                record = model.journal.get(key)
                if record is None or was_cut_shorter(record, config.max_tokens):
                    again.append(row["number"])
            model.journal.file.close()
    return again


# --------------------------------------------------------------------------------------------------
# 8. Write one seed task that is fit, and one that breaks a rule.


def check_seed_task(folder: Path) -> Verdict:
    """Let scripts/check_seeds.py judge the good task, and the workshop's rules the bad one."""
    answer = read_json(folder / "8_seed_task" / "answer.json")
    for name in ("good", "bad"):
        problem = shape_problem(answer.get(name))
        if problem:
            return wrong("8.shape", name=name, problem=problem)
    good = answer["good"]
    bad = answer["bad"]
    errors = seed_errors(good)
    if errors:
        return wrong("8.errors", problem=one_line(errors[0], 160))

    # A seed task of one's own is unlike those that are there.
    pool = InstructionPool()
    for path in DEFAULT_SEEDS.values():
        for task in load_seed_tasks(path):
            pool.add(task.instruction)
    nearest, score = pool.nearest(good["instruction"], 1)[0]
    if score > check_seeds.COPY:
        return wrong("8.copy", score=f"{score:.2f}", nearest=one_line(nearest, 80))

    # The bad one: it breaks a rule, and the pupil knows which.
    pool.add(good["instruction"])
    broken = broken_rules(bad, pool)
    rule = one_line(str(answer.get("rule")), 40)
    slots = {"rule": rule, "count": len(broken)}
    if not broken:
        return wrong("8.fine", **slots)
    if rule not in broken:
        return wrong("8.other_rule", **slots)
    return right("8.right", **slots)


def shape_problem(task: Any) -> str:
    """What is missing for a task to be one, "" if nothing: told in words that stand in the file."""
    if not isinstance(task, dict):
        return "{...}"
    if not isinstance(task.get("instruction"), str):
        return '"instruction": "..."'
    if not isinstance(task.get("is_classification"), bool):
        return '"is_classification": true / false'
    pairs = task.get("instances")
    if not isinstance(pairs, list) or not pairs:
        return '"instances": [...]'
    for pair in pairs:
        texts = [pair.get("input"), pair.get("output")] if isinstance(pair, dict) else [None]
        if not all(isinstance(text, str) for text in texts):
            return '{"input": "...", "output": "..."}'
    return ""


def seed_errors(task: dict[str, Any]) -> list[str]:
    """What scripts/check_seeds.py has against a file with this one task."""
    with tempfile.TemporaryDirectory() as work:
        path = Path(work) / "seed.jsonl"
        path.write_text(json.dumps(task) + "\n", encoding="utf-8")
        try:
            rows, errors = check_seeds.read(path)
        except WorkshopError as error:
            return [str(error).replace(str(path), path.name)]
    _, _, found = check_seeds.check(rows, near=0.6)
    return [problem for _, problem in errors + found]


def broken_rules(task: dict[str, Any], pool: InstructionPool) -> set[str]:
    """All rules of stages 1 and 4 that turn a task, or an instance of it, away."""
    instruction = task["instruction"].strip()
    rules = {instruction_problem(instruction)}
    if pool.nearest(instruction, 1)[0][1] > check_seeds.COPY:
        rules.add("too_similar")
    pairs = [(pair["input"], pair["output"]) for pair in task["instances"]]
    _, rejected = filter_instances(instruction, pairs)
    rules |= {rule for _, _, rule in rejected}
    return rules - {""}


# --------------------------------------------------------------------------------------------------
# 9. A prompt for stage 2. Here only its form is checked; lesson/checking/scoring.py asks a model.

SLOT = "{instruction}"


def read_prompt(folder: Path, language: str = "en") -> str:
    """The pupil's prompt. Raises AnswerError where it cannot be sent."""
    path = folder / "9_prompt" / "answer.txt"
    text = read_text(path).strip()
    if TODO in text:
        raise AnswerError("file.not_begun", NOT_BEGUN, file=path.name)
    if text.count(SLOT) != 1:
        raise AnswerError("9.slot", slot=SLOT, count=text.count(SLOT))
    folded = " ".join(text.split()).casefold()
    for task in load_seed_tasks(DEFAULT_SEEDS[language]):
        if " ".join(task.instruction.split()).casefold() in folded:
            raise AnswerError("9.copied", task=one_line(task.instruction, 60))
    return text


def check_prompt(folder: Path) -> Verdict:
    """Whether the prompt can be sent. That alone does not make it right."""
    read_prompt(folder)
    return wrong("9.needs_server")


CHECKS: list[Callable[[Path], Verdict]] = [
    check_rouge_l,
    check_survivors,
    check_threshold,
    check_parser,
    check_capitalize,
    check_labels,
    check_journal,
    check_seed_task,
    check_prompt,
]
