"""The command that installs an extra: for a source folder, and for a package that was installed from a file, a repository or an index."""

from __future__ import annotations

import json
from importlib import metadata
from typing import Any

import pytest

from manifold.runtime import extras


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
