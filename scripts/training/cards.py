"""Where rows come from, and the cards of what is uploaded: they say what is known, and no more.

Beside each file of rows that a step writes stands a small record, NAME.about.json: its source, who
wrote the instructions, and the file's SHA-256. Where the file has changed since, or has no
record, nothing is claimed of it. Licences are named for the sources of KNOWN alone.
"""

from __future__ import annotations

if __name__ == "__main__":  # a part, no program: said before an import fails
    raise SystemExit("cards.py is a part: run  python scripts/self_curation.py --help")

import json
import shutil
from collections import Counter
from contextlib import suppress
from fnmatch import fnmatch
from hashlib import sha256
from pathlib import Path, PureWindowsPath
from typing import Any

import self_instruct_workshop as workshop
from scripts.reading.records import object_in
from self_instruct_workshop import DATA

Row = dict[str, Any]

PAPER = "instruction backtranslation (https://arxiv.org/abs/2308.06259)"
OWN_SAMPLE = "the sample of the Self-Instruct workshop"
KNOWN = {  # source -> (licence for the head of a card, what to say of it)
    "GAIR/lima": ("cc-by-nc-sa-4.0", "CC BY-NC-SA or stricter, and so is what is made of it"),
    "timdettmers/openassistant-guanaco": ("apache-2.0", "Apache 2.0"),
}
# What data/preprocessing.ipynb makes of them in data/, and how many rows it then has at least.
MADE = {
    "lima_single_turn.json": ("GAIR/lima", 1000),
    "guanaco_inverse.json": ("timdettmers/openassistant-guanaco", 9000),
}
STRICTEST = ("cc-by-nc-sa-4.0", "apache-2.0")  # of several licences, the first counts
NAMES_A_MODEL = ("base", "base_model_name_or_path", "name_or_path", "_name_or_path")
# What is uploaded of a trained model. A file such as hf_token.txt must not be among it.
ADAPTER = ["adapter_*", "tokenizer*", "special_tokens_map.json", "added_tokens.json"]
ADAPTER += ["chat_template*", "training.json"]
WITH_NAMES = ("adapter_config.json", "training.json", "tokenizer_config.json")

# --------------------------------------------------------------------------------------------------
# The record beside a file of rows.


def about_path(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(".json").removesuffix(".jsonl") + ".about.json")


def note(path: Path, **about: Any) -> None:
    """Write the record of a file of rows.

    `sources` are names such as those of KNOWN; `instructions` says who wrote them, "people" or
    "model"; further entries say what was done.
    """
    record = {"file": path.name, "sha256": sha256(path.read_bytes()).hexdigest(), **about}
    workshop.write_json(about_path(path), record)


def about(path: Path) -> Row:
    """What is known of a file of rows: at least its name, as "file"."""
    unknown = {"file": path.name, "sources": [], "instructions": ""}
    if path.resolve().parent == (DATA / "backtranslation_sample").resolve():
        return unknown | {"sources": [OWN_SAMPLE], "instructions": "people"}
    record = object_in(about_path(path))
    with suppress(OSError):
        if record.get("sha256") == sha256(path.read_bytes()).hexdigest():
            return unknown | record
    return unknown | of_the_notebook(path)


def of_the_notebook(path: Path) -> Row:
    """What is known of a file of the notebook: with its name, in data/, and as long as its source.

    The notebook writes what it makes of our sample into another folder.
    """
    source, least = MADE.get(path.name, ("", 0))
    if not source or path.resolve().parent != DATA.resolve():
        return {}
    with suppress(OSError, ValueError):
        if len(json.loads(path.read_text(encoding="utf-8"))) >= least:
            return {"sources": [source], "instructions": "people"}
    return {}


def writers(rows: list[Row], known: Row) -> Counter[str]:
    """How many instructions a "model" wrote, how many "people", and of how many nothing is known.

    Where a model wrote one, `original` is what a person had asked.
    """
    if known["instructions"]:
        return Counter({known["instructions"]: len(rows)})
    return Counter("model" if row.get("original") else "" for row in rows)


# --------------------------------------------------------------------------------------------------
# Cards.


def head(sources: list[str], lines: list[str] | None = None) -> str:
    """The head of a card: the licence, where all sources are known, and further lines."""
    licences = {KNOWN[source][0] for source in sources if source in KNOWN}
    whole = sources and all(source in KNOWN for source in sources)
    first = [f"license: {one}" for one in STRICTEST if one in licences][:1] if whole else []
    return "\n".join(["---", *first, *(lines or []), "---", ""])


