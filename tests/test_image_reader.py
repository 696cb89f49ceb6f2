"""The image reader for all files: 1 to 16 bits, palettes, transparency, CMYK, EXIF orientations, files with several pictures, masks."""

from __future__ import annotations

import contextlib
import io
import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from manifold.runtime import imaging
from manifold.runtime.errors import InvalidValue, Malformed, RequestError, TooLarge
from manifold.runtime.kinds import Items, Reading
from manifold.runtime.kinds.image import ImageSpec
from tests import pictures
from tests.pictures import GREY, GREY_ALPHA, PALETTE, RGB, RGBA, png, saved

PLAIN = ImageSpec(height=8, width=8, channels=1, background=0.0)
COLOUR = ImageSpec(height=8, width=8, channels=3, background=0.0)
RAMP = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4  # 0 to 252, all values different
EVERY = RAMP.copy()
EVERY[7, 7] = 255


def grey(content: bytes, spec: ImageSpec = PLAIN) -> np.ndarray:
    pixels: np.ndarray = imaging.read_image(content, spec)[0][0]
    return pixels


def alpha(content: bytes) -> object:
    found = imaging.decode(content).alpha
    return None if found is None else found.tolist()


@pytest.mark.parametrize(
    ("bits", "colour"),
    [*((bits, GREY) for bits in (1, 2, 4)), *((bits, colour) for bits in (8, 16) for colour in (GREY, RGB, GREY_ALPHA, RGBA))],
)  # fmt: skip
def test_black_mid_grey_and_white_keep_their_place_at_every_depth(bits: int, colour: int) -> None:
    most = 2**bits - 1
    levels = np.asarray([[0, most // 2, most // 2 + 1, most]] * 2)
    values = np.repeat(levels[:, :, None], pictures.CHANNELS[colour], axis=2)
    if colour in (GREY_ALPHA, RGBA):
        values[:, :, -1] = most
    content = png(values, bits, colour)
    expected = np.rint(levels / most * 255)
    assert np.abs(imaging.read_pixels(content, "L").astype(float) - expected).max() <= 1
    assert np.abs(imaging.read_pixels(content, "RGB").astype(float) - expected[:, :, None]).max() <= 1
    assert imaging.read_pixels(content, "L")[0, [0, -1]].tolist() == [0, 255]


@pytest.mark.parametrize("colour", [GREY, RGB, GREY_ALPHA, RGBA])
@pytest.mark.parametrize("factor", [256, 257])  # two ways to convert 8 bits to 16
def test_sixteen_bits_are_the_same_image_as_eight(colour: int, factor: int) -> None:
    channels = pictures.CHANNELS[colour]
    values = np.repeat(EVERY[:, :, None].astype(np.uint16), channels, axis=2)
    if colour in (GREY_ALPHA, RGBA):
        values[:, :, -1] = 255
    content = png(values * factor, 16, colour)
    read, fitted = imaging.read_image(content, PLAIN)
    assert np.array_equal(read[0], EVERY)
    assert "16 bits to 8" in fitted.steps
    assert np.array_equal(imaging.read_pixels(content, "L"), EVERY)


COLOURS = [(0, 0, 0), (255, 255, 255), (200, 10, 10), (9, 90, 9)]
INDICES = np.asarray([[0, 1, 2, 3]])


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_a_palette_stands_for_its_colours(bits: int) -> None:
    palette = bytes(sum(COLOURS, ()))
    assert imaging.read_pixels(png(INDICES, bits, PALETTE, palette=palette), "RGB")[0].tolist() == [
        list(c) for c in COLOURS
    ]
    clear = png(INDICES, bits, PALETTE, palette=palette, transparent=bytes([255, 0, 128]))
    over_black = imaging.read_pixels(clear, "RGB")[0].tolist()
    assert over_black == [[0, 0, 0], [0, 0, 0], [100, 5, 5], [9, 90, 9]]
    assert imaging.read_pixels(clear, "RGB", background=1.0)[0, 1].tolist() == [255, 255, 255]
    one = png(INDICES, bits, PALETTE, palette=palette, transparent=bytes([255, 0]))
    assert imaging.read_pixels(one, "RGB")[0, 1].tolist() == [0, 0, 0]


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_a_transparent_grey_level_is_in_the_units_of_the_file(bits: int) -> None:
    most = 2**bits - 1
    levels = np.arange(0, most + 1, max(1, most // 3))[None]
    content = png(levels, bits, GREY, transparent=struct.pack(">H", most))
    decoded = imaging.decode(content)
    assert decoded.alpha is not None
    assert decoded.alpha.tolist() == [[255 if level != most else 0 for level in levels[0]]]


def test_a_transparent_colour_is_compared_with_all_bits() -> None:
    values = np.asarray([[[256, 255, 0], [256, 256, 0], [65535, 255, 0]]])
    assert alpha(png(values, 16, RGB, transparent=struct.pack(">3H", 256, 255, 0))) == [[0, 255, 255]]
    few = png(values >> 8, 8, RGB, transparent=struct.pack(">3H", 1, 1, 0))
    assert alpha(few) == [[255, 0, 255]]


def test_cmyk_is_read_as_it_is_seen() -> None:
    cyan, paper = Image.new("CMYK", (8, 8), (255, 0, 0, 0)), Image.new("CMYK", (8, 8), (0, 0, 0, 0))
    for image, expected in ((cyan, (0, 255, 255)), (paper, (255, 255, 255))):
        read, fitted = imaging.read_image(saved(image, "JPEG", quality=100), COLOUR)
        assert np.abs(read[:, 4, 4].astype(int) - expected).max() <= 3
        assert "CMYK to RGB" in fitted.steps


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
def test_every_orientation_in_every_format(kind: str, orientation: int) -> None:
    wide = np.zeros((6, 12, 3), np.uint8)
    wide[:2, :4], wide[4:, 10:] = (250, 0, 0), (0, 0, 250)
    lossless: dict[str, dict[str, Any]] = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}
    content = pictures.turned(wide, orientation, kind, **lossless.get(kind, {}))
    with Image.open(io.BytesIO(content)) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    read, fitted = imaging.read_unscaled(content, 3)
    assert np.array_equal(read.transpose(1, 2, 0), expected)
    assert ("turned upright by its EXIF tag" in fitted.steps) == (orientation != 1)
    assert fitted.size == (12, 6)
    assert fitted.upright == ((6, 12) if orientation > 4 else (12, 6))


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_is_ignored(orientation: int) -> None:
    assert imaging.read_unscaled(pictures.turned(RAMP, orientation), 1)[1].steps == ()


def test_sixteen_bits_and_alpha_are_turned_too() -> None:
    deep = Image.fromarray(EVERY[:4].astype(np.uint16) * 257)
    assert np.array_equal(imaging.read_unscaled(pictures.turned(deep, 6), 1)[0][0], np.rot90(EVERY[:4], -1))
    clear = np.dstack([np.full_like(EVERY, 255), EVERY])[:4]
    assert np.array_equal(imaging.read_unscaled(pictures.turned(clear, 8), 1)[0][0], np.rot90(EVERY[:4]))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "MPO"])
def test_the_first_picture_of_several_is_read_and_said(kind: str) -> None:
    first, second = Image.new("RGB", (8, 8), (90, 90, 90)), Image.new("RGB", (8, 8), (200, 0, 0))
    content = pictures.several([first, second, second.rotate(9)], kind)
    read, fitted = imaging.read_image(content, COLOUR)
    assert np.abs(read.astype(int) - 90).max() <= 2
    assert f"first of 3 {'pictures' if kind == 'MPO' else 'frames'}" in fitted.steps
    with pytest.raises(InvalidValue, match="first of 3"):
        imaging.read_image(content, COLOUR, fit="strict")
    with pytest.raises(TooLarge):
        imaging.read_image(content, COLOUR, max_pixels=63)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "MPO"])
