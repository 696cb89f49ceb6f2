"""The PixelRNNs of van den Oord, Kalchbrenner and Kavukcuoglu, 2016, arXiv 1601.06759: the Row LSTM and the Diagonal BiLSTM.

Both begin with a 7x7 convolution with mask A, and have layers of LSTMs with residual connections. The maps between layers have twice as many
channels as the states. As in networks.gated, convolutions of the seen part of a kernel replace masks. Maps are (H, W, B, C).

In the Row LSTM, the state at (r, c) depends on the states of row r - 1 at c - 1, c and c + 1: a triangle above the position. In the Diagonal
BiLSTM it depends on those at (r, c - 1) and (r - 1, c), and in the other direction at (r, c + 1) and (r - 1, c): together on all earlier
positions. Given the row above, a direction of the latter is an ordinary LSTM over the columns of a row, whose inputs include the states above.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from manifold.training.networks.autoregressive import Autoregressive, Caches, Rows
from manifold.training.networks.emissions import Emission

REACH = 3  # columns and rows that the first convolution, 7x7, sees in each direction


def cell(gates: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
    """Return the state and the memory of LSTM cells, (..., h) each, from the gates i, f, g, o before their functions (..., 4h) and a memory (eq. 3)."""
    i, f, g, o = gates.chunk(4, -1)
    memory = torch.sigmoid(f) * memory + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(memory), memory


class First(nn.Module):
    """The first convolution, 7x7 with mask A: it sees three rows above and three columns to the left."""

    def __init__(self, embedded: int, channels: int) -> None:
        super().__init__()
        self.reach = REACH  # TorchScript takes no global numbers
        self.above = nn.Conv2d(embedded, channels, (REACH, 2 * REACH + 1))
        self.left = nn.Linear(REACH * embedded, channels, bias=False)

    def forward(self, embedded: Tensor) -> Tensor:
        """Map embeddings (H, W, B, E) to features (H, W, B, C)."""
        e = embedded.permute(2, 3, 0, 1)
        above = self.above(F.pad(e, (self.reach, self.reach, self.reach, 0)))[
            :, :, :-1
        ]  # row r sees rows r - 3 to r - 1
        out: Tensor = above.permute(2, 3, 0, 1) + self.in_row(embedded)
        return out

    def in_row(self, embedded: Tensor) -> Tensor:
        """Return the part of the left side, (..., W, B, C), for embeddings (..., W, B, E)."""
        width, padded = embedded.shape[-3], F.pad(embedded, (0, 0, 0, 0, self.reach, 0))
        left = [padded[..., column : column + width, :, :] for column in range(self.reach)]  # columns c - 3 to c - 1
        out: Tensor = self.left(torch.cat(left, -1))
        return out


class Recurrent(Autoregressive):
    """The common base of both networks, with `channels` h of a state and 2 h of the maps between layers.

    The embedding has a width of its own, as the first convolution has 24 positions and would take most of the time otherwise.
    """

    def __init__(self, emission: Emission, grid: tuple[int, int], classes: int, *, channels: int, layers: int) -> None:
        super().__init__(emission, grid, classes)
        self.channels, self.embedded = channels, emission.embedded
        self.first = First(self.embedded, 2 * channels)
        self.stack: Any = nn.ModuleList(self._layer(channels, self.embedded, max(1, classes)) for _ in range(layers))

    @staticmethod
    def _layer(channels: int, embedded: int, classes: int) -> nn.Module:
        """Return a layer. Its `of_image` maps a map x (H, W, B, 2h), embeddings (H, W, B, E) and the condition (B, classes) to an addition to x.

        It is not called `forward`, as TorchScript would then compile it for the sampler, which does not use it.
        """
        raise NotImplementedError

    def features(self, values: Tensor, condition: Tensor) -> Tensor:
        embedded = self.emission.embed(values).permute(1, 2, 0, 3)  # (H, W, B, E)
        x = self.first(embedded)
        for layer in self.stack:
            x = x + layer.of_image(x, embedded, condition)
        return cast(Tensor, x).permute(2, 3, 0, 1)

    def class_weights(self) -> Sequence[nn.Module]:
        return [nn.Identity()]  # the layers take the condition itself


class RowLayer(nn.Module):
    """A layer of the Row LSTM: input-to-state 1x3 with mask B, state-to-state 1x3 on the row above, and the projection to the maps."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.input = nn.Linear(4 * channels, 4 * channels)  # the columns c - 1 and c, concatenated
        self.state = Rows(nn.Conv2d(channels, 4 * channels, (1, 3), bias=False))
        self.classes = nn.Linear(classes, 4 * channels, bias=False)
        self.out = nn.Linear(channels, 2 * channels)

    def of_image(self, x: Tensor, embedded: Tensor, condition: Tensor) -> Tensor:
        """Compute one row after the other. The arguments are those of Recurrent."""
        inputs = self.inputs(x) + self.classes(condition)
        state = torch.zeros_like(inputs[0, ..., : self.out.in_features])
        memory, states = state, []
        for row in inputs.unbind():
            state, memory = cell(row + self.state([state]), memory)
            states.append(state)
        out: Tensor = self.out(torch.stack(states))
        return out

    def inputs(self, x: Tensor) -> Tensor:
        """Return the input-to-state component, (..., W, B, 4h), for x (..., W, B, 2h)."""
        before = F.pad(x, (0, 0, 0, 0, 1, 0))[..., :-1, :, :]
        out: Tensor = self.input(torch.cat([before, x], -1))
        return out


