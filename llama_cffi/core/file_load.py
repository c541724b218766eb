"""The loading of a file by a native call: its progress, and what went wrong as an exception."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from llama_cffi._native import callbacks, log
from llama_cffi.errors import ModelFileError, ModelLoadCancelled, NativeError

ProgressCallback = Callable[[float], object]


def load_file(
    path: Path, progress: ProgressCallback | None, load: Callable[[callbacks.Progress], Any], *, what: str = ""
) -> tuple[Any, int]:
    """Return the pointer that ``load`` returns, and the mark of the log before it; ``what`` names the kind of file.

    ``load`` gives the callback of its argument to the native call. Raises :class:`ModelFileError` with llama.cpp's
    reason, :class:`ModelLoadCancelled`, and what ``progress`` raised.
    """
    with callbacks.Progress(progress) as reporter:
        mark = log.mark()
        try:
            ptr = load(reporter)
        except NativeError as error:
            raise ModelFileError(f"cannot load {path}: {error.message}", log=error.log) from error
        finally:
            log.pump()
        reporter.reraise()
        if not ptr:
            if reporter.cancelled:
                raise ModelLoadCancelled(f"loading {path} was cancelled by the progress callback")
            lines = log.lines_since(mark)
            raise ModelFileError(f"cannot load {what}{path}{_damage(path)}", log=lines)
    return ptr, mark


def _damage(path: Path) -> str:
    """What is wrong with the file itself, such as an end that is missing; nothing where that is not the reason."""
    from llama_cffi.core.gguf import GGUFFile

    if not path.is_file():
        return ""
    try:
        GGUFFile(path)
    except ModelFileError as error:
        return f": {error.message.replace(str(path), 'it', 1)}"
    return ""


__all__ = ["ProgressCallback", "load_file"]
