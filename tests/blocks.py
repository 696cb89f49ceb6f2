"""Runs the code blocks of a Markdown page as a reader would, in a copy of what the page needs.

Blocks in bash and python are run in their order, as written, in one temporary folder. The bash blocks of a page share their variables and
folder. Blocks in python are one program if no bash block is between them. Four things differ from a reader's shell:

- A service runs already. Its address takes the place of 127.0.0.1:8000 and 127.0.0.1:8001 in the text.
- Commands that install or start something are not run. `HANDLED` lists them; each one checks that the target, extra, folder or compose
  service exists.
- `manifold fit` and `manifold train` get `--preset smoke` if the text states no preset. If all trainings and exports of a page are those
  of pages before it, word for word, they are not repeated.
- A block after `<!-- not run: reason -->` is skipped.

If a block in `text` follows, the output must contain its lines in this order. Numbers may differ, `…` stands for anything.
"""

from __future__ import annotations

import fnmatch
import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from manifold.service.settings import Settings
from tests.pages import FENCE, ROOT, Block, Page

COPIED = ("examples", "docs", "proto", "README.md", "pyproject.toml")  # and the models that pages name
LINKED = (".venv", "client", "Makefile", "docker-compose.yml", "benchmarks")
RUN = ("bash", "sh", "python")
REASONS = (  # words of which one is in the reason why a block is not run
    "docker", "gpu", "download", "long", "minute", "your own", "grpcurl", "tritonclient", "the new family", "rewrites", "stopped", "keys",
    "whole test suite", "inception", "exported with",
)  # fmt: skip
SECONDS = 900  # for one block, on a machine that does much else
LONG = re.compile(r"(?:\S*/)?manifold (?:fit|train|export) ")  # commands that take long
NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?%?")


@dataclass(frozen=True)
class Step:
    """A block to run. `shown` is the output that the page shows after it; None if it shows none."""

    block: Block
    shown: str | None


def named_models(pages: Iterable[Page]) -> set[str]:
    """Return the shipped models that blocks name, and the model that answers by default."""
    code = "\n".join(step.block.text for page in pages for step in steps(page))
    shipped = {
        path.name for path in (ROOT / "models").iterdir() if path.is_dir() and not path.name.startswith(("my-", "."))
    }
    named = {name for name in shipped if re.search(rf"(?<![\w-]){name}(?![\w-])", code)}
    return named | ({Settings().default_model or ""} & shipped)


class Failed(AssertionError):
    """A block whose exit status is not 0, or whose output is not as the page shows it."""


def steps(page: Page) -> Iterator[Step]:
    """Yield the blocks of a page that are run."""
    blocks, places = list(page.blocks()), list(FENCE.finditer(page.text))
    for index, block in enumerate(blocks):
        if block.language not in RUN or block.skipped:
            continue
        shown = None
        if index + 1 < len(blocks) and blocks[index + 1].language == "text":
            between = page.text[places[index].end() : places[index + 1].start()]
            shown = None if re.search(r"^#", between, re.MULTILINE) else blocks[index + 1].text
        yield Step(block, shown)


# --- commands that are checked instead of run ---------------------------------------------------------------------------------------


def _make(words: list[str]) -> None:
    """Raise Failed for a target that the Makefile lacks."""
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for word in words[words.index("make") + 1 :]:
        if "=" not in word and word not in targets:
            raise Failed(f"make {word}: the Makefile has no such target")


def _pip(words: list[str]) -> None:
    """Raise Failed for an extra or a folder that does not exist."""
    named = False
    for word in words[words.index("install") + 1 :]:
        found = re.fullmatch(r"(\.|\./[\w/-]+|manifold)(?:\[([\w,-]+)\])?", word)
        if found is None:
            continue
        named = True
        folder = ROOT if found[1] == "manifold" else ROOT / found[1]
        if not (folder / "pyproject.toml").exists():
            raise Failed(f"pip install {word}: there is no such project")
        extras = tomllib.loads((folder / "pyproject.toml").read_text())["project"].get("optional-dependencies", {})
        for extra in (found[2] or "").split(",") if found[2] else []:
            if extra not in extras:
                raise Failed(f"pip install {word}: there is no extra {extra}")
    if not named:
        raise Failed(f"{shlex.join(words)}: names no project of the repository")


def _compose(words: list[str]) -> None:
    """Raise Failed for a profile that docker-compose.yml lacks."""
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    profiles = {profile for service in services.values() for profile in service.get("profiles", ())}
    for flag, value in itertools.pairwise(words):
        if flag == "--profile" and value not in profiles:
            raise Failed(f"docker compose --profile {value}: there is no such profile")


def _nothing(words: list[str]) -> None:
    """Accept the command: there is nothing in the checkout that could be missing."""


HANDLED: list[tuple[str, Callable[[list[str]], None]]] = [
    (r"(\w+=\S+ )*make [\w-]", _make),
    (r"(\S*/)?(pip|pip3|python3? -m pip) install ", _pip),
    (r"docker compose ", _compose),
    (r"(\w+=\S+ )*(\S*/)?manifold serve\b", _nothing),
    (r"git clone ", _nothing),
    (r"cd manifold$", _nothing),
]


def prepared(code: str, language: str, http: str, grpc: str) -> str:
    """Return the code of a block for the sandbox. Raises Failed for an installation or a start that cannot work."""
    code = re.sub(r"(?:127\.0\.0\.1|localhost):8000", http, code)
    code = re.sub(r"(?:127\.0\.0\.1|localhost):8001", grpc, code)
    return code if language == "python" else "\n".join(_command(line) for line in _lines(code)) + "\n"


