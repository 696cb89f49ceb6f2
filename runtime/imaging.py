"""The conversion of image files to and from arrays: PNG, JPEG and WebP, pixel ranges, fitting to a model, and limits for decoding.

In files and responses, pixels are uint8 (n, C, H, W), 0 black to 255 white. In model inputs and outputs they are float32 in the spec's range.
This is the only module that imports PIL.
"""

from __future__ import annotations

import io
import json
import re
import struct
import warnings
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from manifold.runtime import image_headers, ink, texts
from manifold.runtime.errors import InvalidValue, Malformed, TooLarge
from manifold.runtime.image_headers import FORMATS as FORMATS
from manifold.runtime.image_headers import GREY_ALPHA, bits_of
from manifold.runtime.image_headers import MAX_PIXELS as MAX_PIXELS
from manifold.runtime.pixels import border, keyed, turned
from manifold.runtime.pixels import from_uint8 as from_uint8
from manifold.runtime.pixels import grid as grid
from manifold.runtime.pixels import grid_recipe as grid_recipe
from manifold.runtime.pixels import to_uint8 as to_uint8
from manifold.runtime.pixels import to_unit as to_unit
from manifold.runtime.pixels import to_unit32 as to_unit32

if TYPE_CHECKING:
    from manifold.runtime.kinds.image import ImageSpec

Float32 = NDArray[np.float32]
Pixels = NDArray[np.uint8]

MEDIA_TYPES = {"image/png": "PNG", "image/jpeg": "JPEG", "image/webp": "WEBP"}
RECIPE = "manifold"  # keyword of the PNG text chunk
DARK = 1 / 16  # share of the range that no value of a dark file reaches
PLAIN = {"LA": "L", "PA": "P", "RGBA": "RGB", "I;16": "L", "I": "L"}  # modes without alpha and in 8 bits
ON_OPPOSITE = "laid over the opposite of the background: the image would be invisible on the background"
INVERTED_INK = "inverted: the image is only visible on the opposite of the background"

# errors that PIL raises for damaged files, in addition to its own UnidentifiedImageError (an OSError)
DAMAGE = (
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
    AssertionError,  # a palette image without a palette
)


@dataclass(frozen=True)
class Fitted:
    """The steps that fitted an image to the model, in order; empty if none was needed."""

    size: tuple[int, int]  # width and height of the file
    mode: str
    steps: tuple[str, ...]
    warnings: tuple[str, ...] = ()  # for example that the image is blank
    upright: tuple[int, int] = (0, 0)  # width and height after the rotation by its EXIF tag

    @property
    def notes(self) -> tuple[str, ...]:
        """The steps and warnings, without the largest value of a dark file, so that equal ones can be counted over many files."""
        warned = (re.sub(r"end at \d+ of (\d+);.*", r"end below a sixteenth of \1", text) for text in self.warnings)
        return (*self.steps, *warned)

    def as_dict(self) -> dict[str, Any]:
        """Return the steps as an entry of `fitted` in a response."""
        width, height = self.size
        return {
            "width": width,
            "height": height,
            "mode": self.mode,
            "steps": list(self.steps),
            "warnings": list(self.warnings),
        }


# --- reading ------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Decoded:
    """The pixels of an image file, upright and in 8 bits, with its transparency."""

    pixels: Pixels  # (h, w, 1) for grey files, else (h, w, 3)
    alpha: Pixels | None  # (h, w); None if every pixel is opaque
    size: tuple[int, int]  # width and height of the file
    mode: str  # the name that PIL uses
    bits: int  # bits per value in the file
    orientation: int  # value of the EXIF tag
    steps: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    uneven: bool = False  # true if 16-bit values differ, even if their upper 8 bits are equal

    @property
    def upright(self) -> tuple[int, int]:
        """The width and height of the upright image."""
        return self.pixels.shape[1], self.pixels.shape[0]

    @property
    def opaque(self) -> NDArray[np.bool_]:
        """A mask (h, w) of the opaque pixels."""
        return np.ones(self.pixels.shape[:2], bool) if self.alpha is None else self.alpha >= ink.OPAQUE

    @property
    def is_flat(self) -> bool:
        """True if all pixels of the file are equal, or all are transparent."""
        if self.alpha is not None and not self.alpha.any():
            return True
        return not self.uneven and ink.is_flat(self.pixels) and (self.alpha is None or ink.is_flat(self.alpha))


