"""The anomaly score of a model, and its probabilities of classes."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from manifold.runtime.records import Record


class Likelihood(Record):
    """Description of a term in nats as a statement about -log p(x). Without it, likelihoods of two models do not compare."""

    bound: Literal["exact", "elbo", "iwae"] = Field(description="elbo, iwae: the term is an upper bound of -log p(x)")
    k: int = Field(default=1, ge=1, description="draws from the posterior that the bound averages over")
    observed: str = Field(description="what x is: how grey values were binarised, levels, or a density's units")
    discrete: bool = Field(default=True, description="a probability, so that bits a dimension mean something")


class Term(Record):
    """One term of the anomaly score: an output (B,) of the score graph, higher is more anomalous."""

    name: str
    kind: Literal["nll", "distance"] = Field(description="nll: in nats, marginalised over classes by log-sum-exp")
    description: str = ""
    likelihood: Likelihood | None = Field(default=None, description="for a term that is -log p(x), or bounds it")


COMBINED = "combined"  # the name of what a combination gives, beside the terms


class Combination(Record):
    """One score of several terms: each becomes its log-survival, -log P(term is at least as high), and these are combined.

    `fisher` adds them (Fisher, 1932), so that terms that are each a little anomalous add up; `min-p` takes the largest (Tippett, 1931), so that
    one very anomalous term suffices. Survival is that of the calibration items, with a fitted tail beyond them: see runtime.scores.tails.
    """

    method: Literal["fisher", "min-p"] = "fisher"
    terms: tuple[str, ...] = Field(min_length=1)


class Calibration(Record):
    """Scores of items that training never saw, sorted, in `file` (npz: one float64 array a term, and `combined` for a combination)."""

    id: str
    n: int = Field(ge=1)
    created: str
    source: str = Field(description="which items: split, indices, filter")
    file: str = "calibration.npz"


class Scoring(Record):
    """Rule that makes an anomaly score of the outputs of the task score."""

    score: str = Field(description="the term that ranks, or `combined`")
    terms: tuple[Term, ...] = Field(min_length=1)
    combination: Combination | None = Field(
        default=None, description="needs a calibration, whose items say what is usual"
    )
    calibration: Calibration | None = None
    surprise: str | None = Field(default=None, description="output with nats a pixel or a column, for explanations")
    latent: str | None = Field(
        default=None, description="the term with the nats of the latent, beside those of `surprise`"
    )
    surprise_scale: float | None = Field(
        default=None, gt=0, description="the calibration items' 0.999 quantile of `surprise`"
    )
    surprise_mean: tuple[float, ...] | None = Field(
        default=None, description="mean over the calibration items, by column"
    )

    @model_validator(mode="after")
    def _check(self) -> Scoring:
        names = [term.name for term in self.terms]
        if COMBINED in names or len(set(names)) != len(names):
            raise ValueError(f"terms {names} must differ, and none may be called {COMBINED!r}")
        if self.latent is not None and self.latent not in names:
            raise ValueError(f"latent: {self.latent!r} is not among the terms {names}")
        if self.combination is not None and not set(self.combination.terms) <= set(names):
            raise ValueError(f"combination: {list(self.combination.terms)} must be among the terms {names}")
        if self.score not in names and (self.score != COMBINED or self.combination is None):
            raise ValueError(f"score {self.score!r} is not among the terms {names}, nor is it a combination of them")
        return self

    @property
    def evidence(self) -> str | None:
        """The term that stands for -log p(x | y) in Bayes' rule: the score itself, or the first that is a likelihood or a bound of one."""
        if self.score != COMBINED:
            return self.score
        return next((term.name for term in self.terms if term.likelihood), None)


class Classification(Record):
    """Rule for p(y | x): by Bayes' rule from a score term given each class, or from the logits of `features`.

    log p(y | x) = (log p(y) - term(x, y)) / temperature + constant, with p(y) the class prior; logits take the term's place where it is
    left out. The temperature was fitted on items that training never saw (Guo et al., 2017, arXiv 1706.04599).
    """

    term: str | None = None
    temperature: float = Field(default=1.0, gt=0)
    source: str = Field(default="", description="which items the temperature was fitted on")
