"""Step 3 of instruction backtranslation: a model rates each pair from 1 to 5, and the good ones are kept.

    python scripts/self_curation.py --sample                   after the steps before: 30 s on any CPU
    python scripts/self_curation.py                            Llama-2-7B-chat; minutes on a GPU
    python scripts/self_curation.py --provider openai          any provider of self_instruct.py; no GPU, cents
    python scripts/self_curation.py --model out/final --out data/curated_2.json     the paper's second iteration

The prompt is RUBRIC, the examples of --shots, and the pair; every model gets the same text. Writes all pairs with
`evaluation` and `rating` to the file of --out that ends in _all_evaluated, and those rated --threshold or better to
--out. A rating that cannot be read is asked for once more, at temperature 0.7; then it is null, and never kept. Every
reply is on disk as soon as it is there: none is asked or paid for twice, and the same command goes on.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts.training import shared as backtranslation
from scripts.training.shared import DATA, NEXT, SAMPLE, SAMPLE_OUT, Row, parse_rating
from self_instruct_workshop import PROVIDERS, UsageError, WorkshopError, leave, one_line

FOR_SAMPLE = {"model": SAMPLE_OUT / "rater", "data": SAMPLE_OUT / "self_augmented.json", "max_new_tokens": 24}
FOR_SAMPLE |= {"shots": SAMPLE / "rating_shots.json", "out": SAMPLE_OUT / "curated_dataset.json", "max_length": 640}
SERVERS = tuple(name for name in PROVIDERS if name not in ("practice", "replay"))
SHOT = {"instruction", "output", "evaluation", "rating"}
RUBRIC = """Rate how good the answer is as the answer of an AI assistant to the instruction, from 1 to 5:

1: It does not answer: incomplete, vague, off the topic, or a piece of advertising, of a forum or of a web page's frame.
2: It answers a part of what was asked, or only touches on it.
3: It helps and covers the question, but is somebody else's text, such as a blog, an article or a private opinion.
4: It is an assistant's answer to this very question, clear and complete, with little to improve.
5: It is a perfect answer of an assistant: to the point, correct, well ordered, and nothing in it is superfluous.

Write the reason in one or two sentences, and then, in a line of its own, "Score: " and the number."""


def rating_prompt(shots: list[Row], row: Row, answer: str) -> str:
    """The rubric, the worked examples and the pair. The shape is that of the examples, so that base models go on."""
    worked = [f"{pair(shot, shot['output'])}{shot['evaluation']}\nScore: {shot['rating']}" for shot in shots]
    return "\n\n".join([RUBRIC, *worked, pair(row, answer)])


def pair(row: Row, answer: str) -> str:
    return f"Instruction:\n{backtranslation.question_of(row)}\n\nAnswer:\n{answer}\n\nRating:\n"


def curate(options: argparse.Namespace) -> int:
    shots = read_shots(options.shots)
    if options.sample and options.model == str(FOR_SAMPLE["model"]):
        practise(options, shots)
    if backtranslation.trained(options.model).get("direction") == "backward":
        raise UsageError(f"--model {options.model} writes instructions and cannot rate: give a chat model")
    rows = backtranslation.read_rows(options.data)
    evaluated, undone = evaluate(options, rows, shots)
    kept = [row for row in evaluated if row["rating"] and row["rating"] >= options.threshold]
    report(options, evaluated, kept)
    backtranslation.write(options.out.with_stem(options.out.stem + "_all_evaluated"), evaluated)
    backtranslation.write(options.out, kept)
    print(f"{len(kept)} of {len(evaluated)} pairs kept, in {options.out}")
    if not kept:
        how = "lower --threshold, or use a better model"
        raise WorkshopError(f"nothing was rated {options.threshold} or better: {how}")
    names = [options.out.name, options.out.stem + "_all_evaluated" + options.out.suffix]
    backtranslation.push(options, "dataset", options.out.parent, names, backtranslation.LIMA_CARD)
    return 3 if undone else 0


def read_shots(path: Path) -> list[Row]:
    shots = [{"input": "", **shot} if isinstance(shot, dict) else {} for shot in backtranslation.read(path)]
    if not all(shot.keys() >= SHOT and shot["rating"] in (1, 2, 3, 4, 5) for shot in shots):
        raise WorkshopError(f"{path}: each example needs {', '.join(sorted(SHOT))}, the rating from 1 to 5")
    return shots


def evaluate(options: argparse.Namespace, rows: list[Row], shots: list[Row]) -> tuple[list[Row], int]:
    """The rows with the model's reason and rating, and how many got no reply; an unreadable one is asked once more."""
    prompts = backtranslation.prompts_for(options, rows, partial(rating_prompt, shots))
    ask = partial(backtranslation.generate, options, "rate", chat=True)
    replies = ask(prompts, temperature=0.0)
    unread = [i for i, reply in enumerate(replies) if reply and parse_rating(reply.text) is None]
    for i, reply in zip(unread, ask([prompts[i] for i in unread], temperature=0.7) if unread else [], strict=True):
        replies[i] = reply
    texts = [reply and reply.text.split(NEXT)[0].strip() for reply in replies]
    answered = [(row, text) for row, text in zip(rows, texts, strict=True) if text is not None]
    return [{**row, "evaluation": text, "rating": parse_rating(text)} for row, text in answered], replies.count(None)


