"""One tiny request to each provider that has a key.

Is it reachable, is the key good, is the model there? That costs next to nothing.

    python self_instruct.py --check
    python self_instruct.py --check --provider local --base-url http://localhost:8000/v1
"""

from __future__ import annotations

if __name__ == "__main__":  # a part, no program: said before an import fails
    name = "check_providers.py is a part of self_instruct.py"
    raise SystemExit(f"{name}: run  python self_instruct.py --help")

import io
import tempfile
import time
from contextlib import ExitStack, redirect_stderr
from dataclasses import replace

import self_instruct_workshop as workshop

PROMPT = "Say hello in one word."
TOKENS = 16  # the longest reply
SECONDS = 30.0  # the longest wait


def check_all(config: workshop.Config) -> int:
    """Print a line for each provider; return the exit code.

    It is 1 if a provider that was asked did not answer, or none was asked. With an address or a
    model, ask only the provider that a run would: no other gets its key sent there.
    """
    # One that is named.
    if config.provider or config.base_url or config.model:
        return int(not check(replace(config, provider=workshop.provider_name(config))))

    # All whose key is set.
    known = workshop.environment()
    answered = []
    for name, row in workshop.PROVIDERS.items():
        if row.key in known:
            answered.append(check(replace(config, provider=name)))
        elif row.key:
            print(f"{name:<12} no key: {row.key} is not set")
    if not answered:
        print("no key is set: put one into .env (see .env.example), or name --provider local")
    return int(not answered or not all(answered))


def check(config: workshop.Config) -> bool:
    """Ask one provider once, in a folder that is thrown away; print what came of it."""
    # One try, and nobody waits for long.
    once = {
        "max_attempts": 1,
        "patience": 2,
        "deadline": min(config.deadline, SECONDS),
        "request_timeout": min(config.request_timeout, SECONDS),
    }

    # What a run would say on stderr is of no interest here.
    folders = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
    with folders as folder, redirect_stderr(io.StringIO()):
        try:
            with workshop.Model(replace(config, work_dir=folder, **once)) as model:
                line = f"ok: {ask(model)}"
                model.journal.file.close()  # or Windows keeps the folder
        except (workshop.WorkshopError, workshop.RequestFailed) as error:
            line = f"failed: {error}"
    workshop.show(f"{config.provider:<12} {line}")
    return line.startswith("ok")


def ask(model: workshop.Model) -> str:
    """Send the tiny request; say what answered, how fast, and what had to be adapted.

    That is which parameters the model made us leave out or rename.
    """
    # Ask as stage 2 does, for a short reply.
    short = {"max_tokens": TOKENS, **model.provider.extra}
    parameters = workshop.parameters(model.config, "classify") | short
    started = time.monotonic()
    with ExitStack() as place:
        reply, _ = model.send(PROMPT, parameters, place)
    took = time.monotonic() - started

    # Say what came.
    adapted = "".join(f"; {name}: {how}" for name, how in model.refused.items())
    said = workshop.one_line(reply.text, 20)
    return f"{model.model} answered {said!r} in {took:.1f} s{adapted}"
