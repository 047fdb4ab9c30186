"""The devices that a dry run can plan for, with their makers' figures: peak rate of dense bfloat16 products, memory."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from f2llm.core.errors import ConfigError
from f2llm.train.memory import GPU_SHARE, HOST_SHARE

SHARE = 0.4
"""Part of the peak that a training is taken to reach, where nobody says."""


@dataclass(frozen=True)
class Device:
    """`count` devices of a kind: `peak` in FLOP/s and `memory` in bytes of one, `share` of the peak that is reached.

    `host`: a machine's own processor, whose memory all processes share.
    """

    name: str
    peak: float
    memory: int
    count: int = 1
    share: float = SHARE
    host: bool = False

    @property
    def room(self) -> int:
        """Bytes that one process may plan with, as `available_bytes` of an idle device would tell."""
        return int(HOST_SHARE * self.memory) // self.count if self.host else int(GPU_SHARE * self.memory)

    def hours(self, flops: float) -> float:
        """Hours of one device for so many operations."""
        return flops / (self.peak * self.share) / 3600

    def assumption(self) -> str:
        kind = "an example of a small machine" if self.host else "dense bf16"
        peak = f"a peak of {self.peak / 1e12:g} TFLOP/s ({kind}), of which {self.share:.0%} are reached"
        return f"{self.count} x {self.name}: {self.memory / 1e9:.0f} GB, {peak}."

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "count": self.count,
            "peak_flops": self.peak,
            "share_of_peak": self.share,
            "memory": self.memory,
        }


DEVICES = {
    "h100": Device("H100", 989e12, 80 * 10**9),
    "h200": Device("H200", 989e12, 141 * 10**9),
    "a100": Device("A100", 312e12, 80 * 10**9),
    "l40s": Device("L40S", 362e12, 48 * 10**9),
    "cpu": Device("CPU", 2e11, 24 * 10**9, host=True),
}


def find_device(name: str, count: int = 1, share: float = SHARE) -> Device:
    """`count` devices of the kind `name` (h100, h200, a100, l40s, cpu); ConfigError for another or a useless number."""
    kind = DEVICES.get(name.lower())
    if kind is None:
        near = get_close_matches(name.lower(), DEVICES, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ConfigError(f"--device {name}: {hint}devices: {', '.join(DEVICES)}")
    if count < 1:
        raise ConfigError(f"--devices {count}: give at least 1")
    if not 0 < share <= 1:
        raise ConfigError(f"a device cannot reach {share} of its peak: give a share above 0 and at most 1")
    return Device(kind.name, kind.peak, kind.memory, count, share, kind.host)
