"""The status codes of errors over gRPC. The Open Inference Protocol has its own table (inference/rpc.py)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import grpc

from manifold.runtime import errors
from manifold.runtime.errors import ManifoldError, UnsupportedMedia

Codes: TypeAlias = Mapping[type[ManifoldError], grpc.StatusCode]


class NotInProto(UnsupportedMedia):
    """The error of a field that proto/manifold.proto lacks. REST supports every kind of data without it."""

    def __init__(self, field: str) -> None:
        super().__init__(
            f"{field}: proto/manifold.proto has no field for this kind of data; send the request over REST",
            field=field,
        )

    @property
    def type(self) -> str:
        """The type of UnsupportedMedia."""
        return UnsupportedMedia("").type


CODES: Codes = {
    NotInProto: grpc.StatusCode.UNIMPLEMENTED,
    errors.RequestError: grpc.StatusCode.INVALID_ARGUMENT, errors.UnknownModel: grpc.StatusCode.NOT_FOUND,
    errors.NotFound: grpc.StatusCode.NOT_FOUND, errors.UnsupportedTask: grpc.StatusCode.FAILED_PRECONDITION,
    errors.Unauthorized: grpc.StatusCode.UNAUTHENTICATED, errors.Forbidden: grpc.StatusCode.PERMISSION_DENIED,
    errors.Busy: grpc.StatusCode.RESOURCE_EXHAUSTED, errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
}  # fmt: skip


def code_of(error: ManifoldError, codes: Codes) -> grpc.StatusCode:
    """Return the code of the nearest class in the table; INTERNAL if there is none."""
    return next((codes[kind] for kind in type(error).__mro__ if kind in codes), grpc.StatusCode.INTERNAL)
