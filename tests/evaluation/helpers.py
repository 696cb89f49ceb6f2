"""Evaluations by the library and by the command."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from manifold import cli
from manifold.evaluation import evaluate_images, images
from manifold.evaluation.extractors import Extractor
from manifold.evaluation.images import ImageArray, RealData
from manifold.evaluation.reference import Reference

PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class RealArrays(RealData):
    """A data set whose images are arrays in memory."""

    train: ImageArray
    calibration: ImageArray
    test: ImageArray


def scores(source: images.ImageSource, held: Reference, extractor: Extractor) -> dict[str, float]:
    return evaluate_images.evaluate_images(source, held, extractor)[0].metrics


def run(*arguments: str, models: Path) -> Any:
    result = CliRunner().invoke(cli.app, [*arguments, "--models", str(models), "--quiet"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout
