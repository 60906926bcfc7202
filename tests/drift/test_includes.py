"""An include that shows another text than it names is named itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.small_tree import INDEX, PAGE, SNIPPET, TEST

if TYPE_CHECKING:
    from tests.support.small_tree import SmallTree

FENCE = "\n```python\n{}\n```\n"
SECTION = """
# --8<-- [start:ring]
RINGS = 3
# --8<-- [end:ring]
"""


def add(small: SmallTree, directive: str) -> None:
    small.write(INDEX, small.read(INDEX) + FENCE.format(directive))


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("snippets/telephony/call_waiting.py", "there is no file"),
        (f"{SNIPPET}:ring", "has no closed section ring"),
        (f"{SNIPPET}:1:3", "neither lines nor an address"),
        (f"{SNIPPET}:1", "neither lines nor an address"),
        (f"{SNIPPET}:-2:", "neither lines nor an address"),
        (f"{SNIPPET}:1:2,4:5", "neither lines nor an address"),
        ("https://example.com/ring.py", "neither lines nor an address"),
        (f"{SNIPPET} ", "neither lines nor an address"),
        (f"; {SNIPPET}", "neither lines nor an address"),
        (f"/{SNIPPET}", "neither lines nor an address"),
        ("docs/typed.md", "no test runs"),
        ("catalogue/__main__.py", "no test runs"),
        ("requirements.txt", "no test runs"),
        ("snippets/telephony/ring.txt", "no test runs"),
        ("tests/telephony/notes.py", "no test runs"),
        ("tests/telephony/test_ring.txt", "no test runs"),
        ("snippets/../docs/index.md", "neither lines nor an address"),
        ("build/fragments/../../typed.md", "neither lines nor an address"),
    ],
)
def test_a_target_that_is_not_a_whole_file_or_section_of_ours_is_named(
    small: SmallTree, target: str, reason: str
) -> None:
    small.write("docs/typed.md", "---\ntitle: Typed\n---\n\nText.\n")
    directive = f'--8<-- "{target}"'
    add(small, directive)
    small.names(INDEX, directive, reason)


@pytest.mark.parametrize(
    "directive",
    [
        f"--8<-- {SNIPPET}",
        f"--8<-- '{SNIPPET}'",
        f'-8<- "{SNIPPET}"',
        f'---8<--- "{SNIPPET}"',
        f';--8<-- "{SNIPPET}"',
        f'--8<-- "{SNIPPET}" ',
        f'--8<--  "{SNIPPET}"',
        f'see --8<-- "{SNIPPET}"',
        f"--8<--\n{SNIPPET}\n--8<--",
        f"--8<--\n{SNIPPET}\n{TEST}\n--8<--",
        f'<!-- --8<-- "{SNIPPET}" -->',
        "# --8<-- [start:ring]",
    ],
)
def test_a_directive_in_any_form_but_one_is_named(
    small: SmallTree, directive: str
) -> None:
    add(small, directive)
    small.names(INDEX, directive, "cannot be read as an include")


@pytest.mark.parametrize(
    "text",
    [
        f'<!--\n--8<-- "{SNIPPET}"\n-->',
        f'<div title="\n--8<-- "{SNIPPET}"\n"></div>',
    ],
)
def test_an_include_that_shows_nothing_is_named(small: SmallTree, text: str) -> None:
    small.write(INDEX, f"{small.read(INDEX)}\n{text}\n")
    problems = [one for one in small.problems() if one.path == INDEX]
    assert "shows nothing on the page" in "".join(map(str, problems))


def test_an_include_outside_a_fence_is_named(small: SmallTree) -> None:
    small.write(INDEX, f'{small.read(INDEX)}\n--8<-- "{SNIPPET}"\n')
    small.names(INDEX, "--8<--", "stands outside a fence")


def test_two_includes_in_a_fence_are_named(small: SmallTree) -> None:
    add(small, f'--8<-- "{SNIPPET}"\n--8<-- "{TEST}"')
    small.names(INDEX, "--8<--", "code typed by hand")


def test_a_file_that_has_gone_is_named_on_every_page(small: SmallTree) -> None:
    (small.root / TEST).rename(small.root / "tests/telephony/test_forwarding.py")
    small.names(PAGE, f'    --8<-- "{TEST}"', "there is no file")


def test_a_section_and_a_configuration_file_may_be_included(small: SmallTree) -> None:
    small.write(TEST, small.read(TEST) + SECTION)
    add(small, f'--8<-- "{TEST}:ring"')
    add(small, '--8<-- "pyproject.toml"')
    assert small.problems() == []


def test_a_section_of_a_configuration_file_may_be_included(small: SmallTree) -> None:
    section = "# --8<-- [start:ring]\nring:\n\t@echo\n# --8<-- [end:ring]\n"
    small.write("Makefile", small.read("Makefile") + section)
    small.names("Makefile", "# --8<-- [start", "no page shows the section ring")
    add(small, '--8<-- "Makefile:ring"')
    assert small.problems() == []


@pytest.mark.parametrize(
    ("old", "new", "at", "reason"),
    [
        ("# --8<-- [end:ring]\n", "", "[start:ring]", "is never closed"),
        ("# --8<-- [start:ring]\n", "", "[end:ring]", "ends unopened"),
        ("[start:ring]", "[start:rung]", "[start:rung]", "is never closed"),
        ("[start:ring]", "[begin:ring]", "[begin:ring]", "cannot be read as a marker"),
        ("# --8<-- [start", "x = 1  # --8<-- [start", "x = 1", "cannot be read as a"),
    ],
)
def test_a_broken_section_is_named(
    small: SmallTree, old: str, new: str, at: str, reason: str
) -> None:
    small.write(TEST, small.read(TEST) + SECTION.replace(old, new))
    add(small, f'--8<-- "{TEST}:ring"')
    small.names(TEST, at, reason)


def test_a_section_that_is_empty_is_named(small: SmallTree) -> None:
    small.write(TEST, small.read(TEST) + SECTION.replace("RINGS = 3\n", "\n"))
    add(small, f'--8<-- "{TEST}:ring"')
    small.names(INDEX, f'--8<-- "{TEST}:ring"', "has no text to show")


def test_a_section_given_twice_is_named(small: SmallTree) -> None:
    small.write(TEST, small.read(TEST) + SECTION + SECTION.replace("3", "4"))
    add(small, f'--8<-- "{TEST}:ring"')
    line = small.read(TEST).rstrip().count("\n") - 1
    found = [str(one) for one in small.problems()]
    assert f"{TEST}:{line}: a second section ring; rename it" in found


def test_a_section_that_no_page_shows_is_named(small: SmallTree) -> None:
    small.write(TEST, small.read(TEST) + SECTION)
    small.names(TEST, "# --8<-- [start:ring]", "no page shows the section ring")


def test_a_snippet_with_markers_is_not_shown_whole(small: SmallTree) -> None:
    small.write(SNIPPET, small.read(SNIPPET) + SECTION)
    add(small, f'--8<-- "{SNIPPET}:ring"')
    small.names(PAGE, f'    --8<-- "{SNIPPET}"', "markers that its reader would miss")


def test_a_file_whose_text_would_include_another_is_named(small: SmallTree) -> None:
    nested = f'\nPAGE = """\n--8<-- "{SNIPPET}"\n"""\n'
    small.write(TEST, small.read(TEST) + nested)
    small.names(PAGE, f'    --8<-- "{TEST}"', "is not shown as it stands")


def test_a_file_whose_text_would_end_its_fence_is_named(small: SmallTree) -> None:
    docstring = '"""A forwarded call rings somewhere.\n\n```\n1001\n```\n"""'
    old = '"""A forwarded call rings somewhere."""'
    small.replace(TEST, old, docstring)
    small.names(PAGE, f'    --8<-- "{TEST}"', "make the fence longer")


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("build/fragments/telephony/ring/card.md", "is not of this page"),
        ("build/fragments/trust.md", "is not of this page"),
    ],
)
def test_a_fragment_of_another_page_is_named(
    small: SmallTree, path: str, reason: str
) -> None:
    small.replace(PAGE, "None yet;", f'--8<-- "{path}"\n\nNone yet;')
    small.names(PAGE, f'--8<-- "{path}"', reason)


def test_a_fragment_that_nothing_renders_is_named(small: SmallTree) -> None:
    small.write("build/fragments/trust.md", "Two patterns.\n")
    small.write(INDEX, small.read(INDEX) + '\n--8<-- "build/fragments/trust.md"\n')
    assert small.problems() == []
    small.write(INDEX, small.read(INDEX) + '\n--8<-- "build/fragments/truth.md"\n')
    small.names(INDEX, '--8<-- "build/fragments/truth.md"', "nothing renders")
