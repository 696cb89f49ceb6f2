"""The latents and codes of a model, and the priors over its latents."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PrivateAttr, model_validator

from manifold.runtime.manifest.tensors import Size
from manifold.runtime.records import Record

PRIORS_FILE = "priors.npz"  # its name where this project writes it
LARGEST = 65_536  # values of a latent

Vector = tuple[float, ...]
Matrix = tuple[Vector, ...]
Components = tuple[
    NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]
]  # weights (K,), means (K, L), factors (K, L, L)

FILE = Field(
    default=None, description="npz with LATENT.PRIOR.weights, .means and .choleskys, instead of the numbers here"
)


class NormalPrior(Record):
    """Standard normal, N(0, I)."""

    kind: Literal["normal"] = "normal"


class FittedPrior(Record):
    """A mixture of Gaussians that was fitted to the posterior means after training. Its numbers are in the manifest or in a file beside it."""

    fields: ClassVar[tuple[str, ...]]  # of the numbers, where they are in the manifest

    kind: str
    file: str | None = FILE

    _components: Components | None = PrivateAttr(default=None)

    @property
    def components(self) -> Components:
        """The mixture as arrays."""
        if self._components is None:
            assert self.file is None, "the loader reads the file of a prior before anybody draws from it"
            self._components = self._stated()
        return self._components

    def __eq__(self, other: object) -> bool:
        """Return whether both have the same fields, whether or not a file has been read."""
        return type(self) is type(other) and self.model_dump() == other.model_dump()

    def __hash__(self) -> int:
        return hash((self.kind, self.file))

    def load(self, components: Components) -> None:
        """Take the numbers of the prior's file."""
        self._components = components

    def _stated(self) -> Components:
        """Return the numbers that the manifest states."""
        raise NotImplementedError

    @model_validator(mode="after")
    def _check_source(self) -> FittedPrior:
        stated = [name for name in self.fields if getattr(self, name) is not None]
        if self.file is not None and stated:
            raise ValueError(f"file: the numbers are in the file or in {', '.join(stated)}, not in both")
        if self.file is None and len(stated) != len(self.fields):
            raise ValueError(f"{', '.join(self.fields)}, or a file, are needed")
        return self


class GaussianPrior(FittedPrior):
    """N(mean, cholesky choleskyᵀ), fitted to the posterior means after training."""

    fields: ClassVar[tuple[str, ...]] = ("mean", "cholesky")

    kind: Literal["gaussian"] = "gaussian"
    mean: Vector | None = None
    cholesky: Matrix | None = None

    def _stated(self) -> Components:
        return np.ones(1), np.asarray([self.mean]), np.asarray([self.cholesky])


class MixturePrior(FittedPrior):
    """Σ weights N(means, choleskys choleskysᵀ), fitted to the posterior means after training."""

    fields: ClassVar[tuple[str, ...]] = ("weights", "means", "choleskys")

    kind: Literal["mixture"] = "mixture"
    weights: Annotated[Vector, Field(min_length=1)] | None = None
    means: Matrix | None = None
    choleskys: tuple[Matrix, ...] | None = None

    def _stated(self) -> Components:
        return np.asarray(self.weights), np.asarray(self.means), np.asarray(self.choleskys)

    @model_validator(mode="after")
    def _check(self) -> MixturePrior:
        if self.weights is None or self.means is None or self.choleskys is None:
            return self
        if any(weight < 0 for weight in self.weights) or not math.isclose(sum(self.weights), 1, rel_tol=1e-6):
            raise ValueError("weights must be at least 0 and add up to 1")
        if not len(self.weights) == len(self.means) == len(self.choleskys):
            raise ValueError("weights, means and choleskys need one entry a component")
        return self


Prior = Annotated[NormalPrior | GaussianPrior | MixturePrior, Field(discriminator="kind")]


def _normal() -> dict[str, Prior]:
    return {"normal": NormalPrior()}


class LatentSpec(Record):
    """A latent, float32 (B, *shape). A vector may state its `size` instead of a shape."""

    size: Annotated[int, Field(ge=1, le=LARGEST)] | None = Field(default=None, description="of a vector")
    shape: Annotated[tuple[Size, ...], Field(min_length=1)] | None = Field(
        default=None, description="of any other latent"
    )
    priors: dict[str, Prior] = Field(
        default_factory=_normal, description="none if a latent comes from data alone: vectors before a codebook"
    )
    default_prior: str | None = Field(default=None, description="the first of the priors where left out")
    interpolation: Literal["slerp", "lerp"] = "slerp"

    @property
    def dims(self) -> tuple[int, ...]:
        """The shape, also of a vector."""
        return self.shape or (self.size or 0,)

    @property
    def count(self) -> int:
        """The number of values."""
        return math.prod(self.dims)

    @property
    def prior(self) -> str | None:
        """The prior that is drawn from if a request names none; None if there is none."""
        return self.default_prior or next(iter(self.priors), None)

    def fitted(self) -> Iterator[tuple[str, FittedPrior]]:
        """Yield the priors that were fitted, with their names."""
        return ((name, prior) for name, prior in self.priors.items() if isinstance(prior, FittedPrior))

    @model_validator(mode="after")
    def _check(self) -> LatentSpec:
        if (self.size is None) == (self.shape is None):
            raise ValueError("size: a latent has either a size or a shape")
        if self.count > LARGEST:
            raise ValueError(f"shape: {list(self.dims)} has {self.count} values, the limit is {LARGEST}")
        if self.default_prior is not None and self.default_prior not in self.priors:
            raise ValueError(f"default_prior {self.default_prior!r} is not among the priors {sorted(self.priors)}")
        for name, prior in self.fitted():
            if not all(self._has_size(mean, cholesky) for mean, cholesky in _parts(prior)):
                raise ValueError(f"prior {name!r} does not have the latent's size {self.count}")
        return self

    def _has_size(self, mean: Vector, cholesky: Matrix) -> bool:
        return {len(mean), len(cholesky), *map(len, cholesky)} == {self.count}


def _parts(prior: FittedPrior) -> Iterator[tuple[Vector, Matrix]]:
    """Yield mean and factor of each component whose numbers the manifest states."""
    stated: dict[str, Any] = {name: getattr(prior, name) for name in prior.fields}
    if isinstance(prior, GaussianPrior) and prior.file is None:
        yield stated["mean"], stated["cholesky"]
    elif isinstance(prior, MixturePrior) and prior.file is None:
        yield from zip(stated["means"], stated["choleskys"], strict=True)


class CodesSpec(Record):
    """A grid of integer codes, int64 (B, *shape), each 0..levels-1."""

    shape: tuple[Size, ...] = Field(min_length=1)
    levels: int = Field(ge=2)
