"""Guarded calls: errors that would end the process inside llama.cpp become :class:`NativeError`.

llama.cpp ends the process when an assertion fails, and lets C++ exceptions out of its C functions. Each
function here calls one llama.h function through the C++ helper, which catches both. Validation comes first
and belongs to the caller; this is the net under it. An assertion on one of llama.cpp's own threads, or in
the middle of a graph, cannot be caught: then the reason, the last log lines and the Python stacks of all
threads go to standard error before the process ends.

Without the compiled helpers nothing is caught: see ``pure/guard.py`` for what is then looked at before a call.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, Any, NoReturn

from llama_cffi._native import atomic, bound, helpers, log
from llama_cffi._native.atomic import Cell
from llama_cffi._native.helpers import ffi, lib
from llama_cffi._native.log import lines_since, mark
from llama_cffi.errors import NativeError

if TYPE_CHECKING:
    from llama_cffi._native.abort import AbortFlag
    from llama_cffi._native.turn import Turn

_FAILED = int(lib.LCH_FAILED)
_MAX_ARGS = 8

_cast = ffi.cast
_lch_batch, _lch_sample, _lch_accept, _lch_call = lib.lch_batch, lib.lch_sample, lib.lch_accept, lib.lch_call
_lch_call_deep, _lch_compute = lib.lch_call_deep, lib.lch_compute


def install(llama_ffi: Any, llama_lib: Any) -> None:
    """Route failed assertions of a loaded library here. Wraps ``ggml_set_abort_callback``."""
    callback = llama_ffi.cast("ggml_abort_callback_t", helpers.address("lch_on_abort"))
    llama_lib.ggml_set_abort_callback(callback)
    if helpers.KIND == "python":
        # No Python may run once the interpreter has ended.
        weakref.finalize(install, llama_lib.ggml_set_abort_callback, llama_ffi.cast("ggml_abort_callback_t", 0))


# -- calls with a fixed shape


def decode(ctx: Any, batch: Any, turn: Turn | None = None, flag: AbortFlag | None = None) -> int:
    """Status of ``llama_decode`` for the ``llama_batch`` that ``batch`` points to.

    With a ``turn``, which the ``flag`` stops waiting for: or :data:`~.turn.STOPPED` or :data:`~.turn.NESTED`.
    """
    return _compute("llama_decode", ctx, batch, turn, flag)


def encode(ctx: Any, batch: Any, turn: Turn | None = None, flag: AbortFlag | None = None) -> int:
    """Status of ``llama_encode``; as :func:`decode`."""
    return _compute("llama_encode", ctx, batch, turn, flag)


def _compute(name: str, ctx: Any, batch: Any, turn: Turn | None, flag: AbortFlag | None) -> int:
    if turn is None or flag is None:
        result = _lch_batch(address(name), ctx, batch, _size("llama_batch"))
    else:
        result = _lch_compute(turn.native, flag.native, address(name), ctx, batch, _size("llama_batch"))
    return int(result) if result != _FAILED else fail(name)


def sampler_sample(chain: Any, ctx: Any, idx: int) -> int:
    """Token that ``llama_sampler_sample`` selects, and accepts, for an output row."""
    result = _lch_sample(address("llama_sampler_sample"), chain, ctx, idx)
    return int(result) if result != _FAILED else fail("llama_sampler_sample")


def sampler_accept(sampler: Any, token: int) -> None:
    """Wraps ``llama_sampler_accept``; a token that a grammar forbids raises."""
    if _lch_accept(address("llama_sampler_accept"), sampler, token) == _FAILED:
        fail("llama_sampler_accept")


def sampler_apply(sampler: Any, candidates: Any) -> None:
    """Wraps ``llama_sampler_apply`` for the ``llama_token_data_array`` that ``candidates`` points to."""
    call_int("llama_sampler_apply", sampler, candidates)


def sampler_reset(sampler: Any) -> None:
    """Wraps ``llama_sampler_reset``."""
    call_int("llama_sampler_reset", sampler)


def sampler_clone(sampler: Any, cell: Cell) -> Any:
    """Wraps ``llama_sampler_clone``."""
    return call_ptr("llama_sampler_clone", sampler, cell=cell)


def sampler_chain_add(chain: Any, cell: Cell) -> None:
    """Give what a cell holds to a chain, in one step. Wraps ``llama_sampler_chain_add``."""
    atomic.free(partial(bound.lib.llama_sampler_chain_add, chain), cell, _owned_type("llama_sampler_free"))


def model_load_from_file(path: bytes, params: Any, cell: Cell | None = None) -> Any:
    """Return the model, or NULL. Wraps ``llama_model_load_from_file``.

    Here and below, the ``cell`` of a :class:`Handle` holds what was made from the moment on at which it is there.
    """
    return _with_params("llama_model_load_from_file", ffi.from_buffer(path + b"\0"), params, cell)


def model_load_from_file_ptr(file: Any, params: Any, cell: Cell | None = None) -> Any:
    """Return the model, or NULL. Wraps ``llama_model_load_from_file_ptr``."""
    return _with_params("llama_model_load_from_file_ptr", file, params, cell)


def model_load_from_splits(paths: Sequence[bytes], params: Any, cell: Cell | None = None) -> Any:
    """Return the model, or NULL. Wraps ``llama_model_load_from_splits``."""
    name = "llama_model_load_from_splits"
    texts = [ffi.from_buffer("char[]", path + b"\0") for path in paths]
    pointer, size = _struct(params)
    array = ffi.new("char *[]", texts)
    return _made(name, cell, lib.lch_with_list, address(name), array, len(texts), pointer, size)


def init_from_model(model: Any, params: Any, cell: Cell | None = None) -> Any:
    """Return the context, or NULL. Wraps ``llama_init_from_model``."""
    return _with_params("llama_init_from_model", model, params, cell)


# -- calls of libmtmd with structs


def media_init(path: bytes, model: Any, params: Any, cell: Cell) -> Any:
    """Return the ``mtmd_context``, or NULL. Wraps ``mtmd_init_from_file``."""
    name = "mtmd_init_from_file"
    pointer, size = _struct(params)
    text = ffi.from_buffer(path + b"\0")
    return _made(name, cell, lib.lch_with_list, address(name), text, int(_cast("intptr_t", model)), pointer, size)


def media_decode(context: Any, data: bytes, options: Any, out: Any) -> None:
    """Fill in the ``mtmd_helper_bitmap_wrapper`` that ``out`` points to; both NULL for what cannot be decoded.

    Wraps ``mtmd_helper_bitmap_init_from_buf``.
    """
    name = "mtmd_helper_bitmap_init_from_buf"
    pointer, size = _struct(options)
    if lib.lch_decode_file(address(name), context, ffi.from_buffer(data), len(data), 0, pointer, size, out) == _FAILED:
        fail(name)


# -- calls of any shape


def call_int(name: str, *args: Any) -> int:
    """Result of any llama.h function with up to eight integer, bool or pointer arguments; 0 for a void one.

    Pointers may be cffi data, bytes, or None for NULL; a pointer result comes back as its address.
    """
    result = _lch_call(*words(name, args))
    return int(result) if result != _FAILED else fail(name)


def call_int_deep(stack: int, name: str, *args: Any) -> int:
    """Like :func:`call_int`, with at least ``stack`` bytes of stack for a function that recurses by what it is given.

    Where this thread has fewer left, the call runs on a thread of its own. Memory is taken for what it comes to use.
    """
    result = _lch_call_deep(stack, *words(name, args))
    return int(result) if result != _FAILED else fail(name)


def call_ptr_deep(stack: int, name: str, *args: Any, cell: Cell | None = None) -> Any:
    """Like :func:`call_int_deep`, for a function that returns a pointer."""
    return _made(name, cell, _lch_call_deep, stack, *words(name, args))


def call_ptr(name: str, *args: Any, cell: Cell | None = None) -> Any:
    """Like :func:`call_int`, for a function that returns a pointer: cffi data of its declared type."""
    return _made(name, cell, _lch_call, *words(name, args))


def call_found(name: str, function: Any, *args: Any) -> int:
    """Like :func:`call_int`, for a function pointer that a backend has handed out, with a pointer as its result."""
    target = function if helpers.KIND == "python" else _cast("void *", function)
    result = _lch_call(target, lib.LCH_INT64, *[_word(arg) for arg in args], *_PADDING[len(args)])
    return int(result) if result != _FAILED else fail(name)


def words(name: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return a call as ``lch_call`` takes it: the function, the kind of its result, and eight words."""
    address, kind, n_args = _function(name)
    if len(args) != n_args:
        raise TypeError(f"{name} takes {n_args} arguments, not {len(args)}")
    return address, kind, *[_word(arg) for arg in args], *_PADDING[n_args]


