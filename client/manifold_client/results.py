"""Typed results. `raw` is the whole answer, as it came.

Items are images, rows, or something of a kind of data that this client does not know, which stays as it is on the wire (`values`). What a model
names, such as its outputs and latents, is in a dictionary by that name.
"""

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
# the lists of answers with items, and the fields of a stream's lines, that hold something else than the items of some kind
KNOWN = ("latents", "codes", "classes", "condition", "errors", "fitted", "probabilities", "items")
KNOWN_OF_A_LINE = (
    "item", "items", "named_latents", "conditions", "reproducible", "class", "condition", "latent", "codes",
)  # fmt: skip


def _reproducible(raw: Mapping[str, Any]) -> bool:
    return raw.get("reproducible") is not False


@dataclass(frozen=True)
class Result:
    """The fields of every answer."""

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
class Items:
    """Items of one kind of data. The fields of the other kinds are empty."""

    images: list[Image.Image]
    rows: list[dict[str, Any]]
    values: dict[str, Any]  # items of any other kind, and images asked for as numbers, by field as on the wire

    @classmethod
    def parse(cls, fields: Mapping[str, Any]) -> Items:
        """Read the fields that an answer has for items. Fields that are neither images nor rows stay as they are."""
        images = [_picture(text) for text in fields.get("images") or ()]
        others = {name: value for name, value in fields.items() if name not in ("images", "rows") and value is not None}
        return cls(images, fields.get("rows") or [], others)

    def __len__(self) -> int:
        return len(self.images) or len(self.rows) or max(map(len, self.values.values()), default=0)

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


@dataclass(frozen=True)
class ItemsResult(Items, Result):
    """An answer with items. If the model has several outputs, the fields of Items are those of the first one."""

    items: dict[str, Items]  # of each output, by its role; empty if the model has one output


