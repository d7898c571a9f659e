"""The stages that a run still lacks, for prepare_for_finetuning.py --finish.

run.json beside the dataset tells the settings of the run. The stages are done here where that
costs nothing. Where it costs money, or where a setting is a path or the address of a server,
the user is told the command, and decides.
"""

from __future__ import annotations

if __name__ == "__main__":  # a part, no program: said before an import fails
    raise SystemExit(
        "rest_of_run.py is a part of prepare_for_finetuning.py: run"
        "  python scripts/prepare_for_finetuning.py --help"
    )

from dataclasses import fields
from pathlib import Path
from typing import Any

import self_instruct_workshop as workshop
from self_instruct_workshop import PROVIDERS, STEP_FILES, Config, WorkshopError, program_command

DATASET = STEP_FILES[-1]
ADDRESSES = ("base_url", "classify_base_url", "instances_base_url")
PLACES = ("seed_file", "topics", "output_path", "responses", *ADDRESSES)
OF_STAGES = ("", "classify_", "instances_")


def finish(file: Path, may_run: bool) -> int:
    """Do the stages that are missing before `file` can be there; return the exit code.

    Where this program must not do them, an older file is taken, with a notice. Without one, raises
    WorkshopError with the command to run.
    """
    # Is something missing? A file of another name is no view of a run.
    summary = workshop.earlier_run(file.parent)
    complete = summary.get("status", "complete") == "complete"
    if file.name != DATASET or (file.exists() and (complete or not may_run)):
        return 0
    settings = summary.get("settings")
    if not isinstance(settings, dict):
        raise WorkshopError(without_run(file))

    # Whose turn is it: ours, or the user's?
    flags = flags_of(settings, file.parent)
    if may_run and is_free(settings) and not names_places(settings):
        import self_instruct

        return self_instruct.main(flags)
    command = program_command("self_instruct.py", *flags)
    if file.exists():
        problem = f"{file} is of an earlier run: the last one has not done all four stages"
        workshop.tell(f"notice: {problem}; to do them, run  {command}")
        return 0
    problem = f"{file} is not there yet: its run has not done all four stages"
    raise WorkshopError(f"{problem}; to do them, run  {command}")


def without_run(file: Path) -> str:
    """What to do where no run.json says how the run is to go on."""
    if (file.parent / "responses.jsonl").exists():
        problem = f"{file} is not there, and its run was broken off in stage 1"
        return f"{problem}: give the command of the run again, it keeps every reply"
    command = program_command("self_instruct.py", *work_dir(file.parent))
    return f"{file} is not there: run  {command}  first, or name another file"


def flags_of(settings: dict[str, Any], folder: Path) -> list[str]:
    """The flags of self_instruct.py for the settings that a run.json tells."""
    found = work_dir(folder)
    for setting in fields(Config):
        value = settings.get(setting.name, setting.default)
        plain = setting.name in ("work_dir", "until") or is_plain(setting.name, settings)
        if plain or value == setting.default:
            continue
        flag = workshop.flag_of(setting)
        is_switch = isinstance(setting.default, bool)
        found += [flag] if is_switch else [flag, workshop.without_login(str(value))]
    return found


def is_plain(name: str, settings: dict[str, Any]) -> bool:
    """Whether a setting is only what its provider has anyway, and so needs no flag."""
    stage = name.partition("_")[0] + "_" if name.startswith(OF_STAGES[1:]) else ""
    row = PROVIDERS.get(provider_of(stage, settings))
    if row is None:
        return False
    if name == f"{stage}base_url":
        return settings.get(name) == row.base_url
    return name == f"{stage}model" and settings.get(name) == row.model


def provider_of(stage: str, settings: dict[str, Any]) -> str:
    """The provider of all stages, "", or of one, "classify_" or "instances_"."""
    return str(settings.get(f"{stage}provider") or settings.get("provider") or "")


def is_free(settings: dict[str, Any]) -> bool:
    """Whether no provider that wants a key, and so money, is asked in any stage."""
    rows = [PROVIDERS.get(provider_of(stage, settings)) for stage in OF_STAGES]
    return all(row is not None and not row.key for row in rows)


def names_places(settings: dict[str, Any]) -> bool:
    """Whether a path or an address is among the settings that are not plain."""
    named = [name for name in PLACES if settings.get(name)]
    return not all(is_plain(name, settings) for name in named)


def work_dir(folder: Path) -> list[str]:
    """The flag for a folder; none for the folder that the workshop takes by itself."""
    default = Path(Config.work_dir).resolve()
    return [] if folder.resolve() == default else ["--work-dir", str(folder)]
