"""Make of a GGUF file the folder that trainers load: weights, tokenizer, chat template.

    python scripts/gguf_to_folder.py smollm2-135m-instruct.gguf models/smollm2
    python scripts/gguf_to_folder.py qwen.gguf models/qwen --dtype bfloat16

The first command takes 10 seconds on a laptop, and 2 GB of memory: 4 bytes a parameter, twice.
Nothing is downloaded.

Programs such as llama.cpp keep a model in one GGUF file, most often with weights of 4 to 8 bits.
Trainers read a folder: config.json, model.safetensors, tokenizer.json and, for a chat model, its
chat template. Here transformers reads the file, and the weights become plain numbers again. What
the few bits have lost stays lost: the model is the one in the file, not its original.

The folder must not be there yet. It appears at the end, whole; a call that is broken off leaves
no folder that looks whole. To train it:

    python scripts/finetune_model.py --model models/smollm2 --data FILE
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from importlib import util
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import self_instruct_workshop as workshop
from scripts.asking.parser import Parser
from self_instruct_workshop import UsageError, WorkshopError, leave, one_line

PACKAGES = ("torch", "transformers", "gguf")
DTYPES = ("float32", "bfloat16", "float16")
DAMAGED = "it is damaged, or did not arrive whole: get it anew"

# Further marks at which a chat model ends its turn, beside eos: their ids stand in the file.
ENDS = ("tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id")


def convert(options: argparse.Namespace) -> None:
    """Read the file, write the folder, and say what is in it."""
    # Can it be done at all?
    check_places(options.file, options.folder)
    check_packages()
    facts = read_header(options.file)

    # Read the file.
    tokenizer = load_tokenizer(options.file)
    model = load_model(options.file, options.dtype)
    model.generation_config.eos_token_id = ends_of(model.config.eos_token_id, facts)

    # Write the folder.
    write_folder(options.folder, model, tokenizer)
    workshop.show(said(options, facts, model, tokenizer))


def check_places(file: Path, folder: Path) -> None:
    """Raise WorkshopError without a GGUF file, and UsageError where the folder is there."""
    if not file.is_file():
        raise WorkshopError(f"{file} is not there, or no file: name a GGUF file")
    if folder.exists() or folder.is_symlink():
        raise UsageError(f"{folder} is there already: name a new folder")
    with open(file, "rb") as opened:
        if opened.read(4) != b"GGUF":
            raise WorkshopError(f"{file} is no GGUF file: name one that begins with GGUF")


def check_packages() -> None:
    """Raise WorkshopError where a package is missing, or too old."""
    missing = [name for name in PACKAGES if util.find_spec(name) is None]
    if missing:
        install = workshop.pip_install("-r", "scripts/requirements-train.txt")
        raise WorkshopError(f"this needs {', '.join(missing)}: run  {install}  first")

    # Older versions write tokenizers that cannot be read again.
    be_quiet()
    import transformers

    if not hasattr(transformers, "GgufConfig"):
        install = workshop.pip_install("--upgrade", "transformers")
        problem = f"transformers {transformers.__version__} is too old for this"
        raise WorkshopError(f"{problem}: run  {install}  first")


def be_quiet() -> None:
    """Ask nothing of the hub, and show no advice of the libraries. A screen gets a progress bar."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    # tqdm reads this variable once, when it is imported; programs started later must not see it.
    before = os.environ.get("TQDM_DISABLE")
    if not sys.stderr.isatty():
        os.environ["TQDM_DISABLE"] = before or "1"
    import transformers

    if before is None:
        os.environ.pop("TQDM_DISABLE", None)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


# --------------------------------------------------------------------------------------------------
# What comes in.


def read_header(file: Path) -> dict[str, Any]:
    """What the file says of itself: its keys with their values, without the long lists.

    Reading it checks that each tensor lies within the file. Raises WorkshopError for a file that
    is damaged, or one part of several.
    """
    from gguf import GGUFReader

    # What is cut off is complained of by numpy, in words about arrays.
    try:
        reader = GGUFReader(file)
    except (ValueError, KeyError, IndexError, OverflowError, OSError):
        raise WorkshopError(f"{file} cannot be read as GGUF: {DAMAGED}") from None
    short = {name: field for name, field in reader.fields.items() if len(field.data) == 1}
    facts = {name: field.contents() for name, field in short.items()}

    # Is it the whole of a language model?
    if facts.get("split.count", 1) > 1:
        problem = f"{file} is one of {facts['split.count']} parts"
        raise WorkshopError(f"{problem}: join them first, by llama-gguf-split --merge")
    if not facts.get("general.architecture") or not reader.tensors:
        raise WorkshopError(f"{file} holds no model: {DAMAGED}")
    return facts


