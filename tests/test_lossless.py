"""Lossless compression: pixels come back exactly, files are as small as the model says, and damage or other arithmetic is always found.

Most tests use torch modules in place of graphs, so that nothing is trained or exported.
"""

from __future__ import annotations

import dataclasses
import math
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from manifold import cli
from manifold.runtime import compression, golden, imaging
from manifold.runtime.compression import lossless, schemes, stack
from manifold.runtime.compression.lossless import HEADER, PREFIX
from manifold.runtime.compression.stack import Stack
from manifold.runtime.engine import Model, load
from manifold.runtime.errors import InvalidValue, Malformed, UnsupportedTask
from manifold.runtime.kinds.image import ImageSpec
from manifold.runtime.manifest import Conditions, Golden, InputSpec, Manifest
from manifold.runtime.runner import example_inputs
from manifold.training import families
from manifold.training.data import Arrays, Data
from manifold.training.exporting import checked, graphs
from manifold.training.exporting.draft import _tasks
from manifold.training.exporting.tasks import Exports, Task

Array = np.ndarray[Any, Any]
WEIGHTS_CRC = 71367811
SEEDS = [3127901087, 320521192, 857767273]
SMALL: dict[str, dict[str, object]] = {
    "vae": {"hidden": (32,), "latent_dim": 3},
    "cvae": {"hidden": (32,), "latent_dim": 3, "class_k": 4},
    "vqvae": {"widths": (8, 8), "residual": 1, "levels": 8, "code_dim": 4, "prior_channels": 8, "prior_layers": 1, "prior_head": 8},
    "pixelcnn": {"channels": 8, "layers": 2, "head": 16},
}  # fmt: skip


def pictures(channels: int, levels: int, side: int = 8, n: int = 48) -> Data:
    """Return images of blobs in three classes, with these levels."""
    generator = np.random.Generator(np.random.Philox(0))
    labels = generator.integers(0, 3, n)
    rows, columns = np.mgrid[:side, :side]
    centres = generator.uniform(1, side - 2, (n, 2, channels, 1, 1)) + labels[:, None, None, None, None] / 3
    squares = (rows - centres[:, 0]) ** 2 + (columns - centres[:, 1]) ** 2
    blobs = np.rint(np.exp(-squares / side) * (levels - 1))
    items = lossless.to_pixels(blobs.astype(np.int64), levels)
    part = Arrays(items, labels)
    return Data(
        "blobs", ImageSpec(height=side, width=side, channels=channels, levels=levels), part, part, part, ("a", "b", "c")
    )


