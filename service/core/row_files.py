"""Scoring of files of rows. A file is spooled to disk and scored in chunks, and the response streams lines of JSON.

The response has one line for each row, in the file's order: the item of /anomaly-score and its `row`. A row that cannot be scored has an
`error`. The last line contains the totals, the threshold, the calibration, the decimal separator with which a CSV file was read (`decimal`),
and `warnings` about the file if there are any. An error before the first line is an ordinary error response. After the first line, the last
line is the error.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from typing import IO, Any

import orjson

from manifold.runtime.errors import InvalidValue, TooLarge, Unavailable, UnsupportedTask
from manifold.runtime.scores import bulk, scored_rows
from manifold.service.aside import LARGE, aside, later
from manifold.service.core import failures
from manifold.service.core.handling import Handling
from manifold.service.core.reading import MANY, default_model
from manifold.service.core.use_cases.anomaly_score import ScoreRequest, rule_of, threshold_of
from manifold.service.models.entries import Entry
from manifold.service.telemetry.metrics import Metrics

KINDS = ("csv", "parquet", "npy")
ROWS = 2048  # rows of one run: another request waits for at most that many
IN_MEMORY = 8 * 2**20  # bytes of a file that stay in memory; a larger file is spooled to the temporary folder


async def score(
    fields: ScoreRequest,
    kind: str,
    chunks: AsyncIterator[bytes],
    limit: int,
    handling: Handling,
    metrics: Metrics,
) -> tuple[Entry, AsyncGenerator[bytes]]:
    """Return the model, and the lines of the response for a file in chunks. Raise a RequestError if nothing can be scored."""
    for name in (*MANY, "class_", "condition", "conditions", "inputs"):
        if getattr(fields, name) is not None:
            raise InvalidValue(
                f"{name.rstrip('_')}: not allowed with a file of rows; remove it", field=name.rstrip("_")
            )
    rule = rule_of(fields)
    entry, _ = await handling.entry(fields, "anomaly-score")
    assert entry.model is not None and entry.batcher is not None
    try:
        bulk.table_of(entry.model)
    except UnsupportedTask:
        if fields.model is None and (names := handling.registry.names_of(_scores_files)):
            raise default_model(entry.name, "does not score files of rows", names, UnsupportedTask) from None
        raise
    spooled = await spool(chunks, limit)
    try:
        parts = bulk.steps(entry.model, spooled, kind, rule, explain=fields.explain, rows=ROWS)
        first = await _next(entry, parts)
    except BaseException:
        later(spooled.close)
        raise
    return entry, _lines(entry, first, parts, spooled, metrics, random=is_random(entry, explain=fields.explain))


def _scores_files(entry: Entry) -> bool:
    """Return whether a model scores files of rows."""
    manifest = entry.manifest
    return manifest is not None and manifest.spec.in_files and manifest.scoring is not None


async def spool(chunks: AsyncIterator[bytes], limit: int) -> IO[bytes]:
    """Return a body as a file, at its start. Raise TooLarge, or Unavailable if the temporary folder is full."""
    spooled = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115 - its reader closes it
    size, waiting = 0, bytearray()

    async def write() -> None:
        nonlocal waiting
        content, waiting = waiting, bytearray()
        await aside(lambda: spooled.write(content), len(content) if size <= IN_MEMORY else LARGE, pool="disk")

    try:
        async for chunk in chunks:
            size += len(chunk)
            if size > limit:
                raise TooLarge(f"body: larger than the limit of {limit} bytes; split the file", field="body")
            waiting += chunk
            if len(waiting) >= LARGE:
                await write()
        await write()
        spooled.seek(0)
    except OSError as error:
        later(spooled.close)
        raise Unavailable(
            f"body: cannot be written to the temporary folder: {error.strerror}; free disk space", field="body"
        ) from error
    except BaseException:
        later(spooled.close)
        raise
    return spooled


async def _next(entry: Entry, parts: Iterator[scored_rows.ScoredRows | None]) -> scored_rows.ScoredRows | None:
    """Return the next chunk, scored in the model's own thread, in turn with all other runs; None at the end.

    Every chunk of the first pass of a budget or a false discovery rate takes its own turn too, so that other requests continue, and a client
    that disconnects ends the work.
    """
    assert entry.batcher is not None
    while True:
        stepped, part = await entry.batcher.borrow(lambda: _step(parts))
        if part is not None or not stepped:
            return part


def _step(parts: Iterator[scored_rows.ScoredRows | None]) -> tuple[bool, scored_rows.ScoredRows | None]:
    """Return whether another step remained, and its result."""
    for part in parts:
        return True, part
    return False, None


async def _lines(
    entry: Entry,
    first: scored_rows.ScoredRows | None,
    parts: Iterator[scored_rows.ScoredRows | None],
    spooled: IO[bytes],
    metrics: Metrics,
    *,
    random: bool,
) -> AsyncGenerator[bytes]:
    total, part, last = bulk.Total(), first, None
    try:
        while part is not None:
            total.add(part)
            if part.judged is not None:
                last = part.judged
                metrics.scores.add(entry, part.judged.parts)
            yield await aside(functools.partial(scored_rows.lines, part))
            part = await _next(entry, parts)
        assert entry.model is not None
        threshold = {} if last is None else threshold_of(entry.model.calibrated, last)
        told = total.told()
        notes = {"warnings": told} if told else {}
        form = {} if total.decimal is None else {"decimal": total.decimal}
        yield _line({
            "total": total.counts(), **form, **threshold, **notes, **({"reproducible": False} if random else {}),
        })  # fmt: skip
    except Exception as error:  # the status has been sent, so the last line reports the error
        metrics.erred(error)
        yield _line({"error": failures.in_stream(error)})
    finally:
        later(spooled.close)


def is_random(entry: Entry, *, explain: bool) -> bool:
    """Return whether the graph of the score, or of its explanation, draws random numbers itself."""
    drawing = frozenset() if entry.manifest is None else entry.manifest.drawing
    return bool(drawing) and (explain or "score" in drawing)


def _line(content: dict[str, Any]) -> bytes:
    return orjson.dumps(content, option=orjson.OPT_APPEND_NEWLINE)
