"""The report in a real browser, by Playwright: pip install plotly textblob jieba playwright, and a
Chromium (Debian: apt-get install chromium), or its path in the variable CHROMIUM. Skipped where
they are missing."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers.report_runs import HOSTILE, LABELS, Page, big_run, hostile_run
from helpers.runs import stage_of
from helpers.server import Server, scripted_model

import self_instruct
import self_instruct_workshop as workshop
from scripts import judge, rewrite
from self_instruct_workshop import STAGES, STEP_FILES, Config

for package in ("plotly", "textblob", "jieba"):
    pytest.importorskip(package)

from scripts import report as program  # noqa: E402
from scripts.report import write_report  # noqa: E402
from scripts.reporting import rows  # noqa: E402

REPORTS: dict[str, tuple[Path, dict]] = {}


def practice_run(folder: Path, **settings: object) -> dict:
    config = Config(
        provider="practice", work_dir=str(folder), **{"num_instructions": 60, **settings}
    )
    return workshop.run(config, say=lambda text: None)


def undone_run(folder: Path) -> dict:
    """The first task of stage 3 has no reply, twice."""
    instances: list[str] = []

    def faults(number: int, prompt: str) -> str:
        if stage_of(prompt) == "instances":
            instances.append(prompt)
        return "filter" if prompt in instances[:1] else ""

    return run_with(faults, folder)


def lost_run(folder: Path) -> dict:
    """Of 12 tasks none has a reply in stage 3, and neither has one request of stage 1."""

    def faults(number: int, prompt: str) -> str:
        return "500" if number == 1 or stage_of(prompt) == "instances" else ""

    return run_with(faults, folder, max_attempts=1, first_wait=0.01, concurrency=1, patience=99)


def run_with(faults: Callable, folder: Path, **changes: object) -> dict:
    """The summary of a run of 12 tasks against a server with these faults."""
    with Server(scripted_model(), faults=faults) as server:
        where = {"provider": "local", "base_url": server.url, "model": "m"}
        config = Config(**where, num_instructions=12, work_dir=str(folder), **changes)
        return workshop.run(config, say=lambda text: None)


def empty_run(folder: Path) -> dict:
    with Server(lambda prompt, body: "I cannot help with that.") as server:
        config = Config(
            provider="local", base_url=server.url, model="m", patience=2, work_dir=str(folder)
        )
        return workshop.run(config, say=lambda text: None)


def priced_run(folder: Path) -> dict:
    """A run under self_instruct.py with a price, so that run.json has its cost."""
    with Server(scripted_model()) as server:
        where = [
            "--provider",
            "local",
            "--base-url",
            server.url,
            "--model",
            "m",
            "--work-dir",
            str(folder),
        ]
        assert (
            self_instruct.main(
                [*where, "--num-instructions", "12", "--price-in", "3", "--price-out", "9"]
            )
            == 0
        )
    return {}


def judged_run(folder: Path) -> dict:
    """A run whose rows the practice model has judged."""
    summary = practice_run(folder)
    who = ["--provider", "practice", "--data", str(folder / STEP_FILES[3])]
    assert judge.main(who) == 0
    return summary


def rewritten_run(folder: Path) -> dict:
    """A run whose free outputs another writer has made longer; of labels it knows none."""

    def longer(known: list, rng: object, prompt: list) -> str:
        (row,) = [row for row in known if rewrite.rewrite_prompt(row) == prompt]
        return f"{row['output']} Indeed." if row["labels"] is None else "?"

    summary = practice_run(folder)
    who = ["--provider", "practice", "--data", str(folder / STEP_FILES[3])]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rewrite, "practice_reply", longer)
        assert rewrite.main(who) == 0
    return summary


def topics_run(folder: Path) -> dict:
    """A run with topics, one of them with markup in it and one so long that it fills a line."""
    path = folder.parent / "topics.txt"
    names = ["cooking", "<b>law</b>", "a topic with a very long name " * 6]
    path.write_text("\n".join(names), encoding="utf-8")
    return practice_run(folder, topics=str(path), num_instructions=24)


MAKE: dict[str, Callable[[Path], dict]] = {
    "judged": judged_run,
    "rewritten": rewritten_run,
    "en": practice_run,
    "zh": lambda folder: practice_run(folder, language="zh"),
    "cut": lambda folder: practice_run(folder, max_tokens=65),
    "until generate": lambda folder: practice_run(folder, until="generate"),
    "topics": topics_run,
    "undone": undone_run,
    "lost": lost_run,
    "empty": empty_run,
    "priced": priced_run,
    "hostile": hostile_run,
    "big": lambda folder: big_run(folder, 25_000),
}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, dict]]:
    """The report of a kind of run, made once, and the run's summary."""

    def make(kind: str) -> tuple[Path, dict]:
        if kind not in REPORTS:
            folder = tmp_path_factory.mktemp("run") / "work"
            MAKE[kind](folder)
            summary = json.loads((folder / "run.json").read_text(encoding="utf-8"))
            REPORTS[kind] = write_report(folder), summary
        return REPORTS[kind]

    return make


