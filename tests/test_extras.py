"""The command that installs an extra: for a source folder, and for a package that was installed from a file, a repository or an index."""

from __future__ import annotations

import json
from importlib import metadata
from typing import Any

import pytest

from manifold.runtime import extras


class Installed:
    """An installed distribution with a file direct_url.json."""

    def __init__(self, stated: dict[str, Any] | None) -> None:
        self.stated = stated

    def read_text(self, name: str) -> str | None:
        assert name == "direct_url.json"
        return None if self.stated is None else json.dumps(self.stated)


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
    monkeypatch.setattr(metadata, "distribution", lambda name: Installed(stated))
    assert extras.command("tables") == command


def test_a_source_folder_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Installed:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)
    assert extras.command("cpu") == "pip install -e '.[cpu]'"