_PADDING = [(0,) * (_MAX_ARGS - n) for n in range(_MAX_ARGS + 1)]


def _word(arg: Any) -> int:
    if isinstance(arg, int):
        return arg
    if isinstance(arg, ffi.CData):
        return int(_cast("intptr_t", arg))
    if isinstance(arg, bytes):
        # The caller's argument tuple keeps the bytes alive; CPython ends them with a NUL.
        return int(_cast("intptr_t", ffi.from_buffer(arg)))
    if arg is None:
        return 0
    return int(arg.__index__())


def _with_params(name: str, first: Any, params: Any, cell: Cell | None) -> Any:
    pointer, size = _struct(params)
    return _made(name, cell, lib.lch_with_params, address(name), first, pointer, size)


def _struct(params: Any) -> tuple[Any, int]:
    """Address and size of a struct given as such or as a pointer to it."""
    if bound.ffi.typeof(params).kind == "struct":
        params = bound.ffi.addressof(params)
    return params, bound.ffi.sizeof(params[0])


def _made(name: str, cell: Cell | None, helper: Any, *args: Any) -> Any:
    """The pointer that a helper returns, kept in the cell unless it is NULL."""
    cell = [] if cell is None else cell
    helpers.keep(cell, helper, *args)
    result = cell[0]
    if result == _FAILED or not result:
        cell.clear()
    if result == _FAILED:
        fail(name)
    return bound.ffi.cast(bound.ffi.typeof(bound.home(name).function(name)).result, result)


