"""A loaded model: weights, metadata, vocabulary, on the devices where they fit."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import NoneType
from typing import Any

from llama_cffi._util.shown import shown
from llama_cffi.core.context_options import ContextOptions
from llama_cffi.core.fitting import Contexts, Fitting
from llama_cffi.core.gguf import GGUFFile
from llama_cffi.core.model_base import ModelBase, ProgressCallback
from llama_cffi.core.model_options import ModelOptions
from llama_cffi.core.model_paths import ModelGiven, all_parts
from llama_cffi.core.model_reference import ModelReference, reopen
from llama_cffi.core.model_save import save_model
from llama_cffi.core.opening import local
from llama_cffi.core.source import Source, naming, open_source
from llama_cffi.core.tensor_overrides import check_matches
from llama_cffi.errors import ModelFileError, UnsupportedError


class Model(ModelBase):
    """A model loaded from a GGUF file; Contexts share its weights.

    ``path`` is one file, the first part of a split model named ``*-00001-of-000NN.gguf``, or the list of all parts in
    order; an address (``https://host/model.gguf``), whose file is downloaded as by ``llama_cffi.hub.pull_address``; an
    :class:`ArchiveMember`; an open binary file, which is read from its position on; or the bytes themselves. What is
    neither a file on disk nor in an archive is copied into memory, and stays there as long as the model is open;
    ``model.path`` is then the name of that copy in this process. ``progress`` receives the loaded fraction, 0.0 to 1.0;
    when it returns False, loading stops with :class:`ModelLoadCancelled`; an exception in it reaches the caller.

    With ``n_gpu_layers="auto"``, the default, the weights go to the GPUs as far as they fit there beside a ``context``
    (by default ``ContextOptions()``). When an allocation fails all the same, the file is loaded again with less on the
    GPUs, as often as needed; ``placement.steps`` tells what was done, and ``options`` has what was found.

    A model that was loaded from a path pickles as a reference: another process loads the same file with the same
    options, and refuses one that has changed.

    Raises :class:`ModelNotFoundError` and :class:`ModelFileError` with llama.cpp's own message. Wraps
    ``llama_model_load_from_file``, ``llama_model_load_from_splits`` and ``llama_model_load_from_file_ptr``.
    """

    def __init__(
        self,
        path: ModelGiven | Sequence[str | os.PathLike[str]],
        options: ModelOptions | None = None,
        *,
        progress: ProgressCallback | None = None,
        context: ContextOptions | Fitting | None = None,
    ) -> None:
        if not isinstance(options, (ModelOptions, NoneType)):
            raise TypeError(f"options must be ModelOptions or None, got {shown(options)}")
        if not isinstance(context, (ContextOptions, Fitting, NoneType)):
            raise TypeError(f"context must be ContextOptions or None, got {shown(context)}")
        if isinstance(context, Fitting):
            options = context.given
        options = options if options is not None else ModelOptions()
        self._given = options, context if isinstance(context, ContextOptions) else None
        path = local(path)
        source = open_source(path)
        try:
            with naming(source):
                self._open(path if source is None else source, options, context, progress)
        except BaseException:
            if source is not None:
                source.close()
            raise

    def _open(self, path: Any, options: ModelOptions, context: ContextOptions | Fitting | None, progress: Any) -> None:
        if isinstance(path, Source) and path.offset:
            GGUFFile(path)  # for llama.cpp, tensors may lie anywhere in the file, also behind the model
        if options.tensor_overrides:
            check_matches(
                options.tensor_overrides, (one.name for part in all_parts(path) for one in GGUFFile(part).tensors)
            )
        fitting = context if isinstance(context, Fitting) else None
        if fitting is None and Fitting.is_needed(options):
            wanted = Contexts((context,)) if isinstance(context, ContextOptions) else None
            fitting = Fitting(path, options, (lambda model: wanted) if wanted is not None else None)
        self.fitting: Fitting | None = fitting
        """What found the options; None where nothing had to be found."""
        while True:
            chosen = fitting.plan() if fitting is not None else options
            if fitting is not None and options.require_gpu and chosen.n_gpu_layers == 0 != options.n_gpu_layers:
                raise UnsupportedError(f"require_gpu: nothing fits a GPU: {'; '.join(fitting.steps)}")
            try:
                super().__init__(path, chosen, progress=progress)
                break
            except ModelFileError as error:
                if fitting is None or not fitting.lessen(error):
                    raise
        if fitting is not None:
            self.placement = replace(self.placement, steps=tuple(fitting.steps))

    def __reduce__(self) -> tuple[Any, ...]:  # type: ignore[override]
        self._handle.ptr  # noqa: B018 - ClosedError
        return reopen, (type(self), ModelReference.of(self), *self._given)

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Write the loaded model to one GGUF file, and return its path.

        llama.cpp writes what it computes with: weights with their types, hyperparameters and the vocabulary. Other
        metadata (chat template, name, license, recommended sampling parameters) are taken from the file of the model,
        and missing if that has changed since. Adapters are not merged. The file appears when it is complete.

        Raises ``FileExistsError`` for a file that exists, unless ``overwrite``, ``OSError`` when writing fails, and
        :class:`UnsupportedError` where a tensor would be lost: for some architectures (with the pinned llama.cpp
        gemma3n, bitnet, t5, apertus and step35), and for weights that were rearranged for this CPU, which
        ``use_extra_bufts=False`` prevents. Wraps ``llama_model_save_to_file``.
        """
        return save_model(self, path, overwrite=overwrite)

    def close(self) -> None:
        """Close every Context and sampler of this model, then free it. May be called repeatedly."""
        super().close()
        if self._source is not None:
            self._source.close()


__all__ = ["Model", "ModelOptions", "ProgressCallback"]
