"""Probability laws whose draws are differentiable functions of their parameters and of standard noise (Kingma and Welling, 2013, section 2.4).

The modules are the three kinds of reparametrisation in that section:

    inverse_cdf      z = F⁻¹(u): exponential, Cauchy, logistic, Rayleigh, Pareto, Gumbel
    location_scale   z = location + scale · ε: Gaussian, Laplace, Student, uniform, triangular; `elliptical` has the multivariate laws
    composition      functions of other draws: log-normal, gamma, beta, Dirichlet, chi-squared, F, and the scaled root of a positive law

`gammas` is the sampler of the gamma law, which Student, beta, Dirichlet, chi-squared and F use. `base` is the interface. `gamma_quantiles` and
`normals` are functions for graphs: gamma draws as a continuous function of one normal, and the distribution function of a normal and its inverse.

Randomness is an argument: `law.noise` lists the random inputs of one draw, and `law.draw(*noise)` computes it. A graph can therefore take
the noise as inputs. All laws work in float32 and float64, and with parameters and noise of any shapes that broadcast.
"""

from manifold.training.distributions.base import Law, Noise, clipped
from manifold.training.distributions.composition import Beta, ChiSquared, Dirichlet, F, Gamma, LogNormal, Root
from manifold.training.distributions.elliptical import Elliptical
from manifold.training.distributions.inverse_cdf import Cauchy, Exponential, Gumbel, Logistic, Pareto, Rayleigh
from manifold.training.distributions.location_scale import Gaussian, Laplace, Student, Triangular, Uniform

__all__ = [
    "Beta", "Cauchy", "ChiSquared", "Dirichlet", "Elliptical", "Exponential", "F", "Gamma", "Gaussian", "Gumbel", "Laplace", "Law",
    "LogNormal", "Logistic", "Noise", "Pareto", "Rayleigh", "Root", "Student", "Triangular", "Uniform", "clipped",
]  # fmt: skip
