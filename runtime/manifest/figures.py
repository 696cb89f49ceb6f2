"""The names of likelihood figures. A name states the bound and the form of x, as two figures with other bounds or forms are not comparable.

    nll_FORM           exact -log p(x) in nats; lower is better
    elbo_FORM          a lower bound on log p(x) in nats; higher is better
    iwae_K_FORM        the importance-weighted lower bound with K draws; higher is better
    bits_per_dim       -log2 p(x), or its upper bound, divided by the number of values; lower is better

The forms are static (pixels that were binarised once and for all), dynamic (binarised at random for each evaluation), threshold (binarised at
1/2), levels (grey or colour levels), density (real values) and columns (encoded rows of a table). `_given_class` or `_given_condition` follows
if the figure is that of p(x | class) or of p(x | condition).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args

Form = Literal["static", "dynamic", "threshold", "levels", "density", "columns"]
Given = Literal["", "class", "condition"]
FORMS: tuple[str, ...] = get_args(Form)
GIVEN = tuple(f"_given_{name}" for name in get_args(Given) if name)
SE = "_se"  # suffix of the standard error of a figure
BITS = "bits_per_dim"
STORED = {
    "png_sheets": "PNG",
    "webp_sheets": "WebP",
    "jxl_sheets": "JPEG XL",
}  # the anchors of BITS: lossless codecs, on sheets of images
DISTANCES = ("fid", "fd_classifier")
EVALUATED = "evaluation"  # the value of `by` in the protocol of figures that `manifold evaluate --record` writes
BOUNDS = {"exact": "nll", "elbo": "elbo", "iwae": "iwae"}
EARLIER = re.compile(r"nll|nll_se|elbo|iwae_\d+|nll_given_class|nll_uniform_prior|psnr")  # names without a form
# the forms of earlier texts about x, by a part of the text; the first that occurs counts
TEXTS: tuple[tuple[str, Form], ...] = (
    ("dynamic", "dynamic"), ("rounded by chance", "dynamic"), ("binarised at 1/2", "threshold"), ("pixels at 2 levels, the nearest", "threshold"),
    ("pixels at 2 levels, rounded to the nearest", "threshold"), ("pixels at 2 levels", "static"), ("density", "density"), ("levels", "levels"),
    ("columns", "columns"),
)  # fmt: skip
# the present texts of earlier ones about the bound of a figure that is now a lower bound on log p(x)
LOWER = "lower bound on log p(x)"
RESTATED = {
    "upper bound: -ELBO": LOWER,
    "upper bound: importance-weighted": f"importance-weighted {LOWER}",
    "upper bound on -log p(x): -log p(x | z_q) - log p(codes)": f"{LOWER}: log p(x | z_q) + log p(codes)",
}
LIKELIHOODS: dict[str, Form] = {
    "columns": "columns",
    "gaussian": "density",
    "gaussian-learned": "density",
    "laplace": "density",
}


def name_of(bound: str, form: str, k: int = 1, given: Given = "") -> str:
    """Return the name of a likelihood figure. `bound` is exact, elbo or iwae. `given` is what x is conditioned on."""
    name = f"iwae_{k}_{form}" if bound == "iwae" else f"{BOUNDS[bound]}_{form}"
    return f"{name}_given_{given}" if given else name


def is_likelihood(name: str) -> bool:
    """Return whether a figure is a likelihood in nats, or its standard error."""
    suffixes = "|".join((*GIVEN, "_uniform_prior"))
    return re.fullmatch(rf"(nll|elbo|iwae_\d+)_({'|'.join(FORMS)})({suffixes})?({SE})?", name) is not None


def form_of(observed: str) -> Form | None:
    """Return the form of x that a text describes, as earlier manifests only contain the text; None if it describes none."""
    return next((form for part, form in TEXTS if part in observed), None)


def renamed(metrics: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the metrics of a manifest or report with the names that state their protocol. Metrics of earlier versions are renamed.

    An upper bound on -log p(x) that was called nll becomes an ELBO or an importance-weighted bound, with the opposite sign, and the protocol of
    a lower bound states one.
    """
    found = [dict(metric) for metric in metrics]
    forms = {_group(metric): dict(metric) for metric in found if metric.get("name") == "nll"}
    for metric in found:
        _rename(metric, forms)
        _restate(metric)
    return found


def _rename(metric: dict[str, Any], forms: Mapping[str, Mapping[str, Any]]) -> None:
    """Give an earlier figure its present name and sign. `forms` gives the figure nll of each evaluation."""
    name = metric.get("name")
    if not isinstance(name, str) or EARLIER.fullmatch(name) is None:
        return
    if name == "psnr":
        metric["name"] = "psnr_mean"
        return
    stated = statement((forms.get(_group(metric), metric) if name == "nll_se" else metric).get("protocol"))
    form = _form(stated)
    if form is None:
        return
    if not name.startswith("nll"):
        metric["name"] = f"{name}_{form}"
        return
    bound = _bound(stated)
    metric["name"] = f"{bound}_{form}{name.removeprefix('nll')}"
    if bound != "nll" and name != "nll_se" and isinstance(metric.get("value"), int | float):
        metric["value"] = -metric["value"]


def _restate(metric: dict[str, Any]) -> None:
    """Replace an upper bound in the protocol of a figure that is a lower bound on log p(x). Earlier versions renamed figures without this."""
    name, stated = metric.get("name"), statement(metric.get("protocol"))
    text = stated.get("bound")
    if not isinstance(name, str) or not isinstance(text, str) or not text.startswith("upper bound"):
        return
    if is_likelihood(name) and not name.startswith("nll"):
        changed = {**stated, "bound": RESTATED.get(text, LOWER)}
        protocol = metric["protocol"]
        metric["protocol"] = {**protocol, "detail": changed} if stated is protocol.get("detail") else changed


def _bound(stated: Mapping[str, Any]) -> str:
    """Return the start of the present name of a figure that was called nll."""
    bound, k = stated.get("bound"), stated.get("k")
    if bound == "exact":
        return BOUNDS["exact"]
    weighted = "importance-weighted" in str(bound) and type(k) is int
    return f"{BOUNDS['iwae']}_{k}" if weighted else BOUNDS["elbo"]


def _group(metric: Mapping[str, Any]) -> str:
    """Return a key that the figures of one evaluation share."""
    protocol = metric.get("protocol")
    return str([protocol.get(key) for key in ("by", "prior", "common")]) if isinstance(protocol, Mapping) else ""


def statement(protocol: Any) -> Mapping[str, Any]:
    """Return what a protocol states about its figure; in that of an evaluation this is below `detail`. Empty if it is no mapping."""
    if not isinstance(protocol, Mapping):
        return {}
    detail = protocol.get("detail")
    return detail if isinstance(detail, Mapping) else protocol


def _form(stated: Mapping[str, Any]) -> Form | None:
    """Return the form of x that the protocol of an earlier figure states."""
    if isinstance(text := stated.get("binarisation") or stated.get("observed"), str):
        return form_of(text)
    likelihood = stated.get("likelihood")
    if isinstance(likelihood, str):
        return LIKELIHOODS.get(likelihood, "levels")
    # earlier reports of VQ-VAEs state neither; those of binarised pixels state `binarisation`
    return "levels" if "z_q" in str(stated.get("bound")) else None
