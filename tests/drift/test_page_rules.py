"""A page that is built otherwise than all the others is named."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.small_tree import INDEX, PAGE, SNIPPET

if TYPE_CHECKING:
    from tests.support.small_tree import SmallTree


@pytest.mark.parametrize(
    ("old", "new", "at", "reason"),
    [
        ("## Code", "## The code", "## The code", "must be 'Code', not 'The code'"),
        (
            "## Code {data-search-exclude}\n",
            "",
            "## What breaks",
            "must be 'Code', not 'What breaks",
        ),
        ("## Consequences", "### Consequences", "## Evidence", "'Consequences', not"),
        ("## Code", "## Summary\n\n## Code", "## Summary", "not 'Summary'"),
        ("None yet;", "## Notes\n\nNone yet;", "## Notes", "follows the last heading"),
        ("## When", "# Forwarding\n\n## When", "# Forwarding", "the title comes from"),
    ],
)
def test_a_heading_that_is_not_the_fixed_one_is_named(
    small: SmallTree, old: str, new: str, at: str, reason: str
) -> None:
    small.replace(PAGE, old, new)
    small.names(PAGE, at, reason)


def test_a_page_that_ends_early_is_named(small: SmallTree) -> None:
    text = small.read(PAGE).partition("## Related")[0].rstrip()
    small.write(PAGE, f"{text}\n")
    found = [str(one) for one in small.problems()]
    line = text.count("\n") + 1
    reason = "the heading 'Related patterns' is missing; write that section"
    assert f"{PAGE}:{line}: {reason}" in found


@pytest.mark.parametrize("name", ["card", "breaks", "diagram", "evidence"])
@pytest.mark.parametrize("count", [0, 2])
def test_a_rendered_part_that_is_missing_or_doubled_is_named(
    small: SmallTree, name: str, count: int
) -> None:
    include = f'--8<-- "build/fragments/telephony/call-forwarding/{name}.md"\n'
    small.replace(PAGE, include, f"{include}\n" * count)
    reason = f"{name}.md is included {count} times; include it once"
    assert reason in "".join(str(one) for one in small.problems())


def test_a_card_that_does_not_come_first_is_named(small: SmallTree) -> None:
    small.replace(PAGE, "--8<--", "Forwarding.\n\n--8<--")
    assert "the card comes first" in "".join(str(one) for one in small.problems())


def test_a_module_to_copy_that_the_page_does_not_name_is_named(
    small: SmallTree,
) -> None:
    small.write("snippets/telephony/loop.py", '"""Tell a loop."""\n')
    text = small.read(SNIPPET)
    line = "from snippets.telephony import loop\n"
    small.write(SNIPPET, text.replace("\n\nfrom", f"\n\n{line}from", 1))
    small.names(PAGE, "## Code", "imports snippets/telephony/loop.py; link loop.md")
    link = "Copy [this](loop.md), too.\n"
    small.replace(PAGE, '=== "Module"', f'{link}\n=== "Module"')
    assert "link loop.md" not in "".join(str(one) for one in small.problems())


def test_a_page_of_too_many_words_is_named(small: SmallTree) -> None:
    small.replace(PAGE, "None yet;", "Call them. " * 360)
    assert "more than 700; cut" in "".join(str(one) for one in small.problems())


@pytest.mark.parametrize(
    ("old", "new", "at", "reason"),
    [
        ("maturity: new", "maturity: ripe", "maturity", "front matter field"),
        ("description: Calls", "description: " + "Calls " * 20, "description", "25"),
        ("maturity: new", "maturity: new\ntests: 1", "tests", "front matter field"),
        ("tags: [calls]", "tags: [calls", "", "the front matter is not YAML"),
    ],
)
def test_a_broken_front_matter_is_named(
    small: SmallTree, old: str, new: str, at: str, reason: str
) -> None:
    small.replace(PAGE, old, new)
    if at:
        small.names(PAGE, at, reason)
    else:
        assert reason in "".join(str(one) for one in small.problems())


@pytest.mark.parametrize(
    ("link", "reason"),
    [
        ('<a href="ringing/">x</a>', "leads nowhere"),
        ('<a href="../ringing/">x</a>', "leads nowhere"),
        ('<a href="/ringing/">x</a>', "is not relative"),
        ('<a href="javascript:ringing()">x</a>', "is not relative"),
        ('<a href="//ringing.example/">x</a>', "is not relative"),
        ('<img alt="ringing" src="assets/bell.svg">', "leads nowhere"),
        ('<a href="#ringing">x</a>', "names no heading"),
        ('<a href="patterns/telephony/call-forwarding/#ringing">x</a>', "no heading"),
        ('<form action="ringing/"></form>', "leads nowhere"),
    ],
)
def test_a_raw_link_that_leads_nowhere_is_named(
    small: SmallTree, link: str, reason: str
) -> None:
    small.write(INDEX, f"{small.read(INDEX)}\n{link}\n")
    small.names(INDEX, link, reason)


@pytest.mark.parametrize("path", ["README.md", "notes/calls.md"])
def test_a_link_outside_the_site_that_leads_nowhere_is_named(
    small: SmallTree, path: str
) -> None:
    up = "../" * path.count("/")
    fine = (
        f"[a]({up}docs/) [b](https://example.org/) [c](#small) [d]({up}README.md#small)"
    )
    small.write(path, f"{small.read('README.md')}\n{fine}\n")
    assert small.problems() == []
    before = small.read(path)
    for target, reason in (
        ("docs/gone.md", "leads nowhere"),
        ("../../../../../etc/hosts", "leads nowhere"),
        ("/etc/hosts", "is not relative"),
        ("#gone", "names no heading of that page"),
        (f"{up}README.md#gone", "names no heading of that page"),
        ("http://[gone", "is no address"),
    ):
        for form in (f"See [it]({target}).", f"See ![it]({target})."):
            small.write(path, f"{before}\n{form}\n")
            small.names(path, "See ", f"the link {target} {reason}")


def test_an_address_on_a_page_that_is_none_is_named(small: SmallTree) -> None:
    small.write(INDEX, f"{small.read(INDEX)}\n<a href='http://[gone'>x</a>\n")
    small.names(INDEX, "http://[gone", "is no address")


@pytest.mark.parametrize(
    "link",
    ['<a\nhref="ringing/">x</a>', '<A HREF="ringing/">x</A>', "<a href=ringing/>"],
)
def test_a_raw_link_in_any_form_is_read(small: SmallTree, link: str) -> None:
    small.write(INDEX, f"{small.read(INDEX)}\n{link}\n")
    small.names(INDEX, "ringing/", "leads nowhere")


@pytest.mark.parametrize(
    "fields",
    [
        *("- ring", "title: [ring", "title: 2026-02-30", "title: a\ntitle: b"),
        *("title: &a ring\ntags: *a", "? [title]\n: ring\n? [title]\n: ring"),
    ],
)
@pytest.mark.parametrize("page", [INDEX, PAGE])
def test_a_front_matter_that_would_not_be_read_as_it_stands_is_named(
    small: SmallTree, page: str, fields: str
) -> None:
    _, _, rest = small.read(page).split("---\n", 2)
    small.write(page, f"---\n{fields}\n---\n{rest}")
    found = [str(one) for one in small.problems() if one.path == page]
    assert "the front matter " in "".join(found)


def test_a_page_without_front_matter_is_named(small: SmallTree) -> None:
    small.write(INDEX, small.read(INDEX).split("---\n", 2)[2])
    assert "must start with front matter" in "".join(map(str, small.problems()))


@pytest.mark.parametrize(
    "link",
    [
        '<a href="#more">x</a>',
        '<a href="./#more">x</a>',
        '<a href="patterns/telephony/">x</a>',
        '<a href="patterns/telephony/call-forwarding/#code">x</a>',
        '<a href="https://www.rfc-editor.org/">x</a>',
        '<a href="data/index.json">x</a>',
    ],
)
def test_a_raw_link_that_leads_somewhere_is_allowed(
    small: SmallTree, link: str
) -> None:
    small.write("docs/data/index.json", "{}\n")
    small.write(INDEX, f"{small.read(INDEX)}\n{link}\n")
    assert small.problems() == []
