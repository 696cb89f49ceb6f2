"""The request of each endpoint: the fields that it sends, and how its answer is read. Both clients use it.

`fields` are the arguments of a method by name, None for those that were not given. They are checked here, before anything is sent.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from manifold_client import files, images, rows
from manifold_client.errors import InvalidType, InvalidValue, near, shown, unknown
from manifold_client.results import Classes, Encoded, Imputed, Interpolation, Reconstruction, Samples, Scores
from manifold_client.types import Condition, Costs, End

R = TypeVar("R")
Fields = Mapping[str, Any]

WIRE = {"class_": "class", "start": "from", "stop": "to"}  # names of arguments that differ from the fields
ARGUMENTS = {field: argument for argument, field in WIRE.items()}  # errors name the arguments
# the least and the largest value of integers and numbers; in OPEN, the two limits themselves are excluded
MAX_SEED = 2**63 - 1
WHOLE: dict[str, tuple[int, int | None]] = {
    "n": (1, None), "version": (1, None), "seed": (0, MAX_SEED), "first": (0, MAX_SEED), "steps": (1, None), "budget": (1, None),
    "candidates": (1, 64),
}  # fmt: skip
LEAST_PATH = 2  # smallest number of items on a path
RANGES: dict[str, tuple[float, float]] = {"temperature": (0.01, 100.0)}
OPEN: dict[str, tuple[float, float]] = {
    "false_positive_rate": (0.0, 1.0), "block_rate": (0.0, 1.0), "false_discovery_rate": (0.0, 1.0), "prevalence": (0.0, 1.0),
    "false_positive": (0.0, math.inf), "false_negative": (0.0, math.inf),
}  # fmt: skip
CHOICES = {"fit": ("contain", "strict"), "encoding": ("png", "array"), "method": ("slerp", "lerp")}
TEXTS, TRUTHS = ("model", "prior"), ("return_latents", "explain")
CLASSES = ("class", "target_class")
ARRAYS = ("latents", "codes", "condition", "target_condition", "latent", "values")
PLACES = ("image", "row", "latent", "named_latent", "seed")  # an end is one of these
STATED = ("class", "condition", "conditions")  # and may state these beside it


@dataclass(frozen=True)
class Exchange(Generic[R]):
    """One request and how to read its answer."""

    path: str
    body: dict[str, Any]
    parse: Callable[[Mapping[str, Any]], R]


# --- the endpoints ------------------------------------------------------------------------------------------------------------


def sample(fields: Fields) -> Exchange[Samples]:
    """Return the request for new items."""
    given = _given(fields)
    _one_of(given, "latents", "named_latents", "codes")
    _check_conditions(given)
    return Exchange("/sample", _body(given), Samples.parse)


def encode(fields: Fields) -> Exchange[Encoded]:
    """Return the request for the latents of items."""
    return Exchange("/encode", _body(_items(fields)), Encoded.parse)


def reconstruct(fields: Fields) -> Exchange[Reconstruction]:
    """Return the request for items after encode and decode."""
    given = _items(fields)
    _check_conditions(given, "target_")
    return Exchange("/reconstruct", _body(given), Reconstruction.parse)


def interpolate(fields: Fields) -> Exchange[Interpolation]:
    """Return the request for a path between two ends."""
    given = _given(fields)
    if "steps" in given:
        _whole(given["steps"], "steps", LEAST_PATH, None)
    return Exchange("/interpolate", _body(given), Interpolation.parse)


def anomaly_score(fields: Fields) -> Exchange[Scores]:
    """Return the request for the anomaly scores of items."""
    given = _items(fields)
    _one_of(given, "false_positive_rate", "budget", "costs", "false_discovery_rate")
    return Exchange("/anomaly-score", _body(given), Scores.parse)


def classify(fields: Fields) -> Exchange[Classes]:
    """Return the request for the classes of items."""
    return Exchange("/classify", _body(_items(fields)), Classes.parse)


def impute(fields: Fields) -> Exchange[Imputed]:
    """Return the request that fills in missing values."""
    given = _items(_with_images(fields), "images=… and masks=…")
    if "masks" in given and "images" not in given:
        raise InvalidValue(
            "masks: they belong to images; give images, or remove masks and use None for missing values",
            field="masks",
        )
    body = _body(given)
    if "masks" in body and len(body["masks"]) not in (1, len(body["images"])):
        raise InvalidValue(
            f"masks: {len(body['masks'])} for {len(body['images'])} images; give one mask, or one for each image",
            field="masks",
        )
    return Exchange("/impute", body, Imputed.parse)


def call(endpoint: str, fields: Fields) -> Exchange[dict[str, Any]]:
    """Return the request of any endpoint. The answer is its JSON. Strings among the images must be base64, as in the HTTP request."""
    if not isinstance(endpoint, str) or not endpoint.strip("/"):
        raise InvalidValue(f"endpoint: {shown(endpoint)} is not a name; give one, such as sample", field="endpoint")
    body = {name: _plain(value) for name, value in _given(fields).items()}
    for name in ("images", "masks"):
        if name in body:
            given = fields[name]
            texts = isinstance(given, Sequence) and not isinstance(given, str | bytes)
            body[name] = [
                each if isinstance(each, str) else images.image(each, f"{name}[{place}]") for place, each in enumerate(given)
            ] if texts else images.images(given, name)  # fmt: skip
    if "rows" in body:
        body["rows"] = rows.rows(fields["rows"], "rows")
    return Exchange(f"/{endpoint.strip('/')}", body, dict)


# --- groups of fields -----------------------------------------------------------------------------------------------------------


def _given(fields: Fields) -> dict[str, Any]:
    """Return the fields that were given, by their names on the wire. Raises InvalidValue for both names of a field."""
    for argument, field in WIRE.items():
        if fields.get(argument) is not None and fields.get(field) is not None:
            raise InvalidValue(
                f"{argument}: {argument} and {field} cannot be combined; give only one of them", field=argument
            )
    return {WIRE.get(name, name): value for name, value in fields.items() if value is not None and name != "self"}


def _items(fields: Fields, as_images: str = "images=…") -> dict[str, Any]:
    """Return the fields of a request about items: either images or rows. `as_images` is how images are given instead of rows, for errors."""
    given = _given(fields)
    if "images" in given and "rows" in given:
        raise InvalidValue("rows: a request contains images or rows, not both; send two requests", field="rows")
    if "images" not in given and "rows" not in given:
        raise InvalidValue("images: there are no items; give images or rows", field="images")
    if isinstance(found := given.get("images"), Mapping) or rows.is_table(found):
        raise InvalidType(f"images: a {type(found).__name__} holds rows; give it as rows=…", field="images")
    found = given.get("rows")
    for place, each in enumerate(found if isinstance(found, list | tuple) else [found]):
        if _is_picture(each):
            field = "rows" if each is found else f"rows[{place}]"
            raise InvalidType(f"{field}: {shown(each)} is an image; give {as_images}", field=field)
    if isinstance(found, np.ndarray) and found.ndim in (3, 4):
        raise InvalidType(
            f"rows: an array of shape {found.shape} holds no rows; give (n, columns), or {as_images} for images",
            field="rows",
        )
    _check_conditions(given)
    return given


def _is_picture(given: Any) -> bool:
    """Return whether a value among rows is an image: a picture, the bytes of a file, or a path that is not of a file of rows."""
    if isinstance(given, str):
        return files.is_picture(given)
    return images.is_image(given) and files.reader(given) is None


def _with_images(fields: Fields) -> Fields:
    """Return the fields of `impute` with the first argument as images, if there are masks and it holds no rows."""
    found, masks = fields.get("rows"), fields.get("masks")
    if masks is None or found is None or fields.get("images") is not None or isinstance(found, Mapping):
        return fields
    if rows.is_table(found) or rows.is_series(found):
        return fields
    several = isinstance(found, Sequence) and not images.is_image(found)
    if several and not all(images.is_image(each) or hasattr(each, "__array__") for each in found):
        return fields
    return {**fields, "images": found, "rows": None}


def _one_of(given: Fields, *names: str) -> None:
    several = [ARGUMENTS.get(name, name) for name in names if name in given]
    if len(several) > 1:
        raise InvalidValue(
            f"{several[1]}: {' and '.join(several)} cannot be combined; give only one of them", field=several[1]
        )


def _check_conditions(given: Fields, prefix: str = "") -> None:
    _one_of(given, *(f"{prefix}{name}" for name in STATED))


def _body(given: Fields, path: str = "") -> dict[str, Any]:
    """Return the fields as JSON values. `path` is the path of the object that contains them; it is empty for the arguments themselves."""
    return {
        name: _field(name, value, f"{path}{name}" if path else ARGUMENTS.get(name, name))
        for name, value in given.items()
    }


def _field(name: str, value: Any, field: str) -> Any:
    """Return one field as a JSON value. `field` is its path, for errors."""
    if name in WHOLE:
        return _whole(value, field, *WHOLE[name])
    if name in RANGES or name in OPEN:
        return _number(name, value, field)
    if name in CHOICES:
        if value not in CHOICES[name]:
            raise InvalidValue(
                f"{field}: {shown(value)} is unknown; give one of {', '.join(CHOICES[name])}", field=field
            )
        return value
    if name in TEXTS:
        return _text(value, field)
    if name in TRUTHS:
        if not isinstance(value, bool | np.bool_):
            raise InvalidType(f"{field}: {shown(value)} is not a boolean; give True or False", field=field)
        return bool(value)
    if name in CLASSES:
        return _classes(value, field)
    if name in ARRAYS:
        return _array(value, field)
    return READERS[name](value, field)


# --- single fields ----------------------------------------------------------------------------------------------------------------


def _whole(value: Any, field: str, low: int, high: int | None) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise InvalidType(f"{field}: {shown(value)} is not an integer; give an integer", field=field) from None
    if isinstance(value, bool | np.bool_):
        raise InvalidType(f"{field}: {value} is a boolean; give an integer", field=field)
    if number < low or (high is not None and number > high):
        upper = "or more" if high is None else f"to {'2^63 - 1' if high == MAX_SEED else high}"
        raise InvalidValue(f"{field}: {shown(number)} is not allowed; give an integer of {low} {upper}", field=field)
    return number


def _number(name: str, value: Any, field: str) -> float:
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.integer | np.floating):
        raise InvalidType(f"{field}: {shown(value)} is not a number; give a number", field=field)
    number = float(value)
    if name in RANGES:
        low, high = RANGES[name]
        if not low <= number <= high:
            raise InvalidValue(
                f"{field}: {number:g} is not allowed; give a number from {low:g} to {high:g}", field=field
            )
    else:
        low, high = OPEN[name]
        if not low < number < high:
            wanted = f"above {low:g}" if math.isinf(high) else f"between {low:g} and {high:g}"
            raise InvalidValue(f"{field}: {number:g} is not allowed; give a finite number {wanted}", field=field)
    return number


def _text(value: Any, field: str) -> str:
    if not isinstance(value, str):
        raise InvalidType(f"{field}: {shown(value)} is not a string; give a name", field=field)
    if not value:
        raise InvalidValue(f"{field}: it is empty; give a name, or remove the argument", field=field)
    return value


def _classes(value: Any, field: str) -> Any:
    plain = _plain(value)
    if isinstance(plain, Mapping):
        return {str(name): _weight(weight, f"{field}.{name}") for name, weight in plain.items()}
    many = plain if isinstance(plain, list) else [plain]
    if not many:
        raise InvalidValue(f"{field}: the list is empty; give one class, or one for each item", field=field)
    for each in many:
        if isinstance(each, bool) or not isinstance(each, str | int):
            raise InvalidType(
                f"{field}: {shown(each)} is not a class; give a name, an index, or weights by name", field=field
            )
    return plain


def _weight(value: Any, field: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise InvalidValue(f"{field}: {shown(value)} is not a weight; give a finite number of 0 or more", field=field)
    return value


def _array(value: Any, field: str) -> Any:
    """Return numbers as nested lists. Raises InvalidType for anything else, InvalidValue for ragged lists and for NaN."""
    if isinstance(value, str | bytes | Mapping):
        raise InvalidType(
            f"{field}: {shown(value)} is not an array; give an array or nested lists of numbers", field=field
        )
    try:
        array = np.asarray(value)
    except (ValueError, TypeError):
        raise InvalidValue(f"{field}: the lists have different lengths; give lists of one shape", field=field) from None
    if array.dtype.kind not in "iuf" or not array.ndim:
        raise InvalidType(
            f"{field}: {shown(value)} is not an array of numbers; give an array or nested lists of numbers", field=field
        )
    if not array.size:
        raise InvalidValue(f"{field}: it is empty; give at least one number", field=field)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InvalidValue(f"{field}: it holds NaN or infinity; give finite numbers", field=field)
    return array.tolist()


def _named_arrays(value: Any, field: str) -> dict[str, Any]:
    return {name: _array(each, f"{field}.{name}") for name, each in _mapping(value, field).items()}


def _inputs(value: Any, field: str) -> dict[str, Any]:
    return {name: _one_or_each(each, f"{field}.{name}") for name, each in _mapping(value, field).items()}


def _one_or_each(value: Any, field: str) -> Any:
    """Return one number for all items, or a list with one for each."""
    value = value[()] if isinstance(value, np.ndarray) and not value.ndim else value
    one = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    return _array([value], field)[0] if one else _array(value, field)


def _conditions(value: Any, field: str) -> dict[str, Any]:
    return {name: _condition(each, f"{field}.{name}") for name, each in _mapping(value, field).items()}


def _condition(value: Any, field: str) -> dict[str, Any]:
    given = _known(value, field, list(Condition.__annotations__), "a condition")
    if len(given) != 1:
        found = ", ".join(given) or "nothing"
        raise InvalidValue(
            f"{field}: it states {found}; state one of {', '.join(Condition.__annotations__)}", field=field
        )
    return _body(given, f"{field}.")


def _end(value: Any, field: str) -> dict[str, Any]:
    """Return an end of an interpolation. Raises InvalidValue if it states two points of the latent space, or neither a point nor a condition."""
    keys = list(End.__annotations__)
    value = _end_of(value, field, keys)
    given = _known(value, field, keys, "an end")
    places = [name for name in PLACES if name in given]
    if len(places) > 1:
        raise InvalidValue(
            f"{field}: {' and '.join(places)} cannot be combined; give only one of {', '.join(PLACES)}", field=field
        )
    if not places and not any(name in given for name in STATED):
        found = f"only {', '.join(given)} is given" if given else "it is empty"
        raise InvalidValue(f"{field}: {found}; give one of {', '.join((*PLACES, *STATED))}", field=field)
    _check_conditions({f"{field}.{name}": each for name, each in given.items()}, f"{field}.")
    return _body(given, f"{field}.")


def _end_of(value: Any, field: str, keys: Sequence[str]) -> Any:
    """Return an end as a mapping: an image alone is the image of an end. Raises InvalidType for other values, with the mapping to write."""
    if images.is_image(value) or (hasattr(value, "__array__") and not rows.is_series(value)):
        return {"image": value}
    if rows.is_series(value):
        return {"row": value}
    if not isinstance(value, Mapping):
        raise InvalidType(
            f"{field}: {shown(value)} is not an end; give an image, or a mapping such as {{'seed': 1}}, {{'image': …}} or {{'row': …}}",
            field=field,
        )
    if value and not any(name in keys for name in value) and not any(near(str(name), keys, 0.7) for name in value):
        raise InvalidType(
            f"{field}: an end has no fields {', '.join(shown(name) for name in list(value)[:3])}; write {{'row': …}} for a row",
            field=field, valid=list(keys),
        )  # fmt: skip
    return value


def _costs(value: Any, field: str) -> dict[str, Any]:
    keys = list(Costs.__annotations__)
    given = _known(value, field, keys, "costs")
    if missing := [name for name in keys if name not in given]:
        raise InvalidValue(f"{field}: {', '.join(missing)} missing; give {', '.join(keys)}", field=field)
    return _body(given, f"{field}.")


def _texts(value: Any, field: str) -> list[str]:
    many = [value] if isinstance(value, str) else _plain(value)
    if not isinstance(many, list) or not all(isinstance(each, str) for each in many):
        raise InvalidType(
            f"{field}: {shown(value)} is not a list of strings; give one string, or one for each item", field=field
        )
    if not many:
        raise InvalidValue(f"{field}: the list is empty; give one string, or one for each item", field=field)
    return many


def _mapping(value: Any, field: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidType(f"{field}: {shown(value)} is not a mapping; give values by name: {{name: …}}", field=field)
    return value


def _known(value: Any, field: str, keys: list[str], what: str) -> dict[str, Any]:
    """Return the entries of a mapping that are given. Raises InvalidType for a key that is unknown."""
    for name in _mapping(value, field):
        if name not in keys:
            raise InvalidType(f"{field}.{unknown(str(name), keys, what)}", field=f"{field}.{name}", valid=keys)
    return {name: each for name, each in value.items() if each is not None}


def _plain(value: Any) -> Any:
    """Convert a value to JSON types: arrays and tuples become lists, within mappings too."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return {name: _plain(each) for name, each in value.items()} if isinstance(value, Mapping) else value


READERS: dict[str, Callable[[Any, str], Any]] = {
    "images": images.images, "masks": images.images, "image": images.image, "rows": rows.rows, "row": rows.row, "named_latents": _named_arrays,
    "named_latent": _named_arrays, "inputs": _inputs, "conditions": _conditions, "target_conditions": _conditions, "from": _end, "to": _end,
    "costs": _costs, "texts": _texts, "guidance": _one_or_each,
}  # fmt: skip
