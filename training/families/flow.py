"""Flow matching and diffusion on images, class-conditional if the data has classes.

Two objectives train the same U-Net (networks.unet); networks.paths states both paths, and networks.solving follows them:

- `flow`: flow matching on straight paths (Lipman et al., 2023, arXiv 2210.02747; Liu et al., 2023, arXiv 2209.03003). Times
  are logit-normal (Esser et al., 2024, arXiv 2403.03206).
- `ddpm`: prediction of the noise (Ho et al., 2020, arXiv 2006.11239, the simplified loss).

The class is dropped for a share of the items, so that the model also learns "no class" and samples can be guided (Ho and Salimans, 2022,
arXiv 2207.12598).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import cached_property
from typing import Annotated, Any, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from manifold.runtime.kinds.image import ImageSpec
from manifold.runtime.manifest import InputSpec, LatentSpec, Metric, PathSpec, Scoring, TensorSpec, Term, figures
from manifold.runtime.manifest.conditions import NO_CLASS
from manifold.training.batches import Batch, in_order
from manifold.training.bounds import fixed_draws
from manifold.training.data import Data
from manifold.training.data.parts import scattered
from manifold.training.errors import TrainingError
from manifold.training.exporting import loops, solvers
from manifold.training.exporting.tasks import Exports, Task
from manifold.training.means import Means, bits_per_dim
from manifold.training.networks import paths
from manifold.training.networks.densities import log_density
from manifold.training.networks.layers import exact, per_item
from manifold.training.networks.solving import (
    Complete,
    CompleteFree,
    Encode,
    EncodeFree,
    Loop,
    Make,
    MakeByChance,
    MakeFree,
    MakeFreeByChance,
    nothing,
    shown,
)
from manifold.training.networks.unet import UNet
from manifold.training.phases import Losses, Phase, Player
from manifold.training.recipes import Recipe, Share, Size

ERROR = "prediction_error"  # the term of the score
LIKELIHOOD_BATCH = 50
TIMES = 8  # number of times of the score
ROWS = 32  # largest batch of a run of a solver


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
    sampler: paths.Solver = "midpoint"
    # the numbers of steps that a request can choose; ddpm has 1000 steps, and more would not be different ones
    steps: Annotated[tuple[Annotated[Size, Field(le=paths.STEPS)], ...], Field(min_length=1)] = (4, 8, 16, 50)
    default_steps: int = Field(8, ge=1)
    guidance: float = Field(1.5, ge=0, le=20)  # the default of requests for new images
    likelihood_items: int = Field(
        100, ge=0
    )  # number of test images for the likelihood of the differential equation; 0: it is not computed
    likelihood_steps: Size = 50  # midpoint steps of that likelihood

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.objective == "flow" and self.sampler in ("ddim", "ancestral"):
            raise TrainingError(
                f"sampler: {self.sampler} is for the objective ddpm; for flow use euler, midpoint or heun (ddim would be the same as euler)",
                field="sampler",
            )
        if self.objective == "flow" and self.noise_schedule != "cosine":
            raise TrainingError(
                "noise_schedule: it is for the objective ddpm, as flow has one path; remove it, or add objective=ddpm",
                field="noise_schedule",
            )
        if len(set(self.steps)) < len(self.steps):
            raise TrainingError(f"steps: {list(self.steps)} contains a number twice; remove it", field="steps")
        if self.default_steps not in self.steps:
            raise TrainingError(
                f"default_steps: {self.default_steps} is not among the steps {list(self.steps)}; add it, or choose one of them",
                field="default_steps",
            )
        return self


PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {
        "epochs": 2, "channels": 8, "multiples": (1, 2), "test_items": 100, "ema": 0.9, "steps": (2, 4), "default_steps": 4,
        "likelihood_items": 10, "likelihood_steps": 4,
    },
    "cpu": {"epochs": 18, "schedule": "cosine", "ema_second": 0.9995},
    "gpu": {
        "epochs": 256, "schedule": "cosine", "batch_size": 128, "lr": 2e-4, "channels": 128, "multiples": (1, 2, 2, 2), "blocks": 3, "patch": 1,
        "dropout": 0.1, "ema": 0.9999, "ema_second": 0.999,
    },
}  # fmt: skip


def resolve(config: Config, data: Data) -> Config:
    """Return the config with a patch, and unconditional if the data has no classes. Raises InvalidValue for data without images."""
    spec = ImageSpec.of(data.spec, f"data: {data.name}")
    patch = config.patch or (2 if spec.height % 2 == spec.width % 2 == 0 else 1)
    if spec.height % patch or spec.width % patch:
        raise TrainingError(
            f"patch: {patch} does not divide the sides of images of {spec.width}x{spec.height}; use a divisor of both, or 0",
            field="patch",
        )
    conditional = config.conditional and data.classes is not None
    if conditional and not config.label_dropout:
        raise TrainingError(
            "label_dropout: 0 would leave the model without training for no class, which guidance, /encode and the score need; "
            "use a share above 0, such as 0.1, or conditional=false",
            field="label_dropout",
        )
    if conditional and NO_CLASS in (data.classes or ()):
        raise TrainingError(
            f"data: {data.name} has a class called {NO_CLASS!r}, which is the name of no class in requests; rename the class, or use "
            "conditional=false",
            field="data",
        )
    return config.changed(patch=patch, conditional=conditional, guidance=config.guidance if conditional else 1.0)


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

    def unconditional(self, x: Tensor, time: Tensor) -> Tensor:
        """Return the prediction of the network without a class."""
        out: Tensor = self.network(x, time, torch.zeros(len(x), max(1, self.classes), device=x.device))
        return out

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
        solver = "ddim" if backwards and solver == "ancestral" else solver
        tables = [
            paths.loop_table(config.objective, config.noise_schedule, solver, steps, backwards=backwards)
            for steps in config.steps
        ]
        clips = config.objective == "ddpm" and not backwards
        return Loop(self.network, tables, config.steps, clips=clips)


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
    made = shown(model.eval().loop().to(device)(noise, condition, guidance, steps, draws))
    model.train(training)
    return made


@torch.no_grad()
def report(model: Flow, config: Config, data: Data) -> list[Metric]:
    """Return the squared error of the prediction over the test split."""
    generator = torch.Generator(next(model.parameters()).device).manual_seed(config.seed)
    means = Means()
    for batch in in_order(data.test, 500, generator):
        means.add({"velocity_mse" if config.objective == "flow" else "noise_mse": evaluate(model, batch)["loss"]})
    protocol = {**data.protocol, "objective": config.objective, "n": len(data.test), "seed": config.seed}
    found = list(means.metrics(dict.fromkeys(means.n, protocol), unit="squared, of values in [-1, 1]"))
    return [*found, *_likelihood(model, config, data)] if config.likelihood_items else found


def _likelihood(model: Flow, config: Config, data: Data) -> list[Metric]:
    """Return the likelihood of the differential equation, without a class, of some test images that are dequantised by uniform noise."""
    device = next(model.parameters()).device
    generator = torch.Generator(device).manual_seed(config.seed)
    part, levels = scattered(data.test, config.likelihood_items), model.spec.levels
    points = paths.even_grid(config.objective, config.noise_schedule, config.likelihood_steps)
    table = paths.table(
        config.objective, config.noise_schedule, "midpoint", config.likelihood_steps, backwards=True, points=points
    )
    spread = 1.0 if config.objective == "flow" else paths.Diffusion(config.noise_schedule).place(points[0])
    name, means = figures.name_of("exact", "density"), Means()
    for batch in in_order(part, LIKELIHOOD_BATCH, generator):
        steps = torch.round(batch.items * (levels - 1))
        x = (steps + torch.rand(steps.shape, generator=generator, device=device)) / levels * 2 - 1
        log_p = log_density(model.unconditional, x, table, spread=spread, generator=generator)
        means.add({name: -(log_p + math.prod(model.shape) * math.log(2))})  # the density of values in [0, 1]
    protocol = {
        **data.protocol, "bound": f"of the differential equation by {config.likelihood_steps} midpoint steps; divergence by one random vector an item",
        "observed": f"pixels at {levels} levels, dequantised by uniform noise: a density on [0, 1]", "classes": "no class", "n": len(part),
        "seed": config.seed,
    }  # fmt: skip
    return [
        *means.metrics({name: protocol}),
        bits_per_dim(means, name, math.prod(model.shape), protocol, math.log2(levels)),
    ]


# --- exports ------------------------------------------------------------------------------------------------------------------


class Score(nn.Module):
    """The task `score`: images (B, C, H, W) in [0, 1] to the mean squared error of the prediction (B,), and by pixel (B, C, H, W).

    It is the mean over fixed times and noises of an artifact, without a class.
    """

    def __init__(self, model: Flow, seed: int) -> None:
        super().__init__()
        self.network, self.classes = model.network, model.classes
        noise = fixed_draws(2, math.prod(model.shape), seed).view(2, *model.shape)
        times = torch.arange(TIMES) / TIMES + 0.5 / TIMES
        if model.config.objective == "flow":
            data, chance, seen = times, 1 - times, times
        else:
            steps = (times * paths.STEPS).round().clamp(min=1).long()
            data, seen = model.levels[steps], steps / paths.STEPS
            chance = (1 - data**2).sqrt()
        self.is_flow = model.config.objective == "flow"
        # one entry for each pair of a time and a noise
        shares = (each.repeat_interleave(len(noise)).view(-1, 1, 1, 1) for each in (data, chance))
        self.data, self.chance = (nn.Parameter(each, requires_grad=False) for each in shares)
        self.time = nn.Parameter(seen.repeat_interleave(len(noise)), requires_grad=False)
        self.noise = nn.Parameter(noise.repeat(len(times), 1, 1, 1), requires_grad=False)

    def forward(self, data: Tensor) -> tuple[Tensor, Tensor]:
        x = (2 * data - 1)[:, None]  # (B, 1, C, H, W)
        noisy = (self.data * x + self.chance * self.noise).flatten(0, 1)
        time = (torch.zeros_like(noisy[:, 0, 0, 0]).view(-1, len(self.time)) + self.time).flatten()
        predicted = self.network(noisy, time, torch.zeros_like(noisy.flatten(1)[:, : max(1, self.classes)]))
        target = x - self.noise if self.is_flow else self.noise
        by_pixel = ((predicted.unflatten(0, (-1, len(self.time))) - target) ** 2).mean(1)
        return per_item(by_pixel) / math.prod(data.shape[1:]), by_pixel


def exports(model: Flow, config: Config, data: Data) -> Exports:
    """Return the tasks `sample`, `decode`, `encode` and `impute`, which are loops, and `score`."""
    shape, free = model.shape, not model.classes
    latent = InputSpec(role="latent", source="latent", shape=shape)
    items, mask = (
        InputSpec(role="data", source="data", shape=shape),
        InputSpec(role="mask", source="mask", shape=(1, *shape[1:])),
    )
    steps = InputSpec(
        role="steps", source="integer", dtype="int64", default=config.default_steps, choices=config.steps, shared=True
    )
    by_class = [] if free else [InputSpec(role="condition", source="condition", shape=(model.classes,))]
    made = [TensorSpec(role="data", name="made", shape=shape)]
    noise = [TensorSpec(role="latent", name="encoded", shape=shape)]
    forwards, back, graphs = model.loop(), model.loop(backwards=True), Graphs(model)

    def guided(default: float) -> list[InputSpec]:
        limits = {"minimum": 0.0, "maximum": 20.0}
        return [] if free else [InputSpec(role="guidance", source="number", default=default, **limits)]

    chance = []
    if config.sampler == "ancestral":
        chance = [InputSpec(role="draws", source="normal", shape=(max(config.steps), *shape))]
    sampler: nn.Module = (
        (MakeFreeByChance if free else MakeByChance)(forwards) if chance else (MakeFree if free else Make)(forwards)
    )
    scored = Score(model, config.seed)
    terms = [TensorSpec(role=ERROR), TensorSpec(role="surprise", shape=shape)]
    drawn = [latent, *by_class, *guided(config.guidance), steps]
    to_sample = graphs.of(forwards, draws=max(config.steps) if chance else 0)
    tasks = {
        "sample": Task(sampler, [*drawn, *chance], made, to_sample, ROWS),
        "score": Task(scored, [items], terms, graphs.score(scored), ROWS // 4, traced=True),
    }
    tasks["denoise"] = Task(
        Free(model.network) if free else model.network,
        [InputSpec(role="noisy", source="state", shape=shape), InputSpec(role="time", source="state"), *by_class],
        [TensorSpec(role="prediction", shape=shape)], graphs.denoiser, 4 * ROWS, traced=True,
    )  # fmt: skip
    if not chance:
        tasks["decode"] = Task(
            (MakeFree if free else Make)(forwards),
            [latent, *by_class, *guided(1.0), steps],
            made,
            graphs.of(forwards),
            ROWS,
        )
        tasks["encode"] = Task(
            (EncodeFree if free else Encode)(back),
            [items, *by_class, steps],
            noise,
            graphs.of(back, backwards=True),
            ROWS,
        )
        tasks["impute"] = Task(
            (CompleteFree if free else Complete)(forwards), [*drawn, items, mask], made,
            graphs.of(forwards, known=True), ROWS,
        )  # fmt: skip
    term = Term(
        name=ERROR, kind="distance",
        description=f"experimental: squared error of the prediction at {TIMES} times and 2 noises, which are fixed in the artifact, without a class",
    )  # fmt: skip
    return Exports(
        tasks,
        latent=LatentSpec(shape=shape, interpolation="slerp"),
        path=PathSpec(objective=config.objective, schedule=config.noise_schedule),
        scoring=Scoring(score=ERROR, terms=(term,), surprise="surprise"),
        classes=not free,
        optional_class=not free,
        description=_describe(model, config, data),
    )


class Free(nn.Module):
    """A network without classes, as a function of the images and times only."""

    def __init__(self, network: UNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        out: Tensor = self.network(x, time, nothing(x))
        return out


class Graphs:
    """The ONNX graphs of the loops of a model. Its network is exported once."""

    def __init__(self, model: Flow) -> None:
        self.model = model

    @cached_property
    def network(self) -> Any:
        """The graph of the network."""
        model = self.model
        inputs = {"x": torch.rand(3, *model.shape), "time": torch.rand(3)}
        if model.classes:
            inputs["condition"] = torch.rand(3, model.classes)
        module = model.network if model.classes else Free(model.network)
        return loops.export(module, inputs, ["prediction"], dict.fromkeys(inputs, 0))

    def denoiser(self) -> Any:
        """Return the graph of the network itself."""
        return solvers.denoiser(copy.deepcopy(self.network), self.model.shape, classes=self.model.classes)

    def score(self, module: Score) -> Callable[[], Any]:
        """Return a function that builds the graph of the score."""
        model = self.model
        data, chance, time, noise = (
            each.detach().numpy() for each in (module.data, module.chance, module.time, module.noise)
        )
        return lambda: solvers.score(
            copy.deepcopy(self.network), data, chance, time, noise, model.shape, classes=model.classes, is_flow=module.is_flow,
            outputs=(ERROR, "surprise"),
        )  # fmt: skip

    def of(self, loop: Loop, *, backwards: bool = False, draws: int = 0, known: bool = False) -> Callable[[], Any]:
        """Return a function that builds the graph of a loop."""
        model = self.model
        plan = solvers.Plan(
            model.shape, model.classes, backwards=backwards, guided=bool(model.classes) and not backwards, clips=loop.clips, draws=draws,
            known=known,
        )  # fmt: skip
        return lambda: solvers.solver(
            copy.deepcopy(self.network), loop.tables.numpy(), loop.counts.tolist(), model.config.steps, plan
        )


def _describe(model: Flow, config: Config, data: Data) -> str:
    kind = "Flow matching" if config.objective == "flow" else f"Diffusion (DDPM, {config.noise_schedule} schedule)"
    widths = "-".join(str(config.channels * multiple) for multiple in config.multiples)
    parts = [
        f"{kind} on {data.name}: U-Net of {widths} channels",
        f"{config.sampler} sampler with {', '.join(map(str, config.steps))} steps",
        *(["class-conditional with guidance"] if model.classes else []),
    ]
    return ", ".join(parts) + "."
