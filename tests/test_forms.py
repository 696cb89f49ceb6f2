"""The long forms of the manifest in the library and over REST: several outputs, latents and conditions, and numbers."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from manifold.runtime import imaging, operations, recipes
from manifold.runtime.conditions import ByClass, ByItem, BySeveral, ByText, ByValues, One
from manifold.runtime.engine import Model, load
from manifold.runtime.errors import InvalidValue
from manifold.runtime.kinds import Reading
from manifold.runtime.operations import End
from manifold.runtime.operations.common import by_role
from manifold.service.http.app import create_app
from manifold.service.settings import Settings
from tests import forms
from tests.conftest import wait_until_ready
from tests.forms import CLASSES, LONGEST, TEXTS, png

NAMES = ("named", "shaped", "measured", "captioned", "free", "several", "numbered")
LOOK = {"images": [png(0)]}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("forms")
    forms.all_forms(folder)
    return folder


@pytest.fixture(scope="module")
def models(root: Path) -> dict[str, Model]:
    return {name: load(root / name) for name in NAMES}


@pytest.fixture(scope="module")
def client(root: Path) -> Iterator[TestClient]:
    with TestClient(create_app(Settings(models_dir=root, default_model="named", grpc_port=0, max_items=64))) as client:
        wait_until_ready(client)
        yield client


def ask(client: TestClient, path: str, **fields: Any) -> dict[str, Any]:
    """Return the answer to a request, without what differs between two of them."""
    answer = client.post(path, json=fields)
    assert answer.status_code == 200, answer.text
    return {name: value for name, value in answer.json().items() if name not in ("request_id", "timing")}


def refused(client: TestClient, path: str, **fields: Any) -> tuple[str, str]:
    """Return the field and the message of a request with a wrong value."""
    answer = client.post(path, json=fields)
    assert answer.status_code == 422, answer.text
    error = answer.json()["error"]
    return error["field"], error["message"]


def pixels(text: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))


# --- several outputs ---


def test_items_of_several_outputs_are_named_by_role(client: TestClient, models: dict[str, Model]) -> None:
    made = ask(client, "/sample", n=2, seed=7)
    assert list(made["items"]) == ["picture", "facts"]
    assert set(made) == {"model", "version", "seed", "first", "items"}
    samples = models["named"].sample(2, seed=7)
    spec = models["named"].manifest.spec_of("facts")
    assert made["items"]["facts"]["rows"] == spec.write(samples.others["facts"], "png", None, lambda x: x)["rows"]
    shown = imaging.to_uint8(samples.data, models["named"].manifest.spec)  # type: ignore[arg-type]
    assert np.array_equal(np.stack([pixels(text) for text in made["items"]["picture"]["images"]]), shown[:, 0])
    numbers = ask(client, "/sample", n=2, seed=7, encoding="array")["items"]
    assert np.allclose(numbers["picture"]["data"], samples.data) and numbers["facts"] == made["items"]["facts"]


def test_files_have_the_first_output(client: TestClient, models: dict[str, Model]) -> None:
    samples = models["named"].sample(1, seed=7)
    for media_type in ("image/png", "image/webp", "application/x-npy"):
        answer = client.post("/sample", json={"seed": 7}, headers={"accept": media_type})
        if media_type == "application/x-npy":
            assert np.array_equal(np.load(io.BytesIO(answer.content)), samples.data)
        else:
            assert Image.open(io.BytesIO(answer.content)).size == (3, 2)


def test_reconstructions_and_paths_have_all_outputs(client: TestClient) -> None:
    images = [png(1), png(2)]
    for path, fields, n in (
        ("/reconstruct", {"images": images}, 2),
        ("/interpolate", {"from": {"image": images[0]}, "to": {"seed": 3}, "steps": 5}, 5),
    ):
        items = ask(client, path, **fields)["items"]
        assert {role: len(next(iter(made.values()))) for role, made in items.items()} == {"picture": n, "facts": n}


def test_a_stream_has_the_outputs_latents_and_conditions_of_each_item(client: TestClient) -> None:
    whole = ask(client, "/sample", n=5, seed=7, return_latents=True)
    answer = client.post(
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


def test_latents_depend_on_seed_and_index_alone(models: dict[str, Model]) -> None:
    for name in ("named", "shaped"):
        options = {"prior": "two"} if name == "named" else {}
        whole = models[name].sample(20, seed=5, **options)
        for first, n in ((0, 1), (7, 3), (19, 1)):
            part = models[name].sample(n, seed=5, first=first, **options)
            assert np.array_equal(part.data, whole.data[first : first + n])
        shapes = {role: latents.shape for role, latents in by_role(models[name].manifest, whole.latents).items()}
        assert shapes == {role: (20, *latent.dims) for role, latent in models[name].manifest.latents.items()}


def test_each_latent_has_priors_of_its_own(client: TestClient, models: dict[str, Model]) -> None:
    normal = models["named"].sample(400, seed=1).latents
    two = models["named"].sample(400, seed=1, prior="two").latents  # which `place` lacks: it keeps its default
    assert normal is not None and two is not None
    assert np.array_equal(normal["place"], two["place"])
    assert abs(float(normal["texture"].mean())) < 0.1 and float(np.abs(two["texture"].mean(axis=(1, 2, 3))).min()) > 1.5
    assert np.corrcoef(normal["place"][:, 0], normal["texture"][:, 0, 0, 0])[0, 1] < 0.2  # noise of their own
    field, said = refused(client, "/sample", prior="three")
    assert field == "prior" and "no 'three'" in said


def test_latents_are_given_and_returned_by_name(client: TestClient, models: dict[str, Model]) -> None:
    made = ask(client, "/sample", n=2, seed=7, return_latents=True)
    latents = made["named_latents"]
    again = ask(client, "/sample", named_latents=latents)
    assert again["items"]["facts"] == made["items"]["facts"] and "seed" not in again
    partly = ask(client, "/sample", named_latents={"place": latents["place"]}, seed=7)
    assert partly["items"]["facts"] == made["items"]["facts"]  # the other one is drawn as before
    for wrong, field in (
        ({"latents": [[0, 0]]}, "latents"),
        ({"named_latents": {"style": [[0, 0]]}}, "named_latents.style"),
        ({"named_latents": {"place": [[0, 0, 0]]}}, "named_latents.place"),
        ({"named_latents": {**latents, "place": [[0, 0]]}}, "named_latents"),
        ({"named_latents": latents, "n": 3}, "n"),
        ({"named_latents": latents, "prior": "two"}, "prior"),
    ):
        assert refused(client, "/sample", **wrong)[0].startswith(field)
    assert refused(client, "/sample", model="shaped", named_latents={"latent": [[0, 0]]})[0] == "named_latents.latent"


def test_posteriors_are_by_name(client: TestClient, models: dict[str, Model]) -> None:
    images = [png(1), png(2)]
    plain = ask(client, "/encode", images=images)["posteriors"]
    assert {role: set(parts) for role, parts in plain.items()} == {
        "place": {"mean", "log_variance"}, "texture": {"mean"}
    }  # fmt: skip
    drawn = ask(client, "/encode", images=images, seed=3)["posteriors"]
    assert drawn["texture"]["latents"] == drawn["texture"]["mean"]  # it has no variance
    alone = ask(client, "/encode", images=images[1:], seed=3, first=1)["posteriors"]
    assert alone["place"]["latents"][0] == drawn["place"]["latents"][1] != drawn["place"]["mean"][1]


def test_paths_between_named_latents(client: TestClient, models: dict[str, Model]) -> None:
    made = ask(client, "/sample", n=2, seed=7, return_latents=True)
    ends = [{role: rows[i] for role, rows in made["named_latents"].items()} for i in (0, 1)]
    path = ask(
        client, "/interpolate", **{"from": {"named_latent": ends[0]}, "to": {"named_latent": ends[1]}, "steps": 3}
    )
    rows = made["items"]["facts"]["rows"]
    assert [path["items"]["facts"]["rows"][i] for i in (0, 2)] == rows
    middle = np.asarray(path["named_latents"]["texture"])[1]  # its own way is a straight line
    assert np.allclose(middle, np.mean([end["texture"] for end in ends], axis=0), atol=1e-6)
    seeded = ask(client, "/interpolate", **{"from": {"seed": 7}, "to": {"seed": 7, "first": 1}, "steps": 3})
    assert seeded["named_latents"] == path["named_latents"]
    partly = {"from": {"named_latent": {"place": [0, 1]}}, "to": {"seed": 9}}
    with_seed = ask(client, "/interpolate", **partly, seed=4)
    assert with_seed["seed"] == 4 and with_seed["named_latents"]["place"][0] == [0, 1]
    chosen = ask(client, "/interpolate", **partly)
    assert ask(client, "/interpolate", **partly, seed=chosen["seed"]) == chosen


def test_a_latent_with_a_shape(client: TestClient, models: dict[str, Model]) -> None:
    made = ask(client, "/sample", model="shaped", n=2, seed=1, **{"class": "dog"}, return_latents=True)
    assert np.asarray(made["latents"]).shape == (2, 2, 3)
    again = ask(client, "/sample", model="shaped", latents=made["latents"], **{"class": "dog"})
    assert [pixels(text).tolist() for text in again["images"]] == [pixels(text).tolist() for text in made["images"]]
    encoded = ask(client, "/encode", model="shaped", images=[png(1)], seed=2)
    assert np.asarray(encoded["latents"]).shape == (1, 2, 3)
    ends = {
        "from": {"latent": made["latents"][0], "class": "cat"},
        "to": {"latent": made["latents"][1], "class": "owl"},
    }
    path = ask(client, "/interpolate", model="shaped", **ends, steps=3)
    assert np.asarray(path["latents"]).shape == (3, 2, 3)
    assert np.asarray(path["latents"])[0].tolist() == made["latents"][0]


# --- conditions ---


def test_the_long_form_of_one_condition_equals_the_short_one(client: TestClient, models: dict[str, Model]) -> None:
    for choice in ("dog", 1, ["dog", "cat"], {"dog": 0.5, "owl": 0.5}, "random"):
        short = ask(client, "/sample", model="shaped", n=2, seed=1, **{"class": choice})
        assert ask(client, "/sample", model="shaped", n=2, seed=1, conditions={"condition": {"class": choice}}) == short
    for values in ([0.1, 2], [[0.1, 2], [0.3, 4]]):
        short = ask(client, "/sample", model="measured", n=2, seed=1, condition=values)
        assert (
            ask(client, "/sample", model="measured", n=2, seed=1, conditions={"condition": {"values": values}}) == short
        )
    plain = models["shaped"].sample(2, seed=1, classes=["dog", "cat"]).data
    for condition in (ByClass(["dog", "cat"]), ByValues(np.eye(3)[[1, 0]]), BySeveral({"condition": ByClass([1, 0])})):
        assert np.array_equal(models["shaped"].sample(2, seed=1, condition=condition).data, plain)


def test_texts_are_tokens_with_a_mask(client: TestClient, models: dict[str, Model]) -> None:
    seen = next(operations.sample(models["captioned"].manifest, 2, seed=1, condition=ByText(("größer", "")))).inputs
    content = "größer".encode()
    assert seen["tokens"].tolist() == [[*content, *[0] * (LONGEST - len(content))], [0] * LONGEST]
    assert seen["token_mask"].sum(axis=1).tolist() == [len(content), 0]
    for name in ("captioned", "free"):
        one = ask(client, "/sample", model=name, n=2, seed=1, conditions={"condition": {"texts": ["blue"]}})
        each = ask(client, "/sample", model=name, n=2, seed=1, conditions={"condition": {"texts": ["blue", "red"]}})
        assert (
            one["images"] != each["images"] and pixels(one["images"][0]).tolist() == pixels(each["images"][0]).tolist()
        )
        assert each["conditions"] == {"condition": {"texts": ["blue", "red"]}}


def test_a_text_that_is_left_open_is_one_of_the_examples(client: TestClient) -> None:
    for name in ("captioned", "free"):
        drawn = ask(client, "/sample", model=name, n=16, seed=3)
        texts = drawn["conditions"]["condition"]["texts"]
        assert set(texts) == set(TEXTS)
        stated = ask(client, "/sample", model=name, n=16, seed=3, conditions={"condition": {"texts": texts}})
        assert [pixels(text).tolist() for text in stated["images"]] == [
            pixels(text).tolist() for text in drawn["images"]
        ]
        alone = ask(client, "/sample", model=name, n=1, first=9, seed=3)
        assert alone["conditions"]["condition"]["texts"] == texts[9:10] and alone["images"] == drawn["images"][9:10]


STATED: dict[str, Any] = {
    "label": {"class": ["cat", "owl"]},
    "pose": {"values": [0.25]},
    "caption": {"texts": ["a", "longer text"]},
    "look": {"images": [png(3), png(4)]},
}


def test_several_conditions_at_once(client: TestClient, models: dict[str, Model]) -> None:
    made = ask(client, "/sample", model="several", n=2, seed=1, conditions=STATED)
    assert made["conditions"] == {
        "label": {"class": ["cat", "owl"]}, "pose": {"values": [[0.25], [0.25]]}, "caption": {"texts": ["a", "longer text"]},
    }  # fmt: skip
    spec = models["several"].manifest.spec
    look = np.stack([spec.read([text], Reading(), "x").data[0] for text in STATED["look"]["images"]])
    parts: dict[str, One] = {
        "label": ByClass(["cat", "owl"]), "pose": ByValues(np.asarray([0.25])), "caption": ByText(("a", "longer text")), "look": ByItem(look)
    }  # fmt: skip
    samples = models["several"].sample(2, seed=1, condition=BySeveral(parts))
    assert [pixels(text).tolist() for text in made["images"]] == imaging.to_uint8(samples.data, spec)[:, 0].tolist()  # type: ignore[arg-type]
    for item in (0, 1):  # no item depends on its batch-mates
        own = {
            name: {key: values[item : item + 1] if len(values) == 2 else values for key, values in part.items()}
            for name, part in STATED.items()
        }
        alone = ask(client, "/sample", model="several", n=1, seed=1, first=item, conditions=own)
        assert pixels(alone["images"][0]).tolist() == pixels(made["images"][item]).tolist()


def test_conditions_that_are_left_open_are_drawn_and_said(client: TestClient) -> None:
    drawn = ask(client, "/sample", model="several", n=12, seed=2, conditions={"look": LOOK})
    found = drawn["conditions"]
    assert set(found["label"]["class"]) == set(CLASSES) and set(found["caption"]["texts"]) == set(TEXTS)
    assert {row[0] for row in found["pose"]["values"]} == {0.0, 1.0}
    stated = ask(client, "/sample", model="several", n=12, seed=2, conditions={**found, "look": LOOK})
    assert [pixels(text).tolist() for text in stated["images"]] == [pixels(text).tolist() for text in drawn["images"]]


@pytest.mark.parametrize(
    ("conditions", "field", "message"),
    [
        ({}, "conditions.look", "is conditioned on images; state one, or one an item, as conditions.look.images"),
        ({"colour": {"values": [1]}}, "conditions.colour", "is conditioned on label, pose, caption, look"),
        ({"label": {"texts": ["cat"]}}, "conditions.label", "takes class here; state conditions.label.class"),
        ({"label": {"class": "cow"}}, "conditions.label", "unknown 'cow'"),
        ({"label": {"class": ["cat"] * 3}}, "conditions.label", "3 classes for 2 items"),
        ({"pose": {"values": [1, 2]}}, "conditions.pose", "shape"),
        ({"pose": {"values": [[1], [2], [3]]}}, "conditions.pose", "3 rows for 2 items; give one, or one an item"),
        ({"pose": {"class": "cat"}}, "conditions.pose", "has no class names; give the values of angle"),
        ({"caption": {"texts": ["x" * 17]}}, "conditions.caption", "a text of 17 bytes is over the limit of 16"),
        ({"caption": {"texts": ["a", "b", "c"]}}, "conditions.caption", "3 texts for 2 items; give one, or one an item"),
        ({"caption": {"texts": []}}, "conditions.caption.texts", "at least one is needed"),
        ({"caption": {"class": "cat"}}, "conditions.caption", "takes texts here; state conditions.caption.texts"),
        ({"look": {"values": [1]}}, "conditions.look", "is conditioned on images"),
        ({"look": {"images": [png(1)] * 3}}, "conditions.look", "3 images of shape [1, 2, 3] for 2 items"),
        ({"look": {"images": []}}, "conditions.look.images", "at least one is needed"),
        ({"look": {"rows": [{}]}}, "conditions.look.rows", "takes images here"),
        ({"label": {"images": [png(1)]}}, "conditions.label.images", "takes class here"),
        ({"label": {}}, "conditions.label", "one of class, values, texts, images, rows is needed"),
        ({"label": {"class": "cat", "values": [1, 0, 0]}}, "conditions.label", "one of class, values, texts"),
    ],
)  # fmt: skip
def test_conditions_that_are_wrong(client: TestClient, conditions: dict[str, Any], field: str, message: str) -> None:
    stated = conditions if conditions == {} or "look" in conditions else {**conditions, "look": LOOK}
    found, said = refused(client, "/sample", model="several", n=2, conditions=stated)
    assert found == field and message in said


def test_forms_of_a_condition_exclude_each_other(client: TestClient) -> None:
    both = {"class": "cat", "conditions": {"condition": {"class": "dog"}}}
    assert refused(client, "/sample", model="shaped", **both)[0] == "conditions"
    assert refused(client, "/sample", model="several", **{"class": "cat"})[0] == "condition"
    assert refused(client, "/sample", model="captioned", **{"class": "cat"}) == (
        "conditions.condition", "conditions.condition: captioned takes texts here; state conditions.condition.texts"
    )  # fmt: skip
    assert refused(client, "/sample", conditions={"condition": {"class": "cat"}}) == (
        "conditions", "conditions: named is not conditional; leave the conditions out"
    )  # fmt: skip


def test_paths_between_conditions(client: TestClient) -> None:
    plain = {name: part for name, part in STATED.items() if name != "look"}
    ends = [
        {name: {key: values[-place:] for key, values in part.items()} for name, part in plain.items()}
        for place in (1, 1)
    ]
    ends[0]["label"], ends[0]["caption"] = {"class": ["cat"]}, {"texts": ["a"]}
    fields = {
        "from": {"seed": 1, "conditions": {**ends[0], "look": LOOK}},
        "to": {"seed": 1, "conditions": {**ends[1], "look": LOOK}},
    }
    path = ask(client, "/interpolate", model="several", **fields, steps=3)
    for place, end in ((0, "from"), (-1, "to")):
        made = ask(client, "/sample", model="several", seed=1, conditions=fields[end]["conditions"])
        assert pixels(path["images"][place]).tolist() == pixels(made["images"][0]).tolist()
    del fields["to"]["conditions"]["caption"]
    assert refused(client, "/interpolate", model="several", **fields)[0] == "to.conditions.caption"


def test_encoders_ask_for_every_condition(client: TestClient) -> None:
    stated = {name: part for name, part in STATED.items() if name != "pose"}
    field, said = refused(client, "/encode", model="several", images=[png(1), png(2)], conditions=stated)
    assert field == "conditions.pose" and "state the values" in said
    whole = ask(client, "/encode", model="several", images=[png(1), png(2)], conditions=STATED)
    back = ask(client, "/reconstruct", model="several", images=[png(1), png(2)], conditions=STATED)
    assert np.asarray(whole["mean"]).shape == (2, 2) and len(back["images"]) == 2
    other = {"caption": {"texts": ["changed"]}}
    changed = ask(
        client, "/reconstruct", model="several", images=[png(1), png(2)], conditions=STATED, target_conditions=other
    )
    assert changed["images"] != back["images"]
    same = ask(
        client, "/reconstruct", model="several", images=[png(1), png(2)], conditions=STATED, target_conditions=STATED
    )
    assert same["images"] == back["images"]


# --- numbers ---


def test_numbers_have_defaults_and_may_differ_by_item(client: TestClient, models: dict[str, Model]) -> None:
    def made(**inputs: Any) -> list[str]:
        answer = ask(
            client, "/sample", model="numbered", n=2, seed=1, **{"class": "cat"}, inputs=inputs, encoding="array"
        )
        images: list[str] = answer["data"]
        return images

    default = made()
    assert made(guidance=7.5, steps=8) == default == made(guidance=[7.5, 7.5])
    each, high = made(guidance=[7.5, 3]), made(guidance=3)
    assert each[0] == default[0] and each[1] == high[1] != default[1]
    assert made(steps=9) != default
    samples = models["numbered"].sample(2, seed=1, classes="cat", numbers={"guidance": np.asarray([7.5, 3])})
    assert np.allclose(samples.data, each)


@pytest.mark.parametrize(
    ("inputs", "field", "message"),
    [
        ({"guidance": 21}, "inputs.guidance", "21.0; a number from 0 to 20 is needed"),
        ({"guidance": [1, 2, 3]}, "inputs.guidance", "[3] numbers for 2 items; give one, or one an item"),
        ({"guidance": []}, "inputs.guidance", "[0] numbers for 2 items"),
        ({"steps": 2.5}, "inputs.steps", "whole numbers are needed"),
        ({"steps": 0}, "inputs.steps", "a number from 1 to 50"),
        ({"scale": 1}, "inputs.scale", "has no input 'scale'; it takes guidance, steps"),
        ({"guidance": "high"}, "inputs.guidance", "number"),
        ({"guidance": None}, "inputs.guidance", "number"),
    ],
)
def test_numbers_that_are_wrong(client: TestClient, inputs: dict[str, Any], field: str, message: str) -> None:
    found, said = refused(client, "/sample", model="numbered", n=2, inputs=inputs)
    assert found.startswith(field) and message in said


def test_numbers_on_every_endpoint(client: TestClient) -> None:
    images = [png(1), png(2)]
    cat, own = {"class": "cat"}, {"spread": [1, 2]}
    need = refused(client, "/encode", model="numbered", images=images)
    assert need == ("inputs.spread", "inputs.spread: is needed, a number of at least 0")
    assert ask(client, "/encode", model="numbered", images=images, inputs=own)
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
        plain = ask(client, path, model="numbered", **fields, inputs=needed)
        count = 3 if path == "/interpolate" else 2
        stated = ask(client, path, model="numbered", **fields, inputs={**needed, "guidance": [7.5] * count})
        assert stated == plain, path
        if "candidates" not in fields:  # which may choose the same
            other = ask(
                client, path, model="numbered", **fields, inputs={**needed, "guidance": [7.5] * (count - 1) + [2]}
            )
            assert other != plain, path


# --- recipes ---


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        ("named", {"n": 2, "seed": 3}),
        ("named", {"named_latents": {"place": [[1, 2], [3, 4]]}, "seed": 3, "prior": "two"}),
        ("shaped", {"n": 2, "seed": 3, "conditions": {"condition": {"class": ["cat", "dog"]}}}),
        ("measured", {"n": 2, "seed": 3, "conditions": {"condition": {"values": [0.5, 1]}}}),
        ("captioned", {"n": 2, "seed": 3}),
        ("free", {"n": 2, "seed": 3, "conditions": {"condition": {"texts": ["a", "longer"]}}}),
        ("numbered", {"n": 2, "seed": 3, "inputs": {"guidance": [1, 2], "steps": 4}}),
        ("numbered", {"n": 2, "seed": 3, "class": {"cat": 1, "dog": 1}, "inputs": {"guidance": 1}}),
    ],
)
def test_recipes_make_the_same_picture(
    client: TestClient, models: dict[str, Model], model: str, fields: dict[str, Any]
) -> None:
    made = ask(client, "/sample", model=model, **fields)
    for text in made.get("images") or made["items"]["picture"]["images"]:
        content = base64.b64decode(text)
        assert recipes.remake(models[model], imaging.read_recipe(content)) == content
    grid = client.post("/sample", json={"model": model, **fields}, headers={"accept": "image/png"}).content
    assert recipes.remake(models[model], imaging.read_recipe(grid)) == grid


@pytest.mark.parametrize("label", ["random", "cat", ["cat", "dog"], {"cat": 1, "dog": 3}])
def test_recipes_of_several_conditions(tmp_path: Path, label: Any) -> None:
    content = forms.several()
    del content["condition"]["parts"]["look"], content["tasks"]["encode"]
    content["tasks"]["decode"]["inputs"].pop()
    model = load(forms.write(tmp_path, content))
    options = {"seed": 3, "condition": BySeveral({"label": ByClass(label), "caption": ByText(("a", "b"))})}
    samples = model.sample(2, **options)
    made = recipes.for_samples(model.manifest, model.checksum, samples, options)
    spec = model.manifest.spec
    picture = spec.sheet(samples.data, made)
    assert recipes.remake(model, imaging.read_recipe(picture)) == picture
    for item in (0, 1):
        alone = spec.write_file(samples.data[item : item + 1], "image/png", made[item : item + 1])
        assert recipes.remake(model, imaging.read_recipe(alone)) == alone


def test_a_recipe_without_its_given_picture_says_so(client: TestClient, models: dict[str, Model]) -> None:
    made = ask(client, "/sample", model="several", seed=1, conditions={"look": LOOK})
    recipe = imaging.read_recipe(base64.b64decode(made["images"][0]))
    with pytest.raises(InvalidValue, match=r"does not keep conditions\.look"):
        recipes.remake(models["several"], recipe)


def test_the_picture_of_a_second_output_is_made_again(tmp_path: Path) -> None:
    content = forms.named()
    content["data"] = {"facts": forms.TABLE, "picture": forms.IMAGE, "other": forms.IMAGE}
    del content["tasks"]["encode"], content["tasks"]["translate"], content["target"]
    content["tasks"]["decode"]["outputs"].append({"role": "other", "shape": [1, 2, 3]})
    folder = forms.write(tmp_path, content)
    model = load(folder)
    with TestClient(create_app(Settings(models_dir=tmp_path, default_model="named", grpc_port=0))) as client:
        wait_until_ready(client)
        items = ask(client, "/sample", seed=1)["items"]
    for role in ("picture", "other"):
        picture = base64.b64decode(items[role]["images"][0])
        recipe = imaging.read_recipe(picture)
        assert recipe["output"] == role
        assert recipes.remake(model, recipe) == picture
    with pytest.raises(InvalidValue, match="output: 'third' is not an output of named"):
        recipes.remake(model, {**recipe, "output": "third"})


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        ("named", {"named_latents": {"place": [[1, 2]] * 7}, "seed": 3}),
        ("several", {"n": 7, "seed": 3, "conditions": {"look": LOOK, "caption": {"texts": list("abcdefg")}}}),
        ("free", {"n": 7, "seed": 3}),
        ("numbered", {"n": 7, "seed": 3, "inputs": {"guidance": [1, 2, 3, 4, 5, 6, 7]}}),
    ],
)
def test_parts_of_a_stream_equal_the_whole(client: TestClient, model: str, fields: dict[str, Any]) -> None:
    whole = ask(client, "/sample", model=model, **fields)
    answer = client.post(
        "/sample", json={"model": model, **fields}, headers={"accept": "application/x-ndjson"}
    ).text.splitlines()
    lines = [json.loads(line) for line in answer[:-1]]
    images = whole["images"] if "images" in whole else whole["items"]["picture"]["images"]
    assert [line["image"] if "image" in line else line["items"]["picture"]["image"] for line in lines] == images
    for name, stated in whole.get("conditions", {}).items():
        assert [line["conditions"][name] for line in lines] == [
            {form: values[place : place + 1] for form, values in stated.items()} for place in range(7)
        ]


def test_a_task_by_itself_on_the_library(models: dict[str, Model]) -> None:
    model = models["named"]
    made = model.run("translate", {"picture": np.zeros((2, 1, 2, 3), np.float32)})
    assert made["target"].shape == (2, 1, 4, 6) and model.manifest.spec_of("target").shape == (1, 4, 6)
    path = model.interpolate(End(seed=1), End(seed=2), steps=3)
    assert path.others is not None and path.others["facts"].shape == (3, 4)
