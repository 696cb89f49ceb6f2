"""The command `manifold`: a table of sub-commands. Each imports what it needs when it is called, so that help is instant."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from manifold.runtime.errors import ArtifactError, InvalidValue, ManifoldError

if TYPE_CHECKING:
    from manifold.runtime.engine import Model

app = typer.Typer(
    name="manifold", add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None,
    help="Trains, exports, serves and judges deep generative models.",
)  # fmt: skip

INTERRUPTED = 130  # exit status after Ctrl-C, as shells have it

Models = Annotated[Path, typer.Option("--models", envvar="MANIFOLD_MODELS_DIR", help="Folder of artifacts.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]


# --- training -----------------------------------------------------------------------------------------------------------------


@app.command()
def train(
    family: Annotated[str, typer.Argument(help="A file of training/families, such as vae or pixelcnn.")],
    data: Annotated[str, typer.Option(help="A data set by name, or a .csv or .parquet file.")],
    preset: Annotated[str, typer.Option(help="smoke (seconds), cpu or gpu.")] = "cpu",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one key of the preset; repeat for more."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; runs/FAMILY-DATA where left out.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    precision: Annotated[str, typer.Option(help="32-true, or bf16-mixed on a GPU.")] = "32-true",
    devices: Annotated[int, typer.Option(min=1, max=64, help="How many devices.")] = 1,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Train a model family on a data set; makes a run folder."""
    from manifold.training import families, runs
    from manifold.training import train as loop

    module = families.get(family)
    config = _config(module, preset, settings)
    run = runs.Run(out or Path("runs") / f"{family}-{Path(data).stem}", family, data, preset, config)
    folder = loop.train(run, device=device, precision=precision, devices=devices, quiet=quiet)
    typer.echo(f"{folder}: done; next: manifold export {folder} --name NAME")


def _config(module: Any, preset: str, settings: list[str] | None) -> Any:
    """A family's preset with what --set changes. Raises InvalidValue for a preset that it lacks, TrainingError for wrong keys."""
    from manifold.training import recipes

    if preset not in module.PRESETS:
        valid = list(module.PRESETS)
        raise InvalidValue(f"preset: unknown {preset!r}; valid are {', '.join(valid)}", field="preset", valid=valid)
    return module.Config.model_validate(
        {**module.PRESETS[preset], **recipes.parse_overrides(module.Config, settings or [])}
    )


