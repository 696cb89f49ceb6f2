"""The Markdown form of reports and tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from manifold.evaluation.cells import cell, metric_rows, plain, title
from manifold.evaluation.report import Values


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def of_report(report: Values) -> str:
    """Return the report as Markdown: metrics with their anchors, classes, warnings and protocol."""
    parts = [f"# {title(report)}", table(("metric", "value", "real images"), metric_rows(report))]
    if report["by_class"]:
        columns = list(dict.fromkeys(key for row in report["by_class"] for key in row))
        parts.append(table(columns, [[cell(row.get(key)) for key in columns] for row in report["by_class"]]))
    parts += [f"- {warning}" for warning in report["warnings"]]
    parts.append("Protocol: " + "; ".join(f"{key} {plain(value)}" for key, value in report["protocol"].items()))
    return "\n\n".join(parts) + "\n"
