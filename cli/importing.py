"""The command `manifold import`: an artifact made of graphs from elsewhere."""

from __future__ import annotations

import re
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from manifold.cli.options import Models, elsewhere, number_of, pair
from manifold.cli.outputs import check_folder
from manifold.runtime.errors import InvalidValue, command, shown

if TYPE_CHECKING:
    from manifold.runtime.foreign.guesses import Wishes
    from manifold.runtime.kinds.table import TableSpec

LARGEST = 1e30  # limit for the values of black and white
SOURCES = ("latent", "normal", "data", "condition", "codes")
TASKS = ("decode", "decode_codes", "sample", "encode", "score", "features")
SHAPE = re.compile(r"(?:(?P<dtype>[a-z]+\d*)\[(?:B,? ?)?(?P<dims>[\d, ]*)\]|(?P<plain>[\dx]+))")


def import_(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE", help="ONNX file, TorchScript archive (.pt) or exported program (.pt2); one for each task."
        ),
    ],
    name: Annotated[str, typer.Option(help="Name of the model.")],
    task: Annotated[
        list[str] | None,
        typer.Option(help=f"Task of each file, in their order: {', '.join(TASKS)}. By default guessed."),
    ] = None,
    rows: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of rows in each run: that of a traced script that takes no other, or 1 if the rows of a graph influence each other.",
        ),
    ] = None,
    method: Annotated[str | None, typer.Option(help="TorchScript: method of the module. By default forward.")] = None,
    shape: Annotated[
        list[str] | None,
        typer.Option(
            metavar="INPUT=SHAPE",
            help="Shape of an input without the batch, such as z=64 or z=4x8x8, if the graph does not state it; for TorchScript also its type, such as "
            "z=float32[B,64]. Repeat it for more.",
        ),
    ] = None,
    input_: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            metavar="INPUT=SOURCE",
            help="Source of an input: latent, normal (noise), data, condition or codes. Repeat it for more.",
        ),
    ] = None,
    output: Annotated[
        list[str] | None,
        typer.Option(
            metavar="OUTPUT=ROLE",
            help="Role of an output: data, mean, log_variance, codes, features, logits, the name of a score, or none. Repeat it.",
        ),
    ] = None,
    constant: Annotated[
        list[str] | None,
        typer.Option(metavar="INPUT=NUMBER", help="An input that always has this value. Repeat it for more."),
    ] = None,
    number: Annotated[
        list[str] | None,
        typer.Option(
            metavar="INPUT=DEFAULT[:LOW:HIGH]",
            help="An input that requests state as a number, with its default and limits. Repeat it for more.",
        ),
    ] = None,
    range_: Annotated[
        tuple[float, float] | None,
        typer.Option("--range", metavar="BLACK WHITE", help="Images: values of black and white in the graph."),
    ] = None,
    input_range: Annotated[
        tuple[float, float] | None,
        typer.Option(
            metavar="BLACK WHITE", help="Images: the same for images that are inputs, if they differ from outputs."
        ),
    ] = None,
    size: Annotated[
        tuple[int, int] | None,
        typer.Option(metavar="HEIGHT WIDTH", help="Images: size, if the graph does not state it."),
    ] = None,
    layout: Annotated[str | None, typer.Option(help="Images: order of the axes in the graph, such as NHWC.")] = None,
    channels: Annotated[
        str | None,
        typer.Option(
            help="Images: channels in the graph, such as BGR or RGBA; or the places of those to show, counted from 0, such as 2,1,0."
        ),
    ] = None,
    mean: Annotated[
        str | None, typer.Option(metavar="NUMBERS", help="Images: mean of each channel, such as 0.485,0.456,0.406.")
    ] = None,
    std: Annotated[
        str | None, typer.Option(metavar="NUMBERS", help="Images: standard deviation of each channel.")
    ] = None,
    input_mean: Annotated[
        str | None,
        typer.Option(metavar="NUMBERS", help="Images: mean of each channel of inputs, if outputs have none."),
    ] = None,
    input_std: Annotated[
        str | None, typer.Option(metavar="NUMBERS", help="Images: standard deviation of each channel of inputs.")
    ] = None,
    invert: Annotated[
        bool, typer.Option("--invert", help="Images: the graph has white where the image is black.")
    ] = False,
    activation: Annotated[
        str | None,
        typer.Option(
            help="Function to apply to the images of the graph, sigmoid or tanh. For one output of two classes, sigmoid: it is a logit."
        ),
    ] = None,
    classes: Annotated[str | None, typer.Option(help="Number of classes, or their names with commas.")] = None,
    levels: Annotated[int | None, typer.Option(min=2, help="Number of different codes.")] = None,
    columns: Annotated[
        Path | None,
        typer.Option(
            help="Rows: a .csv or .parquet file with the columns of the graph: numbers in their order, or by name if each column has its input."
        ),
    ] = None,
    missing: Annotated[
        bool, typer.Option("--missing", help="Rows: values may be missing; the graph gets NaN for them.")
    ] = False,
    negate: Annotated[bool, typer.Option("--negate", help="The score is higher for more normal items.")] = False,
    keep_sign: Annotated[
        bool, typer.Option("--keep-sign", help="The score is higher for more anomalous items.")
    ] = False,
    description: Annotated[str, typer.Option(help="Description of the model.")] = "",
    license_: Annotated[str, typer.Option("--license", help="Licence of the model.")] = "",
    models: Models = Path("models"),
) -> None:
    """Make a model of graphs from elsewhere.

    Names, types and shapes are read from the graphs, and a trial run shows the shapes and values of their outputs. Each guess is printed with its
    reason, and an option corrects it. The model is checked, and nothing is published if the check finds a problem. Look at its preview: no check sees wrong
    colours. A program (.pt2) is converted into ONNX, which needs the extra `train`; loading one can run code, so load only
    programs that you trust.
    """
    from manifold.runtime.foreign import artifacts, importing, inspection, statements
    from manifold.training import outlines
    from manifold.training.data import plain_columns

    outlines.check_name(name)
    check_folder(models)
    if task and len(task) != len(files):
        raise typer.BadParameter(
            f"{len(task)} tasks for {len(files)} files; give one for each file", param_hint="--task"
        )
    if wrong := [each for each in task or () if each not in TASKS]:
        raise typer.BadParameter(f"unknown task {shown(wrong[0])}; valid are {', '.join(TASKS)}", param_hint="--task")
    if negate and keep_sign:
        raise typer.BadParameter("it contradicts --negate; give one of them", param_hint="--keep-sign")
    spec = None if columns is None else plain_columns.read(columns)
    wishes = _wishes(
        range=range_, size=size, layout=layout, channels=_channels(channels), mean=_numbers(mean, "--mean"), std=_numbers(std, "--std"),
        input_range=input_range,
        input_mean=_numbers(input_mean, "--input-mean"), input_std=_numbers(input_std, "--input-std"), invert=invert,
        activation=activation, classes=_classes(classes), levels=levels, rows=rows, missing=missing, negate=negate or (False if keep_sign else None),
        inputs=dict(pair(each, "--input") for each in input_ or ()),
        outputs=dict(pair(each, "--output") for each in output or ()), spec=spec,
        constants={key: number_of(value, "--constant") for key, value in (pair(each, "--constant") for each in constant or ())},
        numbers={key: _stated(value) for key, value in (pair(each, "--number") for each in number or ())},
    )  # fmt: skip
    _check(wishes)
    wishes = _scaled(_scaled(wishes, ""), "input_")
    shapes = dict(_shape(each) for each in shape or ())
    with tempfile.TemporaryDirectory() as scratch:
        for path in files:
            inspection.check_file(path)
        paths = [_converted(path, Path(scratch) / str(place)) for place, path in enumerate(files)]
        paths = _apart(paths, Path(scratch))
        if spec is not None:
            paths, spec = _joined(paths, wishes, spec, Path(scratch))
            wishes = replace(wishes, spec=spec)
        read = [inspection.read(path, method, shapes, (*wishes.constants, *wishes.numbers)) for path in paths]
        if method is not None and any(graph.backend == "onnx" for graph in read):
            raise InvalidValue("--method: an ONNX graph has no methods; remove it", field="--method")
        if len({graph.backend for graph in read}) > 1:
            raise InvalidValue(
                "file: ONNX and TorchScript files cannot be tasks of one model; export all of them in one format",
                field="file",
            )
        importing.check_names(read, wishes)
        if unknown := [each for each in shapes if each not in {seen.name for graph in read for seen in graph.inputs}]:
            raise InvalidValue(f"--shape: no graph has an input {shown(unknown[0])}; correct the name", field="--shape")
        found: list[Any] = [None] * len(read)
        sections: dict[str, Any] = {}
        for place in sorted(range(len(read)), key=lambda at: importing.reads_items(read[at], wishes)):
            found[place] = importing.guess(read[place], wishes, task[place] if task else None, sections)
            sections = {**found[place].sections, **sections}
        importing.check_names(read, wishes)  # the outputs of scripts are known now
        statements.check_used(found, wishes)
        for graph, one in zip(read, found, strict=True):
            typer.echo(f"{graph.path.name}: {one.task}{f', opset {graph.opset}' if graph.opset else ''}")
            for line in one.lines:
                typer.echo(f"  {line.removeprefix(f'{graph.path.name}: ')}")
        made = artifacts.publish(read, found, wishes, name, models, description=description, license=license_)
    for note in made.notes:
        typer.echo(note if note.startswith("warning: ") else f"note: {note}", err=note.startswith("warning: "))
    typer.echo(f"{made.folder}: done; endpoints: {_endpoints(made.folder)}")
    preview = made.folder / artifacts.PREVIEW
    look = (
        f"look at {preview}, as no check sees wrong colours or a wrong polarity; then: "
        if preview.exists()
        else "next: "
    )
    typer.echo(f"{look}{_next(made.manifest, name, models)}")


