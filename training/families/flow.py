"""Flow matching and diffusion on images, class-conditional if the data has classes.

Two objectives train the same U-Net (networks.unet); networks.paths states both paths, and networks.solving follows them:

- `flow`: flow matching on straight paths (Lipman et al., 2023, arXiv 2210.02747, eq. 20 to 23; Liu et al., 2023, arXiv 2209.03003, eq. 1). Times
  are logit-normal (Esser et al., 2024, arXiv 2403.03206, eq. 19).
- `ddpm`: prediction of the noise (Ho et al., 2020, arXiv 2006.11239, eq. 14).

The class is dropped for a share of the items, so that the model also learns "no class" and samples can be guided (Ho and Salimans, 2022,
arXiv 2207.12598).
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from manifold.runtime.kinds.image import ImageSpec
from manifold.runtime.manifest import InputSpec, LatentSpec, Metric, TensorSpec
from manifold.training.batches import Batch, in_order
from manifold.training.data import Data
from manifold.training.errors import TrainingError
from manifold.training.exporting import loops, solvers
from manifold.training.exporting.tasks import Exports, Task
from manifold.training.means import Means
from manifold.training.networks import paths
from manifold.training.networks.layers import exact, per_item
from manifold.training.networks.solving import Loop
from manifold.training.networks.unet import UNet
from manifold.training.phases import Losses, Phase, Player
from manifold.training.recipes import Recipe, Share, Size


class Config(Recipe):
    """The options of the family."""

    lr: float = Field(1e-3, gt=0)
    batch_size: int = Field(64, ge=1)
    weight_decay: float = Field(0.01, ge=0)
    objective: paths.Objective = "flow"
    noise_schedule: paths.Schedule = "cosine"  # variances of the steps of ddpm
    channels: int = Field(32, ge=8)  # channels at the largest size
    multiples: tuple[Size, ...] = Field((1, 2, 2), min_length=1)  # channels at each size, divided by `channels`
    blocks: int = Field(1, ge=1)  # residual blocks at each size, on the way down and on the way up
    patch: int = Field(0, ge=0)  # side of the squares that become channels; 0: 2 if it divides the sides, else 1
    dropout: Share = 0.0
    conditional: bool = True  # whether the model is conditioned on the class, if the data has classes
    label_dropout: Share = 0.1  # share of the items that are trained without their class
    flip: bool = False  # mirror half of the training images
    sampler: Literal["auto", "euler", "midpoint", "heun", "ddim", "ancestral"] = "auto"  # auto: midpoint, or ddim for ddpm
    steps: Annotated[tuple[Size, ...], Field(min_length=1)] = (4, 8, 16, 50)  # the numbers of steps that a request can choose
    default_steps: int = Field(8, ge=1)
    guidance: float = Field(1.5, ge=0, le=20)  # the default of requests for new images

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.objective == "flow" and self.sampler in ("ddim", "ancestral"):
            raise TrainingError(
                f"sampler: {self.sampler} is for the objective ddpm; for flow use euler, midpoint or heun (ddim would be the same as euler)",
                field="sampler",
            )
        if self.default_steps not in self.steps:
            raise TrainingError(
                f"default_steps: {self.default_steps} is not among the steps {list(self.steps)}; add it, or choose one of them",
                field="default_steps",
            )
        if len(set(self.steps)) < len(self.steps):
            raise TrainingError(f"steps: {list(self.steps)} contains a number twice; remove it", field="steps")
        return self


PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {"epochs": 2, "channels": 8, "multiples": (1, 2), "test_items": 100, "ema": 0.9, "steps": (2, 4), "default_steps": 4},
    "cpu": {"epochs": 18, "schedule": "cosine"},
    "gpu": {
        "epochs": 256, "schedule": "cosine", "batch_size": 128, "lr": 2e-4, "channels": 128, "multiples": (1, 2, 2, 2), "blocks": 3, "patch": 1,
        "dropout": 0.1, "ema": 0.9999,
    },
}  # fmt: skip


def resolve(config: Config, data: Data) -> Config:
    """Return the config with a patch, a sampler, and unconditional if the data has no classes. Raises InvalidValue for data without images."""
    spec = ImageSpec.of(data.spec, f"data: {data.name}")
    patch = config.patch or (2 if spec.height % 2 == spec.width % 2 == 0 else 1)
    if spec.height % patch or spec.width % patch:
        raise TrainingError(
            f"patch: {patch} does not divide the sides of images of {spec.width}x{spec.height}; use a divisor of both, or 0", field="patch"
        )
    sampler = config.sampler if config.sampler != "auto" else "midpoint" if config.objective == "flow" else "ddim"
    conditional = config.conditional and data.classes is not None
    return config.changed(
        patch=patch, sampler=sampler, conditional=conditional, guidance=config.guidance if conditional else 1.0
    )


class Flow(nn.Module):
    """The network, its loss, and its solvers. Images are in [0, 1] outside, and in [-1, 1] inside."""

    levels: Tensor

    def __init__(self, config: Config, data: Data) -> None:
        super().__init__()
        self.config, self.spec = config, ImageSpec.of(data.spec, f"data: {data.name}")
        self.classes = len(data.classes or ()) if config.conditional else 0
        self.shape = (self.spec.channels, self.spec.height, self.spec.width)
        self.network = UNet(
            self.shape, self.classes, channels=config.channels, multiples=config.multiples, blocks=config.blocks, patch=config.patch,
            dropout=config.dropout,
        )  # fmt: skip
        levels = torch.from_numpy(paths.signal(config.noise_schedule)).sqrt().float()
        self.register_buffer("levels", levels, persistent=False)  # a of each step of ddpm

    def condition(self, labels: Tensor) -> Tensor:
        """Map labels (B,) to class weights (B, K); zeros (B, 1) without classes, and zeros for an item without a label."""
        if not self.classes:
            return torch.zeros_like(labels, dtype=torch.float32)[:, None]
        known = (labels >= 0).float()[:, None]
        return nn.functional.one_hot(labels.clamp(min=0), self.classes).float() * known

    def mixed(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Return noisy inputs of the network for images x in [-1, 1], their times (B,), and the targets."""
        noise = torch.randn(x.shape, generator=generator, device=x.device)
        one = (len(x), 1, 1, 1)
        if self.config.objective == "flow":
            time = torch.randn(len(x), generator=generator, device=x.device).sigmoid()
            share = time.view(one)
            return (1 - share) * noise + share * x, time, x - noise
        step = torch.randint(1, paths.STEPS + 1, (len(x),), generator=generator, device=x.device)
        scale = self.levels[step].view(one)
        return scale * x + (1 - scale**2).sqrt() * noise, step / paths.STEPS, noise

    def errors(self, x: Tensor, condition: Tensor, generator: torch.Generator) -> Tensor:
        """Return the mean squared error of the prediction for each image x in [0, 1], at a random time, (B,)."""
        noisy, time, target = self.mixed(2 * x - 1, generator)
        predicted = exact(self.network(noisy, time, condition))
        return per_item((predicted - target) ** 2) / math.prod(self.shape)

    def loss(self, batch: Batch) -> Losses:
        """Return the mean squared error over the batch."""
        x, condition = batch.items, self.condition(batch.labels)
        draws = torch.rand((2, len(x)), generator=batch.generator, device=x.device)
        if self.config.flip:
            x = torch.where(draws[0].view(-1, 1, 1, 1) < 0.5, x.flip(3), x)
        condition = condition * (draws[1] >= self.config.label_dropout).float()[:, None]
        return {"loss": self.errors(x, condition, batch.generator).mean()}

    def loop(self, *, backwards: bool = False) -> Loop:
        """Return the loop of the sampler, or of its way back from data to noise."""
        config, solver = self.config, self.config.sampler
        assert solver != "auto"
        solver = "ddim" if backwards and solver == "ancestral" else solver
        tables = [
            paths.table(config.objective, config.noise_schedule, solver, steps, backwards=backwards) for steps in config.steps
        ]
        return Loop(self.network, tables, config.steps, clips=config.objective == "ddpm" and not backwards)

    @property
    def start(self) -> float:
        """The factor between noise and the first point of a solver."""
        if self.config.objective == "flow":
            return 1.0
        return 1 / paths.Diffusion(self.config.noise_schedule).scale(paths.STEPS)


