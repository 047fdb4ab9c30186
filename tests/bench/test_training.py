"""The benchmark measures the trainer's own step on a stated workload."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from f2llm.bench import training
from f2llm.bench.training import Setup, TrainingStep, bench_train
from f2llm.bench.workload import GENERATED, MAX_TOKENS, NEGATIVES, SOURCES, data_folder, make_workload
from f2llm.cli import app
from f2llm.core.errors import ConfigError
from f2llm.model.decoder import Decoder
from f2llm.model.sizes import Shape

SMALL = Shape(16, 2, 24, 4, 2, 8, 500)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A family of one small size, and no real files in sight."""
    monkeypatch.setattr(training, "FAMILY", {"small": SMALL})
    monkeypatch.delenv("F2LLM_DATA", raising=False)
    monkeypatch.chdir(tmp_path)


def test_generated_texts_have_the_stated_lengths(tmp_path: Path) -> None:
    workload = make_workload(None, 200, tmp_path, 500)
    table = workload.tables[GENERATED]
    assert table.shape == (200, 2 + NEGATIVES)
    documents = [len(workload.store.text(int(i))) for i in table[:, 1:].flat]
    assert 80 < np.median(documents) < 100
    assert max(documents) <= MAX_TOKENS
    starts = {tuple(workload.store.text(int(i))[:18]) for i in table[:, 0]}
    assert len(starts) == 1, "all queries carry the instruction"


@pytest.mark.data
def test_real_texts_come_from_every_source(tmp_path: Path, shared_data: Path) -> None:
    workload = make_workload(shared_data, 3, tmp_path, 151_936)
    assert list(workload.tables) == [source.id for source in SOURCES]
    for table in workload.tables.values():
        assert table.shape == (3, 2 + NEGATIVES)
        assert all(row[1] not in row[2:] for row in table), "the positive is none of the negatives"


def test_a_step_leaves_the_weights_and_gives_the_same_loss(small: None, tmp_path: Path) -> None:
    decoder = Decoder(SMALL)
    decoder.init_weights(0)
    before = [p.detach().clone() for p in decoder.parameters()]
    step = TrainingStep(decoder, make_workload(None, 4, tmp_path, 500), Setup("small"))
    first, second = step(GENERATED), step(GENERATED)
    assert first == second
    assert all((a == b).all() for a, b in zip(before, decoder.parameters(), strict=True))


def test_figures_fit_together(small: None) -> None:
    found = bench_train(Setup("small", rows=3, runs=2))
    assert found["workload"] == GENERATED
    assert found["samples_per_s"] == pytest.approx(3 / found["seconds"], rel=0.05)
    assert found["useful_tokens_per_s"] == pytest.approx(found["tokens"] / found["seconds"], rel=0.05)
    assert found["gemm_share"] == pytest.approx(found["useful_gflops"] / found["gemm_gflops"], abs=0.02)
    assert found["peak_memory_mb"] > 0


def test_json_holds_what_is_promised(small: None) -> None:
    result = CliRunner().invoke(app, ["bench", "train", "--shape", "small", "--rows", "2", "--runs", "1", "--json"])
    assert result.exit_code == 0, result.output
    promised = {"samples_per_s", "useful_tokens_per_s", "useful_gflops", "gemm_gflops", "gemm_share", "peak_memory_mb"}
    assert promised <= json.loads(result.stdout).keys()


def test_mistakes_are_told(small: None, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown size"):
        bench_train(Setup("90M"))
    with pytest.raises(ConfigError, match="is no folder"):
        data_folder(tmp_path / "absent")
