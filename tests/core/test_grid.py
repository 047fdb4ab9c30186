"""What a grid table says: combinations of axes, keys in quotes or as tables, and the line of a wrong one."""

import tomllib
from pathlib import Path

import pytest

from f2llm.core.config import RecipeFile, read_recipe
from f2llm.core.errors import ConfigError
from f2llm.core.grid import Change, changes, combinations
from tests.core.test_config import GOOD, line_of, write

QUOTED = '"training.temperature" = 0.1\n"models.child.stages" = [2]\n'
TABLES = "training.temperature = 0.1\nmodels.child.stages = [2]\n"


def test_quotes_and_tables_mean_the_same() -> None:
    found = [[(c.key, c.value) for c in changes(tomllib.loads(text), ("grid",))] for text in (QUOTED, TABLES)]
    assert found[0] == found[1] == [("training.temperature", 0.1), ("models.child.stages", [2])]


def test_every_combination_has_a_name() -> None:
    axes = [Change("training.temperature", [0.1, 0.2], ("t",)), Change("training.distill", ["mse", "cosine"], ("d",))]
    found = combinations(axes)
    assert list(found) == [
        "temperature=0.1, distill=mse",
        "temperature=0.1, distill=cosine",
        "temperature=0.2, distill=mse",
        "temperature=0.2, distill=cosine",
    ]
    assert [(c.key, c.value) for c in found["temperature=0.2, distill=mse"]] == [
        ("training.temperature", 0.2), ("training.distill", "mse")
    ]  # fmt: skip
    assert combinations([]) == {}
    assert len(combinations([Change("seed", [1, 2, 1], ())])) == 2, "what is there twice is run once"


def test_axes_with_the_same_last_part_are_named_in_full() -> None:
    axes = [Change("training.stage1.max_steps", [1], ()), Change("training.stage2.max_steps", [2], ())]
    assert list(combinations(axes)) == ["training.stage1.max_steps=1, training.stage2.max_steps=2"]


def test_a_varied_recipe_leaves_the_first_as_it_was(tmp_path: Path) -> None:
    file = RecipeFile(write(tmp_path, GOOD), ["training.temperature=0.3"])
    other = file.varied([Change("training.temperature", 0.7, ()), Change("models.child.stage2.max_steps", 9, ())])
    assert read_recipe(other).training.temperature == 0.7
    assert read_recipe(other).model("child").stage2.max_steps == 9
    assert read_recipe(file).training.temperature == 0.3
    assert read_recipe(file).model("child").stage2.max_steps is None


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("training.temprature", 0.1, "unknown key 'temprature'"),
        ("training.temperature", "hot", "valid number"),
        ("models.nobody.size", "half", "there is no entry 'nobody'; entries: large, child"),
        ("name.x", 1, "it has no keys inside"),
        ("models.child.training.temprature", 1, "unknown key 'temprature'"),
    ],
)
def test_a_wrong_change_is_told_with_its_own_line(tmp_path: Path, key: str, value: object, complaint: str) -> None:
    text = f'{GOOD}[grid.variants."a b"]\n"{key}" = {value!r}\n'
    file = RecipeFile(write(tmp_path, text), [])
    with pytest.raises(ConfigError) as caught:
        read_recipe(file.varied([Change(key, value, ("grid", "variants", "a b", key))]))
    line = line_of(text, f'"{key}"')
    assert f"recipe.toml, line {line}: grid.variants.a b.{key}: " in str(caught.value)
    assert complaint in str(caught.value)
