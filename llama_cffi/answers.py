"""Questions that are answered in one go: vectors, ranks, labels, scores. Each from its spec, by a runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llama_cffi._util.arguments import check_callable
from llama_cffi.options import EmbedOptions
from llama_cffi.prepare.scores import prepare_perplexity, prepare_scores
from llama_cffi.prepare.vectors import check_texts, choose_pooling, prepare_ranking, prepare_vectors
from llama_cffi.reply import scores, vectors
from llama_cffi.spec import EmbedSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from llama_cffi.core.model import ProgressCallback
    from llama_cffi.reply.scores import Perplexity, Score
    from llama_cffi.reply.vectors import Embeddings, Label, Ranked
    from llama_cffi.runtime import Runtime
    from llama_cffi.spec import ClassifySpec, PerplexitySpec, RerankSpec, ScoreSpec


def embed(spec: EmbedSpec, runtime: Runtime, progress: ProgressCallback | None = None) -> Embeddings:
    """Return the vectors of texts; raises as :meth:`Llama.embed`."""
    norm, options = spec.norm, spec.options
    _check_progress(progress)
    embedder = runtime.embedders.get(choose_pooling(options.get("pooling"), runtime.model))
    tokens, truncated = prepare_vectors(
        check_texts(spec.texts, "texts"),
        runtime.formats,
        embedder.limit,
        prefix=options.get("prefix") or "",
        truncate=bool(options.get("truncate")),
    )
    array = embedder.run(tokens, conditioning=runtime.conditioning, progress=progress)
    if norm is not None:
        vectors.normalize(array, norm)
    if isinstance(spec.texts, str) and embedder.pooling != "none":
        array = array[0]
    return vectors.Embeddings(array, tuple(map(len, tokens)), truncated, embedder.pooling)


def similarity(
    a: str | Sequence[str], b: str | Sequence[str], options: Mapping[str, Any], runtime: Runtime
) -> float | NDArray[np.float32]:
    """Return the cosines between texts; raises as :meth:`Llama.similarity`."""
    if choose_pooling(options.get("pooling"), runtime.model) == "none":
        raise ValueError("similarity() compares whole texts: choose a pooling other than 'none'")
    first, second = check_texts(a, "a"), check_texts(b, "b")
    array = embed(EmbedSpec([*first, *second], EmbedOptions(**options)), runtime).array  # type: ignore[typeddict-item]
    found: NDArray[np.float32] = array[: len(first)] @ array[len(first) :].T
    if isinstance(a, str):
        return float(found[0, 0]) if isinstance(b, str) else found.reshape(-1)
    return found.reshape(-1) if isinstance(b, str) else found


def rerank(spec: RerankSpec, runtime: Runtime, progress: ProgressCallback | None = None) -> list[Ranked]:
    """Return documents in the order of their scores; raises as :meth:`Llama.rerank`."""
    _check_progress(progress)
    embedder = runtime.embedders.get("rank")
    tokens = prepare_ranking(spec, runtime.formats, embedder.limit)
    found = embedder.run(tokens, conditioning=runtime.conditioning, progress=progress)
    return vectors.ranked(found[:, 0], list(spec.documents), spec.options.get("top_n"))


def classify(spec: ClassifySpec, runtime: Runtime) -> list[Label] | list[list[Label]]:
    """Return the labels of texts; raises as :meth:`Llama.classify`."""
    embedder, model = runtime.embedders.get("rank"), runtime.model
    texts, truncate = check_texts(spec.texts, "texts"), bool(spec.options.get("truncate"))
    tokens, _ = prepare_vectors(texts, runtime.formats, embedder.limit, truncate=truncate)
    names = [model.cls_label(i) or f"LABEL_{i}" for i in range(model.n_cls_out)]
    found = [vectors.labeled(one, names) for one in embedder.run(tokens, conditioning=runtime.conditioning)]
    return found[0] if isinstance(spec.texts, str) else found


def perplexity(spec: PerplexitySpec, runtime: Runtime, progress: ProgressCallback | None = None) -> Perplexity:
    """Return the perplexity of a text; raises as :meth:`Llama.perplexity`."""
    _check_progress(progress)
    prepared = prepare_perplexity(spec, runtime.formats, runtime.context.n_ctx_seq)
    conditioning = runtime.conditioning.with_adapters(spec.options.get("adapters"), runtime.model)
    found = runtime.scoring.chunks(prepared, len(prepared), prepared.size, conditioning, progress)
    return scores.perplexity(found, len(prepared))


def score(spec: ScoreSpec, runtime: Runtime) -> list[Score]:
    """Return the scores of continuations; raises as :meth:`Llama.score`."""
    texts: Sequence[tuple[list[int], int]] = prepare_scores(spec, runtime.formats, runtime.context.n_ctx_seq)
    conditioning = runtime.conditioning.with_adapters(spec.options.get("adapters"), runtime.model)
    found = runtime.scoring.continuations(texts, conditioning)
    vocab = runtime.model.vocab
    return [scores.score(whole[first:], one, vocab) for (whole, first), one in zip(texts, found, strict=True)]


def _check_progress(progress: object) -> None:
    if progress is not None:
        check_callable("progress", progress)


__all__ = ["classify", "embed", "perplexity", "rerank", "score", "similarity"]
