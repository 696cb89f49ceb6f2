"""The command that installs an extra: for a source folder, and for a package that was installed from a file, a repository or an index."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import metadata
from typing import Any

import pytest

import manifold
from manifold.runtime import extras
from tests.conftest import ROOT


class Installed:
    """The metadata that pip writes for the package. `stated` is the content of direct_url.json, None for a package from an index."""

    def __init__(self, stated: dict[str, Any] | None) -> None:
        self.texts = {
            "METADATA": "Name: manifold",
            **({} if stated is None else {"direct_url.json": json.dumps(stated)}),
        }

    def read_text(self, name: str) -> str | None:
        return self.texts.get(name)


class EggInfo:
    """The metadata that setuptools leaves in a source folder. Python finds them first if the folder is the working folder."""

    def read_text(self, name: str) -> str | None:
        return "Name: manifold" if name == "PKG-INFO" else None


@pytest.mark.parametrize(
    ("stated", "command"),
    [
        ({"url": "file:///src", "dir_info": {"editable": True}}, "pip install -e '.[cpu,tables]'"),
        ({"url": "file:///m.whl", "archive_info": {}}, "pip install 'manifold[cpu,tables] @ file:///m.whl'"),
        ({"url": "file:///src", "dir_info": {}}, "pip install 'manifold[cpu,tables] @ file:///src'"),
        (
            {"url": "https://host/m.git", "vcs_info": {"vcs": "git", "commit_id": "abc"}},
            "pip install 'manifold[cpu,tables] @ git+https://host/m.git@abc'",
        ),
        (None, "pip install 'manifold[cpu,tables]'"),
    ],
)
def test_the_command_fits_the_installation(
    stated: dict[str, Any] | None, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras, "version", lambda name: None)
    for found in ([Installed(stated)], [EggInfo(), Installed(stated)]):
        monkeypatch.setattr(metadata, "distributions", lambda name, found=found: found)
        assert extras.command("tables") == command


def test_a_source_folder_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "version", lambda name: None)
    for found in ([], [EggInfo()]):
        monkeypatch.setattr(metadata, "distributions", lambda name, found=found: found)
        assert extras.command("cpu") == "pip install -e '.[cpu]'"


def test_a_python_without_the_packages_is_told_to_activate_the_environment() -> None:
    run = [sys.executable, "-S", "-c", "import manifold; manifold.load('models/mnist-vae')"]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1] == (
        "ImportError: Manifold's packages are not installed in this Python (numpy is missing); "
        "run `source .venv/bin/activate` (or `make setup`)"
    )


def test_other_missing_modules_are_not_renamed(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = {"numpy": ImportError, "PIL": ImportError, "torch": ModuleNotFoundError, "manifold.x": ModuleNotFoundError}
    for module, kind in kinds.items():

        def missing(_: str, module: str = module) -> None:
            raise ModuleNotFoundError(f"No module named {module!r}", name=module)

        monkeypatch.delitem(vars(manifold.runtime), "load", raising=False)
        monkeypatch.setitem(vars(manifold.runtime), "__getattr__", missing)
        with pytest.raises(ImportError) as caught:
            manifold.__getattr__("load")
        assert type(caught.value) is kind and module in str(caught.value)
