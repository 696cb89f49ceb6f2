"""The description of a use case: what every surface needs to know of it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from manifold.service.core import contract
from manifold.service.core.answers import UseCaseResult
from manifold.service.core.handling import Handling
from manifold.service.core.reading import Uploads

Handle = Callable[[Handling, Any, Uploads, int | None], Awaitable[UseCaseResult]]
Stream = Callable[[Handling, Any, Uploads, int | None], Awaitable[AsyncGenerator[UseCaseResult]]]


@dataclass(frozen=True)
class UseCase:
    """A use case under the name of its endpoint: /NAME over HTTP, the rpc Name over gRPC."""

    name: str
    request: type[contract.BaseRequest]
    response: type[contract.Response]
    handle: Handle
    takes_files: bool = True  # files, or an array, may come beside the fields
    gives_items: bool = False  # answers with items, which may be pictures
    takes_row_files: bool = False  # whole files of rows are handled too
    stream: Stream | None = None  # answers with items as they are made
    by_item: Mapping[str, str] = field(
        default_factory=dict
    )  # answer fields with a value for each item, beside those of the items' kind: what a line of the stream calls them

    @property
    def path(self) -> str:
        """The path over HTTP."""
        return f"/{self.name}"

    @property
    def rpc(self) -> str:
        """The name over gRPC."""
        return "".join(word.capitalize() for word in self.name.split("-"))

    @property
    def summary(self) -> str:
        """The summary of the endpoint, which is the description of its request."""
        return self.request.__doc__ or ""
