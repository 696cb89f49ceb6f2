"""Typed results. `raw` is the unchanged JSON of the answer.

Items are images, rows, or values of a kind of data that this client does not know. Such values are returned unchanged (`values`). Outputs and
latents that a model names are in a dictionary by that name. Results show themselves in notebooks: images as a grid, rows and scores as a table.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from manifold_client import display
from manifold_client.display import Tabular, columns, counted, shape_of
from manifold_client.errors import InvalidValue
from manifold_client.types import Condition

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
class Fitted:
    """The steps that fitted an image to the size and channels of the model."""

    width: int  # pixels of the image as it was sent
    height: int
    mode: str  # colour mode of the image as it was sent, such as L, RGB or RGBA
    steps: list[str]  # empty if the image was not changed
    warnings: list[str]  # for example that the image is blank

    @classmethod
    def parse(cls, entry: Mapping[str, Any]) -> Fitted:
        return cls(**{name: entry.get(name, []) for name in cls.__dataclass_fields__})

    def __str__(self) -> str:
        said = ", ".join([*self.steps, *(f"warning: {text}" for text in self.warnings)])
        return f"{self.width}×{self.height} {self.mode}: {said or 'not changed'}"


@dataclass(frozen=True, repr=False)
class Result(Tabular):
    """The fields of every answer."""

    model: str
    version: int
    request_id: str
    raw: Mapping[str, Any]

    @property
    def reproducible(self) -> bool:
        """Return whether the same request gives this answer again: false if the model draws random numbers by itself, whatever the seed."""
        return _reproducible(self.raw)

    @property
    def fitted(self) -> list[Fitted]:
        """Return how each image of the request was fitted to the model; empty if the request had no images."""
        return [Fitted.parse(entry) for entry in self.raw.get("fitted") or ()]

    @classmethod
    def common(cls, body: Mapping[str, Any]) -> dict[str, Any]:
        return {"model": body["model"], "version": body["version"], "request_id": body["request_id"], "raw": body}

    def __repr__(self) -> str:
        parts = [part for part in self._parts() if part]
        fitted = _fitted_in_words(self.fitted)
        end = f"; {fitted}" if fitted else ""
        return f"<{type(self).__name__}: {', '.join([*parts, f'model {self.model} version {self.version}'])}{end}>"

    def _parts(self) -> list[str]:
        """Return the content for `repr`."""
        return []

    def _repr_html_(self) -> str | None:
        """Return the result as a table for notebooks. Results with items return None if these are not rows."""
        return display.html_table(self.table(), _fitted_in_words(self.fitted))


def _fitted_in_words(fitted: list[Fitted]) -> str:
    """Return what was done to the images of a request, in a few words; empty if none was changed."""
    changed = [each for each in fitted if each.steps or each.warnings]
    if not changed:
        return ""
    if len(fitted) == 1:
        return f"image fitted from {changed[0]}"
    first = f"image {fitted.index(changed[0])} from {changed[0]}"
    return f"{len(changed)} of {len(fitted)} images fitted, {first}"


@dataclass(frozen=True, repr=False)
class Items(Tabular):
    """Items of one kind of data. The fields of the other kinds are empty."""

    images: list[Image.Image]
    rows: list[dict[str, Any]]
    values: dict[str, Any]  # items of any other kind, and images requested as numbers, by field as on the wire

    @classmethod
    def parse(cls, fields: Mapping[str, Any]) -> Items:
        """Read the fields of an answer that contain items. Fields other than images and rows are returned unchanged."""
        images = [_picture(text) for text in fields.get("images") or ()]
        others = {name: value for name, value in fields.items() if name not in ("images", "rows") and value is not None}
        return cls(images, fields.get("rows") or [], others)

    def __len__(self) -> int:
        return len(self.images) or len(self.rows) or max(map(len, self.values.values()), default=0)

    def __iter__(self) -> Iterator[Any]:
        """Yield the items, each as `self[place]` returns it."""
        return (self[place] for place in range(len(self)))

    def __getitem__(self, place: int) -> Any:
        """Return one image or one row; of another kind of data, the values of one item by field."""
        if self.images:
            return self.images[place]
        place = range(len(self))[place]  # raises IndexError, which also ends a loop
        return self.rows[place] if self.rows else {name: values[place] for name, values in self.values.items()}

    def grid(self, columns: int | None = None, gap: int = 2) -> Image.Image:
        """Return the images side by side as one image. Raises InvalidValue if there are none."""
        _needs_images(self)
        return _grid(self.images, columns, gap)

    def arrays(self) -> NDArray[np.uint8]:
        """Return the images as uint8 (n, H, W) or (n, H, W, 3). Raises InvalidValue if there are none."""
        _needs_images(self)
        return np.stack([np.asarray(image) for image in self.images])

    def table(self) -> dict[str, list[Any]]:
        """Return the rows by column. Raises InvalidType if the items are not rows."""
        return columns(self.rows) if self.rows else super().table()

    def __repr__(self) -> str:
        return f"<Items: {_counted_items(self)}>"

    def _repr_png_(self) -> bytes | None:
        """Return the images as a grid for notebooks; None if the items are not images."""
        if not self.images:
            return None
        buffer = io.BytesIO()
        _grid(self.images[: display.SHOWN], None, 2).save(buffer, "PNG")
        return buffer.getvalue()

    def _repr_html_(self) -> str | None:
        """Return a table for notebooks; None if the items are not rows."""
        return display.html_table(self.table()) if self.rows else None


def _needs_images(items: Items) -> None:
    if not items.images:
        raise InvalidValue(f"images: there are none, but {_counted_items(items)}; use rows, values or table()")


def _grid(images: list[Image.Image], columns: int | None, gap: int) -> Image.Image:
    columns = min(len(images), columns or math.ceil(math.sqrt(len(images))))
    width, height = images[0].width + gap, images[0].height + gap
    sheet = Image.new(images[0].mode, (columns * width - gap, math.ceil(len(images) / columns) * height - gap))
    for i, image in enumerate(images):
        sheet.paste(image, (i % columns * width, i // columns * height))
    return sheet


def _counted_items(items: Items) -> str:
    if items.images:
        return f"{counted(len(items.images), 'image')} of {items.images[0].width}×{items.images[0].height}"
    if items.rows:
        return f"{counted(len(items.rows), 'row')} with {counted(len(items.rows[0]), 'column')}"
    return ", ".join(f"{counted(len(value), 'item')} in {name}" for name, value in items.values.items()) or "no items"


@dataclass(frozen=True, repr=False)
class ItemsResult(Items, Result):
    """An answer with items. If the model has several outputs, the fields of Items are those of the first one."""

    items: dict[str, Items]  # the items of each output by role; empty if the model has one output

    def __repr__(self) -> str:
        return Result.__repr__(self)

    def _repr_html_(self) -> str | None:
        """Return a table for notebooks, or the grid of images if a caption says how the given ones were fitted; None if neither."""
        note, grid = _fitted_in_words(self.fitted), self._repr_png_()
        if grid is not None and note:
            return display.html_figure(grid, note)
        return display.html_table(self.table(), note) if self.rows else None

    def _parts(self) -> list[str]:
        if not self.items:
            return [_counted_items(self)]
        return [f"{role}: {_counted_items(made)}" for role, made in self.items.items()]


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
    """Return a field as an array, or None."""
    return None if body.get(name) is None else np.asarray(body[name], kind)


def named_arrays(body: Mapping[str, Any], name: str) -> dict[str, Float32]:
    """Return a field with arrays by name; empty if absent."""
    return {each: np.asarray(values, np.float32) for each, values in (body.get(name) or {}).items()}


def _seeded(seed: int | None) -> str:
    return "" if seed is None else f"seed {seed}"


@dataclass(frozen=True, repr=False)
class Item:
    """One item of one kind of data. The fields of the other kinds are empty."""

    image: Image.Image | None
    row: dict[str, Any] | None
    values: dict[str, Any]  # an item of any other kind, and an image requested as numbers, by field as on the wire

    @classmethod
    def parse(cls, fields: Mapping[str, Any]) -> Item:
        """Read the fields of one line of a stream. Fields other than image and row are returned unchanged."""
        text = fields.get("image")
        others = {name: value for name, value in fields.items() if name not in ("image", "row")}
        return cls(None if text is None else _picture(text), fields.get("row"), others)

    def _several(self) -> Items:
        values = {name: [value] for name, value in self.values.items()}
        return Items([] if self.image is None else [self.image], [] if self.row is None else [self.row], values)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {_counted_items(self._several())}>"

    def _repr_png_(self) -> bytes | None:
        """Return the image for notebooks; None if the item is not an image."""
        return self._several()._repr_png_()

    def _repr_html_(self) -> str | None:
        """Return a table for notebooks; None if the item is not a row."""
        return self._several()._repr_html_()


@dataclass(frozen=True, repr=False)
class Sample(Item):
    """One item of a stream. If the model has several outputs, the fields of Item are those of the first one."""

    item: int  # its index: the same seed and index give the same item in every answer
    items: dict[str, Item]  # the items of each output by role; empty if the model has one output
    named_latents: dict[str, Float32]  # by name, for a model with several latents
    conditions: dict[str, Condition]  # by name, as a request may state them
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

    def __repr__(self) -> str:
        return f"<Sample {self.item}: {_counted_items(self._several())}>"


@dataclass(frozen=True, repr=False)
class Samples(ItemsResult):
    """New items."""

    seed: int | None
    latents: Float32 | None  # (n, L)
    named_latents: dict[str, Float32]  # (n, ...) of a model with several latents, by name
    codes: NDArray[np.int64] | None  # (n, h, w)
    classes: list[Any] | None
    condition: Float32 | None  # (n, C) the real values that the items are conditioned on
    conditions: dict[str, Condition]  # by name, as a request may state them

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

    def _parts(self) -> list[str]:
        return [*super()._parts(), _seeded(self.seed)]


@dataclass(frozen=True, repr=False)
class Posterior:
    """The posterior over one latent."""

    mean: Float32 | None  # (n, L)
    log_variance: Float32 | None
    latents: Float32 | None  # a draw, if a seed was given

    @classmethod
    def fields(cls, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields of a posterior."""
        return {name: array(body, name) for name in ("mean", "log_variance", "latents")}

    def _shapes(self) -> list[str]:
        known = {name: getattr(self, name) for name in ("mean", "log_variance", "latents")}
        return [f"{name} {shape_of(value)}" for name, value in known.items() if value is not None]

    def __repr__(self) -> str:
        return f"<Posterior: {', '.join(self._shapes())}>"


