"""The pages: links lead somewhere, code parses, each page is in the site, and everything that they name exists."""

from __future__ import annotations

import ast
import importlib.util
import itertools
import json
import re
import runpy
import shlex
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
import typer.main
import yaml

from manifold import cli
from manifold.runtime import manifest
from manifold.runtime.shipped import latest
from manifold.service.core.use_cases import every
from manifold.service.http.app import create_app
from manifold.service.settings import LINKS, OTHERS, PREFIX, Settings
from tests.conftest import ROOT, SHIPPED
from tests.pages import Page, pages

FOLDERS = "benchmarks|cli|client|deploy|docs|evaluation|examples|proto|runtime|service|tests|training"
PROMPTS = {"bash", "sh", "console"}
PLACEHOLDER = re.compile(r"[A-Z]{3,}|[…*<{]")  # such as NAME, in a path or a command that is a pattern
MADE = {"inception-v3"}  # models that a command of the pages makes
WRITTEN = (
    "docs/site",
    "deploy/secrets/",
    *(() if (ROOT / "examples").exists() else ("examples/",)),
)  # places where commands of the pages write
PARSERS: dict[str, Callable[[str], object]] = {
    "json": json.loads, "python": ast.parse, "toml": tomllib.loads, "yaml": lambda text: list(yaml.safe_load_all(text)),
}  # fmt: skip

# --- the checks of a page: each yields what is wrong ---


def links(page: Page) -> Iterator[str]:
    """Yield links that lead to no file or no heading."""
    for link in page.links():
        name, _, anchor = link.partition("#")
        target = (page.path.parent / name).resolve() if name else page.path
        if re.match(r"(https?|mailto):", link):
            continue
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in Page(target).anchors()):
            yield link


def blocks(page: Page) -> Iterator[str]:
    """Yield blocks of code without a language, and those that do not parse."""
    for block in page.blocks():
        if not block.language:
            yield f"a block without a language: {block.text[:60]!r}"
        try:
            PARSERS.get(block.language, str)(block.text)
        except (ValueError, SyntaxError, yaml.YAMLError) as error:
            yield f"a block of {block.language} does not parse: {error}: {block.text[:60]!r}"
    text = "\n".join(block.text for block in page.blocks(*PROMPTS))
    yield from subprocess.run(
        ["bash", "-n"], input=text, capture_output=True, text=True, check=False
    ).stderr.splitlines()


def commands(page: Page) -> Iterator[str]:
    """Yield commands and options of `manifold` that do not exist."""
    for name, *rest in _commands(page):
        if PLACEHOLDER.search(name):
            continue
        if not name.startswith("--") and name not in _options():
            yield f"there is no command manifold {name}"
        known = _options().get(name, {"--help", "--version", "--install-completion", "--show-completion"})
        given = {word.partition("=")[0] for word in [name, *rest] if re.match(r"--?[a-z]", word)}
        yield from (f"manifold {name} has no option {each}" for each in sorted(given - known))


def options(page: Page) -> Iterator[str]:
    """Yield options that are named without their command and that no command has."""
    known = set().union(*_options().values()) | _other_options()
    named = {code.split()[0].partition("=")[0] for code in page.code() if re.match(r"--[a-z]", code)}
    yield from sorted(named - known)


def models(page: Page) -> Iterator[str]:
    """Yield models in commands that are neither shipped nor called my-something, as those are that readers make."""
    known = {*latest(SHIPPED), *MADE}
    for words in _commands(page):
        named = [name for option, name in itertools.pairwise(words) if option in ("--model", "--extractor", "--name")]
        named += words[1:2] if words[0] in ("sample", "evaluate", "judge") else []
        for name in named:
            if re.fullmatch(r"[a-z0-9-]+", name) and name not in known and not name.startswith(("my-", "-")):
                yield f"there is no model {name}"