@app.command()
def resume(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    precision: Annotated[str, typer.Option(help="As it was started.")] = "32-true",
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Go on with a run where it stopped, exactly."""
    from manifold.training import runs
    from manifold.training import train as loop

    typer.echo(f"{loop.train(runs.open_run(run), resume=True, device=device, precision=precision, quiet=quiet)}: done")


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    name: Annotated[str, typer.Option(help="Name of the artifact.")],
    models: Models = Path("models"),
    format_: Annotated[str, typer.Option("--format", help="onnx or torchscript.")] = "onnx",
    description: Annotated[str, typer.Option(help="One line; made from the run where left out.")] = "",
) -> None:
    """Publish a run as an artifact that the service loads, once it has proved equal to torch."""
    from manifold.training import export as exporting
    from manifold.training import runs

    typer.echo(exporting.export(runs.open_run(run), name, models, backend=format_, description=description))


@app.command()
def fit(
    file: Annotated[Path, typer.Argument(help="A .csv or .parquet file of rows that are (mostly) normal.")],
    name: Annotated[str, typer.Option(help="Name of the artifact.")],
    truth: Annotated[
        str | None, typer.Option(help="A column that is 1 for known anomalies: they are only judged by.")
    ] = None,
    label: Annotated[
        str | None, typer.Option(help="A column with classes: makes a conditional model that classifies.")
    ] = None,
    kinds: Annotated[
        list[str] | None,
        typer.Option(
            "--column", metavar="NAME=KIND", help="numeric, quantile, categorical or ignore; repeat for more."
        ),
    ] = None,
    mixed: Annotated[
        bool,
        typer.Option(
            "--mixed",
            help="The rows may hold anomalies themselves: the strangest fifth, or --set trim=SHARE, is trimmed.",
        ),
    ] = False,
    preset: Annotated[str, typer.Option(help="smoke (seconds), cpu or gpu.")] = "cpu",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one key of the preset; repeat for more."),
    ] = None,
    html: Annotated[Path | None, typer.Option(help="The report; NAME.html where left out.")] = None,
    run: Annotated[Path | None, typer.Option("--run", help="Run folder; runs/NAME where left out.")] = None,
    models: Models = Path("models"),
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """From a file of rows to a published, calibrated artifact that scores them, with a report."""
    from manifold.runtime import engine
    from manifold.training import export as exporting
    from manifold.training import families, runs
    from manifold.training import train as loop
    from manifold.training.data import schema, tables

    html = html or Path(f"{name}.html")
    _writable(html)
    exporting.check_name(name)
    family = "tabular_cvae" if label else "tabular_vae"
    module = families.get(family)
    stated = schema.Stated(kinds=dict(_pair(kind, "--column") for kind in kinds or []))
    data = tables.of_file(file, stated, label, truth)
    config = _config(module, preset, settings)
    config = config.changed(mixed=mixed or config.mixed)
    folder = run or Path("runs") / name
    made = loop.train(
        runs.Run(folder, family, str(file), preset, config),
        data=data,
        device="cpu",
        quiet=quiet,
    )
    published = exporting.export(runs.open_run(made), name, models, data=data)
    _judge(engine.load(published, device="cpu"), data, html, True)
    for column, reason in data.spec.ignored.items():  # type: ignore[attr-defined]
        typer.echo(f"left out: {column}: {reason}", err=True)
    typer.echo(
        f"{published}: done; the report is {html}; next: manifold score ROWS.csv --model {name} -o SCORES.parquet"
    )


@app.command()
def judge(
    model: Annotated[str, typer.Argument(help="A model with a score: name in the folder of artifacts, or a path.")],
    data: Annotated[
        str | None, typer.Option(help="A data set; the one the model was trained on where left out.")
    ] = None,
    against: Annotated[
        str | None, typer.Option(help="Of images: another data set, whose images are the anomalies to be found.")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Also write the report page, of rows.")] = None,
    record: Annotated[bool, typer.Option("--record", help="Write the figures into the artifact's manifest.")] = False,
    models: Models = Path("models"),
) -> None:
    """Judge a model's score: the false alarm rates it keeps, and what it finds beside an isolation forest and nearest neighbours."""
    from manifold.training import datasets

    _writable(html)
    _recordable(record, model, models)
    loaded = _load(model, models, "cpu")
    _judge(loaded, datasets.load(data or loaded.manifest.data_name or ""), html, record, against)


def _judge(model: Model, data: Any, html: Path | None, record: bool, against: str | None = None) -> None:
    """What `fit` and `judge` print, record and show."""
    from manifold.evaluation import anomaly
    from manifold.runtime.kinds.image import ImageSpec
    from manifold.runtime.repository import replacing
    from manifold.training import datasets
    from manifold.training.data import Arrays

    if model.manifest.scoring is None:
        raise InvalidValue(f"model: {model.manifest.name} carries no score", field="model")
    spec = model.manifest.data
    if spec != data.spec:
        raise InvalidValue(f"data: {data.name} does not hold the items of {model.manifest.name}", field="data")
    strange = None if data.anomalies is None else Arrays.of(data.anomalies).items
    if isinstance(spec, ImageSpec):
        if html is not None:
            raise InvalidValue("--html: the page is of rows", field="html")
        if against is not None:
            other = datasets.load(against)
            if not isinstance(other.spec, ImageSpec):
                raise InvalidValue(f"--against: {against} holds rows, not images", field="against")
            strange = anomaly.fitted(Arrays.of(other.test if len(other.test) >= 1000 else other.train).items, spec)
    elif against is not None:
        raise InvalidValue("--against: rows have known anomalies of their own", field="against")
    found = anomaly.judge(model, data.inputs(data.train), data.inputs(data.test), strange)
    if record:
        anomaly.record(model, found, against)
    if html is not None:
        with replacing(html) as temporary:
            temporary.write_text(anomaly.to_html(model, found, Arrays.of(data.test).items, strange))
    for each in found.rates:
        typer.echo(
            f"false alarms: {each['met']:.2%} where {each['asked']:.1%} was asked for, on {found.n} held-out rows"
        )
    for by, numbers in {**found.terms, **found.peers}.items():
        typer.echo(f"{by}: " + ", ".join(f"{key} {value:.3f}" for key, value in numbers.items()))
    for warning in found.warnings:
        typer.echo(f"note: {warning}", err=True)


def _pair(text: str, option: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise InvalidValue(f"{option} {text}: write NAME=VALUE", field=option)
    return key, value


# --- artifacts ----------------------------------------------------------------------------------------------------------------


@app.command()
def sample(
    model: Annotated[str, typer.Argument(help="Name in the folder of artifacts, or a path.")],
    n: Annotated[int, typer.Option("-n", min=1, max=4096, help="How many.")] = 64,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="0 to 2^63 - 1.")] = 0,
    first: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Index of the first item.")] = 0,
    class_: Annotated[str | None, typer.Option("--class", help="A class by name; random where left out.")] = None,
    prior: Annotated[str | None, typer.Option(help="One of the artifact's priors.")] = None,
    temperature: Annotated[float, typer.Option(min=0.01, max=100)] = 1.0,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="MODEL.png, or MODEL.csv for tables, where left out.")
    ] = None,
    device: Device = "auto",
    models: Models = Path("models"),
) -> None:
    """A sheet of samples from an artifact alone: a PNG with its recipe, or a CSV of rows."""
    import csv

    from manifold.runtime import operations, recipes
    from manifold.runtime.kinds.table import TableSpec
    from manifold.runtime.repository import replacing
    from manifold.runtime.tables import rows

    _writable(out)
    loaded = _load(model, models, device)
    spec = loaded.manifest.data
    out = out or Path(f"{loaded.manifest.name}.{'csv' if isinstance(spec, TableSpec) else 'png'}")
    _writable(out)
    options = {"seed": seed, "first": first, "classes": class_, "prior": prior, "temperature": temperature}
    samples = loaded.sample(n, **options)
    if not operations.is_reproducible(loaded.manifest, None, None):
        typer.echo(
            f"note: {loaded.manifest.name} draws random numbers by itself: these samples are not reproducible", err=True
        )
    if isinstance(spec, TableSpec):
        with replacing(out) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, spec.names)
            writer.writeheader()
            writer.writerows(rows.decode(samples.data, spec))
    else:
        made = recipes.for_samples(loaded.manifest, loaded.checksum, samples, options)
        with replacing(out) as temporary:
            temporary.write_bytes(spec.sheet(samples.data, made))
    typer.echo(out)


