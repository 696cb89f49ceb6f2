"""The conversion of image files to and from arrays: PNG, JPEG and WebP, pixel ranges, fitting, and the limits on what is decoded.

Outside, pixels are uint8 (n, C, H, W), 0 black to 255 white. At a graph's inputs and outputs they are float32 in the spec's range. This is
the only module that imports PIL.
"""

from __future__ import annotations

import io
import json
import math
import struct
import warnings
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, PngImagePlugin

from manifold.runtime import texts
from manifold.runtime.errors import InvalidValue, Malformed, TooLarge, UnsupportedMedia

if TYPE_CHECKING:
    from manifold.runtime.kinds.image import ImageSpec

Float32 = NDArray[np.float32]
Pixels = NDArray[np.uint8]

FORMATS = ("PNG", "JPEG", "WEBP")
# other formats by their first bytes, which no decoder needs to be asked for: name, place, bytes
OTHERS = (
    ("GIF", 0, b"GIF8"), ("BMP", 0, b"BM"), ("TIFF", 0, b"II*\0"), ("TIFF", 0, b"MM\0*"), ("AVIF", 4, b"ftypavif"), ("HEIC", 4, b"ftyphei"),
    ("JPEG 2000", 0, b"\0\0\0\x0cjP  "), ("JPEG 2000", 0, b"\xff\x4f\xff\x51"), ("PSD", 0, b"8BPS"), ("ICO", 0, b"\0\0\1\0"),
)  # fmt: skip
MAX_SCANS = 500  # of a progressive JPEG, each of which decodes all of its pixels anew
MEDIA_TYPES = {"image/png": "PNG", "image/jpeg": "JPEG", "image/webp": "WEBP"}
MAX_PIXELS = 16_000_000
RECIPE = "manifold"  # keyword of the PNG text chunk

# what PIL raises on damaged files, beside its own UnidentifiedImageError (an OSError)
_DAMAGE = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    struct.error,
    zlib.error,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
)


@dataclass(frozen=True)
class Fitted:
    """Steps that fitted an image to the model, in order. There are none if it fitted as it was."""

    size: tuple[int, int]  # width, height as it came
    mode: str
    steps: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the steps as an entry of an answer's `fitted`."""
        return {"width": self.size[0], "height": self.size[1], "mode": self.mode, "steps": list(self.steps)}


# --- ranges -------------------------------------------------------------------------------------------------------------------


def from_uint8(pixels: Pixels, spec: ImageSpec) -> Float32:
    """uint8 to float32 in the spec's range."""
    low, high = spec.range
    exact: Float32 = (np.arange(256) / 255 * (high - low) + low).astype(np.float32)
    return exact[pixels]


def to_uint8(values: NDArray[Any], spec: ImageSpec) -> Pixels:
    """Float in the spec's range (values beyond it are clipped) to uint8."""
    low, high = spec.range
    pixels: Pixels = (
        np.rint((np.asarray(values, np.float64) - low) * (255 / (high - low))).clip(0, 255).astype(np.uint8)
    )
    return pixels


def to_unit(values: NDArray[Any], spec: ImageSpec) -> NDArray[np.float64]:
    """Float in the spec's range to [0, 1], float64."""
    low, high = spec.range
    return (np.asarray(values, np.float64) - low) / (high - low)


def to_unit32(values: NDArray[Any], spec: ImageSpec) -> Float32:
    """Float in the spec's range (values beyond it are clipped) to [0, 1], float32."""
    unit = values if spec.range == (0.0, 1.0) and values.dtype == np.float32 else to_unit(values, spec)
    return np.minimum(np.maximum(unit, 0), 1).astype(np.float32, copy=False)


# --- reading ------------------------------------------------------------------------------------------------------------------


def read_pixels(content: bytes, mode: str, *, field: str = "image", max_pixels: int = MAX_PIXELS) -> Pixels:
    """Pixels of an image file in PIL mode `mode`, uint8 (height, width[, 3])."""
    return np.asarray(_open(content, field, max_pixels).convert(mode))


