"""The manifest of an artifact: tasks, tensors, items, provenance, metrics, calibration.

A manifest is one JSON file. Together with the other files of its folder it contains everything that is needed to run a model: the loader never
guesses. This package only describes and validates manifests; it opens no graph. docs/manifest.schema.json is generated from it.

    document     the whole manifest, in its short and long forms
    tensors      inputs, outputs and tasks
    latents      latents, codes and priors
    conditions   what a model is conditioned on
    scoring      the anomaly score and the probabilities of classes
    rules        the inputs and outputs that each task must have
    problems     the checks of a whole manifest; condition_problems contains those of conditions
    file         reading and writing
"""

from manifold.runtime.manifest.document import NAME, ROLE, Conditions, FileRecord, Golden, Manifest, Metric
from manifold.runtime.manifest.file import FILE, MAX_BYTES, dumps, read, schema, stated, text_of
from manifold.runtime.manifest.latents import (
    PRIORS_FILE,
    CodesSpec,
    FittedPrior,
    GaussianPrior,
    LatentSpec,
    MixturePrior,
    NormalPrior,
    PathSpec,
    Prior,
)
from manifold.runtime.manifest.rules import STATED, TASKS, TIED
from manifold.runtime.manifest.scoring import (
    COMBINED,
    Calibration,
    Classification,
    Combination,
    Likelihood,
    Scoring,
    Term,
)
from manifold.runtime.manifest.tensors import CONDITIONS, NUMBERS, RANDOM, InputSpec, Source, TaskSpec, TensorSpec

__all__ = [
    "COMBINED", "CONDITIONS", "FILE", "MAX_BYTES", "NAME", "NUMBERS", "PRIORS_FILE", "RANDOM", "ROLE", "STATED", "TASKS", "TIED",
    "Calibration", "Classification", "CodesSpec",
    "Combination", "Conditions", "FileRecord", "FittedPrior", "GaussianPrior", "Golden", "InputSpec", "LatentSpec", "Likelihood", "Manifest",
    "Metric", "MixturePrior", "NormalPrior", "PathSpec", "Prior", "Scoring", "Source", "TaskSpec", "TensorSpec", "Term", "dumps", "read", "schema",
    "stated", "text_of",
]  # fmt: skip
