"""The cached sampler of autoregressive networks over a grid (networks.autoregressive).

Sampling is exact and cached: the row stack of a network runs once per row, its pixel stack once per code, with caches between the runs (an
idea of Ramachandran et al., 2017, arXiv 1704.06001). Codes are drawn by inverse CDF from uniforms, which are an input. In ONNX the
sampler is one graph that contains the loops and caches.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from manifold.runtime.manifest import InputSpec, TensorSpec
from manifold.training.exporting import loops
from manifold.training.exporting.tasks import Task
from manifold.training.networks.autoregressive import Autoregressive


def nothing(x: Tensor) -> Tensor:
    """Return the condition of a network without classes: zeros (B, 1), with the batch size of x (B, ...)."""
    return torch.zeros_like(x.flatten(1)[:, :1], dtype=torch.float32)


class Setup(nn.Module):
    """The first step of the sampler: the initial state of the loops, which is empty caches and the class terms."""

    def __init__(self, model: Autoregressive) -> None:
        super().__init__()
        self.weights, caches = nn.ModuleList(model.class_weights()), model.caches
        self.vertical, self.row, self.column = caches.vertical, caches.row, caches.column
        self.horizontal = caches.horizontal[0] * caches.horizontal[1]
        self.width, self.classes, self.parts, self.integers = (
            model.width,
            model.classes,
            model.parts,
            model.emission.integers,
        )

    def forward(self, condition: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Take a condition (B, classes), or without classes any (B, ...) tensor, of which only the batch size is used."""
        if self.classes == 0:
            condition = nothing(condition)
        terms = []
        for weight in self.weights:
            terms.append(weight(condition))
        empty = torch.zeros_like(condition[:, :1])  # (B, 1)
        v_cache = empty.expand(self.vertical[0], self.width, -1, -1).repeat(
            1, 1, 1, self.vertical[1]
        )  # (layers, W, B, C)
        row_cache = empty.expand(self.width, -1, -1).repeat(1, 1, self.row)  # (W, B, C)
        prev_row = empty[:, None].repeat(1, self.width, self.parts)  # (B, W, S)
        if self.integers:
            prev_row = prev_row.to(torch.int64)
        h_cache, column_cache = empty.repeat(1, self.horizontal), empty.repeat(1, self.column)
        return torch.stack(terms), v_cache, row_cache, h_cache, column_cache, prev_row


