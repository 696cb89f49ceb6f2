"""The progress of an evaluation: stage, number of images, time left. It is written to standard error, so that the output can be piped."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from manifold.evaluation.extractors import Progress


class Stages:
    """A display of an evaluation's stages: a progress bar for each on a terminal, else one line for each. `quiet` shows nothing."""

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
        """Begin a stage. Return a function that takes the number of images done and the total."""
        if not self.console.is_terminal:
            self.console.print(stage, highlight=False)
        task = self.bar.add_task(stage, total=None)

        def advance(done: int, total: int) -> None:
            self.bar.update(task, completed=done, total=total)

        return advance
