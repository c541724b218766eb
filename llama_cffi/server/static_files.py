"""The files of a folder, in the place of the page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse
from starlette.staticfiles import StaticFiles

from llama_cffi.server.page import SAFE

if TYPE_CHECKING:
    from pathlib import Path

    from starlette.types import ASGIApp, Receive, Scope, Send


class Files:
    """An ASGI application that gives out the files of a folder, and ``index.html`` for the folders in it.

    Paths that lead out of the folder, through ``..`` or a link, are those of no file, and ``otherwise`` answers them.
    """

    def __init__(self, root: Path, otherwise: ASGIApp) -> None:
        self._files = StaticFiles(directory=root, html=True)
        self._otherwise = otherwise

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        facts, raw_path, path = scope["llama_cffi"], scope["raw_path"].decode("latin-1"), scope["path"]
        # What the page of a folder names is found from a path with a slash at its end.
        inner = {**scope, "path": f"{path.rstrip('/')}/" if raw_path.endswith("/") else path}
        try:
            response = await self._files.get_response(self._files.get_path(inner), inner)
        except (HTTPException, OSError):
            await self._otherwise(scope, receive, send)
            return
        if isinstance(response, RedirectResponse) or not (path.rpartition("/")[2] or raw_path.endswith("/")):
            response = RedirectResponse(f"./{raw_path.rpartition('/')[2]}/")
        response.headers.update({**SAFE, **facts["reply_headers"]})
        facts["status"] = response.status_code
        await response(inner, receive, send)


__all__ = ["Files"]
