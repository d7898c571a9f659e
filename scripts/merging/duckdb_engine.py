"""--engine duckdb: candidates by joins of DuckDB, which uses the disk where memory is short."""

from __future__ import annotations

if __name__ == "__main__":  # a part, no program: said before an import fails
    raise SystemExit(
        "duckdb_engine.py is a part of scripts/merge_runs.py:"
        " run  python scripts/merge_runs.py --help"
    )

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from scripts.merging import marks
from scripts.merging.decide import Decision
from scripts.merging.rounds import Pairs, Sizes, choose
from scripts.merging.statements import BLOCK, KEPT, costs, pairs_among
from self_instruct_workshop import UsageError

BATCH = 1_000_000  # pairs that are compared at once
SIZES = Sizes(2_000, 2, 500_000, 200_000_000, 20_000_000)


def decisions(
    texts: list[str],
    limit: float,
    recipe: str,
    show: Callable[[int], None],
    folder: str,
    memory: str,
) -> Iterator[Decision]:
    """Yield a decision for each text. Temporary files stand in `folder`."""
    import duckdb

    settings = {"memory_limit": memory, "temp_directory": folder}
    try:
        database = duckdb.connect(str(Path(folder) / "keys.duckdb"), config=settings)
    except duckdb.Error:
        raise UsageError(f"--memory {memory} is no size: give one such as 2GB") from None
    with closing(database):
        yield from choose(Tables(database, texts, limit, recipe), len(texts), show, SIZES)


class Tables:
    """The joins of a round, as rounds.Joins wants them."""

    def __init__(self, database: Any, texts: list[str], limit: float, recipe: str) -> None:
        self.database = database
        self.recipe = recipe
        self.limit = limit
        self.coded = marks.coded_texts(texts, recipe)
        self.order = marks.order_of_marks(self.coded)
        for name in (*BLOCK, *KEPT):
            columns = "key BIGINT, id BIGINT, size INTEGER, place INTEGER, bits BIGINT"
            database.execute(f"CREATE TABLE {name} ({columns})")
        database.execute("CREATE TABLE chosen (id BIGINT)")

    def load(self, low: int, high: int) -> None:
        for name in BLOCK:
            self.database.execute(f"TRUNCATE {name}")
        for chunk in marks.chunks(high - low):
            ids = np.arange(low + chunk.start, low + chunk.stop)
            part = self.coded[low + chunk.start : low + chunk.stop]
            keys = marks.keys_of(ids, part, self.order, self.limit)
            for name, columns in zip(BLOCK, keys, strict=True):
                self.insert(name, columns)

    def insert(self, table: str, columns: marks.Columns) -> None:
        self.database.register("columns", columns)
        self.database.execute(f"INSERT INTO {table} SELECT {', '.join(columns)} FROM columns")
        self.database.unregister("columns")

    def choose(self, numbers: np.ndarray | None) -> None:
        if numbers is not None:
            self.database.execute("TRUNCATE chosen")
            self.insert("chosen", {"id": numbers})

    def cost(self, among: str, numbers: np.ndarray | None = None) -> int:
        self.choose(numbers)
        found = [self.database.execute(statement).fetchone()[0] for statement in costs(among)]
        return int(sum(found))

    def pairs(self, among: str, numbers: np.ndarray | None = None) -> Pairs:
        self.choose(numbers)
        found = pairs_among(among, self.limit)
        self.database.execute(f"CREATE OR REPLACE TABLE found AS {found}")
        count = self.database.execute("SELECT count(*) FROM found").fetchone()[0]
        for start in range(0, count, BATCH):
            some = self.database.execute(
                "SELECT older, newer FROM found WHERE rowid >= $low AND rowid < $high",
                {"low": start, "high": start + BATCH},
            ).fetchnumpy()
            yield from self.above_limit(some["older"], some["newer"])

    def above_limit(self, older: np.ndarray, newer: np.ndarray) -> Pairs:
        ours = [self.coded[number] for number in newer]
        theirs = [self.coded[number] for number in older]
        scores = marks.scores_of(ours, theirs, self.recipe)
        for place in (scores > self.limit).nonzero()[0]:
            yield int(older[place]), int(newer[place]), float(scores[place])

    def keep(self, numbers: np.ndarray) -> None:
        self.choose(numbers)
        for name, kept in zip(BLOCK, KEPT, strict=True):
            self.database.execute(
                f"INSERT INTO {kept} SELECT * FROM {name} SEMI JOIN chosen USING (id)"
            )
