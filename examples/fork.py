"""A second Llama over the same weights: it knows what the first one has read, and goes its own way on another thread.

python examples/fork.py [MODEL]
"""

import sys
import threading

from llama_cffi import Completion, Llama, LlamaCffiError

BEGINNING = "One day, Lily and her mom went to the park. They saw a big"

try:
    llm = Llama(sys.argv[1]) if len(sys.argv) > 1 else Llama.demo()
except LlamaCffiError as error:
    sys.exit(str(error))
with llm:
    llm.generate(BEGINNING, max_tokens=1)
    with llm.fork() as other:
        texts: dict[str, Completion] = {}

        def write(who: Llama, name: str, end: str) -> None:
            texts[name] = who.generate(BEGINNING + end, max_tokens=20, temperature=0)

        thread = threading.Thread(target=write, args=(other, "the fork", " dog"))
        thread.start()
        write(llm, "the original", " tree")
        thread.join()

for name, story in sorted(texts.items()):
    print(f"{name}, which read {story.usage.cached_tokens} tokens only once: ...{story.text}")
