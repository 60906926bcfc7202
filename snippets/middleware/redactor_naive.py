"""The masking that most services write first."""

from collections.abc import Mapping

SENSITIVE_FIELDS = {"password", "secret", "token", "authorization", "api_key"}


def mask(data: Mapping[str, object]) -> dict[str, object]:
    """Replace the values of sensitive fields, also in what is nested."""
    masked: dict[str, object] = {}
    for key, value in data.items():
        if key.lower() in SENSITIVE_FIELDS:
            masked[key] = "***"
        elif isinstance(value, dict):
            masked[key] = mask(value)
        else:
            masked[key] = value
    return masked
