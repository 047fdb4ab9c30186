"""Checkpoints on a full disk, damaged, of another run; which of them stay; and a run that is asked to stop."""

from __future__ import annotations

import dataclasses
import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from f2llm.core.errors import InterruptedRunError, StorageError, TrainingError
from f2llm.core.files import digest_file, read_json, write_json
from f2llm.core.types import Example
from f2llm.data.store import StageSource, TokenStore, build_store
from f2llm.model.sizes import Shape
from f2llm.text.tokenizer import Tokenizer
from f2llm.train import metrics, state, trainer
from f2llm.train.settings import TrainSettings, Upkeep
from f2llm.train.state import latest_checkpoint
from tests.faults import training
from tests.faults.training import SHAPE, entries, fresh

TINY = Path(__file__).parents[1] / "tiny.toml"
SETTINGS = dataclasses.replace(training.SETTINGS, steps=12)
UPKEEP = Upkeep(checkpoint_every=3, keep_last=3)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "matrix_rate", lambda *_: 1e12)


def train(directory: Path, tokens: TokenStore, settings: TrainSettings = SETTINGS, upkeep: Upkeep = UPKEEP) -> None:
    trainer.train(fresh(), tokens, settings, directory, upkeep=upkeep)


@pytest.fixture(scope="module")
def whole(store: TokenStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with checkpoints after 6, 9 and 12 steps; read only."""
    directory = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "matrix_rate", lambda *_: 1e12)
        train(directory, store)
    return directory


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run"))


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in (directory / "checkpoints").iterdir())


def checkpoint(directory: Path, step: int) -> Path:
    return directory / "checkpoints" / f"step-{step:08d}"


def stop_after(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGTERM in the course of the step before."""
    original = trainer._Run.step

    def signalled(self: trainer._Run, number: int) -> dict[str, Any]:
        if number == step - 1:
            signal.raise_signal(signal.SIGTERM)
        return original(self, number)

    monkeypatch.setattr(trainer._Run, "step", signalled)


# A full disk.


def refuse_tensors(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """From the third checkpoint on only half of the optimizer's moments can be written."""
    original = state.save_file

    def save_file(tensors: dict[str, torch.Tensor], path: Path) -> None:
        original(tensors, path)
        if path.name == "optimizer.safetensors" and "step-00000009" in str(path):
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
            raise error

    monkeypatch.setattr(state, "save_file", save_file)


def assert_goes_on(directory: Path, tokens: TokenStore, whole: Path, last: str = "step-00000006") -> None:
    """The checkpoint before is whole, there is no half one, and the run ends as one that was left alone."""
    assert names(directory)[-1] == last
    assert not [name for name in names(directory) if name.startswith(".")]
    newest = latest_checkpoint(directory / "checkpoints")
    assert newest is not None
    assert newest.name == last
    train(directory, tokens)
    assert entries(directory) == entries(whole)
    newest, expected = checkpoint(directory, 12), checkpoint(whole, 12)
    assert (newest / "model.safetensors").read_bytes() == (expected / "model.safetensors").read_bytes()


def assert_one_sentence(message: str) -> None:
    assert "\n" not in message
    assert "free some space" in message
    assert ". " not in message


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), OSError(errno.EDQUOT, "Disk quota exceeded"),
     SafetensorError("I/O error: No space left on device (os error 28)")],
    ids=["full", "quota", "full, told by safetensors"],
)  # fmt: skip
def test_a_disk_that_fills_up_while_tensors_are_written(
    error: Exception, tmp_path: Path, store: TokenStore, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        refuse_tensors(patch, error)
        with pytest.raises(StorageError, match="step-00000009") as told:
            train(tmp_path, store)
    assert_one_sentence(str(told.value))
    assert_goes_on(tmp_path, store, whole)


def test_a_disk_that_fills_up_while_the_manifest_is_written(
    tmp_path: Path, store: TokenStore, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = state.write_json

    def refusing(path: Path, value: Any) -> None:
        if path.name == "manifest.json" and "step-00000009" in str(path):
            raise OSError(errno.ENOSPC, "No space left on device")
        original(path, value)

    with monkeypatch.context() as patch:
        patch.setattr(state, "write_json", refusing)
        with pytest.raises(StorageError, match=r"no space left while writing .*step-00000009") as told:
            train(tmp_path, store)
    assert_one_sentence(str(told.value))
    assert_goes_on(tmp_path, store, whole)


def test_too_little_room_is_told_before_the_first_byte(
    tmp_path: Path, store: TokenStore, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def disk_usage(path: Path) -> shutil._ntuple_diskusage:
        return shutil._ntuple_diskusage(10**9, 10**9, 20_000 if "step-00000009" in str(path) else 10**8)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", disk_usage)
        with pytest.raises(StorageError, match=r"needs 0\.1 MB in .*checkpoints, 0\.0 MB are free") as told:
            train(tmp_path, store)
    assert_one_sentence(str(told.value))
    assert_goes_on(tmp_path, store, whole)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_disk_that_fills_up_while_the_log_is_written(
    tmp_path: Path, store: TokenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = metrics.MetricsLog.__init__

    def full(self: metrics.MetricsLog, path: Path, step: int) -> None:
        original(self, path, step)
        self._handle.close()
        self._handle = open("/dev/full", "a")  # noqa: SIM115

    monkeypatch.setattr(metrics.MetricsLog, "__init__", full)
    with pytest.raises(StorageError, match=r"no space left while writing .*metrics\.jsonl") as told:
        train(tmp_path, store)
    assert_one_sentence(str(told.value))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if os.geteuid() or not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a tmpfs needs root and the right to mount")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_disk_that_is_really_full(
    small_disk: Path, store: TokenStore, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, ballast = small_disk / "run", small_disk / "ballast"
    original = state._check_space

    def filling(aside: Path, replica: Any) -> None:
        original(aside, replica)
        if "step-00000009" in aside.name:
            ballast.write_bytes(bytes(shutil.disk_usage(small_disk).free - 60_000))

    with monkeypatch.context() as patch:
        patch.setattr(state, "_check_space", filling)
        with pytest.raises(StorageError, match=r"(?i)no space left") as told:
            train(directory, store)
    assert_one_sentence(str(told.value))
    ballast.unlink()
    assert_goes_on(directory, store, whole)


# Damaged checkpoints.


def cut_short(path: Path) -> str:
    weights = path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    return "model.safetensors"


def break_header(path: Path) -> str:
    moments = path / "optimizer.safetensors"
    content = moments.read_bytes()
    moments.write_bytes(b"\xff" * 16 + content[16:])
    return "optimizer.safetensors"


def lose(name: str) -> Callable[[Path], str]:
    def act(path: Path) -> str:
        (path / name).unlink()
        return name

    return act


def fill_manifest(content: bytes) -> Callable[[Path], str]:
    def act(path: Path) -> str:
        (path / "manifest.json").write_bytes(content)
        return "manifest.json"

    return act


DAMAGES: dict[str, Callable[[Path], str]] = {
    "tensors cut short": cut_short,
    "broken header, same size": break_header,
    "no tensors": lose("optimizer.safetensors"),
    "no random state": lose("random.safetensors"),
    "no state": lose("state.json"),
    "no manifest": lose("manifest.json"),
    "garbage": fill_manifest(b"\x00\xff garbage"),
    "a manifest of another form": fill_manifest(b"[]"),
    "a manifest without digests": fill_manifest(b'{"files": {}}'),
    "a manifest with a list": fill_manifest(b'{"files": ["state.json"]}'),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_passed_over_and_named(
    damage: str, copy: Path, whole: Path, store: TokenStore, capsys: pytest.CaptureFixture[str]
) -> None:
    name = DAMAGES[damage](checkpoint(copy, 12))
    train(copy, store)
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning:")]
    assert len(warnings) == 1
    assert "step-00000012 is damaged" in warnings[0]
    assert name in warnings[0]
    assert entries(copy) == entries(whole)
    assert latest_checkpoint(copy / "checkpoints") == checkpoint(copy, 12), "it was written anew"


def test_the_names_of_directories_are_told_as_they_are(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = Path(shutil.copytree(whole, tmp_path / "[red]" / "run"))
    cut_short(checkpoint(directory, 12))
    assert latest_checkpoint(directory / "checkpoints") == checkpoint(directory, 9)
    assert "[red]" in capsys.readouterr().err


def test_where_all_are_damaged_training_starts_anew(
    copy: Path, whole: Path, store: TokenStore, capsys: pytest.CaptureFixture[str]
) -> None:
    for step, damage in ((6, cut_short), (9, lose("manifest.json")), (12, break_header)):
        damage(checkpoint(copy, step))
    train(copy, store)
    told = capsys.readouterr().err
    assert [f"step-{step:08d} is damaged" in told for step in (6, 9, 12)] == [True] * 3
    assert "continuing" not in told
    assert entries(copy) == entries(whole)


def test_damaged_checkpoints_do_not_crowd_out_new_ones(
    copy: Path, store: TokenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (9, 12):
        cut_short(checkpoint(copy, step))
    stop_after(8, monkeypatch)
    with pytest.raises(InterruptedRunError):
        train(copy, store, upkeep=Upkeep(checkpoint_every=50, keep_last=1))
    assert latest_checkpoint(copy / "checkpoints") == checkpoint(copy, 8)


def test_a_copy_beside_the_checkpoints_is_none_of_them(copy: Path, store: TokenStore) -> None:
    shutil.copytree(checkpoint(copy, 6), copy / "checkpoints" / "step-00000006-mine")
    shutil.rmtree(checkpoint(copy, 12))
    assert latest_checkpoint(copy / "checkpoints") == checkpoint(copy, 9)
    train(copy, store, upkeep=Upkeep(checkpoint_every=3, keep_last=1, keep_every=6))
    assert names(copy) == ["step-00000006", "step-00000006-mine", "step-00000012"]


# Which checkpoints stay.


@pytest.mark.parametrize(
    ("keep_last", "keep_every", "kept"),
    [(1, None, [12]), (2, None, [10, 12]), (9, None, [2, 4, 6, 8, 10, 12]),
     (1, 6, [6, 12]), (2, 4, [4, 8, 10, 12]), (1, 5, [10, 12]), (1, 1, [2, 4, 6, 8, 10, 12])],
)  # fmt: skip
def test_the_newest_and_every_nth_stay(
    keep_last: int, keep_every: int | None, kept: list[int], tmp_path: Path, store: TokenStore
) -> None:
    train(tmp_path, store, upkeep=Upkeep(checkpoint_every=2, keep_last=keep_last, keep_every=keep_every))
    assert names(tmp_path) == [f"step-{step:08d}" for step in kept]


# Another run.


def refused(directory: Path, tokens: TokenStore, settings: TrainSettings = SETTINGS, shape: Shape = SHAPE) -> str:
    with pytest.raises(TrainingError) as told:
        trainer.train(fresh(shape=shape), tokens, settings, directory, upkeep=UPKEEP)
    message = str(told.value)
    assert message.startswith(f"{checkpoint(directory, 12)} belongs to a run with ")
    assert f"or delete {directory / 'checkpoints'} to start anew" in message
    return message


def with_loss(**fields: Any) -> TrainSettings:
    return dataclasses.replace(SETTINGS, loss=dataclasses.replace(SETTINGS.loss, **fields))


CHANGES = {
    "learning_rate = 0.001, now it is 0.002": dataclasses.replace(SETTINGS, learning_rate=2e-3),
    "loss.temperature = 0.05, now it is 0.1": with_loss(temperature=0.1),
    "loss.temperatures.pairs = None, now it is 0.1": with_loss(temperatures={"pairs": 0.1}),
    "loss.dims = [8, 16], now it is [16]": with_loss(dims=(16,)),
    "seed = 3, now it is 4": dataclasses.replace(SETTINGS, seed=4),
    "steps = 12, now it is 13": dataclasses.replace(SETTINGS, steps=13),
    "betas = [0.9, 0.98], now it is [0.9, 0.99]": dataclasses.replace(SETTINGS, betas=(0.9, 0.99)),
    "micro_batch_tokens = 10000, now it is 500": dataclasses.replace(SETTINGS, micro_batch_tokens=500),
    "precision = 'fp32', now it is 'bf16'": dataclasses.replace(SETTINGS, precision="bf16"),
}


@pytest.mark.parametrize("difference", CHANGES)
def test_other_settings_are_refused(difference: str, whole: Path, store: TokenStore) -> None:
    before = {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()}
    assert f"with {difference}; restore the old value" in refused(whole, store, CHANGES[difference])
    assert before == {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()}


def test_another_shape_is_refused(whole: Path, store: TokenStore) -> None:
    other = dataclasses.replace(SHAPE, mlp=32)
    assert "with shape.mlp = 24, now it is 32;" in refused(whole, store, shape=other)


def test_other_data_are_refused(whole: Path, tmp_path: Path, store: TokenStore, tokenizer: Tokenizer) -> None:
    rows = [
        Example(str(i), "sun", f"moon {i}", ("star", "tree"), "retrieval", "pairs", "eng_Latn", "eng_Latn")
        for i in range(40)
    ]
    build_store(tmp_path, [(StageSource("pairs", "retrieval", "Find it.", False), rows)], tokenizer, negatives=6, instruction_share=0.3, seed=0)  # fmt: skip  # noqa: E501
    other = TokenStore(tmp_path)
    assert f"with data = {store.digest!r}, now it is {other.digest!r};" in refused(whole, other)


def change_run(directory: Path, **fields: Any) -> None:
    """Let all checkpoints be of a run with these fields."""
    for path in (directory / "checkpoints").iterdir():
        saved, manifest = read_json(path / "state.json"), read_json(path / "manifest.json")
        saved["run"] |= fields
        write_json(path / "state.json", saved)
        manifest["files"]["state.json"] = digest_file(path / "state.json")
        write_json(path / "manifest.json", manifest)


def test_another_number_of_processes_is_refused(copy: Path, store: TokenStore) -> None:
    change_run(copy, processes=8)
    assert "with processes = 8, now it is 1;" in refused(copy, store)


def test_the_token_budget_that_memory_gave_stays_when_memory_changes(
    tmp_path: Path, store: TokenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The budget decides how gradients are summed, hence the last bits of the weights."""
    settings = dataclasses.replace(SETTINGS, micro_batch_tokens=None)
    monkeypatch.setattr(trainer, "available_bytes", lambda _: 1_500_000)
    train(tmp_path / "whole", store, settings)
    budget = state.saved_run(checkpoint(tmp_path / "whole", 12))["micro_batch_tokens"]
    assert 0 < budget < 1024, "batches come in parts"
    with monkeypatch.context() as patch:
        stop_after(7, patch)
        with pytest.raises(InterruptedRunError):
            train(tmp_path / "cut", store, settings)
    monkeypatch.setattr(trainer, "available_bytes", lambda _: 10**9)
    train(tmp_path / "cut", store, settings)
    assert state.saved_run(checkpoint(tmp_path / "cut", 12))["micro_batch_tokens"] == budget
    assert entries(tmp_path / "cut") == entries(tmp_path / "whole")


# A run that is asked to stop.


@pytest.mark.slow
def test_sigterm_ends_with_75_and_the_same_command_goes_on(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "f2llm",
        "train",
        str(TINY),
        "--model",
        "tiny-base",
        "--out",
        str(tmp_path / "out"),
    ]
    command += ["--set", "training.stage1.max_steps=200", "--set", "training.checkpoint_every=20"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    first = tmp_path / "out" / ".partial" / "train" / "tiny-base" / "stage1" / "checkpoints" / "step-00000020"
    deadline = time.monotonic() + 120
    while not first.exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75, errors
    assert errors.count("error:") == 1
    step = int(errors.split("stopped after step ")[1].split()[0])
    assert f"error: stopped after step {step} as asked; run the same command to continue" in errors
    newest = latest_checkpoint(first.parent)
    assert newest is not None
    assert newest.name == f"step-{step:08d}"

    again = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0, again.stderr
    assert f"continuing after step {step}" in again.stderr
    log = entries(tmp_path / "out" / "train" / "tiny-base" / "stage1")
    assert [entry["step"] for entry in log if "kind" not in entry] == list(range(200))
