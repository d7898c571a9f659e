"""Read the replies of a run once more by both recipes, `modern` and `paper`, and show what each
makes of them.

    python scripts/compare_recipes.py                                a second; data/workshop
    python scripts/compare_recipes.py WORK_DIR --seed-file FILE      50,000 instructions: 12 s
    python scripts/compare_recipes.py --language zh                  the page in Chinese

It asks nothing and writes nothing: the journal, responses.jsonl, has all replies. If the
journal has several runs, the newest run counts.

    stage 1         each recipe has a pool of its own, which begins with the seed tasks
    stages 2 to 4   both recipes read the replies about the instructions that the run kept

Both columns read replies to the run's own prompts; `paper` reads each reply up to its stop
strings. No journal can say what the prompts of the other recipe would have brought. Only `modern`
asks about seed tasks in stage 2, and again where a reply is of no use: of such replies `paper` has
the first one.

What the run itself has decided is not decided again where run.json proves that it would be the
same (scripts/asking/decided.py): of such a run, its own column comes out of its files.

run.json says how many instructions were wanted, and how novel they had to be. Without it,
every candidate is kept that breaks no rule and is novel at 0.7.
"""

from __future__ import annotations

import gc
import sys
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass, fields
from functools import partial
from itertools import islice, product, zip_longest
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import self_instruct_workshop as workshop
from scripts.asking import decided
from scripts.asking.parser import Parser
from scripts.reading.records import as_object, object_in
from self_instruct_workshop import (
    RECIPES,
    Config,
    Journal,
    Model,
    Prompt,
    Reply,
    RequestFailed,
    Results,
    Task,
    one_line,
)

# What a recipe makes of a text: the verdict, which is "kept" or the name of a rule, and what it
# is about: (instruction,), or (input, output), or () for an answer of stage 2.
Outcome = tuple[str, tuple[str, ...]]

# The replies of a run, by stage, question, sample and attempt. The question is the index of a
# request in stage 1, and an instruction in stages 2 and 3.
Replies = dict[tuple[str, Any, int, int], "Said"]

TITLES = {
    "generate": "Stage 1, candidates",
    "classify": "Stage 2, answers",
    "instances": "Stages 3 and 4, instances",
}
ANSWERS = {True: "classification", False: "not classification", None: "unknown"}
ANSWERED = ("classify", "instances")  # stages that ask about instructions
REPLY = {f.name for f in fields(Reply)}


# --------------------------------------------------------------------------------------------------
# The run: its journal, and what its run.json says.

# What every record of the journal has, and what a record of stage 1 has beside it.
NEEDED = {"stage", "attempt", "provider", "model", "recipe", *REPLY}
NEEDED_IN_STAGE_1 = {"request_idx", "seed", "language", "seed_tasks"}

# What differs between the records of one run.
NOT_THE_RUN = {
    "version",
    "key",
    "attempt",
    "request_idx",
    "max_tokens",
    "parameters",
    "base_url",
    *REPLY,
}


class Said(NamedTuple):
    """What is kept of a record: a reply, or what the reply to a list says to one question."""

    is_whole: bool
    stage: str = ""
    # In stage 1 all that the questions of a run share; later provider, model and recipe.
    shared: dict | None = None
    question: Any = None  # None: it replies to no single question
    sample: int = 0
    attempt: int = 0
    reply: str = ""  # the key of the reply that it came from
    text: str = ""
    finish_reason: str = ""
    prompt: Prompt = ""  # of stage 1; stages 2 and 3 do not need it


class Heard(NamedTuple):
    """The newest run in a journal."""

    run: dict  # what all questions of its stage 1 share
    replies: Replies
    twice: bool  # whether a question has two replies, which were asked for in two ways
    digests: dict[str, Any]  # stage -> of the journal's lines


def open_run(path: Path) -> Heard:
    """Read the journal and find its newest run.

    Raises WorkshopError for a file that cannot be read, or has no reply of stage 1.
    """
    # Read the journal once, and note what each record says: of a key, the newest one.
    said: dict[str, Said] = {}
    shared: dict[str, dict] = {}

    def hear(record: dict) -> None:
        for single in workshop.single_records(record):
            said.pop(single["key"], None)
            said[single["key"]] = said_by(single, shared)

    try:
        journal = Journal(path, "rb", hear)
    except OSError as error:
        problem = f"cannot read {path} ({error.strerror})"
        raise workshop.WorkshopError(f"{problem}: give the folder of a run") from None
    journal.file.close()

    # Find the newest run, and its replies.
    run = newest_run(path, said)
    replies, twice = replies_of(said, run, others_of(path.parent, run))
    return Heard(run, replies, twice, journal.digests)


