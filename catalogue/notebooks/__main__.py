"""Execute the notebooks in place, so that what they store is what they print.

What differs from run to run without meaning (times, the interpreter's version, the
frames of a traceback) is not stored: a second run leaves every byte as it is.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError
from nbformat import NotebookNode

from catalogue import sources
from catalogue.errors import CatalogueError
from catalogue.notebooks import discover, read
from catalogue.patterns import ROOT

CELL_SECONDS = 60

# nbformat says nothing of its types.
_reads: Callable[[str, int], NotebookNode] = nbformat.reads
_writes: Callable[[NotebookNode], str] = nbformat.writes

METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def execute(root: Path, path: Path) -> bool:
    """Execute one notebook in a kernel of its own and say whether its file changed.

    Modules are imported from `root`. A cell that raises without being tagged for it, or
    takes longer than a minute, raises `CatalogueError`, and the file stays as it was.
    """
    lines = [cell.line for cell in read(root, path).cells]
    name = path.relative_to(root).as_posix()
    notebook = _reads(sources.read(root, name), 4)
    line = 1

    def begin(*, cell_index: int, **_: object) -> None:
        nonlocal line
        line = lines[cell_index]

    client = NotebookClient(
        notebook,
        timeout=CELL_SECONDS,
        kernel_name="python3",
        record_timing=False,
        on_cell_execute=begin,
        coalesce_streams=True,
        # It warns of a socket that is open on the loopback alone.
        extra_arguments=["--IPKernelApp.log_level=ERROR"],
        resources={"metadata": {"path": str(path.parent)}},
    )
    try:
        client.execute(env=os.environ | {"PYTHONPATH": str(root)})
    except CellExecutionError as error:
        raise _failed(f"{name}:{line}", f"{error.ename}: {error.evalue}") from error
    except CellTimeoutError as error:
        message = f"the cell takes longer than {CELL_SECONDS} seconds"
        raise _failed(f"{name}:{line}", message) from error
    return sources.write(root, name, _stable(_writes(notebook)))


def _failed(place: str, message: str) -> CatalogueError:
    reason = message.partition("\n")[0]
    return CatalogueError(f"{place}: {reason}")


def _stable(text: str) -> str:
    notebook = json.loads(text)
    notebook["metadata"] = METADATA
    for cell in notebook["cells"]:
        tags = cell["metadata"].get("tags")
        cell["metadata"] = {"tags": tags} if tags else {}
        for output in cell.get("outputs", ()):
            if output["output_type"] == "error":
                output["traceback"] = [f"{output['ename']}: {output['evalue']}"]
    return json.dumps(notebook, ensure_ascii=False, indent=1, sort_keys=True) + "\n"


def main(root: Path = ROOT) -> int:
    """Execute every notebook; return 1 if one of them cannot be executed."""
    failed = 0
    for path in discover(root):
        try:
            state = "changed" if execute(root, path) else "unchanged"
        except CatalogueError as error:
            failed = 1
            sys.stderr.write(f"{error}\n")
        else:
            sys.stdout.write(f"{path.relative_to(root).as_posix()}: {state}\n")
    return failed


if __name__ == "__main__":
    sys.exit(main())
