"""The rows that the report's browser shows, each with the replies that it came from."""

from __future__ import annotations

if __name__ == "__main__":  # a part, no program: said before an import fails
    raise SystemExit("rows.py is a part of scripts/report.py: run  python scripts/report.py --help")

import base64
import gzip
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import self_instruct_workshop as workshop
from scripts.reporting.run import Run, records, reply_of, shared
from self_instruct_workshop import STAGES

ROWS = 1000  # rows in a packed piece; a reader gets them all
REPLIES = 1000  # replies in a packed piece, unpacked only when somebody asks for one of them
MOST_UNDONE = 100_000  # rows of requests without a reply
LONGEST = 20_000  # characters of a text in a row; a reply is whole
SHORTEST = 10  # characters of a row's text that a reply names by its number
TEXTS = (3, 4, 5, 7)  # where a row has its instruction, input, output and evidence
REPLIES_OF_ROW = 10  # where a row has the numbers of its replies
SHOWN = (  # what the page shows of a reply
    "stage",
    "attempt",
    "finish_reason",
    "created_at",
    "prompt_tokens",
    "reply_tokens",
    "max_tokens",
    "parameters",
    "prompt",
    "text",
)
TEXTS_OF_REPLY = (SHOWN.index("prompt"), SHOWN.index("text"))

# --------------------------------------------------------------------------------------------------
# Packing: a report of 50,000 rows must stay small enough for a browser.

EFFORT = 5  # of gzip, from 0 to 9: with 6, rows take half as long again for 2 % fewer bytes
LARGEST = 25_000_000  # bytes of a report; larger ones open slowly, and no mail takes them
REST = 2_500_000  # bytes of it that are no rows and no replies: plotly, script, style, figures
MOST_ROWS = 18_000_000  # bytes of it that rows may take; replies have what is left


def groups_of(items: Iterable[list], number: int) -> Iterator[list[list]]:
    """The items in groups of so many; the last one may have fewer."""
    # A group goes out as soon as it is full.
    group: list[list] = []
    for item in items:
        group.append(item)
        if len(group) == number:
            yield group
            group = []
    if group:
        yield group


def pack(piece: list) -> str:
    """One piece, as JSON. The same items always give the same text."""
    return pack_text(json.dumps(piece, ensure_ascii=False, separators=(",", ":")))


def pack_text(text: str) -> str:
    """A text, compressed, in letters that HTML leaves alone. The page's script unpacks it."""
    data = gzip.compress(text.encode("utf-8", "replace"), EFFORT, mtime=0)
    return base64.b64encode(data).decode()


def packed_rows(rows: list[list]) -> tuple[list[list], list[str]]:
    """The rows that the page has room for, and their pieces. Too many are chosen evenly."""
    # One share of all rows is a guess at what fits, as their lengths differ: so try again.
    held = rows
    pieces = [pack(group) for group in groups_of(rows, ROWS)]
    while size(pieces) > MOST_ROWS:
        share = 0.95 * MOST_ROWS / size(pieces) * len(held) / len(rows)
        fewer = evenly(rows, share)
        if len(fewer) == len(held):
            break  # every row is of a kind of its own
        held = fewer
        pieces = [pack(group) for group in groups_of(held, ROWS)]
    return held, pieces


def size(pieces: list[str]) -> int:
    """Bytes of packed pieces, which are ASCII."""
    return sum(map(len, pieces))


def evenly(rows: list[list], share: float) -> list[list]:
    """A share of the rows of each kind (status, stage and rule), at even distances.

    The first one of each kind is among them, so no kind is lost.
    """
    chosen = []
    seen: Counter[tuple] = Counter()
    for row in rows:
        kind = tuple(row[:3])
        number = seen[kind]
        seen[kind] += 1
        if number == 0 or int(number * share) < int((number + 1) * share):
            chosen.append(row)
    return chosen


# --------------------------------------------------------------------------------------------------
# Replies, by number: 0 is the first one that came.


