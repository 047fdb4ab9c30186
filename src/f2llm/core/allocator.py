"""Keep glibc from handing large blocks back to the kernel after every operation.

By default blocks above 128 KiB are mapped and unmapped at each use, and every page is faulted in again; on virtual
machines that costs more than the arithmetic (linear layers ran at 136-150 instead of 277 GFLOP/s on two cores).
`F2LLM_ALLOCATOR=system` leaves the allocator alone. No effect off Linux/glibc.
"""

from __future__ import annotations

import ctypes
import os
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_LIMIT = 2**30


def tune_allocator() -> bool:
    """Raise the map and trim thresholds of this process to 1 GiB; True when it took effect."""
    if os.environ.get("F2LLM_ALLOCATOR") == "system" or not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    changed = [mallopt(_M_MMAP_THRESHOLD, _LIMIT), mallopt(_M_TRIM_THRESHOLD, _LIMIT), mallopt(_M_TOP_PAD, 2**24)]
    return all(changed)
