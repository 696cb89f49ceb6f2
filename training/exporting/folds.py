"""The calibration of a small data set by folds: each training item is scored by a model that was not trained on it.

This is cross-conformal prediction (Vovk, 2015, Annals of Mathematics and Artificial Intelligence 74), with one difference: new items are
scored by a further model that is trained on all items. It fits slightly better than the models of the folds, so p-values are slightly
conservative. The guarantee is approximate.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from manifold.runtime import operations
from manifold.runtime.manifest import Manifest
from manifold.runtime.operations import Scores
from manifold.training import families
from manifold.training.data import Data
from manifold.training.data.parts import subset
from manifold.training.runs import ResolvedRun
from manifold.training.train import train, trained_model


def scores(run: ResolvedRun, data: Data, manifest: Manifest) -> Iterator[Scores]:
    """Train `data.folds` models like the run's, on the CPU. Yield the out-of-fold scores of each fold of the training split."""
    family = families.get(run.family)
    order = np.random.Generator(np.random.Philox(run.config.seed)).permutation(len(data.train))
    with tempfile.TemporaryDirectory() as scratch:
        for fold in range(data.folds):
            held_out, rest = order[fold :: data.folds], np.delete(order, np.s_[fold :: data.folds])
            part = dataclasses.replace(data, train=subset(data.train, rest), folds=0)
            config = run.config.changed(seed=run.config.seed + fold + 1, **family.FOLD)
            one = dataclasses.replace(run, folder=Path(scratch) / str(fold), config=config)
            train(one, part, device="cpu", quiet=True, watch=False)
            with torch.no_grad():
                exported = family.exports(trained_model(one, part), config, part)
            items = data.inputs(data.train.batch(held_out))
            yield exported.drive(operations.score(manifest, items))
