"""The names of the places that artifacts come from and go to: a folder, or `hf://OWNER/REPO[/SUBFOLDER][@REVISION]`."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from manifold.runtime import manifest as manifests
from manifold.runtime.errors import InvalidValue, shown

HUB = "hf://"
FORM = "hf://OWNER/REPO[/SUBFOLDER][@REVISION]"
PART = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?")  # the owner or the name of a repository
WEB = re.compile(r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/(?P<rest>[^?#]*)")
LONGEST = 512  # characters of a file's path


@dataclass(frozen=True)
class HubAddress:
    """A folder in a repository of the Hub. `folder` is empty for the repository itself; without a revision its main branch is meant."""

    repo: str
    folder: str = ""
    revision: str | None = None

    def __str__(self) -> str:
        return f"{HUB}{joined(self.repo, self.folder)}{'' if self.revision is None else f'@{self.revision}'}"

    def at(self, below: str) -> HubAddress:
        """Return the address of a folder below this one."""
        return HubAddress(self.repo, joined(self.folder, below), self.revision)


def joined(*parts: str) -> str:
    """Return path parts separated by `/`, without the empty ones."""
    return "/".join(part for part in parts if part)


def read(text: str, field: str) -> Path | HubAddress:
    """Return the place that a text names. `field` is the argument, for errors. Raises InvalidValue."""
    if web := WEB.fullmatch(text):
        raise InvalidValue(f"{field}: {shown(text)} is a web page; write {HUB}{web['rest']}", field=field)
    if not text.startswith(HUB):
        if "://" in text or not text or "\0" in text:
            raise InvalidValue(f"{field}: {shown(text)} is neither a folder nor {FORM}", field=field)
        return Path(text).expanduser()
    path, at, revision = text.removeprefix(HUB).partition("@")
    if at and not revision:
        raise InvalidValue(f"{field}: {shown(text)} has no revision after the @; write {FORM}", field=field)
    owner, _, rest = path.partition("/")
    name, _, folder = rest.rstrip("/").partition("/")
    for part in (owner, name):
        if not PART.fullmatch(part) or "--" in part or ".." in part or part.endswith(".git"):
            raise InvalidValue(
                f"{field}: {shown(text)} is not the address of a repository; write {FORM}. OWNER and REPO have letters, digits, '-', '_' and '.'",
                field=field,
            )
    if folder and (wrong := wrong_path(folder)):
        raise InvalidValue(f"{field}: {shown(text)}: the sub-folder {wrong}", field=field)
    return HubAddress(f"{owner}/{name}", folder, revision or None)


def wrong_path(name: str) -> str | None:
    """Return the problem of a relative path, as the end of a sentence; None if it stays in its folder on every system."""
    parts = name.split("/")
    if not name or name.startswith("/") or not set(parts).isdisjoint(("", ".", "..")):
        return "leads out of its folder, or is not a plain relative path"
    if "\\" in name or ":" in name or any(unicodedata.category(letter).startswith("C") for letter in name):
        return "contains a backslash, a colon or a control character"
    if any(part.startswith(".") for part in parts[:-1]):
        return "is in a hidden folder"
    if len(name) > LONGEST or any(len(part.encode()) > 255 for part in parts):
        return f"is longer than {LONGEST} characters, or than 255 bytes in one part"
    return None


def wrong_files(names: Iterable[str]) -> Iterator[str]:
    """Yield a line for each name of a file in a manifest that must not be written into a folder."""
    known = set(names)
    for name in sorted(known):
        if wrong := wrong_path(name):
            yield f"files.{shown(name)[1:-1]}: the path {wrong}"
        elif name == manifests.FILE:
            yield f"files.{name}: a manifest cannot contain its own checksum"
        elif not known.isdisjoint(map(str, PurePosixPath(name).parents)):
            yield f"files.{shown(name)[1:-1]}: a part of its path is also a file"
