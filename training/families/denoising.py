"""A denoising autoencoder (Vincent et al., 2008, "Extracting and composing robust features with denoising autoencoders"), or a VAE with the same
criterion (Im et al., 2017, "Denoising criterion for variational auto-encoding framework", arXiv 1511.06406).

The recipe is that of the VAE. The encoder gets a corrupted image, and the loss is computed for the clean one, so /reconstruct turns a noisy image
into a clean one. With `variational=False` the model is the autoencoder of Vincent et al.

With x' for the corrupted image, the loss of the VAE is the mean over corruptions of -log p(x | z) under q(z | x'), plus KL(q(z | x') || p(z)). For
each x' the distribution q(z | x') is a valid proposal for the posterior of the clean x, so its ELBO is a lower bound on log p(x), and so is the mean
over x'. It is a looser bound than the ELBO with the mixture of all q(z | x') as the proposal, by the mutual information of x' and z at this x.
The figure of the test split by the name of the ELBO has the clean image as the encoder's input. It is a bound too, but not the criterion.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from manifold.runtime.kinds.image import ImageSpec
from manifold.runtime.manifest import Metric
from manifold.training.batches import in_order
from manifold.training.data import Data
from manifold.training.errors import TrainingError
from manifold.training.exporting.tasks import Exports
from manifold.training.families import vae
from manifold.training.families.vae import VAE, draw, evaluate, finish, monitor, phases
from manifold.training.means import Means

ITEMS = ("images",)

__all__ = [
    "PRESETS",
    "Config",
    "build",
    "corrupted",
    "draw",
    "evaluate",
    "exports",
    "finish",
    "monitor",
    "phases",
    "report",
    "resolve",
]

Corruption = Literal["gaussian", "masking", "salt-and-pepper"]


class Config(vae.Config):
    """The options of the family."""

    likelihood: str = (
        "gaussian"  # binarised pixels cannot be corrupted, so `bernoulli` is only for images of two levels
    )
    # gaussian: noise N(0, level²), cut to [0, 1]; masking: a share `level` of the values is 0; salt-and-pepper: it is 0 or 1
    corruption: Corruption = "gaussian"
    level: float = Field(0.4, ge=0)  # standard deviation of the noise, or share of the values; 0: no corruption

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.corruption != "gaussian" and self.level > 1:
            raise TrainingError(
                f"level: {self.level:g} is the share of values to corrupt and must be at most 1", field="level"
            )
        return self


PRESETS: dict[str, dict[str, Any]] = {
    "smoke": vae.PRESETS["smoke"],
    "cpu": {"epochs": 30},
    "gpu": {"epochs": 200, "schedule": "cosine"},
}


def corrupted(kind: str, level: float, x: Tensor, generator: torch.Generator) -> Tensor:
    """Return the values x in [0, 1], of any shape, with a corruption of `Config`. Level 0 draws no random numbers."""
    if not level:
        return x
    if kind == "gaussian":
        return (x + level * torch.randn(x.shape, generator=generator, device=x.device)).clamp(0, 1)
    chosen = torch.rand(x.shape, generator=generator, device=x.device)
    value = (chosen < level / 2).to(x.dtype) if kind == "salt-and-pepper" else torch.zeros_like(x)
    return torch.where(chosen < level, value, x)


def resolve(config: Config, data: Data) -> Config:
    """Return the config with the options that depend on the data. Raises TrainingError for a likelihood that would binarise noisy images."""
    spec = ImageSpec.of(data.spec, f"data: {data.name}")
    resolved = vae.resolve(config, data)
    if resolved.likelihood == "bernoulli" and (spec.levels != 2 or config.corruption == "gaussian"):
        raise TrainingError(
            "likelihood: 'bernoulli' binarises the encoder's input, so that the noise is not that of the option `corruption`; use 'gaussian'",
            field="likelihood",
        )
    return resolved


class DenoisingVAE(VAE):
    """A VAE or autoencoder whose encoder gets corrupted items in losses. In graphs it gets the items of a request, which may be noisy."""

    config: Config

    def seen(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return corrupted(self.config.corruption, self.config.level, x, generator)


def build(config: Config, data: Data) -> DenoisingVAE:
    """Return a model with initial weights."""
    return DenoisingVAE(config, data)


@torch.no_grad()
def report(model: DenoisingVAE, config: Config, data: Data) -> list[Metric]:
    """Return the VAE's figures, with clean images as the input, and the PSNR of corrupted and of denoised test images in dB."""
    generator = torch.Generator(next(model.parameters()).device).manual_seed(config.seed)
    means = Means()
    for batch in in_order(data.test, 500, generator):
        x = batch.items.flatten(1)
        noisy = corrupted(config.corruption, config.level, x, generator)
        mean, _ = model.encode(model.likelihood.settle(noisy))
        means.add({"psnr_noisy": psnr(noisy, x), "psnr_denoised": psnr(model.decoded(mean).flatten(1), x)})
    protocol = {
        **data.protocol, "corruption": config.corruption, "level": config.level, "n": len(data.test), "seed": config.seed,
        "is": "mean over images of 10 log10(1 / mse), against the clean images",
    }  # fmt: skip
    found = [
        Metric(name=name, value=round(means[name], 4), se=means.se(name), unit="dB", protocol=protocol)
        for name in ("psnr_noisy", "psnr_denoised")
    ]
    return [*vae.report(model, config, data), *found]


def psnr(images: Tensor, clean: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio of images (B, D) in [0, 1] in dB, as (B,). Errors below 1e-10 count as 1e-10, which is 100 dB."""
    return -10 * (images - clean).square().mean(1).clamp(min=1e-10).log10()


def exports(model: DenoisingVAE, config: Config, data: Data) -> Exports:
    """Return the VAE's tasks. The description states the corruption."""
    exported = vae.exports(model, config, data)
    amount = "standard deviation" if config.corruption == "gaussian" else "share"
    rule = f" Trained to remove {config.corruption} noise of {amount} {config.level:g}."
    return replace(exported, description=f"Denoising {exported.description[0].lower()}{exported.description[1:]}{rule}")
