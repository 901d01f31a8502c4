"""Who holds a lock, in words for others, and whether that process is gone. Imports nothing heavy.

Whoever only wants to know must not try the lock itself: even a shared attempt of a moment would refuse a
trainer that wants it in that moment. The holder writes down what tells it from every other process instead.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from datetime import UTC, datetime
from pathlib import Path

_PROC = Path("/proc")


def this_process() -> str:
    """What to write into a lock: host, process and time for people, the rest for `is_gone`."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    said = {"host": socket.gethostname(), "pid": os.getpid(), "since": now}
    return json.dumps({**said, "machine": _machine(), "started": _state_and_start(os.getpid())[1]})


def is_gone(holder: str) -> bool:
    """Whether the holder has ended; False where it lives, or this process cannot know.

    It can on the Linux machine of the holder, while that has not been started again, and in the same
    container: elsewhere the same number is another process.

    Args:
        holder: What `this_process` returned there; may be damaged, or empty.
    """
    try:
        said = json.loads(holder)
        pid, machine, started = said["pid"], said["machine"], said["started"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return False
    if not machine or not started or machine != _machine() or not isinstance(pid, int) or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):  # it lives, and is another user's
        pass
    state, start = _state_and_start(pid)
    # Numbers are given again; a zombie has ended, its parent has only not asked yet.
    return state in ("Z", "X") or start not in ("", started)


def _machine() -> str:
    """This start of this machine and the numbering of its processes; empty = unknown."""
    if sys.platform != "linux":
        return ""
    try:
        # A container may see the processes of its host there, which have other numbers.
        if (_PROC / "self").readlink() != Path(str(os.getpid())):
            return ""
        boot = (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{(_PROC / 'self/ns/pid').stat().st_ino}"
    except OSError:
        return ""


def _state_and_start(pid: int) -> tuple[str, str]:
    """State letter of a process, and its start in ticks since that of the machine; empty = unknown.

    Source: proc(5), fields 3 and 22 of ``/proc/PID/stat``, behind a name that may hold anything.
    """
    try:
        text = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
        fields = text.rpartition(")")[2].split()
        return fields[0], fields[19]
    except (OSError, IndexError):
        return "", ""
