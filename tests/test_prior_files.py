"""The files of fitted priors: their contents, the errors, and how the numbers of a manifest get there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from manifold.runtime import manifest, priors, repository
from manifold.runtime.engine import load
from manifold.runtime.errors import ArtifactError
from manifold.runtime.manifest import FILE, PRIORS_FILE
from manifold.runtime.shipped import latest
from tests.conftest import SHIPPED
from tests.graphs import check

MOST_BYTES = 60_000  # largest size of a shipped manifest
GAUSSIAN = {"kind": "gaussian", "mean": [1.0, 2.0], "cholesky": [[1.0, 0.0], [0.5, 0.25]]}
MIXTURE = {
    "kind": "mixture", "weights": [0.25, 0.75], "means": [[0.1, 0.2], [3.0, -1.0]],
    "choleskys": [[[1.0, 0.0], [0.0, 1.0]], [[0.3, 0.0], [0.1, 0.7]]],
}  # fmt: skip
ARRAYS = {f"latent.{name}.{part}" for name in ("round", "two") for part in priors.PARTS}


def write(root: Path, latent: dict[str, Any] | None = None) -> Path:
    """Write an artifact on the fake backend whose manifest states two fitted priors. Return its folder."""
    fitted = {"priors": {"normal": {"kind": "normal"}, "round": GAUSSIAN, "two": MIXTURE}}
    folder = root / "dots/1"
    folder.mkdir(parents=True)
    (folder / "none").touch()
    task = {
        "graph": "none",
        "inputs": [{"role": "latent", "source": "latent", "shape": [2]}],
        "outputs": [{"role": "data", "shape": [1, 2, 2]}],
    }
    content = {
        "name": "dots", "version": 1, "backend": "fake", "data": {"kind": "image", "height": 2, "width": 2, "channels": 1},
        "latent": latent or {"size": 2, **fitted}, "tasks": {"decode": task},
    }  # fmt: skip
    (folder / FILE).write_text(json.dumps(content))
    return folder


def drawn(folder: Path) -> list[bytes]:
    """Return the bits of items from each prior."""
    model = load(folder)
    return [model.sample(40, seed=3, prior=name).data.tobytes() for name in ("normal", "round", "two")]


def spoil(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the arrays of the file."""
    with np.load(folder / PRIORS_FILE) as file:
        arrays = dict(file)
    change(arrays)
    np.savez(folder / PRIORS_FILE, **arrays)


def test_no_shipped_manifest_is_large() -> None:
    sizes = {name: (folder / FILE).stat().st_size for name, folder in latest(SHIPPED).items()}
    assert {name: size for name, size in sizes.items() if size > MOST_BYTES} == {}


@pytest.mark.parametrize("sealed", [False, True], ids=["plain", "sealed"])
def test_priors_move_into_a_file_and_nothing_else_changes(tmp_path: Path, sealed: bool) -> None:
    folder = write(tmp_path)
    before = repository.seal(folder) if sealed else manifest.read(folder)
    bits, checksum = drawn(folder), load(folder).checksum
    priors.move(folder)
    after = manifest.read(folder)
    assert set(np.load(folder / PRIORS_FILE)) == ARRAYS
    assert drawn(folder) == bits
    assert load(folder).checksum == checksum  # recipes contain this checksum: earlier pictures can still be made again
    assert after.files == ({**before.files, PRIORS_FILE: repository.digest(folder / PRIORS_FILE)} if sealed else {})
    assert {field for field in type(before).model_fields if getattr(before, field) != getattr(after, field)} == (
        {"latent", "files"} if sealed else {"latent"}
    )
    text = (folder / FILE).read_text()
    priors.move(folder)  # all priors have been moved
    assert (folder / FILE).read_text() == text == manifest.dumps(after)


def test_sealing_an_artifact_moves_its_priors(tmp_path: Path) -> None:
    folder = write(tmp_path)
    assert check(folder, "--seal")[0] == 0
    sealed = manifest.read(folder)
    assert sealed.space is not None
    assert {prior.file for _, prior in sealed.space.fitted()} == {PRIORS_FILE}
    assert set(sealed.files) == {"none", PRIORS_FILE}
    assert check(folder) == (0, f"{folder}: good: decode\n")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("latent.two.means"), "has no array latent.two.means; a prior needs latent.two.weights"),
        (
            lambda a: a.update({"latent.two.means": np.zeros((2, 3))}),
            "'latent.two.means' is float64[2, 3], not float['1 to 1024', 2]",
        ),
        (
            lambda a: a.update({"latent.round.weights": np.ones(2) / 2}),
            "'latent.round.weights' is float64[2], not float[1]",
        ),
        (
            lambda a: a.update({"latent.two.choleskys": np.ones((2, 2, 2), int)}),
            "'latent.two.choleskys' is int64[2, 2, 2], not float",
        ),
        (lambda a: a.update({"latent.two.means": np.full((2, 2), np.nan)}), "values that are not finite"),
        (lambda a: a.update({"latent.two.weights": np.ones(2)}), "latent.two.weights add up to 2; they must be at least 0 and add up to 1"),
        (lambda a: a.update({"latent.two.weights": np.ones(1)}), "has different numbers of weights, means and choleskys"),
        (lambda a: a.update({"latent.two.weights": np.asarray([None, 1])}), "cannot be read"),
    ],
)  # fmt: skip
def test_files_without_the_numbers_of_a_prior_are_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    folder = write(tmp_path)
    priors.move(folder)
    spoil(folder, change)
    with pytest.raises(ArtifactError) as caught:
        load(folder)
    assert message in caught.value.message and str(folder / PRIORS_FILE) in caught.value.message


def test_a_file_that_is_damaged_missing_or_another(tmp_path: Path) -> None:
    folder = write(tmp_path)
    priors.move(folder)
    shutil.copytree(folder, tmp_path / "kept")
    (folder / PRIORS_FILE).write_bytes(b"no zip")
    with pytest.raises(ArtifactError, match=r"priors\.npz: cannot be read"):
        load(folder)
    (folder / PRIORS_FILE).unlink()
    with pytest.raises(ArtifactError, match=r"latent\.priors\.round\.file: there is no file 'priors\.npz'"):
        load(folder)
    shutil.copy(tmp_path / "kept" / PRIORS_FILE, folder)
    repository.seal(folder)
    spoil(folder, lambda arrays: arrays.update({"latent.round.means": np.zeros((1, 2))}))
    with pytest.raises(ArtifactError, match=r"files\.priors\.npz: altered"):
        load(folder)


def test_named_latents_have_priors_of_their_own_in_one_file(tmp_path: Path) -> None:
    latent = {"place": {"size": 2, "priors": {"one": GAUSSIAN}}, "style": {"size": 2, "priors": {"one": MIXTURE}}}
    folder = write(tmp_path, latent)
    content = json.loads((folder / FILE).read_text())
    content["tasks"]["decode"]["inputs"] = [{"role": role, "source": "latent", "shape": [2]} for role in latent]
    (folder / FILE).write_text(json.dumps(content))
    bits = load(folder).sample(20, seed=1).data
    priors.move(folder)
    names = {f"{role}.one.{part}" for role in latent for part in priors.PARTS}
    assert set(np.load(folder / PRIORS_FILE)) == names
    assert np.array_equal(load(folder).sample(20, seed=1).data, bits)
