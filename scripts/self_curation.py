"""Step 3 of instruction backtranslation: a model rates each pair from 1 to 5, and the good ones
are kept.

    python scripts/self_curation.py --sample             after the steps before: 30 s on any CPU
    python scripts/self_curation.py                      Llama-2-7B-chat; minutes on a GPU
    python scripts/self_curation.py --provider openai    any provider of self_instruct.py;
                                                         no GPU, cents
    python scripts/self_curation.py --model out/final --out data/curated_2.json

The last command is the paper's second iteration.

The prompt is RUBRIC, the examples of --shots, and the pair: as turns of a chat for a server and for
a model with a chat template, as one text for others. Two files are written:

    --out                       the pairs rated --threshold or better
    the same name with
    _all_evaluated at its end   all pairs, with `evaluation` and `rating`

Where a rating cannot be read, or its reason is a worked example's word for word, the model is asked
once more, at temperature 0.7. If that cannot be read either, the rating is null, and the pair is
never kept.

A rater may be no better than dice. So pairs of an instruction and the answer of another row are
mixed in (--probes), rated as blind as the others and never kept. Unless the rater turns four in
five of them away, and clearly more often than the others, no pair is kept or dropped in its name:
--out is not written, and the exit code is 1. With --anyway it is.

Every reply is on disk as soon as it is there. None is asked or paid for twice, and the same
command goes on after an interruption.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import Counter
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import self_instruct_workshop as workshop
from scripts.asking.parser import Parser
from scripts.training import cards, rating, shapes
from scripts.training import shared as backtranslation
from scripts.training.rating import NEXT, Trial, parse_rating
from scripts.training.shared import DATA, SAMPLE, SAMPLE_OUT, Row
from self_instruct_workshop import PROVIDERS, Prompt, UsageError, WorkshopError, leave, one_line

FOR_SAMPLE = {
    "model": SAMPLE_OUT / "rater",
    "data": SAMPLE_OUT / "self_augmented.json",
    "max_new_tokens": 24,
    "shots": SAMPLE / "rating_shots.json",
    "out": SAMPLE_OUT / "curated_dataset.json",
    "max_length": 640,
    "probes": 8,
    "anyway": True,  # the ratings of a random model tell nothing
}
SERVERS = tuple(name for name in PROVIDERS if name not in ("practice", "replay"))

TURN = 8  # tokens that a chat template puts around a turn, at most
NO_PROBES = "no pair was planted: nothing says whether the ratings tell anything"

# What each example of --shots has.
SHOT = {"instruction", "output", "evaluation", "rating"}

RUBRIC = """\
Rate how good the answer is as the answer of an AI assistant to the instruction, from 1 to 5:

1: It does not answer: incomplete, vague, off the topic, \
or a piece of advertising, of a forum or of a web page's frame.
2: It answers a part of what was asked, or only touches on it.
3: It helps and covers the question, \
but is somebody else's text, such as a blog, an article or a private opinion.
4: It is an assistant's answer to this very question, \
clear and complete, with little to improve.
5: It is a perfect answer of an assistant: \
to the point, correct, well ordered, and nothing in it is superfluous.

