"""The sampler of the networks in training.networks.masked, with running pre-activations.

The state of a sampler is the pre-activation of the first layer. Each new value adds one column to it, so a step costs one column, the further
layers and one row of the last layer, instead of a pass through the whole network. The exact likelihood of a network of any order is computed by
the same steps with known values. In ONNX, the sampler is one graph with one loop over the positions.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from manifold.runtime.manifest import InputSpec, TensorSpec
from manifold.training.exporting import loops
from manifold.training.exporting.tasks import Task
from manifold.training.networks.layers import LINE
from manifold.training.networks.masked import Network

BATCH = 3  # size of the examples with which the steps are exported
TIE = 2.0**-40  # a position's share in its key, which orders equal uniforms: these are multiples of 2**-24


class Setup(nn.Module):
    """The initial state of a batch, and the weights in the form for the loop."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, known: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, list[Tensor]]:
        """Take known (B, D). Return state (B, S), columns and marks (D, S), weights (D, H) and biases (D,) of the logits, and further layers."""
        weights, biases = self.network.heads()
        state = torch.zeros_like(known[:, :1]) + self.network.start()
        return state, self.network.columns(), self.network.marks(), weights, biases, self.network.deeper()


class Step(nn.Module):
    """One position: its logit, its value, and the next state. `turn` () counts the positions in the order (B, D)."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network, self.line = network, LINE
        self.dimensions, self.direct, self.any_order = network.dimensions, network.direct, network.any_order

    def forward(
        self, turn: Tensor, state: Tensor, order: Tensor, uniforms: Tensor, temperature: Tensor, known: Tensor, keep: Tensor, columns: Tensor,
        marks: Tensor, weights: Tensor, biases: Tensor, deeper: list[Tensor],
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """Take uniforms, known and keep (B, D), where keep is 1 if the value of `known` is kept, and temperature (B,).

        Return the value (B,) as 0 or 1, the logit (B,) and the next state (B, S).
        """
        place = order.index_select(1, turn.view(1))  # (B, 1)
        # in a fixed order, all items are at the same position
        shared = place[:, 0] if self.any_order else turn.view(1)
        logit = biases.index_select(0, shared) + torch.zeros_like(state[:, 0])
        if weights.shape[1] > 0:
            h = self.network.activate(state[:, : state.shape[1] - self.dimensions] if self.direct else state)
            for at in range(len(deeper) // 2):
                h = self.network.activate(F.linear(h, deeper[2 * at], deeper[2 * at + 1]))
            products = h * weights.index_select(0, shared)
            logit = logit + F.pad(products, (0, -products.shape[1] % self.line)).sum(1)  # see layers.per_item
        if self.direct:
            logit = logit + state.gather(1, state.shape[1] - self.dimensions + place)[:, 0]
        drawn = (uniforms.gather(1, place)[:, 0] >= torch.sigmoid(-logit / temperature)).to(torch.float32)
        kept = keep.gather(1, place)[:, 0]
        value = kept * known.gather(1, place)[:, 0] + (1.0 - kept) * drawn
        after = state + value[:, None] * columns.index_select(0, shared)
        if self.any_order:
            after = after + marks.index_select(0, shared)
        return value, logit, after


class Orders(nn.Module):
    """The order of the positions of each item, int64 (B, D)."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.any_order, self.tie = network.any_order, TIE

    def forward(self, keys: Tensor, keep: Tensor) -> Tensor:
        """Return raster order, or for a network of any order first the positions with keep 1, then the others by their keys in [0, 1), (B, D)."""
        places = torch.arange(keys.shape[1], device=keys.device)
        if not self.any_order:
            return places + torch.zeros_like(keep).to(torch.int64)
        ranked = keys.to(torch.float64) - 2.0 * keep.to(torch.float64) + places.to(torch.float64) * self.tie
        return torch.sort(ranked, dim=1)[1]


def placed(values: Tensor, order: Tensor) -> Tensor:
    """Return values (D, B) in the order of the loop as (B, D) in raster order."""
    return torch.zeros_like(values.T).scatter(1, order, values.T)


