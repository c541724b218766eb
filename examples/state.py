"""Save what a model has computed, and go on later without computing it again."""

import tempfile
from pathlib import Path

from llama_cffi import Llama, PromptCache

PROMPT = "Once upon a time there was a little girl named Lily. She had a red ball and a small dog."

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder, "story.state")
    with Llama.demo() as llm:
        story = llm.generate(PROMPT, max_tokens=20, temperature=0)
        llm.save_state(path)
    with Llama.demo() as llm:
        llm.load_state(path)  # a damaged file, or one of another model, would be refused
        again = llm.generate(PROMPT, max_tokens=20, temperature=0)
    print(f"{again.usage.cached_tokens} prompt tokens were there; the same text: {again.text == story.text}")

    # A prompt cache does so by itself, prompt by prompt, also between processes.
    for _ in range(2):
        with Llama.demo(prompt_cache=PromptCache(Path(folder, "prompts"), min_tokens=16)) as llm:
            print(f"from the cache: {llm.generate(PROMPT, max_tokens=20).usage.cached_tokens} tokens")
