"""Images that are equal in other file formats have equal features: 16 bits, palettes, alpha, EXIF orientations, hidden files beside them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from manifold import cli
from manifold.evaluation import images
from manifold.runtime import folders, imaging
from tests.conftest import SHIPPED
from tests.evaluation.helpers import RealArrays, run
from tests.pictures import GREY, GREY_ALPHA, RGB, RGBA, png, saved, several, turned


def untransposed(image: np.ndarray, orientation: int) -> np.ndarray:
    """Return the pixels that an EXIF tag turns into the image."""
    undone = image.swapaxes(0, 1) if orientation > 4 else image
    rows, columns = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    if orientation in (6, 8):
        rows, columns = columns, rows
    return np.ascontiguousarray(undone[:: -1 if rows else 1, :: -1 if columns else 1])


def as_ink(image: np.ndarray, colour: int) -> bytes:
    return saved(np.dstack([np.full((*image.shape, 3), colour, np.uint8), image]))


def stacked(image: np.ndarray, channels: int, top: int) -> np.ndarray:
    made = np.repeat(image[:, :, None].astype(np.uint16), channels, axis=2)
    if channels in (2, 4):
        made[:, :, -1] = top
    return made


KINDS: dict[str, Callable[[np.ndarray], bytes]] = {
    "16-bit grey": lambda image: png(image.astype(np.uint16) * 257, 16, GREY),
    "16-bit grey, shifted": lambda image: png(image.astype(np.uint16) * 256, 16, GREY),
    "16-bit RGB": lambda image: png(stacked(image, 3, 0) * 257, 16, RGB),
    "16-bit grey and alpha": lambda image: png(stacked(image, 2, 255) * 257, 16, GREY_ALPHA),
    "16-bit RGBA": lambda image: png(stacked(image, 4, 255) * 257, 16, RGBA),
    "RGB": lambda image: saved(np.repeat(image[:, :, None], 3, axis=2)),
    "palette": lambda image: saved(Image.fromarray(image).convert("P")),
    "WebP": lambda image: saved(np.repeat(image[:, :, None], 3, axis=2), "WEBP", lossless=True),
    "opaque RGBA": lambda image: saved(np.dstack([image] * 3 + [np.full_like(image, 255)])),
    "white ink": lambda image: as_ink(image, 255),
    "black ink": lambda image: as_ink(image, 0),
    "white ink in LA": lambda image: saved(np.dstack([np.full_like(image, 255), image])),
    "16-bit white ink": lambda image: png(np.dstack([np.full_like(image, 255), image]).astype(np.uint16) * 257, 16, GREY_ALPHA),
    "animation": lambda image: several([Image.fromarray(image), Image.fromarray(255 - image)], "PNG"),
    **{
        f"orientation {orientation}": lambda image, orientation=orientation: turned(untransposed(image, orientation), orientation)  # type: ignore[misc]
        for orientation in range(2, 9)
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    (root / "digits-classifier").symlink_to(SHIPPED / "digits-classifier")
    return root


@pytest.fixture(scope="module")
def plain(real: RealArrays, models: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return grey PNG files of the images, which no test changes, and the statistics of these files."""
    root = tmp_path_factory.mktemp("plain")
    for index, image in enumerate(real.test.pixels[:60]):
        (root / f"{index:03d}.png").write_bytes(imaging.to_png(image))
    statistics = tmp_path_factory.mktemp("statistics") / "plain.npz"
    run("reference", "--extractor", "digits-classifier", "--images", str(root), "-o", str(statistics), models=models)
    return root, statistics


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_images_in_other_files_are_at_distance_0(
    kind: str, plain: tuple[Path, Path], real: RealArrays, models: Path, tmp_path: Path
) -> None:
    folder = plain[0]
    other = tmp_path / "other"
    other.mkdir()
    for index, image in enumerate(real.test.pixels[:60]):
        name = f"{index:03d}.{'webp' if kind == 'WebP' else 'png'}"
        (other / name).write_bytes(KINDS[kind](image[0]))
    for against in plain:
        options = ("--against", str(against), "--extractor", "digits-classifier", "--json")
        report = json.loads(run("evaluate-images", str(other), *options, models=models))
        assert abs(report["metrics"]["fd_classifier"]) < 1e-3
    back = json.loads(run("evaluate-images", str(folder), "--against", str(other), *options[2:], models=models))
    assert abs(back["metrics"]["fd_classifier"]) < 1e-3
    step = {"16-bit grey": "16 bits to 8", "animation": "first of 2 frames", "orientation 6": "turned upright by its EXIF tag"}.get(kind)  # fmt: skip
    if step:
        assert report["details"]["files"][step] == 60
        assert back["details"]["reference_files"][step] == 60
    warned = " ".join(report["warnings"])
    assert ("60 of the images: first of 2 frames (for example 000.png)" in warned) == (kind == "animation")
    assert ("60 of the images: laid over the opposite of the background" in warned) == (kind == "black ink")


