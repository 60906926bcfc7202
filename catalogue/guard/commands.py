"""Kind 10: a command that README gives and that no step of CI runs."""

from __future__ import annotations

import re
import shlex
from functools import cached_property
from typing import TYPE_CHECKING, Any

from catalogue import plain_yaml
from catalogue.guard.tree import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from catalogue.guard.page import Page
    from catalogue.guard.tree import Tree

COMMAND = re.compile(r"(make|git|docker|uv|pip|\S*python3?|\.\S*/\S+) .*|\.ci/\S+")
SAID = {"echo", "printf"}
SEPARATORS = re.compile(r"&&|\|\||[;|&\n()]")
TARGET = re.compile(r"[\w./${}-]+")
ASSIGNED = re.compile(r"(?m)^([A-Z_]+)\s*[:?]?=\s*(.*)$")
RULE = re.compile(r"(?m)^([\w./${}-]+):(?!=)([^#\n]*)[^\n]*\n((?:\t[^\n]*\n?|\n)*)")


def check(tree: Tree) -> Iterator[Problem]:
    """Yield each command in README that CI does not run, and all other code in it."""
    continuous = Continuous(tree)
    for page in tree.notes:
        yield from _forms(page)
        for line, command in _commands(page):
            if not continuous.runs(command):
                message = f"no step of CI runs `{command}`; let one run it, or drop it"
                yield Problem(page.path, line, message)


def _forms(page: Page) -> Iterator[Problem]:
    """Allow fences of shell commands at the margin, and no other code or markup."""
    inside = False
    fenced: set[int] = set()
    for number, line in enumerate(page.lines, 1):
        if line.lstrip(" \t>*-+.0123456789").startswith(("```", "~~~")):
            if line not in ({"```"} if inside else {"```sh"}):
                message = "not a plain fence; write ```sh at the margin"
                yield Problem(page.path, number, message)
            inside = not inside
        elif inside:
            fenced.add(number)
        elif re.match(r"( {4}|\t)", line):
            message = "indented code; give commands in ```sh at the margin"
            yield Problem(page.path, number, message)
        elif re.search(r"</?(pre|code|kbd|samp)\b|--8<--", line):
            message = "markup that hides code; give commands in ```sh"
            yield Problem(page.path, number, message)
    for block in page.blocks:
        where = page.line(block)
        if where not in fenced:
            message = "code typed by hand; give commands in ```sh"
            yield Problem(page.path, where, message)


def _commands(page: Page) -> Iterator[tuple[int, str]]:
    inside = False
    for number, line in enumerate(page.lines, 1):
        if line.startswith("```"):
            inside = not inside
        elif inside:
            command = line.removeprefix("$ ").partition(" #")[0].strip()
            if command and not command.startswith("#"):
                yield number, command
        else:
            for words in re.findall(r"`([^`]+)`", line):
                if COMMAND.fullmatch(words):
                    yield number, words


class Continuous:
    """The commands that CI runs: the workflows' steps, and what these start in turn."""

    def __init__(self, tree: Tree) -> None:
        """Read the workflows, the scripts and the Makefile of `tree`."""
        self._tree = tree

    def runs(self, command: str) -> bool:
        """Whether a step of CI runs the command, with or without more arguments."""
        wanted = _words(command)
        return bool(wanted) and any(
            wanted == words[start : start + len(wanted)]
            for words in self.commands
            for start in range(len(words))
        )

    @cached_property
    def commands(self) -> list[list[str]]:
        """Every command that is run, as words."""
        waiting = [step for path in self._workflows for step in self._steps(path)]
        found: list[list[str]] = []
        seen: set[str] = set()
        while waiting:
            for part in SEPARATORS.split(waiting.pop().replace("\\\n", " ")):
                words = _words(part)
                if not words or words[0] in SAID:
                    continue
                found.append(words)
                for target in self._targets(words):
                    if target not in seen:
                        seen.add(target)
                        waiting.append(self._recipe(target))
        return found

    @property
    def _workflows(self) -> list[str]:
        files = self._tree.below(".github/workflows", "")
        return [path for path in files if path.endswith((".yml", ".yaml"))]

    def _steps(self, path: str) -> Iterator[str]:
        for job in self.jobs(path).values():
            steps = job.get("steps")
            for step in steps if isinstance(steps, list) else ():
                if isinstance(step, dict) and isinstance(step.get("run"), str):
                    yield step["run"]

    def jobs(self, path: str) -> dict[str, dict[str, Any]]:
        """Return the jobs of a workflow; one that is no YAML is a `CatalogueError`."""
        _, data = plain_yaml.read(self._tree.text(path), path)
        jobs = data.get("jobs") if isinstance(data, dict) else None
        found = jobs.items() if isinstance(jobs, dict) else ()
        return {name: job for name, job in found if isinstance(job, dict)}

    @cached_property
    def _makefile(self) -> str:
        text = self._tree.text("Makefile")
        for name, value in ASSIGNED.findall(text):
            text = text.replace(f"$({name})", value)
        return text

    def _targets(self, words: list[str]) -> Iterator[str]:
        """Yield what a command starts in turn: targets of make, scripts of CI."""
        if words[0] == "make":
            yield from (word for word in words[1:] if TARGET.fullmatch(word))
        elif words[0].startswith(".ci/"):
            yield words[0]

    def _recipe(self, target: str) -> str:
        if target.startswith(".ci/"):
            return self._tree.text(target)
        found: list[str] = []
        for name, needed, recipe in RULE.findall(self._makefile):
            if name == target:
                found += [f"make {one}" for one in needed.split()]
                found += [line.lstrip("\t@-+") for line in recipe.splitlines()]
        return "\n".join(found)


def _words(command: str) -> list[str]:
    """Split a command; of a program's path only the name counts."""
    try:
        words = shlex.split(command.strip(), comments=True)
    except ValueError:
        return []
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        words.pop(0)
    if words and words[0].rpartition("/")[2] in {"python", "python3"}:
        words[0] = "python"
    return words
