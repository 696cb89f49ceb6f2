"""Texts from outside as values: JSON and whole numbers. Each reader has a limit, and raises an error of this project beyond it.

Whatever a client, an artifact or a picture brings as text is read here: bodies, queries, forms, headers, manifests and recipes.

JSON is read by orjson, which accepts RFC 8259 and nothing more: no NaN, no Infinity and no number beyond float64. Integers beyond 64 bits
become floats, so that a field of whole numbers refuses them. Of a key that occurs twice in an object, the last value counts.

An empty array is three characters of a text and a hundred bytes of memory, and orjson lets no other thread run while it reads. So a text
with many arrays, objects or keys is refused before it is read; numbers cost less, and may be as many as a body holds.
"""

from __future__ import annotations

import re
from typing import Any

import orjson

from manifold.runtime.errors import Malformed, TooLarge, shown

LEVELS = 64  # of objects and arrays within each other; arrays of numbers have at most 16 dimensions
PARTS = 2**18  # brackets and colons of a text: about the number of its arrays, objects and keys
DIGITS = 19  # 2^63 - 1 has so many

_STRING = re.compile(rb'"[^"]*"')
_BRACKETS = bytes.maketrans(b"{}", b"[]")
_OTHERS = bytes(sorted(set(range(256)) - set(b'[]{}"')))


def json_of(content: bytes | str, field: str = "body") -> Any:
    """Return the value of a JSON text. Raise Malformed if it is not JSON, or has more than `LEVELS` levels, and TooLarge if it has too many parts."""
    check_parts(content, field)
    try:
        value = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        if error.msg.startswith("depth limit"):
            raise _too_deep(field) from None
        raise Malformed(f"{field}: not JSON: {error}", field=field) from None
    if _is_deep(content):
        raise _too_deep(field)
    return value


def check_parts(content: bytes | str, field: str = "body") -> None:
    """Raise TooLarge for a JSON text with more than `PARTS` brackets and colons, or Malformed if it begins with too many levels."""
    if len(content) <= PARTS:
        return
    text = content.encode() if isinstance(content, str) else content
    if _count(text, b"[{:") > PARTS:
        start = text[:PARTS]
        if _count(start, b"[{") - _count(start, b"]}") > LEVELS:
            raise _too_deep(field)
        raise TooLarge(
            f"{field}: JSON with more than {PARTS} arrays, objects and keys; send fewer, or numbers as a binary body",
            field=field,
        )


def _count(text: bytes, characters: bytes) -> int:
    return sum(text.count(each) for each in characters)


def _too_deep(field: str) -> Malformed:
    return Malformed(f"{field}: JSON with more than {LEVELS} levels; send flatter arrays and objects", field=field)


def _is_deep(content: bytes | str) -> bool:
    """Return whether a valid JSON text has more than `LEVELS` levels, without a step of Python for each of its values.

    Only the brackets outside of strings are kept; each round then takes away the innermost pairs, which is one level.
    """
    text = content.encode() if isinstance(content, str) else content
    if text.count(b"[") + text.count(b"{") <= LEVELS:
        return False
    if b"\\" in text:
        text = text.replace(b"\\\\", b"").replace(b'\\"', b"")  # from here on, a quotation mark begins or ends a string
    left = _STRING.sub(b"", text.translate(_BRACKETS, _OTHERS))
    for _ in range(LEVELS):
        if not left:
            return False
        left = left.replace(b"[]", b"")
    return bool(left)


def whole(text: str, most: int = 2**63 - 1) -> int | None:
    """Return the whole number that a text of the digits 0 to 9 says, or None for any other text and beyond `most`.

    Texts of more than `DIGITS` digits are not converted: Python refuses 4300 digits with an error of its own, and takes time before that.
    """
    if not text.isascii() or not text.isdecimal() or len(text) > DIGITS:
        return None
    number = int(text)
    return number if number <= most else None


def whole_or_refuse(text: str, field: str, most: int = 2**63 - 1) -> int:
    """Return the whole number that a text says. Raise Malformed if it says none from 0 to `most`."""
    number = whole(text, most)
    if number is None:
        raise Malformed(f"{field}: {shown(text)} is not a whole number from 0 to {most}", field=field)
    return number
