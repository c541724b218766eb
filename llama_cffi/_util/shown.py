"""Values as error messages show them."""

from __future__ import annotations

_MOST = 200


def shown(value: object) -> str:
    """Return the repr of a value, at most 200 characters; its type where it has none, as a list nested too deep."""
    try:
        text = repr(value)
    except Exception:
        return f"<{type(value).__name__}>"
    return text if len(text) <= _MOST else f"{text[:_MOST]}..."


__all__ = ["shown"]
