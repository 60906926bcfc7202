"""What the copy button gives is the file, byte for byte, and it runs."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from catalogue.patterns import ROOT, Pattern, discover

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Page

PATTERNS = discover(ROOT)
BLOCK = ".highlight:has(> span.filename:text-is('{}'))"
RUN = """
import os, runpy, sys
folder, script = sys.argv[1:]
clean = [path for path in sys.path if not os.path.isdir(os.path.join(path, "snippets"))]
sys.path = [folder, *clean]
runpy.run_path(script, run_name="__main__")
ours = [m for name, m in sys.modules.items() if name.startswith("snippets.")]
outside = [m.__file__ for m in ours if not str(m.__file__ or folder).startswith(folder)]
sys.exit(f"imported from elsewhere: {outside}" if outside else 0)
"""


@pytest.fixture(scope="module")
def copies() -> dict[str, str]:
    """What the copy buttons gave, by the path of the file."""
    return {}


def press(page: Page, path: str) -> str:
    """Press the copy button of a file on the open page; return the clipboard."""
    page.evaluate("navigator.clipboard.writeText('nothing')")
    block = page.locator(BLOCK.format(path))
    tab = block.locator("xpath=ancestor::div[@class='tabbed-block']")
    if tab.count():
        number = tab.evaluate("tab => [...tab.parentNode.children].indexOf(tab)")
        page.locator(".tabbed-labels > label").nth(number).click()
    block.get_by_role("button", name="Copy").click()
    return str(page.evaluate("navigator.clipboard.readText()"))


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: pattern.id)
def test_the_copy_buttons_give_the_bytes_of_the_files(
    pattern: Pattern, page: Page, copies: dict[str, str]
) -> None:
    page.goto(pattern.url)
    roles = [pattern.role("usage"), pattern.role("naive")]
    for path in [pattern.snippet, *roles, pattern.test]:
        copies[path] = press(page, path)
        assert copies[path].encode() == (ROOT / path).read_bytes(), path


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: pattern.id)
def test_what_was_copied_runs_in_a_clean_interpreter(
    pattern: Pattern, copies: dict[str, str], tmp_path: Path
) -> None:
    usage = pattern.role("usage")
    others = {one.snippet for one in PATTERNS} & set(pattern.files)
    for path in {usage, pattern.snippet, *others}:
        write(tmp_path / path, copies[path])
    run = run_clean(tmp_path, usage)
    assert run.returncode == 0, run.stderr
    recorded = (ROOT / usage).read_text("utf-8").splitlines()
    first = next(line.strip() for line in recorded if line.strip().startswith("# > "))
    # What stands first in the file need not be what is printed first.
    assert first.removeprefix("# > ") in run.stdout.splitlines()


def test_a_file_that_was_not_copied_is_missed(tmp_path: Path) -> None:
    write(tmp_path / "snippets/a.py", "import snippets.caching.cached\n")
    run = run_clean(tmp_path, "snippets/a.py")
    assert run.returncode == 1
    assert "ModuleNotFoundError" in run.stderr


def write(path: Path, text: str) -> None:
    """Save what was copied, as a reader would."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())


def run_clean(folder: Path, script: str) -> subprocess.CompletedProcess[str]:
    """Run a script with only the copied files and the installed packages."""
    command = [sys.executable, "-I", "-c", RUN, str(folder), script]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False
    )
