"""The comparison says what was read and run, and its figures cannot be typed."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import markdown
import pytest
import yaml
from bs4 import BeautifulSoup, Tag

from catalogue import comparison, matrix, matrix_html, plain_yaml, record, scores
from catalogue.errors import CatalogueError
from catalogue.patterns import ROOT, Pattern, discover

if TYPE_CHECKING:
    from pathlib import Path

    from catalogue.comparison import SystemName

SOURCE = "docs/matrix.yaml"
PATTERN = "caching/cached"
TEST = "tests/caching/test_cached.py"
PROOF = f"{TEST}::test_a_hit_is_one_round_trip"
PLANNED = "    ours: {planned: caching/cached}"
LINKED = f"    ours: {{pattern: {PATTERN}, proofs: [{PROOF}]}}"

# Published with the original data, and typed here to stand against what is computed.
# Per category: rows; claims complete, partial; the template's code full, partial;
# Accent-Voice2's full, partial, none; rows with a claim that its code contradicts, with
# one about the template, with one about Accent-Voice2.
PUBLISHED = {
    "Architecture": (3, 3, 0, 1, 2, 1, 2, 0, 2, 2, 0),
    "Settings & Configuration": (4, 4, 0, 3, 1, 2, 2, 0, 1, 1, 0),
    "Middleware": (9, 9, 0, 3, 6, 1, 4, 4, 8, 6, 4),
    "Exception Handling": (4, 4, 0, 1, 3, 1, 1, 1, 3, 3, 1),
    "Database": (6, 3, 3, 4, 2, 3, 1, 2, 3, 1, 2),
    "Observability": (5, 5, 0, 1, 4, 0, 1, 4, 5, 4, 4),
    "Messaging": (4, 3, 1, 1, 3, 0, 2, 2, 3, 2, 2),
    "Caching": (3, 1, 2, 0, 3, 0, 2, 1, 3, 1, 3),
    "Authentication": (4, 4, 0, 1, 3, 3, 1, 0, 3, 3, 0),
    "Real-time": (4, 4, 0, 0, 4, 0, 3, 1, 4, 4, 1),
    "Service Discovery": (3, 3, 0, 1, 2, 0, 3, 0, 2, 2, 0),
    "Background Tasks": (3, 3, 0, 2, 1, 0, 1, 2, 3, 1, 2),
    "Code Quality": (5, 5, 0, 3, 2, 3, 2, 0, 2, 2, 0),
    "Deployment": (3, 3, 0, 0, 3, 2, 1, 0, 3, 3, 0),
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree with the real comparison, all of it planned, and one pattern."""
    files = {
        SOURCE: all_planned(),
        "snippets/caching/cached.py": '"""A cache."""\n',
        TEST: "def test_a_hit_is_one_round_trip() -> None: ...\n",
    }
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text, "utf-8")
    return tmp_path


@cache
def all_planned() -> str:
    """Return the real file as it was before any entry was answered."""
    text = (ROOT / SOURCE).read_text("utf-8")
    root, _ = plain_yaml.read(text)
    assert isinstance(root, yaml.MappingNode)
    entries = next(value for key, value in root.value if key.value == "entries")
    for one in reversed(entries.value):
        key, ours = next(pair for pair in one.value if pair[0].value == "ours")
        field, id_ = (node.value for node in ours.value[0])
        if field == "pattern":
            start, end = key.end_mark.index, ours.end_mark.index
            end = start + len(text[start:end].rstrip())
            text = f"{text[:start]}: {{planned: {id_}}}{text[end:]}"
    return text


@pytest.fixture
def compared(tree: Path) -> comparison.Comparison:
    """The comparison with no entry answered yet."""
    return comparison.load(tree)


def edit(tree: Path, old: str, new: str, *, after: str = "") -> int:
    """Replace the first `old` (after some text); return the line on which it stood."""
    text = (tree / SOURCE).read_text("utf-8")
    place = text.index(old, text.index(after))
    text = text[:place] + new + text[place + len(old) :]
    (tree / SOURCE).write_text(text, "utf-8")
    return text.count("\n", 0, place) + 1


def entry(compared: comparison.Comparison, id_: str) -> comparison.Entry:
    """Return one entry."""
    return next(one for one in compared.entries if one.id == id_)


def run(passed: list[str], failed: list[str]) -> record.Run:
    """Return what a session on one backend found."""
    return record.Run(
        passed=passed,
        failed=failed,
        costs=[],
        breakages=[],
        differences=[],
        versions={},
        commit="0" * 12,
        date="2026-11-22T00:00:00+00:00",
    )


