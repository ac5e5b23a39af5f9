"""Exchanging two folders in one step, so that whoever looks finds the one or the other, and never none.

Linux' `renameat2` does it on local file systems (ext4, xfs, btrfs, tmpfs, overlay); network file systems often do not.
"""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path
from typing import Final

_HERE: Final = -100  # AT_FDCWD
_EXCHANGE: Final = 2  # RENAME_EXCHANGE
_UNABLE: Final = frozenset({errno.EINVAL, errno.ENOSYS, errno.ENOTSUP})


def exchange(first: Path, second: Path) -> None:
    """Give each of two existing folders the name of the other.

    Raises:
        NotImplementedError: The system or the file system cannot do that.
        OSError: One of them is not there, or may not be renamed.
    """
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        raise NotImplementedError("no renameat2")
    if rename(_HERE, os.fsencode(first), _HERE, os.fsencode(second), _EXCHANGE) == 0:
        return
    number = ctypes.get_errno()
    if number in _UNABLE:
        raise NotImplementedError(os.strerror(number))
    raise OSError(number, os.strerror(number), str(first))