Write the reason in one or two sentences, \
and then, in a line of its own, "Score: " and the number."""


def rating_prompt(shots: list[Row], row: Row, answer: str) -> str:
    """The rubric, the worked examples and the pair, as one text.

    The pair has the shape of the examples, so that base models go on in this shape.
    """
    examples = [pair(shot, shot["output"]) + rated(shot) for shot in shots]
    return "\n\n".join([RUBRIC, *examples, pair(row, answer)])


def rating_turns(shots: list[Row], row: Row, answer: str) -> Prompt:
    """The same as turns of a chat. A small model copies less from its own earlier turns."""
    turns = [(pair(shot, shot["output"]), rated(shot)) for shot in shots]
    asked = pair(row, answer)
    if not turns:
        return f"{RUBRIC}\n\n{asked}"
    return workshop.modern_join(RUBRIC, turns, asked)


def rated(shot: Row) -> str:
    return f"{shot['evaluation']}\nScore: {shot['rating']}"


def pair(row: Row, answer: str) -> str:
    question = backtranslation.question_of(row)
    return f"Instruction:\n{question}\n\nAnswer:\n{answer}\n\nRating:\n"


def curate(options: argparse.Namespace) -> int:
    # Read what goes in. --sample first teaches its tiny model.
    shots = read_shots(options.shots)
    if options.sample and options.model == str(FOR_SAMPLE["model"]):
        practise(options, shots)
    rows = backtranslation.read_rows(options.data)
    check_direction(options)

    # Rate the pairs, and write all of them.
    ours, trial, undone = rate(options, rows, shots)
    bars(ours)
    print("\n".join(trial.lines() if trial.planted else [NO_PROBES]))
    everything = options.out.with_stem(options.out.stem + "_all_evaluated")
    write(options, everything, ours, trial)

    # Keep the good ones, unless the ratings tell nothing.
    if trial.doubt and not options.anyway:
        return not_decided(options, trial, undone)
    if trial.doubt:
        print(f"notice: {trial.doubt}; --anyway keeps and drops by them", file=sys.stderr)
    kept = [row for row in ours if is_good(row, options.threshold)]
    report(options, ours, kept)
    write(options, options.out, kept, trial)
    print(f"{len(kept)} of {len(ours)} pairs kept, in {options.out}")
    if not kept:
        problem = f"nothing was rated {options.threshold} or better"
        raise WorkshopError(f"{problem}: lower --threshold, or use a better model")

    # Upload both where --push-to says.
    names = [options.out.name, everything.name]
    card = card_of(options, ours, kept, trial)
    backtranslation.push(options, "dataset", options.out.parent, names, card)
    return 3 if undone else 0


def rate(
    options: argparse.Namespace, rows: list[Row], shots: list[Row]
) -> tuple[list[Row], Trial, int]:
    """The rated rows, what planted pairs say of the ratings, and how many have no reply."""
    # Planted pairs stand anywhere among the others, and are asked about in the same way.
    planted = rating.plant(rows, options.probes, options.seed)
    if options.probes and not planted:
        said = "no pair could be planted: the rows are too few, or too much alike"
        print(f"notice: {said}", file=sys.stderr)
    both = [*rows, *planted]
    order = random.Random(options.seed).sample(range(len(both)), len(both))
    said = evaluate(options, [both[i] for i in order], shots)

    # Part them again, in the order of the data.
    rated_rows = [row for _, row in sorted(zip(order, said, strict=True), key=lambda one: one[0])]
    ours = [row for row in rated_rows[: len(rows)] if row]
    others = [row["rating"] for row in rated_rows[len(rows) :] if row]
    trial = Trial(others, [row["rating"] for row in ours], max(2, options.threshold))
    return ours, trial, said.count(None)


def not_decided(options: argparse.Namespace, trial: Trial, undone: int) -> int:
    """Say that nothing is kept or dropped; 3 where replies are missing, which may tell.

    Raises WorkshopError where the ratings are there and tell nothing.
    """
    if undone:
        said = f"not decided: {trial.doubt}; {undone} pairs have no reply"
        print(f"{said}: the same command asks again", file=sys.stderr)
        return 3
    stale = " (the one that is there is of another run)" if options.out.exists() else ""
    problem = f"{trial.doubt}: no pair is kept or dropped, {options.out.name} is not written{stale}"
    raise WorkshopError(f"{problem}: use a better model, or --anyway")


def write(options: argparse.Namespace, path: Path, rows: list[Row], trial: Trial) -> None:
    """Write rows, and beside them where they come from and how far the ratings can be trusted."""
    backtranslation.write(path, rows)
    known = cards.about(shapes.train_file(options.data))
    model = cards.public_name(options.model) or options.provider or "a server's model"
    about = {"sources": known["sources"], "instructions": known["instructions"]}
    about |= {"writer": known.get("writer", ""), "rater": model, "trial": trial.record()}
    cards.note(path, **about, threshold=options.threshold)


def card_of(options: argparse.Namespace, rows: list[Row], kept: list[Row], trial: Trial) -> str:
    """What is in both files, which of them `datasets` loads, and what the ratings are worth."""
    known = cards.about(options.out)
    files = {"curated": options.out.name}
    files["all_evaluated"] = options.out.stem + "_all_evaluated.json"
    best = f"`curated` ({len(kept)} pairs): rated {options.threshold} or better"
    said = [f"{best}, of {len(rows)} in `all_evaluated`."]
    writer = f", the instructions written by {known['writer']}" if known["writer"] else ""
    said.append(f"Rated by {known['rater']}{writer}.")
    said.append(" ".join(" ".join(trial.lines()).split()) + "." if trial.planted else NO_PROBES)
    if trial.doubt:
        said.append(f"Kept all the same (--anyway): {trial.doubt}.")
    source = {**known, "file": options.data.name}
    return cards.dataset_card(files, source, kept, said)


def check_direction(options: argparse.Namespace) -> None:
    """Raise UsageError for a model that writes instructions."""
    if backtranslation.served(options):
        return
    if backtranslation.trained(options.model).get("direction") == "backward":
        problem = f"--model {options.model} writes instructions and cannot rate"
        raise UsageError(f"{problem}: give a chat model")


def is_good(row: Row, threshold: int) -> bool:
    return bool(row["rating"]) and row["rating"] >= threshold


def read_shots(path: Path) -> list[Row]:
    """The worked examples of ratings. Raises WorkshopError where one is incomplete."""
    shots = []
    for shot in backtranslation.read(path):
        if not is_shot(shot):
            needed = f"each example needs {', '.join(sorted(SHOT))}"
            raise WorkshopError(f"{path}: {needed}, the rating from 1 to 5")
        shots.append({"input": "", **shot})
    return shots


def is_shot(shot: object) -> bool:
    if not isinstance(shot, dict):
        return False
    return shot.keys() >= SHOT and shot["rating"] in (1, 2, 3, 4, 5)


def evaluate(options: argparse.Namespace, rows: list[Row], shots: list[Row]) -> list[Row | None]:
    """The rows with the model's reason and rating; None for a row without a reply.

    Where the rating cannot be read, the model is asked once more.
    """
    # Ask about each pair, and put the ratings into the rows.
    prompts = prompts_for(options, rows, shots)
    replies = ask(options, prompts, shots)
    evaluated: list[Row | None] = []
    copied = 0
    for row, reply in zip(rows, replies, strict=True):
        if reply is None:
            evaluated.append(None)
            continue
        text = reply.text.split(NEXT)[0].strip()
        copied += rating.is_copied(text, shots)
        evaluated.append({**row, "evaluation": text, "rating": read_rating(text, shots)})
    if copied:
        said = f"{copied} of {len(rows)} reasons are a worked example's word for word"
        print(f"notice: {said}: these ratings are not read", file=sys.stderr)
    return evaluated


def prompts_for(options: argparse.Namespace, rows: list[Row], shots: list[Row]) -> list[Prompt]:
    """The prompt about each pair, in the form that the model knows, its answer clipped."""
    text = partial(rating_prompt, shots)
    if not backtranslation.knows_chats(options):
        return [*backtranslation.prompts_for(options, rows, text)]
    spare = TURN * (2 * len(shots) + 1)
    answers = backtranslation.clipped_answers(options, rows, text, spare)
    return [rating_turns(shots, row, one) for row, one in zip(rows, answers, strict=True)]


def read_rating(text: str, shots: list[Row]) -> int | None:
    """The rating of a reply; None where it cannot be read, or its reason is copied."""
    return None if rating.is_copied(text, shots) else parse_rating(text)


def ask(
    options: argparse.Namespace, prompts: list[Prompt], shots: list[Row]
) -> backtranslation.Replies:
    """The reply to each prompt. An unreadable one is replaced by the reply to a second try."""
    # At temperature 0, the model says what it finds likeliest.
    generate = partial(backtranslation.generate, options, "rate", chat=True)
    replies = generate(prompts, temperature=0.0)

    # The second try is warmer. Otherwise the model would say the same again.
    unread = []
    for i, reply in enumerate(replies):
        if reply and read_rating(reply.text, shots) is None:
            unread.append(i)
    if unread:
        again = generate([prompts[i] for i in unread], temperature=0.7)
        for i, reply in zip(unread, again, strict=True):
            replies[i] = reply
    return replies


def bars(evaluated: list[Row]) -> None:
    """Show how many pairs got each rating; a bar of 40 signs would be all pairs."""
    counts = Counter(row["rating"] for row in evaluated)
    total = max(1, len(evaluated))
    for number in (5, 4, 3, 2, 1):
        bar = "#" * round(40 * counts[number] / total)
        print(f"  {number}  {counts[number]:>5}  {bar}")
    print(f"  unreadable, twice: {counts[None]}")


def report(options: argparse.Namespace, evaluated: list[Row], kept: list[Row]) -> None:
    """Show some of the kept and the dropped pairs."""
    dropped = [row for row in evaluated if not is_good(row, options.threshold)]
    show("kept", kept[:5])
    show("dropped", dropped[:5])


def show(name: str, rows: list[Row]) -> None:
    for row in rows:
        print(f"{name}, {row['rating']}: {one_line(row['instruction'])}")
        print(f"    answer  {one_line(row['output'])}")
        print(f"    reason  {one_line(row['evaluation'])}")


def practise(options: argparse.Namespace, shots: list[Row]) -> None:
    """Teach the tiny model of --sample to write ratings.

    It learns made-up ratings by heart. They mean nothing.
    """
    # Eight prompts and their made-up ratings.
    tiny = {"model": str(SAMPLE_OUT / "tiny")}
    rows = backtranslation.read_rows(SAMPLE / "lima_train.jsonl")[:8]
    texts = [f"Made up.\nScore: {score}" for score in (5, 2, 4, 1, 4, 2, 5, 4)]
    asked = argparse.Namespace(**vars(options) | tiny | {"base_url": "", "provider": ""})
    prompts = backtranslation.prompts_for(asked, rows, partial(rating_prompt, shots))
    lessons = []
    for prompt, text in zip(prompts, texts, strict=True):
        lessons.append(({"instruction": prompt, "input": "", "output": text}, ""))

    # Train. An instruction may take half of --max-length, so it is twice as long here.
    changes = {
        "out": Path(options.model),
        "lr": 1e-2,
        "epochs": 30,
        "batch_size": 8,
        "lora_r": 16,
        "max_length": 2 * options.max_length,
    }
    settings = argparse.Namespace(**vars(options) | tiny | changes)
    backtranslation.train(settings, lessons, backward=False)


def not_negative(text: str) -> int:
    """A whole number of at least 0, for argparse."""
    if int(text) < 0:
        raise argparse.ArgumentTypeError(f"must be at least 0, not {text}")
    return int(text)


def main(arguments: list[str] | None = None) -> int:
    # The flags that all four steps have.
    parser = Parser(description=(__doc__ or "").split("\n\n")[0])
    rater = "meta-llama/Llama-2-7b-chat-hf"
    data = DATA / "self_augmented.json"
    out = DATA / "curated_dataset.json"
    add = backtranslation.add_flags(parser, rater, data, out, batch=8)
    parser.set_defaults(max_length=4096)

    # The flags of this step.
    shots = DATA / "rating_shots.json"
    least = "lowest rating that is kept [4]"
    provider = "ask a provider of self_instruct.py instead of a local model"
    server = "ask the chat model of this server"
    add("--threshold", type=int, choices=range(1, 6), default=4, help=least)
    add("--shots", type=Path, default=shots, help="worked examples of ratings")
    probes = "pairs with another row's answer among the questions; 0: none [20]"
    anyway = "keep and drop by ratings that tell nothing"
    add("--probes", type=not_negative, default=20, metavar="N", help=probes)
    add("--anyway", action="store_true", help=anyway)
    add("--provider", choices=SERVERS, default="", help=provider)
    backtranslation.add_server_flags(parser, server)
    return backtranslation.main(parser, arguments, FOR_SAMPLE, curate)


if __name__ == "__main__":
    leave(main())
