"""The bindings of ABI mode as Python modules: what cffi's out-of-line ABI mode writes, one for each generation.

Loading one takes milliseconds and neither a compiler nor a parser. Those of the known generations are written when the
package is built. Of a generation that was derived from other headers, what such a module says is kept in a cache, as
data: nothing in a cache is executed.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
from functools import cache
from pathlib import Path
from typing import Any

from llama_cffi._native import cache as cache_files
from llama_cffi._native.abi.declarations import declarations
from llama_cffi._native.abi.generation import Generation, generations
from llama_cffi._native.abi.generation import generation as known_generation
from llama_cffi.errors import LibraryError

MEDIA_MODULE = "_mtmd.py"
_PACKAGE = Path(__file__).resolve().parent
_MEDIA = _PACKAGE.parent / "cdef" / "media"
# From ggml.h: where gguf_get_tensor_ne is missing, these know the shape of a tensor.
_MORE = """
struct ggml_tensor * ggml_get_tensor(struct ggml_context * ctx, const char * name);
void ggml_free(struct ggml_context * ctx);
"""
# Of the trimmed headers, what only the compiled extension knows.
_API_ONLY = ("build.h", "callbacks.h")


def write_modules(folder: Path) -> list[Path]:
    """Write the module of every known generation into a folder, and that of libmtmd; return their paths.

    Needs cffi's C parser.
    """
    media = folder / MEDIA_MODULE
    _emit(media_headers(), media)
    return [*(_write(one, folder / _file_name(one)) for one in generations()), media]


def load_ffi(generation: Generation, folder: Path | None = None) -> Any:
    """Return the cffi FFI of one generation.

    What a generation needs that the package has no module for is kept in ``folder``, made now if need be. Without a
    folder that is a :class:`LibraryError`.
    """
    path = _PACKAGE / _file_name(generation)
    if _is_known(generation) and path.is_file():
        return _import(path).ffi
    if folder is None:
        raise LibraryError(f"there is no ABI-mode binding of {generation.name}: reinstall llama-cffi")
    import _cffi_backend

    text = declarations(generation, headers())
    kept = folder / f"abi_{_digest(text, _cffi_backend.__version__)[:16]}.json"
    found = cache_files.read(kept)
    if found is None or found.get("digest") != _digest(json.dumps(found.get("arguments"))):
        arguments = _plain(_arguments(text))
        cache_files.write(kept, {"arguments": arguments, "digest": _digest(json.dumps(arguments))})
    else:
        arguments = found["arguments"]
    return _cffi_backend.FFI(kept.stem, **{name: _literal(value) for name, value in arguments.items()})


def load_media_ffi() -> Any:
    """Return the cffi FFI of libmtmd's trimmed headers; LibraryError for an install without it."""
    path = _PACKAGE / MEDIA_MODULE
    if not path.is_file():
        raise LibraryError("there is no ABI-mode binding of libmtmd: reinstall llama-cffi")
    return _import(path).ffi


@cache
def media_headers() -> str:
    """Return the trimmed headers of libmtmd, which are the same in both modes."""
    return "\n".join((_MEDIA / name).read_text(encoding="utf-8") for name in ("mtmd.h", "mtmd-helper.h"))


@cache
def headers() -> str:
    """Return the trimmed headers as both modes know them, and what ABI mode needs besides."""
    # Imported here, because it imports cffi's parser.
    from llama_cffi._native.binding_build import CDEF_DIR, CDEF_FILES

    names = [name for name in CDEF_FILES if name not in _API_ONLY]
    return "\n".join([*((CDEF_DIR / name).read_text(encoding="utf-8") for name in names), _MORE])


def _file_name(generation: Generation) -> str:
    return f"_{generation.name.replace('.', '_')}.py"


def _digest(*texts: str) -> str:
    import hashlib

    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def _is_known(generation: Generation) -> bool:
    try:
        return generation is known_generation(generation.name)
    except KeyError:
        return False


def _write(generation: Generation, path: Path) -> Path:
    _emit(declarations(generation, headers()), path)
    return path


def _emit(text: str, path: Path) -> None:
    from cffi import FFI

    builder = FFI()
    builder.cdef(text)
    builder.set_source(path.stem, None)
    with contextlib.redirect_stdout(io.StringIO()):  # cffi says what it does
        builder.emit_python_code(str(path))


def _arguments(text: str) -> dict[str, Any]:
    """What cffi's module of these declarations makes its FFI from: literals."""
    import ast
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "declared.py")
        _emit(text, path)
        tree = ast.parse(path.read_text(encoding="utf-8"))
    call = next(node for node in ast.walk(tree) if isinstance(node, ast.Call))
    return {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}


def _plain(value: Any) -> Any:
    """Numbers, bytes and tuples of them as JSON has them; :func:`_literal` is the way back."""
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _literal(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("latin-1")
    return tuple(map(_literal, value)) if isinstance(value, list) else value


def _import(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"{__package__}.{path.stem}", path)
    if spec is None or spec.loader is None:
        raise LibraryError(f"{path} is not a Python module")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


__all__ = ["MEDIA_MODULE", "headers", "load_ffi", "load_media_ffi", "media_headers", "write_modules"]
