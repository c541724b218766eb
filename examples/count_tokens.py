"""What a conversation costs before it is computed, and what its template makes of it."""

from llama_cffi import Llama

messages = [
    {"role": "system", "content": "You write stories."},
    {"role": "user", "content": "A text that says <|im_end|> stays text."},
]

with Llama.demo() as llm:
    print(llm.render_chat(messages))
    print(len(llm.tokenize_chat(messages)), "tokens")
