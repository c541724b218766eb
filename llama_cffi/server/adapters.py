"""LoRA adapters as requests name them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from llama_cffi._util.shown import shown
from llama_cffi.server.problem import unsupported, wrong
from llama_cffi.server.values import Facts, items, number, typed, whole

if TYPE_CHECKING:
    from llama_cffi.core.adapter import LoraAdapter

MAX_ENTRIES = 32


def read_lora(param: str, value: Any, facts: Facts) -> Mapping[LoraAdapter, float] | None:
    """Return the scales of a list of ``{"id", "scale"}`` or ``{"name", "scale"}``; None for an empty list."""
    entries = items(param, value, MAX_ENTRIES)
    if entries and not facts.adapters:
        raise unsupported(param, "this server has no LoRA adapters; --lora adds them")
    found: dict[LoraAdapter, float] = {}
    for i, one in enumerate(entries):
        place = f"{param}[{i}]"
        entry = typed(place, one, dict)
        scale = number(-1e4, 1e4)(f"{place}.scale", entry.get("scale", 0.0), facts)
        found[_named(place, entry, facts.adapters)] = scale
    return found if entries else None


def _named(place: str, entry: dict[str, Any], adapters: tuple[LoraAdapter, ...]) -> LoraAdapter:
    if "id" in entry or "name" not in entry:
        return adapters[whole(f"{place}.id", entry.get("id"), 0, len(adapters) - 1)]
    name = typed(f"{place}.name", entry["name"], str)
    found = adapter_named(name, adapters)
    if found is not None:
        return found
    known = ", ".join(adapter.path.stem for adapter in adapters)
    raise wrong(f"{place}.name", f"must be one of {known}, got {shown(name)}")


def adapter_named(name: str, adapters: tuple[LoraAdapter, ...]) -> LoraAdapter | None:
    """Return the adapter whose file has this name, with or without its ending."""
    return next((one for one in adapters if name in (one.path.stem, one.path.name)), None)


__all__ = ["MAX_ENTRIES", "adapter_named", "read_lora"]
