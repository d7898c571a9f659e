"""The review sheet in a real browser: filled by keys and clicks, saved, downloaded and scored;
hostile text inert."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.runs import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
import review

HOSTILE = (
    "</p></script><script>window.hacked=1</script>"
    "<img src=x onerror=window.hacked=2><b>bold</b>&amp;"
)
ROWS = [
    {
        "instruction": f"Explain {HOSTILE}",
        "input": HOSTILE,
        "output": f'" onfocus="window.hacked=3" {HOSTILE}',
    },
    {"instruction": "Add the numbers.", "input": "=1+1", "output": "'2'\r\n  two, \"deux\""},
    {"instruction": "把句子翻译成英语。", "input": "我喜欢茶。", "output": "I like tea."},
    {"instruction": "Write a haiku.", "input": "", "output": "-" + " long" * 400 + "x" * 400},
]


@pytest.fixture
def sheet(tmp_path: Path) -> Path:
    (tmp_path / "data.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8"
    )
    arguments = ["--data", str(tmp_path / "data.jsonl"), "--out", str(tmp_path / "review")]
    assert review.main(["sample", *arguments]) == 0
    return tmp_path / "review.html"


@pytest.fixture
def page(browser, sheet: Path) -> Iterator:
    opened = browser.new_context(viewport={"width": 390, "height": 844}).new_page()
    said: list[str] = []
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda problem: said.append(str(problem)))
    opened.on(
        "request",
        lambda request: said.append(request.url) if request.url != sheet.as_uri() else None,
    )
    opened.goto(sheet.as_uri())
    yield opened
    assert [line for line in said if not line.startswith("blob:")] == []
    opened.context.close()


def download(page, folder: Path) -> Path:
    with page.expect_download() as waiting:
        page.locator("#download").click()
    path = folder / waiting.value.suggested_filename
    waiting.value.save_as(path)
    return path


def answer_all(page, keys: str) -> None:
    page.locator("input[type=radio]").first.focus()
    for key in keys:
        page.keyboard.press(key)


def test_a_sheet_filled_by_keys_is_downloaded_and_scored(page, tmp_path: Path, capsys) -> None:
    answer_all(page, "yynyyynnyyyy")
    assert page.locator("output").text_content().startswith("4 of 4 rated")
    page.locator("textarea").first.fill('=HYPERLINK("http://x"),\nzweite Zeile，备注')
    page.locator("[name=rater]").fill("Ana / 安娜")
    path = download(page, tmp_path)
    assert path.name == "review-Ana_安娜.csv"
    data = path.read_bytes()
    blank = list(
        csv.reader(
            io.StringIO((tmp_path / "review.csv").read_bytes().decode("utf-8-sig"), newline="")
        )
    )
    filled = list(csv.reader(io.StringIO(data.decode("utf-8-sig"), newline="")))
    assert data.startswith(b"\xef\xbb\xbf") and [row[:5] for row in filled] == [
        row[:5] for row in blank
    ]
    assert filled[0] == blank[0] and filled[1][8] == '\'=HYPERLINK("http://x"),\nzweite Zeile，备注'
    assert review.main(["score", str(path)]) == 0
    text = capsys.readouterr().out
    assert re.search(r"valid task\? +3 +4 +75\.0 %", text) and re.search(
        r"all three +2 +4 +50\.0 %", text
    )


def test_radio_buttons_work_with_clicks_and_arrows_and_blank_stays_blank(
    page, tmp_path: Path
) -> None:
    page.get_by_text("No", exact=True).first.click()
    page.locator("fieldset").nth(1).locator("input").first.focus()
    page.keyboard.press("ArrowRight")
    rows = [*review.read_sheet(download(page, tmp_path)).values()]
    assert [rows[0][name] for name in review.QUESTIONS] == [False, False, None]
    assert all(row["all three"] is None for row in rows)


def test_answers_are_there_again_after_a_reload_until_they_are_cleared(page) -> None:
    answer_all(page, "yn")
    page.locator("textarea").nth(1).fill("a note")
    page.reload()
    assert page.locator(":checked").evaluate_all("all => all.map((one) => one.value)") == [
        "yes",
        "no",
    ]
    assert page.locator("textarea").nth(1).input_value() == "a note"
    assert page.evaluate(
        "document.activeElement.closest('fieldset') === document.querySelectorAll('fieldset')[2]"
    )
    page.on("dialog", lambda dialog: dialog.accept())
    page.locator("#clear").click()
    page.reload()
    assert (
        page.locator(":checked").count() == 0
        and page.locator("textarea").nth(1).input_value() == ""
    )


def test_where_nothing_can_be_kept_the_sheet_says_so_and_still_works(
    browser, sheet: Path, tmp_path: Path
) -> None:
    page = browser.new_page()
    page.set_content(sheet.read_text(encoding="utf-8"))  # about:blank has no localStorage
    answer_all(page, "yyy")
    assert (
        page.locator("output").text_content()
        == "1 of 4 rated, NOT saved: download before you leave"
    )
    assert (
        sum(
            row["all three"] is True for row in review.read_sheet(download(page, tmp_path)).values()
        )
        == 1
    )
    page.close()


def test_hostile_text_is_shown_and_does_nothing(page) -> None:
    shown = page.locator(".text").all_text_contents()
    assert f"Explain {HOSTILE}" in shown and HOSTILE in shown
    assert page.evaluate("window.hacked") is None
    assert page.locator("main img, main b, main script").count() == 0


def test_even_markup_that_got_in_would_do_nothing(browser, sheet: Path, tmp_path: Path) -> None:
    markup = (
        '<script>hacked = 1</script><img src="x" onerror="hacked = 2">'
        '<a href="javascript:hacked = 3">x</a>'
    )
    (tmp_path / "in.html").write_text(
        sheet.read_text("utf-8").replace("<h1>", markup + "<h1>"), encoding="utf-8"
    )
    page = browser.new_page()
    page.goto((tmp_path / "in.html").as_uri())
    page.get_by_role("link").click()
    assert page.locator("h1").count() == 1 and page.evaluate("typeof hacked") == "undefined"
    page.close()


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_window(page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") == width


def test_a_sheet_of_pairs_is_filled_by_its_own_keys_and_scored(
    browser, tmp_path: Path, capsys
) -> None:
    rows = [
        {**row, "first_output": "old " + row["output"], "rewritten": True, "rule": ""}
        for row in ROWS
    ]
    data = tmp_path / "step5_rewritten.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    out = tmp_path / "pairs"
    assert review.main(["pairs", "--data", str(data), "--out", str(out)]) == 0
    page = browser.new_context().new_page()
    page.goto((tmp_path / "pairs.html").as_uri())
    answer_all(page, "abysa")  # y is no key here
    assert page.locator("output").text_content().startswith("4 of 4 rated")
    assert page.evaluate("window.hacked") is None
    path = download(page, tmp_path)
    page.context.close()

    # What was chosen, as the key has it.
    key = [json.loads(line) for line in Path(f"{out}-key.jsonl").read_text("utf-8").splitlines()]
    chosen = [
        pair[side]["writer"] for pair, side in zip(key, ["A", "B", "", "A"], strict=True) if side
    ]
    capsys.readouterr()
    assert review.main(["score", str(path)]) == 0
    told = capsys.readouterr().out
    for writer in ("first", "rewritten"):
        assert re.search(rf"(?m)^{writer} +{chosen.count(writer)} ", told)
    assert re.search(r"as good as each other +1\n", told)
