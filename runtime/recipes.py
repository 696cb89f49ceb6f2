"""Recipes: what made a picture, carried by its PNG as text, and how to make it again.

The same pixels on the same artifact, ONNX Runtime version and type of CPU; the same bytes with the same Pillow.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime import codecs
from runtime.engine import Model
from runtime.errors import InvalidValue
from runtime.manifest import Manifest
from runtime.operations import Samples, is_reproducible
from runtime.spec import ImageSpec

Array = NDArray[Any]


def for_samples(
    manifest: Manifest, checksum: str, samples: Samples, options: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """One recipe for each item. `options` are those of the request: first, classes, prior, temperature, and given latents or codes."""
    common = {
        "model": manifest.name,
        "version": manifest.version,
        "checksum": checksum,
        "temperature": options.get("temperature", 1.0),
    }
    if options.get("prior") is not None:
        common["prior"] = options["prior"]
    if not is_reproducible(manifest, options.get("latents"), options.get("codes")):
        common["reproducible"] = False
    classes = options.get("classes")
    recipes = []
    for index in range(len(samples.data)):
        recipe = dict(common)
        if samples.seed is not None:
            recipe |= {"seed": samples.seed, "item": options.get("first", 0) + index}
        if isinstance(classes, np.ndarray):
            recipe["condition"] = np.broadcast_to(classes, samples.condition.shape)[index].tolist()  # type: ignore[union-attr]
        elif samples.condition is not None:
            recipe["class"] = "random" if classes is None else classes[index] if isinstance(classes, list) else classes
        for given in ("latents", "codes"):
            if options.get(given) is not None:
                recipe[given] = np.asarray(options[given])[index].tolist()
        recipes.append(recipe)
    return recipes


def for_grid(recipes: list[dict[str, Any]]) -> dict[str, Any]:
    """One recipe for a grid of items."""
    first, n = recipes[0], len(recipes)
    recipe = {**first, "n": n}
    for key in ("class", "condition", "latents", "codes"):
        values = [one[key] for one in recipes if key in one]
        if values and (key != "class" or any(value != values[0] for value in values)):
            recipe[key] = values
    return recipe


def pictures(manifest: Manifest, samples: Samples, recipes: list[dict[str, Any]]) -> list[bytes]:
    """Each item as a PNG with its recipe."""
    assert isinstance(manifest.data, ImageSpec)
    pixels = codecs.to_uint8(samples.data, manifest.data)
    return [codecs.to_png(image, recipe) for image, recipe in zip(pixels, recipes, strict=True)]


def grid_picture(manifest: Manifest, samples: Samples, recipes: list[dict[str, Any]]) -> bytes:
    """All items side by side as one PNG with its recipe."""
    assert isinstance(manifest.data, ImageSpec)
    return codecs.to_png(codecs.grid(codecs.to_uint8(samples.data, manifest.data)), for_grid(recipes))


def remake(model: Model, recipe: Mapping[str, Any]) -> bytes:
    """The picture of a recipe, made again. Raises InvalidValue where the recipe is for another artifact, or damaged."""
    manifest = model.manifest
    if not isinstance(manifest.data, ImageSpec):
        raise InvalidValue(f"{manifest.name} makes rows, not pictures")
    if recipe.get("checksum") != model.checksum:
        raise InvalidValue(
            f"the recipe is for {recipe.get('model')} {recipe.get('version')} with checksum {str(recipe.get('checksum'))[:12]}…, but this "
            f"artifact's is {model.checksum[:12]}…: other weights make another picture"
        )
    try:
        options = _options(recipe)
        n = int(recipe.get("n", 1))
    except (TypeError, ValueError, KeyError) as error:
        raise InvalidValue(f"the recipe is damaged: {error}") from None
    samples = model.sample(n, **options)
    recipes = for_samples(manifest, model.checksum, samples, options)
    return grid_picture(manifest, samples, recipes) if "n" in recipe else pictures(manifest, samples, recipes)[0]


def _options(recipe: Mapping[str, Any]) -> dict[str, Any]:
    grid = "n" in recipe
    options: dict[str, Any] = {"temperature": float(recipe["temperature"])}
    if "seed" in recipe:
        options |= {"seed": int(recipe["seed"]), "first": int(recipe["item"])}
    if "prior" in recipe:
        options["prior"] = recipe["prior"]
    if "class" in recipe:
        options["classes"] = recipe["class"]
    if "condition" in recipe:
        options["classes"] = np.asarray(recipe["condition"], np.float64)  # as given: the picture's text repeats it
    if "latents" in recipe:
        options["latents"] = np.asarray(recipe["latents"] if grid else [recipe["latents"]], np.float32)
    if "codes" in recipe:
        options["codes"] = np.asarray(recipe["codes"] if grid else [recipe["codes"]], np.int64)
    return options
