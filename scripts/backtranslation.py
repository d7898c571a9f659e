"""What the four scripts of instruction backtranslation share (Li et al., 2023, https://arxiv.org/abs/2308.06259).

    1 inverse_sft.py                a backward model learns to write the instruction that an answer answers
    2 self_augmentation_lima.py     it writes instructions for answers, as if these had none
    3 self_curation.py              a model rates the pairs, and the good ones are kept
    4 finetune_model.py             the base model learns from them to answer

Nothing to run here. Rows have one shape from start to end, COLUMNS, which trainers for the Alpaca shape load as it is:
`instruction` and `output` are the pair, `original` is what a person had asked where a model wrote `instruction`, `id`
is the row's number in its source. torch and all that belongs to it is imported where it is used, so --help is instant.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
import time
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, fields
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import self_instruct_workshop as workshop
from self_instruct_workshop import DATA, Reply, UsageError, WorkshopError, one_line

Row = dict[str, Any]
COLUMNS = ("id", "instruction", "input", "output", "original", "evaluation", "rating")
SAMPLE, SAMPLE_OUT = DATA / "backtranslation_sample", DATA / "workshop" / "backtranslation"  # --sample reads and writes
SEED_TAG = "Answer in the style of an AI Assistant."  # the paper's two tags: a person wrote the pair,
WEB_TAG = "Answer with knowledge from web search."  # or a model wrote its instruction
STEP = 16  # examples in one step of training (the paper: 32, or 8 for fewer than 3,000 examples)
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


def to_row(number: int, record: Row) -> Row | str:
    """A record of Guanaco, LIMA or our own shape as a row, or why it is left out."""
    if "text" in record:
        question, answer = first_turn(record["text"]) or ("", "")
    elif "conversations" in record:
        question, answer, *more = [turn.strip() for turn in record["conversations"]] + [""] * 2
        if any(more):
            return "multi-turn"
    else:
        question, answer = record["instruction"].strip(), record["output"].strip()
    if not question or not answer:
        return "without a question or an answer"
    empty = {"id": number, "input": "", "original": "", "evaluation": "", "rating": None}
    row = empty | {name: record[name] for name in empty if record.get(name) is not None}
    return {name: (row | {"instruction": question, "output": answer})[name] for name in COLUMNS}


def read_rows(path: Path) -> list[Row]:
    """The rows of a file in any of the three shapes; what is left out is counted on stderr."""
    rows, left_out = [], Counter()
    for number, record in enumerate(read(path)):
        try:
            row = to_row(number, record)
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
    return prompt(clip(tokenizer, answer, limit - SPARE - size(tokenizer, prompt(""))))


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
# Models: a name on the hub, a folder, or a folder with an adapter that `train` wrote.


def device_and_dtype(dtype: str) -> tuple[str, str]:
    """Where a model works, and in which format of numbers, unless one is named."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    best = "bfloat16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "float16"
    return device, dtype if dtype != "auto" else best if device == "cuda" else "float32"


def trained(model: str | Path) -> Row:
    """What `train` has noted about a model; empty for any other."""
    with suppress(OSError, ValueError):
        return json.loads((Path(model) / "training.json").read_text(encoding="utf-8"))
    return {}


@lru_cache(maxsize=1)
def load_tokenizer(name: str) -> Any:
    import huggingface_hub
    import transformers

    huggingface_hub.utils.logging.set_verbosity_error()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(name, padding_side="left")
    except (OSError, ValueError, KeyError) as error:
        raise WorkshopError(why_not_loaded(name, error)) from None
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.unk_token or tokenizer.eos_token
    return tokenizer


def load_model(name: str, dtype: str, in_4bit: bool) -> Any:
    """The model, an adapter with its base, on the device where it will work."""
    import transformers

    (device, dtype), how = device_and_dtype(dtype), {}
    if in_4bit:
        if device != "cuda":
            raise WorkshopError("--load-in-4bit needs an NVIDIA GPU, and none is here: leave it out, or use --base-url")
        four = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True, "bnb_4bit_compute_dtype": dtype}
        how = {"quantization_config": transformers.BitsAndBytesConfig(load_in_4bit=True, **four), "device_map": {"": 0}}
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(name, dtype=dtype, **how)
    except (OSError, ValueError, KeyError) as error:
        raise WorkshopError(why_not_loaded(name, error)) from None
    return model if in_4bit else model.to(device)


