"""Tells whether the process that wrote a file is still alive."""

from __future__ import annotations

import hashlib
import os
import socket
from functools import cache
from pathlib import Path


@cache
def this_host() -> str:
    """8 hexadecimal digits: this machine since it was started, and the container, where process numbers are unique."""
    parts = [socket.gethostname()]
    for read in (lambda: Path("/proc/sys/kernel/random/boot_id").read_text(), lambda: os.readlink("/proc/self/ns/pid")):
        try:
            parts.append(read().strip())
        except OSError:
            parts.append("")
    return hashlib.blake2b(" ".join(parts).encode(), digest_size=4).hexdigest()


def is_alive(pid: int) -> bool:
    """Whether a process of that number runs on this machine; one that has ended and is not yet reaped does not."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True  # somebody else's
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[:1] != ["Z"]
    except OSError:
        return True  # not Linux
