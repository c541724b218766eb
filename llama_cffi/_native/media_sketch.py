"""A projector laid out by libmtmd in a child process: what it would take of memory, and whether libmtmd survives it.

libmtmd trusts the names and shapes of a file's tensors, and follows null pointers where some are missing. It builds the
whole graph, and reads no weights, to say what a projector takes: a file that ends the child would end this process. The
graphs of a generator of speech it builds only when it computes them, so that the child generates a few frames.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llama_cffi._native import bound, companions, elf, extras, library, probe

FUNCTION = "_Z21mtmd_get_memory_usagePKc19mtmd_context_params"
"""In mtmd.h for C++ alone, but exported."""
_CHILD = Path(__file__).with_name("media_child.py")
_SECONDS = 60.0
_SERVER_SECONDS = 4.0
"""How long an RPC server may take to answer the child; it serves one client at a time."""
_SPEECH_SECONDS = 4.0
"""How long the child computes frames, at most: what is left of large generators then is laid out, but not computed."""


@dataclass(frozen=True, slots=True)
class Target:
    """A device to lay out on, by its name here; one of an RPC server also by the server and its number there."""

    name: str
    server: str | None = None
    index: int = 0


@dataclass(frozen=True, slots=True)
class Layout:
    """What became of it. ``crash`` says how the child ended, "" when it did not crash. ``devices`` has the bytes by
    device, None where this library does not tell them or the child does not have the device; it is empty where libmtmd
    refuses the file. ``speech`` are the bytes that a generator of speech computes with, which libmtmd does not count.
    ``lines`` are what the child has said.
    """

    crash: str
    devices: dict[str, int] | None
    speech: int
    lines: tuple[str, ...]

    @property
    def reason(self) -> str:
        """The end of what the child has said, as the end of a message."""
        return probe.tail("\n".join(self.lines))


def library_files() -> list[Path]:
    """Return libmtmd and what is mapped before it; nothing where it cannot lay a projector out."""
    main = companions.find_media(library.info().path.parent)
    if main is None or not sys.executable:
        return []
    if sys.platform == "linux" and FUNCTION not in elf.read(main, symbols=True).symbols:
        return []
    return [*companions.before(main), main]


def lay_out(
    path: Path, params: Any, fields: Sequence[str], *, device: Target | None, speaks: bool = False
) -> Layout | None:
    """Lay out the projector of a file with some ``fields`` of a ``mtmd_context_params``; None where nothing is known.

    Without a ``device`` it is laid out on the CPU. With ``speaks`` its generator of speech is loaded and tried, too,
    always on the CPU. Wraps ``mtmd_get_memory_usage`` and ``mtmd_gen_audio_process``.
    """
    files = library_files()
    if not files:
        return None
    ffi = bound.media_ffi
    copied = ffi.new("struct mtmd_context_params *", params)
    copied.use_gpu, copied.warmup = device is not None, True
    data = bytes(ffi.buffer(copied))
    size, places = _places("struct mtmd_context_params")
    request = {
        "paths": [os.fspath(one) for one in files],
        "plugins": list(dict.fromkeys(os.fspath(one.parent) for one in companions.plugins(files[-1].parent))),
        "file": os.fspath(path.absolute()),
        "function": FUNCTION,
        "size": size,
        "fields": [
            (places[name][0], data[slice(places[name][0], sum(places[name]))].hex())
            for name in ("use_gpu", "warmup", *fields)
        ],
        "reads_map": extras.has_buffers(),
        "device": {**asdict(device), "place": places["device"], "seconds": _SERVER_SECONDS} if device else None,
        "speech": _speech_request(places) if speaks else None,
        "seconds": _SECONDS,
    }
    code, found, words = probe.ask_child(_CHILD, request, _SECONDS)
    if found is not None:
        return Layout("", found["devices"], found.get("speech", 0), tuple(words.splitlines()))
    if code is None or 0 <= code < 1 << 30:  # it took too long, or could not do what it was to do
        return None
    return Layout(probe.ending(code), None, 0, tuple(words.splitlines()))


def _places(struct: str) -> tuple[int, dict[str, tuple[int, int]]]:
    """The bytes of a struct, and place and bytes of each of its fields."""
    ffi = bound.media_ffi
    kind = ffi.typeof(struct)
    return ffi.sizeof(kind), {name: (field.offset, ffi.sizeof(field.type)) for name, field in kind.fields}


def _speech_request(params: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
    structs = {name: _places(f"struct mtmd_gen_{kind}") for name, kind in (("input", "inp"), ("output", "out"))}
    return {
        "watch": params["cb_eval"],
        "buffer": bound.ffi.offsetof("struct ggml_tensor", "buffer"),
        "use_gpu": params["use_gpu"],
        "code": int(bound.media_lib.MTMD_GEN_PROCESS_TYPE_GEN_CODE),
        "sound": int(bound.media_lib.MTMD_GEN_PROCESS_TYPE_GEN_WAV),
        "seconds": _SPEECH_SECONDS,
        **{name: {"size": size, "places": places} for name, (size, places) in structs.items()},
    }


__all__ = ["Layout", "Target", "lay_out", "library_files"]
