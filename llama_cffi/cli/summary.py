"""A summary of the model in a GGUF file, from its metadata and tensor list."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_cffi.engine.author_sampling import author_sampling

if TYPE_CHECKING:
    from llama_cffi.core.gguf import GGUFFile, TensorInfo

_ENCODERS = {
    "clip.has_vision_encoder": "images",
    "clip.has_audio_encoder": "sound",
    "clip.has_gen_audio_encoder": "speech",
}
"""Keys of a projector's file, and what each is for."""
_PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")


@dataclass(frozen=True)
class Weights:
    """All tensors of one type."""

    type: str
    n_tensors: int
    n_params: int
    nbytes: int


@dataclass(frozen=True)
class Summary:
    """What ``llama-cffi info`` shows; None and empty where the file says nothing."""

    path: str
    files: tuple[str, ...]
    missing_files: tuple[str, ...]
    file_size: int
    gguf_version: int
    type: str
    architecture: str | None
    name: str | None
    size_label: str | None
    n_params: int
    weights: tuple[Weights, ...]
    context_length: int | None
    layers: int | None
    embedding: int | None
    feed_forward: Any
    heads: Any
    kv_heads: Any
    experts: int | None
    experts_used: int | None
    vocab_type: str | None
    vocab_size: int | None
    chat_template: bool
    projects: tuple[str, ...]
    """What a projector is for: images, sound, speech."""
    sampling: Mapping[str, Any]
    suppressed_tokens: int
    license: str | None
    metadata_keys: int
    tensors: int
    memory: Mapping[str, int] | None = None
    """Bytes of the weights, of a context with ``n_ctx`` tokens, and to compute; None where it was not asked for."""

    @property
    def tensor_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(weights.nbytes for weights in self.weights)

    @property
    def bits_per_weight(self) -> float | None:
        """Average over all tensors, None without weights."""
        return 8 * self.tensor_bytes / self.n_params if self.n_params else None


def parts(path: Path, metadata: Mapping[str, Any]) -> tuple[list[Path], list[Path]]:
    """The files of a split model in order, `path` among them: those present, and those missing."""
    count = metadata.get("split.count", 1)
    match = _PART.fullmatch(path.name)
    if count < 2 or match is None or int(match[3]) != count:
        return [path], []
    files = [path.with_name(f"{match[1]}-{number:05}-of-{match[3]}.gguf") for number in range(1, count + 1)]
    return [file for file in files if file.exists()], [file for file in files if not file.exists()]


def summarise(
    first: GGUFFile,
    path: str,
    files: Iterable[tuple[str, GGUFFile]],
    missing: list[str],
    memory: Mapping[str, int] | None = None,
) -> Summary:
    """Put together the parts of a model; `first` holds the metadata that counts."""
    files = list(files)
    metadata: Mapping[str, Any] = first.metadata
    tensors = [tensor for _, part in files for tensor in part.tensors]
    tokens = metadata.get("tokenizer.ggml.tokens")

    def hyper(key: str) -> Any:
        return metadata.get(f"{first.architecture}.{key}")

    return Summary(
        path=path,
        files=tuple(file for file, _ in files),
        missing_files=tuple(missing),
        file_size=sum(part.file_size for _, part in files),
        gguf_version=first.version,
        type=metadata.get("general.type", "model"),
        architecture=first.architecture,
        name=metadata.get("general.name"),
        size_label=metadata.get("general.size_label"),
        n_params=sum(part.n_params for _, part in files),
        weights=_by_type(tensors),
        context_length=hyper("context_length"),
        layers=hyper("block_count"),
        embedding=hyper("embedding_length"),
        feed_forward=hyper("feed_forward_length"),
        heads=hyper("attention.head_count"),
        kv_heads=hyper("attention.head_count_kv"),
        experts=hyper("expert_count"),
        experts_used=hyper("expert_used_count"),
        vocab_type=metadata.get("tokenizer.ggml.model"),
        vocab_size=len(tokens) if tokens is not None else hyper("vocab_size"),
        chat_template="tokenizer.chat_template" in metadata,
        projects=tuple(name for key, name in _ENCODERS.items() if metadata.get(key) is True),
        sampling=author_sampling(metadata),
        suppressed_tokens=len(metadata.get("tokenizer.ggml.suppress_tokens", ())),
        license=metadata.get("general.license"),
        metadata_keys=len(metadata),
        tensors=len(tensors),
        memory=memory,
    )


def _by_type(tensors: Iterable[TensorInfo]) -> tuple[Weights, ...]:
    """The tensors grouped by type, most bytes first."""
    groups: dict[str, list[int]] = {}
    for tensor in tensors:
        group = groups.setdefault(tensor.type.upper(), [0, 0, 0])
        for i, amount in enumerate((1, tensor.n_elements, tensor.nbytes)):
            group[i] += amount
    ordered = sorted(groups.items(), key=lambda item: item[1][2], reverse=True)
    return tuple(Weights(kind, *group) for kind, group in ordered)
