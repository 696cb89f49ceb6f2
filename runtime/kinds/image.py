"""Images, grey or colour, of one size. In PNG, JPEG and WebP files they are uint8 pixels; in a model they are float32 (n, C, H, W)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import BaseModel, Field, model_validator

from manifold.runtime import codecs, imaging
from manifold.runtime.codecs import Base64
from manifold.runtime.errors import InvalidValue, cut, either
from manifold.runtime.imaging import Fitted, Pixels
from manifold.runtime.kinds.base import Array, Evidence, Float32, Float64, Items, Kind, Reading, Recipes, Wire

Fit = Literal["contain", "strict"]


class ImageRequest(BaseModel):
    """The images of a request."""

    images: list[Base64] | None = Field(default=None, description="[n] PNG, JPEG or WebP files in base64")


class ImageSingle(BaseModel):
    """One image."""

    image: Base64 | None = Field(default=None, description="A PNG, JPEG or WebP file in base64.")


class Options(BaseModel):
    """The options that say how images are fitted to the size of the model."""

    fit: Fit = Field(
        default="contain",
        description="contain: fit images to the size and channels of the model. strict: refuse images that need a change.",
    )


class ImageAnswer(BaseModel):
    """The images of an answer."""

    images: list[Base64] | None = Field(default=None, description="[n] PNG files in base64")
    data: list[Any] | None = Field(default=None, description="[n][C][H][W] pixels in [0, 1]")


class ImageNeighbour(BaseModel):
    """An image in an explanation."""

    image: Base64 | None = Field(default=None, description="PNG in base64: a training image near the item")


class ImageExplanation(BaseModel):
    """The explanation of the score of an image: where it is anomalous."""

    map: Base64 | None = Field(default=None, description="images only: nats per pixel, as a PNG in base64")


class ImageSpec(Kind):
    """A spec of images. In a model they are float32 (B, channels, height, width) in `range`; in files they are uint8 0..255."""

    kind: Literal["image"] = "image"
    height: int = Field(ge=1, le=4096)
    width: int = Field(ge=1, le=4096)
    channels: Literal[1, 3]
    range: tuple[float, float] = Field(
        default=(0.0, 1.0), description="the values of black (0) and white (255) in model inputs and outputs"
    )
    levels: int = Field(
        default=256,
        ge=2,
        le=256,
        description="number of grey levels that the model distinguishes; the graph rounds to them",
    )
    background: float | None = Field(
        default=None, ge=0, le=1, description="value of empty space, from 0 (black) to 1 (white)"
    )
    invert: bool = Field(
        default=False, description="true to invert images whose border is nearer to the opposite of `background`"
    )

    noun: ClassVar[str] = "images"
    wire: ClassVar[Wire] = Wire(
        many="images", one="image", request=ImageRequest, single=ImageSingle, answer=ImageAnswer, options=Options, neighbour=ImageNeighbour,
        explanation=ImageExplanation, by_item={"images": "image", "data": "data"}, media_types=("image/png", "image/webp"), group=16,
    )  # fmt: skip
    pictures: ClassVar[bool] = True
    one_unit: ClassVar[bool] = True
    error_unit: ClassVar[str] = "of pixels in [0, 1]"
    likelihoods: ClassVar[tuple[str, ...]] = (
        "bernoulli", "gaussian", "gaussian-learned", "laplace", "logistic", "logistic-by-mean", "logistic-learned", "logistic-mixture", "histogram",
    )  # fmt: skip
    suffix: ClassVar[str] = ".png"

    @model_validator(mode="after")
    def _check(self) -> ImageSpec:
        if self.range[0] >= self.range[1]:
            raise ValueError(f"range: {list(self.range)} is not ascending; give [low, high] with low < high")
        if self.invert and self.background is None:
            raise ValueError("invert: there is no background to compare with; add `background`")
        return self

    # --- arrays ---

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape (C, H, W)."""
        return (self.channels, self.height, self.width)

    @property
    def forms(self) -> list[list[int | str]]:
        """The shapes with a channel, and of grey images without."""
        grey: list[list[int | str]] = [[self.height, self.width], ["n", self.height, self.width]]
        return [*(grey if self.channels == 1 else []), *super().forms]

    @property
    def limits(self) -> tuple[float, float]:
        """The range of the pixels in the model."""
        return self.range

    @property
    def mask_shape(self) -> tuple[int, ...]:
        """The shape (1, H, W): each pixel is known or not."""
        return (1, self.height, self.width)

    @property
    def nats_shapes(self) -> list[tuple[int, ...]]:
        """The shapes for nats per channel, or per pixel with or without an axis for the channel."""
        return list(dict.fromkeys([self.shape, self.mask_shape, (self.height, self.width)]))

    def to_model(self, stored: Array) -> Float32:
        """Convert uint8 pixels into the range of the model."""
        return imaging.from_uint8(stored, self)

    def reader_of(self, held: Kind) -> Callable[[Array], Float32] | None:
        """Return the conversion of stored images of the same shape; they may have another range or number of levels."""
        return self.to_model if held.kind == self.kind and held.shape == self.shape else None

    def errors(self, data: Array, back: Array) -> Float64:
        """Return the mean squared error (n,) of pixels in [0, 1]."""
        return super().errors(imaging.to_unit(data, self), imaging.to_unit(back, self))

    def example(self, rows: int, generator: np.random.Generator) -> Float32:
        """Return images of noise."""
        return generator.uniform(*self.range, (rows, *self.shape)).astype(np.float32)

    def plain(self) -> Float32:
        """Return a black image."""
        return np.full(self.shape, self.range[0], np.float32)

    # --- requests ---

    def read(self, given: Sequence[str | bytes], how: Reading, field: str, start: int = 0) -> Items:
        """Read image files, given as bytes or in base64."""
        return self._joined([
            self._pixels(content, how, f"{field}[{place}]") for place, content in enumerate(given, start)
        ])  # fmt: skip

    def read_one(self, given: str | bytes, how: Reading, field: str) -> Items:
        """Read one image file."""
        return self._joined([self._pixels(given, how, field)])

    def _pixels(self, content: str | bytes, how: Reading, field: str) -> tuple[Pixels, Fitted]:
        fit = how.options.get("fit", "contain")
        return imaging.read_image(_bytes(content, field), self, fit=fit, field=field, max_pixels=how.max_pixels)

    def _joined(self, read: Sequence[tuple[Pixels, Fitted]]) -> Items:
        data = imaging.from_uint8(np.stack([pixels for pixels, _ in read]), self)
        done = [fitted for _, fitted in read]
        warnings = tuple(fitted.warnings for fitted in done)
        return Items(
            data, tuple(fitted.as_dict() for fitted in done), warnings, tuple(fitted.upright for fitted in done)
        )

    def read_array(self, array: Array, field: str) -> Items:
        """Read an array (n, C, H, W), (n, H, W) of grey images, or one image without n; uint8 0..255 or floats 0..1."""
        shape = self.shape
        if array.shape in (shape, shape[1:]):
            array = array[None]
        if self.channels == 1 and array.shape[1:] == shape[1:]:
            array = array[:, None]
        if array.shape[1:] != shape or not len(array):
            raise InvalidValue(
                f"{field}: the shape is {cut(str(list(array.shape)))}; send {either(self.forms)}", field=field
            )
        return Items(self._in_range(array, field), (), ((),) * len(array))

    def _in_range(self, array: Array, field: str) -> Float32:
        if array.dtype == np.uint8:
            return imaging.from_uint8(array, self)
        numbers = codecs.floats(array, self.shape, field)
        if numbers.min() < 0 or numbers.max() > 1:
            raise InvalidValue(
                f"{field}: the floats go from {numbers.min():g} to {numbers.max():g}; send floats in 0..1, or uint8 0..255",
                field=field,
            )
        low, high = self.range
        return np.asarray(numbers * (high - low) + low, np.float32)

    def read_masks(self, given: Sequence[str | bytes], items: Items, how: Reading, start: int = 0) -> Array:
        """Read the masks of the items from index `start` on: image files in which known pixels are white (or 1, if the file has only 0 and 1)."""
        whole = (self.width, self.height)
        masks = []
        for place, content in enumerate(given, start):
            field = f"masks[{place}]"
            size = items.sizes[place] if items.sizes else whole
            masks.append(imaging.read_mask(_bytes(content, field), self, size, field=field, max_pixels=how.max_pixels))
        return np.stack(masks)

    @property
    def needed(self) -> str:
        """The forms in which images can be sent."""
        return "PNG, JPEG or WebP images (over HTTP: base64 strings in JSON, files in a multipart form, or one image as the body)"

    # --- answers ---

    def write(
        self, items: Array, encoding: str, recipes: Recipes | None, picture: Callable[[bytes], Any]
    ) -> dict[str, Any]:
        """Return PNG files with their recipes, or pixels in [0, 1]."""
        if encoding == "array":
            return {"data": imaging.to_unit32(items, self)}
        return {"images": [picture(png) for png in self._pngs(items, recipes)]}

    def _pngs(self, items: Array, recipes: Recipes | None) -> list[bytes]:
        texts = [None] * len(items) if recipes is None else recipes()
        return [imaging.to_png(pixels, text) for pixels, text in zip(imaging.to_uint8(items, self), texts, strict=True)]

    def write_array(self, items: Array) -> Array:
        """Return the pixels as float32 (n, C, H, W) in [0, 1]."""
        return imaging.to_unit32(items, self)

    def write_file(self, items: Array, media_type: str, recipes: Recipes | None) -> bytes:
        """Return one image, or several images as a grid."""
        if media_type == "image/png" and len(items) == 1:
            return self._pngs(items, recipes)[0]
        pixels = imaging.to_uint8(items, self)
        picture = pixels[0] if len(pixels) == 1 else imaging.grid(pixels)
        if media_type == "image/webp":
            return imaging.to_webp(picture)
        return imaging.to_png(picture, None if recipes is None else imaging.grid_recipe(recipes()))

    def summary(self) -> dict[str, Any]:
        """Return size, channels and background."""
        return {name: getattr(self, name) for name in ("kind", "height", "width", "channels", "background")}

    # --- explanations and pictures ---

    def explain(self, evidence: Evidence, given: Sequence[Any]) -> list[dict[str, Any]]:
        """Return a map of nats per pixel for each item, and its nearest neighbours."""
        return [
            {"map": picture, **near} for picture, near in zip(self._maps(evidence), self._near(evidence), strict=True)
        ]

    def _maps(self, evidence: Evidence) -> list[str | None]:
        """Return pictures of nats per pixel. One pixel in a thousand of normal images is as anomalous as white."""
        if evidence.nats is None:
            return [None] * (0 if evidence.distances is None else len(evidence.distances))
        by_pixel = evidence.nats.reshape(len(evidence.nats), -1, self.height, self.width).mean(axis=1, keepdims=True)
        scaled = by_pixel / (evidence.scale or float(by_pixel.max()) or 1.0)
        pixels = np.rint(np.clip(scaled, 0, 1) * 255).astype(np.uint8)
        return [_shown(item) for item in pixels]

    def _near(self, evidence: Evidence) -> list[dict[str, Any]]:
        if evidence.neighbours is None or evidence.distances is None:
            return [{} for _ in range(0 if evidence.nats is None else len(evidence.nats))]
        return [
            {
                "neighbours": [
                    {"distance": distance, "image": _shown(pixels)}
                    for distance, pixels in zip(distances, imaging.to_uint8(near, self), strict=True)
                ]
            }
            for distances, near in zip(evidence.distances.tolist(), evidence.neighbours, strict=True)
        ]

    def sheet(self, items: Array, recipes: Sequence[Mapping[str, Any]] | None = None, *, scale: int = 1) -> bytes:
        """Return a PNG with all images as a grid, and their common recipe."""
        picture = imaging.grid(imaging.to_uint8(items, self), scale=scale)
        return imaging.to_png(picture, None if recipes is None else imaging.grid_recipe(recipes))

    def preview(self, made: Array, real: Array, name: str = "sampled") -> bytes:
        """Return a grid of images made by the model, with small images enlarged."""
        return self.sheet(made, scale=max(1, round(28 / self.height)))


def _bytes(given: str | bytes, field: str) -> bytes:
    """Return the bytes of a file, which is base64 text in JSON."""
    return codecs.from_base64(given, field) if isinstance(given, str) else given


def _shown(pixels: Pixels) -> str:
    return codecs.to_base64(imaging.to_png(pixels))
