"""The Inception v3 of published FIDs. Its weights are exported as an artifact with the task `features`.

The network is that of TensorFlow's 2015-12-05 graph. pytorch-fid ported its weights, and torch-fidelity and torchmetrics use them too. It is
the network of Szegedy et al., 2015 (arXiv 1512.00567), with 1008 logits, average pools that do not count the padding, and a max-pool in the
last block. Images are resized before the graph by one of the evaluator's rules (pytorch-fid's is `torch-bilinear`). The logits do not include
the bias, as in published Inception Scores. Module names are those of the weights file.
"""

from __future__ import annotations

import hashlib
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manifold.runtime import golden, lineage, repository
from manifold.runtime import manifest as manifests
from manifold.runtime.engine import Model, load
from manifold.runtime.errors import ArtifactError, reason
from manifold.runtime.kinds.image import ImageSpec
from manifold.runtime.manifest import Golden, InputSpec, Manifest, TaskSpec, TensorSpec
from manifold.runtime.runner import example_inputs
from manifold.training.data.remote import download
from manifold.training.errors import DataError
from manifold.training.exporting import graphs
from manifold.training.exporting.tasks import Task

URL = "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth"
HASH_PREFIX = "6726825d"  # start of the file's SHA-256, as published in its name
LOGITS, FEATURES, SIZE = 1008, 2048, 299


class BasicConv2d(nn.Module):
    """A convolution without bias, followed by batch normalisation and ReLU."""

    def __init__(self, before: int, after: int, size: Any, **options: Any) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, after, size, bias=False, **options)
        self.bn = nn.BatchNorm2d(after, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


def average_pool(x: Tensor) -> Tensor:
    """Return the average over 3x3 neighbours in the same size. Padding is not counted."""
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


class InceptionA(nn.Module):
    def __init__(self, before: int, pooled: int) -> None:
        super().__init__()
        self.branch1x1 = BasicConv2d(before, 64, 1)
        self.branch5x5_1 = BasicConv2d(before, 48, 1)
        self.branch5x5_2 = BasicConv2d(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = BasicConv2d(before, 64, 1)
        self.branch3x3dbl_2 = BasicConv2d(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = BasicConv2d(96, 96, 3, padding=1)
        self.branch_pool = BasicConv2d(before, pooled, 1)

    def forward(self, x: Tensor) -> Tensor:
        five = self.branch5x5_2(self.branch5x5_1(x))
        three = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch1x1(x), five, three, self.branch_pool(average_pool(x))], 1)


class InceptionB(nn.Module):
    def __init__(self, before: int) -> None:
        super().__init__()
        self.branch3x3 = BasicConv2d(before, 384, 3, stride=2)
        self.branch3x3dbl_1 = BasicConv2d(before, 64, 1)
        self.branch3x3dbl_2 = BasicConv2d(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = BasicConv2d(96, 96, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, F.max_pool2d(x, 3, stride=2)], 1)


class InceptionC(nn.Module):
    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        row: dict[str, Any] = {"size": (1, 7), "padding": (0, 3)}
        column: dict[str, Any] = {"size": (7, 1), "padding": (3, 0)}
        self.branch1x1 = BasicConv2d(before, 192, 1)
        self.branch7x7_1 = BasicConv2d(before, width, 1)
        self.branch7x7_2 = BasicConv2d(width, width, **row)
        self.branch7x7_3 = BasicConv2d(width, 192, **column)
        self.branch7x7dbl_1 = BasicConv2d(before, width, 1)
        self.branch7x7dbl_2 = BasicConv2d(width, width, **column)
        self.branch7x7dbl_3 = BasicConv2d(width, width, **row)
        self.branch7x7dbl_4 = BasicConv2d(width, width, **column)
        self.branch7x7dbl_5 = BasicConv2d(width, 192, **row)
        self.branch_pool = BasicConv2d(before, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        single = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat([self.branch1x1(x), single, double, self.branch_pool(average_pool(x))], 1)


class InceptionD(nn.Module):
    def __init__(self, before: int) -> None:
        super().__init__()
        self.branch3x3_1 = BasicConv2d(before, 192, 1)
        self.branch3x3_2 = BasicConv2d(192, 320, 3, stride=2)
        self.branch7x7x3_1 = BasicConv2d(before, 192, 1)
        self.branch7x7x3_2 = BasicConv2d(192, 192, (1, 7), padding=(0, 3))
        self.branch7x7x3_3 = BasicConv2d(192, 192, (7, 1), padding=(3, 0))
        self.branch7x7x3_4 = BasicConv2d(192, 192, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        seven = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x))))
        return torch.cat([self.branch3x3_2(self.branch3x3_1(x)), seven, F.max_pool2d(x, 3, stride=2)], 1)