@app.command()
def remake(
    picture: Annotated[Path, typer.Argument(help="A PNG made by /sample or `manifold sample`.")],
    out: Annotated[Path | None, typer.Option("-o", "--out", help="NAME.remade.png where left out.")] = None,
    device: Device = "auto",
    models: Models = Path("models"),
) -> None:
    """Make a picture again from the recipe that its PNG carries."""
    from manifold.runtime import imaging, recipes
    from manifold.runtime.repository import replacing

    try:
        content = picture.read_bytes()
    except OSError as error:
        raise InvalidValue(f"{picture}: {error.strerror}") from None
    recipe = recipes.check(imaging.read_recipe(content))
    out = out or picture.with_suffix(".remade.png")
    _writable(out)
    made = recipes.remake(_load(f"{recipe['model']}/{recipe['version']}", models, device), recipe)
    with replacing(out) as temporary:
        temporary.write_bytes(made)
    same = (
        "the same bytes"
        if made == content
        else "the same recipe; the file's bytes differ, as another Pillow writes them"
    )
    if imaging.read_recipe(made).get("reproducible") is False:
        same = f"not the same picture: {recipe.get('model')} draws random numbers by itself, so that its recipes are not reproducible"
    typer.echo(f"{out}: {same}")


@app.command()
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
    from manifold.runtime.repository import replacing

    out = out or images[0].with_suffix(".mfc")
    _writable(out)
    loaded = _load(model, models, device)
    spec = loaded.manifest.data
    if not isinstance(spec, ImageSpec):
        raise InvalidValue(f"model: {model} is a model of rows, not of images", field="model")
    pixels = np.stack([imaging.read_image(image.read_bytes(), spec, field=str(image))[0] for image in images])
    made = compression.compress(loaded, imaging.from_uint8(pixels, spec))
    with replacing(out) as temporary:
        temporary.write_bytes(made.content)
    typer.echo(
        f"{out}: {made.bits} bits for {len(images)} of {spec.width}x{spec.height} pixels, and a header of {compression.HEADER.size} bytes"
    )


