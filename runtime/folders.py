"""Folders of images: the image files in a folder, their classes and their splits. No image is read here.

Hidden files are ignored. The order of the files does not depend on the file system.
"""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Collection, Container, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from manifold.runtime.errors import InvalidValue, RequestError, cut
from manifold.runtime.tables import csv_files
from manifold.runtime.tables.values import text_of

SUFFIXES = (".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp")
UNREAD = {
    ".gif",
    ".bmp",
    ".tif",
    ".tiff",
    ".avif",
    ".heic",
    ".heif",
    ".jp2",
    ".psd",
    ".ico",
    ".dcm",
    ".svg",
    ".ppm",
    ".pgm",
}  # image formats that are not supported
HIDDEN = {
    "__macosx",
    "@eadir",
    "thumbs.db",
    "desktop.ini",
    "lost+found",
}  # files and folders that operating systems create, in addition to names that start with a dot


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is hidden: its name starts with a dot, or an operating system created it."""
    return name.startswith(".") or name.lower() in HIDDEN


def image_files(root: Path) -> list[Path]:
    """Return the image files below a folder, sorted by path. Hidden files and folders are left out."""
    return _files(root, SUFFIXES)


def unread_files(root: Path) -> list[Path]:
    """Return the images below a folder whose formats are not supported, selected and sorted as by `image_files`."""
    return _files(root, UNREAD)


def _files(root: Path, suffixes: Container[str]) -> list[Path]:
    found = [
        folder / name
        for folder, names in _walk(root)
        for name in names
        if Path(name).suffix.lower() in suffixes and not is_hidden(name)
    ]
    return sorted((path for path in found if path.is_file()), key=lambda path: path.relative_to(root).parts)


def _walk(root: Path, above: frozenset[str] = frozenset()) -> Iterator[tuple[Path, list[str]]]:
    """Yield the folders below a folder, and their files. Symbolic links are followed, except to a folder that contains them (`above`)."""
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not is_hidden(name)]
        yield Path(folder), names
        for link in (Path(folder, name) for name in folders if Path(folder, name).is_symlink()):
            around = above | {os.path.realpath(folder)}
            if not any(Path(each).is_relative_to(os.path.realpath(link)) for each in around):
                yield from _walk(link, around)


def unread_note(root: Path) -> str | None:
    """Return a note about images in formats that are not supported; None if there are none."""
    others = unread_files(root)
    if not others:
        return None
    name = others[0].relative_to(root).as_posix()
    return f"{len(others)} files are left out, since their image format is not supported (such as {cut(name)}); convert them to PNG"


# --- classes and splits -------------------------------------------------------------------------------------------------------

LABELS = "labels.csv"  # a file in the folder with the columns file, label and split; the last two are optional
TRAIN, CALIBRATION, TEST = "train", "calibration", "test"
PARTS = (TRAIN, CALIBRATION, TEST)
SPLITS = {  # names of sub-folders, and values of the column split
    "train": TRAIN, "training": TRAIN, "calibration": CALIBRATION, "cal": CALIBRATION, "val": CALIBRATION, "valid": CALIBRATION,
    "validation": CALIBRATION, "dev": CALIBRATION, "test": TEST, "testing": TEST,
}  # fmt: skip
COLUMNS = {  # by the names that a header may have
    "file": "file", "filename": "file", "file_name": "file", "image": "file", "path": "file", "label": "label", "class": "label",
    "split": "split",
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """An image file of a folder, with its class and its split."""

    path: Path
    name: str  # path relative to the folder, with slashes
    label: str | None = None
    part: str | None = None  # one of PARTS


@dataclass(frozen=True)
class Listing:
    """The image files of a folder, sorted by name."""

    root: Path
    entries: tuple[Entry, ...]
    classes_by: str | None = (
        None  # the source of the classes: `sub-folders` or a file name; None if there are no classes
    )
    split_by: str | None = None  # the source of the splits, in the same form
    unlisted: int = 0  # number of image files without a row in the file of labels
    empty: tuple[str, ...] = ()  # folders without images next to the class folders

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the names of the classes, sorted: numerically if all are whole numbers, else alphabetically."""
        found = {entry.label for entry in self.entries if entry.label is not None}
        numeric = all(name.isdecimal() for name in found)
        return tuple(sorted(found, key=lambda name: (int(name) if numeric else 0, name)))


