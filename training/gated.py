"""The gated PixelCNN as a network over a grid of codes, and its cached sampler: what the family `pixelcnn` and the priors over codes share.

van den Oord et al., 2016, arXiv 1606.05328. p(codes) = Π p(code_i | those before it) in raster order. The two stacks need no masks, only
shifts, and have no blind spot: the vertical stack at row r sees rows above r, the horizontal one the codes left of it in the same row, and
gets the vertical one's through `link`.

Sampling is exact and cached: the vertical stack runs once a row, the horizontal one once a code, with one row or column of memory a layer
(Ramachandran et al., 2017, arXiv 1704.06001, for the idea). It picks by inverse CDF from uniforms that come in as an input, and in ONNX it
is one graph with the loops and caches inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from runtime.manifest import InputSpec, TensorSpec
from training import loops
from training.exports import Task


def gate(x: Tensor) -> Tensor:
    """tanh of the first half of the channels times sigmoid of the second (eq. 2)."""
    a, b = x.chunk(2, 1)
    return torch.tanh(a) * torch.sigmoid(b)


class Layer(nn.Module):
    """Weights of one gated layer. Its three users (all positions, one row, one pixel) are below."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.vertical = nn.Conv2d(channels, 2 * channels, (2, 3))
        self.link = nn.Conv2d(2 * channels, 2 * channels, 1)
        self.horizontal = nn.Linear(
            2 * channels, 2 * channels
        )  # of the columns c - 1 and c, side by side: a 1x2 convolution
        self.out = nn.Linear(channels, 2 * channels)  # residual and skip, fused
        self.classes = nn.Linear(classes, 4 * channels, bias=False)  # for both stacks


class GatedNetwork(nn.Module):
    """Logits of every position in one parallel pass. Codes (B, H, W) int64, condition (B, classes) float, logits (B, K, H, W)."""

    def __init__(
        self, levels: int, grid: tuple[int, int], classes: int, *, channels: int, layers: int, head: int, dropout: float
    ) -> None:
        super().__init__()
        self.levels, (self.height, self.width), self.classes, self.channels = levels, grid, classes, channels
        self.embedding = nn.Embedding(levels, channels)
        self.first_vertical = nn.Conv2d(channels, channels, (2, 3))
        self.first_horizontal = nn.Linear(2 * channels, channels)
        self.stack = nn.ModuleList(Layer(channels, max(1, classes)) for _ in range(layers))
        self.head = nn.Sequential(nn.ReLU(), nn.Linear(channels, head), nn.ReLU(), nn.Linear(head, levels))
        self.dropout = nn.Dropout(dropout)

    @property
    def layers(self) -> list[Layer]:
        """The gated layers, in order."""
        return cast(list[Layer], list(self.stack))

    def forward(self, codes: Tensor, condition: Tensor) -> Tensor:
        e = self.embedding(codes).permute(0, 3, 1, 2)  # (B, C, H, W)
        v = self.first_vertical(F.pad(e, (1, 1, 2, 0)))[:, :, :-1]  # row r sees rows r - 2 and r - 1
        left = F.pad(e, (2, 0))  # column c sees columns c - 2 and c - 1
        h = self._linear(self.first_horizontal, torch.cat([left[..., :-2], left[..., 1:-1]], 1))
        skip = torch.zeros_like(h)
        for layer in self.layers:
            of_class_v, of_class_h = layer.classes(condition)[..., None, None].chunk(2, 1)
            p = layer.vertical(F.pad(v, (1, 1, 1, 0))) + of_class_v
            v = gate(p)
            before = F.pad(h, (1, 0))[..., :-1]
            q = self._linear(layer.horizontal, torch.cat([before, h], 1)) + layer.link(p) + of_class_h
            residual, more = self._linear(layer.out, self.dropout(gate(q))).chunk(2, 1)
            h, skip = h + residual, skip + more
        return self._linear(self.head, skip)

    @staticmethod
    def _linear(layer: nn.Module, x: Tensor) -> Tensor:
        """A 1x1 convolution."""
        out: Tensor = layer(x.permute(0, 2, 3, 1))
        return out.permute(0, 3, 1, 2)

    def to_condition(self, labels: Tensor) -> Tensor:
        """Labels (B,) to one-hot weights; zeros (B, 1) for an unconditional model."""
        return (
            F.one_hot(labels, self.classes).float()
            if self.classes
            else torch.zeros_like(labels, dtype=torch.float32)[:, None]
        )

    def nll(self, codes: Tensor, condition: Tensor) -> Tensor:
        """-log p of each position given those before it, in nats, (B, H, W)."""
        return F.cross_entropy(self(codes, condition), codes, reduction="none")


# --- cached sampling ----------------------------------------------------------------------------------------------------------


def nothing(x: Tensor) -> Tensor:
    """What a network without classes is told, zeros (B, 1), for as many rows as x (B, ...) has."""
    return torch.zeros_like(x.flatten(1)[:, :1], dtype=torch.float32)


