"""The pages of docs/reference that are made from the code."""

from __future__ import annotations

from pathlib import Path

import pytest

from manifold.service import reference
from manifold.service.core import failures
from manifold.service.http import statuses
from manifold.service.http.replies import STATUS, UNROUTED
from manifold.service.settings import ModelSettings, Settings
from manifold.service.telemetry.advice import ACTIONS
from tests.conftest import ROOT


@pytest.mark.parametrize("name", reference.PAGES)
def test_a_page_is_the_one_in_docs(name: str) -> None:
    assert (ROOT / "docs/reference" / name).read_text() == reference.PAGES[name](), "run: make docs"


def test_pages_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["reference", str(tmp_path)])
    assert reference.main() == 0
    assert {path.name for path in tmp_path.iterdir()} == set(reference.PAGES)


def test_every_setting_has_a_group_and_a_description() -> None:
    grouped = [name for names in reference.GROUPS.values() for name in names]
    assert sorted([*grouped, "models"]) == sorted(Settings.model_fields)
    for name, field in {**Settings.model_fields, **ModelSettings.model_fields}.items():
        assert (field.description or "").endswith((".", ")")), name


def test_every_metric_has_an_action_and_every_error_a_meaning_and_an_example() -> None:
    page = reference.metrics()
    assert all(f"| `{name}` |" in page for name in ACTIONS)
    assert set(failures.PUBLIC) == set(STATUS)
    assert set(statuses.EXAMPLES) == set(statuses.types()) == {kind("").type for kind in STATUS} | set(UNROUTED)
