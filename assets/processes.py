"""Names of processes that stay true: a number alone is given again, after a reboot or once enough others have begun."""

import os
import socket
from pathlib import Path

_UNKNOWN = "0"
"""Start of a process where the system does not tell it (macOS, a /proc that hides what others run)."""


def process_name(pid: int) -> str:
    """`host:pid:start` of a live process of this machine, empty if there is none."""
    return f"{socket.gethostname()}:{pid}:{_start(pid)}" if _exists(pid) else ""


def pid_of(name: str) -> int | None:
    """The process of this name, None if it is gone or another machine's."""
    return _pid_here(name) if alive(name) else None


def alive(name: str) -> bool | None:
    """Does the process of this name go on? None for one of another machine, and for what is no such name."""
    pid = _pid_here(name)
    if pid is None:
        return None
    began, now = name.rpartition(":")[2], _start(pid)
    return _exists(pid) and (began == now or _UNKNOWN in (began, now))


def _pid_here(name: str) -> int | None:
    """The number in a name of this machine."""
    host, _, rest = name.rpartition(":")[0].rpartition(":")
    return int(rest) if host == socket.gethostname() and rest.isdigit() else None


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True  # somebody else's
    return True


def _start(pid: int) -> str:
    """In ticks since the machine was started."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return _UNKNOWN
