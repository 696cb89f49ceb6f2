"""Anomaly scores of table rows without a generative model. It answers the question of `tabular_vae` in seconds: "How anomalous is this row?"

The score combines three terms that are fitted to the training rows: the distance to the nearest of them, the nats of a mixture of Gaussians
with full covariances, and the nats of histograms of single columns. Each is good on different data; their sum of log-survivals (Fisher, 1932) is at
least as good as their median on almost all data (benchmarks/adbench.py). The terms have weights: the better a term finds synthetic anomalies among
training rows that it was not fitted to, the larger its weight. A row is explained by the nats of each column given the others, under the mixture.
Further terms can be chosen with the option `score`: an isolation forest, the tails of single columns, and a network that estimates noise.

`mixed` means that the training rows may include anomalies. The most anomalous fifth of the rows, by detectors that tolerate anomalies, is then
left out before neighbours and mixture are fitted, and nearest neighbours in small samples of all rows are a fourth term. The weights then
follow the agreement of a term with the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from manifold.runtime.kinds import Kind
from manifold.runtime.kinds.table import TableSpec
from manifold.runtime.manifest import InputSpec, Likelihood, TensorSpec, Term
from manifold.training import likelihoods
from manifold.training.batches import Batch
from manifold.training.data import Data
from manifold.training.data.parts import scattered
from manifold.training.detectors import evidence, mixture, trimming
from manifold.training.detectors.denoiser import LEVELS, Denoiser
from manifold.training.detectors.forest import IsolationForest
from manifold.training.detectors.histograms import Histograms
from manifold.training.detectors.sampled import SampledNeighbours
from manifold.training.detectors.tails import Tails
from manifold.training.exporting.tasks import Exports, Task
from manifold.training.networks.layers import per_item
from manifold.training.phases import Phase
from manifold.training.scores import distances, rules
from manifold.training.scores.distances import NearestItems, added
from manifold.training.scores.neighbours import Neighbours
from manifold.training.scores.options import ScoreOptions
from manifold.training.scores.placement import References, references

Array = NDArray[np.float64]

ITEMS = ("rows",)
FITTED = 20_000  # largest number of training rows that the terms are fitted to
CLIP = 10.0  # scaled values beyond this are moved to it before the fit, so that single values do not determine a covariance
SAMPLE = 8  # rows of each sample of the term sampled_neighbours
# all terms that the option `score` can name
TERMS = ("input_neighbours", "mixture", "histograms", "sampled_neighbours", "isolation_forest", "tails", "denoiser")
NORMALS, MIXED = TERMS[:3], TERMS[:4]  # the default ones
UNUSED = (
    "epochs",
    "epoch_steps",
    "batch_size",
    "optimizer",
    "lr",
    "momentum",
    "schedule",
    "clip_norm",
    "ema",
    "ema_second",
)
FOLD = {"weigh": False}
ROUNDS, BATCH = 2, 2000  # how often the missing values of training rows are filled in, and how many rows at a time
LEAST = 20  # least number of rows for evidence
DISTANCES = ("input_neighbours", "sampled_neighbours")  # an unseen value is added to the squares of these terms
NATS = ("mixture", "histograms", "tails")  # and to these, as nats


class Config(ScoreOptions):
    """The options of the family."""

    references: int = Field(5000, ge=0)  # 0: none, so that the artifact has no training rows, and no term of distances
    nearest: int = Field(0, ge=0)  # number of neighbours of the score; 0: one, or with `mixed` as many as `neighbours`
    mixed: bool = False  # whether the training rows may include anomalies; if so, a trim of 0 means a fifth
    trim: float = Field(0.0, ge=0, le=0.5)  # share of the training rows that is treated as anomalies and left out
    weigh: bool = True  # whether the terms have weights by evidence (training.detectors.evidence); only for fisher


PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {"references": 100},
    "cpu": {},
    "gpu": {},
}

C = TypeVar("C", bound=Config)


def resolve(config: C, data: Data) -> C:
    """Return the config with the score and the options that depend on `mixed`.

    Raises InvalidValue for data that is not a table, and TrainingError for a score of unknown terms.
    """
    TableSpec.of(data.spec, f"data: {data.name}")
    score = config.score if config.score != "auto" else f"fisher:{','.join(_default(config))}"
    method, _ = rules.parsed(score, [name for name in TERMS if config.references or name not in DISTANCES])
    return config.changed(
        score=score,
        nearest=config.nearest or (config.neighbours if config.mixed else 1),
        trim=config.trim or (rules.TRIM if config.mixed else 0.0),
        weigh=config.weigh and method == "fisher",
    )


def _default(config: Config) -> list[str]:
    """Return the terms of the default score."""
    return [name for name in (MIXED if config.mixed else NORMALS) if config.references or name not in DISTANCES]


def _names(config: Config) -> list[str]:
    """Return the terms of the artifact: the default ones, then others that the score names."""
    chosen = rules.parsed(config.score, TERMS)[1]
    default = _default(config)
    return [*default, *(name for name in chosen if name not in default)]


@dataclass(frozen=True)
class Fitted:
    """The fitted terms, which depend on the training rows and the config alone."""

    terms: dict[str, nn.Module]
    mixture: mixture.Mixture
    held: References | None  # None if the artifact has no training rows
    weights: rules.Weights | None  # those of the terms of the score; None if all are 1


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

    def evidence(self, x: Tensor) -> Tensor:
        """Return rows (B, D) with likely values in place of missing ones, given the others, so that these hardly change a score."""
        return self.fitted.mixture.fill(self.likelihood.evidence(x), (x == x).to(x))


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
    blocks, known = list(model.spec.blocks()), x == x
    rows = _filled(model.likelihood.evidence(x).clamp(-CLIP, CLIP), known, blocks, config.seed)
    kept = trimming.usual(rows, blocks, config.trim, config.seed) if config.trim else np.arange(len(rows))
    held = references(part, kept, model.spec, config) if config.references else None
    usual = rows[kept]
    found = mixture.fit(usual, blocks, config.seed)
    if held is not None and held.known is not None:
        held = replace(held, inputs=found.fill(held.inputs, held.known) * (1 - torch.from_numpy(model.spec.constants)))
    points = torch.empty(0, rows.shape[1]) if held is None else held.inputs
    terms = {
        name: found if name == "mixture" else _term(name, rows, usual, points, blocks, config)
        for name in _names(config)
    }
    model.fitted = Fitted(terms, found, held, _weights(rows, kept, blocks, len(found.constants), config))


def _filled(rows: Tensor, known: Tensor, blocks: Sequence[slice], seed: int) -> Array:
    """Return rows (N, D) with likely values where `known` is False, under mixtures that are fitted to the rows in turn."""
    whole = bool(known.all())
    for _ in range(0 if whole else ROUNDS):
        found = mixture.fit(rows.double().numpy(), blocks, seed)
        pieces = zip(torch.split(rows, BATCH), torch.split(known, BATCH), strict=True)
        rows = torch.cat([found.fill(some, there.to(some)).clamp(-CLIP, CLIP) for some, there in pieces])
    return rows.double().numpy()


def _term(
    name: str, rows: Array, usual: Array, held: Tensor, blocks: Sequence[slice], config: Config, components: int = 0
) -> nn.Module:
    """Fit a term to rows (N, D), of which `usual` are without the trimmed ones and `held` are the references. 0 components: chosen by the rows."""
    match name:
        case "input_neighbours":
            return Neighbours(held, config.nearest)
        case "mixture":
            return mixture.fit(usual, blocks, config.seed, components=components)
        case "histograms":
            return Histograms(rows)
        case "sampled_neighbours":
            return SampledNeighbours(rows, SAMPLE, config.seed)
        case "isolation_forest":
            return IsolationForest(rows, config.seed)
        case "tails":
            return Tails(rows)
        case _:
            return Denoiser(usual, config.seed)


def _weights(
    rows: Array, kept: NDArray[np.int64], blocks: Sequence[slice], components: int, config: Config
) -> rules.Weights | None:
    """Return the weights of the terms of the score by evidence on rows (N, D) that the terms were not fitted to; None without weights.

    `kept` are the indices of the rows that are not trimmed.
    """
    _, chosen = rules.parsed(config.score, TERMS)
    if not config.weigh or len(kept) < LEAST:
        return None

    def fit(rest: Array, usual: Array) -> dict[str, evidence.Score]:
        held = torch.from_numpy(usual[: config.references]).float()
        return {name: _scores(_term(name, rest, usual, held, blocks, config, components)) for name in chosen}

    if config.mixed:
        inside = np.isin(np.arange(len(rows)), kept)
        found = evidence.agreements(rows, inside, fit, config.seed)
        return rules.Weights(evidence.weights(found, evidence.AGREEMENT_POWER), found, "agreement")
    found = evidence.aurocs(rows[kept], blocks, lambda rest: fit(rest, rest), config.seed)
    return rules.Weights(evidence.weights(found, evidence.AUROC_POWER), found, "synthetic")


def _scores(term: nn.Module) -> evidence.Score:
    """Return the function that computes a term; a mixture also returns other values."""
    return (lambda x: term(x)[0]) if isinstance(term, mixture.Mixture) else term


def evaluate(model: Detector, batch: Batch) -> dict[str, Tensor]:
    """Return the nats of the mixture, (B,), as the loss."""
    nats, _, _ = model.fitted.mixture(model.evidence(model.settled(batch.items)))
    return {"loss": nats}


class Score(nn.Module):
    """The task `score`: rows to the terms of `_terms`, in that order, the nats of each column given the others, and its expected value."""

    places: Tensor  # (categorical columns, columns), 1 where they are the same

    def __init__(self, model: Detector) -> None:
        super().__init__()
        blocks, unseen = list(model.spec.blocks()), model.likelihood.unseen
        self.starts = [block.start for block in blocks]
        categorical = [] if unseen is None else [block.start for block in unseen.blocks]
        places = torch.tensor([[float(start == each) for each in self.starts] for start in categorical])
        self.register_buffer("places", places.view(-1, len(blocks)), persistent=False)
        self.model, self.terms = model, nn.ModuleDict(model.fitted.terms)

    def forward(self, data: Tensor) -> tuple[Tensor, ...]:
        likelihood = self.model.likelihood
        x = self.model.settled(data)
        rows, apart = self.model.evidence(x), added(likelihood, x)
        cost = None if likelihood.unseen is None else likelihood.unseen.nats * likelihood.unseen(x)
        nats, columns, expected = self.terms["mixture"](rows)
        made = []
        for name, term in self.terms.items():
            value = nats if name == "mixture" else term(rows, apart) if name in DISTANCES else term(rows)
            # an unseen category costs at least its nats, in the terms that have this unit
            made.append(value + per_item(cost) if name in NATS and cost is not None else value)
        columns = columns * (x == x)[:, self.starts]  # a missing value is no reason
        return *made, columns if cost is None else columns + cost @ self.places, expected


def _terms(config: Config, references: int) -> list[Term]:
    """Return the terms of Score, in the same order. `references` is the number of training rows in the artifact."""
    count = min(config.nearest, references)
    near = "distance to the nearest" if count == 1 else f"mean distance to the {count} nearest"
    texts = {
        "input_neighbours": f"{near} of {references} training rows, in encoded columns",
        "mixture": "-log p(x) in nats under a mixture of Gaussians with full covariances",
        "histograms": "-log of the shares of training rows in the bins of all columns, in nats",
        "sampled_neighbours": f"mean distance to the nearest row of each of several samples of {SAMPLE} training rows, in encoded columns",
        "isolation_forest": "score of an isolation forest, in (0, 1)",
        "tails": "largest of three sums over the columns of -log of a tail of the training rows, in nats",
        "denoiser": f"level of noise that a network estimates, from 0 to {LEVELS - 1}",
    }
    density = Likelihood(bound="exact", observed=likelihoods.OBSERVED["columns"], form="columns", discrete=False)
    return [
        Term(
            name=name, kind="nll" if name in NATS else "distance", description=texts[name],
            likelihood=density if name == "mixture" else None,
        )
        for name in _names(config)
    ]  # fmt: skip


def exports(model: Detector, config: Config, data: Data) -> Exports:
    """Return the tasks `score` and `neighbours`."""
    items = InputSpec(role="data", source="data", shape=model.spec.shape, missing=True)
    held = model.fitted.held
    listed = _terms(config, 0 if held is None else len(held.inputs))
    scores = [
        *(TensorSpec(role=term.name) for term in listed),
        TensorSpec(role="surprise", shape=model.spec.nats_shape),
    ]
    scores.append(TensorSpec(role="expected", shape=model.spec.shape))
    tasks = {"score": Task(Score(model), [items], scores, max_rows=256, quick=True)}
    if held is not None:
        tasks["neighbours"] = replace(distances.task(NearestItems(model, held, config.neighbours), items), quick=True)
    return Exports(
        tasks,
        scoring=rules.scoring(config.score, listed, None, "expected", model.fitted.weights),
        description=f"Detector on {data.name}: {', '.join(term.name.replace('_', ' ') for term in listed)}.",
    )
