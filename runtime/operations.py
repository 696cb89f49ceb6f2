"""The use cases, made of tasks: sample, encode, reconstruct, interpolate, score, classify.

Each is a generator that yields the runs it needs and gets their outputs back, so that the same lines serve a notebook (Model.drive
answers each run at once) and a server (which answers from a queue). Arrays only, at the graph's edge; no images, no rows, no wire.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from manifold.runtime import sampling
from manifold.runtime.errors import InvalidValue, UnsupportedTask, shown
from manifold.runtime.inputs import (
    Classes,
    check_seed,
    check_temperature,
    conditions,
    draw,
    draw_latents,
    latent_stream,
)
from manifold.runtime.manifest import RANDOM, Manifest, TaskSpec

Array = NDArray[Any]
Float32 = NDArray[np.float32]
T = TypeVar("T")


class Run(NamedTuple):
    """One run of a task that a use case asks for."""

    task: str
    inputs: dict[str, Array]


Steps = Generator[Run, dict[str, Array], T]


@dataclass(frozen=True)
class Samples:
    """Items with what made them."""

    data: Array  # (n, *shape) at the graph's edge
    seed: int | None  # None where no chance was involved
    latents: Float32 | None = None
    codes: Array | None = None
    condition: Float32 | None = None  # (n, C)


@dataclass(frozen=True)
class Encoded:
    """Where items lie: a posterior, codes, or both."""

    mean: Float32 | None = None
    log_variance: Float32 | None = None
    latents: Float32 | None = None  # a draw, where a seed was given
    codes: Array | None = None
    seed: int | None = None

    @property
    def placed(self) -> Float32:
        """The draw where there is one, else the posterior mean."""
        chosen = self.mean if self.latents is None else self.latents
        assert chosen is not None
        return chosen


@dataclass(frozen=True)
class Reconstructed:
    """Items after encode and decode."""

    data: Array
    errors: NDArray[np.float64]  # (n,) mean squared error: of pixels in [0, 1], of encoded columns in scaled units
    seed: int | None = None


@dataclass(frozen=True)
class End:
    """One end of an interpolation: one of the four, and a class beside any of them."""

    latent: Float32 | None = None  # (L,)
    data: Array | None = None  # (*shape)
    seed: int | None = None
    first: int = 0
    classes: Classes | None = None


@dataclass(frozen=True)
class Path:
    """A decoded path in latent space, ends included."""

    data: Array
    latents: Float32
    seed: int | None = None


@dataclass(frozen=True)
class Scores:
    """Terms of the anomaly score by name, float64 (n,) each, and nats a pixel or column where the artifact has them."""

    terms: dict[str, NDArray[np.float64]]
    surprise: Array | None


def drive(steps: Steps[T], run: Callable[[str, Mapping[str, Array]], dict[str, Array]]) -> T:
    """Runs a use case to its end; `run(task, inputs)` gives the task's outputs by role."""
    try:
        wanted = next(steps)
        while True:
            wanted = steps.send(run(wanted.task, wanted.inputs))
    except StopIteration as finished:
        result: T = finished.value
        return result


def watched(steps: Steps[T], seen: Callable[[str], None]) -> Steps[T]:
    """Return the same use case, which calls `seen` with the task of each run."""
    try:
        wanted = next(steps)
        while True:
            seen(wanted.task)
            wanted = steps.send((yield wanted))
    except StopIteration as finished:
        result: T = finished.value
        return result


@dataclass(frozen=True)
class Imputed:
    """Rows with their missing values filled in."""

    data: (
        Float32  # (n, width): a number's expectation and a category's probabilities where they were missing, or a draw
    )
    probabilities: Float32  # (n, width): the categories' probabilities, whether drawn or not
    missing: NDArray[np.bool_]  # (n, width)
    seed: int | None = None


# --- use cases ----------------------------------------------------------------------------------------------------------------


def is_reproducible(manifest: Manifest, latents: Array | None, codes: Array | None) -> bool:
    """Return whether the same request gives the same items: false if the graph that `sample` runs draws random numbers itself."""
    return not manifest.drawing or _sampling_task(manifest, latents, codes) not in manifest.drawing


