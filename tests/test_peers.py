"""The peers of a detector: what they are, which of them are named as better, and their agreement with the model without labels."""

from __future__ import annotations

import html
import json
import re
import shutil

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import rankdata, spearmanr

from manifold.cli import detection
from manifold.evaluation import agreement, anomaly, anomaly_page, judged_items, peers
from manifold.evaluation.agreement import OWN
from manifold.runtime import manifest as manifests
from manifold.runtime.engine import Model, load
from manifold.runtime.kinds.table import TableSpec
from manifold.runtime.manifest import Scoring, Term
from tests.conftest import SHIPPED
from tests.test_fit import scorer

Float64 = NDArray[np.float64]
ONE_TERM = Scoring(terms=(Term(name="a", kind="nll", description="the item"),), score="a")

# --- baselines ---


@pytest.mark.parametrize("better", ["IForest", "input kNN"])
def test_a_peer_that_is_better_is_named(better: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model puts one anomaly above all rows and one below. One peer puts both above all rows, the other one neither."""
    rows, strange = np.arange(100.0)[:, None], np.asarray([[200.0], [-1.0]])
    perfect = np.concatenate([np.zeros(100), np.ones(2)])
    fitted: dict[str, peers.Peer] = {"IForest": lambda items: -perfect, "input kNN": lambda items: -perfect}
    fitted[better] = lambda items: perfect
    monkeypatch.setattr(peers, "fit", lambda train: fitted)
    found = anomaly.judge(scorer(np.linspace(0, 100, 500)), rows, rows, strange)
    assert found.terms["a"]["auroc"] == 0.5
    assert {name: numbers["auroc"] for name, numbers in found.peers.items()} == {
        name: float(name == better) for name in fitted
    }
    assert found.warnings == [
        f"the baseline {peers.NAMES[better]} is better here: its AUROC is 1.000, this model's is 0.500"
    ]


def test_a_score_below_chance_is_a_warning_and_no_peer_that_is_not_usable_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows, strange = np.arange(100.0)[:, None], np.asarray([[-1.0], [-2.0]])
    low = np.concatenate([np.arange(100.0), np.asarray([40.0, 40.0])])
    monkeypatch.setattr(peers, "fit", lambda train: {"IForest": lambda items: low})
    (warning,) = anomaly.judge(scorer(np.linspace(0, 100, 500)), rows, rows, strange).warnings
    assert warning.startswith("the AUROC 0.000 is below 0.5")
    assert "no important column is left out" in warning


def test_peers_as_good_as_the_model_are_not_named(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, strange = np.arange(100.0)[:, None], np.asarray([[200.0], [-1.0]])
    fitted = dict.fromkeys(("IForest", "input kNN"), lambda items: items[:, 0])
    monkeypatch.setattr(peers, "fit", lambda train: fitted)
    assert anomaly.judge(scorer(np.linspace(0, 100, 500)), rows, rows, strange).warnings == []


def test_peers_are_a_forest_and_the_mean_distance_to_five_neighbours() -> None:
    train = np.concatenate([np.zeros((3, 2)), np.full((4, 2), 3.0)])
    train[:, 1] = np.nan  # the column is missing in every item, and counts as 0
    found = peers.fit(train)["input kNN"](np.asarray([[0.0, np.nan], [13.0, 0.0], [3.0, 4.0]]))
    assert found.tolist() == pytest.approx([(3 + 3) / 5, (4 * 10 + 13) / 5, (4 * 4 + 5) / 5])
    usual = np.random.default_rng(0).normal(size=(200, 2))
    forest = peers.fit(usual)["IForest"](np.asarray([[0.0, 0.0], [6.0, 6.0]]))
    assert forest[1] > forest[0] + 0.2


def test_figures_do_not_depend_on_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Held-out items and anomalies may share a batch. For larger items batches are smaller and peers are fitted on fewer items."""
    generator = np.random.Generator(np.random.Philox(0))
    train, test, known = (generator.normal(place, 1, (n, 3)) for n, place in ((600, 0), (301, 0), (40, 2)))

    def judged() -> anomaly.Judgement:
        return anomaly.judge(scorer(np.linspace(0, 100, 500)), train, test, known)

    whole = judged()
    monkeypatch.setattr(judged_items, "SCORED_VALUES", 3 * 50)
    assert [len(items) for items in judged_items.JudgedItems(test, known).batches()] == [50] * 6 + [41]
    parts = judged()
    assert (parts.peers, parts.terms, parts.rates) == (whole.peers, whole.terms, whole.rates)
    assert whole.scores is not None and parts.scores is not None
    assert np.array_equal(parts.scores, whole.scores)
    monkeypatch.setattr(peers, "FITTED_VALUES", 3 * 100)
    assert judged().peers != whole.peers


def test_one_peer_is_a_gaussian() -> None:
    """The distances of 3 of 4 related columns are those of the shrunk covariance (Ledoit and Wolf, 2004), which is computed here by hand."""
    generator = np.random.default_rng(0)
    train = generator.normal(size=(300, 3)) @ np.asarray([[2.0, 1.0, 0.0], [0.0, 0.3, 1.0], [0.0, 0.0, 0.5]]) + 5
    n, d = train.shape
    centred = train - train.mean(axis=0)
    sample = centred.T @ centred / n
    scale = np.trace(sample) / d
    spread = ((sample - scale * np.eye(d)) ** 2).sum()
    error = sum(((np.outer(row, row) - sample) ** 2).sum() for row in centred) / n**2
    share = min(error, spread) / spread
    covariance = (1 - share) * sample + share * scale * np.eye(d)
    items = generator.normal(5, 3, size=(50, 3))
    far = items - train.mean(axis=0)
    expected = np.sqrt(np.einsum("ni,ij,nj->n", far, np.linalg.inv(covariance), far))
    np.testing.assert_allclose(peers.fit(train.astype(np.float32))["Gaussian"](items), expected, rtol=1e-4)


def test_a_missing_value_adds_no_distance_from_the_mean() -> None:
    """A category is three columns that sum to 1. If it is missing, the distance is that of a row with the mean values."""
    generator = np.random.default_rng(0)
    train = np.concatenate([generator.normal(size=(400, 1)), np.eye(3)[generator.integers(3, size=400)]], axis=1)
    train[:4, 1:] = train[4:9, 0] = np.nan
    mean = np.nanmean(train, axis=0)
    blank, unseen = np.asarray([0.5, np.nan, np.nan, np.nan]), np.asarray([0.5, 0, 0, 0])
    usual = np.asarray([0.5, 1, 0, 0])
    distance = peers.fit(train)["Gaussian"]
    found = distance(np.stack([blank, np.concatenate([[0.5], mean[1:]]), usual, unseen]))
    assert found[0] == pytest.approx(found[1])
    assert found[0] < found[2] < found[3] / 3
    assert distance(np.full((1, 4), np.nan)) == pytest.approx(0, abs=1e-6)
    train[:, 0] = np.nan
    assert np.isfinite(peers.fit(train)["Gaussian"](train)).all()


def test_a_gaussian_of_equal_rows_and_of_large_items(monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal rows have no covariance, so that all distances are 0. Larger items than its limit have no Gaussian, and neither has one row."""
    same = np.ones((30, 2))
    assert peers.fit(same)["Gaussian"](np.asarray([[1.0, 1.0], [9.0, 1.0]])).tolist() == [0, 0]
    assert list(peers.fit(same[:1])) == ["IForest", "input kNN"]
    monkeypatch.setattr(peers, "GAUSSIAN_VALUES", 1)
    assert list(peers.fit(same)) == ["IForest", "input kNN"]
    assert peers.fit(same[:0]) == {}


# --- agreement ---


def compared(n: int, seed: int = 0, *, levels: int | None = None) -> tuple[agreement.Agreement, dict[str, Float64]]:
    """Return the agreement of three detectors whose scores are related, and the scores. `levels`: they are rounded, so that many are equal."""
    generator = np.random.default_rng(seed)
    common = generator.normal(size=n)
    scores = {name: common + 2 * generator.normal(size=n) for name in (OWN, "IForest", "input kNN")}
    if levels is not None:
        scores = {name: np.round(levels * values) for name, values in scores.items()}
    own, *others = scores
    return agreement.compare(scores[own], {name: scores[name] for name in others}), scores


@pytest.mark.parametrize(("n", "levels"), [(2, None), (9, 1), (300, None), (1500, 2)])
def test_a_rank_correlation_is_that_of_the_mean_ranks(n: int, levels: int | None) -> None:
    """Each pair of detectors has the correlation of scipy, which is Pearson's of the ranks if equal scores share their mean rank."""
    found, scores = compared(n, levels=levels)
    assert list(found.correlations) == [(OWN, "IForest"), (OWN, "input kNN"), ("IForest", "input kNN")]
    for (a, b), value in found.correlations.items():
        assert value == spearmanr(scores[a], scores[b]).statistic
        assert value == pytest.approx(np.corrcoef(rankdata(scores[a]), rankdata(scores[b]))[0, 1])


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(
    ("n", "levels", "top"), [(40, None, 10), (400, 1, 10), (999, 3, 10), (1001, None, 11), (3000, 20, 30)]
)
def test_the_lists_are_those_of_the_definition(n: int, levels: int | None, top: int, seed: int) -> None:
    """Ranks are counted item by item. The rank of an item is 1 plus the number of items with a higher score."""
    found, scores = compared(n, seed, levels=levels)
    assert (found.top, found.far) == (top, 3 * top)
    ranks = {name: [1 + sum(values > value) for value in values.tolist()] for name, values in scores.items()}
    assert {name: each.tolist() for name, each in found.ranks.items()} == ranks
    for name in scores:
        only = [
            item for item in range(n)
            if ranks[name][item] <= top and all(ranks[other][item] > 3 * top for other in scores if other != name)
        ]  # fmt: skip
        assert found.only(name).tolist() == sorted(only, key=lambda item: (ranks[name][item], item))
        assert found.sizes[name] == len(only)
        for other in scores:
            both = [item for item in range(n) if ranks[name][item] <= top and ranks[other][item] <= top]
            assert found.shared(name, other) == len(both)


def test_some_lists_have_rows() -> None:
    assert all(sum(compared(400, seed)[0].sizes.values()) for seed in range(8))
    assert sum(compared(400, seed, levels=1)[0].sizes[OWN] for seed in range(8))


def test_items_with_the_same_high_score_are_all_ranked_high() -> None:
    """Twenty of 100 items share the highest score of a peer, so that no other detector finds them alone."""
    own, peer = np.arange(100.0), np.where(np.arange(100) < 20, 9.0, -np.arange(100.0))
    found = agreement.compare(own, {"IForest": peer})
    assert found.high("IForest").sum() == 20
    assert found.only("IForest").tolist() == list(range(20))
    assert found.only(OWN).tolist() == list(range(99, 89, -1))
    assert agreement.compare(-own, {"IForest": peer}).only(OWN).tolist() == []


@pytest.mark.parametrize("n", [1, 2, 7, 10, 30, 31])
def test_few_items_have_no_lists(n: int) -> None:
    """No rank is above 3 times 10 among at most 30 items. Fewer items than 10 are all ranked high."""
    own = np.arange(float(n))
    found = agreement.compare(own, {"IForest": -own})
    assert found.top == min(n, 10)
    if n < 10:
        return
    assert found.lists == (n > 30)
    assert found.sizes == dict.fromkeys((OWN, "IForest"), 1 if n == 31 else 0)
    said = " ".join(agreement.doubts(found, "rows", peers.NAMES))
    assert found.compares == (n > 10)
    if n == 10:
        assert said == "10 rows are too few to compare detectors; this takes more than 10."
        return
    assert (
        f"{n} rows are too few to find those that only one detector ranks high; this takes more than 30." in said
    ) == (n <= 30)


def test_equal_scores_are_no_ranks() -> None:
    """A constant detector has no correlation, ranks nothing high, and does not hide what another one ranks high."""
    own, zeros = np.arange(200.0), np.zeros(200)
    found = agreement.compare(own, {"IForest": -own, "input kNN": zeros})
    assert found.correlations == {
        (OWN, "IForest"): pytest.approx(-1),
        (OWN, "input kNN"): None,
        ("IForest", "input kNN"): None,
    }
    assert found.sizes == {OWN: 10, "IForest": 10, "input kNN": 0}
    assert found.shared(OWN, "input kNN") == 0
    assert agreement.doubts(found, "rows", peers.NAMES) == [
        "All scores of nearest neighbours are equal, so it does not rank rows."
    ]
    alone = agreement.compare(own, {"IForest": zeros})
    assert (alone.lists, alone.sizes) == (False, {OWN: 0, "IForest": 0})


# --- judge ---


def test_rows_without_labels_are_compared_with_peers() -> None:
    """The correlations are those of the scores of the model and of peers that are fitted again."""
    generator = np.random.default_rng(0)
    train, test, known = (generator.normal(place, 1, (n, 3)) for n, place in ((400, 0), (150, 0), (20, 2)))
    model = scorer(np.linspace(0, 5, 500))
    for anomalies, items in ((None, test), (known, np.concatenate([test, known]))):
        judged = anomaly.judge(model, train, test, anomalies)
        assert judged.agreement is not None
        assert judged.agreement.n == len(items)
        assert judged.agreement.peers == list(peers.NAMES)
        for name, peer in peers.fit(train).items():
            expected = spearmanr(items[:, 0], peer(items)).statistic
            assert judged.agreement.correlations[OWN, name] == pytest.approx(expected, abs=1e-12)
        assert set(judged.peers) == (set() if anomalies is None else set(peers.NAMES))
    assert anomaly.judge(model, train[:0], test).agreement is None
    assert anomaly.judge(model, train[:0], test, known).peers == {}


def test_the_text_states_correlations_lists_and_their_meaning() -> None:
    own = np.arange(400.0)
    first = np.concatenate([np.arange(200.0), np.arange(200.0)])
    found = agreement.compare(own, {"IForest": own**3, "Gaussian": -own})
    judgement = anomaly.Judgement([], normal=np.zeros(400, bool), scores=own, agreement=found)
    lines = "\n".join(detection.summary(judgement, ONE_TERM, "rows", paged=True)).splitlines()
    assert lines == [
        "Agreement with detectors that were fitted to the same training rows, on 400 held-out rows:",
        "  detectors                               rank correlation  among the 10 highest of both",
        "  this model, isolation forest                       1.000                            10",
        "  this model, Mahalanobis distance                  -1.000                             0",
        "  isolation forest, Mahalanobis distance            -1.000                             0",
        agreement.meaning("rows"),
        "Number of rows that only one detector ranks high: this model 0, isolation forest 0, Mahalanobis distance 10. The report page lists them.",
        "Rank 1 is the highest score, and equal scores have the same rank. A detector ranks rows high if their rank is at most 10 (1% of the 400 rows, "
        "at least 10). Only one detector ranks them high if their rank in every other detector is above 30 (3 times 10).",
    ]  # fmt: skip
    judgement = anomaly.Judgement(
        [], normal=np.zeros(15, bool), anomalies=5, agreement=agreement.compare(first[:20], {"IForest": np.ones(20)})
    )
    _, head, line, _, *doubts = "\n".join(detection.summary(judgement, ONE_TERM, "images")).splitlines()
    assert line.split() == ["this", "model,", "isolation", "forest", "undefined", "0"]
    assert "among the 10 highest" in head
    assert doubts == [
        "All scores of isolation forest are equal, so it does not rank images.",
        "20 images are too few to find those that only one detector ranks high; this takes more than 30.",
    ]


# --- page and manifest ---


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Return a copy of a shipped detector of rows."""
    folder = tmp_path_factory.mktemp("models") / "creditcard-vae"
    return load(shutil.copytree(SHIPPED / "creditcard-vae", folder), device="cpu")


def rows_of(model: Model, n: int, seed: int) -> NDArray[np.float32]:
    """Return rows as model inputs. One in 30 has an odd value in one column."""
    generator = np.random.default_rng(seed)
    items = generator.normal(size=(n, *model.manifest.spec.shape)).astype(np.float32)
    items[::30, generator.integers(items.shape[1])] *= 5
    return items


def lists(page: str) -> dict[str, list[list[str]]]:
    """Return the tables of rows that only one detector ranks high, by detector: the cells of each row."""
    section = page.split("<h3>Rows that only one detector ranks high</h3>")[1].split("<h2>")[0]
    found = {}
    for part in section.split("<h4>Only ")[1:]:
        name = part.split(":")[0]
        lines = part.split("</table>")[0].split("<tr>")[2:]
        found[name] = [
            [html.unescape(re.sub("<.*?>", "", cell)) for cell in re.findall("<td>(.*?)</td>", line)] for line in lines
        ]
    return found


@pytest.mark.parametrize("labelled", [False, True])
def test_the_page_lists_the_rows_that_only_one_detector_ranks_high(model: Model, labelled: bool) -> None:
    """Each list has the ranks in all detectors, what is known, and the reasons of the model for its own rows."""
    train, test = rows_of(model, 500, 0), rows_of(model, 300, 1)
    known = rows_of(model, 12, 2) * 2 if labelled else None
    found = anomaly.judge(model, train, test, known)
    compared = found.agreement
    assert compared is not None
    page = anomaly_page.to_html(model, found, test, known)
    assert re.findall("<h2>(.*?)</h2>", page)[-3:] == [
        "The most anomalous rows",
        "Comparison with other detectors",
        "Columns",
    ]
    assert (
        f"Each ranks the {312 if labelled else 300} held-out rows{', including the known anomalies' if labelled else ''}."
        in page
    )
    assert html.escape(agreement.meaning("rows")) in page
    for (a, b), value in compared.correlations.items():
        names = f"{peers.NAMES.get(a, a)}, {peers.NAMES.get(b, b)}"
        assert f"<tr><td>{names}</td><td>{value:.3f}</td><td>{compared.shared(a, b)} rows</td></tr>" in page
    shown = lists(page)
    assert sum(compared.sizes.values()) > 3
    spec = TableSpec.of(model.manifest.spec, "model")
    for name in compared.ranks:
        title, only = peers.NAMES.get(name, name), compared.only(name)
        if not len(only):
            assert title not in shown and f"<p>Only {title}: no row.</p>" in page
            continue
        assert f"<h4>Only {title}: {len(only)} of {compared.n} rows" in page
        assert len(shown[title]) == min(10, len(only))
        for place, cells in zip(only.tolist(), shown[title], strict=False):
            assert cells[:4] == [str(each[place]) for each in compared.ranks.values()]
            if labelled:
                assert cells[4] == ("anomaly" if place >= 300 else "normal")
            assert (len(cells) == 5 + labelled + (name == OWN)) and cells[-1].startswith(f"show{spec.names[0]} = ")
            assert ("expected" in cells[-2] or "latent space" in cells[-2]) == (name == OWN)


def test_equal_scores_are_stated_on_every_surface(model: Model) -> None:
    """All evaluated rows are equal, so that no detector ranks them. Nothing that is not a number is recorded."""
    train, test = rows_of(model, 100, 0), np.repeat(rows_of(model, 1, 3), 40, axis=0)
    found = anomaly.judge(model, train, test)
    assert found.agreement is not None
    assert set(found.agreement.correlations.values()) == {None}
    scoring = model.manifest.scoring
    assert scoring is not None
    page = anomaly_page.to_html(model, found, test)
    text = "\n".join(detection.summary(found, scoring, "rows"))
    assert page.count("<td>undefined</td>") == text.count("undefined") == 6
    for name in (OWN, *peers.NAMES.values()):
        for surface in (page, text):
            assert f"All scores of {name} are equal, so it does not rank rows." in surface
    assert "nan" not in text.lower() and "ranks high" not in text
    recorded = anomaly.record(model, found)
    assert not [metric for metric in recorded.metrics if metric.name.startswith("rank_correlation")]
    strict = json.loads((model.folder / "manifest.json").read_text(), parse_constant=lambda text: pytest.fail(text))
    assert [metric for metric in strict["metrics"] if metric["name"].startswith("flagged_unlabelled")]


def test_the_manifest_records_correlations_in_place_of_earlier_ones(model: Model) -> None:
    """There is a figure for each peer. It states the numbers of items, of highly ranked items, and of those that both rank high."""
    test = rows_of(model, 200, 4)
    for n in (100, 300):
        found = anomaly.judge(model, rows_of(model, n, 0), test)
        anomaly.record(model, found)
    metrics = [metric for metric in manifests.read(model.folder).metrics if metric.name.startswith("rank_correlation")]
    assert [metric.name for metric in metrics] == [
        "rank_correlation_isolation_forest", "rank_correlation_nearest_neighbours", "rank_correlation_mahalanobis_distance",
    ]  # fmt: skip
    compared = found.agreement
    assert compared is not None
    for metric, name in zip(metrics, peers.NAMES, strict=True):
        assert metric.value == pytest.approx(compared.correlations[OWN, name], rel=1e-5)
        assert {key: metric.protocol[key] for key in ("by", "n", "peer", "ranked_high", "both_rank_high")} == {
            "by": "manifold fit", "n": 200, "peer": name, "ranked_high": 10, "both_rank_high": compared.shared(OWN, name),
        }  # fmt: skip
