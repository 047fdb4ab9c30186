"""A grid from end to end: what is shared, skipped and continued, what a failed run leaves, and the command line."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from f2llm.core.config import Recipe
from f2llm.core.errors import ConfigError, InterruptedRunError, TrainingError
from f2llm.core.files import read_json, write_json
from f2llm.pipeline import grid as module
from f2llm.pipeline import grid_table
from f2llm.pipeline.build import build_grid
from f2llm.pipeline.grid import Grid
from f2llm.pipeline.grid_table import print_grid
from f2llm.pipeline.grid_variants import Variant
from f2llm.pipeline.runner import Step, Workplace
from tests.pipeline.conftest import Built
from tests.pipeline.test_grid_variants import write
from tests.test_cli import run

GRID = """
[grid]
seeds = [3, 4, 5]
models = ["tiny-plain"]
[grid.variants.cold]
training.temperature = 0.01
[grid.variants.long]
training.stage2.max_steps = 30
"""
BROKEN = "\n[grid.variants.broken]\ntraining.temperature = 9.0\n"


def data(place: Workplace) -> None:
    write_json(place.directory / "rows.json", place.seed)


def train(place: Workplace, recipe: Recipe) -> None:
    """Stands for a training: its weights are the temperature; some cannot be trained with, one was asked to stop."""
    if recipe.training.temperature == 9.0 and place.seed == 4:
        raise TrainingError("loss nan")
    if recipe.training.temperature == 7.0 and place.seed == 4 and not (place.out / "second").exists():
        (place.out / "second").touch()
        raise InterruptedRunError("stopped")
    write_json(place.directory / "weights.json", recipe.training.temperature)


def score(place: Workplace, recipe: Recipe) -> None:
    macro = read_json(place.artifact("train") / "weights.json") + place.seed / 100
    task = {"score": macro / 2}
    scores = {"macro": macro, "tasks": {"kind": task}, "by_dim": {"8": macro / 4, "16": macro}}
    write_json(place.directory / "scores.json", scores)


def fake_steps(variant: Variant, models: Sequence[str]) -> list[Step]:
    """Data, training and scores in no time; only the temperature matters to them."""
    recipe = variant.recipe
    trained = partial(train, recipe=recipe)
    steps = [Step("data", data, {}), Step("train", trained, {"t": recipe.training.temperature}, ["data"])]
    return [*steps, *(Step(f"evaluate/{model}", partial(score, recipe=recipe), {}, ["train"]) for model in models)]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps that take no time, and no picture: test_grid_chart.py has those."""
    monkeypatch.setattr(module, "variant_steps", fake_steps)
    monkeypatch.setattr(grid_table, "grid_png", lambda panels: b"picture")


def printed(grid: Grid) -> str:
    written = io.StringIO()
    print_grid(Console(file=written, width=80), grid)
    return written.getvalue()


@pytest.mark.usefixtures("quick")
def test_shared_steps_are_computed_once_and_finished_ones_skipped(tmp_path: Path) -> None:
    path, out = write(tmp_path, GRID), tmp_path / "out"
    first = build_grid(path, out=out)
    assert sorted(first.steps.ran) == 3 * ["data"] + 6 * ["evaluate/tiny-plain"] + 6 * ["train"]
    assert sorted(first.steps.shared) == 6 * ["data"] + 3 * ["evaluate/tiny-plain"] + 3 * ["train"]
    places = [out / "grid" / name / "seed-4" / "train" / "weights.json" for name in ("base", "long")]
    assert os.path.samefile(*places)
    before = {file: file.read_bytes() for file in (out / "grid").glob("grid.*")}
    assert {file.name for file in before} == {"grid.json", "grid.csv", "grid.md", "grid.png"}
    again = build_grid(path, out=out)
    assert (again.steps.ran, again.steps.shared, len(again.steps.skipped)) == ([], [], 27)
    assert before == {file: file.read_bytes() for file in (out / "grid").glob("grid.*")}
    assert "0 steps ran, 0 were shared, 27 were up to date" in " ".join(printed(again).split())


@pytest.mark.usefixtures("quick")
def test_the_same_grid_elsewhere_gives_the_same_numbers(tmp_path: Path) -> None:
    path = write(tmp_path, GRID)
    for name in ("one", "two"):
        build_grid(path, out=tmp_path / name)
    texts = [(tmp_path / name / "grid" / "grid.json").read_text() for name in ("one", "two")]
    assert texts[0] == texts[1]


