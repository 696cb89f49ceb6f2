"""Pixels in requests and answers: ranges, the fitting rule, and all errors."""

from __future__ import annotations

import contextlib
import io
import zlib

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from manifold.runtime import codecs, image_headers, imaging
from manifold.runtime.errors import InvalidValue, Malformed, RequestError, TooLarge, UnsupportedMedia
from manifold.runtime.kinds.image import ImageSpec

GREY = ImageSpec(height=28, width=28, channels=1, background=0.0, invert=True)
COLOUR = ImageSpec(height=8, width=8, channels=3)
SIGNED = ImageSpec(height=8, width=8, channels=1, range=(-1.0, 1.0))


def file(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("ends", [(0.5, 0.5), (1.0, -1.0)])
def test_a_range_has_a_low_and_a_high_end(ends: tuple[float, float]) -> None:
    with pytest.raises(ValidationError, match=r"give \[low, high\] with low < high"):
        ImageSpec(height=8, width=8, channels=1, range=ends)


@pytest.mark.parametrize("spec", [GREY, COLOUR, SIGNED, ImageSpec(height=8, width=8, channels=1, range=(0, 255))])
def test_every_level_survives_the_graphs_edge(spec: ImageSpec) -> None:
    levels = np.arange(256, dtype=np.uint8)
    edge = imaging.from_uint8(levels, spec)
    assert edge.dtype == np.float32
    assert (edge[0], edge[255]) == spec.range
    assert np.array_equal(imaging.to_uint8(edge, spec), levels)
    assert imaging.to_unit(edge, spec) == pytest.approx(levels / 255, abs=1e-6)


def test_values_beyond_the_range_are_clipped() -> None:
    assert imaging.to_uint8(np.asarray([-9.0, 9.0]), SIGNED).tolist() == [0, 255]


def test_a_fitting_image_is_left_alone() -> None:
    pixels = np.random.default_rng(0).integers(0, 120, (28, 28), np.uint8)
    read, fitted = imaging.read_image(file(Image.fromarray(pixels)), GREY, fit="strict")
    assert np.array_equal(read[0], pixels)
    assert fitted.steps == ()


def test_contain_scales_and_centres_on_the_background() -> None:
    wide = np.full((10, 40), 200, np.uint8)
    wide[0] = wide[-1] = 0
    wide[:, 0] = wide[:, -1] = 0
    read, fitted = imaging.read_image(file(Image.fromarray(wide)), GREY)
    assert read.shape == (1, 28, 28)
    assert fitted.steps == ("scaled and centred to 28x28",)
    assert read[0, 14, 14] > 150
    assert not read[0, :10].any()
    assert not read[0, -10:].any()


def test_black_on_white_is_inverted_and_said() -> None:
    white = np.full((56, 56), 255, np.uint8)
    white[20:36, 20:36] = 0
    read, fitted = imaging.read_image(file(Image.fromarray(white)), GREY)
    assert read[0, 0, 0] == 0
    assert read[0, 14, 14] == 255
    assert any("inverted" in step for step in fitted.steps)


def test_wide_black_on_white_gets_white_margins_before_it_is_inverted() -> None:
    white = np.full((14, 56), 255, np.uint8)
    read, _ = imaging.read_image(file(Image.fromarray(white)), GREY)
    assert not read.any()


def test_colour_becomes_grey_by_itu_601() -> None:
    red = Image.new("RGB", (28, 28), (255, 0, 0))
    read, fitted = imaging.read_image(file(red), GREY.model_copy(update={"invert": False}))
    assert read[0, 0, 0] == 76
    assert fitted.steps == ("RGB to grey",)


def test_alpha_is_laid_over_the_background() -> None:
    clear = Image.new("RGBA", (28, 28), (255, 255, 255, 0))
    read, fitted = imaging.read_image(file(clear), GREY)
    assert not read.any()
    assert "laid over the background" in fitted.steps


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    deep = Image.fromarray((np.arange(28 * 28) * 83).astype(np.uint16).reshape(28, 28))
    read, fitted = imaging.read_image(file(deep), GREY.model_copy(update={"invert": False}))
    assert len(np.unique(read)) > 200
    assert "16 bits to 8" in fitted.steps


def test_exif_turns_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    image = Image.new("L", (28, 28))
    image.paste(250, (0, 0, 10, 4))
    read, fitted = imaging.read_image(file(image, "JPEG", exif=exif, quality=95), GREY)
    assert "turned upright by its EXIF tag" in fitted.steps
    assert read[0, 2, 26] > 200


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "I;16"])
@pytest.mark.parametrize("spec", [GREY, COLOUR])
def test_every_mode_is_read(mode: str, spec: ImageSpec) -> None:
    pixels, _ = imaging.read_image(file(Image.new(mode, (9, 5))), spec)
    assert pixels.shape == spec.shape