asked_model = lru_cache(maxsize=1)(load_model)  # of two models of 7B, one GPU holds one


def why_not_loaded(name: str, error: BaseException | None) -> str:
    """What an error of the hub or of transformers means, and what to do, in one line."""
    said, first = "", one_line(str(error), 200)
    while error:
        said, error = f"{said} {type(error).__name__}: {error}", error.__cause__ or error.__context__
    if re.search("GatedRepoError|access a gated repo", said):
        return f"{name} is gated: accept its terms on https://huggingface.co/{name} and run  hf auth login  first"
    if Path(name).is_dir():
        return f"the folder {name} holds no model that can be loaded: {first}"
    if re.search("RepositoryNotFound|not a valid model identifier", said):
        return f"{name} is neither a folder here nor a model on the hub: check --model, or run  hf auth login  first"
    if re.search("Connect|Offline|LocalEntryNotFound|[Tt]imed? ?out|couldn't connect", said):
        return f"{name} is not here and the hub cannot be reached: run  hf download {name}  where there is a network"
    return f"{name} cannot be loaded: {first}"


def sample_model(folder: Path = SAMPLE_OUT / "tiny", width: int = 64) -> str:
    """Build the model of --sample, once: a random Llama of 200,000 weights with a tokenizer made of our own texts."""
    import tokenizers
    import transformers
    from tokenizers import decoders, models, pre_tokenizers, processors, trainers

    if (folder / "model.safetensors").exists():
        return str(folder)
    core = tokenizers.Tokenizer(models.BPE())
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    letters = pre_tokenizers.ByteLevel.alphabet()
    learner = trainers.BpeTrainer(vocab_size=1200, special_tokens=[*special.values()], initial_alphabet=letters)
    core.train_from_iterator([path.read_text(encoding="utf-8") for path in sorted(SAMPLE.glob("*.json*"))], learner)
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    transformers.PreTrainedTokenizerFast(tokenizer_object=core, **special).save_pretrained(folder)
    transformers.set_seed(42)
    config = transformers.LlamaConfig(
        vocab_size=core.get_vocab_size(), hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=4096, initializer_range=0.2, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)


# ----------------------------------------------------------------------------------------------------------------------
# Training: LoRA on the base, the loss on the completion alone.


def train(options: argparse.Namespace, rows: list[tuple[Row, str]], backward: bool) -> Row:
    """Train an adapter on (row, tag) pairs into options.out, from its last checkpoint where there is one; return what
    training.json says. Done already with the same settings: nothing happens."""
    if trained(options.model):
        base = trained(options.model)["base"]
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
        workshop.write_whole(out / "training.json", [json.dumps(note, indent=1)])
        before = note | fit_adapter(options, rows, backward)
        workshop.write_whole(out / "training.json", [json.dumps(before, indent=1)])
        for checkpoint in out.glob("checkpoint-*"):
            shutil.rmtree(checkpoint)
    loss = " ".join(f"{value:.2f}" for value in before["loss"])
    print(f"{before['examples']} examples; {before['clipped']} answers clipped to --max-length {options.max_length}")
    print(f"{before['steps']} steps in {before['seconds']} s, {before['gpu_gib']} GiB of GPU memory; loss {loss}")
    return before


def fit_adapter(options: argparse.Namespace, rows: list[tuple[Row, str]], backward: bool) -> Row:
    """The training itself; returns its figures."""
    import torch

    tokenizer, started = load_tokenizer(options.model), time.monotonic()
    made = [example(tokenizer, row, backward, options.max_length, tag) for row, tag in rows]
    examples = [one for one in made if one]
    if len(examples) < len(rows):
        n, half = len(rows) - len(examples), f"half of --max-length {options.max_length}"
        print(f"notice: {n} rows left out: their instruction is longer than {half}", file=sys.stderr)
    if not examples:
        raise WorkshopError("no row is left to train on: give a larger --max-length")
    trainer = make_trainer(options, tokenizer, examples)
    check_labels(trainer, tokenizer, examples)
    if checkpoint := last_checkpoint(Path(options.out)):
        print(f"going on from {checkpoint.name}", file=sys.stderr)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    trainer.save_model(str(options.out))
    return {
        "examples": len(examples),
        "clipped": sum(one["clipped"] for one in examples),
        "steps": trainer.state.global_step,
        "seconds": round(time.monotonic() - started, 1),
        "gpu_gib": round(torch.cuda.max_memory_allocated() / 2**30, 1) if torch.cuda.is_available() else 0,
        "loss": [round(line["loss"], 4) for line in trainer.state.log_history if "loss" in line],
    }


