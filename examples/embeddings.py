"""Find the sentence that is nearest to a question: python examples/embeddings.py [MODEL.gguf]

An embedding model finds the meaning; the demo model, which only tells stories, finds similar words.
"""

import sys

from llama_cffi import Llama, LlamaCffiError

SENTENCES = [
    "Lily had a big red ball.",
    "The sun was hot, and the sand too.",
    "Tom baked a cake for his mother.",
]

try:
    llm = Llama(sys.argv[1]) if len(sys.argv) > 1 else Llama.demo()
except LlamaCffiError as error:
    sys.exit(str(error))
with llm:
    known = llm.embed(SENTENCES)  # one float32 array, a row of length 1 for each sentence
    print(f"{known.array.shape[0]} vectors of {known.array.shape[1]} numbers, from {sum(known.n_tokens)} tokens")
    question = llm.embed("Who had a ball?")
    cosines = known.array @ question.array
    for i in cosines.argsort()[::-1]:
        print(f"{cosines[i]:6.3f}  {SENTENCES[i]}")
