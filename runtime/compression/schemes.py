"""The schemes of lossless compression: which distributions a kind of model gives, and in which order values are coded with them.

Steps        an autoregressive model, position by position: -log p(x) bits
BitsBack     a VAE: a latent is popped with q(z | x), the pixels are pushed with p(x | z), then the latent with p(z)
             (Townsend, Bird and Barber, 2019, arXiv 1901.04866). The expected number of bits is -ELBO / log 2
ThroughCodes a VQ-VAE: the codes are coded with the prior, and the pixels given the codes

Writer and reader walk through the values in the same order with the same runs of the same rows, so that they compute the same bits. At each
stop of a walk, the writer notes the distribution of values that it knows; it pushes them in reverse order at the end. The reader pops them.
Arrays are levels (n, C, H, W), and labels (n,), the classes that images are conditioned on.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from manifold.runtime.compression.stack import BINS, PRECISION, Array, Distances, Levels, Stack, distances, posterior
from manifold.runtime.engine import Model
from manifold.runtime.errors import UnsupportedTask
from manifold.runtime.kinds.image import ImageSpec
from manifold.runtime.manifest import Manifest, TaskSpec
from manifold.runtime.operations import role_of
from manifold.runtime.operations.capabilities import abilities
from manifold.runtime.operations.common import takes

MOST = 64  # images that are coded together; OnnxGraph does not split such runs


class Writer:
    """The side that knows all values. It notes the distribution at each stop of a walk."""

    def __init__(self) -> None:
        self.notes: list[tuple[Levels, Distances]] = []

    def stop(self, array: Levels, where: Any, given: Distances) -> None:
        """Note the values of an array at a place, with their distances."""
        self.notes.append((array[where], given))

    def push_on(self, stack: Stack) -> None:
        """Push all values so that a reader pops them in the order of the walk."""
        for values, given in reversed(self.notes):
            stack.push(values, given)


class Reader:
    """The side that knows no values. It pops those of each stop of a walk from a stack."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack

    def stop(self, array: Levels, where: Any, given: Distances) -> None:
        """Fill the array at a place with values that have these distances."""
        array[where] = self.stack.pop(given)


Walker = Writer | Reader


