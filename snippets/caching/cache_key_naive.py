"""Join the arguments of a call with colons, as most hand-written caches do."""


def cache_key(prefix: str, *args: object, **kwargs: object) -> str:
    """Return `prefix:arg1:arg2:name=value`."""
    parts = [str(arg) for arg in args]
    parts.extend(f"{name}={value}" for name, value in kwargs.items())
    return f"{prefix}:{':'.join(parts)}"
