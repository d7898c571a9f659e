"""What the four scripts of instruction backtranslation share (Li et al., 2023, https://arxiv.org/abs/2308.06259).

    1 inverse_sft.py                a backward model learns to write the instruction that an answer answers
    2 self_augmentation_lima.py     it writes instructions for answers, as if these had none
    3 self_curation.py              a model rates the pairs, and the good ones are kept
    4 finetune_model.py             the base model learns from them to answer

Nothing to run here. Rows have one shape from start to end, COLUMNS, which trainers for the Alpaca shape load as it is:
`instruction` and `output` are the pair, `original` is what a person had asked where a model wrote `instruction`, `id`
is the row's number in its source. torch and its like are imported where they are used: --help and servers need none.
"""

from __future__ import annotations

if __name__ == "__main__":  # a part, no program: said before an import fails
    raise SystemExit(
        "shared.py is a part of the four backtranslation programs: run  python scripts/inverse_sft.py --help"
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
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from functools import lru_cache, partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import self_instruct_workshop as workshop
from self_instruct_workshop import DATA, Reply, UsageError, WorkshopError, one_line

Row, Replies, Options = dict[str, Any], list[Reply | None], argparse.Namespace
COLUMNS = ("id", "instruction", "input", "output", "original", "evaluation", "rating")
SAMPLE, SAMPLE_OUT = DATA / "backtranslation_sample", DATA / "workshop" / "backtranslation"  # --sample reads and writes
SEED_TAG = "Answer in the style of an AI Assistant."  # the paper's two tags: a person wrote the pair,
WEB_TAG = "Answer with knowledge from web search."  # or a model wrote its instruction
SPARE = 8  # tokens kept free for <s>, </s> and the seams between pieces
STEP = 16  # examples in one step of training (the paper: 32, or 8 for fewer than 3,000 examples)
NEXT = "\n\nInstruction:"  # where a base model that rates a pair goes on with one of its own
LIMA_CARD = """---
license: cc-by-nc-sa-4.0
---
Made by instruction backtranslation (https://arxiv.org/abs/2308.06259) from the answers of LIMA (GAIR/lima), CC BY-NC-SA
or stricter; what is made of them has the same licence. A model wrote `instruction`, a person had asked `original`,
`output` is LIMA's answer, `id` its row in train.jsonl; `rating`, from 1 to 5, and `evaluation` are a model's.
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
        problem = f": {error.strerror}: do the step before, name another file, or try --sample"
    except ValueError as error:  # of JSON or of its bytes
        line = number or getattr(error, "lineno", 1)
        problem = f", line {line} is malformed: a JSON array or JSON Lines, in UTF-8, are expected"
    raise WorkshopError(f"{path}{problem}")


def write(path: Path, rows: list[Row] | Row) -> None:
    workshop.write_whole(path, [json.dumps(rows, ensure_ascii=False, indent=1), "\n"])


def first_turn(text: str) -> tuple[str, str] | None:
    """The first question and answer of a text of Guanaco, `### Human: ...### Assistant: ...`; None where one lacks."""
    found = re.match(r"\s*### Human:(.*?)### Assistant:(.*?)(?=### Human:|### Assistant:|\Z)", text, re.S)
    question, answer = (part.strip() for part in found.groups()) if found else ("", "")
    return (question, answer) if question and answer else None


def to_row(number: int, record: Row, answers_do: bool = False) -> Row | str:
    """A record of Guanaco, LIMA or our own shape as a row, or why it is left out; `answers_do` without a question?"""
    if "text" in record:
        question, answer = first_turn(record["text"]) or ("", "")
    elif "conversations" in record:
        question, answer, *more = [turn.strip() for turn in record["conversations"]] + [""] * 2
        if any(more):
            return "multi-turn"
    else:
        question, answer = record.get("instruction", "" if answers_do else None).strip(), record["output"].strip()
    if not answer or not (question or answers_do):
        return "without a question or an answer"
    row = dict.fromkeys(COLUMNS, "") | {"id": number, "rating": None}
    row |= {name: record[name] for name in COLUMNS if record.get(name) is not None}
    return row | {"instruction": question, "output": answer}


def read_rows(path: Path, answers_do: bool = False) -> list[Row]:
    """The rows of a file in any of the three shapes; what is left out is counted on stderr."""
    made: list[Row | str] = []
    for number, record in enumerate(read(path)):
        try:
            made.append(to_row(number, record, answers_do))
        except (TypeError, KeyError, AttributeError):
            problem = f"{path}, row {number} has neither `text` nor `conversations` nor `instruction` and `output`"
            raise WorkshopError(f"{problem}, as texts: is it the right file?") from None
    for reason, n in Counter(row for row in made if isinstance(row, str)).items():
        print(f"notice: {path.name}: {n} rows left out: {reason}", file=sys.stderr)
    if not (rows := [row for row in made if isinstance(row, dict)]):
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
    if (taken := size(tokenizer, question)) > max_length // 2:
        return None
    if backward:
        prompt = fit(tokenizer, backward_prompt, answer, max_length - taken)
        return {"prompt": prompt, "completion": question, "clipped": prompt != backward_prompt(answer)}
    prompt = forward_prompt(question, tag)
    return {"prompt": prompt, "completion": answer, "clipped": size(tokenizer, prompt + answer) + 2 > max_length}


SCORE = re.compile(
    r"(?i)(?<![a-z])(?:score|rating|评分|得分|分数|打分)(?:\s*\(?\s*(?:1\s*(?:-|–|to)|out of)\s*5\s*\)?)?"
    r"(?:\W|_|is|of|为|是){0,9}?(?P<number>\d[\d.,]*)(?:[ \t*_()]*(?P<of>(?:/|out of|of|-|–|~|to|or)\s*\d+))?"
)


def parse_rating(reply: str) -> int | None:
    """The last score of a reply, a whole number from 1 to 5; None where it cannot be told."""
    found = list(SCORE.finditer(unicodedata.normalize("NFKC", reply.split(NEXT)[0])))
    whole = found and re.fullmatch(r"([1-5])(?:\.0+)?[.,]*", found[-1]["number"])
    return int(whole[1]) if whole and re.fullmatch(r"(?i)((/|(out )?of)\s*5)?", found[-1]["of"] or "") else None


# ----------------------------------------------------------------------------------------------------------------------
# The command line, with the same names in all four scripts, and the hub.


def add_flags(
    parser: argparse.ArgumentParser, model: str, data: Path, out: Path, batch: int, epochs: int = 0
) -> Callable:
    """Add the flags that every script has, and with `epochs` those of training; returns what adds one more."""
    add = parser.add_argument
    add("--model", default="", help=f"name on the hub, or a folder; an adapter's too [{model}]")
    add("--data", type=Path, default=data, help="what goes in [%(default)s]")
    add("--out", type=Path, default=out, help="what comes out [%(default)s]")
    add("--max-length", type=positive, default=2048, metavar="N", help="tokens of prompt and reply [%(default)s]")
    add("--max-new-tokens", type=positive, default=256, metavar="N", help="longest reply [%(default)s]")
    add("--batch-size", type=positive, default=batch, metavar="N", help="rows at once, for speed [%(default)s]")
    add("--dtype", choices=("auto", "bfloat16", "float16", "float32"), default="auto", help="[auto: what the GPU can]")
    add("--load-in-4bit", action="store_true", help="a quarter of the memory; needs bitsandbytes and an NVIDIA GPU")
    add("--seed", type=int, default=42, metavar="N", help="random seed [%(default)s]")
    add("--push-to", default="", metavar="USER/NAME", help="upload the result to the hub; log in by: hf auth login")
    add("--sample", action="store_true", help="our own small data and a tiny random model: seconds, on any CPU")
    if epochs:
        add("--lora-r", type=positive, default=16, metavar="N", help="rank of the adapter [%(default)s]")
        add("--lr", type=float, default=1e-4, metavar="X", help="learning rate (paper, not LoRA: 1e-5) [%(default)s]")
        add("--epochs", type=float, default=epochs, metavar="X", help="times through the data [%(default)s]")
    parser.set_defaults(default_model=model, base_url="", provider="", top_p=0.9)  # top_p: the paper's
    return add


def positive(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {text}")
    return int(text)


def served(options: Options) -> bool:
    return bool(options.base_url or options.provider)


def main(parser: argparse.ArgumentParser, arguments: list[str] | None, sample: Row, action: Callable) -> int:
    """Read the flags, do the step, and return the exit code; `sample` is what --sample changes of the defaults."""
    if "--sample" in (sys.argv[1:] if arguments is None else arguments):
        parser.set_defaults(**sample)
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # on a busy machine, two threads take three times as long here
        print("notice: --sample: the steps are real, the tiny random model's words mean nothing", file=sys.stderr)
    options = parser.parse_args(arguments)
    if options.max_length < options.max_new_tokens + 64:
        parser.error(f"--max-length must be at least 64 more than --max-new-tokens {options.max_new_tokens}")
    options.model = str(options.model or ("" if served(options) else options.default_model))
    if Path(options.model).is_dir() and not served(options):
        options.model = str(Path(options.model).resolve())  # adapters name their base: it must be found from anywhere
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")  # the trainer refuses several GPUs that nothing launched it for

    def do(_: Any) -> int | None:
        try:
            return action(options)
        except ImportError as error:
            what = "bitsandbytes" if "bitsandbytes" in str(error) else "-r scripts/requirements-train.txt"
            raise WorkshopError(f"{one_line(str(error))}: run  {sys.executable} -m pip install {what}  first") from None
        except RuntimeError as error:
            if "out of memory" not in str(error):
                raise
            how = "try a smaller --batch-size or --max-length, or --load-in-4bit"
            raise WorkshopError(f"the GPU's memory is full: {how}") from None

    return workshop.main(None, do)


def push(options: Options, kind: str, folder: Path, names: list[str], card: str) -> None:
    """Upload files of a folder, as a "model" or a "dataset", with their card; nothing unless --push-to names where."""
    if not options.push_to:
        return
    from huggingface_hub import HfApi

    hub, where = HfApi(), {"repo_id": options.push_to, "repo_type": kind}
    try:
        hub.create_repo(**where, exist_ok=True)
        hub.upload_folder(**where, folder_path=str(folder), allow_patterns=names)
        hub.upload_file(**where, path_or_fileobj=card.encode(), path_in_repo="README.md")
    except Exception as error:  # those of whichever HTTP library the hub's client has
        problem = f"cannot upload to {options.push_to} ({one_line(str(error))})"
        raise WorkshopError(f"{problem}: run  hf auth login  and the same command; all is in {folder}") from None
    print(f"uploaded to {options.push_to}")


# ----------------------------------------------------------------------------------------------------------------------
# Models: a name on the hub, a folder, or a folder with an adapter that `train` wrote.


def device_and_dtype(dtype: str) -> tuple[str, str]:
    """Where a model works, and in which format of numbers, unless one is named."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    best = "float32" if device != "cuda" else "bfloat16" if torch.cuda.is_bf16_supported() else "float16"
    return device, best if dtype == "auto" else dtype


def trained(model: str | Path) -> Row:
    """What `train` has noted about a model; empty for any other."""
    with suppress(OSError, ValueError):
        return json.loads((Path(model) / "training.json").read_text(encoding="utf-8"))
    return {}


def load(kind: str, name: str, **how: Any) -> Any:
    """A tokenizer or a model by transformers. What goes wrong, with the hub or in a folder, is one line with advice."""
    import huggingface_hub
    import transformers

    huggingface_hub.utils.logging.set_verbosity_error()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        if Path(name).is_dir() and not [*Path(name).glob("*config.json")]:
            raise OSError("config.json is missing")
        return getattr(transformers, kind).from_pretrained(name, **how)
    except (OSError, ValueError, KeyError) as error:
        said, problem = traceback.format_exc(), f"{name} cannot be loaded: {one_line(str(error), 200)}"
    if re.search("GatedRepoError|access a gated repo", said):
        problem = f"{name} is gated: accept its terms on https://huggingface.co/{name} and run  hf auth login  first"
    elif Path(name).is_dir():
        problem = f"the folder {problem}"
    elif re.search("RepositoryNotFound|not a valid model identifier", said):
        problem = f"{name} is neither a folder here nor on the hub: check --model, or run  hf auth login  first"
    elif re.search("Connect|Offline|LocalEntryNotFound|[Tt]imed? ?out|couldn't connect", said):
        problem = f"{name} is not here, the hub cannot be reached: run  hf download {name}  where there is a network"
    raise WorkshopError(problem)


@lru_cache(maxsize=1)
def load_tokenizer(name: str) -> Any:
    tokenizer = load("AutoTokenizer", name, padding_side="left")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.unk_token or tokenizer.eos_token
    return tokenizer


def load_model(name: str, dtype: str, in_4bit: bool) -> Any:
    """The model, an adapter with its base, on the device where it will work."""
    import torch
    from transformers import BitsAndBytesConfig

    asked_model.cache_clear()  # of two models with 7B, a GPU with 24 GB holds one
    gc.collect()  # a trainer and its model hold each other
    torch.cuda.empty_cache()
    device, dtype = device_and_dtype(dtype)
    if not in_4bit:
        return load("AutoModelForCausalLM", name, dtype=dtype).to(device)
    if device != "cuda":
        raise WorkshopError("--load-in-4bit needs an NVIDIA GPU, and none is here: leave it out, or use --base-url")
    four = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True, "bnb_4bit_compute_dtype": dtype}
    how = {"quantization_config": BitsAndBytesConfig(load_in_4bit=True, **four), "device_map": {"": 0}}
    return load("AutoModelForCausalLM", name, dtype=dtype, **how)