def _wishes(**stated: Any) -> Wishes:
    from manifold.runtime.foreign.guesses import Wishes

    return Wishes(**{name: value for name, value in stated.items() if value is not None})


def _check(wishes: Wishes) -> None:
    """Raise InvalidValue for statements that hold for no graph."""
    from pydantic import ValidationError

    from manifold.runtime.manifest.graph_forms import GraphForm

    try:
        GraphForm.model_validate(
            {"layout": wishes.layout, "channels": wishes.channels, "activation": wishes.activation}
        )
    except ValidationError as error:
        first = error.errors()[0]
        said = str(first["msg"]).removeprefix("Value error, ")
        field = str(first["loc"][0]) if first["loc"] else said.partition(":")[0]
        raise InvalidValue(f"--{field}: {said.removeprefix(f'{field}: ')}", field=f"--{field}") from None
    if wishes.size is not None and min(wishes.size) < 1:
        raise InvalidValue(
            f"--size: {shown(list(wishes.size))} is not a size; give height and width in pixels", field="--size"
        )
    if wishes.activation not in (None, "sigmoid", "tanh"):
        raise InvalidValue(
            f"--activation: {shown(wishes.activation)} is not for images; give sigmoid or tanh", field="--activation"
        )
    if wrong := [each for each in wishes.inputs.values() if each not in SOURCES]:
        raise InvalidValue(
            f"--input: {shown(wrong[0])} is no source; give one of {', '.join(SOURCES)}", field="--input"
        )


