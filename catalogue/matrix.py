"""What becomes of the comparison: fragments for the site, and data for machines.

`docs/matrix.yaml` is read by `catalogue.comparison`, figures come from
`catalogue.scores`, and `catalogue.matrix_html` renders them.
"""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING, Any

from catalogue import comparison as source
from catalogue import matrix_html, scores
from catalogue.comparison import SYSTEMS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from catalogue.comparison import Comparison, Entry
    from catalogue.patterns import Pattern
    from catalogue.scores import Verified

VERSION = 1
"""The version of `matrix.json`; it changes when a field changes or goes."""


def fragments(
    root: Path, patterns: Iterable[Pattern], verified: Verified
) -> dict[str, str]:
    """Return the parts of the page of the comparison, by path below the fragments.

    Raises `CatalogueError` for a fault in the file and for an unknown pattern.
    """
    compared = _read(root, patterns)
    return {
        "compare/summary.md": matrix_html.render_summary(compared, verified),
        "compare/table.md": matrix_html.render_table(compared, verified),
        "compare/method.md": matrix_html.render_method(compared),
    }


def planned(root: Path, category: str) -> list[str]:
    """Return the ids of the patterns that are planned in one of our categories."""
    ids = (entry.ours.planned for entry in source.load(root).entries)
    return sorted({id_ for id_ in ids if id_ and id_.partition("/")[0] == category})


def to_json(root: Path, patterns: Iterable[Pattern], verified: Verified) -> str:
    """Return the comparison for machines, as JSON.

    - `version`: 1; it changes when a field changes or goes.
    - `systems.template`, `systems.accent`: name, repository, commit, date.
    - `original`: what the original comparison prints about itself (title, date,
      overall, core_percent, effort_hours, categories, gaps, phases), and `errors`, the
      sentences that say how its figures contradict each other.
    - `scores`: a list; each has `category` (null for all rows) and, under `claimed`,
      `template`, `accent` and `ours`, the numbers `full`, `partial`, `of`, and the
      percentages `full_only` and `half_credit`. Only entries of kind row count.
    - `entries`: a list; each has `id`, `category`, `feature`, `kind` (row, gap, claim),
      `claim` (template, accent, priority, notes); under `template` and `accent` the
      `state` (full, partial, none, unknown), `note`, `contradiction` (more or less, if
      the claim is more or less than the code shows; else null), `evidence` (path,
      first, last, url) and `search` (null unless the state is none); under `ours` the
      `state` (proven, proven on embedded backends only, not verified, planned),
      `pattern`, `planned`, `proofs`, and `better`, the systems better than us today.
    """
    compared = _read(root, patterns)
    content = {
        "version": VERSION,
        "systems": compared.systems.model_dump(mode="json"),
        "original": {
            **compared.original.model_dump(mode="json"),
            "errors": scores.arithmetic_errors(compared),
        },
        "scores": [
            {"category": name, **_figures(entries, verified)}
            for name, entries in scores.by_category(compared)
        ],
        "entries": [
            _entry_data(compared, entry, verified) for entry in compared.entries
        ],
    }
    return json.dumps(content, ensure_ascii=False, indent=2) + "\n"


def to_csv(root: Path, patterns: Iterable[Pattern], verified: Verified) -> str:
    """Return one line per entry, as CSV (RFC 4180).

    Several values in one field are parted by spaces. A field that a spreadsheet would
    take for a formula is given an apostrophe in front.
    """
    compared = _read(root, patterns)
    rows = [_flat(_entry_data(compared, entry, verified)) for entry in compared.entries]
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]))
    writer.writeheader()
    for row in rows:
        writer.writerow({key: _inert(value) for key, value in row.items()})
    return file.getvalue()


def _read(root: Path, patterns: Iterable[Pattern]) -> Comparison:
    compared = source.load(root)
    for error in source.unknown_patterns(compared, patterns):
        raise error
    return compared


def _figures(entries: Sequence[Entry], verified: Verified) -> dict[str, Any]:
    found = {
        "claimed": scores.claimed_score(entries),
        "template": scores.code_score(entries, "template"),
        "accent": scores.code_score(entries, "accent"),
        "ours": scores.our_score(entries, verified),
    }
    return {
        name: {
            "full": score.full,
            "partial": score.partial,
            "of": score.of,
            "full_only": round(score.full_only, 1),
            "half_credit": round(score.half_credit, 1),
        }
        for name, score in found.items()
    }


def _entry_data(
    compared: Comparison, entry: Entry, verified: Verified
) -> dict[str, Any]:
    findings: dict[str, Any] = {}
    for system in SYSTEMS:
        found = entry.finding(system)
        findings[system] = {
            "state": found.state,
            "note": found.note,
            "contradiction": entry.contradiction(system),
            "evidence": [
                {
                    "path": one.path,
                    "first": one.first,
                    "last": one.last,
                    "url": one.url(compared.systems.of(system)),
                }
                for one in found.evidence
            ],
            "search": found.search,
        }
    return {
        "id": entry.id,
        "category": entry.category,
        "feature": entry.feature,
        "kind": entry.kind,
        "claim": entry.claim.model_dump(),
        **findings,
        "ours": {
            "state": scores.our_state(entry, verified),
            **entry.ours.model_dump(),
            "better": scores.better_elsewhere(entry, verified),
        },
    }


def _flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested fields as one level, `template_state`, each as text."""
    row: dict[str, str] = {}
    for key, value in data.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            row.update(_flat(value, f"{name}_"))
        elif isinstance(value, list | tuple):
            row[name] = " ".join(
                one["url"] if isinstance(one, dict) else one for one in value
            )
        else:
            row[name] = "" if value is None else str(value)
    return row


def _inert(value: str) -> str:
    """Keep a spreadsheet from taking text for a formula."""
    return f"'{value}" if value.lstrip().startswith(("=", "+", "-", "@")) else value
