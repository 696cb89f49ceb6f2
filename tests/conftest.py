"""Fixtures: tiny runs of each family, their artifacts, and the service in this process."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from starlette.testclient import TestClient

from manifold.runtime import manifest, repository
from manifold.runtime.engine import Model, load
from manifold.runtime.kinds.table import TableSpec
from manifold.runtime.tables.schema import NumericColumn
from manifold.service.http.app import create_app
from manifold.service.processes import early
from manifold.service.settings import Settings
from manifold.service.telemetry import logs
from manifold.training import datasets, runs
from manifold.training.data import Data, tables
from manifold.training.data.schema import ColumnSettings
from manifold.training.exporting import graphs
from manifold.training.loop.steps import Loop
from tests import shared

settings.register_profile("steady", deadline=None, derandomize=True)  # the same examples on every machine, however slow
settings.load_profile("steady")
# tests send requests with these host names, and use admin routes without a key; tests/test_trust.py sets both itself
os.environ.setdefault("MANIFOLD_HOSTS", "testserver here")
os.environ.setdefault("MANIFOLD_TRUST_LOOPBACK", "true")
collect_ignore = ["public_client"]  # `make test` runs these tests in their own environment

ROOT = Path(__file__).parent.parent
SHIPPED = ROOT / "models"
NAMES = (
    "cifar10-cgan", "cifar10-dcgan", "cifar10-flow", "cifar10-pixelcnn", "cifar10-vae", "cifar10-vqvae", "creditcard-vae", "digits-pixelcnn", "fashion-cgan",
    "fashion-flow", "fashion-vae", "fashion-vqvae", "frey-vae", "mnist-aae", "mnist-autoencoder", "mnist-beta-vae", "mnist-cgan", "mnist-cvae", "mnist-dcgan",
    "mnist-eonade", "mnist-flow", "mnist-gan", "mnist-ladder", "mnist-made", "mnist-pixelcnn", "mnist-vae", "mnist-vae-2d", "mnist-vae-ts", "mnist-vamp",
    "mnist-vqvae", "mnist14-rowlstm", "nslkdd-cvae", "nslkdd-vae", "transactions-vae",
)  # fmt: skip
ROW = {  # a row of transactions-vae, in the order of its columns
    "amount": 26.27, "hour": 10.67, "weekday": "1", "night": 0, "card_1d_count": 1, "card_1d_mean": 53.6, "terminal_1d_count": 1,
    "card_7d_count": 9, "card_7d_mean": 49.53, "terminal_7d_count": 7, "card_30d_count": 41, "card_30d_mean": 54.01,
    "terminal_30d_count": 28, "terminal_30d_mean": 52.74, "amount_over_usual": -0.702, "hours_since_last": 7.313,
}  # fmt: skip


def _legal_row(name: str) -> dict[str, object]:
    """Return a valid row for a shipped model of rows: the smallest numbers and the first categories."""
    spec = manifest.read(repository.find(name, SHIPPED)).data
    assert isinstance(spec, TableSpec)
    return {
        column.name: column.minimum if isinstance(column, NumericColumn) else column.categories[0]
        for column in spec.columns
    }


ROWS: dict[str, dict[str, object]] = {
    "transactions-vae": dict(ROW),
    **{name: _legal_row(name) for name in ("creditcard-vae", "nslkdd-cvae", "nslkdd-vae")},
}
WITHOUT_ENCODER = (
    "cifar10-cgan",
    "cifar10-dcgan",
    "cifar10-pixelcnn",
    "digits-pixelcnn",
    "fashion-cgan",
    "mnist-cgan",
    "mnist-dcgan",
    "mnist-eonade",
    "mnist-gan",
    "mnist-made",
    "mnist-pixelcnn",
    "mnist14-rowlstm",
)
CLASS_OF = {
    "cifar10-cgan": "horse",
    "fashion-cgan": "dress",
    "mnist-cgan": "3",
    "mnist-cvae": "3",
    "nslkdd-cvae": "DoS",
}  # a class for each model that needs one
EXTRACTORS = ("cifar10-classifier", "digits-classifier", "fashion-classifier", "mnist-classifier")


def made_table(n: int = 400) -> dict[str, np.ndarray]:
    """Return a small table in which a number depends on a category."""
    generator = np.random.Generator(np.random.Philox(1))
    kind = generator.integers(0, 3, n)
    return {
        "price": np.round(np.exp(generator.normal(kind, 0.3)), 2),
        "weight": generator.normal(70, 10, n),
        "kind": np.asarray(["small", "medium", "large"])[kind],
        "paid": generator.integers(0, 2, n),
    }


def tiny_run(folder: Path, family: str, data: Data, **changes: object) -> runs.TrainingRun:
    """Train a smoke run. Tests that request the same run get copies of it."""
    return shared.tiny_run(folder, family, data, **changes)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--fast", action="store_true", help="leave out tests that are marked slow, train a model or export one"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--fast"):
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip(reason="slow"))


def pytest_configure(config: pytest.Config) -> None:
    """Create the folder that tests share. Workers of pytest-xdist use the folder of the process that started them."""
    shared.fast = config.getoption("--fast")
    # a shell ignores SIGINT for background processes, and processes that tests start would inherit that
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if not hasattr(config, "workerinput"):
        os.environ[shared.FOLDER] = tempfile.mkdtemp(prefix="manifold-tests-")


def pytest_collection_finish() -> None:
    """Exclude the imported objects from garbage collection, and run the collector less often: exports make many long-lived objects."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        shutil.rmtree(os.environ.pop(shared.FOLDER), ignore_errors=True)