@dataclass(frozen=True, repr=False)
class Encoded(Posterior, Result):
    """The posteriors over the latents of items, or their codes."""

    posteriors: dict[str, Posterior]  # by name, for a model with several latents; the fields of Posterior are then None
    codes: NDArray[np.int64] | None

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> Encoded:
        posteriors = {
            name: Posterior(**Posterior.fields(each)) for name, each in (body.get("posteriors") or {}).items()
        }
        codes = array(body, "codes", np.int64)
        return cls(**Result.common(body), **Posterior.fields(body), posteriors=posteriors, codes=codes)

    def table(self) -> dict[str, list[Any]]:
        """Return a row for each item, with a column for each number, such as mean.0; latents are named as in `posteriors`."""
        arrays: dict[str, Any] = {"": self, **{f"{name}.": each for name, each in self.posteriors.items()}}
        found = {
            f"{prefix}{name}": getattr(each, name)
            for prefix, each in arrays.items()
            for name in ("mean", "log_variance", "latents")
        }
        found["codes"] = self.codes
        made: dict[str, list[Any]] = {}
        for name, values in found.items():
            if values is not None:
                flat = values.reshape(len(values), -1)
                made |= {f"{name}.{place}": flat[:, place].tolist() for place in range(flat.shape[1])}
        return made

    def __repr__(self) -> str:
        return Result.__repr__(self)

    def _parts(self) -> list[str]:
        codes = [] if self.codes is None else [f"codes {shape_of(self.codes)}"]
        named = [f"{name}: {', '.join(each._shapes())}" for name, each in self.posteriors.items()]
        return [*self._shapes(), *named, *codes]


