"""Answers that are objects: a type, a list of choices, a regular expression, and an object that grows."""

from dataclasses import dataclass
from typing import Literal

from llama_cffi import Llama, Regex


@dataclass
class Pet:
    name: str
    kind: Literal["cat", "dog", "bird"]
    age: int


with Llama.demo() as llm:
    pet = llm.chat("Describe a pet.", schema=Pet, max_tokens=200, seed=3).parsed
    print(pet.kind, "->", pet)

    print(llm.generate("Is water wet? ", schema=["yes", "no"], temperature=0).parsed)
    print(llm.generate("The date is ", schema=Regex(r"20\d\d-(0[1-9]|1[0-2])-\d\d"), seed=1).text)

    animals = {"type": "array", "items": {"enum": ["cat", "dog", "bird"]}, "minItems": 3, "maxItems": 3}
    for chunk in llm.stream("Three animals: ", schema=animals, seed=2):
        print(chunk.partial)
