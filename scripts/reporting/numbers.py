"""The numbers of a report: run.json's own where it has them, the rest counted in the step files. Not a program."""

from __future__ import annotations

if __name__ == "__main__":  # a part, no program: said before an import fails
    raise SystemExit("numbers.py is a part of scripts/report.py: run  python scripts/report.py --help")

import re
from collections import Counter
from statistics import fmean

import self_instruct_workshop as workshop
from scripts.reporting import verb_nouns
from scripts.reporting.run import Run, shareable

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
BARS = 24  # in a histogram of lengths, about
VERBS, OBJECTS = 20, 4  # in the sunburst, as in Figure 3
LABELS = 15  # the most used labels that are shown
POINTS = 60  # in the plot of novelty


def numbers(run: Run, requests: int) -> dict:
    """All that the page shows but the rows; `requests` is how many of stage 1 are known."""
    instructions = [row["instruction"] for row in run.steps.get("generate", [])]
    dataset = run.steps.get("filter", [])
    lengths = {
        "instruction": [words(text, run.language) for text in instructions],
        "input": [words(row["input"], run.language) for row in dataset if row.get("input")],
        "output": [words(row["output"], run.language) for row in dataset if row.get("output")],
    }
    return {
        "run": head(run),
        "notices": run.notices,
        "counts": run.counts,
        "last": run.last,
        "table1": {"paper": PAPER, "ours": table1(run, dataset, lengths)},
        "histograms": {"seed": near_seeds(run, instructions)} | {k: histogram(v) for k, v in lengths.items()},
        "verbs": sunburst(instructions, run.language),
        "labels": labels(run, dataset),
        "novelty": novelty(run, requests),
        "tokens": run.summary.get("tokens", {}),
        "spending": run.summary.get("spending") or {},
    }


def head(run: Run) -> dict:
    """Who, when, how."""
    names = ("status", "seconds", "ended_at", "versions", "faults", "refused_parameters", "undone_because")
    told = {name: run.summary.get(name) for name in names}
    return told | {"folder": run.folder.resolve().name, "settings": shareable(run.settings)}


def words(text: str, language: str) -> float:
    """English: what stands between spaces. Chinese: a run of letters or digits, and half of every Chinese character;
    the pipeline's own rule for the length of an instruction counts so too."""
    return workshop.count_words(workshop.tokenize(text)) if language == "zh" else len(text.split())


def table1(run: Run, dataset: list[dict], lengths: dict[str, list[float]]) -> dict:
    """The paper's table; None where the run has not come so far."""
    classified, done = run.counts["classify"], "filter" in run.steps
    return {
        "instructions": run.counts["generate"]["out"],
        "classification": classified.get("classification") if "classify" in run.steps else None,
        "not_classification": classified.get("not_classification") if "classify" in run.steps else None,
        "unknown": classified.get("unknown", 0),
        "instances": run.counts["filter"]["out"] if done else None,
        "empty_inputs": sum(not row.get("input") for row in dataset) if done else None,
        **{f"{name}_length": round(fmean(values), 1) if values else None for name, values in lengths.items()},
    }


def histogram(values: list[float]) -> dict | None:
    """Bars of one round width; the last has all that is longer than 99 of 100, so that one giant squeezes nobody."""
    if not values:
        return None
    top = sorted(values)[int(0.99 * (len(values) - 1))]
    width = next(step for n in range(9) for step in (10**n, 2 * 10**n, 5 * 10**n) if top / step <= BARS or n == 8)
    last = int(top // width) + 1
    counts = Counter(min(int(value // width), last) for value in values)
    bars = [counts[n] for n in range(last + 1)]
    whole = bars if bars[-1] else bars[:-1]
    return {"width": width, "bars": whole, "open": bool(bars[-1]), "mean": round(fmean(values), 1)}


def near_seeds(run: Run, instructions: list[str]) -> dict | None:
    """ROUGE-L of each instruction with the nearest seed task, in steps of 0.05."""
    if not (run.seeds and instructions):
        return None
    pool = workshop.InstructionPool(run.settings.get("recipe", "modern"))
    for task in run.seeds:
        pool.add(task.instruction)
    starts = range(0, len(instructions), 1000)
    scores = [float(s) for at in starts for s in pool.similarities(instructions[at : at + 1000]).max(axis=1)]
    counts = Counter(min(int(score * 20 + 1e-9), 19) for score in scores)
    return {"width": 0.05, "bars": [counts[n] for n in range(20)], "open": False, "mean": round(fmean(scores), 2)}


def sunburst(instructions: list[str], language: str) -> dict:
    """The most common root verbs, and of each the most common objects: [verb, count, [[object, count], ...]]."""
    found = [verb_nouns.verb_and_object(text, language) for text in instructions]
    pairs = Counter(pair for pair in found if pair)
    verbs = Counter()
    for (verb, _), count in pairs.items():
        verbs[verb] += count
    rows = []
    for verb, count in verbs.most_common(VERBS):
        objects = Counter({noun: n for (one, noun), n in pairs.items() if one == verb})
        rows.append([verb, count, objects.most_common(OBJECTS)])
    shown = sum(n for _, _, objects in rows for _, n in objects)
    return {"rows": rows, "read": pairs.total(), "all": len(instructions), "verbs": len(verbs), "shown": shown}


def labels(run: Run, dataset: list[dict]) -> dict:
    """How often each label is the output of a classification task; capitals and a full stop make no difference."""
    flags = {row["instruction"]: row.get("is_classification") for row in run.steps.get("classify", [])}
    outputs = [row["output"] for row in dataset if flags.get(row["instruction"])]
    counts, names = Counter(), {}
    for output in outputs:
        label = re.sub(r"[\s.。!！]+$", "", output).casefold().strip()
        counts[label] += 1
        names.setdefault(label, output.strip()[:200])
    rows = [[names[label], count] for label, count in counts.most_common(LABELS)]
    return {"rows": rows, "different": len(counts), "all": len(outputs)}


def novelty(run: Run, requests: int) -> dict | None:
    """New instructions per request, as the mean of so many requests in a row."""
    new = Counter(row.get("request_idx") for row in run.steps.get("generate", []))
    requests = max([requests, *(idx + 1 for idx in new if isinstance(idx, int))])
    if not requests or "generate" not in run.steps:
        return None
    width = -(-requests // POINTS)
    starts = range(0, requests, width)
    means = [round(fmean(new[n] for n in range(at, min(at + width, requests))), 2) for at in starts]
    last_ten = run.counts["generate"].get("new_per_request")
    return {"width": width, "means": means, "requests": requests, "last_ten": last_ten}
