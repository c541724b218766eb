"""Calls of llama.h functions; see ``helpers/guard.cpp``. Functions arrive as cffi's callables.

Nothing here can catch a failed assertion or a C++ exception. What the layers above leave to the guard is therefore
looked at before the call: a row without logits, a chain that selects nothing, a token that a grammar forbids.
"""

from __future__ import annotations

import faulthandler
import math
import os
import threading
from functools import cache
from typing import Any

import numpy as np

from llama_cffi._native import atomic, bound
from llama_cffi._native.atomic import Cell
from llama_cffi._native.pure import abort, log
from llama_cffi._native.pure.process import ffi

LCH_FAILED = -(2**63)
LCH_VOID, LCH_BOOL, LCH_INT32, LCH_UINT32, LCH_INT64 = range(5)

_ABORTED = 2  # of llama_decode
_CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])

_first = threading.Lock()


class _Failure(threading.local):
    text = b""


_failure = _Failure()


def _on_abort(message: Any) -> None:
    # Never unlocked: other compute threads fail at the same assertion and wait here for the process to end.
    _first.acquire()
    reason = b"llama_cffi: llama.cpp failed an assertion that no Python call can report: " + ffi.string(message)
    os.write(2, b"".join([reason, b"\n", *[b"  " + line + b"\n" for line in log.tail(16)]]))
    faulthandler.dump_traceback(file=2, all_threads=True)


lch_on_abort: Any = ffi.callback("void(*)(const char *)", _on_abort)


def lch_unguard() -> int:
    return 0


def lch_reguard(depth: int) -> None:
    pass


def lch_failure() -> Any:
    return ffi.new("char[]", _failure.text)


def fail(message: str) -> int:
    _failure.text = message.encode()
    return LCH_FAILED


def lch_batch(fn: Any, ctx: Any, batch: Any, size: int) -> int:
    log.call_begins()
    status = int(fn(ctx, batch[0]))
    return _ABORTED if abort.over_time() and status == 0 else status


class _Keeper(threading.local):
    """Where this thread's next result goes."""

    cell: Cell | None = None


_keeper = _Keeper()


def keep(cell: Cell, helper: Any, *args: Any) -> None:
    """See :func:`.atomic.keep`: what the helper calls is a C function, the helper is not."""
    _keeper.cell = cell
    try:
        result = helper(*args)
    finally:
        _keeper.cell = None
    if not cell:
        cell.append(result)  # the helper's word that nothing was made


def kept() -> Cell | None:
    """Where this thread's next result goes, if it is to be kept."""
    return _keeper.cell


def _call(fn: Any, *args: Any) -> Any:
    cell: Cell = [] if _keeper.cell is None else _keeper.cell
    atomic.keep(cell, fn, *args)
    return cell[0]


def lch_with_params(fn: Any, first: Any, params: Any, size: int) -> Any:
    log.call_begins()
    return _call(fn, first, params[0])


def lch_with_list(fn: Any, items: Any, n: int, params: Any, size: int) -> Any:
    log.call_begins()
    # The second one is a pointer for some functions.
    kind = bound.ffi.typeof(fn).args[1]
    return _call(fn, items, bound.ffi.cast(kind, n) if kind.kind == "pointer" else n, params[0])


def lch_decode_file(
    fn: Any, ctx: Any, data: Any, size: int, placeholder: int, options: Any, options_size: int, out: Any
) -> int:
    log.call_begins()
    out[0] = fn(ctx, bound.ffi.cast(bound.ffi.typeof(fn).args[1], data), size, placeholder, options[0])
    return 0


def lch_sample(fn: Any, chain: Any, ctx: Any, idx: int) -> int:
    """``llama_sampler_sample`` in its steps, with a look at the result of each."""
    log.call_begins()
    lib = bound.lib
    row = lib.llama_get_logits_ith(ctx, idx)
    if not row:
        return fail("logits != nullptr: the row has no logits")
    n = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(lib.llama_get_model(ctx)))
    candidates = np.zeros(n, dtype=_CANDIDATE)
    candidates["id"] = np.arange(n)
    candidates["logit"] = np.frombuffer(ffi.buffer(row, 4 * n), dtype=np.float32)
    token = _apply(chain, candidates)
    if token is None:
        return fail("cur_p.selected >= 0: the chain selects no token")
    return token if _accept(lib.llama_sampler_accept, chain, token) == 0 else LCH_FAILED


def lch_accept(fn: Any, sampler: Any, token: int) -> int:
    log.call_begins()
    return _accept(fn, sampler, token)


def _accept(fn: Any, sampler: Any, token: int) -> int:
    lib = bound.lib
    is_chain = _name(sampler) == b"chain"
    steps = (
        [lib.llama_sampler_chain_get(sampler, i) for i in range(lib.llama_sampler_chain_n(sampler))]
        if is_chain
        else [sampler]
    )
    for step in steps:
        if _name(step) == b"grammar":
            candidate = np.array([(token, 0.0, 0.0)], dtype=_CANDIDATE)
            _apply(step, candidate)
            if candidate["logit"][0] == -math.inf:
                return fail(f"the grammar forbids token {token}: empty grammar stack")
    fn(sampler, token)
    return 0


def _name(sampler: Any) -> bytes:
    return bytes(ffi.string(bound.lib.llama_sampler_name(sampler)))


def _apply(sampler: Any, candidates: Any) -> int | None:
    """Run a sampler over candidates, in place; the token that it selects, if it does."""
    array = bound.ffi.new("llama_token_data_array *")
    array.data = bound.ffi.cast("llama_token_data *", ffi.from_buffer(candidates))
    array.size, array.selected = len(candidates), -1
    bound.lib.llama_sampler_apply(sampler, array)
    return int(array.data[array.selected].id) if 0 <= array.selected < array.size else None


def lch_call(fn: Any, result: int, *words: int) -> int:
    log.call_begins()
    types, returned = _signature(fn)
    args = [ffi.cast(kind, word) if kind else word for kind, word in zip(types, words, strict=False)]
    value = _call(fn, *args) if returned == "pointer" else fn(*args)
    if result == LCH_VOID:
        return 0
    return int(ffi.cast("intptr_t", value) if returned == "pointer" else value)


@cache
def _signature(fn: Any) -> tuple[list[Any], str]:
    """The types of the arguments that are pointers, None for the others, and the kind of the result."""
    signature = bound.ffi.typeof(fn)
    types = [argument if argument.kind in ("pointer", "function") else None for argument in signature.args]
    return types, "pointer" if signature.result.kind in ("pointer", "function") else signature.result.kind
