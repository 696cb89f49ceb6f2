"""The posterior or the codes of items, and their reconstruction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from manifold.runtime import sampling
from manifold.runtime.conditions import Given
from manifold.runtime.inputs import Numbers, check_numbers, check_seed, noise
from manifold.runtime.kinds import Kind
from manifold.runtime.manifest import Manifest
from manifold.runtime.operations.common import (
    Capability,
    Latents,
    as_stated,
    cannot,
    check_takes,
    key_of,
    latent_inputs,
    numbers_of,
    others_of,
    require,
    role_of,
    stated,
    takes,
    why_not_encode,
    with_data,
)
from manifold.runtime.operations.steps import Array, Float32, Float64, Run, Steps
from manifold.runtime.shown import ShownItems, columns, shape_of
from manifold.runtime.tabular import Tabular

POSTERIOR_STREAMS = 2**37  # + its place: the stream of a latent's posterior, from the second latent on


@dataclass(frozen=True, repr=False)
class Encoded(Tabular):
    """The posterior of items, their codes, or both."""

    mean: Latents | None = None
    log_variance: Latents | None = None
    latents: Latents | None = None  # a draw, if a seed was given
    codes: Array | None = None
    seed: int | None = None

    @property
    def latent(self) -> Latents:
        """The draw if a seed was given, else the posterior mean."""
        chosen = self.mean if self.latents is None else self.latents
        assert chosen is not None
        return chosen

    @property
    def placed(self) -> Float32:
        """The draw or the mean of a model with one latent."""
        latent: Float32 = self.latent
        return latent

    def table(self) -> dict[str, list[Any]]:
        """Return a row for each item, with a column for each number, such as mean.0, or ROLE.mean.0 of latents by role."""
        found: dict[str, Array] = {}
        for name in ("mean", "log_variance", "latents"):
            value = getattr(self, name)
            if isinstance(value, Mapping):
                found |= {f"{role}.{name}": each for role, each in value.items()}
            elif value is not None:
                found[name] = value
        if self.codes is not None:
            found["codes"] = self.codes
        made: dict[str, list[Any]] = {}
        for name, array in found.items():
            flat = array.reshape(len(array), -1)
            made |= {f"{name}.{place}": flat[:, place].tolist() for place in range(flat.shape[1])}
        return made

    def __repr__(self) -> str:
        parts = {name: getattr(self, name) for name in ("mean", "log_variance", "latents", "codes")}
        said = [f"{name} {shape_of(value)}" for name, value in parts.items() if value is not None]
        return f"<Encoded: {', '.join(said)}>"


@dataclass(frozen=True, repr=False)
class Reconstructed(ShownItems):
    """Items after encode and decode."""

    data: Array
    errors: Float64  # (n,) mean squared error, in the unit that the kind of data names
    seed: int | None = None
    others: dict[str, Array] = field(default_factory=dict)  # outputs beside `data`, by role
    spec: Kind | None = field(default=None, compare=False)  # the kind of the items

    def table(self) -> dict[str, list[Any]]:
        """Return the rows by column, if the items are rows, and the column `error`. If the rows have such a column, it is `error_` instead."""
        made = columns(self.rows()) if self.spec is not None and self.spec.in_files else {}
        name = "error"
        while name in made:
            name += "_"
        return {**made, name: self.errors.tolist()}


def encode(
    manifest: Manifest, data: Array, *, seed: int | None = None, first: int = 0, condition: Given | None = None,
    numbers: Numbers | None = None,
) -> Steps[Encoded]:  # fmt: skip
    """Return the posterior or the codes of data (n, *shape). If a seed is given, return a draw from the posterior too.

    A draw is made here from the mean and the variance, or by the graph from normals. Without a seed, these are 0.
    """
    spec = require(manifest, "encode", "encode")
    check_seed(seed, first, len(data), needed=False)
    check_numbers(manifest, [spec], numbers or {})
    inputs = with_data(manifest, spec, data, condition, numbers)
    drawing = spec.input("normal")
    if drawing is not None:
        given = noise(spec, seed, first, len(data)) if seed is not None else {}
        zeros = np.zeros((len(data), *drawing.shape), np.float32)
        inputs = {**inputs, drawing.role: given.get(drawing.role, zeros)}
    outputs = yield Run("encode", inputs)
    means = _parts(manifest, outputs, "mean")
    if len(means) < (len(manifest.latents) or 1):  # some latents are outputs themselves, without a posterior
        plain = _parts(manifest, outputs, "latent")
        known = {**plain, **means}
        means = {role: known[role] for role in manifest.latents or known if role in known}
    log_variances = _parts(manifest, outputs, "log_variance")
    seed = seed if log_variances or drawing else None  # without a variance nothing is drawn
    drawn_here = {} if seed is None or drawing else _drawn(means, log_variances, seed, first)
    draws = _parts(manifest, outputs, "draw") if seed is not None and drawing else drawn_here
    mean, log_variance, drawn = (as_stated(manifest, each) if each else None for each in (means, log_variances, draws))
    return Encoded(mean, log_variance, drawn, outputs.get("codes"), seed)


def _parts(manifest: Manifest, outputs: dict[str, Array], part: str) -> dict[str, Float32]:
    """Return one part of the posterior of each latent, by the latent's role."""
    if not manifest.has_named_latents:
        return {next(iter(manifest.latents), "latent"): outputs[part]} if part in outputs else {}
    roles = {role: role if part == "latent" else f"{role}.{part}" for role in manifest.latents}
    return {role: outputs[name] for role, name in roles.items() if name in outputs}