def _lines(code: str) -> Iterator[str]:
    """Yield the lines of a script. A line that ends with a backslash is joined to the next one."""
    yield from re.sub(r"\\\n\s*", "", code).splitlines()


def _command(line: str) -> str:
    """Return a line of a script, or `:` for a command that was checked instead."""
    stripped = line.strip()
    for pattern, check in HANDLED:
        if re.match(pattern, stripped):
            check(shlex.split(stripped, comments=True))
            return ":"
    if re.match(r"(\S*/)?manifold (fit|train) ", stripped) and "--preset" not in stripped:
        if re.search(r"[|&;#>]", stripped):  # other commands follow
            return re.sub(r"(manifold (?:fit|train)) ", r"\1 --preset smoke ", line, count=1)
        return f"{line} --preset smoke"
    return line


# --- the repository ---------------------------------------------------------------------------------------------------------------


def written(root: Path) -> dict[str, tuple[int, int]]:
    """Return size and time of the last change of all files below a folder, by path. Caches and folders that git ignores everywhere are left out."""
    ignore = root / ".gitignore"
    lines = ignore.read_text().splitlines() if ignore.exists() else []
    skipped = [".*", "__pycache__", *(line.rstrip("/") for line in lines if re.fullmatch(r"[^/#]+/", line))]
    found: dict[str, tuple[int, int]] = {}
    for folder, inner, files in os.walk(root):
        inner[:] = [name for name in inner if not any(fnmatch.fnmatch(name, pattern) for pattern in skipped)]
        for name in files:
            state = os.lstat(os.path.join(folder, name))
            found[os.path.relpath(os.path.join(folder, name), root)] = (state.st_size, state.st_mtime_ns)
    return found


# --- the sandbox ---------------------------------------------------------------------------------------------------------------------


class Sandbox:
    """A folder with what the pages need, in which blocks run. Nothing is written outside it."""

    def __init__(self, folder: Path, models: Iterable[str]) -> None:
        self.folder, self.done = folder / "manifold", set[str]()
        self.folder.mkdir()
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("MANIFOLD_") or name == "MANIFOLD_DATA"
        }
        self.environment = {
            **kept, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1",
            "HOME": str(folder), "MPLCONFIGDIR": str(folder), "PYTHONSAFEPATH": "1",
        }  # fmt: skip
        for name in COPIED:
            if (source := ROOT / name).is_dir():
                shutil.copytree(source, self.folder / name, ignore=shutil.ignore_patterns("site", "my-*"))
            else:
                shutil.copy(source, self.folder)
        for name in models:
            shutil.copytree(ROOT / "models" / name, self.folder / "models" / name)
        for name in LINKED:
            (self.folder / name).symlink_to(ROOT / name)

    def run(self, page: Page, http: str = "127.0.0.1:1", grpc: str = "127.0.0.1:1") -> int:
        """Run the blocks of a page. Return how many were run. Raises Failed for the first block that does not work."""
        state = self.folder / ".shell"  # variables and the folder of the shell, from one block to the next
        state.unlink(missing_ok=True)
        given = [(step, prepared(step.block.text, step.block.language, http, grpc)) for step in steps(page)]
        commands = {line for _, code in given for line in code.splitlines() if LONG.match(line)}
        if not commands <= self.done:
            self._forget()
        for language, group in itertools.groupby(given, key=lambda each: each[0].block.language):
            members = list(group)
            for part in [members] if language == "python" else [[each] for each in members]:
                code = "\n".join(code for _, code in part)
                code = "\n".join(":" if line in self.done else line for line in code.splitlines())
                self._one([step for step, _ in part], code, state)
        self.done |= commands
        return len(given)

    def _forget(self) -> None:
        """Remove what earlier pages trained."""
        self.done.clear()
        shutil.rmtree(self.folder / "runs", ignore_errors=True)
        for made in (self.folder / "models").glob("my-*"):
            shutil.rmtree(made)

    def _one(self, steps: Sequence[Step], code: str, state: Path) -> None:
        """Run one block, or several as one program, and compare the output."""
        if steps[0].block.language == "python":
            command = ["python", "-c", code]
        else:
            keep = f"trap 'status=$?; {{ export -p; echo \"cd $PWD\"; }} > {state}; exit $status' EXIT\n"
            before = f". {state}\n" if state.exists() else ""
            command = ["bash", "-e", "-o", "pipefail", "-c", before + keep + code]
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=SECONDS, check=False
        )  # fmt: skip
        where = f"{steps[0].block.page.name}, block:\n" + "\n".join(step.block.text for step in steps)
        if done.returncode != 0:
            raise Failed(f"{where}\nexit status {done.returncode}; output:\n{done.stdout[-3000:]}")
        shown = "\n".join(step.shown for step in steps if step.shown is not None)
        if (line := missing(shown, done.stdout)) is not None:
            raise Failed(f"{where}\nthe page shows {line!r}; the output is:\n{done.stdout[-3000:]}")


def missing(shown: str, output: str) -> str | None:
    """Return the first line of `shown` that the output does not have after the lines before it; None if it has all of them."""
    lines = iter(_plain(output))
    for line in shown.splitlines():
        pattern = ".*".join(re.escape(part) for part in re.split(r"…|\.\.\.", NUMBER.sub("#", _spaces(line))))
        if pattern.strip(".*") and not any(re.fullmatch(pattern, each) for each in lines):
            return line
    return None


def _plain(text: str) -> list[str]:
    """Return the lines of an output, with # for numbers."""
    return [NUMBER.sub("#", _spaces(line)) for line in text.splitlines()]


def _spaces(line: str) -> str:
    return re.sub(r"\s+", " ", line).strip()
