"""Fixtures for all tests: a clean environment and small settings."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

pytest.register_assert_rewrite("helpers")  # so that an assert there shows its values, too

from helpers.killing import complete  # noqa: E402
from helpers.runs import FLAGS  # noqa: E402
from helpers.server import Server, scripted_model  # noqa: E402

from self_instruct_workshop import PROVIDERS, Config  # noqa: E402

# A busy machine is no failure, and the same commit gives the same verdict wherever CI runs;
# elsewhere, explore.
hypothesis.settings.register_profile(
    "ours",
    deadline=None,
    derandomize="CI" in os.environ,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("ours")


@pytest.fixture(autouse=True)
def same_environment_afterwards() -> Iterator[None]:
    """What a program sets in the environment when it is called here reaches no other test."""
    before = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    yield
    for name in [name for name in os.environ if not name.startswith("PYTEST_")]:
        if name not in before:
            del os.environ[name]
    os.environ.update(before)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No key of the shell or of a .env reaches a test, and no proxy stands between it and its
    server."""
    for row in PROVIDERS.values():
        for name in (row.key, row.url_variable):
            monkeypatch.delenv(name, raising=False) if name else None
    for name in (
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "http_proxy",
        "https_proxy",
        "all_proxy",
    ):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "cwd").mkdir()
    (tmp_path / "cwd" / ".env").touch()  # the search for a .env ends here
    monkeypatch.chdir(tmp_path / "cwd")


@pytest.fixture
def settings(tmp_path: Path) -> Callable[..., Config]:
    """A Config that writes below tmp_path and does not wait long before a retry."""

    def make(**changes: object) -> Config:
        return Config(**{"work_dir": str(tmp_path / "work"), "first_wait": 0.01, **changes})

    return make


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a run of the command line with FLAGS that nothing goes wrong with."""
    with Server(scripted_model()) as server:
        return complete(server, tmp_path_factory.mktemp("whole") / "work", *FLAGS)


@pytest.fixture(scope="module")
def browser() -> Iterator:
    """A headless Chromium, driven by Playwright; without the one or the other, the test is
    skipped."""
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = (
        os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    )
    if not chromium:
        pytest.skip("no Chromium: install it, or set CHROMIUM to its path")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    flags += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    with playwright.sync_playwright() as tool:
        started = tool.chromium.launch(executable_path=chromium, args=flags)
        yield started
        started.close()
