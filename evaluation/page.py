"""The building blocks of a report's HTML page. The page loads no other files."""

from __future__ import annotations

import html
import io
from collections.abc import Iterable, Sequence
from typing import Any

from manifold.runtime import codecs

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1b1f24;background:#fff}
table{border-collapse:collapse;margin:1rem 0}td,th{padding:.25rem .8rem;border-bottom:1px solid #d8dee4;text-align:left}
td.n{text-align:right;font-variant-numeric:tabular-nums}img{image-rendering:pixelated;max-width:100%}
figure{margin:1rem 0}figcaption{color:#57606a;font-size:13px}.warn{background:#fff4d6;padding:.5rem 1rem;border-left:4px solid #d29922}
code{font-size:12px;word-break:break-all}.pair{display:flex;gap:1rem;flex-wrap:wrap}
"""


def page(title: str, parts: Iterable[str]) -> str:
    """Return a whole HTML page. The parts must already be HTML."""
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style>"
    )
    body = "\n".join(parts)
    return f'<!doctype html>\n<html lang="en">{head}\n{body}\n</html>\n'


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return an HTML table of plain texts. It has no head if the header is empty."""
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header) if any(header) else ""
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def plot(figure: Any, alt: str) -> str:
    """Return a matplotlib figure as an HTML image that contains the PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    content = codecs.to_base64(buffer.getvalue())
    return f'<img alt="{html.escape(alt)}" style="image-rendering:auto" src="data:image/png;base64,{content}">'
