"""`f2llm` as a process of its own, on the tiny recipe: started, finished, killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

RECIPE = Path(__file__).parents[1] / "tiny.toml"


def start(verbs: Sequence[str], out: Path, options: Sequence[str] = ()) -> subprocess.Popen[bytes]:
    """`f2llm VERBS RECIPE --out OUT OPTIONS`, with one thread."""
    command = [sys.executable, "-m", "f2llm", *verbs, str(RECIPE), "--out", str(out), *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=out.parent, env=environment)


def finish(process: subprocess.Popen[bytes]) -> None:
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors.decode()


def kill_when(process: subprocess.Popen[bytes], ready: Callable[[], bool], delay: float = 0.0) -> None:
    """SIGKILL, some time after `ready` says so."""
    deadline = time.monotonic() + 600  # a busy machine may take minutes to start a process
    while not ready():
        assert process.poll() is None, process.communicate()[1].decode()
        assert time.monotonic() < deadline
        time.sleep(0.001)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.communicate()
