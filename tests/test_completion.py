"""The completion of images, on functions instead of graphs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from manifold.runtime import sampling
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
