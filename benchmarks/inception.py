"""A check that our Inception v3 equals pytorch-fid's: both load the same random state dict, and their features are compared, in torch and in ONNX.

Install pytorch-fid and the torchvision that it imports, without their dependencies, into a folder of their own:

    pip install --no-deps --target PEERS pytorch-fid==0.3.0 torchvision==0.28.0
    python benchmarks/inception.py PEERS
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from manifold.evaluation.extractors import Extractor
from manifold.runtime import engine
from manifold.training import inception

IMAGES, SIZE = 6, 32
TOLERANCE = 1e-4


def peers_network(folder: Path) -> Any:
    """Return pytorch-fid's network with fresh weights, without torchvision's compiled operators."""
    sys.path.insert(0, str(folder))
    library = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):  # torchvision registers fake kernels for these operators when it is imported
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    from pytorch_fid import inception as peer  # type: ignore[import-not-found]

    peer.load_state_dict_from_url = lambda *_, **__: None
    from torchvision.models import inception_v3  # type: ignore[import-not-found]

    network = inception_v3(num_classes=1008, aux_logits=False, weights=None, init_weights=False)
    network.Mixed_5b, network.Mixed_5c, network.Mixed_5d = (
        peer.FIDInceptionA(192, pool_features=32),
        peer.FIDInceptionA(256, pool_features=64),
        peer.FIDInceptionA(288, pool_features=64),
    )
    network.Mixed_6b, network.Mixed_6c = (peer.FIDInceptionC(768, channels_7x7=width) for width in (128, 160))
    network.Mixed_6d, network.Mixed_6e = (peer.FIDInceptionC(768, channels_7x7=width) for width in (160, 192))
    network.Mixed_7b, network.Mixed_7c = peer.FIDInceptionE_1(1280), peer.FIDInceptionE_2(2048)
    return peer, network


def random_state(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return weights that keep activations near one through all layers, with nontrivial batch-norm statistics."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, value in network.state_dict().items():
        if not value.is_floating_point():
            state[name] = value
        elif value.ndim > 1:
            state[name] = torch.randn(value.shape, generator=generator) * (2 / value[0].numel()) ** 0.5
        elif name.endswith(("running_var", "bn.weight")):
            state[name] = torch.rand(value.shape, generator=generator) + 0.5
        else:
            state[name] = torch.randn(value.shape, generator=generator) * 0.1
    return state


def main() -> None:
    """Print the largest differences. Fail if one is above the tolerance."""
    peer, network = peers_network(Path(sys.argv[1]))
    state = random_state(network)
    network.load_state_dict(state)
    peer.fid_inception_v3 = lambda: network
    theirs = peer.InceptionV3([3], resize_input=True, normalize_input=True).eval()
    ours = inception.build(state)
    images = np.random.default_rng(0).integers(0, 256, (IMAGES, 3, SIZE, SIZE), dtype=np.uint8)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(images / 255).float())[0][:, :, 0, 0].numpy()
    with tempfile.TemporaryDirectory() as folder:
        path = inception.publish(ours, Path(folder), "inception-random", "0" * 64)
        began = time.perf_counter()
        extractor = Extractor(engine.load(path), "torch-bilinear")
        loaded = time.perf_counter() - began
        edge = extractor.edge(images)
        with torch.no_grad():
            logits, through_torch = (output.numpy() for output in ours(torch.from_numpy(edge)))
        through_onnx, _ = extractor(images)
        resized = torch.nn.functional.interpolate(
            torch.from_numpy(images / 255).float(), (299, 299), mode="bilinear", align_corners=False
        )
        print(
            f"artifact: {sum(file.stat().st_size for file in path.iterdir()) / 2**20:.0f} MiB, loaded in {loaded:.1f} s"
        )
    unbiased = expected @ state["fc.weight"].numpy().T
    figures = {
        "resize to 299, ours against torch's": np.abs(edge - (2 * resized - 1).numpy()).max(),
        "features, torch against pytorch-fid": np.abs(through_torch - expected).max(),
        "features, ONNX against pytorch-fid": np.abs(through_onnx - expected).max(),
        "logits without bias, torch against pytorch-fid's features @ fc": np.abs(logits - unbiased).max(),
    }
    print(f"{expected.shape[1]} features: mean {expected.mean():.3f}, largest {expected.max():.3f}")
    for name, value in figures.items():
        print(f"{name}: {value:.2g}")
    if max(figures.values()) > TOLERANCE:
        sys.exit(f"a difference is above the tolerance {TOLERANCE:g}")


if __name__ == "__main__":
    main()
