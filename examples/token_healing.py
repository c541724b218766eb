"""Token healing: a prompt that ends inside a word, with and without.

python examples/token_healing.py [MODEL]
"""

import sys

from llama_cffi import Llama, LlamaCffiError

try:
    llm = Llama(sys.argv[1]) if len(sys.argv) > 1 else Llama.demo()
except LlamaCffiError as error:
    sys.exit(str(error))
with llm:
    for prompt in ("Once upon a ti", "The boy went to the gard"):
        for heal in (False, True):
            done = llm.generate(prompt, heal=heal, temperature=0, max_tokens=12, stop=".")
            print(f"heal={heal!s:5}  {prompt}|{done.text}")
