"""The shared part of the four scripts of instruction backtranslation.

The paper is Li et al., 2023: https://arxiv.org/abs/2308.06259. Its steps:

    1 inverse_sft.py                a backward model learns: it reads an answer
                                    and writes the instruction to it
    2 self_augmentation_lima.py     it writes instructions for other answers
    3 self_curation.py              a model rates the pairs; the good pairs stay
    4 finetune_model.py             the base model learns to answer from them

Nothing in this file can be run. All four scripts read and write rows of one shape,
COLUMNS. Trainers that know the Alpaca shape load these files as they are:

    id              the number of the row in its source
    instruction     with `output`, the pair
    original        what a person asked, where a model wrote `instruction`

Heavy packages such as torch are imported inside the functions that use them.
So --help works without them, and so does work with a server.
"""

from __future__ import annotations

if __name__ == "__main__":  # a part, no program: said before an import fails
    raise SystemExit(
        "shared.py is a part of the four backtranslation programs: run"
        "  python scripts/inverse_sft.py --help"
    )

import argparse
import gc
import json
import os
import re
import shutil
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import self_instruct_workshop as workshop
from scripts.asking import estimate, limits, per_row
from scripts.reading import records as reading
from scripts.training import cards, learnt, progress, shapes
from self_instruct_workshop import DATA, Prompt, Reply, UsageError, WorkshopError, one_line

Row = dict[str, Any]
Replies = list[Reply | None]
Options = argparse.Namespace

COLUMNS = ("id", "instruction", "input", "output", "original", "evaluation", "rating")

# The folders that --sample reads and writes.
SAMPLE = DATA / "backtranslation_sample"
SAMPLE_OUT = DATA / "workshop" / "backtranslation"

# The two tags of the paper. They tell the model where a pair comes from.
SEED_TAG = "Answer in the style of an AI Assistant."  # a person wrote the pair
WEB_TAG = "Answer with knowledge from web search."  # a model wrote its instruction

SPARE = 8  # tokens that stay free for <s>, </s> and the seams between pieces
STEP = 16  # examples a training step (paper: 32, or 8 for fewer than 3,000 examples)
REPLY = 80  # tokens in a reply, about: for the estimate

# --------------------------------------------------------------------------------------------------
# Rows: read from Guanaco's, LIMA's or our own files, and written as one JSON array.


def read(path: Path) -> list[Any]:
    """The records of a file, as all companions read them.

    Raises WorkshopError, which names the file and the line.
    """
    advice = "do the step before, name another file, or try --sample"
    return [record for _, record in reading.records(path, advice)]


def write(path: Path, rows: list[Row] | Row) -> None:
    workshop.write_whole(path, [json.dumps(rows, ensure_ascii=False, indent=1), "\n"])


def read_rows(path: Path, answers_do: bool = False) -> list[Row]:
    """Read the rows of a file in any of the shapes, or of a prepared folder.

    With `answers_do`, an answer without a question is a row, too. What is left out
    is counted on stderr. Raises WorkshopError for a wrong record, or for no row.
    """
    # Make a row of each record, or count why it is left out.
    path = shapes.train_file(path)
    rows = []
    left_out: Counter[str] = Counter()
    for number, record in enumerate(shapes.as_ours(path, read(path))):
        check_shape(f"{path}, row {number}", record, answers_do)
        row = to_row(number, record, answers_do)
        if isinstance(row, str):
            left_out[row] += 1
        else:
            rows.append(row)

    # Say what is missing.
    for reason, count in left_out.items():
        print(f"notice: {path.name}: {count} rows left out: {reason}", file=sys.stderr)
    if not rows:
        problem = "holds no pair of an instruction and an answer, so there is nothing to do"
        raise WorkshopError(f"{path} {problem}")
    return rows


def check_shape(where: str, record: Any, answers_do: bool) -> None:
    """Raise WorkshopError unless a record has one of the three shapes."""
    # Which texts must be there?
    if not isinstance(record, dict):
        texts = [None]
    elif "text" in record:
        texts = [record["text"]]
    elif "conversations" in record:
        turns = record["conversations"]
        texts = turns if isinstance(turns, list) else [None]
    else:
        question = record.get("instruction", "" if answers_do else None)
        texts = [question, record.get("output")]

    # All of them must be texts.
    if not all(isinstance(text, str) for text in texts):
        shapes = "neither `text` nor `conversations` nor `instruction` and `output`"
        raise WorkshopError(f"{where} has {shapes}, as texts: is it the right file?")


def turns_of(record: Row) -> list[str]:
    """A question, its answer, and any further turns; what is missing is empty."""
    if "text" in record:
        turns = first_turn(record["text"]) or []
    elif "conversations" in record:
        turns = record["conversations"]
    else:
        turns = [record.get("instruction", ""), record["output"]]
    return [turn.strip() for turn in turns] + ["", ""]


FIRST_TURN = re.compile(
    r"\s*### Human:(.*?)"  # the question
    r"### Assistant:(.*?)"  # the answer
    r"(?=### Human:|### Assistant:|\Z)",  # the next turn, or the end
    re.S,
)


