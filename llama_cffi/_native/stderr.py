"""Capturing text that llama.cpp prints to standard error instead of logging it."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from llama_cffi._util.fork import fork_safe

_lock = fork_safe(threading.Lock())


class Captured:
    """The text that was printed; complete when the ``with`` block has ended."""

    def __init__(self) -> None:
        self.text = ""

    def forward(self) -> None:
        """Print it after all: another part of the program wrote it."""
        if self.text:
            os.write(2, self.text.encode("utf-8", "surrogateescape"))


@contextmanager
def captured() -> Iterator[Captured]:
    """Catch what is written to file descriptor 2 during one short C call.

    Some parsers of llama.cpp say only there what is wrong. Other threads write to the same descriptor: a caller that
    uses this gives back what is not theirs with :meth:`Captured.forward`.
    """
    result = Captured()
    with _lock:
        if sys.stderr is not None:
            sys.stderr.flush()
        try:
            saved = os.dup(2)
        except OSError:  # closed, as in a daemon: there is nothing to catch
            yield result
            return
        # Imported here: it costs a start of the package several milliseconds, and grammars are rare.
        import tempfile

        with tempfile.TemporaryFile() as file:
            os.dup2(file.fileno(), 2)
            try:
                yield result
            finally:
                os.dup2(saved, 2)
                os.close(saved)
                file.seek(0)
                result.text = file.read().decode("utf-8", "surrogateescape")
