"""NSL-KDD: anomaly scores, classification into five classes, and recovery of missing columns, compared with other methods. The output is Markdown.

    python benchmarks/nslkdd.py choose      # on KDDTrain+ alone
    python benchmarks/nslkdd.py choose-detector
    python benchmarks/nslkdd.py scores      # tested on KDDTest+
    python benchmarks/nslkdd.py classes
    python benchmarks/nslkdd.py recovery

KDDTest+ has attacks that KDDTrain+ lacks, so every choice was made by leaving attacks out. For scores all attacks are left out: a model of normal
connections is tested on each attack family of KDDTrain+. For classes some attacks of every family are left out in turn: the model must name the
family of an attack that it has never seen. `scores` and `classes` are means of five seeds; `--only NAME` selects methods.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import in_memory
import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier, IsolationForest, RandomForestClassifier
from sklearn.metrics import accuracy_score, average_precision_score, f1_score, roc_auc_score
from sklearn.neighbors import NearestNeighbors
from sklearn.neural_network import MLPClassifier

from manifold.runtime import operations
from manifold.runtime.conditions import ByClass
from manifold.runtime.kinds.table import TableSpec
from manifold.runtime.operations import Steps
from manifold.runtime.scores.tails import Tail
from manifold.training import datasets
from manifold.training.data import Arrays, Data, remote, schema, tables
from manifold.training.data.schema import ColumnSettings
from manifold.training.datasets import nslkdd
from manifold.training.families import tabular_detector

Array = NDArray[Any]
SEEDS = range(5)
ATTACKS = ("DoS", "Probe", "R2L", "U2R")
SCORES: dict[str, dict[str, Any]] = {
    "latent 8 (the default)": {}, "latent 16": {"latent_dim": 16}, "latent 32": {"latent_dim": 32},
    "floor 0.1": {"floor": 0.1}, "latent 16, 30 epochs": {"latent_dim": 16, "epochs": 30},
}  # fmt: skip
CLASSES: dict[str, tuple[str, dict[str, Any]]] = {
    f"{kind}, " + ", ".join(f"{key} {value:g}" for key, value in changes.items()): (kind, changes)
    for kind, changes in (
        ("range", {"latent_dim": 2}), ("numeric", {"latent_dim": 2}), ("quantile", {"latent_dim": 2}),
        ("range", {"latent_dim": 2, "balance": 0.5}), ("numeric", {"latent_dim": 2, "balance": 0.5}),
        ("quantile", {"latent_dim": 2, "balance": 0.5}), ("quantile", {"latent_dim": 2, "balance": 1}),
        ("quantile", {"latent_dim": 5, "balance": 0.5}), ("quantile", {"latent_dim": 8, "balance": 0.5}),
        ("quantile", {"latent_dim": 5, "balance": 0.5, "epochs": 40}), ("quantile", {"latent_dim": 5, "balance": 0.5, "floor": 0.2}),
        ("quantile", {"latent_dim": 5, "balance": 0.5, "floor": 0.2, "discriminative": 10.0}),
    )
}  # fmt: skip
CHOSEN: dict[str, Any] = {
    "latent_dim": 5,
    "balance": 0.5,
    "floor": 0.2,
    "discriminative": 10.0,
}  # the loader sets `quantile`
DETECTORS = (("numeric", 5000), ("numeric", 20_000), ("range", 5000), ("range", 20_000), ("quantile", 5000))
RULES = (
    f"fisher:{','.join(tabular_detector.NORMALS)}",
    "fisher:input_neighbours,mixture",
    "input_neighbours",
    "mixture",
)
DETECTOR_KIND, DETECTOR = "numeric", {"score": "input_neighbours"}  # chosen by choose-detector
MOST_ATTACKS = 3000  # largest number of attacks of a family that `choose-detector` is tested on
LEFT_OUT = (
    ("smurf", "back", "satan", "warezclient", "buffer_overflow"), ("teardrop", "ipsweep", "guess_passwd", "rootkit", "land"),
    ("neptune", "nmap", "warezmaster", "loadmodule"), ("pod", "portsweep", "imap", "ftp_write", "multihop", "perl", "phf", "spy"),
)  # fmt: skip
LEAST_ROWS = 8  # smallest number of rows for which the recall of an attack counts


# --- choices, on KDDTrain+ alone ----------------------------------------------------------------------------------------------


def choose() -> None:
    """Print the figures on which the choices are based."""
    table, attacks, kinds = _training_file()
    print(
        "Scores, trained on 50 000 normal rows of KDDTrain+, tested on its other normal rows and its attacks; means of three seeds\n"
    )
    print("| settings | AUROC, mean over families | recall at 1%, mean | AUROC by family |\n|---|---|---|---|")
    for name, changes in SCORES.items():
        figures = np.mean([_by_family(table, kinds, {**changes, "seed": seed}) for seed in range(3)], axis=0)  # (4, 2)
        families = ", ".join(f"{family} {auroc:.3f}" for family, auroc in zip(ATTACKS, figures[:, 0], strict=True))
        print(f"| {name} | {figures[:, 0].mean():.4f} | {figures[:, 1].mean():.3f} | {families} |", flush=True)
    print(
        "\nClasses, with attacks left out in four folds. The result is half the recall of normal rows plus half the mean recall of unseen attacks\n"
    )
    print("| settings | result | recall of normal rows | result by fold |\n|---|---|---|---|")
    for name, (kind, changes) in CLASSES.items():
        folds = [_left_out(table, attacks, kinds, fold, kind, changes) for fold in range(len(LEFT_OUT))]
        families = ", ".join(f"{figure:.3f}" for figure, _ in folds)
        figure, normal = np.mean(folds, axis=0)
        print(f"| {name} | {figure:.4f} | {normal:.3f} | {families} |", flush=True)


def choose_detector() -> None:
    """Print the figures on which the kind of numbers, the number of references and the score of tabular_detector are based."""
    table, _, kinds = _training_file()
    random = np.random.default_rng(1)
    of_family = [random.permutation(np.flatnonzero(kinds == family))[:MOST_ATTACKS] for family in ATTACKS]
    strange = np.concatenate(of_family)
    ends = np.cumsum([len(rows) for rows in of_family])[:-1]
    print(
        "tabular_detector, trained on 50 000 normal rows of KDDTrain+, tested on its other normal rows and its attacks; means of three seeds\n"
    )
    print(
        "| kind of numbers | references | score | AUROC, mean over families | AUROC by family |\n|---|---|---|---|---|"
    )
    for kind, references in DETECTORS:
        data = _normal_rows(table, kinds, strange, _kinds(kind))
        assert data.anomalies is not None
        figures: dict[str, list[list[float]]] = {rule: [] for rule in RULES}
        for seed in range(3):
            trained = in_memory.fit("tabular_detector", data, seed=seed, references=references)
            usual, other = (_by_rule(trained, Arrays.of(part).items) for part in (data.test, data.anomalies))
            for rule in RULES:
                figures[rule].append([_against(usual[rule], each, 0)[0] for each in np.split(other[rule], ends)])
        for rule, rows in figures.items():
            means = np.mean(rows, axis=0)
            families = ", ".join(f"{family} {auroc:.3f}" for family, auroc in zip(ATTACKS, means, strict=True))
            print(
                f"| {kind} | {references} | {rule} | {means.mean():.4f} ± {np.mean(rows, axis=1).std():.4f} | {families} |",
                flush=True,
            )


def _by_rule(trained: in_memory.Trained, items: Array) -> dict[str, Array]:
    """Return the score (n,) by each of RULES, from the terms of one model."""
    terms = trained.score(items)
    nats = {name: Tail.fit(values)(terms[name]) for name, values in trained.calibration.items()}
    return {rule: np.sum([nats[name] for name in rule.removeprefix("fisher:").split(",")], axis=0) for rule in RULES}


def _training_file() -> tuple[dict[str, Array], Array, Array]:
    """Return the columns of KDDTrain+, and the attack and the class of each row."""
    table, attacks = nslkdd.read(remote.fetch(nslkdd.FILES[0]))
    return table, attacks, np.asarray([nslkdd.KIND_OF[attack] for attack in attacks.tolist()])


def _normal_rows(table: dict[str, Array], kinds: Array, strange: Array, settings: ColumnSettings) -> Data:
    """Return the normal rows of KDDTrain+ in three parts, and the attacks with the indices `strange`."""
    normal = np.random.default_rng(0).permutation(np.flatnonzero(kinds == "normal"))
    cuts = {
        "train": normal[:50_000],
        "calibration": normal[50_000:58_000],
        "test": normal[58_000:],
        "anomalies": strange,
    }
    parts = {part: tables.take(table, rows) for part, rows in cuts.items()}
    return tables.from_parts("nslkdd-choice", parts, {}, settings)


def _by_family(table: dict[str, Array], kinds: Array, changes: dict[str, Any]) -> list[tuple[float, float]]:
    """Return AUROC and recall at 1% of each attack family."""
    strange = np.flatnonzero(kinds != "normal")
    data = _normal_rows(table, kinds, strange, nslkdd.KINDS)
    assert data.anomalies is not None
    ranks = in_memory.fit("tabular_vae", data, **changes).rank
    usual, other, line = (
        ranks(Arrays.of(data.test).items),
        ranks(Arrays.of(data.anomalies).items),
        np.quantile(ranks(Arrays.of(data.calibration).items), 0.99),
    )
    return [_against(usual, other[kinds[strange] == family], float(line)) for family in ATTACKS]


def _against(usual: Array, strange: Array, line: float) -> tuple[float, float]:
    """Return AUROC, and the share of anomalous rows above a threshold."""
    labels = np.repeat([0, 1], [len(usual), len(strange)])
    return float(roc_auc_score(labels, np.concatenate([usual, strange]))), float((strange > line).mean())


def _left_out(
    table: dict[str, Array], attacks: Array, kinds: Array, fold: int, kind: str, changes: dict[str, Any]
) -> tuple[float, float]:
    """Return the result of one fold, and the recall of its normal rows."""
    data, families = _fold(table, attacks, kinds, fold, kind)
    trained = in_memory.fit("tabular_cvae", data, **changes)
    return _recalls(classified(trained, data) == data.test.labels, families, attacks, fold)


def _fold(table: dict[str, Array], attacks: Array, kinds: Array, fold: int, kind: str) -> tuple[Data, Array]:
    """Return the data of a fold, and the attack of each of its test rows."""
    generator = np.random.default_rng(fold)
    held = np.isin(attacks, LEFT_OUT[fold])
    normal = generator.permutation(np.flatnonzero(kinds == "normal"))[:3000]
    judged = np.concatenate([generator.permutation(np.flatnonzero(held))[:6000], normal])
    rest = generator.permutation(np.setdiff1d(np.flatnonzero(~held), normal))
    labelled = {**table, "label": kinds}
    parts = {
        "train": tables.take(labelled, rest[:-2000]),
        "calibration": tables.take(labelled, rest[-2000:]),
        "test": tables.take(labelled, judged),
    }
    return tables.from_parts("nslkdd-choice", parts, {}, _kinds(kind), "label"), attacks[judged]


def _recalls(right: Array, families: Array, attacks: Array, fold: int) -> tuple[float, float]:
    """Return half the recall of normal rows plus half the mean recall of the fold's attacks, and the recall of normal rows."""
    recall = [right[families == name].mean() for name in LEFT_OUT[fold] if (attacks == name).sum() >= LEAST_ROWS]
    normal_recall = float(right[families == "normal"].mean())
    return float(0.5 * normal_recall + 0.5 * np.mean(recall)), normal_recall


