"""The image files below a folder, without hidden ones, in an order that does not depend on the file system."""

from __future__ import annotations

import os
from pathlib import Path

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
HIDDEN = {
    "__macosx",
    "@eadir",
    "thumbs.db",
    "desktop.ini",
    "lost+found",
}  # what systems leave in folders, beside names with a dot


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is one that people do not see: its name starts with a dot, or a system made it."""
    return name.startswith(".") or name.lower() in HIDDEN


def image_files(root: Path) -> list[Path]:
    """Return the image files below a folder, sorted by the names of their folders and their own. Hidden files and folders are left out."""
    found: list[Path] = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not is_hidden(name)]
        found += [Path(folder, name) for name in names if Path(name).suffix.lower() in SUFFIXES and not is_hidden(name)]
    return sorted((path for path in found if path.is_file()), key=lambda path: path.relative_to(root).parts)
