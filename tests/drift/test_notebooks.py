"""A notebook is shown as it is stored, and one that is not as it should be is named."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from bs4 import BeautifulSoup
from markdown import Markdown

from catalogue.errors import CatalogueError
from catalogue.notebooks import discover, fragments, problems
from catalogue.notebooks.__main__ import execute, main

FRAGMENT = "notebooks/01_start_here.md"


def text_cell(source: str) -> Mapping[str, object]:
    return {"cell_type": "markdown", "metadata": {}, "source": source}


def code_cell(
    source: str, *outputs: Mapping[str, object], count: int | None = 1, tag: str = ""
) -> Mapping[str, object]:
    return {
        "cell_type": "code",
        "execution_count": count,
        "metadata": {"tags": [tag]} if tag else {},
        "outputs": list(outputs),
        "source": source,
    }


def printed(text: str) -> Mapping[str, object]:
    return {"name": "stdout", "output_type": "stream", "text": text}


def raised(message: str) -> Mapping[str, object]:
    return {
        "ename": "ValueError",
        "evalue": message,
        "output_type": "error",
        "traceback": ["frame in a path of this machine", message],
    }


def rendered(text: str) -> BeautifulSoup:
    """Return a fragment's HTML, made with the extensions of the site."""
    extensions = ["attr_list", "md_in_html", "pymdownx.highlight", "tables"]
    site = Markdown(extensions=[*extensions, "pymdownx.superfences"])
    return BeautifulSoup(site.convert(text), "html.parser")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a small tree with a snippet and with a page that shows the notebook."""
    files = {
        "snippets/telephony/call_log.py": "class CallLog:\n    pass\n",
        "snippets/telephony/call_log_naive.py": "async def log_call():\n    pass\n",
        "snippets/telephony/call_log_usage.py": "class User:\n    pass\n",
        "docs/start/first.md": f'--8<-- "build/fragments/{FRAGMENT}"\n',
        "docs/patterns/telephony/call-log.md": "A call log.\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, "utf-8")
    (tmp_path / "notebooks").mkdir()
    return tmp_path


def write(
    root: Path, *cells: Mapping[str, object], title: str = "# Start here"
) -> Path:
    """Store a notebook with this title and these cells."""
    path = root / "notebooks" / "01_start_here.ipynb"
    every = [text_cell(title), *cells]
    notebook = {
        "cells": [{**cell, "id": f"c{i}"} for i, cell in enumerate(every)],
        "metadata": {},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    path.write_text(json.dumps(notebook, indent=1), "utf-8")
    return path


def line_of_cell(path: Path, number: int) -> int:
    lines = path.read_text("utf-8").splitlines()
    return next(i for i, line in enumerate(lines, 1) if f'"id": "c{number}"' in line)


def test_code_and_output_are_shown_byte_for_byte(root: Path) -> None:
    source = 'calls = ["0 < 1", "& more", "```"]\n\n\n\nprint(calls)'
    output = "  ['0 < 1', '& more', '```']\n<b>not bold</b>"
    write(root, code_cell(source, printed(output + "\n")))
    html = rendered(fragments(root)[FRAGMENT])
    blocks = [code.get_text() for code in html.select("code")]
    assert blocks == [source + "\n", output + "\n"]
    assert [code.get_text() for code in html.select(".sp-output code")] == blocks[1:]
    titles = [title.get_text() for title in html.select(".filename")]
    assert titles == ["Cell 1", "Output of cell 1"]


def test_a_value_and_several_streams_are_one_output(root: Path) -> None:
    value = {"data": {"text/plain": ["'a'\n", "'b'"]}, "output_type": "execute_result"}
    write(root, code_cell("x", printed("one\n"), value))
    html = rendered(fragments(root)[FRAGMENT])
    assert html.select(".sp-output")[0].get_text().strip().endswith("one\n'a'\n'b'")


def test_a_cell_without_output_shows_none(root: Path) -> None:
    write(root, code_cell("x = 1"))
    assert "sp-output" not in fragments(root)[FRAGMENT]


def test_an_error_is_shown_by_its_last_line_without_colours(root: Path) -> None:
    error = raised("\x1b[31mno such extension\x1b[0m\nand much more")
    write(root, code_cell("x", error, tag="raises-exception"))
    text = fragments(root)[FRAGMENT]
    assert "\nValueError: no such extension\n" in text
    assert "\x1b" not in text
    assert "frame in a path" not in text
    assert "and much more" not in text


def test_an_output_that_is_only_a_picture_is_refused(root: Path) -> None:
    picture = {"data": {"image/png": "aGk="}, "output_type": "display_data"}
    path = write(root, code_cell("x", picture))
    with pytest.raises(CatalogueError) as caught:
        fragments(root)
    line = line_of_cell(path, 1)
    assert str(caught.value).startswith(f"notebooks/01_start_here.ipynb:{line}: ")


def test_the_page_keeps_its_one_title(root: Path) -> None:
    write(root, text_cell("## Next\n\n### Deeper"), title="# Start here\n\nWelcome.")
    html = rendered(fragments(root)[FRAGMENT])
    assert html.select("h1") == []
    headings = [heading.get_text() for heading in html.select("h2, h3")]
    assert headings == ["Next", "Deeper"]
    assert "Welcome." in html.get_text()
    assert "Start here" not in html.get_text()


def test_a_link_to_a_page_is_turned_to_suit_the_page_that_shows_it(root: Path) -> None:
    links = (
        "[a](../docs/patterns/telephony/call-log.md#code) [b](https://example.org/x.md)"
        " [c](#next)"
    )
    write(root, text_cell(links))
    found = rendered(fragments(root)[FRAGMENT]).select("a")
    assert problems(root, discover(root)[0]) == []
    assert [link["href"] for link in found] == [
        "../patterns/telephony/call-log.md#code",
        "https://example.org/x.md",
        "#next",
    ]


@pytest.mark.parametrize(
    "target", ["../docs/patterns/telephony/fax.md", "../pyproject.toml", "/etc/hosts"]
)
def test_a_link_that_leads_to_no_page_is_named(root: Path, target: str) -> None:
    (root / "pyproject.toml").touch()
    path = write(root, text_cell(f"[gone]({target})"))
    message = f"the link {target} leads to no page; mend it"
    assert problems(root, path) == [(line_of_cell(path, 1), message)]


def test_what_looks_like_an_include_is_not_one(root: Path) -> None:
    (root / "secret.txt").write_text("a secret", "utf-8")
    line = f'--8<-- "{root / "secret.txt"}"'
    write(root, code_cell("x", printed(f"{line}\n  {line}\n")), text_cell(line))
    site = Markdown(extensions=["pymdownx.superfences", "pymdownx.snippets"])
    html = site.convert(fragments(root)[FRAGMENT])
    assert "a secret" not in html
    assert html.count("8&lt;--") == 3


def test_a_notebook_that_no_page_shows_is_refused(root: Path) -> None:
    write(root)
    (root / "docs" / "start" / "first.md").write_text("Nothing.\n", "utf-8")
    with pytest.raises(CatalogueError, match=r"01_start_here\.ipynb:1: no page shows"):
        fragments(root)


PROSE = [
    ("<script>alert(1)</script>", "HTML"),
    ("some <b onclick='x'>bold</b> text", "HTML"),
    ("<!-- hidden -->", "HTML"),
    ("```python\nx = 1\n```", "code block"),
    ("~~~\nx = 1\n~~~", "code block"),
    ("- list\n\n    ```\n    x = 1\n    ```", "code block"),
    ("text\n\n    x = 1", "code block"),
    ("# A second title", "single #"),
    ("A second title\n=====", "single #"),
]


@pytest.mark.parametrize(("source", "message"), PROSE)
def test_text_which_the_site_would_not_show_as_text_is_named_and_not_rendered(
    root: Path, source: str, message: str
) -> None:
    path = write(root, text_cell(source))
    found = problems(root, path)
    assert [line for line, _ in found] == [line_of_cell(path, 1)]
    assert message in found[0][1]
    with pytest.raises(CatalogueError, match=message):
        fragments(root)


def test_a_notebook_without_a_title_is_named(root: Path) -> None:
    path = write(root, title="Start here")
    assert problems(root, path)[0][0] == 1
    assert "begin with the title" in problems(root, path)[0][1]


CODE = [
    (code_cell("x = 1", count=None), "never run"),
    (code_cell(" ", count=None), "an empty cell, which cannot be run"),
    (code_cell("x = 1", count=2), "was run as number 2"),
    (code_cell("x = 1", raised("no")), "the cell raises"),
    (code_cell("x = 1", tag="raises-exception"), "does not raise"),
    (code_cell("x = 1", tag="nbval-ignore-output"), "remove nbval-ignore-output"),
    (code_cell("x = 1", tag="nbval-skip"), "remove nbval-skip"),
    (code_cell("# NBVAL_IGNORE_OUTPUT\nx = 1"), "remove NBVAL_IGNORE_OUTPUT"),
    (code_cell("# NBVAL_SKIP\nx = 1"), "remove NBVAL_SKIP"),
    (code_cell("%pip install x"), "no magic commands"),
    (code_cell("class CallLog:\n    pass"), "CallLog is defined in snippets/"),
    (code_cell("def CallLog(): ..."), "CallLog is defined in snippets/"),
    (code_cell("async def log_call(): ..."), "snippets/telephony/call_log_naive.py"),
    (code_cell("if True:\n    class CallLog: ..."), "CallLog is defined in"),
    (code_cell("CallLog = dict"), "CallLog is defined in snippets/"),
    (code_cell("from collections import Counter as CallLog"), "CallLog is defined in"),
    (code_cell("import json as CallLog"), "CallLog is defined in snippets/"),
    (
        code_cell("from snippets.telephony.fax import FaxLog as CallLog"),
        "CallLog is defined in snippets/",
    ),
]


@pytest.mark.parametrize(("cell", "message"), CODE)
def test_a_cell_that_drifted_is_named_with_its_line(
    root: Path, cell: Mapping[str, object], message: str
) -> None:
    path = write(root, cell)
    found = problems(root, path)
    assert [line for line, _ in found] == [line_of_cell(path, 1)]
    assert message in found[0][1]


def test_cells_out_of_order_are_both_named(root: Path) -> None:
    path = write(root, code_cell("x = 1", count=2), code_cell("y = 2", count=1))
    found = [line for line, _ in problems(root, path)]
    assert found == [line_of_cell(path, 1), line_of_cell(path, 2)]


def test_a_notebook_as_it_should_be_has_no_problem(root: Path) -> None:
    path = write(
        root,
        text_cell("## Import\n\nA `CallLog`, and 1 &lt; 2.\n\n| a |\n| - |\n| 1 |"),
        code_cell("from snippets.telephony.call_log import CallLog"),
        code_cell("class User: ...\nlog = await CallLog().read()", count=2),
        code_cell("1 / 0", raised("no"), count=3, tag="raises-exception"),
    )
    assert problems(root, path) == []
    assert discover(root) == [path]


@pytest.mark.parametrize(
    "text", ["", "[]", '{"nbformat": 3, "nbformat_minor": 0, "cells": []}']
)
def test_a_file_that_is_no_notebook_is_one_clear_line(root: Path, text: str) -> None:
    path = write(root)
    path.write_text(text, "utf-8")
    with pytest.raises(CatalogueError) as caught:
        problems(root, path)
    assert str(caught.value).startswith("notebooks/01_start_here.ipynb:1: ")
    assert "\n" not in str(caught.value)


def test_a_snippet_that_is_no_python_is_one_clear_line(root: Path) -> None:
    path = write(root)
    (root / "snippets/telephony/call_log.py").write_text("\nclass:\n", "utf-8")
    with pytest.raises(CatalogueError, match=r"^snippets/telephony/call_log\.py:2: "):
        problems(root, path)


def test_executing_twice_changes_nothing_the_second_time(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(
        root,
        code_cell("from snippets.telephony.call_log import CallLog", count=None),
        code_cell("import asyncio\nawait asyncio.sleep(0)\nprint(CallLog.__name__)"),
        code_cell("raise ValueError('no')", tag="raises-exception"),
    )
    assert main(root) == 0
    first = path.read_bytes()
    assert main(root) == 0
    assert path.read_bytes() == first
    assert capsys.readouterr().out.split() == [
        "notebooks/01_start_here.ipynb:",
        "changed",
        "notebooks/01_start_here.ipynb:",
        "unchanged",
    ]
    assert problems(root, path) == []
    assert b"File" not in first
    stored = json.loads(first)
    assert stored["metadata"]["language_info"] == {"name": "python"}
    assert stored["cells"][2]["outputs"][0]["text"] == ["CallLog\n"]
    assert stored["cells"][2]["id"] == "c2"


def test_a_cell_that_raises_is_named_and_the_file_left_alone(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = code_cell("raise ValueError('no line')", count=None)
    path = write(root, code_cell("x = 1"), text_cell("Why?"), bad, code_cell("y = 2"))
    before = path.read_bytes()
    with pytest.raises(CatalogueError) as caught:
        execute(root, path)
    assert str(caught.value) == (
        f"notebooks/01_start_here.ipynb:{line_of_cell(path, 3)}: ValueError: no line"
    )
    assert path.read_bytes() == before
    assert main(root) == 1
    assert "ValueError: no line" in capsys.readouterr().err
