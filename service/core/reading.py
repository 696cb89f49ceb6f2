"""What a request brings, as arrays at the graph's edge: images, rows, latents, codes, ends of a path. Off the event loop if large."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifold.runtime import codecs, operations
from manifold.runtime.codecs import Fitted
from manifold.runtime.errors import InvalidValue, TooLarge, UnsupportedTask
from manifold.runtime.inputs import Classes
from manifold.runtime.manifest import Manifest
from manifold.runtime.spec import ImageSpec, TableSpec
from manifold.runtime.tables import rows
from manifold.service.aside import LARGE, ROW, aside
from manifold.service.core import contract
from manifold.service.models.entries import endpoints
from manifold.service.settings import Settings

Array = NDArray[Any]
Read = tuple[Array, list[Fitted], list[list[str]]]  # items, what was done to each image, warnings by item

GROUP = 16  # images that are read in one go: one takes up to a tenth of a second


@dataclass(frozen=True)
class Uploads:
    """What came beside the fields: files, or an array."""

    images: tuple[bytes, ...] = ()
    array: Array | None = None
    masks: tuple[bytes, ...] = ()
    work: float = 0  # of reading the request that they came in, in bytes (service.aside)


class Reader:
    """Reads requests within the settings' limits."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    async def items(
        self, manifest: Manifest, request: contract.Content, uploads: Uploads, *, unknown: bool = False
    ) -> Read:
        """The items; `unknown` allows categories never seen in training."""
        given, spec = len(request.images or ()) + len(uploads.images), manifest.data
        if given > GROUP and isinstance(spec, ImageSpec) and request.rows is None and uploads.array is None:
            return await self._many_images(spec, [*(request.images or ()), *uploads.images], request.fit)
        read = functools.partial(self._items, manifest, request, uploads, unknown=unknown)
        pictures = bool(request.images or uploads.images)  # one of few bytes may have many pixels
        return await aside(read, LARGE if pictures else max(uploads.work, ROW * len(request.rows or ())))

    async def _many_images(self, spec: ImageSpec, given: list[str | bytes], fit: str) -> Read:
        """Read images in groups, so that the work ends if the client leaves, and other requests get their turn."""
        self.limit(len(given), "images")
        read: list[tuple[codecs.Pixels, Fitted]] = []
        for start in range(0, len(given), GROUP):
            read += await aside(functools.partial(self._images, spec, given[start : start + GROUP], fit, start))
        return await aside(functools.partial(_joined, read, spec))

    def _images(
        self, spec: ImageSpec, given: Sequence[str | bytes], fit: str, start: int = 0
    ) -> list[tuple[codecs.Pixels, Fitted]]:
        """Return the pixels of images, and what was done to each. `start` is the place of the first one in the request."""
        return [
            codecs.read_image(_content(content, field), spec, fit=fit, field=field, max_pixels=self.settings.max_pixels)
            for field, content in ((f"images[{place}]", content) for place, content in enumerate(given, start))
        ]

    async def ends(
        self, manifest: Manifest, request: contract.InterpolateRequest, uploads: Uploads
    ) -> tuple[operations.End, operations.End, list[Fitted]]:
        """Both ends of a path, and what was done to their images."""
        fitted: list[Fitted] = []

        def read() -> tuple[operations.End, operations.End, list[Fitted]]:
            start = self._end(manifest, request.from_, "from", request.fit, fitted)
            return start, self._end(manifest, request.to, "to", request.fit, fitted), fitted

        return await aside(read, LARGE if request.from_.image or request.to.image else uploads.work)

    def limit(self, n: int, name: str) -> None:
        """Raises TooLarge over the items a request may have."""
        if n > self.settings.max_items:
            raise TooLarge(
                f"{name}: {n} is over the limit of {self.settings.max_items} a request; ask in several", field=name
            )

    def given(
        self, manifest: Manifest, request: contract.SampleRequest, uploads: Uploads
    ) -> tuple[Array | None, Array | None]:
        """Latents and codes of a /sample request, by field or as a body of numbers."""
        if uploads.images:
            raise InvalidValue("/sample takes no images; /reconstruct does", field="images")
        latents: Any = request.latents
        codes: Any = request.codes
        if uploads.array is not None:
            if latents is not None or codes is not None:
                raise InvalidValue("latents: given twice, as a field and as the body", field="latents")
            latents, codes = (
                (None, uploads.array) if uploads.array.dtype.kind in "iu" and manifest.codes else (uploads.array, None)
            )
        if latents is not None:
            if manifest.latent is None:
                raise UnsupportedTask(
                    f"{manifest.name} has no latent; leave latents out", field="latents", valid=endpoints(manifest)
                )
            latents = codecs.floats(latents, (manifest.latent.size,), "latents")
            self._not_empty(latents, "latents")
        if codes is not None:
            if manifest.codes is None or "decode_codes" not in manifest.tasks:
                raise UnsupportedTask(
                    f"{manifest.name} does not decode codes; leave codes out", field="codes", valid=endpoints(manifest)
                )
            numbers = codecs.floats(codes, manifest.codes.shape, "codes")
            self._not_empty(numbers, "codes")
            if (numbers != np.rint(numbers)).any() or numbers.min() < 0 or numbers.max() >= manifest.codes.levels:
                raise InvalidValue(
                    f"codes: whole numbers from 0 to {manifest.codes.levels - 1} are needed", field="codes"
                )
            codes = numbers.astype(np.int64)
        return latents, codes

    async def told(
        self, uploads: Uploads, class_: Classes | None, values: list[Any] | None, field: str = "condition"
    ) -> Classes | None:
        """Do as `condition` does, off the event loop if the request is large."""
        if values is None:
            return class_
        return await aside(functools.partial(self.condition, class_, values, field), uploads.work)

    def condition(self, class_: Classes | None, values: list[Any] | None, field: str = "condition") -> Classes | None:
        """A class as it was given, or the array of a condition; the operation checks its width. Raises InvalidValue for both."""
        if values is None:
            return class_
        if class_ is not None:
            raise InvalidValue(f"{field} and {field.replace('condition', 'class')} exclude each other", field=field)
        try:
            return np.atleast_2d(np.asarray(values, np.float64))
        except (ValueError, TypeError, OverflowError):
            raise InvalidValue(f"{field}: numbers of shape [C] or [n, C] are needed", field=field) from None

    def _not_empty(self, array: Sequence[Any] | Array, name: str) -> None:
        if not len(array):
            raise InvalidValue(f"{name}: at least one is needed", field=name)
        self.limit(len(array), name)

    def _items(self, manifest: Manifest, request: contract.Content, uploads: Uploads, *, unknown: bool = False) -> Read:
        """Items at the graph's edge, what was done to each image, and warnings by item."""
        spec = manifest.data
        if isinstance(spec, TableSpec):
            return self._rows(manifest, spec, request, uploads, unknown)
        if request.rows is not None:
            raise InvalidValue(f"rows: {manifest.name} takes images", field="rows")
        if uploads.array is not None:
            data = _array_images(uploads.array, spec)
            self.limit(len(data), "images")
            return data, [], [[] for _ in data]
        given = [*(request.images or ()), *uploads.images]
        if not given:
            raise InvalidValue(
                "images: at least one is needed: base64 in JSON, a multipart file, or an image as the body",
                field="images",
            )
        self.limit(len(given), "images")
        return _joined(self._images(spec, given, request.fit), spec)

    def _rows(
        self, manifest: Manifest, spec: TableSpec, request: contract.Content, uploads: Uploads, unknown: bool
    ) -> Read:
        self._refuse_images(manifest, spec, request, uploads)
        if not request.rows:
            raise InvalidValue(
                f"rows: at least one is needed, with the columns {', '.join(spec.names)}",
                field="rows",
                valid=spec.names,
            )
        self.limit(len(request.rows), "rows")
        given = manifest.task("score") if unknown else None  # scoring lets values be missing where the graph does
        missing = given is not None and any(tensor.missing for tensor in given.inputs)
        data, warnings = rows.encode(request.rows, spec, unknown=unknown, missing=missing)
        return data, [], warnings

    @staticmethod
    def _refuse_images(manifest: Manifest, spec: TableSpec, request: contract.Content, uploads: Uploads) -> None:
        if request.images is not None or uploads.images or uploads.array is not None:
            raise InvalidValue(
                f"images: {manifest.name} takes rows with the columns {', '.join(spec.names)}",
                field="images",
                valid=spec.names,
            )

    async def masked(
        self, manifest: Manifest, request: contract.ImputeRequest, uploads: Uploads
    ) -> tuple[Array, Array, list[Fitted]]:
        """Images and their masks (n, 1, H, W), 1 where known, and what was done to the images."""
        data, fitted, _ = await self.items(manifest, request, uploads)
        spec = manifest.data
        assert isinstance(spec, ImageSpec)
        given = list(request.masks or ()) + list(uploads.masks)
        if len(given) not in (1, len(data)):
            raise InvalidValue(
                f"masks: {len(given)} for {len(data)} images; one for each is needed, or one for all: a PNG that is white where the image is known",
                field="masks",
            )
        of_all = [Fitted((spec.width, spec.height), "", ())] * len(data)

        pairs = list(enumerate(zip(given * len(data) if len(given) == 1 else given, fitted or of_all, strict=False)))

        def read(start: int) -> list[codecs.Pixels]:
            return [
                codecs.read_mask(_content(mask, f"masks[{i}]"), spec, image, field=f"masks[{i}]", max_pixels=self.settings.max_pixels)
                for i, (mask, image) in pairs[start : start + GROUP]
            ]  # fmt: skip

        masks: list[codecs.Pixels] = []
        for start in range(0, len(pairs), GROUP):
            masks += await aside(functools.partial(read, start))
        return data, np.stack(masks), fitted

    def rows_of(self, manifest: Manifest, request: contract.ImputeRequest, uploads: Uploads) -> Sequence[contract.Row]:
        """The rows of a request about rows. Raises InvalidValue where it has images, or none."""
        assert isinstance(manifest.data, TableSpec)
        self._refuse_images(manifest, manifest.data, request, uploads)
        self._not_empty(request.rows or (), "rows")
        return request.rows or ()

    def holes(self, manifest: Manifest, given: Sequence[contract.Row]) -> Array:
        """Rows at the graph's edge, NaN where a value is missing."""
        assert isinstance(manifest.data, TableSpec)
        return rows.encode(given, manifest.data, missing=True)[0]

    def _end(self, manifest: Manifest, end: contract.End, name: str, fit: str, fitted: list[Fitted]) -> operations.End:
        given = [key for key in ("image", "row", "latent", "seed") if getattr(end, key) is not None]
        told = self.condition(end.class_, end.condition, f"{name}.condition")
        if len(given) > 1 or (not given and told is None):
            raise InvalidValue(
                f"{name}: one of image, row, latent, seed, class or condition is needed",
                field=name,
                valid=["image", "row", "latent", "seed", "class", "condition"],
            )
        latent = data = None
        if end.latent is not None:
            assert manifest.latent is not None
            latent = codecs.floats([end.latent], (manifest.latent.size,), f"{name}.latent")[0]
        if end.image is not None:
            if not isinstance(manifest.data, ImageSpec):
                raise InvalidValue(f"{name}.image: {manifest.name} takes rows", field=f"{name}.image")
            pixels, done = codecs.read_image(
                codecs.from_base64(end.image, f"{name}.image"),
                manifest.data,
                fit=fit,
                field=f"{name}.image",
                max_pixels=self.settings.max_pixels,
            )
            fitted.append(done)
            data = codecs.from_uint8(pixels[None], manifest.data)[0]
        if end.row is not None:
            if not isinstance(manifest.data, TableSpec):
                raise InvalidValue(f"{name}.row: {manifest.name} takes images", field=f"{name}.row")
            data = rows.encode([end.row], manifest.data, field=f"{name}.row")[0][0]
        return operations.End(latent, data, end.seed, end.first, told)


