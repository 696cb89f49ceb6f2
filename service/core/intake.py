"""The requests that are being processed, over HTTP and gRPC together: their number, and the bytes of their bodies."""

from __future__ import annotations

from manifold.runtime.errors import Busy


class Room:
    """A limit of the requests that are processed at the same time."""

    def __init__(self, limit: int, name: str = "calls") -> None:
        self.limit, self.name, self.taken = limit, name, 0

    def enter(self) -> None:
        """Count one more request. Raise Busy over the limit."""
        if self.taken >= self.limit:
            raise Busy(
                f"{self.name}: the server is already processing {self.limit} of them (limit {self.limit}). Retry after 1 s.",
                reason=self.name,
            )
        self.taken += 1

    def leave(self) -> None:
        """Count one request less."""
        self.taken -= 1


class Intake:
    """The number of requests that are being processed, and the bytes of all bodies that are being received or processed.

    Bodies that arrive in one piece are small and not counted.
    """

    def __init__(self, limit: int, calls: int) -> None:
        self.limit, self.held, self.calls = limit, 0, Room(calls)

    def hold(self, size: int) -> None:
        """Count the bytes of a body. Raise Busy over the limit."""
        if self.held + size > self.limit:
            raise Busy(
                f"bodies: the server is already processing {self.held} bytes of request bodies (limit {self.limit}). Retry after 1 s.",
                reason="bodies",
            )
        self.held += size
