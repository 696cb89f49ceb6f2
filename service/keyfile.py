"""The file of keys, as `manifold key --file` writes it.

A new file has the mode 644: it holds SHA-256 hashes of random tokens of 256 bits, from which no token can be found, and the service reads it as
another user than the one who makes keys. A file that exists keeps its mode and, if the caller may give it away, its owner.
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
    """Add a key to a file, made if it does not exist, and return the file's mode. Two that add at once do not lose each other's keys.

    Raises InvalidValue for a name that is in the file already, and SettingsError for a file that is no file of keys.
    """
    file = file.resolve()  # a link stays one
    with locked(file.parent):
        earlier = _read(file)
        if key.name in {each.name for each in security.parse(earlier, str(file))}:
            raise InvalidValue(
                f"{file}: there is a key called {key.name} already; take its line out first", field="name"
            )
        return _write(file, earlier + ("" if earlier.endswith("\n") or not earlier else "\n") + f"{key}\n")


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError:
        raise InvalidValue(f"{file}: is no file of keys, which is text; its entries are {security.SHAPE}") from None


def _write(file: Path, content: str) -> int:
    """Put a file in the place of the earlier one, with its mode and owner."""
    with contextlib.ExitStack() as stack:
        temporary = stack.enter_context(replacing(file))
        temporary.write_text(content)
        try:
            before = file.stat()
        except FileNotFoundError:
            temporary.chmod(MODE)
            return MODE
        with contextlib.suppress(PermissionError):  # only root may give a file away
            os.chown(temporary, before.st_uid, before.st_gid)
        temporary.chmod(stat.S_IMODE(before.st_mode))
        return stat.S_IMODE(before.st_mode)
