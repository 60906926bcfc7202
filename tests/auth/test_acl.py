"""What is allowed is what the grants say, for every id and in every order."""

import itertools
import re
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from catalogue.plugin import Proof
from snippets.auth import acl, acl_naive, acl_pattern
from snippets.auth.acl import LONGEST, AccessCheck
from snippets.auth.acl_pattern import compile_pattern
from tests.support import acl_reference
from tests.support.steps import count_lines

unhurried = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=True,
    database=None,
)

HARD_IDS = [
    "john.doe",
    ".*",
    "x|.*",
    "a)b",
    "(a",
    "D\\u",
    "bob+x@e.com",
    "[a-z]+",
    "a{2}",
    "^",
    "$",
    "?",
    "*",
    "#",
    "!",
    "me",
    "(?P<n>.)",
    "\\",
]


def ada(*grants: str, auth_id: str | None = "u1") -> AccessCheck:
    """Return what a user with these grants may do."""
    return AccessCheck(auth_id, "s1", grants, "t1")


@pytest.mark.parametrize(
    ("grants", "required", "expected"),
    [
        (["doc.*.view"], "doc.7.view", True),
        (["doc.*.view"], "doc.7.x.view", False),
        (["doc.#"], "doc", False),
        (["doc.#"], "doc.", True),
        (["doc.me.view"], "doc.u1.view", True),
        (["doc.me.view"], "doc.me.view", True),
        (["doc.me.view"], "doc.u2.view", False),
        (["doc.u1.view"], "doc.me.view", False),
        (["doc.#", "!doc.me.drop"], "doc.u1.drop", False),
        (["doc.edit"], "doc.update", True),
        (["doc.update"], "doc.edit", False),
        (["doc.my_session"], "doc.s1", True),
        (["doc.my_tenant"], "doc.t1", True),
        (["doc.my_tenant"], "doc.s1", False),
        ([], "doc", False),
        ([], "", False),
        (["doc"], "", False),
        (["*"], "", True),
        (["#"], "", True),
        ([""], "", True),
    ],
)
def test_grants_allow_what_they_match(
    grants: list[str], required: str, *, expected: bool
) -> None:
    assert ada(*grants).matches_required_access(required) is expected


def test_nothing_required_is_always_allowed() -> None:
    assert ada().matches_required_access(None)
    assert ada("!#").matches_required_access(None)


def test_a_denial_wins_in_whatever_order_and_however_general() -> None:
    grants = ["users.7.delete", "users.#", "!users.*.delete"]
    for order in itertools.permutations(grants):
        check = ada(*order)
        assert not check.matches_required_access("users.7.delete")
        assert check.matches_required_access("users.7.read")
    assert not ada("users.7", "!#").matches_required_access("users.7")


def test_only_one_exclamation_mark_is_a_denial() -> None:
    denies_marked = ada("#", "!!x")
    assert not denies_marked.matches_required_access("!x")
    assert denies_marked.matches_required_access("x")
    assert ada("a.!x").matches_required_access("a.!x")
    assert ada("#").matches_required_access("!x")
    assert not ada("!x").matches_required_access("!x")


def test_wildcards_and_reserved_words_that_are_required_are_plain_text() -> None:
    assert not ada("doc.7").matches_required_access("doc.*")
    assert not ada("doc.7").matches_required_access("doc.#")
    assert not ada("doc.u1").matches_required_access("doc.me")
    assert not ada("doc.update").matches_required_access("doc.edit")
    assert not ada("doc.*").matches_required_access("doc.#")
    assert ada("doc.*").matches_required_access("doc.*")
    assert ada("#").matches_required_access("doc.#")


def test_required_text_that_is_very_long_is_denied() -> None:
    check = AccessCheck("u1", "s1", ["#"])
    assert check.matches_required_access("a" * LONGEST)
    assert not check.matches_required_access("a" * (LONGEST + 1))
    assert not check.may_add_access("a" * (LONGEST + 1))
    assert not AccessCheck("u1", "s1", ["#", "!a"]).may_add_access("*" * 70_000)


@pytest.mark.parametrize("char", ["\n", "\r\n", "\0", "\t", "\x7f", "\x85", "\x9f"])
def test_required_text_with_control_characters_is_denied(char: str) -> None:
    for required in (f"a.b{char}", f"{char}a.b", f"a{char}.b", char):
        assert not ada("#", "a.b", required).matches_required_access(required)
    assert ada("a.*").matches_required_access("a.\N{SNOWMAN}\xa0\xad")


