"""The four stages of one task, put on a page: prompt, reply, what was read, which rule decided."""

from __future__ import annotations

if __name__ == "__main__":  # a part, no program: said before an import fails
    raise SystemExit(
        "stages.py is a part of scripts/explain.py: run  python scripts/explain.py --help"
    )

import math
import re
from dataclasses import dataclass
from functools import cache
from typing import Any

from rich.text import Text

import self_instruct_workshop as workshop
from scripts.explaining import page as layout
from scripts.explaining.compare import Piece, common, pieces
from scripts.explaining.lookup import Candidate, Story, stage_reply
from scripts.explaining.page import CUT, KEPT, REJECTED, SAME, Page, marked, safe
from self_instruct_workshop import Reply, Task

# Lines of a prompt that are shown when its fixed part is folded: at its beginning, and at its end.
PROMPT_HEAD = {"generate": 2, "classify": 1, "lists": 1, "instances": 1}
PROMPT_TAIL = 3
REPLY_LINES = 6  # of a reply, and of a field of a row
LISTED = 5  # candidates beside the one that is shown, and their rules
MOST_PROBED = 400  # words with which the limit of a length rule is looked for


@dataclass
class Teller:
    """Puts a story on a page, in the words of one language."""

    story: Story
    page: Page
    words: dict[str, Any]
    rules: dict[str, str]  # rule -> what it says

    def say(self, name: str, **values: object) -> str:
        """A sentence of the page, with its values filled in."""
        return self.words[name].format(**values)

    def rule_words(self, rule: str) -> str:
        """A rule in words, and its name as the files have it."""
        return f"{self.rules.get(rule, rule)} ({rule})"

    @property
    def mark(self) -> str:
        return self.words["mark_colour" if self.page.colour else "mark"]

    def put_note(self, text: str) -> None:
        self.page.put("note", text, layout.ASIDE)

    # ----------------------------------------------------------------------------------------------
    # Prompts and replies.

    def put_prompt(self, kind: str, record: dict, fresh: str, wanted: str = "") -> None:
        """A prompt with its fixed part folded, and of the rest its beginning and its end.

        `fresh` is another prompt of this kind, for a run that has sent no other. The line with
        `wanted` is shown wherever it stands.
        """
        if not record.get("prompt"):
            self.page.put("prompt", self.words["no_prompt"], layout.ASIDE)
            return
        prompt = workshop.as_text(record["prompt"])
        lines = layout.folded_lines(
            prompt.split("\n"), self.fixed_lines(kind, prompt, fresh, wanted), self.words
        )
        own = [n for n, line in enumerate(lines) if wanted and safe(wanted) in line.plain]
        if own and len(lines) - own[-1] > PROMPT_TAIL:
            shown = layout.capped(lines, PROMPT_TAIL, own[-1], self.words)
        else:
            shown = layout.both_ends(lines, PROMPT_HEAD[kind], PROMPT_TAIL, self.words)
        self.page.put_all("prompt", [layout.first_line(line, self.page.room) for line in shown])

    def fixed_lines(self, kind: str, prompt: str, fresh: str, wanted: str) -> set[str]:
        """The lines of a prompt that stand in all others of its kind."""
        lines = prompt.split("\n")
        others = [other for other in self.story.others[kind] if other != prompt]
        # Input-first and output-first are different questions of one stage.
        if kind == "instances":
            others = [other for other in others if other.split("\n")[0] == lines[0]]
        fixed = set(lines).intersection(*(other.split("\n") for other in others or [fresh]))
        return fixed - set(wanted.split("\n"))

    def ended(self, record: dict) -> str:
        """How a reply ended, and how long it is."""
        finish = workshop.one_line(str(record.get("finish_reason") or "?"))
        tokens = workshop.token_count(record.get("reply_tokens"))
        if tokens:
            return self.say("ended", finish=finish, tokens=tokens)
        return self.say("ended_bare", finish=finish)

    # ----------------------------------------------------------------------------------------------
    # Stage 1.

    def stage_1(self, every: bool) -> None:
        """The request that brought the candidate; `every` candidate of it in detail, or one."""
        story = self.story
        if not story.request:
            self.page.heading(self.words["generate_alone"])
            self.page.put("reply", self.words["no_reply"], layout.ASIDE)
            self.put_candidate(story.candidate)
            return
        self.page.heading(self.say("generate", n=story.request["request_idx"]))
        fresh = workshop.instruction_prompt(story.config, story.run.seeds, [], -1)
        self.put_prompt("generate", story.request, fresh)
        self.put_list(every)
        detailed = story.brothers if every else [story.candidate]
        for candidate in detailed:
            if every:
                self.page.blank()
            self.put_candidate(candidate)

    def put_list(self, every: bool) -> None:
        """The reply, cut into its candidates, each with its sign.

        What was cut away is marked in the chosen one, or in `every` one.
        """
        story = self.story
        reply = safe(stage_reply(story.request, story.config).text)
        found = pieces(reply, [safe(one.text) for one in story.brothers])
        shown = []
        for piece, one in zip(found, story.brothers, strict=False):
            shown += self.listed(piece, one, every)
        for piece in found[len(story.brothers) :]:
            shown.append(Text("x ") + self.raw(piece))
        if not every:
            own = [n for n, line in enumerate(shown) if line.plain.startswith("> ")]
            shown = layout.capped(shown, LISTED, own[0] if own else 0, self.words)
        shown.append(Text(self.ended(story.request), layout.ASIDE))
        self.page.put_all("reply", shown, hang=2)

    def listed(self, piece: Piece, one: Candidate, every: bool) -> list[Text]:
        """A candidate's part of the reply on one line or more, and the rule that turned it away."""
        chosen = one is self.story.candidate
        sign = "+" if one.task else "-" if one.rule else "?"
        raw = self.raw(piece)
        # One line is enough where nothing is marked: the candidate stands in full below.
        if not every and not (chosen and piece.is_news):
            raw = layout.first_line(Text(raw.plain), self.page.room - 4)
        head = Text("> " if chosen else f"{sign} ", "bold" if chosen else "")
        lines = [Text.assemble(head, raw)]
        if one.rule and not chosen:
            lines.append(Text(f"    {self.why(one)}", REJECTED))
        return lines

    def raw(self, piece: Piece) -> Text:
        """A part of a reply with what was cut away marked; where only a number was, as it is."""
        raw = piece.raw or piece.text
        spans = piece.cut if self.page.colour or piece.is_news else []
        lines = [line for line in layout.trimmed(marked(raw, spans, CUT)).split("\n") if line]
        return Text("\n").join(layout.capped(lines, REPLY_LINES, len(lines) - 1, self.words))

    def put_candidate(self, one: Candidate) -> None:
        """A candidate beside its nearest neighbour, the score, and the rule that decided."""
        limit = f"{self.story.config.rouge_threshold:g}"
        text = safe(one.text)
        if one.near:
            near = safe(one.near)
            found = common(text, near, self.story.config.recipe)
            self.page.put("candidate", marked(text, found.here, SAME))
            self.page.put("nearest", marked(near, found.there, SAME))
            (a, b), n = found.tokens, found.length
            values = {"score": f"{one.score or 0:.2f}", "limit": limit, "mark": self.mark}
            self.page.put("score", self.say("score_line", common=n, a=a, b=b, **values))
        else:
            self.page.put("candidate", text)
        if one.task:
            self.page.put("rule", self.words["kept"], KEPT)
        elif one.rule:
            # The line above has the score already.
            why = self.rule_words(one.rule) if one.rule == "too_similar" else self.why(one)
            self.page.put("rule", self.say("rejected", why=why), REJECTED)
        else:
            self.page.put("rule", self.words["not_known"], layout.ASIDE)

    def why(self, one: Candidate) -> str:
        """The rule that turned a candidate away, and how near it was."""
        measured = self.measured(one.rule, one.text)
        if one.rule == "too_similar" and one.score is not None:
            limit = f"{self.story.config.rouge_threshold:g}"
            measured = self.say("score_only", score=f"{one.score:.2f}", limit=limit)
        return self.words["join"].join(filter(None, [self.rule_words(one.rule), measured]))

    def measured(self, rule: str, text: str) -> str:
        """A length beside its limit, or the words that a pattern found; "" for other rules."""
        recipe = self.story.config.recipe
        tokens = workshop.tokenize(text, recipe=recipe)
        plain = workshop.RECIPES[recipe].continues_text
        if rule == "too_short":
            n = len(text.split()) if plain else len(tokens)
            return self.say("measure_least", n=n, limit=shortest(recipe))
        if rule == "too_long":
            n = len(text.split()) if plain else workshop.count_words(tokens)
            return self.say("measure_most", n=f"{n:g}", limit=longest(recipe))
        if rule in workshop.RULES and not plain:
            found = workshop.patterns(rule).search(text)
            if found and found[0].strip():
                return self.say("measure_found", found=workshop.one_line(found[0].strip(), 60))
        return ""

    # ----------------------------------------------------------------------------------------------
    # Stage 2.

    def stage_2(self) -> None:
        """The question, the reply, the options read out of it, and what that decides."""
        self.page.heading(self.words["classify"])
        row = self.story.row("classify")
        if not row:
            self.put_note(self.words["undone"])
            return
        record = self.classify_record(row)
        if record and record.get("instructions"):
            self.put_listed_question(record)
        elif record:
            fresh = workshop.as_text(workshop.classify_prompt(self.story.config, "-"))
            self.put_prompt("classify", record, fresh, row["instruction"])
            self.put_reply(str(record["text"]), record)
        self.put_agreement()
        self.put_options(row)

    def classify_record(self, row: dict) -> dict | None:
        """The record that step 2 was read from: the question alone, or else the list."""
        records = self.story.asked["classify"]
        single = [one for one in records if not one.get("instructions")]
        used = [one for one in single if one["text"] == row.get("response")] or single
        if used and len(records) > len(single):
            self.put_note(self.words["list_unused"])
        lists = [one for one in records if one.get("instructions")]
        return next(iter([*used[-1:], *lists[-1:]]), None)

    def put_listed_question(self, record: dict) -> None:
        """A list of questions, and of the reply the lines around the task's own."""
        story = self.story
        place = record["instructions"].index(story.candidate.text) + 1
        from scripts.asking import together

        fresh = workshop.as_text(together.together_prompt(story.config, ["-", "-"]))
        self.put_prompt("lists", record, fresh, f"{place}. {story.candidate.text}")
        self.put_note(self.say("in_list", n=len(record["instructions"])))
        lines = str(record["text"]).split("\n")
        own = [n for n, line in enumerate(lines) if re.match(rf"\D*{place}\b", line)]
        shown = [Text(safe(line)) for line in lines]
        self.page.put_all("reply", layout.capped(shown, 3, own[0] if own else 0, self.words))

    def put_reply(self, text: str, record: dict) -> None:
        """A reply as it came, at most REPLY_LINES of it."""
        self.put_lines(Text(safe(text)), record)

    def put_lines(self, text: Text, record: dict) -> None:
        """The lines of a reply that are not blank, at most REPLY_LINES, and how it ended."""
        lines = [line for line in layout.wrap(text, self.page.room) if line.plain.strip()]
        shown = layout.capped(lines or [Text("")], REPLY_LINES, 0, self.words)
        self.page.put_all("reply", [*shown, Text(self.ended(record), layout.ASIDE)])

    def put_agreement(self) -> None:
        """How often the model agrees with people; without that, its answers decide nothing."""
        agreement = self.story.run.summary.get("agreement") or {}
        asked = agreement.get("asked", 0)
        if asked:
            least = math.ceil(workshop.TRUSTED * asked)
            name = "trusted" if agreement.get("trusted") else "untrusted"
            values = {"same": agreement.get("same", 0), "asked": asked, "least": least}
            self.put_note(self.say(name, **values))

    def put_options(self, row: dict) -> None:
        """The options of a reply, how many of them the task names, and the decision."""
        recipe = workshop.RECIPES[self.story.config.recipe]
        labels = recipe.read_labels(str(row.get("response") or "")) or []
        if labels:
            self.page.put("answer", ", ".join(labels))
            named = sum(workshop.is_option_of(row["instruction"], label) for label in labels)
            self.page.put("", self.say("named", n=named, all=len(labels)))
        flag = row.get("is_classification")
        name = {True: "is_true", False: "is_false"}.get(flag, "is_null")
        self.page.put("rule", self.words[name], KEPT if flag is not None else layout.ASIDE)

    # ----------------------------------------------------------------------------------------------
    # Stage 3.

    def stage_3(self) -> None:
        """The question, a second try where there was one, the instances, and second answers."""
        self.page.heading(self.words["instances"])
        row = self.story.row("instances")
        records = {one.get("sample") or 0: one for one in self.story.asked["instances"]}
        if not row:
            self.put_note(self.words["undone"])
            return
        task = self.task()
        first = records.get(0, {"text": row.get("response") or "", "finish_reason": ""})
        fresh = workshop.instances_prompt(self.story.config, Task("", "-", task.is_classification))
        self.put_prompt("instances", first, workshop.as_text(fresh), task.instruction)
        record = first
        if row.get("first_problem") and 1 in records:
            # Only what was added to the prompt is new.
            self.put_reply(str(first["text"]), first)
            self.put_note(self.say("second_try", why=self.rule_words(row["first_problem"])))
            record = records[1]
            asked = workshop.as_text(record["prompt"][-1:]).split("\n")
            self.page.put("again", asked[0])
        self.put_instances(task, record)
        self.put_second_answers(task, record, records)

    def task(self) -> Task:
        """The task as stage 3 met it."""
        row = self.story.row("classify")
        flag = row.get("is_classification")
        notes = {"classify": {"labels": row.get("labels") or []}}
        return Task("", self.story.candidate.text, flag, notes=notes)

    def put_instances(self, task: Task, record: dict) -> None:
        """The reply, with what the parser left of it, and how many instances that is."""
        config = self.story.config
        reply = self.instance_reply(task, record)
        whole, cut_off = workshop.read_instances(config, task, reply)
        pairs = [*whole, *cut_off]
        text = safe(reply.text)
        found = self.instance_pieces(text, pairs)
        news = any(piece.is_news for piece in found)
        shown = Text("").join(self.raw_field(piece, news) for piece in found) or Text(text)
        self.put_lines(shown, record)
        mark = self.words["mark_colour"] if self.page.colour else "x"
        name = "instances_read" if news else "instances_plain"
        self.page.put("answer", self.say(name, n=len(pairs), mark=mark))

    def instance_reply(self, task: Task, record: dict) -> Reply:
        """A record's reply, ended where the recipe ends it."""
        text = str(record["text"])
        reply = Reply(text, record.get("finish_reason", ""), prompt=record.get("prompt", ""))
        labelled = bool(task.is_classification)
        sampling = workshop.parameters(self.story.config, "instances", labelled)
        reply.stop_at(sampling.get("stop", []))
        return reply

    def instance_pieces(self, reply: str, pairs: list[tuple[str, str]]) -> list[Piece]:
        """The reply cut behind each input and output, in the order in which they stand there."""
        best: list[Piece] = []
        for order in ((0, 1), (1, 0)):
            texts = [safe(pair[i]) for pair in pairs for i in order if pair[i].strip()]
            found = pieces(reply, texts)
            if all(piece.raw for piece in found):
                return found
            best = best or found
        # The parser put something together: nothing is marked.
        return [Piece(reply, [], reply)] if best else []

    def raw_field(self, piece: Piece, news: bool) -> Text:
        """A part of a reply; field names are marked too where something else was cut away."""
        spans = piece.cut if self.page.colour or news else []
        return marked(piece.raw, spans, CUT)

    def put_second_answers(self, task: Task, record: dict, records: dict[int, dict]) -> None:
        """The answers that were asked for twice, each beside the first one."""
        config = self.story.config
        whole, _ = workshop.read_instances(config, task, self.instance_reply(task, record))
        labels = workshop.labels_of(task)
        for number, (_, target) in enumerate(whole):
            again = records.get(workshop.ANSWERS + number)
            if not again:
                continue
            cut = again.get("finish_reason") == "length"
            second = "" if cut else workshop.without_thinking(str(again["text"])).strip()
            agree = bool(second) and workshop.same_answer(target, second, labels)
            name = "same" if agree else "differs" if second else "says_nothing"
            n = workshop.count_words(workshop.tokenize(target))
            values = {"n": f"{n:g}", "limit": workshop.SHORT, "same": self.words[name]}
            shown = workshop.one_line(second or str(again["text"]), 200)
            style = KEPT if agree else REJECTED if second else layout.ASIDE
            self.page.put("again", self.say("second", again=shown, **values), style)

    # ----------------------------------------------------------------------------------------------
    # Stage 4.

    def stage_4(self) -> None:
        """Each instance with the rule that turned it away, or the row that it became."""
        self.page.heading(self.words["filter"])
        story = self.story
        turned_away = [*story.rejected("instances"), *story.rejected("filter")]
        for row in turned_away:
            self.put_rejected(row)
        for row in story.rows:
            self.page.put("rule", self.words["kept_row"], KEPT)
            for name in ("instruction", "input", "output"):
                self.put_field("row" if name == "instruction" else "", name, row[name])
        if not turned_away and not story.rows:
            self.put_note(self.words["nothing"])

    def put_field(self, label: str, name: str, value: str | None) -> None:
        """A field of a row with its name, at most REPLY_LINES of it."""
        text = Text.assemble((f"{name}: ", "bold"), safe(value or self.words["empty"]))
        # The instruction stands in full at the top of the page.
        if name == "instruction":
            text = layout.first_line(text, self.page.room)
        lines = layout.wrap(text, self.page.room)
        self.page.put_all(label, layout.capped(lines, REPLY_LINES, 0, self.words))

    def put_rejected(self, row: dict) -> None:
        """An instance that a rule turned away, and what the rule saw."""
        if row["rule"] != "no_instance":
            self.put_field("instance", "input", row.get("input"))
            self.put_field("", "output", row.get("output"))
        why = self.rule_words(row["rule"])
        if row.get("evidence"):
            text = workshop.one_line(row["evidence"], 200)
            why += self.words["join"] + self.say("evidence", text=text)
        self.page.put("rule", self.say("rejected", why=why), REJECTED)

    # ----------------------------------------------------------------------------------------------
    # The top of the page.

    def top(self) -> None:
        """What is shown, how it ends, and of which run it is."""
        one = self.story.candidate
        run = self.story.run
        kind = "kept" if one.task else "rejected" if one.rule else "unknown"
        self.page.title(self.say(f"title_{kind}", id=one.task.get("id", "")))
        self.page.put("candidate", one.text, "bold")
        if one.task:
            turned_away = [*self.story.rejected("instances"), *self.story.rejected("filter")]
            values = {"n": len(self.story.rows), "rejected": len(turned_away)}
            self.page.put("ends", self.say("ends_rows", **values))
        elif one.rule:
            self.page.put("ends", self.say("ends_rejected", why=self.why(one)))
        names = {name: run.settings.get(name, "?") for name in ("model", "provider", "recipe")}
        line = self.say("run_line", folder=run.folder, **names)
        self.page.put("run", workshop.one_line(line, 400), layout.ASIDE)


@cache
def shortest(recipe: str) -> int:
    """The fewest words that the rule `too_short` lets through: the rule itself is asked."""
    return next(n for n in range(1, MOST_PROBED) if length_rule(n, recipe) != "too_short")


@cache
def longest(recipe: str) -> int:
    """The most words that the rule `too_long` lets through."""
    return next(n for n in range(1, MOST_PROBED) if length_rule(n, recipe) == "too_long") - 1


def length_rule(n: int, recipe: str) -> str:
    return workshop.instruction_problem(" ".join(["word"] * n), recipe=recipe)
