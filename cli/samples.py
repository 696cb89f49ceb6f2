"""Commands that make items with an artifact alone: sheets of samples, pictures made again from their recipes, compressed images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from manifold.cli.artifacts import load
from manifold.cli.options import Device, ModelName, Models, Prior
from manifold.cli.outputs import check_suffix, check_writable, write
from manifold.runtime.errors import InvalidValue


def sample(
    model: ModelName,
    n: Annotated[int, typer.Option("-n", min=1, max=4096, help="How many.")] = 64,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="0 to 2^63 - 1.")] = 0,
    first: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Index of the first item.")] = 0,
    class_: Annotated[str | None, typer.Option("--class", help="A class by name; random where left out.")] = None,
    prior: Prior = None,
    temperature: Annotated[
        float | None, typer.Option(min=0.01, max=100, help="1 where left out; refused if nothing uses it.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="A .png file, or .csv for tables; MODEL.png or MODEL.csv where left out."),
    ] = None,
    device: Device = "auto",
    models: Models = Path("models"),
) -> None:
    """A sheet of samples from an artifact alone: a PNG with its recipe, or a CSV of rows."""
    from manifold.runtime import operations, recipes

    check_writable(out)
    loaded = load(model, models, device)
    spec = loaded.manifest.spec
    check_suffix(out, spec.noun, spec.suffix)
    out = out or Path(f"{loaded.manifest.name}{spec.suffix}")
    check_writable(out)
    options: dict[str, Any] = {
        "seed": seed,
        "first": first,
        "classes": class_,
        "prior": prior,
        "temperature": temperature,
    }
    samples = loaded.sample(n, **options)
    if not operations.is_reproducible(loaded.manifest, None, None):
        typer.echo(
            f"note: {loaded.manifest.name} draws random numbers by itself: these samples are not reproducible", err=True
        )
    texts = recipes.for_samples(loaded.manifest, loaded.checksum, samples, options)
    write(out, spec.sheet(samples.data, texts))
    typer.echo(out)


def remake(
    picture: Annotated[Path, typer.Argument(help="A PNG made by /sample or `manifold sample`.")],
    out: Annotated[Path | None, typer.Option("-o", "--out", help="NAME.remade.png where left out.")] = None,
    device: Device = "auto",
    models: Models = Path("models"),
) -> None:
    """Make a picture again from the recipe that its PNG carries."""
    from manifold.runtime import imaging, recipes

    try:
        content = picture.read_bytes()
    except OSError as error:
        raise InvalidValue(f"{picture}: {error.strerror}") from None
    recipe = recipes.check(imaging.read_recipe(content))
    out = out or picture.with_suffix(".remade.png")
    check_writable(out)
    check_suffix(out, "pictures", ".png")
    remade = recipes.remake(load(f"{recipe['model']}/{recipe['version']}", models, device), recipe)
    write(out, remade)
    if imaging.read_recipe(remade).get("reproducible") is False:
        same = f"not the same picture: {recipe.get('model')} draws random numbers by itself, so that its recipes are not reproducible"
    elif remade == content:
        same = "the same bytes"
    else:
        same = "the same recipe; the file's bytes differ, as another Pillow writes them"
    typer.echo(f"{out}: {same}")


def compress(
    images: Annotated[list[Path], typer.Argument(help="PNG, JPEG or WebP files; all go into one file.")],
    model: Annotated[str, typer.Option(help="An artifact with codes and a prior over them.")],
    out: Annotated[Path | None, typer.Option("-o", "--out", help="IMAGE.mfc, of the first, where left out.")] = None,
    device: Device = "auto",
    models: Models = Path("models"),
) -> None:
    """Write images as entropy-coded codes of a VQ-VAE, by its own prior."""
    import numpy as np

    from manifold.runtime import compression, imaging
    from manifold.runtime.kinds.image import ImageSpec

    out = out or images[0].with_suffix(".mfc")
    check_writable(out)
    check_suffix(out, "codes", ".mfc")
    loaded = load(model, models, device)
    spec = ImageSpec.of(loaded.manifest.spec, f"model: {model}")
    read = [imaging.read_image(image.read_bytes(), spec, field=str(image)) for image in images]
    for image, (_, fitted) in zip(images, read, strict=True):
        if done := [*fitted.steps, *fitted.warnings]:
            typer.echo(f"note: {image}: {'; '.join(done)}", err=True)
    pixels = np.stack([each for each, _ in read])
    compressed = compression.compress(loaded, imaging.from_uint8(pixels, spec))
    write(out, compressed.content)
    typer.echo(
        f"{out}: {compressed.bits} bits for {len(images)} of {spec.width}x{spec.height} pixels, and a header of {compression.HEADER.size} bytes"
    )


def decompress(
    file: Annotated[Path, typer.Argument(help="A file made by `manifold compress`.")],
    model: Annotated[
        str | None, typer.Option(help="The artifact that made it; looked for by its checksum where left out.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="FILE.png where left out; of several images FILE-0000.png and on."),
    ] = None,
    device: Device = "auto",
    models: Models = Path("models"),
) -> None:
    """Make the images again from their codes: exactly the codes that were written."""
    from manifold.runtime import compression, imaging, repository
    from manifold.runtime.kinds.image import ImageSpec

    out = out or file.with_suffix(".png")
    check_writable(out)
    check_suffix(out, "images", ".png")
    content = file.read_bytes()
    name = model or repository.with_checksum(compression.made_by(content), models)
    loaded = load(name, models, device)
    data, _ = compression.decompress(loaded, content)
    spec = ImageSpec.of(loaded.manifest.spec, f"model: {name}")
    for index, image in enumerate(imaging.to_uint8(data, spec)):
        path = out if len(data) == 1 else out.with_stem(f"{out.stem}-{index:04}")
        write(path, imaging.to_png(image))
        typer.echo(path)