def _scaled(wishes: Wishes, prefix: str) -> Wishes:
    """Return the statements with mean and standard deviation of pixels in [0, 1]. They may be those of pixels in the stated range.

    `prefix` is that of the fields. Raises InvalidValue for a range, a mean or a standard deviation that is not valid.
    """
    limits, mean, std = (getattr(wishes, f"{prefix}{name}") for name in ("range", "mean", "std"))
    option = f"--{prefix.replace('_', '-')}"
    if limits is not None and not -LARGEST < limits[0] < limits[1] < LARGEST:
        raise InvalidValue(
            f"{option}range: {limits[0]:g} {limits[1]:g} is not ascending; give black and then white, and --invert if white is the lower value",
            field=f"{option}range",
        )
    if (mean is None) != (std is None):
        raise InvalidValue(f"{option}mean, {option}std: only one of them is given; give both", field=f"{option}mean")
    if mean is None:
        return wishes
    if len(mean) != len(std) or not all(0 < each < LARGEST for each in std):
        raise InvalidValue(f"{option}std: give one positive number for each of {option}mean", field=f"{option}std")
    if limits is not None:
        black, white = limits
        mean = tuple((each - black) / (white - black) for each in mean)
        std = tuple(each / (white - black) for each in std)
    if wrong := [each for each in mean if not 0 <= each <= 1]:
        where = (
            "[0, 1]; for pixels in another range give it too"
            if limits is None
            else "the stated range, scaled to [0, 1]; correct one of them"
        )
        raise InvalidValue(
            f"{option}mean: {wrong[0]:g} is not the mean of pixels in {where}, such as {option}range 0 255",
            field=f"{option}mean",
        )
    scaled: dict[str, Any] = {f"{prefix}mean": mean, f"{prefix}std": std, f"{prefix}range": None}
    return replace(wishes, **scaled)


