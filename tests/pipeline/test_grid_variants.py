"""The variants of a grid: names and order, the base among them, and every mistake told before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from f2llm.core.errors import ConfigError
from f2llm.pipeline.build import build_grid, load
from f2llm.pipeline.grid_variants import Variant, compared_models, load_variants, variant_steps
from tests.pipeline.conftest import TINY

AXIS = '[grid.vary]\n"training.temperature" = [0.02, 0.05]\n'
NAMED = '[grid.variants."no matryoshka"]\ntraining.matryoshka_min_dim = 0\n'


def write(tmp_path: Path, grid: str) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(f"{TINY.read_text(encoding='utf-8')}\n{grid}", encoding="utf-8")
    return path


def variants(tmp_path: Path, grid: str, *overrides: str) -> list[Variant]:
    return load_variants(*load(write(tmp_path, grid), list(overrides)))


def test_the_base_comes_first(tmp_path: Path) -> None:
    found = variants(tmp_path, NAMED)
    assert [(variant.name, variant.directory) for variant in found] == [
        ("base", "base"), ("no matryoshka", "no-matryoshka")
    ]  # fmt: skip
    assert [variant.recipe.training.matryoshka_min_dim for variant in found] == [8, 0]
    assert found[1].changes == {"training.matryoshka_min_dim": 0}


def test_a_combination_that_equals_the_recipe_is_the_base(tmp_path: Path) -> None:
    assert [variant.name for variant in variants(tmp_path, AXIS)] == ["temperature=0.05", "temperature=0.02"]
    other = variants(tmp_path, AXIS, "training.temperature=0.1")
    assert [variant.name for variant in other] == ["base", "temperature=0.02", "temperature=0.05"]
    assert [variant.recipe.training.temperature for variant in other] == [0.1, 0.02, 0.05]


def test_only_what_the_scores_need_is_run(tmp_path: Path) -> None:
    recipe, file = load(write(tmp_path, NAMED))
    assert compared_models(recipe) == ["tiny-base", "tiny-small"]
    names = [step.name for step in variant_steps(load_variants(recipe, file)[0], ["tiny-plain"])]
    assert names[-2:] == ["train/tiny-plain/stage2", "evaluate/tiny-plain"]
    assert not {"card", "baseline", "report", "teach/tiny-base", "train/tiny-base/stage2"} & set(names)


@pytest.mark.parametrize(
    ("grid", "complaint"),
    [
        ('[grid]\nmodels = ["tiny-smal"]', "grid.models: 'tiny-smal' is no model that is evaluated; models: tiny-base"),
        ("[grid]\nseeds = [3, 3]", "grid.seeds: 3 is there twice"),
        ("[grid]\nseeds = []", "grid.seeds: "),
        ("[grid]\nseed = [3]", "grid.seed: unknown key 'seed'; known keys here: models, seeds, variants, vary"),
        ("[grid.vary]\ntraining.temperature = 0.1", "training.temperature: give the values that it takes as a list"),
        (
            '[grid.variants."a b"]\nprune.depth = "influence"\n[grid.variants."a/b"]\nprune.depth = "norm_change"',
            "the variants 'a b' and 'a/b' would share the directory a-b; rename one",
        ),
        ("[grid.vary]\ntraining.temprature = [0.1]", "grid.vary.training.temprature: unknown key 'temprature'"),
        ("[grid.vary]\nseed = [1, 2]", "grid.vary.seed: no variant may change this; seeds are given as grid.seeds"),
        ("[grid.variants.a]", "grid.variants.a: this variant changes nothing"),
        ('[grid.variants."..."]\nprune.depth = "norm_change"', "give this variant a name with letters or digits"),
        ('[grid.variants.base]\nprune.depth = "norm_change"', "'base' and 'base' would share the directory"),
        ('[grid.variants.a]\nmodels.tiny-small.teacher = "who"', "grid.variants.a.models.tiny-small.teacher: 'who' is"),
        ("[grid.variants.a]\ntraining.matryoshka_min_dim = 64", "is 64, more than the hidden size 32 of tiny-base"),
        ("[grid.variants.a]\nclean.held_out_fraction = 0.0", "no row is held out to evaluate on"),
    ],
)
def test_a_mistake_is_told_with_its_line_before_anything_runs(tmp_path: Path, grid: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build_grid(write(tmp_path, grid), out=tmp_path / "out")
    assert complaint in str(caught.value)
    assert "recipe.toml, line " in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_recipe_without_a_grid_is_told() -> None:
    with pytest.raises(ConfigError, match="has no \\[grid\\]; add one"):
        build_grid(TINY)