def decode(content: bytes, *, field: str = "image", max_pixels: int = MAX_PIXELS) -> Decoded:
    """Decode an image file. All readers of this module call it first.

    The first of several pictures is used. It is rotated according to its EXIF tag. Values of 1 to 16 bits become 8 bits, with black at 0
    and white at 255. Palettes and CMYK become RGB. Transparency, also a transparent colour or palette entry, becomes alpha. Colour profiles and
    gamma are not applied.

    Raises Malformed (not an image), UnsupportedMedia (another format), TooLarge (from the header, before decoding).
    """
    image = _open(content, field, max_pixels)
    bits, orientation = bits_of(content), _orientation(image)
    steps = _pictures(image)
    try:
        pixels, alpha = _planes(image, content, bits)
        words = _words(image, content) if bits == 16 else None
    except DAMAGE:
        raise Malformed(
            f"{field}: the {image.format} file is damaged or incomplete; save it again", field=field
        ) from None
    if orientation != 1:
        pixels, alpha = turned(pixels, orientation), None if alpha is None else turned(alpha, orientation)
        steps.append("turned upright by its EXIF tag")
    if bits == 16:
        steps.append("16 bits to 8")
    if alpha is not None and (alpha == 255).all():
        alpha = None
    uneven = words is not None and not ink.is_flat(words)
    warned = _dark(pixels if words is None else words, bits) if alpha is None or image.mode.startswith("I") else ()
    return Decoded(pixels, alpha, image.size, image.mode, bits, orientation, tuple(steps), warned, uneven)


def read_pixels(
    content: bytes, mode: str, *, background: float = 0.0, field: str = "image", max_pixels: int = MAX_PIXELS
) -> Pixels:
    """Return the pixels of an image file in PIL mode `mode`, L or RGB, uint8 (height, width[, 3]). See `read_unscaled`."""
    channels = 1 if mode == "L" else 3
    pixels, _ = read_unscaled(content, channels, background=background, field=field, max_pixels=max_pixels)
    return pixels[0] if channels == 1 else pixels.transpose(1, 2, 0)


def read_unscaled(
    content: bytes, channels: int, *, background: float = 0.0, invert: bool = False, field: str = "image", max_pixels: int = MAX_PIXELS
) -> tuple[Pixels, Fitted]:  # fmt: skip
    """Read an image file as pixels uint8 (C, H, W) of its own size, for images that are evaluated unscaled. Return pixels and steps.

    Other than in `read_image`, the image is not scaled, and an opaque image is never inverted. With `invert`, an image that is only visible on
    the opposite of the background is inverted. Raises the errors of `decode`.
    """
    decoded = decode(content, field=field, max_pixels=max_pixels)
    laid = _laid(decoded, channels, background, invert)
    pixels, steps = laid.pixels, [*decoded.steps, *laid.steps]
    if invert and laid.lost:
        pixels = 255 - pixels
        steps.append(INVERTED_INK)
    return pixels.transpose(2, 0, 1), _fitted(decoded, pixels, steps)