def verification(**runs: tuple[list[str], list[str]]) -> record.Verification:
    """Return what the record knows, from passed and failed tests per backend."""
    return record.Verification(
        files={}, runs={name: run(*tests) for name, tests in runs.items()}
    )


# What is computed agrees with what was published.


def test_there_are_sixty_rows_and_five_each_of_gaps_and_claims_without_a_row(
    compared: comparison.Comparison,
) -> None:
    kinds = Counter(one.kind for one in compared.entries)
    assert kinds == {"row": 60, "gap": 5, "claim": 5}
    assert len(comparison.ENTRY_IDS) == 70


@pytest.mark.parametrize("category", PUBLISHED)
def test_a_category_adds_up_to_its_published_figures(
    compared: comparison.Comparison, category: str
) -> None:
    entries = compared.categories[category]
    claimed = scores.claimed_score(entries)
    template = scores.code_score(entries, "template")
    accent = scores.code_score(entries, "accent")
    none = sum(one.accent.state == "none" for one in entries)
    wrong = {
        system: [one for one in entries if one.contradiction(system)]
        for system in comparison.SYSTEMS
    }
    either = [one for one in entries if one in wrong["template"] + wrong["accent"]]
    assert PUBLISHED[category] == (
        len(entries),
        *(claimed.full, claimed.partial, template.full, template.partial),
        *(accent.full, accent.partial, none),
        *(len(either), len(wrong["template"]), len(wrong["accent"])),
    )


def test_all_rows_add_up_to_the_published_figures(
    compared: comparison.Comparison,
) -> None:
    rows = compared.rows
    assert scores.claimed_score(rows) == scores.Score(54, 6, 60)
    assert scores.code_score(rows, "template") == scores.Score(21, 39, 60)
    assert scores.code_score(rows, "accent") == scores.Score(16, 26, 60)
    assert sum(one.accent.state == "none" for one in rows) == 17
    assert sum(one.accent.state == "unknown" for one in rows) == 1
    assert scores.contradictions(rows, "template") == {"more": 34, "less": 1}
    assert scores.contradictions(rows, "accent") == {"more": 19}


@pytest.mark.parametrize(
    ("score", "full_only", "half_credit"),
    [
        (scores.Score(54, 6, 60), "90.0", "95.0"),
        (scores.Score(21, 39, 60), "35.0", "67.5"),
        (scores.Score(16, 26, 60), "26.7", "48.3"),
    ],
)
def test_percentages_are_the_published_ones(
    score: scores.Score, full_only: str, half_credit: str
) -> None:
    assert f"{score.full_only:.1f}" == full_only
    assert f"{score.half_credit:.1f}" == half_credit


def test_all_entries_add_up_to_the_published_figures(
    compared: comparison.Comparison,
) -> None:
    entries = compared.entries
    claims = Counter(one.claim.template for one in entries)
    wrong = {
        system: {one.id for one in entries if one.contradiction(system)}
        for system in comparison.SYSTEMS
    }
    assert (claims["complete"], claims["missing"]) == (59, 5)
    assert scores.code_score(entries, "template") == scores.Score(23, 44, 70)
    assert scores.code_score(entries, "accent") == scores.Score(17, 30, 70)
    assert (len(wrong["template"]), len(wrong["accent"])) == (40, 23)
    assert len(wrong["template"] | wrong["accent"]) == 52


@pytest.mark.parametrize(
    ("id_", "system", "expected"),
    [
        ("architecture-layering", "template", "more"),
        ("database-generic-repository", "template", "less"),
        ("caching-decorators", "template", None),
        ("caching-decorators", "accent", "more"),
        ("middleware-request-id", "accent", "more"),
        ("settings-pydantic", "accent", None),
        ("exceptions-no-leakage", "accent", None),
        ("reliability-circuit-breaker", "accent", None),
        ("graphql-dataloader", "template", "less"),
        ("graphql-federation", "template", None),
    ],
)
def test_a_claim_is_held_against_the_code(
    compared: comparison.Comparison,
    id_: str,
    system: SystemName,
    expected: str | None,
) -> None:
    assert entry(compared, id_).contradiction(system) == expected


