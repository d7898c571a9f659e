"""Self-Instruct in one file: grow a few seed tasks into an instruction dataset.

The method is that of Wang et al., https://arxiv.org/abs/2212.10560.

                     .------ what is new joins the pool ------.
                     v                                        |
    seed tasks -> 1 generate instructions -> like another? -> out
                     |
                     '-> 2 classification or not
                           -> 3 generate instances
                                -> 4 filter and dedupe -> dataset

    python self_instruct_workshop.py              the whole workshop, without a key: seconds
    python self_instruct.py --provider openai     the same with a real model: minutes, and cents

Vocabulary, as in the paper:
    instruction   what to do, in words: "Sort these words by length."
    instance      one worked example of an instruction: an input (may be empty) and its output
    task          an instruction with its instances
    seed task     a task that people wrote
    machine task  a task that the model wrote
    pool          every instruction so far, seed and machine
    novel         unlike every instruction of the pool: ROUGE-L is at most 0.7
    input-first   an instance is written as input, then output
    output-first  the label is written first, then an input for it; used for classification

Map: the lesson, lines 1-636: settings, Task, the whole workshop, stage 1, similarity, stages 2-4;
the machine room, lines 637-2808: reading what chat models write, checking settings, seed tasks,
files, asking, providers, practice, the recipe `paper`, what is shown, the program.
"""

from __future__ import annotations

import json
import math
import os
import random
import re
import shlex
import signal
import string
import sys
import threading
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache, partial
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from statistics import fmean
from typing import Any

__version__ = "0.1.0"
DATA = Path(__file__).resolve().parent / "data"
STAGES = ("generate", "classify", "instances", "filter")
Pairs = list[tuple[str, str]]  # (input, output) of instances

# --------------------------------------------------------------------------------------------------
# Settings. Each number stands here once; the command line and run.json are made from these lines.


def setting(default: Any, help: str, low: float = -math.inf, high: float = math.inf) -> Any:
    """A field of Config with its help text and its bounds (both ends allowed)."""
    return field(default=default, metadata={"help": help, "low": low, "high": high})


@dataclass
class Config:
    """All settings of a run. Raises UsageError for a value out of bounds."""

    # What it costs: about 2.2 requests for each instruction, each reply at most max_tokens long.
    num_instructions: int = setting(100, "machine tasks to make (the paper made 52,445)", 1)
    max_tokens: int = setting(512, "longest reply, in tokens; what is cut off there is lost", 1)
    instances_per_instruction: int = setting(1, "instances asked for per task", 1, 5)
    # Who answers.
    provider: str = setting("", "who answers; default: the first whose key is set, else practice")
    model: str = setting("", "model name; default: the provider's")
    base_url: str = setting("", "address of the server; default: the provider's")
    responses: str = setting("", "the journal that --provider replay answers from")
    temperature: float = setting(0.7, "sampling temperature; 0 in stage 2 (paper: 0.7, 0, 0)", 0, 2)
    # What goes in, and where it comes out.
    seed_file: str = setting("", "seed tasks, as .jsonl, .json or .txt; default: this project's")
    language: str = setting("en", "language of the prompts and of the default seed tasks")
    work_dir: str = setting(str(DATA / "workshop"), "folder for everything a run writes")
    output_path: str = setting("", "write the final dataset to this file as well")
    until: str = setting("filter", "stop after this stage; the next call goes on")
    # How stage 1 looks for new tasks.
    rouge_threshold: float = setting(0.7, "highest ROUGE-L with any other instruction", 0, 1)
    tasks_shown: int = setting(8, "tasks shown in a prompt (paper: 8)", 1, 50)
    machine_tasks_shown: int = setting(2, "machine tasks among them, at most (paper: 2)", 0, 50)
    tasks_asked: int = setting(8, "new tasks asked for in a prompt (paper: about 8)", 1, 50)
    classification_every: int = setting(4, "every n-th prompt asks for classification; 0: none", 0)
    patience: int = setting(10, "requests in a row without anything new that end stage 1", 1)
    seed: int = setting(42, "random seed: which tasks a prompt shows, what the practice model says")
    # How requests are sent.
    concurrency: int = setting(8, "requests in flight: changes how fast, never what", 1, 256)
    max_attempts: int = setting(6, "times a request is sent before its task is left undone", 1)
    request_timeout: float = setting(60.0, "seconds of silence that end a request", 0.1, 86400)
    deadline: float = setting(300.0, "seconds for a request with all its retries", 0.1, 86400)
    first_wait: float = setting(0.5, "seconds before the first retry; doubles up to 30", 0, 30)
    recipe: str = setting("modern", "prompts and rules; paper: those of the official code")

    def __post_init__(self) -> None:
        check_settings(self)


# --------------------------------------------------------------------------------------------------
# A task: the record that the workshop reads, grows and writes (the schema of the official seeds).


@dataclass
class Task:
    """An instruction with its instances. Every stage fills in one more field."""

    id: str
    instruction: str
    is_classification: bool | None = None  # None: not asked yet, or the answer could not be read
    instances: list[dict[str, str]] = field(default_factory=list)  # {"input": str, "output": str}
    notes: dict[str, dict] = field(default_factory=dict)  # stage -> what else its step file says


# --------------------------------------------------------------------------------------------------
# The whole workshop.


def run(config: Config, say: Callable = print, model_class: Callable | None = None) -> dict:
    """Do the four stages in turn; return the summary that run.json holds.

    The same call goes on where an earlier one stopped: the journal has what was paid for.
    `model_class` may watch over what is sent. Raises WorkshopError for what the user can put right.
    """
    seed_tasks = load_seed_tasks(config.seed_file or DEFAULT_SEEDS[config.language])
    results = Results(seed_tasks=len(seed_tasks))
    # The model holds the journal, and a lock on the folder as long as the run goes on.
    with (model_class or Model)(config) as model:
        say(greeting(config, model, results))
        remove_views(config)
        tasks = seed_tasks
        try:
            # Each stage takes the tasks of the one before, and returns those that go on.
            for stage in STAGES[: STAGES.index(config.until) + 1]:
                say("\n" + TITLES[stage])
                tasks = run_stage(stage, config, model, tasks, results)
                say("\n".join(examples(stage, results)))
            results.status = "complete" if stage == "filter" else f"stopped after {stage}"
        finally:
            # After Ctrl-C and after an error too: what is there by then is written down.
            summary = write_summary(config, model, results)
    say(funnel(config, summary))
    return summary


# --------------------------------------------------------------------------------------------------
# Stage 1, generate instructions (paper, section 2.2): show eight tasks, ask for new ones, keep
# those that are fit and novel.

GENERATE_PROMPT = {  # other languages: data/prompts.jsonl
    "header": """\
Come up with {asked} new {kind} for a language model that reads and writes nothing but text.
- Make them differ from each other and from the tasks below: other verbs, other topics, \
other kinds of work.
- {hint}
- A task must be clear on its own. Leave out whatever needs pictures, sound, files or the web.
- Write one task on each line, go on with the numbering, and write nothing else.
""",
    # What most prompts ask for, and what every fourth prompt asks for: [kind, hint].
    "kinds": [
        [
            "tasks",
            "Mix commands and questions, everyday and expert subjects, shorter and longer ones.",
        ],
        [
            "classification tasks",
            "Each is answered by one label of a small set; name all the labels in the task.",
        ],
    ],
}


def generate_instructions(
    config: Config, model: Model, seed_tasks: list[Task], results: Results | None = None
) -> list[Task]:
    """Stage 1: return at most `num_instructions` machine tasks, fewer when patience is used up.

    A prompt ends with the next number, and the reply goes on behind it:

        7. Name the capital of the country.
        8. Turn the recipe into a shopping list.
        9.

    >>> reply = " Count the vowels in the word.\\n10. Name the capital city of the country."
    >>> candidates = parse_instructions(reply, first=9)
    >>> candidates
    ['Count the vowels in the word.', 'Name the capital city of the country.']

    The first candidate is novel (0.33). The second is rejected by the rule too_similar (0.92).

    >>> pool = InstructionPool()
    >>> pool.add("Name the capital of the country.")
    >>> pool.similarities(candidates).round(2).tolist()
    [[0.33], [0.92]]
    """
    if not seed_tasks:
        raise WorkshopError("stage 1 needs at least one seed task")
    results = results or Results()
    results.begin("generate")
    # The pool begins with the seed tasks.
    pool = InstructionPool(config.recipe)
    for task in seed_tasks:
        pool.add(task.instruction)
    shape = question_shape(config, seed_tasks)

    def ask(request: tuple[int, str]) -> Reply:
        request_idx, prompt = request
        question = shape | {"request_idx": request_idx}
        return model.ask("generate", prompt, parameters(config, "generate"), question)

    # Requests go out in rounds: each prompt shows tasks of the pool as it stands by then.
    request_idx = 0
    dry = 0  # requests in a row that brought nothing new
    with progress(model, "1 generate", config.num_instructions) as bar:
        while len(results.tasks) < config.num_instructions and dry < config.patience:
            ahead = requests_ahead(config, len(results.tasks), dry)
            numbers = range(request_idx, request_idx + ahead)
            requests = [
                (i, instruction_prompt(config, seed_tasks, results.tasks, i)) for i in numbers
            ]
            # Replies are taken in the order of the requests, so --concurrency changes nothing.
            for (i, _), reply in model.ask_each("generate", ask, requests):
                new = take_candidates(config, pool, reply, i, results) if reply else 0
                request_idx = i + 1
                dry = 0 if new else dry + 1
                results.novelty.append(new)
                show_novelty(bar, results.novelty)
    return results.tasks


def instruction_prompt(
    config: Config, seed_tasks: list[Task], accepted: list[Task], request_idx: int
) -> str:
    """The prompt: what is asked, tasks in a shuffled list, and the next number without a task."""
    rng = random.Random(f"{config.seed}/{request_idx}")
    # Every n-th prompt asks for classification tasks and shows only such seeds.
    every = config.classification_every
    labelled = every > 0 and request_idx % every == every - 1
    seeds = seed_tasks
    if labelled:
        seeds = [task for task in seed_tasks if task.is_classification] or seed_tasks

    # Show a few machine tasks (paper: 2 of 8), and fill up with seed tasks.
    machine = min(config.machine_tasks_shown, config.tasks_shown, len(accepted))
    shown = rng.sample(accepted, machine)
    shown += rng.sample(seeds, min(config.tasks_shown - len(shown), len(seeds)))
    rng.shuffle(shown)

    # The words stand in GENERATE_PROMPT, or in data/ for another language or recipe.
    words = wording(config, "generate", GENERATE_PROMPT)
    kind, hint = words["kinds"][labelled]
    lines = [words["header"].format(asked=config.tasks_asked, kind=kind, hint=hint)]
    for number, task in enumerate(shown, 1):
        text = " ".join(task.instruction.split())
        lines.append(f"{number}. {text.rstrip(RECIPES[config.recipe].colons)}")
    return "\n".join([*lines, f"{len(lines)}."])


def take_candidates(
    config: Config, pool: InstructionPool, reply: Reply, request_idx: int, results: Results
) -> int:
    """Accept or reject each candidate of a reply, in order; return how many were accepted."""
    # Of a reply that was cut at max_tokens, the last candidate is lost.
    before = len(results.tasks)
    recipe = RECIPES[config.recipe]
    first = dangling_number(reply.prompt)
    found = recipe.read_instructions(reply.text, False, first)
    whole = recipe.read_instructions(reply.text, True, first) if reply.cut else found
    results.reject("generate", "cut_off", *found[len(whole) :])

    # The first rule that a candidate breaks turns it away: too_short, refusal, small_talk...
    # A candidate that keeps all rules and is novel joins the pool.
    limit = recipe.highest_score(config.rouge_threshold)
    shown = set(reply.prompt.split("\n"))
    for candidate, scores in in_blocks(pool, whole):
        rule = recipe.instruction_problem(candidate) or recipe.echo_problem(candidate, shown)
        if rule:
            results.reject("generate", rule, candidate)
        elif scores.max() > limit:
            results.reject("generate", "too_similar", candidate, why=pool.top(scores, 1)[0])
        elif len(results.tasks) >= config.num_instructions:
            results.reject("generate", "not_needed", candidate)
        else:
            notes = candidate_notes(reply, request_idx, pool.top(scores), scores.mean())
            pool.add(candidate)
            number = len(results.tasks)
            task = Task(f"machine_task_{number}", candidate, notes={"generate": notes})
            results.tasks.append(task)
    return len(results.tasks) - before


# --------------------------------------------------------------------------------------------------
# Similarity (paper, section 2.2): a candidate is novel when its ROUGE-L with every instruction of
# the pool is at most 0.7.


def rouge_l(a: list[str], b: list[str]) -> float:
    """ROUGE-L F1 of two token lists, from 0 to 1: the share of tokens in common, in order.

    The longest common subsequence of the two lists below is "name the city": 3 tokens of 4 and
    of 5. So the score is 2 * 3 / (4 + 5).

    >>> round(rouge_l("name the big city".split(), "name the city by night".split()), 3)
    0.667
    """
    # lengths[j]: longest common subsequence of the tokens of a so far and the first j of b
    lengths = [0] * (len(b) + 1)
    # Each further token of a may make the subsequences longer.
    for token in a:
        before = lengths[:]
        for j, other in enumerate(b):
            if token == other:
                lengths[j + 1] = before[j] + 1
            else:
                lengths[j + 1] = max(before[j + 1], lengths[j])
    return 2 * lengths[-1] / (len(a) + len(b)) if lengths[-1] else 0.0


def tokenize(text: str, *, recipe: str = "modern") -> list[str]:
    """Split text into the tokens that ROUGE-L compares.

    ASCII text is split as rouge_score does it, which sees no other letters. Elsewhere a Chinese
    or Thai character is a token, and so is a run of other letters, digits and marks.

    >>> tokenize("用SQL查询")
    ['用', 'sql', '查', '询']
    """
    return RECIPES[recipe].tokenize(text)