def _kinds(kind: str) -> ColumnSettings:
    return ColumnSettings(kinds={**dict.fromkeys((*nslkdd.CATEGORIES, *nslkdd.FEW), "categorical"), "*": kind})


# --- on KDDTest+ --------------------------------------------------------------------------------------------------------------


def scores(only: Sequence[str]) -> None:
    """Print results of anomaly scores on the rows of KDDTest+: ours, an isolation forest, nearest neighbours."""
    data, numeric = datasets.load("nslkdd"), nslkdd.load(_kinds(DETECTOR_KIND))
    table, _, kinds = _training_file()
    attacks, families = tables.take(table, kinds != "normal"), kinds[kinds != "normal"]
    figures: dict[str, list[tuple[float, ...]]] = {}
    by_seed = []
    for seed in SEEDS:
        for name, (held, fit) in _scorers(data, numeric, seed).items():
            if only and name not in only:
                continue
            assert held.anomalies is not None
            ranks = fit()
            calibration, usual, strange = (
                ranks(Arrays.of(part).items) for part in (held.calibration, held.test, held.anomalies)
            )
            line = float(np.quantile(calibration, 0.99))
            figures.setdefault(name, []).append(_figures(usual, strange, line))
            if name == "tabular_vae":
                seen = ranks(schema.encode(attacks, TableSpec.of(data.spec, data.name)))
                each = [_against(calibration, seen[families == family], line)[0] for family in ATTACKS]
                by_seed.append((float(np.mean(each)), *figures[name][-1][:2]))
    print(
        f"KDDTest+: {len(data.test)} normal rows, {len(data.anomalies or ())} attacks; "
        f"the threshold for 1% is set on {len(data.calibration)} normal rows of KDDTrain+\n"
    )
    print("| method | AUROC | average precision | recall | measured false alarms |\n|---|---|---|---|---|")
    for name, rows in figures.items():
        mean, spread = np.mean(rows, axis=0), np.std(rows, axis=0)
        print(f"| {name} | " + " | ".join(f"{m:.4f} ± {s:.4f}" for m, s in zip(mean, spread, strict=True)) + " |")
    if by_seed:
        print(
            "\nBy seed, AUROC on the attack families of KDDTrain+ (the shipped model was chosen by it), and AUROC and average precision on KDDTest+:"
        )
        print("; ".join(f"{seed}: {' '.join(f'{value:.4f}' for value in row)}" for seed, row in enumerate(by_seed)))


