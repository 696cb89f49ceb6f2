"""Recipes: what made a picture, carried by its PNG as text, and how to make it again.

The same pixels on the same artifact, ONNX Runtime version and type of CPU; the same bytes with the same Pillow.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from manifold.runtime import imaging
from manifold.runtime.errors import InvalidValue, cut, shown
from manifold.runtime.inputs import TEMPERATURES
from manifold.runtime.manifest import NAME, Manifest
from manifold.runtime.operations import Samples, is_reproducible
from manifold.runtime.sampling import MAX_SEED

if TYPE_CHECKING:
    from manifold.runtime.engine import Model

Array = NDArray[Any]
PNG = "image/png"
MAX_ITEMS = 65_536  # of a picture that is made again; a service makes as many at most where nothing is set


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


def check(recipe: object) -> dict[str, Any]:
    """Return a recipe whose values are all of the kind that this project writes, so that none costs more than one picture.

    Raises InvalidValue for one that is damaged, or that a person has written.
    """
    if not isinstance(recipe, dict):
        raise _damaged("it", recipe, "an object")
    for key, (legal, kind) in FIELDS.items():
        if (key in recipe or key in NEEDED) and not legal(recipe.get(key)):
            raise _damaged(key, recipe.get(key), kind)
    if ("seed" in recipe) != ("item" in recipe):
        raise InvalidValue("the recipe is damaged: seed and item: both are needed, or neither")
    return recipe


def _whole(lowest: int, highest: int) -> Callable[[object], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and lowest <= value <= highest


def _text(pattern: str) -> Callable[[object], bool]:
    return lambda value: isinstance(value, str) and re.fullmatch(pattern, value) is not None


def _temperature(value: object) -> bool:
    return (
        isinstance(value, int | float) and not isinstance(value, bool) and TEMPERATURES[0] <= value <= TEMPERATURES[1]
    )


def _class(value: object) -> bool:
    return isinstance(value, str) or _whole(0, MAX_SEED)(value) or _weights(value)


def _weights(value: object) -> bool:
    return isinstance(value, dict) and all(
        isinstance(weight, int | float) and not isinstance(weight, bool) for weight in value.values()
    )


def _numbers(value: object) -> bool:
    return isinstance(value, list)


def _damaged(key: str, value: object, kind: str) -> InvalidValue:
    return InvalidValue(f"the recipe is damaged: {key}: {shown(value)} is not {kind}")


FIELDS: dict[str, tuple[Callable[[object], bool], str]] = {
    "model": (_text(NAME), "the name of a model"),
    "version": (_whole(1, 10**9), "a version"),
    "checksum": (_text("[0-9a-f]{64}"), "a SHA-256"),
    "temperature": (_temperature, f"a number from {TEMPERATURES[0]:g} to {TEMPERATURES[1]:g}"),
    "n": (_whole(1, MAX_ITEMS), f"a number of items, 1 to {MAX_ITEMS}"),
    "seed": (_whole(0, MAX_SEED), "a seed, 0 to 2^63 - 1"),
    "item": (_whole(0, MAX_SEED), "an index, 0 to 2^63 - 1"),
    "prior": (_text(".{1,64}"), "the name of a prior"),
    "class": (lambda value: all(map(_class, value if isinstance(value, list) else [value])), "a class, weights by class, or a list of them"),
    "condition": (_numbers, "a list of numbers"),
    "latents": (_numbers, "a list of numbers"),
    "codes": (_numbers, "a list of whole numbers"),
}  # fmt: skip
NEEDED = ("model", "version", "checksum", "temperature")


def remake(model: Model, recipe: Mapping[str, Any]) -> bytes:
    """Return the picture of a recipe, made again. Raises InvalidValue if the recipe is for another artifact, or damaged."""
    recipe, manifest = check(dict(recipe)), model.manifest
    spec = manifest.data
    if not spec.pictures:
        raise InvalidValue(f"{manifest.name} makes {spec.noun}, not pictures")
    if recipe.get("checksum") != model.checksum:
        raise InvalidValue(
            f"the recipe is for {recipe.get('model')} {recipe.get('version')} with checksum {str(recipe.get('checksum'))[:12]}…, but this "
            f"artifact's is {model.checksum[:12]}…: other weights make another picture"
        )
    try:
        options = _options(recipe, manifest)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidValue(f"the recipe is damaged: {cut(str(error))}") from None
    n = recipe.get("n", 1)
    if (pixels := n * math.prod(spec.shape[1:])) > imaging.MAX_PIXELS:
        raise InvalidValue(
            f"the recipe is damaged: n: {n} items have {pixels} pixels, and no picture with more than {imaging.MAX_PIXELS} is read"
        )
    samples = model.sample(n, **options)
    recipes = for_samples(manifest, model.checksum, samples, options)
    return spec.sheet(samples.data, recipes) if "n" in recipe else spec.write_file(samples.data, PNG, recipes)


def _options(recipe: Mapping[str, Any], manifest: Manifest) -> dict[str, Any]:
    """Return the arguments of Model.sample. Raises InvalidValue, TypeError, ValueError or OverflowError for arrays that cannot be."""
    grid = "n" in recipe
    options: dict[str, Any] = {"temperature": float(recipe["temperature"])}
    if "seed" in recipe:
        options |= {"seed": int(recipe["seed"]), "first": int(recipe["item"])}
    if "prior" in recipe:
        options["prior"] = recipe["prior"]
    if "class" in recipe:
        options["classes"] = recipe["class"]
    if "condition" in recipe:
        options["classes"] = _array(recipe, "condition", np.float64)  # as given: the picture's text repeats it
    if "latents" in recipe:
        shape = (manifest.latent.size,) if manifest.latent else None
        options["latents"] = _array(recipe if grid else {"latents": [recipe["latents"]]}, "latents", np.float32, shape)
    if "codes" in recipe:
        about = manifest.codes
        codes = _array(
            recipe if grid else {"codes": [recipe["codes"]]}, "codes", np.int64, about.shape if about else None
        )
        if about is not None and not ((codes >= 0) & (codes < about.levels)).all():
            raise InvalidValue(f"the recipe is damaged: codes: one is not 0 to {about.levels - 1}")
        options["codes"] = codes
    return options


def _array(recipe: Mapping[str, Any], key: str, dtype: Any, shape: tuple[int, ...] | None = ()) -> Array:
    """Return a list of a recipe as an array (n, *shape), of any shape if `shape` is empty; None says that the model takes no such list."""
    if shape is None:
        raise InvalidValue(f"the recipe is damaged: {key}: the model takes none")
    array = np.asarray(recipe[key])
    if array.dtype.kind not in ("iu" if dtype is np.int64 else "iuf") or not np.isfinite(array).all():
        raise InvalidValue(f"the recipe is damaged: {key}: {shown(recipe[key])} are no finite numbers")
    wanted = (recipe.get("n", 1), *shape)
    if shape and array.shape != wanted:
        raise InvalidValue(f"the recipe is damaged: {key}: the shape is {shown(list(array.shape))}, not {list(wanted)}")
    return array.astype(dtype)
