"""Render notebooks as Markdown in the look of the site, and find what is wrong in them.

Nothing is executed here: what is shown is what the file stores. Whether a cell still
prints what is stored is for nbval to say; `python -m catalogue.notebooks` refreshes
what is stored.
"""

import ast
import os.path
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from markdown import Markdown
from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from catalogue import sources
from catalogue.errors import CatalogueError
from catalogue.strict import first_fault

RAISES = "raises-exception"
"""The one tag a cell may carry: it is meant to raise."""
RELATIVE_LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)[^)\s]+")


def _joined(value: object) -> object:
    return "".join(value) if isinstance(value, list) else value


Text = Annotated[str, BeforeValidator(_joined)]


class Output(BaseModel):
    """What a cell left behind: a stream's `text`, a value's `data`, or an error."""

    output_type: Literal["stream", "execute_result", "display_data", "error"]
    text: Text = ""
    data: dict[str, object] = {}
    ename: str = ""
    evalue: str = ""

    def shown(self) -> str:
        """Return the plain text, without colour codes, and of an error its last line.

        Raises `ValueError` for a value that has no plain text.
        """
        if self.output_type == "stream":
            text = self.text
        elif self.output_type == "error":
            text = f"{self.ename}: {self.evalue}".partition("\n")[0]
        elif "text/plain" in self.data:
            text = str(_joined(self.data["text/plain"]))
        else:
            raise ValueError(f"an output has no plain text, only {sorted(self.data)}")
        return re.sub(r"\x1b\[[0-9;?]*[ -/]*[@-~]", "", text).rstrip("\n")


class CellMetadata(BaseModel):
    """The part of a cell's metadata that means something here."""

    tags: list[str] = []


class Cell(BaseModel):
    """One cell; `line` is where its id stands in the file."""

    cell_type: Literal["code", "markdown"]
    id: str
    source: Text
    metadata: CellMetadata
    execution_count: int | None = None
    outputs: list[Output] = []
    line: int = 1


class Notebook(BaseModel):
    """A notebook file of format 4.5, which is the first in which cells have ids."""

    nbformat: Literal[4]
    nbformat_minor: int = Field(ge=5)
    cells: list[Cell] = Field(min_length=1)


def discover(root: Path) -> list[Path]:
    """Return the notebooks of the tree in their order."""
    return sorted((root / "notebooks").glob("*.ipynb"))


def read(root: Path, path: Path) -> Notebook:
    """Return the notebook; one that cannot be read raises `CatalogueError`."""
    text = sources.read(root, path.relative_to(root).as_posix())
    try:
        notebook = Notebook.model_validate_json(text)
    except ValidationError as error:
        _, where, what = first_fault(error)
        raise _wrong(root, path, 1, f"{where}: {what}") from error
    for cell in notebook.cells:
        cell.line = text[: text.find(f'"id": "{cell.id}"')].count("\n") + 1
    return notebook


def fragments(root: Path) -> dict[str, str]:
    """Return the text of `build/fragments/notebooks/<stem>.md` for every notebook.

    The notebook's title is left out, since the page that includes the fragment has its
    own. Links, which in a notebook lead to a page's source, are turned to suit that
    page. Text with HTML or a code block of its own raises `CatalogueError`.
    """
    return {
        f"notebooks/{path.stem}.md": _render(root, path, read(root, path))
        for path in discover(root)
    }


def problems(root: Path, path: Path) -> list[tuple[int, str]]:
    """Return what is wrong in a notebook, each with its line in the file.

    Whether a stored output is still what the cell prints is not asked here.
    """
    notebook = read(root, path)
    defined = _defined_in_snippets(root)
    found = list(_prose_problems(notebook))
    number = 0
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            found += _dead_links(root, path, cell)
        else:
            number += 1
            messages = _code_problems(cell, number, defined)
            found += [(cell.line, message) for message in messages]
    return sorted(found)


def _wrong(root: Path, path: Path, line: int, message: str) -> CatalogueError:
    return CatalogueError(f"{path.relative_to(root).as_posix()}:{line}: {message}")


def _render(root: Path, path: Path, notebook: Notebook) -> str:
    for line, message in _prose_problems(notebook):
        raise _wrong(root, path, line, message)
    page = _page(root, path)
    parts: list[str] = []
    number = 0
    for cell in notebook.cells:
        try:
            if cell.cell_type == "code":
                number += 1
                parts += _render_code(cell, number)
            else:
                parts.append(_relink(cell.source, path.parent, page))
        except ValueError as error:
            raise _wrong(root, path, cell.line, str(error)) from error
    parts[0] = parts[0].partition("\n")[2]
    text = "\n\n".join(part.strip("\n") for part in parts if part.strip())
    # What a cell prints is never an include.
    return re.sub(r"^(\s*)(-+8<-+)", r"\1;\2", text, flags=re.MULTILINE) + "\n"