@dataclass(frozen=True, repr=False)
class Reconstruction(ItemsResult):
    """Items after encode and decode."""

    errors: NDArray[np.float64]  # (n,)

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> Reconstruction:
        return cls(**item_fields(body), errors=array(body, "errors", np.float64))

    def table(self) -> dict[str, list[Any]]:
        """Return the rows by column, if the items are rows, and the column `error`. If the rows have such a column, it is `error_` instead."""
        made = columns(self.rows)
        name = "error"
        while name in made:
            name += "_"
        return {**made, name: self.errors.tolist()}

    def _parts(self) -> list[str]:
        return [*super()._parts(), f"mean error {self.errors.mean():.4g}" if self.errors.size else ""]


@dataclass(frozen=True, repr=False)
class Interpolation(ItemsResult):
    """A path between two ends."""

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
    """The score of one item, and the decision."""

    score: float
    p_value: float | None
    is_anomaly: bool | None  # None if the model cannot decide; `warnings` of the answer says why
    band: str | None
    risk: int | None
    state: str
    warnings: list[str]
    parts: dict[str, dict[str, float]]
    explanation: dict[str, Any] | None
    id: Any = None  # the id of a row, if the model records an id column
    passed: dict[str, Any] | None = None  # the columns of a row that the model copies to the output

    def __repr__(self) -> str:
        p_value = None if self.p_value is None else f"{self.p_value:.4g}"
        shown = {"p_value": p_value, "is_anomaly": self.is_anomaly, "band": self.band, "state": self.state}
        said = ", ".join(f"{name}={value}" for name, value in shown.items())
        own = "" if self.id is None else f"id={self.id!r}, "
        return f"<ScoredItem: {own}score={self.score:.6g}, {said}{', explained' if self.explanation else ''}>"


