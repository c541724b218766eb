"""A question about a sound: python examples/audio.py MODEL.gguf PROJECTOR.gguf SOUND.wav ["a question"]"""

import sys

from llama_cffi import Audio, Llama, LlamaCffiError

if len(sys.argv) < 4:
    print("a model that hears, its projector (mmproj) and a sound are needed: python audio.py M.gguf P.gguf hello.wav")
    sys.exit(0)

model, projector, sound, *words = sys.argv[1:]
try:
    llm = Llama(model, mmproj=projector)
    audio = Audio(sound)
except LlamaCffiError as error:
    sys.exit(str(error))
with llm:
    print(f"{audio.seconds:.1f} seconds")
    for chunk in llm.stream([audio, " ".join(words) or "\nWhat is said here?\n"], max_tokens=60, temperature=0):
        print(chunk.text, end="", flush=True)
print()
