"""The detection of the form of a CSV file from its beginning: encoding, header, delimiter, blanks before quotes, decimal separator."""

from __future__ import annotations

import codecs
import csv
import io
import itertools
import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import IO, Any

from manifold.runtime.errors import Malformed, TooLarge, cut, shown
from manifold.runtime.tables import values
from manifold.runtime.tables.values import Decimals

HEADER_BYTES = 2**20  # limit for the header of a CSV file
SAMPLE_CHARACTERS, SAMPLE_ROWS = 256 * 2**10, 500  # size of the sample from which the form is detected
DELIMITERS = (
    ";\t|,"  # among equally good ones, the first is chosen; the comma is last, since it is also a decimal separator
)
STATED = re.compile(r'"?sep=(.)"?\r?\n', re.IGNORECASE)  # a first line that states the delimiter for Excel
CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f]")  # characters of binary files; vertical tabs occur in texts
LINES = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")

BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
# files called Latin-1 are usually Windows-1252; its five undefined bytes are read as in Latin-1
LATIN = "".join(bytes([code]).decode("cp1252", "ignore") or chr(code) for code in range(256))

# unambiguous numbers: 0.5, 12.25, 1,234.5, and the same with point and comma exchanged
_ANYWHERE = r"[+-]?(?:\d{{1,3}}(?:[{group}{spaces}]\d{{3}})+{point}\d+|\d*{point}(?:\d{{1,2}}|\d{{4,}})|0+{point}\d+|\d{{4,}}{point}\d+)(?:[eE][+-]?\d+)?"
_EVIDENCE: dict[Decimals, re.Pattern[str]] = {
    ".": re.compile(_ANYWHERE.format(point=r"\.", group=",", spaces=values.SPACES)),
    ",": re.compile(_ANYWHERE.format(point=",", group=r"\.", spaces=values.SPACES)),
}
_EITHER = re.compile(r"[+-]?\d{1,3},\d{3}")


@dataclass(frozen=True)
class Dialect:
    """The form of one CSV file."""

    header: tuple[str, ...]  # names without surrounding blanks
    delimiter: str
    spaced: bool  # true if there are blanks between a delimiter and a quote
    decimal: Decimals | None  # decimal separator; None if the beginning of the file shows none
    skip: int  # number of characters before the first row


class Text(io.RawIOBase):
    """A stream that converts a text file into UTF-8, from UTF-8, UTF-16 with a byte order mark, or Latin-1 (Windows-1252).

    A file that is not valid UTF-8 is read as Latin-1. Raises Malformed if characters in UTF-8 come before the invalid bytes.
    """

    def __init__(self, source: IO[bytes]) -> None:
        self._source, self._rest, self._read = source, b"", 0
        head = source.read(3)
        found = next(((mark, name) for mark, name in BOMS if head.startswith(mark)), (b"", "utf-8"))
        self._first, self.encoding = head[len(found[0]) :], found[1]
        self._decoder = codecs.getincrementaldecoder(self.encoding)()
        self._beyond_ascii = bool(found[0])

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            content, self._first = self._first or self._source.read(max(len(buffer), 4)), b""
            self._rest = self._decode(content, final=not content)
            if not content:
                break
        size = min(len(buffer), len(self._rest))
        buffer[:size], self._rest = self._rest[:size], self._rest[size:]
        return size

    def _decode(self, content: bytes, *, final: bool) -> bytes:
        """Convert bytes of the file into UTF-8."""
        if self.encoding == "latin-1":
            return codecs.charmap_decode(content, "strict", LATIN)[0].encode()
        pending = self._decoder.getstate()[0]
        try:
            text = self._decoder.decode(content, final)
        except UnicodeDecodeError as error:
            if self.encoding != "utf-8" or self._beyond_ascii or not (pending + content)[: error.start].isascii():
                raise Malformed(
                    f"file: byte {self._read - len(pending) + error.start + 1} is not valid {self.encoding.upper()}, but the bytes before it are; "
                    "save the file as UTF-8",
                    field="file",
                ) from None
            self.encoding = "latin-1"
            return self._decode(pending + content, final=final)
        self._read += len(content)
        if self.encoding != "utf-8":
            return text.encode()
        self._beyond_ascii = self._beyond_ascii or not text.isascii()
        whole, cut_off = pending + content, len(self._decoder.getstate()[0])
        return whole[: len(whole) - cut_off]


