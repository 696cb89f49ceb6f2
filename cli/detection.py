"""The printed figures of an anomaly detector: a table of recall and ranking, measured false positive rates, and the agreement with its peers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from manifold.cli.tables import aligned

if TYPE_CHECKING:
    from manifold.evaluation.anomaly import Judgement
    from manifold.runtime.manifest import Scoring

FIGURES = ("auroc", "average_precision", "found_at_1%")
FEW_ANOMALIES = 100  # below this number, the interval of the recall is stated
FEW_NORMAL = 1000  # below this number, 1% of the rows are fewer than ten


def summary(judgement: Judgement, scoring: Scoring, noun: str, *, paged: bool = False) -> list[str]:
    """Return the lines that describe a detector. `noun` is the name of the items, such as rows. `paged`: there can be a report page of them."""
    return [
        *([scoring.combination.said] if scoring.combination is not None and scoring.combination.said else []),
        *_table(judgement, scoring, noun),
        *_certainty(judgement, scoring, noun),
        *_rates(judgement, noun),
        *_agreement(judgement, noun, paged=paged),
    ]


def _table(judgement: Judgement, scoring: Scoring, noun: str) -> Iterator[str]:
    """Yield the table: the score of the model, the baselines, then the other terms. There is none if no anomalies are known."""
    from manifold.evaluation.peers import NAMES
    from manifold.runtime.manifest import COMBINED

    if not judgement.terms:
        return
    normal = int(judgement.normal.sum())
    others = f"{normal or judgement.n} {judgement.named(noun)} {'known to be normal' if normal else 'without a label'}"
    own = "combined score of the model" if scoring.score == COMBINED else f"score of the model ({scoring.score})"
    rows = [("", "AUROC", "average precision", "recall at 1% FPR" if normal else "recall at 1% flagged")]
    rows.append(_line(own, judgement.terms[scoring.score]))
    rows += [_line(f"baseline: {NAMES.get(name, name)}", numbers) for name, numbers in judgement.peers.items()]
    combined = scoring.combination.terms if scoring.score == COMBINED and scoring.combination is not None else ()
    parts = {name: numbers for name, numbers in judgement.terms.items() if name in combined}
    unused = {name: numbers for name, numbers in judgement.terms.items() if name not in (*parts, scoring.score)}
    for title, terms in (("parts of the score:", parts), ("not part of the score:", unused)):
        if terms:
            rows += [(title, "", "", ""), *(_line(f"  {name}", numbers) for name, numbers in terms.items())]
    yield f"Detection of {judgement.anomalies} known anomalies among {others}:"
    yield aligned(rows, right=(1, 2, 3))


def _line(name: str, numbers: Mapping[str, float]) -> tuple[str, str, str, str]:
    auroc, precision, recall = (f"{numbers[figure]:.3f}" for figure in FIGURES)
    return name, auroc, precision, recall


def _certainty(judgement: Judgement, scoring: Scoring, noun: str) -> Iterator[str]:
    """Yield sentences on the recall at the calibrated threshold, and on figures that are uncertain because there are few items."""
    if not judgement.terms:
        return
    own, n = judgement.terms[scoring.score], judgement.anomalies
    flagged, recall = own["flagged_at_1%"], own["found_at_1%"]
    if judgement.normal.any():
        yield f"Recall at 1% FPR: the threshold is set on these {noun}, so that 1% of the normal ones are above it."
    else:
        yield f"Recall at 1% flagged: the threshold is set on these {noun}, so that 1% of the unlabelled ones are above it."
    yield (
        f"The model uses another threshold, which was calibrated for 1% on other {noun}. It finds {flagged:.1%} of the known anomalies "
        f"({round(flagged * n)} of {n})."
    )
    if n < FEW_ANOMALIES:
        from scipy.stats import binomtest

        low, high = binomtest(round(recall * n), n).proportion_ci(method="wilson")
        yield (
            f"These figures are uncertain, because only {n} anomalies are known: the 95% interval of the recall {recall:.3f} "
            f"is {low:.2f} to {high:.2f}."
        )
    others = int(judgement.normal.sum()) or judgement.n
    if others < FEW_NORMAL:
        yield f"The threshold of the recall at 1% is uncertain, because 1% of {others} {noun} is only {others / 100:.1f} {noun}."


def _rates(judgement: Judgement, noun: str) -> Iterator[str]:
    """Yield the measured rates of normal items, the flagged shares of unlabelled items, and what is known about their exchangeability."""
    normal = int(judgement.normal.sum())
    if judgement.rates:
        yield (
            f"False positive rate on {normal} {judgement.named(noun)} that are known to be normal: {_each(judgement.rates)}. In brackets: the 95% interval of "
            f"the measured rate if these {noun} and the calibration {noun} are exchangeable (drawn at random from the same {noun})."
        )
    if judgement.unlabelled:
        yield (
            f"Share of {judgement.n - normal} unlabelled {judgement.named(noun)} that is flagged: {_each(judgement.unlabelled)}. In brackets: the 95% interval "
            f"of the share if these {noun} and the calibration {noun} are exchangeable, which implies that none of them is an anomaly."
        )
    yield from _exchangeable(judgement, noun)


def _exchangeable(judgement: Judgement, noun: str) -> Iterator[str]:
    """Yield a sentence on the reason for a shift, or on rates outside their intervals, and one on the comparison of scores."""
    from manifold.evaluation import rates

    if judgement.shift:
        yield f"{rates.not_exchangeable(judgement.shift, noun)}"
    else:
        measured = [*judgement.rates, *judgement.unlabelled]
        if beyond := sum(map(rates.outside, measured)):
            yield (
                f"{beyond} of {len(measured)} rates {'lies' if beyond == 1 else 'lie'} outside {'its interval' if beyond == 1 else 'their intervals'}. "
                "By chance, each rate lies outside in at most 5 of 100 cases; the rates of one model depend on each other."
            )
    if (compared := judgement.comparison) is not None:
        yield (
            f"Scores of these {noun} and of the calibration {noun}: Kolmogorov-Smirnov distance {compared.statistic:.3f}, p = {compared.p_value:.2g}. "
            f"A p-value near 0 means that they are not exchangeable."
        )


def _agreement(judgement: Judgement, noun: str, *, paged: bool) -> Iterator[str]:
    """Yield the rank correlations with the peers, what they mean, and how many items only one detector ranks high."""
    from manifold.evaluation import agreement
    from manifold.evaluation.peers import NAMES

    found = judgement.agreement
    if found is None:
        return
    names = {name: NAMES.get(name, name) for name in found.ranks}
    rows = [("detectors", "rank correlation", f"among the {found.top} highest of both")]
    rows += [
        (f"{names[a]}, {names[b]}", "undefined" if value is None else f"{value:.3f}", str(found.shared(a, b)))
        for (a, b), value in found.correlations.items()
    ]
    also = ", including the known anomalies" if judgement.anomalies else ""
    yield f"Agreement with detectors that were fitted to the same training {noun}, on {found.n} {judgement.named(noun)}{also}:"
    if found.compares:
        yield aligned(rows, right=(1, 2))
        yield agreement.meaning(noun)
    yield from agreement.doubts(found, noun, NAMES)
    if found.lists:
        sizes = ", ".join(f"{names[name]} {size}" for name, size in found.sizes.items())
        listed = " The report page lists them." if paged and any(found.sizes.values()) else ""
        yield f"Number of {noun} that only one detector ranks high: {sizes}.{listed}"
        yield agreement.rule(found, noun)


def _each(measured: Sequence[Mapping[str, Any]]) -> str:
    from manifold.evaluation import rates

    return ", ".join(
        f"{rate['met']:.2%} (requested {100 * rate['asked']:.3g}%) [{rates.interval_of(rate)}]" for rate in measured
    )
