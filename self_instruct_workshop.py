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

Map: the lesson, lines 1-648: settings, Task, the whole workshop, stage 1, similarity, stages 2-4;
the machine room, lines 649-6599: reading what chat models write, checking settings, seed tasks,
topics, files, asking, providers, practice, the recipe `paper`, what is shown, the program.
"""

from __future__ import annotations

import sys

if sys.version_info < (3, 11):
    raise SystemExit(f"Python 3.11 or newer is needed, and this is {sys.version.split()[0]}")

import math
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

__version__ = "0.1.0"
DATA = Path(__file__).resolve().parent / "data"
STAGES = ("generate", "classify", "instances", "filter")
Pairs = list[tuple[str, str]]  # (input, output) of instances
Prompt = str | list[dict[str, str]]  # a text, or the turns of a chat

# --------------------------------------------------------------------------------------------------
# Settings. Each number stands here once; the command line and run.json are made from these lines.


def setting(default: Any, help: str, low: float = -math.inf, high: float = math.inf) -> Any:
    """A field of Config with its help text and its bounds (both ends allowed)."""
    return field(default=default, metadata={"help": help, "low": low, "high": high})


@dataclass
class Config:
    """All settings of a run. Raises UsageError for a value out of bounds."""

    # What it costs: about 2.8 requests for each instruction, each reply at most max_tokens long.
    num_instructions: int = setting(100, "machine tasks to make (the paper made 52,445)", 1)
    max_tokens: int = setting(512, "longest reply, in tokens; what is cut off there is lost", 1)
    instances_per_instruction: int = setting(1, "instances asked for per task", 1, 5)
    # Who answers.
    provider: str = setting("", "who answers; default: the first whose key is set, else practice")
    model: str = setting("", "model name; default: the provider's")
    base_url: str = setting("", "address of the server; default: the provider's")
    classify_model: str = setting("", "model of stage 2; default: --model")
    classify_provider: str = setting("", "who answers stage 2; default: --provider")
    classify_base_url: str = setting("", "address of the server of stage 2; default: --base-url")
    instances_model: str = setting("", "model of stage 3; default: --model")
    instances_provider: str = setting("", "who answers stage 3; default: --provider")
    instances_base_url: str = setting("", "address of the server of stage 3; default: --base-url")
    responses: str = setting("", "the journal that --provider replay answers from")
    temperature: float = setting(0.7, "of stage 1; stages 2 and 3 take 0 (paper: 0.7, 0, 0)", 0, 2)
    # What goes in, and where it comes out.
    seed_file: str = setting("", "seed tasks, as .jsonl, .json or .txt; default: this project's")
    language: str = setting("en", "language of the prompts and of the default seed tasks")
    work_dir: str = setting(str(DATA / "workshop"), "folder for everything a run writes")
    output_path: str = setting("", "also write the dataset here: .jsonl, .json, .csv or .parquet")
    overwrite: bool = setting(False, "let --output-path replace a file that no run wrote")
    until: str = setting("filter", "stop after this stage; the next call goes on")
    # How stage 1 looks for new tasks.
    rouge_threshold: float = setting(0.7, "highest ROUGE-L with any other instruction", 0, 1)
    tasks_shown: int = setting(8, "tasks shown in a prompt (paper: 8)", 1, 50)
    machine_tasks_shown: int = setting(2, "machine tasks among them, at most (paper: 2)", 0, 50)
    tasks_asked: int = setting(8, "new tasks asked for in a prompt (paper: about 8)", 1, 50)
    classification_every: int = setting(4, "every n-th prompt asks for classification; 0: none", 0)
    patience: int = setting(10, "requests in a row without anything new that end stage 1", 1)
    seed: int = setting(42, "random seed: which tasks a prompt shows, what the practice model says")
    topics: str = setting("", "file of topics that prompts take in turn, each with its share")
    # How requests are sent.
    concurrency: int = setting(8, "requests in flight: changes how fast, never what", 1, 256)
    max_attempts: int = setting(6, "times a request is sent before its task is left undone", 1)
    request_timeout: float = setting(60.0, "seconds of silence that end a request", 0.1, 86400)
    deadline: float = setting(300.0, "seconds for a request with all its retries", 0.1, 86400)
    first_wait: float = setting(0.5, "seconds before the first retry; doubles up to 30", 0, 30)
    second_try: bool = setting(True, "ask again where a reply holds no usable instance")
    second_answer: bool = setting(True, "ask for short answers twice; reject what differs")
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
    seed_tasks = load_seed_tasks(seed_path(config), config.language)
    results = first_results(config, seed_tasks)
    # The model holds the journal, and a lock on the folder as long as the run goes on.
    with (model_class or Model)(config) as model:
        say(greeting(config, model, results))
        tasks = seed_tasks
        try:
            # Each stage takes the tasks of the one before, and returns those that go on.
            for stage in STAGES[: STAGES.index(config.until) + 1]:
                say("\n" + screen(config)["titles"][stage])
                tasks = run_stage(stage, config, model, tasks, results)
                say(stage_page(stage, config, model, results))
            results.status = "complete" if stage == "filter" else f"stopped after {stage}"
        finally:
            # After Ctrl-C and after an error too: what is there by then is written down.
            summary = write_summary(config, model, results)
    say(funnel(config, summary))
    return summary


# --------------------------------------------------------------------------------------------------
# Stage 1, generate instructions (paper, section 2.2): show eight tasks, ask for new ones, keep
# those that are fit and novel.

VARIED = "Mix commands and questions, everyday and expert subjects, shorter and longer ones."
LABELLED = "Each is answered by one label of a small set; its sentence names all the labels."
GENERATE_PROMPT = {  # other languages: data/prompts.jsonl
    "prompt": """\
Write {asked} new {kind}, as users give them to a language model. Examples:

{shown}

What is asked of the new ones:
- Make them differ from each other and from the examples: other verbs, other topics, \
other kinds of work.
- {hint}
- A task must be clear on its own, and reading and writing must be enough to do it: \
nothing with pictures, sound, files or the web, nothing about your own life.
- Write one task on each line, a whole sentence without its answer, numbered {number} to {last}.

{number}.""",
    # What most prompts ask for, and what every fourth prompt asks for: [kind, hint].
    "kinds": [["tasks", VARIED], ["classification tasks", LABELLED]],
    "topic": "Every task is about {}, each about another side of it. ",  # with --topics
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
    results = results or Results()
    results.begin("generate", config)
    # The pool begins with the seed tasks.
    pool = InstructionPool(config.recipe)
    for task in seed_tasks:
        pool.add(task.instruction)
    shape = question_shape(config, seed_tasks)

    def ask(request: tuple[int, str]) -> Reply:
        request_idx, prompt = request
        question = shape | {"request_idx": request_idx}
        return model.ask("generate", prompt, parameters(config, "generate"), question)

    def plan(in_flight: int) -> list[tuple[int, str]]:
        """The next requests, when so many are on their way."""
        number = requests_ahead(config, len(results.tasks), dry, in_flight)
        turns = results.turns.ahead(number)
        # Each prompt shows tasks of the pool as it stands by now.
        shown = partial(instruction_prompt, config, seed_tasks, results.tasks)
        return [(request_idx, shown(request_idx, lead)) for request_idx, lead in turns]

    dry = 0  # requests in a row that brought nothing new; with topics, of each topic at least
    bar = progress(model, "1 generate", config.num_instructions)
    with bar, neighbours_in_bulk(pool, results):
        # Replies are taken in the order of the requests, so --concurrency changes nothing.
        for (request_idx, prompt), reply in model.ask_each("generate", ask, plan):
            new = take_candidates(config, pool, reply, request_idx, results) if reply else 0
            asked = reply.prompt if reply else prompt
            dry = results.turns.note(request_idx, asked, new, results)
            results.novelty.append(new)
            show_novelty(bar, results.novelty)
    return results.tasks


def instruction_prompt(
    config: Config, seed_tasks: list[Task], accepted: list[Task], request_idx: int, lead: str = ""
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

    words = wording(config, "generate", GENERATE_PROMPT)
    kind, hint = words["kinds"][labelled]
    lines = []
    for number, task in enumerate(shown, 1):
        text = " ".join(task.instruction.split())
        lines.append(f"{number}. {text.rstrip(RECIPES[config.recipe].colons)}")
    hint = lead + hint  # with topics, which one this prompt is about
    slots = {"asked": config.tasks_asked, "kind": kind, "hint": hint, "shown": "\n".join(lines)}
    last = len(lines) + config.tasks_asked
    return words["prompt"].format(**slots, number=len(lines) + 1, last=last)


def take_candidates(
    config: Config, pool: InstructionPool, reply: Reply, request_idx: int, results: Results
) -> int:
    """Accept or reject each candidate of a reply, in order; return how many were accepted."""
    before = len(results.tasks)
    room = results.room(config, reply.prompt)  # how many more are wanted, on the reply's topic
    recipe = RECIPES[config.recipe]
    # Of a reply that was cut at max_tokens, the last candidate is lost.
    whole, cut_off = read_candidates(recipe, reply)
    results.reject("generate", "cut_off", *cut_off)

    # The first rule that a candidate breaks turns it away: too_short, refusal, small_talk...
    # A candidate that keeps all rules and is novel joins the pool.
    limit = recipe.highest_score(config.rouge_threshold)
    shown = set(reply.prompt.split("\n"))
    for candidate, nearest in compared(pool, whole, limit):
        rule = recipe.instruction_problem(candidate)
        rule = rule or recipe.echo_problem(candidate, shown, known_inside(pool, candidate))
        if rule:
            results.reject("generate", rule, candidate)
        elif nearest:
            results.reject("generate", "too_similar", candidate, why=nearest)
        elif len(results.tasks) - before >= room:
            results.reject("generate", "not_needed", candidate)
        else:
            results.accept(candidate, partial(candidate_notes, reply, request_idx), len(pool))
            pool.add(candidate)
    note_neighbours(pool, results)  # the nearest of each, for step 1's file
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
        self.codes = Characters()  # token -> its character
        self.ready: dict[str, str] = {}  # the texts that are compared right now, coded
        self.fast: dict[str, Any] = {}  # how Part II finds the similar ones of a large pool

    def __len__(self) -> int:
        return len(self.instructions)

    def add(self, instruction: str) -> None:
        self.instructions.append(instruction)
        self.coded.append(self.code(instruction))

    def code(self, text: str) -> str:
        if text in self.ready:
            return self.ready[text]
        tokens = tokenize(text, recipe=self.recipe)
        return "".join([self.codes[token] for token in tokens])

    def similarities(self, candidates: list[str], start: int = 0) -> Any:
        """ROUGE-L of all pairs, a float64 array (len(candidates), len(pool) - start)."""
        coded = [self.code(text) for text in candidates]
        return RECIPES[self.recipe].scores(coded, self.coded[start:])

    def nearest(self, instruction: str, k: int = 10) -> list[tuple[str, float]]:
        """The k most similar instructions with their scores; of equal ones, the older first."""
        return self.top(self.similarities([instruction])[0], k)

    def top(self, scores: Any, k: int = 10) -> list[tuple[str, float]]:
        return [(self.instructions[i], float(scores[i])) for i in highest(scores, k)]


# --------------------------------------------------------------------------------------------------
# Stage 2, which are classification tasks? (paper, section 2.2) The answer decides how stage 3 asks.
# "Yes or No?" is answered Yes by small models, whatever the task. So we ask for the options.

CLASSIFY_PROMPT = {
    "header": """\
Some tasks ask to choose: the answer can only be one of a few fixed options. \
All other tasks have a free answer: a text, a list, a number, a name, code.
For each task, write the options among which the answer is chosen, all of them, \
or none if the answer is free. Do not do the task itself.""",
    "task": "Task:",
    "question": "Among which options is the answer chosen?",
    "answer": ["Options: none", "Options: {}"],
    "between": ", ",
}


def classify_instructions(
    config: Config, model: Model, tasks: list[Task], results: Results | None = None
) -> list[Task]:
    """Stage 2: set `is_classification` of every task; return the tasks that got an answer.

    The end of the prompt, and three replies to it. What cannot be read, twice, stays None.

        Task:
        Is the review positive or negative?
        Among which options is the answer chosen?

    >>> parse_classification("Options: positive, negative")
    True
    >>> parse_classification("Options: none")
    False
    >>> print(parse_classification("Please give me the review."))
    None
    """
    results = results or Results(tasks=tasks)
    model = model.of("classify")  # --classify-model may name another
    # Does the model say of seed tasks what people say? If not, its answers decide nothing.
    results.agreement = agreement_with_people(config, model, results.seeds, tasks)
    if not results.agreement["trusted"]:
        return leave_unknown(tasks)

    # A request that failed for good has no reply: its task goes no further in this run.
    replies = model.ask_each("classify", partial(ask_options, config, model), tasks)
    for task, reply in progress(model, "2 classify", len(tasks), replies):
        if reply:
            task.is_classification, labels = read_options(config, task.instruction, reply.text)
            when = {"created_at": reply.created_at}
            task.notes["classify"] = {"labels": labels, "response": reply.text, "metadata": when}
    return [task for task in tasks if "classify" in task.notes]


def classify_prompt(config: Config, instruction: str) -> Prompt:
    """What is asked, worked examples, then the task. The part that never changes stands first."""
    words = wording(config, "classify", CLASSIFY_PROMPT)
    shots = [options_turn(shot, words) for shot in words["shots"]]
    asked = f"{words['task']}\n{instruction}\n{words['question']}"
    return RECIPES[config.recipe].join(words["header"], shots, asked)


# --------------------------------------------------------------------------------------------------
# Stage 3, generate instances (paper, section 2.2): the input first; for classification the label
# first, or the inputs mostly have the same label.

INSTANCE_PROMPT = {
    "header": [  # input-first, output-first
        """\
Write worked examples of the task, {count} in number: an input that it could be given, \
and the complete, correct output to it.
Begin them with `Input:` and `Output:`, and write nothing else. \
If the task needs no input, leave it empty.""",
        """\
Write worked examples of the classification task, {count} in number: first the label, \
then an input that has it.
Begin them with `Class label:` and `Input:`, and write nothing else. \
Take another label each time.""",
    ],
    "start": [
        "Begin with the label that is named first.",
        "Begin with the label that is named last.",
    ],
    "label": "Begin with the label: {}",
    "task": "Task:",
    "fields": ["Input:", "Output:", "Class label:"],
}


def generate_instances(
    config: Config, model: Model, tasks: list[Task], results: Results | None = None
) -> list[Task]:
    """Stage 3: fill in `instances`; return the tasks that got at least one.

    The end of a prompt, and replies to it, which are read at the names of their fields:

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
    model = model.of("instances")  # --instances-model may name another
    replies = model.ask_each("instances", partial(ask_instances, config, model), tasks)
    for task, answer in progress(model, "3 instances", len(tasks), replies):
        if answer:
            reply, rule, again = answer
            take_instances(config, task, reply, results, rule, again)
    return [task for task in tasks if task.instances]


def ask_instances(config: Config, model: Model, task: Task) -> tuple[Reply, str, dict]:
    """Ask for instances; return the reply, the rule that a first one broke, second answers."""
    reply = ask_sample(config, model, task, instances_prompt(config, task))
    # Where nothing of it can be used, ask once more, and say which rule of form it breaks.
    rule = broken_form(config, task, reply)
    if rule and config.second_try and RECIPES[config.recipe].checks_model:
        reply = ask_sample(config, model, task, second_prompt(config, task, reply, rule), 1)
    else:
        rule = ""
    # A guess is seldom the same twice: ask for short answers again, without examples.
    return reply, rule, second_answers(config, model, task, reply)


def instances_prompt(config: Config, task: Task) -> Prompt:
    """What is asked, worked examples, then the task."""
    words = wording(config, "instances", INSTANCE_PROMPT)
    recipe = RECIPES[config.recipe]
    # The worked examples are of the same kind as the task: classification or not.
    labelled = bool(task.is_classification)
    header = words["header"][labelled].format(count=config.instances_per_instruction)
    shots = [shot_turn(shot, words, recipe) for shot in instance_shots(config, task)]

    # Labels take turns from task to task, so that each comes first about as often.
    lines = [words["task"], task.instruction]
    labels = labels_of(task)
    turn = sha256(task.instruction.encode()).digest()[0]
    if labelled and labels:
        lines.append(words["label"].format(labels[turn % len(labels)]))
    elif labelled and words["start"]:
        lines.append(words["start"][turn % 2])
    return recipe.join(header, shots, "\n".join(lines) + recipe.prompt_end)


def take_instances(
    config: Config, task: Task, reply: Reply, results: Results, rule: str = "", again: Any = ()
) -> None:
    """Fill in the instances of a reply; reject what was cut off, copied, or not there."""
    task.instances = []
    whole, cut_off = read_instances(config, task, reply)
    for pair in cut_off:
        results.reject("instances", "cut_off", task.instruction, pair=pair)
    for pair in whole:
        why = (copied_from(config, task, pair), 0.0)
        if why[0]:
            results.reject("instances", "copied_example", task.instruction, pair=pair, why=why)
        else:
            task.instances.append({"input": pair[0], "output": pair[1]})
    if not task.instances:
        results.reject("instances", "no_instance", task.instruction, pair=(None, reply.text))

    # The step file shows the raw reply beside what was made of it.
    when = {"finish_reason": reply.finish_reason, "created_at": reply.created_at}
    notes = {"first_problem": rule, "second_answers": in_order(task, dict(again))}
    task.notes["instances"] = notes | {"response": reply.text, "metadata": when}


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
        # An answer that was another one the second time is a guess.
        pairs = said_twice(config, task, results)
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
    return first_broken(rules) or form_problem(instruction, source, target)


# ==================================================================================================
# PART II, THE MACHINE ROOM. What the lesson stands on. A class need not read it; whoever trusts the
# program with 50,000 paid requests should.
# ==================================================================================================

# What only the machine room needs.
import errno
import io
import json
import os
import re
import shlex
import signal
import string
import threading
import time
import unicodedata
from array import array
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from copy import copy
from dataclasses import asdict, fields, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache, lru_cache
from importlib import metadata, util
from ipaddress import ip_address
from statistics import fmean
from urllib.parse import urlsplit

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
BULLET = re.compile(r" {0,2}[-*•·] +")
CHOICES = re.compile(  # what the labels of a task stand under: "Labels:"
    r"(?i)[ \t>#*_]*(?:(?:possible |available |class |answer |the )*"
    r"(?:labels|classes|categories|options|choices)"
    r"|(?:可选|备选|候选|分类|类别|答案)*(?:标签|选项|类别|答案))[*_]*[ \t]*[:：][*_]*[ \t]*"
)
LETTERED = re.compile(r"(?m)^[ \t]*[(（]?[A-Ea-e][)）.、．][ \t]*\S")  # "A) 4"
SEVERAL = re.compile(r"[、，,/|；;\n]")  # what stands between labels
LABEL = (
    r"(?:(?:(?:expected|sample|example|correct) )?(?:input|output|answer)"
    r"|class label|输入|输出|答案|类别标签)"
)
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
    |(?:new\s|新)?(?:task|instruction|任务|指令)\s*\d{0,3}\s*[:：]\s*        # "Task 3: Name..."
    )(?=\S)
    """
)
OPENING_MARKS = "\"'`“”‘„«「『《【（([<¿¡$€£¥√#@."  # with these an instruction may begin
RULES = (
    "small_talk",
    "refusal",
    "needs_more_than_text",
    "about_the_answerer",
    "prompt_echo",
    "answer_in_instruction",
    "unfinished",
)


def breaks(rule: str, text: str) -> bool:
    """Whether one of the rule's patterns in data/patterns.jsonl finds something in the text."""
    return bool(patterns(rule).search(text))


@cache
def patterns(rule: str) -> re.Pattern:
    """All patterns of a rule as one. data/patterns.jsonl has each with examples."""
    rows = [row for row in read_data("patterns") if row["rule"] == rule]
    return re.compile("|".join(f"(?:{row['pattern']})" for row in rows), re.I)


def without_thinking(reply: str) -> str:
    """The answer of a reply, without thoughts before it and marks of a chat template around it.

    >>> without_thinking("<think>2 + 2?</think>4<|im_end|>")
    '4'
    """
    reply = final_channel(START_MARK.sub("", reply.replace("\r", "")))

    # Thoughts stand first. One of their two marks may be missing.
    reply = THOUGHTS.sub("", reply)
    if not THOUGHT_BEGINS.search(reply):
        reply = THOUGHT_ENDS.split(reply)[-1]
    return before_end_mark(reply)


THOUGHT_NAMES = r"(?:seed:)?(?:think(?:ing)?|thoughts?|reasoning|scratchpad)"
THOUGHT_BEGINS = re.compile(rf"(?i)<{THOUGHT_NAMES}>|\[think\]|◁think▷|<\|begin_of_thought\|>")
THOUGHT_ENDS = re.compile(rf"(?i)</{THOUGHT_NAMES}>|\[/think\]|◁/think▷|<\|end_of_thought\|>")
THOUGHTS = re.compile(
    rf"(?is)\A(?:\s*(?:{THOUGHT_BEGINS.pattern[4:]}).*?(?:{THOUGHT_ENDS.pattern[4:]}|\Z))+"
)
START_MARK = re.compile(  # "<|im_start|>assistant": a turn of the model begins
    r"(?i)\A(?:\s*(?:<s>|<bos>|<start_of_turn>"
    r"|<\|(?:im_start|im_sep|begin_of_text|assistant|(?:start|end)_header_id)\|>)"
    r"(?:assistant|model)?)+"
)
END_MARK = re.compile(  # "<|im_end|>", "</s>", "<end_of_turn>": its turn is over
    r"<[|｜][^\W\d][\w▁]{1,30}[|｜]>|</?s>|<eos>|<(?:end|start)_of_turn>|\[/?INST\]"
)
CHANNEL = re.compile(r"<\|channel\|>(\w+)[^<\n]{0,40}(?:<\|constrain\|>\w+)?<\|message\|>")
MARK_QUOTES = "`'\"“‘「『"


def final_channel(reply: str) -> str:
    """Of a reply in channels, as gpt-oss writes them, the final one; "" where it has none."""
    # The server may have removed the marks and left the words.
    bare = re.match(r"\s*analysis.*?assistantfinal", reply, re.S)
    if bare:
        return reply[bare.end() :]

    # A text about the marks stays as it is.
    begins = reply.lstrip().startswith(("<|channel|>", "<|start|>"))
    if not begins and "<|start|>assistant<|channel|>" not in reply:
        return reply
    finals = [mark for mark in CHANNEL.finditer(reply) if mark[1] == "final"]
    return reply[finals[0].end() :] if finals else ""


def before_end_mark(reply: str) -> str:
    """The text up to the first mark that ends a turn. A mark that a sentence names stays."""
    for mark in END_MARK.finditer(reply):
        # "<s>old</s>" strikes a text through.
        struck = mark[0] in ("<s>", "</s>") and "<s>" in reply
        if not struck and not is_named(reply, mark):
            return reply[: mark.start()]
    return reply


def is_named(text: str, mark: re.Match) -> bool:
    """Whether a mark is what the text speaks of: in quotes, or a word of a sentence."""
    before = text[mark.start() - 1 : mark.start()]
    behind = text[mark.end() : mark.end() + 2]
    sentence = before == " " and re.match(r"[ ]\w|[?.,;:!)]", behind)
    chinese = re.match(r"[的是和与在表代有，。？、]", behind)
    return (before != "" and before in MARK_QUOTES) or bool(sentence or chinese)


def read_candidates(recipe: Recipe, reply: Reply) -> tuple[list[str], list[str]]:
    """The candidates of a reply, and those that were cut off at max_tokens."""
    first = dangling_number(as_text(reply.prompt))
    found = recipe.read_instructions(reply.text, False, first)
    whole = recipe.read_instructions(reply.text, True, first) if reply.cut else found
    return whole, found[len(whole) :]


def parse_instructions(
    reply: str, *, truncated: bool = False, recipe: str = "modern", first: int = 9
) -> list[str]:
    """Read the numbered tasks out of a stage-1 reply; a truncated one loses its last.

    `first` is the number at which the prompt broke off.

    >>> parse_instructions("Sure!\\n1. Add 2 and 3.\\n2. **Spell it.**")
    ['Add 2 and 3.', 'Spell it.']
    """
    return RECIPES[recipe].read_instructions(reply, truncated, first)


def instruction_problem(text: str, *, recipe: str = "modern") -> str:
    """Name the rule that a candidate breaks, "" if it is fine. (The pool judges novelty.)

    >>> instruction_problem("Draw a cat that sleeps on a roof.")
    'needs_more_than_text'
    """
    return RECIPES[recipe].instruction_problem(text)


def parse_classification(reply: str, *, recipe: str = "modern") -> bool | None:
    """Whether a stage-2 reply names options, or says Yes; None: could not tell."""
    return RECIPES[recipe].read_classification(reply)


def parse_instances(
    reply: str, is_classification: bool, *, truncated: bool = False, recipe: str = "modern"
) -> Pairs:
    """Read (input, output) pairs out of a stage-3 reply; a truncated one loses its last."""
    return RECIPES[recipe].read_instances(reply, is_classification, truncated)


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
    begins = False
    if number == 1 and not inner:
        text_since = reply[marks[-1].end() : mark.start()]
        last_line = text_since.rstrip().rpartition("\n")[2]
        begins = bool(COLON.fullmatch(text_since) or CHOICES.fullmatch(last_line))
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
    # continues with the number after that. Else it is mostly small talk.
    lead = reply[: marks[0].start()]
    number = int(marks[0][2])
    follows = number == first + 1 and not breaks("list_title", first_line(lead))
    if follows or (number == 1 != first and is_first_task(lead)):
        items.insert(0, lead)
    return items


def first_line(text: str) -> str:
    return text.strip().partition("\n")[0].strip("*_# ")


def is_first_task(lead: str) -> bool:
    """Whether the text before a list that begins again at 1 is a task: one whole sentence."""
    lines = [line.strip() for line in lead.split("\n") if line.strip()]
    lines = [line for line in lines if not is_list_title(line)]
    if len(lines) != 1 or not lines[0].endswith((".", "?", "!", "。", "？", "！")):
        return False
    return len(tokenize(lines[0])) >= 3 and not breaks("speaks_of_tasks", lines[0])


def is_list_title(line: str) -> bool:
    """Whether a line stands above tasks, and is none: "New tasks:", "Sure!"."""
    return breaks("small_talk", line.strip()) or breaks("list_title", line.strip("*_# \t"))


def unnumbered_items(reply: str) -> list[str]:
    """The texts of a bullet list, or else the lines. A task keeps the bullets below it."""
    lines = [line for line in reply.split("\n") if not is_list_title(line)]
    owned = bullets_of_tasks(lines)
    bullets = {n for n, line in enumerate(lines) if n not in owned and BULLET.match(line)}
    if bullets:
        starts = sorted(bullets | set(owned.values()))
    else:
        # "Add these numbers:" and the numbers below it are one task.
        long_colons = {
            n for n, line in enumerate(lines) if len(line) > 15 and line.endswith((":", "："))
        }
        starts = [n for n in range(len(lines)) if n not in owned and n - 1 not in long_colons]
    ends = [*starts[1:], len(lines)][: len(starts)]
    items = ["\n".join(lines[n:end]) for n, end in zip(starts, ends, strict=True)]
    return [BULLET.sub("", item, count=1) if BULLET.match(item) else item for item in items]


def bullets_of_tasks(lines: list[str]) -> dict[int, int]:
    """The lines that belong to a task above them, each with the line of that task."""
    owned: dict[int, int] = {}
    head = -1  # the last line that is neither blank nor a bullet of a task
    n = 0
    while n < len(lines):
        end = end_of_bullets(lines, n)
        if CHOICES.fullmatch(lines[n]) and head >= 0:
            # "Labels:", and the labels below it.
            end = end_of_bullets(lines, n + 1)
            owned |= dict.fromkeys(range(head + 1, end), head)
        elif end > n and head >= 0 and belongs_below(lines[head], lines[n:end], n - head > 1):
            owned |= dict.fromkeys(range(head + 1, end), head)
        elif lines[n].strip():
            head = max(n, end - 1)
        n = max(n + 1, end)
    return owned


def end_of_bullets(lines: list[str], start: int) -> int:
    """The line behind the bullets that begin at this one; the line itself if it is none."""
    end = start
    while end < len(lines) and BULLET.match(lines[end]):
        end += 1
    return end