class InstructionPool:
    """All instructions so far, ready to be compared with blocks of candidates.

    `similarities` gives the numbers of `rouge_l`, some thousand times faster: each token is coded
    as one character, and rapidfuzz compares the strings.
    """

    def __init__(self, recipe: str = "modern") -> None:
        self.recipe = recipe
        self.instructions: list[str] = []
        self.coded: list[str] = []  # each instruction with one character for a token
        self.codes: dict[str, str] = {}  # token -> its character

    def __len__(self) -> int:
        return len(self.instructions)

    def add(self, instruction: str) -> None:
        self.instructions.append(instruction)
        self.coded.append(self.code(instruction))

    def code(self, text: str) -> str:
        tokens = tokenize(text, recipe=self.recipe)
        return "".join(character_for(token, self.codes) for token in tokens)

    def similarities(self, candidates: list[str]) -> Any:
        """ROUGE-L of all pairs: a float64 array of shape (len(candidates), len(pool))."""
        return self.scores([self.code(text) for text in candidates], self.coded)

    def scores(self, candidates: list[str], pool: list[str]) -> Any:
        return RECIPES[self.recipe].scores(candidates, pool)

    def nearest(self, instruction: str, k: int = 10) -> list[tuple[str, float]]:
        """The k most similar instructions with their scores; of equal ones, the older first."""
        return self.top(self.similarities([instruction])[0], k)

    def top(self, scores: Any, k: int = 10) -> list[tuple[str, float]]:
        return [(self.instructions[i], float(scores[i])) for i in highest(scores, k)]


# --------------------------------------------------------------------------------------------------
# Stage 2, which are classification tasks? (paper, section 2.2) The answer decides how stage 3 asks.

CLASSIFY_PROMPT = {
    "header": """\
A classification task is answered by one label out of a small, known set of labels.
Say of the last task below whether it is one. Answer with one word, Yes or No.""",
    "task": "Task:",
    "question": "Is it a classification task?",
    "answers": ["No", "Yes"],
}


def classify_instructions(
    config: Config, model: Model, tasks: list[Task], results: Results | None = None
) -> list[Task]:
    """Stage 2: set `is_classification` of every task; return the tasks that got an answer.

    An answer that cannot be read is asked for once more, then it stays None (unknown).
    The end of the prompt, and two replies to it:

        Task:
        Is the review positive or negative?
        Is it a classification task?

    >>> parse_classification("**Yes.** The answer is one of two labels.")
    True
    >>> print(parse_classification("Please give me the review."))
    None
    """
    # Stage 2 takes the likeliest answer: temperature 0.
    results = results or Results(tasks=tasks)
    sampling = parameters(config, "classify")
    read = RECIPES[config.recipe].read_classification

    def readable(text: str) -> bool:
        return read(text) is not None

    def ask(task: Task) -> Reply:
        question = classify_question(config, task)
        return model.ask("classify", question["prompt"], sampling, question, readable)

    # A request that failed for good has no reply: its task goes no further in this run.
    replies = model.ask_each("classify", ask, tasks)
    for task, reply in progress(model, "2 classify", len(tasks), replies):
        if reply:
            task.is_classification = read(reply.text)
            when = {"created_at": reply.created_at}
            task.notes["classify"] = {"response": reply.text, "metadata": when}
    return [task for task in tasks if "classify" in task.notes]


def classify_prompt(config: Config, instruction: str) -> str:
    """What is asked, worked examples, then the task. The part that never changes stands first."""
    # Each example stands with its question and its answer.
    words = wording(config, "classify", CLASSIFY_PROMPT)
    blocks = [words["header"]]
    for shot in words["shots"]:
        answer = words["answers"][shot["is_classification"]]
        lines = [words["task"], shot["instruction"], f"{words['question']} {answer}"]
        blocks.append("\n".join(lines))
    blocks.append("\n".join([words["task"], instruction, words["question"]]))
    return "\n\n".join(blocks)


# --------------------------------------------------------------------------------------------------
# Stage 3, generate instances (paper, section 2.2): the input first; for classification the label
# first, or the inputs mostly have the same label.

INSTANCE_PROMPT = {
    "header": [  # input-first, output-first
        """\
Write worked examples of the last task below, {count} in number: an input that it could be given, \
and the complete, correct output.
Begin them with `Input:` and `Output:`, and write nothing else. If the task needs no input, \
leave it empty.""",
        """\
Write worked examples of the last classification task below, {count} in number: first the label, \
then an input that has it.
Begin them with `Class label:` and `Input:`, and write nothing else. \
Take another label each time.""",
    ],
    "start": [
        "Begin with the label that is named first.",
        "Begin with the label that is named last.",
    ],
    "task": "Task:",
    "fields": ["Input:", "Output:", "Class label:"],
}


def generate_instances(
    config: Config, model: Model, tasks: list[Task], results: Results | None = None
) -> list[Task]:
    """Stage 3: fill in `instances`; return the tasks that got at least one.

    The end of a prompt, and a reply, which is read at the names of its fields:

        Task:
        Add the two numbers.

    >>> parse_instances("Input: 2 and 3\\nOutput: 5", False)
    [('2 and 3', '5')]
    >>> parse_instances("Class label: negative\\nInput: Too salty.", True)
    [('Too salty.', 'negative')]
    >>> parse_instances("I hope this helps!", False)  # rejected by the rule no_instance
    []
    """
    results = results or Results(tasks=tasks)
    results.begin("instances")

    def ask(task: Task) -> Reply:
        labelled = bool(task.is_classification)
        prompt = instances_prompt(config, task.instruction, labelled)
        question = {"instruction": task.instruction, "sample": 0, "prompt": prompt}
        return model.ask("instances", prompt, parameters(config, "instances", labelled), question)

    replies = model.ask_each("instances", ask, tasks)
    for task, reply in progress(model, "3 instances", len(tasks), replies):
        if reply:
            take_instances(config, task, reply, results)
    return [task for task in tasks if task.instances]


def instances_prompt(config: Config, instruction: str, labelled: bool) -> str:
    """What is asked, worked examples, then the task."""
    # The worked examples are of the same kind as the task: classification or not.
    words = wording(config, "instances", INSTANCE_PROMPT)
    recipe = RECIPES[config.recipe]
    blocks = [words["header"][labelled].format(count=config.instances_per_instruction)]
    for shot in words["shots"]:
        if shot["is_classification"] == labelled and shot["instances"]:
            blocks.append(shot_text(shot, words, recipe))

    # Which label comes first alternates from task to task, so that labels come out even.
    lines = [words["task"], instruction]
    start = words["start"][sha256(instruction.encode()).digest()[0] % 2]
    if labelled and start:
        lines.append(start)
    return "\n\n".join([*blocks, "\n".join(lines)]) + recipe.prompt_end


def take_instances(config: Config, task: Task, reply: Reply, results: Results) -> None:
    """Fill in the instances of a reply; reject what was cut off, or a reply without any."""
    # Of a reply that was cut at max_tokens, the last instance is lost.
    labelled = bool(task.is_classification)
    read = RECIPES[config.recipe].read_instances
    found = read(reply.text, labelled, False)
    whole = read(reply.text, labelled, True) if reply.cut else found
    for pair in found[len(whole) :]:
        results.reject("instances", "cut_off", task.instruction, pair=pair)
    if not whole:
        results.reject("instances", "no_instance", task.instruction, pair=(None, reply.text))

    # The step file shows the raw reply beside what was made of it.
    task.instances = [{"input": source, "output": target} for source, target in whole]
    when = {"finish_reason": reply.finish_reason, "created_at": reply.created_at}
    task.notes["instances"] = {"response": reply.text, "metadata": when}


# --------------------------------------------------------------------------------------------------
# Stage 4, filter and dedupe (paper, section 2.2, "Filtering and Postprocessing"). Asks nothing.


def filter_and_dedupe(
    config: Config, model: Model | None, tasks: list[Task], results: Results | None = None
) -> list[dict]:
    """Stage 4: return the dataset, rows of exactly instruction, input and output.

    At most 5 instances of a task are kept, as in the paper, drawn by `--seed`. `model` is not used.

    >>> task = Task("1", "Add the numbers.", instances=[{"input": "2, 3", "output": "5"}] * 2)
    >>> filter_and_dedupe(Config(), None, [task])  # the second one is rejected by `duplicate`
    [{'instruction': 'Add the numbers.', 'input': '2, 3', 'output': '5'}]
    """
    results = results or Results(tasks=tasks)
    results.begin("filter")
    same = RECIPES[config.recipe].same_instance
    seen = set()
    # Two tasks may have the same instruction and input: the first one stays.
    for task in tasks:
        pairs = [(instance["input"], instance["output"]) for instance in task.instances]
        kept, rejected = filter_instances(task.instruction, pairs, recipe=config.recipe)

        # Of more than 5 good instances a random 5 stay.
        rng = random.Random(f"{config.seed}/{task.instruction}")
        chosen = rng.sample(range(len(kept)), min(5, len(kept)))
        for i, (source, target) in enumerate(kept):
            key = (task.instruction, *same(source, target))
            if i not in chosen:
                rejected.append((source, target, "over_five"))
            elif key in seen:
                rejected.append((source, target, "duplicate"))
            else:
                seen.add(key)
                row = {"instruction": task.instruction, "input": source, "output": target}
                results.dataset.append(row)
        for source, target, rule in rejected:
            results.reject("filter", rule, task.instruction, pair=(source, target))
    return results.dataset


def filter_instances(
    instruction: str, instances: Pairs, *, recipe: str = "modern"
) -> tuple[Pairs, list[tuple[str, str, str]]]:
    """Sort the instances of one task into kept (input, output) and rejected (..., rule).

    >>> filter_instances("Give the colour.", [("grass", "green"), ("coal", "")])
    ([('grass', 'green')], [('coal', '', 'empty_output')])
    """
    rules = RECIPES[recipe]
    # First each instance by itself.
    judged = []
    for given, target in instances:
        source = rules.tidy_input(instruction, given)
        judged.append((source, target, rules.instance_problem(instruction, source, target)))

    # One input with two different outputs: nobody can tell which of them is right.
    good = {(source, target) for source, target, rule in judged if not rule}
    outputs = Counter(source for source, _ in good)
    clash = {source for source, n in outputs.items() if source and n > 1}

    # Then each beside the others: a second one with the same input is a duplicate.
    kept: dict[tuple, tuple[str, str]] = {}
    rejected = []
    for source, target, rule in judged:
        if not rule and (source in clash or (clash and rules.clash_spoils_all)):
            rule = "conflicting_outputs"
        if not rule and rules.same_instance(source, target) in kept:
            rule = "duplicate"
        if rule:
            rejected.append((source, target, rule))
        else:
            kept[rules.same_instance(source, target)] = (source, target)
    return list(kept.values()), rejected


def modern_instance_problem(instruction: str, source: str, target: str) -> str:
    """Name the rule that an instance breaks by itself, "" if none. One character is an answer."""
    # Line ends and double spaces make no difference.
    given = " ".join(source.split())
    answer = " ".join(target.split())
    rules = {
        "empty_output": not answer,
        "output_equals_input": source.strip() == target.strip(),
        "copy_of_instruction": answer.casefold() == " ".join(instruction.split()).casefold(),
        "unfinished": given.endswith((":", "：")) or answer.endswith((":", "：")),
        "placeholder": breaks("placeholder", answer),  # "...", "[your answer here]"
        "refusal": breaks("refusal", target),  # "I'm sorry, I cannot ..."
    }
    return next((rule for rule, broken in rules.items() if broken), "")


# ==================================================================================================
# PART II, THE MACHINE ROOM. What the lesson stands on. A class need not read it; whoever trusts the
# program with 50,000 paid requests should.
# ==================================================================================================

# --------------------------------------------------------------------------------------------------
# Reading what chat models write: numbers in many styles, titles, bold, thinking, closing remarks.

MARKER = re.compile(  # the number of a task in a list
    r"""(?imx)
    ^([ \t]*)                       # group 1: how far in it stands
    (?:[-*\#>]+[ ]+)?               # "### 9. ", "- 9. "
    [*_]{0,2}                       # "**9.** "
    (?:(?:task|instruction|question|任务|指令|题目|第)[ ]?)?  # "Task 9: ", "第9题"
    [(（]?(\d{1,3})                 # group 2: the number; "（9）"
    (?:\\?
        (?:[.:](?!\d)               # "9. ", "9: "; not "3.5", not "10:30"
        |[)）．、：题])             # "9) ", "９．", "9、"
    |[*_]{2}[ ]?[.:：)])            # "**9**. "
    [.:：]?[*_]{0,2}[ \t]*
    """
)
COLON = re.compile(r"\s*+[^\n]*[:：]\s*")  # a line that ends in a colon
BULLET = re.compile(r"(?m)^ {0,2}[-*•·] +")
LABEL = r"(?:input|output|answer|class label|输入|输出|答案|类别标签)"
ANSWER = re.compile(  # an answer glued to an instruction
    rf"""(?imx)
    ^[^\w\n]*{LABEL.replace(" ", "[ ]")}[^\w\n]*[:：]                           # "**Input:** ..."
    |(?<=[.?!。？！])[ ]*input[ ]*[:：].{{0,500}}?\boutput[ ]*[:：]  # "... Input: 2 Output: 4"
    """
)
BOLD = re.compile(r"(?<![\w*])\*\*(?=\S)([^*\n]+)(?<=\S)\*\*(?![\w*])")
TITLE = re.compile(  # a name that stands before the task itself
    r"""(?ix)\A(?:
    \*\*[^*\n]{1,60}[:：]\*\*\s*                                          # "**Rivers:** Name..."
    |\*\*[^*\n]{0,60}[^*\n.?!。？！]\*\*\s*(?:[:：–—-]|\n)\s*   # "**Rivers** - Name..."
    |(?:task|instruction|任务|指令)\s*[:：]\s*                            # "Task: Name..."
    )(?=\S)
    """
)
OPENING_MARKS = "\"'`“”‘„«「『《【（([<¿¡$€£¥√#@."  # with these an instruction may begin
RULES = ("small_talk", "refusal", "needs_more_than_text", "unfinished")


def breaks(rule: str, text: str) -> bool:
    """Whether one of the rule's patterns in data/patterns.jsonl finds something in the text."""
    return bool(patterns(rule).search(text))