def read_image(
    content: bytes, spec: ImageSpec, *, fit: str = "contain", field: str = "image", max_pixels: int = MAX_PIXELS
) -> tuple[Pixels, Fitted]:
    """Read an image file as pixels uint8 (C, H, W) of the size of the model. Return the pixels and the steps.

    The steps of `contain` after `decode`:

    1. A transparent image is laid over the background, or over its opposite if it would be invisible (runtime.ink).
    2. It is converted to grey (ITU-R 601) or RGB, as the model needs.
    3. It is scaled to the largest size that fits without distortion (Lanczos) and centred on the background.
    4. With `spec.invert`, it is inverted if its canvas, or its border if it is opaque, is nearer to the opposite of the background.

    `strict` rejects an image that needs any step. Raises the errors of `decode`, and InvalidValue (strict).
    """
    decoded = decode(content, field=field, max_pixels=max_pixels)
    background = spec.background or 0.0
    laid = _laid(decoded, spec.channels, background, spec.invert)
    pixels, steps, opposite = laid.pixels, [*decoded.steps, *laid.steps], laid.opposite
    if decoded.upright != (spec.width, spec.height):
        pixels = _contain(pixels, spec, laid.around)
        opposite = spec.invert and not laid.canvas and _border_is_opposite(pixels, background)
        steps.append(f"scaled and centred to {spec.width}x{spec.height}")
    if spec.invert and laid.lost:
        pixels = 255 - pixels
        steps.append(INVERTED_INK)
    elif opposite:
        pixels = 255 - pixels
        steps.append("inverted: its border was nearer to the opposite of the background")
    if steps and fit == "strict":
        want = f"{spec.width}x{spec.height} {'grey' if spec.channels == 1 else 'RGB'}"
        width, height = decoded.size
        raise InvalidValue(
            f"{field}: {width}x{height} {decoded.mode} does not fit the {want} of the model (it would be {'; '.join(steps)}); "
            'send an image that needs no change, or use fit: "contain"',
            field=field,
        )
    return pixels.transpose(2, 0, 1), _fitted(decoded, pixels, steps)


def read_mask(
    content: bytes, spec: ImageSpec, image: tuple[int, int], *, field: str = "mask", max_pixels: int = MAX_PIXELS
) -> Pixels:
    """Read the file of a mask as uint8 (1, H, W), with 1 for known pixels: those that are at least half white and at least half opaque.

    If the largest opaque value is 1 in the units of the file, the file contains 0 and 1, and 1 means known. The mask must have the upright
    size of its image (`image`: width, height) or of the model. With the size of its image, it is scaled and centred like the image: a scaled
    pixel is known if all pixels in it are known; margins are known. Raises the errors of `decode`. Raises InvalidValue for other sizes, and for
    different values whose largest is between 1 and a sixteenth of white.
    """
    decoded = decode(content, field=field, max_pixels=max_pixels)
    known = np.where(_known(decoded, content, field, max_pixels), 255, 0).astype(np.uint8)[:, :, None]
    if decoded.upright == (spec.width, spec.height):
        return np.asarray(known[None, :, :, 0] > 0, np.uint8)
    if decoded.upright != image:
        width, height = decoded.upright
        sizes = dict.fromkeys(f"{width}x{height}" for width, height in (image, (spec.width, spec.height)))
        raise InvalidValue(
            f"{field}: the mask is {width}x{height}, which is not the size of its image; send {' or '.join(sizes)}",
            field=field,
        )
    white = spec.model_copy(update={"channels": 1, "background": 1.0, "invert": False})
    return np.asarray(_contain(known, white, 255, Image.Resampling.BOX)[None, :, :, 0] == 255, np.uint8)