def configs(files: dict[str, str]) -> list[str]:
    """The lines that tell `datasets` which file is which; the first is what it loads."""
    lines = ["configs:"]
    for n, (name, file) in enumerate(files.items()):
        lines += [f"- config_name: {name}", f"  data_files: {json.dumps(file)}"]
        lines += ["  default: true"] if n == 0 else []
    return lines


def source_lines(known: Row) -> list[str]:
    """Where the rows of a file come from, each source with its licence where that is known."""
    if not known["sources"]:
        return [f"- Source: the file {known['file']}; its licence is not known here."]
    said = [f"{source} ({licence_of(source)})" for source in known["sources"]]
    return [f"- Source: {', '.join(said)}."]


def licence_of(source: str) -> str:
    return KNOWN[source][1] if source in KNOWN else "our own"


def writer_line(count: Counter[str]) -> str:
    """Who wrote the instructions of how many pairs."""
    said = []
    for who, text in (("model", "a model"), ("people", "people")):
        if count[who]:
            said.append(f"{text} wrote {count[who]}")
    if count[""]:
        said.append(f"of {count['']} it is not known who wrote them")
    return f"- Instructions: {'; '.join(said) or 'none'}."


def dataset_card(files: dict[str, str], known: Row, rows: list[Row], said: list[str]) -> str:
    """The card of a dataset: its files by name, and what was done, a line each."""
    lines = [head(known["sources"], configs(files))]
    lines.append(f"{len(rows)} pairs of {PAPER}.\n")
    lines += source_lines(known)
    lines.append(writer_line(writers(rows, known)))
    lines += [f"- {line}" for line in said]
    lines.append(
        "- Columns: `instruction` and `output` are the pair, `id` is the row's number in its "
        "source, `original` what a person had asked; `rating`, from 1 to 5, and `evaluation` are "
        "a model's."
    )
    return "\n".join(lines) + "\n"


def model_card(figures: Row, sets: list[tuple[Row, list[Row]]], kind: str, said: list[str]) -> str:
    """The card of an adapter, trained on some sets of rows: (what is known of them, the rows)."""
    # The head: the base where the hub has it, and what the data are.
    sources = [source for known, _ in sets for source in known["sources"] or [known["file"]]]
    base = public_name(figures["base"])
    lines = ["library_name: peft"]
    if not is_path(figures["base"]):
        lines.insert(0, f"base_model: {base}")
    on_hub = sorted({source for source in sources if source in KNOWN})
    lines += [f"datasets: {json.dumps(on_hub)}"] if on_hub else []

    # What it is, and on how many pairs of which kind it was trained.
    total = f"trained on {figures['examples']} pairs"
    text = [head(sources, lines), f"{kind}: {PAPER}."]
    text.append(f"A LoRA adapter of {base}, {total}, the loss on what it is to write alone.\n")
    for known, rows in sets:
        text.append(f"- {len(rows)} pairs of {known['file']}:")
        inner = [*source_lines(known), writer_line(writers(rows, known))]
        text += [f"  {line}" for line in inner]
    return "\n".join([*text, *(f"- {line}" for line in said)]) + "\n"


# --------------------------------------------------------------------------------------------------
# Nothing of this machine is uploaded.


def is_path(name: str) -> bool:
    """Whether the name of a model is a folder of some machine, and none on the hub."""
    return is_absolute(name) or Path(name).is_dir()


def is_absolute(name: str) -> bool:
    """Whether a text is a whole path of Linux, macOS or Windows."""
    return Path(name).is_absolute() or PureWindowsPath(name).is_absolute()


def public_name(name: str) -> str:
    """The name of a model for others: of a folder, its last part."""
    return PureWindowsPath(name).name if is_path(name) else name


def copy_for_others(folder: Path, names: list[str], copy: Path) -> None:
    """Copy the files of a folder that fit `names`, without paths of this machine."""
    for path in sorted(folder.iterdir()):
        if path.is_file() and any(fnmatch(path.name, name) for name in names):
            shutil.copyfile(path, copy / path.name)
            if path.name in WITH_NAMES:
                rename_models(copy / path.name)


def rename_models(path: Path) -> None:
    """Put public names in the place of folders, and of any other path, in a JSON file."""
    record = json.loads(path.read_text(encoding="utf-8"))
    for name, value in record.items():
        if isinstance(value, str) and (name in NAMES_A_MODEL or is_absolute(value)):
            record[name] = public_name(value)
    path.write_text(json.dumps(record, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
