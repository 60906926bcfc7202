"""Match a pattern by trying what each wildcard could stand for, as written first."""


def matches(pattern: str, text: str) -> bool:
    """Return whether the pattern, of text and `*` and `#`, matches the whole text."""
    if not pattern:
        return not text
    head, rest = pattern[0], pattern[1:]
    if head == "#":
        return any(matches(rest, text[end:]) for end in range(len(text) + 1))
    if head == "*":
        end = 0
        while not matches(rest, text[end:]):
            if end == len(text) or text[end] in ".#":
                return False
            end += 1
        return True
    return text[:1] == head and matches(rest, text[1:])
