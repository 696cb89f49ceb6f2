"""The likelihood of the ordinary differential equation of a path (networks.paths), with Hutchinson's estimate of the divergence.

Along dz/du = d(z, u), the density of z changes by d log p / du = -div d (Chen et al., 2018, arXiv 1806.07366). The divergence is the
mean of e·(∂d/∂z)e over random signs e (Hutchinson; Grathwohl et al., 2019, arXiv 1810.01367).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from manifold.training.networks.paths import COLUMNS, Table

# maps inputs (B, ...), times (B,) to predictions of the inputs' shape
Network = Callable[[Tensor, Tensor], Tensor]


def log_density(
    network: Network, x: Tensor, table: Table, *, spread: float, generator: torch.Generator, probes: int = 1
) -> Tensor:  # fmt: skip
    """Return the log densities of x (B, ...) in nats, float64 (B,), each with its own random signs.

    `table` is a table of the Euler or midpoint solver backwards, from data to noise, whose last point is N(0, spread² I). The errors are those of
    the solver and of the signs.
    """
    size = math.prod(x.shape[1:])
    signs = torch.randint(0, 2, (probes, *x.shape), generator=generator, device=x.device).to(x.dtype) * 2 - 1
    point = base = x
    gained = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    for row in table:
        at = dict(zip(COLUMNS, (float(value) for value in row), strict=True))
        moves = at["moves"] > 0
        d, divergence = _with_divergence(network, point, at["time"], at["scale"], signs if moves else None)
        point = base + at["now"] * d
        if moves:
            base = point
            gained += at["now"] * divergence
    squares = (base.double() / spread).flatten(1).square().sum(1)
    return -0.5 * squares - size * (0.5 * math.log(2 * math.pi) + math.log(spread)) + gained


def _with_divergence(
    network: Network, z: Tensor, time: float, scale: float, signs: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return d = network(scale z, time), and Hutchinson's estimate of its divergence, float64 (B,); zeros without signs."""
    times = torch.full((len(z),), time, dtype=z.dtype, device=z.device)
    if signs is None:
        with torch.no_grad():
            return network(scale * z, times), torch.zeros(len(z), dtype=torch.float64, device=z.device)
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        d = network(scale * z, times)
        traces = []
        for place, e in enumerate(signs.unbind(0)):
            (gradient,) = torch.autograd.grad(d, z, e, retain_graph=place + 1 < len(signs))
            traces.append((gradient * e).double().flatten(1).sum(1))
    return d.detach(), torch.stack(traces).mean(0)