asked_model = lru_cache(maxsize=1)(load_model)


# ----------------------------------------------------------------------------------------------------------------------
# Training: LoRA on the base, the loss on the completion alone.


def train(options: Options, rows: list[tuple[Row, str]], backward: bool) -> Row:
    """Train an adapter on (row, tag) pairs into options.out, from its last checkpoint where there is one; return what
    training.json says. Done already with the same settings: nothing happens."""
    if base := trained(options.model).get("base"):
        raise UsageError(f"--model {options.model} is an adapter: training starts from the base, here {base}")
    names = ("lr", "epochs", "lora_r", "max_length", "batch_size", "seed", "dtype", "load_in_4bit")
    note = {"direction": "backward" if backward else "forward", "base": options.model}
    note |= {"tags": sorted({tag for _, tag in rows}), **{name: getattr(options, name) for name in names}}
    note["data"] = sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()[:16]
    before, out = trained(options.out), Path(options.out)
    if changed := [name for name in note if before and before.get(name) != note[name]]:
        how = "give another --out, or delete that folder to train anew"
        raise UsageError(f"{out} was trained with other settings ({', '.join(changed)}): {how}")
    if "loss" not in before:  # it is noted at the end
        write(out / "training.json", note)
        before = note | fit_adapter(options, rows, backward)
        write(out / "training.json", before)
        for checkpoint in out.glob("checkpoint-*"):
            shutil.rmtree(checkpoint)
    print("{examples} examples; {clipped} answers clipped to --max-length {max_length}".format(**before))
    print("{steps} steps in {seconds} s, {gpu_gib} GiB of GPU memory; loss".format(**before), *before["loss"])
    return before


