"""One process on the CPU, for trainings without steps: importing Fabric takes as long as such a training."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import nn


class Alone:
    """The part of Lightning's Fabric that a training without steps needs."""

    device = torch.device("cpu")
    world_size, global_rank, is_global_zero = 1, 0, True
    strategy = SimpleNamespace(precision=SimpleNamespace(state_dict=dict))  # no loss is scaled

    def launch(self) -> None:
        """Start no other process."""

    def setup_module(self, module: nn.Module) -> nn.Module:
        """Return the module unchanged."""
        return module

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"{name}: a training without steps has no {name}; declare its options of steps as used")
