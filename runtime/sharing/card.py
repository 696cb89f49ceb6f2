"""The model card: README.md beside the versions of a model, made from the manifest of the latest one.

The card is not a file of the artifact, so it has no checksum, and it can be renewed without a new version. It starts with the metadata of the Hub, as
YAML whose values are written as JSON. Text that users add below the mark END is kept; a card without the marks is the user's own.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from manifold.runtime import figures
from manifold.runtime.errors import command, cut
from manifold.runtime.manifest import Manifest, Metric
from manifold.runtime.operations import endpoints

FILE = "README.md"
BEGIN, END = "<!-- made by manifold push -->", "<!-- end of what manifold push made; text below this line is kept -->"
PICTURES = ("preview.png", "page/sheet.png")  # the first that the artifact has is shown
MIB = 2**20
LONGEST = 1500  # characters of a protocol
LICENSES = (  # identifiers of the Hub that the manifest may have as its licence
    "apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "gpl-2.0", "gpl-3.0", "lgpl-3.0", "agpl-3.0", "mpl-2.0", "cc0-1.0", "cc-by-3.0", "cc-by-4.0",
    "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-nc-nd-4.0", "odbl", "openrail", "unlicense",
)  # fmt: skip
PATH = re.compile(r"(?:~?[/\\]|[A-Za-z]:[/\\]).*", re.DOTALL)


def build(manifest: Manifest, address: str, versions: Sequence[int], license_: str | None = None) -> str:
    """Return the card of a version. `address` is where the version is pulled from, and `versions` are all versions at that place.

    `license_` is the licence of the model; by default it is that in the manifest.
    """
    front = "\n".join(f"{key}: {_json(value)}" for key, value in metadata(manifest, license_).items())
    parts = [f"---\n{front}\n---", BEGIN, *_body(manifest, address, versions, license_), END]
    return "\n\n".join(parts) + "\n"


def merged(old: str | None, new: str) -> str | None:
    """Return the new card with the text that a user has added to the old one. None if the old one is not made by this module."""
    if old is None or not old.strip():
        return new
    if BEGIN not in old or END not in old:
        return None
    return new.rstrip("\n") + old.rpartition(END)[2]


def private_paths(manifest: Manifest) -> list[str]:
    """Return the fields of the manifest with absolute paths of a machine, each with the path. They would be published."""
    fields = {"provenance": manifest.provenance, **{f"metrics.{each.name}": each.protocol for each in manifest.metrics}}
    return [
        f"{where}: {cut(text)}" for where, text in _texts(fields) if PATH.fullmatch(text) and len(re.findall(r"[/\\]", text)) > 1
    ]  # fmt: skip


def _texts(value: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """Yield the texts in nested mappings and lists, with their fields."""
    if isinstance(value, str):
        yield where, value
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield from _texts(each, f"{where}.{key}" if where else str(key))
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _texts(each, where)


# --- metadata -----------------------------------------------------------------------------------------------------------------


def metadata(manifest: Manifest, license_: str | None = None) -> dict[str, Any]:
    """Return the metadata of the Hub."""
    found: dict[str, Any] = {}
    if known := license_ or license_of(manifest.license):
        found["license"] = known
        if known == "other":
            found["license_name"] = "stated-in-the-model-card"
    found["library_name"] = "manifold"
    found["tags"] = _tags(manifest)
    if tag := pipeline_tag(manifest):
        found["pipeline_tag"] = tag
    numbers = [metric for metric in manifest.metrics if math.isfinite(metric.value)]
    if numbers:
        found["metrics"] = list(dict.fromkeys(metric.name for metric in numbers))
        found["model-index"] = [{"name": manifest.name, "results": list(_results(manifest, numbers))}]
    return found


def license_of(text: str) -> str:
    """Return the identifier of a licence on the Hub from the text of a manifest; empty for no licence.

    It is `other` unless the whole text names a known licence: the text may be about the training data, not about the model.
    """
    stated = re.sub(r"[\s_]+", "-", text.strip().lower())
    return stated if stated in LICENSES else "other" if stated else ""


def pipeline_tag(manifest: Manifest) -> str | None:
    """Return the task of the Hub that fits a model; None if none does."""
    can, kinds = endpoints(manifest), {condition.kind for condition in manifest.conditioned.values()}
    if not manifest.spec.pictures:
        return None
    if "translate" in manifest.tasks:
        return "image-to-image"
    if "sample" in can:
        return "text-to-image" if "text" in kinds else "unconditional-image-generation"
    if "features" in manifest.tasks:
        return "image-classification" if manifest.classes else "image-feature-extraction"
    return None


def _tags(manifest: Manifest) -> list[str]:
    data = _data(manifest)
    tags = [
        "manifold",
        manifest.backend,
        manifest.family,
        manifest.spec.kind,
        *endpoints(manifest),
        *([data] if data else []),
    ]
    return list(dict.fromkeys(tags))


def _data(manifest: Manifest) -> str | None:
    """Return the name of the data set. A path is replaced by the name of the file or folder."""
    name = manifest.data_name
    return None if not name else re.split(r"[/\\]", name.rstrip("/\\"))[-1]


def _results(manifest: Manifest, metrics: Sequence[Metric]) -> Iterator[dict[str, Any]]:
    """Yield the entries of `model-index`: one for each data set that figures were measured on."""
    task = {"type": pipeline_tag(manifest) or manifest.spec.kind, "name": ", ".join(endpoints(manifest)) or "none"}
    name = _data(manifest) or "unknown"
    slug = re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-") or "unknown"
    entries = [{"type": metric.name, "value": metric.value, "name": _title(metric)} for metric in metrics]
    yield {"task": task, "dataset": {"type": slug, "name": name}, "metrics": entries}


def _title(metric: Metric) -> str:
    prior = metric.protocol.get("prior")
    return f"{metric.name}{f' ({metric.unit})' if metric.unit else ''}{f', prior {prior}' if isinstance(prior, str) else ''}"


def _json(value: Any) -> str:
    """Return a value as JSON that is also YAML: without the characters that YAML does not allow in a text."""
    return re.sub(r"[\x7f-\x9f\ud800-\udfff\ufeff\ufffe\uffff]", "", json.dumps(value, ensure_ascii=False))


# --- body ---------------------------------------------------------------------------------------------------------------------


def _body(manifest: Manifest, address: str, versions: Sequence[int], license_: str | None) -> Iterator[str]:
    """Yield the parts of the card."""
    yield f"# {manifest.name}"
    if manifest.description:
        yield _line(manifest.description)
    picture = next((name for name in PICTURES if name in manifest.files), None)
    if picture is not None:
        yield f"![{'samples of ' if picture == PICTURES[0] else 'items of '}{manifest.name}]({manifest.version}/{picture})"
    yield _table(("property", "value"), _facts(manifest, versions))
    yield from _usage(manifest, address)
    yield from _figures(manifest)
    yield from _licence(manifest, license_)


def _facts(manifest: Manifest, versions: Sequence[int]) -> Iterator[tuple[str, str]]:
    spec = manifest.spec
    size = sum(record.bytes for record in manifest.files.values()) / MIB
    yield (
        "version",
        f"{manifest.version}" + (f" (versions here: {', '.join(map(str, versions))})" if len(versions) > 1 else ""),
    )
    yield "items", f"{spec.noun} of shape {'x'.join(map(str, spec.shape))}"
    if spec.parts is not None:
        yield "columns", cut(", ".join(spec.parts), LONGEST)
    yield "family", manifest.family
    if data := _data(manifest):
        yield "data", data
    if manifest.classes:
        yield "classes", cut(", ".join(manifest.classes), LONGEST)
    yield "graphs", f"{manifest.backend}: {', '.join(manifest.tasks)}"
    yield "endpoints", ", ".join(f"`/{name}`" for name in endpoints(manifest)) or "none; the tasks are served over /v2"
    yield "size", f"{size:.1f} MiB in {len(manifest.files)} files, with SHA-256 checksums in `manifest.json`"
    fields = manifest.provenance.get("data")
    for key in ("train", "calibration", "test", "shift"):
        if isinstance(fields, Mapping) and isinstance(fields.get(key), str) and not PATH.fullmatch(fields[key]):
            yield f"data: {key}", fields[key]


def _usage(manifest: Manifest, address: str) -> Iterator[str]:
    """Yield how to pull, use and serve the model."""
    can = endpoints(manifest)
    lines = [command("pull", address), command("serve")]
    if "sample" in can:
        lines.insert(1, command("sample", manifest.name, "-n", 16, "--seed", 1))
    yield "## Use"
    yield "Install Manifold, and run these commands. `pull` verifies every file and puts the model into the folder `models`."
    yield "```sh\n" + "\n".join(lines) + "\n```"
    call = "model.sample(16, seed=1)" if "sample" in can else "model.endpoints"
    yield f"From Python:\n\n```python\nimport manifold\n\nmodel = manifold.load({json.dumps(f'models/{manifest.name}')})\n{call}\n```"
    if manifest.backend == "torchscript":
        yield "The graphs are TorchScript, and these are programs: run them only if you trust their source."


def _figures(manifest: Manifest) -> Iterator[str]:
    """Yield the figures: the most important ones as a list, then all of them with their protocols."""
    if not manifest.metrics:
        return
    yield "## Figures"
    if main := [f"- {group.marked()}" for group in figures.groups(manifest)]:
        yield "An arrow says which direction is better: ↓ lower, ↑ higher.\n\n" + "\n".join(main)
    yield f"<details><summary>All {len(manifest.metrics)} figures with their protocols</summary>"
    groups: dict[str, list[Metric]] = {}
    for metric in manifest.metrics:
        groups.setdefault(str([metric.protocol.get(key) for key in ("by", "prior", "data")]), []).append(metric)
    for group in groups.values():
        yield from _with_protocols(group)
    yield "</details>"


def _with_protocols(metrics: Sequence[Metric]) -> Iterator[str]:
    """Yield a table of figures with their protocols. The fields that all of them share stand above it."""
    protocols = [_protocol(metric) for metric in metrics]
    shared = dict(set.intersection(*(set(each.items()) for each in protocols)))
    own = [{key: value for key, value in each.items() if key not in shared} for each in protocols]
    if shared:
        yield f"Protocol: {_words({key: value for key, value in protocols[0].items() if key in shared})}."
    yield _table(("figure", "value", "unit", "protocol"), map(_row, metrics, map(_words, own)))


def _protocol(metric: Metric) -> dict[str, str]:
    """Return the fields of a protocol as texts, without paths. `manifest.json` has the whole of it."""
    return {where: _line(each) for where, each in _leaves(metric.protocol) if not PATH.fullmatch(str(each))}


def _words(fields: Mapping[str, str]) -> str:
    return cut("; ".join(f"{_line(key)} {value}" for key, value in fields.items()), LONGEST)


def _leaves(value: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of nested mappings with their fields. A list is one value."""
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from _leaves(each, f"{where}.{key}" if where else str(key))
    elif isinstance(value, list | tuple):
        yield where, ", ".join(map(str, value))
    else:
        yield where, value


def _row(metric: Metric, protocol: str) -> tuple[str, str, str, str]:
    error = "" if metric.se is None else f" ± {metric.se:.2g}"
    return metric.name, f"{metric.value:.6g}{error}", metric.unit, protocol


def _licence(manifest: Manifest, license_: str | None) -> Iterator[str]:
    yield "## Licence"
    if license_:
        yield f"The model is published under the licence `{_line(license_)}`."
    stated = f"The manifest states, for the training data: {_line(manifest.license)}." if manifest.license else ""
    yield stated or "The manifest states no licence of the training data."


def _table(header: Sequence[str], rows: Any) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *(list(map(_cell, row)) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    return _line(text).replace("|", r"\|")


def _line(text: object) -> str:
    """Return a text on one line, in which `<` starts no HTML."""
    return " ".join(str(text).split()).replace("<", "&lt;")
