"""Files of rows as bodies of /anomaly-score. The response is NDJSON, one line for each row."""

from __future__ import annotations

from manifold.runtime import codecs
from manifold.runtime.errors import UnsupportedMedia, cut
from manifold.service.core import row_files
from manifold.service.core.handling import Handling
from manifold.service.core.use_cases.anomaly_score import ScoreRequest
from manifold.service.core.validation import validate
from manifold.service.http import bodies
from manifold.service.http.incoming import Incoming
from manifold.service.http.replies import Reply
from manifold.service.http.streams import NDJSON
from manifold.service.settings import Settings
from manifold.service.telemetry.metrics import Metrics

MEDIA_TYPES = {
    "text/csv": "csv", "application/csv": "csv",
    "application/vnd.apache.parquet": "parquet", "application/x-parquet": "parquet", "application/parquet": "parquet",
    codecs.NPY: "npy",
}  # fmt: skip


def kind_of(request: Incoming) -> str | None:
    """Return csv, parquet or npy if the body is a file of rows, otherwise None.

    A .npy body is an array of items, and is a file of vectors only if the client accepts the response to a file, which is NDJSON.
    """
    kind = MEDIA_TYPES.get(request.content_type or "")
    return None if kind == "npy" and NDJSON not in (request.header(b"accept") or "") else kind


async def respond(request: Incoming, kind: str, handling: Handling, metrics: Metrics, settings: Settings) -> Reply:
    """Return a reply with one line for each row. Raise a RequestError if nothing can be scored."""
    if encoding := request.header(b"content-encoding"):
        raise UnsupportedMedia(
            f"Content-Encoding: {cut(encoding)} is not supported; send the file uncompressed", field="Content-Encoding"
        )
    fields = validate(ScoreRequest, bodies.query(request))
    limit = settings.max_upload_bytes
    request.check_length(limit)
    entry, lines = await row_files.score(fields, kind, request.chunks(row_files.IN_MEMORY), limit, handling, metrics)
    headers = {"X-Model": entry.name, "X-Model-Version": str(entry.version)}
    if row_files.is_random(entry, explain=fields.explain):
        headers["X-Reproducible"] = "false"
    return Reply(lines, NDJSON, headers=headers)
