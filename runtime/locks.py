"""Locks between processes. The operating system releases them when the process that holds them ends for any reason.

A lock is held on an open folder (flock), so no lock file is left behind. Systems and file systems without flock give no protection; `held`
then yields None.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

AVAILABLE = find_spec("fcntl") is not None  # not on Windows
if TYPE_CHECKING or AVAILABLE:
    import fcntl


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock on a folder during the block. Waits while another process holds it, so the block should be short."""
    with _opened(folder) as descriptor:
        if descriptor is not None:
            with contextlib.suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield


@contextmanager
def held(folder: Path) -> Iterator[bool | None]:
    """Hold the lock on a folder during the block if it is free. Yields whether it was free; None if locks are not supported."""
    with _opened(folder) as descriptor:
        yield None if descriptor is None else _try(descriptor)


def _try(descriptor: int) -> bool | None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


@contextmanager
def _opened(folder: Path) -> Iterator[int | None]:
    """Open a folder for locking. Yields None if this system has no flock."""
    if not AVAILABLE:
        yield None
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