@app.command()
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
    from manifold.runtime import compression, imaging
    from manifold.runtime.kinds.image import ImageSpec
    from manifold.runtime.repository import replacing

    out = out or file.with_suffix(".png")
    _writable(out)
    content = file.read_bytes()
    loaded = _load(model or _made_by(compression.made_by(content), models), models, device)
    data, _ = compression.decompress(loaded, content)
    spec = loaded.manifest.data
    assert isinstance(spec, ImageSpec)
    for index, image in enumerate(imaging.to_uint8(data, spec)):
        path = out if len(data) == 1 else out.with_stem(f"{out.stem}-{index:04}")
        with replacing(path) as temporary:
            temporary.write_bytes(imaging.to_png(image))
        typer.echo(path)


def _made_by(fingerprint: str, models: Path) -> str:
    """Name and version of the artifact whose checksum begins so."""
    from manifold.runtime import manifest, repository

    for name, versions in repository.scan(models).items():
        for version in versions:
            try:
                files = manifest.read(models / name / str(version)).files
            except ArtifactError:  # another model that is broken
                continue
            if repository.checksum(files).startswith(fingerprint):
                return f"{name}/{version}"
    raise InvalidValue(
        f"no artifact in {models} has the checksum {fingerprint}… that the file was made by", field="model"
    )