class RowStep(nn.Module):
    """The row stack of a network for row r, after the row above is complete."""

    def __init__(self, model: Autoregressive) -> None:
        super().__init__()
        self.emission, self.stack = model.emission, model.row_stack()

    def forward(
        self, row: Tensor, prev_row: Tensor, row_cache: Tensor, v_cache: Tensor, classes: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Map row (), prev_row (B, W, S), row_cache (W, B, C) and v_cache (layers, W, B, C) to links and both new caches."""
        below_top = (row > 0).to(torch.float32)
        above = self.emission.embed(prev_row.transpose(0, 1)) * below_top  # zero padding above the image
        links, next_row_cache, next_v_cache = self.stack(row_cache, above, v_cache, classes, below_top)
        return links, next_row_cache, next_v_cache


class PixelStep(nn.Module):
    """The pixel stack of a network for one pixel, and the pixel's value."""

    def __init__(self, model: Autoregressive) -> None:
        super().__init__()
        self.emission, self.stack = model.emission, model.pixel_stack()
        self.width, self.places = model.width, model.height * model.width
        self.draws = model.emission.draws * model.parts

    def forward(
        self, row: Tensor, column: Tensor, prev: Tensor, column_cache: Tensor, h_cache: Tensor, links: Tensor, uniforms: Tensor, temperature: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """Map prev (B, S), column_cache and h_cache (B, C) to the value (B, S) and both new caches."""
        before = self.emission.embed(prev) * (column > 0).to(torch.float32)
        features, next_column_cache, next_h_cache = self.stack(
            column_cache, before, h_cache, links.index_select(0, column.view(1))[0]
        )
        mine = row * self.width + column + self.places * torch.arange(self.draws, device=row.device)
        value = self.emission.pick(features, uniforms.index_select(1, mine), temperature)
        return value, next_column_cache, next_h_cache


class KeepKnown(nn.Module):
    """A PixelStep that can keep known values: it returns the known value where `keep` is true, and the drawn value elsewhere."""

    def __init__(self, step: PixelStep) -> None:
        super().__init__()
        self.step, self.width = step, step.width

    def forward(
        self, row: Tensor, column: Tensor, prev: Tensor, column_cache: Tensor, h_cache: Tensor, links: Tensor, uniforms: Tensor, temperature: Tensor,
        known: Tensor, keep: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """Take known (B, H W, S) and keep (B, H W, 1) bool. The other arguments are those of PixelStep."""
        value, next_column_cache, next_h_cache = self.step(
            row, column, prev, column_cache, h_cache, links, uniforms, temperature
        )
        mine = (row * self.width + column).view(1)
        value = torch.where(keep.index_select(1, mine)[:, 0], known.index_select(1, mine)[:, 0], value)
        return value, next_column_cache, next_h_cache


class Known(nn.Module):
    """The conversion of data (B, S, H, W) and a mask (B, 1, H, W), 1 for known values, to the inputs of KeepKnown."""

    def __init__(self, to_items: nn.Module) -> None:
        super().__init__()
        self.to_items = to_items

    def forward(self, data: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        items = self.to_items(data)
        return items.flatten(2).permute(0, 2, 1), (mask > 0.5).flatten(2).permute(0, 2, 1)


class Sampler(nn.Module):
    """The sampler of a network, also in TorchScript: uniforms (B, network.uniforms), condition (B, classes), temperature (B,) to codes and items.

    `finish` computes the codes (or values) and the items from the values (H, B, W, S) of the loops.
    """

    def __init__(self, model: Autoregressive, finish: nn.Module) -> None:
        super().__init__()
        self.setup, self.row_step, self.pixel_step, self.finish = (
            Setup(model),
            RowStep(model),
            KeepKnown(PixelStep(model)),
            finish,
        )
        self.height, self.width, self.parts = model.height, model.width, model.parts
        self.uniforms = model.uniforms
        self._exported: dict[str, Any] = {}

    def forward(self, uniforms: Tensor, condition: Tensor, temperature: Tensor) -> tuple[Tensor, Tensor]:
        known = self.setup(condition)[5][:, :1].expand(-1, self.height * self.width, -1)
        codes, items = self.filled(uniforms, condition, temperature, known, torch.zeros_like(known[:, :, :1]) > 0)
        return codes, items

    def filled(
        self, uniforms: Tensor, condition: Tensor, temperature: Tensor, known: Tensor, keep: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Sample like `forward`, but keep some known values. `known` and `keep` are those of KeepKnown."""
        classes, v_cache, row_cache, empty_h, empty_column, prev_row = self.setup(condition)
        places = torch.arange(max(self.height, self.width), device=uniforms.device)
        rows = []
        for r in range(self.height):
            row = places[r]
            links, row_cache, v_cache = self.row_step(row, prev_row, row_cache, v_cache, classes)
            h_cache, column_cache, prev = empty_h, empty_column, prev_row[:, 0]
            values = []
            for c in range(self.width):
                prev, column_cache, h_cache = self.pixel_step(
                    row, places[c], prev, column_cache, h_cache, links, uniforms, temperature, known, keep
                )
                values.append(prev)
            prev_row = torch.stack(values, 1)
            rows.append(prev_row)
        codes, items = self.finish(torch.stack(rows))
        return codes, items

    def to_onnx(self) -> Any:
        """Export the sampler as one ONNX graph with two nested Loops around the exported steps."""
        return loops.grid_sampler(self._steps(), self.height, self.width)

    def to_onnx_by_rows(self) -> dict[str, Any]:
        """Export the sampler as three graphs, for `loops.by_rows`."""
        return loops.row_sampler(self._steps(), self.width)

    def _steps(self, known: nn.Module | None = None) -> dict[str, Any]:
        """Return each step as a graph. `known` is an optional additional step that computes KeepKnown's inputs from data and mask.

        A step is exported only once, as sampling and imputing share most steps.
        """
        setup, row, pixel, finish = self.setup, self.row_step, self.pixel_step.step, self.finish
        batch, width = 3, self.width
        uniforms, condition = torch.rand(batch, self.uniforms), torch.rand(batch, max(1, setup.classes))
        given, name = (condition, "condition") if setup.classes else (uniforms, "uniforms")
        classes, v_cache, row_cache, h_cache, empty_column, prev_row = setup(given)
        links = torch.zeros_like(row(torch.tensor(0), prev_row, row_cache, v_cache, classes)[0])
        # two tensors, because the exporter treats the same object, given twice, as one input
        row_at, column_at = torch.tensor(1), torch.tensor(2)
        inputs = {
            "row": row_at, "column": column_at, "prev": prev_row[:, 0], "column_cache": empty_column, "h_cache": h_cache, "links": links,
            "uniforms": uniforms, "temperature": torch.ones(batch),
        }  # fmt: skip
        axes = {"prev": 0, "column_cache": 0, "h_cache": 0, "links": 1, "uniforms": 0, "temperature": 0}
        steps: dict[str, Any] = {}
        pixel_name = "pixel" if known is None else "pixel keeping"
        if known is not None:
            image = torch.rand(batch, self.parts, self.height, width)
            mask = (image[:, :1] > 0.5).float()
            steps["known"] = loops.export(
                known, {"given": image, "mask": mask}, ["known", "keep"], {"given": 0, "mask": 0}
            )
            held, keep = known(image, mask)
            inputs, axes = {**inputs, "known": held, "keep": keep}, {**axes, "known": 0, "keep": 0}
        return steps | {
            "setup": self._once(
                "setup", setup, {name: given}, ["classes", "v_cache", "row_cache", "h_cache", "empty_column", "prev_row"], {name: 0}
            ),
            "row": self._once(
                "row", row, {"row": row_at, "prev_row": prev_row, "row_cache": row_cache, "v_cache": v_cache, "classes": classes},
                ["links", "next_row_cache", "next_v_cache"], {"prev_row": 0, "row_cache": 1, "v_cache": 2, "classes": 1},
            ),
            "pixel": self._once(
                pixel_name, pixel if known is None else self.pixel_step, inputs, ["value", "next_column_cache", "next_h_cache"], axes
            ),
            "finish": self._once("finish", finish, {"rows": prev_row[None].repeat(self.height, 1, 1, 1)}, ["codes", "data"], {"rows": 1}),
        }  # fmt: skip

    def _once(self, name: str, *arguments: Any) -> Any:
        """Return a copy of the step's graph. It is exported at the first call, with the weights at that time."""
        if name not in self._exported:
            self._exported[name] = loops.export(*arguments)
        return copy.deepcopy(self._exported[name])


class FreeSampler(nn.Module):
    """The sampler of a network without classes. It takes uniforms and temperature (B,)."""

    def __init__(self, sampler: Sampler) -> None:
        super().__init__()
        self.sampler = sampler

    def forward(self, uniforms: Tensor, temperature: Tensor) -> tuple[Tensor, Tensor]:
        codes, items = self.sampler(uniforms, uniforms, temperature)
        return codes, items


class Imputer(nn.Module):
    """A Sampler with two more inputs, data (B, S, H, W) and mask (B, 1, H, W). Values that the mask marks as known are kept.

    The other values are drawn in order, each given all earlier positions. Known values at later positions do not influence them.
    """

    def __init__(self, sampler: Sampler, to_items: nn.Module) -> None:
        super().__init__()
        self.sampler, self.known = sampler, Known(to_items)

    def forward(
        self, uniforms: Tensor, condition: Tensor, temperature: Tensor, data: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        known, keep = self.known(data, mask)
        codes, items = self.sampler.filled(uniforms, condition, temperature, known, keep)
        return codes, items

    def to_onnx(self) -> Any:
        """Export the imputer as one ONNX graph."""
        return loops.grid_sampler(self.sampler._steps(self.known), self.sampler.height, self.sampler.width)


class FreeImputer(nn.Module):
    """The imputer of a network without classes."""

    def __init__(self, imputer: Imputer) -> None:
        super().__init__()
        self.imputer = imputer

    def forward(self, uniforms: Tensor, temperature: Tensor, data: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        codes, items = self.imputer(uniforms, uniforms, temperature, data, mask)
        return codes, items


def sampling(model: Autoregressive, sampler: Sampler, outputs: Sequence[TensorSpec], max_rows: int) -> Task:
    """Return the task `sample` of a network. Its inputs are uniforms, the condition if there are classes, and a temperature."""
    return Task(sampler if model.classes else FreeSampler(sampler), _chance(model), outputs, sampler.to_onnx, max_rows)


def imputing(
    model: Autoregressive, sampler: Sampler, to_items: nn.Module, outputs: Sequence[TensorSpec], max_rows: int
) -> Task:
    """Return the task `impute`: the inputs of `sample`, an image, and a mask of known values. `to_items` converts images to the network's items."""
    imputer = Imputer(sampler, to_items)
    shape = (model.parts, model.height, model.width)
    inputs = [
        *_chance(model),
        InputSpec(role="data", name="given", source="data", shape=shape),  # the output's name is "data"
        InputSpec(role="mask", source="mask", shape=(1, *shape[1:])),
    ]
    return Task(imputer if model.classes else FreeImputer(imputer), inputs, outputs, imputer.to_onnx, max_rows)


def _chance(model: Autoregressive) -> list[InputSpec]:
    return [
        InputSpec(role="uniforms", source="uniform", shape=(model.uniforms,)),
        *condition_inputs(model),
        InputSpec(role="temperature", source="temperature"),
    ]


def condition_inputs(model: Autoregressive) -> list[InputSpec]:
    """Return the condition's input, or nothing if there are no classes."""
    return [InputSpec(role="condition", source="condition", shape=(model.classes,))] if model.classes else []
