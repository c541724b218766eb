"""Values, and their kinds, as error messages show them."""

from __future__ import annotations

_MOST = 200


def shown(value: object) -> str:
    """Return the repr of a value, at most 200 characters; its type where it has none, as a list nested too deep."""
    try:
        text = repr(value)
    except Exception:
        return f"<{type(value).__name__}>"
    return text if len(text) <= _MOST else f"{text[:_MOST]}..."


def with_article(thing: object) -> str:
    """Return the name of an object's class with its article, such as "an Image"."""
    name = type(thing).__name__
    return f"{'an' if name[0] in 'AEIOU' else 'a'} {name}"


__all__ = ["shown", "with_article"]
