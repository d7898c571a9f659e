"""Ask a model the paper's three questions about each row, and keep the rows that it finds good.

    python scripts/judge.py --provider openai --model gpt-4.1 --estimate
                    what it takes; asks nothing
    python scripts/judge.py --provider openai --model gpt-4.1 --calibrate review-ana.csv
                    first the rows of a filled review sheet: does the judge agree with a person?
    python scripts/judge.py --provider local --base-url http://localhost:8000/v1
                    a local model; seconds a row on a small machine

Valid task? Input fits? Output right? Each answer has a reason before it, in one sentence. The
dataset is step5_rewritten.jsonl beside step4_final.jsonl where it is there and not older.

    judged.jsonl          all rows with the answers: yes, no, or null where none could be read
    step6_judged.jsonl    the rows with yes to each question of --keep
    rejected.jsonl        the others, with the judge's reason, behind the rows of the run
    judge.json            who judged, the counts, and how far the judge can be trusted

A judge may be no better than dice. So rows with the output of another row are mixed into the
questions. Unless the judge calls four in five of these wrong, and clearly more often than the
others, no row is kept or dropped in its name. It tells more with --calibrate: planted faults are
gross, and people's sheets are about the rows as they are.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import self_instruct_workshop as workshop
from scripts.asking import per_row
from scripts.asking.parser import Parser
from scripts.asking.per_row import Question, RowModel
from scripts.judging import asked, trust
from scripts.judging.asked import Row, Verdict
from scripts.judging.trust import Calibration, Probes
from scripts.review import QUESTIONS, WORDS, Sheet, left, read_sheet, right
from self_instruct_workshop import Config, UsageError, WorkshopError, one_line

STAGE = "judge"
STEP_5 = "step5_rewritten.jsonl"
STEP_6 = "step6_judged.jsonl"
JUDGED = "judged.jsonl"
RECORD = "judge.json"
SHORT = {"valid": "valid_task", "input": "input_fits", "output": "output_right"}  # --keep
RULES = {
    "valid_task": "judge_invalid_task",
    "input_fits": "judge_input_unfit",
    "output_right": "judge_output_wrong",
}
UNREAD = "judge_unread"
NOT_PLANTED = "no fault could be planted: the rows are too few, or their outputs too much alike"
REPLY = 90  # tokens in a reply, about
LONGEST_REPLY = 400  # tokens

Verdicts = dict[str, Verdict]  # id of a row -> what the judge said; rows without a reply lack


@dataclass
class Judged:
    """What came of the questions."""

    rows: list[Row]
    verdicts: Verdicts
    probes: Probes
    calibrations: list[Calibration]
    keep: tuple[str, ...]  # the questions that a kept row has a yes to
    doubt: str  # why nothing is kept or dropped; "" where the judge is trusted
    stopped: bool  # whether, after the sheets' rows, no others were asked about

    def rule(self, row: Row) -> str | None:
        """The rule that drops a row, "" where it is kept; None where nothing is decided."""
        if self.doubt or row["id"] not in self.verdicts:
            return None
        return rule_for(self.verdicts[row["id"]], self.keep)

    def counts(self) -> dict:
        """rows = kept + rejected + undone + not asked + not decided."""
        rules = [self.rule(row) for row in self.rows]
        missing = sum(row["id"] not in self.verdicts for row in self.rows)
        return {
            "rows": len(rules),
            "kept": rules.count(""),
            "rejected": Counter(rule for rule in rules if rule),
            "undone": 0 if self.stopped else missing,
            "not_asked": missing if self.stopped else 0,
            "not_decided": rules.count(None) - missing,
        }

    def answers(self) -> dict[str, Counter]:
        """question -> how many rows have yes, no, and no answer that could be read."""
        names = {True: "yes", False: "no", None: "unread"}
        found = {question: Counter(dict.fromkeys(names.values(), 0)) for question in QUESTIONS}
        for row in self.rows:
            verdict = self.verdicts.get(row["id"])
            for question in QUESTIONS if verdict else ():
                found[question][names[verdict.answers[question]]] += 1
        return found


def rule_for(verdict: Verdict, keep: tuple[str, ...]) -> str:
    """The first no to a question of `keep`, else an answer that could not be read; or ""."""
    answers = {question: verdict.answers[question] for question in keep}
    for question, yes in answers.items():
        if yes is False:
            return RULES[question]
    return UNREAD if None in answers.values() else ""


# --------------------------------------------------------------------------------------------------
# The whole of it.


def judge(options: argparse.Namespace, _: Config | None = None) -> int:
    """Ask about all rows, and write what came of it. Return the exit code."""
    # What goes in; and nothing of the user's stands where files will be written.
    options.data = options.data or newest_data(Path(Config.work_dir))
    rows = per_row.read_rows(options.data)
    sheets = read_sheets(options.calibrate, rows, options.data)
    check_outputs(options.data)
    planted = trust.plant(rows, options.probes, options.seed)

    # Planted rows stand among the others: a run that breaks off has asked about both.
    mixed = [*rows, *planted]
    random.Random(options.seed).shuffle(mixed)
    with per_row.asking(options, STAGE, practise) as model:
        say_who(model, options)
        questions = questions_about(model, mixed)
        if not per_row.go_on(model, options, [*questions.values()], REPLY):
            return 0 if options.estimate else 1
        judged = ask_all(model, options, rows, questions, sheets)
        write(model, options, judged)
        return say(model, options, judged)


def ask_all(
    model: RowModel,
    options: argparse.Namespace,
    rows: list[Row],
    questions: dict[str, Question],
    sheets: list[tuple[Path, Sheet]],
) -> Judged:
    """Ask about the rows of people's sheets, and, if the judge agrees, about all others."""
    # The sheets' rows first: where it does not agree with people, the rest is not paid for.
    wanted = {row_id for _, sheet in sheets for row_id in sheet}
    first = {row_id: questions[row_id] for row_id in questions if row_id in wanted}
    verdicts = verdicts_of(model, first)
    said = trust.judge_sheet(verdicts, rows)
    calibrations = [Calibration(path, sheet, said, options.keep) for path, sheet in sheets]
    for calibration in calibrations:
        workshop.show(calibration.text(workshop.spoken) + "\n")
    doubts = [doubt_of_people(calibrations)]

    # All others, among them the planted ones.
    stopped = bool(doubts[0]) and not options.anyway
    if not stopped:
        rest = {row_id: questions[row_id] for row_id in questions if row_id not in first}
        verdicts |= verdicts_of(model, rest)
    probes = probes_of(verdicts, rows, questions)
    if options.probes and not stopped:
        doubts.append(doubt_of_probes(probes, verdicts, questions))
    elif not options.probes and probes.rows > 1 and probes.side:
        doubts.append(tells_nothing(probes))
    doubts = [doubt for doubt in doubts if doubt]
    if options.anyway:
        for doubt in doubts:
            workshop.tell(f"notice: {doubt}; --anyway goes on")
        doubts = []
    return Judged(rows, verdicts, probes, calibrations, options.keep, "; ".join(doubts), stopped)


