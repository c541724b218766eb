"""Quantizing models: writing a model with weights of a smaller type."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from llama_cffi._native import binding, ffi, lib, library, log
from llama_cffi._native.bindings import missing
from llama_cffi._util.files import replacement
from llama_cffi._util.scalars import check_int
from llama_cffi.core.gguf import GGUFFile
from llama_cffi.core.imatrix import read_imatrix
from llama_cffi.core.model_base import ProgressCallback
from llama_cffi.core.model_options import fill_override
from llama_cffi.core.options import constant, set_field
from llama_cffi.core.strings import to_text
from llama_cffi.errors import LlamaCffiError, ModelFileError, QuantizeCancelled, QuantizeError

_NAMES = (
    *("F32", "F16", "BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S", "Q5_1", "Q5_0", "Q4_K_M", "Q4_K_S", "Q4_1", "Q4_0"),
    *("IQ4_NL", "IQ4_XS", "MXFP4_MOE", "Q3_K_L", "Q3_K_M", "Q3_K_S", "IQ3_M", "IQ3_S", "IQ3_XS", "IQ3_XXS", "Q2_K"),
    *("Q2_K_S", "Q2_0", "IQ2_M", "IQ2_S", "IQ2_XS", "IQ2_XXS", "TQ2_0", "TQ1_0", "IQ1_M", "IQ1_S", "Q1_0"),
)
QUANTIZATIONS: dict[str, str] = {name: f"LLAMA_FTYPE_{'ALL' if name == 'F32' else 'MOSTLY'}_{name}" for name in _NAMES}
"""The types of a whole model, the largest first, and llama.h's names for them."""

_SHORT = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}
_CHILD = Path(__file__).with_name("quantize_child.py")
_TENSOR = re.compile(rb"\[ *(\d+)/ *(\d+)\] ")
_CHATTER = ("llama_model_loader: - ", "[")
"""How lines of llama.cpp's log begin that say nothing of an error."""
_SAID = 12
"""Lines of it that an error repeats."""


@dataclass(frozen=True, kw_only=True)
class QuantizeOptions:
    """The options of quantizing a model (``llama_model_quantize_params``). Types of tensors are ggml's: ``q8_0``,
    ``f16`` ..."""

    n_threads: int | None = None
    """The number of threads; None for one for each CPU. The result does not depend on it."""
    output_tensor_type: str | None = None
    """Type of the output matrix; None leaves the choice to llama.cpp, as in the following."""
    token_embedding_type: str | None = None
    """Type of the token embeddings."""
    tensor_types: Mapping[str, str] = field(default_factory=dict)
    """Types for the tensors whose names match a regular expression, the first that does."""
    allow_requantize: bool = False
    """Accept a model that is already quantized, which loses accuracy twice."""
    quantize_output_tensor: bool = True
    """Quantize the output matrix, too."""
    pure: bool = False
    """Give all tensors the same type; otherwise some get a better one."""
    copy: bool = False
    """Only copy the tensors, regardless of ``type``."""
    imatrix: str | os.PathLike[str] | None = None
    """An importance matrix in GGUF form; the types of 2 bits and less need one."""
    kv_overrides: Mapping[str, bool | int | float | str] = field(default_factory=dict)
    """Metadata values to replace or add."""
    prune_layers: Sequence[int] = ()
    """Layers to leave out."""
    max_buf_size: int | None = None
    """Most bytes of rows in memory while a tensor is quantized; None is llama.cpp's own limit."""


