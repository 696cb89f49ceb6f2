"""Recipes: the model and options that made a picture, stored as text in its PNG, and how to make the picture again.

The pixels are equal with the same artifact, ONNX Runtime version and type of CPU. The bytes are equal with the same Pillow version.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from manifold.runtime import imaging
from manifold.runtime.conditions import (
    ONLY,
    ByClass,
    ByItem,
    BySeveral,
    ByText,
    ByValues,
    Condition,
    One,
    of_items,
    shortest,
)
from manifold.runtime.errors import InvalidValue, ManifoldError, cut, shown
from manifold.runtime.inputs import TEMPERATURES
from manifold.runtime.manifest import NAME, ROLE, Manifest
from manifold.runtime.operations import Samples, is_reproducible, takes_temperature
from manifold.runtime.sampling import MAX_SEED

if TYPE_CHECKING:
    from manifold.runtime.engine import Model

Array = NDArray[Any]
PNG = "image/png"
ORIGINAL = "use the original PNG"  # the advice for a damaged recipe
MAX_ITEMS = 65_536  # limit for the items of a picture; it is also the default limit of the service


def for_samples(
    manifest: Manifest, checksum: str, samples: Samples, options: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return one recipe for each item. `options` come from the request: first, condition, prior, temperature, numbers, latents, codes."""
    given = options.get("classes") if options.get("condition") is None else options["condition"]
    condition = None if given is None else shortest(manifest, given)
    common = {
        "model": manifest.name, "version": manifest.version, "checksum": checksum, "temperature": options.get("temperature") or 1.0,
    }  # fmt: skip
    if options.get("prior") is not None:
        common["prior"] = options["prior"]
    if not is_reproducible(manifest, options.get("latents"), options.get("codes")):
        common["reproducible"] = False
    recipes = []
    for index in range(len(samples.data)):
        recipe = dict(common)
        if samples.seed is not None:
            recipe |= {"seed": samples.seed, "item": (options.get("first") or 0) + index}
        recipes.append({**recipe, **_condition(samples, condition, index), **_given(options, len(samples.data), index)})
    return recipes


def _condition(samples: Samples, condition: Condition | None, index: int) -> dict[str, Any]:
    """Return the fields of the recipe of one item that describe its condition."""
    if isinstance(condition, ByValues):
        assert samples.condition is not None
        return {"condition": np.broadcast_to(condition.values, samples.condition.shape)[index].tolist()}
    if isinstance(condition, BySeveral | ByText | ByItem):
        parts = condition.parts if isinstance(condition, BySeveral) else {ONLY: condition}
        return {
            "conditions": {
                name: _part(of_items(part, np.asarray([index]), len(samples.data))) for name, part in parts.items()
            }
        }
    if samples.condition is None:
        return {}
    choice = "random" if condition is None else condition.choice
    return {"class": choice[index] if isinstance(choice, list) else choice}


def _part(part: Condition) -> dict[str, Any]:
    """Return a condition of one item in its long form. Items such as images are not stored in recipes."""
    match part:
        case ByText(texts):
            return {"texts": list(texts)}
        case ByValues(values):
            return {"values": np.atleast_2d(values)[0].tolist()}
        case ByClass(choice):
            return {"class": choice[0] if isinstance(choice, list) else choice}
    return {}


def _given(options: Mapping[str, Any], n: int, index: int) -> dict[str, Any]:
    """Return the arrays and numbers that the request gives for one item."""
    recipe: dict[str, Any] = {}
    latents, codes, numbers = options.get("latents"), options.get("codes"), options.get("numbers")
    if isinstance(latents, Mapping):
        recipe["named_latents"] = {role: np.asarray(values)[index].tolist() for role, values in latents.items()}
    elif latents is not None:
        recipe["latents"] = np.asarray(latents)[index].tolist()
    if codes is not None:
        recipe["codes"] = np.asarray(codes)[index].tolist()
    if numbers:
        recipe["inputs"] = {name: float(np.broadcast_to(value, (n,))[index]) for name, value in numbers.items()}
    return recipe