class Setup(nn.Module):
    """Empty caches, and what each layer adds for the class: everything that the loops start from."""

    def __init__(self, model: GatedNetwork) -> None:
        super().__init__()
        self.weights = nn.ModuleList(layer.classes for layer in model.layers)
        self.channels, self.width, self.classes = model.channels, model.width, model.classes

    def forward(self, condition: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """condition (B, classes); without classes any (B, ...) tensor, for its number of rows."""
        if self.classes == 0:
            condition = nothing(condition)
        of_class = []
        for linear in self.weights:
            of_class.append(linear(condition))
        classes = torch.stack(of_class)  # (layers, B, 4C)
        empty = torch.zeros_like(classes[:, :, : self.channels])  # (layers, B, C)
        v_cache = empty[:, None].expand(-1, self.width, -1, -1).clone()  # (layers, W, B, C)
        h_cache = empty.transpose(0, 1).flatten(1)  # (B, layers C)
        prev_row = torch.zeros_like(v_cache[0, :, :, 0]).transpose(0, 1).to(torch.int64)  # (B, W)
        return classes, v_cache, v_cache[0].clone(), h_cache, empty[0].clone(), prev_row


class TwoRows(nn.Module):
    """A 2x3 convolution of two rows (W, B, C) as one product of matrices: (W, B, its channels)."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.convolution = convolution

    def forward(self, above: Tensor, row: Tensor) -> Tensor:
        empty = torch.zeros_like(row[:1])
        parts = []
        for each in (above, row):
            padded = torch.cat([empty, each, empty])
            parts += [padded[:-2], each, padded[2:]]
        weight = self.convolution.weight.permute(0, 2, 3, 1).flatten(1)  # row by row, column by column, channels
        return F.linear(torch.cat(parts, 2), weight, self.convolution.bias)


class Pointwise(nn.Module):
    """A 1x1 convolution of a row (W, B, C)."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.convolution = convolution

    def forward(self, row: Tensor) -> Tensor:
        return F.linear(row, self.convolution.weight.flatten(1), self.convolution.bias)


class RowStep(nn.Module):
    """The vertical stack for row r, once the row above is finished. Memory: one row a layer, and the embedding of row r - 2.

    Columns come first, then the batch, then channels: what the loop over columns takes of it lies together in memory.
    """

    def __init__(self, model: GatedNetwork) -> None:
        super().__init__()
        self.embedding, self.first = model.embedding, TwoRows(model.first_vertical)
        self.vertical = nn.ModuleList(TwoRows(layer.vertical) for layer in model.layers)
        self.link = nn.ModuleList(Pointwise(layer.link) for layer in model.layers)
        self.channels = model.channels

    def forward(
        self, row: Tensor, prev_row: Tensor, row_cache: Tensor, v_cache: Tensor, classes: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """row (), prev_row (B, W), row_cache (W, B, C), v_cache (layers, W, B, C): links (W, B, layers 2C) to the horizontal
        stack, what it adds for the class included, and both caches anew."""
        above = self.embedding(prev_row.transpose(0, 1)) * (row > 0).to(torch.float32)  # zero padding above the image
        v = self.first(row_cache, above)
        links, cache = [], []
        for i, (vertical, link) in enumerate(zip(self.vertical, self.link)):  # noqa: B905 - TorchScript knows no strict
            p = vertical(v_cache[i], v) + classes[i][:, : 2 * self.channels]  # (W, B, 2C)
            links.append(link(p) + classes[i][:, 2 * self.channels :])
            cache.append(v)
            a, b = p.chunk(2, 2)
            v = torch.tanh(a) * torch.sigmoid(b)
        return torch.cat(links, 2), above, torch.stack(cache)


class PixelStep(nn.Module):
    """The horizontal stack for one pixel, and its level. Memory: one column a layer, and the embedding of column c - 2."""

    def __init__(self, model: GatedNetwork) -> None:
        super().__init__()
        self.embedding, self.first, self.head = model.embedding, model.first_horizontal, model.head
        self.horizontal = nn.ModuleList(layer.horizontal for layer in model.layers)
        self.out = nn.ModuleList(layer.out for layer in model.layers)
        self.channels, self.width, self.levels = model.channels, model.width, model.levels

    def forward(
        self, row: Tensor, column: Tensor, prev: Tensor, column_cache: Tensor, h_cache: Tensor, links: Tensor, uniforms: Tensor, temperature: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """prev (B,), column_cache (B, C), h_cache (B, layers C): the level (B,), and both caches anew."""
        before = self.embedding(prev) * (column > 0).to(torch.float32)
        h = self.first(torch.cat([column_cache, before], 1))
        link = links.index_select(0, column.view(1))[0].chunk(len(self.horizontal), 1)  # (B, 2C) each
        left = h_cache.chunk(len(self.horizontal), 1)  # (B, C) each
        skip, cache = torch.zeros_like(h), []
        for i, (horizontal, out) in enumerate(zip(self.horizontal, self.out)):  # noqa: B905
            cache.append(h)
            residual, more = out(gate(horizontal(torch.cat([left[i], h], 1)) + link[i])).chunk(2, 1)
            h, skip = h + residual, skip + more
        probabilities = torch.softmax(self.head(skip) / temperature[:, None], 1)
        u = uniforms.index_select(1, (row * self.width + column).view(1))
        level = (probabilities.cumsum(1) <= u).to(torch.int64).sum(1).clamp(max=self.levels - 1)
        return level, before, torch.cat(cache, 1)


class Sampler(nn.Module):
    """uniforms (B, H W), condition (B, classes), temperature (B,): codes and items. Also what TorchScript compiles.

    `finish` makes codes (B, H, W) and items of the levels (H, B, W) that the loops leave.
    """

    def __init__(self, model: GatedNetwork, finish: nn.Module) -> None:
        super().__init__()
        self.setup, self.row_step, self.pixel_step, self.finish = (
            Setup(model),
            RowStep(model),
            PixelStep(model),
            finish,
        )
        self.height, self.width = model.height, model.width

    def forward(self, uniforms: Tensor, condition: Tensor, temperature: Tensor) -> tuple[Tensor, Tensor]:
        classes, v_cache, row_cache, empty_h, empty_column, prev_row = self.setup(condition)
        places = torch.arange(max(self.height, self.width), device=uniforms.device)
        rows = []
        for r in range(self.height):
            row = places[r]
            links, row_cache, v_cache = self.row_step(row, prev_row, row_cache, v_cache, classes)
            h_cache, column_cache, prev = empty_h, empty_column, prev_row[:, 0]
            levels = []
            for c in range(self.width):
                prev, column_cache, h_cache = self.pixel_step(
                    row, places[c], prev, column_cache, h_cache, links, uniforms, temperature
                )
                levels.append(prev)
            prev_row = torch.stack(levels, 1)
            rows.append(prev_row)
        codes, items = self.finish(torch.stack(rows))
        return codes, items

    def to_onnx(self) -> Any:
        """The same as one ONNX graph: two nested Loops around the exported steps."""
        return loops.grid_sampler(self._steps(), self.height, self.width)

    def to_onnx_by_rows(self) -> dict[str, Any]:
        """The same as three graphs, for `loops.by_rows`."""
        return loops.row_sampler(self._steps(), self.width)

    def _steps(self) -> dict[str, Any]:
        setup, row, pixel, finish = self.setup, self.row_step, self.pixel_step, self.finish
        batch, layers, channels, width = 3, len(row.vertical), row.channels, self.width
        uniforms, condition = torch.rand(batch, self.height * width), torch.rand(batch, max(1, setup.classes))
        given, name = (condition, "condition") if setup.classes else (uniforms, "uniforms")
        classes, v_cache, row_cache, h_cache, empty_column, prev_row = setup(given)
        links = torch.zeros(width, batch, layers * 2 * channels)
        # two tensors: the exporter would take one object, given twice, for one input
        row_at, column_at = torch.tensor(1), torch.tensor(2)
        return {
            "setup": loops.export(setup, {name: given}, ["classes", "v_cache", "row_cache", "h_cache", "empty_column", "prev_row"], {name: 0}),
            "row": loops.export(
                row, {"row": row_at, "prev_row": prev_row, "row_cache": row_cache, "v_cache": v_cache, "classes": classes},
                ["links", "next_row_cache", "next_v_cache"], {"prev_row": 0, "row_cache": 1, "v_cache": 2, "classes": 1},
            ),
            "pixel": loops.export(
                pixel,
                {"row": row_at, "column": column_at, "prev": prev_row[:, 0], "column_cache": empty_column, "h_cache": h_cache, "links": links,
                 "uniforms": uniforms, "temperature": torch.ones(batch)},
                ["level", "next_column_cache", "next_h_cache"],
                {"prev": 0, "column_cache": 0, "h_cache": 0, "links": 1, "uniforms": 0, "temperature": 0},
            ),
            "finish": loops.export(finish, {"rows": prev_row[None].repeat(self.height, 1, 1)}, ["codes", "data"], {"rows": 1}),
        }  # fmt: skip


class FreeSampler(nn.Module):
    """The same for a network without classes: uniforms (B, H W), temperature (B,)."""

    def __init__(self, sampler: Sampler) -> None:
        super().__init__()
        self.sampler = sampler

    def forward(self, uniforms: Tensor, temperature: Tensor) -> tuple[Tensor, Tensor]:
        codes, items = self.sampler(uniforms, uniforms, temperature)
        return codes, items


def sampling(model: GatedNetwork, finish: nn.Module, outputs: Sequence[TensorSpec], max_rows: int) -> Task:
    """The task `sample` of a network: uniforms, the condition where there are classes, and a temperature, to codes and items."""
    sampler = Sampler(model, finish)
    inputs = [
        InputSpec(role="uniforms", source="uniform", shape=(model.height * model.width,)),
        *told(model),
        InputSpec(role="temperature", source="temperature"),
    ]
    return Task(sampler if model.classes else FreeSampler(sampler), inputs, outputs, sampler.to_onnx, max_rows)


def told(model: GatedNetwork) -> list[InputSpec]:
    """The condition, where there are classes."""
    return [InputSpec(role="condition", source="condition", shape=(model.classes,))] if model.classes else []