def read_image(
    content: bytes, spec: ImageSpec, *, fit: str = "contain", field: str = "image", max_pixels: int = MAX_PIXELS
) -> tuple[Pixels, Fitted]:
    """An image file to pixels uint8 (C, H, W) of the model's size, and what was done.

    The rule of `contain`: upright by its EXIF tag; alpha laid over the background; grey or RGB as the model has it (grey by ITU-R 601);
    scaled as large as fits without distortion (Lanczos) and centred on the background; inverted where the spec says so and the border is
    nearer to the opposite of the background. `strict` refuses whatever would need any of this.

    Raises Malformed (not an image), UnsupportedMedia (another format), TooLarge (by its header, before decoding), InvalidValue (strict).
    """
    image = _open(content, field, max_pixels)
    size, mode, steps = image.size, image.mode, []
    image, upright = _upright(image)
    steps += upright
    pixels, recoloured = _recolour(image, spec)
    steps += recoloured
    if (image.width, image.height) != (spec.width, spec.height):
        pixels = _contain(pixels, spec)
        steps.append(f"scaled and centred to {spec.width}x{spec.height}")
    if spec.invert and spec.background is not None and _border_is_opposite(pixels, spec.background):
        pixels = 255 - pixels
        steps.append("inverted: its border was nearer to the opposite of the background")
    if steps and fit == "strict":
        want = f"{spec.width}x{spec.height} {'grey' if spec.channels == 1 else 'RGB'}"
        raise InvalidValue(
            f'{field}: {size[0]}x{size[1]} {mode} does not fit the model\'s {want} (would be {"; ".join(steps)}); send it so, or use fit: "contain"',
            field=field,
        )
    return pixels.transpose(2, 0, 1), Fitted(size, mode, tuple(steps))


def read_mask(
    content: bytes, spec: ImageSpec, image: tuple[int, int], *, field: str = "mask", max_pixels: int = MAX_PIXELS
) -> Pixels:
    """A mask's file to uint8 (1, H, W), 1 where its image is known: white, or at least half of it.

    It has the size of its image (`image`: width, height), and is scaled and centred with it (known is a pixel that is known whole; the margins
    are known), or the model's. Raises as read_image does, InvalidValue for any other size.
    """
    grey = _open(content, field, max_pixels).convert("L")
    known = np.where(np.asarray(grey) >= 128, 255, 0).astype(np.uint8)[:, :, None]
    if grey.size == (spec.width, spec.height):
        return np.asarray(known[None, :, :, 0] > 0, np.uint8)
    if grey.size != image:
        sizes = dict.fromkeys(f"{width}x{height}" for width, height in (image, (spec.width, spec.height)))
        raise InvalidValue(
            f"{field}: {grey.width}x{grey.height}, which is not its image's size; it can be {' or '.join(sizes)}",
            field=field,
        )
    white = spec.model_copy(update={"channels": 1, "background": 1.0, "invert": False})
    return np.asarray(_contain(known, white, Image.Resampling.BOX)[None, :, :, 0] == 255, np.uint8)


def _open(content: bytes, field: str, max_pixels: int) -> Image.Image:
    """Checks format and size by the header alone, then decodes."""
    if not content:
        raise Malformed(f"{field}: empty; send the bytes of a PNG, JPEG or WebP file", field=field)
    _check_head(content, field, max_pixels)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit below is ours, and lower
            image = Image.open(io.BytesIO(content), formats=FORMATS)
    except Image.DecompressionBombError:
        raise TooLarge(f"{field}: over {max_pixels} pixels", field=field) from None
    except _DAMAGE:
        raise Malformed(f"{field}: not an image; send the bytes of a PNG, JPEG or WebP file", field=field) from None
    if image.format not in FORMATS:  # several pictures in one JPEG file
        raise UnsupportedMedia(f"{field}: {image.format} images are not read", field=field, valid=FORMATS)
    if image.width * image.height > max_pixels:
        raise TooLarge(f"{field}: {image.width}x{image.height} is over the limit of {max_pixels} pixels", field=field)
    try:
        image.load()
    except _DAMAGE:
        raise Malformed(f"{field}: the {image.format} file is damaged or cut short", field=field) from None
    return image