def sample(
    manifest: Manifest, n: int = 1, *, seed: int | None = None, first: int = 0, latents: Array | None = None, codes: Array | None = None,
    classes: Classes | None = None, prior: str | None = None, temperature: float = 1.0,
) -> Steps[Samples]:  # fmt: skip
    """n items by the `sample` task, or by `decode` after the prior; of given latents (n, L) or codes where there are any.

    Item i depends on seed and first + i alone. Without a class, a conditional model draws one by its class prior.
    """
    task = _sampling_task(manifest, latents, codes)
    spec = manifest.tasks[task]
    check_temperature(temperature)
    chance = _needs_seed(spec, latents, classes)
    seed = check_seed(seed, first, n, needed=chance)
    if prior is not None and (latents is not None or spec.input("latent") is None):
        raise InvalidValue("prior: there is no latent to draw here", field="prior")
    inputs: dict[str, Array] = {}
    stream = sampling.FIRST_INPUT_STREAM
    for tensor in spec.inputs:
        given = {"latent": latents, "codes": codes}.get(tensor.source)
        inputs[tensor.role] = (
            draw(manifest, spec, tensor, seed, first, n, stream, classes=classes, prior=prior, temperature=temperature)
            if given is None
            else given
        )
        stream += tensor.source in RANDOM
    if classes is not None and spec.input("condition") is None:
        raise no_classes(manifest, classes)
    outputs = yield Run(task, inputs)
    latent, condition = spec.input("latent"), spec.input("condition")
    return Samples(
        outputs["data"], seed if chance else None,
        latents=inputs[latent.role] if latent else outputs.get("latent"), codes=outputs.get("codes", codes),
        condition=inputs[condition.role] if condition else None,
    )  # fmt: skip


def encode(
    manifest: Manifest, data: Array, *, seed: int | None = None, first: int = 0, classes: Classes | None = None
) -> Steps[Encoded]:
    """data (n, *shape) to its posterior or codes; with a seed also a draw from the posterior."""
    spec = require(manifest, "encode", "encode")
    check_seed(seed, first, len(data), needed=False)
    outputs = yield Run("encode", _with_condition(manifest, spec, data, classes))
    mean, log_variance = outputs.get("mean", outputs.get("latent")), outputs.get("log_variance")
    latents = None
    if seed is not None and mean is not None:
        latents = mean
        if log_variance is not None:
            noise = sampling.normal(seed, first, len(data), sampling.POSTERIOR_STREAM, mean.shape[1:])
            latents = mean + np.exp(0.5 * log_variance.astype(np.float64)).astype(np.float32) * noise
    return Encoded(mean, log_variance, latents, outputs.get("codes"), seed)


def reconstruct(
    manifest: Manifest,
    data: Array,
    *,
    seed: int | None = None,
    first: int = 0,
    classes: Classes | None = None,
    target: Classes | None = None,
) -> Steps[Reconstructed]:
    """data through encode and decode: by the posterior mean, or by a draw where a seed is given.

    `classes` is what the items are; `target` is what they are decoded as where that is to differ: the style stays, the class changes.
    """
    task = _reconstruction_task(manifest)
    if task is None:
        raise _cannot(manifest, "reconstruct")
    encoder, spec = manifest.tasks["encode"], manifest.tasks[task]
    if classes is not None and not (spec.input("condition") or encoder.input("condition")):
        raise no_classes(manifest, classes)
    if target is not None and spec.input("condition") is None:
        raise no_classes(manifest, target, "target_class")
    of_encoder = classes if encoder.input("condition") else None
    encoded = yield from encode(manifest, data, seed=seed, first=first, classes=of_encoder)
    inputs = _condition(manifest, spec, classes if target is None else target, len(data))
    if task == "decode":
        inputs[role_of(spec, "latent")] = encoded.placed
    else:
        assert encoded.codes is not None
        inputs[role_of(spec, "codes")] = encoded.codes
    outputs = yield Run(task, inputs)
    return Reconstructed(outputs["data"], manifest.data.errors(data, outputs["data"]), encoded.seed)