@cache
def patterns(rule: str) -> re.Pattern:
    """All patterns of a rule as one. data/patterns.jsonl has each with examples."""
    rows = [row for row in read_data("patterns") if row["rule"] == rule]
    return re.compile("|".join(f"(?:{row['pattern']})" for row in rows), re.I)


def without_thinking(reply: str) -> str:
    """The reply less the <think>...</think> before it, also where one of the marks is missing."""
    reply = reply.replace("\r", "")
    thinking = r"\A(?:\s*<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z))+"
    reply = re.sub(thinking, "", reply, flags=re.S)
    if "<think" in reply:
        return reply
    return re.split(r"</think(?:ing)?>", reply)[-1]


def parse_instructions(
    reply: str, *, truncated: bool = False, recipe: str = "modern", first: int = 9
) -> list[str]:
    """Read the numbered tasks out of a stage-1 reply; a truncated one loses its last.

    `first` is the number at which the prompt broke off.

    >>> parse_instructions("Sure!\\n1. Add 2 and 3.\\n2. **Spell it.**")
    ['Add 2 and 3.', 'Spell it.']
    """
    return RECIPES[recipe].read_instructions(reply, truncated, first)


def parse_classification(reply: str, *, recipe: str = "modern") -> bool | None:
    """Read Yes or No out of a stage-2 reply; None: could not tell. "是的，…" is a Yes."""
    return RECIPES[recipe].read_classification(reply)


def parse_instances(
    reply: str, is_classification: bool, *, truncated: bool = False, recipe: str = "modern"
) -> Pairs:
    """Read (input, output) pairs out of a stage-3 reply; a truncated one loses its last."""
    return RECIPES[recipe].read_instances(reply, is_classification, truncated)


def instruction_problem(text: str, *, recipe: str = "modern") -> str:
    """Name the rule that a candidate breaks, "" if it is fine. (The pool judges novelty.)

    >>> instruction_problem("Draw a cat that sleeps on a roof.")
    'needs_more_than_text'
    """
    return RECIPES[recipe].instruction_problem(text)


def modern_instructions(reply: str, truncated: bool, first: int) -> list[str]:
    """The tasks of a numbered list, of a bullet list, or of lines."""
    reply = without_thinking(reply)
    marks = list_marks(reply)
    items = numbered_items(reply, marks, first) if marks else unnumbered_items(reply)
    if truncated:
        items = items[:-1]
    return [text for text in map(cache(tidy_instruction), items) if text]


def list_marks(reply: str) -> list[re.Match]:
    """The numbers of a list, without those of a second list inside one of its items."""
    marks: list[re.Match] = []
    inner = 0  # the last number of the list inside the present item; 0: there is none
    for mark in MARKER.finditer(reply):
        if marks and belongs_inside(reply, marks, mark, inner):
            inner = int(mark[2]) or 1000
        else:
            marks.append(mark)
            inner = 0
    return marks


def belongs_inside(reply: str, marks: list[re.Match], mark: re.Match, inner: int) -> bool:
    """Whether a number belongs to a list inside the last item, and is no new item."""
    number = int(mark[2])
    if number == int(marks[-1][2]) + 1:
        return False
    # "9. Sort these steps:", and below it "1. Boil water": the inner list begins behind a colon.
    text_since = (marks[-1].end(), mark.start())
    begins = number == 1 and not inner and COLON.fullmatch(reply, *text_since)
    goes_on = inner and number == inner + 1
    further_in = len(mark[1]) > len(marks[0][1]) + 1
    return bool(begins or goes_on or further_in)


def numbered_items(reply: str, marks: list[re.Match], first: int) -> list[str]:
    """The texts between the numbers."""
    next_number = int(marks[-1][2]) + 1
    reply = re.sub(rf"\n{next_number}\s*\Z", "", reply)  # cut off in the next number
    ends = [mark.start() for mark in marks[1:]] + [len(reply)]
    items = [reply[mark.end() : end] for mark, end in zip(marks, ends, strict=True)]
    # What stands before the first number goes on behind the prompt's dangling one, if the list
    # continues with the number after that. Else it is small talk.
    if int(marks[0][2]) == first + 1:
        items.insert(0, reply[: marks[0].start()])
    return items


def unnumbered_items(reply: str) -> list[str]:
    """The texts of a bullet list, or else the lines."""
    import regex

    lines = [line for line in reply.split("\n") if not breaks("small_talk", line.strip())]
    reply = "\n".join(lines)
    bullets = BULLET.split(reply)[1:]
    # "Add these numbers:" and the numbers below it are one task.
    return bullets or regex.split(r"(?m)(?<!^.{15,}[:：])\n", reply)


def tidy_instruction(item: str) -> str:
    """One task on one line: without a title, markup, an answer glued to it, or closing remarks."""
    text = ANSWER.split(item, 1)[0].strip()
    text = TITLE.sub("", re.sub(r"\A[.)、]\s+", "", text))
    text = first_paragraph(text)

    # "Let me know if you want more!" is no part of the task.
    first, *others = text.split("\n")
    lines = [first, *(line for line in others if not breaks("small_talk", line.strip()))]
    text = BOLD.sub(lambda bold: bold[1], " ".join(" ".join(lines).split()))

    # Marks around the whole: **bold**, __underlined__, a rule below, quotation marks.
    text = re.sub(r"^\*\*|\*\*$|(?:^| )-{3,}$", "", text).strip()
    if text.startswith("__") and text.endswith("__") and " " in text[2:-2]:
        text = text[2:-2].strip()
    quoted = len(text) > 2 and text[0] + text[-1] in ('""', "“”", "「」")
    return text[1:-1].strip() if quoted and text[0] not in text[1:-1] else text


def first_paragraph(text: str) -> str:
    """A task up to its first blank line; a block of code belongs to it."""
    if text.count("```") > 1:
        return text[: text.rindex("```") + 3]
    paragraphs = re.split(r"\n\s*\n", text.replace("```", "").strip())
    # Behind a colon comes what the task is about.
    several = paragraphs[0].rstrip().endswith((":", "："))
    return "\n".join(paragraphs[: 2 if several else 1])


def modern_instruction_problem(text: str) -> str:
    """The rules of `modern`; those on words are patterns in data/patterns.jsonl."""
    tokens = tokenize(text)
    if not tokens:
        return "empty"
    if len(tokens) < 3:
        return "too_short"
    # 150 words as in the official code, which also drops everything of up to three words.
    if count_words(tokens) > 150:
        return "too_long"
    if not text[0].isalnum() and text[0] not in OPENING_MARKS:
        return "leading_punctuation"
    return next((rule for rule in RULES if breaks(rule, text)), "")


def classify_question(config: Config, task: Task) -> dict:
    """What the journal's key of this question is made of, beside the settings."""
    prompt = classify_prompt(config, task.instruction)
    return {"instruction": task.instruction, "sample": 0, "prompt": prompt}


def modern_classification(reply: str) -> bool | None:
    """Yes or No at the start, in the last line, or in a sentence; None: neither, or both."""
    text = without_thinking(reply)
    text = re.sub(r"```(?:json)?|[*_`\"'“”‘’{}\[\]]", "", text).strip().lower()
    if breaks("undecided", text):  # "Yes or No", as the question offers them
        return None
    last_line = text.rsplit("\n", 1)[-1]
    verdict = patterns("verdict")
    found = verdict.search(text) or verdict.search(last_line) or patterns("statement").search(text)
    return found["yes"] is not None if found else None


FIELD = re.compile(  # a field's name at the start of a line
    r"""(?ix)[ \t]*
    (?:[-*>][ \t]+                          # "- Input:"
      |\d+[.)、][ \t]*                      # "1. Input:"
      |(?:example|示例)[ ]?\d+[:：][ \t]*)?  # "Example 1: Input:"
    (?P<mark>\#+[ ]*|\*{1,2}|__)?           # "### Input", "**Input:**"
    (?:(?P<input>input|输入)
      |output|输出
      |(?P<label>(?:class[ _])?label|类别标签|标签|类别))
    [ \t]*+\d*                              # "Output 2:"
    (?:\*{1,2}|__)?[ \t]*
    (?:[:：](?:\*{1,2}|__)?[ \t]*           # a colon, or with a mark the end of the line
      |(?(mark)\Z|(?!)))
    """
)
EXAMPLE = (
    re.compile(  # the header of an example, on a line of its own: "Example 2", "**示例一**", "2."
        r"(?i)\W*(?:(?:example|instance|示例|例子|样例|例)[ \t]*+(?P<sure>[\d一二三四五])?|\d)\W*"
    )
)
NAMED = re.compile(r"\w+(?: \w+){0,2}[:：] *\S")  # "Word: happy", a field of an input


def modern_instances(reply: str, is_classification: bool, truncated: bool) -> Pairs:
    """The pairs of a reply, read at the names of its fields."""
    text = own_part(without_thinking(reply).strip())
    (_, lead), *found = split_fields(text, is_classification)
    examples = group_fields(found, is_classification)

    # Chat models now and then leave out the field's name before the first or the only text.
    names = {name for name, _ in found}
    if not is_classification and names <= {"example"}:
        examples = unnamed_examples(lead, [body for _, body in found if body])
    goes_on = "\n" not in lead and not breaks(
        "small_talk", lead
    )  # behind a dangling "Class label:"
    if is_classification and list(examples[0]) == ["input"] and goes_on:
        examples[0]["output"] = [lead]

    if truncated:
        examples = examples[:-1]
    return [as_pair(example) for example in examples if example]


def own_part(text: str) -> str:
    """The reply without the prompt, a task of the model's own, or a code block around it."""
    # The whole prompt again: what comes behind its last task?
    tasks = re.split(r"\n(?:Task|任务)[:：]", text)
    if len(tasks) > 3 and not any(map(FIELD.match, tasks[0].split("\n"))):
        text = tasks[-1].partition("\n")[2].strip()
    # The model went on with a task of its own.
    text = re.split(r"\n(?:Task|任务)[:：][ \t]*\n", text)[0]
    # The whole reply stands in a code block.
    if re.match(r"```\w*\n", text) and text.endswith("```") and text.count("```") == 2:
        text = text.split("\n", 1)[1][:-3]
    return text


def split_fields(text: str, labelled: bool) -> list[tuple[str, str]]:
    """Cut a reply at the names of its fields: (name, text) pairs.

    A name is "input", "output" or "example"; what stands before the first has the name "".
    """
    parts: list[tuple[str, list[str]]] = [("", [])]
    in_code = False
    lines = text.split("\n")
    for n, line in enumerate(lines):
        # Inside a block of code, "Output:" is code.
        found = None if in_code else FIELD.match(line)
        if found and (labelled or not found["label"]):
            parts.append(("input" if found["input"] else "output", []))
            line = line[found.end() :]
        elif not in_code and is_header(line, lines[n + 1 : n + 4]):
            parts.append(("example", []))
            line = ""
        parts[-1][1].append(line)
        if line.count("```") % 2 == 1 and (in_code or line.lstrip().startswith("```")):
            in_code = not in_code
    return [(name, without_closing("\n".join(body))) for name, body in parts]


def is_header(line: str, below: list[str]) -> bool:
    """Whether a line is the header of an example: "Example 2", or "2" with a field below it."""
    header = EXAMPLE.fullmatch(line)
    if not header:
        return False
    next_line = next(filter(str.strip, below), "")
    return bool(header["sure"] or FIELD.match(next_line))


def without_closing(text: str) -> str:
    """A field's text without a rule below it, or a last "Let me know if you need more!"."""
    text = re.sub(r"\n[ \t]*[-*]{3,}\Z", "", text.strip()).strip()
    head, _, tail = text.rpartition("\n\n")
    return head.rstrip() if head and breaks("small_talk", tail) else text


def group_fields(found: list[tuple[str, str]], labelled: bool) -> list[dict[str, list[str]]]:
    """Put fields together to examples: {"input": [its parts], "output": [text]}."""
    examples: list[dict[str, list[str]]] = [{}]
    for name, body in found:
        # "Input 1: ...", "Input 2: ...": one input in several parts.
        if name == "input" and "input" in examples[-1] and "output" not in examples[-1]:
            examples[-1]["input"].append(body)
            continue
        # A field that is there already, or a header, begins a new example.
        if name == "example" or name in examples[-1]:
            examples.append({})
        example = examples[-1]
        # A label is one line; what follows it is its input.
        if name == "output" and labelled and "\n" in body:
            body, rest = body.split("\n", 1)
            example.setdefault("input", [rest.strip()])
        if name != "example":
            example[name] = [body.strip()]
        elif body:
            example["input"] = [body.strip()]
    return examples


def unnamed_examples(lead: str, texts: list[str]) -> list[dict[str, list[str]]]:
    """Answers, or inputs, without the name of a field."""
    if not texts and "\n" in lead and not breaks("small_talk", lead):
        texts = [lead]
    name = "input" if any(map(NAMED.match, texts)) else "output"
    return [{name: [text]} for text in texts]


def as_pair(example: dict[str, list[str]]) -> tuple[str, str]:
    """(input, output) of an example; words that stand for "no input" are none."""
    source = "\n".join(filter(None, example.get("input", [])))
    target = "\n".join(filter(None, example.get("output", [])))
    return ("" if breaks("no_input", source) else source), target


def modern_echo_problem(candidate: str, prompt_lines: set[str]) -> str:
    """Whether a candidate is a line of the prompt itself, say "Write one task on each line..."."""
    return "prompt_echo" if {candidate, f"- {candidate}"} & prompt_lines else ""


def modern_input(instruction: str, source: str) -> str:
    """The input, or "" where it merely repeats the instruction."""
    asked = " ".join(instruction.split()).casefold()
    return "" if " ".join(source.split()).casefold() == asked else source


def count_words(tokens: list[str]) -> float:
    """How many words tokens are; two Chinese characters are one word."""
    characters = sum(len(token) == 1 and not token.isascii() for token in tokens)
    return len(tokens) - characters / 2


# --------------------------------------------------------------------------------------------------
# Similarity at speed. ROUGE-L F1 is rapidfuzz's normalized Indel similarity of the two strings in
# which each token is one character: 2 * LCS / (m + n). It takes blocks, over 1,000 times faster.


