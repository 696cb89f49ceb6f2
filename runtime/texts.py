"""Readers of texts from clients and files: JSON and whole numbers. Each has a limit, and raises an error of this project above it.

All texts from requests, artifacts and pictures are read here: bodies, queries, forms, headers, manifests and recipes.

JSON is read by orjson, which accepts exactly RFC 8259: no NaN, no Infinity and no number beyond float64. Integers beyond 64 bits become
floats, so a field of whole numbers rejects them. If a key occurs twice in an object, the last value counts.

An empty array takes three characters of text but a hundred bytes of memory, and orjson blocks all other threads while it reads. So a text
with many arrays, objects or keys is rejected before it is read. Numbers cost less; their count is limited only by the size of the body.
"""

from __future__ import annotations

import re
from typing import Any

import orjson

from manifold.runtime.errors import Malformed, TooLarge, shown

LEVELS = 64  # limit for nested objects and arrays; arrays of numbers have at most 16 dimensions
PARTS = 2**18  # limit for the brackets and colons of a text: about the number of its arrays, objects and keys
NEAR = 20  # characters of a text that is not JSON in the error
DIGITS = 19  # the number of digits of 2^63 - 1

_STRING = re.compile(rb'"[^"]*"')
_BRACKETS = bytes.maketrans(b"{}", b"[]")
_OTHERS = bytes(sorted(set(range(256)) - set(b'[]{}"')))


def json_of(content: bytes | str, field: str = "body") -> Any:
    """Return the value of a JSON text. Raise Malformed if it is not JSON or has more than `LEVELS` levels, TooLarge if it has too many parts."""
    check_parts(content, field)
    try:
        value = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        if error.msg.startswith("depth limit"):
            raise _too_deep(field) from None
        raise Malformed(f"{field}: {_not_json(error)}", field=field) from None
    if _is_deep(content):
        raise _too_deep(field)
    return value


def _not_json(error: orjson.JSONDecodeError) -> str:
    """Return where a text is not JSON, and what to do. The texts of orjson are for programmers."""
    place = f"the text is not JSON (line {error.lineno}, column {error.colno}"
    if not error.doc and error.pos == 0:
        return "the text is not JSON: it is empty or not in UTF-8; send JSON in UTF-8"
    rest = error.doc[error.pos : error.pos + NEAR]
    if not rest.strip():
        return f"{place}): it ends too early; send the whole text"
    if re.match(r"'|\w+\s*:", rest):
        advice = "write texts and names in double quotes"
    elif re.match(r",\s*[]}]", rest):
        advice = "remove the comma"
    elif re.match(r"-?(NaN|Infinity)", rest):
        advice = "JSON has no such number; write null if a value is missing"
    else:
        advice = "correct it"
    return f"{place}, at {shown(rest)}); {advice}"


def check_parts(content: bytes | str, field: str = "body") -> None:
    """Raise TooLarge for a JSON text with more than `PARTS` brackets and colons; Malformed if its beginning has too many levels."""
    if len(content) <= PARTS:
        return
    text = content.encode() if isinstance(content, str) else content
    if _count(text, b"[{:") > PARTS:
        start = text[:PARTS]
        if _count(start, b"[{") - _count(start, b"]}") > LEVELS:
            raise _too_deep(field)
        raise TooLarge(
            f"{field}: the JSON has more than {PARTS} arrays, objects and keys; send fewer, or send numbers as a binary body",
            field=field,
        )


def _count(text: bytes, characters: bytes) -> int:
    return sum(text.count(each) for each in characters)


def _too_deep(field: str) -> Malformed:
    return Malformed(
        f"{field}: the JSON has more than {LEVELS} levels; nest arrays and objects less deeply", field=field
    )


def _is_deep(content: bytes | str) -> bool:
    """Return whether a valid JSON text has more than `LEVELS` levels, without a Python loop over its values.

    Only the brackets outside strings are kept. Each round then removes the innermost pairs, which are one level.
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
    """Return the whole number that a text of the digits 0 to 9 stands for; None for any other text and for numbers above `most`.

    Texts of more than `DIGITS` digits are not converted: it is slow, and above 4300 digits Python raises its own error.
    """
    if not text.isascii() or not text.isdecimal() or len(text) > DIGITS:
        return None
    number = int(text)
    return number if number <= most else None


def whole_or_refuse(text: str, field: str, most: int = 2**63 - 1) -> int:
    """Return the whole number that a text stands for. Raise Malformed if it is not one from 0 to `most`."""
    number = whole(text, most)
    if number is None:
        raise Malformed(f"{field}: {shown(text)} is not valid; give a whole number from 0 to {most}", field=field)
    return number
