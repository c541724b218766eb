"""Speech for coroutines."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from llama_cffi import options as opt
from llama_cffi import spec, speech
from llama_cffi._util.closing import AsyncClosing
from llama_cffi._util.process_bound import ProcessBound
from llama_cffi._util.signatures import takes_options
from llama_cffi.reply.completion import FinishReason
from llama_cffi.speech import SpeechStream, joined

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from typing_extensions import Unpack

    from llama_cffi.aio.calls import Calls
    from llama_cffi.core.media.audio import Audio

    _Piece = NDArray[np.float32]


class AsyncSpeechStream(AsyncClosing, ProcessBound, AsyncIterator["_Piece"]):
    """The sound of a text, as an asynchronous iterator of pieces; see :class:`SpeechStream`.

    The text is prepared with the first ``await``, which raises what is wrong with it, and spoken on a thread of its
    own, however slowly it is read. Cancelling the task that waits, :meth:`aclose`, leaving an ``async with`` and
    dropping the stream each end it within a frame. One task at a time may read.
    """

    _instead_of_pickling = "send its pieces"
    _instead_of_copying = "start another one"

    def __init__(self, calls: Calls, make: Callable[[], SpeechStream]) -> None:
        self._calls, self._make = calls, make
        self._stream: SpeechStream | None = None
        self._pieces: asyncio.Queue[_Piece | BaseException | None] = asyncio.Queue()
        self._reading = self._done = False

    async def start(self) -> int:
        """Prepare the text before the first piece is asked for, and return the samples per second.

        Raises what is wrong with the text, and RuntimeError for a stream that was closed.
        """
        if self._reading:
            raise RuntimeError("another task is reading this stream")
        self._reading = True
        try:
            return (await self._begin()).sample_rate
        finally:
            self._reading = False

    async def _begin(self) -> SpeechStream:
        if self._stream is None:
            if self._done:
                raise RuntimeError("the stream was closed")
            begin = partial(_speak, self._calls, self._make, asyncio.get_running_loop(), self._pieces)
            self._stream = stream = await self._calls.call(begin, SpeechStream.close)
            weakref.finalize(self, stream.close).atexit = False
            if self._done:  # another task has closed it meanwhile
                stream.close()
        return self._stream

    @property
    def finish_reason(self) -> FinishReason | None:
        """As :attr:`SpeechStream.finish_reason`."""
        return None if self._stream is None else self._stream.finish_reason

    @property
    def n_frames(self) -> int:
        """As :attr:`SpeechStream.n_frames`."""
        return 0 if self._stream is None else self._stream.n_frames

    @property
    def n_prompt(self) -> int:
        """As :attr:`SpeechStream.n_prompt`."""
        return 0 if self._stream is None else self._stream.n_prompt

    async def __anext__(self) -> _Piece:
        if self._reading:
            raise RuntimeError("another task is reading this stream")
        if self._done:
            raise StopAsyncIteration
        self._reading = True
        try:
            await self._begin()
            piece = await self._pieces.get()
        except BaseException:
            await self.aclose()
            raise
        finally:
            self._reading = False
        if piece is None or isinstance(piece, BaseException):
            self._done = True
            raise StopAsyncIteration if piece is None else piece
        return piece

    async def result(self) -> Audio:
        """Read to the end and return what was not read before as one sound; raises as :meth:`SpeechStream.result`."""
        pieces = [piece async for piece in self]
        if self._stream is None:
            raise RuntimeError("the stream was closed")
        return joined(pieces, self._stream)

    async def aclose(self) -> None:
        """End it, if it has not ended."""
        self._done = True
        if self._stream is not None:
            self._stream.close()


def _speak(
    calls: Calls,
    make: Callable[[], SpeechStream],
    loop: asyncio.AbstractEventLoop,
    pieces: asyncio.Queue[_Piece | BaseException | None],
) -> SpeechStream:
    """Prepare a text and put it in the line of those that are spoken."""
    stream = make()
    calls.speak(partial(_read, stream, partial(_post, loop, pieces, stream)), stream.close)
    return stream


def _read(stream: SpeechStream, post: Callable[[_Piece | BaseException | None], None]) -> None:
    """Give every piece of a stream to its reader, and the end or the error."""
    try:
        for piece in stream:
            post(piece)
    except BaseException as error:
        post(error)
    else:
        post(None)


def _post(
    loop: asyncio.AbstractEventLoop,
    pieces: asyncio.Queue[_Piece | BaseException | None],
    stream: SpeechStream,
    piece: _Piece | BaseException | None,
) -> None:
    try:
        loop.call_soon_threadsafe(pieces.put_nowait, piece)
    except RuntimeError:  # the loop is closed: nothing is read any more
        with suppress(Exception):
            stream.close()


class AsyncSpeaking:
    """The methods of an :class:`~llama_cffi.AsyncLlama` that speak."""

    _calls: Calls

    @takes_options(opt.SpeechOptions)
    async def speak(self, text: str, **options: Unpack[opt.SpeechOptions]) -> Audio:
        """Read a text aloud and return the sound; see :meth:`Llama.speak`."""
        async with self.stream_speech(text, **options) as stream:
            return await stream.result()

    @takes_options(opt.SpeechOptions)
    def stream_speech(self, text: str, **options: Unpack[opt.SpeechOptions]) -> AsyncSpeechStream:
        """Read a text aloud as an asynchronous iterator of pieces of sound; see :meth:`Llama.stream_speech`."""
        asked = spec.SpeakSpec(text, options)
        return AsyncSpeechStream(self._calls, partial(speech.speak, asked, self._calls.runtime))


__all__ = ["AsyncSpeaking", "AsyncSpeechStream"]