@pytest.fixture
def look(browser: object, report: Callable) -> Iterator[Callable]:
    """Open a report. In the end nothing may have gone wrong, asked the network, or opened a
    window."""
    contexts, trouble = [], []

    def open_page(
        kind: str | Path, width: int = 1280, theme: str = "light", wait: bool = True
    ) -> object:
        contexts.append(
            browser.new_context(viewport={"width": width, "height": 900}, color_scheme=theme)
        )
        page = contexts[-1].new_page()
        page.on(
            "console",
            lambda said: trouble.append(said.text) if said.type in ("error", "warning") else None,
        )
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on("dialog", lambda dialog: (trouble.append(dialog.message), dialog.dismiss()))
        page.on("popup", lambda popup: trouble.append(popup.url))
        page.on(
            "request",
            lambda request: trouble.append(request.url) if request.url != page.url else None,
        )
        path = kind if isinstance(kind, Path) else report(kind)[0]
        page.goto(path.as_uri(), wait_until="commit")
        if wait:
            until(page, "document.readyState === 'complete' && done")
        return page

    open_page.trouble = trouble
    yield open_page
    for context in contexts:
        context.close()
    ours = [text for text in trouble if not text.startswith("file:")]
    assert ours == []


def until(page: object, true: str, seconds: float = 60.0) -> None:
    """The page's policy forbids Playwright's own way to wait, which evaluates strings in the
    page."""
    end = time.monotonic() + seconds
    while not page.evaluate(f"(() => {{ try {{ return {true} }} catch {{ return false }} }})()"):
        assert time.monotonic() < end, f"this never happened: {true}"
        time.sleep(0.02)


def count_in(text: str) -> int:
    """The first number in a line such as "1,235 of 1,235 rows"."""
    return int(re.search(r"[\d,]+", text)[0].replace(",", ""))


# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["en", "zh", "cut", "until generate", "undone", "empty"])
def test_a_report_opens_without_an_error_and_loads_nothing(
    kind: str, look: Callable, report: Callable
) -> None:
    page = look(kind)
    assert page.evaluate("performance.getEntriesByType('resource').length") == 0
    headings = page.evaluate(
        "[...document.querySelectorAll('h1, h2, h3')].map((one) => one.textContent.trim())"
    )
    assert len(headings) > 10 and all(headings)
    for chart in page.locator(".chart").all():
        assert chart.locator("svg").count() or len(chart.inner_text()) > 9
    words = "\n".join(page.locator("header, main > :not(#samples)").all_inner_texts())
    assert not re.search(r"undefined|NaN|\[object|\{\w+\}|\bnull\b", words)