@app.command()
def score(
    file: Annotated[Path, typer.Argument(help="A .csv or .parquet file of rows.")],
    model: Annotated[str, typer.Option(help="An artifact that scores rows, by name or path.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="A .ndjson or .parquet file.")],
    rate: Annotated[
        float | None, typer.Option("--false-positive-rate", min=0, max=1, help="0.01 where nothing is said.")
    ] = None,
    budget: Annotated[int | None, typer.Option(min=1, help="Instead: flag the so many strangest of the file.")] = None,
    block_rate: Annotated[
        float | None, typer.Option(min=0, max=1, help="Of the band `block`; a tenth where left out.")
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Reasons, of the rows that are flagged.")] = False,
    threads: Annotated[int, typer.Option(min=1, help="Within a run.")] = 1,
    device: Device = "auto",
    models: Models = Path("models"),
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Score a file of rows as a stream: order kept, bad rows set aside with their reason, the rest scored."""
    import contextlib
    import time

    from manifold.runtime import engine, repository
    from manifold.runtime.repository import replacing
    from manifold.runtime.scores import bulk, decisions
    from manifold.runtime.tables import files

    if rate is not None and budget is not None:
        raise InvalidValue("--budget and --false-positive-rate exclude each other", field="budget")
    if out.suffix not in (".ndjson", ".jsonl", ".parquet"):
        raise InvalidValue(f"{out}: the output is a .ndjson or .parquet file", field="out")
    _writable(out, out.with_suffix(".rejected.ndjson"))
    kind = files.format_of(file)
    loaded = engine.load(repository.find(model, models), device=device, threads=threads)
    began = shown = time.perf_counter()

    def progress(total: bulk.Total) -> None:
        nonlocal shown
        if not quiet and time.perf_counter() - shown > 2:
            shown = time.perf_counter()
            typer.echo(f"{total.rows:,} rows, {total.rows / (shown - began):,.0f} rows/s", err=True)

    rejected = out.with_suffix(".rejected.ndjson")
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(file.open("rb"))
        target = stack.enter_context(stack.enter_context(replacing(out)).open("wb"))
        aside = stack.enter_context(stack.enter_context(replacing(rejected)).open("wb"))
        writer = bulk.ParquetWriter(target, aside) if out.suffix == ".parquet" else bulk.NdjsonWriter(target)
        rule = decisions.Rule(rate, budget, None, block_rate)
        total = bulk.drain(bulk.score(loaded, source, kind, rule, explain=explain), writer, progress)
    if not rejected.stat().st_size:
        rejected.unlink()
    if loaded.manifest.drawing:
        typer.echo(
            f"note: {loaded.manifest.name} draws random numbers by itself: these scores are not reproducible", err=True
        )
    where = f", set aside in {rejected if out.suffix == '.parquet' else out}" if total.bad else ""
    seconds = time.perf_counter() - began
    typer.echo(
        f"{out}: {total.rows:,} rows in {seconds:.1f} s ({total.rows / seconds:,.0f} rows/s), {total.flagged:,} flagged, {total.bad:,} bad{where}"
    )


@app.command()
def calibrate(
    model: Annotated[str, typer.Argument(help="Name in the folder of artifacts, or a path.")],
    file: Annotated[Path, typer.Argument(help="A .csv or .parquet file of normal rows.")],
    models: Models = Path("models"),
) -> None:
    """Calibrate an artifact on normal rows of one's own, without training: published as its next version."""
    from manifold.runtime.scores import bulk
    from manifold.runtime.tables import files

    loaded = _load(model, models, "cpu")
    with file.open("rb") as source:
        folder, done = bulk.recalibrate(loaded, source, files.format_of(file), models, name=file.name)
    typer.echo(f"{folder}: {done}")


@app.command()
def check(
    artifacts: Annotated[list[Path], typer.Argument(help="Folders NAME/VERSION, or NAME for its latest version.")],
    seal: Annotated[bool, typer.Option("--seal", help="Write the checksums of the files into the manifest.")] = False,
    device: Device = "auto",
) -> None:
    """Say what is wrong with an artifact, field by field: manifest, checksums, graphs, golden vectors, batch sizes."""
    from manifold.runtime import checks, repository
    from manifold.runtime.errors import Unavailable, reason

    wrong = 0
    for path in artifacts:
        problems: list[str] = []
        notes: list[str] = []
        try:
            problems, notes, found = checks.check(repository.locate(path), device, seal=seal)
        except Unavailable as error:
            typer.echo(f"{path}: not checked: {error.message}")
            continue
        except ManifoldError as error:
            problems.append(error.message)
        except (OSError, MemoryError) as error:
            problems.append(reason(error))
        except (
            Exception
        ) as error:  # a check says what is wrong with every artifact that it is given, and goes on with the next
            problems.append(
                f"{type(error).__name__}: {reason(error)} (a case that Manifold does not know: please report it)"
            )
        wrong += bool(problems)
        lines = (
            [f"{path}:", *(f"  {line}" for line in problems)]
            if problems
            else [f"{path}: good: {', '.join(found.tasks)}"]
        )
        typer.echo("\n".join([*lines, *(f"  note: {note}" for note in notes)]))
    if wrong:
        raise typer.Exit(1)


@app.command()
def schema() -> None:
    """Print the JSON schema of the manifest."""
    import json

    from manifold.runtime import manifest

    typer.echo(json.dumps(manifest.schema(), indent=1))


# --- evaluation ---------------------------------------------------------------------------------------------------------------

ExtractorName = Annotated[
    str | None,
    typer.Option(
        "--extractor", help="An artifact with the task `features`; the data set's own classifier where left out."
    ),
]
Resize = Annotated[str, typer.Option(help="none, torch-bilinear, tf1-bilinear or pil-bicubic.")]
DataName = Annotated[
    str | None, typer.Option("--data", help="A data set of images; the one the model was trained on where left out.")
]
Seed = Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Of the samples and of every shuffle.")]
Count = Annotated[int, typer.Option("--n", min=1, max=1_000_000, help="How many images are generated.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of Markdown.")]
Html = Annotated[Path | None, typer.Option("--html", help="Also write one page with numbers and pictures.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress.")]


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="Name in the folder of artifacts, or a path.")],
    data: DataName = None,
    n: Count = 10_000,
    seed: Seed = 0,
    prior: Annotated[str | None, typer.Option(help="One of the artifact's priors.")] = None,
    against: Annotated[
        Path | None,
        typer.Option(
            help="Statistics (.npz) instead of the data's test part; `shipped`: those of the extractor's artifact."
        ),
    ] = None,
    extractor: ExtractorName = None,
    resize: Resize = "none",
    as_json: AsJson = False,
    html: Html = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Also write the JSON to this file.")] = None,
    record: Annotated[bool, typer.Option("--record", help="Write the numbers into the artifact's manifest.")] = False,
    quiet: Quiet = False,
    device: Device = "auto",
    models: Models = Path("models"),
) -> None:
    """Judge a model: distances to real images, scores, likelihood, reconstructions, beside what real images score."""
    from manifold.evaluation import report as reports
    from manifold.evaluation.session import Options, Session

    _writable(out, html, makes_folders=True)
    _recordable(record, model, models)
    session = Session(models, Options(n, seed, extractor, resize, device), _real_data, quiet)
    found, pictures, folder = session.evaluate(model, data, prior=prior, against=against)
    if record:
        reports.record(folder, found)
    _write_report(found, pictures, as_json, html, out)


@app.command()
def catalogue(
    page: Annotated[Path, typer.Option("--page", help="The page of all artifacts, with sheets.")] = Path(
        "docs/models.md"
    ),
    readme: Annotated[
        Path | None, typer.Option("--readme", help="A file whose table, between its marks, is renewed too.")
    ] = None,
    models: Models = Path("models"),
) -> None:
    """Write the table of all artifacts, from their manifests."""
    from manifold.evaluation import catalogue as catalogues
    from manifold.runtime.repository import replacing

    _writable(page, readme)
    written = {page: catalogues.page(models, page.parent)}
    if readme is not None:
        try:
            written[readme] = catalogues.between(readme.read_text(), catalogues.table(models))
        except (OSError, ValueError) as error:
            raise InvalidValue(f"readme: {readme}: {error}", field="readme") from None
    for path, text in written.items():
        with replacing(path) as temporary:
            temporary.write_text(text)
        typer.echo(path)


@app.command()
def compare(
    models_: Annotated[
        list[str],
        typer.Argument(
            metavar="A B ...", help="Artifacts, or JSON files of `manifold evaluate`. NAME:PRIOR picks a prior."
        ),
    ],
    data: DataName = None,
    n: Count = 10_000,
    seed: Seed = 0,
    extractor: ExtractorName = None,
    resize: Resize = "none",
    as_json: AsJson = False,
    quiet: Quiet = False,
    device: Device = "auto",
    models: Models = Path("models"),
) -> None:
    """Rank models by KID, beside real images. What is recorded under the same protocol is not measured again."""
    import json

    from manifold.evaluation import report as reports
    from manifold.evaluation.records import ranked
    from manifold.evaluation.session import Options, Session

    session = Session(models, Options(n, seed, extractor, resize, device), _real_data, quiet)
    found = ranked([session.known_or_evaluated(name, data) for name in models_])
    typer.echo(json.dumps(found, indent=1) if as_json else reports.comparison(found))


@app.command("evaluate-images")
def evaluate_images(
    images: Annotated[Path, typer.Argument(help="A folder of PNG, JPEG or WebP files, or a .npy or .npz file.")],
    against: Annotated[Path, typer.Option(help="The same of real images, or statistics: an .npz with mu and sigma.")],
    extractor: Annotated[str, typer.Option(help="An artifact with the task `features`.")],
    resize: Resize = "none",
    seed: Seed = 0,
    skip_unreadable: Annotated[
        bool, typer.Option("--skip-unreadable", help="Go on without files that cannot be read, and say which.")
    ] = False,
    as_json: AsJson = False,
    html: Html = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Also write the JSON to this file.")] = None,
    quiet: Quiet = False,
    device: Device = "auto",
    models: Models = Path("models"),
) -> None:
    """Judge a folder of images, from whatever made them, against another."""
    from manifold.evaluation.session import Options, Session

    _writable(out, html, makes_folders=True)
    session = Session(models, Options(0, seed, extractor, resize, device), _real_data, quiet)
    found, pictures = session.evaluate_images(images, against, skip=skip_unreadable)
    _write_report(found, pictures, as_json, html, out)


@app.command()
def reference(
    extractor: Annotated[str, typer.Option(help="An artifact with the task `features`.")],
    out: Annotated[Path | None, typer.Option("-o", "--out", help="The .npz to write.")] = None,
    data: DataName = None,
    images: Annotated[Path | None, typer.Option(help="A folder or array of images instead of a data set.")] = None,
    part: Annotated[str, typer.Option(help="Of the data set: test, calibration or train.")] = "test",
    ship: Annotated[
        bool, typer.Option("--ship", help="Put it into the extractor's artifact, as `reference.npz`.")
    ] = False,
    resize: Resize = "none",
    skip_unreadable: Annotated[
        bool, typer.Option("--skip-unreadable", help="Go on without files that cannot be read.")
    ] = False,
    quiet: Quiet = False,
    device: Device = "auto",
    models: Models = Path("models"),
) -> None:
    """Write reference statistics: mu and sigma as pytorch-fid has them, and where they come from beside them."""
    from manifold.evaluation.session import Options, Session

    if (out is None) == (not ship):
        raise InvalidValue("give either --out FILE.npz or --ship", field="out")
    _writable(out)
    session = Session(models, Options(0, 0, extractor, resize, device), _real_data, quiet)
    typer.echo(session.write_reference(out, data, images, part, skip=skip_unreadable))


@app.command()
def inception(
    weights: Annotated[
        Path | None, typer.Option(help="pt_inception-2015-12-05-6726825d.pth; downloaded where left out.")
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the artifact.")] = "inception-v3",
    models: Models = Path("models"),
) -> None:
    """Make the extractor of published FIDs from its weights, which are checked against their published hash."""
    from manifold.runtime import repository
    from manifold.training import inception as network

    path = network.weights_file(weights)
    built = network.build(network.read_weights(path))
    typer.echo(network.publish(built, models, name, repository.digest(path).sha256))


@app.command()
def disentangle(
    model: Annotated[str, typer.Argument(help="Name in the folder of artifacts, or a path.")],
    data: DataName = None,
    item: Annotated[int, typer.Option(help="Test item whose latent is moved.")] = 0,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="A PNG with a row for each active dimension.")] = None,
    as_json: AsJson = False,
    device: Device = "auto",
    models: Models = Path("models"),
) -> None:
    """Say whether latent dimensions hold single factors (MIG and DCI, where the data's factors are known), and draw traversals."""
    import json

    from manifold.evaluation import report as reports
    from manifold.evaluation.session import Options, Session
    from manifold.runtime.repository import replacing

    _writable(out, makes_folders=True)
    session = Session(models, Options(0, 0, None, "none", device), _real_data, True)
    found, picture = session.disentangle(model, data, item)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        with replacing(out) as temporary:
            temporary.write_bytes(picture)
    typer.echo(json.dumps(found, indent=1) if as_json else reports.disentanglement(found))


