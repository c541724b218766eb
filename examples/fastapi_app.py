"""A web application that streams text, with FastAPI: pip install fastapi uvicorn httpx

uvicorn fastapi_app:app --app-dir examples        # and then: curl -N 'localhost:8000/story?prompt=The+cat'
python examples/fastapi_app.py                    # one request, without a network
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from llama_cffi import AsyncLlama, Chunk
from llama_cffi.aio.stream import AsyncStream
from llama_cffi.errors import LlamaCffiError, QueueFullError

try:
    from fastapi import FastAPI, HTTPException
    from fastapi.responses import StreamingResponse
except ImportError:
    print("this example needs: pip install fastapi uvicorn httpx")
    raise SystemExit from None


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with await AsyncLlama.demo(max_waiting=100) as app.state.llm:
        yield
        await app.state.llm.drain(10)


app = FastAPI(lifespan=lifespan)


@app.get("/story")
async def story(prompt: str) -> StreamingResponse:
    stream = app.state.llm.stream(prompt, max_tokens=40, temperature=0)
    try:
        first = await anext(stream)  # what is wrong with the request is raised here, before the answer begins
    except QueueFullError as error:
        raise HTTPException(503, str(error), {"Retry-After": f"{error.retry_after:.0f}"}) from None
    except LlamaCffiError as error:
        raise HTTPException(400, str(error)) from None
    return StreamingResponse(text_of(first, stream), media_type="text/plain")


async def text_of(first: Chunk, stream: AsyncStream[Chunk]) -> AsyncIterator[str]:
    async with stream:  # a client that leaves closes this generator, which cancels the request
        yield first.text
        async for chunk in stream:
            yield chunk.text


async def main() -> None:
    import httpx

    async with (
        lifespan(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client,
        client.stream("GET", "/story", params={"prompt": "The cat"}) as answer,
    ):
        async for text in answer.aiter_text():
            print(text, end="", flush=True)
    print()


if __name__ == "__main__":
    asyncio.run(main())
