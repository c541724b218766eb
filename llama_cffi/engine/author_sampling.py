"""The sampling parameters that the author of a model recommends in its file (``general.sampling.*``)."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from typing import Any

from llama_cffi._util import ranges
from llama_cffi._util.shown import shown
from llama_cffi.engine.sampling_params import MIROSTAT_REPLACES, SAMPLER_NAMES, SamplingParams
from llama_cffi.errors import SamplerError

_log = logging.getLogger("llama_cffi")

PREFIX = "general.sampling."
_NUMBER = re.compile(r"\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_OTHER_NAMES = {"typ_p": "typical_p"}


def _float(value: Any) -> float:
    if isinstance(value, str):
        # As C reads a number: what follows it does not count.
        found = _NUMBER.match(value)
        value = found[0] if found else value
    return float(value)


def _int(value: Any) -> int:
    return int(_float(value))


def _history(value: Any) -> int:
    count = _int(value)
    return ranges.MAX_HISTORY if count < 0 else count  # a negative number is llama.cpp's word for the whole context


def _order(value: Any) -> tuple[str, ...]:
    names = [_OTHER_NAMES.get(name.strip(), name.strip()) for name in str(value).split(";")]
    known = tuple(dict.fromkeys(name for name in names if name in SAMPLER_NAMES))
    if not known:
        raise ValueError("no known sampler")
    return known


_FIELDS: Mapping[str, tuple[str, Callable[[Any], Any]]] = {
    "sequence": ("sampler_order", _order),
    "top_k": ("top_k", _int),
    "top_p": ("top_p", _float),
    "min_p": ("min_p", _float),
    "xtc_probability": ("xtc_probability", _float),
    "xtc_threshold": ("xtc_threshold", _float),
    "temp": ("temperature", _float),
    "penalty_last_n": ("repeat_last_n", _history),
    "penalty_repeat": ("repeat_penalty", _float),
    "mirostat": ("mirostat", _int),
    "mirostat_tau": ("mirostat_tau", _float),
    "mirostat_eta": ("mirostat_eta", _float),
}
"""By the name of the key after the prefix: the field of SamplingParams, and how its value is read."""


def author_sampling(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of :class:`SamplingParams` that the metadata of a file recommends.

    A value that is out of range is left out, with a warning in the log.
    """
    found: dict[str, Any] = {}
    for name, (field, read) in _FIELDS.items():
        key = PREFIX + name
        if key not in metadata:
            continue
        try:
            value = read(metadata[key])
            SamplingParams(**{field: value})
        except (SamplerError, ValueError, OverflowError, TypeError) as error:
            _log.warning("%s = %s of the model is not used: %s", key, shown(metadata[key]), error)
            continue
        found[field] = value
    return found


def with_author(given: Mapping[str, Any], author: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a call, with the author's where the caller gave none.

    A whole chain leaves no room for the author's fields. Mirostat replaces other samplers: of the caller's and the
    author's fields that exclude each other, the caller's stay.
    """
    if not author or given.get("samplers") is not None:
        return dict(given)
    rest = dict(author)
    usual = {name: getattr(SamplingParams, name) for name in MIROSTAT_REPLACES}
    if "mirostat" not in given and any(given.get(name, value) != value for name, value in usual.items()):
        rest.pop("mirostat", None)
    if given.get("mirostat", rest.get("mirostat")):
        rest = {name: value for name, value in rest.items() if name not in usual}
    return {**rest, **given}


__all__ = ["PREFIX", "author_sampling", "with_author"]
