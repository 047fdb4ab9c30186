"""Keep glibc from handing large blocks back to the kernel after every operation.

By default blocks above 128 KiB are mapped and unmapped at each use, and every page is faulted in again; on virtual
machines that costs more than the arithmetic (linear layers ran at 136-150 instead of 277 GFLOP/s on two cores). Freed
memory stays with the process, so that the next training step finds it: 250,000 page faults a step become a few.
`F2LLM_ALLOCATOR=system` leaves the allocator alone. No effect off Linux/glibc.
"""

from __future__ import annotations

import ctypes
import os
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_LIMIT, _NEVER = 2**30, -1


def tune_allocator() -> bool:
    """Map blocks of 1 GiB and more only, and trim nothing, in this process; True when it took effect."""
    if os.environ.get("F2LLM_ALLOCATOR") == "system" or not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    changed = [mallopt(_M_MMAP_THRESHOLD, _LIMIT), mallopt(_M_TRIM_THRESHOLD, _NEVER), mallopt(_M_TOP_PAD, 2**24)]
    return all(changed)


def return_freed_memory() -> None:
    """Give the kernel the pages that are free now, such as those of weights that were laid out anew; Linux/glibc."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):
        return
