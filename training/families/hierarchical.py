"""A hierarchical variational autoencoder: several levels of latents, each with a prior that is computed from the levels above it.

The networks, the three forms of inference and their papers are in training.networks.ladder. The likelihoods, the bounds and the tasks are those
of the family vae. The latent of the artifact is the noise ε of all levels, with the top level first, for which the prior is N(0, I): sampling,
interpolation, other priors and scores need no change in the service.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import model_validator
from torch import Tensor, nn

from manifold.runtime.errors import InvalidValue
from manifold.runtime.kinds.image import ImageSpec
from manifold.runtime.manifest import Metric
from manifold.training.batches import Batch, in_order
from manifold.training.bounds import ACTIVE, active_units, gaussian_kl
from manifold.training.data import Data
from manifold.training.elbo import rounded
from manifold.training.errors import TrainingError
from manifold.training.exporting.tasks import Exports
from manifold.training.families import vae
from manifold.training.families.vae import VAE, Draws, draw, evaluate, finish, resolve
from manifold.training.means import Means
from manifold.training.networks.ladder import GAIN, Dense, Down, Grid, Up, scaled
from manifold.training.networks.layers import exact, per_item
from manifold.training.networks.posteriors import Posterior, log_normal_density, sums
from manifold.training.networks.priors import Prior
from manifold.training.phases import Phase, Player
from manifold.training.recipes import Size

__all__ = [
    "PRESETS",
    "Config",
    "build",
    "draw",
    "evaluate",
    "exports",
    "finish",
    "monitor",
    "phases",
    "report",
    "resolve",
]


class Config(vae.BoundOptions):
    """The options of the family. Lists by level begin at level 1, which is next to the data."""

    variational: ClassVar[bool] = True

    body: Literal["mlp", "conv"] = "mlp"
    levels: tuple[Size, ...] = (32, 16, 8, 8, 4)  # latents of each level; for body conv, of each position of its grid
    widths: tuple[Size, ...] = (256, 192, 128, 96, 64)  # units of each level, or channels
    # side of the grid of each level, for body conv: each one divides that before it, or is equal
    sides: tuple[Size, ...] = ()
    # ladder: the prior times a Gaussian from the data; residual: relative to the prior; free: without a form
    inference: Literal["ladder", "residual", "free"] = "ladder"

    @model_validator(mode="after")
    def _check_levels(self) -> Self:
        if not self.levels:
            raise TrainingError(
                "levels: must have at least one entry, the number of latents of level 1", field="levels"
            )
        if self.body == "conv" and not self.sides:
            raise TrainingError(
                "sides: the body conv needs the side of the grid of each level, each one a divisor of that before it, such as 14, 7 and 1 for images "
                "of 28x28; give them, or choose body=mlp, which also takes rows",
                field="sides",
            )
        for name in ("widths", *(("sides",) if self.body == "conv" else ())):
            if len(getattr(self, name)) != len(self.levels):
                raise TrainingError(
                    f"{name}: has {len(getattr(self, name))} entries; it must have one for each of the {len(self.levels)} levels",
                    field=name,
                )
        if self.body == "mlp" and self.batch_size == 1:
            raise TrainingError(
                "batch_size: 1 is too small for body mlp, whose batch normalisation needs at least 2 items; use 2 or more, or choose body=conv",
                field="batch_size",
            )
        if self.body == "mlp" and self.sides:
            raise TrainingError("sides: only the body conv has grids; set sides=[], or choose body=conv", field="sides")
        return self


PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {"epochs": 2, "levels": (4, 2), "widths": (32, 16), "test_items": 200, "iwae_k": 5, "ema": 0.9},
    "cpu": {"epochs": 180, "schedule": "cosine", "kl_warmup": 30, "clip_norm": 20.0, "batch_size": 200, "lr": 2e-3},
    "gpu": {
        "epochs": 400,
        "body": "conv",
        "levels": (1, 2, 2, 2, 8, 16),
        "widths": (64, 96, 96, 96, 128, 128),
        "sides": (14, 7, 7, 7, 1, 1),
        "schedule": "cosine",
        "kl_warmup": 20,
        "clip_norm": 200.0,
        "stored": "float16",
    },
}  # fmt: skip


class Noise(Posterior):
    """The posterior of the noise of all levels. Its parameters depend on the draws of the levels above, so that it has no moments in closed form."""

    diagonal = closed = False


class Levels(Prior):
    """N(0, I) of the noise of all levels. The decoder's input is the last state of the levels, and not the latents."""

    def __init__(self, size: int, down: Down) -> None:
        super().__init__(size)
        self.down = down

    def from_latent(self, latent: Tensor) -> Tensor:
        return self.down.generated(latent)


