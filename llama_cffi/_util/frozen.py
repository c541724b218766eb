"""An immutable dict."""

from __future__ import annotations

from typing import Any, NoReturn


class FrozenDict(dict[str, Any]):
    """A dict that cannot be changed; it pickles and compares as a dict does."""

    def _refuse(self, *arguments: object, **named: object) -> NoReturn:
        raise TypeError("options cannot be changed: create new ones")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> tuple[Any, ...]:
        return FrozenDict, (dict(self),)

    def __copy__(self) -> FrozenDict:
        return self


__all__ = ["FrozenDict"]