def variables(page: Page) -> Iterator[str]:
    """Yield environment variables that nothing reads."""
    known = {*(PREFIX + name.upper() for name in Settings.model_fields), *OTHERS}
    for name in sorted(set(re.findall(r"\bMANIFOLD_[A-Z_]*[A-Z]\b", page.text))):
        if name not in known and not name.startswith("MANIFOLD_MODELS_") and not LINKS.fullmatch(name):
            yield name


def endpoints(page: Page) -> Iterator[str]:
    """Yield paths of endpoints that do not exist."""
    yield from (path for path in sorted(set(_paths(page))) if not _is_route(path))


def files(page: Page) -> Iterator[str]:
    """Yield files and modules that do not exist."""
    for text in [*page.code(), *(word for block in page.blocks(*PROMPTS) for word in block.text.split())]:
        for name in re.findall(rf"(?<![\w./-])(?:{FOLDERS})/[\w./-]*\w", text):
            if not PLACEHOLDER.search(text) and not (ROOT / name).exists() and not name.startswith(WRITTEN):
                yield name
        for module in re.findall(r"python -m ((?:manifold|tests)[\w.]*)", text):
            if not importlib.util.find_spec(module):
                yield module


def targets(page: Page) -> Iterator[str]:
    """Yield targets that the Makefile lacks."""
    known = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    code = [
        *page.code(),
        *(line.partition("#")[0] for block in page.blocks(*PROMPTS) for line in block.text.splitlines()),
    ]
    for text in code:
        if found := re.match(r"(?:[A-Z_]+=\S+ )*make((?: [a-z]+)+)$", text.strip()):
            yield from (f"make {target}" for target in found[1].split() if target not in known)


CHECKS = (links, blocks, commands, options, models, variables, endpoints, files, targets)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_pages_name_only_what_exists(check: Callable[[Page], Iterator[str]]) -> None:
    assert not [f"{page.name}: {problem}" for page in pages() for problem in check(page)]


def test_the_checks_find_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text(
        "# One\n\n[a](#two) [b](#one) `MANIFOLD_PORTS` `/samples` POST /sample `--no-option` `docs/none.md` `make nothing`\n"
        "```json\n{\n```\n```bash\nmanifold sample mnist-vae --sead 1 && manifold nothing\nmanifold sample other -n 4\n```\n"
    )
    page = Page(tmp_path / "page.md")
    found = {check.__name__: list(check(page)) for check in CHECKS}
    assert found.pop("blocks")[0].startswith("a block of json does not parse")
    assert found == {
        "links": ["#two"],
        "commands": ["manifold sample has no option --sead", "there is no command manifold nothing"],
        "options": ["--no-option"],
        "models": ["there is no model other"],
        "variables": ["MANIFOLD_PORTS"],
        "endpoints": ["/samples"],
        "files": ["docs/none.md"],
        "targets": ["make nothing"],
    }


# --- the site, and what the program writes ---


def test_each_page_is_in_the_site() -> None:
    index = Page(ROOT / "docs/index.md")
    listed = [
        line
        for block in index.blocks("{toctree}")
        for line in block.text.splitlines()
        if line and not line.startswith(":")
    ]
    there = {page.name.removeprefix("docs/").removesuffix(".md") for page in pages() if page.name.startswith("docs/")}
    assert sorted(listed) == sorted(there - {"index"})


def test_pages_that_come_from_the_program_are_current() -> None:
    written = runpy.run_path(str(ROOT / "docs/write.py"))["pages"]()
    assert {path.name for path in written} >= {"manifest.md", "endpoints.md", "NOTICE", "operations.md"}
    for path, text in written.items():
        assert path.read_text() == text, f"{path}: run make docs"


def test_the_page_of_the_manifest_has_every_field_and_its_limits() -> None:
    page = (ROOT / "docs/reference/manifest.md").read_text()
    for schema in [manifest.schema(), *manifest.schema()["$defs"].values()]:
        for name in schema.get("properties", {}):
            assert f"| `{name}` |" in page, name
    assert "| `version` | integer ≥ 1 | required |" in page