def _scorers(data: Data, numeric: Data, seed: int) -> dict[str, tuple[Data, Callable[[], Callable[[Array], Array]]]]:
    """Return methods by name: the data, and a function that fits the method and returns its score."""
    items = Arrays.of(data.train).items

    def forest() -> Callable[[Array], Array]:
        model = IsolationForest(random_state=seed).fit(items)
        return lambda rows: -model.score_samples(rows)

    def nearest() -> Callable[[Array], Array]:
        chosen = np.random.default_rng(seed).permutation(len(items))[:10_000]
        model = NearestNeighbors(n_neighbors=5).fit(items[chosen])
        return lambda rows: model.kneighbors(rows)[0].mean(axis=1)

    return {
        "tabular_detector": (numeric, lambda: in_memory.fit("tabular_detector", numeric, seed=seed).rank),
        "tabular_detector, chosen": (
            numeric,
            lambda: in_memory.fit("tabular_detector", numeric, seed=seed, **DETECTOR).rank,
        ),
        "tabular_vae": (data, lambda: in_memory.fit("tabular_vae", data, seed=seed).rank),
        "isolation forest": (data, forest),
        "nearest neighbours (5 of 10 000)": (data, nearest),
    }


def _figures(usual: Array, strange: Array, line: float) -> tuple[float, ...]:
    labels, both = np.repeat([0, 1], [len(usual), len(strange)]), np.concatenate([usual, strange])
    return (
        float(roc_auc_score(labels, both)), float(average_precision_score(labels, both)), float((strange > line).mean()), float((usual > line).mean()),
    )  # fmt: skip


