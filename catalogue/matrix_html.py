"""The comparison as HTML: the parts of its own page, and the rows on patterns' pages.

HTML and not Markdown, because a Markdown table has no caption, no row headings, and
cells that any text can break. All text from the file is escaped.
"""

from __future__ import annotations

from collections import Counter
from html import escape
from typing import TYPE_CHECKING

from catalogue import markup, scores
from catalogue.comparison import STATES, SYSTEMS

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Sequence

    from catalogue.comparison import Comparison, Entry, SystemName
    from catalogue.scores import Verified

_ABOUT = {
    "row": "",
    "gap": "from the original's list of gaps; no row of its matrix",
    "claim": "claimed in the original's text; no row of its matrix",
}


def render_summary(compared: Comparison, verified: Verified) -> str:
    """Return what a reader takes away in a minute: scores, and who is better where."""
    errors = scores.arithmetic_errors(compared)
    listed = "\n".join(f"<li>{markup.text(words)}</li>" for words in errors)
    return "\n\n".join(
        (
            _verdict(compared),
            _overall_table(compared, verified),
            "### Where the other systems are better than us today",
            _better(compared, verified),
            "### Where the original's own figures fail",
            f"<ol>\n{listed}\n</ol>",
            "### By category",
            _category_table(compared, verified),
            "",
        )
    )


def render_table(compared: Comparison, verified: Verified) -> str:
    """Return the whole matrix, one row an entry, with its filter and what they need.

    Roles are written out, because on a phone each row becomes a card, and a table that
    is not displayed as one loses its meaning for a screen reader.
    """
    columns = ["Feature", *compared.systems.names, "This catalogue"]
    head = "".join(
        f'<th scope="col" role="columnheader">{markup.text(name)}</th>'
        for name in columns
    )
    groups = "\n".join(
        _group(compared, name, entries, verified)
        for name, entries in compared.categories.items()
    )
    caption = (
        f"The {len(compared.entries)} entries of the original comparison: "
        "what it claims, what the code shows, and our answer"
    )
    return (
        '<link rel="stylesheet" href="../assets/matrix.css">\n'
        f"{_filter(compared)}"
        '<div class="sp-table matrix" role="region" tabindex="0" '
        'aria-label="The matrix">\n'
        '<table class="matrix-table" role="table" id="matrix">\n'
        f"<caption>{markup.text(caption)}</caption>\n"
        f'<thead role="rowgroup"><tr role="row">{head}</tr></thead>\n'
        f"{groups}\n</table>\n</div>\n"
        '<script src="../assets/matrix.js" defer></script>\n'
    )


def render_method(compared: Comparison) -> str:
    """Return how the comparison was made, with commits and dates."""
    items = "\n".join(
        f"<li>{markup.link(system.name, system.url)}, commit "
        f"<code>{system.commit[:12]}</code> of {system.date}, "
        f"{_apart(system.date, compared.original.date)} the original.</li>"
        for system in (compared.systems.template, compared.systems.accent)
    )
    title = markup.text(compared.original.title)
    return (
        f"<p>The original comparison is a document of {compared.original.date}, "
        f"“{title}”. Its claims stand here in its own words, without its signs. "
        "What the code shows was read at these commits:</p>\n\n"
        f"<ul>\n{items}\n</ul>\n"
    )


def render_rows_for(compared: Comparison, pattern_id: str, verified: Verified) -> str:
    """Return the entries that a pattern answers, as a table for its page."""
    entries = [one for one in compared.entries if one.ours.pattern == pattern_id]
    if not entries:
        return (
            '<p class="sp-note">The original comparison has no entry that this '
            "pattern answers.</p>\n"
        )
    rows = [
        (
            markup.link(entry.feature, f"../../../compare/#{entry.id}"),
            *(_short_finding(entry, system) for system in SYSTEMS),
            markup.state(scores.our_state(entry, verified)),
        )
        for entry in entries
    ]
    columns = ("Entry", *compared.systems.names, "Here")
    return markup.table("This pattern in the comparison", columns, rows)


