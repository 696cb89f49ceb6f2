"""What the commands share: finding the extractor and the data, the reference from the cache, progress, and artifacts to write into."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from manifold.evaluation import evaluate_images as evaluate
from manifold.evaluation import evaluate_model as models
from manifold.evaluation import extractors, images, reference, report, resize
from manifold.evaluation.errors import EvaluationError
from manifold.evaluation.evaluate_model import RealData
from manifold.evaluation.extractors import Extractor
from manifold.evaluation.progress import Stages
from manifold.evaluation.records import Pictures, check_report
from manifold.runtime import engine, repository
from manifold.runtime import manifest as manifests
from manifold.runtime.engine import Model

SHIPPED = "reference.npz"  # in an extractor's artifact


@dataclass(frozen=True)
class Options:
    """What is the same for all that one command measures."""

    n: int
    seed: int
    extractor: str | None
    resize: str
    device: str


class Session:
    """One command's evaluations. `load_data` gives a data set by name."""

    def __init__(self, root: Path, options: Options, load_data: Callable[[str], RealData], quiet: bool) -> None:
        self.root, self.options, self.quiet = root, options, quiet
        self.data = cache(load_data)
        self.extractor = cache(self._extractor)

    def _extractor(self, name: str) -> Extractor:
        return extractors.load(name, self.root, self.options.resize, self.options.device)

    # --- commands ---

    def evaluate(
        self, name: str, data: str | None, *, prior: str | None = None, against: Path | None = None
    ) -> tuple[dict[str, Any], Pictures, Path]:
        """Report, pictures and folder of the artifact."""
        model = self._model(name)
        models.check_can(model, self.options.n, prior)
        data = data or self._data_of(model)
        extractor = self.extractor(self.options.extractor or extractors.for_data(data, self.root))
        with Stages(self.quiet) as stage:
            if against is not None:
                path = extractor.model.folder / SHIPPED if str(against) == "shipped" else against
                real, held = None, reference.read_npz(path, extractor)
            else:
                real = self.data(data)
                self._check_shape(model, real)
                held = reference.of_source(extractor, real.test, "test", stage(f"{data}: reference"))
            found, pictures = models.evaluate(
                model, held, extractor, real, n=self.options.n, seed=self.options.seed, prior=prior, stage=stage
            )
        return found.as_dict(), pictures, model.folder

    def known_or_evaluated(self, name: str, data: str | None) -> dict[str, Any]:
        """A report from a JSON file, from the artifact's manifest where it was recorded under these options, or measured now."""
        if name.endswith(".json"):
            return self._read(Path(name))
        name, _, prior = name.partition(":")
        folder = self._folder(name)
        manifest = manifests.read(folder)
        wanted = prior or (manifest.space.prior if manifest.space else None)
        data = data or manifest.data_name or ""
        extractor = self.extractor(self.options.extractor or extractors.for_data(data, self.root))
        for known in report.recorded(manifest):
            protocol = known["protocol"]
            same = (extractor.sha256, self.options.n, self.options.seed, extractor.mode, data) == (
                protocol["extractor_sha256"], protocol["n"], protocol["seed"], protocol["resize"], protocol["reference"].get("data"),
            )  # fmt: skip
            if same and known.get("prior") == wanted:
                return known
        return self.evaluate(name, data, prior=prior or None)[0]

    def evaluate_images(self, path: Path, against: Path, *, skip: bool) -> tuple[dict[str, Any], Pictures]:
        """Any images against any images, or against statistics."""
        extractor = self.extractor(self.options.extractor or "")
        with Stages(self.quiet) as stage:
            if against.suffix == ".npz" and self._is_statistics(against):
                held = reference.read_npz(against, extractor)
            else:
                held = reference.of_source(extractor, self._images(against, extractor, skip), "all", stage("reference"))
            found, _, pictures = evaluate.evaluate_images(
                self._images(path, extractor, skip), held, extractor, seed=self.options.seed, stage=stage
            )
        return found.as_dict(), pictures

    def write_reference(
        self, out: Path | None, data: str | None, path: Path | None, part: str, *, skip: bool = False
    ) -> Path:
        """Statistics of a data set's part or of images, into a file, or into the extractor's artifact where `out` is None."""
        extractor = self.extractor(self.options.extractor or "")
        anchors: dict[str, Any] = {}
        with Stages(self.quiet) as stage:
            if path is not None:
                source = self._images(path, extractor, skip)
                held = reference.of_source(extractor, source, "all", stage("reference"))
            else:
                real = self.data(data or self._data_of(extractor.model))
                if part not in ("test", "calibration", "train"):
                    raise EvaluationError(f"part: unknown {part!r}; valid are test, calibration, train", field="part")
                held = reference.of_source(extractor, getattr(real, part), part, stage("reference"))
                if part == "test":
                    anchors = models.anchors(real, held, extractor, held.n or 0, 0, stage)
        target = out or extractor.model.folder / SHIPPED
        if target.suffix != ".npz":
            raise EvaluationError(f"out: {target} must end in .npz", field="out")
        reference.write_npz(target, held, extractor, anchors)
        if out is None:
            repository.seal(extractor.model.folder)
        return target

    def disentangle(self, name: str, data: str | None, item: int) -> tuple[dict[str, Any], bytes]:
        """Figures of an artifact's latent dimensions, and a PNG of their traversals."""
        model = self._model(name)
        real = self.data(data or self._data_of(model))
        self._check_shape(model, real)
        return models.disentangle(model, real, item)

    # --- pieces ---

    def _folder(self, name: str) -> Path:
        return repository.find(name, self.root)

    def _model(self, name: str) -> Model:
        return engine.load(self._folder(name), device=self.options.device)

    def _data_of(self, model: Model) -> str:
        name = model.manifest.data_name
        if not name:
            raise EvaluationError(
                f"data: {model.manifest.name} does not say what it was trained on; say it by --data", field="data"
            )
        return name

    def _check_shape(self, model: Model, real: RealData) -> None:
        if real.test.pixels.shape[1:] != model.manifest.spec.shape:
            raise EvaluationError(
                f"data: {real.name} holds images of shape {list(real.test.pixels.shape[1:])}, "
                f"{model.manifest.name} makes {list(model.manifest.spec.shape)}",
                field="data",
            )

    def _images(self, path: Path, extractor: Extractor, skip: bool) -> images.Source:
        return images.open_images(path, extractor.colour, skip=skip, mixed=extractor.mode != resize.NONE)

    def _is_statistics(self, path: Path) -> bool:
        import zipfile

        try:
            with zipfile.ZipFile(path) as held:
                return "mu.npy" in held.namelist()
        except (OSError, zipfile.BadZipFile):
            return False  # whoever reads it as images will say what is wrong

    def _read(self, path: Path) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads(path.read_text())
            check_report(found)
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise EvaluationError(f"{path}: not a report of `manifold evaluate --out`: {error}") from None
        return found
