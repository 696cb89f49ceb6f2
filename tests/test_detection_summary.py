"""The text that `manifold fit` and `manifold judge` print about a detector."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from manifold.cli import detection, tables
from manifold.evaluation.anomaly import Judgement
from manifold.runtime.manifest import Scoring
from manifold.runtime.scores.drift import Distance

OWN = {"auroc": 0.9494, "average_precision": 0.8, "found_at_1%": 0.45, "flagged_at_1%": 0.5}
RATES = [{"asked": rate, "met": 1.6 * rate, "expected": [0.0, 3 * rate]} for rate in (0.001, 0.01)]


def scoring(score: str = "combined") -> Scoring:
    terms = tuple({"name": name, "kind": "nll"} for name in ("odd", "kl", "near"))
    combination = {"terms": ("odd", "near")} if score == "combined" else None
    return Scoring.model_validate({"terms": terms, "combination": combination, "score": score})


def judged(normal: int = 2000, anomalies: int = 200, unlabelled: int = 0, **changes: Any) -> Judgement:
    terms = {
        name: {**OWN, "auroc": auroc}
        for name, auroc in (("odd", 0.7), ("kl", 0.6), ("near", 0.8), ("combined", 0.9494))
    }
    peers = {name: {**OWN, "auroc": 0.5} for name in ("IForest", "input kNN")}
    known = np.arange(normal + unlabelled) < normal
    made: dict[str, Any] = {
        "rates": RATES if normal else [],
        "unlabelled": RATES if unlabelled else [],
        "terms": terms,
        "peers": peers,
    }
    return Judgement(normal=known, anomalies=anomalies, **{**made, **changes})


def said(judgement: Judgement, score: str = "combined") -> list[str]:
    return "\n".join(detection.summary(judgement, scoring(score), "rows")).splitlines()


def test_the_score_of_the_model_comes_first_and_is_named() -> None:
    assert said(judged())[:9] == [
        "Detection of 200 known anomalies among 2000 held-out rows known to be normal:",
        "                                AUROC  average precision  recall at 1% FPR",
        "  combined score of the model   0.949              0.800             0.450",
        "  baseline: isolation forest    0.500              0.800             0.450",
        "  baseline: nearest neighbours  0.500              0.800             0.450",
        "  parts of the score:",
        "    odd                         0.700              0.800             0.450",
        "    near                        0.800              0.800             0.450",
        "  not part of the score:",
    ]
    assert said(judged())[10:] == [
        "Recall at 1% FPR: the threshold is set on these rows, so that 1% of the normal ones are above it.",
        "The model uses another threshold, which was calibrated for 1% on other rows. It finds 50.0% of the known anomalies (100 of 200).",
        "False positive rate on 2000 held-out rows that are known to be normal: 0.16% (requested 0.1%) [0.00% to 0.30%], 1.60% (requested 1%) "
        "[0.00% to 3.00%]. In brackets: the 95% interval of the measured rate if these rows and the calibration rows are exchangeable (drawn at "
        "random from the same rows).",
    ]


def test_rates_outside_their_intervals_are_counted_and_a_shift_is_explained() -> None:
    rates = [
        {"asked": 0.01, "met": 0.07, "expected": [0.004, 0.02]},
        {"asked": 0.1, "met": 0.1, "expected": [0.08, 0.12]},
    ]
    compared = Distance(2000, 0.1234, 0.00045)
    *_, counted, scores = said(judged(rates=rates, comparison=compared))
    assert counted == (
        "1 of 2 rates lies outside its interval. By chance, each rate lies outside in at most 5 of 100 cases; the rates of one model depend on each "
        "other."
    )
    assert scores == (
        "Scores of these rows and of the calibration rows: Kolmogorov-Smirnov distance 0.123, p = 0.00045. A p-value near 0 means that they are "
        "not exchangeable."
    )
    text = "\n".join(said(judged(rates=rates, shift="the test split is later in time")))
    assert "7.00% (requested 1%) [0.40% to 2.00%: outside], 10.00% (requested 10%) [8.00% to 12.00%]." in text
    assert "are not exchangeable: the test split is later in time. A measured rate may therefore differ" in text
    assert "By chance" not in text


def test_a_single_term_is_the_score() -> None:
    table = said(judged(), "near")
    assert table[2].split() == ["score", "of", "the", "model", "(near)", "0.800", "0.800", "0.450"]
    assert "  parts of the score:" not in table
    assert [line.split()[0] for line in table[6:9]] == ["odd", "kl", "combined"]


def test_few_items_make_the_figures_uncertain() -> None:
    few = "\n".join(said(judged(normal=246, anomalies=40)))
    assert "because only 40 anomalies are known: the 95% interval of the recall 0.450 is 0.31 to 0.60." in few
    assert "because 1% of 246 rows is only 2.5 rows." in few
    assert "uncertain" not in "\n".join(said(judged()))


def test_without_known_anomalies_there_is_no_table() -> None:
    (line,) = said(judged(normal=0, unlabelled=300, anomalies=0, terms={}, peers={}))
    assert line.startswith(
        "Share of 300 unlabelled held-out rows that is flagged: 0.16% (requested 0.1%) [0.00% to 0.30%]"
    )
    assert "alse positive" not in line


def test_without_normal_items_no_false_positives_are_claimed() -> None:
    text = "\n".join(said(judged(normal=0, unlabelled=3000)))
    assert "known anomalies among 3000 held-out rows without a label:" in text
    assert "recall at 1% flagged" in text
    assert "so that 1% of the unlabelled ones are above it" in text
    assert "alse positive" not in text
    assert "FPR" not in text


@pytest.mark.parametrize(
    ("text", "shown"), [("a\x1b[1m\n", "a\\x1b[1m\\n"), ("é\u202e", "é\\u202e"), ("x" * 90, "x" * 79 + "…")]
)
def test_texts_of_files_cannot_change_the_terminal(text: str, shown: str) -> None:
    assert tables.printable(text) == shown
