"""Options without any effect are refused over every transport, with a list of the options that have one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient
from typer.testing import CliRunner

from manifold import cli
from manifold.runtime import codecs, recipes
from manifold.runtime.engine import Model, load
from manifold.runtime.errors import InvalidValue, RequestError
from manifold.service.core import use_cases
from manifold.service.core.validation import validate
from manifold.service.rpc import messages
from manifold.service.stubs import manifold_pb2 as pb
from tests import forms, tabled
from tests.conftest import wait_until_ready
from tests.forms import ask, png, refused

IMAGES = [png(1)]
ROWS = [{"price": 1.5, "kind": "small", "weight": 70}]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("forms")
    forms.all_forms(folder)
    tabled.write(folder)
    forms.write(folder, plain())
    forms.write(folder, rowed())
    return folder


def plain() -> dict[str, Any]:
    """Return a model with noise as its only input: no latent, no condition, no number."""
    score = forms.task([forms.given("data", [1, 2, 3])], {"odd": []})
    return forms.manifest(
        "plain",
        {"sample": forms.task([forms.given("noise", [3], "normal")], {"data": [1, 2, 3]}), "score": score},
        scoring={"score": "odd", "terms": [{"name": "odd", "kind": "nll"}]},
    )


def rowed() -> dict[str, Any]:
    """Return a model of rows that encodes, decodes and imputes."""
    latent, data = forms.given("latent", [2]), forms.given("data", [4], missing=True)
    tasks = {"decode": forms.task([latent], {"data": [4]}), "encode": forms.task([data], {"mean": [2]})}
    return forms.manifest("rowed", tasks, data=forms.TABLE, latent={"size": 2})


@pytest.fixture(scope="module")
def client(root: Path) -> Iterator[TestClient]:
    with forms.client(root) as client:
        wait_until_ready(client)
        yield client


@pytest.fixture(scope="module")
def models(root: Path) -> dict[str, Model]:
    return {path.name: load(path) for path in root.iterdir()}


LATENTS: dict[str, Any] = {"place": [[0.5, -1]], "texture": [[[[0.5] * 2] * 2] * 2]}
PARTS = [f"conditions.{name}" for name in ("label", "pose", "caption", "look")]
NO_EFFECT: list[tuple[str, str, dict[str, Any], str]] = [
    ("sample", "plain", {"temperature": 0.5}, "temperature"),
    ("sample", "plain", {"temperature": 1.0}, "temperature"),
    ("sample", "plain", {"temperature": 1, "seed": 3}, "temperature"),
    ("sample", "plain", {"prior": "normal"}, "prior"),
    ("sample", "plain", {"class": "cat"}, "class"),
    ("sample", "plain", {"class": "random"}, "class"),
    ("sample", "plain", {"condition": [1]}, "condition"),
    ("sample", "plain", {"conditions": {"x": {"class": "cat"}}}, "conditions"),
    ("sample", "plain", {"inputs": {"truncation": 0.5}}, "inputs.truncation"),
    ("sample", "plain", {"return_latents": True}, "return_latents"),
    ("sample", "measured", {"temperature": 2}, "temperature"),
    ("sample", "measured", {"prior": "normal"}, "prior"),
    ("sample", "named", {"named_latents": LATENTS, "temperature": 0.5}, "temperature"),
    ("sample", "named", {"named_latents": LATENTS, "prior": "two"}, "prior"),
    ("sample", "shaped", {"class": "cat", "latents": [[[0.5] * 3] * 2], "temperature": 0.5}, "temperature"),
    ("sample", "rowed", {"encoding": "array"}, "encoding"),
    ("sample", "rowed", {"encoding": "png"}, "encoding"),
    ("reconstruct", "rowed", {"rows": ROWS, "encoding": "array"}, "encoding"),
    ("reconstruct", "rowed", {"rows": ROWS, "fit": "strict"}, "fit"),
    ("reconstruct", "rowed", {"rows": ROWS, "target_class": "cat"}, "target_class"),
    ("reconstruct", "named", {"images": IMAGES, "target_condition": [1]}, "target_condition"),
    ("encode", "rowed", {"rows": ROWS, "fit": "contain"}, "fit"),
    ("encode", "rowed", {"rows": ROWS, "class": "cat"}, "class"),
    ("encode", "rowed", {"rows": ROWS, "inputs": {"x": 1}}, "inputs.x"),
    ("interpolate", "rowed", {"from": {"seed": 1}, "to": {"seed": 2}, "fit": "strict"}, "fit"),
    ("interpolate", "rowed", {"from": {"seed": 1}, "to": {"seed": 2}, "encoding": "png"}, "encoding"),
    ("interpolate", "shaped", {"from": {"seed": 1, "class": "cat"}, "to": {"seed": 2, "class": "cat"}, "fit": "strict"}, "fit"),
    ("interpolate", "rowed", {"from": {"seed": 1, "class": "cat"}, "to": {"seed": 2}}, "from.class"),
    ("anomaly-score", "rows", {"rows": ROWS, "fit": "strict"}, "fit"),
    ("anomaly-score", "rows", {"rows": ROWS, "explain": True}, "explain"),
    ("anomaly-score", "plain", {"images": IMAGES, "explain": True}, "explain"),
    ("anomaly-score", "rows", {"rows": ROWS, "class": "cat"}, "class"),
    ("impute", "rowed", {"rows": ROWS, "masks": IMAGES}, "masks"),
    ("impute", "rowed", {"rows": ROWS, "candidates": 4}, "candidates"),
    ("impute", "rowed", {"rows": ROWS, "candidates": 8}, "candidates"),
    ("impute", "rowed", {"rows": ROWS, "temperature": 0.5}, "temperature"),
    ("impute", "rowed", {"rows": ROWS, "encoding": "array"}, "encoding"),
    ("impute", "rowed", {"rows": ROWS, "fit": "strict"}, "fit"),
    ("impute", "completing", {"images": IMAGES, "masks": IMAGES, "temperature": 0.5}, "temperature"),
    ("impute", "numbered", {"images": IMAGES, "masks": IMAGES, "temperature": 1}, "temperature"),
    ("classify", "numbered", {"images": IMAGES, "inputs": {"steps": 3}}, "inputs.steps"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "model", "fields", "field"), NO_EFFECT, ids=lambda value: str(value)[:30])
def test_an_option_without_effect_is_refused(
    client: TestClient, path: str, model: str, fields: dict[str, Any], field: str
) -> None:
    answer = client.post(f"/{path}", json={"model": model, **fields})
    assert answer.status_code == 422, answer.text
    error = answer.json()["error"]
    assert error["field"] == field
    known = (
        "it has no effect, because",
        "no latent is drawn",
        "takes no condition",
        "has no classes; remove it",
        "has no input",
        "missing values with null",
    )
    assert any(words in error["message"] for words in known)


@pytest.mark.parametrize(
    ("model", "fields", "valid"),
    [
        ("plain", {"temperature": 2}, []),
        ("measured", {"temperature": 2}, ["condition"]),
        ("numbered", {"class": "cat", "latents": [[0, 1]], "temperature": 2}, ["class", "inputs.guidance", "inputs.steps"]),
        ("several", {"latents": [[0, 1]], "prior": "x", "conditions": {"look": {"images": IMAGES}}}, PARTS),
    ],
)  # fmt: skip
def test_the_options_that_have_an_effect_are_listed(
    client: TestClient, model: str, fields: dict[str, Any], valid: list[str]
) -> None:
    error = client.post("/sample", json={"model": model, **fields}).json()["error"]
    assert error["valid"] == valid, error


def test_a_seed_that_nothing_is_drawn_from_is_accepted(client: TestClient) -> None:
    """The rule for `seed` and `first`: they are harmless, and the answer has no seed."""
    for path, fields in (
        ("sample", {"model": "shaped", "class": "cat", "latents": [[[0.5] * 3] * 2], "seed": 3, "first": 2}),
        ("interpolate", {"model": "rowed", "from": {"latent": [0, 1]}, "to": {"latent": [1, 0]}, "seed": 3}),
    ):
        assert ask(client, f"/{path}", **fields).get("seed") is None
    assert "has no effect" in refused(client, "/sample", model="plain", seed=3, temperature=1)[1]


def test_options_that_have_an_effect_go_through(client: TestClient) -> None:
    one = ask(client, "/sample", model="named", seed=1, named_latents={"place": LATENTS["place"]}, temperature=0.5)
    other = ask(client, "/sample", model="named", seed=1, named_latents={"place": LATENTS["place"]}, temperature=1)
    assert one["items"] != other["items"]
    assert ask(
        client, "/reconstruct", model="shaped", images=IMAGES, fit="strict", encoding="array", **{"class": "cat"}
    )["data"]


def test_fit_has_no_effect_on_an_array(client: TestClient) -> None:
    array, kind = codecs.to_npy(np.zeros((1, 1, 2, 3), np.float32)), {"content-type": codecs.NPY}
    fields = {"model": "shaped", "class": "cat"}
    assert client.post("/encode", params=fields, content=array, headers=kind).status_code in (200, 422)
    answer = client.post("/encode", params={**fields, "fit": "strict"}, content=array, headers=kind)
    assert (answer.status_code, answer.json()["error"]["field"]) == (422, "fit")


def test_an_explanation_of_a_file_of_rows_needs_nats(client: TestClient) -> None:
    content = tabled.HEADER + tabled.ROW
    kind = {"content-type": "text/csv"}
    answer = client.post("/anomaly-score", params={"model": "rows", "explain": "true"}, content=content, headers=kind)
    assert (answer.status_code, answer.json()["error"]["field"]) == (422, "explain")
    answer = client.post("/anomaly-score", params={"model": "rows", "fit": "strict"}, content=content, headers=kind)
    assert (answer.status_code, answer.json()["error"]["field"]) == (422, "fit")


def test_the_library_raises_the_same_errors(models: dict[str, Model]) -> None:
    for name, options, field in (
        ("plain", {"temperature": 0.5}, "temperature"), ("plain", {"prior": "normal"}, "prior"), ("plain", {"classes": "cat"}, "classes"),
        ("measured", {"temperature": 1.0}, "temperature"), ("rowed", {"latents": np.zeros((1, 2), np.float32), "temperature": 1.0}, "temperature"),
    ):  # fmt: skip
        with pytest.raises(RequestError) as caught:
            models[name].sample(1, **options)
        assert caught.value.field == field
    data, mask = np.zeros((1, 1, 2, 3), np.float32), np.ones((1, 1, 2, 3), np.float32)
    with pytest.raises(InvalidValue, match="temperature: it has no effect, because completing has no input"):
        models["completing"].impute(data, mask, temperature=1.0)


def test_over_grpc_what_is_set_counts_as_stated() -> None:
    """A message field that is unset or empty counts as not given. A set field counts as given, even with its default value."""
    for message, stated in (
        (pb.SampleRequest(model="plain"), {"model"}), (pb.SampleRequest(model="plain", temperature=1), {"model", "temperature"}),
        (pb.SampleRequest(encoding=""), set()), (pb.SampleRequest(encoding="png"), {"encoding"}),
    ):  # fmt: skip
        fields, _ = messages.request(message)
        assert validate(use_cases.every["sample"].request, fields).model_fields_set == stated


def test_recipes_are_made_again_whatever_temperature_they_hold(models: dict[str, Model]) -> None:
    """Every recipe has a temperature. In older ones it may have had no effect."""
    model = models["plain"]
    (recipe,) = recipes.for_samples(model.manifest, model.checksum, model.sample(1, seed=3), {"first": 0})
    assert recipe["temperature"] == 1.0
    assert recipes.remake(model, recipe) == recipes.remake(model, {**recipe, "temperature": 0.5})


# --- the command line ---


def run(root: Path, *arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(cli.app, [*arguments, "--models", str(root)])
    return done.exit_code, str(done.exception or done.output)


def test_the_command_refuses_them_too(root: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "x.png")
    for options, said in (
        (["--temperature", "0.5"], "temperature: it has no effect, because plain"), (["--prior", "normal"], "prior: no latent is drawn"),
        (["--class", "cat"], "class: plain has no classes"),
    ):  # fmt: skip
        code, message = run(root, "sample", "plain", "-n", "1", "-o", out, *options)
        assert code == 1 and said in message
    assert not (tmp_path / "x.png").exists()
    assert run(root, "sample", "plain", "-n", "1", "-o", out)[0] == 0
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("model", "name", "legal"),
    [
        ("plain", "x.png", True), ("plain", "x.PNG", True), ("plain", "x.jpg", False), ("plain", "x.csv", False), ("plain", "x", False),
        ("plain", "x.webp", False), ("plain", ".png", False), ("rowed", "x.csv", True), ("rowed", "x.png", False), ("rowed", "x.parquet", False),
    ],
)  # fmt: skip
def test_the_suffix_of_an_output_is_that_of_its_format(
    root: Path, tmp_path: Path, model: str, name: str, legal: bool
) -> None:
    code, message = run(root, "sample", model, "-n", "1", "-o", str(tmp_path / name))
    assert (code == 0) is legal is (tmp_path / name).exists(), message
    assert legal or f"written as {'.csv' if model == 'rowed' else '.png'}" in message


def test_the_suffix_of_a_picture_that_is_made_again(root: Path, tmp_path: Path) -> None:
    picture = tmp_path / "x.png"
    assert run(root, "sample", "plain", "-n", "1", "-o", str(picture))[0] == 0
    code, message = run(root, "remake", str(picture), "-o", str(tmp_path / "y.jpg"))
    assert code == 1 and "y.jpg: pictures are written as .png, not as .jpg" in message
    assert run(root, "remake", str(picture), "-o", str(tmp_path / "y.png"))[0] == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("{images}", "--part", "test"), "--part: this option is for data sets, and all images of"),
        (("--images", "{images}", "--part", "train"), "--part: this option is for data sets, and all images of"),
        (("--data", "digits", "--skip-unreadable"), "--skip-unreadable: this option is for folders of images"),
        (("{images}/a.npy", "--skip-unreadable"), "--skip-unreadable: this option is for folders of images"),
    ],
)
def test_options_of_a_reference_that_change_nothing(
    root: Path, tmp_path: Path, options: tuple[str, ...], said: str
) -> None:
    given = [option.format(images=tmp_path) for option in options]
    code, message = run(root, "reference", *given, "--extractor", "plain", "-o", str(tmp_path / "x.npz"))
    assert code == 1 and said in message


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("reference", "--data", "digits", "--extractor", "plain", "-o", "x.json"), "statistics are written as .npz, not as .json"),
        (("compress", "a.png", "--model", "plain", "-o", "x.png"), "codes are written as .mfc, not as .png"),
    ],
)  # fmt: skip
def test_suffixes_of_statistics_and_codes(root: Path, arguments: tuple[str, ...], said: str) -> None:
    code, message = run(root, *arguments)
    assert code == 1 and said in message
