"""Conditions in their long form, in the library and over REST, and the recipes and random streams of the long forms."""

from __future__ import annotations

import base64
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from manifold.runtime import imaging, operations, recipes
from manifold.runtime.conditions import ByClass, ByItem, BySeveral, ByText, ByValues, One
from manifold.runtime.engine import Model, load
from manifold.runtime.errors import InvalidValue
from manifold.runtime.kinds import Reading
from tests import forms
from tests.forms import CLASSES, LONGEST, TEXTS, ask, pixels, png, refused

LOOK = {"images": [png(0)]}


# --- conditions ---


def test_the_long_form_of_one_condition_equals_the_short_one(
    forms_client: TestClient, forms_models: dict[str, Model]
) -> None:
    for choice in ("dog", 1, ["dog", "cat"], {"dog": 0.5, "owl": 0.5}, "random"):
        short = ask(forms_client, "/sample", model="shaped", n=2, seed=1, **{"class": choice})
        assert (
            ask(forms_client, "/sample", model="shaped", n=2, seed=1, conditions={"condition": {"class": choice}})
            == short
        )
    for values in ([0.1, 2], [[0.1, 2], [0.3, 4]]):
        short = ask(forms_client, "/sample", model="measured", n=2, seed=1, condition=values)
        assert (
            ask(forms_client, "/sample", model="measured", n=2, seed=1, conditions={"condition": {"values": values}})
            == short
        )
    plain = forms_models["shaped"].sample(2, seed=1, classes=["dog", "cat"]).data
    for condition in (ByClass(["dog", "cat"]), ByValues(np.eye(3)[[1, 0]]), BySeveral({"condition": ByClass([1, 0])})):
        assert np.array_equal(forms_models["shaped"].sample(2, seed=1, condition=condition).data, plain)


def test_texts_are_tokens_with_a_mask(forms_client: TestClient, forms_models: dict[str, Model]) -> None:
    seen = next(
        operations.sample(forms_models["captioned"].manifest, 2, seed=1, condition=ByText(("größer", "")))
    ).inputs
    content = "größer".encode()
    assert seen["tokens"].tolist() == [[*content, *[0] * (LONGEST - len(content))], [0] * LONGEST]
    assert seen["token_mask"].sum(axis=1).tolist() == [len(content), 0]
    for name in ("captioned", "free"):
        one = ask(forms_client, "/sample", model=name, n=2, seed=1, conditions={"condition": {"texts": ["blue"]}})
        each = ask(
            forms_client, "/sample", model=name, n=2, seed=1, conditions={"condition": {"texts": ["blue", "red"]}}
        )
        assert (
            one["images"] != each["images"] and pixels(one["images"][0]).tolist() == pixels(each["images"][0]).tolist()
        )
        assert each["conditions"] == {"condition": {"texts": ["blue", "red"]}}


def test_a_text_that_is_left_open_is_one_of_the_examples(forms_client: TestClient) -> None:
    for name in ("captioned", "free"):
        drawn = ask(forms_client, "/sample", model=name, n=16, seed=3)
        texts = drawn["conditions"]["condition"]["texts"]
        assert set(texts) == set(TEXTS)
        stated = ask(forms_client, "/sample", model=name, n=16, seed=3, conditions={"condition": {"texts": texts}})
        assert [pixels(text).tolist() for text in stated["images"]] == [
            pixels(text).tolist() for text in drawn["images"]
        ]
        alone = ask(forms_client, "/sample", model=name, n=1, first=9, seed=3)
        assert alone["conditions"]["condition"]["texts"] == texts[9:10] and alone["images"] == drawn["images"][9:10]


STATED: dict[str, Any] = {
    "label": {"class": ["cat", "owl"]},
    "pose": {"values": [0.25]},
    "caption": {"texts": ["a", "longer text"]},
    "look": {"images": [png(3), png(4)]},
}


