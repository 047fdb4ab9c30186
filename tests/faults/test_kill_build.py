"""`f2llm build` killed with SIGKILL in three different steps and started again ends with the same weights."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from f2llm.core.files import digest_file

RECIPE = Path(__file__).parents[1] / "tiny.toml"
MODELS = ("tiny-base-preview", "tiny-base", "tiny-small-pruned", "tiny-small", "tiny-plain")
# A step, and the file in its unfinished artifact whose appearance says that it is in the middle of its work.
MOMENTS = {
    "clean": "fingerprint",
    "train/tiny-base/stage1": "checkpoints/step-00000010/manifest.json",
    "teach/tiny-base": "fingerprint",
    "train/tiny-small/stage2": "checkpoints/step-00000005/manifest.json",
}


def start(out: Path) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "f2llm", "build", str(RECIPE), "--out", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=out.parent, env=environment)


def finish(out: Path) -> None:
    process = start(out)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors.decode()


def kill_in(out: Path, step: str, sign: str) -> None:
    process = start(out)
    deadline = time.monotonic() + 120
    while not (out / ".partial" / step / sign).exists():
        assert process.poll() is None, f"the build ended before {step}"
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (out / step / "manifest.json").exists()


def weights(out: Path) -> dict[str, str]:
    return {name: digest_file(out / "export" / name / "model" / "model.safetensors") for name in MODELS}


@pytest.mark.slow
def test_killed_builds_end_with_the_same_weights(tmp_path: Path) -> None:
    finish(tmp_path / "whole")
    for step, sign in MOMENTS.items():
        kill_in(tmp_path / "cut", step, sign)
    finish(tmp_path / "cut")
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")