def digest_of(entries: Sequence[Entry], files: Sequence[str]) -> str:
    """Return the SHA-256 of a set of images: of their names, contents (`files`, the SHA-256 of each), classes and splits."""
    lines = (f"{entry.name}\0{file}\0{entry.label}\0{entry.part}" for entry, file in zip(entries, files, strict=True))
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def contents_of(files: Sequence[str]) -> str:
    """Return the SHA-256 of the contents of images (`files`, the SHA-256 of each). It does not depend on order, names and classes."""
    return hashlib.sha256("\n".join(sorted(files)).encode()).hexdigest()


def listed(root: Path, labels: str | None = None, *, classes: bool = True) -> Listing:
    """Return the images of a folder with their classes and splits.

    Classes and splits come from a CSV file (`labels`, a path or a name in the folder; by default LABELS if it exists), else from sub-folders.
    If a sub-folder is named train, the first level are splits and the next level classes. Without `classes`, sub-folders are not read as
    classes and may be nested in any way. Raises InvalidValue if there are no images, or if classes or splits are ambiguous.
    """
    if not root.is_dir():
        raise InvalidValue(f"{root}: the folder does not exist; check the path", field="data")
    files = image_files(root)
    if not files:
        raise InvalidValue(f"{root}: contains no images; put {', '.join(SUFFIXES)} files there", field="data")
    table = root / labels if labels is not None else root / LABELS
    if labels is not None and not table.is_file():
        raise InvalidValue(f"labels: the file {table} does not exist; check the path", field="labels")
    return _by_table(root, files, table) if table.is_file() else _by_folders(root, files, classes)


def _by_folders(root: Path, files: Sequence[Path], wanted: bool) -> Listing:
    names = [path.relative_to(root).parts for path in files]
    tops = {parts[0] for parts in names if len(parts) > 1}
    parts_of = {top: SPLITS.get(top.lower()) for top in tops}
    splits = TRAIN in parts_of.values()
    if splits:
        if other := [*sorted(top for top, part in parts_of.items() if part is None), *(parts[0] for parts in names if len(parts) == 1)]:  # fmt: skip
            raise InvalidValue(
                f"{root}: {cut(other[0])} is next to the splits {', '.join(sorted(tops - {other[0]}))}; move it into one of them, or out of the folder",
                field="data",
            )
        if len(set(parts_of.values())) < len(parts_of):
            raise InvalidValue(
                f"{root}: two of the folders {', '.join(sorted(tops))} mean the same split; merge or rename them",
                field="data",
            )
    below = [parts[1:] if splits else parts for parts in names]
    classes = {parts[0] for parts in below if len(parts) > 1 and wanted}
    if len(classes) > 1 and (bare := next((parts for parts in below if len(parts) == 1), None)):
        raise InvalidValue(
            f"{root}: {cut(bare[0])} is next to the class folders {cut(', '.join(sorted(classes)))}; move it into one of them, "
            f"or give the classes in {LABELS}",
            field="data",
        )
    entries = [
        Entry(path, "/".join(parts), rest[0] if len(classes) > 1 else None, parts_of[parts[0]] if splits else None)
        for path, parts, rest in zip(files, names, below, strict=True)
    ]
    by_class, by_split = "sub-folders" if len(classes) > 1 else None, "sub-folders" if splits else None
    empty = _empty(root, tops if splits else {""}, classes) if by_class else ()
    return Listing(root, tuple(entries), by_class, by_split, empty=empty)


def _empty(root: Path, parts: Collection[str], classes: Collection[str]) -> tuple[str, ...]:
    """Return the names of folders next to class folders, below these splits, that contain no images."""
    names = {path.name for part in parts for path in (root / part).iterdir() if path.is_dir()}
    return tuple(sorted(name for name in names if name not in classes and not is_hidden(name)))


