"""A copy of the project in another folder, to which a test may add files, and a program that runs on it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.conftest import ROOT

PACKAGES = ("runtime", "service", "training", "evaluation", "cli")


def project(folder: Path, *copied: str) -> Path:
    """Return the package of a copy of the project. The packages that are not `copied` are links."""
    package = folder / "project/manifold"
    package.mkdir(parents=True)
    shutil.copy(ROOT / "manifold/__init__.py", package)
    for name in PACKAGES:
        if name in copied:
            shutil.copytree(ROOT / name, package / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            (package / name).symlink_to(ROOT / name)
    return package


def run(package: Path, program: str, *arguments: str) -> Any:
    """Return what a program prints as JSON that runs on the copy. Its arguments follow in sys.argv."""
    environment = {**os.environ, "PYTHONPATH": str(package.parent)}
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=package.parent, env=environment, capture_output=True, text=True, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
