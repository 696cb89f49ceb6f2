"""Checks of the first bytes of image files, before a decoder opens them: rejected formats, sizes and bits. No decoder is used here."""

from __future__ import annotations

from manifold.runtime.errors import TooLarge, UnsupportedMedia

FORMATS = ("PNG", "JPEG", "WEBP")
# other formats: name, position, and the bytes there
OTHERS = (
    ("GIF", 0, b"GIF8"), ("BMP", 0, b"BM"), ("TIFF", 0, b"II*\0"), ("TIFF", 0, b"MM\0*"), ("AVIF", 4, b"ftypavif"), ("HEIC", 4, b"ftyphei"),
    ("JPEG 2000", 0, b"\0\0\0\x0cjP  "), ("JPEG 2000", 0, b"\xff\x4f\xff\x51"), ("PSD", 0, b"8BPS"), ("ICO", 0, b"\0\0\1\0"),
)  # fmt: skip
MAX_SCANS = 500  # limit for the scans of a progressive JPEG; each scan decodes all pixels again
MAX_PIXELS = 16_000_000
PALETTE, GREY_ALPHA = 3, 4  # colour types of a PNG


def check(content: bytes, field: str, max_pixels: int) -> None:
    """Raise UnsupportedMedia for another format, TooLarge for a size that a decoder would allocate. Only the first bytes are read."""
    if other := next((name for name, at, magic in OTHERS if content.startswith(magic, at)), None):
        raise UnsupportedMedia(
            f"{field}: {other} images are not supported; send PNG, JPEG or WebP", field=field, valid=FORMATS
        )
    if (size := webp_size(content)) is not None and size[0] * size[1] > max_pixels:
        raise TooLarge(
            f"{field}: {size[0]}x{size[1]} is over the limit of {max_pixels} pixels; send a smaller image", field=field
        )
    if content.startswith(b"\xff\xd8") and content.count(b"\xff\xda") > MAX_SCANS:
        raise TooLarge(
            f"{field}: the JPEG file has more than {MAX_SCANS} scans; save it again as a baseline JPEG", field=field
        )


def webp_size(content: bytes) -> tuple[int, int] | None:
    """Return width and height of the canvas of a WebP file; its decoder allocates the whole canvas at once. None for other files."""
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


def bits_of(content: bytes) -> int:
    """Return the bits per value: as in the header of a PNG; 8 for PNGs with a palette and for other formats."""
    is_png = content.startswith(b"\x89PNG") and len(content) > 25
    return content[24] if is_png and content[25] != PALETTE else 8