def classified(trained: in_memory.Trained, data: Data) -> Array:
    """Return the class with the highest p(y | x), as an index, (n,)."""
    energies = trained.in_pieces(
        lambda items, _: operations.class_energies(trained.manifest, items), data.inputs(data.test), 500
    )
    best: Array = energies.argmax(axis=1)
    return best


def classes(only: Sequence[str]) -> None:
    """Print results of classifiers on the five classes of KDDTest+: ours, random forest, MLP, gradient boosting."""
    data = datasets.load("nslkdd-classes")
    truth = data.test.labels
    runs: dict[str, list[tuple[float, float, float]]] = {}
    for seed in SEEDS:
        for name, predict in _classifiers(data, seed):
            if only and name not in only:
                continue
            began = time.perf_counter()
            guess = predict()
            figures = float(accuracy_score(truth, guess)), float(f1_score(truth, guess, average="weighted"))
            runs.setdefault(name, []).append((*figures, time.perf_counter() - began))
            print(f"{name}, seed {seed}: accuracy {figures[0]:.4f}", file=sys.stderr, flush=True)
    print(f"KDDTest+: {len(truth)} rows, five classes, {len(SEEDS)} seeds\n")
    print("| method | accuracy | weighted F1 | seconds |\n|---|---|---|---|")
    for name, rows in runs.items():
        mean, spread = np.mean(rows, axis=0), np.std(rows, axis=0)
        print(f"| {name} | {mean[0]:.4f} ± {spread[0]:.4f} | {mean[1]:.4f} ± {spread[1]:.4f} | {mean[2]:.0f} |")