def free(name: str, cell: Cell) -> None:
    """Give what a cell holds to a llama.h function that frees it; see :func:`atomic.free`."""
    if cell and (cell[0] == _FAILED or not cell[0]):
        cell.clear()
    if cell:
        atomic.free(getattr(bound.home(name).lib, name), cell, _owned_type(name))


@cache
def _owned_type(name: str) -> Any:
    """The type of the pointer that a llama.h function frees, as a function that gives it to an address."""
    return partial(bound.ffi.cast, bound.ffi.typeof(bound.home(name).function(name)).args[0])


@cache
def address(name: str) -> Any:
    """Return a llama.h function as the helpers take it."""
    return helpers.function(name)


@cache
def _size(struct: str) -> int:
    return int(bound.ffi.sizeof(struct))


_RESULTS = {
    "void": lib.LCH_VOID,
    "bool": lib.LCH_BOOL,
    "_Bool": lib.LCH_BOOL,
}


@cache
def _function(name: str) -> tuple[Any, int, int]:
    """Address, kind of result and number of arguments of a llama.h function."""
    llama_ffi = bound.ffi
    function = llama_ffi.typeof(bound.home(name).function(name))
    by_value = [arg.cname for arg in function.args if not _is_word(arg)]
    if by_value or len(function.args) > _MAX_ARGS or not _is_word(function.result, void=True):
        raise TypeError(f"{name} cannot be called through call_int: {function.cname}")
    return address(name), _result_kind(function.result), len(function.args)


def _is_word(ctype: Any, *, void: bool = False) -> bool:
    if ctype.kind == "primitive":
        return ctype.cname not in ("float", "double", "long double")
    return ctype.kind in ("pointer", "function", "enum") or (void and ctype.kind == "void")


def _result_kind(ctype: Any) -> int:
    if ctype.kind in ("void", "primitive") and ctype.cname in _RESULTS:
        return int(_RESULTS[ctype.cname])
    if ctype.kind in ("pointer", "function") or bound.ffi.sizeof(ctype) == 8:
        return int(lib.LCH_INT64)
    signed = int(bound.ffi.cast(ctype, -1)) < 0
    return int(lib.LCH_INT32 if signed else lib.LCH_UINT32)


_PATH = re.compile(r"^\S*[/\\](?=[^/\\\s]+:\d+: )")


def fail(name: str) -> NoReturn:
    """Raise why this thread's last guarded call, of the function ``name``, failed."""
    message = ffi.string(lib.lch_failure()).decode("utf-8", "replace")
    raise NativeError(f"{name}: {_PATH.sub('', message)}", log=log.lines_since(log.call_mark()))


__all__ = [
    "address",
    "call_found",
    "call_int",
    "call_int_deep",
    "call_ptr",
    "call_ptr_deep",
    "decode",
    "encode",
    "fail",
    "free",
    "init_from_model",
    "install",
    "lines_since",
    "mark",
    "media_decode",
    "media_init",
    "model_load_from_file",
    "model_load_from_file_ptr",
    "model_load_from_splits",
    "sampler_accept",
    "sampler_apply",
    "sampler_chain_add",
    "sampler_clone",
    "sampler_reset",
    "sampler_sample",
    "words",
]