def _verdict(compared: Comparison) -> str:
    rows, overall = compared.rows, compared.original.overall
    claimed = scores.claimed_score(rows)
    shown = {system: scores.code_score(rows, system) for system in SYSTEMS}
    full = {system: score.full for system, score in shown.items()}
    percent = {system: f"{score.full_only:.1f}%" for system, score in shown.items()}
    against = {system: scores.contradictions(rows, system) for system in SYSTEMS}
    contradicted = sum(any(map(entry.contradiction, SYSTEMS)) for entry in rows)
    template, accent = (_the(compared, system) for system in SYSTEMS)
    details = "; ".join(
        f"{sum(against[system].values())} times about {_the(compared, system)} ("
        + ", ".join(f"{count} {how}" for how, count in against[system].most_common())
        + ")"
        for system in SYSTEMS
    )
    points = (
        (
            f"The original comparison gives {template} <strong>{overall.percent}%"
            f"</strong>. Its own rows give {claimed.full_only:.1f}%, or "
            f"{claimed.half_credit:.1f}% with half credit for partial rows."
        ),
        (
            f"The code of {template} does in full what {full['template']} of "
            f"{len(rows)} rows say (<strong>{percent['template']}</strong>), "
            f"that of {accent} {full['accent']} "
            f"(<strong>{percent['accent']}</strong>)."
        ),
        (
            f"In {contradicted} of {len(rows)} rows the original claims more, or less, "
            f"than the code shows: {details}."
        ),
    )
    items = "\n".join(f"<li>{point}</li>" for point in points)
    return f"<ul>\n{items}\n</ul>"


def _overall_table(compared: Comparison, verified: Verified) -> str:
    rows = compared.rows
    template, accent = compared.systems.names
    lines = (
        (f"{template}, as claimed", scores.claimed_score(rows)),
        (f"{template}, as its code shows", scores.code_score(rows, "template")),
        (f"{accent}, as its code shows", scores.code_score(rows, "accent")),
        ("This catalogue, as its tests show", scores.our_score(rows, verified)),
    )
    cells = [
        (
            markup.text(name),
            str(score.full),
            str(score.partial),
            f"{score.full_only:.1f}%",
            f"{score.half_credit:.1f}%",
        )
        for name, score in lines
    ]
    columns = ("Who", "Full", "In part", "Full only", "Half credit")
    return markup.table(f"Scores over the {len(rows)} rows", columns, cells)


def _category_table(compared: Comparison, verified: Verified) -> str:
    printed = {one.name: one.percent for one in compared.original.categories}
    cells = []
    for name, entries in scores.by_category(compared):
        claimed = scores.claimed_score(entries)
        percent = printed[name] if name else compared.original.overall.percent
        code = [scores.code_score(entries, system) for system in SYSTEMS]
        cells.append(
            (
                f'<a href="#{_anchor(name)}">{markup.text(name)}</a>'
                if name
                else "All rows",
                f"{percent}%",
                f"{claimed.half_credit:.1f}%",
                *(f"{one.full_only:.1f}% ({one.half_credit:.1f}%)" for one in code),
                f"{scores.our_score(entries, verified).full} of {len(entries)}",
            )
        )
    columns = (
        "Category",
        "Original, printed",
        "Original, recomputed",
        *compared.systems.names,
        "Proven here",
    )
    caption = (
        "Scores by category. Recomputed is with half credit; "
        "the code's is full only, with half credit in brackets"
    )
    return markup.table(caption, columns, cells)


