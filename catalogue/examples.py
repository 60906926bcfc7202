"""Running the examples, and recording beneath each print what it really printed.

An example is a whole `_usage` module, or a python fence in a docstring of a snippet. It
runs as its reader would run it, with pytest-examples watching `print`. All recorded
outputs are then written anew from what was printed, so that an output which nobody
printed, or one that is missing, is a difference.

`python -m catalogue.examples` updates the recorded outputs.
"""

from __future__ import annotations

import ast
import importlib
import io
import logging
import re
import sys
from collections import defaultdict
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from textwrap import indent
from typing import TYPE_CHECKING
from unittest.mock import patch

from pytest_examples import CodeExample, find_examples, run_code
from pytest_examples.config import ExamplesConfig

from catalogue import sources
from catalogue.errors import CatalogueError
from catalogue.patterns import ROOT

if TYPE_CHECKING:
    import inspect
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from types import FrameType

OUTPUT = "# >"
ADDRESS = re.compile(r"\b0x[0-9a-f]{6,}")
ALLOWED_OPTIONS = {"sep"}


@dataclass
class Source:
    """The text of one example, with blank lines before it to keep its line numbers."""

    path: Path
    name: str
    text: str

    def error(self, line: int, message: str) -> CatalogueError:
        """Return an error at a line of the file."""
        return CatalogueError(f"{self.name}:{line}: {message}")


class _Loader(SourceFileLoader):
    """Loads an example under the path of its file, and never from stale bytecode."""

    def __init__(self, source: Source) -> None:
        super().__init__("__main__", str(source.path))
        self._source = source

    def get_data(self, path: str) -> bytes:
        del path
        return self._source.text.encode()

    def path_stats(self, path: str) -> dict[str, float]:
        raise OSError(path)  # there is no bytecode to compare with


def paths(root: Path = ROOT) -> list[Path]:
    """Return every file that may hold an example."""
    return sorted((root / "snippets").rglob("*.py"))


def recorded(path: Path, root: Path = ROOT) -> str:
    """Run every example of a file; return its text with what they printed.

    A module that is no `_usage` is imported, and its docstrings are run. What raises,
    prints what no two runs print alike, or is never reached is a `CatalogueError`.
    """
    name = path.relative_to(root).as_posix()
    text = _read(root, name)
    with _importing_from(root):
        if not path.stem.endswith("_usage"):
            _import(Source(path, name, text))
        for example in reversed(list(find_examples(path))):
            padding = "\n" * example.start_line
            new = _record(Source(path, name, padding + example.source))
            inner = indent(new.removeprefix(padding), " " * example.indent)
            text = text[: example.start_index] + inner + text[example.end_index :]
        if path.stem.endswith("_usage"):
            text = _record(Source(path, name, text))
    return text


def update(root: Path = ROOT) -> list[Path]:
    """Write what the examples printed into their files; return those that changed."""
    return [
        path
        for path in paths(root)
        if sources.write(root, path.relative_to(root).as_posix(), recorded(path, root))
    ]


def _read(root: Path, name: str) -> str:
    text = sources.read(root, name)
    if "\r" in text or not text.endswith("\n"):
        message = "lines must end in LF alone, the last one too; run ruff format"
        raise CatalogueError(f"{name}:1: {message}")
    return text


def _record(source: Source) -> str:
    """Return the source with exactly the outputs that running it gives."""
    module = _parse(source)
    prints = list(_prints(source, module))
    outputs: dict[ast.Expr, list[str]] = defaultdict(list)
    for line, printed in _run(source):
        around = [one for one in prints if one.lineno <= line <= _end(one)]
        if not around:
            message = "only a call of print that stands alone can be recorded"
            raise source.error(line, message)
        outputs[max(around, key=lambda one: one.lineno)] += printed.split("\n")
    for one in prints:
        if one not in outputs and one not in _tried(module):
            raise source.error(one.lineno, "this print is never reached; call it")
    beneath = {_end(one): (one.col_offset, outputs[one]) for one in prints}
    comments = sources.comments(source.text)
    old = {one.line for one in comments if one.alone and one.text.startswith(OUTPUT)}
    lines: list[str] = []
    for number, text in enumerate(source.text.split("\n"), 1):
        if number not in old:
            lines.append(text)
        column, new = beneath.get(number, (0, []))
        lines += [f"{' ' * column}{OUTPUT} {words}".rstrip() for words in new]
    return "\n".join(lines)


