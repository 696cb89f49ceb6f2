"""The script that makes the example tables: payments.csv, new-payments.csv and normal-payments.csv.

    python examples/make_payments.py

The payments are invented. About 2% of the rows of payments.csv are fraud, of four kinds: a large amount at night, a small amount for
many items, an order by phone from a country where few customers order by phone, and a single item that is far too expensive. Some of them
look like usual payments. The files depend only on the seeds below, so the script always writes the same bytes.
"""

from __future__ import annotations

import csv
import math
import random
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
COLUMNS = ("order_id", "amount", "hour", "country", "channel", "items", "label")
COUNTRIES = {"DE": 40, "FR": 22, "NL": 14, "PL": 12, "ES": 8, "US": 4}  # name: weight
CHANNELS = ("web", "app", "phone")
USED = {  # country: weights of the channels
    "DE": (60, 35, 5), "FR": (55, 40, 5), "NL": (40, 58, 2), "PL": (70, 28, 2), "ES": (50, 35, 15), "US": (89, 10, 1),
}  # fmt: skip
PRICES = {"web": 24.0, "app": 15.0, "phone": 45.0}  # median price of one item, in euros
FRAUD = 0.02  # share
MISSING = 0.01  # share of the amounts, hours, countries, channels and item counts that are empty

Row = dict[str, str]


def payments(seed: int, n: int, first: int, fraud: float) -> Iterator[Row]:
    """Yield `n` payments with order numbers from `first` on. `fraud` is the share of anomalies."""
    chance = random.Random(seed)
    for index in range(n):
        normal = chance.random() >= fraud
        row = _normal(chance) if normal else _fraud(chance)
        for name in COLUMNS[1:-1]:
            if chance.random() < MISSING:
                row[name] = ""
        yield {"order_id": f"P-{first + index}", **row, "label": "normal" if normal else "fraud"}


def _normal(chance: random.Random) -> Row:
    """Return a normal payment. Its amount depends on the channel and on the number of items."""
    country = chance.choices(list(COUNTRIES), list(COUNTRIES.values()))[0]
    channel = chance.choices(CHANNELS, USED[country])[0]
    items = 1 + min(int(chance.expovariate(0.9 if channel == "app" else 0.6)), 11)
    hour = _hour(chance, 13 if channel == "phone" else 20 if channel == "app" else 17)
    price = PRICES[channel] * math.exp(chance.gauss(0, 0.45))
    return _row(price * items, hour, country, channel, items)


def _fraud(chance: random.Random) -> Row:
    """Return a payment of one of four kinds of fraud."""
    kind = chance.randrange(4)
    country = chance.choices(list(COUNTRIES), list(COUNTRIES.values()))[0]
    if kind == 0:
        return _row(chance.uniform(150, 900), chance.uniform(0, 7), country, "web", chance.randint(1, 3))
    if kind == 1:  # a stolen card is tried with a small amount
        return _row(chance.uniform(1, 20), chance.uniform(0, 24), country, "app", chance.randint(2, 8))
    if kind == 2:
        return _row(chance.uniform(50, 400), chance.uniform(5, 24), "US", "phone", chance.randint(1, 3))
    return _row(chance.uniform(60, 400), chance.uniform(9, 24), country, "app", 1)


def _hour(chance: random.Random, middle: float) -> float:
    """Return an hour of the day around `middle`, or any hour for one payment in fifty."""
    hour = chance.gauss(middle, 3.5)
    return hour if 0 <= hour < 24 and chance.random() > 0.02 else chance.uniform(0, 24)


def _row(amount: float, hour: float, country: str, channel: str, items: int) -> Row:
    return {
        "amount": f"{amount:.2f}", "hour": f"{math.floor(hour * 10) / 10:.1f}", "country": country, "channel": channel, "items": str(items),
    }  # fmt: skip


def write(path: Path, columns: tuple[str, ...], rows: list[Row]) -> None:
    """Write the named columns of rows as CSV."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def main(folder: Path = HERE) -> None:
    """Write the three files into a folder."""
    write(folder / "payments.csv", COLUMNS, list(payments(1, 2500, 10_000, FRAUD)))
    new = list(payments(2, 300, 20_000, 2 * FRAUD))
    new[120]["amount"] = "12,50 EUR"  # the invalid row: its amount is not a number
    write(folder / "new-payments.csv", COLUMNS[:-1], new)
    write(folder / "normal-payments.csv", COLUMNS[:-1], list(payments(3, 800, 30_000, 0)))


if __name__ == "__main__":
    main()
