"""The interface of a law: its noise, its draws, its log density, and its moments and distribution function if they have closed forms."""

from __future__ import annotations

import abc
import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from manifold.training.errors import TrainingError


@dataclass(frozen=True)
class Noise:
    """A random input of a draw: standard normal values, or uniform values from 0 to 1. Each draw needs an array of this `shape`."""

    kind: Literal["normal", "uniform"]
    shape: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Law(abc.ABC):
    """A probability law. Its fields are tensors, whose shapes broadcast to the shape `batch`.

    A value of the law has the shape (*batch, *event). `event` is () for all laws but the multivariate ones. Draws have the shape
    (*sample, *batch, *event), and noise has the shape (*sample, *batch, *noise.shape) with the same `sample`, for example (S,).

    The parameters are checked when a law is created: TrainingError is raised for an invalid one, which includes NaN and infinity. The check reads
    values, so that a GPU waits for it; `checked=False` omits it. It is also omitted while a graph is exported, as there are no values.
    """

    checked: bool = dataclasses.field(default=True, kw_only=True)

    POSITIVE: ClassVar[tuple[str, ...]] = ()  # the parameters that must be greater than 0

    def __post_init__(self) -> None:
        """Raise TrainingError for an invalid parameter."""
        if self.checked and not _has_no_values():
            self.check()
            for each in dataclasses.fields(self):
                value = getattr(self, each.name)
                if isinstance(value, Tensor):
                    self.require(each.name, value.isfinite(), "finite")

    def check(self) -> None:
        """Raise TrainingError for an invalid parameter."""
        for name in self.POSITIVE:
            self.require(name, getattr(self, name) > 0, "greater than 0")

    def require(self, name: str, valid: Tensor, rule: str) -> None:
        """Raise TrainingError if `valid` is false for a value of a parameter. `rule` says how values must be."""
        if not bool(valid.all()):
            value = getattr(self, name)
            first = value.expand(valid.shape)[~valid].flatten()[0].item() if value.dim() <= valid.dim() else None
            found = "" if first is None else f"; a value is {first:g}"
            raise TrainingError(
                f"{type(self).__name__}: {name} must be {rule}{found}; correct it, or compute it with a function such as exp",
                field=name,
            )

    @property
    @abc.abstractmethod
    def noise(self) -> tuple[Noise, ...]:
        """The random inputs of one draw, in the order of the arguments of `draw`."""

    @abc.abstractmethod
    def draw(self, *noise: Tensor) -> Tensor:
        """Return draws (*sample, *batch, *event), which are differentiable in the parameters."""

    @abc.abstractmethod
    def log_density(self, x: Tensor) -> Tensor:
        """Return the log density in nats at x (*sample, *batch, *event), as (*sample, *batch). It is -inf outside of the support and NaN at NaN.

        The terms cancel where parameters are large. In float32 the error of laws that are made of gamma draws, and of Student's, is about 1e-7 nats
        times the parameter (concentration or degrees of freedom); use float64 for those above 1e4.
        """

    @property
    def event(self) -> tuple[int, ...]:
        """The shape of one value."""
        return ()

    @property
    def batch(self) -> tuple[int, ...]:
        """The shape to which the parameters broadcast."""
        return common(*(tuple(tensor.shape) for tensor in self._parameters()))

    @property
    def mean(self) -> Tensor:
        """The mean (*batch, *event): inf or NaN if the integral diverges. Raises NotImplementedError if it has no closed form here."""
        raise NotImplementedError(f"{type(self).__name__} has no closed form of the mean")

    @property
    def variance(self) -> Tensor:
        """The variance of each coordinate (*batch, *event): inf or NaN if it diverges. Raises NotImplementedError if it has no closed form here."""
        raise NotImplementedError(f"{type(self).__name__} has no closed form of the variance")

    def cdf(self, x: Tensor) -> Tensor:
        """Return P(X ≤ x) for x (*sample, *batch). Raises NotImplementedError if torch has no function for it."""
        raise NotImplementedError(f"{type(self).__name__} has no distribution function in torch")

    def random(self, sample: tuple[int, ...] = (), generator: torch.Generator | None = None) -> tuple[Tensor, ...]:
        """Return noise for draws (*sample, *batch, *event), of the type and device of the parameters."""
        like = self._parameters()[0]
        made = {"normal": torch.randn, "uniform": torch.rand}
        return tuple(
            made[each.kind]((*sample, *self.batch, *each.shape), generator=generator, dtype=like.dtype, device=like.device)
            for each in self.noise
        )  # fmt: skip

    def _parameters(self) -> list[Tensor]:
        """Return the parameters."""
        values = (getattr(self, each.name) for each in dataclasses.fields(self))
        return [value for value in values if isinstance(value, Tensor)]


def _has_no_values() -> bool:
    """Return whether a graph is being exported."""
    return torch.compiler.is_compiling() or bool(torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]


def common(*shapes: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape to which shapes broadcast."""
    return tuple(torch.broadcast_shapes(*shapes))  # type: ignore[no-untyped-call]


def clipped(u: Tensor) -> Tensor:
    """Return uniforms within [2^-24, 1 - 2^-24], or [2^-53, 1 - 2^-53] in float64. Random uniforms of float32 contain 0, at which log u is -inf."""
    half = torch.finfo(u.dtype).eps / 2
    return u.clamp(min=half, max=1 - half)


def within(density: Tensor, inside: Tensor) -> Tensor:
    """Return log densities with -inf outside of the support. `inside` must be true for NaN, so that its density remains NaN."""
    return torch.where(inside, density, -torch.inf)