# --------------------------------------------------------------------------------------------------
# What goes in.


def newest_data(folder: Path) -> Path:
    """The rewritten dataset where there is one that is not older, else the dataset; say which."""
    data = folder / workshop.STEP_FILES[3]
    rewritten = folder / STEP_5
    if not rewritten.is_file():
        return data
    if data.is_file() and not is_of(rewritten, data):
        problem = f"{rewritten.name} is older than {data.name}, and is not judged"
        workshop.tell(f"notice: {problem}: run rewrite.py again, or give --data")
        return data
    workshop.tell(f"notice: {rewritten.name} is judged (--data {data} is the other)")
    return rewritten


def is_of(rewritten: Path, data: Path) -> bool:
    """Whether the rewritten dataset was made of the dataset that stands there now.

    rewrite.json has the digest of what was rewritten; without it, the times of the files tell.
    """
    made_of = workshop.read_record(rewritten.with_name("rewrite.json")).get("data")
    if isinstance(made_of, dict) and "sha256" in made_of:
        return made_of["sha256"] == per_row.digest_of(data)
    return rewritten.stat().st_mtime >= data.stat().st_mtime


def read_sheets(paths: list[Path], rows: list[Row], data: Path) -> list[tuple[Path, Sheet]]:
    """People's sheets, each with its rows of this dataset. Raises WorkshopError."""
    sheets = []
    for path in paths:
        sheet = read_sheet(path)
        ids = {row["id"] for row in rows} & {*sheet}
        if not ids:
            command = workshop.program_command("scripts/review.py", "sample", "--data", str(data))
            raise UsageError(f"{path} has no row of {data}: a sheet of it is made by  {command}")
        if len(ids) < len(sheet):
            others = f"{len(sheet) - len(ids)} of {len(sheet)} rows of {path}"
            workshop.tell(f"notice: {others} are not in {data}")
        sheets.append((path, {row_id: row for row_id, row in sheet.items() if row_id in ids}))
    return sheets


