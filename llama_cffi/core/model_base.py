"""A file that is loaded with given options; :class:`~llama_cffi.core.model.Model` decides them."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from llama_cffi._native import binding, callbacks, ffi, guard, lib, log
from llama_cffi._native.gate import SharedGate
from llama_cffi._native.handle import Handle
from llama_cffi._util.shown import shown
from llama_cffi.core.archive import ArchiveMember
from llama_cffi.core.backend import devices
from llama_cffi.core.embeddings import PoolingType, pooling_of
from llama_cffi.core.file_load import ProgressCallback, load_file
from llama_cffi.core.fingerprint import Fingerprint, metadata_hash
from llama_cffi.core.gguf import GGUFFile, check_gguf_file
from llama_cffi.core.model_check import check_model_file, check_rope
from llama_cffi.core.model_options import ModelOptions, native_params
from llama_cffi.core.model_paths import all_parts, all_paths
from llama_cffi.core.model_reference import absolute, check_still, identify
from llama_cffi.core.native_object import NativeObject
from llama_cffi.core.placement import Placement, read_placement, tensor_placement
from llama_cffi.core.rpc import may_compute_remotely, note_user
from llama_cffi.core.source import Source
from llama_cffi.core.strings import to_text
from llama_cffi.core.vocab import Vocab
from llama_cffi.errors import UnsupportedError


class ModelBase(NativeObject):
    """A GGUF file, loaded once with the given options. Wraps ``llama_model_load_from_file`` and
    ``llama_model_load_from_splits``.
    """

    _instead_of_pickling = "open its file in each process"
    _instead_of_copying = "any number of contexts and threads may use one"

    def __init__(
        self,
        path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        options: ModelOptions,
        *,
        progress: ProgressCallback | None = None,
    ) -> None:
        if progress is not None and not callable(progress):
            raise TypeError(f"progress must be a function or None, got {shown(progress)}")
        single = isinstance(path, (str, os.PathLike))
        paths = all_paths(path)
        self.path = paths[0]
        self._target, self._parts = absolute(path), all_parts(path)
        self._source = path if isinstance(path, Source) else None
        if self._source is not None:
            options = self._source.fit(options)
        self.options = options
        _check_gpu(self.options)
        for part in paths:
            check_gguf_file(part)
        files: list[Any] = [self._source] if self._source is not None else self._present()
        self.identities = tuple(map(identify, files))
        """What tells its files from changed ones, as they were when they were loaded."""
        overrides, vocab_only = self.options.kv_overrides, self.options.vocab_only
        values, learned = check_model_file(self.path, overrides, more=self._parts[1:], vocab_only=vocab_only)
        self.has_learned_positions = learned
        """Whether a text has as many positions as the model was trained for, and no more."""
        self._gate = SharedGate()
        self._handle = handle = Handle("Model", partial(guard.free, "llama_model_free"), gate=self._gate)
        if not self.options.vocab_only and may_compute_remotely(self.options.devices):
            note_user(handle)
        with self._gate:
            try:
                handle.open(self._load(paths, single, progress))
                check_still(files, self.identities)
                kind = lib.llama_model_rope_type(handle.ptr)
                if kind != lib.LLAMA_ROPE_TYPE_NONE and not vocab_only:
                    check_rope(self.path, values, kind)
                pre = self.options.kv_overrides.get("tokenizer.ggml.pre")
                self.vocab = Vocab(handle, self._gate, pre if isinstance(pre, str) else None)
                if self.options.require_gpu and not self.placement.gpu_bytes:
                    raise UnsupportedError(f"require_gpu: no weights went to a GPU ({self.placement})")
            except BaseException:
                handle.release()
                raise

    def _load(self, paths: list[Path], single: bool, progress: ProgressCallback | None) -> Any:
        params, keep = native_params(self.options)
        self._adjust(params)
        cell = self._handle.cell

        def load(reporter: callbacks.Progress) -> Any:
            # The model keeps its params struct; the callback in it is only called while loading.
            params.progress_callback = reporter.callback
            params.progress_callback_user_data = reporter.data
            if self._source is not None and self._source.offset:
                with self._source.c_file() as file:
                    return guard.model_load_from_file_ptr(file, params, cell)
            if single:
                return guard.model_load_from_file(os.fsencode(paths[0]), params, cell)
            return guard.model_load_from_splits([os.fsencode(part) for part in paths], params, cell)

        ptr, mark = load_file(self.path, progress, load)
        self._keep = keep
        self.placement: Placement = self._placed(ptr, mark)
        """Where the weights are: bytes by buffer and device, layers on GPUs, and why."""
        return ptr

    def _placed(self, ptr: Any, mark: int) -> Placement:
        if self.options.vocab_only:
            return Placement({}, {}, 0, 0, 0)
        found = tensor_placement(ptr, _n_offloadable(ptr))
        return found or read_placement(log.lines_since(mark, logging.INFO), devices())

    def _adjust(self, params: Any) -> None:
        """Nothing to change in the ``llama_model_params`` of the options."""

    def _present(self) -> list[Path]:
        """The files that are there; llama.cpp says which ones are missing."""
        return [part for part in self._parts if part.is_file()]

    @property
    def is_unchanged(self) -> bool:
        """Whether its (first) file is there as it was loaded."""
        if self._source is not None:
            return True
        try:
            return identify(self.path) == self.identities[0]
        except OSError:
            return False

    @property
    def target(self) -> str | tuple[str, ...] | ArchiveMember:
        """What another process opens the model by.

        Raises ``TypeError`` for a model in memory, and for one that was given as an open file.
        """
        if self._source is None:
            return self._target
        if self._source.member is None:
            raise TypeError(
                f"a Model of {self.name} cannot be pickled: it exists in this process only; load it from a path"
            )
        return self._source.member

    @property
    def name(self) -> str:
        """The name of its file, or what it was loaded from in place of one."""
        return self.path.name if self._source is None else self._source.name

    @property
    def parts(self) -> tuple[Path, ...]:
        """The files of the model."""
        return tuple(self._parts)

    @property
    def gate(self) -> SharedGate:
        """``with model.gate:`` keeps other threads from closing the model meanwhile."""
        return self._gate

    def close(self) -> None:
        """Close every Context and sampler of this model, then free it. May be called repeatedly."""
        self._handle.close()

    def __repr__(self) -> str:
        state = "closed" if self.closed else self.desc
        return f"<Model {self.name!r}: {state}>"

    # -- metadata

    @property
    def metadata(self) -> dict[str, str]:
        """The file's scalar metadata, values as text. Wraps ``llama_model_meta_*``; arrays are in GGUFFile."""
        self.ptr  # noqa: B018 - raises when the model is closed
        return self._metadata

    @cached_property
    def _metadata(self) -> dict[str, str]:
        result = {}
        for i in range(lib.llama_model_meta_count(self.ptr)):
            key = self._string(lib.llama_model_meta_key_by_index, i)
            value = self._string(lib.llama_model_meta_val_str_by_index, i)
            if key is not None and value is not None:
                result[key] = value
        return result

    @cached_property
    def desc(self) -> str:
        """A short description, for example ``"llama 8B Q4_K - Medium"``. Wraps ``llama_model_desc``."""
        return self._string(lib.llama_model_desc) or ""

    @cached_property
    def architecture(self) -> str:
        """The ``general.architecture`` of the file."""
        return self.metadata.get("general.architecture", "")

    @cached_property
    def fingerprint(self) -> Fingerprint:
        """An identification of this model; reads 8 KiB of its file, not all of its weights."""
        return Fingerprint(
            architecture=self.architecture,
            n_params=self.n_params,
            size=self.size,
            n_vocab=self.vocab.n_tokens,
            n_layer=self.n_layer,
            n_embd=self.n_embd,
            metadata=metadata_hash(self.metadata),
            pieces=self.identities[0][1],
        )

    def chat_template(self, name: str | None = None) -> str | None:
        """Return the Jinja text of the default or a named chat template, or None if the model does not have it."""
        key = name.encode() if name is not None else ffi.NULL
        template = lib.llama_model_chat_template(self.ptr, key)
        return to_text(template) if template != ffi.NULL else None

    # -- sizes

    @property
    def n_params(self) -> int:
        """Number of parameters."""
        return int(lib.llama_model_n_params(self.ptr))

    @property
    def size(self) -> int:
        """Bytes of all tensors."""
        return int(lib.llama_model_size(self.ptr))

    @property
    def n_ctx_train(self) -> int:
        """Context length that the model was trained with, in tokens."""
        return int(lib.llama_model_n_ctx_train(self.ptr))

    @property
    def n_embd(self) -> int:
        """Width of the hidden state."""
        return int(lib.llama_model_n_embd(self.ptr))

    @property
    def n_embd_out(self) -> int:
        """Width of an embedding; it differs from that of the hidden state if there are projections after the last
        layer."""
        return int(lib.llama_model_n_embd_out(self.ptr)) if binding.has("llama_model_n_embd_out") else self.n_embd

    @property
    def n_embd_inp(self) -> int:
        """Numbers in a row of embeddings that is decoded in place of a token; several times ``n_embd`` where images go
        into several layers. Wraps ``llama_model_n_embd_inp``."""
        return int(lib.llama_model_n_embd_inp(self.ptr)) if binding.has("llama_model_n_embd_inp") else self.n_embd

    @cached_property
    def n_pos_per_embd(self) -> int:
        """Positions of such a row: 4 where they have several dimensions (M-RoPE), else 1."""
        names = ("LLAMA_ROPE_TYPE_MROPE", "LLAMA_ROPE_TYPE_IMROPE")
        kinds = [getattr(lib, name) for name in names if binding.has(name)]
        return 4 if lib.llama_model_rope_type(self.ptr) in kinds else 1

    @property
    def n_layer(self) -> int:
        """Number of layers."""
        return int(lib.llama_model_n_layer(self.ptr))

    @property
    def n_offloadable(self) -> int:
        """Number of layers as ``n_gpu_layers`` counts them: the output is one, and so is each that predicts more
        tokens."""
        return _n_offloadable(self.ptr)

    @property
    def n_expert(self) -> int:
        """Number of experts of a layer, 0 for a model that is not a mixture of experts."""
        return int(self.metadata.get(f"{self.architecture}.expert_count", 0))

    @property
    def n_head(self) -> int:
        """Number of attention heads."""
        # llama.cpp ends the process when there is no layer to have them.
        return int(lib.llama_model_n_head(self.ptr)) if self.n_layer else 0

    @property
    def n_head_kv(self) -> int:
        """Number of key/value heads."""
        return int(lib.llama_model_n_head_kv(self.ptr)) if self.n_layer else 0

    @property
    def n_swa(self) -> int:
        """Sliding window of the attention in tokens, 0 for none."""
        return int(lib.llama_model_n_swa(self.ptr))

    @property
    def rope_freq_scale_train(self) -> float:
        """RoPE frequency scale that the model was trained with."""
        return float(lib.llama_model_rope_freq_scale_train(self.ptr))

    @property
    def has_encoder(self) -> bool:
        """Whether the model has an encoder."""
        return bool(lib.llama_model_has_encoder(self.ptr))

    @property
    def has_decoder(self) -> bool:
        """Whether the model has a decoder."""
        return bool(lib.llama_model_has_decoder(self.ptr))

    @property
    def decoder_start_token(self) -> int | None:
        """The token that starts the decoder of an encoder-decoder model."""
        token = int(lib.llama_model_decoder_start_token(self.ptr))
        return token if token >= 0 else None

    @property
    def is_recurrent(self) -> bool:
        """Whether the model is recurrent, for example Mamba or RWKV."""
        return bool(lib.llama_model_is_recurrent(self.ptr))

    @property
    def is_hybrid(self) -> bool:
        """Whether the model mixes attention and recurrent layers."""
        if binding.has("llama_model_is_hybrid"):
            return bool(lib.llama_model_is_hybrid(self.ptr))
        # Older releases do not say, but the file does: it gives the sizes of the recurrent layers.
        sizes = tuple(f"{self.architecture}.{kind}." for kind in ("ssm", "shortconv"))
        return not self.is_recurrent and any(key.startswith(sizes) for key in self.metadata)

    @property
    def is_diffusion(self) -> bool:
        """Whether the model is diffusion-based."""
        return bool(lib.llama_model_is_diffusion(self.ptr))

    # -- embeddings and classification

    @property
    def pooling(self) -> PoolingType | None:
        """The pooling of the model's embeddings, or None if its file does not specify it."""
        value = self._hint("pooling_type")
        return None if value is None else pooling_of(value)

    @property
    def causal_attn(self) -> bool:
        """Whether a token attends only to the tokens before it; False for encoders."""
        return self._hint("attention.causal") != "false"

    @property
    def n_cls_out(self) -> int:
        """Number of scores of the classifier head; 1 for a model without one."""
        return int(lib.llama_model_n_cls_out(self.ptr))

    def cls_label(self, i: int) -> str | None:
        """Return the name of a class, or None if the file has no name for it. Wraps ``llama_model_cls_label``.

        Raises ``IndexError`` outside ``0 <= i < n_cls_out``.
        """
        if not 0 <= i < self.n_cls_out:
            raise IndexError(f"label {i} is outside 0 to {self.n_cls_out - 1}")
        label = lib.llama_model_cls_label(self.ptr, i)
        return to_text(label) if label != ffi.NULL else None

    @cached_property
    def has_classifier(self) -> bool:
        """Whether there is a classifier head, which rank pooling needs; the first access reads the tensor list."""
        names = ("cls.weight", "cls.output.weight")
        return any(tensor.name in names for part in self._parts for tensor in GGUFFile(part).tensors)

    def _hint(self, name: str) -> str | None:
        """A value under the architecture's name as llama.cpp saw it: with the overrides of the load."""
        key = f"{self.architecture}.{name}"
        value = self.options.kv_overrides.get(key, self.metadata.get(key))
        return None if value is None else str(value).lower()

    def _string(self, function: Any, *index: int) -> str | None:
        room = 256
        while True:
            buffer = ffi.new("char[]", room)
            n = function(self.ptr, *index, buffer, room)
            if n < 0:
                return None
            if n < room:
                return bytes(ffi.buffer(buffer, n)).decode("utf-8", "replace")
            room = n + 1


def _n_offloadable(ptr: Any) -> int:
    more = lib.llama_model_n_layer_nextn(ptr) if binding.has("llama_model_n_layer_nextn") else 0
    return int(lib.llama_model_n_layer(ptr) + more + 1)


def _check_gpu(options: ModelOptions) -> None:
    if not options.require_gpu:
        return
    if options.n_gpu_layers == 0 or options.vocab_only:
        raise ValueError("require_gpu contradicts n_gpu_layers=0 and vocab_only=True")
    found = devices()
    if not any(device.type in ("gpu", "igpu") for device in found):
        names = ", ".join(device.name for device in found)
        raise UnsupportedError(f"require_gpu: libllama found no GPU here, only {names}; see `llama-cffi doctor`")


__all__ = ["ModelBase", "ProgressCallback"]
