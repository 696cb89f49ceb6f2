"""Data sets as whole arrays in memory: uint8 images (N, C, H, W) or encoded float32 tables (N, D).

Each set is read from the folder in the environment variable MANIFOLD_DATA (one sub-folder a set), else downloaded from its official
source by pooch into the user's cache; either way its checksum is verified. The split is the same for every family: `train` and
`calibration` come from the official training part (calibration: its last items, never trained on), `test` is the official test part.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pooch
from numpy.typing import NDArray

from manifold.runtime import codecs
from manifold.runtime.spec import CategoricalColumn, DataSpec, ImageSpec, TableSpec
from manifold.runtime.tables import columns, rows
from manifold.training.data import tables
from manifold.training.data.tables import Stated
from manifold.training.datasets import nslkdd, shapes, transactions
from manifold.training.errors import DataError, TrainingError

Array = NDArray[Any]
ROOT_VARIABLE = "MANIFOLD_DATA"
LEAST_ROWS = 30  # of a table
SMALL, FOLDS = 2000, 5  # tables of fewer rows are calibrated on by folds of the training rows


@dataclass(frozen=True)
class Part:
    """Items with their labels (int64, -1 where there are none) and, where they are known, the factors that made them."""

    items: Array  # uint8 (N, C, H, W) or float32 (N, D)
    labels: Array  # int64 (N,)
    factors: Array | None = None  # float32 (N, F)

    def __getitem__(self, rows: Any) -> Part:
        return Part(self.items[rows], self.labels[rows], None if self.factors is None else self.factors[rows])

    def __len__(self) -> int:
        return len(self.items)


@dataclass(frozen=True)
class Data:
    """A data set, split."""

    name: str
    spec: DataSpec
    train: Part
    calibration: Part
    test: Part
    classes: tuple[str, ...] | None = None
    protocol: dict[str, Any] = field(default_factory=dict)  # where the rows come from and how they were split
    factors: tuple[str, ...] = ()  # names of the parts' factors
    anomalies: Part | None = None  # known ones, which neither training nor calibration sees
    folds: int = (
        0  # of the training part, to calibrate on where a part for it would be too small; 0: the calibration part
    )

    def edge(self, part: Part) -> Array:
        """Items of a part as they come to a graph's edge, float32."""
        return codecs.from_uint8(part.items, self.spec) if isinstance(self.spec, ImageSpec) else part.items

    def of_factors(self, part: Part, names: Sequence[str]) -> Array:
        """Columns of a part's factors by name, (N, len(names)). Raises TrainingError for unknown ones."""
        if part.factors is None or not set(names) <= set(self.factors):
            valid = ", ".join(self.factors) or "none"
            raise TrainingError(
                f"data: {self.name} lacks some of the factors {', '.join(names)}; it has {valid}",
                valid=list(self.factors),
            )
        return part.factors[:, [self.factors.index(name) for name in names]]


@dataclass(frozen=True)
class Remote:
    """A file of a data set. `hash` is `algorithm:hex`; md5 only where no SHA-256 was ever published."""

    path: str
    url: str
    hash: str


