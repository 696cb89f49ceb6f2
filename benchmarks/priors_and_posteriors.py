"""The bounds of a VAE with each prior and each posterior: the same encoder and decoder, data, seed and number of epochs.

    python benchmarks/priors_and_posteriors.py [--data mnist] [--epochs 60] [--only gamma vamp ...] --runs FOLDER

One law is changed at a time; `baseline` has the prior N(0, I) and diagonal Gaussian posteriors. The ELBO and IWAE-500 are those of the report, on
the test split. The gain over the baseline is in IWAE with 50 draws, in which each image has the same binarised pixels for all laws; its standard
error is that of the differences by image. CPU seconds are those of the training and of the report, without those before an interruption.
FOLDER keeps the runs, which `manifold export` can export, and the figures of each in result.json. Finished ones are read again; a run that was
interrupted is resumed. MANIFOLD_DATA names the folder of the data sets.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

from manifold.runtime.manifest import figures
from manifold.runtime.repository import replacing
from manifold.training import datasets, families, likelihoods, runs
from manifold.training.batches import in_order
from manifold.training.bounds import iwae
from manifold.training.data import Data
from manifold.training.train import train, trained_model

LAWS: dict[str, dict[str, str]] = {
    "baseline": {},
    **{name: {"prior": name} for name in ("mixture", "vamp", "hierarchical", "flow")},
    **{name: {"posterior": name} for name in ("full", "iaf", "logistic", "log-normal", "gamma")},
}
REPORTED = 500  # draws for each image in the report
PAIRED, BATCH, SEED = 50, 200, 1  # draws for each image in differences from the baseline
RESULT = "result.json"


@torch.no_grad()
def bounds(model: Any, data: Data) -> list[float]:
    """Return IWAE-PAIRED of each test image, in nats. The binarised pixels do not depend on the law."""
    found: list[float] = []
    for place, batch in enumerate(in_order(data.test, BATCH, torch.Generator().manual_seed(SEED))):
        generator = torch.Generator().manual_seed(SEED + place)
        x = model.likelihood.observe(batch.items.flatten(1), generator)
        noise = torch.randn((PAIRED, len(x), model.noise_size), generator=generator)
        found += iwae(model, x, noise).tolist()
    return found


def measured(name: str, data: Data, epochs: int, preset: str, folder: Path) -> dict[str, Any]:
    """Return the figures of a law. A finished run is read, an interrupted one is resumed, and otherwise one is trained."""
    family, file = families.get("vae"), folder / RESULT
    options = {**family.PRESETS[preset], "epochs": epochs, "iwae_k": REPORTED, **LAWS[name]}
    if file.exists():
        found: dict[str, Any] = json.loads(file.read_bytes())
        if (found["epochs"], found["data"], found.get("preset", "cpu")) == (epochs, data.name, preset):
            return found
        raise SystemExit(f"{folder}: contains a run of other epochs, data or preset; give another folder")
    run = runs.TrainingRun(folder, "vae", data.name, preset, family.Config.model_validate(options))
    began = time.process_time()
    if not (folder / runs.METRICS).exists():
        train(run, data, resume=run.checkpoint.exists(), device="cpu", quiet=True)
    seconds = time.process_time() - began
    model: Any = trained_model(run.resolved(data), data)
    report = {each["name"]: each["value"] for each in json.loads((folder / runs.METRICS).read_bytes())}
    form = likelihoods.form_of(model.config.likelihood, data.spec, by_chance=True)
    result = {
        "law": name, "data": data.name, "epochs": epochs, "preset": preset, "cpu_seconds": round(seconds),
        "parameters": sum(each.numel() for each in model.parameters()),
        "elbo": report[figures.name_of("elbo", form)], "iwae": report[figures.name_of("iwae", form, REPORTED)],
        "kl": report["kl"], "active_units": report["active_units"], "images": bounds(model, data),
    }  # fmt: skip
    with replacing(file) as path:
        path.write_text(json.dumps(result))
    return result


def row(result: dict[str, Any], baseline: dict[str, Any] | None) -> str:
    """Return a line of the table."""
    gain = ""
    if baseline is not None and baseline is not result:
        differences = torch.tensor(result["images"]).double() - torch.tensor(baseline["images"]).double()
        gain = f"{float(differences.mean()):+.2f} ± {float(differences.std()) / len(differences) ** 0.5:.2f}"
    numbers = [f"{result[name]:.2f}" for name in ("elbo", "iwae")]
    units = [
        f"{result['kl']:.2f}",
        f"{result['active_units']:g}",
        f"{result['parameters']:,}",
        str(result["cpu_seconds"]),
    ]
    return f"| {' | '.join([result['law'], *numbers, gain, *units])} |"


def main() -> None:
    """Train with each law and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="mnist", help="a data set of images")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument(
        "--preset", choices=("smoke", "cpu"), default="cpu", help="smoke: a small network, to try the script"
    )
    parser.add_argument("--only", nargs="+", choices=tuple(LAWS), default=tuple(LAWS), metavar="NAME")
    parser.add_argument("--runs", type=Path, required=True, help="folder that keeps the runs")
    asked = parser.parse_args()
    data = datasets.load(asked.data)
    print(
        f"| law | ELBO | IWAE-{REPORTED} | gain in nats | KL | active units | parameters | CPU seconds |\n|{'---|' * 8}"
    )
    results: dict[str, dict[str, Any]] = {}
    for name in (each for each in LAWS if each in asked.only):
        results[name] = measured(name, data, asked.epochs, asked.preset, asked.runs / f"{data.name}-{name}")
        print(row(results[name], results.get("baseline")), flush=True)


if __name__ == "__main__":
    main()