@app.command("fit-priors")
def fit_priors(
    model: Annotated[str, typer.Argument(help="Name in the folder of artifacts, or a path.")],
    data: DataName = None,
    models: Models = Path("models"),
) -> None:
    """Fit a Gaussian and a mixture to where the training items lie, and add them to an artifact as priors. Export does it by itself."""
    from manifold.training import datasets
    from manifold.training.exporting import priors

    loaded = _load(model, models, "cpu")
    typer.echo(priors.add_to_artifact(loaded, datasets.load(data or loaded.manifest.data_name or "")))


def _real_data(name: str) -> Any:
    """The data set as the evaluator wants it. Here, as the evaluator knows no training."""
    from manifold.evaluation.evaluate_model import RealData
    from manifold.evaluation.images import Held
    from manifold.runtime.kinds.image import ImageSpec
    from manifold.training import datasets
    from manifold.training.data import Arrays

    data = datasets.load(name)
    if not isinstance(data.spec, ImageSpec):
        raise InvalidValue(f"data: {name} holds rows, not images", field="data")
    parts = {
        part: Held(Arrays.of(held).items, held.labels, name, held.factors, data.factors)
        for part, held in (("train", data.train), ("calibration", data.calibration), ("test", data.test))
    }
    return RealData(name, **parts)


