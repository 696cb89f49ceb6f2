"""A check of the project's prose, run by `make lint` as `python -m tests.words`.

It reads Python files, Markdown pages, notebooks and other files' comments. It finds texts and sentences that start with a word such as "of" or
"what", docstrings of functions that do not start with a verb, chains of semicolons, and words that readers have to decode (DECODED).
"""

from __future__ import annotations

import ast
import io
import json
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = (
    "benchmarks", "cli", "client", "deploy", "docs", "evaluation", "examples", "manifold", "proto", "runtime", "service", "tests", "training",
)  # fmt: skip
GENERATED = ("service/stubs/", "docs/site/", "tests/words.py", "tests/test_words.py")
SENTENCES = ("of", "what", "who", "whose", "where")  # first words of comments, table cells and sentences
FRAGMENTS = (*SENTENCES, "as", "it", "from", "in", "by", "on")  # first words of docstrings and help texts
UNNAMED = (
    *FRAGMENTS,
    "which",
    "how",
    "its",
    "so",
    "these",
    "among",
    "over",
)  # first words of modules' and classes' docstrings
NO_VERBS = ("a", "all", "an", "both", "each", "every", "how", "none", "one", "the", "their", "they", "this", "whether")
SEMICOLONS = 3  # a sentence of a page with so many is a list, or several sentences
COMMENTS = (".proto", ".sh", ".toml", ".yaml", ".yml")  # files of which only comments are read
SUFFIXES = (".py", ".md", ".ipynb", *COMMENTS)
NAMES = ("Makefile", "Dockerfile")  # further files of which only comments are read
SAYING = ("echo", "error", "info", "print", "warn", "warning")  # last words in names of functions that print or log
DECODED = {
    "asked for": "requested", "aught|ought": "anything", "(?:be|is|are) had": "be available, is computed",
    "beyond loopback": "on other addresses than loopback", "for ever": "without end", "go on|goes on|went on": "continue",
    "goes? to sleep|put to sleep": "unloaded", "(?:if|where) (?:it is |they are )?left out": "by default", "in work": "in progress",
    "(?:is|are) to be": "must be", "judged|judging": "evaluated, scored", "mend|mends|mended": "fix", "nobody": "no client, no process",
    "none where": "None if", "one's own": "your own", r"raises? [a-z]\w+ where": "Raise ... if",
    "somebody": "another user, another process", "thereof": "of it", "whoever": "a client that",
}  # fmt: skip
Problems = Iterator[tuple[int, str]]
Function = ast.FunctionDef | ast.AsyncFunctionDef