def _by_table(root: Path, files: Sequence[Path], table: Path) -> Listing:
    known = {path.relative_to(root).as_posix(): path for path in files}
    spelled = {text_of(name): name for name in known}  # other systems may encode accents differently
    rows = _rows(table)
    entries: dict[str, Entry] = {}
    for number, row in rows:
        where = f"{table}: row {number}"
        name = _name_below(root, row["file"])
        name = name if name in known else spelled.get(name, name)
        if name not in known:
            raise InvalidValue(f"{where}: {cut(row['file'])} {_why_not(root, name)}", field="labels")
        if name in entries:
            raise InvalidValue(f"{where}: {cut(name)} is listed twice; remove one of the rows", field="labels")
        part = SPLITS.get(row.get("split", "").lower())
        if row.get("split") and part is None:
            valid = list(SPLITS)
            raise InvalidValue(f"{where}: unknown split {cut(row['split'])!r}; use one of {', '.join(valid)}", field="labels", valid=valid)  # fmt: skip
        entries[name] = Entry(known[name], name, row.get("label") or None, part)
    ordered = [entries[name] for name in known if name in entries]
    if not ordered:
        raise InvalidValue(f"{table}: has no rows; add one per image", field="labels")
    by_folders = not any(entry.part for entry in ordered) and _are_splits(ordered)
    if by_folders:
        ordered = [replace(entry, part=SPLITS[entry.name.split("/")[0].lower()]) for entry in ordered]
    for column in ("label", "split"):
        values = [entry.label if column == "label" else entry.part for entry in ordered]
        if any(values) and None in values:
            name = ordered[values.index(None)].name
            raise InvalidValue(f"{table}: {cut(name)} has no {column}, but others have one; add it", field="labels")
    return Listing(
        root,
        tuple(ordered),
        table.name if ordered[0].label else None,
        "sub-folders" if by_folders else table.name if ordered[0].part else None,
        len(known) - len(ordered),
    )


def _name_below(root: Path, text: str) -> str:
    """Return the path of a file relative to a folder, from a path that is relative to it or absolute."""
    path = os.path.normpath(text.replace("\\", "/"))
    return Path(os.path.relpath(path, os.path.abspath(root))).as_posix() if os.path.isabs(path) else path


def _why_not(root: Path, name: str) -> str:
    """Return why the file in a row is not one of the images of a folder, as the end of a sentence."""
    if not (root / name).is_file():
        return f"is not an image file in {root}; correct the name, or remove the row"
    if any(is_hidden(part) for part in Path(name).parts):
        return "is hidden, since a name in its path starts with a dot or is reserved by the system; rename it"
    return f"is not in a supported image format; use {', '.join(SUFFIXES)}"


def _are_splits(entries: Sequence[Entry]) -> bool:
    """Return whether all files are in sub-folders that are named like splits, one of them train."""
    parts = {SPLITS.get(entry.name.split("/")[0].lower()) for entry in entries}
    return TRAIN in parts and None not in parts and all("/" in entry.name for entry in entries)


def _rows(table: Path) -> list[tuple[int, dict[str, str]]]:
    """Return the rows of a file of labels with their numbers, by the rules for all tables. Raises InvalidValue if it cannot be read."""
    spellings = {spelled for name in COLUMNS for spelled in (name, name.upper(), name.capitalize(), name.title())}
    try:
        with table.open("rb") as source:
            (_, header), *lines = csv_files.text_rows(source, spellings)
    except RequestError as error:
        raise InvalidValue(f"{table}: {error.message.removeprefix('file: ')}", field="labels") from None
    except csv.Error as error:
        raise InvalidValue(f"{table}: is not a CSV file: {error}; save it as CSV in UTF-8", field="labels") from None
    columns = [COLUMNS.get(name.lower(), "") for name in header]
    if "file" not in columns or len([name for name in columns if name]) != len({name for name in columns if name}):
        raise InvalidValue(
            f"{table}: the first line is {cut(', '.join(header))}; it must name the columns file, label and split, each once (label and split are optional)",
            field="labels",
        )
    rows = []
    for number, line in lines:
        if not any(line):
            continue
        if len(line) != len(columns):
            raise InvalidValue(
                f"{table}: row {number}: {len(line)} cells, but the header has {len(columns)}; correct the row",
                field="labels",
            )
        rows.append((number, {name: cell for name, cell in zip(columns, line, strict=True) if name}))
    return rows
