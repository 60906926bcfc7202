"""A file that the other checks would not find, or not read, is named."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.small_tree import INDEX, PAGE, SNIPPET, TEST

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.small_tree import SmallTree


@pytest.mark.parametrize(
    "name",
    [
        *("ring.html", "ring.htm", "ring.markdown", "ring.mkd", "ring.mdown"),
        *("ring.txt", "RING.MD", "start/ring.py", "assets/ring.sh", "ring.ipynb"),
        *("assets/ring.png", "assets/ring.pdf", "ring.yaml", "ring"),
    ],
)
def test_a_file_among_the_pages_that_nobody_looks_into_is_named(
    small: SmallTree, name: str
) -> None:
    small.write(f"docs/{name}", "<pre>ringing()</pre>\n")
    small.names(f"docs/{name}", "<pre>", "move it out of docs/")


@pytest.mark.parametrize("name", ["assets/ring.css", "assets/ring.svg", ".DS_Store"])
def test_what_the_pages_need_or_the_site_leaves_out_is_allowed(
    small: SmallTree, name: str
) -> None:
    small.write(f"docs/{name}", "ring\n")
    assert small.problems() == []


@pytest.mark.parametrize("folder", ["docs/build", "docs/start/build", "docs/site/data"])
def test_a_folder_named_as_a_generated_one_is_looked_into(
    small: SmallTree, folder: str
) -> None:
    small.write(f"{folder}/ring.md", "```python\nringing()\n```\n")
    small.names(f"{folder}/ring.md", "ringing", "code typed by hand")


def test_what_the_machinery_writes_is_not_looked_into(small: SmallTree) -> None:
    for folder in ("build", "docs/data", "tests/site/node_modules"):
        small.write(f"{folder}/ring.md", "```python\nringing()\n```\n")
    assert small.problems() == []


@pytest.mark.parametrize("name", ["tests/telephony/test_other.py", "docs/more"])
@pytest.mark.parametrize("target", ["/etc/hostname", "folder", "gone"])
def test_a_link_to_another_place_is_named(
    small: SmallTree, tmp_path_factory: pytest.TempPathFactory, name: str, target: str
) -> None:
    elsewhere: Path = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "folder").mkdir()
    (small.root / name).symlink_to(elsewhere / target)
    assert f"{name}:1: a link to another place" in "\n".join(map(str, small.problems()))


@pytest.mark.parametrize("path", [PAGE, INDEX, SNIPPET, TEST, "README.md", "Makefile"])
@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_a_file_in_another_encoding_is_named(
    small: SmallTree, path: str, encoding: str
) -> None:
    text = f"{small.read(path)}# é\n"
    (small.root / path).write_bytes(text.encode(encoding))
    found = [str(one) for one in small.problems()]
    assert f"{path}:1: not text in UTF-8; save it as such" in found


@pytest.mark.parametrize(
    "path",
    [
        *("pytest.ini", "tests/pytest.ini", ".pytest.ini", "tests/telephony/tox.ini"),
        *("setup.cfg", "mypy.ini", ".mypy.ini", "ruff.toml", "tests/.ruff.toml"),
        "tests/pyproject.toml",
    ],
)
def test_configuration_that_overrides_the_checked_one_is_named(
    small: SmallTree, path: str
) -> None:
    small.write(path, "[pytest]\naddopts = -k ring\n")
    small.names(path, "[pytest]", "it overrides pyproject.toml")