def modern_tokenize(text: str) -> list[str]:
    """ASCII as rouge_score does it; elsewhere single characters of scripts without spaces."""
    if text.isascii():
        return rouge_tokenize(text)
    return token_pattern().findall(unicodedata.normalize("NFKC", text).lower())


def rouge_tokenize(text: str) -> list[str]:
    """rouge_score's own tokens; the import is light, that of its scorer is not."""
    from rouge_score.tokenize import tokenize

    return tokenize(text, None)


@cache
def token_pattern() -> Any:
    """A single character of a script without spaces, or a run of other letters and digits."""
    import regex

    scripts = "Han Hiragana Katakana Bopomofo Hangul Thai Lao Khmer Myanmar"
    single = "".join(rf"\p{{{script}}}" for script in scripts.split())
    letters = r"[\p{L}\p{M}\p{N}]"
    return regex.compile(rf"(?V1)[[{single}]&&{letters}]|[{letters}--[{single}]]+")


def character_for(token: str, codes: dict[str, str]) -> str:
    """The character that stands for a token; a new token gets the next free one."""
    number = len(codes)
    if number >= 0xD800:
        number += 0x800  # surrogates are no characters
    return codes.setdefault(token, chr(number))


def modern_scores(candidates: list[str], pool: list[str]) -> Any:
    """ROUGE-L F1 of coded texts: a float64 array of shape (len(candidates), len(pool))."""
    import numpy as np
    from rapidfuzz.distance import Indel
    from rapidfuzz.process import cdist

    if not candidates or not pool:
        return np.zeros((len(candidates), len(pool)))
    scores = cdist(candidates, pool, scorer=Indel.normalized_similarity, dtype=np.float64)
    # Without tokens there is nothing in common; rapidfuzz says 1.0 for two empty texts.
    empty = [i for i, text in enumerate(candidates) if not text]
    scores[empty] = 0.0
    return scores


def highest(scores: Any, k: int) -> Any:
    """The places of the k highest scores, the highest first; of equal ones, the older first."""
    import numpy as np

    places = np.arange(len(scores))
    if len(scores) > k:
        kth = np.partition(scores, -k)[-k]
        places = (scores >= kth).nonzero()[0]
    order = (-scores[places]).argsort(kind="stable")
    return places[order][:k]


def in_blocks(
    pool: InstructionPool, candidates: list[str], size: int = 64
) -> Iterator[tuple[str, Any]]:
    """Yield each candidate with its scores; the caller may add to the pool in between."""
    import numpy as np

    for start in range(0, len(candidates), size):
        # Score a whole block against the pool of now: that is the fast way.
        known = len(pool)
        texts = candidates[start : start + size]
        for text, scores in zip(texts, pool.similarities(texts), strict=True):
            # What joined the pool since then is compared one by one.
            newer = pool.scores([pool.code(text)], pool.coded[known:])[0]
            yield text, np.append(scores, newer)


# --------------------------------------------------------------------------------------------------
# Errors, and checking settings.


class WorkshopError(Exception):
    """Something the user can put right: one line says what, where, what to do next (exit 1)."""


class UsageError(WorkshopError):
    """A setting that cannot be used (exit 2)."""


class RequestFailed(Exception):
    """One request got no usable reply: its task stays undone; the next run asks again."""


ADDRESS = r"https?://(?:[^\s/@]+@)?(?:[\w.-]+|\[[\da-fA-F:.]+\])(?::\d{1,5})?(?:/\S*)?"
DEFAULT_SEEDS = {"en": DATA / "seed_tasks.jsonl", "zh": DATA / "seed_tasks_zh.jsonl"}


def choices(name: str) -> tuple[str, ...]:
    """The values that a setting may have; none: any."""
    tables = {"provider": PROVIDERS, "recipe": RECIPES, "language": DEFAULT_SEEDS, "until": STAGES}
    return tuple(tables.get(name, ()))


def check_settings(config: Config) -> None:
    """Raise UsageError for the first setting that cannot be used."""
    if config.provider == "replay":
        take_recorded_settings(config)
    for setting in fields(Config):
        setattr(config, setting.name, checked_value(setting, getattr(config, setting.name)))
    if config.responses and config.provider != "replay":
        raise UsageError("--responses is for --provider replay")
    languages = RECIPES[config.recipe].languages or choices("language")
    if config.language not in languages:
        allowed = f"--recipe {config.recipe} is for --language {', '.join(languages)}"
        raise UsageError(f"{allowed}: its rules turn away all others")
    if config.output_path and Path(config.output_path).is_dir():
        problem = f"--output-path must be a file, and {config.output_path} is a folder"
        raise UsageError(problem)
    if config.base_url and not re.fullmatch(ADDRESS, config.base_url):
        example = "http://localhost:8000/v1"
        raise UsageError(f"--base-url must be like {example}, not {config.base_url!r}")


def checked_value(setting: Any, value: Any) -> Any:
    """A setting's value in its own type; None means the default. Raises UsageError."""
    flag = "--" + setting.name.replace("_", "-")
    kind = type(setting.default)
    if value is None:
        value = setting.default
    if isinstance(value, Path):
        value = str(value)
    if kind is float and type(value) is int:
        value = float(value)  # 1 and 1.0 are the same question
    if type(value) is not kind:
        raise UsageError(f"{flag} must be of type {kind.__name__}, not {value!r}")

    known = choices(setting.name)
    if known and value not in known and value != setting.default:
        raise UsageError(f"{flag} must be one of {', '.join(known)}, not {value!r}")
    low = setting.metadata["low"]
    high = setting.metadata["high"]
    if kind is not str and not low <= value <= high:
        allowed = f"at least {low}" if math.isinf(high) else f"from {low} to {high}"
        raise UsageError(f"{flag} must be {allowed}, not {value}")
    return value


SHAPE = (
    "seed",
    "language",
    "tasks_shown",
    "machine_tasks_shown",
    "tasks_asked",
    "classification_every",
)  # the settings that shape a prompt of stage 1
RECORDED = (*SHAPE, "temperature", "recipe", "max_tokens")  # what a journal may decide


def take_recorded_settings(config: Config) -> None:
    """For a replay: take from the journal what shapes questions, where nothing else was said."""
    record = first_record(config.responses)
    for setting in fields(Config):
        unchanged = getattr(config, setting.name) in (None, setting.default)
        if setting.name in RECORDED and setting.name in record and unchanged:
            setattr(config, setting.name, record[setting.name])


def first_record(journal: str) -> dict:
    """The first reply of somebody's journal: what was asked, of whom, with which settings."""
    try:
        with open(journal, encoding="utf-8") as file:
            record = json.loads(file.readline())
        readable = all(isinstance(record[name], str) for name in ("provider", "model"))
    except (OSError, ValueError, KeyError, TypeError):
        readable = False
    if not readable:
        problem = "--provider replay needs --responses FILE, a journal"
        raise UsageError(f"{problem}, and {journal!r} is none")
    return record


# --------------------------------------------------------------------------------------------------
# Seed tasks: all that people write of the dataset (paper, section 2.1: 175, 25 of them
# classification). And the other files in data/.


def load_seed_tasks(path: str | Path) -> list[Task]:
    """Read seed tasks; exact duplicates are merged with a notice.

    The file is .jsonl or .json with records of the official schema, at least
    {"instruction": ...}, or .txt with one instruction a line. Raises WorkshopError, naming file
    and line.
    """
    records = seed_records(Path(path))
    tasks: dict[str, Task] = {}
    for where, record in records:
        task = seed_task(where, record, len(tasks))
        tasks.setdefault(task.instruction, task)
    if not tasks:
        raise WorkshopError(f"{path} holds no seed task: write at least one instruction into it")
    merged = len(records) - len(tasks)
    if merged:
        print(f"notice: {path}: {merged} duplicates merged", file=sys.stderr)
    return list(tasks.values())


