"""What tests of limits share: a LimitedModel, questions, and a clock that a test moves itself."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import self_instruct
from helpers.server import Server
from scripts.asking import estimate
from scripts.asking.limits import LimitedModel
from self_instruct_workshop import STEP_FILES, Config, parameters, run

WIRES = ["openai", "dashscope"]


class Clock:
    """A clock for `LimitedModel` and `Pace`: it stands still until somebody sleeps by it, or sets
    it."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def on_a_clock(config: Config, **given: float) -> tuple[LimitedModel, Clock]:
    """A model with these limits whose waiting takes no time: it only moves the clock."""
    clock = Clock()
    model = LimitedModel(config, limits(**given), clock=clock)
    model.sleep = clock.sleep
    return model, clock


def about(wire: str, server: Server) -> dict[str, str]:
    return {
        "provider": wire,
        "model": "m",
        "base_url": server.url + {"openai": "/v1", "dashscope": "/api/v1"}[wire],
    }


def limits(**given: float) -> object:
    """The options of a command line that gives these limits."""
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
    return self_instruct.command_line().parse_args(flags)


def ask(model: LimitedModel, number: int = 0, words: int = 1) -> str:
    prompt = f"question {number}" + " word" * (words - 1)
    return model.ask(
        "generate", prompt, parameters(model.config, "generate"), {"number": number}
    ).text


def limited_run(config: Config, **given: float) -> dict:
    options = limits(**given)
    to_come = partial(estimate.to_come, estimate.estimate(config, options)["stages"])
    return run(
        config,
        say=lambda text: None,
        model_class=partial(LimitedModel, options=options, to_come=to_come),
    )


def same_files(one: Path, other: Path) -> bool:
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in STEP_FILES[-1:])
