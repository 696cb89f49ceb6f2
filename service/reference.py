"""The reference pages that are made from the code: settings, metrics and errors. `python -m manifold.service.reference FOLDER` writes them."""

from __future__ import annotations

import sys
import tempfile
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from manifold.service.core import failures
from manifold.service.http.replies import STATUS, UNROUTED
from manifold.service.http.statuses import EXAMPLES
from manifold.service.inference import http as inference_http
from manifold.service.inference import rpc as inference_rpc
from manifold.service.models.registry import Registry
from manifold.service.processes import errands
from manifold.service.rpc.codes import CODES, code_of
from manifold.service.settings import PREFIX, ModelSettings, Settings
from manifold.service.telemetry.advice import ACTIONS
from manifold.service.telemetry.metrics import Described, Metrics

GROUPS = {
    "Address": ("host", "port", "grpc_port", "published"),
    "Access": ("auth", "keys", "keys_file", "rate", "tls_certificate", "tls_key", "cors_origins", "hosts", "trust_loopback"),
    "Models": (
        "models_dir", "default_model", "versions", "require_checksums", "lazy", "memory_bytes", "watch_seconds", "strict_ready",
    ),
    "Computation and queues": (
        "workers", "device", "instances", "threads", "max_rows", "queue_rows", "queue_bytes", "queue_ms", "deadline_ms",
    ),
    "Limits": (
        "max_items", "max_stream_items", "max_body_bytes", "max_upload_bytes", "max_pixels", "max_bodies_bytes", "max_connections", "max_calls",
        "receive_seconds", "send_seconds",
    ),
    "Start and stop": ("drain_seconds", "notice_seconds", "hang_seconds", "command_seconds"),
    "Logs and traces": ("log_format", "log_requests", "traces"),
}  # fmt: skip
UNITS = {
    "bytes": "bytes",
    "ms": "ms",
    "seconds": "s",
    "rows": "rows",
    "items": "items",
    "pixels": "pixels",
    "rate": "requests/s",
}
KINDS = {
    str: "text",
    int: "integer",
    float: "number",
    bool: "true or false",
    Path: "path",
    tuple: "list of texts",
    dict: "sections",
}
BOUNDS = (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<"))
MADE = "<!-- made by `make docs`; do not edit -->"
SETTINGS = """The service reads its settings from environment variables (`MANIFOLD_*`) and from an optional file `manifold.toml` in
the working folder, where the names are in lower case and without the prefix. A variable wins over the file. A wrong
setting ends the start with one message and exit status 2. These are errors:

- a wrong value
- a variable `MANIFOLD_…` or a key that does not exist (the message suggests the nearest name)
- a section `[models.NAME]` without a model

Empty variables are ignored. So are variables that other parts of Manifold read (`MANIFOLD_DATA`, `MANIFOLD_CACHE`,
`MANIFOLD_KEY`), and variables that Kubernetes adds for a service called `manifold` (`MANIFOLD_SERVICE_HOST`, …). On
Kubernetes, set `enableServiceLinks: false`, because Kubernetes would also overwrite `MANIFOLD_PORT`."""
SECTIONS = """A section `[models.NAME]` of `manifold.toml` changes settings for one model. The variable is
`MANIFOLD_MODELS__NAME__SETTING`. By default, the value of the top level applies.

```toml
default_model = "mnist-vae"

[models.mnist-vae-2d]
device = "cpu"
instances = 2
```"""
METRICS = """`GET /metrics` returns the metrics of the service for Prometheus. It needs no key and contains no names of keys and no
paths. Beside the metrics below, it contains `process_*` and `python_gc_*`. Counters of errors, refusals, denials, ended
connections and failed runs start at 0 for every label value, so that an alert sees the first event as an increase.
On that page, names of counters end with `_total`, and names of histograms with `_bucket`, `_sum` and `_count`."""
ERRORS = """Every error over HTTP has one form:

```json
{"error": {"type": "invalid_value", "message": "n: 0 is too small; use 1 or more", "field": "n", "valid": null, "request_id": "…"}}
```

`message` says what is wrong and what to do. `field` is the path of the field, such as `class`,
`from.conditions.pose`, `images[0]` or `rows[0].amount`.
`valid` lists the valid values, if there is a list. An error repeats at most 80 characters of a value. Its message has at
most 1000 characters, `field` 200, and `valid` about 2000 in all: a longer list ends with `…`.

Over gRPC, the details of the status contain the same fields (`google.rpc.ErrorInfo`, `BadRequest`, `RequestInfo`,
`RetryInfo`). The Open Inference Protocol has one text for an error, which includes the valid values."""
NOTES = """The status 499 occurs in logs and metrics only: the client disconnected before the response. An error during a stream is
its last line. Errors of HTTP itself have no gRPC status."""


def settings() -> str:
    """Return the page of settings."""
    parts = ["# Settings", MADE, SETTINGS]
    for title, names in GROUPS.items():
        fields = {f"{PREFIX}{name.upper()}": Settings.model_fields[name] for name in names}
        parts += [f"## {title}", _fields(fields)]
    return _page([*parts, "## Settings of one model", SECTIONS, _fields(ModelSettings.model_fields)])


def metrics() -> str:
    """Return the page of metrics."""
    with tempfile.TemporaryDirectory() as folder:
        described = [*Metrics(Registry(Settings(models_dir=Path(folder)))).described, *WORKERS]
    rows = [
        (f"`{each.name}`", each.kind, ", ".join(each.labels), each.documentation, ACTIONS[each.name])
        for each in described
    ]
    return _page(["# Metrics", MADE, METRICS, _table(("metric", "type", "labels", "meaning", "action"), rows)])


def errors() -> str:
    """Return the page of errors."""
    rows = [
        (
            f"`{kind('').type}`", status, code_of(kind(""), CODES).name, inference_http.status_of(kind("")),
            code_of(kind(""), inference_rpc.CODES).name, failures.PUBLIC[kind].means, failures.PUBLIC[kind].remedy,
        )
        for kind, status in STATUS.items()
    ]  # fmt: skip
    rows += [
        (f"`{name}`", status, "INTERNAL" if name == "internal" else "", status, "INTERNAL" if name == "internal" else "", each.means, each.remedy)
        for name, (status, each) in UNROUTED.items()
    ]  # fmt: skip
    head = ("type", "HTTP", "gRPC", "Open Inference: HTTP", "Open Inference: gRPC", "meaning", "remedy")
    examples = _table(("type", "message"), [(f"`{name}`", each["message"]) for name, each in EXAMPLES.items()])
    return _page(["# Errors", MADE, ERRORS, "## Types", _table(head, rows), NOTES, "## Examples", examples])


WORKERS = (
    Described(errands.UP, "gauge", f"{errands.UP_MEANS} (only with MANIFOLD_WORKERS)", ("worker",)),
    Described(errands.RESTARTS, "counter", f"{errands.RESTARTS_MEANS} (only with MANIFOLD_WORKERS)", ()),
)
PAGES = {"settings.md": settings, "metrics.md": metrics, "errors.md": errors}


def _fields(fields: Mapping[str, FieldInfo]) -> str:
    """Return the table of some settings."""
    rows = [
        (f"`{name}`", _default(each.default), _kind(each.annotation), _range(name, each), each.description or "")
        for name, each in fields.items()
    ]
    return _table(("setting", "default", "type", "unit and range", "meaning"), rows)


def _default(value: object) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return str(value).lower() if isinstance(value, bool | int | str | Path) else ""


def _kind(annotation: Any) -> str:
    """Return the name of a type."""
    origin = typing.get_origin(annotation)
    if origin is typing.Literal:
        return " or ".join(f"`{each}`" for each in typing.get_args(annotation))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_kind(each) for each in typing.get_args(annotation) if each is not types.NoneType)
    return KINDS[origin or annotation]


def _range(name: str, field: FieldInfo) -> str:
    """Return the unit and the range of a number, as far as it has any."""
    unit = UNITS.get(name.lower().rpartition("_")[2], "")
    limits = [f"{sign} {getattr(each, key)}" for each in field.metadata for key, sign in BOUNDS if hasattr(each, key)]
    return ", ".join(filter(None, [unit, *limits]))


def _table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Return a table of Markdown."""
    head = list(head)
    lines = [head, ["---"] * len(head), *([str(cell).replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |".replace("|  |", "| |").replace("|  |", "| |") for line in lines)


def _page(parts: Iterable[str]) -> str:
    return "\n\n".join(parts) + "\n"


def main() -> int:
    """Write the pages into a folder."""
    folder = Path(sys.argv[1])
    for name, page in PAGES.items():
        (folder / name).write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
