"""The false positive rates that the manifests of a folder of models record, each with its interval.

    python benchmarks/rates.py models       # no model is loaded

The last line counts the rates outside their 95% intervals, of models whose test items are exchangeable with their calibration items and of others.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from manifold.runtime import manifest as manifests
from manifold.runtime import shipped
from manifold.runtime.scores import measured


def main() -> None:
    """Print the rates of each model as a table in Markdown, then the counts."""
    parser = argparse.ArgumentParser(description="List the recorded false positive rates.")
    parser.add_argument("models", type=Path, help="folder of models")
    counts = {False: [0, 0], True: [0, 0]}  # by whether a shift is stated: rates outside, all rates
    print("| model | requested | measured | 95% interval | | why not exchangeable |\n|---|---|---|---|---|---|")
    for folder in shipped.latest(parser.parse_args().models).values():
        found = measured.of(manifests.read(folder))
        for rate in found.rates:
            low, high = rate.interval
            mark = "outside" if rate.outside else ""
            print(
                f"| {folder.parent.name} | {rate.requested:.1%} | {rate.measured:.2%} | {low:.2%} to {high:.2%} | {mark} | {found.shift or ''} |"
            )
            counts[bool(found.shift)][0] += rate.outside
            counts[bool(found.shift)][1] += 1
    (plain, of_plain), (shifted, of_shifted) = counts.values()
    print(
        f"\noutside: {plain + shifted} of {of_plain + of_shifted}; {plain} of {of_plain} without a stated shift, {shifted} of {of_shifted} with one"
    )


if __name__ == "__main__":
    main()
