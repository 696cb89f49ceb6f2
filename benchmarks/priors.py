"""What a prior fitted after training is worth: the finding of "From variational to deterministic autoencoders" (Ghosh et al., 2020, table 1)
with our own features, on the shipped autoencoder and VAE.

    python benchmarks/priors.py [--n 10000]

N(0, I) is nothing an autoencoder was trained for and none of its artifact's priors; it is added here, for the table alone.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from manifold.cli import _real_data
from manifold.evaluation import extractors, frechet, metrics, reference
from manifold.evaluation.images import Generated, Held
from manifold.evaluation.report import markdown_table
from manifold.runtime import engine, imaging
from manifold.runtime.kinds.image import ImageSpec
from manifold.runtime.manifest import NormalPrior

PRIORS = {"normal": "N(0, I)", "gaussian": "full Gaussian", "mixture": "mixture of 10"}


def main() -> None:
    """Prints one table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--models", type=Path, default=Path("models"))
    options = parser.parse_args()
    real = _real_data("mnist")
    extractor = extractors.load(extractors.for_data("mnist", options.models), options.models, device="cpu")
    held = reference.of_source(extractor, real.test, "test")
    assert held.features is not None
    rows = []
    for name in ("mnist-autoencoder", "mnist-vae"):
        model = engine.load(options.models / name, device="cpu")
        spec, latent = model.manifest.data, model.manifest.latent
        assert isinstance(spec, ImageSpec)
        assert latent is not None
        priors = {**latent.priors, "normal": NormalPrior()}
        model.manifest = model.manifest.model_copy(update={"latent": latent.model_copy(update={"priors": priors})})
        back = model.reconstruct(imaging.from_uint8(real.test.pixels, spec)).data
        sources = {"reconstructions": Held.of(imaging.to_uint8(back, spec))} | {
            label: Generated(model, options.n, 0, prior) for prior, label in PRIORS.items()
        }
        for label, source in sources.items():
            found = extractors.extract(extractor, source)
            kid = metrics.kernel_distance(held.features.rows, found.rows, 0)
            precision, recall = metrics.precision_recall(held.features.rows, found.rows)
            distance = frechet.distance(held.gaussian, found.gaussian)
            rows.append(
                [
                    name,
                    label,
                    f"{distance:.2f}",
                    f"{kid.value:.3f} ± {kid.error:.2g}",
                    f"{precision:.3f}",
                    f"{recall:.3f}",
                ]
            )
    print(markdown_table(("model", "latents", extractor.distance_name, "kid", "precision", "recall"), rows))
    floor = frechet.expected_floor(held.gaussian.spectrum, options.n, held.n or options.n)
    print(
        f"a perfect generator: {floor:.3f} (closed form); numpy {np.__version__}; extractor {extractor.name} {extractor.sha256[:12]}"
    )


if __name__ == "__main__":
    main()
