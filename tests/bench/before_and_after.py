"""Show whether two versions of the program give the same bytes, but for times.

    python tests/bench/before_and_after.py OLD_CHECKOUT                  against this checkout
    python tests/bench/before_and_after.py OLD_CHECKOUT NEW_CHECKOUT     one to three minutes

Each case runs both versions with the same settings in fresh folders, on the practice model or on
a local server whose replies depend on the prompt alone. It compares all files, what was printed,
and what was asked. Where a case begins with `old:`, the old version makes the first call for both.
The last case gives texts to the parsers and rules, by parsed_texts.py, which stands beside this.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from parsed_texts import DATA, TESTS, json_lines, real_rows

sys.path.insert(0, str(TESTS))
from helpers.server import Server, scripted_model

Views = dict[str, list[str]]  # name of a file or stream -> its lines, without times
DONE = (["0"], ["3"])  # exit codes: done, and done with some tasks undone
MASKS = {  # what may differ from run to run -> what is compared in its place
    r'"(created_at|ended_at)": "[^"]*"': r'"\1": "TIME"',
    r'"seconds": [\d.]+': '"seconds": 0',
    r'"versions": \{[^}]*\}': '"versions": {}',
    r' *"responses": "",\n': "",  # a setting of --provider replay, which newer versions may lack
    r"(?<=tokens in all; )[\d.]+ s": "0 s",
}


# --------------------------------------------------------------------------------------------------
# What is run: calls of the program, one after another in the same folder.

ALONE, TOGETHER = "--classify-together 1", "--classify-together 10"
KINDS = {  # who answers -> the flags that all calls of a case begin with
    "practice": ["", "--language zh", "--recipe paper"],
    "practice, once": [""],
    "practice, mistakes": [""],
    "scripted": [ALONE, TOGETHER],
    "uneven": [ALONE, TOGETHER, f"{ALONE} --language zh", f"{TOGETHER} --language zh"],
    "uneven, paper": ["--recipe paper"],
    "uneven, once": [""],
    "real": [ALONE, "--recipe paper"],
}
CALLS = {  # who answers -> the cases; a comma stands between the calls of a case
    "practice": [
        "--num-instructions 5",
        "--num-instructions 100",
        "--num-instructions 300",
        "--instances-per-instruction 3",
        "--max-tokens 40, --max-tokens 400",
        "--until generate, --until classify, --until instances, --until filter",
        ", --rouge-threshold 0.5, --rouge-threshold 0.25",
        "--show-prompts, --estimate",
        "old: , , --num-instructions 150",
        "old: --until classify, ",
    ],
    "practice, once": [
        "--concurrency 1",
        "--concurrency 32, --concurrency 1",
        "--seed-file seeds.txt --output-path final.jsonl --seed 7",
    ],
    "practice, mistakes": [
        "--num-instructions 0, --recipe paper --language zh, --seed-file none.txt"
    ],
    "uneven, once": [
        "--until generate, --until classify, --until instances, --until filter",
        "--classify-together 10, --classify-together 1 --num-instructions 120",
        "--classify-together 1, --classify-together 10 --num-instructions 120",
        "old: --classify-together 10, --classify-together 10, --classify-together 7",
        "--max-tokens 30, --max-tokens 60, --max-tokens 512",
        "--instances-per-instruction 3",
    ],
    "real": ["--num-instructions 120, --num-instructions 120 --rouge-threshold 0.5"],
}
GROWING = "--num-instructions 40 --concurrency 1, --num-instructions 70 --concurrency 32"
HANDED_OVER = "old: --num-instructions 40, --num-instructions 40, --num-instructions 70"
for who in ("scripted", "uneven", "uneven, paper"):
    CALLS[who] = [GROWING, HANDED_OVER]


class Case(NamedTuple):
    name: str
    calls: list[list[str]]  # the flags of each call
    answer: Callable | None  # what the local server says; None: the practice model answers
    handover: bool  # the old version makes the first call for both


def all_cases() -> Iterator[Case]:
    """The cases of the tables above; those on real replies only where the folder with them is."""
    models = {"scripted": scripted_model(), "uneven": uneven_model(), "real": real_model()}
    for who, kinds in KINDS.items():
        answer = models.get(who.split(",")[0])
        if who == "real" and not real_rows("*"):
            continue
        for kind in kinds:
            for script in CALLS[who]:
                parts = script.removeprefix("old: ").split(", ")
                calls = [f"{kind} {part}".split() for part in parts]
                name = " ".join(f"{who} {kind}: {script}".split())
                yield Case(name, calls, answer, script.startswith("old:"))


def uneven_model() -> Callable:
    """The scripted model; some replies are cut, filtered, unreadable, or begin with small talk."""
    scripted = scripted_model()

    def answer(prompt: str, body: dict) -> str | tuple[str, str]:
        text = scripted(prompt, body)
        mishaps = ["Perhaps.", (text[: len(text) // 2], "length"), ("", "content_filter")]
        mishaps += [f"Sure! Here you are:\n\n{text}", f"<think>Hm.</think>\n{text}"]
        mishaps += [text.replace("2. ", "3. ", 1), text.replace("\n", "\n\n* ", 1)]
        in_a_list = prompt.rstrip().endswith(("Answers:", "答案："))  # there are fewer of these
        chosen = random.Random(f"uneven/{prompt}").randrange(12 if in_a_list else 40)
        return mishaps[chosen] if chosen < len(mishaps) else text

    return answer


def real_model() -> Callable:
    """A model that answers with a raw reply of some real model to a prompt of the same stage."""
    rows = {stage: real_rows(f"*.stage{stage}") for stage in (1, 2, 3)}

    def answer(prompt: str, body: dict) -> str:
        last_line = prompt.rstrip().split("\n")[-1]
        stage = 2 if last_line.startswith("Is it") else 3
        stage = 1 if re.fullmatch(r"\d+\.", last_line) else stage
        return random.Random(f"real/{prompt}").choice(rows[stage])["response"]

    return answer


# --------------------------------------------------------------------------------------------------
# How it is run and compared.


def compare(case: Case, old: Path, new: Path) -> str:
    """Run a case with both versions; return "same" or the first difference."""
    serving = Server(case.answer) if case.answer else nullcontext()
    with tempfile.TemporaryDirectory() as root, serving as server:
        # Both versions start in equal folders: fresh ones, or copies of what the old version began.
        old_folder = fresh_folder(Path(root) / "old")
        if case.handover:
            call(old, case.calls[0], old_folder, server)
        new_folder = Path(shutil.copytree(old_folder, Path(root) / "new"))
        # After each call, compare all that can be seen.
        for flags in case.calls[case.handover :]:
            seen = call(old, flags, old_folder, server)
            now = call(new, flags, new_folder, server)
            difference = first_difference(seen, now)
            if case.handover and flags == case.calls[0] and now["requests"]:
                difference = f"it asked again: {now['requests'][0][:300]}"
            if seen["exit code"] not in DONE and "mistakes" not in case.name:
                difference = f"the old version fails: {seen['stderr'][-3:]}"
            if difference:
                return f"after {flags}: {difference}"
    return "same"


def fresh_folder(folder: Path) -> Path:
    """A folder with an empty .env, where the search for one ends, and a file of seed tasks."""
    folder.mkdir()
    (folder / ".env").touch()
    seeds = [row["instruction"] for row in json_lines(DATA / "seed_tasks.jsonl")[:12]]
    text = "\n\n".join([*seeds, seeds[0], "把下面的句子改写得更礼貌。"])
    (folder / "seeds.txt").write_text(text, encoding="utf-8")
    return folder


def call(checkout: Path, flags: list[str], folder: Path, server: Any) -> Views:
    """Run the program once in a folder, and return what can be seen afterwards."""
    # The folder is named by a relative path, so that files name it alike in both versions.
    provider = ["--provider", "practice"]
    if server:
        provider = ["--provider", "local", "--base-url", f"{server.url}/v1", "--model", "m"]
    command = [sys.executable, str(checkout / "self_instruct.py"), "--work-dir", "work"]
    sent_before = len(server.requests) if server else 0
    command += [*provider, *flags]
    done = subprocess.run(command, cwd=folder, env=clean_environment(), capture_output=True)
    # What was printed, what was asked, and the files.
    views = {"exit code": [str(done.returncode)]}
    for name, printed in {"stdout": done.stdout, "stderr": done.stderr}.items():
        text = printed.decode().replace(str(checkout), "CHECKOUT").replace(str(folder), "FOLDER")
        views[name] = masked(text.replace(sys.executable, "PYTHON"))
    requests = server.requests[sent_before:] if server else []
    views["requests"] = sorted(json.dumps([one["path"], one["body"]]) for one in requests)
    for path in sorted(folder.rglob("*.json*")):
        lines = masked(path.read_bytes().decode("utf-8", "surrogateescape"))
        name = str(path.relative_to(folder))
        views[name] = journal_lines(lines) if path.stem == "responses" else lines
    return views


def clean_environment() -> dict[str, str]:
    """The shell's variables without keys, addresses and proxies."""
    unwanted = re.compile(r"(?i)key|token|url|proxy")
    return {name: value for name, value in os.environ.items() if not unwanted.search(name)}


