"""What a pickled model is: the name of its file, and how the file is known again."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from llama_cffi.core.archive import ArchiveMember
from llama_cffi.core.fingerprint import file_pieces, metadata_hash
from llama_cffi.core.opening import opened
from llama_cffi.core.source import Source
from llama_cffi.errors import ModelFileError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llama_cffi.core.model_options import ModelOptions

Identity = tuple[int, str]
"""The size of a file, and the hash of some of its pieces."""


class LoadedModel(Protocol):
    """What a reference needs of a model."""

    path: Path
    identities: tuple[Identity, ...]

    @property
    def target(self) -> str | tuple[str, ...] | ArchiveMember:
        """What another process opens the model by."""

    @property
    def metadata(self) -> dict[str, str]:
        """Its scalar metadata."""


def identify(file: Path | Source) -> Identity:
    """Return what tells a file from a changed one; reads 8 KiB of it. Raises ``OSError``."""
    size = file.size if isinstance(file, Source) else os.stat(file).st_size
    return size, file_pieces(file)


def check_still(files: Sequence[Path | Source], identities: Sequence[Identity]) -> None:
    """Raise :class:`ModelFileError` for a file that was changed while it was loaded; one that is gone was not."""
    for file, identity in zip(files, identities, strict=True):
        with suppress(OSError):
            if identify(file) != identity:
                name = file.name if isinstance(file, Source) else file
                raise ModelFileError(f"{name} was changed while it was loaded: load it again when it is complete")


@dataclass(frozen=True, slots=True)
class ModelReference:
    """The files of a model as another process opens them, and what they were when the model was loaded."""

    target: str | tuple[str, ...] | ArchiveMember
    identities: tuple[Identity, ...]
    metadata: str

    @classmethod
    def of(cls, model: LoadedModel) -> ModelReference:
        """Return the reference to a loaded model; TypeError for one that was not loaded from a path."""
        return cls(model.target, model.identities, metadata_hash(model.metadata))

    def check(self) -> None:
        """Raise :class:`ModelFileError` for files that have changed, and what reading them raises."""
        if isinstance(self.target, ArchiveMember):
            with opened(self.target) as source:
                self._compare(str(self.target), source, self.identities[0])
            return
        paths = (self.target,) if isinstance(self.target, str) else self.target
        for path, identity in zip(paths, self.identities, strict=False):
            self._compare(path, Path(path), identity)

    def check_loaded(self, model: LoadedModel) -> None:
        """Raise :class:`ModelFileError` if the metadata of a model is not what it was."""
        if metadata_hash(model.metadata) != self.metadata:
            raise _changed(str(model.path))

    def _compare(self, name: str, file: Any, identity: Identity) -> None:
        try:
            found = identify(file)
        except OSError:
            return  # loading it says what is wrong
        if found != identity:
            raise _changed(name)


def _changed(name: str) -> ModelFileError:
    return ModelFileError(f"{name} is not what it was when the model was pickled: the file has changed")


def absolute(path: str | os.PathLike[str] | Sequence[Any]) -> str | tuple[str, ...]:
    """Return paths that another process understands."""
    if isinstance(path, (str, os.PathLike)):
        return os.path.abspath(path)
    return tuple(os.path.abspath(part) for part in path)


def reopen(kind: type[Any], reference: ModelReference, options: ModelOptions, context: Any) -> Any:
    """Load a pickled model. Raises the errors of loading, and :class:`ModelFileError` for a file that has changed."""
    reference.check()
    target = list(reference.target) if isinstance(reference.target, tuple) else reference.target
    model = kind(target, options, context=context)
    try:
        reference.check_loaded(model)
    except BaseException:
        model.close()
        raise
    return model


__all__ = ["Identity", "ModelReference", "absolute", "identify", "reopen"]