FINDINGS = {
    "82 of 88 features. The matrix has 60 rows, 54 complete and 6 partial": (
        "complete: 82, of: 88",
        "complete: 54, of: 60",
    ),
    "93.2%). The rows give 90.0% without credit for partial rows and 95.0% with half": (
        "percent: 93}",
        "percent: 90}",
    ),
    "Caching is scored 50% for 1 complete and 2 partial rows, where half credit "
    "gives 66.7%. Half credit is the rule of Database (75%) and Messaging (88%)": (
        "of: 3, percent: 50",
        "of: 3, percent: 67",
    ),
    "80% of the core patterns are implemented; its table and its footer say 93%": (
        "core_percent: 80",
        "core_percent: 93",
    ),
    "10 to 12 hours; the 2 phases that hold them add up to 8 to 12": (
        "effort_hours: [10, 12]",
        "effort_hours: [8, 12]",
    ),
    "Cache decorators are of medium priority in the matrix and of high priority": (
        'Decorators", priority: high',
        'Decorators", priority: medium',
    ),
    "queues are partial, of medium priority, in the matrix, but in neither": (
        "[caching-decorators]",
        "[caching-decorators, messaging-dead-letter]",
    ),
    "GraphQL is complete in the matrix and also gap 5.": (
        "entries: [realtime-graphql, ",
        "entries: [",
    ),
    "count 0 features as missing; its list of gaps has 5 that have no row": (
        "missing: 0",
        "missing: 5",
    ),
}


def test_the_original_contradicts_itself_in_eight_ways(
    compared: comparison.Comparison,
) -> None:
    found = scores.arithmetic_errors(compared)
    assert len(found) == 8
    assert all(any(words in one for one in found) for words in FINDINGS)


@pytest.mark.parametrize("words", FINDINGS)
def test_a_finding_goes_when_the_original_is_mended(tree: Path, words: str) -> None:
    edit(tree, *FINDINGS[words])
    found = scores.arithmetic_errors(comparison.load(tree))
    assert not any(words in one for one in found)


def test_a_changed_state_changes_the_printed_score(tree: Path) -> None:
    before = matrix.fragments(tree, [], {})["compare/summary.md"]
    edit(tree, "state: full", "state: partial", after="architecture-feature-structure")
    after = matrix.fragments(tree, [], {})["compare/summary.md"]
    assert "what 21 of 60 rows say" in before
    assert "35.0%" in before
    assert "what 20 of 60 rows say" in after
    assert "33.3%" in after


# The file is refused when it is not what it must be.

FIRST = "- id: architecture-feature-structure"
EVIDENCE = '{path: "example_service/app/router.py", lines: "13-35"}'
PATH = "example_service/app/router.py"


class Bad(NamedTuple):
    """An edit that spoils the file: what is said of it, and how many lines further."""

    old: str
    new: str
    says: str
    offset: int | None = 0
    after: str = FIRST
    whole: bool = False  # whether the fault shows only in a file with all the entries


