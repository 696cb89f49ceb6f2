"""Tables of text for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from manifold.runtime.errors import cut


def aligned(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Return rows of texts as lines with aligned columns. `right` lists the columns that are aligned to the right.

    Texts are cut to 80 characters, and control characters are escaped.
    """
    plain = [[printable(text) for text in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*plain, strict=True)]
    lines = (
        "  ".join(text.rjust(width) if at in right else text.ljust(width) for at, (text, width) in enumerate(zip(row, widths, strict=True)))
        for row in plain
    )  # fmt: skip
    return "\n".join(f"  {line}".rstrip() for line in lines)


def printable(text: str) -> str:
    """Return a text without control characters, which could change the terminal, cut to 80 characters."""
    return cut("".join(each if each.isprintable() else ascii(each)[1:-1] for each in text))
