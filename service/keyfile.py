"""The file of API keys, as `manifold key --file` writes it.

A new file has the mode 644. It contains SHA-256 hashes of random 256-bit tokens, from which no token can be computed, and the service may read it
as another user than the one who makes keys. An existing file keeps its mode and, if permitted, its owner.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from manifold.runtime.errors import InvalidValue
from manifold.runtime.locks import locked
from manifold.runtime.repository import replacing
from manifold.service import security
from manifold.service.security import Key

MODE = 0o644


def add(file: Path, key: Key) -> int:
    """Add a key to a file, which is made if it does not exist. Return the file's mode. Concurrent calls lose no keys.

    Raise InvalidValue for a name that the file already contains, and SettingsError for a file that is not a file of keys.
    """
    file = file.resolve()  # a symbolic link stays a link
    with locked(file.parent):
        earlier = _read(file)
        if key.name in {each.name for each in security.parse(earlier, str(file))}:
            raise InvalidValue(
                f"{file}: it already contains a key named {key.name}; remove its line, or choose another name",
                field="name",
            )
        return _write(file, earlier + ("" if earlier.endswith("\n") or not earlier else "\n") + f"{key}\n")


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError:
        raise InvalidValue(
            f"{file}: is not a file of keys; a file of keys is text with entries {security.SHAPE}"
        ) from None


def _write(file: Path, content: str) -> int:
    """Replace the file atomically, and keep its mode and owner. Return the mode."""
    with contextlib.ExitStack() as stack:
        temporary = stack.enter_context(replacing(file))
        temporary.write_text(content)
        try:
            before = file.stat()
        except FileNotFoundError:
            temporary.chmod(MODE)
            return MODE
        with contextlib.suppress(PermissionError):  # only root may change the owner
            os.chown(temporary, before.st_uid, before.st_gid)
        temporary.chmod(stat.S_IMODE(before.st_mode))
        return stat.S_IMODE(before.st_mode)
