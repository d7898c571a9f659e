"""What the four scripts of instruction backtranslation share (Li et al., 2023, https://arxiv.org/abs/2308.06259).

    1 inverse_sft.py                a backward model learns to write the instruction that an answer answers
    2 self_augmentation_lima.py     it writes instructions for answers, as if these had none
    3 self_curation.py              a model rates the pairs, and the good ones are kept
    4 finetune_model.py             the base model learns from them to answer

Nothing to run here. Rows have one shape from start to end, COLUMNS, which trainers for the Alpaca shape load as it is:
`instruction` and `output` are the pair, `original` is what a person had asked where a model wrote `instruction`, `id`
is the row's number in its source. What needs torch stands in backtranslation_models.py.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import self_instruct_workshop as workshop
from self_instruct_workshop import DATA, WorkshopError, one_line

Row = dict[str, Any]
COLUMNS = ("id", "instruction", "input", "output", "original", "evaluation", "rating")
SAMPLE, SAMPLE_OUT = DATA / "backtranslation_sample", DATA / "workshop" / "backtranslation"  # --sample reads and writes
SEED_TAG = "Answer in the style of an AI Assistant."  # the paper's two tags: a person wrote the pair,
WEB_TAG = "Answer with knowledge from web search."  # or a model wrote its instruction
SPARE = 8  # tokens kept free for <s>, </s> and the seams between pieces
NEXT = "\n\nInstruction:"  # where a base model that rates a pair goes on with one of its own
SERVERS = tuple(name for name in workshop.PROVIDERS if name not in ("practice", "replay"))
LIMA_CARD = """---
license: cc-by-nc-sa-4.0
---
Made by instruction backtranslation (https://arxiv.org/abs/2308.06259) from the answers of LIMA (GAIR/lima), whose
licence is CC BY-NC-SA, or stricter where a source of it is. What is made of it, this set and models trained on it, has
the same.

`instruction` was written by a model, `original` is what a person had asked, `output` is LIMA's answer, `id` its row in
LIMA's train.jsonl; `rating`, from 1 to 5, and `evaluation` are a model's judgement.
"""

# ----------------------------------------------------------------------------------------------------------------------
# Rows: read from Guanaco's, LIMA's or our own files, and written as one JSON array.


def read(path: Path) -> list[Any]:
    """The records of a JSON array or of JSON Lines. Raises WorkshopError, naming the file and the line."""
    rows, number = [], 0
    try:
        text = path.read_text(encoding="utf-8-sig")
        if text.lstrip().startswith("["):
            return json.loads(text)
        for number, line in enumerate(text.split("\n"), 1):  # noqa: B007  # the error names it
            rows += [json.loads(line)] if line.strip() else []
        return rows
    except OSError as error:
        problem = f"{path}: {error.strerror}: do the step before, name another file, or try --sample"
    except UnicodeDecodeError:
        problem = f"{path} is not UTF-8 text: save it as such"
    except ValueError as error:
        where = f", line {number}" if number else f", line {getattr(error, 'lineno', 1)}"
        problem = f"{path}{where} is malformed: a JSON array or JSON Lines are expected"
    raise WorkshopError(problem)


def write(path: Path, rows: list[Row]) -> None:
    workshop.write_whole(path, [json.dumps(rows, ensure_ascii=False, indent=1), "\n"])


def first_turn(text: str) -> tuple[str, str] | None:
    """The first question and answer of a text of Guanaco, `### Human: ...### Assistant: ...`; None where one lacks."""
    found = re.match(r"\s*### Human:(.*?)### Assistant:(.*?)(?=### Human:|### Assistant:|\Z)", text, re.S)
    question, answer = (part.strip() for part in found.groups()) if found else ("", "")
    return (question, answer) if question and answer else None


def to_row(number: int, record: Row, answers_do: bool = False) -> Row | str:
    """A record of Guanaco, LIMA or our own shape as a row, or why it is left out. If `answers_do`, it may be one alone,
    {"output": ...}."""
    if "text" in record:
        question, answer = first_turn(record["text"]) or ("", "")
    elif "conversations" in record:
        question, answer, *more = [turn.strip() for turn in record["conversations"]] + [""] * 2
        if any(more):
            return "multi-turn"
    else:
        record = {"instruction": "", **record} if answers_do else record
        question, answer = record["instruction"].strip(), record["output"].strip()
    if not answer or not (question or answers_do):
        return "without a question or an answer"
    empty = {"id": number, "input": "", "original": "", "evaluation": "", "rating": None}
    row = empty | {name: record[name] for name in empty if record.get(name) is not None}
    return {name: (row | {"instruction": question, "output": answer})[name] for name in COLUMNS}


def read_rows(path: Path, answers_do: bool = False) -> list[Row]:
    """The rows of a file in any of the three shapes; what is left out is counted on stderr."""
    rows, left_out = [], Counter()
    for number, record in enumerate(read(path)):
        try:
            row = to_row(number, record, answers_do)
        except (TypeError, KeyError, AttributeError):
            problem = f"{path}, row {number} has neither `text` nor `conversations` nor `instruction` and `output`"
            raise WorkshopError(f"{problem}, as texts: is it the right file?") from None
        left_out.update([row] if isinstance(row, str) else [])
        rows += [] if isinstance(row, str) else [row]
    for reason, n in left_out.items():
        print(f"notice: {path.name}: {n} rows left out: {reason}", file=sys.stderr)
    if not rows:
        raise WorkshopError(f"{path} holds no pair of an instruction and an answer, so there is nothing to do")
    return rows


# ----------------------------------------------------------------------------------------------------------------------
# The only two templates, for training and for asking alike. Plain text, so that every base model can be used; they end
# in a line break, because a space there would be one token with the word that follows.


def backward_prompt(answer: str) -> str:
    return f"Write the instruction that this answer answers.\n\n### Answer:\n{answer}\n\n### Instruction:\n"


def forward_prompt(question: str, tag: str = "") -> str:
    return f"### Instruction:\n{question}{' ' * bool(tag)}{tag}\n\n### Answer:\n"


def question_of(row: Row) -> str:
    return f"{row['instruction']}\n\n{row['input']}" if row["input"] else row["instruction"]


def size(tokenizer: Any, text: str) -> int:
    """How many tokens a text has; without a tokenizer, a third of its bytes."""
    return len(tokenizer(text, add_special_tokens=False)["input_ids"]) if tokenizer else -(-len(text.encode()) // 3)


def clip(tokenizer: Any, text: str, limit: int) -> str:
    """The first `limit` tokens of a text, whole characters only."""
    if tokenizer is None:
        return text.encode()[: 3 * max(0, limit)].decode(errors="ignore")
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    return text if len(offsets) <= limit else text[: offsets[max(0, limit)][0]]


def fit(tokenizer: Any, prompt: Callable[[str], str], answer: str, limit: int) -> str:
    """The prompt with as much of the answer as a limit of tokens lets in."""
    if (room := limit - SPARE - size(tokenizer, prompt(""))) < 1:
        raise WorkshopError("--max-length leaves no room for an answer beside the rest: give a larger one")
    return prompt(clip(tokenizer, answer, room))


def example(tokenizer: Any, row: Row, backward: bool, max_length: int, tag: str = "") -> Row | None:
    """A row as a prompt and the completion to learn, and whether its answer is clipped; None where the instruction
    takes more than half. A forward row is clipped by the trainer, which then learns no end of the answer."""
    question, answer = question_of(row), row["output"]
    if size(tokenizer, question) > max_length // 2:
        return None
    if backward:
        prompt = fit(tokenizer, backward_prompt, answer, max_length - size(tokenizer, question))
        return {"prompt": prompt, "completion": question, "clipped": prompt != backward_prompt(answer)}
    prompt = forward_prompt(question, tag)
    return {"prompt": prompt, "completion": answer, "clipped": size(tokenizer, prompt + answer) + 2 > max_length}


# ----------------------------------------------------------------------------------------------------------------------
# Judging: ratings as models write them, and how like one text is to another.

SCORE = re.compile(
    r"(?i)(?<![a-z])(?:score|rating|评分|得分|分数|打分)(?:\s*\(?\s*(?:1\s*(?:-|–|to)|out of)\s*5\s*\)?)?"
    r"(?:\W|_|is|of|为|是){0,9}?(?P<number>\d[\d.,]*)(?:[ \t*_()]*(?P<of>(?:/|out of|of|-|–|~|to|or)\s*\d+))?"
)


def parse_rating(reply: str) -> int | None:
    """The last score of a reply, a whole number from 1 to 5; None where it cannot be told."""
    found = list(SCORE.finditer(unicodedata.normalize("NFKC", reply.split(NEXT)[0])))
    if not found:
        return None
    number, of = found[-1]["number"].rstrip(".,"), re.sub(r"\s", "", found[-1]["of"] or "")
    whole = re.fullmatch(r"([1-5])(?:\.0+)?", number)
    return int(whole[1]) if whole and of.lower() in ("", "/5", "outof5", "of5") else None


def rouge_l(one: str, other: str) -> float:
    """ROUGE-L F1 in the tokens of self_instruct_workshop, so that Chinese counts like English."""
    from rapidfuzz.distance import Indel

    texts = workshop.tokenize(one), workshop.tokenize(other)
    return Indel.normalized_similarity(*texts) if any(texts) else 0.0


# ----------------------------------------------------------------------------------------------------------------------
# The command line, with the same names in all four scripts, and the hub.


def add_flags(parser: argparse.ArgumentParser, model: str, data: Path, out: Path, batch: int) -> Callable:
    """Add the flags that every script has; returns the function that adds one more."""
    add = parser.add_argument
    add("--model", default="", help=f"name on the hub, or a folder; an adapter's too [{model}]")
    add("--data", type=Path, default=data, help="what goes in [%(default)s]")
    add("--out", type=Path, default=out, help="what comes out [%(default)s]")
    add("--max-length", type=at_least(128), default=2048, metavar="N", help="tokens of prompt and reply [%(default)s]")
    add("--max-new-tokens", type=at_least(1), default=256, metavar="N", help="longest reply [%(default)s]")
    add("--batch-size", type=at_least(1), default=batch, metavar="N", help="rows at once, for speed [%(default)s]")
    add("--dtype", choices=("auto", "bfloat16", "float16", "float32"), default="auto", help="[auto: what the GPU can]")
    add("--load-in-4bit", action="store_true", help="a quarter of the memory; needs bitsandbytes and an NVIDIA GPU")
    add("--seed", type=int, default=42, metavar="N", help="random seed [%(default)s]")
    add(
        "--push-to",
        default="",
        metavar="NAME/REPOSITORY",
        help="upload the result to the hub; log in by: hf auth login",
    )
    add("--sample", action="store_true", help="our own small data and a tiny random model: seconds, on any CPU")
    parser.set_defaults(default_model=model, base_url="", provider="", top_p=0.9)  # top_p: the paper's
    return add


def add_training_flags(add: Callable, epochs: int) -> None:
    add("--lora-r", type=at_least(1), default=16, metavar="N", help="rank of the adapter [%(default)s]")
    add(
        "--lr",
        type=float,
        default=1e-4,
        metavar="X",
        help="learning rate; the paper's 1e-5 is without LoRA [%(default)s]",
    )
    add("--epochs", type=float, default=epochs, metavar="X", help="times through the data [%(default)s]")


def served(options: argparse.Namespace) -> bool:
    return bool(options.base_url or options.provider)


def at_least(low: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if int(text) < low:
            raise argparse.ArgumentTypeError(f"must be at least {low}, not {text}")
        return int(text)

    return number


def main(parser: argparse.ArgumentParser, arguments: list[str] | None, sample: Row, action: Callable) -> int:
    """Read the flags, do the step, and return the exit code; `sample` is what --sample changes of the defaults."""
    if "--sample" in (sys.argv[1:] if arguments is None else arguments):
        parser.set_defaults(**sample)
    options = parser.parse_args(arguments)
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")  # the trainer refuses several GPUs that nothing launched it for
    if options.max_length < options.max_new_tokens + 64:
        parser.error(
            f"--max-length {options.max_length} must be 64 more than --max-new-tokens {options.max_new_tokens}"
        )
    if options.sample:
        print("notice: --sample: the steps are real, the tiny random model's words mean nothing", file=sys.stderr)
    options.model = str(options.model or ("" if served(options) else options.default_model))
    if Path(options.model).is_dir() and not served(options):
        options.model = str(Path(options.model).resolve())  # adapters name their base: it must be found from anywhere
    return workshop.main(None, lambda _: one_line_errors(action, options))


def one_line_errors(action: Callable, options: argparse.Namespace) -> int | None:
    """Do it; a missing package or a full GPU is the user's to put right."""
    try:
        return action(options)
    except ImportError as error:
        what = "bitsandbytes" if "bitsandbytes" in str(error) else "-r scripts/requirements-train.txt"
        raise WorkshopError(f"{one_line(str(error))}: run  {sys.executable} -m pip install {what}  first") from None
    except RuntimeError as error:
        if "out of memory" not in str(error):
            raise
        how = "a smaller --batch-size or --max-length, or --load-in-4bit"
        raise WorkshopError(f"the GPU's memory is full: try {how}") from None


def push(options: argparse.Namespace, kind: str, folder: Path, names: list[str], card: str) -> None:
    """Upload files of a folder, as a "model" or a "dataset", with their card; nothing unless --push-to names where."""
    if not options.push_to:
        return
    from huggingface_hub import HfApi

    where = {"repo_id": options.push_to, "repo_type": kind}
    try:
        HfApi().create_repo(**where, exist_ok=True)
        HfApi().upload_folder(**where, folder_path=str(folder), allow_patterns=names)
        HfApi().upload_file(**where, path_or_fileobj=card.encode(), path_in_repo="README.md")
    except Exception as error:  # those of whichever HTTP library the hub's client has
        problem = f"cannot upload to {options.push_to} ({one_line(str(error))})"
        raise WorkshopError(f"{problem}: run  hf auth login  and the same command; all is in {folder}") from None
    print(f"uploaded to {options.push_to}")
