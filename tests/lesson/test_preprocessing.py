"""data/preprocessing.ipynb runs to its end, draws its pictures and makes its three files."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.runs import ROOT

from scripts.training.shared import SAMPLE, read_rows

BOOK = ROOT / "data" / "preprocessing.ipynb"
LINES = 20  # the longest cell of code
CELLS = json.loads(BOOK.read_text(encoding="utf-8"))["cells"]
CODE = [cell for cell in CELLS if cell["cell_type"] == "code"]
SETS = ("guanaco_train.jsonl", "guanaco_test.jsonl", "lima_train.jsonl")
# What the last cell looks at: each picture says what its axes are.
CHECKS = """
import json
print(json.dumps(DRAWN))
"""
# Before the pictures are shown, their labels are noted.
NOTES = """
DRAWN = []
show = plt.show
def note():
    for axis in plt.gcf().axes:
        texts = [one.get_text() for one in axis.get_xticklabels() + axis.get_yticklabels()]
        DRAWN.append([axis.get_title(), axis.get_xlabel(), axis.get_ylabel(), texts])
    show()
plt.show = note
"""


def test_the_notebook_is_stored_without_outputs_and_with_names_for_its_cells() -> None:
    assert [cell["id"] for cell in CODE if cell["outputs"] or cell["execution_count"]] == []
    assert len({cell["id"] for cell in CELLS}) == len(CELLS) > 30
    assert [cell["id"] for cell in CELLS if not re.fullmatch(r"[a-z0-9-]+", cell["id"])] == []
    assert [cell["id"] for cell in CELLS if cell["metadata"]] == []
    assert [cell["id"] for cell in CODE if len(cell["source"]) > LINES] == []


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> Callable:
    """Run the notebook on the sample, or on a folder; return its folder, prints and pictures."""
    for package in ("nbclient", "ipykernel", "matplotlib", "pandas"):
        pytest.importorskip(package, reason=f"no {package}: scripts/requirements-notebook.txt")
    import nbclient
    import nbformat
    from matplotlib import font_manager  # noqa: F401  the list of fonts is made before, in silence

    def execute(data: str = "") -> tuple[Path, str, list, int]:
        out = tmp_path_factory.mktemp("out")
        book = nbformat.read(BOOK, as_version=4)
        cell = nbformat.v4.new_code_cell
        place = next(n for n, one in enumerate(book.cells) if one.id == "pictures")
        book.cells.insert(place + 1, cell(NOTES))
        book.cells.append(cell(CHECKS))
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PREPROCESSING_OUT", str(out))
            patch.setenv("PREPROCESSING_DATA", data)
            patch.setenv("http_proxy", "http://127.0.0.1:9")  # offline
            patch.setenv("https_proxy", "http://127.0.0.1:9")
            resources = {"metadata": {"path": str(BOOK.parent)}}
            nbclient.NotebookClient(book, timeout=300, resources=resources).execute()
        shown = [one for cell in book.cells for one in cell.get("outputs", [])]
        assert [one.text for one in shown if one.get("name") == "stderr"] == []
        printed = "".join(one.text for one in shown if one.get("name") == "stdout")
        pictures = sum("image/png" in one.get("data", {}) for one in shown)
        return out, printed, json.loads(printed.splitlines()[-1]), pictures

    return execute


@pytest.fixture(scope="module")
def sample(executed: Callable) -> tuple[Path, str, list, int]:
    return executed()


def test_it_makes_its_three_files_from_the_sample(sample: tuple) -> None:
    names = ("guanaco_inverse", "guanaco_inverse_test", "lima_single_turn")
    assert [len(read_rows(sample[0] / f"{name}.json")) for name in names] == [36, 8, 24]


def test_every_picture_is_drawn_and_says_what_its_axes_are(sample: tuple) -> None:
    _, _, drawn, pictures = sample
    assert pictures == 9
    bare = [one for one in drawn if not (one[0] and one[1])]
    assert bare == []
    titles = [title for title, *_ in drawn]
    for wanted in ("several turns", "answer: median", "by source", "fit into a limit", "entities"):
        assert any(wanted in title for title in titles), wanted


def test_what_it_counts_is_true_of_the_sample(sample: tuple) -> None:
    _, printed, drawn, _ = sample
    titles = [title for title, *_ in drawn]
    assert "Guanaco: 8% have several turns" in titles and "LIMA: 20% have several turns" in titles
    assert "LIMA: 2 of 24 answers hold an HTML entity" in printed
    assert "0 of 8 test rows are also training rows" in printed
    names = {name for *_, names in drawn for name in names}
    assert {"English", "Chinese", "what", "write", "&quot;", "own_howto"} <= names


def test_other_data_with_duplicates_and_chinese_names_has_no_empty_boxes(
    executed: Callable, tmp_path: Path
) -> None:
    for name in SETS:
        shutil.copy(SAMPLE / name, tmp_path / name)
    train = tmp_path / SETS[0]
    lines = train.read_text(encoding="utf-8").splitlines(keepends=True)
    train.write_text("".join([*lines, *lines[:3]]), encoding="utf-8")
    first = (SAMPLE / SETS[1]).read_text(encoding="utf-8").splitlines(keepends=True)[0]
    train.write_text(train.read_text(encoding="utf-8") + first, encoding="utf-8")
    lima = tmp_path / SETS[2]
    text = lima.read_text(encoding="utf-8")
    lima.write_text(text.replace("own_zh", "知乎"), encoding="utf-8")

    _, printed, drawn, _ = executed(str(tmp_path))  # a missing glyph is a warning on stderr
    assert "Guanaco: 3 of 40 instructions stand there a second time" in printed
    assert "1 of 8 test rows are also training rows" in printed
    assert any("have a neighbour above 0.7" in title and ": 6 of" in title for title, *_ in drawn)
