"""Runs for the tests of the report: hostile words, and a very large one; how to read a report."""

from __future__ import annotations

import base64
import gzip
import json
import random
import re
import threading
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import self_instruct_workshop as workshop
from helpers.server import Server, people_say
from self_instruct_workshop import DEFAULT_SEEDS, Config, Results, Task, load_seed_tasks

HOSTILE = [
    "Explain <script>window.hacked = 1</script> in one plain sentence, please.",
    "Close the tag </script><script>window.hacked = 2</script> of the page and go on with a poem.",
    (
        'Describe the picture <img src="http://127.0.0.1:9/x" onerror="window.hacked = 3">'
        " in your own words."
    ),
    'Rewrite <a href="javascript:window.hacked = 4">this link</a> as a bare address, one per line.',
    "Translate <b>bold</b> &lt;words&gt; &amp; entities into French without changing any markup.",
    (
        "Reverse the text \u202eabc\u202c and \u2066isolate\u2069 its letters, "
        "then count how many there are."
    ),
    "Split the lines\u2028here\u2029and there into a numbered list of short sentences about birds.",
    (
        "Fill in the template ${window.hacked = 5} "
        "{{constructor.constructor('window.hacked = 6')()}} with names."
    ),
    (
        "Sort <svg onload='window.hacked = 7'> elements \u0007 by area "
        "and list <style>*{display:none}</style> rules."
    ),
]
LABELS = {  # a word of the task -> its label
    "Close": "<b>yes</b>",
    "Reverse": "\u202e<a href='javascript:window.hacked = 8'>",
    "Sort": "<img src=x onerror=window.hacked=9>",
}


def hostile_answer(prompt: str, body: dict) -> str:
    """What a model with bad intentions answers to each stage."""
    if number := workshop.dangling_number(prompt):
        return "\n".join(f"{n}. {text}" for n, text in enumerate(HOSTILE, number))
    lines = prompt.strip().split("\n")
    asked = next((text for text in HOSTILE if text in "\n".join(lines[-3:])), "")
    label = next((label for word, label in LABELS.items() if word in asked), "")
    if prompt.startswith("Do the task."):
        return next((label for word, label in LABELS.items() if word in prompt), "?")
    if lines[-1].startswith("Among which"):
        chosen = label or people_say().get(lines[-2])
        return "Options: yes, no" if chosen else "Options: none"
    if label:
        return f"Class label: {label}\nInput: <script>window.hacked = 10</script>"
    return (
        "Input: <iframe srcdoc='<script>top.hacked = 11</script>'>\n"
        "Output: </script><script>hacked = 12</script> <!--"
    )


def hostile_run(folder: Path) -> dict:
    """The summary of a run against a server whose model tries what it can."""
    config = {
        "provider": "local",
        "first_wait": 0.01,
        "model": "</title><script>window.hacked = 12</script>",
    }
    with Server(hostile_answer) as server:
        settings = Config(
            **config,
            base_url=server.url + "/v1",
            num_instructions=len(HOSTILE),
            work_dir=str(folder),
        )
        return workshop.run(settings, say=lambda text: None)


WORDS = [
    "the",
    "a",
    "river",
    "stone",
    "letter",
    "number",
    "table",
    "garden",
    "winter",
    "answer",
    "city",
    "music",
]
VERBS = [
    "Write",
    "List",
    "Explain",
    "Describe",
    "Compare",
    "Name",
    "Give",
    "Find",
    "Sort",
    "Translate",
]