def test_pages_that_code_names_exist() -> None:
    files = [
        *ROOT.glob("*.yml"),
        ROOT / "Makefile",
        ROOT / ".env.example",
        ROOT / "pyproject.toml",
        *(ROOT / "deploy").rglob("*.yml"),
    ]
    for folder in ("benchmarks", "cli", "client", "evaluation", "runtime", "service", "training"):
        files += (ROOT / folder).rglob("*.py")
    for path in files:
        for name in re.findall(r"\bdocs/[\w./-]+\.(?:md|json|py|png)\b", path.read_text()):
            assert (ROOT / name).exists(), f"{path.relative_to(ROOT)} names {name}"


# --- how names are found ---


def _commands(page: Page) -> Iterator[list[str]]:
    """Yield the words of each command `manifold …` of a page, from the command's name on."""
    lines = [line for block in page.blocks(*PROMPTS) for line in block.text.replace("\\\n", " ").splitlines()]
    for line in [*lines, *(" ".join(code.split()) for code in page.code())]:
        for part in re.split(r"\s(?:&&|\|\||\||;)\s|;\s", line):
            words = _words(part)
            places = [place for place, word in enumerate(words[:4]) if word.rpartition("/")[2] == "manifold"]
            if places and len(words) > places[0] + 1 and _is_start(words[: places[0]]):
                yield words[places[0] + 1 :]


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line, comments=True)
    except ValueError:  # a quote that stands alone, in prose
        return line.split()


def _is_start(words: list[str]) -> bool:
    """Return whether only variables stand before the command."""
    return all("=" in word for word in words)


@cache
def _options() -> dict[str, set[str]]:
    """Return the options of each command."""
    group = typer.main.get_command(cli.app)
    commands = getattr(group, "commands")  # noqa: B009, a group's; typer states a command
    return {
        name: {"--help", *(each for one in command.params for each in [*one.opts, *one.secondary_opts])}
        for name, command in commands.items()
    }


@cache
def _other_options() -> set[str]:
    """Return the options of benchmarks, of tests that are commands, of the service, and of docker."""
    files = [
        *(ROOT / "benchmarks").glob("*.py"),
        *(path for path in (ROOT / "tests").glob("*.py") if not path.name.startswith("test_")),
        ROOT / "service/__main__.py",
        ROOT / "tests/beside.sh",
    ]
    return {
        "--build-arg",
        *(option for path in files for option in re.findall(r"(?<![\w-])--[a-z][\w-]*", path.read_text())),
    }


def _paths(page: Page) -> Iterator[str]:
    """Yield the paths of endpoints that a page names: behind a method, in a URL of the service, and alone. Errors quote wrong ones."""
    yield from re.findall(r"\b(?:GET|POST|HEAD) (/[\w./{}-]*)", page.text)
    yield from re.findall(r"(?:127\.0\.0\.1|localhost):8000(/[\w./{}-]*)", page.text)
    yield from re.findall(
        r"(?<![\w./:)\]}>~`*-])/[a-z][a-z-]+(?![\w/.-])", re.sub(r"\]\([^)]*\)|there is no /\S+", "]", page.prose)
    )
    yield from (code for code in page.code() if re.fullmatch(r"/[a-z][\w/{}-]*", code))


@cache
def _routes() -> list[re.Pattern[str]]:
    """Return the forms of all paths that the service answers."""
    application = create_app(Settings(models_dir=SHIPPED)).app
    known = [case.path for case in every.values()] + [getattr(route, "path", "") for route in application.routes]
    known += application.openapi()["paths"]
    return [re.compile(re.sub(r"\{\w+\}", "[^/]+", path)) for path in known]


def _is_route(path: str) -> bool:
    """Return whether the service answers a path, or paths below it. Mounts of the containers pass too."""
    path = path.rstrip("./")
    if not path or path.startswith(("/run/", "/srv/", "/sets")):
        return True
    return any(form.fullmatch(path) or form.pattern.startswith(f"{path}/") for form in _routes())
