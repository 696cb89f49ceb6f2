"""The terms of the anomaly score, and the probabilities of classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from manifold.runtime.conditions import Given
from manifold.runtime.inputs import Numbers, check_numbers, number, repeated
from manifold.runtime.manifest import NUMBERS, Manifest
from manifold.runtime.operations.common import Capability, cannot, role_of, softmax, with_data
from manifold.runtime.operations.steps import Array, Float64, Run, Steps
from manifold.runtime.shown import ROWS, html_table
from manifold.runtime.tabular import Tabular


@dataclass(frozen=True, repr=False)
class Scores(Tabular):
    """The terms of the anomaly score by name, float64 (n,) each, and the nats of each value or part if the artifact has them."""

    terms: dict[str, Float64]
    surprise: Array | None
    expected: Array | None = (
        None  # (n, *shape), the values that are expected given the other parts, if the artifact has them
    )

    def __len__(self) -> int:
        return len(next(iter(self.terms.values())))

    def table(self) -> dict[str, list[Any]]:
        """Return the terms as columns."""
        return {name: values.tolist() for name, values in self.terms.items()}

    def __repr__(self) -> str:
        said = ", ".join(
            f"{name} {values.min():.4g} to {values.max():.4g}" for name, values in self.terms.items() if len(values)
        )
        return f"<Scores: {len(self)} scored, {said}>"

    def _repr_html_(self) -> str:
        """Return the first terms as a table for notebooks."""
        return html_table({name: values[:ROWS] for name, values in self.table().items()}, len(self))


def score(
    manifest: Manifest, data: Array, *, condition: Given | None = None, numbers: Numbers | None = None
) -> Steps[Scores]:
    """Return the terms of the anomaly score. If no class is given, the terms of a conditional model are marginalised over the class prior."""
    scoring = manifest.scoring
    if scoring is None or "score" not in manifest.tasks:
        raise cannot(manifest, "score: it has no likelihood and no score")
    spec = manifest.tasks["score"]
    check_numbers(manifest, [spec], numbers or {})
    if spec.input("condition") is not None and condition is None and manifest.classes is not None:
        return (yield from _marginal_score(manifest, data, numbers))
    outputs = yield Run("score", with_data(manifest, spec, data, condition, numbers))
    terms = {term.name: outputs[term.name].astype(np.float64) for term in scoring.terms}
    surprise, expected = (outputs[role] if role else None for role in (scoring.surprise, scoring.expected))
    return Scores(terms, surprise, expected)


def _marginal_score(manifest: Manifest, data: Array, numbers: Numbers | None) -> Steps[Scores]:
    """Return -log Σ_y p(y) exp(-nll(x | y)) for terms that are -log p(x | y), or bound it; posterior-weighted means for the others."""
    scoring = manifest.scoring
    assert scoring is not None
    outputs, by_class = yield from score_by_class(manifest, data, numbers)
    evidence = scoring.evidence
    assert evidence is not None  # the manifest is checked for it
    posterior, _ = bayes(manifest, by_class[evidence])
    terms = {name: (posterior * values).sum(axis=1) for name, values in by_class.items()}
    for term in scoring.terms:
        if term.name == evidence or term.likelihood:
            terms[term.name] = -bayes(manifest, by_class[term.name])[1]
    n, count = posterior.shape

    def of_best_class(role: str | None) -> Array | None:
        if role is None:
            return None
        parts: Array = outputs[role].reshape(n, count, *outputs[role].shape[1:])[np.arange(n), posterior.argmax(axis=1)]
        return parts

    return Scores(terms, of_best_class(scoring.surprise), of_best_class(scoring.expected))


def score_by_class(
    manifest: Manifest, data: Array, numbers: Numbers | None = None
) -> Steps[tuple[dict[str, Array], dict[str, Float64]]]:
    """Return the outputs of the task score for all items under all classes, (n C, ...), and its terms, float64 (n, C)."""
    spec, scoring = manifest.tasks["score"], manifest.scoring
    assert scoring is not None
    n, count = len(data), len(manifest.class_weights)
    condition = np.tile(np.eye(count, dtype=np.float32), (n, 1))  # (n C, C)
    inputs = {role_of(spec, "data"): data.repeat(count, axis=0), role_of(spec, "condition"): condition}
    own = repeated(numbers, count)
    inputs |= {tensor.role: number(tensor, own, n * count) for tensor in spec.inputs if tensor.source in NUMBERS}
    outputs = yield Run("score", inputs)
    return outputs, {term.name: outputs[term.name].astype(np.float64).reshape(n, count) for term in scoring.terms}


def log_joint(manifest: Manifest, nll: Float64) -> Float64:
    """Return log p(y) - nll(x | y), (n, C). A class of weight 0 gets -inf."""
    with np.errstate(divide="ignore"):
        joint: Float64 = np.log(np.asarray(manifest.class_weights)) - nll
    return joint


def bayes(manifest: Manifest, nll: Float64) -> tuple[Float64, Float64]:
    """Return p(y | x) (n, C) and log p(x) (n,) for nll(x | y) (n, C)."""
    joint = log_joint(manifest, nll)
    top = joint.max(axis=1)
    evidence = top + np.log(np.exp(joint - top[:, None]).sum(axis=1))
    return np.exp(joint - evidence[:, None]), evidence


def classify(manifest: Manifest, data: Array, *, numbers: Numbers | None = None) -> Steps[Float64]:
    """Return p(y | x), float64 (n, C), by the rule and temperature of the manifest's `classification`. Each row sums to 1."""
    energies = yield from class_energies(manifest, data, numbers)
    assert manifest.classification is not None
    return softmax(energies / manifest.classification.temperature)


def class_energies(manifest: Manifest, data: Array, numbers: Numbers | None = None) -> Steps[Float64]:
    """Return log p(y | x) before the temperature, up to a constant for each item, float64 (n, C)."""
    classification = manifest.classification
    if classification is None:
        raise cannot(manifest, "classify")
    if classification.term is None:
        spec = manifest.tasks["features"]
        check_numbers(manifest, [spec], numbers or {})
        outputs = yield Run("features", with_data(manifest, spec, data, None, numbers))
        return outputs["logits"].astype(np.float64)
    check_numbers(manifest, [manifest.tasks["score"]], numbers or {})
    _, by_class = yield from score_by_class(manifest, data, numbers)
    return log_joint(manifest, by_class[classification.term])


def _why_not_classify(manifest: Manifest) -> str:
    return ": it has no classes" if manifest.classes is None else ": it has no rule for p(class | item)"


CAPABILITIES = (
    Capability(
        "anomaly-score", 50, lambda manifest: manifest.scoring is not None,
        lambda manifest: ": it has no likelihood and no score",
    ),
    Capability("classify", 60, lambda manifest: manifest.classification is not None, _why_not_classify),
)  # fmt: skip