BAD = {
    "a score is typed": Bad(
        "    kind: row", "    kind: row\n    score: 100%", "Extra inputs", 1
    ),
    "a conflict is typed": Bad(
        "    kind: row", "    kind: row\n    conflict: true", "Extra inputs", 1
    ),
    "a state of ours is typed": Bad(
        "ours: {", "ours: {state: proven, ", "Extra inputs"
    ),
    "a total is typed": Bad(
        "  title: ", "  rows: 60\n  title: ", "Extra inputs", after="original:\n"
    ),
    "a kind is unknown": Bad("kind: row", "kind: extra", "'row', 'gap' or 'claim'"),
    "a state is unknown": Bad("state: full", "state: proven", "'full', 'partial'"),
    "a claim is unknown": Bad("template: complete", "template: done", "'complete'"),
    "a count is text": Bad(
        "percent: 93", 'percent: "93"', "valid integer", after="original:\n"
    ),
    "a note is missing": Bad(
        '      note: "One', '      noted: "One', "template.note: Field required", -2
    ),
    "an id is given twice": Bad(
        "id: architecture-layering", "id: architecture-cli", "given twice"
    ),
    "an id is foreign": Bad(
        "id: architecture-layering",
        "id: architecture-onion",
        "no entry of the original",
    ),
    "a key is given twice": Bad(
        "    kind: row", "    kind: row\n    kind: row", "'kind' is given twice", 1
    ),
    "an alias is used": Bad(
        EVIDENCE, f"&one {EVIDENCE}\n        - *one", "aliases are not read", 1
    ),
    "a tag is used": Bad("state: full", "state: !!python/name:os.system", "plain YAML"),
    "the YAML is broken": Bad("kind: row", "kind: [row", "plain YAML", None),
    "a range is reversed": Bad('"13-35"', '"35-13"', "no range of lines"),
    "a range starts at zero": Bad('"13-35"', '"0-35"', "no range of lines"),
    "a range is no range": Bad('"13-35"', '"13-35#"', "no range of lines"),
    "a path is a script": Bad(PATH, "javascript:alert(1)", "no plain path"),
    "a path leads upwards": Bad(PATH, "../../other/repository", "no plain path"),
    "a path is absolute": Bad(PATH, "/etc/passwd", "no plain path"),
    "a repository is an address": Bad(
        "ryanwclark1/fastapi-template", "evil.example/x?", "match pattern", after="#"
    ),
    "a commit is short": Bad("4874ef79d4d8", "4874", "match pattern", after="#"),
    "a date is none": Bad("2025-12-11", "2025-13-11", "valid date", after="#"),
    "a note is long": Bad('note: "', 'note: "' + "word " * 25, "at most 25"),
    "a note has two lines": Bad('note: "', 'note: "a\\nb', "match pattern"),
    "none has evidence": Bad("state: full", "state: none", "state none needs", -1),
    "full has a search": Bad(
        "      state: full", "      search: x\n      state: full", "no search", -1
    ),
    "a plan has proofs": Bad(
        "ours: {", f"ours: {{proofs: [{PROOF}], ", "a planned one has none"
    ),
    "a pattern has no proof": Bad("{planned:", "{pattern:", "a pattern needs proofs"),
    "a pattern is also planned": Bad(
        "ours: {", f"ours: {{pattern: {PATTERN}, ", "name either"
    ),
    "a proof is a whole file": Bad(
        "ours: {", f"ours: {{proofs: [{TEST}], ", "match pattern"
    ),
    "a pattern is elsewhere": Bad("{planned: ", "{planned: ../", "match pattern"),
    "a row is of another kind": Bad(
        "kind: row", "kind: claim", "59 entries are of kind row", None, whole=True
    ),
    "a row is in another category": Bad(
        '"Architecture"', '"Middleware"', "Architecture has 2 rows", None, whole=True
    ),
    "a row's category is invented": Bad(
        '"Architecture"', '"Onions"', "'Onions' of rows", None, whole=True
    ),
    "a gap names no entry": Bad(
        "[caching-decorators]",
        "[caching-decorator]",
        "gap 2 names",
        after="gaps:",
        whole=True,
    ),
    "a phase names no gap": Bad(
        "gaps: [1, 2]", "gaps: [1, 7]", "gap 7", after="#", whole=True
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_the_file_is_refused_with_its_line_when(tree: Path, name: str) -> None:
    bad = BAD[name]
    if not bad.whole:
        text = (tree / SOURCE).read_text("utf-8")
        beginning = "  - id: ".join(text.split("  - id: ")[:4])
        (tree / SOURCE).write_text(beginning, "utf-8")
    line = edit(tree, bad.old, bad.new, after=bad.after)
    message = refusal(tree)
    assert bad.says in message
    if bad.offset is not None:
        assert message.startswith(f"{SOURCE}:{line + bad.offset}: ")


def refusal(tree: Path) -> str:
    """Return the one line with which the file is refused."""
    with pytest.raises(CatalogueError) as caught:
        comparison.load(tree)
    message = str(caught.value)
    assert re.fullmatch(r"docs/matrix\.yaml:[1-9]\d*: .+", message)
    return message


def test_every_entry_of_the_original_is_required(tree: Path) -> None:
    whole = (tree / SOURCE).read_text("utf-8")
    head, _, body = whole.partition("\nentries:\n")
    entries = re.split(r"(?m)^(?=  - id: )", body)[1:]
    assert len(entries) == 70
    for index in (0, 23, 34, 64, 69):
        kept = "".join(entries[:index] + entries[index + 1 :])
        (tree / SOURCE).write_text(f"{head}\nentries:\n{kept}", "utf-8")
        id_ = entries[index].split()[2]
        assert refusal(tree).endswith(f"are missing, restore: {id_}")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "the file is empty"),
        (b"- one\n", "valid dictionary"),
        (b"\xff\xfe\xfa", "not plain YAML"),
        (b"a: \x00", "not plain YAML"),
        (b"[" * 10_000, "not plain YAML"),
        (b"a: 2025-99-99", "not plain YAML"),
        (b"#" * 1_000_001, "above 1,000,000 bytes"),
    ],
    ids=["empty", "list", "binary", "null", "deep", "date", "large"],
)
def test_a_file_that_is_no_comparison_is_refused(
    tree: Path, content: bytes, says: str
) -> None:
    (tree / SOURCE).write_bytes(content)
    assert says in refusal(tree)


def test_a_missing_file_is_named(tree: Path) -> None:
    (tree / SOURCE).unlink()
    assert refusal(tree) == f"{SOURCE}:1: the file is missing; restore it"


