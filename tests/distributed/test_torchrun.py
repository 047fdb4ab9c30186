"""`torchrun` on two processes: the losses and weights of one, killed or not; and what is said is said once."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.faults.training import entries

TINY = Path(__file__).parents[1] / "tiny.toml"
STAGES = ("stage1", "stage2")
MODEL = Path("train") / "tiny-base"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the processes of torchrun in /proc"),
]


def start(out: Path, *options: str, processes: int = 2) -> subprocess.Popen[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torchrun = ["torch.distributed.run", "--nproc-per-node", str(processes), "--master-port", str(port), "-m"]
    command = [sys.executable, "-m", *(torchrun if processes > 1 else []), "f2llm", "train", str(TINY)]
    return subprocess.Popen(
        [*command, "--model", "tiny-base", "--out", str(out), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=out.parent,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    """What it said."""
    try:
        output, _ = process.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        kill(process)
        raise
    assert process.returncode == code, output
    return output


def kill(process: subprocess.Popen[str]) -> None:
    """SIGKILL to all at once."""
    for pid in (process.pid, *workers(process)):
        os.kill(pid, signal.SIGKILL)
    process.communicate(timeout=60)


def workers(agent: subprocess.Popen[str]) -> list[int]:
    """The processes of torchrun, in the order of their ranks; each has a session of its own."""
    found = {}
    for task in Path(f"/proc/{agent.pid}/task").iterdir():
        for pid in (task / "children").read_text().split():
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            found |= {rank: int(pid) for rank in range(8) if f"RANK={rank}".encode() in environment}
    return [found[rank] for rank in sorted(found)]


def wait_for(process: subprocess.Popen[str], out: Path, step: int) -> None:
    """Until the checkpoint of a step of stage 1 is there."""
    path = out / ".partial" / MODEL / "stage1" / "checkpoints" / f"step-{step:08d}"
    deadline = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.001)


def losses(out: Path, stage: str) -> list[float]:
    return [entry["loss"] for entry in entries(out / MODEL / stage) if "kind" not in entry]


def scores(out: Path, stage: str) -> list[float]:
    """What the evaluations in training found."""
    found = [entry for entry in entries(out / MODEL / stage) if entry.get("kind") == "evaluation"]
    return [entry["ndcg@10"] for entry in found]


def weights(out: Path, stage: str) -> dict[str, np.ndarray]:
    return load_file(out / MODEL / stage / "model" / "model.safetensors")


def assert_close(out: Path, expected: Path) -> None:
    """Two stages that differ in the order of sums only; what that comes to grows with the steps."""
    for stage, bound in zip(STAGES, (1e-4, 1e-3), strict=True):
        np.testing.assert_allclose(losses(out, stage), losses(expected, stage), rtol=bound, err_msg=stage)
        np.testing.assert_allclose(scores(out, stage), scores(expected, stage), atol=0.01, err_msg=stage)
        assert scores(out, stage)
        found, wanted = weights(out, stage), weights(expected, stage)
        assert {name: w.shape for name, w in found.items()} == {name: w.shape for name, w in wanted.items()}
        for name, value in wanted.items():
            assert np.linalg.norm(found[name] - value) < 10 * bound * np.linalg.norm(value), (stage, name)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process, finished; read only, as all of these."""
    out = tmp_path_factory.mktemp("one") / "out"
    finish(start(out, processes=1))
    return out


def prepared(one: Path, directory: Path) -> Path:
    """The data of `one`; nothing is trained yet."""
    trained = {"train"}  # of the build; the cleaned rows to train on have a folder of the same name
    return Path(shutil.copytree(one, directory / "out", ignore=lambda at, _: trained if Path(at) == one else ()))


@pytest.fixture(scope="module")
def two(one: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run of two processes, finished, and what it said."""
    out = prepared(one, tmp_path_factory.mktemp("two"))
    return out, finish(start(out))


@pytest.fixture(scope="module")
def half(one: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two processes, all of them killed with SIGKILL in the middle of stage 1."""
    out = prepared(one, tmp_path_factory.mktemp("half"))
    process = start(out)
    wait_for(process, out, 10)
    kill(process)
    assert not (out / MODEL).exists()
    return out


def test_two_processes_train_as_one(one: Path, two: tuple[Path, str]) -> None:
    out, _ = two
    assert (out / MODEL / "stage1" / "checkpoints" / "step-00000040" / "model-00001-of-00002.safetensors").exists()
    assert_close(out, one)


def test_only_one_process_speaks(two: tuple[Path, str]) -> None:
    lines = [line.strip() for line in two[1].splitlines()]
    assert len(lines) == len(set(lines))
    for words in ("train/tiny-base/stage1", "tiny-base, stage 2 needs", "2 stages trained in"):
        assert sum(words in line for line in lines) == 1, words


def test_copies_train_as_shards(one: Path, two: tuple[Path, str], tmp_path: Path) -> None:
    out = prepared(one, tmp_path)
    finish(start(out, "--set", "training.parallel=ddp"))
    assert (out / MODEL / "stage1" / "checkpoints" / "step-00000040" / "model.safetensors").exists()
    assert_close(out, two[0])


def test_killed_and_stopped_processes_end_with_the_same_bits(half: Path, two: tuple[Path, str], tmp_path: Path) -> None:
    """SIGKILL to all, then SIGTERM to one of them: all save, stop, and say so once."""
    whole, out = two[0], Path(shutil.copytree(half, tmp_path / "out"))
    process = start(out)
    wait_for(process, out, 25)
    os.kill(workers(process)[1], signal.SIGTERM)
    said = finish(process, 1)
    assert said.count("continuing after step") == 1
    assert said.count("error: stopped after step") == 1
    step = int(said.split("stopped after step ")[1].split()[0])
    said = finish(start(out))
    assert f"continuing after step {step}\n" in said
    for stage in STAGES:
        assert entries(out / MODEL / stage) == entries(whole / MODEL / stage)
        name = MODEL / stage / "model" / "model.safetensors"
        assert (out / name).read_bytes() == (whole / name).read_bytes()


def test_one_process_cannot_go_on_where_two_stopped(half: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(half, tmp_path / "out"))
    said = finish(start(out, processes=1), 6)
    assert said.count("error:") == 1
    assert "belongs to a run with processes = 2, now it is 1; restore the old value to continue" in said
    assert "Traceback" not in said


def test_an_online_teacher_on_two_processes_is_the_stored_one_of_one_process(one: Path, tmp_path: Path) -> None:
    """With hidden states, which only a student cut from its teacher compares."""
    settings = ["sizes.small.layers=2", "models.tiny-small.training.distill_hidden_weight=1.0"]
    options = ["--model", "tiny-small", *(part for key in settings for part in ("--set", key))]
    kept, online = (Path(shutil.copytree(one, tmp_path / name)) for name in ("kept", "online"))
    finish(start(kept, *options, processes=1))
    told = finish(start(online, *options, "--set", "training.teacher_vectors=online"))
    assert (kept / "teach" / "tiny-base").exists()
    assert not (online / "teach").exists(), told
    runs = [entries(out / "train" / "tiny-small" / "stage2") for out in (kept, online)]
    for one_step, other in zip(*runs, strict=True):
        for term in ("loss", "distill", "hidden"):
            assert one_step.get(term, 0.0) == pytest.approx(other.get(term, 0.0), rel=2e-3), one_step["step"]
