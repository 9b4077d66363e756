"""Tells processes apart: on which machine one runs, whether it is alive, and whether it is still the same."""

from __future__ import annotations

import hashlib
import os
import socket
from functools import cache


@cache
def this_host() -> str:
    """8 hexadecimal digits for this machine since it was started, and for this container's own numbers of processes.

    Two processes with the same one can look each other up by number.
    """
    return hashlib.blake2b(f"{socket.gethostname()} {_boot()} {_numbering()}".encode(), digest_size=4).hexdigest()


def is_alive(pid: int) -> bool:
    """Whether a process of that number runs on this machine; one that has ended and is not yet reaped does not."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True  # somebody else's
    return _stat(pid)[:1] != ["Z"]


def started(pid: int) -> str | None:
    """When a process began, in ticks since the machine did: a number that is used again has another. None: unknown."""
    fields = _stat(pid)
    return fields[19] if len(fields) > 19 else None


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat behind the name: state, parent, .., start; empty where there is no such file."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()
    except OSError:
        return []


def _boot() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def _numbering() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""
