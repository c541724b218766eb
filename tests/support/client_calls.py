"""What other people's clients get from a server; run by an interpreter that has them.

    python client_calls.py langchain|llama-index|litellm URL

Prints one JSON object.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any, Literal

ASK, TEXT = "Tell me a story", "Once upon"
SHORT: dict[str, Any] = {"temperature": 0, "max_tokens": 12}
WHOLE: dict[str, Any] = {"temperature": 0, "max_tokens": 300}
"""Enough for a call, or an answer with a schema."""


def weather(city: Literal["Rome", "Oslo"]) -> str:
    """Tell the weather of a city."""
    return f"It rains in {city}."


# LlamaIndex does not look names of types up.
weather.__annotations__ = {"city": Literal["Rome", "Oslo"], "return": str}


def langchain(url: str) -> dict[str, Any]:
    """LangChain's chat model, completions and embeddings."""
    from langchain_core.tools import tool
    from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings
    from pydantic import BaseModel, Field

    class Pet(BaseModel):
        """A pet."""

        age: int = Field(ge=0, le=9)

    given: dict[str, Any] = {"base_url": f"{url}/v1", "api_key": "none", "model": "demo"}
    chat = ChatOpenAI(**given, **SHORT, stream_usage=True)
    longer = ChatOpenAI(**given, **WHOLE)
    chunks = list(chat.stream(ASK))
    usage = next(chunk.usage_metadata for chunk in reversed(chunks) if chunk.usage_metadata)
    called = longer.bind_tools([tool(weather)], tool_choice="weather").invoke(ASK)
    pets = [longer.with_structured_output(Pet, method=one).invoke(ASK) for one in ("json_schema", "function_calling")]
    responses = ChatOpenAI(**given, **SHORT, use_responses_api=True).invoke(ASK)
    vectors = OpenAIEmbeddings(**given, check_embedding_ctx_length=False)
    return {
        "chat": chat.invoke(ASK).content,
        "chat stream": "".join(chunk.content for chunk in chunks),
        "usage": usage["output_tokens"],
        "chat batch": [one.content for one in chat.batch([ASK] * 3)],
        "calls": [[one["name"], one["args"]] for one in called.tool_calls],
        "ages": [pet.age for pet in pets],
        "text": OpenAI(**given, **SHORT).invoke(TEXT),
        "text stream": "".join(OpenAI(**given, **SHORT).stream(TEXT)),
        "chat of responses": "".join(part["text"] for part in responses.content),
        "vector": vectors.embed_query("a cat"),
        "vectors": vectors.embed_documents(["a cat", "a dog"]),
    }


def llama_index(url: str) -> dict[str, Any]:
    """LlamaIndex' client of servers like OpenAI's."""
    from llama_index.core.llms import ChatMessage
    from llama_index.core.tools import FunctionTool
    from llama_index.llms.openai_like import OpenAILike

    given: dict[str, Any] = {"api_base": f"{url}/v1", "api_key": "none", "model": "demo", "context_window": 1024}
    chat = OpenAILike(**given, **SHORT, is_chat_model=True)
    text = OpenAILike(**given, **SHORT, is_chat_model=False)
    calling = OpenAILike(**given, **WHOLE, is_chat_model=True, is_function_calling_model=True)
    messages = [ChatMessage(role="user", content=ASK)]
    called = calling.chat_with_tools([FunctionTool.from_defaults(weather)], ASK, tool_required=True)
    return {
        "chat": chat.chat(messages).message.content,
        "chat stream": "".join(one.delta or "" for one in chat.stream_chat(messages)),
        "calls": [[one.tool_name, one.tool_kwargs] for one in calling.get_tool_calls_from_response(called)],
        "text": text.complete(TEXT).text,
        "text stream": "".join(one.delta or "" for one in text.stream_complete(TEXT)),
    }


def lite_llm(url: str) -> dict[str, Any]:
    """LiteLLM, as a client of OpenAI's and of Anthropic's API."""
    # The prices of models are none of the test's.
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    import litellm

    openai: dict[str, Any] = {"api_base": f"{url}/v1", "api_key": "none"}
    anthropic: dict[str, Any] = {"api_base": url, "api_key": "none"}
    messages = [{"role": "user", "content": ASK}]
    cities = {"type": "object", "properties": {"city": {"enum": ["Rome", "Oslo"]}}, "required": ["city"]}
    tools = [{"type": "function", "function": {"name": "weather", "parameters": cities}}]

    def chat(name: str, given: dict[str, Any]) -> str:
        return str(litellm.completion(name, messages, **given, **SHORT).choices[0].message.content)

    def stream(name: str, given: dict[str, Any]) -> str:
        chunks = litellm.completion(name, messages, **given, **SHORT, stream=True)
        return "".join(one.choices[0].delta.content or "" for one in chunks)

    def calls(name: str, given: dict[str, Any]) -> list[Any]:
        found = litellm.completion(name, messages, **given, **WHOLE, tools=tools, tool_choice="required")
        made = [one.function for one in found.choices[0].message.tool_calls]
        return [[one.name, json.loads(one.arguments)] for one in made]

    text = litellm.text_completion(TEXT, "text-completion-openai/demo", **openai, **SHORT)
    responses = litellm.responses(model="openai/demo", input=ASK, temperature=0, max_output_tokens=12, **openai)
    vectors = litellm.embedding("openai/demo", ["a cat", "a dog"], encoding_format="float", **openai)
    return {
        "chat": chat("openai/demo", openai),
        "chat stream": stream("openai/demo", openai),
        "calls": calls("openai/demo", openai),
        "text": text.choices[0].text,
        "chat of messages": chat("anthropic/demo", anthropic),
        "chat stream of messages": stream("anthropic/demo", anthropic),
        "calls of messages": calls("anthropic/demo", anthropic),
        "chat of responses": responses.output[0].content[0].text,
        "vectors": [one["embedding"] for one in vectors.data],
    }


CLIENTS: dict[str, Callable[[str], dict[str, Any]]] = {
    "langchain": langchain,
    "llama-index": llama_index,
    "litellm": lite_llm,
}

if __name__ == "__main__":
    print(json.dumps(CLIENTS[sys.argv[1]](sys.argv[2])))