class Scheme(ABC):
    """The way in which images are coded with a model."""

    tasks: tuple[str, ...] = ()  # the tasks whose outputs decide the bits
    values = 2**22  # limit for the log-probabilities of these images, which are in memory at the same time
    popped = 0  # largest number of bits that are popped to push one image
    levels: int

    def __init__(self, model: Model) -> None:
        self.model, self.manifest = model, model.manifest
        self.spec = ImageSpec.of(model.manifest.spec, f"model: {model.manifest.name}")

    @property
    def together(self) -> int:
        """The largest number of images that are coded together."""
        return max(1, min(MOST, self.values // (self.levels * int(np.prod(self.spec.shape)))))

    @property
    def has_classes(self) -> bool:
        """Whether the images are conditioned on a class."""
        return any(takes(self.manifest.tasks[name]) for name in self.tasks)

    @property
    def codes_classes(self) -> bool:
        """Whether a file states the class of each image; a single class needs no bits."""
        return self.has_classes and len(self.manifest.classes or ()) > 1

    def data(self, levels: Levels) -> Array:
        """Convert levels to the values of the model, float32."""
        low, high = self.spec.range
        return (levels / (self.levels - 1) * (high - low) + low).astype(np.float32)

    def condition(self, task: TaskSpec, labels: Levels) -> dict[str, Array]:
        """Return the input for the class of a task that takes one."""
        if not takes(task):
            return {}
        return {role_of(task, "condition"): np.eye(len(self.manifest.classes or ()), dtype=np.float32)[labels]}

    def empty(self, n: int) -> Levels:
        """Return the array that a reader fills."""
        return np.zeros((n, *self.spec.shape), np.int64)

    @abstractmethod
    def push(self, stack: Stack, levels: Levels, labels: Levels) -> None:
        """Push images."""

    @abstractmethod
    def pop(self, stack: Stack, labels: Levels) -> Levels:
        """Pop images, (n, C, H, W)."""


class Steps(Scheme):
    """An autoregressive model with the tasks predict_row, predict_pixel and, for colours, predict_part."""

    tasks: tuple[str, ...] = ("predict_row", "predict_pixel")
    values = 2**25  # only their distances are kept, 2 bytes each

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self.row, self.pixel = (self.manifest.tasks[name] for name in self.tasks)
        if self.spec.channels > 1:
            self.tasks = (*self.tasks, "predict_part")
        self.levels = _shape_of(self.pixel, "logits")[0]

    def push(self, stack: Stack, levels: Levels, labels: Levels) -> None:
        writer = Writer()
        self._walk(levels, labels, writer)
        writer.push_on(stack)

    def pop(self, stack: Stack, labels: Levels) -> Levels:
        levels = self.empty(len(labels))
        self._walk(levels, labels, Reader(stack))
        return levels

    def _walk(self, levels: Levels, labels: Levels, walker: Walker) -> None:
        n, height, width = len(levels), self.spec.height, self.spec.width
        condition, in_rows = self.condition(self.row, labels), _nothing(self.row, n)
        for r in range(height):
            above = np.moveaxis(
                levels[:, :, max(0, r - 1)], 1, 2
            )  # the first row has no row above; its values are not used
            given = {"row": np.full(n, r), "previous": above if r else np.zeros_like(above)}
            after = self.model.run("predict_row", {**in_rows, **_floats(given), **condition})
            in_rows |= {"embedded": after["next_embedded"], "vertical": after["next_vertical"]}
            in_columns = _nothing(self.pixel, n)
            for c in range(width):
                left = levels[:, :, r, c - 1] if c else np.zeros((n, self.spec.channels))
                given = {"column": np.full(n, c), "previous": left}
                links = np.ascontiguousarray(after["links"][:, c])
                out = self.model.run("predict_pixel", {**in_columns, **_floats(given), "links": links})
                in_columns |= {"embedded": out["next_embedded"], "horizontal": out["next_horizontal"]}
                self._walk_pixel(levels, r, c, out, walker)

    def _walk_pixel(self, levels: Levels, r: int, c: int, out: dict[str, Array], walker: Walker) -> None:
        known = np.zeros((len(levels), self.spec.channels))
        for part in range(self.spec.channels):
            logits = out["logits"]
            if part:
                known[:, part - 1] = levels[:, part - 1, r, c]
                given = {"features": out["features"], **_floats({"values": known})}
                logits = self.model.run("predict_part", given)["logits"][:, part]
            walker.stop(levels, (slice(None), part, r, c), distances(logits))


class Pixels(Scheme):
    """The common base of schemes with the task predict, which gives the distributions of all pixels from a latent or from codes."""

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self.predict = self.manifest.tasks["predict"]
        self.levels = _shape_of(self.predict, "logits")[0]
        self.data_role = role_of(self.predict, "data") if self.predict.input("data") else None

    def walk_pixels(self, levels: Levels, given: dict[str, Array], walker: Walker) -> None:
        """Walk through the pixels: all at once, or channel by channel if predict reads the earlier channels."""
        if self.data_role is None:
            walker.stop(levels, ..., self._distances(given))
            return
        known = np.zeros_like(levels)
        for channel in range(self.spec.channels):
            every = self._distances({**given, self.data_role: self.data(known)})
            walker.stop(levels, (slice(None), channel), every[:, channel])
            known[:, channel] = levels[:, channel]

    def _distances(self, inputs: dict[str, Array]) -> Distances:
        return distances(np.moveaxis(self.model.run("predict", inputs)["logits"], 1, -1))


class BitsBack(Pixels):
    """A VAE with the tasks encode and predict."""

    tasks = ("encode", "predict")

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self.encoder = self.manifest.tasks["encode"]
        self.size = _shape_of(self.encoder, "mean")
        self.popped = PRECISION * int(np.prod(self.size))

    def push(self, stack: Stack, levels: Levels, labels: Levels) -> None:
        bins, writer = stack.pop_normal(*self._posterior(levels, labels)), Writer()
        self.walk_pixels(levels, self._latent(bins, labels), writer)
        writer.push_on(stack)
        stack.push_normal(bins, *self._prior(len(levels)))

    def pop(self, stack: Stack, labels: Levels) -> Levels:
        bins, levels = stack.pop_normal(*self._prior(len(labels))), self.empty(len(labels))
        self.walk_pixels(levels, self._latent(bins, labels), Reader(stack))
        stack.push_normal(bins, *self._posterior(levels, labels))
        return levels

    def _latent(self, bins: Levels, labels: Levels) -> dict[str, Array]:
        latent = {role_of(self.predict, "latent"): (bins / BINS).astype(np.float32)}
        return {**latent, **self.condition(self.predict, labels)}

    def _posterior(self, levels: Levels, labels: Levels) -> tuple[Any, Any]:
        inputs = {role_of(self.encoder, "data"): self.data(levels), **self.condition(self.encoder, labels)}
        out = self.model.run("encode", inputs)
        return posterior(out["mean"], out["log_variance"])

    def _prior(self, n: int) -> tuple[Any, Any]:
        return np.zeros((n, *self.size)), np.full((n, *self.size), float(BINS))


class ThroughCodes(Pixels):
    """A VQ-VAE with the tasks encode, score_codes and predict."""

    tasks = ("encode", "score_codes", "predict")

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self.encoder, self.prior = (self.manifest.tasks[name] for name in self.tasks[:2])
        self.grid = _shape_of(self.encoder, "codes")

    def push(self, stack: Stack, levels: Levels, labels: Levels) -> None:
        codes, writer = self.model.run("encode", {role_of(self.encoder, "data"): self.data(levels)})["codes"], Writer()
        self._walk(levels, codes, labels, writer)
        writer.push_on(stack)

    def pop(self, stack: Stack, labels: Levels) -> Levels:
        levels, codes = self.empty(len(labels)), np.zeros((len(labels), *self.grid), np.int64)
        self._walk(levels, codes, labels, Reader(stack))
        return levels

    def _walk(self, levels: Levels, codes: Levels, labels: Levels, walker: Walker) -> None:
        role, known = role_of(self.prior, "codes"), np.zeros_like(codes)
        for place in np.ndindex(*self.grid):
            at = (slice(None), *place)
            logits = self.model.run("score_codes", {role: known, **self.condition(self.prior, labels)})["logits"]
            walker.stop(codes, at, distances(logits[:, :, *place]))
            known[at] = codes[at]
        self.walk_pixels(levels, {role_of(self.predict, "codes"): codes}, walker)


# --- the scheme of a model ----------------------------------------------------------------------------------------------------


def of(model: Model) -> Scheme:
    """Return the scheme for a model. Raises UnsupportedTask for a model that cannot compress without loss."""
    return kind_of(model.manifest)(model)


def kind_of(manifest: Manifest) -> type[Scheme]:
    """Return the kind of scheme for a model. Raises UnsupportedTask, with the reason, for a model that cannot compress without loss."""
    kind = _kind_by_tasks(manifest)
    why = _lacking(manifest) if kind is None else _why_not(manifest, kind)
    if not manifest.spec.pictures:
        why = f"it makes {manifest.spec.noun}, and only images are compressed"
    if kind is None or why:
        raise UnsupportedTask(
            f"{manifest.name} cannot compress without loss: {why}; {abilities(manifest)}", field="model"
        )
    return kind


def _kind_by_tasks(manifest: Manifest) -> type[Scheme] | None:
    tasks = manifest.tasks
    roles = set(tasks["encode"].roles) if "encode" in tasks else set()
    if {"predict_row", "predict_pixel", *(("predict_part",) if manifest.spec.shape[0] > 1 else ())} <= set(tasks):
        return Steps
    if "predict" not in tasks:
        return None
    if tasks["predict"].input("codes") and "codes" in roles and "score_codes" in tasks:
        return ThroughCodes
    return BitsBack if tasks["predict"].input("latent") and {"mean", "log_variance"} <= roles else None


WITHOUT_PROBABILITIES = (
    "no task gives the probabilities of its pixels. A PixelCNN over levels does, and a VAE, CVAE or VQ-VAE with a likelihood of levels such as "
    "bernoulli or logistic-mixture. If it is one of these, an earlier version exported it: export it again"
)


def _lacking(manifest: Manifest) -> str:
    """Return why no task gives probabilities of pixels."""
    likelihoods = [term.likelihood for term in manifest.scoring.terms if term.likelihood] if manifest.scoring else []
    if likelihoods and not any(each.discrete for each in likelihoods):
        return (
            "its likelihood is a density of real values, and only levels have probabilities. Use a PixelCNN over levels, or a VAE, CVAE or VQ-VAE "
            "with a likelihood of levels such as bernoulli or logistic-mixture"
        )
    return WITHOUT_PROBABILITIES


def _why_not(manifest: Manifest, kind: type[Scheme]) -> str:
    """Return why a model with the needed tasks cannot compress; empty if it can."""
    if drawing := sorted(manifest.drawing):
        return f"{', '.join(drawing)} draws random numbers inside the graph, so the pixels could not be decoded"
    known = ("state", "condition", "data", "latent", "codes")
    used = [tensor for name in kind.tasks for tensor in manifest.tasks[name].inputs]
    if other := [tensor.role for tensor in used if tensor.source not in known]:
        return f"its tasks take {', '.join(other)}, which a file does not contain"
    if manifest.classes is None and any(tensor.source == "condition" for tensor in used):
        return f"it is conditioned on {', '.join(manifest.conditioned)}, which a file does not contain; a class is possible"
    score = manifest.task("score")
    if any(tensor.source == "condition" for tensor in used) and (score is None or score.input("condition") is None):
        return "it is conditioned on a class, but has no score by which the class of an image can be chosen"
    return ""


def _shape_of(task: TaskSpec, role: str) -> tuple[int, ...]:
    return next(tensor.shape for tensor in task.outputs if tensor.role == role)


def _nothing(task: TaskSpec, n: int) -> dict[str, Array]:
    """Return the state before the first step: zeros."""
    return {tensor.role: np.zeros((n, *tensor.shape), np.float32) for tensor in task.inputs if tensor.source == "state"}


def _floats(arrays: dict[str, Array]) -> dict[str, Array]:
    return {role: np.ascontiguousarray(array, dtype=np.float32) for role, array in arrays.items()}