def test_a_damaged_file_with_several_pictures_raises_our_errors_only(kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (2, 8, 8, 3), np.uint8)
    whole = pictures.several([Image.fromarray(each) for each in noise], kind)
    for place in range(0, len(whole), 5):
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF
        with contextlib.suppress(RequestError):
            assert imaging.read_image(bytes(damaged), COLOUR)[0].shape == (3, 8, 8)


@pytest.mark.parametrize("colour", [GREY_ALPHA, RGBA])
def test_an_opaque_alpha_channel_changes_nothing(colour: int) -> None:
    values = np.repeat(EVERY[:, :, None], pictures.CHANNELS[colour], axis=2)
    values[:, :, -1] = 255
    spec = PLAIN if colour == GREY_ALPHA else COLOUR
    read, fitted = imaging.read_image(png(values, 8, colour), spec, fit="strict")
    assert np.array_equal(read[0], EVERY)
    assert fitted.steps == ()


def test_values_of_a_few_bits_in_a_16_bit_file_are_warned_of() -> None:
    twelve = imaging.read_image(png(EVERY.astype(np.uint16) * 16, 16, GREY), PLAIN)[1]
    assert [warning.split(":")[0] for warning in twelve.warnings] == ["dark"]
    assert "4080 of 65535" in twelve.warnings[0]
    bytes_alone = imaging.read_image(png(EVERY, 16, GREY), PLAIN)[1]
    assert [warning.split(":")[0] for warning in bytes_alone.warnings] == ["dark", "blank"]
    assert "but not in the file" in bytes_alone.warnings[1]
    assert twelve.notes == ("16 bits to 8", "dark: the 16-bit values end below a sixteenth of 65535")


