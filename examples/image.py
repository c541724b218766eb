"""Two questions about a picture: python examples/image.py MODEL.gguf PROJECTOR.gguf PICTURE ["a question" ...]

The second question costs neither an encoding nor a prefill of the picture: its cells are in memory.
"""

import sys

from llama_cffi import Image, Llama, LlamaCffiError

if len(sys.argv) < 4:
    print("a model that sees, its projector (mmproj) and a picture are needed: python image.py M.gguf P.gguf cat.jpg")
    sys.exit(0)

model, projector, picture, *questions = sys.argv[1:]
try:
    llm = Llama(model, mmproj=projector)
    image = Image(picture)
except LlamaCffiError as error:
    sys.exit(str(error))
with llm:
    for question in questions or ["What is in this picture?", "Which colors are in it?"]:
        completion = llm.generate([image, f"\n{question}\n"], max_tokens=60, temperature=0)
        usage = completion.usage
        print(f"{question}\n{completion.text.strip()}")
        print(f"({usage.prompt_tokens} tokens, of which {usage.cached_tokens} were in memory)")
