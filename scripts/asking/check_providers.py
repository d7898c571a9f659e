"""One tiny request to each provider that has a key: is it reachable, is the key good, is the model there?

python self_instruct.py --check                            each provider whose key is set; next to nothing
python self_instruct.py --check --provider local --base-url http://localhost:8000/v1
"""

from __future__ import annotations

if __name__ == "__main__":  # a part, no program: said before an import fails
    raise SystemExit("check_providers.py is a part of self_instruct.py: run  python self_instruct.py --help")

import io
import tempfile
import time
from contextlib import redirect_stderr
from dataclasses import replace

import self_instruct_workshop as workshop

PROMPT, TOKENS = "Say hello in one word.", 16


def check_all(config: workshop.Config) -> int:
    """Print a line for each provider; return the exit code, 1 if one that was asked did not answer, or none was. With
    an address or a model, ask only the provider that a run would: no other gets its key sent there."""
    if config.provider or config.base_url or config.model:
        return int(not check(replace(config, provider=workshop.provider_name(config))))
    known, answered = workshop.environment(), []
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
    once = {
        "max_attempts": 1,
        "deadline": min(config.deadline, 30.0),
        "request_timeout": min(config.request_timeout, 30.0),
    }
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, redirect_stderr(io.StringIO()):
        try:
            with workshop.Model(replace(config, work_dir=folder, patience=2, **once)) as model:
                line = f"ok: {ask(model)}"
                model.journal.file.close()  # or Windows keeps the folder
        except (workshop.WorkshopError, workshop.RequestFailed) as error:
            line = f"failed: {error}"
    print(f"{config.provider:<12} {line}")
    return line.startswith("ok")


def ask(model: workshop.Model) -> str:
    """Send the tiny request; say what answered, how fast, and which parameters it made us leave out or rename."""
    parameters = workshop.parameters(model.config, "classify") | {"max_tokens": TOKENS, **model.provider.extra}
    started = time.monotonic()
    reply, _ = model.send(PROMPT, parameters)
    took, adapted = time.monotonic() - started, "".join(f"; {name}: {how}" for name, how in model.refused.items())
    return f"{model.model} answered {workshop.one_line(reply.text, 20)!r} in {took:.1f} s{adapted}"