@pytest.mark.parametrize("kind", ["en", "zh", "cut", "undone", "priced"])
def test_the_numbers_on_the_page_are_those_of_run_json(
    kind: str, look: Callable, report: Callable
) -> None:
    page, summary = look(kind), report(kind)[1]
    counts, tokens = summary["counts"], summary["tokens"]
    wanted = []
    for stage in STAGES:
        count = counts[stage]
        undone = [count["undone"]] if count["undone"] else []
        wanted += [
            [stage, n] for n in (count["in"], *count["rejected"].values(), *undone, count["out"])
        ]
    rows = [
        (row.get_attribute("data-stage"), row.locator("td").first)
        for row in page.locator("#funnel tbody tr").all()
    ]
    assert [[stage, count_in(cell.inner_text())] for stage, cell in rows] == wanted
    boxes = page.locator("#key-figures > div").all()
    shown = {box.get_attribute("data-figure"): box.locator("dd").inner_text() for box in boxes}
    assert count_in(shown["kpi_instructions"]) == counts["generate"]["out"]
    assert count_in(shown["kpi_instances"]) == counts["filter"]["out"]
    assert count_in(shown["kpi_undone"]) == sum(summary["undone_because"].values())
    assert count_in(shown["kpi_tokens"]) == sum(
        stage["prompt"] + stage["reply"] for stage in tokens.values()
    )
    for name in ("replies", "asked_now", "cut", "prompt", "reply"):
        cells = page.locator(f"#tokens-table tr[data-figure={name}] td").all_inner_texts()
        told = [stage[name] for stage in tokens.values()]
        assert [*map(count_in, cells)] == [*told, sum(told)]
    spending = summary["spending"]
    if spending:
        costs = [*(spending["stages"][stage]["cost"] for stage in tokens), spending["cost"]]
        cells = page.locator("#tokens-table tr[data-figure=cost] td").all_inner_texts()
        assert cells == [f"${cost:.4f}" for cost in costs] and shown["kpi_cost"] == cells[-1]
    assert bool(spending) == (kind == "priced")
    lines = page.locator("#table1-table tr[data-figure]").all()
    table1 = {
        line.get_attribute("data-figure"): line.locator("td").first.inner_text() for line in lines
    }
    assert count_in(table1["classification"]) == counts["classify"]["classification"]
    assert count_in(table1["not_classification"]) == counts["classify"]["not_classification"]
    assert count_in(table1["instances"]) == counts["filter"]["out"]


def test_the_table_of_topics_is_that_of_run_json_and_is_there_only_with_topics(
    look: Callable, report: Callable
) -> None:
    page, summary = look("topics"), report("topics")[1]
    lines = page.locator("#topics-table tbody tr").all()
    shown = [line.locator("th, td").all_inner_texts() for line in lines]
    wanted = []
    for name, row in summary["topics"].items():
        counts = [str(row[one]) for one in ("wanted", "kept", "rejected")]
        wanted.append([name, *counts, f"{row['kept'] / row['requests']:.1f}"])
    assert shown == wanted and len(shown) == 3
    assert page.locator("#topics b").count() == 0
    narrow = look("topics", 390)
    assert narrow.evaluate("document.documentElement.scrollWidth") <= 390
    assert look("en").locator("#topics").count() == 0


@pytest.mark.parametrize(("width", "theme"), [(390, "light"), (1280, "dark"), (1920, "light")])
@pytest.mark.parametrize("kind", ["en", "zh"])
def test_nothing_sticks_out_at_any_width(kind: str, width: int, theme: str, look: Callable) -> None:
    page = look(kind, width, theme)
    page.locator("#results button.link").first.click()
    until(page, "document.querySelector('#results pre')")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    outside = """[...document.querySelectorAll('.chart text, h1, h2, th, td, button')].filter(
      (one) => {
        const box = one.getBoundingClientRect();
        return box.width && !one.closest('.scroll')
          && (box.left < -1 || box.right > innerWidth + 1);
      }).map((one) => one.textContent)"""
    assert page.evaluate(outside) == []


def test_the_shares_of_a_stage_add_up_though_requests_are_lost_and_counts_stay_whole(
    look: Callable,
) -> None:
    page, shares = look("lost", 390), {}
    for row in page.locator("#funnel tbody tr").all():
        share = row.locator("td").nth(1).inner_text().strip(" %–")
        stage = row.get_attribute("data-stage")
        shares[stage] = shares.get(stage, 0) + float(share or 0)
    assert all(abs(total - 100) < 0.5 for stage, total in shares.items() if stage != "filter"), (
        shares
    )
    cell = page.locator(
        "#settings td"
    ).last  # how many are undone because of an error with a long text
    assert cell.inner_text() == "13"
    text = (
        "cell => { const all = new Range(); all.selectNodeContents(cell); "
        "return all.getBoundingClientRect(); }"
    )
    assert (
        cell.evaluate(text)["height"] == page.locator("#settings td").first.evaluate(text)["height"]
    )


