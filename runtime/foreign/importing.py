"""The task that a graph from elsewhere has: its inputs and outputs as the manifest states them, with reasons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifold.runtime.errors import InvalidValue, cut, shown
from manifold.runtime.foreign import guesses, inspection
from manifold.runtime.foreign.guesses import Guess, Wishes
from manifold.runtime.foreign.inspection import Foreign, Seen

Array = NDArray[Any]
IMAGES = "images made of images"  # a reason why an output is not used
MAKING = ("decode", "decode_codes", "sample")  # the tasks that make items


def check_names(graphs: Sequence[Foreign], wishes: Wishes) -> None:
    """Raise InvalidValue for a statement about an input that no graph has."""
    known = {seen.name for graph in graphs for seen in graph.inputs}
    for option, names in (("input", wishes.inputs), ("constant", wishes.constants), ("number", wishes.numbers)):
        if wrong := [name for name in names if name not in known]:
            raise InvalidValue(
                f"--{option}: no graph has an input {shown(wrong[0])}; the inputs are {', '.join(sorted(known)) or 'none'}",
                field=option,
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
        _check_axes(graph, _sized(seen, wishes), wishes)
    examples = {seen.name: _example(seen, wishes) for seen in graph.inputs}
    inspection.run(graph, examples)
    found = {
        seen.name: (seen, guesses.picture(seen.dims, wishes)) for seen in graph.outputs if _may_be_data(seen, wishes)
    }
    shown = [(seen, one) for seen, one in found.values() if one is not None]
    image = next((each for each in shown if wishes.outputs.get(each[0].name) == "data"), shown[0] if shown else None)
    makes = image is not None and (task in MAKING if task else _makes_images(graph, wishes, image[1]))
    made = Guess(task or "")
    _inputs(graph, wishes, made, spec, makes_images=makes)
    if makes and len(shown) > 1 and "data" not in wishes.outputs.values():
        raise InvalidValue(
            f"{graph.path.name}: several outputs have the shape of images: {', '.join(str(seen) for seen, _ in shown)}; state which one, such as "
            f"--output {cut(shown[-1][0].name)}=data",
            field="output",
        )
    if makes and image is not None:
        _image_output(graph, wishes, made, spec, *image)
    else:
        _other_outputs(graph, wishes, made, sections)
    made.lines += [f"{graph.path.name}: not used: output {seen} (its type cannot be served)" for seen in graph.dropped]
    return made


def _makes_images(graph: Foreign, wishes: Wishes, made: guesses.Picture) -> bool:
    """Return whether a graph with an image among its outputs makes images of other inputs."""
    if wishes.spec is not None or "data" in (wishes.inputs.get(seen.name) for seen in graph.inputs):
        return False
    for seen in graph.inputs:
        read = guesses.picture(_sized(seen, wishes).dims, wishes)
        if read is None or not guesses.reads(_sized(seen, wishes), wishes):
            continue  # stated to be another source, or the name or the channels are those of a latent
        larger = (
            read.height * read.width > made.height * made.width and read.layout != "NHW"
        )  # (B, 14, 512) is a latent with 14 parts
        if larger or (read.height, read.width) == (made.height, made.width):
            return False  # an encoder, whose output is a small map, or a graph from images to images
    return True


def reads_items(graph: Foreign, wishes: Wishes) -> bool:
    """Return whether a graph reads items, by its inputs. Graphs that make items are guessed first, since they show the range."""
    return wishes.spec is not None or any(guesses.reads(seen, wishes) for seen in graph.inputs)


def _example(seen: Seen, wishes: Wishes) -> Array:
    value = wishes.constants.get(seen.name)
    if seen.name in wishes.numbers:
        value = wishes.numbers[seen.name][0]
    high = wishes.levels or len(wishes.classes) or 2
    return inspection.example(_sized(seen, wishes), inspection.ROWS, value=value, high=high)


def _sized(seen: Seen, wishes: Wishes) -> Seen:
    """Return an input with the free axes of an image at the stated size, or those of rows at the number of columns."""
    if wishes.spec is not None and seen.dims is not None and len(seen.dims) == 2 == len(wishes.spec.shape) + 1:
        columns = seen.dims[1] if isinstance(seen.dims[1], int) else wishes.spec.shape[0]
        return Seen(seen.name, seen.dtype, (seen.dims[0], columns))
    if wishes.size is None or seen.dims is None or len(seen.dims) != 4 or not guesses.reads(seen, wishes):
        return seen
    of = dict(zip(wishes.layout or ("NHWC" if seen.dims[3] in guesses.FEW else "NCHW"), range(4), strict=True))
    dims = list(seen.dims)
    for letter, size in zip("HW", wishes.size, strict=True):
        dims[of[letter]] = dims[of[letter]] if isinstance(dims[of[letter]], int) else size
    return Seen(seen.name, seen.dtype, tuple(dims))


def _check_axes(graph: Foreign, seen: Seen, wishes: Wishes) -> None:
    """Raise InvalidValue for an input with several axes without a fixed length: only the batch may have none."""
    free = [dim for dim in seen.dims or () if not isinstance(dim, int)]
    if len(free) > 1 and seen.name not in (*wishes.constants, *wishes.numbers):
        raise InvalidValue(
            f"{graph.path.name}: input {seen}: several axes have no fixed length, but only the batch may have none; give --size HEIGHT WIDTH for images, or "
            f"the shape of one item, --shape {cut(seen.name)}={'x'.join(str(dim) if isinstance(dim, int) else '8' for dim in (seen.dims or ())[1:])}",
            field="shape",
        )


def _may_be_data(seen: Seen, wishes: Wishes) -> bool:
    return wishes.outputs.get(seen.name, "data") == "data"


def _inputs(graph: Foreign, wishes: Wishes, made: Guess, spec: Mapping[str, Any] | None, *, makes_images: bool) -> None:
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
                f"{where}: the number {cut(seen.name)} of a request, by default {wishes.numbers[seen.name][0]:g}"
            )
            continue
        if seen.name in graph.unused and seen.name not in wishes.inputs:
            made.constants[seen.name] = _unused(seen)
            made.lines.append(f"{where}: always 0 (no operator of the graph uses it)")
            continue
        source, why = guesses.source_of(seen, graph, wishes, makes_images=makes_images, taken=taken)
        taken.add(source)
        sources.append((seen, source))
        made.lines.append(f"{where}: {source} ({why})")
    latents = [seen for seen, source in sources if source == "latent"]
    for seen, source in sources:
        made.inputs.append(_input(seen, source, wishes, made, spec, named=len(latents) > 1))
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
    content, spec = guesses.tensor(seen.name, seen, (), source)
    content |= dict(zip(("default", "minimum", "maximum"), stated, strict=False))
    return guesses.with_form(content, guesses.form_of(spec, seen, None))


def _input(
    seen: Seen, source: str, wishes: Wishes, made: Guess, spec: Mapping[str, Any] | None, *, named: bool
) -> dict[str, Any]:
    """Return an input of the manifest. `named` says that there are several latents, which have the names of the graph as roles."""
    role = source if source in ("data", "condition", "codes") or (source == "latent" and not named) else seen.name
    if source == "data" and wishes.spec is None:
        found = guesses.picture(_sized(seen, wishes).dims, wishes)
        if found is None:
            raise InvalidValue(
                f"input {seen}: its shape is not that of images; for images give --size HEIGHT WIDTH{guesses.size_hint(seen)}, or --layout; for rows give "
                "--columns FILE",
                field="size",
            )
        limits, why = (
            (wishes.range, "as stated")
            if wishes.range
            else ((0.0, 255.0), "the type is uint8")
            if seen.dtype == "uint8"
            else (None, "")
        )
        if limits is None and np.dtype(seen.dtype).kind in "iu":
            raise InvalidValue(
                f"input {seen}: pixels of this type need a range; give --range BLACK WHITE, such as --range 0 255",
                field="range",
            )
        section = dict(spec) if spec else guesses.image_section(found, wishes.range or (0.0, 1.0), wishes)
        made.sections["data"] = section
        if not why:
            why = (
                "that of the images"
                if spec
                else "before mean and standard deviation"
                if wishes.mean
                else "assumed; --range states another, or --mean and --std"
            )
        form_limits = limits if limits and (_needs_range(seen) or list(limits) != section["range"]) else None
        form = guesses.image_form(found, seen.dtype, section["channels"], wishes, output=False, limits=form_limits)
        made.lines.append(
            f"  {found.width}x{found.height} pixels, {found.channels} channel(s), {found.layout}; range {list(limits or section['range'])} ({why})"
        )
        content, _ = guesses.tensor(role, seen, (section["channels"], found.height, found.width), source)
        return guesses.with_form(content, form)
    if source == "data":
        assert wishes.spec is not None
        made.sections["data"] = wishes.spec.model_dump(mode="json", exclude_none=True)
        content, tensor = guesses.tensor(role, seen, wishes.spec.shape, source)
        return guesses.with_form(content, guesses.form_of(tensor, seen, wishes.spec))
    if source == "condition":
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


def _needs_range(seen: Seen) -> bool:
    """Return whether a type needs a range, because its pixels are whole numbers."""
    return np.dtype(seen.dtype).kind in "iu" and seen.dtype != "uint8"


def _image_output(
    graph: Foreign, wishes: Wishes, made: Guess, spec: Mapping[str, Any] | None, seen: Seen, found: guesses.Picture
) -> None:
    sources = {tensor["source"] for tensor in made.inputs}
    made.task = made.task or ("decode" if "latent" in sources else "decode_codes" if "codes" in sources else "sample")
    limits, why = guesses.limits_of(graph.made[seen.name], seen.dtype, wishes)
    section = dict(spec) if spec else guesses.image_section(found, limits, wishes)
    made.sections["data"] = section
    differs = _needs_range(seen) or (list(limits) != section["range"] and seen.dtype != "uint8" and wishes.mean is None)
    form = guesses.image_form(
        found, seen.dtype, section["channels"], wishes, output=True, limits=limits if differs else None
    )
    content, _ = guesses.tensor("data", seen, (section["channels"], found.height, found.width))
    made.outputs.append(guesses.with_form(content, form))
    made.lines.append(
        f"{graph.path.name}: output {seen}: images of {found.width}x{found.height} pixels, {found.channels} channel(s), {found.layout}; range {list(limits)} "
        f"({why})"
    )
    others = [str(each) for each in graph.outputs if each.name != seen.name]
    if others:
        made.lines.append(f"{graph.path.name}: not used: {', '.join(others)}")


def _other_outputs(graph: Foreign, wishes: Wishes, made: Guess, sections: Mapping[str, Any]) -> None:
    """Guess the roles of the outputs of a graph that reads items."""
    reasons = []
    for seen in graph.outputs:
        taken = {tensor["role"] for tensor in made.outputs}
        role, why = _role(seen, graph.made[seen.name], wishes, taken, made.task, sections)
        if role is None:
            reasons.append(f"{seen}: {why}")
            made.lines.append(f"{graph.path.name}: not used: output {seen} ({why})")
            continue
        made.outputs.append(_output(seen, role, graph.made[seen.name], wishes, made))
        made.lines.append(f"{graph.path.name}: output {seen}: {role} ({why})")
    roles = {tensor["role"] for tensor in made.outputs}
    found = (
        "encode"
        if roles & {"mean", "codes", "latent"}
        else "features"
        if roles & {"features", "logits"}
        else "score"
        if roles
        else None
    )
    if found is None and any(reason.endswith(f": {IMAGES}") for reason in reasons):
        name = cut(next(tensor.get("name", tensor["role"]) for tensor in made.inputs if tensor["source"] == "data"))
        raise InvalidValue(
            f"{graph.path.name}: it makes images of images, which no endpoint serves; if the input is noise, give --input {name}=latent; if it encodes and "
            "decodes, export the two parts as two files; for another network write a manifest with the task translate, which is served over /v2",
            field="input",
        )
    if found is None:
        raise InvalidValue(
            f"{graph.path.name}: no output could be used ({'; '.join(reasons) or 'there is none of a type that can be served'}); state the role of one, such "
            f"as --output {cut(graph.outputs[0].name) if graph.outputs else 'y'}=mean",
            field="output",
        )
    made.task = made.task or found
    if made.task == "score":
        names = {seen.name for seen in graph.outputs}
        if wishes.negate is None and names >= {"label", "scores"}:
            raise InvalidValue(
                f"{graph.path.name}: the outputs label and scores are those of scikit-learn's outlier detectors, whose scores are higher for more normal rows; "
                "give --negate, or --keep-sign if the scores are higher for anomalies",
                field="negate",
            )
        terms = [tensor["role"] for tensor in made.outputs]
        made.sections["scoring"] = {"score": terms[0], "terms": [{"name": term, "kind": "distance"} for term in terms]}
        meaning = (
            "more normal: the sign is changed" if wishes.negate else "more anomalous; --negate states the opposite"
        )
        made.lines.append(f"  a higher value of {terms[0]} counts as {meaning}")
    if "logits" in roles and wishes.classes:
        made.sections["classification"] = {}


def _role(
    seen: Seen, values: Array, wishes: Wishes, taken: set[str], task: str, sections: Mapping[str, Any]
) -> tuple[str | None, str]:
    if seen.name in wishes.outputs:
        stated = wishes.outputs[seen.name]
        return (None, "as stated") if stated == "none" else (stated, "as stated")
    size = int(np.prod(values.shape[1:]))
    found = guesses.picture(seen.dims, wishes) if values.ndim == 4 else None
    if (
        seen.dtype in ("uint8", "float32", "float16")
        and found is not None
        and found.channels in (1, 3)
        and task not in ("encode", "features")
        and not guesses.MEANS.search(seen.name)
    ):
        return None, IMAGES
    if values.dtype.kind in "iu":
        if size > 1 and wishes.levels:
            return "codes", "whole numbers: codes"
        return None, "whole numbers" + "; if they are codes, give --levels with the number of different codes" * (
            size > 1
        )
    if values.dtype.kind != "f":
        return None, f"the type is {seen.dtype}"
    if size == 1:
        return (
            (None, "one number; a score is known already")
            if taken
            else (seen.name if seen.name.isidentifier() else "score", "one number for each item: a score")
        )
    if wishes.classes and size == len(wishes.classes):
        if values.min() >= 0 and values.max() <= 1 and not _are_probabilities(values):
            raise InvalidValue(
                f"output {seen}: its values are between 0 and 1 but do not add up to 1, as those of a sigmoid; /classify needs logits, or probabilities that "
                f"add up to 1: export the logits, or state --output {cut(seen.name)}=features",
                field=seen.name,
            )
        return "logits", "one number for each class"
    if guesses.VARIANCES.search(seen.name) and "mean" in taken:
        return "log_variance", "by its name"
    if guesses.MEANS.search(seen.name) and "mean" not in taken:
        return "mean", "by its name"
    if task == "encode" and not {"mean", "log_variance"} <= taken:
        return ("log_variance" if "mean" in taken else "mean"), "the task encode is stated"
    if "mean" not in taken and task != "features" and size == _size(sections.get("latent", {})):
        return "mean", "as many numbers as the latent has"
    if guesses.LOGITS.search(seen.name) or (values.ndim == 2 and _are_probabilities(values)):
        return None, f"it looks like {size} classes; give --classes {size}, or their names"
    if "mean" not in taken and "features" not in taken:
        return "features", "numbers for each item"
    return None, "further numbers"


def _size(latent: Mapping[str, Any]) -> int | None:
    """Return how many numbers a latent of the section `latent` has; None if there is none, or several."""
    size = latent.get("size")
    return (
        size
        if isinstance(size, int)
        else int(np.prod(latent["shape"]))
        if isinstance(latent.get("shape"), list)
        else None
    )


def _output(seen: Seen, role: str, values: Array, wishes: Wishes, made: Guess) -> dict[str, Any]:
    shape = list(values.shape[1:])
    long = [size for size in shape if size > 1]
    if role == "mean":
        shape = long if len(long) == 1 else shape
        made.sections["latent"] = {"size": shape[0]} if len(shape) == 1 else {"shape": shape}
    elif role == "codes":
        made.sections["codes"] = {"shape": shape, "levels": wishes.levels}
    elif len(long) <= 1 and role != "features":
        shape = long
    content, tensor = guesses.tensor(role, seen, shape)
    form = guesses.form_of(tensor, seen, None)
    if role == "logits" and _are_probabilities(values):
        form["activation"] = "log"
        made.lines.append("  the values of a trial run are probabilities; their logarithm is used as logits")
    if wishes.negate and not long:
        form["negate"] = True
    return guesses.with_form(content, form)


def _are_probabilities(values: Array) -> bool:
    rows = values.reshape(len(values), -1).astype(np.float64)
    return bool((rows >= 0).all() and np.allclose(rows.sum(1), 1, atol=1e-3))
