"""Parts of self_instruct.py for large runs: the search for similar instructions, compiled by numba.

from scripts.scale import speed_up
speed_up(50_000)        # before workshop.run, or before workshop.compared
"""

from __future__ import annotations

from importlib import util

import self_instruct_workshop as workshop

WORTH_IT = 20_000  # instructions: below, loading the compiled parts takes as long as they save
LARGE = 200_000  # instructions: from here on the wait is worth a word


def speed_up(instructions: int, language: str = "en") -> bool:
    """Search pools of so many instructions by compiled parts; return whether they are there.

    They change how fast, never what. Where numba is missing, a large run says how to get it.
    """
    if instructions < WORTH_IT:
        return False
    if util.find_spec("numba"):
        from scripts.scale import compiled

        compiled.use()
        return True
    if instructions > LARGE:
        command = workshop.pip_install("-r", "scripts/requirements-scale.txt")
        slow = f"{instructions} instructions are searched without numba"
        workshop.tell(f"notice: {slow}: {command} makes it faster, with the same results", language)
    return False