@pytest.mark.parametrize("alpha", [False, True])
def test_an_image_of_0_and_1_is_warned_of(alpha: bool) -> None:
    """Such an image is often an array in [0, 1] that was cast to bytes. Ink of such values on a transparent canvas gives no warning."""
    ones = (EVERY > 127).astype(np.uint8)
    content = saved(np.dstack([ones, EVERY])) if alpha else saved(ones)
    warned = imaging.read_image(content, PLAIN)[1].warnings
    assert warned == () if alpha else warned[0].startswith("dark: the 8-bit values end at 1 of 255;")
    assert imaging.read_image(saved(np.full_like(ones, 3)), PLAIN)[1].warnings == (
        "blank: every pixel of the file has the same value",
    )


# --- masks --------------------------------------------------------------------------------------------------------------------

HALVES = np.zeros((8, 8), np.uint8)
HALVES[:, 4:] = 1
BLACK_AND_ONE = bytes([0, 0, 0, 1, 1, 1])
FOUR = np.repeat(HALVES[:, :, None], 4, axis=2)
FOUR[:, :, 3] = 255
ZERO_AND_ONE = {
    "1 bit": png(HALVES, 1, GREY),
    "2 bits": png(HALVES, 2, GREY),
    "4 bits": png(HALVES, 4, GREY),
    "8 bits": png(HALVES, 8, GREY),
    "16 bits": png(HALVES, 16, GREY),
    "RGB": png(np.repeat(HALVES[:, :, None], 3, axis=2), 8, RGB),
    "RGB, red alone": png(np.dstack([HALVES, 0 * HALVES, 0 * HALVES]), 8, RGB),
    "16-bit RGB": png(np.repeat(HALVES[:, :, None], 3, axis=2), 16, RGB),
    "16-bit grey and alpha": png(np.dstack([HALVES, 0 * HALVES + 65535.0]).astype(np.uint16), 16, GREY_ALPHA),
    "16-bit RGBA": png(FOUR.astype(np.uint16) * np.asarray([1, 1, 1, 257], np.uint16), 16, RGBA),
    "RGBA": png(FOUR, 8, RGBA),
    "palette of 0 and 1": png(HALVES, 1, PALETTE, palette=BLACK_AND_ONE),
    "palette of black and white": png(HALVES, 8, PALETTE, palette=bytes([0, 0, 0, 255, 255, 255])),
    "PIL's mode 1": saved(Image.fromarray(HALVES * 255).convert("1")),
    "lossless WebP": saved(np.repeat(HALVES[:, :, None], 3, axis=2), "WEBP", lossless=True),
    "8 bits, 0 and 255": png(HALVES * 255, 8, GREY),
    "16 bits, 0 and 65535": png(HALVES.astype(np.uint16) * 65535, 16, GREY),
    "16 bits, 0 and 32768": png(HALVES.astype(np.uint16) * 32768, 16, GREY),
}


@pytest.mark.parametrize("content", ZERO_AND_ONE.values(), ids=ZERO_AND_ONE)
def test_a_mask_of_0_and_1_is_one_at_every_depth(content: bytes) -> None:
    assert np.array_equal(imaging.read_mask(content, PLAIN, (8, 8))[0], HALVES)


def test_a_mask_of_one_value() -> None:
    for value, known in ((0, False), (1, True), (127, False), (128, True), (255, True)):
        content = png(np.full((8, 8), value), 8, GREY)
        assert (imaging.read_mask(content, PLAIN, (8, 8)) == known).all(), value
    for value, known in ((0, False), (1, True), (2, False), (32767, False), (32768, True)):
        content = png(np.full((8, 8), value), 16, GREY)
        assert (imaging.read_mask(content, PLAIN, (8, 8)) == known).all(), value


