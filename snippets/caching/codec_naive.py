"""JSON with `default=str`: everything can be written, and little comes back."""

import json


def encode(value: object) -> str:
    """Return JSON for anything."""
    return json.dumps(value, default=str)


def decode(payload: str | bytes) -> object:
    """Return what the JSON says."""
    return json.loads(payload)