def _run(source: Source) -> list[tuple[int, str]]:
    """Run the source as a main module; return the line and text of each print."""
    main = sys.modules["__main__"]
    complaints: list[CatalogueError] = []
    written = io.StringIO()
    try:
        with (
            # Altering tracebacks ends a whole test session on Python 3.11.
            patch.object(run_code, "create_example_traceback", return_value=None),
            # A reader's interpreter has no handlers of a test runner.
            patch.object(logging.root, "handlers", []),
            redirect_stdout(written),
            redirect_stderr(written),
        ):
            watched, _ = run_code.run_code(
                example=CodeExample.create(source.text, path=source.path),
                python_file=source.path,
                loader=_Loader(source),
                config=ExamplesConfig(),
                enable_print_mock=True,
                print_callback=None,
                include_print=_Watch(source, complaints),
                module_globals=None,
                call=None,
            )
    except (Exception, SystemExit) as error:
        message = f"the example raises {type(error).__name__}: {error}"
        raise source.error(_line_of(error, source.path), message) from error
    finally:
        sys.modules["__main__"] = main
    for complaint in complaints:
        raise complaint
    if words := written.getvalue().strip():
        message = f"{words[:60]!r} was written by other means; print it"
        raise source.error(1, message)
    statements = watched.print_func.statements if watched.print_func else []
    return [(one.line_no, str(one)) for one in statements]


@dataclass
class _Watch:
    """Is asked about each print, and complains of what cannot be recorded."""

    source: Source
    complaints: list[CatalogueError]

    def __call__(
        self, _: Path, caller: inspect.FrameInfo, values: Sequence[object]
    ) -> bool:
        frame: FrameType | None = caller.frame
        while frame and not self.source.path.samefile(frame.f_code.co_filename):
            frame = frame.f_back
        line = frame.f_lineno if frame else 1
        complaint = ""
        if frame is not caller.frame:
            complaint = f"{caller.filename} prints; return the value and print it here"
        elif any(_holds_set(value) for value in values):
            complaint = "a set has no order; print it sorted"
        elif any(ADDRESS.search(str(value)) for value in values):
            complaint = "an address differs from run to run; print something else"
        if complaint:
            self.complaints.append(self.source.error(line, complaint))
        return not complaint


def _holds_set(value: object) -> bool:
    if isinstance(value, dict):
        return any(_holds_set(one) for pair in value.items() for one in pair)
    if isinstance(value, list | tuple):
        return any(_holds_set(one) for one in value)
    return isinstance(value, set | frozenset)


def _line_of(error: BaseException, path: Path) -> int:
    """Return the last line of the file that the error came through."""
    line = error.lineno if isinstance(error, SyntaxError) else 1
    step = error.__traceback__
    while step:
        if step.tb_frame.f_code.co_filename == str(path):
            line = step.tb_lineno
        step = step.tb_next
    return line or 1


def _tried(module: ast.Module) -> set[ast.AST]:
    """Return what stands in a `try`: it may raise before it prints."""
    tries = [node for node in ast.walk(module) if isinstance(node, ast.Try)]
    bodies = [step for one in tries if one.handlers for step in one.body]
    return {node for step in bodies for node in ast.walk(step)}


def _prints(source: Source, module: ast.Module) -> Iterator[ast.Expr]:
    """Yield the statements that print."""
    for node in ast.walk(module):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            call = node.value
            if isinstance(call.func, ast.Name) and call.func.id == "print":
                extra = {option.arg for option in call.keywords} - ALLOWED_OPTIONS
                if extra:
                    message = f"print's option {min(map(str, extra))} is not recorded"
                    raise source.error(node.lineno, f"{message}; leave it out")
                yield node


def _parse(source: Source) -> ast.Module:
    try:
        return ast.parse(source.text)
    except SyntaxError as error:
        message = f"not readable as Python: {error.msg}"
        raise source.error(error.lineno or 1, message) from error


def _end(node: ast.Expr) -> int:
    return node.end_lineno or node.lineno


@contextmanager
def _importing_from(root: Path) -> Iterator[None]:
    """Import snippets from this tree, and not from another that was imported before."""
    foreign = root != ROOT
    if foreign:
        _forget_snippets()
    try:
        with patch.object(sys, "path", [str(root), *sys.path]):
            yield
    finally:
        if foreign:
            _forget_snippets()


def _forget_snippets() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "snippets"]:
        del sys.modules[name]


def _import(source: Source) -> None:
    name = source.name.removesuffix(".py").replace("/", ".")
    try:
        importlib.import_module(name)
    except Exception as error:
        message = f"importing it raises {type(error).__name__}: {error}"
        raise source.error(_line_of(error, source.path), message) from error


def main() -> int:
    """Update every recorded output; return 1 if an example does not run."""
    try:
        changed = update()
    except CatalogueError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    for path in changed:
        sys.stdout.write(f"{path.relative_to(ROOT).as_posix()}: outputs recorded\n")
    sys.stdout.write(f"examples: {len(paths())} files run, {len(changed)} updated\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