def item_fields(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of ItemsResult."""
    items = {role: Items.parse(made) for role, made in (body.get("items") or {}).items()}
    # a field of an answer that this client does not know and that lists something is a kind's own
    unknown = {name: value for name, value in body.items() if name not in KNOWN and isinstance(value, list)}
    first = next(iter(items.values())) if items else Items.parse(unknown)
    return {**Result.common(body), "items": items, "images": first.images, "rows": first.rows, "values": first.values}


def _picture(text: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(text)), formats=FORMATS)


def array(body: Mapping[str, Any], name: str, kind: Any = np.float32) -> Any:
    """A field as an array, or None."""
    return None if body.get(name) is None else np.asarray(body[name], kind)


def named_arrays(body: Mapping[str, Any], name: str) -> dict[str, Float32]:
    """Return a field with arrays by name; empty if absent."""
    return {each: np.asarray(values, np.float32) for each, values in (body.get(name) or {}).items()}


@dataclass(frozen=True)
class Item:
    """One item of one kind of data. The fields of the other kinds are empty."""

    image: Image.Image | None
    row: dict[str, Any] | None
    values: dict[str, Any]  # an item of any other kind, and an image asked for as numbers, by field as on the wire

    @classmethod
    def parse(cls, fields: Mapping[str, Any]) -> Item:
        """Read the fields that a line of a stream has for an item. Fields other than image and row stay as they are."""
        text = fields.get("image")
        others = {name: value for name, value in fields.items() if name not in ("image", "row")}
        return cls(None if text is None else _picture(text), fields.get("row"), others)


@dataclass(frozen=True)
class Sample(Item):
    """One item of a stream. If the model has several outputs, the fields of Item are those of the first one."""

    item: int  # its index: of the same seed, it is the same item in any answer
    items: dict[str, Item]  # of each output, by its role; empty if the model has one output
    named_latents: dict[str, Float32]  # of a model with several latents, by name
    conditions: dict[str, dict[str, Any]]  # by name, as a request may state them
    raw: Mapping[str, Any]

    @property
    def reproducible(self) -> bool:
        """Return whether the same request gives this item again."""
        return _reproducible(self.raw)

    @classmethod
    def parse(cls, line: Mapping[str, Any]) -> Sample:
        """Read a line with an item."""
        items = {role: Item.parse(made) for role, made in (line.get("items") or {}).items()}
        unknown = {name: value for name, value in line.items() if name not in KNOWN_OF_A_LINE}
        first = next(iter(items.values())) if items else Item.parse(unknown)
        return cls(
            image=first.image, row=first.row, values=first.values, item=line["item"], items=items,
            named_latents=named_arrays(line, "named_latents"), conditions=line.get("conditions") or {}, raw=line,
        )  # fmt: skip


@dataclass(frozen=True)
class Samples(ItemsResult):
    """New items."""

    seed: int | None
    latents: Float32 | None  # (n, L)
    named_latents: dict[str, Float32]  # (n, ...) of a model with several latents, by name
    codes: NDArray[np.int64] | None  # (n, h, w)
    classes: list[Any] | None
    condition: Float32 | None  # (n, C) real values that the items were made under
    conditions: dict[str, dict[str, Any]]  # by name, as a request may state them

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> Samples:
        return cls(
            **item_fields(body),
            seed=body.get("seed"),
            latents=array(body, "latents"),
            named_latents=named_arrays(body, "named_latents"),
            codes=array(body, "codes", np.int64),
            classes=body.get("classes"),
            condition=array(body, "condition"),
            conditions=body.get("conditions") or {},
        )


@dataclass(frozen=True)
class Posterior:
    """The posterior over one latent."""

    mean: Float32 | None  # (n, L)
    log_variance: Float32 | None
    latents: Float32 | None  # a draw, if a seed was given

    @classmethod
    def fields(cls, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields of a posterior."""
        return {name: array(body, name) for name in ("mean", "log_variance", "latents")}


@dataclass(frozen=True)
class Encoded(Posterior, Result):
    """The posteriors over the latents of items, or their codes."""

    posteriors: dict[str, Posterior]  # of a model with several latents, by name; the fields of Posterior are then None
    codes: NDArray[np.int64] | None

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> Encoded:
        posteriors = {
            name: Posterior(**Posterior.fields(each)) for name, each in (body.get("posteriors") or {}).items()
        }
        codes = array(body, "codes", np.int64)
        return cls(**Result.common(body), **Posterior.fields(body), posteriors=posteriors, codes=codes)


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

    latents: Float32 | None  # (steps, L); None for a model with several latents
    named_latents: dict[str, Float32]  # (steps, ...) of a model with several latents, by name

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> Interpolation:
        return cls(
            **item_fields(body),
            latents=array(body, "latents"),
            named_latents=named_arrays(body, "named_latents"),
        )


@dataclass(frozen=True)
class ScoredItem:
    """One item's place."""

    score: float
    p_value: float | None
    is_anomaly: bool | None  # None if the model cannot decide; `warnings` of the answer says why
    band: str | None
    risk: int | None
    state: str
    warnings: list[str]
    parts: dict[str, dict[str, float]]
    explanation: dict[str, Any] | None
    id: Any = None  # of a row, if the model records an id column
    passed: dict[str, Any] | None = None  # of a row: the columns that the model copies to the output


@dataclass(frozen=True)
class Scores(Result):
    """Anomaly scores of items."""

    items: list[ScoredItem]
    threshold: dict[str, Any]
    calibration: dict[str, Any] | None
    warnings: list[str]  # why items are not decided

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> Scores:
        known = ScoredItem.__dataclass_fields__
        items = [ScoredItem(**{key: item.get(key) for key in known}) for item in body["items"]]
        return cls(
            **Result.common(body),
            items=items,
            threshold=body["threshold"],
            calibration=body.get("calibration"),
            warnings=body.get("warnings") or [],
        )


@dataclass(frozen=True)
class Classes(Result):
    """Classes of items."""

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
