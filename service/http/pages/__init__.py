"""The page of the service, and the page of its API's documentation. Each may run the scripts of this service only.

The page is a set of static files (`static/`): ES modules without a build step, which use public endpoints only. static/README.md describes them.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Awaitable, Callable

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.responses import HTMLResponse, Response

from manifold.service.http.pages import assets

PAGE = assets.FOLDER / assets.INDEX
PRELOADED = "<!-- preloaded scripts -->\n"  # the place of the page for links to the scripts that the first view needs
SCRIPTS = "static-offline-docs"  # the path of Swagger UI, relative to the page, so that a proxy may add a prefix
# samples are a few dozen pixels wide: /docs shows them enlarged
ENLARGED = ".responses-table img { min-width: 14rem; image-rendering: pixelated; }"
# all errors have one form, which the top of /docs shows: below an endpoint, each error status keeps its description only
ERRORS = ".responses-table:not(.live-responses-table) .response:not([data-code^='2'])"
BRIEF = f"{ERRORS} :is(.response-controls, .model-example) {{ display: none; }}"


def add(app: FastAPI) -> None:
    """Add the pages at / and /docs."""
    files = assets.read()
    preloaded = "".join(f'<link rel="modulepreload" href="static/{name}">\n' for name in assets.scripts(files))
    text = PAGE.read_text().replace(PRELOADED, preloaded)
    own = f"script-src 'self' {_hashes(text, 'script')}; style-src 'self'"
    app.get("/", include_in_schema=False)(_page(text, own))
    assets.add(app, files)
    docs = bytes(
        get_swagger_ui_html(
            openapi_url="openapi.json", title="Manifold: API", swagger_js_url=f"{SCRIPTS}/swagger-ui-bundle.js",
            swagger_css_url=f"{SCRIPTS}/swagger-ui.css", swagger_favicon_url=f"{SCRIPTS}/favicon.png", swagger_ui_parameters={"defaultModelsExpandDepth": 0},
        ).body
    ).decode()  # fmt: skip
    docs = docs.replace("<html>", '<html lang="en">').replace("</head>", f"<style>{ENLARGED} {BRIEF}</style></head>")
    # Swagger UI sets styles by script
    foreign = f"script-src 'self' {_hashes(docs, 'script')}; style-src 'self' 'unsafe-inline'"
    app.get("/docs", include_in_schema=False)(_page(docs, foreign))


def _page(text: str, sources: str) -> Callable[[], Awaitable[Response]]:
    """Return a route that answers with a page. `sources` is the part of its content security policy on scripts and styles."""
    policy = f"default-src 'none'; {sources}; img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

    async def page() -> Response:
        return HTMLResponse(text, headers={"Content-Security-Policy": policy, "Cache-Control": "no-cache"})

    return page


def _hashes(page: str, tag: str) -> str:
    """Return the sources of a content security policy that allow the inline scripts, or styles, of a page."""
    inline = re.findall(rf"<{tag}(?: type=\"importmap\")?>(.*?)</{tag}>", page, re.DOTALL)
    return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in inline)
