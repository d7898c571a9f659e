"""How far a long work is: a bar at a terminal, a line a minute in a file."""

from __future__ import annotations

if __name__ == "__main__":  # a part, no program: said before an import fails
    raise SystemExit("progress.py is a part: run  python scripts/inverse_sft.py --help")

import sys
import time
from typing import Any

EVERY = 60.0  # seconds between two lines in a file


class Lines:
    """Says a line a minute on stderr, where that is no terminal."""

    def __init__(self, name: str, unit: str) -> None:
        self.name = name
        self.unit = unit
        self.started = time.monotonic()
        self.last = self.started
        self.before: int | None = None  # what an earlier call had done

    def say(self, done: int, total: int, more: str = "") -> None:
        """Say it, if a minute has passed since the last line."""
        if self.before is None:
            self.before = done
        now = time.monotonic()
        if sys.stderr.isatty() or now - self.last < EVERY:
            return
        self.last = now
        seconds = now - self.started
        here = done - self.before
        left = f", about {minutes(seconds / here * (total - done))} left" if here else ""
        text = f"{self.name}: {done} of {total} {self.unit} in {minutes(seconds)}{left}{more}"
        print(text, file=sys.stderr, flush=True)


def minutes(seconds: float) -> str:
    """ "2 minutes", or "1 minute"."""
    number = max(1, round(seconds / 60))
    return f"{number} minute{'s' if number > 1 else ''}"


def callback() -> Any:
    """What tells a trainer of transformers to say a line a minute."""
    import transformers

    class Training(transformers.TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.lines = Lines("training", "steps")
            self.lines.say(state.global_step, state.max_steps)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            losses = [line["loss"] for line in state.log_history if "loss" in line]
            more = f"; loss {losses[-1]:.2f}" if losses else ""
            self.lines.say(state.global_step, state.max_steps, more)

    return Training()
