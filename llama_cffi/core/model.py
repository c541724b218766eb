"""A loaded model: weights, metadata, vocabulary, on the devices where they fit."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from types import NoneType

from llama_cffi._util.shown import shown
from llama_cffi.core.context_options import ContextOptions
from llama_cffi.core.fitting import Contexts, Fitting
from llama_cffi.core.gguf import GGUFFile
from llama_cffi.core.model_base import ModelBase, ProgressCallback, all_parts
from llama_cffi.core.model_options import ModelOptions
from llama_cffi.core.tensor_overrides import check_matches
from llama_cffi.errors import ModelFileError, UnsupportedError


class Model(ModelBase):
    """A model loaded from a GGUF file; Contexts share its weights.

    ``path`` is one file, the first part of a split model named ``*-00001-of-000NN.gguf``, or the list of all parts in
    order. ``progress`` receives the loaded fraction, 0.0 to 1.0; when it returns False, loading stops with
    :class:`ModelLoadCancelled`; an exception in it reaches the caller.

    With ``n_gpu_layers="auto"``, the default, the weights go to the GPUs as far as they fit there beside a ``context``
    (by default ``ContextOptions()``). When an allocation fails all the same, the file is loaded again with less on the
    GPUs, as often as needed; ``placement.steps`` tells what was done, and ``options`` has what was found.

    Raises :class:`ModelNotFoundError` and :class:`ModelFileError` with llama.cpp's own message. Wraps
    ``llama_model_load_from_file`` and ``llama_model_load_from_splits``.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
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


__all__ = ["Model", "ModelOptions", "ProgressCallback"]