@pytest.mark.usefixtures("quick")
def test_mean_spread_and_difference(tmp_path: Path) -> None:
    grid = build_grid(write(tmp_path, GRID), out=tmp_path)
    found = read_json(tmp_path / "grid" / "grid.json")
    assert (found["base"], found["seeds"], found["models"]) == ("base", [3, 4, 5], ["tiny-plain"])
    base, cold, long = ({own["score"]: own for own in variant["scores"]} for variant in found["variants"])
    assert list(base) == ["macro", "kind", "macro at 8 dims"]
    assert base["macro"]["by_seed"] == pytest.approx({"3": 0.08, "4": 0.09, "5": 0.10})
    assert base["macro"]["mean"] == pytest.approx(0.09)
    assert base["macro"]["sd"] == pytest.approx(0.01)
    assert base["macro"]["difference"] is None
    assert cold["macro"]["difference"] == pytest.approx({"mean": -0.04, "low": -0.04, "high": -0.04, "pairs": 3})
    assert cold["kind"]["difference"]["mean"] == pytest.approx(-0.02)
    assert long["macro"]["difference"]["mean"] == 0
    assert found["variants"][1]["changes"] == {"training.temperature": 0.01}
    rows = list(csv.DictReader((tmp_path / "grid" / "grid.csv").read_text().splitlines()))
    assert [row["score"] for row in rows] == 3 * ["macro", "kind", "macro at 8 dims"]
    assert [float(rows[0][f"seed {seed}"]) for seed in (3, 4, 5)] == pytest.approx([0.08, 0.09, 0.10])
    lines = [line for line in printed(grid).splitlines() if " tiny-plain " in line]
    assert lines[0].split() == ["base", "tiny-plain", "3", "0.090", "±", "0.010", "-", "-"]
    assert lines[1].split()[:7] == ["cold", "tiny-plain", "3", "0.050", "±", "0.010", "-0.040"]
    assert "- cold: `training.temperature = 0.01`" in (tmp_path / "grid" / "grid.md").read_text()


@pytest.mark.usefixtures("quick")
def test_a_failed_run_does_not_stop_the_others(tmp_path: Path) -> None:
    grid = build_grid(write(tmp_path, GRID + BROKEN), out=tmp_path)
    assert [(run.variant, run.seed, run.failed) for run in grid.failed] == [("broken", 4, "loss nan")]
    broken = read_json(tmp_path / "grid" / "grid.json")["variants"][3]
    assert broken["failed"] == {"4": "loss nan"}
    assert list(broken["scores"][0]["by_seed"]) == ["3", "5"]
    assert broken["scores"][0]["difference"]["pairs"] == 2
    assert len(grid.of("broken")) == 3
    text = " ".join(printed(grid).split())
    assert "broken tiny-plain 2 of 3" in text
    assert "failed: broken, seed 4: loss nan" in text
    assert "failed: broken, seed 4: loss nan" in (tmp_path / "grid" / "grid.md").read_text()


@pytest.mark.usefixtures("quick")
def test_one_seed_has_no_spread_and_no_interval(tmp_path: Path) -> None:
    grid = build_grid(write(tmp_path, GRID), out=tmp_path, overrides=["grid.seeds=[3]"])
    lines = [line.split() for line in printed(grid).splitlines() if " tiny-plain " in line]
    assert lines[1] == ["cold", "tiny-plain", "1", "0.040", "±", "-", "-0.040", "-"]


@pytest.mark.usefixtures("quick")
def test_a_stopped_grid_continues(tmp_path: Path) -> None:
    path, out = write(tmp_path, GRID.replace("0.01", "7.0")), tmp_path / "out"
    with pytest.raises(InterruptedRunError):
        build_grid(path, out=out)
    grid = build_grid(path, out=out)
    assert not grid.failed
    assert sorted(grid.steps.ran) == ["data"] + 3 * ["evaluate/tiny-plain"] + 3 * ["train"]


def test_a_real_grid_takes_what_the_recipe_has_built(built: Built, tmp_path: Path) -> None:
    """The base is the build itself; the variant trains three steps and is scored. By the command line, with JSON."""
    out, home = tmp_path / "out", tmp_path / "home"
    shutil.copytree(built.out, out)
    home.mkdir()
    text = '[grid]\nmodels = ["tiny-plain"]\n[grid.variants.short]\n"models.tiny-plain.stage2.max_steps" = 3\n'
    path = write(tmp_path, text)
    done = run("build", path, "--out", out, "--json", cwd=home)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found == read_json(out / "grid" / "grid.json")
    assert "[1/12]" not in done.stderr, "nothing of the base is computed"
    scores = read_json(built.out / "evaluate" / "tiny-plain" / "scores.json")
    macro = [variant["scores"][0]["mean"] for variant in found["variants"]]
    assert macro[0] == scores["macro"] != macro[1]
    short = out / "grid" / "short" / "seed-3" / "train" / "tiny-plain" / "stage2"
    assert read_json(short / "manifest.json")["step"] == "train/tiny-plain/stage2"
    assert not (home / "build").exists(), "a grid makes no default model"


@pytest.mark.usefixtures("quick")
def test_a_failed_run_is_told_by_the_exit_code(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from f2llm.cli import app

    arguments: list[Any] = ["build", write(tmp_path, GRID + BROKEN), "--out", tmp_path, "--json"]
    done = CliRunner().invoke(app, [*map(str, arguments)])
    assert json.loads(done.stdout)["variants"][3]["failed"] == {"4": "loss nan"}
    assert isinstance(done.exception, TrainingError)
    assert "1 of 12 runs of the grid failed; see" in str(done.exception)
    refused = CliRunner().invoke(app, [*map(str, arguments[:4]), "--until", "clean"])
    assert isinstance(refused.exception, ConfigError)
    assert "add --no-grid to build the recipe itself as far as that" in str(refused.exception)
