"""The priors p(z) of a variational autoencoder, which are trained with it.

    normal        N(0, I)
    mixture       Σ π_k N(mean_k, diag σ_k²)
    vamp          (1/K) Σ q(z | u_k) with learned pseudo-inputs u_k    Tomczak and Welling, 2018, arXiv 1705.07120
    hierarchical  ∫ p(z | ζ) N(ζ; 0, I) dζ                             Klushyn et al., 2019, arXiv 1905.04982
    flow          z = f(ε), ε from N(0, I), by affine couplings        Dinh et al., 2017, arXiv 1605.08803

A prior defines the latent of the artifact. For a normal distribution or a mixture it is z itself. For the others it is standard normal noise from
which z is computed: ε for the flow, and [ζ, ε] with z = mean(ζ) + σ(ζ) ε for the hierarchical prior. The service then needs no prior of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from manifold.runtime.manifest import MixturePrior, NormalPrior
from manifold.runtime.manifest import Prior as PriorSpec
from manifold.training.networks.layers import exact, mlp, per_item
from manifold.training.networks.posteriors import LOG_SCALES, log_normal_density

Encode = Callable[[Tensor], tuple[Tensor, Tensor]]  # inputs (K, D) in [0, 1] to means and log-variances (K, L)


class Prior(nn.Module):
    """The standard normal distribution, and the base class of the others."""

    normal = True  # whether this is N(0, I) in z, for which the KL of a Gaussian has a closed form
    moved = False  # whether the latent of the artifact is not z

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size  # number of values of z
        self.latent = size  # number of values of the latent in the artifact
        self.noise = 0  # number of normals beside those of the posterior, for one draw

    def log_density(self, z: Tensor, noise: Tensor, encode: Encode) -> Tensor:
        """Return log p(z), or an unbiased estimate of p(z) as a log, in nats (N,), for z (N, L) and noise (N, `noise`)."""
        return per_item(log_normal_density(z))

    def from_latent(self, latent: Tensor) -> Tensor:
        """Map latents of the artifact (B, `latent`) to z (B, L)."""
        return latent

    def to_latent(self, z: Tensor, noise: Tensor) -> Tensor:
        """Map z (B, L) to a latent of the artifact (B, `latent`), drawn with noise (B, `noise`) if several belong to z."""
        return z

    def specs(self, encode: Encode) -> dict[str, PriorSpec]:
        """Return the priors of the artifact's latent, by name."""
        return {"normal": NormalPrior()}

    def draw(self, n: int, encode: Encode, generator: torch.Generator) -> Tensor:
        """Return draws from the prior in the latent of the artifact, (n, `latent`)."""
        return torch.randn((n, self.latent), generator=generator, device=generator.device)


class _Mixture(Prior):
    """The base class of mixtures of diagonal Gaussians."""

    normal = False

    def components(self, encode: Encode) -> tuple[Tensor, Tensor, Tensor]:
        """Return log weights (K,), means and log-variances (K, L)."""
        raise NotImplementedError

    def log_density(self, z: Tensor, noise: Tensor, encode: Encode) -> Tensor:
        """Return log p(z) in nats (N,) for z (N, L).

        The distances are matrix products instead of an array (N, K, L). Their terms cancel, so that they are computed in double precision.
        """
        log_weights, means, log_variances = (each.double() for each in self.components(encode))
        precisions, at = (-log_variances).exp(), z.double()
        squares = at**2 @ precisions.T - 2 * at @ (means * precisions).T + (means**2 * precisions).sum(1)
        constants = log_weights - 0.5 * (log_variances + math.log(2 * math.pi)).sum(1)
        return (constants - 0.5 * squares).logsumexp(1).to(exact(z).dtype)

    def specs(self, encode: Encode) -> dict[str, PriorSpec]:
        log_weights, means, log_variances = (each.double().cpu() for each in self.components(encode))
        weights = log_weights.exp() / log_weights.exp().sum()
        factors = torch.diag_embed((0.5 * log_variances).exp())
        return {
            "learned": MixturePrior(
                weights=_rounded(weights), means=_rounded(means), choleskys=_rounded(factors), file=None
            )
        }

    def draw(self, n: int, encode: Encode, generator: torch.Generator) -> Tensor:
        log_weights, means, log_variances = self.components(encode)
        chosen = torch.multinomial(log_weights.exp(), n, replacement=True, generator=generator)
        noise = torch.randn((n, self.size), generator=generator, device=generator.device)
        return means[chosen] + (0.5 * log_variances[chosen]).exp() * noise


def _rounded(values: Tensor) -> Any:
    """Return nested tuples of numbers with nine significant digits."""
    if values.dim():
        return tuple(_rounded(each) for each in values)
    return float(f"{float(values):.9g}")


class Mixture(_Mixture):
    """A mixture whose weights, means and variances are parameters."""

    def __init__(self, size: int, components: int) -> None:
        super().__init__(size)
        self.logits = nn.Parameter(torch.zeros(components))
        self.means = nn.Parameter(torch.randn(components, size))
        self.log_variances = nn.Parameter(torch.zeros(components, size))

    def components(self, encode: Encode) -> tuple[Tensor, Tensor, Tensor]:
        return self.logits.log_softmax(0), self.means, self.log_variances.clamp(*LOG_SCALES)


