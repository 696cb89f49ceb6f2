"""Commands that compress images with a model and decompress them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from manifold.cli import completion
from manifold.cli.artifacts import load, manifest_of
from manifold.cli.options import Device, Models
from manifold.cli.outputs import check_suffix, check_writable, write
from manifold.runtime.errors import InvalidValue

if TYPE_CHECKING:
    from manifold.runtime.engine import Model
    from manifold.runtime.imaging import Pixels
    from manifold.runtime.kinds.image import ImageSpec


def compress(
    images: Annotated[
        list[Path], typer.Argument(metavar="IMAGE", help="PNG, JPEG or WebP files. All are written to one file.")
    ],
    model: Annotated[
        str,
        typer.Option(
            autocompletion=completion.artifact_names,
            help="Model with codes and a prior over them: a VQ-VAE. With --lossless, a model that gives probabilities of pixels.",
        ),
    ],
    lossless: Annotated[
        bool, typer.Option("--lossless", help="Compress the pixels themselves, so that they come back exactly.")
    ] = False,
    round_: Annotated[
        bool,
        typer.Option(
            "--round",
            help="With --lossless: fit images to the size of the model and round them to its levels, which loses the differences.",
        ),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="File to write. By default the name of the first image, with .mfc."),
    ] = None,
    device: Device = "auto",
    models: Models = Path("models"),
) -> None:
    """Compress images with a model.

    The codes of a VQ-VAE are entropy-coded with its prior. With --lossless, the pixels are coded with the probabilities that a PixelCNN, VAE,
    CVAE or VQ-VAE gives them: about -log2 p bits an image.
    """
    from manifold.runtime import compression, imaging
    from manifold.runtime.kinds.image import ImageSpec

    if round_ and not lossless:
        raise InvalidValue("--round: it has no effect without --lossless; add --lossless, or remove it", field="round")
    out = out or images[0].with_suffix(".mfc")
    check_writable(out)
    check_suffix(out, "codes", ".mfc")
    (compression.lossless.check_can if lossless else compression.check_can)(manifest_of(model, models))
    loaded = load(model, models, device)
    spec = ImageSpec.of(loaded.manifest.spec, f"model: {model}")
    if lossless and not round_:
        pixels = _read_exactly(images, spec)
    else:
        pixels = _read(images, spec.model_copy(update={"invert": False}) if lossless else spec)
    size = f"{len(images)} {'image' if len(images) == 1 else 'images'} of {spec.width}x{spec.height} pixels"
    if lossless:
        pixels = _rounded(loaded, images, pixels) if round_ else pixels
        written = compression.lossless.compress(loaded, pixels)
        write(out, written.content)
        each = (
            f"{written.bits} bits for {size}: {written.bits / len(images):.1f} an image, {written.net_bits / len(images):.1f} without the start; "
            f"and a header of {written.header} bytes"
        )
    else:
        compressed = compression.compress(loaded, imaging.from_uint8(pixels, spec))
        write(out, compressed.content)
        each = f"{compressed.bits} bits for {size}, and a header of {compression.HEADER.size} bytes"
    typer.echo(f"{out}: {each}")


def _read(images: Sequence[Path], spec: ImageSpec) -> Pixels:
    """Return the pixels of image files, uint8 (n, C, H, W), fitted to the model. The steps are printed."""
    import numpy as np

    from manifold.runtime import imaging

    pixels = []
    for image in images:
        read, fitted = imaging.read_image(image.read_bytes(), spec, field=str(image))
        if done := [*fitted.steps, *fitted.warnings]:
            typer.echo(f"note: {image}: {'; '.join(done)}", err=True)
        pixels.append(read)
    return np.stack(pixels)


def _read_exactly(images: Sequence[Path], spec: ImageSpec) -> Pixels:
    """Return the pixels of image files, uint8 (n, C, H, W), as they are. Raises InvalidValue for an image that would have to be changed."""
    import numpy as np

    from manifold.runtime.compression import pictures

    return np.stack([pictures.read_exactly(image.read_bytes(), spec, str(image)) for image in images])


def _rounded(model: Model, images: Sequence[Path], pixels: Pixels) -> Pixels:
    """Return the pixels, rounded to the levels of the model. The changes are printed."""
    import numpy as np

    from manifold.runtime.compression import lossless

    levels = lossless.levels_of(model)
    rounded = lossless.rounded(pixels, levels)
    for image, before, after in zip(images, pixels, rounded, strict=True):
        change = np.abs(before.astype(int) - after)
        if change.any():
            typer.echo(
                f"note: {image}: {np.count_nonzero(change)} of {change.size} values are rounded to one of {levels} levels, by up to {change.max()} of 255",
                err=True,
            )
    return rounded


def decompress(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="File made by `manifold compress`.")],
    model: Annotated[
        str | None,
        typer.Option(
            autocompletion=completion.artifact_names,
            help="Model that compressed the file. By default it is found by its checksum.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            help="PNG to write. By default FILE.restored.png, so that no original is replaced; several images are numbered: NAME-0000.png, "
            "NAME-0001.png, ...",
        ),
    ] = None,
    device: Device = "auto",
    models: Models = Path("models"),
) -> None:
    """Decompress images.

    The codes, or the pixels of a file made with --lossless, are exactly those that were compressed. The format is found in the file.
    """
    from manifold.runtime import compression, imaging, repository
    from manifold.runtime.kinds.image import ImageSpec

    out = out or file.with_suffix(".restored.png")
    check_writable(out)
    check_suffix(out, "images", ".png")
    content = file.read_bytes()
    name = model or repository.with_checksum(compression.made_by(content), models)
    loaded = load(name, models, device)
    if compression.is_lossless(content):
        images = compression.lossless.decompress(loaded, content)
    else:
        data, _ = compression.decompress(loaded, content)
        images = imaging.to_uint8(data, ImageSpec.of(loaded.manifest.spec, f"model: {name}"))
    for index, image in enumerate(images):
        path = out if len(images) == 1 else out.with_stem(f"{out.stem}-{index:04}")
        write(path, imaging.to_png(image))
        typer.echo(path)
