"""recipes/real-smoke.toml on the real files: every step, every converter that it names, every export."""

from __future__ import annotations

from pathlib import Path

import pytest

from f2llm.core.files import read_json
from f2llm.model.doctor import diagnose
from f2llm.pipeline.build import build

RECIPE = Path(__file__).parents[2] / "recipes" / "real-smoke.toml"
SOURCES = ["ntrex", "xquad", "banking77", "wisesight", "mbxp"]
EXPORTS = ["smoke-base-preview", "smoke-base", "smoke-small-pruned", "smoke-small", "smoke-small-not-distilled"]


@pytest.mark.data
@pytest.mark.slow
def test_the_recipe_on_real_files(shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    paths = [
        "tokenizer.path=qwen3-tokenizer/tokenizer.json",
        "sources.ntrex.path=ntrex-128",
        "sources.xquad.path=xquad",
        "sources.banking77.path=banking77/banking_data/train.csv",
        "sources.wisesight.path=wisesight-sentiment",
        "sources.mbxp.path=mbxp",
    ]
    out = build(RECIPE, overrides=[path.replace("=", f"={shared_data}/") for path in paths]).out
    counts = read_json(out / "clean" / "drops.json")
    assert list(counts) == SOURCES
    for source in counts.values():
        assert source["rows"] == source["train"] + source["eval"] + sum(source["dropped"].values())
        assert source["eval"] > 0
    report = read_json(out / "report" / "report.json")
    assert {task["name"] for task in report["tasks"]} == set(SOURCES)
    assert {model["name"] for model in report["models"]} == set(EXPORTS)
    for name in EXPORTS:
        assert all(finding.ok for finding in diagnose(out / "export" / name / "model"))
    by_name = {model["name"]: model["scores"] for model in report["models"]}
    chance = report["baselines"][-1]["scores"]
    assert by_name["smoke-base-preview"]["ntrex"] > 3 * chance["ntrex"], "stage 1 learns to translate a little"
    assert build(RECIPE, overrides=[path.replace("=", f"={shared_data}/") for path in paths]).ran == []