def _endpoints(folder: Path) -> str:
    from manifold.runtime import engine

    return ", ".join(engine.load(folder, device="cpu").endpoints) or "none"


def _next(manifest: Any, name: str, models: Path) -> str:
    if set(manifest.tasks) & {"decode", "sample"}:
        return command("sample", name, "-n", "64", "--seed", "1", *elsewhere(models))
    if "score" in manifest.tasks:
        return command("calibrate", name, "NORMAL", *elsewhere(models))
    if set(manifest.tasks) == {"features"} and manifest.classification is None:
        return command("evaluate", "MODEL", "--extractor", name, *elsewhere(models))
    return command("serve", *elsewhere(models))


def _converted(path: Path, scratch: Path) -> Path:
    """Return the path of a graph: for an exported program, that of the ONNX file made from it."""
    if path.suffix.lower() != ".pt2" or not path.is_file():
        return path
    from manifold.runtime import extras

    extras.check("train")
    from manifold.training.exporting import programs

    scratch.mkdir()  # one for each file, as several may have the same name
    target = scratch / f"{path.stem}.onnx"
    programs.to_onnx(path, target)
    return target


def _apart(paths: list[Path], scratch: Path) -> list[Path]:
    """Return graphs whose external weights have different names. Exporters often name those of each graph model.onnx.data, in folders of their own."""
    from manifold.runtime.graphs import onnx_file

    taken: dict[str, Path] = {}
    made = []
    for place, path in enumerate(paths):
        external = onnx_file.outline(path).external if path.suffix.lower() == ".onnx" and path.is_file() else ()
        if any(taken.get(name, path.parent) != path.parent for name in external):
            from manifold.runtime import extras

            extras.check("train")
            from manifold.training.exporting import programs

            target = scratch / f"weights-{place}" / path.name
            programs.with_weights(path, f"{place}-{path.stem}.data", target)
            path = target
        taken |= dict.fromkeys(external, path.parent)
        made.append(path)
    return made


