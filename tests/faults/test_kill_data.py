"""`f2llm data tokenize` killed in the middle of each step, with workers, ends in the same bytes; full disks."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import pytest

from f2llm.core.files import read_json
from tests.faults.builds import finish, kill_when, start

OPTIONS = ("--workers", "2", "--set", "clean.near_duplicates=0.8", "--set", "clean.languages=count")
STEPS = ("convert/translation", "clean", "mine/translation", "tokenize/stage1", "tokenize/stage2", "card")


def run(out: Path) -> subprocess.Popen[bytes]:
    return start(["data", "tokenize"], out, OPTIONS)


def kill_in(out: Path, step: str, delay: float) -> None:
    """Kill the command some time after a step began; a step that is over by then was killed between two."""
    signs = (out / ".partial" / step, out / step / "manifest.json")
    kill_when(run(out), lambda: any(sign.exists() for sign in signs), delay)


def outputs(out: Path) -> dict[str, str]:
    return {path.parent.relative_to(out).as_posix(): read_json(path)["output"] for path in out.rglob("manifest.json")}


@pytest.mark.slow
def test_killed_data_steps_end_in_the_same_bytes(tmp_path: Path) -> None:
    finish(run(tmp_path / "whole"))
    delays = random.Random(5)
    for step in STEPS:
        kill_in(tmp_path / "cut", step, delays.random() * 0.4)
    finish(run(tmp_path / "cut"))
    assert outputs(tmp_path / "cut") == outputs(tmp_path / "whole")
    left = [path for path in (tmp_path / "cut").rglob(".*") if path.name not in (".", "..")]
    assert not left, "nothing of the killed runs is left"


@pytest.mark.parametrize("small_disk", ["600k"], indirect=True)
def test_a_full_disk_is_told_in_one_sentence(small_disk: Path) -> None:
    process = run(small_disk / "out")
    _, errors = process.communicate(timeout=120)
    last = errors.decode().strip().splitlines()[-1]
    assert process.returncode == 5, errors.decode()
    assert "Traceback" not in errors.decode()
    assert "space" in last
    assert last.startswith("error:")
