"""The two pages of the lesson: what they show is so, and one says what the other says."""

from __future__ import annotations

import ast
import inspect
import re
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
from helpers.runs import ROOT

import self_instruct_workshop as workshop
from lesson import shown
from self_instruct_workshop import rouge_l, tokenize

PAGES = shown.PAGES
TEXT = {language: path.read_text(encoding="utf-8") for language, path in PAGES.items()}
PICTURES = ("loop.svg", "loop-dark.svg", "loop.zh.svg", "loop-dark.zh.svg")
every_page = pytest.mark.parametrize("language", PAGES)


def without_code(text: str) -> str:
    return re.sub(r"^(`{3,})\w*\n.*?^\1$", "", text, flags=re.M | re.S)


def headings(language: str) -> list[str]:
    return re.findall(r"^#+ .+$", without_code(TEXT[language]), re.M)


@pytest.mark.slow
@every_page
def test_every_block_is_what_the_program_gives(language: str) -> None:
    assert shown.renewed(language) == TEXT[language], "python lesson/shown.py --write"


@every_page
def test_every_output_stands_between_marks(language: str) -> None:
    outside = shown.MARK.sub("", TEXT[language])
    assert "```text" not in outside


@pytest.mark.slow
def test_a_block_that_was_changed_by_hand_is_found(tmp_path: Path) -> None:
    pages = {name: tmp_path / path.name for name, path in PAGES.items()}
    for path in pages.values():
        path.write_text("<!-- shown: lines run -->\nold\n<!-- /shown -->\n", encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shown, "PAGES", pages)
        assert shown.main([]) == 1
        assert shown.main(["--write"]) == 0
        assert shown.main([]) == 0
        pages["en"].write_text("<!-- shown: nonsense -->\n<!-- /shown -->\n", encoding="utf-8")
        assert shown.main(["--write"]) == 1
    assert "nonsense" in pages["en"].read_text(encoding="utf-8")


def test_what_is_chosen_of_an_output() -> None:
    output = "greeting\n\n1 generate\n + a\n kept 3\n\n2 classify\n kept 2\n"
    assert shown.chosen(output) == output
    assert shown.chosen(output, "1 generate") == "1 generate\n + a\n kept 3"
    assert shown.chosen(output, "1 generate", "2") == "1 generate\n + a\n[...]"
    assert shown.chosen(output, "kept") == " kept 3\n\n kept 2"
    with pytest.raises(shown.NotShown):
        shown.chosen(output, "3 instances")
    assert shown.fenced("```\ncode\n```").startswith("````text\n")


# --------------------------------------------------------------------------------------------------
# Part I: the functions stand where the page says.


@every_page
def test_every_function_that_is_named_stands_in_these_lines(language: str) -> None:
    lines = Path(workshop.__file__).read_text(encoding="utf-8").split("\n")
    pattern = r"- \[`(\w+)`\]\(\.\./self_instruct_workshop\.py#L(\d+)-L(\d+)\), (\d+)-(\d+)\n"
    found = re.findall(pattern, TEXT[language])
    assert len(found) >= 20
    for name, *numbers in found:
        first, last = int(numbers[0]), int(numbers[1])
        assert [first, last] == [int(number) for number in numbers[2:]]
        assert 1 <= first <= last <= 650
        part = "\n".join(lines[first - 1 : last])
        made = getattr(workshop, name)
        if inspect.isfunction(made) or inspect.isclass(made):
            source, start = inspect.getsourcelines(made)
            assert (part, first) == ("".join(source).rstrip("\n"), start)
        else:
            assert part.startswith(f"{name} = ") and ast.parse(part)


# --------------------------------------------------------------------------------------------------
# Both languages.


def commands(language: str) -> list[str]:
    """The lines of the shell blocks, without what names the language."""
    found = re.findall(r"^```bash\n(.*?)^```$", TEXT[language], re.M | re.S)
    text = "".join(found).replace(" --language zh", "").replace("recorded_zh", "recorded_en")
    return text.replace("recorded/zh", "recorded/en").split("\n")


def shape(language: str) -> list[str]:
    """What a page is made of, in order: headings, blocks, rows of tables, questions, pictures."""
    pattern = r"^(#+ [\d-]*|`{3,}\w*|\||</?\w+|<!-- shown|\*\*)"
    outside = shown.MARK.sub("<!-- shown\n", TEXT[language])
    return re.findall(pattern, outside, re.M)


def test_both_pages_have_the_same_parts_in_the_same_order() -> None:
    assert shape("en") == shape("zh") and len(shape("en")) > 100


def test_both_pages_have_the_same_commands() -> None:
    assert commands("en") == commands("zh")
    assert " --language zh" in TEXT["zh"] and " --language zh" not in TEXT["en"]


def test_both_pages_have_the_same_marks() -> None:
    marks = {}
    for language, text in TEXT.items():
        names = [mark[2] for mark in shown.MARK.finditer(text)]
        marks[language] = [
            name if name.startswith("lines") else name.split(";")[0] for name in names
        ]
    assert marks["en"] == marks["zh"]


def test_both_pages_have_the_same_python_but_for_its_texts() -> None:
    trees = {}
    for language, text in TEXT.items():
        found = re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S)
        tree = ast.parse("\n".join(found))
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                node.value = ""
        trees[language] = ast.dump(tree)
    assert trees["en"] == trees["zh"]


