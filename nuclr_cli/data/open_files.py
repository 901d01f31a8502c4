"""How many session files a process keeps mapped at once.

A mapping costs a file descriptor for as long as it lives. A process that trains on ten thousand sessions must
stay within the system's limit (1024 on most Linux systems), whatever else it has open.
"""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

#: Session files mapped at once where the system allows more.
MOST_MAPPED = 256

# The others are for what travels between loader processes, for pipes, logs and libraries.
_SHARE_OF_LIMIT = 4
_FEWEST_MAPPED = 4


def most_mapped() -> int:
    """A quarter of the descriptors that this process may have, at most `MOST_MAPPED`.

    Asked for anew at each use: the limit may change, and a worker process may have another than its parent.
    """
    try:
        import resource
    except ImportError:  # Windows: no such limit
        return MOST_MAPPED
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if soft == resource.RLIM_INFINITY:
        return MOST_MAPPED
    return max(_FEWEST_MAPPED, min(MOST_MAPPED, soft // _SHARE_OF_LIMIT))


class Unmappable(Protocol):
    """Something that holds a mapping and can let go of it."""

    def unmap(self) -> None: ...


class RecentlyUsed:
    """Keeps a bounded number of holders mapped; the one not used for longest lets go first.

    Args:
        limit: Says how many.
    """

    def __init__(self, limit: Callable[[], int] = most_mapped) -> None:
        self._limit = limit
        self._holders: OrderedDict[int, weakref.ref[Unmappable]] = OrderedDict()
        self._lock = threading.Lock()

    def used(self, holder: Unmappable) -> None:
        """Note that `holder` has a mapping and is in use."""
        with self._lock:
            known = id(holder) in self._holders
            self._holders[id(holder)] = weakref.ref(holder)
            self._holders.move_to_end(id(holder))
            if known:
                return
            limit = self._limit()
            while len(self._holders) > limit:
                oldest = self._holders.popitem(last=False)[1]()
                if oldest is not None:
                    oldest.unmap()

    def forget(self, holder: Unmappable) -> None:
        """Note that `holder` has let go of its mapping by itself."""
        with self._lock:
            self._holders.pop(id(holder), None)
