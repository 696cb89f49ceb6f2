"""An artifact made of graphs from elsewhere: the manifest with its reasons, the files, the check and the sheet."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifold.runtime import checks, lineage, repository
from manifold.runtime import manifest as manifests
from manifold.runtime.errors import ArtifactError, InvalidValue, cut, shown
from manifold.runtime.foreign import guesses, inspection
from manifold.runtime.foreign.guesses import Guess, Wishes
from manifold.runtime.foreign.inspection import Foreign, Seen
from manifold.runtime.graphs import onnx_file
from manifold.runtime.manifest import Manifest
from manifold.runtime.published import is_recorded

Array = NDArray[Any]
PREVIEW = "preview.png"
IMAGES = "images made of images"  # a reason why an output is not used
MAKING = ("decode", "decode_codes", "sample")  # the tasks that make items


@dataclass
class Imported:
    """A published artifact, with the reasons for its manifest and what the check found."""

    folder: Path
    manifest: Manifest
    lines: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


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
    image = next(
        (
            (seen, found)
            for seen in graph.outputs
            if (found := guesses.picture(seen.dims, wishes)) is not None and _may_be_data(seen, wishes)
        ),
        None,
    )
    reads = reads_items(graph, wishes)
    makes = image is not None and (task in MAKING if task else not reads)
    made = Guess(task or "")
    _inputs(graph, wishes, made, spec, makes_images=makes)
    if makes and image is not None:
        _image_output(graph, wishes, made, spec, *image)
    else:
        _other_outputs(graph, wishes, made, sections)
    made.lines += [f"{graph.path.name}: not used: output {seen} (its type cannot be served)" for seen in graph.dropped]
    return made


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
        return Seen(seen.name, seen.dtype, (seen.dims[0], wishes.spec.shape[0]))
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
        form_limits = limits if spec and limits and list(limits) != section["range"] else None
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


def _image_output(
    graph: Foreign, wishes: Wishes, made: Guess, spec: Mapping[str, Any] | None, seen: Seen, found: guesses.Picture
) -> None:
    sources = {tensor["source"] for tensor in made.inputs}
    made.task = made.task or ("decode" if "latent" in sources else "decode_codes" if "codes" in sources else "sample")
    limits, why = guesses.limits_of(graph.made[seen.name], seen.dtype, wishes)
    section = dict(spec) if spec else guesses.image_section(found, limits, wishes)
    made.sections["data"] = section
    differs = list(limits) != section["range"] and seen.dtype != "uint8" and wishes.mean is None
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


# --- the artifact -------------------------------------------------------------------------------------------------------------


def manifest_of(
    name: str, version: int, graphs: Sequence[Foreign], found: Sequence[Guess], wishes: Wishes, **texts: str
) -> dict[str, Any]:
    """Return the manifest of graphs whose tasks have been guessed. Raises InvalidValue if two graphs have the same task, or contradict each other."""
    content: dict[str, Any] = {
        "name": name,
        "version": version,
        **{key: text for key, text in texts.items() if text},
        "tasks": {},
    }
    if graphs[0].backend != "onnx":
        content["backend"] = graphs[0].backend
    for graph, one in zip(graphs, found, strict=True):
        if one.task in content["tasks"]:
            raise InvalidValue(
                f"{graph.path.name}: this is a second graph for the task {one.task}; state the tasks, such as --task encode",
                field="task",
            )
        task: dict[str, Any] = {"graph": f"{one.task}{graph.path.suffix}", "inputs": one.inputs, "outputs": one.outputs}
        if graph.method:
            task["method"] = graph.method
        if one.constants:
            task["constants"] = one.constants
        content["tasks"][one.task] = task
        for section, value in one.sections.items():
            if section in content and content[section] != value:
                raise InvalidValue(
                    f"{graph.path.name}: its section {section} {value} differs from that of the other graphs, {content[section]}; state what differs, or "
                    "import the graphs as two models", field=section,
                )  # fmt: skip
            content[section] = value
    if wishes.classes:
        content["classes"] = list(wishes.classes)
    content["provenance"] = {
        "imported": {
            one.task: {"file": graph.path.name, "opset": graph.opset} for graph, one in zip(graphs, found, strict=True)
        }
    }
    return content


def place(graphs: Sequence[Foreign], found: Sequence[Guess], folder: Path) -> None:
    """Copy the graphs and their external weights into a folder. Raises ArtifactError if two graphs have different weights in files of the same name."""
    for graph, one in zip(graphs, found, strict=True):
        shutil.copyfile(graph.path, folder / f"{one.task}{graph.path.suffix}")
        for location in onnx_file.outline(graph.path).external if graph.backend == "onnx" else ():
            source = repository.place(graph.path.parent, location)
            target = folder / location
            if source is not None or not (graph.path.parent / location).is_file():
                raise ArtifactError(
                    f"{graph.path.name}: its weights are in {cut(location)}, which is not a file beside it; export it with weights in one file"
                )
            if target.exists() and repository.digest(target) != repository.digest(graph.path.parent / location):
                raise ArtifactError(
                    f"{cut(location)}: two graphs have different weights in files of this name; export one of them with weights in another file"
                )
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(graph.path.parent / location, target)


def publish(
    graphs: Sequence[Foreign], found: Sequence[Guess], wishes: Wishes, name: str, root: Path, **texts: str
) -> Imported:
    """Publish an artifact made of graphs, after its check, with a sheet of samples as preview.

    Raises ArtifactError with the problems of the check, one line each; nothing is published then.
    """
    lines = [line for one in found for line in one.lines]
    with repository.staging(root, name) as folder:
        content = manifest_of(name, repository.next_version(root, name), graphs, found, wishes, **texts)
        place(graphs, found, folder)
        (folder / manifests.FILE).write_text(manifests.text_of(content))
        manifest = manifests.read(folder)
        lineage.check_manifest(root, manifest)
        first = checks.check(folder, "cpu", seal=True)
        if first.problems:
            raise ArtifactError(
                "\n".join(
                    [
                        f"{name}: the check found problems; nothing was published:",
                        *(f"  {line}" for line in first.problems),
                    ]
                )
            )
        if first.sheet is not None and manifest.spec.pictures:
            (folder / PREVIEW).write_bytes(first.sheet)
        sealed = repository.seal(folder, first.manifest.drawing)
        assert not is_recorded(folder)
        return Imported(repository.publish_next(folder, root, sealed), sealed, lines, first.notes)
