"""The rule that combines terms to one score, as given by the option `score`: TERM, fisher:TERM,TERM or min-p:TERM,TERM."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from manifold.runtime.errors import cut
from manifold.runtime.kinds import Kind
from manifold.runtime.manifest import COMBINED, Combination, Scoring, Term
from manifold.training.errors import TrainingError
from manifold.training.scores.placement import carries

METHODS = ("fisher", "min-p")
TRIM = 0.2  # trimmed share of training items that may include anomalies, if `trim` is not given
# for training items that may include anomalies; the figures for all defaults are in benchmarks/anomaly.py and benchmarks/adbench.py
MIXED = "fisher:negative_elbo,latent_distance,input_neighbours"


@dataclass(frozen=True)
class Weights:
    """The weights of the terms of a combination by name, with the evidence for them and its basis, as in the manifest."""

    weights: Mapping[str, float]
    evidence: Mapping[str, float]
    basis: str

    def of(self, terms: Sequence[str]) -> dict[str, Any]:
        """Return the entries of a manifest for these terms."""
        weights = [self.weights[name] for name in terms]
        return {"weights": weights, "evidence": [round(self.evidence[name], 4) for name in terms], "basis": self.basis}


def default(spec: Kind, references: int, variational: bool) -> str:
    """Return the default rule for data of `spec`."""
    if spec.pictures:
        return f"fisher:{','.join(['squared_error', *(['edge_neighbours'] if references else []), 'edge_mixture'])}"
    if not references:
        return "negative_elbo" if variational else "reconstruction"
    terms = ["reconstruction", "latent_neighbours"]
    return f"fisher:{','.join([*terms, 'input_neighbours'] if carries(spec) else terms)}"


def parsed(rule: str, valid: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """Return the method and the terms of a rule; the method is empty for a single term. Raises TrainingError for unknown ones."""
    method, _, names = rule.rpartition(":")
    chosen = tuple(names.split(","))
    known = set(chosen) <= set(valid) and len(set(chosen)) == len(chosen)
    if not known or method not in ("", *METHODS) or (not method and len(chosen) > 1):
        raise TrainingError(
            f"score: {cut(repr(rule))} is not a term, fisher:TERM,TERM or min-p:TERM,TERM; the terms are {', '.join(valid)}",
            field="score",
            valid=valid,
        )
    return method, chosen


def scoring(
    rule: str,
    terms: Sequence[Term],
    latent: str | None,
    expected: str | None = None,
    weights: Weights | None = None,
) -> Scoring:
    """Return the scoring that a rule defines over these terms. Raises TrainingError for unknown terms.

    `latent` is the name of the latent term, and `expected` of the output with expected values, if there are any. `weights` are those of the terms of the rule.
    """
    method, chosen = parsed(rule, [term.name for term in terms])
    explained = {"surprise": "surprise", "latent": latent, "expected": expected}
    if not method:
        return Scoring(score=chosen[0], terms=tuple(terms), **explained)
    combination = Combination.model_validate(
        {
            "method": method,
            "terms": chosen,
            **({} if weights is None else weights.of(chosen)),
        }
    )
    return Scoring(score=COMBINED, terms=tuple(terms), combination=combination, **explained)