class InceptionE(nn.Module):
    """A block of the last stage. With `maximum` its pool branch takes the maximum, a mistake in TensorFlow's last block."""

    def __init__(self, before: int, *, maximum: bool) -> None:
        super().__init__()
        self.maximum = maximum
        self.branch1x1 = BasicConv2d(before, 320, 1)
        self.branch3x3_1 = BasicConv2d(before, 384, 1)
        self.branch3x3_2a = BasicConv2d(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3_2b = BasicConv2d(384, 384, (3, 1), padding=(1, 0))
        self.branch3x3dbl_1 = BasicConv2d(before, 448, 1)
        self.branch3x3dbl_2 = BasicConv2d(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = BasicConv2d(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3dbl_3b = BasicConv2d(384, 384, (3, 1), padding=(1, 0))
        self.branch_pool = BasicConv2d(before, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        three = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        pooled = F.max_pool2d(x, 3, stride=1, padding=1) if self.maximum else average_pool(x)
        return torch.cat(
            [
                self.branch1x1(x),
                self.branch3x3_2a(three),
                self.branch3x3_2b(three),
                self.branch3x3dbl_3a(double),
                self.branch3x3dbl_3b(double),
                self.branch_pool(pooled),
            ],
            1,
        )


class Inception(nn.Module):
    """The network: images (B, 3, 299, 299) in [-1, 1] to logits (B, 1008) without bias, and features (B, 2048)."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = BasicConv2d(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = BasicConv2d(32, 32, 3)
        self.Conv2d_2b_3x3 = BasicConv2d(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = BasicConv2d(64, 80, 1)
        self.Conv2d_4a_3x3 = BasicConv2d(80, 192, 3)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = InceptionA(192, 32), InceptionA(256, 64), InceptionA(288, 64)
        self.Mixed_6a = InceptionB(288)
        self.Mixed_6b, self.Mixed_6c = InceptionC(768, 128), InceptionC(768, 160)
        self.Mixed_6d, self.Mixed_6e = InceptionC(768, 160), InceptionC(768, 192)
        self.Mixed_7a = InceptionD(768)
        self.Mixed_7b, self.Mixed_7c = InceptionE(1280, maximum=False), InceptionE(2048, maximum=True)
        self.fc = nn.Linear(FEATURES, LOGITS)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.max_pool2d(self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x))), 3, stride=2)
        x = F.max_pool2d(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)), 3, stride=2)
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x)))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))
        features = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x))).mean(dim=(2, 3))
        return features @ self.fc.weight.T, features


def weights_file(path: Path | None) -> Path:
    """Return the published weights: the file `path`, by default a download. Raises DataError if the SHA-256 does not start as published."""
    if path is None:
        name = Path(URL).name
        path = download(
            "inception", URL, None, Path("inception"), f"download {URL} elsewhere and give it by --weights {name}"
        )
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(
            f"{path}: it cannot be read: {error.strerror}; give the file of weights with --weights"
        ) from None
    if not digest.startswith(HASH_PREFIX):
        raise DataError(
            f"{path}: its SHA-256 starts with {digest[:8]}, but that of the published weights with {HASH_PREFIX}; download {URL} again"
        )
    return path


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the state dict of a .pth file, without running code from it."""
    try:
        state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, zipfile.BadZipFile, EOFError) as error:
        raise DataError(f"{path}: it is not a state dict of tensors: {reason(error)}; download {URL} again") from None
    return state


def build(state: Mapping[str, Tensor]) -> Inception:
    """Return the network with these weights. Raises DataError that lists missing tensors and wrong shapes."""
    network = Inception()
    try:
        network.load_state_dict(dict(state))
    except RuntimeError as error:
        raise DataError(
            f"weights: they do not fit the Inception v3 of published FIDs: {reason(error)}; use {URL}"
        ) from None
    return network.eval()


def publish(network: Inception, root: Path, name: str, weights_sha256: str) -> Path:
    """Publish the network as the artifact `ROOT/NAME/<next version>`, after a comparison of its graph with torch."""
    spec = ImageSpec(height=SIZE, width=SIZE, channels=3, range=(-1.0, 1.0))
    items = InputSpec(role="data", source="data", shape=spec.shape)
    outputs = (TensorSpec(role="logits", shape=(LOGITS,)), TensorSpec(role="features", shape=(FEATURES,)))
    with repository.staging(root, name) as folder:
        task = TaskSpec(graph="features.onnx", inputs=(items,), outputs=outputs, max_rows=16)
        manifest = Manifest(
            name=name, version=repository.next_version(root, name), family="inception", data=spec, tasks={"features": task},
            description="Inception v3 (2015-12-05) for FID, KID and the Inception Score; resize with torch-bilinear as pytorch-fid does",
            golden=Golden(), provenance={"weights": URL, "weights_sha256": weights_sha256, "torch": torch.__version__},
        )  # fmt: skip
        lineage.check_manifest(root, manifest)
        inputs = example_inputs(task, manifest, 2)
        module = Task(network, [items], outputs)
        graphs.save_onnx({"features": graphs.task_to_onnx(module, [torch.from_numpy(inputs["data"])])}, folder)
        with torch.no_grad():
            logits, features = network(torch.from_numpy(inputs["data"]))
        np.savez_compressed(
            folder / Golden().file,
            **{
                "features.in.data": inputs["data"],
                "features.out.logits": logits.numpy(),
                "features.out.features": features.numpy(),
            },
        )
        engine = Model(folder, manifest, "cpu", 1)
        if problems := golden.replay(engine.run, folder, manifest, "cpu"):
            raise ArtifactError(
                "\n".join([f"{name}: the outputs of the graph differ from torch's; nothing was published:", *problems])
            )
        manifest = manifest.model_copy(update={"files": repository.records(folder)})
        (folder / manifests.FILE).write_text(manifests.dumps(manifest))
        load(folder, device="cpu")
        return repository.publish_next(folder, root, manifest)
