"""The rpcs of the service: they convert messages for the use cases and back."""

from __future__ import annotations

import functools
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, TypeAlias, TypeVar, cast

import orjson
from google.protobuf.message import Message

from manifold.runtime.errors import InvalidValue, UnsupportedMedia, cut
from manifold.service.aside import LARGE, ROW, aside
from manifold.service.core import contract, encoding, row_files, use_cases
from manifold.service.core.answers import UseCaseResult
from manifold.service.core.handling import Handling
from manifold.service.core.reading import Uploads
from manifold.service.core.use_cases import anomaly_score
from manifold.service.core.use_cases.base import UseCase
from manifold.service.core.validation import validate
from manifold.service.models import describe, page_data, page_files
from manifold.service.models.registry import Registry
from manifold.service.rpc import calls, messages
from manifold.service.rpc.calls import Call, Calls, deadline, readable
from manifold.service.rpc.codes import CODES
from manifold.service.rpc.limits import kept
from manifold.service.settings import Settings
from manifold.service.stubs import manifold_pb2 as pb
from manifold.service.stubs import manifold_pb2_grpc as stubs
from manifold.service.telemetry.metrics import Metrics
from manifold.service.telemetry.tracing import Tracing
from manifold.service.telemetry.tracing import spent as spent_on

R = TypeVar("R", bound=contract.BaseRequest)
Context: TypeAlias = Any  # grpc.aio.ServicerContext, which has no types

NAME = "manifold.v1.Manifold"
STREAM = "Stream"  # the end of the name of an rpc that streams the items of a use case


class Servicer(stubs.ManifoldServicer):
    """The gRPC service Manifold: one method for each rpc. Those of the use cases are added below."""

    def __init__(
        self, handling: Handling, registry: Registry, metrics: Metrics, settings: Settings, tracing: Tracing | None = None
    ) -> None:  # fmt: skip
        self.handling, self.registry, self.metrics, self.settings = handling, registry, metrics, settings
        self.calls = Calls(NAME, CODES, metrics, tracing)

    # --- files of rows ---

    async def AnomalyScoreFile(  # noqa: N802
        self, sent: AsyncIterator[pb.ScoreFileRequest], context: Context
    ) -> AsyncIterator[pb.ScoreFileResponse]:
        """Yield the scores of a file's rows."""
        async with Call(self.calls, context, "AnomalyScoreFile"):
            self.registry.check_open()
            head = readable(await anext(aiter(sent), pb.ScoreFileRequest()))
            if head.kind not in row_files.KINDS:
                raise UnsupportedMedia(
                    f"kind: {cut(head.kind) or 'an empty value'} is not supported; use one of the valid kinds",
                    field="kind",
                    valid=row_files.KINDS,
                )
            fields, given = await _read(head.request, anomaly_score.ScoreRequest)
            if given.files or given.array is not None:
                raise InvalidValue("images: not allowed with a file of rows; remove them", field="images")
            chunks = _chunks(sent)
            limits = self.settings.max_upload_bytes
            _, lines = await row_files.score(fields, head.kind, chunks, limits, self.handling, self.metrics)
            async with aclosing(lines):
                async for line in lines:
                    yield pb.ScoreFileResponse(lines=line)

    # --- models ---

    async def ListModels(self, message: pb.ListModelsRequest, context: Context) -> pb.ModelList:  # noqa: N802
        """Return the models and their states."""
        async with Call(self.calls, context, "ListModels"):
            readable(message)
            answer, shown = pb.ModelList(), self.registry.shown

            def fill() -> None:
                for summary in describe.summaries(self.registry, shown):
                    messages.fill(answer.models.add(), _summary(summary))

            await aside(fill, 2 * describe.work(shown))
            return answer

    async def GetModel(self, message: pb.GetModelRequest, context: Context) -> pb.Model:  # noqa: N802
        """Return the summary and the public part of the manifest of a model."""
        async with Call(self.calls, context, "GetModel"):
            entry = await self.registry.described(*_which(message))
            answer = pb.Model(manifest=await aside(lambda: orjson.dumps(describe.public(entry)).decode()))
            messages.fill(answer.summary, _summary(describe.summary(self.registry, entry)))
            return answer

    async def GetStats(self, message: pb.GetModelRequest, context: Context) -> pb.Stats:  # noqa: N802
        """Return the queue of a model, and the totals of its runs."""
        async with Call(self.calls, context, "GetStats"):
            answer = pb.Stats()
            messages.fill(answer, describe.stats(await self.registry.get(*_which(message))))
            return answer

    async def GetPreview(self, message: pb.GetModelRequest, context: Context) -> pb.Preview:  # noqa: N802
        """Return the preview of a model: a picture of generated items."""
        async with Call(self.calls, context, "GetPreview"):
            entry = self.registry.find(*_which(message))
            read = functools.partial(page_files.read, entry.folder, entry.manifest, "preview", "model")
            return pb.Preview(png=(await aside(read, pool="disk")).content)

    async def GetPoints(self, message: pb.GetModelRequest, context: Context) -> pb.PageFile:  # noqa: N802
        """Return latents of test items."""
        return await self._page_file(message, context, "Points")

    async def GetCurves(self, message: pb.GetModelRequest, context: Context) -> pb.PageFile:  # noqa: N802
        """Return the losses of the training."""
        return await self._page_file(message, context, "Curves")

    async def GetSheet(self, message: pb.GetModelRequest, context: Context) -> pb.PageFile:  # noqa: N802
        """Return test items and their reconstructions."""
        return await self._page_file(message, context, "Sheet")

    async def GetEpochs(self, message: pb.GetModelRequest, context: Context) -> pb.PageFile:  # noqa: N802
        """Return samples by epoch."""
        return await self._page_file(message, context, "Epochs")

    async def _page_file(self, message: pb.GetModelRequest, context: Context, name: str) -> pb.PageFile:
        async with Call(self.calls, context, f"Get{name}"):
            entry = await self.registry.described(*_which(message))
            read = functools.partial(page_data.content, entry.folder, entry.manifest, name.lower(), "model")
            content, media_type, checksum = await aside(read, pool="disk")
            return pb.PageFile(content=content, media_type=media_type, checksum=checksum)

    # --- use cases ---

    async def use(self, case: UseCase, message: Message, context: Context) -> Message:
        """Answer the rpc of a use case."""
        async with Call(self.calls, context, case.rpc) as call:
            self.registry.check_open()
            fields, given = await _read(message, case.request)
            if isinstance(fields, contract.ItemsRequest) and given.array is None:
                entry = await self.registry.described(fields.model, fields.version)
                if entry.manifest is not None and case.name in entry.endpoints:
                    messages.check_field(message, entry.manifest.spec.wire.many)
            answer = await case.handle(self.handling, fields, given, deadline(context))
            return await self._write(answer, case, call.request_id)

    async def stream(self, case: UseCase, message: Message, context: Context) -> AsyncGenerator[Message]:
        """Yield the items of a use case as they are generated."""
        assert case.stream is not None
        async with Call(self.calls, context, f"{case.rpc}{STREAM}") as call:
            self.registry.check_open()
            fields, given = await _read(message, case.request)
            async with aclosing(await case.stream(self.handling, fields, given, deadline(context))) as parts:
                async for part in parts:
                    yield await self._write(part, case, call.request_id)

    async def _write(self, answer: UseCaseResult, case: UseCase, request_id: str) -> Message:
        """Return the response as a message. A large one is written off the event loop."""
        message: Message = getattr(pb, case.response.__name__)()
        size = encoding.work(answer, ROW)  # messages are filled field by field

        def write() -> tuple[float, Message]:
            began = time.perf_counter()
            fields = encoding.to_fields(answer, request_id, picture=bytes)
            spent = 1000 * (time.perf_counter() - began)
            fields["timing"] = {"queue": answer.queue, "compute": answer.compute, "encode": spent}
            messages.fill(message, fields)
            # large messages are serialized here too; the server passes bytes on
            return spent, message if size < LARGE else cast(Message, message.SerializeToString())

        spent, written = await aside(write, size)
        now = time.monotonic()
        spent_on("encode", now - spent / 1000, now)
        self.metrics.answered(answer, case.name, spent)
        return written


