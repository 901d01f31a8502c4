"""Why a file could not be written, in the words of the system."""

from __future__ import annotations

import errno
import os
import re

# HDF5 writes the number into a dump of several lines, safetensors behind its own words.
_NUMBER = re.compile(r"\berrno\s*=?\s*(\d+)|\bos error (\d+)", flags=re.IGNORECASE)
_FULL = frozenset(
    getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EFBIG") if hasattr(errno, name)
)  # Windows has no quotas
_LOCKED = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})


def disk_reason(error: BaseException) -> str:
    """One line: what the system said ("No space left on device"), else what the library said."""
    number = _number_of(error)
    text = os.strerror(number) if number in errno.errorcode else str(error)
    return " ".join(text.split()).rstrip(".") or type(error).__name__


def is_full(error: BaseException) -> bool:
    """Whether there is no room there, or a quota or limit is met."""
    return _number_of(error) in _FULL


def is_locked(error: BaseException) -> bool:
    """Whether nothing may be written there: free space would not help."""
    return _number_of(error) in _LOCKED


def _number_of(error: BaseException) -> int:
    """What the system calls the error; 0 where nothing says so."""
    if isinstance(error, OSError) and error.errno:
        return error.errno
    found = _NUMBER.search(str(error))
    return int(found[1] or found[2]) if found else 0
