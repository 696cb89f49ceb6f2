"""The simulated card transactions of the Fraud Detection Handbook (Le Borgne, Siblini, Lebichot and Bontempi, 2022), as rows.

A model scores one row at a time, so each row also contains features of the earlier transactions of its card and its terminal. They use only
strictly earlier transactions, so a row can be computed at the moment of the transaction. No feature depends on a fraud label. The features
follow chapter 3 of the Handbook, without its terminal risk, which is computed from labels.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from manifold.training.data import Data, tables
from manifold.training.data.parts import Array
from manifold.training.data.remote import Remote, fetch
from manifold.training.data.schema import ColumnSettings

Float64 = NDArray[np.float64]

NAME = "transactions"
ITEMS = "rows"
HAS_CLASSES = False
LICENCE = "simulated by the Fraud Detection Handbook (Le Borgne et al., 2022): text CC BY-SA 4.0, code GPL-3.0"
FILE = Remote(
    "fraud_simulated/transactions.npz", "", "sha256:cb70ba00237d581096862e7256f602639c9b3fcb94d21d777e2c6c23b9a91e04"
)
DAYS = {"train": (30, 100), "calibration": (100, 114), "test": (114, 183)}  # the first 30 days only fill the windows
ROWS = {"train": 100_000, "calibration": 20_000, "test": 20_000, "anomalies": 5_000}

DAY = 86_400  # seconds
WINDOWS = (1, 7, 30)  # days
FIRST_GAP = 30 * DAY  # time since the last transaction, for a card's first transaction

SHIFT = "the test split is later in time than the calibration split"

STATED = ColumnSettings(
    units={"hour": "h", "hours_since_last": "h"},
    kinds={
        "weekday": "categorical",
        **{f"{key}_{days}d_count": "numeric" for key in ("card", "terminal") for days in WINDOWS},
    },
)


def load() -> Data:
    """Load the data set. It is split by time.

    Days 30 to 100 are for training and the next two weeks for calibration, both without frauds. In the later days, genuine rows are the test
    split and frauds are the known anomalies. All rows are drawn with seed 0.
    """
    table, scenario, day = read(fetch(FILE))
    generator = np.random.Generator(np.random.Philox(0))
    parts = {}
    for part, most in ROWS.items():
        low, high = DAYS.get(part, DAYS["test"])
        kind = scenario > 0 if part == "anomalies" else scenario == 0
        candidates = np.flatnonzero((day >= low) & (day < high) & kind)
        drawn = generator.choice(candidates, min(most, len(candidates)), replace=False)
        parts[part] = tables.take(table, np.sort(drawn))
    days = {f"{part}_days": f"{low} to {high}" for part, (low, high) in DAYS.items()}
    return tables.from_parts(NAME, parts, {"source": "fraud_simulated", **days}, STATED, licence=LICENCE, shift=SHIFT)


def read(path: Path) -> tuple[dict[str, Array], Array, Array]:
    """Read all rows of the file as columns, with the fraud scenario (0: genuine) and the day (from 0) of each row."""
    with np.load(path) as raw:
        seconds = np.cumsum(raw["time_delta_s"].astype(np.int64))  # since Sunday 2018-04-01 00:00
        table = features(seconds, raw["customer_id"], raw["terminal_id"], raw["amount_cents"] / 100)
        return table, raw["fraud_scenario"].astype(np.int64), seconds // DAY


def features(seconds: Array, cards: Array, terminals: Array, amount: Array) -> dict[str, Array]:
    """Return the columns (n,) of transactions (n,) in order of time. `seconds` are counted from a Sunday at midnight."""
    seconds = seconds.astype(np.int64)
    if (np.diff(seconds) < 0).any():
        raise ValueError("seconds: transactions must be in order of time")
    amount = amount.astype(np.float64)
    hour = seconds % DAY / 3600
    made: dict[str, Array] = {
        "amount": amount,
        "hour": np.round(hour, 2),
        "weekday": ((seconds // DAY + 6) % 7).astype(str),
        "night": (hour < 6).astype(np.int64).astype(str),
    }
    of_card, of_terminal = Past(cards, seconds), Past(terminals, seconds)
    for days in WINDOWS:
        count, total = of_card.window(days * DAY, amount)
        made[f"card_{days}d_count"] = count
        made[f"card_{days}d_mean"] = np.where(count > 0, np.round(total / np.maximum(count, 1), 2), np.nan)
        count, _ = of_terminal.window(days * DAY, amount)
        made[f"terminal_{days}d_count"] = count
    count, total = of_terminal.window(30 * DAY, amount)
    made["terminal_30d_mean"] = np.where(count > 0, np.round(total / np.maximum(count, 1), 2), np.nan)
    usual = made["card_30d_mean"]
    made["amount_over_usual"] = np.round(np.log((amount + 1) / (usual + 1)), 4)  # NaN for a card's first transaction
    made["hours_since_last"] = np.round(np.minimum(of_card.gap(), FIRST_GAP) / 3600, 3)
    return made


class Past:
    """An index of earlier transactions with the same key. It is one sorted array of (key, time)."""

    def __init__(self, keys: Array, seconds: Array) -> None:
        _, place = np.unique(keys, return_inverse=True)
        since = seconds - seconds.min() if len(seconds) else seconds
        self.span = int(since.max(initial=0)) + 1
        position = place.astype(np.int64) * self.span + since
        self.order = np.argsort(position, kind="stable")  # equal times keep the order of the transactions
        self.position, self.seconds = position[self.order], seconds[self.order]
        self.back = np.empty(len(self.order), np.int64)
        self.back[self.order] = np.arange(len(self.order))
        self.first = np.searchsorted(self.position // self.span, self.position // self.span, side="left")

    def window(self, length: int, amount: Float64) -> tuple[Array, Float64]:
        """Return the number of earlier transactions of the key within `length` seconds, and the sum of their amounts, (n,) each.

        Cents are added as whole numbers. Running sums of floats would have rounding errors that depend on other keys and on the future.
        """
        cents = np.rint(amount * 100).astype(np.int64)
        start = np.maximum(np.searchsorted(self.position, self.position - length, side="left"), self.first)
        sums = np.concatenate([[0], np.cumsum(cents[self.order])])
        here = np.arange(len(self.order))
        count, total = here - start, sums[here] - sums[start]
        return count[self.back], total[self.back] / 100

    def gap(self) -> Array:
        """Return the seconds since the key's last transaction, (n,); FIRST_GAP if there is none."""
        here = np.arange(len(self.order))
        gap = np.where(here > self.first, self.seconds - self.seconds[np.maximum(here - 1, 0)], FIRST_GAP)
        return gap[self.back]
