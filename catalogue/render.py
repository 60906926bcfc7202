"""Rendering: front matter, matrix and record become Markdown fragments and data files.

Pages include the fragments of `build/fragments/` as they include any other file. Files
for machines go to `docs/data/`. What did not change is not written again, so that a
site which is being served reloads only for a reason.
"""

from __future__ import annotations

import json
from collections import defaultdict
from typing import TYPE_CHECKING

import yaml

from catalogue import (
    bench,
    comparison,
    diagrams,
    matrix,
    matrix_html,
    notebooks,
    record,
    sources,
)
from catalogue.errors import CatalogueError
from catalogue.markup import counted, link, sentence, state, table, text
from catalogue.patterns import Pattern, discover, read_fields

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from catalogue.scores import Verified

INDEX_VERSION = 1
FRAGMENTS = "build/fragments"
DATA = "docs/data"


def render(root: Path, *, publish: bool = False) -> list[Pattern]:
    """Write every fragment and data file; return the patterns that are not verified.

    Raises `CatalogueError` for the first thing in the tree that cannot be rendered and,
    when the site is for publication, for a pattern that is not verified.
    """
    patterns = discover(root)
    verified = record.verified(record.load(root), patterns)
    unverified = [one for one in patterns if _state(one, verified) == "not verified"]
    if publish and unverified:
        names = ", ".join(pattern.id for pattern in unverified)
        raise CatalogueError(f"{record.PATH}:1: not verified: {names}; run make test")
    fragments = {
        **_pattern_fragments(patterns, verified),
        **_index_fragments(root, patterns, verified),
        **matrix.fragments(root, patterns, verified),
        **notebooks.fragments(root),
    }
    data = {
        "index.json": _index(patterns, verified),
        "matrix.json": matrix.to_json(root, patterns, verified),
        "matrix.csv": matrix.to_csv(root, patterns, verified),
        **_raw_files(patterns),
    }
    _write_folder(root, FRAGMENTS, fragments)
    _write_folder(root, DATA, data)
    sources.write(root, "build/nav.yml", _navigation(root, patterns))
    return unverified


def _pattern_fragments(patterns: list[Pattern], verified: Verified) -> dict[str, str]:
    rendered = {}
    for pattern in patterns:
        verification = verified.get(pattern.id)
        folder = f"{pattern.category}/{pattern.slug}"
        rendered[f"{folder}/card.md"] = _card(pattern, verification)
        rendered[f"{folder}/breaks.md"] = _breaks(verification)
        rendered[f"{folder}/evidence.md"] = _evidence(pattern, verified)
        if (pattern.root / pattern.diagram).exists():
            source = sources.read(pattern.root, pattern.diagram)
            try:
                rendered[f"{folder}/diagram.md"] = diagrams.to_markdown(
                    source, pattern.id
                )
            except CatalogueError as error:
                raise CatalogueError(f"{pattern.diagram}:1: {error}") from error
    return rendered


def _state(pattern: Pattern, verified: Verified) -> str:
    return record.state(verified.get(pattern.id))


def _card(pattern: Pattern, verification: record.Verification | None) -> str:
    page = pattern.front_matter
    rows = {
        "State": _summary(verification),
        "Copy": _raw_links(pattern.copied),
        "Usage needs": _raw_links(pattern.usage_needs),
        "Import": text(f"`from {pattern.module} import {', '.join(pattern.names)}`"),
        "Maturity": text(page.maturity),
        "Tags": text(", ".join(page.tags)),
        "Ends": _folded(page.symptoms),
    }
    others = [
        (Pattern(id=one.pattern, root=pattern.root), one.test)
        for one in page.composes_with
    ]
    rows["Composes with"] = "<br>".join(
        f"{link(other.front_matter.title, f'../../../{other.url}')} ({sentence(test)})"
        for other, test in others
        if (other.root / other.page).exists()
    )
    items = "\n".join(
        f"<div><dt>{name}</dt> <dd>{value}</dd></div>"
        for name, value in rows.items()
        if value
    )
    intent = f'<p class="sp-intent">{text(page.description)}</p>'
    return f'{intent}\n\n<dl class="sp-card">\n{items}\n</dl>\n'


def _raw_links(paths: list[str]) -> str:
    return "<br>".join(link(f"`{path}`", f"../../../data/{path}") for path in paths)


def _folded(sentences: list[str]) -> str:
    items = "\n".join(f"<li>{text(one)}</li>" for one in sentences)
    summary = counted(len(sentences), "symptom")
    return f"<details><summary>{summary}</summary>\n<ul>\n{items}\n</ul></details>"


