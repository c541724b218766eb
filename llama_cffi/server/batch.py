"""A file of requests in OpenAI's batch format, and the file of their answers."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import orjson

from llama_cffi.server.offline import answer

if TYPE_CHECKING:
    from llama_cffi.server.service import Service


@dataclass
class Counts:
    """How far a batch is."""

    total: int
    done: int = 0
    """Answers of this run and of earlier ones."""
    failed: int = 0
    """Answers of this run with a status other than 200."""
    answered: int = 0
    """Answers of this run."""
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def add(self, line: dict[str, Any]) -> None:
        """Count an answer."""
        self.done += 1
        self.answered += 1
        self.failed += line["response"]["status_code"] != 200
        usage = line["response"]["body"].get("usage") if isinstance(line["response"]["body"], dict) else None
        for name in ("prompt_tokens", "completion_tokens"):
            found = (usage or {}).get(name, 0)
            setattr(self, name, getattr(self, name) + (found if isinstance(found, int) else 0))


class BatchError(ValueError):
    """A file that is not a batch; the text names the line."""


def read_ids(path: Path) -> list[str]:
    """Return the ids of all requests of a file, in order; :class:`BatchError` names the line of what is wrong."""
    seen: dict[str, int] = {}
    for number, line in _requests(path):
        first = seen.setdefault(line["custom_id"], number)
        if first != number:
            raise BatchError(f"{path}:{number}: custom_id {line['custom_id']!r} stands on line {first}, too")
    return list(seen)


def _requests(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open("rb") as file:
        for number, data in enumerate(file, 1):
            if not data.strip():
                continue
            try:
                line = orjson.loads(data)
            except orjson.JSONDecodeError as error:
                raise BatchError(f"{path}:{number}: not JSON: {error}") from None
            if not isinstance(line, dict):
                raise BatchError(f"{path}:{number}: must be a JSON object")
            for name in ("custom_id", "url"):
                if not isinstance(line.get(name), str) or not line[name]:
                    raise BatchError(f"{path}:{number}: {name} must be a text, got {line.get(name)!r:.60}")
            if line.get("method", "POST") != "POST":
                raise BatchError(f"{path}:{number}: method must be POST, got {line['method']!r:.60}")
            yield number, line


def read_answered(path: Path) -> set[str]:
    """Return the ids that a file of answers has; what an interrupted run left of a last line is cut off."""
    found: set[str] = set()
    end = 0
    try:
        with path.open("rb") as file:
            for number, data in enumerate(file, 1):
                if not data.endswith(b"\n"):
                    break
                try:
                    found.add(orjson.loads(data)["custom_id"])
                except (orjson.JSONDecodeError, KeyError, TypeError):
                    raise BatchError(f"{path}:{number}: this is not an answer of a batch; name another file") from None
                end += len(data)
    except FileNotFoundError:
        return found
    if end < path.stat().st_size:
        os.truncate(path, end)
    return found


async def run_batch(
    service: Service, source: Path, target: BinaryIO, skip: set[str], counts: Counts, n_at_once: int,
    on_answer: Callable[[Counts], object],
) -> None:  # fmt: skip
    """Answer the requests of a file that are not to be skipped, and write each answer when it is there.

    At most ``n_at_once`` are read and not answered. Raises what reading and writing raises.
    """
    async with aclosing(_answers(service, source, skip, n_at_once)) as answers:
        async for line in answers:
            target.write(orjson.dumps(line) + b"\n")
            target.flush()
            counts.add(line)
            on_answer(counts)


async def _answers(
    service: Service, source: Path, skip: set[str], n_at_once: int
) -> AsyncGenerator[dict[str, Any], None]:
    running: set[asyncio.Task[dict[str, Any]]] = set()
    try:
        for _, line in _requests(source):
            if line["custom_id"] in skip:
                continue
            running.add(asyncio.ensure_future(_answer(service, line)))
            if len(running) >= n_at_once:
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    yield task.result()
        while running:
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                yield task.result()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def _answer(service: Service, line: dict[str, Any]) -> dict[str, Any]:
    request_id = f"req-{secrets.token_hex(12)}"
    status, body = await answer(service, line["url"], line.get("body"), request_id)
    return {
        "id": f"batch_req_{secrets.token_hex(12)}",
        "custom_id": line["custom_id"],
        "response": {"status_code": status, "request_id": request_id, "body": body},
        "error": None,
    }


__all__ = ["BatchError", "Counts", "read_answered", "read_ids", "run_batch"]
