"""The card of a measurement, and its page: one HTML file that needs no network."""

from __future__ import annotations

if __name__ == "__main__":  # a part, no program: said before an import fails
    raise SystemExit(
        "page.py is a part of scripts/did_it_help.py: run  python scripts/did_it_help.py --help"
    )

import html
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

from scripts.helping import said
from scripts.helping.said import Results
from scripts.pages.frame import as_data, html_head

PARTS = Path(__file__).resolve().parent
COLOURS = ("#1d5fbf", "#c2410c", "#1a7f5a", "#7c3aed", "#8a6d00", "#be185d")  # of the curves
WIDTH, HEIGHT, EDGE = 640, 260, 44  # of the picture of the curves, in its own units


# --------------------------------------------------------------------------------------------------
# The card.


def card(results: Results) -> str:
    """README.md: the verdict, the table, and all that a reader needs to measure it again."""
    words = said.words_of(results)
    facts = [f"| {name} | {safe_cell(text)} |" for name, text in facts_of(results)]
    parts = [
        f"# {words['title']}",
        *said.paragraphs(results),
        said.as_markdown(results),
        words["measured"],
        "\n".join(["| | |", "|---|---|", *facts]),
        words["card_files"],
    ]
    return "\n\n".join(parts) + "\n"


def safe_cell(text: str) -> str:
    """A text that can stand in a cell of a Markdown table."""
    return text.replace("|", "\\|").replace("\n", " ")


def facts_of(results: Results) -> list[tuple[str, str]]:
    """What was measured, and how: (name, text)."""
    words = said.words_of(results)
    how = results["identity"]
    held = results["held_out"]
    seeds = words["and"].join(map(str, results["seeds"]))
    counts = {"overlap": sum(held["overlap"].values()), "without": held["without_answer"]}
    found = [(words["card_base"], results["base"])]
    found.append((words["card_form"], words[f"form_{results['form']}"]))
    for dataset in results["datasets"]:
        found.append((said.name_of(results, dataset["group"]), of_dataset(results, dataset)))
    found.append((words["card_steps"], words["steps_said"].format(**{**how, "seeds": seeds})))
    found.append((words["card_answers"], words["answers_said"].format(**how)))
    asked = words["held_out_said"].format(**held | counts, long=held["too_long"])
    found.append((words["card_held_out"], asked))
    found.append((words["card_machine"], f"{results['device']}, {results['dtype']}"))
    versions = words["and"].join(f"{name} {text}" for name, text in results["versions"].items())
    found.append((words["card_versions"], versions))
    return found


def of_dataset(results: Results, dataset: dict[str, Any]) -> str:
    """What is to be said of the rows that a model learnt from."""
    words = said.words_of(results)
    shown = {"epochs": "?", **dataset}
    text = words["card_rows"].format(**shown)
    for why, count in dataset["left_out"].items():
        told = words["why"].format(count=count, why=words["whys"].get(why, why))
        text += f"{words['card_left_out']}{words['colon']}{told}"
    return text


# --------------------------------------------------------------------------------------------------
# The page.


def html_page(results: Results, rows: list[dict[str, Any]]) -> str:
    """The page: the verdict, the table, the curves, and all answers side by side."""
    words = said.words_of(results)
    script = part("page.js")
    title = f"{words['title']} {results['base']}"
    facts = [
        f"<dt>{escaped(name)}</dt><dd>{escaped(text)}</dd>" for name, text in facts_of(results)
    ]
    paragraphs = [f"<p>{escaped(text)}</p>" for text in said.paragraphs(results)]
    return Template(part("page.html")).substitute(
        head=html_head(title, words["lang"], [script], part("page.css")),
        script=script,
        title=escaped(words["title"]),
        paragraphs="\n".join(paragraphs),
        table=as_html(results),
        measured=escaped(words["measured"]),
        facts="\n".join(facts),
        curves_title=escaped(words["curves"]),
        curves=curves(results),
        answers_title=escaped(words["answers"]),
        data=as_data({"words": words, "names": model_names(results), "rows": rows}),
    )


