"""Small pieces of HTML that survive the Markdown parser: text, tables, states."""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

STATES = {
    "proven": "proven",
    "proven on embedded backends only": "embedded",
    "not verified": "unverified",
    "planned": "planned",
}
"""Each state, in falling order, and the CSS modifier that gives it its shape."""


def text(value: object) -> str:
    """Escape for HTML and for Markdown; words between backticks become code."""
    pieces = re.split(r"`([^`]+)`", str(value))
    for index, piece in enumerate(pieces):
        if index % 2:
            pieces[index] = f"<code>{html.escape(piece)}</code>"
        else:
            pieces[index] = re.sub(
                r"[&<>\"'\\*_\[\]#|~{}]", lambda found: f"&#{ord(found[0])};", piece
            )
    return "".join(pieces)


def state(value: str) -> str:
    """Return a state in words, in a shape of its own."""
    return f'<span class="sp-state sp-state--{STATES[value]}">{value}</span>'


def link(words: str, url: str) -> str:
    """Return a link to `url`, which is relative to the page's own address."""
    return f'<a href="{html.escape(url)}">{text(words)}</a>'


def table(caption: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in a scrolling region; cells are HTML, the first heads its row."""
    head = "".join(f'<th scope="col">{text(name)}</th>' for name in columns)
    body = "\n".join(
        f'<tr><th scope="row">{first}</th>'
        + "".join(f"<td>{cell}</td>" for cell in rest)
        + "</tr>"
        for first, *rest in rows
    )
    label = html.escape(caption)
    return (
        f'<div class="sp-table" role="region" tabindex="0" aria-label="{label}">\n'
        f"<table>\n<caption>{text(caption)}</caption>\n"
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>\n</div>\n"
    )


def counted(number: int, noun: str) -> str:
    """Return a number and its noun, which takes an s in the plural."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def sentence(test: str) -> str:
    """Return a test's node id as the sentence that its name is."""
    name = test.rpartition("::")[2].partition("[")[0]
    words = name.removeprefix("test_").replace("_", " ")
    return text(words[:1].upper() + words[1:])