CONTRAST = """(() => {
  const parts = (text) => text.match(/[\\d.]+/g).map(Number);
  const linear = (v) => (v / 255 <= 0.03928 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4);
  const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const behind = (one) => {
    const colour = parts(getComputedStyle(one).backgroundColor);
    return colour.length < 4 || colour[3] > 0 ? colour : behind(one.parentElement);
  };
  const ratio = (a, b) =>
    (Math.max(light(a), light(b)) + 0.05) / (Math.min(light(a), light(b)) + 0.05);
  const texts = "h1, h2, h3, p, dt, dd, th, td, button:not(:disabled), .tag, .quiet, .text, pre, "
    + "label, .mark";
  return [...document.querySelectorAll(
    texts + ", .xaxislayer-above text, .yaxislayer-above text, .legendtext")]
    .filter((one) => one.textContent.trim() && one.getClientRects().length)
    .map((one) => {
      const style = getComputedStyle(one);
      return [
        one.textContent.slice(0, 20),
        ratio(parts(one.closest("svg") ? style.fill : style.color), behind(one))];
    })
    .filter(([, contrast]) => contrast < 4.5);
})()"""  # WCAG 2, level AA


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_stands_out_in_both_themes(theme: str, look: Callable) -> None:
    page = look("hostile", theme=theme)
    page.locator("#results button.link").first.click()
    until(page, "document.querySelector('#results pre')")
    assert page.evaluate(CONTRAST) == []


def test_the_button_changes_the_theme_of_page_and_charts(look: Callable) -> None:
    page = look("en", theme="light")
    style = "(one) => getComputedStyle(one).backgroundColor + getComputedStyle(one).fill"

    def colours() -> list[str]:
        return [
            page.locator(what).first.evaluate(style) for what in ("body", "#seed-chart .xtick text")
        ]

    light = colours()
    page.locator("#theme").click()
    assert all(before != after for before, after in zip(light, colours(), strict=True))
    page.locator("#theme").click()
    assert colours() == light


# --------------------------------------------------------------------------------------------------
# The samples.


def found(page: object) -> int:
    text = page.locator("#found").inner_text()
    return 0 if "of" not in text else count_in(text)


def test_search_and_filters_find_what_is_there(look: Callable, report: Callable) -> None:
    page, rows = look("en"), Page(report("en")[0])
    assert found(page) == len(rows.rows)
    for status in ("kept", "rejected", "undone"):
        page.locator("#status").select_option(status)
        assert (found(page) if rows.of(status=status) else 0) == len(rows.of(status=status))
    page.locator("#status").select_option("all")
    word = rows.of(status="kept")[3]["instruction"].split()[1]
    page.locator("#search").fill(word.upper())
    texts = [
        [row["instruction"], row["input"], row["output"], row["evidence"]] for row in rows.of()
    ]
    wanted = sum(word.lower() in "\n".join(filter(None, text)).lower() for text in texts)
    until(page, f"document.getElementById('found').textContent.startsWith('{wanted} of')")
    page.locator("#search").fill("no such words anywhere")
    until(page, "document.querySelectorAll('#results > li').length === 0")
    assert "Nothing fits" in page.locator("#found").inner_text()


def test_a_rule_in_the_funnel_leads_to_its_rows_and_their_neighbours(
    look: Callable, report: Callable
) -> None:
    page, rows = look("en"), Page(report("en")[0])
    page.locator("button[data-rule='generate:too_similar']").click()
    wanted = rows.of(status="rejected", rule="too_similar")
    assert found(page) == len(wanted) > 0
    first = page.locator("#results > li").first.inner_text()
    assert (
        wanted[0]["instruction"] in first
        and wanted[0]["evidence"] in first
        and f"{wanted[0]['score']:.2f}" in first
    )


def test_truncated_and_undone_rows_can_be_picked_out(look: Callable, report: Callable) -> None:
    page, rows = look("cut"), Page(report("cut")[0])
    page.locator("#cut").check()
    assert found(page) == len(rows.of(cut=1)) > 0
    page, rows = look("undone"), Page(report("undone")[0])
    page.locator("#status").select_option("undone")
    assert found(page) == len(rows.of(status="undone")) == 1
    assert rows.of(status="undone")[0]["instruction"] in page.locator("#results").inner_text()