def belongs_below(head: str, bullets: list[str], gap: bool) -> bool:
    """Whether bullets are part of the task above: "Compare these cities:", "- Rome", "- Oslo"."""
    head = head.strip("*_# \t")
    points = breaks("points_below", head)
    if BULLET.match(head) or (len(tokenize(head)) < 3 and not points):
        return False
    # Bullets of a word or two are no tasks themselves.
    texts = [BULLET.sub("", bullet, count=1) for bullet in bullets]
    short = sum(count_words(tokenize(text)) < 3 for text in texts)
    if 2 * short > len(texts) or points:
        return True
    return not gap and head.endswith((".", "?", "!", "。", "？", "！"))


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
    kept = 2 if paragraphs[0].rstrip().endswith((":", "：")) else 1
    # The labels or options to choose from belong to the task.
    while paragraphs[kept:] and names_choices("\n\n".join(paragraphs[kept : kept + 2])):
        kept += 2 if CHOICES.fullmatch(paragraphs[kept]) else 1
    return "\n".join(paragraphs[:kept])


def names_choices(text: str) -> bool:
    """Whether a text begins with the labels of a task: "Labels: good, bad", "A) 4"."""
    title = CHOICES.match(text)
    if title:
        first = text[title.end() :].strip().split("\n\n")[0]
        return bool(SEVERAL.search(first))
    return len(LETTERED.findall(text.split("\n\n")[0])) > 1


OPTIONS = re.compile(  # "Options: good, bad", "**选项**：好、坏"
    r"(?im)^[^\w\n]*(?:options?|labels?|选项|标签|类别标签)[^\w\n:：]*[:：][ \t]*(.*)$"
)
NO_OPTIONS = re.compile(r"(?i)none\b.*|n/?a|no (?:options|labels)|free|无|没有")
BETWEEN_OPTIONS = re.compile(r"[,，、;；/\n]|\bor\b|或|还是")


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
    """True where options are named or the answer is Yes; None: neither can be read, or both."""
    if OPTIONS.search(reply):
        labels = modern_labels(reply)
        return None if labels is None else bool(labels)
    text = without_thinking(reply)
    text = re.sub(r"```(?:json)?|[*_`\"'“”‘’{}\[\]]", "", text).strip().lower()
    if breaks("undecided", text):  # "Yes or No"
        return None
    # Yes or No at the start, in the last line, or in a sentence.
    # "Yes, I can help with that. What is your question?" answers nothing.
    if breaks("offer", text):
        found = patterns("statement").search(text)
        return found["yes"] is not None if found else None
    last_line = text.rsplit("\n", 1)[-1]
    verdict = patterns("verdict")
    found = verdict.search(text) or verdict.search(last_line) or patterns("statement").search(text)
    return found["yes"] is not None if found else None


def modern_labels(reply: str) -> list[str] | None:
    """The options that a stage-2 reply names; [] where it says none; None: it names no set.

    A single option is no set: then the model did the task itself.
    """
    text = without_thinking(reply)
    found = OPTIONS.search(text)
    if not found:
        return None
    named = found[1].strip(" *`.。") or text[found.end() :]
    if NO_OPTIONS.fullmatch(named.strip()):
        return []
    parts = [part.strip(" \t-*•`.。\"'“”") for part in BETWEEN_OPTIONS.split(named)]
    labels = list(dict.fromkeys(filter(None, parts)))
    few = 2 <= len(labels) <= 12
    return labels if few and all(len(label) <= 40 for label in labels) else None


PLAIN_OPTIONS = re.compile(  # options that a question has without naming them
    r"(?i)yes|no|true|false|right|wrong|是|否|不是|对|错|不对|真|假|有|没有|能|不能|会|不会|可以|不可以"
)


def read_options(config: Config, instruction: str, reply: str) -> tuple[bool | None, list[str]]:
    """What a stage-2 reply says of a task, and the options that it names.

    Options that the task does not name are guesses, as "Sydney, Melbourne" under "What is the
    capital of Australia?" With them nothing is known, and stage 3 asks in the safe way. A task
    that asks for reasons or a difference has a free answer, whatever it names.
    """
    recipe = RECIPES[config.recipe]
    labels = recipe.read_labels(reply) or []
    if labels and breaks("asks_for_reasons", instruction):
        return False, []
    named = sum(is_option_of(instruction, label) for label in labels)
    if 2 * named < len(labels):
        return None, []
    return recipe.read_classification(reply), labels


def is_option_of(instruction: str, label: str) -> bool:
    """Whether a task names an option, asks for Yes or No, or gives a scale."""
    if PLAIN_OPTIONS.fullmatch(label):
        return True
    if label.isdigit():
        return bool(re.search(r"\d", instruction))
    return label.casefold() in instruction.casefold()


FIELD = re.compile(  # a field's name at the start of a line
    r"""(?ix)(?P<indent>[ \t]*)
    (?:[-*>][ \t]+                          # "- Input:"
      |\d+[.)、][ \t]*                      # "1. Input:"
      |(?:example|示例|例子?|样例)[ ]?\d*[:：][ \t]*)?  # "Example 1: Input:", "Example: Input:"
    (?P<mark>\#+[ ]*|(?P<bold>\*{1,2}|__))?  # "### Input", "**Input:**"
    (?P<sample>(?:sample|expected|example|correct)[ ]|[样示]例|预期|期望|参考|正确)?
    (?:(?P<input>input|输入)
      |output|输出
      |(?P<answer>answer|答案)
      |(?P<label>(?:class[ _])?label|类别标签|标签|类别))
    [ \t]*+\d*                              # "Output 2:"
    (?:(?:[:：](?(bold)(?:\*{1,2}|__)|(?!))  # "**Input:**"
        |(?:\*{1,2}|__)?[ \t]*[:：])         # "Input:", "**Input**:"
       (?P<gap>[ \t]*)
      |(?:\*{1,2}|__)?[ \t]*(?P<bare>)\Z)   # without a colon, it is the whole line
    """
)
EXAMPLE = (
    re.compile(  # the header of an example, alone on its line: "Example 2", "**示例一**", "2."
        r"(?i)\W*(?:(?:example|instance|示例|例子|样例|例)"
        r"[ \t]*+(?P<sure>[\d一二三四五六七八九十]{1,2})?|(?P<number>\d{1,2}))\W*"
    )
)
NEXT_TASK = re.compile(  # the model goes on with another task: "Task: Name a colour."
    r"(?i)[ \t]*(?:[#>*-]+[ ]+)?\**(?:next )?(?:task|任务)[ ]?[\d一二三四五]*\**[:：]\**[ \t]*(.*)"
)
NAMED = re.compile(r"\w+(?: \w+){0,2}[:：] *\S")  # "Word: happy", a field of an input


def modern_instances(reply: str, is_classification: bool, truncated: bool) -> Pairs:
    """The pairs of a reply, read at the names of its fields."""
    text = own_part(without_thinking(reply).strip())
    (_, lead), *found = split_fields(text, is_classification)
    # Where outputs come last, the first one may have an input without a name.
    given = given_before(lead)
    if given and found and found[0][0] == found[-1][0] == "output":
        found.insert(0, ("input", given))
    examples = group_fields(found, is_classification)

    # Chat models now and then leave out the field's name before the first or the only text.
    names = {name for name, _ in found}
    if not is_classification and names <= {"example"}:
        examples = unnamed_examples(lead, [body for _, body in found if body])
    # What goes on behind a dangling "Class label:" is one line.
    goes_on = "\n" not in lead and not breaks("small_talk", lead)
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
    lines = text.split("\n")
    code = lines_in_code(lines)
    fields = field_lines(lines, code, labelled)
    own_name = name_of_inputs(lines, fields)
    parts: list[tuple[str, list[str]]] = [("", [])]
    number = 0  # of the last header that is only a number
    for n, line in enumerate(lines):
        found = fields.get(n)
        name, body = parts[-1]
        if found:
            parts.append((field_name(found), []))
            line = behind_name(line, found, lines[n + 1 : n + 2])
        # "Sentence: ..." again, where the first input has no other name.
        elif own_name and name == "output" and not code[n] and line.startswith(own_name):
            parts.append(("input", []))
        elif not code[n]:
            header = EXAMPLE.fullmatch(line)
            below = first_field(lines, fields, n + 1)
            if header and is_header(header, below, labelled, name, "\n".join(body[-2:]), number):
                number = int(header["number"] or 0) or number
                parts.append(("example", []))
                line = ""
        parts[-1][1].append(line)
    texts = [(name, without_closing("\n".join(body))) for name, body in parts]
    return without_next_task(texts, labelled)


def lines_in_code(lines: list[str]) -> list[bool]:
    """For each line, whether a block of code is open where it begins."""
    found = []
    in_code = False
    for line in lines:
        found.append(in_code)
        if line.count("```") % 2 == 0:
            continue
        # "Output: ```python" opens a block, too.
        name = None if in_code else FIELD.match(line)
        text = line[name.end() :] if name else line
        if in_code or text.lstrip().startswith("```"):
            in_code = not in_code
    return found


def field_lines(lines: list[str], code: list[bool], labelled: bool) -> dict[int, re.Match]:
    """The lines that begin with a field's name, less those inside of code."""
    # Inside a block of code, "Output:" is code.
    found = {}
    for n, line in enumerate(lines):
        match = None if code[n] else FIELD.match(line)
        if match and (labelled or not match["label"]):
            found[n] = match

    # "# Output: 4" is a comment, unless all names are written so.
    headings = {n for n, match in found.items() if (match["mark"] or "").strip() == "#"}
    if len(headings) < len(found):
        found = {n: match for n, match in found.items() if n not in headings}

    # Only the plainest of the names count, and not those deep inside of code.
    kept = {}
    for kind in ("input", "output"):
        same = {n: match for n, match in found.items() if field_name(match) == kind}
        plainest = min(map(plainness, same.values()), default=0)
        same = {n: match for n, match in same.items() if plainness(match) == plainest}
        margin = min((len(match["indent"]) for match in same.values()), default=0)
        kept |= {n: match for n, match in same.items() if len(match["indent"]) < margin + 4}
    return kept


def field_name(found: re.Match) -> str:
    return "input" if found["input"] else "output"


def plainness(found: re.Match) -> int:
    """0 for "Output:", more for names that are also found inside of texts."""
    if found["answer"]:
        return 2
    unmarked = found["bare"] is not None and not found["mark"]
    return 1 if found["sample"] or unmarked else 0


def name_of_inputs(lines: list[str], fields: dict[int, re.Match]) -> str:
    """ "Sentence:", if that is how the text before the first output begins; else ""."""
    named = any(field_name(found) == "input" for found in fields.values())
    lead = given_before("\n".join(lines[: min(fields, default=0)]))
    begins = re.match(r"\w+(?: \w+){0,2}[:：]", lead)
    return begins[0] if begins and not named else ""


def behind_name(line: str, found: re.Match, below: list[str]) -> str:
    """What stands behind a field's name; "输出：**巴黎**" is not bold."""
    text = line[found.end() :]
    bold = BOLD.fullmatch(text.strip())
    alone = not below or not below[0].strip() or FIELD.match(below[0])
    tight = found["gap"] == "" or found["label"]
    # "**输出：巴黎**": the name and the text are one bold line.
    if found["bold"] and text.count(found["bold"]) == 1 and alone:
        text = text.rstrip().removesuffix(found["bold"])
    return bold[1] if bold and alone and tight else text


def first_field(lines: list[str], fields: dict[int, re.Match], start: int) -> re.Match | None:
    """The field whose name stands in the next line that is not blank, within three lines."""
    for n in range(start, min(start + 3, len(lines))):
        if lines[n].strip():
            return fields.get(n)
    return None


def is_header(
    header: re.Match, below: re.Match | None, labelled: bool, name: str, text: str, number: int
) -> bool:
    """Whether a line is the header of an example: "Example 2", or "2." with a field below it.

    `name` is the open field, `text` how it ends, and `number` the last header's own.
    """
    if header["sure"] or not below or not header["number"]:
        return bool(header["sure"] or below)
    marked = header[0].strip() != header["number"]
    # At the start of a reply, a digit may be the label that the prompt asks for.
    if name == "" or name == "example":
        return not text.strip() and (marked or not labelled or not below["input"])
    # "Input: 4\n7\nOutput: 11": here it is a line of the input.
    if not text.strip() or (name == "input" and not labelled and not below["input"]):
        return False
    return int(header["number"]) == number + 1 if number else marked and text.endswith("\n")


def without_next_task(texts: list[tuple[str, str]], labelled: bool) -> list[tuple[str, str]]:
    """The fields up to a task with which the model went on."""
    first = NEXT_TASK.match(texts[0][1])
    kept: list[tuple[str, str]] = []
    seen_label = False
    for name, text in texts:
        # Only a whole example is followed by another task.
        whole = name == "output" or (labelled and seen_label and name == "input")
        begins, task = next_task(text, labelled) if whole else (-1, "")
        if begins >= 0:
            text = without_closing(text[:begins])
        kept.append((name, text))
        # The same task again heads one more example.
        if begins >= 0 and not (first and task and first[1].strip() == task):
            break
        seen_label = name == "output" or (seen_label and name != "example")
    return kept


def next_task(text: str, labelled: bool) -> tuple[int, str]:
    """Where a task begins inside the text of a field, and the task; (-1, "") if none does."""
    lines = text.split("\n")
    at = 0
    for n, line in enumerate(lines):
        marked = NEXT_TASK.fullmatch(line)
        # "Task: ..." among "Name: ..." and "Due: ..." is part of a record.
        record = any(map(NAMED.match, [*lines[max(0, n - 1) : n], *lines[n + 1 : n + 2]]))
        if n and marked and not record:
            return at, marked[1].strip()
        apart = n == 1 or (n and not lines[n - 1].strip())
        if labelled and apart and breaks("next_task", line):
            return at, line.strip()
        at += len(line) + 1
    return -1, ""


def given_before(lead: str) -> str:
    """The input that stands without a name before the first output; "" if it is talk."""
    # Leave out the task, and paragraphs that are talk.
    lines = lead.split("\n")
    task = NEXT_TASK.fullmatch(lines[0])
    if task:
        lines = lines[1 if task[1].strip() else 2 :]
    paragraphs = re.split(r"\n[ \t]*\n", "\n".join(lines).strip())
    kept = [text for text in paragraphs if not is_talk(text.strip())]
    return "\n\n".join(kept).strip()


def is_talk(text: str) -> bool:
    """Whether a paragraph speaks of the examples, and is none."""
    if text.endswith((":", "：")) or breaks("small_talk", text) or not re.search(r"\w", text):
        return True
    if text.startswith("#") or BOLD.fullmatch(text):
        return True
    return breaks("talk_of_examples", text) and not NAMED.match(text)


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


ANSWERED = re.compile(  # what begins an answer, an example or an explanation behind a task
    r"""(?ix)
    [\s.。]*(?:[-–—*•][ \t]                               # "- ..."
    |\(?(?:e\.g\.|(?:for[ ]example|examples?|answer)\b)   # "e.g. ...", "(For example ..."
    |[（(]?(?:例[：:如]|比如|示例)                          # "例：...", "比如..."
    |\w+(?:[ ]\w+)?[ ]?[:：]                              # "Explanation: ...", "答案：..."
    |\d{1,2}[.)、][ \t]                                    # "1. To begin with, ..."
    |```|["“]                                             # code, or a quotation
    |(?:this|the)[ ]task[ ](?:is|requires|involves)\b
    |the[ ](?:correct[ ])?answer[ ])
    """
)
LABELLED = re.compile(r"[\s.。:：?？!！]+[-–—*•]?\s*\w+(?: \w+)?\s?[:：]")  # ": Label: ..."
# What matches ANSWERED has one of these in it: they are found much faster.
SIGN_OF_ANSWER = re.compile(
    r"""[-–—*•] |\d[.)、] |[:："“例]|```|e\.g\.|example|answer|比如|task [ir]"""
)
LONG_TASK = 24  # columns: a task from here on is no part of another one by chance


def modern_echo_problem(
    candidate: str, prompt_lines: set[str], near: Iterable[tuple[str, float]] = ()
) -> str:
    """Whether a candidate is a line of the prompt, or a known task with an answer behind it.

    Small models write an example again and explain it: by ROUGE-L that is new, as it is longer.
    `near` has the most similar instructions of the pool, with their scores.
    """
    if {candidate, f"- {candidate}"} & prompt_lines:
        return "prompt_echo"
    shown = [re.sub(r"^\d+\. ", "", line) for line in prompt_lines]
    close = [text for text, score in near if score]
    said = " ".join(candidate.casefold().split())
    if any(answers_itself(said, task) for task in shown + close):
        return "prompt_echo"
    # A task of the prompt may have lost its full stop: "Sort the words: Label: ..."
    ends = ".。:：?？!！"
    if any(answers_itself(said, task.rstrip(ends), LABELLED) for task in shown):
        return "prompt_echo"
    return ""


def answers_itself(said: str, task: str, sign: re.Pattern = ANSWERED) -> bool:
    """Whether a candidate, in small letters, is this task with what begins an answer behind it."""
    task = " ".join(task.casefold().split())
    if len(task) <= 5 or task not in said:
        return False
    before, _, behind = said.partition(task)
    whole = not before or columns(task) >= LONG_TASK
    return bool(whole and sign.match(behind))


def modern_input(instruction: str, source: str) -> str:
    """The input, or "" where it merely repeats the instruction."""
    asked = " ".join(instruction.split()).casefold()
    return "" if " ".join(source.split()).casefold() == asked else source


def form_problem(instruction: str, source: str, target: str) -> str:
    """What else makes an instance unfit: each is something that the instruction speaks of."""
    link = breaks("only_a_link", source) and not breaks("about_links", instruction)
    rules = {
        "merged_tasks": breaks("merged_tasks", instruction),
        "needs_more_than_text": link,
        "input_missing": not source.strip() and breaks("speaks_of_an_input", instruction),
        "no_code": breaks("asks_for_code", instruction) and not breaks("code", target),
        "answer_in_instruction": gives_away(instruction, target),
    }
    return first_broken(rules)


def first_broken(rules: dict[str, Any]) -> str:
    """The first rule that is broken, "" if none."""
    return next((rule for rule, broken in rules.items() if broken), "")


def gives_away(instruction: str, target: str) -> bool:
    """Whether an instruction ends in its own answer: "What is 2 + 2? (4)"."""
    last = re.search(r"(?<!or )(?<!, )[(（]([^()（）]+)[)）]\W*\Z", instruction[-200:])
    if not last or (len(last[1].strip()) == 1 and last[1].isascii() and not last[1].isdigit()):
        return False  # "in metres (m)"
    return tokenize(last[1]) == tokenize(target) != []


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
    return rouge_tokenizer()(text, None)


@cache
def rouge_tokenizer() -> Callable[[str, None], list[str]]:
    from rouge_score.tokenize import tokenize

    return tokenize


@cache
def token_pattern() -> Any:
    """A single character of a script without spaces, or a run of other letters and digits."""
    import regex

    scripts = "Han Hiragana Katakana Bopomofo Hangul Thai Lao Khmer Myanmar"
    single = "".join(rf"\p{{{script}}}" for script in scripts.split())
    letters = r"[\p{L}\p{M}\p{N}]"
    return regex.compile(rf"(?V1)[[{single}]&&{letters}]|[{letters}--[{single}]]+")


class Characters(dict[str, str]):
    """The character that stands for a token; a new token gets the next free one."""

    def __missing__(self, token: str) -> str:
        number = len(self)
        if number >= 0xD800:
            number += 0x800  # surrogates are no characters
        self[token] = chr(number)
        return self[token]


def modern_scores(candidates: list[str], pool: list[str]) -> Any:
    """ROUGE-L F1 of coded texts: a float64 array of shape (len(candidates), len(pool))."""
    import numpy as np
    from rapidfuzz.distance import Indel
    from rapidfuzz.process import cdist

    if not candidates or not pool:
        return np.zeros((len(candidates), len(pool)))
    scores = cdist(candidates, pool, scorer=Indel.normalized_similarity, dtype=np.float64)
    # Without tokens there is nothing in common; rapidfuzz says 1.0 for two empty texts.
    for i, text in enumerate(candidates):
        if not text:
            scores[i] = 0.0
    return scores


def highest(scores: Any, k: int) -> Any:
    """The places of the k highest scores, the highest first; of equal ones, the older first."""
    import numpy as np

    places = np.arange(len(scores))
    if len(scores) > k:
        # Most scores are low: where k are higher than that, only they need a look.
        for floor in (0.4, 0.25, 0.0):
            places = (scores >= floor).nonzero()[0]
            if len(places) >= k:
                break
        few = scores[places]
        places = places[few >= np.partition(few, -k)[-k]]
    order = (-scores[places]).argsort(kind="stable")
    return places[order][:k]


BLOCK = 64  # candidates that are compared together
SMALL = 1000  # instructions of a pool in which every pair is looked at: that takes a moment


def in_blocks(
    pool: InstructionPool, candidates: list[str], size: int = BLOCK
) -> Iterator[tuple[str, Any]]:
    """Yield each candidate with its scores; the caller may add to the pool in between."""
    import numpy as np

    for start in range(0, len(candidates), size):
        # Score a whole block against the pool of now: that is the fast way.
        known = len(pool)
        texts = candidates[start : start + size]
        pool.ready = {text: pool.code(text) for text in texts}
        for text, scores in zip(texts, pool.similarities(texts), strict=True):
            # What joined the pool since then is compared one by one.
            newer = pool.similarities([text], start=known)[0]
            yield text, np.append(scores, newer)


# --------------------------------------------------------------------------------------------------
# Similarity in a large pool: which instruction is more like a candidate than the limit? The answers
# are those of all pairs, and nearly no pair is looked at. scripts/scale/ has parts for a million.

Nearest = tuple[str, float]  # an instruction of the pool, and its score
FASTER: dict[str, Callable] = {}  # what scripts/scale/compiled.py puts in the place of parts here


def compared(
    pool: InstructionPool, candidates: list[str], limit: float
) -> Iterator[tuple[str, Nearest | None]]:
    """Yield each candidate with the most similar instruction; None if no score is above the limit.

    Of equal ones it is the older. The caller may add to the pool in between.
    """
    for start in range(0, len(candidates), BLOCK):
        texts = candidates[start : start + BLOCK]
        if len(pool) < SMALL:
            for text, scores in in_blocks(pool, texts):
                best = pool.top(scores, 1)
                yield text, best[0] if best and best[0][1] > limit else None
        else:
            yield from compared_in_large(pool, texts, limit)


def compared_in_large(
    pool: InstructionPool, texts: list[str], limit: float
) -> Iterator[tuple[str, Nearest | None]]:
    """The same by an index, which keeps what it knows of the pool from block to block."""
    index = pool.fast.get("index")
    if index is None or index.limit != limit:
        index = FASTER.get("index", SimilarIndex)(limit)
        pool.fast["index"] = index
    index.take(pool.coded)
    known = len(pool)
    pool.ready = {text: pool.code(text) for text in texts}
    block = [pool.ready[text] for text in texts]
    before: set[str] = set()  # texts of this block
    for text, coded, found in zip(texts, block, index.possible(block), strict=True):
        places = [place for place in found if place < known]
        # What joined the pool since then is compared, too, but for texts that are not alike.
        far = before - {block[number - known] for number in found[len(places) :]}
        places += [new for new in range(known, len(pool)) if pool.coded[new] not in far]
        yield text, nearest_of(pool, text, places, limit)
        before.add(coded)


def nearest_of(pool: InstructionPool, text: str, places: list[int], limit: float) -> Nearest | None:
    """The most similar of the instructions at these places, in their order, if above the limit."""
    if not places:
        return None
    coded = [pool.coded[place] for place in places]
    scores = RECIPES[pool.recipe].scores([pool.code(text)], coded)[0]
    best = int(scores.argmax())
    if scores[best] <= limit:
        return None
    return pool.instructions[places[best]], float(scores[best])


class SimilarIndex:
    """Which instructions may be more like a text than a limit: a few, and no other can be.

    Two texts of m and n tokens with a ROUGE-L above the limit have more than limit * (m + n) / 2
    tokens in common. A mark is a token with the number of its occurrence in the text: the second
    "the" is another mark than the first. So that many marks are in common, too.

    1. Sort the marks of both texts from rare to common. If all of the first few of one text
       (`few`) are missing in the other, too few are left. So the index knows, for each mark, the
       instructions that have it among their first few (prefix filter, Bayardo et al. 2007).
    2. Where a mark stands in both orders says how many can still follow (Xiao et al. 2008).
    3. A signature is 64 bits, one for each mark. A bit that only one text has is a mark that the
       other lacks.

    A mark that was seen later counts as rarer. What remains is to be compared by `scores`.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.share = max(limit, 1e-9)
        self.count = 0  # instructions that the index knows
        # Mark -> its number. One that was not there gets the number of those that are there.
        self.marks: defaultdict[str | tuple[str, int], int] = defaultdict()
        self.marks.default_factory = self.marks.__len__
        self.ready: dict[str, list[int]] = {}  # the texts of the last search -> their numbers
        self.entries: list[array] = []  # of each mark: entries of the instructions that have it
        self.sizes = array("q")  # of each instruction: its number of tokens
        self.signatures = array("Q")

    def take(self, coded: list[str]) -> None:
        """Learn the instructions of the pool that are new to the index."""
        news = coded[self.count :]
        self.hold([self.ready.get(text) or self.numbered(text) for text in news])
        self.count = len(coded)

    def possible(self, coded: list[str]) -> list[list[int]]:
        """For each coded text, what may be above the limit: places in the pool, in order, and
        behind the last place the numbers of texts before it (here all of them)."""
        block = [self.numbered(text) for text in coded]
        self.ready = dict(zip(coded, block, strict=True))
        found = self.search(block)
        return [[*places, *range(self.count, self.count + i)] for i, places in enumerate(found)]

    def numbered(self, coded: str) -> list[int]:
        """The numbers of a text's marks, the rarest first."""
        counts = Counter(coded)
        numbers = [self.marks[token] for token in counts]
        if len(counts) < len(coded):
            for token, times in counts.items():
                numbers += [self.marks[token, i] for i in range(1, times)]
        numbers.sort(reverse=True)
        return numbers

    def few(self, m: int) -> int:
        """How many of a text's m marks, the rarest first, must be looked up."""
        shortest = math.ceil(m * self.share / (2 - self.share) - 1e-6)
        needed = math.ceil(self.share * (m + shortest) / 2 - 1e-6)
        return m - max(1, needed) + 1

    def longest(self, m: int, i: int) -> int:
        """How long another text may be that shares none of the first i of m marks."""
        return min(int(2 * (m - i) / self.share - m + 1e-6), 0xFFFF)

    def hold(self, block: list[list[int]]) -> None:
        """Note new instructions. An entry has 32 bits for the place, 16 for the length of this
        text and 16 for the longest that the other may have."""
        self.make_room()
        for place, marks in enumerate(block, self.count):
            m = len(marks)
            self.sizes.append(m)
            self.signatures.append(signature(marks))
            for i in range(self.few(m) if m else 0):
                entry = place << 32 | min(m, 0xFFFF) << 16 | self.longest(m, i)
                self.entries[marks[i]].append(entry)

    def make_room(self) -> None:
        """An empty list of entries for each new mark."""
        self.entries += [array("q") for _ in range(len(self.marks) - len(self.entries))]

    def search(self, block: list[list[int]]) -> list[list[int]]:
        """The places in the pool, for texts whose marks are numbered."""
        import numpy as np

        self.make_room()
        # Look up the first few marks of all texts.
        parts, owners, longest = [], [], []
        for owner, marks in enumerate(block):
            m = len(marks)
            for i in range(self.few(m) if m else 0):
                if self.entries[marks[i]]:
                    parts.append(np.frombuffer(self.entries[marks[i]], np.int64))
                    owners.append(owner)
                    longest.append(self.longest(m, i))
        if not parts:
            return [[] for _ in block]
        entries = np.concatenate(parts)
        times = [len(part) for part in parts]
        owner = np.repeat(owners, times)

        # Too long or too short, or too few marks can follow.
        m = np.array([len(marks) for marks in block])[owner]
        fits = (entries >> 16 & 0xFFFF) <= np.repeat(longest, times)
        fits &= (entries & 0xFFFF) >= np.minimum(m, 0xFFFF)
        owner, m, place = owner[fits], m[fits], entries[fits] >> 32

        # Too many marks are only in one of the two.
        n = np.frombuffer(self.sizes, np.int64)[place]
        ours = np.array([signature(marks) for marks in block], np.uint64)[owner]
        theirs = np.frombuffer(self.signatures, np.uint64)[place]
        common = np.minimum(
            m - np.bitwise_count(ours & ~theirs), n - np.bitwise_count(theirs & ~ours)
        )
        fits = common >= self.share * (m + n) / 2 - 1e-6

        # Each pair once, in the order of the pool.
        pairs = np.unique(owner[fits] << 32 | place[fits])
        ends = np.searchsorted(pairs >> 32, range(1, len(block)))
        return [part.tolist() for part in np.split(pairs & 0xFFFFFFFF, ends)]