def check_outputs(data: Path) -> None:
    """Raise UsageError where a file of the user's would be replaced."""
    names = [JUDGED, STEP_6]
    if data.name in (*names, RECORD, "rejected.jsonl"):
        problem = f"--data {data} has a name that this program writes"
        raise UsageError(f"{problem}: give the file that was judged, or rename it")
    per_row.check_outputs(data.with_name(RECORD), names)


def say_who(model: RowModel, options: argparse.Namespace) -> None:
    """Set what this server takes; say where the judge is no good one by what it is."""
    # DashScope's own endpoint knows no such schema; practice has no server.
    if model.provider.send is workshop.send_openai:
        model.settings |= asked.reply_shape(model.config.language)
    if model.name == "practice":
        text = "the practice model is no judge: it looks rows up in its bank, and slips on purpose"
        workshop.tell(f"notice: {text}")
    elif model.model in writers(options.data):
        who = f"{one_line(model.model, 40)} wrote these rows, too, and a model likes its own"
        workshop.tell(f"notice: {who}: another one judges better")


def writers(data: Path) -> set[str]:
    """The models that wrote the rows of a dataset, as the records beside it say."""
    found = set()
    settings = workshop.earlier_run(data.parent).get("settings")
    if isinstance(settings, dict):
        found |= {settings.get("instances_model") or settings.get("model")}
    if data.name == STEP_5:
        found.add(workshop.read_record(data.with_name("rewrite.json")).get("model"))
    return {name for name in found if isinstance(name, str)}


# --------------------------------------------------------------------------------------------------
# Asking.


def questions_about(model: RowModel, rows: list[Row]) -> dict[str, Question]:
    """id -> the question about a row. A row that stands there twice is asked about once."""
    language = model.config.language
    questions = {}
    for row in rows:
        prompt = asked.judge_prompt(row, language)
        questions[row["id"]] = Question(prompt, row["instruction"])
    return questions


def verdicts_of(model: RowModel, questions: dict[str, Question]) -> Verdicts:
    """What the judge says to each question. What cannot be read is asked once more.

    The second question shows the first reply: the same one again would get the same reply.
    """
    # The first round.
    language = model.config.language
    verdicts = {}
    again = {}
    replies = per_row.ask(model, [*questions.values()])
    for (row_id, question), reply in zip(questions.items(), replies, strict=True):
        if reply is None:
            continue
        verdicts[row_id] = asked.read_reply(reply.text, language)
        if not verdicts[row_id].is_whole:
            prompt = asked.second_prompt(question.prompt, reply.text, language)
            again[row_id] = Question(prompt, question.instruction, 1)

    # The second: what is clear by then stays. Without a reply, the row is asked about next time.
    replies = per_row.ask(model, [*again.values()])
    for row_id, reply in zip(again, replies, strict=True):
        if reply is None:
            del verdicts[row_id]
        else:
            verdicts[row_id].complete(asked.read_reply(reply.text, language))
    return verdicts


def practise(rng: random.Random, prompt: workshop.Prompt) -> str:
    """The practice model's reply, in the language of the prompt."""
    header = asked.words_of("zh")["header"]
    language = "zh" if prompt[0]["content"].startswith(header) else "en"
    return asked.practice_reply(language, rng, prompt)


# --------------------------------------------------------------------------------------------------
# Is the judge to be trusted?


def probes_of(verdicts: Verdicts, rows: list[Row], questions: dict[str, Question]) -> Probes:
    """How often it called planted outputs wrong, and those of the rows."""
    ids = {row["id"] for row in rows}
    planted = [row_id for row_id in questions if row_id not in ids]
    sides = [
        [verdicts[row_id].answers[trust.OUTPUT] for row_id in side if row_id in verdicts]
        for side in (planted, sorted(ids))
    ]
    return trust.probes_of(*sides)


