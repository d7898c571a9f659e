"""The lesson's two notebooks run from top to bottom without a key, and say the same."""

from __future__ import annotations

import ast
import json
import re
import shutil
from pathlib import Path

import pytest
from helpers.runs import ROOT

from self_instruct_workshop import Config, WorkshopError, run

LESSON = ROOT / "lesson"
NOTEBOOKS = {"en": "lesson.ipynb", "zh": "lesson.zh-CN.ipynb"}
LINES = 15  # the longest cell of code
HAN = r"[\u4e00-\u9fff]"
every_notebook = pytest.mark.parametrize("language", NOTEBOOKS)


def stored(language: str) -> dict:
    return json.loads((LESSON / NOTEBOOKS[language]).read_text(encoding="utf-8"))


def code_cells(language: str) -> dict[str, str]:
    """The source of each cell of code, by the cell's id."""
    cells = stored(language)["cells"]
    return {cell["id"]: "".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"}


# --------------------------------------------------------------------------------------------------
# As they are stored.


@every_notebook
def test_a_notebook_is_stored_without_outputs_and_with_names_for_its_cells(language: str) -> None:
    book = stored(language)
    cells = book["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["id"] for cell in code if cell["outputs"] or cell["execution_count"]] == []
    assert len({cell["id"] for cell in cells}) == len(cells) > 40
    assert [cell["id"] for cell in cells if not re.fullmatch(r"[a-z0-9-]+", cell["id"])] == []
    assert book["metadata"]["kernelspec"]["name"] == "python3"
    assert [cell["id"] for cell in cells if cell["metadata"]] == []


@every_notebook
def test_cells_are_short(language: str) -> None:
    cells = code_cells(language)
    assert {name for name, code in cells.items() if len(code.splitlines()) > LINES} == set()


class Untranslated(ast.NodeTransformer):
    """Code without what one language needs: the choice of a font, and the order in a sentence."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        # say(Chinese, English), the label of a picture.
        if isinstance(node.func, ast.Name) and node.func.id == "say":
            return node.args[1]
        return self.generic_visit(node)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        slots = [ast.unparse(part) for part in node.values if isinstance(part, ast.FormattedValue)]
        return ast.Constant(" ".join(sorted(slots)))


def is_for_the_font(statement: ast.stmt) -> bool:
    """Whether a statement chooses the font of the pictures, which Chinese alone needs."""
    defined = {getattr(statement, "name", "")}
    defined |= {alias.name for alias in getattr(statement, "names", [])}
    used = {node.id for node in ast.walk(statement) if isinstance(node, ast.Name)}
    return bool(defined & {"say", "font_manager"}) or "FONTS" in used


def nodes(code: str) -> list[ast.AST]:
    tree = ast.parse(code)
    tree.body = [statement for statement in tree.body if not is_for_the_font(statement)]
    return list(ast.walk(Untranslated().visit(tree)))


def differs(english: ast.AST, chinese: ast.AST) -> bool:
    """Whether two nodes differ in more than a text that is translated."""
    if type(english) is not type(chinese):
        return True
    if not isinstance(english, ast.Constant):
        plain = [name for name in english._fields if isinstance(getattr(english, name), str)]
        return any(getattr(english, name) != getattr(chinese, name) for name in plain)
    pair = (english.value, chinese.value)
    translated = isinstance(chinese.value, str) and re.search(HAN, chinese.value)
    return pair[0] != pair[1] and pair != ("en", "zh") and not translated


def test_both_notebooks_have_the_same_cells_and_the_same_code() -> None:
    shapes = [
        [(cell["id"], cell["cell_type"]) for cell in stored(language)["cells"]]
        for language in NOTEBOOKS
    ]
    assert shapes[0] == shapes[1]
    english, chinese = code_cells("en"), code_cells("zh")
    different = []
    for name in english:
        pair = nodes(english[name]), nodes(chinese[name])
        same = len(pair[0]) == len(pair[1])
        if not same or any(differs(*both) for both in zip(*pair, strict=True)):
            different.append(name)
    assert different == []


def test_both_notebooks_have_the_same_headings_and_links() -> None:
    found = []
    for language in NOTEBOOKS:
        cells = [cell for cell in stored(language)["cells"] if cell["cell_type"] == "markdown"]
        text = "\n".join("".join(cell["source"]) for cell in cells)
        links = re.findall(r"\]\(([^)]+)\)", text.replace(".zh-CN.md", ".md"))
        found.append((re.findall(r"(?m)^#+ ", text), sorted(links)))
        # Chinese readers get Chinese, and no paragraph that was forgotten.
        if language == "zh":
            assert [cell["id"] for cell in cells if not re.search(HAN, str(cell["source"]))] == []
    assert found[0] == found[1]


# --------------------------------------------------------------------------------------------------
# As they run.


def copy_of_the_project(folder: Path, language: str) -> Path:
    """What the notebook needs, and a recorded run that answers the prompts of today.

    Where data/recorded was made with other prompts, test_recorded.py says so; here the practice
    model's run stands in for it, so that the notebook is tested in any case.
    """
    shutil.copytree(ROOT / "data", folder / "data", ignore=shutil.ignore_patterns("workshop"))
    shutil.copy(ROOT / "self_instruct_workshop.py", folder)
    (folder / "lesson").mkdir()
    shutil.copy(LESSON / NOTEBOOKS[language], folder / "lesson")

    recorded = folder / "data" / "recorded" / language
    settings = json.loads((recorded / "run.json").read_text(encoding="utf-8"))["settings"]
    same = {"language": language, "num_instructions": settings["num_instructions"]}
    journal = str(recorded / "responses.jsonl")
    where = {"responses": journal, "work_dir": str(folder / "replayed")}
    try:
        run(Config(provider="replay", **same, **where), say=lambda text: None)
    except WorkshopError:
        shutil.rmtree(recorded)
        config = Config(provider="practice", **same, seed=1, work_dir=str(recorded))
        run(config, say=lambda text: None)
    return folder


def outputs(book: object, **wanted: str) -> list:
    """The outputs of all cells whose fields are these."""
    found = [output for cell in book.cells for output in cell.get("outputs", [])]
    return [one for one in found if all(one.get(name) == wanted[name] for name in wanted)]


# What stands before and behind the cells of the notebook.
TEXT_BARS = "import sys; sys.modules['ipywidgets'] = None"
CHECKS = """
assert len(tasks) == config.num_instructions and 0 < len(dataset) <= len(answered)
assert novel(candidates, config.rouge_threshold) == [task.instruction for task in tasks]
assert sum(flags.values()) == len(classified) and real.dataset
assert counts["generate"]["in"] == len(tasks) + len(rejected)
assert not any(spent["asked_now"] for spent in model.tokens.values())
"""


@pytest.mark.parametrize(
    ("language", "bars"), [("en", "text"), ("zh", "text"), ("en", "drawn")], ids=str
)
def test_a_notebook_runs_from_top_to_bottom(language: str, bars: str, tmp_path: Path) -> None:
    for package in ("nbclient", "ipykernel", "matplotlib", "pandas"):
        pytest.importorskip(package, reason=f"no {package}: scripts/requirements-notebook.txt")
    if bars == "drawn":
        pytest.importorskip("ipywidgets", reason="no ipywidgets: tests/requirements-companions.txt")
    import nbclient
    import nbformat
    from matplotlib import font_manager  # noqa: F401  the list of fonts is made before, in silence

    project = copy_of_the_project(tmp_path / "project", language)
    place = project / "lesson"
    book = nbformat.read(place / NOTEBOOKS[language], as_version=4)
    cell = nbformat.v4.new_code_cell
    book.cells.insert(0, cell(TEXT_BARS if bars == "text" else ""))
    book.cells.append(cell(CHECKS))
    resources = {"metadata": {"path": str(place)}}
    # A cell that fails raises here.
    nbclient.NotebookClient(book, timeout=120, coalesce_streams=True, resources=resources).execute()

    # Nothing is said on stderr: no warning, and no bar that stands apart from what is printed.
    assert [output.text for output in outputs(book, name="stderr")] == []
    shown = outputs(book, output_type="display_data")
    assert sum("image/png" in output.data for output in shown) >= 7
    assert sum("<table" in output.data.get("text/html", "") for output in shown) >= 7
    assert [path.name for path in place.iterdir()] == [NOTEBOOKS[language]]

    # The bars of three stages, twice: each ends whole.
    printed = "\n".join(output.text for output in outputs(book, name="stdout"))
    drawn = [output for output in shown if any("widget-view" in kind for kind in output.data)]
    if bars == "drawn":
        assert len(drawn) == 6 and "it/s" not in printed
    else:
        lines = [line for line in re.split(r"[\r\n]", printed) if "it/s" in line]
        assert len(lines) == 6 and all(": 100%|██████████| " in line for line in lines)
