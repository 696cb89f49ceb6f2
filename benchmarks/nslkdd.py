"""NSL-KDD: anomaly scores, classification into five classes, and recovery of missing columns, compared with other methods. The output is Markdown.

    python benchmarks/nslkdd.py choose      # on KDDTrain+ alone
    python benchmarks/nslkdd.py scores      # tested on KDDTest+
    python benchmarks/nslkdd.py classes
    python benchmarks/nslkdd.py recovery

KDDTest+ has attacks that KDDTrain+ lacks, so every choice was made by leaving attacks out. For scores all attacks are left out: a model of normal
connections is tested on each attack family of KDDTrain+. For classes some attacks of every family are left out in turn: the model must name the
family of an attack that it has never seen. `scores` and `classes` are means of five seeds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
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
from manifold.training import datasets
from manifold.training.data import Arrays, Data, remote, schema, tables
from manifold.training.data.schema import ColumnSettings
from manifold.training.datasets import nslkdd

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
    )
}  # fmt: skip
CHOSEN: dict[str, Any] = {"latent_dim": 5, "balance": 0.5, "floor": 0.2}  # the loader sets `quantile`
LEFT_OUT = (
    ("smurf", "back", "satan", "warezclient", "buffer_overflow"), ("teardrop", "ipsweep", "guess_passwd", "rootkit", "land"),
    ("neptune", "nmap", "warezmaster", "loadmodule"), ("pod", "portsweep", "imap", "ftp_write", "multihop", "perl", "phf", "spy"),
)  # fmt: skip
LEAST_ROWS = 8  # smallest number of rows for which the recall of an attack counts


# --- choices, on KDDTrain+ alone ----------------------------------------------------------------------------------------------


def choose() -> None:
    """Print the figures on which the choices are based."""
    table, attacks = nslkdd.read(remote.fetch(nslkdd.FILES[0]))
    kinds = np.asarray([nslkdd.KIND_OF[attack] for attack in attacks.tolist()])
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


def _by_family(table: dict[str, Array], kinds: Array, changes: dict[str, Any]) -> list[tuple[float, float]]:
    """Return AUROC and recall at 1% of each attack family."""
    normal = np.random.default_rng(0).permutation(np.flatnonzero(kinds == "normal"))
    strange = np.flatnonzero(kinds != "normal")
    cuts = {
        "train": normal[:50_000],
        "calibration": normal[50_000:58_000],
        "test": normal[58_000:],
        "anomalies": strange,
    }
    parts = {part: tables.take(table, rows) for part, rows in cuts.items()}
    data = tables.from_parts("nslkdd-choice", parts, {}, nslkdd.KINDS)
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
    data = tables.from_parts("nslkdd-choice", parts, {}, _kinds(kind), "label")
    trained = in_memory.fit("tabular_cvae", data, **changes)
    right = classified(trained, data) == data.test.labels
    families = attacks[judged]
    recall = [right[families == name].mean() for name in LEFT_OUT[fold] if (attacks == name).sum() >= LEAST_ROWS]
    normal_recall = float(right[families == "normal"].mean())
    return float(0.5 * normal_recall + 0.5 * np.mean(recall)), normal_recall


def _kinds(kind: str) -> ColumnSettings:
    return ColumnSettings(kinds={**dict.fromkeys((*nslkdd.CATEGORIES, *nslkdd.FEW), "categorical"), "*": kind})


# --- on KDDTest+ --------------------------------------------------------------------------------------------------------------


def scores() -> None:
    """Print results of three scores on the rows of KDDTest+: ours, an isolation forest, nearest neighbours."""
    data = datasets.load("nslkdd")
    assert data.anomalies is not None
    usual, strange = Arrays.of(data.test).items, Arrays.of(data.anomalies).items
    table, attacks = nslkdd.read(remote.fetch(nslkdd.FILES[0]))
    known = np.asarray([nslkdd.KIND_OF[attack] for attack in attacks.tolist()])
    others = schema.encode(tables.take(table, known != "normal"), TableSpec.of(data.spec, data.name))
    figures: dict[str, list[tuple[float, ...]]] = {}
    by_seed = []
    for seed in SEEDS:
        forest = IsolationForest(random_state=seed).fit(Arrays.of(data.train).items)
        chosen = np.random.default_rng(seed).permutation(len(data.train))[:10_000]
        nearest = NearestNeighbors(n_neighbors=5).fit(Arrays.of(data.train).items[chosen])
        for name, ranks in (
            ("tabular_vae", in_memory.fit("tabular_vae", data, seed=seed).rank),
            ("isolation forest", lambda items, forest=forest: -forest.score_samples(items)),
            (
                "nearest neighbours (5 of 10 000)",
                lambda items, nearest=nearest: nearest.kneighbors(items)[0].mean(axis=1),
            ),
        ):
            held_out = ranks(Arrays.of(data.calibration).items)
            line = float(np.quantile(held_out, 0.99))
            figures.setdefault(name, []).append(_figures(ranks(usual), ranks(strange), line))
            if name == "tabular_vae":
                seen = ranks(others)
                families = [_against(held_out, seen[known[known != "normal"] == family], line)[0] for family in ATTACKS]
                by_seed.append((float(np.mean(families)), *figures[name][-1][:2]))
    print(
        f"KDDTest+: {len(usual)} normal rows, {len(strange)} attacks; the threshold for 1% is set on {len(data.calibration)} normal rows of KDDTrain+\n"
    )
    print("| method | AUROC | average precision | recall | measured false alarms |\n|---|---|---|---|---|")
    for name, rows in figures.items():
        mean, spread = np.mean(rows, axis=0), np.std(rows, axis=0)
        print(f"| {name} | " + " | ".join(f"{m:.4f} ± {s:.4f}" for m, s in zip(mean, spread, strict=True)) + " |")
    print(
        "\nBy seed, AUROC on the attack families of KDDTrain+ (the shipped model was chosen by it), and AUROC and average precision on KDDTest+:"
    )
    print("; ".join(f"{seed}: {' '.join(f'{value:.4f}' for value in row)}" for seed, row in enumerate(by_seed)))


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


def classes() -> None:
    """Print results of four classifiers on the five classes of KDDTest+: ours, random forest, MLP, gradient boosting."""
    data = datasets.load("nslkdd-classes")
    truth = data.test.labels
    runs: dict[str, list[tuple[float, float, float]]] = {}
    for seed in SEEDS:
        for name, predict in _classifiers(data, seed):
            began = time.perf_counter()
            guess = predict()
            figures = float(accuracy_score(truth, guess)), float(f1_score(truth, guess, average="weighted"))
            runs.setdefault(name, []).append((*figures, time.perf_counter() - began))
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
    parts = {"choose": choose, "scores": scores, "classes": classes, "recovery": recovery}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=parts)
    torch.set_num_threads(1)
    parts[parser.parse_args().part]()


if __name__ == "__main__":
    main()
