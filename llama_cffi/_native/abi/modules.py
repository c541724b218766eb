"""The bindings of ABI mode as Python modules: what cffi's out-of-line ABI mode writes, one for each generation.

Loading one takes milliseconds and neither a compiler nor a parser. Those of the known generations are written when the
package is built; one of a generation that was derived from headers of the user's goes into a cache.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
from functools import cache
from pathlib import Path
from typing import Any

from llama_cffi._native.abi.declarations import declarations
from llama_cffi._native.abi.generation import Generation, generations
from llama_cffi._native.abi.generation import generation as known_generation
from llama_cffi.errors import LibraryError

_PACKAGE = Path(__file__).resolve().parent
# From ggml.h: where gguf_get_tensor_ne is missing, these know the shape of a tensor.
_MORE = """
struct ggml_tensor * ggml_get_tensor(struct ggml_context * ctx, const char * name);
void ggml_free(struct ggml_context * ctx);
"""
# Of the trimmed headers, what only the compiled extension knows.
_API_ONLY = ("build.h", "callbacks.h")


def write_modules(folder: Path) -> list[Path]:
    """Write the module of every known generation into a folder, and return their paths. Needs cffi's C parser."""
    return [_write(one, folder / _file_name(one)) for one in generations()]


def load_ffi(generation: Generation, folder: Path | None = None) -> Any:
    """Return the cffi FFI of one generation.

    A generation that the package has no module for gets one in ``folder``, made now if need be. Without a folder that
    is a :class:`LibraryError`.
    """
    path = _PACKAGE / _file_name(generation)
    if not _is_known(generation) or not path.is_file():
        if folder is None:
            raise LibraryError(f"there is no ABI-mode binding of {generation.name}: reinstall llama-cffi")
        path = folder / f"abi_{_digest(generation)}.py"
        if not path.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            _write(generation, path)
    return _import(path).ffi


@cache
def headers() -> str:
    """Return the trimmed headers as both modes know them, and what ABI mode needs besides."""
    # Imported here, because it imports cffi's parser.
    from llama_cffi._native.binding_build import CDEF_DIR, CDEF_FILES

    names = [name for name in CDEF_FILES if name not in _API_ONLY]
    return "\n".join([*((CDEF_DIR / name).read_text(encoding="utf-8") for name in names), _MORE])


def _file_name(generation: Generation) -> str:
    return f"_{generation.name.replace('.', '_')}.py"


def _digest(generation: Generation) -> str:
    import hashlib

    return hashlib.sha256(declarations(generation, headers()).encode()).hexdigest()[:16]


def _is_known(generation: Generation) -> bool:
    try:
        return generation is known_generation(generation.name)
    except KeyError:
        return False


def _write(generation: Generation, path: Path) -> Path:
    from cffi import FFI

    builder = FFI()
    builder.cdef(declarations(generation, headers()))
    builder.set_source(path.stem, None)
    with contextlib.redirect_stdout(io.StringIO()):  # cffi says what it does
        builder.emit_python_code(str(path))
    return path


def _import(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"{__package__}.{path.stem}", path)
    if spec is None or spec.loader is None:
        raise LibraryError(f"{path} is no Python module")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


__all__ = ["headers", "load_ffi", "write_modules"]
