"""The rows that the report's browser shows, each with the replies that it came from. Not a program of its own."""

from __future__ import annotations

if __name__ == "__main__":  # a part, no program: said before an import fails
    raise SystemExit("rows.py is a part of scripts/report.py: run  python scripts/report.py --help")

import base64
import gzip
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import self_instruct_workshop as workshop
from scripts.reporting.run import Run, records, reply_of
from self_instruct_workshop import STAGES

ROWS, REPLIES = 1000, 40  # in a packed piece: rows are all read, replies only where somebody asks for one
LONGEST = 20_000  # characters of a text in a row; a reply is whole


def packed(items: Iterable[list], size: int) -> Iterator[str]:
    """Pieces of JSON, compressed, in letters that HTML leaves alone."""
    piece: list[list] = []
    for item in items:
        piece.append(item)
        if len(piece) == size:
            yield pack(piece)
            piece = []
    if piece:
        yield pack(piece)


def pack(piece: list) -> str:
    text = json.dumps(piece, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    return base64.b64encode(gzip.compress(text, 6, mtime=0)).decode()


@dataclass
class Replies:
    """Which reply answered what: numbers of replies, in the order in which they are packed."""

    groups: dict[tuple, list[tuple[str, list[int]]]] = field(default_factory=dict)  # what -> (text, all tries)
    candidates: dict[int, list[str]] = field(default_factory=dict)  # request of stage 1 -> what its reply holds
    cut: set[int] = field(default_factory=set)
    pieces: list[str] = field(default_factory=list)

    def note(self, number: int, record: dict, recipe: str) -> None:
        """A second try joins the first; a later reply to the same question stands beside the earlier."""
        stage, reply = record["stage"], reply_of(record, recipe)
        if reply.cut:
            self.cut.add(number)
        for what in record.get("instructions") or [record.get("instruction", record.get("request_idx"))]:
            groups = self.groups.setdefault((stage, what), [])
            tries = groups.pop()[1] if record.get("attempt") and groups else []
            groups.append((reply.text, [*tries, number]))
        if stage == "generate" and isinstance(record.get("request_idx"), int):
            first = workshop.dangling_number(reply.prompt)
            self.candidates[record["request_idx"]] = workshop.parse_instructions(reply.text, recipe=recipe, first=first)

    def to(self, stage: str, what: str | int | None, text: str | None = None) -> list[int]:
        """The replies to a question; of several, those that ended in this text, else the newest."""
        groups = self.groups.get((stage, what), [])
        return next((tries for ended, tries in groups if ended == text), groups[-1][1] if groups else [])


def read_replies(run: Run) -> Replies:
    """Read and pack them all, one by one: of a long run they are too many to keep."""
    replies, recipe = Replies(), run.settings.get("recipe", "modern")

    def shown() -> Iterator[list]:
        used = (record for record in records(run) if record["stage"] in STAGES[:3])
        for number, record in enumerate(used):
            replies.note(number, record, recipe)
            names = ("stage", "attempt", "finish_reason", "created_at", "prompt_tokens", "reply_tokens")
            values = [record.get(name) for name in (*names, "max_tokens", "parameters", "prompt", "text")]
            yield values

    replies.pieces = list(packed(shown(), REPLIES))
    return replies


# ----------------------------------------------------------------------------------------------------------------------
# Rows: [status, stage, rule, instruction, input, output, is_classification, neighbour, score, cut, numbers of replies]


@dataclass
class Rows:
    """Makes the rows of a run: what is kept, what was turned away, and what is undone."""

    run: Run
    replies: Replies
    flags: dict[str, bool | None] = field(default_factory=dict)  # instruction -> is_classification
    sources: dict[str, list[int]] = field(default_factory=dict)  # instruction -> requests of stage 1 that brought it
    texts: dict[tuple, str] = field(default_factory=dict)  # (stage, instruction) -> the reply as the step file has it

    def __post_init__(self) -> None:
        for request in sorted(self.replies.candidates):
            for candidate in self.replies.candidates[request]:
                self.sources.setdefault(candidate, []).append(request)
        for row in self.run.steps.get("generate", []):
            known, request = self.sources.get(row["instruction"], []), row.get("request_idx")
            self.sources[row["instruction"]] = [request, *(n for n in known if n != request)]
        for stage in ("classify", "instances"):
            for row in self.run.steps.get(stage, []):
                self.flags[row["instruction"]] = row.get("is_classification")
                self.texts[stage, row["instruction"]] = row.get("response")

    def row(self, status: str, stage: str, instruction: str, pair: tuple = (None, None), **why: object) -> list:
        """One row; `numbers` are the replies of all stages up to its own."""
        requests, rule = self.sources.get(instruction) or [None], why.get("rule", "")
        numbers = list(self.replies.to("generate", why.get("request", requests[0])))
        for before in STAGES[1 : STAGES.index(stage) + 1]:
            numbers += self.replies.to(before, instruction, self.texts.get((before, instruction)))
        cut = rule == "cut_off" or bool(numbers and numbers[-1] in self.replies.cut)  # the reply that made it
        texts = [text[:LONGEST] + "…" * (len(text) > LONGEST) if text else text for text in (instruction, *pair)]
        flag = self.flags.get(instruction)
        return [status, stage, rule, *texts, flag, why.get("evidence", ""), why.get("score"), int(cut), numbers]

    def kept(self) -> Iterator[list]:
        stage = self.run.last
        for row in self.run.steps.get(stage, []):
            pairs = [row] if stage == "filter" else (row.get("instances") or []) if stage == "instances" else [{}]
            for pair in pairs:
                yield self.row("kept", stage, row["instruction"], (pair.get("input"), pair.get("output")))

    def rejected(self) -> Iterator[list]:
        """What a rule of stage 1 turned away stands in the order of the requests, so each takes its next source."""
        kept = {row["instruction"] for row in self.run.steps.get("generate", [])}
        for row in self.run.rejected:
            why = {"rule": row["rule"], "evidence": row.get("evidence") or "", "score": row.get("score")}
            stage = "filter" if (row["stage"], row["rule"]) == ("instances", "cut_off") else row["stage"]
            if stage == "generate":
                requests = self.sources.get(row["instruction"], [])
                spare = requests[row["instruction"] in kept :]  # the first one of these brought the one that was kept
                why["request"] = spare[0] if spare else requests[0] if requests else None
                if len(spare) > 1:
                    requests.remove(spare[0])
            yield self.row("rejected", stage, row["instruction"], (row.get("input"), row.get("output")), **why)

    def undone(self) -> Iterator[list]:
        """Requests without a reply, and tasks that a stage did not come to, or got no reply about."""
        known, lost = self.replies.candidates, self.run.counts["generate"].get("undone", 0)
        missing = [n for n in range(max(known, default=-1) + 1) if n not in known]
        for request in [*missing, *[None] * lost][:lost]:
            yield self.row("undone", "generate", "", request=request, score=request)
        for before, stage in pairwise(STAGES[:3]):
            if before in self.run.steps and stage in self.run.steps:
                through = {row["instruction"] for row in self.run.steps[stage]}
                for row in self.run.steps[before]:
                    if row["instruction"] not in through:
                        yield self.row("undone", stage, row["instruction"])

    def all(self) -> Iterator[list]:
        yield from self.kept()
        yield from self.rejected()
        yield from self.undone()
