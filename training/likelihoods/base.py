"""The interface of a likelihood."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from manifold.runtime.manifest import InputSpec
from manifold.training.likelihoods.unseen import Unseen


class DecoderLikelihood(Protocol):
    """The interface of a likelihood p(x | parameters). A decoder computes the parameters."""

    width: int  # number of parameters per item
    noise: tuple[InputSpec, ...]  # the noise arguments of `sample`, in order
    levels: int  # number of levels of a value; 0 for densities and for rows
    reads_colours: bool  # whether the logits of a colour depend on the earlier colours of the pixel

    @property
    def unseen(self) -> Unseen | None:
        """Return the module that finds values which did not occur in training; None if every value is possible."""
        ...

    def observe(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Return the items x (B, D) in [0, 1] in the form used for training: binarised at random, or unchanged."""
        ...

    def settle(self, x: Tensor) -> Tensor:
        """Return the items x in the form used in graphs, without random numbers: binarised at 1/2, or unchanged."""
        ...

    def evidence(self, x: Tensor) -> Tensor:
        """Return the encoder's input for x: x itself, or x without values that contain no information."""
        ...

    def nll(self, parameters: Tensor, x: Tensor) -> Tensor:
        """Return -log p in nats for each pixel or column, (B, pixels or columns)."""
        ...

    def logits(self, parameters: Tensor, x: Tensor) -> Tensor:
        """Return log p of every level up to a constant, (B, levels, D). For a colour, x gives the earlier colours of the pixel.

        Raises NotImplementedError for densities and for rows.
        """
        ...

    def bias(self, mean: Tensor) -> Tensor:
        """Return the bias of a decoder's last layer, for images with this mean of each channel (C,). Raises NotImplementedError for rows."""
        ...

    def charged(self, parameters: Tensor, x: Tensor) -> Tensor:
        """Return the nats for a score, (B, pixels or columns): -log p, where an unseen value costs at least as much as any seen one."""
        ...

    def mean(self, parameters: Tensor) -> Tensor:
        """Return E[x], (B, D), or for logistic distributions of levels their centres, which differ from E[x]. Samples show it."""
        ...

    def sample(self, parameters: Tensor, *noise: Tensor) -> Tensor:
        """Return x (B, D), drawn with the given noise."""
        ...
