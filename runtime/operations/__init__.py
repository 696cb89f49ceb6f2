"""The use cases, one module each. They work on arrays in the units of the graphs, not on images, rows or requests.

steps         runs of tasks, and how a use case is driven
common        functions that several use cases need
sample        new items
encode        posteriors, codes and reconstructions
interpolate   paths in latent space
score         anomaly scores and probabilities of classes
impute        missing values of rows
complete      images with unknown pixels
infer         a single task on tensors
capabilities  which models support which use cases
"""

from manifold.runtime.operations.capabilities import abilities, check_supports, endpoints, supports, why_not
from manifold.runtime.operations.common import (
    Latents,
    draws_items,
    makes_items,
    no_effect,
    role_of,
    softmax,
    task_of_codes,
    why_not_draw,
    why_not_encode,
    with_data,
)
from manifold.runtime.operations.complete import MOST_CANDIDATES, Completed, candidates_of, complete, open_classes
from manifold.runtime.operations.encode import Encoded, Reconstructed, encode, reconstruct
from manifold.runtime.operations.impute import Imputed, impute
from manifold.runtime.operations.interpolate import PATHS, End, Path, interpolate
from manifold.runtime.operations.sample import Samples, is_reproducible, sample, sampling_task, takes_temperature
from manifold.runtime.operations.score import Scores, class_energies, classify, score
from manifold.runtime.operations.steps import Run, Steps, drive, watched

__all__ = [
    "MOST_CANDIDATES", "PATHS", "Completed", "Encoded", "End", "Imputed", "Latents", "Path", "Reconstructed", "Run", "Samples", "Scores", "Steps",
    "abilities", "candidates_of", "check_supports", "class_energies", "classify", "complete", "draws_items", "drive", "encode", "endpoints", "impute",
    "interpolate", "is_reproducible", "makes_items", "no_effect", "open_classes", "reconstruct", "role_of", "sample", "sampling_task", "score", "softmax",
    "supports", "takes_temperature", "task_of_codes", "watched", "why_not", "why_not_draw", "why_not_encode", "with_data",
]  # fmt: skip
