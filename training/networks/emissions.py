"""The distribution of one position of an autoregressive network, given all earlier positions: a softmax or a mixture over levels, or a density.

Like a likelihood, an emission defines everything about it in one place: the embedding of values (`embed`), the parameters computed from the
network's features (`parameters_of`), the nll in nats, and sampling by inverse CDF (`pick`). A position has one or more parts (the colours of
a pixel) in order: the second is conditioned on the first, the third on both (van den Oord et al., 2016, arXiv 1601.06759, section 3.3).
Values have the shape (..., parts). Random numbers are always arguments.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from manifold.training.networks import logistic
from manifold.training.networks.layers import exact
from manifold.training.networks.logistic import LEAST_LOG_SCALE, softplus

EDGE = 1e-6  # uniforms are clamped to [EDGE, 1 - EDGE] before a quantile is computed


class Emission(nn.Module):
    """The interface of emissions, with the modules that all share: a trunk and a head for each part."""

    integers: bool  # whether values are int64 levels; otherwise they are float32 in [0, 1]
    draws: int  # number of uniforms for one value

    def __init__(self, parts: int, channels: int, head: int, width: int, embedded: int = 0) -> None:
        super().__init__()
        self.parts = parts
        self.channels, self.embedded = channels, embedded or channels  # sizes of features and of embeddings
        self.trunk = nn.Sequential(nn.ReLU(), nn.Linear(channels, head))
        self.heads = nn.ModuleList(nn.Sequential(nn.ReLU(), nn.Linear(head, width)) for _ in range(parts))

    def embed(self, values: Tensor) -> Tensor:
        """Map values (..., parts) to (..., embedded)."""
        raise NotImplementedError

    def parameters_of(self, features: Tensor, values: Tensor) -> Tensor:
        """Map features (..., channels) and the values themselves (..., parts) to parameters (..., parts, width)."""
        raise NotImplementedError

    def nll(self, parameters: Tensor, values: Tensor) -> Tensor:
        """Return -log p in nats, (..., parts)."""
        raise NotImplementedError

    def logits(self, parameters: Tensor) -> Tensor:
        """Return unnormalised log p of every level, (..., parts, levels). Raises NotImplementedError for densities."""
        raise NotImplementedError

    def pick(self, features: Tensor, uniforms: Tensor, temperature: Tensor) -> Tensor:
        """Draw values (B, parts), each part given the earlier ones, from features (B, channels), uniforms (B, draws parts), temperature (B,)."""
        raise NotImplementedError


class Levels(Emission):
    """A softmax over the levels 0 .. levels - 1 of each part. Its parameters are logits."""

    integers = True
    draws = 1

    def __init__(self, levels: int, parts: int, channels: int, head: int, embedded: int = 0) -> None:
        super().__init__(parts, channels, head, levels, embedded)
        self.levels = levels
        self.embedding = nn.Embedding(parts * levels, self.embedded)
        self.told = nn.Embedding((parts - 1) * levels, head) if parts > 1 else nn.Identity()

    def embed(self, values: Tensor) -> Tensor:
        if self.parts == 1:
            alone: Tensor = self.embedding(values[..., 0])
            return alone
        every: Tensor = self.embedding(values + self.levels * torch.arange(self.parts, device=values.device))
        return every.sum(-2)

    def parameters_of(self, features: Tensor, values: Tensor) -> Tensor:
        h, logits = self.trunk(features), []
        for part, head in enumerate(self.heads):
            logits.append(head(h))
            if part + 1 < self.parts:
                h = h + self.told(values[..., part] + part * self.levels)
        return torch.stack(logits, -2)

    def nll(self, parameters: Tensor, values: Tensor) -> Tensor:
        return -exact(parameters).log_softmax(-1).gather(-1, values[..., None])[..., 0]

    def logits(self, parameters: Tensor) -> Tensor:
        return parameters

    def pick(self, features: Tensor, uniforms: Tensor, temperature: Tensor) -> Tensor:
        h, picked = self.trunk(features), []
        for part, head in enumerate(self.heads):
            level = logistic.component(head(h) / temperature[:, None], uniforms[:, part : part + 1])[:, 0]
            picked.append(level)
            if part + 1 < self.parts:
                h = h + self.told(level + part * self.levels)
        return torch.stack(picked, 1)


class LogisticMixture(Emission):
    """A mixture of discretised logistic distributions over levels, as in PixelCNN++ (Salimans et al., 2017, arXiv 1701.05517, eq. 2 and 3).

    As there, the means of a part are shifted by multiples of the earlier parts, here in addition to the conditioning by `told`. Parameters
    (..., parts, 3 K) are the components' logits, means and log scales, in units of the range [0, 1]. A draw takes two uniforms: one for the
    component, one for the value.
    """

    integers = True
    draws = 2

    def __init__(self, components: int, levels: int, parts: int, channels: int, head: int, embedded: int = 0) -> None:
        super().__init__(parts, channels, head, (2 + parts) * components, embedded)
        self.components, self.levels, self.edge = components, levels, EDGE
        self.embedding = nn.Linear(parts, self.embedded)
        self.told = nn.ModuleList(nn.Linear(1, head) for _ in range(parts - 1))

    def embed(self, values: Tensor) -> Tensor:
        embedded: Tensor = self.embedding(self._scaled(values))
        return embedded

    def parameters_of(self, features: Tensor, values: Tensor) -> Tensor:
        scaled, h, parameters = self._scaled(values), self.trunk(features), []
        for part, head in enumerate(self.heads):
            parameters.append(self._shifted(head(h), scaled, part))
            for place, embed in enumerate(self.told):
                if place == part:
                    h = h + embed(scaled[..., part : part + 1])
        return torch.stack(parameters, -2)

    def nll(self, parameters: Tensor, values: Tensor) -> Tensor:
        logits, means, log_scales = exact(parameters).chunk(3, -1)
        return logistic.mixture_nll(values / float(self.levels - 1), logits, means, log_scales, self.levels)

    def logits(self, parameters: Tensor) -> Tensor:
        logits, means, log_scales = exact(parameters).chunk(3, -1)
        return logistic.level_logits(logits, means, log_scales, self.levels)

    def pick(self, features: Tensor, uniforms: Tensor, temperature: Tensor) -> Tensor:
        h, picked = self.trunk(features), []
        scaled = torch.zeros_like(uniforms[:, : self.parts])
        for part, head in enumerate(self.heads):
            logits, means, log_scales = self._shifted(head(h), scaled, part).chunk(3, 1)
            level = logistic.draw(
                logits / temperature[:, None], means, log_scales + temperature.log()[:, None],
                uniforms[:, 2 * part : 2 * part + 1], uniforms[:, 2 * part + 1 : 2 * part + 2], self.levels, self.edge,
            )  # fmt: skip
            picked.append(level)
            value = self._scaled(level[:, None])
            scaled = torch.cat([scaled[:, :part], value, scaled[:, part + 1 :]], 1)
            for place, embed in enumerate(self.told):
                if place == part:
                    h = h + embed(value)
        return torch.stack(picked, 1)

    def _scaled(self, levels: Tensor) -> Tensor:
        """Map levels to [-1, 1]."""
        return levels.to(torch.float32) * (2.0 / float(self.levels - 1)) - 1.0

    def _shifted(self, outputs: Tensor, scaled: Tensor, part: int) -> Tensor:
        """Return logits, means and log scales (..., 3 K) from a head's outputs (..., (2 + parts) K) and the earlier parts of `scaled` (..., parts)."""
        k = self.components
        means = outputs[..., k : 2 * k]
        for earlier in range(part):
            at = (3 + earlier) * k
            means = means + torch.tanh(outputs[..., at : at + k]) * scaled[..., earlier : earlier + 1]
        return torch.cat([outputs[..., :k], 0.5 * means + 0.5, outputs[..., 2 * k : 3 * k] - 3.0], -1)