def find(head: str, wanted: Collection[str] = ()) -> Dialect:
    """Return the form of a file that starts with `head`. `wanted` are the columns to look for; empty for any.

    Raises Malformed for a file without a header, TooLarge if the header is too long.
    """
    begin, stated = _begin(head)
    _check_stated(stated)
    line = re.match(r"[^\r\n]*", head[begin:])
    if line is not None and len(line.group().encode()) > HEADER_BYTES:
        raise _long_header()
    if line is not None and CONTROL.search(line.group()):
        raise _binary("its first line contains control characters")
    sample = head[begin : begin + SAMPLE_CHARACTERS]
    if not re.search(r"[\r\n]", sample) and len(head) > begin + SAMPLE_CHARACTERS:  # a long first line
        sample = head[begin : begin + 2 * HEADER_BYTES]
    lines = LINES.findall(sample)
    if len(lines) > 1 and len(sample) < len(head) - begin:
        lines.pop()  # it may be incomplete
    candidates = [_Parsed(lines, each, spaced=_is_spaced(sample, each)) for each in stated or DELIMITERS]
    best = max(candidates, key=lambda parsed: parsed.merit(wanted))
    if len(best.first.encode()) > HEADER_BYTES:
        raise _long_header()
    if wanted and not set(best.header) & set(wanted) and CONTROL.search(sample):
        raise _binary("it has none of the columns and contains control characters")
    _check_header(best.header, wanted)
    if not set(best.header) & set(wanted):
        if len(best.header) == 1:
            _check_title(best.header[0], candidates)
        _check_padded_title(best)
    return Dialect(tuple(_completed(best)), best.delimiter, best.spaced, _decimal(best), begin + len(best.first))


def _long_header() -> TooLarge:
    return TooLarge(
        f"file: the first line is longer than {HEADER_BYTES} bytes; it must contain only the names of the columns",
        field="file",
    )


def _binary(why: str) -> Malformed:
    return Malformed(f"file: is a binary file: {why}; save the table as CSV in UTF-8, or as Parquet", field="file")


def _is_spaced(sample: str, delimiter: str) -> bool:
    """Return whether there are blanks between a delimiter and a quote."""
    return bool(re.search(rf"(?:^|{re.escape(delimiter)}) +\"", sample, re.MULTILINE))


def _check_stated(delimiter: str) -> None:
    """Raise Malformed for a stated delimiter that cannot separate cells: quotes, letters, digits, and characters beyond ASCII."""
    if delimiter and (delimiter in "\"'" or delimiter.isalnum() or not (delimiter == "\t" or " " <= delimiter <= "~")):
        raise Malformed(
            f"file: its first line states {shown(delimiter)} as the separator of cells, which must be a sign such as ; or , or a tab; "
            "remove this line, or state the separator that the file has",
            field="file",
        )


def _begin(head: str) -> tuple[int, str]:
    """Return the number of characters before the header, and the delimiter if the file states it."""
    begin = len(head) - len(head.lstrip("\r\n"))
    if found := STATED.match(head, begin):
        return found.end(), found.group(1)
    return begin, ""


class _Parsed:
    """The beginning of a file, parsed with one delimiter."""

    def __init__(self, lines: Sequence[str], delimiter: str, *, spaced: bool) -> None:
        self.delimiter, self.spaced = delimiter, spaced
        self.header: list[str] = []
        self.rows: list[list[str]] = []
        reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=spaced)
        self.first = ""  # the text of the header in the file
        try:
            self.header = [values.text_of(name) for name in next(reader, [])]
            self.first = "".join(lines[: reader.line_num])
            for row in reader:
                if row:
                    self.rows.append(row)
                if len(self.rows) == SAMPLE_ROWS:
                    break
        except (
            csv.Error
        ):  # a cell of more than 131 072 characters: the delimiter is wrong, or the cell is rejected later
            pass

    def merit(self, wanted: Collection[str]) -> tuple[float, ...]:
        """Return how well the delimiter fits: by known columns, then by rows with as many cells as the header, then by columns."""
        known = len(set(self.header) & set(wanted))
        alike = sum(len(row) == len(self.header) for row in self.rows) / max(len(self.rows), 1)
        return known, len(self.header) > 1, alike, len(self.header)