def test_both_pages_have_the_same_links() -> None:
    links = {}
    for language, text in TEXT.items():
        found = re.findall(r"\]\(([^)#\s]+)", shown.MARK.sub("", text))
        links[language] = [target.replace(".zh-CN", "") for target in found]
    assert links["en"] == links["zh"]


# --------------------------------------------------------------------------------------------------
# The page holds together.


@every_page
def test_the_minutes_are_45_and_those_of_the_headings(language: str) -> None:
    rows = re.findall(r"^\| (\d+)-(\d+) \|", TEXT[language], re.M)
    spans = [(int(first), int(last)) for first, last in rows]
    assert spans[0][0] == 0 and spans[-1][1] == 45
    assert all(one[1] == other[0] for one, other in pairwise(spans))
    timed = re.findall(r"^## (\d+)-(\d+) ", TEXT[language], re.M)
    assert timed == rows


@every_page
def test_every_question_has_one_answer_folded_away(language: str) -> None:
    word = {"en": "**Question.**", "zh": "**提问。**"}[language]
    parts = TEXT[language].split(word)[1:]
    assert len(parts) >= 6
    for part in parts:
        before, opened, answer = part.partition("<details>")
        assert opened and "\n#" not in before and "</details>" in answer.split("\n#")[0]
    assert TEXT[language].count("<details>") == len(parts)


def slug(heading: str) -> str:
    """The anchor that GitHub makes of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lstrip("# ").lower()).replace(" ", "-")


@every_page
def test_every_link_leads_somewhere(language: str) -> None:
    text = TEXT[language]
    targets = re.findall(r"\]\(([^)\s]+)\)|(?:src|srcset)=\"([^\"]+)\"", text)
    assert len(targets) > 20
    for target in (one or other for one, other in targets):
        path, _, anchor = target.partition("#")
        file = PAGES[language].parent / path if path else PAGES[language]
        assert file.exists(), target
        if anchor and file.suffix == ".md":
            there = re.findall(r"^#+ .+$", without_code(file.read_text(encoding="utf-8")), re.M)
            assert anchor in {slug(heading) for heading in there}, target


def test_the_similarities_in_the_answers_are_right() -> None:
    pairs = {
        ("en", "0.8"): (
            "Translate the sentence into French.",
            "Translate the sentence into German.",
        ),
        ("zh", "0.875"): ("把句子翻译成法语。", "把句子翻译成德语。"),
    }
    for (language, number), (one, other) in pairs.items():
        assert rouge_l(tokenize(one), tokenize(other)) == float(number)
        assert f"= {number}" in TEXT[language] and one in TEXT[language] and other in TEXT[language]
    for language, one, other in (
        ("en", "Sort the list from A to Z.", "Put these words in the order of the alphabet."),
        ("zh", "从 A 到 Z 给清单排序。", "把单词按字母顺序排列。"),
    ):
        assert rouge_l(tokenize(one), tokenize(other)) <= 0.7
        assert one in TEXT[language] and other in TEXT[language]


@every_page
def test_every_exercise_of_the_table_is_there(language: str) -> None:
    numbers = re.findall(r"^\| (\d) \|", TEXT[language], re.M)
    folders = sorted(path.name for path in (ROOT / "lesson" / "exercises").glob("[1-9]_*"))
    assert numbers == [name[0] for name in folders] and len(numbers) == 9


@every_page
def test_the_figures_of_the_recorded_run_are_those_of_its_own_page(language: str) -> None:
    [told] = re.findall(r"<!-- figures -->\n(.*?)\n\n", TEXT[language], re.S)
    page = (ROOT / "data" / "recorded" / "README.md").read_text(encoding="utf-8")
    numbers = re.findall(r"\d+(?:\.\d+)?", told)
    assert len(numbers) >= 4
    assert [number for number in numbers if not re.search(rf"\b{number}\b", page)] == []


# --------------------------------------------------------------------------------------------------
# The picture.


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_xml_with_words_for_those_who_do_not_see_it(name: str) -> None:
    root = ElementTree.parse(ROOT / "lesson" / name).getroot()
    space = "{http://www.w3.org/2000/svg}"
    assert root.tag == f"{space}svg" and root.get("role") == "img"
    for part in (root.get("aria-labelledby") or "").split():
        [found] = [element for element in root if element.get("id") == part]
        assert len((found.text or "").strip()) > 5
    # GitHub shows neither scripts nor what is loaded from elsewhere.
    assert not [element for element in root.iter() if element.tag == f"{space}script"]
    assert not re.search(r"href=|@import", (ROOT / "lesson" / name).read_text(encoding="utf-8"))


def test_the_four_pictures_differ_only_in_words_and_colours() -> None:
    def drawn(name: str) -> str:
        text = (ROOT / "lesson" / name).read_text(encoding="utf-8")
        text = re.sub(r"<!--.*?-->|#[0-9a-f]{6}", "", text)
        return re.sub(r">[^<{]+</(text|title|desc)>", ">", text)

    assert len({drawn(name) for name in PICTURES}) == 1


@every_page
def test_the_page_shows_the_pictures_of_its_language(language: str) -> None:
    ending = {"en": ".svg", "zh": ".zh.svg"}[language]
    dark = f'<source media="(prefers-color-scheme: dark)" srcset="loop-dark{ending}">'
    assert dark in TEXT[language] and f'src="loop{ending}"' in TEXT[language]
