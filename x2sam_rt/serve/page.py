"""The page to try it, from the server itself: its built files (sources in `web/`), and what browsers may do with it."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI, Response
from starlette.exceptions import HTTPException

BUILT = Path(__file__).parent / "web"
_KINDS = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
# Nothing from elsewhere, nothing inline, no HTML made of strings, in nobody's frame.
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "media-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_FOR_EVER = "public, max-age=31536000, immutable"  # the names of these hold their hashes


def add_page(app: FastAPI) -> None:
    """It needs no token: it asks its user for one. No part of the API, and so not of its description."""
    assets = {path.name: path for path in (BUILT / "assets").iterdir()}

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return _file(BUILT / "index.html", "no-cache")

    @app.get("/assets/{name}", include_in_schema=False)
    async def asset(name: str) -> Response:
        if name not in assets:
            raise HTTPException(404, "There is no such file.")
        return _file(assets[name], _FOR_EVER)


def _file(path: Path, caching: str) -> Response:
    return Response(path.read_bytes(), media_type=_KINDS[path.suffix], headers={**_HEADERS, "Cache-Control": caching})