def signature(marks: list[int]) -> int:
    """64 bits, those of the marks set."""
    bits = 0
    for mark in marks:
        bits |= 1 << mark % 64
    return bits


def known_inside(pool: InstructionPool, candidate: str) -> Iterator[Nearest]:
    """The ten nearest instructions, if any of the pool may stand in the candidate; else none.

    Only such a one can be what `answers_itself` looks for, and it is rare.
    """
    inside = pool.fast.setdefault("inside", TextsInside())
    inside.take(pool.instructions)
    said = " ".join(candidate.casefold().split())
    if SIGN_OF_ANSWER.search(said) and inside.may_hold(said):
        yield from pool.nearest(candidate)


class TextsInside:
    """Whether a text holds an instruction of the pool, at its beginning or a long one anywhere.

    It knows, of each instruction in small letters, how it begins, its length and its hash.
    """

    HEAD = LONG_TASK // 2  # a character has at most two columns

    def __init__(self) -> None:
        self.count = 0
        self.sizes: dict[str, set[int]] = {}  # how texts begin -> the lengths of such texts
        self.hashes: set[int] = set()

    def take(self, instructions: list[str]) -> None:
        """Learn the instructions that are new."""
        for instruction in instructions[self.count :]:
            text = " ".join(instruction.casefold().split())
            self.sizes.setdefault(text[: self.HEAD], set()).add(len(text))
            self.hashes.add(hash(text))
        self.count = len(instructions)

    def may_hold(self, said: str) -> bool:
        """Whether one is inside, with what may begin an answer behind it."""
        # A short one is known by its whole text. It counts at the beginning only.
        for size in range(1, min(self.HEAD, len(said))):
            if said[:size] in self.sizes and ANSWERED.match(said, size):
                return True
        for start in range(len(said) - self.HEAD):
            for size in self.sizes.get(said[start : start + self.HEAD], ()):
                end = start + size
                if ANSWERED.match(said, end) and hash(said[start:end]) in self.hashes:
                    return True
        return False


# --------------------------------------------------------------------------------------------------
# What step 1's file says of an instruction: the ten most similar before it, and the mean of all
# scores. Here every pair counts, so the work is done for many instructions at once.

MANY = 2000  # instructions of which it is found at once
WORD = 64  # bits of a machine word
ALL_SET = 0xFFFF_FFFF_FFFF_FFFF


@contextmanager
def neighbours_in_bulk(pool: InstructionPool, results: Results) -> Iterator[None]:
    """Let accepted tasks wait for their neighbours. None waits behind it, after Ctrl-C neither."""
    results.at_once = MANY
    try:
        yield
    finally:
        results.at_once = 1
        note_neighbours(pool, results)


def note_neighbours(pool: InstructionPool, results: Results) -> None:
    """Complete the notes of the accepted tasks that wait, if enough of them do."""
    if len(results.waiting) < results.at_once:
        return
    places = [place for _, _, place in results.waiting]
    found = neighbours(pool, places)
    for (task, notes_of, _), (nearest, mean) in zip(results.waiting, found, strict=True):
        task.notes["generate"] = notes_of(nearest, mean) | task.notes["generate"]
    results.waiting.clear()


def neighbours(pool: InstructionPool, places: list[int]) -> Iterator[tuple[list[Nearest], float]]:
    """Of each of these places in the pool, which rise: the ten most similar before it, and the
    mean of its scores with all before it."""
    many = len(places) >= BLOCK
    if many and FASTER:
        yield from FASTER["neighbours"](pool, places)
        return
    rows = rows_of_many if many else rows_of_few
    for place, scores in zip(places, rows(pool, places), strict=True):
        scores = scores[:place]
        yield pool.top(scores), float(scores.mean())


def rows_of_few(pool: InstructionPool, places: list[int]) -> Iterator[Any]:
    """The scores of the instructions at these places with the pool, a row each."""
    if places:
        coded = [pool.coded[place] for place in places]
        yield from RECIPES[pool.recipe].scores(coded, pool.coded[: places[-1]])


def rows_of_many(pool: InstructionPool, places: list[int]) -> Iterator[Any]:
    """The same, some times faster.

    Two texts that share no token have no more to be done with. So a text's tokens are taken one
    after the other, and each only changes the rows of the instructions that hold it.
    """
    import numpy as np

    recipe = RECIPES[pool.recipe]
    coded = pool.coded[: places[-1] + 1]
    sizes = np.array([len(text) for text in coded])
    # Instructions of over 64 tokens do not fit into a machine word: rapidfuzz compares them.
    long = (sizes > WORD).nonzero()[0]
    long_coded = [coded[place] for place in long]
    holders = token_holders(coded, sizes)
    for start in range(0, len(places), BLOCK):
        block = places[start : start + BLOCK]
        far = recipe.scores([coded[place] for place in block], long_coded)
        for place, of_long in zip(block, far, strict=True):
            common = common_in_order(numbers_of([coded[place]]), *holders, len(coded))
            scores = recipe.score(common, len(coded[place]), sizes)
            scores[long] = of_long
            yield scores


def numbers_of(coded: list[str]) -> Any:
    """Coded texts, one behind the other, as an array of the numbers of their characters."""
    import numpy as np

    return np.frombuffer("".join(coded).encode("utf-32-le"), np.uint32).astype(np.int64)


def token_holders(coded: list[str], sizes: Any) -> tuple[Any, Any, Any]:
    """Which instructions hold a token, and where: arrays (starts, places, masks).

    Of the token with the number t they stand from starts[t] to starts[t + 1]: the place of the
    instruction, and a mask with bit i set where its token i is t.
    """
    import numpy as np

    # Every token with its text and its position there.
    tokens = numbers_of(coded)
    different = int(tokens.max(initial=-1)) + 1
    places = np.repeat(np.arange(len(coded)), sizes)
    positions = np.arange(len(tokens)) - np.repeat(sizes.cumsum() - sizes, sizes)
    short = sizes[places] <= WORD
    tokens, places, positions = tokens[short], places[short], positions[short]

    # Sort by token; of each text with the token put the bits together.
    order = tokens.argsort(kind="stable")
    tokens, places = tokens[order], places[order]
    bits = np.uint64(1) << positions[order].astype(np.uint64)
    first = np.ones(len(tokens), bool)
    first[1:] = (tokens[1:] != tokens[:-1]) | (places[1:] != places[:-1])
    masks = np.bitwise_or.reduceat(bits, first.nonzero()[0]) if len(bits) else bits
    counts = np.bincount(tokens[first], minlength=different)
    starts = np.concatenate([[0], counts.cumsum()])
    return starts, places[first], masks


def common_in_order(tokens: Any, starts: Any, places: Any, masks: Any, count: int) -> Any:
    """The longest common subsequence of a text with each of `count` instructions, in tokens.

    Bit i of a row is 0 where the token i of the instruction made the subsequence longer (Hyyrö,
    "Bit-parallel LCS-length computation revisited", 2004). Longer instructions have 0 here.
    """
    import numpy as np

    rows = np.full(count, ALL_SET, np.uint64)
    for token in tokens.tolist():
        held = slice(starts[token], starts[token + 1])
        old = rows[places[held]]
        hit = old & masks[held]
        rows[places[held]] = (old + hit) | (old - hit)
    return np.bitwise_count(~rows)


def modern_score(common: Any, m: int, n: Any) -> Any:
    """ROUGE-L F1 of texts of m and n tokens, as rapidfuzz computes it; without tokens 0."""
    import numpy as np

    if not m:
        return np.zeros(len(n))
    total = m + n
    return 1.0 - (total - 2.0 * common) / total


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


def seed_path(config: Config) -> str | Path:
    """The file with the seed tasks: the user's, or this project's in the language of the run."""
    return config.seed_file or DEFAULT_SEEDS[config.language]


def choices(name: str) -> tuple[str, ...]:
    """The values that a setting may have; none: any."""
    tables = {"provider": PROVIDERS, "recipe": RECIPES, "language": DEFAULT_SEEDS, "until": STAGES}
    if name.endswith("_provider"):
        return tuple(provider for provider in PROVIDERS if provider != "replay")
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
    if config.topics and RECIPES[config.recipe].continues_text:
        raise UsageError(f"--topics is not for --recipe {config.recipe}: its prompts name none")
    if config.output_path and Path(config.output_path).is_dir():
        problem = f"--output-path must be a file, and {config.output_path} is a folder"
        raise UsageError(problem)
    for name in ("base_url", "classify_base_url", "instances_base_url"):
        address = getattr(config, name)
        if address and not re.fullmatch(ADDRESS, address):
            example = "http://localhost:8000/v1"
            shown = re.sub("(?s).*@", "", address)  # no login
            flag = "--" + name.replace("_", "-")
            raise UsageError(f"{flag} must be like {example}, not {shown!r}")


def flag_of(setting: Any) -> str:
    """The flag of a setting; one that is on by default has a flag that turns it off."""
    name = setting.name.replace("_", "-")
    return f"--no-{name}" if setting.default is True else f"--{name}"


def checked_value(setting: Any, value: Any) -> Any:
    """A setting's value in its own type; None means the default. Raises UsageError."""
    flag = flag_of(setting)
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
WHO = ("provider", "model", "base_url")  # the settings that say who answers
RECORDED = (*SHAPE, "temperature", "recipe", "max_tokens")  # what a journal may decide


def take_recorded_settings(config: Config) -> None:
    """For a replay: take from the journal what shapes questions, where nothing else was said."""
    record = first_record(config.responses)
    for setting in fields(Config):
        unchanged = getattr(config, setting.name) in (None, setting.default)
        if setting.name in RECORDED and setting.name in record and unchanged:
            setattr(config, setting.name, record[setting.name])


def recorded_who(config: Config, stage: str) -> tuple[str, str]:
    """For a replay: the provider and the model that stage 2 or 3 asked.

    The journal may hold replies of several: run.json beside it may tell which ones count.
    """
    first = first_record(config.responses)
    who = (first["provider"], first["model"])
    summary = earlier_run(Path(config.responses).parent)
    said = who_answered(summary, stage) if who_answered(summary, "generate") == who else who
    found = []
    with open(config.responses, encoding="utf-8", errors="replace") as lines:
        for record in map(json_or_none, lines):
            if isinstance(record, dict) and record.get("stage") == stage:
                found.append((record.get("provider"), record.get("model")))
    return next((one for one in (said, who) if one in found), (*found, who)[0])


def who_answered(summary: dict, stage: str) -> tuple:
    """The provider and the model that answered a stage of a run, by its run.json."""
    settings = summary.get("settings")
    if not isinstance(settings, dict):
        return ("", "")
    names = ("provider", "model")
    return tuple(settings.get(f"{stage}_{name}") or settings.get(name) for name in names)


def config_of_stage(config: Config, stage: str) -> Config:
    """The settings of a stage with a model of its own: those of the run, unless it is named."""
    own = {name: getattr(config, f"{stage}_{name}", "") for name in WHO}
    if not any(own.values()):
        return config
    # Another provider has other models, and no key goes to an address that it was not meant for.
    same = own["provider"] == provider_name(config) and not own["base_url"]
    if (own["provider"] or own["base_url"]) and not same:
        return replace(config, **{**own, "provider": own["provider"] or "local"})
    return replace(config, model=own["model"] or config.model)


def first_record(journal: str) -> dict:
    """The first reply of somebody's journal: what was asked, of whom, with which settings."""
    try:
        with open(journal, encoding="utf-8") as file:
            record = json.loads(file.readline())
        readable = all(isinstance(record[name], str) for name in ("provider", "model"))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        readable = False
    if not readable:
        problem = "--provider replay needs --responses FILE, a journal"
        raise UsageError(f"{problem}, and {journal!r} is none")
    return record


# --------------------------------------------------------------------------------------------------
# Seed tasks: all that people write of the dataset (paper, section 2.1: 175, 25 of them
# classification). And the other files in data/.


def load_seed_tasks(path: str | Path, language: str = "") -> list[Task]:
    """Read seed tasks; exact duplicates are merged with a notice, in the language of the run.

    The file is .jsonl or .json with records of the official schema, at least
    {"instruction": ...}, or Alpaca rows, or .txt with one instruction a line. Raises
    WorkshopError, naming file and line.
    """
    tasks, merged = merged_seed_tasks(path)
    if merged:
        tell(f"notice: {path}: {merged} duplicates merged", language)
    return tasks


def merged_seed_tasks(path: str | Path) -> tuple[list[Task], int]:
    """The seed tasks of a file, and how many of its records were duplicates."""
    records = seed_records(Path(path))
    tasks: dict[str, Task] = {}
    for where, record in records:
        task = seed_task(where, record, len(tasks))
        # A duplicate may have other instances: Alpaca files repeat an instruction for each input.
        known = tasks.setdefault(task.instruction, task)
        known.instances += [pair for pair in task.instances if pair not in known.instances]
    if not tasks:
        raise WorkshopError(f"{path} holds no seed task: write at least one instruction into it")
    return list(tasks.values()), len(records) - len(tasks)


def seed_records(path: Path) -> list[tuple[str, Any]]:
    """What a seed file holds, as (where it stands, record)."""
    kind = path.suffix.lower()
    if kind not in (".jsonl", ".json", ".txt"):
        raise WorkshopError(f"the seed file {path} must be .jsonl, .json or .txt")
    text = file_text("the seed file", path)
    lines = numbered_lines(path, text)
    if kind == ".txt":
        return text_records(lines)
    # Many a file called .json holds a record on each line.
    if kind == ".json" and not (lines and isinstance(json_or_none(lines[0][1]), dict)):
        return array_records(path, text)
    return [(where, json_or_none(line)) for where, line in lines]


def numbered_lines(path: Path, text: str) -> list[tuple[str, str]]:
    """The lines with something on them, as (where it stands, line)."""
    lines = [(f"{path}, line {n}", line) for n, line in enumerate(text.split("\n"), 1)]
    return [(where, line) for where, line in lines if line.strip()]