def quantize(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    type: str = "Q4_K_M",
    options: QuantizeOptions | None = None,
    *,
    overwrite: bool = False,
    progress: ProgressCallback | None = None,
) -> Path:
    """Write a model with weights of another type; the file is identical to that of ``llama-quantize``.

    ``type`` is one of :data:`QUANTIZATIONS`, in either case. The parts of a split model, of which ``source`` is the
    first, become one file. ``target`` appears when it is complete; after an error no partial file is left. A child
    process does the work; an exception in this process, including Ctrl-C, ends it. ``progress`` receives the part of
    the tensors that is done, 0.0 to 1.0; when it returns False, :class:`QuantizeCancelled` is raised.

    Raises ``ValueError`` for a type that does not exist, :class:`UnsupportedError` for one that this libllama lacks,
    ``FileExistsError`` for a target that exists, unless ``overwrite``, or is not a file, :class:`ModelNotFoundError`
    and :class:`ModelFileError` for a source that is not a model, and :class:`QuantizeError` with llama.cpp's message
    for anything else, for example a full disk. Wraps ``llama_model_quantize``.
    """
    source, target = Path(source), Path(target)
    options = options if options is not None else QuantizeOptions()
    native_params(type, options)  # what is wrong with them is raised here
    if GGUFFile(source).architecture is None:
        raise ModelFileError(f"{source} is not a model: it has no architecture")
    if target.exists() and target.samefile(source):
        raise ValueError(f"{target} cannot be made from itself")
    check_target(target, overwrite=overwrite)
    with replacement(target) as part:
        part.unlink()  # made anew, it gets the rights of a new file
        free = shutil.disk_usage(part.parent).free
        with _start(source, part, type, options) as child:
            try:
                said = _follow(child, progress)
            except BaseException:
                child.kill()
                raise
        if child.returncode != 0:
            lines = [line for line in said if not line.startswith(_CHATTER)]
            raise QuantizeError(f"cannot make {target}: {_reason(child.returncode, said, free)}", log=lines[-_SAID:])
        try:
            GGUFFile(part)
        except LlamaCffiError as error:
            raise QuantizeError(f"cannot make {target}: it is not complete ({error.message})") from error
    return target


def check_target(target: Path, *, overwrite: bool) -> None:
    """Raise ``FileExistsError`` for a target that exists, unless ``overwrite``, and always for what is not a file."""
    if target.exists() and not (overwrite and target.is_file()):
        raise FileExistsError(f"{target} exists already{'' if target.is_file() else ' and is not a file'}")


def native_params(type: str, options: QuantizeOptions) -> tuple[Any, list[Any]]:
    """Return the ``llama_model_quantize_params *``, and what its pointers point at."""
    params = ffi.new("struct llama_model_quantize_params *", lib.llama_model_quantize_default_params())
    keep: list[Any] = []
    name = type.upper() if isinstance(type, str) else type
    params.ftype = constant("type", _SHORT.get(name, name), QUANTIZATIONS)
    if options.n_threads is not None:
        params.nthread = check_int("n_threads", options.n_threads, 1, 512)
    for option in ("output_tensor_type", "token_embedding_type"):
        wanted = getattr(options, option)
        if wanted is not None:
            setattr(params, option, _tensor_type(option, wanted))
    params.allow_requantize, params.quantize_output_tensor = options.allow_requantize, options.quantize_output_tensor
    params.pure, params.only_copy = options.pure, options.copy
    if options.max_buf_size is not None:
        size = check_int("max_buf_size", options.max_buf_size, 1, 2**63 - 1)
        set_field(params[0], "max_buf_size", size, option="max_buf_size", lacking=None)
    _set_lists(params, options, keep)
    return params, keep


def _set_lists(params: Any, options: QuantizeOptions, keep: list[Any]) -> None:
    overrides = dict(options.kv_overrides)
    if options.imatrix is not None:
        overrides |= _set_imatrix(params, options.imatrix, keep)
    for option, given in (
        ("kv_overrides", overrides),
        ("tensor_types", options.tensor_types),
        ("prune_layers", options.prune_layers),
    ):
        # Until then these fields were pointers to C++ objects.
        if given and not binding.has("llama_model_quantize_params.tt_overrides"):
            raise missing("llama_model_quantize_params.tt_overrides", option)
    if overrides:
        entries = ffi.new("struct llama_model_kv_override[]", len(overrides) + 1)
        for slot, (key, value) in zip(entries, overrides.items(), strict=False):
            fill_override(slot, key, value)
        keep.append(entries)
        params.kv_overrides = entries
    if options.tensor_types:
        patterns = ffi.new("struct llama_model_tensor_override[]", len(options.tensor_types) + 1)
        for slot, (pattern, wanted) in zip(patterns, options.tensor_types.items(), strict=False):
            text = ffi.new("char[]", pattern.encode())
            keep.append(text)
            slot.pattern, slot.type = text, _tensor_type(f"tensor_types[{pattern!r}]", wanted)
        keep.append(patterns)
        params.tt_overrides = patterns
    if options.prune_layers:
        chosen = {check_int("a layer of prune_layers", layer) for layer in options.prune_layers}
        layers = ffi.new("int32_t[]", [*sorted(chosen), -1])
        keep.append(layers)
        params.prune_layers = layers


