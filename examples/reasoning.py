"""What a model thinks before it answers: told apart, and ended after so many tokens."""

from llama_cffi import Llama, Regex

# A template whose replies begin inside of reasoning, as those of many reasoning models do.
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "<|im_start|>assistant\n<think>\n"
)

with Llama.demo() as llm:
    reply = llm.chat(
        "Did the cat come home?", chat_template=TEMPLATE, reasoning_budget=20, schema=Regex("yes|no"), seed=1
    )
    print("thought: ", reply.reasoning)
    print("answered:", reply.text)

    for chunk in llm.stream_chat("Tell me.", chat_template=TEMPLATE, reasoning_budget=8, max_tokens=40, seed=2):
        print(f"[{chunk.reasoning}]" if chunk.reasoning else chunk.text, end="", flush=True)
    print()
