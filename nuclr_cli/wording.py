"""Numbers in sentences."""

from __future__ import annotations


def counted(n: int, one: str, many: str = "") -> str:
    """``1 unit``, ``2 units``: a number and what it counts.

    Args:
        n: How many.
        one: What follows a 1.
        many: What follows any other number; '' = `one` and an s.
    """
    return f"{n} {one if n == 1 else many or one + 's'}"