# What it says of our patterns is held against the tree and the record.


def complaints(tree: Path, known: record.Record) -> list[str]:
    """Return the problems, one a line."""
    compared = comparison.load(tree)
    found = comparison.problems(compared, discover(tree), verified(tree, known))
    return [str(error) for error in found]


def verified(tree: Path, known: record.Record) -> dict[str, record.Verification]:
    """Return what is known of the tree's patterns as they are."""
    return record.verified(known, discover(tree))


def recorded(tree: Path, **runs: tuple[list[str], list[str]]) -> record.Record:
    """Return a record about exactly the bytes of the tree's pattern."""
    known = verification(**runs)
    files = record.hashes(Pattern(PATTERN, tree))
    whole = known.model_copy(update={"files": files})
    return record.Record(patterns={PATTERN: whole})


def test_a_planned_pattern_that_exists_is_to_be_linked(tree: Path) -> None:
    line = edit(tree, PLANNED, PLANNED)
    (found,) = complaints(tree, record.Record())
    assert found.startswith(f"{SOURCE}:{line}: caching-decorators: ")
    assert "'caching/cached' exists; link it" in found


def test_a_linked_pattern_with_its_test_is_in_order(tree: Path) -> None:
    edit(tree, PLANNED, LINKED)
    assert complaints(tree, record.Record()) == []
    assert complaints(tree, recorded(tree, sqlite=([PROOF], []))) == []


def test_an_unknown_pattern_is_named_and_not_rendered(tree: Path) -> None:
    line = edit(tree, PLANNED, LINKED.replace("cached,", "cashed,"))
    found = complaints(tree, record.Record())
    assert f"{SOURCE}:{line}: caching-decorators: there is no pattern" in found[0]
    for render in (matrix.fragments, matrix.to_json, matrix.to_csv):
        with pytest.raises(CatalogueError, match="no pattern 'caching/cashed'"):
            render(tree, discover(tree), {})


@pytest.mark.parametrize(
    "proof",
    [
        f"{TEST}::test_a_hit_is_free",
        "tests/caching/test_codec.py::test_a_hit_is_one_round_trip",
    ],
)
def test_a_proof_must_be_a_test_of_its_pattern(tree: Path, proof: str) -> None:
    (tree / "tests/caching/test_codec.py").write_text(
        "def test_a_hit_is_one_round_trip() -> None: ...\n"
    )
    line = edit(tree, PLANNED, LINKED.replace(PROOF, proof))
    (found,) = complaints(tree, record.Record())
    assert found.startswith(f"{SOURCE}:{line}: caching-decorators: {proof} is no test")


@pytest.mark.parametrize(
    "runs",
    [
        {"fakeredis": ([f"{TEST}::test_another"], [])},
        {"fakeredis": ([], [PROOF])},
        {"fakeredis": ([PROOF], []), "redis": ([], [PROOF])},
        {"fakeredis": ([f"{PROOF}[a]"], [f"{PROOF}[b]"])},
    ],
    ids=["did not run", "failed", "failed on one", "failed for one parameter"],
)
def test_a_proof_must_have_passed_wherever_it_ran(
    tree: Path, runs: dict[str, tuple[list[str], list[str]]]
) -> None:
    edit(tree, PLANNED, LINKED)
    (found,) = complaints(tree, recorded(tree, **runs))
    assert "did not run or did not pass" in found


# Our state comes from the record.

STATES: dict[str, list[dict[str, tuple[list[str], list[str]]]]] = {
    "not verified": [
        {},
        {"fakeredis": ([], [PROOF])},
        {"fakeredis": ([f"{TEST}::test_another"], [])},
        {"fakeredis": ([PROOF], []), "redis": ([], [PROOF])},
        {"fakeredis": ([PROOF], [f"{TEST}::test_another"])},
    ],
    "proven on embedded backends only": [
        {"fakeredis": ([f"{PROOF}[fakeredis]"], [])},
    ],
    "proven": [
        {"fakeredis": ([PROOF], []), "redis": ([PROOF], [])},
        {"": ([PROOF], [])},
    ],
}


@pytest.mark.parametrize(
    ("state", "runs"),
    [(state, runs) for state, all_ in STATES.items() for runs in all_],
)
def test_our_state_is_what_the_record_shows(
    tree: Path, state: str, runs: dict[str, tuple[list[str], list[str]]]
) -> None:
    edit(tree, PLANNED, LINKED)
    linked = entry(comparison.load(tree), "caching-decorators")
    assert scores.our_state(linked, {PATTERN: verification(**runs)}) == state