@pytest.mark.parametrize("auth_id", HARD_IDS)
def test_an_id_of_any_characters_matches_itself_only(auth_id: str) -> None:
    check = ada("users.me.read", auth_id=auth_id)

    assert check.matches_required_access(f"users.{auth_id}.read")
    assert check.matches_required_access("users.me.read")
    for other in ("u2", "", "x", "a", "aa", "D", "Du", "john-doe", "bobx@e.com"):
        assert not check.matches_required_access(f"users.{other}.read")


@pytest.mark.parametrize("auth_id", HARD_IDS)
def test_a_denial_applies_to_an_id_of_any_characters(auth_id: str) -> None:
    check = ada("#", "!users.me.delete", auth_id=auth_id)

    assert not check.matches_required_access(f"users.{auth_id}.delete")
    assert not check.matches_required_access("users.me.delete")
    assert check.matches_required_access("users.u2.delete")


def test_an_id_with_dots_is_recognised_as_it_stands_in_a_path() -> None:
    check = ada("users.me.read", auth_id="john.doe")
    assert check.matches_required_access("users.john_doe.read")
    assert check.matches_required_access("users.john.doe.read")
    assert not check.matches_required_access("users.john-doe.read")

    denied = ada("#", "!users.*.delete", auth_id="john.doe")
    assert not denied.matches_required_access("users.john_doe.delete")


@pytest.mark.parametrize("auth_id", [None, ""])
def test_without_an_id_the_word_matches_only_itself(auth_id: str | None) -> None:
    check = AccessCheck(auth_id, auth_id, ["a.me.b", "c.my_session", "d.my_tenant"])
    for required in ("a.me.b", "c.my_session", "d.my_tenant"):
        assert check.matches_required_access(required)
    for required in ("a..b", "a.None.b", "c.", "c.None", "d.", "d.None"):
        assert not check.matches_required_access(required)


def test_no_id_is_confused_with_another_word() -> None:
    check = AccessCheck("u1", "s1", ["a.me"], "t1")
    assert not check.matches_required_access("a.s1")
    assert not check.matches_required_access("a.t1")


@pytest.mark.parametrize(
    ("grants", "access", "expected"),
    [
        (["doc.*"], "doc.*", True),
        (["doc.*"], "doc.#", False),
        (["doc.*"], "!doc.x", True),
        (["doc.*"], "doc.7", True),
        (["doc.*"], "doc", False),
        ([], "!#", True),
        ([], "", False),
        (["#"], "#", True),
        (["#"], "doc.*.#", True),
        (["#"], "doc.#\n", False),
        (["#", "!s.read"], "s.*", False),
        (["#", "!s.read"], "s.#", False),
        (["#", "!s.read"], "#", False),
        (["#", "!s.read"], "s.r*d", False),
        (["#", "!s.read"], "s.read", False),
        (["#", "!s.read"], "s.write", True),
        (["#", "!s.read"], "t.*", True),
        (["#", "!s.*"], "s*", True),
        (["#", "!s.me"], "s.u*", False),
        (["#", "!s.me"], "s.v*", True),
        (["#", "!s.me"], "s.u1", False),
        (["doc.edit"], "doc.edit", True),
        (["doc.update"], "doc.edit", False),
        (["doc.e*"], "doc.edit", False),
        (["doc.e*", "doc.u*"], "doc.edit", True),
        (["doc.#", "!doc.update"], "doc.edit", False),
        (["#", "!a.update.b"], "a.edit.*", False),
        (["#", "!a.update.b"], "a.read.*", True),
        (["doc.me"], "doc.me", True),
        (["doc.u1"], "doc.me", False),
        (["doc.my_session"], "doc.my_session", True),
    ],
)
def test_a_caller_may_give_what_it_has_and_is_not_denied(
    grants: list[str], access: str, *, expected: bool
) -> None:
    assert ada(*grants).may_add_access(access) is expected


