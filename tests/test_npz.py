"""Arrays of an .npz file within limits: zeros that unpack to gigabytes are refused by their headers, in artifacts and in reports."""

from __future__ import annotations

import io
import json
import tracemalloc
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from manifold.evaluation import images, reference
from manifold.evaluation.errors import EvaluationError
from manifold.runtime import golden, npz
from manifold.runtime import manifest as manifests
from manifold.runtime.engine import load
from manifold.runtime.errors import ArtifactError
from manifold.runtime.scores.scoring import Calibrated
from tests import foreign, tabled

MB = 2**20


@contextmanager
def at_most(size: int) -> Iterator[None]:
    """Fail if more than `size` bytes of memory are in use at any time within the block."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < size, f"{peak / MB:.0f} MB"


def header(shape: tuple[int, ...], dtype: str = "<f4") -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"shape": shape, "fortran_order": False, "descr": dtype})
    return out.getvalue()


def bomb(path: Path, name: str, head: bytes, size: int) -> None:
    """Write a member that unpacks to its header and `size` zeros."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as held, held.open(f"{name}.npy", "w") as file:
        file.write(head)
        for start in range(0, size, MB):
            file.write(bytes(min(MB, size - start)))


BOMBS = {
    "many rows": (header((60 * MB, 6)), 20 * MB),
    "another shape": (header((5, 40 * MB)), 20 * MB),
    "a header that claims gigabytes": (b"\x93NUMPY\x02\x00\xff\xff\xff\xff", 20 * MB),
    "more than it says": (header((5, 7)), 20 * MB),
    "texts": (header((5, 6), "<U5000000"), 20 * MB),
    "objects": (header((5, 6), "|O"), 100),
    "a negative extent": (header((5, 6)).replace(b"(5, 6)", b"(-5,6)"), 100),
    "no array": (b"nothing", 100),
}


@pytest.mark.parametrize("name", BOMBS)
def test_golden_vectors_hold_what_the_manifest_says(tmp_path: Path, name: str) -> None:
    folder = foreign.write(tmp_path, golden={})
    bomb(folder / "golden.npz", "decode.in.latent", *BOMBS[name])
    manifest = manifests.read(folder)
    with at_most(2 * MB), pytest.raises(ArtifactError, match=r"golden\.npz: cannot be read: 'decode\.in\.latent'"):
        golden.read(folder, manifest)
    with pytest.raises(ArtifactError, match="cannot be read"):
        load(folder, device="cpu")


def test_arrays_that_nobody_asks_for_are_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, wanted=np.arange(3), other=np.zeros(8 * MB))
    with at_most(MB):
        assert npz.read(path, ["wanted", "absent"], lambda *_: None)["wanted"].tolist() == [0, 1, 2]
    assert npz.names(path) == ["wanted", "other"]


def test_the_sum_of_all_arrays_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    arrays: dict[str, Any] = {f"a{i}": np.zeros(MB // 8) for i in range(4)}
    np.savez_compressed(path, **arrays)
    assert len(npz.read(path, npz.names(path), lambda *_: None, limit=4 * MB)) == 4
    with pytest.raises(npz.Unreadable, match="'a3' has 1048576 bytes, more than the 1048575 bytes left"):
        npz.read(path, npz.names(path), lambda *_: None, limit=4 * MB - 1)


ARRAYS = [
    np.arange(12.0).reshape(3, 4),
    np.asfortranarray(np.arange(12).reshape(3, 4)),
    np.asarray(["a", "bc"]),
    np.asarray(3.5),
    np.zeros((0, 4)),
]


@pytest.mark.parametrize("array", ARRAYS)
def test_arrays_come_as_numpy_reads_them(tmp_path: Path, array: Any) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, a=array)
    (found,) = npz.read(path, ["a"], lambda *_: None).values()
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    assert np.array_equal(found, array)
    assert found.flags.writeable


@pytest.mark.parametrize("content", [b"", b"nothing", b"PK\x03\x04" + b"\0" * 100])
def test_a_file_that_is_no_zip(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(npz.Unreadable):
        npz.read(tmp_path / "a.npz", ["a"], lambda *_: None)


def test_a_calibration_holds_as_many_scores_as_the_manifest_says(tmp_path: Path) -> None:
    about = {"id": "cal-1", "n": 40, "created": "2026-01-01T00:00:00Z", "source": "made"}
    scoring = {**tabled.manifest()["scoring"], "calibration": about}
    folder = tabled.write(tmp_path, scoring=scoring)
    bomb(folder / "calibration.npz", "odd", header((30 * MB,), "<f8"), 20 * MB)
    about_scores = manifests.read(folder).scoring
    with at_most(2 * MB), pytest.raises(ArtifactError, match=r"'odd' is float64\[31457280\], not \[40\]"):
        Calibrated.read(folder, about_scores)
    scoring["calibration"] = {**about, "n": 10**11}
    (folder / "manifest.json").write_text(json.dumps(tabled.manifest(scoring=scoring)))
    bomb(folder / "calibration.npz", "odd", header((10**11,), "<f8"), 20 * MB)
    about_scores = manifests.read(folder).scoring
    with at_most(2 * MB), pytest.raises(ArtifactError, match="left of the limit for the file"):
        Calibrated.read(folder, about_scores)


def test_statistics_and_images_of_reports_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.npz"
    bomb(path, "mu", header((20 * MB,)), 20 * MB)
    with at_most(2 * MB), pytest.raises(EvaluationError, match="not a statistics file"):
        reference.read_npz(path, None)  # type: ignore[arg-type]
    monkeypatch.setattr(images, "NPZ_BYTES", MB)
    bomb(path, "arr_0", header((10, 3, 1000, 1000), "|u1"), 20 * MB)
    with at_most(2 * MB), pytest.raises(EvaluationError, match="left of the limit for the file"):
        images.open_images(path, "RGB")
    (tmp_path / "a.npy").write_bytes(header((1000, 3, 10_000, 10_000), "|u1"))
    with at_most(2 * MB), pytest.raises(EvaluationError, match="cannot be read"):
        images.open_images(tmp_path / "a.npy", "RGB")


@pytest.mark.parametrize("shape", ["(1,2", "(" * 5000, "(-1, 28, 28)}", "(2**70,)}"])
def test_a_damaged_header_of_images_is_named(shape: str, tmp_path: Path) -> None:
    head = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}\n".encode()
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head)
    with pytest.raises(EvaluationError, match=r"a\.npy: it cannot be read"):
        images.open_images(tmp_path / "a.npy", "RGB")


def test_only_what_numpy_writes_is_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_LZMA) as held:
        held.writestr("a.npy", header((1,)) + bytes(4))
    with pytest.raises(npz.Unreadable, match="'a' uses an unsupported compression"):
        npz.read(tmp_path / "a.npz", ["a"], lambda *_: None)


def test_images_are_known_by_their_content(tmp_path: Path) -> None:
    pixels = np.zeros((3, 4, 4, 1), np.uint8)
    with (tmp_path / "a.npy").open("wb") as file:
        np.savez(file, pixels)
    with (tmp_path / "b.npz").open("wb") as file:
        np.save(file, pixels)
    for name in ("a.npy", "b.npz"):
        assert len(images.open_images(tmp_path / name, "L").batch(0, 3).pixels) == 3
