"""Autoregressive networks over D binary values x (B, D): FVSBN, NADE, MADE and EoNADE.

    FVSBN    p(x_i = 1 | x_<i) = σ(b_i + Σ_j<i W_ij x_j)                                  Frey, 1998
    NADE     a_i = c + Σ_j<i W_:j x_j,  p = σ(b_i + V_i: σ(a_i))                          Larochelle and Murray, 2011
    MADE     an MLP whose weights are masked, so that output i depends on x_<i only        Germain et al., 2015, arXiv 1502.03509
    EoNADE   an MLP of [x ⊙ m, m] for the mask m of known values, trained for all orders   Uria et al., 2014, arXiv 1310.1757

All of them are one first layer, linear in x, and further layers. A sampler can therefore keep the pre-activations of the first layer and add
one column for each new value. `Network` describes this form; training.networks.running contains the sampler.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BLOCKS = 8  # blocks of rows in which a masked matrix is stored: about 9/16 of its entries
STRIDE = 28  # positions that NADE computes at once, as all of them take D times the memory of a hidden layer


class Block(nn.Module):
    """Some rows of a masked matrix. Masked weights are 0: they start at 0, and their gradient is 0, as training masks them again."""

    def __init__(self, weight: Tensor, mask: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight * mask)
        self.mask = nn.Buffer(mask, persistent=False)

    def value(self) -> Tensor:
        """Return the weights (rows, columns)."""
        return self.weight * self.mask if self.training else self.weight

    def forward(self, x: Tensor) -> Tensor:
        """Map inputs (B, inputs) of the whole matrix to outputs (B, rows)."""
        weight = self.value()
        return F.linear(x[:, : weight.shape[1]], weight)


class Prefix(nn.Module):
    """A linear layer whose output k depends on the first `seen[k]` inputs only. `seen` must not decrease.

    The rows of the matrix are stored in blocks, without the columns that no row of a block uses.
    """

    def __init__(self, inputs: int, seen: Sequence[int], gain: float = 1.0) -> None:
        super().__init__()
        self.inputs = inputs
        self.bias = nn.Parameter(torch.zeros(len(seen)))
        edges = sorted({round(len(seen) * block / BLOCKS) for block in range(BLOCKS + 1)})
        blocks = []
        for start, stop in pairwise(edges):
            limits = torch.tensor(seen[start:stop])[:, None]
            columns = max(1, seen[stop - 1])  # a matrix has at least one column, which is masked
            mask = torch.arange(columns) < limits
            blocks.append(Block(torch.randn(mask.shape) * gain / limits.clamp(min=1).sqrt(), mask))
        self.blocks: Any = nn.ModuleList(blocks)  # mypy knows no types of elements, and TorchScript no casts

    def forward(self, x: Tensor) -> Tensor:
        parts = []
        for block in self.blocks:
            parts.append(block(x))
        return torch.cat(parts, 1) + self.bias

    def dense(self) -> Tensor:
        """Return the whole matrix (outputs, inputs)."""
        parts = []
        for block in self.blocks:
            weight = block.value()
            parts.append(F.pad(weight, (0, self.inputs - weight.shape[1])))
        return torch.cat(parts)


class Free(nn.Module):
    """A linear layer without a mask, with the interface of Prefix."""

    def __init__(self, inputs: int, outputs: int, gain: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) * gain / inputs**0.5)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)

    def dense(self) -> Tensor:
        return self.weight


class Network(nn.Module):
    """The base class of the networks, in the form for a sampler: a state (B, S), and the logit of a position given the state.

    A value x_i changes the state by `x_i columns()[i]`, and in a network of any order also by `marks()[i]`, whatever x_i is.
    """

    any_order = False  # whether values can be drawn in any order
    direct = False  # whether the last D values of the state are added to the logits

    def __init__(self, dimensions: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dimensions = dimensions
        self.dropout = nn.Dropout(dropout)

    def logits(self, x: Tensor) -> Tensor:
        """Return the logit of p(x_i = 1 | x_<i) for all i, from x (B, D) of 0 and 1: (B, D). A network of any order has none."""
        raise NotImplementedError

    def given(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return the logits (B, D) given the values of x (B, D) where the mask (B, D) is 1. Only a network of any order has them."""
        raise NotImplementedError

    def start(self) -> Tensor:
        """Return the state before any value is known, (S,)."""
        raise NotImplementedError

    def columns(self) -> Tensor:
        """Return the change of the state by a value 1 at each position, (D, S)."""
        raise NotImplementedError

    def marks(self) -> Tensor:
        """Return the change of the state because a position is known, (D, S). In a fixed order it is not used, and is zeros (1, 1)."""
        return torch.zeros(1, 1)

    def deeper(self) -> list[Tensor]:
        """Return the matrices and vectors of the further hidden layers, in turn."""
        found: list[Tensor] = []
        return found

    def heads(self) -> tuple[Tensor, Tensor]:
        """Return weights (D, H) and biases (D,) of the logits."""
        raise NotImplementedError

    def activate(self, a: Tensor) -> Tensor:
        """Apply the activation of the hidden layers."""
        return torch.relu(a)