@pytest.mark.parametrize(
    ("grants", "access", "expected"),
    [
        (["doc.*"], "doc.*", True),
        (["doc.*"], "doc.#", False),
        (["doc.*"], "!doc.x", True),
        (["doc.*"], "!doc.#", False),
        ([], "!doc.x", False),
        (["#"], "!!x", True),
        (["x"], "!!x", False),
        (["#", "!s.read"], "s.*", False),
        (["#", "!s.read"], "!s.*", False),
        (["#", "!s.read"], "!t.#", True),
        (["#", "!s.read"], "!s.read", False),
        (["doc.e*"], "doc.edit", True),
        (["#", "!a.update.b"], "a.edit.*", False),
        (["#"], "edit.edit.edit.edit.edit.*", True),
        (["#", "!x"], "edit.edit.edit.edit.edit.*", False),
    ],
)
def test_a_caller_may_take_away_what_it_has_and_is_not_denied(
    grants: list[str], access: str, *, expected: bool
) -> None:
    assert ada(*grants).may_remove_access(access) is expected


def test_every_mixture_of_the_meanings_of_edit_must_be_allowed() -> None:
    pairs = list(itertools.product(("edit", "update"), repeat=2))
    all_of_them = [f"{one}.{other}" for one, other in pairs]
    exact = [grant.replace("edit", "e*t") for grant in all_of_them]

    assert ada(*exact).may_add_access("edit.edit")
    for missing in exact:
        rest = [grant for grant in exact if grant != missing]
        assert not ada(*rest).may_add_access("edit.edit")


def test_with_more_words_edit_than_can_be_weighed_only_a_superuser_may_add() -> None:
    many = ".".join(["edit"] * 200)
    assert ada("#").may_add_access(many)
    assert not ada("#").may_add_access(many + "\n")

    with count_lines(acl) as steps:
        assert not ada("#", "!x").may_add_access(many)
        assert not ada("edit.#").may_add_access(f"{many}.*")
        assert not ada("#", "!x").may_remove_access(f"{many}.*")
    assert steps.total < 200


def test_a_superuser_has_the_grant_of_everything_and_no_denial() -> None:
    assert ada("a", "#").is_superuser
    assert not ada("#", "!x").is_superuser
    assert not ada("*", "#.#", "a").is_superuser
    assert not ada().is_superuser


def test_grants_may_come_from_any_iterable() -> None:
    check = AccessCheck("u1", "s1", (one for one in ("#", "!a")))
    assert check.matches_required_access("b")
    assert not check.matches_required_access("a")
    assert not check.is_superuser


def test_a_thousand_users_of_20_grants_compile_20_patterns(proof: Proof) -> None:
    compile_pattern.cache_clear()
    grants = [f"extensions.{number}.me.#" for number in range(20)]

    for number in range(1000):
        check = AccessCheck(f"u{number}", "s1", grants)
        assert check.matches_required_access(f"extensions.19.u{number}.x")

    kept = compile_pattern.cache_info()
    assert (kept.misses, kept.currsize) == (20, 20)
    proof.cost("1000 users with the same 20 grants", compilations=20)


def test_a_check_of_grants_with_other_prefixes_does_not_even_begin_to_match() -> None:
    grants = [f"service-{number}.*.me.#" for number in range(200)]
    check = ada(*grants)
    with count_lines(acl_pattern) as steps:
        assert not check.matches_required_access("users.7.read")
    assert steps.total < 10


GRANT_WORDS = [
    *("a", "b", "ab", "", "*", "#", "edit", "update", "me*", "*me", "a*", "*b"),
    *(
        "aa*",
        "*aa",
        "a*b",
        "#a",
        "a#b",
        "**",
        "*#",
        "!",
        "me",
        "me",
        "my_session",
        "my_tenant",
    ),
]
OWN = ["{0}", "{0}", "{1}", "{2}"]
TEXT_WORDS = [
    "a",
    "b",
    "ab",
    "",
    "*",
    "#",
    "edit",
    "update",
    "me",
    "my_session",
    "aab",
    "aaa",
]
METACHARACTERS = ".^$*+?{}[]\\|()#!_-a"

WIDE = ["*", "#", "*.*", "a.#", "#.b", "*.me", "#.#", "*b*", "edit.*", "a.*.*"]