def _set_imatrix(params: Any, path: str | os.PathLike[str], keep: list[Any]) -> dict[str, str | int]:
    """Set the importance matrix; returns what the model's metadata shall say of it."""
    if not binding.has("llama_model_quantize_params.tt_overrides"):
        raise missing("llama_model_quantize_params.tt_overrides", "imatrix")
    matrix = read_imatrix(path)
    entries = ffi.new("struct llama_model_imatrix_data[]", len(matrix.entries) + 1)
    for slot, (name, values) in zip(entries, matrix.entries.items(), strict=False):
        text, data = ffi.new("char[]", name.encode()), ffi.from_buffer("float[]", values)
        keep += [text, data]
        slot.name, slot.data, slot.size = text, data, len(values)
    keep.append(entries)
    params.imatrix = entries
    about: dict[str, str | int] = {"quantize.imatrix.file": _cut(os.fspath(path))}
    if matrix.datasets:
        about["quantize.imatrix.dataset"] = _cut(matrix.datasets[0])
    about["quantize.imatrix.entries_count"] = len(matrix.entries)
    if matrix.n_chunks > 0:
        about["quantize.imatrix.chunks_count"] = matrix.n_chunks
    return about


def _cut(text: str) -> str:
    """As much of a text as an override holds."""
    return text.encode()[:127].decode("utf-8", "ignore")


def _tensor_type(option: str, name: str) -> int:
    types = _tensor_types()
    if name.lower() not in types:
        raise ValueError(f"{option} must be one of {', '.join(types)}, got {name!r}")
    return types[name.lower()]


@cache
def _tensor_types() -> dict[str, int]:
    """ggml's types by name, as this library has them."""
    names = {i: to_text(name) for i in range(lib.GGML_TYPE_COUNT) if (name := lib.ggml_type_name(i)) != ffi.NULL}
    return {name.lower(): i for i, name in names.items() if " " not in name}  # "TYPE_... REMOVED, use ..."


def _start(source: Path, part: Path, type: str, options: QuantizeOptions) -> subprocess.Popen[bytes]:
    if not sys.executable:
        raise QuantizeError("sys.executable is not set, so the child process that quantizes cannot be started")
    request = {
        "sys_path": [os.path.abspath(folder) for folder in sys.path],
        "parent": os.getpid(),
        "library": library.choice(),
        "files": [str(source), str(part)],
        "type": type,
        "options": dataclasses.asdict(options) | {"imatrix": options.imatrix and os.fspath(options.imatrix)},
    }
    child = subprocess.Popen(
        [sys.executable, "-I", str(_CHILD)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        # Ctrl-C is for this process, which then ends the child.
        start_new_session=True,
    )
    try:
        with child.stdin as stdin:  # type: ignore[union-attr]
            stdin.write(json.dumps(request).encode())
    except BrokenPipeError:
        pass  # it ended at once, and has said why
    except BaseException:
        child.kill()
        raise
    return child


def _follow(child: subprocess.Popen[bytes], progress: ProgressCallback | None) -> list[str]:
    """Read what the child says to its end, and report how far it is; returns the lines."""
    text = b""
    told = -1
    with child.stderr as stream:  # type: ignore[union-attr]
        while piece := os.read(stream.fileno(), 1 << 16):
            text += piece
            _log(text, len(piece))
            seen = _TENSOR.findall(text, max(0, len(text) - len(piece) - 64))
            if seen and progress is not None and int(seen[-1][0]) > told:
                told = int(seen[-1][0])
                if progress((told - 1) / max(1, int(seen[-1][1]))) is False:
                    raise QuantizeCancelled("the progress callback ended the quantization")
    if child.wait() == 0 and progress is not None:
        progress(1.0)
    return [line for line in text.decode("utf-8", "replace").splitlines() if line.strip()]


def _log(text: bytes, new: int) -> None:
    """Pass the lines that ended in the last bytes on to ``logging``, as llama.cpp's own of this process."""
    begin = text.rfind(b"\n", 0, len(text) - new) + 1
    for line in text[begin : text.rfind(b"\n") + 1].decode("utf-8", "replace").splitlines():
        log.logger.info("%s", line)


def _reason(code: int, said: list[str], free: int) -> str:
    if any("iostream error" in line for line in said):
        return f"writing failed; {free / 2**20:.0f} MiB were free there before"
    if code < 0:
        return f"the child process was ended by {signal.Signals(-code).name}"
    found = [line.partition("failed to quantize: ")[2] for line in said if "failed to quantize: " in line]
    return found[-1] if found else f"the child process ended with code {code}"


__all__ = ["QUANTIZATIONS", "QuantizeOptions", "quantize"]
