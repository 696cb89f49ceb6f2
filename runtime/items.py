"""The conversion of items that users of the library give into model inputs: arrays, image files, pictures, rows and data frames.

An array of floats with the shape of the model's inputs, (n, *shape) or (*shape) for one item, is used unchanged. An array of another type holds
pixels. Everything else is read like a request to the service: image files are fitted to the model's size, rows are encoded.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from manifold.runtime import extras, pictures
from manifold.runtime.errors import InvalidValue, Unavailable, cut, either, reason, shown
from manifold.runtime.kinds import Kind
from manifold.runtime.kinds.base import Items, Reading

Array = NDArray[Any]
# the functions that read files of rows, by suffix
FILES = {
    ".csv": "pyarrow.csv.read_csv", ".parquet": "pyarrow.parquet.read_table", ".feather": "pyarrow.feather.read_table",
    ".jsonl": "pyarrow.json.read_json", ".ndjson": "pyarrow.json.read_json", ".json": "pandas.read_json", ".xlsx": "pandas.read_excel",
}  # fmt: skip
LEEWAY = 1e-3  # how far floats may be outside the range of the model, as a share of its width


class ArrowStream(Protocol):
    """A table with the Arrow PyCapsule interface, such as those of pandas, polars and pyarrow."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """Return a PyCapsule with a stream of record batches."""


class Picture(Protocol):
    """An image of Pillow."""

    def save(self, fp: Any, format: str | None = None) -> None:
        """Write the image to a file."""


AnyImage: TypeAlias = Picture | str | os.PathLike[str] | bytes
Row: TypeAlias = Mapping[str, Any] | Sequence[Any]
# one item or several: arrays, images, or rows
AnyItems: TypeAlias = Array | AnyImage | Mapping[str, Any] | Sequence[AnyImage | Row | Array] | ArrowStream


def read_items(
    spec: Kind, given: AnyItems, how: Reading | None = None, *, one: bool = False
) -> tuple[Items, list[Any] | None]:
    """Return items as model inputs, and the rows or files that they were read from; None if they came as an array.

    Raises InvalidValue for items that the model does not take. `one` refuses more than one item.
    """
    field = spec.wire.one if one else spec.wire.many
    how = how or Reading()
    items, source = _read(spec, given, how, field)
    if one and len(items.data) != 1:
        raise InvalidValue(f"{field}: {len(items.data)} items are given; give one", field=field)
    return items, source


def _read(spec: Kind, given: Any, how: Reading, field: str) -> tuple[Items, list[Any] | None]:
    if spec.in_files and _is_row(given):
        given = _row(given, field)
    if not spec.in_files and _is_table(given):
        raise InvalidValue(f"{field}: a {type(given).__name__} holds rows; the model takes {spec.noun}", field=field)
    if _is_table(given):
        given = _rows(given, field)
    elif is_array(given):
        return _of_array(spec, as_array(given, field), how, field), None
    if _is_single(given, spec):
        given = [given]
    if isinstance(given, str | bytes) or not isinstance(given, Sequence):
        raise InvalidValue(f"{field}: {shown(given)} is a {type(given).__name__}; {_wanted(given, spec)}", field=field)
    if not given:
        raise InvalidValue(f"{field}: the list is empty; give at least one item", field=field)
    if all(isinstance(each, np.ndarray) for each in given) and not spec.in_files:
        if len({each.shape for each in given}) > 1:
            raise InvalidValue(f"{field}: arrays of different shapes; give arrays of {list(spec.shape)}", field=field)
        return _of_array(spec, np.stack(given), how, field), None
    if spec.in_files:
        given = [_row(each, f"{field}[{place}]") if _is_row(each) else each for place, each in enumerate(given)]
        for place, each in enumerate(given):
            if isinstance(each, str | bytes | os.PathLike):
                what = f"{field}[{place}]"
                raise InvalidValue(f"{what}: {shown(each)} is not a row; {_wanted(each, spec)}", field=what)
    if spec.pictures:
        given = [_file(each, f"{field}[{place}]") for place, each in enumerate(given)]
    return spec.read(given, how, field), list(given)


def read_masks(spec: Kind, given: Any, items: Items) -> Array:
    """Return masks float32 (n, *mask_shape), 1 where an item is known, of arrays or image files: one for all items, or one for each."""
    n, shape = len(items.data), spec.mask_shape
    if shape is None:
        raise InvalidValue(
            f"masks: {spec.noun} have no masks; remove the argument, and give missing values as NaN or None",
            field="masks",
        )
    if is_array(given):
        array = _known(as_array(given, "masks"))
        if array.shape == shape[1:] or array.shape == shape:
            array = array.reshape(1, *shape)
        elif array.shape[1:] == shape[1:] and shape[0] == 1:
            array = array[:, None]
        if array.shape[1:] != shape:
            raise InvalidValue(
                f"masks: the shape is {list(array.shape)}; give [n, {', '.join(map(str, shape))}]", field="masks"
            )
        made = array.astype(np.float32)
    else:
        files = [given] if _is_single(given, spec) else given
        if not isinstance(files, Sequence):
            raise InvalidValue(
                f"masks: {shown(given)} is a {type(given).__name__}; give {_needed(spec)}", field="masks"
            )
        made = spec.read_masks([_file(each, f"masks[{place}]") for place, each in enumerate(files)], items, Reading())
    if len(made) not in (1, n):
        raise InvalidValue(
            f"masks: {len(made)} for {n} {spec.noun}; give one mask, or one for each item", field="masks"
        )
    return made.repeat(n, axis=0) if len(made) == 1 else made


def is_item(given: Any, spec: Kind) -> bool:
    """Return whether a value is one item by itself, without a mapping: an image, an array, or a row of a data frame."""
    single = _is_single(given, spec) and not isinstance(given, Mapping)
    return single or is_array(given) or (spec.in_files and _is_row(given))


def _is_single(given: Any, spec: Kind) -> bool:
    """Return whether a value is one item in another form than an array."""
    if spec.pictures:
        return isinstance(given, str | os.PathLike | bytes) or hasattr(given, "save")
    return isinstance(given, Mapping)


def is_array(given: Any) -> bool:
    """Return whether a value converts itself to an array, such as a tensor, and is not a picture."""
    return hasattr(given, "__array__") and not hasattr(given, "save")


def as_array(given: Any, field: str) -> Array:
    """Return an array or a tensor of any device as an array. Raises InvalidValue if it cannot be converted."""
    try:
        tensor = hasattr(given, "detach") and hasattr(given, "cpu")
        return np.asarray(given.detach().cpu() if tensor else given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidValue(
            f"{field}: the {type(given).__name__} cannot be converted to an array: {reason(error)}; give an array of numpy",
            field=field,
        ) from None


def _known(array: Array) -> NDArray[np.bool_]:
    """Return where a mask is known. Raises InvalidValue for an array that holds no numbers, and for numbers below 0 or NaN."""
    if array.dtype.kind not in "biuf":
        raise InvalidValue(f"masks: an array of {array.dtype}; give truth values or numbers", field="masks")
    if not (array >= 0).all():
        raise InvalidValue("masks: a value is negative or NaN; give 0 for unknown and 1 for known", field="masks")
    return np.asarray(array > 0)


def _of_array(spec: Kind, array: Array, how: Reading, field: str) -> Items:
    """Return an array of items, or of one item. Floats are in the units of the model; other numbers are pixels."""
    if array.dtype.kind not in "biuf":
        raise InvalidValue(f"{field}: an array of {array.dtype}; give numbers, or {_needed(spec)}", field=field)
    if array.dtype.kind != "f" and not spec.pictures:
        raise InvalidValue(
            f"{field}: an array of {array.dtype}; give floats as the model encodes them, or {_needed(spec)}",
            field=field,
        )
    given = array.shape
    if array.shape == spec.shape:
        array = array[None]
    if spec.pictures:
        array = _channels_first(array, spec)
    if array.ndim and not len(array):
        raise InvalidValue(f"{field}: the array is empty; give at least one item", field=field)
    if array.shape[1:] != spec.shape:
        raise InvalidValue(f"{field}: the shape is {cut(str(list(given)))}; give {_shapes(spec)}", field=field)
    if array.dtype.kind == "f":
        if spec.pictures:
            _check_range(spec, array, how, field)
        return Items(np.asarray(array, np.float32), (), ((),) * len(array))
    if array.dtype.kind == "b":
        array = np.where(array, np.uint8(255), np.uint8(0))
    elif array.size and (array.min() < 0 or array.max() > 255):
        raise InvalidValue(f"{field}: pixels from {array.min()} to {array.max()}; give 0 to 255", field=field)
    return spec.read_array(np.asarray(array, np.uint8), field)


def _channels_first(array: Array, spec: Kind) -> Array:
    """Return images of the model's size as (n, C, H, W): grey ones without an axis for the channel, and RGB with the channel last."""
    channels, *size = spec.shape
    if channels > 1 and array.shape[-3:] == (*size, channels):
        array = np.moveaxis(array, -1, -3)
    elif channels == 1 and array.ndim in (2, 3) and array.shape[-2:] == tuple(size):
        array = array.reshape(-1, 1, *size)
    return array[None] if array.shape == spec.shape else array