@dataclass
class Replies:
    """Which reply answered what: numbers of replies, in the order in which they are packed."""

    # (stage, instruction or request) -> groups of tries: the last text, and the numbers of all.
    # A stage-1 reply is never looked for by its text, so that is left out.
    groups: dict[tuple, list[tuple[str, list[int]]]] = field(default_factory=dict)
    # request of stage 1 -> the instructions that its reply holds
    candidates: dict[int, list[str]] = field(default_factory=dict)
    cut: set[int] = field(default_factory=set)  # numbers of replies that were cut off
    count: int = 0  # how many replies there are

    def note(self, number: int, record: dict, recipe: str) -> None:
        """Remember what a reply answered, and what it holds.

        A second try joins the first, and so do second answers. A later reply to the same question
        stands beside the earlier.
        """
        self.count = number + 1
        stage = record["stage"]
        reply = reply_of(record, recipe)
        if reply.cut:
            self.cut.add(number)

        # One reply may answer questions about several instructions.
        own_text = "" if stage == "generate" else shared(reply.text)
        alone = record.get("instruction", record.get("request_idx"))
        for what in record.get("instructions") or [alone]:
            groups = self.groups.setdefault((stage, what), [])
            is_retry = bool((record.get("attempt") or record.get("sample")) and groups)
            text, earlier = groups.pop() if is_retry else ("", [])
            is_answer = is_retry and (record.get("sample") or 0) >= workshop.ANSWERS
            text = text if is_answer else own_text
            groups.append((text, [*earlier, number]))

        # Read the instructions of a stage-1 reply once more, as the run read them.
        request = record.get("request_idx")
        if stage == "generate" and isinstance(request, int):
            first = workshop.dangling_number(reply.prompt)
            found = workshop.parse_instructions(reply.text, recipe=recipe, first=first)
            self.candidates[request] = shared(found)

    def to(self, stage: str, what: str | int | None, text: str | None = None) -> list[int]:
        """The replies to a question; of several, those that ended in this text, else the newest."""
        groups = self.groups.get((stage, what), [])
        for ended, tries in groups:
            if ended == text:
                return tries
        return groups[-1][1] if groups else []


def read_replies(run: Run) -> Replies:
    """Note what each of them answered, one by one: of a long run they are too many to keep."""
    replies = Replies()
    recipe = run.settings.get("recipe", "modern")
    for number, record in enumerate(used_replies(run)):
        replies.note(number, record, recipe)
    return replies


def used_replies(run: Run) -> Iterator[dict]:
    """The replies that the page shows, in the order in which they came."""
    return (record for record in records(run) if record["stage"] in STAGES[:3])