def _known(decoded: Decoded, content: bytes, field: str, max_pixels: int) -> NDArray[np.bool_]:
    """Return the known pixels (h, w) of a mask. Raises InvalidValue for values on a scale other than 0 to 1 or black to white."""
    opaque, values, white = decoded.opaque, decoded.pixels.max(axis=2), 255
    one = 255 // (2**decoded.bits - 1) if decoded.bits < 16 else 1
    if decoded.bits == 16 and not values[opaque].any():  # values of 0 to 255 on a scale to 65535 are all 0 in 8 bits
        words = _words(_open(content, field, max_pixels), content)
        values, white = turned(words, decoded.orientation).max(axis=2), 65535
    largest = int(values[opaque].max(initial=0))
    if largest == one and (decoded.bits < 16 or white == 65535):
        return np.asarray(opaque & (values == largest), bool)
    if 0 < largest < DARK * white and (values[opaque] != largest).any():
        raise InvalidValue(
            f"{field}: the largest value is {largest} of {white}; use 0 and {white}, or 0 and 1", field=field
        )
    return np.asarray(opaque & (_in_colour(decoded.pixels, 1)[:, :, 0] >= 128), bool)


@dataclass(frozen=True)
class _Laid:
    """A decoded image in the colours of a model, laid over a canvas."""

    pixels: Pixels  # (h, w, C)
    steps: tuple[str, ...]
    around: int  # value of the margins
    canvas: bool = False  # true if the image has a transparent canvas
    lost: bool = False  # true if it is invisible on the background; the canvas is then the opposite
    opposite: bool = False  # true without a canvas, if the border is nearer to the opposite of the background


def _laid(decoded: Decoded, channels: int, background: float, invert: bool) -> _Laid:
    """Return an image on its canvas. If it will be inverted, margins and small transparent corners are the opposite of the background."""
    base, steps = round(255 * background), []
    pixels, alpha = _in_colour(decoded.pixels, channels), decoded.alpha
    plain = PLAIN.get(decoded.mode, decoded.mode)
    if plain != ("L" if channels == 1 else "RGB"):
        steps.append(f"{plain} to {'grey' if channels == 1 else 'RGB'}")
    if alpha is not None and ink.has_canvas(alpha):
        lost = ink.is_lost(pixels, alpha, base)
        under = 255 - base if lost else base
        steps.append(ON_OPPOSITE if lost else "laid over the background")
        return _Laid(ink.over(pixels, alpha, under), tuple(steps), under, True, lost)
    laid = pixels if alpha is None else ink.over(pixels, alpha, base)
    opposite = invert and _border_is_opposite(laid, background)
    around = 255 - base if opposite else base
    if alpha is not None:
        steps.append("laid over the background")
        laid = ink.over(pixels, alpha, around) if opposite else laid
    return _Laid(laid, tuple(steps), around, opposite=opposite)


def _fitted(decoded: Decoded, pixels: Pixels, steps: Sequence[str]) -> Fitted:
    """Return the steps of an image, with a warning if it is blank."""
    warned = list(decoded.warnings)
    if decoded.is_flat:
        clear = decoded.alpha is not None and not decoded.alpha.any()
        warned.append(f"blank: every pixel of the file {'is transparent' if clear else 'has the same value'}")
    elif ink.is_flat(pixels):
        warned.append("blank: every pixel has the same value after fitting, but not in the file")
    return Fitted(decoded.size, decoded.mode, tuple(steps), tuple(warned), decoded.upright)


def _open(content: bytes, field: str, max_pixels: int) -> Image.Image:
    """Check format and size from the header only, then decode."""
    if not content:
        raise Malformed(f"{field}: is empty; send the bytes of a PNG, JPEG or WebP file", field=field)
    image_headers.check(content, field, max_pixels)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # PIL warns of large files (our own limit is lower) and of damaged lists of pictures
            image = Image.open(io.BytesIO(content), formats=FORMATS)
    except Image.DecompressionBombError:
        raise TooLarge(
            f"{field}: the image is over the limit of {max_pixels} pixels; send a smaller image", field=field
        ) from None
    except DAMAGE:
        raise Malformed(f"{field}: is not an image; send the bytes of a PNG, JPEG or WebP file", field=field) from None
    if image.width * image.height > max_pixels:
        raise TooLarge(
            f"{field}: {image.width}x{image.height} is over the limit of {max_pixels} pixels; send a smaller image",
            field=field,
        )
    try:
        image.load()
    except DAMAGE:
        raise Malformed(
            f"{field}: the {image.format} file is damaged or incomplete; save it again", field=field
        ) from None
    return image


