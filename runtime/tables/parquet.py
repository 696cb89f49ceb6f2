"""A reader of Parquet files with limits: the sizes that a file claims are checked before it is decoded.

A few kilobytes of Parquet can expand to gigabytes: a compressed page, a dictionary value that every row repeats, or a footer with lists of
millions of entries. The decoder allocates the sizes in the page headers, so these headers are read here first; the sums in the footer are not
trusted. All other memory is bounded: the pages that are open at the same time, the rows of a batch, and the cells of texts, which stay indices
into a dictionary until runtime.tables.files has measured them.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

import numpy as np

from manifold.runtime.errors import Malformed, TooLarge, shown
from manifold.runtime.tables.thrift import LIST, Compact, TooMany

FOOTER_BYTES = 16 * 2**20  # limit for the footer
FOOTER_STRUCTS = 200_000  # limit for the structs in the footer; a column of a row group needs five or six
EXTRA_BYTES = 64 * 2**10  # limit for the key-value metadata in the footer (pandas, Arrow); larger metadata is skipped
LIST_ITEMS = 32_768  # limit for the columns, and for the row groups
PAGE_BYTES = 64 * 2**20  # limit for a decompressed page
OPEN_BYTES = (
    128 * 2**20,
    2 * 2**20,
)  # limit for the largest pages of all columns to read: a total, plus a share per column
BATCH_BYTES = 32 * 2**20  # limit for the pages of text that a batch of rows needs
LEAST_ROWS = 16  # smallest batch
EMPTY_PAGES = 64  # limit for the pages of a column in a row group, in addition to its number of values
VECTOR_BYTES = 2**30  # limit for the numbers of a list column in a row group
EXPANSION = 32, 16 * 2**20  # limit for these numbers: so many times the bytes in the file, plus a number of bytes
VALUE_BYTES = 64  # limit for a value of fixed length
HEADER_STRUCTS = 64  # limit for the structs in the header of a page
HEADER_BYTES = 512, 64 * 2**10  # bytes of a page header that are read at first, and at most

MAGIC = b"PAR1"
DATA, DICTIONARY, DATA_V2 = 0, 2, 3  # types of pages
SIZES = {  # smallest size of a value in bytes
    "BOOLEAN": 0, "INT32": 4, "INT64": 8, "INT96": 12, "FLOAT": 4, "DOUBLE": 8, "BYTE_ARRAY": 4,
}  # fmt: skip
PLAIN, PLAIN_DICTIONARY, RLE, DELTA_BINARY_PACKED, RLE_DICTIONARY, BYTE_STREAM_SPLIT = 0, 2, 3, 5, 8, 9
ENCODINGS = (PLAIN, PLAIN_DICTIONARY, RLE, DELTA_BINARY_PACKED, RLE_DICTIONARY, BYTE_STREAM_SPLIT)
ADVICE = "write the file again with smaller pages or row groups"
DAMAGED = "the file is damaged: write it again"


@dataclass
class Pages:
    """The pages of one column in one row group."""

    largest: int = 0  # bytes of the largest page of values
    dictionary: int = 0  # bytes of the decoded dictionary
    total: int = 0  # bytes of all pages
    repeated: int = 0  # bytes that each row may add: the dictionary, if its values are copied into the rows
    rows: list[int] = field(default_factory=list)  # rows of each page that stores texts without a dictionary
    bytes: list[int] = field(default_factory=list)  # bytes of each such page

    def heaviest(self, rows: int) -> int:
        """Return the most bytes that `rows` consecutive rows can need, for columns with values of variable length."""
        if not self.rows:
            return rows * self.repeated
        ends = np.cumsum(np.asarray(self.rows, np.int64))
        before = np.concatenate([[0], np.cumsum(np.asarray(self.bytes, np.int64))])
        # the first page after a batch that starts with the last row of page i
        beyond = np.searchsorted(ends - self.rows, ends - 1 + rows)
        return rows * self.repeated + int((before[beyond] - before[:-1]).max())


class File:
    """A Parquet file whose columns `names` (None for all) can be read in bounded memory. `cell` is the largest expected cell in bytes.

    `vector` is a further column to read, of lists of numbers, with the expected length of a list. Rows do not bound the memory for lists, so the
    numbers of a row group are limited.
    """

    def __init__(
        self, source: IO[bytes], names: Sequence[str] | None, cell: int, vector: tuple[str, int] | None = None
    ) -> None:
        from pyarrow import parquet

        self.source, self.cell = source, cell
        self.vector = None if vector is None else vector[0]
        if vector is not None:
            names = [*(names or []), vector[0]]
            self.cell = max(cell, VALUE_BYTES * vector[1])
        self.size = source.seek(0, os.SEEK_END)
        metadata = _metadata(source, self.size)
        leaves = [metadata.schema.column(at) for at in range(metadata.num_columns)]
        wanted = None if names is None else set(names)
        self.leaves = [
            at for at, leaf in enumerate(leaves) if wanted is None or leaf.path in wanted or _top(leaf.path) in wanted
        ]
        bytes_of = [leaves[at] for at in self.leaves if leaves[at].physical_type == "BYTE_ARRAY"]
        texts = [leaf.path for leaf in bytes_of if leaf.logical_type.type != "DECIMAL"]
        self.written_out = {leaf.path for leaf in bytes_of} - set(texts)
        self.metadata, self.names = metadata, None if names is None else list(names)
        self.reader = parquet.ParquetFile(
            source, metadata=metadata, read_dictionary=texts, pre_buffer=False, buffer_size=64 * 2**10
        )
        plain = parquet.ParquetFile(source, metadata=metadata, pre_buffer=False)
        self.schema = plain.schema_arrow  # the schema of the file, with texts as texts and not as dictionaries

    def batches(self, rows: int) -> Iterator[Any]:
        """Yield record batches of at most `rows` rows. Raises TooLarge or Malformed before a row group that exceeds the limits."""
        for group in range(self.metadata.num_row_groups):
            yield from self.reader.iter_batches(
                batch_size=self.check(group, rows), row_groups=[group], columns=self.names, use_threads=False
            )

    def check(self, group: int, rows: int) -> int:
        """Return the number of rows, at most `rows`, for batches of a row group. Raises TooLarge, or Malformed for false headers."""
        row_group = self.metadata.row_group(group)
        pages = [self._pages(row_group.column(leaf), leaf, row_group.num_rows) for leaf in self.leaves]
        limit = OPEN_BYTES[0] + OPEN_BYTES[1] * len(pages)
        if (held := sum(each.largest + each.dictionary for each in pages)) > limit:
            raise _too_large(f"row group {group + 1} needs {held} bytes at once (limit {limit}); {ADVICE}")
        total, allowed = sum(each.total for each in pages), row_group.num_rows * len(pages) * self.cell
        if total > BATCH_BYTES + allowed:
            raise _too_large(
                f"row group {group + 1} has {total} bytes in {row_group.num_rows} rows; the limit for a cell is {self.cell} bytes on average"
            )
        while (touched := sum(each.heaviest(rows) for each in pages)) > BATCH_BYTES and rows > LEAST_ROWS:
            rows //= 2
        if touched > BATCH_BYTES:
            raise _too_large(
                f"{rows} rows of row group {group + 1} need {touched} bytes (limit {BATCH_BYTES}); {ADVICE}"
            )
        return rows

    def _pages(self, chunk: Any, leaf: int, rows: int) -> Pages:
        """Read the page headers of a column in a row group, in the order in which the decoder reads them.

        Raises TooLarge or Malformed, also for pages without values: many row groups could share millions of them.
        """
        pages, values, count, name = Pages(), 0, 0, chunk.path_in_schema
        if chunk.num_values != rows and not self.metadata.schema.column(leaf).max_repetition_level:
            raise Malformed(
                f"file: column {shown(name)} has {chunk.num_values} values for {rows} rows; {DAMAGED}", field="file"
            )
        at = chunk.data_page_offset
        if chunk.has_dictionary_page and 0 < (first := chunk.dictionary_page_offset or 0) < at:
            at = first
        begin, end = at, at + chunk.total_compressed_size
        if at < 0 or end > self.size:
            raise Malformed(f"file: column {shown(name)} is beyond the end of the file; {DAMAGED}", field="file")
        size = self._value_size(leaf)
        while values < chunk.num_values and at < end:
            header, length = self._header(at, name)
            at, count = at + length + header[3], count + 1
            if count > chunk.num_values + EMPTY_PAGES:
                raise Malformed(f"file: column {shown(name)} has more pages than values; {DAMAGED}", field="file")
            if at > self.size:
                raise Malformed(
                    f"file: a page of column {shown(name)} is beyond the end of the file; {DAMAGED}", field="file"
                )
            values += _add(pages, header, chunk.physical_type, size, name)
        if self.vector is not None and _top(name) == self.vector:
            if values > chunk.num_values:
                raise Malformed(
                    f"file: column {shown(name)} has more values than its row group states; {DAMAGED}", field="file"
                )
            if values * size > EXPANSION[0] * max(at - begin, 0) + EXPANSION[1]:
                raise _too_large(
                    f"column {shown(name)} expands from {at - begin} to {values * size} bytes; write the file again without compression and "
                    "without a dictionary for this column"
                )
            if values * size > VECTOR_BYTES:
                raise _too_large(
                    f"column {shown(name)} has {values} numbers in a row group (limit {VECTOR_BYTES} bytes); write the file again with fewer rows in a "
                    "row group"
                )
        pages.repeated = pages.dictionary if name in self.written_out else 0
        return pages

    def _header(self, at: int, name: str) -> tuple[dict[int, Any], int]:
        """Return the header of a page and its length."""
        for most in HEADER_BYTES:
            self.source.seek(at)
            reader = Compact(self.source.read(most), HEADER_STRUCTS)
            try:
                header: dict[int, Any] = reader.numbers((5, 7, 8))
            except IndexError:
                continue
            except (ValueError, KeyError, TooMany):
                break
            if all(isinstance(header.get(key), int) for key in (1, 2, 3)) and header[2] >= 0 and header[3] >= 0:
                return header, reader.at
            break
        raise Malformed(f"file: column {shown(name)} has a page without a readable header; {DAMAGED}", field="file")

    def _value_size(self, leaf: int) -> int:
        """Return the smallest size of a value in bytes. Raises TooLarge for values of a fixed length above the limit."""
        column = self.metadata.schema.column(leaf)
        if column.physical_type != "FIXED_LEN_BYTE_ARRAY":
            return SIZES.get(column.physical_type, 1)
        if column.length > VALUE_BYTES:
            raise _too_large(
                f"column {shown(column.path)} has values of {column.length} bytes; the limit is {VALUE_BYTES}"
            )
        return int(column.length)


def _add(pages: Pages, header: dict[int, Any], kind: str, size: int, name: str) -> int:
    """Record a page and return its number of values. Raises TooLarge, or Malformed for an impossible claim."""
    page, inflated = header[1], header[2]
    if inflated > PAGE_BYTES:
        raise _too_large(f"column {shown(name)} has a page of {inflated} bytes (limit {PAGE_BYTES}); {ADVICE}")
    page_header = header.get({DATA: 5, DICTIONARY: 7, DATA_V2: 8}.get(page, 0))
    if page_header is None:
        return 0  # a page of another type; the decoder skips it
    values = page_header.get(1, -1)
    if values < 0:
        raise Malformed(
            f"file: column {shown(name)} has a page that does not state its number of values; {DAMAGED}", field="file"
        )
    pages.total += inflated
    if page == DICTIONARY:
        if values * size > inflated:
            raise Malformed(
                f"file: the dictionary of column {shown(name)} claims {values} values, more than fit; {DAMAGED}",
                field="file",
            )
        pages.dictionary += inflated + 16 * values
        return 0
    encoding = page_header.get(2 if page == DATA else 4, PLAIN)
    if encoding not in ENCODINGS:
        raise Malformed(
            f"file: column {shown(name)} has pages in an encoding that is not supported (delta of texts); "
            "write the file again with plain or dictionary encoding",
            field="file",
        )
    pages.largest = max(pages.largest, inflated)
    if kind == "BYTE_ARRAY" and encoding == PLAIN:
        pages.rows.append(values)
        pages.bytes.append(inflated)
    return int(values)


def _metadata(source: IO[bytes], size: int) -> Any:
    """Return pyarrow's metadata of the footer, after the footer was checked. Raises Malformed or TooLarge."""
    from pyarrow import parquet

    footer = _footer(source, size)
    whole = MAGIC + footer + len(footer).to_bytes(4, "little") + MAGIC
    return parquet.ParquetFile(
        io.BytesIO(whole), thrift_string_size_limit=FOOTER_BYTES, thrift_container_size_limit=LIST_ITEMS
    ).metadata


