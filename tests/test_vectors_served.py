"""Vectors over gRPC, and the calibration of a model of vectors over HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import numpy as np
import pytest

from manifold.runtime import codecs
from manifold.service.stubs import manifold_pb2 as pb
from manifold.service.stubs import manifold_pb2_grpc as stubs
from tests.keyed import ADMIN, ADMIN_TOKEN, bearer
from tests.served import Served, served
from tests.test_vectors import N, as_npy, run, vectors


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root: Path = tmp_path_factory.mktemp("vectors")
    (root / "known.npy").write_bytes(as_npy(vectors(N)))
    run("fit", root / "known.npy", "--name", "vectors", "--models", root / "models", "--run", root / "run", "--quiet")
    with served(root / "models", grpc=True, auth="on", keys=f"{ADMIN}") as service:
        yield service


def listed(service: Served, new: np.ndarray) -> list[float]:
    """Return the scores of vectors in a request over HTTP with lists of numbers."""
    answer = httpx.post(
        f"{service.url}/anomaly-score", json={"model": "vectors", "rows": new.tolist()}, headers=bearer(ADMIN_TOKEN)
    )
    return [item["score"] for item in answer.raise_for_status().json()["items"]]


def test_vectors_have_the_same_scores_over_grpc(service: Served) -> None:
    new = vectors(5, seed=6)
    expected = listed(service, new)
    array = pb.Array(type=pb.Array.FLOAT32, shape=new.shape, content=new.tobytes())
    content = as_npy(new)

    def sent() -> Iterator[pb.ScoreFileRequest]:
        yield pb.ScoreFileRequest(request=pb.ScoreRequest(model="vectors"), kind="npy")
        for start in range(0, len(content), 100):
            yield pb.ScoreFileRequest(chunk=content[start : start + 100])

    with grpc.insecure_channel(service.target) as channel:
        stub = stubs.ManifoldStub(channel)
        keys = (("authorization", f"Bearer {ADMIN_TOKEN}"),)
        answer = stub.AnomalyScore(pb.ScoreRequest(model="vectors", array=array), metadata=keys)
        lines = b"".join(part.lines for part in stub.AnomalyScoreFile(sent(), metadata=keys)).splitlines()
    assert np.allclose([item.score for item in answer.items], expected, atol=1e-5)
    *rows, last = map(json.loads, lines)
    assert np.allclose([row["score"] for row in rows], expected, atol=1e-5)
    assert last["total"]["rows"] == 5


def test_a_file_of_vectors_calibrates(service: Served) -> None:
    """Scores stay, and p-values and thresholds are those of the new rows."""
    path = f"{service.url}/admin/models/vectors/calibrate"
    headers = {"Content-Type": codecs.NPY, **bearer(ADMIN_TOKEN)}
    narrow = httpx.post(path, content=as_npy(vectors(80, seed=7)[:, :-1]), headers=headers)
    assert narrow.status_code == 400
    assert "vectors of 23 numbers, but the model has 24 columns" in narrow.json()["error"]["message"]
    answer = httpx.post(path, content=as_npy(vectors(80, seed=7)), headers=headers, timeout=60)
    assert answer.status_code == 200, answer.text
    assert answer.json()["version"] == 2 and " 80 rows" in answer.json()["done"], answer.text
