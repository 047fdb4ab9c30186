"""What this process may use of the machine, and what it uses. Sizes are in MB of 2**20 bytes."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def hardware() -> str:
    """Processor, cores and memory of this machine in one line."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    except OSError:
        pass  # not Linux: the platform's own name has to do
    count = f"{cores()} cores"
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return f"{name}, {count}"
    return f"{name}, {count}, {os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GB memory"


def memory_mb() -> float | None:
    """Memory of this process that is resident now; None where the system does not tell (it does on Linux)."""
    return _status("VmRSS")


def peak_memory_mb() -> float | None:
    """The most that was resident since the process began, or since the last `reset_peak_memory`.

    Of this program alone: the figure of getrusage would begin with what the process that started it had.
    """
    return _status("VmHWM")


def reset_peak_memory() -> None:
    """Start a new high-water mark where the kernel allows it (Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def _status(field: str) -> float | None:
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    found = next((line for line in lines if line.startswith(field)), None)
    return round(int(found.split()[1]) / 1024, 1) if found else None
