"""The meaning of a graph's inputs and outputs: the task, the source of each input, the role of each output, and the form of each tensor.

Every guess has a line that says what was seen and what was concluded. Statements of the user replace guesses. If there is no good guess, the
error says which option states the fact.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifold.runtime.diagnoses import likely_range
from manifold.runtime.errors import InvalidValue, cut
from manifold.runtime.foreign.inspection import Foreign, Seen
from manifold.runtime.graphs import agreement
from manifold.runtime.graphs.forms import Form
from manifold.runtime.kinds import Kind
from manifold.runtime.manifest import InputSpec, TensorSpec
from manifold.runtime.manifest.graph_forms import GraphForm

Array = NDArray[Any]
FEW = (1, 2, 3, 4)  # numbers of channels that an image can have
PALE = 0.6  # share of the possible range of pixels below which a mean and standard deviation are doubtful
SMALLEST = 4  # smallest height and width of an image
LABELS = re.compile(r"label|class|cond|target|onehot|one_hot|^y$|^c$", re.IGNORECASE)
LATENTS = re.compile(r"latent|noise|^(z|w|eps|epsilon)(_?(in|input|\d))?$", re.IGNORECASE)
STYLES = re.compile(r"^ws?$|^d?latents?_w|w_plus|^styles?$|dlatent", re.IGNORECASE)
MEANS = re.compile(r"mean|mu$|^mu|loc$|latent|^z$", re.IGNORECASE)
STRONG_MEANS = re.compile(r"mean|mu$|^mu|loc$", re.IGNORECASE)
NORMALITIES = re.compile(r"score_samples|decision_function", re.IGNORECASE)
VARIANCES = re.compile(r"log_?var|logvar|^lv", re.IGNORECASE)
CODES = re.compile(r"index|indices|codes?$|^codes?", re.IGNORECASE)
LOGITS = re.compile(r"logit|prob|softmax|class", re.IGNORECASE)
CHANNELS = {
    1: (1, None),
    2: (1, "LA"),
    3: (3, None),
    4: (3, "RGBA"),
}  # by the number in the graph: the number in the service, and the letters


@dataclass(frozen=True)
class Wishes:
    """The statements of the user about the graphs."""

    spec: Kind | None = None  # the items, if they are rows
    rows: int | None = None  # the fixed number of rows of scripts
    missing: bool = False  # whether a row may lack values, which are NaN for the graph
    size: tuple[int, int] | None = None  # height and width
    range: tuple[float, float] | None = None
    layout: str | None = None
    channels: str | tuple[int, ...] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    input_range: tuple[float, float] | None = None  # those of inputs, if they differ from those of outputs
    input_mean: tuple[float, ...] | None = None
    input_std: tuple[float, ...] | None = None
    invert: bool = False
    activation: str | None = None
    classes: tuple[str, ...] = ()
    levels: int | None = None
    negate: bool | None = None  # whether a score is higher for more normal items
    inputs: Mapping[str, str] = field(default_factory=dict)  # source by the input's name
    outputs: Mapping[str, str] = field(default_factory=dict)  # role by the output's name
    constants: Mapping[str, float] = field(default_factory=dict)
    numbers: Mapping[str, tuple[float, ...]] = field(default_factory=dict)  # default, and possibly minimum and maximum

    @property
    def of_inputs(self) -> Wishes:
        """The statements for images that are inputs."""
        if self.input_range is None and self.input_mean is None:
            return self
        return replace(self, range=self.input_range, mean=self.input_mean, std=self.input_std)


@dataclass
class Guess:
    """A task of the manifest, and what it says about the other sections. `lines` are the reasons."""

    task: str
    inputs: list[dict[str, Any]] = field(default_factory=list)
    outputs: list[dict[str, Any]] = field(default_factory=list)
    rows: int | None = None  # the number of rows of each run, if the graph takes no other
    doubtful: bool = False  # whether the images do not look like the statements about them
    constants: dict[str, Any] = field(default_factory=dict)
    sections: dict[str, Any] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Picture:
    """The place of an image in a tensor: its layout, and the numbers of channels, rows and columns in the graph."""

    layout: str
    channels: int
    height: int
    width: int
    flat: bool = False  # the axes after the batch are one, in the order of the layout
    letters: str | None = None  # the meaning of the channels, as it is stated

    @property
    def described(self) -> str:
        """The number of channels, and what several are taken for."""
        taken = {
            2: " (taken for grey and alpha, LA; --channels states others)",
            4: " (taken for RGBA; --channels states others)",
        }
        return f"{self.channels} channel(s){taken.get(self.channels, '') if self.letters is None else ''}"


def picture(dims: Sequence[int | str | None] | None, wishes: Wishes) -> Picture | None:
    """Return where an image is in a tensor with these dimensions; None if it holds none."""
    if wishes.spec is not None or dims is None:
        return None
    sizes = [dim if isinstance(dim, int) else None for dim in dims]
    for layout in (wishes.layout,) if wishes.layout else ("NCHW", "NHWC", "NHW"):
        if len(layout) != len(sizes):
            continue
        of = dict(zip(layout, sizes, strict=True))
        height, width = of["H"] or (wishes.size or (None,))[0], of["W"] or (wishes.size or (None, None))[1]
        channels = of.get("C", 1)
        fits = channels in FEW or wishes.layout is not None or isinstance(wishes.channels, tuple)
        if channels and height and width and fits and min(height, width) >= SMALLEST:
            return Picture(
                layout, channels, height, width, letters=None if wishes.channels is None else str(wishes.channels)
            )
    if len(sizes) == 2 and sizes[1] and wishes.size and (wishes.layout is None or re.match("N...", wishes.layout)):
        channels, rest = divmod(sizes[1], wishes.size[0] * wishes.size[1])
        if not rest and channels in (1, 3):
            return Picture(wishes.layout or "NCHW", channels, *wishes.size, flat=True)
    return None


def is_named_codes(seen: Seen, wishes: Wishes) -> bool:
    """Return whether a tensor has the name of codes and is not one-hot, with an axis for the levels."""
    if wishes.levels is None or CODES.search(seen.word) is None:
        return False
    dims = seen.dims or ()
    one_hot = (
        np.dtype(seen.dtype).kind == "f" and len(dims) == 4 and dims[1] != 1 and wishes.levels in (dims[1], dims[3])
    )
    return not one_hot


def holds_rows(seen: Seen, spec: Kind) -> bool:
    """Return whether a tensor has one number for each column of rows."""
    return seen.dims is not None and tuple(seen.dims[1:]) == spec.shape and np.dtype(seen.dtype).kind in "fiu"


def reads(seen: Seen, wishes: Wishes) -> bool:
    """Return whether an input takes images or rows. By default, floats with the name of a latent, and images of 2 or 4 channels, are latents, and whole
    numbers in the shape of an image are codes.
    """
    if seen.name in wishes.inputs:
        return wishes.inputs[seen.name] == "data"
    if wishes.spec is not None:
        return holds_rows(seen, wishes.spec) and LATENTS.search(seen.word) is None
    if is_named_codes(seen, wishes):
        return False
    found = picture(seen.dims, wishes)
    if found is None or seen.dtype == "uint8" or wishes.channels is not None:
        return found is not None
    return found.channels in (1, 3) and np.dtype(seen.dtype).kind == "f" and LATENTS.search(seen.word) is None


def size_hint(seen: Seen) -> str:
    """Return a possible size of the flat square images of a tensor, as a hint in an error."""
    values = seen.dims[1] if seen.dims is not None and len(seen.dims) == 2 else None
    if not isinstance(values, int):
        return ""
    for channels in (1, 3):
        side = math.isqrt(values // channels)
        if side >= SMALLEST and side * side * channels == values:
            return f", such as --size {side} {side} for {values} numbers"
    return ""


def image_section(found: Picture, limits: tuple[float, float], wishes: Wishes) -> dict[str, Any]:
    """Return the section `data` for images."""
    if isinstance(wishes.channels, tuple):
        channels = len(wishes.channels)
    elif isinstance(wishes.channels, str):
        channels = 3 if set("RGB") <= set(wishes.channels) else 1
    else:
        channels = CHANNELS.get(found.channels, (3, None))[0]
    return {"kind": "image", "height": found.height, "width": found.width, "channels": channels, "range": list(limits)}


def image_form(
    found: Picture, kind: str, own: int, wishes: Wishes, *, output: bool, limits: tuple[float, float] | None
) -> dict[str, Any]:
    """Return `in_graph` of an image. Raises InvalidValue for letters of another number of channels."""
    if isinstance(wishes.channels, str) and len(wishes.channels) != found.channels:
        raise InvalidValue(
            f"--channels: {wishes.channels} names {len(wishes.channels)} channels, but the graph has {found.channels}; name each, or give the places of those "
            "to show, such as 0,1,2",
            field="channels",
        )
    letters = (
        wishes.channels
        or CHANNELS.get(found.channels, (own, None))[1]
        or ("RGB" if own == 1 and found.channels == 3 else None)
    )
    form: dict[str, Any] = {
        "dtype": None if kind == "float32" else kind,
        "layout": None if found.layout == "NCHW" or (found.flat and found.channels == 1) else found.layout,
        "shape": [found.channels * found.height * found.width] if found.flat else None,
        "channels": list(letters) if isinstance(letters, tuple) else letters,
        "range": list(limits) if limits else None,
        "mean": None if wishes.mean is None else list(wishes.mean),
        "std": None if wishes.std is None else list(wishes.std),
        "invert": wishes.invert or None,
        "activation": wishes.activation if output else None,
    }
    return {name: value for name, value in form.items() if value is not None}


def limits_of(values: Array, kind: str, wishes: Wishes) -> tuple[tuple[float, float], str]:
    """Return the range of the pixels of a trial run, and the reason. Raises InvalidValue if no usual range holds them."""
    if wishes.range is not None:
        return wishes.range, "as stated"
    if wishes.mean is not None:
        return (0.0, 1.0), "pixels in [0, 1] after mean and standard deviation"
    if wishes.activation is not None:
        made = (-1.0, 1.0) if wishes.activation == "tanh" else (0.0, 1.0)
        return made, f"that of {wishes.activation}"
    if kind == "uint8":
        return (0.0, 255.0), "the type is uint8"
    smallest, largest = float(values.min()), float(values.max())
    found = likely_range(smallest, largest)
    if found is None:
        raise InvalidValue(
            f"range: the values of a trial run go from {smallest:.3g} to {largest:.3g}, which is none of the usual ranges of images; give --range BLACK WHITE, "
            "--mean and --std, or --activation if the graph gives logits",
            field="range",
        )
    return found, f"the values of a trial run go from {smallest:.3g} to {largest:.3g}"


def doubts(values: Array, wishes: Wishes) -> list[str]:
    """Return warnings about statements that the pixels of a trial run do not look like."""
    smallest, largest = float(values.min()), float(values.max())
    said = f"  warning: the values of a trial run go from {smallest:.3g} to {largest:.3g}"
    found = []
    if wishes.activation is not None and (-1 if wishes.activation == "tanh" else 0) <= smallest < largest <= 1:
        found.append(
            f"{said}, as after {wishes.activation}; leave out --activation if the graph contains it, otherwise the images are pale"
        )
    if wishes.mean is not None and wishes.std is not None:
        ends = [((end - mean) / std) for end in (0, 1) for mean, std in zip(wishes.mean, wishes.std, strict=True)]
        if largest - smallest < PALE * (max(ends) - min(ends)):
            found.append(
                f"{said}, but pixels with this mean and standard deviation go from {min(ends):.3g} to {max(ends):.3g}; look at the contrast"
            )
    return found


def form_of(tensor: TensorSpec, seen: Seen, spec: Kind | None, classes: int | None = None) -> dict[str, Any]:
    """Return `in_graph` of a tensor that is no image. Raises InvalidValue if none of the usual forms agrees."""
    found = agreement.guess(Form(tensor, GraphForm(), spec), seen.dtype, seen.dims, classes=classes)
    if found is None:
        raise InvalidValue(
            f"{seen}: this does not agree with {tensor.described} in any of the usual forms; state another source or role, or write the manifest by hand",
            field=seen.name,
        )
    return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}


def with_form(content: dict[str, Any], form: dict[str, Any]) -> dict[str, Any]:
    """Return a tensor of the manifest with its form in the graph, if it differs."""
    return {**content, "in_graph": form} if form else content


def source_of(seen: Seen, graph: Foreign, wishes: Wishes, *, makes: bool, taken: set[str]) -> tuple[str, str]:
    """Return the source of an input, and the reason. Raises InvalidValue if it cannot be guessed."""
    if seen.name in wishes.inputs:
        return wishes.inputs[seen.name], "as stated"
    whole, one = np.dtype(seen.dtype).kind in "iu", _count(seen, graph.rows) == 1
    if one and ((whole and wishes.classes) or LABELS.search(seen.word)):
        if not wishes.classes:
            raise InvalidValue(
                f"{graph.path.name}: input {seen} looks like a class; give --classes with their number or names",
                field="classes",
            )
        return "condition", "one number for each item: the class"
    if one:
        raise InvalidValue(
            f"{graph.path.name}: input {seen} is one number; give its value for all requests, --constant {cut(seen.name)}=1, or let requests state it, "
            f"--number {cut(seen.name)}=1{', or --classes if it is a class' if whole else ''}"
            f"{', or --columns FILE if the inputs are columns of a table' if wishes.spec is None and len(graph.inputs) > 1 else ''}",
            field=seen.name,
        )
    if makes and not whole and not wishes.classes and LABELS.search(seen.word) and CODES.search(seen.word) is None:
        count = _count(seen, graph.rows)
        raise InvalidValue(
            f"{graph.path.name}: input {seen} looks like weights of classes; give --classes {count or 'with their number'}, or --input {cut(seen.name)}=latent",
            field="classes",
        )
    if wishes.classes and _weighs_classes(seen, graph, wishes, taken):
        return "condition", "one number for each class: weights of classes"
    if (whole or is_named_codes(seen, wishes)) and makes:
        if wishes.levels is None:
            raise InvalidValue(
                f"{graph.path.name}: input {seen} looks like codes; give --levels with the number of different codes",
                field="levels",
            )
        return "codes", "whole numbers: codes"
    if not makes:
        return "data", "the items that the graph reads"
    return (
        ("latent", "numbers from which items are made: the latent")
        if "latent" not in taken
        else ("latent", "further numbers: another latent; --input states another source, such as normal")
    )


def _weighs_classes(seen: Seen, graph: Foreign, wishes: Wishes, taken: set[str]) -> bool:
    """Return whether an input has a weight for each class: by its name, or if another input is the latent."""
    same = [
        each
        for each in graph.inputs
        if _count(each, graph.rows) == len(wishes.classes) and np.dtype(each.dtype).kind in "fbiu"
    ]
    if seen not in same:
        return False
    named = [each for each in same if LABELS.search(each.word)]
    if named:
        return seen in named
    others = [each for each in graph.inputs if each not in same and (_count(each, graph.rows) or 2) > 1]
    return "latent" in taken or (same == [seen] and bool(others) and "condition" not in taken)


def _count(seen: Seen, rows: int | None) -> int | None:
    """Return how many numbers an input has for each item; None if that is not fixed. `rows` is the fixed number of rows of the graph."""
    if not seen.dims or seen.dims == (rows,):
        return 1
    rest = list(seen.dims[1:]) if len(seen.dims) > 1 or not isinstance(seen.dims[0], int) else list(seen.dims)
    return (
        None
        if any(not isinstance(dim, int) for dim in rest)
        else math.prod(dim for dim in rest if isinstance(dim, int))
    )


def latent_shape(seen: Seen) -> list[int]:
    """Return the shape of a latent: a vector if all axes but one have the length 1."""
    dims = seen.dims or ()
    free = [place for place, dim in enumerate(dims) if not isinstance(dim, int)]
    batch = free[0] if free else 0 if len(dims) > 1 else None
    shape = [dim for place, dim in enumerate(dims) if place != batch and isinstance(dim, int)]
    if len(shape) + (batch is not None) != len(dims):
        raise InvalidValue(
            f"input {seen}: its shape is not fixed; give --shape {cut(seen.name)}=100 with the shape of one latent",
            field=seen.name,
        )
    long = [size for size in shape if size > 1]
    return long if len(long) == 1 else shape


def tensor(role: str, seen: Seen, shape: Sequence[int], source: str | None = None) -> tuple[dict[str, Any], TensorSpec]:
    """Return a tensor as content of a manifest, and as its spec."""
    dtype = "int64" if source in ("codes", "tokens", "integer") or (source is None and role == "codes") else "float32"
    content: dict[str, Any] = {
        "role": role,
        **({} if seen.name == role else {"name": seen.name}),
        **({} if dtype == "float32" else {"dtype": dtype}),
    }
    content |= {"shape": list(shape)} if source is None else {"source": source, "shape": list(shape)}
    return content, (TensorSpec if source is None else InputSpec).model_validate(content)
