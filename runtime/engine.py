"""Models for users of the library: `load` opens an artifact, checks it and warms it up; `Model` runs it.

The evaluator, the command line and the service use the same models. The runs themselves are in runtime.runner.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from manifold.runtime import codecs, golden, operations, priors, repository
from manifold.runtime import manifest as manifests
from manifold.runtime.arguments import in_library_terms
from manifold.runtime.conditions import Given
from manifold.runtime.errors import ArtifactError, InvalidValue, RequestError, shown
from manifold.runtime.graphs.backends import Device, known_device
from manifold.runtime.inputs import Numbers, with_fields
from manifold.runtime.items import AnyImage, AnyItems, as_array, is_item, read_items, read_masks
from manifold.runtime.kinds import Reading
from manifold.runtime.manifest import Manifest
from manifold.runtime.operations import End, Latents, Steps
from manifold.runtime.operations.complete import check_completes, completes
from manifold.runtime.runner import Runner, example_inputs
from manifold.runtime.scores import measured
from manifold.runtime.scores.decisions import Costs, Rule, are_unknown, judge
from manifold.runtime.scores.reasons import check_explains, scored
from manifold.runtime.scores.scored_items import AnomalyScores
from manifold.runtime.scores.scoring import Calibrated

Array = NDArray[Any]
T = TypeVar("T")
# one end of an interpolation: an End, or one of image, row, data, latent and seed by name, with a class or condition beside it
# or an image by itself
AnyEnd: TypeAlias = End | Mapping[str, Any] | Array | AnyImage
END = "a mapping such as {'seed': 1}, or {'%s': …} for an item"
CONDITION_KEYS = ("class", "classes", "condition")  # keys of an end that state its condition


class Model:
    """A loaded model. Thread-safe. docs/reference/library.md lists the public names.

    Items are given as an array in the units of the model (float32, (n, *shape)), as images (pixels, Pillow images, paths, bytes), as rows
    (mappings, lists, data frames), or as one such item. `classes` states classes; `condition` states classes or any other condition.
    """

    def __init__(self, folder: Path, manifest: Manifest, device: str, threads: int) -> None:
        self.folder = folder
        self.runner = Runner(folder, manifest, device, threads)
        priors.load(folder, manifest)
        self.calibrated = Calibrated.read(folder, manifest.scoring, measured.of(manifest))
        self.checksum = repository.checksum(manifest.files or repository.records(folder))  # recipes state it

    # --- the description of the model -------------------------------------------------------------------------------------------

    @property
    def manifest(self) -> Manifest:
        """The manifest, with the changes for this machine: padding, and tasks that are not reproducible."""
        return self.runner.manifest

    @property
    def name(self) -> str:
        """The name of the model."""
        return self.manifest.name

    @property
    def version(self) -> int:
        """The version of the artifact."""
        return self.manifest.version

    @property
    def device(self) -> str:
        """The device that runs the graphs: cpu or cuda."""
        return self.runner.device

    @property
    def note(self) -> str | None:
        """A remark about the device, such as why the CPU is used; None if there is none."""
        return self.runner.note

    @property
    def endpoints(self) -> list[str]:
        """The use cases that the model supports, such as sample and anomaly-score."""
        return operations.endpoints(self.manifest)

    def __repr__(self) -> str:
        spec = self.manifest.spec
        can = ", ".join(self.endpoints) or "no use case"
        return f"<Model {self.name} version {self.version}: {spec.noun} of shape {spec.shape}; {can}>"

    # --- use cases ---------------------------------------------------------------------------------------------------------------

    @in_library_terms
    def sample(
        self, n: int = 1, *, seed: int | None = None, first: int = 0, latents: Latents | None = None, codes: Array | None = None,
        classes: Given | None = None, condition: Given | None = None, prior: str | None = None, temperature: float | None = None,
        steps: int | None = None, guidance: float | Sequence[float] | Array | None = None, numbers: Numbers | None = None,
    ) -> operations.Samples:  # fmt: skip
        """Return n new items. Item i depends only on `seed` and `first` + i.

        `latents` or `codes` are decoded, if given; `n` is then their number. `steps` is the number of steps of a sampler, and `guidance` the
        strength of the class, one for all items or one for each. `numbers` are further inputs by name.
        """
        latents, codes = _latents(self.manifest, latents), _codes(codes)
        given = [
            each
            for each in (*(latents.values() if isinstance(latents, Mapping) else [latents]), codes)
            if each is not None
        ]
        if any(not each.ndim for each in given):
            raise InvalidValue("latents: a single number is not an array (n, …)", field="latents")
        n = len(given[0]) if given else _checked_n(n)
        task = self.manifest.tasks[operations.sampling_task(self.manifest, latents, codes)]
        numbers = with_fields(self.manifest, [task], numbers, {"steps": steps, "guidance": guidance}, n)
        return self._drive(operations.sample(
            self.manifest, n, seed=seed, first=first, latents=latents, codes=codes, condition=_condition(classes, condition), prior=prior,
            temperature=temperature, numbers=numbers,
        ))  # fmt: skip

    @in_library_terms
    def encode(
        self, items: AnyItems, *, seed: int | None = None, first: int = 0, classes: Given | None = None, condition: Given | None = None,
        numbers: Numbers | None = None,
    ) -> operations.Encoded:  # fmt: skip
        """Return the posteriors of items, or their codes. If `seed` is given, `latents` are draws from the posteriors."""
        return self._drive(operations.encode(
            self.manifest, self._data(items), seed=seed, first=first, condition=_condition(classes, condition), numbers=numbers
        ))  # fmt: skip

    @in_library_terms
    def reconstruct(
        self, items: AnyItems, *, seed: int | None = None, first: int = 0, classes: Given | None = None, condition: Given | None = None,
        target: Given | None = None, numbers: Numbers | None = None,
    ) -> operations.Reconstructed:  # fmt: skip
        """Encode and decode items. They are decoded under the condition `target`, if given."""
        return self._drive(operations.reconstruct(
            self.manifest, self._data(items), seed=seed, first=first, condition=_condition(classes, condition), target=target, numbers=numbers
        ))  # fmt: skip

    @in_library_terms
    def interpolate(
        self, start: AnyEnd, stop: AnyEnd, *, steps: int = 8, method: str | None = None, seed: int | None = None, numbers: Numbers | None = None
    ) -> operations.Path:  # fmt: skip
        """Decode a path of `steps` latents between two ends, such as {"seed": 1} and {"image": "digit.png"}, or the image itself."""
        if isinstance(steps, bool) or not isinstance(steps, int | np.integer) or steps < 2:
            raise InvalidValue(f"steps: {shown(steps)} is not allowed; give an integer of 2 or more", field="steps")
        ends = self._end(start, "start"), self._end(stop, "stop")
        return self._drive(
            operations.interpolate(self.manifest, *ends, steps=steps, method=method, seed=seed, numbers=numbers)
        )

    @in_library_terms
    def score(
        self,
        items: AnyItems,
        *,
        classes: Given | None = None,
        condition: Given | None = None,
        numbers: Numbers | None = None,
    ) -> operations.Scores:
        """Return the terms of the anomaly score, without p-values and decisions."""
        data = self._data(items, self._scoring)
        return self._drive(
            operations.score(self.manifest, data, condition=_condition(classes, condition), numbers=numbers)
        )

    @in_library_terms
    def anomaly_score(
        self, items: AnyItems, *, false_positive_rate: float | None = None, budget: int | None = None,
        costs: Costs | Mapping[str, float] | None = None, block_rate: float | None = None,
        false_discovery_rate: float | None = None, explain: bool = False,
        classes: Given | None = None, condition: Given | None = None, numbers: Numbers | None = None,
    ) -> AnomalyScores:  # fmt: skip
        """Score how anomalous items are, with p-values, and decide which are flagged.

        One of `false_positive_rate` (0.01 by default), `budget` (the number of the most anomalous items), `costs` and
        `false_discovery_rate` (the expected share of normal items among the flagged ones) decides.
        """
        rule = Rule(false_positive_rate, budget, _costs(costs), block_rate, false_discovery_rate)
        rule.check(self.manifest)
        if explain:
            check_explains(self.manifest)
        spec, about = self.manifest.spec, self.manifest.scoring
        read, given = read_items(spec, items, self._scoring)
        if explain and given is None and spec.in_files:
            raise InvalidValue(
                "explain: an array of encoded rows has no values by column; give rows by column", field="explain"
            )
        steps = scored(
            self.manifest,
            read.data,
            self.calibrated,
            explain=explain,
            condition=_condition(classes, condition),
            numbers=numbers,
        )
        scores, why = self._drive(steps)
        assert about is not None  # scored has raised UnsupportedTask
        fields: list[dict[str, Any]] = [{"warnings": warnings} for warnings in read.warnings]
        for own, carried in zip(fields, spec.carry(given or [], spec.wire.many), strict=False):  # arrays have none
            own |= carried
        if why is not None:
            for own, explanation in zip(fields, spec.explain(why, given or []), strict=True):
                own["explanation"] = explanation
        return AnomalyScores.of(judge(about, self.calibrated, scores.terms, are_unknown(read.warnings), rule), fields)

    @in_library_terms
    def classify(self, items: AnyItems, *, numbers: Numbers | None = None) -> NDArray[np.float64]:
        """Return the probability of each class, float64 (n, C), in the order of `manifest.classes`. Each row sums to 1."""
        operations.check_supports(self.manifest, "classify")
        return self._drive(operations.classify(self.manifest, self._data(items), numbers=numbers))

    @overload
    def impute(
        self, items: AnyItems, masks: None = None, *, seed: int | None = None, first: int = 0, classes: Given | None = None,
        condition: Given | None = None, candidates: None = None, temperature: None = None, steps: None = None,
        guidance: None = None, numbers: Numbers | None = None,
    ) -> operations.Imputed: ...  # fmt: skip

    @overload
    def impute(
        self, items: AnyItems, masks: AnyItems, *, seed: int | None = None, first: int = 0, classes: Given | None = None,
        condition: Given | None = None, candidates: int | None = None, temperature: float | None = None, steps: int | None = None,
        guidance: float | Sequence[float] | Array | None = None, numbers: Numbers | None = None,
    ) -> operations.Completed: ...  # fmt: skip

    @in_library_terms
    def impute(
        self, items: AnyItems, masks: AnyItems | None = None, *, seed: int | None = None, first: int = 0, classes: Given | None = None,
        condition: Given | None = None, candidates: int | None = None, temperature: float | None = None, steps: int | None = None,
        guidance: float | Sequence[float] | Array | None = None, numbers: Numbers | None = None,
    ) -> operations.Imputed | operations.Completed:  # fmt: skip
        """Fill in the missing values of rows (None or NaN), or the unknown pixels of images.

        A mask is 1, true or white where its image is known: one for all images, or one for each. A model that draws pixels in order draws
        `candidates` (8 by default) images, and one is chosen by the likelihood of its known pixels. `sample` describes `steps` and `guidance`.
        """
        chosen = _condition(classes, condition)
        if masks is None:
            of_images = {"candidates": candidates, "temperature": temperature, "steps": steps, "guidance": guidance}
            if name := next((name for name, value in of_images.items() if value is not None), None):
                raise InvalidValue(f"{name}: it has no effect without masks; remove it", field=name)
            if completes(self.manifest):
                raise InvalidValue(
                    "masks: they are missing; give a mask for the images, 1 where they are known", field="masks"
                )
            data = self._data(items, Reading(missing=True))
            return self._drive(
                operations.impute(self.manifest, data, seed=seed, first=first, condition=chosen, numbers=numbers)
            )
        check_completes(self.manifest)
        read, _ = read_items(self.manifest.spec, items)
        known = read_masks(self.manifest.spec, masks, read)
        fields = {"steps": steps, "guidance": guidance}
        numbers = with_fields(self.manifest, [self.manifest.tasks["impute"]], numbers, fields, len(read.data))
        return self._drive(operations.complete(
            self.manifest, read.data, known, seed=seed, first=first, condition=chosen, candidates=candidates,
            temperature=temperature, numbers=numbers,
        ))  # fmt: skip

    @in_library_terms
    def run(self, task: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run one task of the manifest on arrays by role, (n, *shape) each. Return its outputs by role."""
        return self.runner.run(task, inputs)

    # --- arguments ---------------------------------------------------------------------------------------------------------------

    def _drive(self, steps: Steps[T]) -> T:
        return self.runner.drive(steps)

    @property
    def _scoring(self) -> Reading:
        """The options for items to be scored: unknown categories count as such, missing values are allowed if the graph takes them."""
        task = self.manifest.task("score")
        return Reading(unknown=True, missing=task is not None and any(tensor.missing for tensor in task.inputs))

    def _data(self, given: AnyItems, how: Reading | None = None) -> Array:
        return read_items(self.manifest.spec, given, how)[0].data

    def _end(self, end: AnyEnd, side: str) -> End:
        """Return an end of an interpolation. Raises InvalidValue for one that states two places in the latent space, or neither one nor a condition."""
        one = self.manifest.spec.wire.one
        if isinstance(end, End):
            _check_place({name: getattr(end, name) for name in ("latent", "data", "seed", "condition")}, side, one)
            return end
        if is_item(end, self.manifest.spec):
            end = {one: end}
        if not isinstance(end, Mapping):
            raise InvalidValue(f"{side}: {shown(end)} is not an end; give {END % one}", field=side)
        known = (*dict.fromkeys((one, "data", "latent", "seed", "first")), *CONDITION_KEYS)
        if unknown := [name for name in end if name not in known]:
            raise InvalidValue(
                f"{side}.{unknown[0]}: an end has no such key; give one of {', '.join(known)}", field=side, valid=known
            )
        given = {name: value for name, value in end.items() if value is not None}
        _check_place(given, side, one)
        data = given.get(one, given.get("data"))
        try:
            read = None if data is None else read_items(self.manifest.spec, data, one=True)[0].data[0]
        except RequestError as error:
            raise type(error)(f"{side}.{error.message}", field=f"{side}.{error.field}", valid=error.valid) from None
        several = [name for name in CONDITION_KEYS if name in given]
        if len(several) > 1:
            raise InvalidValue(f"{side}: {' and '.join(several)} cannot be combined; give only one of them", field=side)
        return End(
            _latents(self.manifest, given.get("latent"), f"{side}.latent"),
            read,
            given.get("seed"),
            given.get("first", 0),
            given[several[0]] if several else None,
        )


