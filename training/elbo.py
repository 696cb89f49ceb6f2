"""The figures of an autoencoder on the test split: bounds on the likelihood, and how much of the latent is used."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from manifold.runtime.manifest import Metric, figures
from manifold.training import likelihoods
from manifold.training.batches import in_order
from manifold.training.bounds import ACTIVE, active_units, iwae_in_parts
from manifold.training.data import Data
from manifold.training.means import Means, bits_per_dim


def rounded(nats: Tensor) -> list[float]:
    """Return the values of a vector with four decimals."""
    return [round(each, 4) for each in nats.tolist()]


@torch.no_grad()
def report(model: Any, config: Any, data: Data) -> list[Metric]:
    """Return test ELBO, IWAE-k, KL and active units; for the autoencoder only the reconstruction."""
    generator = torch.Generator(next(model.parameters()).device).manual_seed(config.seed)
    form = likelihoods.form_of(config.likelihood, data.spec, by_chance=True)
    protocol = {
        **data.protocol, "likelihood": config.likelihood, "observed": likelihoods.SEEN[form], "n": len(data.test), "seed": config.seed
    }  # fmt: skip
    elbo, tight = (figures.name_of(bound, form, config.iwae_k, model.given) for bound in ("elbo", "iwae"))
    of = f"p(x | {model.given})" if model.given else "p(x)"
    means, places, nats = Means(), [], []
    size = max(1, min(1000, 50_000 // config.iwae_k))
    for batch in in_order(data.test, size, generator):
        x = model.likelihood.observe(batch.items.flatten(1), generator)
        c = model.condition(batch.labels, batch.factors)
        noise = torch.randn((1, len(x), model.noise_size), generator=generator, device=x.device)
        reconstruction, kl = model.terms(x, noise, c)
        means.add({"reconstruction": reconstruction})
        if config.variational:
            mean, each = model.by_dimension(x, c)
            places.append(mean)
            nats += [] if each is None else [each]
            many = torch.randn((config.iwae_k, len(x), model.noise_size), generator=generator, device=x.device)
            means.add({"kl": kl, elbo: -(reconstruction + kl), tight: iwae_in_parts(model, x, many, c)})
    bounds = {"reconstruction": "-E log p(x | z), one draw"}
    if not config.variational:
        return list(means.metrics({name: {**protocol, "bound": bound} for name, bound in bounds.items()}))
    bounds |= {
        "kl": "KL(q(z | x) || p(z))",
        elbo: f"lower bound on log {of}, one draw" + (", analytic KL" if nats else ""),
        tight: f"importance-weighted lower bound on log {of}, k = {config.iwae_k}",
    }
    active = Metric(
        name="active_units",
        value=active_units(torch.cat(places)),
        unit=f"of {model.latent_size}",
        protocol={
            **protocol,
            "rule": f"variance of the posterior mean over the test split above {ACTIVE}",
            **({"kl_by_dimension": rounded(torch.cat(nats).double().mean(0))} if nats else {}),
        },
    )
    found = [*means.metrics({name: {**protocol, "bound": bound} for name, bound in bounds.items()}), active]
    if config.likelihood in likelihoods.DISCRETE:
        bound = {"bound": f"upper bound on -log2 {of}: from the ELBO"}
        found.append(bits_per_dim(means, elbo, math.prod(data.spec.shape), {**protocol, **bound}))
    return found
