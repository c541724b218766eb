"""The projector of a Llama, and the thread that encodes with it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_cffi._util.shown import shown
from llama_cffi.core.gguf import GGUFFile
from llama_cffi.core.media.projector import Projector
from llama_cffi.core.media.projector_file import generates_speech
from llama_cffi.core.media.projector_memory import projector_memory
from llama_cffi.core.memory_file import has_folder
from llama_cffi.core.placement import gpu_names
from llama_cffi.core.shared_model import ModelShare
from llama_cffi.core.threads import default_thread_count
from llama_cffi.engine.media_content import content_of
from llama_cffi.engine.media_encoder import MediaEncoder
from llama_cffi.errors import ModelNotFoundError
from llama_cffi.hub.projector import choose_projector

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from typing_extensions import Self

    from llama_cffi.core.context import Context
    from llama_cffi.core.context_options import ContextOptions
    from llama_cffi.core.model import Model
    from llama_cffi.core.prompt import Media

DEFAULT_MEDIA_BYTES = 256 << 20
"""Bytes of embeddings that are kept unless told otherwise."""


class OpenMedia:
    """A projector with its encoder, which a Llama and its forks own together.

    The last owner that closes its part closes the projector, unless that was given open (``owned=False``).
    """

    def __init__(self, projector: Projector, *, owned: bool, max_bytes: int = DEFAULT_MEDIA_BYTES) -> None:
        self.projector = projector

        def encode(media: Media) -> NDArray[np.float32]:
            return content_of(media.content).encode(projector)

        self.encoder = MediaEncoder(encode, max_bytes, projector=projector.fingerprint)
        self._owned = ModelShare(projector) if owned else None
        self._running = ModelShare(self.encoder)

    def share(self) -> Self:
        """Return the part of one more owner."""
        twin = object.__new__(type(self))
        twin.projector, twin.encoder = self.projector, self.encoder
        twin._owned = self._owned.share() if self._owned is not None else None
        twin._running = self._running.share()
        return twin

    def compute_beside(self, context: Context) -> None:
        """Have encodings take turns with the decodes of a context, where both compute on the CPU, with more threads
        than it has cores."""
        projector, model = self.projector, context.model
        n_threads = max(context.n_threads, context.n_threads_batch)
        # A speech is also decoded, with as many threads as the context has.
        n_beside = projector.n_threads if projector.speech is None else max(projector.n_threads, n_threads)
        on_gpu = model.options.n_gpu_layers != 0 and gpu_names()
        if not on_gpu and n_beside + n_threads > default_thread_count():
            projector.turns.add(context.turn)

    def close(self) -> None:
        """Give the part up; what is being encoded is waited for by the last one. Idempotent."""
        self._running.close()
        if self._owned is not None:
            self._owned.close()


def open_media(model: Model, given: Mapping[str, Any], options: ContextOptions) -> OpenMedia | None:
    """Open the projector that the options of a Llama name, if they do; it computes as its context does.

    Raises :class:`ModelNotFoundError` where ``"auto"`` finds none beside the model, and the errors of
    :class:`Projector`.
    """
    mmproj, max_bytes = given.get("mmproj"), given.get("media_bytes", DEFAULT_MEDIA_BYTES)
    if max_bytes < 0:
        raise ValueError(f"media_bytes must be at least 0, got {shown(max_bytes)}")
    sizes = _sizes(given)
    if mmproj is None or isinstance(mmproj, Projector):
        if sizes:
            raise ValueError(f"{', '.join(sizes)}: give mmproj=, a file, which is opened with these options")
        if mmproj is None:
            return None
        return OpenMedia(mmproj, owned=False, max_bytes=max_bytes)
    path = projector_beside(model.path) if mmproj == "auto" else Path(mmproj)
    projector = Projector(
        model,
        path,
        n_threads=options.n_threads if options.n_threads_batch is None else options.n_threads_batch,
        use_gpu=model.options.n_gpu_layers != 0,
        flash_attn=options.flash_attn,
        **sizes,
    )
    return OpenMedia(projector, owned=True, max_bytes=max_bytes)


def projector_bytes(
    model: Path, given: Mapping[str, Any], options: ContextOptions, *, use_gpu: bool
) -> Mapping[str, int]:
    """Return what the projector that :func:`open_media` would open takes on each device; {} for one that is open.

    ``model`` is the file of the model, which uses a GPU or not. Raises as :func:`open_media`.
    """
    mmproj = given.get("mmproj")
    if mmproj is None or isinstance(mmproj, Projector):
        return {}
    path = projector_beside(model) if mmproj == "auto" else mmproj
    return projector_memory(path, use_gpu=use_gpu, flash_attn=options.flash_attn, **_sizes(given))


def projector_speaks(model: Path, given: Mapping[str, Any]) -> bool:
    """Return whether the projector of a Llama generates speech. ``model`` is the file of the model."""
    mmproj = given.get("mmproj")
    if mmproj is None or isinstance(mmproj, Projector):
        return mmproj is not None and mmproj.speech is not None
    return generates_speech(GGUFFile(projector_beside(model) if mmproj == "auto" else mmproj))


def _sizes(given: Mapping[str, Any]) -> dict[str, Any]:
    return {name: given[name] for name in ("image_min_tokens", "image_max_tokens") if name in given}


def projector_beside(model: Path) -> Path:
    """Return the projector in the folder of a model's file; raises :class:`ModelNotFoundError` without one."""
    if not has_folder(model):
        raise ModelNotFoundError(
            'mmproj="auto": a model without a path has no folder to look in: give the projector\'s'
        )
    folder = model.parent
    names = [path.name for path in folder.glob("*.gguf")] if folder.is_dir() else []
    found = choose_projector(model.name, names)
    if found is None:
        raise ModelNotFoundError(
            f'mmproj="auto": {folder} has no projector for {model.name} (a file with mmproj in its name); give its file'
        )
    return folder / found


__all__ = ["DEFAULT_MEDIA_BYTES", "OpenMedia", "open_media", "projector_beside", "projector_bytes", "projector_speaks"]