def test_transparent_pixels_of_a_mask_are_unknown() -> None:
    white = np.dstack([np.full((8, 8), 255, np.uint8), HALVES * 255])
    assert np.array_equal(imaging.read_mask(saved(white), PLAIN, (8, 8))[0], HALVES)
    ones = np.dstack([np.ones((8, 8), np.uint8), HALVES * 255])
    assert np.array_equal(imaging.read_mask(saved(ones), PLAIN, (8, 8))[0], HALVES)
    hidden = np.dstack([np.where(HALVES, 1, 255).astype(np.uint8), HALVES * 255])  # transparent pixels are ignored
    assert np.array_equal(imaging.read_mask(saved(hidden), PLAIN, (8, 8))[0], HALVES)
    index = png(HALVES, 8, PALETTE, palette=bytes([255] * 6), transparent=bytes([0, 255]))
    assert np.array_equal(imaging.read_mask(index, PLAIN, (8, 8))[0], HALVES)
    assert not imaging.read_mask(saved(Image.new("LA", (8, 8), (255, 0))), PLAIN, (8, 8)).any()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_mask_is_turned_upright_with_its_image(orientation: int) -> None:
    image = pictures.turned(np.zeros((20, 40), np.uint8), orientation)
    white = np.zeros((20, 40), np.uint8)
    white[:, 20:] = 255
    upright = imaging.read_image(image, PLAIN)[1].upright
    mask = imaging.read_mask(pictures.turned(white, orientation), PLAIN, upright)
    with Image.open(io.BytesIO(pictures.turned(white, orientation))) as turned:
        same = saved(ImageOps.exif_transpose(turned))
    assert np.array_equal(mask, imaging.read_mask(same, PLAIN, upright))
    assert 0 < mask.mean() < 1


def test_a_mask_that_ignores_the_orientation_of_its_image_is_refused() -> None:
    upright = imaging.read_image(pictures.turned(np.zeros((20, 40), np.uint8), 6), PLAIN)[1].upright
    with pytest.raises(InvalidValue, match="the mask is 40x20, which is not the size of its image; send 20x40 or 8x8"):
        imaging.read_mask(saved(np.zeros((20, 40), np.uint8)), PLAIN, upright)


def test_the_service_reads_masks_for_the_upright_image() -> None:
    wide = np.zeros((20, 40), np.uint8)
    wide[:, 20:] = 200
    how = Reading()
    items = PLAIN.read([pictures.turned(wide, 6), saved(EVERY)], how, "images")
    assert items.sizes == ((20, 40), (8, 8))
    white = np.full((20, 40), 255, np.uint8)
    white[:, :20] = 0
    masks = PLAIN.read_masks([pictures.turned(white, 6), png(HALVES, 8, GREY)], items, how)
    assert masks.shape == (2, 1, 8, 8)
    assert not masks[0, 0, :4, 2:6].any()
    assert masks[0, 0, 5:].all()
    assert np.array_equal(masks[1, 0], HALVES)
    joined = Items.joined([items, items])
    assert joined.sizes == items.sizes * 2


def with_good_checksums(content: bytes) -> bytes:
    """Return a damaged PNG with recomputed checksums, so that the damage reaches the decoder."""
    made, place = [content[:8]], 8
    while place + 12 <= len(content):
        length = int.from_bytes(content[place : place + 4], "big")
        if place + 12 + length > len(content):
            break
        made.append(pictures.chunk(content[place + 4 : place + 8], content[place + 8 : place + 8 + length]))
        place += 12 + length
    return b"".join(made) + content[place:]


@pytest.mark.parametrize("name", [name for name, content in ZERO_AND_ONE.items() if content.startswith(b"\x89PNG")])
def test_damage_that_reaches_the_decoder_raises_our_errors_only(name: str) -> None:
    whole = ZERO_AND_ONE[name]
    for place in range(12, len(whole) - 12):
        for value in (0, 1, 3, 255):
            damaged = bytearray(whole)
            damaged[place] = value
            content = with_good_checksums(bytes(damaged))
            for spec in (PLAIN, COLOUR):
                with contextlib.suppress(RequestError):
                    assert imaging.read_image(content, spec, max_pixels=10**5)[0].shape == spec.shape
            with contextlib.suppress(RequestError):
                assert imaging.read_mask(content, PLAIN, (8, 8), max_pixels=10**5).shape == (1, 8, 8)


def test_a_palette_image_without_a_palette_is_malformed() -> None:
    with pytest.raises(Malformed, match="damaged"):
        imaging.read_image(png(HALVES, 8, PALETTE), PLAIN)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (png(EVERY, 16, GREY), "255 of 65535"),
        (png((EVERY > 127) * 2, 16, GREY), "2 of 65535"),
        (saved(((EVERY > 127) * 2).astype(np.uint8)), "2 of 255"),
        (png(np.dstack([(EVERY > 127) * 9] * 3), 8, RGB), "9 of 255"),
    ],
)
def test_a_mask_on_another_scale_is_refused(content: bytes, said: str) -> None:
    """Such a mask contains neither 0 and 1 nor black and white. No pixel would be known, and the whole image would be redrawn."""
    with pytest.raises(InvalidValue, match=f"masks.0.: the largest value is {said}; use 0 and .*, or 0 and 1"):
        imaging.read_mask(content, PLAIN, (8, 8), field="masks[0]")