def first_turn(text: str) -> tuple[str, str] | None:
    """The first question and answer of a text of Guanaco; None where one is missing.

    The text looks like this: `### Human: ...### Assistant: ...### Human: ...`
    """
    found = FIRST_TURN.match(text)
    if not found:
        return None
    question = found[1].strip()
    answer = found[2].strip()
    return (question, answer) if question and answer else None


def why_left_out(turns: list[str], answers_do: bool) -> str | None:
    """The reason why a record is left out; None for a record that is a pair."""
    question, answer, *more = turns
    if any(more):
        return "multi-turn"
    if not answer or not (question or answers_do):
        return "without a question or an answer"
    return None


def to_row(number: int, record: Row, answers_do: bool = False) -> Row | str:
    """The row of a record, or why it is left out.

    What the record says of itself comes before our defaults.
    """
    turns = turns_of(record)
    reason = why_left_out(turns, answers_do)
    if reason:
        return reason
    row = dict.fromkeys(COLUMNS, "") | {"id": number, "rating": None}
    known = {name: record[name] for name in COLUMNS if record.get(name) is not None}
    return row | known | {"instruction": turns[0], "output": turns[1]}


# --------------------------------------------------------------------------------------------------
# The only two templates, for training and for asking. They are plain text, so that every
# base model can use them. They end in a line break: many tokenizers would make one token
# of a space at the end and the word after it.


def backward_prompt(answer: str) -> str:
    task = "Write the instruction that this answer answers."
    return f"{task}\n\n### Answer:\n{answer}\n\n### Instruction:\n"


def forward_prompt(question: str, tag: str = "") -> str:
    tagged = f"{question} {tag}" if tag else question
    return f"### Instruction:\n{tagged}\n\n### Answer:\n"


def question_of(row: Row) -> str:
    if row["input"]:
        return f"{row['instruction']}\n\n{row['input']}"
    return row["instruction"]


