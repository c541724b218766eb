"""Functions that a model may call: its arguments always fit, and the loop calls them until it answers."""

from llama_cffi import Llama


def count_animals(kind: str, at_least: int = 1) -> int:
    """Count the animals in the garden.

    Args:
        kind: What animal to count.
        at_least: Report no fewer than this.
    """
    return max(at_least, len(kind))


question = [{"role": "user", "content": "How many cats are in the garden?"}]

with Llama.demo() as llm:
    reply = llm.chat(question, tools=[count_animals], tool_choice="required", max_tokens=200, seed=1)
    for call in reply.tool_calls:
        print(call.name, dict(call.arguments))

    run = llm.run_tools(question, tools=[count_animals], tool_choice="required", max_tokens=200, seed=1)
    for message in run.messages:
        print(message["role"], message.get("tool_calls") or message["content"])
