"""The batches of a split on the device: in random order for training, in order for evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from manifold.training.data import Arrays, Part
from manifold.training.data.parts import batches

CHUNK = 500  # largest number of items that are read from a split at a time


@dataclass(frozen=True)
class Batch:
    """A batch on the device. The generator is the only source of random numbers in a loss."""

    items: Tensor  # float32 (B, *shape): images in [0, 1], or encoded rows
    labels: Tensor  # int64 (B,), -1 for an item without a label
    generator: torch.Generator
    epoch: float  # number of epochs since the phase began, for warm-ups
    factors: Tensor | None = None  # float32 (B, F), if the data has factors

    def some(self, which: Tensor) -> Batch:
        """Return a batch of the items with these indices."""
        factors = None if self.factors is None else self.factors[which]
        return replace(self, items=self.items[which], labels=self.labels[which], factors=factors)


def to_float(items: Any, device: torch.device) -> Tensor:
    """Convert uint8 images (tensor or array) to float32 in [0, 1] on the device. Encoded rows are only moved there."""
    tensor = torch.as_tensor(items).to(device)
    return tensor.float().div_(255) if tensor.dtype == torch.uint8 else tensor


def in_order(part: Part, size: int, generator: torch.Generator, limit: int | None = None) -> Iterator[Batch]:
    """Yield the first `limit` items of a split, by default all, in batches of at most `size` (see `parts.batches`), on the generator's device."""
    device = generator.device
    for held in batches(part, size, limit):
        labels, factors = torch.as_tensor(held.labels).to(device), _optional(held.factors, device)
        yield Batch(to_float(held.items, device), labels, generator, 0.0, factors)


def joined(part: Part, generator: torch.Generator, limit: int) -> Batch:
    """Return the first `limit` items of a split as one batch. They are read `CHUNK` at a time."""
    every = list(in_order(part, CHUNK, generator, limit))
    factors = [batch.factors for batch in every if batch.factors is not None]
    return Batch(
        torch.cat([batch.items for batch in every]),
        torch.cat([batch.labels for batch in every]),
        generator,
        0.0,
        torch.cat(factors) if factors else None,
    )


class BatchSource(Protocol):
    """The items that a model is trained on, by index."""

    def batch(self, indices: Tensor, generator: torch.Generator, epoch: float) -> Batch:
        """Return the items at these indices, int64 (B,) on the source's device."""
        ...

    device: torch.device  # the device of the indices


def source(part: Part, device: torch.device) -> BatchSource:
    """Return a source of batches on the device. Arrays are kept there completely; any other split is read batch by batch."""
    return Resident(part, device) if isinstance(part, Arrays) else Streamed(part, device)


class Resident:
    """A source whose arrays are completely on the device. A batch is one gather operation, without a copy from the host."""

    def __init__(self, arrays: Arrays, device: torch.device) -> None:
        self.device = device
        self.items = torch.as_tensor(arrays.items).to(device)
        self.labels = torch.as_tensor(arrays.labels).to(device)
        self.factors = _optional(arrays.factors, device)

    def batch(self, indices: Tensor, generator: torch.Generator, epoch: float) -> Batch:
        factors = None if self.factors is None else self.factors[indices]
        return Batch(to_float(self.items[indices], self.device), self.labels[indices], generator, epoch, factors)


class Streamed:
    """A source that reads each batch from a split. Only this batch is in memory."""

    device = torch.device("cpu")  # the device of the indices

    def __init__(self, part: Part, device: torch.device) -> None:
        self.part, self.target = part, device

    def batch(self, indices: Tensor, generator: torch.Generator, epoch: float) -> Batch:
        held = self.part.batch(indices.numpy())
        labels, factors = torch.as_tensor(held.labels).to(self.target), _optional(held.factors, self.target)
        return Batch(to_float(held.items, self.target), labels, generator, epoch, factors)


def _optional(values: Any, device: torch.device) -> Tensor | None:
    return None if values is None else torch.as_tensor(values).to(device)
