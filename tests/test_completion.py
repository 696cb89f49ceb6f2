"""The completion of images, on functions instead of graphs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from manifold.runtime import sampling
from manifold.runtime.errors import InvalidValue
from manifold.runtime.items import read_masks
from manifold.runtime.kinds import Items
from manifold.runtime.manifest import Manifest
from manifold.runtime.operations import drive
from manifold.runtime.operations.complete import CANDIDATE_STREAM, Completed
from manifold.runtime.operations.complete import complete as complete_items
from tests import graphs
from tests.graphs import given, task

SHAPE = [1, 2, 2]
IMPUTE = task([given("z", "data", SHAPE), given("m", "mask", SHAPE), given("u", "uniform", [4])])
SCORE = task([given("z", "data", SHAPE)], [{"role": "nll", "shape": []}, {"role": "nats", "shape": SHAPE}])
SCORING = {"score": "nll", "terms": [{"name": "nll", "kind": "nll"}], "surprise": "nats"}
MANIFEST = Manifest.model_validate({**graphs.manifest(impute=IMPUTE, score=SCORE), "scoring": SCORING})


class Runs:
    """A fake imputer that fills in its uniforms, with a score that is the same for every image. It records its runs."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, Mapping[str, Any]]] = []

    def __call__(self, name: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
        self.seen.append((name, inputs))
        if name == "impute":
            return {"data": inputs["uniform"].reshape(-1, *SHAPE)}
        return {"nll": np.zeros(len(inputs["data"])), "nats": np.zeros(inputs["data"].shape)}


def complete(candidates: int) -> tuple[Runs, Completed]:
    """Complete items 7 and 8 of seed 5 without any known pixel."""
    runs, nothing = Runs(), np.zeros((2, *SHAPE), np.float32)
    return runs, drive(complete_items(MANIFEST, nothing, nothing, seed=5, first=7, candidates=candidates), runs)


def test_a_candidate_is_the_same_however_many_there_are() -> None:
    runs, _ = complete(3)
    uniforms = runs.seen[0][1]["uniform"].reshape(2, 3, 4)  # (items, candidates, U)
    for candidate in range(3):
        stream = CANDIDATE_STREAM + candidate
        assert np.array_equal(uniforms[:, candidate], sampling.uniform(5, 7, 2, stream, (4,)))


def test_a_single_candidate_is_taken_without_a_score() -> None:
    runs, made = complete(1)
    assert [name for name, _ in runs.seen] == ["impute"]
    assert np.array_equal(made.data.reshape(2, 4), sampling.uniform(5, 7, 2, CANDIDATE_STREAM, (4,)))


@pytest.mark.parametrize("candidates", [0, -1, 65, 10**12])
def test_numbers_of_candidates_out_of_range_are_refused(candidates: int) -> None:
    with pytest.raises(InvalidValue, match=f"^candidates: {candidates} is out of range; give an integer from 1 to 64"):
        complete(candidates)


@pytest.mark.parametrize("candidates", [2.5, "4", True])
def test_candidates_that_are_no_integers_are_refused(candidates: Any) -> None:
    with pytest.raises(InvalidValue, match=r"^candidates: "):
        complete(candidates)


@pytest.mark.parametrize("value", [np.nan, -1.0])
def test_masks_with_values_that_are_neither_known_nor_unknown_are_refused(value: float) -> None:
    items = Items(np.zeros((1, *SHAPE), np.float32))
    assert read_masks(MANIFEST.spec, np.eye(2), items).tolist() == [[[[1, 0], [0, 1]]]]
    with pytest.raises(InvalidValue, match=r"^masks: a value is negative or NaN; give 0 for unknown and 1 for known"):
        read_masks(MANIFEST.spec, np.full((2, 2), value), items)