def _check_place(given: Mapping[str, Any], side: str, one: str) -> None:
    """Raise InvalidValue if an end states two places in the latent space, or neither a place nor a condition. `one` is the key of an item."""
    stated = {name for name, value in given.items() if value is not None}
    places = [name for name in dict.fromkeys((one, "data", "latent", "seed")) if name in stated]
    if len(places) > 1:
        raise InvalidValue(f"{side}: {' and '.join(places)} cannot be combined; give only one of them", field=side)
    if not places and not stated.intersection(CONDITION_KEYS):
        found = f"only {', '.join(stated)} is given" if stated else "it is empty"
        raise InvalidValue(f"{side}: {found}; give {END % one}", field=side)


def _latents(manifest: Manifest, latents: Any, field: str = "latents") -> Any:
    """Return latents as arrays, by role if they are given so. Raises InvalidValue for texts, ragged lists, values that are not numbers and empty mappings."""
    if latents is None:
        return None
    if isinstance(latents, Mapping):
        if not latents:
            raise InvalidValue(f"{field}: it is empty; give at least one latent, or remove it", field=field)
        return {role: _latents(manifest, each, f"{field}.{role}") for role, each in latents.items()}
    if isinstance(latents, str | bytes):
        raise InvalidValue(
            f"{field}: {shown(latents)} is not an array; give an array or nested lists of numbers", field=field
        )
    array = as_array(latents, field)
    codecs.check_types(array, field)
    return np.asarray(array, np.float32)