def _pictures(image: Image.Image) -> list[str]:
    """Return the step that selects the first picture of several; no step for a single picture."""
    try:
        n = int(getattr(image, "n_frames", 1))
    except DAMAGE:
        n = 1
    return [f"first of {n} {'pictures' if image.format == 'MPO' else 'frames'}"] if n > 1 else []


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1 if there is none."""
    try:
        stated = image.getexif().get(0x0112, 1)
    except DAMAGE:  # a damaged EXIF block does not affect the pixels
        return 1
    return stated if isinstance(stated, int) and 1 <= stated <= 8 else 1


def _planes(image: Image.Image, content: bytes, bits: int) -> tuple[Pixels, Pixels | None]:
    """Return pixels (h, w, 1 or 3) in 8 bits and alpha (h, w), None if there is none."""
    mode, key = image.mode, image.info.get("transparency")
    if mode.startswith("I"):  # 16-bit grey: PIL's own conversion would clip it
        words = _words(image, content)
        return (words >> 8).astype(np.uint8), keyed(words, key)
    if mode in ("1", "L"):
        pixels = np.asarray(image.convert("L"))[:, :, None]
        scale = (
            255 // (2**bits - 1) if mode == "L" and bits < 8 else 1
        )  # PIL scales the values, but not the transparent value
        return pixels, keyed(pixels, key * scale if isinstance(key, int) else None)
    if mode == "RGB":
        pixels = np.asarray(image)
        return pixels, keyed(_words(image, content) if bits == 16 and key is not None else pixels, key)
    if mode == "LA":
        both = np.asarray(image)
        return both[:, :, :1], both[:, :, 1]
    if image.has_transparency_data:  # RGBA, PA, and palettes with transparent entries
        both = np.asarray(image.convert("RGBA"))
        grey = mode == "RGBA" and bits == 16 and content[25] == GREY_ALPHA
        return both[:, :, : 1 if grey else 3], both[:, :, 3]
    return np.asarray(image.convert("RGB")), None


def _words(image: Image.Image, content: bytes) -> NDArray[np.uint16]:
    """Return the 16-bit values (h, w, 1 or 3) of a PNG file, without alpha. PIL returns only the upper bytes of colour files."""
    if image.mode.startswith("I"):
        return np.asarray(image).clip(0, 65535).astype(np.uint16)[:, :, None]
    raw = {"RGB": ("RGB;16B", "RGB;16L"), "RGBA": ("RGBA;16B", "RGBA;16L")}[image.mode]
    if content[25] == GREY_ALPHA:  # four bytes per pixel: two of grey, two of alpha
        pair = _raw(content, "RGBA")
        upper, lower = pair[:, :, :1], pair[:, :, 1:2]
    else:
        upper, lower = (_raw(content, kind)[:, :, :3] for kind in raw)
    return np.asarray(upper * np.uint16(256) + lower, np.uint16)


def _raw(content: bytes, kind: str) -> Pixels:
    """Return the bytes of a PNG file, decoded with PIL's raw mode `kind`."""
    with Image.open(io.BytesIO(content), formats=("PNG",)) as image:
        assert isinstance(image, PngImagePlugin.PngImageFile)
        image.tile = [tile._replace(args=kind) for tile in image.tile]
        return np.asarray(image)


def _dark(values: NDArray[Any], bits: int) -> tuple[str, ...]:
    """Return a warning for values (h, w, C) within a sixteenth of their range, such as 12 bits of 16, or 0 and 1."""
    white, largest = 65535 if bits == 16 else 255, int(values.max())
    if not 0 < largest < DARK * white or (bits < 16 and ink.is_flat(values)):
        return ()
    return (
        f"dark: the {16 if bits == 16 else 8}-bit values end at {largest} of {white}; if {largest} means white, scale them to the full range",
    )