def said_by(record: dict, known: dict[str, dict]) -> Said:
    """What is kept of a record. `known` has, by stage, what the last one shares with its run:
    where this one shares the same, that stands in memory once."""
    if not is_whole(record):
        return Said(False)
    stage = sys.intern(record["stage"])
    names = ("provider", "model", "recipe")
    if stage == "generate":
        names = tuple(name for name in record if name not in NOT_THE_RUN)
    shared = {name: record[name] for name in names}
    if known.get(stage) != shared:
        known[stage] = shared

    # Some servers repeat the prompt.
    text = workshop.as_read(record)["text"].removeprefix(workshop.as_text(record["prompt"]))
    return Said(
        True,
        stage,
        known[stage],
        question_of(record),
        record.get("sample", 0),
        record["attempt"],
        record.get("part_of", record["key"]),
        text,
        sys.intern(record["finish_reason"]),
        record["prompt"] if stage == "generate" else "",
    )


def newest_run(path: Path, said: dict[str, Said]) -> dict:
    """What all questions share of the run that has the newest reply of stage 1.

    Raises WorkshopError where there is none, and where a record is not whole.
    """
    # Look at all records: each must be whole.
    run = {}
    for key, record in reversed(said.items()):
        if not record.is_whole:
            line = f"the line with the key {one_line(key)} is no reply"
            raise workshop.WorkshopError(f"{path}: {line}: delete that line")
        if record.stage == "generate" and not run:
            run = record.shared

    # One of them must be of stage 1.
    if not run:
        problem = f"{path} holds no reply of stage 1"
        raise workshop.WorkshopError(f"{problem}: run self_instruct.py first")
    return run


def others_of(folder: Path, run: dict) -> dict[str, tuple]:
    """By stage: the provider and the model that its run.json names, if that is of this run."""
    summary = workshop.earlier_run(folder)
    who = {stage: workshop.who_answered(summary, stage) for stage in workshop.STAGES[:3]}
    same = who["generate"] == (run["provider"], run["model"])
    return who if same else dict.fromkeys(who, (run["provider"], run["model"]))


def replies_of(said: dict[str, Said], run: dict, who: dict[str, tuple]) -> tuple[Replies, bool]:
    """The run's replies, and whether there are two to a question: then the newer one counts."""
    replies: Replies = {}
    twice = False
    for record in reversed(said.values()):
        if record.question is not None and belongs(record, run, who):
            asked = (record.stage, record.question, record.sample, record.attempt)
            twice = twice or asked in replies
            replies.setdefault(asked, record)
    return replies, twice


def is_whole(record: dict) -> bool:
    """Whether a record has all that is needed to read it."""
    needed = NEEDED | {"instructions" if "instructions" in record else "instruction"}
    if record.get("stage") == "generate":
        needed = NEEDED | NEEDED_IN_STAGE_1
    return needed <= record.keys()


def belongs(record: Said, run: dict, who: dict[str, tuple]) -> bool:
    """Whether a record is of this run. In stages 2 and 3 its model and its recipe tell."""
    shared = record.shared
    if record.stage == "generate":
        names = (*run, "topics")  # which only a run with topics has
        return all(shared.get(name) == run.get(name) for name in names)
    asked = (shared["provider"], shared["model"])
    return asked == who.get(record.stage) and shared["recipe"] == run["recipe"]


def question_of(record: dict) -> Any:
    """The question that a record replies to; None where that is no single one.

    The reply to a list has a record of its own for each of its questions. Where the text of that
    is empty, the list could not be read, and its tasks were asked about one by one.
    """
    unreadable = "part_of" in record and record["text"] == ""
    if "instructions" in record or unreadable:
        return None
    return record.get("request_idx", record.get("instruction"))


# What stage 1 needs and the journal does not say.
LIMITS = ("num_instructions", "rouge_threshold")