class Loop(nn.Module):
    """All steps, also in TorchScript."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.setup, self.step = Setup(network), Step(network)
        self.dimensions = network.dimensions
        self._exported: dict[str, Any] = {}

    def forward(
        self, order: Tensor, uniforms: Tensor, temperature: Tensor, known: Tensor, keep: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return values and logits (D, B) in the order of the loop. The arguments are those of Step."""
        state, columns, marks, weights, biases, deeper = self.setup(known)
        turns = torch.arange(self.dimensions, device=known.device)
        values, logits = [], []
        for at in range(self.dimensions):
            value, logit, state = self.step(
                turns[at], state, order, uniforms, temperature, known, keep, columns, marks, weights, biases, deeper
            )
            values.append(value)
            logits.append(logit)
        return torch.stack(values), torch.stack(logits)

    def to_onnx(
        self,
        before: nn.Module,
        finish: nn.Module,
        given: dict[str, Tensor],
        scanned: str,
        outputs: list[str],
        rows: int = 1,
    ) -> Any:
        """Export the loop as one ONNX graph: `before` maps the inputs `given` to those of the loop, and `finish` takes its values or logits.

        `before` and `finish` convert between items and `rows` rows of the loop for each.
        """
        names = ["order", "draws", "heat", "known", "keep"]
        order, draws, heat, known, keep = before(*given.values())
        state, columns, marks, weights, biases, deeper = self.setup(known)
        further = {f"deeper{number}": weight for number, weight in enumerate(deeper)}
        fixed = {"columns": columns, "marks": marks, "weights": weights, "biases": biases}
        batch = {"order": order, "draws": draws, "heat": heat, "known": known, "keep": keep}
        row = {"turn": torch.tensor(1), "state": state, **batch, **fixed, "deeper": deeper}
        ends = {"values": torch.zeros(self.dimensions, len(order)), "order": order}
        if scanned == "logit":
            ends["known"] = known
        steps = {
            "before": loops.export(before, given, names, dict.fromkeys(given, 0)),
            "setup": self._once("setup", self.setup, {"known": known}, ["state", *fixed, *further], {"known": 0}),
            "step": self._once(
                "step", self.step, row, ["value", "logit", "next_state"], dict.fromkeys(["state", *batch], 0)
            ),
            "finish": loops.export(finish, ends, outputs, {"values": 1, "order": 0, "known": 0}, rows),
        }
        return loops.sequence(steps, self.dimensions, scanned, list(given))

    def _once(self, name: str, *arguments: Any) -> Any:
        """Return a copy of the step's graph. It is exported at the first call, with the weights at that time."""
        if name not in self._exported:
            self._exported[name] = loops.export(*arguments)
        return copy.deepcopy(self._exported[name])


# --- likelihoods in any order ------------------------------------------------------------------------------------------------------