class RowLSTM(Recurrent):
    """The Row LSTM (section 3.1)."""

    def __init__(self, emission: Emission, grid: tuple[int, int], classes: int, *, channels: int, layers: int) -> None:
        super().__init__(emission, grid, classes, channels=channels, layers=layers)
        window, links = (REACH - 1) * self.embedded, (2 + 5 * layers) * channels
        self.caches = Caches(window, (1, links), links, window, (layers, 2 * channels))

    @staticmethod
    def _layer(channels: int, embedded: int, classes: int) -> nn.Module:
        return RowLayer(channels, classes)

    def row_stack(self) -> nn.Module:
        return RowLSTMRows(self)

    def pixel_stack(self) -> nn.Module:
        return RowLSTMPixel(self)


class RowLSTMRows(nn.Module):
    """The links of a row: the first convolution's upper part, and each layer's state-to-state component and memory of the row above.

    States are not kept pixel by pixel. The row above is computed anew, all columns at once, from its own links, which are the vertical cache.
    """

    def __init__(self, model: RowLSTM) -> None:
        super().__init__()
        self.first, self.above = model.first, Rows(model.first.above)
        self.layers: Any = model.stack
        self.channels = model.channels
        self.sizes = [2 * model.channels] + [4 * model.channels, model.channels] * len(model.stack)

    def forward(
        self, row_cache: Tensor, above: Tensor, v_cache: Tensor, classes: Tensor, below_top: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        before = torch.split(v_cache[0], self.sizes, 2)
        x = before[0] + self.first.in_row(above)
        second, third = row_cache.chunk(2, 2)
        links = [self.above([second, third, above])]
        for i, layer in enumerate(self.layers):
            state, memory = cell(layer.inputs(x) + before[1 + 2 * i], before[2 + 2 * i])
            state, memory = state * below_top, memory * below_top  # zero above the image
            links += [layer.state([state]) + layer.classes(classes[0]), memory]
            x = x + layer.out(state)
        linked = torch.cat(links, 2)
        return linked, torch.cat([third, above], 2), linked[None]


class RowLSTMPixel(nn.Module):
    """The features of a pixel of the Row LSTM. The horizontal cache is the input of each layer at the pixel to the left."""

    def __init__(self, model: RowLSTM) -> None:
        super().__init__()
        self.left = model.first.left
        self.layers: Any = model.stack
        self.sizes = [2 * model.channels] + [4 * model.channels, model.channels] * len(model.stack)

    def forward(
        self, column_cache: Tensor, before: Tensor, h_cache: Tensor, links: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        link, left = torch.split(links, self.sizes, 1), h_cache.chunk(len(self.layers), 1)
        seen = torch.cat([column_cache, before], 1)
        x, cache = link[0] + self.left(seen), []
        for i, layer in enumerate(self.layers):
            cache.append(x)
            state, _ = cell(layer.input(torch.cat([left[i], x], 1)) + link[1 + 2 * i], link[2 + 2 * i])
            x = x + layer.out(state)
        return x, seen[:, before.shape[1] :], torch.cat(cache, 1)


def skew(x: Tensor) -> Tensor:
    """Move row r of x (H, W, ...) by r columns to the right: (H, W + H - 1, ...), so that a column contains a diagonal. Free places are zero."""
    height, width, rest = x.shape[0], x.shape[1], x.shape[2:]
    wide = torch.cat([x, torch.zeros_like(x[:, :1]).expand(height, height, *rest)], 1)
    return wide.flatten(0, 1)[:-height].view(height, width + height - 1, *rest)


def unskew(x: Tensor) -> Tensor:
    """Undo `skew`: (H, W + H - 1, ...) to (H, W, ...)."""
    height = x.shape[0]
    flat = x.flatten(0, 1)
    wide = torch.cat([flat, torch.zeros_like(flat[:height])]).view(height, x.shape[1] + 1, *x.shape[2:])
    return wide[:, : x.shape[1] - height + 1]


def shift_down(x: Tensor, axis: int) -> Tensor:
    """Move the rows of x, which are its axis `axis`, down by one. The first row becomes zero."""
    return torch.cat([torch.zeros_like(x.narrow(axis, 0, 1)), x.narrow(axis, 0, x.shape[axis] - 1)], axis)


class Direction(nn.Module):
    """The LSTM of one direction. Its inputs are a map (D), the state above (h) and the condition; its recurrent state is the one at the side."""

    def __init__(self, inputs: int, channels: int, classes: int) -> None:
        super().__init__()
        self.inputs, self.channels = inputs, channels
        self.lstm: Any = nn.LSTM(inputs + channels + classes, channels)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map the inputs of a row (W, B, D + h + classes), in the direction's order, to its states (W, B, h)."""
        states: Tensor = self.lstm(inputs)[0]
        return states

    def of_map(self, x: Tensor) -> Tensor:
        """Return the input-to-state component (..., 4h) of a map (..., D)."""
        return F.linear(x, self.lstm.weight_ih_l0[:, : self.inputs])

    def of_class(self, condition: Tensor) -> Tensor:
        """Return the component (B, 4h) of the condition (B, classes), with the biases."""
        weight = self.lstm.weight_ih_l0[:, self.inputs + self.channels :]
        return F.linear(condition, weight, self.lstm.bias_ih_l0 + self.lstm.bias_hh_l0)

    def of_side(self, state: Tensor) -> Tensor:
        """Return the component (..., 4h) of the state at the side (..., h)."""
        return F.linear(state, self.lstm.weight_hh_l0)

    def of_above(self, state: Tensor) -> Tensor:
        """Return the component (..., 4h) of the state above (..., h)."""
        return F.linear(state, self._above())

    def of_states(self) -> Tensor:
        """Return the matrix (2h, 4h) for the state at the side and the state above, concatenated."""
        return torch.cat([self.lstm.weight_hh_l0, self._above()], 1).t()

    def _above(self) -> Tensor:
        weight: Tensor = self.lstm.weight_ih_l0
        return weight[:, self.inputs : self.inputs + self.channels]


class DiagonalLayer(nn.Module):
    """A layer of the Diagonal BiLSTM: an LSTM for each direction, and the projections of their states to the maps.

    The states of the direction to the left are used one row below. So this direction may see the pixels themselves, whose embeddings are an
    additional input. Without it, the last pixel of a row would not reach the first pixels of the next one.
    """

    def __init__(self, channels: int, embedded: int, classes: int) -> None:
        super().__init__()
        self.to_right = Direction(2 * channels, channels, classes)
        self.to_left = Direction(2 * channels + embedded, channels, classes)
        self.out, self.out_shifted = nn.Linear(channels, 2 * channels), nn.Linear(channels, 2 * channels, bias=False)

    def of_image(self, x: Tensor, embedded: Tensor, condition: Tensor) -> Tensor:
        """Compute one diagonal after the other, which is a column of the skewed map. The arguments are those of Recurrent.

        Both directions run at once, the one to the left on the mirrored map.
        """
        sides = ((self.to_right, x), (self.to_left, torch.cat([x, embedded], -1).flip(1)))
        inputs = torch.stack([skew(lstm.of_map(each) + lstm.of_class(condition)) for lstm, each in sides])
        # [state at the side, state above] (2, H B, 2h) times weight (2, 2h, 4h)
        weight = torch.stack([lstm.of_states() for lstm, _ in sides])
        # a diagonal j has no pixel in the rows below row j: the states there, at the side of the image, are zero
        inside = skew(torch.ones_like(x[..., :1, :1])).cumsum(1).clamp(max=1)
        state = torch.zeros_like(inputs[:, :, 0, :, : self.out.in_features])  # (2, H, B, h)
        memory, states = state, []
        for diagonal, gates in enumerate(inputs.unbind(2)):
            beside = torch.cat([state, shift_down(state, 1)], -1)
            gates = torch.baddbmm(gates.flatten(1, 2), beside.flatten(1, 2), weight).view_as(gates)
            state, memory = cell(gates, memory)
            state, memory = state * inside[:, diagonal], memory * inside[:, diagonal]
            states.append(state)
        right, left = torch.stack(states, 2)  # (H, W + H - 1, B, h)
        # a state to the left has seen the rest of its row, so it is used one row below
        out: Tensor = self.out(unskew(right)) + self.out_shifted(shift_down(unskew(left).flip(1), 0))
        return out


class DiagonalBiLSTM(Recurrent):
    """The Diagonal BiLSTM (section 3.2)."""

    def __init__(self, emission: Emission, grid: tuple[int, int], classes: int, *, channels: int, layers: int) -> None:
        super().__init__(emission, grid, classes, channels=channels, layers=layers)
        window, links = (REACH - 1) * self.embedded, (2 + 6 * layers) * channels
        self.caches = Caches(window, (1 + layers, 2 * channels), links, window, (layers, 2 * channels))

    @staticmethod
    def _layer(channels: int, embedded: int, classes: int) -> nn.Module:
        return DiagonalLayer(channels, embedded, classes)

    def row_stack(self) -> nn.Module:
        return DiagonalRows(self)

    def pixel_stack(self) -> nn.Module:
        return DiagonalPixel(self)


class DiagonalRows(nn.Module):
    """The links of a row: the first convolution's upper part, and for each layer the gates' component of the state above, and the map of the other
    direction.

    The row above is computed anew when it is complete. The vertical cache is the upper part of its first convolution, and for each layer the
    states of both directions in the row above it.
    """

    def __init__(self, model: DiagonalBiLSTM) -> None:
        super().__init__()
        self.first, self.above = model.first, Rows(model.first.above)
        self.layers: Any = model.stack

    def forward(
        self, row_cache: Tensor, above: Tensor, v_cache: Tensor, classes: Tensor, below_top: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        condition = classes[0]
        told = condition[None].expand(above.shape[0], -1, -1)
        x = v_cache[0] + self.first.in_row(above)
        second, third = row_cache.chunk(2, 2)
        upper = self.above([second, third, above])
        links, cache = [upper], [upper]
        for i, layer in enumerate(self.layers):
            right_above, left_above = v_cache[1 + i].chunk(2, 2)
            right = layer.to_right(torch.cat([x, right_above, told], 2)) * below_top  # zero above the image
            left = layer.to_left(torch.cat([x, above, left_above, told], 2).flip(0)).flip(0) * below_top
            x = x + layer.out(right) + layer.out_shifted(left_above)
            links += [
                layer.to_right.of_above(right) + layer.to_right.of_class(condition),
                layer.out_shifted(left),
            ]
            cache.append(torch.cat([right, left], 2))
        return torch.cat(links, 2), torch.cat([third, above], 2), torch.stack(cache)


class DiagonalPixel(nn.Module):
    """The features of a pixel of the Diagonal BiLSTM. The horizontal cache is each layer's state and memory at the pixel to the left."""

    def __init__(self, model: DiagonalBiLSTM) -> None:
        super().__init__()
        self.left = model.first.left
        self.layers: Any = model.stack
        self.sizes = [2 * model.channels] + [4 * model.channels, 2 * model.channels] * len(model.stack)

    def forward(
        self, column_cache: Tensor, before: Tensor, h_cache: Tensor, links: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        link, left = torch.split(links, self.sizes, 1), h_cache.chunk(2 * len(self.layers), 1)
        seen = torch.cat([column_cache, before], 1)
        x, cache = link[0] + self.left(seen), []
        for i, layer in enumerate(self.layers):
            gates = layer.to_right.of_map(x) + layer.to_right.of_side(left[2 * i]) + link[1 + 2 * i]
            state, memory = cell(gates, left[2 * i + 1])
            cache += [state, memory]
            x = x + layer.out(state) + link[2 + 2 * i]
        return x, seen[:, before.shape[1] :], torch.cat(cache, 1)
