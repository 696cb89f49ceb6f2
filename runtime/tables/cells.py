"""The conversion of file columns into numpy arrays: numbers if every value is a number or missing, else texts and plain values.

These functions apply the rules of runtime.tables.values to whole columns, and are fast. Values that they cannot decide stay unchanged, to be read
one by one later.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifold.runtime.tables.values import BLANKS, EXACT, Notation, is_missing, number

Array = NDArray[Any]

DIGITS = 15  # number of decimal digits that a float64 preserves


def numbers_of(column: Any, notation: Notation, missing: frozenset[str] | None = None) -> Array | None:
    """Convert a column of texts into float64, with NaN for missing values. Return None if a text is not clearly a finite number.

    `missing` are the texts that stand for a missing value, by default those of the notation.
    """
    import pyarrow
    from pyarrow import compute

    texts = _stripped(column)
    if notation.decimal == ",":
        if compute.any(compute.match_substring(texts, ".")).as_py():
            return None  # points may group digits; such texts are read one by one
        texts = compute.replace_substring(texts, ",", ".")
    found = _cast(texts, compute.equal(texts, ""))  # in most columns, only empty texts are missing values
    if found is None:
        tokens = pyarrow.array(sorted(notation.missing if missing is None else missing), pyarrow.string())
        found = _cast(texts, compute.is_in(compute.utf8_lower(texts), value_set=tokens))
    return found


def _cast(texts: Any, missing: Any) -> Array | None:
    """Convert texts into float64, with NaN for `missing` ones. Return None if another text is not a finite number."""
    import pyarrow
    from pyarrow import compute

    try:
        numbers = _numpy(compute.cast(compute.if_else(missing, None, texts), pyarrow.float64()))
    except pyarrow.ArrowInvalid:
        return None
    return numbers if np.array_equal(np.isfinite(numbers), ~_numpy(missing).astype(bool)) else None


def plain(column: Any) -> Array:
    """Convert a column of texts into objects without surrounding blanks, None for nulls. Equal texts are stored once."""
    coded = _coded(column)
    return _taken(_trimmed(coded.dictionary).to_pylist(), coded.indices)


def replaced(column: Any, read: Callable[[str], Any]) -> Array:
    """Convert a column of texts as `plain` does, but replace a text by the value of `read` if it is not None. Equal texts are read once."""
    coded = _coded(column)
    texts = _trimmed(coded.dictionary).to_pylist()
    found = [read(text) for text in texts]
    return _taken([text if value is None else value for text, value in zip(texts, found, strict=True)], coded.indices)


def _trimmed(texts: Any) -> Any:
    """Return texts without surrounding blanks in Unicode's composed form (NFC), equal to those of runtime.tables.values.text_of."""
    from pyarrow import compute

    texts = _stripped(texts)
    return texts if compute.all(compute.string_is_ascii(texts)).as_py() else compute.utf8_normalize(texts, form="NFC")


def _stripped(texts: Any) -> Any:
    """Return texts without surrounding blanks, equal to those of runtime.tables.values.trimmed."""
    from pyarrow import compute

    plain = compute.all(compute.string_is_ascii(texts)).as_py() is not False
    return compute.utf8_trim_whitespace(texts) if plain else compute.utf8_trim(texts, characters=BLANKS)


def _coded(column: Any) -> Any:
    """Return a column as one dictionary-encoded array."""
    import pyarrow
    from pyarrow import types

    coded = column if types.is_dictionary(column.type) else column.dictionary_encode()
    return coded.unify_dictionaries().combine_chunks() if isinstance(coded, pyarrow.ChunkedArray) else coded


def _taken(values: list[Any], indices: Any) -> Array:
    """Return the values at these indices, None for nulls."""
    objects = np.empty(len(values) + 1, object)
    objects[:-1] = values
    places: Array = indices.fill_null(-1).to_numpy(zero_copy_only=False)
    taken: Array = objects[places]
    return taken


def settled(column: Any, notation: Notation) -> Array:
    """Convert a column of texts into numbers if no information is lost, else into texts.

    It stays a column of texts if some are whole numbers with leading zeros (which may be codes), or too large for a float64 to be exact.
    """
    from pyarrow import compute

    coded = _coded(column)
    numbers = numbers_of(coded.dictionary, notation)
    if numbers is None:
        numbers = _one_by_one(coded.dictionary.to_pylist(), notation)
    zeros = compute.match_substring_regex(_stripped(coded.dictionary), r"^0\d+$")
    if numbers is None or (np.abs(numbers) >= EXACT).any() or compute.any(zeros).as_py():
        return plain(coded)
    places: Array = coded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    taken: Array = np.append(numbers, np.nan)[places]
    return taken


def _one_by_one(texts: list[str], notation: Notation) -> Array | None:
    """Convert texts into float64, with NaN for missing ones. Return None if another text is not a finite number."""
    numbers = np.full(len(texts), np.nan)
    for place, text in enumerate(texts):
        found = None if is_missing(text, notation) else number(text, notation)
        if found is not None and math.isfinite(found):
            numbers[place] = found
        elif not is_missing(text, notation):
            return None
    return numbers


def of_arrow(column: Any) -> Array:
    """Convert a column of any plain type: numbers into an array of numbers, others into objects, None for missing values.

    Whole numbers with missing values become float64 if that is exact. Decimals become float64 up to 15 digits, else Python decimals.
    """
    import pyarrow
    from pyarrow import compute, types

    if types.is_dictionary(column.type):
        coded = _coded(column)
        return _taken(coded.dictionary.to_pylist(), coded.indices)
    if types.is_decimal(column.type) and column.type.precision <= DIGITS:
        column = compute.cast(
            compute.cast(column, pyarrow.string()), pyarrow.float64()
        )  # the nearest float64, which a direct cast does not always give
    if types.is_float32(column.type):  # a float32 stands for its shortest text, such as 0.1, not for 0.10000000149
        column = compute.cast(compute.cast(column, pyarrow.string()), pyarrow.float64())
    if types.is_float16(column.type):
        return _numpy(column).astype(str).astype(np.float64)
    if types.is_floating(column.type) or (types.is_integer(column.type) and not column.null_count):
        return _numpy(column)
    if types.is_integer(column.type):
        bounds = compute.min_max(column).as_py()
        if max(abs(bounds["min"] or 0), abs(bounds["max"] or 0)) <= EXACT:
            return _numpy(compute.cast(column, pyarrow.float64()))
    if types.is_timestamp(column.type):
        column = compute.cast(column, pyarrow.timestamp("us", column.type.tz), safe=False)
    objects = np.empty(len(column), object)
    objects[:] = column.to_pylist()
    return objects


def _numpy(column: Any) -> Array:
    import pyarrow

    return np.asarray(
        column.to_numpy() if isinstance(column, pyarrow.ChunkedArray) else column.to_numpy(zero_copy_only=False)
    )
