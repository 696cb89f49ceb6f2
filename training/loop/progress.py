"""The progress of a training: a bar with rate and losses on a terminal, else one line per epoch."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from torch import Tensor

REFRESH = 0.2  # seconds between updates of the losses, as reading them waits for the device


class Progress:
    """A display of the progress on the terminal. `quiet` shows nothing."""

    def __init__(self, quiet: bool) -> None:
        self.console = Console(stderr=True, quiet=quiet, soft_wrap=True)
        self.bar = Bar(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
            TextColumn("{task.fields[rate]}"), TextColumn("{task.fields[losses]}"),
            console=self.console, disable=quiet or not self.console.is_terminal,
        )  # fmt: skip
        self.shown = time.perf_counter()
        self.items = self.pending = 0

    def __enter__(self) -> Progress:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def phase(self, name: str, done: int, total: int) -> None:
        """Begin a phase of `total` steps, of which `done` are complete."""
        self.task = self.bar.add_task(name, total=total, completed=done, rate="", losses="")

    def advance(self, items: int, losses: dict[str, Tensor]) -> None:
        """Count one step with `items` items."""
        self.items += items
        self.pending += 1
        elapsed = time.perf_counter() - self.shown
        if elapsed > REFRESH and not self.bar.disable:
            shown = " ".join(f"{name} {value.item():.2f}" for name, value in losses.items())
            self.bar.update(self.task, advance=self.pending, rate=f"{self.items / elapsed:,.0f} items/s", losses=shown)
            self.items, self.pending, self.shown = 0, 0, time.perf_counter()

    def say(self, text: str) -> None:
        """Print a line."""
        self.console.print(text, highlight=False)

    def epoch(self, record: dict[str, Any]) -> None:
        """Print the record of a completed epoch."""
        figures = "  ".join(f"{name} {value:.3f}" for name, value in record.items() if "/" in name)
        self.console.print(
            f"{record['phase']} epoch {record['epoch']}  {record['samples_per_second']:,.0f} items/s  {figures}",
            highlight=False,
        )