def doubt_of_probes(probes: Probes, verdicts: Verdicts, questions: dict[str, Question]) -> str:
    """Why the judge tells nothing; "" where it tells planted faults from the other rows."""
    if probes.tells:
        return ""
    missing = len(questions) - len(verdicts)
    if missing:
        return f"{missing} of {len(questions)} questions have no reply: too little to go by"
    if not probes.planted + probes.rows:
        return "the judge tells nothing: no answer about an output can be read"
    if not any(row_id.startswith("planted_") for row_id in questions):
        return NOT_PLANTED
    if probes.p < trust.SURE:
        missed = probes.planted - probes.found
        return f"the judge misses {missed} of {probes.planted} planted faults, gross as they are"
    return tells_nothing(probes)


def tells_nothing(probes: Probes) -> str:
    same = f"says {probes.side} to every output" if probes.side else ""
    return f"the judge tells nothing: it {same or probes}"


def doubt_of_people(calibrations: list[Calibration]) -> str:
    """Why no row may be dropped; "" where the judge agrees with people, or nobody asked."""
    for calibration in calibrations:
        value = calibration.kappa
        name = calibration.path.name
        if value is None:
            why = "one of both said the same everywhere, or nothing"
            workshop.tell(f"notice: kappa with {name} cannot tell: {why}")
        elif value < trust.POOR:
            limit = f"{trust.POOR} is the least"
            return f"the judge agrees with {name} at kappa {value:.2f} on what to keep, and {limit}"
        elif value < trust.FAIR:
            text = f"kappa with {name} is {value:.2f} on what to keep, below {trust.FAIR}"
            workshop.tell(f"warning: {text}: many rows go for no good reason")
    return ""


# --------------------------------------------------------------------------------------------------
# What comes out.


def write(model: RowModel, options: argparse.Namespace, judged: Judged) -> None:
    """Write the files. Where the judge is not trusted, nothing is kept or dropped in its name."""
    # All rows that have a reply, each with its answers.
    folder = options.data.parent
    record = folder / RECORD
    answered = [row for row in judged.rows if row["id"] in judged.verdicts]
    files = {JUDGED: [judged_row(model, judged, row) for row in answered]}

    # The kept ones; an earlier file of ours would be of another judge.
    if not judged.doubt:
        files[STEP_6] = [texts_of(row) for row in judged.rows if judged.rule(row) == ""]
    elif STEP_6 in per_row.our_files(record):
        (folder / STEP_6).unlink(missing_ok=True)

    # The others, and the record, which names all that is ours.
    rejected = [rejected_row(judged, row) for row in judged.rows if judged.rule(row)]
    per_row.replace_rejected(folder, STAGE, rejected)
    per_row.write_files(record, files, record_of(model, options, judged))


def texts_of(row: Row) -> dict[str, str]:
    """The three texts of a row: the shape of the dataset."""
    return {name: row[name] for name in workshop.COLUMNS}


def judged_row(model: RowModel, judged: Judged, row: Row) -> dict:
    """A row of judged.jsonl. `rule`: what dropped it, "" where it is kept, null: not decided."""
    verdict = judged.verdicts[row["id"]]
    reasons = {question: verdict.reasons.get(question, "") for question in QUESTIONS}
    said = {**verdict.answers, "reasons": reasons, "rule": judged.rule(row)}
    said |= {"evidence": evidence(judged, row), "model": model.model}
    return {"id": row["id"], **texts_of(row), **said}


def rejected_row(judged: Judged, row: Row) -> dict:
    """A row of rejected.jsonl: the evidence is the judge's reason."""
    named = {"stage": STAGE, "rule": judged.rule(row)}
    return {**named, **texts_of(row), "evidence": evidence(judged, row), "score": 0.0}


def evidence(judged: Judged, row: Row) -> str:
    """Why a rule dropped a row: the judge's reason, or the start of a reply that was not read."""
    rule = judged.rule(row)
    verdict = judged.verdicts[row["id"]]
    reasons = [verdict.reasons.get(name, "") for name in RULES if RULES[name] == rule]
    return reasons[0] if reasons else verdict.said if rule else ""


def record_of(model: RowModel, options: argparse.Namespace, judged: Judged) -> dict:
    """judge.json: whose judgement it is, of which data, and how far it can be trusted."""
    return {
        "status": judged.doubt or ("undone" if model.undone else "complete"),
        "data": options.data.name,
        "data_sha256": per_row.digest_of(options.data),
        "keep": list(judged.keep),
        "counts": judged.counts(),
        "answers": judged.answers(),
        "probes": judged.probes.record(),
        "calibration": [calibration.record() for calibration in judged.calibrations],
        "anyway": options.anyway,
        "copied_reasons": sum(verdict.copied for verdict in judged.verdicts.values()),
        "wrote_the_rows": sorted(writers(options.data)),
        **per_row.paid(model),
    }


