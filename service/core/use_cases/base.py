"""The description of a use case: everything that REST, gRPC, OpenAPI and the command line need to know about it."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from manifold.service.core import contract
from manifold.service.core.answers import UseCaseResult
from manifold.service.core.examples import Example
from manifold.service.core.handling import Handling
from manifold.service.core.reading import Uploads

GENERATE, SCORE = "Sample and edit", "Score tables and images"  # the tags of use cases in the OpenAPI document

Handle = Callable[[Handling, Any, Uploads, int | None], Awaitable[UseCaseResult]]
Stream = Callable[[Handling, Any, Uploads, int | None], Awaitable[AsyncGenerator[UseCaseResult]]]


@dataclass(frozen=True)
class UseCase:
    """A use case under the name of its endpoint: /NAME over HTTP, the rpc Name over gRPC."""

    name: str
    request: type[contract.BaseRequest]
    response: type[contract.Response]
    handle: Handle
    takes_files: bool = True  # a request may contain files, or an array, beside its fields
    gives_items: bool = False  # the response contains items, which may be pictures
    takes_row_files: bool = False  # a request may be a whole file of rows
    stream: Stream | None = None  # yields items as soon as they are generated
    # response fields with one value for each item, beside those of the kind of data: their names in a line of the stream
    by_item: Mapping[str, str] = field(default_factory=dict)
    examples: Mapping[str, Example] = field(
        default_factory=dict
    )  # requests by a short name; the first works with every format
    tag: str = GENERATE  # the subject under which /docs lists the endpoint

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
        """The summary of the endpoint: the first line of the description of its request."""
        return inspect.cleandoc(self.request.__doc__ or "").partition("\n")[0]

    @property
    def description(self) -> str:
        """The description of the endpoint: the description of its request without its first line."""
        return inspect.cleandoc(self.request.__doc__ or "").partition("\n")[2].strip()
