"""A model by its name on the Hugging Face hub: python from_hub.py OWNER/REPO:Q4_K_M "a prompt"."""

import sys

from llama_cffi import Llama, LlamaCffiError

if len(sys.argv) < 2:
    print('give a name, and perhaps a prompt: python from_hub.py OWNER/REPO:Q4_K_M "Once upon a time"')
    sys.exit(0)


def show(fraction: float) -> None:
    print(f"\rfetching {fraction:4.0%}", end="", flush=True)


name, prompt = sys.argv[1], " ".join(sys.argv[2:]) or "Once upon a time"
try:
    llm = Llama.from_hub(name, download_progress=show)
except LlamaCffiError as error:
    sys.exit(f"\n{error}")
with llm:
    print(f"\n{prompt}{llm.generate(prompt, max_tokens=60)}")