def test_without_a_record_nothing_is_proven(tree: Path) -> None:
    planned = entry(comparison.load(tree), "caching-decorators")
    edit(tree, PLANNED, LINKED)
    linked = entry(comparison.load(tree), "caching-decorators")
    assert scores.our_state(planned, {}) == "planned"
    assert scores.our_state(linked, {}) == "not verified"


def test_a_record_of_other_bytes_proves_nothing(tree: Path) -> None:
    edit(tree, PLANNED, LINKED)
    known = recorded(tree, **{"": ([PROOF], [])})
    assert our_state_in_data(tree, known) == "proven"
    (tree / "snippets/caching/cached.py").write_text('"""Another cache."""\n')
    assert our_state_in_data(tree, known) == "not verified"


def our_state_in_data(tree: Path, known: record.Record) -> str:
    """Return our state of the cache decorators, as matrix.json gives it."""
    data = json.loads(matrix.to_json(tree, discover(tree), verified(tree, known)))
    one = next(one for one in data["entries"] if one["id"] == "caching-decorators")
    return str(one["ours"]["state"])


def test_proven_counts_in_full_and_embedded_only_as_half(tree: Path) -> None:
    edit(tree, PLANNED, LINKED)
    rows = comparison.load(tree).categories["Caching"]
    embedded = {PATTERN: verification(fakeredis=([PROOF], []))}
    proven = {PATTERN: verification(fakeredis=([PROOF], []), redis=([PROOF], []))}
    assert scores.our_score(rows, {}) == scores.Score(0, 0, 3)
    assert scores.our_score(rows, embedded) == scores.Score(0, 1, 3)
    assert scores.our_score(rows, proven) == scores.Score(1, 0, 3)


def test_another_system_is_better_until_ours_is_verified(tree: Path) -> None:
    id_ = "database-generic-repository"
    edit(tree, "{planned: database/repository}", LINKED.partition("ours: ")[2])
    one = entry(comparison.load(tree), id_)
    proven = {PATTERN: verification(fakeredis=([PROOF], []))}
    assert scores.better_elsewhere(one, {}) == ["template", "accent"]
    assert scores.better_elsewhere(one, proven) == []
    decorators = entry(comparison.load(tree), "caching-decorators")
    assert scores.better_elsewhere(decorators, {}) == []


def test_the_summary_counts_and_lists_where_others_are_better(tree: Path) -> None:
    def summary(known: record.Record) -> BeautifulSoup:
        found = matrix.fragments(tree, discover(tree), verified(tree, known))
        return BeautifulSoup(found["compare/summary.md"], "html.parser")

    edit(tree, "{planned: database/repository}", LINKED.partition("ours: ")[2])
    link = 'a[href="#database-generic-repository"]'
    before = summary(record.Record())
    after = summary(recorded(tree, **{"": ([PROOF], [])}))
    assert "In 31 of 70 entries" in before.get_text()
    assert len(before.select(link)) == 1
    assert "In 30 of 70 entries" in after.get_text()
    assert after.select(link) == []


def test_the_patterns_planned_in_a_category_are_listed_once(tree: Path) -> None:
    assert matrix.planned(tree, "middleware") == [
        "middleware/body_limit",
        "middleware/header_context",
        "middleware/http_metrics",
        "middleware/rate_limit",
        "middleware/request_logging",
        "middleware/security_headers",
    ]
    edit(tree, PLANNED, LINKED)
    assert PATTERN not in matrix.planned(tree, "caching")


# The page.

EXTENSIONS = ["attr_list", "md_in_html", "tables", "pymdownx.snippets", "toc"]


def page(tree: Path) -> BeautifulSoup:
    """Return the three fragments as the parser of the site renders them."""
    found = matrix.fragments(tree, discover(tree), {})
    return parsed("\n\n".join(found.values()))


@cache
def parsed(source: str) -> BeautifulSoup:
    """Return what becomes of Markdown; the same for the same, so do not change it."""
    shown = markdown.markdown(source, extensions=EXTENSIONS)
    return BeautifulSoup(shown, "html.parser")


def cells(row: Tag) -> list[Tag]:
    """Return a row's own cells."""
    return row.find_all(["th", "td"], recursive=False)


def test_each_entry_is_one_row_with_an_address_of_its_own(tree: Path) -> None:
    rows = page(tree).select("table.matrix-table tbody tr[id]")
    assert {str(row["id"]) for row in rows} == comparison.ENTRY_IDS
    assert len(rows) == 70
    for row in rows:
        assert [cell.name for cell in cells(row)] == ["th", "td", "td", "td"]
        assert cells(row)[0]["scope"] == "row"
        assert len(row.select(f'th a[href="#{row["id"]}"][aria-label]')) == 1


