"""A VQ-VAE with a learned prior (van den Oord, Vinyals and Kavukcuoglu, 2017, arXiv 1711.00937).

The recipe: an encoder that divides height and width by four, a codebook (networks.quantiser), the reverse of the encoder as the decoder, and
one of the likelihoods. Then all of this is frozen and a gated PixelCNN over the grid of codes is trained, class-conditional if the data has
classes.

log p(x) ≥ log p(x | z_q(x)) + log p(codes(x)), as this is one term of the sum p(x) = Σ p(x | codes) p(codes). It is a true bound, both with the
uniform prior (-log K per code) and with the learned one.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from manifold.runtime.kinds.image import ImageSpec
from manifold.runtime.manifest import (
    CodesSpec,
    InputSpec,
    LatentSpec,
    Likelihood,
    Metric,
    Scoring,
    TensorSpec,
    Term,
    figures,
)
from manifold.training import likelihoods
from manifold.training.batches import Batch, in_order
from manifold.training.data import Data, Part
from manifold.training.data.parts import scattered
from manifold.training.errors import TrainingError
from manifold.training.exporting.tasks import Exports, Task
from manifold.training.likelihoods import FITTED, Histogram
from manifold.training.likelihoods.predicting import predicting
from manifold.training.means import Means, bits_per_dim
from manifold.training.networks.emissions import Levels
from manifold.training.networks.gated import GatedNetwork
from manifold.training.networks.layers import exact, per_item
from manifold.training.networks.quantiser import Quantiser, usage
from manifold.training.networks.sampler import Sampler, condition_inputs, nothing, sampling
from manifold.training.phases import Losses, Phase, Player
from manifold.training.recipes import Recipe, Share, Size

ITEMS = ("images",)

SHRINK = 4  # factor by which two strided convolutions reduce height and width
# the term for anomaly scores: for Fashion-MNIST against MNIST, the AUROC of the codes is 0.96 and that of the reconstruction 0.05 (see
# benchmarks/anomaly.py)
AUTO = "prior"


class Config(Recipe):
    """The options of the family."""

    widths: tuple[Size, ...] = Field((32, 64), min_length=2, max_length=2)  # channels of the two strided convolutions
    residual: int = Field(2, ge=0)  # number of residual blocks in the encoder and in the decoder
    levels: int = Field(128, ge=2)  # K: number of entries of the codebook
    code_dim: int = Field(32, ge=1)  # number of dimensions of an entry
    normalise: bool = True  # batch normalisation before the codebook (Łańcucki et al., 2020, arXiv 2005.08520)
    moving: bool = True  # True: the codebook follows moving averages; False: the gradient of the codebook loss
    decay: Share = 0.99  # decay of these averages
    restart: float = Field(1.0, ge=0)  # entries with a lower moving average of vectors per step are moved; 0 is off
    commitment: float = Field(0.25, ge=0)  # beta of the paper
    # a name of training.likelihoods; auto: bernoulli for grey images, logistic-mixture for colour images
    likelihood: Literal[
        "auto", "bernoulli", "gaussian", "laplace", "logistic", "logistic-by-mean", "logistic-learned", "logistic-mixture", "histogram"
    ] = "auto"  # fmt: skip
    components: int = Field(5, ge=1)  # number of components of the logistic-mixture
    noise: float = Field(0.1, gt=0)  # sigma of the Gaussian, b of the Laplace, or initial scale of the logistics
    prior_channels: int = Field(32, ge=1)  # this and the following five are options of the PixelCNN
    prior_layers: int = Field(6, ge=1)
    prior_head: int = Field(64, ge=1)
    prior_dropout: Share = 0.1
    prior_epochs: int = Field(10, ge=1)
    prior_lr: float = Field(1e-3, gt=0)
    conditional: bool = True  # whether the prior is conditioned on the class, if the data has classes


PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {
        "epochs": 3, "widths": (8, 16), "residual": 1, "levels": 16, "code_dim": 8, "prior_channels": 8, "prior_layers": 1, "prior_head": 16,
        "prior_epochs": 3, "test_items": 200, "ema": 0.9, "lr": 3e-3, "prior_lr": 1e-2,
    },
    "cpu": {"epochs": 15, "prior_epochs": 8},
    "gpu": {"epochs": 100, "schedule": "cosine", "levels": 256, "widths": (64, 128), "prior_channels": 64, "prior_layers": 10, "prior_epochs": 60},
}  # fmt: skip


def resolve(config: Config, data: Data) -> Config:
    """Return the config with a likelihood, and unconditional if the data has no classes. Raises InvalidValue for data without images."""
    grey = ImageSpec.of(data.spec, f"data: {data.name}").channels == 1
    likelihood = config.likelihood if config.likelihood != "auto" else "bernoulli" if grey else "logistic-mixture"
    return config.changed(likelihood=likelihood, conditional=config.conditional and data.classes is not None)


class Residual(nn.Module):
    """A residual block x + f(x), where f is a 3x3 and a 1x1 convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.ReLU(), nn.Conv2d(width, width // 2, 3, padding=1), nn.ReLU(), nn.Conv2d(width // 2, width, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.body(x)
        return out


class VQVAE(nn.Module):
    """The model. Images are (B, C, H, W) in [0, 1], vectors (B, d, h, w), codes int64 (B, h, w)."""

    prior_learned: Tensor

    def __init__(self, config: Config, data: Data) -> None:
        super().__init__()
        spec, name = ImageSpec.of(data.spec, f"data: {data.name}"), config.likelihood
        if spec.height % SHRINK or spec.width % SHRINK:
            raise TrainingError(
                f"data: images of {data.name} are {spec.width}x{spec.height}, but vqvae needs multiples of {SHRINK}; use other data or another size",
                field="data",
            )
        self.config, self.shape, self.grid = config, spec.shape, (spec.height // SHRINK, spec.width // SHRINK)
        self.observed, self.discrete = likelihoods.OBSERVED[name], name in likelihoods.DISCRETE
        self.form = likelihoods.form_of(name, spec, by_chance=False)
        self.likelihood = likelihoods.build(
            name, spec, noise=config.noise, floor=1e-3, components=config.components, train=data.train
        )
        first, second = config.widths
        self.encoder = nn.Sequential(
            nn.Conv2d(spec.channels, first, 4, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(first, second, 4, stride=2, padding=1), *(Residual(second) for _ in range(config.residual)),
            nn.ReLU(), nn.Conv2d(second, config.code_dim, 1),
            *([nn.BatchNorm2d(config.code_dim, affine=False)] if config.normalise else []),
        )  # fmt: skip
        self.quantiser = Quantiser(
            config.levels, config.code_dim, moving=config.moving, decay=config.decay, restart=config.restart
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(config.code_dim, second, 3, padding=1), *(Residual(second) for _ in range(config.residual)), nn.ReLU(),
            nn.ConvTranspose2d(second, first, 4, stride=2, padding=1), nn.ReLU(),
            nn.ConvTranspose2d(first, self.likelihood.width // (spec.height * spec.width), 4, stride=2, padding=1),
        )  # fmt: skip
        likelihoods.start_at_mean(self.decoder[-1], self.likelihood, data.train)
        self.classes = len(data.classes or ()) if config.conditional else 0
        self.prior = GatedNetwork(
            Levels(config.levels, 1, config.prior_channels, config.prior_head), self.grid, self.classes,
            channels=config.prior_channels, layers=config.prior_layers, dropout=config.prior_dropout,
        )  # fmt: skip
        self.register_buffer("prior_learned", torch.tensor(False))

    def vectors(self, x: Tensor) -> Tensor:
        """Map items (B, C, H, W) to vectors before quantisation, (B, d, h, w)."""
        z: Tensor = self.encoder(x)
        return z

    def codes_of(self, z: Tensor) -> Tensor:
        """Map vectors (B, d, h, w) to codes (B, h, w)."""
        return self.quantiser.nearest(_rows(z)).view(-1, *self.grid)

    def parameters_of(self, z: Tensor) -> Tensor:
        """Map vectors (B, d, h, w) to the parameters of p(x | z), (B, D)."""
        return exact(self.decoder(z)).flatten(1)

    def decode_codes(self, codes: Tensor) -> Tensor:
        """Map codes (B, h, w) to the parameters of p(x | codes), (B, D)."""
        return self.parameters_of(self.quantiser.embed(codes).permute(0, 3, 1, 2))

    def see(self, batch: Batch) -> Tensor:
        """Return the items of a batch in the form used for training, (B, C, H, W)."""
        return self.likelihood.observe(batch.items.flatten(1), batch.generator).view(-1, *self.shape)

    def code_nats(self, codes: Tensor, condition: Tensor) -> Tensor:
        """Return -log p(codes), (B,), with the uniform prior until the learned prior is trained."""
        learned = per_item(self.prior.nll(codes, condition))
        return torch.where(self.prior_learned, learned, torch.full_like(learned, self.uniform_nats))

    @property
    def uniform_nats(self) -> float:
        """Return -log p(codes) of an item under the uniform prior."""
        return self.grid[0] * self.grid[1] * math.log(self.config.levels)

    def autoencoder_loss(self, batch: Batch) -> Losses:
        """Return the loss, the reconstruction NLL in nats, the codebook loss and the commitment, averaged over the batch."""
        x = self.see(batch)
        z = self.vectors(x)
        passed, _, codebook, commitment = self.quantiser.learn(_rows(z), batch.generator)
        quantised = passed.view(len(x), *self.grid, -1).permute(0, 3, 1, 2)
        reconstruction = per_item(self.likelihood.nll(self.parameters_of(quantised), x.flatten(1))).mean()
        codebook, commitment = (part.view(len(x), -1).sum(1).mean() for part in (codebook, commitment))
        loss = reconstruction + codebook + self.config.commitment * commitment
        return {"loss": loss, "reconstruction": reconstruction, "codebook": codebook, "commitment": commitment}

    def prior_loss(self, batch: Batch) -> Losses:
        """Return -log p(codes) in nats. The autoencoder is frozen and computes the same codes as in the artifact."""
        self.encoder.eval()  # normalises with fixed statistics as in the artifact, not by the batch
        with torch.no_grad(), torch.autocast(batch.items.device.type, enabled=False):
            codes = self.codes_of(self.vectors(self.see(batch)))
            self.prior_learned.fill_(True)
        return {"loss": per_item(self.prior.nll(codes, self.prior.to_condition(batch.labels))).mean()}


def _rows(z: Tensor) -> Tensor:
    """Map (B, d, h, w) to (B h w, d)."""
    return z.permute(0, 2, 3, 1).reshape(-1, z.shape[1])


def build(config: Config, data: Data) -> VQVAE:
    """Return a model with initial weights."""
    return VQVAE(config, data)


def phases(model: Any, config: Config) -> list[Phase]:
    """Return two phases: the autoencoder, then the prior over its codes."""
    parts = (*model.encoder.parameters(), *model.decoder.parameters(), *model.likelihood.parameters())
    if not config.moving:
        parts = (*parts, *model.quantiser.parameters())
    return [
        Phase("autoencoder", (Player("autoencoder", parts, model.autoencoder_loss, config.lr),), config.epochs),
        Phase(
            "prior",
            (Player("prior", tuple(model.prior.parameters()), model.prior_loss, config.prior_lr),),
            config.prior_epochs,
        ),
    ]


@torch.no_grad()
def finish(model: VQVAE, config: Config, data: Data) -> None:
    """Fit the histograms, if the likelihood has them, to the training items at their codes."""
    if isinstance(model.likelihood, Histogram):
        generator = torch.Generator(next(model.parameters()).device).manual_seed(config.seed)
        seen = (model.see(batch) for batch in in_order(scattered(data.train, FITTED), 500, generator))
        model.likelihood.fit((model.decode_codes(model.codes_of(model.vectors(x))), x.flatten(1)) for x in seen)


def evaluate(model: VQVAE, batch: Batch) -> dict[str, Tensor]:
    """Return the bound and its parts -log p(x | z_q) and -log p(codes), in nats, (B,)."""
    x = model.see(batch)
    codes = model.codes_of(model.vectors(x))
    reconstruction = per_item(model.likelihood.nll(model.decode_codes(codes), x.flatten(1)))
    prior = model.code_nats(codes, model.prior.to_condition(batch.labels))
    return {"loss": reconstruction + prior, "reconstruction": reconstruction, "prior": prior}


def monitor(model: VQVAE, batch: Batch) -> dict[str, Any]:
    """Return the usage and perplexity of the codebook over the test items."""
    used, perplexity = usage(model.codes_of(model.vectors(model.see(batch))), model.config.levels)
    return {"code_usage": round(used, 4), "code_perplexity": round(perplexity, 2)}


@torch.no_grad()
def draw(model: VQVAE, n: int, generator: torch.Generator) -> Tensor:
    """Return means of p(x | codes) for codes from the prior (uniform until it is trained), with the classes in turn."""
    device = next(model.parameters()).device
    uniforms = torch.rand((n, model.grid[0] * model.grid[1]), generator=generator, device=device)
    if not model.prior_learned:
        codes = (uniforms.view(n, *model.grid) * model.config.levels).long()
        return model.likelihood.mean(model.decode_codes(codes)).view(n, *model.shape)
    condition = model.prior.to_condition(torch.arange(n, device=device) % max(1, model.classes))
    training = model.training
    items: Tensor = Sampler(model.prior.eval(), DecodeRows(model))(uniforms, condition, torch.ones(n, device=device))[1]
    model.train(training)
    return items


# --- figures ------------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def report(model: VQVAE, config: Config, data: Data) -> list[Metric]:
    """Return the bound with the uniform and the learned prior, its parts, and the codebook's usage over the training split."""
    generator = torch.Generator(next(model.parameters()).device).manual_seed(config.seed)
    form = likelihoods.form_of(config.likelihood, data.spec, by_chance=True)
    elbo = figures.name_of("elbo", form)
    protocol = {
        **data.protocol, "likelihood": config.likelihood, "observed": likelihoods.SEEN[form], "n": len(data.test), "seed": config.seed
    }  # fmt: skip
    means = Means()
    for batch in in_order(data.test, 500, generator):
        x, labels = model.see(batch), batch.labels
        codes = model.codes_of(model.vectors(x))
        reconstruction = per_item(model.likelihood.nll(model.decode_codes(codes), x.flatten(1)))
        means.add({"reconstruction": reconstruction, f"{elbo}_uniform_prior": -reconstruction - model.uniform_nats})
        if model.classes:
            each = [
                per_item(model.prior.nll(codes, model.prior.to_condition(torch.full_like(labels, y))))
                for y in range(model.classes)
            ]
            by_class = -torch.stack(each, 1)
            means.add({
                f"{elbo}_given_class": by_class.gather(1, labels[:, None])[:, 0] - reconstruction,
                elbo: by_class.logsumexp(1) - math.log(model.classes) - reconstruction,
            })  # fmt: skip
        else:
            means.add({elbo: -reconstruction - per_item(model.prior.nll(codes, model.prior.to_condition(labels)))})
    used, perplexity = usage(training_codes(model, data.train), config.levels)
    bound = {"bound": "lower bound on log p(x): log p(x | z_q) + log p(codes)"}
    protocols = {
        "reconstruction": {**protocol, "bound": "-log p(x | z_q)"},
        **{
            name: {**protocol, **bound}
            for name in (f"{elbo}_uniform_prior", f"{elbo}_given_class", elbo)
            if name in means
        },
    }
    metrics = list(means.metrics(protocols))
    if model.discrete:
        metrics.append(
            bits_per_dim(means, elbo, math.prod(model.shape), {**protocol, "bound": "upper bound: from the ELBO"})
        )
    over = {"part": "train", "n": len(data.train), "levels": config.levels}
    return [
        *metrics,
        Metric(name="code_usage", value=round(used, 4), unit="fraction", protocol={**data.protocol, **over}),
        Metric(
            name="code_perplexity",
            value=round(perplexity, 2),
            unit=f"of {config.levels}",
            protocol={**data.protocol, **over},
        ),
    ]


def training_codes(model: VQVAE, part: Part) -> Tensor:
    """Return the codes of a whole split, computed as in the graphs, (N, h, w)."""
    device = next(model.parameters()).device
    codes = []
    for batch in in_order(part, 500, torch.Generator(device)):
        x = model.likelihood.settle(batch.items.flatten(1)).view(-1, *model.shape)
        codes.append(model.codes_of(model.vectors(x)).cpu())
    return torch.cat(codes)


# --- exports ------------------------------------------------------------------------------------------------------------------


class DecodeRows(nn.Module):
    """The last step of the sampler: levels (h, B, w, 1) of its loops to codes (B, h, w) and means of p(x | codes)."""

    def __init__(self, model: VQVAE) -> None:
        super().__init__()
        self.decode = DecodeCodes(model)

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        codes = rows[..., 0].permute(1, 0, 2).contiguous()
        return codes, self.decode(codes)


class DecodeCodes(nn.Module):
    """The task `decode_codes`: codes (B, h, w) to the mean of p(x | codes), (B, C, H, W)."""

    def __init__(self, model: VQVAE) -> None:
        super().__init__()
        self.codebook, self.decoder, self.likelihood = model.quantiser.codebook, model.decoder, model.likelihood
        self.channels, self.height, self.width = model.shape

    def forward(self, codes: Tensor) -> Tensor:
        parameters = self.decoder(self.codebook[codes].permute(0, 3, 1, 2)).flatten(1)
        mean: Tensor = self.likelihood.mean(parameters)
        return mean.view(-1, self.channels, self.height, self.width)


class Decode(nn.Module):
    """The task `decode`: latent (B, d h w), which are vectors before quantisation, to the mean of p(x | z_q), (B, C, H, W)."""

    def __init__(self, model: VQVAE) -> None:
        super().__init__()
        self.model, self.decode = model, DecodeCodes(model)

    def forward(self, latent: Tensor) -> Tensor:
        z = latent.view(-1, self.model.config.code_dim, *self.model.grid)
        out: Tensor = self.decode(self.model.codes_of(z))
        return out


class Encode(nn.Module):
    """The task `encode`: data (B, C, H, W) to codes (B, h, w) and the vectors before quantisation, latent (B, d h w)."""

    def __init__(self, model: VQVAE) -> None:
        super().__init__()
        self.model = model

    def forward(self, data: Tensor) -> tuple[Tensor, Tensor]:
        z = self.model.vectors(self.model.likelihood.settle(data.flatten(1)).view(-1, *self.model.shape))
        return self.model.codes_of(z), z.flatten(1)


class Score(nn.Module):
    """The task `score`: data and condition to -log p(x | z_q), -log p(codes), their sum, and nats by pixel."""

    def __init__(self, model: VQVAE) -> None:
        super().__init__()
        self.model = model

    def forward(self, data: Tensor, condition: Tensor | None = None) -> tuple[Tensor, ...]:
        model = self.model
        x = model.likelihood.settle(data.flatten(1))
        codes = model.codes_of(model.vectors(x.view(-1, *model.shape)))
        surprise = model.likelihood.nll(model.decode_codes(codes), x)
        reconstruction, prior = per_item(surprise), _code_nats(model, codes, condition)
        return reconstruction, prior, reconstruction + prior, surprise.view(-1, *model.shape)


class ScoreCodes(nn.Module):
    """The task `score_codes`: codes (B, h, w) and condition to -log p(codes) (B,) and the logits of one parallel pass (B, K, h, w)."""

    def __init__(self, model: VQVAE) -> None:
        super().__init__()
        self.model = model

    def forward(self, codes: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        logits = self.model.prior(codes, nothing(codes) if condition is None else condition)
        return _code_nats(self.model, codes, condition), logits


def _code_nats(model: VQVAE, codes: Tensor, condition: Tensor | None) -> Tensor:
    """Return -log p(codes), (B,), under the learned prior. It uses gather, as the exported cross-entropy is less precise."""
    log_p: Tensor = model.prior(codes, nothing(codes) if condition is None else condition).log_softmax(1)
    return -per_item(log_p.gather(1, codes[:, None]))


def exports(model: VQVAE, config: Config, data: Data) -> Exports:
    """Return the tasks `sample` (prior and decoder in one graph), `encode`, `decode`, `decode_codes`, `score` and `score_codes`."""
    items, image = InputSpec(role="data", source="data", shape=model.shape), TensorSpec(role="data", shape=model.shape)
    given = InputSpec(role="codes", source="codes", dtype="int64", shape=model.grid)
    size = config.code_dim * model.grid[0] * model.grid[1]
    latent, codes = (
        InputSpec(role="latent", source="latent", shape=(size,)),
        TensorSpec(role="codes", dtype="int64", shape=model.grid),
    )
    likelihood = Likelihood(bound="elbo", observed=model.observed, form=model.form, discrete=model.discrete)
    terms = (
        Term(name="reconstruction", kind="nll", description="-log p(x | z_q) in nats"),
        Term(name="prior", kind="nll", description="-log p(codes) in nats"),
        Term(
            name="nll", kind="nll", description="their sum: an upper bound on -log p(x), in nats", likelihood=likelihood
        ),
    )
    scores = [*(TensorSpec(role=term.name) for term in terms), TensorSpec(role="surprise", shape=model.shape)]
    logits = TensorSpec(role="logits", shape=(config.levels, *model.grid))
    return Exports(
        {
            "sample": sampling(model.prior, Sampler(model.prior, DecodeRows(model)), [codes, image], max_rows=256),
            "encode": Task(Encode(model), [items], [codes, TensorSpec(role="latent", shape=(size,))]),
            "decode": Task(Decode(model), [latent], [image]),
            "decode_codes": Task(DecodeCodes(model), [given], [image]),
            "score": Task(Score(model), [items, *condition_inputs(model.prior)], scores, max_rows=128),
            "score_codes": Task(
                ScoreCodes(model),
                [given, *condition_inputs(model.prior)],
                [TensorSpec(role="nll"), logits],
                max_rows=256,
            ),
            **predicting(model, "decode_codes", model.shape, [given]),
        },
        latent=LatentSpec(size=size, priors={}, interpolation="lerp"),
        codes=CodesSpec(shape=model.grid, levels=config.levels),
        scoring=Scoring(score=AUTO, terms=terms, surprise="surprise"),
        classes=bool(model.classes),
        sampler="logits",
        description=f"VQ-VAE on {data.name}: {config.levels} codes on a {model.grid[0]}x{model.grid[1]} grid, gated PixelCNN prior.",
    )