def test_hidden_files_and_folders_are_no_images(folder: Path, models: Path) -> None:
    options = ("--against", str(folder), "--extractor", "digits-classifier", "--json")
    plain = json.loads(run("evaluate-images", str(folder), *options, models=models))
    for name in ("._000.png", ".hidden/a.png", "__MACOSX/._a.png", "@eaDir/a.png", "sub/.DS_Store", "sub/Thumbs.db", ".a.PNG"):  # fmt: skip
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"no image")
    assert json.loads(run("evaluate-images", str(folder), *options, models=models)) == plain
    shutil.copy(folder / "000.png", folder / "sub/1.PNG")
    assert images.open_images(folder, "L").n == 61
    inside = folder.parent / ".dotted/images"  # only names below the given folder count as hidden
    shutil.copytree(folder, inside)
    assert len(folders.image_files(inside)) == 61


def test_images_of_other_formats_are_warned_of(folder: Path, models: Path) -> None:
    (folder / "a.gif").write_bytes(b"GIF89a")
    options = ("--against", str(folder), "--extractor", "digits-classifier", "--json")
    report = json.loads(run("evaluate-images", str(folder), *options, models=models))
    assert any(warning.startswith("1 files are left out") and "a.gif" in warning for warning in report["warnings"])


def test_a_reference_says_what_was_done_to_its_files(folder: Path, models: Path, tmp_path: Path) -> None:
    (folder / "a.gif").write_bytes(b"GIF89a")
    (folder / "broken.png").write_bytes(b"x")
    (folder / "z.png").write_bytes(saved(Image.new("RGBA", (8, 8))))
    options = ("--extractor", "digits-classifier", "--skip-unreadable")
    arguments = ["reference", str(folder), *options, "-o", str(tmp_path / "r.npz"), "--models", str(models)]
    result = CliRunner().invoke(cli.app, arguments, catch_exceptions=False)
    for text in ("skipped, as it cannot be read: ", "1 files are left out", "1 of the images: blank"):
        assert f"warning: {text}" in result.stderr
    report = json.loads(
        run("evaluate-images", str(folder), "--against", str(folder), *options, "--json", models=models)
    )
    for text in ("skipped, as it cannot be read: ", "1 files are left out"):
        for before in ("", "reference images: "):
            assert sum(warning.startswith(before + text) for warning in report["warnings"]) == 1, before + text


def test_a_blank_image_is_warned_of_in_a_report(folder: Path, models: Path) -> None:
    (folder / "z.png").write_bytes(saved(Image.new("RGBA", (8, 8))))
    options = ("--against", str(folder), "--extractor", "digits-classifier", "--json")
    report = json.loads(run("evaluate-images", str(folder), *options, models=models))
    assert "1 of the images: blank: every pixel of the file is transparent (for example z.png)" in report["warnings"]
    assert (
        "1 of the reference images: blank: every pixel of the file is transparent (for example z.png)"
        in report["warnings"]
    )
