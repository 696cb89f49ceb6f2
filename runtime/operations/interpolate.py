"""Paths in latent space."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from manifold.runtime import conditions
from manifold.runtime.conditions import Given
from manifold.runtime.errors import InvalidValue, shown
from manifold.runtime.inputs import (
    Numbers,
    check_count,
    check_numbers,
    check_seed,
    draw_latents,
    latent_stream,
    noise,
    number,
)
from manifold.runtime.kinds import Kind
from manifold.runtime.manifest import CONDITIONS, NUMBERS, InputSpec, Manifest
from manifold.runtime.operations.common import (
    Capability,
    Latents,
    as_stated,
    by_role,
    cannot,
    check_takes,
    latent_inputs,
    numbers_of,
    others_of,
    require,
    required,
    takes,
)
from manifold.runtime.operations.encode import encode, encoded_latents
from manifold.runtime.operations.steps import Array, Float32, Float64, Run, Steps
from manifold.runtime.shown import ShownItems

NOISE = ("normal", "uniform")  # the sources of random inputs beside latents


@dataclass(frozen=True)
class End:
    """One end of an interpolation: one of latent, data and seed (with first), and a condition if the model takes one."""

    latent: Latents | None = None  # (*shape)
    data: Array | None = None  # (*shape)
    seed: int | None = None
    first: int = 0
    condition: Given | None = None


@dataclass(frozen=True, repr=False)
class Path(ShownItems):
    """A decoded path in latent space, with both ends."""

    data: Array
    latents: Latents
    seed: int | None = None
    others: dict[str, Array] = field(default_factory=dict)  # outputs beside `data`, by role
    spec: Kind | None = field(default=None, compare=False)  # the kind of the items


def interpolate(
    manifest: Manifest, start: End, stop: End, *, steps: int = 8, method: str | None = None, seed: int | None = None,
    numbers: Numbers | None = None,
) -> Steps[Path]:  # fmt: skip
    """Return a decoded path of `steps` latents from start to stop.

    `seed` draws the latents that an end does not state, the same for both, and the noise of the decoder, the same for all steps.
    """
    if manifest.space is None:
        raise cannot(manifest, "interpolate: it has no latent space")
    spec = require(manifest, "decode", "interpolate")
    if method is not None and method not in PATHS:
        raise InvalidValue(
            f"method: {shown(method)} is unknown; give one of {', '.join(PATHS)}", field="method", valid=list(PATHS)
        )
    encoder = manifest.task("encode") if start.data is not None or stop.data is not None else None
    check_numbers(manifest, [spec, *([encoder] if encoder else [])], numbers or {})
    check_count(numbers, steps)
    drawn = any(_is_open(manifest, end) for end in (start, stop)) or not spec.sources.isdisjoint(NOISE)
    chosen = check_seed(seed, 0, 1, needed=drawn)
    ends = []
    for name, end, place in (("from", start, 0), ("to", stop, -1)):
        ends.append((yield from _latents_of(manifest, name, end, chosen, _at(numbers, place))))
        check_takes(manifest, [spec], end.condition, f"{name}.class")
    parts = np.linspace(0, 1, steps)
    path = {
        role: _path(method or latent.interpolation, ends[0][role], ends[1][role], parts)
        for role, latent in manifest.latents.items()
    }
    latents = as_stated(manifest, path)
    inputs = latent_inputs(manifest, spec, latents)
    inputs |= {role: np.repeat(one, steps, axis=0) for role, one in noise(spec, chosen, 0, 1).items()}
    for tensor in spec.inputs:
        if tensor.source in CONDITIONS:
            inputs[tensor.role] = _conditions(manifest, tensor, start, stop, parts)
        elif tensor.source in NUMBERS:
            inputs[tensor.role] = number(tensor, numbers or {}, steps)
    outputs = yield Run("decode", inputs)
    return Path(
        outputs[manifest.main],
        latents,
        chosen if drawn else None,
        others_of(manifest, outputs),
        manifest.spec,
    )


def _conditions(manifest: Manifest, tensor: InputSpec, start: End, stop: End, parts: Float64) -> Array:
    """Return the condition of each step: a straight line between two vectors; for other conditions, that of the nearer end."""
    ends = [
        conditions.fill(manifest, tensor, required(manifest, tensor, end.condition, f"{name}.class"), 1, 0, 0)[0]
        for name, end in (("from", start), ("to", stop))
    ]
    if tensor.source == "condition" and len(tensor.shape) == 1:
        return _lerp(ends[0], ends[1], parts)
    longest = [
        max(sizes) for sizes in zip(ends[0].shape, ends[1].shape, strict=True)
    ]  # texts have lengths of their own
    ends = [np.pad(end, [(0, size - own) for size, own in zip(longest, end.shape, strict=True)]) for end in ends]
    return np.stack([ends[int(part > 0.5)] for part in parts])


def _is_open(manifest: Manifest, end: End) -> bool:
    """Return whether an end does not state all latents, so that the seed of the request draws the others."""
    if end.latent is not None:
        return len(by_role(manifest, end.latent)) < len(manifest.latents)
    if end.data is not None:
        return len(encoded_latents(manifest)) < len(manifest.latents)
    return end.seed is None


def _at(numbers: Numbers | None, place: int) -> Numbers:
    """Return the numbers of one step of the path."""
    return {name: np.atleast_1d(np.asarray(value))[place] for name, value in (numbers or {}).items() if np.size(value)}


def _latents_of(manifest: Manifest, name: str, end: End, seed: int, numbers: Numbers) -> Steps[dict[str, Float32]]:
    """Return the latents of an end, (*shape) each, by role. `name` is from or to."""
    given: dict[str, Float32] = {}
    check_seed(end.seed, end.first, 1, needed=False, prefix=f"{name}.")
    if end.latent is not None:
        given = by_role(manifest, end.latent)
        _check_shapes(manifest, given, f"{name}.latent")
    elif end.data is not None:
        encoder = require(manifest, "encode", "encode")
        for tensor in encoder.inputs:
            if tensor.source in CONDITIONS:
                required(manifest, tensor, end.condition, f"{name}.class")
        own = end.condition if takes(encoder) else None
        if not encoded_latents(manifest):
            raise cannot(manifest, "interpolate between items: its task encode returns no latents")
        encoded = yield from encode(manifest, end.data[None], condition=own, numbers=numbers_of(encoder, numbers))
        given = {role: latents[0] for role, latents in by_role(manifest, encoded.latent).items()}
    elif end.seed is not None:
        seed = end.seed
    return given if len(given) == len(manifest.latents) else {**_drawn(manifest, seed, end.first), **given}


def _check_shapes(manifest: Manifest, given: dict[str, Float32], field: str) -> None:
    """Raise InvalidValue if a latent does not have its shape."""
    for role, latent in given.items():
        dims, place = tuple(manifest.latents[role].dims), f"{field}.{role}" if manifest.has_named_latents else field
        if latent.shape != dims:
            raise InvalidValue(f"{place}: the shape is {list(latent.shape)}; give {list(dims)}", field=place)


def _drawn(manifest: Manifest, seed: int, first: int) -> dict[str, Float32]:
    drawn = {}
    for role in manifest.latents:
        stream = latent_stream(manifest, role if manifest.has_named_latents else None)
        drawn[role] = draw_latents(manifest, None, seed, first, 1, stream, 1.0, role)[0]
    return drawn


def _path(method: str, start: Float32, stop: Float32, parts: Float64) -> Float32:
    """Return a path between latents of any shape."""
    return PATHS[method](start.ravel(), stop.ravel(), parts).reshape(len(parts), *start.shape)


def _lerp(start: Float32, stop: Float32, parts: Float64) -> Float32:
    """Return a straight line; the ends are exact."""
    line: Float32 = ((1 - parts)[:, None] * start + parts[:, None] * stop).astype(np.float32)
    return line


def _slerp(start: Float32, stop: Float32, parts: Float64) -> Float32:
    """Return an arc of a great circle (Shoemake, 1985). It keeps normal latents at a likely length. Nearly parallel ends get a straight line."""
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


CAPABILITIES = (
    Capability(
        "interpolate", 40, lambda manifest: "decode" in manifest.tasks and manifest.space is not None,
        lambda manifest: ": it has no latent space" * (manifest.space is None),
    ),
)  # fmt: skip