def limits(folder: Path, run: dict) -> dict:
    """How many instructions were wanted, and how novel, as the same run's run.json says it."""
    settings = settings_in(folder / "run.json")
    shared = settings.keys() & run.keys()
    same_run = all(settings[name] == run[name] for name in shared)
    if same_run and settings.keys() >= set(LIMITS):
        return {name: settings[name] for name in LIMITS}
    return {"num_instructions": sys.maxsize}


def settings_in(path: Path) -> dict:
    """The settings in a run.json; empty where they cannot be read."""
    return as_object(object_in(path).get("settings"))


def read_seeds(path: str, run: dict, language: str) -> list[Task]:
    """The seed tasks. A notice says so where the run had others, in the language of the page."""
    seeds_of = workshop.DEFAULT_SEEDS
    default = seeds_of.get(run["language"], seeds_of["en"])
    seeds = workshop.load_seed_tasks(path or default, language)
    if workshop.digest(seeds) != run["seed_tasks"]:
        advice = "give them as --seed-file, or novelty may differ"
        workshop.tell(f"notice: the run had other seed tasks: {advice}", language)
    return seeds


# --------------------------------------------------------------------------------------------------
# Reading again: the pipeline's own stages, with a model that answers from the journal.


class Recorded(Model):
    """A model that answers from a journal, whichever recipe asks.

    Where the journal has no reply to a second try, the reply to the first one is given. A second
    try of stage 3 is another sample, and one of stage 2 another attempt. A second answer that the
    journal does not have is empty, which decides nothing.
    """

    def __init__(self, config: Config, replies: Replies) -> None:
        # What the stages need of a model.
        self.config = config
        self.replies = replies
        self.results = Results()
        self.undone = []
        self.tasks = []
        self.first = None
        self.others = {}
        self.stop = threading.Event()

        # What we note: (stage, question) -> the reply, and text -> its outcome.
        self.read: dict[tuple[str, Any], tuple[str, dict[str, Outcome]]] = {}
        self.cut: Counter[str] = Counter()  # stage -> replies that max_tokens cut
        self.columns: dict[str, dict[str, int]] = {}  # stage -> this recipe's figures

    def ask_each(self, stage: str, ask: Callable, items: list) -> Iterator[tuple]:
        """As in a run, one after the other: nothing is waited for."""
        for item in items:
            reply = None
            try:
                reply = ask(item)
            except RequestFailed as failure:
                self.undone.append((stage, str(failure)))
            yield item, reply

    def ask_once(
        self, stage: str, attempt: int, prompt: str, parameters: dict, question: dict
    ) -> Reply:
        """The logged reply, whatever the prompt. Raises RequestFailed where there is none."""
        # A second try may be missing: then the reply to the first try counts.
        asked = question.get("request_idx", question.get("instruction"))
        sample = question.get("sample", 0)
        samples = (sample,) if sample >= workshop.ANSWERS else (sample, 0)
        for sample, number in product(samples, (attempt, 0, 1)):
            said = self.replies.get((stage, asked, sample, number))
            if said:
                reply = Reply(said.text, said.finish_reason)
                reply.stop_at(parameters.get("stop", []))
                reply.prompt = said.prompt
                return reply
        if question.get("sample", 0) >= workshop.ANSWERS:
            return Reply("", "length")
        raise RequestFailed("not in the journal")

    def ask_generate(self, request_idx: int) -> Reply:
        """The reply to a request of stage 1. Raises RequestFailed."""
        parameters = workshop.parameters(self.config, "generate")
        return self.ask("generate", "", parameters, {"request_idx": request_idx})

    def note(
        self, stage: str, question: Any, text: str, finish_reason: str, made: list[Outcome]
    ) -> None:
        """Keep what became of a reply. Texts that differ only in capitals or space are one."""
        self.cut[stage] += finish_reason == "length"
        outcomes: dict[str, Outcome] = {}
        for verdict, texts in made:
            plain = " ".join(" ".join(texts).casefold().split())
            outcomes.setdefault(plain, (verdict, texts))
        self.read[stage, question] = text, outcomes


def generate(model: Recorded, seeds: list[Task]) -> list[str]:
    """Stage 1 again, in the order of the requests, with a pool of this recipe's own; return the
    instructions that are kept."""
    # The pool begins with the seed tasks.
    pool = workshop.InstructionPool(model.config.recipe)
    for task in seeds:
        pool.add(task.instruction)

    # Read the replies. Nobody looks at the neighbours of what is accepted.
    model.results.at_once = sys.maxsize
    for request_idx in requests_of(model):
        generate_once(model, pool, request_idx)
    model.results.waiting.clear()
    model.columns["generate"] = column(model, "generate")
    return [task.instruction for task in model.results.tasks]


