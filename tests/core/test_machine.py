"""What is told of the machine and of this process."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from f2llm.core.machine import cores, hardware, memory_mb, peak_memory_mb, reset_peak_memory


def test_the_machine_in_one_line() -> None:
    assert f"{cores()} cores" in hardware()
    assert "\n" not in hardware()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the memory of a process")
def test_the_peak_is_of_what_was_held_and_begins_afresh() -> None:
    before, held = memory_mb(), np.ones(2**23)
    assert before is not None
    assert held.sum() == 2**23
    del held
    high = peak_memory_mb()
    assert high is not None
    assert high >= before + 60
    reset_peak_memory()
    again = peak_memory_mb()
    assert again is not None
    assert again < high - 30