def test_several_conditions_at_once(forms_client: TestClient, forms_models: dict[str, Model]) -> None:
    made = ask(forms_client, "/sample", model="several", n=2, seed=1, conditions=STATED)
    assert made["conditions"] == {
        "label": {"class": ["cat", "owl"]}, "pose": {"values": [[0.25], [0.25]]}, "caption": {"texts": ["a", "longer text"]},
    }  # fmt: skip
    spec = forms_models["several"].manifest.spec
    look = np.stack([spec.read([text], Reading(), "x").data[0] for text in STATED["look"]["images"]])
    parts: dict[str, One] = {
        "label": ByClass(["cat", "owl"]), "pose": ByValues(np.asarray([0.25])), "caption": ByText(("a", "longer text")), "look": ByItem(look)
    }  # fmt: skip
    samples = forms_models["several"].sample(2, seed=1, condition=BySeveral(parts))
    assert [pixels(text).tolist() for text in made["images"]] == imaging.to_uint8(samples.data, spec)[:, 0].tolist()  # type: ignore[arg-type]
    for item in (0, 1):  # an item does not depend on the other items of its batch
        own = {
            name: {key: values[item : item + 1] if len(values) == 2 else values for key, values in part.items()}
            for name, part in STATED.items()
        }
        alone = ask(forms_client, "/sample", model="several", n=1, seed=1, first=item, conditions=own)
        assert pixels(alone["images"][0]).tolist() == pixels(made["images"][item]).tolist()


def test_conditions_that_are_left_open_are_drawn_and_said(forms_client: TestClient) -> None:
    drawn = ask(forms_client, "/sample", model="several", n=12, seed=2, conditions={"look": LOOK})
    found = drawn["conditions"]
    assert set(found["label"]["class"]) == set(CLASSES) and set(found["caption"]["texts"]) == set(TEXTS)
    assert {row[0] for row in found["pose"]["values"]} == {0.0, 1.0}
    stated = ask(forms_client, "/sample", model="several", n=12, seed=2, conditions={**found, "look": LOOK})
    assert [pixels(text).tolist() for text in stated["images"]] == [pixels(text).tolist() for text in drawn["images"]]


@pytest.mark.parametrize(
    ("conditions", "field", "message"),
    [
        ({}, "conditions.look", "is conditioned on images; give one, or one per item, as conditions.look.images"),
        ({"colour": {"values": [1]}}, "conditions.colour", "is conditioned on label, pose, caption, look"),
        ({"label": {"texts": ["cat"]}}, "conditions.label", "takes class here; use conditions.label.class"),
        ({"label": {"class": "cow"}}, "conditions.label", "there is no class 'cow'"),
        ({"label": {"class": ["cat"] * 3}}, "conditions.label", "3 classes for 2 items"),
        ({"pose": {"values": [1, 2]}}, "conditions.pose", "shape"),
        ({"pose": {"values": [[1], [2], [3]]}}, "conditions.pose", "3 rows for 2 items; give one, or one per item"),
        ({"pose": {"class": "cat"}}, "conditions.pose", "has no classes; give the values of angle"),
        ({"caption": {"texts": ["x" * 17]}}, "conditions.caption", "a text has 17 bytes; the limit is 16"),
        ({"caption": {"texts": ["a", "b", "c"]}}, "conditions.caption", "3 texts for 2 items; give one, or one per item"),
        ({"caption": {"texts": []}}, "conditions.caption.texts", "give at least one"),
        ({"caption": {"class": "cat"}}, "conditions.caption", "takes texts here; use conditions.caption.texts"),
        ({"look": {"values": [1]}}, "conditions.look", "is conditioned on images"),
        ({"look": {"images": [png(1)] * 3}}, "conditions.look", "3 images of shape [1, 2, 3] for 2 items"),
        ({"look": {"images": []}}, "conditions.look.images", "give at least one"),
        ({"look": {"rows": [{}]}}, "conditions.look.rows", "takes images here"),
        ({"label": {"images": [png(1)]}}, "conditions.label.images", "takes class here"),
        ({"label": {}}, "conditions.label", "one of class, values, texts, images, rows is needed"),
        ({"label": {"class": "cat", "values": [1, 0, 0]}}, "conditions.label", "one of class, values, texts"),
    ],
)  # fmt: skip
def test_conditions_that_are_wrong(
    forms_client: TestClient, conditions: dict[str, Any], field: str, message: str
) -> None:
    stated = conditions if conditions == {} or "look" in conditions else {**conditions, "look": LOOK}
    found, said = refused(forms_client, "/sample", model="several", n=2, conditions=stated)
    assert found == field and message in said