def requests_of(model: Recorded) -> list[int]:
    """The requests of stage 1 that have a reply, in their order."""
    return sorted({question for stage, question, _, _ in model.replies if stage == "generate"})


def generate_once(model: Recorded, pool: workshop.InstructionPool, request_idx: int) -> None:
    """Read the reply to one request of stage 1, and note what became of its candidates."""
    # Get the reply.
    try:
        reply = model.ask_generate(request_idx)
    except RequestFailed as failure:
        model.undone.append(("generate", str(failure)))
        return

    # Let the pipeline judge its candidates.
    results = model.results
    accepted = len(results.tasks)
    rejected = len(results.rejected)
    workshop.take_candidates(model.config, pool, reply, request_idx, results)

    # Note what is new in the results.
    made = [("kept", (task.instruction,)) for task in results.tasks[accepted:]]
    for row in results.rejected[rejected:]:
        made.append((row["rule"], (row["instruction"],)))
    model.note("generate", request_idx, reply.text, reply.finish_reason, made)


def answer(model: Recorded, instructions: list[str], seeds: list[Task]) -> None:
    """Stages 2, 3 and 4 again."""
    # Let the pipeline do them.
    results = model.results
    results.seeds = seeds
    results.tasks = [Task(str(n), text) for n, text in enumerate(instructions)]
    tasks = results.tasks
    for stage in workshop.STAGE_FUNCTIONS[1:]:
        tasks = stage(model.config, model, tasks, results)
    note_answers(model)


# --------------------------------------------------------------------------------------------------
# The run's own column, out of its files where these are proved to be what would be decided again.

# Settings that shape requests, and decide nothing once the replies are there.
ASKED = {"temperature", "max_tokens", "instances_per_instruction", "patience", "seed_file"}
ASKED |= {"tasks_shown", "machine_tasks_shown", "tasks_asked", "classification_every"}


def take_decided(
    model: Recorded, folder: Path, seeds: list[Task], digests: dict[str, Any]
) -> list[str] | None:
    """Take what the run itself has decided, if it had the settings and the replies of this model.

    Returns the instructions that it kept; None: they are to be decided here.
    """
    found = decided.results_of(folder, seeds, digests)
    if found is None:
        return None
    config, results = found
    requests = requests_of(model)
    asked_by_run = results.turns.requests.total()
    if deciding(config) != deciding(model.config) or len(requests) != asked_by_run:
        return None

    # Stage 1: what was accepted names its request.
    model.results = results
    accepted = defaultdict(list)
    for row in results.each_row("generate"):
        accepted[row["request_idx"]].append(row["instruction"])
    rejected = iter([row for row in results.rejected if row["stage"] == "generate"])
    for request_idx in requests:
        note_request(model, request_idx, accepted[request_idx], rejected)
    model.columns["generate"] = column(model, "generate")

    # Stages 2 to 4.
    for stage in ANSWERED:
        for task, row in decided.tasks_with_rows(stage, results.tasks, results):
            task.notes[stage] |= {name: row[name] for name in ("response", "metadata")}
    kept = [task.instruction for task in results.tasks]
    note_answers(model)
    return kept


def deciding(config: Config) -> dict[str, Any]:
    """The settings that decide what becomes of replies."""
    left_out = decided.HOW | decided.WHO | ASKED
    return {name: value for name, value in asdict(config).items() if name not in left_out}


def note_request(
    model: Recorded, request_idx: int, accepted: list[str], rejected: Iterator[dict]
) -> None:
    """Note what became of the candidates of a request: some were accepted, and of what was
    rejected the next rows are about the others."""
    reply = model.ask_generate(request_idx)
    whole, cut_off = workshop.read_candidates(RECIPES[model.config.recipe], reply)
    others = len(whole) + len(cut_off) - len(accepted)
    made = [("kept", (instruction,)) for instruction in accepted]
    made += [(row["rule"], (row["instruction"],)) for row in islice(rejected, others)]
    model.note("generate", request_idx, reply.text, reply.finish_reason, made)