def masked(text: str) -> list[str]:
    for pattern, constant in MASKS.items():
        text = re.sub(pattern, constant, text)
    return text.split("\n")


def journal_lines(lines: list[str]) -> list[str]:
    """The lines sorted, for threads write in any order. Where stage 2 asked in lists, a version may
    keep the answers in the list's record or in records of their own: there, compare in stage 2 each
    key with its text."""
    records = [json.loads(line) for line in lines if line]
    if not any("instructions" in record for record in records):
        return sorted(lines)
    kept = set()
    for line, record in zip(lines, records, strict=False):
        pairs = [(record["key"], record["text"]), *record.get("answers", {}).items()]
        kept |= set(map(str, pairs)) if record["stage"] == "classify" else {line}
    return sorted(kept)


def first_difference(old: Views, new: Views) -> str:
    """The first line that differs, around the place where it does; "" where all are equal."""
    for name in [*old, *(new.keys() - old.keys())]:
        lines = zip_longest(old.get(name, []), new.get(name, []), fillvalue="(no line)")
        for number, (one, other) in enumerate(lines, 1):
            if one != other:
                same = (i for i, (a, b) in enumerate(zip_longest(one, other)) if a != b)
                start = max(0, next(same) - 100)
                shown = [text[start : start + 300] for text in (one, other)]
                return f"{name}, line {number}\n  old: {shown[0]}\n  new: {shown[1]}"
    return ""


