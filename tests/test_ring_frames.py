"""The recording for the guided view "Mode collapse on the ring": its form, its size, and that one of the two GANs collapses."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from manifold.training.datasets import ring
from tests.conftest import ROOT

PATH = ROOT / "service/http/pages/static/data/ring.json"


@pytest.fixture(scope="module")
def recorded() -> Any:
    return json.loads(PATH.read_text())


def distances(recorded: Any, points: Any) -> Any:
    """Return the distance of each point from each mode."""
    return np.linalg.norm(np.asarray(points)[:, None] - np.asarray(recorded["modes"]), axis=2)


def test_the_modes_are_those_of_the_data_set(recorded: Any) -> None:
    modes = np.asarray(recorded["modes"])
    assert modes.shape == (ring.MODES, 2)
    assert np.allclose(np.linalg.norm(modes, axis=1), ring.RADIUS, atol=0.01)
    assert len({tuple(mode) for mode in modes.tolist()}) == ring.MODES


def test_each_frame_has_a_step_a_number_of_modes_and_the_same_number_of_points(recorded: Any) -> None:
    assert PATH.stat().st_size < 120_000
    first, second = recorded["runs"]
    for run in (first, second):
        points = np.asarray(run["points"])
        assert points.shape[:2] == (len(run["steps"]), len(recorded["runs"][0]["points"][0])) and points.shape[2] == 2
        assert len(run["covered"]) == len(run["steps"]) and set(run["covered"]) <= set(range(ring.MODES + 1))
        assert run["steps"] == sorted(set(run["steps"]))
        assert np.array_equal(points, points.round(2))
    assert first["steps"] == second["steps"]
    differing = {name for name in first["config"] if first["config"][name] != second["config"][name]}
    assert differing == {"unrolled"}


def test_one_gan_collapses_and_the_other_does_not(recorded: Any) -> None:
    plain, unrolled = recorded["runs"]
    assert max(plain["covered"]) <= 2 and unrolled["covered"][-1] == ring.MODES
    visited = set()
    for frame in plain["points"][10:]:
        nearest = np.bincount(distances(recorded, frame).argmin(axis=1), minlength=ring.MODES)
        assert np.sort(nearest)[-2:].sum() >= 0.9 * len(frame)  # nearly all points are at one mode or between two
        visited.add(int(nearest.argmax()))
    assert len(visited) >= 4  # the generator moves from one mode to the next
    last = distances(recorded, unrolled["points"][-1])
    assert (np.bincount(last.argmin(axis=1), minlength=ring.MODES) > 0).all() and np.median(last.min(axis=1)) < 0.15