def _better(compared: Comparison, verified: Verified) -> str:
    found = {
        entry.id: systems
        for entry in compared.entries
        if (systems := scores.better_elsewhere(entry, verified))
    }
    total = len(compared.entries)
    if not found:
        return f"<p>In none of the {total} entries.</p>"
    counts = Counter(system for systems in found.values() for system in systems)
    named = " and ".join(
        f"that of {_the(compared, system)} in {counts[system]}" for system in SYSTEMS
    )
    items = []
    for category, entries in compared.categories.items():
        links = ", ".join(
            f'<a href="#{entry.id}">{markup.text(entry.feature)}</a> '
            f"({markup.text(_both(compared, found[entry.id]))})"
            for entry in entries
            if entry.id in found
        )
        if links:
            items.append(f"<li><strong>{markup.text(category)}:</strong> {links}</li>")
    listed = "\n".join(items)
    return (
        f"<p>In <strong>{len(found)} of {total}</strong> entries the code of another "
        "system does in full what we only plan or have not verified: "
        f'{named}. <a href="?show=better#matrix">Show these entries in the matrix</a>.'
        f"</p>\n\n<ul>\n{listed}\n</ul>"
    )


def _both(compared: Comparison, systems: Sequence[SystemName]) -> str:
    if len(systems) == len(SYSTEMS):
        return "both"
    return ", ".join(compared.systems.of(system).name for system in systems)


def _the(compared: Comparison, system: SystemName) -> str:
    article = "the " if system == "template" else ""
    return article + markup.text(compared.systems.of(system).name)


def _filter(compared: Comparison) -> str:
    """Return the form that the script shows; without the script it stays hidden."""
    template, accent = compared.systems.names
    choices = (
        ("category", "Category", list(compared.categories)),
        ("template", template, list(STATES)),
        ("accent", accent, list(STATES)),
        ("ours", "This catalogue", list(markup.STATES)),
    )
    selects = "\n".join(_select(*choice) for choice in choices)
    total = len(compared.entries)
    return (
        '<form class="matrix-filter" role="search" aria-label="Filter the matrix" '
        "hidden>\n"
        f"{selects}\n"
        '<label>Show <select name="show"><option value="">every entry</option>'
        '<option value="contradicted">where the code contradicts the original</option>'
        '<option value="better">where another system is better than us</option>'
        "</select></label>\n"
        '<label>Words <input name="words" type="search" autocomplete="off"></label>\n'
        '<button type="reset">Clear the filter</button>\n'
        f'<p role="status">{total} of {total} entries</p>\n'
        "</form>\n"
    )


def _select(name: str, label: str, options: Sequence[str]) -> str:
    listed = "".join(f"<option>{escape(option)}</option>" for option in options)
    return (
        f'<label>{escape(label)} <select name="{name}">'
        f'<option value="">any</option>{listed}</select></label>'
    )


def _group(
    compared: Comparison, name: str, entries: Sequence[Entry], verified: Verified
) -> str:
    about = _ABOUT[entries[0].kind]
    small = f" <small>({about})</small>" if about else ""
    rows = "\n".join(_row(compared, entry, verified) for entry in entries)
    return (
        '<tbody role="rowgroup">\n<tr class="matrix-group" role="row">'
        f'<th scope="rowgroup" role="rowheader" colspan="4" id="{_anchor(name)}">'
        f"{markup.text(name)}{small}</th></tr>\n{rows}\n</tbody>"
    )


def _row(compared: Comparison, entry: Entry, verified: Verified) -> str:
    state = scores.our_state(entry, verified)
    shows = []
    if any(map(entry.contradiction, SYSTEMS)):
        shows.append("contradicted")
    if scores.better_elsewhere(entry, verified):
        shows.append("better")
    data = {
        "category": entry.category,
        "template": entry.template.state,
        "accent": entry.accent.state,
        "ours": state,
        "show": " ".join(shows),
    }
    attributes = " ".join(
        f'data-{key}="{escape(value)}"' for key, value in data.items()
    )
    notes = [f"The original notes: {markup.text(entry.claim.notes)}"]
    if entry.claim.priority != "none":
        notes.append(f"its priority: {entry.claim.priority}")
    feature = markup.text(entry.feature)
    cells = "\n".join(_finding(compared, entry, system) for system in SYSTEMS)
    return (
        f'<tr role="row" id="{entry.id}" {attributes}>\n'
        f'<th scope="row" role="rowheader"><p class="matrix-name">{feature} '
        f'<a class="matrix-link" href="#{entry.id}" '
        f'aria-label="Link to {feature}">#</a></p>'
        f'<p class="matrix-aside">{"; ".join(notes)}</p></th>\n'
        f"{cells}\n{_ours(entry, state)}\n</tr>"
    )