def _joined(paths: list[Path], wishes: Wishes, spec: TableSpec, scratch: Path) -> tuple[list[Path], TableSpec]:
    """Return graphs that take whole rows, and the columns of these, in the order of the file. A graph with an input for each column is joined."""
    from manifold.runtime import extras
    from manifold.runtime.kinds.table import TableSpec
    from manifold.training.data import plain_columns

    inputs = {place: _single_inputs(path, wishes) for place, path in enumerate(paths)}
    if not any(inputs.values()):
        plain_columns.only_numbers(spec)
        return paths, spec
    extras.check("train")
    from manifold.training.exporting import columns

    found = {place: columns.columns_of(names, spec) for place, names in inputs.items() if names}
    named = {place: own for place, own in found.items() if own is not None}
    if len(named) < len(paths):
        plain_columns.only_numbers(spec)
    used = {column.name for own in named.values() for column in own.values()}
    kept = (
        spec
        if len(named) < len(paths)
        else TableSpec(columns=tuple(column for column in spec.columns if column.name in used))
    )
    made = []
    for place, path in enumerate(paths):
        if place not in named:
            made.append(path)
            continue
        target = scratch / f"rows-{place}" / path.name
        target.parent.mkdir()
        columns.join(path, named[place], kept, target, missing=wishes.missing)
        typer.echo(
            f"{path.name}: its {len(named[place])} inputs are columns of the file; they are joined to one input for rows"
        )
        made.append(target)
    return made, kept


def _single_inputs(path: Path, wishes: Wishes) -> list[str]:
    """Return the names of the inputs of an ONNX graph that may be columns: each has one number or text for each row. None are returned for other graphs."""
    from manifold.runtime.graphs.backends import signature

    if path.suffix.lower() != ".onnx":
        return []
    stated = {*wishes.constants, *wishes.numbers, *wishes.inputs}
    inputs = [(name, kind, dims) for name, kind, dims in signature(path)[0] if name not in stated]
    single = all(dims is not None and (len(dims) == 1 or (len(dims) == 2 and dims[1] == 1)) for _, _, dims in inputs)
    return (
        [name for name, *_ in inputs]
        if single and (len(inputs) > 1 or any(kind == "string" for _, kind, _ in inputs))
        else []
    )


def _numbers(text: str | None, option: str) -> tuple[float, ...] | None:
    return None if text is None else tuple(number_of(each, option) for each in text.split(","))


def _stated(text: str) -> tuple[float, ...]:
    parts = text.split(":")
    if len(parts) not in (1, 3):
        raise InvalidValue(
            f"--number: {shown(text)} is not DEFAULT or DEFAULT:LOW:HIGH, such as 0.7:0:1", field="--number"
        )
    return tuple(number_of(each, "--number") for each in parts)


def _channels(text: str | None) -> str | tuple[int, ...] | None:
    if text is None or not text.replace(",", "").isdigit():
        return text
    return tuple(int(each) for each in text.split(",") if each)


def _classes(text: str | None) -> tuple[str, ...]:
    if text is None:
        return ()
    if text.isdigit():
        if not 1 <= int(text) <= 10_000:
            raise InvalidValue(
                f"--classes: {text} is out of range; give a number from 1 to 10000, or names", field="--classes"
            )
        return tuple(str(number) for number in range(int(text)))
    names = tuple(each.strip() for each in text.split(","))
    if "" in names or len(set(names)) != len(names):
        raise InvalidValue(
            f"--classes: {shown(text)} has a name that is empty or occurs twice; give each class a name of its own",
            field="--classes",
        )
    return names


def _shape(text: str) -> tuple[str, tuple[str, tuple[int, ...] | None]]:
    """Return the name of an input, and its type and shape after the batch; None stands for a single number without a batch."""
    name, stated = pair(text, "--shape")
    found = SHAPE.fullmatch(stated)
    if found is None:
        raise InvalidValue(
            f"--shape: {shown(stated)} is not a shape; give one such as float32[B,64], or 64, without the batch",
            field="--shape",
        )
    if stated.endswith("[]"):
        return name, (found["dtype"], None)
    if re.search(r"(?<!\d)0(?!\d)", stated):
        raise InvalidValue(
            f"--shape: {shown(stated)} has an axis of the length 0; give the length of each axis", field="--shape"
        )
    dims = found["plain"].split("x") if found["plain"] else [each for each in re.split(r"[, ]+", found["dims"]) if each]
    return name, (found["dtype"] or "float32", tuple(map(int, dims)))
