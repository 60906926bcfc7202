"""What a check costs, beside a matcher that compiles the caller's grants.

The floor is the matcher that is written by hand: a regular expression for each grant,
with the caller's escaped ids in it. In the groups of new users each call makes a check
for an id that nobody had before, and asks it once; half of the grants name the caller,
and Python's own cache of expressions helps the floor with the other half. In the groups
of known users each call asks 16 questions, a quarter of which are denied.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable
from itertools import count

from catalogue.bench import Case, compare
from snippets.auth.acl import AccessCheck

SIZES = (20, 200)
KINDS = (
    "confd.users.me.{0}.read",
    "calld.users.me.{0}.#",
    "dird.{0}.*.edit",
    "events.{0}.*.*.updated",
)
SERVICES = [f"resource{number}" for number in range(50)]


class CompilesPerUser:
    """Regular expressions of one caller's grants."""

    def __init__(self, auth_id: str, session_uuid: str, acl: list[str]) -> None:
        """Compile all."""
        self._words = {
            "me": f"(?:me|{re.escape(auth_id)})",
            "my_session": f"(?:my_session|{re.escape(session_uuid)})",
            "edit": "(?:edit|update)",
        }
        self._allowed = [self._compile(one) for one in acl if one[0] != "!"]
        self._denied = [self._compile(one[1:]) for one in acl if one[0] == "!"]

    def matches_required_access(self, required: str) -> bool:
        """Return whether the caller may do what is required."""
        for denied in self._denied:
            if denied.fullmatch(required):
                return False
        return any(allowed.fullmatch(required) for allowed in self._allowed)

    def _compile(self, access: str) -> re.Pattern[str]:
        words = []
        for word in access.split("."):
            escaped = re.escape(word).replace(r"\*", "[^.#]*").replace(r"\#", ".*")
            words.append(self._words.get(word, escaped))
        return re.compile(r"\.".join(words))


def grants(size: int) -> list[str]:
    """Return so many different grants, one in twenty a denial."""
    made = [kind.format(name) for name in SERVICES for kind in KINDS][:size]
    return [f"!{one}" if number % 20 == 7 else one for number, one in enumerate(made)]


def questions(size: int, auth_id: str) -> list[str]:
    """Return 16 permissions, spread over the grants, and four that nobody has."""
    names = SERVICES[: size // len(KINDS)]
    asked = []
    for number in range(12):
        name = names[number * (len(names) - 1) // 11]
        asked.append(
            (
                f"confd.users.{auth_id}.{name}.read",
                f"calld.users.{auth_id}.{name}.7.hold",
                f"dird.{name}.7.update",
                f"events.{name}.7.state.updated",
            )[number % 4]
        )
    foreign = [
        f"confd.users.other.{names[0]}.read",
        f"dird.{names[-1]}.7.8.update",
        "queues.7.read",
        f"events.{names[-1]}.7.updated",
    ]
    return [*asked, *foreign]


Check = type[AccessCheck] | type[CompilesPerUser]


def new_user(check: Check, size: int, users: Callable[[], int]) -> Callable[[], bool]:
    """Return a first question of somebody who was never here before."""
    acl = grants(size)

    def run() -> bool:
        auth_id = f"{users():032x}"
        required = f"dird.{SERVICES[size // len(KINDS) - 1]}.7.update"
        return check(auth_id, "s1", acl).matches_required_access(required)

    return run


def known_user(check: Check, size: int) -> Callable[[], int]:
    """Return the questions of somebody whose check was made before."""
    auth_id = f"{7:032x}"
    known, asked = check(auth_id, "s1", grants(size)), questions(size, auth_id)

    def run() -> int:
        return sum(map(known.matches_required_access, asked))

    return run


def as_coroutine(run: Callable[[], object]) -> Callable[[], Awaitable[object]]:
    """Return what the benchmark awaits."""

    async def wrapped() -> object:
        return run()

    return wrapped


def cases() -> list[Case]:
    """Return all groups."""
    made = []
    users = count(1)
    for size in SIZES:
        for check in (CompilesPerUser, AccessCheck):
            is_ours = check is AccessCheck
            name = "acl" if is_ours else "compiles per user"
            runs: list[tuple[str, Callable[[], object], object]] = [
                ("first check of a new user", new_user(check, size, users.__next__), 1),
                ("16 checks of a known user", known_user(check, size), None),
            ]
            for group, run, _ in runs:
                made.append(
                    Case(
                        group=f"{group}, {size} grants",
                        name=name,
                        run=as_coroutine(run),
                        floor=not is_ours,
                        ours=is_ours,
                    )
                )
    return made


async def main() -> None:
    """Compare, and require that both answer alike."""
    for size in SIZES:
        ours, floor = known_user(AccessCheck, size), known_user(CompilesPerUser, size)
        if not 0 < ours() == floor() < 16:
            raise SystemExit(f"they disagree on {size} grants")
    await compare("auth/acl", cases())


if __name__ == "__main__":
    asyncio.run(main())