def _write_report(found: dict[str, Any], pictures: Any, as_json: bool, html: Path | None, out: Path | None) -> None:
    from manifold.evaluation import report as reports
    from manifold.runtime.repository import replacing

    for path, content in ((out, reports.to_json(found)), (html, reports.to_html(found, pictures) if html else "")):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary:
                temporary.write_text(content)
    typer.echo(reports.to_json(found) if as_json else reports.to_markdown(found), nl=False)


# --- service ------------------------------------------------------------------------------------------------------------------


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="127.0.0.1 where left out.")] = None,
    port: Annotated[int | None, typer.Option(help="8000 where left out.")] = None,
    grpc_port: Annotated[int | None, typer.Option(help="The port after that where left out; 0 is off.")] = None,
    models: Annotated[Path | None, typer.Option("--models", help="Folder of artifacts.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that serve as one, on CPUs; 1 where left out.")] = None,
) -> None:
    """Serve the models over HTTP and gRPC. All other settings are MANIFOLD_* variables or manifold.toml."""
    from manifold.service import settings
    from manifold.service.__main__ import run

    run(settings.read(host=host, port=port, grpc_port=grpc_port, models_dir=models, workers=workers))


@app.command()
def key(
    name: Annotated[str, typer.Argument(help="Whose key it is: letters, digits, dots, dashes.")],
    scopes: Annotated[
        list[str] | None, typer.Option("--scope", help="infer (where left out) or admin; repeat for both.")
    ] = None,
    rate: Annotated[float, typer.Option(min=0, help="Requests/s; 0 leaves it to the service.")] = 0,
    file: Annotated[
        Path | None,
        typer.Option(help="A file of keys to add it to; a new one may be read by every user of the machine."),
    ] = None,
) -> None:
    """Make an API key: the token, which is kept nowhere, and the entry by which the service knows it."""
    from manifold.service import keyfile, security

    token, made = security.create(name, scopes or ["infer"], rate)
    if file is not None:
        mode = keyfile.add(file, made)  # first: a token whose entry cannot be written is of no use
    typer.echo(token)
    if file is None:
        typer.echo(f"entry, for MANIFOLD_KEYS or a file of keys: {made}", err=True)
        return
    typer.echo(f"its entry is in {file}; tell a running service by SIGHUP or POST /admin/reload", err=True)
    if not mode & 0o004:
        typer.echo(
            f"note: {file} has the mode {mode:o}; a service that runs as another user, such as the container's 10001, cannot read it: "
            f"chmod 644 {file}",
            err=True,
        )


