"""What the benchmarks measure with."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch


def seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def matrix_rate(size: int = 2048) -> float:
    """Floating-point operations a second of a large float32 matrix product, the best of three."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    return 2 * size**3 / min(seconds(lambda: torch.mm(a, b)) for _ in range(3))