def _render_code(cell: Cell, number: int) -> Iterator[str]:
    yield _fence(f'python title="Cell {number}"', cell.source)
    shown = "\n".join(output.shown() for output in cell.outputs)
    if shown:
        fence = _fence(f'text title="Output of cell {number}"', shown)
        yield f'<div class="sp-output" markdown>\n\n{fence}\n\n</div>'


def _fence(info: str, text: str) -> str:
    longest = max(map(len, re.findall("`+", text)), default=0)
    marks = "`" * max(3, longest + 1)
    return f"{marks}{info}\n{text}\n{marks}"


def _page(root: Path, path: Path) -> Path:
    """Return the page which shows the notebook."""
    include = f'"build/fragments/notebooks/{path.stem}.md"'
    for page in sorted((root / "docs").rglob("*.md")):
        if include in sources.read(root, page.relative_to(root).as_posix()):
            return page
    raise _wrong(root, path, 1, f"no page shows it; include {include} in one")


def _relink(text: str, folder: Path, page: Path) -> str:
    def turned(match: re.Match[str]) -> str:
        target, mark, anchor = match[0].partition("#")
        link = os.path.relpath(folder / target, page.parent)
        return f"{Path(link).as_posix()}{mark}{anchor}"

    return RELATIVE_LINK.sub(turned, text)


def _dead_links(root: Path, path: Path, cell: Cell) -> Iterator[tuple[int, str]]:
    for link in RELATIVE_LINK.findall(cell.source):
        file = Path(os.path.normpath(path.parent / link.partition("#")[0]))
        if not file.is_relative_to(root / "docs") or not file.is_file():
            yield cell.line, f"the link {link} leads to no page; mend it"


def _prose_problems(notebook: Notebook) -> Iterator[tuple[int, str]]:
    first = notebook.cells[0]
    if first.cell_type != "markdown" or not first.source.startswith("# "):
        yield 1, "begin with the title, a text cell whose first line is `# <title>`"
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            html, foreign = _html(cell.source)
            if foreign:
                yield cell.line, "HTML or a code block in text; use a code cell"
            if html.count("<h1") > (cell is first):
                yield cell.line, "only the title has a single #; use ##"


def _html(text: str) -> tuple[str, bool]:
    """Return the text's HTML, and whether any of it was written as HTML or is code."""
    site = Markdown(extensions=["pymdownx.superfences", "tables"])
    html = site.convert(text)
    stashed = [str(raw) for raw in site.htmlStash.rawHtmlBlocks]
    foreign = any(not raw.startswith("&") for raw in stashed)
    return html, foreign or "<pre" in html


def _code_problems(cell: Cell, number: int, defined: dict[str, str]) -> list[str]:
    found: list[str] = []
    fix = "run `make fix`"
    if not cell.source.strip():
        found.append("an empty cell, which cannot be run; remove it")
    elif cell.execution_count is None:
        found.append(f"a code cell that was never run; {fix}")
    elif cell.execution_count != number:
        found.append(f"cell {number} was run as number {cell.execution_count}; {fix}")
    raised = any(output.output_type == "error" for output in cell.outputs)
    meant = RAISES in cell.metadata.tags
    if raised and not meant:
        found.append(
            f"the cell raises; mend it, or tag it `{RAISES}` if it is meant to"
        )
    if meant and not raised and cell.execution_count is not None:
        found.append(f"the cell is tagged `{RAISES}` and does not raise; mend it")
    excuses = [tag for tag in cell.metadata.tags if tag != RAISES]
    excuses += re.findall(r"NBVAL_\w+|PYTEST_VALIDATE_\w+", cell.source, re.IGNORECASE)
    found += [f"remove {name}: every output is compared" for name in excuses]
    try:
        names = list(_bound(ast.parse(cell.source)))
    except SyntaxError as error:
        return [*found, f"not Python ({error.msg}); notebooks have no magic commands"]
    found += [
        f"{name} is defined in {defined[name]}; import it or choose another name"
        for name in names
        if name in defined
    ]
    return found


def _defined_in_snippets(root: Path) -> dict[str, str]:
    """Return the classes and functions of the patterns, each with its file.

    Examples define the models of their own story, which a notebook may do too.
    """
    paths = sorted((root / "snippets").rglob("*.py"), reverse=True)
    return {
        node.name: path.relative_to(root).as_posix()
        for path in paths
        if not path.stem.endswith(("_usage", "_wiring"))
        for node in sources.parse(root, path.relative_to(root).as_posix()).body
        if isinstance(node, ast.ClassDef | sources.Function)
    }


def _bound(tree: ast.AST) -> Iterator[str]:
    """Return the names which the code binds, other than by an import of snippets."""
    for node in ast.walk(tree):
        match node:
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                yield node.name
            case ast.Name(ctx=ast.Store()):
                yield node.id
            case ast.ImportFrom(module=str(module)) if module.startswith("snippets."):
                yield from (alias.asname for alias in node.names if alias.asname)
            case ast.Import() | ast.ImportFrom():
                yield from (alias.asname or alias.name for alias in node.names)