# --------------------------------------------------------------------------------------------------
# What the decisions say of each reply.


def note_answers(model: Recorded) -> None:
    """Note what became of each reply of stages 2 and 3."""
    # Where stage 2 did not trust the model, it has no answers.
    results = model.results
    stages = ANSWERED if results.agreement["trusted"] else ("instances",)
    made = instance_outcomes(results)
    for task, stage in product(results.tasks, stages):
        if stage in task.notes:
            notes = task.notes[stage]
            outcomes = made[task.instruction]
            if stage == "classify":
                outcomes = [(ANSWERS[task.is_classification], ())]
            finish_reason = notes["metadata"].get("finish_reason", "stop")
            model.note(stage, task.instruction, notes["response"], finish_reason, outcomes)

    # From here on the figures are enough: of 50,000 tasks the results would be 100 MB.
    for stage in ANSWERED:
        model.columns[stage] = column(model, stage)
    model.results = Results()


def instance_outcomes(results: Results) -> dict[str, list[Outcome]]:
    """What became of the instances of each instruction."""
    # Those that were kept, then those that a rule took.
    made = defaultdict(list)
    for row in results.dataset:
        made[row["instruction"]].append(("kept", (row["input"], row["output"])))
    for row in results.rejected:
        if row["stage"] in ("instances", "filter"):
            pair = (row["input"], row["output"])
            pair = () if row["rule"] == "no_instance" else pair
            made[row["instruction"]].append((row["rule"], pair))
    return made


# --------------------------------------------------------------------------------------------------
# The tables: the figures of each stage, side by side. `say` turns English words into those of the
# page: they are themselves, or their Chinese out of data/messages.zh.json.

Say = Callable[[str], str]


def column(model: Recorded, stage: str) -> dict[str, int]:
    """The figures of a stage, as the pipeline itself counts them."""
    # The replies.
    counts = workshop.count(model, model.results)
    rows = {
        "replies": sum(name == stage for name, _ in model.read),
        "  cut at max_tokens": model.cut[stage],
        "no reply": counts[stage]["undone"],
    }

    # What was read out of them.
    if stage == "classify":
        for name in ANSWERS.values():
            rows[name] = counts[stage][name.replace(" ", "_")]
        return rows | probed(model.results.agreement)
    if stage == "generate":
        return rows | judged("candidates", counts["generate"])
    rows["replies without an instance"] = counts[stage]["rejected"].get("no_instance", 0)
    return rows | judged("instances", counts["filter"])


def probed(agreement: dict) -> dict[str, int]:
    """Of how many seed tasks stage 2 said what people say; nothing where it was not asked."""
    if not agreement["asked"]:
        return {}
    return {"seed tasks asked about": agreement["asked"], "  as people say": agreement["same"]}


def judged(name: str, counts: dict) -> dict[str, int]:
    """How many there were, how many were kept, and what each rule took."""
    rows = {name: counts["in"], "kept": counts["out"]}
    for rule, count in counts["rejected"].items():
        rows[f"  - {rule}"] = count
    return rows


def table(models: list[Recorded], stage: str, say: Say) -> str:
    """The columns of a stage, side by side."""
    # The rows that at least one column has, in order.
    names: dict[str, None] = {}
    for model in models:
        names |= dict.fromkeys(model.columns[stage])

    # A line for each of them.
    heads = "".join(f"{model.config.recipe:>9}" for model in models)
    lines = [padded(say(TITLES[stage])) + heads]
    for name in names:
        figures = "".join(f"{model.columns[stage].get(name, 0):>9}" for model in models)
        lines.append(padded(say(name)) + figures)
    return "\n".join(lines)


def padded(text: str) -> str:
    """The text, 32 columns wide; a Chinese character takes two."""
    return text + " " * (32 - workshop.columns(text))


# --------------------------------------------------------------------------------------------------
# The differences: what one recipe judges in another way than the other.


@dataclass
class Difference:
    """A candidate, an answer or an instance of which the recipes make two things."""

    stage: str
    reply: str
    modern: Outcome
    paper: Outcome

    @property
    def kind(self) -> tuple[str, str]:
        """The stage and both verdicts; where the verdicts are the same, how the texts differ."""
        verdict, texts = self.modern
        other_verdict, other_texts = self.paper
        kind = f"{verdict} | {other_verdict}"
        if verdict == other_verdict:
            alike = folded(texts) == folded(other_texts)
            kind += ", with other capitals" if alike else ", with another text"
        return self.stage, kind