def test_the_raw_prompt_and_reply_of_a_row_are_those_of_the_journal(
    look: Callable, report: Callable
) -> None:
    path, _ = report("en")
    page, rows = look("en"), Page(path)
    journal = [
        json.loads(line)
        for line in (path.parent / "responses.jsonl").read_text(encoding="utf-8").split("\n")
        if line
    ]
    texts = {(workshop.as_text(record["prompt"]), record["text"]) for record in journal}
    item = page.locator("#results > li").nth(2)
    item.locator("button.link").click()
    until(page, "document.querySelectorAll('#results > li:nth-child(3) pre').length >= 6")
    shown = [block.text_content() for block in item.locator("pre").all()]
    pairs = [*zip(shown[::2], shown[1::2], strict=True)]
    assert {*pairs} <= texts and len(pairs) == len(rows.of()[2]["replies"])
    item.locator("button.link").click()
    until(page, "document.querySelectorAll('#results > li:nth-child(3) pre').length === 0")


@pytest.mark.parametrize("kind", ["en", "zh", "undone", "hostile", "judged", "rewritten"])
def test_every_reply_that_the_page_puts_together_is_that_of_the_journal(
    kind: str, look: Callable, report: Callable
) -> None:
    path, _ = report(kind)
    lines = (path.parent / "responses.jsonl").read_text(encoding="utf-8").split("\n")
    journal = [one for one in map(json.loads, filter(None, lines)) if "part_of" not in one]
    journal = [one for one in journal if one["stage"] in STAGES]
    shown = look(kind).evaluate(
        "Promise.all(Array.from({ length: told.replies }, (_, n) => reply(n)))"
    )
    wanted = [[workshop.as_text(one["prompt"]), one["text"]] for one in journal]
    assert [one[8:] for one in shown] == wanted != []
    assert shown == Page(path).replies


def test_a_reply_that_is_asked_for_early_waits_for_the_rows(
    look: Callable, report: Callable
) -> None:
    page = look("big", wait=False)
    until(page, "rows.length > 0")
    early = page.evaluate("(async () => [done, await reply(told.replies - 1), rows.length])()")
    assert early == [False, Page(report("big")[0]).replies[-1], page.evaluate("told.rows")]


def test_pages_turn_and_hold_fifty_rows(look: Callable, report: Callable) -> None:
    page, rows = look("en"), Page(report("en")[0])
    assert page.locator("#results > li").count() == 50
    assert page.locator("#previous").is_disabled()
    page.locator("#next").click()
    assert rows.of()[50]["instruction"] in page.locator("#results > li").first.inner_text()
    assert not page.locator("#previous").is_disabled()


def test_the_keyboard_is_enough(look: Callable) -> None:
    page = look("en")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    for _ in range(4):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "search":
            break
    assert page.evaluate("document.activeElement.id") == "search"
    page.keyboard.type("the")
    until(page, "fitting.length < rows.length")
    for _ in range(4):
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    until(page, "document.querySelector('#results pre')")
    assert page.evaluate("document.activeElement.getAttribute('aria-expanded')") == "true"


def test_every_control_has_a_name(look: Callable) -> None:
    page = look("en")
    nameless = """[...document.querySelectorAll('button, input, select, [role=img]')]
        .filter((one) => !(
          one.textContent.trim() || one.ariaLabel || one.labels?.[0]?.textContent.trim()))
        .map((one) => one.id)"""
    assert page.evaluate(nameless) == []


# --------------------------------------------------------------------------------------------------
# Hostile words.


def visible(text: str) -> str:
    return "".join(one if one.isprintable() else f"U+{ord(one):04X}" for one in text)


