"""Make a regular expression of each grant, with the caller's ids in it."""

import re
from collections.abc import Iterable


class AccessCheck:
    """What the caller may do."""

    def __init__(self, auth_id: str, session_uuid: str, acl: Iterable[str]) -> None:
        """Compile the caller's grants."""
        self._words = {
            "me": f"(me|{auth_id})",
            "my_session": f"(my_session|{session_uuid})",
            "edit": "(edit|update)",
        }
        self._allowed = []
        self._denied = []
        for access in acl:
            if access.startswith("!"):
                self._denied.append(self._compile(access[1:]))
            else:
                self._allowed.append(self._compile(access))

    def matches_required_access(self, required: str | None) -> bool:
        """Return whether the caller may do what is required."""
        if required is None:
            return True
        if any(denied.match(required) for denied in self._denied):
            return False
        return any(allowed.match(required) for allowed in self._allowed)

    def _compile(self, access: str) -> re.Pattern[str]:
        words = []
        for word in access.split("."):
            escaped = re.escape(word).replace(r"\*", "[^.#]*?").replace(r"\#", ".*?")
            words.append(self._words.get(word, escaped))
        pattern = r"\.".join(words)
        return re.compile(f"^{pattern}$")
