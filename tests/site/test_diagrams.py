"""Diagrams are drawn safely, with their text, or refused with a reason."""

from __future__ import annotations

import re

import pytest
from bs4 import BeautifulSoup

from catalogue.diagrams import render, to_markdown
from catalogue.errors import CatalogueError

HEAD = """flowchart TB
    accTitle: How a call reaches an extension
    accDescr: The exchange asks the registry, then rings.
"""
FLOW = HEAD + '    exchange["Exchange & <b>co</b>"] -->|asks| registry[(Registry)]\n'
SEQUENCE = """sequenceDiagram
    accTitle: A voicemail is stored
    accDescr: The caller speaks, the mailbox stores.
    participant C as Caller
    participant M as Mailbox
    C->>M: speak
    M--xC: full
"""


@pytest.mark.parametrize("source", [FLOW, SEQUENCE])
def test_a_drawing_is_named_and_described_by_its_source(source: str) -> None:
    diagram = render(source, "database/repository")
    drawing = BeautifulSoup(diagram.svg, "html.parser").select("svg[role=img]")[0]
    title, description = str(drawing["aria-labelledby"]).split()
    assert drawing.select(f"title#{title}")[0].get_text() == diagram.title
    assert drawing.select(f"desc#{description}")[0].get_text() == diagram.description
    assert diagram.title in source
    assert diagram.description in source


@pytest.mark.parametrize("source", [FLOW, SEQUENCE])
def test_a_drawing_has_no_colour_script_style_or_reference_outwards(
    source: str,
) -> None:
    svg = render(source).svg
    assert not re.search(r"<(script|style|a|image|foreignObject)\b|\bon\w+=", svg)
    assert not re.search(r"#[0-9a-f]{3,8}\b(?=[;\"'])|\bfill=|\bstroke=", svg)
    assert re.findall(r"https?://[^\"]+", svg) == ["http://www.w3.org/2000/svg"]
    assert set(re.findall(r"url\(#([^)]+)\)", svg)) <= set(
        re.findall(r'id="([^"]+)"', svg)
    )


def test_two_drawings_on_a_page_share_no_id() -> None:
    first, second = (
        set(re.findall(r'id="([^"]+)"', render(FLOW, name).svg))
        for name in ("a/b", "a/c")
    )
    assert first
    assert first.isdisjoint(second)


def test_what_a_label_says_is_text() -> None:
    drawing = BeautifulSoup(render(FLOW).svg, "html.parser")
    assert drawing.find("b") is None
    words = " ".join(text.get_text() for text in drawing.find_all("text"))
    assert "Exchange & " in words
    assert "Registry" in words
    assert "asks" in words


def test_the_figure_is_one_line_so_that_the_markdown_parser_leaves_it_alone() -> None:
    figure = to_markdown(SEQUENCE, "caching/cached")
    assert figure.count("\n") == 1
    assert figure.startswith('<figure class="sp-diagram">')
    assert "<figcaption>A voicemail is stored</figcaption></figure>\n" in figure


def chain(nodes: int) -> str:
    """Return a flowchart of so many nodes, one under the other."""
    return HEAD + "    " + " --> ".join(f"n{index}" for index in range(nodes)) + "\n"


def test_nine_nodes_are_drawn_and_ten_are_refused() -> None:
    assert render(chain(9)).title
    with pytest.raises(CatalogueError, match="10 nodes"):
        render(chain(10))


def test_a_chart_too_wide_from_left_to_right_runs_from_the_top() -> None:
    wide = render(chain(9).replace("flowchart TB", "flowchart LR"))
    assert wide.svg == render(chain(9)).svg
    narrow = render(chain(3).replace("flowchart TB", "flowchart LR"))
    assert narrow.svg != render(chain(3)).svg


def test_ten_participants_are_refused() -> None:
    more = "".join(f"    participant P{number}\n" for number in range(8))
    with pytest.raises(CatalogueError, match="10 nodes"):
        render(SEQUENCE + more)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("pie\n", "starts with 'flowchart' or 'sequenceDiagram'"),
        (FLOW.replace("accTitle", "title"), "no line 'accTitle: ...'"),
        (FLOW.replace("accDescr", "descr"), "no line 'accDescr: ...'"),
        (FLOW + "    exchange -->\n", "is not Mermaid"),
        (HEAD, "has 0 nodes"),
        (FLOW + '    click exchange "https://h.example"\n', "may not use 'click'"),
        (FLOW + "    style exchange fill:#f00\n", "may not use 'style'"),
        (FLOW + '%%{init: {"theme": "dark"}}%%\n', "may not use '%%{'"),
        (SEQUENCE.replace("speak", "speak " * 120), "more than 1050"),
    ],
)
def test_what_cannot_be_shown_is_refused_with_a_reason(
    source: str, reason: str
) -> None:
    with pytest.raises(CatalogueError) as caught:
        render(source)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
