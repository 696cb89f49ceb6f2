"""A check of the project's prose, run by `make lint` as `python -m tests.words`. It reads Python files and Markdown pages.

It finds what a program can find: docstrings, comments, help texts, descriptions and table cells that start with a word such as "of" or "what",
docstrings of functions that do not start with a verb, and words that readers have to decode.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = (
    "benchmarks",
    "cli",
    "client",
    "deploy",
    "docs",
    "evaluation",
    "examples",
    "runtime",
    "service",
    "tests",
    "training",
)
GENERATED = ("service/stubs/", "docs/site/", "tests/words.py")
FRAGMENTS = (
    "of",
    "what",
    "who",
    "whose",
    "where",
    "as",
    "it",
    "from",
    "in",
    "by",
    "on",
)  # first words of docstrings and help texts
OF_COMMENTS = ("of", "what", "who", "whose", "where")  # "from", "in", "by" and "on" are common in short comments
NO_VERBS = (
    "a", "all", "an", "both", "each", "every", "how", "none", "one", "the", "their", "they", "this", "whether",
)  # fmt: skip
DECODED = {
    r"aught": "anything", r"thereof": "of it", r"whoever": "a client that", r"for ever": "without end", r"where left out": "by default",
    r"if left out": "by default", r"is had": "is computed", r"beyond loopback": "on other addresses than loopback", r"of one's own": "your own",
    r"\bgo(?:es)? on with": "continue", r"goes? to sleep": "unloaded",
}  # fmt: skip


def problems(path: Path) -> Iterator[str]:
    """Yield one line for each problem of a file."""
    text = path.read_text(encoding="utf-8")
    found = _python(text) if path.suffix == ".py" else _markdown(text)
    name = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
    yield from (f"{name}:{line}: {problem}" for line, problem in sorted(found))


def _python(text: str) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _docstring(node)
        elif isinstance(node, ast.keyword) and node.arg in ("help", "description", "summary"):
            said = node.value.value if isinstance(node.value, ast.Constant) else ""
            if isinstance(said, str) and _first(said) in FRAGMENTS:
                yield node.value.lineno, f"{node.arg} starts with {_first(said)!r}: start with a noun or a verb"
            yield from _decoded(said if isinstance(said, str) else "", node.value.lineno)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            said = token.string.lstrip("#! ")
            if _first(said) in OF_COMMENTS:
                yield token.start[0], f"the comment starts with {_first(said)!r}: name the subject"
            yield from _decoded(said, token.start[0])


def _docstring(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[tuple[int, str]]:
    """Yield the problems of a docstring. Tests state a fact, and properties name a value: both may start with a noun."""
    said = ast.get_docstring(node) or ""
    first = _first(said)
    line = 1 if isinstance(node, ast.Module) else node.lineno
    if first in FRAGMENTS:
        yield (
            line,
            f"the docstring starts with {first!r}: start with a verb (functions) or a noun (classes and modules)",
        )
    function = node if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else None
    if function and first in NO_VERBS and not function.name.startswith("test_") and not _is_property(function):
        yield line, f"the docstring starts with {first!r}: start with a verb, such as Return"
    yield from _decoded(said, line)


def _is_property(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any("property" in ast.unparse(decorator) for decorator in node.decorator_list)


def _markdown(text: str) -> Iterator[tuple[int, str]]:
    code = False
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith(("```", "~~~")):
            code = not code
        if code:
            continue
        cells = line.strip().strip("|").split("|") if line.lstrip().startswith("|") else []
        for cell in cells:
            if _first(cell.strip()) in OF_COMMENTS:
                yield (
                    number,
                    f"a table cell starts with {_first(cell.strip())!r}: it must be clear without the row above",
                )
        yield from _decoded(line, number)


def _decoded(said: str, line: int) -> Iterator[tuple[int, str]]:
    for pattern, plain in DECODED.items():
        if match := re.search(pattern, said, re.IGNORECASE):
            yield line, f"{match.group()!r}: write {plain!r} or say it in another way"


def _first(said: str) -> str:
    """Return the first word in lower case, or nothing."""
    match = re.match(r"[A-Za-z]+(?![\w./=-])", said.strip())
    return match.group().lower() if match else ""


def files() -> Iterator[Path]:
    """Yield the files that are checked."""
    yield from sorted(ROOT.glob("*.md"))
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            name = path.relative_to(ROOT).as_posix()
            if path.suffix in (".py", ".md") and not name.startswith(GENERATED):
                yield path


def main() -> int:
    """Print all problems. Return 1 if there are any."""
    found = [problem for path in files() for problem in problems(path)]
    print(*found, sep="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
