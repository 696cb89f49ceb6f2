"""A reader of Thrift's compact protocol that builds no objects: it walks over what Parquet writes about itself, and counts.

Parquet's own reader builds a large object for every few bytes of a footer, and allocates what a page's header claims. So both are looked at
here first. Reading past the end raises IndexError, which the caller turns into its error.
"""

from __future__ import annotations

from collections.abc import Iterator

TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, MAP, STRUCT, UUID = range(1, 14)
DEPTH = 32  # structs within structs
ITEMS = 8  # items of lists for each struct that is allowed


class TooMany(Exception):
    """More structs, or items of lists, than are allowed."""


class Compact:
    """A position in bytes of the compact protocol. `most` is how many structs it may meet, with `ITEMS` items of lists for each."""

    def __init__(self, data: bytes, most: int) -> None:
        self.data, self.at, self.left, self.items = data, 0, most, ITEMS * most

    def byte(self) -> int:
        """Return the next byte."""
        self.at += 1
        return self.data[self.at - 1]

    def varint(self) -> int:
        """Return the next unsigned number. Raises ValueError for one of more than 64 bits."""
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7
            if shift > 63:
                raise ValueError("a number of more than 64 bits")

    def number(self) -> int:
        """Return the next signed number."""
        value = self.varint()
        return (value >> 1) ^ -(value & 1)

    def fields(self) -> Iterator[tuple[int, int]]:
        """Yield the id and the type of each field of a struct; the caller reads or skips its value before it goes on.

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
        """Step over a value. Raises KeyError for an unknown type, ValueError for values that are nested too deeply, TooMany."""
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
                    self._jump(1)  # a truth value is a byte of its own here
                else:
                    self.skip(kind, depth + 1)

    def _jump(self, size: int) -> None:
        self.at += size
        if self.at > len(self.data):
            raise IndexError("the end")

    def numbers(self, inner: tuple[int, ...] = (), depth: int = 0) -> dict[int, int | dict[int, int]]:
        """Return the whole numbers of a struct by field id, and those of the structs `inner` in it; all else is skipped."""
        numbers: dict[int, int | dict[int, int]] = {}
        for name, kind in self.fields():
            if kind in (I16, I32, I64):
                numbers[name] = self.number()
            elif kind == STRUCT and name in inner and not depth:
                numbers[name] = self.numbers(depth=1)  # type: ignore[assignment]
            else:
                self.skip(kind)
        return numbers