def _summary(verification: record.Verification | None) -> str:
    if verification is None:
        words = state("not verified")
        return f"{words} — these files have not been run since they last changed"
    words = state(verification.state)
    counts = ", ".join(
        counted(len(run.passed), "test")
        + (f" on {record.NAMES[name]}" if name else " without a backend")
        for name, run in verification.runs.items()
    )
    return f"{words} — {text(counts)}"


def _breaks(verification: record.Verification | None) -> str:
    found: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for name, run in (verification.runs if verification else {}).items():
        for one in run.breakages:
            test = one.test.partition("[")[0]
            found[one.action, one.outcome, test].append(record.NAMES[name])
    if not found:
        return f"{state('not verified')} — the naive version has not been run.\n"
    rows = [
        (text(action), text(outcome), text(", ".join(names)), sentence(test))
        for (action, outcome, test), names in found.items()
    ]
    columns = ("What was done", "What happened", "Where", "Asserted by the test")
    return table("What happened to the naive version", columns, rows)


def _evidence(pattern: Pattern, verified: Verified) -> str:
    parts = [f"<p>{_summary(None)}</p>\n"]
    if verification := verified.get(pattern.id):
        parts = [_runs(verification), differences(verification), _costs(verification)]
    if results := bench.load_results(pattern.root, pattern.id):
        parts.append(bench.to_markdown(results))
    compared = comparison.load(pattern.root)
    parts.append(matrix_html.render_rows_for(compared, pattern.id, verified))
    return "\n".join(filter(None, parts))


def _runs(verification: record.Verification) -> str:
    rows = [
        (
            text(record.NAMES[name]),
            str(len(run.passed)),
            text(", ".join(f"{key} {value}" for key, value in run.versions.items())),
            text(f"{run.date.partition('T')[0]}, `{run.commit}`"),
        )
        for name, run in verification.runs.items()
    ]
    rows += [
        (text(record.NAMES[name]), "did not run", "", "")
        for name in verification.missing
    ]
    columns = ("Backend", "Tests passed", "Versions", "When, at commit")
    return table("Tests of exactly these files", columns, rows)


def differences(verification: record.Verification) -> str:
    """Return the table of what the backends that ran were seen to do differently."""
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for name, run in verification.runs.items():
        for one in run.differences:
            found[one.title][name] = one.behaviour
    caption = "Where the backends differ"
    return _by_backend(caption, "What", dict(sorted(found.items())), "not compared")


def _costs(verification: record.Verification) -> str:
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for name, run in verification.runs.items():
        for cost in run.costs:
            counts = ", ".join(
                f"{count} {_unit(unit, count)}" for unit, count in cost.counts.items()
            )
            found[cost.operation][name] = counts
    caption = "What it costs, as counted by the tests"
    return _by_backend(caption, "Operation", found, "not counted")


def _by_backend(
    caption: str, head: str, found: Mapping[str, Mapping[str, str]], absent: str
) -> str:
    """Return a table with a column per backend; nothing if there is no row."""
    backends = sorted({name for row in found.values() for name in row})
    rows = [
        (text(what), *(text(row.get(name, absent)) for name in backends))
        for what, row in found.items()
    ]
    columns = (head, *(record.NAMES[name] for name in backends))
    return table(caption, columns, rows) if rows else ""


def _unit(unit: str, count: int) -> str:
    words = unit.replace("_", " ")
    return words.removesuffix("s") if count == 1 else words


def _index_fragments(
    root: Path, patterns: list[Pattern], verified: Verified
) -> dict[str, str]:
    categories = sorted({pattern.category for pattern in patterns})
    rendered = {"trust.md": _trust(patterns, verified)}
    lists, symptoms = [], []
    for category in categories:
        own = [pattern for pattern in patterns if pattern.category == category]
        planned = matrix.planned(root, category)
        title = _title(root, f"docs/patterns/{category}/index.md")
        rendered[f"categories/{category}.md"] = _category(own, planned, verified, "")
        lists.append(
            f"## [{title}]({category}/index.md)\n\n"
            + _category(own, planned, verified, f"{category}/")
        )
        symptoms.append(f"## {title}\n\n{_symptoms(own)}")
        rendered[f"reference/{category}.md"] = "\n".join(
            f"::: {pattern.module}\n" for pattern in own
        )
    rendered["patterns.md"] = "\n".join(lists)
    rendered["symptoms.md"] = "\n".join(symptoms)
    return rendered


