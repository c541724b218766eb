"""A model in a process of its own: the process, the link to it, and a Runtime over it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from llama_cffi.runtime import Runtime


def open_runtime(model: Any, given: Mapping[str, Any]) -> Runtime:
    """Open a model in this process, or in one of its own: with ``isolate``, and unless told otherwise over RPC."""
    options = dict(given)
    isolate, replay = options.pop("isolate", None), options.pop("replay", False)
    if isolate is None:
        isolate = bool(options.get("rpc") or getattr(options.get("model_options"), "rpc", ()))
    if replay and not isolate:
        raise ValueError("replay=True needs isolate=True: without a process of its own there is nothing to repeat")
    if not isolate:
        return Runtime.open(model, options)
    from llama_cffi.isolation.runtime import IsolatedRuntime

    # It has what callers use of a Runtime, but nothing of its native objects.
    return cast("Runtime", IsolatedRuntime(model, options, replay=replay))


__all__ = ["open_runtime"]
