"""What changed between two states of a row, as written first."""

import json
from collections.abc import Mapping


def diff(old: Mapping[str, object], new: Mapping[str, object]) -> str:
    """Return the old and the new value of what changed, as JSON."""
    changed = {
        name: [old.get(name), value]
        for name, value in new.items()
        if old.get(name) != value
    }
    return json.dumps(changed, default=str)
