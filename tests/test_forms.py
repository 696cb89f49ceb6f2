"""Several outputs, several latents, and numbers by name, in the library and over REST."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from manifold.runtime import imaging, operations
from manifold.runtime.engine import Model, load
from manifold.runtime.manifest import Manifest
from manifold.runtime.operations import End, supports
from manifold.runtime.operations.common import by_role
from manifold.service.core import contract
from tests import forms, tabled
from tests.forms import ask, pixels, png, refused

# --- several outputs ---


def test_items_of_several_outputs_are_named_by_role(forms_client: TestClient, forms_models: dict[str, Model]) -> None:
    made = ask(forms_client, "/sample", n=2, seed=7)
    assert list(made["items"]) == ["picture", "facts"]
    assert set(made) == {"model", "version", "seed", "first", "items"}
    samples = forms_models["named"].sample(2, seed=7)
    spec = forms_models["named"].manifest.spec_of("facts")
    assert made["items"]["facts"]["rows"] == spec.write(samples.others["facts"], "png", None, lambda x: x)["rows"]
    shown = imaging.to_uint8(samples.data, forms_models["named"].manifest.spec)  # type: ignore[arg-type]
    assert np.array_equal(np.stack([pixels(text) for text in made["items"]["picture"]["images"]]), shown[:, 0])
    numbers = ask(forms_client, "/sample", n=2, seed=7, encoding="array")["items"]
    assert np.allclose(numbers["picture"]["data"], samples.data) and numbers["facts"] == made["items"]["facts"]


def test_files_have_the_first_output(forms_client: TestClient, forms_models: dict[str, Model]) -> None:
    samples = forms_models["named"].sample(1, seed=7)
    for media_type in ("image/png", "image/webp", "application/x-npy"):
        answer = forms_client.post("/sample", json={"seed": 7}, headers={"accept": media_type})
        if media_type == "application/x-npy":
            assert np.array_equal(np.load(io.BytesIO(answer.content)), samples.data)
        else:
            assert Image.open(io.BytesIO(answer.content)).size == (3, 2)


def test_reconstructions_and_paths_have_all_outputs(forms_client: TestClient) -> None:
    images = [png(1), png(2)]
    for path, fields, n in (
        ("/reconstruct", {"images": images}, 2),
        ("/interpolate", {"from": {"image": images[0]}, "to": {"seed": 3}, "steps": 5}, 5),
    ):
        items = ask(forms_client, path, **fields)["items"]
        assert {role: len(next(iter(made.values()))) for role, made in items.items()} == {"picture": n, "facts": n}


def test_a_stream_has_the_outputs_latents_and_conditions_of_each_item(forms_client: TestClient) -> None:
    whole = ask(forms_client, "/sample", n=5, seed=7, return_latents=True)
    answer = forms_client.post(
        "/sample", json={"n": 5, "seed": 7, "return_latents": True}, headers={"accept": "application/x-ndjson"}
    )
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert lines[-1]["total"] == 5
    for place, line in enumerate(lines[:-1]):
        assert line["items"] == {
            "picture": {"image": whole["items"]["picture"]["images"][place]},
            "facts": {"row": whole["items"]["facts"]["rows"][place]},
        }
        assert line["named_latents"] == {role: rows[place] for role, rows in whole["named_latents"].items()}


# --- several latents ---


def test_latents_depend_on_seed_and_index_alone(forms_models: dict[str, Model]) -> None:
    for name in ("named", "shaped"):
        options: dict[str, Any] = {"prior": "two"} if name == "named" else {}
        whole = forms_models[name].sample(20, seed=5, **options)
        for first, n in ((0, 1), (7, 3), (19, 1)):
            part = forms_models[name].sample(n, seed=5, first=first, **options)
            assert np.array_equal(part.data, whole.data[first : first + n])
        shapes = {role: latents.shape for role, latents in by_role(forms_models[name].manifest, whole.latents).items()}
        assert shapes == {role: (20, *latent.dims) for role, latent in forms_models[name].manifest.latents.items()}


def test_each_latent_has_priors_of_its_own(forms_client: TestClient, forms_models: dict[str, Model]) -> None:
    normal = forms_models["named"].sample(400, seed=1).latents
    # `place` has no such prior, so it keeps its default
    two = forms_models["named"].sample(400, seed=1, prior="two").latents
    assert normal is not None and two is not None
    assert np.array_equal(normal["place"], two["place"])
    assert abs(float(normal["texture"].mean())) < 0.1 and float(np.abs(two["texture"].mean(axis=(1, 2, 3))).min()) > 1.5
    # each latent has its own noise
    assert np.corrcoef(normal["place"][:, 0], normal["texture"][:, 0, 0, 0])[0, 1] < 0.2
    field, said = refused(forms_client, "/sample", prior="three")
    assert field == "prior" and "no prior 'three'" in said


def test_latents_are_given_and_returned_by_name(forms_client: TestClient, forms_models: dict[str, Model]) -> None:
    made = ask(forms_client, "/sample", n=2, seed=7, return_latents=True)
    latents = made["named_latents"]
    again = ask(forms_client, "/sample", named_latents=latents)
    assert again["items"]["facts"] == made["items"]["facts"] and "seed" not in again
    partly = ask(forms_client, "/sample", named_latents={"place": latents["place"]}, seed=7)
    assert partly["items"]["facts"] == made["items"]["facts"]  # the other latent is drawn as before
    for wrong, field in (
        ({"latents": [[0, 0]]}, "latents"),
        ({"named_latents": {"style": [[0, 0]]}}, "named_latents.style"),
        ({"named_latents": {"place": [[0, 0, 0]]}}, "named_latents.place"),
        ({"named_latents": {**latents, "place": [[0, 0]]}}, "named_latents"),
        ({"named_latents": latents, "n": 3}, "n"),
        ({"named_latents": latents, "prior": "two"}, "prior"),
    ):
        assert refused(forms_client, "/sample", **wrong)[0].startswith(field)
    assert (
        refused(forms_client, "/sample", model="shaped", named_latents={"latent": [[0, 0]]})[0]
        == "named_latents.latent"
    )


def test_posteriors_are_by_name(forms_client: TestClient, forms_models: dict[str, Model]) -> None:
    images = [png(1), png(2)]
    plain = ask(forms_client, "/encode", images=images)["posteriors"]
    assert {role: set(parts) for role, parts in plain.items()} == {
        "place": {"mean", "log_variance"}, "texture": {"mean"}
    }  # fmt: skip
    drawn = ask(forms_client, "/encode", images=images, seed=3)["posteriors"]
    assert drawn["texture"]["latents"] == drawn["texture"]["mean"]  # this latent has no variance
    alone = ask(forms_client, "/encode", images=images[1:], seed=3, first=1)["posteriors"]
    assert alone["place"]["latents"][0] == drawn["place"]["latents"][1] != drawn["place"]["mean"][1]


def test_paths_between_named_latents(forms_client: TestClient, forms_models: dict[str, Model]) -> None:
    made = ask(forms_client, "/sample", n=2, seed=7, return_latents=True)
    ends = [{role: rows[i] for role, rows in made["named_latents"].items()} for i in (0, 1)]
    path = ask(
        forms_client, "/interpolate", **{"from": {"named_latent": ends[0]}, "to": {"named_latent": ends[1]}, "steps": 3}
    )
    rows = made["items"]["facts"]["rows"]
    assert [path["items"]["facts"]["rows"][i] for i in (0, 2)] == rows
    middle = np.asarray(path["named_latents"]["texture"])[1]  # this latent's path is a straight line
    assert np.allclose(middle, np.mean([end["texture"] for end in ends], axis=0), atol=1e-6)
    seeded = ask(forms_client, "/interpolate", **{"from": {"seed": 7}, "to": {"seed": 7, "first": 1}, "steps": 3})
    assert seeded["named_latents"] == path["named_latents"]
    partly = {"from": {"named_latent": {"place": [0, 1]}}, "to": {"seed": 9}}
    with_seed = ask(forms_client, "/interpolate", **partly, seed=4)
    assert with_seed["seed"] == 4 and with_seed["named_latents"]["place"][0] == [0, 1]
    chosen = ask(forms_client, "/interpolate", **partly)
    assert ask(forms_client, "/interpolate", **partly, seed=chosen["seed"]) == chosen


def test_a_latent_with_a_shape(forms_client: TestClient, forms_models: dict[str, Model]) -> None:
    made = ask(forms_client, "/sample", model="shaped", n=2, seed=1, **{"class": "dog"}, return_latents=True)
    assert np.asarray(made["latents"]).shape == (2, 2, 3)
    again = ask(forms_client, "/sample", model="shaped", latents=made["latents"], **{"class": "dog"})
    assert [pixels(text).tolist() for text in again["images"]] == [pixels(text).tolist() for text in made["images"]]
    encoded = ask(forms_client, "/encode", model="shaped", images=[png(1)], seed=2)
    assert np.asarray(encoded["latents"]).shape == (1, 2, 3)
    ends = {
        "from": {"latent": made["latents"][0], "class": "cat"},
        "to": {"latent": made["latents"][1], "class": "owl"},
    }
    path = ask(forms_client, "/interpolate", model="shaped", **ends, steps=3)
    assert np.asarray(path["latents"]).shape == (3, 2, 3)
    assert np.asarray(path["latents"])[0].tolist() == made["latents"][0]


# --- numbers ---


def test_numbers_have_defaults_and_may_differ_by_item(forms_client: TestClient, forms_models: dict[str, Model]) -> None:
    def made(**inputs: Any) -> list[str]:
        answer = ask(
            forms_client, "/sample", model="numbered", n=2, seed=1, **{"class": "cat"}, inputs=inputs, encoding="array"
        )
        images: list[str] = answer["data"]
        return images

    default = made()
    assert made(guidance=7.5, steps=8) == default == made(guidance=[7.5, 7.5])
    each, high = made(guidance=[7.5, 3]), made(guidance=3)
    assert each[0] == default[0] and each[1] == high[1] != default[1]
    assert made(steps=9) != default
    samples = forms_models["numbered"].sample(2, seed=1, classes="cat", numbers={"guidance": np.asarray([7.5, 3])})
    assert np.allclose(samples.data, each)


@pytest.mark.parametrize(
    ("inputs", "field", "message"),
    [
        ({"guidance": 21}, "inputs.guidance", "21 is out of range; give a number from 0 to 20"),
        (
            {"guidance": [1, 2, 3]},
            "inputs.guidance",
            "inputs.guidance: 3 numbers for 2 items; give one, or one per item",
        ),
        ({"guidance": []}, "inputs.guidance", "inputs.guidance: 0 numbers for 2 items"),
        ({"steps": 2.5}, "inputs.steps", "is not a whole number"),
        ({"steps": 0}, "inputs.steps", "a number from 1 to 50"),
        ({"scale": 1}, "inputs.scale", "has no input 'scale'; it takes guidance, steps"),
        ({"guidance": "high"}, "inputs.guidance", "number"),
        ({"guidance": None}, "inputs.guidance", "number"),
    ],
)
def test_numbers_that_are_wrong(forms_client: TestClient, inputs: dict[str, Any], field: str, message: str) -> None:
    found, said = refused(forms_client, "/sample", model="numbered", n=2, inputs=inputs)
    assert found.startswith(field) and message in said


def test_numbers_on_every_endpoint(forms_client: TestClient) -> None:
    images = [png(1), png(2)]
    cat, own = {"class": "cat"}, {"spread": [1, 2]}
    need = refused(forms_client, "/encode", model="numbered", images=images)
    assert need == ("inputs.spread", "inputs.spread: is missing; give a number of at least 0")
    assert ask(forms_client, "/encode", model="numbered", images=images, inputs=own)
    requests: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
        ("/reconstruct", {"images": images, **cat}, own),
        ("/interpolate", {"from": {"image": images[0], **cat}, "to": {"seed": 1, **cat}, "steps": 3}, {"spread": 1}),
        ("/anomaly-score", {"images": images, "explain": True}, {}),
        ("/anomaly-score", {"images": images, **cat}, {}),
        ("/classify", {"images": images}, {}),
        ("/impute", {"images": images, "masks": [png(8)], "seed": 1, "candidates": 2}, {}),
        ("/impute", {"images": images, "masks": [png(8)], "seed": 1, **cat, "encoding": "array"}, {}),
    ]
    for path, fields, needed in requests:
        plain = ask(forms_client, path, model="numbered", **fields, inputs=needed)
        count = 3 if path == "/interpolate" else 2
        stated = ask(forms_client, path, model="numbered", **fields, inputs={**needed, "guidance": [7.5] * count})
        assert stated == plain, path
        if "candidates" not in fields:  # with candidates, the same one may be chosen
            other = ask(
                forms_client, path, model="numbered", **fields, inputs={**needed, "guidance": [7.5] * (count - 1) + [2]}
            )
            assert other != plain, path


def test_a_task_by_itself_on_the_library(forms_models: dict[str, Model]) -> None:
    model = forms_models["named"]
    made = model.run("translate", {"picture": np.zeros((2, 1, 2, 3), np.float32)})
    assert made["target"].shape == (2, 1, 4, 6) and model.manifest.spec_of("target").shape == (1, 4, 6)
    path = model.interpolate(End(seed=1), End(seed=2), steps=3)
    assert path.others is not None and path.others["facts"].shape == (3, 4)


@pytest.mark.parametrize("field", ["inputs", "conditions"])
def test_a_file_of_rows_comes_without_other_inputs(tmp_path: Path, field: str) -> None:
    tabled.write(tmp_path)
    with forms.client(tmp_path) as client:
        query = {"model": "rows", field: "{}"}
        answer = client.post(
            "/anomaly-score", content=tabled.HEADER + tabled.ROW, params=query, headers={"content-type": "text/csv"}
        )
        assert answer.status_code == 422 and answer.json()["error"]["field"] == field


def test_items_with_several_outputs_are_filled_in(forms_client: TestClient, forms_models: dict[str, Model]) -> None:
    images = [png(1), png(2)]
    made = ask(forms_client, "/impute", model="completing", images=images, masks=[png(8)], seed=1, candidates=3)
    assert {role: len(part["images"]) for role, part in made["items"].items()} == {"picture": 2, "other": 2}
    given = np.stack([pixels(each)[None] for each in images]) / np.float32(255)
    mask = np.repeat((pixels(png(8)) > 127)[None, None], 2, axis=0)
    whole = forms_models["completing"].impute(given.astype(np.float32), mask, seed=1, candidates=3)
    assert np.array_equal(whole.data[mask], given.astype(np.float32)[mask])
    candidates = forms_models["completing"].impute(given.astype(np.float32), np.zeros_like(mask), seed=1, candidates=1)
    assert candidates.others["other"].shape == whole.others["other"].shape == (2, 1, 2, 3)


@pytest.mark.parametrize("model", ["named", "shaped"])
def test_no_latents_by_name_are_none(forms_client: TestClient, model: str) -> None:
    field, said = refused(forms_client, "/sample", model=model, named_latents={})
    assert field == "named_latents" and "at least one is needed" in said and "remove the field" in said
    field, _ = refused(forms_client, "/interpolate", model=model, **{"from": {"named_latent": {}}, "to": {"seed": 1}})
    assert field == "from.named_latent"


@pytest.mark.parametrize(
    ("inputs", "wrong"),
    [
        ({"guidance": 1e300}, "inputs.guidance: 1e+300 is out of range; give a number from 0 to 20"),
        ({"spread": 1e300}, "inputs.spread: 1e+300 is out of range; give a number from -3.40282e+38 to 3.40282e+38"),
    ],
)
def test_numbers_that_no_tensor_holds_are_refused(
    forms_client: TestClient, inputs: dict[str, float], wrong: str
) -> None:
    task = {"images": [png(1)]} if "spread" in inputs else {"n": 1}
    path = "/encode" if "spread" in inputs else "/sample"
    assert refused(forms_client, path, model="numbered", inputs=inputs, **task) == (wrong.split(":")[0], wrong)


def test_a_path_counts_the_numbers_of_its_encoder(forms_client: TestClient) -> None:
    ends = {"from": {"image": png(1), "class": "cat"}, "to": {"image": png(2), "class": "cat"}, "steps": 3}
    assert ask(forms_client, "/interpolate", model="numbered", inputs={"spread": [1, 2, 3]}, **ends)
    wrong = refused(forms_client, "/interpolate", model="numbered", inputs={"spread": [1, 2]}, **ends)
    assert wrong == ("inputs.spread", "inputs.spread: 2 numbers for 3 items; give one, or one per item")


def test_rows_are_filled_in_where_the_decoder_gets_every_latent(tmp_path: Path) -> None:
    columns = {"data": forms.TABLE, "latent": {"a": {"size": 2}, "b": {"size": 2}}}
    data = forms.given("data", [4], "data", missing=True)
    latents = [forms.given("a", [2], "latent"), forms.given("b", [2], "latent")]
    for means, offered in ((["a.mean"], False), (["a.mean", "b.mean"], True)):
        tasks = {
            "encode": forms.task([data], {role: [2] for role in means}),
            "decode": forms.task(latents, {"data": [4]}),
        }
        name = f"with{len(means)}"
        model = load(forms.write(tmp_path, forms.manifest(name, tasks, **columns)))
        assert supports(model.manifest, "impute") == offered
        if offered:
            rows = np.asarray([[np.nan, 0, 1, 0]], np.float32)
            whole = operations.drive(operations.impute(model.manifest, rows), zeros(model.manifest))
            assert np.array_equal(whole.data, [[0, 0, 1, 0]])


def zeros(manifest: Manifest) -> Any:
    """Return a function that runs a task and returns zeros."""
    return lambda task, inputs: {
        tensor.role: np.zeros((len(next(iter(inputs.values()))), *tensor.shape), np.float32)
        for tensor in manifest.tasks[task].outputs
    }


# --- their entries in GET /models ---


def test_models_have_outputs_conditions_and_numbers_by_name(forms_client: TestClient) -> None:
    listed = {each["name"]: each for each in forms_client.get("/models").json()["models"]}
    for name, summary in listed.items():
        whole = forms_client.get(f"/models/{name}").json()
        assert {key: whole[key] for key in summary} == summary
        assert summary["endpoints"] and whole["format"] == 1
    picture, facts = listed["named"]["items"].values()
    assert list(listed["named"]["items"]) == ["picture", "facts"] and picture == listed["named"]["data"]
    assert (picture["field"], picture["media_types"]) == ("images", ["image/png", "image/webp"])
    assert (facts["kind"], facts["field"], facts["media_types"]) == ("table", "rows", [])
    assert [column["name"] for column in facts["columns"]] == ["price", "kind", "weight"]
    assert listed["several"]["conditioned"] == {
        "label": {"kind": "classes", "names": forms.CLASSES}, "pose": {"kind": "values", "names": ["angle"]},
        "caption": {"kind": "text"}, "look": {"kind": "item", "data": listed["several"]["data"]},
    }  # fmt: skip
    guidance = {"name": "guidance", "kind": "number", "default": 7.5, "minimum": 0, "maximum": 20}
    steps = {"name": "steps", "kind": "integer", "default": 8, "minimum": 1, "maximum": 50}
    spread = {"name": "spread", "kind": "number", "default": None, "minimum": 0, "maximum": None}
    assert listed["numbered"]["inputs"] == [
        {**guidance, "task": "decode"}, {**steps, "task": "decode"}, {**spread, "task": "encode"},
        {**guidance, "task": "score"}, {**guidance, "task": "impute"},
    ]  # fmt: skip


def test_the_short_forms_have_the_fields_that_they_had(forms_client: TestClient) -> None:
    listed = {each["name"]: each for each in forms_client.get("/models").json()["models"]}
    shaped, measured = listed["shaped"], listed["measured"]
    assert (shaped["classes"], shaped["conditions"], shaped["items"], shaped["inputs"]) == (
        forms.CLASSES,
        None,
        None,
        [],
    )
    assert shaped["conditioned"] == {"condition": {"kind": "classes", "names": forms.CLASSES}}
    assert (measured["classes"], measured["conditions"]) == (None, ["angle", "size"])
    assert measured["conditioned"] == {"condition": {"kind": "values", "names": ["angle", "size"]}}
    assert {"kind": "image", "height": 2, "width": 3, "channels": 1}.items() <= shaped["data"].items()
    assert listed["named"]["conditioned"] == {}


def test_names_of_the_summary_hide_no_more_of_the_manifest() -> None:
    """GET /models/NAME merges the manifest's fields with the summary's. No new name may be in both, since the summary's short form would hide it."""
    hidden = set(contract.ModelSummary.model_fields) & set(Manifest.model_fields)
    assert hidden == {
        "name",
        "version",
        "family",
        "description",
        "tasks",
        "classes",
        "conditions",
        "data",
        "reproducible",
        "files",  # those of the manifest are not public
    }