def test_hostile_text_is_shown_and_does_nothing(look: Callable, report: Callable) -> None:
    page = look("hostile")
    shown = page.locator("#results").inner_text()
    for text in HOSTILE:
        assert (
            visible(" ".join(text.split())) in shown
        )  # the pipeline puts an instruction on one line
    for button in page.locator("#results button.link").all():
        button.click()
    until(page, "document.querySelectorAll('#results pre').length > 50")
    replies = page.locator("#results pre").all_inner_texts()
    assert all(any(visible(text) in reply for reply in replies) for text in HOSTILE)
    page.locator("#theme").click()
    for chart in page.locator(".chart").all():
        chart.hover()
    for bar in page.locator("#labels-chart .point, #verbs-chart .slice").all():
        bar.hover(force=True)
    time.sleep(0.3)
    assert page.evaluate("window.hacked") is None
    assert page.locator("img, iframe, b, main a, svg a, svg image, header a").count() == 0
    assert page.locator("script").count() == 4 + page.locator("script[id^=replies-]").count()
    assert page.title() == "Self-Instruct report: work"


def test_markup_in_labels_of_charts_is_text(look: Callable, report: Callable) -> None:
    page = look("hostile")
    labels = {label for label, _ in Page(report("hostile")[0]).numbers["labels"]["rows"]}
    assert labels == {*LABELS.values()}
    ticks = {
        text.text_content().strip() for text in page.locator("#labels-chart .ytick text").all()
    }
    assert ticks == {"<b>yes</b>", "⟨U+202E⟩<a href='…", "<img src=x onerro…"}


INTRUDE = """(url) => {
  window.stopped = [];
  document.addEventListener(
    "securitypolicyviolation", (event) => window.stopped.push(event.effectiveDirective));
  const [script, image, frame, style] =
    ["script", "img", "iframe", "style"].map((tag) => document.createElement(tag));
  script.textContent = "window.hacked = 1";
  image.src = url + "/image";
  image.setAttribute("onerror", "window.hacked = 2");
  frame.src = url + "/frame";
  style.textContent = "body { display: none }";
  document.body.append(script, image, frame, style);
  fetch(url + "/fetch").catch(() => null);
  // later: Playwright lifts the policy for what it evaluates itself
  setTimeout(() => (0, eval)("window.hacked = 3"));
  setTimeout("window.hacked = 4");
}"""


def test_the_policy_stops_what_gets_into_the_page_all_the_same(
    browser: object, report: Callable
) -> None:
    with Server(lambda prompt, body: "") as server:
        page = browser.new_page()
        page.goto(report("hostile")[0].as_uri())
        until(page, "done")  # the page's own scripts are through
        page.evaluate(INTRUDE, server.url)
        time.sleep(1)
        stopped = {*page.evaluate("window.stopped")}
        assert {
            "script-src-elem",
            "img-src",
            "frame-src",
            "style-src-elem",
            "connect-src",
            "script-src",
        } <= stopped
        assert page.evaluate("window.hacked") is None and server.requests == []
        page.close()


# --------------------------------------------------------------------------------------------------
# Size.


