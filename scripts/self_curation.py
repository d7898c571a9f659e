"""Step 3 of instruction backtranslation: a model rates each pair from 1 to 5, and the good ones
are kept.

    python scripts/self_curation.py --sample             after the steps before: 30 s on any CPU
    python scripts/self_curation.py                      Llama-2-7B-chat; minutes on a GPU
    python scripts/self_curation.py --provider openai    any provider of self_instruct.py;
                                                         no GPU, cents
    python scripts/self_curation.py --model out/final --out data/curated_2.json

The last command is the paper's second iteration.

The prompt is RUBRIC, the examples of --shots, and the pair. Every model gets the same text.
Two files are written:

    --out                       the pairs rated --threshold or better
    the same name with
    _all_evaluated at its end   all pairs, with `evaluation` and `rating`

Where a rating cannot be read, the model is asked once more, at temperature 0.7. If that cannot
be read either, the rating is null, and the pair is never kept.

Every reply is on disk as soon as it is there. None is asked or paid for twice, and the same
command goes on after an interruption.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts.asking.parser import Parser
from scripts.training import shared as backtranslation
from scripts.training.shared import DATA, NEXT, SAMPLE, SAMPLE_OUT, Row, parse_rating
from self_instruct_workshop import PROVIDERS, UsageError, WorkshopError, leave, one_line

FOR_SAMPLE = {
    "model": SAMPLE_OUT / "rater",
    "data": SAMPLE_OUT / "self_augmented.json",
    "max_new_tokens": 24,
    "shots": SAMPLE / "rating_shots.json",
    "out": SAMPLE_OUT / "curated_dataset.json",
    "max_length": 640,
}
SERVERS = tuple(name for name in PROVIDERS if name not in ("practice", "replay"))

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
    """The rubric, the worked examples and the pair.

    The pair has the shape of the examples, so that base models go on in this shape.
    """
    parts = [RUBRIC]
    for shot in shots:
        said = f"{shot['evaluation']}\nScore: {shot['rating']}"
        parts.append(pair(shot, shot["output"]) + said)
    parts.append(pair(row, answer))
    return "\n\n".join(parts)


def pair(row: Row, answer: str) -> str:
    question = backtranslation.question_of(row)
    return f"Instruction:\n{question}\n\nAnswer:\n{answer}\n\nRating:\n"


def curate(options: argparse.Namespace) -> int:
    # Read what goes in. --sample first teaches its tiny model.
    shots = read_shots(options.shots)
    if options.sample and options.model == str(FOR_SAMPLE["model"]):
        practise(options, shots)
    check_direction(options.model)
    rows = backtranslation.read_rows(options.data)

    # Rate the pairs, and keep the good ones.
    evaluated, undone = evaluate(options, rows, shots)
    kept = [row for row in evaluated if is_good(row, options.threshold)]
    report(options, evaluated, kept)

    # Write all pairs, and the good ones.
    everything = options.out.with_stem(options.out.stem + "_all_evaluated")
    backtranslation.write(everything, evaluated)
    backtranslation.write(options.out, kept)
    print(f"{len(kept)} of {len(evaluated)} pairs kept, in {options.out}")
    if not kept:
        problem = f"nothing was rated {options.threshold} or better"
        raise WorkshopError(f"{problem}: lower --threshold, or use a better model")

    # Upload both where --push-to says.
    names = [options.out.name, everything.name]
    card = backtranslation.LIMA_CARD
    backtranslation.push(options, "dataset", options.out.parent, names, card)
    return 3 if undone else 0


def check_direction(model: str) -> None:
    """Raise UsageError for a model that writes instructions."""
    if backtranslation.trained(model).get("direction") == "backward":
        problem = f"--model {model} writes instructions and cannot rate"
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


def evaluate(
    options: argparse.Namespace, rows: list[Row], shots: list[Row]
) -> tuple[list[Row], int]:
    """The rows with the model's reason and rating, and how many rows got no reply.

    Where the rating cannot be read, the model is asked once more.
    """
    # Ask about each pair, and put the ratings into the rows.
    prompts = backtranslation.prompts_for(options, rows, partial(rating_prompt, shots))
    replies = ask(options, prompts)
    evaluated = []
    for row, reply in zip(rows, replies, strict=True):
        if reply:
            text = reply.text.split(NEXT)[0].strip()
            evaluated.append({**row, "evaluation": text, "rating": parse_rating(text)})
    return evaluated, replies.count(None)


def ask(options: argparse.Namespace, prompts: list[str]) -> backtranslation.Replies:
    """The reply to each prompt. An unreadable one is replaced by the reply to a second try."""
    # At temperature 0, the model says what it finds likeliest.
    generate = partial(backtranslation.generate, options, "rate", chat=True)
    replies = generate(prompts, temperature=0.0)

    # The second try is warmer. Otherwise the model would say the same again.
    unread = []
    for i, reply in enumerate(replies):
        if reply and parse_rating(reply.text) is None:
            unread.append(i)
    if unread:
        again = generate([prompts[i] for i in unread], temperature=0.7)
        for i, reply in zip(unread, again, strict=True):
            replies[i] = reply
    return replies


def report(options: argparse.Namespace, evaluated: list[Row], kept: list[Row]) -> None:
    """Show how many pairs got each rating, and some of the kept and the dropped pairs."""
    # A bar of 40 signs would be all pairs.
    counts = Counter(row["rating"] for row in evaluated)
    total = max(1, len(evaluated))
    for rating in (5, 4, 3, 2, 1):
        bar = "#" * round(40 * counts[rating] / total)
        print(f"  {rating}  {counts[rating]:>5}  {bar}")
    print(f"  unreadable, twice: {counts[None]}")

    # Five pairs of each kind.
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
    asked = argparse.Namespace(**vars(options) | tiny)
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
    add("--provider", choices=SERVERS, default="", help=provider)
    backtranslation.add_server_flags(parser, server)
    return backtranslation.main(parser, arguments, FOR_SAMPLE, curate)


if __name__ == "__main__":
    leave(main())