def _in_colour(pixels: Pixels, channels: int) -> Pixels:
    """Return pixels (h, w, 1 or 3) as (h, w, channels)."""
    if pixels.shape[2] == channels:
        return pixels
    if channels == 3:
        return pixels.repeat(3, axis=2)
    return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).convert("L"))[:, :, None]


def _contain(pixels: Pixels, spec: ImageSpec, around: int, by: Image.Resampling = Image.Resampling.LANCZOS) -> Pixels:
    """Return pixels (h, w, C) scaled to the model's size and centred. Margins have the value `around`."""
    height, width, _ = pixels.shape
    scale = min(spec.width / width, spec.height / height)
    new = max(1, round(width * scale)), max(1, round(height * scale))
    image = Image.fromarray(pixels[:, :, 0] if spec.channels == 1 else np.ascontiguousarray(pixels)).resize(new, by)
    canvas = np.full((spec.height, spec.width, spec.channels), around, np.uint8)
    top, left = (spec.height - new[1]) // 2, (spec.width - new[0]) // 2
    canvas[top : top + new[1], left : left + new[0]] = np.asarray(image).reshape(new[1], new[0], spec.channels)
    return canvas


def _border_is_opposite(pixels: Pixels, background: float) -> bool:
    """Return whether the border of an image (h, w, C) is nearer to the opposite of the background."""
    return abs(float(np.median(border(pixels))) / 255 - background) > 0.5


def resize_bicubic(images: Pixels, height: int, width: int) -> Float32:
    """Resize uint8 images (n, C, H, W) to float32 (n, C, height, width) by antialiased bicubic interpolation; may overshoot 0..255."""
    planes = images.astype(np.float32).reshape(-1, *images.shape[2:])
    resized = [np.asarray(Image.fromarray(plane).resize((width, height), Image.Resampling.BICUBIC)) for plane in planes]
    return np.stack(resized).reshape(*images.shape[:2], height, width)


# --- writing ------------------------------------------------------------------------------------------------------------------


def with_few_colours(png: bytes) -> bytes:
    """Return a plot with a palette of 32 colours instead of three bytes per pixel: a third of the size."""
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(png)) as image:
        image.convert("RGB").quantize(32).save(buffer, format="png", optimize=True)
    return buffer.getvalue()


def to_png(pixels: Pixels, recipe: Mapping[str, Any] | None = None) -> bytes:
    """Return a PNG of pixels (C, H, W), C 1 or 3, that contains its recipe as text. The same arguments give the same bytes."""
    info = None
    if recipe is not None:
        info = PngImagePlugin.PngInfo()
        info.add_text(RECIPE, json.dumps(recipe, separators=(",", ":"), sort_keys=True))
    return _save(pixels, "PNG", pnginfo=info, compress_level=6)


def to_webp(pixels: Pixels) -> bytes:
    """Return a lossless WebP of pixels (C, H, W)."""
    return _save(pixels, "WEBP", lossless=True)


def _save(pixels: Pixels, kind: str, **options: Any) -> bytes:
    image = Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def read_recipe(content: bytes) -> dict[str, Any]:
    """Return the recipe in a PNG. Raises InvalidValue if it has none."""
    image = _open(content, "image", MAX_PIXELS)
    text = getattr(image, "text", {}).get(RECIPE)
    if text is None:
        raise InvalidValue(
            "image: contains no recipe: Manifold did not make it, or another program has saved it again; use the original PNG"
        )
    try:
        recipe = texts.json_of(text, "recipe")
    except Malformed:
        raise InvalidValue("image: its recipe is damaged: it is not JSON; use the original PNG") from None
    if not isinstance(recipe, dict):
        raise InvalidValue("image: its recipe is damaged: it is not a JSON object; use the original PNG")
    return recipe