def build(config: Config, data: Data) -> Flow:
    """Return a model with initial weights."""
    return Flow(config, data)


def phases(model: Any, config: Config) -> list[Phase]:
    """Return one phase with one player."""
    player = Player("flow", tuple(model.parameters()), model.loss, config.lr, weight_decay=config.weight_decay)
    return [Phase("flow", (player,), config.epochs)]


def evaluate(model: Flow, batch: Batch) -> dict[str, Tensor]:
    """Return the squared error of the prediction given the true class, (B,)."""
    return {"loss": model.errors(batch.items, model.condition(batch.labels), batch.generator)}


@torch.no_grad()
def draw(model: Flow, n: int, generator: torch.Generator) -> Tensor:
    """Return generated images (n, C, H, W) in [0, 1], with the classes in turn, the default steps and the default guidance."""
    device = next(model.parameters()).device
    training = model.training
    noise = torch.randn((n, *model.shape), generator=generator, device=device)
    condition = model.condition(torch.arange(n, device=device) % max(1, model.classes))
    config = model.config
    guidance = torch.full((n,), config.guidance, device=device) if model.classes else None
    steps = torch.full((n,), config.default_steps, device=device)
    draws = None
    if config.sampler == "ancestral":
        draws = torch.randn((n, max(config.steps), *model.shape), generator=generator, device=device)
    last = model.eval().loop().to(device)(model.start * noise, condition, guidance, steps, draws)
    model.train(training)
    return ((last + 1) / 2).clamp(0, 1)


@torch.no_grad()
def report(model: Flow, config: Config, data: Data) -> list[Metric]:
    """Return the squared error of the prediction over the test split."""
    generator = torch.Generator(next(model.parameters()).device).manual_seed(config.seed)
    means = Means()
    for batch in in_order(data.test, 500, generator):
        means.add({"velocity_mse" if config.objective == "flow" else "noise_mse": evaluate(model, batch)["loss"]})
    protocol = {**data.protocol, "objective": config.objective, "n": len(data.test), "seed": config.seed}
    return list(means.metrics({name: protocol for name in means.n}, unit="squared, of values in [-1, 1]"))
