"""The likelihoods of grey and colour levels v / (K - 1): discretised logistic distributions, mixtures of them, and histograms.

-log p is that of the levels: divided by log 2 and the number of values it is bits/dim. The distributions are cut halfway between levels, with
open ends, so that the probabilities of all levels sum to 1 (Kingma et al., 2016, arXiv 1606.04934, eq. 14). They differ in their scales:
one for all pixels, one by predicted mean, one for each pixel, or several for each pixel.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from manifold.runtime.manifest import InputSpec
from manifold.training.likelihoods.pixels import Pixels
from manifold.training.networks import logistic
from manifold.training.networks.layers import exact

KNOTS = 33  # number of predicted means in [0, 1] with a scale of their own
REACH = 8.0  # histograms are fitted for predicted means whose logits are in [-REACH, REACH]
BINS = 128  # number of intervals of these logits; there is a histogram at each end of an interval
FINE = 8  # number of parts of an interval in which levels are counted
ROUNDS = 30  # number of rounds of expectation maximisation
PRIOR, EVEN = (
    20.0,
    0.5,
)  # number of counts that a histogram starts with: of the fitted logistic distribution, and equal for all levels


class Levels(Pixels):
    """The common base. Items are rounded to the nearest level. Samples are shown as `mean`."""

    noise: tuple[InputSpec, ...] = ()

    def __init__(self, dimensions: int, levels: int, width: int) -> None:
        super().__init__()
        self.dimensions, self.levels, self.width = dimensions, levels, width

    def observe(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return self.settle(x)

    def settle(self, x: Tensor) -> Tensor:
        return torch.round(x * (self.levels - 1)) / (self.levels - 1)

    def sample(self, parameters: Tensor, *noise: Tensor) -> Tensor:
        return self.mean(parameters)

    def mean(self, parameters: Tensor) -> Tensor:
        """Return the centres of the logistic distributions, (B, D). They differ from E[x], as the ends are open and values are rounded to levels."""
        return self.predicted(parameters)

    def predicted(self, parameters: Tensor) -> Tensor:
        """Return the means that the parameters state, (B, D), which are the centres of the logistic distributions."""
        return torch.sigmoid(exact(parameters[:, : self.dimensions]))

    def log_scales(self, parameters: Tensor) -> Tensor:
        """Return the log scale of each value, in units of the range [0, 1], in a shape that broadcasts to (B, D)."""
        raise NotImplementedError

    def nll(self, parameters: Tensor, x: Tensor) -> Tensor:
        return self.logistic_nll(parameters, x)

    def logistic_nll(self, parameters: Tensor, x: Tensor) -> Tensor:
        """Return -log p of logistic distributions, (B, D)."""
        return logistic.nll(x, self.predicted(parameters), self.log_scales(parameters), self.levels)

    def logits(self, parameters: Tensor, x: Tensor) -> Tensor:
        return self.logistic_logits(parameters)

    def logistic_logits(self, parameters: Tensor) -> Tensor:
        """Return log p of every level of logistic distributions, (B, levels, D)."""
        mean = self.predicted(parameters)
        grid = torch.arange(self.levels, device=mean.device).to(mean.dtype)[:, None] / float(self.levels - 1)
        scales = self.log_scales(parameters).expand_as(mean)
        return -logistic.nll(grid, mean[:, None], scales[:, None], self.levels)


class Logistic(Levels):
    """A discretised logistic distribution whose scale is one learned parameter (the "optimal" decoder of Rybkin et al., 2021, arXiv 2006.13202)."""

    def __init__(self, dimensions: int, levels: int, scale: float) -> None:
        super().__init__(dimensions, levels, dimensions)
        self.log_scale = nn.Parameter(torch.tensor([math.log(scale)]))

    def log_scales(self, parameters: Tensor) -> Tensor:
        return self.log_scale


class LogisticLearned(Levels):
    """A discretised logistic distribution with a scale for each value, which the decoder computes."""

    def __init__(self, dimensions: int, levels: int, scale: float) -> None:
        super().__init__(dimensions, levels, 2 * dimensions)
        self.start = math.log(scale)

    def log_scales(self, parameters: Tensor) -> Tensor:
        return exact(parameters[:, self.dimensions :]) + self.start


class LogisticByMean(Levels):
    """A discretised logistic distribution whose log scale is a learned, piecewise linear function of the predicted mean.

    An autoencoder that predicts black or white is nearly always right, so the scale is smaller there than for grey.
    """

    def __init__(self, dimensions: int, levels: int, scale: float) -> None:
        super().__init__(dimensions, levels, dimensions)
        self.at_knots = nn.Parameter(torch.full((KNOTS,), math.log(scale)))

    def log_scales(self, parameters: Tensor) -> Tensor:
        return self._at(torch.sigmoid(exact(parameters)))

    def _at(self, mean: Tensor) -> Tensor:
        place = mean * (KNOTS - 1)
        low = place.detach().floor().clamp(max=KNOTS - 2)
        share, index = place - low, low.long()
        return self.at_knots[index] * (1 - share) + self.at_knots[index + 1] * share


class Histogram(Logistic):
    """A histogram of levels for each predicted mean, fitted after training. In training it is the Logistic with one scale.

    A network that is trained with one scale spends its latents on all pixels. If certain pixels cost less in training, as with the
    LogisticByMean, reconstructions become less accurate, and the bits with the fitted histograms more.

    Histograms belong to equally spaced logits of the predicted mean; between two of them, p is interpolated linearly, so that it is a
    continuous function of the parameters. They are fitted by maximum likelihood to training items (expectation maximisation for the two
    histograms of which each item is a mixture), with the logistic distribution as a weak prior.
    """

    table: Tensor
    means: Tensor

    def __init__(self, dimensions: int, levels: int, scale: float) -> None:
        super().__init__(dimensions, levels, scale)
        self.fitted = False
        self.register_buffer("table", torch.zeros(BINS + 1, levels), persistent=False)  # log p
        self.register_buffer("means", torch.zeros(BINS + 1), persistent=False)

    def mean(self, parameters: Tensor) -> Tensor:
        """Return E[x] of the fitted histograms, (B, D), or the centres of the logistic distributions in training."""
        if not self.fitted:
            return self.predicted(parameters)
        low, share = self._places(parameters)
        return self.means[low] * (1 - share) + self.means[low + 1] * share

    def nll(self, parameters: Tensor, x: Tensor) -> Tensor:
        if not self.fitted:
            return self.logistic_nll(parameters, x)
        low, share = self._places(parameters)
        level = torch.round(x * (self.levels - 1)).long()
        every = self.table.flatten()
        first, second = every[low * self.levels + level], every[(low + 1) * self.levels + level]
        return -_interpolated(first, second, share)

    def logits(self, parameters: Tensor, x: Tensor) -> Tensor:
        if not self.fitted:
            return self.logistic_logits(parameters)
        low, share = self._places(parameters)
        return _interpolated(self.table[low], self.table[low + 1], share[..., None]).transpose(1, 2)

    def _places(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Return the number of the interval of each parameter, int64, and the place in it, 0 to 1."""
        place = (exact(parameters).clamp(-REACH, REACH) + REACH) * (BINS / (2 * REACH))
        low = place.floor().clamp(max=BINS - 1)
        return low.long(), place - low

    @torch.no_grad()
    def fit(self, pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Fit the histograms to pairs of parameters and items, (B, D) each."""
        self.fitted = False
        counts = torch.zeros(BINS * FINE * self.levels, dtype=torch.float64)
        for parameters, x in pairs:
            low, share = self._places(parameters)
            fine = low * FINE + (share * FINE).long().clamp(max=FINE - 1)
            level = torch.round(x * (self.levels - 1)).long()
            counts += torch.bincount((fine * self.levels + level).flatten(), minlength=len(counts)).double().cpu()
        knots = torch.linspace(-REACH, REACH, BINS + 1, device=self.table.device)
        start = self.logistic_logits(knots[:, None])[..., 0].double().cpu().exp()  # (BINS + 1, levels)
        table = _histograms(counts.view(BINS, FINE, self.levels), PRIOR * start + EVEN / self.levels)
        values = torch.arange(self.levels, dtype=torch.float64) / (self.levels - 1)
        self.table.copy_(table.log())
        self.means.copy_(table @ values)
        self.fitted = True


def _interpolated(first: Tensor, second: Tensor, share: Tensor) -> Tensor:
    """Return log((1 - share) exp(first) + share exp(second))."""
    return torch.log((1 - share) * torch.exp(first) + share * torch.exp(second))


def _histograms(counts: Tensor, prior: Tensor) -> Tensor:
    """Return p (BINS + 1, levels) that maximises the likelihood of counts (BINS, FINE, levels) with pseudo-counts `prior`."""
    share = ((torch.arange(FINE, dtype=torch.float64) + 0.5) / FINE)[:, None]
    table = prior / prior.sum(1, keepdim=True)
    for _ in range(ROUNDS):
        first, second = (1 - share) * table[:-1, None], share * table[1:, None]  # (BINS, FINE, levels)
        of_first = first / (first + second)
        expected = prior.clone()
        expected[:-1] += (counts * of_first).sum(1)
        expected[1:] += (counts * (1 - of_first)).sum(1)
        table = expected / expected.sum(1, keepdim=True)
    return table


class LogisticMixture(Levels):
    """A mixture of discretised logistic distributions for each pixel, as in PixelCNN++ (Salimans et al., 2017, arXiv 1701.05517, eq. 2 and 3).

    The components of the colours of a pixel are shared, and the means of the second and third colour are shifted by multiples of the
    earlier ones. Parameters are (B, P, H W) with P = M (1 + 2 C + C (C - 1) / 2) for M components and C colours: logits, means, log scales
    and multiples.
    """

    def __init__(self, dimensions: int, levels: int, scale: float, channels: int, components: int) -> None:
        self.per_pixel = components * (1 + 2 * channels + channels * (channels - 1) // 2)
        super().__init__(dimensions, levels, self.per_pixel * (dimensions // channels))
        self.channels, self.components, self.start = channels, components, math.log(scale)
        self.reads_colours = channels > 1

    def bias(self, mean: Tensor) -> Tensor:
        """Return the bias of the decoder's last layer at which the components are spread around the mean of each colour (C,)."""
        spread = torch.linspace(-0.4, 0.4, self.components) if self.components > 1 else torch.zeros(1)
        middle = (2 * mean[:, None] - 1 + spread).flatten()
        rest = self.per_pixel - self.components - len(middle)
        return torch.cat([torch.zeros(self.components), middle, torch.zeros(rest)])

    def mean(self, parameters: Tensor) -> Tensor:
        """Return the weighted mean of the components' centres, (B, D).

        It approximates E[x]: centres are limited to [0, 1], and those of a colour are computed from the centres of the earlier colours in the same
        component, with the weights that the first colour has.
        """
        logits, means, _, multiples = self._split(parameters)
        weights, scaled, every = logits.softmax(1), means[:, :0], []
        for part in range(self.channels):
            mean = self._shifted(means, multiples, part, scaled).clamp(0, 1)
            scaled = torch.cat([scaled, 2 * mean[:, None] - 1], 1)
            every.append((weights * mean).sum(1))
        return torch.cat(every, 1)

    def nll(self, parameters: Tensor, x: Tensor) -> Tensor:
        joint, means, log_scales, values = self._given(parameters, x)
        nats, before = [], torch.zeros_like(joint[:, 0])
        for part in range(self.channels):
            joint = self._with(joint, means, log_scales, values, part)
            total = joint.logsumexp(1)
            nats.append(before - total)
            before = total
        return torch.cat(nats, 1)

    def logits(self, parameters: Tensor, x: Tensor) -> Tensor:
        joint, means, log_scales, values = self._given(parameters, x)
        every = []
        for part in range(self.channels):
            weights, mean, log_scale = (each.movedim(1, -1) for each in (joint, means[:, part], log_scales[:, part]))
            every.append(logistic.level_logits(weights, mean, log_scale, self.levels))  # (B, H W, levels)
            joint = self._with(joint, means, log_scales, values, part)
        return torch.cat(every, 1).transpose(1, 2)

    def _given(self, parameters: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return log weights (B, M, H W), means given the earlier colours of x and log scales (B, C, M, H W), and values (B, C, 1, H W)."""
        logits, means, log_scales, multiples = self._split(parameters)
        values = x.view(x.shape[0], self.channels, 1, -1)
        given = [self._shifted(means, multiples, part, 2 * values - 1) for part in range(self.channels)]
        return logits.log_softmax(1), torch.stack(given, 1), log_scales, values

    def _with(self, joint: Tensor, means: Tensor, log_scales: Tensor, values: Tensor, part: int) -> Tensor:
        """Return the log of weights times p of the colours so far, with one more colour, (B, M, H W)."""
        return joint - logistic.nll(values[:, part], means[:, part], log_scales[:, part], self.levels)

    def _split(self, parameters: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return logits (B, M, H W), means and log scales (B, C, M, H W) and multiples (B, C (C - 1) / 2, M, H W)."""
        m, c = self.components, self.channels
        every = exact(parameters).view(parameters.shape[0], self.per_pixel // m, m, -1)
        return (
            every[:, 0],
            0.5 * every[:, 1 : 1 + c] + 0.5,
            every[:, 1 + c : 1 + 2 * c] + self.start,
            every[:, 1 + 2 * c :].tanh(),
        )

    def _shifted(self, means: Tensor, multiples: Tensor, part: int, scaled: Tensor) -> Tensor:
        """Return the means (B, M, H W) of a colour, given the earlier colours in [-1, 1], (B, C, M or 1, H W)."""
        mean, first = means[:, part], part * (part - 1) // 2
        for earlier in range(part):
            mean = mean + 0.5 * multiples[:, first + earlier] * scaled[:, earlier]
        return mean
