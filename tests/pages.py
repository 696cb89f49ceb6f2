"""The Markdown pages of the repository, as tests read them: links, headings, code blocks, and what is named in code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
FENCE = re.compile(r"^(`{3,}|~{3,})([^\n]*)\n(.*?)^\1[ \t]*$", re.MULTILINE | re.DOTALL)
NOT_RUN = re.compile(r"<!-- not run: (.+?) -->\s*$")
LINK = re.compile(r'!?\[[^\]]*\]\(([^)\s]+)\)|<img src="([^"]+)"')


@dataclass(frozen=True)
class Block:
    """A fenced block of code. `skipped` is the reason why it is not run; empty if it is run."""

    page: Path
    language: str
    text: str
    skipped: str


@dataclass(frozen=True)
class Page:
    """A Markdown page."""

    path: Path

    @property
    def text(self) -> str:
        """The whole text."""
        return _read(self.path)

    @property
    def prose(self) -> str:
        """The text without blocks of code."""
        return FENCE.sub("", self.text)

    @property
    def name(self) -> str:
        """The path within the repository."""
        return self.path.relative_to(ROOT).as_posix()

    def blocks(self, *languages: str) -> Iterator[Block]:
        """Yield the blocks of code in these languages; all blocks if none is given."""
        for found in FENCE.finditer(self.text):
            language = found[2].strip()
            if not languages or language in languages:
                reason = NOT_RUN.search(self.text[: found.start()].rstrip("\n"))
                yield Block(self.path, language, found[3], reason[1] if reason else "")

    def links(self) -> Iterator[str]:
        """Yield the targets of the links and pictures."""
        prose = re.sub(r"`[^`\n]*`", "", self.prose)
        yield from (markdown or html for markdown, html in LINK.findall(prose))

    def code(self) -> Iterator[str]:
        """Yield what stands in code within the prose."""
        yield from re.findall(r"`([^`]+)`", self.prose)

    def anchors(self) -> set[str]:
        """Return the anchors of the headings, as GitHub and the site name them."""
        made: set[str] = set()
        for heading in re.findall(r"^#{1,6} (.+)$", self.prose, re.MULTILINE):
            plain = re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()).strip()
            slug = plain.replace(" ", "-")
            made.add(
                slug if slug not in made else next(f"{slug}-{n}" for n in range(1, 99) if f"{slug}-{n}" not in made)
            )
        return made


@cache
def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@cache
def pages() -> list[Page]:
    """Return all pages of the repository that people read; not those of a built site."""
    found = [*ROOT.glob("*.md"), *(ROOT / "client").glob("*.md"), *(ROOT / "examples").rglob("*.md")]
    found += [path for path in (ROOT / "docs").rglob("*.md") if not path.is_relative_to(ROOT / "docs/site")]
    return [Page(path) for path in sorted(found)]
