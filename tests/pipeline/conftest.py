"""One build of the tiny recipe, shared by the tests that look at its artifacts."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import NamedTuple

import pytest

from f2llm.core.files import read_json, write_json
from f2llm.pipeline.build import build
from f2llm.pipeline.runner import BuildResult

TINY = Path(__file__).parents[1] / "tiny.toml"
EXPORTS = ("tiny-base-preview", "tiny-base", "tiny-small-pruned", "tiny-small", "tiny-plain")


class Built(NamedTuple):
    """`home` is the working directory of the build, `out` the directory of its artifacts."""

    home: Path
    out: Path
    result: BuildResult


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Built:
    """The tiny recipe, built once, whichever worker needs it first; read only."""
    base = tmp_path_factory.getbasetemp()
    home = (base if worker_id == "master" else base.parent) / "tiny-build"  # workers of a run share the parent
    home.mkdir(exist_ok=True)
    with (home / "lock").open("w") as lock, pytest.MonkeyPatch.context() as patch:
        fcntl.flock(lock, fcntl.LOCK_EX)
        patch.chdir(home)
        if not (home / "ran.json").is_file():
            write_json(home / "ran.json", build(TINY).ran)
    result = BuildResult(Path("build/tiny"), read_json(home / "ran.json"))
    return Built(home, home / result.out, result)
