"""The numbers of a report: run.json's own where it has them, the rest counted in the step files."""

from __future__ import annotations

if __name__ == "__main__":  # a part, no program: said before an import fails
    raise SystemExit(
        "numbers.py is a part of scripts/report.py: run  python scripts/report.py --help"
    )

import re
from collections import Counter
from statistics import fmean

import self_instruct_workshop as workshop
from scripts.reporting import verb_nouns
from scripts.reporting.run import Run, shareable, without_paths

PAPER = {  # Table 1: GPT-3's data; lengths in words
    "instructions": 52445,
    "classification": 11584,
    "not_classification": 40861,
    "instances": 82439,
    "empty_inputs": 35878,
    "instruction_length": 15.9,
    "input_length": 12.7,
    "output_length": 18.9,
}
HEAD = (  # what the head of the page takes from run.json
    "status",
    "seconds",
    "ended_at",
    "versions",
    "faults",
    "refused_parameters",
    "undone_because",
)
BARS = 24  # in a histogram of lengths, about
STEPS = 20  # in the histogram of ROUGE-L, from 0 to 1
BLOCK = 1000  # instructions that are compared with the seed tasks at once
VERBS = 20  # in the sunburst, as in Figure 3
OBJECTS = 4  # of each verb, as in Figure 3
LABELS = 15  # the most used labels that are shown
LONGEST_LABEL = 200  # characters
POINTS = 60  # in the plot of novelty
OF_A_TOPIC = ("wanted", "kept", "rejected", "requests")  # what run.json says of each topic


def numbers(run: Run, requests: int) -> dict:
    """All that the page shows but the rows; `requests` is how many of stage 1 are known."""
    # The texts that the figures are about.
    instructions = [row["instruction"] for row in run.steps.get("generate", [])]
    dataset = run.steps.get("filter", [])
    lengths = text_lengths(run, instructions, dataset)

    # The plots of lengths, and before them how near the instructions are to the seed tasks.
    histograms = {"seed": near_seeds(run, instructions)}
    for name, values in lengths.items():
        histograms[name] = histogram(values)

    # The page's script reads these names.
    return {
        "run": head(run),
        "notices": run.notices,
        "counts": run.counts,
        "last": run.last,
        "table1": {"paper": PAPER, "ours": table1(run, dataset, lengths)},
        "histograms": histograms,
        "verbs": sunburst(instructions, run.language),
        "labels": labels(run, dataset),
        "novelty": novelty(run, requests),
        "topics": topics(run),
        "tokens": run.summary.get("tokens", {}),
        "spending": run.summary.get("spending") or {},
        "judge": judged(run),
        "rewrite": rewritten(run),
        "helped": without_paths(run.helped),
    }


def judged(run: Run) -> dict:
    """What the page shows of a judge; {} where none has said anything of these rows."""
    names = ("model", "data", "status", "keep", "counts", "answers", "probes")
    shown = {name: run.judge[name] for name in names if run.judge}
    return without_paths(shown)


def rewritten(run: Run) -> dict:
    """What the page shows of rewriting; {} where these rows were not rewritten."""
    return without_paths({name: run.rewrite[name] for name in ("model", "counts") if run.rewrite})


def head(run: Run) -> dict:
    """Who, when, how."""
    told = {name: without_paths(run.summary.get(name)) for name in HEAD}
    return told | {"folder": run.folder.resolve().name, "settings": shareable(run.settings)}


def text_lengths(run: Run, instructions: list[str], dataset: list[dict]) -> dict[str, list[float]]:
    """The lengths in words of the instructions, and of inputs and outputs that are not empty."""
    inputs = [row["input"] for row in dataset if row.get("input")]
    outputs = [row["output"] for row in dataset if row.get("output")]
    return {
        "instruction": [words(text, run.language) for text in instructions],
        "input": [words(text, run.language) for text in inputs],
        "output": [words(text, run.language) for text in outputs],
    }


def words(text: str, language: str) -> float:
    """The length of a text in words.

    English: what stands between spaces. Chinese: a run of letters or digits counts as one word,
    and each Chinese character as half a word. The pipeline's own rule for the length of an
    instruction counts so too.
    """
    if language == "zh":
        return workshop.count_words(workshop.tokenize(text))
    return len(text.split())


def table1(run: Run, dataset: list[dict], lengths: dict[str, list[float]]) -> dict:
    """The paper's table; None where the run has not come so far."""
    # Stage 2 says how many tasks are classification.
    classified = run.counts["classify"]
    table = {
        "instructions": run.counts["generate"]["out"],
        "classification": None,
        "not_classification": None,
        "unknown": classified.get("unknown", 0),
        "instances": None,
        "empty_inputs": None,
    }
    if "classify" in run.steps:
        table["classification"] = classified.get("classification")
        table["not_classification"] = classified.get("not_classification")

    # Stage 4 leaves the dataset.
    if "filter" in run.steps:
        table["instances"] = run.counts["filter"]["out"]
        table["empty_inputs"] = sum(not row.get("input") for row in dataset)

    # The mean lengths, in words.
    for name, values in lengths.items():
        table[f"{name}_length"] = round(fmean(values), 1) if values else None
    return table


