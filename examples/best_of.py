"""Several completions of one prompt, which is computed once; and the likeliest of them.

python examples/best_of.py [MODEL]
"""

import sys

from llama_cffi import Llama, LlamaCffiError

try:
    llm = Llama(sys.argv[1]) if len(sys.argv) > 1 else Llama.demo()
except LlamaCffiError as error:
    sys.exit(str(error))
with llm:
    prompt = "Once upon a time there was a little dog. The dog was sad because"
    for choice in llm.generate(prompt, n=3, seed=1, max_tokens=20, stop="."):
        print(f"seed {choice.seed}, {choice.usage.cached_tokens} prompt tokens shared:{choice.text}.")
    best = llm.generate(prompt, best_of=6, seed=1, max_tokens=20, stop=".", logprobs=0)

print(f"\nthe best of six, {best.mean_logprob:.2f} per token:{best.text}.")
