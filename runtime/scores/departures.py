"""The warnings of `calibrate`: items of a new calibration that look unlike those of the old one.

Two rules, both on the score by the old calibration. The distribution has moved if a two-sample Kolmogorov-Smirnov test has p below 0.001 and
its statistic is above 0.1: of very many rows, every small difference is significant. The upper tail is too heavy if at least three times as
many rows as expected lie beyond the old line for 1%, and that many do not come about by chance (four standard deviations). The second is how
anomalies show that are in the file without a label, also if they are too few to move the distribution.
"""

from __future__ import annotations

import math

from manifold.runtime.scores.drift import kolmogorov_smirnov
from manifold.runtime.scores.scoring import Calibrated, Float64

P_VALUE, STATISTIC = 1e-3, 0.1  # a distribution has moved below the one and above the other
RATES = (0.01, 0.05)  # of the old line: the first that the old calibration resolves
# beyond the line: the share is so many times the rate, and so many standard deviations above it
TIMES, DEVIATIONS = 3.0, 4.0


def warnings(old: Calibrated, term: str, scores: Float64, noun: str = "rows") -> list[str]:
    """Return what is unusual about new items (`noun`), by their scores (n,) under the old calibration. An artifact without one gives no warnings."""
    place = "file" if noun == "rows" else "folder"
    known = "name the known ones by --truth, or take them out" if noun == "rows" else "take them out"
    if not old.n or not len(scores):
        return []
    found = []
    moved = kolmogorov_smirnov(scores, old.scores[term])
    if moved.p_value < P_VALUE and moved.statistic > STATISTIC:
        found.append(
            f"the {noun} look unlike the old calibration: the distributions of {term} differ by {moved.statistic:.2f} "
            f"(Kolmogorov-Smirnov, p = {moved.p_value:.1g}); if that is not expected, check that the {place} holds the right {noun} and only normal ones"
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
            f"{share:.1%} of the {noun} lie beyond the old line for {rate:.0%}: the {place} may hold anomalies without a label, and calibrated on them "
            f"the model misses others like them; {known}"
        )
    return found