def test_strict_refuses_and_says_what_fits() -> None:
    with pytest.raises(InvalidValue, match="28x28 grey"):
        imaging.read_image(file(Image.new("L", (27, 28))), GREY, fit="strict")


def test_a_bomb_is_refused_by_its_header() -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")

    for side in (5_000, 60_000):
        header = side.to_bytes(4, "big") * 2 + bytes([8, 0, 0, 0, 0])
        bomb = (
            b"\x89PNG\r\n\x1a\n"
            + chunk(b"IHDR", header)
            + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
            + chunk(b"IEND", b"")
        )
        with pytest.raises(TooLarge, match="pixels"):
            imaging.read_image(bomb, GREY)


@pytest.mark.parametrize(
    "content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"RIFF\0\0\0\0WEBP"]
)
def test_garbage_is_malformed(content: bytes) -> None:
    with pytest.raises(Malformed):
        imaging.read_image(content, GREY)


@pytest.mark.parametrize("kind", imaging.FORMATS)
def test_every_cut_of_a_good_file_is_an_error_or_the_picture(kind: str) -> None:
    whole = file(Image.fromarray(np.random.default_rng(0).integers(0, 255, (28, 28), np.uint8)), kind)
    for length in range(1, len(whole) - 16, 13):
        with pytest.raises(RequestError):
            imaging.read_image(whole[:length], GREY)


def test_flipped_bytes_never_raise_anything_else() -> None:
    whole = bytearray(file(Image.fromarray(np.random.default_rng(0).integers(0, 255, (28, 28), np.uint8))))
    read = 0
    for place in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF
        with contextlib.suppress(RequestError):
            assert imaging.read_image(bytes(damaged), GREY)[0].shape == (1, 28, 28)
            read += 1
    assert read < len(range(0, len(whole), 7)) / 2  # almost every chunk of a PNG has a checksum


def test_other_formats_are_named() -> None:
    with pytest.raises(UnsupportedMedia, match="GIF"):
        imaging.read_image(file(Image.new("L", (28, 28)), "GIF"), GREY)


def test_no_other_decoder_sees_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Image.init()
    asked: list[str] = []
    for name in set(Image.OPEN) - set(imaging.FORMATS):
        monkeypatch.setitem(
            Image.OPEN, name, (lambda *_, name=name: asked.append(name), lambda *_, name=name: asked.append(name))
        )
    formats = {
        kind: file(Image.new("L", (28, 28)), kind)
        for kind in ("GIF", "BMP", "TIFF", "PPM", "TGA", "ICO", "PCX", "JPEG2000", "AVIF")
    }
    refused = {kind: refusal(content) for kind, content in formats.items()}
    assert refused == {kind: Malformed if kind in ("PPM", "TGA", "PCX") else UnsupportedMedia for kind in formats}
    for content in (
        b"",
        b"nothing",
        b"%!PS-Adobe-3.0 EPSF-3.0\n" * 9,
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff",
        b"RIFF\0\0\0\0WEBPVP8 ",
    ):
        assert refusal(content) is Malformed
    for kind in imaging.FORMATS:
        imaging.read_image(file(Image.new("L", (28, 28)), kind), GREY)
    assert asked == []


def refusal(content: bytes, max_pixels: int = imaging.MAX_PIXELS) -> type[Exception]:
    with pytest.raises(RequestError) as refused:
        imaging.read_image(content, GREY, max_pixels=max_pixels)
    return type(refused.value)


@pytest.mark.parametrize("lossless", [True, False])
def test_a_webp_file_is_measured_before_it_is_opened(monkeypatch: pytest.MonkeyPatch, lossless: bool) -> None:
    plain = file(Image.new("RGB", (300, 200)), "WEBP", lossless=lossless)
    moving = file(Image.new("RGB", (300, 200)), "WEBP", save_all=True, append_images=[Image.new("RGB", (300, 200), 9)])
    assert {image_headers.webp_size(content) for content in (plain, moving)} == {(300, 200)}
    large = moving[:24] + b"\xff\xff\x00\xff\xff\x00" + moving[30:]  # a canvas of 65536 x 65536 pixels
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("a decoder was asked"))
    assert refusal(large) is TooLarge
    assert refusal(plain, 59_999) is TooLarge


