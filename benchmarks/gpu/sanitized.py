"""Every kernel once, on small ragged shapes, for compute-sanitizer to watch."""

from __future__ import annotations

import torch

from nuclr_kernels.self_test import self_test

results = self_test(torch.device("cuda"))
wrong = [check for check in results if not check.ok]
print(f"{len(results) - len(wrong)} of {len(results)} operations right")
raise SystemExit(1 if wrong else 0)