MNIST = "https://ossci-datasets.s3.amazonaws.com/mnist/"
FASHION = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
REMOTES = {
    "mnist": (
        Remote("mnist/train-images-idx3-ubyte.gz", MNIST, "sha256:440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"),
        Remote("mnist/train-labels-idx1-ubyte.gz", MNIST, "sha256:3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"),
        Remote("mnist/t10k-images-idx3-ubyte.gz", MNIST, "sha256:8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"),
        Remote("mnist/t10k-labels-idx1-ubyte.gz", MNIST, "sha256:f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"),
    ),
    "fashion_mnist": (
        Remote("fashion_mnist/train-images-idx3-ubyte.gz", FASHION, "sha256:3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"),
        Remote("fashion_mnist/train-labels-idx1-ubyte.gz", FASHION, "sha256:a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"),
        Remote("fashion_mnist/t10k-images-idx3-ubyte.gz", FASHION, "sha256:346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"),
        Remote("fashion_mnist/t10k-labels-idx1-ubyte.gz", FASHION, "sha256:67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"),
    ),
    "frey_face": (
        Remote("frey_face/frey_rawface.mat", "https://cs.nyu.edu/~roweis/data/", "sha256:265a83a23adb081755cd3de375509828e690324d1d60f076b8ecebc840d59c64"),
    ),
    "cifar10": (Remote("cifar10/cifar-10-python.tar.gz", "https://www.cs.toronto.edu/~kriz/", "md5:c58f30108f718f92721af3b95e74349a"),),
    "creditcard": (  # rows of the ULB set that several sources share
        Remote("creditcard_subset/creditcard_subset.npz", "", "sha256:00d1ad62fca605790e74efecb7cbd7617cb94038c09e0f12fd10c875bb458de2"),
    ),
    "nsl_kdd": tuple(  # its own page asks for an address before it gives the files
        Remote(f"nsl_kdd/{name}.txt.gz", "", f"sha256:{digest}")
        for name, digest in (
            ("KDDTrain+", "8ca1cf5f3267ae2c3c6465250ab46db4479df56a329521d15cd1138d64a88e8f"),
            ("KDDTest+", "dc6cc9e78468f137fdb683451366a01e1823e94f79515893202a0f54f0cf7ed5"),
        )
    ),
    "fraud_simulated": (
        Remote("fraud_simulated/transactions.npz", "", "sha256:cb70ba00237d581096862e7256f602639c9b3fcb94d21d777e2c6c23b9a91e04"),
    ),
}  # fmt: skip


def load(name: str) -> Data:
    """The data set called `name`, or the table in the file `name` (.csv or .parquet).

    Raises TrainingError for an unknown name and DataError for a file that is missing, truncated or altered.
    """
    if name in LOADERS:
        return LOADERS[name]()
    path = Path(name)
    if path.suffix in tables.READERS:
        return of_file(path)
    raise TrainingError(
        f"data: unknown data set {name!r}; valid are {', '.join(LOADERS)}, or a path to a .csv or .parquet file",
        valid=list(LOADERS),
    )


def of_file(path: Path, stated: Stated | None = None, label: str | None = None, truth: str | None = None) -> Data:
    """The table in a .csv or .parquet file, split; arguments as of from_table. Raises DataError where it cannot be read."""
    if path.suffix not in tables.READERS:
        raise TrainingError(f"{path}: a table is a {' or '.join(tables.READERS)} file", field="file")
    said = {"label": label, "truth": truth, "kinds": dict(stated.kinds) if stated and stated.kinds else None}
    protocol = {
        "file": path.name,
        "sha256": _digest(path, "sha256"),
        **{key: value for key, value in said.items() if value},
    }
    return from_table(path.stem, tables.read(path), protocol, stated, label, truth)


# --- files --------------------------------------------------------------------------------------------------------------------


def fetch(remote: Remote) -> Path:
    """The verified local path of a file: below MANIFOLD_DATA where that is set, else downloaded."""
    algorithm, expected = remote.hash.split(":")
    if root := os.environ.get(ROOT_VARIABLE):
        path = Path(root) / remote.path
        if not path.exists():
            raise DataError(
                f"{path} is missing: {ROOT_VARIABLE} points to {root}, which must hold {remote.path} with {algorithm} {expected}"
            )
        if (found := _digest(path, algorithm)) != expected:
            raise DataError(f"{path} is truncated or altered: its {algorithm} is {found}, expected {expected}")
        return path
    if not remote.url:
        raise DataError(
            f"{remote.path} has no public address: set {ROOT_VARIABLE} to a folder that holds it, with {algorithm} {expected}"
        )
    try:
        return Path(
            pooch.retrieve(
                remote.url + Path(remote.path).name,
                remote.hash,
                Path(remote.path).name,
                pooch.os_cache("manifold") / Path(remote.path).parent,
            )
        )
    except (OSError, ValueError) as error:
        raise DataError(
            f"{remote.path} could not be downloaded from {remote.url}, expected {algorithm} {expected}: {error}. "
            f"Where there is no internet, set {ROOT_VARIABLE} to a folder that holds it."
        ) from error


