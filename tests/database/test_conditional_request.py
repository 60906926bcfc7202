"""Which headers let a client write, and which spare it an answer that it has."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snippets.database import conditional_request_naive as naive
from snippets.database.async_session import create_engine_and_sessions, session_scope
from snippets.database.conditional_request import (
    PreconditionFailedError,
    PreconditionRequiredError,
    TagSyntaxError,
    check_if_match,
    etag,
    is_not_modified,
)
from snippets.database.optimistic_lock_wiring import Base, Extension
from tests.support.databases import create_tables

if TYPE_CHECKING:
    from catalogue.plugin import Proof

NOW = '"18"'
OPAQUE = st.text(st.characters(min_codepoint=0x23, max_codepoint=0x7E))
TAGS = st.builds('{}"{}"'.format, st.sampled_from(["", "W/"]), OPAQUE)
REFUSALS = PreconditionFailedError, PreconditionRequiredError, TagSyntaxError
GAP = st.sampled_from([",", ", ", "\t, ", " ,, ,"])


def outcome(header: str | None, current: str | None = NOW) -> type[Exception] | None:
    """Return the error that refuses a write, or None if it may pass."""
    try:
        check_if_match(header, current)
    except REFUSALS as error:
        return type(error)
    return None


@pytest.mark.parametrize(
    "header",
    [NOW, "*", " * ", f'"17", {NOW}', f'{NOW},"19"', f' ,, {NOW}\t,, "a,b" , '],
)
def test_a_write_passes_that_expects_the_current_state(header: str) -> None:
    assert outcome(header) is None


@pytest.mark.parametrize("header", ['"17"', '"17", "19"', '""', '"1,18"', '"é"'])
def test_a_write_that_expects_another_state_fails(header: str) -> None:
    assert outcome(header) is PreconditionFailedError


def test_a_weak_tag_lets_no_write_pass_on_either_side() -> None:
    assert outcome(f"W/{NOW}") is PreconditionFailedError
    assert outcome(NOW, f"W/{NOW}") is PreconditionFailedError
    assert outcome(f"W/{NOW}", f"W/{NOW}") is PreconditionFailedError
    assert outcome(f"W/{NOW}, {NOW}") is None


def test_a_write_that_expects_nothing_is_asked_what_it_has_seen() -> None:
    assert outcome(None) is PreconditionRequiredError


@pytest.mark.parametrize("header", ["*", NOW, '"17"', ""])
def test_what_is_gone_is_in_no_state_that_is_expected(header: str) -> None:
    assert outcome(header, None) in (PreconditionFailedError, TagSyntaxError)


HOSTILE = [
    "",
    " ",
    ",",
    "18",
    '"18',
    '18"',
    'w/"18"',
    'W/ "18"',
    "'18'",
    '"18" "19"',
    '"18";q=1',
    f"*, {NOW}",
    f"{NOW}, *",
    f"{NOW}, 19",
    '"1 8"',
    '"18\x00"',
    f"{NOW}\r\nX-Admin: 1",
    f"{NOW}\n",
    '"\u2603"',
    ", " * 30_000,
    '"a", ' * 10_000 + "x",
    '"' * 60_001,
]


@pytest.mark.parametrize("header", HOSTILE, ids=range(len(HOSTILE)))
def test_a_header_that_cannot_be_read_lets_no_write_pass_and_spares_no_answer(
    header: str,
) -> None:
    assert outcome(header) is TagSyntaxError
    assert not is_not_modified(header, NOW)


@given(st.lists(TAGS, min_size=1), GAP, TAGS)
def test_a_list_names_its_elements_and_no_others(
    tags: list[str], gap: str, current: str
) -> None:
    header = gap.join(tags)
    is_strong = not current.startswith("W/")
    may_write = outcome(header, current) is None
    assert may_write == (is_strong and current in tags)
    opaque = {tag.removeprefix("W/") for tag in tags}
    assert is_not_modified(header, current) == (current.removeprefix("W/") in opaque)


@given(st.text())
def test_no_text_ends_in_anything_but_a_refusal(text: str) -> None:
    if text.strip("\t ") != "*" and NOW not in text:
        assert outcome(text) in (PreconditionFailedError, TagSyntaxError)
        assert not is_not_modified(text, NOW)


@pytest.mark.parametrize(
    "header", [NOW, f"W/{NOW}", "*", f'"17", W/{NOW}', f'"17",{NOW}']
)
def test_what_the_client_has_is_not_sent_again(header: str) -> None:
    assert is_not_modified(header, NOW)
    assert is_not_modified(header, f"W/{NOW}")


@pytest.mark.parametrize("header", [None, '"17"', 'W/"17", "19"'])
def test_what_the_client_does_not_have_is_sent(header: str | None) -> None:
    assert not is_not_modified(header, NOW)


def test_versions_and_variants_have_tags_of_their_own() -> None:
    tags = [
        etag(17),
        etag(18),
        etag(17, "en"),
        etag(17, "json"),
        etag(17, "json", "en"),
    ]
    assert len({*tags}) == len(tags)
    for tag in tags:
        check_if_match(tag, tag)


@pytest.mark.parametrize("part", ["", 'a"', "a b", "a\r\nSet-Cookie: x", "é", "\x7f"])
def test_a_tag_cannot_end_its_header(part: str) -> None:
    with pytest.raises(ValueError, match="visible ASCII"):
        etag(part)


async def test_the_naive_comparison_lets_writes_pass_that_have_not_seen_the_state(
    database_url: str, proof: Proof
) -> None:
    engine, sessions = create_engine_and_sessions(database_url)
    await create_tables(engine, Base.metadata)
    async with session_scope(sessions) as session:
        session.add(Extension(id=17, forwards_to="reception"))

    async with session_scope(sessions) as session:
        tag = await naive.save(session, 17, "mobile", None)
    proof.breaks("A client sends no If-Match", "what it has never seen is overwritten")

    async with session_scope(sessions) as session:
        await naive.save(session, 17, "desk", f"W/{tag}")
    async with session_scope(sessions) as session:
        assert (await session.get_one(Extension, 17)).forwards_to == "desk"
    proof.breaks(
        "If-Match holds a weak tag, which does not promise the same bytes",
        "the write passes",
    )
    await engine.dispose()
