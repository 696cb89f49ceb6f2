"""A copy of the project in another folder, to which a test may add files, and a function that runs a program on it."""

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
    """Return the package of a copy of the project. Packages that are not in `copied` are links."""
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
    """Run a program on the copy and return the JSON that it prints. The arguments are in its sys.argv."""
    environment = {**os.environ, "PYTHONPATH": str(package.parent)}
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=package.parent, env=environment, capture_output=True, text=True, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
