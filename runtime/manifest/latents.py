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

PRIORS_FILE = "priors.npz"  # the name that this project gives to the file
LARGEST = 65_536  # limit for the number of values of a latent

Vector = tuple[float, ...]
Matrix = tuple[Vector, ...]
Components = tuple[
    NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]
]  # weights (K,), means (K, L), factors (K, L, L)

FILE = Field(
    default=None,
    description="npz file with LATENT.PRIOR.weights, .means and .choleskys; replaces the numbers in the manifest",
)


class NormalPrior(Record):
    """A standard normal distribution, N(0, I)."""

    kind: Literal["normal"] = "normal"


class FittedPrior(Record):
    """A mixture of Gaussians with its own numbers: fitted to the posterior means after training, or the prior that the model was trained with.

    The numbers are in the manifest or in a file next to it.
    """

    fields: ClassVar[tuple[str, ...]]  # names of the fields that hold the numbers, if they are in the manifest

    kind: str
    file: str | None = FILE

    _components: Components | None = PrivateAttr(default=None)

    @property
    def components(self) -> Components:
        """The weights, means and Cholesky factors of the mixture as arrays."""
        if self._components is None:
            assert self.file is None, "the loader reads the file of a prior before it is used"
            self._components = self._stated()
        return self._components

    def __eq__(self, other: object) -> bool:
        """Return whether both have the same fields. Numbers that were read from a file are not compared."""
        return type(self) is type(other) and self.model_dump() == other.model_dump()

    def __hash__(self) -> int:
        return hash((self.kind, self.file))

    def load(self, components: Components) -> None:
        """Store the numbers that were read from the file of the prior."""
        self._components = components

    def _stated(self) -> Components:
        """Return the numbers in the manifest."""
        raise NotImplementedError

    @model_validator(mode="after")
    def _check_source(self) -> FittedPrior:
        stated = [name for name in self.fields if getattr(self, name) is not None]
        if self.file is not None and stated:
            raise ValueError(f"file: {self.file!r} is given together with {', '.join(stated)}; give one of them")
        if self.file is None and len(stated) != len(self.fields):
            raise ValueError(f"the numbers of the prior are missing; give {', '.join(self.fields)}, or a file")
        return self


class GaussianPrior(FittedPrior):
    """A Gaussian N(mean, cholesky choleskyᵀ), fitted to the posterior means after training."""

    fields: ClassVar[tuple[str, ...]] = ("mean", "cholesky")

    kind: Literal["gaussian"] = "gaussian"
    mean: Vector | None = None
    cholesky: Matrix | None = None

    def _stated(self) -> Components:
        return np.ones(1), np.asarray([self.mean]), np.asarray([self.cholesky])


class MixturePrior(FittedPrior):
    """A mixture Σ weights N(means, choleskys choleskysᵀ), fitted to the posterior means after training, or the prior of the training."""

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
            raise ValueError(f"weights: they add up to {sum(self.weights):g}; they must be at least 0 and add up to 1")
        if not len(self.weights) == len(self.means) == len(self.choleskys):
            raise ValueError(
                f"weights, means and choleskys have {len(self.weights)}, {len(self.means)} and {len(self.choleskys)} entries; "
                "give one entry per component"
            )
        return self


Prior = Annotated[NormalPrior | GaussianPrior | MixturePrior, Field(discriminator="kind")]


def _normal() -> dict[str, Prior]:
    return {"normal": NormalPrior()}


class LatentSpec(Record):
    """A latent, float32 (B, *shape). For a vector, `size` may be given instead of a shape."""

    size: Annotated[int, Field(ge=1, le=LARGEST)] | None = Field(
        default=None, description="number of values of a vector; give either size or shape"
    )
    shape: Annotated[tuple[Size, ...], Field(min_length=1)] | None = Field(
        default=None, description="shape of one latent; give either size or shape"
    )
    priors: dict[str, Prior] = Field(
        default_factory=_normal,
        description="priors by name; empty if a latent can only be computed from data, such as vectors before a codebook",
    )
    default_prior: str | None = Field(
        default=None, description="the prior to use if a request names none; the first one by default"
    )
    interpolation: Literal["slerp", "lerp"] = "slerp"

    @property
    def dims(self) -> tuple[int, ...]:
        """The shape; (size,) for a vector."""
        return self.shape or (self.size or 0,)

    @property
    def count(self) -> int:
        """The number of values."""
        return math.prod(self.dims)

    @property
    def prior(self) -> str | None:
        """The prior to use if a request names none; None if the latent has no priors."""
        return self.default_prior or next(iter(self.priors), None)

    def fitted(self) -> Iterator[tuple[str, FittedPrior]]:
        """Yield the names and priors that were fitted."""
        return ((name, prior) for name, prior in self.priors.items() if isinstance(prior, FittedPrior))

    @model_validator(mode="after")
    def _check(self) -> LatentSpec:
        if (self.size is None) == (self.shape is None):
            given = "both are" if self.shape is not None else "neither is"
            raise ValueError(f"size, shape: {given} given; give exactly one of them")
        if self.count > LARGEST:
            raise ValueError(f"shape: {list(self.dims)} has {self.count} values; the limit is {LARGEST}")
        if self.default_prior is not None and self.default_prior not in self.priors:
            raise ValueError(
                f"default_prior: {self.default_prior!r} is not among the priors; use one of {sorted(self.priors)}"
            )
        for name, prior in self.fitted():
            if not all(self._has_size(mean, cholesky) for mean, cholesky in _parts(prior)):
                raise ValueError(
                    f"priors.{name}: its means and factors do not have the size of the latent; give {self.count} values"
                )
        return self

    def _has_size(self, mean: Vector, cholesky: Matrix) -> bool:
        return {len(mean), len(cholesky), *map(len, cholesky)} == {self.count}


def _parts(prior: FittedPrior) -> Iterator[tuple[Vector, Matrix]]:
    """Yield mean and factor of each component whose numbers are in the manifest."""
    stated: dict[str, Any] = {name: getattr(prior, name) for name in prior.fields}
    if isinstance(prior, GaussianPrior) and prior.file is None:
        yield stated["mean"], stated["cholesky"]
    elif isinstance(prior, MixturePrior) and prior.file is None:
        yield from zip(stated["means"], stated["choleskys"], strict=True)


class PathSpec(Record):
    """The path from noise to data of a flow or diffusion model, by which `evaluate` computes a bound on the likelihood from the task denoise."""

    objective: Literal["flow", "ddpm"] = Field(
        description="flow: straight lines from noise (time 0) to data (time 1), and the prediction is data minus noise; ddpm: 1000 steps, and "
        "the prediction is the noise"
    )
    schedule: Literal["linear", "cosine"] = Field(default="cosine", description="ddpm only: the variances of the steps")


class CodesSpec(Record):
    """A grid of integer codes, int64 (B, *shape), each from 0 to levels - 1."""

    shape: tuple[Size, ...] = Field(min_length=1)
    levels: int = Field(ge=2)
