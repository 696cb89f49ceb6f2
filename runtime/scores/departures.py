"""The warnings of `calibrate` about items that differ from the old calibration.

Two rules apply to the scores under the old calibration:

- The distribution has moved if a two-sample Kolmogorov-Smirnov test has p below 0.001 and a statistic above 0.1. (With very many rows, every
  small difference is significant, so both are required.)
- The upper tail is too heavy if at least three times as many rows as expected are above the old threshold for 1%, and the difference is more
  than four standard deviations. This finds unlabelled anomalies, even if they are too few to move the distribution.
"""

from __future__ import annotations

import math

from manifold.runtime.scores.drift import kolmogorov_smirnov
from manifold.runtime.scores.scoring import Calibrated, Float64

P_VALUE, STATISTIC = 1e-3, 0.1  # a distribution has moved if p is below the first and the statistic above the second
RATES = (0.01, 0.05)  # rates for the old threshold; the first one that the old calibration resolves is used
# a tail is too heavy if the share above the threshold is TIMES the rate, and DEVIATIONS standard deviations above the rate
TIMES, DEVIATIONS = 3.0, 4.0


def warnings(old: Calibrated, term: str, scores: Float64, noun: str = "rows") -> list[str]:
    """Return warnings about new items (`noun`) from their scores (n,) under the old calibration. Without one there are no warnings."""
    place = "file" if noun == "rows" else "folder"
    known = "mark the known ones with --truth, or remove them" if noun == "rows" else "remove them"
    if not old.n or not len(scores):
        return []
    found = []
    moved = kolmogorov_smirnov(scores, old.scores[term])
    if moved.p_value < P_VALUE and moved.statistic > STATISTIC:
        found.append(
            f"the {noun} differ from the old calibration: the distributions of {term} differ by {moved.statistic:.2f} "
            f"(Kolmogorov-Smirnov, p = {moved.p_value:.1g}); if you did not expect that, check that the {place} contains the right {noun} and only "
            "normal ones"
        )
    rate = next((rate for rate in RATES if old.threshold(term, rate).score is not None), None)
    if rate is None:
        return found
    line = old.threshold(term, rate)
    assert line.p_value is not None
    expected, n = line.p_value, len(scores)
    share = float((old.p_values(term, scores) <= line.p_value).mean())
    deviation = math.sqrt(expected * (1 - expected) * (1 / n + 1 / old.n))
    if share >= TIMES * expected and share - expected > DEVIATIONS * deviation:
        found.append(
            f"{share:.1%} of the {noun} are above the old threshold for {rate:.0%}: the {place} may contain unlabelled anomalies, and after a "
            f"calibration on them the model would miss similar ones; {known}"
        )
    return found
