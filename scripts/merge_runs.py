"""Many runs, one dataset: their folders, or files of rows, become one folder. Asks nothing.

    python scripts/merge_runs.py run_a run_b --out merged       seconds; 50,000 rows: a minute
    python scripts/merge_runs.py run_a alpaca.parquet --out merged --prefer run_a --parquet
    pip install -r scripts/requirements-duckdb.txt
    python scripts/merge_runs.py run_* --out merged --engine duckdb       tables on the disk
    pip install -r scripts/requirements-spark.txt
    python scripts/merge_runs.py run_* --out merged --engine spark --master spark://host:7077

An instruction stays if its ROUGE-L with every one that stays before it is at most the threshold of
the runs. They take turns: the first instruction of each, then the second of each, so that no run
is favoured; what --prefer names comes first, whole. The rows of what stays are taken as they are.

The new folder has the files of a run: report.py, explain.py, review.py, judge.py, overlap.py,
rewrite.py, provenance.py and prepare_for_finetuning.py read it. `run` in a row names where it comes
from. The journals stay in the runs. All engines write the same files.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import self_instruct_workshop as workshop
from scripts.asking.parser import Parser
from scripts.merging import sources as reading
from scripts.merging.decide import ENGINES, decide
from scripts.merging.merged import PARQUET, Merge, rejected_rows, write_dataset, write_steps
from scripts.merging.summary import card, summary_of, table
from self_instruct_workshop import UsageError, WorkshopError, program_command

WRITTEN = (*workshop.VIEWS, PARQUET, "README.md")


def merge_runs(options: argparse.Namespace) -> int:
    """Merge, say what came of it, and return the exit code."""
    # What can be wrong is found before anything is read.
    started = time.monotonic()
    sources = reading.named_sources(options.sources)
    preferred = reading.preferred_names(sources, options.prefer)
    threshold = reading.threshold_of(sources, options.threshold)
    check_out(options, sources)
    check_packages(options)

    # All is written into a folder beside it, which takes the name at the end.
    options.out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{options.out.name}-", dir=options.out.parent))
    work.chmod(options.out.parent.stat().st_mode & 0o777)  # it was made for its owner alone
    try:
        with open(work / "rows.tmp", "w+b") as spool:
            merge = read(sources, preferred, spool)
            decide_all(merge, threshold, options, work)
            write_dataset(merge, work, options.parquet)
            write_steps(merge, work)
        workshop.write_rows(work / "rejected.jsonl", rejected_rows(merge))
        how = {"engine": options.engine, "seconds": round(time.monotonic() - started, 1)}
        summary = summary_of(merge, threshold, preferred, str(options.out), how)
        workshop.write_whole(work / "README.md", [card(summary)])
        workshop.write_json(work / "run.json", summary)
        (work / "rows.tmp").unlink()
        put_in_place(work, options.out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    say(options, summary, sources)
    return 0


def check_out(options: argparse.Namespace, sources: list[reading.Source]) -> None:
    """Raise UsageError where --out would write over what is there."""
    out = options.out
    for source in sources:
        if workshop.same_file(out, source.path) or workshop.same_file(out, source.data):
            raise UsageError(f"--out {out} is merged itself: name another folder")
    if os.path.lexists(out) and not out.is_dir():
        raise UsageError(f"--out {out} is a file: name a folder")
    there = sorted(path.name for path in out.iterdir()) if out.is_dir() else []
    if not there:
        return
    if not options.overwrite:
        raise UsageError(f"--out {out} is not empty: name a new folder, or add --overwrite")
    if "merge" not in workshop.earlier_run(out):
        advice = "name another folder"
        raise UsageError(f"--overwrite replaces a merged folder only, and {out} is none: {advice}")


def check_packages(options: argparse.Namespace) -> None:
    """Raise WorkshopError where a package that will be needed is not installed."""
    package = {"duckdb": "duckdb", "spark": "pyspark"}.get(options.engine)
    if package and not workshop.util.find_spec(package):
        install = workshop.pip_install("-r", f"scripts/requirements-{options.engine}.txt")
        raise WorkshopError(f"--engine {options.engine} needs a package: run  {install}  first")
    if options.parquet and not workshop.util.find_spec("pyarrow"):
        install = workshop.pip_install("pyarrow")
        raise WorkshopError(f"--parquet needs a package: run  {install}  first")


def read(sources: list[reading.Source], preferred: list[str], spool: Any) -> Merge:
    """Read all rows into the spool, and say in which order their instructions come."""
    for source in sources:
        reading.read_rows(source, spool)
        for name in reading.behind_the_dataset(source):
            advice = f"to merge that, name {source.path / name} instead of the folder"
            workshop.tell(f"notice: {name} in {source.path} is not taken: {advice}")
    whose, which = reading.order_of(sources, preferred)
    return Merge(sources, reading.recipe_of(sources), whose, which, spool)


def decide_all(merge: Merge, threshold: float, options: argparse.Namespace, work: Path) -> None:
    """Decide about each instruction, with a bar on a terminal."""
    from tqdm import tqdm

    texts = merge.texts()
    bar = tqdm(
        total=len(texts), desc="merge", unit=" instructions", disable=not sys.stderr.isatty()
    )
    # What the engine leaves on the disk goes with this folder.
    with bar, tempfile.TemporaryDirectory(dir=work, ignore_cleanup_errors=True) as folder:
        on_disk = {"folder": folder, "memory": options.memory}
        how = {"local": {}, "duckdb": on_disk, "spark": on_disk | {"master": options.master}}
        found = decide(
            texts,
            threshold,
            merge.recipe,
            options.engine,
            lambda done: bar.update(done - bar.n),
            **how[options.engine],
        )
        for decision in found:
            merge.note(decision)


def put_in_place(work: Path, out: Path) -> None:
    """Let the new files take their places. run.json, which says that all are there, comes last."""
    if not out.exists():
        os.replace(work, out)
        return
    for name in reversed(WRITTEN):
        (out / name).unlink(missing_ok=True)
    for name in sorted(os.listdir(work), key=lambda name: name == "run.json"):
        os.replace(work / name, out / name)


def say(options: argparse.Namespace, summary: dict, sources: list[reading.Source]) -> None:
    """Print what came of it, and what to do next."""
    workshop.show(table(summary))
    names = [name for name in WRITTEN if (options.out / name).exists()]
    workshop.show(workshop.spoken(f"written to {options.out}: {', '.join(names)}"))
    if any(not source.is_run for source in sources):
        said = "of files of rows, steps 1 and 3 have what the files say, and step 2 nothing"
        workshop.show(workshop.spoken(said))
    command = program_command("scripts/report.py", "--work-dir", str(options.out))
    workshop.show(workshop.spoken(f"next, a page to look at: {command}"))


def share(text: str) -> float:
    """A threshold from 0 to 1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be from 0 to 1, and is {text}")
    return value


def command_line() -> argparse.ArgumentParser:
    parser = Parser(description=(__doc__ or "").split("\n\n")[0])
    add = parser.add_argument
    what = "folders of finished runs; .jsonl, .json, .csv, .tsv and .parquet files of rows"
    add("sources", nargs="+", type=Path, metavar="RUN", help=what)
    add("--out", type=Path, required=True, help="the new folder")
    add("--overwrite", action="store_true", help="replace an earlier merge in that folder")
    prefer = "a RUN that comes first, whole; may be given several times"
    add("--prefer", action="append", default=[], metavar="RUN", help=prefer)
    add("--threshold", type=share, help="highest ROUGE-L of two instructions [that of the runs]")
    add("--parquet", action="store_true", help=f"write {PARQUET}, too")
    add("--engine", choices=ENGINES, default="local", help="who compares [local]")
    add("--memory", default="2GB", help="what duckdb and spark take at most [2GB]")
    master = "of --engine spark: the address of the cluster [local[*], this machine]"
    add("--master", default="local[*]", help=master)
    return parser


def main(arguments: list[str] | None = None) -> int:
    options = command_line().parse_args(arguments)
    return workshop.main(None, lambda _: merge_runs(options))


if __name__ == "__main__":
    sys.exit(main())