def file_text(what: str, path: Path) -> str:
    """The text of a user's file. Raises WorkshopError where it cannot be read as UTF-8."""
    try:
        data = path.read_bytes()
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise WorkshopError(f"{what} {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        name = other_encoding(data)
        found = f"{name}, not UTF-8" if name else "not UTF-8 text"
        raise WorkshopError(f"{what} {path} is {found}: save it as UTF-8") from None
    except ValueError as error:
        raise WorkshopError(f"{what} {path}: {error}") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def other_encoding(data: bytes) -> str:
    """The name of the encoding that text other than UTF-8 seems to have; "" for most."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "UTF-16"
    try:
        letters = [c for c in data.decode("gb18030") if not c.isascii()]
    except UnicodeDecodeError:
        return ""
    # Text in another encoding gives rare characters, which the old GB2312 lacks.
    common = [c for c in letters if c.encode("gb2312", "ignore")]
    return "GBK" if len(common) > 0.9 * len(letters) else ""


LIST_MARK = re.compile(r"\s*(?:[-*•·]\s+|[(（]?\d{1,3}(?:[.)](?:\s+|$)|[．、）]\s*))?")
LABEL_MARK = re.compile(r"(?i)(?:\[classification\]|[\[【]分类[\]】])\s*")


def text_records(lines: list[tuple[str, str]]) -> list[tuple[str, Any]]:
    """A record for each line of a .txt, without the mark of a list in front of it.

    A line that begins with [classification] or 【分类】 is a classification task. Where a file
    marks such tasks, the other lines are none.
    """
    texts = [(where, line[LIST_MARK.match(line).end() :]) for where, line in lines]
    marks = any(LABEL_MARK.match(text) for _, text in texts)
    records = []
    for where, text in texts:
        flag = bool(LABEL_MARK.match(text)) if marks else None
        instruction = LABEL_MARK.sub("", text, count=1) if flag else text
        if instruction.strip():
            records.append((where, {"task": instruction, "is_classification": flag}))
    return records


def array_records(path: Path, text: str) -> list[tuple[str, Any]]:
    """The records of a JSON array, each with its place."""
    line = 1
    try:
        records = json.loads(text)
    except json.JSONDecodeError as error:
        records = None
        line = error.lineno
    except RecursionError:
        records = None
    if not isinstance(records, list):
        problem = f"the seed file {path}, line {line} is malformed"
        raise WorkshopError(f"{problem}: a JSON array of records is expected")
    return [(f"{path}, record {n}", record) for n, record in enumerate(records, 1)]


def json_or_none(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def seed_task(where: str, record: Any, index: int) -> Task:
    """Make a Task of one record. Raises WorkshopError where it is none."""
    task = None
    if isinstance(record, dict):
        # Lone surrogates, which no file can hold, become question marks.
        record = json.loads(to_json(record).encode("utf-8", "replace"))
        texts = [record.get(name) for name in ("instruction", "Instruction", "task", "Task")]
        instruction = next(filter(None, texts), None)
        instances = seed_instances(record.get("instances") or alpaca_instances(record))
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


def alpaca_instances(record: dict) -> list[dict]:
    """The one instance of a row in the Alpaca shape; none where it has no output."""
    names = ("input", "output")
    return [{name: record.get(name) for name in names}] if record.get("output") else []


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
    return [row for row in read_data("demonstrations", language) if row["stage"] == stage]


def modern_join(header: str, shots: list[tuple[str, str]], asked: str) -> Prompt:
    """Worked examples as turns of a chat: the user asks, the model answers. Then the question."""
    turns = []
    for question, answer in shots:
        turns.append({"role": "user", "content": question})
        turns.append({"role": "assistant", "content": answer})
    turns.append({"role": "user", "content": asked})
    first = turns[0]
    turns[0] = {**first, "content": f"{header}\n\n{first['content']}"}
    return turns


def as_text(prompt: Prompt) -> str:
    """A prompt as one text."""
    if isinstance(prompt, str):
        return prompt
    return "\n\n".join(turn["content"] for turn in prompt)


def instance_shots(config: Config, task: Task) -> list[dict]:
    """The worked examples of a stage-3 prompt, of the kind of the task."""
    recipe = RECIPES[config.recipe]
    shots = recipe.shots("instances", config.language)
    labelled = bool(task.is_classification)
    fitting = [row for row in shots if row["is_classification"] == labelled and row["instances"]]
    # Other tasks get other examples, so that none can fill a dataset.
    rng = random.Random(f"{config.seed}/{task.instruction}")
    few = min(recipe.shots_drawn or len(fitting), len(fitting))
    return rng.sample(fitting, few) if recipe.shots_drawn else fitting


def options_turn(shot: dict, words: dict) -> tuple[str, str]:
    """A worked example of stage 2: its task with the question, and the answer."""
    options = words["between"].join(shot.get("labels") or [])
    answer = words["answer"][shot["is_classification"]].format(options)
    return f"{words['task']}\n{shot['instruction']}\n{words['question']}", answer


def shot_turn(shot: dict, words: dict, recipe: Recipe) -> tuple[str, str]:
    """A worked example: its task, and an instance or more as the answer."""
    base = recipe.continues_text
    lines = []
    for number, instance in enumerate(shot["instances"][: recipe.instances_shown], 1):
        shown = number if base else 0
        lines.append(example_text(instance, words["fields"], shot["is_classification"], shown))
    answer = "\n".join(lines)
    return f"{words['task']}\n{shot['instruction']}", f"\n{answer}" if base else answer


def read_instances(config: Config, task: Task, reply: Reply) -> tuple[Pairs, Pairs]:
    """The instances of a reply, and those that were cut off at max_tokens."""
    labelled = bool(task.is_classification)
    found = pairs_read(config.recipe, reply.text, labelled, False)
    whole = pairs_read(config.recipe, reply.text, labelled, True) if reply.cut else found
    return [*whole], [*found[len(whole) :]]


@lru_cache(maxsize=1024)  # three ask for the pairs of a reply, soon after one another
def pairs_read(recipe: str, text: str, labelled: bool, truncated: bool) -> tuple:
    return tuple(RECIPES[recipe].read_instances(text, labelled, truncated))


def broken_form(config: Config, task: Task, reply: Reply) -> str:
    """The rule of form that keeps a reply from giving any row, "" if it gives one."""
    whole, _ = read_instances(config, task, reply)
    if not whole:
        return "cut_off" if reply.cut else "no_instance"
    for pair in whole:
        if pair[1].strip() and not copied_from(config, task, pair):
            return ""
    return "copied_example" if any(target.strip() for _, target in whole) else "empty_output"


def copied_from(config: Config, task: Task, pair: tuple[str, str]) -> str:
    """The worked example of the prompt that an instance repeats, "" if none.

    A label may be that of an example, and so may a short answer or a line of an input, "Kenya" in
    a list of countries: three words say little.
    """
    if not RECIPES[config.recipe].checks_model:
        return ""
    given = folded(pair[0])
    source = {folded(line) for line in pair[0].split("\n")}
    target = {folded(line) for line in (pair[1], *pair[1].split("\n"))}
    for shot in instance_shots(config, task):
        for instance in shot["instances"]:
            shown, answer = folded(instance["input"]), folded(instance["output"])
            same_input = shown and (shown == given or (shown in source and is_long(shown)))
            if same_input or (answer in target and is_long(answer)):
                return f"{instance['input']} -> {instance['output']}"
    return ""


def is_long(text: str) -> bool:
    return len(tokenize(text)) > 3


def folded(text: str) -> str:
    """A text for comparison: without case, and with single spaces."""
    return " ".join(text.split()).casefold()


SECOND_PROMPT = {  # the rule that the first reply broke, and what is wanted
    "no_instance": "That has no `{first}` and `{second}`.",
    "cut_off": "That is too long.",
    "empty_output": "The output is missing.",
    "copied_example": "That repeats an example from above. Make up a new one.",
    "wanted": "Write the example once more, short and complete, with `{first}` and `{second}`.",
}


def second_prompt(config: Config, task: Task, reply: Reply, rule: str) -> Prompt:
    """The prompt, the reply to it, and what is wrong with that."""
    prompt = instances_prompt(config, task)
    words = wording(config, "instances", INSTANCE_PROMPT)
    source, target, label = words["fields"]
    names = {"first": source.strip(":："), "second": target.strip(":：")}
    if task.is_classification:
        names = {"first": label.strip(":："), "second": source.strip(":：")}
    again = wording(config, "again", SECOND_PROMPT)
    request = f"{again[rule]} {again['wanted']}".format(**names)
    said = {"role": "assistant", "content": reply.text[:500] or "-"}
    # The instruction stands in the last turn too.
    asked = f"{request}\n\n{prompt[-1]['content']}"
    return [*prompt, said, {"role": "user", "content": asked}]


def ask_sample(config: Config, model: Model, task: Task, prompt: Prompt, sample: int = 0) -> Reply:
    """Ask something of stage 3: `sample` tells a second try and second answers from the first."""
    sampling = parameters(config, "instances", bool(task.is_classification))
    question = {"instruction": task.instruction, "sample": sample, "prompt": prompt}
    return model.ask("instances", prompt, sampling, question)


ANSWER_PROMPT = {  # for the second answer: the task by itself, as a user would ask it
    "header": "Do the task. Write only the answer, as short as possible.",
    "labels": "Choose one of these: {}.",
}
ANSWERS = 2  # the sample of the first second answer; 0 and 1 are tries to make instances
SHORT = 5  # words, at most: longer answers may agree in other words; what numbers say is compared
SENTENCE = 30  # words, at most, of an answer whose numbers are compared


def second_answers(config: Config, model: Model, task: Task, reply: Reply) -> dict:
    """Ask for short answers, and for numbers, once more; (input, output) -> second answer.

    Neither the examples nor the first answer is shown, and a label does not come first. What a
    model says twice is more often right (self-consistency, https://arxiv.org/abs/2203.11171). A
    second answer that is cut off says nothing.
    """
    recipe = RECIPES[config.recipe]
    if not (config.second_answer and recipe.checks_model):
        return {}
    if config.responses and not has_second_answers(model):
        return {}  # the run that is replayed asked for none
    whole, _ = read_instances(config, task, reply)
    answers = {}
    for number, (given, target) in enumerate(whole):
        source = recipe.tidy_input(task.instruction, given)
        problem = recipe.instance_problem(task.instruction, source, target)
        if problem or not can_be_compared(target) or copied_from(config, task, (given, target)):
            continue
        prompt = answer_prompt(config, task, source)
        try:
            again = ask_sample(config, model, task, prompt, ANSWERS + number)
        except RequestFailed as failure:
            # Refused for good: that says nothing of the first answer.
            if not is_refusal(str(failure)):
                raise
            continue
        answers[given, target] = "" if again.cut else without_thinking(again.text).strip()
    return answers


def has_second_answers(model: Model) -> bool:
    """Whether a journal that is replayed has any second answer."""
    if "answers" not in model.questions:
        records = filter(None, map(model.journal.get, [*model.journal.starts]))
        samples = (record.get("sample") for record in records)
        model.questions["answers"] = {n for n in samples if isinstance(n, int) and n >= ANSWERS}
    return bool(model.questions["answers"])


def is_refusal(why: str) -> bool:
    """Whether a failure lasts: 4xx but for those that pass, or a reply that is held back."""
    return bool(re.match("4(?!08|09|29)|held back", why))


def answer_prompt(config: Config, task: Task, source: str) -> Prompt:
    """The task by itself: what to write, the labels if there are any, instruction and input."""
    words = wording(config, "answer", ANSWER_PROMPT)
    between = wording(config, "classify", CLASSIFY_PROMPT)["between"]
    header = words["header"]
    labels = labels_of(task)
    if labels:
        header += "\n" + words["labels"].format(between.join(labels))
    return RECIPES[config.recipe].join(header, [], with_input(task.instruction, source))


def with_input(instruction: str, source: str) -> str:
    """An instruction, and its input below it if there is one."""
    return "\n\n".join(filter(None, [instruction, source]))


def labels_of(task: Task) -> list[str]:
    """The labels that stage 2 found for a task."""
    return task.notes.get("classify", {}).get("labels") or []


def in_order(task: Task, answers: dict) -> list[str]:
    """The second answer to each instance, "" where none was asked for."""
    return [answers.get((pair["input"], pair["output"]), "") for pair in task.instances]


def said_twice(config: Config, task: Task, results: Results) -> Pairs:
    """The instances of a task; those whose second answer is another are rejected."""
    answers = task.notes.get("instances", {}).get("second_answers", [])
    pairs = []
    for number, instance in enumerate(task.instances):
        pair = (instance["input"], instance["output"])
        again = answers[number] if number < len(answers) else ""
        if again and not same_answer(pair[1], again, labels_of(task)):
            why = (again, 0.0)
            results.reject("filter", "answers_differ", task.instruction, pair=pair, why=why)
        else:
            pairs.append(pair)
    return pairs


def can_be_compared(answer: str) -> bool:
    """Whether a second answer can tell something: a short one, or a sentence with numbers."""
    words = count_words(tokenize(answer))
    return words <= SHORT or (words <= SENTENCE and bool(numbers_in(answer)))


def numbers_in(text: str) -> list[float]:
    """The numbers of a text, in order: 1,000 is one of them, and so are 2.5 and -5."""
    text = re.sub(r"(?m)^[ \t]*\d+[.)、]\s", "", text)  # those of a list say nothing
    found = re.findall(r"(?<![\w.)\]])-?\d+(?:,\d{3})*(?:\.\d+)?", text, re.A)
    return [float(number.replace(",", "")) for number in found]


def is_close(one: float, other: float) -> bool:
    """Whether two numbers are the same, give or take half a per cent where one is rounded."""
    rounded = one % 1 != 0 or other % 1 != 0
    return one == other or (rounded and math.isclose(one, other, rel_tol=0.005))


def same_answer(first: str, second: str, labels: list[str]) -> bool:
    """Whether two answers agree: one label, one answer inside of the other, the same numbers.

    >>> same_answer("11", "The sum is 11.", [])
    True
    >>> same_answer("spam", "This is not spam.", ["spam", "not spam"])
    False
    """
    if folded(first) == folded(second):
        return True
    said = labels_in(second, labels)
    if said:
        return said == (labels_in(first, labels) or [answer_tokens(first)])
    target, answer = answer_tokens(first), answer_tokens(second)
    if not target or not answer:
        return False
    if count_words(target) > SHORT:
        return same_figures(first, second)
    if stands_in(target, answer) or stands_in(answer, target):
        return True

    # "78.54" and "78.5398 cm": the same numbers in the same order, and no other words.
    one, other = numbers_in(first), numbers_in(second)
    close = one and len(one) == len(other) and all(map(is_close, one, other))
    words = [{w for w in tokens if not w[0].isdigit()} for tokens in (target, answer)]
    return bool(close) and (words[0] <= words[1] or words[1] <= words[0])


def same_figures(first: str, second: str) -> bool:
    """Whether a sentence and a second answer agree in their numbers.

    The sentence has all those of a short answer. Of two sentences, one has the last of the other.
    """
    one, other = numbers_in(first), numbers_in(second)
    if count_words(answer_tokens(second)) > SHORT:
        return has_numbers(one, other[-1:]) or has_numbers(other, one[-1:])
    return has_numbers(one, other)


def has_numbers(known: list[float], numbers: list[float]) -> bool:
    return all(any(is_close(x, y) for y in known) for x in numbers)


def labels_in(text: str, labels: list[str]) -> list[list[str]]:
    """The labels that a text names, as tokens. Who says "not spam" does not say "spam"."""
    tokens = answer_tokens(text)
    said = [label for label in map(answer_tokens, labels) if stands_in(label, tokens)]
    longest = [x for x in said if not any(x != other and stands_in(x, other) for other in said)]
    # "Yes, because no water is left": what stands first, and by itself, is the answer.
    first = [x for x in longest if tokens[: len(x)] == x]
    alone = re.match(r"[^,.:;)，。：；）\n]{1,30}[,.:;)，。：；）\n]", text)
    return first if first and alone else longest


NEGATIONS = {"not", "never", "no", "non", "nor", "neither", "t", "不", "没", "非", "无", "未"}
TENS = {"twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"}
HAN_DIGITS = {*"零一二三四五六七八九十百千万"}


def stands_in(short: list[str], long: list[str]) -> bool:
    """Whether tokens stand in a row inside of others, and nothing before them denies them."""
    for start in range(len(long) - len(short) + 1):
        end = start + len(short)
        if not short or long[start:end] != short:
            continue
        before, behind = long[max(0, start - 3) : start], long[end : end + 1]
        denied = NEGATIONS.intersection(before) and not NEGATIONS.intersection(short)
        # "three" is not in "twenty-three", nor "三" in "十三".
        longer = TENS.intersection(before[-1:]) or (
            short[0] in HAN_DIGITS and HAN_DIGITS.intersection(before[-1:])
        )
        longer = longer or (short[-1] in HAN_DIGITS and HAN_DIGITS.intersection(behind))
        if not denied and not longer:
            return True
    return False


def answer_tokens(text: str) -> list[str]:
    """Tokens in which a number is one, with its sign: 1,000 is 1000, 2.5 and -5 are words."""
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)
    text = re.sub(r"(?<=\d)\.0+(?!\d)", "", text)  # 77.00 is 77
    text = re.sub(r"(?<=\d)\.(?=\d)", "point", text)
    text = re.sub(r"(?<![\w)\]])[-−](?=\d)", "minus", text)
    return tokenize(text)


def ask_options(config: Config, model: Model, task: Task) -> Reply:
    """Ask among which options the answer to a task is chosen."""

    def readable(text: str) -> bool:
        return parse_classification(text, recipe=config.recipe) is not None

    question = classify_question(config, task)
    sampling = parameters(config, "classify")
    return model.ask("classify", question["prompt"], sampling, question, readable)


PROBES = 16  # seed tasks that stage 2 asks about to learn whether the model agrees with people
TRUSTED = 0.75  # the least share of them on which it must agree


def agreement_with_people(
    config: Config, model: Model, seeds: list[Task], tasks: list[Task]
) -> dict:
    """How often stage 2 says of seed tasks what people say of them.

    Half of these tasks are classification. Returns asked, same, and trusted: whether the answers
    of this model decide anything. Without an answer there is no reason for doubt.
    """
    wanted = tasks and RECIPES[config.recipe].checks_model
    probes = probe_tasks(config, seeds) if wanted else []
    replies = model.ask_each("probes", partial(ask_probe, config, model), probes)
    return agreement_of(config, replies)


def agreement_of(config: Config, replies: Iterable[tuple[Task, Reply | None]]) -> dict:
    """The same of the replies about seed tasks; None is no answer."""
    asked = 0
    same = 0
    for probe, reply in replies:
        if reply:
            answer, _ = read_options(config, probe.instruction, reply.text)
            asked += 1
            same += answer is not None and answer == bool(probe.is_classification)
    return {"asked": asked, "same": same, "trusted": same >= TRUSTED * asked}


def ask_probe(config: Config, model: Model, probe: Task) -> Reply | None:
    """Ask about a seed task; None where that fails for good, which leaves no task undone."""
    with suppress(RequestFailed):
        return ask_options(config, model, probe)
    return None


def probe_tasks(config: Config, seeds: list[Task]) -> list[Task]:
    """Seed tasks with people's labels, as many of one kind as of the other, drawn by --seed."""
    half = PROBES // 2
    kinds = [[task for task in seeds if task.is_classification is flag] for flag in (True, False)]
    if min(map(len, kinds)) < half:
        seeds = load_seed_tasks(DEFAULT_SEEDS[config.language])
        kinds = [[task for task in seeds if task.is_classification is f] for f in (True, False)]
    rng = random.Random(f"{config.seed}/probes")
    return [task for kind in kinds for task in rng.sample(kind, half)]


def leave_unknown(tasks: list[Task]) -> list[Task]:
    """What the model cannot tell stays unknown, and is asked input-first: that is the safe way."""
    for task in tasks:
        task.is_classification = None
        task.notes["classify"] = {"labels": [], "response": "", "metadata": {"created_at": ""}}
    return tasks


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
    """What shapes the prompts of stage 1: a part of the journal's keys.

    Raises WorkshopError where there is no seed task, or the file of topics cannot be read.
    """
    if not seed_tasks:
        raise WorkshopError("stage 1 needs at least one seed task")
    shape = {name: getattr(config, name) for name in SHAPE}
    shape["seed_tasks"] = digest(seed_tasks)
    if config.topics:
        shape["topics"] = digest_of_topics(load_topics(config.topics))
    return shape


def digest(seed_tasks: list[Task]) -> str:
    """Tells one set of seed tasks from another."""
    text = "\n".join(task.instruction for task in seed_tasks)
    return sha256(text.encode()).hexdigest()[:16]


def dangling_number(prompt: str) -> int:
    """The number at which a stage-1 prompt breaks off; 0 for other prompts."""
    match = re.search(r"\n(\d+)\.\Z", prompt)
    return int(match[1]) if match else 0


def requests_ahead(config: Config, accepted: int, dry: int, in_flight: int = 0) -> int:
    """How many requests stage 1 sends now, when so many are on their way.

    It counts what has been taken in order, and not what has arrived. So prompts depend on the
    replies alone, however many requests are sent at once.
    """
    # One at first, so that machine tasks soon feed back; more as the pool grows.
    grown = 1 + 3 * accepted // config.tasks_asked
    # Never more than are needed, nor, once a request brought nothing, than patience allows.
    need = math.ceil((config.num_instructions - accepted) / config.tasks_asked)
    allowed = min(need, grown, config.patience - dry if dry else need)
    return max(0, allowed - in_flight)


# --------------------------------------------------------------------------------------------------
# Topics: with --topics, each prompt of stage 1 asks for tasks on one topic, and each topic gets its
# share of the instructions. Without it all requests are of one topic without a name.

LONGEST_TOPIC = 200  # characters
LARGEST_WEIGHT = 1_000_000


class Turns:
    """Whose turn it is: the open topic that is furthest behind its share.

    A topic is open until it has its share, or until `patience` requests in a row on it brought
    nothing new: then it is given up, and the others go on. Of which topic a reply is, its prompt
    tells, as the journal has it, whatever would be asked today. Raises WorkshopError where the
    file of topics cannot be read.
    """

    def __init__(self, config: Config, rejected: int = 0) -> None:
        self.config = config
        weights = load_topics(config.topics) if config.topics else {"": 1.0}
        words = wording(config, "generate", GENERATE_PROMPT)
        self.leads = {name: words["topic"].format(name) if name else "" for name in weights}
        self.shares = shares_of(weights, config.num_instructions)
        # By topic: requests, what was kept of them, what was not, and requests in a row without
        # anything new.
        self.requests: Counter[str] = Counter()
        self.kept: Counter[str] = Counter()
        self.rejected: Counter[str] = Counter()
        self.dry: Counter[str] = Counter()
        self.next_request = 0
        self.in_flight: dict[int, str] = {}  # request -> its topic
        self.rejected_before = rejected  # rows of rejected.jsonl so far

    def ahead(self, number: int) -> list[tuple[int, str]]:
        """The next requests, at most so many: their numbers, and what names their topics."""
        planned = Counter(self.in_flight.values())
        requests = []
        for request_idx in range(self.next_request, self.next_request + number):
            names = [name for name in self.shares if self.is_open(name, planned[name])]
            if not names:
                break
            # Where several are as far behind, the turn is drawn: every fourth prompt, which asks
            # for classification, must not always be of the same topic.
            random.Random(f"{self.config.seed}/{request_idx}/topic").shuffle(names)
            name = min(names, key=lambda name: self.progress(name, planned[name]))
            planned[name] += 1
            self.in_flight[request_idx] = name
            requests.append((request_idx, self.leads[name]))
        self.next_request += len(requests)
        return requests

    def is_open(self, name: str, planned: int) -> bool:
        """Whether one more request on the topic makes sense beside those that are planned."""
        dry = self.dry[name]
        expected = self.kept[name] + planned * self.config.tasks_asked
        return expected < self.shares[name] and (not dry or dry + planned < self.config.patience)

    def progress(self, name: str, planned: int) -> float:
        """How far a topic is, as a part of its share.

        A request that is planned, or brought nothing, counts as if it had brought all that was
        asked for: so a dry topic waits until the others had their turn.
        """
        requests = planned + self.dry[name]
        return (self.kept[name] + requests * self.config.tasks_asked) / self.shares[name]

    def topic_of(self, prompt: str) -> str:
        """The topic that a prompt names in the line of its hint."""
        found = [name for name, lead in self.leads.items() if f"\n- {lead}" in prompt]
        return max(found, key=len, default="")

    def room(self, prompt: str) -> int:
        """How many more instructions are wanted on the topic of this prompt."""
        name = self.topic_of(prompt)
        return self.shares.get(name, 0) - self.kept[name]

    def note(self, request_idx: int, prompt: str, new: int, results: Results) -> int:
        """Count a request that brought so many new instructions, and note their topic in them.

        Returns the requests in a row without anything new, of the topic that is best off in this
        among those that lack something.
        """
        self.in_flight.pop(request_idx)
        name = self.topic_of(prompt)
        self.requests[name] += 1
        self.kept[name] += new
        self.rejected[name] += len(results.rejected) - self.rejected_before
        self.rejected_before = len(results.rejected)
        self.dry[name] = 0 if new else self.dry[name] + 1
        for task in results.tasks[len(results.tasks) - new :]:
            if name:
                task.notes["generate"]["topic"] = name
        lacking = [name for name, share in self.shares.items() if self.kept[name] < share]
        return min((self.dry[name] for name in lacking), default=0)

    def table(self) -> dict[str, dict[str, int]]:
        """What run.json says of each topic."""
        return {
            name: {
                "wanted": share,
                "kept": self.kept[name],
                "rejected": self.rejected[name],
                "requests": self.requests[name],
            }
            for name, share in self.shares.items()
            if name
        }


def shares_of(weights: dict[str, float], total: int) -> dict[str, int]:
    """Whole numbers in proportion to the weights, each less than one from it; their sum is `total`.

    >>> shares_of({"law": 2, "art": 1}, 10)
    {'law': 7, 'art': 3}
    """
    whole = sum(weights.values())
    exact = {name: total * weight / whole for name, weight in weights.items()}
    shares = {name: int(share) for name, share in exact.items()}
    # What rounding down has left over goes to those that lost most by it.
    left = total - sum(shares.values())
    for name in sorted(exact, key=lambda name: shares[name] - exact[name])[:left]:
        shares[name] += 1
    return shares


def load_topics(path: str | Path) -> dict[str, float]:
    """The topics of a file and their weights, in their order.

    The file has a topic a line, or it is JSON: a list of topics, records {"topic": ..., "weight":
    ...} in a list or one a line, or one object {topic: weight}. Raises WorkshopError, naming file
    and place.
    """
    path = Path(path)
    weights: dict[str, float] = {}
    known = set()
    for where, record in topic_records(path, file_text("the file of topics", path)):
        name, weight = checked_topic(where, record)
        same = unicodedata.normalize("NFKC", name).casefold()
        if same in known:
            raise WorkshopError(f"{where}: {name!r} is there twice: leave one of them out")
        known.add(same)
        weights[name] = weight
    if not weights:
        raise WorkshopError(f"{path} holds no topic: write one a line into it")
    return weights


def topic_records(path: Path, text: str) -> list[tuple[str, Any]]:
    """What a file of topics holds, as (where it stands, record)."""
    lines = numbered_lines(path, text)
    if not text.lstrip().startswith(("{", "[")):
        return lines
    try:
        found = json.loads(text, object_pairs_hook=partial(without_repeats, path))
    except (ValueError, RecursionError):
        return [(where, json_or_none(line)) for where, line in lines]  # a record a line, or broken
    # One object holds all topics, unless it is a single record.
    if isinstance(found, dict) and not isinstance(found.get("topic"), str):
        pairs = found.items()
        return [(str(path), {"topic": name, "weight": weight}) for name, weight in pairs]
    records = found if isinstance(found, list) else [found]
    return [(f"{path}, record {n}", record) for n, record in enumerate(records, 1)]


def without_repeats(path: Path, pairs: list[tuple[str, Any]]) -> dict:
    """A JSON object. Raises WorkshopError where a name comes twice: JSON keeps the last one."""
    twice = [name for name, n in Counter(name for name, _ in pairs).items() if n > 1]
    if twice:
        raise WorkshopError(f"{path}: {twice[0]!r} is there twice: leave one of them out")
    return dict(pairs)


def checked_topic(where: str, record: Any) -> tuple[str, float]:
    """A topic and its weight, 1 if there is none. Raises WorkshopError where it is no topic."""
    if isinstance(record, str):
        record = {"topic": record}
    if not isinstance(record, dict) or not isinstance(record.get("topic"), str):
        raise WorkshopError(f'{where}: a topic is needed, as {{"topic": "law", "weight": 2}}')
    name = " ".join(record["topic"].encode("utf-8", "replace").decode().split())
    weight = record.get("weight", 1)
    if not name or len(name) > LONGEST_TOPIC:
        raise WorkshopError(f"{where}: a topic has from 1 to {LONGEST_TOPIC} characters")
    if type(weight) not in (int, float) or not 0 < weight <= LARGEST_WEIGHT:
        allowed = f"a number above 0, up to {LARGEST_WEIGHT:,}"
        raise WorkshopError(f"{where}: the weight of {name!r} must be {allowed}, not {weight!r}")
    return name, weight


def digest_of_topics(names: Iterable[str]) -> str:
    """Tells one set of topics from another, whatever their order and weights."""
    return sha256("\n".join(sorted(names)).encode()).hexdigest()[:16]


# --------------------------------------------------------------------------------------------------
# Files. A paid reply is on disk, in responses.jsonl, before anything is made of it; all other files
# are views of that.

VERSION = 1  # of the journal's records
PLAN = 2  # how stage 1 plans its requests; where a journal says nothing, it was in rounds
STEP_FILES = [
    "step1_instructions.jsonl",
    "step2_is_classification.jsonl",
    "step3_raw_instances.jsonl",
    "step4_final.jsonl",
]


PROVENANCE = "step4_provenance.jsonl"  # by scripts/provenance.py: the dataset, and whence it is
# Made again of the journal at any time.
VIEWS = (*STEP_FILES, PROVENANCE, "rejected.jsonl", "run.json")


def to_json(row: dict) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def write_whole(path: Path, lines: Iterable[str]) -> str:
    """Write all lines or none: a new file, once it is on disk, takes the name of the old one.

    Lone surrogates, which other readers refuse, become question marks. Returns the file's SHA-256,
    or "" where there were any. Raises OSError.
    """
    found = sha256()
    same = True  # as the lines are
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    # A link under the temporary name would lead somewhere else: "x" opens nothing that exists.
    temporary.unlink(missing_ok=True)
    file = open(temporary, "xb")  # noqa: SIM115
    try:
        with file:
            for line in lines:
                data = line.encode("utf-8", "replace")
                same = same and (line.isascii() or data.decode() == line)
                found.update(data)
                file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):  # half a file helps nobody, least of all on a full disk
            temporary.unlink()
        raise
    return found.hexdigest() if same else ""


def write_rows(path: Path, rows: list[dict]) -> str:
    """Write rows as JSON Lines. Without rows there is no file: `load_dataset` reads no empty one.

    An empty dataset alone is a file: it is what the run came to. Returns what write_whole does, ""
    without rows.
    """
    if rows or path.name == STEP_FILES[-1]:
        written = write_whole(path, map(to_json, rows))
        return written if rows else ""
    path.unlink(missing_ok=True)
    return ""


def read_rows(path: Path) -> Iterator[dict]:
    """The rows of a file that can be read: somebody may have changed it, or taken it away."""
    if path.exists():
        with open(path, encoding="utf-8", errors="replace") as lines:
            yield from (row for row in map(json_or_none, lines) if isinstance(row, dict))


def append_whole(file: Any, data: bytes, sync: bool = True) -> int:
    """Write all of it at the end of an unbuffered file, or nothing; return where it starts.

    Unbuffered: what a full disk refuses would stay in a buffer, and be written later. With `sync`
    it is on disk before this returns. Raises OSError.
    """
    # A last line may lack its newline: an editor's doing, or what could not be cut off below.
    end = file.seek(0, os.SEEK_END)
    file.seek(max(0, end - 1))
    gap = b"" if file.read(1) in (b"", b"\n") else b"\n"
    try:
        # A disk that is nearly full takes a part of it.
        rest = memoryview(gap + data)
        while rest:
            rest = rest[file.write(rest) :]
        if sync:
            os.fsync(file.fileno())
    except BaseException:
        file.truncate(end)
        raise
    return end + len(gap)


def first_results(config: Config, seed_tasks: list[Task]) -> Results:
    """The results of a run before its first stage; they know the run whose files stand there.

    Raises UsageError where a file of the user is in the way, OSError where a folder is, and
    WorkshopError where the file of topics cannot be used.
    """
    check_files(config)
    if config.topics:
        load_topics(config.topics)
    for name in VIEWS:
        path = Path(config.work_dir) / name
        if path.is_dir():
            raise IsADirectoryError(21, "is a folder", str(path))
    return Results(seeds=seed_tasks, earlier=earlier_run(Path(config.work_dir)))


def earlier_run(folder: Path) -> dict:
    """What run.json in the folder says of the last run there; {} where there is none."""
    return read_record(folder / "run.json")


def read_record(path: Path) -> dict:
    """A JSON record that a program has left; {} where there is none that can be read."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def write_view(stage: str, config: Config, model: Model, results: Results, ended: bool) -> None:
    """Write the step file of a stage. No row of an earlier run is lost by that.

    A stage that broke off leaves a file that stands there if it has rows that the new one lacks.
    A stage that ended replaces it. If it changes the file, or the run stops here, what stands there
    of later stages is of an earlier run: that is moved into `earlier/`, and stays there if this run
    lacks rows of it.
    """
    number = STAGES.index(stage)
    path = Path(config.work_dir) / STEP_FILES[number]
    rows = results.rows(stage)
    same = path.exists() and holds_rows(path, rows)
    loses = path.exists() and not same and misses_rows(path, rows)
    of_this_run = path.name in results.written
    loses = loses or (path.exists() and not of_this_run and was_of_another(model, results, stage))
    if loses and not ended:
        return
    alone = same and stage != config.until
    if loses or (ended and not alone and later_files(config, number)):
        keep_aside(config, results)
    if path.name == STEP_FILES[-1] and not same:
        path.with_name(PROVENANCE).unlink(missing_ok=True)  # it is of another dataset
        results.is_new_dataset = True
    results.digests[stage] = write_rows(path, rows)
    results.written.append(path.name)


def later_files(config: Config, number: int) -> list[Path]:
    """The step files that stand there of stages behind this one."""
    paths = [Path(config.work_dir) / name for name in STEP_FILES[number + 1 :]]
    return [path for path in paths if path.exists()]


def holds_rows(path: Path, rows: list[dict]) -> bool:
    """Whether the file holds exactly these rows."""
    with open(path, "rb") as lines:
        for row in rows:
            if lines.readline() != to_json(row).encode("utf-8", "replace"):
                return False
        return not lines.readline()


def misses_rows(path: Path, rows: Iterable[dict]) -> bool:
    """Whether the file holds instructions that the rows lack, or more rows of one instruction."""
    new = Counter(str(row.get("instruction")) for row in rows)
    with open(path, encoding="utf-8", errors="replace") as lines:
        old = Counter(instruction_in(line) for line in lines)
    return bool(old - new)


def instruction_in(line: str) -> str | None:
    """The instruction of a row; None: this is no row of ours."""
    row = json_or_none(line)
    instruction = row.get("instruction") if isinstance(row, dict) else None
    return instruction if isinstance(instruction, str) else None


def was_of_another(model: Model, results: Results, stage: str = STAGES[-1]) -> bool:
    """Whether run.json names another provider or model than this run has, up to this stage."""
    if not isinstance(results.earlier.get("settings"), dict):
        return False
    stages = STAGES[: min(3, STAGES.index(stage) + 1)]
    now = [(model.of(stage).name, model.of(stage).model) for stage in stages]
    return [who_answered(results.earlier, stage) for stage in stages] != now


def foreign_views(folder: Path) -> list[Path]:
    """Files of the user that have the names run.json and rejected.jsonl by chance."""
    found = []
    path = folder / "run.json"
    if path.is_file() and not isinstance(earlier_run(folder).get("settings"), dict):
        found.append(path)
    path = folder / "rejected.jsonl"
    if path.is_file():
        with open(path, "rb") as lines:
            row = json_or_none(lines.readline())
        if not isinstance(row, dict) or not row.keys() >= {"stage", "rule"}:
            found.append(path)
    return [path for path in found if path.stat().st_size]


def keep_foreign(config: Config, results: Results) -> None:
    """Before this run writes its first file, move such files into a dated folder."""
    paths = [] if results.written else foreign_views(Path(config.work_dir))
    if not paths:
        return
    place = new_place(Path(config.work_dir))
    for path in paths:
        os.replace(path, place / path.name)
    names = spoken(" and ", config.language).join(path.name for path in paths)
    tell(f"notice: no run wrote {names}: moved to {place}", config.language)
    if "run.json" in names:
        results.earlier = {}


def new_place(folder: Path) -> Path:
    """A new dated folder for files that make room for others."""
    now = datetime.now().strftime("%Y-%m-%d_%H%M%S")
    place = folder / "earlier" / now
    number = 1
    while place.exists():
        number += 1
        place = folder / "earlier" / f"{now}_{number}"
    place.mkdir(parents=True)
    return place


def keep_aside(config: Config, results: Results) -> None:
    """Move what stands there of an earlier run into a dated folder inside the work folder."""
    folder = Path(config.work_dir)
    results.kept_in = results.kept_in or str(new_place(folder))
    # What this run has written itself stays. run.json is written again as it was.
    for name in VIEWS[:-1]:
        if name not in results.written and (folder / name).exists():
            os.replace(folder / name, Path(results.kept_in) / name)
    if results.earlier:
        write_json(Path(results.kept_in) / "run.json", results.earlier)


def write_json(path: Path, record: dict) -> None:
    write_whole(path, [json.dumps(record, ensure_ascii=False, indent=2), "\n"])


def give_up_kept(model: Model, results: Results) -> None:
    """Remove what a complete run kept aside, where the same model's new files hold all of it."""
    if results.status != "complete":
        return
    kept = [Path(results.kept_in) / name for name in VIEWS if results.kept_in]
    steps = [path for path in kept if path.name in STEP_FILES and path.exists()]
    stage_of = dict(zip(STEP_FILES, STAGES, strict=True))
    lost = any(misses_rows(path, results.each_row(stage_of[path.name])) for path in steps)
    if kept and not lost and not was_of_another(model, results):
        for path in kept:
            path.unlink(missing_ok=True)
        for folder in (kept[0].parent, kept[0].parent.parent):
            with suppress(OSError):  # other earlier runs are in there
                folder.rmdir()
        results.kept_in = ""


def named_run(summary: dict) -> str:
    """A run in words, by its run.json."""
    settings = summary.get("settings")
    if not isinstance(settings, dict):
        return "an earlier run"
    who = f"{settings.get('provider')}, {settings.get('model')}"
    number = f"{settings.get('num_instructions')} instructions"
    return one_line(f"an earlier run ({who}, {number}, {settings.get('language')})", 150)


# --------------------------------------------------------------------------------------------------
# The user's files. No path that is typed makes the program replace what it has not written itself.

FORMATS = (".jsonl", ".json", ".csv", ".parquet")  # endings of --output-path


def check_files(config: Config) -> None:
    """Raise UsageError where the run would write over a file that it reads, or over a user's."""
    problem = input_problem(config) or output_problem(config)
    if problem:
        raise UsageError(problem)


def input_problem(config: Config) -> str:
    """Why a run in this folder cannot read the seed file, or the topics; "" if it can."""
    read = {"--seed-file": config.seed_file, "--topics": config.topics}
    for flag, path in read.items():
        if path and any(same_file(path, own) for own in own_files(config)):
            advice = "copy it to another name, or choose another --work-dir"
            return f"{flag} {path} is a file that the run itself writes: {advice}"
    return ""


def output_problem(config: Config) -> str:
    """Why the dataset cannot be written to --output-path, "" if it can."""
    path = config.output_path
    if not path:
        return ""
    if "\0" in path or os.path.islink(os.path.realpath(path)):
        return f"--output-path must be a file, and {path!r} leads to none"
    if Path(path).is_dir():
        return f"--output-path must be a file, and {path} is a folder"
    # What the run reads and writes is never replaced, not even with --overwrite.
    needed = [seed_path(config), config.responses, config.topics]
    if any(same_file(path, other) for other in (*own_files(config), *filter(None, needed))):
        return f"--output-path {path} is a file that the run needs: name another one"
    if is_stream(path):
        return ""
    if os.path.lexists(path) and not config.overwrite and not is_our_output(config):
        advice = "name another file, or add --overwrite to replace it"
        return f"--output-path {path} is there, and no run in this folder wrote it: {advice}"
    return format_problem(path)


def format_problem(path: str) -> str:
    """Why the ending of a path names no format that can be written, "" if it does."""
    ending = Path(path).suffix.lower()
    if ending not in FORMATS:
        return f"--output-path must end in {', '.join(FORMATS)}, and {path} does not"
    if ending == ".parquet" and not util.find_spec("pyarrow"):
        install = pip_install("pyarrow")
        return f"--output-path {path} needs a package: run  {install}  first"
    return ""


def own_files(config: Config) -> list[Path]:
    """The files in the work folder that a run reads and writes."""
    names = (*VIEWS, "responses.jsonl", "responses.torn", "spending.jsonl", ".lock", LOCK_FILE)
    return [Path(config.work_dir) / name for name in names]


def same_file(one: str | Path, other: str | Path) -> bool:
    """Whether two paths are one file: through links too, and where only capitals differ."""
    try:
        if os.path.exists(one) and os.path.exists(other) and os.path.samefile(one, other):
            return True
        return os.path.realpath(one).casefold() == os.path.realpath(other).casefold()
    except (OSError, ValueError):  # say, a path with a zero byte
        return False


def is_stream(path: str) -> bool:
    """Whether this is a device or a pipe, /dev/stdout say: it is written to, never replaced.

    Our own output is one even where it leads to a file; a file in /dev/shm is a file.
    """
    if not os.path.exists(path):
        return False
    opened = ("/dev/std", "/dev/fd/", "/proc/")
    return os.path.abspath(path).startswith(opened) or not Path(path).is_file()


def is_our_output(config: Config) -> bool:
    """Whether the file at --output-path is still what an earlier run in this folder wrote there."""
    target = os.path.realpath(config.output_path)
    digests = outputs_of(earlier_run(Path(config.work_dir))).get(target, [])
    try:
        return sha256(Path(target).read_bytes()).hexdigest() in digests
    except OSError:
        return not os.path.exists(target)  # a link to a file that is not there yet


def outputs_of(summary: dict) -> dict[str, list]:
    """Which files runs in this folder wrote for --output-path: their places and digests."""
    outputs = summary.get("outputs")
    if not isinstance(outputs, dict):
        return {}
    return {path: digests for path, digests in outputs.items() if isinstance(digests, list)}


def outputs_now(config: Config, results: Results) -> dict[str, list]:
    """The same with the file that this run is about to write.

    The digest before stays beside the new one, for a run that is killed in between.
    """
    outputs = outputs_of(results.earlier)
    if config.output_path and results.status == "complete" and not is_stream(config.output_path):
        target = os.path.realpath(config.output_path)
        digest = sha256(rendered(results.dataset, config.output_path)).hexdigest()
        outputs[target] = [digest, *outputs.get(target, [])[:1]]
    return outputs


def write_output(config: Config, results: Results) -> None:
    """Write the dataset to --output-path. A link stays a link: its target is written.

    Raises UsageError where another file has come to stand there, and OSError.
    """
    check_files(config)
    data = rendered(results.dataset, config.output_path)
    if is_stream(config.output_path):
        write_to_stream(config.output_path, data)
        return
    # Write a new file beside the old one, and put it in its place when it is whole.
    target = Path(os.path.realpath(config.output_path))
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{os.urandom(8).hex()}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def write_to_stream(path: str, data: bytes) -> None:
    """Write to a device or a pipe, to our own output as print does."""
    standard = {"/dev/stdout": sys.stdout, "/dev/stderr": sys.stderr}.get(os.path.abspath(path))
    if standard:
        standard.write(data.decode())
        standard.flush()
        return
    with open(path, "ab") as stream:
        stream.write(data)


def rendered(rows: list[dict], path: str) -> bytes:
    """The rows in the format that the path's ending names; JSON Lines for a device or a pipe."""
    ending = Path(path).suffix.lower()
    if ending == ".parquet":
        return as_parquet(rows)
    if ending == ".csv":
        return as_csv(rows)
    lines = [to_json(row) for row in rows]
    if ending == ".json":
        text = "[\n" + ",\n".join(line.removesuffix("\n") for line in lines) + "\n]\n"
        return text.encode("utf-8", "replace")
    return "".join(lines).encode("utf-8", "replace")


COLUMNS = ("instruction", "input", "output")  # of the dataset


def as_csv(rows: list[dict]) -> bytes:
    """The dataset as CSV, every text in quotes."""
    import csv

    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode("utf-8", "replace")


def as_parquet(rows: list[dict]) -> bytes:
    """The dataset as Parquet: three columns of texts."""
    import pyarrow
    from pyarrow.parquet import write_table

    # Lone surrogates become question marks, as in the other formats.
    columns = {}
    for name in COLUMNS:
        texts = [row[name].encode("utf-8", "replace").decode() for row in rows]
        columns[name] = pyarrow.array(texts, pyarrow.string())
    buffer = io.BytesIO()
    write_table(pyarrow.table(columns), buffer)
    return buffer.getvalue()


# --------------------------------------------------------------------------------------------------
# The journal: every reply, as it came.


@dataclass
class Reply:
    """What a model answered, as the journal keeps it."""

    text: str
    finish_reason: str  # "stop", "length" (cut by max_tokens), "content_filter" or "no_content"
    prompt_tokens: int = 0  # 0: the server did not say
    reply_tokens: int = 0
    prompt: Prompt = ""
    created_at: str = ""  # UTC, ISO 8601

    @property
    def cut(self) -> bool:
        return self.finish_reason == "length"

    def stop_at(self, stops: list[str]) -> None:
        """Leave out the prompt, if the server repeats it, and what follows a stop string."""
        self.text = self.text.removeprefix(as_text(self.prompt))
        places = [self.text.find(stop) for stop in stops]
        found = [place for place in places if place >= 0]
        if found:
            self.text = self.text[: min(found)]
            self.finish_reason = "stop"


class Journal:
    """responses.jsonl: one line for each reply, appended and fsynced.

    Memory holds only where each line starts. A last line torn by a kill is moved to
    responses.torn: nothing was made of it yet. Raises WorkshopError where another line is damaged.
    """

    def __init__(self, path: Path, mode: str = "a+b", hear: Callable | None = None) -> None:
        """`hear` is told of each record that stands there: so nobody else need parse the file."""
        self.path = path
        self.hear = hear or (lambda record: None)
        self.place = os.path.abspath(path)
        self.lock = threading.Lock()
        self.torn = False  # a torn last line was cut off
        self.disk = threading.Lock()  # who holds it writes the file through to the disk
        self.written = self.synced = 0  # bytes that are in the file, and on disk for certain
        self.fault: OSError | None = None  # of the disk: what it has, nobody knows
        self.starts: dict[str, int] = {}  # key -> offset in bytes of the newest reply to it
        self.digests: defaultdict[str, Any] = defaultdict(sha256)  # stage -> of its lines so far
        self.in_rounds = False  # stage 1 was planned in rounds, as earlier programs did it
        self.file = open(path, mode, buffering=0)  # noqa: SIM115
        try:
            self.read_index()
        except BaseException:
            self.file.close()
            raise

    def read_index(self) -> None:
        """Note where each reply starts."""
        start = self.file.seek(0)
        with open(self.file.fileno(), "rb", closefd=False) as lines:
            for number, line in enumerate(lines, 1):
                # A text that begins otherwise is no record: somebody's file, behind a link.
                ours = line[:1] in (b"{", b"\0") or not self.file.writable()
                if not line.endswith(b"\n") and is_torn(line) and ours:
                    self.cut_off(start, line)
                    return
                record = checked_record(line, f"{self.path}, line {number}")
                self.in_rounds |= record.get("stage") == "generate" and "plan" not in record
                for key in (record["key"], *record.get("answers", {})):
                    self.starts[key] = start
                self.take_in(record, line)
                self.hear(record)
                start += len(line)

    def take_in(self, record: dict, line: bytes) -> None:
        """Add a line to the digest of its stage."""
        self.digests[str(record.get("stage"))].update(line.rstrip(b"\n") + b"\n")

    def cut_off(self, start: int, line: bytes) -> None:
        """Move a torn last line to responses.torn; where that fails (OSError), it stays here."""
        if not self.file.writable():
            return
        how = os.O_RDWR | os.O_APPEND | os.O_CREAT
        how |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        handle = os.open(self.path.with_suffix(".torn"), how, 0o666)
        with open(handle, "a+b", buffering=0) as kept:
            append_whole(kept, line + b"\n")
        self.file.truncate(start)
        self.torn = True

    def keys(self) -> set[str]:
        """The keys of all replies by now; of a list, all of its answers or none."""
        with self.lock:
            return set(self.starts)

    def get(self, key: str) -> dict | None:
        """The newest record under this key, or None."""
        with self.lock:
            if key not in self.starts:
                return None
            record = as_read(json.loads(self.line_at(self.starts[key])))
        return record if record["key"] == key else answer_of_list(record, key)

    def line_at(self, start: int) -> bytes:
        """The line that starts here."""
        self.file.seek(start)
        line = b""
        while b"\n" not in line:
            part = self.file.read(max(1 << 12, len(line)))  # most lines are shorter
            line += part
            if not part:
                break
        return line.partition(b"\n")[0]

    def append(self, *records: dict) -> None:
        """Write all records at once. Raises OSError, and leaves no half line behind.

        Where the folder was moved, the records are in the journal there, and it is an error: the
        next run would find no journal here, and pay again.
        """
        lines = [to_json(record).encode("utf-8", "replace") for record in records]
        with self.lock:
            start = append_whole(self.file, b"".join(lines), sync=False)
            end = self.written = start + sum(map(len, lines))
            for record, line in zip(records, lines, strict=True):
                self.take_in(record, line)
        self.sync(end)
        with self.lock:
            for record, line in zip(records, lines, strict=True):
                self.starts[record["key"]] = start
                start += len(line)
        if self.is_moved():
            raise FileNotFoundError(2, MOVED)

    def sync(self, end: int) -> None:
        """Return when the file is on disk up to here. One fsync serves all who wait for it.

        Raises OSError. After a failure so does every further call: a second fsync may say yes
        without having written what the first one lost.
        """
        with self.disk:
            if self.fault:
                raise self.fault
            if end > self.synced:
                written = self.written
                try:
                    os.fsync(self.file.fileno())
                except OSError as error:
                    self.fault = error
                    raise
                self.synced = written

    def is_moved(self) -> bool:
        """Whether the file that we write to is no longer found at its place."""
        try:
            return not os.path.samestat(os.stat(self.place), os.fstat(self.file.fileno()))
        except FileNotFoundError:
            return True


MOVED = "it was moved or deleted while the run was on"
MOST_TOKENS = 10**12  # no request takes so many
# What a record has, and of which type. Token counts are what a server said, whatever that was.
RECORD = {"key": str, "text": str, "finish_reason": str, "prompt": (str, list), "created_at": str}
RECORD |= {"max_tokens": int, "prompt_tokens": object, "reply_tokens": object}
# What the record of a list shares with those of its questions.
SHARED = ("version", "stage", "attempt", "provider", "model", "temperature", "recipe", "sample")
SHARED += ("created_at", "max_tokens")


def is_torn(line: bytes) -> bool:
    """Whether a last line without its newline is half a record, and not a whole one."""
    return first_value(line)[0] is None


def first_value(line: bytes) -> tuple[Any, str]:
    """The first JSON value of a line, None where it breaks off, and what stands behind it."""
    text = line.decode("utf-8", "replace").strip()
    with suppress(ValueError, RecursionError):
        value, end = json.JSONDecoder().raw_decode(text)
        return value, text[end:]
    return None, ""


def checked_record(line: bytes, where: str) -> dict:
    """A line of the journal as a record. Raises WorkshopError that says where it stands."""
    record = None
    with suppress(ValueError, RecursionError):  # no JSON, or nested too deeply
        record = json.loads(line)
    if isinstance(record, dict) and record.get("version", VERSION) != VERSION:
        version = one_line(str(record["version"]))
        problem = f"{where} is of version {version}, this program's is {VERSION}"
        raise WorkshopError(f"{problem}: use the program that wrote it, or another --work-dir")
    if is_record(record):
        return record

    # An editor may have taken the line ends away: then a line holds many replies.
    value, behind = first_value(line)
    if isinstance(value, list) or behind:
        problem = f"{where} holds more than one record, or none"
        raise WorkshopError(f"{problem}: give each record a line of its own, which ends in LF")
    problem = f"{where} is damaged"
    raise WorkshopError(f"{problem}: delete that line; only its reply is asked for again")


def is_record(record: Any) -> bool:
    """Whether this has all that is read of a record. An old journal's list has `answers`."""
    if not isinstance(record, dict) or not record.keys() >= RECORD.keys():
        return False
    if not all(isinstance(record[name], kind) for name, kind in RECORD.items()):
        return False
    # Whose it is, and of which stage, is a text where it is said.
    if not all(isinstance(record.get(name, ""), str) for name in ("stage", "provider", "model")):
        return False
    # What a server does not say counts as this limit, so it must be one.
    if not is_prompt(record["prompt"]) or not 0 < record["max_tokens"] < MOST_TOKENS:
        return False
    if "answers" not in record:
        return True

    # One answer for each instruction, and what each of them shares with the list.
    answers = record["answers"]
    instructions = record.get("instructions")
    if not isinstance(answers, dict) or not isinstance(instructions, list):
        return False
    texts = [*answers.values(), *instructions]
    if len(answers) != len(instructions) or not all(isinstance(text, str) for text in texts):
        return False
    return record.keys() >= {*SHARED}


def is_prompt(prompt: Any) -> bool:
    """Whether this is a text, or the turns of a chat."""
    if isinstance(prompt, str):
        return True
    return all(isinstance(turn, dict) and isinstance(turn.get("content"), str) for turn in prompt)


def token_count(said: Any) -> int:
    """A number of tokens as a server says it; 0, not known, where that can be no count."""
    if type(said) in (int, float) and 0 <= said < MOST_TOKENS and said == int(said):
        return int(said)
    return 0


def as_read(record: dict) -> dict:
    """A record of the journal as it is used: its text is one that a file can hold."""
    # A lone surrogate, which another program may write as an escape, is no text.
    record["text"] = record["text"].encode("utf-8", "replace").decode()
    for name in ("prompt_tokens", "reply_tokens"):
        record[name] = token_count(record[name])
    return record


def derived_record(whole: dict, key: str, instruction: str, text: str) -> dict:
    """What the reply to a list says to one of its questions, as a record under its own key.

    The tokens stand in the list's record, which `part_of` names.
    """
    shared = {name: whole[name] for name in SHARED}
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


def open_journal(folder: Path, responses: str, hear: Callable | None = None) -> tuple[Any, Journal]:
    """Make and lock the folder, and open its journal, or another one to read only.

    Raises WorkshopError.
    """
    lock = None
    problem = ""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = locked(folder)
        if responses:
            return lock, Journal(Path(responses), "rb", hear)
        return lock, Journal(folder / "responses.jsonl", hear=hear)
    except OSError as error:
        problem = f"cannot write to {folder} ({error.strerror}): choose another --work-dir"
    except WorkshopError as error:
        problem = str(error)
    if lock:
        lock.release()  # whoever keeps the error, as a notebook does, would keep the lock with it
    raise WorkshopError(problem)


def locked(folder: Path) -> Any:
    """The folder's lock, which dies with this process. Raises OSError and WorkshopError.

    Some network and cloud drives know no locks: there the lock is a file, which a killed run may
    leave behind.
    """
    import filelock

    advice = "wait for it, or choose another --work-dir"
    lock = filelock.FileLock(folder / ".lock", timeout=0)
    try:
        if has_locks(folder):
            lock.acquire()
            return lock
        advice += f", or, if no run is going on, delete {folder / LOCK_FILE}"
        lock = filelock.SoftFileLock(folder / LOCK_FILE, timeout=0)
        lock.acquire()
        return lock
    except filelock.Timeout:
        lock.release()
        raise WorkshopError(f"another run is writing to {folder}: {advice}") from None


LOCK_FILE = ".lock-file"  # where the drive knows no locks
NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)


