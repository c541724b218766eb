"""Calls without a stream: embeddings, ranks, labels, scores. Each is computed from its spec, by a runtime."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from typing import TYPE_CHECKING, Any

from llama_cffi._util.progress import Progress, reporting
from llama_cffi.options import EmbedOptions
from llama_cffi.prepare.generation import as_prompt
from llama_cffi.prepare.scores import prepare_perplexity, prepare_scores
from llama_cffi.prepare.vectors import (
    check_ranks,
    check_texts,
    check_texts_or_prompts,
    choose_pooling,
    prepare_ranking,
    prepare_vectors,
)
from llama_cffi.prompt.media_parts import VALUES
from llama_cffi.reply import scores, vectors
from llama_cffi.spec import EmbedSpec, MixedPrompt
from llama_cffi.stream import as_completed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from llama_cffi.engine.engine import Engine
    from llama_cffi.prepare.prepared import Prepared
    from llama_cffi.reply.completion import Chunk, Completion
    from llama_cffi.reply.reader import Reader
    from llama_cffi.reply.scores import Perplexity, Score
    from llama_cffi.reply.vectors import Embeddings, Label, Ranked
    from llama_cffi.runtime import Runtime
    from llama_cffi.spec import ClassifySpec, PerplexitySpec, RerankSpec, ScoreSpec


def embed(spec: EmbedSpec, runtime: Runtime, progress: Progress | None = None) -> Embeddings:
    """Return the vectors of texts; raises the errors of :meth:`Llama.embed`."""
    norm, options = spec.norm, spec.options
    embedder = runtime.embedders.get(choose_pooling(options.get("pooling"), runtime.model))
    texts = spec.inputs
    if isinstance(texts, list):
        texts = [as_prompt(one, runtime.formats) if isinstance(one, MixedPrompt) else one for one in texts]
    tokens, truncated = prepare_vectors(
        check_texts_or_prompts(texts, "texts"),
        runtime.formats,
        embedder.limit,
        prefix=options.get("prefix") or "",
        truncate=bool(options.get("truncate")),
        pooling=embedder.pooling,
    )
    with reporting(progress, "embedding") as report:
        array = embedder.run(tokens, conditioning=runtime.conditioning, progress=report, encode=runtime.encode)
    if norm is not None:
        vectors.normalize(array, norm)
    if isinstance(spec.texts, (str, *VALUES)) and embedder.pooling != "none":
        array = array[0]
    return vectors.Embeddings(array, tuple(map(len, tokens)), truncated, embedder.pooling)


def similarity(
    a: str | Sequence[str],
    b: str | Sequence[str],
    options: Mapping[str, Any],
    runtime: Runtime,
    progress: Progress | None = None,
) -> float | NDArray[np.float32]:
    """Return the cosines between texts; raises the errors of :meth:`Llama.similarity`."""
    if choose_pooling(options.get("pooling"), runtime.model) == "none":
        raise ValueError("similarity() compares whole texts: choose a pooling other than 'none'")
    first, second = check_texts(a, "a"), check_texts(b, "b")
    asked = EmbedSpec([*first, *second], EmbedOptions(**options))  # type: ignore[typeddict-item]
    array = embed(asked, runtime, progress).array
    found: NDArray[np.float32] = array[: len(first)] @ array[len(first) :].T
    if isinstance(a, str):
        return float(found[0, 0]) if isinstance(b, str) else found.reshape(-1)
    return found.reshape(-1) if isinstance(b, str) else found


def rerank(spec: RerankSpec, runtime: Runtime, progress: Progress | None = None) -> list[Ranked]:
    """Return documents in the order of their scores; raises the errors of :meth:`Llama.rerank`."""
    check_ranks(runtime.model, "rerank", "similarity() orders texts by their embeddings")
    embedder = runtime.embedders.get("rank")
    tokens = prepare_ranking(spec, runtime.formats, embedder.limit)
    with reporting(progress, "ranking") as report:
        found = embedder.run(tokens, conditioning=runtime.conditioning, progress=report)
    return vectors.ranked(found[:, 0], spec.documents, list(map(len, tokens)), spec.options.get("top_n"))


def classify(spec: ClassifySpec, runtime: Runtime, progress: Progress | None = None) -> list[Label] | list[list[Label]]:
    """Return the labels of texts; raises the errors of :meth:`Llama.classify`."""
    check_ranks(runtime.model, "classify", "chat() or generate() with the labels as schema= chooses one of them")
    embedder, model = runtime.embedders.get("rank"), runtime.model
    texts, truncate = check_texts(spec.texts, "texts"), bool(spec.options.get("truncate"))
    tokens, _ = prepare_vectors(texts, runtime.formats, embedder.limit, truncate=truncate)
    names = [model.cls_label(i) or f"LABEL_{i}" for i in range(model.n_cls_out)]
    with reporting(progress, "classifying") as report:
        array = embedder.run(tokens, conditioning=runtime.conditioning, progress=report)
    found = [vectors.labeled(one, names) for one in array]
    return found[0] if isinstance(spec.texts, str) else found


def perplexity(spec: PerplexitySpec, runtime: Runtime, progress: Progress | None = None) -> Perplexity:
    """Return the perplexity of a text; raises the errors of :meth:`Llama.perplexity`."""
    prepared = prepare_perplexity(spec, runtime.formats, runtime.context.n_ctx_seq)
    conditioning = runtime.conditioning.with_adapters(spec.options.get("adapters"), runtime.model)
    with reporting(progress, "scoring") as report:
        found = runtime.scoring.chunks(prepared, len(prepared), prepared.size, conditioning, report)
    return scores.perplexity(found, len(prepared))


def score(spec: ScoreSpec, runtime: Runtime, progress: Progress | None = None) -> list[Score]:
    """Return the scores of continuations; raises the errors of :meth:`Llama.score`."""
    texts: Sequence[tuple[list[int], int]] = prepare_scores(spec, runtime.formats, runtime.context.n_ctx_seq)
    conditioning = runtime.conditioning.with_adapters(spec.options.get("adapters"), runtime.model)
    with reporting(progress, "scoring") as report:
        found = runtime.scoring.continuations(texts, conditioning, report)
    vocab = runtime.model.vocab
    return [scores.score(whole[first:], one, vocab) for (whole, first), one in zip(texts, found, strict=True)]


def in_order_of_completion(
    engine: Engine,
    prepared: Iterator[Prepared[Chunk]],
    n_ahead: int,
    prompts: Iterable[object],
    progress: Progress | None,
) -> Iterator[tuple[int, Completion]]:
    """Yield the number and the completion of each prompt when it is done; raises the errors of :meth:`Llama.map`."""
    n = len(prompts) if isinstance(prompts, Sized) else 0
    if progress and not isinstance(prompts, Sized):
        raise TypeError("progress= needs the number of prompts: give a list")
    return _completions(engine, prepared, n_ahead, n, progress)


def _completions(
    engine: Engine, prepared: Iterator[Prepared[Chunk]], n_ahead: int, n: int, progress: Progress | None
) -> Iterator[tuple[int, Completion]]:
    readers: dict[int, Reader[Chunk] | None] = {}

    def noted() -> Iterator[Prepared[Chunk]]:
        for i, one in enumerate(prepared):
            readers[i] = one.reader
            yield one

    with reporting(progress, "generating") as report:
        for n_done, (i, completion) in enumerate(as_completed(engine, noted(), n_ahead), 1):
            reader = readers.pop(i)
            yield i, completion if reader is None else reader.finish(completion)
            if report is not None:
                report(n_done / n)


__all__ = ["classify", "embed", "in_order_of_completion", "perplexity", "rerank", "score", "similarity"]