def _check_head(content: bytes, field: str, max_pixels: int) -> None:
    """Raise what the first bytes say, before any decoder sees the file: another format, or a size that a decoder would make room for."""
    if other := next((name for name, at, magic in OTHERS if content.startswith(magic, at)), None):
        raise UnsupportedMedia(f"{field}: {other} images are not read", field=field, valid=FORMATS)
    if (size := _webp_size(content)) is not None and size[0] * size[1] > max_pixels:
        raise TooLarge(f"{field}: {size[0]}x{size[1]} is over the limit of {max_pixels} pixels", field=field)
    if content.startswith(b"\xff\xd8") and content.count(b"\xff\xda") > MAX_SCANS:
        raise TooLarge(f"{field}: the JPEG file has more than {MAX_SCANS} scans", field=field)


def _webp_size(content: bytes) -> tuple[int, int] | None:
    """Return width and height of a WebP file's canvas, for which its decoder makes room at once."""
    if content[:4] != b"RIFF" or content[8:12] != b"WEBP" or len(content) < 30:
        return None
    kind = content[12:16]
    if kind == b"VP8X":
        return 1 + _number(content[24:27]), 1 + _number(content[27:30])
    if kind == b"VP8L":
        return 1 + (_number(content[21:25]) & 0x3FFF), 1 + (_number(content[21:25]) >> 14 & 0x3FFF)
    return _number(content[26:28]) & 0x3FFF, _number(content[28:30]) & 0x3FFF


def _number(content: bytes) -> int:
    return int.from_bytes(content, "little")


def _upright(image: Image.Image) -> tuple[Image.Image, list[str]]:
    try:
        turned = image.getexif().get(0x0112, 1) != 1
        return (ImageOps.exif_transpose(image), ["turned upright by its EXIF tag"]) if turned else (image, [])
    except _DAMAGE:  # a broken EXIF block says nothing about the pixels
        return image, []


def _recolour(image: Image.Image, spec: ImageSpec) -> tuple[Pixels, list[str]]:
    """Pixels (h, w, channels), and what was done."""
    want, steps = ("L" if spec.channels == 1 else "RGB"), []
    if image.mode.startswith(("I", "F")):  # 16-bit grey: PIL's own conversion would clip it
        image = Image.fromarray((np.asarray(image, np.float64) / 257).clip(0, 255).astype(np.uint8))
        steps.append("16 bits to 8")
    if image.has_transparency_data:
        background = round(255 * (spec.background or 0.0))
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (background,) * 3 + (255,)), image).convert("RGB")
        steps.append("laid over the background")
        if want == "L":
            image = image.convert("L")
    if image.mode != want:
        steps.append(f"{image.mode} to {'grey' if want == 'L' else 'RGB'}")
        image = image.convert(want)
    pixels = np.asarray(image, np.uint8)
    return pixels.reshape(image.height, image.width, spec.channels), steps


def _contain(pixels: Pixels, spec: ImageSpec, by: Image.Resampling = Image.Resampling.LANCZOS) -> Pixels:
    height, width, _ = pixels.shape
    scale = min(spec.width / width, spec.height / height)
    new = max(1, round(width * scale)), max(1, round(height * scale))
    image = Image.fromarray(pixels[:, :, 0] if spec.channels == 1 else pixels).resize(new, by)
    canvas = np.full((spec.height, spec.width, spec.channels), _empty(pixels, spec), np.uint8)
    top, left = (spec.height - new[1]) // 2, (spec.width - new[0]) // 2
    canvas[top : top + new[1], left : left + new[0]] = np.asarray(image).reshape(new[1], new[0], spec.channels)
    return canvas