def test_forms_of_a_condition_exclude_each_other(forms_client: TestClient) -> None:
    both = {"class": "cat", "conditions": {"condition": {"class": "dog"}}}
    assert refused(forms_client, "/sample", model="shaped", **both)[0] == "conditions"
    assert refused(forms_client, "/sample", model="several", **{"class": "cat"})[0] == "class"
    assert refused(forms_client, "/sample", model="several", condition=[[0.5]])[0] == "condition"
    assert refused(forms_client, "/sample", model="captioned", **{"class": "cat"}) == (
        "class", "class: captioned takes texts here; use conditions.condition.texts"
    )  # fmt: skip
    assert refused(forms_client, "/sample", conditions={"condition": {"class": "cat"}}) == (
        "conditions", "conditions: named takes no condition; remove it"
    )  # fmt: skip


def test_paths_between_conditions(forms_client: TestClient) -> None:
    plain = {name: part for name, part in STATED.items() if name != "look"}
    ends = [
        {name: {key: values[-place:] for key, values in part.items()} for name, part in plain.items()}
        for place in (1, 1)
    ]
    ends[0]["label"], ends[0]["caption"] = {"class": ["cat"]}, {"texts": ["a"]}
    fields: dict[str, Any] = {
        "from": {"seed": 1, "conditions": {**ends[0], "look": LOOK}},
        "to": {"seed": 1, "conditions": {**ends[1], "look": LOOK}},
    }
    path = ask(forms_client, "/interpolate", model="several", **fields, steps=3)
    for place, end in ((0, "from"), (-1, "to")):
        made = ask(forms_client, "/sample", model="several", seed=1, conditions=fields[end]["conditions"])
        assert pixels(path["images"][place]).tolist() == pixels(made["images"][0]).tolist()
    del fields["to"]["conditions"]["caption"]
    assert refused(forms_client, "/interpolate", model="several", **fields)[0] == "to.conditions.caption"


def test_encoders_ask_for_every_condition(forms_client: TestClient) -> None:
    stated = {name: part for name, part in STATED.items() if name != "pose"}
    field, said = refused(forms_client, "/encode", model="several", images=[png(1), png(2)], conditions=stated)
    assert (field, said) == ("conditions.pose", "conditions.pose: several is conditioned on it; give values")
    whole = ask(forms_client, "/encode", model="several", images=[png(1), png(2)], conditions=STATED)
    back = ask(forms_client, "/reconstruct", model="several", images=[png(1), png(2)], conditions=STATED)
    assert np.asarray(whole["mean"]).shape == (2, 2) and len(back["images"]) == 2
    other = {"caption": {"texts": ["changed"]}}
    changed = ask(
        forms_client,
        "/reconstruct",
        model="several",
        images=[png(1), png(2)],
        conditions=STATED,
        target_conditions=other,
    )
    assert changed["images"] != back["images"]
    same = ask(
        forms_client,
        "/reconstruct",
        model="several",
        images=[png(1), png(2)],
        conditions=STATED,
        target_conditions=STATED,
    )
    assert same["images"] == back["images"]


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
    forms_client: TestClient, forms_models: dict[str, Model], model: str, fields: dict[str, Any]
) -> None:
    made = ask(forms_client, "/sample", model=model, **fields)
    for text in made.get("images") or made["items"]["picture"]["images"]:
        content = base64.b64decode(text)
        assert recipes.remake(forms_models[model], imaging.read_recipe(content)) == content
    grid = forms_client.post("/sample", json={"model": model, **fields}, headers={"accept": "image/png"}).content
    assert recipes.remake(forms_models[model], imaging.read_recipe(grid)) == grid