def _digest(path: Path, algorithm: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def read_idx(path: Path) -> Array:
    """An array of unsigned bytes in the IDX format of the MNIST files, gzipped."""
    raw = gzip.decompress(path.read_bytes())
    dimensions = [int.from_bytes(raw[4 + 4 * i : 8 + 4 * i], "big") for i in range(raw[3])]
    if raw[:3] != b"\0\0\x08" or len(raw) != 4 + 4 * len(dimensions) + int(np.prod(dimensions)):
        raise DataError(f"{path} is not a whole IDX file of unsigned bytes")
    return np.frombuffer(bytearray(raw), np.uint8, offset=4 + 4 * len(dimensions)).reshape(dimensions)


# --- sets ---------------------------------------------------------------------------------------------------------------------


def _split(
    name: str,
    spec: DataSpec,
    train: Part,
    test: Part,
    held_out: int,
    classes: tuple[str, ...] | None,
    factors: tuple[str, ...] = (),
    **protocol: Any,
) -> Data:
    """`held_out` items at the end of the training part become the calibration part."""
    cut = len(train) - held_out
    stated = {
        "train": f"items 0 to {cut - 1} of the training part",
        "calibration": f"the last {held_out} items of the training part",
        "test": f"{len(test)} items",
    }
    return Data(
        name,
        spec,
        train[:cut],
        train[cut:],
        test,
        classes,
        {"data": name, **stated, **protocol},
        factors,
    )


def _idx_set(name: str, classes: tuple[str, ...], *, invert: bool) -> Data:
    images, labels, test_images, test_labels = (read_idx(fetch(remote)) for remote in REMOTES[name])
    spec = ImageSpec(height=28, width=28, channels=1, background=0.0, invert=invert)
    train, test = (Part(x[:, None], y.astype(np.int64)) for x, y in ((images, labels), (test_images, test_labels)))
    return _split(name, spec, train, test, 5000, classes)


def _mnist() -> Data:
    return _idx_set("mnist", tuple("0123456789"), invert=True)


def _mnist_14() -> Data:
    """MNIST at half the size, each pixel the mean of four."""
    whole = _mnist()

    def halved(part: Part) -> Part:
        blocks = part.items.reshape(len(part), 1, 14, 2, 14, 2).astype(np.float32)
        return replace(part, items=np.rint(blocks.mean(axis=(3, 5))).astype(np.uint8))

    assert isinstance(whole.spec, ImageSpec)
    return replace(
        whole,
        name="mnist-14",
        spec=whole.spec.model_copy(update={"height": 14, "width": 14}),
        train=halved(whole.train),
        calibration=halved(whole.calibration),
        test=halved(whole.test),
        protocol={**whole.protocol, "data": "mnist-14", "size": "14x14, each pixel the mean of four"},
    )


def _fashion_mnist() -> Data:
    names = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
    return _idx_set("fashion_mnist", names, invert=False)


def _digits() -> Data:
    """scikit-learn's 8x8 digits at 4 levels; 1797 items, split by a permutation with seed 0 (they are ordered by writer)."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    levels = np.rint(bunch.images / 16 * 3).astype(np.uint8)  # 0..16 to 0..3
    order = np.random.Generator(np.random.Philox(0)).permutation(len(levels))
    items, labels = (levels * 85)[order, None], bunch.target.astype(np.int64)[order]  # 0, 85, 170, 255
    spec = ImageSpec(height=8, width=8, channels=1, levels=4, background=0.0, invert=True)
    train, test = Part(items[:1497], labels[:1497]), Part(items[1497:], labels[1497:])
    return _split(
        "digits",
        spec,
        train,
        test,
        200,
        tuple("0123456789"),
        levels="round(v / 16 * 3)",
        order="permutation, Philox seed 0",
    )


def _shapes() -> Data:
    """Made shapes with known factors, every combination once (training.shapes), split by a permutation with seed 0."""
    items, factors = shapes.make()
    order = np.random.Generator(np.random.Philox(0)).permutation(len(items))
    every = Part(items[order], factors[order, 0].astype(np.int64), factors[order])
    cut = len(items) - 1000
    spec = ImageSpec(height=shapes.SIDE, width=shapes.SIDE, channels=3, background=0.0)
    about = {"made": "every combination of factors once", "order": "permutation, Philox seed 0"}
    return _split("shapes", spec, every[:cut], every[cut:], 1000, shapes.SHAPES, shapes.NAMES, **about)


def _frey_face() -> Data:
    """1965 frames of one face, 28x20; consecutive frames are alike, so the test part is the last tenth, not a random one."""
    from scipy.io import loadmat

    (remote,) = REMOTES["frey_face"]
    frames = loadmat(fetch(remote))["ff"].T.reshape(-1, 1, 28, 20)
    labels = np.full(len(frames), -1, np.int64)
    spec = ImageSpec(height=28, width=20, channels=1)
    return _split("frey_face", spec, Part(frames[:1765], labels[:1765]), Part(frames[1765:], labels[1765:]), 165, None)


CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def _cifar10() -> Data:
    root = os.environ.get(ROOT_VARIABLE)
    sheets = bool(root) and (Path(root or "") / "cifar10" / "labels.npz").exists()
    train, test = (
        _cifar_sheets(Path(root or "") / "cifar10") if sheets else _cifar_archive(fetch(REMOTES["cifar10"][0]))
    )
    spec = ImageSpec(height=32, width=32, channels=3)
    return _split(
        "cifar10",
        spec,
        train,
        test,
        5000,
        CIFAR_CLASSES,
        form="lossless sheets, 20 test images absent" if sheets else "official archive",
    )


def _cifar_archive(path: Path) -> tuple[Part, Part]:
    """Reads the official pickles with an unpickler that allows nothing but the arrays they hold."""
    import pickle

    allowed = {
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("_codecs", "encode"),
    }

    class ArraysOnly(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            if (module, name) not in allowed:
                raise DataError(f"{path} holds a {module}.{name}, which CIFAR-10 does not")
            return super().find_class(module, name)

    def batch(archive: tarfile.TarFile, name: str) -> tuple[Array, Array]:
        member = archive.extractfile(f"cifar-10-batches-py/{name}")
        if member is None:
            raise DataError(f"{path} lacks {name}")
        content = ArraysOnly(io.BytesIO(member.read()), encoding="bytes").load()
        return content[b"data"].reshape(-1, 3, 32, 32), np.asarray(content[b"labels"], np.int64)

    with tarfile.open(path) as archive:
        parts = [batch(archive, f"data_batch_{i}") for i in range(1, 6)]
        test = batch(archive, "test_batch")
    return Part(np.concatenate([x for x, _ in parts]), np.concatenate([y for _, y in parts])), Part(*test)


# One hash over the SHA-256s of all sheets in order: they are 60 files that exist only together.
CIFAR_SHEETS = "6243f223d05c0b08e51710cf2ef6c1fd8782cc861b10baaa7165c16c6aac734d"


def _cifar_sheets(folder: Path) -> tuple[Part, Part]:
    """CIFAR-10 as lossless WebP sheets of 1000 images (25 x 40 tiles), in official order."""
    names = [f"{split}_{i:02d}.webp" for split, n in (("train", 50), ("test", 10)) for i in range(n)] + ["labels.npz"]
    for name in names:
        if not (folder / name).exists():
            raise DataError(f"{folder / name} is missing")
    found = hashlib.sha256("".join(_digest(folder / name, "sha256") for name in names).encode()).hexdigest()
    if found != CIFAR_SHEETS:
        raise DataError(
            f"{folder}: a sheet is truncated or altered: the SHA-256 over all sheets' is {found}, expected {CIFAR_SHEETS}"
        )

    def sheet(name: str) -> Array:
        tiles = codecs.read_pixels((folder / name).read_bytes(), "RGB").reshape(25, 32, 40, 32, 3)
        return tiles.transpose(0, 2, 4, 1, 3).reshape(1000, 3, 32, 32)

    with np.load(folder / "labels.npz") as labels:
        train = Part(np.concatenate([sheet(name) for name in names[:50]]), labels["train"].astype(np.int64))
        keep = labels["test_present"]
        test = Part(np.concatenate([sheet(name) for name in names[50:60]])[keep], labels["test"].astype(np.int64)[keep])
    return train, test


# --- tables -------------------------------------------------------------------------------------------------------------------


def from_table(
    name: str,
    table: Mapping[str, Array],
    protocol: dict[str, Any],
    stated: Stated | None = None,
    label: str | None = None,
    truth: str | None = None,
) -> Data:
    """Splits rows by a permutation (seed 0) into 80% train, 10% calibration, 10% test; the schema is fitted on the training rows.

    Fewer than 2000 rows are too few to set some aside: 90% train, and are calibrated on by folds. `truth` names a column that is 1 for
    known anomalies and 0 for the others: those are kept for judging alone.
    """
    known = None
    if truth is not None:
        table, known = _without_anomalies(table, truth)
    n = len(next(iter(table.values())))
    if n < LEAST_ROWS:
        raise TrainingError(f"data: {name} has {n} rows; at least {LEAST_ROWS} are needed to train, calibrate and test")
    order = np.random.Generator(np.random.Philox(0)).permutation(n)
    small = n < SMALL
    first = n * 9 // 10 if small else n * 8 // 10
    cuts = {"train": order[:first], "calibration": order[first : n * 9 // 10], "test": order[n * 9 // 10 :]}
    protocol = {**protocol, "split": "permutation, Philox seed 0"}
    parts = {part: {key: column[rows] for key, column in table.items()} for part, rows in cuts.items()}
    if known is not None:
        parts["anomalies"] = known
    return from_parts(name, parts, protocol, stated, label, folds=FOLDS if small else 0)


def _without_anomalies(table: Mapping[str, Array], truth: str) -> tuple[dict[str, Array], dict[str, Array]]:
    """The rows whose column `truth` is 0, and those where it is 1, both without that column."""
    if truth not in table:
        raise TrainingError(f"truth: there is no column {truth!r}", field="truth", valid=list(table))
    said = [rows.canonical(value) for value in table[truth].tolist()]
    if wrong := sorted(set(said) - {"0", "1"}):
        raise TrainingError(
            f"truth: column {truth!r} has {wrong[0]!r}; it must be 1 for anomalies and 0 for other rows", field="truth"
        )
    strange = np.asarray(said) == "1"
    rest = {name: column for name, column in table.items() if name != truth}
    return {name: column[~strange] for name, column in rest.items()}, {
        name: column[strange] for name, column in rest.items()
    }


def from_parts(
    name: str,
    parts: Mapping[str, Mapping[str, Array]],
    protocol: dict[str, Any],
    stated: Stated | None = None,
    label: str | None = None,
    folds: int = 0,
) -> Data:
    """Tables that are split already: `train`, `calibration` (may be empty where `folds` are given), `test`, and `anomalies` where some are
    known. The schema is fitted on the training rows.

    `label` names the column with the class, which is then no column of the rows. Raises TrainingError where it is not there or has missing
    values, DataError for classes that the training rows lack.
    """
    classes: tuple[str, ...] | None = None
    labels = {part: np.full(len(next(iter(table.values()))), -1, np.int64) for part, table in parts.items()}
    if label is not None:
        if label not in parts["train"]:
            raise TrainingError(f"label: there is no column {label!r}", field="label", valid=list(parts["train"]))
        column = tables.fit({label: parts["train"][label]}, Stated(kinds={label: "categorical"})).columns[0]
        assert isinstance(column, CategoricalColumn)
        classes = column.categories
        for part in set(parts) - {"anomalies"}:  # whose classes nobody asks for
            block = columns.encode(parts[part], TableSpec(columns=(column,)))
            if block.bad:
                row = min(block.bad)
                raise DataError(f"data: {part} row {row + 1}: {block.bad[row]}")
            labels[part] = block.data.argmax(axis=1).astype(np.int64)
    left = {part: {key: values for key, values in table.items() if key != label} for part, table in parts.items()}
    spec = tables.fit(left["train"], stated)
    made = {part: Part(tables.encode(table, spec), labels[part]) for part, table in left.items()}
    stated_rows = {part: f"{len(held)} rows" for part, held in made.items()}
    return Data(
        name,
        spec,
        made["train"],
        made["calibration"],
        made["test"],
        classes,
        {"data": name, **protocol, **stated_rows},
        anomalies=made.get("anomalies"),
        folds=folds,
    )


RING_MODES, RING_RADIUS, RING_DEVIATION, RING_ROWS = 8, 2.0, 0.02, 20_000


def _ring() -> Data:
    """Eight narrow Gaussians on a circle (as in Metz et al., 2016, section 3.1), made here: the class says which."""
    generator = np.random.Generator(np.random.Philox(0))
    mode = generator.integers(0, RING_MODES, RING_ROWS)
    angle = 2 * np.pi * mode / RING_MODES
    noise = RING_DEVIATION * generator.standard_normal((2, RING_ROWS))
    table = {"x": RING_RADIUS * np.cos(angle) + noise[0], "y": RING_RADIUS * np.sin(angle) + noise[1], "mode": mode}
    about = {"made": f"{RING_MODES} Gaussians of deviation {RING_DEVIATION} on a circle of radius {RING_RADIUS:g}"}
    return from_table("ring", table, about, Stated(kinds={"x": "numeric", "y": "numeric"}), label="mode")


TRANSACTION_DAYS = {"train": (30, 100), "calibration": (100, 114), "test": (114, 183)}  # the first 30 fill the windows
TRANSACTION_ROWS = {"train": 100_000, "calibration": 20_000, "test": 20_000, "anomalies": 5_000}


def _transactions() -> Data:
    """The simulated card transactions of the Fraud Detection Handbook, each with its card's and terminal's past (training.transactions).

    Split by time: days 30 to 100 train, two weeks calibrate, both without the frauds; of the later days, genuine rows are the test part and
    frauds the known anomalies. All drawn, seed 0.
    """
    (remote,) = REMOTES["fraud_simulated"]
    table, scenario, day = transactions_table(fetch(remote))
    generator = np.random.Generator(np.random.Philox(0))

    def rows_of(part: str, which: Array) -> dict[str, Array]:
        low, high = TRANSACTION_DAYS.get(part, TRANSACTION_DAYS["test"])
        there = np.flatnonzero((day >= low) & (day < high) & which)
        drawn = np.sort(generator.choice(there, min(TRANSACTION_ROWS[part], len(there)), replace=False))
        return _rows(table, drawn)

    parts = {part: rows_of(part, scenario > 0 if part == "anomalies" else scenario == 0) for part in TRANSACTION_ROWS}
    days = {f"{part}_days": f"{low} to {high}" for part, (low, high) in TRANSACTION_DAYS.items()}
    return from_parts("transactions", parts, {"source": "fraud_simulated", **days}, TRANSACTION_COLUMNS)


TRANSACTION_COLUMNS = Stated(
    units={"hour": "h", "hours_since_last": "h"},
    kinds={f"{who}_{days}d_count": "numeric" for who in ("card", "terminal") for days in transactions.WINDOWS},
)


def transactions_table(path: Path) -> tuple[dict[str, Array], Array, Array]:
    """All rows of fraud_simulated as columns, the fraud scenario (0: genuine), and the day, from 0."""
    with np.load(path) as raw:
        seconds = np.cumsum(raw["time_delta_s"].astype(np.int64))  # since Sunday 2018-04-01 00:00
        made = transactions.features(seconds, raw["customer_id"], raw["terminal_id"], raw["amount_cents"] / 100)
        return made, raw["fraud_scenario"].astype(np.int64), seconds // transactions.DAY


def _nslkdd() -> Data:
    """NSL-KDD for scores: normal connections of KDDTrain+ train and calibrate, KDDTest+ judges, its attacks as known anomalies."""
    (train, kinds), (test, test_kinds) = (_connections(remote) for remote in REMOTES["nsl_kdd"])
    normal = np.flatnonzero(kinds == "normal")
    order = normal[np.random.Generator(np.random.Philox(0)).permutation(len(normal))]
    parts = {
        "train": _rows(train, order[:-NSLKDD_CALIBRATION]),
        "calibration": _rows(train, order[-NSLKDD_CALIBRATION:]),
        "test": _rows(test, test_kinds == "normal"),
        "anomalies": _rows(test, test_kinds != "normal"),
    }
    about = {"source": "NSL-KDD, KDDTrain+ and KDDTest+", "split": "KDDTrain+ by a permutation, Philox seed 0"}
    return from_parts("nslkdd", parts, about, NSLKDD_KINDS)


def _nslkdd_classes() -> Data:
    """NSL-KDD for /classify and /impute: all of KDDTrain+ with its five classes; KDDTest+ is the test part."""
    (train, kinds), (test, test_kinds) = (_connections(remote) for remote in REMOTES["nsl_kdd"])
    order = np.random.Generator(np.random.Philox(0)).permutation(len(kinds))
    train, test = {**train, "label": kinds}, {**test, "label": test_kinds}
    parts = {
        "train": _rows(train, order[:-NSLKDD_CALIBRATION]),
        "calibration": _rows(train, order[-NSLKDD_CALIBRATION:]),
        "test": test,
    }
    about = {"source": "NSL-KDD, KDDTrain+ and KDDTest+", "split": "KDDTrain+ by a permutation, Philox seed 0"}
    return from_parts("nslkdd-classes", parts, about, NSLKDD_CLASS_KINDS, "label")


def _creditcard() -> Data:
    """13 654 real card transactions of two days, 473 of them frauds, as 28 principal components and the amount; the time is left out.

    Frauds are known anomalies; the genuine rows are split by a permutation.
    """
    (remote,) = REMOTES["creditcard"]
    with np.load(fetch(remote), allow_pickle=False) as content:
        table: dict[str, Array] = {str(name): content["X"][:, place] for place, name in enumerate(content["columns"])}
        table["Class"] = content["y"].astype(np.int64)
    about = {"source": "creditcard_subset, of the ULB set", "fraud_rate": "3.5% here, 0.17% in the whole set"}
    return from_table("creditcard", table, about, Stated(kinds={"Time": "ignore"}), truth="Class")


NSLKDD_CALIBRATION = 10_000  # rows
# mostly one-hot tables are scaled by range: chosen on the attacks of KDDTrain+, see benchmarks/nslkdd.py
NSLKDD_KINDS = Stated(kinds={**dict.fromkeys(nslkdd.CATEGORIES, "categorical"), tables.OTHERS: "range"})
NSLKDD_CLASS_KINDS = Stated(kinds={**NSLKDD_KINDS.kinds, tables.OTHERS: "quantile"})


def _connections(remote: Remote) -> tuple[dict[str, Array], Array]:
    """Columns, and the class of each row."""
    table, attacks = nslkdd.read(fetch(remote))
    return table, np.asarray([nslkdd.KIND_OF[attack] for attack in attacks.tolist()])


def _rows(table: Mapping[str, Array], rows: Array) -> dict[str, Array]:
    return {name: column[rows] for name, column in table.items()}


LOADERS: dict[str, Callable[[], Data]] = {
    "mnist": _mnist, "mnist-14": _mnist_14, "fashion_mnist": _fashion_mnist, "frey_face": _frey_face,
    "cifar10": _cifar10, "digits": _digits, "shapes": _shapes, "transactions": _transactions, "nslkdd": _nslkdd, "nslkdd-classes": _nslkdd_classes,
    "creditcard": _creditcard, "ring": _ring,
}  # fmt: skip
# of the data that an artifact was trained on; its card carries them
LICENCES = {
    "mnist": "MNIST (LeCun, Cortes and Burges): CC BY-SA 3.0, as commonly stated",
    "mnist-14": "MNIST (LeCun, Cortes and Burges): CC BY-SA 3.0, as commonly stated",
    "fashion_mnist": "Fashion-MNIST (Zalando): MIT",
    "frey_face": "Frey Face (Frey and Roweis): none stated, research use",
    "cifar10": "CIFAR-10 (Krizhevsky, 2009): none stated, cite the technical report",
    "digits": "Optical recognition of handwritten digits (Alpaydin and Kaynak, UCI): CC BY 4.0",
    "transactions": "simulated by the Fraud Detection Handbook (Le Borgne et al., 2022): text CC BY-SA 4.0, code GPL-3.0",
    "nslkdd": "NSL-KDD (Tavallaee et al., 2009; UNB): free for research with citation",
    "nslkdd-classes": "NSL-KDD (Tavallaee et al., 2009; UNB): free for research with citation",
    "creditcard": "credit card fraud (ULB machine learning group): DbCL 1.0 / ODbL 1.0",
}
