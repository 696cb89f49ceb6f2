"""Helpers for the tests of `manifold push` and `pull`: small sealed artifacts, and commands in this process."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import yaml
from typer.testing import CliRunner

from manifold import cli
from manifold.runtime import repository
from manifold.runtime.errors import ManifoldError
from tests import foreign
from tests.conftest import SHIPPED

LICENCE = "MIT"
METRICS = [
    {"name": "fid", "value": 12.5, "se": 0.25, "protocol": {"data": "made", "n": 100, "extractor": "e/1", "file": "/home/me/x.csv"}},
    {"name": "kid", "value": 0.5, "protocol": {"data": "made", "n": 100, "extractor": "e/1", "blocks": 20}},
]  # fmt: skip


def artifact(root: Path, version: int = 1, seed: int = 0, **changes: Any) -> Path:
    """Write a sealed artifact ROOT/own/VERSION. Its content depends on the seed."""
    folder = foreign.write(root / f"drafts-{version}-{seed}", **{
        "name": "own", "version": version, "license": LICENCE, "metrics": METRICS, "description": "Made | for tests.", **changes
    })  # fmt: skip
    (folder / "page").mkdir()
    (folder / "page/curves.json").write_text(json.dumps({"seed": seed}))
    shutil.copy(SHIPPED / "digits-classifier/1/preview.png", folder / "preview.png")
    repository.seal(folder)
    target = root / "models" / str(changes.get("name", "own")) / str(version)
    target.parent.mkdir(parents=True, exist_ok=True)
    folder.rename(target)
    return target


def run(*arguments: object, status: int = 0) -> str:
    """Run a command in this process. Return its output and messages; an error of ours is raised."""
    done = CliRunner().invoke(cli.app, list(map(str, arguments)))
    if isinstance(done.exception, ManifoldError):
        raise done.exception
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == status, done.output
    return done.output


def content(folder: Path) -> dict[str, bytes]:
    """Return all files below a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def restate(folder: Path, **changes: Any) -> None:
    """Change fields of a manifest."""
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def is_clean(root: Path) -> bool:
    """Return whether a failed command has left nothing in a folder of models."""
    return not root.exists() or not any(path.is_file() or path.name.startswith(".") for path in root.rglob("*"))


def front_of(text: str) -> dict[str, Any]:
    """Return the metadata of a card."""
    found: dict[str, Any] = yaml.safe_load(text.split("---\n")[1])
    return found
