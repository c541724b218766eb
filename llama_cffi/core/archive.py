"""Models in archives that are not compressed: where in the archive the bytes of a member are."""

from __future__ import annotations

import os
import struct
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from llama_cffi.errors import LlamaCffiError, ModelFileError, ModelNotFoundError, UnsupportedError

_LOCAL_HEADER = struct.Struct("<4s2xHH16xHH")
_COMPRESSED = {
    b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"7z\xbc\xaf": "7-Zip",
    b"Rar!": "RAR",
}  # fmt: skip
_DAMAGE = (ValueError, LookupError, ArithmeticError, EOFError, NotImplementedError, RuntimeError, struct.error)
"""What Python's modules raise for archives that they did not expect."""
_ENCRYPTED = 1
_STORED = 0
_METHODS = {8: "deflate", 9: "deflate64", 12: "bzip2", 14: "LZMA", 93: "Zstandard"}


@dataclass(frozen=True, slots=True)
class ArchiveMember:
    """A GGUF file in a zip or tar archive, which is read in place: the archive must not compress it.

    ``name`` is its path in the archive; without one it is the only GGUF file there. ``Model(ArchiveMember("m.zip"))``
    raises :class:`UnsupportedError` for a member that is compressed or encrypted.
    """

    archive: str | os.PathLike[str]
    name: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.archive, (str, os.PathLike)) or not isinstance(os.fspath(self.archive), str):
            raise TypeError(f"archive must be the path of a zip or tar archive, not {type(self.archive).__name__}")
        if not isinstance(self.name, str | None):
            raise TypeError(f"name must be the path of a file in the archive, not {type(self.name).__name__}")
        object.__setattr__(self, "archive", os.fspath(self.archive))

    def __str__(self) -> str:
        return os.fspath(self.archive) + (f"/{self.name}" if self.name is not None else "")

    @staticmethod
    def of_path(path: str | os.PathLike[str]) -> ArchiveMember | None:
        """Read ``archive.zip/folder/model.gguf``; None for what does not lead through an archive."""
        import zipfile

        whole = Path(path)
        with suppress(OSError, *_DAMAGE):
            for parent in whole.parents:
                if parent.is_file() and (zipfile.is_zipfile(parent) or _is_tar(parent)):
                    return ArchiveMember(parent, whole.relative_to(parent).as_posix())
                if parent.exists():
                    break
        return None

    def find(self) -> tuple[str, int, int]:
        """Return its name, and where it begins and how many bytes it has.

        Raises :class:`ModelNotFoundError`, :class:`UnsupportedError` and, for a damaged archive,
        :class:`ModelFileError`.
        """
        import zipfile

        archive = Path(self.archive)
        try:
            with open(archive, "rb") as file:
                magic = file.read(8)
            if kind := next((kind for start, kind in _COMPRESSED.items() if magic.startswith(start)), None):
                raise UnsupportedError(
                    f"{archive} is compressed with {kind}; a model is read in place: unpack it, or pack it without "
                    "compression"
                )
            # A tar archive may end with a zip archive.
            zipped = zipfile.is_zipfile(archive) and (magic.startswith(b"PK") or not _is_tar(archive))
            name, start, size = self._in_zip() if zipped else self._in_tar()
            if start + size > archive.stat().st_size:
                raise ModelFileError(f"{archive} is truncated: {name} ends at byte {start + size}")
        except LlamaCffiError:
            raise
        except FileNotFoundError as error:
            raise ModelNotFoundError(f"no such file: {archive}") from error
        except OSError as error:
            raise ModelFileError(f"cannot read {archive}: {error.strerror or error}") from error
        return name, start, size

    def _in_zip(self) -> tuple[str, int, int]:
        import zipfile

        try:
            with zipfile.ZipFile(self.archive) as archive:
                files = {one.filename: one for one in archive.infolist() if not one.is_dir()}
        except (zipfile.BadZipFile, *_DAMAGE) as error:
            raise ModelFileError(f"{self.archive} is a damaged zip archive: {error}") from error
        info = files[self._chosen(list(files))]
        check_stored(f"{self.archive}/{info.filename}", info.compress_type, encrypted=bool(info.flag_bits & _ENCRYPTED))
        header = b""
        with open(self.archive, "rb") as file, suppress(ValueError, OverflowError):
            file.seek(info.header_offset)
            header = file.read(_LOCAL_HEADER.size)
        if len(header) < _LOCAL_HEADER.size or not header.startswith(b"PK\3\4"):
            raise ModelFileError(f"{self.archive} is a damaged zip archive: {info.filename} is not where it says")
        _, flags, method, n_name, n_extra = _LOCAL_HEADER.unpack(header)
        same = method == info.compress_type and not (flags ^ info.flag_bits) & _ENCRYPTED
        if not same or info.compress_size != info.file_size:
            raise ModelFileError(f"{self.archive} is a damaged zip archive: its headers of {info.filename} differ")
        return info.filename, info.header_offset + _LOCAL_HEADER.size + n_name + n_extra, info.file_size

    def _in_tar(self) -> tuple[str, int, int]:
        import tarfile

        try:
            with tarfile.open(self.archive, "r:") as archive:
                files = {}
                for one in archive:
                    if one.size < 0:  # what follows would stand before it, for ever
                        raise tarfile.TarError(f"{one.name} has {one.size} bytes")
                    if not one.isdir():
                        files[one.name] = one
        except (tarfile.TarError, *_DAMAGE) as error:
            raise ModelFileError(f"{self.archive} is not a zip or tar archive, or a damaged one: {error}") from error
        member = files[self._chosen(list(files))]
        if not member.isreg() or member.issparse():
            kind = "a link" if member.issym() or member.islnk() else "not a regular file"
            raise UnsupportedError(f"{self.archive}/{member.name} is {kind} in the archive")
        return member.name, member.offset_data, member.size

    def _chosen(self, names: list[str]) -> str:
        if self.name is not None and self.name in names:
            return self.name
        models = [name for name in names if name.lower().endswith(".gguf")]
        if self.name is None and len(models) == 1:
            return models[0]
        missing = f"{self.archive} has no {self.name}" if self.name is not None else f"{self.archive}: give a name"
        raise ModelNotFoundError(f"{missing}; its GGUF files are: {', '.join(models) or 'none'}")


def _is_tar(path: Path) -> bool:
    import tarfile

    try:
        return tarfile.is_tarfile(path)
    except _DAMAGE:
        return False


def check_stored(name: str, compress_type: int, *, encrypted: bool = False) -> None:
    """Raise :class:`UnsupportedError` for a member of a zip archive that is compressed or encrypted."""
    if encrypted:
        raise UnsupportedError(f"{name} is encrypted; a model is read in place: unpack it")
    if compress_type != _STORED:
        method = _METHODS.get(compress_type, f"method {compress_type}")
        raise UnsupportedError(
            f"{name} is compressed ({method}); a model is read in place: unpack it, or pack it without compression "
            "(ZIP_STORED, zip -0)"
        )


__all__ = ["ArchiveMember", "check_stored"]
