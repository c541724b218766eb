"""GET /slots: what each slot is doing; POST /slots/{id}: saving, restoring and erasing what one holds."""

from __future__ import annotations

import re
import stat
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeVar

from llama_cffi.errors import BusyError, MemoryFullError, StateError
from llama_cffi.server.exchange import Call, takes
from llama_cffi.server.fields import Field, read_fields
from llama_cffi.server.llama_server.changes import check_changes
from llama_cffi.server.llama_server.parameters import parameters
from llama_cffi.server.problem import Problem, wrong
from llama_cffi.server.response import Answer, json_answer
from llama_cffi.server.values import Facts, text

if TYPE_CHECKING:
    from llama_cffi.engine.request import Request
    from llama_cffi.engine.snapshot import SlotSnapshot
    from llama_cffi.llama import Llama

T = TypeVar("T")

_FILE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")


async def list_slots(call: Call) -> Answer:
    """Return what each slot is doing; with ``fail_on_no_slot`` status 503 when all are in use."""
    service = call.service
    if not service.settings.slots:
        raise Problem(501, "this server does not tell of its slots", code="endpoint_disabled")
    found = service.llm.llama.slots()
    if call.query.get("fail_on_no_slot") and all(one.request is not None for one in found):
        raise Problem(503, "no slot is idle", code="no_slot", headers={"Retry-After": "1"})
    return json_answer([_slot(one, service.facts) for one in found])


def _slot(slot: SlotSnapshot, facts: Facts) -> dict[str, Any]:
    request, progress = slot.request, slot.progress
    busy = request is not None and progress is not None
    n_decoded = progress.completion_tokens if progress is not None else 0
    left = -1 if request is None or request.max_tokens is None else max(0, request.max_tokens - n_decoded)
    return {
        "id": slot.id,
        "id_task": slot.number if busy else -1,
        "n_ctx": facts.n_ctx,
        "speculative": request is not None and request.speculative is not None,
        "is_processing": busy,
        "n_prompt_tokens": slot.n_held,
        "n_prompt_tokens_processed": 0 if progress is None else progress.computed_tokens - progress.cached_tokens,
        "n_prompt_tokens_cache": 0 if progress is None else progress.cached_tokens,
        "params": _parameters(request, facts),
        "next_token": [
            {"has_next_token": busy, "has_new_line": slot.has_new_line, "n_remain": left, "n_decoded": n_decoded}
        ],
    }


def _parameters(request: Request | None, facts: Facts) -> dict[str, Any]:
    if request is None:
        return parameters({})
    sampling = request.sampling
    given = {one.name: getattr(sampling, one.name) for one in fields(sampling)}
    # Texts of a request are not told: they are part of its prompt, or of what it looks for.
    given |= {"max_tokens": request.max_tokens, "logprobs": request.logprobs, "grammar": "", "logit_bias": {}}
    return parameters({**given, "adapters": dict(request.conditioning.adapters)}, facts.adapters)


@takes(nothing=True)
async def change_slot(call: Call) -> Answer:
    """Save, restore or erase what a slot holds, when it is idle."""
    settings = call.service.settings
    if settings.slot_save_path is None:
        raise Problem(501, "slots are saved with --slot-save-path", code="endpoint_disabled")
    check_changes(call)
    llama = call.service.llm.llama
    slot, action = _number(call.path_params["id"], call.service.facts), call.query.get("action", "")
    if action not in ("save", "restore", "erase"):
        raise wrong("action", f"must be save, restore or erase, got {action!r:.60}")
    asked = read_fields(call, (Field.of("filename", text(256)),), frozenset({"model"}))
    if action == "erase":
        n = await _when_idle(call, slot, lambda: llama.clear_slot(slot))
        return json_answer({"id_slot": slot, "n_erased": n})
    path = _path(settings.slot_save_path, asked.take("filename", ""))
    began = perf_counter()
    if action == "save":
        n, size = await _when_idle(call, slot, lambda: _save(llama, slot, path))
        names = ("n_saved", "n_written", "save_ms")
    else:
        n, size = await _when_idle(call, slot, lambda: _restore(llama, slot, path))
        names = ("n_restored", "n_read", "restore_ms")
    return json_answer(
        {
            "id_slot": slot,
            "filename": path.name,
            names[0]: n,
            names[1]: size,
            "timings": {names[2]: (perf_counter() - began) * 1000},
        }
    )


def _number(text: str, facts: Facts) -> int:
    number = int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else -1
    if facts.lenient and number >= 0:
        return number % facts.slots
    if not 0 <= number < facts.slots:
        raise wrong("id_slot", f"must be 0 to {facts.slots - 1}, got {text!r:.60}")
    return number


def _path(folder: Path, name: str) -> Path:
    """Return the path of a file in the folder; a name with anything but plain characters is refused."""
    if not _FILE_NAME.fullmatch(name):
        raise wrong("filename", "must be 1 to 128 letters, digits, dots, - and _, and not begin with a dot")
    return folder / name


def _save(llama: Llama, slot: int, path: Path) -> tuple[int, int]:
    return llama.save_slot(slot, path), path.stat().st_size


def _restore(llama: Llama, slot: int, path: Path) -> tuple[int, int]:
    try:
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode):
            raise FileNotFoundError
        return len(llama.load_slot(slot, path)), found.st_size
    except FileNotFoundError:
        raise Problem(404, f"there is no saved slot {path.name}", code="not_found", param="filename") from None
    except MemoryFullError as error:
        raise Problem(503, str(error), code="memory_full", headers={"Retry-After": "1"}) from None
    except StateError as error:
        # Its text has the path, which is the server's own matter.
        message = str(error).replace(str(path), path.name)
        raise wrong("filename", message, code="invalid_slot_file") from None


async def _when_idle(call: Call, slot: int, work: Callable[[], T]) -> T:
    """Return what ``work`` returns when the slot is idle; :class:`Problem` 409 for one that stays in use."""
    service = call.service
    try:
        return await service.llm.retry_while_busy(work, service.settings.slot_action_timeout)
    except BusyError:
        raise Problem(409, f"slot {slot} is in use", code="slot_busy") from None


__all__ = ["change_slot", "list_slots"]
