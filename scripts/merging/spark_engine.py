"""--engine spark: candidates by joins of Spark, pairs are compared in its executors.

The driver keeps the texts and makes the greedy choice; it gets only the pairs above the limit. The
executors need numpy, pyarrow, rapidfuzz, rouge-score and regex.
"""

from __future__ import annotations

if __name__ == "__main__":  # a part, no program: said before an import fails
    raise SystemExit(
        "spark_engine.py is a part of scripts/merge_runs.py:"
        " run  python scripts/merge_runs.py --help"
    )

import os
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import self_instruct_workshop as workshop
from scripts.merging import marks
from scripts.merging.decide import Decision
from scripts.merging.rounds import Pairs, Sizes, choose
from scripts.merging.statements import BLOCK, KEPT, costs, pairs_among
from self_instruct_workshop import WorkshopError

KEYS = "key long, id long, size int, place int, bits long"
TEXTS = "id long, coded string"
PAIRS = "older long, newer long, score double"
# A round costs seconds, whatever it does: few and large ones.
SIZES = Sizes(20_000, 4, 10_000_000, 10**12, 200_000_000)


def decisions(
    texts: list[str],
    limit: float,
    recipe: str,
    show: Callable[[int], None],
    folder: str,
    memory: str,
    master: str,
) -> Iterator[Decision]:
    """Yield a decision for each text. In local mode temporary files stand in `folder`."""
    spark = session(Path(folder), memory, master)
    try:
        frames = Frames(spark, texts, limit, recipe)
        yield from choose(frames, len(texts), show, SIZES)
    finally:
        spark.stop()


def session(folder: Path, memory: str, master: str) -> Any:
    """A Spark session whose executors have our modules. Raises WorkshopError without Java."""
    if not (shutil.which("java") or os.environ.get("JAVA_HOME")):
        raise WorkshopError("--engine spark needs Java 17 or newer: install it, or set JAVA_HOME")
    from pyspark.sql import SparkSession

    settings = {
        "spark.ui.showConsoleProgress": "false",
        "spark.driver.memory": memory.lower().removesuffix("b"),
        "spark.driver.maxResultSize": "0",
        "spark.sql.execution.arrow.pyspark.enabled": "true",
    }
    if master.startswith("local"):
        settings |= {
            "spark.local.dir": str(folder),
            "spark.ui.enabled": "false",
            "spark.driver.host": "127.0.0.1",
            "spark.driver.bindAddress": "127.0.0.1",
            "spark.sql.shuffle.partitions": str(4 * (os.cpu_count() or 1)),
        }
        os.environ["PYSPARK_PYTHON"] = sys.executable
    builder = SparkSession.builder.appName("merge_runs").master(master).config(map=settings)
    try:
        spark = builder.getOrCreate()
    except Exception as error:  # of Java, with its own kinds
        why = workshop.one_line(str(error), 200)
        raise WorkshopError(f"Spark does not start at {master} ({why}): check --master") from None
    spark.sparkContext.setLogLevel("ERROR")
    spark.sparkContext.addPyFile(str(zipped_modules(folder / "merge_runs.zip")))
    return spark


def zipped_modules(path: Path) -> Path:
    """Our modules as one file, for the executors: all, since parts import each other."""
    root = workshop.DATA.parent
    parts = sorted((root / "scripts").rglob("*.py"))
    with zipfile.ZipFile(path, "w") as archive:
        for name in (root / "self_instruct_workshop.py", *parts):
            archive.write(name, name.relative_to(root))
    return path


class Frames:
    """The joins of a round, as rounds.Joins wants them."""

    def __init__(self, spark: Any, texts: list[str], limit: float, recipe: str) -> None:
        self.spark = spark
        self.limit = limit
        self.recipe = recipe
        self.kept: list[np.ndarray] = []

        # All texts, coded, and their keys: made in the executors, once, and kept on their disks.
        coded = marks.coded_texts(texts, recipe)
        order = spark.sparkContext.broadcast(marks.order_of_marks(coded))
        self.texts = on_disk(self.frame({"id": np.arange(len(coded)), "coded": coded}, TEXTS))
        self.texts.createOrReplaceTempView("texts")
        for number, name in enumerate(("all_long", "all_short")):
            make = partial(keys_in_executor, number, order, limit)
            keys = on_disk(self.texts.mapInArrow(make, KEYS))
            keys.createOrReplaceTempView(name)

    def frame(self, columns: marks.Columns, schema: str) -> Any:
        import pyarrow

        return self.spark.createDataFrame(pyarrow.table(columns), schema)

    def load(self, low: int, high: int) -> None:
        kept = np.concatenate([np.empty(0, np.int64), *self.kept])
        self.frame({"id": kept}, "id long").createOrReplaceTempView("kept")
        for name, new, old in zip(("all_long", "all_short"), BLOCK, KEPT, strict=True):
            block = f"SELECT * FROM {name} WHERE id >= {low} AND id < {high}"
            self.spark.sql(block).createOrReplaceTempView(new)
            before = f"SELECT * FROM {name} SEMI JOIN kept USING (id)"
            self.spark.sql(before).createOrReplaceTempView(old)

    def choose(self, numbers: np.ndarray | None) -> None:
        if numbers is not None:
            self.frame({"id": numbers}, "id long").createOrReplaceTempView("chosen")

    def cost(self, among: str, numbers: np.ndarray | None = None) -> int:
        self.choose(numbers)
        return int(sum(self.spark.sql(statement).first()[0] for statement in costs(among)))

    def pairs(self, among: str, numbers: np.ndarray | None = None) -> Pairs:
        self.choose(numbers)
        found = pairs_among(among, self.limit)
        with_texts = self.spark.sql(f"""
            SELECT older, newer, o.coded AS theirs, n.coded AS ours
            FROM ({found}) JOIN texts o ON o.id = older JOIN texts n ON n.id = newer
        """)
        compare = partial(compare_in_executor, self.limit, self.recipe)
        above = with_texts.mapInArrow(compare, PAIRS).toArrow()
        return zip(*(column.to_pylist() for column in above.columns), strict=True)

    def keep(self, numbers: np.ndarray) -> None:
        self.kept.append(numbers)


def on_disk(frame: Any) -> Any:
    """A frame that is made once, and kept on the disks of the executors."""
    from pyspark import StorageLevel

    return frame.persist(StorageLevel.DISK_ONLY)


def keys_in_executor(number: int, order: Any, limit: float, batches: Iterator) -> Iterator:
    """The keys of texts: with `number` 0 as the longer ones, with 1 as the shorter ones."""
    import pyarrow

    for batch in batches:
        ids = batch.column("id").to_numpy()
        keys = marks.keys_of(ids, batch.column("coded").to_pylist(), order.value, limit)[number]
        for name in ("size", "place"):
            keys[name] = keys[name].astype(np.int32)
        yield pyarrow.RecordBatch.from_pydict(keys)


def compare_in_executor(limit: float, recipe: str, batches: Iterator) -> Iterator:
    """Of pairs with their texts, those above the limit, with their scores."""
    import pyarrow

    for batch in batches:
        ours, theirs = (batch.column(name).to_pylist() for name in ("ours", "theirs"))
        scores = marks.scores_of(ours, theirs, recipe)
        above = scores > limit
        columns = {name: batch.column(name).to_numpy()[above] for name in ("older", "newer")}
        yield pyarrow.RecordBatch.from_pydict(columns | {"score": scores[above]})