def histogram(values: list[float]) -> dict | None:
    """Bars of one round width.

    The last bar has all values that are larger than 99 of 100 others, so that one giant does not
    squeeze the rest.
    """
    if not values:
        return None

    # Choose the width by the 99th percentile; what is longer shares one open bar.
    top = sorted(values)[int(0.99 * (len(values) - 1))]
    width = bar_width(top)
    last = int(top // width) + 1

    # Count; an open bar with nothing in it is left out.
    counts = Counter(min(int(value // width), last) for value in values)
    bars = [counts[n] for n in range(last + 1)]
    is_open = bool(bars[-1])
    shown = bars if is_open else bars[:-1]
    return {"width": width, "bars": shown, "open": is_open, "mean": round(fmean(values), 1)}


def bar_width(top: float) -> int:
    """The smallest of 1, 2, 5, 10, 20, 50, 100... that reaches `top` in at most BARS bars."""
    for power in range(8):
        for width in (10**power, 2 * 10**power, 5 * 10**power):
            if top / width <= BARS:
                return width
    return 10**8


def near_seeds(run: Run, instructions: list[str]) -> dict | None:
    """ROUGE-L of each instruction with the nearest seed task, in steps of 0.05."""
    if not (run.seeds and instructions):
        return None

    # Compare in blocks: all at once would take much memory.
    pool = workshop.InstructionPool(run.settings.get("recipe", "modern"))
    for task in run.seeds:
        pool.add(task.instruction)
    scores: list[float] = []
    for start in range(0, len(instructions), BLOCK):
        found = pool.similarities(instructions[start : start + BLOCK])
        scores += found.max(axis=1).tolist()

    # Count; 1e-9 because 0.15 * 20 is a little less than 3, and a score of 1 is in the last bar.
    counts = Counter(min(int(score * STEPS + 1e-9), STEPS - 1) for score in scores)
    bars = [counts[n] for n in range(STEPS)]
    return {"width": 1 / STEPS, "bars": bars, "open": False, "mean": round(fmean(scores), 2)}


def sunburst(instructions: list[str], language: str) -> dict:
    """The most common root verbs, and the most common objects of each.

    `rows` is [verb, count, [[object, count], ...]] for each verb.
    """
    # Count pairs of verb and object, then verbs.
    found = [verb_nouns.verb_and_object(text, language) for text in instructions]
    pairs = Counter(pair for pair in found if pair)
    verbs: Counter[str] = Counter()
    for (verb, _), count in pairs.items():
        verbs[verb] += count

    # Keep the most common ones.
    rows = []
    shown = 0
    for verb, count in verbs.most_common(VERBS):
        objects = Counter({noun: n for (one, noun), n in pairs.items() if one == verb})
        most = objects.most_common(OBJECTS)
        rows.append([verb, count, most])
        shown += sum(n for _, n in most)
    return {
        "rows": rows,
        "read": pairs.total(),
        "all": len(instructions),
        "verbs": len(verbs),
        "shown": shown,
    }


def labels(run: Run, dataset: list[dict]) -> dict:
    """How often each label is the output of a classification task.

    Capitals and a full stop at the end make no difference.
    """
    # The outputs of tasks that stage 2 took for classification.
    classified = run.steps.get("classify", [])
    flags = {row["instruction"]: row.get("is_classification") for row in classified}
    outputs = [row["output"] for row in dataset if flags.get(row["instruction"])]

    # Count them in one form, and show each in the form that came first.
    counts: Counter[str] = Counter()
    names: dict[str, str] = {}
    for output in outputs:
        label = re.sub(r"[\s.。!！]+$", "", output).casefold().strip()
        counts[label] += 1
        names.setdefault(label, output.strip()[:LONGEST_LABEL])
    rows = [[names[label], count] for label, count in counts.most_common(LABELS)]
    return {"rows": rows, "different": len(counts), "all": len(outputs)}


def novelty(run: Run, requests: int) -> dict | None:
    """New instructions per request, as the mean of so many requests in a row."""
    # A row of step 1 names its request; without a journal, the rows tell how many there were.
    new = Counter(row.get("request_idx") for row in run.steps.get("generate", []))
    named = [index + 1 for index in new if isinstance(index, int)]
    requests = max([requests, *named])
    if not requests or "generate" not in run.steps:
        return None

    # As many requests to a point as give at most POINTS points (rounded up).
    width = -(-requests // POINTS)
    means = []
    for start in range(0, requests, width):
        group = range(start, min(start + width, requests))
        means.append(round(fmean(new[n] for n in group), 2))
    last_ten = run.counts["generate"].get("new_per_request")
    return {"width": width, "means": means, "requests": requests, "last_ten": last_ten}


def topics(run: Run) -> list[list]:
    """[topic, wanted, kept, rejected, requests] for each topic of stage 1; none without topics.

    Without run.json only what was kept is known: the others are None.
    """
    told = run.summary.get("topics", {})
    if not run.summary:
        names = [row.get("topic") for row in run.steps.get("generate", [])]
        kept = Counter(name for name in names if isinstance(name, str))
        told = {name: {"kept": number} for name, number in kept.items()}
    return [[name, *(row.get(one) for one in OF_A_TOPIC)] for name, row in told.items()]
