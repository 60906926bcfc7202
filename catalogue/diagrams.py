"""Diagrams: Mermaid in the source, SVG with a text alternative on the page.

The build draws them. A drawing carries shapes, classes and text only: whatever else the
source or the renderer puts in (styles, scripts, links, colours) is dropped or refused.
The site's stylesheet colours the classes, so that a diagram follows the reader's theme.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from html import escape
from io import BytesIO
from typing import TYPE_CHECKING
from xml.parsers.expat import ExpatError, ParserCreate

import mmdr

from catalogue.errors import CatalogueError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MAX_NODES = 9
MARGIN_PX = 4
MAX_WIDTH_PX = 1050  # at a wider one, text shrinks below 10 pixels in the site's column

KINDS = re.compile(r"(flowchart|sequenceDiagram)\b")
FROM_LEFT = re.compile(r"\A(flowchart)[ \t]+(?:LR|RL)\b")
ACCESSIBLE = re.compile(
    r"^[ \t]*acc(Title|Descr)[ \t]*:[ \t]*(.+?)[ \t]*$", re.MULTILINE
)
# The theme's part: colours, links and configuration.
FOREIGN = re.compile(
    r"%%\s*\{|^\s*(?:click|href|link|links|style|classDef|linkStyle)\b",
    re.MULTILINE,
)

CONFIGURATION = {
    "theme": "neutral",
    "look": "classic",
    "layout": "dagre",
    "htmlLabels": False,
    "fontFamily": "Arial, sans-serif",
    "themeVariables": {"fontSize": "14px"},
    "flowchart": {
        "htmlLabels": False,
        "nodeSpacing": 28,
        "rankSpacing": 30,
        "padding": 12,
        "wrappingWidth": 150,
    },
    "sequence": {
        "mirrorActors": False,
        "width": 110,
        "height": 36,
        "actorMargin": 40,
        "messageMargin": 30,
        "boxMargin": 6,
        "diagramMarginX": 8,
        "diagramMarginY": 8,
    },
}

SHAPES = {"path", "rect", "polygon", "polyline", "line", "circle", "ellipse"}
ALLOWED = SHAPES | {"svg", "g", "text", "tspan", "marker", "defs"}
DROPPED = {"style", "title", "desc", "filter", "linearGradient", "symbol"}
ATTRIBUTES = {
    *("class", "d", "points", "transform", "x", "y", "x1", "y1", "x2", "y2"),
    *("cx", "cy", "r", "rx", "ry", "width", "height", "dx", "dy", "viewBox"),
    *("text-anchor", "dominant-baseline", "refX", "refY", "orient"),
    *("markerUnits", "markerWidth", "markerHeight"),
}
REFERENCES = {"marker-start", "marker-mid", "marker-end"}
LOCAL_REFERENCE = re.compile(r"url\(#([\w-]+)\)")
NUMBER = re.compile(r"-?\d+\.\d+(?:e-?\d+)?")


@dataclass(frozen=True)
class Diagram:
    """A drawn diagram: SVG to be inlined, and its text alternative."""

    svg: str
    title: str
    description: str


@dataclass
class _Element:
    name: str
    attributes: Mapping[str, str]
    children: list[_Element | str] = field(default_factory=list)

    def walk(self) -> Iterator[_Element]:
        """Yield the element and those below it that a page may carry."""
        yield self
        for child in self.children:
            if isinstance(child, _Element) and child.name not in DROPPED:
                yield from child.walk()


def render(source: str, identity: str = "diagram") -> Diagram:
    """Draw a Mermaid flowchart or sequence diagram.

    `identity` must be unique on the page: the ids in the drawing begin with it. A
    flowchart from left to right that would be too wide to read runs from the top.

    Raises `CatalogueError` when the source is neither of them, lacks `accTitle:` or
    `accDescr:`, sets colours, links or configuration, is not Mermaid, has more than
    nine nodes, or is too wide to be read in the site's column.
    """
    if not KINDS.match(source):
        raise CatalogueError("a diagram starts with 'flowchart' or 'sequenceDiagram'")
    texts = dict(ACCESSIBLE.findall(source))
    for kind in ("Title", "Descr"):
        if kind not in texts:
            raise CatalogueError(f"the diagram has no line 'acc{kind}: ...'; write one")
    foreign = FOREIGN.search(source)
    if foreign:
        found = foreign.group().strip()
        raise CatalogueError(f"a diagram may not use {found!r}: the theme draws it")
    root = _draw(source)
    if _width(root) > MAX_WIDTH_PX:
        root = _draw(FROM_LEFT.sub(r"\1 TB", source))
    nodes = sum(_is_node(element) for element in root.walk())
    if not 0 < nodes <= MAX_NODES:
        raise CatalogueError(
            f"the diagram has {nodes} nodes; one to {MAX_NODES} are read"
        )
    if _width(root) > MAX_WIDTH_PX:
        raise CatalogueError(
            f"the diagram is {_width(root):.0f} wide, more than {MAX_WIDTH_PX}: "
            "shorten the labels, or name fewer participants",
        )
    left, top, width, height = _view_box(root)
    width, height = width + 2 * MARGIN_PX, height + 2 * MARGIN_PX
    corner = f"{left - MARGIN_PX:.0f} {top - MARGIN_PX:.0f}"
    prefix = re.sub(r"[^a-z0-9]+", "-", identity)
    title, description = texts["Title"], texts["Descr"]
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img"'
        f' aria-labelledby="{prefix}-title {prefix}-desc"'
        f' viewBox="{corner} {width:.0f} {height:.0f}"'
        f' style="--sp-width:{width:.0f}px">'
        f'<title id="{prefix}-title">{escape(title)}</title>'
        f'<desc id="{prefix}-desc">{escape(description)}</desc>'
        f"{_content(root, prefix)}</svg>"
    )
    return Diagram(svg=svg, title=title, description=description)


def to_markdown(source: str, identity: str) -> str:
    """Return the figure that a page includes: one line of HTML, with its caption."""
    diagram = render(source, identity)
    caption = f"<figcaption>{escape(diagram.title)}</figcaption>"
    return f'<figure class="sp-diagram"><div>{diagram.svg}</div>{caption}</figure>\n'


def _draw(source: str) -> _Element:
    directive = "%%{init: " + json.dumps(CONFIGURATION) + "}%%\n"
    try:
        return _parse(mmdr.render(directive + source).svg())
    except (ValueError, RuntimeError, ExpatError) as error:
        reason = str(error).partition("\n")[0]
        raise CatalogueError(f"the diagram is not Mermaid: {reason}") from error


def _parse(svg: str) -> _Element:
    root = _Element("svg", {})
    stack: list[_Element] = []

    def start(name: str, attributes: dict[str, str]) -> None:
        if not stack:
            root.attributes = attributes
            stack.append(root)
            return
        stack.append(_Element(name, attributes))
        stack[-2].children.append(stack[-1])

    def end(_name: str) -> None:
        stack.pop()

    def text(data: str) -> None:
        stack[-1].children.append(data)

    parser = ParserCreate()
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = text
    parser.ParseFile(BytesIO(svg.encode()))
    return root


def _view_box(root: _Element) -> tuple[float, ...]:
    return tuple(float(number) for number in root.attributes["viewBox"].split())


def _width(root: _Element) -> float:
    return _view_box(root)[2]


def _is_node(element: _Element) -> bool:
    classes = element.attributes.get("class", "").split()
    return "actor-top" in classes or (element.name == "g" and "node" in classes)


def _content(root: _Element, prefix: str) -> str:
    """Return the drawing without its root, and with only the markers that it uses."""
    used = {
        name
        for element in root.walk()
        for key in REFERENCES & element.attributes.keys()
        for name in LOCAL_REFERENCE.findall(element.attributes[key])
    }
    return "".join(_write(child, prefix, used) for child in root.children)


def _write(node: _Element | str, prefix: str, used: set[str]) -> str:
    if isinstance(node, str):
        return escape(node, quote=False)
    if node.name in DROPPED:
        return ""
    if node.name not in ALLOWED:
        raise CatalogueError(f"the drawing has a <{node.name}>; a diagram may not")
    identity = node.attributes.get("id", "")
    if node.name == "marker" and identity not in used:
        return ""
    inner = "".join(_write(child, prefix, used) for child in node.children)
    if not inner and node.name not in SHAPES:
        return ""  # an empty group or label
    attributes = "".join(
        f' {key}="{escape(_rounded(value))}"'
        for key, value in node.attributes.items()
        if key in ATTRIBUTES
    )
    if identity in used:
        attributes += f' id="{prefix}-{escape(identity)}"'
    for key in sorted(REFERENCES & node.attributes.keys()):
        target = LOCAL_REFERENCE.fullmatch(node.attributes[key])
        if target:
            attributes += f' {key}="url(#{prefix}-{target[1]})"'
    if node.name in SHAPES:
        return f"<{node.name}{attributes}/>"
    return f"<{node.name}{attributes}>{inner}</{node.name}>"


def _rounded(value: str) -> str:
    return NUMBER.sub(
        lambda number: f"{float(number[0]):.1f}".removesuffix(".0"), value
    )