@pytest.fixture(scope="session")
def digits() -> Data:
    return datasets.load("digits")


@pytest.fixture(scope="session")
def table() -> Data:
    return tables.from_table("made", made_table(), {"source": "tests"}, ColumnSettings({"price": 2}, {"weight": "kg"}))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory, digits: Data, table: Data) -> Path:
    """Return a repository of artifacts that are made here: vae, autoencoder, vae-ts, pixelcnn, pixelcnn-ts, table."""
    root = tmp_path_factory.mktemp("tiny")
    vae = tiny_run(root / "runs/vae", "vae", digits)
    plain = tiny_run(root / "runs/autoencoder", "vae", digits, variational=False, likelihood="gaussian", latent_dim=5)
    rows = tiny_run(root / "runs/table", "vae", table, likelihood="columns", latent_dim=3)
    pixelcnn = tiny_run(root / "runs/pixelcnn", "pixelcnn", digits)
    exports: list[tuple[runs.TrainingRun, str, Data, str]] = [
        (vae, "vae", digits, "onnx"), (vae, "vae-ts", digits, "torchscript"), (plain, "autoencoder", digits, "torchscript"),
        (rows, "table", table, "torchscript"), (pixelcnn, "pixelcnn-ts", digits, "torchscript"), (pixelcnn, "pixelcnn", digits, "onnx"),
    ]  # fmt: skip
    # two processes start at opposite ends, so that they wait for each other only in the middle
    if os.environ.get("PYTEST_XDIST_WORKER") == "gw1":
        exports.reverse()
    for run, name, data, backend in exports:
        shared.export(run, name, root / "models", data=data, backend=backend)
    return root


class Shipped(dict[str, Model]):
    """The models of the repository by name. Each is loaded at its first use, because loading all of them takes seconds in every process."""

    def __missing__(self, name: str) -> Model:
        return self.setdefault(name, load(SHIPPED / name, device="cpu"))


@pytest.fixture(scope="session")
def shipped() -> Shipped:
    return Shipped()


def some_shipped(root: Path, *names: str) -> Path:
    """Copy a few of the repository's models to `root`: loading all of them takes seconds."""
    for name in names:
        shutil.copytree(SHIPPED / name, root / name)
    return root


@pytest.fixture(scope="session")
def client() -> Iterator[TestClient]:
    """Yield a client of the service with the shipped models, ready. A model is loaded at its first request."""
    settings = Settings(models_dir=SHIPPED, device="cpu", lazy=True)
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        wait_until_ready(client)
        yield client


@pytest.fixture(scope="session")
def forms_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the artifacts of tests/forms.py. No test changes them."""
    from tests import forms  # tests.forms imports this module

    root = tmp_path_factory.mktemp("forms")
    forms.all_forms(root)
    return root


@pytest.fixture(scope="session")
def forms_models(forms_root: Path) -> dict[str, Model]:
    return {path.name: load(path) for path in forms_root.iterdir()}


@pytest.fixture(scope="session")
def forms_client(forms_root: Path) -> Iterator[TestClient]:
    """Yield a client of the service with these artifacts, ready."""
    from tests import forms

    with forms.client(forms_root) as client:
        yield client


def wait_until_ready(client: TestClient) -> None:
    """Wait until no model is loading. Models load in a thread, which may take long on a busy machine."""
    until = time.monotonic() + 180
    while time.monotonic() < until:
        states = client.get("/health/ready").json()["models"].values()
        if "loading" not in states:
            return
        time.sleep(0.02)
    raise AssertionError("the models do not finish loading")


@pytest.fixture(scope="session", autouse=True)
def _fast(pytestconfig: pytest.Config) -> Iterator[None]:
    """Skip a test at once if it trains or exports and --fast is set. So no list of such tests is needed."""

    def skip(*_: object, **__: object) -> None:
        pytest.skip("slow: it trains or exports a model")

    with pytest.MonkeyPatch.context() as patch:
        if pytestconfig.getoption("--fast"):
            patch.setattr(Loop, "run_phases", skip)
            patch.setattr(graphs, "to_onnx", skip)
        yield


@pytest.fixture(scope="session", autouse=True)
def _quick_drawings() -> Iterator[None]:
    """Skip the layout of labels in figures, which takes most of the time of an export of rows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("matplotlib.layout_engine.ConstrainedLayoutEngine.execute", lambda *_: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def _plain_log() -> None:
    """Set the service's own log format, without debug lines."""
    logs.configure("text")


@pytest.fixture(scope="session", autouse=True)
def _own_signals() -> Iterator[None]:
    """Leave signals to pytest: a command that starts the service in this process would block them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(early, "prepare", lambda: None)
        yield
