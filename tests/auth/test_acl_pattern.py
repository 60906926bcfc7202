"""A pattern matches what its grammar says, in steps that nobody can make explode."""

from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from catalogue.plugin import Proof
from snippets.auth import acl_pattern, acl_pattern_naive
from snippets.auth.acl_pattern import AnyText, compile_pattern
from tests.support import acl_reference
from tests.support.steps import count_lines

unhurried = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=True,
    database=None,
)

NOBODY = {word: (word,) for word in ("me", "my_session", "my_tenant", "edit")}
ADA = {**NOBODY, "me": ("me", "u1"), "edit": ("edit", "update")}


def matches(pattern: str, text: str) -> bool:
    """Return whether a pattern matches a text, for Ada."""
    return acl_pattern.matches(compile_pattern(pattern), text, ADA)


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        ("doc.7.view", "doc.7.view", True),
        ("doc.7.view", "Doc.7.view", False),
        ("doc.7.view", " doc.7.view", False),
        ("doc.7.view", "doc.7.view.all", False),
        ("doc.7.view", "doc.7", False),
        ("doc.*.view", "doc.7.view", True),
        ("doc.*.view", "doc.7.x.view", False),
        ("doc.*.view", "doc.#.view", False),
        ("doc.*.view", "doc.*.view", True),
        ("b*r", "bar", True),
        ("b*r", "br", True),
        ("b*r", "b.r", False),
        ("b**r", "baar", True),
        ("*aa", "aaa", True),
        ("#aa#aa", "aaaa", True),
        ("#aa#aa", "aaa", False),
        ("*a*b*", "xaxbx", True),
        ("*a*b*", "xbxax", False),
        ("doc.#", "doc", False),
        ("doc.#", "doc.", True),
        ("doc.#", "doc.b.c", True),
        ("doc.#", "doc.#", True),
        ("a.#.b", "a.b", False),
        ("a.#.b", "a..b", True),
        ("a.#.b", "a.x.y.b", True),
        ("#.b", "b", False),
        ("#.b", ".b", True),
        ("a#c", "a.b.c", True),
        ("*#", "a.b", True),
        ("a.*", "a.", True),
        ("a.*.b", "a..b", True),
        ("*.*", ".", True),
        ("a.*.*", "a.", False),
        ("a.*.b*.c", "a.x.bx.c", True),
        ("a.*.b*.c", "a.x.bx", False),
        ("a.*.*.c", "a.#.b.c", False),
        ("a.#.*.c", "a.#.b.c", True),
        ("a#.b*c", "a.b.bc", True),
        ("*", "", True),
        ("#", "", True),
        ("", "", True),
        ("", "a", False),
        ("a", "", False),
        ("a.b", "a\nb", False),
        ("#", "a\nb", True),
        ("doc.\N{SNOWMAN}*", "doc.\N{SNOWMAN}\N{SNOWMAN}", True),
    ],
)
def test_wildcards_stand_for_what_the_grammar_says(
    pattern: str, text: str, *, expected: bool
) -> None:
    assert matches(pattern, text) is expected


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        ("doc.me.view", "doc.u1.view", True),
        ("doc.me.view", "doc.me.view", True),
        ("doc.me.view", "doc.u2.view", False),
        ("doc.u1.view", "doc.me.view", False),
        ("me", "u1", True),
        ("me.me", "u1.me", True),
        ("doc.me*", "doc.u1", False),
        ("doc.me*", "doc.mean", True),
        ("doc.xme", "doc.xu1", False),
        ("doc.me#", "doc.u1", False),
        ("doc.ME", "doc.u1", False),
        ("doc.edit", "doc.update", True),
        ("doc.edit", "doc.edit", True),
        ("doc.update", "doc.edit", False),
        ("doc.edited", "doc.updated", False),
    ],
)
def test_a_reserved_word_is_one_only_if_it_stands_alone(
    pattern: str, text: str, *, expected: bool
) -> None:
    assert matches(pattern, text) is expected


def test_a_reserved_word_between_wildcards_is_found_wherever_it_is() -> None:
    assert matches("#.me.#", "x.u1.y.z")
    assert matches("#.me.#", "x.u2.y.u1.z")
    assert matches("*.me.#.me", "a.u1.b.c.u1")
    assert not matches("#.me.#", "x.u11.y.z")
    assert not matches("#.me.#", "x.y.z")


def test_what_a_reserved_word_stands_for_is_compared_as_text() -> None:
    for own in (".*", "*", "#", "a.b", "x|.*", "(", "a\\", "[a-z]+", "me*"):
        words = {**NOBODY, "me": ("me", own)}
        for other in ("u2", "a", "", "a_b", "x", "me2"):
            pattern = compile_pattern("doc.me.view")
            assert acl_pattern.matches(pattern, f"doc.{own}.view", words)
            assert not acl_pattern.matches(pattern, f"doc.{other}.view", words)


def test_an_id_that_can_be_read_in_two_ways_is_read_in_both() -> None:
    words = {**NOBODY, "me": ("me", "me.b", "me_b")}
    pattern = compile_pattern("me.*.x")
    for text, expected in (
        ("me.b.x", True),
        ("me.b.c.x", True),
        ("me.b..x", True),
        ("me_b.c.x", True),
        ("me.c.d.x", False),
    ):
        assert acl_pattern.matches(pattern, text, words) is expected


