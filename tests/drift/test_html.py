"""Built HTML whose code is not what its page includes is named."""

from __future__ import annotations

import json
from html import escape
from typing import TYPE_CHECKING

import pytest

from catalogue.guard.html import check_html
from tests.support.small_tree import INDEX, NAIVE, PAGE, SNIPPET, TEST, USAGE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.support.small_tree import SmallTree

BUILT = "build/site/patterns/telephony/call-forwarding/index.html"
INCLUDED = (SNIPPET, USAGE, TEST, NAIVE)


def block(text: str) -> str:
    return f'<div class="highlight"><pre><code>{escape(text)}</code></pre></div>\n'


def build(small: SmallTree, texts: Iterable[str] | None = None) -> None:
    """Write what a site generator would, as far as code goes."""
    for name in ("index.html", "patterns/telephony/index.html", "404.html"):
        small.write(f"build/site/{name}", "<p>Calls.</p>\n")
    texts = map(small.read, INCLUDED) if texts is None else texts
    small.write(BUILT, "".join(map(block, texts)))


def found(small: SmallTree) -> list[str]:
    return list(map(str, check_html(small.root, small.root / "build/site")))


def test_html_that_shows_the_bytes_has_no_problem(small: SmallTree) -> None:
    build(small)
    assert found(small) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("1001", "1002"),
        ("    ", "   "),
        ("\n\n\n", "\n\n"),
        ("main()\n", "main()"),
        ("&quot;", "&#x27;"),
        ("<code>", "<code>\n"),
    ],
)
def test_a_block_that_differs_is_named(small: SmallTree, old: str, new: str) -> None:
    build(small)
    html = small.read(BUILT).split("</div>")
    html[1] = html[1].replace(old, new)
    small.write(BUILT, "</div>".join(html))
    line = small.line(PAGE, f'    --8<-- "{USAGE}"')
    page = BUILT.removeprefix("build/site/")
    message = f"block 2 of {page} is not {USAGE}; build again, and mend what changes it"
    assert found(small) == [f"{PAGE}:{line}: {message}"]


def test_a_source_that_changed_after_the_build_is_named(small: SmallTree) -> None:
    build(small)
    small.replace(NAIVE, "patience", "endurance")
    line = small.line(PAGE, f'--8<-- "{NAIVE}"')
    assert [one.partition(": ")[0] for one in found(small)] == [f"{PAGE}:{line}"]


def test_lost_doubled_and_exchanged_blocks_are_named(small: SmallTree) -> None:
    texts = [small.read(path) for path in INCLUDED]
    build(small, texts[:3])
    line = small.line(PAGE, f'--8<-- "{NAIVE}"')
    assert f"{PAGE}:{line}: {BUILT[11:]} has 3 blocks of code, not 4" in found(small)[0]
    build(small, [*texts, texts[0]])
    assert "has 5 blocks of code, not 4" in "".join(found(small))
    build(small, [texts[1], texts[0], *texts[2:]])
    assert f"block 1 of {BUILT[11:]} is not {SNIPPET}" in "".join(found(small))


@pytest.mark.parametrize("name", ["404.html", "index.html", "more/index.html"])
def test_code_on_a_page_that_includes_none_is_named(
    small: SmallTree, name: str
) -> None:
    build(small)
    small.write(f"build/site/{name}", "<pre>ringing()</pre>\n")
    assert len(found(small)) == 1
    assert name in found(small)[0]


def test_a_lost_page_is_named(small: SmallTree) -> None:
    build(small)
    (small.root / "build/site/index.html").unlink()
    assert found(small) == [
        f"{INDEX}:1: index.html is not in the built site; build again"
    ]


def test_the_cells_of_a_notebook_are_compared(small: SmallTree) -> None:
    output = {"output_type": "stream", "name": "stdout", "text": ["1002\n"]}
    code = {"cell_type": "code", "execution_count": 1, "metadata": {}}
    cells = [
        {"cell_type": "markdown", "id": "a", "metadata": {}, "source": "# Start"},
        {**code, "id": "b", "source": ["print(\n", "1002)"], "outputs": [output]},
        {**code, "id": "c", "source": "x = 1", "outputs": []},
    ]
    notebook = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    small.write("notebooks/01_start.ipynb", json.dumps(notebook))
    include = '\n--8<-- "build/fragments/notebooks/01_start.md"\n'
    small.write(INDEX, small.read(INDEX) + include)
    build(small)
    shown = [block("print(\n1002)\n"), block("1002\n"), block("x = 1\n")]
    small.write("build/site/index.html", "".join(shown))
    assert found(small) == []
    small.write("build/site/index.html", "".join([shown[0], block("1003\n"), shown[2]]))
    line = small.line(INDEX, "--8<--")
    assert found(small)[0].startswith(f"{INDEX}:{line}: block 2 of index.html is not")


def test_an_example_of_an_api_page_is_one_of_a_docstring(small: SmallTree) -> None:
    build(small)
    lines = small.read(SNIPPET).partition("```python\n")[2].partition("    ```")[0]
    text = "\n".join(line.strip() for line in lines.split("\n"))
    signature = '<div class="doc-signature"><pre>target_of()</pre></div>'
    page = '<div class="doc-contents">{}</div>\n'
    small.write(BUILT, small.read(BUILT) + page.format(block(text) + signature))
    assert found(small) == []
    small.write(BUILT, small.read(BUILT) + page.format(block("ring()\n")))
    assert "shows an example that no docstring has" in "".join(found(small))
