"""Kind 5: a name between back-ticks that means nothing in the code of today."""

from __future__ import annotations

import ast
import re
from fnmatch import filter as matching
from typing import TYPE_CHECKING

from catalogue import sources
from catalogue.guard.docstrings import told
from catalogue.guard.index import KEYWORDS, Index
from catalogue.guard.tree import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from catalogue.guard.page import Code, Page
    from catalogue.guard.tree import Tree

LONGEST = 70
TICKED = re.compile(r"`([^`\n]+)`")
LITERAL = re.compile(
    r"""
      \d[\w.,%:\ -]*                                   # a number, a status, a date
    | [A-Z][A-Za-z0-9]*(-[A-Za-z0-9]+)+(:\ [^=()]+)?   # a header
    | [a-z][a-z0-9]*(-[a-z0-9]+)+                      # a word with hyphens
    | (DELETE|GET|HEAD|OPTIONS|PATCH|POST|PUT)\ /\S*   # a request
    | /[\w/{}.:-]*                                     # a route
    | (application|audio|image|multipart|text|video)/[\w.+*-]+
    | [a-z][a-z0-9+]*://\S*                            # an address
    | [\w{}*<>-]+(:[\w{}*<>.-]+)+                      # a key of Redis
    | "[^"]*" | '[^']*'
    """,
    re.VERBOSE,
)
"""What is plainly no name in code, and needs no meaning in the tree."""
SETTING = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)+")
OPTION = re.compile(r"(?P<name>--?[a-z][a-z-]*)([ =][\w.<>-]+)?")
CAPITALS = re.compile(r"[A-Z]{2,}( \S+)*")
COMMAND = re.compile(r"make\b.*|(\S+/)?python3? -m .+")
SUFFIX = re.compile(
    r"\.(cfg|css|html|ini|ipynb|js|json|lock|md|mmd|py|sh|toml|txt|yaml|yml)$"
)
PATH = re.compile(r"[\w.<>*{}-]+(/[\w.<>*{}-]+)*/?")
LEADING = re.compile(
    r"(await|raise|except|yield|yield from|async with|with) |(@|\*\*?) ?"
)
ARGUMENT = re.compile(r"(?P<name>[a-z]\w*)=(?P<value>\S+)")
OURS = re.compile(
    r"(snippets\.[\w.]+|[A-Z]\w+(\.\w+)+|([A-Z][a-z0-9]+){2,}|[a-z]\w*_\w+)(\(\))?"
)
"""What is surely a name in code; elsewhere than on a page the rest may be data."""
DRAWN = re.compile(r"[A-Za-z_][\w.]*\w(?:\(\))?")
UNREADABLE = "neither a name nor a literal that can be checked; say it in words"
TYPED = "code typed into the text; say it in words, or show a file that a test runs"


def check(tree: Tree) -> Iterator[Problem]:
    """Yield each piece of inline code which is neither a known name nor a literal."""
    judge = Judge(tree)
    for page in [*tree.pages, *tree.notes]:
        yield from _spans(judge, page, page.spans)
        yield from _fields(tree, judge, page)
        for text in page.prose:
            for name in re.findall(r"^::: (\S+)", text, re.MULTILINE):
                if not judge.index.resolves(name):
                    message = f"there is no {name}; correct the name"
                    yield Problem(page.path, page.locate(f"::: {name}"), message)
    for page in told(tree):
        ours = [span for span in page.spans if OURS.fullmatch(span.text)]
        yield from _spans(judge, page, ours)
    for path in tree.below("docs", ".mmd"):
        for number, line in enumerate(tree.text(path).split("\n"), 1):
            for word in filter(OURS.fullmatch, DRAWN.findall(line)):
                if fault := judge.fault(word):
                    yield Problem(path, number, f"{word}: {fault}")


def _spans(judge: Judge, page: Page, spans: list[Code]) -> Iterator[Problem]:
    for span in spans:
        if not span.include and (fault := judge.fault(span.text)):
            yield Problem(page.path, page.line(span), f"`{span.text}`: {fault}")


def _fields(tree: Tree, judge: Judge, page: Page) -> Iterator[Problem]:
    for text in page.fields:
        for words in TICKED.findall(text):
            if fault := judge.fault(words):
                line = tree.line_of(page.path, f"`{words}`")
                yield Problem(page.path, line, f"`{words}`: {fault}")