@pytest.mark.parametrize("label", ["random", "cat", ["cat", "dog"], {"cat": 1, "dog": 3}])
def test_recipes_of_several_conditions(tmp_path: Path, label: Any) -> None:
    content = forms.several()
    del content["condition"]["parts"]["look"], content["tasks"]["encode"]
    content["tasks"]["decode"]["inputs"].pop()
    model = load(forms.write(tmp_path, content))
    options: dict[str, Any] = {
        "seed": 3,
        "condition": BySeveral({"label": ByClass(label), "caption": ByText(("a", "b"))}),
    }
    samples = model.sample(2, **options)
    made = recipes.for_samples(model.manifest, model.checksum, samples, options)
    spec = model.manifest.spec
    picture = spec.sheet(samples.data, made)
    assert recipes.remake(model, imaging.read_recipe(picture)) == picture
    for item in (0, 1):
        alone = spec.write_file(samples.data[item : item + 1], "image/png", partial(list, made[item : item + 1]))
        assert recipes.remake(model, imaging.read_recipe(alone)) == alone


def test_a_recipe_without_its_given_picture_says_so(forms_client: TestClient, forms_models: dict[str, Model]) -> None:
    made = ask(forms_client, "/sample", model="several", seed=1, conditions={"look": LOOK})
    recipe = imaging.read_recipe(base64.b64decode(made["images"][0]))
    with pytest.raises(InvalidValue, match=r"does not contain conditions\.look"):
        recipes.remake(forms_models["several"], recipe)


def test_the_picture_of_a_second_output_is_made_again(tmp_path: Path) -> None:
    content = forms.named()
    content["data"] = {"facts": forms.TABLE, "picture": forms.IMAGE, "other": forms.IMAGE}
    del content["tasks"]["encode"], content["tasks"]["translate"], content["target"]
    content["tasks"]["decode"]["outputs"].append({"role": "other", "shape": [1, 2, 3]})
    folder = forms.write(tmp_path, content)
    model = load(folder)
    with forms.client(tmp_path) as client:
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
def test_parts_of_a_stream_equal_the_whole(forms_client: TestClient, model: str, fields: dict[str, Any]) -> None:
    whole = ask(forms_client, "/sample", model=model, **fields)
    answer = forms_client.post(
        "/sample", json={"model": model, **fields}, headers={"accept": "application/x-ndjson"}
    ).text.splitlines()
    lines = [json.loads(line) for line in answer[:-1]]
    images = whole["images"] if "images" in whole else whole["items"]["picture"]["images"]
    assert [line["image"] if "image" in line else line["items"]["picture"]["image"] for line in lines] == images
    for name, stated in whole.get("conditions", {}).items():
        assert [line["conditions"][name] for line in lines] == [
            {form: values[place : place + 1] for form, values in stated.items()} for place in range(7)
        ]


@pytest.mark.parametrize(
    ("stated", "wrong"),
    [
        ({"label": {"class": ["cat", "dog"]}}, "conditions.label: 2 classes for 6 items"),
        ({"pose": {"values": [[0.1], [0.2]]}}, "conditions.pose: 2 rows for 6 items; give one, or one per item"),
        ({"caption": {"texts": ["a", "b"]}}, "conditions.caption: 2 texts for 6 items; give one, or one per item"),
        ({"look": {"images": [png(1), png(2)]}}, "conditions.look: 2 "),
    ],
)
def test_a_stream_counts_conditions_before_its_first_item(forms_client: TestClient, stated: Any, wrong: str) -> None:
    whole = {"look": LOOK, **stated}
    for headers in ({}, {"Accept": "application/x-ndjson"}):
        answer = forms_client.post("/sample", json={"model": "several", "n": 6, "conditions": whole}, headers=headers)
        assert answer.status_code == 422
        assert answer.json()["error"]["message"].startswith(wrong)
    few = forms_client.post(
        "/sample",
        json={"model": "shaped", "n": 2, "conditions": {"condition": {"class": ["cat"] * 3}}},
        headers={"Accept": "application/x-ndjson"},
    )
    assert few.status_code == 422 and "3 classes for 2 items" in few.text
    numbers = {"model": "numbered", "n": 4, "inputs": {"guidance": [1, 2]}}
    answer = forms_client.post("/sample", json=numbers, headers={"Accept": "application/x-ndjson"})
    assert answer.json()["error"]["message"] == "inputs.guidance: 2 numbers for 4 items; give one, or one per item"