def test_texts_of_a_png_are_bounded() -> None:
    """Text chunks that unpack to more than a megabyte are refused, and so are chunks that are no recipe, at any nesting depth."""
    pixels = np.zeros((1, 28, 28), np.uint8)
    bomb = with_chunk(imaging.to_png(pixels), b"zTXt", b"manifold\0\0" + zlib.compress(bytes(50 * 2**20)))
    assert refusal(bomb) is Malformed
    for text in (b"[" * 900_000, b"[1]", b"7", b"{", b'"' + b"x" * 900_000):
        with pytest.raises(InvalidValue, match="recipe is damaged"):
            imaging.read_recipe(with_chunk(imaging.to_png(pixels), b"tEXt", b"manifold\0" + text))


def test_scans_of_a_jpeg_are_bounded() -> None:
    content = file(Image.new("L", (28, 28)), "JPEG", progressive=True)
    scan = content.index(b"\xff\xda")
    assert refusal(content[:scan] + content[scan:-2] * 600 + content[-2:]) is TooLarge


def with_chunk(png: bytes, kind: bytes, content: bytes) -> bytes:
    chunk = len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")
    return png[:33] + chunk + png[33:]


def test_png_round_trip_recipe_and_bytes() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (3, 8, 8), np.uint8)
    recipe = {"model": "m", "seed": 2**63 - 1, "class": "3"}
    content = imaging.to_png(pixels, recipe)
    assert content == imaging.to_png(pixels, recipe)
    assert imaging.read_recipe(content) == recipe
    read, _ = imaging.read_image(content, COLOUR)
    assert np.array_equal(read, pixels)
    with pytest.raises(InvalidValue, match="no recipe"):
        imaging.read_recipe(imaging.to_png(pixels))


def test_webp_is_lossless() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (3, 8, 8), np.uint8)
    assert np.array_equal(imaging.read_image(imaging.to_webp(pixels), COLOUR)[0], pixels)


def test_grid_places_every_image() -> None:
    images = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((5, 1, 4, 3), np.uint8)
    sheet = imaging.grid(images, columns=3, gap=1)
    assert sheet.shape == (1, 9, 11)
    assert [int(sheet[0, top, left]) for top, left in ((0, 0), (0, 4), (0, 8), (5, 0), (5, 4))] == [0, 1, 2, 3, 4]


def test_base64() -> None:
    assert codecs.from_base64(codecs.to_base64(b"abc"), "f") == b"abc"
    assert codecs.from_base64("data:image/png;base64,YWJj", "f") == b"abc"
    for wrong in ("a", "####", "YWJj\u00e9"):
        with pytest.raises(Malformed, match="base64"):
            codecs.from_base64(wrong, "f")


def test_npy_round_trip_and_no_pickles() -> None:
    array = np.arange(6.0).reshape(2, 3)
    assert np.array_equal(codecs.from_npy(codecs.to_npy(array), "b"), array)
    buffer = io.BytesIO()
    np.save(buffer, np.asarray([{}], object), allow_pickle=True)
    head = b"\x93NUMPY\x01\x00v\x00"
    odd = [
        (head + text).ljust(127) + b"\n"
        for text in (
            b"(",
            b"'",
            b"\0",
            b"{'descr': '<f4', 'fortran_order': False, 'shape': (0, 99999999999999999999), }",
        )
    ]
    for wrong in (b"", b"\x93NUMPY", b"PK\x03\x04", codecs.to_npy(array)[:-1], codecs.to_npy(array) + b"0", *odd):
        with pytest.raises(Malformed):
            codecs.from_npy(wrong, "b")
    for other in (buffer.getvalue(), codecs.to_npy(np.asarray(["a"]))):
        with pytest.raises(InvalidValue, match="numbers"):
            codecs.from_npy(other, "b")
    fortran = np.asfortranarray(array)
    assert np.array_equal(codecs.from_npy(codecs.to_npy(fortran), "b"), array)


@pytest.mark.parametrize(
    "wrong",
    [[[1, 2]], [[1, 2, 3], [1, 2]], [1, 2, 3], [["a", 1, 2]], [[None, 1, 2]], [[{}, 1, 2]], [], [[1e300, 0, 0]]],
)
def test_floats_refuses_other_shapes_and_values(wrong: list[object]) -> None:
    with pytest.raises(InvalidValue, match="latents"):
        codecs.floats(wrong, (3,), "latents")
    with pytest.raises(InvalidValue, match=r"latents\[1\]"):
        codecs.floats([[0, 0, 0], [0, float("nan"), 0]], (3,), "latents")
