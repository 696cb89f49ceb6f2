"""A reader of Thrift's compact protocol, in which Parquet stores its metadata. It builds no objects; it skips and counts.

From a few bytes of a footer, the usual reader builds a large object, and allocates the size that the header of a page claims. So both are
checked here first. Reading past the end raises IndexError, which the caller converts into its own error.
"""

from __future__ import annotations

from collections.abc import Iterator

TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, MAP, STRUCT, UUID = range(1, 14)
DEPTH = 32  # limit for nested structs
ITEMS = 8  # number of list items that are allowed per allowed struct


class TooMany(Exception):
    """The error of more structs or list items than allowed."""


class Compact:
    """A position in bytes of the compact protocol. At most `most` structs are read, with `ITEMS` list items for each."""

    def __init__(self, data: bytes, most: int) -> None:
        self.data, self.at, self.left, self.items = data, 0, most, ITEMS * most

    def byte(self) -> int:
        """Return the next byte."""
        self.at += 1
        return self.data[self.at - 1]

    def varint(self) -> int:
        """Return the next unsigned number. Raises ValueError if it has more than 64 bits."""
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7
            if shift > 63:
                raise ValueError("a number has more than 64 bits")

    def number(self) -> int:
        """Return the next signed number."""
        value = self.varint()
        return (value >> 1) ^ -(value & 1)

    def fields(self) -> Iterator[tuple[int, int]]:
        """Yield the id and the type of each field of a struct. The caller must read or skip the value before the next field.

        Raises TooMany.
        """
        self.left -= 1
        if self.left < 0:
            raise TooMany
        last = 0
        while head := self.byte():
            last = last + (head >> 4) if head >> 4 else self.number()
            yield last, head & 0x0F

    def skip(self, kind: int, depth: int = 0) -> None:
        """Skip a value. Raises KeyError for an unknown type, ValueError for values that are nested too deeply, and TooMany."""
        if depth > DEPTH:
            raise ValueError("nested too deeply")
        if kind in (I16, I32, I64):
            self.varint()
        elif kind == BINARY:
            self._jump(self.varint())
        elif kind == STRUCT:
            for _, each in self.fields():
                self.skip(each, depth + 1)
        elif kind in (LIST, SET):
            head = self.byte()
            self._skip_items(head >> 4 if head >> 4 != 15 else self.varint(), (head & 0x0F,), depth)
        elif kind == MAP:
            if size := self.varint():
                kinds = self.byte()
                self._skip_items(size, (kinds >> 4, kinds & 0x0F), depth)
        else:
            self._jump({TRUE: 0, FALSE: 0, BYTE: 1, DOUBLE: 8, UUID: 16}[kind])

    def _skip_items(self, size: int, kinds: tuple[int, ...], depth: int) -> None:
        self.items -= size
        if self.items < 0:
            raise TooMany
        for _ in range(size):
            for kind in kinds:
                if kind in (TRUE, FALSE):
                    self._jump(1)  # in a list, a boolean takes one byte
                else:
                    self.skip(kind, depth + 1)

    def _jump(self, size: int) -> None:
        self.at += size
        if self.at > len(self.data):
            raise IndexError("the data ends too early")

    def numbers(self, inner: tuple[int, ...] = (), depth: int = 0) -> dict[int, int | dict[int, int]]:
        """Return the whole numbers of a struct by field id, and those of its inner structs `inner`. All other values are skipped."""
        numbers: dict[int, int | dict[int, int]] = {}
        for name, kind in self.fields():
            if kind in (I16, I32, I64):
                numbers[name] = self.number()
            elif kind == STRUCT and name in inner and not depth:
                numbers[name] = self.numbers(depth=1)  # type: ignore[assignment]
            else:
                self.skip(kind)
        return numbers
