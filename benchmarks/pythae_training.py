"""The training of pythae that benchmarks/training_speed.py starts with the Python of an environment with pythae: its trainer on networks like ours.

    python benchmarks/pythae_training.py FAMILY DATA.npy BATCH EPOCHS

The output is one JSON line: samples/s of each epoch, measured by pythae's callbacks, and the parameters of the networks. The script needs only
torch, numpy and pythae.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from typing import Any

import numpy as np
import torch
from pythae.models import VAE, VQVAE, VAEConfig, VQVAEConfig  # type: ignore[import-not-found]
from pythae.models.base.base_utils import ModelOutput  # type: ignore[import-not-found]
from pythae.models.nn import BaseDecoder, BaseEncoder  # type: ignore[import-not-found]
from pythae.trainers import BaseTrainer, BaseTrainerConfig  # type: ignore[import-not-found]
from pythae.trainers.training_callbacks import TrainingCallback  # type: ignore[import-not-found]
from torch import Tensor, nn

LATENT, HIDDEN = 20, (392, 196)
WIDTHS, CODE, LEVELS, RESIDUAL = (32, 64), 32, 128, 2


class Encoder(BaseEncoder):  # type: ignore[misc]
    """The encoder 784-392-196-2x20."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Flatten(), nn.Linear(784, HIDDEN[0]), nn.ReLU(), nn.Linear(*HIDDEN), nn.ReLU(), nn.Linear(HIDDEN[1], 2 * LATENT)
        )  # fmt: skip

    def forward(self, x: Tensor) -> Any:
        out = self.net(x)
        return ModelOutput(embedding=out[:, :LATENT], log_covariance=out[:, LATENT:])


class Decoder(BaseDecoder):  # type: ignore[misc]
    """The decoder 20-196-392-784."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(LATENT, HIDDEN[1]), nn.ReLU(), nn.Linear(*reversed(HIDDEN)), nn.ReLU(), nn.Linear(HIDDEN[0], 784), nn.Sigmoid()
        )  # fmt: skip

    def forward(self, z: Tensor) -> Any:
        return ModelOutput(reconstruction=self.net(z).view(-1, 1, 28, 28))


class Residual(nn.Module):
    """The residual block x + f(x)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.ReLU(), nn.Conv2d(width, width // 2, 3, padding=1), nn.ReLU(), nn.Conv2d(width // 2, width, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.body(x)
        return out


class CodeEncoder(BaseEncoder):  # type: ignore[misc]
    """The encoder from 28x28 to 7x7 vectors."""

    def __init__(self) -> None:
        super().__init__()
        first, second = WIDTHS
        self.net = nn.Sequential(
            nn.Conv2d(1, first, 4, stride=2, padding=1), nn.ReLU(), nn.Conv2d(first, second, 4, stride=2, padding=1),
            *(Residual(second) for _ in range(RESIDUAL)), nn.ReLU(), nn.Conv2d(second, CODE, 1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Any:
        return ModelOutput(embedding=self.net(x))


class CodeDecoder(BaseDecoder):  # type: ignore[misc]
    """The decoder from 7x7 vectors to 28x28."""

    def __init__(self) -> None:
        super().__init__()
        first, second = WIDTHS
        self.net = nn.Sequential(
            nn.Conv2d(CODE, second, 3, padding=1), *(Residual(second) for _ in range(RESIDUAL)), nn.ReLU(),
            nn.ConvTranspose2d(second, first, 4, stride=2, padding=1), nn.ReLU(), nn.ConvTranspose2d(first, 1, 4, stride=2, padding=1),
        )  # fmt: skip

    def forward(self, z: Tensor) -> Any:
        return ModelOutput(reconstruction=self.net(z))


class Clock(TrainingCallback):  # type: ignore[misc]
    """The seconds of every epoch."""

    def __init__(self) -> None:
        self.began, self.seconds = 0.0, list[float]()

    def on_epoch_begin(self, training_config: Any, **kwargs: Any) -> None:
        self.began = time.perf_counter()

    def on_epoch_end(self, training_config: Any, **kwargs: Any) -> None:
        self.seconds.append(time.perf_counter() - self.began)


def main(family: str, path: str, batch: int, epochs: int) -> None:
    """Train, and print samples/s."""
    shape = (1, 28, 28)
    model: nn.Module
    if family == "vae":
        settings = VAEConfig(input_dim=shape, latent_dim=LATENT, reconstruction_loss="bce")
        model = VAE(settings, encoder=Encoder(), decoder=Decoder())
    else:
        codes = VQVAEConfig(input_dim=shape, latent_dim=CODE, num_embeddings=LEVELS, use_ema=True, decay=0.99)
        model = VQVAE(codes, encoder=CodeEncoder(), decoder=CodeDecoder())
    from pythae.data.datasets import BaseDataset  # type: ignore[import-not-found]

    items = torch.from_numpy(np.load(path))
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        config = BaseTrainerConfig(
            output_dir=folder, num_epochs=epochs, per_device_train_batch_size=batch, learning_rate=1e-3, no_cuda=True
        )
        trainer = BaseTrainer(
            model=model, train_dataset=BaseDataset(items, torch.zeros(len(items))), training_config=config, callbacks=[clock]
        )  # fmt: skip
        trainer.train()
    nets = (model.encoder, model.decoder)
    parameters = sum(p.numel() for net in nets for p in net.parameters())
    print(json.dumps({"rates": [len(items) / s for s in clock.seconds], "parameters": parameters}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