def _check_header(header: Sequence[str], wanted: Collection[str]) -> None:
    """Raise Malformed if the first line is empty or looks like a row of numbers."""
    if not any(header):
        raise Malformed("file: its first line is empty; add a header with the names of the columns", field="file")
    numbers = [name for name in header if name and values.number(name, values.DEFAULT) is not None]
    plain = all(name.isdecimal() for name in numbers) and len(set(numbers)) == len(numbers)  # such as years
    if len(numbers) == sum(map(bool, header)) and not plain and not set(header) & set(wanted):
        raise Malformed(
            f"file: its first line contains only numbers ({cut(', '.join(numbers))}); add a header with the names of the columns",
            field="file",
        )


def _check_title(title: str, candidates: Sequence[_Parsed]) -> None:
    """Raise Malformed if the first line has one cell and the rows have several: it is a title, not a header."""
    for parsed in candidates:
        cells = {len(row) for row in parsed.rows}
        if len(parsed.rows) > 1 and len(parsed.header) == 1 and len(cells) == 1 and max(cells) > 2:
            raise Malformed(
                f"file: its first line has one cell, {shown(title)}, but its rows have {max(cells)}, separated by {shown(parsed.delimiter)}; "
                "remove the lines above the names of the columns",
                field="file",
            )


def _check_padded_title(parsed: _Parsed) -> None:
    """Raise Malformed if one cell of the first line has a text, and more than two cells of a row: spreadsheets pad a title with separators."""
    titles = [name for name in parsed.header if name]
    filled = max((sum(map(bool, map(values.trimmed, row))) for row in parsed.rows), default=0)
    if len(titles) == 1 and len(parsed.header) > 2 and filled > 2:
        raise Malformed(
            f"file: only one cell of its first line has a text, {shown(titles[0])}, but its rows have up to {filled}; "
            "remove the lines above the names of the columns",
            field="file",
        )


def _completed(parsed: _Parsed) -> list[str]:
    """Return the header, extended by a column without a name if every row has one cell more: an empty last cell, or a row name in front.

    Programs such as R write row names without a name in the header. Row names are unique, and either texts or increasing whole numbers.
    """
    header, rows = parsed.header, parsed.rows
    if len(header) < 2 or not rows or any(len(row) != len(header) + 1 for row in rows):
        return header
    if all(not values.trimmed(row[-1]) for row in rows):
        return [*header, ""]
    first = [row[0] for row in rows]
    numbers = [values.exact_number(name, values.DEFAULT) for name in first]
    rising = all(
        isinstance(low, int) and isinstance(high, int) and low < high for low, high in itertools.pairwise(numbers)
    )
    are_names = len(rows) > 1 and len(set(first)) == len(first) and (rising or all(each is None for each in numbers))
    return ["", *header] if are_names else header


def _decimal(parsed: _Parsed) -> Decimals | None:
    """Return the decimal separator that most columns of the sample show; None if they show none, or both equally often."""
    votes: Counter[Decimals] = Counter()
    for place in range(len(parsed.header)):
        cells = {values.trimmed(row[place]) for row in parsed.rows if len(row) > place}
        votes.update(sign for sign, pattern in _EVIDENCE.items() if any(map(pattern.fullmatch, cells)))
        if parsed.delimiter != "," and any(map(_EITHER.fullmatch, cells)):
            votes[","] += 0  # 1,234 in a file with another delimiter: a decimal comma, unless other columns show points
    ranked = votes.most_common()
    return ranked[0][0] if ranked and (len(ranked) == 1 or ranked[0][1] > ranked[1][1]) else None
