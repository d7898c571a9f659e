"""Command line of the workshop: each setting of `self_instruct_workshop.Config` is a flag.

    python self_instruct.py --num-instructions 20        practice, or a real model by its key
    python self_instruct.py --provider dashscope --language zh          a real model, in Chinese
    python self_instruct.py --provider local --base-url http://localhost:8000/v1 --concurrency 32
    python self_instruct.py --provider openai --max-cost 2              asks first; stops before $2
    python self_instruct.py --show-prompts                   what would be sent; asks nothing
    python self_instruct.py --explain 7                      one task of the run, stage by stage

All flags and the exit codes: --help. What stands around a run (its estimate, its limits) is in
scripts/asking/.
"""

from __future__ import annotations

import sys

if sys.version_info < (3, 11):
    raise SystemExit(f"Python 3.11 or newer is needed, and this is {sys.version.split()[0]}")

import argparse
import re
from dataclasses import fields
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

import self_instruct_workshop as workshop
from scripts.asking import batch, check_providers, estimate, limits, together

TITLE = "Self-Instruct: grow a few seed tasks into an instruction dataset (arXiv 2212.10560)."
EXIT_CODES = (
    "exit codes: 0 done, 1 failed, 2 wrong usage, 3 finished with tasks undone, "
    "130 interrupted by Ctrl-C"
)
USAGE = "python self_instruct.py [--provider NAME] [--num-instructions N] [any other flag below]"
GROUPS = {  # the settings under their headings, in the order of --help
    "what to make": "num_instructions instances_per_instruction language seed_file",
    "who answers": "provider model base_url responses temperature",
    "where it comes out": "work_dir output_path overwrite until",
    "what it may cost": "max_tokens second_try second_answer",
    "how stage 1 looks for new tasks": "tasks_shown machine_tasks_shown tasks_asked "
    "classification_every rouge_threshold patience seed recipe",
    "how requests go": "concurrency max_attempts request_timeout deadline first_wait",
}


class Parser(argparse.ArgumentParser):
    """A parser that guesses what a mistyped flag or value was meant to be."""

    def error(self, message: str) -> None:
        flags = [flag for action in self._actions for flag in action.option_strings]
        unknown = re.findall(r"--[\w-]+", message.partition("unrecognized arguments:")[2])
        near = [find_near(flag, flags) for flag in unknown]
        value = re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message)
        if value:
            near = [find_near(value[1], re.findall(r"[\w-]+", value[2]))]
        hint = " ".join(filter(None, near))
        super().error(f"{message}: did you mean {hint}?" if hint else message)


def find_near(typed: str, known: list[str]) -> str:
    """The known word that was probably meant, "" if none is near."""
    begins = [word for word in known if typed and word.startswith(typed)]
    return next(iter(begins or get_close_matches(typed, known, 1, 0.6)), "")


def command_line() -> argparse.ArgumentParser:
    """A flag for every setting, with the setting's own type, default, choices and help."""
    parser = Parser(usage=USAGE, description=TITLE, epilog=EXIT_CODES, allow_abbrev=False)
    known = {setting.name: setting for setting in fields(workshop.Config)}
    for title, names in GROUPS.items():
        group = parser.add_argument_group(title)
        for name in names.split():
            add_setting(group, known[name])
    group = parser.add_argument_group("instead of a run")
    actions = {
        "--show-prompts": "print what each stage would send, and ask nothing",
        "--report": "write report.html about the run in --work-dir; ask nothing",
        "--check": "send each provider that has a key one tiny request",
    }
    for flag, text in actions.items():
        group.add_argument(flag, action="store_true", help=text)
    group.add_argument(
        "--explain",
        nargs="?",
        const="",
        metavar="ID",
        help="show one request of each stage of the run in --work-dir, or one task by its id or "
        "by how its text begins; ask nothing, unless no run is there: then make one",
    )
    estimate.add_flags(parser)
    limits.add_flags(parser)
    together.add_flags(parser)
    batch.add_flags(parser)
    version = f"self-instruct {workshop.__version__}"
    group.add_argument("--version", action="version", version=version)
    return parser


