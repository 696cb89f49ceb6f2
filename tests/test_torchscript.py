"""TorchScript that was made elsewhere: its outputs, its random numbers, and modules that cannot be inspected."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from manifold.runtime import manifest
from manifold.runtime.engine import load
from manifold.runtime.graphs.backends import TorchScriptBackend, open_backend
from manifold.runtime.graphs.forms import Forms
from tests import graphs
from tests.graphs import (
    SIZE,
    check,
    refused,
    task,
)


@pytest.mark.parametrize(("built", "cuda"), [(True, False), (True, True), (False, False)])
def test_torchscript_that_falls_back_to_the_cpu_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, built: bool, cuda: bool
) -> None:
    import torch

    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: built)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    notes = {device: TorchScriptBackend(tmp_path, device, torch.get_num_threads()).note for device in ("auto", "cpu")}
    falls_back = built and not cuda  # a build for the CPU does not fall back
    assert notes == {"auto": "running on the CPU: torch finds no CUDA device" if falls_back else None, "cpu": None}


def _script(root: Path, module: Any, **changes: Any) -> Path:
    import torch

    made = graphs.folder(
        root, {**graphs.manifest(decode={**task(), "graph": "m.pt", **changes}), "backend": "torchscript"}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(module).save(str(made / "m.pt"))
    return made


def test_torchscript_that_gives_something_else(tmp_path: Path) -> None:
    import torch

    class Gives(torch.nn.Module):
        def forward(self, z: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"y": z}

        @torch.jit.export
        def nothing(self, z: torch.Tensor) -> None:
            return None

        @torch.jit.export
        def two(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return z, z

        @torch.jit.export
        def listed(self, z: torch.Tensor) -> list[torch.Tensor]:
            return [z.reshape(-1, 1, 2, 2)]

        @torch.jit.export
        def brief(self, z: torch.Tensor) -> torch.Tensor:
            return z.reshape(-1, 1, 2, 2).to(torch.bfloat16)

        @torch.jit.export
        def wide(self, z: torch.Tensor) -> torch.Tensor:
            return z.reshape(-1, 1, 2, 2).double()

        @torch.jit.export
        def fails(self, z: torch.Tensor) -> torch.Tensor:
            return z.reshape(-1, 7)

        @torch.jit.export
        def more(self, z: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
            return z

    for method, said in (
        ("forward", "output 'data' is float32[1, 4], the manifest says float32[1, 1, 2, 2]"), ("nothing", "nothing returns a NoneType"),
        ("two", "returns 2 outputs, but the manifest names 1 (y)"), ("brief", "m.pt: torch cannot run it: "), ("fails", "m.pt: torch cannot run it: "),
        ("wide", "output 'data' is float64[1, 1, 2, 2], the manifest says float32"), ("more", "m.pt: torch cannot run it: "),
        ("training", "m.pt: has no method 'training'"), ("absent", "m.pt: has no method 'absent'"),
    ):  # fmt: skip
        made = _script(tmp_path, Gives(), method=method)
        assert said in refused(made), method
    assert load(_script(tmp_path, Gives(), method="listed")).sample(1, seed=0).data.shape == (1, 1, 2, 2)
    (made / "m.pt").write_bytes(b"nonsense")
    assert "m.pt: torch cannot load the graph: " in refused(made)


def test_torchscript_that_draws_or_mixes_rows(tmp_path: Path) -> None:
    import torch

    class Draws(torch.nn.Module):
        def forward(self, z: torch.Tensor) -> torch.Tensor:
            return self.noisy(z).reshape(-1, 1, 2, 2)

        def noisy(self, z: torch.Tensor) -> torch.Tensor:
            return z + torch.randn_like(z) if bool(z.sum() != 0) else z

        @torch.jit.export
        def dropped(self, z: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.dropout(z, 0.5, True).reshape(-1, 1, 2, 2)

        @torch.jit.export
        def kept(self, z: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.dropout(z, 0.5, self.training).reshape(-1, 1, 2, 2)

        @torch.jit.export
        def normed(self, z: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.batch_norm(z, None, None, training=True).reshape(-1, 1, 2, 2)

        @torch.jit.export
        def centred(self, z: torch.Tensor) -> torch.Tensor:
            return (z - z.mean(0)).reshape(-1, 1, 2, 2)

    for method, by in (("forward", "aten::randn_like"), ("dropped", "aten::dropout")):
        made = _script(tmp_path, Draws(), method=method)
        assert load(made).manifest.reproducible is False
        assert f"m.pt draws random numbers by {by}" in check(made, "--seal")[1]
    assert load(_script(tmp_path, Draws(), method="kept")).manifest.reproducible is None
    assert "by aten::batch_norm in training mode" in refused(_script(tmp_path, Draws(), method="normed"))
    assert "mixes the rows of a batch: data of one row" in refused(_script(tmp_path, Draws(), method="centred"))


def test_torchscript_gives_the_same_bits_in_every_run(tmp_path: Path) -> None:
    """After its first runs torch optimises a graph: eight products become one, which adds their terms in another order."""
    import torch

    class Sums(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weights = torch.nn.Parameter(torch.randn(8, SIZE, SIZE, generator=torch.Generator().manual_seed(0)))

        def forward(self, z: torch.Tensor) -> torch.Tensor:
            w = self.weights
            half = (torch.mm(z, w[0]) + torch.mm(z, w[1])) + (torch.mm(z, w[2]) + torch.mm(z, w[3]))
            rest = (torch.mm(z, w[4]) + torch.mm(z, w[5])) + (torch.mm(z, w[6]) + torch.mm(z, w[7]))
            return (half + rest).reshape(-1, 1, 2, 2)

    made = _script(tmp_path, Sums())
    about = manifest.read(made)
    task = about.tasks["decode"]
    run, _ = open_backend(made, about, "cpu", 1).open(task, Forms(task, about))
    given = {"z": np.random.default_rng(0).normal(size=(50, SIZE)).astype(np.float32)}
    first = run(given)["y"]
    for _ in range(3):
        assert np.array_equal(run(given)["y"], first)


def test_torchscript_that_calls_what_cannot_be_looked_into(tmp_path: Path) -> None:
    """A submodule that is known only by its interface may be any module. Only runs show that it draws random numbers."""
    import torch

    @torch.jit.interface
    class Part(torch.nn.Module):
        def forward(self, z: torch.Tensor) -> torch.Tensor:  # type: ignore[empty-body]
            pass

    class Noisy(torch.nn.Module):
        def forward(self, z: torch.Tensor) -> torch.Tensor:
            return z + torch.randn_like(z)

    class Whole(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part = Noisy()

        def forward(self, z: torch.Tensor) -> torch.Tensor:
            return self.part(z).reshape(-1, 1, 2, 2)  # type: ignore[no-any-return]

    Whole.__annotations__["part"] = Part  # annotations of this file are strings, which torch cannot resolve here
    made = _script(tmp_path, Whole())
    found = load(made)
    assert found.runner.chance["decode"].unsure == ("prim::CallMethod",)
    assert found.manifest.reproducible is False
    assert "m.pt draws random numbers by prim::CallMethod" in check(made, "--seal")[1]