def folded(texts: tuple[str, ...]) -> list[str]:
    return [text.casefold() for text in texts]


def differences(modern: Recorded, paper: Recorded) -> Iterator[Difference]:
    """What the recipes judge in two ways, or keep as two texts."""
    for (stage, question), (reply, ours) in modern.read.items():
        heard, theirs = paper.read.get((stage, question), ("", {}))
        if reply.startswith(heard):
            for one, other in side_by_side(reply, ours, heard, theirs):
                if differ(one, other):
                    yield Difference(stage, reply, one, other)
        else:
            # Two replies: only `modern` asked again.
            for one in ours.values():
                yield Difference(stage, reply, one, ("not asked again", ()))
            for other in theirs.values():
                yield Difference(stage, heard, ("asked again", ()), other)


def side_by_side(
    reply: str, ours: dict[str, Outcome], heard: str, theirs: dict[str, Outcome]
) -> list[tuple[Outcome, Outcome]]:
    """The outcomes of each text by both recipes, `modern` first.

    `reply` is what `modern` read, and `heard` is what `paper` read of it.
    """
    # What `modern` found.
    pairs = []
    for text, one in ours.items():
        partner = same(text, theirs)
        other = missed(text, reply, heard) if partner is None else theirs[partner]
        pairs.append((one, other))

    # What only `paper` found.
    for text, other in theirs.items():
        if same(text, ours) is None:
            pairs.append((("not found", ()), other))
    return pairs


def same(text: str, others: Collection[str]) -> str | None:
    """The one of `others` that is the text, or contains it, or is contained in it.

    One recipe may split what is whole for the other recipe. None: there is no such text.
    """
    if text in others:
        return text
    for other in others:
        if other and (other in text or text in other):
            return other
    return "" if "" in others else None


def missed(text: str, reply: str, heard: str) -> Outcome:
    """Why `paper` did not find a text. Mostly a stop string came before it."""
    stopped = len(heard) < len(reply) and text not in " ".join(heard.casefold().split())
    return "behind a stop" if stopped else "not found", ()


def differ(one: Outcome, other: Outcome) -> bool:
    """Whether two outcomes are two judgements; `not_needed` is none."""
    verdicts = {one[0], other[0]}
    if verdicts == {"kept"}:
        return one != other
    return len(verdicts - {"not_needed"}) > 1


def by_kind(found: list[Difference]) -> dict[tuple, list[Difference]]:
    """The kinds of difference: one of each stage in turn, frequent kinds first."""
    # Collect them.
    kinds = defaultdict(list)
    for difference in found:
        kinds[difference.kind].append(difference)

    # Take the stages in turn.
    often = sorted(kinds, key=lambda kind: -len(kinds[kind]))
    by_stage = []
    for stage in TITLES:
        by_stage.append([kind for kind in often if kind[0] == stage])
    return {kind: kinds[kind] for kind in in_turn(by_stage)}


def in_turn(lists: Collection[list]) -> list:
    """The first of each list, then the second of each list, and so on."""
    found = []
    for turn in zip_longest(*lists):
        found += [one for one in turn if one is not None]
    return found


def example(difference: Difference, often: int, say: Say) -> str:
    """What the reply said, and what each recipe made of it."""
    # Long texts are shown from where they differ.
    verdict, texts = difference.modern
    other_verdict, other_texts = difference.paper
    starts = []
    for one, other in zip_longest(texts, other_texts, fillvalue=""):
        starts.append(start_of(one, other))
    ours = from_starts(texts, starts)
    theirs = from_starts(other_texts, starts)

    # The reply is shown from a little before the text.
    reply = " ".join(difference.reply.split())
    first = (ours or theirs or [""])[0]
    start = " ".join(first.strip("…").split())[:20]
    at = max(0, reply.find(start) - 20)
    dots = "…" if at else ""

    # Put the lines together.
    stage = TITLES[difference.stage].split(",")[0]
    lines = [say(f"{stage}, {difference.kind[1]} ({often} such)")]
    lines.append(f"    {say('reply   ')}{dots}{one_line(reply[at:])}")
    lines.append(f"    modern  {outcome_line(verdict, ours, say)}")
    lines.append(f"    paper   {outcome_line(other_verdict, theirs, say)}")
    return "\n".join(lines)


