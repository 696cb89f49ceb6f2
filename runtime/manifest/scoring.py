"""The anomaly score of a model, and its class probabilities."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from manifold.runtime.manifest.figures import Form, form_of
from manifold.runtime.records import Record

CHANCE = 0.55  # an AUROC of synthetic anomalies below this may be chance


class Likelihood(Record):
    """The meaning of a term in nats as a statement about -log p(x). Likelihoods of two models can only be compared if both have it."""

    bound: Literal["exact", "elbo", "iwae"] = Field(
        description="exact: the term is -log p(x); elbo, iwae: it is an upper bound of -log p(x)"
    )
    k: int = Field(default=1, ge=1, description="number of posterior samples that the bound averages over")
    observed: str = Field(
        description="the definition of x: how grey values were binarised, the number of levels, or the units of a density"
    )
    form: Form | None = Field(
        default=None,
        description="the form of x in the names of figures: static, dynamic or threshold (how pixels were binarised), levels, density, or columns",
    )
    discrete: bool | None = Field(
        default=None,
        description="true if p(x) is a probability, whose sum over all x is 1, and not a density, so that bits per dimension can be stated. If absent, "
        "they are not stated. A binary cross-entropy of grey values is no probability",
    )

    @property
    def named(self) -> Form | None:
        """The form of x; for an earlier manifest, that which the text states."""
        return self.form or form_of(self.observed)


class Term(Record):
    """One term of the anomaly score: an output (B,) of the score graph. Higher values are more anomalous."""

    name: str
    kind: Literal["nll", "distance"] = Field(
        description="nll: nats, marginalised over classes by log-sum-exp; distance: any other unit"
    )
    description: str = ""
    likelihood: Likelihood | None = Field(default=None, description="present if the term is -log p(x) or a bound of it")


COMBINED = "combined"  # the name of the combined score, next to the names of the terms


class Combination(Record):
    """One score made from several terms. Each term is converted to its log-survival, -log P(term is at least as high); these are combined.

    `fisher` adds them (Fisher, 1932), so several slightly anomalous terms add up. `min-p` takes the largest (Tippett, 1931), so one very
    anomalous term is enough. The survival function comes from the calibration items, with a fitted tail: see runtime.scores.tails.
    """

    method: Literal["fisher", "min-p"] = "fisher"
    terms: tuple[str, ...] = Field(min_length=1)
    weights: tuple[Annotated[float, Field(gt=0)], ...] | None = Field(
        default=None,
        description="fisher: the factor of each log-survival, in the order of the terms; absent if all are 1",
    )
    evidence: tuple[float, ...] | None = Field(
        default=None, description="the number of each term that the weights were computed from, on training items"
    )
    basis: Literal["synthetic", "agreement"] | None = Field(
        default=None,
        description="synthetic: the evidence is the mean AUROC for synthetic anomalies; agreement: it is the mean rank correlation with the other terms",
    )

    @property
    def said(self) -> str:
        """The sentence about how the terms are combined; empty for equal weights without evidence."""
        if self.weights is None or self.evidence is None or self.basis is None:
            return ""
        parts = [
            f"{name} {weight:.2f} ({value:.2f})"
            for weight, value, name in zip(self.weights, self.evidence, self.terms, strict=True)
        ]
        why = {
            "synthetic": "finds synthetic anomalies among held-out training items better (AUROC in parentheses)",
            "agreement": "agrees more with the other terms on held-out training items (mean rank correlation in parentheses)",
        }
        said = f"Weights of the terms: {', '.join(parts)}. A term that {why[self.basis]} has a larger weight."
        if self.basis == "synthetic" and max(self.evidence) < CHANCE:
            said += f" No term finds more than chance would (all below {CHANCE}), so the scores may say little about these items."
        return said

    @model_validator(mode="after")
    def _check_weights(self) -> Combination:
        for name, values in (("weights", self.weights), ("evidence", self.evidence)):
            if values is not None and len(values) != len(self.terms):
                raise ValueError(f"{name}: {len(values)} numbers for {len(self.terms)} terms; give one for each term")
        if self.weights is not None and self.method != "fisher":
            raise ValueError(f"weights: the method {self.method} has none; use the method fisher, or remove them")
        return self


class Calibration(Record):
    """The sorted scores of items that were not used in training, in `file` (npz: one float64 array per term, and `combined` for a combination)."""

    id: str
    n: int = Field(ge=1)
    created: str
    source: str = Field(description="the items that were scored: split, indices, filter")
    shift: str | None = Field(
        default=None,
        description="the reason why these items and the test items are not exchangeable; absent if both were drawn at random from the same items",
    )
    file: str = "calibration.npz"


class Scoring(Record):
    """The rule that turns the outputs of the task score into an anomaly score."""

    score: str = Field(description="the term that items are ranked by, or `combined`")
    terms: tuple[Term, ...] = Field(min_length=1)
    combination: Combination | None = Field(
        default=None, description="combines several terms into one score; needs a calibration"
    )
    calibration: Calibration | None = None
    surprise: str | None = Field(default=None, description="output with nats per pixel or column, for explanations")
    expected: str | None = Field(
        default=None,
        description="rows only: output with the values that are expected given the other columns, for explanations; without it they are filled in",
    )
    latent: str | None = Field(
        default=None, description="the term with the nats of the latent, which `surprise` does not contain"
    )
    surprise_scale: float | None = Field(
        default=None, gt=0, description="0.999 quantile of `surprise` over the calibration items"
    )
    surprise_mean: tuple[float, ...] | None = Field(
        default=None, description="mean of `surprise` over the calibration items, by column"
    )

    @model_validator(mode="after")
    def _check(self) -> Scoring:
        names = [term.name for term in self.terms]
        if COMBINED in names or len(set(names)) != len(names):
            raise ValueError(f"terms: the names are {names}; they must be unique, and none may be {COMBINED!r}")
        if self.latent is not None and self.latent not in names:
            raise ValueError(f"latent: {self.latent!r} is not among the terms; use one of {names}")
        if self.combination is not None and not set(self.combination.terms) <= set(names):
            raise ValueError(
                f"combination: {list(self.combination.terms)} are not all among the terms; use some of {names}"
            )
        if self.score not in names and (self.score != COMBINED or self.combination is None):
            raise ValueError(
                f"score: {self.score!r} is neither a term nor a combination; use one of {names}, or {COMBINED!r} with a combination"
            )
        return self

    @property
    def evidence(self) -> str | None:
        """The term used as -log p(x | y) in Bayes' rule: the score itself, or the first term that is a likelihood or a bound of one."""
        if self.score != COMBINED:
            return self.score
        return next((term.name for term in self.terms if term.likelihood), None)


class Classification(Record):
    """The rule for p(y | x): Bayes' rule with a score term given each class, or the logits of `features`.

    log p(y | x) = (log p(y) - term(x, y)) / temperature + constant, with p(y) the class prior. Without a term, logits replace it.
    The temperature was fitted on items that were not used in training (Guo et al., 2017, arXiv 1706.04599).
    """

    term: str | None = None
    temperature: float = Field(default=1.0, gt=0)
    source: str = Field(default="", description="the items that the temperature was fitted on")
