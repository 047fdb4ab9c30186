"""`f2llm embed` killed while it reads and while it encodes, and run again, writes the bytes of an uninterrupted run."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.faults.builds import finish, kill_when

ROWS = 20_000


def embed(table: Path, target: Path, model: Path, options: Sequence[str] = ()) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "f2llm", "embed", str(table), "--out", str(target), "-m", str(model)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*command, "--keep", "id", "--precision", "int8", *options],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--processes", "2")], ids=["one process", "two processes"])
def test_a_killed_run_loses_and_doubles_nothing(options: Sequence[str], model_directory: Path, tmp_path: Path) -> None:
    table, whole, cut = (tmp_path / name for name in ("in.csv", "whole.parquet", "cut.parquet"))
    table.write_text("id,text\n" + "".join(f"{number},word {number % 977} {number}\n" for number in range(ROWS)))
    finish(embed(table, whole, model_directory, options))
    parts = tmp_path / ".cut.parquet.parts"
    for sign in ("rows/000001.parquet", "markers/000000.json", "markers/000002.json"):
        kill_when(embed(table, cut, model_directory, options), (parts / sign).exists)
        assert not cut.exists()
    before = {path.name: path.stat().st_mtime_ns for path in (parts / "markers").glob("[!.]*")}
    assert before
    finish(embed(table, cut, model_directory, options))
    assert cut.read_bytes() == whole.read_bytes()
    assert pq.read_table(cut, columns=["id"])["id"].to_pylist() == [str(number) for number in range(ROWS)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut.parquet", "in.csv", "whole.parquet"]
