"""Objects that exist once, in the process that made them."""

from __future__ import annotations

from typing import Any, ClassVar, NoReturn

from llama_cffi._util.shown import with_article


class ProcessBound:
    """An object that can be neither pickled nor copied: both raise TypeError, and the message says what to do instead.

    It holds something that exists once, for example native memory or a lock. Without this class, ``copy.copy`` would
    give a second wrapper of the same thing, and pickle would name a lock that the caller has never seen.
    """

    __slots__ = ()

    #: What to do instead, as the end of "a Model cannot be pickled: ...".
    _instead_of_pickling: ClassVar[str] = "make one in each process"
    #: What to do instead, as the end of "a Model cannot be copied: ...".
    _instead_of_copying: ClassVar[str] = "share it, or make another one"

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{with_article(self)} cannot be pickled: {self._instead_of_pickling}")

    def __copy__(self) -> NoReturn:
        raise TypeError(f"{with_article(self)} cannot be copied: {self._instead_of_copying}")

    def __deepcopy__(self, memo: dict[int, Any]) -> NoReturn:
        self.__copy__()


__all__ = ["ProcessBound"]
