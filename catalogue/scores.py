"""What follows from the comparison: agreement, scores, our state, wrong sums.

Percentages are of all the entries in question; what is unknown earns no credit.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from typing import TYPE_CHECKING, TypeAlias

from catalogue.comparison import SYSTEMS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from catalogue.comparison import Comparison, Entry, SystemName
    from catalogue.record import Verification

Verified: TypeAlias = "Mapping[str, Verification]"
"""By pattern id, what the record knows of exactly today's bytes."""

PROVEN = "proven"
EMBEDDED = "proven on embedded backends only"
UNVERIFIED = "not verified"
PLANNED = "planned"


def our_state(entry: Entry, verified: Verified) -> str:
    """Return what the record says of an entry's pattern and proofs."""
    if entry.ours.pattern is None:
        return PLANNED
    run = verified.get(entry.ours.pattern)
    if run is None or not run.passed or set(entry.ours.proofs) - run.tests_passed():
        return UNVERIFIED
    return run.state


def better_elsewhere(entry: Entry, verified: Verified) -> list[SystemName]:
    """Return the systems whose code is full where we have nothing that is verified."""
    if our_state(entry, verified) not in (PLANNED, UNVERIFIED):
        return []
    return [name for name in SYSTEMS if entry.finding(name).state == "full"]


@dataclass(frozen=True)
class Score:
    """How many of some entries hold in full and in part; percentages of all of them."""

    full: int
    partial: int
    of: int

    @property
    def full_only(self) -> float:
        """Percent without credit for what holds in part."""
        return 100 * self.full / self.of

    @property
    def half_credit(self) -> float:
        """Percent with half credit for what holds in part."""
        return 100 * (self.full + self.partial / 2) / self.of


def by_category(comparison: Comparison) -> list[tuple[str | None, list[Entry]]]:
    """Return the rows, which scores count, by category and, under None, all of them."""
    names = dict.fromkeys(entry.category for entry in comparison.rows)
    groups = [(name, _rows_of(comparison, name)) for name in names]
    return [*groups, (None, comparison.rows)]


def claimed_score(entries: Sequence[Entry]) -> Score:
    """Return the template's score by the claims: complete; partial or basic."""
    claims = Counter(entry.claim.template for entry in entries)
    partial = claims["partial"] + claims["basic"]
    return Score(claims["complete"], partial, len(entries))


def code_score(entries: Sequence[Entry], system: SystemName) -> Score:
    """Return a system's score by what its code shows: full, partial."""
    states = Counter(entry.finding(system).state for entry in entries)
    return Score(states["full"], states["partial"], len(entries))


def our_score(entries: Sequence[Entry], verified: Verified) -> Score:
    """Return our score: proven counts as full, on embedded backends only as partial."""
    states = Counter(our_state(entry, verified) for entry in entries)
    return Score(states[PROVEN], states[EMBEDDED], len(entries))


def contradictions(entries: Iterable[Entry], system: SystemName) -> Counter[str]:
    """Count the entries by how the claim about `system` departs from its code."""
    found = (entry.contradiction(system) for entry in entries)
    return Counter(one for one in found if one is not None)


def arithmetic_errors(comparison: Comparison) -> list[str]:
    """Return, in a sentence or two each, how the original contradicts itself."""
    checks = (
        _overall_count,
        _overall_percent,
        _category_percent,
        _two_percentages,
        _effort,
        _priorities,
        _forgotten_rows,
        _gaps_against_rows,
    )
    return [words for check in checks if (words := check(comparison))]


def _overall_count(comparison: Comparison) -> str:
    printed = comparison.original.overall
    score = claimed_score(comparison.rows)
    if (printed.complete, printed.of) == (score.full, score.of):
        return ""
    total = sum(one.of for one in comparison.original.categories)
    return (
        f"The overall score is printed as {printed.complete} of {printed.of} features. "
        f"The matrix has {score.of} rows, {score.full} complete and {score.partial} "
        f"partial; the category scores are out of {total} in all."
    )