def report(options: argparse.Namespace, evaluated: list[Row], kept: list[Row]) -> None:
    counts = Counter(row["rating"] for row in evaluated)
    for rating in (5, 4, 3, 2, 1):
        print(f"  {rating}  {counts[rating]:>5}  {'#' * round(40 * counts[rating] / max(1, len(evaluated)))}")
    print(f"  unreadable, twice: {counts[None]}")
    dropped = [row for row in evaluated if not row["rating"] or row["rating"] < options.threshold]
    for name, rows in (("kept", kept), ("dropped", dropped)):
        for row in rows[:5]:
            print(f"{name}, {row['rating']}: {one_line(row['instruction'])}")
            print(f"    answer  {one_line(row['output'])}\n    reason  {one_line(row['evaluation'])}")


def practise(options: argparse.Namespace, shots: list[Row]) -> None:
    """Teach the tiny model of --sample to write ratings. It learns made-up ones by heart: they mean nothing."""
    tiny = str(SAMPLE_OUT / "tiny")
    rows = backtranslation.read_rows(SAMPLE / "lima_train.jsonl")[:8]
    texts = [f"Made up.\nScore: {score}" for score in (5, 2, 4, 1, 4, 2, 5, 4)]
    prompts = backtranslation.prompts_for(
        argparse.Namespace(**vars(options) | {"model": tiny}), rows, partial(rating_prompt, shots)
    )
    changed = {"model": tiny, "out": Path(options.model), "lr": 1e-2, "epochs": 30, "batch_size": 8, "lora_r": 16}
    settings = argparse.Namespace(**vars(options) | changed | {"max_length": 2 * options.max_length})
    pairs = zip(prompts, texts, strict=True)
    lessons = [({"instruction": prompt, "input": "", "output": text}, "") for prompt, text in pairs]
    backtranslation.train(settings, lessons, backward=False)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    data, out = DATA / "self_augmented.json", DATA / "curated_dataset.json"
    add = backtranslation.add_flags(parser, "meta-llama/Llama-2-7b-chat-hf", data, out, batch=8)
    parser.set_defaults(max_length=4096)
    add("--threshold", type=int, choices=range(1, 6), default=4, help="lowest rating that is kept [4]")
    add("--shots", type=Path, default=DATA / "rating_shots.json", help="worked examples of ratings")
    add("--provider", choices=SERVERS, default="", help="ask a provider of self_instruct.py instead of a local model")
    add("--base-url", default="", metavar="URL", help="ask the chat model of this server")
    return backtranslation.main(parser, arguments, FOR_SAMPLE, curate)


if __name__ == "__main__":
    leave(main())
