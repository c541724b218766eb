"""Put documents in the order of how well they answer: python examples/rerank.py [RERANKER.gguf]

A reranking model reads query and document together. Any other model compares their embeddings, which is coarser.
"""

import sys

from llama_cffi import Llama, LlamaCffiError

QUERY = "What did Lily play with?"
DOCUMENTS = [
    "The sun was hot, and the sand too.",
    "Lily played with her ball all day.",
    "Tom baked a cake for his mother.",
]

try:
    llm = Llama(sys.argv[1]) if len(sys.argv) > 1 else Llama.demo()
except LlamaCffiError as error:
    sys.exit(str(error))
with llm:
    if llm.model.has_classifier:
        for one in llm.rerank(QUERY, DOCUMENTS):
            print(f"{one.score:6.3f}  {one.document}")
    else:
        scored = zip(llm.similarity(QUERY, DOCUMENTS).tolist(), DOCUMENTS, strict=True)
        for score, document in sorted(scored, reverse=True):
            print(f"{score:6.3f}  {document}")