def check(recipe: object) -> dict[str, Any]:
    """Return a recipe after a check that all its values have the form that this project writes, so that it costs at most one picture.

    Raises InvalidValue for a recipe that is damaged or was written by hand.
    """
    if not isinstance(recipe, dict):
        raise _damaged("recipe", recipe, "an object")
    for key, (legal, kind) in FIELDS.items():
        if (key in recipe or key in NEEDED) and not legal(recipe.get(key)):
            raise _damaged(key, recipe.get(key), kind)
    if ("seed" in recipe) != ("item" in recipe):
        raise InvalidValue(f"the recipe is damaged: seed and item: only one is present; {ORIGINAL}")
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


def _objects(value: object) -> bool:
    return all(isinstance(each, dict) for each in (value if isinstance(value, list) else [value]))


def _damaged(key: str, value: object, kind: str) -> InvalidValue:
    return InvalidValue(f"the recipe is damaged: {key}: {shown(value)} is not {kind}; {ORIGINAL}")


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
    "conditions": (_objects, "an object, or a list of them"),
    "inputs": (_objects, "an object of numbers by name, or a list of them"),
    "latents": (_numbers, "a list of numbers"),
    "named_latents": (_objects, "an object of lists by name, or a list of them"),
    "codes": (_numbers, "a list of whole numbers"),
    "output": (_text(ROLE), "the role of an output"),
}  # fmt: skip
NEEDED = ("model", "version", "checksum", "temperature")


def remake(model: Model, recipe: Mapping[str, Any]) -> bytes:
    """Make the picture of a recipe again. Raises InvalidValue if the recipe is damaged or belongs to another artifact."""
    recipe, manifest = check(dict(recipe)), model.manifest
    role = recipe.get("output", manifest.main)
    if role not in manifest.items:
        raise _damaged("output", role, f"an output of {manifest.name}")
    spec = manifest.spec_of(role)
    if not spec.pictures:
        raise InvalidValue(
            f"model: {manifest.name} makes {spec.noun}, not pictures; give a picture that a model of images made"
        )
    if recipe.get("checksum") != model.checksum:
        raise InvalidValue(
            f"the recipe belongs to {recipe.get('model')} {recipe.get('version')} with checksum {str(recipe.get('checksum'))[:12]}…, but this "
            f"artifact has {model.checksum[:12]}…; use the artifact that made the picture"
        )
    try:
        options = _options(recipe, manifest)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidValue(f"the recipe is damaged: {cut(str(error))}; {ORIGINAL}") from None
    n = recipe.get("n", 1)
    if (pixels := n * math.prod(spec.shape[1:])) > imaging.MAX_PIXELS:
        raise InvalidValue(
            f"the recipe is damaged: n: {n} items have {pixels} pixels, more than the limit of {imaging.MAX_PIXELS} for a picture; {ORIGINAL}"
        )
    if not takes_temperature(manifest, options.get("latents"), options.get("codes")):
        del options["temperature"]  # every recipe has one
    samples = model.sample(n, **options)
    made = samples.data if role == manifest.main else samples.others.get(role)
    if made is None:
        raise _damaged("output", role, f"an output of {manifest.name}")
    own = {"output": role} if role != manifest.main else {}
    recipes = [{**each, **own} for each in for_samples(manifest, model.checksum, samples, options)]
    return spec.sheet(made, recipes) if "n" in recipe else spec.write_file(made, PNG, lambda: recipes)


def difference(original: bytes, made: bytes) -> str:
    """Return how the PNG `made` differs from `original`, as measured: the bytes of the files, and their pixels if the bytes differ.

    The mean difference is over all values of all pixels. A grey picture and a coloured one are compared in RGB.
    """
    if made == original:
        return "the same bytes"
    try:
        before, after = (imaging.read_unscaled(content, 3)[0].astype(np.int16) for content in (original, made))
    except ManifoldError as error:
        return f"the original cannot be compared: {error.message}"
    if before.shape != after.shape:
        return f"{_size(after)} pixels, but the original has {_size(before)}"
    distance = np.abs(before - after)
    if not distance.any():
        return f"the same pixels; the files differ: {len(made)} bytes, and {len(original)} of the original"
    changed, pixels = int(distance.any(axis=0).sum()), distance[0].size
    return f"{changed} of {pixels} pixels differ; largest difference {distance.max()} of 255, mean difference {distance.mean():.3g}"


def _size(pixels: Array) -> str:
    """Return the size of pixels (C, H, W)."""
    return f"{pixels.shape[2]}x{pixels.shape[1]}"


