"""One build of the tiny recipe, shared by the tests that look at its artifacts."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

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
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The tiny recipe, built once; read only."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        result = build(TINY)
    return Built(home, home / result.out, result)