def seed_records(path: Path) -> list[tuple[str, Any]]:
    """What a seed file holds, as (where it stands, record)."""
    kind = path.suffix.lower()
    if kind not in (".jsonl", ".json", ".txt"):
        raise WorkshopError(f"the seed file {path} must be .jsonl, .json or .txt")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise WorkshopError(f"the seed file {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise WorkshopError(f"the seed file {path} is not UTF-8 text, save it as such") from None
    if kind == ".json":
        return array_records(path, text)
    lines = [(f"{path}, line {n}", line) for n, line in enumerate(text.split("\n"), 1)]
    lines = [(where, line) for where, line in lines if line.strip()]
    if kind == ".txt":
        return [(where, {"task": line}) for where, line in lines]
    return [(where, json_or_none(line)) for where, line in lines]


def array_records(path: Path, text: str) -> list[tuple[str, Any]]:
    """The records of a JSON array, each with its place."""
    line = 1
    try:
        records = json.loads(text)
    except json.JSONDecodeError as error:
        records = None
        line = error.lineno
    if not isinstance(records, list):
        problem = f"the seed file {path}, line {line} is malformed"
        raise WorkshopError(f"{problem}: a JSON array of records is expected")
    return [(f"{path}, record {n}", record) for n, record in enumerate(records, 1)]


def json_or_none(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


def seed_task(where: str, record: Any, index: int) -> Task:
    """Make a Task of one record. Raises WorkshopError where it is none."""
    task = None
    if isinstance(record, dict):
        # Lone surrogates, which no file can hold, become question marks.
        record = json.loads(to_json(record).encode("utf-8", "replace"))
        texts = [record.get(name) for name in ("instruction", "Instruction", "task", "Task")]
        instruction = next(filter(None, texts), None)
        instances = seed_instances(record.get("instances") or [])
        flag = record.get("is_classification")
        readable = isinstance(instruction, str) and instruction.strip() and instances is not None
        if readable and flag in (None, True, False):
            name = str(record.get("id") or f"seed_task_{index}")
            task = Task(name, instruction.strip(), flag, instances)
    if task is None:
        needed = 'a JSON record with at least {"instruction": "..."} is needed'
        shape = "is_classification is true or false, instances a list of input and output"
        raise WorkshopError(f"{where}: {needed}; {shape}")
    return task


def seed_instances(pairs: Any) -> list[dict[str, str]] | None:
    """The instances of a record; None where they have another shape."""
    if not isinstance(pairs, list) or not all(isinstance(pair, dict) for pair in pairs):
        return None
    if not all(isinstance(pair.get("output"), str) for pair in pairs):
        return None
    return [{"input": str(pair.get("input") or ""), "output": pair["output"]} for pair in pairs]


@cache
def read_data(name: str, language: str = "") -> list[dict]:
    """The rows of data/NAME.jsonl, of one language or all."""
    lines = (DATA / f"{name}.jsonl").read_text(encoding="utf-8").strip().split("\n")
    rows = [json.loads(line) for line in lines]
    return [row for row in rows if language in ("", row.get("language"))]


def wording(config: Config, stage: str, english: dict) -> dict:
    """The words of a stage's prompt, and its worked examples as "shots".

    English words stand in this file, those of another language or recipe in data/prompts.jsonl.
    """
    rows = read_data("prompts", config.language)
    fitting = [row for row in rows if (row["recipe"], row["stage"]) == (config.recipe, stage)]
    words = fitting[0] if fitting else english
    return {**words, "shots": RECIPES[config.recipe].shots(stage, config.language)}


def modern_shots(stage: str, language: str) -> list[dict]:
    return read_data("demonstrations", language)


def shot_text(shot: dict, words: dict, recipe: Recipe) -> str:
    """A worked example of a prompt: its task, and one instance or more."""
    lines = [words["task"], shot["instruction"]]
    for number, instance in enumerate(shot["instances"][: recipe.instances_shown], 1):
        shown = number if recipe.continues_text else 0
        lines.append(example_text(instance, words["fields"], shot["is_classification"], shown))
    return "\n".join(lines)


def example_text(instance: dict, fields: list[str], labelled: bool, number: int = 0) -> str:
    """One instance with its field names; with a number, as `Example 1`."""
    space = "" if fields[1].endswith("：") else " "
    source = f"{fields[0]}{space}{instance['input']}".strip()
    target = f"{space}{instance['output']}"
    if labelled:
        return "\n".join(filter(None, [fields[2] + target, source]))
    header = f"Example {number}" if number and source else ""
    return "\n".join(filter(None, [header, source, fields[1] + target]))


def question_shape(config: Config, seed_tasks: list[Task]) -> dict:
    """What shapes the prompts of stage 1: a part of the journal's keys."""
    shape = {name: getattr(config, name) for name in SHAPE}
    return shape | {"seed_tasks": digest(seed_tasks)}


def digest(seed_tasks: list[Task]) -> str:
    """Tells one set of seed tasks from another."""
    text = "\n".join(task.instruction for task in seed_tasks)
    return sha256(text.encode()).hexdigest()[:16]


def dangling_number(prompt: str) -> int:
    """The number at which a stage-1 prompt breaks off; 0 for other prompts."""
    match = re.search(r"\n(\d+)\.\Z", prompt)
    return int(match[1]) if match else 0


def requests_ahead(config: Config, accepted: int, dry: int) -> int:
    """How many requests the next round of stage 1 sends."""
    # One at first, so that machine tasks soon feed back; more as the pool grows.
    grown = 1 + 2 * accepted // config.tasks_asked
    # Never more than are needed, nor, once a request brought nothing, than patience allows.
    need = math.ceil((config.num_instructions - accepted) / config.tasks_asked)
    return min(need, grown, config.patience - dry if dry else need)


# --------------------------------------------------------------------------------------------------
# Files. A paid reply is on disk, in responses.jsonl, before anything is made of it; all other files
# are views of that.

VERSION = 1  # of the journal's records
STEP_FILES = [
    "step1_instructions.jsonl",
    "step2_is_classification.jsonl",
    "step3_raw_instances.jsonl",
    "step4_final.jsonl",
]


def to_json(row: dict) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def write_whole(path: Path, lines: Iterable[str]) -> None:
    """Write all lines or none, by one rename.

    Lone surrogates, which other readers refuse, become question marks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "w", encoding="utf-8", errors="replace", newline="\n") as file:
        file.writelines(lines)
    os.replace(temporary, path)


def remove_views(config: Config) -> None:
    """Remove the step files of an earlier run: they are no views of this one."""
    for name in (*STEP_FILES, "run.json"):
        (Path(config.work_dir) / name).unlink(missing_ok=True)


@dataclass
class Reply:
    """What a model answered, as the journal keeps it."""

    text: str
    finish_reason: str  # "stop", "length" (cut by max_tokens) or "content_filter"
    prompt_tokens: int = 0  # 0: the server did not say
    reply_tokens: int = 0
    prompt: str = ""
    created_at: str = ""  # UTC, ISO 8601

    @property
    def cut(self) -> bool:
        return self.finish_reason == "length"

    def stop_at(self, stops: list[str]) -> None:
        """Leave out the prompt, if the server repeats it, and what follows a stop string."""
        self.text = self.text.removeprefix(self.prompt)
        places = [self.text.find(stop) for stop in stops]
        found = [place for place in places if place >= 0]
        if found:
            self.text = self.text[: min(found)]
            self.finish_reason = "stop"


class Journal:
    """responses.jsonl: one line for each reply, appended, flushed and fsynced.

    Memory holds only where each line starts. A last line torn by a kill is cut off: nothing was
    made of it yet. Raises WorkshopError where another line is damaged.
    """

    def __init__(self, path: Path, mode: str = "a+b") -> None:
        self.path = path
        self.lock = threading.Lock()
        self.torn = False  # a torn last line was cut off
        self.starts: dict[str, int] = {}  # key -> offset in bytes of the newest reply to it
        self.file = open(path, mode)  # noqa: SIM115
        self.read_index()

    def read_index(self) -> None:
        """Note where each reply starts."""
        start = self.file.seek(0)
        for number, line in enumerate(self.file, 1):
            if not line.endswith(b"\n"):
                if self.file.writable():
                    self.file.truncate(start)
                    self.torn = True
                return
            record = checked_record(line, f"{self.path}, line {number}")
            for key in (record["key"], *record.get("answers", {})):
                self.starts[key] = start
            start += len(line)

    def get(self, key: str) -> dict | None:
        """The newest record under this key, or None."""
        with self.lock:
            if key not in self.starts:
                return None
            self.file.seek(self.starts[key])
            record = json.loads(self.file.readline())
        return record if record["key"] == key else answer_of_list(record, key)

    def append(self, *records: dict) -> None:
        """Write all records at once. Raises OSError, and leaves no half line behind."""
        lines = [to_json(record).encode("utf-8", "replace") for record in records]
        with self.lock:
            start = self.file.seek(0, os.SEEK_END)
            try:
                if not os.fstat(self.file.fileno()).st_nlink:
                    raise FileNotFoundError(2, "it was deleted")
                self.file.write(b"".join(lines))
                self.file.flush()
                os.fsync(self.file.fileno())
            except OSError:
                self.file.truncate(start)
                raise
            for record, line in zip(records, lines, strict=True):
                self.starts[record["key"]] = start
                start += len(line)


def checked_record(line: bytes, where: str) -> dict:
    """A line of the journal as a record. Raises WorkshopError that says where it stands."""
    try:
        record = {"version": VERSION, **json.loads(line)}
        texts = [record["key"], *record.get("answers", {})]
        if record["version"] == VERSION:
            texts += [record["text"], *record.get("answers", {}).values()]
        readable = all(isinstance(text, str) for text in texts)
    except (ValueError, KeyError, TypeError, AttributeError):
        readable = False
    if not readable:
        problem = f"{where} is damaged"
        raise WorkshopError(f"{problem}: delete that line; only its reply is asked for again")
    if record["version"] != VERSION:
        problem = f"{where} is of version {record['version']}, this program's is {VERSION}"
        raise WorkshopError(f"{problem}: use the program that wrote it, or another --work-dir")
    return record


def derived_record(whole: dict, key: str, instruction: str, text: str) -> dict:
    """What the reply to a list says to one of its questions, as a record under its own key.

    The tokens stand in the list's record, which `part_of` names.
    """
    names = ("version", "stage", "attempt", "provider", "model", "temperature", "recipe", "sample")
    shared = {name: whole[name] for name in (*names, "created_at", "max_tokens")}
    own = {"key": key, "part_of": whole["key"], "instruction": instruction, "text": text}
    counts = {"prompt_tokens": 0, "reply_tokens": 0}
    return shared | own | counts | {"finish_reason": "stop", "prompt": ""}


def single_records(record: dict) -> list[dict]:
    """A record, and of an old journal's list one more for each of its answers."""
    return [record, *(answer_of_list(record, key) for key in record.get("answers", {}))]


def answer_of_list(record: dict, key: str) -> dict:
    """One answer of a list in an old journal, which keeps all of them in one record."""
    place = list(record["answers"]).index(key)
    instruction = record["instructions"][place]
    return derived_record(record, key, instruction, record["answers"][key])


def open_journal(folder: Path, responses: str) -> tuple[Any, Journal]:
    """Make and lock the folder, and open its journal, or another one to read only.

    The lock dies with this process. Raises WorkshopError.
    """
    import filelock

    lock = filelock.FileLock(folder / ".lock", timeout=0)
    problem = ""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
        if responses:
            return lock, Journal(Path(responses), "rb")
        return lock, Journal(folder / "responses.jsonl")
    except filelock.Timeout:
        problem = f"another run is writing to {folder}: wait for it, or choose another --work-dir"
    except OSError as error:
        problem = f"cannot write to {folder} ({error.strerror}): choose another --work-dir"
    except WorkshopError as error:
        problem = str(error)
    lock.release()  # whoever keeps the error, as a notebook does, would keep the lock with it
    raise WorkshopError(problem)


# --------------------------------------------------------------------------------------------------
# Asking: one door to a model. Look into the journal; else send, with the one layer of retries;
# write down; return.


class Transient(Exception):
    """Worth another try. `wait`: how many seconds the server asks us to wait before it, or 0."""

    def __init__(self, what: str, wait: float = 0.0) -> None:
        super().__init__(what)
        self.what = what
        self.wait = wait


class ParameterRefused(Exception):
    """The model does not take a parameter, args[0]."""


class Model(AbstractContextManager):
    """A provider's model as one run asks it: `with Model(config) as model: ...`.

    It holds the journal and the lock of the folder. Raises WorkshopError where a key or a model
    name is missing, or the folder cannot be used.
    """

    def __init__(self, config: Config, sleep: Callable[[float], Any] | None = None) -> None:
        # Who answers, and where.
        variables = environment()
        self.config = config
        self.name = provider_name(config)
        self.provider = provider_row(config, self.name)
        self.key = variables.get(self.provider.key or "LOCAL_API_KEY", "")
        self.base_url = server_address(config, self.provider, variables)
        # What all threads of the run share.
        self.lock = threading.Lock()
        self.stop = threading.Event()  # set: nobody sends any more
        self.sleep = sleep or self.stop.wait
        self.senders = ThreadPoolExecutor(512, "asking")
        self.sdk_client: Any = None
        self.bar: Any = None  # the progress bar of the present stage
        # What the server made us change, and what went wrong.
        self.names = {"max_tokens": self.provider.cap}  # parameter -> its name here; "": not sent
        self.refused: dict[str, str] = {}  # parameter -> what we do instead
        self.faults: Counter[str] = Counter()  # what went wrong and was tried again
        self.undone: list[tuple[str, str]] = []  # (stage, why) of requests that failed for good
        # Before the first answer, one failure is enough to stop the run.
        self.failed_in_a_row = config.patience - 1
        # What was used: stage -> replies, asked_now, cut, and tokens of prompts and replies.
        self.tokens: dict[str, Counter[str]] = {}
        self.counted: set[str] = set()  # the keys of the replies in there

        # Without a journal there will be questions, so the key is needed at once.
        journal = Path(config.responses or Path(config.work_dir) / "responses.jsonl")
        if not journal.is_file() or not journal.stat().st_size:
            self.check_key()
        self.model = config.model or self.provider.model or self.first_listed()
        self.folder_lock, self.journal = open_journal(Path(config.work_dir), config.responses)
        if config.responses:
            record = first_record(config.responses)
            self.name = record["provider"]
            self.model = record["model"]

    def __exit__(self, *_: Any) -> None:
        self.stop.set()
        self.senders.shutdown(wait=False, cancel_futures=True)
        self.folder_lock.release()

    def check_key(self) -> None:
        """Raise WorkshopError where the key is missing; only sending needs it, not a replay."""
        name = self.provider.key
        if name and not self.key:
            fault = f"{name} is not set: put it"
        elif not re.fullmatch(r"[!-~]*", self.key):
            fault = f"{name} holds a character that no key has: copy it again"
        else:
            return
        self.stop.set()
        raise WorkshopError(f"{fault} into .env, or use --provider local or practice")

    def client(self, build: Callable[[Model], Any]) -> Any:
        """The SDK's client: one for all threads, built when the first request goes out."""
        with self.lock:
            if self.sdk_client is None:
                self.sdk_client = build(self)
            return self.sdk_client

    def first_listed(self) -> str:
        """The first model that the server lists. Raises WorkshopError where it lists none."""
        import openai

        why = "another kind of answer"
        try:
            listed = self.client(openai_client).models.list().data[0].id
            if isinstance(listed, str):
                return listed
        except openai.OpenAIError as error:
            why = one_line(str(error))
        except (ValueError, LookupError, TypeError, AttributeError):
            pass
        hint = "start a server there, or name the model with --model"
        raise WorkshopError(f"{self.base_url} lists no model ({why}): {hint}")

    def ask_each(
        self, stage: str, ask: Callable, items: list
    ) -> Iterator[tuple[Any, Reply | None]]:
        """Yield (item, its reply) in the order of the items.

        The reply is None, and noted in `undone`, where the request failed for good.
        """
        executor = ThreadPoolExecutor(min(self.config.concurrency, len(items) or 1), "asking")
        futures: list[Future] = []
        try:
            futures += [executor.submit(ask, item) for item in items]
            for item, future in zip(items, futures, strict=True):
                reply = None
                try:
                    reply = self.wait_for(future, futures).result()
                except RequestFailed as failure:
                    self.undone.append((stage, str(failure)))
                yield item, reply
        finally:
            executor.shutdown(wait=False, cancel_futures=True)
            wait(futures, timeout=1.0)  # what arrives by then is kept

    def wait_for(self, future: Future, futures: list[Future]) -> Future:
        """Wait until it is done; return it, or another that ends the whole run."""
        while not future.done():
            # On Windows, Ctrl-C does not reach a wait without end.
            wait([future], timeout=0.5)
            if self.stop.is_set():
                for other in futures:
                    if other.done() and isinstance(other.exception(), WorkshopError):
                        return other
        return future

    def ask(
        self, stage: str, prompt: str, parameters: dict, question: dict, readable: Callable = bool
    ) -> Reply:
        """Return the reply to a question, from the journal if it is there.

        A reply that was filtered, or is not `readable`, is asked for once more. `question` says
        what is asked beside the settings. Raises RequestFailed.
        """
        for attempt in (0, 1):
            reply = self.ask_once(stage, attempt, prompt, parameters, question)
            filtered = reply.finish_reason == "content_filter"
            if not filtered and (reply.cut or readable(reply.text)):
                return reply
        # In stage 2 a filtered reply counts as an answer that cannot be read.
        if filtered and stage != "classify":
            raise RequestFailed(
                "held back by the content filter, twice: it stays so with this model"
            )
        return reply

    def ask_once(
        self, stage: str, attempt: int, prompt: str, parameters: dict, question: dict,
        derive: Callable[[dict], list[dict]] | None = None,
    ) -> Reply:  # fmt: skip
        """Ask, unless the journal has the reply; write it down before it is used.

        `derive` makes, of the record of a list's reply, one record for each of its questions.
        """
        key, identity = self.question_key(stage, attempt, parameters, question)
        record = self.journal.get(key)
        limit = parameters["max_tokens"]
        asked_now = record is None or was_cut_shorter(record, limit)
        if asked_now:
            # A logged request keeps its prompt: another one would be another question.
            prompt = record["prompt"] if record else prompt
            reply, sent = self.send(prompt, {**parameters, **self.provider.extra})
            reply.text = reply.text.encode("utf-8", "replace").decode()  # as the disk will have it
            reply.prompt = prompt
            reply.created_at = datetime.now(UTC).isoformat(timespec="milliseconds")
            record = {"version": VERSION, "key": key, **identity, **asdict(reply)}
            record |= {"max_tokens": limit, "parameters": sent, "base_url": self.base_url}
            self.write_down(record, *(derive(record) if derive else []))
        self.count_tokens(stage, record, asked_now)
        reply = reply_of(record)
        reply.stop_at(parameters.get("stop", []))
        return reply

    def question_key(
        self, stage: str, attempt: int, parameters: dict, question: dict
    ) -> tuple[str, dict]:
        """The journal's key, and what it is made of: the question, who is asked, how often before.

        The address, the limit of tokens and thresholds are not in it: they do not change what is
        asked.
        """
        identity = {"stage": stage, "attempt": attempt, "provider": self.name, "model": self.model}
        identity |= {"temperature": parameters["temperature"], "recipe": self.config.recipe}
        identity |= question
        text = json.dumps(identity, sort_keys=True)
        return sha256(text.encode()).hexdigest()[:32], identity

    def write_down(self, *records: dict) -> None:
        """Append to the journal. Raises WorkshopError, which ends the run."""
        try:
            self.journal.append(*records)
        except OSError as error:
            self.stop.set()  # what comes back could not be kept
            problem = f"cannot write to {self.journal.path} ({error.strerror})"
            hint = "put it right, then run the same command to go on"
            raise WorkshopError(f"{problem}: {hint}") from None

    def count_tokens(self, stage: str, record: dict, asked_now: bool) -> None:
        """Count a reply once, however often it is used; one of a list counts as the list."""
        key = record.get("part_of", record["key"])
        with self.lock:
            if key in self.counted and not asked_now:
                return
            self.counted.add(key)
        if "part_of" in record:
            record = self.journal.get(key) or record
        with self.lock:
            spent = self.tokens.setdefault(stage, Counter())
            cut = record["finish_reason"] == "length"
            spent.update(replies=1, asked_now=int(asked_now), cut=int(cut))
            spent.update(prompt=record["prompt_tokens"], reply=record["reply_tokens"])

    def send(self, prompt: str, parameters: dict) -> tuple[Reply, dict]:
        """Send until a reply comes; return it with the parameters sent.

        Raises RequestFailed when `max_attempts` or `deadline` is used up.
        """
        self.check_key()
        ends = time.monotonic() + self.config.deadline
        pauses = retry_pauses(self.config)
        while not self.stop.is_set():
            sent = self.adapted(parameters)
            ends += self.admit(prompt, sent)
            try:
                reply = self.send_once(prompt, sent, ends - time.monotonic())
                self.failed_in_a_row = 0
                return reply, sent
            except ParameterRefused as refusal:
                self.refuse(refusal.args[0])
            except Transient as fault:
                # The server's own wish counts where it is longer. Without a pause there is an end.
                pause = max(next(pauses, math.inf), fault.wait)
                last = time.monotonic() + pause >= ends
                self.note_fault(fault.what, last)
                self.sleep(pause)
        raise RequestFailed("the run was stopped")

    def adapted(self, parameters: dict) -> dict:
        """The parameters by the names that this server takes, without those that it refuses."""
        sent = {self.names.get(name, name): value for name, value in parameters.items()}
        sent.pop("", None)
        return sent

    def admit(self, prompt: str, sent: dict) -> float:
        """Wait until a request may go; return the seconds that took. Here none waits."""
        return 0.0

    def send_once(self, prompt: str, sent: dict, seconds: float) -> Reply:
        """One try. A reply that still drips in after so many seconds is left to itself."""
        try:
            future = self.senders.submit(self.provider.send, self, prompt, sent)
            return future.result(max(0.0, seconds))
        except TimeoutError:
            raise Transient("no whole reply before the deadline") from None
        except (AttributeError, LookupError, TypeError, ValueError):
            raise Transient("200 with a body that is no answer") from None

    def note_fault(self, what: str, last: bool) -> None:
        """Count a fault. After the last try of a request, raise what that means for the run."""
        with self.lock:
            self.faults[re.split(r"[:{<]", what)[0].strip()[:40]] += 1
            self.failed_in_a_row += last
        if not last:
            return
        if self.failed_in_a_row < self.config.patience:
            raise RequestFailed(what)
        self.stop.set()
        problem = f"no answer from {self.name} at {self.base_url} ({what})"
        raise WorkshopError(f"{problem}: check it, then run the same command to go on")

    def refuse(self, name: str) -> None:
        """From now on send the limit of tokens by its other name, anything else not at all."""
        with self.lock:
            if name in self.refused:
                return
            other = ""
            if name in CAPS:
                untried = [cap for cap in CAPS if cap != name and cap not in self.refused]
                other = untried[0] if untried else ""
                self.names["max_tokens"] = other
            else:
                self.names[name] = ""
            self.refused[name] = f"sent as {other}" if other else "left out"
            notice = f"notice: {self.model} refuses {name}: {self.refused[name]} from now on"
            print(notice, file=sys.stderr)

    def clean(self, message: str) -> str:
        """A server's words in one printable line, without the key."""
        return one_line(message.replace(self.key, "[key]") if self.key else message, 300)

    def spending(self, results: Results) -> dict:
        """What run.json says about money and limits."""
        return {}


def was_cut_shorter(record: dict, limit: int) -> bool:
    """Whether a logged reply was cut by a smaller limit than now: then it is asked for again."""
    return record["finish_reason"] == "length" and record["max_tokens"] < limit


def reply_of(record: dict) -> Reply:
    return Reply(**{field.name: record[field.name] for field in fields(Reply)})


def retry_pauses(config: Config) -> Iterator[float]:
    """Seconds before each retry: they double up to 30, each less up to a half by chance."""
    for n in range(config.max_attempts - 1):
        longest = min(30.0, config.first_wait * 2 ** min(n, 64))
        yield longest * random.uniform(0.5, 1.0)


def one_line(text: str, length: int = 100) -> str:
    """Text from outside, safe to print: one line, no control characters, cut at `length`."""
    printable = "".join(c if c.isprintable() else " " for c in text)
    text = " ".join(printable.split())
    return text if len(text) <= length else text[: length - 1] + "…"


def progress(model: Model, what: str, total: int, steps: Iterator | None = None) -> Any:
    """A bar on stderr that moves with the steps; none where stderr is not a terminal."""
    from tqdm import tqdm

    hidden = None if sys.stderr else True  # None: hidden unless stderr is a terminal
    model.bar = tqdm(steps, total=total, desc=what, disable=hidden, leave=False)
    return model.bar


def show_novelty(bar: Any, novelty: list[int]) -> None:
    """Move the bar of stage 1 by what the last request brought."""
    mean = fmean(novelty[-10:])
    bar.set_description(f"1 generate, {mean:.1f} new per request", refresh=False)
    bar.update(novelty[-1])


# --------------------------------------------------------------------------------------------------
# Providers: rows of one table. A function for each wire format makes a Reply of a prompt, or raises
# what the answer means.

CAPS = ("max_tokens", "max_completion_tokens")  # two names of one limit; many models take one only
FATAL = ["insufficient_quota", "billing_hard_limit_reached", "model_not_found"]
FATAL += ["InvalidApiKey", "Arrearage", "AccessDenied", "Model.NotExist"]
FILTERED = ["content_filter", "content_policy_violation"]
FILTERED += ["DataInspectionFailed", "data_inspection_failed"]
UNKNOWN = (  # how servers say that they do not know a parameter
    r"(?i)not support|unsupport|unrecogni|unknown|unexpect|not (permitt|allow)ed|instead"
)


@dataclass
class Fault:
    """What a server answered instead of a reply."""

    status: int
    code: str
    message: str
    headers: Any
    parameter: str = ""  # the parameter that it names


def judge_error(model: Model, fault: Fault, sent: dict) -> Exception:
    """What an error means: try again, stop the run, adapt a parameter, or leave the task undone."""
    code = "" if fault.code == str(fault.status) else fault.code
    said = model.clean(f"{fault.status} {code} {fault.message}")

    # Too many requests, or something that passes.
    busy = fault.status in (408, 409, 429) and code not in FATAL
    if code.startswith("Throttling") or busy or fault.status >= 500:
        return Transient(said, retry_after(fault.headers))

    # A wrong key, no money, no such model: nothing will get better by asking on.
    if fault.status in (401, 402, 403, 404) or code in FATAL:
        model.stop.set()
        key = model.provider.key or "the server"
        hint = f"check {key}, --model ({model.model}) and the address"
        if RECIPES[model.config.recipe].continues_text:
            hint += f"; --recipe {model.config.recipe} needs its /v1/completions"
        return WorkshopError(f"{model.name} at {model.base_url} said {said}: {hint}")

    # A parameter that the model does not take. (A limit of tokens may also just be too high.)
    named = [name for name in sent if re.search(rf"\b{name}\b", fault.message)]
    name = fault.parameter or next(iter(named), "")
    unknown = re.search(UNKNOWN, fault.message)
    if name in sent and (unknown or name not in CAPS):
        return ParameterRefused(name)
    return RequestFailed(said)


def retry_after(headers: Any) -> float:
    """Seconds that the header Retry-After, a number or an HTTP date, asks for; 0: none."""
    values = [value for name, value in headers.items() if name.lower() == "retry-after"]
    if not values:
        return 0.0
    with suppress(ValueError, TypeError):
        if values[0][:1].isdigit():
            return float(values[0])
        return (parsedate_to_datetime(values[0]) - datetime.now(UTC)).total_seconds()
    return 0.0


def openai_client(model: Model) -> Any:
    import openai

    timeout = model.config.request_timeout
    key = model.key or "none"
    client = openai.OpenAI(api_key=key, base_url=model.base_url, max_retries=0, timeout=timeout)
    # The SDK reads these from the shell and would send them to any host.
    if model.name != "openai":
        client.organization = None
        client.project = None
        client._custom_headers = {}
    return client


def send_openai(model: Model, prompt: str, parameters: dict) -> Reply:
    """Ask an OpenAI-compatible endpoint once: a chat, or the continuation of a text."""
    import openai

    client = model.client(openai_client)
    asked = {"model": model.model, "extra_body": parameters}
    try:
        if RECIPES[model.config.recipe].continues_text:
            answer = client.completions.create(**asked, prompt=prompt)
        else:
            messages = [{"role": "user", "content": prompt}]
            answer = client.chat.completions.create(**asked, messages=messages)
    except openai.APIStatusError as error:
        if error.code in FILTERED:
            return Reply("", "content_filter")
        raise judge_error(model, openai_fault(error), parameters) from None
    except openai.APIConnectionError as error:
        raise Transient(model.clean(f"connection: {error.__cause__ or error}")) from None
    document = answer.to_dict(warnings=False)  # HTML, which arrives as a string, has none
    usage = document.get("usage") or {}
    return read_answer(model, document, usage, "prompt_tokens", "completion_tokens")


def openai_fault(error: Any) -> Fault:
    """What an error of the SDK tells."""
    body = error.body if isinstance(error.body, dict) else {}
    message = str(body.get("message") or error.message)
    code = "" if error.code is None else str(error.code)
    headers = error.response.headers
    return Fault(error.status_code, code, message, headers, error.param or "")


def read_answer(model: Model, document: dict, usage: dict, *counts: str) -> Reply:
    """The Reply in the `choices` of an answer; both wire formats have the same."""
    choice = (document.get("choices") or [{}])[0]
    said = choice.get("message") or {"content": choice.get("text")}  # a chat's, or a completion's
    finish = choice.get("finish_reason") or "stop"
    text = said.get("content")
    if not isinstance(text, str):
        if finish not in ("length", "content_filter"):
            error = document.get("error", "")
            raise Transient(model.clean(f"200 without choices or content: {error}"))
        text = ""
    return Reply(text, finish, *(usage.get(name) or 0 for name in counts))


def dashscope_client(model: Model) -> Any:
    """A session with as many connections as the run has requests in flight."""
    import logging

    import requests

    # Without this, each fault prints a traceback.
    logging.getLogger("dashscope").addHandler(logging.NullHandler())
    session = requests.Session()
    for scheme in ("http://", "https://"):
        adapter = requests.adapters.HTTPAdapter(pool_maxsize=model.config.concurrency)
        session.mount(scheme, adapter)
    session.auth = lambda request: request  # or a ~/.netrc replaces the key
    session.send = partial(send_by_session, model, session.send)
    return session


def send_by_session(model: Model, send: Callable, request: Any, **options: Any) -> Any:
    """Send once, and give an error in a 200 its own status."""
    import requests

    try:
        response = send(request, **options)
    except requests.RequestException as error:  # the SDK would send some again, and pay again
        raise Transient(model.clean(f"connection: {error}")) from None
    if response.status_code == 200 and b'"output"' not in response.content:
        response.status_code = 400 if b'"code"' in response.content else 502
    return response


def send_dashscope(model: Model, prompt: str, parameters: dict) -> Reply:
    """Ask DashScope's own endpoint once. Its SDK returns most errors instead of raising them."""
    import dashscope

    answer = dashscope.Generation.call(
        model=model.model,
        messages=[{"role": "user", "content": prompt}],
        result_format="message",
        api_key=model.key,
        base_address=model.base_url,
        session=model.client(dashscope_client),
        request_timeout=model.config.request_timeout,
        **parameters,
    )
    if answer.code in FILTERED:
        return Reply("", "content_filter")
    if answer.status_code != 200:
        passing = answer.code in ("InternalError", "ServiceUnavailable")
        status = 503 if passing else answer.status_code
        code = "" if answer.code is None else str(answer.code)
        fault = Fault(status, code, str(answer.message), answer.headers or {})
        raise judge_error(model, fault, parameters)
    usage = answer.usage or {}
    return read_answer(model, answer.output or {}, usage, "input_tokens", "output_tokens")


def send_replay(model: Model, prompt: str, parameters: dict) -> Reply:
    """Every reply is in the journal; a question that is not there has none."""
    problem = f"{model.config.responses} holds no reply to {one_line(prompt[-60:])!r}"
    hint = "give --seed-file, --num-instructions and the other settings of that run"
    raise WorkshopError(f"{problem}: {hint}, as its run.json has them")


@dataclass(frozen=True)
class Provider:
    """A row of the table: how to speak to a provider, where, with which key, its default model."""

    send: Callable[[Model, str, dict], Reply]
    base_url: str = ""
    key: str = ""  # environment variable that holds the API key; empty: none needed
    model: str = ""  # empty: the first that the server lists
    extra: dict = field(default_factory=dict)  # parameters sent with every request
    cap: str = "max_tokens"  # the name of the limit of tokens
    url_variable: str = ""  # environment variable that may name another address


def environment() -> dict[str, str]:
    """The variables of the nearest .env from here upwards, and the shell's, which win.

    Empty ones count as unset. Raises WorkshopError.
    """
    from dotenv import dotenv_values, find_dotenv

    file = find_dotenv(usecwd=True)
    try:
        variables = dotenv_values(file, interpolate=False)
    except UnicodeDecodeError:
        raise WorkshopError(f"{file} is not UTF-8 text: save it as UTF-8") from None
    variables |= {name: value for name, value in os.environ.items() if value.strip()}
    return {name: value.strip() for name, value in variables.items() if value and value.strip()}


def provider_name(config: Config) -> str:
    """The provider that is named, else the first whose key is set, else the practice model."""
    if config.provider:
        return config.provider
    variables = environment()
    keyed = [name for name, row in PROVIDERS.items() if row.key in variables]
    return next(iter(keyed), "local" if config.base_url else "practice")


def provider_row(config: Config, name: str) -> Provider:
    """The provider's row. A recipe for base models needs an endpoint that continues texts."""
    row = PROVIDERS[name]
    if not RECIPES[config.recipe].continues_text:
        return row
    if row.send is send_dashscope or (row.key and not config.model):
        problem = f"--recipe {config.recipe} needs a model that continues texts"
        hint = "--provider local, or --provider openai --model davinci-002"
        raise WorkshopError(f"{problem}, at an endpoint /v1/completions: {hint}")
    return replace(row, cap="max_tokens", extra={})


def server_address(config: Config, provider: Provider, variables: dict[str, str]) -> str:
    """Where the server is: as told, as a variable says, or the provider's own address."""
    address = config.base_url or variables.get(provider.url_variable) or provider.base_url
    if address and not re.fullmatch(ADDRESS, address):
        raise WorkshopError(f"{provider.url_variable} is no address of a server: {address!r}")
    return address


# --------------------------------------------------------------------------------------------------
# The practice model: a bank of written tasks, some bad on purpose, that answers as chat models do.
# It is NOT a language model. The same prompt and --seed give the same reply.


def send_practice(model: Model, prompt: str, parameters: dict) -> Reply:
    """Look up an answer in the bank, and write it in one of the styles of chat models."""
    config = model.config
    rng = random.Random(f"{config.seed}/{prompt}")
    text = practice_reply(config, rng, prompt)
    limit = 4 * parameters["max_tokens"]  # about four letters to a token
    finish = "length" if len(text) > limit else "stop"
    sizes = [math.ceil(len(part) / 4) for part in (prompt, text[:limit])]
    return Reply(text[:limit], finish, *sizes)


def practice_reply(config: Config, rng: random.Random, prompt: str) -> str:
    """A list of tasks, a verdict, or instances, as the prompt asks; "" to what it does not know."""
    bank = read_data("practice_tasks", config.language)
    lines = prompt.split("\n")
    if dangling_number(prompt):
        return practice_list(config, rng, bank, lines)
    # The instruction stands near the end; the recipe `paper` changes its capitals.
    asked = {line.casefold() for line in lines[-3:]}
    task = next((row for row in bank if row["instruction"].casefold() in asked), None)
    words = wording(config, "classify", CLASSIFY_PROMPT)
    if task and lines[-1] == words["question"]:
        answer = words["answers"][task["is_classification"]]
        return rng.choice(styles("verdict", config)).format(answer=answer)
    if task and task["instances"]:
        return practice_instances(config, rng, task)
    return ""


def styles(kind: str, config: Config) -> list[str]:
    """The ways to write something, from the bank; the frequent ones several times."""
    rows = [row for row in read_data("practice_styles") if row["kind"] == kind]
    rows = [row for row in rows if row["language"] in ("all", config.language)]
    base = RECIPES[config.recipe].continues_text
    fitting = [row for row in rows if not base or row["base_models"]]
    return [row["text"] for row in fitting for _ in range(row["weight"])]


def practice_list(config: Config, rng: random.Random, bank: list[dict], lines: list[str]) -> str:
    """Tasks of the bank, going on with the prompt's numbers; now and then a copy."""
    number = dangling_number("\n".join(lines))
    labelled = "classification" in lines[0] or "分类" in lines[0]
    fitting = [row["instruction"] for row in bank if row["is_classification"] or not labelled]
    tasks = rng.sample(fitting, min(config.tasks_asked, len(fitting)))
    if rng.random() < 0.2:  # models repeat what they are shown
        shown = rng.choice([lines[1], lines[-2]])
        tasks[-1] = re.sub(r"^(\d+\.|-) ", "", shown)

    # Base models go on right behind the dangling number, and so do chat models now and then.
    base = RECIPES[config.recipe].continues_text
    ways = styles("list", config)
    style = ways[0] if base else rng.choice(ways)
    listed = [style.format(n, task) for n, task in enumerate(tasks, number)]
    if base or rng.random() < 0.4:
        return "\n".join([tasks[0], *listed[1:]])
    return rng.choice(styles("opening", config)) + "\n".join(listed)


def practice_instances(config: Config, rng: random.Random, task: dict) -> str:
    """Instances of a task in the bank, one in ten with a slip."""
    wanted = min(config.instances_per_instruction, len(task["instances"]))
    chosen = rng.sample(task["instances"], wanted)
    if rng.random() < 0.1:
        slip = rng.choice(styles("slip", config))
        known = {name: task[name] for name in ("instruction", "name")}
        output = slip.format(input=chosen[0]["input"], **known)
        chosen[0] = {**chosen[0], "output": output}
    if rng.random() < 0.04:  # one example too many, a copy or a contradiction
        chosen.append(rng.choice([chosen[0], {**chosen[0], "output": task["name"]}]))

    # Base models number their examples.
    base = RECIPES[config.recipe].continues_text
    names = wording(config, "instances", INSTANCE_PROMPT)["fields"]
    examples = [
        example_text(one, names, task["is_classification"], n if base else 0)
        for n, one in enumerate(chosen, 1)
    ]
    return ("\n" if base else "\n\n").join(examples)


LITTLE = {"reasoning_effort": "low"}  # thinking costs tokens, and these tasks need little of it
PROVIDERS = {
    "openai": Provider(
        send_openai,
        base_url="https://api.openai.com/v1",
        key="OPENAI_API_KEY",
        model="gpt-6-luna",
        extra={"reasoning_effort": "none"},
        cap="max_completion_tokens",
        url_variable="OPENAI_BASE_URL",
    ),
    "dashscope": Provider(
        send_dashscope,
        base_url="https://dashscope.aliyuncs.com/api/v1",
        key="DASHSCOPE_API_KEY",
        model="qwen-plus",
        extra={"enable_thinking": False},
        url_variable="DASHSCOPE_HTTP_BASE_URL",
    ),
    "groq": Provider(
        send_openai,
        base_url="https://api.groq.com/openai/v1",
        key="GROQ_API_KEY",
        model="openai/gpt-oss-20b",
        extra=LITTLE,
    ),
    "huggingface": Provider(
        send_openai,
        base_url="https://router.huggingface.co/v1",
        key="HF_TOKEN",
        model="openai/gpt-oss-20b",
        extra=LITTLE,
    ),
    "local": Provider(send_openai, base_url="http://localhost:11434/v1"),  # Ollama's port
    "practice": Provider(send_practice, model="data/practice_tasks.jsonl"),
    "replay": Provider(send_replay, model="the journal's"),
}

# --------------------------------------------------------------------------------------------------
# The recipe `paper`: what the official code sends and how it reads a reply, its oddities included,
# so that the raw replies of a real run give that run's own results. It speaks to an endpoint that
# continues texts: base models go on writing.


def paper_parameters(config: Config, stage: str, labelled: bool) -> dict:
    """The sampling parameters of the official code; stages 2 and 3 take the likeliest answer."""
    sampling = {
        "generate": {
            "max_tokens": 1024,
            "top_p": 0.5,
            "presence_penalty": 2,
            "stop": ["\n\n", "\n16", "16.", "16 ."],
        },
        "classify": {"max_tokens": 3, "top_p": 0, "stop": ["\n", "Task"]},
        "instances": {
            "max_tokens": 300 if labelled else 350,
            "top_p": 0,
            "presence_penalty": 1.5,
            "stop": ["Example 6", "Task:"],
        },
    }
    temperature = config.temperature if stage == "generate" else 0.0
    return {"temperature": temperature, **sampling[stage]}


def paper_shots(stage: str, language: str) -> list[dict]:
    return [row for row in read_data("paper_demonstrations") if row["stage"] == stage]


def paper_instructions(reply: str, truncated: bool, first: int) -> list[str]:
    """Candidates of a stage-1 reply; a truncated one is dropped whole.

    >>> paper_instructions("add 2. \\n10. NASA is?", False, 9)
    ['Add 2.', 'Nasa is?']
    """
    items = [] if truncated else re.split(r"\n\d+\s?\. ", reply)
    texts = [" ".join(item.split()).capitalize() for item in items]
    return [text for text in texts if text]


def paper_instruction_problem(text: str) -> str:
    words = len(text.split())
    keyword = r"(?i)\b(images?|graphs?|pictures?|files?|maps?|draw|plot|go to)\b"
    rules = {
        "too_short": words <= 3,
        "too_long": words > 150,
        "keyword": bool(re.search(keyword, text)),
        "write_a_program": text.startswith("Write a program"),
        "leading_punctuation": text[:1] in string.punctuation,
        "not_ascii": not text[:1].isascii(),
    }
    return next((rule for rule, broken in rules.items() if broken), "")


def paper_scores(candidates: list[str], pool: list[str]) -> Any:
    """rouge_score's own float, 2pr / (p + r): for many an exact 0.7 it is 0.7000000000000001."""
    import numpy as np

    scores = modern_scores(candidates, pool)
    m = np.array([max(1, len(text)) for text in candidates])
    n = np.array([max(1, len(text)) for text in pool])
    lcs = np.rint(scores * np.add.outer(m, n) / 2)
    p = lcs / m[:, None]
    r = lcs / n
    return np.divide(2 * p * r, p + r, out=np.zeros_like(p), where=lcs > 0)


def paper_instances(reply: str, is_classification: bool, truncated: bool) -> Pairs:
    """Instances stand between the words `Class label:`, or else `Example`, wherever they occur."""
    if is_classification:
        pieces = [piece.strip().partition("\n") for piece in reply.split("Class label:")[1:]]
        pairs = [(rest.strip(), label.strip()) for label, _, rest in pieces]
    elif re.search(r"Example\s?\d*\.?", reply):
        pieces = re.split(r"Example\s?\d*\.?", reply)
        pairs = [paper_pair(piece) for piece in pieces if piece.strip()]
    elif re.search(r"Output\s*+\d*\s*:", reply):
        pairs = [paper_pair(reply)]
    else:
        pairs = []
    return pairs[:-1] if truncated else pairs


def paper_pair(piece: str) -> tuple[str, str]:
    """(input, output); without `Output:` all of it is the output."""
    source, *targets = re.split(r"Output\s*+\d*\s*:", piece)
    target = targets[0] if targets else piece
    source = source if targets else ""
    # The output ends at the next `Output:` or `Input:`.
    target = re.split(r"Input\s*+\d*\s*:", target.strip())[0]
    source = re.sub(r"^Input\s*+\d*\s*:", "", source.strip())
    return source.strip(), target.strip()


def paper_instance_problem(instruction: str, source: str, target: str) -> str:
    if source == target:
        return "output_equals_input"
    if not target:
        return "empty_output"
    return "unfinished" if source.strip().endswith(":") or target.strip().endswith(":") else ""


# --------------------------------------------------------------------------------------------------
# Recipes: rows of one table. Whatever `modern` and `paper` do in different ways stands here.


@dataclass(frozen=True)
class Recipe:
    """How one recipe asks, reads and judges."""

    # Asking.
    parameters: Callable[[Config, str, bool], dict]  # (config, stage, labelled) -> what is sent
    shots: Callable[[str, str], list[dict]]  # (stage, language) -> worked examples
    continues_text: bool  # for base models: /v1/completions instead of a chat
    languages: tuple[str, ...]  # for which it is made; empty: all
    instances_shown: int  # of a worked example
    colons: str  # what is cut off the end of an instruction in a list
    prompt_end: str  # base models go on writing, here on the next line
    limit_name: str  # who sets the longest reply; empty: --max-tokens
    # Reading.
    read_instructions: Callable[[str, bool, int], list[str]]  # (reply, truncated, first number)
    read_classification: Callable[[str], bool | None]
    read_instances: Callable[[str, bool, bool], Pairs]  # (reply, is_classification, truncated)
    # Judging.
    tokenize: Callable[[str], list[str]]
    scores: Callable[[list[str], list[str]], Any]
    highest_score: Callable[[float], float]  # threshold -> the highest score that is novel
    instruction_problem: Callable[[str], str]
    echo_problem: Callable[[str, set[str]], str]  # (candidate, lines of the prompt)
    tidy_input: Callable[[str, str], str]  # (instruction, input) -> input
    instance_problem: Callable[[str, str, str], str]  # (instruction, input, output)
    same_instance: Callable[[str, str], tuple]  # what two duplicates have in common
    clash_spoils_all: bool  # one contradiction turns away all instances of the task


def modern_parameters(config: Config, stage: str, labelled: bool) -> dict:
    """Stage 2 takes the likeliest answer."""
    temperature = 0.0 if stage == "classify" else config.temperature
    return {"max_tokens": config.max_tokens, "temperature": temperature}


RECIPES = {
    "modern": Recipe(
        parameters=modern_parameters,
        shots=modern_shots,
        continues_text=False,
        languages=(),
        instances_shown=1,
        colons=":：",
        prompt_end="",
        limit_name="",
        read_instructions=modern_instructions,
        read_classification=modern_classification,
        read_instances=modern_instances,
        tokenize=modern_tokenize,
        scores=modern_scores,
        # A score of exactly 0.7 is novel; an exact copy never is.
        highest_score=lambda threshold: min(threshold + 1e-9, 1 - 1e-9),
        instruction_problem=modern_instruction_problem,
        echo_problem=modern_echo_problem,
        tidy_input=modern_input,
        instance_problem=modern_instance_problem,
        same_instance=lambda source, target: (source,),
        clash_spoils_all=False,
    ),
    "paper": Recipe(
        parameters=paper_parameters,
        shots=paper_shots,
        continues_text=True,
        languages=("en",),
        instances_shown=5,
        colons=":",
        prompt_end="\n",
        limit_name="the limit of the paper",
        read_instructions=paper_instructions,
        read_classification=lambda reply: reply.strip() in ("Yes", "yes", "YES"),
        read_instances=paper_instances,
        tokenize=rouge_tokenize,
        scores=paper_scores,
        highest_score=lambda threshold: threshold,
        instruction_problem=paper_instruction_problem,
        echo_problem=lambda candidate, prompt_lines: "",
        tidy_input=lambda instruction, source: source,
        instance_problem=paper_instance_problem,
        same_instance=lambda source, target: (source, target),
        clash_spoils_all=True,
    ),
}


def parameters(config: Config, stage: str, labelled: bool = False) -> dict:
    """What a stage sends beside the prompt."""
    return RECIPES[config.recipe].parameters(config, stage, labelled)


# --------------------------------------------------------------------------------------------------
# What is shown and written about a run.

STAGE_FUNCTIONS = (
    generate_instructions,
    classify_instructions,
    generate_instances,
    filter_and_dedupe,
)
TITLES = {
    "generate": "Stage 1, generate: show the model tasks of the pool, ask for new ones, "
    "keep those that are fit and novel.",
    "classify": "Stage 2, classify: ask of every instruction whether it is a classification task, "
    "which decides how stage 3 asks.",
    "instances": "Stage 3, instances: ask for worked examples; for classification the label first, "
    "so that labels come out even.",
    "filter": "Stage 4, filter: drop empty, copied, contradictory, unfinished and duplicate "
    "instances; the rest is the dataset.",
}


@dataclass
class Results:
    """What a run has made so far. The stages fill it, so nothing is lost where one breaks off."""

    tasks: list[Task] = field(default_factory=list)
    rejected: list[dict] = field(default_factory=list)
    dataset: list[dict] = field(default_factory=list)
    novelty: list[int] = field(default_factory=list)  # new instructions of each stage-1 request
    status: str = "interrupted"
    seed_tasks: int = 0
    started: float = field(default_factory=time.monotonic)

    def begin(self, stage: str) -> None:
        """Forget what an earlier call of a stage has left, as when a notebook's cell runs again."""
        self.rejected = [row for row in self.rejected if row["stage"] != stage]
        self.dataset = []
        if stage == "generate":
            self.tasks = []
            self.novelty = []

    def reject(
        self,
        stage: str,
        rule: str,
        *texts: str,
        pair: tuple = (None, None),
        why: tuple = ("", None),
    ) -> None:
        """Note which instructions a rule turned away, or which instance `pair` of one.

        `why` is the evidence: the neighbour and its score.
        """
        for text in texts:
            row = {"stage": stage, "rule": rule, "instruction": text}
            row |= {"input": pair[0], "output": pair[1], "evidence": why[0], "score": why[1]}
            self.rejected.append(row)

    def rows(self, stage: str) -> list[dict]:
        """The rows of a stage's step file: a view of the tasks that came through it."""
        if stage == "filter":
            return self.dataset
        columns = ["id", "instruction", "is_classification", "instances"]
        columns = columns[: STAGES.index(stage) + 2]
        rows = []
        for task in self.tasks:
            if stage in task.notes:
                row = {name: getattr(task, name) for name in columns}
                rows.append(row | task.notes[stage])
        return rows


def candidate_notes(reply: Reply, request_idx: int, nearest: list, mean: float) -> dict:
    """What step 1 says of an instruction beside its text."""
    choices = [{"text": reply.text, "finish_reason": reply.finish_reason}]
    metadata = {"prompt": reply.prompt, "response": {"choices": choices}}
    metadata["created_at"] = reply.created_at
    notes = {"most_similar": dict(nearest), "avg_similarity_score": float(mean)}
    return notes | {"metadata": metadata, "request_idx": request_idx}


def run_stage(stage: str, config: Config, model: Model, tasks: list, results: Results) -> list:
    """One stage. Its step file is written when it ends, and also when it breaks off."""
    number = STAGES.index(stage)
    try:
        return STAGE_FUNCTIONS[number](config, model, tasks, results)
    except KeyboardInterrupt as stop:
        # Say how far it came.
        done = len(results.rows(stage))
        total = len(results.tasks) if number else config.num_instructions
        so_far = f"{done} of {total} done, {total - done} left"
        stop.args += (f"stage {number + 1}, {stage}: {so_far}",)
        raise
    finally:
        path = Path(config.work_dir) / STEP_FILES[number]
        write_whole(path, map(to_json, results.rows(stage)))


def greeting(config: Config, model: Model, results: Results) -> str:
    """Who answers, and whether that is a language model."""
    text = f"Self-Instruct: {results.seed_tasks} seed tasks, {config.num_instructions} new "
    text += f"by {model.name}, {one_line(model.model)}"
    if config.base_url:
        text += f" at {model.base_url}"
    if model.name == "practice":
        text += "\nThis is a bank of written tasks, NOT a language model: free, to learn with."
    if model.name == "practice" and not config.provider:
        text += " No API key was found: to go live, put one into .env (see .env.example)."
    if model.journal.torn:
        torn = "the last line of responses.jsonl was torn by a kill; it was cut off."
        text += f"\nnotice: {torn}"
    return text


def examples(stage: str, results: Results) -> list[str]:
    """Two things that the stage has just made, and two that it turned away, and why."""
    # Show one of each kind: the first of the classification tasks, and the last of the others.
    made = sorted(results.rows(stage), key=lambda row: not row.get("is_classification"))
    rejected = [row for row in results.rejected if row["stage"] == stage]
    rejected = [row for row in rejected if row["rule"] != "not_needed"]
    # A near copy teaches more than an exact one, so exact ones (score 1.0) come later.
    rejected.sort(key=lambda row: (not row["evidence"], row["score"] == 1.0, row["rule"]))

    lines: list[str] = []
    for row in first_and_last(made):
        lines += accepted_lines(row)
    for row in first_and_last(rejected):
        lines += rejected_lines(row)
    return lines


def first_and_last(rows: list) -> list:
    return rows if len(rows) < 2 else [rows[0], rows[-1]]


def accepted_lines(row: dict) -> list[str]:
    """A row of a step file for the screen."""
    lines = [f"  + {one_line(row['instruction'])}"]
    nearest = list(row.get("most_similar", {}).items())
    for neighbour, score in nearest[:1]:
        lines.append(f"      accepted; the nearest, at {score:.2f}: {one_line(neighbour, 70)}")
    instances = row.get("instances") or [{}]
    facts = row | instances[0]
    for name in ("is_classification", "input", "output"):
        if name in facts:
            lines.append(f"      {name}: {one_line(str(facts[name]))}")
    return lines


def rejected_lines(row: dict) -> list[str]:
    """A row of rejected.jsonl for the screen."""
    why = ""
    if row["evidence"]:
        why = f", at {row['score']:.2f}: {one_line(row['evidence'], 70)}"
    if row["output"] is not None:
        why += f", for the output {one_line(row['output'], 60)!r}"
    return [f"  - {one_line(row['instruction'])}", f"      rejected: {row['rule']}{why}"]


def write_summary(config: Config, model: Model, results: Results) -> dict:
    """Write rejected.jsonl, a complete run's dataset to `output_path`, and run.json."""
    folder = Path(config.work_dir)
    write_whole(folder / "rejected.jsonl", map(to_json, results.rejected))
    if config.output_path and results.status == "complete":
        write_whole(Path(config.output_path), map(to_json, results.dataset))

    who = {"provider": model.name, "model": model.model, "base_url": model.base_url}
    packages = ("openai", "dashscope", "rapidfuzz", "rouge-score")
    versions = {"self_instruct": __version__, "python": sys.version.split()[0]}
    versions |= {package: metadata.version(package) for package in packages}
    counts = {"seed_tasks": results.seed_tasks, "wanted": config.num_instructions}
    # "412 tokens" and "598 tokens" are one reason.
    reasons = [re.sub(r"(?<=\w )\d+", "N", why) for _, why in model.undone]
    summary = {
        "status": results.status,
        "settings": asdict(config) | who,
        "versions": versions,
        "counts": counts | count(model, results),
        "undone_because": Counter(reasons),
        "faults": model.faults,
        "refused_parameters": model.refused,
        "tokens": model.tokens,
        "spending": model.spending(results),
        "seconds": round(time.monotonic() - results.started, 1),
        "ended_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    write_whole(folder / "run.json", [json.dumps(summary, ensure_ascii=False, indent=2), "\n"])
    return summary


def count(model: Model, results: Results) -> dict[str, dict]:
    """What came into each stage and where it went: in = out + rejected + undone.

    In stage 1 what is undone are requests, which are not part of that sum.
    """
    rules: dict[str, Counter] = {stage: Counter() for stage in STAGES}
    for row in results.rejected:
        # Instances are counted in stage 4, those that were cut off in stage 3 too.
        cut_instance = (row["stage"], row["rule"]) == ("instances", "cut_off")
        rules["filter" if cut_instance else row["stage"]][row["rule"]] += 1

    counts: dict[str, dict] = {}
    for stage, rejected in rules.items():
        # A task without any instance ends in stage 3.
        out = sum(row.get("instances") != [] for row in results.rows(stage))
        undone = sum(failed == stage for failed, _ in model.undone)
        came = out + rejected.total() + (undone if stage != "generate" else 0)
        named = dict(rejected.most_common())
        counts[stage] = {"in": came, "rejected": named, "undone": undone, "out": out}

    last_ten = results.novelty[-10:] or [0]
    counts["generate"]["new_per_request"] = round(fmean(last_ten), 1)
    flags = Counter(row["is_classification"] for row in results.rows("classify"))
    counts["classify"]["classification"] = flags[True]
    counts["classify"]["not_classification"] = flags[False]
    counts["classify"]["unknown"] = flags[None]
    return counts


def funnel(config: Config, summary: dict) -> str:
    """The end of the talk: the table, notices, what it cost, the files, and what to do next."""
    done = STAGES.index(config.until) + 1
    lines = ["", *table_lines(config, summary["counts"], done), ""]
    lines += novelty_notice(config, summary)
    lines += cost_lines(config, summary)
    files = [*STEP_FILES[:done], "rejected.jsonl", "run.json"]
    lines.append(f"Files in {config.work_dir}: {', '.join(files)}")
    lines.append(next_step(config, summary))
    return "\n".join(lines)


def table_lines(config: Config, counts: dict, done: int) -> list[str]:
    """What came into each stage, and what each rule took; at the end what is left."""
    units = ("candidate instructions", "instructions", "tasks", "instances")
    lines = []
    for stage, unit in zip(STAGES[:done], units[:done], strict=True):
        rows = {f"{stage}: {unit}": counts[stage]["in"]}
        rows |= {f"  - {rule}": n for rule, n in counts[stage]["rejected"].items()}
        others = counts[stage].keys() - {"in", "rejected", "out"}
        for name, n in counts[stage].items():
            if name in others and n:
                rows[f"    {name}"] = n
        lines += [f"{name:<40} {n:>7}" for name, n in rows.items()]
    left = counts[config.until]["out"]
    return [*lines, f"{'left':<40} {left:>7}"]


def novelty_notice(config: Config, summary: dict) -> list[str]:
    """A line where stage 1 found fewer instructions than were wanted, or hardly new ones."""
    counts = summary["counts"]["generate"]
    made = counts["out"]
    wanted = config.num_instructions
    if made >= wanted and counts["new_per_request"] >= 1:
        return []
    rule = next(iter(counts["rejected"]), "no reply")
    ended = "few new ones by now"
    if made < wanted:
        ended = f"{config.patience} requests in a row found nothing new"
    line = f"notice: {made} of {wanted} instructions, {ended}, most often {rule}."
    if not counts["undone"]:
        line += " Seed tasks that vary more help, or --temperature 1, or --machine-tasks-shown 4."
    return [line]


def cost_lines(config: Config, summary: dict) -> list[str]:
    """Requests, tokens, time and money, and how many replies were cut."""
    spent = sum(map(Counter, summary["tokens"].values()), Counter())
    now = spent["asked_now"]
    cost = f"{spent['prompt']} + {spent['reply']} tokens in all; {summary['seconds']} s"
    dollars = summary["spending"].get("cost")
    if dollars:
        cost += f"; ${dollars:.4f}"
    lines = [f"{now} requests now, {spent['replies'] - now} replies from the journal; {cost}"]
    if spent["cut"]:
        limit = RECIPES[config.recipe].limit_name
        limit = limit or f"--max-tokens {config.max_tokens}; more asks again"
        lines.append(f"notice: {spent['cut']} replies were cut at {limit}.")
    if not now and not summary["undone_because"]:
        lines.append("Already complete: nothing was asked, nothing was paid.")
    return lines


def next_step(config: Config, summary: dict) -> str:
    """What to do next."""
    undone = sum(summary["undone_because"].values())
    if undone:
        why = next(iter(summary["undone_because"]))
        return f"{undone} undone ({why}). The same command asks again for what got no reply."
    if config.until != "filter":
        return "To go on: the same command without --until."
    command = f"{sys.executable} self_instruct.py --report"
    return f"Next: {command}, a page to look at (or --show-prompts, or --help)"


# --------------------------------------------------------------------------------------------------
# The program.


def main(config: Config | None = None, action: Callable[[Config], Any] = run) -> int:
    """Do it, and return the exit code: 3 when something is undone, 130 or 143 when interrupted."""
    prepare_terminal()
    code = 1
    try:
        config = config or Config()
        result = action(config)
        if isinstance(result, int):
            return result
        return 3 if result and result["undone_because"] else 0
    except WorkshopError as error:
        problem = str(error)
        code = 2 if isinstance(error, UsageError) else 1
    except OSError as error:
        place = "the output" if isinstance(error, BrokenPipeError) else config.work_dir
        kept = "every reply so far is kept, the same command goes on"
        problem = f"{error.filename or place}: {error.strerror}; {kept}"
    except ModuleNotFoundError as error:
        install = f"{sys.executable} -m pip install -r requirements.txt"
        problem = f"{error}: run  {install}  first"
    except KeyboardInterrupt as interrupted:
        done = "; ".join(["interrupted: every reply so far is kept", *interrupted.args[1:]])
        command = shlex.join([sys.executable, *sys.argv])
        print(f"\n{done}; go on with: {command}", file=sys.stderr)
        return interrupted.args[0]
    print(f"error: {problem}", file=sys.stderr)
    return code


def prepare_terminal() -> None:
    """Make signals end the run in order, and the streams UTF-8."""
    with suppress(ValueError):  # not the main thread: a notebook handles signals itself
        signal.signal(signal.SIGINT, interrupt)
        signal.signal(signal.SIGTERM, interrupt)
    with suppress(AttributeError):  # a notebook's streams are not a terminal's
        sys.stdout.reconfigure(encoding="utf-8", errors="replace")
        sys.stderr.reconfigure(encoding="utf-8", errors="replace")


def interrupt(number: int, _: Any) -> None:
    """The first signal ends the run in order; a second one leaves at once."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    raise KeyboardInterrupt(128 + number)


def leave(code: int) -> None:
    """End this process without waiting for requests that are still in flight."""
    with suppress(OSError, AttributeError):  # nobody may be reading any more
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    leave(main())
