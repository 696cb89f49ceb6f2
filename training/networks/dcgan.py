"""The convolutions of DCGAN (Radford, Metz and Chintala, 2015, arXiv 1511.06434). Each of its rules can be turned off.

The rules are:

- strides instead of pooling
- batch normalisation, except at the layers that take or return images
- ReLU and a final tanh in the generating half, LeakyReLU in the reading half

Both halves are here. The families use them as an adversarial pair or as an autoencoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from manifold.training.errors import TrainingError

Rule = Literal["strides", "normalise", "activations"]
RULES: tuple[Rule, ...] = get_args(Rule)
SLOPE = 0.2  # slope of LeakyReLU below zero
SETTLE = 50  # number of power iterations before a spectral norm is removed


class ConditionalNorm(nn.Module):
    """A batch normalisation with a scale and a shift for each class (de Vries et al., 2017, arXiv 1707.00683). Class weights (B, C) mix them."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.scale = nn.Linear(classes, channels, bias=False)
        self.shift = nn.Linear(classes, channels, bias=False)
        nn.init.ones_(self.scale.weight)
        nn.init.zeros_(self.shift.weight)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        normal: Tensor = self.norm(x)
        out: Tensor = normal * self.scale(c)[:, :, None, None] + self.shift(c)[:, :, None, None]
        return out


class Up(nn.Module):
    """The generating half: (B, widths[0], h, w) to (B, channels, h 2^n, w 2^n) before the last activation, n = len(widths)."""

    def __init__(self, widths: Sequence[int], channels: int, rules: Sequence[str] = RULES, classes: int = 0) -> None:
        super().__init__()
        norms: list[nn.Module] = []
        layers: list[nn.Module] = []
        for before, after in pairwise([*widths, channels]):
            norms.append(_norm(before, rules, classes))
            if "strides" in rules:
                layers.append(nn.ConvTranspose2d(before, after, 4, stride=2, padding=1))
            else:
                layers.append(nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(before, after, 3, padding=1)))
        self.norms, self.layers = nn.ModuleList(norms), nn.ModuleList(layers)
        self.activation = nn.ReLU() if "activations" in rules else nn.Tanh()
        self.apply(initialise)

    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        for norm, layer in zip(self.norms, self.layers, strict=True):
            x = norm(x, c) if isinstance(norm, ConditionalNorm) else norm(x)
            x = layer(self.activation(x))
        return x


class SpectralNorm(parametrizations._SpectralNorm):
    """torch's spectral norm in single precision, also under autocast."""

    def forward(self, weight: Tensor) -> Tensor:
        with torch.autocast(weight.device.type, enabled=False):
            normed: Tensor = super().forward(weight)
        return normed


def spectral_norm(layer: nn.Module) -> nn.Module:
    """Divide the weight of a linear layer or a convolution by its spectral norm, which one power iteration per pass estimates. Return the layer."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return parametrize.register_parametrization(layer, "weight", SpectralNorm(weight))


def down(channels: int, widths: Sequence[int], rules: Sequence[str] = RULES, spectral: bool = False) -> nn.Sequential:
    """Map images (B, channels, H, W) to features (B, widths[-1], H / 2^n, W / 2^n).

    A spectral norm (Miyato et al., 2018, arXiv 1802.05957) replaces batch normalisation, whose scales would cancel it.
    """
    layers: list[nn.Module] = []
    for place, (before, after) in enumerate(pairwise([channels, *widths])):
        strided = "strides" in rules
        convolution = nn.Conv2d(before, after, 4, 2, 1) if strided else nn.Conv2d(before, after, 3, padding=1)
        layers.append(spectral_norm(convolution) if spectral else convolution)
        if place and not spectral:
            layers.append(_norm(after, rules, 0))
        layers.append(nn.LeakyReLU(SLOPE) if "activations" in rules else nn.ReLU())
        if not strided:
            layers.append(nn.MaxPool2d(2))
    made = nn.Sequential(*layers)
    made.apply(initialise)
    return made


def _norm(channels: int, rules: Sequence[str], classes: int) -> nn.Module:
    if "normalise" not in rules:
        return nn.Identity()
    return ConditionalNorm(channels, classes) if classes else nn.BatchNorm2d(channels)


def initialise(module: nn.Module) -> None:
    """Initialise weights from N(0, 0.02²) and scales of batch normalisation from N(1, 0.02²), as in the paper."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d) and module.affine:
        nn.init.normal_(module.weight, 1.0, 0.02)


def check(shape: Sequence[int], widths: Sequence[int]) -> tuple[int, int, int]:
    """Return the channels, and the height and width after one halving per width.

    Raises TrainingError for items that are not images, or if their size cannot be halved often enough.
    """
    if len(shape) != 3 or any(side % 2 ** len(widths) for side in shape[1:]):
        raise TrainingError(
            f"widths: {len(widths)} widths halve the image size {len(widths)} times, but {list(shape)} does not allow it; use fewer, or body 'mlp'",
            field="widths",
        )
    channels, height, width = shape
    return channels, height // 2 ** len(widths), width // 2 ** len(widths)


@torch.no_grad()
def without_spectral_norm(module: nn.Module) -> nn.Module:
    """Divide the module's weights by their spectral norms permanently, so that its graph has plain convolutions. Return the module itself."""
    for part in list(module.modules()):
        if not parametrize.is_parametrized(part, "weight"):
            continue
        part.train()
        for _ in range(
            SETTLE
        ):  # the power iteration's vectors fit the last weight, which differs slightly from the average
            _ = part.weight
        part.eval()
        parametrize.remove_parametrizations(part, "weight", leave_parametrized=True)
    return module