def compare_texts(old: Path, new: Path) -> str:
    """Give texts to the parsers and rules of both; return "same" or the first difference."""
    program = Path(__file__).with_name("parsed_texts.py")

    def parsed(checkout: Path) -> Views:
        done = subprocess.run([sys.executable, program, checkout], capture_output=True)
        ended = [str(done.returncode), done.stderr.decode()[-300:]]
        return {"exit code": ended, "texts": done.stdout.decode().split("\n")}

    with ThreadPoolExecutor(2) as threads:
        seen, now = threads.map(parsed, [old, new])
    if seen["exit code"][0] != "0":
        return f"the old version fails: {seen['exit code']}"
    return first_difference(seen, now) or "same"


def main() -> int:
    # The checkouts.
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("old", type=Path, help="a checkout of the older version")
    parser.add_argument("new", type=Path, nargs="?", default=TESTS.parent, help="the newer")
    options = parser.parse_args()
    old, new = options.old.resolve(), options.new.resolve()
    # A line for each case, in order.
    if not real_rows("*"):
        print("no real runs: set SELF_INSTRUCT_REAL_RUNS to the folder that has them")
    cases = list(all_cases())
    differ = 0
    with ThreadPoolExecutor(2) as threads:
        results = threads.map(lambda case: compare(case, old, new), cases)
        for case, result in zip(cases, results, strict=True):
            print(f"{case.name}: {result}", flush=True)
            differ += result != "same"
    # The parsers and rules, and the count.
    result = compare_texts(old, new)
    print(f"texts through the parsers and rules: {result}")
    differ += result != "same"
    print(f"{len(cases) + 1} cases, {differ} differ")
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
