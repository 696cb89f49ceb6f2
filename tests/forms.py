"""Artifacts on the fake backend in the long forms of the manifest: several outputs, latents and conditions, numbers, and free lengths."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from starlette.testclient import TestClient

from manifold.runtime.manifest import FILE
from manifold.service.http.app import create_app
from manifold.service.settings import Settings
from tests.conftest import wait_until_ready
from tests.tabled import COLUMNS

IMAGE = {"kind": "image", "height": 2, "width": 3, "channels": 1}
TABLE = {"kind": "table", "columns": COLUMNS}
CLASSES = ["cat", "dog", "owl"]
TEXTS = ["a red circle", "blue", "größer"]
LONGEST = 16  # longest text in bytes

Tensor = dict[str, Any]


def given(role: str, shape: list[int], source: str | None = None, **more: Any) -> Tensor:
    """Return an input whose source is its role unless another is named."""
    return {"role": role, "source": source or role, "shape": shape, **more}


def number(role: str, default: float | None = None, **more: Any) -> Tensor:
    """Return an input with one number for each item."""
    return given(role, [], "number", **({} if default is None else {"default": default}), **more)


def integer(role: str, default: int, **more: Any) -> Tensor:
    """Return an input with one integer for each item."""
    return given(role, [], "integer", dtype="int64", default=default, **more)


def text(name: str | None = None, **more: Any) -> list[Tensor]:
    """Return the two inputs of a text: tokens and their mask."""
    roles = ("tokens", "token_mask") if name is None else (name, f"{name}_mask")
    kinds = (("tokens", "int64"), ("token_mask", "float32"))
    return [
        given(role, [LONGEST], source, dtype=dtype, **more) for role, (source, dtype) in zip(roles, kinds, strict=True)
    ]


def task(inputs: list[Tensor], outputs: Mapping[str, list[int]], **more: Any) -> dict[str, Any]:
    """Return a task."""
    made = [{"role": role, "shape": shape} for role, shape in outputs.items()]
    return {"graph": "none", "inputs": inputs, "outputs": made, **more}


def manifest(name: str, tasks: dict[str, Any], **sections: Any) -> dict[str, Any]:
    """Return a hand-written manifest."""
    return {"name": name, "version": 1, "backend": "fake", "data": IMAGE, "tasks": tasks, **sections}


def write(root: Path, content: dict[str, Any]) -> Path:
    """Write the artifact into ROOT/NAME/1 and return that folder."""
    folder = root / str(content["name"]) / "1"
    folder.mkdir(parents=True)
    (folder / "none").touch()
    (folder / FILE).write_text(json.dumps(content))
    return folder


def png(seed: int) -> str:
    """Return a picture of IMAGE's size, encoded for a request."""
    pixels = np.random.default_rng(seed).integers(0, 256, (2, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


# --- artifacts ----------------------------------------------------------------------------------------------------------------


def named() -> dict[str, Any]:
    """Return a model with a picture and a row as outputs, and two latents, one of which is a grid."""
    place, texture = given("place", [2], "latent"), given("texture", [2, 2, 2], "latent")
    items = {"picture": [1, 2, 3], "facts": [4]}
    mixture = {
        "kind": "mixture", "weights": [0.5, 0.5], "means": [[-3.0] * 8, [3.0] * 8],
        "choleskys": [np.eye(8).tolist(), (0.1 * np.eye(8)).tolist()],
    }  # fmt: skip
    return manifest(
        "named",
        {
            "decode": task([place, texture], items),
            "encode": task(
                [given("picture", [1, 2, 3], "data")],
                {"place.mean": [2], "place.log_variance": [2], "texture.mean": [2, 2, 2]},
            ),
            "translate": task([given("picture", [1, 2, 3], "data")], {"target": [1, 4, 6]}),
        },
        data={"picture": IMAGE, "facts": TABLE},
        target={"kind": "image", "height": 4, "width": 6, "channels": 1},
        latent={
            "place": {"size": 2},
            "texture": {"shape": [2, 2, 2], "priors": {"normal": {"kind": "normal"}, "two": mixture}, "interpolation": "lerp"},
        },
    )  # fmt: skip


def shaped() -> dict[str, Any]:
    """Return a model with one latent that is a grid, conditioned on classes."""
    latent, condition = given("latent", [2, 3]), given("condition", [3])
    return manifest(
        "shaped",
        {
            "decode": task([latent, condition], {"data": [1, 2, 3]}),
            "encode": task([given("data", [1, 2, 3])], {"mean": [2, 3], "log_variance": [2, 3]}),
        },
        latent={"shape": [2, 3]},
        condition={"kind": "classes", "names": CLASSES, "prior": [0.5, 0.25, 0.25]},
    )


def measured() -> dict[str, Any]:
    """Return a model conditioned on real values."""
    values = {"kind": "values", "names": ["angle", "size"], "examples": [[0.0, 1.0], [0.5, 2.0]]}
    inputs = [given("noise", [3], "normal"), given("condition", [2])]
    return manifest("measured", {"sample": task(inputs, {"data": [1, 2, 3]})}, condition=values)


def captioned(*, free: bool = False) -> dict[str, Any]:
    """Return a model conditioned on a text, with a latent."""
    tokens = text(free=[0]) if free else text()
    return manifest(
        "free" if free else "captioned",
        {"decode": task([given("latent", [2]), *tokens], {"data": [1, 2, 3]})},
        latent={"size": 2},
        condition={"kind": "text", "examples": TEXTS},
    )


def several() -> dict[str, Any]:
    """Return a model with four conditions: classes, values, a text of any length, and a picture."""
    parts = {
        "label": {"kind": "classes", "names": CLASSES},
        "pose": {"kind": "values", "names": ["angle"], "examples": [[0.0], [1.0]]},
        "caption": {"kind": "text", "examples": TEXTS},
        "look": {"kind": "item", "data": IMAGE},
    }
    stated = [
        given("label", [3], "condition"),
        given("pose", [1], "condition"),
        *text("caption", free=[0]),
        given("look", [1, 2, 3], "condition"),
    ]
    latent = given("latent", [2])
    return manifest(
        "several",
        {
            "decode": task([latent, *stated], {"data": [1, 2, 3]}),
            "encode": task([given("data", [1, 2, 3]), *stated], {"mean": [2]}),
        },
        latent={"size": 2},
        condition={"kind": "several", "parts": parts},
    )


def numbered() -> dict[str, Any]:
    """Return a model that takes numbers on every endpoint."""
    guidance, steps = number("guidance", 7.5, minimum=0, maximum=20), integer("steps", 8, minimum=1, maximum=50)
    latent, condition, items = given("latent", [2]), given("condition", [3]), given("data", [1, 2, 3])
    spread = number("spread", example=0.5, minimum=0)
    noise = given("uniforms", [6], "uniform")
    return manifest(
        "numbered",
        {
            "decode": task([latent, condition, guidance, steps], {"data": [1, 2, 3]}),
            "encode": task([items, spread], {"mean": [2]}),
            "score": task([items, condition, guidance], {"odd": [], "nats": [1, 2, 3]}),
            "impute": task([items, given("mask", [1, 2, 3]), noise, condition, guidance], {"data": [1, 2, 3]}),
        },
        latent={"size": 2},
        classes=CLASSES,
        scoring={"score": "odd", "surprise": "nats", "terms": [{"name": "odd", "kind": "nll"}]},
        classification={"term": "odd"},
    )


def completing() -> dict[str, Any]:
    """Return a model that completes pictures, and makes a second picture for each."""
    items = [given("data", [1, 2, 3]), given("mask", [1, 2, 3])]
    return manifest(
        "completing",
        {
            "impute": task([*items, given("uniforms", [6], "uniform")], {"picture": [1, 2, 3], "other": [1, 2, 3]}),
            "score": task(items[:1], {"odd": [], "nats": [1, 2, 3]}),
        },
        data={"picture": IMAGE, "other": IMAGE},
        scoring={"score": "odd", "surprise": "nats", "terms": [{"name": "odd", "kind": "nll"}]},
    )


def all_forms(root: Path) -> None:
    """Write all of these artifacts."""
    made = (named(), shaped(), measured(), captioned(), captioned(free=True), several(), numbered(), completing())
    for content in made:
        write(root, content)


# --- requests -----------------------------------------------------------------------------------------------------------------


@contextmanager
def client(root: Path, **options: Any) -> Iterator[TestClient]:
    """Yield a client of a service on these artifacts, ready."""
    settings = Settings(models_dir=root, default_model="named", grpc_port=0, **options)
    with TestClient(create_app(settings)) as client:
        wait_until_ready(client)
        yield client


def ask(client: TestClient, path: str, **fields: Any) -> dict[str, Any]:
    """Return the answer to a request, without the fields that differ between two equal requests."""
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
    """Return the pixels of a picture in an answer."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))
