"""Parquet files opened within limits: what a file claims about itself is checked before anything of it is decoded.

A few kilobytes of Parquet can stand for gigabytes: a compressed page, a value of the dictionary that every row repeats, a footer whose lists
claim millions of entries. The decoder allocates what the headers of the pages say, so these are read here first (the sums in the footer are
not believed). What is left is bounded: pages that are open at the same time, rows of a batch, and the cells of texts, which stay indices
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

FOOTER_BYTES = 16 * 2**20  # of the footer
FOOTER_STRUCTS = 200_000  # in it: a column of a row group takes five or six
EXTRA_BYTES = 64 * 2**10  # of the footer's free metadata (pandas, Arrow); more of it is not read
LIST_ITEMS = 32_768  # columns, or row groups
PAGE_BYTES = 64 * 2**20  # of a page when decompressed
OPEN_BYTES = 128 * 2**20, 2 * 2**20  # of the largest pages of all columns that are read, and more for each column
BATCH_BYTES = 32 * 2**20  # of the pages of text that a batch of rows touches
LEAST_ROWS = 16  # of a batch
EMPTY_PAGES = 64  # of a column in a row group: pages beyond its number of values
VALUE_BYTES = 64  # of a value whose length is fixed
HEADER_STRUCTS = 64  # in a page's header
HEADER_BYTES = 512, 64 * 2**10  # of a page's header: what is read at first, and at most

MAGIC = b"PAR1"
DATA, DICTIONARY, DATA_V2 = 0, 2, 3  # types of pages
SIZES = {  # least bytes of a value
    "BOOLEAN": 0, "INT32": 4, "INT64": 8, "INT96": 12, "FLOAT": 4, "DOUBLE": 8, "BYTE_ARRAY": 4,
}  # fmt: skip
PLAIN, PLAIN_DICTIONARY, RLE, DELTA_BINARY_PACKED, RLE_DICTIONARY, BYTE_STREAM_SPLIT = 0, 2, 3, 5, 8, 9
ENCODINGS = (PLAIN, PLAIN_DICTIONARY, RLE, DELTA_BINARY_PACKED, RLE_DICTIONARY, BYTE_STREAM_SPLIT)
ADVICE = "write the file anew with smaller pages or row groups"


@dataclass
class Pages:
    """The pages of one column in one row group."""

    largest: int = 0  # bytes of the largest page of values
    dictionary: int = 0  # bytes that the dictionary takes when it is decoded
    total: int = 0  # bytes of all pages
    repeated: int = 0  # bytes that a row may repeat: a dictionary of values that are written out
    rows: list[int] = field(default_factory=list)  # of each page whose values are texts in full
    bytes: list[int] = field(default_factory=list)

    def heaviest(self, rows: int) -> int:
        """Return the bytes that `rows` rows in a row can take or touch at most, in columns whose values differ in length."""
        if not self.rows:
            return rows * self.repeated
        ends = np.cumsum(np.asarray(self.rows, np.int64))
        before = np.concatenate([[0], np.cumsum(np.asarray(self.bytes, np.int64))])
        # the first page that a batch from page i's last row leaves out
        beyond = np.searchsorted(ends - self.rows, ends - 1 + rows)
        return rows * self.repeated + int((before[beyond] - before[:-1]).max())


class File:
    """A Parquet file whose columns `names` (all where None) can be read in bounded memory. `cell` is the largest cell that is expected."""

    def __init__(self, source: IO[bytes], names: Sequence[str] | None, cell: int) -> None:
        from pyarrow import parquet

        self.source, self.cell = source, cell
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
        self.schema = plain.schema_arrow  # as the file has it, texts as texts

    def batches(self, rows: int) -> Iterator[Any]:
        """Yield record batches of at most `rows` rows. Raises TooLarge or Malformed before a row group that cannot be read within limits."""
        for group in range(self.metadata.num_row_groups):
            yield from self.reader.iter_batches(
                batch_size=self.check(group, rows), row_groups=[group], columns=self.names, use_threads=False
            )

    def check(self, group: int, rows: int) -> int:
        """Return how many of `rows` rows a batch of this row group may have. Raises TooLarge, or Malformed for headers that lie."""
        row_group = self.metadata.row_group(group)
        pages = [self._pages(row_group.column(leaf), leaf, row_group.num_rows) for leaf in self.leaves]
        limit = OPEN_BYTES[0] + OPEN_BYTES[1] * len(pages)
        if (held := sum(each.largest + each.dictionary for each in pages)) > limit:
            raise _too_large(f"row group {group + 1} needs {held} bytes at a time, the limit is {limit}; {ADVICE}")
        total, allowed = sum(each.total for each in pages), row_group.num_rows * len(pages) * self.cell
        if total > BATCH_BYTES + allowed:
            raise _too_large(
                f"row group {group + 1} has {total} bytes in {row_group.num_rows} rows; a cell has {self.cell} at most"
            )
        while (touched := sum(each.heaviest(rows) for each in pages)) > BATCH_BYTES and rows > LEAST_ROWS:
            rows //= 2
        if touched > BATCH_BYTES:
            raise _too_large(f"{rows} rows of row group {group + 1} take {touched} bytes, the limit is {BATCH_BYTES}")
        return rows

    def _pages(self, chunk: Any, leaf: int, rows: int) -> Pages:
        """Return the pages of a column in a row group, by their headers, in the order in which the decoder meets them.

        Raises TooLarge, or Malformed: also for pages without values, of which many row groups could share millions.
        """
        pages, values, count, name = Pages(), 0, 0, chunk.path_in_schema
        if chunk.num_values != rows and not self.metadata.schema.column(leaf).max_repetition_level:
            raise Malformed(f"file: column {shown(name)} has {chunk.num_values} values for {rows} rows", field="file")
        at = chunk.data_page_offset
        if chunk.has_dictionary_page and 0 < (first := chunk.dictionary_page_offset or 0) < at:
            at = first
        end = at + chunk.total_compressed_size
        if at < 0 or end > self.size:
            raise Malformed(f"file: column {shown(name)} lies beyond the file's end", field="file")
        size = self._value_size(leaf)
        while values < chunk.num_values and at < end:
            header, length = self._header(at, name)
            at, count = at + length + header[3], count + 1
            if count > chunk.num_values + EMPTY_PAGES:
                raise Malformed(f"file: column {shown(name)} has more pages than values", field="file")
            if at > self.size:
                raise Malformed(f"file: a page of column {shown(name)} lies beyond the file's end", field="file")
            values += _add(pages, header, chunk.physical_type, size, name)
        pages.repeated = pages.dictionary if name in self.written_out else 0
        return pages

    def _header(self, at: int, name: str) -> tuple[dict[int, Any], int]:
        """Return a page's header and its length."""
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
        raise Malformed(f"file: column {shown(name)} has a page without a readable header", field="file")

    def _value_size(self, leaf: int) -> int:
        """Return the least bytes of a value. Raises TooLarge for values of a fixed length that is too great."""
        column = self.metadata.schema.column(leaf)
        if column.physical_type != "FIXED_LEN_BYTE_ARRAY":
            return SIZES.get(column.physical_type, 1)
        if column.length > VALUE_BYTES:
            raise _too_large(
                f"column {shown(column.path)} has values of {column.length} bytes, the limit is {VALUE_BYTES}"
            )
        return int(column.length)


