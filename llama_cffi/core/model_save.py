"""A loaded model written to a file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from llama_cffi._native import extras, guard, lib
from llama_cffi._util.files import PART, replacement
from llama_cffi.core.gguf import GGUFFile
from llama_cffi.core.gguf_merge import write_merged
from llama_cffi.core.quantize import check_target
from llama_cffi.core.strings import to_text
from llama_cffi.errors import ModelFileError, NativeError, UnsupportedError

if TYPE_CHECKING:
    from llama_cffi.core.model_base import ModelBase


def save_model(model: ModelBase, path: str | os.PathLike[str], *, overwrite: bool) -> Path:
    """Write a model; see :meth:`Model.save`."""
    target = Path(path)
    if model.options.vocab_only:
        raise UnsupportedError(f"{model.name} was loaded with vocab_only: it has no weights to save")
    if target.exists() and model.path.exists() and target.samefile(model.path):
        raise ValueError(f"{target} is the file that the model was loaded from")
    check_target(target, overwrite=overwrite)
    with model.gate:
        expected = _tensors(model)
        with replacement(target) as part:
            part.unlink()  # made anew, it gets the rights of a new file
            raw = part.with_name(part.name + PART)
            try:
                _write(model, raw)
                _check(raw, target, expected)
                if model.is_unchanged:
                    write_merged(part, raw, model.path)
                else:
                    os.replace(raw, part)
            finally:
                raw.unlink(missing_ok=True)
            _check(part, target, expected)
    return target


def _write(model: ModelBase, path: Path) -> None:
    try:
        guard.call_int("llama_model_save_to_file", model.ptr, os.fsencode(path))
    except NativeError as error:
        raise UnsupportedError(
            f"llama.cpp cannot save this {model.architecture} model: {error.message}", log=error.log
        ) from error


def _tensors(model: ModelBase) -> dict[str, tuple[str, int]]:
    """Type and bytes of each tensor by its name; raises for those that cannot be read back."""
    tensors = extras.tensors(model.ptr)
    if tensors is None:
        raise UnsupportedError("this libllama does not tell where its tensors are, which saving them needs")
    found = {}
    for tensor in tensors:
        kind = lib.ggml_backend_buffer_get_type(tensor.buffer)
        device = lib.ggml_backend_buft_get_device(kind)
        on_gpu = device and lib.ggml_backend_dev_type(device) != lib.GGML_BACKEND_DEVICE_TYPE_CPU
        if not on_gpu and not lib.ggml_backend_buft_is_host(kind):
            raise UnsupportedError(
                f"weights were rearranged for this CPU ({to_text(lib.ggml_backend_buft_name(kind))}), and llama.cpp "
                "cannot put them back in order: load the model with ModelOptions(use_extra_bufts=False) to save it"
            )
        name = to_text(lib.ggml_get_name(tensor))
        found[name] = to_text(lib.ggml_type_name(tensor.type)), int(lib.ggml_nbytes(tensor))
    return found


def _check(part: Path, target: Path, expected: dict[str, tuple[str, int]]) -> None:
    """Raise for a file that is not what was to be written; llama.cpp itself reports nothing."""
    try:
        written = {tensor.name: (tensor.type, tensor.nbytes) for tensor in GGUFFile(part).tensors}
    except ModelFileError as error:
        raise OSError(f"{target} could not be written completely: {error.message}") from error
    if lost := sorted(name for name, facts in expected.items() if written.get(name) != facts):
        raise UnsupportedError(
            f"llama.cpp does not save all tensors of this architecture: {', '.join(lost[:5])} would be lost"
        )


__all__ = ["save_model"]
