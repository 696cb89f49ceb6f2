"""The pictures of docs/ that carry a recipe. As a program it draws them again and records with what: `python -m tests.published`."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

import onnxruntime
import PIL

from manifold.runtime import engine, imaging, recipes
from manifold.runtime.errors import InvalidValue
from tests.conftest import ROOT, SHIPPED

RECORD = ROOT / "docs/pictures.json"
FLAGS = {
    "avx2",
    "fma",
    "avx512f",
    "avx512_vnni",
    "amx_tile",
}  # extensions of a CPU that change the kernels of ONNX Runtime


def pictures() -> list[str]:
    """Return the pictures with a recipe, as paths within the repository."""
    return [
        path.relative_to(ROOT).as_posix()
        for path in sorted((ROOT / "docs").rglob("*.png"))
        if _recipe(path.read_bytes())
    ]


def surroundings() -> dict[str, Any]:
    """Return the versions and the type of CPU on which the bytes of a picture depend."""
    info = Path("/proc/cpuinfo")
    words = set(info.read_text().split()) if info.exists() else set()
    return {
        "onnxruntime": onnxruntime.__version__, "pillow": PIL.__version__, "cpu": [platform.machine(), *sorted(FLAGS & words)],
    }  # fmt: skip


def renewed(content: bytes) -> bytes:
    """Return a picture as the latest version of its model draws it."""
    recipe = imaging.read_recipe(content)
    model = engine.load(SHIPPED / recipe["model"], device="cpu")
    return recipes.remake(model, {**recipe, "version": model.manifest.version, "checksum": model.checksum})


def _recipe(content: bytes) -> dict[str, Any] | None:
    try:
        return imaging.read_recipe(content)
    except InvalidValue:
        return None


def main() -> None:
    """Draw all pictures again and write the record."""
    for name in pictures():
        (ROOT / name).write_bytes(renewed((ROOT / name).read_bytes()))
    RECORD.write_text(json.dumps(surroundings(), indent=1) + "\n")


if __name__ == "__main__":
    main()