def _check_range(spec: Kind, array: Array, how: Reading, field: str) -> None:
    """Raise InvalidValue for floats outside the range of the model's pixels, such as 0 to 255 for a model that takes 0 to 1."""
    known = array[~np.isnan(array)] if how.missing else array
    if spec.limits is None or not known.size:
        return
    (low, high), (least, most) = spec.limits, (float(known.min()), float(known.max()))
    leeway = LEEWAY * (high - low)
    if not (least >= low - leeway and most <= high + leeway):
        found = "the array holds NaN" if np.isnan(least) else f"floats from {least:.4g} to {most:.4g}"
        raise InvalidValue(
            f"{field}: {found}; floats are model inputs, from {low:g} to {high:g}: scale them, or give pixels as uint8",
            field=field,
        )


def _file(given: Any, field: str) -> bytes:
    """Return the bytes of an image file: of a path, of bytes, or of a picture."""
    if isinstance(given, bytes):
        return given
    if isinstance(given, str | os.PathLike):
        if _reader(given):
            raise InvalidValue(
                f"{field}: {shown(str(given))} is a file of rows; the model takes images: give the path of an image",
                field=field,
            )
        try:
            return Path(given).read_bytes()
        except (
            OSError,
            ValueError,
            TypeError,
        ) as error:  # ValueError: a zero byte, or a character without a code in file names
            why = getattr(error, "strerror", None) or reason(error)
            raise InvalidValue(
                f"{field}: {shown(str(given))} cannot be read: {why}; give the path of an image", field=field
            ) from None
    if hasattr(given, "save"):
        return pictures.to_png(given, field)
    raise InvalidValue(
        f"{field}: {shown(given)} is not an image; give an array, a Pillow image, a path, or the bytes of a file",
        field=field,
    )


