"""Typed results. `raw` is the whole answer, as it came."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

FORMATS = ("PNG", "JPEG", "WEBP")  # no other decoder sees what a service sends
Float32 = NDArray[np.float32]


def _reproducible(raw: Mapping[str, Any]) -> bool:
    return raw.get("reproducible") is not False


@dataclass(frozen=True)
class Result:
    """What every answer says."""

    model: str
    version: int
    request_id: str
    raw: Mapping[str, Any]

    @property
    def reproducible(self) -> bool:
        """Return whether the same request gives this answer again: false if the model draws random numbers by itself, whatever the seed."""
        return _reproducible(self.raw)

    @classmethod
    def common(cls, body: Mapping[str, Any]) -> dict[str, Any]:
        return {"model": body["model"], "version": body["version"], "request_id": body["request_id"], "raw": body}


@dataclass(frozen=True)
class ItemsResult(Result):
    """An answer with items: images, or rows for tables."""

    images: list[Image.Image]
    rows: list[dict[str, Any]]

    def __len__(self) -> int:
        return len(self.images) or len(self.rows)

    def grid(self, columns: int | None = None, gap: int = 2) -> Image.Image:
        """The images side by side."""
        columns = min(len(self.images), columns or math.ceil(math.sqrt(len(self.images))))
        width, height = self.images[0].width + gap, self.images[0].height + gap
        sheet = Image.new(
            self.images[0].mode, (columns * width - gap, math.ceil(len(self.images) / columns) * height - gap)
        )
        for i, image in enumerate(self.images):
            sheet.paste(image, (i % columns * width, i // columns * height))
        return sheet

    def arrays(self) -> NDArray[np.uint8]:
        """The images as uint8 (n, H, W) or (n, H, W, 3)."""
        return np.stack([np.asarray(image) for image in self.images])


def item_fields(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of ItemsResult."""
    images = [Image.open(io.BytesIO(base64.b64decode(text)), formats=FORMATS) for text in body.get("images") or ()]
    return {**Result.common(body), "images": images, "rows": body.get("rows") or []}


def array(body: Mapping[str, Any], name: str, kind: Any = np.float32) -> Any:
    """A field as an array, or None."""
    return None if body.get(name) is None else np.asarray(body[name], kind)


@dataclass(frozen=True)
class Sample:
    """One item of a stream."""

    item: int  # its index: of the same seed, it is the same item in any answer
    image: Image.Image | None
    row: dict[str, Any] | None
    raw: Mapping[str, Any]

    @property
    def reproducible(self) -> bool:
        """Return whether the same request gives this item again."""
        return _reproducible(self.raw)

    @classmethod
    def parse(cls, line: Mapping[str, Any]) -> Sample:
        """A line with an item."""
        text = line.get("image")
        image = None if text is None else Image.open(io.BytesIO(base64.b64decode(text)), formats=FORMATS)
        return cls(line["item"], image, line.get("row"), line)


@dataclass(frozen=True)
class Samples(ItemsResult):
    """New items."""

    seed: int | None
    latents: Float32 | None  # (n, L)
    codes: NDArray[np.int64] | None  # (n, h, w)
    classes: list[Any] | None
    condition: Float32 | None  # (n, C) real values that the items were made under

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> Samples:
        return cls(
            **item_fields(body),
            seed=body.get("seed"),
            latents=array(body, "latents"),
            codes=array(body, "codes", np.int64),
            classes=body.get("classes"),
            condition=array(body, "condition"),
        )


@dataclass(frozen=True)
class Encoded(Result):
    """Where items lie."""

    mean: Float32 | None  # (n, L)
    log_variance: Float32 | None
    latents: Float32 | None  # a draw, where a seed was given
    codes: NDArray[np.int64] | None

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> Encoded:
        floats = {name: array(body, name) for name in ("mean", "log_variance", "latents")}
        return cls(**Result.common(body), **floats, codes=array(body, "codes", np.int64))


@dataclass(frozen=True)
class Reconstruction(ItemsResult):
    """Items after encode and decode."""

    errors: NDArray[np.float64]  # (n,)

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> Reconstruction:
        return cls(**item_fields(body), errors=array(body, "errors", np.float64))


@dataclass(frozen=True)
class Interpolation(ItemsResult):
    """A path."""

    latents: Float32  # (steps, L)

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> Interpolation:
        return cls(**item_fields(body), latents=array(body, "latents"))


@dataclass(frozen=True)
class ScoredItem:
    """One item's place."""

    score: float
    p_value: float | None
    is_anomaly: bool
    band: str | None
    risk: int | None
    state: str
    warnings: list[str]
    parts: dict[str, dict[str, float]]
    explanation: dict[str, Any] | None


@dataclass(frozen=True)
class Scores(Result):
    """How strange items are."""

    items: list[ScoredItem]
    threshold: dict[str, Any]
    calibration: dict[str, Any] | None

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> Scores:
        known = ScoredItem.__dataclass_fields__
        items = [ScoredItem(**{key: item.get(key) for key in known}) for item in body["items"]]
        return cls(**Result.common(body), items=items, threshold=body["threshold"], calibration=body.get("calibration"))


@dataclass(frozen=True)
class Classes(Result):
    """Which class items are of."""

    names: list[str]
    classes: list[str]  # (n,) the most probable ones
    probabilities: NDArray[np.float64]  # (n, C), in the order of `names`
    classification: dict[str, Any]  # by what rule, at which temperature, how well calibrated

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> Classes:
        names = list(body["classification"]["class_prior"])
        rows = [[item["probabilities"][name] for name in names] for item in body["items"]]
        return cls(
            **Result.common(body),
            names=names,
            classes=[item["class"] for item in body["items"]],
            probabilities=np.asarray(rows),
            classification=body["classification"],
        )


@dataclass(frozen=True)
class Imputed(ItemsResult):
    """Rows or images made whole."""

    probabilities: list[dict[str, dict[str, float]]]  # of rows: of each category, by column that was missing
    classes: list[str]  # of images, where no class was told and the model has some

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> Imputed:
        return cls(
            **item_fields(body), probabilities=body.get("probabilities") or [], classes=body.get("classes") or []
        )
