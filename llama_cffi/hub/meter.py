"""The progress of several downloads as one number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llama_cffi.errors import HubCancelled


class Meter:
    """Calls ``progress`` with the fraction of ``total`` bytes that are there; False from it cancels."""

    def __init__(self, total: int, progress: Callable[[float], object] | None) -> None:
        self._total = max(total, 1)
        self._progress = progress
        self._before = 0.0
        self._current = 0.0
        self._size = 0
        self._failure: BaseException | None = None

    def begin(self, size: int) -> None:
        """The next file starts."""
        self._current, self._size = 0, size

    def end(self) -> None:
        """The file is there, whether it was fetched or had been."""
        try:
            self.at(self._size)
        except HubCancelled:
            self.raise_failure()
        self._before += self._size

    def at(self, n: int) -> None:
        """``n`` bytes of the file are there. Raises HubCancelled once the callback said no or failed."""
        # Two counters may run for one file, of what came over the wire and of what was written: the first one counts.
        self.at_fraction(min(n, self._size))

    def at_fraction(self, n: float) -> None:
        """As :meth:`at`, for a part of a file of one."""
        self._current = max(self._current, n)
        if self._progress is not None and self._failure is None:
            try:
                if self._progress(min(1.0, (self._before + self._current) / self._total)) is False:
                    self._failure = HubCancelled("the download was cancelled by its progress callback")
            except BaseException as error:  # not passed on, because it would be treated as a connection error
                self._failure = error
        if self._failure is not None:
            raise HubCancelled("the download was cancelled by its progress callback")

    def part(self, n: int, size: int | None) -> None:
        """``n`` bytes of a file are there that counts as one, whatever its size. Raises as :meth:`at`."""
        self.at_fraction(min(1.0, n / size) if size else 0.0)

    def raise_failure(self) -> None:
        """Raise what ended the download: HubCancelled, or the callback's own exception."""
        if self._failure is not None:
            raise self._failure

    def counter(self) -> type[Any]:
        """Return a class that huggingface_hub takes for a progress bar, and that shows nothing."""
        return type("MeterCounter", (_Counter,), {"_meter": self})


class _Counter:
    """What huggingface_hub uses of tqdm's progress bars."""

    _meter: Meter

    def __init__(self, *, total: int | None = None, initial: int = 0, **_: Any) -> None:
        self.total = total
        self.n = initial

    def update(self, n: float = 1) -> None:
        self.n += int(n)
        self._meter.at(self.n)

    def set_postfix_str(self, text: str = "", refresh: bool = True) -> None:
        """Speeds are not shown."""

    def refresh(self) -> None:
        """Nothing is drawn."""

    def close(self) -> None:
        """Nothing is open."""

    def __enter__(self) -> _Counter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


__all__ = ["Meter"]
