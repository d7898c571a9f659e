"""Command line of the workshop: each setting of `self_instruct_workshop.Config` is a flag, and Config is its only home.

For example:

    python self_instruct.py --num-instructions 20             the practice model, or the provider whose key is set
    python self_instruct.py --provider dashscope --language zh          a real model, in Chinese
    python self_instruct.py --provider local --base-url http://localhost:8000/v1 --concurrency 32
    python self_instruct.py --provider openai --num-instructions 5000 --max-cost 2     asks first; stops before $2
    python self_instruct.py --show-prompts                              what each stage would send; nothing is asked

All flags and the exit codes: --help. What stands before and around a run is in scripts/: estimate.py, limits.py.
"""

from __future__ import annotations

import argparse
from dataclasses import fields
from functools import partial
from pathlib import Path

import self_instruct_workshop as workshop
from scripts.asking import check_providers, estimate, limits, together

EXIT_CODES = "exit codes: 0 done, 1 failed, 2 wrong usage, 3 finished with tasks undone, 130 interrupted by Ctrl-C"


def command_line() -> argparse.ArgumentParser:
    """A flag for every setting, with the setting's own type, default, choices and help."""
    title = workshop.__doc__.splitlines()[0]
    usage = "python self_instruct.py [--provider NAME] [--num-instructions N] [any other flag below]"
    parser = argparse.ArgumentParser(usage=usage, description=title, epilog=EXIT_CODES, allow_abbrev=False)
    for setting in fields(workshop.Config):
        kind, choices = type(setting.default), setting.metadata["choices"] or None
        shown = str(setting.default).replace(str(workshop.DATA.parent), ".")
        help_text = setting.metadata["help"] + (f" [{shown}]" if shown else "")
        parser.add_argument(
            "--" + setting.name.replace("_", "-"),
            type=kind,
            default=setting.default,
            choices=tuple(workshop.PROVIDERS) if setting.name == "provider" else choices,
            metavar=None if choices or setting.name == "provider" else {int: "N", float: "X", str: "TEXT"}[kind],
            help=help_text.replace("%", "%%"),
        )
    parser.add_argument("--show-prompts", action="store_true", help="print what each stage would send, and ask nothing")
    parser.add_argument(
        "--report", action="store_true", help="write report.html about the run in --work-dir; ask nothing"
    )
    parser.add_argument("--check", action="store_true", help="send each provider that has a key one tiny request")
    estimate.add_flags(parser)
    limits.add_flags(parser)
    together.add_flags(parser)
    parser.add_argument("--version", action="version", version=f"self-instruct {workshop.__version__}")
    return parser


def settings(options: argparse.Namespace) -> workshop.Config:
    return workshop.Config(**{setting.name: getattr(options, setting.name) for setting in fields(workshop.Config)})


def show_prompts(config: workshop.Config) -> str:
    """The first prompt of each kind, made from the seed tasks."""
    seed_tasks = workshop.load_seed_tasks(config.seed_file or workshop.DEFAULT_SEEDS[config.language])
    instruction = seed_tasks[0].instruction
    labelled = next((task.instruction for task in seed_tasks if task.is_classification), instruction)
    prompts = {"stage 1": workshop.instruction_prompt(config, seed_tasks, [], 0)}
    if every := config.classification_every:
        prompts["stage 1, classification"] = workshop.instruction_prompt(config, seed_tasks, [], every - 1)
    prompts["stage 2"] = workshop.classify_prompt(config, instruction)
    if config.recipe == "modern":
        several = [task.instruction for task in seed_tasks[:3]]
        prompts["stage 2, several tasks (--classify-together)"] = together.together_prompt(config, several)
    prompts["stage 3, input-first"] = workshop.instances_prompt(config, instruction, False)
    prompts["stage 3, output-first"] = workshop.instances_prompt(config, labelled, True)
    return "\n\n".join(f"===== {title} =====\n{prompt}" for title, prompt in prompts.items())


def limited_run(config: workshop.Config, options: argparse.Namespace) -> dict | int | None:
    """Say what the run will take, ask before anything is paid, and run within the limits."""
    found = estimate.estimate(config, options)
    text = estimate.as_text(found, config)
    if options.estimate:
        return print(text)
    key = workshop.PROVIDERS[workshop.provider_name(config)].key
    if key and found["requests"] and not estimate.agreed(text, options):
        print("nothing was asked, nothing was paid")
        return 1
    project = partial(estimate.projected, found["stages"])
    return workshop.run(config, model_class=partial(limits.LimitedModel, options=options, project=project))


def report(config: workshop.Config) -> None:
    """A page to look at, by scripts/report.py, which needs packages of its own."""
    from scripts.report import write_report

    language = config.language if config.language != workshop.Config.language else ""  # the default: that of the run
    print(f"report: {write_report(Path(config.work_dir), language=language)} (a double click opens it)")


def main(arguments: list[str] | None = None) -> int:
    parser = command_line()
    options = parser.parse_args(arguments)
    try:
        config = settings(options)
    except workshop.UsageError as error:
        parser.error(str(error))
    if options.show_prompts:
        return workshop.main(config, lambda config: print(show_prompts(config)))
    action = check_providers.check_all if options.check else report if options.report else None
    return workshop.main(config, action or partial(limited_run, options=options))


if __name__ == "__main__":
    workshop.leave(main())