def _options(recipe: Mapping[str, Any], manifest: Manifest) -> dict[str, Any]:
    """Return the arguments of Model.sample. Raises InvalidValue, TypeError, ValueError or OverflowError for invalid arrays."""
    grid = "n" in recipe
    options: dict[str, Any] = {"temperature": float(recipe["temperature"])}
    if "seed" in recipe:
        options |= {"seed": int(recipe["seed"]), "first": int(recipe["item"])}
    if "prior" in recipe:
        options["prior"] = recipe["prior"]
    if "class" in recipe:
        options["condition"] = ByClass(recipe["class"])
    if "conditions" in recipe:
        options["condition"] = _conditions(_by_name(recipe, "conditions"), len(manifest.conditioned) > 1)
    if "inputs" in recipe:
        options["numbers"] = _by_name(recipe, "inputs")
    if "condition" in recipe:
        options["condition"] = _array(
            recipe, "condition", np.float64
        )  # not converted, since the recipe of the new picture repeats the values
    if "latents" in recipe:
        shape = manifest.space.dims if manifest.space else None
        options["latents"] = _array(recipe if grid else {"latents": [recipe["latents"]]}, "latents", np.float32, shape)
    if "named_latents" in recipe:
        options["latents"] = {
            role: _array({"n": recipe.get("n", 1), role: rows}, role, np.float32, manifest.latents[role].dims)
            for role, rows in _by_name(recipe, "named_latents").items() if role in manifest.latents
        }  # fmt: skip
    if "codes" in recipe:
        spec = manifest.codes
        codes = _array(
            recipe if grid else {"codes": [recipe["codes"]]}, "codes", np.int64, spec.shape if spec else None
        )
        if spec is not None and not ((codes >= 0) & (codes < spec.levels)).all():
            raise InvalidValue(f"the recipe is damaged: codes: one is not from 0 to {spec.levels - 1}; {ORIGINAL}")
        options["codes"] = codes
    return options


def _by_name(recipe: Mapping[str, Any], key: str) -> dict[str, list[Any]]:
    """Return the values of the items of a recipe by name: for each name a list with one value per item."""
    items = recipe[key] if "n" in recipe else [recipe[key]]
    if not isinstance(items, list) or len(items) != recipe.get("n", 1) or len({tuple(item) for item in items}) != 1:
        raise _damaged(key, recipe[key], "one object for each item, with the same names")
    return {name: [item[name] for item in items] for name in items[0]}


def _conditions(parts: Mapping[str, list[Any]], several: bool) -> Condition:
    """Return the conditions of all items from their long forms. Raises InvalidValue for a condition that recipes do not store."""
    read: dict[str, One] = {}
    for name, values in parts.items():
        match values:
            case [{"texts": list()}, *_]:
                read[name] = ByText(tuple(str(value["texts"][0]) for value in values))
            case [{"values": list()}, *_]:
                read[name] = ByValues(np.asarray([value["values"] for value in values], np.float64))
            case [{"class": str() | int() | dict() as first}, *others]:
                same = all(value == {"class": first} for value in others)
                read[name] = ByClass(first if same else [value["class"] for value in values])
            case _:
                raise InvalidValue(
                    f"the recipe does not contain conditions.{name}, such as an image; the picture cannot be made again"
                )
    return BySeveral(read) if several else next(iter(read.values()))


def _array(recipe: Mapping[str, Any], key: str, dtype: Any, shape: tuple[int, ...] | None = ()) -> Array:
    """Return a list of a recipe as an array (n, *shape). An empty `shape` allows any shape; None means that the model takes no such list."""
    if shape is None:
        raise InvalidValue(f"the recipe is damaged: {key}: the model takes none; {ORIGINAL}")
    array = np.asarray(recipe[key])
    if array.dtype.kind not in ("iu" if dtype is np.int64 else "iuf") or not np.isfinite(array).all():
        raise InvalidValue(f"the recipe is damaged: {key}: {shown(recipe[key])} are not all finite numbers; {ORIGINAL}")
    wanted = (recipe.get("n", 1), *shape)
    if shape and array.shape != wanted:
        raise InvalidValue(
            f"the recipe is damaged: {key}: the shape is {shown(list(array.shape))}, not {list(wanted)}; {ORIGINAL}"
        )
    return array.astype(dtype)
