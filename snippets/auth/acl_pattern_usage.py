"""Ask which texts a few patterns match, for Ada whose id is u1."""

from snippets.auth.acl_pattern import AnyText, compile_pattern, matches

WORDS = {"me": ("me", "u1"), "edit": ("edit", "update")}


def main() -> None:
    """Match texts, then patterns with one another."""
    for pattern, text in (
        ("extensions.*.read", "extensions.1001.read"),
        ("extensions.*.read", "extensions.1001.line.read"),
        ("extensions.#", "extensions.1001.line.read"),
        ("extensions.#", "extensions"),
        ("users.me.edit", "users.u1.update"),
        ("users.me.edit", "users.u2.update"),
    ):
        print(pattern, text, matches(compile_pattern(pattern), text, WORDS))
        # > extensions.*.read extensions.1001.read True
        # > extensions.*.read extensions.1001.line.read False
        # > extensions.# extensions.1001.line.read True
        # > extensions.# extensions False
        # > users.me.edit users.u1.update True
        # > users.me.edit users.u2.update False

    denied = compile_pattern("calls.*.record")
    for offered in ("calls.1001.*", "calls.*.transfer", "#.record"):
        print(
            offered, "reaches what is denied:", AnyText(offered).is_matched(denied, {})
        )
        # > calls.1001.* reaches what is denied: True
        # > calls.*.transfer reaches what is denied: False
        # > #.record reaches what is denied: True


if __name__ == "__main__":
    main()