def _codes(codes: Any) -> NDArray[np.int64] | None:
    """Return codes as integers. Raises InvalidValue for other values."""
    if codes is None:
        return None
    array = as_array(codes, "codes")
    codecs.check_types(array, "codes", whole=True)
    return np.asarray(array, np.int64)


def _checked_n(n: int) -> int:
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
        raise InvalidValue(f"n: {shown(n)} is not allowed; give an integer of 1 or more", field="n")
    return n


def _condition(classes: Given | None, condition: Given | None) -> Given | None:
    """Return the condition. `classes` is a short form of it."""
    if classes is not None and condition is not None:
        raise InvalidValue("classes: classes and condition cannot be combined; give only one of them", field="classes")
    return condition if classes is None else classes


def _costs(costs: Costs | Mapping[str, float] | None) -> Costs | None:
    if costs is None or isinstance(costs, Costs):
        return costs
    keys = ("false_positive", "false_negative", "prevalence")
    if not isinstance(costs, Mapping) or set(costs) != set(keys):
        raise InvalidValue(f"costs: {shown(costs)} is not complete; give {', '.join(keys)}", field="costs", valid=keys)
    return Costs(**costs)


def load(path: str | Path, *, device: Device = "auto", threads: int = 1, verify: bool = True) -> Model:
    """Load a model from `models/NAME` (its latest version) or `models/NAME/VERSION`.

    `device` is auto, cpu or cuda. Checksums are verified, golden vectors are replayed, each task is run once, and the padding of batches is
    tried on this machine; `verify=False` does only the single runs. Raises ArtifactError with all problems of the artifact, Unavailable if
    an extra or the device is missing, and UnknownModel if the folder has no artifact.
    """
    known_device(device)
    if not isinstance(path, str | os.PathLike):
        raise InvalidValue(f"path: {shown(path)} is not a path; give one such as models/mnist-vae", field="path")
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise InvalidValue(f"threads: {shown(threads)} is not allowed; give an integer of 1 or more", field="threads")
    folder = repository.locate(Path(path))
    manifest = manifests.read(folder)
    if verify and (problems := repository.verify(folder, manifest)):
        raise ArtifactError("\n".join([f"{folder}:", *(f"  {problem}" for problem in problems)]))
    model = Model(folder, manifest, device, threads)
    if verify and manifest.golden is not None:
        if problems := golden.replay(model.run, folder, model.manifest, model.device):
            raise ArtifactError(
                "\n".join(
                    [f"{folder}: its outputs differ from those of training:", *(f"  {problem}" for problem in problems)]
                )
            )
    for name, task in manifest.tasks.items():
        model.run(name, example_inputs(task, manifest, task.min_rows))
    if verify:
        model.runner.steady()
    return model