def add_setting(parser: Any, setting: Any) -> None:
    """A flag for one setting. Without it the value is None, which Config takes for the default."""
    kind = type(setting.default)
    flag = workshop.flag_of(setting)
    if kind is bool:
        # A switch: off by default, or on, and then the flag turns it off.
        on = setting.default
        text = ("do not: " if on else "") + setting.metadata["help"]
        action = "store_false" if on else "store_true"
        parser.add_argument(flag, dest=setting.name, action=action, default=None, help=text)
        return
    choices = workshop.choices(setting.name) or None
    shown = str(setting.default).replace(str(workshop.DATA.parent), ".")
    text = setting.metadata["help"] + (f" [{shown}]" if shown else "")
    parser.add_argument(
        flag,
        type=kind,
        choices=choices,
        metavar=None if choices else {int: "N", float: "X", str: "TEXT"}[kind],
        help=text.replace("%", "%%"),
    )


def settings(options: argparse.Namespace) -> workshop.Config:
    """The settings that were typed. A journal that is replayed never wins over them."""
    names = [setting.name for setting in fields(workshop.Config)]
    typed = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    config = workshop.Config(**typed)
    for name, value in typed.items():
        setattr(config, name, value)
    return config


def show_prompts(config: workshop.Config) -> str:
    """The first prompt of each kind, made from the seed tasks."""
    seed_file = config.seed_file or workshop.DEFAULT_SEEDS[config.language]
    seed_tasks = workshop.load_seed_tasks(seed_file)
    instructions = [task.instruction for task in seed_tasks]
    labelled = [task for task in seed_tasks if task.is_classification]
    every = config.classification_every

    prompts = {"stage 1": workshop.instruction_prompt(config, seed_tasks, [], 0)}
    if every:
        prompt = workshop.instruction_prompt(config, seed_tasks, [], every - 1)
        prompts["stage 1, classification"] = prompt
    prompts["stage 2"] = workshop.classify_prompt(config, instructions[0])
    if not workshop.RECIPES[config.recipe].continues_text:
        prompt = together.together_prompt(config, instructions[:3])
        prompts["stage 2, several tasks (--classify-together)"] = prompt
    prompt = workshop.instances_prompt(config, workshop.Task("", instructions[0]))
    prompts["stage 3, input-first"] = prompt
    one = [*labelled, seed_tasks[0]][0]
    prompts["stage 3, output-first"] = workshop.instances_prompt(config, one)
    if workshop.RECIPES[config.recipe].checks_model:
        source = one.instances[0]["input"] if one.instances else ""
        prompts["stage 3, second answer"] = workshop.answer_prompt(config, one, source)
    parts = []
    for title, prompt in prompts.items():
        parts.append(f"===== {title} =====\n{workshop.as_text(prompt)}")
    return "\n\n".join(parts)


def limited_run(config: workshop.Config, options: argparse.Namespace) -> dict | int | None:
    """Say what the run will take, ask before anything is paid, and run within the limits."""
    workshop.check_files(config)
    chosen = batch.model_class(config, options)
    found = estimate.estimate(config, options)
    text = estimate.as_text(found, config)
    if options.estimate:
        workshop.show(text)
        return None
    # Only a provider with a key costs money.
    key = workshop.PROVIDERS[workshop.provider_name(config)].key
    if key and found["requests"] and not estimate.agreed(text, options):
        print("nothing was asked, nothing was paid")
        return 1
    project = partial(estimate.projected, found["stages"])
    model_class = partial(chosen, options=options, project=project)
    return workshop.run(config, model_class=model_class)


def report(config: workshop.Config) -> None:
    """A page to look at, by scripts/report.py, which needs packages of its own."""
    from scripts.report import write_report

    # Without --language the page is in the language of the run.
    typed = config.language != workshop.Config.language
    path = write_report(Path(config.work_dir), language=config.language if typed else "")
    print(f"report: {path} (a double click opens it)")


def explain(config: workshop.Config, options: argparse.Namespace) -> int:
    """One task through all four stages, by scripts/explain.py."""
    from scripts.explain import explain

    return explain(config, options.explain, partial(limited_run, options=options))


def main(arguments: list[str] | None = None) -> int:
    parser = command_line()
    options = parser.parse_args(arguments)
    try:
        config = settings(options)
    except workshop.UsageError as error:
        parser.error(str(error))
    if options.show_prompts:
        return workshop.main(config, lambda config: workshop.show(show_prompts(config)))
    if options.explain is not None:
        return workshop.main(config, partial(explain, options=options))
    action = check_providers.check_all if options.check else report if options.report else None
    return workshop.main(config, action or partial(limited_run, options=options))


if __name__ == "__main__":
    workshop.leave(main())