def interpolate(
    manifest: Manifest, start: End, stop: End, *, steps: int = 8, method: str | None = None, seed: int | None = None
) -> Steps[Path]:
    """A path of `steps` latents from start to stop, decoded. `seed` fills what an end leaves open: both then have the same latent."""
    if manifest.latent is None:
        raise UnsupportedTask(
            f"{manifest.name} has no latent space to interpolate in; it can {', '.join(manifest.tasks)}",
            field="model",
            valid=list(manifest.tasks),
        )
    spec = require(manifest, "decode", "interpolate")
    method = method or manifest.latent.interpolation
    if method not in PATHS:
        raise InvalidValue(f"method: unknown {shown(method)}", field="method", valid=list(PATHS))
    left_open = any(end.latent is None and end.data is None and end.seed is None for end in (start, stop))
    chosen = check_seed(seed, 0, 1, needed=left_open)
    ends, weights = [], []
    for name, end in (("from", start), ("to", stop)):
        ends.append((yield from _end_latent(manifest, end, chosen)))
        condition = spec.input("condition")
        if end.classes is not None and condition is None:
            raise no_classes(manifest, end.classes, f"{name}.class")
        if condition is not None:
            weights.append(
                conditions(manifest, condition, _required_class(manifest, end.classes, f"{name}.class"), 1, 0, 0)[0]
            )
    parts = np.linspace(0, 1, steps)
    inputs: dict[str, Array] = {role_of(spec, "latent"): PATHS[method](ends[0], ends[1], parts)}
    if weights:
        inputs[role_of(spec, "condition")] = _lerp(weights[0], weights[1], parts)
    outputs = yield Run("decode", inputs)
    return Path(outputs["data"], inputs[role_of(spec, "latent")], chosen if left_open else None)


def score(manifest: Manifest, data: Array, *, classes: Classes | None = None) -> Steps[Scores]:
    """Terms of the anomaly score. Without a class, a conditional model's terms are marginalised over classes by the class prior."""
    if manifest.scoring is None or "score" not in manifest.tasks:
        raise UnsupportedTask(
            f"{manifest.name} carries no anomaly score; it can {', '.join(manifest.tasks)}",
            field="model",
            valid=list(manifest.tasks),
        )
    spec, scoring = manifest.tasks["score"], manifest.scoring
    if spec.input("condition") is not None and classes is None and manifest.classes is not None:
        return (yield from _marginal_score(manifest, data))
    outputs = yield Run("score", _with_condition(manifest, spec, data, classes))
    terms = {term.name: outputs[term.name].astype(np.float64) for term in scoring.terms}
    return Scores(terms, outputs[scoring.surprise] if scoring.surprise else None)


def _marginal_score(manifest: Manifest, data: Array) -> Steps[Scores]:
    """-log Σ_y p(y) exp(-nll(x | y)) for terms that are -log p(x | y), or bound it; posterior-weighted means for the others."""
    scoring = manifest.scoring
    assert scoring is not None
    outputs, by_class = yield from _score_by_class(manifest, data)
    evidence = scoring.evidence
    assert evidence is not None  # the manifest sees to it
    posterior, _ = _bayes(manifest, by_class[evidence])
    terms = {name: (posterior * values).sum(axis=1) for name, values in by_class.items()}
    for term in scoring.terms:
        if term.name == evidence or term.likelihood:
            terms[term.name] = -_bayes(manifest, by_class[term.name])[1]
    surprise = None
    if scoring.surprise:
        n, count = posterior.shape
        parts = outputs[scoring.surprise].reshape(n, count, *outputs[scoring.surprise].shape[1:])
        surprise = parts[np.arange(n), posterior.argmax(axis=1)]
    return Scores(terms, surprise)


def _score_by_class(manifest: Manifest, data: Array) -> Steps[tuple[dict[str, Array], dict[str, NDArray[np.float64]]]]:
    """Outputs of `score` for every item under every class in turn, (n C, ...), and its terms, float64 (n, C)."""
    spec, scoring = manifest.tasks["score"], manifest.scoring
    assert scoring is not None
    n, count = len(data), len(manifest.class_weights)
    condition = np.tile(np.eye(count, dtype=np.float32), (n, 1))  # (n C, C)
    outputs = yield Run(
        "score", {role_of(spec, "data"): data.repeat(count, axis=0), role_of(spec, "condition"): condition}
    )
    return outputs, {term.name: outputs[term.name].astype(np.float64).reshape(n, count) for term in scoring.terms}