def say(model: RowModel, options: argparse.Namespace, judged: Judged) -> int:
    """Print what came of it; return the exit code. Raises WorkshopError where nothing did."""
    # What it answered, and how it did on planted faults.
    say_it = workshop.spoken
    who = one_line(model.model)
    lines = [say_it(f"{len(judged.rows)} rows of {options.data.name}, judged by {who}")]
    heads = [right(say_it(name), 8) for name in ("yes", "no", "unread")]
    lines.append(f"{'':<50}{''.join(heads)}")
    for question, answers in judged.answers().items():
        numbers = "".join(f"{answers[name]:>8}" for name in ("yes", "no", "unread"))
        lines.append(left(say_it(WORDS["en"][question]), 50) + numbers)
    if judged.probes.planted:
        lines += judged.probes.lines(say_it)
    elif not judged.stopped:
        missing = "no answer about a planted fault: nothing says whether it tells anything"
        lines.append(say_it(missing))
    if judged.probes.planted and not judged.calibrations:
        gross = "planted faults are gross: how it does on others, a sheet tells (--calibrate)"
        lines.append(say_it(gross))
    workshop.show("\n".join(lines))

    # Where it cannot be trusted, that is the result; with replies missing, the next run may tell.
    if judged.doubt and model.undone:
        workshop.tell(f"not decided: {judged.doubt}; the same command goes on")
        return 3
    if judged.doubt:
        hint = "take another judge; --anyway uses this one"
        if judged.doubt == NOT_PLANTED:  # another judge would be no help
            hint = "--anyway does without"
        raise WorkshopError(f"{judged.doubt}: no row is kept or dropped: {hint}")

    # What is kept, and what to do with it.
    counts = judged.counts()
    rules = "".join(f", {rule} {n}" for rule, n in counts["rejected"].items())
    print(say_it(f"kept {counts['kept']}{rules}, undone {counts['undone']}"))
    step_6 = options.data.with_name(STEP_6)
    print(say_it(f"written: {step_6}"))
    if counts["kept"]:
        command = workshop.program_command("scripts/prepare_for_finetuning.py", str(step_6))
        print(say_it(f"next: {command}"))
    return 3 if model.undone else 0


# --------------------------------------------------------------------------------------------------
# The program.


def kept_questions(text: str) -> tuple[str, ...]:
    """The questions that --keep names. Raises ArgumentTypeError for others."""
    names = [name.strip() for name in text.split(",")]
    wrong = [name for name in names if name not in SHORT]
    if wrong:
        known = ", ".join(SHORT)
        raise argparse.ArgumentTypeError(f"{wrong[0]!r} is none of {known}")
    return tuple(SHORT[name] for name in SHORT if name in names)


def command_line() -> argparse.ArgumentParser:
    """The flags: those of every program that asks about rows, and the judge's own."""
    parser = Parser(description=(__doc__ or "").split("\n\n")[0])
    per_row.add_flags(parser, LONGEST_REPLY)
    parser.set_defaults(data=None)
    add = parser.add_argument_group("the judge").add_argument
    keep = "yes to these is needed [valid,input,output]"
    calibrate = "one or two filled review sheets, whose rows are judged first"
    probes = "planted faults among the questions; 0: none [20]"
    anyway = "use a judge that tells nothing, or does not agree with people"
    add("--keep", type=kept_questions, default="valid,input,output", metavar="NAMES", help=keep)
    add("--calibrate", type=Path, nargs="+", default=[], metavar="SHEET", help=calibrate)
    add("--probes", type=int, default=20, metavar="N", help=probes)
    add("--anyway", action="store_true", help=anyway)
    add("--seed", type=int, default=42, help="random seed: which faults are planted [42]")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Judge, and return the exit code."""
    parser = command_line()
    options = parser.parse_args(arguments)
    if len(options.calibrate) > 2:
        parser.error("--calibrate takes one sheet or two")
    if options.probes < 0:
        parser.error(f"--probes must be at least 0, not {options.probes}")
    return workshop.main(None, partial(judge, options))


if __name__ == "__main__":
    workshop.leave(main())