own_ids = st.one_of(st.sampled_from(HARD_IDS), st.text(METACHARACTERS, max_size=4))
grants_ = st.builds(
    lambda mark, words: mark + ".".join(words),
    st.sampled_from(["", "", "", "!"]),
    st.lists(st.sampled_from(GRANT_WORDS), min_size=1, max_size=4),
)
texts = st.lists(st.sampled_from(TEXT_WORDS + OWN), min_size=1, max_size=4).map(
    ".".join
)


def test_ten_thousand_pairs_are_decided_as_the_reference_decides_them() -> None:
    decided = Counter[bool]()

    @settings(unhurried, max_examples=60)
    @given(
        own=st.tuples(own_ids, own_ids, own_ids),
        acl=st.lists(grants_, min_size=14, max_size=14),
        forms=st.lists(texts, min_size=14, max_size=14),
        escaped=st.booleans(),
    )
    def compare(
        own: tuple[str, str, str], acl: list[str], forms: list[str], *, escaped: bool
    ) -> None:
        auth_id, session, tenant = own
        meanings = acl_reference.words(auth_id, session, tenant)
        shown = [one.replace(".", "_") if escaped else one for one in own]
        required = [form.format(*shown) for form in forms]
        for grant in acl:
            check = AccessCheck(auth_id, session, [grant.removeprefix("!")], tenant)
            for text in required:
                expected = acl_reference.decide(
                    [grant.removeprefix("!")], text, meanings
                )
                answer = check.matches_required_access(text)
                assert answer is expected, (grant, text, own)
                decided[answer] += 1
        whole = AccessCheck(auth_id, session, acl, tenant)
        for text in required:
            expected = acl_reference.decide(acl, text, meanings)
            assert whole.matches_required_access(text) is expected, (acl, text, own)

    compare()
    assert decided.total() >= 10_000
    assert decided[True] > 500


def test_what_may_be_given_is_what_the_reference_finds_free_of_denials() -> None:
    decided = Counter[bool]()

    @settings(unhurried, max_examples=50)
    @given(
        own_ids,
        st.lists(grants_, min_size=1, max_size=2),
        st.lists(st.one_of(grants_, st.sampled_from(WIDE)), min_size=4, max_size=8),
    )
    def compare(own: str, denied: list[str], offered: list[str]) -> None:
        meanings = acl_reference.words(own)
        acl = ["#", *(f"!{one.removeprefix('!')}" for one in denied)]
        check = AccessCheck(own, None, acl)
        denials = [acl_reference.tokens(one[1:], meanings) for one in acl[1:]]
        for access in offered:
            words = {"edit": meanings["edit"]}
            given = acl_reference.tokens(access, words)
            is_wild = bool({"*", "#"} & set(access))
            expected = access.startswith("!") or (
                all(
                    acl_reference.decide(acl, text, meanings)
                    for text in (access, access.replace("edit", "update"))
                )
                and not (
                    is_wild
                    and any(acl_reference.share_a_text(given, one) for one in denials)
                )
            )
            if access.count("edit") > 1:
                continue  # their mixtures have a test of their own
            assert check.may_add_access(access) is expected, (access, acl, own)
            decided[expected] += 1

    compare()
    assert min(decided[True], decided[False]) > 20


def test_a_naive_check_admits_another_user_by_an_id_that_is_a_pattern(
    proof: Proof,
) -> None:
    check = acl_naive.AccessCheck(".*", "s1", ["users.me.read"])
    assert check.matches_required_access("users.u2.read")
    proof.breaks("A user has the id `.*`", "the user's own grant opens everybody's")


def test_a_naive_check_passes_a_trailing_newline(proof: Proof) -> None:
    check = acl_naive.AccessCheck("u1", "s1", ["a.b"])
    assert check.matches_required_access("a.b\n")
    proof.breaks("A newline is appended", "a check that should fail passes")


def test_a_naive_check_raises_for_some_ids(proof: Proof) -> None:
    with pytest.raises(re.error):
        acl_naive.AccessCheck("a(", "s1", ["users.me.read"])
    proof.breaks("A user has the id `a(`", "the check raises")


def test_a_naive_denial_misses_an_id_with_a_plus(proof: Proof) -> None:
    check = acl_naive.AccessCheck("bob+x@e.com", "s1", ["#", "!users.me.delete"])
    assert check.matches_required_access("users.bob+x@e.com.delete")
    proof.breaks("Bob's id has a `+`", "what he is denied is allowed")
