"""The pages for people: try it, and read the reference; and what the reference is drawn from.

Shipped files only, nothing from elsewhere. All of it is open to anybody, so each answer costs next to
nothing: it is ready in memory.
"""

from __future__ import annotations

import asyncio
import json
from functools import cache
from pathlib import Path

from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

router = APIRouter(include_in_schema=False)

_READ = ["GET", "HEAD"]
_STATIC = Path(__file__).parent / "static"
_TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}


@cache
def _files() -> dict[str, tuple[bytes, str]]:
    return {
        path.name: (path.read_bytes(), _TYPES[path.suffix])
        for path in _STATIC.iterdir()
        if path.suffix in _TYPES
    }


def _file(name: str) -> Response:
    if name not in _files():
        raise HTTPException(404)
    content, media_type = _files()[name]
    return Response(content, media_type=media_type, headers={"cache-control": "no-cache"})


@router.api_route("/", methods=_READ)
async def try_it() -> Response:
    """The try-it page."""
    return _file("index.html")


@router.api_route("/docs", methods=_READ)
async def docs() -> Response:
    """The API reference, drawn from /openapi.json."""
    return _file("docs.html")


@router.api_route("/static/{name}", methods=_READ)
async def static(name: str) -> Response:
    """Styles and scripts of the pages."""
    return _file(name)


@router.api_route("/openapi.json", methods=_READ)
async def openapi(request: Request) -> Response:
    """The API for tools. It is put together once, beside the event loop, and kept as it is sent."""
    kept = request.app.state
    if not hasattr(kept, "openapi_json"):
        kept.openapi_json = await asyncio.to_thread(
            lambda: json.dumps(request.app.openapi(), ensure_ascii=False).encode()
        )
    return Response(kept.openapi_json, media_type="application/json")