def has_locks(folder: Path) -> bool:
    """Whether the drive of this folder can lock a file. Raises OSError for other problems."""
    if sys.platform == "win32":
        return True
    import fcntl

    file = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True  # a run holds the lock
    except OSError as error:
        if error.errno in NO_LOCKS:
            return False
        raise
    finally:
        os.close(file)
    return True


# --------------------------------------------------------------------------------------------------
# Asking: one door to a model. Look into the journal; else send, with the one layer of retries;
# write down; return.


class Transient(Exception):
    """Worth another try. `wait`: how many seconds the server asks us to wait before it, or 0.

    `sent`: whether the request may have reached its server, and so may cost something.
    """

    def __init__(self, what: str, wait: float = 0.0, sent: bool = True) -> None:
        super().__init__(what)
        self.what = what
        self.wait = wait
        self.sent = sent


class Silent(Transient):
    """No answer came in time."""


class Loading(Transient):
    """The server is there and not ready yet: wait for it as long as the deadline allows."""


class ParameterRefused(Exception):
    """The model does not take a parameter, args[0]."""


CONNECTIONS = 16  # of a client, about; more clients where more requests are in flight


class Window:
    """How many requests may be in flight: fewer where a server needs long for each.

    Many local servers answer one request at a time, so what is in flight waits for each other.
    The first request goes alone. Its time says how many, one after the other, are answered in
    half the timeout. Then the number grows while all answers come within that half, and falls
    to half where one does not come at all.

    Each stage has its own limit, since its replies may be much longer than those of another. All
    together are never more than the largest of these limits.
    """

    def __init__(self, config: Config) -> None:
        self.most = config.concurrency
        self.timeout = config.request_timeout  # seconds; grows where one at a time is too slow
        self.longest = config.deadline  # seconds
        self.lock = threading.Lock()
        self.places: dict[str, threading.Condition] = {}  # stage -> told when there may be one
        self.limits: dict[str, int] = {}  # stage -> how many of its requests
        self.in_flight: Counter[str] = Counter()
        self.waiting = 0  # requests without a place
        # Stage -> seconds of each answer since its limit changed; none yet: it is not here.
        self.answers: dict[str, list[float]] = {}
        self.shrunk_at = 0.0

    @property
    def limit(self) -> int:
        """How many requests of all stages."""
        return max(self.limits.values(), default=1)

    def enter(self, stage: str) -> None:
        """Begin with two requests of a new stage: its replies may be long.

        Not with one: should that one hang, nothing would go on meanwhile.
        """
        with self.lock:
            self.limits[stage] = self.limit_of(stage)

    def limit_of(self, stage: str) -> int:
        """How many requests of a stage; two of one that has not begun."""
        return self.limits.get(stage, min(self.limit, 2))

    def has_place(self, stage: str) -> bool:
        """Whether one more request of this stage may be sent now."""
        return self.in_flight[stage] < self.limit_of(stage) and self.in_flight.total() < self.limit

    @contextmanager
    def turn(self, stage: str, stop: threading.Event) -> Iterator[float]:
        """Wait for a place, and hold it; give the seconds that the wait took."""
        started = time.monotonic()
        with self.lock:
            place = self.places.setdefault(stage, threading.Condition(self.lock))
            self.waiting += 1
            while not self.has_place(stage) and not stop.is_set():
                place.wait(0.2)
            self.waiting -= 1
            self.in_flight[stage] += 1
        try:
            yield time.monotonic() - started
        finally:
            with self.lock:
                self.in_flight[stage] -= 1
                free = self.limit - self.in_flight.total()
                for one in self.places.values():
                    one.notify(max(0, free))

    def answered(self, stage: str, seconds: float) -> None:
        """An answer took so long. After each round of answers the limit may change."""
        with self.lock:
            if stage not in self.answers:
                self.set_limit(stage, int(self.timeout / 2 / max(seconds, 1e-3)))
                return
            self.answers[stage].append(seconds)
            if len(self.answers[stage]) >= self.limits[stage]:
                slowest = max(self.answers[stage])
                self.set_limit(stage, self.next_limit(self.limits[stage], slowest))

    def next_limit(self, limit: int, slowest: float) -> int:
        """More after a round of fast answers, one less after a slow one."""
        used = slowest / self.timeout
        # At worst they all wait for each other: then twice as many take twice as long.
        if used < 0.25:
            return int(limit * 0.5 / max(used, 1e-3))
        # Half the timeout leaves room for a reply that takes twice as long as others.
        if used < 0.5:
            return limit + 1
        return limit - 1 if used > 0.75 else limit

    def timed_out(self, stage: str, sent_at: float) -> bool:
        """An answer did not come. Return whether that is news, and not one more of its round."""
        with self.lock:
            if sent_at < self.shrunk_at:
                return False
            self.shrunk_at = time.monotonic()
            limit = self.limits.get(stage, 1)
            if limit == 1:
                self.timeout = min(2 * self.timeout, max(self.timeout, self.longest))
            self.set_limit(stage, limit // 2)
            return True

    def set_limit(self, stage: str, limit: int) -> None:
        self.limits[stage] = max(1, min(self.most, limit))
        self.answers[stage] = []


class Here(threading.local):
    """What the present thread does."""

    stage = ""  # for which it asks
    ahead = False  # whether another stage is at work


class Model(AbstractContextManager):
    """A provider's model as one run asks it: `with Model(config) as model: ...`.

    It holds the journal and the lock of the folder. Raises WorkshopError where a key or a model
    name is missing, or the folder cannot be used.
    """

    def __init__(self, config: Config, sleep: Callable[[float], Any] | None = None) -> None:
        # What all threads of the run share, and all models that it asks.
        self.lock = threading.Lock()
        self.stop = threading.Event()  # set: nobody sends any more
        self.here = Here()
        self.sleep = sleep or self.stop.wait
        self.senders = ThreadPoolExecutor(512, "asking")
        self.faults: Counter[str] = Counter()  # what went wrong and was tried again
        self.endings: Counter[str] = Counter()  # the finish reasons of replies
        self.told: set[str] = set()  # notices that are printed once
        self.undone: list[tuple[str, str]] = []  # (stage, why) of requests that failed for good
        self.ahead: set[Future] = set()  # what is asked for later stages
        self.flight: deque[tuple[Any, Future]] = deque()  # what the present stage asks
        self.leave_by = 0.0  # when a run that breaks off waits no longer; it asks nothing more
        self.questions: dict[str, set] = {}  # stage -> what a replayed journal has replies to
        self.answered: set[str] = set()  # stages of which the journal is known to hold a reply
        # What was used: stage -> replies, asked_now, cut, and tokens of prompts and replies.
        self.tokens: dict[str, Counter[str]] = {}
        self.counted: set[str] = set()  # the keys of the replies in there
        self.unanswered: set[str] = set()  # stages with a question that was sent and has no reply
        self.decided: dict[str, dict] = {}  # stage -> what it was decided from, for run.json
        self.others: dict[str, Model] = {}  # stage -> who answers it, where that is another
        self.first: Model | None = None  # of such another one: the run's own model

        # Who answers, and the journal.
        self.introduce(config)
        self.name_model()
        folder = Path(config.work_dir)
        self.folder_lock, self.journal = open_journal(folder, config.responses, self.hear)
        if config.responses:
            record = first_record(config.responses)
            self.name = record["provider"]
            self.model = record["model"]
        try:
            self.others = self.other_models()
        except BaseException:
            self.__exit__()
            raise

    def introduce(self, config: Config, stage: str = "") -> None:
        """Who answers, and where; and what its server has made us change, which is nothing yet.

        A `stage` has a model of its own.
        """
        variables = environment()
        self.config = config
        self.flags = f"--{stage}-" if stage else "--"  # how the flags begin that name it
        self.name = provider_name(config)
        self.provider = provider_row(config, self.name)
        self.address_file = file_of_address(config, self.provider)
        keys = env_file()[1] if self.address_file else variables
        self.key = keys.get(self.provider.key or "LOCAL_API_KEY", "")
        self.address = server_address(config, self.provider, variables)
        self.base_url = without_login(self.address)  # as it is shown and written
        self.sdk_clients: list[Any] = []
        self.turns = 0  # taken by them so far
        self.bar: Any = None  # the progress bar of the present stage
        self.window = Window(config)
        if not self.provider.base_url:
            for stage in STAGES:
                self.window.set_limit(stage, config.concurrency)  # there is no server
        self.names = {"max_tokens": self.provider.cap}  # parameter -> its name here; "": not sent
        self.refused: dict[str, str] = {}  # parameter -> what we do instead
        self.cold = 0.0  # what is sent where the temperature is to be 0; None: nothing
        self.failed_in_a_row = 0  # requests that failed for good since the last answer
        self.silent = ""  # why nothing more is sent: the server is not there any more
        self.tasks: list[Task] = []  # what stages 2 and 3 ask about

    def name_model(self) -> None:
        """Set the model's name. Raises WorkshopError where it, or the key, is missing."""
        # Without a journal there will be questions, so the key is needed at once.
        config = self.config
        journal = Path(config.responses or Path(config.work_dir) / "responses.jsonl")
        if not journal.is_file() or not journal.stat().st_size:
            self.check_key()
        self.model = model_name(config, self.name) or self.first_listed()

    def of(self, stage: str) -> Model:
        """Who answers a stage: this model, or another one with the same journal."""
        first = self.first or self
        return first.others.get(stage, first)

    def everyone(self) -> list[Model]:
        """This model, and each other one once."""
        return list(dict.fromkeys([self, *self.others.values()]))

    def other_models(self) -> dict[str, Model]:
        """The models of stages that another one answers. Raises WorkshopError."""
        others: dict[str, Model] = {}
        for stage in STAGES[1:3]:
            config = config_of_stage(self.config, stage)
            if self.config.responses:
                found = self.like(recorded_who(self.config, stage), stage)
            elif config is self.config:
                found = self
            else:
                found = self.sibling(config, stage)
            if found is not self:
                others[stage] = found
        return others

    def sibling(self, config: Config, stage: str) -> Model:
        """Another model, which shares with this one all but who is asked."""
        other = copy(self)
        other.first = self
        other.introduce(config, stage)
        other.name_model()
        # Stages 2 and 3 may share one.
        for known in (self, *self.others.values()):
            if (known.name, known.model, known.address) == (other.name, other.model, other.address):
                return known
        self.others = {**self.others, stage: other}
        return other

    def like(self, who: tuple[str, str], stage: str) -> Model:
        """For a replay: the model that has answered a stage."""
        if who == (self.name, self.model):
            return self
        other = copy(self)
        other.first = self
        other.introduce(self.config, stage)
        other.name, other.model = who
        return other

    def __exit__(self, *_: Any) -> None:
        self.break_off()
        self.stop.set()
        self.senders.shutdown(wait=False, cancel_futures=True)
        self.folder_lock.release()
        for other in self.others.values():
            other.first = None  # nothing keeps the journal open

    def check_key(self) -> None:
        """Raise WorkshopError where the key is missing; only sending needs it, not a replay."""
        name = self.provider.key
        if name and not self.key and self.address_file:
            place = f"{self.provider.url_variable} stands in {self.address_file}"
            fault = f"{place}, and only a key from there goes to that address: put {name}"
        elif name and not self.key:
            fault = f"{name} is not set: put it"
        elif not re.fullmatch(r"[!-~]*", self.key):
            fault = f"{name} holds a character that no key has: copy it again"
        else:
            return
        self.stop.set()
        hint = f"or use {self.flags}provider local or practice"
        raise WorkshopError(f"{fault} into .env, {hint}")

    def client(self, build: Callable[[Model], Any]) -> Any:
        """The SDK's client, built when it is first needed.

        Several take turns where many requests are in flight: for each request, a client looks
        through all of its connections.
        """
        with self.lock:
            place = self.turns % math.ceil(self.window.limit / CONNECTIONS)
            self.turns += 1
            if place >= len(self.sdk_clients):
                self.sdk_clients.append(self.built_client(build))
                place = -1
            return self.sdk_clients[place]

    def built_client(self, build: Callable[[Model], Any]) -> Any:
        """One more client. Raises WorkshopError where what is around the program prevents it."""
        problem = surroundings_problem(self)
        try:
            if not problem:
                return build(self)
        except (ValueError, OSError) as error:
            name = set_variable("SSL_CERT_FILE", "SSL_CERT_DIR")
            hint = f" (check {name})" if name else ""
            problem = f"no connection can be made to {self.base_url}{hint}: {error}"
            problem = self.clean(problem)
        self.stop.set()
        raise WorkshopError(problem)

    def first_listed(self) -> str:
        """The first model that the server lists. Raises WorkshopError where it lists none."""
        ends = time.monotonic() + self.config.deadline
        why = "another kind of answer"
        while True:
            try:
                listed = list_models(self).data[0].id
                if isinstance(listed, str):
                    return listed
            except Transient as fault:
                why = fault.what
                pause = self.pause_after(fault, iter(()))
                if time.monotonic() + pause < ends:
                    self.sleep(pause)
                    continue
            except (ValueError, LookupError, TypeError, AttributeError):
                pass
            hint = f"start a server there, or name the model with {self.flags}model"
            raise WorkshopError(f"{self.base_url} lists no model ({why}): {hint}")

    def ask_each(
        self, stage: str, ask: Callable, items: list | Callable[[int], list]
    ) -> Iterator[tuple[Any, Reply | None]]:
        """Yield (item, its reply) in the order of the items.

        `items` may be a plan: it is called before each reply is waited for, with the number of
        items on their way, and returns those to ask next. It ends when none is left. The reply is
        None, and noted in `undone`, where the request failed for good.
        """
        self.tasks = items if stage in STAGES[1:] else self.tasks
        parts = iter([items])
        plan = items if callable(items) else lambda in_flight: next(parts, [])
        # A few more threads than may have a request in flight: some read a reply meanwhile.
        threads = self.config.concurrency + self.config.concurrency // 8
        executor = ThreadPoolExecutor(threads, "asking")
        self.leave_by = 0.0  # a notebook's cell that was interrupted may run again
        self.flight = flight = deque()
        try:
            while True:
                # An earlier program waited for all replies before it planned more.
                if not (flight and self.journal.in_rounds):
                    flight += [(item, executor.submit(ask, item)) for item in plan(len(flight))]
                if not flight:
                    return
                self.ask_ahead()
                item, reply = flight[0][0], None
                try:
                    reply = self.wait_for(flight).result()
                except RequestFailed as failure:
                    self.undone.append((stage, str(failure)))
                flight.popleft()
                yield item, reply
        finally:
            executor.shutdown(wait=False, cancel_futures=True)
            if flight:  # Ctrl-C, say
                self.break_off()

    def break_off(self) -> None:
        """Ask nothing more of any model. What arrives within a second, all in all, is kept."""
        asked = list(self.ahead)
        for model in self.everyone():
            model.leave_by = model.leave_by or time.monotonic() + 1.0
            asked += [future for _, future in model.flight]
        wait(asked, timeout=max(0.0, self.leave_by - time.monotonic()))

    def wait_for(self, flight: deque[tuple[Any, Future]]) -> Future:
        """Wait until the first is done; return it, or another that ends the whole run."""
        future = flight[0][1]
        while True:
            if self.stop.is_set():
                for other in (*self.ahead, *(future for _, future in flight)):
                    if other.done() and isinstance(other.exception(), WorkshopError):
                        return other
            if future.done():
                return future
            # On Windows, Ctrl-C does not reach a wait without end.
            wait([future], timeout=0.5)

    def ask(
        self, stage: str, prompt: str, parameters: dict, question: dict, readable: Callable = bool
    ) -> Reply:
        """Return the reply to a question, from the journal if it is there.

        A reply that was withheld, or is not `readable`, is asked for once more. `question` says
        what is asked beside the settings. Raises RequestFailed.
        """
        for attempt in (0, 1):
            reply = self.ask_once(stage, attempt, prompt, parameters, question)
            withheld = WITHHELD.get(reply.finish_reason, "")
            if not withheld and (reply.cut or readable(reply.text)):
                return reply
        # In stage 2 a filtered reply counts as an answer that cannot be read.
        unread = stage == "classify" and reply.finish_reason == "content_filter"
        if withheld and not unread:
            raise RequestFailed(f"{withheld}, twice: it stays so with this model")
        return reply

    def ask_once(
        self, stage: str, attempt: int, prompt: str, parameters: dict, question: dict,
        derive: Callable[[dict], list[dict]] | None = None,
    ) -> Reply:  # fmt: skip
        """Ask, unless the journal has the reply; write it down before it is used.

        `derive` makes, of the record of a list's reply, one record for each of its questions.
        """
        self.here.stage = stage
        key, identity = self.question_key(stage, attempt, parameters, question)
        record = self.journal.get(key)
        limit = parameters["max_tokens"]
        asked_now = record is None or was_cut_shorter(record, limit)
        if asked_now:
            if self.config.responses and was_left_undone(self, identity):
                raise RequestFailed("without a reply in the run that is replayed, too")
            # A logged request keeps its prompt: another one would be another question.
            prompt = record["prompt"] if record else prompt
            if self.provider.base_url:
                self.window.enter(stage)
            # The place in flight is held until the reply is on disk: a kill costs no more.
            with ExitStack() as place:
                try:
                    reply, sent = self.send(prompt, {**parameters, **self.provider.extra}, place)
                except RequestFailed:
                    if not self.here.ahead:
                        self.unanswered.add(stage)
                    raise
                text = reply.text.encode("utf-8", "replace").decode()  # as the disk will have it
                reply.text = without_key(self.key, text)
                reply.prompt = prompt
                reply.created_at = datetime.now(UTC).isoformat(timespec="milliseconds")
                record = {"version": VERSION, "key": key, **identity, **vars(reply)}
                record |= {"max_tokens": limit, "parameters": sent, "base_url": self.base_url}
                if stage == "generate" and not self.journal.in_rounds:
                    record["plan"] = PLAN
                self.counted.add(key)  # below; not by another thread that finds it in the journal
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
            raise self.unwritable(self.journal.path, str(error.strerror)) from None

    def unwritable(self, path: Path, why: str) -> WorkshopError:
        """End the run: what comes back could not be kept."""
        self.stop.set()
        problem = f"cannot write to {path} ({why})"
        return WorkshopError(f"{problem}: put it right, then run the same command to go on")

    def check_folder(self) -> None:
        """Raise WorkshopError where the folder was moved: one made anew would have no journal."""
        if not self.config.responses and self.journal.is_moved():
            raise self.unwritable(self.journal.path, MOVED)

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

    def send(self, prompt: str, parameters: dict, place: ExitStack) -> tuple[Reply, dict]:
        """Send until a reply comes; return it with the parameters sent.

        `place` then holds its place in flight. Raises RequestFailed when `max_attempts` or
        `deadline` is used up.
        """
        self.check_key()
        if self.leave_by:
            raise RequestFailed("the run was stopped")
        if self.silent:
            self.give_up(self.silent)
        ends = time.monotonic() + self.config.deadline
        pauses = retry_pauses(self.config)
        loading = None
        while not self.stop.is_set():
            try:
                waited = place.enter_context(self.window.turn(self.here.stage, self.stop))
                # Meanwhile others may have learnt what the server refuses.
                sent = self.adapted(parameters)
                ends += waited + self.admit(prompt, sent)
                if self.stop.is_set():
                    break
                reply = self.send_once(prompt, sent, ends - time.monotonic())
                self.failed_in_a_row = 0
                return reply, sent
            except ParameterRefused as refusal:
                place.close()
                self.refuse(refusal.args[0])
            except Transient as found:
                place.close()
                # A last try that the deadline cut short says less than the one before.
                fault = loading if loading and isinstance(found, Silent) else found
                loading = fault if isinstance(fault, Loading) else loading
                pause = self.pause_after(fault, pauses)
                last = time.monotonic() + pause >= ends
                # Where many have failed in a row, each of the others is sent only once.
                last = last or self.failed_in_a_row >= self.config.patience
                self.note_fault(fault.what, last)
                self.sleep(pause)
        raise RequestFailed("the run was stopped")

    def pause_after(self, fault: Transient, pauses: Iterator[float]) -> float:
        """Seconds before the next try; without end where there is none."""
        if isinstance(fault, Loading):
            deadline = f"up to --deadline {self.config.deadline:g} s"
            self.notice_once(f"{self.base_url} is loading its model: waiting for it, {deadline}")
            return max(fault.wait, min(5.0, 10 * self.config.first_wait))
        # The server's own wish counts where it is longer.
        return max(next(pauses, math.inf), fault.wait)

    def adapted(self, parameters: dict) -> dict:
        """The parameters by the names that this server takes, without those that it refuses."""
        sent = {self.names.get(name, name): value for name, value in parameters.items()}
        sent.pop("", None)
        if sent.get("temperature") == 0:
            sent["temperature"] = self.cold
            if self.cold is None:
                del sent["temperature"]
        return sent

    def admit(self, prompt: str, sent: dict) -> float:
        """Wait until a request may go; return the seconds that took. Here none waits."""
        return 0.0

    def send_once(self, prompt: str, sent: dict, seconds: float) -> Reply:
        """One try. A reply that still drips in after so many seconds is left to itself."""
        started = time.monotonic()
        try:
            future = self.senders.submit(self.provider.send, self, prompt, sent)
            reply = future.result(max(0.0, seconds))
        except TimeoutError:
            self.note_silence(started)
            raise Silent("no whole reply before the deadline") from None
        except Silent:
            self.note_silence(started)
            raise
        except (AttributeError, LookupError, TypeError, ValueError, RecursionError):
            raise Transient("200 with a body that is no answer") from None
        self.window.answered(self.here.stage, time.monotonic() - started)
        return reply

    def note_silence(self, sent_at: float) -> None:
        """Let fewer requests be in flight from now on, and say so once."""
        stage = self.here.stage
        if self.window.timed_out(stage, sent_at):
            limit = self.window.limits[stage]
            now = f"at most {limit} in flight from now on, for {self.window.timeout:g} s each"
            hint = "a slow server needs --concurrency 1 or a larger --request-timeout"
            self.notice_once(f"{self.name} gave no answer in time", f"{now}; {hint}")

    def notice_once(self, text: str, more: str = "") -> None:
        """Print a notice, but not one that says the same twice."""
        with self.lock:
            if text in self.told:
                return
            self.told.add(text)
        notice = one_line(f"notice: {text}", 300) + (f": {more}" if more else "")
        tell(notice, self.config.language)

    def note_fault(self, what: str, last: bool) -> None:
        """Count a fault. After the last try of a request, raise what that means for the run."""
        with self.lock:
            self.faults[re.split(r"[:{<]", what)[0].strip()[:40]] += 1
            self.failed_in_a_row += last
        # Before the first answer of a run, one failure is enough to end it.
        allowed = self.config.patience if self.tokens else 1
        if last and self.failed_in_a_row < allowed:
            raise RequestFailed(what)
        if last:
            if re.match(SILENT, what):
                self.silent = what
            self.give_up(what)

    def give_up(self, what: str) -> None:
        """Many requests in a row failed for good: leave this one undone, or end the run.

        A stage that has any answer goes on with what it has. Raises RequestFailed or
        WorkshopError.
        """
        stage = self.here.stage
        if stage in self.answered or self.has_answers(stage):
            self.answered.add(stage)
            raise RequestFailed(what)
        self.stop.set()
        problem = f"no answer from {self.name} at {self.base_url} ({what})"
        raise WorkshopError(f"{problem}: {advice(self.config, what)}")

    def has_answers(self, stage: str) -> bool:
        """Whether the journal holds a reply of this stage by this model."""
        wanted = (stage, self.name, self.model)
        for key in reversed([*self.journal.starts]):
            record = self.journal.get(key) or {}
            if tuple(record.get(name) for name in ("stage", "provider", "model")) == wanted:
                return True
        return False

    def refuse(self, name: str) -> None:
        """From now on send the limit of tokens by its other name, anything else not at all.

        "temperature 0" is another thing than "temperature": what is refused in stage 2, which
        asks for 0, may be fine in the others. In its place 0.01 is sent.
        """
        with self.lock:
            if name in self.refused:
                return
            other = ""
            if name.startswith("temperature "):
                self.cold = NEARLY_COLD if name == "temperature 0" else None
                other = "" if self.cold is None else str(self.cold)
            elif name in CAPS:
                untried = [cap for cap in CAPS if cap != name and cap not in self.refused]
                other = untried[0] if untried else ""
                self.names["max_tokens"] = other
            else:
                self.names[name] = ""
            how = f"sent as {other}" if other else "left out"
            self.refused[name] = how
            notice = f"notice: {self.model} refuses {name}: {how} from now on"
            tell(notice, self.config.language)

    def clean(self, message: str) -> str:
        """A server's words in one printable line, without the key or another login."""
        message = message.replace(self.key, "[key]") if self.key else message
        return one_line(without_login(message), 300)

    def spending(self, results: Results) -> dict:
        """What run.json says about money and limits."""
        return {}

    def ask_ahead(self) -> None:
        """Use free places for what later stages will ask: scripts/asking/ahead.py does."""

    # Whoever can prove that a stage would decide as it has before may take that from its file:
    # scripts/asking/decided.py does. Here every stage decides.

    def hear(self, record: dict) -> None:
        """A record that the journal holds when it is opened."""

    def recall(self, stage: str, tasks: list, results: Results) -> list | None:
        """What a stage that need not decide again returns, with its results; None: let it decide.

        `results.files` then has the stage.
        """
        return None

    def remember(self, stage: str, results: Results) -> None:
        """Note in `decided` what a stage that has ended was decided from."""


def without_key(key: str, text: str) -> str:
    """A reply without the key, if its server echoes that. A short one may be any word."""
    return text.replace(key, "[key]") if len(key) > 15 else text


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


def advice(config: Config, what: str) -> str:
    """What to do about a fault that stayed until the last try."""
    if re.search("no answer in time|before the deadline", what):
        now = f"a larger --request-timeout (now {config.request_timeout:g} s) or --deadline"
        return f"a slow server needs {now}, or --concurrency 1; the same command then goes on"
    if re.search(LOADING, what):
        return f"a larger --deadline (now {config.deadline:g} s) waits longer"
    if what.startswith("200 "):
        return "check whether the address is that of an API (most end in /v1), and --model"
    return "check it, then run the same command to go on"


def without_login(text: str) -> str:
    """The text, its addresses without `user:password@`."""
    return re.sub(r"(?<=://)[^\s/]*@", "", text)


def one_line(text: str, length: int = 100) -> str:
    """Text from outside, safe to print: one line, no control characters, cut at `length`."""
    printable = "".join(c if c.isprintable() else " " for c in text)
    text = " ".join(printable.split())
    return text if len(text) <= length else text[: length - 1] + "…"


CONTROL = r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"


def printable(text: str) -> str:
    """Text of several lines, safe to print: what could steer a terminal is written out.

    >>> printable("one\\x1b[2J\\ntwo")
    'one\\\\x1b[2J\\ntwo'
    """
    return re.sub(CONTROL, lambda match: match[0].encode("unicode_escape").decode(), text)


def show(text: str) -> None:
    """Print a result. Whoever closes the pipe early, as head does, has seen enough."""
    try:
        print(printable(text), flush=True)
    except BrokenPipeError:
        # Without this, Python complains once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def progress(model: Model, what: str, total: int, steps: Iterator | None = None) -> Any:
    """A bar that moves with the steps: on stderr at a terminal, or below a notebook's cell."""
    # A notebook draws a bar if it can. One of text stands where its cells print, and in order.
    in_notebook = type(sys.stderr).__module__ == "ipykernel.iostream"
    if in_notebook and util.find_spec("ipywidgets"):
        from tqdm.notebook import tqdm
    else:
        from tqdm import tqdm

    look = {"disable": None if sys.stderr else True, "leave": False}  # None: unless a terminal
    if in_notebook:
        look = {"file": sys.stdout, "leave": True}
    model.bar = tqdm(steps, total=total, desc=what, **look)
    return model.bar


def show_novelty(bar: Any, novelty: list[int]) -> None:
    """Move the bar of stage 1 by what the last request brought."""
    mean = fmean(novelty[-10:])
    bar.set_description(spoken(f"1 generate, {mean:.1f} new per request"), refresh=False)
    bar.update(novelty[-1])


# --------------------------------------------------------------------------------------------------
# Providers: rows of one table. A function for each wire format makes a Reply of a prompt, or raises
# what the answer means.

CAPS = ("max_tokens", "max_completion_tokens")  # two names of one limit; many models take one only
NEARLY_COLD = 0.01  # a temperature for servers that refuse 0
NO_MONEY = {  # codes and types of an account without money; many come as 429
    "insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "Arrearage",
    "insufficient_balance", "insufficient_balance_error", "insufficient_user_quota",
    "insufficient_credits", "exceeded_current_quota", "exceeded_current_quota_error",
    "AllocationQuota.FreeTierOnly", "AccountOverdueError", "payment_required",
    "1008", "1113", "30001",  # MiniMax, Zhipu, SiliconFlow
}  # fmt: skip
NO_MONEY_WORDS = (
    r"(?i)insufficient[ _](account[ _])?(balance|credit|fund)|余额不足|欠费|out of credits"
    r"|balance is (too low|insufficient|not enough)"
)
FATAL = {"model_not_found", "model_decommissioned", "Model.NotExist", "ModelNotFound"}
FATAL |= {"InvalidApiKey", "invalid_api_key", "AccessDenied"}
FATAL_STATUS = (401, 402, 403, 404, 410, 501)
NO_MODEL = (  # words about a model that gives no reply -> what it is
    (r"only support\w* (the )?stream|enable the stream|streaming is required", "only streams"),
    (r"not support (chat|completion|generat)|embedding model|not a chat", "writes no text"),
    (
        r"\bmodel\b.{0,80}(decommission|no longer|retired|discontinued|not exist|not found)",
        "is gone",
    ),
)
PASSING = {"InternalError", "ServiceUnavailable"}
LOADING = r"(?i)\bloading\b|warming up|initializing|starting up|not ready"  # with 503
FILTERED = {"content_filter", "content_policy_violation", "ResponsibleAIPolicyViolation"}
FILTERED |= {"DataInspectionFailed", "data_inspection_failed", "1301", "1026", "1027"}
SILENT = "connection|no answer in time|no whole reply before"  # faults that come from no server
WITHHELD = {  # finish_reason -> what that means
    "content_filter": "held back by the content filter",
    "no_content": "an answer without content",
}
UNSENT = {"ConnectError", "ConnectTimeout", "PoolTimeout", "ProxyError"}  # errors of httpx
UNSENT |= {"NewConnectionError", "NameResolutionError", "ConnectTimeoutError"}  # of urllib3
UNKNOWN = (  # how servers say that they do not know a parameter
    r"(?i)not support|unsupport|unrecogni|unknown|unexpect|not (permitt|allow)ed|instead"
)
NO_SHAPE = (  # how servers say that they cannot write JSON of a given shape
    r"(?i)response.?(format|schema)|json.?schema|json_validate_failed|structured output"
)
REPLY_ENDS = {  # what a reply's end means -> how servers say it
    "stop": "stop stopped stop_sequence eos eos_token end end_turn complete completed finished "
    "null none tool_calls function_call",
    "length": "length max_tokens max_output_tokens max_length model_length "
    "model_context_window_exceeded",
    "content_filter": "content_filter content-filter sensitive recitation safety blocklist "
    "prohibited_content spii refusal",
}
BROKEN_OFF = "error network_error insufficient_system_resource abort aborted cancelled timeout"


@dataclass
class Fault:
    """What a server answered instead of a reply."""

    status: int
    code: str
    message: str
    headers: Any
    parameter: str = ""  # the parameter that it names
    kind: str = ""  # what it calls the error


def held_back(model: Model, fault: Fault, sent: dict) -> Reply:
    """The empty reply of a content filter. Raises what any other error means."""
    if fault.code in FILTERED:
        return Reply("", "content_filter")
    raise judge_error(model, fault, sent)


def judge_error(model: Model, fault: Fault, sent: dict) -> Exception:
    """What an error means: try again, stop the run, adapt a parameter, or leave the task undone."""
    said = model.clean(f"{fault.status} {fault.code} {fault.message or fault.kind}")

    # A wrong key, no money, no such model: nothing will get better by asking on.
    hint = what_to_change(model, fault)
    if hint:
        model.stop.set()
        return WorkshopError(f"{model.name} at {model.base_url} said {said}: {hint}")

    # Too many requests, or something that passes. A 200 may hold an error of any kind.
    name = refused_parameter(fault, sent)
    if is_loading(fault):
        return Loading(said, retry_after(fault.headers))
    if is_passing(fault) or (fault.status == 200 and not name):
        return Transient(said, retry_after(fault.headers))

    if name:
        return ParameterRefused(name)
    return RequestFailed(said)


def is_loading(fault: Fault) -> bool:
    return fault.status == 503 and bool(re.search(LOADING, fault.message))


def is_passing(fault: Fault) -> bool:
    """Whether the same request may get a reply later."""
    # llama_cpp.server says so with 500 of a parameter that it does not take.
    if fault.status == 500 and "validation error" in fault.message:
        return False
    busy = fault.status in (408, 409, 429) or fault.status >= 500
    return busy or fault.code.startswith("Throttling") or fault.code in PASSING


def what_to_change(model: Model, fault: Fault) -> str:
    """What must change before any request can get a reply; "" where the request may be at fault."""
    key = model.provider.key or "the server"
    named = {fault.code, fault.kind}
    if fault.status == 402 or named & NO_MONEY or re.search(NO_MONEY_WORDS, fault.message):
        hint = f"top the account up, check {key}, or use another {model.flags}model"
        return f"no money is left: {hint}"
    if 300 <= fault.status < 400:
        hint = f"give its address with {model.flags}base-url"
        return f"a prompt follows no redirect to another host: {hint}"
    if fault.status != 501 and is_passing(fault):
        return ""
    for words, what in NO_MODEL:
        if re.search(f"(?i){words}", fault.message):
            return f"{model.model} {what}: name another with {model.flags}model, or check {key}"
    if fault.status not in FATAL_STATUS and not named & FATAL:
        return ""
    hint = f"check {key}, {model.flags}model ({model.model}) and the address"
    if RECIPES[model.config.recipe].continues_text:
        hint += f"; --recipe {model.config.recipe} needs its /v1/completions"
    return hint


def refused_parameter(fault: Fault, sent: dict) -> str:
    """The parameter that the model does not take, "" if the error is about none.

    A limit of tokens may also just be too high. A temperature of 0 may be too low.
    """
    if "response_format" in sent and re.search(NO_SHAPE, f"{fault.code} {fault.message}"):
        return "response_format"
    named = [name for name in sent if re.search(rf"\b{name}\b", fault.message)]
    name = fault.parameter or next(iter(named), "")
    if name not in sent or (name in CAPS and not re.search(UNKNOWN, fault.message)):
        return ""
    if name == "temperature" and sent[name] in (0, NEARLY_COLD):
        return f"temperature {sent[name]:g}"
    return name


def fault_of(status: int, body: Any, headers: Any) -> Fault:
    """The error in an answer; `body`: its text, or what the JSON in it says."""
    words = error_words(body)
    code = words["code"]
    # Some send the status of an error in a 200.
    if status == 200 and re.fullmatch("[45][0-9]{2}", code):
        status = int(code)
    code = "" if code == str(status) else code
    message = words["message"]
    if status == 200 and not message:
        message = "without choices or content"
    return Fault(status, code, message, headers, words["param"], words["type"])


WORDS = {  # part of an error -> the names that servers have for it
    "message": "message msg error_msg error_message status_msg detail error errors base_resp title",
    "code": "code error_code errorCode status_code",
    "type": "type error_type status",
    "param": "param",
}


def error_words(body: Any, depth: int = 0) -> dict[str, str]:
    """The `message`, `code`, `type` and `param` of an error, whatever its shape; "": not there.

    Servers say {"error": "text"}, {"error": {"message": ...}}, a list around it, {"detail": ...},
    {"base_resp": {"status_msg": ...}}, {"success": false, "message": ...}, plain text, or HTML.
    """
    words = dict.fromkeys(WORDS, "")
    if depth > 8:
        return words
    if isinstance(body, str):
        return text_words(body, depth)
    if isinstance(body, list):
        inner = [error_words(part, depth + 1) for part in body[:5]]
        words |= inner[0] if inner else {}
        words["message"] = "; ".join(one["message"] for one in inner if one["message"])
    if isinstance(body, dict):
        words |= object_words(body, depth)
    return words


def object_words(body: dict, depth: int) -> dict[str, str]:
    """The words of an error that is an object. What stands deeper inside is more exact."""
    words = dict.fromkeys(WORDS, "")
    for name in WORDS["message"].split():
        if body.get(name) and not words["message"]:
            inner = error_words(body[name], depth + 1)
            words |= {part: inner[part] for part in inner if inner[part]}
    for part in ("code", "type", "param"):
        for name in WORDS[part].split():
            value = body.get(name)
            if not words[part] and isinstance(value, str | int) and not isinstance(value, bool):
                words[part] = str(value)

    # A check of the whole request names the place: ["body", "temperature"].
    place = body.get("loc")
    if isinstance(place, list) and len(place) > 1:
        words["param"] = str(place[1])
        words["message"] = f"{place[1]}: {words['message']}"
    return words


def text_words(text: str, depth: int) -> dict[str, str]:
    """The words of an error that is a text: JSON, a page, or just words."""
    words = dict.fromkeys(WORDS, "")
    with suppress(ValueError, RecursionError):
        body = json.loads(text)
        if not isinstance(body, str) or depth < 2:
            return error_words(body, depth + 1)
    if re.match(r"(?i)\s*<(!doctype|html|head|title|body|center|h1)\b", text):
        title = re.search(r"(?is)<(title|h1)\b[^>]*>(.*?)</\1>", text)
        text = title[2] if title else text
        text = re.sub(r"<[^>]*>", " ", text[:5000])
    return words | {"message": " ".join(text[:5000].split())}


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


def surroundings_problem(model: Model) -> str:
    """What is wrong with this machine's own settings, in one line that names the variable."""
    # Headers carry no other letters.
    for name in ("OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_CUSTOM_HEADERS"):
        if model.name == "openai" and not os.environ.get(name, "").isascii():
            return f"{name} holds a character that no header can carry: copy it again, or unset it"
    if goes_past_proxies(model.address):
        return ""

    # The SDKs check all proxies, those for other addresses too.
    for scheme in ("http", "https", "all"):
        problem = proxy_problem(model, set_variable(f"{scheme}_proxy"))
        if problem:
            return problem
    native = model.provider.send is send_dashscope
    for name in ("REQUESTS_CA_BUNDLE",) if native else ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        path = os.environ.get(name, "")
        if path and not os.path.exists(path):
            return f"{name} points to {path}, which is not there: correct it, or unset it"
    return ""


PROXY_ADDRESS = r"(\w+://)?([^\s/]*@)?(\[[^\s\]]+\]|[^\s/@:]+)(:\d{1,5})?(/\S*)?"


def proxy_problem(model: Model, name: str) -> str:
    """What is wrong with the proxy in this variable; its address may hold a password."""
    address = os.environ.get(name, "")
    scheme = address.split("://")[0].lower() if "://" in address else "http"
    fix = f"set {name} to http://host:port, or unset it"
    if scheme not in ("http", "https", "socks5", "socks5h"):
        return f"{name} names a proxy of the kind {scheme}://, which cannot be used: {fix}"
    if address and not re.fullmatch(PROXY_ADDRESS, address):
        return f"{name} is no address of a proxy: {fix}"
    native = model.provider.send is send_dashscope
    if scheme.startswith("socks") and not util.find_spec("socks" if native else "socksio"):
        install = pip_install("pysocks" if native else "socksio")
        return f"{name} names a proxy of the kind {scheme}://, which needs  {install}  ; or {fix}"
    return ""


def set_variable(*names: str) -> str:
    """The first of these environment variables, in small or capital letters, that is set."""
    for name in names:
        for spelling in (name, name.upper()):
            if os.environ.get(spelling):
                return spelling
    return ""


def goes_past_proxies(address: str) -> bool:
    """Whether it is on this machine, where no proxy helps. An empty NO_PROXY says otherwise."""
    host = urlsplit(address).hostname or ""
    local = host == "localhost" or host.endswith(".localhost")
    with suppress(ValueError):
        place = ip_address(host)
        local = place.is_loopback or place.is_unspecified
    return local and "" not in (os.environ.get("NO_PROXY"), os.environ.get("no_proxy"))


def connection_fault(model: Model, error: Any) -> Transient:
    """What a failed connection means; if it goes through a proxy, that may be why."""
    from urllib.request import proxy_bypass_environment

    address = urlsplit(model.address)
    name = set_variable(f"{address.scheme}_proxy", "all_proxy")
    passed = goes_past_proxies(model.address) or proxy_bypass_environment(address.hostname or "")
    proxy = f"through the proxy of {name}: " if name and not passed else ""
    return Transient(model.clean(f"connection: {proxy}{error}"), sent=was_sent(error))


def no_answer(model: Model) -> Silent:
    return Silent(f"no answer in time: {model.window.timeout:g} s")


def openai_client(model: Model) -> Any:
    import ssl

    import openai

    options: dict = {}
    if goes_past_proxies(model.address):
        options["trust_env"] = False
        if model.address.startswith("https"):
            options["verify"] = ssl.create_default_context()  # SSL_CERT_FILE still counts
    http_client = openai.DefaultHttpxClient(**options)
    http_client.send = partial(send_by_httpx, http_client.send)
    client = openai.OpenAI(
        api_key=model.key or "none",
        base_url=model.address,
        max_retries=0,
        timeout=model.config.request_timeout,
        http_client=http_client,
    )
    # The SDK reads these from the shell and would send them to any host, with a key in them maybe.
    if model.name != "openai" or model.address_file:
        client.organization = None
        client.project = None
        client._custom_headers = {}
    return client


def send_by_httpx(send: Callable, request: Any, **options: Any) -> Any:
    """Send once, and follow a redirect on the same host: no other host gets prompts."""
    options["follow_redirects"] = False
    response = send(request, **options)
    for _ in range(5):
        further = response.next_request
        if further is None or not same_host(str(request.url), str(further.url)):
            break
        response.close()
        response = send(further, **options)
    return response


def same_host(known: str, further: str) -> bool:
    """Whether an address is of the same host, and no less safe."""
    one = urlsplit(known)
    other = urlsplit(further)
    return one.hostname == other.hostname and (one.scheme, other.scheme) != ("https", "http")


def list_models(model: Model) -> Any:
    """What the server says of its models. Raises Transient, Loading where it will be there soon."""
    import openai

    try:
        return model.client(openai_client).models.list()
    except openai.APIStatusError as error:
        fault = openai_fault(error)
        said = model.clean(f"{fault.status} {fault.code} {fault.message or fault.kind}")
        if is_loading(fault):
            raise Loading(said, retry_after(fault.headers)) from None
        raise Transient(said) from None
    except openai.APITimeoutError:
        raise no_answer(model) from None
    except openai.APIConnectionError as error:
        raise connection_fault(model, error.__cause__ or error) from None


def send_openai(model: Model, prompt: str, parameters: dict) -> Reply:
    """Ask an OpenAI-compatible endpoint once: a chat, or the continuation of a text."""
    import openai
    from httpx2 import Response

    client = model.client(openai_client)
    asked = {"model": model.model, **parameters}
    path = "/chat/completions"
    if RECIPES[model.config.recipe].continues_text:
        path = "/completions"
        asked["prompt"] = prompt
    else:
        asked["messages"] = as_turns(prompt)
    # Not chat.completions.create: that goes through each turn, for keys to be renamed, and takes
    # longer for it than for sending.
    options = {"timeout": model.window.timeout}
    try:
        answer = client.post(path, cast_to=Response, body=asked, options=options)
    except openai.APIStatusError as error:
        return held_back(model, openai_fault(error), parameters)
    except openai.APITimeoutError:
        raise no_answer(model) from None
    except openai.APIConnectionError as error:
        raise connection_fault(model, error.__cause__ or error) from None

    # An error may come with 200 too, and a page of something else.
    text = answer.text
    document = json_or_none(text)
    if document is None and text.startswith("{"):
        raise Transient("200 with a body that is no answer")
    if not isinstance(document, dict) or not document.get("choices"):
        return held_back(model, fault_of(200, text, {}), parameters)
    usage = document.get("usage") or {}
    return read_answer(model, document, usage, "prompt_tokens", "completion_tokens")


def as_turns(prompt: Prompt) -> list[dict[str, str]]:
    """A prompt as the turns of a chat."""
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt


def was_sent(error: BaseException) -> bool:
    """Whether a request may have reached its server: not where no connection ever stood."""
    # requests keeps the reason, an error of urllib3, inside; httpx has its own names.
    inner = error.args[0] if error.args else None
    reason = getattr(inner, "reason", None)
    return not {type(error).__name__, type(reason).__name__} & UNSENT


def openai_fault(error: Any) -> Fault:
    """What an error of the SDK tells."""
    headers = error.response.headers
    body = error.body  # without the `error` around it
    if error.body is None or isinstance(error.body, str):
        body = error.response.text
    return fault_of(error.status_code, body, headers)


def read_answer(model: Model, document: dict, usage: Any, *counts: str) -> Reply:
    """The Reply in the `choices` of an answer; both wire formats have the same."""
    choice = (document.get("choices") or [{}])[0]
    said = choice.get("message") or {"content": choice.get("text")}  # a chat's, or a completion's
    finish = ending(model, choice.get("finish_reason"))
    text = content_text(said.get("content"))
    told = usage if isinstance(usage, dict) else {}
    used = [token_count(told.get(name)) for name in counts]
    if not text and (said.get("reasoning_content") or said.get("reasoning")):
        text = ""
        all_of_it = f"{model.model} put all its text into its thinking, and gave no answer"
        limit = f"a larger --max-tokens (now {model.config.max_tokens})"
        model.notice_once(all_of_it, f"{limit} helps, or a model with thinking off")
    if text is None:
        # With usage it was paid for, so it is an answer: asked for once more, not six times.
        if document.get("choices") and any(used):
            finish = finish if finish in ("length", "content_filter") else "no_content"
        if finish not in ("length", *WITHHELD):
            error = document.get("error", "")
            raise Transient(model.clean(f"200 without choices or content: {error}"))
        text = ""
    return Reply(text, finish, *used)


def content_text(content: Any) -> str | None:
    """The text of a message's content, which may be a list of parts; None: there is no text."""
    if not isinstance(content, list):
        return content if isinstance(content, str) else None
    texts = []
    for part in content:
        # Other parts hold the thinking, or pictures.
        if isinstance(part, dict) and part.get("type", "text") in ("text", "output_text"):
            texts.append(part.get("text"))
    texts = [text for text in texts if isinstance(text, str)]
    return "".join(texts) if texts else None


def ending(model: Model, word: Any) -> str:
    """Why a reply ended: stop, length or content_filter.

    Raises Transient for a reply that broke off, and for a word that nobody knows, unless this
    server has no other word.
    """
    said = one_line(str(word or "stop"), 40)
    for meaning, names in REPLY_ENDS.items():
        if said.casefold() in names.split():
            model.endings[""] += 1  # a known one
            return meaning

    model.endings[said] += 1
    broken = Transient(f"200 ended by {said}")
    if said.casefold() in BROKEN_OFF.split():
        raise broken
    model.notice_once(f"a reply of {model.model} ended by {said!r}", "nobody knows this word")
    if model.endings[""] or model.endings[said] < 3:
        raise broken
    return "stop"


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
    if goes_past_proxies(model.address):
        session.trust_env = False
    session.send = partial(send_by_session, model, session.send)
    return session


class ErrorAnswer(Exception):
    """The server answered with an error, the Fault args[0]."""


def send_by_session(model: Model, send: Callable, request: Any, **options: Any) -> Any:
    """Send once. Raises ErrorAnswer: the SDK reads few shapes of errors, and none in a 200."""
    import requests

    # A redirect comes through here again.
    redirected = not options.get("allow_redirects", True)
    if redirected and not same_host(model.address, request.url):
        raise ErrorAnswer(Fault(307, "", f"go to {one_line(request.url)}", {}))
    try:
        response = send(request, **options)
    except requests.Timeout:
        raise no_answer(model) from None
    except requests.RequestException as error:  # the SDK would send some again, and pay again
        raise connection_fault(model, error) from None
    further = redirected and response.is_redirect
    if not further and (response.status_code != 200 or b'"output"' not in response.content):
        raise ErrorAnswer(fault_of(response.status_code, response.text, response.headers))
    return response


def send_dashscope(model: Model, prompt: str, parameters: dict) -> Reply:
    """Ask DashScope's own endpoint once."""
    import dashscope

    try:
        answer = dashscope.Generation.call(
            model=model.model,
            messages=as_turns(prompt),
            result_format="message",
            api_key=model.key,
            base_address=model.address,
            session=model.client(dashscope_client),
            request_timeout=model.window.timeout,
            **parameters,
        )
    except ErrorAnswer as error:
        return held_back(model, error.args[0], parameters)
    usage = answer.usage or {}
    return read_answer(model, answer.output or {}, usage, "input_tokens", "output_tokens")


def was_left_undone(model: Model, question: dict) -> bool:
    """Whether the run that is replayed asked this too, and got no reply.

    A question to which the journal has a reply under other settings was never asked in this
    form. Nor was a request of stage 1, or a task of stage 2, behind the last that has a reply,
    unless run.json beside the journal says that as many tasks were wanted.
    """
    stage = question["stage"]
    if question["attempt"] or question.get("sample") or "instructions" in question:
        return True
    asked = questions_of(model, stage)
    if stage == "generate":
        number = question["request_idx"]
        return number not in asked and number < max(asked, default=0)
    text = question["instruction"]
    order = [task.instruction for task in model.tasks]
    if text not in order:
        return True  # a seed task, which stage 2 asks about too
    if not asked or text in asked:
        return False
    if stage == "instances" and text in questions_of(model, "classify"):
        return True
    behind = order[order.index(text) :]
    return bool(asked.intersection(behind)) or wanted_as_many(model.config)


def wanted_as_many(config: Config) -> bool:
    """Whether run.json beside the journal that is replayed says that as many were wanted."""
    settings = earlier_run(Path(config.responses).parent).get("settings")
    wanted = settings.get("num_instructions") if isinstance(settings, dict) else None
    return type(wanted) is int and wanted >= config.num_instructions


def questions_of(model: Model, stage: str) -> set:
    """What a replayed journal has replies to: requests of stage 1 by number, or instructions."""
    if stage not in model.questions:
        journal = model.journal
        records = filter(None, map(journal.get, [*journal.starts]))
        name = "request_idx" if stage == "generate" else "instruction"
        kind = int if stage == "generate" else str
        found = [record.get(name) for record in records if record.get("stage") == stage]
        model.questions[stage] = {what for what in found if isinstance(what, kind)}
    return model.questions[stage]


def send_replay(model: Model, prompt: str, parameters: dict) -> Reply:
    """Every reply is in the journal; a question that is not there has none."""
    problem = f"{model.config.responses} holds no reply to {one_line(as_text(prompt)[-60:])!r}"
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
    return env_file()[1] | {
        name: value.strip() for name, value in os.environ.items() if value.strip()
    }


def env_file() -> tuple[str, dict[str, str]]:
    """The nearest .env from here upwards, "" if there is none, and its variables."""
    from dotenv import dotenv_values, find_dotenv

    file = find_dotenv(usecwd=True)
    try:
        variables = dotenv_values(file, interpolate=False)
    except UnicodeDecodeError:
        raise WorkshopError(f"{file} is not UTF-8 text: save it as UTF-8") from None
    filled = {name: value.strip() for name, value in variables.items() if value and value.strip()}
    return file, filled


def file_of_address(config: Config, provider: Provider) -> str:
    """The .env that names the server's address, "" if that is the provider's own, or was typed.

    Such a file may be somebody else's, of a copied project say, so no key goes to its address but
    its own.
    """
    name = provider.url_variable
    file, variables = env_file()
    if config.base_url or os.environ.get(name, "").strip():
        return ""
    address = variables.get(name, provider.base_url)
    return "" if address.rstrip("/") == provider.base_url.rstrip("/") else file


def provider_name(config: Config) -> str:
    """The provider that is named, else the first whose key is set, else the practice model."""
    if config.provider:
        return config.provider
    variables = environment()
    keyed = [name for name, row in PROVIDERS.items() if row.key in variables]
    return next(iter(keyed), "local" if config.base_url else "practice")


def model_name(config: Config, provider: str) -> str:
    """The model that is named, else the provider's; "" for the first that the server lists.

    The practice model has its own name always: nothing it says passes for a real model's.
    """
    own = PROVIDERS[provider].model
    return own if provider == "practice" else config.model or own


def provider_row(config: Config, name: str) -> Provider:
    """The provider's row. A recipe for base models needs an endpoint that continues texts."""
    row = PROVIDERS[name]
    if name == "practice" and not config.provider and config.model:
        problem = f"nobody is there to be --model {config.model}: no API key was found"
        raise UsageError(f"{problem}; put one into .env, or name the --provider")
    if not RECIPES[config.recipe].continues_text:
        return row
    if row.send is send_dashscope or (row.key and not config.model):
        needed = f"--recipe {config.recipe} needs a model that continues texts"
        hint = "--provider local, or --provider openai --model davinci-002"
        raise WorkshopError(f"{needed}, at an endpoint /v1/completions: {hint}")
    return replace(row, cap="max_tokens", extra={})


def server_address(config: Config, provider: Provider, variables: dict[str, str]) -> str:
    """Where the server is: as told, as a variable says, or the provider's own address."""
    address = config.base_url or variables.get(provider.url_variable) or provider.base_url
    if address and not re.fullmatch(ADDRESS, address):
        shown = re.sub("(?s).*@", "", address)  # no login
        raise WorkshopError(f"{provider.url_variable} is no address of a server: {shown!r}")
    return address


# --------------------------------------------------------------------------------------------------
# The practice model: a bank of written tasks, some bad on purpose, that answers as chat models do.
# It is NOT a language model. The same prompt and --seed give the same reply.


def send_practice(model: Model, prompt: str, parameters: dict) -> Reply:
    """Look up an answer in the bank, and write it in one of the styles of chat models."""
    config = model.config
    prompt = as_text(prompt)
    rng = random.Random(f"{config.seed}/{prompt}")
    text = practice_reply(config, rng, prompt)
    limit = 4 * parameters["max_tokens"]  # about four letters to a token
    finish = "length" if len(text) > limit else "stop"
    sizes = [math.ceil(len(part) / 4) for part in (prompt, text[:limit])]
    return Reply(text[:limit], finish, *sizes)


def practice_reply(config: Config, rng: random.Random, prompt: str) -> str:
    """A list of tasks, verdicts, or instances, as the prompt asks; "" to what it does not know."""
    bank = read_data("practice_tasks", config.language)
    lines = prompt.split("\n")
    if dangling_number(prompt):
        return practice_list(config, rng, bank, lines)
    # The instruction stands near the end; the recipe `paper` changes its capitals.
    asked = {line.casefold() for line in lines[-3:]}
    known = [*bank, *practice_seeds(seed_path(config))]
    if lines[0] == wording(config, "answer", ANSWER_PROMPT)["header"]:
        return practice_answer(config, rng, known, prompt)
    task = next((row for row in known if row["instruction"].casefold() in asked), None)
    if task and lines[-1] == wording(config, "classify", CLASSIFY_PROMPT)["question"]:
        return practice_verdict(config, rng, task)
    if task and task["instances"]:
        return practice_instances(config, rng, task)
    return "" if task else practice_verdicts(config, rng, known, lines)


@cache
def practice_seeds(path: str | Path) -> list[dict]:
    """What the practice model knows of seed tasks: what people say of them."""
    tasks, _ = merged_seed_tasks(path)
    return [asdict(task) for task in tasks]


def practice_verdict(config: Config, rng: random.Random, task: dict) -> str:
    """The options of a task are the outputs of its instances, as far as the bank has them."""
    words = wording(config, "classify", CLASSIFY_PROMPT)
    outputs = dict.fromkeys(instance["output"] for instance in task["instances"])
    options = words.get("between", "").join(outputs)
    labelled = bool(task["is_classification"])
    answer = words["answer"][labelled].strip().format(options)
    if labelled and len(outputs) < 2 and not RECIPES[config.recipe].continues_text:
        answer = "Yes"
    return rng.choice(styles("verdict", config)).format(answer=answer)


def practice_verdicts(config: Config, rng: random.Random, known: list[dict], lines: list) -> str:
    """A numbered line for each task of the list at the end of the prompt; "" where none is there.

    All lines are in one style. Where that cannot be read, one line is in it.
    """
    words = wording(config, "classify", CLASSIFY_PROMPT)
    tasks = {" ".join(row["instruction"].split()): row for row in known}
    listed = []
    for line in lines[:-2]:
        listed = [*listed, line] if is_numbered(line) else []
    style = rng.choice(styles("verdict", config))
    spoilt = rng.randint(1, max(1, len(listed)))
    answers = []
    for number, line in enumerate(listed, 1):
        task = tasks.get(line.partition(" ")[2], {"instances": [], "is_classification": False})
        outputs = dict.fromkeys(instance["output"] for instance in task["instances"])
        options = words["between"].join(outputs if len(outputs) > 1 else BOTH[config.language])
        answer = words["answer"][bool(task["is_classification"])].format(options)
        way = style if "{answer}" in style or number == spoilt else "{answer}"
        answers.append(f"{number}. {way.format(answer=answer)}")
    return "\n".join(answers)


BOTH = {"en": ("yes", "no"), "zh": ("是", "否")}  # options where the bank has only one output


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
    kinds = wording(config, "generate", GENERATE_PROMPT)["kinds"]
    labelled = any(kinds[1][0] in line for line in lines if not is_numbered(line))
    fitting = [row["instruction"] for row in bank if row["is_classification"] or not labelled]
    fitting = within_reach(config, fitting, list(filter(is_numbered, lines)))
    if config.topics:
        topic = Turns(config).topic_of("\n".join(lines))
        near = on_topic(config, topic, fitting)
        others = [task for task in fitting if task not in near]
        few = max(0, config.tasks_asked - len(near))
        fitting = near + rng.sample(others, min(few, len(others)))
    # At temperature 0 it always says the same.
    rng = rng if config.temperature else random.Random(config.seed)
    tasks = rng.sample(fitting, min(config.tasks_asked, len(fitting)))
    if rng.random() < 0.2:  # models repeat what they are shown
        shown = rng.choice([line for line in lines if is_numbered(line) or line.startswith("- ")])
        tasks[-1] = re.sub(r"^(\d+\.|-) ", "", shown)

    # Base models go on right behind the dangling number, and so do chat models now and then.
    base = RECIPES[config.recipe].continues_text
    ways = styles("list", config)
    style = ways[0] if base else rng.choice(ways)
    listed = [style.format(n, task) for n, task in enumerate(tasks, number)]
    if base or rng.random() < 0.4:
        return "\n".join([tasks[0], *listed[1:]])
    return rng.choice(styles("opening", config)) + "\n".join(listed)


NEAR = 40  # tasks of the bank that are near to those of a prompt with somebody's own seed tasks


def within_reach(config: Config, bank: list[str], shown: list[str]) -> list[str]:
    """The tasks that the practice model may name: all at the default temperature, fewer below.

    Own seed tasks steer it: then these are the tasks of the bank that are nearest to the prompt's.
    """
    known = bank
    size = len(bank)
    if config.seed_file:
        nearest = similarities_with(bank, shown or [""]).max(axis=0)
        known = [bank[i] for i in highest(nearest, len(bank))]
        size = NEAR
    share = min(1.0, config.temperature / Config.temperature)
    return known[: max(config.tasks_asked, round(share * size))]


def on_topic(config: Config, topic: str, known: list[str]) -> list[str]:
    """Those tasks of the bank that use a word of the topic."""
    tokens = [token for token in tokenize(topic) if len(token) > 3 or not token.isascii()]
    words = tokens or tokenize(topic)
    if config.language == "zh":
        # A Chinese word has two characters as a rule: one alone is a part of many words.
        letters = "".join(token for token in tokenize(topic) if not token.isascii())
        words = [letters[i : i + 2] for i in range(max(1, len(letters) - 1))]
    stems = [re.sub(r"(?<=\w{4})(?:ing|es|s)$", "", word) for word in words]
    start = "" if config.language == "zh" else r"\b"
    pattern = re.compile("|".join(start + re.escape(stem) for stem in stems), re.IGNORECASE)
    # An instance tells as much of what a task is about as its instruction.
    texts = {}
    for row in read_data("practice_tasks", config.language):
        given = [instance["input"] for instance in row["instances"]]
        texts[row["instruction"]] = "\n".join([row["instruction"], *given])
    return [task for task in known if pattern.search(texts[task])]


def topics_out_of_reach(config: Config) -> list[str]:
    """The topics on which the practice bank has too few tasks."""
    bank = [row["instruction"] for row in read_data("practice_tasks", config.language)]
    found = {name: len(on_topic(config, name, bank)) for name in load_topics(config.topics)}
    return [name for name, tasks in found.items() if tasks < config.tasks_asked]


def similarities_with(bank: list[str], texts: list[str]) -> Any:
    """ROUGE-L of each text with each task of the bank, an array (len(texts), len(bank))."""
    pool = InstructionPool()
    for task in bank:
        pool.add(task)
    return pool.similarities(texts)


def is_numbered(line: str) -> bool:
    return bool(re.match(r"\d+\. ", line))


def practice_answer(config: Config, rng: random.Random, known: list[dict], prompt: str) -> str:
    """The output that belongs to the input of the prompt; now and then one of another input."""
    asked = prompt.split("\n\n", 1)[1]
    for task in known:
        for instance in task["instances"]:
            if asked == with_input(task["instruction"], instance["input"]):
                slip = rng.random() < 0.03
                return rng.choice(task["instances"])["output"] if slip else instance["output"]
    return ""


def practice_instances(config: Config, rng: random.Random, task: dict) -> str:
    """Instances of a task in the bank, one in ten with a slip."""
    wanted = min(config.instances_per_instruction, len(task["instances"]))
    chosen = rng.sample(task["instances"], wanted)
    if rng.random() < 0.1:
        slip = rng.choice(styles("slip", config))
        known = {name: task[name] for name in ("instruction", "name")}
        output = slip.format(input=chosen[0]["input"], **known)
        chosen[0] = {**chosen[0], "output": output}
    elif chosen[0]["output"] and rng.random() < 0.04:
        # One example too many, a copy or a contradiction.
        other = f"{chosen[0]['output']} {task['name']}"
        chosen.append(rng.choice([chosen[0], {**chosen[0], "output": other}]))

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


def paper_join(header: str, shots: list[tuple[str, str]], asked: str) -> Prompt:
    """All in one text, which a base model continues."""
    blocks = [question + answer for question, answer in shots]
    return "\n\n".join([header, *blocks, asked])


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
    """As `modern_scores`, with rouge_score's own float."""
    import numpy as np

    scores = modern_scores(candidates, pool)
    m = np.array([len(text) for text in candidates])[:, None]
    n = np.array([len(text) for text in pool])
    return paper_score(np.rint(scores * (m + n) / 2), m, n)


def paper_score(common: Any, m: Any, n: Any) -> Any:
    """rouge_score's own float, 2pr / (p + r): for many an exact 0.7 it is 0.7000000000000001."""
    import numpy as np

    p = common / np.maximum(m, 1)
    r = common / np.maximum(n, 1)
    return np.divide(2 * p * r, p + r, out=np.zeros_like(p), where=common > 0)


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
    shots_drawn: int  # of those for stage 3, how many a prompt shows; 0: all
    join: Callable[
        [str, list[tuple[str, str]], str], Prompt
    ]  # (header, (question, answer)s, asked)
    checks_model: bool  # probes in stage 2; in stage 3 copies are found and a second try is made
    continues_text: bool  # for base models: /v1/completions instead of a chat
    languages: tuple[str, ...]  # for which it is made; empty: all
    instances_shown: int  # of a worked example
    colons: str  # what is cut off the end of an instruction in a list
    prompt_end: str  # base models go on writing, here on the next line
    limit_name: str  # who sets the longest reply; empty: --max-tokens
    # Reading.
    read_instructions: Callable[[str, bool, int], list[str]]  # (reply, truncated, first number)
    read_classification: Callable[[str], bool | None]
    read_labels: Callable[[str], list[str] | None]
    read_instances: Callable[[str, bool, bool], Pairs]  # (reply, is_classification, truncated)
    # Judging.
    tokenize: Callable[[str], list[str]]
    scores: Callable[[list[str], list[str]], Any]
    score: Callable[[Any, int, Any], Any]  # (common subsequence, tokens of the one, of the other)
    highest_score: Callable[[float], float]  # threshold -> the highest score that is novel
    instruction_problem: Callable[[str], str]
    echo_problem: Callable[..., str]  # (candidate, lines of the prompt, nearest of the pool)
    tidy_input: Callable[[str, str], str]  # (instruction, input) -> input
    instance_problem: Callable[[str, str, str], str]  # (instruction, input, output)
    same_instance: Callable[[str, str], tuple]  # what two duplicates have in common
    clash_spoils_all: bool  # one contradiction turns away all instances of the task


def modern_parameters(config: Config, stage: str, labelled: bool) -> dict:
    """Stages 2 and 3 take the likeliest answer, as in the paper."""
    temperature = config.temperature if stage == "generate" else 0.0
    return {"max_tokens": config.max_tokens, "temperature": temperature}


RECIPES = {
    "modern": Recipe(
        parameters=modern_parameters,
        shots=modern_shots,
        shots_drawn=2,
        join=modern_join,
        checks_model=True,
        continues_text=False,
        languages=(),
        instances_shown=1,
        colons=":：",
        prompt_end="",
        limit_name="",
        read_instructions=modern_instructions,
        read_classification=modern_classification,
        read_labels=modern_labels,
        read_instances=modern_instances,
        tokenize=modern_tokenize,
        scores=modern_scores,
        score=modern_score,
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
        shots_drawn=0,
        join=paper_join,
        checks_model=False,
        continues_text=True,
        languages=("en",),
        instances_shown=5,
        colons=":",
        prompt_end="\n",
        limit_name="the limit of the paper",
        read_instructions=paper_instructions,
        read_classification=lambda reply: reply.strip() in ("Yes", "yes", "YES"),
        read_labels=lambda reply: None,
        read_instances=paper_instances,
        tokenize=rouge_tokenize,
        scores=paper_scores,
        score=paper_score,
        highest_score=lambda threshold: threshold,
        instruction_problem=paper_instruction_problem,
        echo_problem=lambda candidate, prompt_lines, near: "",
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


@dataclass
class Results:
    """What a run has made so far. The stages fill it, so nothing is lost where one breaks off."""

    tasks: list[Task] = field(default_factory=list)
    rejected: list[dict] = field(default_factory=list)
    dataset: list[dict] = field(default_factory=list)
    novelty: list[int] = field(default_factory=list)  # new instructions of each stage-1 request
    status: str = "interrupted"
    seeds: list[Task] = field(default_factory=list)
    turns: Turns | None = None  # of the topics in stage 1
    # Accepted tasks without their neighbours: (task, what makes its notes, its place in the pool).
    waiting: list[tuple[Task, Callable[..., dict], int]] = field(default_factory=list)
    at_once: int = 1  # as soon as so many wait, their neighbours are noted
    agreement: dict = field(default_factory=dict)  # of stage 2 with people, on seed tasks
    earlier: dict = field(default_factory=dict)  # run.json of the run before this one
    written: list[str] = field(default_factory=list)  # the step files of this run
    digests: dict[str, str] = field(default_factory=dict)  # stage -> what write_rows returned
    files: dict[str, Path] = field(default_factory=dict)  # stage -> where its rows are, not here
    is_new_dataset: bool = False  # whether the dataset is another one than stood there before
    kept_in: str = ""  # the folder with the files of the run that this one replaced
    started: float = field(default_factory=time.monotonic)

    def begin(self, stage: str, config: Config | None = None) -> None:
        """Forget what an earlier call of a stage has left, as when a notebook's cell runs again."""
        self.rejected = [row for row in self.rejected if row["stage"] != stage]
        self.dataset = []
        pairs_read.cache_clear()  # a notebook may have changed how a reply is read
        if config:  # stage 1
            self.tasks = []
            self.novelty = []
            self.waiting = []
            self.turns = Turns(config, len(self.rejected))

    def accept(self, instruction: str, notes_of: Callable, place: int) -> None:
        """Make a machine task. Its notes wait until its neighbours in the pool are known."""
        name = f"machine_task_{len(self.tasks)}"
        self.tasks.append(Task(name, instruction, notes={"generate": {}}))
        self.waiting.append((self.tasks[-1], notes_of, place))

    def room(self, config: Config, prompt: str) -> int:
        """How many more instructions stage 1 wants, with topics on the topic of this prompt."""
        if config.topics and self.turns:
            return self.turns.room(prompt)
        return config.num_instructions - len(self.tasks)

    def reject(
        self,
        stage: str,
        rule: str,
        *texts: str,
        pair: tuple = ("", ""),
        why: tuple[str, float] = ("", 0.0),
    ) -> None:
        """Note which instructions a rule turned away, or which instance `pair` of one.

        `why` is the evidence: the neighbour and its score. What a row has nothing of is "" or 0.0,
        never null: a reader that sees only nulls at first does not know the type.
        """
        for text in texts:
            row = {"stage": stage, "rule": rule, "instruction": text}
            row |= {"input": pair[0] or "", "output": pair[1]}
            row |= {"evidence": why[0], "score": why[1]}
            self.rejected.append(row)

    def through(self, stage: str) -> list[Task]:
        """The tasks that came through a stage, but for those whose notes still wait."""
        unfinished = {task.id for task, _, _ in self.waiting} if stage == "generate" else set()
        return [task for task in self.tasks if stage in task.notes and task.id not in unfinished]

    def rows(self, stage: str) -> list[dict]:
        """The rows of a stage's step file: a view of the tasks that came through it."""
        if stage == "filter":
            return self.dataset
        if stage in self.files:
            return list(read_rows(self.files[stage]))
        columns = ["id", "instruction", "is_classification", "instances"]
        columns = columns[: STAGES.index(stage) + 2]
        rows = []
        for task in self.through(stage):
            row = {name: getattr(task, name) for name in columns}
            rows.append(row | task.notes[stage])
        if stage == "generate":
            return with_each_prompt_once(rows)
        return typed_rows(rows) if stage == "instances" else rows

    def each_row(self, stage: str) -> Iterable[dict]:
        """The same one after the other, without all in memory where they are in a file."""
        return read_rows(self.files[stage]) if stage in self.files else self.rows(stage)

    def leave_to_file(self, stage: str, path: Path) -> None:
        """Keep, of what a step file says, only what later stages read.

        Of 50,000 tasks the rest would be half of the memory.
        """
        if stage not in self.files:
            self.files[stage] = path
            for task in self.tasks:
                if stage in task.notes:
                    notes = task.notes[stage]
                    task.notes[stage] = {name: notes[name] for name in READ_LATER[stage]}


# By stage: the notes of a task that a later stage reads.
READ_LATER = {"generate": (), "classify": ("labels",), "instances": ("second_answers",)}


def with_each_prompt_once(rows: list[dict]) -> list[dict]:
    """Rows of step 1 of which only the first of each request keeps the prompt.

    Of 50,000 instructions, the copies would be more than a third of the file.
    """
    seen = set()
    for row in rows:
        request = row.get("request_idx")  # notes may be missing, as in compare_recipes.py
        if request in seen and "metadata" in row:
            row["metadata"] = {name: row["metadata"][name] for name in ("response", "created_at")}
        seen.add(request)
    return rows


def typed_rows(rows: list[dict]) -> list[dict]:
    """Rows of step 3 whose first ones tell each column's type, as `load_dataset` needs it.

    Tasks without an instance stand last. What stage 2 could not tell was not asked for as
    classification, so it is false here; step 2 has it as null.
    """
    for row in rows:
        row["is_classification"] = bool(row["is_classification"])
    return sorted(rows, key=lambda row: not row["instances"])


def candidate_notes(reply: Reply, request_idx: int, nearest: list, mean: float) -> dict:
    """What step 1 says of an instruction beside its text."""
    choices = [{"text": reply.text, "finish_reason": reply.finish_reason}]
    metadata = {"prompt": reply.prompt, "response": {"choices": choices}}
    metadata["created_at"] = reply.created_at
    # A list: a record with a text as its key would be a column of its own for each text.
    similar = [{"instruction": text, "score": score} for text, score in nearest]
    notes = {"most_similar": similar, "avg_similarity_score": float(mean)}
    return notes | {"metadata": metadata, "request_idx": request_idx}


def run_stage(stage: str, config: Config, model: Model, tasks: list, results: Results) -> list:
    """One stage. Its step file is written when it ends, and also when it breaks off."""
    number = STAGES.index(stage)
    if number:
        before = Path(config.work_dir) / STEP_FILES[number - 1]
        results.leave_to_file(STAGES[number - 1], before)
    ended = False
    try:
        done = model.recall(stage, tasks, results)
        if done is None:
            done = STAGE_FUNCTIONS[number](config, model, tasks, results)
        ended = True
        return done
    except KeyboardInterrupt as stop:
        # Say how far it came.
        ready = len(results.rows(stage))
        total = len(results.tasks) if number else config.num_instructions
        so_far = f"{ready} of {total} done, {total - ready} left"
        stop.args += (f"stage {number + 1}, {stage}: {so_far}",)
        raise
    finally:
        model.check_folder()
        keep_foreign(config, results)
        if stage in results.files:
            results.written.append(STEP_FILES[number])  # it stands there as it would be written
        else:
            write_view(stage, config, model, results, ended)
        if ended:
            model.remember(stage, results)
            summary = summary_of(config, model, results)
            write_json(Path(config.work_dir) / "run.json", summary)


@cache
def screen_words(language: str) -> dict:
    return json.loads((DATA / "screen.json").read_text(encoding="utf-8"))[language]


def screen(config: Config) -> dict:
    """The words of the screen: Chinese where the run or the terminal is Chinese."""
    return screen_words("zh" if is_chinese(config.language) else "en")


def is_chinese(language: str = "") -> bool:
    """Whether the screen speaks Chinese: the language of the run, or else the terminal's, is."""
    names = ("LC_ALL", "LC_MESSAGES", "LANG")
    told = next((os.environ[name] for name in names if os.environ.get(name)), "")
    return language == "zh" or told.lower().startswith("zh") or (not told and windows_is_chinese())


def windows_is_chinese() -> bool:
    """Whether this is a Windows that speaks Chinese: its consoles set no variable."""
    if sys.platform != "win32":
        return False
    import ctypes

    # The last ten bits of its number are the language, the others the country.
    return ctypes.windll.kernel32.GetUserDefaultUILanguage() & 0x3FF == 0x04


@cache
def messages() -> list[tuple[re.Pattern, str]]:
    """Errors, notices and help texts as patterns, with their Chinese, in the order of trying.

    Those that stand around others come first, "error: ..." say; then the longest text does.
    A slot with a number is somebody's text, say a path. One with a name is a message of its own,
    and {number} is one.
    """
    found = []
    parts = json.loads((DATA / "messages.zh.json").read_text(encoding="utf-8"))
    for name, part in parts.items():
        turn = {"openings": 0, "frames": 1}.get(name, 2)
        for english, chinese in part.items():
            pieces = list(string.Formatter().parse(english))
            pattern = ""
            for text, slot, *_ in pieces:
                any_text = r"\d+" if slot == "number" else ".*?"
                pattern += re.escape(text) + ("" if slot is None else f"(?P<_{slot}>{any_text})")
            order = (turn, -sum(len(text) for text, *_ in pieces))
            found.append((order, re.compile(pattern, re.DOTALL), chinese))
    found.sort(key=lambda entry: entry[0])
    return [(pattern, chinese) for _, pattern, chinese in found]


def in_chinese(text: str) -> str:
    """A message in Chinese, and so its parts; what data/messages.zh.json lacks stays English.

    >>> in_chinese("cannot write to old (Permission denied): choose another --work-dir")
    '无法写入 old（没有权限）：请用 --work-dir 换一个文件夹'
    """
    for pattern, chinese in messages():
        match = pattern.fullmatch(text)
        if match:
            slots = {name[1:]: part for name, part in match.groupdict().items()}
            texts = [part for name, part in slots.items() if name.isdecimal()]
            parts = {name: in_chinese(part) for name, part in slots.items() if not name.isdecimal()}
            return chinese.format(*texts, **parts)
    return text


def spoken(text: str, language: str = "") -> str:
    """A message as the screen speaks it. `language` is the run's, where there is one."""
    return in_chinese(text) if is_chinese(language) else text


def tell(text: str, language: str = "") -> None:
    """Print an error or a notice."""
    print(printable(spoken(text, language)), file=sys.stderr)


WIDTH = 80  # columns of the screen


def columns(text: str) -> int:
    """How wide a text is on the screen: a Chinese character takes two columns."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


WIDE = r"\u0e00-\u0e7f\u2e80-\u9fff\uac00-\ud7af\uff00-\uffef\U00020000-\U0003ffff"


def wrapped(text: str, indent: int = 0, width: int = WIDTH) -> list[str]:
    """Lines of at most `width` columns, broken at spaces and between Chinese characters.

    Only a word that no line can hold is longer: an address, or a path that is to be copied.
    """
    lines = [" " * indent]
    for piece in re.findall(rf"[{WIDE}]|[^\s{WIDE}]+|\s+", text):
        closing = piece in "，。：；！？、）”』」"  # none of these begins a line
        if columns(lines[-1] + piece) > width and lines[-1].strip() and not closing:
            lines.append(" " * indent)
        if piece.strip() or lines[-1].strip():
            lines[-1] += piece
    return [line.rstrip() for line in lines]


def fitted(text: str, before: str = "", width: int = WIDTH) -> str:
    """One line of at most `width` columns; a text that is too long ends at a word, and in "…"."""
    text = before + one_line(text, 1000)
    lead = len(text) - len(text.lstrip())
    if columns(text) <= width:
        return text
    line = wrapped(text.lstrip(), lead, width - 1)[0].rstrip("，。：； ")
    if columns(line) < width // 2 or columns(line) >= width:  # one long word: it is cut
        line = text
        while columns(line) >= width:
            line = line[:-1]
    return line + "…"


def greeting(config: Config, model: Model, results: Results) -> str:
    """Who answers, and whether that is a language model."""
    words = screen(config)
    who = f"{model.name}, {one_line(model.model)}"
    text = words["greeting"].format(
        seeds=len(results.seeds), wanted=config.num_instructions, who=who
    )
    text += address_of(model, words)
    for stage, other in model.others.items():
        who = f"{other.name}, {one_line(other.model)}"
        text += words["other"].format(number=STAGES.index(stage) + 1, who=who)
        text += address_of(other, words)
    if model.name == "practice":
        text += "\n" + words["practice"]
    if model.name == "practice" and not config.provider:
        text += "\n" + words["go_live"]
    if model.name == "practice" and bank_is_far(config, results.seeds):
        text += "\n" + words["bank_far"]
    if model.name == "practice" and config.topics:
        far = [one_line(name, 40) for name in topics_out_of_reach(config)]
        topics = words["between"].join(far)
        text += "\n" + words["topics_far"].format(topics=topics) if far else ""
    if model.journal.torn:
        text += "\n" + words["torn"]
    return printable(text + language_notice(config, results.seeds))


FAR = 0.25  # mean ROUGE-L of seed tasks with the nearest of the bank, below which it has none such


def bank_is_far(config: Config, seed_tasks: list[Task]) -> bool:
    """Whether the practice bank has nothing like somebody's own seed tasks."""
    if not config.seed_file or not seed_tasks:
        return False
    bank = [row["instruction"] for row in read_data("practice_tasks", config.language)]
    texts = [task.instruction for task in seed_tasks[:50]]
    return bool(similarities_with(bank, texts).max(axis=1).mean() < FAR)


def address_of(model: Model, words: dict) -> str:
    """Where a model's server is, "" where that is the provider's own address."""
    if not (model.config.base_url or model.address_file):
        return ""
    text = words["at"].format(address=model.base_url)
    return text + words["address_from"].format(file=model.address_file) * bool(model.address_file)


def language_notice(config: Config, seed_tasks: list[Task]) -> str:
    """A line where the seed tasks are in another language than the prompts."""
    # Han without kana is Chinese; a few tasks in another language are no matter.
    chinese = 0
    for task in seed_tasks:
        found = re.search(r"[\u4e00-\u9fff]", task.instruction)
        chinese += bool(found and not re.search(r"[\u3040-\u30ff]", task.instruction))
    other = chinese > len(seed_tasks) / 2
    if other == (config.language == "zh"):
        return ""
    seeds = "Chinese" if other else "not Chinese"
    fitting = "zh" if other else "en"
    text = f"notice: most seed tasks are {seeds}, and --language is {config.language}"
    if fitting in (RECIPES[config.recipe].languages or (fitting,)):
        text += f": --language {fitting} has prompts that fit"
    return "\n" + spoken(text, config.language)


def stage_page(stage: str, config: Config, model: Model, results: Results) -> str:
    """What the screen says of a stage: something it made, something it turned away, and counts."""
    words = screen(config)
    lines = []
    for row in shown_of(stage, results):
        lines += made_lines(stage, config, row)
    # Of each rule there may be many: a near copy teaches most, so it is the one to be shown.
    rejected = [row for row in results.rejected if row["stage"] == stage]
    rejected = [row for row in rejected if row["rule"] != "not_needed"]
    rejected.sort(key=lambda row: (not row["evidence"], row["score"] == 1.0, row["rule"]))
    for row in rejected[:1]:
        lines += rejected_lines(config, row)
    lines += count_lines(stage, config, count(model, results)[stage], results.agreement)
    if stage == "filter":
        lines += row_lines(words, results.dataset)
    return printable("\n".join(lines))


def shown_of(stage: str, results: Results) -> list[dict]:
    """The rows of a step file to be shown: one, or one of each kind where kinds matter."""
    if stage == "filter":
        return []
    first: dict[bool, dict] = {}  # the first row that is classification, and the first that is not
    for row in results.each_row(stage):
        if row.get("instances") != []:
            first.setdefault(bool(row.get("is_classification")), row)
        if stage == "generate" or len(first) == 2:
            break
    shown = [first[kind] for kind in (True, False) if kind in first]
    return shown if stage == "classify" else shown[:1]


def made_lines(stage: str, config: Config, row: dict) -> list[str]:
    """A row of a step file for the screen."""
    words = screen(config)
    if stage == "classify" and not row["is_classification"]:
        label = words["free"] if row["is_classification"] is False else words["unread"]
        return [fitted(labelled_text(label, row["instruction"]), " + ")]
    lines = [fitted(row["instruction"], " + ")]
    for near in row.get("most_similar", [])[:1]:
        limit = config.rouge_threshold
        said = words["nearest"].format(score=near["score"], limit=limit)
        lines.append(fitted(labelled_text(said, near["instruction"]), "   "))
    if stage == "classify":
        options = words["comma"].join(row["labels"])
        lines.append(fitted(labelled_text(words["options"], options), "   "))
    for instance in row.get("instances", [])[:1]:
        given = instance["input"] or words["no_input"]
        lines.append(fitted(labelled_text(words["input"], given), "   "))
        lines.append(fitted(labelled_text(words["output"], instance["output"]), "   "))
    return lines


def labelled_text(label: str, text: str) -> str:
    """A label and what it names; a Chinese colon needs no space behind it."""
    return label + ("" if label.endswith("：") else " ") + text


def rejected_lines(config: Config, row: dict) -> list[str]:
    """A row of rejected.jsonl for the screen, with the number that decided beside its limit."""
    words = screen(config)
    rule = row["rule"]
    shown = {"rule": rule, "output": repr(one_line(row["output"] or "", 40))}
    if row["score"]:
        said = words["nearest"].format(score=row["score"], limit=config.rouge_threshold)
        why = words["rule"].format(rule=rule) + labelled_text(said, row["evidence"])
    elif row["stage"] == "generate":
        why = rule
    elif rule == "answers_differ":
        why = words["second"].format(evidence=repr(one_line(row["evidence"], 40)), **shown)
    else:
        why = words["beside"].format(**shown)
    return [fitted(row["instruction"], " - "), fitted(why, "   ")]


RULES_SHOWN = 5


def count_lines(stage: str, config: Config, counts: dict, agreement: dict) -> list[str]:
    """What came into a stage, what stayed, and what each rule took."""
    words = screen(config)
    text = words["kept"][stage].format(**counts)
    # The most frequent rules; run.json has them all.
    took = [f"{rule} {n}" for rule, n in counts["rejected"].items()]
    if len(took) > RULES_SHOWN:
        rest = list(counts["rejected"].values())[RULES_SHOWN - 1 :]
        took[RULES_SHOWN - 1 :] = [words["other_rules"].format(n=sum(rest))]
    text += words["out"].format(rules=", ".join(took)) if took else ""
    text += words["undone"].format(**counts) if counts["undone"] else ""
    if stage == "generate":
        text += words["per_request"].format(**counts)
    if stage == "classify" and agreement.get("asked"):
        text += words["agrees"].format(**agreement)
    return wrapped(text, 1)


def row_lines(words: dict, dataset: list[dict]) -> list[str]:
    """One finished row, as it stands in the file; a short one, so that it is seen whole."""
    if not dataset:
        return []
    texts = [json.dumps(row, ensure_ascii=False) for row in dataset[:200]]
    text = min(texts, key=lambda text: (columns(text) > 200, '"input": ""' in text))
    lines = wrapped(text, 1)
    return [words["row"], *lines[:4], *(["  …"] if len(lines) > 4 else [])]


def write_summary(config: Config, model: Model, results: Results) -> dict:
    """Write rejected.jsonl, run.json, and a complete run's dataset to `output_path`.

    A run that wrote no step file of its own leaves the files of the run before it.
    """
    if results.status == "interrupted":
        model.break_off()  # what arrives by now counts
    model.check_folder()
    give_up_kept(model, results)
    summary = summary_of(config, model, results)
    folder = Path(config.work_dir)
    if not results.written and any((folder / name).exists() for name in STEP_FILES):
        summary = with_spending(results.earlier, summary)
    else:
        later = [] if results.is_new_dataset else later_rejected(folder)
        write_rows(folder / "rejected.jsonl", results.rejected + later)
    if summary:
        write_json(folder / "run.json", summary)
    if config.output_path and results.status == "complete":
        write_output(config, results)
    return summary


def later_rejected(folder: Path) -> list[dict]:
    """What programs behind stage 4 turned away, such as a judge: it is true of the same dataset."""
    rows = read_rows(folder / "rejected.jsonl")
    known = [row for row in rows if isinstance(row.get("stage"), str)]
    return [row for row in known if row["stage"] not in STAGES]


def with_spending(earlier: dict, summary: dict) -> dict:
    """The earlier summary with what this run has spent, if both are of one model; else {}."""
    if not isinstance(earlier.get("settings"), dict):
        return {}
    if any(who_answered(earlier, stage) != who_answered(summary, stage) for stage in STAGES[:3]):
        return {}
    return {**earlier, "spending": summary["spending"]} if summary["spending"] else {}


def summary_of(config: Config, model: Model, results: Results) -> dict:
    """What run.json says of a run."""
    packages = ("openai", "dashscope", "rapidfuzz", "rouge-score")
    versions = {"self_instruct": __version__, "python": sys.version.split()[0]}
    versions |= {package: metadata.version(package) for package in packages}
    refused: dict[str, str] = {}
    for one in model.everyone():
        refused |= one.refused
    counts = {"seed_tasks": len(results.seeds), "wanted": config.num_instructions}
    # "412 tokens" and "598 tokens" are one reason.
    reasons = [re.sub(r"(?<=\w )\d+", "N", why) for _, why in model.undone]
    # Meanwhile other threads may ask ahead of time, and count.
    with model.lock:
        faults = Counter(model.faults)
        tokens = {stage: Counter(used) for stage, used in model.tokens.items()}
    return {
        "status": results.status,
        "settings": asdict(config) | who_answers(model),
        "versions": versions,
        "counts": counts | count(model, results),
        **({"topics": results.turns.table()} if config.topics and results.turns else {}),
        "agreement": results.agreement,
        "undone_because": Counter(reasons),
        "faults": faults,
        "refused_parameters": refused,
        "tokens": tokens,
        "spending": model.spending(results),
        "seconds": round(time.monotonic() - results.started, 1),
        "ended_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "outputs": outputs_now(config, results),
        "kept_in": results.kept_in and f"earlier/{Path(results.kept_in).name}",
        "replaces": named_run(results.earlier) if results.kept_in else "",
        **({"decided": model.decided} if model.decided else {}),
    }


def who_answers(model: Model) -> dict[str, str]:
    """Provider, model and address of the run, and of each stage that another model answers."""
    said = dict(zip(WHO, (model.name, model.model, model.base_url), strict=True))
    for stage in STAGES[1:3]:
        names = [f"{stage}_{name}" for name in WHO]
        one = model.of(stage)
        # What was typed may be none of the truth: the practice model has one name only.
        if one is not model or any(getattr(model.config, name) for name in names):
            said |= zip(names, (one.name, one.model, one.base_url), strict=True)
    return said


def count(model: Model, results: Results) -> dict[str, dict]:
    """What came into each stage and where it went: in = out + rejected + undone.

    In stage 1 what is undone are requests, which are not part of that sum.
    """
    rules: dict[str, Counter] = {stage: Counter() for stage in STAGES}
    for row in results.rejected:
        # Instances are counted in stage 4, those that stage 3 turned away too.
        of_instance = row["stage"] == "instances" and row["rule"] != "no_instance"
        rules["filter" if of_instance else row["stage"]][row["rule"]] += 1

    counts: dict[str, dict] = {}
    for stage, rejected in rules.items():
        out = len(results.dataset if stage == "filter" else results.through(stage))
        if stage == "instances":  # a task without any ends here
            out = sum(bool(task.instances) for task in results.through(stage))
        undone = sum(failed == stage for failed, _ in model.undone)
        came = out + rejected.total() + (undone if stage != "generate" else 0)
        named = dict(rejected.most_common())
        counts[stage] = {"in": came, "rejected": named, "undone": undone, "out": out}

    last_ten = results.novelty[-10:] or [0]
    counts["generate"]["new_per_request"] = round(fmean(last_ten), 1)
    flags = Counter(task.is_classification for task in results.through("classify"))
    counts["classify"]["classification"] = flags[True]
    counts["classify"]["not_classification"] = flags[False]
    counts["classify"]["unknown"] = flags[None]
    return counts


def funnel(config: Config, summary: dict) -> str:
    """The end of the talk: notices, what it cost, the files, and what to do next."""
    words = screen(config)
    done = STAGES.index(config.until) + 1
    lines = ["", *novelty_notice(config, summary), *agreement_notice(config, summary)]
    lines += cost_lines(config, summary)
    names = [*STEP_FILES[:done], "rejected.jsonl", "run.json"]
    files = [name for name in names if (Path(config.work_dir) / name).exists()]
    place = words["files"].format(folder=config.work_dir)
    lines += wrapped(labelled_text(place, ", ".join(files)))
    if config.output_path and summary["status"] == "complete":
        rows = summary["counts"]["filter"]["out"]
        lines.append(words["dataset"].format(path=config.output_path, rows=rows))
    lines += next_step(config, summary)
    if summary["kept_in"]:
        lines.append(replaced_line(config, summary))
    return printable("\n".join(lines))


def replaced_line(config: Config, summary: dict) -> str:
    """Where the files of the run are that this one replaced."""
    place = Path(config.work_dir) / summary["kept_in"]
    replaced = spoken(summary["replaces"], config.language)
    return screen(config)["replaces"].format(run=replaced, place=place)


def novelty_notice(config: Config, summary: dict) -> list[str]:
    """A line where stage 1 found fewer instructions than were wanted, or hardly new ones."""
    words = screen(config)
    counts = summary["counts"]["generate"]
    made = counts["out"]
    wanted = config.num_instructions
    if made >= wanted and counts["new_per_request"] >= 1:
        return []
    rule = spoken(next(iter(counts["rejected"]), "no reply"), config.language)
    ended = words["few_by_now"]
    if made < wanted:
        name = "nothing_new_on" if config.topics else "nothing_new"
        ended = words[name].format(patience=config.patience)
    line = words["few"].format(made=made, wanted=wanted, ended=ended, rule=rule)
    line += topics_short(config, summary)
    steered = config.seed_file or config.temperature < Config.temperature
    if summary["settings"]["provider"] == "practice" and not steered:
        bank = len(read_data("practice_tasks", config.language))
        line += " " + words["bank_used"].format(bank=bank)
    elif not counts["undone"]:
        line += " " + words["vary"]
    return wrapped(line)


def topics_short(config: Config, summary: dict) -> str:
    """The topics that did not get their share, and how far they came."""
    words = screen(config)
    short = []
    for name, row in summary.get("topics", {}).items():
        if row["kept"] < row["wanted"]:
            short.append(words["topic_short"].format(name=one_line(name, 40), **row))
    return words["topics_short"].format(topics=words["between"].join(short)) if short else ""


def agreement_notice(config: Config, summary: dict) -> list[str]:
    """A line where stage 2 and people differ so much that its answers are not used."""
    agreement = summary["agreement"]
    if agreement.get("trusted", True):
        return []
    return wrapped(screen(config)["not_trusted"].format(**agreement))


def cost_lines(config: Config, summary: dict) -> list[str]:
    """Requests, tokens, time and money, and how many replies were cut."""
    words = screen(config)
    spent = sum(map(Counter, summary["tokens"].values()), Counter())
    now = spent["asked_now"]
    cost = words["cost"].format(
        now=now,
        before=spent["replies"] - now,
        prompt=spent["prompt"],
        reply=spent["reply"],
        seconds=summary["seconds"],
    )
    dollars = summary["spending"].get("cost")
    if dollars:
        cost += f"; ${dollars:.4f}"
    lines = wrapped(cost)
    if spent["cut"]:
        limit = RECIPES[config.recipe].limit_name
        limit = limit or words["cut_limit"].format(n=config.max_tokens)
        lines.append(words["cut"].format(n=spent["cut"], limit=limit))
    if not now and not summary["undone_because"]:
        lines.append(words["complete"])
    return lines


def next_step(config: Config, summary: dict) -> list[str]:
    """What to do next."""
    words = screen(config)
    undone = sum(summary["undone_because"].values())
    if undone:
        why = spoken(next(iter(summary["undone_because"])), config.language)
        text = words["undone_why"].format(n=undone, why=why)
        if config.responses:
            return [text]
        # 4xx, but for those that pass: a request that the server refuses.
        if all(map(is_refusal, summary["undone_because"])):
            return [f"{text} {words['other_model']}"]
        return [f"{text} {words['asks_again']}"]
    if config.until != "filter":
        return [words["go_on"], f"    {prepare_command(config)}"]
    return [words["next"], f"    {report_command(config)}"]


def prepare_command(config: Config) -> str:
    """The command that does the other stages of this run, then writes files for a trainer."""
    is_default = config.work_dir == Config.work_dir
    dataset = [] if is_default else [str(Path(config.work_dir) / STEP_FILES[-1])]
    return program_command("scripts/prepare_for_finetuning.py", "--finish", *dataset)


def report_command(config: Config) -> str:
    """The command that makes a page of this run, from the folder where we are."""
    folder = ["--work-dir", config.work_dir] if config.work_dir != Config.work_dir else []
    return program_command("self_instruct.py", "--report", *folder)


def program_command(program: str, *arguments: str) -> str:
    """The command that runs one of our programs, as the shell takes it where we are."""
    root = DATA.parent
    name = program if Path.cwd() == root else str(root / program)
    return shlex.join([sys.executable, name, *arguments])


def pip_install(*what: str) -> str:
    """The command that installs packages, as the shell takes it from the folder where we are."""
    root = DATA.parent
    if Path.cwd() != root:
        what = tuple(str(root / name) if name.endswith(".txt") else name for name in what)
    return shlex.join([sys.executable, "-m", "pip", "install", *what])


# --------------------------------------------------------------------------------------------------
# The program.


def main(
    config: Config | None = None, action: Callable[[Config], Any] = run, language: str = ""
) -> int:
    """Do it, and return the exit code: 3 when something is undone, 130 or 143 when interrupted.

    `language` is that of its errors where there is no config that says so.
    """
    prepare_terminal()
    code = 1
    language = config.language if config else language
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
        install = pip_install("-r", "requirements.txt")
        problem = f"{error}: run  {install}  first"
    except RuntimeError as error:
        if "new thread" not in str(error):
            raise
        problem = f"{error}: close other programs, or give a smaller --concurrency"
    except KeyboardInterrupt as interrupted:
        done = "interrupted: every reply so far is kept"
        for how_far in interrupted.args[1:]:
            done += f"; {how_far}"
        command = without_login(shlex.join([sys.executable, *sys.argv]))
        print(file=sys.stderr)
        tell(f"{done}; go on with: {command}", language)
        return interrupted.args[0]
    tell(f"error: {problem}", language)
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


ALONE = """\
python self_instruct_workshop.py: the whole workshop, with the settings at the top of this file
(num_instructions and max_tokens are the two that cost). It takes no arguments.
Settings as flags: python self_instruct.py --help"""


def alone(arguments: list[str]) -> int:
    """This file as a program: it takes no settings. Where a key is set, it asks before it pays."""
    if arguments and not {"-h", "--help"} & {*arguments}:
        command = shlex.join(["python", "self_instruct.py", *arguments])
        tell(f"error: this file takes no settings: use  {command}")
        return 2
    if arguments:
        show(spoken(ALONE))
        return 0
    return main(action=run_or_ask)


def run_or_ask(config: Config) -> dict | int:
    """Run; where that is to be paid for, by the command line, which says first what it takes."""
    paid = PROVIDERS[provider_name(config)].key
    if paid and (DATA.parent / "self_instruct.py").exists():
        from self_instruct import main as command_line

        return command_line([])
    return run(config)


if __name__ == "__main__":
    leave(alone(sys.argv[1:]))
