"""Example requests, which /docs shows. A test sends each of them to the shipped models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

ROW = {
    "amount": 26.27,
    "hour": 10.67,
    "weekday": "1",
    "night": 0,
    "card_1d_count": 1,
    "card_1d_mean": 53.6,
    "terminal_1d_count": 1,
    "card_7d_count": 9,
    "card_7d_mean": 49.53,
    "terminal_7d_count": 7,
    "card_30d_count": 41,
    "card_30d_mean": 54.01,
    "terminal_30d_count": 28,
    "terminal_30d_mean": 52.74,
    "amount_over_usual": -0.702,
    "hours_since_last": 7.313,
}
# a four of 28 x 28 pixels, a digit of 8 x 8 pixels, and a mask whose upper half is white (known)
DIGIT = (
    "iVBORw0KGgoAAAANSUhEUgAAABwAAAAcCAAAAABXZoBIAAAAhElEQVR42tXSwQ0CMQxE0dHWYnoxxbiYNDP04mY+J8QKnL1wIsc82ZrYkf7iVMd0badUMBodCujBAqRsGLoWWLG3jAVr"
    "torVU5qGUjbgyVqazQD23mgYnhgNuDLkIc5yxitybEfuMx4f+JDu+231aT7HN9/2lQl51fcirzxt5T2S3z/hE+xuZRM+4udoAAAAAElFTkSuQmCC"
)
SMALL_DIGIT = "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAALElEQVR4nC3JsQ0AIBADMYsdw5AwZCiezrpD2rDkgCXu4G5DOlM6S5z80sYD3DwOVJqOIjgAAAAASUVORK5CYII="
UPPER_HALF = "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAAEklEQVR42mP8zwABTAw4GcQAAEiNAQf7aJRaAAAAAElFTkSuQmCC"


@dataclass(frozen=True)
class Example:
    """A request that works without changes, and its summary."""

    summary: str
    fields: dict[str, Any]
