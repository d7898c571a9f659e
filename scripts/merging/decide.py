"""Which instructions are novel, in order: one function for all engines, and the local engine.

The rest of merge_runs.py knows nothing of how it is found out. All engines say the same.
"""

from __future__ import annotations

if __name__ == "__main__":  # a part, no program: said before an import fails
    raise SystemExit(
        "decide.py is a part of scripts/merge_runs.py: run  python scripts/merge_runs.py --help"
    )

from collections.abc import Callable, Iterator
from importlib import import_module

from scripts.scale import speed_up
from self_instruct_workshop import RECIPES, InstructionPool, compared

ENGINES = ("local", "duckdb", "spark")

# Why an instruction is not novel: the number of the most similar one that was kept before it, and
# the score; of equal ones the older. None: it is novel.
Decision = tuple[int, float] | None


def decide(
    texts: list[str],
    threshold: float,
    recipe: str,
    engine: str = "local",
    show: Callable[[int], None] = lambda done: None,
    **options: str,
) -> Iterator[Decision]:
    """Yield a decision for each text, in their order.

    `show` is told how many texts are behind us. `options` are the engine's own. Raises
    WorkshopError where the engine cannot be started.
    """
    limit = RECIPES[recipe].highest_score(threshold)
    if engine == "local":
        return local_decisions(texts, limit, recipe, show)
    part = import_module(f"scripts.merging.{engine}_engine")
    return part.decisions(texts, limit, recipe, show, **options)


def local_decisions(
    texts: list[str], limit: float, recipe: str, show: Callable[[int], None]
) -> Iterator[Decision]:
    """By the pool of the workshop, in memory, as stage 1 does it."""
    speed_up(len(texts))
    pool = InstructionPool(recipe)
    places: dict[str, int] = {}  # of what was kept
    for place, (text, nearest) in enumerate(compared(pool, texts, limit)):
        if nearest is None:
            pool.add(text)
            places.setdefault(text, place)
            yield None
        else:
            yield places[nearest[0]], nearest[1]
        show(place + 1)