@dataclass(frozen=True, repr=False)
class Scores(Result):
    """The anomaly scores of items."""

    items: list[ScoredItem]  # in the order of the request; `items` of other results is a dictionary by output
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

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, place: int) -> ScoredItem:
        """Return the score of one item."""
        return self.items[place]

    def table(self) -> dict[str, list[Any]]:
        """Return a row for each item, with the columns of scored Parquet files: score, p_value, is_anomaly, part.NAME and so on."""
        rows = []
        for item in self.items:
            row: dict[str, Any] = {} if item.id is None else {"id": item.id}
            row |= {f"passed.{name}": value for name, value in (item.passed or {}).items()}
            row |= {
                name: getattr(item, name)
                for name in ("score", "p_value", "is_anomaly", "band", "risk", "state", "warnings")
            }
            for name, part in item.parts.items():
                row |= {f"part.{name}": part["value"], f"part.{name}.p_value": part["p_value"]}
            rows.append(row)
        return columns(rows)

    def _parts(self) -> list[str]:
        undecided = sum(item.is_anomaly is None for item in self.items)
        flagged = f"{sum(bool(item.is_anomaly) for item in self.items)} anomalous"
        return [counted(len(self.items), "item"), flagged, f"{undecided} undecided" if undecided else ""]


@dataclass(frozen=True, repr=False)
class Classes(Result):
    """The classes of items."""

    names: list[str]
    classes: list[str]  # (n,) the most probable ones
    probabilities: NDArray[np.float64]  # (n, C), in the order of `names`
    classification: dict[str, Any]  # the rule, its temperature, and its calibration error

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

    def __len__(self) -> int:
        return len(self.classes)

    def table(self) -> dict[str, list[Any]]:
        """Return a row for each item: its class, and the probability of each class as probability.NAME."""
        each = {f"probability.{name}": self.probabilities[:, place].tolist() for place, name in enumerate(self.names)}
        return {"class": list(self.classes), **each}

    def _parts(self) -> list[str]:
        first = ", ".join(self.classes[:5]) + (", …" if len(self.classes) > 5 else "")
        return [f"{counted(len(self.classes), 'item')} ({first})"]


@dataclass(frozen=True, repr=False)
class Imputed(ItemsResult):
    """Rows or images with their missing values filled in."""

    probabilities: list[dict[str, dict[str, float]]]  # for each row: probability by category, by missing column
    classes: list[str]  # for each image: the class of the chosen candidate, if no class was given

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> Imputed:
        return cls(
            **item_fields(body), probabilities=body.get("probabilities") or [], classes=body.get("classes") or []
        )