def size(tokenizer: Any, text: str) -> int:
    """How many tokens a text has. Without a tokenizer: a third of its bytes, rounded up."""
    if tokenizer is None:
        return -(-len(text.encode()) // 3)
    return len(tokenizer(text, add_special_tokens=False)["input_ids"])


def clip(tokenizer: Any, text: str, limit: int) -> str:
    """The first `limit` tokens of a text, whole characters only."""
    # Without a tokenizer, a token counts as three bytes.
    limit = max(0, limit)
    if tokenizer is None:
        return text.encode()[: 3 * limit].decode(errors="ignore")

    # Cut where the first token begins that is too many.
    made = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    offsets = made["offset_mapping"]
    if len(offsets) <= limit:
        return text
    start, _ = offsets[limit]
    return text[:start]


def fit(tokenizer: Any, prompt: Callable[[str], str], answer: str, limit: int) -> str:
    """The prompt with as much of the answer as `limit` tokens let in.

    Raises WorkshopError where not even one token of the answer fits.
    """
    return prompt(clip(tokenizer, answer, room_in(tokenizer, prompt, limit)))


def room_in(tokenizer: Any, prompt: Callable[[str], str], limit: int) -> int:
    """How many tokens of an answer fit into a prompt. Raises WorkshopError where none does."""
    room = limit - SPARE - size(tokenizer, prompt(""))
    if room < 1:
        problem = "--max-length leaves no room for an answer beside the rest"
        raise WorkshopError(f"{problem}: give a larger one")
    return room


def chat_example(tokenizer: Any, row: Row, max_length: int) -> Row | None:
    """A row as turns of a chat: the trainer puts them into the model's own template.

    None where the instruction takes more than half of `max_length` (in tokens).
    """
    question = {"role": "user", "content": question_of(row)}
    answer = {"role": "assistant", "content": row["output"]}
    if size(tokenizer, question["content"]) > max_length // 2:
        return None
    whole = tokenizer.apply_chat_template([question, answer], tokenize=False)
    clipped = size(tokenizer, whole) > max_length
    return {"prompt": [question], "completion": [answer], "clipped": clipped}


def example(tokenizer: Any, row: Row, backward: bool, max_length: int, tag: str = "") -> Row | None:
    """A row as an example to learn: prompt, completion, and whether its answer is clipped.

    None where the instruction takes more than half of `max_length` (in tokens).
    The trainer clips a forward row, and the model then learns no end of its answer.
    """
    # Leave out a row with too long an instruction.
    question = question_of(row)
    answer = row["output"]
    taken = size(tokenizer, question)
    if taken > max_length // 2:
        return None

    # Backward: the answer is in the prompt. Forward: the answer is to be learnt.
    if backward:
        prompt = fit(tokenizer, backward_prompt, answer, max_length - taken)
        completion = question
        clipped = prompt != backward_prompt(answer)
    else:
        prompt = forward_prompt(question, tag)
        completion = answer
        clipped = size(tokenizer, prompt + answer) + 2 > max_length  # 2: <s> and </s>
    return {"prompt": prompt, "completion": completion, "clipped": clipped}


# --------------------------------------------------------------------------------------------------
# The command line, with the same names in all four scripts, and the hub.


def add_flags(
    parser: argparse.ArgumentParser,
    model: str,
    data: Path,
    out: Path,
    batch: int,
    epochs: int = 0,
) -> Callable:
    """Add the flags that every script has, and with `epochs` the flags of training.

    `model`, `data`, `out`, `batch` and `epochs` are defaults. Returns the function
    that adds one more flag.
    """
    # What goes in, and what comes out.
    add = parser.add_argument
    add("--model", default="", help=f"name on the hub, or a folder; an adapter's too [{model}]")
    add("--data", type=Path, default=data, help="what goes in [%(default)s]")
    add("--out", type=Path, default=out, help="what comes out [%(default)s]")

    # How it is done.
    add_size_flags(add, batch)
    add_machine_flags(add)
    if epochs:
        add_training_flags(add, epochs)

    # Settings that some scripts have no flag for. The paper samples with top_p 0.9.
    parser.set_defaults(default_model=model, base_url="", provider="", top_p=0.9, agreed=False)
    return add


def add_server_flags(parser: argparse.ArgumentParser, server: str) -> None:
    """The flags of a step that may ask a server: its address, the estimate, and limits."""
    parser.add_argument("--base-url", default="", metavar="URL", help=server)
    per_row.add_settings(parser, "how requests go", per_row.HOW)
    estimate.add_flags(parser)
    limits.add_flags(parser)
    parser.set_defaults(classify_together=1)  # lists are for stage 2 of the pipeline


def add_size_flags(add: Callable, batch: int) -> None:
    """How long texts are, and how many are worked on at once."""
    count = partial(add, type=positive, metavar="N")
    count("--max-length", default=2048, help="tokens of prompt and reply [%(default)s]")
    count("--max-new-tokens", default=256, help="longest reply [%(default)s]")
    count("--batch-size", default=batch, help="rows at once, for speed [%(default)s]")


def add_loading_flags(add: Callable) -> None:
    """How the weights of a model are loaded."""
    kinds = ("auto", "bfloat16", "float16", "float32")
    add("--dtype", choices=kinds, default="auto", help="[auto: what the GPU can]")
    four = "a quarter of the memory; needs bitsandbytes and an NVIDIA GPU"
    add("--load-in-4bit", action="store_true", help=four)


def add_machine_flags(add: Callable) -> None:
    """How the model is loaded, how random numbers begin, and where results go."""
    # Loading the model.
    add_loading_flags(add)

    # The random seed, the upload, and the trial run.
    add("--seed", type=int, default=42, metavar="N", help="random seed [%(default)s]")
    hub = "upload the result to the hub; log in by: hf auth login"
    add("--push-to", default="", metavar="USER/NAME", help=hub)
    add("--public", action="store_true", help="let all see what is uploaded [private]")
    sample = "our own small data and a tiny random model: seconds, on any CPU"
    add("--sample", action="store_true", help=sample)


def add_training_flags(add: Callable, epochs: int) -> None:
    """How strongly and how long the model is trained."""
    number = partial(add, type=float, metavar="X")
    rank = "rank of the adapter [%(default)s]"
    add("--lora-r", type=positive, default=16, metavar="N", help=rank)
    number("--lr", default=1e-4, help="learning rate (paper, not LoRA: 1e-5) [%(default)s]")
    number("--epochs", default=epochs, help="times through the data [%(default)s]")


def positive(text: str) -> int:
    """A whole number of at least 1, for argparse."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {text}")
    return int(text)


def served(options: Options) -> bool:
    """Whether a server has the model. Otherwise transformers loads it here."""
    return bool(options.base_url or options.provider)


def main(
    parser: argparse.ArgumentParser,
    arguments: list[str] | None,
    sample: Row,
    action: Callable[[Options], int | None],
) -> int:
    """Read the flags, do the step, and return the exit code.

    `sample` holds the defaults that --sample changes.
    """
    # Read the flags.
    typed = sys.argv[1:] if arguments is None else arguments
    if "--sample" in typed:
        change_to_sample(parser, sample)
    options = parser.parse_args(arguments)
    least = options.max_new_tokens + 64
    if options.max_length < least:
        other = f"--max-new-tokens {options.max_new_tokens}"
        parser.error(f"--max-length must be at least 64 more than {other}")

    # The trainer refuses several GPUs, unless a launcher started it for them.
    options.model = full_name(options)
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")

    # Do the step.
    return workshop.main(None, lambda _: do(action, options))


def change_to_sample(parser: argparse.ArgumentParser, sample: Row) -> None:
    """Take the defaults of --sample."""
    parser.set_defaults(**sample)
    # On a busy machine, two threads need three times as long for so small a model.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    said = "the steps are real, the tiny random model's words mean nothing"
    print(f"notice: --sample: {said}", file=sys.stderr)


def full_name(options: Options) -> str:
    """The name of the model. A folder here is named by its whole path.

    An adapter names its base, and it must find the base from any folder. A server
    without --model gets the empty name: it has a model of its own.
    """
    if served(options):
        return str(options.model)
    name = str(options.model or options.default_model)
    return str(Path(name).resolve()) if Path(name).is_dir() else name


def do(action: Callable[[Options], int | None], options: Options) -> int | None:
    """Do the step. Raises WorkshopError with advice for a missing package or full memory."""
    # Most errors are passed on as they are. For two of them, we know what helps.
    try:
        return action(options)
    except NothingAsked:
        return 0 if options.estimate else 1
    except ImportError as error:
        bits = "bitsandbytes" in str(error)
        what = ["bitsandbytes"] if bits else ["-r", "scripts/requirements-train.txt"]
        command = workshop.pip_install(*what)
        problem = one_line(str(error))
        raise WorkshopError(f"{problem}: run  {command}  first") from None
    except RuntimeError as error:
        if "out of memory" not in str(error):
            raise
        advice = "try a smaller --batch-size or --max-length, or --load-in-4bit"
        raise WorkshopError(f"the GPU's memory is full: {advice}") from None


def push(options: Options, kind: str, folder: Path, names: list[str], card: str) -> None:
    """Upload files of a folder, as a "model" or a "dataset", with their card.

    Uploads nothing without --push-to. What it makes on the hub is private unless --public is given.
    Raises WorkshopError where the hub refuses, and where all could see what is there already.
    """
    # Most users do not upload.
    if not options.push_to:
        return
    from huggingface_hub import HfApi

    # Make the place, then upload the files and the card. A place that is there stays as it is.
    hub = HfApi()
    where = {"repo_id": options.push_to, "repo_type": kind}
    try:
        seen = (
            not options.public and hub.repo_exists(**where) and not hub.repo_info(**where).private
        )
        if not seen:
            hub.create_repo(**where, private=not options.public, exist_ok=True)
            with TemporaryDirectory() as copy:
                cards.copy_for_others(folder, names, Path(copy))
                hub.upload_folder(**where, folder_path=copy, allow_patterns=names)
            hub.upload_file(**where, path_or_fileobj=card.encode(), path_in_repo="README.md")
    except Exception as error:  # the hub's client passes on errors of its HTTP library
        problem = f"cannot upload to {options.push_to} ({one_line(str(error))})"
        advice = f"run  hf auth login  and the same command; all is in {folder}"
        raise WorkshopError(f"{problem}: {advice}") from None
    if seen:
        problem = f"{options.push_to} is public, so that all would see the upload"
        raise WorkshopError(f"{problem}: add --public, or name another place")
    print(f"uploaded to {options.push_to}")


# --------------------------------------------------------------------------------------------------
# Models: a name on the hub, a folder, or a folder with an adapter that `train` wrote.


def device_and_dtype(dtype: str) -> tuple[str, str]:
    """Where a model works, and in which format of numbers, unless one is named."""
    import torch

    # Where it works.
    device = "cpu"
    if torch.cuda.is_available():
        device = "cuda"
    elif torch.backends.mps.is_available():
        device = "mps"

    # In which numbers. Older GPUs have no bfloat16.
    best = "float32"
    if device == "cuda":
        best = "bfloat16" if torch.cuda.is_bf16_supported() else "float16"
    return device, best if dtype == "auto" else dtype


def trained(model: str | Path) -> Row:
    """What `train` has noted about a model; empty for any other model.

    A text may be the name of a model on the hub, a Path is a folder here.
    """
    path: str | Path | None = Path(model) / "training.json"
    is_name = isinstance(model, str) and re.fullmatch(r"[\w.-]+/[\w.-]+", model)
    if is_name and not Path(model).exists():
        path = noted_on_hub(str(model))
    return reading.object_in(Path(path)) if path else {}


@lru_cache(maxsize=16)
def noted_on_hub(name: str) -> str | None:
    """The path of a downloaded training.json; None where the hub has none, or is not reached.

    What is wrong with the name itself is said by `load`.
    """
    try:
        from huggingface_hub import hf_hub_download

        return hf_hub_download(name, "training.json")
    except Exception:  # the hub's client passes on errors of its HTTP library
        return None


def load(kind: str, name: str, **how: Any) -> Any:
    """Load a tokenizer or a model, as `kind` says, by transformers.

    Raises WorkshopError, one line with advice, for a wrong folder or trouble with the hub.
    """
    import huggingface_hub
    import transformers

    # These packages talk much. We say ourselves what matters.
    huggingface_hub.utils.logging.set_verbosity_error()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()

    # Load it. The traceback names the first cause, the error often does not.
    try:
        if Path(name).is_dir() and not list(Path(name).glob("*config.json")):
            raise OSError("config.json is missing")
        return getattr(transformers, kind).from_pretrained(name, **how)
    except (OSError, ValueError, KeyError) as error:
        problem = f"{name} cannot be loaded: {one_line(str(error), 200)}"
        problem = advice_on(name, problem, traceback.format_exc())
    raise WorkshopError(problem)


def advice_on(name: str, problem: str, trace: str) -> str:
    """What to do about a model that cannot be loaded, from the traceback of the error."""
    # The terms of a model can be unaccepted even where the name is a folder.
    if re.search("GatedRepoError|access a gated repo", trace):
        terms = f"accept its terms on https://huggingface.co/{name}"
        return f"{name} is gated: {terms} and run  hf auth login  first"
    if Path(name).is_dir():
        return f"the folder {problem}"

    # The hub has no such name, or cannot be reached.
    if re.search("RepositoryNotFound|not a valid model identifier", trace):
        advice = "check --model, or run  hf auth login  first"
        return f"{name} is neither a folder here nor on the hub: {advice}"
    if re.search("Connect|Offline|LocalEntryNotFound|[Tt]imed? ?out|couldn't connect", trace):
        advice = f"run  hf download {name}  where there is a network"
        return f"{name} is not here, the hub cannot be reached: {advice}"
    return problem


@lru_cache(maxsize=1)
def load_tokenizer(name: str) -> Any:
    tokenizer = load("AutoTokenizer", name, padding_side="left")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.unk_token or tokenizer.eos_token
    return tokenizer


def load_model(name: str, dtype: str, in_4bit: bool) -> Any:
    """The model on the device where it will work; an adapter comes with its base.

    Raises WorkshopError for --load-in-4bit without an NVIDIA GPU.
    """
    import torch

    # Forget the model before: a GPU with 24 GB holds one model of 7B, not two.
    asked_model.cache_clear()
    gc.collect()  # a trainer and its model hold each other
    torch.cuda.empty_cache()

    # Load it whole, or with four bits a number.
    device, dtype = device_and_dtype(dtype)
    if not in_4bit:
        return load("AutoModelForCausalLM", name, dtype=dtype).to(device)
    if device != "cuda":
        problem = "--load-in-4bit needs an NVIDIA GPU, and none is here"
        raise WorkshopError(f"{problem}: leave it out, or use --base-url")
    how = {"quantization_config": four_bits(dtype), "device_map": {"": 0}}
    return load("AutoModelForCausalLM", name, dtype=dtype, **how)


def four_bits(dtype: str) -> Any:
    """The settings for a model with four bits a number, as in QLoRA."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


# The model that is asked stays in memory for the next batch.
asked_model = lru_cache(maxsize=1)(load_model)


# --------------------------------------------------------------------------------------------------
# Training: LoRA on the base model, the loss on the completion alone.

# The flags that change what is learnt. `train` notes them.
NOTED = ("lr", "epochs", "lora_r", "max_length", "batch_size", "seed", "dtype", "load_in_4bit")

# What a program may set that has no flag in the four steps, and what holds where it does not.
SPECIAL = {
    "chat_form": False,  # learn in the chat template of the model, not in our plain one
    "max_steps": 0,  # so many steps, whatever --epochs says; 0: --epochs says it
    "unseen": (),  # rows whose loss is taken five times on the way; they are not learnt
}


def special(options: Options, name: str) -> Any:
    """A setting of SPECIAL, or what holds where the program does not set it."""
    return getattr(options, name, SPECIAL[name])


def train(options: Options, rows: list[tuple[Row, str]], backward: bool) -> Row:
    """Train an adapter on pairs of (row, tag) into options.out.

    Begins at its last checkpoint, if there is one. Does nothing where the same training
    has ended already. Returns what training.json says. Raises UsageError where
    options.model is an adapter, or where options.out was trained in another way.
    """
    # What training is this, and what was done before?
    base = trained(options.model).get("base")
    if base:
        problem = f"--model {options.model} is an adapter"
        raise UsageError(f"{problem}: training starts from the base, here {base}")
    note = note_of(options, rows, backward)
    out = Path(options.out)
    figures = trained(out)
    check_same(out, figures, note)

    # Train. The loss is noted at the end, so it tells whether training has ended.
    if "loss" not in figures:
        write(out / "training.json", note)
        figures = note | fit_adapter(options, rows, backward)
        write(out / "training.json", figures)
        for checkpoint in out.glob("checkpoint-*"):
            shutil.rmtree(checkpoint)
    show_figures(figures)
    return figures


def note_of(options: Options, rows: list[tuple[Row, str]], backward: bool) -> Row:
    """What makes a training this one: direction, base model, data and settings."""
    note = {"direction": "backward" if backward else "forward", "base": options.model}
    note["tags"] = sorted({tag for _, tag in rows})
    for name in NOTED:
        note[name] = getattr(options, name)
    for name in ("chat_form", "max_steps"):
        if special(options, name):
            note[name] = special(options, name)
    note["data"] = sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()[:16]
    return note


def check_same(out: Path, before: Row, note: Row) -> None:
    """Raise UsageError where the folder holds a training with other settings."""
    if not before:
        return
    names = dict.fromkeys([*note, "chat_form", "max_steps"])  # a dict keeps the order
    changed = [name for name in names if before.get(name) != note.get(name)]
    if changed:
        problem = f"{out} was trained with other settings ({', '.join(changed)})"
        advice = "give another --out, or delete that folder to train anew"
        raise UsageError(f"{problem}: {advice}")


def show_figures(figures: Row) -> None:
    examples = f"{figures['examples']} examples"
    limit = f"--max-length {figures['max_length']}"
    print(f"{examples}; {figures['clipped']} answers clipped to {limit}")
    time_taken = f"{figures['steps']} steps in {figures['seconds']} s"
    print(f"{time_taken}, {figures['gpu_gib']} GiB of GPU memory; loss", *figures["loss"])


def fit_adapter(options: Options, rows: list[tuple[Row, str]], backward: bool) -> Row:
    """Do the training. Returns its figures: counts, steps, seconds, GiB, losses.

    Raises WorkshopError where every instruction is too long.
    """
    import torch

    # Make the trainer, and look for a training that was broken off.
    tokenizer = load_tokenizer(options.model)
    started = time.monotonic()
    examples = make_examples(options, tokenizer, rows, backward)
    trainer = make_trainer(options, tokenizer, examples)
    learnt.show(trainer, tokenizer, examples)
    checkpoint = last_checkpoint(Path(options.out))
    if checkpoint:
        print(f"going on from {checkpoint.name}", file=sys.stderr)

    # Train and save.
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    trainer.save_model(str(options.out))

    # Count.
    history = trainer.state.log_history
    unseen = [[line["step"], line["eval_loss"]] for line in history if "eval_loss" in line]
    return {
        "examples": len(examples),
        "clipped": sum(one["clipped"] for one in examples),
        "steps": trainer.state.global_step,
        "seconds": round(time.monotonic() - started, 1),
        "gpu_gib": round(torch.cuda.max_memory_allocated() / 2**30, 1),
        "loss": [round(line["loss"], 2) for line in history if "loss" in line],
    } | ({"unseen_loss": unseen} if unseen else {})


def make_examples(
    options: Options, tokenizer: Any, rows: list[tuple[Row, str]], backward: bool
) -> list[Row]:
    """The examples of (row, tag) pairs. Rows with too long an instruction are counted."""
    # Make an example of each row that fits.
    limit = options.max_length
    if special(options, "chat_form"):
        made = [chat_example(tokenizer, row, limit) for row, _ in rows]
    else:
        made = [example(tokenizer, row, backward, limit, tag) for row, tag in rows]
    examples = [one for one in made if one is not None]

    # Say what is left out.
    left_out = len(made) - len(examples)
    if left_out:
        why = f"their instruction is longer than half of --max-length {limit}"
        print(f"notice: {left_out} rows left out: {why}", file=sys.stderr)
    if not examples:
        raise WorkshopError("no row is left to train on: give a larger --max-length")
    return examples


def make_trainer(options: Options, tokenizer: Any, examples: list[Row]) -> Any:
    """TRL's trainer for the examples, ready to start."""
    import datasets
    import peft
    import transformers
    import trl

    # Be quiet. TRL itself still uses names that will go.
    datasets.disable_progress_bars()
    warnings.simplefilter("ignore", FutureWarning)

    # The adapter begins at random, so the seed is set before.
    transformers.set_seed(options.seed)
    model = load_model(options.model, options.dtype, options.load_in_4bit)
    lora = peft.LoraConfig(
        r=options.lora_r,
        lora_alpha=2 * options.lora_r,
        lora_dropout=0.05,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )

    # Put it together. Rows that are not learnt only have their loss taken.
    unseen = None
    if special(options, "unseen"):
        kept = make_examples(options, tokenizer, special(options, "unseen"), backward=False)
        unseen = datasets.Dataset.from_list(kept).remove_columns("clipped")
    trainer = trl.SFTTrainer(
        model,
        training_settings(options, len(examples)),
        train_dataset=datasets.Dataset.from_list(examples).remove_columns("clipped"),
        eval_dataset=unseen,
        processing_class=tokenizer,
        peft_config=lora,
    )
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.add_callback(progress.callback())
    return trainer


def training_settings(options: Options, examples: int) -> Any:
    """TRL's settings. A number of steps below 1 is a share of all steps."""
    import trl

    # Each group of settings has its own comment.
    device, dtype = device_and_dtype(options.dtype)
    gpu = device == "cuda"
    return trl.SFTConfig(
        output_dir=str(options.out),
        seed=options.seed,
        # What is learnt: the completion alone.
        max_length=options.max_length,
        completion_only_loss=True,
        # How it is learnt.
        learning_rate=options.lr,
        lr_scheduler_type="cosine",
        warmup_steps=0.03,
        num_train_epochs=options.epochs,
        max_steps=special(options, "max_steps") or -1,  # -1: the epochs say it
        per_device_train_batch_size=options.batch_size,
        gradient_accumulation_steps=max(1, min(STEP, examples) // options.batch_size),
        # What is kept and said meanwhile.
        save_strategy="steps",
        save_steps=0.1,
        save_total_limit=1,
        logging_steps=0.1,
        eval_strategy="steps" if special(options, "unseen") else "no",
        eval_on_start=bool(special(options, "unseen")),
        eval_steps=0.25,
        per_device_eval_batch_size=options.batch_size,
        report_to="none",
        disable_tqdm=not sys.stderr.isatty(),
        # What only a GPU can do.
        bf16=gpu and dtype == "bfloat16",
        fp16=gpu and dtype == "float16",
        gradient_checkpointing=gpu,
        dataloader_pin_memory=gpu,
    )


def last_checkpoint(out: Path) -> Path | None:
    """The newest checkpoint that is whole; None without one.

    The trainer writes trainer_state.json last, so a whole checkpoint has it.
    """
    states = out.glob("checkpoint-*/trainer_state.json")
    whole = [state.parent for state in states if state.stat().st_size]
    return max(whole, key=number_of, default=None)


def number_of(checkpoint: Path) -> int:
    """The step at which a checkpoint was written: 20 for checkpoint-20."""
    return int(checkpoint.name.rpartition("-")[2])


# --------------------------------------------------------------------------------------------------
# Asking: by transformers here, or over HTTP. Both keep a journal of the replies. So an
# interrupted script goes on when the same command is run again.


def prompts_for(options: Options, rows: list[Row], prompt: Callable[[Row, str], str]) -> list[str]:
    """The prompt of each row with its answer, clipped to what --max-length leaves.

    `prompt` makes a text of a row and its (clipped) answer.
    """
    answers = clipped_answers(options, rows, prompt)
    return [prompt(row, answer) for row, answer in zip(rows, answers, strict=True)]


def clipped_answers(
    options: Options, rows: list[Row], prompt: Callable[[Row, str], str], spare: int = 0
) -> list[str]:
    """The answer of each row, clipped so that its prompt leaves `spare` tokens free."""
    # The tokenizer of a server's model is not here.
    tokenizer = None if served(options) else load_tokenizer(options.model)
    limit = options.max_length - options.max_new_tokens - spare

    # Clip the answers, and count the clipped ones.
    answers = []
    for row in rows:
        room = room_in(tokenizer, partial(prompt, row), limit)
        answers.append(clip(tokenizer, row["output"], room))
    clipped = sum(len(row["output"]) > len(one) for row, one in zip(rows, answers, strict=True))
    total = f"{len(rows)} answers in prompts"
    print(f"{total}; {clipped} clipped to --max-length {options.max_length}")
    return answers


def replies_of(options: Options) -> Path:
    """The folder with the journal of every reply that went into --out."""
    return options.out.with_name(options.out.name.removesuffix(".json") + "_replies")


def generate(
    options: Options, stage: str, prompts: list[Prompt], temperature: float, chat: bool = False
) -> Replies:
    """The reply to each prompt; None where a server gave none. The next call asks again.

    With `chat`, a chat model gets the prompt in its own form; it may be a list of turns then.
    Otherwise the model goes on writing from the plain text.
    """
    # A server has its own way.
    if served(options):
        return ask_server(options, stage, prompts, temperature, chat)

    # What is asked, in the words of the journal.
    asked = {
        "stage": stage,
        "provider": "transformers",
        "model": options.model,
        "temperature": temperature,
        "chat": chat,
        "max_tokens": options.max_new_tokens,
        "seed": options.seed,
        "top_p": options.top_p,
    }
    keys = keys_of(options, asked, prompts)

    # Ask for what the journal lacks, then read all from the journal.
    lock, journal = workshop.open_journal(replies_of(options), "")
    try:
        answer_missing(options, asked, prompts, keys, journal)
        records = [journal.get(key) for key in keys]
    finally:
        journal.file.close()
        lock.release()
    return [Reply(record["text"], record["finish_reason"]) for record in records]


def keys_of(options: Options, asked: Row, prompts: list[Prompt]) -> list[str]:
    """The key of each prompt in the journal: another --batch-size asks nothing again.

    The note of the training is part of it: an adapter that is trained anew is another
    model in the same folder.
    """
    note = {name: value for name, value in trained(options.model).items() if name != "held_out"}
    whole = [asked, note]
    texts = [json.dumps([*whole, prompt]) for prompt in prompts]
    return [sha256(text.encode()).hexdigest()[:32] for text in texts]


def answer_missing(
    options: Options,
    asked: Row,
    prompts: list[Prompt],
    keys: list[str],
    journal: workshop.Journal,
) -> None:
    """Write a reply to each prompt into the journal, where it is not there yet.

    Prompts of similar length are in one batch. Each prompt has random numbers of its own: so
    neither an interruption nor another batch changes a reply.
    """
    from tqdm import tqdm

    # What is missing in batches, short prompts first.
    order = sorted(range(len(prompts)), key=lambda i: len(workshop.as_text(prompts[i])))
    missing = [i for i in order if not journal.get(keys[i])]
    starts = range(0, len(missing), options.batch_size)
    lines = progress.Lines(asked["stage"], "replies")
    for start in tqdm(starts, desc=asked["stage"], disable=None, leave=False):
        # Ask, and write the replies down.
        batch = missing[start : start + options.batch_size]
        lines.say(start, len(missing))
        texts = [prompts[i] for i in batch]
        made = answer_batch(options, texts, asked["temperature"], asked["chat"], options.seed)
        for i, reply in zip(batch, made, strict=True):
            record = {"version": workshop.VERSION, "key": keys[i], **asked, **asdict(reply)}
            journal.append(record | {"prompt": prompts[i]})


def answer_batch(
    options: Options, prompts: list[Prompt], temperature: float, chat: bool, seed: int
) -> list[Reply]:
    """The replies to one batch."""
    import transformers

    # The prompts as tokens, padded on the left: a model goes on from the end.
    tokenizer = load_tokenizer(options.model)
    model = asked_model(options.model, options.dtype, options.load_in_4bit)
    inputs = batch_inputs(options, tokenizer, prompts, chat).to(model.device)

    # How the model writes. At temperature 0 it takes the likeliest token.
    how = {"max_new_tokens": options.max_new_tokens, "pad_token_id": tokenizer.pad_token_id}
    if temperature:
        dice = Dice([f"{seed}/{workshop.as_text(prompt)}" for prompt in prompts])
        warm = transformers.TemperatureLogitsWarper(temperature)
        top = transformers.TopPLogitsWarper(options.top_p)
        how["logits_processor"] = transformers.LogitsProcessorList([warm, top, dice])

    # Write. What comes back begins with the prompts.
    whole = model.generate(**inputs, **how, do_sample=False)
    prompt_length = inputs["input_ids"].shape[1]
    written = whole[:, prompt_length:]

    # Make texts of the tokens.
    texts = tokenizer.batch_decode(written, skip_special_tokens=True)
    ends = (tokenizer.eos_token_id, tokenizer.pad_token_id)
    replies = []
    for text, tokens in zip(texts, written.tolist(), strict=True):
        cut = len(tokens) == options.max_new_tokens and tokens[-1] not in ends
        replies.append(Reply(text.strip(), "length" if cut else "stop"))
    return replies


class Dice:
    """Random numbers for each prompt of a batch, whatever the others are.

    With Gumbel noise on the logits, the likeliest token is drawn as often as its probability says.
    """

    def __init__(self, seeds: list[str]) -> None:
        import torch

        numbers = [int(sha256(seed.encode()).hexdigest()[:15], 16) for seed in seeds]
        self.generators = [torch.Generator().manual_seed(number) for number in numbers]

    def __call__(self, _: Any, scores: Any) -> Any:
        """Scores of (batch, tokens) with noise. A token that is ruled out (-inf) stays so."""
        import torch

        rows = [torch.rand(scores.shape[1], generator=dice) for dice in self.generators]
        noise = -torch.log(-torch.log(torch.stack(rows).clamp(1e-20, 1 - 1e-7)))
        return scores.float() + noise.to(scores.device)


def knows_chats(options: Options) -> bool:
    """Whether the model takes turns of a chat: a server's does, and one with a chat template.

    A model that we trained knows our own template alone, unless it was trained in its own.
    """
    if served(options):
        return True
    note = trained(options.model)
    ours = bool(note) and not note.get("chat_form")
    return not ours and bool(load_tokenizer(options.model).chat_template)


def batch_inputs(options: Options, tokenizer: Any, prompts: list[Prompt], chat: bool) -> Any:
    """The tokens of a batch of prompts, in the form that the model knows.

    A model that we trained knows our template, unless it was trained in its own. A chat model
    knows its own, which begins with <s> already. Any other model gets the plain text.
    """
    # Which form does the model know?
    own_form = chat and knows_chats(options)
    texts = prompts
    if own_form:
        how = {"tokenize": False, "add_generation_prompt": True}
        if special(options, "chat_form"):
            how["enable_thinking"] = False  # of models that think: short answers have no room
        texts = tokenizer.apply_chat_template([workshop.as_turns(one) for one in prompts], **how)
    elif chat and trained(options.model):
        texts = [forward_prompt(prompt) for prompt in prompts]

    # Make tokens of it. All prompts of a batch are as long as its longest one.
    return tokenizer(
        texts,
        return_tensors="pt",
        padding=True,
        add_special_tokens=not own_form,
        return_token_type_ids=False,
    )


def ask_server(
    options: Options, stage: str, prompts: list[Prompt], temperature: float, chat: bool
) -> Replies:
    """Ask a server by the pipeline's own door, with its providers, limits, retries and journal.

    A chat model gets the prompt as a message. Otherwise the plain text goes to
    /v1/completions, as it does in the recipe `paper`. Raises NothingAsked where the user only
    wanted the estimate, or said no.
    """
    # How to sample, and what to ask.
    sampling = {"top_p": options.top_p} if temperature else {}
    said = {"max_tokens": options.max_new_tokens, "temperature": temperature}
    asking = argparse.Namespace(**{**vars(options), **said, "parameters": sampling})
    questions = [PromptAndSeed(prompt, options.seed) for prompt in prompts]

    # Ask many at once. Any text counts as a reply.
    with per_row.RowModel(server_config(options, chat), asking, stage) as model:
        if not options.agreed and not per_row.go_on(model, asking, questions, REPLY):
            raise NothingAsked
        options.agreed = True
        replies = per_row.ask(model, questions, readable=lambda text: True)
        model.journal.file.close()

    # Say what is missing.
    for why, count in Counter(why for _, why in model.undone).items():
        advice = "the same command asks again"
        print(f"notice: {count} without a reply ({why}): {advice}", file=sys.stderr)
    return replies


def server_config(options: Options, chat: bool) -> workshop.Config:
    """Where to ask, how, and where to keep the replies."""
    settings: Row = {"concurrency": options.batch_size}
    for name in per_row.HOW.split():
        if getattr(options, name, None) is not None:
            settings[name] = getattr(options, name)
    return workshop.Config(
        provider=options.provider or "local",
        base_url=options.base_url,
        model=options.model,
        work_dir=str(replies_of(options)),
        recipe="modern" if chat else "paper",
        **settings,
    )


class NothingAsked(Exception):
    """The user wanted to see the estimate alone, or said no to it."""


@dataclass(frozen=True)
class PromptAndSeed:
    """A question to a server."""

    prompt: Prompt
    seed: int

    def identity(self) -> Row:
        """What makes its key in the journal, beside the settings."""
        return {"prompt": self.prompt, "seed": self.seed}
