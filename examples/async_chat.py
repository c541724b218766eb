"""Conversations at the same time in one event loop, and one that is left early.

python examples/async_chat.py [MODEL]
"""

import asyncio
import sys

from llama_cffi import AsyncLlama


async def talk(llm: AsyncLlama, name: str) -> str:
    session = llm.session([{"role": "system", "content": f"You are {name}."}], max_tokens=24, temperature=0)
    replies = []
    for text in ("Tell me a story.", "And then?"):
        reply = ""
        async for chunk in session.stream_chat(text):
            reply += chunk.text
        replies.append(reply.strip())
    return f"{name}: {' | '.join(replies)}"


async def main() -> None:
    opened = AsyncLlama.open(sys.argv[1]) if len(sys.argv) > 1 else AsyncLlama.demo()
    async with await opened as llm:
        for line in await asyncio.gather(*(talk(llm, name) for name in ("Lily", "Tom", "Ben"))):
            print(line)

        # Cancelling a task frees its place before the next step; a time limit therefore works as usual.
        try:
            await asyncio.wait_for(llm.chat("Count to a million.", overflow="shift", max_tokens=10**6), 0.2)
        except asyncio.TimeoutError:
            print("left early;", llm.stats().waiting, "requests wait")


asyncio.run(main())
