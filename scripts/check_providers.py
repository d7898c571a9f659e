"""One tiny request to each provider that has a key: is it reachable, is the key good, is the model there?

python self_instruct.py --check                            each provider whose key is set; next to nothing
python self_instruct.py --check --provider local --base-url http://localhost:8000/v1
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace

import self_instruct_workshop as workshop

PROMPT, TOKENS = "Say hello in one word.", 16


def check_all(config: workshop.Config) -> int:
    """Print a line for each provider; return the exit code, 1 if one that was asked did not answer, or none was."""
    known = workshop.environment()
    keyed = [name for name, row in workshop.PROVIDERS.items() if row.key and row.key in known]
    names = [config.provider] if config.provider else keyed
    for name, row in workshop.PROVIDERS.items():
        if row.key and name not in names and not config.provider:
            print(f"{name:<12} no key: {row.key} is not set")
    if not names:
        print("no key is set: put one into .env (see .env.example), or name --provider local")
    answered = [check(replace(config, provider=name)) for name in names]
    return int(not all(answered or [False]))


def check(config: workshop.Config) -> bool:
    """Ask one provider once, in a folder that is thrown away; print what came of it."""
    with tempfile.TemporaryDirectory() as folder:
        once = {"work_dir": folder, "max_attempts": 1, "deadline": min(config.deadline, 30.0), "patience": 2}
        try:
            with workshop.Model(replace(config, **once)) as model:
                started, sent = time.monotonic(), workshop.parameters(config, "classify") | {"max_tokens": TOKENS}
                reply, sent = model.send(PROMPT, {**sent, **model.provider.extra})
                adapted = "".join(f"; {name}: {how}" for name, how in model.refused.items())
                took = f"{time.monotonic() - started:.1f} s"
                said = workshop.one_line(reply.text, 20)
                print(f"{config.provider:<12} ok: {model.model} answered {said!r} in {took}{adapted}")
                return True
        except (workshop.WorkshopError, workshop.RequestFailed) as error:
            print(f"{config.provider:<12} failed: {error}")
            return False