def part(name: str) -> str:
    """The text of a file in scripts/helping/."""
    return (PARTS / name).read_text(encoding="utf-8")


def escaped(text: str) -> str:
    return html.escape(text, quote=True)


def as_html(results: Results) -> str:
    """The table as HTML."""
    head, *lines = said.table(results)
    names = "".join(f"<th>{escaped(text)}</th>" for text in head)
    body = []
    for line in lines:
        cells = "".join(f"<td>{escaped(text)}</td>" for text in line)
        body.append(f"<tr>{cells}</tr>")
    return (
        f"<table><thead><tr>{names}</tr></thead><tbody>\n" + "\n".join(body) + "\n</tbody></table>"
    )


def model_names(results: Results) -> dict[str, str]:
    """How each model with answers is called: name of its adapter -> words."""
    words = said.words_of(results)
    names = {"before": words["before"]}
    for model in results["models"]:
        name = said.name_of(results, model["group"])
        if len(results["seeds"]) > 1:
            name = words["seed"].format(name=name, seed=model["seed"])
        names[model["name"]] = name
    return names


# --------------------------------------------------------------------------------------------------
# The curves, as a picture in the page.


@dataclass(frozen=True)
class Frame:
    """The picture's scales: steps from 0 to `last`, losses from `low` to `high`."""

    last: float
    low: float
    high: float

    def place(self, step: float, loss: float) -> str:
        """Where a point of a curve stands in the picture."""
        x = EDGE + (WIDTH - 2 * EDGE) * step / (self.last or 1)
        y = EDGE + (HEIGHT - 2 * EDGE) * (self.high - loss) / ((self.high - self.low) or 1)
        return f"{x:.1f},{y:.1f}"


def curves(results: Results) -> str:
    """The held-out loss of each model over its steps, as SVG; "" where none was taken."""
    # Leave out models without a curve.
    drawn = {name: points for name, points in results["curves"].items() if points}
    if not drawn:
        return ""
    losses = [loss for points in drawn.values() for _, loss in points]
    last = max(points[-1][0] for points in drawn.values())
    frame = Frame(last, min(losses), max(losses))

    # A line for each model, and its name below.
    names = model_names(results)
    lines = []
    legend = []
    for number, (name, points) in enumerate(drawn.items()):
        colour = COLOURS[number % len(COLOURS)]
        path = " ".join(frame.place(*point) for point in points)
        lines.append(f'<polyline stroke="{colour}" points="{path}"/>')
        ends = f"{points[0][1]:.2f} → {points[-1][1]:.2f}"
        patch = f'<svg class="patch"><rect width="24" height="4" fill="{colour}"/></svg>'
        legend.append(f"<li>{patch} {escaped(names[name])}: {ends}</li>")
    marks = axis(said.words_of(results), frame)
    picture = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{marks}{"".join(lines)}</svg>'
    return f'{picture}<ul class="legend">{"".join(legend)}</ul>'


def axis(words: said.Words, frame: Frame) -> str:
    """The numbers at the sides of the curves, and what they are."""
    floor = HEIGHT - EDGE
    texts = [
        (4, EDGE, f"{frame.high:.2f}"),
        (4, floor, f"{frame.low:.2f}"),
        (EDGE, floor + 18, "0"),
        (WIDTH - EDGE, floor + 18, f"{frame.last}"),
        (WIDTH // 2, floor + 34, words["step"]),
        (EDGE, EDGE - 14, words["loss"]),
    ]
    drawn = [f'<text x="{x}" y="{y}">{escaped(text)}</text>' for x, y, text in texts]
    sides = f'<path class="frame" d="M{EDGE},{EDGE} V{floor} H{WIDTH - EDGE}"/>'
    return sides + "".join(drawn)
