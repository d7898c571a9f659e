"""scripts/: programs on top help from anywhere; parts in folders name their program."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.runs import ROOT

SCRIPTS = ROOT / "scripts"
PROGRAMS = sorted(path for path in SCRIPTS.glob("*.py") if path.name != "__init__.py")
SHELL = sorted(SCRIPTS.glob("*.sh"))
FOLDERS = sorted(path.parent for path in SCRIPTS.glob("*/__init__.py"))
PARTS = sorted(path for path in SCRIPTS.glob("*/*.py") if path.name != "__init__.py")


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A folder with a foreign package `scripts`, and without the companions' own packages."""
    folder = tmp_path / "hostile"
    (folder / "scripts").mkdir(parents=True)
    (folder / "scripts" / "__init__.py").write_text("raise SystemExit('the foreign one')\n")
    # What stands here is found before site-packages, so an installed package is as good as absent.
    for requirements in SCRIPTS.glob("requirements-*.txt"):
        for name in re.findall(r"^\w+", requirements.read_text(encoding="utf-8"), re.M):
            (folder / f"{name}.py").write_text(f"raise ImportError('no {name}', name='{name}')\n")
    return folder


def call(*command: str | Path, folder: Path) -> subprocess.CompletedProcess:
    """Run a command in a folder whose modules win over installed ones."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return subprocess.run(
        [*map(str, command)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder), "PATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
    )


def complaint(done: subprocess.CompletedProcess) -> str:
    """What is wrong with an answer to --help; nothing where all is well."""
    if done.returncode or done.stderr:
        return f"exit {done.returncode}, stderr: {done.stderr[-300:]}"
    return "" if done.stdout.startswith("usage: ") else f"stdout: {done.stdout[:100]}"


def test_every_program_helps_from_another_folder_beside_a_foreign_package(hostile: Path) -> None:
    assert len(PROGRAMS) >= 9
    said = {}
    for program in (ROOT / "self_instruct.py", *PROGRAMS):
        said[program.name] = complaint(call(sys.executable, program, "--help", folder=hostile))
    assert {name: text for name, text in said.items() if text} == {}


def test_every_shell_script_helps_from_another_folder(hostile: Path) -> None:
    if not shutil.which("bash"):
        pytest.skip("no bash")
    said = {path.name: complaint(call("bash", path, "--help", folder=hostile)) for path in SHELL}
    assert len(said) == 2
    assert {name: text for name, text in said.items() if text} == {}


def test_a_part_that_is_called_by_mistake_names_its_program_in_one_line(tmp_path: Path) -> None:
    wrong = {}
    for part in PARTS:
        done = call(sys.executable, part, "--help", folder=tmp_path)
        named = re.findall(r"\b(?:scripts/)?\w+\.py\b", done.stderr.replace(part.name, "", 1))
        programs = [
            name for name in named if (ROOT / name) in (ROOT / "self_instruct.py", *PROGRAMS)
        ]
        fine = done.returncode == 1 and not done.stdout and done.stderr.count("\n") == 1
        if not (fine and part.name in done.stderr and programs):
            wrong[part.name] = done.stderr[-300:]
    assert len(PARTS) >= 10
    assert wrong == {}


def test_verb_nouns_is_a_part_that_can_be_called_as_a_module(tmp_path: Path) -> None:
    pytest.importorskip("textblob")
    tasks = tmp_path / "tasks.txt"
    tasks.write_text("Write a short poem.\nExplain why.\n", encoding="utf-8")
    done = call(sys.executable, "-m", "scripts.reporting.verb_nouns", tasks, folder=ROOT)
    assert done.returncode == 0, done.stderr
    assert [line.split("  ")[0] for line in done.stdout.splitlines()] == ["write poem", "-"]


def test_no_file_of_the_top_is_a_part_and_no_folder_lacks_a_word_of_what_it_holds() -> None:
    silent = [path.name for path in PROGRAMS if "__main__" not in path.read_text(encoding="utf-8")]
    bare = [path.name for path in FOLDERS if not (path / "__init__.py").read_text(encoding="utf-8")]
    assert (silent, bare) == ([], [])
    assert {path.parent for path in PARTS} <= {*FOLDERS}


def test_the_table_of_programs_is_whole_and_names_only_what_is_there() -> None:
    text = (SCRIPTS / "README.md").read_text(encoding="utf-8")
    text = text.partition("\n## Names that you know\n")[0]  # test_names_that_you_know.py
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    missing = [
        path.name
        for path in (*PROGRAMS, *SHELL)
        if sum(f"scripts/{path.name}" in row for row in rows) != 1
    ]
    folders = [path.name for path in FOLDERS if f"| `{path.name}/` |" not in text]
    named = re.findall(r"`(?:python )?(scripts/[\w./-]+|[\w-]+\.(?:txt|py|sh))", text)
    places = (ROOT, SCRIPTS, SCRIPTS / "training")
    absent = [name for name in named if not any((place / name).exists() for place in places)]
    assert (missing, folders, absent) == ([], [], [])
    assert named


BENCHES = [
    path
    for path in sorted((ROOT / "tests" / "bench").glob("*.py"))
    if "parse_args" in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("bench", BENCHES, ids=lambda path: path.stem)
def test_a_bench_says_what_it_does_from_any_folder(bench: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(bench), "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, encoding="utf-8")
    if "atheris" in done.stderr:
        pytest.skip("atheris is not installed")
    assert done.returncode == 0 and "usage:" in done.stdout, done.stderr