def load_tokenizer(file: Path) -> Any:
    """The tokenizer, with the chat template where the file has one."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name)
    except Exception as error:  # whatever the library says of a file that it does not know
        raise not_known(file, error) from None


def load_model(file: Path, dtype: str) -> Any:
    """The model with plain weights.

    Raises WorkshopError where transformers does not know the architecture, where a weight is
    missing (it would be random), and where a weight is no number.
    """
    import torch
    import transformers

    # Without being told to unpack them, transformers keeps the few bits.
    plain = transformers.GgufConfig(dequantize=True)
    how = {"gguf_file": file.name, "dtype": getattr(torch, dtype), "quantization_config": plain}
    how["output_loading_info"] = True
    try:
        model, found = transformers.AutoModelForCausalLM.from_pretrained(str(file.parent), **how)
    except Exception as error:  # whatever the library says of a file that it does not know
        raise not_known(file, error) from None

    # Is each weight there?
    missing = sorted(found["missing_keys"]) or sorted(map(str, found["mismatched_keys"]))
    if missing:
        problem = f"{file} lacks {len(missing)} weights, such as {missing[0]}"
        raise WorkshopError(f"{problem}: {DAMAGED}")
    if not all(weight.isfinite().all() for weight in model.parameters()):
        raise WorkshopError(f"{file} has weights that are no numbers: {DAMAGED}")

    # It is a plain model now, and is saved as one.
    model.hf_quantizer = None
    return model


def not_known(file: Path, error: Exception) -> WorkshopError:
    problem = f"transformers cannot read {file} ({one_line(str(error), 150)})"
    return WorkshopError(f"{problem}: take another model, or a newer transformers")


def ends_of(eos: int | list[int] | None, facts: dict[str, Any]) -> int | list[int] | None:
    """The tokens at which generation ends: eos, and the end of a turn where it is another one."""
    known = eos if isinstance(eos, list) else [eos] if eos is not None else []
    further = [facts[name] for name in ENDS if name in facts]
    found = list(dict.fromkeys([*known, *further]))
    return found if len(found) > 1 else eos


# --------------------------------------------------------------------------------------------------
# What goes out.


def write_folder(folder: Path, model: Any, tokenizer: Any) -> None:
    """Write all files into a folder beside, which then takes the name.

    Raises WorkshopError where this cannot be done, for want of space say; nothing is left then.
    """
    made = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", suffix=".part", dir=folder.parent))
        model.save_pretrained(made)
        tokenizer.save_pretrained(made)
        made.chmod(0o755)
        made.rename(folder)
    except BaseException as error:
        if made is not None:
            shutil.rmtree(made, ignore_errors=True)
        if isinstance(error, OSError) or type(error).__name__ == "SafetensorError":
            why = getattr(error, "strerror", "") or one_line(str(error))
            raise WorkshopError(f"cannot write {folder} ({why}): name another folder") from None
        raise


def said(options: argparse.Namespace, facts: dict, model: Any, tokenizer: Any) -> str:
    """What the folder holds."""
    # The model.
    say = workshop.spoken
    parameters = sum(weight.numel() for weight in model.parameters()) / 1e6
    architecture = model.config.architectures[0]
    lines = [say(f"{architecture}: {parameters:,.1f} million parameters, {options.dtype}")]
    tokens = f"{len(tokenizer):,}"
    if tokenizer.chat_template:
        lines.append(say(f"{tokens} tokens, with a chat template"))
    else:
        lines.append(say(f"{tokens} tokens, no chat template: a base model, it seems"))

    # Its name and licence, as far as the file says them, and the size of the folder.
    if facts.get("general.name"):
        lines.append(say(f"name in the file: {one_line(str(facts['general.name']))}"))
    if facts.get("general.license"):
        lines.append(say(f"licence in the file: {one_line(str(facts['general.license']))}"))
    size = sum(path.stat().st_size for path in options.folder.iterdir()) / 1e6
    lines.append(say(f"written: {options.folder} ({size:,.0f} MB)"))
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Read the flags, and do it."""
    about = (__doc__ or "").split("\n\n")[0]
    parser = Parser(description=about, allow_abbrev=False)
    add = parser.add_argument
    numbers = "numbers of the weights; float32 for a CPU, bfloat16 is half the size [float32]"
    add("file", type=Path, metavar="FILE.gguf", help="a language model of llama.cpp and others")
    add("folder", type=Path, metavar="FOLDER", help="a new folder")
    add("--dtype", choices=DTYPES, default="float32", help=numbers)
    options = parser.parse_args(arguments)
    return workshop.main(None, lambda _: convert(options))


if __name__ == "__main__":
    leave(main())