def test_the_table_has_a_caption_and_headed_columns(tree: Path) -> None:
    table = page(tree).select_one("table.matrix-table")
    assert table is not None
    assert table.caption is not None
    heads = table.select("thead th")
    assert [head["scope"] for head in heads] == ["col"] * 4
    assert [head.get_text() for head in heads] == [
        *("Feature", "FastAPI template", "Accent-Voice2", "This catalogue")
    ]


def test_a_state_stands_in_words(tree: Path) -> None:
    compared = comparison.load(tree)
    shown = page(tree)
    for one in compared.entries:
        row = shown.find(id=one.id)
        assert isinstance(row, Tag)
        states = [found.get_text() for found in row.select("td .sp-state")]
        assert states == [one.template.state, one.accent.state, "planned"]


def test_evidence_links_to_the_lines_at_the_commit(tree: Path) -> None:
    shown = page(tree)
    links = [str(link["href"]) for link in shown.select("#database-pooling td a")]
    start = "https://github.com/ryanwclark1"
    template = f"{start}/fastapi-template/blob/4874ef79d4d8ea3105685383c17f670969634809"
    accent = f"{start}/accent-voice2/blob/1d473637e3b451d6d6eecce6e05e7115f77304c4"
    session = f"{template}/example_service/infra/database/session.py"
    assert links == [
        f"{session}#L42-L52",
        f"{session}#L146-L169",
        f"{session}#L232-L238",
        f"{accent}/library/accent-dao/accent_dao/helpers/db_manager.py#L192-L216",
        f"{accent}/service/accent-dird/accent_dird/controller.py#L35-L35",
    ]


def test_what_is_absent_shows_the_search_that_found_nothing(tree: Path) -> None:
    (code,) = page(tree).select("#messaging-outbox td code")
    assert code.get_text() == "git grep -iE 'outbox' -- '*.py' '*.toml'"


def test_no_two_things_on_the_page_share_an_address(tree: Path) -> None:
    ids = Counter(str(one["id"]) for one in page(tree).select("[id]"))
    assert ids.most_common(1)[0][1] == 1


def test_every_link_within_the_page_arrives(tree: Path) -> None:
    shown = page(tree)
    places = {str(one["id"]) for one in shown.select("[id]")}
    links = [str(link["href"]) for link in shown.select('a[href*="#"]')]
    within = [link.partition("#")[2] for link in links if link[0] in "#?"]
    assert len(within) > 100
    assert set(within) <= places


HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)> &lt;b&gt;",
    'a " onmouseover="alert(1)',
    "--8<-- 'pyproject.toml'",
    "[link](javascript:alert(1)) ![x](y)",
    "</td></tr></table></div> ends",
    "*stars* and _lines_ | and {: .class } and {{ braces }}",
    "a\u200bb \u202e reversed",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text(tree: Path, text: str) -> None:
    before = [one.name for one in page(tree).select("*")]
    quoted = json.dumps(text)
    note = "One package per feature, each with its own router; registration is a "
    edit(
        tree, f'"{note}hand-written list and core modules import feature code."', quoted
    )
    edit(tree, '"Feature-based structure"', quoted)
    edit(tree, '"features/ directory"', quoted)
    edit(tree, '"FastAPI template"', quoted)
    after = page(tree)
    assert [one.name for one in after.select("*")] == before
    row = after.find(id="architecture-feature-structure")
    assert isinstance(row, Tag)
    assert row.select("td p.matrix-note")[0].get_text() == text
    assert row.select("th p")[0].get_text().startswith(text)
    assert row.select("th a")[0]["aria-label"] == f"Link to {text}"


def test_a_hostile_search_stays_text(tree: Path) -> None:
    edit(tree, "search: 'outbox'", "search: 'out<b>box</b>`--8<--`'")
    (code,) = page(tree).select("#messaging-outbox td code")
    assert "out<b>box</b>`--8<--`" in code.get_text()


def test_a_patterns_page_shows_its_own_entries(tree: Path) -> None:
    edit(tree, PLANNED, LINKED)
    known = verified(tree, recorded(tree, **{"": ([PROOF], [])}))
    shown = matrix_html.render_rows_for(comparison.load(tree), PATTERN, known)
    parsed = BeautifulSoup(shown, "html.parser")
    (row,) = parsed.select("tbody tr")
    (link,) = row.select("a")
    assert link["href"] == "../../../compare/#caching-decorators"
    first, template, accent, here = (cell.get_text() for cell in cells(row))
    assert (first, here) == ("Cache decorators", "proven")
    assert template.startswith("partial (original: basic). Two decorators exist;")
    assert accent.startswith("partial (original: advanced, more than the code shows)")


