"""The task that a graph from elsewhere has: its inputs and outputs as the manifest states them, with reasons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from manifold.runtime.errors import GraphError, InvalidValue, cut, shown
from manifold.runtime.foreign import examples, guesses, inspection, readers
from manifold.runtime.foreign.guesses import Guess, Wishes
from manifold.runtime.foreign.inspection import Foreign, Seen
from manifold.runtime.kinds import Kind
from manifold.runtime.manifest.graph_forms import Constant, GraphType

Array = NDArray[Any]
ROLES = ("data", "mean", "log_variance", "codes", "features", "logits", "none")
ASSUMED = "assumed"
UNSURE = "that of the images, which another graph makes as bytes"
MAKING = ("decode", "decode_codes", "sample")  # the tasks that make items


def check_names(graphs: Sequence[Foreign], wishes: Wishes) -> None:
    """Raise InvalidValue for a statement about an input or output that no graph has. The outputs of scripts are known after a trial run only."""
    known = {seen.name for graph in graphs for seen in graph.inputs}
    for option, names in (("input", wishes.inputs), ("constant", wishes.constants), ("number", wishes.numbers)):
        if wrong := [name for name in names if name not in known]:
            raise InvalidValue(
                f"--{option}: no graph has an input {shown(wrong[0])}; the inputs are {', '.join(sorted(known)) or 'none'}",
                field=option,
            )
    if wishes.rows is not None and (
        fixed := next((graph for graph in graphs if graph.rows not in (None, wishes.rows)), None)
    ):
        raise InvalidValue(
            f"--rows: {fixed.path.name} takes {fixed.rows} rows in each run, as its inputs state; remove --rows",
            field="rows",
        )
    types = {seen.name: seen.dtype for graph in graphs for seen in graph.inputs}
    values = [("constant", name, (value,)) for name, value in wishes.constants.items()]
    for option, name, stated in (*values, *(("number", name, limits) for name, limits in wishes.numbers.items())):
        for value in stated:
            _check_fits(option, name, types[name], value)
    if all(graph.outputs for graph in graphs):
        made = {seen.name for graph in graphs for seen in (*graph.outputs, *graph.dropped)}
        if wrong := [name for name in wishes.outputs if name not in made]:
            raise InvalidValue(
                f"--output: no graph has an output {shown(wrong[0])}; the outputs are {', '.join(sorted(made))}", field="output"
            )  # fmt: skip


def _check_fits(option: str, name: str, kind: str, value: float) -> None:
    """Raise InvalidValue for a number that the type of an input cannot hold."""
    try:
        Constant(dtype=cast(GraphType, kind), value=value)
    except ValueError:
        raise InvalidValue(
            f"--{option}: the input {shown(name)} is {kind} in the graph, which cannot hold {value:g}; give another number", field=option
        ) from None  # fmt: skip


def _check_roles(graph: Foreign, wishes: Wishes) -> None:
    """Raise InvalidValue for the name of a score that is stated for an output with several numbers for each item."""
    for name, array in graph.made.items():
        role = wishes.outputs.get(name, "none")
        if (
            role == "logits"
            and (numbers := int(np.prod(array.shape[1:]))) != len(wishes.classes)
            and not numbers == 1 == len(wishes.classes) - 1
        ):
            raise InvalidValue(
                f"--output: the output {shown(name)} has {numbers} numbers for each item, but there are {len(wishes.classes)} classes; correct --classes, or "
                "give another role",
                field="output",
            )
        if role not in ROLES and (numbers := int(np.prod(array.shape[1:]))) > 1:
            raise InvalidValue(
                f"--output: {shown(role)} would be the name of a score, but the output {shown(name)} has {numbers} numbers for each item; give one of "
                f"{', '.join(ROLES)}",
                field="output",
            )


def guess(graph: Foreign, wishes: Wishes, task: str | None, sections: Mapping[str, Any]) -> Guess:
    """Return the task of a graph. `sections` are those that earlier graphs have determined. Raises InvalidValue for what cannot be guessed."""
    spec = sections.get("data")
    if not graph.inputs:
        raise InvalidValue(
            f"{graph.path.name}: the graph has no inputs, so that requests could not state seeds or numbers of items; export it with its noise as an input",
            field="file",
        )
    for seen in graph.inputs:
        _check_axes(graph, examples.sized(seen, wishes), wishes)
    trial = {seen.name: examples.example(seen, wishes) for seen in graph.inputs}
    single = _run(graph, trial, wishes)
    _check_roles(graph, wishes)
    able = _items(graph, wishes)
    item = next((each for each in able if wishes.outputs.get(each[0].name) == "data"), able[0] if able else None)
    makes = item is not None and (task in MAKING if task else _makes_items(graph, wishes, item[1]))
    made = Guess(task or "")
    if single:
        made.rows = 1
        made.lines.append(f"{graph.path.name}: one row in each run, as the graph cannot take {inspection.ROWS}")
    _inputs(graph, wishes, made, spec, makes=makes)
    if makes and len(able) > 1 and "data" not in wishes.outputs.values():
        raise InvalidValue(
            f"{graph.path.name}: several outputs have the shape of {'images' if wishes.spec is None else 'rows'}: "
            f"{', '.join(str(seen) for seen, _ in able)}; state which one, such as --output {cut(able[-1][0].name)}=data",
            field="output",
        )
    if makes and item is not None:
        _item_output(graph, wishes, made, spec, *item)
    else:
        readers.outputs(graph, wishes, made, sections)
    made.lines += [f"{graph.path.name}: not used: output {seen} (its type cannot be served)" for seen in graph.dropped]
    return made


def _run(graph: Foreign, given: Mapping[str, Array], wishes: Wishes) -> bool:
    """Run the graph on examples of its inputs. Return True if it takes only one row, for which it was exported. Raises GraphError if it cannot run."""
    try:
        inspection.run(graph, given)
    except GraphError as error:
        if wishes.rows is not None or graph.rows is not None:
            raise
        try:
            inspection.run(graph, {seen.name: examples.example(seen, replace(wishes, rows=1)) for seen in graph.inputs})
        except GraphError:
            stated = [f"--{name}" for name in ("classes", "levels") if getattr(wishes, name)]
            advice = f"; if an index is out of range, correct {' or '.join(stated)}" * bool(stated)
            raise GraphError(f"{error.message}{advice}", graph=graph.path.name) from None
        return True
    return False


def _items(graph: Foreign, wishes: Wishes) -> list[tuple[Seen, guesses.Picture | None]]:
    """Return the outputs that have the shape of images, each with the place of the image, or the outputs that have the shape of rows."""
    able = [seen for seen in graph.outputs if wishes.outputs.get(seen.name, "data") == "data"]
    if wishes.spec is not None:
        return [(seen, None) for seen in able if guesses.holds_rows(seen, wishes.spec)]
    pictures = [(seen, guesses.picture(seen.dims, wishes)) for seen in able]
    return [(seen, picture) for seen, picture in pictures if picture is not None]


def _makes_items(graph: Foreign, wishes: Wishes, made: guesses.Picture | None) -> bool:
    """Return whether a graph with an item among its outputs makes items of other inputs. `made` is the place of the image; None stands for a row."""
    stated = {wishes.inputs.get(seen.name) for seen in graph.inputs}
    if "data" in stated or "latent" in stated:
        return "data" not in stated
    for seen in graph.inputs:
        if not guesses.reads(examples.sized(seen, wishes), wishes):
            continue  # stated to be another source, or the name or the channels are those of a latent
        read = guesses.picture(examples.sized(seen, wishes).dims, wishes)
        if read is None or made is None:
            return False  # rows are read
        larger = (
            read.height * read.width > made.height * made.width and read.layout != "NHW"
        )  # (B, 14, 512) is a latent with 14 parts
        if larger or (read.height, read.width) == (made.height, made.width):
            return False  # an encoder, whose output is a small map, or a graph from images to images
    return True


def reads_items(graph: Foreign, wishes: Wishes) -> bool:
    """Return whether a graph reads items, by its inputs. Graphs that make items are guessed first, since they show the range."""
    return any(guesses.reads(seen, wishes) for seen in graph.inputs)


def _check_axes(graph: Foreign, seen: Seen, wishes: Wishes) -> None:
    """Raise InvalidValue for an input with several axes without a fixed length: only the batch may have none."""
    free = [dim for dim in seen.dims or () if not isinstance(dim, int)]
    if len(free) > 1 and seen.name not in (*wishes.constants, *wishes.numbers):
        raise InvalidValue(
            f"{graph.path.name}: input {seen}: several axes have no fixed length, but only the batch may have none; give --size HEIGHT WIDTH for images, or "
            f"the shape of one item, --shape {cut(seen.name)}={'x'.join(str(dim) if isinstance(dim, int) else '8' for dim in (seen.dims or ())[1:])}",
            field="shape",
        )


def _inputs(graph: Foreign, wishes: Wishes, made: Guess, spec: Mapping[str, Any] | None, *, makes: bool) -> None:
    taken: set[str] = set()
    sources: list[tuple[Seen, str]] = []
    for seen in graph.inputs:
        where = f"{graph.path.name}: input {seen}"
        if seen.name in wishes.constants:
            batch = bool(seen.dims) and not isinstance((seen.dims or ("B",))[0], int)
            value = inspection.example(seen, 1, value=wishes.constants[seen.name])
            made.constants[seen.name] = {
                "dtype": seen.dtype,
                "value": (value[0] if batch else value).tolist(),
                "batch": batch,
            }
            made.lines.append(f"{where}: always {wishes.constants[seen.name]:g}, as stated")
            continue
        if seen.name in wishes.numbers:
            made.inputs.append(_number(seen, wishes.numbers[seen.name]))
            made.lines.append(
                f"{where}: the number {cut(seen.role)} of a request, by default {wishes.numbers[seen.name][0]:g}"
            )
            continue
        if seen.name in graph.unused and seen.name not in wishes.inputs:
            made.constants[seen.name] = _unused(seen)
            made.lines.append(f"{where}: always 0 (no operator of the graph uses it)")
            continue
        source, why = guesses.source_of(seen, graph, wishes, makes=makes, taken=taken)
        taken.add(source)
        sources.append((seen, source))
        made.lines.append(f"{where}: {source} ({why})")
        if source == "latent" and guesses.STYLES.search(seen.word):
            made.lines.append(
                "  warning: by its name, it is the output of a mapping network; it gets normal numbers, which are others: export both networks as one graph"
            )
    latents = [seen for seen, source in sources if source == "latent"]
    for seen, source in sources:
        made.inputs.append(_input(graph, seen, source, wishes, made, spec, named=len(latents) > 1))
    roles = [tensor["role"] for tensor in made.inputs]
    if twice := [role for role in roles if roles.count(role) > 1]:
        raise InvalidValue(
            f"{graph.path.name}: two inputs would have the name {shown(twice[0])} in requests; rename one of them",
            field="input",
        )
    order = [seen.name for seen in graph.inputs]
    made.inputs.sort(key=lambda tensor: order.index(tensor.get("name", tensor["role"])))


def _unused(seen: Seen) -> dict[str, Any]:
    """Return the constant for an input without influence."""
    dims = seen.dims or ()
    batch = bool(dims) and not isinstance(dims[0], int)
    shape = [dim if isinstance(dim, int) else 1 for dim in dims[batch:]]
    return {"dtype": seen.dtype, "value": np.zeros(shape, seen.dtype).tolist(), "batch": batch}


def _number(seen: Seen, stated: tuple[float, ...]) -> dict[str, Any]:
    source = "integer" if np.dtype(seen.dtype).kind in "iu" else "number"
    content, spec = guesses.tensor(seen.role, seen, (), source)
    content |= dict(zip(("default", "minimum", "maximum"), stated, strict=False))
    return guesses.with_form(content, guesses.form_of(spec, seen, None))


def _input(
    graph: Foreign, seen: Seen, source: str, wishes: Wishes, made: Guess, spec: Mapping[str, Any] | None, *, named: bool
) -> dict[str, Any]:
    """Return an input of the manifest. `named` says that there are several latents, which have the names of the graph as roles."""
    role = source if source in ("data", "condition", "codes") or (source == "latent" and not named) else seen.role
    if source == "data" and wishes.spec is None:
        wishes = wishes.of_inputs
        found = guesses.picture(examples.sized(seen, wishes).dims, wishes)
        if found is None:
            raise InvalidValue(
                f"input {seen}: its shape is not that of images{_flat_output(graph, seen)}; for images as input give --size HEIGHT WIDTH"
                f"{guesses.size_hint(seen)}, or --layout; for rows --columns FILE; for noise from which items are made, --input {cut(seen.name)}=latent",
                field="size",
            )
        limits, why = _limits(seen, wishes, spec)
        section = dict(spec) if spec else guesses.image_section(found, wishes.range or (0.0, 1.0), wishes)
        made.sections["data"] = section
        stated = limits if limits and (np.dtype(seen.dtype).kind in "iu" or list(limits) != section["range"]) else None
        form = guesses.image_form(found, seen.dtype, section["channels"], wishes, output=False, limits=stated)
        made.lines.append(
            f"  {found.width}x{found.height} pixels, {found.described}, {found.layout}; range {list(limits or section['range'])} ({why})"
        )
        if why in (ASSUMED, UNSURE):
            made.lines.append(
                "  warning: this range is a guess; give --input-range, or --input-mean and --input-std, as in the training of the model"
            )
        content, _ = guesses.tensor(role, seen, (section["channels"], found.height, found.width), source)
        return guesses.with_form(content, form)
    if source == "data":
        assert wishes.spec is not None
        made.sections["data"] = wishes.spec.model_dump(mode="json", exclude_none=True)
        _check_columns(graph, examples.sized(seen, wishes), wishes.spec)
        content, tensor = guesses.tensor(role, seen, wishes.spec.shape, source)
        if wishes.missing:
            content["missing"] = True
        return guesses.with_form(content, guesses.form_of(tensor, seen, wishes.spec))
    if source == "condition":
        if not wishes.classes:
            raise InvalidValue(
                f"input {seen}: give the classes, --classes with their number or names; for another condition write the manifest by hand", field="classes"
            )  # fmt: skip
        content, tensor = guesses.tensor(role, seen, (len(wishes.classes),), source)
        return guesses.with_form(content, guesses.form_of(tensor, seen, None, classes=len(wishes.classes)))
    shape = guesses.latent_shape(seen)
    if source == "latent":
        latent = {"size": shape[0]} if len(shape) == 1 else {"shape": shape}
        made.sections["latent"] = {**made.sections.get("latent", {}), role: latent} if named else latent
    elif source == "codes":
        made.sections["codes"] = {"shape": shape, "levels": wishes.levels}
    content, tensor = guesses.tensor(role, seen, shape, source)
    return guesses.with_form(content, guesses.form_of(tensor, seen, None))


def _check_columns(graph: Foreign, seen: Seen, spec: Kind) -> None:
    """Raise InvalidValue if an input of rows has another number of values than the file has columns."""
    have = (seen.dims or ())[1:]
    if have and all(isinstance(size, int) for size in have) and have != spec.shape:
        raise InvalidValue(
            f"--columns: the file has {spec.shape[0]} columns, but the input {seen} of {graph.path.name} takes {'x'.join(map(str, have))} numbers; give a file "
            "with the columns of the graph alone, in their order",
            field="--columns",
        )


def _limits(seen: Seen, wishes: Wishes, spec: Mapping[str, Any] | None) -> tuple[tuple[float, float] | None, str]:
    """Return the values of black and white in an input, and the reason; None if they are those of the images."""
    if wishes.range is not None:
        return wishes.range, "as stated"
    if wishes.mean is not None and np.dtype(seen.dtype).kind in "iu":
        raise InvalidValue(
            f"input {seen}: whole numbers cannot hold pixels after mean and standard deviation; the graph normalises them itself: remove --mean and --std",
            field="mean",
        )
    if wishes.mean is not None:
        return None, "before mean and standard deviation"
    if seen.dtype == "uint8":
        return (0.0, 255.0), "the type is uint8"
    if np.dtype(seen.dtype).kind in "iu":
        raise InvalidValue(
            f"input {seen}: pixels of this type need a range; give --range BLACK WHITE, such as --range 0 255", field="range"
        )  # fmt: skip
    if spec and list(spec["range"]) == [0, 255]:
        return None, UNSURE
    return None, "that of the images" if spec else ASSUMED


def _flat_output(graph: Foreign, seen: Seen) -> str:
    """Return a hint at an output that may hold images in a form that was not recognised, for an error about an input with the name of a latent."""
    if guesses.LATENTS.search(seen.word) is None:
        return ""
    for each in graph.outputs:
        if hint := guesses.size_hint(each):
            return f"; if the output {each} holds images, give --size{hint.partition('--size')[2]}"
        if each.dims is not None and len(each.dims) == 4:
            return f"; if the output {each} holds images, give the places of the channels to show, such as --channels 0,1,2, or --layout"
    return ""


def _item_output(
    graph: Foreign,
    wishes: Wishes,
    made: Guess,
    spec: Mapping[str, Any] | None,
    seen: Seen,
    found: guesses.Picture | None,
) -> None:
    """State the output that holds the items, and that others are not used. `found` is the place of the image; None stands for a row."""
    sources = {tensor["source"] for tensor in made.inputs}
    made.task = made.task or ("decode" if "latent" in sources else "decode_codes" if "codes" in sources else "sample")
    if found is None:
        made.outputs.append(_row_output(graph, wishes, made, seen))
    else:
        made.outputs.append(_image_output(graph, wishes, made, spec, seen, found))
    others = [str(each) for each in graph.outputs if each.name != seen.name]
    if others:
        made.lines.append(f"{graph.path.name}: not used: {', '.join(others)}")


def _row_output(graph: Foreign, wishes: Wishes, made: Guess, seen: Seen) -> dict[str, Any]:
    assert wishes.spec is not None
    made.sections["data"] = wishes.spec.model_dump(mode="json", exclude_none=True)
    content, tensor = guesses.tensor("data", seen, wishes.spec.shape)
    made.lines.append(
        f"{graph.path.name}: output {seen}: rows, one number for each of the {wishes.spec.shape[0]} columns in the order of the file"
    )
    return guesses.with_form(content, guesses.form_of(tensor, seen, wishes.spec))


def _image_output(
    graph: Foreign, wishes: Wishes, made: Guess, spec: Mapping[str, Any] | None, seen: Seen, found: guesses.Picture
) -> dict[str, Any]:
    limits, why = guesses.limits_of(graph.made[seen.name], seen.dtype, wishes)
    section = dict(spec) if spec else guesses.image_section(found, limits, wishes)
    made.sections["data"] = section
    whole = np.dtype(seen.dtype).kind in "iu"
    differs = (whole and (seen.dtype != "uint8" or wishes.range is not None)) or (
        list(limits) != section["range"] and seen.dtype != "uint8" and wishes.mean is None
    )
    form = guesses.image_form(
        found, seen.dtype, section["channels"], wishes, output=True, limits=limits if differs else None
    )
    content, _ = guesses.tensor("data", seen, (section["channels"], found.height, found.width))
    made.lines.append(
        f"{graph.path.name}: output {seen}: images of {found.width}x{found.height} pixels, {found.described}, {found.layout}; range {list(limits)} "
        f"({why})"
    )
    doubts = guesses.doubts(graph.made[seen.name], wishes)
    made.lines += doubts
    made.doubtful |= bool(doubts)
    return guesses.with_form(content, form)
