"""Filling in what is missing between two texts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from llama_cffi.facade.generation import GenerateOptions, Generation
from llama_cffi.prompt.infill import InfillOrder
from llama_cffi.reply.completion import Chunk, Completion

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from typing_extensions import Unpack


class Infill(Generation):
    """The fill-in-the-middle methods of a :class:`~llama_cffi.llama.Llama`."""

    def infill(
        self,
        prefix: str,
        suffix: str,
        *,
        files: Mapping[str, str] | None = None,
        name: str = "",
        repository: str = "",
        order: InfillOrder = "psm",
        **options: Unpack[GenerateOptions],
    ) -> Completion:
        """Generate what belongs between ``prefix`` and ``suffix``, for example at a cursor in source code.

        ``files`` are other files that belong to it, text by name; ``name`` and ``repository`` are those of the file to
        fill in. ``order`` is what the model was trained with: prefix, suffix, middle for most. The rest is as in
        :meth:`generate`, without ``echo`` and ``heal``.

        Raises :class:`UnsupportedError` for a model without fill-in-the-middle tokens.
        """
        tokens = self.tokenize_infill(prefix, suffix, files=files, name=name, repository=repository, order=order)
        return self.generate(tokens, **_checked(options))

    def stream_infill(
        self,
        prefix: str,
        suffix: str,
        *,
        files: Mapping[str, str] | None = None,
        name: str = "",
        repository: str = "",
        order: InfillOrder = "psm",
        **options: Unpack[GenerateOptions],
    ) -> Iterator[Chunk]:
        """:meth:`infill` as an iterator of chunks, as :meth:`stream` gives them."""
        tokens = self.tokenize_infill(prefix, suffix, files=files, name=name, repository=repository, order=order)
        return self.stream(tokens, **_checked(options))

    def tokenize_infill(
        self,
        prefix: str,
        suffix: str,
        *,
        files: Mapping[str, str] | None = None,
        name: str = "",
        repository: str = "",
        order: InfillOrder = "psm",
    ) -> NDArray[np.int32]:
        """The prompt of :meth:`infill`, int32 of shape ``(n,)``, without computing it."""
        tokens = self._infill_format.tokens(prefix, suffix, files=files, name=name, repository=repository, order=order)
        return np.array(tokens, dtype=np.int32)


def _checked(options: GenerateOptions) -> GenerateOptions:
    if options.get("echo") or options.get("heal"):
        raise ValueError("echo= and heal= mean nothing where a middle is filled in")
    return options


__all__ = ["Infill"]