def _log_joint(manifest: Manifest, nll: NDArray[np.float64]) -> NDArray[np.float64]:
    """log p(y) - nll(x | y), (n, C); a class of weight 0 takes no part."""
    with np.errstate(divide="ignore"):
        joint: NDArray[np.float64] = np.log(np.asarray(manifest.class_weights)) - nll
    return joint


def _bayes(manifest: Manifest, nll: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """p(y | x) (n, C) and log p(x) (n,) for nll(x | y) (n, C)."""
    joint = _log_joint(manifest, nll)
    top = joint.max(axis=1)
    evidence = top + np.log(np.exp(joint - top[:, None]).sum(axis=1))
    return np.exp(joint - evidence[:, None]), evidence


IMPUTE_STEPS = 8  # rounds of encode and decode; what is filled in changes little after three


def impute(
    manifest: Manifest, data: Array, *, classes: Classes | None = None, seed: int | None = None, first: int = 0
) -> Steps[Imputed]:
    """Missing values (NaN) of rows from the others: encode what is there, decode, fill in, and again (Rezende, Mohamed and Wierstra, 2014,
    arXiv 1401.4082, appendix F, by means instead of draws). With a seed, the last round draws.

    Without a class, a conditional model fills in under each and weighs them by p(class | what is there), or draws the class.
    """
    if not _fills_rows(manifest):
        raise _cannot(manifest, "impute")
    n, count = len(data), 1
    check_seed(seed, first, n, needed=False)
    weights = np.ones((n, 1))
    encoder = manifest.tasks["encode"]
    if encoder.input("condition") is not None and classes is None and manifest.classes is not None:
        assert manifest.scoring is not None and manifest.scoring.evidence is not None
        _, by_class = yield from _score_by_class(manifest, data)
        weights, _ = _bayes(manifest, by_class[manifest.scoring.evidence])
        if seed is None:
            count = weights.shape[1]
            classes = np.tile(np.eye(count), (n, 1))
        else:
            drawn = sampling.uniform(seed, first, n, sampling.CLASS_STREAM, ())
            classes = np.eye(weights.shape[1])[sampling.pick(weights, drawn)]
            weights = np.ones((n, 1))
    holes = data.repeat(count, axis=0)
    missing = np.isnan(holes)
    found = holes
    for step in range(IMPUTE_STEPS):
        chance = seed if step == IMPUTE_STEPS - 1 else None
        encoded = yield from encode(manifest, found, seed=chance, first=first, classes=classes)
        back = yield from _decoded(manifest, encoded.placed, classes)
        found = np.where(missing, back, holes)
    mean = (weights[:, :, None] * found.reshape(n, count, -1)).sum(axis=1).astype(np.float32)
    whole = np.where(np.isnan(data), mean, data)
    if seed is None:
        return Imputed(whole, whole, np.isnan(data))
    options: dict[str, Any] = {"latents": encoded.placed, "classes": classes, "seed": seed, "first": first}
    drawn_rows = yield from sample(manifest, n, **options)
    return Imputed(np.where(missing, drawn_rows.data, data), whole, missing, seed)


def _decoded(manifest: Manifest, latents: Float32, classes: Classes | None) -> Steps[Array]:
    spec = manifest.tasks["decode"]
    outputs = yield Run(
        "decode", {role_of(spec, "latent"): latents, **_condition(manifest, spec, classes, len(latents))}
    )
    return outputs["data"]


def classify(manifest: Manifest, data: Array) -> Steps[NDArray[np.float64]]:
    """p(y | x), float64 (n, C), rows sum to 1: as the manifest's `classification` has it, at its temperature."""
    energies = yield from class_energies(manifest, data)
    assert manifest.classification is not None
    return softmax(energies / manifest.classification.temperature)


def class_energies(manifest: Manifest, data: Array) -> Steps[NDArray[np.float64]]:
    """log p(y | x) before the temperature, up to a constant for each item, float64 (n, C)."""
    about = manifest.classification
    if about is None:
        raise _cannot(manifest, "classify")
    if about.term is None:
        spec = manifest.tasks["features"]
        outputs = yield Run("features", {role_of(spec, "data"): data})
        return outputs["logits"].astype(np.float64)
    _, by_class = yield from _score_by_class(manifest, data)
    return _log_joint(manifest, by_class[about.term])


def softmax(energies: NDArray[Any]) -> NDArray[np.float64]:
    """Over the last axis, in float64; -inf gives 0."""
    shifted = np.exp(energies - energies.max(axis=-1, keepdims=True), dtype=np.float64)
    probabilities: NDArray[np.float64] = shifted / shifted.sum(axis=-1, keepdims=True)
    return probabilities


# what each use case needs of an artifact
CAN: dict[str, Callable[[Manifest], bool]] = {
    "sample": lambda m: "sample" in m.tasks or ("decode" in m.tasks and m.latent is not None),
    "encode": lambda m: "encode" in m.tasks,
    "reconstruct": lambda m: _reconstruction_task(m) is not None,
    "interpolate": lambda m: "decode" in m.tasks and m.latent is not None,
    "score": lambda m: m.scoring is not None,
    "classify": lambda m: m.classification is not None,
    "impute": lambda m: _fills_rows(m) or _fills_images(m),
}


# --- pieces -------------------------------------------------------------------------------------------------------------------


def _fills_rows(manifest: Manifest) -> bool:
    """Whether its graphs take missing values, by turns of encode and decode."""
    tasks = manifest.tasks
    if not manifest.data.nullable or manifest.latent is None or not {"decode", "encode"} <= set(tasks):
        return False
    marginal = manifest.scoring is not None and manifest.scoring.evidence is not None
    return any(tensor.missing for tensor in tasks["encode"].inputs) and (
        tasks["encode"].input("condition") is None or marginal
    )


def _fills_images(manifest: Manifest) -> bool:
    """Whether it has a task for it, and a likelihood by pixel to choose by (runtime.completion)."""
    return "impute" in manifest.tasks and manifest.scoring is not None and manifest.scoring.surprise is not None


def require(manifest: Manifest, task: str, verb: str) -> TaskSpec:
    """The task, or UnsupportedTask that says what the model can."""
    spec = manifest.task(task)
    if spec is None:
        raise _cannot(manifest, verb)
    return spec


def _cannot(manifest: Manifest, verb: str) -> UnsupportedTask:
    why = why_not_encode(manifest) if "encode" not in manifest.tasks and verb in ("encode", "reconstruct") else ""
    return UnsupportedTask(
        f"{manifest.name} cannot {verb}{why}; it can {', '.join(manifest.tasks)}",
        field="model",
        valid=list(manifest.tasks),
    )


def why_not_encode(manifest: Manifest) -> str:
    """What a model that makes items, and does not encode them, has instead of a place for each in latent space; else nothing."""
    if not CAN["sample"](manifest):
        return ""
    if manifest.latent is None:
        return ": it has no latent space"
    return ": it makes items of latents and was never trained to go back, as an autoencoder is"


def no_classes(manifest: Manifest, given: Classes, field: str = "class") -> InvalidValue:
    """What is raised where a class is given to a model that takes none."""
    if isinstance(given, np.ndarray):
        field = field.replace("class", "condition")
    return InvalidValue(
        f"{field}: {manifest.name} is not conditional; leave the {field.split('.')[-1]} out", field=field
    )


def _sampling_task(manifest: Manifest, latents: Array | None, codes: Array | None) -> str:
    tasks = manifest.tasks
    if latents is not None and codes is not None:
        raise InvalidValue("latents and codes exclude each other", field="codes")
    if codes is not None:
        require(manifest, "decode_codes", "decode codes")
        return "decode_codes"
    if latents is not None:
        found = next((name for name in ("sample", "decode") if name in tasks and tasks[name].input("latent")), None)
        if found is None:
            raise _cannot(manifest, "decode latents")
        return found
    if "sample" in tasks:
        return "sample"
    if manifest.latent is None or "decode" not in tasks:
        raise _cannot(manifest, "sample")
    return "decode"


def _reconstruction_task(manifest: Manifest) -> str | None:
    """decode of what encode places, else decode_codes of its codes."""
    encoder = manifest.task("encode")
    given = set(encoder.roles) if encoder else set()
    if "decode" in manifest.tasks and given & {"mean", "latent"}:
        return "decode"
    return "decode_codes" if "decode_codes" in manifest.tasks and "codes" in given else None


def _needs_seed(spec: TaskSpec, latents: Array | None, classes: Classes | None) -> bool:
    sources = {tensor.source for tensor in spec.inputs}
    random_class = "condition" in sources and (classes is None or (isinstance(classes, str) and classes == "random"))
    return random_class or "normal" in sources or "uniform" in sources or ("latent" in sources and latents is None)


def _required_class(manifest: Manifest, classes: Classes | None, field: str) -> Classes:
    if classes is None and manifest.conditions is not None:
        field = field.replace("class", "condition")
        names = manifest.conditions.names
        raise InvalidValue(
            f"{field}: {manifest.name} is told {', '.join(names)}; say their values", field=field, valid=names
        )
    if classes is None:
        raise InvalidValue(
            f"{field}: {manifest.name} is conditional; say which class", field=field, valid=manifest.classes
        )
    return classes


def _condition(manifest: Manifest, spec: TaskSpec, classes: Classes | None, n: int) -> dict[str, Array]:
    tensor = spec.input("condition")
    return (
        {}
        if tensor is None
        else {tensor.role: conditions(manifest, tensor, _required_class(manifest, classes, "class"), n, 0, 0)}
    )


def _with_condition(manifest: Manifest, spec: TaskSpec, data: Array, classes: Classes | None) -> dict[str, Array]:
    if classes is not None and spec.input("condition") is None:
        raise no_classes(manifest, classes)
    return {role_of(spec, "data"): data, **_condition(manifest, spec, classes, len(data))}


def role_of(spec: TaskSpec, source: Any) -> str:
    """The role of the first input with that source."""
    tensor = spec.input(source)
    assert tensor is not None, source
    return tensor.role


def _end_latent(manifest: Manifest, end: End, seed: int) -> Steps[Float32]:
    assert manifest.latent is not None
    if end.latent is not None:
        return end.latent
    if end.data is not None:
        encoder = manifest.task("encode")
        takes_class = encoder is not None and encoder.input("condition") is not None
        encoded = yield from encode(manifest, end.data[None], classes=end.classes if takes_class else None)
        placed: Float32 = encoded.placed[0]
        return placed
    if end.seed is not None:
        check_seed(end.seed, end.first, 1, needed=True)
        seed = end.seed
    drawn: Float32 = draw_latents(manifest, None, seed, end.first, 1, latent_stream(manifest), 1.0)[0]
    return drawn


def _lerp(start: Float32, stop: Float32, parts: NDArray[np.float64]) -> Float32:
    """Straight line; the ends are exact."""
    line: Float32 = ((1 - parts)[:, None] * start + parts[:, None] * stop).astype(np.float32)
    return line


def _slerp(start: Float32, stop: Float32, parts: NDArray[np.float64]) -> Float32:
    """Along the great circle (Shoemake, 1985), which keeps normal latents at a likely length; nearly parallel ends go straight."""
    a, b = start.astype(np.float64), stop.astype(np.float64)
    lengths = float(np.linalg.norm(a)) * float(np.linalg.norm(b))
    angle = float(np.arccos(np.clip(a @ b / lengths, -1, 1))) if lengths > 0 else 0.0
    if min(angle, np.pi - angle) < 1e-4:
        return _lerp(start, stop, parts)
    path = np.sin((1 - parts) * angle)[:, None] * a + np.sin(parts * angle)[:, None] * b
    arc: Float32 = (path / np.sin(angle)).astype(np.float32)
    arc[parts == 0], arc[parts == 1] = start, stop
    return arc


PATHS = {"slerp": _slerp, "lerp": _lerp}