def _is_row(given: Any) -> bool:
    """Return whether a value is one row of a data frame of pandas."""
    return getattr(given, "ndim", None) == 1 and hasattr(given, "to_dict") and hasattr(given, "iloc")


def _row(series: Any, field: str) -> Mapping[str, Any]:
    """Return one row of a data frame of pandas by column. Raises InvalidValue for a column of one."""
    row: Mapping[Any, Any] = series.to_dict()
    if not all(isinstance(name, str) for name in row):
        raise InvalidValue(
            f"{field}: this {type(series).__name__} is not a row, as its index holds no names of columns; give one row, "
            "such as frame.iloc[0], or the frame",
            field=field,
        )
    return row


def _is_table(given: Any) -> bool:
    return hasattr(given, "__arrow_c_stream__") or (hasattr(given, "iloc") and hasattr(given, "columns"))


def _rows(table: Any, field: str) -> list[dict[str, Any]]:
    """Return a data frame or Arrow table as rows, with the values that a Parquet file of it has."""
    try:
        import pyarrow
    except ImportError:
        raise Unavailable(
            f"{field}: a {type(table).__name__} is read by pyarrow. {extras.advice('pyarrow', ('tables',))}",
            field=field,
        ) from None
    from manifold.runtime.tables.cells import of_arrow

    try:
        arrow = (
            pyarrow.table(table)
            if hasattr(table, "__arrow_c_stream__")
            else pyarrow.Table.from_pandas(table, preserve_index=False)
        )
    except (pyarrow.ArrowException, TypeError, ValueError) as error:
        raise InvalidValue(
            f"{field}: the {type(table).__name__} cannot be read: {reason(error)}; give a list of rows", field=field
        ) from None
    if not arrow.num_rows:
        raise InvalidValue(f"{field}: the table is empty; give at least one row", field=field)
    columns = {name: of_arrow(arrow.column(place)).tolist() for place, name in enumerate(arrow.column_names)}
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _shapes(spec: Kind) -> str:
    """Return the shapes that an array of items can have, and what to give instead of an array."""
    channels, *size = spec.shape if spec.pictures else (1,)
    last: list[list[int | str]] = [[*size, channels], ["n", *size, channels]] if channels > 1 else []
    other = (
        ", or Pillow images, which are resized" if spec.pictures else f", or {_needed(spec)}" if spec.in_files else ""
    )
    return f"{either([*last, *spec.forms])}{other}"


def _reader(given: Any) -> str | None:
    """Return the call that reads a file of rows, such as pyarrow.csv.read_csv('x.csv'); None if the value is no path of such a file."""
    if not isinstance(given, str | os.PathLike) or not isinstance(path := os.fspath(given), str):
        return None
    function = FILES.get(Path(path).suffix.lower())
    return None if function is None else f"{function}({shown(path)})"


def _wanted(given: Any, spec: Kind) -> str:
    """Return what to give instead of a value that is no item: what a file of rows or a lazy frame becomes, else what the model takes."""
    if spec.in_files and (call := _reader(given)):
        return f"read the file: give {call}"
    if spec.in_files and callable(getattr(given, "collect", None)):
        return "give the frame that its method collect() returns"
    return f"give {_needed(spec)}"


def _needed(spec: Kind) -> str:
    if spec.pictures:
        return "arrays, Pillow images, paths, or bytes of image files"
    return (
        "a mapping by column, a list of rows, or a data frame"
        if spec.in_files
        else f"an array (n, {', '.join(map(str, spec.shape))})"
    )