class HierarchicalVAE(VAE):
    """The model. `decode` maps the last state of the levels (B, ...) to p(x | z), and `generate` maps latents (B, L) to it."""

    config: Any
    prior: Levels

    def __init__(self, config: Config, data: Data) -> None:
        nn.Module.__init__(self)
        self.config, self.spec, self.shape, self.width = config, data.spec, data.spec.shape, 0
        self.likelihood = vae.likelihood_of(config, data)
        layers: type[Dense | Grid] = Dense
        sides = config.sides or (1,) * len(config.levels)
        width, outside = config.widths[0], self.likelihood.width
        if config.body == "mlp":
            first: nn.Module = scaled(nn.Linear(math.prod(self.shape), width), 2 * GAIN)
            self.decoder: Any = nn.Sequential(*Dense.active(width), nn.Linear(width, outside))
        else:
            layers, scale = Grid, _scale(config, _image(data).height)
            channels, per_pixel = self.shape[0], outside // math.prod(self.shape[1:])
            first = nn.Sequential(
                nn.Unflatten(1, self.shape),
                nn.PixelUnshuffle(scale),
                scaled(nn.Conv2d(channels * scale**2, width, 3, padding=1), 2 * GAIN),
            )
            self.decoder = nn.Sequential(
                nn.SiLU(), nn.Conv2d(width, per_pixel * scale**2, 3, padding=1), nn.PixelShuffle(scale), nn.Flatten()
            )
        self.up = Up(layers, first, config.widths, sides)
        down = Down(layers, config.widths, config.levels, sides, config.inference)
        self.prior = Levels(sum(down.sizes), down)
        self.posterior_law = Noise(sum(down.sizes))

    @property
    def draws_in_graph(self) -> bool:
        return True

    @property
    def has_variance(self) -> bool:
        return True

    def inferred(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the last state, ε, m and log s (S B, L) of x (B, D) for normals (S, B, L)."""
        features = [
            each.repeat(noise.shape[0], *[1] * (each.dim() - 1)) for each in self.up(self.likelihood.evidence(x))
        ]
        return self.prior.down.inferred(features, noise.flatten(0, 1))

    def encode(self, x: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Map x (B, D) to mean and log-variance of ε (B, L). Those of a level are given the means of the levels above it."""
        _, _, mean, log_scale = self.inferred(x, torch.zeros_like(x[None, :, :1]).expand(-1, -1, self.noise_size))
        return mean, 2 * log_scale

    def drawn(self, x: Tensor, noise: Tensor, c: Tensor | None = None) -> Tensor:
        return self.inferred(x, noise[None])[1]

    def draws(self, x: Tensor, noise: Tensor, c: Tensor | None = None) -> Draws:
        """Return draws from the posteriors. The KL of a level is exact given the draws of the levels above it, and averaged over them."""
        h, latent, mean, log_scale = self.inferred(x, noise)
        log_q = log_normal_density(latent, mean, 2 * log_scale)
        log_ratio = sums((log_normal_density(latent) - log_q).view(noise.shape))
        return Draws(h, log_ratio, per_item(gaussian_kl(mean, 2 * log_scale)).view(noise.shape[:2]).mean(0))

    def by_dimension(self, x: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        return self.encode(x)[0], None  # the KL of a dimension depends on the draws of the levels above it

    def decode(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        """Map the last state of the levels (B, ...) to the parameters of p(x | z)."""
        return exact(self.decoder(z))

    def of_levels(self, values: Tensor) -> list[Tensor]:
        """Return the parts of values (B, L) by level, level 1 first."""
        return list(torch.split(values, self.prior.down.sizes, 1))[::-1]

    def kl_of_levels(self, x: Tensor, noise: Tensor) -> Tensor:
        """Return the KL of each level in nats (B, K), level 1 first, for x (B, D) and normals (1, B, L)."""
        _, _, mean, log_scale = self.inferred(x, noise)
        return torch.stack([per_item(part) for part in self.of_levels(gaussian_kl(mean, 2 * log_scale))], 1)


def _image(data: Data) -> ImageSpec:
    """Return the description of square images. Raises TrainingError for other data, which body conv does not take."""
    try:
        spec = ImageSpec.of(data.spec, "body: conv")
    except InvalidValue as error:
        raise TrainingError(f"{error}; choose body=mlp", field="body") from error
    if spec.height != spec.width:
        raise TrainingError(
            f"body: conv needs square images, and these are {spec.width}x{spec.height}; choose body=mlp", field="body"
        )
    return spec


def _scale(config: Config, side: int) -> int:
    """Return the side of the image in units of the grid of level 1. Raises TrainingError for sides that do not divide each other."""
    if any(before % after for before, after in pairwise((side, *config.sides))):
        raise TrainingError(
            f"sides: {list(config.sides)} do not fit images of {side}x{side}; each side must divide the one before it, and the first one {side}",
            field="sides",
        )
    return side // config.sides[0]


def build(config: Config, data: Data) -> HierarchicalVAE:
    """Return a model with initial weights."""
    return HierarchicalVAE(config, data)


def phases(model: Any, config: Config) -> list[Phase]:
    """Return one phase with one player."""
    return [Phase("vae", (Player("vae", tuple(model.parameters()), model.loss, config.lr),), config.epochs)]


def monitor(model: HierarchicalVAE, batch: Batch) -> dict[str, Any]:
    """Return the number of active units and the KL of each level, level 1 first."""
    x = model.likelihood.observe(batch.items.flatten(1), batch.generator)
    noise = torch.randn((1, x.shape[0], model.noise_size), generator=batch.generator, device=x.device)
    return {
        "active_units": active_units(model.encode(x)[0]),
        "kl_by_level": rounded(model.kl_of_levels(x, noise).mean(0)),
    }


@torch.no_grad()
def report(model: HierarchicalVAE, config: Config, data: Data) -> list[Metric]:
    """Return the figures of the family vae, and for each level its KL in nats and its number of active units."""
    generator = torch.Generator(next(model.parameters()).device).manual_seed(config.seed)
    names = [f"kl_level_{k + 1}" for k in range(len(config.levels))]
    means, places = Means(), []
    for batch in in_order(data.test, 1000, generator):
        x = model.likelihood.observe(batch.items.flatten(1), generator)
        noise = torch.randn((1, x.shape[0], model.noise_size), generator=generator, device=x.device)
        means.add(dict(zip(names, model.kl_of_levels(x, noise).unbind(1), strict=True)))
        places.append(model.encode(x)[0])
    protocol = {**data.protocol, "n": len(data.test), "seed": config.seed}
    of = "posterior and prior of the level's latents, given one draw of the levels above; level 1 is next to the data"
    active = [
        Metric(
            name=f"active_units_level_{k + 1}",
            value=active_units(part),
            unit=f"of {part.shape[1]}",
            protocol={
                **protocol,
                "rule": f"variance over the test split of the posterior mean, given the means of the levels above, in units of the prior, above {ACTIVE}",
            },
        )
        for k, part in enumerate(model.of_levels(torch.cat(places)))
    ]
    return [
        *vae.report(model, config, data),
        *means.metrics({name: {**protocol, "bound": f"KL between {of}"} for name in names}),
        *active,
    ]


def exports(model: HierarchicalVAE, config: Config, data: Data) -> Exports:
    """Return the tasks of the family vae."""
    return replace(vae.exported(model, config, data), description=_describe(model, config, data))


def _describe(model: HierarchicalVAE, config: Config, data: Data) -> str:
    body = "MLP" if config.body == "mlp" else "convolutions"
    sizes = "-".join(map(str, reversed(model.prior.down.sizes)))
    rule = " Grey pixels are binarised at 1/2." if config.likelihood == "bernoulli" else ""
    return (
        f"Hierarchical VAE on {data.name}: {len(config.levels)} levels of {sizes} latents, {config.inference} inference, {body} of "
        f"{'-'.join(map(str, config.widths))} units, {config.likelihood} likelihood.{rule}"
    )
