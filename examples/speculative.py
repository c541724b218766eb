"""Speculative decoding: the same text in fewer decodes.

    python examples/speculative.py [MODEL [DRAFT]]

MODEL and DRAFT are GGUF files with the same vocabulary; without DRAFT the drafts come from the prompt.
"""

import sys
from pathlib import Path

from llama_cffi import Llama, LlamaCffiError

draft = Path(sys.argv[2]) if len(sys.argv) > 2 else "lookup"
try:
    llm = Llama(sys.argv[1], draft=draft) if len(sys.argv) > 1 else Llama.demo(draft=draft)
except LlamaCffiError as error:
    sys.exit(str(error))
with llm:
    story = llm.generate("Once upon a time", max_tokens=80, temperature=0).text
    # A text that repeats its prompt is what prompt lookup is for.
    prompt = f"Once upon a time{story}\n\nOnce upon a time"
    done = llm.generate(prompt, max_tokens=60, temperature=0)
    plain = llm.generate(prompt, max_tokens=60, temperature=0, speculative=False)

print(done.text)
counts = done.speculation
if counts is not None:
    print(
        f"\n{len(done.tokens)} tokens in {counts.target_decodes} decodes; {counts.acceptance:.0%} of the drafts right"
    )
print("the same text as without drafts:", done.text == plain.text)