class Vamp(_Mixture):
    """A mixture of the posteriors of pseudo-inputs (Tomczak and Welling, 2018, eq. 9), which are parameters. They start at training items."""

    def __init__(self, size: int, items: Tensor) -> None:
        """Initialise with items (K, D) in [0, 1]."""
        super().__init__(size)
        self.logits = nn.Parameter(items.clamp(0.02, 0.98).logit())

    def inputs(self) -> Tensor:
        """Return the pseudo-inputs (K, D) in [0, 1]."""
        return self.logits.sigmoid()

    def components(self, encode: Encode) -> tuple[Tensor, Tensor, Tensor]:
        means, log_variances = encode(self.inputs())
        return torch.full_like(means[:, 0], -math.log(len(means))), means, log_variances.clamp(*LOG_SCALES)


class Hierarchical(Prior):
    """A prior with one more level, whose density is estimated by one draw from q(ζ | z). The estimate of p(z) is unbiased."""

    normal, moved = False, True
    HIDDEN = 256

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.latent, self.noise = 2 * size, size
        self.down = mlp([size, self.HIDDEN, self.HIDDEN, 2 * size])  # p(z | ζ)
        self.up = mlp([size, self.HIDDEN, self.HIDDEN, 2 * size])  # q(ζ | z)

    def log_density(self, z: Tensor, noise: Tensor, encode: Encode) -> Tensor:
        top, log_q = self._top(z, noise)
        mean, log_variance = self._of(self.down, top)
        return per_item(log_normal_density(top) - log_q + log_normal_density(z, mean, log_variance))

    def from_latent(self, latent: Tensor) -> Tensor:
        mean, log_variance = self._of(self.down, latent[:, : self.size])
        return mean + (0.5 * log_variance).exp() * latent[:, self.size :]

    def to_latent(self, z: Tensor, noise: Tensor) -> Tensor:
        top, _ = self._top(z, noise)
        mean, log_variance = self._of(self.down, top)
        return torch.cat([top, (z - mean) * (-0.5 * log_variance).exp()], 1)

    def _top(self, z: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return a draw ζ from q(ζ | z), and the log densities of its values."""
        mean, log_variance = self._of(self.up, z)
        top = mean + (0.5 * log_variance).exp() * noise
        return top, log_normal_density(top, mean, log_variance)

    @staticmethod
    def _of(network: nn.Module, given: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_variance = exact(network(given)).chunk(2, 1)
        return mean, log_variance.clamp(*LOG_SCALES)


class Coupling(nn.Module):
    """An affine coupling (Dinh et al., 2017, eq. 7 and 8): the values in one half of a mask scale and shift those in the other half."""

    def __init__(self, size: int, hidden: int, odd: bool) -> None:
        super().__init__()
        self.kept = nn.Buffer((torch.arange(size) % 2 == int(odd)).float(), persistent=False)
        self.network = mlp([size, hidden, hidden, 2 * size])
        last = self.network[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def parameters_of(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return log scale and shift (N, L), which are 0 for kept values."""
        log_scale, shift = exact(self.network(z * self.kept)).chunk(2, 1)
        return 2 * torch.tanh(0.5 * log_scale) * (1 - self.kept), shift * (1 - self.kept)


class Flow(Prior):
    """A normalising flow of affine couplings."""

    normal, moved = False, True
    COUPLINGS, HIDDEN = 6, 128

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.couplings: Any = nn.ModuleList(Coupling(size, self.HIDDEN, bool(k % 2)) for k in range(self.COUPLINGS))

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return ε (N, L) and log |det dε/dz| (N,)."""
        log_determinant = torch.zeros_like(z[:, 0])
        for coupling in reversed(self.couplings):
            log_scale, shift = coupling.parameters_of(z)
            z = (z - shift) * (-log_scale).exp()
            log_determinant = log_determinant - per_item(log_scale)
        return z, log_determinant

    def log_density(self, z: Tensor, noise: Tensor, encode: Encode) -> Tensor:
        noise, log_determinant = self.inverse(z)
        return per_item(log_normal_density(noise)) + log_determinant

    def from_latent(self, latent: Tensor) -> Tensor:
        z = latent
        for coupling in self.couplings:
            log_scale, shift = coupling.parameters_of(z)
            z = z * log_scale.exp() + shift
        return z

    def to_latent(self, z: Tensor, noise: Tensor) -> Tensor:
        return self.inverse(z)[0]


def words_of(prior: str, components: int) -> str:
    """Return the name of a prior for descriptions, after a comma. That of N(0, I) is empty."""
    words = {
        "mixture": f"a learned mixture of {components} Gaussians as prior",
        "vamp": f"VampPrior of {components} pseudo-inputs",
        "hierarchical": "a learned hierarchical prior",
        "flow": "a normalising flow as prior",
    }
    return f", {words[prior]}" if prior in words else ""