def make_trainer(options: argparse.Namespace, tokenizer: Any, examples: list[Row]) -> Any:
    import datasets
    import peft
    import transformers
    import trl

    datasets.disable_progress_bars()
    warnings.simplefilter("ignore", FutureWarning)  # of names that TRL itself still uses
    transformers.set_seed(options.seed)  # the adapter begins at random, too
    model, (device, dtype) = (
        load_model(options.model, options.dtype, options.load_in_4bit),
        device_and_dtype(options.dtype),
    )
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
    columns = datasets.Dataset.from_list([{name: one[name] for name in ("prompt", "completion")} for one in examples])
    trainer = trl.SFTTrainer(model, settings, train_dataset=columns, processing_class=tokenizer, peft_config=lora)
    trainer.remove_callback(transformers.PrinterCallback)
    return trainer


def check_labels(trainer: Any, tokenizer: Any, examples: list[Row]) -> None:
    """Before anything is trained: what is learnt must be exactly a completion and the end token."""
    shortest = min(range(len(examples)), key=lambda i: len(examples[i]["prompt"] + examples[i]["completion"]))
    learnt, wanted = decoded_labels(trainer, tokenizer, shortest), examples[shortest]["completion"]
    if learnt != wanted + tokenizer.eos_token and not examples[shortest]["clipped"]:
        problem = f"the labels are {one_line(learnt)!r} and should be {one_line(wanted)!r} and an end token"
        raise WorkshopError(f"{problem}: install the versions of scripts/requirements-train.txt")


def decoded_labels(trainer: Any, tokenizer: Any, index: int) -> str:
    """What the loss of an example is taken on, as text."""
    labels = trainer.data_collator([trainer.train_dataset[index]])["labels"][0]
    return tokenizer.decode(labels[labels != -100])


def last_checkpoint(out: Path) -> Path | None:
    """The newest checkpoint that was written to its end: trainer_state.json comes last."""
    whole = []
    for path in out.glob("checkpoint-*"):
        with suppress(OSError, ValueError):
            whole.append((json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))["global_step"], path))
    return max(whole, default=(0, None))[1]


# ----------------------------------------------------------------------------------------------------------------------
# Asking, by transformers here or over HTTP. Both keep a journal, so that going on is running the same command again.


def served(options: argparse.Namespace) -> bool:
    return bool(options.base_url or options.provider)


def tokenizer_of(options: argparse.Namespace) -> Any:
    """None for a server's model: its tokenizer is not here."""
    return None if served(options) else load_tokenizer(options.model)


def backward_prompts(options: argparse.Namespace, rows: list[Row]) -> list[str]:
    """The backward prompt of each row's answer, clipped to what --max-length leaves."""
    tokenizer, room = tokenizer_of(options), options.max_length - options.max_new_tokens
    prompts = [fit(tokenizer, backward_prompt, row["output"], room) for row in rows]
    clipped = sum(prompt != backward_prompt(row["output"]) for prompt, row in zip(prompts, rows, strict=True))
    print(f"{len(rows)} answers to write an instruction for; {clipped} clipped to --max-length {options.max_length}")
    return prompts


def replies_of(out: Path) -> Path:
    """The folder with the journal of every reply that went into a file or a model."""
    return out.with_name(out.stem + "_replies")


def generate(
    options: argparse.Namespace, stage: str, prompts: list[str], temperature: float, chat: bool = False
) -> list[Reply | None]:
    """The reply to each prompt; None where a server gave none, which the next call asks for again. With `chat`, a chat
    model gets the prompt in its own form; else it goes on writing from the plain text."""
    return (ask_server if served(options) else ask_here)(options, stage, prompts, temperature, chat)


