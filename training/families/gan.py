"""A generative adversarial network (Goodfellow et al., 2014, arXiv 1406.2661): a generator and a discriminator that are trained in turn.

The recipe: multilayer perceptrons, or convolutions by the rules of DCGAN (Radford et al., 2015; networks.dcgan); the minimax,
non-saturating or hinge loss, one-sided label smoothing, spectral normalisation, differentiable augmentation and unrolled steps
(networks.adversarial). The export contains the moving average of the generator (Yazıcı et al., 2018, arXiv 1806.04498).
"""

from __future__ import annotations

import math
import os
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.func import functional_call

from manifold.runtime import repository
from manifold.runtime.engine import Model, load
from manifold.runtime.errors import ArtifactError, UnknownModel, shown
from manifold.runtime.manifest import InputSpec, LatentSpec, Metric, Scoring, TensorSpec, Term
from manifold.training.batches import Batch, in_order, to_float
from manifold.training.data import Data
from manifold.training.errors import TrainingError
from manifold.training.exporting.tasks import Exports, Task
from manifold.training.loop import watching
from manifold.training.loop.watching import Watch
from manifold.training.networks import adversarial, dcgan
from manifold.training.networks.layers import mlp, round_weights
from manifold.training.phases import Losses, Phase, Player
from manifold.training.recipes import Recipe, Share, Size, WithoutBlanks

LOGIT = "negative_logit"


class Config(Recipe):
    """The options of the family."""

    lr: float = Field(2e-4, gt=0)  # learning rate of both players
    clip_norm: float = Field(0.0, ge=0)
    latent_dim: int = Field(64, ge=1)
    body: Literal["mlp", "dcgan"] = "mlp"  # dcgan: convolutions
    hidden: tuple[Size, ...] = Field((256, 512), min_length=1)  # the generator's layers; the discriminator mirrors them
    widths: tuple[Size, ...] = Field((128, 64), min_length=1)  # the generator's channels, if it has convolutions
    rules: Annotated[tuple[dcgan.Rule, ...], WithoutBlanks] = dcgan.RULES  # the rules of DCGAN to apply
    loss: adversarial.Loss = "non-saturating"
    # range of the targets of real items; (0.7, 0.9) is one-sided label smoothing
    targets: tuple[float, ...] = Field((1.0, 1.0), min_length=2, max_length=2)
    dropout: Share = 0.3  # only in the MLP discriminator
    spectral: bool = False  # whether spectral normalisation replaces the discriminator's batch normalisation
    augment: Annotated[tuple[adversarial.Policy, ...], WithoutBlanks] = ()  # differentiable augmentation
    beta1: Share = 0.5  # first moment's decay of the optimizer adam
    discriminator_lr: float = Field(0.0, ge=0)  # 0: equal to lr (Heusel et al., 2017, use a larger one)
    unrolled: int = Field(0, ge=0)  # number of unrolled steps of the discriminator in the generator's loss
    watch_steps: int = Field(200, ge=0)  # steps between inspections of generated items and gradients; 0: no inspections
    watch_after: int = Field(2000, ge=0)  # first step with alarms about generated items
    # the classifier that counts the classes of generated items: the name or folder of an artifact, or none, or auto. auto looks for a
    # classifier of the data among the models each time training starts. The log states which one was used
    judge: str = "auto"
    rollbacks: int = Field(0, ge=0)  # largest number of times that an alarm rolls training back to the last good state

    @model_validator(mode="after")
    def _check(self) -> Self:
        low, high = self.targets
        if not 0 < low <= high <= 1:
            raise TrainingError(
                f"targets: {list(self.targets)} must be two numbers in (0, 1], the smaller one first", field="targets"
            )
        if self.ema_second:
            raise TrainingError(
                "ema_second: the better average is chosen by the loss on the selection split, which is the discriminator's here and says nothing "
                "about generated items; remove the option",
                field="ema_second",
            )
        if self.loss == "hinge" and self.targets != (1.0, 1.0):
            raise TrainingError(
                "targets: the hinge loss does not use them; remove them, or choose another loss", field="targets"
            )
        self.refuse_without_adam("beta1", "unrolled")
        if self.body == "mlp" and self.augment:
            raise TrainingError("augment: it is only for convolutions; remove it, or use body 'dcgan'", field="augment")
        return self


PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {"epochs": 2, "hidden": (32, 64), "widths": (16, 8), "latent_dim": 16, "test_items": 100, "ema": 0.9},
    "cpu": {"epochs": 40},
    "gpu": {"epochs": 100, "body": "dcgan", "widths": (256, 128), "spectral": True, "augment": ("translation",)},
}


def resolve(config: Config, data: Data) -> Config:
    """Return the config with the discriminator's learning rate. `judge` is unchanged, as the result of `auto` depends on the machine."""
    return config.changed(discriminator_lr=config.discriminator_lr or config.lr)


class Generator(nn.Module):
    """The generator: latents (B, L), and class weights (B, C) if there are classes, to items (B, *shape) in the form of model inputs."""

    def __init__(self, config: Config, data: Data, classes: int) -> None:
        super().__init__()
        self.config, self.shape, self.classes = config, data.spec.shape, classes
        self.bounded = data.spec.limits is not None
        if config.body == "dcgan":
            channels, height, width = dcgan.check(self.shape, config.widths)
            self.small = (config.widths[0], height, width)
            self.project = nn.Linear(config.latent_dim + classes, math.prod(self.small))
            self.up = dcgan.Up(config.widths, channels, config.rules, classes)
        else:
            sizes = [config.latent_dim + classes, *config.hidden, math.prod(self.shape)]
            self.layers = mlp(sizes)

    def forward(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        joined = z if c is None else torch.cat([z, c], 1)
        if self.config.body == "dcgan":
            x: Tensor = self.up(self.project(joined).unflatten(1, self.small), c)
        else:
            x = self.layers(joined).unflatten(1, self.shape)
        x = x.to(torch.promote_types(x.dtype, torch.float32))  # half precision (in training) is coarser than 256 levels
        if not self.bounded:
            return x
        return torch.sigmoid(x if self._plain else 2 * x)  # sigmoid(2 x) = (tanh(x) + 1) / 2

    @property
    def _plain(self) -> bool:
        return "activations" not in self.config.rules and self.config.body == "dcgan"


class Discriminator(nn.Module):
    """The discriminator: model inputs (B, *shape), and class weights (B, C) if there are classes, to logits (B,), above zero for "real".

    The class is used by projection (Miyato and Koyama, 2018, arXiv 1802.05637, eq. 3): logit = head(h) + <embedding(y), h>.
    """

    def __init__(self, config: Config, data: Data, classes: int) -> None:
        super().__init__()
        self.config, self.classes = config, classes
        self.bounded = data.spec.limits is not None
        shape = data.spec.shape
        if config.body == "dcgan":
            channels, height, width = dcgan.check(shape, config.widths)
            widths = tuple(reversed(config.widths))
            self.body: nn.Module = nn.Sequential(
                dcgan.down(channels, widths, config.rules, config.spectral), nn.Flatten()
            )
            features = widths[-1] * height * width
        else:
            layers: list[nn.Module] = [nn.Flatten()]
            for before, after in pairwise([math.prod(shape), *reversed(config.hidden)]):
                layers += [
                    self._normed(nn.Linear(before, after)),
                    nn.LeakyReLU(dcgan.SLOPE),
                    nn.Dropout(config.dropout),
                ]
            self.body, features = nn.Sequential(*layers), config.hidden[0]
        self.head = self._normed(nn.Linear(features, 1))
        self.embedding = self._class_embedding(nn.Linear(classes, features, bias=False)) if classes else None

    def _class_embedding(self, layer: nn.Linear) -> nn.Module:
        """Initialise the embedding with small weights, as random weights and many features would give large random logits."""
        nn.init.normal_(layer.weight, 0.0, 0.1 / layer.out_features**0.5)
        return self._normed(layer)

    def _normed(self, layer: nn.Linear) -> nn.Module:
        return dcgan.spectral_norm(layer) if self.config.spectral else layer

    def features(self, x: Tensor) -> Tensor:
        """Return the features h (B, F)."""
        h: Tensor = self.body(2 * x - 1 if self.bounded else x)
        return h

    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        h = self.features(x)
        logit: Tensor = self.head(h)[:, 0]
        if self.embedding is not None:
            assert c is not None
            logit = logit + (self.embedding(c) * h).sum(1)
        return logit.to(torch.promote_types(logit.dtype, torch.float32))


class GAN(nn.Module):
    """The adversarial pair: the generator and the discriminator."""

    def __init__(self, config: Config, data: Data, classes: int = 0) -> None:
        super().__init__()
        if data.spec.parts is not None and any(block.stop - block.start > 1 for block in data.spec.blocks()):
            raise TrainingError(
                "data: rows with categories cannot be generated by this family; use the family `tabular_vae`",
                field="data",
            )
        self.config, self.shape, self.classes = config, data.spec.shape, classes
        self.data = data
        self.generator, self.discriminator = Generator(config, data, classes), Discriminator(config, data, classes)

    def condition(self, labels: Tensor) -> Tensor | None:
        """Map labels (B,) to class weights (B, C); None if the model has no classes."""
        return nn.functional.one_hot(labels, self.classes).float() if self.classes else None

    def latents(self, n: int, generator: torch.Generator) -> Tensor:
        """Return n draws from N(0, I)."""
        return torch.randn((n, self.config.latent_dim), generator=generator, device=generator.device)

    def made(self, batch: Batch, c: Tensor | None) -> Tensor:
        """Generate as many items as the batch has."""
        made: Tensor = self.generator(self.latents(len(batch.items), batch.generator), c)
        return made

    def augmented(self, x: Tensor, batch: Batch) -> Tensor:
        """Return the items with the augmentation for the discriminator."""
        if not self.config.augment:
            return x
        return (adversarial.augment(2 * x - 1, self.config.augment, batch.generator) + 1) / 2

    def discriminator_loss(self, batch: Batch) -> Losses:
        """Return the discriminator's loss, and its mean logits for real and generated items."""
        c = self.condition(batch.labels)
        with torch.no_grad():
            fakes = self.made(batch, c)
        real = self.discriminator(self.augmented(batch.items, batch), c)
        fake = self.discriminator(self.augmented(fakes, batch), c)
        targets = adversarial.targets(self.config.targets, len(real), batch.generator)
        loss = adversarial.discriminator_loss(self.config.loss, real, fake, targets)
        return {"loss": loss, "real_logit": real.mean(), "fake_logit": fake.mean()}

    def generator_loss(self, batch: Batch) -> Losses:
        """Return the generator's loss against the current discriminator, or against the one after the unrolled steps."""
        c = self.condition(batch.labels)
        if self.config.unrolled:
            weights = self._ahead(batch, c)
            fake = functional_call(self.discriminator, weights, (self.augmented(self.made(batch, c), batch), c))
        else:
            with adversarial.frozen(self.discriminator):
                fake = self.discriminator(self.augmented(self.made(batch, c), batch), c)
        return {"loss": adversarial.generator_loss(self.config.loss, fake)}

    def _ahead(self, batch: Batch, c: Tensor | None) -> dict[str, Tensor]:
        """Return the discriminator's weights after the unrolled steps on this batch. Gradients pass through them.

        Autocast is off, because Adam divides by the size of a gradient, so that rounding errors of small gradients would become large steps.
        """
        targets = adversarial.targets(self.config.targets, len(batch.items), batch.generator)

        def loss(weights: dict[str, Tensor]) -> Tensor:
            fakes = self.augmented(self.made(batch, c), batch)
            real = functional_call(self.discriminator, weights, (self.augmented(batch.items, batch), c))
            fake = functional_call(self.discriminator, weights, (fakes, c))
            return adversarial.discriminator_loss(self.config.loss, real, fake, targets)

        weights = dict(self.discriminator.named_parameters())
        lr = self.config.discriminator_lr
        with torch.autocast(batch.items.device.type, enabled=False):
            return adversarial.unrolled(weights, loss, self.config.unrolled, lr, (self.config.beta1, 0.999))


def build(config: Config, data: Data) -> GAN:
    """Return a model with initial weights."""
    return GAN(config, data)


def phases(model: Any, config: Config) -> list[Phase]:
    """Return one phase, in which the discriminator is trained first in each step, with a watch."""
    betas = (config.beta1, 0.999)
    discriminator = Player(
        "discriminator", tuple(model.discriminator.parameters()), model.discriminator_loss, config.discriminator_lr, betas
    )  # fmt: skip
    generator = Player("generator", tuple(model.generator.parameters()), model.generator_loss, config.lr, betas)
    return [
        Phase("gan", (discriminator, generator), config.epochs, _watch(model, config) if config.watch_steps else None)
    ]


def _watch(model: Any, config: Config) -> Watch:
    """Return a watch that compares generated items with the same number of real items, and counts their classes if there is a classifier."""
    data: Data = model.data
    device = next(model.parameters()).device
    rows = np.random.Generator(np.random.Philox(config.seed)).permutation(len(data.train))[: watching.ITEMS]
    real = to_float(data.train.batch(rows).items, device)
    judge = _judge(config.judge, data)
    shares = np.bincount(data.train.labels, minlength=len(data.classes or ())) / len(data.train) if judge else None
    return Watch(
        watching.watched(lambda generator, n: draw(model, n, generator), config.seed, device), real,
        every=config.watch_steps, after=config.watch_after, rollbacks=config.rollbacks,
        classify=watching.classifier(judge) if judge else None, shares=shares, names=data.classes or (),
        judge=f"{judge.manifest.name}/{judge.manifest.version}" if judge else None,
    )  # fmt: skip


def _judge(name: str, data: Data) -> Model | None:
    """Return the classifier that counts classes, or None if there is none.

    Raises TrainingError if a named classifier is missing or does not fit the data. If `auto` finds one that cannot be used, there is
    a warning, and training runs without it.
    """
    root = Path(os.environ.get("MANIFOLD_MODELS_DIR", "models"))
    if name == "none" or data.classes is None:
        return None
    if name != "auto":
        return _loaded(name, root, data)
    if not root.is_dir():
        return None
    try:
        found, _ = repository.trained_on(data.name, root, "features")
        return _loaded(found[0], root, data) if found else None
    except (ArtifactError, TrainingError) as error:
        warnings.warn(f"{error.message}; the classes of generated items are not counted", stacklevel=2)
        return None


def _loaded(name: str, root: Path, data: Data) -> Model:
    """Return a classifier by its name or folder. Raises TrainingError if it is missing or does not fit the data."""
    try:
        judge = load(repository.find(name, root), device="cpu")
    except (ArtifactError, UnknownModel) as error:
        raise TrainingError(f"judge: {shown(name)} cannot be loaded: {error.message}", field="judge") from None
    if (
        judge.manifest.classes != data.classes
        or judge.manifest.spec.shape != data.spec.shape
        or "features" not in judge.manifest.tasks
    ):
        raise TrainingError(
            f"judge: {shown(name)} is not a classifier for {data.name}; choose another, or judge=none", field="judge"
        )
    return judge


def evaluate(model: GAN, batch: Batch) -> dict[str, Tensor]:
    """Return the logits (B,) of test items and of as many generated ones, and the discriminator's cross-entropy in nats."""
    c = model.condition(batch.labels)
    real, fake = model.discriminator(batch.items, c), model.discriminator(model.made(batch, c), c)
    loss = nn.functional.softplus(-real) + nn.functional.softplus(fake)
    return {"loss": loss, "real_logit": real, "fake_logit": fake}


@torch.no_grad()
def draw(model: GAN, n: int, generator: torch.Generator) -> Tensor:
    """Return n generated items (n, *shape), with the classes in turn."""
    training = model.training
    labels = torch.arange(n, device=generator.device) % max(1, model.classes)
    items: Tensor = model.eval().generator(model.latents(n, generator), model.condition(labels))
    model.train(training)
    return items


@torch.no_grad()
def report(model: GAN, config: Config, data: Data) -> list[Metric]:
    """Return the share of test items and generated items that the discriminator classifies correctly. 1/2 is chance."""
    device = next(model.parameters()).device
    generator = torch.Generator(device).manual_seed(config.seed)
    right = 0.0
    for batch in in_order(data.test, 500, generator):
        logits = evaluate(model, batch)
        right += float(((logits["real_logit"] > 0).double() + (logits["fake_logit"] <= 0).double()).sum()) / 2
    protocol = {
        **data.protocol,
        "n": 2 * len(data.test),
        "seed": config.seed,
        "weights": "moving average of both players",
    }
    share = round(right / len(data.test), 4)
    return [Metric(name="discriminator_accuracy", value=share, unit="fraction", protocol=protocol)]


# --- exports ------------------------------------------------------------------------------------------------------------------


class Score(nn.Module):
    """The task `score`: data (B, *shape) to the discriminator's negated logit (B,), of the best fitting class if there are classes."""

    def __init__(self, discriminator: Discriminator) -> None:
        super().__init__()
        self.discriminator = discriminator

    def forward(self, data: Tensor) -> Tensor:
        discriminator = self.discriminator
        h = discriminator.features(data)
        logit: Tensor = discriminator.head(h)[:, 0]
        if discriminator.embedding is not None:
            classes = torch.eye(discriminator.classes, device=h.device, dtype=h.dtype)
            logit = logit + (h @ discriminator.embedding(classes).T).amax(1)
        return -logit


def exports(model: GAN, config: Config, data: Data) -> Exports:
    """Return the tasks `sample` and `decode`, which are the generator, and `score`, which is the discriminator."""
    # rounded again, as the division changed the weights
    round_weights(dcgan.without_spectral_norm(model.discriminator), config.stored)
    latent = InputSpec(role="latent", source="latent", shape=(config.latent_dim,))
    given = [InputSpec(role="condition", source="condition", shape=(model.classes,))] if model.classes else []
    items = TensorSpec(role="data", shape=data.spec.shape)
    makes = Task(model.generator, [latent, *given], [items])
    judges = Task(
        Score(model.discriminator),
        [InputSpec(role="data", source="data", shape=data.spec.shape)],
        [TensorSpec(role=LOGIT)],
    )
    fits = ", of the best fitting class" if model.classes else ""
    term = Term(
        name=LOGIT,
        kind="distance",
        description=f"experimental: the discriminator's logit, negated{fits}. It was trained against one generator, not against anomalies",
    )
    return Exports(
        {"sample": makes, "decode": makes, "score": judges},
        latent=LatentSpec(size=config.latent_dim),
        scoring=Scoring(score=LOGIT, terms=(term,)),
        classes=bool(model.classes),
        description=_describe(config, data, bool(model.classes)),
    )


def _describe(config: Config, data: Data, conditional: bool) -> str:
    kind = "Conditional generative" if conditional else "Generative"
    sizes = "-".join(map(str, config.widths if config.body == "dcgan" else config.hidden))
    body = f"DCGAN of {sizes} channels" if config.body == "dcgan" else f"MLP of {sizes}"
    parts = [f"{config.loss} loss"]
    parts += [f"targets {config.targets[0]:g} to {config.targets[1]:g}"] if config.targets != (1.0, 1.0) else []
    parts += ["spectral normalisation"] if config.spectral else []
    parts += [f"augmentation by {', '.join(config.augment)}"] if config.augment else []
    parts += [f"{config.unrolled} unrolled steps"] if config.unrolled else []
    return f"{kind} adversarial network on {data.name}: {body}, latent size {config.latent_dim}, {', '.join(parts)}."