class Torched:
    """A model whose tasks are torch modules. It has what compression uses of runtime.engine.Model."""

    def __init__(self, exported: Exports, data: Data, checksum: str = "ab" * 32) -> None:
        self.exported, self.checksum = exported, checksum
        self.manifest = Manifest(
            name="torched", version=1, data=exported.spec or data.spec, classes=data.classes if exported.classes else None,
            latent=exported.latent, codes=exported.codes, tasks=_tasks(exported, "onnx"), scoring=exported.scoring,
            classification=exported.classification, golden=Golden(sampler=exported.sampler),
        )  # fmt: skip

    def run(self, task: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        return self.exported.tasks[task](inputs)


def torched(family: str, data: Data, **options: object) -> Model:
    """Return a model with random weights, which are large enough to make its distributions differ from equal ones.

    Mixtures keep their initial weights. Larger ones give some values less than 2^-24, the smallest probability of the coder.
    """
    module = families.get(family)
    config = module.resolve(module.Config.model_validate({**SMALL[family], **options}), data)
    torch.manual_seed(0)
    network = module.build(config, data).eval()
    with torch.no_grad():
        for weight in network.parameters():
            if weight.dim() > 1 and config.likelihood != "logistic-mixture":
                weight.mul_(2)
    return cast(Model, Torched(module.exports(network, config, data), data))


def images_of(data: Data, n: int | None = None) -> Array:
    return np.asarray(data.test.items)[:n]  # type: ignore[attr-defined]


KINDS: dict[str, tuple[str, int, int, dict[str, object]]] = {  # family, channels, levels, options
    "pixelcnn": ("pixelcnn", 1, 4, {}),
    "pixelcnn without classes": ("pixelcnn", 1, 2, {"conditional": False}),
    "pixelcnn in colour": ("pixelcnn", 3, 5, {}),
    "binary vae": ("vae", 1, 2, {"likelihood": "bernoulli"}),
    "vae in colour": ("vae", 3, 256, {"likelihood": "logistic"}),
    "cvae": ("cvae", 1, 2, {"likelihood": "bernoulli"}),
    "vqvae": ("vqvae", 1, 16, {"likelihood": "histogram"}),
    "mixture of a vae": ("vae", 3, 17, {"likelihood": "logistic-mixture"}),
    "mixture of a pixelcnn": ("pixelcnn", 3, 17, {"likelihood": "logistic-mixture"}),
}


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> tuple[Model, Data]:
    family, channels, levels, options = KINDS[request.param]
    data = pictures(channels, levels)
    return torched(family, data, **options), data


@pytest.fixture(scope="module")
def binary() -> tuple[Model, Data]:
    data = pictures(1, 2)
    return torched("vae", data, likelihood="bernoulli"), data


# --- the stack ---


def test_integer_weights_are_pinned() -> None:
    """Files depend on these numbers, so they are the same on every machine in version 1 of the format."""
    assert (stack.WEIGHTS[0], stack.WEIGHTS[16], stack.WEIGHTS[-1]) == (2**32, round(2**32 / math.e), 1)
    assert zlib.crc32(stack.WEIGHTS.astype("<i8").tobytes()) == WEIGHTS_CRC
    assert stack.seeds(3).tolist() == SEEDS


def test_rounding_costs_less_than_it_says() -> None:
    generator = np.random.Generator(np.random.Philox(1))
    for count in (2, 16, 256):
        logits = generator.normal(0, 3, (4000, count))
        p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        q = stack.probabilities(stack.distances(logits))
        assert np.allclose(q.sum(-1), 1)
        assert float((p * np.log2(p / q)).sum(-1).mean()) < 0.0003


def test_a_stack_returns_what_was_pushed_and_takes_as_many_bits_as_the_probabilities_say() -> None:
    generator = np.random.Generator(np.random.Philox(2))
    given = stack.distances(generator.normal(0, 3, (7, 5, 300)).transpose(2, 0, 1))  # not contiguous
    levels = generator.integers(0, 5, (300, 7))
    mean, deviation = generator.normal(0, 200, (9, 4)), generator.uniform(1, 300, (9, 4))
    start = stack.seeds(60)
    pile = Stack(start)
    bins = pile.pop_normal(mean, deviation)
    popped = pile.bits
    pile.push(levels, given)
    assert pile.bits - popped == pytest.approx(stack.bits(given, levels).sum(), rel=1e-3)
    pile.mix(10, 1)
    mixed = pile.words
    pile.mix(10, 1)
    assert not np.array_equal(mixed, pile.words)
    assert np.array_equal(pile.pop(given), levels)
    pile.push_normal(bins, mean, deviation)
    assert np.array_equal(pile.words, start)


def test_a_popped_latent_follows_its_posterior() -> None:
    mean, deviation = stack.posterior(np.full((1, 20_000), 0.5, np.float32), np.full((1, 20_000), -3.0, np.float32))
    drawn = Stack(stack.seeds(20_000)).pop_normal(mean, deviation) / stack.BINS
    assert drawn.mean() == pytest.approx(0.5, abs=0.01)
    assert drawn.std() == pytest.approx(math.exp(-1.5), rel=0.02)


# --- steps ---


@pytest.mark.parametrize(("channels", "levels"), [(1, 4), (3, 5)])
def test_steps_equal_the_parallel_pass(channels: int, levels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    data = pictures(channels, levels, side=6, n=5)
    model = torched("pixelcnn", data)
    score = cast(Any, model).exported.tasks["score"].module.model
    monkeypatch.setattr(schemes, "distances", lambda logits: logits)
    writer, steps = schemes.Writer(), schemes.Steps(model)
    items = lossless.to_levels(images_of(data), levels)
    steps._walk(items, np.arange(5) % 3, writer)
    stepped = np.stack([logits for _, logits in writer.notes], 1).reshape(5, 6, 6, channels, levels)
    condition = torch.eye(3)[torch.arange(5) % 3]
    with torch.no_grad():
        expected = score.parameters_of(torch.from_numpy(items if channels > 1 else items[:, 0]), condition)
    assert np.abs(stepped - expected.numpy()).max() < 1e-4
    assert np.abs(expected.numpy()).max() > 0.3


def test_values_that_are_no_levels_are_valid_inputs_and_steps_are_not_served() -> None:
    model = torched("pixelcnn", pictures(3, 5))
    assert set(model.manifest.tasks) - set(model.manifest.served) == {"predict_row", "predict_pixel", "predict_part"}
    for name in ("predict_row", "predict_pixel", "predict_part"):
        inputs = {
            tensor.role: np.full((2, *tensor.shape), 1e6 * sign, np.float32)
            for sign, tensor in enumerate(model.manifest.tasks[name].inputs, -1)
        }
        assert all(np.isfinite(array).all() for array in model.run(name, inputs).values())


# --- whole files ---


def test_pixels_come_back_exactly(kind: tuple[Model, Data]) -> None:
    model, data = kind
    for n in (1, 2, 48):
        written = lossless.compress(model, images_of(data, n))
        assert np.array_equal(lossless.decompress(model, written.content), images_of(data, n))
        assert len(written.content) == written.header + written.bits // 8
        assert compression.is_lossless(written.content)
        assert compression.made_by(written.content) == "ab" * 8


def test_files_are_as_small_as_the_model_says(kind: tuple[Model, Data]) -> None:
    """The bits of an exact model are -log2 p(x, y) for the best class y. Those of a VAE are one draw of -ELBO, here 48 draws."""
    model, data = kind
    pixels, scheme = images_of(data), schemes.of(model)
    inputs = scheme.data(lossless.to_levels(pixels, scheme.levels))
    nats = []
    for label in range(3 if scheme.has_classes else 1):
        score = model.manifest.tasks["score"]
        terms = model.run("score", {"data": inputs, **scheme.condition(score, np.full(len(pixels), label))})
        nats.append(terms["nll" if "nll" in terms else "negative_elbo"].astype(np.float64))
    expected = (np.min(nats, 0) + math.log(len(nats))).sum() / math.log(2)
    written = lossless.compress(model, pixels)
    exact = scheme.popped == 0
    assert written.net_bits == pytest.approx(expected, rel=0.005 if exact else 0.02)
    assert -1 <= written.borrowed_bits <= 64 + 1.5 * scheme.popped


def test_a_likelihood_may_read_the_earlier_colours() -> None:
    """Each colour is a copy of the one before, except red. Without that, green and blue would take as many bits as red."""

    class Copies(nn.Module):
        def forward(self, latent: Tensor, data: Tensor) -> Tensor:
            before = torch.cat([torch.full_like(data[:, :1], 0.5), data[:, :-1]], 1)
            logits = 20 * (before - 0.5)
            return torch.stack([-logits, logits], 1)

    grey, three = pictures(1, 2), pictures(3, 2)
    model = cast(Any, torched("vae", three, likelihood="bernoulli"))
    old = model.exported.tasks["predict"]
    data = InputSpec(role="data", source="data", shape=(3, 8, 8))
    tasks = {**model.exported.tasks, "predict": Task(Copies(), [*old.inputs, data], old.outputs)}
    reading = cast(Model, Torched(dataclasses.replace(model.exported, tasks=tasks), three))
    pixels = np.repeat(images_of(grey), 3, 1)
    written = lossless.compress(reading, pixels)
    assert np.array_equal(lossless.decompress(reading, written.content), pixels)
    everything = written.net_bits - 48 * 64  # a bit for each red value; the rest is the latent's share
    assert everything < 0.2 * 48 * 64


@pytest.mark.parametrize("family", ["pixelcnn", "vqvae"])
def test_a_single_class_needs_no_bits(family: str) -> None:
    data = pictures(1, 4)
    part = Arrays(data.train.batch(np.arange(48)).items, np.zeros(48, np.int64))
    single = dataclasses.replace(data, train=part, calibration=part, test=part, classes=("a",))
    options = {"likelihood": "histogram"} if family == "vqvae" else {}
    model = torched(family, single, **options)
    assert schemes.of(model).has_classes
    written = lossless.compress(model, images_of(single))
    assert np.array_equal(lossless.decompress(model, written.content), images_of(single))


# --- refusals ---


def test_other_levels_are_refused_and_rounding_is_explicit(binary: tuple[Model, Data]) -> None:
    model, data = binary
    grey = images_of(data, 2).copy()
    grey[0, 0, 0, :3] = 100
    with pytest.raises(
        InvalidValue, match=r"3 of 128 values are not among the 2 levels of torched \(0, 255\); round them"
    ):
        lossless.compress(model, grey)
    rounded = lossless.rounded(grey, 2)
    assert np.array_equal(lossless.decompress(model, lossless.compress(model, rounded).content), rounded)
    shapes: list[Array] = [
        grey[:0],
        grey[0],
        grey.astype(np.float32),
        grey[..., :5],
        np.zeros((1025, 1, 8, 8), np.uint8),
    ]
    for wrong in shapes:
        with pytest.raises(InvalidValue, match="images: "):
            lossless.compress(model, wrong)


@pytest.mark.parametrize("levels", [2, 3, 4, 5, 17, 255, 256])
def test_levels_and_pixels_are_inverse(levels: int) -> None:
    every = np.arange(levels)
    pixels = lossless.to_pixels(every, levels)
    assert (pixels[0], pixels[-1]) == (0, 255)
    assert np.array_equal(lossless.to_levels(pixels, levels), every)


def test_every_damage_is_found(binary: tuple[Model, Data]) -> None:
    model, data = binary
    content = lossless.compress(model, images_of(data, 3)).content
    for end in range(len(content)):
        with pytest.raises(Malformed):
            lossless.decompress(model, content[:end])
    for place in range(len(content)):
        for flip in (1, 128, 255):
            with pytest.raises(Malformed):
                lossless.decompress(model, content[:place] + bytes([content[place] ^ flip]) + content[place + 1 :])
    with pytest.raises(Malformed, match="damaged or incomplete"):
        lossless.decompress(model, content + b"\0")
    with pytest.raises(Malformed, match="version 9 of the format is unknown, this program reads 1"):
        lossless.decompress(model, content[:4] + b"\x09" + content[5:])
    with pytest.raises(Malformed, match="does not start with MFLL"):
        lossless.decompress(model, b"PNG")
    with pytest.raises(Malformed, match="starts with neither MFC2 nor MFLL"):
        compression.made_by(b"PNG")


def test_forged_files_are_refused_in_bounded_time(binary: tuple[Model, Data]) -> None:
    """Files with the right checksum, made by someone who changes a byte: only the fingerprints may differ without an error."""
    model, data = binary
    pixels = images_of(data, 3)
    content = lossless.compress(model, pixels).content
    found = set()
    for place in range(PREFIX.size, len(content)):
        for flip in (1, 64, 255):
            rest = bytearray(content[PREFIX.size :])
            rest[place - PREFIX.size] ^= flip
            forged = content[:5] + zlib.crc32(rest).to_bytes(4, "little") + bytes(rest)
            try:
                assert np.array_equal(lossless.decompress(model, forged), pixels)
                found.add(place)
            except (Malformed, InvalidValue):
                pass
    fingerprints = PREFIX.size + HEADER.size
    assert found == set(range(fingerprints, fingerprints + 2 * 3))  # encode.mean, encode.log_variance, predict.logits


def test_another_artifact_and_another_arithmetic_are_told_apart(binary: tuple[Model, Data]) -> None:
    model, data = binary
    pixels = images_of(data)
    content = lossless.compress(model, pixels).content
    other = cast(Model, Torched(cast(Any, model).exported, data, "cd" * 32))
    with pytest.raises(
        InvalidValue, match=r"the file was made by the artifact abab.*, but torched is cdcd.*; use the model"
    ):
        lossless.decompress(other, content)

    class Differs(Torched):
        """The same artifact on a machine that computes logits with an error."""

        error = 1e-3

        def run(self, task: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
            outputs = super().run(task, inputs)
            return outputs if task == "encode" else {role: array * (1 + self.error) for role, array in outputs.items()}

    machine = Differs(cast(Any, model).exported, data)
    with pytest.raises(
        Malformed, match=r"differs from the one that wrote it in predict\.logits; decompress it on that machine"
    ):
        lossless.decompress(cast(Model, machine), content)
    machine.error = 1e-7
    alone = lossless.compress(model, pixels[:2]).content
    assert np.array_equal(lossless.decompress(cast(Model, machine), alone), pixels[:2])


def test_what_cannot_be_compressed_is_said(tmp_path: Path, table: Data) -> None:
    data = pictures(1, 256)
    refused: tuple[tuple[str, str, dict[str, object], str], ...] = (
        ("vae", "gaussian", {}, "its likelihood is a density"),
        ("pixelcnn", "mixture", {}, "its likelihood is a density"),
        ("vae", "bernoulli", {"variational": False}, "no task gives the probabilities"),
    )
    for family, likelihood, options, why in refused:
        with pytest.raises(UnsupportedTask, match=f"torched cannot compress without loss: {why}"):
            lossless.check_can(torched(family, data, likelihood=likelihood, **options).manifest)
    with pytest.raises(UnsupportedTask, match="it makes rows, and only images are compressed"):
        lossless.check_can(torched("vae", table, likelihood="columns").manifest)
    manifest = torched("vae", pictures(1, 2), likelihood="bernoulli").manifest.with_drawing(["predict"])
    with pytest.raises(UnsupportedTask, match="predict draws random numbers inside the graph"):
        lossless.check_can(manifest)
    values = Conditions(names=("width",), examples=((1.0,),))
    manifest = torched("cvae", pictures(1, 2), likelihood="bernoulli").manifest
    with pytest.raises(UnsupportedTask, match="it is conditioned on condition, which a file does not contain"):
        lossless.check_can(manifest.model_copy(update={"classes": None, "conditions": values}))
    without = {name: task for name, task in manifest.tasks.items() if name != "score"}
    with pytest.raises(UnsupportedTask, match="has no score by which the class of an image can be chosen"):
        lossless.check_can(manifest.model_copy(update={"tasks": without}))


# --- artifacts and commands ---


def test_steps_share_the_weights_of_the_artifact(tiny: Path) -> None:
    folder = load(tiny / "models/pixelcnn", device="cpu").folder

    def places(names: tuple[str, ...]) -> set[str]:
        graphs = [onnx.load(str(folder / f"{name}.onnx"), load_external_data=False).graph for name in names]
        stored = [tensor.external_data for graph in graphs for tensor in graph.initializer if tensor.external_data]
        return {entry.value for entries in stored for entry in entries if entry.key == "offset"}

    steps = places(("predict_row", "predict_pixel"))
    assert steps
    assert steps <= places(("sample", "impute", "score"))


@pytest.mark.parametrize(("most", "kept"), [(checked.GOLDEN_ITEM, True), (100, False)])
def test_large_outputs_are_no_golden_vectors(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int, kept: bool
) -> None:
    """Logits of 64 pixels at 2 levels are 128 values an item. Inputs, and outputs with fewer values, stay."""
    model = load(tiny / "models/vae", device="cpu")
    examples = {task: example_inputs(spec, model.manifest, 2) for task, spec in model.manifest.tasks.items()}
    expected = {task: model.run(task, inputs) for task, inputs in examples.items()}
    context = SimpleNamespace(manifest=model.manifest, examples=examples, expected=expected, loops=(), folder=tmp_path)
    monkeypatch.setattr(checked, "GOLDEN_ITEM", most)
    checked.write_golden(cast(Any, context))
    vectors = golden.read(tmp_path, model.manifest)
    assert {"predict.in.latent", "decode.out.data"} <= set(vectors)
    assert ("predict.out.logits" in vectors) == kept
    assert golden.replay(model.run, tmp_path, model.manifest, "cpu") == []


@pytest.mark.parametrize("name", ["mixture of a vae", "mixture of a pixelcnn", "vqvae"])
def test_graphs_equal_the_modules(name: str, tmp_path: Path) -> None:
    """The tests above use modules. The graphs of levels that depend on earlier colours, of steps, and of histograms give the same."""
    family, channels, levels, options = KINDS[name]
    model = cast(Any, torched(family, pictures(channels, levels), **options))
    tasks = [task for task in model.manifest.tasks if task.startswith("predict")]
    inputs = {task: example_inputs(model.manifest.tasks[task], model.manifest, 5) for task in tasks}
    made = {
        task: graphs.task_to_onnx(
            model.exported.tasks[task], [torch.from_numpy(array[:3]) for array in inputs[task].values()]
        )
        for task in tasks
    }
    graphs.save_onnx(made, tmp_path)
    for task in tasks:
        session = onnxruntime.InferenceSession(str(tmp_path / f"{task}.onnx"))
        for rows in (1, 5):
            given = {role: array[:rows] for role, array in inputs[task].items()}
            expected = model.run(task, given)
            found = session.run(list(expected), given)
            for array, role in zip(found, expected, strict=True):
                assert np.allclose(array, expected[role], rtol=1e-4, atol=1e-4), f"{task}.{role}"


@pytest.mark.parametrize("name", ["pixelcnn", "pixelcnn-ts", "vae", "vae-ts"])
def test_the_commands(name: str, tiny: Path, tmp_path: Path, digits: Data) -> None:
    model = load(tiny / "models" / name, device="cpu")
    levels = lossless.levels_of(model)
    pixels = lossless.rounded(imaging.to_uint8(digits.inputs(digits.test)[:3], ImageSpec.of(digits.spec, "")), levels)
    paths = [tmp_path / f"{index}.png" for index in range(3)]
    for path, image in zip(paths, pixels, strict=True):
        path.write_bytes(imaging.to_png(image))
    file, options = tmp_path / "digits.mfc", ["--models", str(tiny / "models")]
    run = CliRunner()
    compress = ["compress", *map(str, paths), "--model", name, "-o", str(file), *options]
    made = run.invoke(cli.app, [*compress, "--lossless"])
    assert made.exit_code == 0, made.exception
    assert "bits for 3 images of 8x8 pixels" in made.output
    back = run.invoke(cli.app, ["decompress", str(file), "-o", str(tmp_path / "back.png"), *options])
    assert back.exit_code == 0, back.exception
    read = [(tmp_path / f"back-000{index}.png").read_bytes() for index in range(3)]
    assert read == [path.read_bytes() for path in paths]
    grey = pixels[0].copy()
    grey[0, 0, 0] = 100
    paths[0].write_bytes(imaging.to_png(grey))
    refused = run.invoke(cli.app, [*compress, "--lossless"])
    assert "1 of 192 values are not among" in str(refused.exception)
    rounded = run.invoke(cli.app, [*compress, "--lossless", "--round"])
    assert rounded.exit_code == 0, rounded.exception
    assert f"0.png: 1 of 64 values are rounded to one of {levels} levels, by up to" in rounded.output
    paths[0].write_bytes(imaging.to_png(np.zeros((1, 9, 8), np.uint8)))
    refused = run.invoke(cli.app, [*compress, "--lossless"])
    assert "give images that need no change, or use --round" in str(refused.exception)
    pointless = run.invoke(cli.app, [*compress, "--round"])
    assert "--round: it has no effect without --lossless" in str(pointless.exception)
