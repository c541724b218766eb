"""A text read aloud, with a voice if one is given: python examples/speech.py MODEL.gguf PROJECTOR.gguf OUT.wav TEXT"""

import sys

from llama_cffi import Llama, LlamaCffiError

if len(sys.argv) < 5:
    print("a model that speaks, its projector (mmproj), a file and a text are needed:")
    print('python speech.py M.gguf P.gguf out.wav "Good morning!" [voice.wav]')
    sys.exit(0)

model, projector, out, text, *voice = sys.argv[1:]
try:
    with Llama(model, mmproj=projector) as llm:
        sound = llm.speak(text, voice=voice[0] if voice else None, seed=1, max_seconds=120)
        sound.save(out)
        print(f"{sound.seconds:.1f} seconds at {sound.sample_rate} samples per second")
except LlamaCffiError as error:
    sys.exit(str(error))
