"""What a merge of many runs costs, engine by engine: CPU seconds and peak memory of all processes.

    python tests/bench/merge_runs.py INSTRUCTIONS.jsonl                52,000: minutes
    python tests/bench/merge_runs.py INSTRUCTIONS.jsonl --sizes 300000 --engines local duckdb
    python tests/bench/merge_runs.py INSTRUCTIONS.jsonl --stages 1000000      what the joins look at

INSTRUCTIONS.jsonl has an `instruction` a line. More than it has are made of it: the first half of a
real one, up to a word, with the second half of another, both drawn with a fixed seed. So words and
lengths are real, and beginnings come again as often as in real ones. They are dealt out to four
files of rows, as to four runs; the output of a row is its instruction. The program runs as a user
runs it, reading and writing included. Linux, for /proc.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
from helpers.many_texts import recombined  # noqa: E402

FILES = ("step4_final.jsonl", "rejected.jsonl", "step1_instructions.jsonl")
TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


def real_instructions(path: Path) -> list[str]:
    with open(path, encoding="utf-8") as lines:
        return [json.loads(line)["instruction"] for line in lines]


def write_runs(texts: list[str], folder: Path, runs: int) -> list[Path]:
    """Deal the texts out to so many files of rows."""
    paths = [folder / f"run_{number}.jsonl" for number in range(runs)]
    for number, path in enumerate(paths):
        with open(path, "w", encoding="utf-8") as file:
            for text in texts[number::runs]:
                row = {"instruction": text, "input": "", "output": text}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return paths


def processes(session: int) -> dict[int, tuple[float, int]]:
    """CPU seconds and resident bytes of each process of a session."""
    found = {}
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        try:
            text = Path(entry.path, "stat").read_text(encoding="utf-8", errors="replace")
        except OSError:  # it has ended
            continue
        fields = text.rpartition(")")[2].split()
        if int(fields[3]) == session:
            seconds = (int(fields[11]) + int(fields[12])) / TICKS
            found[int(entry.name)] = (seconds, int(fields[21]) * os.sysconf("SC_PAGE_SIZE"))
    return found


def measured(command: list[str]) -> tuple[float, float, int]:
    """CPU seconds of a command with all its processes, seconds on the clock, peak bytes."""
    started = time.monotonic()
    done = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)
    cpu: dict[int, float] = {}
    peak = 0
    while done.poll() is None:
        now = processes(done.pid)
        cpu |= {number: seconds for number, (seconds, _) in now.items()}
        peak = max(peak, sum(size for _, size in now.values()))
        time.sleep(0.1)
    if done.returncode:
        raise SystemExit(f"exit {done.returncode}: {' '.join(command)}")
    return sum(cpu.values()), time.monotonic() - started, peak


def merge(paths: list[Path], out: Path, engine: str, master: str) -> str:
    """Merge by an engine; return a line of the table."""
    command = [sys.executable, str(ROOT / "scripts" / "merge_runs.py"), *map(str, paths)]
    command += ["--out", str(out), "--engine", engine, "--master", master]
    cpu, seconds, peak = measured(command)
    digest = hashlib.sha256()
    for name in FILES:
        digest.update((out / name).read_bytes())
    summary = json.loads((out / "run.json").read_text(encoding="utf-8"))
    counts = summary["counts"]["generate"]
    figures = f"{counts['in']:>10,} {counts['out']:>10,} {engine:>7}"
    return f"{figures} {cpu:>9.1f} {seconds:>9.1f} {peak / 2**20:>8,.0f} {digest.hexdigest()[:12]}"


def stages(texts: list[str]) -> None:
    """What the joins look at, by DuckDB: the figures from which larger ones are reasoned."""
    import duckdb

    from scripts.merging import marks, rounds
    from scripts.merging.duckdb_engine import SIZES, Tables

    seen = {"keys": 0, "joined": 0, "compared": 0, "above": 0, "rounds": 0}

    class Counting(Tables):
        def insert(self, table: str, columns: marks.Columns) -> None:
            super().insert(table, columns)
            seen["keys"] += len(columns["id"]) if table != "chosen" else 0

        def pairs(self, among: str, numbers: object = None) -> rounds.Pairs:
            found = super().pairs(among, numbers)
            seen["joined"] += super().cost(among, numbers)
            seen["rounds"] += among == "new"
            return found

        def above_limit(self, older: object, newer: object) -> rounds.Pairs:
            seen["compared"] += len(older)
            for pair in super().above_limit(older, newer):
                seen["above"] += 1
                yield pair

    with tempfile.TemporaryDirectory() as folder:
        settings = {"memory_limit": "2GB", "temp_directory": folder}
        database = duckdb.connect(str(Path(folder) / "keys.duckdb"), config=settings)
        tables = Counting(database, texts, 0.7 + 1e-9, "modern")
        kept = sum(
            one is None for one in rounds.choose(tables, len(texts), lambda done: None, SIZES)
        )
        size = sum(path.stat().st_size for path in Path(folder).iterdir())
    each = {name: round(number / len(texts), 1) for name, number in seen.items()}
    print(f"{len(texts):,} texts, {kept:,} kept, {seen['rounds']} rounds; for each text: {each}")
    print(f"on the disk: {size / 2**20:,.0f} MiB")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    add = parser.add_argument
    add("instructions", type=Path, help="JSON Lines with an `instruction` each")
    add("--sizes", type=int, nargs="+", default=[52_000], help="how many to merge [52000]")
    add("--engines", nargs="+", default=["local", "duckdb", "spark"], help="[all three]")
    add("--runs", type=int, default=4, help="files that they are dealt out to [4]")
    add("--master", default="local[2]", help="of Spark [local[2]]")
    add("--stages", type=int, help="only count what the joins look at, for so many")
    options = parser.parse_args()
    real = real_instructions(options.instructions)
    if options.stages:
        stages(recombined(real, options.stages))
        return 0
    print("        in       kept  engine       CPU     clock      MiB the files")
    for size in options.sizes:
        with tempfile.TemporaryDirectory() as name:
            paths = write_runs(recombined(real, size), Path(name), options.runs)
            for engine in options.engines:
                out = Path(name) / engine
                print(merge(paths, out, engine, options.master), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