def _finding(compared: Comparison, entry: Entry, system: SystemName) -> str:
    found = entry.finding(system)
    of = compared.systems.of(system)
    if found.search is not None:
        words = "The search that finds nothing"
        command = f"git grep -iE '{found.search}' -- '*.py' '*.toml'"
        proof = f"<p><code>{escape(command)}</code></p>"
    else:
        words = f"{markup.counted(len(found.evidence), 'place')} in the code"
        proof = "<ul>"
        for one in found.evidence:
            lines = f"{one.first}" if one.first == one.last else one.lines
            proof += f"<li>{markup.link(f'{one.path}:{lines}', one.url(of))}</li>"
        proof += "</ul>"
    return (
        f'<td role="cell" data-label="{escape(of.name)}">'
        f"{_sign(found.state)}{_claim(entry, system)}"
        f'<p class="matrix-note">{markup.text(found.note)}</p>'
        f"<details><summary>{words}</summary>{proof}</details></td>"
    )


def _sign(state: str) -> str:
    return f'<p><span class="sp-state matrix-state--{state}">{state}</span></p>'


def _claim(entry: Entry, system: SystemName) -> str:
    claim = entry.claim.of(system)
    how = entry.contradiction(system)
    mark = f", <strong>{how} than the code shows</strong>" if how else ""
    return f'<p class="matrix-aside">Original: {claim}{mark}</p>'


def _ours(entry: Entry, state: str) -> str:
    parts = [f"<p>{markup.state(state)}</p>"]
    if entry.ours.planned:
        parts.append(f'<p class="matrix-note">{_breakable(entry.ours.planned)}</p>')
    if entry.ours.pattern:
        category, _, name = entry.ours.pattern.partition("/")
        url = f"../patterns/{category}/{name.replace('_', '-')}/"
        page = f'<a href="{escape(url)}">{_breakable(entry.ours.pattern)}</a>'
        parts.append(f'<p class="matrix-note">{page}</p>')
        items = "".join(
            f"<li>{markup.sentence(proof)}</li>" for proof in entry.ours.proofs
        )
        count = len(entry.ours.proofs)
        shows = "shows" if count == 1 else "show"
        words = f"{markup.counted(count, 'test')} that {shows} it"
        parts.append(f"<details><summary>{words}</summary><ul>{items}</ul></details>")
    return f'<td role="cell" data-label="This catalogue">{"".join(parts)}</td>'


def _breakable(pattern_id: str) -> str:
    """Let a long name break where its words do."""
    words = markup.text(pattern_id.replace("_", "_\u200b").replace("/", "/\u200b"))
    return words.replace("\u200b", "<wbr>")


def _short_finding(entry: Entry, system: SystemName) -> str:
    found = entry.finding(system)
    how = entry.contradiction(system)
    claim = entry.claim.of(system)
    mark = f", {how} than the code shows" if how else ""
    return (
        f"<strong>{found.state}</strong> (original: {claim}{mark}). "
        f"{markup.text(found.note)}"
    )


def _anchor(category: str) -> str:
    words = "".join(sign if sign.isalnum() else " " for sign in category.lower())
    return "category-" + "-".join(words.split())


def _apart(one: dt.date, other: dt.date) -> str:
    days = (one - other).days
    if days == 0:
        return "on the day of"
    return f"{markup.counted(abs(days), 'day')} {'after' if days > 0 else 'before'}"
