"""scripts/scale: large runs use numba where it is there, or else say what to install."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator

import pytest
from helpers.runs import ROOT

import self_instruct_workshop as workshop
from scripts import scale


@pytest.fixture
def without_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scale.util, "find_spec", lambda name: None)


@pytest.fixture
def plain_again() -> Iterator[None]:
    yield
    workshop.FASTER.clear()


def test_a_run_over_200000_without_numba_says_what_to_install(
    without_numba: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not scale.speed_up(200_001)
    notice = capsys.readouterr().err
    assert notice.count("\n") == 1 and notice.startswith("notice: 200001 instructions")
    assert re.search(r"pip install -r \S*scripts/requirements-scale.txt", notice)
    assert "numba" in (ROOT / "scripts" / "requirements-scale.txt").read_text(encoding="utf-8")


def test_it_says_so_in_chinese(without_numba: None, capsys: pytest.CaptureFixture[str]) -> None:
    scale.speed_up(300_000, "zh")
    notice = capsys.readouterr().err
    assert notice.startswith("注意：没有 numba，300000 条指令")
    assert "requirements-scale.txt" in notice


def test_smaller_runs_say_nothing(without_numba: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert not any(scale.speed_up(number) for number in (20, 50_000, 200_000))
    assert capsys.readouterr().err == ""
    assert workshop.FASTER == {}


@pytest.mark.slow
def test_with_numba_runs_from_20000_on_use_the_compiled_parts(plain_again: None) -> None:
    pytest.importorskip("numba")
    assert not scale.speed_up(19_999) and workshop.FASTER == {}
    assert scale.speed_up(20_000)
    assert set(workshop.FASTER) == {"index", "neighbours"}


def test_numba_is_not_imported_where_it_is_not_used() -> None:
    code = "import sys, self_instruct, scripts.scale; scripts.scale.speed_up(100)"
    code += "; sys.exit('numba' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True)
    assert done.returncode == 0, done.stderr