def _footer(source: IO[bytes], size: int) -> bytes:
    """Return the footer, without its key-value metadata if that is large."""
    source.seek(max(size - 8, 0))
    tail = source.read(8)
    length = int.from_bytes(tail[:4], "little")
    if len(tail) < 8 or tail[4:] != MAGIC or length > size - 12:
        raise Malformed(
            "file: cannot be read as parquet: it does not end with a Parquet footer; check that it is complete",
            field="file",
        )
    if length > FOOTER_BYTES:
        raise _too_large(f"its footer has {length} bytes (limit {FOOTER_BYTES}); write fewer row groups")
    source.seek(size - 8 - length)
    content = source.read(length)
    try:
        return _without_extras(content)
    except TooMany:
        raise _too_large(f"its footer has more than {FOOTER_STRUCTS} parts; write fewer row groups") from None
    except (IndexError, ValueError, KeyError):
        raise Malformed(
            f"file: cannot be read as parquet: its footer cannot be read; {DAMAGED}", field="file"
        ) from None


def _without_extras(content: bytes) -> bytes:
    """Return a footer without key-value metadata above EXTRA_BYTES. Raises TooMany if it has too many parts."""
    reader, kept, last, begin = Compact(content, FOOTER_STRUCTS), bytearray(), 0, 0
    for name, kind in reader.fields():
        value = reader.at
        reader.skip(kind)
        if not (name == 5 and kind == LIST and reader.at - begin > EXTRA_BYTES):
            if not 0 < name - last < 16:
                raise ValueError("the fields of the footer are not in ascending order")
            kept += bytes([(name - last) << 4 | kind]) + content[value : reader.at]
            last = name
        begin = reader.at
    return bytes(kept) + b"\0"


def _top(path: str) -> str:
    return path.partition(".")[0]


def _too_large(what: str) -> TooLarge:
    return TooLarge(f"file: {what}", field="file")