class FVSBN(Network):
    """A fully visible sigmoid belief network: a logistic regression of each value on the earlier ones."""

    direct = True

    def __init__(self, dimensions: int, hidden: Sequence[int] = (), dropout: float = 0.0) -> None:
        super().__init__(dimensions)
        self.first = Prefix(dimensions, list(range(dimensions)), 0.1)

    def logits(self, x: Tensor) -> Tensor:
        found: Tensor = self.first(x)
        return found

    def start(self) -> Tensor:
        return self.first.bias

    def columns(self) -> Tensor:
        return self.first.dense().T

    def heads(self) -> tuple[Tensor, Tensor]:
        return self.first.bias[:, None][:, :0], torch.zeros_like(self.first.bias)


class NADE(Network):
    """The neural autoregressive distribution estimator: hidden layers that share their weights, one for each position."""

    def __init__(self, dimensions: int, hidden: Sequence[int], dropout: float = 0.0) -> None:
        super().__init__(dimensions, dropout)
        (size,) = hidden
        self.first, self.last = Free(dimensions, size, 0.1), Free(size, dimensions, 0.1)

    def logits(self, x: Tensor) -> Tensor:
        a, found = self.first.bias.expand(x.shape[0], -1), []
        columns, heads = self.columns(), self.last.weight
        for start in range(0, self.dimensions, STRIDE):
            part = x[:, start : start + STRIDE, None] * columns[start : start + STRIDE]  # (B, n, H)
            sums = part.cumsum(1)
            h = self.dropout(torch.sigmoid(a[:, None] + sums - part))
            found.append((h * heads[start : start + STRIDE]).sum(2))
            a = a + sums[:, -1]
        return torch.cat(found, 1) + self.last.bias

    def activate(self, a: Tensor) -> Tensor:
        return torch.sigmoid(a)

    def start(self) -> Tensor:
        return self.first.bias

    def columns(self) -> Tensor:
        return self.first.weight.T

    def heads(self) -> tuple[Tensor, Tensor]:
        return self.last.weight, self.last.bias


class MADE(Network):
    """The masked autoencoder, with direct connections from x to the logits.

    Hidden unit k of each layer has the degree m(k): it depends on the first m(k) values (Germain et al., 2015, section 3). Here the degrees
    are spread evenly over 1 .. D - 1 and sorted, instead of drawn.
    """

    direct = True

    def __init__(self, dimensions: int, hidden: Sequence[int], dropout: float = 0.0) -> None:
        super().__init__(dimensions, dropout)
        known = list(range(1, dimensions + 1))  # the degrees of the layer below: input d is known from degree d on
        layers = []
        for size in hidden:
            degrees = [1 + (unit * max(1, dimensions - 1)) // size for unit in range(size)]
            layers.append(Prefix(len(known), [bisect_right(known, own) for own in degrees], 2**0.5))
            known = degrees
        self.layers: Any = nn.ModuleList(layers)
        self.last = Prefix(len(known), [bisect_right(known, place) for place in range(dimensions)], 0.1)
        self.links = Prefix(dimensions, list(range(dimensions)), 0.1)

    def logits(self, x: Tensor) -> Tensor:
        h = x
        for layer in self.layers:
            h = self.dropout(torch.relu(layer(h)))
        found: Tensor = self.last(h) + self.links(x)
        return found

    def start(self) -> Tensor:
        return torch.cat([self.layers[0].bias, self.links.bias])

    def columns(self) -> Tensor:
        return torch.cat([self.layers[0].dense(), self.links.dense()]).T

    def deeper(self) -> list[Tensor]:
        found: list[Tensor] = []
        for layer in self.layers[1:]:
            found += [layer.dense(), layer.bias]
        return found

    def heads(self) -> tuple[Tensor, Tensor]:
        return self.last.dense(), self.last.bias


class EoNADE(Network):
    """The order-agnostic NADE: logits of unknown values given any set of known ones."""

    any_order = True

    def __init__(self, dimensions: int, hidden: Sequence[int], dropout: float = 0.0) -> None:
        super().__init__(dimensions, dropout)
        sizes = [2 * dimensions, *hidden]
        self.layers: Any = nn.ModuleList(Free(before, after, 2**0.5) for before, after in pairwise(sizes))
        self.last = Free(sizes[-1], dimensions, 0.1)

    def given(self, x: Tensor, mask: Tensor) -> Tensor:
        h = torch.cat([x * mask, mask], 1)
        for layer in self.layers:
            h = self.dropout(torch.relu(layer(h)))
        found: Tensor = self.last(h)
        return found

    def start(self) -> Tensor:
        bias: Tensor = self.layers[0].bias
        return bias

    def columns(self) -> Tensor:
        weight: Tensor = self.layers[0].weight
        return weight[:, : self.dimensions].T

    def marks(self) -> Tensor:
        weight: Tensor = self.layers[0].weight
        return weight[:, self.dimensions :].T

    def deeper(self) -> list[Tensor]:
        found: list[Tensor] = []
        for layer in self.layers[1:]:
            found += [layer.weight, layer.bias]
        return found

    def heads(self) -> tuple[Tensor, Tensor]:
        return self.last.weight, self.last.bias


BODIES = {"fvsbn": FVSBN, "nade": NADE, "made": MADE, "eonade": EoNADE}
