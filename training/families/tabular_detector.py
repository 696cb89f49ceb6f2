"""Anomaly scores of table rows without a network. It answers the question of `tabular_vae` in seconds: "How anomalous is this row?"

The score combines three terms that are fitted to the training rows: the distance to the nearest of them, the nats of a mixture of Gaussians
with full covariances, and the nats of histograms of single columns. Each is good on other data; their sum of log-survivals (Fisher, 1932) is at
least as good as their median on almost all data (benchmarks/adbench.py). A row is explained by the nats of each column given the others,
under the mixture.

`mixed` means that the training rows may include anomalies. The most anomalous fifth of the rows, by detectors that tolerate anomalies, is then
left out before the terms are fitted, and nearest neighbours in small samples of all rows are a fourth term.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from manifold.runtime.kinds import Kind
from manifold.runtime.kinds.table import TableSpec
from manifold.runtime.manifest import InputSpec, Likelihood, Metric, TensorSpec, Term
from manifold.training import likelihoods
from manifold.training.batches import Batch
from manifold.training.data import Data
from manifold.training.data.parts import scattered
from manifold.training.detectors import mixture, trimming
from manifold.training.detectors.histograms import Histograms
from manifold.training.detectors.sampled import SampledNeighbours
from manifold.training.exporting.tasks import Exports, Task
from manifold.training.networks.layers import per_item
from manifold.training.phases import Phase
from manifold.training.scores import rules
from manifold.training.scores.distances import NearestItems, added
from manifold.training.scores.neighbours import Neighbours
from manifold.training.scores.options import ScoreOptions
from manifold.training.scores.placement import References, references

ITEMS = ("rows",)
TRIM = 0.2  # trimmed share of training rows that may include anomalies, if `trim` is not given
FITTED = 20_000  # largest number of training rows that the terms are fitted to
CLIP = 10.0  # scaled values beyond this are moved to it before the fit, so that single values do not determine a covariance
SAMPLE = 8  # rows of each sample of the term sampled_neighbours
NORMALS = "fisher:input_neighbours,mixture,histograms"
MIXED = f"{NORMALS},sampled_neighbours"


class Config(ScoreOptions):
    """The options of the family."""

    references: int = Field(5000, ge=1)
    nearest: int = Field(0, ge=0)  # number of neighbours of the score; 0: one, or with `mixed` as many as `neighbours`
    mixed: bool = False  # whether the training rows may include anomalies; if so, a trim of 0 means TRIM
    trim: float = Field(0.0, ge=0, le=0.5)  # share of the training rows that is treated as anomalies and left out


PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {"references": 100},
    "cpu": {},
    "gpu": {},
}

C = TypeVar("C", bound=Config)


def resolve(config: C, data: Data) -> C:
    """Return the config with the score and the options that depend on `mixed`. Raises InvalidValue for data that is not a table."""
    TableSpec.of(data.spec, f"data: {data.name}")
    score = config.score if config.score != "auto" else MIXED if config.mixed else NORMALS
    nearest = config.nearest or (config.neighbours if config.mixed else 1)
    return config.changed(score=score, nearest=nearest, trim=config.trim or (TRIM if config.mixed else 0.0))


@dataclass(frozen=True)
class Fitted:
    """The fitted terms, which depend on the training rows and the config alone."""

    nearest: Neighbours
    mixture: mixture.Mixture
    histograms: Histograms
    sampled: SampledNeighbours | None  # only for rows that may include anomalies
    held: References


class Detector(nn.Module):
    """The encoding of rows. It has no weights, and `fitted` exists after `finish`."""

    fitted: Fitted

    def __init__(self, config: Config, data: Data) -> None:
        super().__init__()
        self.config, self.shape = config, data.spec.shape
        self.spec: Kind = data.spec
        self.likelihood = likelihoods.build("columns", data.spec, noise=1.0, floor=1.0, train=data.train)

    def settled(self, data: Tensor) -> Tensor:
        """Convert items (B, *shape) to encoded rows (B, D), as in graphs."""
        return self.likelihood.settle(data.flatten(1))


def build(config: Config, data: Data) -> Detector:
    """Return a detector that is not yet fitted."""
    return Detector(config, data)


def phases(model: Detector, config: Config) -> list[Phase]:
    """Return one phase without steps: `finish` fits all terms."""
    return [Phase("fit", (), 0)]


@torch.no_grad()
def finish(model: Detector, config: Config, data: Data) -> None:
    """Fit the terms to the training rows."""
    with threadpool_limits(1):  # the products are small: further threads would mostly wait
        _fit(model, config, data)


def _fit(model: Detector, config: Config, data: Data) -> None:
    part = scattered(data.train, min(len(data.train), FITTED))
    x = model.settled(torch.from_numpy(part.batch(np.arange(len(part))).items))
    rows: NDArray[np.float64] = model.likelihood.evidence(x).clamp(-CLIP, CLIP).double().numpy()
    blocks = list(model.spec.blocks())
    kept = trimming.usual(rows, blocks, config.trim, config.seed) if config.trim else np.arange(len(rows))
    held = references(part, kept, model.spec, config)
    model.fitted = Fitted(
        nearest=Neighbours(held.inputs, config.nearest),
        mixture=mixture.fit(rows[kept], blocks, config.seed),
        histograms=Histograms(rows),
        sampled=SampledNeighbours(rows, SAMPLE, config.seed) if config.mixed else None,
        held=held,
    )


def evaluate(model: Detector, batch: Batch) -> dict[str, Tensor]:
    """Return the nats of the mixture, (B,), as the loss."""
    nats, _, _ = model.fitted.mixture(model.likelihood.evidence(model.settled(batch.items)))
    return {"loss": nats}


def report(model: Detector, config: Config, data: Data) -> list[Metric]:
    """Return an empty list: `manifold judge` measures a detector."""
    return []


class Score(nn.Module):
    """The task `score`: rows to the terms of `_terms`, in that order, the nats of each column given the others, and its expected value."""

    places: Tensor  # (categorical columns, columns), 1 where they are the same

    def __init__(self, model: Detector) -> None:
        super().__init__()
        fitted, blocks, unseen = model.fitted, list(model.spec.blocks()), model.likelihood.unseen
        self.starts = [block.start for block in blocks]
        categorical = [] if unseen is None else [block.start for block in unseen.blocks]
        places = torch.tensor([[float(start == each) for each in self.starts] for start in categorical])
        self.register_buffer("places", places.view(-1, len(blocks)), persistent=False)
        self.model, self.nearest, self.mixture = model, fitted.nearest, fitted.mixture
        self.histograms, self.sampled = fitted.histograms, fitted.sampled

    def forward(self, data: Tensor) -> tuple[Tensor, ...]:
        model = self.model
        x = model.settled(data)
        rows = model.likelihood.evidence(x)
        nats, columns, expected = self.mixture(rows)
        terms = [self.nearest(rows, added(model.likelihood, x)), nats, self.histograms(rows)]
        if self.sampled is not None:
            terms.append(self.sampled(rows))
        columns = columns * (x == x)[:, self.starts]  # a missing value costs nothing
        if model.likelihood.unseen is not None:  # an unseen category costs at least its nats
            cost = model.likelihood.unseen.nats * model.likelihood.unseen(x)
            terms[1], terms[2], columns = (
                terms[1] + per_item(cost),
                terms[2] + per_item(cost),
                columns + cost @ self.places,
            )
        return *terms, columns, expected


def _terms(config: Config) -> list[Term]:
    """Return the terms of Score, in the same order."""
    k = (
        f"the nearest of {config.references} training rows"
        if config.nearest == 1
        else f"the {config.nearest} nearest of {config.references} training rows"
    )
    mean = "" if config.nearest == 1 else "mean "
    terms = [
        Term(name="input_neighbours", kind="distance", description=f"{mean}distance to {k}, in encoded columns"),
        Term(
            name="mixture", kind="nll", description="-log p(x) in nats under a mixture of Gaussians with full covariances",
            likelihood=Likelihood(bound="exact", observed=likelihoods.OBSERVED["columns"], form="columns", discrete=False),
        ),
        Term(name="histograms", kind="nll", description="-log of the shares of training rows in the bins of all columns, in nats"),
    ]  # fmt: skip
    if config.mixed:
        text = (
            f"mean distance to the nearest row of each of several samples of {SAMPLE} training rows, in encoded columns"
        )
        terms.append(Term(name="sampled_neighbours", kind="distance", description=text))
    return terms


def exports(model: Detector, config: Config, data: Data) -> Exports:
    """Return the tasks `score` and `neighbours`."""
    items = InputSpec(role="data", source="data", shape=model.spec.shape, missing=True)
    listed = _terms(config)
    scores = [
        *(TensorSpec(role=term.name) for term in listed),
        TensorSpec(role="surprise", shape=model.spec.nats_shape),
    ]
    scores.append(TensorSpec(role="expected", shape=model.spec.shape))
    module = NearestItems(model, model.fitted.held, config.neighbours)
    shape = (module.nearest.k, *items.shape)
    near = [TensorSpec(role="nearest", shape=shape), TensorSpec(role="distance", shape=shape[:1])]
    known = [TensorSpec(role="known", shape=shape)] if module.masked else []
    return Exports(
        {
            "score": Task(Score(model), [items], scores, max_rows=256),
            "neighbours": Task(module, [items], [*near, *known], max_rows=256),
        },
        scoring=rules.scoring(config.score, listed, None, "expected"),
        description=f"Detector on {data.name}: nearest rows, mixture of {len(model.fitted.mixture.constants)} Gaussians, histograms.",
    )
