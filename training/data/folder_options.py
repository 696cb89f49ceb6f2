"""The names of data sets that are folders of images: a path, and options after a question mark, as in `faces?size=64x64&colour=rgb`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qsl, quote

from manifold.runtime.errors import cut
from manifold.runtime.kinds import Kind
from manifold.runtime.kinds.image import ImageSpec
from manifold.training.data.reading import SUFFIXES
from manifold.training.errors import TrainingError

KEYS = ("size", "colour", "background", "invert", "labels", "skip")
COLOURS = {"grey": 1, "rgb": 3}
LARGEST_SIDE = 4096  # pixels, the limit of ImageSpec


@dataclass(frozen=True)
class FolderOptions:
    """The options for reading a folder. None means that the value depends on the files; for `background` it means no background."""

    size: tuple[int, int] | None = None  # (width, height)
    colour: Literal["grey", "rgb"] | None = None
    background: float | Literal["auto"] | None = "auto"
    invert: bool = False  # whether to invert images whose border is nearer to the opposite of the background
    labels: str | None = None  # a CSV file, relative to the folder
    skip: bool = False  # whether to skip files that cannot be read

    def name(self, path: Path) -> str:
        """Return the name of the data set: the path of the folder with these options."""
        stated = {
            "size": None if self.size is None else "{}x{}".format(*self.size),
            "colour": self.colour,
            "background": None if self.background == "auto" else "none" if self.background is None else f"{self.background:g}",
            "invert": "1" if self.invert else None,
            "labels": self.labels,
            "skip": "1" if self.skip else None,
        }  # fmt: skip
        options = "&".join(f"{key}={quote(value, safe='/.')}" for key, value in stated.items() if value is not None)
        return f"{path}?{options}" if options else str(path)


def is_folder(name: str) -> bool:
    """Return whether the name of a data set is the path of a folder, with or without options.

    The path of a missing folder counts if it ends in a slash, or is absolute (as runs record it) and does not name a file of rows.
    """
    if not name:
        return False
    path = _path(name)[0]
    return (
        path.is_dir()
        or name.split("?")[0].endswith(("/", os.sep))
        or (path.is_absolute() and path.suffix.lower() not in SUFFIXES)
    )


def parse(name: str) -> tuple[Path, FolderOptions]:
    """Return the absolute path and the options in the name of a folder. Raises TrainingError for unknown options."""
    path, text = _path(name)
    return Path(os.path.abspath(path)), _options(dict(parse_qsl(text, keep_blank_values=True)))


def stated(name: str, given: Mapping[str, str]) -> str:
    """Return the name of a folder with additional options and with its absolute path. Raises TrainingError for unknown options."""
    path, text = _path(name)
    return _options({**dict(parse_qsl(text, keep_blank_values=True)), **given}).name(Path(os.path.abspath(path)))


def _options(given: Mapping[str, str]) -> FolderOptions:
    made: dict[str, Any] = {}
    for key, value in given.items():
        if key not in KEYS:
            raise TrainingError(
                f"data: unknown folder option {cut(key)!r}; valid are {', '.join(KEYS)}", valid=list(KEYS)
            )
        made[key] = _OPTIONS[key](value)
    return FolderOptions(**made)


def _path(name: str) -> tuple[Path, str]:
    """Return the path and the text of the options in a name. The folder's own name may contain a question mark."""
    if Path(name).is_dir():
        return Path(name), ""
    path, _, options = name.rpartition("?") if "?" in name else (name, "", "")
    return Path(path), options


def size_of(text: str) -> tuple[int, int]:
    """Parse a text such as `28x28` to (width, height). Raises TrainingError."""
    width, _, height = text.lower().partition("x")
    if not (
        width.isdecimal()
        and height.isdecimal()
        and 1 <= int(width) <= LARGEST_SIDE
        and 1 <= int(height) <= LARGEST_SIDE
    ):
        raise TrainingError(
            f"size: {cut(text)!r} is not a size from 1x1 to {LARGEST_SIDE}x{LARGEST_SIDE}; write WIDTHxHEIGHT, such as 64x64",
            field="size",
        )
    return int(width), int(height)


def _colour(text: str) -> str:
    if text not in COLOURS:
        raise TrainingError(f"colour: unknown value {cut(text)!r}; valid are {', '.join(COLOURS)}", field="colour")
    return text


def _background(text: str) -> float | None:
    try:
        value = None if text == "none" else float(text)
    except ValueError:
        value = -1.0
    if value is not None and not 0 <= value <= 1:
        raise TrainingError(
            f"background: {cut(text)!r} is not valid; use `none` or a number from 0 to 1", field="background"
        )
    return value


def _flag(text: str) -> bool:
    return text.lower() not in ("0", "false", "no")


_OPTIONS: Mapping[str, Callable[[str], Any]] = {
    "size": size_of, "colour": _colour, "background": _background, "invert": _flag, "labels": str, "skip": _flag,
}  # fmt: skip


def like(name: str, spec: Kind) -> str:
    """Return the name of a folder with the options that a model of `spec` needs. Other names, and names for other kinds of models, are unchanged."""
    if not is_folder(name) or not spec.pictures:
        return name
    path, options = parse(name)
    spec = ImageSpec.of(spec, f"data: {name}")
    colour: Literal["grey", "rgb"] = "grey" if spec.channels == 1 else "rgb"
    fitted = replace(
        options, size=(spec.width, spec.height), colour=colour, background=spec.background, invert=spec.invert
    )
    return fitted.name(path)