def _joined(read: Sequence[tuple[codecs.Pixels, Fitted]], spec: ImageSpec) -> Read:
    """Return images as one array at the graph's edge."""
    data = codecs.from_uint8(np.stack([pixels for pixels, _ in read]), spec)
    return data, [fitted for _, fitted in read], [[] for _ in read]


def _content(given: bytes | str, field: str) -> bytes:
    """A file's bytes, which come as base64 in JSON."""
    return codecs.from_base64(given, field) if isinstance(given, str) else given


def _array_images(array: Array, spec: ImageSpec) -> Array:
    """An array (n, C, H, W), (n, H, W) where grey, or one image without n; uint8 0..255 or float 0..1."""
    shape = spec.shape
    if array.shape in (shape, shape[1:]):
        array = array[None]
    if spec.channels == 1 and array.shape[1:] == shape[1:]:
        array = array[:, None]
    if array.shape[1:] != shape or not len(array):
        raise InvalidValue(
            f"body: shape {list(array.shape)}, but [n, {', '.join(map(str, shape))}] is needed", field="body"
        )
    if array.dtype == np.uint8:
        return codecs.from_uint8(array, spec)
    numbers = codecs.floats(array, shape, "body")
    if numbers.min() < 0 or numbers.max() > 1:
        raise InvalidValue("body: floats must be in 0..1 (or send uint8 0..255)", field="body")
    low, high = spec.range
    return np.asarray(numbers * (high - low) + low, np.float32)