def test_a_pattern_without_entries_says_so(tree: Path) -> None:
    shown = matrix_html.render_rows_for(comparison.load(tree), PATTERN, {})
    assert "no entry that this pattern answers" in shown


def test_the_method_names_both_commits_and_how_old_they_are(tree: Path) -> None:
    shown = BeautifulSoup(
        matrix_html.render_method(comparison.load(tree)), "html.parser"
    )
    template, accent = (item.get_text() for item in shown.select("li"))
    assert "4874ef79d4d8 of 2025-12-11, 10 days after the original" in template
    assert "1d473637e3b4 of 2025-03-15, 261 days before the original" in accent


# The data.


def test_the_json_has_the_documented_fields(tree: Path) -> None:
    edit(tree, PLANNED, LINKED)
    data = json.loads(matrix.to_json(tree, discover(tree), {}))
    assert data.keys() == {"version", "systems", "original", "scores", "entries"}
    assert data["version"] == 1
    assert [one["id"] for one in data["entries"]] == [
        one.id for one in comparison.load(tree).entries
    ]
    one = next(one for one in data["entries"] if one["id"] == "caching-decorators")
    assert one.keys() == {
        *("id", "category", "feature", "kind", "claim", "template", "accent", "ours")
    }
    assert one["claim"] == {
        "template": "basic",
        "accent": "advanced",
        "priority": "medium",
        "notes": "Could add @cached",
    }
    assert one["accent"].keys() == {
        *("state", "note", "contradiction", "evidence", "search")
    }
    assert one["accent"]["contradiction"] == "more"
    assert one["accent"]["evidence"][1] == {
        "path": "library/accent-dao/accent_dao/context_dao.py",
        "first": 19,
        "last": 21,
        "url": (
            "https://github.com/ryanwclark1/accent-voice2/blob/"
            "1d473637e3b451d6d6eecce6e05e7115f77304c4/"
            "library/accent-dao/accent_dao/context_dao.py#L19-L21"
        ),
    }
    assert one["ours"] == {
        "state": "not verified",
        "pattern": PATTERN,
        "planned": None,
        "proofs": [PROOF],
        "better": [],
    }


def test_the_json_scores_each_category_and_all_rows(tree: Path) -> None:
    data = json.loads(matrix.to_json(tree, discover(tree), {}))
    found = {one["category"]: one for one in data["scores"]}
    assert found.keys() == {*PUBLISHED, None}
    assert found[None]["accent"] == {
        "full": 16,
        "partial": 26,
        "of": 60,
        "full_only": 26.7,
        "half_credit": 48.3,
    }


def read_csv(tree: Path) -> list[dict[str, str]]:
    """Return the lines of the CSV as a reader of RFC 4180 sees them."""
    text = matrix.to_csv(tree, discover(tree), {})
    return list(csv.DictReader(io.StringIO(text, newline=""), strict=True))


def test_the_csv_has_a_line_for_each_entry(tree: Path) -> None:
    rows = read_csv(tree)
    assert {row["id"] for row in rows} == comparison.ENTRY_IDS
    assert len(rows) == 70
    assert {len(row) for row in rows} == {23}
    one = next(row for row in rows if row["id"] == "messaging-outbox")
    assert (one["template_state"], one["accent_search"]) == ("partial", "outbox")
    assert one["template_evidence"].count("https://github.com/") == 3


@pytest.mark.parametrize(
    "text", ["=HYPERLINK(1)", "+1", "-1", "@SUM(1)", " =1+1", "'=1", "a=1", '=1,"2"']
)
def test_a_spreadsheet_takes_nothing_for_a_formula(tree: Path, text: str) -> None:
    edit(tree, '"features/ directory"', json.dumps(text))
    shown = read_csv(tree)[0]["claim_notes"]
    inert = text if text[0] in "'a" else f"'{text}"
    assert shown == inert


def test_rendering_twice_gives_the_same_bytes(tree: Path) -> None:
    def everything() -> list[str]:
        patterns = discover(tree)
        return [
            *matrix.fragments(tree, patterns, {}).values(),
            matrix.to_json(tree, patterns, {}),
            matrix.to_csv(tree, patterns, {}),
        ]

    assert everything() == everything()
