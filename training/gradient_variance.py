"""The variance of gradient estimators (`estimators`) for a trained VAE and for the same VAE with its initial weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from manifold.runtime.errors import shown
from manifold.training import estimators, families
from manifold.training.batches import joined
from manifold.training.bounds import repeated
from manifold.training.data import Data, Part
from manifold.training.data.parts import scattered
from manifold.training.errors import TrainingError
from manifold.training.estimators import Draws
from manifold.training.families.vae import VAE
from manifold.training.networks.layers import per_item
from manifold.training.runs import TrainingRun
from manifold.training.train import trained_model

CHUNK = 500  # number of draws that are decoded at once
STAGES = ("initial", "trained")
LABELS = {
    "form_a": "SGVB form A", "form_b": "SGVB form B", "score": "score function", "score_baseline": "score function, baseline",
    "path": "sticking the landing",
}  # fmt: skip
SYMBOLS = {"mean": "∂/∂μ", "log_sigma": "∂/∂log σ"}


def measure(run: TrainingRun, *, items: int, draws: int, seed: int) -> dict[str, Any]:
    """Return the report of a run: for each of STAGES and each estimator the variances of its gradients.

    `items` held-out items are drawn at random. A variance is that over `draws` draws from the posterior of one item, for one
    latent dimension; the report has its mean over items and dimensions. Raises TrainingError if the run's model has no Gaussian posterior.
    """
    check(run)
    data = run.load_data()
    run.check_data(data)
    trained: Any = trained_model(run, data)
    stages = {"initial": untrained(run, data), "trained": trained}
    report = {
        "run": str(run.folder), "family": run.family, "data": run.data, "items": min(items, len(held_out(data))), "draws": draws, "seed": seed
    }  # fmt: skip
    return report | {
        stage: of_model(model, data, items=items, draws=draws, seed=seed) for stage, model in stages.items()
    }


def held_out(data: Data) -> Part:
    """Return the split whose items are used: the one on which options are chosen, or the test split if there is none."""
    return data.test if data.chosen_on is None else data.chosen_on


def check(run: TrainingRun) -> None:
    """Raise TrainingError if the run's model has no Gaussian posterior whose draws are latents of the decoder, or another prior than N(0, I)."""
    gaussian = getattr(run.config, "variational", False) and getattr(run.config, "posterior", "") == "gaussian"
    prior = getattr(run.config, "prior", "normal")
    if gaussian and prior != "normal":
        raise TrainingError(
            f"{run.folder}: its prior is {prior}, and the estimators are those of the prior N(0, I); give a run with prior=normal",
            field="run",
        )
    if not gaussian:
        raise TrainingError(
            f"{run.folder}: its model ({shown(run.family)}) has no Gaussian posterior, whose gradients are estimated; give a run of the family vae "
            "or cvae with variational=true",
            field="run",
        )


def untrained(run: TrainingRun, data: Data) -> Any:
    """Return the run's model with the weights from which its training began, in evaluation mode."""
    resolved = run.resolved(data)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(resolved.config.seed)
        return families.get(run.family).build(resolved.config, data).eval()


def of_model(model: VAE, data: Data, *, items: int, draws: int, seed: int) -> dict[str, Any]:
    """Return the ELBO of the items in nats, and for each estimator the mean variances of its gradients."""
    generator = torch.Generator().manual_seed(seed)
    batch = joined(scattered(held_out(data), items, seed), generator, items)
    x, c = model.settled(batch.items), model.condition(batch.labels, batch.factors)
    sums: dict[str, list[float]] = {name: [0.0] * 2 for name in estimators.NAMES}
    elbo = 0.0
    for place in range(len(x)):
        one = drawn(model, x[place : place + 1], None if c is None else c[place : place + 1], draws, generator)
        elbo += float(one.f.mean()) / len(x)
        for name, estimator in estimators.ESTIMATORS.items():
            for at, gradient in enumerate(estimator(one)):
                sums[name][at] += float(gradient.var(0).mean()) / len(x)
    return {"elbo": elbo, "variances": {name: dict(zip(SYMBOLS, pair, strict=True)) for name, pair in sums.items()}}


def drawn(model: VAE, x: Tensor, c: Tensor | None, draws: int, generator: torch.Generator) -> Draws:
    """Return draws from the posterior of one item x (1, D) in float64, (N, L)."""
    with torch.no_grad():
        mean, log_variance = model.encode(x, c)
    assert log_variance is not None
    log_sigma = 0.5 * log_variance
    noise = torch.randn((draws, mean.shape[1]), generator=generator)
    likelihoods, slopes = [], []
    for part in torch.split(noise, CHUNK):
        z = (mean + log_sigma.exp() * part).requires_grad_()
        nll = per_item(model.likelihood.nll(model.decode(z, repeated(c, len(z))), x.repeat(len(z), 1)))
        (slope,) = torch.autograd.grad(-nll.sum(), z)
        likelihoods.append(-nll.detach())
        slopes.append(slope)
    return Draws(*(each.double() for each in (mean[0], log_sigma[0], noise, torch.cat(likelihoods), torch.cat(slopes))))


# --- the report ---------------------------------------------------------------------------------------------------------------


def to_markdown(report: dict[str, Any]) -> str:
    """Return the tables of a report."""
    lines = [
        f"Variance of the gradient of the ELBO by one draw: {report['items']} items of {report['data']}, {report['draws']} draws for each, "
        "mean over items and latent dimensions."
    ]
    for stage in STAGES:
        found = report[stage]["variances"]
        lines += [
            "",
            f"{stage} weights (ELBO {report[stage]['elbo']:.1f} nats)",
            "",
            "| estimator | " + " | ".join(f"{symbol} | ratio to form B" for symbol in SYMBOLS.values()) + " |",
            "|---|---|---|---|---|",
        ]
        for name, label in LABELS.items():
            cells = [label]
            for key in SYMBOLS:
                value, form_b = found[name][key], found["form_b"][key]
                cells += [f"{value:.3g}", f"{value / form_b:.3g}" if form_b else "–"]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def to_png(report: dict[str, Any]) -> bytes:
    """Return a picture of the variances as a PNG file."""
    import io

    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"{report['family']} on {report['data']}: variance of the gradient of the ELBO by one draw")
    panels = figure.subplots(1, 2, sharey=True)
    for panel, (key, symbol) in zip(panels, SYMBOLS.items(), strict=True):
        bars(panel, report, key)
        panel.set_title(symbol)
    panels[0].legend(fontsize=9)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90)
    return buffer.getvalue()


def bars(panel: Any, report: dict[str, Any], key: str) -> None:
    """Draw the variances by one parameter as bars on a logarithmic axis."""
    places = range(len(LABELS))
    for offset, stage, colour in ((0.2, "initial", "tab:gray"), (-0.2, "trained", "tab:blue")):
        values = [report[stage]["variances"][name][key] for name in LABELS]
        made = panel.barh([place + offset for place in places], values, 0.38, color=colour, label=f"{stage} weights")
        panel.bar_label(made, labels=[f"{value:.2g}" for value in values], padding=2, fontsize=8)
    panel.set_yticks(list(places), list(LABELS.values()))
    panel.set(xscale="log", xlabel="variance")
    panel.set_ylim(len(places) - 0.5, -0.5)
    panel.margins(x=0.2)
    panel.grid(alpha=0.3, axis="x")