def _rpc(case: UseCase) -> Callable[[Servicer, Message, Context], Awaitable[Message]]:
    """Return the method of the rpc of a use case."""

    async def rpc(self: Servicer, message: Message, context: Context) -> Message:
        return await self.use(case, message, context)

    return rpc


def _streaming_rpc(case: UseCase) -> Callable[[Servicer, Message, Context], AsyncGenerator[Message]]:
    """Return the method of the rpc that streams the items of a use case."""

    async def rpc(self: Servicer, message: Message, context: Context) -> AsyncGenerator[Message]:
        async with aclosing(self.stream(case, message, context)) as parts:
            async for part in parts:
                yield part

    return rpc


for _case in use_cases.every.values():
    setattr(Servicer, _case.rpc, _rpc(_case))
    if _case.stream is not None:
        setattr(Servicer, f"{_case.rpc}{STREAM}", _streaming_rpc(_case))


async def _read(message: Message, shape: type[R]) -> tuple[R, Uploads]:
    def read() -> tuple[R, Uploads]:
        fields, given = messages.request(readable(message), work)
        return validate(shape, fields), given

    work = calls.work()
    return await aside(read, work)


async def _chunks(sent: AsyncIterator[pb.ScoreFileRequest]) -> AsyncIterator[bytes]:
    """Yield the pieces of a file. Pieces that stay in memory are counted until the call ends."""
    async for part in sent:
        chunk = readable(part).chunk
        kept(len(chunk), row_files.IN_MEMORY)
        yield chunk


def _which(message: pb.GetModelRequest) -> tuple[str | None, int | None]:
    readable(message)
    return (
        message.model if message.HasField("model") else None,
        message.version if message.HasField("version") else None,
    )


def _summary(fields: dict[str, Any]) -> dict[str, Any]:
    """Return a summary in the form of its message: data specs as JSON."""
    items, conditioned = fields["items"] or {}, fields["conditioned"] or {}
    return {
        **fields,
        "data": _json(fields["data"]),
        "items": {role: _json(data) for role, data in items.items()},
        "conditioned": {name: {**one, "data": _json(one.get("data"))} for name, one in conditioned.items()},
    }


def _json(value: Any) -> str | None:
    return None if value is None else orjson.dumps(value).decode()