def test_a_pattern_is_compiled_once_however_many_users_have_it() -> None:
    compile_pattern.cache_clear()
    patterns = [f"extensions.{number}.me.#" for number in range(20)]

    for user in range(1000):
        words = {**NOBODY, "me": ("me", f"user-{user}")}
        for pattern in patterns:
            text = f"extensions.7.user-{user}.read"
            expected = "s.7." in pattern
            assert (
                acl_pattern.matches(compile_pattern(pattern), text, words) is expected
            )

    kept = compile_pattern.cache_info()
    assert (kept.misses, kept.currsize) == (20, 20)
    assert kept.maxsize == acl_pattern.KEPT_PATTERNS


KILOBYTE = 1024
HOSTILE = {
    "dots between any texts": ("#." * 512, "a" + "." * 300 + "a" * 700),
    "too many dots": ("#." * 512 + "x", "." * KILOBYTE),
    "letters between any texts": ("#a" * 512 + "b", "a" * KILOBYTE),
    "letters between segments": ("*a" * 512 + "b", "a" * KILOBYTE),
    "both wildcards": ("#*.*" * 256 + "b", ".a" * 512),
    "own ids": ("#.me.#." * 146 + "b", ".u1" * 340),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_pattern_takes_steps_in_proportion_to_its_length(
    name: str, proof: Proof
) -> None:
    pattern, text = HOSTILE[name]
    compiled = compile_pattern(pattern)

    with count_lines(acl_pattern) as steps:
        assert not acl_pattern.matches(compiled, text, ADA)

    assert len(compiled.rest) >= 250
    assert steps.total <= 25 * len(compiled.rest) + 4 * len(text) + 100
    if name == "dots between any texts":
        assert steps.total <= 9000
        proof.cost("match 1 kB of `#.` with 1 kB, at most", steps=9000)


def test_literal_parts_of_every_length_are_looked_for_once_each() -> None:
    parts = ["a" * length for length in range(1, 44)]
    pattern = compile_pattern("#".join(["", *parts, *parts, "b"]))

    with count_lines(acl_pattern) as steps:
        assert not acl_pattern.matches(pattern, "a" * KILOBYTE, ADA)

    places = sum(KILOBYTE + 1 - len(part) for part in parts)
    assert steps.total <= 4 * places + 25 * len(pattern.rest) + 100


def test_a_common_text_of_hostile_patterns_takes_steps_in_proportion_too() -> None:
    texts, pattern = AnyText("#." * 512 + "x"), compile_pattern("*a#" * 340 + "y")

    with count_lines(acl_pattern) as steps:
        assert not texts.is_matched(pattern, ADA)

    assert steps.total <= 40 * KILOBYTE


def test_the_naive_matcher_tries_all_ways_to_divide_the_text(proof: Proof) -> None:
    pattern, text = "#." * 8 + "x", "a." * 12

    with count_lines(acl_pattern_naive) as naive:
        assert not acl_pattern_naive.matches(pattern, text)
    with count_lines(acl_pattern) as ours:
        assert not matches(pattern, text)

    assert naive.total > 80_000
    assert ours.total < 500
    proof.breaks(
        "A pattern of 17 characters meets a text of 24",
        "more than 80,000 steps, where the pattern takes fewer than 500",
    )


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("s.*", "s.read", True),
        ("s.#", "s.read", True),
        ("#", "s.read", True),
        ("t.*", "s.read", False),
        ("*", "s.read", False),
        ("s.r*e", "s.read", False),
        ("s.r*", "s.*d", True),
        ("#.x.#", "a.*.*.b", True),
        ("a.*.b", "a.#.c", False),
        ("a*", "*b", True),
        ("a*.x", "*b", False),
        ("#a#", "*", True),
        ("s.*.u", "s.me.u", True),
        ("s.u*", "s.me", True),
        ("s.v*", "s.me", False),
        ("*", "#.#", False),
        ("a*", "", False),
        ("*", "", True),
    ],
)
def test_two_patterns_are_told_to_have_a_text_in_common(
    one: str, other: str, *, expected: bool
) -> None:
    assert AnyText(one).is_matched(compile_pattern(other), ADA) is expected


WORDS = [
    "a",
    "b",
    "ab",
    "",
    "*",
    "#",
    "me",
    "a*",
    "*b",
    "a*b",
    "#a",
    "a#b",
    "*a*",
    "**",
]
patterns = st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).map(".".join)
ids = st.sampled_from(["a", "ab", "a.b", "*", "#", "a*", ".", "b."])


def test_the_reference_finds_common_texts_of_the_same_patterns() -> None:
    found = Counter[bool]()

    @settings(unhurried, max_examples=60)
    @given(st.lists(patterns, min_size=5, max_size=5), st.lists(patterns), ids)
    def compare(left: list[str], right: list[str], own: str) -> None:
        words = {**NOBODY, "me": ("me", own, own.replace(".", "_"))}
        meanings = acl_reference.words(own)
        for one in left:
            for other in right:
                expected = acl_reference.share_a_text(
                    acl_reference.tokens(one, {}),
                    acl_reference.tokens(other, meanings),
                )
                answer = AnyText(one).is_matched(compile_pattern(other), words)
                assert answer is expected, (one, other, own)
                found[answer] += 1

    compare()
    assert min(found[True], found[False]) > 50
