"""Functions that `torch.compile` may call once, while it compiles."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def compiled_constant(function: Callable[P, T]) -> Callable[P, T]:
    """Mark a function whose result is a constant of the compiled program: it reads settings and devices only.

    What `torch.compiler.assume_constant_result` does; that imports the compiler, and triton with it, which
    takes two seconds that most programs need not spend.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function