def test_fifty_thousand_rows_are_in_view_within_two_seconds(
    look: Callable, report: Callable
) -> None:
    path, summary = report("big")
    best = 99.0
    for _ in range(3):  # the machine may be busy
        page = look("big", wait=False)
        until(page, "document.readyState === 'complete' && done")
        painted = page.evaluate(
            "performance.getEntriesByName('first-contentful-paint')[0].startTime / 1000"
        )
        best = min(best, painted)
    assert best < 2.0
    assert (
        count_in(page.locator("#key-figures dd").first.inner_text())
        == summary["counts"]["generate"]["out"]
        == 25_000
    )
    assert found(page) == 23_750 + 26_250 and page.locator("#results > li").count() == 50
    page.locator("#search").fill("number 24999.")
    until(page, "fitting.length === 2", seconds=5)
    assert path.stat().st_size < 20e6


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("width", [1280, 400])
def test_a_page_without_room_for_all_says_how_many_it_holds(
    language: str,
    width: int,
    look: Callable,
    report: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = report(language)[0].parent
    room = {"MOST_ROWS": 6_000, "LARGEST": rows.REST + 20_000, "REPLIES": 5, "ROWS": 10}
    for name, number in room.items():
        monkeypatch.setattr(rows, name, number)
    monkeypatch.setattr(program, "REPLIES", room["REPLIES"])
    path = write_report(folder, tmp_path / "part.html")
    told = Page(path).numbers
    assert told["rows"] < told["all_rows"] and told["replies"] < told["all_replies"]
    page = look(path, width)

    # The note has all four numbers, and counts are still those of all rows.
    note = page.locator("#samples-note").inner_text()
    numbers = [told[name] for name in ("rows", "all_rows", "replies", "all_replies")]
    assert sorted(map(int, re.findall(r"\d+", note))) == sorted(numbers)
    assert count_in(page.locator("#key-figures dd").first.inner_text()) == 60
    assert page.evaluate("document.documentElement.scrollWidth") <= width

    # A row whose last reply has no room says so, beside those that have.
    number = next(n for n, row in enumerate(Page(path).rows) if row[10][-1] >= told["replies"])
    page.evaluate(f"(at = Math.floor({number} / PAGE), showPage())")
    item = page.locator("#results > li").nth(number % 50)
    item.locator("button.link").click()
    replies = Page(path).rows[number][10]
    has = sum(one < told["replies"] for one in replies)
    lacking = told["words"]["reply_elsewhere"]
    lacking = lacking.replace("{n}", str(len(replies) - has)).replace("{all}", str(len(replies)))
    until(page, f"document.getElementById('results').innerText.includes({json.dumps(lacking)})")
    assert item.locator("pre").count() == 2 * has


def test_a_whole_page_has_no_note_of_parts(look: Callable) -> None:
    page = look("en")
    assert page.locator("#samples-note").text_content() == ""
    assert not page.locator("#samples-note").is_visible()


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_browser_that_cannot_unpack_shows_the_tables_and_says_why(
    language: str, browser: object, report: Callable
) -> None:
    path, summary = report(language)
    page = browser.new_page()
    trouble: list[str] = []
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.add_init_script("delete window.DecompressionStream")
    page.goto(path.as_uri())
    until(page, "document.querySelectorAll('#notices li').length > 0")
    assert page.locator("#notices li").last.inner_text() == Page(path).numbers["words"]["too_old"]
    kept = count_in(page.locator("#key-figures dd").first.inner_text())
    assert kept == summary["counts"]["generate"]["out"]
    assert page.locator("#funnel-table tr").count() > 4 and trouble == []
    page.close()


# --------------------------------------------------------------------------------------------------


def test_a_judge_s_answers_and_reasons_are_shown_and_hidden_where_there_is_none(
    look: Callable, report: Callable
) -> None:
    page = look("judged")
    folder = report("judged")[0].parent
    told = json.loads((folder / "judge.json").read_text(encoding="utf-8"))
    rows = page.locator("#judge-table tbody tr").all_inner_texts()
    shown = [[*map(int, re.findall(r"\t(\d+)", row))] for row in rows]
    assert shown == [[*answers.values()] for answers in told["answers"].values()]
    assert f"{told['probes']['planted']} planted faults" in page.locator("#judge-note").inner_text()

    # The rule of the judge is a filter, and each row has the judge's reason.
    page.locator("#rule").select_option("judge:judge_output_wrong")
    wrong = told["counts"]["rejected"]["judge_output_wrong"]
    assert count_in(page.locator("#found").inner_text()) == wrong
    first = page.locator("#results li").first.inner_text()
    assert "the judge's reason" in first and "The bank has it otherwise." in first
    assert look("en").locator("#judge").is_hidden()


def test_what_was_rewritten_is_counted_and_each_row_shows_both_outputs(
    look: Callable, report: Callable
) -> None:
    page = look("rewritten")
    folder = report("rewritten")[0].parent
    counts = json.loads((folder / "rewrite.json").read_text(encoding="utf-8"))["counts"]
    rows = page.locator("#rewrite-table tbody tr").all_inner_texts()
    shown = [int(row.rpartition("\t")[2]) for row in rows]
    wanted = [counts[name] for name in ("rewritten", "same", "undone")]
    assert counts["rewritten"] and shown == [*wanted, *counts["fell_back"].values()]
    assert "no label of the task" in rows[-1]

    # A row has the new output, and the first one below it.
    first = page.locator("#results li").filter(has_text="5 Rewritten").first.inner_text()
    assert "the first output" in first and "Indeed." in first
    assert look("en").locator("#rewrite").is_hidden()
