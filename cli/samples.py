"""Commands that run a model: samples, and pictures made again from their recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from manifold.cli import completion
from manifold.cli.artifacts import load, manifest_of
from manifold.cli.options import Device, ModelName, Models, Prior, number_of, pair
from manifold.cli.outputs import check_suffix, check_writable, write
from manifold.runtime.errors import InvalidValue, UnsupportedTask


def sample(
    model: ModelName,
    n: Annotated[int, typer.Option("-n", "--n", min=1, max=4096, help="Number of samples.")] = 64,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of the random numbers, 0 to 2^63 - 1.")] = 0,
    first: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Index of the first item.")] = 0,
    class_: Annotated[
        str | None,
        typer.Option(
            "--class",
            help='Class by name, or JSON: weights of classes such as {"3": 1, "8": 1}, or a list with one for each sample. By default each sample '
            "has a random class.",
            autocompletion=completion.class_names,
        ),
    ] = None,
    prior: Prior = None,
    temperature: Annotated[
        float | None,
        typer.Option(
            min=0.01, max=100, help="Scale of the random numbers. By default 1. An error if the model does not use it."
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of steps of a sampler. By default that of the model. An error if the model has no steps.",
        ),
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option(
            help="Strength of the class: 1 is the model as trained. By default that of the model. An error if the model has none."
        ),
    ] = None,
    number: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE", help="Another number that the model takes, such as psi=0.7. Repeat it for more."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o", "--out", help="File to write: .png for images, .csv for tables. By default MODEL.png or MODEL.csv."
        ),
    ] = None,
    device: Device = "auto",
    models: Models = Path("models"),
) -> None:
    """Write samples of a model: a grid of images, or rows.

    Images are one PNG. It contains the recipe from which `manifold remake` makes the same picture again. Rows are a CSV file.
    """
    from manifold.runtime import operations, recipes
    from manifold.runtime.operations import capabilities

    check_writable(out)
    manifest = manifest_of(model, models)
    capabilities.check_supports(manifest, "sample")
    if why := operations.why_not_draw(manifest):
        raise UnsupportedTask(
            f"{manifest.name} cannot draw samples: {why}; give them to /sample, or to the method sample of a model in Python",
            field="model",
        )
    spec = manifest.spec
    check_suffix(out, spec.noun, spec.suffix)
    loaded = load(model, models, device)
    out = out or Path(f"{loaded.manifest.name}{spec.suffix}")
    check_writable(out)
    options: dict[str, Any] = {
        "seed": seed,
        "first": first,
        "classes": _classes(class_),
        "prior": prior,
        "temperature": temperature,
    }
    numbers = {name: number_of(text, "--number") for name, text in (pair(each, "--number") for each in number or ())}
    chosen = {
        **numbers,
        **{name: value for name, value in {"steps": steps, "guidance": guidance}.items() if value is not None},
    }
    try:
        samples = loaded.sample(n, steps=steps, guidance=guidance, numbers=numbers or None, **options)
    except InvalidValue as error:
        if error.field != "classes":
            raise
        raise InvalidValue(error.message.replace("classes:", "class:", 1), field="class", valid=error.valid) from None
    if not operations.is_reproducible(loaded.manifest, None, None):
        typer.echo(
            f"note: {loaded.manifest.name} draws random numbers inside its graph: these samples are not reproducible",
            err=True,
        )
    texts = recipes.for_samples(loaded.manifest, loaded.checksum, samples, {**options, "numbers": chosen})
    write(out, spec.sheet(samples.data, texts))
    typer.echo(out)


def _classes(text: str | None) -> Any:
    """Return a class by name; or what a text with JSON lists, weights by name or one class for each item. Raises Malformed."""
    from manifold.runtime import texts

    return texts.json_of(text, "class") if text is not None and text.startswith(("[", "{")) else text


def remake(
    picture: Annotated[Path, typer.Argument(metavar="PICTURE", help="PNG made by /sample or `manifold sample`.")],
    out: Annotated[Path | None, typer.Option("-o", "--out", help="PNG to write. By default NAME.remade.png.")] = None,
    device: Device = "auto",
    models: Models = Path("models"),
) -> None:
    """Make a picture again from the recipe in its PNG.

    The command measures how the pixels differ from those of PICTURE. The exit status is 0 if the picture was made, whether it differs or not.
    """
    from manifold.runtime import extras, imaging, recipes

    content = picture.read_bytes()
    recipe = recipes.check(_recipe_of(picture, content))
    out = out or picture.with_suffix(".remade.png")
    check_writable(out)
    check_suffix(out, "pictures", ".png")
    model = load(f"{recipe['model']}/{recipe['version']}", models, device)
    remade = recipes.remake(model, recipe)
    write(out, remade)
    typer.echo(f"{out}: {recipes.difference(content, remade)}")
    if imaging.read_recipe(remade).get("reproducible") is False:
        typer.echo(
            f"note: the graph of {model.manifest.name} draws random numbers, so its recipes are not reproducible"
        )
    if remade != content:
        here = extras.surroundings(model.manifest.backend, model.device)
        typer.echo(
            f"artifact: {model.manifest.name} {model.manifest.version}, checksum {model.checksum[:12]}…, as in the recipe"
        )
        typer.echo(f"made here with: {here}; the recipe does not record with what the original was made")


def _recipe_of(picture: Path, content: bytes) -> dict[str, Any]:
    """Return the recipe in a picture. The error names the file."""
    from manifold.runtime import imaging

    if not content.startswith(b"\x89PNG"):
        raise InvalidValue(f"{picture}: is not a PNG file; give a PNG that `manifold sample` or /sample made")
    try:
        return imaging.read_recipe(content)
    except InvalidValue as error:
        raise InvalidValue(f"{picture}: {error.message.removeprefix('image: ')}") from None
