"""`f2llm build` killed with SIGKILL in three different steps and started again ends with the same weights."""

import subprocess
from pathlib import Path

import pytest

from f2llm.core.files import digest_file
from tests.faults.builds import finish, kill_when, start

MODELS = ("tiny-base-preview", "tiny-base", "tiny-small-pruned", "tiny-small", "tiny-plain")
# A step, and the file in its unfinished artifact whose appearance says that it is in the middle of its work.
MOMENTS = {
    "clean": "fingerprint",
    "train/tiny-base/stage1": "checkpoints/step-00000010/manifest.json",
    "teach/tiny-base": "fingerprint",
    "train/tiny-small/stage2": "checkpoints/step-00000005/manifest.json",
}


def run(out: Path) -> subprocess.Popen[bytes]:
    return start(["build"], out)


def kill_in(out: Path, step: str, sign: str) -> None:
    kill_when(run(out), (out / ".partial" / step / sign).exists)
    assert not (out / step / "manifest.json").exists()


def weights(out: Path) -> dict[str, str]:
    return {name: digest_file(out / "export" / name / "model" / "model.safetensors") for name in MODELS}


@pytest.mark.slow
def test_killed_builds_end_with_the_same_weights(tmp_path: Path) -> None:
    finish(run(tmp_path / "whole"))
    for step, sign in MOMENTS.items():
        kill_in(tmp_path / "cut", step, sign)
    finish(run(tmp_path / "cut"))
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")
