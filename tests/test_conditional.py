"""Features that no shipped artifact uses yet, on the fake backend: conditional encoders and decoders, codes, several kinds of noise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from manifold.runtime import checks, imaging, sampling
from manifold.runtime.engine import Model, load
from manifold.runtime.errors import InvalidValue, UnsupportedTask
from manifold.runtime.operations import End
from manifold.service.http.app import create_app
from manifold.service.settings import Settings
from tests.conftest import wait_until_ready

LATENT = {"role": "latent", "source": "latent", "shape": [3]}
CONDITION = {"role": "condition", "source": "condition", "shape": [2]}
DATA_IN = {"role": "data", "source": "data", "shape": [1, 4, 4]}
CODES = {"role": "codes", "dtype": "int64", "shape": [2, 2]}
DATA = {"role": "data", "shape": [1, 4, 4]}
MEAN = [{"role": "mean", "shape": [3]}, {"role": "log_variance", "shape": [3]}]


def task(inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> dict[str, Any]:
    return {"graph": "none", "inputs": inputs, "outputs": outputs}


def artifact(root: Path, **tasks: dict[str, Any]) -> Path:
    folder = root / "fake/1"
    folder.mkdir(parents=True)
    manifest = {
        "name": "fake", "version": 1, "backend": "fake", "data": {"kind": "image", "height": 4, "width": 4, "channels": 1},
        "classes": ["cat", "dog"], "class_prior": [0.25, 0.75], "latent": {"size": 3}, "codes": {"shape": [2, 2], "levels": 2}, "tasks": tasks,
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture
def cvae(tmp_path: Path) -> Model:
    return load(artifact(tmp_path, encode=task([DATA_IN, CONDITION], MEAN), decode=task([LATENT, CONDITION], [DATA])))


def test_reconstruct_under_a_class(cvae: Model) -> None:
    data = np.random.default_rng(0).random((3, 1, 4, 4), np.float32)
    cat, dog = (cvae.reconstruct(data, classes=name).data for name in ("cat", "dog"))
    assert not np.array_equal(cat, dog)
    mixed = cvae.reconstruct(data, classes=["cat", "dog", 0]).data
    assert np.array_equal(mixed[[0, 2]], cat[[0, 2]])
    assert np.array_equal(mixed[1], dog[1])
    by_index = cvae.reconstruct(data, classes={"1": 1.0}).data
    assert np.array_equal(by_index, dog)
    with pytest.raises(InvalidValue) as caught:
        cvae.reconstruct(data)
    assert caught.value.valid == ["cat", "dog"]
    assert checks.run_all(cvae) == []


def test_between_two_classes_the_latent_stays(cvae: Model) -> None:
    path = cvae.interpolate(End(condition="cat"), End(condition="dog"), steps=5, seed=7)
    assert path.seed == 7
    assert (path.latents == path.latents[0]).all()
    assert np.array_equal(path.data[0], cvae.sample(1, seed=7, classes="cat").data[0])
    assert np.array_equal(path.data[-1], cvae.sample(1, seed=7, classes="dog").data[0])
    assert np.array_equal(path.data[2], cvae.sample(1, seed=7, classes={"cat": 0.5, "dog": 0.5}).data[0])
    with pytest.raises(InvalidValue, match=r"start\.class"):
        cvae.interpolate(End(seed=1), End(condition="dog"))


def test_random_classes_follow_the_class_prior(cvae: Model) -> None:
    condition = cvae.sample(4000, seed=0).condition
    assert condition is not None
    assert condition.mean(0).tolist() == pytest.approx([0.25, 0.75], abs=0.02)


def test_a_random_class_of_given_images_is_that_of_seed_0(cvae: Model) -> None:
    data = np.random.default_rng(0).random((8, 1, 4, 4), np.float32)
    drawn = [("cat", "dog")[place] for place in sampling.choice(0, 0, 8, cvae.manifest.class_weights)]
    assert set(drawn) == {"cat", "dog"}
    found, expected = cvae.encode(data, classes="random").mean, cvae.encode(data, classes=drawn).mean
    assert found is not None
    assert expected is not None
    assert np.array_equal(found, expected)


def test_codes_without_a_latent(tmp_path: Path) -> None:
    model = load(
        artifact(tmp_path, encode=task([DATA_IN], [CODES]), decode_codes=task([{**CODES, "source": "codes"}], [DATA]))
    )
    data = np.random.default_rng(0).random((3, 1, 4, 4), np.float32)
    codes = model.encode(data).codes
    assert codes is not None
    assert codes.shape == (3, 2, 2)
    assert np.array_equal(model.reconstruct(data).data, model.sample(3, codes=codes).data)
    with pytest.raises(InvalidValue, match="fake has no prior over its codes, so it cannot draw them"):
        model.sample(1)
    with pytest.raises(UnsupportedTask):
        model.interpolate(End(seed=0), End(seed=1))


def test_several_noises_have_streams_of_their_own(tmp_path: Path) -> None:
    noises = [
        {"role": role, "source": source, "shape": [3]}
        for role, source in (("a", "normal"), ("b", "normal"), ("c", "uniform"))
    ]
    temperature = {"role": "temperature", "source": "temperature", "shape": []}
    model = load(artifact(tmp_path, sample=task([noises[0], LATENT, *noises[1:], temperature, CONDITION], [DATA])))
    seen: dict[str, np.ndarray] = {}
    graph = model.runner.graphs["sample"]

    def spy(given: Any) -> Any:
        seen.update(given)
        return graph(given)

    model.runner.graphs["sample"] = spy
    samples = model.sample(2, seed=5, first=3, classes="dog", temperature=0.5)
    drawn = [seen[name][0].tolist() for name in ("a", "latent", "b", "c")]
    assert len({tuple(values) for values in drawn}) == 4
    assert seen["temperature"].tolist() == [0.5, 0.5]
    assert seen["condition"].tolist() == [[0, 1], [0, 1]]
    given = model.sample(2, seed=5, first=3, classes="dog", temperature=0.5, latents=samples.latents)
    assert np.array_equal(given.data, samples.data)  # a given latent does not shift the other streams


def test_the_wire_carries_classes_and_codes(tmp_path: Path) -> None:
    artifact(
        tmp_path, encode=task([DATA_IN, CONDITION], [*MEAN, CODES]), decode=task([LATENT, CONDITION], [DATA]),
        decode_codes=task([{**CODES, "source": "codes"}], [DATA]),
    )  # fmt: skip
    with TestClient(create_app(Settings(models_dir=tmp_path, default_model="fake"))) as client:
        wait_until_ready(client)
        assert client.get("/models").json()["models"][0]["endpoints"] == [
            "sample",
            "encode",
            "reconstruct",
            "interpolate",
        ]
        mixed = client.post("/sample", json={"n": 2, "class": {"cat": 1, "dog": 3}, "seed": 1}).json()
        assert mixed["classes"] == [{"cat": 0.25, "dog": 0.75}] * 2
        picture = imaging.to_png(np.zeros((1, 4, 4), np.uint8))
        for form in ({"class": "dog"}, {"class": "1"}, {"class": '["dog"]'}, {"class": '{"dog": 2}'}):
            for answer in (
                client.post("/reconstruct", data=form, files={"file": ("x.png", picture)}),
                client.post("/reconstruct", params=form, content=picture, headers={"content-type": "image/png"}),
            ):
                assert answer.status_code == 200, answer.text
        codes = [[[0, 1], [1, 0]]]
        assert "seed" not in client.post("/sample", json={"codes": codes}).json()
        for wrong in ([[[0, 2], [1, 0]]], [[[0.5, 1], [1, 0]]], [[0, 1]], []):
            assert client.post("/sample", json={"codes": wrong}).status_code == 422
        path = {"from": {"class": "cat"}, "to": {"class": {"dog": 1}}, "steps": 3}
        assert client.post("/interpolate", json=path).json()["seed"] >= 0
        refused = client.post("/interpolate", json={"from": {"seed": 1}, "to": {"class": "dog"}})
        assert refused.json()["error"]["valid"] == ["cat", "dog"]
        assert client.post("/anomaly-score", json={"images": [""]}).status_code == 409