def packed_replies(run: Run, rows: list[list], taken: int) -> list[str]:
    """Read the replies once more, and pack the first ones, as many as have room.

    `rows` are those of the page; their pieces have taken so many bytes. Most of a reply's text
    stands in the rows that came from it, and its prompt is much like others. What the page has
    already becomes a number there (`in_parts`, `named`); the page's script puts the text back.
    """
    # The rows of each reply, by number.
    behind: defaultdict[int, list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        for reply in row[REPLIES_OF_ROW]:
            behind[reply].append(number)

    def shown() -> Iterator[list]:
        for number, record in enumerate(used_replies(run)):
            known = texts_of(rows, behind.get(number, []))
            # A prompt of several turns is shown as one text.
            prompt = workshop.as_text(record.get("prompt") or "")
            told = {"prompt": in_parts(prompt, known), "text": in_parts(record["text"], known)}
            yield [(record | told).get(name) for name in SHOWN]

    # Replies are read only as long as there is room.
    pieces: list[str] = []
    room = LARGEST - REST - taken
    for group in groups_of(shown(), REPLIES):
        piece = pack(numbered(group))
        room -= len(piece)
        if room < 0:
            break
        pieces.append(piece)
    return pieces


def texts_of(rows: list[list], numbers: list[int]) -> dict[str, int]:
    """The texts of these rows, each with the number by which a reply names it; long ones first."""
    found: dict[str, int] = {}
    for number in numbers:
        for place, at in enumerate(TEXTS):
            text = rows[number][at]
            if text and len(text) >= SHORTEST:
                found.setdefault(text, number * len(TEXTS) + place)
    return {text: found[text] for text in sorted(found, key=len, reverse=True)}


def in_parts(text: Any, known: dict[str, int]) -> list[str | int] | None:
    """A text as its parts: the numbers of known texts that stand in it, and what is between them.

    >>> in_parts("1. Name a river.\\n2. Name a lake.", {"Name a river.": 6, "Name a lake.": 9})
    ['1. ', 6, '\\n2. ', 9]
    """
    if not isinstance(text, str):
        return None  # a step file that somebody changed
    parts: list[str | int] = [text]
    for one, number in known.items():
        if one not in text:
            continue
        for place, part in enumerate(parts):
            if isinstance(part, str) and one in part:
                before, after = part.split(one, 1)
                parts[place : place + 1] = [before, number, after]
                break
    return [part for part in parts if part != ""]


def numbered(replies: list[list]) -> list[list]:
    """The replies of a piece; of their texts, a part that came before in it is a number."""
    seen: dict[str, int] = {}
    for reply in replies:
        for place in TEXTS_OF_REPLY:
            if reply[place] is not None:
                reply[place] = [named(part, seen) for part in reply[place]]
    return replies


def named(part: str | int, seen: dict[str, int]) -> Any:
    """A part of a text: a number below 0 if it came before, else its lines, or its only line.

    `seen` has the number of each text so far: -1, -2 and so on. A row's number stays.
    """
    if isinstance(part, int):
        return part
    if part in seen:
        return seen[part]
    lines = part.splitlines(keepends=True)
    new = part if len(lines) == 1 else [named(line, seen) for line in lines]
    seen[part] = -1 - len(seen)
    return new


# --------------------------------------------------------------------------------------------------
# Rows: [status, stage, rule, instruction, input, output, is_classification, neighbour, score, cut,
# numbers of replies, id of the task]


@dataclass
class Rows:
    """Makes the rows of a run: what is kept, what was turned away, and what is undone."""

    run: Run
    replies: Replies
    # instruction -> is_classification
    flags: dict[str, bool | None] = field(default_factory=dict)
    # instruction -> the requests of stage 1 that brought it
    sources: dict[str, list[int]] = field(default_factory=dict)
    # (stage, instruction) -> the reply as the step file has it
    texts: dict[tuple, str] = field(default_factory=dict)
    ids: dict[str, str] = field(default_factory=dict)  # instruction -> id of its task
    # (instruction, input, first output) -> the output that another model wrote, and the reverse
    new_outputs: dict[tuple, str] = field(default_factory=dict)
    first_outputs: dict[tuple, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Look up where each instruction came from, and what stages 2 and 3 were told about it."""
        # Every request whose reply holds the instruction, in the order of the requests.
        for request, candidates in sorted(self.replies.candidates.items()):
            for candidate in candidates:
                self.sources.setdefault(candidate, []).append(request)

        # The request that step 1 names comes first.
        for row in self.run.steps.get("generate", []):
            # The page shows the id in a command, so it must be a plain word.
            if re.fullmatch(r"[\w-]{1,60}", str(row.get("id", ""))):
                self.ids.setdefault(row["instruction"], str(row["id"]))
            request = row.get("request_idx")
            others = [n for n in self.sources.get(row["instruction"], []) if n != request]
            self.sources[row["instruction"]] = [request, *others]

        # The answers of the next two stages.
        for stage in ("classify", "instances"):
            for row in self.run.steps.get(stage, []):
                # Of the two, step 2 alone tells what could not be read.
                self.flags.setdefault(row["instruction"], row.get("is_classification"))
                self.texts[stage, row["instruction"]] = row.get("response")

        # What another model wrote again.
        for row in self.run.rewritten:
            if not row["rule"]:
                asked = (row["instruction"], row["input"])
                self.new_outputs[(*asked, row["first_output"])] = row["output"]
                self.first_outputs[(*asked, row["output"])] = row["first_output"]

    def all(self) -> Iterator[list]:
        """All rows, in the order in which the page has them."""
        yield from self.kept()
        yield from self.rejected()
        yield from self.undone()

    def row(
        self,
        status: str,
        stage: str,
        instruction: str,
        pair: tuple[str | None, str | None] = (None, None),
        *,
        rule: str = "",
        evidence: str = "",
        score: float | None = None,
        request: int | None = None,
    ) -> list:
        """One row of the table, in the order of the line above this class.

        `pair` is (input, output). Without `request`, the first one that brought the instruction
        counts.
        """
        # The reply that made the row is the last one.
        numbers = self.numbers(stage, instruction, request)
        last_is_cut = bool(numbers) and numbers[-1] in self.replies.cut
        cut = int(rule == "cut_off" or last_is_cut)

        # The page can do without the end of a very long text.
        texts = [shortened(text) for text in (instruction, *pair)]
        flag = self.flags.get(instruction)
        # What stage 1 turned away is no task, though another text may be the same.
        name = "" if (status, stage) == ("rejected", "generate") else self.ids.get(instruction, "")
        return [status, stage, rule, *texts, flag, evidence, score, cut, numbers, name]

    def numbers(self, stage: str, instruction: str, request: int | None) -> list[int]:
        """The numbers of the replies behind a row, of all stages up to its own."""
        if request is None:
            request = next(iter(self.sources.get(instruction, [])), None)
        found = list(self.replies.to("generate", request))
        last = STAGES.index(stage) if stage in STAGES else len(STAGES) - 1  # the judge comes last
        for before in STAGES[1 : last + 1]:
            text = self.texts.get((before, instruction))
            found += self.replies.to(before, instruction, text)
        return found

    def kept(self) -> Iterator[list]:
        """What the judge kept, and what it said nothing of; without one, what the last stage left.

        Those are instances where there are any, else instructions.
        """
        for row in self.run.judged:
            if not row["rule"]:
                stage = "filter" if row["rule"] is None else "judge"
                texts = (row["input"], row["output"])
                first = self.first_outputs.get((row["instruction"], *texts), "")
                yield self.row("kept", stage, row["instruction"], texts, evidence=first)
        stage = self.run.last
        told = {identity(row["instruction"], row) for row in self.run.judged}
        for row in self.run.steps.get(stage, []):
            for pair in pairs_of(row, stage):
                now = identity(row["instruction"], pair)
                again = (*now[:2], self.new_outputs.get(now))  # what was judged, if rewritten
                if not told & {now, again}:
                    yield self.kept_row(stage, row["instruction"], pair)

    def kept_row(self, stage: str, instruction: str, pair: dict) -> list:
        """A row that the last stage left; with its new output, where it was rewritten."""
        texts = (pair.get("input"), pair.get("output"))
        new = self.new_outputs.get((instruction, *texts))
        if stage != "filter" or new is None:
            return self.row("kept", stage, instruction, texts)
        now = (pair["input"], new)
        return self.row("kept", "rewrite", instruction, now, evidence=pair["output"])

    def rejected(self) -> Iterator[list]:
        """What a rule turned away.

        The rows of stage 1 stand in the order of the requests, so each takes its next source.
        """
        kept = {row["instruction"] for row in self.run.steps.get("generate", [])}
        for row in self.run.rejected:
            # An instance that was cut off is counted in stage 4, though stage 3 noted it. What
            # comes behind stage 4 is not of the run: the judge's rows stand in its own file.
            stage = row["stage"]
            if stage not in STAGES:
                continue
            if (stage, row["rule"]) == ("instances", "cut_off"):
                stage = "filter"

            # Which of several requests brought it is known in stage 1 alone.
            instruction = row["instruction"]
            request = None
            pair = (row.get("input"), row.get("output"))
            if stage == "generate":
                request = self.take_source(instruction, instruction in kept)
                pair = (None, None)  # an instruction has no instance yet
            evidence = row.get("evidence") or ""
            yield self.row(
                "rejected",
                stage,
                instruction,
                pair,
                rule=row["rule"],
                evidence=evidence,
                score=row.get("score") if evidence else None,
                request=request,
            )
        yield from self.rejected_by_judge()

    def rejected_by_judge(self) -> Iterator[list]:
        """What the judge turned away, each with the judge's reason."""
        for row in self.run.judged:
            if row["rule"]:
                pair = (row["input"], row["output"])
                rule, reason = str(row["rule"]), str(row.get("evidence") or "")
                yield self.row(
                    "rejected", "judge", row["instruction"], pair, rule=rule, evidence=reason
                )

    def take_source(self, instruction: str, is_kept: bool) -> int | None:
        """The request that brought an instruction which stage 1 turned away.

        The next call for the same instruction gets another request, as long as there are some.
        """
        # The first request brought the instruction that was kept, if one was.
        requests = self.sources.get(instruction, [])
        spare = requests[1:] if is_kept else requests[:]
        if not spare:
            return requests[0] if requests else None

        # The last one stays, for rows that have no request of their own.
        if len(spare) > 1:
            requests.remove(spare[0])
        return spare[0]

    def undone(self) -> Iterator[list]:
        """Requests without a reply, and tasks that a stage did not reach or got no reply about."""
        # The numbers that are missing among the requests; of others nothing is known.
        known = self.replies.candidates
        lost = min(self.run.counts["generate"].get("undone", 0), MOST_UNDONE)
        missing: list[int | None] = [n for n in range(max(known, default=-1) + 1) if n not in known]
        for request in [*missing, *[None] * lost][:lost]:
            yield self.row("undone", "generate", "", request=request, score=request)

        # The tasks of a stage that the next one lacks.
        for before, stage in pairwise(STAGES[:3]):
            if before in self.run.steps and stage in self.run.steps:
                through = {row["instruction"] for row in self.run.steps[stage]}
                for row in self.run.steps[before]:
                    if row["instruction"] not in through:
                        yield self.row("undone", stage, row["instruction"])


def identity(instruction: str, pair: dict) -> tuple:
    """What tells one row of the dataset from another."""
    return instruction, pair.get("input"), pair.get("output")


def pairs_of(row: dict, stage: str) -> list[dict[str, Any]]:
    """The instances of a row of a step file; before stage 3, an empty one."""
    if stage == "filter":
        return [row]
    if stage == "instances":
        return row.get("instances") or []
    return [{}]


def shortened(text: str | None) -> str | None:
    """The text, or its first LONGEST characters and an ellipsis."""
    if text and len(text) > LONGEST:
        return text[:LONGEST] + "…"
    return text
