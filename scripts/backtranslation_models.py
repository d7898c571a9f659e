"""Models of instruction backtranslation: loading them, training an adapter, and asking, here or over HTTP.

Nothing to run here: the four scripts named in backtranslation.py do. torch and all that belongs to it is imported where
it is used, so that --help and servers need none of it.
"""

from __future__ import annotations

import argparse
import gc
import json
import re
import shutil
import sys
import time
import warnings
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, fields
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import self_instruct_workshop as workshop
from scripts.backtranslation import SAMPLE, SAMPLE_OUT, Row, backward_prompt, example, fit, forward_prompt, served
from self_instruct_workshop import Reply, UsageError, WorkshopError, one_line

STEP = 16  # examples in one step of training (the paper: 32, or 8 for fewer than 3,000 examples)

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
    if Path(name).is_dir() and not [*Path(name).glob("*config.json")]:
        raise WorkshopError(why_not_loaded(name, OSError("config.json is missing")))
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


HELD: dict[tuple, Any] = {}  # the model that is asked


def asked_model(*which: Any) -> Any:
    """The model that is asked, loaded once."""
    if which not in HELD:
        let_go()
        HELD[which] = load_model(*which)
    return HELD[which]


def let_go() -> None:
    """Free the models of before: of two with 7B, a GPU with 24 GB holds one."""
    import torch

    HELD.clear()
    gc.collect()  # a trainer and its model hold each other
    torch.cuda.empty_cache()


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
    transformers.logging.disable_progress_bar()
    how = {"special_tokens": [*special.values()], "initial_alphabet": letters, "show_progress": False}
    learner = trainers.BpeTrainer(vocab_size=1200, **how)
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
    gpu = f", {before['gpu_gib']} GiB of GPU memory" if before["gpu_gib"] else ""
    print(f"{before['steps']} steps in {before['seconds']} s{gpu}; loss {loss}")
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
    let_go()
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
    return out.with_name(out.name.removesuffix(".json") + "_replies")


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