class ToOrders(nn.Module):
    """The inputs of the loop that computes the logits of known values x (B, D) in each of some orders. Its batch has K rows for each item."""

    def __init__(self, orders: Tensor) -> None:
        super().__init__()
        self.orders = nn.Buffer(orders, persistent=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return order, uniforms (B K, D), temperature (B K,), known and keep (B K, D)."""
        count = self.orders.shape[0]
        known = x[:, None].expand(-1, count, -1).flatten(0, 1)
        order = self.orders[None].expand(x.shape[0], -1, -1).flatten(0, 1)
        return order, torch.zeros_like(known), torch.ones_like(known[:, 0]), known, torch.ones_like(known)


def nats(logits: Tensor, x: Tensor) -> Tensor:
    """Return -log p in nats of binary values x with these logits."""
    return F.softplus(logits) - logits * x


def nats_of_orders(network: Network, x: Tensor, orders: Tensor) -> Tensor:
    """Return -log p(x_i | values before i) in nats for each of the orders (K, D), in raster order, for x (B, D): (B, K, D)."""
    order, uniforms, temperature, known, keep = ToOrders(orders)(x)
    logits = placed(Loop(network)(order, uniforms, temperature, known, keep)[1], order)
    return nats(logits, known).view(x.shape[0], orders.shape[0], -1)


class Mixed(nn.Module):
    """The likelihood that is averaged over orders, and its parts.

    p(x) is the mean over the orders of p(x | order): probabilities are averaged, not logits.
    """

    def __init__(self, shape: tuple[int, ...], count: int) -> None:
        super().__init__()
        self.shape, self.count, self.line = list(shape), count, LINE

    def forward(self, logits: Tensor, order: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """Map logits (D, B K) in the order of the loop to -log p(x) (B,), and nats (B, *shape), averaged over the orders weighted by p(order | x)."""
        each = nats(placed(logits, order), known)
        each = each.view(-1, self.count, each.shape[1])
        sums = F.pad(each, (0, -each.shape[2] % self.line)).sum(2)  # see layers.per_item
        averaged = math.log(self.count) - torch.logsumexp(-sums, 1)
        weights = torch.softmax(-sums, 1)
        surprise = (weights[:, :, None] * each).sum(1)
        return averaged, surprise.view([-1] + self.shape)  # noqa: RUF005 - TorchScript does not unpack lists


# --- tasks -------------------------------------------------------------------------------------------------------------------------


class ToLoop(nn.Module):
    """The inputs of the loop for sampling: uniforms (B, U) and temperature (B,) to order, draws, temperature, known and keep.

    The first D uniforms draw the values. A network of any order has D more, which are the keys of the order.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.orders, self.dimensions = Orders(network), network.dimensions

    def forward(self, uniforms: Tensor, temperature: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        draws = uniforms[:, : self.dimensions]
        known = torch.zeros_like(draws)
        return self.orders(uniforms[:, -self.dimensions :], known), draws, temperature * 1.0, known, known * 1.0


class ToLoopGiven(nn.Module):
    """The inputs of the loop for imputation: those of ToLoop, with the pixels of `given` (B, C, H, W) that the mask (B, 1, H, W) marks by 1."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.orders, self.dimensions = Orders(network), network.dimensions

    def forward(
        self, uniforms: Tensor, temperature: Tensor, given: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        draws = uniforms[:, : self.dimensions]
        keep = (mask > 0.5).to(torch.float32).expand(-1, given.shape[1], -1, -1).flatten(1)
        return self.orders(uniforms[:, -self.dimensions :], keep), draws, temperature * 1.0, binary(given), keep


class ToLoopOrders(nn.Module):
    """The inputs of the loop for the likelihood of data (B, *shape) in each of some orders. Its batch has K rows for each item."""

    def __init__(self, orders: Tensor) -> None:
        super().__init__()
        self.to_orders = ToOrders(orders)

    def forward(self, data: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        order, draws, temperature, known, keep = self.to_orders(binary(data))
        return order, draws, temperature, known, keep


class ToItems(nn.Module):
    """The values (D, B) of the loop to codes (B, *grid) and items (B, *shape)."""

    def __init__(self, shape: tuple[int, ...], grid: tuple[int, ...]) -> None:
        super().__init__()
        self.shape, self.grid = list(shape), list(grid)

    def forward(self, values: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
        items = placed(values, order)
        codes = items.to(torch.int64).view([-1] + self.grid)  # noqa: RUF005 - TorchScript does not unpack lists
        return codes, items.view([-1] + self.shape)  # noqa: RUF005


def binary(data: Tensor) -> Tensor:
    """Return items (B, ...) in [0, 1], binarised at 1/2, as (B, D)."""
    return (data > 0.5).to(torch.float32).flatten(1)


class Sample(nn.Module):
    """The task `sample`."""

    def __init__(self, loop: Loop, finish: ToItems) -> None:
        super().__init__()
        self.before, self.loop, self.finish = ToLoop(loop.setup.network), loop, finish

    def forward(self, uniforms: Tensor, temperature: Tensor) -> tuple[Tensor, Tensor]:
        order, draws, heat, known, keep = self.before(uniforms, temperature)
        codes, items = self.finish(self.loop(order, draws, heat, known, keep)[0], order)
        return codes, items

    def to_onnx(self) -> Any:
        """Export the task as one ONNX graph with a loop."""
        return self.loop.to_onnx(self.before, self.finish, _chance(self.loop.setup.network), "value", ["codes", "data"])


class Impute(nn.Module):
    """The task `impute`. Known pixels keep their values.

    A network of any order draws the unknown ones given all known ones. Another network draws each one given the earlier positions.
    """

    def __init__(self, loop: Loop, finish: ToItems) -> None:
        super().__init__()
        self.before, self.loop, self.finish = ToLoopGiven(loop.setup.network), loop, finish

    def forward(self, uniforms: Tensor, temperature: Tensor, data: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        order, draws, heat, known, keep = self.before(uniforms, temperature, data, mask)
        codes, items = self.finish(self.loop(order, draws, heat, known, keep)[0], order)
        return codes, items

    def to_onnx(self) -> Any:
        """Export the task as one ONNX graph with a loop."""
        image = torch.rand(BATCH, *self.finish.shape)
        given = {**_chance(self.loop.setup.network), "given": image, "mask": (image[:, :1] > 0.5).float()}
        return self.loop.to_onnx(self.before, self.finish, given, "value", ["codes", "data"])


class ScoreOrders(nn.Module):
    """The task `score` of a network of any order: data (B, *shape) to -log p(x) (B,), and nats by pixel (B, *shape)."""

    def __init__(self, loop: Loop, orders: Tensor, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.before, self.loop, self.finish = ToLoopOrders(orders), loop, Mixed(shape, len(orders))

    def forward(self, data: Tensor) -> tuple[Tensor, Tensor]:
        order, draws, heat, known, keep = self.before(data)
        nll, surprise = self.finish(self.loop(order, draws, heat, known, keep)[1], order, known)
        return nll, surprise

    def to_onnx(self) -> Any:
        """Export the task as one ONNX graph with a loop."""
        given = {"data": torch.rand(BATCH, *self.finish.shape)}
        return self.loop.to_onnx(self.before, self.finish, given, "logit", ["nll", "surprise"], self.finish.count)


def _chance(network: Network) -> dict[str, Tensor]:
    """Return example inputs of the sampler by name."""
    return {"uniforms": torch.rand(BATCH, uniforms_of(network)), "temperature": torch.ones(BATCH)}


def uniforms_of(network: Network) -> int:
    """Return the number of uniforms that one item takes."""
    return network.dimensions * (2 if network.any_order else 1)


def tasks(network: Network, shape: tuple[int, ...], grid: tuple[int, ...], orders: Tensor) -> dict[str, Task]:
    """Return the tasks that are loops: `sample`, `impute` and for a network of any order `score`."""
    loop, finish = Loop(network), ToItems(shape, grid)
    chance = [
        InputSpec(role="uniforms", source="uniform", shape=(uniforms_of(network),)),
        InputSpec(role="temperature", source="temperature"),
    ]
    items = InputSpec(role="data", name="given", source="data", shape=shape)  # the output's name is "data"
    mask = InputSpec(role="mask", source="mask", shape=(1, *shape[1:]))
    made = [TensorSpec(role="codes", dtype="int64", shape=grid), TensorSpec(role="data", shape=shape)]
    sample, impute = Sample(loop, finish), Impute(loop, finish)
    found = {
        "sample": Task(sample, chance, made, sample.to_onnx, max_rows=256),
        "impute": Task(impute, [*chance, items, mask], made, impute.to_onnx, max_rows=256, any_mask=network.any_order),
    }
    if network.any_order:
        score = ScoreOrders(loop, orders, shape)
        found["score"] = Task(
            score,
            [InputSpec(role="data", source="data", shape=shape)],
            [TensorSpec(role="nll"), TensorSpec(role="surprise", shape=shape)],
            score.to_onnx,
            max_rows=max(1, 256 // len(orders)),
        )
    return found
