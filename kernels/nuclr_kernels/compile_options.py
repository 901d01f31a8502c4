"""Options that every kernel is compiled with, at launch and ahead of time."""

from __future__ import annotations

from collections.abc import Mapping

COMPILE_OPTIONS: Mapping[str, bool] = {"enable_fp_fusion": True}
"""Multiplications and additions become one instruction, as tiles and tolerances suppose.

By default triton does so up to 3.9, warning there that 3.10 will not.
"""
