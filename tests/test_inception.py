"""The Inception network of published FIDs: its details, and how its weights are read. benchmarks/inception.py compares it with pytorch-fid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from manifold.evaluation.extractors import Extractor
from manifold.runtime import engine
from manifold.training import inception
from manifold.training.errors import DataError
from manifold.training.inception import InceptionE, average_pool


@pytest.fixture(scope="module")
def network() -> inception.Inception:
    torch.manual_seed(0)
    return inception.Inception().eval()


def test_average_pools_do_not_count_the_padding() -> None:
    assert torch.equal(average_pool(torch.ones(1, 1, 5, 5)), torch.ones(1, 1, 5, 5))


def test_the_last_block_pools_by_maximum() -> None:
    mean, most = (InceptionE(8, maximum=maximum).eval() for maximum in (False, True))
    most.load_state_dict(mean.state_dict())
    x = torch.rand(1, 8, 8, 8)
    with torch.no_grad():
        assert not torch.equal(mean(x)[:, -192:], most(x)[:, -192:])
        assert torch.equal(mean(x)[:, :-192], most(x)[:, :-192])


def test_shapes_and_parameters_of_the_published_network(network: inception.Inception) -> None:
    with torch.no_grad():
        logits, features = network(torch.zeros(1, 3, 299, 299))
    assert (logits.shape, features.shape) == ((1, 1008), (1, 2048))
    assert torch.allclose(logits, features @ network.fc.weight.T)  # without the bias
    assert sum(value.numel() for value in network.parameters()) == 23_850_960  # the same number as in pytorch-fid
    assert all(m.eps == 0.001 for m in network.modules() if isinstance(m, nn.BatchNorm2d))


def test_weights_are_checked(tmp_path: Path, network: inception.Inception) -> None:
    path = tmp_path / "weights.pth"
    with pytest.raises(DataError, match="No such file"):
        inception.weights_file(path)
    torch.save(network.state_dict(), path)
    with pytest.raises(DataError, match="that of the published weights with 6726825d"):
        inception.weights_file(path)
    assert inception.read_weights(path).keys() == network.state_dict().keys()
    path.write_bytes(b"nonsense")
    with pytest.raises(DataError, match="not a state dict"):
        inception.read_weights(path)
    with pytest.raises(DataError, match=r"fc\.weight"):
        inception.build({name: value for name, value in network.state_dict().items() if name != "fc.weight"})


def test_code_in_a_weights_file_is_not_run(tmp_path: Path) -> None:
    import os

    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"fc.weight": Evil()}, tmp_path / "weights.pth")
    with pytest.raises(DataError, match="not a state dict"):
        inception.read_weights(tmp_path / "weights.pth")
    assert not (tmp_path / "ran").exists()


def test_the_artifact_is_an_extractor(tmp_path: Path, network: inception.Inception) -> None:
    folder = inception.publish(network, tmp_path, "inception-random", "0" * 64)
    graph = onnx.load(folder / "features.onnx", load_external_data=False)
    pools = [node for node in graph.graph.node if node.op_type == "AveragePool"]
    counted = {attribute.i for node in pools for attribute in node.attribute if attribute.name == "count_include_pad"}
    assert len(pools) == 8
    assert counted <= {0}
    extractor = Extractor(engine.load(folder, device="cpu"), "torch-bilinear")
    assert extractor.distance_name == "fd_classifier"  # a distance with random weights is no FID
    images = np.random.default_rng(0).integers(0, 256, (2, 1, 16, 16), dtype=np.uint8)
    features, probabilities = extractor(images)
    assert features.shape == (2, 2048)
    assert probabilities is not None
    assert np.allclose(probabilities.sum(axis=1), 1)
    with torch.no_grad():
        unit = torch.from_numpy(images.repeat(3, 1) / 255).float()
        x = 2 * nn.functional.interpolate(unit, (299, 299), mode="bilinear", align_corners=False) - 1
        expected = network(x)[1].numpy()
    assert np.abs(features - expected).max() < 1e-4

    provenance = {"weights_sha256": inception.HASH_PREFIX + "0" * 56}
    extractor.model.runner.manifest = extractor.model.manifest.model_copy(update={"provenance": provenance})
    assert extractor.distance_name == "fid"
