"""One headless Chromium for all browser tests, and the site served on loopback."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from catalogue.patterns import ROOT
from tests.site.served import serve

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
NPM = ROOT / "tests/site"


@pytest.fixture(scope="session")
def chromium() -> str:
    """The browser that CHROMIUM names, or the first that is installed."""
    found = os.environ.get("CHROMIUM") or next(
        filter(None, map(shutil.which, NAMES)), ""
    )
    if not found:
        pytest.fail("no Chromium: install it, or name it in CHROMIUM", pytrace=False)
    return found


@pytest.fixture(scope="session")
def flags() -> list[str]:
    """How to start it: quiet, and as root without the sandbox root cannot have."""
    return [*FLAGS, *(["--no-sandbox"] if os.getuid() == 0 else [])]


@pytest.fixture(scope="session")
def node_modules() -> Path:
    """What the lock file of npm names, installed when it changed."""
    lock, installed = NPM / "package-lock.json", NPM / "node_modules"
    stamp = installed / ".package-lock.json"
    if not stamp.exists() or stamp.stat().st_mtime < lock.stat().st_mtime:
        npm = shutil.which("npm")
        if npm is None:
            pytest.fail("no npm: install Node.js 18.16 or newer", pytrace=False)
        subprocess.run([npm, "ci", "--silent"], cwd=NPM, check=True)
    return installed


@pytest.fixture(scope="session")
def address(site: Path) -> Iterator[str]:
    """The address of the served site, with a slash at its end."""
    with serve(site) as address:
        yield address


@pytest.fixture(scope="session")
def browser(chromium: str, flags: list[str]) -> Iterator[Browser]:
    """The browser."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=flags)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def desktop(browser: Browser, address: str) -> Iterator[BrowserContext]:
    """A desktop in light colours, which may read the clipboard."""
    context = browser.new_context(
        viewport={"width": 1440, "height": 1000},
        base_url=address,
        color_scheme="light",
        permissions=["clipboard-read", "clipboard-write"],
    )
    context.set_default_timeout(10_000)
    yield context
    context.close()


@pytest.fixture
def page(desktop: BrowserContext) -> Iterator[Page]:
    """A fresh tab of the desktop."""
    page = desktop.new_page()
    yield page
    page.close()