def _recordable(record: bool, model: str, models: Path) -> None:
    """Raise InvalidValue, before any work, if figures are to be recorded in an artifact that cannot be written."""
    if record:
        from manifold.runtime import manifest, repository

        _writable(repository.find(model, models) / manifest.FILE)


def _load(model: str, models: Path, device: str) -> Model:
    from manifold.runtime import engine, repository

    return engine.load(repository.find(model, models), device=device)


def _writable(*paths: Path | None, makes_folders: bool = False) -> None:
    """Raise InvalidValue for an output that cannot be written, before the work whose result it is to hold. None is skipped."""
    for path in paths:
        if path is None:
            continue
        if path.is_dir():
            raise InvalidValue(f"{path}: is a folder; name a file", field="out")
        if path.exists() and not path.is_file():
            continue  # a device or a pipe, such as /dev/stdout
        folder = Path(os.path.realpath(path)).parent if path.is_symlink() else path.parent
        while makes_folders and not folder.exists() and folder != folder.parent:
            folder = folder.parent
        if not folder.is_dir():
            raise InvalidValue(f"{path}: No such file or directory: there is no folder {folder}", field="out")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise InvalidValue(f"{path}: the folder {folder} cannot be written", field="out")


def main() -> None:
    """Run a command. An error of ours is one message on stderr and exit status 1, of settings 2; Ctrl-C is status 130, without a traceback."""
    interrupted = False

    def interrupt(number: int, frame: object) -> None:
        nonlocal interrupted
        interrupted = True
        raise KeyboardInterrupt

    if (
        signal.getsignal(signal.SIGINT) is signal.default_int_handler
    ):  # a shell may have told a background job to ignore it
        signal.signal(signal.SIGINT, interrupt)
    try:
        _run()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except Exception:
        if interrupted:  # a library has made another error of it, as native modules do that were just being imported
            sys.exit(INTERRUPTED)
        raise


def _run() -> None:
    try:
        app()
    except ManifoldError as error:
        valid = (
            f"\nvalid: {', '.join(map(str, error.valid))}"
            if error.valid and str(error.valid[0]) not in error.message
            else ""
        )
        typer.echo(f"{error.message}{valid}", err=True)
        sys.exit(2 if error.type == "settings_error" else 1)  # as `python -m manifold.service` ends
    except ModuleNotFoundError as error:
        typer.echo(
            f"{error.name} is not installed: training, export and evaluation need an extra: pip install -e '.[cpu,train]', or '.[cpu,evaluate]' without torch",
            err=True,
        )
        sys.exit(1)
    except OSError as error:
        if isinstance(error, BrokenPipeError):  # `manifold schema | head`
            os._exit(0)
        typer.echo(f"{error.filename or ''}: {error.strerror or error}".lstrip(": "), err=True)
        sys.exit(1)
