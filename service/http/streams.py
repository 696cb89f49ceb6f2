"""Streams of samples, sent as they are generated: NDJSON, or server-sent events with the same lines as their data.

Every item has one line: its `item` (an index that starts at the request's `first`), its `image` (base64 PNG), `data` or `row`, and its `class`,
`condition`, `latent` or `codes` if there is one. For models with several outputs, these are under `items` by role. `named_latents` and
`conditions` are by name. The last line has `total` and the fields of every response. An error before the first line is an ordinary error
response. After the first line, the last line is the error. An item is the same as in an ordinary response.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from typing import Any

from manifold.runtime import kinds
from manifold.service.aside import aside
from manifold.service.core import encoding, failures
from manifold.service.core.answers import UseCaseResult
from manifold.service.core.use_cases.base import UseCase
from manifold.service.http.replies import Reply
from manifold.service.telemetry.metrics import Metrics

NDJSON = "application/x-ndjson"
EVENTS = "text/event-stream"
MEDIA_TYPES = (NDJSON, EVENTS)
# response fields of items, and their names in a line
ITEMS = {many: one for kind in kinds.every for many, one in kind.wire.by_item.items()}


def respond(
    parts: AsyncGenerator[UseCaseResult],
    case: UseCase,
    request: Any,
    media_type: str,
    request_id: str,
    metrics: Metrics,
) -> Reply:
    """Return a reply that streams the items of a response as they are generated."""
    lines = _lines(parts, case, request.first, request_id, _event if media_type == EVENTS else _line, metrics)
    return Reply(lines, media_type, headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})


def items(answer: UseCaseResult, case: UseCase, request_id: str, start: int) -> Iterator[dict[str, Any]]:
    """Yield the lines of a part. Its first item has the index `start`."""
    fields = encoding.to_fields(answer, request_id)
    columns = _columns(fields, {**ITEMS, **case.by_item})
    outputs = {role: _columns(made, ITEMS) for role, made in fields.get("items", {}).items()}
    chance = {"reproducible": False} if "reproducible" in fields else {}
    for index in range(len(answer.items) if answer.items is not None else 0):
        line = {"item": start + index, **_at(columns, index)}
        if outputs:
            line["items"] = {role: _at(made, index) for role, made in outputs.items()}
        yield {**line, **chance}


def _columns(fields: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Return the fields that have one value for each item, by their name in a line."""
    return {name: fields[key] for key, name in names.items() if key in fields}


def _at(columns: Mapping[str, Any], index: int) -> dict[str, Any]:
    """Return the values of one item."""
    return {name: _value_at(values, index) for name, values in columns.items()}


def _value_at(values: Any, index: int) -> Any:
    """Return the value of one item, or its values by name."""
    if not isinstance(values, Mapping):
        return values[index]
    return {name: _alone(each, index) if isinstance(each, Mapping) else each[index] for name, each in values.items()}


def _alone(condition: Mapping[str, Any], index: int) -> dict[str, Any]:
    """Return the condition of one item in its long form."""
    return {form: values[index : index + 1] for form, values in condition.items()}


async def _lines(
    parts: AsyncGenerator[UseCaseResult],
    case: UseCase,
    first: int,
    request_id: str,
    write: Callable[[dict[str, Any]], bytes],
    metrics: Metrics,
) -> AsyncGenerator[bytes]:
    total, queue, compute = 0, 0.0, 0.0
    ending: dict[str, Any] = {}

    def written(part: UseCaseResult) -> bytes:
        return b"".join(write(item) for item in items(part, case, request_id, first + total))

    try:
        async for part in parts:
            metrics.answered(part, case.name)
            yield await aside(functools.partial(written, part), encoding.work(part))
            assert part.items is not None
            total, queue, compute = total + len(part.items), queue + part.queue, compute + part.compute
            ending = {"model": part.entry.name, "version": part.entry.version, "request_id": request_id}
            if "seed" in part.fields:
                ending |= {"seed": part.fields["seed"], "first": first}
            if "reproducible" in part.fields:
                ending["reproducible"] = False
        yield write({"total": total, **ending, "timing": {"queue": round(queue, 3), "compute": round(compute, 3)}})
    except Exception as error:  # the status has been sent, so the last line reports the error
        metrics.erred(error)
        yield write({"error": {**failures.in_stream(error, request_id), "request_id": request_id}})
    finally:
        await parts.aclose()


def _line(content: dict[str, Any]) -> bytes:
    return encoding.dumps(content) + b"\n"


def _event(content: dict[str, Any]) -> bytes:
    return b"data: " + encoding.dumps(content) + b"\n\n"
