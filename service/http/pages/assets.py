"""The static files of the service's page. They are read and compressed once, when the application is made."""

from __future__ import annotations

import gzip
import hashlib
import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from manifold.runtime.errors import NotFound, cut
from manifold.service.http.artifact_files import has_tag

FOLDER = Path(__file__).parent / "static"
PATH = "/static/"  # below this path, the files are served
INDEX = "index.html"  # the page itself, which is served at / with its own policy
TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
}

GZIP = re.compile(r"\bgzip\b(?!\s*;\s*q=0(?:\.0*)?(?![.\d]))")  # a header Accept-Encoding that allows gzip
# an import of a script at its top, written by hand or minified
IMPORT = re.compile(r"""(?:^|;)\s*import\s*(?:[^"'();]*?\bfrom\s*)?["']([^"']+)["']""", re.MULTILINE)


@dataclass(frozen=True)
class Asset:
    """A static file: its content, plain and compressed, its media type, and its ETag."""

    content: bytes
    packed: bytes  # gzip
    media_type: str
    etag: str


def read(folder: Path = FOLDER) -> dict[str, Asset]:
    """Return the files of the folder by their path in it, except the page."""
    names = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.suffix in TYPES}
    return {name: _asset(path) for name, path in sorted(names.items())}


def scripts(assets: Mapping[str, Asset]) -> list[str]:
    """Return the paths of the scripts that the first view needs: `app.js` and all that it imports, directly or not."""
    found: list[str] = []
    waiting = ["app.js"]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.append(path)
            waiting += _imports(path, assets[path].content.decode())
    return found


def _imports(path: str, text: str) -> list[str]:
    """Return the paths of the scripts that a script imports before it runs. The page maps names without a path to files in `vendor`."""
    names = IMPORT.findall(text)
    return [
        posixpath.normpath(posixpath.join(posixpath.dirname(path), name))
        if name.startswith(".")
        else f"vendor/{name.replace('/', '-')}.js"
        for name in names
    ]


def add(app: FastAPI, assets: Mapping[str, Asset]) -> None:
    """Add a route for the files. Browsers keep a file and ask whether it has changed."""

    @app.get(f"{PATH}{{path:path}}", include_in_schema=False)
    async def asset(request: Request, path: str) -> Response:
        found = assets.get(path)
        if found is None:
            raise NotFound(f"path: the page has no file {cut(path)}; reload the page", field="path")
        headers = {"ETag": found.etag, "Cache-Control": "no-cache", "Vary": "Accept-Encoding"}
        if has_tag(request.headers.get("if-none-match", ""), found.etag):
            return Response(status_code=304, headers=headers)
        content = found.content
        if GZIP.search(request.headers.get("accept-encoding", "")):
            content, headers["Content-Encoding"] = found.packed, "gzip"
        return Response(content, media_type=found.media_type, headers=headers)


def _asset(path: Path) -> Asset:
    content = path.read_bytes()
    packed = gzip.compress(content, mtime=0)
    return Asset(content, packed, TYPES[path.suffix], f'"{hashlib.sha256(content).hexdigest()[:32]}"')
