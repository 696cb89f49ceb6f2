"""The service's web page: its script contains no kind of data by name, and shows the items of any model."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from manifold.runtime import kinds
from manifold.service.http import pages
from tests import forms
from tests.conftest import ROOT, SHIPPED
from tests.served import Served, served

needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="needs node")


def test_the_script_knows_no_kind_by_name() -> None:
    """An HTML table is allowed; its tag is also the name of a kind."""
    (script,) = re.findall(r"<script>(.*?)</script>", pages.PAGE.read_text(), re.DOTALL)
    script = script.replace('element("table"', "")
    assert not re.search(r"\bkind\b", script)
    for kind in kinds.every:
        for name in (kind.model_fields["kind"].default, kind.wire.many, kind.wire.one, *kind.wire.media_types):
            assert not re.search(rf"""["'`]{re.escape(name)}["'`]|\.{re.escape(name)}\b""", script), name


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("page")
    forms.write(root, forms.named())
    forms.write(root, forms.shaped())
    (root / "transactions-vae").symlink_to(SHIPPED / "transactions-vae")
    with served(root, default_model="shaped") as service:
        yield service


def shown(service: Served, model: str) -> dict[str, Any]:
    """Return what the page requests and shows after a model is chosen."""
    done = subprocess.run(
        ["node", str(Path(ROOT, "tests/page.js")), service.url, model], capture_output=True, text=True, timeout=60, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    seen: dict[str, Any] = json.loads(done.stdout)
    return seen


def tags(seen: dict[str, Any]) -> list[str]:
    return [child["tag"] for child in seen["out"]["children"]]


@needs_node
def test_pictures_come_as_one_file(service: Served) -> None:
    seen = shown(service, "shaped")
    assert seen["asked"] == [{"path": "/sample", "accept": "image/png", "status": 200}]
    assert tags(seen) == ["img"] and seen["curl"].endswith("-o samples.png")
    assert seen["card"]["children"][0]["className"] == "pixels"


@needs_node
def test_rows_are_a_table(service: Served) -> None:
    seen = shown(service, "transactions-vae")
    assert seen["asked"] == [{"path": "/sample", "accept": "application/json", "status": 200}]
    head, *rows = seen["out"]["children"][0]["children"]
    assert "amount" in [cell["text"] for cell in head["children"]] and len(rows) == 2
    assert seen["card"]["children"][0]["className"] == "chart"


@needs_node
def test_all_outputs_are_shown(service: Served) -> None:
    seen = shown(service, "named")
    assert seen["asked"] == [{"path": "/sample", "accept": "application/json", "status": 200}]
    assert tags(seen) == ["h3", "img", "img", "h3", "table"]
    assert [child["text"] for child in seen["out"]["children"] if child["tag"] == "h3"] == ["picture", "facts"]
    assert seen["out"]["children"][1]["src"].startswith("data:image/png;base64,iVBOR"[:30])