class Mixture(Emission):
    """A density on [0, 1]: for each part a mixture of logistic distributions, each truncated to [0, 1] and normalised.

    PixelCNN++ uses discretised logistic mixtures (Salimans et al., 2017, arXiv 1701.05517, eq. 2). Here values are dequantised, and the
    density itself is fitted (Theis et al., 2016, arXiv 1511.01844, section 3.1). Parameters (..., parts, 3 K) are the components' logits,
    means and log scales before they are mapped to their ranges. A draw takes two uniforms: one for the component, one for the value.
    """

    integers = False
    draws = 2

    def __init__(self, components: int, parts: int, channels: int, head: int, embedded: int = 0) -> None:
        super().__init__(parts, channels, head, 3 * components, embedded)
        self.least_log_scale, self.edge = LEAST_LOG_SCALE, EDGE  # TorchScript takes no global numbers
        self.embedding = nn.Linear(parts, self.embedded)
        self.told = nn.ModuleList(nn.Linear(1, head) for _ in range(parts - 1))

    def embed(self, values: Tensor) -> Tensor:
        embedded: Tensor = self.embedding(2 * values - 1)
        return embedded

    def parameters_of(self, features: Tensor, values: Tensor) -> Tensor:
        h, parameters = self.trunk(features), []
        for part, head in enumerate(self.heads):
            parameters.append(head(h))
            for place, embed in enumerate(self.told):
                if place == part:
                    h = h + embed(2 * values[..., part : part + 1] - 1)
        return torch.stack(parameters, -2)

    def nll(self, parameters: Tensor, values: Tensor) -> Tensor:
        logits, mean, log_scale = self._in_range(exact(parameters))
        rate = torch.exp(-log_scale)
        centred = (values[..., None] - mean) * rate
        # log of the logistic density minus log of its mass within [0, 1]: σ(u) - σ(l) = σ(u) σ(-l) (1 - exp(l - u))
        log_density = -softplus(centred) - softplus(-centred) - log_scale
        log_mass = -softplus((mean - 1) * rate) - softplus(-mean * rate) + torch.log1p(-torch.exp(-rate))
        return -torch.logsumexp(logits.log_softmax(-1) + log_density - log_mass, -1)

    def pick(self, features: Tensor, uniforms: Tensor, temperature: Tensor) -> Tensor:
        h, picked = self.trunk(features), []
        for part, head in enumerate(self.heads):
            value = self._draw(
                head(h),
                uniforms[:, 2 * part : 2 * part + 1],
                uniforms[:, 2 * part + 1 : 2 * part + 2],
                temperature[:, None],
            )
            picked.append(value)
            for place, embed in enumerate(self.told):
                if place == part:
                    h = h + embed(2 * value[:, None] - 1)
        return torch.stack(picked, 1)

    def _draw(self, parameters: Tensor, first: Tensor, second: Tensor, temperature: Tensor) -> Tensor:
        """Draw values (B,) from parameters (B, 3 K) and two uniforms (B, 1). The temperature divides the logits and multiplies the scales."""
        logits, mean, log_scale = self._in_range(parameters)
        chosen = logistic.component(logits / temperature, first)
        mean, scale = mean.gather(1, chosen), log_scale.gather(1, chosen).exp() * temperature
        low, high = torch.sigmoid(-mean / scale), torch.sigmoid((1 - mean) / scale)
        share = (low + second * (high - low)).clamp(self.edge, 1 - self.edge)
        return logistic.quantile(mean, scale, share).clamp(0, 1)[:, 0]

    def _in_range(self, parameters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits, mean, log_scale = parameters.chunk(3, -1)
        return logits, torch.sigmoid(mean), F.hardtanh(log_scale - 2.0, self.least_log_scale, 1.0)
