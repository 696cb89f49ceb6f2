"""The losses of the last steps, which stay on the device. They are read together, as each reading waits until the device has computed them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class Unread:
    """The losses of steps by name, scalars on the device, that were not read yet."""

    def __init__(self) -> None:
        self.steps: list[tuple[int, dict[str, Tensor]]] = []

    def __len__(self) -> int:
        return len(self.steps)

    def add(self, step: int, losses: Mapping[str, Tensor]) -> None:
        """Keep the losses of a step without their graph."""
        self.steps.append((step, {name: value.detach() for name, value in losses.items()}))

    def read(self) -> list[tuple[int, dict[str, float]]]:
        """Return the steps with their losses as numbers, in order, and forget them. All values are copied from the device at once."""
        steps, self.steps = self.steps, []
        if not steps:
            return []
        values = iter(torch.stack([value for _, losses in steps for value in losses.values()]).tolist())
        return [(step, {name: next(values) for name in losses}) for step, losses in steps]