class Judge:
    """Says what is wrong with a piece of inline code, if anything is."""

    def __init__(self, tree: Tree) -> None:
        """Judge by the code and the files of `tree`."""
        self._tree = tree
        self.index = Index(tree)
        self._patterns = {pattern.id for pattern in tree.patterns}
        self._settled: dict[str, str | None] = {}

    def fault(self, text: str) -> str | None:
        """Return what is wrong with the text between two back-ticks."""
        text = " ".join(text.split())
        if text not in self._settled:
            self._settled[text] = self._judge(text)
        return self._settled[text]

    def _judge(self, text: str) -> str | None:
        if len(text) > LONGEST:
            return TYPED
        if set(text.split()) <= KEYWORDS or LITERAL.fullmatch(text):
            return None
        for form, judge in (
            (SETTING, self._setting),
            (OPTION, self._option),
            (CAPITALS, self._capitals),
            (COMMAND, self._command),
        ):
            if form.fullmatch(text):
                return judge(text)
        if "::" in text:
            return self._node(text)
        if PATH.fullmatch(text) and ("/" in text or SUFFIX.search(text)):
            return self._path(text)
        return self._python(text)

    def _setting(self, text: str) -> str | None:
        if self.index.knows(text) or self._mentioned(text):
            return None
        return "no code reads this; correct the name"

    def _option(self, text: str) -> str | None:
        found = OPTION.fullmatch(text)
        if found and (found["name"] in self.index.strings or self._mentioned(text)):
            return None
        return "no command has this option; correct it"

    def _mentioned(self, text: str) -> bool:
        """Whether a file that people or CI run says it."""
        places = ["Makefile", "pyproject.toml", *self._tree.below(".ci", "")]
        places += self._tree.below(".github", "")
        word = re.compile(rf"(?<![\w-]){re.escape(text)}(?![\w-])")
        return any(word.search(self._tree.text(place)) for place in places)

    def _capitals(self, text: str) -> str | None:
        """Judge SQL or a Redis command: capitals, signs, and names that are known."""
        for word in re.split(r"[\s,();.]+", text):
            lower = re.search(r"[a-z]", word)
            if lower and not self.index.knows(word):
                return f"there is no {word}; name what is there, or say it in words"
        return None

    def _command(self, text: str) -> str | None:
        words = text.split()
        if words[0] == "make":
            targets = set(re.findall(r"(?m)^([\w-]+):", self._tree.text("Makefile")))
            named = [word for word in words[1:] if re.fullmatch(r"[\w-]+", word)]
            unknown = [word for word in named if word not in targets]
            return f"there is no target {unknown[0]}; correct it" if unknown else None
        module = words[words.index("-m") + 1]
        if self.index.resolves(module) or self.index.resolves(f"{module}.__main__"):
            return None
        return f"there is no module {module}; correct it"

    def _node(self, text: str) -> str | None:
        path, _, name = text.partition("::")
        module = self._tree.module(path) if path in self._tree.files else None
        if module and any(getattr(node, "name", "") == name for node in module.body):
            return None
        return "there is no such test; correct the name"

    def _path(self, text: str) -> str | None:
        """Judge a path: a file, a folder, a form of these, or a pattern's id."""
        form = re.sub(r"<[^>]*>|\{[^}]*\}", "*", text).rstrip("/")
        forms = [form, f"{form}/*"] if "/" in text else [form, f"{form}/*", f"*/{form}"]
        known = (
            text in self._patterns
            or any(matching(self._tree.files, one) for one in forms)
            or (text.startswith("build/") and self._is_written(text))
            or ("/" not in text and self._python(text) is None)
        )
        return None if known else "there is no such file; correct the path"

    def _is_written(self, text: str) -> bool:
        """Whether the machinery writes a generated file of that name."""
        sources = [*self._tree.below("catalogue", ".py"), "Makefile", "mkdocs.yml"]
        return any(text.rstrip("/") in self._tree.text(path) for path in sources)

    def _python(self, text: str) -> str | None:
        argument = ARGUMENT.fullmatch(text)
        if argument:
            value = self._python(argument["value"])
            known = self.index.knows(argument["name"])
            return value if known else f"there is no {argument['name']}; correct it"
        bare = LEADING.sub("", text, count=1) if LEADING.match(text) else text
        try:
            node = ast.parse(bare, mode="eval").body
        except (SyntaxError, ValueError):
            return TYPED if _is_code(bare) else UNREADABLE
        return self._expression(node)

    def _expression(self, node: ast.expr) -> str | None:
        if isinstance(node, ast.Name | ast.Attribute):
            return self._dotted(ast.unparse(node))
        inner = _inner(node)
        if inner is None:
            return None if _is_literal(node) else TYPED
        faults = (self._expression(one) for one in inner)
        return next((fault for fault in faults if fault), None)

    def _dotted(self, name: str) -> str | None:
        if not re.fullmatch(r"[\w.]+", name):
            return TYPED
        if self.index.resolves(name):
            return None
        return f"there is no {name} in the code; correct the name"


def _inner(node: ast.expr) -> list[ast.expr] | None:
    """Return the parts of a call or a type; None if the expression is neither."""
    match node:
        case ast.Call(func=function, args=arguments, keywords=named):
            return [function, *arguments, *(keyword.value for keyword in named)]
        case ast.Subscript(value=value, slice=index):
            return [value, index]
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return [left, right]
        case ast.Tuple(elts=elements) | ast.List(elts=elements):
            return elements
        case _:
            return None


def _is_code(text: str) -> bool:
    return bool(sources.nodes(f"{text} pass" if text.endswith(":") else text))


def _is_literal(node: ast.expr) -> bool:
    try:
        ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError):
        return False
    return True