def _category(
    patterns: list[Pattern], planned: list[str], verified: Verified, folder: str
) -> str:
    entries = [
        f"[{pattern.front_matter.title}]({folder}{pattern.slug}.md)\n"
        f":   {text(pattern.front_matter.description)}\n"
        f"    {state(_state(pattern, verified))}\n"
        for pattern in patterns
    ]
    if planned:
        names = ", ".join(id_.partition("/")[2].replace("_", " ") for id_ in planned)
        entries.append(f"Planned\n:   {text(names)}\n")
    return '<div class="sp-index" markdown>\n\n' + "\n".join(entries) + "\n</div>\n"


def _symptoms(patterns: list[Pattern]) -> str:
    lines = [
        f"- {text(symptom)}<br>[{pattern.front_matter.title}]"
        f"(../patterns/{pattern.category}/{pattern.slug}.md)"
        for pattern in patterns
        for symptom in pattern.front_matter.symptoms
    ]
    return '<div class="sp-symptoms" markdown>\n\n' + "\n".join(lines) + "\n\n</div>\n"


def _trust(patterns: list[Pattern], verified: Verified) -> str:
    valid = [found for found in verified.values() if found.passed]
    runs = [(name, run) for found in valid for name, run in found.runs.items()]
    if not runs:
        return f'<p class="sp-trust">{state("not verified")}</p>\n'
    tests = sum(len(run.passed) for _, run in runs)
    backends = ", ".join(
        words
        for name, words in record.NAMES.items()
        if name and any(name == one for one, _ in runs)
    )
    newest = max((run for _, run in runs), key=lambda run: run.date)
    words = (
        f"{len(valid)} of {len(patterns)} patterns verified by {tests} tests "
        f"on {backends}, "
        f"at commit `{newest.commit}` on {newest.date.partition('T')[0]}."
    )
    return f'<p class="sp-trust">{text(words)}</p>\n'


def _index(patterns: list[Pattern], verified: Verified) -> str:
    entries = []
    for pattern in patterns:
        verification = verified.get(pattern.id)
        page = pattern.front_matter
        entries.append(
            {
                "id": pattern.id,
                "url": pattern.url,
                **page.model_dump(),
                "module": pattern.module,
                "copy": pattern.copied,
                "files": record.hashes(pattern),
                "state": _state(pattern, verified),
                "runs": {
                    name: run.model_dump()
                    for name, run in (verification.runs if verification else {}).items()
                },
            }
        )
    return json.dumps({"version": INDEX_VERSION, "patterns": entries}, indent=2) + "\n"


def _raw_files(patterns: Iterable[Pattern]) -> dict[str, str]:
    """Return the files a reader may download, byte for byte."""
    return {
        path: sources.read(pattern.root, path)
        for pattern in patterns
        for path in pattern.files
    }


def _navigation(root: Path, patterns: list[Pattern]) -> str:
    by_category: dict[str, list[str]] = defaultdict(list)
    for pattern in patterns:
        by_category[pattern.category].append(pattern.page.removeprefix("docs/"))
    categories = [
        {
            _title(root, f"docs/patterns/{category}/index.md"): [
                f"patterns/{category}/index.md",
                *pages,
            ]
        }
        for category, pages in by_category.items()
    ]
    navigation = [
        {"Home": "index.md"},
        {"Start here": _section(root, "start")},
        {"Patterns": ["patterns/index.md", *categories]},
        {"Compare": _section(root, "compare")},
        {"Reference": _section(root, "reference")},
    ]
    return yaml.safe_dump({"nav": navigation}, sort_keys=False, allow_unicode=True)


def _section(root: Path, folder: str) -> list[str]:
    """Return the pages of a folder, its index first."""
    names = {path.name for path in (root / "docs" / folder).glob("*.md")}
    index = {"index.md"} & names
    return [f"{folder}/{name}" for name in (*index, *sorted(names - index))]


def _title(root: Path, page: str) -> str:
    """Return the title in a page's front matter."""
    _, fields = read_fields(root, page)
    if "title" not in fields:
        raise CatalogueError(f"{page}:1: the front matter must have a title")
    return str(fields["title"])


def _write_folder(root: Path, folder: str, files: dict[str, str]) -> None:
    """Make `folder` hold exactly `files`."""
    for name, content in files.items():
        sources.write(root, f"{folder}/{name}", content)
    wanted = {root / folder / name for name in files}
    for path in sorted((root / folder).rglob("*"), reverse=True):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()
        elif path.is_file() and path not in wanted:
            path.unlink()