def _empty(pixels: Pixels, spec: ImageSpec) -> int:
    """Return the value that margins are filled with: the background, or its opposite if the image is about to be inverted."""
    background = spec.background or 0.0
    opposite = spec.invert and _border_is_opposite(pixels, background)
    return round(255 * (1 - background if opposite else background))


def _border_is_opposite(pixels: Pixels, background: float) -> bool:
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    return abs(float(np.median(border)) / 255 - background) > 0.5


def resize_bicubic(images: Pixels, height: int, width: int) -> Float32:
    """uint8 images (n, C, H, W) to float32 (n, C, height, width) by antialiased bicubic on float channels; may overshoot 0..255."""
    planes = images.astype(np.float32).reshape(-1, *images.shape[2:])
    resized = [np.asarray(Image.fromarray(plane).resize((width, height), Image.Resampling.BICUBIC)) for plane in planes]
    return np.stack(resized).reshape(*images.shape[:2], height, width)


# --- writing ------------------------------------------------------------------------------------------------------------------


def with_few_colours(png: bytes) -> bytes:
    """A plot with a palette of 32 instead of three bytes a pixel: a third of the size."""
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(png)) as image:
        image.convert("RGB").quantize(32).save(buffer, format="png", optimize=True)
    return buffer.getvalue()


def to_png(pixels: Pixels, recipe: Mapping[str, Any] | None = None) -> bytes:
    """A PNG of pixels (C, H, W), C 1 or 3, that carries its recipe as text. The same arguments give the same bytes."""
    info = None
    if recipe is not None:
        info = PngImagePlugin.PngInfo()
        info.add_text(RECIPE, json.dumps(recipe, separators=(",", ":"), sort_keys=True))
    return _save(pixels, "PNG", pnginfo=info, compress_level=6)


def to_webp(pixels: Pixels) -> bytes:
    """A lossless WebP of pixels (C, H, W)."""
    return _save(pixels, "WEBP", lossless=True)


def _save(pixels: Pixels, kind: str, **options: Any) -> bytes:
    image = Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def read_recipe(content: bytes) -> dict[str, Any]:
    """The recipe in a PNG. Raises InvalidValue where there is none."""
    image = _open(content, "image", MAX_PIXELS)
    text = getattr(image, "text", {}).get(RECIPE)
    if text is None:
        raise InvalidValue(
            "the image carries no recipe: it is not a PNG made by this project, or a program has rewritten it"
        )
    try:
        recipe = texts.json_of(text, "recipe")
    except Malformed:
        raise InvalidValue("the image's recipe is damaged: it is not JSON") from None
    if not isinstance(recipe, dict):
        raise InvalidValue("the image's recipe is damaged: it is not a JSON object")
    return recipe


def grid_recipe(recipes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the recipe of a grid of items, from the recipes of the items."""
    first, n = recipes[0], len(recipes)
    recipe = {**first, "n": n}
    for key in ("class", "condition", "conditions", "inputs", "latents", "named_latents", "codes"):
        values = [one[key] for one in recipes if key in one]
        if values and (key != "class" or any(value != values[0] for value in values)):
            recipe[key] = values
    return recipe


def grid(images: Pixels, *, columns: int | None = None, scale: int = 1, gap: int = 2) -> Pixels:
    """Images (n, C, H, W) side by side, left to right and down, as one (C, H', W'); as square as it goes where columns is None."""
    n, channels, height, width = images.shape
    columns = min(n, columns or math.ceil(math.sqrt(n)))
    lines = -(-n // columns)
    images = images.repeat(scale, axis=2).repeat(scale, axis=3)
    height, width = height * scale + gap, width * scale + gap
    canvas = np.full((channels, lines * height - gap, columns * width - gap), 64, np.uint8)
    for index, image in enumerate(images):
        top, left = index // columns * height, index % columns * width
        canvas[:, top : top + height - gap, left : left + width - gap] = image
    return canvas
