"""The recorded responses in the OpenAPI document. As a program it records them again: `python -m tests.answers`."""

from __future__ import annotations

import base64
import io
import json
import math
from typing import Any

import numpy as np
from PIL import Image
from starlette.testclient import TestClient

from manifold.service.core import use_cases
from manifold.service.http import answers
from manifold.service.http.app import create_app
from manifold.service.http.openapi import MODEL
from manifold.service.inference.described import INFERENCE
from manifold.service.models.registry import UNLOADED
from manifold.service.settings import Settings
from tests.conftest import SHIPPED, wait_until_ready

LONGEST = 12  # numbers of a list
SHORTER = {"columns": 3, "neighbours": 1, "metrics": 2, "means": 2}  # entries of other lists that are kept
CUT = "Long lists are cut here."
ROUTES = {"/models": "/models", "/models/{name}": f"/models/{MODEL}", "/v2": "/v2"} | {
    f"{start}/{{name}}{end}": f"{start}/{MODEL}{end}"
    for start, ends in (("/models", ("/points", "/curves")), ("/v2/models", ("", "/config")))
    for end in ends
}


def made(client: TestClient) -> dict[str, Any]:
    """Return the responses and the pictures of the examples, from a service with the shipped models."""
    responses: dict[str, Any] = {}
    pictures: dict[str, str] = {}
    for case in use_cases.every.values():
        responses[case.path] = {
            name: _example(each.summary, client.post(case.path, json=each.fields).json())
            for name, each in case.examples.items()
        }
        first = next(iter(case.examples.values()))
        if case.gives_items:
            content = client.post(case.path, json=first.fields, headers={"accept": answers.PNG}).content
            pictures[case.path] = base64.b64encode(_without_recipe(content)).decode()
    for path, url in ROUTES.items():
        body = client.get(url).json()
        if path == "/models":
            body = {"models": [each for each in body["models"] if each["name"] == MODEL]}
        responses[path] = {"model": _example("A shipped model" if "name" in path else "The response", body)}
    inferred = client.post(f"/v2/models/{MODEL}/infer", json=INFERENCE).json()
    responses["/v2/models/{name}/infer"] = {"draw": _example("One item of a seed", inferred)}
    (summary,) = responses["/models"]["model"]["value"]["models"]
    gone = {
        **summary,
        "state": "unavailable",
        "device": None,
        "reason": UNLOADED.replace("NAME", MODEL),
        "reproducible": None,
    }
    for name, value in (("load", summary), ("unload", gone)):
        responses[f"/admin/models/{{name}}/{name}"] = {"model": _example("The response", value)}
    return {"responses": responses, "pictures": pictures}


def changed(client: TestClient) -> list[str]:
    """Return the places in which the recorded responses are no longer those of the service."""
    return differences(json.loads(answers.RECORDED.read_text()), made(client))


def _example(summary: str, body: Any) -> dict[str, Any]:
    value = _short(body)
    return {"summary": summary if value == _steady(body) else f"{summary}. {CUT}", "value": value}


def _steady(value: Any) -> Any:
    """Return a value with floats of four digits, and without what differs from one response to the next."""
    if isinstance(value, dict):
        return {name: answers.STEADY.get(name, _steady(each)) for name, each in value.items()}
    if isinstance(value, list):
        return [_steady(each) for each in value]
    return float(f"{value:.4g}") if isinstance(value, float) and math.isfinite(value) else value


def _short(value: Any, name: str = "") -> Any:
    """Return a steady value with short lists."""
    if isinstance(value, dict):
        return {key: answers.STEADY.get(key, _short(each, key)) for key, each in value.items()}
    if isinstance(value, list):
        numbers = all(isinstance(each, int | float) for each in value)
        return [_short(each) for each in value[: SHORTER.get(name, LONGEST if numbers else len(value))]]
    return _steady(value)


def _without_recipe(content: bytes) -> bytes:
    file = io.BytesIO()
    image = Image.open(io.BytesIO(content))
    image.info = {}
    image.save(file, "PNG", optimize=True)
    return file.getvalue()


def differences(ours: Any, theirs: Any, path: str = "") -> list[str]:
    """Return the places in which two records differ by more than rounding on another type of CPU."""
    if isinstance(ours, dict) and isinstance(theirs, dict) and ours.keys() == theirs.keys():
        return [each for name in ours for each in differences(ours[name], theirs[name], f"{path}.{name}")]
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        return [each for i in range(len(ours)) for each in differences(ours[i], theirs[i], f"{path}[{i}]")]
    if ours == theirs or (
        _is_number(ours) and _is_number(theirs) and math.isclose(ours, theirs, rel_tol=0.02, abs_tol=0.01)
    ):
        return []
    if _is_image(ours) and _is_image(theirs) and np.abs(_pixels(ours) - _pixels(theirs)).mean() < 2:
        return []
    return [f"{path}: {ours!r} is now {theirs!r}"[:300]]


def _is_number(value: Any) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool)


def _is_image(value: Any) -> bool:
    return isinstance(value, str) and value.startswith("iVBOR")


def _pixels(text: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB"), np.float64)


def main() -> None:
    """Record the responses."""
    with TestClient(create_app(Settings(models_dir=SHIPPED, device="cpu", lazy=True, hosts=("testserver",)))) as client:
        wait_until_ready(client)
        answers.RECORDED.write_text(json.dumps(made(client), indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
