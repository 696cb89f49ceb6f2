"""The progress of an evaluation: stage, images, time left. It goes to standard error, so that output can be piped."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from manifold.evaluation.extractors import Progress


class Stages:
    """The stages of an evaluation: a bar for each on a terminal, one line for each elsewhere, nothing if `quiet`."""

    def __init__(self, quiet: bool = False) -> None:
        self.console = Console(stderr=True, quiet=quiet, soft_wrap=True)
        self.bar = Bar(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
            console=self.console, disable=quiet or not self.console.is_terminal,
        )  # fmt: skip

    def __enter__(self) -> Stages:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def __call__(self, stage: str) -> Progress:
        """Begin a stage. The result takes images done and images in all."""
        if not self.console.is_terminal:
            self.console.print(stage, highlight=False)
        task = self.bar.add_task(stage, total=None)

        def advance(done: int, total: int) -> None:
            self.bar.update(task, completed=done, total=total)

        return advance
