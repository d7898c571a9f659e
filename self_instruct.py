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
import gc
from dataclasses import fields
from functools import partial
from pathlib import Path

import self_instruct_workshop as workshop
from scripts.asking import batch, budget, check_providers, estimate, limits, together
from scripts.asking.parser import Parser, add_setting
from scripts.scale import speed_up

TITLE = "Self-Instruct: grow a few seed tasks into an instruction dataset (arXiv 2212.10560)."
EXIT_CODES = (
    "exit codes: 0 done, 1 failed, 2 wrong usage, 3 finished with tasks undone, "
    "130 interrupted by Ctrl-C"
)
USAGE = "python self_instruct.py [--provider NAME] [--num-instructions N] [any other flag below]"
GROUPS = {  # the settings under their headings, in the order of --help
    "what to make": "num_instructions instances_per_instruction language seed_file",
    "who answers": "provider model base_url responses temperature",
    "another model for one stage": "classify_model classify_provider classify_base_url "
    "instances_model instances_provider instances_base_url",
    "where it comes out": "work_dir output_path overwrite until",
    "what it may cost": "max_tokens second_try second_answer",
    "how stage 1 looks for new tasks": "tasks_shown machine_tasks_shown tasks_asked "
    "classification_every rouge_threshold patience seed topics recipe",
    "how requests go": "concurrency max_attempts request_timeout deadline first_wait",
}


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
    group.add_argument(
        "--provenance",
        action="store_true",
        help="write step4_provenance.jsonl, the dataset with where each row comes from: of the "
        "finished run in --work-dir; behind a run where none is there, or other settings are typed",
    )
    estimate.add_flags(parser)
    limits.add_flags(parser)
    together.add_flags(parser)
    batch.add_flags(parser)
    version = f"self-instruct {workshop.__version__}"
    group.add_argument("--version", action="version", version=version)
    return parser


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
    seed_tasks = workshop.load_seed_tasks(workshop.seed_path(config), config.language)
    instructions = [task.instruction for task in seed_tasks]
    labelled = [task for task in seed_tasks if task.is_classification]
    every = config.classification_every

    # With topics, the first turn.
    lead = workshop.Turns(config).ahead(1)[0][1]
    prompts = {"stage 1": workshop.instruction_prompt(config, seed_tasks, [], 0, lead)}
    if every:
        prompt = workshop.instruction_prompt(config, seed_tasks, [], every - 1, lead)
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
    known = estimate.known_replies(config)
    found = estimate.estimate(config, options, known)
    within = budget.fitting_text(config, options, known)
    text = "\n".join(filter(None, [estimate.as_text(found, config), within]))
    if options.estimate:
        workshop.show(text)
        return None
    agreed = partial(estimate.agreed, text, options, config.language)
    if is_paid(config, found["stages"]) and not agreed():
        print(workshop.spoken("nothing was asked, nothing was paid", config.language))
        return 1
    to_come = partial(estimate.to_come, found["stages"])
    speed_up(config.num_instructions, config.language)
    model_class = partial(chosen, options=options, to_come=to_come)
    if budget.has_limit(config, options):
        return budget.run_within(config, options, model_class, known)
    return workshop.run(config, model_class=model_class)


def run_within(config: workshop.Config, **limits: float) -> dict:
    """For a notebook: `run_within(Config(...), max_cost=2)`, by the flags of the command line.

    Limits are max_cost (dollars), max_tokens_total, price_in, price_out, requests_per_minute and
    tokens_per_minute. Returns the summary, as `run` does. Raises WorkshopError.
    """
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in limits.items()]
    return limited_run(config, command_line().parse_args(["--yes", *flags]))


def is_paid(config: workshop.Config, stages: dict[str, dict]) -> bool:
    """Whether a provider with a key, which costs money, is asked in any stage."""
    for stage, row in stages.items():
        provider = workshop.provider_name(workshop.config_of_stage(config, stage))
        if workshop.PROVIDERS[provider].key and row["requests"]:
            return True
    return False


def report(config: workshop.Config) -> None:
    """A page to look at, by scripts/report.py, which needs packages of its own."""
    from scripts.report import write_report

    # Without --language the page is in the language of the run.
    typed = config.language != workshop.Config.language
    path = write_report(Path(config.work_dir), language=config.language if typed else "")
    print(workshop.spoken(f"report: {path} (a double click opens it)", config.language))


def provenance(config: workshop.Config, options: argparse.Namespace) -> dict | int | None:
    """Where each row comes from, by scripts/provenance.py; asks nothing of a finished run."""
    from scripts.provenance import is_finished, show

    folder = Path(config.work_dir)
    names = {setting.name for setting in fields(workshop.Config)} - {"work_dir"}
    alone = all(getattr(options, name) is None for name in names)
    done = None
    if not (alone and is_finished(folder)):
        done = limited_run(config, options)
        # An estimate, a "no", or a run that stops earlier has no dataset.
        if not isinstance(done, dict) or done["status"] != "complete":
            return done
    show(folder)
    return done


def explain(config: workshop.Config, options: argparse.Namespace) -> int:
    """One task through all four stages, by scripts/explain.py."""
    from scripts.explain import explain

    return explain(config, options.explain, partial(limited_run, options=options))


def main(arguments: list[str] | None = None, is_program: bool = False) -> int:
    """Do what the arguments say. `is_program`: nothing of what runs was changed in memory."""
    parser = command_line()
    options = parser.parse_args(arguments)
    options.is_program = is_program
    try:
        config = settings(options)
    except workshop.UsageError as error:
        parser.error(str(error))
    if options.show_prompts:
        return workshop.main(config, lambda config: workshop.show(show_prompts(config)))
    if options.explain is not None:
        return workshop.main(config, partial(explain, options=options))
    if options.provenance:
        return workshop.main(config, partial(provenance, options=options))
    action = check_providers.check_all if options.check else report if options.report else None
    return workshop.main(config, action or partial(limited_run, options=options))


if __name__ == "__main__":
    # Nearly all that a run makes stays until its end: look less often for what can go.
    gc.set_threshold(100_000, 50, 100)
    workshop.leave(main(is_program=True))
