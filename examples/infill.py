"""Filling in the middle: what belongs at the cursor.

    python examples/infill.py MODEL

MODEL is a GGUF file of a code model with fill-in-the-middle tokens, such as Qwen2.5-Coder or StarCoder.
"""

import sys

from llama_cffi import Llama, LlamaCffiError

if len(sys.argv) < 2:
    print("give a code model; the one that ships with the package cannot fill in")
    sys.exit(0)

before = "def mean(values):\n    "
after = "\n\n\nprint(mean([1, 2, 3]))\n"
try:
    llm = Llama(sys.argv[1])
except LlamaCffiError as error:
    sys.exit(str(error))
with llm:
    files = {"numbers.py": "def total(values):\n    return sum(values)\n"}
    for chunk in llm.stream_infill(before, after, files=files, name="mean.py", temperature=0, max_tokens=40):
        print(chunk.text, end="", flush=True)
print()