def _drawn(means: dict[str, Float32], log_variances: dict[str, Float32], seed: int, first: int) -> dict[str, Float32]:
    """Return a draw from the posterior of each latent. A latent without a variance is its mean."""
    draws = dict(means)
    for place, (role, mean) in enumerate(means.items()):
        if role in log_variances:
            stream = POSTERIOR_STREAMS + place if place else sampling.POSTERIOR_STREAM
            noise = sampling.normal(seed, first, len(mean), stream, mean.shape[1:])
            draws[role] = mean + np.exp(0.5 * log_variances[role].astype(np.float64)).astype(np.float32) * noise
    return draws


def reconstruct(
    manifest: Manifest, data: Array, *, seed: int | None = None, first: int = 0, condition: Given | None = None,
    target: Given | None = None, numbers: Numbers | None = None,
) -> Steps[Reconstructed]:  # fmt: skip
    """Encode and decode data, through the posterior mean, or through a draw if a seed is given. Without a seed, noise of the decoder is that of seed 0.

    `condition` is the condition of the items. `target` is the condition that they are decoded under, if it differs: the style stays, the class
    changes.
    """
    task = reconstruction_task(manifest)
    if task is None:
        raise cannot(manifest, "reconstruct")
    encoder, spec = manifest.tasks["encode"], manifest.tasks[task]
    check_takes(manifest, [spec, encoder], condition)
    check_takes(manifest, [spec], target, "target_class")
    check_numbers(manifest, [encoder, spec], numbers or {})
    of_encoder, own = condition if takes(encoder) else None, numbers_of(encoder, numbers)
    encoded = yield from encode(manifest, data, seed=seed, first=first, condition=of_encoder, numbers=own)
    inputs = stated(manifest, spec, condition if target is None else target, len(data), numbers)
    inputs |= noise(spec, seed or 0, first, len(data))
    if task == "decode":
        inputs |= latent_inputs(manifest, spec, encoded.latent)
    else:
        assert encoded.codes is not None
        inputs[role_of(spec, "codes")] = encoded.codes
    outputs = yield Run(task, inputs)
    back = outputs[manifest.main]
    return Reconstructed(
        back, manifest.spec.errors(data, back), encoded.seed, others_of(manifest, outputs), manifest.spec
    )


def reconstruction_task(manifest: Manifest) -> str | None:
    """Return decode if the model encodes to all latents that it decodes, decode_codes if it encodes to codes, and None otherwise."""
    encoder, decoder = manifest.task("encode"), manifest.task("decode")
    if encoder is None:
        return None
    if decoder is not None:
        given = encoded_latents(manifest)
        taken = [key_of(manifest, tensor) for tensor in decoder.latents]
        if taken and all(role in given for role in taken):
            return "decode"
    return "decode_codes" if "decode_codes" in manifest.tasks and "codes" in encoder.roles else None


def encoded_latents(manifest: Manifest) -> list[str]:
    """Return the roles of the latents that are outputs of the task encode."""
    encoder = manifest.task("encode")
    roles = encoder.roles if encoder else []
    if not manifest.has_named_latents:
        return list(manifest.latents) if "mean" in roles or "latent" in roles else []
    return [role for role in manifest.latents if role in roles or f"{role}.mean" in roles]


CAPABILITIES = (
    Capability("encode", 20, lambda manifest: "encode" in manifest.tasks, why_not_encode),
    Capability("reconstruct", 30, lambda manifest: reconstruction_task(manifest) is not None, why_not_encode),
)