def big_run(folder: Path, tasks: int) -> dict:
    """The files of a run with so many tasks, made without a model; return its summary."""
    rng, results = (
        random.Random(1),
        Results(status="complete", seeds=load_seed_tasks(DEFAULT_SEEDS["en"])),
    )
    config, journal = Config(provider="practice", num_instructions=tasks, work_dir=str(folder)), []
    asked = {"version": 1, "attempt": 0, "provider": "practice", "model": "m", "recipe": "modern"}
    said = {
        "finish_reason": "stop",
        "prompt_tokens": 300,
        "reply_tokens": 30,
        "created_at": "2026-01-01T00:00:00+00:00",
    }
    rest = {
        "max_tokens": 512,
        "parameters": {"max_tokens": 512, "temperature": 0.7},
        "base_url": "",
        **said,
    }
    question = {name: getattr(config, name) for name in workshop.SHAPE}
    frame = " ".join(rng.choice(WORDS) for _ in range(150))

    def note(key: str, stage: str, **more: object) -> None:
        journal.append(
            workshop.to_json(
                {**asked, **rest, "key": key, "stage": stage, "temperature": 0.7, **more}
            )
        )

    for n in range(tasks):
        text = f"{rng.choice(VERBS)} {' '.join(rng.choice(WORDS) for _ in range(15))} number {n}."
        task, output = (
            Task(f"machine_task_{n}", text, n % 5 == 0),
            " ".join(rng.choice(WORDS) for _ in range(25)),
        )
        task.instances = [
            {"input": "" if n % 3 else f"input {n}", "output": "yes" if n % 5 == 0 else output}
        ]
        task.notes = {
            "generate": {"request_idx": n // 8},
            "classify": {"response": "No"},
            "instances": {"response": output},
        }
        results.tasks.append(task)
        if n % 20 == 0:
            results.reject("filter", "duplicate", text, pair=("", output))
        else:
            results.dataset.append({"instruction": text, **task.instances[0]})
        results.reject("generate", "too_similar", text + " Again.", why=(text, 0.9))
        note(f"c{n}", "classify", instruction=text, prompt=f"{frame}\n{text}", text="No")
        note(
            f"i{n}",
            "instances",
            instruction=text,
            prompt=f"{frame} {frame}\n{text}",
            text=f"Output: {output}",
        )
    for request in range(0, tasks, 8):
        listed = [
            f"{i}. {t.instruction}\n{i + 8}. {t.instruction} Again."
            for i, t in enumerate(results.tasks[request : request + 8], 1)
        ]
        note(
            f"g{request}",
            "generate",
            request_idx=request // 8,
            prompt=f"{frame}\n1.",
            text="\n".join(listed),
            **question,
        )
    tokens = {
        stage: Counter(replies=tasks, asked_now=tasks, prompt=300 * tasks, reply=30 * tasks)
        for stage in workshop.STAGES[:3]
    }
    model = SimpleNamespace(undone=[], name="practice", model="m", base_url="", faults={})
    model.refused, model.tokens, model.spending = {}, tokens, lambda results: {}
    model.address, model.check_folder = "", lambda: None
    model.others, model.everyone, model.of = {}, lambda: [model], lambda stage: model
    model.config, model.decided, model.lock = config, {}, threading.Lock()
    workshop.write_whole(folder / "responses.jsonl", journal)
    for stage, name in zip(workshop.STAGES, workshop.STEP_FILES, strict=True):
        workshop.write_whole(folder / name, map(workshop.to_json, results.rows(stage)))
    results.written = [*workshop.STEP_FILES]
    workshop.write_summary(config, model, results)
    return json.loads((folder / "run.json").read_text(encoding="utf-8"))


def joined(parts: list | None, seen: list[str], rows: list[list]) -> str | None:
    """A text of a reply, which stands in the page in parts. `seen` gets those that are texts."""
    if parts is None:
        return None
    texts = []
    for part in parts:
        if isinstance(part, int):
            # A text that came before, or the instruction, input, output or evidence of a row.
            texts.append(seen[-1 - part] if part < 0 else rows[part // 4][(3, 4, 5, 7)[part % 4]])
        else:
            texts.append(part if isinstance(part, str) else joined(part, seen, rows))
            seen.append(texts[-1])
    return "".join(texts)


class Page:
    """A report as a program reads it: its numbers, its rows and its replies."""

    def __init__(self, path: Path) -> None:
        self.text = path.read_text(encoding="utf-8")
        found = re.search(
            r'<script type="application/json" id="numbers">(.*?)</script>', self.text, re.S
        )
        self.numbers = json.loads(found[1])
        self.rows = [row for piece in self.pieces("rows") for row in piece]
        self.replies = [
            [*facts, joined(prompt, seen, self.rows), joined(text, seen, self.rows)]
            for piece, seen in ((piece, []) for piece in self.pieces("replies"))
            for *facts, prompt, text in piece
        ]

    def pieces(self, name: str) -> list[list]:
        packed = re.findall(
            rf'<script type="text/plain" id="{name}-\d+">([^<]*)</script>', self.text
        )
        return [json.loads(gzip.decompress(base64.b64decode(piece))) for piece in packed]

    def of(self, **wanted: object) -> list[dict]:
        """The rows with these values, by name."""
        names = [
            "status",
            "stage",
            "rule",
            "instruction",
            "input",
            "output",
            "flag",
            "evidence",
            "score",
            "cut",
            "replies",
            "id",
        ]
        rows = [dict(zip(names, row, strict=True)) for row in self.rows]
        return [row for row in rows if wanted.items() <= row.items()]

    def reply(self, number: int) -> dict:
        names = ["stage", "attempt", "finish_reason", "created_at", "prompt_tokens", "reply_tokens"]
        return dict(
            zip(
                [*names, "max_tokens", "parameters", "prompt", "text"],
                self.replies[number],
                strict=True,
            )
        )
