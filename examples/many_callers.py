"""Many threads on one model: what they ask is computed together, and each text is the one its prompt gives alone.

python examples/many_callers.py [MODEL]
"""

import sys
import threading

from llama_cffi import Llama, LlamaCffiError
from llama_cffi.errors import QueueFullError
from llama_cffi.options import LlamaOptions

PROMPTS = ["Once upon a time", "The little dog", "A big red ball", "Lily and Tom", "One day, a girl", "The cat"]


def ask(llm: Llama, prompt: str) -> None:
    try:
        # Ends with what there is after ten seconds, the time in the queue included.
        done = llm.generate(prompt, max_tokens=24, temperature=0, max_seconds=10)
    except QueueFullError as error:
        print(f"{prompt}: try again in {error.retry_after:.0f} seconds")
    else:
        print(f"{prompt}{done.text} [{done.finish_reason.value}]")


# One thread computes for all, and the queue has an end.
options: LlamaOptions = {"driver": "thread", "max_waiting": 100}
try:
    llm = Llama(sys.argv[1], **options) if len(sys.argv) > 1 else Llama.demo(**options)
except LlamaCffiError as error:
    sys.exit(str(error))
with llm:
    threads = [threading.Thread(target=ask, args=(llm, prompt)) for prompt in PROMPTS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