def problems(path: Path) -> Iterator[str]:
    """Yield one line for each problem of a file."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        found = _python(text)
    elif path.suffix in COMMENTS or path.name in NAMES:
        pattern = re.compile(
            r"\s*(?:#|//)(.*)" if path.suffix else r"\s*#(.*)|.*\s## (.*)"
        )  # a Makefile's help follows ##
        said = [(number, pattern.match(line)) for number, line in enumerate(text.splitlines(), 1)]
        found = (
            problem for number, match in said if match for problem in _comment(match[match.lastindex or 0], number)
        )
    elif path.suffix == ".ipynb":
        cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown"]
        found = _markdown("\n\n".join("".join(cell["source"]) for cell in cells))
    else:
        found = _markdown(text)
    name = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
    yield from (f"{name}:{line}: {problem}" for line, problem in sorted(set(found)))


def _python(text: str) -> Problems:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | Function):
            yield from _docstring(node)
        elif isinstance(node, ast.keyword) and node.arg in ("help", "description", "summary"):
            for line, said in _texts(node.value):
                if _first(said) in FRAGMENTS:
                    yield line, f"{node.arg} starts with {_first(said)!r}: start with a noun or a verb"
                yield from _prose(said, line, first=False)
        elif isinstance(node, ast.Raise | ast.Return) or (
            isinstance(node, ast.Call) and ast.unparse(node.func).endswith(SAYING)
        ):  # functions return parts of errors; a single word is a name
            for line, said in _texts(node):
                if " " in said:
                    yield from _decoded(said, line)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield from _comment(token.string, token.start[0])


def _docstring(node: ast.Module | ast.ClassDef | Function) -> Problems:
    """Yield the problems of a docstring. Tests state a fact, and properties name a value: both may start with a noun."""
    said, line = ast.get_docstring(node) or "", node.body[0].lineno if node.body else 1
    first = _first(said)
    if first in (FRAGMENTS if isinstance(node, Function) else UNNAMED):
        yield line, f"the docstring starts with {first!r}: start with a verb (functions) or a noun (classes, modules)"
    if isinstance(node, Function) and first in NO_VERBS and not node.name.startswith("test_"):
        if not any("property" in ast.unparse(each) for each in node.decorator_list):
            yield line, f"the docstring starts with {first!r}: start with a verb, such as Return"
    yield from _prose(said, line, first=False)


def _texts(node: ast.AST) -> Iterator[tuple[int, str]]:
    for part in ast.walk(node):
        if isinstance(part, ast.Constant) and isinstance(part.value, str):
            yield part.lineno, part.value


def _comment(said: str, line: int) -> Problems:
    said = said.lstrip("#!/ ")
    if _first(said) in SENTENCES:
        yield line, f"the comment starts with {_first(said)!r}: name the subject"
    yield from _decoded(said, line)


def _markdown(text: str) -> Problems:
    """Yield the problems of a page. Code blocks are skipped; headings may start with any word."""
    text = re.sub(r"^( *)(```|~~~).*?^ *\2", lambda code: re.sub(r".+", "", code.group()), text, flags=re.M | re.S)
    for block in re.finditer(r"^(?:.+\n?)+?(?=\n|\Z| *(?:[-*#|]|\d+\.) )", text, re.M):
        said, line = block.group(), text.count("\n", 0, block.start()) + 1
        for cell in said.strip().strip("|").split("|") if said.lstrip().startswith("|") else []:
            if _first(cell) in SENTENCES:
                yield line, f"a table cell starts with {_first(cell)!r}: it must be clear without the row above"
        if said.lstrip().startswith(("|", "#")):
            yield from _decoded(said, line)
        else:
            yield from _prose(re.sub(r"^\s*(?:[-*]|\d+\.) ", "", said), line, semicolons=SEMICOLONS)


def _prose(said: str, line: int, *, first: bool = True, semicolons: int = 1000) -> Problems:
    """Yield the problems of sentences. The `first` one may be checked elsewhere."""
    for match in re.finditer(r"\S.*?(?:[.!?](?=\s)|\Z)", _without_code(said), re.S):
        sentence, at = match.group(), line + said.count("\n", 0, match.start())
        if _first(sentence) in SENTENCES and not sentence.endswith("?") and (first or match.start()):
            yield at, f"a sentence starts with {_first(sentence)!r}: name the subject"
        if sentence.count(";") >= semicolons:
            yield at, f"a sentence has {sentence.count(';')} semicolons: use a list or several sentences"
    yield from _decoded(said, line)


def _decoded(said: str, line: int) -> Problems:
    said = _without_code(said)
    for words, plain in DECODED.items():
        for match in re.finditer(rf"\b(?:{words})\b".replace(" ", r"\s+"), said, re.IGNORECASE):
            found, at = " ".join(match.group().split()), line + said.count("\n", 0, match.start())
            yield at, f"{found!r}: write {plain!r} or say it in another way"


def _without_code(said: str) -> str:
    return re.sub(r"`[^`]*`", lambda code: re.sub(r"\S", "x", code.group()), said)


def _first(said: str) -> str:
    """Return the first word in lower case, or nothing."""
    match = re.match(r"[A-Za-z]+(?![\w./=-])", said.strip())
    return match.group().lower() if match else ""


def files() -> Iterator[Path]:
    """Yield the files that are checked."""
    yield from sorted(ROOT.glob("*.md"))
    yield from (ROOT / name for name in NAMES if (ROOT / name).exists())
    for path in sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*")):
        if path.suffix in SUFFIXES and not path.relative_to(ROOT).as_posix().startswith(GENERATED):
            yield path


def main() -> int:
    """Print all problems. Return 1 if there are any."""
    found = [problem for path in files() for problem in problems(path)]
    print(*found, sep="\n", end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