def _overall_percent(comparison: Comparison) -> str:
    printed = comparison.original.overall
    score = claimed_score(comparison.rows)
    if printed.percent in (_rounded(score.full_only), _rounded(score.half_credit)):
        return ""
    percents = [one.percent for one in comparison.original.categories]
    return (
        f"{printed.percent}% is {printed.complete}/{printed.of} "
        f"({100 * printed.complete / printed.of:.1f}%). The rows give "
        f"{score.full_only:.1f}% without credit for partial rows and "
        f"{score.half_credit:.1f}% with half credit; the mean of the printed category "
        f"scores is {sum(percents) / len(percents):.1f}%."
    )


def _category_percent(comparison: Comparison) -> str:
    wrong, right = [], []
    for one in comparison.original.categories:
        score = claimed_score(_rows_of(comparison, one.name))
        if one.percent != _rounded(score.half_credit):
            wrong.append(
                f"{one.name} is scored {one.percent}% for {score.full} complete and "
                f"{score.partial} partial rows, where half credit gives "
                f"{score.half_credit:.1f}%"
            )
        elif score.partial:
            right.append(f"{one.name} ({one.percent}%)")
    if not wrong:
        return ""
    rule = f" Half credit is the rule of {' and '.join(right)}." if right else ""
    return "; ".join(wrong) + "." + rule


def _two_percentages(comparison: Comparison) -> str:
    core, overall = comparison.original.core_percent, comparison.original.overall
    if core == overall.percent:
        return ""
    return (
        f"Its opening says that about {core}% of the core patterns are implemented; "
        f"its table and its footer say {overall.percent}%."
    )


def _effort(comparison: Comparison) -> str:
    original = comparison.original
    urgent = {gap.number for gap in original.gaps if gap.priority != "low"}
    phases = [phase for phase in original.phases if urgent & set(phase.gaps)]
    low = sum(phase.hours[0] for phase in phases)
    high = sum(phase.hours[1] for phase in phases)
    if original.effort_hours == (low, high):
        return ""
    return (
        "The effort for all items of high and medium priority is given as "
        f"{original.effort_hours[0]} to {original.effort_hours[1]} hours; "
        f"the {len(phases)} phases that hold them add up to {low} to {high}."
    )


def _priorities(comparison: Comparison) -> str:
    rows = {entry.id: entry for entry in comparison.rows}
    found = [
        f"{rows[id_].feature} are of {rows[id_].claim.priority} priority in the matrix "
        f"and of {gap.priority} priority in the list of gaps."
        for gap in comparison.original.gaps
        for id_ in gap.entries
        if id_ in rows and rows[id_].claim.priority not in ("none", gap.priority)
    ]
    return " ".join(found)


def _forgotten_rows(comparison: Comparison) -> str:
    listed = {id_ for gap in comparison.original.gaps for id_ in gap.entries}
    found = [
        f"{entry.feature} are {entry.claim.template}, of {entry.claim.priority} "
        "priority, in the matrix, but in neither the list of gaps nor the phases."
        for entry in comparison.rows
        if entry.claim.priority != "none" and entry.id not in listed
    ]
    return " ".join(found)


def _gaps_against_rows(comparison: Comparison) -> str:
    entries = {entry.id: entry for entry in comparison.entries}
    found = [
        f"{entries[id_].feature} is complete in the matrix and also gap {gap.number}."
        for gap in comparison.original.gaps
        for id_ in gap.entries
        if entries[id_].kind == "row" and entries[id_].claim.template == "complete"
    ]
    without_row = [entry for entry in entries.values() if entry.kind == "gap"]
    missing = [entry for entry in without_row if entry.claim.template == "missing"]
    printed = sum(one.missing for one in comparison.original.categories)
    if len(missing) != printed:
        titles = ", ".join(dict.fromkeys(entry.category for entry in missing))
        found.append(
            f"Its category scores count {printed} features as missing; its list of "
            f"gaps has {len(missing)} that have no row ({titles})."
        )
    return " ".join(found)


def _rows_of(comparison: Comparison, category: str) -> list[Entry]:
    return [entry for entry in comparison.rows if entry.category == category]


def _rounded(percent: float) -> int:
    """Round as a person does: a half goes up."""
    return int(Decimal(str(percent)).quantize(Decimal(1), ROUND_HALF_UP))
