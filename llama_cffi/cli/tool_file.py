"""Tools for ``llama-cffi chat``: the functions of a Python file."""

from __future__ import annotations

import inspect
import runpy
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llama_cffi.prompt.tools import Tool


def load_tools(path: Path) -> tuple[Tool, ...]:
    """The public functions that a Python file defines, as tools. The file is run.

    ValueError for a file that cannot be run or defines none, ``OSError`` for one that cannot be read;
    :class:`ToolError` for a function that makes no tool.
    """
    from llama_cffi.prompt.tools import check_tools

    path.open("rb").close()
    try:
        names = runpy.run_path(str(path), run_name="llama_cffi_tools")
    except (Exception, SystemExit) as error:
        raise ValueError(f"{path} cannot be run: {type(error).__name__}: {error}") from error
    functions = [
        value
        for name, value in names.items()
        if inspect.isfunction(value) and not name.startswith("_") and value.__module__ == "llama_cffi_tools"
    ]
    if not functions:
        raise ValueError(f"{path} defines no public function")
    return check_tools(functions)


__all__ = ["load_tools"]
