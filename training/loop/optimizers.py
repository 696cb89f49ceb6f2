"""The optimisers of the training loop: AdamW, SGD and Adagrad, with the same meaning of weight decay.

Weight decay is decoupled from the gradient (Loshchilov and Hutter, 2017, arXiv 1711.05101): a step first multiplies the weights by
1 - lr · weight_decay. torch's SGD and Adagrad would add weight_decay · w to the gradient, which Adagrad then scales. It is therefore done here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from manifold.training.phases import Player
from manifold.training.recipes import Recipe


def build(player: Player, config: Recipe, *, fused: bool) -> torch.optim.Optimizer:
    """Return the optimiser of a player. `fused`: use torch's fused steps, which Adagrad has on CPUs alone."""
    parameters, lr, decay = player.parameters, player.lr, player.weight_decay
    if config.optimizer == "adam":
        return torch.optim.AdamW(parameters, lr=lr, betas=player.betas, weight_decay=decay, fused=fused)
    made: torch.optim.Optimizer
    if config.optimizer == "sgd":
        made = torch.optim.SGD(parameters, lr=lr, momentum=config.momentum, fused=fused)
    else:
        made = torch.optim.Adagrad(parameters, lr=lr)
    if decay:
        made.register_step_pre_hook(decoupled(decay))
    return made


def decoupled(decay: float) -> Callable[[torch.optim.Optimizer, Any, Any], None]:
    """Return a hook that multiplies all weights with a gradient by 1 - lr · decay before a step."""

    @torch.no_grad()
    def shrink(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        for group in optimizer.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    weight.mul_(1 - group["lr"] * decay)

    return shrink