def ask_server(
    options: argparse.Namespace, stage: str, prompts: list[str], temperature: float, chat: bool
) -> list[Reply | None]:
    """Ask by the pipeline's own door: its providers, retries and journal. Plain text goes to /v1/completions."""
    config = workshop.Config(
        provider=options.provider or "local", base_url=options.base_url, model=options.model,
        work_dir=str(replies_of(options.out)), concurrency=options.batch_size, recipe="modern" if chat else "paper",
    )  # fmt: skip
    parameters = {"max_tokens": options.max_new_tokens, "temperature": temperature}
    parameters |= {"top_p": options.top_p} if temperature else {}

    def ask(prompt: str) -> Reply:
        question = {"prompt": prompt, "seed": options.seed}
        return model.ask(stage, prompt, parameters, question, readable=lambda text: True)

    with workshop.Model(config) as model:
        answers = workshop.in_parallel(model, stage, ask, prompts)
        replies = [reply for _, reply in workshop.progress(model, stage, len(prompts), answers)]
        model.journal.file.close()
    for why, n in Counter(why for _, why in model.undone).items():
        print(f"notice: {n} without a reply ({why}): the same command asks again", file=sys.stderr)
    return replies


def ask_here(
    options: argparse.Namespace, stage: str, prompts: list[str], temperature: float, chat: bool
) -> list[Reply | None]:
    """Ask a model of transformers in batches of similar length. Each batch has a random seed of its own, so that an
    interrupted call and a whole one give the same."""
    from tqdm import tqdm

    identity = {"stage": stage, "attempt": 0, "provider": "transformers", "model": options.model}
    identity |= {"adapter": digest(options.model), "temperature": temperature, "top_p": options.top_p, "chat": chat}
    identity |= {"max_tokens": options.max_new_tokens, "seed": options.seed, "batch_size": options.batch_size}
    keys = [sha256(json.dumps({**identity, "prompt": prompt}).encode()).hexdigest()[:32] for prompt in prompts]
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    lock, journal = workshop.open_journal(replies_of(options.out), "")
    try:
        for start in tqdm(range(0, len(order), options.batch_size), desc=stage, disable=None, leave=False):
            batch = order[start : start + options.batch_size]
            if not all(journal.get(keys[i]) for i in batch):
                made = answer_batch(options, [prompts[i] for i in batch], temperature, chat, options.seed + start)
                for i, reply in zip(batch, made, strict=True):
                    journal.append({"version": workshop.VERSION, "key": keys[i], **identity, **asdict(reply)})
        return [Reply(**{f.name: journal.get(key)[f.name] for f in fields(Reply)}) for key in keys]
    finally:
        journal.file.close()
        lock.release()


def answer_batch(
    options: argparse.Namespace, prompts: list[str], temperature: float, chat: bool, seed: int
) -> list[Reply]:
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
    replies, when = [], datetime.now(UTC).isoformat(timespec="milliseconds")
    for prompt, tokens in zip(prompts, made[:, inputs["input_ids"].shape[1] :].tolist(), strict=True):
        ended = len(tokens) < options.max_new_tokens or tokens[-1] in (tokenizer.eos_token_id, tokenizer.pad_token_id)
        text = tokenizer.decode(tokens, skip_special_tokens=True).strip()
        replies.append(Reply(text, "stop" if ended else "length", prompt=prompt, created_at=when))
    return replies


def digest(model: str) -> str:
    """Tells an adapter from one that was trained anew in the same folder."""
    file = Path(model) / "adapter_model.safetensors"
    return sha256(file.read_bytes()).hexdigest()[:16] if file.exists() else ""


# ----------------------------------------------------------------------------------------------------------------------
# Judging: ratings as models write them, and how like one text is to another.

SCORE = re.compile(
    r"(?i)(?<![a-z])(?:score|rating|评分|得分|分数)(?:\s*\(?\s*1\s*(?:-|–|to)\s*5\s*\)?)?(?:\W|_|is|of|为|是){0,9}?"
    r"(?P<number>\d[\d.,]*)(?P<of>\s*(?:/|out of|of|-|–|~|to|or)\s*\d+)?"
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
    options.model = str(options.model or ("" if served(options) else options.default_model))
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
