"""The session of one evaluation command. It finds the model, the extractor and the data, caches the reference, and shows progress."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from manifold.evaluation import (
    comparison,
    disentanglement,
    evaluate_images,
    evaluate_model,
    extractors,
    images,
    recording,
    reference,
    resize,
)
from manifold.evaluation import report as reports
from manifold.evaluation.errors import EvaluationError
from manifold.evaluation.extractors import Extractor, Stage
from manifold.evaluation.images import RealData
from manifold.evaluation.progress import Stages
from manifold.evaluation.reference import Reference
from manifold.evaluation.report import Pictures
from manifold.runtime import engine, repository, revisions
from manifold.runtime import manifest as manifests
from manifold.runtime.engine import Model
from manifold.runtime.errors import InvalidValue
from manifold.runtime.graphs.backends import known_device
from manifold.runtime.manifest import Manifest

SHIPPED = "reference.npz"  # file of reference statistics in an extractor's artifact
PARTS = ("test", "selection", "calibration", "train")


@dataclass(frozen=True)
class SessionOptions:
    """The options that all measurements of a command share."""

    n: int
    seed: int
    extractor: str | None
    resize: str
    device: str


class Session:
    """The evaluations of one command. `load_data` returns a data set by name."""

    def __init__(self, root: Path, options: SessionOptions, load_data: Callable[[str], RealData], quiet: bool) -> None:
        self.root, self.options, self.quiet = root, options, quiet
        self.data = cache(load_data)
        self.extractor = cache(self._extractor)

    def _extractor(self, name: str) -> Extractor:
        return extractors.load(name, self.root, self.options.resize, self.options.device)

    # --- commands ---

    def evaluate(
        self, name: str, data: str | None, *, prior: str | None = None, against: Path | None = None, part: str = "test",
        numbers: Mapping[str, float] | None = None,
    ) -> tuple[dict[str, Any], Pictures, Path]:  # fmt: skip
        """Evaluate a model on a split of a data set. Return its report, the images for the page, and the artifact's folder.

        `numbers` are inputs of the model by name, such as steps. A model that draws no images is measured on the split alone, without an extractor.
        """
        manifest = manifests.read(repository.find(name, self.root))
        images.check_part(part)  # before a data set is loaded, and perhaps downloaded
        if not evaluate_model.draws_images(manifest) and evaluate_model.measures_held_out(manifest):
            _check_draws({"prior": prior, "against": against, **(numbers or {})}, manifest)
            return self._held_out(name, data or self._data_of(manifest), part)
        evaluate_model.check_can(manifest, self.options.n, prior, numbers)
        data = data or self._data_of(manifest)
        model = self._model(name)
        extractor = self._extractor_for(data)
        with Stages(self.quiet) as stage:
            if against is not None:
                path = extractor.model.folder / SHIPPED if str(against) == "shipped" else against
                real, statistics = None, reference.read_npz(path, extractor)
            else:
                real = self.data(data).on(part)
                if part != "test":
                    images.check_not_trained_on(manifest, real)
                self._check_shape(model, real)
                statistics = reference.of_source(extractor, real.test, real.part, stage(f"{data}: reference"))
            report, pictures = evaluate_model.evaluate(
                model, statistics, extractor, real, n=self.options.n, seed=self.options.seed, prior=prior, numbers=numbers,
                stage=stage,
            )  # fmt: skip
        return report.as_dict(), pictures, model.folder

    def _held_out(self, name: str, data: str, part: str) -> tuple[dict[str, Any], Pictures, Path]:
        """Evaluate a model that draws no images on a split of a data set, without an extractor."""
        model, real = self._model(name), self.data(data).on(part)
        if part != "test":
            images.check_not_trained_on(model.manifest, real)
        self._check_shape(model, real)
        with Stages(self.quiet) as stage:
            report, pictures = evaluate_model.evaluate_held_out(model, real, seed=self.options.seed, stage=stage)
        return report.as_dict(), pictures, model.folder

    def compare(self, names: Sequence[str], data_of: Callable[[str], str | None]) -> list[reports.Values]:
        """Return the reports of several models, best first. `data_of` gives the data set that was requested for a model, if any.

        Each name is a model, NAME:PRIOR, or a JSON file of a report. Raises UnsupportedTask for a model that makes no images, and
        ProtocolMismatch if the models belong to different data sets: both before anything is measured.
        """
        wanted = {name: data_of(name) for name in names}
        comparison.check_same_data({name: self._measured_on(name, data) for name, data in wanted.items()})
        return comparison.ranked([self.known_or_evaluated(name, data) for name, data in wanted.items()])

    def _measured_on(self, name: str, data: str | None) -> str:
        """Return the data set that a model is measured on. Raises an error if the model cannot be evaluated."""
        if name.endswith(".json"):
            return str(reports.read(Path(name))["protocol"].get("reference", {}).get("data") or "")
        model, _, prior = name.partition(":")
        manifest = manifests.read(repository.find(model, self.root))
        evaluate_model.check_can(manifest, self.options.n, prior or None)
        return data or self._data_of(manifest)

    def known_or_evaluated(self, name: str, data: str | None) -> dict[str, Any]:
        """Return a report: from a JSON file, from the artifact's manifest if it was recorded with these options, or from a new evaluation."""
        if name.endswith(".json"):
            return reports.read(Path(name))
        name, _, prior = name.partition(":")
        manifest = manifests.read(repository.find(name, self.root))
        wanted = prior or (manifest.space.prior if manifest.space else None)
        data = data or self._data_of(manifest)
        extractor = self._extractor_for(data)
        for known in recording.recorded(manifest):
            if self._is_same(known["protocol"], extractor, data) and known.get("prior") == wanted:
                return known
        return self.evaluate(name, data, prior=prior or None)[0]

    def evaluate_images(self, path: Path, against: Path, *, skip: bool) -> tuple[dict[str, Any], Pictures]:
        """Evaluate any images against other images or against a statistics file."""
        extractor = self.extractor(self.options.extractor or "")
        with Stages(self.quiet) as stage:
            if reference.is_statistics(against):
                statistics = reference.read_npz(against, extractor)
            else:
                statistics = self._reference_of(against, extractor, skip, stage)
            report, _, pictures = evaluate_images.evaluate_images(
                self._images(path, extractor, skip), statistics, extractor, seed=self.options.seed, stage=stage
            )
        return report.as_dict(), pictures

    def write_reference(
        self, out: Path | None, data: str | None, path: Path | None, part: str, *, skip: bool = False, warn: Callable[[str], None] = lambda text: None
    ) -> Path:  # fmt: skip
        """Write the statistics of a data set's split, or of the images in `path`, into `out`, or into the next version of the extractor's artifact.

        `warn` is called with a text for each file that was skipped and for each kind of change to others.
        """
        if part not in PARTS:
            raise EvaluationError(f"part: unknown {part!r}; valid are {', '.join(PARTS)}", field="part", valid=PARTS)
        extractor = self.extractor(self.options.extractor or "")
        anchors: dict[str, Any] = {}
        with Stages(self.quiet) as stage:
            if path is not None:
                statistics = self._reference_of(path, extractor, skip, stage)
            else:
                real = self.data(data or self._data_of(extractor.model.manifest))
                statistics = reference.of_source(extractor, getattr(real, part), part, stage("reference"))
                if part == "test":
                    anchors = evaluate_model.anchors(real, statistics, extractor, statistics.n or 0, 0, stage)
        if statistics.features is not None:
            for text in evaluate_images.file_warnings(statistics.source, statistics.features, "images"):
                warn(text)
        if out is None:

            def ship(folder: Path, manifest: Manifest) -> Manifest:
                reference.write_npz(folder / SHIPPED, statistics, extractor, anchors)
                return manifest

            return revisions.publish(extractor.model, self.root, ship) / SHIPPED
        if out.suffix != ".npz":
            raise EvaluationError(f"out: {out} must end in .npz", field="out")
        reference.write_npz(out, statistics, extractor, anchors)
        return out

    def disentangle(self, name: str, data: str | None, item: int) -> tuple[dict[str, Any], bytes]:
        """Return the figures of an artifact's latent dimensions, and a PNG of their traversals."""
        manifest = manifests.read(repository.find(name, self.root))
        disentanglement.check_can(manifest)
        data = data or self._data_of(manifest)
        model = self._model(name)
        real = self.data(data)
        self._check_shape(model, real)
        return disentanglement.of_model(model, real, item)

    # --- pieces ---

    def _model(self, name: str) -> Model:
        return engine.load(repository.find(name, self.root), device=known_device(self.options.device))

    def _extractor_for(self, data: str) -> Extractor:
        """Return the extractor that the options name, by default the one that was trained on the data set."""
        return self.extractor(self.options.extractor or extractors.for_data(data, self.root))

    def _is_same(self, protocol: dict[str, Any], extractor: Extractor, data: str) -> bool:
        """Return whether a report's protocol equals that of this session."""
        recorded = [protocol.get(key) for key in ("extractor_sha256", "n", "seed", "resize")]
        own = [extractor.sha256, self.options.n, self.options.seed, extractor.mode]
        measured = protocol["reference"]
        return recorded == own and measured.get("data") == data and measured.get("split", "test") == "test"

    def _data_of(self, manifest: Manifest) -> str:
        name = manifest.data_name
        if not name:
            raise EvaluationError(
                f"data: the manifest of {manifest.name} does not name its data set; give it with --data",
                field="data",
            )
        return name

    def _check_shape(self, model: Model, real: RealData) -> None:
        if real.test.shape != model.manifest.spec.shape:
            raise EvaluationError(
                f"data: images of {real.name} have shape {list(real.test.shape)}, but those of "
                f"{model.manifest.name} have {list(model.manifest.spec.shape)}; choose the data set that it was trained on",
                field="data",
            )

    def _images(self, path: Path, extractor: Extractor, skip: bool) -> images.ImageSource:
        spec, mixed = extractor.spec, extractor.mode != resize.NONE
        return images.open_images(
            path, extractor.colour, skip=skip, mixed=mixed, background=spec.background or 0.0, invert=spec.invert
        )

    def _reference_of(self, path: Path, extractor: Extractor, skip: bool, stage: Stage) -> Reference:
        """Return the statistics of images in a folder or file."""
        return reference.of_source(extractor, self._images(path, extractor, skip), "all", stage("reference"))


def _check_draws(options: Mapping[str, object], manifest: Manifest) -> None:
    """Raise InvalidValue for an option about samples if the model draws none."""
    for name, value in options.items():
        if value is not None:
            raise InvalidValue(
                f"--{name}: it has no effect, because {manifest.name} draws no images; remove it", field=name
            )
