"""Ada answers for the voicemails of a tenant, and hires help."""

from snippets.auth.acl import AccessCheck


def main() -> None:
    """Ask what Ada may do, and what she may hand on."""
    ada = AccessCheck(
        "u1",
        "session-1",
        ["voicemails.#", "users.me.edit", "!voicemails.*.greeting.delete"],
    )

    for required in (
        "voicemails.1001.messages.read",
        "voicemails.1001.greeting.delete",
        "users.u1.update",
        "users.u2.update",
    ):
        print(required, ada.matches_required_access(required))
        # > voicemails.1001.messages.read True
        # > voicemails.1001.greeting.delete False
        # > users.u1.update True
        # > users.u2.update False

    for access in (
        "voicemails.1001.messages.*",
        "voicemails.1001.*.delete",
        "#",
        "!voicemails.1002.#",
    ):
        print("hand on", access, ada.may_add_access(access))
        # > hand on voicemails.1001.messages.* True
        # > hand on voicemails.1001.*.delete False
        # > hand on # False
        # > hand on !voicemails.1002.# True

    print("take back", ada.may_remove_access("voicemails.1001.messages.*"))
    # > take back True
    print("superuser", ada.is_superuser)
    # > superuser False


if __name__ == "__main__":
    main()
