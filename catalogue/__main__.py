"""The command line: `python -m catalogue check | render | prove | serve | list | show`.

Exit status 0 when all is well, 1 when something in the tree is wrong (one problem a
line on stderr), 2 when the command itself is.
"""

from __future__ import annotations

import argparse
import gc
import json
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

from catalogue import guard, record
from catalogue.errors import CatalogueError
from catalogue.patterns import ROOT, discover, find
from catalogue.render import render
from catalogue.serve import require_free, serve

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    Command = Callable[[Path, argparse.Namespace], int]


HIGHEST_PORT = 65535


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Run one command on the tree at `root` and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m catalogue", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")

    def add(name: str, command: Command, words: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=words, description=words)
        added.set_defaults(command=command)
        return added

    add("check", _check, "look for drift between docs and code")
    option = add("render", _render, "write the fragments and data files of the site")
    option.add_argument(
        "--publish", action="store_true", help="refuse a pattern that is not verified"
    )
    option = add("prove", _prove, "test what has no valid record, on embedded backends")
    option.add_argument("--category", default="", help="only this one's patterns")
    option = add("serve", _serve, "prove, render and serve the site with live reload")
    option.add_argument("--port", type=_port, default=8000)
    option.set_defaults(category="")
    option = add("list", _list, "list the patterns and their states")
    option.add_argument("--json", action="store_true", help="for machines")
    option = add("show", _show, "show all that is known of one pattern, as JSON")
    option.add_argument("id", help="such as caching/cached")

    options = parser.parse_args(arguments)
    command: Command = options.command
    try:
        return command(root, options)
    except (CatalogueError, OSError) as error:
        sys.stderr.write(f"{CatalogueError.of(error, root)}\n")
        return 1


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) <= HIGHEST_PORT:
        raise argparse.ArgumentTypeError(
            f"a port is a number from 1 to {HIGHEST_PORT}, not {text!r}"
        )
    return int(text)


def _check(root: Path, _: argparse.Namespace) -> int:
    problems = guard.check(root)
    for problem in problems:
        sys.stderr.write(f"{problem}\n")
    count = len(discover(root))
    sys.stdout.write(f"check: {len(problems)} problems in {count} patterns\n")
    return 1 if problems else 0


def _render(root: Path, options: argparse.Namespace) -> int:
    unverified = render(root, publish=options.publish)
    words = f"render: {len(discover(root))} patterns, {len(unverified)} not verified"
    sys.stdout.write(words + "\n")
    return 0


def _prove(root: Path, options: argparse.Namespace) -> int:
    patterns = discover(root)
    if options.category:
        categories = {one.category for one in patterns}
        if options.category not in categories:
            known = ", ".join(sorted(categories)) or "none"
            message = f"there is no category {options.category!r}; there are: {known}"
            sys.stderr.write(f"{message}\n")
            return 2
        patterns = [one for one in patterns if one.category == options.category]
    waiting = record.unproven(record.load(root), patterns)
    tests = [test for pattern in waiting for test in pattern.tests]
    of = f"{len(patterns)} patterns{options.category and f' of {options.category}'}"
    sys.stdout.write(f"prove: {len(waiting)} of {of} have no valid record\n")
    sys.stdout.flush()
    if not tests:
        return 0
    command = [sys.executable, "-m", "pytest", "--quiet", *tests]
    return 1 if subprocess.run(command, cwd=root, check=False).returncode else 0


def _serve(root: Path, options: argparse.Namespace) -> int:
    require_free(options.port)  # before the tests, which take minutes
    if status := _prove(root, options):
        return status
    return serve(root, options.port)


def _list(root: Path, options: argparse.Namespace) -> int:
    known = record.load(root)
    found = [
        {
            "id": pattern.id,
            "title": pattern.front_matter.title,
            "state": record.state_of(known, pattern),
        }
        for pattern in discover(root)
    ]
    if options.json:
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
    else:
        for entry in found:
            sys.stdout.write(f"{entry['id']:32} {entry['state']:34} {entry['title']}\n")
    return 0


def _show(root: Path, options: argparse.Namespace) -> int:
    try:
        pattern = find(options.id, root)
    except CatalogueError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    verification = record.load(root).valid(pattern)
    shown = {
        "id": pattern.id,
        **pattern.front_matter.model_dump(),
        "url": pattern.url,
        "copy": pattern.copied,
        "files": record.hashes(pattern),
        "state": record.state(verification),
        "verification": verification.model_dump() if verification else None,
    }
    sys.stdout.write(json.dumps(shown, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    # Such as `head`: when the reader of the output has left, there is nobody to tell.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    gc.set_threshold(200_000)  # else half the time of the guard goes into looking again
    sys.exit(main())