def start_of(one: str, other: str) -> int:
    """Where to begin, so that the place is seen at which two texts part."""
    for i, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return i - 20 if i > 40 else 0
    return 0


def from_starts(texts: tuple[str, ...], starts: list[int]) -> list[str]:
    """Each text from its start on. Dots stand for what is left out."""
    shown = []
    for text, at in zip(texts, starts, strict=False):
        dots = "…" if at else ""
        shown.append(dots + text[at:])
    return shown


def outcome_line(verdict: str, texts: list[str], say: Say) -> str:
    """A verdict and what it is about, in one line of about 100 characters."""
    if not texts:
        return say(verdict)
    room = 96 // len(texts)
    parts = [one_line(text, room) or say("(empty)") for text in texts]
    return f"{say(verdict)}: {' -> '.join(parts)}"


# --------------------------------------------------------------------------------------------------
# The program.

EXAMPLES = 5  # differences that are shown


def compare(folder: Path, seed_file: str, language: str = "", is_program: bool = False) -> str:
    """All tables, and five examples, in English or in Chinese; "": as the terminal speaks."""
    say = partial(workshop.spoken, language=language)
    # Open the run.
    heard = open_run(folder / "responses.jsonl")
    run = heard.run
    told = limits(folder, run)
    seeds = read_seeds(seed_file, run, language)
    models = {}
    for recipe in RECIPES:
        known = language_of(run, recipe)
        config = Config(recipe=recipe, seed=run["seed"], language=known, **told)
        models[recipe] = Recorded(config, heard.replies)

    # The run's own recipe may have decided already. Both go on with what the run kept.
    own = models[run["recipe"]]
    kept = None
    if is_program and not heard.twice:
        kept = take_decided(own, folder, seeds, heard.digests)
    if kept is None:
        kept = generate(own, seeds)
        answer(own, kept, seeds)
    for model in models.values():
        if model is not own:
            generate(model, seeds)
            answer(model, kept, seeds)

    # Show the tables and the differences. What a list's reply says to its tasks is one reply.
    who = f"{one_line(run['model'])} to the prompts of the recipe {run['recipe']}"
    count = len({said.reply for said in heard.replies.values()})
    parts = [say(f"{count} replies of {who}, as each recipe reads them")]
    for stage in TITLES:
        parts.append(table(list(models.values()), stage, say))
    parts += difference_parts(list(differences(models["modern"], models["paper"])), say)
    return "\n\n".join(parts)


def language_of(run: dict, recipe: str) -> str:
    """The run's language; for a recipe that does not know it, the one that comes first."""
    known = [*(RECIPES[recipe].languages or workshop.DEFAULT_SEEDS)]
    return run["language"] if run["language"] in known else known[0]


def difference_parts(found: list[Difference], say: Say) -> list[str]:
    """How many differences there are, and an example of each of the first kinds."""
    kinds = by_kind(found)
    chosen = in_turn(kinds.values())[:EXAMPLES]
    total = f"differences: {len(found)}, of {len(kinds)} kinds (modern | paper)"
    parts = [say(f"{total}; {len(chosen)} of them:")]
    for difference in chosen:
        parts.append(example(difference, len(kinds[difference.kind]), say))
    return parts


def main(arguments: list[str] | None = None, is_program: bool = False) -> int:
    """Do what the arguments say. `is_program`: nothing of what runs was changed in memory."""
    # The flags.
    parser = Parser(description=(__doc__ or "").split("\n\n")[0])
    add = parser.add_argument
    default = Path(Config.work_dir)
    seeds = "its seed tasks [the project's own, in the run's language]"
    add("work_dir", nargs="?", type=Path, default=default, help="folder of the run")
    add("--seed-file", default="", help=seeds)
    add("--language", choices=("en", "zh"), help="of the page [the terminal's]")

    # Compare, and print.
    options = parser.parse_args(arguments)
    language = options.language or ""
    page = partial(compare, options.work_dir, options.seed_file, language, is_program)
    return workshop.main(None, lambda _: workshop.show(page()), language)


if __name__ == "__main__":
    # Python would look for circles among millions of texts, where there are none: that would take
    # a quarter of the time.
    gc.disable()
    sys.exit(main(is_program=True))
