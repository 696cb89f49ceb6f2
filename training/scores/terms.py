"""The descriptions of score terms for manifests."""

from __future__ import annotations

from manifold.runtime.kinds import Kind
from manifold.runtime.manifest import Likelihood, Term
from manifold.training.scores.options import ScoreOptions
from manifold.training.scores.placement import carries


def distances(options: ScoreOptions, spec: Kind) -> list[Term]:
    """Return the terms of `distances.Distances`, in the same order."""
    by_nats = "; an unseen value adds twice its nats to the squared distance" if spec.unseen else ""
    text = f"Mahalanobis distance from the posterior mean to the aggregate posterior{by_nats}"
    terms = [Term(name="latent_distance", kind="distance", description=text)]
    if options.references:
        nearest = f"mean distance to the {options.neighbours} nearest of {options.references} training items"
        text = f"{nearest}, in latent space whitened by the aggregate posterior{by_nats}"
        terms.append(Term(name="latent_neighbours", kind="distance", description=text))
        if carries(spec):
            text = f"{nearest}, in encoded columns{'; an unseen value is as far as another category' if spec.unseen else ''}"
            terms.append(Term(name="input_neighbours", kind="distance", description=text))
    return terms


def squared_error(spec: Kind) -> list[Term]:
    """Return the term of the squared error, if all values of the data have the same unit; else nothing."""
    text = "mean squared error of the reconstruction at the posterior mean, of pixels in [0, 1]"
    return [Term(name="squared_error", kind="distance", description=text)] if spec.one_unit else []


def edges(options: ScoreOptions, spec: Kind) -> list[Term]:
    """Return the terms of `detectors.edges.EdgeTerms`, in the same order, for images; else nothing."""
    if not spec.pictures:
        return []
    of = "strengths of edges in 8 directions, in cells of a grid"
    density = f"-log of a density, in nats, of the {of}: a mixture of Gaussians of their principal components"
    found = [Term(name="edge_mixture", kind="nll", description=density)]
    if options.references:
        nearest = f"distance to the nearest of {options.references} training images, in whitened principal components of the {of}"
        found.insert(0, Term(name="edge_neighbours", kind="distance", description=nearest))
    return found


def reconstruction(description: str) -> Term:
    """Return the term of -log p(x | z)."""
    return Term(name="reconstruction", kind="nll", description=description)


def elbo(likelihood: Likelihood, closed: bool) -> list[Term]:
    """Return the terms of the evidence lower bound other than the reconstruction. `closed` says whether the KL is computed without draws."""
    kl = "KL(q(z | x) || p(z)) in nats" + (
        "" if closed else ", estimated with draws fixed in the artifact, so that it can be negative"
    )
    text = "reconstruction + kl: an upper bound on -log p(x), in nats"
    return [
        Term(name="kl", kind="nll", description=kl),
        Term(name="negative_elbo", kind="nll", description=text, likelihood=likelihood),
    ]