def _add(pages: Pages, header: dict[int, Any], kind: str, size: int, name: str) -> int:
    """Note a page, and return how many values it holds. Raises TooLarge, or Malformed for a claim that cannot be true."""
    page, inflated = header[1], header[2]
    if inflated > PAGE_BYTES:
        raise _too_large(f"column {shown(name)} has a page of {inflated} bytes, the limit is {PAGE_BYTES}; {ADVICE}")
    page_header = header.get({DATA: 5, DICTIONARY: 7, DATA_V2: 8}.get(page, 0))
    if page_header is None:
        return 0  # a page of another kind, which the decoder skips
    values = page_header.get(1, -1)
    if values < 0:
        raise Malformed(f"file: column {shown(name)} has a page without a number of values", field="file")
    pages.total += inflated
    if page == DICTIONARY:
        if values * size > inflated:
            raise Malformed(f"file: the dictionary of column {shown(name)} claims {values} values", field="file")
        pages.dictionary += inflated + 16 * values
        return 0
    encoding = page_header.get(2 if page == DATA else 4, PLAIN)
    if encoding not in ENCODINGS:
        raise Malformed(
            f"file: column {shown(name)} has pages in an encoding that is not read (delta of texts); "
            "write the file anew with plain or dictionary encoding",
            field="file",
        )
    pages.largest = max(pages.largest, inflated)
    if kind == "BYTE_ARRAY" and encoding == PLAIN:
        pages.rows.append(values)
        pages.bytes.append(inflated)
    return int(values)


def _metadata(source: IO[bytes], size: int) -> Any:
    """Return pyarrow's metadata of a footer that has been looked at before. Raises Malformed, or TooLarge."""
    from pyarrow import parquet

    footer = _footer(source, size)
    whole = MAGIC + footer + len(footer).to_bytes(4, "little") + MAGIC
    return parquet.ParquetFile(
        io.BytesIO(whole), thrift_string_size_limit=FOOTER_BYTES, thrift_container_size_limit=LIST_ITEMS
    ).metadata


def _footer(source: IO[bytes], size: int) -> bytes:
    """Return the footer, without its free metadata where that is large."""
    source.seek(max(size - 8, 0))
    tail = source.read(8)
    length = int.from_bytes(tail[:4], "little")
    if len(tail) < 8 or tail[4:] != MAGIC or length > size - 12:
        raise Malformed("file: cannot be read as parquet: it does not end as a Parquet file does", field="file")
    if length > FOOTER_BYTES:
        raise _too_large(f"its footer has {length} bytes, the limit is {FOOTER_BYTES}")
    source.seek(size - 8 - length)
    content = source.read(length)
    try:
        return _without_extras(content)
    except TooMany:
        raise _too_large(f"its footer has more than {FOOTER_STRUCTS} parts; {ADVICE}") from None
    except (IndexError, ValueError, KeyError):
        raise Malformed("file: cannot be read as parquet: its footer is damaged", field="file") from None


def _without_extras(content: bytes) -> bytes:
    """Return a footer with at most EXTRA_BYTES of free metadata. Raises TooMany for one of too many parts."""
    reader, kept, last, begin = Compact(content, FOOTER_STRUCTS), bytearray(), 0, 0
    for name, kind in reader.fields():
        value = reader.at
        reader.skip(kind)
        if not (name == 5 and kind == LIST and reader.at - begin > EXTRA_BYTES):
            if not 0 < name - last < 16:
                raise ValueError("fields of a footer stand in their order")
            kept += bytes([(name - last) << 4 | kind]) + content[value : reader.at]
            last = name
        begin = reader.at
    return bytes(kept) + b"\0"


def _top(path: str) -> str:
    return path.partition(".")[0]


def _too_large(what: str) -> TooLarge:
    return TooLarge(f"file: {what}", field="file")
