"""One end of the connection between a worker and its parent: JSON messages over a socket that never blocks.

A message consists of its length (4 bytes) and its text. Messages that the other end has not read wait here, up to a limit. Above it, messages are
refused. A process that has stopped reading therefore never blocks the other one.
"""

from __future__ import annotations

import socket
import struct
from typing import Any

import orjson

MOST = 64 * 2**20  # largest number of bytes that wait to be sent, and largest size of a received message
PIECE = 256 * 1024  # bytes that are read at once
LENGTH = struct.Struct("!I")

Message = list[Any]


class Line:
    """A connection: its socket, and the messages that wait to be sent."""

    def __init__(self, end: socket.socket, most: int = MOST) -> None:
        end.setblocking(False)
        self.end, self.most = end, most
        self._out, self._in = bytearray(), bytearray()
        self.closed = False  # the other end has closed

    def fileno(self) -> int:
        """Return the socket's number."""
        return self.end.fileno()

    @property
    def waiting(self) -> int:
        """The number of bytes that the other end has not read."""
        return len(self._out)

    def send(self, message: Any) -> bool:
        """Send a message, now or later. Return False if the other end has closed, or too many bytes are waiting."""
        text = orjson.dumps(message)
        if self.closed or (self._out and len(self._out) + len(text) > self.most):
            return False
        self._out += LENGTH.pack(len(text)) + text
        self.flush()
        return not self.closed

    def flush(self) -> None:
        """Send as many bytes as the other end accepts now."""
        try:
            while self._out:
                sent = self.end.send(self._out)
                del self._out[:sent]
        except BlockingIOError:
            pass
        except OSError:
            self._lose()

    def receive(self) -> list[Message]:
        """Return the messages that have arrived completely. Set `closed` if the other end has closed or sent invalid data."""
        try:
            piece = self.end.recv(PIECE)
        except BlockingIOError:
            return []
        except OSError:
            piece = b""
        if not piece:
            self._lose()
            return []
        self._in += piece
        return self._whole()

    def _whole(self) -> list[Message]:
        messages = []
        while len(self._in) >= LENGTH.size:
            (length,) = LENGTH.unpack_from(self._in)
            if length > self.most:
                self._lose()
                break
            if len(self._in) < LENGTH.size + length:
                break
            text = bytes(self._in[LENGTH.size : LENGTH.size + length])
            del self._in[: LENGTH.size + length]
            try:
                messages.append(orjson.loads(text))
            except ValueError:
                self._lose()
                break
        return messages

    def _lose(self) -> None:
        self.closed = True
        self._out.clear()

    def close(self) -> None:
        """Close the socket."""
        self.closed = True
        self.end.close()


def pair() -> tuple[Line, socket.socket]:
    """Return one end as a Line, and the socket of the other end, for a child process."""
    ours, theirs = socket.socketpair()
    return Line(ours), theirs
