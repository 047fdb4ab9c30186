"""A training run that is killed with SIGKILL, wherever, and started again ends with the bits of one left alone."""

from __future__ import annotations

import dataclasses
import random
import signal
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest

from f2llm.data.store import TokenStore
from f2llm.train.settings import Upkeep
from tests.faults.training import SETTINGS, UPKEEP, entries, start

KILLS, PAUSE = 20, 0.005


def finish(process: ForkServerProcess) -> None:
    process.join(120)
    assert process.exitcode == 0


def files(directory: Path) -> dict[str, bytes]:
    """All that a run leaves besides its log; nothing half, nothing temporary."""
    found = {
        path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }
    return {name: content for name, content in found.items() if name != "metrics.jsonl"}


def assert_same(cut: Path, whole: Path) -> None:
    assert entries(cut) == entries(whole)
    assert files(cut) == files(whole)
    assert cut.with_suffix(".safetensors").read_bytes() == whole.with_suffix(".safetensors").read_bytes()


class Victim:
    """A running training process and what it has done since it was started."""

    def __init__(self, store: Path, directory: Path) -> None:
        self.directory, self.started = directory, time.time_ns()
        self.process = start(store, directory, SETTINGS, UPKEEP, PAUSE)

    def kill(self) -> None:
        assert self.process.is_alive(), "it ended before the moment came"
        self.process.kill()
        self.process.join()
        assert self.process.exitcode == -signal.SIGKILL

    def wait(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not condition():
            assert self.process.is_alive(), "it ended before the moment came"
            assert time.monotonic() < deadline
            time.sleep(0.0002)

    def wait_for_step(self, step: int) -> None:
        log = self.directory / "metrics.jsonl"
        self.wait(lambda: self._is_new(log) and sum(b'"kind"' not in line for line in log.open("rb")) > step)

    def wait_for_save(self) -> None:
        checkpoints = self.directory / "checkpoints"
        self.wait(lambda: any(self._is_new(path) for path in checkpoints.glob(".step-*.partial")))

    def _is_new(self, path: Path) -> bool:
        try:
            return path.stat().st_mtime_ns > self.started
        except FileNotFoundError:
            return False


@pytest.mark.slow
def test_killed_twenty_times(tmp_path: Path, store: TokenStore) -> None:
    """In turn: at any moment after the start, after a step, and in a save."""
    generator, whole, cut = random.Random(0), tmp_path / "whole", tmp_path / "cut"
    finish(start(store.directory, whole, SETTINGS, UPKEEP))
    halves = 0
    for number, step in enumerate(sorted(generator.sample(range(SETTINGS.steps - 4), KILLS))):
        victim = Victim(store.directory, cut)
        if number % 4:
            victim.wait_for_step(step)
        if number % 2:
            victim.wait_for_save()
        if number % 4 < 3:
            time.sleep(generator.uniform(0, 0.1 if number % 4 == 0 else 0.02))
        victim.kill()
        halves += any(cut.glob("checkpoints/.step-*.partial"))
    assert halves >= KILLS // 4, "kills in a save"
    finish(start(store.directory, cut, SETTINGS, UPKEEP))
    assert [entry["step"] for entry in entries(cut) if "kind" not in entry] == list(range(SETTINGS.steps))
    assert [entry["step"] for entry in entries(cut) if entry.get("kind") == "evaluation"] == list(range(4, 61, 4))
    assert_same(cut, whole)


@pytest.mark.slow
def test_killed_at_each_operation_on_files(tmp_path: Path, store: TokenStore) -> None:
    settings = dataclasses.replace(SETTINGS, steps=2)
    upkeep = Upkeep(checkpoint_every=1, keep_last=1, milestones=1, validate_every=1, evaluate_every=1)
    whole = tmp_path / "whole"
    finish(start(store.directory, whole, settings, upkeep))
    for number in range(int(whole.with_suffix(".operations").read_text())):
        cut = tmp_path / f"cut-{number}"
        killed = start(store.directory, cut, settings, upkeep, 0.0, number)
        killed.join(60)
        assert killed.exitcode == -signal.SIGKILL
        finish(start(store.directory, cut, settings, upkeep))
        assert_same(cut, whole)
