"""Ada and Grace have seen the forwarding of one extension in the same state."""

from snippets.database.conditional_request import (
    PreconditionFailedError,
    PreconditionRequiredError,
    TagSyntaxError,
    check_if_match,
    etag,
    is_not_modified,
)


def main() -> None:
    """Let Ada write, and Grace read again."""
    seen = etag(17)
    print(seen, etag(17, "json", "en"))
    # > "17" "17-json-en"

    check_if_match(seen, current=etag(17))
    print("Ada may write")
    # > Ada may write

    for header in (seen, f"W/{etag(18)}", None, "18"):
        try:
            check_if_match(header, current=etag(18))
        except (
            PreconditionFailedError,
            PreconditionRequiredError,
            TagSyntaxError,
        ) as error:
            refusal = type(error).__name__
            print(f"If-Match: {header}: {refusal}")
            # > If-Match: "17": PreconditionFailedError
            # > If-Match: W/"18": PreconditionFailedError
            # > If-Match: None: PreconditionRequiredError
            # > If-Match: 18: TagSyntaxError

    known = 'W/"17", W/"18"'
    print("Grace has it already:", is_not_modified(known, current=etag(18)))
    # > Grace has it already: True
    print("and when it changes:", is_not_modified(known, current=etag(19)))
    # > and when it changes: False


if __name__ == "__main__":
    main()