def fit_adapter(options: Options, rows: list[tuple[Row, str]], backward: bool) -> Row:
    """The training itself; returns its figures."""
    import torch

    tokenizer, started = load_tokenizer(options.model), time.monotonic()
    made = [example(tokenizer, row, backward, options.max_length, tag) for row, tag in rows]
    if left_out := made.count(None):
        why = f"their instruction is longer than half of --max-length {options.max_length}"
        print(f"notice: {left_out} rows left out: {why}", file=sys.stderr)
    if not (examples := [one for one in made if one]):
        raise WorkshopError("no row is left to train on: give a larger --max-length")
    trainer, checkpoint = make_trainer(options, tokenizer, examples), last_checkpoint(Path(options.out))
    if checkpoint:
        print(f"going on from {checkpoint.name}", file=sys.stderr)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    trainer.save_model(str(options.out))
    figures = {"examples": len(examples), "clipped": sum(one["clipped"] for one in examples)}
    figures |= {"steps": trainer.state.global_step, "seconds": round(time.monotonic() - started, 1)}
    figures["gpu_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 1)
    return figures | {"loss": [round(line["loss"], 2) for line in trainer.state.log_history if "loss" in line]}


def make_trainer(options: Options, tokenizer: Any, examples: list[Row]) -> Any:
    import datasets
    import peft
    import transformers
    import trl

    datasets.disable_progress_bars()
    warnings.simplefilter("ignore", FutureWarning)  # of names that TRL itself still uses
    transformers.set_seed(options.seed)  # the adapter begins at random, too
    model = load_model(options.model, options.dtype, options.load_in_4bit)
    device, dtype = device_and_dtype(options.dtype)
    lora = peft.LoraConfig(
        r=options.lora_r, lora_alpha=2 * options.lora_r, lora_dropout=0.05, target_modules="all-linear",
        task_type="CAUSAL_LM",
    )  # fmt: skip
    settings = trl.SFTConfig(
        output_dir=str(options.out), max_length=options.max_length, completion_only_loss=True, seed=options.seed,
        learning_rate=options.lr, num_train_epochs=options.epochs, per_device_train_batch_size=options.batch_size,
        gradient_accumulation_steps=max(1, min(STEP, len(examples)) // options.batch_size),
        lr_scheduler_type="cosine", warmup_steps=0.03, logging_steps=0.1,  # below 1: shares of all steps
        save_strategy="steps", save_steps=0.1, save_total_limit=1, report_to="none",
        bf16=device == "cuda" and dtype == "bfloat16", fp16=device == "cuda" and dtype == "float16",
        gradient_checkpointing=device == "cuda", dataloader_pin_memory=device == "cuda",
        disable_tqdm=not sys.stderr.isatty(),
    )  # fmt: skip
    columns = datasets.Dataset.from_list(examples).remove_columns("clipped")
    trainer = trl.SFTTrainer(model, settings, train_dataset=columns, processing_class=tokenizer, peft_config=lora)
    trainer.remove_callback(transformers.PrinterCallback)
    return trainer


def last_checkpoint(out: Path) -> Path | None:
    """The newest checkpoint that was written to its end: trainer_state.json comes last."""
    whole = [state.parent for state in out.glob("checkpoint-*/trainer_state.json") if state.stat().st_size]
    return max(whole, key=lambda folder: int(folder.name.rpartition("-")[2]), default=None)


# ----------------------------------------------------------------------------------------------------------------------
# Asking, by transformers here or over HTTP. Both keep a journal, so that going on is running the same command again.


def prompts_for(options: Options, rows: list[Row], prompt: Callable[[Row, str], str]) -> list[str]:
    """The prompt of each row with its answer, clipped to what --max-length leaves. A server's tokenizer is not here."""
    tokenizer, room = None if served(options) else load_tokenizer(options.model), options.max_length
    made = [fit(tokenizer, partial(prompt, row), row["output"], room - options.max_new_tokens) for row in rows]
    clipped = sum(text != prompt(row, row["output"]) for text, row in zip(made, rows, strict=True))
    print(f"{len(rows)} answers in prompts; {clipped} clipped to --max-length {room}")
    return made


def replies_of(options: Options) -> Path:
    """The folder with the journal of every reply that went into --out."""
    return options.out.with_name(options.out.name.removesuffix(".json") + "_replies")


def ask_server(options: Options, stage: str, prompts: list[str], temperature: float, chat: bool) -> Replies:
    """Ask by the pipeline's own door: its providers, retries and journal. Plain text goes to /v1/completions."""
    config = workshop.Config(
        provider=options.provider or "local", base_url=options.base_url, model=options.model,
        work_dir=str(replies_of(options)), concurrency=options.batch_size, recipe="modern" if chat else "paper",
    )  # fmt: skip
    sampling = {"max_tokens": options.max_new_tokens, "temperature": temperature}
    sampling |= {"top_p": options.top_p} if temperature else {}

    def ask(prompt: str) -> Reply:
        return model.ask(stage, prompt, sampling, {"prompt": prompt, "seed": options.seed}, readable=lambda text: True)

    with workshop.Model(config) as model:
        answers = model.ask_each(stage, ask, prompts)
        replies = [reply for _, reply in workshop.progress(model, stage, len(prompts), answers)]
        model.journal.file.close()
    for why, n in Counter(why for _, why in model.undone).items():
        print(f"notice: {n} without a reply ({why}): the same command asks again", file=sys.stderr)
    return replies


def generate(options: Options, stage: str, prompts: list[str], temperature: float, chat: bool = False) -> Replies:
    """The reply to each prompt; None where a server gave none, which the next call asks for again. With `chat`, a chat
    model gets the prompt in its own form; else it goes on writing from the plain text. Here prompts of similar length
    are batched, each batch with a random seed of its own, so that an interrupted call and a whole one give the same."""
    if served(options):
        return ask_server(options, stage, prompts, temperature, chat)
    from tqdm import tqdm

    asked = {"stage": stage, "provider": "transformers", "model": options.model, "temperature": temperature}
    asked |= {"chat": chat, "max_tokens": options.max_new_tokens, "seed": options.seed, "top_p": options.top_p}
    whole = [asked, options.batch_size, trained(options.model)]  # the same folder may hold an adapter trained anew
    keys = [sha256(json.dumps([*whole, prompt]).encode()).hexdigest()[:32] for prompt in prompts]
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    lock, journal = workshop.open_journal(replies_of(options), "")
    try:
        for start in tqdm(range(0, len(order), options.batch_size), desc=stage, disable=None, leave=False):
            batch = order[start : start + options.batch_size]
            if not all(journal.get(keys[i]) for i in batch):
                made = answer_batch(options, [prompts[i] for i in batch], temperature, chat, options.seed + start)
                for i, reply in zip(batch, made, strict=True):
                    journal.append(
                        {"version": workshop.VERSION, "key": keys[i], **asked, **asdict(reply), "prompt": prompts[i]}
                    )
        return [Reply(record["text"], record["finish_reason"]) for record in map(journal.get, keys)]
    finally:
        journal.file.close()
        lock.release()


def answer_batch(options: Options, prompts: list[str], temperature: float, chat: bool, seed: int) -> list[Reply]:
    """The replies to one batch, padded on the left: a model goes on from the end."""
    import transformers

    tokenizer, model = load_tokenizer(options.model), asked_model(options.model, options.dtype, options.load_in_4bit)
    own = bool(trained(options.model))  # our finetuned models know our template, chat models theirs
    texts = [forward_prompt(prompt) for prompt in prompts] if chat and own else prompts
    if as_chat := chat and not own and bool(tokenizer.chat_template):
        turns = [[{"role": "user", "content": prompt}] for prompt in prompts]
        texts = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    how = {"add_special_tokens": not as_chat, "return_token_type_ids": False}  # a chat's form has its <s> already
    inputs = tokenizer(texts, return_tensors="pt", padding=True, **how).to(model.device)
    sampling = {"temperature": temperature, "top_p": options.top_p, "top_k": 0} if temperature else {}
    length = {"max_new_tokens": options.max_new_tokens, "pad_token_id": tokenizer.pad_token_id}
    transformers.set_seed(seed)
    made = model.generate(**inputs, **length, do_sample=bool(temperature), **sampling)
    made, ends = made[:, inputs["input_ids"].shape[1] :], (tokenizer.eos_token_id, tokenizer.pad_token_id)
    cut = [len(tokens) == options.max_new_tokens and tokens[-1] not in ends for tokens in made.tolist()]
    texts = [text.strip() for text in tokenizer.batch_decode(made, skip_special_tokens=True)]
    return [Reply(*reply) for reply in zip(texts, ["length" if one else "stop" for one in cut], strict=True)]