def _classifiers(data: Data, seed: int) -> Iterator[tuple[str, Any]]:
    """Yield names of classifiers, and functions that train and predict."""
    x, y, test = Arrays.of(data.train).items, data.train.labels, Arrays.of(data.test).items

    def ours() -> Array:
        return classified(in_memory.fit("tabular_cvae", data, seed=seed, **CHOSEN), data)

    yield "tabular_cvae", ours
    for name, model in (
        ("random forest", RandomForestClassifier(100, random_state=seed)), ("MLP (100)", MLPClassifier((100,), max_iter=30, random_state=seed)),
        ("gradient boosting", HistGradientBoostingClassifier(random_state=seed)),
    ):  # fmt: skip
        yield name, lambda model=model: model.fit(x, y).predict(test)


def recovery() -> None:
    """Print how well a model recovers protocol, flag and service of KDDTest+ from the other columns, with and without the class.

    The baseline is gradient boosting, one model for each column.
    """
    data = datasets.load("nslkdd-classes")
    spec = TableSpec.of(data.spec, data.name)
    assert data.classes is not None
    trained = in_memory.fit("tabular_cvae", data, **CHOSEN)
    classes = [data.classes[label] for label in data.test.labels]
    one_hot = {
        part: np.eye(len(data.classes), dtype=np.float32)[held.labels]
        for part, held in (("train", data.train), ("test", data.test))
    }
    print(
        "| column | values | tabular_cvae, class given | without | gradient boosting, class given | without |\n|---|---|---|---|---|---|"
    )
    for column, block in spec.placed:
        if column.name not in ("protocol_type", "flag", "service"):
            continue
        blank = Arrays.of(data.test).items.copy()
        blank[:, block] = np.nan
        truth = np.where(
            Arrays.of(data.test).items[:, block].any(axis=1), Arrays.of(data.test).items[:, block].argmax(axis=1), -1
        )

        def filled(items: Array, cut: slice, given: bool, block: slice = block) -> Steps[Array]:
            made = yield from operations.impute(
                trained.manifest, items, condition=ByClass(classes[cut]) if given else None
            )
            return made.data[:, block].argmax(axis=1)

        ours = [
            float(
                (
                    trained.in_pieces(lambda items, cut, given=given: filled(items, cut, given), blank, 1000) == truth
                ).mean()
            )  # type: ignore[misc]
            for given in (True, False)
        ]
        others = []
        for given in (True, False):
            x, test = (np.delete(Arrays.of(held).items, np.r_[block], axis=1) for held in (data.train, data.test))
            if given:
                x, test = np.hstack([x, one_hot["train"]]), np.hstack([test, one_hot["test"]])
            boosted = HistGradientBoostingClassifier(max_iter=30, early_stopping=False, random_state=0).fit(
                x, Arrays.of(data.train).items[:, block].argmax(axis=1)
            )
            others.append(float((boosted.predict(test) == truth).mean()))
        print(
            f"| {column.name} | {block.stop - block.start} | "
            + " | ".join(f"{share:.4f}" for share in (*ours, *others))
            + " |",
            flush=True,
        )


def main() -> None:
    """Print one of the benchmarks."""
    alone = {"choose": choose, "choose-detector": choose_detector, "recovery": recovery}
    compared = {"scores": scores, "classes": classes}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=(*alone, *compared))
    parser.add_argument(
        "--only", action="append", default=[], help="a method of `scores` or `classes`; can be repeated"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.part in alone:
        alone[options.part]()
    else:
        compared[options.part](options.only)


if __name__ == "__main__":
    main()
